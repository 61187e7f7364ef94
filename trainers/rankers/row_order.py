"""Entries of the rows of a matrix in order of their values, and those of the largest magnitude."""

import numpy as np
import polars as pl
from scipy import sparse

CHUNK_ENTRIES = 2**24  # of a dense matrix that is worked on at a time


def order_in_rows(owners: np.ndarray, values: np.ndarray) -> np.ndarray:
    """
    The order that sorts entries by row, in a row by value, the largest first, and equal ones by place: what
    `np.lexsort` gives, by one sort of whole numbers.

    Args:
        owners (`np.ndarray`): int `[entries]` rows.
        values (`np.ndarray`): float `[entries]`, finite.

    Returns:
        `np.ndarray`: int `[entries]`.
    """
    keys = pl.DataFrame({"key": _descending(owners, values)}).with_row_index()
    return keys.sort("key", maintain_order=True)["index"].to_numpy()


def _descending(owners: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Whole numbers that grow with the row, and within it fall with the value: int64 `[entries]`."""
    if values.dtype == np.float32:
        bits = (values + 0.0).view(np.uint32)  # -0 is 0
        ranks = np.where(bits >> 31, ~bits, bits | np.uint32(2**31))  # in the order of the values
    else:
        ranks = np.unique(values, return_inverse=True)[1]
    return (owners.astype(np.int64) << 32) | (0xFFFFFFFF - ranks.astype(np.int64))


def largest_of_rows(matrix: np.ndarray | sparse.csr_array, row_items: int) -> sparse.csr_array:
    """The `row_items` entries of each row of the largest magnitude, without zeros; of equal ones the first columns.
    What is below 0 counts as much: what was bought is seldom bought again, and a ranking loses most without it."""
    if isinstance(matrix, np.ndarray):
        rows = max(1, CHUNK_ENTRIES // max(1, matrix.shape[1]))
        chunks = [_largest_of_dense(matrix[start : start + rows], row_items) for start in range(0, len(matrix), rows)]
        return sparse.csr_array(sparse.vstack(chunks, format="csr"))
    matrix = matrix.copy()
    matrix.sort_indices()
    lengths = np.diff(matrix.indptr)
    kept = matrix.data != 0
    longer = lengths[lengths > row_items]
    if len(longer):  # only rows that lose something are looked at
        entries = np.flatnonzero(np.repeat(lengths > row_items, lengths))
        owners = np.repeat(np.arange(len(longer)), longer)
        keys = _descending(owners, np.abs(matrix.data[entries]))
        starts = np.cumsum(longer) - longer
        last = pl.Series(keys).sort().to_numpy()[starts + row_items - 1][owners]  # each row's last that is kept
        above, equal = keys < last, keys == last
        before = np.cumsum(equal) - np.repeat(np.cumsum(equal)[starts] - equal[starts], longer)
        room = row_items - np.add.reduceat(above, starts, dtype=np.int64)
        kept[entries] &= above | (equal & (before <= room[owners]))
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])[matrix.indptr]
    return sparse.csr_array((matrix.data[kept], matrix.indices[kept], indptr), shape=matrix.shape)


def _largest_of_dense(rows: np.ndarray, row_items: int) -> sparse.csr_array:
    """[`largest_of_rows`] of a few rows."""
    chosen = rows != 0
    if row_items < rows.shape[1]:
        sizes = np.abs(rows)
        least = np.partition(sizes, rows.shape[1] - row_items, axis=1)[:, rows.shape[1] - row_items, None]
        above, equal = sizes > least, sizes == least
        room = row_items - above.sum(axis=1, keepdims=True)
        chosen &= above | (equal & (equal.cumsum(axis=1, dtype=np.int32) <= room))
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(chosen.sum(axis=1))])
    return sparse.csr_array((rows[chosen], np.nonzero(chosen)[1], indptr), shape=rows.shape)
