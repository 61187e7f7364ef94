"""Splits against plain Python: partitions that keep the order and that training cannot see through."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.data.splits import (
    MIN_INTERACTIONS,
    PARTS,
    TEST,
    TRAIN,
    VALIDATION,
    SplitError,
    ratio_parts,
    temporal_parts,
    training_positions,
)

checked = settings(max_examples=100, deadline=None)
LENGTHS = st.lists(st.integers(0, 14), min_size=1, max_size=8).map(np.array)
SHARES = st.sampled_from([(0.8, 0.1, 0.1), (0.6, 0.2, 0.2), (0.7, 0.1, 0.2), (0.2, 0.4, 0.4), (0.42, 0.29, 0.29)])


def per_user(values, lengths):
    return [part.tolist() for part in np.split(values, np.cumsum(lengths)[:-1])]


def test_parts_are_stored_as_places():
    assert [PARTS[part] for part in (TRAIN, VALIDATION, TEST)] == ["train", "validation", "test"]


@checked
@given(LENGTHS)
def test_leave_one_out_holds_out_the_last_two_of_each_user(lengths):
    found = per_user(training_positions(lengths), lengths)
    for mask, length in zip(found, lengths.tolist(), strict=True):
        held_out = 2 if length >= MIN_INTERACTIONS else length
        assert mask == [True] * (length - held_out) + [False] * held_out


@checked
@given(LENGTHS, SHARES)
def test_ratio(lengths, ratios):
    found = ratio_parts(lengths, ratios)
    assert found.dtype == np.int8 and len(found) == lengths.sum()
    for parts, length in zip(per_user(found, lengths), lengths.tolist(), strict=True):
        # whole per cents, so that the share is exact
        test, validation = (max(1, length * round(100 * share) // 100) for share in (ratios[2], ratios[1]))
        if length < MIN_INTERACTIONS:
            test = validation = 0
        training = length - test - validation
        assert parts == [TRAIN] * training + [VALIDATION] * validation + [TEST] * test  # in this order: none is lost
        assert training >= 1 or not length
    assert training_positions(lengths, found).tolist() == [part == TRAIN for part in found]


@checked
@given(st.lists(st.integers(-20, 30), min_size=3, max_size=60).map(np.array), SHARES)
def test_temporal(times, ratios):
    ordered = sorted(times.tolist())
    cuts = [ordered[len(times) * share // 100] for share in (round(100 * ratios[0]), round(100 * sum(ratios[:2])))]
    expected = [TRAIN if t < cuts[0] else VALIDATION if t < cuts[1] else TEST for t in times.tolist()]
    if len(set(expected)) < 3:
        with pytest.raises(SplitError, match="Too few different times"):
            temporal_parts(times, ratios)
        return
    found = temporal_parts(times, ratios)
    assert found.dtype == np.int8 and found.tolist() == expected
    # everything that is learnt from is older than everything that is held out, and each part is there
    training = training_positions(np.array([len(times)]), found)
    assert times[training].max() < times[~training].min()
    assert times[found == VALIDATION].max() < times[found == TEST].min()
    # every interaction stays in its part whatever the order of the log
    order = np.random.default_rng(len(times)).permutation(len(times))
    assert temporal_parts(times[order], ratios).tolist() == found[order].tolist()
