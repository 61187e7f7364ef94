"""Times of any format sort as they were meant; their unit and the order of day and month are told from all values."""

from datetime import datetime

import polars as pl
import pytest

from trainers.data.readers.timestamps import parse_times
from trainers.data.time_formats import as_times, looks_like_times

FIRST, SECOND = datetime(2024, 2, 1, 9, 30), datetime(2024, 2, 13, 17, 5)
LATEST = 2**62


@pytest.mark.parametrize(
    "form",
    [
        "%Y-%m-%d %H:%M:%S",
        "%Y-%m-%dT%H:%M",
        "%Y-%m-%dT%H:%MZ",
        "%Y-%m-%d %H:%M:%S UTC",
        "%Y-%m-%dT%H:%M:%S+00:00",
        "%d.%m.%Y %H:%M",
        "%d/%m/%Y %H:%M:%S",
        "%m/%d/%Y %H:%M",
        "%m/%d/%Y %I:%M %p",
        "%d.%m.%Y, %H:%M",
        "%Y/%m/%d %H:%M",
        "%d %b %Y %H:%M",
        "%B %d, %Y, %H:%M",
        "%d-%b-%Y %H:%M:%S",
        "%d-%b-%y %H:%M",
        "%a %b %d %H:%M:%S +0000 %Y",
        "%d.%m.%y %H:%M",
        "%d/%m/%y %H:%M",
        "%m/%d/%y %I:%M %p",
    ],
)
def test_dates_are_read(form):
    column = pl.Series("when", [each.strftime(form) for each in (SECOND, FIRST)])
    assert looks_like_times(column)
    times, unit, said = as_times(column)
    parsed = parse_times(times, unit, LATEST)
    assert unit == "iso" and said
    expected = [int((each - datetime(1970, 1, 1)).total_seconds()) * 10**6 for each in (SECOND, FIRST)]
    assert parsed["time"].to_list() == expected and parsed["problem"].null_count() == 2


@pytest.mark.parametrize(("factor", "unit"), [(1, "s"), (10**3, "ms"), (10**6, "us"), (10**9, "ns")])
def test_units_of_numbers(factor, unit):
    numbers = pl.Series("t", [1_700_000_000 * factor, 1_600_000_000 * factor])
    for column in (numbers, numbers.cast(pl.String)):
        times, found, _ = as_times(column)
        assert found == unit
        assert parse_times(times, found, LATEST)["time"].to_list() == [1_700_000_000 * 10**6, 1_600_000_000 * 10**6]


def test_other_numbers():
    assert as_times(pl.Series("t", ["3", "1", "2"]))[1] == "order"
    times, unit, _ = as_times(pl.Series("t", ["1700000000,5", "1700000001,25"]))
    assert unit == "s" and times.to_list() == ["1700000000.5", "1700000001.25"]
    times, unit, _ = as_times(pl.Series("t", ["20240213", "20240201"]))
    assert unit == "iso" and times.to_list() == [datetime(2024, 2, 13), datetime(2024, 2, 1)]


def test_a_late_day_above_12_decides_the_order_of_day_and_month():
    many = ["01/02/2024"] * 5000
    assert as_times(pl.Series("t", [*many, "02/13/2024"]))[2] == "dates as %m/%d/%Y"
    assert as_times(pl.Series("t", [*many, "13/02/2024"]))[2] == "dates as %d/%m/%Y"
    assert "month first: no value tells" in as_times(pl.Series("t", many))[2]


def test_months_in_full_and_zones_before_the_year():
    column = pl.Series("t", ["September 3, 2014", "May 30, 2014", "July 28, 2014"])
    assert looks_like_times(column) and as_times(column)[0].dt.month().to_list() == [9, 5, 7]
    times, unit, _ = as_times(pl.Series("t", ["Fri May 09 23:04:53 -0700 2014", "Sat May 10 01:00:00 +0000 2014"]))
    first, second = parse_times(times, unit, LATEST)["time"]
    assert first - second == (5 * 3600 + 4 * 60 + 53) * 10**6  # the first is of the day before, and later


def test_years_of_two_digits():
    few = ["01/02/24"] * 20
    for added, form in (("02/13/24", "%m/%d/%y"), ("13/02/24", "%d/%m/%y")):
        times, _, said = as_times(pl.Series("t", [*few, added]))
        assert said == f"dates as {form}" and times[-1] == datetime(2024, 2, 13)
    assert as_times(pl.Series("t", few))[2] == "dates as %d/%m/%y, or month first: no value tells"
    times, _, said = as_times(pl.Series("t", ["01.02.24", "13.02.24", "13.02.99", "13.02.2024"]))
    assert said == "dates as %d.%m.%y" and [each and each.year for each in times] == [2024, 2024, 1999, None]


def test_what_is_no_time():
    assert not looks_like_times(pl.Series("t", ["red", "blue"]))
    assert not looks_like_times(pl.Series("t", [None, ""], dtype=pl.String))
