"""The steps of preparation against plain Python, on small logs with every kind of trouble."""

from collections import Counter

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.data.interactions import Interactions
from trainers.data.preparation import PreparationChoices, prepare_log
from trainers.data.readers.base import LOG_SCHEMA, RawData, ReadError, ReadingReport

checked = settings(max_examples=50, deadline=None)
USERS, ITEMS = "uvwxyz", "abcdef"
ROWS = st.lists(
    st.tuples(st.sampled_from(USERS), st.sampled_from(ITEMS), st.integers(1, 9), st.none() | st.integers(1, 5)),
    min_size=1,
    max_size=40,
)


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
    else:  # the items' own order; without a core those without interactions are there too
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


# --- splits


def test_splits_of_a_whole_log():
    rows = [(f"u{user}", f"i{item}", 100 * item + user) for user in range(4) for item in range(10)]
    prepared, _ = prepare(rows, PreparationChoices(k_core=0, split="temporal"))
    assert prepared.counts["split"] == {"test": 4, "train": 32, "validation": 4}
    assert prepared.log.filter(pl.col("split") == "test")["timestamp"].min() == 900
    prepared, _ = prepare(rows, PreparationChoices(k_core=0, split="ratio"), has_time=False)
    assert prepared.log["split"].to_list() == (["train"] * 8 + ["validation", "test"]) * 4
    prepared, _ = prepare(rows)
    assert "split" not in prepared.log.columns
    with pytest.raises(ReadError, match="Too few different times"):
        prepare([("u", item, 1) for item in ITEMS], PreparationChoices(k_core=0, split="temporal"))
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


@checked
@given(rows=ROWS, split=st.sampled_from(["leave-one-out", "ratio", "temporal"]))
def test_the_training_part_is_that_of_the_interactions_read_back(tmp_path_factory, rows, split):
    choices = PreparationChoices(k_core=0, repeats="all", split=split, ratios=(0.6, 0.2, 0.2))
    try:
        prepared, _ = prepare(rows, choices)
    except ReadError:  # too few different times
        assert split == "temporal"
        return
    users, items = prepared.training_part()
    ids = prepared.log.select(
        prepared.user_ids.gather(prepared.log["user"]).alias("user_id"),
        prepared.item_ids.gather(prepared.log["item"]).alias("item_id"),
        pl.exclude("user", "item"),
    )
    folder = tmp_path_factory.mktemp("log")
    ids.write_parquet(folder / "interactions.parquet")
    training = Interactions.from_folder(folder, prepared.item_ids.to_list()).training_part()
    assert items.tolist() == training.items.tolist()
    assert prepared.user_ids.gather(users).to_list() == [training.user_ids[row] for row in training.owners]
