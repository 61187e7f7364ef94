"""Co-occurrence of items: how often two follow each other in sequences, and the graph of neighbours."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import sparse

from trainers.data.interactions import Interactions
from trainers.data.neighbour_counts import NeighbourCounts, joined

LONGEST_HORIZON = 20  # lcm(1..20) = 232,792,560; a billion pairs of the same two items are still 63 bits


def co_occurrence_counts(users: np.ndarray, items: np.ndarray, num_items: int) -> sparse.csr_array:
    """
    How often two items follow each other, in either order, in the users' sequences.

    Args:
        users, items (`np.ndarray`): int [N] rows of the *training* interactions, user after user, oldest first.
        num_items (`int`): size of the catalogue.

    Returns:
        `scipy.sparse.csr_array`: int32 [num_items, num_items], symmetric, empty diagonal, sorted indices.
    """
    pairs, counts = neighbour_pairs(users, items, num_items)
    low, high, counts = pairs // max(num_items, 1), pairs % max(num_items, 1), counts.astype(np.int32)
    rows, columns = np.concatenate([low, high]), np.concatenate([high, low])
    graph = sparse.coo_array((np.tile(counts, 2), (rows, columns)), shape=(num_items, num_items)).tocsr()
    graph.sort_indices()
    return graph


def neighbour_pairs(users: np.ndarray, items: np.ndarray, num_items: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Pairs of different items that follow each other, as [`co_occurrence_counts`] takes them: int64 [P] the smaller row
    times `num_items` plus the larger one, each pair once, ascending; and int64 [P] how often.
    """
    items = items.astype(np.int64)
    edge = (users[:-1] == users[1:]) & (items[:-1] != items[1:])
    first, second = items[:-1][edge], items[1:][edge]
    return np.unique(np.minimum(first, second) * num_items + np.maximum(first, second), return_counts=True)


def pairs_at_gap(users: np.ndarray, items: np.ndarray, gap: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Pairs of items of one user with so many places between them.

    Args:
        users, items (`np.ndarray`): int [N], user after user, oldest first.
        gap (`int`): of their places, 1 for items that follow each other.

    Returns:
        bool [N - gap], which places have such a pair, and the earlier and the later item of these, int64.
    """
    paired = users[gap:] == users[:-gap]
    items = items.astype(np.int64)
    return paired, items[:-gap][paired], items[gap:][paired]


def pair_weights(
    users: np.ndarray, items: np.ndarray, num_items: int, horizon: int, is_new: np.ndarray | None = None
) -> sparse.csr_array:
    """
    Pairs of items within a horizon of each other, in both ways, by [`whole_counts`].

    Returns:
        `scipy.sparse.csr_array`: int64 [num_items, num_items], symmetric, sorted indices.

    Raises:
        ValueError: as [`unit_of`].
    """
    return joined(whole_counts(users, items, num_items, horizon, is_new).blocks())


def whole_counts(
    users: np.ndarray, items: np.ndarray, num_items: int, horizon: int, is_new: np.ndarray | None = None
) -> NeighbourCounts:
    """
    Counts of neighbours with the weight 1/gap in whole numbers of 1/lcm(1..horizon), int64.

    Args:
        users, items (`np.ndarray`): int [N] rows of the *training* interactions, user after user, oldest first.
        num_items (`int`): size of the catalogue.
        horizon (`int`): largest gap.
        is_new (`np.ndarray`, *optional*): bool [N], interactions whose pairs with earlier ones count; by default all.

    Raises:
        ValueError: as [`unit_of`].
    """
    weights = unit_of(horizon) // np.arange(1, horizon + 1)
    return NeighbourCounts(users, items, num_items, weights, is_new)


def unit_of(horizon: int) -> int:
    """
    A weight of 1 in whole numbers whose parts 1/gap are whole, too, up to a horizon: lcm(1..horizon).

    Raises:
        ValueError: a horizon whose weights have no common unit that counts of millions fit into.
    """
    if horizon > LONGEST_HORIZON:
        raise ValueError(f"Exact counts have a horizon of at most {LONGEST_HORIZON} items, got {horizon}.")
    return math.lcm(*range(1, horizon + 1))


class CoOccurrenceGraph:
    """Direct neighbours (previous and next item) of every item in the users' sequences (UTGRec, "Co-occurrence").

    Undirected, every distinct neighbour counted once, no item its own neighbour. Rows passed to the methods must lie
    in `[0, num_items)`.

    Args:
        adjacency (`scipy.sparse.csr_array`): [num_items, num_items], as [`co_occurrence_counts`] gives it.
    """

    def __init__(self, adjacency: sparse.csr_array):
        adjacency.sort_indices()
        self.adjacency = adjacency
        self.num_items = adjacency.shape[0]
        self.indptr = adjacency.indptr.astype(np.int64)
        self.indices = adjacency.indices.astype(np.int64)
        self.degree = np.diff(self.indptr)
        # (row, neighbour) as one sorted integer, so that a search answers "are these neighbours?"
        self._edges = np.repeat(np.arange(self.num_items), self.degree) * self.num_items + self.indices

    @classmethod
    def from_interactions(cls, training: Interactions) -> CoOccurrenceGraph:
        """Builds the graph. Pass [`~Interactions.training_part`]: held-out items must not leak into the neighbours."""
        return cls(co_occurrence_counts(training.owners, training.items, training.num_items))

    @staticmethod
    def concatenate(graphs: Sequence[CoOccurrenceGraph]) -> CoOccurrenceGraph:
        """Joins the graphs of several domains; rows are offset as in [`Interactions.concatenate`]."""
        return CoOccurrenceGraph(sparse.csr_array(sparse.block_diag([g.adjacency for g in graphs], format="csr")))

    def sample(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One neighbour of each of `rows`, uniform among its distinct ones; an item without any: the item itself."""
        rows = np.asarray(rows, dtype=np.int64)
        degree = self.degree[rows]
        edge = self.indptr[rows] + rng.integers(0, np.maximum(degree, 1))
        # rows without neighbours may point past the last edge; the clipped value is not used
        neighbours = self.indices[np.minimum(edge, len(self.indices) - 1)] if len(self.indices) else rows
        return np.where(degree > 0, neighbours, rows)

    def are_neighbours(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Whether `a` and `b` are direct neighbours; arguments broadcast, the result has their common shape."""
        a, b = np.asarray(a, dtype=np.int64), np.asarray(b, dtype=np.int64)
        edges = a * self.num_items + b
        if not len(self._edges):
            return np.zeros(edges.shape, bool)
        place = np.minimum(np.searchsorted(self._edges, edges), len(self._edges) - 1)
        return self._edges[place] == edges

    def excluded_negatives(
        self, anchor_rows: np.ndarray, candidate_rows: np.ndarray, positive_rows: np.ndarray
    ) -> np.ndarray:
        """Candidates that must not serve as negatives of an anchor in the alignment loss (UTGRec, Eq. 11).

        Args:
            anchor_rows (`np.ndarray`): int [B] item rows of the anchors.
            candidate_rows (`np.ndarray`): int [M] item rows of all candidates of the (global) batch.
            positive_rows (`np.ndarray`): int [B] each anchor's own sampled positive.

        Returns:
            `np.ndarray`: bool [B, M], true where the candidate is the anchor itself, the anchor's own positive or a
            direct neighbour of the anchor. The column that holds the anchor's positive is true as well: the caller
            clears that one entry.
        """
        anchors, positives = np.asarray(anchor_rows)[:, None], np.asarray(positive_rows)[:, None]
        candidates = np.asarray(candidate_rows)[None, :]
        return (candidates == anchors) | (candidates == positives) | self.are_neighbours(anchors, candidates)
