"""Settings of the linear ranker, chosen on validation, against one evaluation for each."""

from dataclasses import replace

import numpy as np
import pytest

from tokenization_items.item_embeddings import save_embeddings
from tokenization_items.text_statistics import tf_idf_embeddings
from trainers.data.interactions import Interactions
from trainers.evaluation.protocol import evaluate
from trainers.rankers import linear_selection, load_ranker
from trainers.rankers.linear import LinearRanker, LinearSettings, transition_matrix
from trainers.rankers.linear_selection import REPEAT_WEIGHTS, grid, linear_ranker, ranks_of, select_settings

N = 40
IDS = [f"item{row}" for row in range(N)]
TEXTS = [f"kind{row % 5} sort{row % 7} item{row}" for row in range(N)]
CONTENT = np.random.default_rng(1).normal(size=(N, 6)).astype(np.float32)


def make_interactions(seed=0, users=120) -> Interactions:
    """Items of one kind follow each other more often."""
    rng = np.random.default_rng(seed)
    nearness = CONTENT @ CONTENT.T
    sequences = []
    for _ in range(users):
        rows = [int(rng.integers(N))]
        while len(rows) < 7:
            rows.append(int(rng.choice(N, p=np.exp(nearness[rows[-1]]) / np.exp(nearness[rows[-1]]).sum())))
        sequences.append([IDS[row] for row in rows])
    return Interactions.from_sequences(sequences, IDS)


@pytest.fixture(scope="module")
def interactions() -> Interactions:
    return make_interactions()


@pytest.mark.parametrize("transitions", ["inverse", "counts"])
@pytest.mark.parametrize("content", [None, CONTENT], ids=["items", "content"])
def test_each_entry_is_judged_as_evaluate_judges_its_ranker(interactions, transitions, content, monkeypatch):
    monkeypatch.setattr(linear_selection, "CHUNK_SCORES", 17 * N)  # batches that do not come out even
    settings = LinearSettings(transitions=transitions)
    selection = select_settings(interactions, content, settings)
    entries = grid(settings, N, content is not None)
    assert (
        len(selection.table) == len(entries) == (2 if transitions == "inverse" else 1) * (1 if content is None else 7)
    )
    training, expected = interactions.training_part(), []
    for entry, row in zip(entries, selection.table, strict=True):
        found = evaluate(LinearRanker(training, content, entry), interactions, "validation")
        expected.append(found["ndcg@10"])
        assert (row["recall@10"], row["ndcg@10"]) == (found["recall@10"], found["ndcg@10"])
        assert (row["content_weight"], row["evidence"]) == (entry.content_weight, entry.evidence)
        assert row.get("regularization") == (entry.regularization if transitions == "inverse" else None)
    assert selection.settings == entries[int(np.argmax(expected))] and selection.num_cases == 120
    if content is not None:
        assert len(set(expected)) > 1, "all the same: nothing was chosen"
    chosen = transition_matrix(training, selection.settings)
    difference = abs(selection.transitions - chosen)
    assert difference.max() == 0


@pytest.mark.parametrize("transitions", ["inverse", "counts"])
@pytest.mark.parametrize("content", [None, CONTENT], ids=["items", "content"])
def test_whether_what_a_user_had_is_taken_again_is_chosen_first(interactions, transitions, content):
    settings = LinearSettings(transitions=transitions)
    selection = select_settings(interactions, content, settings, repeat_weights=REPEAT_WEIGHTS)
    middle = grid(settings, N, content is not None)[0 if content is None else 3]
    training, expected = interactions.training_part(), []
    for weight, row in zip(REPEAT_WEIGHTS, selection.repeat_table, strict=True):
        found = evaluate(
            LinearRanker(training, content, replace(middle, repeat_weight=weight)), interactions, "validation"
        )
        expected.append(found["ndcg@10"])
        assert (row["repeat_weight"], row["ndcg@10"]) == (weight, found["ndcg@10"])
    assert len(set(expected)) > 2, "all the same: nothing was chosen"
    best = REPEAT_WEIGHTS[int(np.argmax(expected))]
    given = select_settings(interactions, content, replace(settings, repeat_weight=best))
    assert selection.settings == given.settings and selection.table == given.table and not given.repeat_table


def test_what_nobody_takes_twice_is_not_recommended_again():
    rng = np.random.default_rng(0)
    once = [[IDS[row] for row in rng.permutation(N)[:8]] for _ in range(60)]
    again = [sequence[:4] + sequence[1:4] + sequence[2:4] for sequence in once]
    for sequences, sign in ((once, -1), (again, 1)):
        interactions = Interactions.from_sequences(sequences, IDS)
        ranker = linear_ranker(interactions, CONTENT, repeat_weights=REPEAT_WEIGHTS)
        weight = ranker.description["settings"]["repeat_weight"]
        assert weight * sign > 0 and f"β {weight:g}" in ranker.name
        histories = interactions.cases("test").histories()
        assert f"{weight:g} for what the history has" in ranker.description["variant"]
        first = ranker.rank(histories, 3)
        had = np.mean([np.isin(row, history).mean() for row, history in zip(first, histories, strict=True)])
        assert had == 0 if sign < 0 else had > 0.6


def test_the_grid_is_the_rule():
    entries = grid(LinearSettings(max_history=3), 100, True)
    assert [(entry.regularization, entry.content_weight, entry.evidence) for entry in entries] == [
        (regularization, *weights)
        for regularization in (10, 30)
        for weights in ((0, 0), (0.03, 0), (0.1, 0), (0.02, 10), (0.02, 30), (0.03, 10), (0.03, 30))
    ]
    assert all(entry.max_history == 3 for entry in entries)
    assert [entry.regularization for entry in grid(LinearSettings(), 100, False)] == [10, 30]
    assert [entry.evidence for entry in grid(LinearSettings(), 20_001, True)] == [0, 0, 0, 10, 30, 10, 30]


def test_of_equal_settings_the_first_is_taken(interactions):
    same = np.ones((N, 3), np.float32)  # all items alike: the weight moves nothing
    selection = select_settings(interactions, same)
    assert selection.settings.content_weight == 0
    best = max(row["ndcg@10"] for row in selection.table)
    assert next(row for row in selection.table if row["ndcg@10"] == best)["regularization"] == (
        selection.settings.regularization
    )


def test_the_test_part_moves_nothing(interactions):
    sequences = [[*map(IDS.__getitem__, interactions.sequence(user))] for user in range(interactions.num_users)]
    other = Interactions.from_sequences([[*sequence[:-1], IDS[0]] for sequence in sequences], IDS)
    assert select_settings(other, CONTENT).table == select_settings(interactions, CONTENT).table


def test_ranks_count_equals_in_catalogue_order():
    scores = np.random.default_rng(0).integers(0, 6, (50, 30)).astype(np.float32)
    targets = np.random.default_rng(1).integers(0, 30, 50)
    places = np.argsort(-scores, axis=1, kind="stable")
    expected = np.array([int(np.flatnonzero(row == target)[0]) for row, target in zip(places, targets, strict=True)])
    assert (expected == 9).any() and (expected == 10).any()
    assert ranks_of(scores, targets).tolist() == np.where(expected < 10, expected, -1).tolist()


def test_very_large_data_are_judged_by_some_of_their_cases(interactions, monkeypatch):
    monkeypatch.setattr(linear_selection, "MOST_SCORES", 30 * N)
    selection = select_settings(interactions)
    assert selection.num_cases == 30 and 0 < selection.table[0]["recall@10"] <= 1


def test_fewer_cases_and_other_weights_of_the_content(interactions):
    weights = ((0.0, 0.0), (0.001, 10.0), (0.5, 0.0))
    selection = select_settings(interactions, CONTENT, most_cases=12, content_weights=weights)
    assert selection.num_cases == 12
    assert [(row["content_weight"], row["evidence"]) for row in selection.table] == [*weights] * 2
    whole = select_settings(interactions, CONTENT, content_weights=weights)
    assert select_settings(interactions, CONTENT, most_cases=10**6, content_weights=weights).table == whole.table


def test_without_validation_items_the_settings_stay(interactions, caplog):
    parts = np.zeros(len(interactions.items), np.int8)
    parts[interactions.offsets[1:] - 1] = 2
    split = replace(interactions, parts=parts, split="temporal")
    ranker = linear_ranker(split, CONTENT)
    assert "no validation items" in caplog.text and "selection" not in ranker.description
    assert ranker.scorer.settings == LinearSettings()


def test_it_ranks_by_name_like_the_others(interactions, tmp_path):
    save_embeddings(tmp_path, IDS, CONTENT, {"model": "none"})
    for given, content, name in (
        ({}, None, None),
        ({"embeddings": tmp_path}, CONTENT, "embeddings"),
        ({"texts": TEXTS}, tf_idf_embeddings(TEXTS), "tf-idf"),
        ({"texts": [""] * N}, None, None),
    ):
        ranker = load_ranker("linear", interactions, batch_size=7, **given)
        selection = select_settings(interactions, content)
        assert ranker.batch_size == 7 and ranker.description["content"] == name
        assert ranker.scorer.settings == selection.settings and ranker.description["selection"] == selection.table
        assert np.array_equal(ranker.scorer.transitions, selection.transitions)
        found = evaluate(ranker, interactions, "validation")
        assert found["ndcg@10"] == max(row["ndcg@10"] for row in selection.table)


def test_given_settings_are_taken_as_they_are(interactions):
    settings = LinearSettings(regularization=3, content_weight=0.5)
    ranker = load_ranker("linear", interactions, texts=TEXTS, linear=settings)
    assert ranker.scorer.settings == settings and ranker.name == "linear (λ 3, w 0.5, tf-idf)"
    assert "selection" not in ranker.description


def test_an_empty_training_part_and_foreign_content_are_named(interactions):
    with pytest.raises(ValueError, match="nothing to count"):
        select_settings(interactions.sample_training_users(0.0))
    with pytest.raises(ValueError, match=r"content embeddings of 40 items, got shape \(3, 2\)"):
        select_settings(interactions, np.ones((3, 2)))
    with pytest.raises(ValueError, match="40 items, but 39 texts"):
        linear_ranker(interactions, texts=["a text"] * 39)
