"""The steps of preparation against plain Python, on small logs with every kind of trouble."""

from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.data.interactions import CoOccurrenceGraph, Interactions
from trainers.data.preparation import (
    PreparationChoices,
    co_occurrence_counts,
    k_core,
    prepare_log,
    split_labels,
    training_part,
)
from trainers.data.readers.base import LOG_SCHEMA, RawData, ReadError, ReadingReport

checked = settings(max_examples=50, deadline=None)
USERS, ITEMS = "uvwxyz", "abcdef"
ROWS = st.lists(
    st.tuples(st.sampled_from(USERS), st.sampled_from(ITEMS), st.integers(1, 9), st.none() | st.integers(1, 5)),
    min_size=1,
    max_size=40,
)
PAIRS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=40)


def prepare(rows, choices=None, usable=None, has_time=True):
    report = ReadingReport()
    report.read["interactions"] = len(rows)
    log = pl.DataFrame([(*row, None)[:4] for row in rows], schema=LOG_SCHEMA, orient="row").lazy()
    prepared = prepare_log(RawData(log, None, has_time), choices or PreparationChoices(k_core=0), report, usable)
    assert report.read["interactions"] == prepared.log.height + report.dropped("interactions")
    return prepared, report


def sequences_of(prepared):
    found = {user: [] for user in prepared.user_ids}
    for user, item, time in prepared.log.select("user", "item", "timestamp").iter_rows():
        found[prepared.user_ids[user]].append((prepared.item_ids[item], time))
    return found


def naive(rows, choices, allowed=None):
    """Users' sequences and the reasons of what is dropped, one row at a time."""
    sequences, dropped = {}, Counter()
    for user, *_ in rows:  # users in the order of the source
        sequences.setdefault(user, [])
    for user, item, time, rating in rows:
        if choices.min_rating is not None and rating is None:
            dropped["no rating, and min_rating asks for one"] += 1
        elif choices.min_rating is not None and rating < choices.min_rating:
            dropped[f"rated below {choices.min_rating}"] += 1
        elif allowed is not None and item not in allowed:
            dropped["its item is not among the items"] += 1
        elif allowed is not None and not allowed[item]:
            dropped["its item has neither text nor image"] += 1
        else:
            sequences[user].append((item, time))
    for user, sequence in sequences.items():
        sequence.sort(key=lambda entry: entry[1])  # stable
        kept = []
        for item, time in sequence:
            if (item, time) in kept or (choices.repeats == "first" and item in [other for other, _ in kept]):
                dropped["again"] += 1
            else:
                kept.append((item, time))
        sequences[user] = kept
    while choices.k_core:
        counts = Counter(item for sequence in sequences.values() for item, _ in sequence)
        smaller = {
            user: [entry for entry in sequence if counts[entry[0]] >= choices.k_core]
            for user, sequence in sequences.items()
            if len(sequence) >= choices.k_core
        }
        if smaller == sequences:
            break
        dropped[f"not in the {choices.k_core}-core"] += sum(map(len, sequences.values())) - sum(
            map(len, smaller.values())
        )
        sequences = smaller
    return {user: sequence for user, sequence in sequences.items() if sequence}, dropped


@checked
@given(
    rows=ROWS,
    core=st.integers(0, 3),
    repeats=st.sampled_from(["first", "all"]),
    rating=st.none() | st.integers(2, 4),
    allowed=st.none() | st.dictionaries(st.sampled_from(ITEMS), st.booleans(), min_size=1),
)
def test_the_steps_equal_plain_python(rows, core, repeats, rating, allowed):
    choices = PreparationChoices(k_core=core, repeats=repeats, min_rating=rating)
    usable = None
    if allowed is not None:
        usable = pl.DataFrame({"item_id": list(allowed), "usable": list(allowed.values())})
    expected, dropped = naive(rows, choices, allowed)
    if not expected:
        with pytest.raises(ReadError, match="No interaction is left"):
            prepare(rows, choices, usable)
        return
    prepared, report = prepare(rows, choices, usable)
    assert sequences_of(prepared) == expected and prepared.user_ids.to_list() == list(expected)
    again = sum(report.count("interactions", reason) for reason in AGAIN)
    assert again == dropped.pop("again", 0)
    for reason, count in dropped.items():
        assert report.count("interactions", reason) == count
    if allowed is None:
        appearing = dict.fromkeys(item for _, item, *_ in rows)
        left = {item for sequence in expected.values() for item, _ in sequence}
        assert prepared.item_ids.to_list() == [item for item in appearing if item in left]
    else:  # the items' own order; without a core those that nobody touched are there too
        left = {item for sequence in expected.values() for item, _ in sequence}
        assert prepared.item_ids.to_list() == [i for i in allowed if (i in left if core else allowed[i])]


AGAIN = ("the same user, item and time again", "the same user and item again")


def test_ties_keep_the_order_of_the_source_and_are_counted():
    rows = [("u", "c", 5), ("u", "a", 5), ("v", "a", 1), ("u", "b", 5), ("u", "d", 4)]
    prepared, _ = prepare(rows)
    assert sequences_of(prepared)["u"] == [("d", 4), ("c", 5), ("a", 5), ("b", 5)]
    assert prepared.counts == {"out_of_order": 1, "ties_in_time": 2}


def test_duplicates_are_told_from_repeats():
    rows = [("u", "a", 1), ("u", "a", 1), ("u", "a", 2), ("v", "a", 1), ("u", "a", 2)]
    prepared, report = prepare(rows)
    assert sequences_of(prepared) == {"u": [("a", 1)], "v": [("a", 1)]}
    assert [report.count("interactions", reason) for reason in AGAIN] == [2, 1]
    prepared, report = prepare(rows, PreparationChoices(k_core=0, repeats="all"))
    assert sequences_of(prepared)["u"] == [("a", 1), ("a", 2)]
    assert [report.count("interactions", reason) for reason in AGAIN] == [2, 0]


def test_unknown_and_empty_items_are_named():
    usable = pl.DataFrame({"item_id": ["a", "b"], "usable": [True, False]})
    _, report = prepare([("u", "a", 1), ("u", "b", 2), ("v", "zz", 3)], PreparationChoices(k_core=0), usable)
    dropped = report.to_dict()["dropped"]["interactions"]
    assert dropped["its item is not among the items"] == {"count": 1, "examples": ["user 'v', item 'zz'"]}
    assert dropped["its item has neither text nor image"] == {"count": 1, "examples": ["item 'b'"]}


@checked
@given(PAIRS, st.integers(1, 4))
def test_k_core_is_the_fixed_point_and_that_of_interactions(pairs, k):
    pairs = sorted(pairs, key=lambda pair: pair[0])
    users, items = np.array([u for u, _ in pairs], np.int64), np.array([i for _, i in pairs], np.int64)
    kept, rounds = k_core(users, items, k)
    left = [pairs[place] for place in kept]
    for side in range(2):
        assert all(count >= k for count in Counter(pair[side] for pair in left).values())
    # the largest such part: removing one offender at a time ends there too
    naive_left = list(range(len(pairs)))
    while True:
        counts = [Counter(pairs[place][side] for place in naive_left) for side in range(2)]
        offender = next((p for p in naive_left if min(counts[s][pairs[p][s]] for s in range(2)) < k), None)
        if offender is None:
            break
        naive_left.remove(offender)
    assert kept.tolist() == naive_left and rounds <= len(pairs) + 1
    sequences = [[str(item) for user, item in pairs if user == row] for row in range(6)]
    core = Interactions.from_sequences(sequences, [str(item) for item in range(6)]).k_core(k)
    assert core.items.tolist() == items[kept].tolist()


def test_k_core_that_needs_several_rounds():
    users, items = np.array([0, 0, 1, 1, 2, 2, 3, 3]), np.array([0, 1, 1, 2, 2, 3, 0, 1])
    kept, rounds = k_core(users, items, 2)
    assert kept.tolist() == [0, 1, 6, 7] and rounds == 5  # the last one changes nothing


# --- splits

LENGTHS = st.lists(st.integers(1, 14), min_size=1, max_size=8)
SHARES = st.sampled_from([(0.8, 0.1, 0.1), (0.6, 0.2, 0.2), (0.7, 0.1, 0.2), (0.2, 0.4, 0.4), (0.42, 0.29, 0.29)])


@checked
@given(LENGTHS, SHARES)
def test_ratio_split(lengths, ratios):
    users = pl.Series(np.repeat(np.arange(len(lengths)), lengths))
    labels = split_labels(users, users, "ratio", ratios).to_list()
    expected = []
    for length in lengths:
        # whole per cents, so that the share is exact
        test, validation = (max(1, length * round(100 * share) // 100) for share in (ratios[2], ratios[1]))
        if length < 3:
            test = validation = 0
        expected += ["train"] * (length - test - validation) + ["validation"] * validation + ["test"] * test
        assert length - test - validation >= 1
    assert labels == expected


@checked
@given(st.lists(st.integers(1, 30), min_size=3, max_size=60), SHARES)
def test_temporal_split(times, ratios):
    times = pl.Series(times)
    users = pl.Series(np.zeros(len(times), int))
    ordered = sorted(times)
    cuts = [ordered[len(times) * share // 100] for share in (round(100 * ratios[0]), round(100 * sum(ratios[:2])))]
    expected = ["train" if t < cuts[0] else "validation" if t < cuts[1] else "test" for t in times]
    if len(set(expected)) < 3:
        with pytest.raises(ReadError, match="Too few different times"):
            split_labels(users, times, "temporal", ratios)
        return
    labels = split_labels(users, times, "temporal", ratios).to_list()
    assert labels == expected
    by_part = {part: [t for t, label in zip(times, labels, strict=True) if label == part] for part in set(labels)}
    assert max(by_part["train"]) < min(by_part["validation"]) and max(by_part["validation"]) < min(by_part["test"])


def test_splits_of_a_whole_log():
    rows = [(f"u{user}", f"i{item}", 100 * item + user) for user in range(4) for item in range(10)]
    prepared, _ = prepare(rows, PreparationChoices(k_core=0, split="temporal"))
    assert prepared.counts["split"] == {"test": 4, "train": 32, "validation": 4}
    assert prepared.log.filter(pl.col("split") == "test")["timestamp"].min() == 900
    prepared, _ = prepare(rows, PreparationChoices(k_core=0, split="ratio"), has_time=False)
    assert prepared.log["split"].to_list() == (["train"] * 8 + ["validation", "test"]) * 4
    prepared, _ = prepare(rows)
    assert "split" not in prepared.log.columns
    with pytest.raises(ReadError, match="needs times"):
        prepare(rows, PreparationChoices(split="temporal"), has_time=False)


@pytest.mark.parametrize(
    "wrong, word",
    [
        ({"k_core": -1}, "k_core"),
        ({"repeats": "last"}, "repeats"),
        ({"split": "random"}, "split"),
        ({"ratios": (0.8, 0.2, 0.0)}, "ratios"),
        ({"ratios": (0.8, 0.1)}, "ratios"),
        ({"text_fields": ("name",)}, "text_fields"),
    ],
)
def test_choices_are_checked(wrong, word):
    with pytest.raises(ValueError, match=word):
        PreparationChoices(**wrong)


# --- co-occurrence


@checked
@given(rows=ROWS, split=st.sampled_from(["leave-one-out", "ratio"]))
def test_co_occurrence_counts(rows, split):
    prepared, _ = prepare(rows, PreparationChoices(k_core=0, repeats="all", split=split))
    n = len(prepared.item_ids)
    training = training_part(prepared.log)
    graph = co_occurrence_counts(training, n)
    expected = np.zeros((n, n), int)
    for user in range(len(prepared.user_ids)):
        items = prepared.log.filter(pl.col("user") == user)["item"].to_list()
        if split == "leave-one-out":
            items = items[:-2]
        else:
            held_out = max(1, len(items) // 10) * 2 if len(items) >= 3 else 0
            items = items[: len(items) - held_out]
        for left, right in zip(items, items[1:], strict=False):
            if left != right:
                expected[left, right] += 1
                expected[right, left] += 1
    np.testing.assert_array_equal(graph.toarray(), expected)
    assert graph.dtype == np.int32 and graph.has_sorted_indices
    if split == "leave-one-out":  # the places that are not zero are the neighbours that training uses
        sequences = prepared.log.group_by("user", maintain_order=True).agg(pl.col("item").cast(pl.String))["item"]
        interactions = Interactions.from_sequences(sequences.to_list(), [str(row) for row in range(n)])
        neighbours = CoOccurrenceGraph.from_interactions(interactions.training_part())
        assert np.array_equal(neighbours.indptr, graph.indptr) and np.array_equal(neighbours.indices, graph.indices)
