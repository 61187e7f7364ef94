"""Prices as words of a text: numbers in any way to write them, and the ranges in which they are told."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

PRICE_STEPS = (1, 2, 5)  # limits of the ranges, times powers of ten


def price_range(value: Any) -> str | None:
    """
    A price as words that items of a like price share: `"12,99 €"` → `"price 10 to 20"`. None for what is no price.

    Args:
        value: a number, or a text of one with a decimal point or comma, thousands' separators and a currency.
    """
    number = as_number(value)
    if number is None or not number > 0:
        return None
    power = 10 ** math.floor(math.log10(number) + 1e-9)
    low = max(step * power for step in PRICE_STEPS if step * power <= number * (1 + 1e-9))
    high = next((step * power for step in PRICE_STEPS if step * power > low), 10 * power)
    return f"price {low:g} to {high:g}"


def as_number(value: Any) -> float | None:
    """A number, or a text of one, in either way to write it: `"1.299,00 €"`, `"$1,299.00"`, `"12,5"`."""
    if isinstance(value, int | float | Decimal):  # the point of a decimal separates no thousands, as a text's may
        return float(value) if math.isfinite(value) else None
    text = "".join(each for each in str(value) if each.isdigit() or each in ".,-")
    last = max(text.rfind("."), text.rfind(","))
    if last >= 0:
        mark, after = text[last], text[last + 1 :]
        # one mark before three digits separates thousands, unless the other mark stands there too
        thousands = len(after) == 3 and text.count(mark) >= 1 and not (set(".,") - {mark}) & set(text)
        whole = text[:last].replace(".", "").replace(",", "")
        text = whole + after if thousands else f"{whole}.{after}"
    try:
        return float(text)
    except ValueError:
        return None
