"""The item transitions ranker: a first-order Markov chain over the last items, counted in the training part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from trainers.data.interactions import Interactions
from trainers.rankers.popularity import Popularity, contains, pair_keys

LAST_WEIGHTS = (1.0, 0.5, 0.3)  # of the last, second last and third last item of a history
FORWARD, BACKWARD = 1.0, 0.3  # what "b right after a" adds to a → b and to b → a
SMOOTHING = 5.0  # transitions to an item are divided by sqrt(popularity + 5)


class ItemTransitions:
    """Recommends what followed (and, less, preceded) the last three items of the history in the training part.

    An item `j` scores `Σ_p w_p · follows[h_p, j] / sqrt(popularity[j] + 5)` over the last three items `h_p` of the
    history. Lists that run short continue with popular items.

    Args:
        training ([`Interactions`]): the training part.
    """

    name = "item transitions"
    ties = "catalogue order"
    max_history = None

    def __init__(self, training: Interactions):
        self.num_items = n = training.num_items
        self.popular = Popularity(training)
        self.norm = np.sqrt(training.popularity + SMOOTHING)
        owners = np.repeat(np.arange(training.num_users), training.lengths)
        items = training.items.astype(np.int64)
        left, right = items[:-1], items[1:]
        same_user = owners[:-1] == owners[1:]
        left, right = left[same_user], right[same_user]
        # forward and backward interleaved: bincount adds in this order, so that rounding and with it ties never vary
        keys = np.stack([left * n + right, right * n + left], axis=1).ravel()
        edges, inverse = np.unique(keys, return_inverse=True)
        counts = np.bincount(inverse, weights=np.tile([FORWARD, BACKWARD], len(left)), minlength=len(edges))
        indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(edges // max(n, 1), minlength=n))])
        # one more row without transitions stands for a history shorter than three
        self.follows = sparse.csr_array((counts, edges % max(n, 1), np.append(indptr, indptr[-1])), shape=(n + 1, n))

    def rank(self, histories: Sequence[np.ndarray], k: int, exclude: Sequence[np.ndarray] | None = None) -> np.ndarray:
        """Returns int64 [B, k] item rows, best first, without the items of `exclude`; -1 where nothing is left."""
        scores = sparse.csr_array((len(histories), self.num_items), dtype=np.float64)
        for back, weight in enumerate(LAST_WEIGHTS, 1):
            last = np.array([h[-back] if len(h) >= back else self.num_items for h in histories], np.int64)
            part = self.follows[last]
            part.data = weight * part.data / self.norm[part.indices]
            scores = scores + part  # last item first: a fixed order of additions keeps exact ties exact
        users, items = np.repeat(np.arange(len(histories)), np.diff(scores.indptr)), scores.indices.astype(np.int64)
        excluded = np.empty(0, np.int64) if exclude is None else pair_keys(exclude, self.num_items)
        kept = ~contains(excluded, users * self.num_items + items)
        users, items, values = users[kept], items[kept], scores.data[kept]
        order = np.lexsort((items, -values, users))
        users, items = users[order], items[order]
        first = np.searchsorted(users, np.arange(len(histories)))
        ranks = np.arange(len(users)) - first[users]
        ranked = np.full((len(histories), k), -1, np.int64)
        best = ranks < k
        ranked[users[best], ranks[best]] = items[best]
        return self.popular.fill(ranked, excluded, k)
