"""Ranking metrics. The only place where a metric is computed.

Means over cases (a case is a history and the item that follows it): Recall, NDCG and MRR, all from the place of the
target in a list. With one relevant item per case Recall is the hit rate, the ideal DCG is 1 and MRR is the mean
reciprocal rank, 0 outside the list. Of the whole catalogue: coverage, Gini and novelty, from how often each item is
recommended.

Hits are counted on items, never on identifiers: a tokenizer that gives two items one identifier must not profit.
[`identifier_groups`] exists to show, in a second column, what counting identifiers would have given.

Of labelled candidates instead of the whole catalogue: [`auc_by_user`], whose mean over the users is GAUC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MEANS = ("recall", "ndcg", "mrr")  # means over cases: those of several shares of the users can be averaged


def is_metric(name: str) -> bool:
    """Whether a result's key names a metric: one with a cut-off, or GAUC."""
    return "@" in name or name == "gauc"


def auc_by_user(users: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Area under the ROC curve of each user that has candidates of both labels: the share of its pairs of a positive
    and a negative that the scores order rightly, where equal scores count half (Hanley & McNeil 1982).

    Args:
        users: int [R] user of each candidate, in any order.
        scores: float [R], higher is better; infinite ones are allowed.
        labels: bool [R].

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


def target_places(ranked: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Place of each target in its list, 0 the best, -1 when it is not there; int64 [C].

    Args:
        ranked: int [C, K] item rows, best first, -1 for nothing.
        targets: int [C] item rows.

    Raises:
        ValueError: shapes do not fit, or negative targets.
    """
    ranked, targets = np.asarray(ranked), np.asarray(targets)
    if ranked.ndim != 2 or targets.shape != ranked.shape[:1]:
        raise ValueError(f"Expected ranked [C, K] and targets [C], got {ranked.shape} and {targets.shape}.")
    if (targets < 0).any():
        raise ValueError("Negative targets: -1 marks an empty place in a ranking and cannot be a target.")
    hits = ranked == targets[:, None]
    return np.where(hits.any(axis=1), hits.argmax(axis=1) if ranked.shape[1] else -1, -1)


def gains_at(places: np.ndarray, ks: Sequence[int] = (5, 10)) -> dict[str, np.ndarray]:
    """Each case's share in the metrics, from the place of its target.

    Args:
        places: int [C], as [`target_places`] gives them.
        ks: cut-offs.

    Returns:
        float64 [C] for every `"recall@k"` (1 when the target is in the first k), `"ndcg@k"` (`1 / log2(place + 2)`,
        Järvelin & Kekäläinen 2002) and `"mrr@k"` (`1 / (place + 1)`), the latter two 0 outside the first k.
    """
    places = np.asarray(places)
    gains = {}
    for k in ks:
        hit = (places >= 0) & (places < k)
        place = np.where(hit, places, 0)
        gains[f"recall@{k}"] = hit.astype(np.float64)
        gains[f"ndcg@{k}"] = hit / np.log2(place + 2)
        gains[f"mrr@{k}"] = hit / (place + 1)
    return gains


def ranking_gains(ranked: np.ndarray, targets: np.ndarray, ks: Sequence[int] = (5, 10)) -> dict[str, np.ndarray]:
    """Each case's share in the metrics: [`gains_at`] of the [`target_places`].

    Args:
        ranked: int [C, K] item rows, best first, -1 for nothing; K at least `max(ks)`.
        targets: int [C] item rows.
        ks: cut-offs.

    Raises:
        ValueError: shapes do not fit, or negative targets.
    """
    check_cutoffs(ks)
    places = target_places(ranked, targets)
    if max(ks) > np.shape(ranked)[1]:
        raise ValueError(f"Cut-offs {tuple(ks)} need lists of {max(ks)} items or more, got {np.shape(ranked)[1]}.")
    return gains_at(places, ks)


def ranking_metrics(ranked: np.ndarray, targets: np.ndarray, ks: Sequence[int] = (5, 10)) -> dict[str, float]:
    """Mean of [`ranking_gains`] over the cases: `{"recall@5", "ndcg@5", "mrr@5", "recall@10", ...}`.

    Raises:
        ValueError: no cases, or as [`ranking_gains`].
    """
    return means(ranking_gains(ranked, targets, ks))


def means(gains: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Means over the cases.

    Raises:
        ValueError: no cases.
    """
    if not all(len(gain) for gain in gains.values()):
        raise ValueError("No users to evaluate: every metric would be undefined.")
    return {name: float(gain.mean()) for name, gain in gains.items()}


def check_cutoffs(ks: Sequence[int]) -> None:
    """Raises ValueError where `ks` are no cut-offs."""
    if not len(ks) or min(ks) < 1 or len(set(ks)) < len(ks):
        raise ValueError(f"Cut-offs must be different integers of at least 1, got {tuple(ks)}.")


def recommendation_counts(ranked: np.ndarray, num_items: int) -> np.ndarray:
    """How often each item of the catalogue is recommended; int64 [num_items].

    Args:
        ranked: int [C, k] item rows, -1 for nothing.
        num_items: size of the catalogue.
    """
    return np.bincount(ranked[ranked >= 0], minlength=num_items)


def catalogue_metrics(counts: np.ndarray, popularity: np.ndarray) -> dict[str, float | None]:
    """What the recommendations of all users are like together, at one cut-off.

    Args:
        counts: int [n] how often each item is in the first k of somebody's list.
        popularity: int [n] training interactions of each item.

    Returns:
        - `"coverage"`: share of the catalogue that is recommended to somebody;
        - `"gini"`: Gini coefficient of the counts over the whole catalogue, `Σ (2i - n - 1) c_i / (n Σ c)` with the
          counts ascending; 0 when every item is recommended equally often, near 1 when few get everything;
        - `"novelty"`: mean self-information of a recommendation, `-log2` of the item's share of the training
          interactions (Zhou et al. 2010), in bits. An item without any counts as if it had one.

        Gini and novelty are None when nothing was recommended to anybody.

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
    """Number of each item's identifier among the distinct ones; int64 [n].

    Rankings and targets mapped through it give identifier-level metrics: a hit is then any item with the target's
    identifier, at the place of the first of them.

    Args:
        identifiers: int [n, L] codes as the tokenizer gives them, before collisions are resolved.
    """
    return np.unique(np.asarray(identifiers), axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def group_means(
    gains: Mapping[str, np.ndarray], users: np.ndarray, values: np.ndarray, bounds: Sequence[int], name: str
) -> list[dict[str, Any]]:
    """Metrics of slices of the cases: those whose value is in `[bounds[0], bounds[1])`, ..., `[bounds[-1], ∞)`.

    Args:
        gains: float [C] for every metric.
        users: int [C] user of each case.
        values: int [C] what the cases are sliced by.
        bounds: ascending; values below the first are in no slice.
        name: of what is sliced by.

    Returns:
        For each slice `{name: "[0,20)", "num_users": ..., "num_cases": ..., metrics}`, with None for the metrics of an
        empty one.
    """
    groups = []
    for low, high in zip(bounds, (*bounds[1:], None), strict=True):
        inside = (values >= low) & (True if high is None else values < high)
        count = int(inside.sum())
        label = f"[{low},{'∞' if high is None else high})"
        metrics = {metric: float(gain[inside].mean()) if count else None for metric, gain in gains.items()}
        groups.append({name: label, "num_users": len(np.unique(users[inside])), "num_cases": count, **metrics})
    return groups
