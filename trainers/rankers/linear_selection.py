"""Choice of the linear ranker's settings on validation, by a fixed rule.

The settings of [`grid`] with the best NDCG@10 on the validation items, seen items kept; of equal ones the first;
before them β, where it is to be chosen, at the middle of the grid. Ranks are those of
[`~trainers.evaluation.protocol.evaluate`], but users are scored once for all weights of the content: the grid costs
little more than the inverse of each λ. All is fitted on the training part, and the test is judged with it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from scipy import sparse

from trainers.data.interactions import Cases, Interactions
from trainers.evaluation.metrics import means, metrics_per_case
from trainers.rankers.linear import (
    LinearRanker,
    LinearScorer,
    LinearSettings,
    check_training,
    transition_matrix,
    with_repeats,
)

logger = logging.getLogger(__name__)

REGULARIZATIONS = (10.0, 30.0)  # λ; of no meaning where transitions are counted
CONTENT_WEIGHTS = (  # (w, κ): the same weight for all, then by evidence; without content only the first
    (0.0, 0.0),
    (0.03, 0.0),
    (0.1, 0.0),
    (0.02, 10.0),
    (0.02, 30.0),
    (0.03, 10.0),
    (0.03, 30.0),
)
# β: whether what a user has had is taken again. -10 of an item at the last of 20 places is below all others
REPEAT_WEIGHTS = (0.0, -10.0, 0.05, 0.2, 1.0)
CUTOFF = 10
CRITERION = f"ndcg@{CUTOFF}"
MOST_SCORES = 1e9  # scores of users and items that each setting is judged by; of more, cases at equal distances
CHUNK_SCORES = 2**24  # of a batch: a few arrays of 67 MB


@dataclass(frozen=True)
class LinearSelection:
    """
    What was chosen, and from what.

    Args:
        settings ([`LinearSettings`]): the best.
        transitions (`np.ndarray` or `scipy.sparse.csr_array`): B `[n, n]` of these settings.
        table (`list[dict]`): for each entry of the grid, in its order, `regularization` (where there is an inverse),
            `content_weight`, `evidence`, and `recall@10` and `ndcg@10` of the part. Empty where the split has no
            validation items: the settings are then those that were given.
        num_cases (`int`): cases that they were judged by.
        repeat_table (`list[dict]`, *optional*): for each β that there was to choose from, as `table`.
    """

    settings: LinearSettings
    transitions: np.ndarray | sparse.csr_array
    table: list[dict[str, Any]]
    num_cases: int
    repeat_table: list[dict[str, Any]] = field(default_factory=list)


def grid(
    settings: LinearSettings,
    num_items: int,
    content: bool,
    content_weights: Sequence[tuple[float, float]] = CONTENT_WEIGHTS,
) -> list[LinearSettings]:
    """The settings to choose from: those given, with each λ (where there is an inverse) and weight (with content)."""
    inverse = settings.way(num_items) == "inverse"
    return [
        replace(settings, regularization=regularization, content_weight=weight, evidence=evidence)
        for regularization in (REGULARIZATIONS if inverse else (settings.regularization,))
        for weight, evidence in (content_weights if content else CONTENT_WEIGHTS[:1])
    ]


def select_settings(
    interactions: Interactions,
    content: np.ndarray | None = None,
    settings: LinearSettings | None = None,
    part: Literal["validation", "test"] = "validation",
    most_cases: int | None = None,
    content_weights: Sequence[tuple[float, float]] = CONTENT_WEIGHTS,
    repeat_weights: Sequence[float] = (),
) -> LinearSelection:
    """
    Chooses λ and the weight of the content and, where it is to be chosen, β before them.

    Args:
        interactions ([`Interactions`]): all interactions; fitted is their training part, judged by the cases of
            `part`; of very large data by some of them, at equal distances.
        content (`np.ndarray`, *optional*): float `[n, e]` content embeddings in catalogue order.
        settings ([`LinearSettings`], *optional*): what the grid leaves as it is.
        part (`str`, *optional*, defaults to `"validation"`): the cases that judge; `"test"` is for what
            [`Interactions.earlier`] gives.
        most_cases (`int`, *optional*): fewer cases, where time is short.
        content_weights (`Sequence[tuple[float, float]]`, *optional*): other (w, κ) to choose from, 0 among them.
        repeat_weights (`Sequence[float]`, *optional*): β to choose from, at the middle of the grid, before the rest,
            which is then judged with it; by default it stays as it is.

    Raises:
        ValueError: an empty training part; content of another number of items, or not finite.
    """
    settings = LinearSettings() if settings is None else settings
    training, cases, num_items = interactions.training_part(), interactions.cases(part), interactions.num_items
    check_training(training)
    if not len(cases):
        logger.warning("linear ranker: the split has no validation items, so its settings were not chosen")
        return LinearSelection(settings, transition_matrix(training, settings), [], 0)
    most = max(1, int(MOST_SCORES / num_items))
    cases = cases.spread(most if most_cases is None else min(most, most_cases))
    entries = grid(settings, num_items, content is not None, content_weights)
    heaviest = max(entries, key=lambda entry: entry.content_weight)
    scorers: dict[float, LinearScorer] = {}
    for entry in entries:
        if entry.regularization not in scorers:  # users' content states are made with the first of them alone
            scorers[entry.regularization] = LinearScorer(
                transition_matrix(training, entry), heaviest, None if scorers else content, training.popularity
            )

    def best_of(entries: Sequence[LinearSettings]) -> tuple[LinearSettings, list[dict[str, Any]]]:
        used = {entry.regularization: scorers[entry.regularization] for entry in entries}
        metrics = map(_metrics, _ranks(cases, entries, used, num_items))
        rows = [_row(entry, each, num_items) for entry, each in zip(entries, metrics, strict=True)]
        return entries[max(range(len(rows)), key=lambda number: rows[number][CRITERION])], rows  # of equal ones first

    repeats: list[dict[str, Any]] = []
    if repeat_weights:
        same = [entry for entry in entries if entry.regularization == entries[0].regularization]
        middle = same[len(same) // 2]
        taken, repeats = best_of([replace(middle, repeat_weight=weight) for weight in repeat_weights])
        repeats = [row | {"repeat_weight": weight} for row, weight in zip(repeats, repeat_weights, strict=True)]
        entries = [replace(entry, repeat_weight=taken.repeat_weight) for entry in entries]
    chosen, rows = best_of(entries)
    return LinearSelection(chosen, scorers[chosen.regularization].transitions, rows, len(cases), repeats)


def linear_ranker(
    interactions: Interactions,
    content: np.ndarray | None = None,
    texts: Sequence[str] | None = None,
    settings: LinearSettings | None = None,
    content_name: str = "embeddings",
    batch_size: int = 256,
    repeat_weights: Sequence[float] = (),
) -> LinearRanker:
    """
    The linear ranker of a data set, its settings chosen on validation.

    Args:
        interactions ([`Interactions`]): all interactions; it counts their training part.
        content (`np.ndarray`, *optional*): float `[n, e]` content embeddings in catalogue order.
        texts (`Sequence[str]`, *optional*): texts of the items in catalogue order, read where there are no embeddings:
            see [`tokenization_items.text_statistics`].
        settings ([`LinearSettings`], *optional*): fixed ones, of which nothing is chosen.
        content_name (`str`, *optional*, defaults to `"embeddings"`): what the embeddings are, for names.
        batch_size (`int`, *optional*, defaults to 256): users at a time.
        repeat_weights (`Sequence[float]`, *optional*): see [`select_settings`].

    Raises:
        ValueError: an empty training part; content or texts of another number of items, or content that is not finite.
    """
    if texts is not None and len(texts) != interactions.num_items:
        raise ValueError(f"{interactions.num_items} items, but {len(texts)} texts; give one for each, in order.")
    if content is None and texts is not None:
        from tokenization_items.text_statistics import TF_IDF, content_of_texts

        content, content_name = content_of_texts(texts), TF_IDF
    training = interactions.training_part()
    if settings is not None:
        return LinearRanker(training, content, settings, content_name=content_name, batch_size=batch_size)
    selection = select_settings(interactions, content, repeat_weights=repeat_weights)
    return LinearRanker(
        training,
        content,
        selection.settings,
        selection.transitions,
        content_name=content_name,
        selection=selection.table or None,
        batch_size=batch_size,
    )


def _ranks(
    cases: Cases, entries: Sequence[LinearSettings], scorers: dict[float, LinearScorer], num_items: int
) -> np.ndarray:
    """Rank of each case's target by each entry, int64 `[entries, C]`, -1 outside of the first 10."""
    ranks = np.empty((len(entries), len(cases)), np.int64)
    everything, first = slice(0, num_items), next(iter(scorers.values()))
    batch_size = max(1, min(256, CHUNK_SCORES // num_items))
    for start in range(0, len(cases), batch_size):
        stop = min(start + batch_size, len(cases))
        histories, targets = cases.histories(start, stop, first.settings.max_history), cases.targets[start:stop]
        users = {regularization: scorer.encode(histories) for regularization, scorer in scorers.items()}
        own = {each: scorers[each].transition_scores(users[each], everything) for each in scorers}
        alike, counts = None, users[next(iter(scorers))].counts
        if first.content is not None:
            alike = first.content_scores(users[next(iter(scorers))], everything)
        for number, entry in enumerate(entries):
            scores = own[entry.regularization]
            if alike is not None and entry.content_weight:
                scores = scores + entry.content_weights(counts)[:, None].astype(scores.dtype) * alike
            scores = with_repeats(scores, users[entry.regularization], everything, entry.repeat_weight)
            ranks[number, start:stop] = ranks_of(scores, targets)
    return ranks


def ranks_of(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Rank of each target among all items, equal scores in catalogue order; -1 outside of the first 10; int64 `[B]`.

    Args:
        scores (`np.ndarray`): float `[B, n]`.
        targets (`np.ndarray`): int `[B]` item rows.
    """
    own = scores[np.arange(len(targets)), targets]
    ranks = (scores > own[:, None]).sum(axis=1)
    near = np.flatnonzero(ranks < CUTOFF)  # the others are out, whatever is equal
    earlier = np.arange(scores.shape[1]) < targets[near, None]
    ranks[near] += ((scores[near] == own[near, None]) & earlier).sum(axis=1)
    return np.where(ranks < CUTOFF, ranks, -1)


def _metrics(ranks: np.ndarray) -> dict[str, Any]:
    return means(metrics_per_case(ranks, [CUTOFF]))


def _row(entry: LinearSettings, metrics: dict[str, Any], num_items: int) -> dict[str, Any]:
    row = {"regularization": entry.regularization} if entry.way(num_items) == "inverse" else {}
    row |= {"content_weight": entry.content_weight, "evidence": entry.evidence}
    return row | {name: metrics[name] for name in (f"recall@{CUTOFF}", CRITERION)}
