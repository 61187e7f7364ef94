"""Interaction files → one frame of (`user_id`, `items`), with errors that name the file and the rows.

Ids become strings; whether the catalogue knows the items is checked in [`Interactions`]. A file
of single events may say of each to which part of a split it belongs, and either kind of file how items were rated.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl

MAX_NAMED = 10  # offenders named in one error message
PARTS = ("train", "validation", "test")  # what the column `split` of an event file may say
RECORD_FILE = "prepared.json"  # how a data folder was made; `choices.split` names its split
SEQUENCE_FILES = ("sequences.jsonl", "sequences.jsonl.gz", "sequences.parquet")
EVENT_FILES = (
    "interactions.csv",
    "interactions.csv.gz",
    "interactions.jsonl",
    "interactions.jsonl.gz",
    "interactions.parquet",
)


class InteractionError(ValueError):
    """Interactions that cannot be used as they are; the message names the offending rows and the fix."""


def read_sequences(folder: Path) -> tuple[pl.DataFrame, str]:
    """Reads the one interaction file of a folder.

    Returns:
        The frame, one row per user with a list of items, oldest first; where the file has them, the list `ratings`
        (numbers, null for an item that was not rated) and, where a file of events has a column `split`, the list
        `parts` of each item's place in [`PARTS`]; and the file's name for error messages.

    Raises:
        InteractionError: no file or several, an unreadable file, a missing column, an empty id or timestamp, a `split`
            that is none of [`PARTS`], a rating that is no number, or another number of ratings than of items.
    """
    found = [name for name in SEQUENCE_FILES + EVENT_FILES if (folder / name).exists()]
    if not found:
        raise InteractionError(
            f"{folder} has no interactions: expected one of {', '.join(SEQUENCE_FILES + EVENT_FILES)}."
        )
    if len(found) > 1:
        raise InteractionError(f"{folder} has {' and '.join(found)}: keep the one that is meant.")
    file = folder / found[0]
    frame = _read_frame(file)
    if found[0] in EVENT_FILES:
        return _group_events(frame, file), str(file)
    frame = frame.select(column for column in ("user_id", "items", "ratings") if column in frame.columns)
    return (_check_ratings(frame, file) if "ratings" in frame.columns else frame), str(file)


def read_split_name(folder: Path) -> str:
    """How the folder's record names the split of its interactions; `"given by the data"` without one.

    Raises:
        InteractionError: the record is not JSON.
    """
    try:
        record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        record = {}
    except ValueError as error:
        raise InteractionError(f"{folder / RECORD_FILE} is not valid JSON: {error}. Prepare the data anew.") from error
    choices = record.get("choices") if isinstance(record, dict) else None
    name = choices.get("split") if isinstance(choices, dict) else None
    return name if isinstance(name, str) and name else "given by the data"


def named(ids: Sequence[str], noun: str) -> str:
    """`"users 'a', 'b' and 3 more"`."""
    more = f" and {len(ids) - MAX_NAMED} more" if len(ids) > MAX_NAMED else ""
    return f"{noun}{'s' if len(ids) > 1 else ''} {', '.join(repr(i) for i in ids[:MAX_NAMED])}{more}"


def require_columns(frame: pl.DataFrame, columns: Sequence[str], source: str) -> None:
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise InteractionError(f"{source} lacks {named(missing, 'column')}; it has {named(frame.columns, 'column')}.")


def reject_blank(frame: pl.DataFrame, column: str, source: str) -> None:
    """Raises InteractionError where `column` (strings) is null or empty."""
    blank = frame.select((pl.col(column).is_null() | (pl.col(column) == "")).arg_true()).to_series().to_list()
    if blank:
        rows = named([row + 1 for row in blank], "row")
        raise InteractionError(f"{source}: empty {column} in {rows}; fill it in or remove the row.")


def _read_frame(file: Path) -> pl.DataFrame:
    """Reads a csv (all columns as strings), jsonl or parquet file, gzipped or not."""
    try:
        if file.suffix == ".parquet":
            return pl.read_parquet(file)
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, pl.exceptions.PolarsError) as error:
        raise InteractionError(f"{file} cannot be read: {error}. Is it complete?") from error
    if not data.strip():
        raise InteractionError(f"{file} is empty.")
    try:
        if ".csv" in file.suffixes:
            return pl.read_csv(io.BytesIO(data), infer_schema=False)
        # the whole file decides about the types: a guess from the first rows turns later ids into nulls
        return pl.read_ndjson(io.BytesIO(data), infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        raise InteractionError(f"{file} cannot be read: {_bad_line(data, file) or error}") from error


def _bad_line(data: bytes, file: Path) -> str | None:
    """Names the first line of a jsonl file that is not a JSON object (slow; runs after a failure only)."""
    if ".csv" in file.suffixes:
        return None
    for number, line in enumerate(data.splitlines(), 1):
        try:
            if line.strip() and not isinstance(json.loads(line), dict):
                return f"line {number} is not a JSON object: {line[:80]!r}."
        except ValueError as error:
            return f"line {number} is not valid JSON ({error}): {line[:80]!r}."
    return None


def _group_events(frame: pl.DataFrame, file: Path) -> pl.DataFrame:
    """Single events → one sequence per user (in order of first appearance), sorted by time, ties in file order.

    A column `split` becomes the list `parts`, a column `rating` the list `ratings`.
    """
    require_columns(frame, ("user_id", "item_id", "timestamp"), str(file))
    frame = frame.with_columns(pl.col("user_id", "item_id").cast(pl.String), _as_time(frame["timestamp"], file))
    reject_blank(frame, "user_id", str(file))
    reject_blank(frame, "item_id", str(file))
    lists = {"items": "item_id"}
    if "split" in frame.columns:
        frame = frame.with_columns(_as_part(frame["split"], file))
        lists["parts"] = "parts"
    if "rating" in frame.columns:
        frame = frame.with_columns(_as_rating(frame["rating"], file))
        lists["ratings"] = "rating"
    frame = frame.with_row_index("place")
    users = frame.group_by("user_id").agg(first=pl.col("place").min())
    frame = frame.sort("timestamp", maintain_order=True).group_by("user_id", maintain_order=True).agg(**lists)
    return frame.join(users, on="user_id").sort("first").select("user_id", *lists)


def _as_part(split: pl.Series, file: Path) -> pl.Series:
    """Names of parts → their places in [`PARTS`], Int8."""
    bad = ~split.cast(pl.String).is_in(PARTS).fill_null(False)
    if bad.any():
        rows = named((bad.arg_true() + 1).to_list(), "row")
        raise InteractionError(
            f"{file}: the column split must say {', '.join(map(repr, PARTS))}; it has {split.filter(bad)[0]!r} in "
            f"{rows}. Correct it, or rename the column if it means something else."
        )
    return split.cast(pl.Enum(PARTS)).to_physical().cast(pl.Int8).alias("parts")


def _as_rating(ratings: pl.Series, file: Path) -> pl.Series:
    """Numbers, null for an event without a rating; Float32."""
    if ratings.dtype == pl.String:
        ratings = ratings.str.strip_chars().replace("", None)
    numbers = ratings.cast(pl.Float32, strict=False)
    bad = numbers.is_null() & ratings.is_not_null()
    if bad.any():
        rows = named((bad.arg_true() + 1).to_list(), "row")
        raise InteractionError(
            f"{file}: rating {ratings.filter(bad)[0]!r} in {rows} is no number; empty means unrated."
        )
    return numbers.fill_nan(None).alias("rating")


def _check_ratings(frame: pl.DataFrame, file: Path) -> pl.DataFrame:
    """Sequences with their lists `ratings` as Float32, which must be as long as the lists of items."""
    kind = frame.schema["ratings"]
    inner = kind.inner if isinstance(kind, pl.List) else None
    if inner is None or not (inner.is_numeric() or inner == pl.Null):
        raise InteractionError(f"{file}: ratings must be a list of numbers per row, got {kind}.")
    if isinstance(frame.schema.get("items"), pl.List):
        unlike = (pl.col("ratings").list.len() != pl.col("items").list.len()).fill_null(True)
        bad = frame.select(unlike.arg_true()).to_series()
        if len(bad):
            raise InteractionError(
                f"{file}: another number of ratings than of items in {named((bad + 1).to_list(), 'row')}; write null "
                "for an item that was not rated."
            )
    return frame.with_columns(pl.col("ratings").cast(pl.List(pl.Float32)))


def _as_time(times: pl.Series, file: Path) -> pl.Series:
    """Timestamps that sort: integers stay exact, other numbers become floats, text must be ISO dates."""
    if times.dtype == pl.String:
        stripped = times.str.strip_chars()
        for parse in (
            lambda: stripped.cast(pl.Int64),
            lambda: stripped.cast(pl.Float64),
            lambda: stripped.str.to_datetime(),
        ):
            try:
                times = parse()
                break
            except pl.exceptions.PolarsError:
                continue
        else:
            raise InteractionError(f"{file}: timestamps are neither all numbers nor all ISO dates, as {times[0]!r}.")
    bad = times.is_null() | times.is_nan() if times.dtype.is_float() else times.is_null()
    if bad.any():
        rows = named((bad.arg_true() + 1).to_list(), "row")
        raise InteractionError(f"{file}: empty timestamp in {rows}; fill it in or remove the row.")
    return times
