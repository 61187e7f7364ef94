"""Training batches of sequential recommenders: windows of the training sequences, gathered on the fly.

Nothing is copied: a window is two positions in the flat array of interactions, and a batch of windows becomes tokens
in one gather. Item row `r` is token `r + 1`, padding (on the left) is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from modeling_utgrec import SequentialConfig
from tokenization_items.histories import encode_histories, encode_windows
from trainers.data.interactions import Interactions
from trainers.training_data.target_horizon import check_horizon, target_positions

NOT_LABELLED = -100
TrainingTargets = Literal["all", "last", "cloze"]


def token_table(num_items: int) -> np.ndarray:
    """int64 [n, 1]: the one token of every item."""
    return np.arange(1, num_items + 1)[:, None]


def encode_left_padded(histories: Sequence[np.ndarray], num_items: int, max_history: int) -> dict[str, torch.Tensor]:
    """Histories of item rows as inputs of a sequential recommender.

    Args:
        histories (`Sequence[np.ndarray]`): B int arrays of item rows, oldest first.
        num_items (`int`): size of the catalogue.
        max_history (`int`): items to keep, counted from the most recent one.

    Returns:
        `input_ids` and `attention_mask`, int64 `(B, H)` with H the longest history, padded on the left.

    Raises:
        ValueError: as [`encode_histories`].
    """
    input_ids, mask = _left_padded(*encode_histories(histories, token_table(num_items), max_history))
    return {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(mask)}


def _left_padded(tokens: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Moves the padding of int [B, H] from the right to the left."""
    columns = (np.arange(tokens.shape[1]) + mask.sum(axis=1, keepdims=True)) % max(tokens.shape[1], 1)
    return np.take_along_axis(tokens, columns, axis=1), np.take_along_axis(mask, columns, axis=1)


class SequenceWindows(Dataset):
    """Dataset of windows of the training sequences. Sequences of one item or none are passed over.

    What the windows are depends on `targets` (see [`SequentialForNextItem`]); windows go back from the end of a
    sequence and only its first window is shorter than the others:

    - `"all"`: up to `max_history + 1` items. Consecutive windows share one item, the last target of one and the first
      input of the next, so that every item but a sequence's first is a target exactly once.
    - `"last"`: for every item but a sequence's first a window that ends with it: the target and up to `max_history`
      items before it.
    - `"cloze"`: up to `max_history + 1` items; every item is in exactly one window.

    Element `i` is a pair of positions in `interactions.items`: the window's start and its end (exclusive).

    Args:
        interactions (`Interactions`): the *training part*, `Interactions.training_part()`.
        targets (`str`): `"all"`, `"last"` or `"cloze"`.
        max_history (`int`): items of history.

    Raises:
        ValueError: unknown `targets`, no sequence with two items, or `max_history` below 1.

    Example:

    ```python
    >>> windows = SequenceWindows(interactions.training_part(), "all", max_history=50)
    >>> windows[0]
    array([0, 7])
    ```
    """

    def __init__(self, interactions: Interactions, targets: TrainingTargets, max_history: int):
        if max_history < 1:
            raise ValueError(f"max_history must be at least 1, got {max_history}.")
        self.first_windows = _first_windows(interactions.offsets, targets, max_history)
        self.items = interactions.items
        self.offsets = interactions.offsets
        self.num_items = interactions.num_items
        self.targets = targets
        self.max_history = max_history
        self.epoch = 0
        if not len(self):
            raise ValueError("No training windows: no sequence has two items or more.")

    def set_epoch(self, epoch: int) -> None:
        """The number of the epoch, from which masks and targets are drawn."""
        self.epoch = epoch

    def __len__(self) -> int:
        return int(self.first_windows[-1])

    def __getitem__(self, index: int) -> np.ndarray:
        if not -len(self) <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        return self.__getitems__([index % len(self)])[0]

    def __getitems__(self, indices: Sequence[int]) -> np.ndarray:
        """Starts and ends of a batch of windows, int64 [B, 2] (PyTorch's data loader calls this)."""
        windows = np.asarray(indices, np.int64)
        return _bounds(windows, self.first_windows, self.offsets, self.targets, self.max_history)


def window_bounds(offsets: np.ndarray, targets: TrainingTargets, max_history: int) -> np.ndarray:
    """Starts and ends of all windows of sequences, int64 [windows, 2]; `offsets` [sequences + 1] are their first
    positions and the end of the last."""
    first_windows = _first_windows(offsets, targets, max_history)
    return _bounds(np.arange(first_windows[-1]), first_windows, offsets, targets, max_history)


def _stride(targets: TrainingTargets, max_history: int) -> int:
    strides = {"all": max_history, "last": 1, "cloze": max_history + 1}
    if targets not in strides:
        raise ValueError(f"targets must be one of {', '.join(strides)}, got {targets!r}.")
    return strides[targets]


def _first_windows(offsets: np.ndarray, targets: TrainingTargets, max_history: int) -> np.ndarray:
    """int64 [sequences + 1]: window i of all belongs to the sequence s with `first[s] <= i < first[s + 1]`."""
    lengths = np.diff(offsets)
    predicted = np.where(lengths > 1, lengths - (targets != "cloze"), 0)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(-(-predicted // _stride(targets, max_history)))])


def _bounds(
    windows: np.ndarray, first_windows: np.ndarray, offsets: np.ndarray, targets: TrainingTargets, max_history: int
) -> np.ndarray:
    sequences = np.searchsorted(first_windows, windows, side="right") - 1
    ends = offsets[sequences + 1] - (windows - first_windows[sequences]) * _stride(targets, max_history)
    return np.stack([np.maximum(offsets[sequences], ends - max_history - 1), ends], axis=1)


class SequenceCollator:
    """Makes a batch of a list of windows.

    Masks of `"cloze"` windows, and targets of a longer horizon, are drawn from the seed, the epoch and the windows of
    the batch: a resumed training sees those of an uninterrupted one.

    Args:
        windows (`SequenceWindows`): the dataset that the windows are from.
        config (`SequentialConfig`): the model's; for `"cloze"` it has `mask_token_id`, `mask_ratio` and
            `last_item_ratio` (see [`BERT4RecConfig`]).
        seed (`int`, *optional*, defaults to 0): of the masks and targets.
        horizon (`int`, *optional*, defaults to 1): items that follow a position of which its target is drawn, see
            [`target_positions`]; 1: the next item.

    Raises:
        ValueError: a horizon below 1, or above it for `"cloze"` windows, whose targets are the masked items.

    Returns:
        `dict` of int64 tensors of shape `(B, H)`, padded on the left to the longest window: `input_ids`,
        `attention_mask` and `labels` (-100 for none).
    """

    def __init__(self, windows: SequenceWindows, config: SequentialConfig, seed: int = 0, horizon: int = 1):
        check_horizon(horizon)
        if horizon > 1 and windows.targets == "cloze":
            raise ValueError(
                f"A model that predicts masked items has no horizon of targets: leave it at 1, got {horizon}."
            )
        self.horizon = horizon
        self.windows = windows
        self.config = config
        self.seed = seed
        self.tokens = token_table(windows.num_items)

    def __call__(self, bounds: Sequence[np.ndarray] | np.ndarray) -> dict[str, torch.Tensor]:
        starts, ends = np.asarray(bounds, np.int64).T
        if self.windows.targets == "cloze":
            input_ids, mask = self._encode(starts, ends)
            hidden = self._hidden(mask, ends)
            labels = np.where(hidden, input_ids, NOT_LABELLED)
            input_ids = np.where(hidden, self.config.mask_token_id, input_ids)
        else:
            input_ids, mask = self._encode(starts, ends - 1)
            # the places of the items of `input_ids`, window after window
            read = np.flatnonzero(mask)
            inputs = ends[read // mask.shape[1]] - 1 - (mask.shape[1] - read % mask.shape[1])
            seed = [self.seed, self.windows.epoch, *ends.tolist()]
            targets = target_positions(inputs, self.windows.offsets, self.horizon, seed)
            labels = np.full(mask.shape, NOT_LABELLED)
            labels.flat[read] = self.tokens[self.windows.items[targets], 0]
            if self.windows.targets == "last":
                labels[:, :-1] = NOT_LABELLED
        batch = {"input_ids": input_ids, "attention_mask": mask, "labels": labels}
        return {name: torch.from_numpy(array) for name, array in batch.items()}

    def _encode(self, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _left_padded(*encode_windows(self.windows.items, starts, ends, self.tokens))

    def _hidden(self, mask: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """bool [B, H]: which items are masked, at least one in each window."""
        rng = np.random.default_rng([self.seed, self.windows.epoch, *ends.tolist()])
        hidden = (rng.random(mask.shape) < self.config.mask_ratio) & (mask > 0)
        # a window without any mask gets one at a random item
        columns = mask.shape[1] - 1 - rng.integers(0, mask.sum(axis=1))
        rows = np.flatnonzero(~hidden.any(axis=1))
        hidden[rows, columns[rows]] = True
        last_only = rng.random(len(mask)) < self.config.last_item_ratio
        hidden[last_only, :-1] = False
        hidden[last_only, -1] = True
        return hidden
