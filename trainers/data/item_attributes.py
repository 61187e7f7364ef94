"""Attributes of items: the values of fields such as category and brand, read from a data folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hub_cards.item_ids import id_text, is_missing
from tokenization_items.catalogue import FILE_NAMES
from tokenization_items.item_files import read_items

FIELDS = ("categories", "brand")
LISTED = {"categories"}  # fields whose text is a list of values, joined by commas


@dataclass(frozen=True)
class ItemAttributes:
    """
    Args:
        values (`dict[str, list[str]]`): the values of each field that any item has, in alphabetical order.
        rows (`dict[str, list[np.ndarray]]`): of each field, for each item the places of its values in that list.
    """

    values: dict[str, list[str]]
    rows: dict[str, list[np.ndarray]]

    def table(self) -> np.ndarray:
        """int64 `[items, fields, most values of one field]`: the places from 1, 0 for none."""
        most = max(1, max(len(row) for rows in self.rows.values() for row in rows))
        fields = [np.stack([np.pad(row + 1, (0, most - len(row))) for row in rows]) for rows in self.rows.values()]
        return np.stack(fields, axis=1).astype(np.int64)


def read_attributes(folder: str | Path, item_ids: Sequence[str], fields: Sequence[str] = FIELDS) -> ItemAttributes:
    """
    Reads fields of `items.*` in a data folder. An item that the file lacks has no values: a folder's items may have
    been read by columns of other names.

    Args:
        folder (`str` or `Path`): of a domain.
        item_ids (`Sequence[str]`): the items wanted, in this order.
        fields (`Sequence[str]`, *optional*): fields to read; one that is not there is passed over. A field's value is
            a list, or a text: of categories, it is cut at its commas.

    Raises:
        ValueError: no item has any value in any of the fields.
    """
    (file,) = (Path(folder) / name for name in FILE_NAMES if (Path(folder) / name).is_file())
    records: Any = read_items(file, {"item_id", *fields})
    records = records.to_pylist() if hasattr(records, "to_pylist") else records
    records = records.to_dicts() if hasattr(records, "to_dicts") else records
    of_item = {id_text(record.get("item_id")): record for record in records}
    found: dict[str, list[list[str]]] = {
        field: [_values(of_item.get(item, {}).get(field), field) for item in item_ids] for field in fields
    }
    found = {field: rows for field, rows in found.items() if any(rows)}
    if not found:
        raise ValueError(
            f"{file} has no {' and no '.join(fields)} of any item: attributes are missing. Add one of these columns, "
            "or train a model that reads none."
        )
    values = {field: sorted({value for row in rows for value in row}) for field, rows in found.items()}
    places = {field: {value: place for place, value in enumerate(known)} for field, known in values.items()}
    rows = {
        field: [np.array([places[field][value] for value in row], np.int64) for row in of_field]
        for field, of_field in found.items()
    }
    return ItemAttributes(values, rows)


def _values(value: Any, field: str) -> list[str]:
    """The values of a field, each once, in their order."""
    if is_missing(value):
        return []
    parts = value if isinstance(value, list | tuple) else str(value).split(",") if field in LISTED else [value]
    stripped = [str(part).strip() for part in parts if not is_missing(part)]
    return list(dict.fromkeys(part for part in stripped if part))
