"""Targets from a horizon: what a position learns to predict is one of the next items, not always the very next.

The order of purchases within a short time is mostly chance. A target that is drawn from the next few items, near ones
more often, teaches a network which items belong to what comes soon.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def check_horizon(horizon: int) -> None:
    """Raises ValueError unless the horizon is at least 1."""
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1 (the next item), got {horizon}.")


def target_positions(
    positions: np.ndarray, offsets: np.ndarray, horizon: int, seed: Sequence[int] | np.ndarray
) -> np.ndarray:
    """
    Draws the target of each position from the next `horizon` items of its sequence, with probability in proportion to
    1 / distance; of fewer, where the sequence ends before.

    Args:
        positions (`np.ndarray`): int [N] positions in the flat array of interactions, none of them the last of its
            sequence.
        offsets (`np.ndarray`): int [sequences + 1] first position of each sequence.
        horizon (`int`): items to draw from; with 1 nothing is drawn.
        seed (`Sequence[int]` or `np.ndarray`): what the draw follows from, such as a training's seed, the epoch and
            the rows of the batch: then it is the same whoever makes the batch, and in a training that was resumed.

    Returns:
        int64 [N] positions of the targets.

    Raises:
        ValueError: a horizon below 1.
    """
    check_horizon(horizon)
    if horizon == 1:
        return positions + 1
    ends = offsets[np.searchsorted(offsets, positions, side="right")]
    weights = np.cumsum(1 / np.arange(1, horizon + 1))
    reached = np.random.default_rng(np.asarray(seed)).random(len(positions))
    reached *= weights[np.minimum(horizon, ends - positions - 1) - 1]
    return positions + 1 + np.searchsorted(weights, reached, side="right")
