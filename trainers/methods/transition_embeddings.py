"""Embeddings of items from the transitions of the training interactions: what a text does not say of them."""

from __future__ import annotations

import numpy as np
from scipy.sparse import linalg

from trainers.data.interactions import Interactions
from trainers.rankers.linear import LinearSettings, decayed_counts


def transition_embeddings(training: Interactions, width: int = 64) -> np.ndarray:
    """
    Rows of a truncated singular value decomposition `U √S` of the decayed counts of transitions ([`decayed_counts`]).

    Args:
        training ([`Interactions`]): the *training part*: an embedding that has seen the test items would leak them.
        width (`int`, *optional*, defaults to 64): singular vectors, fewer for a catalogue of fewer items.

    Returns:
        `np.ndarray` of shape `(items, width)`, float32, of length 1; zero for an item without transitions.

    Raises:
        ValueError: if there are fewer than three items, or no transitions at all.
    """
    counts = decayed_counts(training, LinearSettings())
    width = min(width, counts.shape[0] - 2)
    if width < 1 or not counts.nnz:
        raise ValueError(
            f"Transitions of {training.num_items} items in {len(training.items)} interactions make no embeddings: "
            "there must be three items at least, and users with two."
        )
    # a start of its own, or two runs differ
    start = np.random.default_rng(0).normal(size=counts.shape[0])
    vectors, values, _ = linalg.svds(counts.astype(np.float64), k=width, v0=start)
    rows = vectors * np.sqrt(values)
    # what is left of an item without transitions is rounding
    rows[np.diff(counts.indptr) == 0] = 0
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)
