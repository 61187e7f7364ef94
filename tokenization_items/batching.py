"""Batches of items whose images are made ready ahead of the network."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

# Batches that threads make ready while the network computes.
BATCHES_AHEAD = 2


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
