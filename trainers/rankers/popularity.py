"""The popularity ranker: the same items for everyone, counted in the training part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainers.data.interactions import Interactions


class Popularity:
    """Recommends the items with the most training interactions, whatever the history.

    Args:
        training ([`Interactions`]): the training part.
    """

    name = "popularity"
    ties = "catalogue order"
    max_history = None

    def __init__(self, training: Interactions):
        self.num_items = training.num_items
        self.popularity = training.popularity
        self.order = np.argsort(-self.popularity, kind="stable")  # stable: ties keep catalogue order

    def rank(self, histories: Sequence[np.ndarray], k: int, exclude: Sequence[np.ndarray] | None = None) -> np.ndarray:
        """Returns int64 [B, k] item rows, best first, without the items of `exclude`; -1 where nothing is left."""
        excluded = np.empty(0, np.int64) if exclude is None else pair_keys(exclude, self.num_items)
        return self.fill(np.empty((len(histories), 0), np.int64), excluded, k)

    def fill(self, ranked: np.ndarray, excluded: np.ndarray, k: int) -> np.ndarray:
        """Continues lists with popular items.

        Args:
            ranked (`np.ndarray`): int64 [B, m] the items ranked so far, -1 padded at the end.
            excluded (`np.ndarray`): int64 sorted keys `user * num_items + item` of items not to be used.
            k (`int`): length of the filled lists.
        """
        users = np.arange(len(ranked))[:, None] * self.num_items
        taken = np.sort(np.concatenate([excluded, (users + ranked)[ranked >= 0]]))
        # enough popular items for the user with the most taken ones
        most = np.bincount(taken // self.num_items).max(initial=0) if len(taken) else 0
        popular = np.broadcast_to(self.order[: k + most], (len(ranked), min(k + most, self.num_items)))
        candidates = np.concatenate([ranked, popular], axis=1)
        kept = np.concatenate([ranked >= 0, ~contains(taken, users + popular)], axis=1)
        return _first_kept(candidates, kept, k)


def pair_keys(rows: Sequence[np.ndarray], num_items: int) -> np.ndarray:
    """Ragged item rows of B users → sorted int64 keys `user * num_items + item`."""
    users = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    items = np.concatenate(rows).astype(np.int64) if len(rows) else np.empty(0, np.int64)
    return np.sort(users * num_items + items)


def contains(sorted_keys: np.ndarray, keys: np.ndarray) -> np.ndarray:
    if not len(sorted_keys):
        return np.zeros(keys.shape, bool)
    return sorted_keys[np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)] == keys


def _first_kept(candidates: np.ndarray, kept: np.ndarray, k: int) -> np.ndarray:
    """The first `k` entries of each row of `candidates` [B, M] where `kept`, padded with -1; int64 [B, k]."""
    ranked = np.full((len(candidates), k), -1, np.int64)
    ranks = kept.cumsum(axis=1) - 1
    user, column = np.nonzero(kept & (ranks < k))
    ranked[user, ranks[user, column]] = candidates[user, column]
    return ranked
