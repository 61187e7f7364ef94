"""Counts of neighbours against pairs one by one, however blocks are cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.data import neighbour_counts
from trainers.data.interactions import Interactions
from trainers.data.neighbour_counts import NeighbourCounts

N = 7
IDS = [f"item{row}" for row in range(N)]
SEQUENCES = st.lists(st.lists(st.integers(0, N - 1), min_size=1, max_size=9), min_size=1, max_size=6)


def neighbours(interactions: Interactions, weights: np.ndarray, is_new: np.ndarray | None = None) -> NeighbourCounts:
    return NeighbourCounts(interactions.owners, interactions.items, N, weights, is_new)


def counted(interactions: Interactions, weights: np.ndarray, known: np.ndarray) -> np.ndarray:
    expected = np.zeros((N, N), weights.dtype)
    for user in range(interactions.num_users):
        sequence = interactions.sequence(user)
        for later in range(known[user], len(sequence)):
            for gap in range(1, min(len(weights), later) + 1):
                a, b = sequence[later - gap], sequence[later]
                expected[a, b] += weights[gap - 1]
                expected[b, a] += weights[gap - 1]
    return expected


@given(sequences=SEQUENCES, horizon=st.integers(1, 4), block=st.integers(1, 60), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_counts_are_those_of_pairs_one_by_one(sequences, horizon, block, seed):
    interactions = Interactions.from_sequences([[IDS[row] for row in each] for each in sequences], IDS)
    rng = np.random.default_rng(seed)
    weights = rng.integers(1, 9, horizon)
    known = rng.integers(0, interactions.lengths + 1)
    places = np.concatenate([np.arange(length) for length in interactions.lengths])
    is_new = places >= np.repeat(known, interactions.lengths)
    before, neighbour_counts.BLOCK_PAIRS = neighbour_counts.BLOCK_PAIRS, block
    try:
        blocks = list(neighbours(interactions, weights, is_new).blocks())
    finally:
        neighbour_counts.BLOCK_PAIRS = before
    assert sum(rows.shape[0] for rows in blocks) == N
    found = np.concatenate([rows.toarray() for rows in blocks])
    assert found.dtype == np.int64 and np.array_equal(found, counted(interactions, weights, known))
    for rows in blocks:
        rows.check_format()
        assert rows.has_canonical_format, "columns of a row in order, each once"


def test_sums_are_those_of_the_rows():
    rng = np.random.default_rng(0)
    sequences = [[IDS[row] for row in rng.integers(0, N - 1, rng.integers(1, 12))] for _ in range(20)]
    interactions = Interactions.from_sequences(sequences, IDS)
    weights = 1 / np.arange(1.0, 6)
    none = np.zeros(interactions.num_users, np.int64)
    sums = neighbours(interactions, weights).sums()
    assert sums == pytest.approx(counted(interactions, weights, none).sum(axis=1)) and sums[-1] == 0


def test_an_items_sums_are_the_same_to_the_last_bit_in_any_block(monkeypatch):
    rng = np.random.default_rng(1)
    sequences = [[IDS[row] for row in rng.integers(0, N, 30)] for _ in range(40)]
    interactions = Interactions.from_sequences(sequences, IDS)
    weights = 1 / np.arange(1.0, 11)
    whole = next(neighbours(interactions, weights).blocks()).toarray()
    monkeypatch.setattr(neighbour_counts, "BLOCK_PAIRS", 1)
    blocks = [rows.toarray() for rows in neighbours(interactions, weights).blocks()]
    assert len(blocks) == N and np.array_equal(np.concatenate(blocks), whole)
