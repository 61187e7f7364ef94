"""Formats of times in a shop's tables: told from the values, and read so that they sort."""

from __future__ import annotations

import polars as pl

from trainers.data.readers.timestamps import UNIX_DATE, TimeUnit, iso_dates

# Day before month first: of a date that may be either, and of which no other tells, it is the usual one.
DATES = (
    *("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%Y/%m/%d", "%Y.%m.%d"),
    *("%d %B %Y", "%B %d, %Y", "%d-%B-%Y"),  # months' names in full, or their first three letters
    *("%d.%m.%y", "%d/%m/%y", "%m/%d/%y", "%d-%B-%y"),
)
CLOCKS = ("", " %H:%M:%S", " %H:%M", " %H:%M:%S%.f", " %I:%M %p", " %I:%M:%S %p", ", %H:%M:%S", ", %H:%M")
ISO = r"^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?)?( ?(Z|UTC|[+-]\d\d:?\d\d))?$"
UNIX = r"^[A-Z][a-z]{2} [A-Z][a-z]{2} +\d{1,2} \d\d:\d\d:\d\d [+-]\d{4} \d{4}$"
COMPACT = r"^(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])$"  # 20240501
NUMBER = r"^\d+([.,]\d+)?$"
SAMPLE_ROWS = 2000  # values that formats are tried on
SHARE = 0.6  # of values that a format must read to be theirs
# Seconds, milliseconds, ... since 1970 by their size; smaller numbers, such as a running number, are an order.
UNITS: tuple[tuple[float, TimeUnit], ...] = ((1e8, "order"), (1e11, "s"), (1e14, "ms"), (1e17, "us"))


def looks_like_times(column: pl.Series) -> bool:
    """Whether most values of a column are dates, or numbers that may be times."""
    if column.dtype.is_temporal():
        return True
    if column.dtype.is_numeric():
        return column.dtype.is_integer() or column.dtype.is_float() or column.dtype.is_decimal()
    if column.dtype != pl.String:
        return False
    known = _known(column)
    return len(known) > 0 and (
        any(_share(known, form) >= SHARE for form in (NUMBER, ISO, UNIX)) or date_format(known)[0] != ""
    )


def as_times(column: pl.Series) -> tuple[pl.Series, TimeUnit, str]:
    """
    Times as [`~trainers.data.readers.timestamps.parse_times`] reads them.

    Args:
        column (`pl.Series`): numbers, dates or strings of these.

    Returns:
        The column, of strings, numbers or datetimes; the unit of the numbers; and how they were read, in words.
    """
    if column.dtype.is_temporal():
        return column, "iso", "dates"
    if column.dtype.is_numeric():
        unit = _unit(column.cast(pl.Float64, strict=False))
        return (_places(column) if unit == "order" else column), unit, _said(unit)
    text = column.cast(pl.String, strict=False).str.strip_chars()
    known = _known(text)
    if not len(known) or _share(known, ISO) >= 0.5:
        return text, "iso", "ISO dates"
    if _share(known, UNIX) >= SHARE:
        return text, "iso", f"dates as {UNIX_DATE}"
    if _share(known, COMPACT) >= SHARE:
        return text.str.to_datetime("%Y%m%d", strict=False, time_unit="us"), "iso", "dates as YYYYMMDD"
    if _share(known, NUMBER) >= 0.5:
        numbers = text.str.replace(",", ".", literal=True)
        unit = _unit(numbers.cast(pl.Float64, strict=False))
        return (_places(numbers) if unit == "order" else numbers), unit, _said(unit)
    found, ambiguous = date_format(known)
    if not found:
        return text, "iso", "no dates that are known"
    said = f"dates as {found}" + (", or month first: no value tells" if ambiguous else "")
    return _parsed(text, found), "iso", said


def iso_times(text: pl.Series) -> pl.Series:
    """Datetimes in UTC; null for what is no ISO date with a year of four digits, or has blanks around it."""
    dated = text.set(~text.str.contains(r"^\d{4}-").fill_null(False), None)
    return dated.to_frame().select(iso_dates(pl.col(text.name))).to_series()


def date_format(known: pl.Series) -> tuple[str, bool]:
    """The format that reads most values of a column of strings, "" if none reads most of them; and whether another
    order of day and month reads as many."""

    def shares(values: pl.Series, forms: list[str]) -> dict[str, float]:
        return {form: float(_parsed(values, form).is_not_null().mean() or 0.0) for form in forms}  # type: ignore[arg-type]

    # of formats that read the sample, the whole column decides: a day above 12 may come late
    sampled = shares(known.head(SAMPLE_ROWS), [date + clock for date in DATES for clock in CLOCKS])
    likely = shares(known, [form for form, share in sampled.items() if share >= SHARE / 2])
    best = max(likely, key=lambda form: likely[form], default="")
    if likely.get(best, 0.0) < SHARE:
        return "", False
    return best, "%d/%m" in best and likely.get(best.replace("%d/%m", "%m/%d"), 0.0) == likely[best]


def _parsed(text: pl.Series, form: str) -> pl.Series:
    if "%H" in form or "%I" in form:
        times = text.str.to_datetime(form, strict=False, time_unit="us")
    else:
        times = text.str.to_date(form, strict=False).cast(pl.Datetime("us"))
    return times.set(times.dt.year() < 1000, None) if "%Y" in form else times  # "24" is no year of four digits


def _known(column: pl.Series) -> pl.Series:
    text = column.drop_nulls().cast(pl.String).str.strip_chars()
    return text.filter(text != "")


def _share(known: pl.Series, pattern: str) -> float:
    return float(known.str.contains(pattern).mean() or 0.0)  # type: ignore[arg-type]


def _unit(numbers: pl.Series) -> TimeUnit:
    median = numbers.drop_nulls().drop_nans().median()
    size = float(median) if isinstance(median, int | float) else 0.0
    return next((unit for limit, unit in UNITS if size < limit), "ns")


def _places(numbers: pl.Series) -> pl.Series:
    """Numbers of an order, which is of whole ones: where some have fractions, as a spreadsheet's days have, the places
    that they take in it, as strings."""
    values = numbers.cast(pl.Float64, strict=False)
    known = values.is_finite().fill_null(False)
    if (values.filter(known) % 1 == 0).all():
        return numbers
    places = values.set(~known, None).rank("dense").cast(pl.String)
    return places.zip_with(known, numbers.cast(pl.String))


def _said(unit: TimeUnit) -> str:
    if unit == "order":
        return "numbers, as an order"
    return {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}.get(
        unit, unit
    ) + " since 1970"
