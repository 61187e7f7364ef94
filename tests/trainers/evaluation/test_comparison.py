"""Rankers that need no training, judged like the others."""

import numpy as np
import pytest

from trainers.data.interactions import Interactions
from trainers.evaluation.comparison import compare, untrained_rankers
from trainers.evaluation.protocol import evaluate

IDS = [f"i{row}" for row in range(8)]


@pytest.fixture
def interactions() -> Interactions:
    rng = np.random.default_rng(0)
    return Interactions.from_sequences([[IDS[row] for row in rng.permutation(8)[:6]] for _ in range(20)], IDS)


def test_content_brings_the_nearest_items(interactions):
    training_part = interactions.training_part()
    assert [*untrained_rankers(training_part)] == ["popularity", "item-transitions", "linear"]
    rankers = untrained_rankers(training_part, np.eye(8, dtype=np.float32))
    assert [*rankers] == ["popularity", "item-transitions", "nearest-items", "linear"]
    assert rankers["linear"].scorer.content is not None
    assert untrained_rankers(training_part)["linear"].scorer.content is None


def test_without_training_interactions_there_is_no_linear_ranker(interactions):
    nothing = interactions.sample_training_users(0.0).training_part()
    assert [*untrained_rankers(nothing)] == ["popularity", "item-transitions"]


def test_all_are_judged_by_the_same_protocol(interactions):
    rankers = untrained_rankers(interactions.training_part())
    rows = compare(rankers, "things", interactions, 3, mask_seen=True, ks=[2])
    assert [(row["model"], row["domain"], row["seed"], row["seen"]) for row in rows] == [
        (name, "things", 3, "masked") for name in rankers
    ]
    for row, ranker in zip(rows, rankers.values(), strict=True):
        assert row["ndcg@2"] == evaluate(ranker, interactions, mask_seen=True, ks=[2])["ndcg@2"]
