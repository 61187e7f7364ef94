"""The evaluation protocol: full ranking over the catalogue for every held-out item.

What counts is in [`trainers.evaluation.metrics`], the only place where a metric is computed. The choices that move a
result (split, seen items kept or masked, length of the history, tie order, beams, candidates) are stated in every
result. Memory is a number for each case and for each item, never users × items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from tqdm.auto import tqdm

from trainers.data.interactions import Interactions
from trainers.evaluation.metrics import (
    catalogue_metrics,
    check_cutoffs,
    group_means,
    identifier_groups,
    means,
    metrics_per_case,
    recommendation_counts,
    target_ranks,
)
from trainers.evaluation.significance import bootstrap_intervals
from trainers.rankers import Ranker

# First value of each slice; the last one is open.
LONG_TAIL_BOUNDS = (0, 20, 40, 60)  # training popularity of the target
HISTORY_BOUNDS = (1, 5, 10, 20, 50)  # items before the target, before the history is cut
COLD_BOUNDS = (0, 1, 5)  # training popularity of the target: none, a few, enough
TRANSITION_BOUNDS = (0, 1)  # how often the target followed the last item directly in training: never, ever


def evaluate(
    ranker: Ranker,
    interactions: Interactions,
    part: Literal["validation", "test"] = "test",
    mask_seen: bool = False,
    max_history: int | None = 20,
    ks: Sequence[int] = (5, 10),
    batch_size: int = 256,
    long_tail: bool = True,
    identifiers: np.ndarray | None = None,
    intervals: int = 0,
    per_user: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Evaluates a ranker under the split of the interactions: leave-one-out, or the one given with the data.

    Metrics are means over the cases, see [`Interactions.cases`]: one for each user under leave-one-out, one for each
    held-out item under a given split.

    Args:
        ranker (`Ranker`): any object with `rank(histories, k, exclude)`, see [`trainers.rankers.Ranker`].
        interactions (`Interactions`): all interactions (not the training part).
        part (`str`, *optional*, defaults to `"test"`): `"test"` or `"validation"`.
        mask_seen (`bool`, *optional*, defaults to `False`): forbid the items of the *whole* history, however long. A
            target that the user had before is then lost, as it is for everyone.
        max_history (`int`, *optional*, defaults to 20): the ranker gets the last so many items of a history; None: all
            of them. Where the ranker's own `max_history` is smaller, that one holds.
        ks (`Sequence[int]`, *optional*, defaults to `(5, 10)`): cut-offs of the metrics.
        batch_size (`int`, *optional*, defaults to 256): cases per call of `rank`.
        long_tail (`bool`, *optional*, defaults to `True`): also give what needs the training part: metrics by
            popularity of the target, by whether it followed the last item there, and by history length, and coverage,
            Gini and novelty of the recommendations.
        identifiers (`np.ndarray`, *optional*): int [n, L] codes of the items before collisions were resolved: also
            give the metrics that counting semantic IDs would have given, for comparison with work that does.
        intervals (`int`, *optional*, defaults to 0): bootstrap samples of the 95 % intervals (1000 is usual); 0: no
            intervals. Coverage, Gini and novelty have none: they are no means over users, and a bootstrap sample
            misses a third of the users.
        per_user (`bool`, *optional*, defaults to `False`): also give each case's share in the metrics, for
            [`trainers.evaluation.significance.paired_test`].
        seed (`int`, *optional*, defaults to 0): of the bootstrap.

    Returns:
        `dict` of plain values: `"name"`, for each k `"recall@k"`, `"ndcg@k"`, `"mrr@k"` and, as asked for,
        `"coverage@k"`, `"gini@k"`, `"novelty@k"`, `"identifier_recall@k"`, ...; the counts `"num_users"`,
        `"num_cases"`, `"num_short"` (users without a case) and `"num_without_history"` (items of the part that are
        left out because nothing of their user precedes them) and, with `mask_seen`, `"num_unreachable"` (cases whose
        target is masked, as the user had it before: lost for everyone); the flags `"split"`, `"part"`, `"seen"`,
        `"max_history"` (as applied), `"ties"`, `"num_beams"` (as applied: `max(ks)` at least, for that many items are
        searched for; None: no beam search), `"candidates"`.
        Nested, as asked for: `"long_tail"`, `"history_length"`, `"cold_targets"` and `"seen_transitions"`, lists of
        `{"popularity": "[0,20)", "num_users": ..., "num_cases": ..., metrics}` with None for the metrics of an empty
        slice; `"intervals"`, (low, high) for each metric that has one, and `"num_bootstrap"`; `"per_user"`, the only
        arrays: `"users"` (user rows), `"targets"` (item rows), `"ranks"` (of the target, from 0; -1: not in the first
        `max(ks)`) and the shares by metric, each [C].

    Raises:
        ValueError: no case, or the ranker broke its contract (shape, rows outside the catalogue, an item ranked
            twice, an excluded item ranked).
    """
    check_cutoffs(ks)
    limits = [limit for limit in (max_history, getattr(ranker, "max_history", None)) if limit is not None]
    if any(limit < 1 for limit in limits) or batch_size < 1:
        raise ValueError(f"max_history and batch_size must be positive, got {max_history} and {batch_size}.")
    limit, depth, num_items = min(limits, default=None), max(ks), interactions.num_items
    num_beams = getattr(ranker, "num_beams", None)
    groups = None if identifiers is None else identifier_groups(identifiers)
    if groups is not None and len(groups) != num_items:
        raise ValueError(f"Expected semantic IDs of all {num_items} items of the catalogue, got {len(groups)}.")
    cases = interactions.cases(part)
    num_users = len(np.unique(cases.users))
    check_cases(interactions, part)
    name = getattr(ranker, "name", type(ranker).__name__)

    ranks, group_ranks = np.empty(len(cases), np.int64), np.empty(len(cases), np.int64)
    num_unreachable = 0
    counts = {k: np.zeros(num_items, np.int64) for k in ks if long_tail}
    # disable=None: a bar on a terminal, silence in logs
    with tqdm(total=len(cases), desc=f"{name} ({part})", unit="case", disable=None) as progress:
        for start in range(0, len(cases), batch_size):
            stop = min(start + batch_size, len(cases))
            seen = cases.histories(start, stop) if mask_seen else None
            ranked = np.asarray(ranker.rank(cases.histories(start, stop, limit), depth, seen))
            _check_ranking(ranked, (stop - start, depth), num_items, seen, name)
            targets = cases.targets[start:stop]
            num_unreachable += sum(bool(np.isin(*pair)) for pair in zip(targets, seen or (), strict=False))
            ranks[start:stop] = target_ranks(ranked, targets)
            if groups is not None:
                group_ranks[start:stop] = target_ranks(np.where(ranked < 0, -1, groups[ranked]), groups[targets])
            for k, count in counts.items():
                count += recommendation_counts(ranked[:, :k], num_items)
            progress.update(stop - start)

    per_case = metrics_per_case(ranks, ks)
    if groups is not None:
        per_case |= {f"identifier_{metric}": each for metric, each in metrics_per_case(group_ranks, ks).items()}
    result = {"name": name, **means(per_case)}
    if long_tail:
        training = interactions.training_part()
        popularity = training.popularity
        for k, count in counts.items():
            result |= {f"{metric}@{k}": value for metric, value in catalogue_metrics(count, popularity).items()}
    result |= {
        "num_users": num_users,
        "num_cases": len(cases),
        "num_short": interactions.num_users - num_users,
        "num_without_history": interactions.num_held_out(part) - len(cases),
        **protocol_of(interactions, part, mask_seen),
        "max_history": limit,
        "ties": getattr(ranker, "ties", "ranker's order"),
        "num_beams": None if num_beams is None else max(num_beams, depth),
    }
    if mask_seen:
        result["num_unreachable"] = num_unreachable
    if long_tail:
        popular, lengths = popularity[cases.targets], cases.ends - cases.starts
        result["long_tail"] = group_means(per_case, cases.users, popular, LONG_TAIL_BOUNDS, "popularity")
        result["history_length"] = group_means(per_case, cases.users, lengths, HISTORY_BOUNDS, "history_length")
        result["cold_targets"] = group_means(per_case, cases.users, popular, COLD_BOUNDS, "training_interactions")
        followed = transition_counts(training, cases.items[cases.ends - 1], cases.targets)
        result["seen_transitions"] = group_means(
            per_case, cases.users, followed, TRANSITION_BOUNDS, "training_transitions"
        )
    if intervals:
        bounds = bootstrap_intervals(per_case, cases.users, intervals, seed=seed)
        result |= {"num_bootstrap": intervals, "intervals": {metric: list(pair) for metric, pair in bounds.items()}}
    if per_user:
        result["per_user"] = {"users": cases.users, "targets": cases.targets, "ranks": ranks, **per_case}
    return result


def protocol_of(
    interactions: Interactions, part: Literal["validation", "test"] = "test", mask_seen: bool = False
) -> dict[str, str]:
    """What two results must share to be compared, as [`evaluate`] states it."""
    return {
        "split": interactions.split,
        "part": part,
        "seen": "masked" if mask_seen else "kept",
        "candidates": f"all {interactions.num_items} items",
    }


def transition_counts(training: Interactions, items: np.ndarray, followers: np.ndarray) -> np.ndarray:
    """How often each item was followed directly by another one in the sequences of a training part; int64 [C].

    Args:
        training (`Interactions`): the training part.
        items, followers: int [C] item rows.
    """
    within = training.owners[1:] == training.owners[:-1]
    pairs = training.items.astype(np.int64)
    keys, counts = np.unique(pairs[:-1][within] * training.num_items + pairs[1:][within], return_counts=True)
    asked = items.astype(np.int64) * training.num_items + followers
    places = np.searchsorted(keys, asked)
    found = places < len(keys)
    found[found] = keys[places[found]] == asked[found]
    result = np.zeros(len(asked), np.int64)
    result[found] = counts[places[found]]
    return result


def check_cases(interactions: Interactions, part: Literal["validation", "test"] = "test") -> None:
    """
    For what evaluates after other work: known before it.

    Raises:
        ValueError: the part has no case.
    """
    if len(interactions.cases(part)):
        return
    if interactions.parts is None:
        raise ValueError(f"No user has three interactions or more ({interactions.num_short} users are shorter).")
    raise ValueError(f"The split has no interaction in {part!r} that follows another one of its user.")


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
