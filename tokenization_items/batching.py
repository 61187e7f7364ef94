"""Batches of items of like length."""

from collections.abc import Iterator, Sequence

import numpy as np


def length_batches(lengths: Sequence[int], prompt_length: int, batch_tokens: int) -> Iterator[np.ndarray]:
    """Rows of items in batches of like length, each of at most `batch_tokens` tokens (or of one item), longest first:
    what does not fit into memory shows at once."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // (lengths[order[start]] + prompt_length))
        yield order[start : start + size]
        start += size
