"""Intervals and tests against exact enumeration, direct resampling and the normal approximation."""

import itertools

import numpy as np
import pytest
from scipy import stats

from trainers.evaluation import significance
from trainers.evaluation.metrics import metrics_per_case
from trainers.evaluation.significance import bootstrap_intervals, over_seeds, paired_test


def cases(places, users=None, ks=(5, 10)) -> dict[str, np.ndarray]:
    places = np.asarray(places)
    users = np.arange(len(places)) if users is None else np.asarray(users)
    return {"users": users, "targets": users + 100, "ranks": places, **metrics_per_case(places, ks)}


def random_places(users: int, share: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(users) < share, rng.integers(0, 10, users), -1)


def test_intervals_of_one_case_per_user_are_the_normal_ones():
    gains = metrics_per_case(random_places(4000, 0.3, 0))
    intervals = bootstrap_intervals(gains, np.arange(4000), samples=4000)
    for name, gain in gains.items():
        half = 1.96 * gain.std() / np.sqrt(len(gain))
        assert intervals[name] == pytest.approx((gain.mean() - half, gain.mean() + half), abs=0.1 * half)
    wider = bootstrap_intervals(gains, np.arange(4000), samples=4000, confidence=0.99)["recall@5"]
    assert wider[0] < intervals["recall@5"][0] < intervals["recall@5"][1] < wider[1]


def test_intervals_resample_users_with_all_their_cases():
    rng = np.random.default_rng(1)
    users = np.sort(rng.integers(0, 60, 600))
    gain = (rng.random(60)[users] < rng.random(600)).astype(float)  # users differ: their cases are alike
    low, high = bootstrap_intervals({"recall@5": gain}, users, samples=4000)["recall@5"]
    distinct = np.unique(users)
    means = []
    for _ in range(4000):
        drawn = rng.choice(distinct, len(distinct))
        picked = np.concatenate([np.flatnonzero(users == user) for user in drawn])
        means.append(gain[picked].mean())
    expected = np.quantile(means, [0.025, 0.975])
    assert (low, high) == pytest.approx(tuple(expected), abs=0.15 * (expected[1] - expected[0]))
    alone = bootstrap_intervals({"recall@5": gain}, np.arange(600), samples=4000)["recall@5"]
    assert alone[1] - alone[0] < 0.8 * (high - low)  # taking the cases for independent would be too sure


def test_blocks_bound_the_memory_and_change_nothing(monkeypatch):
    a, b = cases(random_places(300, 0.3, 0)), cases(random_places(300, 0.4, 1))
    gains = {name: gain for name, gain in a.items() if "@" in name}

    def numbers() -> list[float]:
        tests = paired_test(a, b, samples=200)
        return [*itertools.chain(*bootstrap_intervals(gains, a["users"], samples=200).values())] + [
            value for test in tests.values() for value in test.values()
        ]

    expected = numbers()
    monkeypatch.setattr(significance, "BLOCK", 50)
    assert numbers() == pytest.approx(expected, abs=1e-12)
    assert max(significance._blocks(1000, 7)) * 7 <= 50 and sum(significance._blocks(1000, 7)) == 1000


def test_seeds_decide():
    gains = metrics_per_case(random_places(300, 0.3, 0))
    first, second = (bootstrap_intervals(gains, np.arange(300), 100, seed=seed) for seed in (0, 1))
    assert first == bootstrap_intervals(gains, np.arange(300), 100) and first != second


def test_p_value_equals_the_enumeration_of_all_swaps():
    rng = np.random.default_rng(5)
    users = np.repeat(np.arange(9), 2)  # two cases each, swapped together
    a, b = cases(rng.integers(-1, 6, 18), users), cases(rng.integers(-1, 6, 18), users)
    found = paired_test(a, b, samples=40_000)
    for name in ("recall@5", "ndcg@10", "mrr@10"):
        differences = np.bincount(users, weights=a[name] - b[name])
        sums = [abs(np.dot(signs, differences)) for signs in itertools.product((-1, 1), repeat=9)]
        exact = np.mean([value >= abs(differences.sum()) - 1e-12 for value in sums])
        assert found[name]["difference"] == pytest.approx((a[name] - b[name]).mean())
        assert found[name]["p_value"] == pytest.approx(exact, abs=0.01)


def test_a_real_difference_is_found_and_none_is_not():
    a, b = cases(random_places(2000, 0.3, 0)), cases(random_places(2000, 0.2, 1))
    better = paired_test(a, b, samples=2000)["recall@10"]
    assert better["p_value"] == pytest.approx(1 / 2001) and 0 < better["low"] < better["difference"] < better["high"]
    worse = paired_test(b, a, samples=2000)["recall@10"]
    assert worse["difference"] == pytest.approx(-better["difference"]) and worse["high"] < 0
    same = paired_test(a, a, samples=100)["ndcg@5"]
    assert same == {"difference": 0, "low": 0, "high": 0, "p_value": 1}


def test_p_values_are_uniform_without_a_difference():
    p = [
        paired_test(cases(random_places(150, 0.3, 2 * s)), cases(random_places(150, 0.3, 2 * s + 1)), 200)["mrr@10"]
        for s in range(120)
    ]
    p = np.array([test["p_value"] for test in p])
    assert abs(p.mean() - 0.5) < 0.1 and (p < 0.05).mean() < 0.13


def test_other_cases_are_refused():
    a = cases([0, 1, -1])
    with pytest.raises(ValueError, match="their users differ"):
        paired_test(a, cases([0, 1]))
    with pytest.raises(ValueError, match="their targets differ"):
        paired_test(a, {**cases([0, 1, -1]), "targets": np.array([1, 2, 3])})
    with pytest.raises(ValueError, match="no metric in common"):
        paired_test(a, cases([0, 1, -1], ks=(3,)))
    with pytest.raises(ValueError, match="confidence"):
        paired_test(a, a, confidence=95)
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_intervals({"recall@5": np.empty(0)}, np.empty(0, int))


def test_over_seeds():
    results = [
        {"name": "a", "recall@5": value, "gini@5": None, "seen": "kept", "seed": seed, "long_tail": [1]}
        for seed, value in enumerate((0.1, 0.2, 0.6))
    ]
    mean = over_seeds(results)
    assert mean["recall@5"] == pytest.approx(0.3) and mean["sd"]["recall@5"] == pytest.approx(np.sqrt(0.07))
    assert mean["gini@5"] is None and mean["sd"]["gini@5"] is None
    assert mean["seen"] == "kept" and mean["num_seeds"] == 3 and "seed" not in mean and "long_tail" not in mean
    alone = over_seeds(results[:1])
    assert alone["recall@5"] == 0.1 and alone["sd"]["recall@5"] is None
    assert over_seeds([results[0], {**results[1], "name": "b"}])["name"] == "a, b"
    with pytest.raises(ValueError, match="different metrics"):
        over_seeds([results[0], {"name": "a", "recall@10": 0.1}])
    with pytest.raises(ValueError, match="No results"):
        over_seeds([])


def test_gains_of_seeds_are_averaged_case_by_case():
    first, second = cases([0, -1, 3]), cases([-1, -1, 3])
    results = [{"name": "a", "recall@5": 0.0, "per_user": each} for each in (first, second)]
    mean = over_seeds(results)["per_user"]
    assert mean["recall@5"].tolist() == [0.5, 0, 1] and mean["users"].tolist() == [0, 1, 2] and "ranks" not in mean
    with pytest.raises(ValueError, match="targets differ"):
        over_seeds([results[0], {**results[1], "per_user": {**second, "targets": np.zeros(3)}}])


def test_intervals_are_scipys():
    """Percentile bootstrap of a mean, one case per user."""
    per_case = metrics_per_case(random_places(400, 0.3, 4))
    found = bootstrap_intervals(per_case, np.arange(400), samples=9999, confidence=0.9)
    for name in ("recall@5", "ndcg@10", "mrr@10"):
        expected = stats.bootstrap(
            (per_case[name],), np.mean, n_resamples=9999, confidence_level=0.9, method="percentile", rng=0
        ).confidence_interval
        width = expected.high - expected.low
        assert found[name] == pytest.approx((expected.low, expected.high), abs=0.06 * width), name


@pytest.mark.parametrize("share", [0.2, 0.27, 0.4])
def test_p_values_are_scipys(share):
    """Paired randomisation test of a mean difference, two-sided: scipy's flips the signs of the differences."""
    a, b = cases(random_places(150, share, 5)), cases(random_places(150, 0.3, 6))
    found = paired_test(a, b, samples=9999)
    for name in ("recall@10", "ndcg@10"):
        expected = stats.permutation_test(
            (a[name] - b[name],),
            lambda x, axis: np.abs(x.mean(axis=axis)),
            permutation_type="samples",
            vectorized=True,
            n_resamples=9999,
            alternative="greater",
            rng=0,
        )
        assert found[name]["p_value"] == pytest.approx(expected.pvalue, abs=0.02), name
