"""Counts of items that stand near each other in sequences, row by row of the matrix, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import polars as pl
from scipy import sparse

BLOCK_PAIRS = 2**24  # that are sorted at a time: a gigabyte


class NeighbourCounts:
    """
    Symmetric counts `[n, n]` of which items stand within a horizon of each other, a pair with the weight of its gap.
    Rows are made for a block of items at a time: of the pairs, only those of a block are ever held.

    Args:
        users, items (`np.ndarray`): int `[N]` rows of the interactions, user after user, oldest first.
        num_items (`int`): size of the catalogue.
        weights (`np.ndarray`): `[horizon]` weights of the gaps 1, 2, ...; whole numbers are counted exactly.
        is_new (`np.ndarray`, *optional*): bool `[N]` interactions whose pairs with earlier ones count; by default all.
    """

    def __init__(
        self,
        users: np.ndarray,
        items: np.ndarray,
        num_items: int,
        weights: np.ndarray,
        is_new: np.ndarray | None = None,
    ):
        horizon = len(weights)
        self.weights = weights
        self.num_items = num_items
        self._items, self._is_new = items, is_new
        starts = np.flatnonzero(np.concatenate([np.ones(min(1, len(users)), bool), users[1:] != users[:-1]]))
        lengths = np.diff(starts, append=len(users))
        places = np.arange(len(users)) - np.repeat(starts, lengths)
        # How far neighbours go, cut at the horizon: a byte or two an interaction.
        least = np.min_scalar_type(horizon)
        self._before = np.minimum(places, horizon).astype(least)
        self._after = np.minimum(np.repeat(lengths, lengths) - 1 - places, horizon).astype(least)
        self._order = np.argsort(self._items, kind="stable")  # the places of item 0, then those of item 1, ...
        self._ends = np.cumsum(np.bincount(self._items, minlength=self.num_items))

    def blocks(self) -> Iterator[sparse.csr_array]:
        """Rows `[block, n]` of the items in order, each with its columns in order."""
        start = 0
        while start < self.num_items:
            first = self._ends[start - 1] if start else 0
            most = first + BLOCK_PAIRS // (2 * len(self.weights))
            stop = max(start + 1, int(np.searchsorted(self._ends, most, side="right")))
            yield self._rows(start, stop, self._order[first : self._ends[stop - 1]])
            start = stop

    def sums(self) -> np.ndarray:
        """The sums of all rows where no pairs are left out, float64 `[n]`: from how far each item's neighbours go."""
        of_gaps = np.concatenate([[0], np.cumsum(self.weights)])
        totals = of_gaps[self._before] + of_gaps[self._after]
        return np.bincount(self._items, weights=totals, minlength=self.num_items)

    def _rows(self, start: int, stop: int, places: np.ndarray) -> sparse.csr_array:
        """Rows of the items from `start` to before `stop`, which stand at `places`."""
        gap_bits, column_bits = len(self.weights).bit_length(), max(1, (self.num_items - 1).bit_length())
        owners = (self._items[places].astype(np.int64) - start) << column_bits
        before, after = self._before[places], self._after[places]
        new_here = None if self._is_new is None else self._is_new[places]
        keys = []
        for gap in range(1, len(self.weights) + 1):
            is_earlier, is_later = before >= gap, after >= gap
            if self._is_new is not None:  # a pair is new if its later item is
                is_earlier &= new_here
                is_later[is_later] = self._is_new[places[is_later] + gap]
            for counted, shift in ((is_earlier, -gap), (is_later, gap)):
                pairs = owners[counted] | self._items[places[counted] + shift]
                keys.append((pairs << gap_bits) | gap)
        # Sorted as one number of row, column and gap: the same sums in the same order, however blocks are cut.
        found = pl.Series(np.concatenate(keys)).sort().to_numpy()
        values = self.weights[(found & ((1 << gap_bits) - 1)) - 1]
        found = found >> gap_bits
        first = np.flatnonzero(np.diff(found, prepend=-1))
        found = found[first]
        data = np.add.reduceat(values, first) if len(first) else values
        indptr = np.searchsorted(found, np.arange(stop - start + 1) << column_bits)
        columns = (found & ((1 << column_bits) - 1)).astype(np.int32)
        return sparse.csr_array((data, columns, indptr.astype(np.int64)), shape=(stop - start, self.num_items))


def joined(blocks: Iterable[sparse.csr_array]) -> sparse.csr_array:
    """Blocks of rows, one after the other, as one matrix."""
    return sparse.csr_array(sparse.vstack(list(blocks), format="csr"))


def counting_bytes(num_interactions: int) -> int:
    """What [`NeighbourCounts`] holds at most of so many interactions, besides the rows that it made."""
    return 64 * num_interactions + 64 * BLOCK_PAIRS
