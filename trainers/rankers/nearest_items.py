"""The ranker by content: items whose embeddings are nearest to those of the history. It learns nothing from users."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from trainers.rankers.scoring import DotProductScorer, ScoringRanker


class NearestItems(ScoringRanker):
    """Recommends the items whose embeddings, of their texts say, are nearest to those of the history.

    An item scores the cosine of its embedding and the last item's (`"last"`), or the mean of the history's unit
    embeddings (`"mean"`), or the sum of both (`"last+mean"`). A history without items scores 0 everywhere.

    Args:
        embeddings (`np.ndarray`): float [n, E] in catalogue order, as [`load_embeddings`]
            gives them; zeros are as near to everything.
        query (`str`, *optional*, defaults to `"last"`): `"last"`, `"mean"` or `"last+mean"`.
        max_history (`int`, *optional*): last items of a history that are looked at; None: all.
        batch_size, chunk_items (`int`, *optional*): see [`ScoringRanker`].

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
        vectors = torch.from_numpy(np.asarray(embeddings, np.float32))
        if vectors.ndim != 2:
            raise ValueError(f"Expected embeddings [n, E], got shape {tuple(vectors.shape)}.")
        bad = (~vectors.isfinite().all(dim=1)).nonzero().squeeze(1)
        if len(bad):
            raise ValueError(f"{len(bad)} items have embeddings that are not finite, as row {int(bad[0])}.")
        self.query = query
        self.unit = torch.nn.functional.normalize(vectors)
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
