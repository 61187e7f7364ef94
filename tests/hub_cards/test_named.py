"""Offenders that an error message names."""

import numpy as np
import pytest

from hub_cards import MAX_NAMED, named


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
