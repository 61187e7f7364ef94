"""Batches of items: the blocks of a catalogue that are read together, and images made ready ahead of the network."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

# Batches that threads make ready while the network computes.
BATCHES_AHEAD = 2
# Items of a block. Batches are made within a block, so that machines that share the blocks of a catalogue compute what
# one machine does, to the bit.
BLOCK_ITEMS = 2**16


def blocks_of(num_items: int, block_items: int = BLOCK_ITEMS) -> list[slice]:
    """The rows of each block of a catalogue, in order; the last one may be smaller, and that of no items is empty."""
    starts = range(0, max(num_items, 1), block_items)
    return [slice(start, min(start + block_items, num_items)) for start in starts]


def prepared(
    function: Callable[[int], Any], batches: Iterable[np.ndarray], num_workers: int
) -> Generator[tuple[np.ndarray, list], None, None]:
    """
    Batches with what `function` gives for each of their rows, in order; an error comes up at its row's batch.

    Args:
        function (`Callable[[int], Any]`): from a row to anything, called in threads.
        batches (`Iterable[np.ndarray]`): arrays of rows.
        num_workers (`int`): threads, which work on this batch and the next two; 0 for none, one row after the other.
    """
    if num_workers == 0:
        for rows in batches:
            yield rows, [function(row) for row in rows.tolist()]
        return
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="items")
    ahead: deque = deque()
    try:
        for rows in batches:
            ahead.append((rows, [pool.submit(function, row) for row in rows.tolist()]))
            if len(ahead) > BATCHES_AHEAD:
                first, futures = ahead.popleft()
                yield first, [future.result() for future in futures]
        while ahead:
            first, futures = ahead.popleft()
            yield first, [future.result() for future in futures]
    finally:  # also after an error, or when the rest is not read
        pool.shutdown(cancel_futures=True)
