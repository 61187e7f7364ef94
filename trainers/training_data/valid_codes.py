"""Which codes exist after an item's prefixes, for a loss that is normalised over the items of the catalogue."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class ValidCodes:
    """The codes that some item has after each prefix of each item.

    Args:
        token_table: int [n, L] token ids of the items' identifiers. Items of several domains may share identifiers.
        level_sizes, level_offsets: number of codes of each level, and its first token.

    Memory: a bool for every prefix and code of the level, and L integers for every item.
    """

    def __init__(self, token_table: np.ndarray, level_sizes: Sequence[int], level_offsets: Sequence[int]):
        codes = np.asarray(token_table, np.int64) - np.asarray(level_offsets)
        self.most_codes = max(level_sizes)
        self.prefixes = np.zeros(codes.shape, np.int64)  # number of the item's prefix at each level
        self.exists = []  # of each level: bool [prefixes, most_codes]
        for level, size in enumerate(level_sizes):
            if level:
                keys = self.prefixes[:, level - 1] * level_sizes[level - 1] + codes[:, level - 1]
                self.prefixes[:, level] = np.unique(keys, return_inverse=True)[1]
            exists = np.zeros((int(self.prefixes[:, level].max()) + 1, self.most_codes), bool)
            if codes[:, level].min() < 0 or codes[:, level].max() >= size:
                raise ValueError(f"Codes of level {level} must be 0 to {size - 1}: are they another tokenizer's?")
            exists[self.prefixes[:, level], codes[:, level]] = True
            self.exists.append(exists)

    def __call__(self, items: np.ndarray) -> np.ndarray:
        """Bool [..., L, most_codes] of item rows [...]: the codes that may stand in place of the item's own."""
        return np.stack([exists[self.prefixes[items, level]] for level, exists in enumerate(self.exists)], axis=-2)
