"""Metrics and protocol against plain Python computations."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.evaluation import evaluate, long_tail_groups, ranking_gains, ranking_metrics, render_table
from trainers.interactions import Interactions

IDS = [f"i{n}" for n in range(12)]


def naive_metrics(ranked: list[list[int]], targets: list[int], ks: tuple[int, ...]) -> dict[str, float]:
    totals = {f"{name}@{k}": 0.0 for k in ks for name in ("recall", "ndcg")}
    for row, target in zip(ranked, targets, strict=True):
        for k in ks:
            for place, item in enumerate(row[:k]):
                if item == target:
                    totals[f"recall@{k}"] += 1
                    totals[f"ndcg@{k}"] += 1 / math.log2(place + 2)
    return {name: total / len(targets) for name, total in totals.items()}


class Fixed:
    """Ranks as told and remembers what it was asked."""

    name = "fixed"

    def __init__(self, ranked):
        self.ranked, self.histories, self.excluded = np.asarray(ranked), [], []

    def rank(self, histories, k, exclude=None):
        start = len(self.histories)
        self.histories += [history.tolist() for history in histories]
        self.excluded += [None] * len(histories) if exclude is None else [rows.tolist() for rows in exclude]
        return self.ranked[start : start + len(histories), :k]


@settings(max_examples=50, deadline=None)
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
        {"recall@1": 1 / 3, "ndcg@1": 1 / 3, "recall@3": 2 / 3, "ndcg@3": (1 / math.log2(3) + 1) / 3}
    )


def test_impossible_inputs_are_refused():
    with pytest.raises(ValueError, match="No users"):
        ranking_metrics(np.empty((0, 10), int), np.empty(0, int))
    with pytest.raises(ValueError, match="got 3"):
        ranking_gains(np.zeros((2, 3), int), np.zeros(2, int), ks=(5,))
    with pytest.raises(ValueError, match="targets"):
        ranking_gains(np.zeros((2, 10), int), np.zeros(3, int))
    with pytest.raises(ValueError, match="Negative"):  # else a target of -1 would hit every empty place
        ranking_gains(np.full((1, 10), -1), np.array([-1]))


def data(lengths=(6, 2, 4, 3, 0), seed=0) -> Interactions:
    rng = np.random.default_rng(seed)
    return Interactions.from_sequences([[IDS[i] for i in rng.integers(0, 12, n)] for n in lengths], IDS)


@pytest.mark.parametrize("batch_size", [1, 2, 100])
@pytest.mark.parametrize("part, cut", [("test", 1), ("validation", 2)])
def test_protocol(batch_size, part, cut):
    interactions = data()
    sequences = [interactions.sequence(u).tolist() for u in (0, 2, 3)]
    recommender = Fixed([np.random.default_rng(u).permutation(12) for u in range(3)])
    result = evaluate(recommender, interactions, part, mask_seen=False, max_history=2, batch_size=batch_size)
    assert recommender.histories == [s[:-cut][-2:] for s in sequences]
    assert recommender.excluded == [None] * 3
    expected = naive_metrics(recommender.ranked.tolist(), [s[-cut] for s in sequences], (5, 10))
    assert {name: result[name] for name in expected} == pytest.approx(expected)
    flags = {"num_users": 3, "num_short": 2, "split": "leave-one-out", "part": part, "seen": "kept", "max_history": 2}
    assert flags.items() <= result.items() and result["candidates"] == "all 12 items" and "num_beams" not in result
    assert list(json.loads(json.dumps(result)))[:5] == ["name", "recall@5", "ndcg@5", "recall@10", "ndcg@10"]


def test_masking_covers_the_whole_history_and_is_checked():
    interactions = Interactions.from_sequences([IDS[:6]], IDS)
    recommender = Fixed([[5, 6, 7, 8, 9, 10, 11, -1, -1, -1]])
    result = evaluate(recommender, interactions, mask_seen=True, max_history=2)
    assert recommender.histories == [[3, 4]] and recommender.excluded == [[0, 1, 2, 3, 4]]
    assert result["seen"] == "masked" and result["recall@5"] == 1
    with pytest.raises(ValueError, match="excluded"):
        evaluate(Fixed([[5, 6, 7, 8, 9, 10, 11, 0, -1, -1]]), interactions, mask_seen=True, max_history=2)


def test_the_shorter_history_holds_and_beams_are_stated():
    interactions = Interactions.from_sequences([IDS[:6]], IDS)
    for own, asked, applied in ((3, 20, 3), (20, 2, 2), (None, None, None), (None, 4, 4), (4, None, 4)):
        recommender = Fixed([range(10)])
        recommender.max_history, recommender.num_beams = own, 7
        result = evaluate(recommender, interactions, max_history=asked)
        assert result["max_history"] == applied and result["num_beams"] == 7
        assert recommender.histories == [list(range(5))[-applied if applied else None :]]


@pytest.mark.parametrize(
    "ranked, message",
    [
        ([[1, 2, 3, 4, 5, 6, 7, 8, 9, 1]], "twice"),
        ([[1, 2, 3, 4, 5, 6, 7, 8, 9, 12]], "outside the catalogue"),
        ([[1, 2, 3, 4, 5, 6, 7, 8, 9, -2]], "outside the catalogue"),
        ([[1, 2, 3, 4, 5]], "must return"),
        ([[float(n) for n in range(10)]], "must return"),
    ],
)
def test_broken_rankings_are_refused(ranked, message):
    with pytest.raises(ValueError, match=message):
        evaluate(Fixed(ranked), Interactions.from_sequences([IDS[:3]], IDS))


def test_nobody_to_evaluate():
    with pytest.raises(ValueError, match="2 users are shorter"):
        evaluate(Fixed([range(10)]), Interactions.from_sequences([IDS[:2], []], IDS))


def test_long_tail_groups_equal_plain_python():
    rng = np.random.default_rng(3)
    popularity = np.concatenate([[0, 19, 20, 39, 40, 59, 60, 1000], rng.integers(0, 90, 50)])
    ranked = np.stack([rng.permutation(12)[:10] for _ in popularity])
    targets = rng.integers(0, 12, len(popularity))
    groups = long_tail_groups(ranked, targets, popularity)
    assert [group["popularity"] for group in groups] == ["[0,20)", "[20,40)", "[40,60)", "[60,∞)"]
    for group, (low, high) in zip(groups, [(0, 20), (20, 40), (40, 60), (60, math.inf)], strict=True):
        users = [u for u, count in enumerate(popularity) if low <= count < high]
        expected = naive_metrics(ranked[users].tolist(), targets[users].tolist(), (5, 10))
        assert group["num_users"] == len(users)
        assert {name: group[name] for name in expected} == pytest.approx(expected)


def test_long_tail_counts_training_interactions_only():
    # i0 is 19 times in training, and held out more often: its group must stay [0,20)
    sequences = [["i0", "i1", "i0"]] * 19 + [["i2", "i0", "i0"]] * 3
    result = evaluate(Fixed(np.tile(np.arange(10), (22, 1))), Interactions.from_sequences(sequences, IDS))
    assert [group["num_users"] for group in result["long_tail"]] == [22, 0, 0, 0]
    assert result["long_tail"][1]["recall@5"] is None
    result = evaluate(
        Fixed(np.tile(np.arange(10), (23, 1))), Interactions.from_sequences([*sequences, ["i0"] * 3], IDS)
    )
    assert [group["num_users"] for group in result["long_tail"]] == [0, 23, 0, 0]


def test_render_table():
    table = render_table(
        [{"name": "a|b", "recall@10": 0.06649, "long_tail": [1]}, {"name": "c", "ndcg@10": None, "n": 3}]
    )
    assert table.splitlines() == [
        "| name | recall@10 | ndcg@10 | n |",
        "| --- | --- | --- | --- |",
        "| a\\|b | 0.0665 | – | – |",
        "| c | – | – | 3 |",
    ]
