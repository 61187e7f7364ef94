"""Rows of csv tables, and those that are not what the header says, in words for an error."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import polars as pl

# What programs write for an empty field: pandas, R, SQL, Python's str, MySQL. As an id it would be one customer of all
# who are not known.
MISSING = ("NA", "<NA>", "N/A", "n/a", "#N/A", "NaN", "nan", "NULL", "null", "None", "\\N")
LONGEST_FIELD = 2**24  # characters: as the HTML of a page

_BACKSLASH = re.compile(r'\\(["\\])|\\')


def stray_quotes(separator: str) -> re.Pattern[bytes]:
    """What finds a quote with a text on both sides: one that is not doubled in a quoted text, between two of which
    polars takes all rows for one text, or one of an unquoted text."""
    return re.compile(rb'[^"\r\n%b]"[^"\r\n%b]' % ((re.escape(separator.encode()),) * 2))


def bad_row(lines: Iterable[str], separator: str = ",", quote: str | None = '"', escaped: bool = False) -> str | None:
    """Names the first row of a csv table that is longer than the header, or is not closed; see [`table_rows`]."""
    return check_rows(lines, separator, quote, escaped)[0]


def check_rows(
    lines: Iterable[str], separator: str = ",", quote: str | None = '"', escaped: bool = False
) -> tuple[str | None, int]:
    """What [`bad_row`] says, and how many more rows before it have all fields than lack some; empty ones are none."""
    number, width, whole = 0, None, 0  # number: of the line on which the last row ended
    rows = table_rows(lines, separator, quote, escaped)
    try:
        for row in rows:
            width = width or len(row)
            if len(row) > width:
                return f"line {number + 1} has {len(row)} fields, the first line has {width}: {row}.", whole
            whole += (len(row) == width) - (0 < len(row) < width)
            number = rows.line_num
    except csv.Error as error:
        return f"the row that starts on line {number + 1}: {error}.", whole
    return None, whole


def repeated_columns(
    lines: Iterable[str], separator: str = ",", quote: str | None = '"', escaped: bool = False
) -> list[str]:
    """Names that several columns of a csv table have, of which one would be read and none knows which."""
    try:
        header: list[str] = next(iter(table_rows(lines, separator, quote, escaped)), [])
    except csv.Error:  # which `bad_row` says
        return []
    counts = Counter(name.strip().removeprefix("\ufeff") for name in header)
    return [name for name, count in counts.items() if count > 1 and name]


def table_rows(lines: Iterable[str], separator: str, quote: str | None, escaped: bool = False) -> Any:
    """
    The rows of a csv table, read by Python's csv module: slower than polars, but a quote within an unquoted text is a
    character.

    Args:
        escaped (`bool`, *optional*, defaults to `False`): a backslash before a quote or a backslash makes that a
            character; before others it is one itself.

    Returns:
        A reader of the csv module, which has no name for their type. It raises `csv.Error` for a row that is none.
    """
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quote is not None else csv.QUOTE_NONE
    if escaped:  # the csv module would take the backslash away from every character
        lines = (_BACKSLASH.sub(_kept, line) if "\\" in line else line for line in lines)
    escape = "\\" if escaped else None
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_FIELD))  # it is one for the whole process
    return csv.reader(lines, delimiter=separator, quoting=quoting, escapechar=escape, strict=True)


def _kept(found: re.Match[str]) -> str:
    return found[0] if found[1] else "\\\\"


def table_frames(rows: Iterator[list[str]], names: list[str], num_rows: int) -> Iterator[pl.DataFrame]:
    """Rows of a table that [`bad_row`] finds nothing in as frames of strings, `num_rows` at a time; null for an empty
    field (also as [`MISSING`] has it) and one that a short row lacks."""
    import polars as pl

    while part := list(islice(rows, num_rows)):
        whole = [row + [""] * (len(names) - len(row)) for row in part]
        frame = pl.DataFrame([*zip(*whole, strict=True)], schema=dict.fromkeys(names, pl.String), orient="col")
        yield frame.with_columns(pl.when(~pl.all().is_in(("", *MISSING))).then(pl.all()))


def polars_names(header: list[str]) -> list[str]:
    """Names of columns, made different as polars does (those that repeat are none: see [`repeated_columns`])."""
    names: list[str] = []
    for name in header:
        names.append(
            name if name not in names else f"_duplicated_{sum(each == name for each in header[: len(names)]) - 1}"
        )
    return names
