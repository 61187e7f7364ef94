"""Ranking metrics, each computed here and nowhere else: a new one is a line of [`RANK_METRICS`].

Means over cases (a case is a history and the item that follows it): Recall, NDCG and MRR, all from the rank of the
target in a list. With one relevant item per case Recall is the hit rate, the ideal DCG is 1 and MRR is the mean
reciprocal rank, 0 outside the list. Of the whole catalogue: coverage, Gini and novelty, from how often each item is
recommended.

Hits are counted on items, never on semantic IDs: a tokenizer that gives two items one semantic ID must not profit.
[`identifier_groups`] exists to show, in a second column, what counting semantic IDs would have given.

Of labelled candidates instead of the whole catalogue: [`auc_by_user`], whose mean over the users is GAUC.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

# What a case adds to a metric by the rank of its target (int [C], 0 the best) where that is within the cut-off.
# Metrics are means over cases: those of several shares of the users can be averaged.
RANK_METRICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "recall": lambda ranks: np.ones(ranks.shape),
    "ndcg": lambda ranks: 1 / np.log2(ranks + 2),  # Järvelin & Kekäläinen 2002
    "mrr": lambda ranks: 1 / (ranks + 1),
}

# The columns of short tables: those that papers on sequential recommendation report most.
TABLE_METRICS = ("recall@5", "recall@10", "ndcg@5", "ndcg@10")


def metric_names(ks: Sequence[int] = (5, 10)) -> list[str]:
    """`["recall@5", "ndcg@5", "mrr@5", "recall@10", ...]`: the metrics of a result at these cut-offs."""
    return [f"{name}@{k}" for k in ks for name in RANK_METRICS]


def is_metric(name: str) -> bool:
    """Whether a result's key names a metric: one with a cut-off, or GAUC."""
    return "@" in name or name == "gauc"


def is_rank_metric(name: str) -> bool:
    """Whether a result's key names one of [`RANK_METRICS`], as `"ndcg@10"` does."""
    metric, at, _ = name.partition("@")
    return bool(at) and metric in RANK_METRICS


def auc_by_user(users: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Area under the ROC curve of each user that has candidates of both labels: the share of its pairs of a positive
    and a negative that the scores order rightly, where equal scores count half (Hanley & McNeil 1982).

    Args:
        users (`np.ndarray`): int [R] user of each candidate, in any order.
        scores (`np.ndarray`): float [R], higher is better; infinite ones are allowed.
        labels (`np.ndarray`): bool [R].

    Returns:
        The users with both labels, ascending, and float64 AUC of each; the mean of the latter is GAUC, every user
        weighing the same.

    Raises:
        ValueError: shapes do not fit, a score is NaN, or no user has both labels.
    """
    users, scores, labels = np.asarray(users), np.asarray(scores, np.float64), np.asarray(labels, bool)
    if users.ndim != 1 or users.shape != scores.shape or users.shape != labels.shape:
        raise ValueError(f"Expected users, scores, labels [R], got {users.shape}, {scores.shape}, {labels.shape}.")
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} of {len(scores)} scores are NaN.")
    order = np.lexsort((scores, users))
    users, scores, labels = users[order], scores[order], labels[order]
    distinct, groups = np.unique(users, return_inverse=True)
    # twice the mean rank, a whole number: equal scores share the ranks that they take together
    tied = np.zeros(len(users), bool)
    tied[1:] = (groups[1:] == groups[:-1]) & (scores[1:] == scores[:-1])
    block = np.cumsum(~tied) - 1
    first = np.flatnonzero(~tied)
    last = np.append(first[1:], len(users)) - 1
    ranks = first[block] + last[block] - 2 * np.searchsorted(users, users) + 2
    positives = np.bincount(groups, labels, len(distinct)).astype(np.int64)
    pairs = positives * (np.bincount(groups, minlength=len(distinct)) - positives)
    both = pairs > 0
    if not both.any():
        raise ValueError("No user has candidates of both labels: GAUC is undefined.")
    right = np.bincount(groups, ranks * labels, len(distinct)) / 2 - positives * (positives + 1) / 2
    return distinct[both], right[both] / pairs[both]


def target_ranks(ranked: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Rank of each target in its list, 0 the best, -1 when it is not there; int64 [C].

    Args:
        ranked (`np.ndarray`): int [C, K] item rows, best first, -1 for nothing.
        targets (`np.ndarray`): int [C] item rows.

    Raises:
        ValueError: shapes do not fit, or negative targets.
    """
    ranked, targets = np.asarray(ranked), np.asarray(targets)
    if ranked.ndim != 2 or targets.shape != ranked.shape[:1]:
        raise ValueError(f"Expected ranked [C, K] and targets [C], got {ranked.shape} and {targets.shape}.")
    if (targets < 0).any():
        raise ValueError("Negative targets: -1 marks the end of a ranking and cannot be a target.")
    hits = ranked == targets[:, None]
    return np.where(hits.any(axis=1), hits.argmax(axis=1) if ranked.shape[1] else -1, -1)


def metrics_per_case(ranks: np.ndarray, ks: Sequence[int] = (5, 10)) -> dict[str, np.ndarray]:
    """What each case adds to the metrics.

    Args:
        ranks (`np.ndarray`): int [C], as [`target_ranks`] gives them.
        ks (`Sequence[int]`, *optional*, defaults to `(5, 10)`): cut-offs.

    Returns:
        float64 [C] for each of [`metric_names`]: `"recall@k"` (1 when the target is in the first k), `"ndcg@k"`
        (`1 / log2(rank + 2)`), `"mrr@k"` (`1 / (rank + 1)`), 0 outside the first k.
    """
    ranks = np.asarray(ranks)
    per_case = {}
    for k in ks:
        hit = (ranks >= 0) & (ranks < k)
        for name, metric in RANK_METRICS.items():
            per_case[f"{name}@{k}"] = hit * metric(np.where(hit, ranks, 0))
    return per_case


def ranking_metrics(ranked: np.ndarray, targets: np.ndarray, ks: Sequence[int] = (5, 10)) -> dict[str, float]:
    """Means of [`metrics_per_case`] over the cases: `{"recall@5", "ndcg@5", "mrr@5", "recall@10", ...}`.

    Args:
        ranked (`np.ndarray`): int [C, K] item rows, best first, -1 for nothing; K at least `max(ks)`.
        targets (`np.ndarray`): int [C] item rows.
        ks (`Sequence[int]`, *optional*, defaults to `(5, 10)`): cut-offs.

    Raises:
        ValueError: shapes do not fit, negative targets, lists shorter than a cut-off, or no cases.
    """
    check_cutoffs(ks)
    ranks = target_ranks(ranked, targets)
    if max(ks) > np.shape(ranked)[1]:
        raise ValueError(f"Cut-offs {tuple(ks)} need lists of {max(ks)} items or more, got {np.shape(ranked)[1]}.")
    return means(metrics_per_case(ranks, ks))


def means(per_case: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Means over the cases of [`metrics_per_case`].

    Raises:
        ValueError: no cases.
    """
    if not all(len(values) for values in per_case.values()):
        raise ValueError("No users to evaluate: every metric would be undefined.")
    return {name: float(values.mean()) for name, values in per_case.items()}


def check_cutoffs(ks: Sequence[int]) -> None:
    """Raises ValueError where `ks` are no cut-offs."""
    if not len(ks) or min(ks) < 1 or len(set(ks)) < len(ks):
        raise ValueError(f"Cut-offs must be different integers of at least 1, got {tuple(ks)}.")


def recommendation_counts(ranked: np.ndarray, num_items: int) -> np.ndarray:
    """How often each item of the catalogue is recommended; int64 [num_items].

    Args:
        ranked (`np.ndarray`): int [C, k] item rows, -1 for nothing.
        num_items (`int`): size of the catalogue.
    """
    return np.bincount(ranked[ranked >= 0], minlength=num_items)


def catalogue_metrics(counts: np.ndarray, popularity: np.ndarray) -> dict[str, float | None]:
    """What the recommendations of all users are like together, at one cut-off.

    Args:
        counts (`np.ndarray`): int [n] how often each item is among the first k of a user's list, over all users.
        popularity (`np.ndarray`): int [n] training interactions of each item.

    Returns:
        - `"coverage"`: share of the catalogue that is recommended to at least one user;
        - `"gini"`: Gini coefficient of the counts over the whole catalogue, `Σ (2i - n - 1) c_i / (n Σ c)` with the
          counts ascending; 0 when every item is recommended equally often, near 1 when few get everything;
        - `"novelty"`: mean self-information of a recommendation, `-log2` of the item's share of the training
          interactions (Zhou et al. 2010), in bits. An item without any counts as if it had one.

        Gini and novelty are None when nothing was recommended.

    Raises:
        ValueError: shapes do not fit.
    """
    counts, popularity = np.asarray(counts, np.float64), np.asarray(popularity)
    if counts.ndim != 1 or counts.shape != popularity.shape:
        raise ValueError(f"Expected counts and popularity [n], got {counts.shape} and {popularity.shape}.")
    n, total = len(counts), counts.sum()
    if not total:
        return {"coverage": 0.0, "gini": None, "novelty": None}
    weights = 2 * np.arange(1, n + 1) - n - 1
    information = -np.log2(np.maximum(popularity, 1) / max(popularity.sum(), 1))
    return {
        "coverage": float((counts > 0).mean()),
        "gini": float(weights @ np.sort(counts) / (n * total)),
        "novelty": float(counts @ information / total),
    }


def identifier_groups(identifiers: np.ndarray) -> np.ndarray:
    """Number of each item's semantic ID among the distinct ones; int64 [n].

    Rankings and targets mapped through it give metrics of semantic IDs: a hit is then any item with the target's
    semantic ID, at the rank of the first of them.

    Args:
        identifiers (`np.ndarray`): int [n, L] codes as the tokenizer gives them, before collisions are resolved.
    """
    return np.unique(np.asarray(identifiers), axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def group_means(
    per_case: Mapping[str, np.ndarray], users: np.ndarray, values: np.ndarray, bounds: Sequence[int], name: str
) -> list[dict[str, Any]]:
    """Metrics of slices of the cases: those whose value is in `[bounds[0], bounds[1])`, ..., `[bounds[-1], ∞)`.

    Args:
        per_case (`Mapping[str, np.ndarray]`): float [C] for every metric, see [`metrics_per_case`].
        users (`np.ndarray`): int [C] user of each case.
        values (`np.ndarray`): int [C] what the cases are sliced by.
        bounds (`Sequence[int]`): ascending; values below the first are in no slice.
        name (`str`): of what is sliced by.

    Returns:
        For each slice `{name: "[0,20)", "num_users": ..., "num_cases": ..., metrics}`, with None for the metrics of an
        empty one.
    """
    groups = []
    for low, high in zip(bounds, (*bounds[1:], None), strict=True):
        inside = (values >= low) & (True if high is None else values < high)
        count = int(inside.sum())
        label = f"[{low},{'∞' if high is None else high})"
        metrics = {metric: float(each[inside].mean()) if count else None for metric, each in per_case.items()}
        groups.append({name: label, "num_users": len(np.unique(users[inside])), "num_cases": count, **metrics})
    return groups
