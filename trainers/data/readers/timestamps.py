"""Timestamps of any unit → int64 microseconds, and what is wrong with those that are none."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import polars as pl

# "iso": dates as text. "order": no time, any integers that increase along a sequence.
TimeUnit = Literal["s", "ms", "us", "ns", "iso", "order"]
PER_SECOND = {"s": 1, "ms": 1000, "us": 1_000_000, "ns": 1_000_000_000}
EPOCH = datetime(1970, 1, 1)

_DATES = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M")
UNIX_DATE = "%a %b %d %H:%M:%S %z %Y"  # of Goodreads, Foursquare and Twitter: Fri May 09 15:04:53 -0700 2014
_ZONED_DATES = ("%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M:%S%.f%#z", UNIX_DATE)
_LARGEST = 2.0**53  # integers that a float still tells apart


def to_microseconds(time: datetime) -> int:
    """Microseconds from 1970-01-01 to a time in UTC (without time zone)."""
    return (time - EPOCH) // datetime.resolution


def parse_times(given: pl.Series, unit: TimeUnit, latest: int) -> pl.DataFrame:
    """
    Args:
        given (`pl.Series`): numbers, dates, or strings of these; a zone is converted to UTC, no zone is UTC.
        unit (`TimeUnit`): of numbers; "iso" for dates as text; "order" for integers that are no time.
        latest (`int`): microseconds; later times are a problem, times up to 1970-01-01 always are. Neither counts in
            an order.

    Returns:
        `pl.DataFrame`: `time` (int64: microseconds, or the integers of an order) and `problem` (null: none).
    """
    if isinstance(given.dtype, pl.Decimal) and given.dtype.scale:  # an integer has nothing after the point
        given = given.cast(pl.Float64)
    frame = given.alias("given").to_frame()
    if given.dtype.is_temporal():
        frame = frame.with_columns(time=pl.col("given").cast(pl.Datetime("us")).to_physical())
        frame = frame.with_columns(value=pl.col("time").cast(pl.Float64))
        wrong = "timestamp is no date"
    elif unit == "iso":
        frame = frame.with_columns(time=iso_dates(pl.col("given").cast(pl.String)).to_physical())
        frame = frame.with_columns(value=pl.col("time").cast(pl.Float64))
        wrong = "timestamp is no ISO date"
    else:
        exact = pl.col("given").cast(pl.Int64, strict=False)
        frame = frame.with_columns(value=pl.col("given").cast(pl.Float64, strict=False))
        if unit == "order":
            whole = (pl.col("value") == pl.col("value").floor()) & (pl.col("value").abs() <= _LARGEST)
            from_float = pl.when(whole).then(pl.col("value")).cast(pl.Int64, strict=False)
            frame = frame.with_columns(
                time=pl.coalesce(exact, from_float) if not given.dtype.is_float() else from_float
            )
        else:
            scale = PER_SECOND["us"] / PER_SECOND[unit]
            frame = frame.with_columns(pl.col("value") * scale)
            scaled = exact * int(scale) if scale >= 1 else exact // int(1 / scale)
            rounded = pl.col("value").round().cast(pl.Int64, strict=False)
            sound = pl.col("value").is_between(0, latest)  # the others are dropped, and might overflow
            time = rounded if given.dtype.is_float() else pl.coalesce(scaled, rounded)
            frame = frame.with_columns(time=pl.when(sound).then(time))
        wrong = "timestamp is no number"
    value = pl.col("value")
    problem = (
        pl.when(pl.col("given").is_null())
        .then(pl.lit("timestamp is missing"))
        .when(value.is_null())
        .then(pl.lit(wrong))
        .when(value.is_nan())
        .then(pl.lit("timestamp is NaN"))
        .when(value.is_infinite())
        .then(pl.lit("timestamp is infinite"))
    )
    if unit == "order":
        problem = problem.when(pl.col("time").is_null()).then(pl.lit("timestamp is no integer"))
    else:
        problem = problem.when(value <= 0).then(pl.lit("timestamp is not after 1970-01-01"))
        problem = problem.when(value > latest).then(pl.lit("timestamp is in the future"))
    return frame.select("time", problem.alias("problem"))


def iso_dates(text: pl.Expr) -> pl.Expr:
    """Datetimes in UTC; null for what is no ISO date, nor a `UNIX_DATE`. A zone may be named UTC, or stand after a
    blank, or after hours and minutes alone."""
    text = text.str.replace(r" ?(Z|UTC)$", "+00:00").str.replace(r"(\d) ([+-]\d\d:?\d\d)$", "$1$2")
    text = text.str.replace(r"^(\d{4}-\d\d-\d\d[T ]\d\d:\d\d)([+-])", "$1:00$2")
    plain = [text.str.to_datetime(form, time_unit="us", strict=False) for form in _DATES]
    days = text.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us"))
    zoned = [
        text.str.to_datetime(form, time_unit="us", strict=False).dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        for form in _ZONED_DATES
    ]
    return pl.coalesce(*plain, days, *zoned)
