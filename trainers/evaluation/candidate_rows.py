"""Rows of (user, item, label) for judging without training (RecBase, zero-shot evaluation): which they are, and why.

A row asks how much a user would like an item, after the history that precedes it. Labels are real where the data has
ratings: a high one is positive, a low one negative, what lies between is no row. Else every target is positive and has
a few items that its user never interacted with, drawn uniformly from the catalogue, as negatives with the same
history. A target is an interaction that has a history and an item that is new to its user.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from trainers.data.interactions import Interactions


@dataclass(frozen=True)
class RowChoices:
    """What there is to choose; the defaults are the published protocol's and all of it stands in every result."""

    labels: Literal["auto", "ratings", "sampled"] = field(
        default="auto",
        metadata={"help": "Of the data's ratings, or sampled negatives; auto: ratings if there are any."},
    )
    targets: Literal["auto", "any", "test"] = field(
        default="auto",
        metadata={
            "help": "Rows of any interaction with a history, or of the test part, which no training and no popularity "
            "has seen; auto: any with ratings (a test part has few users of both labels), test with sampled negatives."
        },
    )
    positive_rating: float = field(default=4.0, metadata={"help": "A rating of at least so much is positive."})
    negative_rating: float = field(default=3.0, metadata={"help": "A rating below is negative."})
    rows_per_label: int = field(default=10, metadata={"help": "Most rows of one user with one label."})
    negatives_per_positive: int = field(default=2, metadata={"help": "Sampled unseen items for each positive."})
    max_rows: int = field(default=20_000, metadata={"help": "Users are drawn, whole, as long as they fit."})
    row_seed: int = field(default=2024, metadata={"help": "Of all draws of rows."})

    def resolve(self, interactions: Interactions) -> RowChoices:
        """The choices with nothing left to `"auto"`.

        Raises:
            ValueError: a choice out of range, or ratings that the data does not have.
        """
        if min(self.rows_per_label, self.negatives_per_positive, self.max_rows) < 1:
            raise ValueError(
                f"rows_per_label, negatives_per_positive, max_rows must be at least 1, got {self.rows_per_label}, "
                f"{self.negatives_per_positive}, {self.max_rows}."
            )
        if self.negatives_per_positive > self.rows_per_label:
            raise ValueError(
                f"{self.negatives_per_positive} negatives per positive, but only {self.rows_per_label} rows per label."
            )
        if self.negative_rating > self.positive_rating:
            raise ValueError(
                f"Ratings from {self.positive_rating} are positive and those below {self.negative_rating} negative: "
                "a rating must not be both."
            )
        has_ratings = interactions.ratings is not None and bool(np.isfinite(interactions.ratings).any())
        labels = self.labels if self.labels != "auto" else "ratings" if has_ratings else "sampled"
        if labels == "ratings" and not has_ratings:
            raise ValueError(
                "The data has no ratings: keep a column 'rating' in its interactions, or sample negatives "
                "(labels 'sampled')."
            )
        targets = self.targets if self.targets != "auto" else "any" if labels == "ratings" else "test"
        return RowChoices(**asdict(self) | {"labels": labels, "targets": targets})


@dataclass(frozen=True, eq=False)
class CandidateRows:
    """Rows, user after user; those with one history are neighbours.

    Args:
        interactions ([`Interactions`]): what the rows were drawn from.
        users (`np.ndarray`): int64 [R] user row, ascending.
        ends (`np.ndarray`): int64 [R] place of the target in `interactions.items`; the history is all of the user's
            before it.
        items (`np.ndarray`): int64 [R] item row that is scored.
        labels (`np.ndarray`): bool [R].
        choices ([`RowChoices`]): how they were drawn.
        counts (`dict`): users that gave no rows, by reason.
    """

    interactions: Interactions
    users: np.ndarray
    ends: np.ndarray
    items: np.ndarray
    labels: np.ndarray
    choices: RowChoices
    counts: dict[str, int]

    def __len__(self) -> int:
        return len(self.users)

    @property
    def num_users(self) -> int:
        return len(np.unique(self.users))

    @property
    def context_starts(self) -> np.ndarray:
        """int64 [contexts] first row of each (user, history)."""
        new = np.ones(len(self), bool)
        new[1:] = (self.users[1:] != self.users[:-1]) | (self.ends[1:] != self.ends[:-1])
        return np.flatnonzero(new)

    def history(self, row: int, max_history: int | None = None) -> np.ndarray:
        """Item rows before the target of a row, oldest first, cut to the last `max_history`."""
        start, end = self.interactions.offsets[self.users[row]], self.ends[row]
        return self.interactions.items[start if max_history is None else max(start, end - max_history) : end]

    def user_digests(self) -> np.ndarray:
        """int64 [users] of each user's rows: what two results must share to be compared user by user."""
        columns = np.stack([self.ends, self.items, self.labels], axis=1).astype("<i8")
        parts = np.split(columns, np.flatnonzero(np.diff(self.users)) + 1)
        return np.array([int.from_bytes(hashlib.sha256(part.tobytes()).digest()[:7]) for part in parts], np.int64)

    def facts(self) -> dict[str, Any]:
        """What a result says of its rows: choices, numbers, and a digest of all."""
        return {
            **asdict(self.choices),
            "num_rows": len(self),
            "num_users": self.num_users,
            "num_positives": int(self.labels.sum()),
            **self.counts,
            "rows_digest": hashlib.sha256(self.user_digests().astype("<i8").tobytes()).hexdigest()[:16],
        }


def draw_rows(interactions: Interactions, choices: RowChoices | None = None) -> CandidateRows:
    """Draws the rows of a domain: of each user up to `rows_per_label` of each label, of users in a random order as
    long as their rows fit into `max_rows`. Users without both labels say nothing about a ranking and get no rows.

    Args:
        interactions (`Interactions`): all interactions (not the training part).
        choices (`RowChoices`, *optional*): see [`RowChoices`].

    Returns:
        The rows, the same for the same data and choices. Their counts: `"num_without_history"` (users that have no
        target at all, as those with one interaction), `"num_without_both_labels"`, `"num_beyond_max_rows"` (users that
        were not drawn) and, of sampled labels, `"num_without_unseen"` (users that know nearly all items).

    Raises:
        ValueError: no user has both labels, the rows of no user fit, or as [`RowChoices.resolve`].
    """
    choices = (choices or RowChoices()).resolve(interactions)
    rng = np.random.default_rng(choices.row_seed)
    num_users, lengths = interactions.num_users, interactions.lengths
    owners = np.repeat(np.arange(num_users), lengths)
    places = _targets(interactions, owners, choices.targets)
    counts = {"num_without_history": num_users - len(np.unique(owners[places]))}
    if choices.labels == "ratings":
        assert interactions.ratings is not None  # `resolve` has seen to it
        rating = interactions.ratings[places]
        labels = rating >= choices.positive_rating
        keep = labels | (rating < choices.negative_rating)
        places, labels, most = places[keep], labels[keep], choices.rows_per_label
    else:
        labels, most = np.ones(len(places), bool), choices.rows_per_label // choices.negatives_per_positive
    places, labels = _first_of_each(owners[places], places, labels, most, rng)
    users = owners[places]
    sizes = np.bincount(users, minlength=num_users)
    if choices.labels == "ratings":
        positives = np.bincount(users, labels, minlength=num_users)
        both = (positives > 0) & (positives < sizes)
    else:
        sizes = sizes * (1 + choices.negatives_per_positive)
        both = sizes > 0
        unseen = interactions.num_items - _distinct_items(interactions, owners)
        knows_all = both & (unseen < sizes - np.bincount(users, minlength=num_users))
        both &= ~knows_all
        counts["num_without_unseen"] = int(knows_all.sum())
    counts["num_without_both_labels"] = num_users - counts["num_without_history"] - int(both.sum())
    counts["num_without_both_labels"] -= counts.get("num_without_unseen", 0)
    if not both.any():
        raise ValueError(
            f"No user has rows of both labels: of {num_users} users {counts['num_without_history']} have no target "
            f"with a history, {counts['num_without_both_labels']} rows of one label at most, "
            f"{counts.get('num_without_unseen', 0)} too few unseen items (labels {choices.labels!r}, targets "
            f"{choices.targets!r})."
        )
    order = rng.permutation(np.flatnonzero(both))
    drawn = order[np.cumsum(sizes[order]) <= choices.max_rows]
    counts["num_beyond_max_rows"] = len(order) - len(drawn)
    if not len(drawn):
        raise ValueError(f"max_rows {choices.max_rows} has no room for the {sizes[order[0]]} rows of one user.")
    kept = np.isin(users, drawn)
    users, ends, labels = users[kept], places[kept], labels[kept]
    items = interactions.items[ends].astype(np.int64)
    if choices.labels == "sampled":
        count = choices.negatives_per_positive
        negatives = _unseen_items(interactions, users, count, rng)
        users, ends = np.repeat(users, 1 + count), np.repeat(ends, 1 + count)
        items = np.concatenate([items[:, None], negatives], axis=1).ravel()
        labels = np.tile(np.arange(1 + count) == 0, len(negatives))
    return CandidateRows(interactions, users, ends, items, labels, choices, counts)


def _targets(interactions: Interactions, owners: np.ndarray, targets: str) -> np.ndarray:
    """Ascending places of the interactions that may be targets: with a history, and of an item new to the user."""
    allowed = np.zeros(len(owners), bool)
    keys = owners * interactions.num_items + interactions.items
    allowed[np.unique(keys, return_index=True)[1]] = True
    allowed &= np.arange(len(owners)) > interactions.offsets[owners]
    if targets == "test":
        in_test = np.zeros(len(owners), bool)
        in_test[interactions.cases("test").ends] = True
        allowed &= in_test
    return np.flatnonzero(allowed)


def _first_of_each(
    users: np.ndarray, places: np.ndarray, labels: np.ndarray, most: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A random `most` of the places of each user with each label; places and labels, by place."""
    order = np.lexsort((rng.random(len(places)), labels, users))
    groups = users[order] * 2 + labels[order]
    first = np.searchsorted(groups, groups)
    kept = np.sort(order[np.arange(len(order)) - first < most])
    return places[kept], labels[kept]


def _distinct_items(interactions: Interactions, owners: np.ndarray) -> np.ndarray:
    """int64 [U] number of different items of each user."""
    keys = np.unique(owners * interactions.num_items + interactions.items)
    return np.bincount(keys // max(interactions.num_items, 1), minlength=interactions.num_users)


def _unseen_items(interactions: Interactions, users: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` items for each entry of `users` (sorted) that the user never interacted with, int64 [len(users), count];
    all those of one user are different."""
    sampled = np.empty((len(users), count), np.int64)
    distinct, starts = np.unique(users, return_index=True)
    for user, start, stop in zip(distinct, starts, [*starts[1:], len(users)], strict=True):
        seen = np.unique(interactions.sequence(user)).astype(np.int64)
        places = rng.choice(interactions.num_items - len(seen), (stop - start) * count, replace=False)
        # the p-th unseen item comes after as many seen ones as have at most p unseen ones before them
        sampled[start:stop] = (places + np.searchsorted(seen - np.arange(len(seen)), places, "right")).reshape(
            -1, count
        )
    return sampled


def score_in_batches(
    score: Callable[[list[np.ndarray], np.ndarray], np.ndarray],
    rows: CandidateRows,
    max_history: int | None = 20,
    batch_size: int = 64,
) -> np.ndarray:
    """Scores of rows by a model that takes the candidates of several histories at once.

    Args:
        score (`Callable[[list[np.ndarray], np.ndarray], np.ndarray]`): B histories of item rows (oldest first) and
            candidates int64 [B, C], padded with -1 → float [B, C] or [B, C, L].
        rows (`CandidateRows`): what to score.
        max_history (`int`, *optional*, defaults to 20): the last so many items of a history; None: all.
        batch_size (`int`, *optional*, defaults to 64): histories per call.

    Returns:
        float64 [R] or [R, L].

    Raises:
        ValueError: scores of a wrong shape or with NaN.
    """
    starts = rows.context_starts
    sizes = np.diff(np.append(starts, len(rows)))
    lengths = np.minimum(
        rows.ends - rows.interactions.offsets[rows.users], max_history or len(rows.interactions.items)
    )
    order = np.argsort(lengths[starts], kind="stable")  # histories of like length share a batch: less padding
    scores = None
    for begin in range(0, len(order), batch_size):
        contexts = order[begin : begin + batch_size]
        inside = np.arange(sizes[contexts].max()) < sizes[contexts, None]
        places = np.where(inside, starts[contexts, None] + np.arange(inside.shape[1]), 0)
        candidates = np.where(inside, rows.items[places], -1)
        found = np.asarray(score([rows.history(row, max_history) for row in starts[contexts]], candidates))
        if found.shape[:2] != candidates.shape or np.isnan(found[inside]).any():
            raise ValueError(f"Expected scores {candidates.shape} without NaN, got {found.shape}.")
        if scores is None:
            scores = np.empty((len(rows), *found.shape[2:]))
        scores[places[inside]] = found[inside]
    assert scores is not None  # there are rows
    return scores
