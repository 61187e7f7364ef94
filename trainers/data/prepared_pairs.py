"""Counts of pairs of items that lie beside a prepared log, a block of rows at a time, as [`NeighbourCounts`] makes
them of the log itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy import sparse

from tokenization_items.files import map_arrays, read_json_object
from trainers.data import neighbour_counts
from trainers.data.interaction_files import RECORD_FILE
from trainers.data.prepared_folder import PAIRS, PreparedDataError

_TYPES = {"item_counts": np.int64, "pair_offsets": np.int64, "pair_items": np.int32, "pair_counts": np.int64}


class PreparedPairs:
    """
    What `utgrec prepare --pair_horizon` has counted, mapped into memory: of the pairs, only those of a block are held.

    Args:
        folder (`str` or `os.PathLike`): a prepared folder with `pair_counts.safetensors`.

    Attributes:
        horizon (`int`): largest gap of the pairs.
        num_items (`int`): size of the catalogue.
        item_counts (`np.ndarray`): int64 `[n]` training interactions of each item.

    Raises:
        PreparedDataError: the file is cut short, or no counts of pairs; the folder's record does not say its horizon.
    """

    def __init__(self, folder: str | os.PathLike):
        self.path = Path(folder) / PAIRS
        try:
            self.horizon = int(read_json_object(self.path.with_name(RECORD_FILE))["choices"]["pair_horizon"])
            arrays = map_arrays(self.path)
            found = {name: array.dtype for name, array in arrays.items()}
            if found != _TYPES:
                raise ValueError(f"expected {sorted(_TYPES)}, found {sorted(found)}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PreparedDataError(
                f"{self.path} holds no counts of pairs ({error!r}): prepare the data anew."
            ) from error
        self.item_counts, self._offsets, self._items, self._counts = (arrays[name] for name in _TYPES)
        self.num_items = len(self.item_counts)
        ends = self._offsets[[0, -1]].tolist() if len(self._offsets) else []
        if len(self._offsets) != self.num_items + 1 or ends != [0, len(self._items)] or len(self._counts) != ends[1]:
            raise self._wrong()

    @classmethod
    def find(cls, folder: str | os.PathLike | None, popularity: np.ndarray, horizon: int) -> PreparedPairs | None:
        """
        The counts of a training part within a horizon, if a folder has them: of items that occur as often as
        `popularity` says, int `[n]`, so none where a core or some of the users were taken after the folder was
        prepared, or its log was changed.

        Raises:
            PreparedDataError: as the class.
        """
        if folder is None or not (Path(folder) / PAIRS).is_file():
            return None
        found = cls(folder)
        same = found.horizon == horizon and np.array_equal(found.item_counts, popularity)
        return found if same else None

    def blocks(self) -> Iterator[sparse.csr_array]:
        """Rows `[block, n]` of the items in order, int64, each with its columns in order."""
        start = 0
        while start < self.num_items:
            most = self._offsets[start] + neighbour_counts.BLOCK_PAIRS
            stop = max(start + 1, int(np.searchsorted(self._offsets, most, side="right")) - 1)
            offsets = np.array(self._offsets[start : stop + 1])
            pairs = slice(int(offsets[0]), int(offsets[-1]))
            items, counts = np.array(self._items[pairs]), np.array(self._counts[pairs])
            outside = (items < 0) | (items >= self.num_items) | (counts < 1)
            if (np.diff(offsets) < 0).any() or outside.any():
                raise self._wrong()
            yield sparse.csr_array((counts, items, offsets - offsets[0]), shape=(stop - start, self.num_items))
            start = stop

    def sums(self) -> np.ndarray:
        """The sums of all rows, float64 `[n]`."""
        return np.concatenate([block.sum(axis=1) for block in self.blocks()]).astype(np.float64)

    def _wrong(self) -> PreparedDataError:
        return PreparedDataError(f"{self.path}: the counts are no sparse rows of its items; prepare the data anew.")
