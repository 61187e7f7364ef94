"""Scores by level against plain loops."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.data.interactions import Interactions
from trainers.evaluation import level_scores
from trainers.evaluation.candidate_rows import RowChoices, draw_rows
from trainers.evaluation.level_scores import SCORES, ZeroShotArguments, context_free, named_scores

ITEMS, LEVELS = 14, 3


def make_rows(num_users=5):
    rng = np.random.default_rng(0)
    sequences = [[f"i{item}" for item in rng.choice(ITEMS, 5, replace=False)] for _ in range(num_users)]
    interactions = Interactions.from_sequences(sequences, [f"i{item}" for item in range(ITEMS)])
    return draw_rows(interactions, RowChoices())


def score(histories, candidates):
    """A made-up model: log-probabilities from the last item of the history and the candidate."""
    table = -np.random.default_rng(1).exponential(1.0, (ITEMS, ITEMS, LEVELS))
    return np.stack([table[history[-1]][row] for history, row in zip(histories, candidates, strict=True)])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 20))
def test_named_scores_equal_loops(seed, num_rows):
    rng = np.random.default_rng(seed)
    levels = -rng.exponential(2.0, (num_rows, LEVELS))
    levels[:, 1] = -0.7  # the same for all
    prior, users = -rng.exponential(2.0, levels.shape), rng.integers(0, 3, num_rows)
    scores = named_scores(levels, users, prior)
    assert tuple(scores) == SCORES
    for row in range(num_rows):
        assert scores["sum"][row] == pytest.approx(sum(levels[row]))
        assert scores["mean"][row] == pytest.approx(sum(levels[row]) / LEVELS)
        assert scores["pmi"][row] == pytest.approx(sum(levels[row]) - sum(prior[row]))
        for name, values in (("level-normalised", levels), ("level-normalised-pmi", levels - prior)):
            mine = values[users == users[row]]
            parts = [
                (values[row, level] - mine[:, level].mean()) / mine[:, level].std()
                for level in range(LEVELS)
                if np.ptp(mine[:, level]) > 1e-9
            ]
            assert scores[name][row] == pytest.approx(sum(parts), abs=1e-6)
    assert tuple(named_scores(levels, users)) == SCORES[:3]


@pytest.mark.parametrize("num_users, num_histories", [(5, 32), (5, 3), (40, 8)])
def test_context_free_is_the_mean_over_other_users(num_users, num_histories):
    rows = make_rows(num_users)
    prior = context_free(score, rows, num_histories, batch_size=2)
    assert prior.shape == (len(rows), LEVELS)
    again = context_free(score, rows, num_histories, batch_size=7)
    np.testing.assert_allclose(again, prior)
    if num_histories < num_users:
        return
    cases = rows.interactions.cases("test")
    for row in range(len(rows)):
        others = [cases.histories(c, c + 1)[0] for c in range(num_users) if cases.users[c] != rows.users[row]]
        joint = np.exp(np.cumsum([score([h], rows.items[row : row + 1][None])[0, 0] for h in others], axis=1))
        np.testing.assert_allclose(np.cumsum(prior[row]), np.log(joint.mean(axis=0)))


def test_histories_of_users_without_rows_come_first():
    rng = np.random.default_rng(0)
    sequences = [[f"i{item}" for item in rng.choice(ITEMS, 5, replace=False)] for _ in range(20)]
    interactions = Interactions.from_sequences(sequences, [f"i{item}" for item in range(ITEMS)])
    rows = draw_rows(interactions, RowChoices(max_rows=30))
    asked = []

    def remember(histories, candidates):
        asked.extend(tuple(history) for history in histories)
        return score(histories, candidates)

    context_free(remember, rows, 10)
    own = {tuple(interactions.sequence(user)[:-1]) for user in rows.users}
    assert rows.num_users == 10 and len(asked) == 10 and not own & set(asked)


def test_a_user_is_in_the_sample_once_however_many_items_are_held_out():
    interactions = make_rows(8).interactions
    parts = np.tile(np.array([0, 0, 2, 2, 2], np.int8), 8)
    rows = draw_rows(replace(interactions, parts=parts, split="ratio"), RowChoices())
    asked = []

    def remember(histories, candidates):
        asked.extend(tuple(history) for history in histories)
        return score(histories, candidates)

    context_free(remember, rows, 100)
    assert sorted(asked) == sorted(tuple(interactions.sequence(user)[:2]) for user in range(8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"score": "max"}, "one of sum, mean, "),
        ({"score": "pmi", "prior_histories": 0}, "'pmi' needs prior_histories"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ZeroShotArguments(**arguments)
    assert ZeroShotArguments(score="mean", prior_histories=0).prior_histories == 0


def test_no_other_user():
    with pytest.raises(ValueError, match="Of 1 users with a history 1 were drawn"):
        context_free(score, make_rows(1))
    with pytest.raises(ValueError, match=r"1 were drawn \(num_histories 1\): no other"):
        context_free(score, make_rows(5), 1)


@pytest.mark.parametrize("chunk", [1, 2, 5, 13, 14, 100])
def test_items_are_scored_in_chunks_of_a_bounded_size(monkeypatch, chunk):
    """More items than one call of the model takes: the chunks stand side by side, in the order of the items."""
    rows, sizes = make_rows(9), []
    expected = context_free(score, rows, 7)

    def remember(histories, candidates):
        sizes.append(candidates.shape[1])
        return score(histories, candidates)

    monkeypatch.setattr(level_scores, "PRIOR_CANDIDATES", chunk)
    np.testing.assert_array_equal(context_free(remember, rows, 7), expected)
    num_items = len(np.unique(rows.items))
    assert max(sizes) <= chunk and sum(sizes) == num_items  # 7 histories are one batch
    assert len(sizes) == -(-num_items // chunk)
