"""Linear ranker against sums written out and an independent solve."""

import numpy as np
import pytest
from scipy import sparse

from trainers.data.interactions import Interactions
from trainers.rankers.linear import (
    LinearRanker,
    LinearSettings,
    catalogue_content,
    closed_form,
    decayed_counts,
    history_weights,
    transition_matrix,
)

N = 9
IDS = [f"item{row}" for row in range(N)]


def make_interactions(seed=0, users=30) -> Interactions:
    rng = np.random.default_rng(seed)
    rows = [rng.integers(0, N, rng.integers(3, 9)) for _ in range(users)]  # items occur again, also next to themselves
    return Interactions.from_sequences([[IDS[row] for row in each] for each in rows], IDS)


def written_out(training: Interactions, settings: LinearSettings) -> tuple[np.ndarray, np.ndarray]:
    """X and Y by the definition: one row for each prefix."""
    xs, ys = [], []
    for user in range(training.num_users):
        sequence = training.sequence(user)
        for end in range(1, len(sequence)):
            x, y = np.zeros(N), np.zeros(N)
            for position, item in enumerate(sequence[:end][::-1][: settings.max_history], start=1):
                x[item] += 1 / position
            for distance, item in enumerate(sequence[end : end + settings.horizon], start=1):
                y[item] += 1 / distance
            xs.append(x)
            ys.append(y)
    return np.array(xs), np.array(ys)


@pytest.mark.parametrize(
    "settings",
    [
        LinearSettings(dtype="float64"),
        LinearSettings(dtype="float64", max_history=2, horizon=1, regularization=0.5),
        LinearSettings(dtype="float64", max_history=3, horizon=4, regularization=100.0),
    ],
)
def test_closed_form_is_the_ridge_regression(settings):
    training = make_interactions().training_part()
    x, y = written_out(training, settings)
    # the minimum of |XB - Y|² + λ|B|², as least squares of stacked rows: no gram, no Cholesky
    stacked = np.concatenate([x, np.sqrt(settings.regularization) * np.eye(N)])
    expected = np.linalg.lstsq(stacked, np.concatenate([y, np.zeros((N, N))]), rcond=None)[0]
    assert np.allclose(closed_form(training, settings), expected, rtol=1e-9, atol=1e-12)


def test_float32_is_near_to_float64():
    training = make_interactions().training_part()
    found = closed_form(training, LinearSettings())
    assert found.dtype == np.float32
    assert np.allclose(found, closed_form(training, LinearSettings(dtype="float64")), atol=1e-5)


def test_decayed_counts_are_symmetric_and_normalised():
    training = make_interactions().training_part()
    counts = np.zeros((N, N))
    for user in range(training.num_users):
        sequence = training.sequence(user)
        for a in range(len(sequence)):
            for b in range(a + 1, min(a + 3, len(sequence) - 1) + 1):
                counts[sequence[a], sequence[b]] += 1 / (b - a)
                counts[sequence[b], sequence[a]] += 1 / (b - a)
    sums = counts.sum(axis=1)
    expected = counts / np.sqrt(np.outer(sums, sums))
    found = decayed_counts(training, LinearSettings(horizon=3, dtype="float64")).toarray()
    assert np.allclose(found, expected) and np.allclose(found, found.T)


def test_history_weights_end_with_one():
    weights = history_weights([np.array([4, 2, 4]), np.array([], np.int64), np.array([0, 1, 2, 3])], N, 3)
    assert weights.nnz == 5, "an item that occurs again is one entry"
    weights = weights.toarray()
    assert weights[0, 4] == pytest.approx(1 + 1 / 3) and weights[0, 2] == 0.5
    assert not weights[1].any()
    assert weights[2].tolist() == pytest.approx([0, 1 / 3, 1 / 2, 1, *[0] * 5])  # the last three only


def test_all_of_a_row_kept_ranks_the_same():
    interactions = make_interactions()
    training = interactions.training_part()
    whole = closed_form(training, LinearSettings())
    cut = transition_matrix(training, LinearSettings(row_items=N))
    assert np.allclose(cut.toarray(), whole)
    assert transition_matrix(training, LinearSettings(row_items=2)).nnz <= 2 * N


@pytest.mark.parametrize("evidence", [0.0, 30.0])
def test_scores_are_transitions_and_content(evidence):
    interactions = make_interactions()
    training = interactions.training_part()
    content = np.random.default_rng(1).normal(size=(N, 4)) + 3
    settings = LinearSettings(dtype="float64", content_weight=0.3, evidence=evidence)
    ranker = LinearRanker(training, content, settings, chunk_items=4)
    history = np.array([3, 1, 7])
    unit = content - content.mean(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    u = np.zeros(N)
    u[[7, 1, 3]] = 1, 1 / 2, 1 / 3
    weight = 0.3 * (1 + evidence / (training.popularity[7] + 1))
    expected = u @ closed_form(training, settings) + weight * (u @ unit) @ unit.T
    found = ranker.scorer.scores(ranker.scorer.encode([history]), slice(0, N)).numpy()
    assert np.allclose(found[0], expected)
    assert ranker.rank([history], N)[0].tolist() == np.argsort(-expected, kind="stable").tolist()
    assert ranker.rank([history, np.array([], np.int64)], 3).shape == (2, 3)


def test_sparse_transitions_score_as_dense_ones():
    training = make_interactions().training_part()
    content = np.random.default_rng(1).normal(size=(N, 4))
    settings = LinearSettings(transitions="counts", dtype="float64")
    counts = decayed_counts(training, settings)
    histories = [np.array([3, 1, 7]), np.array([2]), np.array([], np.int64)]
    made = [
        LinearRanker(training, content, settings, transitions, chunk_items=4).rank(histories, N)
        for transitions in (None, counts, counts.toarray())
    ]
    assert np.array_equal(made[0], made[1]) and np.array_equal(made[1], made[2])
    users = LinearRanker(training, content, settings).scorer.encode(histories)
    assert sparse.issparse(users.transitions), "users × items are not written out"


def test_an_embedding_that_is_the_mean_says_nothing():
    content = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32) + 3
    content[5] = np.delete(content, 5, axis=0).mean(axis=0)
    unit, mean = (each.numpy() for each in catalogue_content(content, N))
    assert not unit[5].any()
    assert np.allclose(np.linalg.norm(np.delete(unit, 5, axis=0), axis=1), 1, atol=1e-6)
    assert np.allclose(mean, content.mean(axis=0, dtype=np.float64), atol=1e-6)
    for scale in (1e6, 1e-5):
        assert np.allclose(catalogue_content(scale * content, N)[0], unit, atol=1e-3)
    precise = catalogue_content(content, N, "float64")[0].numpy()
    assert precise.dtype == np.float64 and np.allclose(np.linalg.norm(precise[6:], axis=1), 1, rtol=0, atol=1e-8)


def test_name_and_description_tell_the_settings():
    training, content = make_interactions().training_part(), np.eye(N)
    settings = LinearSettings(content_weight=0.02, evidence=30)
    ranker = LinearRanker(training, content, settings, content_name="tf-idf")
    assert ranker.name == "linear (λ 10, w 0.02, κ 30, tf-idf)"
    assert ranker.description["content"] == "tf-idf" and "0.02·(1 + 30/" in ranker.description["variant"]
    assert ranker.description["settings"]["transitions"] == "inverse" and "selection" not in ranker.description
    counted = LinearRanker(training, None, LinearSettings(transitions="counts"))
    assert counted.name == "linear (counts)" and counted.description["content"] is None


def test_large_catalogues_are_counted_and_long_work_is_announced(caplog, monkeypatch):
    settings = LinearSettings()
    assert settings.way(20_000) == "inverse" and settings.way(20_001) == "counts"
    assert LinearSettings(transitions="counts").way(5) == "counts"
    said = settings.announcement(12_101, 150_000)
    assert "1.8 GB, of which 0.6 GB stay, and 4.1 trillion operations" in said
    assert "up to 10 million pairs" in settings.announcement(100_000, 1_000_000)
    training = make_interactions().training_part()
    transition_matrix(training, settings)
    assert not caplog.records
    for limit, transitions, word in (("LONG_WORK", "inverse", "trillion"), ("MANY_PAIRS", "counts", "pairs")):
        monkeypatch.setattr(f"trainers.rankers.linear.{limit}", 1)
        transition_matrix(training, LinearSettings(transitions=transitions))
        assert word in caplog.text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearSettings(regularization=0), "above 0, got 0"),
        (lambda: LinearSettings(regularization=float("nan")), "regularization must be a finite number, got nan"),
        (lambda: LinearSettings(regularization=0.0), "above 0, got 0"),
        (lambda: LinearSettings(regularization=float("inf")), "finite number, got inf"),
        (lambda: LinearSettings(content_weight=float("nan")), "content_weight must be a finite number, got nan"),
        (lambda: LinearSettings(evidence=float("inf")), "evidence must be a finite number"),
        (lambda: LinearSettings(repeat_weight=float("-inf")), "repeat_weight must be a finite number"),
        (lambda: LinearSettings(horizon=0), "at least 1"),
        (lambda: LinearSettings(content_weight=-1), "at least 0"),
        (lambda: LinearSettings(transitions="both"), "got 'both'"),
        (lambda: LinearSettings(dtype="float16"), "got 'float16'"),
        (lambda: LinearRanker(Interactions.from_sequences([["item1"]], IDS).training_part()), "nothing to count"),
        (
            lambda: LinearRanker(make_interactions().training_part(), np.ones((3, 2))),
            r"content embeddings of 9 items, got shape \(3, 2\)",
        ),
        (lambda: LinearRanker(make_interactions().training_part(), np.full((N, 2), np.nan)), "9 items .* row 0"),
    ],
)
def test_wrong_settings_and_content_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
