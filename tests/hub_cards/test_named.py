"""Offenders that an error message names."""

import numpy as np
import pytest

from hub_cards import MAX_NAMED, listed, named


@pytest.mark.parametrize(
    ("offenders", "expected"),
    [
        ([], ""),
        (["a"], "'a'"),
        (["a", ("b", [1, 2])], "'a', ('b', [1, 2])"),
        (np.arange(3), "0, 1, 2"),
        (list("abcdefghij"), "'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j'"),
        (list("abcdefghijkl"), "'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j' and 2 more"),
    ],
)
def test_the_first_ten_are_named(offenders, expected):
    assert named(offenders) == expected and MAX_NAMED == 10


def test_fewer_or_more_can_be_named():
    assert named("abc", most=2) == "'a', 'b' and 1 more" and named(range(12), most=12).endswith("10, 11")


def test_problems_are_listed():
    assert listed([]) == "" and listed(["a is b"]) == "a is b"
    assert listed(list("abc"), most=2) == "a\n  b\n  and 1 more" and listed(list("abc"), ", ", 3) == "a, b, c"
    assert listed(["x"] * 11, ", ").endswith("x, and 1 more") and listed(["x"] * 11).count("x") == MAX_NAMED
