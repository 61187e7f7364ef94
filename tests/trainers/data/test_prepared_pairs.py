"""Counts of pairs beside a prepared log: those of the log itself, and the memory that is made of them, to the bit."""

import json
from datetime import datetime

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import load_file, save_file

from trainers.data import neighbour_counts
from trainers.data.co_occurrence import whole_counts
from trainers.data.domains import Domain
from trainers.data.interaction_files import InteractionError
from trainers.data.partitioned_folder import prepare_by_partitions
from trainers.data.preparation import PreparationChoices
from trainers.data.prepared_folder import PAIRS, PreparedDataError
from trainers.data.prepared_pairs import PreparedPairs
from trainers.data.readers import TabularReader
from trainers.methods import memory as memory_module
from trainers.methods.log_counts import sample_log
from trainers.methods.memory import build_memory
from trainers.rankers.linear import LinearSettings

HORIZON, START = 4, 1_600_000_000


@pytest.fixture(scope="module", params=["leave-one-out", "ratio"])
def folder(request, tmp_path_factory):
    """A shop prepared by partitions, with users too short to split and items that nobody bought."""
    place = tmp_path_factory.mktemp("shop")
    rng = np.random.default_rng(0)
    users, items = [*rng.integers(0, 60, 400), 99], [*rng.integers(0, 30, 400), 3]
    log = {"user_id": users, "item_id": items, "timestamp": START + np.arange(401)}
    pl.DataFrame(log).write_csv(place / "log.csv")
    items = [{"item_id": str(number), "title": f"item {number}"} for number in range(35)]
    pl.DataFrame(items).write_ndjson(place / "items.jsonl")
    reader = TabularReader(place / "log.csv", place / "items.jsonl")
    choices = PreparationChoices(k_core=0, repeats="all", split=request.param)
    prepare_by_partitions(reader, place / "shop", choices, datetime(2026, 1, 1), pair_horizon=HORIZON, partitions=3)
    return place / "shop"


@pytest.fixture(scope="module")
def interactions(folder):
    return Domain.from_folder(folder).interactions


@pytest.mark.parametrize("block", [1, 50, 2**24])
def test_rows_are_those_of_the_log(folder, interactions, monkeypatch, block):
    monkeypatch.setattr(neighbour_counts, "BLOCK_PAIRS", block)
    training = interactions.training_part()
    expected = whole_counts(training.owners, training.items, training.num_items, HORIZON)
    found = PreparedPairs.find(folder, training.popularity, HORIZON)
    rows = neighbour_counts.joined(found.blocks())
    assert (rows != neighbour_counts.joined(expected.blocks())).nnz == 0 and rows.dtype == np.int64
    assert rows.has_canonical_format and rows.nnz > 100
    assert np.array_equal(found.sums(), expected.sums())
    if block == 50:
        assert 1 < sum(1 for _ in found.blocks()) < training.num_items


@pytest.mark.parametrize("most_pairs", [1, 10**8])
def test_the_memory_is_that_of_a_recount_to_the_bit(folder, interactions, monkeypatch, most_pairs):
    """Whether the pairs are kept to be added to or not; and nothing is counted."""
    monkeypatch.setattr(memory_module, "MOST_PAIRS", most_pairs)
    training, linear = interactions.training_part(), LinearSettings(transitions="counts", horizon=HORIZON)
    expected = build_memory(training, None, linear, row_items=5)
    monkeypatch.setattr(memory_module, "whole_counts", None)
    stored = build_memory(training, None, linear, row_items=5, folder=folder)
    assert stored.facts == expected.facts and (stored.pairs is None) == (most_pairs == 1)
    for mine, theirs in (
        (stored.memory.tensors(), expected.memory.tensors()),
        (stored.pairs or {}, expected.pairs or {}),
    ):
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("rows", [1, 7, 10**6])
def test_a_log_that_is_read_in_parts_is_that_of_the_folder(folder, interactions, rows):
    training, linear = interactions.training_part(), LinearSettings(transitions="counts", horizon=HORIZON)
    sample, counts = sample_log(folder, interactions.item_ids, 10**6, rows=rows)
    for name, value in vars(interactions).items():
        found = getattr(sample, name)
        assert np.array_equal(found, value) if isinstance(value, np.ndarray) else found == value
    some, same = sample_log(folder, interactions.item_ids, 20, seed=1, rows=rows)
    fewer, _ = sample_log(folder, interactions.item_ids, 10, seed=1, rows=rows)
    assert some.num_users == 20 and set(fewer.user_ids) < set(some.user_ids) < set(sample.user_ids)
    rows_of = {user: row for row, user in enumerate(interactions.user_ids)}
    expected = interactions.select_users(np.array([rows_of[user] for user in some.user_ids]))
    assert some.items.tolist() == expected.items.tolist() and some.user_ids == expected.user_ids
    for found in (counts, same):
        stored, whole = build_memory(found, None, linear, folder=folder), build_memory(training, None, linear)
        assert stored.facts == whole.facts
        tensors = whole.memory.tensors()
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in stored.memory.tensors().items())
    with pytest.raises(ValueError, match="utgrec prepare --pair_horizon 9"):
        build_memory(counts, None, LinearSettings(transitions="counts", horizon=9), folder=folder)
    with pytest.raises(InteractionError, match="the catalogue lacks"):
        sample_log(folder, interactions.item_ids[1:], 5)


def test_counts_of_something_else_are_not_taken(folder, interactions, tmp_path):
    training = interactions.training_part()
    assert PreparedPairs.find(folder, training.popularity, HORIZON) is not None
    assert PreparedPairs.find(folder, training.popularity, HORIZON + 1) is None
    assert PreparedPairs.find(folder, interactions.popularity, HORIZON) is None  # more than the training part
    assert (
        PreparedPairs.find(folder, interactions.sample_training_users(0.5).training_part().popularity, HORIZON) is None
    )
    assert (
        PreparedPairs.find(folder, Domain.from_folder(folder, 2).interactions.training_part().popularity, HORIZON)
        is None
    )
    assert (
        PreparedPairs.find(tmp_path, training.popularity, HORIZON) is None
        and PreparedPairs.find(None, training.popularity, 4) is None
    )


def test_damaged_counts_are_named(folder, tmp_path):
    def written(**changes):
        arrays = load_file(folder / PAIRS) | changes
        save_file({name: array for name, array in arrays.items() if array is not None}, tmp_path / PAIRS)
        return tmp_path

    record = tmp_path / "prepared.json"
    record.write_text(json.dumps({"choices": {}}))
    with pytest.raises(PreparedDataError, match="pair_counts.safetensors holds no counts.*pair_horizon.*anew"):
        PreparedPairs(written())
    record.write_text(json.dumps({"choices": {"pair_horizon": HORIZON}}))
    arrays, items = load_file(folder / PAIRS), 35
    with pytest.raises(PreparedDataError, match="holds no counts"):
        PreparedPairs(written(pair_items=None))
    with pytest.raises(PreparedDataError, match="holds no counts"):
        PreparedPairs(written(pair_items=arrays["pair_items"].astype(np.int64)))
    for name, wrong in (("pair_offsets", arrays["pair_offsets"][:-1]), ("pair_counts", arrays["pair_counts"][1:])):
        with pytest.raises(PreparedDataError, match="no sparse rows"):
            PreparedPairs(written(**{name: wrong}))
    for name, value in (("pair_items", items), ("pair_items", -1), ("pair_counts", 0)):
        wrong = arrays[name].copy()
        wrong[7] = value
        with pytest.raises(PreparedDataError, match="no sparse rows of its items"):
            PreparedPairs(written(**{name: wrong})).sums()
    offsets = arrays["pair_offsets"].copy()
    offsets[3] = offsets[4] + 1
    with pytest.raises(PreparedDataError, match="no sparse rows"):
        PreparedPairs(written(pair_offsets=offsets)).sums()
    path = written() / PAIRS
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(PreparedDataError, match="holds no counts"):
        PreparedPairs(tmp_path)
