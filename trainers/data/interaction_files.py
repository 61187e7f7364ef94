"""Files of interactions: users' sequences or single events, read into flat columns, with errors that name the rows.

Ids become strings; whether the catalogue knows the items is checked in [`Interactions`]. A file of single events may
say of each to which part of a split it belongs, and either kind of file how items were rated.
"""

from __future__ import annotations

import gzip
import io
import json
import logging
from codecs import BOM_UTF8
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from hub_cards import named
from hub_cards.csv_layout import CsvError
from hub_cards.csv_table import DECIMAL_COMMA, read_csv
from trainers.data.readers.base import id_column, plain_column
from trainers.data.readers.text_lines import bad_json_line
from trainers.data.splits import PARTS
from trainers.data.time_formats import iso_times

logger = logging.getLogger(__name__)

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


@dataclass
class UserSequences:
    """Users' sequences as flat columns, user after user, oldest interaction first.

    Args:
        user_ids (`pl.Series`): String [U].
        lengths (`np.ndarray`): int64 [U] number of interactions of each user.
        items (`pl.Series`): String [total] ids, null and "" included where a list of the file has them.
        source (`str`): the file, as errors name it.
        ratings (`np.ndarray`, *optional*): float32 [total], NaN for an item that was not rated.
        parts (`np.ndarray`, *optional*): int8 [total] place in [`PARTS`].
    """

    user_ids: pl.Series
    lengths: np.ndarray
    items: pl.Series
    source: str
    ratings: np.ndarray | None = None
    parts: np.ndarray | None = None


def read_interactions(folder: Path) -> UserSequences:
    """Reads the one interaction file of a folder.

    Raises:
        InteractionError: no file or several, an unreadable file, a missing column, no interactions, an empty id or
            timestamp, a user with several sequences, a `split` that is none of [`PARTS`], a rating that is no number,
            or another number of ratings than of items.
    """
    found = [name for name in SEQUENCE_FILES + EVENT_FILES if (folder / name).exists()]
    if not found:
        raise InteractionError(
            f"{folder} has no interactions: expected one of {', '.join(SEQUENCE_FILES + EVENT_FILES)}."
        )
    if len(found) > 1:
        raise InteractionError(f"{folder} has {' and '.join(found)}: keep the one that is meant.")
    file = folder / found[0]
    if found[0] in EVENT_FILES:
        return _ordered_events(_read_frame(file, ("user_id", "item_id", "timestamp"), ("rating", "split")), file)
    frame = _read_frame(file, ("user_id", "items"), ("ratings",))
    return flat_sequences(_check_ratings(frame, file) if "ratings" in frame.columns else frame, str(file))


def flat_sequences(frame: pl.DataFrame, source: str) -> UserSequences:
    """Checks a frame of `user_id`, `items` and perhaps `ratings` (lists) and makes flat columns of its lists.

    Raises:
        InteractionError: as [`read_interactions`]; `source` is named.
    """
    user, items = frame.schema["user_id"], frame.schema["items"]
    if user.is_nested() or not isinstance(items, pl.List) or items.inner.is_nested():
        raise InteractionError(
            f"{source}: expected an id and a list of item ids per row, got user_id of type {user} and items of type "
            f"{items}."
        )
    frame = frame.with_columns(_ids(frame["user_id"], source))
    _reject_empty(frame, source)
    reject_blank(frame, "user_id", source)
    if frame["items"].null_count():
        users = frame.filter(pl.col("items").is_null())["user_id"].to_list()
        raise InteractionError(
            f"{source}: no items for {named_as('user', users)}; write an empty list or drop the row."
        )
    if frame["user_id"].n_unique() != frame.height:
        users = frame.filter(pl.col("user_id").is_duplicated())["user_id"].unique(maintain_order=True).to_list()
        raise InteractionError(
            f"{source}: more than one row for {named_as('user', users)}; merge them into one sequence."
        )
    filled = frame.filter(pl.col("items").list.len() > 0)
    lengths = frame["items"].list.len().to_numpy().astype(np.int64)
    return UserSequences(
        user_ids=frame["user_id"],
        lengths=lengths,
        items=_ids(filled["items"].explode(), source, np.repeat(np.arange(len(lengths)), lengths)),
        source=source,
        ratings=filled["ratings"].explode().to_numpy().astype(np.float32) if "ratings" in frame.columns else None,
    )


def read_split_name(folder: Path) -> str:
    """How the folder's record names the split of its interactions; `"given by the data"` without one.

    Raises:
        InteractionError: the record is not JSON.
    """
    try:
        record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        record = {}
    except (ValueError, RecursionError) as error:
        raise InteractionError(f"{folder / RECORD_FILE} is not valid JSON: {error}. Prepare the data anew.") from error
    choices = record.get("choices") if isinstance(record, dict) else None
    name = choices.get("split") if isinstance(choices, dict) else None
    return name if isinstance(name, str) and name else "given by the data"


def named_as(noun: str, offenders: Collection) -> str:
    """`"users 'a', 'b' and 3 more"`."""
    return f"{noun}{'s' if len(offenders) > 1 else ''} {named(offenders)}"


def reject_blank(frame: pl.DataFrame, column: str, source: str) -> None:
    """Raises InteractionError where `column` (strings) is null or empty."""
    blank = frame.select((pl.col(column).is_null() | (pl.col(column) == "")).arg_true()).to_series().to_list()
    if blank:
        rows = named_as("row", [row + 1 for row in blank])
        raise InteractionError(f"{source}: empty {column} in {rows}; fill it in or remove the row.")


def _ids(column: pl.Series, source: str, rows: np.ndarray | None = None) -> pl.Series:
    """Ids as strings, see [`id_column`]. Raises InteractionError where there is none; `rows` of the file have them."""
    ids, odd = id_column(column)
    if odd.any():
        places = odd.arg_true().to_numpy()
        bad = named_as("row", list(dict.fromkeys((places if rows is None else rows[places]) + 1)))
        raise InteractionError(
            f"{source}: {column.name} {column[int(places[0])]!r} in {bad} is no id: make it a string or an integer."
        )
    return ids


def _read_frame(file: Path, needed: Sequence[str], optional: Sequence[str]) -> pl.DataFrame:
    """Reads columns of a csv (all as strings), jsonl or parquet file, gzipped or not."""
    try:
        if file.suffix == ".parquet":
            names = pl.read_parquet_schema(file)
            return pl.read_parquet(file, columns=_columns(names, needed, optional, file))
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, pl.exceptions.PolarsError) as error:
        raise InteractionError(f"{file} cannot be read: {error}. Is it complete?") from error
    if ".csv" in file.suffixes:
        try:
            frame, layout = read_csv(data, str(file))
        except CsvError as error:
            raise InteractionError(str(error)) from error
        if not layout.is_usual:
            logger.warning("%s was read with %s", file, layout)
        return frame.select(_columns(frame.columns, needed, optional, file))
    data = data.removeprefix(BOM_UTF8)
    if not data.strip():
        raise InteractionError(f"{file} is empty.")
    try:
        # the whole file decides about the types: a guess from the first rows turns later ids into nulls
        frame = pl.read_ndjson(io.BytesIO(data), infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        raise InteractionError(f"{file} cannot be read: {bad_json_line(data.splitlines()) or error}") from error
    return frame.select(_columns(frame.columns, needed, optional, file))


def _columns(found: Iterable[str], needed: Sequence[str], optional: Sequence[str], file: Path) -> list[str]:
    """The columns to read of those that a file has. Raises InteractionError if one that is needed is missing."""
    found = list(found)
    missing = [column for column in needed if column not in found]
    if missing:
        raise InteractionError(f"{file} lacks {named_as('column', missing)}; it has {named_as('column', found)}.")
    return [column for column in found if column in needed or column in optional]


def _reject_empty(frame: pl.DataFrame, source: str) -> None:
    if frame.is_empty():
        raise InteractionError(f"{source} holds no interactions.")


def _ordered_events(frame: pl.DataFrame, file: Path) -> UserSequences:
    """Single events in order: users by first appearance, each one's events by time, ties as in the file."""
    ids = (_ids(frame[name], str(file)) for name in ("user_id", "item_id"))
    frame = frame.with_columns(*ids, _as_time(frame["timestamp"], file))
    reject_blank(frame, "user_id", str(file))
    reject_blank(frame, "item_id", str(file))
    if "split" in frame.columns:
        frame = frame.with_columns(_as_part(frame["split"], file))
    if "rating" in frame.columns:
        frame = frame.with_columns(_as_rating(frame["rating"], file))
    _reject_empty(frame, str(file))
    user_ids, frame = _users_as_rows(frame)
    user, time = pl.col("user"), pl.col("timestamp")
    unordered = (user < user.shift()) | ((user == user.shift()) & (time < time.shift()))
    if frame.select(unordered.any()).item():
        # two stable sorts: a third of the time of one by both columns
        frame = frame.sort("timestamp", maintain_order=True).sort("user", maintain_order=True)
    return UserSequences(
        user_ids=user_ids,
        lengths=np.bincount(frame["user"].to_numpy()).astype(np.int64),
        items=frame["item_id"],
        source=str(file),
        ratings=frame["rating"].to_numpy(writable=True) if "rating" in frame.columns else None,
        parts=frame["parts"].to_numpy(writable=True) if "parts" in frame.columns else None,
    )


def _users_as_rows(frame: pl.DataFrame) -> tuple[pl.Series, pl.DataFrame]:
    """The users by first appearance, and the frame with their rows, `user`, in place of `user_id`."""
    starts = frame.select((pl.col("user_id") != pl.col("user_id").shift()).fill_null(True)).to_series()
    of_runs = frame["user_id"].filter(starts)
    user_ids = of_runs.unique(maintain_order=True)
    if len(user_ids) == len(of_runs):  # each one's events stand together
        rows = starts.cast(pl.UInt32).cum_sum() - 1
    else:
        rows = frame["user_id"].cast(pl.Enum(user_ids)).to_physical()
    return user_ids, frame.drop("user_id").with_columns(rows.alias("user"))


def _as_part(split: pl.Series, file: Path) -> pl.Series:
    """Names of parts → their places in [`PARTS`], Int8."""
    bad = ~split.cast(pl.String).is_in(PARTS).fill_null(False)
    if bad.any():
        rows = named_as("row", (bad.arg_true() + 1).to_list())
        raise InteractionError(
            f"{file}: the column split must say {', '.join(map(repr, PARTS))}; it has {split.filter(bad)[0]!r} in "
            f"{rows}. Correct it, or rename the column if it means something else."
        )
    return split.cast(pl.Enum(PARTS)).to_physical().cast(pl.Int8).alias("parts")


def _as_rating(ratings: pl.Series, file: Path) -> pl.Series:
    """Numbers, null or NaN for an event without a rating; Float32."""
    ratings = plain_column(ratings)
    if not (ratings.dtype.is_numeric() or ratings.dtype in (pl.String, pl.Boolean, pl.Null)):
        raise InteractionError(f"{file}: ratings must be numbers, got values of type {ratings.dtype}.")
    if ratings.dtype == pl.String:
        ratings = ratings.str.strip_chars().replace("", None).str.replace(DECIMAL_COMMA, "$1.$2")
    numbers = ratings.cast(pl.Float32, strict=False)
    bad = numbers.is_null() & ratings.is_not_null()
    if bad.any():
        rows = named_as("row", (bad.arg_true() + 1).to_list())
        raise InteractionError(
            f"{file}: rating {ratings.filter(bad)[0]!r} in {rows} is no number; empty means unrated."
        )
    return numbers.alias("rating")


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
            rows = named_as("row", (bad + 1).to_list())
            raise InteractionError(
                f"{file}: another number of ratings than of items in {rows}; write null "
                "for an item that was not rated."
            )
    return frame.with_columns(pl.col("ratings").cast(pl.List(pl.Float32)))


def _as_time(times: pl.Series, file: Path) -> pl.Series:
    """Timestamps that sort: integers stay exact, other numbers become floats, text must be ISO dates."""
    times = plain_column(times)  # of categories the letters would be sorted, "10" before "9"
    is_time = times.dtype.is_numeric() or (times.dtype.is_temporal() and times.dtype != pl.Time)
    if not (is_time or times.dtype in (pl.String, pl.Null)):
        raise InteractionError(
            f"{file}: timestamps must be numbers, dates or ISO dates as text, got values of type {times.dtype}."
        )
    if times.dtype == pl.String:
        stripped = times.str.strip_chars().str.replace(DECIMAL_COMMA, "$1.$2")
        for kind in (pl.Int64, pl.Float64):
            try:
                times = stripped.cast(kind)
                break
            except pl.exceptions.PolarsError:
                continue
        else:
            dates = iso_times(stripped)
            bad = dates.is_null() & (stripped != "").fill_null(False)
            if bad.any():
                rows = named_as("row", (bad.arg_true() + 1).to_list())
                raise InteractionError(
                    f"{file}: timestamps are neither all numbers nor all ISO dates, as {times.filter(bad)[0]!r} in "
                    f"{rows}; write 2024-05-31 or 2024-05-31T18:30:00."
                )
            times = dates
    bad = times.is_null() | times.is_nan() if times.dtype.is_float() else times.is_null()
    if bad.any():
        rows = named_as("row", (bad.arg_true() + 1).to_list())
        raise InteractionError(f"{file}: empty timestamp in {rows}; fill it in or remove the row.")
    return times
