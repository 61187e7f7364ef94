"""Plain tables with named columns: csv (also tab-separated), JSON lines, parquet; text files gzipped or not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import cast

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from hub_cards.csv_layout import CsvError, CsvLayout, csv_layout, write_utf8
from hub_cards.csv_rows import polars_names, table_rows
from hub_cards.csv_table import DECIMAL_COMMA
from trainers.data.readers.base import ITEM_SCHEMA, LOG_SCHEMA, RawData, ReadError, ReadingReport
from trainers.data.readers.item_writer import PART_ROWS, ItemWriter
from trainers.data.readers.log_writer import LogWriter
from trainers.data.readers.shards import check_shards, shard_files
from trainers.data.readers.text_lines import (
    TABLE_ROWS,
    json_columns,
    json_records,
    line_chunks,
    require_files,
    table_batches,
    text_lines,
)
from trainers.data.readers.timestamps import TimeUnit

_TEXTS = (".csv", ".tsv", ".txt")
_NEEDED = ("user_id", "item_id", "timestamp")
_SHARD_LINES = 2**40  # more than a shard has


@dataclass
class TabularReader:
    """
    Interactions and, optionally, items: of each one file, or a folder whose files are shards of one table: `.csv`,
    `.tsv` or `.txt`, `.jsonl` (each also `.gz`) or `.parquet`. Blanks around the names of csv columns do not count;
    numbers may have decimal commas. Without a column `timestamp`, interactions of unit `order` stand in the order of
    their lines.

    Args:
        interactions (`Path`): file or folder of shards with the columns `user_id`, `item_id`, `timestamp` and, if
            there, `rating`.
        items (`Path`, *optional*): file or shards with the column `item_id` and any of `title`, `brand`, `features`,
            `categories`, `description`, `image` (a path, relative to the file's folder) and `image_url`.
        columns (`dict[str, str]`, *optional*): names in the interactions where they differ, ours to theirs:
            `user_id`, `item_id`, `timestamp`, `rating`.
        item_columns (`dict[str, str]`, *optional*): names in the items where they differ, ours to theirs: `item_id`,
            `title`, `brand`, `features`, `categories`, `description`, ...
        timestamp_unit (`str`, *optional*, defaults to `"s"`): of the timestamps; `iso`: dates as text, `order`: no
            time, integers that increase.
        separator (`str`, *optional*): of csv files, one character or `tab`; else guessed, and shown.
        encoding (`str`, *optional*): of csv files, such as `cp1252`; else guessed, and shown.
    """

    interactions: Path
    items: Path | None = None
    columns: dict[str, str] = field(default_factory=dict)
    item_columns: dict[str, str] = field(default_factory=dict)
    timestamp_unit: TimeUnit = "s"
    separator: str | None = None
    encoding: str | None = None
    format = "tabular"
    keeps_items = True

    def __post_init__(self) -> None:
        self._layouts: dict[Path, CsvLayout] = {}
        self._shards: dict[Path, list[Path]] = {}
        self._absent: dict[Path, set[str]] = {}  # of files of JSON lines: columns that were named and no line has
        for given, ours in ((self.columns, LOG_SCHEMA), (self.item_columns, ITEM_SCHEMA)):
            if unknown := sorted(set(given) - set(ours)):
                raise ReadError(f"There is no column {unknown} to name: choose from {list(ours)}.")

    def files(self) -> list[Path]:
        return [*self.log_shards(), *self.item_shards()]

    def log_shards(self) -> list[Path]:
        """The files of interactions, in order. Raises [`ReadError`], as [`shard_files`] and [`check_shards`] do."""
        return self._shards_of(self.interactions, self.columns, LOG_SCHEMA, ("user_id", "item_id"))

    def item_shards(self) -> list[Path]:
        """The files of items, in order; none if there are no items. Raises [`ReadError`] as [`log_shards`]."""
        return [] if self.items is None else self._shards_of(self.items, self.item_columns, ITEM_SCHEMA, ("item_id",))

    def _shards_of(self, path: Path, given: Mapping[str, str], ours: Mapping, ids: tuple[str, ...]) -> list[Path]:
        path = Path(path)
        if path not in self._shards:
            shards = require_files(*shard_files(path, _kind))
            if len(shards) > 1:
                columns, theirs = [given.get(name, name) for name in ours], [given.get(name, name) for name in ids]
                check_shards(shards, _kind(shards[0]), columns, theirs)
            self._shards[path] = shards
        return self._shards[path]

    def settings(self) -> dict:
        found = {"columns": self.columns, "item_columns": self.item_columns, "time_unit": self.timestamp_unit}
        self.files()
        # of shards the first one's: each is read as its own bytes say
        firsts = [(Path(path), shards[0]) for path, shards in self._shards.items()]
        texts = {path.name: str(self._layout(shard)) for path, shard in firsts if _kind(shard) in _TEXTS}
        return found | ({"layouts": texts} if texts else {})

    def _layout(self, path: Path) -> CsvLayout:
        if path not in self._layouts:
            try:
                self._layouts[path] = csv_layout(path, self.separator, self.encoding)
            except CsvError as error:
                raise ReadError(str(error)) from error
        return self._layouts[path]

    def read(self, scratch: Path, report: ReadingReport, latest_time: datetime) -> RawData:
        self.files()
        log = LogWriter(scratch, report, self.timestamp_unit, latest_time)
        for path in self.log_shards():
            for part in self.log_parts(path, scratch, report):
                log.add(part, path.name)
        self._check_named(self.interactions, self.log_shards())
        items = None
        if self.items is not None:
            writer = ItemWriter(scratch, report)
            for path in self.item_shards():
                writer.add(self.item_records(path, scratch, report))
            self._check_named(self.items, self.item_shards())
            items = writer.finish()
        return RawData(log.finish(), items, has_time=self.timestamp_unit != "order")

    def log_parts(self, path: Path, scratch: Path, report: ReadingReport) -> Iterator[pl.DataFrame]:
        """One file of interactions, a part at a time, as [`LogWriter`] takes it; rows are counted in `report`."""
        start = self.log_shards().index(path) * _SHARD_LINES
        for part in self._log_parts(path, scratch, report):
            yield part if "timestamp" in part.columns else part.with_columns(timestamp=pl.col("line") + start)

    def _log_parts(self, path: Path, scratch: Path, report: ReadingReport) -> Iterator[pl.DataFrame]:
        kind, line = _kind(path), 1
        needed = _NEEDED if self.timestamp_unit != "order" else _NEEDED[:2]
        if kind == ".jsonl":
            names = {self.columns.get(ours, ours): ours for ours in LOG_SCHEMA}
            for first_line, chunk in self._chunks(path, self.columns):
                if first_line == 1 and len(needed) == 2 and b'"timestamp"' not in chunk:
                    names.pop("timestamp", None)
                ids = [theirs for theirs, ours in names.items() if ours in ("user_id", "item_id")]
                yield json_columns(chunk, first_line, list(names), path.name, report, ids=ids).rename(names)
        elif kind == ".parquet":
            file = _open_parquet(path)
            names = _present(path, LOG_SCHEMA, self.columns, needed, file.schema_arrow.names)
            for table in file.iter_batches(batch_size=TABLE_ROWS, columns=list(names)):
                part = cast(pl.DataFrame, pl.from_arrow(pa.table(table))).rename(names)
                yield part.with_columns(line=pl.int_range(line, pl.len() + line))
                report.read["interactions"] += part.height
                line += part.height
        else:
            for part in self._csv_parts(path, scratch, report, "interactions", LOG_SCHEMA, self.columns, needed):
                numbers = [each for each in ("timestamp", "rating") if each in part.columns]
                yield part.with_columns(pl.col(each).str.replace(DECIMAL_COMMA, "$1.$2") for each in numbers)

    def item_records(self, path: Path, scratch: Path, report: ReadingReport) -> Iterator[tuple[str, Mapping]]:
        """One file of items as [`ItemWriter`] takes it; rows are counted in `report`."""
        kind, line = _kind(path), 0
        if kind == ".jsonl":
            names = {self.item_columns.get(ours, ours): ours for ours in ITEM_SCHEMA}
            for first_line, chunk in self._chunks(path, self.item_columns):
                for line, record in json_records(chunk, first_line, path.name, report, "items"):
                    yield self._placed(path, line, {ours: record.get(theirs) for theirs, ours in names.items()})
        elif kind == ".parquet":
            file = _open_parquet(path)
            names = _present(path, ITEM_SCHEMA, self.item_columns, ("item_id",), file.schema_arrow.names)
            for theirs, ours in names.items():
                if ours == "image" and not _is_text(found := file.schema_arrow.field(theirs).type):
                    raise ReadError(
                        f"{path}: the images of column {theirs!r} are of type {found}, not paths of files."
                    )
            for table in file.iter_batches(batch_size=PART_ROWS, columns=list(names)):
                for record in table.to_pylist():
                    report.read["items"] += 1
                    line += 1
                    fields = {names[theirs]: value for theirs, value in record.items()}
                    yield self._placed(path, line, fields)
        else:
            for part in self._csv_parts(path, scratch, report, "items", ITEM_SCHEMA, self.item_columns, ("item_id",)):
                for record in part.iter_rows(named=True):
                    yield self._placed(path, record["line"], record)

    def _chunks(self, path: Path, given: Mapping[str, str]) -> Iterator[tuple[int, bytes]]:
        """Lines of JSON, and of the columns that were named those which none of them has."""
        written = {name: (json.dumps(name), json.dumps(name, ensure_ascii=False)) for name in given.values()}
        self._absent[path] = set(written)
        for first_line, chunk in line_chunks(path):
            self._absent[path] -= {
                name for name in self._absent[path] if any(text.encode() in chunk for text in written[name])
            }
            yield first_line, chunk

    def _check_named(self, path: Path, shards: list[Path]) -> None:
        """Raises [`ReadError`] if a column that was named is in no line of a table of JSON lines, as an error of the
        other kinds is: a field may be left out where it is empty, but not everywhere."""
        if absent := set.intersection(*(self._absent.get(each, set()) for each in shards)):
            raise ReadError(f"{path}: no line has {sorted(absent)}. Say which columns are meant.")

    def _csv_parts(
        self,
        path: Path,
        scratch: Path,
        report: ReadingReport,
        kind: str,
        ours: Mapping,
        given: Mapping[str, str],
        needed: tuple[str, ...],
    ) -> Iterator[pl.DataFrame]:
        layout, readable = self._layout(path), path
        if not layout.is_plain:
            scratch.mkdir(parents=True, exist_ok=True)
            try:
                readable = write_utf8(path, layout, scratch / f"{kind}.csv")
            except CsvError as error:
                raise ReadError(str(error)) from error
        found = {name.strip(): name for name in _header(readable, layout, path)}
        try:
            names = _present(path, ours, given, needed, [*found])
        except ReadError as error:
            raise ReadError(f"{error} It was read with {layout}.") from error
        columns = {found[theirs]: name for theirs, name in names.items()}
        yield from table_batches(
            readable, columns, report, kind, layout.separator, source=path, escaped=layout.escaped
        )

    def _placed(self, path: Path, line: int, fields: dict) -> tuple[str, Mapping]:
        image = fields.get("image")
        if isinstance(image, str) and _is_address(image):
            fields = fields | {"image": None, "image_url": fields.get("image_url") or image}
        elif image:
            fields = fields | {"image": str(path.parent / str(fields["image"]))}
        return f"{path.name}, line {line}", fields


def _is_address(image: str) -> bool:
    from tokenization_items.item_images import is_address  # with it comes torch: only if need be

    return is_address(image)


def _kind(path: Path) -> str:
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    kinds = (*_TEXTS, ".jsonl", ".parquet")
    if suffix not in kinds or (suffix == ".parquet" and path.suffix == ".gz"):
        raise ReadError(f"{path}: no table that can be read: its name should end in {', '.join(kinds)}.")
    return suffix


def _open_parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise ReadError(f"{path} cannot be read: {error}") from error


def _is_text(kind: pa.DataType) -> bool:
    return any(check(kind) for check in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _header(path: Path, layout: CsvLayout, source: Path) -> list[str]:
    try:
        if layout.escaped:
            rows = table_rows(text_lines(path), layout.separator, '"', escaped=True)
            return polars_names(next(row for row in rows if row))
        return pl.scan_csv(path, separator=layout.separator, infer_schema=False).collect_schema().names()
    except (pl.exceptions.PolarsError, UnicodeDecodeError, OSError) as error:
        raise ReadError(f"{source} cannot be read: {error}. Is the file complete?") from error


def _present(
    path: Path, ours: Mapping, given: Mapping[str, str], needed: tuple[str, ...], found: list[str]
) -> dict[str, str]:
    """`{theirs: ours}` of the columns that are there; those that are needed or were named must be."""
    names = {given.get(name, name): name for name in ours}
    missing = [theirs for theirs, name in names.items() if theirs not in found and (name in needed or name in given)]
    if missing:
        hint = "Say which columns are meant."
        if "timestamp" in missing:
            hint += " Without times, --timestamp_unit order takes the rows in their order."
        raise ReadError(f"{path} lacks the columns {missing}; it has {found}. {hint}")
    return {theirs: name for theirs, name in names.items() if theirs in found}
