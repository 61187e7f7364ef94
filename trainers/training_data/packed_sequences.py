"""Training rows of generative recommenders that read in one direction: whole sequences, several to a row.

One pass over a row trains on every item but each sequence's first, where [`NextItemWindows`] makes a row of its own
for every target. The loss is the same as long as a sequence is no longer than the history: rows are windows of at most
`max_history` items and the one that follows, and behind a window's border the history begins anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from tokenization_items.histories import PAD_TOKEN_ID
from trainers.data.interactions import Interactions
from trainers.training_data.domain_sampling import DomainSampling
from trainers.training_data.next_item_windows import ValidCodes
from trainers.training_data.sequence_windows import NOT_LABELLED, SequenceWindows
from trainers.training_data.target_horizon import check_horizon, target_positions


class PackedSequences(Dataset):
    """Dataset of rows that are filled with whole windows of the training sequences.

    Rows hold about as many items each, so batches have little padding whatever the lengths of the sequences. Element
    `i` is the row's number; [`PackedCollator`] makes tokens of it. Which windows share a row is drawn once.

    Memory: the interactions and the token table (both shared) and 24 bytes for each window.

    Args:
        interactions (`Interactions`): the *training part*.
        token_table (`np.ndarray`): int [n, L] token ids of the items' semantic IDs, in the order of
            `interactions.item_ids`.
        max_history (`int`, *optional*, defaults to 20): items of history of the longest window. A row has room for
            one window of that length.
        seed (`int`, *optional*, defaults to 0): of the draw.
        with_targets (`bool`, *optional*, defaults to `False`): whether a window's last target is in the row too: a
            decoder reads its targets, an encoder does not.
        sampling (`DomainSampling`, *optional*): makes each epoch draw its rows anew, of each domain so many; rows then
            hold windows of one domain. By default every row is in every epoch.

    Raises:
        ValueError: table and catalogue differ in size, no sequence has two items, or the domains to sample from have
            another number of sequences.
    """

    def __init__(
        self,
        interactions: Interactions,
        token_table: np.ndarray,
        max_history: int = 20,
        seed: int = 0,
        with_targets: bool = False,
        sampling: DomainSampling | None = None,
    ):
        self.token_table = np.asarray(token_table)
        if self.token_table.ndim != 2 or len(self.token_table) != interactions.num_items:
            raise ValueError(
                f"Expected a token table [{interactions.num_items}, L] for the {interactions.num_items} items of the "
                f"catalogue, got shape {self.token_table.shape}."
            )
        windows = SequenceWindows(interactions, "all", max_history)
        self.items = interactions.items
        self.offsets = interactions.offsets
        self.epoch = 0
        self.max_history = max_history
        self.with_targets = with_targets
        self.sampling = sampling
        # of each domain: its windows, and the rows that they fill
        first_windows = np.array([0, len(windows)])
        if sampling is not None:
            sampling.check(interactions.num_users)
            first_windows = windows.first_windows[sampling.first_sequences]
        rng = np.random.default_rng(seed)
        bounds, rows, self.first_rows = [], [np.zeros(1, np.int64)], [0]
        for first, end in zip(first_windows[:-1].tolist(), first_windows[1:].tolist(), strict=True):
            of_domain, firsts = packed_rows(windows.__getitems__(range(first, end)), max_history, with_targets, rng)
            bounds.append(of_domain)
            rows.append(first + firsts[1:])
            self.first_rows.append(self.first_rows[-1] + len(rows[-1]))
        self.bounds = np.concatenate(bounds)  # int64 [windows, 2]
        self.first_windows = np.concatenate(rows)
        self.drawn: np.ndarray | None = None  # int64 [rows of an epoch] rows of this epoch
        if sampling is not None:
            before = np.concatenate([np.zeros(1, np.int64), np.cumsum(self._targets)])
            targets, num_rows = np.diff(before[first_windows]), np.diff(self.first_rows)
            wanted = sampling.counts(targets, self.num_targets) * num_rows / np.maximum(targets, 1)
            self._rows_to_draw = np.maximum(np.rint(wanted).astype(np.int64), num_rows > 0)
            self.set_epoch(0)

    @property
    def num_levels(self) -> int:
        return self.token_table.shape[1]

    @property
    def _targets(self) -> np.ndarray:
        """Targets of each window."""
        return self.bounds[:, 1] - self.bounds[:, 0] - 1

    @property
    def num_targets(self) -> int:
        """All targets, whatever the sampling."""
        return int(self._targets.sum())

    def set_epoch(self, epoch: int) -> None:
        """The number of the epoch, from which targets are drawn; and rows, unless every row is in every epoch."""
        self.epoch = epoch
        if self.sampling is not None:
            self.drawn = self.sampling.draw(np.asarray(self.first_rows), self._rows_to_draw, epoch)

    def __len__(self) -> int:
        return len(self.first_windows) - 1 if self.drawn is None else len(self.drawn)

    def __getitem__(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        index %= len(self)
        return index if self.drawn is None else int(self.drawn[index])

    def windows_of(self, rows: Sequence[Any] | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of rows [B]: numbers that tell them apart, int64 [B]; how many windows each has, int64 [B]; and where these
        start and end, int64 [windows, 2]."""
        rows = np.asarray(rows, np.int64)
        firsts, counts = self.first_windows[rows], self.first_windows[rows + 1] - self.first_windows[rows]
        return rows, counts, self.bounds[_ranges(firsts, counts)]


def packed_rows(
    bounds: np.ndarray, max_history: int, with_targets: bool, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """
    Puts windows into rows in random order.

    Args:
        bounds (`np.ndarray`): int64 [windows, 2] starts and ends.
        max_history (`int`), with_targets (`bool`): see [`PackedSequences`].
        rng (`np.random.Generator`): of the order.

    Returns:
        int64 [windows, 2], the windows in that order, and int64 [rows + 1], the first window of each row.
    """
    bounds = bounds[rng.permutation(len(bounds))]
    sizes = np.diff(bounds, axis=1)[:, 0] - (not with_targets)
    return bounds, _fill_rows(sizes, max_history + with_targets)


def _fill_rows(sizes: np.ndarray, capacity: int) -> np.ndarray:
    """Puts windows of `sizes` items into rows, in order, a new row when one does not fit: int64 [rows + 1], the first
    window of each row."""
    ends = np.cumsum(sizes)
    firsts = [0]
    while firsts[-1] < len(sizes):
        filled = ends[firsts[-1] - 1] if firsts[-1] else 0
        firsts.append(int(np.searchsorted(ends, filled + capacity, side="right")))
    return np.array(firsts, np.int64)


class PackedCollator:
    """Makes a batch of a list of rows.

    Args:
        sequences (`PackedSequences`): the dataset that the rows are from.
        valid_codes (`ValidCodes`, *optional*): for a model that normalises over items.
        horizon (`int`, *optional*, defaults to 1): items that follow a position of which its target is drawn, see
            [`target_positions`]; 1: the next item.
        seed (`int`, *optional*, defaults to 0): of that draw, beside the epoch and the rows of the batch.
        content (`np.ndarray` of shape `(items, width)`, *optional*): content vectors of the items, for a model that
            reads them.

    Raises:
        ValueError: a horizon below 1, or above it where the rows hold their targets, or content of other items.

    Returns:
        `dict` of int64 tensors of shape `(B, H·L)`: `input_ids`; `attention_mask`, the number of a token's sequence
        within its row, from 1, and 0 on padding (on the right); and `labels`: the tokens of the items that follow, or
        where the rows hold their targets, these in their own places and -100 for each sequence's first item (which
        has no history: every item after it is a target, and it is none). With `valid_codes` also these, bool
        `(B, H·L, codes)`; with `content` that of the items, `(B, H, width)`, zero on padding.
    """

    def __init__(
        self,
        sequences: PackedSequences,
        valid_codes: ValidCodes | None = None,
        horizon: int = 1,
        seed: int = 0,
        content: np.ndarray | None = None,
    ):
        check_horizon(horizon)
        if horizon > 1 and sequences.with_targets:
            raise ValueError(
                f"A decoder's targets are the items that it reads next: it has no longer horizon, got {horizon}."
            )
        if content is not None and (content.ndim != 2 or len(content) != len(sequences.token_table)):
            raise ValueError(
                f"Expected a content vector for each of {len(sequences.token_table)} items, got shape {content.shape}."
            )
        self.sequences = sequences
        self.valid_codes = valid_codes
        self.horizon, self.seed = horizon, seed
        self.content = content

    def __call__(self, rows: Sequence[Any] | np.ndarray) -> dict[str, torch.Tensor]:
        data = self.sequences
        names, counts, bounds = data.windows_of(rows)
        starts, ends = bounds.T
        sizes = ends - starts - (not data.with_targets)
        positions = _ranges(starts, sizes)
        # the row, the column and the sequence of every item
        row = np.repeat(np.repeat(np.arange(len(rows)), counts), sizes)
        sequence = np.repeat(_ranges(np.ones_like(counts), counts), sizes)
        in_row = np.bincount(row, minlength=len(rows))
        column = _ranges(np.zeros_like(in_row), in_row)
        shape = len(rows), int(in_row.max())
        items, following = (np.full((*shape, data.num_levels), fill) for fill in (PAD_TOKEN_ID, NOT_LABELLED))
        items[row, column] = data.token_table[data.items[positions]]
        # an item's label stands in its own place, or in that of the item before
        predicted = np.full(len(positions), True)
        if data.with_targets:
            predicted[np.cumsum(sizes) - sizes] = False
            targets = data.items[positions[predicted]]
        else:
            seed = [self.seed, data.epoch, *names.tolist()]
            targets = data.items[target_positions(positions, data.offsets, self.horizon, seed)]
        label_row, label_column = row[predicted], column[predicted]
        following[label_row, label_column] = data.token_table[targets]
        sequences = np.zeros(shape, np.int64)
        sequences[row, column] = sequence
        batch = {
            "input_ids": items.reshape(len(rows), -1),
            "attention_mask": np.repeat(sequences, data.num_levels, axis=1),
            "labels": following.reshape(len(rows), -1),
        }
        if self.content is not None:
            content = np.zeros((*shape, self.content.shape[1]), self.content.dtype)
            content[row, column] = self.content[data.items[positions]]
            batch["content"] = content
        if self.valid_codes is not None:
            valid = np.zeros((*items.shape, self.valid_codes.most_codes), bool)
            valid[label_row, label_column] = self.valid_codes(targets)
            batch["valid_codes"] = valid.reshape(*batch["labels"].shape, -1)
        return {name: torch.from_numpy(array) for name, array in batch.items()}


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The ranges `starts[i], starts[i] + 1, …` of `lengths[i]` numbers each, one after the other."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)
