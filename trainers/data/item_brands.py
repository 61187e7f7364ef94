"""The items' brands as an item memory knows them: a number for each name, the same in every catalogue."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trainers.data.item_attributes import read_attributes

FIELD = "brand"
NONE = -1


def item_brands(folder: str | Path, item_ids: Sequence[str]) -> np.ndarray:
    """
    Numbers of the brands in `items.*` of a data folder, int64 `[items]`; -1 for an item that has none. Of several
    brands of an item the first counts.

    Args:
        folder (`str` or `Path`): of a domain.
        item_ids (`Sequence[str]`): the items wanted, in this order.

    Raises:
        ValueError: no item has a brand.
    """
    attributes = read_attributes(folder, item_ids, (FIELD,))
    numbers = np.array([brand_number(name) for name in attributes.values[FIELD]], np.int64)
    return np.array([numbers[places[0]] if len(places) else NONE for places in attributes.rows[FIELD]], np.int64)


def brand_number(name: str) -> int:
    """The number of a brand, at least 0, whatever the case and the spaces of its name: a digest, so that items which
    come later need no list of names."""
    digest = hashlib.blake2b(" ".join(name.split()).casefold().encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
