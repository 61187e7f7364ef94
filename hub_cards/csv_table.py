"""Table of a csv file that is in memory, whatever its separator, encoding and line ends."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from hub_cards.csv_layout import (
    CHUNK_BYTES,
    SNIFFED_BYTES,
    CsvError,
    CsvLayout,
    encoding_of,
    quotes_are_escaped,
    separator_of,
)
from hub_cards.csv_rows import MISSING, bad_row, polars_names, repeated_columns, stray_quotes, table_frames, table_rows

if TYPE_CHECKING:
    import polars as pl

PART_ROWS = 500_000  # rows that are held as lists at once
DECIMAL_COMMA = r"^([-+]?\d+),(\d+)$"  # of a number; "$1.$2" has a point


def read_csv(data: bytes, name: str) -> tuple[pl.DataFrame, CsvLayout]:
    """
    Reads a table, with the layout that its bytes tell. Blanks around the names of columns do not count, and rows
    without any value are left out.

    Args:
        data (`bytes`): of the file, not packed.
        name (`str`): of the file, for messages.

    Returns:
        The rows, all values strings and null for an empty one, also as [`~hub_cards.csv_rows.MISSING`] has it, and how
        they were written.

    Raises:
        CsvError: the bytes are no text or none of its encoding, there is one column or two have one name, a row has
            more fields than the first, or what backslashes before quotes mean cannot be told. The line is named.
    """
    import polars as pl

    encoding, mark = encoding_of(data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES))
    data = data[mark:]
    if encoding != "utf-8":
        try:
            data = data.decode(encoding).encode("utf-8")
        except UnicodeDecodeError as error:
            raise CsvError(f"{name} is not {encoding}, as its beginning is: {error}. Is the file complete?") from error
    if not data.strip():
        raise CsvError(f"{name} is empty.")
    if (zero := data.find(b"\0")) >= 0:
        raise CsvError(f"{name}, line {_line(data, zero)} holds a zero byte: it is no text. Is the file complete?")
    line_end = "\n"
    if b"\r" in data and b"\n" not in data:  # of old Macintoshes
        data, line_end = data.replace(b"\r", b"\n"), "\r"
    sample = data[: SNIFFED_BYTES + 1]
    if len(sample) < len(data):
        sample = sample[: sample.rfind(b"\n") + 1] or sample
    separator = separator_of(sample.decode("utf-8", "replace"), name)
    escaped = b'\\"' in data and quotes_are_escaped(lambda: _lines(data), separator, name)
    if twice := repeated_columns(_lines(data), separator, escaped=escaped):
        raise CsvError(f"{name}: the columns {twice} occur twice: rename one of each.")
    try:
        frame = None if escaped or stray_quotes(separator).search(data) else _read_polars(data, separator)
    except pl.exceptions.PolarsError:
        frame = None
    if frame is None:  # a row that is none, or quotes that mislead polars
        _check_utf8(data, name)
        if wrong := bad_row(_lines(data), separator, escaped=escaped):
            advice = "A text with a separator or a quote in it must be quoted, and each quote in it doubled."
            raise CsvError(f"{name} cannot be read: {wrong} {advice}")
        frame = _read_rows(data, separator, escaped)
    frame = frame.rename(dict(zip(frame.columns, (each.strip() for each in frame.columns), strict=True)))
    layout = CsvLayout(separator, encoding, line_end, mark, escaped)
    return frame.filter(~pl.all_horizontal(pl.all().is_null())), layout


def _read_polars(data: bytes, separator: str) -> pl.DataFrame:
    import polars as pl

    return pl.read_csv(io.BytesIO(data), separator=separator, infer_schema=False, null_values=[*MISSING])


def _read_rows(data: bytes, separator: str, escaped: bool) -> pl.DataFrame:
    """The table, read row by row."""
    import polars as pl

    rows = table_rows(_lines(data), separator, '"', escaped)
    names = polars_names(next(row for row in rows if row))
    parts = [*table_frames(rows, names, PART_ROWS)]
    return pl.concat(parts) if parts else pl.DataFrame(schema=dict.fromkeys(names, pl.String))


def _check_utf8(data: bytes, name: str) -> None:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as broken:
        line = _line(data, broken.start)
        raise CsvError(f"{name}, line {line} is not UTF-8, as the others are: {broken}.") from broken


def _line(data: bytes, place: int) -> int:
    return data[:place].count(b"\n") + 1


def _lines(data: bytes) -> io.TextIOWrapper:
    """The lines, decoded as they are read."""
    return io.TextIOWrapper(io.BytesIO(data), "utf-8", "replace", newline="\n")
