"""Models that give scores, as rankers: full ranking in chunks of the catalogue, one batch of users at a time.

[`ScoringRanker`] turns any scorer into what [`trainers.evaluation.protocol.evaluate`] asks for. Its memory is
`batch_size × chunk_items` scores, whatever the number of users and items. For a model whose score is a dot product:

```python
scorer = DotProductScorer(lambda histories: model.user_states(*collate(histories)), item_embeddings)
ranker = ScoringRanker(scorer, name="sasrec", max_history=50)
evaluate(ranker, interactions)
```
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import numpy as np
import torch


class Scorer(Protocol):
    """What [`ScoringRanker`] needs. Tensors may be on any device; arrays of numpy do as well.

    Attributes:
        num_items (`int`): items of the catalogue.
    """

    num_items: int

    def encode(self, histories: Sequence[np.ndarray]) -> Any:
        """B histories of item rows (oldest first) → whatever `scores` needs of these users; once per batch of users.

        A scorer without this method is given the histories themselves.
        """
        ...

    def scores(self, users: Any, items: slice) -> torch.Tensor | np.ndarray:
        """What `encode` gave, and a range of item rows → float [B, items.stop - items.start], higher is better.

        An item with the score -inf is never ranked.
        """
        ...


class CandidateScorer(Scorer, Protocol):
    """A [`Scorer`] that also scores a few items of each user, as [`DotProductScorer`].

    Attributes:
        item_embeddings (`torch.Tensor`): `[n, d]`, where scores are computed.
    """

    item_embeddings: torch.Tensor

    def candidate_scores(self, users: Any, candidates: torch.Tensor) -> torch.Tensor:
        """What `encode` gave, and item rows int64 `[B, C]` → scores `[B, C]`."""
        ...


class DotProductScorer:
    """Scores `user_state · item_embedding + bias`, as SASRec, GRU4Rec and most sequential recommenders do.

    Args:
        user_states (`Callable`): B histories of item rows (arrays, oldest first) → float [B, d], on any device. Called
            in inference mode, with at most `batch_size` histories of [`ScoringRanker`].
        item_embeddings (`torch.Tensor` or `np.ndarray`): float [n, d] in catalogue order, without a padding row;
            scores are computed on its device.
        bias (`torch.Tensor` or `np.ndarray`, *optional*): float [n].

    Scores are computed in float32, or in float64 if the embeddings are: rounding to bfloat16 would make ties.

    Raises:
        ValueError: shapes do not fit.
    """

    def __init__(
        self,
        user_states: Callable[[Sequence[np.ndarray]], torch.Tensor | np.ndarray],
        item_embeddings: torch.Tensor | np.ndarray,
        bias: torch.Tensor | np.ndarray | None = None,
    ):
        self.item_embeddings = torch.as_tensor(item_embeddings).detach()
        if self.item_embeddings.ndim != 2:
            raise ValueError(f"Expected item embeddings [n, d], got shape {tuple(self.item_embeddings.shape)}.")
        self.num_items = len(self.item_embeddings)
        self.dtype = torch.promote_types(self.item_embeddings.dtype, torch.float32)
        self.user_states = user_states
        self.bias = None
        if bias is not None:
            self.bias = torch.as_tensor(bias).detach().to(self.item_embeddings.device, self.dtype)
            if self.bias.shape != (self.num_items,):
                raise ValueError(f"Expected a bias [{self.num_items}], got shape {tuple(self.bias.shape)}.")

    def encode(self, histories: Sequence[np.ndarray]) -> torch.Tensor:
        states = torch.as_tensor(self.user_states(histories)).to(self.item_embeddings.device, self.dtype)
        expected = (len(histories), self.item_embeddings.shape[1])
        if states.shape != expected:
            raise ValueError(f"Expected user states {expected}, got {tuple(states.shape)}.")
        return states

    def scores(self, users: torch.Tensor, items: slice) -> torch.Tensor:
        scores = users @ self.item_embeddings[items].to(self.dtype).T
        return scores if self.bias is None else scores.add_(self.bias[items])

    def candidate_scores(self, users: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """Scores `[B, C]` of a few items of each user, int64 `[B, C]`."""
        scores = torch.einsum("bd,bcd->bc", users, self.item_embeddings[candidates].to(self.dtype))
        return scores if self.bias is None else scores.add_(self.bias[candidates])


class ScoringRanker:
    """Ranks the catalogue by a scorer's scores; equal scores keep catalogue order, also across chunks.

    Args:
        scorer ([`Scorer`]): gives the scores.
        name (`str`): name in result tables.
        max_history (`int`, *optional*): items of a history that the model looks at; None: all.
        batch_size (`int`, *optional*, defaults to 256): users at a time.
        chunk_items (`int`, *optional*, defaults to 32768): items at a time.

    Raises:
        ValueError: a size below 1.
    """

    ties = "catalogue order"

    def __init__(
        self,
        scorer: Scorer,
        name: str,
        max_history: int | None = None,
        batch_size: int = 256,
        chunk_items: int = 32768,
    ):
        if min(batch_size, chunk_items, 1 if max_history is None else max_history) < 1:
            raise ValueError(
                f"max_history, batch_size, chunk_items must be at least 1, got {max_history}, {batch_size}, "
                f"{chunk_items}."
            )
        self.scorer = scorer
        self.name = name
        self.max_history = max_history
        self.batch_size = batch_size
        self.chunk_items = chunk_items

    @torch.inference_mode()
    def rank(self, histories: Sequence[np.ndarray], k: int, exclude: Sequence[np.ndarray] | None = None) -> np.ndarray:
        """The best `k` items of each user.

        Args:
            histories (`Sequence[np.ndarray]`): B arrays of item rows, oldest first; the last `max_history` of each are
                used.
            k (`int`): items per user.
            exclude (`Sequence[np.ndarray]`, *optional*): B arrays of item rows never to rank, or None.

        Returns:
            int64 [B, k] item rows, best first, equal scores in catalogue order; -1 where nothing is left.

        Raises:
            ValueError: `exclude` of another length, or scores of a wrong shape or with NaN.
        """
        if exclude is not None and len(exclude) != len(histories):
            raise ValueError(f"{len(histories)} histories, but {len(exclude)} lists of items to exclude.")
        if self.max_history is not None:
            histories = [history[-self.max_history :] for history in histories]
        ranked = np.full((len(histories), k), -1, np.int64)
        for start in range(0, len(histories), self.batch_size):
            users = slice(start, start + self.batch_size)
            ranked[users] = self._rank_batch(histories[users], k, None if exclude is None else exclude[users])
        return ranked

    @torch.inference_mode()
    def score(self, histories: Sequence[np.ndarray], candidates: np.ndarray) -> np.ndarray:
        """Scores of given items, if the scorer is a [`CandidateScorer`].

        Args:
            histories (`Sequence[np.ndarray]`): B arrays of item rows, oldest first; the last `max_history` of each are
                used.
            candidates (`np.ndarray`): int64 [B, C] item rows, -1 for padding.

        Returns:
            float [B, C], -inf for padding.
        """
        if self.max_history is not None:
            histories = [history[-self.max_history :] for history in histories]
        scorer = cast(CandidateScorer, self.scorer)
        users, rows = scorer.encode(histories), torch.from_numpy(candidates).to(scorer.item_embeddings.device)
        scores = scorer.candidate_scores(users, rows.clamp(min=0))
        return scores.masked_fill(rows < 0, -torch.inf).cpu().numpy()

    def _rank_batch(self, histories: Sequence[np.ndarray], k: int, exclude: Sequence[np.ndarray] | None) -> np.ndarray:
        scorer, num_items = self.scorer, self.scorer.num_items
        users = scorer.encode(histories) if hasattr(scorer, "encode") else histories
        owners, unwanted = _pairs([] if exclude is None else exclude)
        best: torch.Tensor | None = None  # the best k so far, sorted, float [B, <= k]
        rows: torch.Tensor | None = None  # and their items, int64 [B, <= k]
        for start in range(0, num_items, self.chunk_items):
            stop = min(start + self.chunk_items, num_items)
            scores = torch.as_tensor(scorer.scores(users, slice(start, stop)))
            self._check_scores(scores, len(histories), start, stop)
            # Instead of a masked copy of all scores: as many more items as a user may lose, of which those go.
            inside = (unwanted >= start) & (unwanted < stop)
            most = int(np.bincount(owners[inside]).max(initial=0))
            chunk_best, chunk_rows = stable_topk(scores, k + most)
            chunk_rows += start
            if most:
                first_keys = torch.arange(len(histories), device=chunk_rows.device)[:, None] * num_items
                keys = torch.from_numpy(owners[inside] * num_items + unwanted[inside]).to(chunk_rows.device)
                chunk_best = chunk_best.masked_fill(torch.isin(first_keys + chunk_rows, keys), -torch.inf)
            if best is not None and rows is not None:
                chunk_best, chunk_rows = torch.cat([best, chunk_best], 1), torch.cat([rows, chunk_rows], 1)
            # what was found before comes first and the sort is stable: of equals, the earlier item stays in front
            best, order = chunk_best.sort(dim=1, descending=True, stable=True)
            best, rows = best[:, :k], chunk_rows.gather(1, order[:, :k])
        ranked = np.full((len(histories), k), -1, np.int64)
        if best is not None and rows is not None:
            ranked[:, : best.shape[1]] = rows.masked_fill(best == -torch.inf, -1).cpu().numpy()
        return ranked

    def _check_scores(self, scores: torch.Tensor, num_users: int, start: int, stop: int) -> None:
        expected = (num_users, stop - start)
        if scores.shape != expected or not scores.is_floating_point():
            raise ValueError(
                f"{self.name}: scores() must return floats {expected}, got {scores.dtype} {tuple(scores.shape)}."
            )
        if not scores.max() < torch.inf:  # NaN wins every comparison of max
            raise ValueError(f"{self.name}: scores() returned NaN or infinity for items {start} to {stop - 1}.")


def stable_topk(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Like `torch.topk` over the last dimension of float [B, n], but of equal scores the first ones, in order.

    `torch.topk` leaves open which of equal scores it takes. Only the rows where that matters (the last score taken
    occurs once more) are looked at again.

    Returns:
        Scores [B, min(k, n)] and int64 positions, best first.
    """
    n = scores.shape[1]
    taken = min(k, n)
    values, columns = scores.topk(min(k + 1, n), dim=1)
    if n > k:
        torn = (values[:, k - 1] == values[:, k]).nonzero().squeeze(1)
        columns = columns[:, :k]
        if len(torn):
            rows, last = scores[torn], values[torn, k, None]
            above, equal = rows > last, rows == last
            wanted = k - above.sum(dim=1, keepdim=True)
            chosen = above | (equal & (equal.cumsum(dim=1, dtype=torch.int32) <= wanted))
            columns[torn] = chosen.nonzero()[:, 1].view(-1, k)
    columns = columns.sort(dim=1).values  # by position first: the stable sort by score keeps that order among equals
    values, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return values[:, :taken], columns.gather(1, order)


def _pairs(rows: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Item rows of B users → int64 users and int64 items, one entry each."""
    owners = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    return owners, np.concatenate([*rows, np.empty(0, np.int64)]).astype(np.int64)
