"""Files of lines, gzipped or not, a part at a time: JSON lines, Python literals, tables; files of one JSON object."""

from __future__ import annotations

import ast
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl
from tqdm.auto import tqdm

from hub_cards.csv_layout import CsvError, CsvLayout, file_is_escaped, opened
from hub_cards.csv_rows import MISSING, bad_row, polars_names, repeated_columns, stray_quotes, table_frames, table_rows
from hub_cards.item_ids import IdError, id_text
from trainers.data.readers.base import MAX_EXAMPLES, ReadError, ReadingReport

CHUNK_BYTES = 32 * 2**20  # of text that is held at once
MAX_LINE_BYTES = 256 * 2**20
TABLE_ROWS = 500_000  # rows of a table that are held at once
_NO_ID = r"^(true|false|[-+]?\d*\.\d+|[-+]?\d+(\.\d*)?[eE][-+]?\d+|NaN|-?Infinity)$"  # or a text like one
_LINE = "number of the line"  # no column of a file
SHOWN = 80  # characters of an offending line in a message


def require_files(*paths: Path) -> list[Path]:
    """The paths, if each is a file that is not empty."""
    for path in paths:
        if not path.is_file():
            raise ReadError(f"{path}: no such file.")
        if not path.stat().st_size:
            raise ReadError(f"{path} is empty.")
    return list(paths)


def only_file(folder: Path, pattern: str) -> Path:
    """The one file of a folder that fits a pattern. Raises `ReadError` if there is none, or several."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        names = [path.name for path in found] or "none"
        raise ReadError(f"{folder}: expected one file {pattern}, found {names}; give its folder, or the name it has.")
    return found[0]


def line_chunks(path: Path, chunk_bytes: int = CHUNK_BYTES) -> Iterator[tuple[int, bytes]]:
    """
    Complete lines of a file (`.gz`: decompressed on the way): number of the first line, from 1, and the bytes.

    Raises:
        ReadError: if the file is truncated or no gzip file.
    """
    number, rest = 1, b""
    with (
        open(path, "rb") as raw,
        gzip.open(raw) if path.suffix == ".gz" else raw as file,
        tqdm(total=path.stat().st_size, desc=path.name, unit="B", unit_scale=True, disable=None) as bar,
    ):
        while True:
            try:
                block = file.read(chunk_bytes)
            except (EOFError, OSError, zlib.error) as error:
                raise ReadError(f"{path}, after line {number - 1}: {error}. Is the file complete?") from error
            bar.update(raw.tell() - bar.n)
            block = rest + block
            end = block.rfind(b"\n") + 1
            if len(block) == len(rest):  # nothing was added: the end of the file
                if rest:
                    yield number, rest
                return
            if end:
                yield number, block[:end]
                number += block.count(b"\n", 0, end)
            rest = block[end:]
            if len(rest) > MAX_LINE_BYTES:
                raise ReadError(f"{path}, line {number} is longer than {MAX_LINE_BYTES} bytes: no file of lines.")


def json_columns(
    chunk: bytes,
    first_line: int,
    fields: Sequence[str],
    file: str,
    report: ReadingReport,
    literals: bool = False,
    ids: Sequence[str] = (),
) -> pl.DataFrame:
    """
    Fields of interactions in JSON lines as strings (null where absent), with the number of each `line`; whole numbers
    that are written with a decimal point are the integers.

    Lines that are no JSON object, or have a list or an object in one of these fields, or in one of ids what is no id
    (see [`~hub_cards.item_ids.id_text`]), are dropped and counted.

    Args:
        ids (`Sequence[str]`, *optional*): those of the fields that hold ids.
        literals (`bool`, *optional*, defaults to `False`): also takes lines that are Python literals.
    """
    num_lines = chunk.count(b"\n") + (not chunk.endswith(b"\n"))
    schema = dict.fromkeys(fields, pl.String)
    try:
        frame = pl.read_ndjson(io.BytesIO(chunk), schema=schema)
    except pl.exceptions.PolarsError:
        frame = None  # some line is no JSON
    looks_odd = pl.any_horizontal(pl.lit(False), *(pl.col(field).str.contains(_NO_ID) for field in ids))
    if frame is not None and frame.height == num_lines and not frame.select(looks_odd.any()).item():
        report.read["interactions"] += num_lines
        frame = frame.with_columns(pl.int_range(first_line, first_line + num_lines, dtype=pl.Int64).alias("line"))
    else:  # blank lines are left out: which ones? "true" may be a text, and true is no id
        records = _with_ids(json_records(chunk, first_line, file, report, "interactions", literals), ids, file, report)
        rows = [(*(_as_text(record.get(field)) for field in fields), line) for line, record in records]
        frame = pl.DataFrame(rows, schema=schema | {"line": pl.Int64}, orient="row")
    nested = pl.any_horizontal(pl.col(field).str.contains(r"^[\[{]") for field in fields).fill_null(False)
    examples = [f"{file}, line {row[-1]}: {row[:-1]}" for row in frame.filter(nested).head(MAX_EXAMPLES).iter_rows()]
    reason = f"a list or an object in one of {', '.join(fields)}"
    report.drop("interactions", reason, frame.select(nested.sum()).item(), examples)
    return frame.filter(~nested)


def json_records(
    chunk: bytes, first_line: int, file: str, report: ReadingReport, kind: str, literals: bool = False
) -> Iterator[tuple[int, dict]]:
    """The objects of JSON lines, with their line numbers; other lines are dropped and counted, blank ones skipped."""
    for line, text in enumerate(chunk.split(b"\n"), first_line):
        if not text.strip():
            continue
        report.read[kind] += 1
        try:
            record = _parse(text, literals)
        except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
            reason = "the line is neither JSON nor a Python literal" if literals else "the line is not JSON"
            report.drop(kind, reason, 1, [f"{file}, line {line}: {error}: {text[:SHOWN]!r}"])
            continue
        if not isinstance(record, dict):
            report.drop(kind, "the line is no object", 1, [f"{file}, line {line}: {text[:SHOWN]!r}"])
            continue
        yield line, record


def _with_ids(
    records: Iterable[tuple[int, dict]], ids: Sequence[str], file: str, report: ReadingReport
) -> Iterator[tuple[int, dict]]:
    """Records whose ids are ids; lists and objects are left to others."""
    for line, record in records:
        try:
            for field in ids:
                if not isinstance(record.get(field), list | dict):
                    id_text(record.get(field))
        except IdError as error:
            reason = f"what is no string or whole number in one of {', '.join(ids)}"
            report.drop("interactions", reason, 1, [f"{file}, line {line}: {field} {error}"])
            continue
        yield line, record


def _parse(text: bytes, literals: bool) -> object:
    try:
        return json.loads(text)
    except ValueError:
        if not literals:
            raise
        return ast.literal_eval(text.decode("utf-8").strip())


def _as_text(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, (list, dict)):
        return json.dumps(value)
    if isinstance(value, bool):
        return str(value).lower()  # as polars writes it
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return plain_text(str(value))


def plain_text(text: str) -> str:
    """The text without lone surrogates, which no encoder takes ("\\ud83d" of a pair that was cut)."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def load_json(path: Path) -> dict:
    """
    One JSON object in one file.

    Raises:
        ReadError: if it is not JSON, no object, or an object names the same key twice.
    """

    def once(pairs: list[tuple[str, object]]) -> dict:
        found = dict(pairs)
        if len(found) != len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ReadError(f"{path}: the key {twice!r} occurs twice in one object; keep the one that is meant.")
        return found

    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise ReadError(f"{path}, line {error.lineno}, column {error.colno}: not JSON: {error.msg}.") from error
    except UnicodeDecodeError as error:
        raise ReadError(f"{path}: not UTF-8: {error}.") from error
    except (ValueError, RecursionError) as error:  # as of a number of thousands of digits
        raise error if isinstance(error, ReadError) else ReadError(f"{path}: not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ReadError(f"{path}: expected an object, found {type(content).__name__}.")
    return content


def table_batches(
    path: Path,
    columns: Mapping[str, str] | Mapping[int, str],
    report: ReadingReport,
    kind: str = "interactions",
    separator: str = ",",
    quote: str | None = '"',
    header: bool = True,
    source: Path | None = None,
    escaped: bool | None = None,
) -> Iterator[pl.DataFrame]:
    """
    Rows of a table as strings, `TABLE_ROWS` at a time, with the number of each `line` (not counting line breaks within
    quotes). Lines without any of the values are dropped and counted in `report`; short lines have nulls, and so
    has what stands for an empty value, such as NA.

    Args:
        columns (`Mapping[str, str]` or `Mapping[int, str]`): our names of the file's columns, `{theirs: ours}`;
            without a header, theirs are their places, from 0.
        separator (`str`, *optional*, defaults to `","`): one character; "::" is read as ":" with empty columns
            between.
        source (`Path`, *optional*): the file that `path` is a copy of, for messages.
        escaped (`bool`, *optional*): whether quotes in texts have backslashes before them; by default as
            [`~hub_cards.csv_layout.file_is_escaped`] tells.

    Raises:
        ReadError: if a column is missing, two have one name, a line has more fields than the first, whichever columns
            are read, or the file is cut or not UTF-8; or what backslashes before quotes mean cannot be told.
    """
    shown = path if source is None else source
    if escaped is None:
        try:
            escaped = quote is not None and file_is_escaped(path, CsvLayout(separator, "utf-8"), str(shown))
        except CsvError as error:
            raise ReadError(str(error)) from error
    try:
        twice = repeated_columns(text_lines(path), separator, quote, escaped) if header else []
    except (UnicodeDecodeError, EOFError, OSError, zlib.error) as error:
        raise ReadError(f"{shown} cannot be read: {_bad_line(path, separator, quote, escaped) or error}") from error
    if twice:
        raise ReadError(f"{shown}: the columns {twice} occur twice; rename one of each.")
    try:
        found, batches = _table(path, separator, quote, header, escaped)
        known = found if header else range(len(found))
        if missing := [name for name in columns if name not in known]:
            raise ReadError(f"{shown} lacks the columns {missing}; it has {list(known)}.")
        names = {each if isinstance(each, str) else found[each]: ours for each, ours in columns.items()}
        for batch in batches:
            batch = batch.select(
                pl.col(_LINE).cast(pl.Int64).alias("line"),
                *(pl.col(theirs).alias(ours) for theirs, ours in names.items()),
            )
            empty = batch.select(pl.all_horizontal(pl.col(list(columns.values())).is_null())).to_series()
            report.read[kind] += batch.height
            examples = [f"{shown.name}, line {line}" for line in batch["line"].filter(empty).head(MAX_EXAMPLES)]
            report.drop(kind, "the line is empty", empty.sum(), examples)
            yield batch.filter(~empty)
    except (pl.exceptions.PolarsError, UnicodeDecodeError, OSError, EOFError, zlib.error) as error:
        raise ReadError(f"{shown} cannot be read: {_bad_line(path, separator, quote, escaped) or error}") from error


def _table(
    path: Path, separator: str, quote: str | None, header: bool, escaped: bool
) -> tuple[list[str], Iterator[pl.DataFrame]]:
    """The columns of a table and its rows with their `_LINE`, read by polars unless a quote misleads it."""
    first_line = 2 if header else 1
    if not escaped:
        layout: dict[str, Any] = {"separator": separator, "quote_char": quote, "has_header": header}
        frame = pl.scan_csv(path, **layout, infer_schema=False, null_values=[*MISSING])
        try:
            if quote is not None and _holds(path, stray_quotes(separator)):
                raise pl.exceptions.ComputeError("a quote within a text")
            if quote is not None and _holds(path, re.compile(re.escape(quote.encode()))):
                # a quote within an unquoted text: polars leaves out rows before it says that it was misled
                for _ in frame.collect_batches(chunk_size=TABLE_ROWS, maintain_order=False):
                    pass
            found = frame.collect_schema().names()
            frame = frame.with_row_index(_LINE, offset=first_line)
            # all columns: of a line with too many fields polars would take the first ones, unless it reads the last
            return found, frame.collect_batches(chunk_size=TABLE_ROWS, maintain_order=True)
        except pl.exceptions.PolarsError:
            if quote is None or _bad_line(path, separator, quote):
                raise
    rows = table_rows(text_lines(path), separator, quote, escaped)
    first: list[str] = next((row for row in rows if row), [])
    found = polars_names(first) if header else [f"column_{number}" for number in range(1, len(first) + 1)]
    return found, _numbered(table_frames(rows if header else chain([first], rows), found, TABLE_ROWS), first_line)


def _numbered(frames: Iterable[pl.DataFrame], first_line: int) -> Iterator[pl.DataFrame]:
    for frame in frames:
        yield frame.with_row_index(_LINE, offset=first_line)
        first_line += frame.height


def _holds(path: Path, wanted: re.Pattern[bytes]) -> bool:
    """Whether something of at most three bytes is in a file, gzipped or not."""
    end = b""
    with opened(path) as file:
        while part := file.read(CHUNK_BYTES):
            if wanted.search(end + part):
                return True
            end = part[-2:]
    return False


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a text file, gzipped or not; a byte order mark is left out."""
    with opened(path) as lines:
        for line in lines:
            yield line.decode("utf-8").removeprefix("\ufeff")


def _bad_line(path: Path, separator: str, quote: str | None, escaped: bool = False) -> str | None:
    """Names the first line of a table that cannot be read (slow; runs after a failure only)."""
    number = 0

    def counted() -> Iterator[str]:
        nonlocal number
        for line in text_lines(path):
            number += 1
            yield line

    try:
        return bad_row(counted(), separator, quote, escaped)
    except UnicodeDecodeError as error:
        return f"line {number + 1} is not UTF-8: {error}."
    except (EOFError, OSError, zlib.error) as error:
        return f"after line {number}: {error}. Is the file complete?"


def bad_json_line(lines: Iterable[str | bytes]) -> str | None:
    """Names the first of JSON lines that is not a JSON object; blank ones are none."""
    for number, line in enumerate(lines, 1):
        try:
            if line.strip() and not isinstance(json.loads(line), dict):
                return f"line {number} is not a JSON object: {line[:SHOWN]!r}."
        except (ValueError, RecursionError) as error:
            return f"line {number} is not valid JSON ({error}): {line[:SHOWN]!r}."
    return None
