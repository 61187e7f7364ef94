"""What recommenders read of a corpus that does not fit in memory: next-item targets, packed rows, windows of items.

Each is the data set of the same name in memory, with the order of [`StreamedElements`].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokenization_items.histories import PAD_TOKEN_ID
from trainers.training_data.corpus import SequenceCorpus
from trainers.training_data.next_item_windows import NextItemWindows
from trainers.training_data.packed_sequences import PackedSequences, packed_rows
from trainers.training_data.sequence_windows import SequenceWindows, TrainingTargets, window_bounds
from trainers.training_data.streamed_elements import StreamedElements


@dataclass
class StreamedData:
    """
    A corpus and semantic IDs, for the training of a generative recommender.

    Args:
        corpus ([`SequenceCorpus`]): sequences of one domain or several.
        token_table (`np.ndarray`): int [n, L] token ids of the items of all domains, in their order.
        content (`np.ndarray`, *optional*): [n, width] content vectors of the same items, for a model that reads them;
            they may be memory-mapped.
    """

    corpus: SequenceCorpus
    token_table: np.ndarray
    content: np.ndarray | None = None


class StreamedWindows(StreamedElements, NextItemWindows):
    """
    [`NextItemWindows`] of a [`SequenceCorpus`]. Memory: 8 bytes for each target in the buffer, and the token table.

    Args:
        corpus ([`SequenceCorpus`]): sequences of one domain or several.
        token_table (`np.ndarray`): int [n, L] token ids of the items of all domains, in their order.
        max_history (`int`, *optional*, defaults to 20): items of history.
        order: temperature, buffer and seed, see [`StreamedElements`].

    Raises:
        ValueError: table and corpus differ in size, tokens that are padding, `max_history` below 1, or as
            [`StreamedElements`].
    """

    def __init__(self, corpus: SequenceCorpus, token_table: np.ndarray, max_history: int = 20, **order: Any):
        self.token_table = _checked_table(corpus, token_table)
        self.max_history = _checked_history(max_history)
        super().__init__(corpus, **order)

    def _sizes(self) -> np.ndarray:
        return self.group_targets

    def _read(self, first: int, end: int) -> np.ndarray:
        """Positions of the targets, int64 [N]."""
        offsets = np.asarray(self.offsets[first : end + 1])
        is_target = np.ones(offsets[-1] - offsets[0], bool)
        is_target[offsets[:-1] - offsets[0]] = False  # a sequence's first item has no history
        return offsets[0] + np.flatnonzero(is_target)


class StreamedRows(StreamedElements, PackedSequences):
    """
    [`PackedSequences`] of a [`SequenceCorpus`]. Which windows share a row is drawn once, among those of a group, so
    every row is of one domain. Memory: some 150 bytes for each row in the buffer, and the token table.

    Args:
        corpus ([`SequenceCorpus`]): sequences of one domain or several.
        token_table (`np.ndarray`): int [n, L] token ids of the items of all domains, in their order.
        max_history (`int`, *optional*, defaults to 20): items of history of the longest window.
        with_targets (`bool`, *optional*, defaults to `False`): see [`PackedSequences`].
        order: temperature, buffer and seed, see [`StreamedElements`].

    Raises:
        ValueError: as [`StreamedWindows`].
    """

    def __init__(
        self,
        corpus: SequenceCorpus,
        token_table: np.ndarray,
        max_history: int = 20,
        with_targets: bool = False,
        **order: Any,
    ):
        self.token_table = _checked_table(corpus, token_table)
        self.max_history, self.with_targets = _checked_history(max_history), with_targets
        super().__init__(corpus, **order)

    def _read(self, first: int, end: int) -> np.ndarray:
        """The windows of each row, int64 [windows of it, 2]: an array of objects [rows]."""
        bounds = window_bounds(np.asarray(self.offsets[first : end + 1]), "all", self.max_history)
        bounds, firsts = packed_rows(bounds, self.max_history, self.with_targets, np.random.default_rng((0, first)))
        rows = np.empty(len(firsts) - 1, object)
        for row, windows in enumerate(np.split(bounds, firsts[1:-1])):
            rows[row] = windows
        return rows

    def windows_of(self, rows: Sequence[Any] | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        counts = np.array([len(row) for row in rows], np.int64)
        bounds = np.concatenate(list(rows))
        return bounds[np.cumsum(counts) - counts, 0], counts, bounds


class StreamedSequences(StreamedElements, SequenceWindows):
    """
    [`SequenceWindows`] of a [`SequenceCorpus`]. Memory: 16 bytes for each window in the buffer.

    Args:
        corpus ([`SequenceCorpus`]): sequences of one domain or several.
        targets (`str`): `"all"`, `"last"` or `"cloze"`, see [`SequenceWindows`].
        max_history (`int`): items of history.
        order: temperature, buffer and seed, see [`StreamedElements`].

    Raises:
        ValueError: `max_history` below 1, or as [`StreamedElements`].
    """

    def __init__(self, corpus: SequenceCorpus, targets: TrainingTargets, max_history: int, **order: Any):
        self.num_items, self.targets, self.max_history = corpus.num_items, targets, _checked_history(max_history)
        super().__init__(corpus, **order)

    def _read(self, first: int, end: int) -> np.ndarray:
        """Starts and ends of the windows, int64 [N, 2]."""
        return window_bounds(np.asarray(self.offsets[first : end + 1]), self.targets, self.max_history)


def _checked_table(corpus: SequenceCorpus, token_table: np.ndarray) -> np.ndarray:
    token_table = np.asarray(token_table)
    if token_table.ndim != 2 or len(token_table) != corpus.num_items:
        raise ValueError(
            f"Expected a token table [{corpus.num_items}, L] for the items of the corpus's domains "
            f"{', '.join(corpus.domains)}, got shape {token_table.shape}."
        )
    if (token_table <= PAD_TOKEN_ID).any():
        raise ValueError(f"Tokens must be above {PAD_TOKEN_ID}, the padding (did you pass level-local codes?).")
    return token_table


def _checked_history(max_history: int) -> int:
    if max_history < 1:
        raise ValueError(f"max_history must be at least 1, got {max_history}.")
    return max_history
