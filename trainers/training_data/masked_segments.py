"""Batches of S3-Rec's pre-training: prefixes with masked items, and segments of them (Zhou et al. 2020, section
4.2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from modeling_utgrec import SequentialConfig
from trainers.training_data.sequence_windows import SequenceCollator, SequenceWindows

MASKING = 2  # tells these random numbers from those of targets


class MaskedSegmentsCollator(SequenceCollator):
    """
    Makes a batch of prefixes of training sequences, of two items at least. Each but the last item is masked with
    probability `mask_ratio`, the last one always: its place is the one that recommends.

    A segment of 1 to half of the items, at any place, is masked as a whole; another one of its length is cut from the
    training sequences of all users, one after the other.

    Args:
        windows, config, seed: see [`SequenceCollator`]; the windows are of one target each, the configuration has
            `mask_token_id` and `mask_ratio`.
        horizon (`int`, *optional*, defaults to 1): 1 alone, as of `"cloze"` windows.

    Raises:
        ValueError: another horizon.

    Returns:
        `dict` of int64 tensors `(B, H)`, padded on the left: `input_ids`, `attention_mask`, `original_ids`,
        `segment_ids`, `positive_ids` and `negative_ids`, see [`S3RecForPreTraining`].
    """

    def __init__(self, windows: SequenceWindows, config: SequentialConfig, seed: int = 0, horizon: int = 1):
        if horizon != 1:
            raise ValueError(f"What predicts masked items has no horizon of targets: leave it at 1, got {horizon}.")
        super().__init__(windows, config, seed)

    def __call__(self, bounds: Sequence[np.ndarray] | np.ndarray) -> dict[str, torch.Tensor]:
        starts, ends = np.asarray(bounds, np.int64).T
        starts = np.maximum(starts, ends - self.windows.max_history)
        original, mask = self._encode(starts, ends)
        rng = np.random.default_rng([self.seed, self.windows.epoch, MASKING, *ends.tolist()])
        token = self.config.mask_token_id
        hidden = (rng.random(original.shape) < self.config.mask_ratio) & (mask > 0)
        hidden[:, -1] = True
        rows = {
            "input_ids": np.where(hidden, token, original),
            "attention_mask": mask,
            "original_ids": original,
        }
        rows |= self._segments(original, mask, rng)
        return {name: torch.from_numpy(array) for name, array in rows.items()}

    def _segments(self, original: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        token, width = self.config.mask_token_id, original.shape[1]
        present = mask.sum(axis=1)
        long = present > 1
        original, mask, present = original[long], mask[long], present[long]
        lengths = rng.integers(1, present // 2 + 1)
        starts = width - present + rng.integers(0, present - lengths + 1)
        columns = np.arange(width)
        inside = (columns >= starts[:, None]) & (columns < (starts + lengths)[:, None])
        first = rng.integers(0, len(self.windows.items) - lengths + 1)
        others = np.clip(first[:, None] + columns - starts[:, None], 0, len(self.windows.items) - 1)
        others = self.tokens[self.windows.items[others], 0]
        around = np.where(mask > 0, token, 0)
        return {
            "segment_ids": np.where(inside, token, original),
            "positive_ids": np.where(inside, original, around),
            "negative_ids": np.where(inside, others, around),
        }
