"""The protocol against plain Python computations."""

import json
import math

import numpy as np
import pytest

from trainers.data.interactions import PARTS, Interactions
from trainers.evaluation.metrics import catalogue_metrics
from trainers.evaluation.protocol import evaluate, transition_counts
from trainers.evaluation.significance import bootstrap_intervals

IDS = [f"i{n}" for n in range(12)]


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
    flags = {"num_users": 3, "num_cases": 3, "num_short": 2, "num_without_history": 0, "split": "leave-one-out"}
    flags |= {"part": part, "seen": "kept", "max_history": 2, "ties": "ranker's order", "num_beams": None}
    assert flags.items() <= result.items() and result["candidates"] == "all 12 items"
    names = ["name", "recall@5", "ndcg@5", "mrr@5", "recall@10", "ndcg@10", "mrr@10"]
    assert list(json.loads(json.dumps(result)))[:7] == names
    plain = evaluate(Fixed(recommender.ranked), interactions, part, long_tail=False)
    assert [key for key in plain if "@" in key] == names[1:] and "long_tail" not in plain


def test_given_split():
    rng = np.random.default_rng(4)
    interactions = data((6, 1, 4, 3, 2))
    parts = rng.integers(0, 3, 16).astype(np.int8)
    parts[[0, 6, 10]] = [2, 2, 0]  # a first interaction in the test part, once as the user's only one
    interactions = Interactions(**{**vars(interactions), "parts": parts, "split": "temporal"})
    expected, users, without = [], [], 0
    for user in range(5):
        start, stop = interactions.offsets[user : user + 2]
        for position in range(start, stop):
            if parts[position] == PARTS.index("test"):
                if position == start:
                    without += 1
                else:
                    history = interactions.items[start:position].tolist()
                    expected.append((history, int(interactions.items[position])))
                    users.append(user)
    assert len(expected) > len(set(users)) > 1 and without == 2
    recommender = Fixed([rng.permutation(12) for _ in expected])
    result = evaluate(recommender, interactions, max_history=None, mask_seen=False, batch_size=2, per_user=True)
    assert recommender.histories == [history for history, _ in expected]
    metrics = naive_metrics(recommender.ranked.tolist(), [target for _, target in expected], (5, 10))
    assert {name: result[name] for name in metrics} == pytest.approx(metrics)
    flags = {"split": "temporal", "num_cases": len(expected), "num_users": len(set(users)), "num_without_history": 2}
    assert flags.items() <= result.items() and result["num_short"] == 5 - len(set(users))
    assert result["per_user"]["users"].tolist() == users
    assert result["per_user"]["targets"].tolist() == [target for _, target in expected]
    popularity = np.bincount(interactions.items[parts == PARTS.index("train")], minlength=12)
    cold = sum(popularity[target] == 0 for _, target in expected)
    assert [group["num_cases"] for group in result["cold_targets"]] == [cold, len(expected) - cold, 0]


@pytest.mark.parametrize("part", ["validation", "test"])
def test_seen_transitions_are_pairs_of_the_training_part(part):
    interactions = data([8] * 40, seed=3)
    cut = {"test": 1, "validation": 2}[part]
    sequences = [interactions.sequence(user).tolist() for user in range(40)]
    pairs = {pair for each in sequences for pair in zip(each[:-2], each[1:-2], strict=False)}
    seen = [tuple(each[-cut - 1 :][:2]) in pairs for each in sequences]
    ranked = np.array([np.random.default_rng(u).permutation(12) for u in range(40)])
    result = evaluate(Fixed(ranked), interactions, part, ks=(3,), max_history=1)
    unseen_slice, seen_slice = result["seen_transitions"]
    assert [each["training_transitions"] for each in result["seen_transitions"]] == ["[0,1)", "[1,∞)"]
    assert 0 < seen_slice["num_cases"] == sum(seen) < 40 and unseen_slice["num_cases"] == 40 - sum(seen)
    hits = [row[:3].tolist().count(each[-cut]) for row, each in zip(ranked, sequences, strict=True)]
    assert seen_slice["recall@3"] == pytest.approx(np.array(hits)[np.array(seen)].mean())


def test_transition_counts():
    training = Interactions.from_sequences([["i0", "i1", "i0", "i1"], ["i1", "i0"], ["i2"], [], ["i11", "i0"]], IDS)
    asked, followers = np.array([0, 1, 1, 2, 11, 0, 11]), np.array([1, 0, 2, 11, 0, 11, 11])
    assert transition_counts(training, asked, followers).tolist() == [2, 2, 0, 0, 1, 0, 0]
    nothing = Interactions.from_sequences([["i0"], ["i1"]], IDS)
    assert transition_counts(nothing, asked, followers).tolist() == [0] * 7


def test_recommendations_of_all_users_together():
    interactions = data((6, 3, 4, 3, 5))
    ranked = np.array([np.random.default_rng(u).permutation(12) for u in range(5)])
    result = evaluate(Fixed(ranked), interactions, ks=(3, 10), batch_size=2)
    popularity = interactions.training_part().popularity
    for k in (3, 10):
        expected = catalogue_metrics(np.bincount(ranked[:, :k].ravel(), minlength=12), popularity)
        assert {name: result[f"{name}@{k}"] for name in expected} == pytest.approx(expected)


def test_histories_are_sliced_by_their_whole_length():
    interactions = data((3, 6, 7, 30, 80))
    ranked = np.tile(np.arange(10), (5, 1))
    result = evaluate(Fixed(ranked), interactions, max_history=2)
    slices = {group["history_length"]: group["num_users"] for group in result["history_length"]}
    assert slices == {"[1,5)": 1, "[5,10)": 2, "[10,20)": 0, "[20,50)": 1, "[50,∞)": 1}
    total = sum(group["num_cases"] * (group["recall@5"] or 0) for group in result["history_length"])
    assert total == pytest.approx(5 * result["recall@5"])


def test_identifiers_are_a_second_column():
    interactions = Interactions.from_sequences([["i0", "i1", "i2"], ["i3", "i4", "i5"]], IDS)
    identifiers = np.stack([np.arange(12), np.zeros(12, int)], axis=1)
    identifiers[7] = identifiers[2]  # the first user's target shares its identifier with i7, which ranks first
    ranked = np.array([[7, 2, 0, -1, -1], [1, 5, 0, 3, -1]])
    result = evaluate(Fixed(ranked), interactions, ks=(1, 5), identifiers=identifiers)
    assert (result["recall@1"], result["identifier_recall@1"]) == (0, 0.5)
    identifiers[11] = identifiers[5]  # and the second's with the catalogue's last: an empty place is not that one
    empty = evaluate(Fixed([[-1] * 5] * 2), interactions, ks=(1, 5), identifiers=identifiers)
    assert empty["identifier_recall@5"] == 0
    assert result["ndcg@5"] == pytest.approx(1 / math.log2(3))
    assert result["identifier_ndcg@5"] == pytest.approx((1 + 1 / math.log2(3)) / 2)
    distinct = evaluate(Fixed(ranked), interactions, ks=(1, 5), identifiers=np.arange(12)[:, None])
    names = ("recall@1", "ndcg@1", "mrr@1", "recall@5", "ndcg@5", "mrr@5")
    assert [distinct[f"identifier_{name}"] for name in names] == [distinct[name] for name in names]
    with pytest.raises(ValueError, match="all 12 items"):
        evaluate(Fixed(ranked), interactions, ks=(1, 5), identifiers=identifiers[:-1])


def test_intervals_and_metrics_of_users():
    interactions = data((6, 3, 4, 3, 5))
    ranked = np.array([np.random.default_rng(u).permutation(12)[:10] for u in range(5)])
    result = evaluate(Fixed(ranked), interactions, intervals=50, per_user=True, seed=3)
    cases = interactions.cases()
    per_case = {name: each for name, each in result["per_user"].items() if "@" in name}
    assert {name: each.mean() for name, each in per_case.items()} == pytest.approx(
        {name: result[name] for name in per_case}
    )
    for row, target, place in zip(ranked.tolist(), cases.targets, result["per_user"]["ranks"], strict=True):
        assert place == (row.index(target) if target in row else -1)
    expected = bootstrap_intervals(per_case, cases.users, 50, seed=3)
    assert result["intervals"] == {name: list(pair) for name, pair in expected.items()}
    assert result["num_bootstrap"] == 50 and "intervals" not in evaluate(Fixed(ranked), interactions)


def test_masking_covers_the_whole_history_and_is_checked():
    interactions = Interactions.from_sequences([IDS[:6]], IDS)
    recommender = Fixed([[5, 6, 7, 8, 9, 10, 11, -1, -1, -1]])
    result = evaluate(recommender, interactions, mask_seen=True, max_history=2)
    assert recommender.histories == [[3, 4]] and recommender.excluded == [[0, 1, 2, 3, 4]]
    assert result["seen"] == "masked" and result["recall@5"] == 1
    assert result["num_unreachable"] == 0
    with pytest.raises(ValueError, match="excluded"):
        evaluate(Fixed([[5, 6, 7, 8, 9, 10, 11, 0, -1, -1]]), interactions, mask_seen=True, max_history=2)


def test_targets_that_masking_hides_are_counted():
    """Two of three users had their target before: no recommender can find it, and the Recall alone does not say so."""
    sequences = [[IDS[0], IDS[1], IDS[0]], [IDS[2], IDS[3], IDS[4]], [IDS[5], IDS[6], IDS[7], IDS[6]]]
    interactions = Interactions.from_sequences(sequences, IDS)
    others = [8, 9, 10, 11, -1, -1, -1, -1, -1, -1]
    for batch_size in (1, 2, 256):
        result = evaluate(Fixed([others] * 3), interactions, mask_seen=True, max_history=1, batch_size=batch_size)
        assert result["num_unreachable"] == 2 and result["recall@10"] == 0
    assert "num_unreachable" not in evaluate(Fixed([others] * 3), interactions)


def test_the_shorter_history_holds_and_beams_are_stated():
    interactions = Interactions.from_sequences([IDS[:6]], IDS)
    for own, asked, applied in ((3, 20, 3), (20, 2, 2), (None, None, None), (None, 4, 4), (4, None, 4)):
        recommender = Fixed([range(10)])
        recommender.max_history, recommender.num_beams = own, 7
        result = evaluate(recommender, interactions, max_history=asked, ks=(5,))
        assert result["max_history"] == applied and result["num_beams"] == 7
        assert recommender.histories == [list(range(5))[-applied if applied else None :]]
    recommender = Fixed([range(10)])
    recommender.num_beams = 7
    # ten items are searched for with ten beams at least, see `recommend`
    assert evaluate(recommender, interactions, ks=(5, 10))["num_beams"] == 10


@pytest.mark.parametrize(
    "ranked, message",
    [
        ([[1, 2, 3, 4, 5, 6, 7, 8, 9, 1]], "twice"),
        ([[0, 2, 3, 4, 5, 6, 7, 8, 9, 0]], "twice"),
        ([[1, 2, 3, 4, 5, 6, 7, 8, 9, 12]], "outside the catalogue"),
        ([[1, 2, 3, 4, 5, 6, 7, 8, 9, -2]], "outside the catalogue"),
        ([[1, 2, 3, 4, 5]], "must return"),
        ([[float(n) for n in range(10)]], "must return"),
    ],
)
def test_broken_rankings_are_refused(ranked, message):
    with pytest.raises(ValueError, match=message):
        evaluate(Fixed(ranked), Interactions.from_sequences([IDS[:3]], IDS))


def test_no_case_to_evaluate():
    with pytest.raises(ValueError, match="2 users are shorter"):
        evaluate(Fixed([range(10)]), Interactions.from_sequences([IDS[:2], []], IDS))
    given = Interactions(IDS, ["u"], np.array([1, 2], np.int32), np.array([0, 2]), np.array([2, 0], np.int8), "ratio")
    with pytest.raises(ValueError, match="no interaction in 'test'"):
        evaluate(Fixed([range(10)]), given)


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
