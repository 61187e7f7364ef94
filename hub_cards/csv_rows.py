"""Rows of csv tables that are not what the header says, in words for an error."""

import csv
from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal


def bad_row(lines: Iterable[str], separator: str = ",", quote: str | None = '"') -> str | None:
    """Names the first row of a csv table that is longer than the header, or is not closed."""
    number, width = 0, None  # of the line on which the last row ended
    rows = _rows(lines, separator, quote)
    try:
        for row in rows:
            width = width or len(row)
            if len(row) > width:
                return f"line {number + 1} has {len(row)} fields, the first line has {width}: {row}."
            number = rows.line_num
    except csv.Error as error:
        return f"the row that starts on line {number + 1}: {error}."
    return None


def repeated_columns(lines: Iterable[str], separator: str = ",", quote: str | None = '"') -> list[str]:
    """Names that several columns of a csv table have, of which one would be read and none knows which."""
    try:
        header: list[str] = next(iter(_rows(lines, separator, quote)), [])
    except csv.Error:  # which `bad_row` says
        return []
    counts = Counter(name.strip().removeprefix("\ufeff") for name in header)
    return [name for name, count in counts.items() if count > 1 and name]


def _rows(lines: Iterable[str], separator: str, quote: str | None) -> Any:  # csv has no name for its readers
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quote is not None else csv.QUOTE_NONE
    return csv.reader(lines, delimiter=separator, quoting=quoting, strict=True)
