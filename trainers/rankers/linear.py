"""Linear ranker: item transitions in closed form, and the cosine of the items' content.

    scores = U·B + w·(U·E)·Eᵀ + β·U        B = (XᵀX + λI)⁻¹ XᵀY

`U` `[users, n]` holds a history with weight 1/position from its end; `X` the same of every prefix of every training
sequence, `Y` the items that follow the prefix with weight 1/distance; `E` `[n, e]` are content embeddings without
their mean, of unit length. It is SLIT (Choi et al., Session-aware Linear Item-Item Models, WWW 2021) with other
weights, a ridge regression as in EASE (Steck, WWW 2019). Whatever is trained has to beat it.
[`trainers.rankers.linear_selection`] chooses λ and w, which may depend on how often a user's last item was seen, and β
where it is asked to: whether what a user has had is taken again, which is left open otherwise (0).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from scipy import linalg, sparse

from modeling_utgrec.memory_content import unit_content
from trainers.data.interactions import Interactions
from trainers.data.neighbour_counts import NeighbourCounts, counting_bytes, joined
from trainers.data.prepared_pairs import PreparedPairs
from trainers.rankers.row_order import largest_of_rows
from trainers.rankers.scoring import ScoringRanker

logger = logging.getLogger(__name__)

# The closed form holds three float32 matrices [n, n] at once and takes 7/3 n³ operations: at this size 5 GB, minutes.
MOST_INVERTED = 20_000
LONG_WORK = 1e12  # operations from which on it is announced: seconds
MANY_PAIRS = 5e6  # of neighbours, from which on counting them is announced: seconds
COUNT_BYTES = 24  # of a count that is kept, while the blocks are joined


@dataclass(frozen=True)
class LinearSettings:
    """
    What moves a [`LinearRanker`].

    Args:
        transitions (`str`, *optional*, defaults to `"auto"`): `"inverse"`: the closed form; `"counts"`: decayed counts
            of neighbours without an inverse, for catalogues whose inverse is too dear; `"auto"`: the closed form up to
            20,000 items.
        regularization (`float`, *optional*, defaults to 10.0): λ of the closed form.
        max_history (`int`, *optional*, defaults to 20): last items of a prefix, or history, that are looked at.
        horizon (`int`, *optional*, defaults to 10): items after a prefix that are its targets.
        content_weight (`float`, *optional*, defaults to 0.1): w, for rankers with content embeddings.
        evidence (`float`, *optional*, defaults to 0.0): κ: a user's weight of the content is
            `w·(1 + κ/(count + 1))`, `count` that of the history's last item in the training part; 0: the same for all.
        row_items (`int`, *optional*): transitions of an item that are kept, of the largest magnitude; None: all.
        repeat_weight (`float`, *optional*, defaults to 0.0): β, the weight of an item that the history has; below 0
            it is taken again later than others, far below 0 not at all.
        dtype (`str`, *optional*, defaults to `"float32"`): of the solution, `"float64"` for checks.
    """

    transitions: Literal["auto", "inverse", "counts"] = "auto"
    regularization: float = 10.0
    max_history: int = 20
    horizon: int = 10
    content_weight: float = 0.1
    evidence: float = 0.0
    row_items: int | None = None
    repeat_weight: float = 0.0
    dtype: Literal["float32", "float64"] = "float32"

    def __post_init__(self):
        if self.transitions not in ("auto", "inverse", "counts"):
            raise ValueError(f"transitions must be 'auto', 'inverse' or 'counts', got {self.transitions!r}.")
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"dtype must be 'float32' or 'float64', got {self.dtype!r}.")
        for name in ("regularization", "content_weight", "evidence", "repeat_weight"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be a finite number, got {getattr(self, name)}.")
        if not self.regularization > 0:
            raise ValueError(f"regularization must be above 0, got {self.regularization}.")
        if min(self.max_history, self.horizon, 1 if self.row_items is None else self.row_items) < 1:
            raise ValueError(
                f"max_history, horizon and row_items must be at least 1, got {self.max_history}, {self.horizon} and "
                f"{self.row_items}."
            )
        if min(self.content_weight, self.evidence) < 0:
            raise ValueError(
                f"content_weight and evidence must be at least 0, got {self.content_weight} and {self.evidence}."
            )

    def way(self, num_items: int) -> Literal["inverse", "counts"]:
        """How the transitions of a catalogue of this size are made."""
        if self.transitions == "auto":
            return "inverse" if num_items <= MOST_INVERTED else "counts"
        return self.transitions

    def announcement(self, num_items: int, num_interactions: int) -> str | None:
        """What making the transitions will take, to be said before it begins; None if it is soon done."""
        if self.way(num_items) == "counts":
            pairs = self.horizon * num_interactions
            if pairs < MANY_PAIRS:
                return None
            most = 2 * pairs if self.row_items is None else min(2 * pairs, num_items * self.row_items)
            size = counting_bytes(num_interactions) + COUNT_BYTES * most
            return (
                f"transitions: counting up to {pairs / 1e6:,.0f} million pairs of neighbours takes up to "
                f"{size / 1e9:.1f} GB and about {pairs / 3e6:.0f} s"
            )
        operations = 7 / 3 * num_items**3
        if operations < LONG_WORK:
            return None
        size, seconds = np.dtype(self.dtype).itemsize, operations / _operations_per_second(self.dtype)
        return (
            f"linear ranker: the inverse of {num_items:,} items for λ {self.regularization:g} takes "
            f"{3 * size * num_items**2 / 1e9:.1f} GB, of which {size * num_items**2 / 1e9:.1f} GB stay, and "
            f"{operations / 1e12:.1f} trillion operations, about {seconds:.0f} s"
        )

    def content_weights(self, counts: np.ndarray) -> np.ndarray:
        """Weight of the content for users whose last item has so many training interactions, float64 `[B]`."""
        return self.content_weight * (1 + self.evidence / (counts + 1))

    def label(self, num_items: int, content: str | None) -> str:
        """The settings in short, for names: `"λ 10, w 0.02, κ 30"`."""
        parts = [f"λ {self.regularization:g}" if self.way(num_items) == "inverse" else "counts"]
        if content is not None:
            parts.append(f"w {self.content_weight:g}")
            parts += [f"κ {self.evidence:g}"] if self.evidence and self.content_weight else []
            parts += [content] if self.content_weight else []
        parts += [f"β {self.repeat_weight:g}"] if self.repeat_weight else []
        return ", ".join(parts)

    def sentence(self, num_items: int, content: str | None) -> str:
        """The settings in words, for tables that have a column for what a row is of."""
        inverse = self.way(num_items) == "inverse"
        text = f"transitions in closed form (λ {self.regularization:g})" if inverse else "decayed counts of neighbours"
        if content is not None and self.content_weight:
            rise = f"·(1 + {self.evidence:g}/(count of the last item + 1))" if self.evidence else ""
            text = f"{text} and {self.content_weight:g}{rise} of the texts' cosine with the history ({content})"
        return f"{text}; {self.repeat_weight:g} for what the history has" if self.repeat_weight else text


def _operations_per_second(dtype: str) -> float:
    """The rate of this machine's matrix products, of which solving has most."""
    square = np.ones((1024, 1024), dtype)
    square @ square  # the first call starts threads
    start = time.perf_counter()
    square @ square
    return 2 * 1024**3 / (time.perf_counter() - start)


def history_weights(
    histories: Sequence[np.ndarray], num_items: int, max_history: int, dtype: str = "float32"
) -> sparse.csr_array:
    """Histories of item rows, oldest first, as rows of `[histories, num_items]`: 1/position from the end; an item that
    occurs again gets the sum."""
    cut = [history[-max_history:] for history in histories]
    lengths = np.array([len(history) for history in cut], np.int64)
    ends = np.cumsum(lengths)
    columns = np.concatenate([*cut, np.empty(0, np.int64)]).astype(np.int64)
    position = np.repeat(ends, lengths) - np.arange(len(columns))
    indptr = np.concatenate([np.zeros(1, np.int64), ends])
    weights = sparse.csr_array((1 / position.astype(dtype), columns, indptr), shape=(len(cut), num_items))
    weights.sum_duplicates()
    return weights


def _shifted(training: Interactions, shifts: range, sign: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For every interaction and each shift: its place, the item that many places before (`sign` -1) or after it in the
    same sequence, and 1/shift."""
    places = np.arange(len(training.items))
    first = np.repeat(training.offsets[:-1], training.lengths)
    last = np.repeat(training.offsets[1:], training.lengths) - 1
    rows, columns, values = [], [], []
    for shift in shifts:
        other = places + sign * shift
        inside = (other >= first) & (other <= last)
        rows.append(places[inside])
        columns.append(training.items[other[inside]].astype(np.int64))
        values.append(np.full(len(rows[-1]), 1 / shift))
    none = np.empty(0, np.int64)
    return np.concatenate([none, *rows]), np.concatenate([none, *columns]), np.concatenate([none, *values])


def closed_form(training: Interactions, settings: LinearSettings) -> np.ndarray:
    """
    `B = (XᵀX + λI)⁻¹ XᵀY` by Cholesky's factors.

    Args:
        training ([`Interactions`]): the training part.
        settings ([`LinearSettings`]): λ, weights and the number format.

    Returns:
        `np.ndarray`: `[n, n]`; row `i` is what an item `i` at the end of a history adds to the scores.
    """
    n, total = training.num_items, len(training.items)
    # The prefix before each interaction: a place in `items` is a row of X and of Y, empty for a user's first one.
    before, prefix_items, prefix_weights = _shifted(training, range(1, settings.max_history + 1), -1)
    at, target_items, target_weights = _shifted(training, range(1, settings.horizon), +1)
    follows = np.arange(total) != np.repeat(training.offsets[:-1], training.lengths)
    # distance 1 is the interaction at the place itself, so what is `shift` places on has distance shift + 1
    rows = np.concatenate([np.flatnonzero(follows), at])
    columns = np.concatenate([training.items[follows].astype(np.int64), target_items])
    values = np.concatenate([np.ones(int(follows.sum())), target_weights / (1 + target_weights)])
    x = sparse.csr_array((prefix_weights.astype(settings.dtype), (before, prefix_items)), shape=(total, n))
    y = sparse.csr_array((values.astype(settings.dtype), (rows, columns)), shape=(total, n))
    gram = (x.T @ x).toarray(order="F")
    gram[np.diag_indices(n)] += settings.regularization
    right = (x.T @ y).toarray(order="F")
    factor = linalg.cho_factor(gram, lower=True, overwrite_a=True, check_finite=False)
    solution = linalg.cho_solve(factor, right, overwrite_b=True, check_finite=False)
    del gram, factor, right
    return np.ascontiguousarray(solution)  # sparse rows times any other order copies it for each batch


def decayed_counts(training: Interactions, settings: LinearSettings) -> sparse.csr_array:
    """Symmetric counts of which items stand within `horizon` places of each other, weight 1/gap, each divided by the
    square roots of both items' sums: `[n, n]`, without an inverse, of each row the `row_items` largest."""
    return joined(counted_rows(training, settings))


def counted_rows(training: Interactions, settings: LinearSettings) -> Iterator[sparse.csr_array]:
    """[`decayed_counts`] of a block of items after the other: no more than a block's pairs are held."""
    weights = 1 / np.arange(1.0, settings.horizon + 1)
    counts = NeighbourCounts(training.owners, training.items, training.num_items, weights)
    for rows in normalised_rows(counts, settings.dtype):
        yield rows if settings.row_items is None else largest_of_rows(rows, settings.row_items)


def normalised_rows(counts: NeighbourCounts | PreparedPairs, dtype: str = "float32") -> Iterator[sparse.csr_array]:
    """Counts of neighbours, each divided by the square roots of both items' sums, a block of rows after the other."""
    sums, start = counts.sums(), 0
    for block in counts.blocks():
        yield normalised(block, sums, start, dtype)
        start += block.shape[0]


def normalised(counts: sparse.csr_array, sums: np.ndarray, first: int = 0, dtype: str = "float32") -> sparse.csr_array:
    """Counts `[rows, n]` of the items from `first` on, each divided by the square roots of both items' sums `[n]`."""
    norm = 1 / np.sqrt(np.where(sums > 0, sums, 1))
    owners = np.repeat(np.arange(first, first + counts.shape[0]), np.diff(counts.indptr))
    values = counts.data * norm[owners] * norm[counts.indices]
    return sparse.csr_array((values.astype(dtype), counts.indices, counts.indptr), shape=counts.shape)


def catalogue_content(
    content: np.ndarray, num_items: int, dtype: str = "float32"
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Content embeddings without their mean, of unit length, see [`modeling_utgrec.memory_content.unit_content`]; and
    that mean.

    Args:
        content (`np.ndarray`): float `[n, e]`.
        num_items (`int`): n.
        dtype (`str`, *optional*, defaults to `"float32"`): of the results.

    Raises:
        ValueError: content of another number of items, or not finite.
    """
    vectors = torch.from_numpy(np.ascontiguousarray(content, dtype))
    mean = vectors.mean(0, dtype=torch.float64).to(vectors.dtype)
    return unit_content(vectors, num_items, mean), mean


class LinearUsers(NamedTuple):
    """
    What a [`LinearScorer`] knows of B users.

    Args:
        transitions (`np.ndarray` or `scipy.sparse.csr_array`): U·B, `[B, n]`.
        content (`np.ndarray`, *optional*): U·E, `[B, e]`.
        counts (`np.ndarray`): int64 `[B]` training interactions of the last item.
        had (`scipy.sparse.csr_array`): U, `[B, n]`.
    """

    transitions: np.ndarray | sparse.csr_array
    content: np.ndarray | None
    counts: np.ndarray
    had: sparse.csr_array


class LinearScorer:
    """
    Scores of a [`LinearRanker`], a [`Scorer`].

    Args:
        transitions (`np.ndarray` or `scipy.sparse.csr_array`): B `[n, n]`.
        settings ([`LinearSettings`]): weights of histories and content.
        content (`np.ndarray`, *optional*): float `[n, e]` content embeddings in catalogue order.
        counts (`np.ndarray`, *optional*): int `[n]` training interactions of each item, for `evidence`.

    Raises:
        ValueError: content of another number of items, or not finite.
    """

    def __init__(
        self,
        transitions: np.ndarray | sparse.csr_array,
        settings: LinearSettings,
        content: np.ndarray | None = None,
        counts: np.ndarray | None = None,
    ):
        self.transitions = transitions
        self.settings = settings
        self.num_items = transitions.shape[0]
        self.counts = np.zeros(self.num_items, np.int64) if counts is None else counts
        self.content = None
        if content is not None and settings.content_weight:
            self.content = catalogue_content(content, self.num_items, settings.dtype)[0].numpy()

    def encode(self, histories: Sequence[np.ndarray]) -> LinearUsers:
        """All that is the same for every chunk of items. A product of sparse matrices stays one."""
        weights = history_weights(histories, self.num_items, self.settings.max_history, self.settings.dtype)
        last = np.array([history[-1] if len(history) else -1 for history in histories], np.int64)
        counts = np.where(last >= 0, self.counts[last], 0)
        transitions = weights @ self.transitions
        return LinearUsers(transitions, None if self.content is None else weights @ self.content, counts, weights)

    def scores(self, users: LinearUsers, items: slice) -> torch.Tensor:
        """float `[B, items]`."""
        scores = self.transition_scores(users, items)
        if self.content is not None:
            weights = self.settings.content_weights(users.counts)
            scores = scores + weights[:, None].astype(self.settings.dtype) * self.content_scores(users, items)
        return torch.from_numpy(with_repeats(scores, users, items, self.settings.repeat_weight))

    def transition_scores(self, users: LinearUsers, items: slice) -> np.ndarray:
        """U·B of some items, `[B, items]`."""
        part = users.transitions[:, items]
        return np.ascontiguousarray(part) if isinstance(part, np.ndarray) else part.toarray()

    def content_scores(self, users: LinearUsers, items: slice) -> np.ndarray:
        """(U·E)·Eᵀ of some items, without its weight, `[B, items]`."""
        assert self.content is not None and users.content is not None
        return users.content @ self.content[items].T


def with_repeats(scores: np.ndarray, users: LinearUsers, items: slice, weight: float) -> np.ndarray:
    """Scores of some items, `[B, items]`, and β·U; themselves if β is 0."""
    return scores + users.had[:, items].toarray() * scores.dtype.type(weight) if weight else scores


class LinearRanker(ScoringRanker):
    """
    Ranks by item transitions in closed form and, if content embeddings are given, by the items' likeness to the
    history: see the module's description.

    Args:
        training ([`Interactions`]): the training part.
        content (`np.ndarray`, *optional*): float `[n, e]` content embeddings in catalogue order, as `load_embeddings`
            gives them.
        settings ([`LinearSettings`], *optional*): by default λ 10, and w 0.1 where there is content.
            [`~trainers.rankers.linear_selection.linear_ranker`] chooses them on validation.
        transitions (`np.ndarray` or `scipy.sparse.csr_array`, *optional*): B `[n, n]` where it was made already, of
            the same training part and settings.
        content_name (`str`, *optional*, defaults to `"embeddings"`): what the content is, for names.
        selection (`Sequence[dict]`, *optional*): the table that the settings were chosen from, for the description.
        batch_size, chunk_items (`int`, *optional*): see [`ScoringRanker`].

    Attributes:
        name (`str`): `"linear"` with the settings.
        description (`dict`): plain values for results: `variant` (the settings in words), `content` (what it is, or
            None), `settings` and, where they were chosen, `selection`.

    Raises:
        ValueError: an empty training part; content of another number of items, or not finite.
    """

    def __init__(
        self,
        training: Interactions,
        content: np.ndarray | None = None,
        settings: LinearSettings | None = None,
        transitions: np.ndarray | sparse.csr_array | None = None,
        content_name: str = "embeddings",
        selection: Sequence[dict[str, Any]] | None = None,
        batch_size: int = 256,
        chunk_items: int = 32768,
    ):
        settings = LinearSettings() if settings is None else settings
        check_training(training)
        if transitions is None:
            transitions = transition_matrix(training, settings)
        scorer = LinearScorer(transitions, settings, content, training.popularity)
        named = None if content is None else content_name
        self.description: dict[str, Any] = {
            "variant": settings.sentence(scorer.num_items, named),
            "content": named,
            "settings": asdict(settings) | {"transitions": settings.way(scorer.num_items)},
        }
        if selection is not None:
            self.description["selection"] = list(selection)
        name = f"linear ({settings.label(scorer.num_items, named)})"
        super().__init__(scorer, name, settings.max_history, batch_size, chunk_items)


def check_training(training: Interactions) -> None:
    """Raises ValueError unless there is something to count."""
    if not len(training.items):
        raise ValueError("The training part has no interactions: there is nothing to count.")


def transition_matrix(training: Interactions, settings: LinearSettings) -> np.ndarray | sparse.csr_array:
    """B `[n, n]` of a training part by the way that the settings choose for the size of its catalogue."""
    announcement = settings.announcement(training.num_items, len(training.items))
    if announcement is not None:
        logger.warning(announcement)
    if settings.way(training.num_items) == "counts":
        return decayed_counts(training, settings)
    transitions = closed_form(training, settings)
    return transitions if settings.row_items is None else largest_of_rows(transitions, settings.row_items)
