"""Writer of interactions of any source to one log on disk, checked and typed a part at a time."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import polars as pl

from hub_cards.item_ids import IdError, id_text
from trainers.data.readers.base import LOG_SCHEMA, MAX_EXAMPLES, ReadError, ReadingReport, id_column, plain_column
from trainers.data.readers.timestamps import EPOCH, PER_SECOND, TimeUnit, parse_times, to_microseconds

# A log that ends before this is in another unit: 2020 in seconds, read as milliseconds, is in January 1970.
EARLIEST_END = datetime(1980, 1, 1)
BATCH_USERS = 50_000  # users whose sequences become a part of the log at once


class LogWriter:
    """
    Takes the parts of a log, drops and counts the rows that cannot be used, and keeps the rest in files.

    A row is dropped if its user, item or timestamp is missing, if one of these is no id (see [`id_column`]), if its
    timestamp is no number (or no date), NaN or infinite, not after 1970-01-01 or after `latest_time`, or if its rating
    is no number (a missing or NaN rating is
    null). Timestamps become int64 microseconds in UTC; those of unit "order" only have to be integers.

    Args:
        folder (`Path`): where the files go.
        report (`ReadingReport`): counts what is dropped.
        unit (`str`): of the timestamps: "s", "ms", "us", "ns", "iso" or "order".
        latest_time (`datetime`): in UTC, without time zone.
    """

    def __init__(self, folder: Path, report: ReadingReport, unit: TimeUnit, latest_time: datetime):
        if unit not in ("iso", "order", *PER_SECOND):
            raise ReadError(f"No unit of time {unit!r}: choose s, ms, us, ns, iso or order.")
        self.folder = folder / "log"
        self.folder.mkdir(parents=True)
        self.report = report
        self.unit = unit
        self.latest = to_microseconds(latest_time)
        self.files: list[Path] = []
        self.newest = 0

    def add(self, part: pl.DataFrame, file: str) -> None:
        """Keeps what [`checked`] leaves of a part."""
        if (good := self.checked(part, file)).height:
            self.files.append(self.folder / f"{len(self.files):06d}.arrow")
            good.write_ipc(self.files[-1], compression="lz4")

    def checked(self, part: pl.DataFrame, file: str) -> pl.DataFrame:
        """
        A part without the rows that cannot be used, which are counted, as a frame of `LOG_SCHEMA`.

        Args:
            part (`pl.DataFrame`): `user_id`, `item_id`, `timestamp` and, optionally, `rating` and `line`; strings are
                parsed. Without `line`, messages name the user and the timestamp, which then is the place in the user's
                sequence.
            file (`str`): the source's name in messages.

        Raises:
            ReadError: a column is of a type that holds no ids, times or ratings.
        """
        odd = {}
        for name in ("user_id", "item_id"):
            ids, odd[name] = id_column(part[name])
            kind = part.schema[name]
            if odd[name].any() and not (kind.is_float() or kind.is_decimal()):
                raise ReadError(f"{file}: {name} holds values of type {kind}; make them strings.")
            shown = part[name].cast(pl.String) if odd[name].any() else ids
            part = part.with_columns(pl.when(odd[name]).then(shown).otherwise(ids).alias(name))
        if "rating" not in part.columns:
            part = part.with_columns(rating=pl.lit(None, pl.String))
        part = part.with_columns(plain_column(part[name]) for name in ("timestamp", "rating"))
        for name, kind in (("timestamp", part.schema["timestamp"]), ("rating", part.schema["rating"])):
            is_time = name == "timestamp" and kind in (pl.Date, pl.Datetime)
            if not (is_time or kind.is_numeric() or kind in (pl.String, pl.Boolean, pl.Null)):
                raise ReadError(f"{file}: {name} holds values of type {kind}; make them numbers or text.")
        part = part.with_columns(_filled(pl.col(name)) for name, kind in part.schema.items() if kind == pl.String)
        rating = pl.col("rating").cast(pl.Float64, strict=False).fill_nan(None)
        parsed = part.hstack(parse_times(part["timestamp"], self.unit, self.latest)).with_columns(
            problem=pl.when(pl.col("user_id").is_null())
            .then(pl.lit("user_id is missing"))
            .when(pl.col("item_id").is_null())
            .then(pl.lit("item_id is missing"))
            .when(pl.lit(odd["user_id"]))
            .then(pl.lit("user_id is no string or whole number"))
            .when(pl.lit(odd["item_id"]))
            .then(pl.lit("item_id is no string or whole number"))
            .when(pl.col("problem").is_not_null())
            .then("problem")
            .when(pl.col("rating").cast(pl.Float64, strict=False).is_null() & pl.col("rating").is_not_null())
            .then(pl.lit("rating is no number"))
        )
        self._drop(parsed.filter(pl.col("problem").is_not_null()), file)
        good = parsed.filter(pl.col("problem").is_null())
        if good.height:
            self.newest = max(self.newest, good.select(pl.col("time").max()).item())
        return good.select("user_id", "item_id", timestamp="time", rating=rating).cast(LOG_SCHEMA)

    def add_sequences(self, sequences: Mapping[str, list], file: str) -> None:
        """
        Args:
            sequences (`Mapping[str, list]`): each user's items, oldest first; the timestamp is the place in the
                sequence, from 0.
            file (`str`): the source's name in messages.

        Raises:
            ReadError: if a user has something else than a list of items.
        """
        for user, items in sequences.items():
            if not isinstance(items, list):
                raise ReadError(f"{file}, user {user!r}: expected a list of items, found {str(items)[:80]}.")
        users = list(sequences)
        for start in range(0, len(users), BATCH_USERS):
            part = users[start : start + BATCH_USERS]
            texts = [_ids_of(user, sequences[user], file) for user in part]
            frame = pl.DataFrame({"user_id": part, "item_id": texts}, schema_overrides={"item_id": pl.List(pl.String)})
            frame = frame.with_columns(timestamp=pl.int_ranges(pl.col("item_id").list.len(), dtype=pl.Int64))
            frame = frame.filter(pl.col("item_id").list.len() > 0).explode("item_id", "timestamp")
            self.report.read["interactions"] += frame.height
            self.add(frame, file)

    def finish(self) -> pl.LazyFrame:
        """The whole log, in the order in which it was added. Raises `ReadError` if nothing is left of it."""
        check_log(len(self.files), self.newest, self.unit, self.report)
        return pl.scan_ipc(self.files)

    def _drop(self, bad: pl.DataFrame, file: str) -> None:
        for reason in bad["problem"].unique().sort():
            rows = bad.filter(pl.col("problem") == reason)
            field = reason.split()[0]
            examples = []
            for row in rows.head(MAX_EXAMPLES).iter_rows(named=True):
                place = (
                    f"line {row['line']}" if "line" in row else f"user {row['user_id']!r}, place {row['timestamp']}"
                )
                examples.append(f"{file}, {place}: {field} {row[field]!r}")
            self.report.drop("interactions", reason, rows.height, examples)


def check_log(rows: int, newest: int, unit: TimeUnit, report: ReadingReport) -> None:
    """Raises `ReadError` if nothing is left of a log, or its newest time (microseconds) is not one of its unit."""
    if not rows:
        raise ReadError(f"No interaction is left of the log.\n{report}")
    if unit != "order" and (time := EPOCH + newest * datetime.resolution) < EARLIEST_END:
        raise ReadError(
            f"The newest interaction is of {time}: its unit of time can hardly be "
            f"{unit!r}: give another --timestamp_unit, or 'order' for numbers that are no times."
        )


def _ids_of(user: str, items: list, file: str) -> list[str | None]:
    try:
        return [id_text(item) for item in items]
    except IdError as error:
        raise ReadError(
            f"{file}, user {user!r}: expected a list of items, found {str(items)[:80]}: {error}."
        ) from error


def _filled(text: pl.Expr) -> pl.Expr:
    """Text without blanks around it, null if nothing is left."""
    text = text.str.strip_chars()
    return pl.when(text != "").then(text)
