"""The evaluation protocol: leave-one-out, full ranking over the catalogue. The only place where a metric is computed.

Hits are counted on items, never on identifiers: a tokenizer that gives two items one identifier must not profit.
The choices that move a result (seen items kept or masked, length of the history, tie order, candidates) are stated in
every result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
from tqdm.auto import tqdm

from trainers.interactions import Interactions

LONG_TAIL_BOUNDS = (0, 20, 40, 60)  # training popularity of the target; the last group is open


class Recommender(Protocol):
    """What [`evaluate`] needs.

    Optional attributes: `name`, `max_history` (items it looks at, None: no limit), `ties` and `num_beams`; what is
    there is stated in the result.
    """

    def rank(self, histories: list[np.ndarray], k: int, exclude: list[np.ndarray] | None = None) -> np.ndarray:
        """B histories of item rows (oldest first) → int [B, k] distinct item rows, best first, padded with -1.

        No item of `exclude` (B arrays of item rows, or None) may be ranked.
        """
        ...


def ranking_gains(ranked: np.ndarray, targets: np.ndarray, ks: Sequence[int] = (5, 10)) -> dict[str, np.ndarray]:
    """Each user's share in the metrics: `"recall@k"` (1 when the target is in the first k) and `"ndcg@k"`.

    Args:
        ranked: int [U, K] item rows, best first, -1 for nothing; K at least `max(ks)`.
        targets: int [U] item rows (one relevant item per user, so the ideal DCG is 1).
        ks: cut-offs.

    Returns:
        float64 [U] for every metric; NDCG is `1 / log2(rank + 2)` with rank 0 the best.

    Raises:
        ValueError: shapes do not fit, or negative targets.
    """
    ranked, targets = np.asarray(ranked), np.asarray(targets)
    if ranked.ndim != 2 or targets.shape != ranked.shape[:1]:
        raise ValueError(f"Expected ranked [U, K] and targets [U], got {ranked.shape} and {targets.shape}.")
    if min(ks) < 1 or max(ks) > ranked.shape[1]:
        raise ValueError(f"Cut-offs {tuple(ks)} need lists of {max(ks)} items or more, got {ranked.shape[1]}.")
    if (targets < 0).any():
        raise ValueError("Negative targets: -1 marks an empty place in a ranking and cannot be a target.")
    hits = ranked == targets[:, None]
    found, rank = hits.any(axis=1), hits.argmax(axis=1)
    gains = {}
    for k in ks:
        hit = found & (rank < k)
        gains[f"recall@{k}"] = hit.astype(np.float64)
        gains[f"ndcg@{k}"] = hit / np.log2(rank + 2)
    return gains


def ranking_metrics(ranked: np.ndarray, targets: np.ndarray, ks: Sequence[int] = (5, 10)) -> dict[str, float]:
    """Mean of [`ranking_gains`] over the users: `{"recall@5", "ndcg@5", "recall@10", "ndcg@10"}`.

    Raises:
        ValueError: no users, or as [`ranking_gains`].
    """
    if not len(targets):
        raise ValueError("No users to evaluate: every metric would be undefined.")
    return {name: float(gain.mean()) for name, gain in ranking_gains(ranked, targets, ks).items()}


def evaluate(
    recommender: Recommender,
    interactions: Interactions,
    part: Literal["validation", "test"] = "test",
    mask_seen: bool = False,
    max_history: int | None = 20,
    ks: Sequence[int] = (5, 10),
    batch_size: int = 256,
    long_tail: bool = True,
) -> dict[str, Any]:
    """Evaluates a recommender under the leave-one-out protocol.

    Args:
        recommender: any object with `rank(histories, k, exclude)`, see [`Recommender`].
        interactions: all interactions (not the training part); users with fewer than three are left out.
        part: `"test"` or `"validation"`.
        mask_seen: forbid the items of the *whole* history, however long. A target that the user had before is then
            lost, as it is for everyone.
        max_history: the recommender gets the last so many items of a history; None: all of them. Where the
            recommender's own `max_history` is smaller, that one holds.
        ks: cut-offs of the metrics.
        batch_size: users per call of `rank`.
        long_tail: also give the metrics by training popularity of the target.

    Returns:
        `dict` of plain values: name, metrics, `"num_users"`, `"num_short"` (users left out), the flags `"split"`,
        `"part"`, `"seen"`, `"max_history"` (as applied), `"ties"`, `"candidates"` and, where the recommender has it,
        `"num_beams"`; and `"long_tail"`: a list of `{"popularity": "[0,20)", "num_users": ..., metrics}`, with None
        for the metrics of an empty group.

    Raises:
        ValueError: no user can be evaluated, or the recommender broke its contract (shape, rows outside the catalogue,
            an item ranked twice, an excluded item ranked).
    """
    limits = [limit for limit in (max_history, getattr(recommender, "max_history", None)) if limit is not None]
    if any(limit < 1 for limit in limits) or batch_size < 1:
        raise ValueError(f"max_history and batch_size must be positive, got {max_history} and {batch_size}.")
    limit = min(limits, default=None)
    cases = interactions.cases(part)
    if not len(cases):
        raise ValueError(f"No user has three interactions or more ({interactions.num_short} users are shorter).")
    name = getattr(recommender, "name", type(recommender).__name__)
    ranked = np.empty((len(cases), max(ks)), np.int64)
    # disable=None: a bar on a terminal, silence in logs
    with tqdm(total=len(cases), desc=f"{name} ({part})", unit="user", disable=None) as progress:
        for start in range(0, len(cases), batch_size):
            stop = min(start + batch_size, len(cases))
            seen = cases.histories(start, stop) if mask_seen else None
            batch = np.asarray(recommender.rank(cases.histories(start, stop, limit), max(ks), seen))
            _check_ranking(batch, (stop - start, max(ks)), interactions.num_items, seen, name)
            ranked[start:stop] = batch
            progress.update(stop - start)

    result = {"name": name, **ranking_metrics(ranked, cases.targets, ks)}
    result |= {
        "num_users": len(cases),
        "num_short": interactions.num_short,
        "split": "leave-one-out",
        "part": part,
        "seen": "masked" if mask_seen else "kept",
        "max_history": limit,
        "ties": getattr(recommender, "ties", "recommender's order"),
        "candidates": f"all {interactions.num_items} items",
    }
    if hasattr(recommender, "num_beams"):
        result["num_beams"] = recommender.num_beams
    if long_tail:
        popularity = interactions.training_part().popularity[cases.targets]
        result["long_tail"] = long_tail_groups(ranked, cases.targets, popularity, ks)
    return result


def _check_ranking(
    ranked: np.ndarray, shape: tuple[int, int], num_items: int, exclude: list[np.ndarray] | None, name: str
) -> None:
    """Raises ValueError where a batch of rankings would give a wrong metric without anyone noticing."""
    if ranked.shape != shape or not np.issubdtype(ranked.dtype, np.integer):
        raise ValueError(f"{name}: rank() must return integers {shape}, got {ranked.dtype} {ranked.shape}.")
    if ranked.min() < -1 or ranked.max() >= num_items:
        raise ValueError(f"{name}: rank() returned rows outside the catalogue of {num_items} items.")
    ordered = np.sort(ranked, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        raise ValueError(f"{name}: rank() ranked an item twice for one user.")
    if exclude is not None:
        users = np.arange(len(ranked)) * num_items
        keys = np.repeat(users, [len(rows) for rows in exclude]) + np.concatenate(exclude)
        if np.isin((users[:, None] + ranked)[ranked >= 0], keys).any():
            raise ValueError(f"{name}: rank() ranked an excluded item although seen items are masked.")


def long_tail_groups(
    ranked: np.ndarray, targets: np.ndarray, popularity: np.ndarray, ks: Sequence[int] = (5, 10)
) -> list[dict[str, Any]]:
    """Metrics by the training popularity of the target: [0,20), [20,40), [40,60), [60,∞).

    Args:
        ranked: int [U, K] item rows.
        targets: int [U] item rows.
        popularity: int [U] training interactions with each user's target.
        ks: cut-offs.
    """
    groups = []
    gains = ranking_gains(ranked, targets, ks)
    for low, high in zip(LONG_TAIL_BOUNDS, (*LONG_TAIL_BOUNDS[1:], None), strict=True):
        inside = (popularity >= low) & (True if high is None else popularity < high)
        count = int(inside.sum())
        metrics = {name: float(gain[inside].mean()) if count else None for name, gain in gains.items()}
        groups.append({"popularity": f"[{low},{'∞' if high is None else high})", "num_users": count, **metrics})
    return groups


def render_table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown table with a line per result and a column per plain value (nested ones are left out).

    Floats get four decimals, missing values a dash.
    """
    plain = [{key: value for key, value in row.items() if not isinstance(value, list | dict)} for row in rows]
    columns = list(dict.fromkeys(key for row in plain for key in row))

    def cell(value: Any) -> str:
        if value is None:
            return "–"
        return f"{value:.4f}" if isinstance(value, float) else str(value).replace("|", "\\|")

    lines = [columns, ["---"] * len(columns), *([cell(row.get(column)) for column in columns] for row in plain)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
