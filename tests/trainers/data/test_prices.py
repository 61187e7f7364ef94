"""Prices: numbers in several ways to write them, and the ranges that they are told in."""

from decimal import Decimal

import pytest

from trainers.data.prices import as_number, price_range


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12,99", 12.99),
        ("1.299,00 €", 1299.0),
        ("$1,299.00", 1299.0),
        ("1,299", 1299.0),
        ("1.000.000", 1e6),
        ("5", 5.0),
        (7, 7.0),
        (Decimal("12.990"), 12.99),
        (Decimal("NaN"), None),
        (float("nan"), None),
        ("free", None),
        ("", None),
        ("-3,5", -3.5),
    ],
)
def test_numbers(text, number):
    assert as_number(text) == number


def test_price_ranges():
    assert [price_range(each) for each in (0.3, 1, 9.99, 10, "19,99", 20, 50, 99, 0, None)] == [
        "price 0.2 to 0.5",
        "price 1 to 2",
        "price 5 to 10",
        "price 10 to 20",
        "price 10 to 20",
        "price 20 to 50",
        "price 50 to 100",
        "price 50 to 100",
        None,
        None,
    ]
