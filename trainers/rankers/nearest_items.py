"""The ranker by content: items whose embeddings are nearest to those of the history. It learns nothing from users."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch

from trainers.rankers.scoring import CandidateScorer, DotProductScorer, ScoringRanker

Query = Literal["last", "mean", "last+mean", "history"]
QUERIES: tuple[str, ...] = ("last", "mean", "last+mean", "history")
# Of "history", chosen by GAUC on three domains (sports, games, films) for any other.
TEMPERATURE, DECAY = 0.3, 0.5


class LikenessScorer:
    """
    Scores an item by its likeness to every item of a history: τ·log Σ_t w_t exp(cos_t / τ), where w_t falls with the
    place t from the end as t^-½ and sums to 1. One alike item of the history counts more than many that are a little.
    A history without items scores 0 everywhere.

    Args:
        unit (`torch.Tensor`): float32 `[n, E]`, of length 1.
    """

    def __init__(self, unit: torch.Tensor):
        self.item_embeddings, self.num_items = unit, len(unit)

    def encode(self, histories: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows int64 `[B, H]`, the last item first, and the logarithms of their weights, -inf where there is none."""
        newest = [torch.from_numpy(np.array(history[::-1], np.int64)) for history in histories]
        rows = torch.nn.utils.rnn.pad_sequence([*newest, torch.zeros(1, dtype=torch.long)], batch_first=True)[:-1]
        places = torch.arange(1, rows.shape[1] + 1)
        there = places <= torch.tensor([len(history) for history in histories])[:, None]
        weights = places**-DECAY * there
        return rows, (weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-30)).log()

    def scores(self, users: tuple[torch.Tensor, torch.Tensor], items: slice) -> torch.Tensor:
        return self._sums(users, lambda vectors: vectors @ self.item_embeddings[items].T)

    def candidate_scores(self, users: tuple[torch.Tensor, torch.Tensor], candidates: torch.Tensor) -> torch.Tensor:
        """Scores `[B, C]` of a few items of each user, int64 `[B, C]`."""
        vectors = self.item_embeddings[candidates]
        return self._sums(users, lambda of_place: torch.einsum("be,bce->bc", of_place, vectors))

    def _sums(
        self, users: tuple[torch.Tensor, torch.Tensor], cosines: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Place by place, so that nothing is held but one place's cosines and the sums."""
        rows, weights = users
        total: torch.Tensor | None = None
        for place, weight in zip(rows.unbind(1), weights.unbind(1), strict=True):
            found = cosines(self.item_embeddings[place]) / TEMPERATURE + weight[:, None]
            total = found if total is None else torch.logaddexp(total, found)
        assert total is not None
        return total.masked_fill(weights[:, :1] == -torch.inf, 0.0) * TEMPERATURE


class NearestItems(ScoringRanker):
    """Recommends the items whose embeddings, of their texts say, are nearest to those of the history.

    An item scores the cosine of its embedding and the last item's (`"last"`), or the mean of the history's unit
    embeddings (`"mean"`), or the sum of both (`"last+mean"`), or its likeness to every item of the history, all
    without the catalogue's mean (`"history"`, see [`LikenessScorer`]). A history without items scores 0 everywhere.

    Args:
        embeddings (`np.ndarray`): float [n, E] in catalogue order, as [`load_embeddings`]
            gives them; zeros are as near to everything.
        query (`str`, *optional*, defaults to `"last"`): `"last"`, `"mean"`, `"last+mean"` or `"history"`.
        max_history (`int`, *optional*): last items of a history that are looked at; None: all.
        batch_size, chunk_items (`int`, *optional*): see [`ScoringRanker`].

    Raises:
        ValueError: another query, embeddings of a wrong shape or that are not finite.
    """

    def __init__(
        self,
        embeddings: np.ndarray,
        query: Query = "last",
        max_history: int | None = None,
        batch_size: int = 256,
        chunk_items: int = 32768,
    ):
        if query not in QUERIES:
            raise ValueError(f"query must be one of {', '.join(map(repr, QUERIES))}, got {query!r}.")
        vectors = torch.from_numpy(np.asarray(embeddings, np.float32))
        if vectors.ndim != 2:
            raise ValueError(f"Expected embeddings [n, E], got shape {tuple(vectors.shape)}.")
        bad = (~vectors.isfinite().all(dim=1)).nonzero().squeeze(1)
        if len(bad):
            raise ValueError(f"{len(bad)} items have embeddings that are not finite, as row {int(bad[0])}.")
        self.query = query
        if query == "history":
            vectors = vectors - vectors.mean(dim=0)
        self.unit = torch.nn.functional.normalize(vectors)
        scorer: CandidateScorer
        scorer = LikenessScorer(self.unit) if query == "history" else DotProductScorer(self._user_states, self.unit)
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
