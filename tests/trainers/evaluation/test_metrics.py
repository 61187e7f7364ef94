"""Metrics against plain Python computations."""

import collections
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.evaluation import metrics
from trainers.evaluation.metrics import (
    auc_by_user,
    catalogue_metrics,
    group_means,
    identifier_groups,
    is_metric,
    metrics_per_case,
    ranking_metrics,
    recommendation_counts,
    target_ranks,
)

checked = settings(max_examples=50, deadline=None)


def naive_metrics(ranked: list[list[int]], targets: list[int], ks: tuple[int, ...]) -> dict[str, float]:
    totals = {f"{name}@{k}": 0.0 for k in ks for name in ("recall", "ndcg", "mrr")}
    for row, target in zip(ranked, targets, strict=True):
        for k in ks:
            for place, item in enumerate(row[:k]):
                if item == target:
                    totals[f"recall@{k}"] += 1
                    totals[f"ndcg@{k}"] += 1 / math.log2(place + 2)
                    totals[f"mrr@{k}"] += 1 / (place + 1)
    return {name: total / len(targets) for name, total in totals.items()}


@checked
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 30), st.lists(st.integers(1, 10), min_size=1, max_size=3, unique=True)
)
def test_metrics_equal_plain_python(seed, users, ks):
    rng = np.random.default_rng(seed)
    ranked = np.stack([rng.permutation(12)[:10] for _ in range(users)])
    for row in ranked:  # some lists end early
        row[10 - rng.integers(0, 11) :] = -1
    targets = rng.integers(0, 12, users)
    expected = naive_metrics(ranked.tolist(), targets.tolist(), tuple(ks))
    assert ranking_metrics(ranked, targets, ks) == pytest.approx(expected, abs=1e-12)


def test_metrics_by_hand():
    metrics = ranking_metrics(np.array([[3, 1, 2], [0, 5, -1], [7, 8, 9]]), np.array([1, 4, 7]), ks=(1, 3))
    assert metrics == pytest.approx(
        {
            "recall@1": 1 / 3,
            "ndcg@1": 1 / 3,
            "mrr@1": 1 / 3,
            "recall@3": 2 / 3,
            "ndcg@3": (1 / math.log2(3) + 1) / 3,
            "mrr@3": (1 / 2 + 1) / 3,
        }
    )


def test_impossible_inputs_are_refused():
    with pytest.raises(ValueError, match="No users"):
        ranking_metrics(np.empty((0, 10), int), np.empty(0, int))
    with pytest.raises(ValueError, match="got 3"):
        ranking_metrics(np.zeros((2, 3), int), np.zeros(2, int), ks=(5,))
    with pytest.raises(ValueError, match="targets"):
        ranking_metrics(np.zeros((2, 10), int), np.zeros(3, int))
    with pytest.raises(ValueError, match="Negative"):  # else a target of -1 would hit every empty place
        ranking_metrics(np.full((1, 10), -1), np.array([-1]))
    for ks in ((), (0, 5), (5, 5)):
        with pytest.raises(ValueError, match="Cut-offs must be"):
            ranking_metrics(np.zeros((1, 10), int), np.array([1]), ks)


def test_target_ranks():
    assert target_ranks(np.array([[3, 1], [0, 5], [2, -1]]), np.array([1, 4, 2])).tolist() == [1, -1, 0]
    assert target_ranks(np.empty((2, 0), int), np.array([1, 4])).tolist() == [-1, -1]


@checked
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(1, 8))
def test_catalogue_metrics_equal_plain_python(seed, users, k):
    rng = np.random.default_rng(seed)
    n = 15
    ranked = np.stack([rng.permutation(n)[:k] for _ in range(users)])
    ranked[rng.random(ranked.shape) < 0.2] = -1
    ranked[0, 0] = 3
    popularity = rng.integers(0, 9, n)
    shown = [item for row in ranked.tolist() for item in row if item >= 0]
    times = collections.Counter(shown)
    counts = [times[item] for item in range(n)]
    # Gini as half the relative mean difference of all pairs
    pairs = sum(abs(a - b) for a in counts for b in counts)
    total = max(popularity.sum(), 1)
    expected = {
        "coverage": len(times) / n,
        "gini": pairs / (2 * n * sum(counts)),
        "novelty": sum(-math.log2(max(popularity[item], 1) / total) for item in shown) / len(shown),
    }
    assert recommendation_counts(ranked, n).tolist() == counts
    assert catalogue_metrics(np.array(counts), popularity) == pytest.approx(expected, abs=1e-12)


def test_catalogue_metrics_at_their_ends():
    same = catalogue_metrics(np.full(8, 3), np.full(8, 2))
    assert same == pytest.approx({"coverage": 1, "gini": 0, "novelty": 3})  # eight equal shares: three bits
    one = catalogue_metrics(np.array([0, 0, 0, 5]), np.array([0, 0, 0, 8]))
    assert one == pytest.approx({"coverage": 0.25, "gini": 0.75, "novelty": 0})
    assert catalogue_metrics(np.zeros(4, int), np.ones(4, int)) == {"coverage": 0, "gini": None, "novelty": None}
    with pytest.raises(ValueError, match="counts and popularity"):
        catalogue_metrics(np.zeros(4), np.zeros(5))


def test_identifiers_are_grouped():
    groups = identifier_groups(np.array([[1, 2], [3, 4], [1, 2], [1, 3]]))
    assert groups[0] == groups[2] and len(set(groups.tolist())) == 3 and groups.max() == 2


def test_slices_equal_plain_python():
    rng = np.random.default_rng(3)
    values = np.concatenate([[0, 19, 20, 39, 40, 59, 60, 1000], rng.integers(0, 90, 50)])
    ranked = np.stack([rng.permutation(12)[:10] for _ in values])
    targets, users = rng.integers(0, 12, len(values)), np.arange(len(values)) // 2
    groups = group_means(metrics_per_case(target_ranks(ranked, targets)), users, values, (0, 20, 40, 60), "popularity")
    assert [group["popularity"] for group in groups] == ["[0,20)", "[20,40)", "[40,60)", "[60,∞)"]
    for group, (low, high) in zip(groups, [(0, 20), (20, 40), (40, 60), (60, math.inf)], strict=True):
        inside = [case for case, value in enumerate(values) if low <= value < high]
        expected = naive_metrics(ranked[inside].tolist(), targets[inside].tolist(), (5, 10))
        assert group["num_cases"] == len(inside) and group["num_users"] == len({case // 2 for case in inside})
        assert {name: group[name] for name in expected} == pytest.approx(expected)
    empty = group_means(metrics_per_case(target_ranks(ranked, targets)), users, values, (2000,), "popularity")[0]
    assert empty["num_cases"] == 0 and empty["recall@5"] is None


# --- AUC of labelled candidates


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([-np.inf, -1.5, 0.0, 0.25, 2.0]), st.booleans()), max_size=25
    )
)
def test_auc_equals_counting_pairs(rows):
    users, scores, labels = (np.array(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
    expected = {}
    for user in sorted(set(users)):
        mine = [(score, label) for u, score, label in rows if u == user]
        pairs = [(a > b) + 0.5 * (a == b) for a, good in mine if good for b, bad in mine if not bad]
        if pairs:
            expected[user] = sum(pairs) / len(pairs)
    if not expected:
        with pytest.raises(ValueError, match="No user has candidates of both labels"):
            auc_by_user(users, scores, labels)
        return
    found_users, auc = auc_by_user(users, scores, labels)
    assert found_users.tolist() == list(expected) and auc.tolist() == pytest.approx(list(expected.values()), abs=1e-12)
    np.testing.assert_allclose(auc_by_user(users, -np.array(scores), labels)[1], 1 - auc, atol=1e-12)


def test_auc_refuses():
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        auc_by_user([0, 0], [1.0, np.nan], [True, False])
    with pytest.raises(ValueError, match=r"got \(2,\), \(1,\), \(2,\)"):
        auc_by_user([0, 0], [1.0], [True, False])
    assert is_metric("gauc") and is_metric("ndcg@10") and not is_metric("num_users")


def test_metrics_are_those_of_their_definitions():
    """From relevance lists, by the general formulas for any number of relevant items: Recall, NDCG with an ideal DCG,
    and the reciprocal rank of the first hit."""
    rng = np.random.default_rng(7)
    ranked = np.stack([rng.permutation(30)[:12] for _ in range(200)])
    targets = rng.integers(0, 30, 200)
    found = metrics_per_case(target_ranks(ranked, targets), (1, 5, 12))
    relevance = (ranked == targets[:, None]).astype(float)
    for k in (1, 5, 12):
        top, discounts = relevance[:, :k], 1 / np.log2(np.arange(2, k + 2))
        ideal = np.sort(np.eye(1, 30)[0])[::-1][:k] @ discounts
        first = np.where(top.any(axis=1), 1 / (top.argmax(axis=1) + 1), 0)
        np.testing.assert_allclose(found[f"recall@{k}"], top.sum(axis=1) / 1)
        np.testing.assert_allclose(found[f"ndcg@{k}"], top @ discounts / ideal)
        np.testing.assert_allclose(found[f"mrr@{k}"], first)


def test_a_metric_is_one_line(monkeypatch):
    monkeypatch.setitem(metrics.RANK_METRICS, "rbp", lambda ranks: 0.2 * 0.8**ranks)
    found = metrics_per_case(np.array([0, 3, -1, 7]), (5,))
    assert found["rbp@5"].tolist() == pytest.approx([0.2, 0.2 * 0.8**3, 0, 0])
    assert metrics.metric_names((5,)) == ["recall@5", "ndcg@5", "mrr@5", "rbp@5"] == list(found)
    assert (
        metrics.is_rank_metric("rbp@20") and not metrics.is_rank_metric("gini@5") and not metrics.is_rank_metric("rbp")
    )
