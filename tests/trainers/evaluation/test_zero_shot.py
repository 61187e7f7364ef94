"""Judging without training: every kind of model on the same rows, against direct computations."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import set_seed

from hub_cards import RecommenderCardValues, save_card
from modeling_utgrec import ItemTrie, UTGRecConfig, UTGRecForConditionalGeneration
from tokenization_items.histories import encode_histories
from tokenization_items.item_index import CODES_NAME
from trainers.data.interactions import Interactions
from trainers.evaluation.candidate_rows import RowChoices, draw_rows
from trainers.evaluation.level_scores import SCORES, ZeroShotArguments
from trainers.evaluation.protocol import evaluate
from trainers.evaluation.significance import paired_test
from trainers.evaluation.zero_shot import (
    evaluate_zero_shot,
    items_folder,
    render_zero_shot,
    training_of,
    zero_shot_model,
)
from trainers.rankers.generative import GenerativeRanker
from trainers.rankers.item_transitions import ItemTransitions
from trainers.rankers.linear import LinearRanker
from trainers.rankers.nearest_items import NearestItems
from trainers.rankers.popularity import Popularity

ITEMS, USERS = 30, 24
IDS = [f"i{n}" for n in range(ITEMS)]


@pytest.fixture(scope="module")
def interactions() -> Interactions:
    rng = np.random.default_rng(0)
    return Interactions.from_sequences(
        [[IDS[i] for i in rng.choice(ITEMS, 7, replace=False)] for _ in range(USERS)], IDS
    )


@pytest.fixture(scope="module")
def rows(interactions):
    return draw_rows(interactions, RowChoices(targets="any"))


@pytest.fixture(scope="module")
def recommender() -> GenerativeRanker:
    set_seed(0)
    sizes = {"root_codebook_size": 6, "leaf_codebook_size": 8, "d_model": 16, "d_ff": 24, "d_kv": 8, "num_heads": 2}
    model = UTGRecForConditionalGeneration(UTGRecConfig(**sizes, num_layers=1, max_history=4)).eval()
    codes = np.random.default_rng(1).permutation(6 * 8 * 8)[:ITEMS]
    codes = np.stack(np.unravel_index(codes, model.config.level_sizes), axis=1)
    trie = ItemTrie(codes, model.config.level_sizes, model.config.level_offsets)
    table = codes + np.array(model.config.level_offsets)
    return GenerativeRanker(model, trie, table, num_beams=20, max_history=4, name="tiny")


def auc(users, scores, labels) -> dict[int, float]:
    found = {}
    for user in np.unique(users):
        good, bad = (scores[(users == user) & (labels == label)] for label in (True, False))
        found[user] = np.mean([(a > b) + 0.5 * (a == b) for a in good for b in bad])
    return found


def test_a_generative_recommender(interactions, rows, recommender):
    model = zero_shot_model(recommender, interactions, ZeroShotArguments(score="mean"), max_history=6, batch_size=7)
    result = evaluate_zero_shot(model, "office", interactions, rows, max_history=6, intervals=50, per_user=True)
    # one row at a time, the history as the model's own limit cuts it
    expected = []
    for row in range(len(rows)):
        history = rows.history(row, 4)
        ids, mask = map(torch.from_numpy, encode_histories([history], recommender.token_table, 4))
        item = torch.tensor([[rows.items[row]]])
        expected.append(recommender.model.score_items(ids, mask, recommender.trie, item).item())
    per_user = auc(rows.users, np.round(expected, 4), rows.labels)
    assert result["gauc"] == pytest.approx(np.mean(list(per_user.values())), abs=0.01)
    assert result["score"] == "mean" and set(result["gauc_by_score"]) == set(SCORES)
    assert result["gauc_by_score"]["sum"] == pytest.approx(result["gauc"], abs=1e-6)
    np.testing.assert_allclose(model.score(rows)["sum"], expected, atol=1e-4)
    low, high = result["intervals"]["gauc"]
    assert low < result["gauc"] < high and result["num_rows"] == len(rows) and result["num_users"] == USERS
    full = evaluate(recommender, interactions, ks=(10,), max_history=6)
    assert (result["recall@10"], result["ndcg@10"]) == (full["recall@10"], full["ndcg@10"])
    assert result["max_history"] == result["full_ranking"]["max_history"] == 4 and result["prior_histories"] == 32
    assert result["full_ranking"]["num_beams"] == 20
    assert result["pretrained_on"] is None and result["seen_in_pretraining"] == "unknown"


def test_nearest_items(interactions, rows):
    embeddings = np.random.default_rng(2).normal(size=(ITEMS, 5))
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    for query in ("last", "mean"):
        model = zero_shot_model(NearestItems(embeddings, query), interactions, ZeroShotArguments(), max_history=3)
        scores = model.score(rows)["cosine"]
        for row in range(len(rows)):
            history = unit[rows.history(row, 3)]
            state = history[-1] if query == "last" else history.mean(axis=0)
            assert scores[row] == pytest.approx(state @ unit[rows.items[row]] / np.linalg.norm(state), abs=1e-5)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_popularity_counts_the_others(interactions, rows, share):
    few = interactions.sample_training_users(share, 3)
    training = few.training_part()
    model = zero_shot_model(Popularity(training), few, ZeroShotArguments())
    assert model.uses_domain
    for row, count in enumerate(model.score(rows)["count"]):
        own = interactions.user_ids[rows.users[row]]
        others = [training.sequence(u) for u, user in enumerate(training.user_ids) if user != own]
        assert count == sum((sequence == rows.items[row]).sum() for sequence in others)


def test_two_models_are_compared_user_by_user(interactions, rows, recommender):
    models = [recommender, NearestItems(np.random.default_rng(2).normal(size=(ITEMS, 5)))]
    results = [
        evaluate_zero_shot(
            zero_shot_model(each, interactions, ZeroShotArguments(prior_histories=0)),
            "office", interactions, rows, intervals=0, full_ranking=False, per_user=True,
        )
        for each in models
    ]  # fmt: skip
    test = paired_test(*(result["per_user"] for result in results))["gauc"]
    assert test["difference"] == pytest.approx(results[0]["gauc"] - results[1]["gauc"])
    assert test["low"] < test["difference"] < test["high"] and 0 < test["p_value"] <= 1
    assert results[0]["recall@10"] is None and results[0]["intervals"] == {} and results[0]["full_ranking"] is None
    other = draw_rows(interactions, RowChoices(targets="any", row_seed=1))
    model = zero_shot_model(models[1], interactions, ZeroShotArguments())
    unlike = evaluate_zero_shot(model, "office", interactions, other, intervals=0, full_ranking=False, per_user=True)
    with pytest.raises(ValueError, match="not of the same cases"):
        paired_test(results[0]["per_user"], unlike["per_user"])


def test_refusals(interactions):
    with pytest.raises(ValueError, match=r"linear \(.*\) gives no scores for candidates"):
        zero_shot_model(LinearRanker(interactions.training_part()), interactions, ZeroShotArguments())
    with pytest.raises(ValueError, match="item transitions gives no scores for candidates"):
        zero_shot_model(ItemTransitions(interactions.training_part()), interactions, ZeroShotArguments())
    with pytest.raises(ValueError, match="score must be one of sum, mean"):
        ZeroShotArguments(score="total")
    with pytest.raises(ValueError, match="'pmi' needs prior_histories, got 0"):
        ZeroShotArguments("pmi", 0)


def test_what_a_model_was_trained_on(tmp_path):
    assert training_of(tmp_path) == (None, None) == training_of(None)
    values = RecommenderCardValues(
        name="r", training_data=[{"Domain": "sports"}, {"Domain": "games"}], hyperparameters={"seed": 3}
    )
    save_card(tmp_path, values, draw=False)
    assert training_of(tmp_path) == (["sports", "games"], 3)
    assert training_of(tmp_path, ["none"]) == ([], 3) and training_of(tmp_path, ["office"]) == (["office"], 3)


def test_where_the_identifiers_are(tmp_path):
    folder = tmp_path / "recommender"
    with pytest.raises(FileNotFoundError, match="no semantic IDs of the items of office: make them with"):
        items_folder(folder, "office")
    beside = tmp_path / "items" / "office"
    for place in (beside, folder):
        place.mkdir(parents=True)
    (beside / CODES_NAME).touch()
    assert items_folder(folder, "office") == beside and items_folder(folder, "office", "mine").name == "mine"
    (folder / CODES_NAME).touch()
    assert items_folder(folder, "office") is None


def test_the_table_keeps_seen_domains_apart(interactions, rows):
    model = zero_shot_model(NearestItems(np.eye(ITEMS)), interactions, ZeroShotArguments())
    settings = {"interactions": interactions, "rows": rows, "intervals": 10, "full_ranking": False}
    lines = [
        evaluate_zero_shot(replace(model, name=name, pretrained_on=known, seed=seed), "office", **settings)
        for name, known, seed in (("a", ["office"], 0), ("a", ["office"], 1), ("b", ["games"], 0), ("c", None, 0))
    ]
    lines[1]["gauc"] += 0.02
    table = render_zero_shot(lines)
    unseen, seen, unknown = table.split("### ")[1:]
    assert unseen.startswith("office, unseen in") and "| b |" in unseen and "| a |" not in unseen
    assert seen.count("| a |") == 1 and f"| 2 | {lines[0]['gauc'] + 0.01:.4f} |" in seen
    assert unknown.startswith("office, pre-training not known") and "| c |" in unknown
