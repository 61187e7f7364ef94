"""Ids of items and users as text: one rule for whatever a file, a table or Python gives."""

import numbers
from decimal import Decimal
from typing import Any

import numpy as np


class IdError(ValueError):
    """A value that is no id."""


def is_missing(value: Any) -> bool:
    """Whether a cell is empty: `None`, NaN, or pandas' NA and NaT."""
    if value is None:
        return True
    try:
        return bool(value != value)
    except TypeError:  # whether NA differs from itself is NA
        return True
    except ValueError:  # arrays
        return False


def id_text(value: Any) -> str | None:
    """
    An id as text: strings as they are, whole numbers by their digits, also those that a table made floating-point
    ones of (`7.0` is `"7"`) or decimals, numpy's as Python's.

    Returns:
        `str` or `None`: the text; `None` for a missing id (`None`, NaN, pandas' NA).

    Raises:
        IdError: for anything else: a fraction, a truth value, a list. Which one is meant cannot be told.
    """
    if isinstance(value, str):
        return value
    if is_missing(value):
        return None
    if not isinstance(value, bool | np.bool_):
        if isinstance(value, numbers.Integral):
            return str(int(value))
        if isinstance(value, Decimal) and value.is_finite() and value == value.to_integral_value():
            return str(int(value))
        if isinstance(value, numbers.Real) and float(value).is_integer() and abs(float(value)) < 2**53:
            return str(int(float(value)))
    raise IdError(f"{str(value)[:80]!r} of type {type(value).__name__} is no id; make it a string or a whole number")


def is_id(value: Any) -> bool:
    """Whether a value is a single id rather than a list of them."""
    return isinstance(value, str | numbers.Number | np.generic)
