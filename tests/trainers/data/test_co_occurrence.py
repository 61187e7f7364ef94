"""Co-occurrence of items against plain Python computations."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from trainers.data.co_occurrence import CoOccurrenceGraph, co_occurrence_counts
from trainers.data.interactions import Interactions

IDS = ["a", "b", "c", "d", "e", "f"]
SEQUENCES = st.lists(st.lists(st.sampled_from(IDS), max_size=9), min_size=1, max_size=12)
checked = settings(max_examples=50, deadline=None)


def naive_counts(sequences: list[list[str]]) -> np.ndarray:
    counts = np.zeros((len(IDS), len(IDS)), int)
    for sequence in sequences:
        for left, right in zip(sequence, sequence[1:], strict=False):
            if left != right:
                counts[IDS.index(left), IDS.index(right)] += 1
                counts[IDS.index(right), IDS.index(left)] += 1
    return counts


@checked
@given(SEQUENCES)
def test_counts_equal_plain_python(sequences):
    interactions = Interactions.from_sequences(sequences, IDS)
    counts = co_occurrence_counts(interactions.owners, interactions.items, len(IDS))
    np.testing.assert_array_equal(counts.toarray(), naive_counts(sequences))
    assert counts.dtype == np.int32 and counts.has_sorted_indices and counts.nnz == np.count_nonzero(counts.toarray())


def test_an_empty_catalogue_has_no_neighbours():
    nothing = np.zeros(0, np.int32)
    assert co_occurrence_counts(nothing, nothing, 0).shape == (0, 0)
    graph = CoOccurrenceGraph(co_occurrence_counts(nothing, nothing, 3))
    assert graph.sample(np.array([2]), np.random.default_rng(0)).tolist() == [2]
    assert not graph.are_neighbours(np.arange(3), np.arange(3)).any()


@checked
@given(SEQUENCES, st.integers(0, 2**32 - 1))
def test_graph_equals_plain_python(sequences, seed):
    graph = CoOccurrenceGraph.from_interactions(Interactions.from_sequences(sequences, IDS))
    n = len(IDS)
    counted = naive_counts(sequences)
    expected = {row: set(np.flatnonzero(counted[row]).tolist()) for row in range(n)}
    assert graph.degree.tolist() == [len(expected[row]) for row in range(n)]
    for row in range(n):
        assert graph.indices[graph.indptr[row] : graph.indptr[row + 1]].tolist() == sorted(expected[row])
    a, b = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    assert graph.are_neighbours(a, b).tolist() == [[j in expected[i] for j in range(n)] for i in range(n)]
    drawn = graph.sample(np.arange(n), np.random.default_rng(seed))
    assert all(d in expected[row] if expected[row] else d == row for row, d in enumerate(drawn.tolist()))

    rng = np.random.default_rng(seed)
    anchors, candidates = rng.integers(0, n, 4), rng.integers(0, n, 7)
    positives = rng.integers(0, n, 4)  # whether neighbours or not
    excluded = graph.excluded_negatives(anchors, candidates, positives)
    assert excluded.dtype == bool
    assert excluded.tolist() == [
        [c == a or c == p or c in expected[a] for c in candidates.tolist()]
        for a, p in zip(anchors.tolist(), positives.tolist(), strict=True)
    ]


def test_neighbours_in_any_order():
    adjacency = sparse.csr_array(([1, 1, 1, 1], [2, 1, 0, 0], [0, 2, 3, 4]), shape=(3, 3))
    graph = CoOccurrenceGraph(adjacency)
    expected = [[False, True, True], [True, False, False], [True, False, False]]
    assert graph.are_neighbours(np.arange(3)[:, None], np.arange(3)).tolist() == expected


def test_sampling_is_uniform_over_distinct_neighbours_and_seeded():
    # b follows a three times, c and d once: all three are drawn equally often
    graph = CoOccurrenceGraph.from_interactions(Interactions.from_sequences(["ab", "ab", "ab", "ac", "da"], IDS))
    drawn = graph.sample(np.zeros(30_000, int), np.random.default_rng(0))
    counts = np.bincount(drawn, minlength=6)
    assert counts[[0, 4, 5]].sum() == 0
    assert np.abs(counts[1:4] - 10_000).max() < 5 * np.sqrt(30_000 * 2 / 9)  # five standard deviations
    assert np.array_equal(drawn, graph.sample(np.zeros(30_000, int), np.random.default_rng(0)))


def test_users_do_not_touch_each_other():
    graph = CoOccurrenceGraph.from_interactions(Interactions.from_sequences(["ab", "", "c", "dd"], IDS))
    assert graph.degree.tolist() == [1, 1, 0, 0, 0, 0]
    assert graph.sample(np.array([5, 3]), np.random.default_rng(0)).tolist() == [5, 3]


@checked
@given(SEQUENCES, SEQUENCES)
def test_graphs_of_several_domains_are_joined_as_their_interactions(first, second):
    parts = [Interactions.from_sequences(first, IDS), Interactions.from_sequences(second, IDS[::-1])]
    joined = CoOccurrenceGraph.concatenate([CoOccurrenceGraph.from_interactions(part) for part in parts])
    expected = CoOccurrenceGraph.from_interactions(Interactions.concatenate(parts))
    assert (joined.adjacency != expected.adjacency).nnz == 0


@checked
@given(SEQUENCES)
def test_held_out_items_do_not_leak_into_the_neighbours(sequences):
    # every interaction gets an item of its own, so that a leak cannot hide behind a repeated item
    sequences = [[f"{u}-{place}" for place in range(len(s))] for u, s in enumerate(sequences)]
    whole = Interactions.from_sequences(sequences, [item for s in sequences for item in s])
    held_out = set(whole.cases("test").targets.tolist()) | set(whole.cases("validation").targets.tolist())
    neighbours = CoOccurrenceGraph.from_interactions(whole.training_part()).indices
    assert not held_out & set(neighbours.tolist())
