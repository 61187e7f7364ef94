"""Tables as people have them, read whole: csv of any separator and encoding, JSON, parquet, data frames."""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import polars as pl

from hub_cards import named
from hub_cards.csv_layout import CsvError, encoding_of
from hub_cards.csv_table import read_csv
from tokenization_items.data_sets import is_data_set, read_data_set
from tokenization_items.item_files import CatalogueError
from trainers.data.readers.base import ReadError, ReadingReport, id_column, plain_column
from trainers.data.readers.text_lines import bad_json_line, json_records

SHOWN = 24  # characters of an example
SPREADSHEETS = (".xlsx", ".xls", ".ods", ".numbers")
_LITERAL = re.compile(r"\s*\{u?'")  # a dictionary of Python
_NUMBER = re.compile(r"[-+]?\d[\d.,:/\-+TZ ]*([AP]M)?")  # or a time


@dataclass(frozen=True)
class Table:
    """
    A table in memory.

    Args:
        name (`str`): of its file, for messages.
        frame (`polars.DataFrame`): its rows; of a csv file all values are strings, null for an empty one.
        layout (`str`): how it was read, for display.
    """

    name: str
    frame: pl.DataFrame
    layout: str = ""

    def line(self, row: int) -> str:
        """Where a row stands, for messages; line breaks within quotes are not counted."""
        return f"{self.name}, line {row + 2}"


def read_table(source: Any, name: str = "table") -> Table:
    """
    Reads a table.

    Args:
        source: path of a file, `.csv`, `.tsv` or `.txt` (separated by commas, semicolons, tabs or bars, in UTF-8,
            UTF-16 or Latin-1), `.jsonl`, `.json` (a list of objects; lines may be Python's dictionaries, as those of
            Amazon Reviews 2014 and Steam are) or `.parquet`, text files gzipped or not; or a polars or pandas
            `DataFrame`, a `pyarrow.Table`, a `datasets.Dataset` or `IterableDataset`, a list of dictionaries or a
            dictionary of columns.
        name (`str`, *optional*, defaults to `"table"`): of what is no file, for messages.

    Raises:
        ReadError: no such file, or one that cannot be read; the line is named where there is one.
    """
    if not isinstance(source, str | Path):
        return Table(name, _checked(_frame_of(source, name), name))
    path = Path(source)
    kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if path.is_dir():
        raise ReadError(f"{path} is a folder: give the one file of the table; `utgrec prepare` takes shards of one.")
    if not path.is_file():
        raise ReadError(f"{path}: no such file.")
    if kind.lower() in SPREADSHEETS:
        raise ReadError(f"{path} is a spreadsheet: save it as csv.")
    if kind == ".parquet":
        try:
            return Table(path.name, _checked(pl.read_parquet(path), path.name), "parquet")
        except (pl.exceptions.PolarsError, OSError) as error:
            raise ReadError(f"{path} cannot be read: {error}. Is the file complete?") from error
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ReadError(f"{path} cannot be read: {error}. Is the file complete?") from error
    if kind in (".jsonl", ".json", ".ndjson"):
        return Table(path.name, _checked(_read_json(_decoded(data, path), path), path.name), kind[1:])
    try:
        frame, layout = read_csv(data, str(path))
    except CsvError as error:
        raise ReadError(str(error)) from error
    if unnamed := [each for each in frame.columns if _NUMBER.fullmatch(each)]:
        raise ReadError(f"{path}: the first line holds no column names but values: {named(unnamed, 3)}. Add one.")
    return Table(path.name, _checked(frame, path.name), f"csv, {layout}")


def as_ids(column: pl.Series) -> pl.Series:
    """Ids as strings, by [`id_column`], without blanks around them. Of a column that can hold no ids, of lists or of
    fractions, all are null. Texts that all end in ".0" are whole numbers: pandas writes those of a column so in which
    some are missing."""
    ids, odd = id_column(column)
    ids = (pl.Series(column.name, [None] * len(column), dtype=pl.String) if odd.any() else ids).str.strip_chars()
    known = ids.drop_nulls()
    are_floats = column.dtype == pl.String and len(known) > 0 and bool(known.str.contains(r"^\d+\.0$").all())
    return ids.str.strip_suffix(".0") if are_floats else ids


def _decoded(data: bytes, path: Path) -> str:
    """The text of a file, its encoding as [`encoding_of`] tells it."""
    encoding, mark = encoding_of([data])
    try:
        text = data[mark:].decode(encoding, "strict" if encoding == "utf-8" else "replace")
    except UnicodeDecodeError as error:
        line = data[: mark + error.start].count(b"\n") + 1
        raise ReadError(f"{path}, line {line} is not UTF-8, as the others are: {error}.") from error
    if not text.strip():
        raise ReadError(f"{path} is empty.")
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ReadError(f"{path}, line {line} holds a zero byte: it is no text. Is the file complete?")
    return text


def _read_json(text: str, path: Path) -> pl.DataFrame:
    is_list = text.lstrip().startswith("[")
    try:
        if _LITERAL.match(text):
            report = ReadingReport()
            lines = json_records(text.encode("utf-8"), 1, path.name, report, "lines", literals=True)
            rows = [record for _, record in lines]
            if report.dropped("lines"):
                raise ReadError(f"{path} cannot be read:\n{report}")
            return pl.from_dicts(rows, infer_schema_length=None, strict=False)
        if is_list:
            return pl.from_dicts(json.loads(text), infer_schema_length=None)
        return pl.read_ndjson(io.BytesIO(text.encode("utf-8")), infer_schema_length=None)
    except ReadError:
        raise
    except (pl.exceptions.PolarsError, ValueError, TypeError, AttributeError, RecursionError) as error:
        wrong = None if is_list else bad_json_line(text.split("\n"))
        raise ReadError(f"{path} cannot be read: {wrong or f'it is no list of JSON objects: {error}'}") from error


def _frame_of(source: Any, name: str) -> pl.DataFrame:
    try:
        if isinstance(source, pl.DataFrame):
            return source
        if isinstance(source, pl.LazyFrame):
            return source.collect()
        if is_data_set(source):
            source = read_data_set(source)
        if type(source).__module__.startswith("pyarrow."):
            return cast(pl.DataFrame, pl.from_arrow(source))
        if hasattr(source, "iloc"):  # pandas.DataFrame
            return pl.from_pandas(source)
        if isinstance(source, Mapping):
            return pl.DataFrame(dict(source), strict=False)
        if isinstance(source, Sequence) and all(isinstance(row, Mapping) for row in source):
            return pl.from_dicts([dict(row) for row in source], infer_schema_length=None)
    except CatalogueError as error:
        raise ReadError(f"{name}: {error}.") from error
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError) as error:
        reason = str(error).partition("\n")[0][:300]  # polars adds where in its own code
        raise ReadError(f"{name}: no table of named columns, each with values of one kind: {reason}") from error
    raise ReadError(f"{name}: expected a file, a data frame or a list of dictionaries, got {type(source).__name__}.")


def _checked(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    if frame.is_empty():
        raise ReadError(f"{name} has no rows.")
    return frame.with_columns(plain_column(column) for column in frame)


def describe_table(
    table: Table,
    roles: Sequence[tuple[str, str]],
    notes: Mapping[str, str],
    further: Sequence[tuple[str, str, str]] = (),
) -> str:
    """
    What each column of a table was taken for, a line each, with its first value.

    Args:
        table ([`Table`]): the table.
        roles (`Sequence[tuple[str, str]]`): roles and columns.
        notes (`Mapping[str, str]`): how the column of a role was read.
        further (`Sequence[tuple[str, str, str]]`, *optional*): roles that no column has, what stands in the column's
            place, and what is said of it.
    """

    def shown(role: str, column: str) -> str:
        note = notes.get(role)
        return _example(table.frame[column]) + (f"  ({note})" if note else "")

    rows = [*((role, column, shown(role, column)) for role, column in roles), *further]
    lines = [f"{table.name}: {table.frame.height:,} rows" + (f" ({table.layout})" if table.layout else "")]
    width = max((len(column) for _, column, _ in rows), default=0)
    lines += [f"  {role:<9} {column:<{width}}  {said}".rstrip() for role, column, said in rows]
    used = {column for _, column, _ in rows}
    if left := [each for each in table.frame.columns if each not in used]:
        lines.append(f"  {'not used':<9} {', '.join(left)}")
    return "\n".join(lines)


def _example(column: pl.Series) -> str:
    values = column.drop_nulls().head(1).to_list()
    text = str(values[0]) if values else "(empty)"
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 1] + "…")
