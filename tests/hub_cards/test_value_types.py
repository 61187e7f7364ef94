"""Types of values from JSON against a dataclass's annotations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from hub_cards.value_types import wrong_types


@dataclass
class Inner:
    name: str


@dataclass
class Values:
    name: str
    count: int
    share: float
    kind: Literal["a", "b"]
    maybe: str | None
    sizes: list[int]
    table: Mapping[str, float]
    pairs: Sequence[str]
    is_on: bool
    inner: Inner
    anything: Any = None


FINE = {
    "name": "x",
    "count": 3,
    "share": 1,
    "kind": "b",
    "maybe": None,
    "sizes": [1, 2],
    "table": {"a": 1, "b": None},
    "pairs": ("a", "b"),
    "is_on": True,
    "inner": Inner("y"),
    "anything": object(),
}


def test_what_fits():
    assert wrong_types(Values, FINE) == [] == wrong_types(Values, {}) == wrong_types(Values, {"unknown": 3})
    assert wrong_types(Values, {"share": None, "count": None}) == []  # as JSON has what was not measured


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", 3),
        ("name", None),
        ("count", 1.5),
        ("count", True),
        ("count", 10**300),
        ("share", "0.5"),
        ("share", False),
        ("kind", "c"),
        ("maybe", 3),
        ("sizes", [1, "2"]),
        ("sizes", "12"),
        ("table", [1.0]),
        ("table", {"a": "b"}),
        ("pairs", {"a": "b"}),
        ("is_on", 1),
        ("inner", {"name": "y"}),
    ],
)
def test_what_does_not(name, value):
    (said,) = wrong_types(Values, FINE | {name: value})
    assert said.startswith(f"{name} must be of type ") and repr(str(value)[:60]) in said
