"""Recommenders without learning: the floor that every trained model has to beat.

[`Popularity`] and [`ItemTransitions`] only count what is in the training part of the interactions, [`NearestItems`]
only looks at what the items are like. Ties are broken by catalogue order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from scipy import sparse

from trainers.data.interactions import Interactions
from trainers.rankers.scoring import DotProductScorer, ScoringRecommender

LAST_WEIGHTS = (1.0, 0.5, 0.3)  # of the last, second last and third last item of a history
FORWARD, BACKWARD = 1.0, 0.3  # what "b right after a" adds to a → b and to b → a
SMOOTHING = 5.0  # transitions to an item are divided by sqrt(popularity + 5)


def _pair_keys(rows: Sequence[np.ndarray], num_items: int) -> np.ndarray:
    """Ragged item rows of B users → sorted int64 keys `user * num_items + item`."""
    users = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    items = np.concatenate(rows).astype(np.int64) if len(rows) else np.empty(0, np.int64)
    return np.sort(users * num_items + items)


def _contains(sorted_keys: np.ndarray, keys: np.ndarray) -> np.ndarray:
    if not len(sorted_keys):
        return np.zeros(keys.shape, bool)
    return sorted_keys[np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)] == keys


def _first_kept(candidates: np.ndarray, kept: np.ndarray, k: int) -> np.ndarray:
    """The first `k` entries of each row of `candidates` [B, M] where `kept`, padded with -1; int64 [B, k]."""
    ranked = np.full((len(candidates), k), -1, np.int64)
    places = kept.cumsum(axis=1) - 1
    user, column = np.nonzero(kept & (places < k))
    ranked[user, places[user, column]] = candidates[user, column]
    return ranked


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
        excluded = np.empty(0, np.int64) if exclude is None else _pair_keys(exclude, self.num_items)
        return self.fill(np.empty((len(histories), 0), np.int64), excluded, k)

    def fill(self, ranked: np.ndarray, excluded: np.ndarray, k: int) -> np.ndarray:
        """Continues lists with popular items.

        Args:
            ranked: int64 [B, m] the items ranked so far, -1 padded at the end.
            excluded: int64 sorted keys `user * num_items + item` of items not to be used.
            k: length of the filled lists.
        """
        users = np.arange(len(ranked))[:, None] * self.num_items
        taken = np.sort(np.concatenate([excluded, (users + ranked)[ranked >= 0]]))
        # enough popular items for the user with the most taken ones
        most = np.bincount(taken // self.num_items).max(initial=0) if len(taken) else 0
        popular = np.broadcast_to(self.order[: k + most], (len(ranked), min(k + most, self.num_items)))
        candidates = np.concatenate([ranked, popular], axis=1)
        kept = np.concatenate([ranked >= 0, ~_contains(taken, users + popular)], axis=1)
        return _first_kept(candidates, kept, k)


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
        for place, weight in enumerate(LAST_WEIGHTS, 1):
            last = np.array([h[-place] if len(h) >= place else self.num_items for h in histories], np.int64)
            part = self.follows[last]
            part.data = weight * part.data / self.norm[part.indices]
            scores = scores + part  # last item first: a fixed order of additions keeps exact ties exact
        users, items = np.repeat(np.arange(len(histories)), np.diff(scores.indptr)), scores.indices.astype(np.int64)
        excluded = np.empty(0, np.int64) if exclude is None else _pair_keys(exclude, self.num_items)
        kept = ~_contains(excluded, users * self.num_items + items)
        users, items, values = users[kept], items[kept], scores.data[kept]
        order = np.lexsort((items, -values, users))
        users, items = users[order], items[order]
        first = np.searchsorted(users, np.arange(len(histories)))
        places = np.arange(len(users)) - first[users]
        ranked = np.full((len(histories), k), -1, np.int64)
        best = places < k
        ranked[users[best], places[best]] = items[best]
        return self.popular.fill(ranked, excluded, k)


class NearestItems(ScoringRecommender):
    """Recommends the items whose embeddings, of their texts say, are nearest to those of the history.

    An item scores the cosine of its embedding and the last item's (`"last"`), or the mean of the history's unit
    embeddings (`"mean"`), or the sum of both (`"last+mean"`). A history without items scores 0 everywhere.

    Args:
        embeddings (`np.ndarray`): float [n, E] in catalogue order, as [`load_embeddings`]
            gives them; zeros are as near to everything.
        query (`str`, *optional*, defaults to `"last"`): `"last"`, `"mean"` or `"last+mean"`.
        max_history (`int`, *optional*): last items of a history that are looked at; None: all.
        batch_size, chunk_items (`int`, *optional*): see [`ScoringRecommender`].

    Raises:
        ValueError: another query, embeddings of a wrong shape or that are not finite.
    """

    def __init__(
        self,
        embeddings: np.ndarray,
        query: Literal["last", "mean", "last+mean"] = "last",
        max_history: int | None = None,
        batch_size: int = 256,
        chunk_items: int = 32768,
    ):
        if query not in ("last", "mean", "last+mean"):
            raise ValueError(f"query must be 'last', 'mean' or 'last+mean', got {query!r}.")
        embeddings = torch.from_numpy(np.asarray(embeddings, np.float32))
        if embeddings.ndim != 2:
            raise ValueError(f"Expected embeddings [n, E], got shape {tuple(embeddings.shape)}.")
        bad = (~embeddings.isfinite().all(dim=1)).nonzero().squeeze(1)
        if len(bad):
            raise ValueError(f"{len(bad)} items have embeddings that are not finite, as row {int(bad[0])}.")
        self.query = query
        self.unit = torch.nn.functional.normalize(embeddings)
        scorer = DotProductScorer(self._user_states, self.unit)
        super().__init__(scorer, f"nearest items ({query})", max_history, batch_size, chunk_items)

    def _user_states(self, histories: Sequence[np.ndarray]) -> torch.Tensor:
        """B histories → float32 [B, E], what the unit embeddings of the catalogue are multiplied with."""
        lengths = np.array([len(history) for history in histories], np.int64)
        rows = torch.from_numpy(np.concatenate([*histories, np.empty(0, np.int64)]).astype(np.int64))
        states = torch.zeros(len(histories), self.unit.shape[1])
        if self.query != "last":
            users = torch.from_numpy(np.repeat(np.arange(len(histories)), lengths))
            states = torch.nn.functional.normalize(states.index_add(0, users, self.unit[rows]))
        if self.query != "mean":
            some = torch.from_numpy(np.flatnonzero(lengths))
            last = torch.from_numpy(np.cumsum(lengths) - 1)[some]
            states = states.index_add(0, some, self.unit[rows[last]])
        return states
