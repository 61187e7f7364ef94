"""Types of values that were read from JSON, against the annotations of a dataclass."""

import dataclasses
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def wrong_types(cls: type, values: Mapping[str, Any]) -> list[str]:
    """
    What values of a dataclass's fields are of another type than its annotations say, in words.

    Args:
        cls (`type`): the dataclass.
        values (`Mapping[str, Any]`): its fields, as JSON has them; those that it lacks are passed over.
    """
    kinds = get_type_hints(cls)
    return [
        f"{name} must be of type {_shown(kinds[name])}, found {str(value)[:60]!r}"
        for name, value in values.items()
        if name in kinds and not _fits(value, kinds[name])
    ]


def _shown(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind).replace("typing.", "")


def _fits(value: Any, kind: Any) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(_fits(value, each) for each in inner)
    if origin is Literal:
        return value in inner
    if kind in (int, float):  # JSON writes 1.0 as 1, and null for what was not measured; no float holds all numbers
        if value is None:
            return True
        is_number = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
        return is_number and abs(value) < 10**300
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, dict) and all(_fits(each, inner[1]) for each in value.values())
    if origin is not None and issubclass(origin, Sequence):
        return isinstance(value, list | tuple) and all(_fits(each, inner[0]) for each in value)
    if kind in (str, bool, type(None)) or dataclasses.is_dataclass(kind):
        return isinstance(value, kind)
    return True  # anything
