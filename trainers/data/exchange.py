"""Exchange of rows between partitions: files whose record batches belong each to one partition, read one at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from zlib import crc32

import numpy as np
import polars as pl
import pyarrow as pa

READ_ROWS = 1_000_000  # rows of a partition that are handed on at once


def partitions_of(ids: pl.Series, count: int) -> np.ndarray:
    """
    The partition of each id, by a hash that is the same on every machine and in every version (CRC-32 of its UTF-8).

    Args:
        ids (`pl.Series`): strings [N], none missing.
        count (`int`): number of partitions.

    Returns:
        `np.ndarray`: int64 [N] in `[0, count)`.
    """
    if count == 1:
        return np.zeros(len(ids), np.int64)
    unique = ids.unique()
    of_unique = np.fromiter((crc32(each.encode()) % count for each in unique), np.int64, len(unique))
    return of_unique[ids.cast(pl.Enum(unique)).to_physical().to_numpy()]


class ExchangeWriter:
    """
    Writes rows so that each partition's can be read alone: an Arrow file whose record batch `i` is of partition `i %
    partitions`. One file for all partitions: a shard is there whole or not at all, and there are as many as shards.

    Args:
        path (`Path`): the file.
        schema (`pl.Schema`): of the rows.
        partitions (`int`): their number.
    """

    def __init__(self, path: Path, schema: pl.Schema, partitions: int):
        self.schema, self.partitions, self.rows = schema, partitions, 0
        arrow = _table(pl.DataFrame(schema=schema)).schema
        self._writer = pa.ipc.new_file(str(path), arrow, options=pa.ipc.IpcWriteOptions(compression="lz4"))

    def add(self, rows: pl.DataFrame, partitions: np.ndarray) -> None:
        """Adds rows; those of one partition stay in their order. `partitions`: int [N], where each belongs."""
        if rows.is_empty():
            return
        order = np.argsort(partitions, kind="stable")
        ends = np.cumsum(np.bincount(partitions, minlength=self.partitions))
        (batch,) = _table(rows.select(self.schema.names())[order]).combine_chunks().to_batches()
        for start, end in zip(np.concatenate([[0], ends[:-1]]).tolist(), ends.tolist(), strict=True):
            self._writer.write_batch(batch.slice(start, end - start))
        self.rows += len(rows)

    def __enter__(self) -> ExchangeWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()


def _table(frame: pl.DataFrame) -> pa.Table:
    return frame.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())


def read_partition(
    files: Iterable[Path], partition: int, partitions: int, read_rows: int = READ_ROWS
) -> Iterator[pl.DataFrame]:
    """
    The rows of one partition, file after file, about `read_rows` at a time; of the others nothing is read.

    Args:
        files (`Iterable[Path]`): as [`ExchangeWriter`] writes them.
        partition, partitions (`int`): which one of how many.
        read_rows (`int`, *optional*, defaults to 1,000,000): rows that are held at once.

    Yields:
        `pl.DataFrame`: rows; one frame without any if the partition has none.
    """
    held: list[pl.DataFrame] = []
    schema, is_empty = None, True
    for file in files:
        with pa.memory_map(str(file)) as source:
            reader = pa.ipc.open_file(source)
            schema = schema or reader.schema
            for number in range(partition, reader.num_record_batches, partitions):
                batch = reader.get_batch(number)
                if batch.num_rows:
                    held.append(pl.DataFrame(pa.Table.from_batches([batch])))
                if sum(map(len, held)) >= read_rows:
                    yield pl.concat(held, rechunk=True)
                    held, is_empty = [], False
    if held:
        yield pl.concat(held, rechunk=True)
    elif is_empty and schema is not None:
        yield pl.DataFrame(schema.empty_table())
