"""Batches of contrastive pre-training: histories with their next item, and the same histories made poorer.

Of a batch all sequences lose items, or items of all sequences lose words (Hou et al. 2022, section 2.2.2); a coin
decides which for each batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from modeling_utgrec import SequentialConfig
from trainers.training_data.sequence_windows import SequenceCollator, SequenceWindows

ITEM_DROP = 1  # tells these random numbers from those of targets


def drop_items(input_ids: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Closes sequences up over the items that are dropped.

    Args:
        input_ids (`np.ndarray`): int `[B, H]` tokens, padded on the left with 0.
        kept (`np.ndarray`): bool `[B, H]`, which tokens stay; of padding it doesn't matter.

    Returns:
        int `[B, H']` the tokens that stay, in their order, padded on the left to the longest row.
    """
    kept = kept & (input_ids > 0)
    order = np.argsort(kept, axis=1, kind="stable")  # first what goes
    closed = np.take_along_axis(np.where(kept, input_ids, 0), order, axis=1)
    return closed[:, closed.shape[1] - int(kept.sum(axis=1).max(initial=0)) :]


class AugmentedCollator(SequenceCollator):
    """[`SequenceCollator`] of windows of one target each, with `augmented_ids` beside them.

    What is drawn depends on the seed, the epoch and the batch's windows alone.

    Args:
        windows, config, seed, horizon: see [`SequenceCollator`]; the configuration has `item_drop_share` and
            `drop_ratio`.
        fewer_words (`np.ndarray`, *optional*): float `[items, width]` embeddings of the items' texts without some of
            their words. Without them every batch loses items.

    Returns:
        `dict` of tensors: those of [`SequenceCollator`], `augmented_ids`, padded on the left, and, where items lost
        words, `augmented_content`: a token `num_items + r` stands for its r-th row, from 1.
    """

    def __init__(
        self,
        windows: SequenceWindows,
        config: SequentialConfig,
        seed: int = 0,
        fewer_words: np.ndarray | None = None,
        horizon: int = 1,
    ):
        super().__init__(windows, config, seed, horizon)
        self.fewer_words = fewer_words

    def __call__(self, bounds: Sequence[np.ndarray] | np.ndarray) -> dict[str, torch.Tensor]:
        batch = super().__call__(bounds)
        config, input_ids = self.config, batch["input_ids"].numpy()
        ends = np.asarray(bounds, np.int64)[:, 1]
        rng = np.random.default_rng([self.seed, self.windows.epoch, ITEM_DROP, *ends.tolist()])
        by_items = rng.random() < config.item_drop_share or self.fewer_words is None
        chosen = (rng.random(input_ids.shape) < config.drop_ratio) & (input_ids > 0)
        if by_items:
            first = np.argmax(input_ids > 0, axis=1)
            chosen[np.arange(len(input_ids)), first] = False
            batch["augmented_ids"] = torch.from_numpy(drop_items(input_ids, ~chosen))
        elif chosen.any():
            assert self.fewer_words is not None
            tokens, numbers = np.unique(input_ids[chosen], return_inverse=True)
            augmented = input_ids.copy()
            augmented[chosen] = self.windows.num_items + 1 + numbers
            batch["augmented_ids"] = torch.from_numpy(augmented)
            batch["augmented_content"] = torch.from_numpy(self.fewer_words[tokens - 1])
        else:
            batch["augmented_ids"] = batch["input_ids"].clone()
        return batch
