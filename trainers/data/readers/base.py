"""The protocol of a reader: the log and the items that it hands on, an account of what it left out, sizes of files."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol, SupportsInt

import polars as pl
import pyarrow.parquet as pq

MAX_EXAMPLES = 10  # rows that the report spells out for each reason
SAMPLE_BYTES = 4 * 2**20  # of text, from which the number of a file's lines is guessed

LOG_SCHEMA = pl.Schema({"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64, "rating": pl.Float64})
ITEM_SCHEMA = pl.Schema(
    {
        "item_id": pl.String(),
        "title": pl.String(),
        "brand": pl.String(),
        "features": pl.List(pl.String),
        "categories": pl.List(pl.String),
        "description": pl.String(),
        "image": pl.String(),
        "image_url": pl.String(),
    }
)


class ReadError(ValueError):
    """A source that cannot be read as it is; the message names the file, the line or field, and the fix."""


def id_column(column: pl.Series) -> tuple[pl.Series, pl.Series]:
    """
    Ids of a column as strings, by the rule of [`~hub_cards.item_ids.id_text`]: whole numbers that a table
    made floating-point ones of are whole again, and so are decimals without a fraction, as databases export ids.

    Args:
        column (`pl.Series`): of any type.

    Returns:
        The ids, strings, null where they are missing or none; and where they are none, bool: fractions, truth values,
        lists.
    """
    kind, there = column.dtype, column.is_not_null()
    if kind.is_float():
        known = column.cast(pl.Float64).fill_nan(None)
        there = known.is_not_null()
        is_whole = ((known == known.floor()) & (known.abs() < 2**53)).fill_null(False)
        ids = known.set(~is_whole, None).cast(pl.Int64)
    elif kind.is_decimal():
        ids = column.set((column != column.floor()).fill_null(False), None).cast(pl.Int128)
    elif kind.is_integer() or kind in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        ids = column
    else:
        ids = pl.Series(column.name, [None] * len(column), dtype=pl.String)
    return ids.cast(pl.String), there & ids.is_null()


def plain_column(column: pl.Series) -> pl.Series:
    """A column of texts that a table holds by their numbers (categories) as the texts; others as they are."""
    return column.cast(pl.String) if column.dtype in (pl.Categorical, pl.Enum) else column


class ReadingReport:
    """
    Counts of what was read and of what was dropped on the way, with the first few rows of each reason.

    Kinds are `"interactions"`, `"items"`, `"fields"` (a value was left out, its row stays) and `"images"`. For
    interactions and items, what was read is what is kept plus what was dropped: every row is in one of the two.
    """

    def __init__(self) -> None:
        self.read: Counter[str] = Counter()
        self._dropped: dict[str, dict[str, dict]] = {}

    def drop(self, kind: str, reason: str, count: SupportsInt, examples: Iterable[str] = ()) -> None:
        """Adds `count` rows that were dropped for `reason`; `examples` name some of them (file, line, field)."""
        count = int(count)
        if not count:
            return
        entry = self._dropped.setdefault(kind, {}).setdefault(reason, {"count": 0, "examples": []})
        entry["count"] += count
        entry["examples"] += list(examples)[: MAX_EXAMPLES - len(entry["examples"])]

    def dropped(self, kind: str) -> int:
        """Number of dropped rows of a kind."""
        return sum(entry["count"] for entry in self._dropped.get(kind, {}).values())

    def count(self, kind: str, reason: str) -> int:
        """Number of rows of a kind that were dropped for one reason."""
        return self._dropped.get(kind, {}).get(reason, {"count": 0})["count"]

    def merge(self, other: Mapping) -> None:
        """Adds what another report counted, as its [`to_dict`] has it."""
        self.read.update(other["read"])
        for kind, reasons in other["dropped"].items():
            for reason, entry in reasons.items():
                self.drop(kind, reason, entry["count"], entry["examples"])

    def to_dict(self) -> dict:
        """`{"read": {kind: count}, "dropped": {kind: {reason: {"count", "examples"}}}}`."""
        return {"read": dict(self.read), "dropped": self._dropped}

    def __str__(self) -> str:
        """A line for each kind and reason, and one for each of their examples."""
        lines = [f"read {count:,} {kind}" for kind, count in self.read.items()]
        for kind, reasons in self._dropped.items():
            lines += [f"dropped {line}" for line in describe_dropped(reasons, f" {kind}")]
        return "\n".join(lines)


def describe_dropped(reasons: Mapping[str, Mapping], kind: str = "") -> list[str]:
    """
    How many rows were dropped, why and which, a text of several lines for each reason.

    Args:
        reasons (`Mapping[str, Mapping]`): of one kind, as in [`ReadingReport.to_dict`].
        kind (`str`, *optional*): what they are, after a blank.
    """
    texts = []
    for reason, entry in reasons.items():
        examples = [str(each) for each in entry["examples"]]
        more = entry["count"] - len(examples)
        examples += [f"and {more:,} more"] if examples and more > 0 else []
        texts.append("\n    ".join([f"{entry['count']:,}{kind}: {reason}", *examples]))
    return texts


@dataclass
class RawData:
    """
    One data set as its source has it, ids as strings, nothing filtered but what cannot be read.

    Args:
        log (`pl.LazyFrame`): one row per interaction in the order of the source: `user_id`, `item_id`, `timestamp`
            (int64: microseconds since 1970 in UTC, or a place in the order of the source) and `rating` (may be null).
        items (`pl.LazyFrame`, *optional*): `item_id` (unique), `title`, `brand`, `features`, `categories`,
            `description` (cleaned), `image` (path of a local file) and `image_url`, in the order of the source. `None`
            for a log without items.
        has_time (`bool`): whether `timestamp` is a time; otherwise it is an order.
    """

    log: pl.LazyFrame
    items: pl.LazyFrame | None
    has_time: bool


class Reader(Protocol):
    """One source in one published layout."""

    format: str
    # by default also items without interactions: those of a shop, not of a benchmark's candidates
    keeps_items: bool

    def files(self) -> list[Path]:
        """The files that [`read`] will open. Raises [`ReadError`] if one is missing."""
        ...

    def settings(self) -> dict:
        """What was chosen in reading, in plain values for `prepared.json`."""
        ...

    def read(self, scratch: Path, report: ReadingReport, latest_time: datetime) -> RawData:
        """
        Reads everything into files in `scratch`, a part at a time, and counts in `report` what it drops.

        Interactions after `latest_time` are dropped: a clock that runs ahead would make them test targets.
        """
        ...


def sha256_of(path: Path) -> str:
    """Checksum of a file's content, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def described(path: Path) -> dict:
    """Name, size and checksum of a source, as `prepared.json` has them."""
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}


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
