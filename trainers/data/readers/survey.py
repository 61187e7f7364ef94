"""How much there is to read: sizes, and numbers of lines guessed from the beginnings of the files."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import pyarrow.parquet as pq

from trainers.data.readers.base import Reader, ReadError

SAMPLE_BYTES = 4 * 2**20  # of text


def survey(reader: Reader) -> list[dict]:
    """
    For each file of a reader: `file`, `bytes`, `lines` (rows of parquet) and `exact`, whether the lines were counted.

    Raises:
        ReadError: if a file is missing, or its beginning cannot be read.
    """
    return [{"file": str(path), "bytes": path.stat().st_size} | count_lines(path) for path in reader.files()]


def count_lines(path: Path) -> dict:
    """`lines` and `exact`; lines are counted to the end in small files and guessed from the first 4 MiB in others."""
    try:
        if path.suffix == ".parquet":
            return {"lines": pq.read_metadata(path).num_rows, "exact": True}
        with open(path, "rb") as raw, gzip.open(raw) if path.suffix == ".gz" else raw as file:
            sample = file.read(SAMPLE_BYTES)
            whole = not file.read(1)
            consumed = raw.tell()
    except (OSError, EOFError, zlib.error) as error:
        raise ReadError(f"{path} cannot be read: {error}. Is the file complete?") from error
    lines = sample.count(b"\n") + (whole and not sample.endswith(b"\n"))
    return {"lines": lines if whole else round(lines * path.stat().st_size / consumed), "exact": whole}
