"""Prepared logs in parts, whatever their size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

READ_ROWS = 1_000_000  # interactions that are held at once


def parts_of_whole_users(file: Path, columns: Sequence[str], rows: int | None = None) -> Iterator[pl.DataFrame]:
    """
    A prepared log, in which each user's interactions stand together, part by part: no user is cut.

    Args:
        file (`Path`): parquet.
        columns (`Sequence[str]`): those of them that there are; `user_id` among them.
        rows (`int`, *optional*, defaults to `READ_ROWS`): interactions that are read at once.
    """
    held = pl.DataFrame()
    parquet = pq.ParquetFile(file)
    there = [each for each in columns if each in parquet.schema_arrow.names]
    for batch in parquet.iter_batches(rows or READ_ROWS, columns=there):
        part: Any = pl.from_arrow(pa.Table.from_batches([batch]))
        held = pl.concat([held, part]) if len(held) else part
        whole = held["user_id"] != held["user_id"][-1]  # the last user may go on in the next part
        if whole.any():
            yield held.filter(whole)
        held = held.filter(~whole)
    if len(held):
        yield held
