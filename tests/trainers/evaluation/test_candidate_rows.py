"""Rows of labelled candidates against their rules, one row at a time."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trainers.data.interactions import Interactions
from trainers.evaluation.candidate_rows import RowChoices, draw_rows, score_in_batches

IDS = [f"i{n}" for n in range(12)]
SEQUENCES = st.lists(st.lists(st.integers(0, 11), max_size=14), min_size=1, max_size=12)
checked = settings(max_examples=100, deadline=None)


def make(sequences, ratings=None) -> Interactions:
    found = Interactions.from_sequences([[IDS[item] for item in sequence] for sequence in sequences], IDS)
    return found if ratings is None else replace(found, ratings=np.asarray(ratings, np.float32))


def is_target(interactions: Interactions, user: int, end: int, targets: str) -> bool:
    start, stop = interactions.offsets[user], interactions.offsets[user + 1]
    before = interactions.items[start:end]
    in_part = targets == "any" or (stop - start >= 3 and end == stop - 1)
    return start < end < stop and interactions.items[end] not in before and in_part


def users_with_targets(interactions, targets) -> list[int]:
    spans = [range(*interactions.offsets[user : user + 2]) for user in range(interactions.num_users)]
    return [u for u, span in enumerate(spans) if any(is_target(interactions, u, end, targets) for end in span)]


@checked
@given(SEQUENCES, st.sampled_from(["any", "test"]), st.integers(1, 5), st.integers(1, 3), st.integers(0, 3))
def test_sampled_rows_keep_the_rules(sequences, targets, rows_per_label, negatives, seed):
    assume(negatives <= rows_per_label)
    interactions = make(sequences)
    choices = RowChoices(
        targets=targets, rows_per_label=rows_per_label, negatives_per_positive=negatives, row_seed=seed
    )
    possible = []
    for user in users_with_targets(interactions, targets):
        span = range(*interactions.offsets[user : user + 2])
        count = sum(is_target(interactions, user, end, targets) for end in span)
        count = min(count, rows_per_label // negatives)
        if 12 - len(set(sequences[user])) >= count * negatives:
            possible += [user] * (count * (1 + negatives))
    if not possible:
        with pytest.raises(ValueError, match="No user has rows of both labels"):
            draw_rows(interactions, choices)
        return
    rows = draw_rows(interactions, choices)
    assert rows.choices.labels == "sampled" and rows.users.tolist() == possible  # everybody fits: all that there are
    for user in np.unique(rows.users):
        mine = rows.users == user
        positives = rows.ends[mine & rows.labels]
        assert len(set(positives.tolist())) == len(positives)
        assert all(is_target(interactions, user, end, targets) for end in positives)
        assert rows.items[mine & rows.labels].tolist() == interactions.items[positives].tolist()
        unseen = rows.items[mine & ~rows.labels].tolist()
        assert not set(unseen) & set(sequences[user]) and len(set(unseen)) == len(unseen)
        assert rows.ends[mine & ~rows.labels].tolist() == np.repeat(positives, negatives).tolist()
    again = draw_rows(interactions, choices)
    assert again.facts() == rows.facts() and again.items.tolist() == rows.items.tolist()
    assert all(rows.labels[rows.context_starts]) and len(rows.context_starts) == rows.labels.sum()


@checked
@given(st.data(), SEQUENCES, st.integers(1, 4), st.integers(1, 40))
def test_rated_rows_keep_the_rules(data, sequences, rows_per_label, max_rows):
    total = sum(map(len, sequences))
    values = st.sampled_from([1.0, 2.5, 3.0, 3.5, 4.0, 5.0, np.nan])
    ratings = data.draw(st.lists(values, min_size=total, max_size=total))
    assume(np.isfinite(ratings).any())
    interactions = make(sequences, ratings)
    sizes = {}
    for user in users_with_targets(interactions, "any"):
        ends = [e for e in range(*interactions.offsets[user : user + 2]) if is_target(interactions, user, e, "any")]
        counts = [sum(r(ratings[e]) for e in ends) for r in (lambda r: r >= 4, lambda r: r < 3)]
        if all(counts):
            sizes[user] = sum(min(count, rows_per_label) for count in counts)
    choices = RowChoices(rows_per_label=rows_per_label, max_rows=max_rows, negatives_per_positive=1)
    try:
        rows = draw_rows(interactions, choices)
    except ValueError as error:
        assert not sizes or (max(sizes.values()) > max_rows and "max_rows" in str(error))
        return
    assert (rows.choices.labels, rows.choices.targets) == ("ratings", "any") and len(rows) <= max_rows
    users, counts = np.unique(rows.users, return_counts=True)
    assert all(sizes[user] == count for user, count in zip(users.tolist(), counts.tolist(), strict=True))
    assert rows.counts["num_beyond_max_rows"] == len(sizes) - len(users)
    for user, end, item, label in zip(rows.users, rows.ends, rows.items, rows.labels, strict=True):
        assert is_target(interactions, user, end, "any") and interactions.items[end] == item
        assert ratings[end] >= 4 if label else ratings[end] < 3
    reasons = ("num_without_history", "num_without_both_labels", "num_beyond_max_rows")
    assert sum(rows.counts[name] for name in reasons) + rows.num_users == interactions.num_users


def test_negatives_are_uniform_over_the_unseen_items():
    interactions = make([[0, 3, 4, 11]] * 4000)
    rows = draw_rows(interactions, RowChoices())
    counts = np.bincount(rows.items[~rows.labels], minlength=12)
    unseen = [1, 2, 5, 6, 7, 8, 9, 10]
    assert counts[[0, 3, 4, 11]].sum() == 0 and counts.sum() == 8000
    assert (abs(counts[unseen] - 1000) < 5 * np.sqrt(1000)).all()


def test_users_that_give_no_rows_are_counted():
    sequences = [[0], [], [0, 1, 2], list(range(11)), [1, 2, 1]]
    rows = draw_rows(make(sequences), RowChoices(targets="test"))
    assert set(rows.users.tolist()) == {2}
    assert rows.facts() | {"rows_digest": ""} == {
        "labels": "sampled",
        "targets": "test",
        "positive_rating": 4.0,
        "negative_rating": 3.0,
        "rows_per_label": 10,
        "negatives_per_positive": 2,
        "max_rows": 20_000,
        "row_seed": 2024,
        "num_rows": 3,
        "num_users": 1,
        "num_positives": 1,
        "num_without_history": 3,
        "num_without_unseen": 1,
        "num_without_both_labels": 0,
        "num_beyond_max_rows": 0,
        "rows_digest": "",
    }


def test_the_digest_is_of_the_rows():
    interactions = make([[0, 1, 2, 3]] * 50)
    one, two = (draw_rows(interactions, RowChoices(row_seed=seed)) for seed in (0, 1))
    assert one.facts()["rows_digest"] != two.facts()["rows_digest"]
    assert len(one.user_digests()) == 50 and (one.user_digests() != two.user_digests()).any()


@pytest.mark.parametrize(
    "choices, message",
    [
        ({"labels": "ratings"}, "The data has no ratings"),
        ({"max_rows": 0}, "must be at least 1"),
        ({"negatives_per_positive": 11}, "11 negatives per positive, but only 10"),
        ({"negative_rating": 4.5}, "must not be both"),
        ({"max_rows": 2}, "no room for the 3 rows of one user"),
    ],
)
def test_refuses(choices, message):
    with pytest.raises(ValueError, match=message):
        draw_rows(make([[0, 1, 2]] * 3), RowChoices(**choices))


@checked
@given(SEQUENCES, st.integers(1, 4), st.integers(1, 5))
def test_batches_score_every_row_after_its_own_history(sequences, max_history, batch_size):
    interactions = make(sequences)
    try:
        rows = draw_rows(interactions, RowChoices(targets="any", rows_per_label=6))
    except ValueError:
        return

    def score(histories, candidates):
        assert len(histories) == len(candidates) <= batch_size
        sums = np.array([[1000 * sum(h) + len(h)] for h in histories])
        return np.stack([np.where(candidates < 0, -np.inf, sums + candidates / 100), candidates], axis=2)

    scores = score_in_batches(score, rows, max_history, batch_size)
    for row in range(len(rows)):
        start = interactions.offsets[rows.users[row]]
        history = interactions.items[start : rows.ends[row]][-max_history:]
        assert rows.history(row, max_history).tolist() == history.tolist()
        expected = 1000 * history.sum() + len(history) + rows.items[row] / 100
        assert scores[row].tolist() == [pytest.approx(expected), rows.items[row]]


def test_scores_of_a_wrong_shape_or_nan():
    rows = draw_rows(make([[0, 1, 2]]), RowChoices())
    for wrong in (np.zeros((1, 2)), np.full((1, 3), np.nan)):
        with pytest.raises(ValueError, match=r"Expected scores \(1, 3\) without NaN"):
            score_in_batches(lambda h, c, wrong=wrong: wrong, rows)
