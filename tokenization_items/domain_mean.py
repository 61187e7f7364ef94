"""The mean of a domain's items, which a network with `centre_domains` takes off what it reads of each."""

import numpy as np

# Items of a catalogue whose mean is taken for that of all: it is off by a fiftieth of what items differ by.
ITEMS_OF_MEAN = 2048


def rows_of_mean(num_items: int) -> np.ndarray:
    """The items of a catalogue that a network reads before all others, for their mean: int64, 2,048 at most, the same
    for every catalogue of so many items."""
    rows = np.arange(num_items)
    return rows if num_items <= ITEMS_OF_MEAN else np.random.default_rng(0).choice(rows, ITEMS_OF_MEAN, replace=False)


def domain_mean(vectors: np.ndarray, name: str) -> np.ndarray:
    """What a network with `centre_domains` takes off the vectors `[items, E]` of the domain `name`: their mean,
    float32 `[E]`.

    Raises:
        ValueError: one item is all of the domain, and differs from its mean in nothing.
    """
    if len(vectors) < 2:
        raise ValueError(
            f"{name}: the network codes in what an item differs from the others of its domain, and there is one "
            "item: tokenize the domain's catalogue first, then new items."
        )
    return np.asarray(vectors, dtype=np.float32).mean(axis=0)
