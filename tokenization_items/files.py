"""Settings in JSON files, each of the kind that it should be."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def read_settings(file: Path, kinds: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    """
    Reads an object with known entries; entries that a later release may have added are left out.

    Args:
        file: the file.
        kinds: name and possible types of each entry. One that may be `None` may be absent.

    Raises:
        ValueError: if the file is not JSON or no object, or an entry is missing or of another type.
    """
    values = read_json_object(file)
    settings = {}
    for name, types in kinds.items():
        value = values.get(name)
        if name not in values and type(None) not in types:
            raise ValueError(f"{file}: the entry {name!r} is missing.")
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            expected = " or ".join(each.__name__ for each in types)
            raise ValueError(f"{file}: {name} must be of type {expected}, found {str(value)[:60]!r}.")
        settings[name] = value
    return settings


def read_numbers(file: Path, name: str, values: list) -> np.ndarray:
    """The entry `name` of a file as a vector, float32.

    Raises:
        ValueError: if it is anything but finite numbers.
    """
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    vector = np.asarray(numbers, dtype=np.float32)
    if not values or len(numbers) < len(values) or not np.isfinite(vector).all():
        raise ValueError(f"{file}: {name} must be finite numbers, found {str(values)[:60]}.")
    return vector


def read_json_object(file: Path) -> dict[str, Any]:
    """
    Reads a JSON file that holds an object.

    Raises:
        ValueError: if it does not.
    """
    try:
        values = json.loads(Path(file).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is truncated or not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file}: expected an object, found {type(values).__name__}.")
    return values
