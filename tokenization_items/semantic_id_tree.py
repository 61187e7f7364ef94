"""Semantic IDs as a tree to look through: of a prefix its branches, named by their most telling words, and its items.

Branches and items come in parts, so that a catalogue of any size can be browsed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from modeling_utgrec.item_trie import lexicographic_order
from tokenization_items.item_index import ItemIndex
from tokenization_items.telling_words import TellingWords


@dataclass(frozen=True)
class Branch:
    """
    The items whose semantic IDs begin alike.

    Args:
        prefix (`tuple[int, ...]`): codes that they begin with, counted from 0 within each level.
        num_items (`int`): how many they are.
        words (`tuple[str, ...]`): what their titles have more often than those beside them under the same prefix.
    """

    prefix: tuple[int, ...]
    num_items: int
    words: tuple[str, ...]


class SemanticIDTree:
    """
    The semantic IDs of an index as they are now.

    Args:
        index ([`ItemIndex`]): items, semantic IDs and titles.
    """

    def __init__(self, index: ItemIndex):
        self.index = index
        self._order = lexicographic_order(torch.from_numpy(index.codes.astype(np.int64)), index.level_sizes).numpy()
        self._codes = index.codes[self._order]

    @cached_property
    def _words(self) -> TellingWords:
        return TellingWords(self.index.titles)

    def _span(self, prefix: Sequence[int]) -> tuple[int, int]:
        """Where the items of a prefix begin and end in the order of semantic IDs."""
        first, end = 0, len(self._order)
        for level, code in enumerate(prefix):
            column = self._codes[first:end, level]
            first, end = (
                first + int(np.searchsorted(column, code)),
                first + int(np.searchsorted(column, code, "right")),
            )
        return first, end

    def rows(self, prefix: Sequence[int]) -> np.ndarray:
        """
        Rows of the items of a prefix, int64, in the order of their semantic IDs.

        Raises:
            ValueError: the prefix is longer than semantic IDs are, or no item begins with it.
        """
        self.check(prefix)
        first, end = self._span(prefix)
        if first == end and len(prefix):
            known = self.longest_prefix(prefix)
            raise ValueError(
                f"No item's semantic ID begins with {_shown(prefix)}"
                + (f"; some begin with {_shown(known)}." if known else ".")
            )
        return self._order[first:end]

    def check(self, prefix: Sequence[int]) -> None:
        """Raises a `ValueError` for a prefix that is longer than semantic IDs are, or a code outside of its level."""
        sizes = self.index.level_sizes
        if len(prefix) > len(sizes):
            raise ValueError(f"A semantic ID has {len(sizes)} codes, {_shown(prefix)} are {len(prefix)}.")
        for level, (code, size) in enumerate(zip(prefix, sizes, strict=False), start=1):
            if not 0 <= code < size:
                raise ValueError(f"Level {level} has the codes 0 to {size - 1}, got {code}.")

    def longest_prefix(self, codes: Sequence[int]) -> tuple[int, ...]:
        """The longest beginning of codes that an item's semantic ID begins with, too."""
        for length in range(len(codes), 0, -1):
            first, end = self._span(codes[:length])
            if first < end:
                return tuple(codes[:length])
        return ()

    def branches(self, prefix: Sequence[int], start: int = 0, most: int | None = None) -> tuple[list[Branch], int]:
        """
        The branches of a prefix, those of the most items first.

        Args:
            prefix (`Sequence[int]`): codes; none: of the whole tree.
            start (`int`, *optional*, defaults to 0), most (`int`, *optional*): the part of them that is asked for.

        Returns:
            The branches of that part, and how many there are; none for a whole semantic ID.

        Raises:
            ValueError: as `rows`.
        """
        rows, level = self.rows(prefix), len(prefix)
        if level == self.index.num_levels or not len(rows):
            return [], 0
        codes, groups, counts = np.unique(self.index.codes[rows, level], return_inverse=True, return_counts=True)
        order = np.lexsort((codes, -counts))[start : None if most is None else start + most]
        words = self._words.of_groups(rows, groups, order.tolist())
        found = [
            Branch((*prefix, int(codes[group])), int(counts[group]), tuple(telling))
            for group, telling in zip(order.tolist(), words, strict=True)
        ]
        return found, len(codes)

    def path(self, codes: Sequence[int]) -> list[Branch]:
        """The branches that lead to codes, as far as there are items; errors as those of `check`."""
        self.check(codes)
        found = []
        for length in range(1, len(self.longest_prefix(codes)) + 1):
            rows, level = self.rows(codes[: length - 1]), length - 1
            values, groups = np.unique(self.index.codes[rows, level], return_inverse=True)
            group = int(np.searchsorted(values, codes[level]))
            (words,) = self._words.of_groups(rows, groups, [group])
            found.append(Branch(tuple(codes[:length]), int((groups == group).sum()), tuple(words)))
        return found


def _shown(codes: Sequence[int]) -> str:
    return "(" + ", ".join(map(str, codes)) + ")"


__all__ = ["Branch", "SemanticIDTree"]
