"""Files of items → tables or records. What is broken, or grows without measure when it is unpacked, is an error."""

import gzip
import json
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from transformers.utils import logging

from hub_cards.csv_layout import CsvError
from hub_cards.csv_table import read_csv

if TYPE_CHECKING:  # what reads tables is imported with the first of them
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq

logger = logging.get_logger(__name__)

# Bytes of one line of JSON.
MAX_LINE = 2**26
# A file that unpacks to more than so many times its size, and to more than MIN_UNPACKED bytes, is a bomb. Text packs
# to a fifth or a tenth; gzip can reach a thousandth.
MAX_GROWTH = 200
MIN_UNPACKED = 2**28
# Rows of a parquet file for each of its bytes: item ids differ, so a row cannot be for nothing.
MAX_ROWS_PER_BYTE = 20
_PACKED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x78\x01", b"\x78\x9c", b"\x78\xda")


class CatalogueError(ValueError):
    """A catalogue that cannot be read, or items that cannot be tokenized; the message names them and the fix."""


def read_items(file: Path, wanted: Collection[str]) -> "pa.Table | pl.DataFrame | list[dict]":
    """
    Reads `items.parquet`, `items.csv`, `items.jsonl` or `items.jsonl.gz`.

    Args:
        file (`Path`): the file; its name says what it is.
        wanted (`Collection[str]`): columns to read of a parquet file, those that it has.

    Raises:
        CatalogueError: if the file is broken, or would take far more memory than its size tells.
    """
    import polars as pl
    import pyarrow as pa

    try:
        if file.suffix == ".parquet":
            return _read_parquet(file, wanted)
        if file.suffix == ".csv":
            return _read_csv(file)
        return _read_json_lines(file)
    except CatalogueError:
        raise
    except pl.exceptions.PanicException as error:  # which is no Exception
        raise CatalogueError(f"{file} cannot be read: {error}") from error
    except (pa.ArrowException, pl.exceptions.PolarsError, OSError, EOFError, zlib.error, ValueError) as error:
        raise CatalogueError(f"{file} cannot be read: {error}") from error


def check_parquet(file: Path) -> "pq.FileMetaData":
    """
    What the footer of a parquet file says.

    Raises:
        CatalogueError: it would take far more memory than its size tells.
        pyarrow.ArrowException, OSError: it cannot be read.
    """
    import pyarrow.parquet as pq

    metadata, num_bytes = pq.read_metadata(file), file.stat().st_size
    unpacked = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    if unpacked > max(MIN_UNPACKED, MAX_GROWTH * num_bytes) or metadata.num_rows > MAX_ROWS_PER_BYTE * num_bytes:
        raise CatalogueError(
            f"{file}: {metadata.num_rows} rows of {unpacked} bytes in a file of {num_bytes} bytes: it is broken, or "
            "made to fill the memory"
        )
    return metadata


def _read_parquet(file: Path, wanted: Collection[str]) -> "pa.Table":
    import pyarrow.parquet as pq

    check_parquet(file)
    present = [column for column in pq.read_schema(file).names if column in wanted]
    table = pq.read_table(file, columns=present)
    table.validate(full=True)  # texts are texts: later, a broken one could not be named
    return table


def _read_csv(file: Path) -> "pl.DataFrame":
    data = file.read_bytes()
    if data.startswith(_PACKED):
        raise CatalogueError(f"{file} is packed: unpack it, or write items.jsonl.gz")
    try:
        frame, layout = read_csv(data, str(file))  # strings throughout: "00123" stays an id
    except CsvError as error:
        raise CatalogueError(str(error)) from error
    if not layout.is_usual:
        logger.warning(f"{file} was read with {layout}")
    return frame


def _read_json_lines(file: Path) -> list[dict]:
    records, unpacked = [], 0
    most = max(MIN_UNPACKED, MAX_GROWTH * file.stat().st_size)
    with gzip.open(file, "rb") if file.suffix == ".gz" else open(file, "rb") as lines:
        number = 0
        while line := lines.readline(MAX_LINE + 1):
            number += 1
            unpacked += len(line)
            if len(line) > MAX_LINE:
                raise CatalogueError(f"{file}, line {number}: longer than {MAX_LINE} bytes")
            if unpacked > most:
                raise CatalogueError(f"{file} unpacks to more than {most} bytes: it is made to fill the memory")
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                raise CatalogueError(f"{file} cannot be read: line {number} is not UTF-8: {error}") from error
            except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits, too
                raise CatalogueError(f"{file}, line {number}: not JSON: {error}") from error
            if not isinstance(record, dict):
                raise CatalogueError(f"{file}, line {number}: expected an object, found {type(record).__name__}")
            records.append(record)
    return records
