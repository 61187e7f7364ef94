"""The popularity ranker against plain Python."""

import collections

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.data.interactions import Interactions
from trainers.rankers.popularity import Popularity

IDS = [f"i{n}" for n in range(9)]
SEQUENCES = st.lists(st.lists(st.integers(0, 8), max_size=8), min_size=1, max_size=10)


@settings(max_examples=50, deadline=None)
@given(SEQUENCES, SEQUENCES, st.integers(1, 12), st.booleans())
def test_equals_plain_python(sequences, histories, k, masked):
    """Every list in full: no cut of the popular items, no vectors."""
    training = Interactions.from_sequences([[IDS[i] for i in s] for s in sequences], IDS)
    arrays = [np.array(history, np.int32) for history in histories]
    counts = collections.Counter(item for sequence in sequences for item in sequence)
    order = sorted(range(len(IDS)), key=lambda item: (-counts[item], item))
    expected = []
    for history in histories:
        kept = [item for item in order if not (masked and item in history)][:k]
        expected.append(kept + [-1] * (k - len(kept)))
    assert Popularity(training).rank(arrays, k, arrays if masked else None).tolist() == expected


def test_exclusion_is_wider_than_the_history():
    training = Interactions.from_sequences([["i0", "i1"], ["i0", "i2"], ["i3", "i0"]], IDS)
    history, seen = [np.array([0])], [np.array([1, 0, 0])]
    assert Popularity(training).rank(history, 9, seen).tolist() == [[2, 3, 4, 5, 6, 7, 8, -1, -1]]
