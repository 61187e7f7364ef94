"""The items' brands as an item memory knows them: a number for each name, the same in every catalogue."""

from __future__ import annotations

import hashlib

import numpy as np

from tokenization_items.catalogue import Catalogue

NONE = -1


def item_brands(catalogue: Catalogue) -> np.ndarray | None:
    """
    Numbers of the brands of a catalogue's items, int64 `[items]`; -1 for an item that has none. None where no item
    has a brand.

    Args:
        catalogue ([`Catalogue`]): the items.
    """
    names = catalogue.brands or []
    numbers = {name: brand_number(name) for name in {*names} if name}
    return np.array([numbers.get(name, NONE) for name in names], np.int64) if numbers else None


def brand_number(name: str) -> int:
    """The number of a brand, at least 0, whatever the case and the spaces of its name: a digest, so that items which
    come later need no list of names."""
    digest = hashlib.blake2b(" ".join(name.split()).casefold().encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
