"""Exact counts of pairs of items, behind a memory of counted transitions that is updated without counting anew."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse

from trainers.data.co_occurrence import pair_weights
from trainers.data.interactions import Interactions
from trainers.rankers.linear import normalised


@dataclass(frozen=True)
class PairCounts:
    """
    Pairs of items that stand within a horizon of each other, weight 1/gap, as whole numbers of 1/lcm(1..horizon): what
    is added to them later is added exactly.

    Args:
        matrix (`scipy.sparse.csr_array`): int64 `[n, n]`, symmetric, columns of a row in order.
    """

    matrix: sparse.csr_array

    @classmethod
    def of(cls, interactions: Interactions, horizon: int, known: np.ndarray | None = None) -> PairCounts:
        """
        Counts the pairs of sequences.

        Args:
            interactions ([`Interactions`]): the sequences.
            horizon (`int`): largest gap.
            known (`np.ndarray`, *optional*): int `[U]`, the first interactions of each user whose pairs among
                themselves are counted already.

        Raises:
            ValueError: a horizon whose weights have no common unit that counts of millions fit into.
        """
        owners, is_new = interactions.owners, None
        if known is not None:
            is_new = np.arange(len(owners)) - interactions.offsets[:-1][owners] >= known[owners]
        return cls(pair_weights(owners, interactions.items, interactions.num_items, horizon, is_new))

    def __add__(self, other: PairCounts) -> PairCounts:
        return PairCounts(_sorted(self.matrix + other.matrix))

    def moved(self, rows: np.ndarray, num_items: int) -> PairCounts:
        """The counts of a catalogue of `num_items` in which item `i` has the row `rows[i]`."""
        matrix = self.matrix.tocoo()
        shape = (num_items, num_items)
        return PairCounts(_sorted(sparse.csr_array((matrix.data, (rows[matrix.row], rows[matrix.col])), shape)))

    def transitions(self) -> sparse.csr_array:
        """Counts divided by the square roots of both items' sums, float32: what
        [`~trainers.rankers.linear.decayed_counts`] gives, but for rounding."""
        return normalised(self.matrix, np.asarray(self.matrix.sum(axis=1), np.float64))

    def tensors(self) -> dict[str, torch.Tensor]:
        """As [`StoredMemory.pairs`]."""
        matrix = self.matrix
        return {
            "pair_offsets": torch.from_numpy(matrix.indptr.astype(np.int64)),
            "pair_items": torch.from_numpy(matrix.indices.astype(np.int32)),
            "pair_counts": torch.from_numpy(matrix.data.astype(np.int64)),
        }

    @classmethod
    def of_tensors(cls, tensors: dict[str, torch.Tensor]) -> PairCounts:
        offsets, items, counts = (tensors[name].numpy() for name in ("pair_offsets", "pair_items", "pair_counts"))
        n = len(offsets) - 1
        return cls(sparse.csr_array((counts, items, offsets), (n, n)))


def _sorted(matrix: sparse.csr_array) -> sparse.csr_array:
    matrix = sparse.csr_array(matrix)
    matrix.sum_duplicates()  # sorts, too
    return matrix
