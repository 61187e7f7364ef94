"""Values as Markdown: tables, lists, durations."""

import math
import re
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

_VOWELS = frozenset("aeiouy")


def plain(value: Any) -> Any:
    """`value` in plain types: numbers of numpy and torch become Python's, other objects their text.

    `None` stands for missing, and so do numbers that are not finite: they were not measured.
    """
    if hasattr(value, "tolist"):  # numpy scalars (some of them are Python floats too) and arrays, tensors
        value = value.tolist()
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return str(value)


def known(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are there, as [`plain`] gives them."""
    return {key: plain(value) for key, value in values.items() if plain(value) is not None}


def metric_name(key: str) -> str:
    """`"ndcg@10"` as the field writes it: `"NDCG@10"`, and `"long_tail_recall@5"`: `"Long tail recall@5"`.

    Words without a vowel (mrr, ndcg), and names of at most three letters (map, auc), are abbreviations.
    """
    stem, at, cut = key.partition("@")
    words = stem.split("_")
    short = len(stem) <= 3
    words = [word.upper() if short or not _VOWELS & set(word.lower()) else word for word in words]
    name = " ".join(words)
    return f"{name[:1].upper()}{name[1:]}{at}{cut}"


def markdown_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """A table with the rows' keys as columns, in order of first appearance; columns without any value are left out."""
    cells = [{str(key): plain(value) for key, value in row.items()} for row in rows]
    columns = list(dict.fromkeys(key for row in cells for key, value in row.items() if value is not None))
    if not columns:
        return ""
    numeric = {column: all(not isinstance(row.get(column), str) for row in cells) for column in columns}
    lines = [
        [_escape(column) for column in columns],
        ["---:" if numeric[column] else "---" for column in columns],
        *([format_cell(row.get(column)) for column in columns] for row in cells),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown_list(values: Mapping[str, Any]) -> str:
    """One line `- name: value` for each value that is known; numbers in full, as they were set."""
    known = ((key, plain(value)) for key, value in values.items())
    return "\n".join(f"- {without_html(key)}: {_escape(str(value))}" for key, value in known if value is not None)


def format_duration(seconds: float) -> str:
    """`5025.0` as `1 h 23 min 45 s`; less than a minute keeps one decimal."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return " ".join(f"{count} {unit}" for count, unit in ((hours, "h"), (minutes, "min"), (rest, "s")) if count)


def format_cell(value: Any) -> str:
    """A value of a table: four decimals below 1, four digits above, `–` for nothing."""
    if value is None:
        return "–"
    if not isinstance(value, float):
        return _escape(str(value))
    if value == 0 or 1e-4 <= abs(value) < 1:
        return f"{value:.4f}"
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"


def without_html(text: str) -> str:
    """Text that Markdown shows as it is, where names of other people's files might hold tags or comments of HTML."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)


def _escape(text: str) -> str:
    return " ".join(without_html(text).replace("|", "\\|").split())
