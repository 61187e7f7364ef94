"""Rankers that need no training, judged like the others."""

import numpy as np
import pytest

from trainers.data.interactions import Interactions
from trainers.evaluation.comparison import compare, short_table, untrained_rankers
from trainers.evaluation.metrics import TABLE_METRICS
from trainers.evaluation.protocol import evaluate
from trainers.rankers.popularity import Popularity

FLOORS = ["popularity", "item-transitions"]
IDS = [f"i{row}" for row in range(8)]
TEXTS = [f"{color} {thing}" for color in ("red", "green") for thing in ("bow", "amp", "amp stand", "bow rest")]


@pytest.fixture
def interactions() -> Interactions:
    rng = np.random.default_rng(0)
    return Interactions.from_sequences([[IDS[row] for row in rng.permutation(8)[:6]] for _ in range(20)], IDS)


def test_content_brings_the_nearest_items(interactions):
    assert [*untrained_rankers(interactions)] == ["popularity", "item-transitions", "linear"]
    rankers = untrained_rankers(interactions, np.eye(8, dtype=np.float32), TEXTS)
    assert [*rankers] == ["popularity", "item-transitions", "nearest-items", "linear"]
    assert rankers["linear"].description["content"] == "embeddings"
    assert untrained_rankers(interactions)["linear"].description["content"] is None


def test_without_embeddings_the_linear_ranker_reads_the_texts(interactions):
    rankers = untrained_rankers(interactions, texts=TEXTS)
    assert [*rankers] == ["popularity", "item-transitions", "linear"]
    assert rankers["linear"].description["content"] == "tf-idf"
    assert untrained_rankers(interactions, texts=[""] * 8)["linear"].description["content"] is None


def test_without_training_interactions_there_is_no_linear_ranker(interactions):
    nothing = interactions.sample_training_users(0.0)
    assert [*untrained_rankers(nothing, texts=TEXTS)] == ["popularity", "item-transitions"]


def test_all_are_judged_by_the_same_protocol(interactions):
    rankers = untrained_rankers(interactions, texts=TEXTS)
    rows = compare(rankers, "things", interactions, 3, mask_seen=True, ks=[2])
    assert [(row["model"], row["domain"], row["seed"], row["seen"]) for row in rows] == [
        (name, "things", 3, "masked") for name in rankers
    ]
    for row, ranker in zip(rows, rankers.values(), strict=True):
        assert row["ndcg@2"] == evaluate(ranker, interactions, mask_seen=True, ks=[2])["ndcg@2"]
        assert ("description" in row) == (row["model"] == "linear")


def test_a_model_of_longer_histories_than_usual_is_judged_by_them():
    """As in validation, by which its weights were chosen."""
    ids = [f"i{row}" for row in range(40)]
    interactions = Interactions.from_sequences([ids[:30], ids[5:40]], ids)

    class Recorder(Popularity):
        max_history = 25

        def rank(self, histories, k, exclude=None):
            self.lengths = [len(history) for history in histories]
            return super().rank(histories, k, exclude)

    ranker = Recorder(interactions.training_part())
    (row,) = compare({"long": ranker}, "things", interactions, 0)
    assert ranker.lengths == [25, 25] and row["max_history"] == 25
    (row,) = compare({"long": ranker}, "things", interactions, 0, max_history=7)
    assert ranker.lengths == [7, 7] and row["max_history"] == 7


def test_short_tables_name_the_settings_that_were_chosen(interactions):
    rankers = untrained_rankers(interactions, texts=TEXTS)
    rows = short_table(compare(rankers, "things", interactions, 0))
    assert [row["model"] for row in rows] == ["popularity", "item-transitions", rankers["linear"].name]
    assert [*rows[0]] == ["model", *TABLE_METRICS]


def test_short_tables_count_what_masking_makes_unreachable(interactions):
    assert [*short_table(masked(interactions))[0]] == ["model", *TABLE_METRICS], "there is none"
    again = Interactions.from_sequences([[*IDS[:4], IDS[0]], [*IDS[:4], IDS[5]], [*IDS[:3], IDS[1]]], IDS)
    assert [row["num_unreachable"] for row in short_table(masked(again))] == [2, 2]


def masked(interactions: Interactions) -> list[dict]:
    rankers = untrained_rankers(interactions, texts=TEXTS)
    return compare({name: rankers[name] for name in FLOORS}, "things", interactions, 0, mask_seen=True)
