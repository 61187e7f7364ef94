"""Scores of candidates from the log-probabilities of their semantic IDs' levels: as they are, normalised, free of
popularity.

A semantic ID has L codes, `lp_l` is the log-probability of the l-th after the history and the codes before it:

| name                   | score                                                                                   |
|------------------------|-----------------------------------------------------------------------------------------|
| `sum`                  | `Σ lp_l`, the joint log-probability of the semantic ID (RecBase, zero-shot evaluation)   |
| `mean`                 | `Σ lp_l / L`; semantic IDs of one length: the same ranking                               |
| `level-normalised`     | `Σ (lp_l - m_l) / s_l`, mean and standard deviation over the user's candidates: a level  |
|                        | whose probabilities differ much does not outweigh the others; one without difference: 0 |
| `pmi`                  | `Σ lp_l - log p(item)`, pointwise mutual information of history and item                |
| `level-normalised-pmi` | as `level-normalised`, of `lp_l - log p(code_l of the item, given the codes before it)` |

The context-free `p(item)` is the mean of the item's probability over the histories of a fixed sample of other users of
the domain: an item's probability without regard to the user, which reflects popularity in the training data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from trainers.evaluation.candidate_rows import CandidateRows

SCORES = ("sum", "mean", "level-normalised", "pmi", "level-normalised-pmi")
PRIOR_CANDIDATES = 2048  # items per call of the sample's scoring


@dataclass
class ZeroShotArguments:
    """How recommenders are judged without training; which rows: [`trainers.evaluation.candidate_rows.RowChoices`]."""

    score: str = field(
        default="sum",
        metadata={"help": f"What a result's gauc is of, for a generative recommender: {', '.join(SCORES)}."},
    )
    prior_histories: int = field(
        default=32,
        metadata={"help": "Other users' histories that the context-free probability is the mean over; 0: no pmi."},
    )
    items: str | None = field(
        default=None,
        metadata={"help": "Folder of `utgrec tokenize` with the domain's index; default: the recommender's."},
    )
    language_model: str | None = field(
        default=None, metadata={"help": "Hub id or folder of a causal language model, for `title-likelihood`."}
    )
    pretrained_on: list[str] | None = field(
        default=None, metadata={"help": "Domains of the pre-training, or none; default: as the model's folder says."}
    )
    full_ranking: bool = field(default=True, metadata={"help": "Also Recall and NDCG over the whole catalogue."})

    def __post_init__(self):
        if self.score not in SCORES:
            raise ValueError(f"score must be one of {', '.join(SCORES)}, got {self.score!r}.")
        if self.prior_histories < ("pmi" in self.score):
            raise ValueError(f"The score {self.score!r} needs prior_histories, got {self.prior_histories}.")


def named_scores(levels: np.ndarray, users: np.ndarray, prior: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Scores of rows by name.

    Args:
        levels (`np.ndarray`): float [R, L] log-probability of each level's code.
        users (`np.ndarray`): int [R] user of each row.
        prior (`np.ndarray`, *optional*): float [R, L] context-free log-probabilities, see [`context_free`]; None
            leaves the last two out.

    Returns:
        float64 [R] for each of [`SCORES`].
    """
    levels = np.asarray(levels, np.float64)
    scores = {
        "sum": levels.sum(axis=1),
        "mean": levels.mean(axis=1),
        "level-normalised": standardised(levels, users).sum(axis=1),
    }
    if prior is not None:
        free = levels - prior
        scores |= {"pmi": free.sum(axis=1), "level-normalised-pmi": standardised(free, users).sum(axis=1)}
    return scores


def standardised(values: np.ndarray, users: np.ndarray) -> np.ndarray:
    """Values `[R, L]` minus mean, by standard deviation, over the rows of each user; 0 where all are the same."""
    groups = np.unique(users, return_inverse=True)[1]
    sizes = np.bincount(groups)[:, None]

    def sums(columns: np.ndarray) -> np.ndarray:
        return np.stack([np.bincount(groups, column, len(sizes)) for column in columns.T], axis=1)

    centred = values - (sums(values) / sizes)[groups]
    deviation = np.sqrt(sums(centred**2) / sizes)
    # rounding of the mean is no difference
    flat = deviation <= 1e-9 * np.maximum(1, np.sqrt(sums(values**2) / sizes))
    return np.where(flat[groups], 0.0, centred / np.where(flat, 1.0, deviation)[groups])


def context_free(
    score: Callable[[list[np.ndarray], np.ndarray], np.ndarray],
    rows: CandidateRows,
    num_histories: int = 32,
    max_history: int | None = 20,
    batch_size: int = 64,
) -> np.ndarray:
    """Context-free log-probabilities of the rows' items: of each level's code, after the codes before it, under
    the mean over other users' histories.

    Args:
        score (`Callable[[list[np.ndarray], np.ndarray], np.ndarray]`): B histories and candidates int64 [B, C] → float
            [B, C, L].
        rows (`CandidateRows`): the rows; histories are those that precede the test items of users drawn by the rows'
            seed, users without rows first. A user's own history has no part in the user's prior.
        num_histories (`int`, *optional*, defaults to 32): histories of the sample.
        max_history, batch_size: as for the rows themselves.

    Returns:
        float64 [R, L].

    Raises:
        ValueError: no other user's history is in the sample.
    """
    interactions = rows.interactions
    cases = interactions.cases("test")
    _, first = np.unique(cases.users, return_index=True)
    shuffled = np.random.default_rng(rows.choices.row_seed).permutation(first)
    shuffled = shuffled[np.argsort(np.isin(cases.users[shuffled], rows.users), kind="stable")][:num_histories]
    sample = np.sort(shuffled)
    if len(sample) < 2 and np.isin(cases.users[sample], rows.users).all():
        raise ValueError(
            f"Of {len(first)} users with a history {len(sample)} were drawn (num_histories {num_histories}): no other "
            "user's is left to take a context-free probability from."
        )
    histories = [h for case in sample for h in cases.histories(case, case + 1, max_history)]
    items, inverse = np.unique(rows.items, return_inverse=True)
    parts = []  # of the codes up to each level: [S, items, L]
    for begin in range(0, len(items), PRIOR_CANDIDATES):
        part = items[begin : begin + PRIOR_CANDIDATES]
        batches = (histories[start : start + batch_size] for start in range(0, len(histories), batch_size))
        found = [score(batch, np.tile(part, (len(batch), 1))) for batch in batches]
        parts.append(np.cumsum(np.concatenate(found).astype(np.float64), axis=2))
    joint = np.concatenate(parts, axis=1)
    marginal = _log_mean(joint)[inverse]
    own = np.flatnonzero(np.isin(rows.users, cases.users[sample]))
    for user in np.unique(rows.users[own]):
        others = joint[cases.users[sample] != user]
        mine = own[rows.users[own] == user]
        marginal[mine] = _log_mean(others[:, inverse[mine]])
    return np.diff(marginal, axis=1, prepend=0.0)


def _log_mean(values: np.ndarray) -> np.ndarray:
    """Log of the mean of `exp(values)` over the first axis."""
    return np.logaddexp.reduce(values, axis=0) - np.log(len(values))
