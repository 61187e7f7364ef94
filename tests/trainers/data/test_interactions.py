"""Interactions, their parts and their k-core against plain Python computations."""

import gzip
import json
import math
import os
import re
from collections import Counter
from dataclasses import replace
from datetime import time as clock
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.data.interactions import InteractionError, Interactions

IDS = ["a", "b", "c", "d", "e", "f"]
SEQUENCES = st.lists(st.lists(st.sampled_from(IDS), max_size=9), min_size=1, max_size=12)
checked = settings(max_examples=50, deadline=None)


def as_ids(interactions: Interactions) -> list[list[str]]:
    return [[interactions.item_ids[row] for row in interactions.sequence(u)] for u in range(interactions.num_users)]


def write(folder: Path, name: str, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder


def lines(*records: dict) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


@checked
@given(SEQUENCES)
def test_one_interaction_before(sequences):
    interactions = Interactions.from_sequences(sequences, IDS)
    before = interactions.earlier()
    assert as_ids(before) == [each[:-1] for each in sequences if len(each) > 1]
    test, validation = before.cases("test"), interactions.cases("validation")
    judged = [place for place, length in enumerate(interactions.lengths[validation.users]) if length > 3]
    assert test.targets.tolist() == validation.targets[judged].tolist()
    histories = validation.histories()
    assert [each.tolist() for each in test.histories()] == [histories[place].tolist() for place in judged]


def test_a_given_split_has_no_interaction_before():
    given = replace(Interactions.from_sequences([["a", "b"]], IDS), parts=np.zeros(2, np.int8), split="temporal")
    with pytest.raises(InteractionError, match="Only under leave-one-out"):
        given.earlier()


# --- reading


@pytest.mark.parametrize("name", ["sequences.jsonl", "sequences.jsonl.gz", "sequences.parquet"])
def test_reads_sequences(tmp_path, name):
    records = [{"user_id": "u", "items": ["c", "a", "c"], "timestamps": [1, 2, 3]}, {"user_id": "v", "items": []}]
    if name.endswith("parquet"):
        pl.DataFrame(records, schema={"user_id": pl.String, "items": pl.List(pl.String)}).write_parquet(
            tmp_path / name
        )
    else:
        write(tmp_path, name, lines(*records))
    found = Interactions.from_folder(tmp_path, IDS)
    assert found.user_ids == ["u", "v"] and as_ids(found) == [["c", "a", "c"], []]
    assert found.items.dtype == np.int32 and found.offsets.dtype == np.int64
    assert found.num_short == 1


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "jsonl", "jsonl.gz", "parquet"])
def test_events_are_sorted_by_time_and_ties_keep_file_order(tmp_path, suffix):
    frame = pl.DataFrame(
        {
            "user_id": ["v", "u", "u", "u", "v", "u"],
            "item_id": ["a", "b", "c", "d", "e", "f"],
            "timestamp": [9, 10, 10, 2, 10, 10],  # as text, "9" would come after "10"
        }
    )
    name = f"interactions.{suffix}"
    if suffix == "parquet":
        frame.write_parquet(tmp_path / name)
    else:
        write(tmp_path, name, frame.write_csv() if "csv" in suffix else frame.write_ndjson())
    found = Interactions.from_folder(tmp_path, IDS)
    assert found.user_ids == ["v", "u"]  # by first appearance in the file, not in time
    assert as_ids(found) == [["a", "e"], ["d", "b", "c", "f"]]


@checked
@given(
    st.lists(st.tuples(st.sampled_from("uvw"), st.sampled_from(IDS), st.integers(0, 5)), min_size=1, max_size=25),
    st.sampled_from(["as it is", "by user", "by user and time"]),
)
def test_events_in_any_order_equal_plain_python(tmp_path_factory, events, order):
    if order != "as it is":
        first = list(dict.fromkeys(event[0] for event in events))
        events = sorted(events, key=lambda e: (first.index(e[0]), e[2] if order == "by user and time" else 0))
    folder = tmp_path_factory.mktemp("events")
    columns = ["user_id", "item_id", "timestamp"]
    pl.DataFrame(events, schema=columns, orient="row").write_parquet(folder / "interactions.parquet")
    found = Interactions.from_folder(folder, IDS)
    expected: dict[str, list] = {}
    for user, item, time in events:
        expected.setdefault(user, []).append((time, item))
    assert found.user_ids == list(expected)
    assert as_ids(found) == [[item for _, item in sorted(s, key=lambda e: e[0])] for s in expected.values()]


def test_users_keep_file_order_even_if_later_in_time(tmp_path):
    write(tmp_path, "interactions.csv", "user_id,item_id,timestamp\nlate,a,9\nearly,b,1\n")
    assert Interactions.from_folder(tmp_path, IDS).user_ids == ["late", "early"]


@pytest.mark.parametrize(
    "times",
    [
        ("2020-01-10", "2020-01-09"),
        ("2020-01-10 09:30 UTC", "2020-01-10T10:00:00.5+02:00"),
        ("1e3", "999.5"),
        ("1546300800000000001", "1546300800000000000"),
    ],
)
def test_dates_floats_and_large_integers_sort(tmp_path, times):
    write(tmp_path, "interactions.csv", f"user_id,item_id,timestamp\nu,a,{times[0]}\nu,b,{times[1]}\n")
    assert as_ids(Interactions.from_folder(tmp_path, IDS)) == [["b", "a"]]


@pytest.mark.parametrize("kind", [pl.Categorical, pl.Enum(["8", "9", "10"])])
def test_categories_sort_by_time_and_not_by_their_letters(tmp_path, kind):
    events = {"user_id": ["u"] * 3, "item_id": list("abc"), "timestamp": pl.Series(["10", "9", "8"], dtype=kind)}
    ratings = {"rating": pl.Series(["1", "2.5", None], dtype=pl.Categorical)}
    pl.DataFrame(events | ratings).write_parquet(tmp_path / "interactions.parquet")
    found = Interactions.from_folder(tmp_path, IDS)
    assert as_ids(found) == [["c", "b", "a"]]
    np.testing.assert_array_equal(found.ratings, np.array([np.nan, 2.5, 1], np.float32))


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        (
            "timestamp",
            [b"10", b"9"],
            "timestamps must be numbers, dates or ISO dates as text, got values of type Binary",
        ),
        ("timestamp", [True, False], "got values of type Boolean"),
        ("timestamp", [clock(3), clock(2)], "got values of type Time"),
        ("timestamp", [{"$date": "2024-05-01"}, {"$date": "2024-05-02"}], "got values of type Struct"),
        ("rating", [[1], [2]], "ratings must be numbers, got values of type List"),
    ],
)
def test_types_that_are_no_times_and_no_ratings(tmp_path, column, values, words):
    events = {"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": [1, 2]} | {column: values}
    pl.DataFrame(events).write_parquet(tmp_path / "interactions.parquet")
    with pytest.raises(InteractionError, match=re.escape(words)):
        Interactions.from_folder(tmp_path, IDS)


@pytest.mark.parametrize(
    "times", [("01/12/2024", "02/01/2024"), ("2024-01-02", "2.1.2024"), ("24-01-02", "2024-01-01")]
)
def test_dates_whose_order_would_be_a_guess_are_refused(tmp_path, times):
    write(tmp_path, "interactions.csv", f"user_id,item_id,timestamp\nu,a,{times[0]}\nu,b,{times[1]}\n")
    with pytest.raises(InteractionError, match="nor all ISO dates, as .* in rows? [12]"):
        Interactions.from_folder(tmp_path, IDS)


def test_numeric_ids_become_strings_and_leading_zeros_stay(tmp_path):
    write(tmp_path, "interactions.csv", "user_id,item_id,timestamp\n01,007,1\n01,7,2\n")
    found = Interactions.from_folder(tmp_path, ["7", "007"])
    assert found.user_ids == ["01"] and as_ids(found) == [["007", "7"]]


def test_mixed_id_types_late_in_a_file_are_not_lost(tmp_path):
    records = [{"user_id": i, "items": [1, 2]} for i in range(300)] + [{"user_id": "x", "items": ["a", 1]}]
    found = Interactions.from_folder(write(tmp_path, "sequences.jsonl", lines(*records)), ["1", "2", "a"])
    assert found.user_ids[-2:] == ["299", "x"] and as_ids(found)[-2:] == [["1", "2"], ["a", "1"]]


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("sequences.jsonl", lines({"user_id": "u", "items": ["a", "nope"]}), ["'u'", "'nope'", "Add these items"]),
        ("sequences.jsonl", lines({"user_id": "u", "items": ["a", None]}), ["'u'", "None"]),
        ("sequences.jsonl", lines({"user_id": "u", "items": ["a", ""]}), ["'u'", "''"]),
        ("sequences.jsonl", lines(*[{"user_id": "u", "items": ["a"]}] * 2), ["'u'", "merge"]),
        ("sequences.jsonl", lines({"user_id": "u", "items": []}, {"user_id": None, "items": []}), ["row 2"]),
        ("sequences.jsonl", lines({"user_id": "u", "items": None}, {"user_id": "v", "items": []}), ["items", "'u'"]),
        ("sequences.jsonl", lines({"user_id": "u", "items": "a"}), ["list of item ids"]),
        ("sequences.jsonl", lines({"user_id": "u", "items": [{"x": 1}]}), ["list of item ids"]),
        ("sequences.jsonl", lines({"user": "u", "items": ["a"]}), ["'user_id'"]),
        ("sequences.jsonl", lines({"user_id": "u", "items": ["a"]}) + '{"user_id": "v", "it', ["line 2"]),
        ("sequences.jsonl", "", ["is empty"]),
        ("sequences.parquet", "no parquet", ["cannot be read"]),
        ("interactions.csv", "user_id,item_id,timestamp\n", ["no interactions"]),
        ("interactions.csv", "user_id,item_id\nu,a\n", ["'timestamp'"]),
        ("interactions.csv", "user_id,item_id,timestamp\nu,a,1\nu,b,\n", ["empty timestamp in row 2"]),
        ("interactions.csv", "user_id,item_id,timestamp\nu,a,1\nu,b,soon\n", ["ISO"]),
        ("interactions.csv", "user_id,item_id,timestamp\nu,a,1\nu,,2\n", ["empty item_id in row 2"]),
        ("interactions.csv", "user_id,item_id,timestamp\nu,a,1\nw,zz,2\n", ["'w'", "'zz'"]),
    ],
)  # fmt: skip
def test_bad_files_name_the_offender(tmp_path, name, content, words):
    with pytest.raises(InteractionError) as error:
        Interactions.from_folder(write(tmp_path, name, content), IDS)
    assert name in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_truncated_gzip_is_named(tmp_path):
    data = gzip.compress(lines(*[{"user_id": "u", "items": ["a"]}] * 50).encode())
    (tmp_path / "sequences.jsonl.gz").write_bytes(data[:-12])
    with pytest.raises(InteractionError, match="sequences.jsonl.gz cannot be read"):
        Interactions.from_folder(tmp_path, IDS)


def test_no_file_and_two_files(tmp_path):
    with pytest.raises(InteractionError, match="sequences.parquet"):
        Interactions.from_folder(tmp_path, IDS)
    write(tmp_path, "sequences.jsonl", lines({"user_id": "u", "items": ["a"]}))
    write(tmp_path, "interactions.csv", "user_id,item_id,timestamp\nu,a,1\n")
    with pytest.raises(InteractionError, match="sequences.jsonl and interactions.csv"):
        Interactions.from_folder(tmp_path, IDS)


def test_at_most_ten_offenders_are_named():
    with pytest.raises(InteractionError) as error:
        Interactions.from_sequences([[f"x{i:02d}"] for i in range(25)], IDS)
    assert "'x09'" in str(error.value) and "'x10'" not in str(error.value) and "15 more" in str(error.value)


def test_a_catalogue_with_repeated_ids_is_refused():
    with pytest.raises(InteractionError, match="'a' more than once: leave one of each out"):
        Interactions.from_sequences([["a"]], ["a", "b", "a"])


def test_user_ids_must_fit():
    with pytest.raises(InteractionError, match="2 user ids for 1 sequences"):
        Interactions.from_sequences([["a"]], IDS, ["u", "v"])


# --- splits


PART_NAMES = st.sampled_from(["train", "validation", "test"])
EVENTS = st.lists(st.tuples(st.sampled_from("uvw"), st.sampled_from(IDS), st.integers(0, 5), PART_NAMES), max_size=25)


@checked
@given(EVENTS, st.sampled_from(["parquet", "csv", "jsonl"]))
def test_given_split_equals_plain_python(tmp_path_factory, events, suffix):
    events = [("u", "a", 3, "train"), *events]
    folder = tmp_path_factory.mktemp("split")
    frame = pl.DataFrame(events, schema=["user_id", "item_id", "timestamp", "split"], orient="row")
    write_frame = {"parquet": frame.write_parquet, "csv": frame.write_csv, "jsonl": frame.write_ndjson}
    write_frame[suffix](folder / f"interactions.{suffix}")
    whole = Interactions.from_folder(folder, IDS)
    assert whole.split == "given by the data"
    users = list(dict.fromkeys(event[0] for event in events))
    ordered = {u: sorted((e for e in events if e[0] == u), key=lambda e: e[2]) for u in users}  # stable, as the file
    assert whole.user_ids == users and as_ids(whole) == [[e[1] for e in ordered[u]] for u in users]

    training = whole.training_part()
    expected = {u: [e[1] for e in ordered[u] if e[3] == "train"] for u in users}
    assert dict(zip(training.user_ids, as_ids(training), strict=True)) == {u: s for u, s in expected.items() if s}
    for part in ("validation", "test"):
        cases = whole.cases(part)
        found = [
            (users[user], [IDS[row] for row in history], IDS[target])
            for user, history, target in zip(cases.users, cases.histories(), cases.targets, strict=True)
        ]
        targets = [(u, i, e) for u in users for i, e in enumerate(ordered[u]) if e[3] == part]
        assert found == [(u, [e[1] for e in ordered[u][:i]], target[1]) for u, i, target in targets if i]
        assert whole.num_held_out(part) == len(targets)


def test_split_travels_with_the_interactions(tmp_path):
    parts = ("train", "train", "validation", "test")
    rows = [f"{u},{'abab'[time]},{time},{part}" for u in "uv" for time, part in enumerate(parts)]
    write(tmp_path, "interactions.csv", "user_id,item_id,timestamp,split\n" + "\n".join([*rows, "w,c,0,train"]))
    (tmp_path / "prepared.json").write_text(json.dumps({"choices": {"split": "temporal"}}))
    whole = Interactions.from_folder(tmp_path, IDS)
    assert whole.split == "temporal" and len(whole.cases()) == 2
    core = whole.k_core(2)
    joined = Interactions.concatenate([core, whole])
    for part in (core, joined, whole.select_users(np.array([1]))):
        assert part.split == "temporal" and len(part.cases()) == part.user_ids.count("u") + part.user_ids.count("v")
        assert all(len(history) == 3 for history in part.cases().histories())
    assert core.user_ids == ["u", "v"] and core.training_part().items.tolist() == [0, 1, 0, 1]
    assert whole.training_part().split == "leave-one-out" and whole.training_part().parts is None
    with pytest.raises(InteractionError, match="different splits"):
        Interactions.concatenate([whole, Interactions.from_sequences(["abc"], IDS)])


def test_splits_that_cannot_be_used_are_named(tmp_path):
    header = "user_id,item_id,timestamp,split\n"
    write(tmp_path, "interactions.csv", header + "u,a,1,train\nu,b,2,valid\nu,c,3,\n")
    with pytest.raises(InteractionError, match="'valid' in rows '?2'?, '?3'?"):
        Interactions.from_folder(tmp_path, IDS)
    write(tmp_path, "interactions.csv", header + "u,a,1,test\n")
    with pytest.raises(InteractionError, match="no interaction has the split 'train'"):
        Interactions.from_folder(tmp_path, IDS)
    write(tmp_path, "interactions.csv", header + "u,a,1,train\n")
    (tmp_path / "prepared.json").write_text("{")
    with pytest.raises(InteractionError, match="prepared.json is not valid JSON"):
        Interactions.from_folder(tmp_path, IDS)
    (tmp_path / "prepared.json").write_text('{"choices": 3}')
    assert Interactions.from_folder(tmp_path, IDS).split == "given by the data"


def test_sequences_have_no_split(tmp_path):
    record = {"user_id": "u", "items": ["a", "b", "c"], "parts": [0, 0, 0], "split": "x"}
    write(tmp_path, "sequences.jsonl", lines(record))
    found = Interactions.from_folder(tmp_path, IDS)
    assert found.parts is None and found.split == "leave-one-out" and len(found.cases()) == 1


@checked
@given(SEQUENCES)
def test_leave_one_out(sequences):
    whole = Interactions.from_sequences(sequences, IDS)
    long = [(u, s) for u, s in enumerate(sequences) if len(s) >= 3]
    assert whole.num_short == len(sequences) - len(long)
    training = whole.training_part()
    assert as_ids(training) == [s[:-2] for _, s in long]
    assert training.user_ids == [str(u) for u, _ in long]
    for part, cut in (("test", 1), ("validation", 2)):
        cases = whole.cases(part)
        assert cases.users.tolist() == [u for u, _ in long]
        histories = [[IDS[row] for row in history] for history in cases.histories()]
        targets = [IDS[row] for row in cases.targets]
        assert histories == [s[:-cut] for _, s in long]
        assert targets == [s[-cut] for _, s in long]
        # nothing of the target or of what follows is in the history, nothing is lost on the way
        rest = [s[len(h) + 1 :] for h, (_, s) in zip(histories, long, strict=True)]
        assert [h + [t] + r for h, t, r in zip(histories, targets, rest, strict=True)] == [s for _, s in long]


@checked
@given(SEQUENCES)
def test_no_held_out_item_leaks_into_training(sequences):
    # every interaction gets an item of its own, so that a leak cannot hide behind a repeated item
    sequences = [[f"{u}-{place}" for place in range(len(s))] for u, s in enumerate(sequences)]
    ids = [item for s in sequences for item in s]
    whole = Interactions.from_sequences(sequences, ids)
    training = set(whole.training_part().items.tolist())
    held_out = set(whole.cases("test").targets.tolist()) | set(whole.cases("validation").targets.tolist())
    assert len(held_out) == 2 * len(whole.cases()) and not training & held_out


def test_histories_are_cut_to_the_last_items():
    cases = Interactions.from_sequences([list("abcdef"), list("ab"), list("cde")], IDS).cases("test")
    assert [h.tolist() for h in cases.histories(max_history=2)] == [[3, 4], [2, 3]]
    assert [h.tolist() for h in cases.histories(1, 2)] == [[2, 3]]
    with pytest.raises(ValueError, match="'train'"):
        Interactions.from_sequences([list("abc")], IDS).cases("train")


def naive_core(sequences: list[list[str]], k: int) -> dict[int, list[str]]:
    """Removes one offender at a time, users and items in turn, until there is none."""
    left = {u: list(s) for u, s in enumerate(sequences)}
    while True:
        short = next((u for u, s in left.items() if len(s) < k), None)
        if short is not None:
            del left[short]
            continue
        counts = Counter(item for s in left.values() for item in s)
        rare = next((item for item, count in counts.items() if count < k), None)
        if rare is None:
            return left
        left = {u: [item for item in s if item != rare] for u, s in left.items()}


@checked
@given(SEQUENCES, st.integers(1, 4))
def test_k_core_is_the_fixed_point(sequences, k):
    core = Interactions.from_sequences(sequences, IDS).k_core(k)
    expected = naive_core(sequences, k)
    assert core.user_ids == [str(u) for u in expected] and as_ids(core) == list(expected.values())
    again = core.k_core(k)
    assert again.user_ids == core.user_ids and np.array_equal(again.items, core.items)


def test_k_core_needs_more_than_one_pass():
    # removing d leaves user 2 too short, removing user 2 leaves c too rare, which leaves user 1 too short
    sequences = [["a", "b"], ["b", "c"], ["c", "d"], ["a", "b"]]
    core = Interactions.from_sequences(sequences, IDS).k_core(2)
    assert as_ids(core) == [["a", "b"], ["a", "b"]] and core.user_ids == ["0", "3"]


@checked
@given(SEQUENCES, SEQUENCES)
def test_concatenate_offsets_rows(first, second):
    parts = [Interactions.from_sequences(first, IDS), Interactions.from_sequences(second, IDS[::-1])]
    joined = Interactions.concatenate(parts)
    assert as_ids(joined) == first + second
    assert joined.item_ids == IDS + IDS[::-1] and joined.items.dtype == np.int32 and joined.offsets.dtype == np.int64
    assert all((joined.sequence(u) < len(IDS)).all() for u in range(len(first)))
    assert all((joined.sequence(u) >= len(IDS)).all() for u in range(len(first), joined.num_users))


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir(os.environ.get("UTGREC_DATA", "")), reason="UTGREC_DATA names no folder")
def test_k_core_on_real_data():
    from tokenization_items.catalogue import Catalogue

    for folder in sorted(Path(os.environ["UTGREC_DATA"]).glob("*/stats.json")):
        expected = json.loads(folder.read_text())["five_core"]
        core = Interactions.from_folder(folder.parent, Catalogue.from_folder(folder.parent).item_ids).k_core(5)
        found = {"users": core.num_users, "items": int((core.popularity > 0).sum()), "interactions": len(core.items)}
        assert found == {name: expected[name] for name in found}, folder.parent.name


# --- ratings, and training on some of the users


@pytest.mark.parametrize("name", ["interactions.csv", "interactions.jsonl"])
def test_reads_ratings_of_events(tmp_path, name):
    events = [("u", "a", 3, "4.5"), ("v", "b", 1, ""), ("u", "b", 1, "2"), ("u", "c", 2, "")]
    if name.endswith("csv"):
        text = "user_id,item_id,timestamp,rating\n" + "".join(",".join(map(str, event)) + "\n" for event in events)
    else:
        names = ("user_id", "item_id", "timestamp", "rating")
        text = lines(*({**dict(zip(names, e, strict=True)), "rating": float(e[3]) if e[3] else None} for e in events))
    found = Interactions.from_folder(write(tmp_path, name, text), IDS)
    assert as_ids(found) == [["b", "c", "a"], ["b"]] and found.ratings.dtype == np.float32
    np.testing.assert_array_equal(found.ratings, [2, np.nan, 4.5, np.nan])


def test_reads_ratings_of_sequences(tmp_path):
    records = [
        {"user_id": "u", "items": ["c", "a"], "ratings": [5, None]},
        {"user_id": "v", "items": [], "ratings": []},
        {"user_id": "w", "items": ["b"], "ratings": [1.5]},
    ]
    found = Interactions.from_folder(write(tmp_path, "sequences.jsonl", lines(*records)), IDS)
    np.testing.assert_array_equal(found.ratings, [5, np.nan, 1.5])
    both = Interactions.concatenate([found, Interactions.from_sequences([["a"], ["b"]], IDS)])
    np.testing.assert_array_equal(both.ratings, [5, np.nan, 1.5, np.nan, np.nan])
    np.testing.assert_array_equal(found.select_users(np.array([2])).ratings, [1.5])
    assert Interactions.from_sequences([["a"]], IDS).ratings is None


@pytest.mark.parametrize(
    "name, content, message",
    [
        (
            "interactions.csv",
            "user_id,item_id,timestamp,rating\nu,a,1,4\nu,b,2,good\n",
            "'good' in row 2 is no number",
        ),
        ("sequences.jsonl", lines({"user_id": "u", "items": ["a", "b"], "ratings": [1]}), "than of items in row 1"),
        ("sequences.jsonl", lines({"user_id": "u", "items": ["a"], "ratings": ["x"]}), "a list of numbers"),
    ],
)
def test_refuses_ratings(tmp_path, name, content, message):
    with pytest.raises(InteractionError, match=message):
        Interactions.from_folder(write(tmp_path, name, content), IDS)


@checked
@given(SEQUENCES, st.floats(0, 1), st.floats(0, 1), st.integers(0, 5), st.booleans())
def test_training_users_are_a_share_and_nested(sequences, share, larger, seed, given_split):
    interactions = Interactions.from_sequences(sequences, IDS)
    if given_split:
        parts = np.random.default_rng(seed).integers(0, 3, len(interactions.items)).astype(np.int8)
        interactions = replace(interactions, parts=parts, split="mine")
    share, larger = sorted((share, larger))
    few, more = interactions.sample_training_users(share, seed), interactions.sample_training_users(larger, seed)
    every, trained, trained_more = (set(each.training_part().user_ids) for each in (interactions, few, more))
    assert trained <= trained_more <= every and len(trained) == math.ceil(share * len(every))
    assert interactions.sample_training_users(1).training_part().items.tolist() == (
        interactions.training_part().items.tolist()
    )
    # what is learnt from a user is what would have been learnt from it, and what is held out stays
    part, whole = few.training_part(), interactions.training_part()
    assert part.in_training is None
    for row, user in enumerate(part.user_ids):
        assert part.sequence(row).tolist() == whole.sequence(whole.user_ids.index(user)).tolist()
    for name in ("validation", "test"):
        cases, expected = few.cases(name), interactions.cases(name)
        assert (
            cases.targets.tolist() == expected.targets.tolist() and cases.starts.tolist() == expected.starts.tolist()
        )
    assert few.sample_training_users(share, seed).in_training.tolist() == few.in_training.tolist()
    joined = Interactions.concatenate([few, interactions])
    assert len(joined.training_part().user_ids) == len(trained) + len(every)


def test_seeds_draw_other_training_users():
    interactions = Interactions.from_sequences([["a", "b", "c"]] * 40, IDS)
    drawn = [interactions.sample_training_users(0.5, seed).in_training.tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_share_of_training_users_out_of_range():
    with pytest.raises(InteractionError, match="between 0 and 1, got 1.5"):
        Interactions.from_sequences([["a", "b", "c"]], IDS).sample_training_users(1.5)


BOM = "\ufeff"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("sequences.jsonl", BOM + lines({"user_id": "7", "items": ["a", "b"]})),
        ("sequences.jsonl", lines({"user_id": 7.0, "items": ["a", "b"]})),
        ("interactions.csv", BOM + "user_id,item_id,timestamp\n7,a,1\n7,b,2\n"),
        ("interactions.jsonl", BOM + lines(*({"user_id": 7, "item_id": i, "timestamp": 1} for i in "ab"))),
        ("interactions.jsonl", lines(*({"user_id": 7.0, "item_id": i, "timestamp": 1} for i in "ab"))),
    ],
)
def test_byte_order_marks_and_whole_numbers_with_a_decimal_point(tmp_path, name, content):
    found = Interactions.from_folder(write(tmp_path, name, content), IDS)
    assert found.user_ids == ["7"] and as_ids(found) == [["a", "b"]]


def test_floating_point_items_are_the_integers(tmp_path):
    folder = write(
        tmp_path, "sequences.jsonl", lines({"user_id": "u", "items": [3.0, 1]}, {"user_id": 1, "items": []})
    )
    for found in (
        Interactions.from_folder(folder, ["1", "3"]),
        Interactions.from_sequences([np.array([3.0, 1.0]), []], ["1", "3"], ["u", np.int64(1)]),
    ):
        assert found.user_ids == ["u", "1"] and as_ids(found) == [["3", "1"], []]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "sequences.jsonl",
            lines({"user_id": "u", "items": [1]}, {"user_id": "v", "items": [1, 2.5]}),
            "items 2.5 in row 2 is no id",
        ),
        ("sequences.jsonl", lines({"user_id": True, "items": ["a"]}), "user_id True in row 1 is no id"),
        (
            "interactions.jsonl",
            lines({"user_id": 1, "item_id": True, "timestamp": 1}),
            "item_id True in row 1 is no id: make it a string",
        ),
        (
            "interactions.csv",
            "user_id,item_id,timestamp,x\nu,a,1,2\nu,b,1,2,3\n",
            "line 3 has 5 fields, the first line has 4",
        ),
        ("interactions.csv", "user_id,item_id,timestamp,item_id\nu,a,1,b\n", r"the columns .'item_id'. occur twice"),
    ],
)
def test_ids_and_rows_that_are_none_are_named(tmp_path, name, content, message):
    with pytest.raises(InteractionError, match=message):
        Interactions.from_folder(write(tmp_path, name, content), ["1", "a"])
    with pytest.raises(InteractionError, match="sequences: '2.5' of type float is no id"):
        Interactions.from_sequences([[2.5]], ["1"])
