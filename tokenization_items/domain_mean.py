"""The mean of a domain's items, which a network with `centre_domains` takes off what it reads of each."""

import numpy as np


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
