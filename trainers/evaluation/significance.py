"""Significance of differences: bootstrap intervals, a paired test between two models, several seeds.

All of it resamples users, not cases: the cases of one user (several under a given split) go together. Users with equal
metrics are drawn as one group by its size, which is the same distribution: with one case per user there are no more
groups than ranks in a list, so that time and memory hardly depend on the number of users.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from trainers.evaluation.metrics import is_metric

BLOCK = 2**22  # random numbers held at a time
BOOTSTRAP_SAMPLES = 1000  # of 95 % intervals, where nothing else is said


def bootstrap_intervals(
    per_case: Mapping[str, np.ndarray],
    users: np.ndarray,
    samples: int = BOOTSTRAP_SAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap intervals of the means (Efron & Tibshirani 1993, chapter 13).

    Args:
        per_case (`Mapping[str, np.ndarray]`): float [C] for every metric, each case's share in it.
        users (`np.ndarray`): int [C] user of each case.
        samples (`int`, *optional*, defaults to `BOOTSTRAP_SAMPLES`): bootstrap samples.
        confidence (`float`, *optional*, defaults to 0.95): probability that the interval covers.
        seed (`int`, *optional*, defaults to 0): of the samples.

    Returns:
        (low, high) for every metric.

    Raises:
        ValueError: no cases, shapes do not fit, or a setting out of range.
    """
    low, high = _bootstrap(*_user_groups(np.stack(list(per_case.values()), axis=1), users), samples, confidence, seed)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(per_case)}


def paired_test(
    per_user_a: Mapping[str, np.ndarray],
    per_user_b: Mapping[str, np.ndarray],
    samples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Are the differences of two models on the same cases more than chance?

    The p-value is that of the two-sided paired randomisation test (Fisher 1935; Smucker et al. 2007 for rankings): how
    often a difference at least as large comes about when the two models are swapped for each user by the toss of a
    coin, `(1 + hits) / (1 + samples)`. The interval is the percentile bootstrap of the difference. Nothing is
    corrected for testing several metrics or models.

    Args:
        per_user_a, per_user_b: `"per_user"` of two results of [`trainers.evaluation.protocol.evaluate`]: `"users"` and
            `"targets"`, int [C], and float [C] for every metric, each case's share in it; or of two results of
            [`trainers.evaluation.zero_shot.evaluate_zero_shot`], where a case is a user with all its candidates.
        samples (`int`, *optional*, defaults to 10000): swaps, and bootstrap samples.
        confidence (`float`, *optional*, defaults to 0.95): of the interval.
        seed (`int`, *optional*, defaults to 0): of swaps and samples.

    Returns:
        `{"difference": a - b, "low": ..., "high": ..., "p_value": ...}` for every metric that both have.

    Raises:
        ValueError: not the same users with the same targets, no metric in common, or a setting out of range.
    """
    check_same_cases(per_user_a, per_user_b)
    shared = [name for name in per_user_a if is_metric(name) and name in per_user_b]
    if not shared:
        raise ValueError("The two results have no metric in common: evaluate both with the same cut-offs.")
    differences = np.stack([per_user_a[name] - per_user_b[name] for name in shared], axis=1)
    sums, sizes, members = _user_groups(differences, per_user_a["users"])
    low, high = _bootstrap(sums, sizes, members, samples, confidence, seed)

    observed = np.abs(members @ sums)
    rng, hits = np.random.default_rng(seed), np.zeros(len(shared), np.int64)
    for count in _blocks(samples, len(members)):
        kept = rng.binomial(members, 0.5, (count, len(members)))  # users of each group that are not swapped
        swapped = np.abs((2.0 * kept - members) @ sums)
        # a hair's breadth: sums of the same numbers in another order must count as equal
        hits += (swapped >= observed * (1 - 1e-9)).sum(axis=0)
    total = members @ sizes
    return {
        name: {
            "difference": float(members @ sums[:, i] / total),
            "low": float(low[i]),
            "high": float(high[i]),
            "p_value": float((1 + hits[i]) / (1 + samples)),
        }
        for i, name in enumerate(shared)
    }


def over_seeds(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean of every metric over the results of several seeds, their sample standard deviations (n - 1) under `"sd"`.

    Args:
        results (`Sequence[Mapping[str, Any]]`): of one protocol; what they differ in besides the metrics (and nested
            values) is left out.

    Returns:
        The plain values that all results share (different names are joined), `"num_seeds"`, the mean metrics, and
        `"sd"`: one number for every metric, None with a single seed. Where all results have `"per_user"`, each case's
        mean, so that [`paired_test`] compares the seeds' mean.

    Raises:
        ValueError: no results, results with other metrics, or of other cases.
    """
    if not results:
        raise ValueError("No results to average.")
    names = [name for name in results[0] if is_metric(name)]
    if any([name for name in result if is_metric(name)] != names for result in results):
        raise ValueError("The results to average have different metrics: evaluate all seeds with the same cut-offs.")
    values = np.array([[result[name] for name in names] for result in results], np.float64)  # None becomes NaN
    deviations = values.std(axis=0, ddof=1) if len(results) > 1 else np.full(len(names), np.nan)
    shared = {
        key: value
        for key, value in results[0].items()
        if not isinstance(value, dict | list) and all(key in result and result[key] == value for result in results)
    }
    models = ", ".join(dict.fromkeys(str(result.get("name")) for result in results))
    mean = {"name": models, **shared, **_plain(names, values.mean(axis=0)), "num_seeds": len(results)}
    mean["sd"] = _plain(names, deviations)
    if all("per_user" in result for result in results):
        mean["per_user"] = _mean_per_case([result["per_user"] for result in results])
    return mean


def _plain(names: Sequence[str], values: np.ndarray) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else float(value) for name, value in zip(names, values, strict=True)}


def _mean_per_case(per_user: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    for other in per_user[1:]:
        check_same_cases(per_user[0], other)
    means = {
        name: np.mean([cases[name] for cases in per_user], axis=0)
        for name in per_user[0]
        if is_metric(name) and all(name in cases for cases in per_user)
    }
    return {"users": per_user[0]["users"], "targets": per_user[0]["targets"], **means}


def check_same_cases(per_user_a: Mapping[str, np.ndarray], per_user_b: Mapping[str, np.ndarray]) -> None:
    for name in ("users", "targets"):
        if not np.array_equal(per_user_a[name], per_user_b[name]):
            raise ValueError(
                f"The results are not of the same cases: their {name} differ. Evaluate all models on the same data, "
                "split, part and k-core."
            )


def _user_groups(per_case: np.ndarray, users: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Metrics of cases [C, M] → users with the same sums and sizes as groups: sums [G, M], sizes [G], members [G]."""
    users = np.asarray(users)
    if not len(per_case) or users.shape != per_case.shape[:1]:
        raise ValueError(
            f"Expected metrics and users of the same cases, at least one, got {len(per_case)}, {users.shape}."
        )
    distinct, inverse = np.unique(users, return_inverse=True)
    columns = [*per_case.T, np.ones(len(per_case))]
    totals = np.stack([np.bincount(inverse, weights=column, minlength=len(distinct)) for column in columns], axis=1)
    groups, members = np.unique(totals, axis=0, return_counts=True)
    return groups[:, :-1], groups[:, -1], members


def _bootstrap(
    sums: np.ndarray, sizes: np.ndarray, members: np.ndarray, samples: int, confidence: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Interval of `Σ sums / Σ sizes` over users drawn with replacement: lows [M] and highs [M]."""
    if samples < 1 or not 0 < confidence < 1:
        raise ValueError(f"samples must be at least 1 and confidence in (0, 1), got {samples} and {confidence}.")
    rng, num_users, means = np.random.default_rng(seed), members.sum(), []
    for count in _blocks(samples, len(members)):
        drawn = rng.multinomial(num_users, members / num_users, count)
        means.append((drawn @ sums) / (drawn @ sizes)[:, None])
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0)
    return low, high


def _blocks(samples: int, width: int) -> Iterator[int]:
    """Sizes of blocks of samples, of `width` numbers each, that add up to `samples`."""
    size = max(1, BLOCK // max(width, 1))
    for start in range(0, samples, size):
        yield min(size, samples - start)
