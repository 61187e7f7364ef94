"""Provenance of semantic IDs: digests of the content that they were made of, by which a change of an item is seen."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from modeling_utgrec.checkpoint_fingerprint import check_file, stamp_file
from tokenization_items.batching import prepared
from tokenization_items.catalogue import Catalogue

PROVENANCE_NAME = "item_provenance.safetensors"
DIGEST_BYTES = 16
READING_THREADS = 8  # most of the time is reading images' files
ITEMS_AT_A_TIME = 1024


class ItemProvenance(NamedTuple):
    """
    Where the semantic IDs of an index come from, a row for each item; 36 + 4·levels bytes.

    Args:
        latest (`np.ndarray` of shape `(items, 16)`): uint8, digest of an item's content as it was seen last; zeros if
            it is not known.
        tokenized (`np.ndarray` of shape `(items, 16)`): uint8, digest of the content that its semantic ID was made of.
        given_codes (`np.ndarray` of shape `(items, levels)`): int32, the codes that the item tokenizer gives to the
            content seen last, before collisions are resolved; -1 if they are not known.
    """

    latest: np.ndarray
    tokenized: np.ndarray
    given_codes: np.ndarray

    @classmethod
    def unknown(cls, num_items: int, num_levels: int) -> ItemProvenance:
        """Of items of which nothing is known."""
        digests = np.zeros((num_items, DIGEST_BYTES), np.uint8)
        return cls(digests, digests.copy(), np.full((num_items, num_levels), -1, np.int32))

    def take(self, rows: np.ndarray) -> ItemProvenance:
        """Of items by their rows, or of those of a mask."""
        return ItemProvenance(*(each[rows] for each in self))

    def followed_by(self, num_items: int) -> ItemProvenance:
        """With further items of which nothing is known."""
        more = ItemProvenance.unknown(num_items, self.given_codes.shape[1])
        return ItemProvenance(*(np.concatenate(pair) for pair in zip(self, more, strict=True)))

    @property
    def is_stale(self) -> np.ndarray:
        """bool `(items,)`: items whose content is another than the one that their semantic ID was made of."""
        return np.any(self.latest != self.tokenized, axis=1)

    @property
    def has_codes(self) -> np.ndarray:
        """bool `(items,)`: items whose given codes are known."""
        return np.all(self.given_codes >= 0, axis=1)

    def save(self, file: Path, index_sha256: str) -> None:
        """Writes the tensors to a file, with the digest of the index that they belong to."""
        save_file(self._asdict(), file, metadata={"index_sha256": index_sha256})
        stamp_file(file)

    @classmethod
    def load(cls, file: Path, index_sha256: str, num_items: int) -> ItemProvenance | None:
        """
        Reads what `save` wrote; `None` if it is of another index, which a program that knows of no provenance has
        changed since.

        Raises:
            ValueError: the file is truncated, or no provenance of so many items.
        """
        check_file(file)
        try:
            with safe_open(file, framework="numpy") as opened:
                if (opened.metadata() or {}).get("index_sha256") != index_sha256:
                    return None
                names = {*opened.keys()}
                tensors = [opened.get_tensor(name) for name in cls._fields if name in names]
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file} is truncated or not a safetensors file: {error}") from error
        expected = [(np.dtype(np.uint8), DIGEST_BYTES)] * 2 + [(np.dtype(np.int32), None)]
        for (dtype, width), found in zip(expected, tensors, strict=False):
            if (
                found.dtype != dtype
                or found.ndim != 2
                or len(found) != num_items
                or width not in (None, found.shape[1])
            ):
                raise ValueError(f"{file}: no provenance of {num_items} items: found {found.dtype} {found.shape}.")
        if len(tensors) != len(expected):
            raise ValueError(f"{file}: expected the tensors {', '.join(cls._fields)}, found {sorted(names)}.")
        return cls(*tensors)


def content_digests(catalogue: Catalogue, images: bool) -> np.ndarray:
    """
    A digest of what an item tokenizer reads of each item, uint8 `(items, 16)`: of its text and, if it reads them, of
    its image's file, or the pixels of one in memory.

    Args:
        catalogue ([`Catalogue`]): the items.
        images (`bool`): whether images are read.

    Raises:
        CatalogueError: an image that cannot be read; its item is named.
    """

    rows = np.arange(len(catalogue))
    batches = [rows[start : start + ITEMS_AT_A_TIME] for start in range(0, len(rows), ITEMS_AT_A_TIME)]
    threads = READING_THREADS if images and catalogue.images is not None else 0
    read = catalogue.image_digest if threads else lambda row: None
    found = []
    for batch, digests in prepared(read, batches, threads):
        for row, image in zip(batch.tolist(), digests, strict=True):
            said = json.dumps([catalogue.texts[row], image])
            found.append(hashlib.sha256(said.encode()).digest()[:DIGEST_BYTES])
    return np.frombuffer(b"".join(found), np.uint8).reshape(len(catalogue), DIGEST_BYTES)


__all__ = ["DIGEST_BYTES", "PROVENANCE_NAME", "ItemProvenance", "content_digests"]
