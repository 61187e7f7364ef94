"""Training rows of generative recommenders whose encoder is causal: whole sequences, several to a row.

One pass over a row trains on every item but each sequence's first, where [`NextItemWindows`] makes a row of its own
for every target. The loss is the same as long as a sequence is no longer than the history: rows are windows of at most
`max_history` items, and behind a window's border the history begins anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from tokenization_items.histories import PAD_TOKEN_ID
from trainers.interactions import Interactions
from trainers.sequential_data import NOT_LABELLED, SequenceWindows
from trainers.valid_codes import ValidCodes


class PackedSequences(Dataset):
    """Dataset of rows of up to `max_history` items, each filled with whole windows of the training sequences.

    Rows hold about as many items each, so batches have little padding whatever the lengths of the sequences. Element
    `i` is the row's number; [`PackedCollator`] makes tokens of it. Which windows share a row is drawn once.

    Args:
        interactions (`Interactions`): the *training part*.
        token_table (`np.ndarray`): int [n, L] token ids of the items' identifiers, in the order of
            `interactions.item_ids`.
        max_history (`int`, *optional*, defaults to 20): items of a row.
        seed (`int`, *optional*, defaults to 0): of the draw.

    Raises:
        ValueError: table and catalogue differ in size, or no sequence has two items.
    """

    def __init__(self, interactions: Interactions, token_table: np.ndarray, max_history: int = 20, seed: int = 0):
        self.token_table = np.asarray(token_table)
        if self.token_table.ndim != 2 or len(self.token_table) != interactions.num_items:
            raise ValueError(
                f"Expected a token table [{interactions.num_items}, L] for the {interactions.num_items} items of the "
                f"catalogue, got shape {self.token_table.shape}."
            )
        windows = SequenceWindows(interactions, "all", max_history)
        order = np.random.default_rng(seed).permutation(len(windows))
        self.items = interactions.items
        self.max_history = max_history
        self.bounds = windows.__getitems__(order)  # int64 [windows, 2]
        self.first_windows = _fill_rows(self.bounds[:, 1] - self.bounds[:, 0] - 1, max_history)

    @property
    def num_levels(self) -> int:
        return self.token_table.shape[1]

    @property
    def num_targets(self) -> int:
        return int((self.bounds[:, 1] - self.bounds[:, 0] - 1).sum())

    def __len__(self) -> int:
        return len(self.first_windows) - 1

    def __getitem__(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return index % len(self)


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

    Returns:
        `dict` of int64 tensors of shape `(B, H·L)`: `input_ids`; `attention_mask`, the number of a token's sequence
        within its row, from 1, and 0 on padding (on the right); and `labels`, the tokens of the items that follow.
        With `valid_codes` also these, bool `(B, H·L, codes)`.
    """

    def __init__(self, sequences: PackedSequences, valid_codes: ValidCodes | None = None):
        self.sequences = sequences
        self.valid_codes = valid_codes

    def __call__(self, rows: Sequence[int] | np.ndarray) -> dict[str, torch.Tensor]:
        data = self.sequences
        rows = np.asarray(rows, np.int64)
        firsts, counts = data.first_windows[rows], data.first_windows[rows + 1] - data.first_windows[rows]
        window = _ranges(firsts, counts)
        starts, sizes = data.bounds[window, 0], data.bounds[window, 1] - data.bounds[window, 0] - 1
        positions = _ranges(starts, sizes)
        # the row, the column and the sequence of every item
        row = np.repeat(np.repeat(np.arange(len(rows)), counts), sizes)
        sequence = np.repeat(_ranges(np.ones_like(counts), counts), sizes)
        in_row = np.bincount(row, minlength=len(rows))
        column = _ranges(np.zeros_like(in_row), in_row)
        shape = len(rows), int(in_row.max())
        items, following = (np.full((*shape, data.num_levels), fill) for fill in (PAD_TOKEN_ID, NOT_LABELLED))
        items[row, column] = data.token_table[data.items[positions]]
        following[row, column] = data.token_table[data.items[positions + 1]]
        sequences = np.zeros(shape, np.int64)
        sequences[row, column] = sequence
        batch = {
            "input_ids": items.reshape(len(rows), -1),
            "attention_mask": np.repeat(sequences, data.num_levels, axis=1),
            "labels": following.reshape(len(rows), -1),
        }
        if self.valid_codes is not None:
            valid = np.zeros((*items.shape, self.valid_codes.most_codes), bool)
            valid[row, column] = self.valid_codes(data.items[positions + 1])
            batch["valid_codes"] = valid.reshape(*batch["labels"].shape, -1)
        return {name: torch.from_numpy(array) for name, array in batch.items()}


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The ranges `starts[i], starts[i] + 1, …` of `lengths[i]` numbers each, one after the other."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)
