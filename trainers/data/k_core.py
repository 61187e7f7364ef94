"""The k-core of a log: users and items with at least k interactions each."""

from __future__ import annotations

import numpy as np


def k_core(users: np.ndarray, items: np.ndarray, k: int) -> tuple[np.ndarray, int]:
    """
    Largest part of a log in which every user and every item that is left has at least `k` interactions.

    Args:
        users, items (`np.ndarray`): int [N] row of the user and of the item of each interaction; repeated interactions
            of one user with one item all count.
        k (`int`): the least number of interactions.

    Returns:
        `tuple[np.ndarray, int]`: positions that are left, int64, ascending; and the number of rounds until nothing
        changed.
    """
    kept, rounds = np.arange(len(users)), 0
    while len(kept):
        rounds += 1
        frequent = (np.bincount(users) >= k)[users] & (np.bincount(items) >= k)[items]
        if frequent.all():
            break
        kept, users, items = kept[frequent], users[frequent], items[frequent]
    return kept, rounds


def renumbered(rows: np.ndarray, used: np.ndarray) -> np.ndarray:
    """
    The rows that are left over get numbers without gaps, in their order.

    Args:
        rows (`np.ndarray`): int [N] numbers, each of them used.
        used (`np.ndarray`): bool [n] which numbers stay.

    Returns:
        `np.ndarray`: [N], of the type of `rows`.
    """
    return (np.cumsum(used) - 1).astype(rows.dtype)[rows]
