"""Training pairs of generative recommenders: every position of every training sequence, gathered on the fly.

A pair is a target (the item at a position ≥ 1 of a sequence) and its history (the items before it in the same
sequence, cut to the most recent ones). Nothing is copied: a pair is a position in the flat array of interactions, and
a batch of positions becomes tokens in one gather.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from tokenization_items.histories import PAD_TOKEN_ID, encode_windows
from trainers.data.interactions import Interactions
from trainers.training_data.domain_sampling import DomainSampling
from trainers.training_data.target_horizon import check_horizon, target_positions


class NextItemWindows(Dataset):
    """Dataset of next-item targets (UTGRec, section 2: "every position of every training sequence").

    Element `i` is an integer, the target's position in `interactions.items`; [`NextItemCollator`] makes tokens of it.
    Memory: the interactions (shared), the token table (shared) and one integer per sequence.

    Args:
        interactions (`Interactions`): the *training part*, `Interactions.training_part()`. Sequences of one item or
            none have no target and are passed over.
        token_table (`np.ndarray`): int [n, L] token ids of the items' semantic IDs (`ItemIndex.token_table`, in the
            order of `interactions.item_ids`).
        max_history (`int`, *optional*, defaults to 20): items of history.
        sampling (`DomainSampling`, *optional*): makes each epoch draw its targets anew, of each domain so many;
            [`RecommenderTrainer`] announces the epochs by `set_epoch`. By default every target counts once.

    Raises:
        ValueError: table and catalogue differ in size, tokens that are padding, no targets, `max_history` below 1, or
            the domains to sample from have another number of sequences.

    Example:

    ```python
    >>> windows = NextItemWindows(interactions.training_part(), index.token_table)
    >>> batch = NextItemCollator(windows)([windows[0], windows[1]])
    >>> batch["labels"].shape
    torch.Size([2, 3])
    ```
    """

    def __init__(
        self,
        interactions: Interactions,
        token_table: np.ndarray,
        max_history: int = 20,
        sampling: DomainSampling | None = None,
    ):
        token_table = np.asarray(token_table)
        if token_table.ndim != 2 or len(token_table) != interactions.num_items:
            raise ValueError(
                f"Expected a token table [{interactions.num_items}, L] for the {interactions.num_items} items of the "
                f"catalogue, got shape {token_table.shape}: take ItemIndex.token_table in the order of the catalogue."
            )
        if (token_table <= PAD_TOKEN_ID).any():
            row = int(np.flatnonzero((token_table <= PAD_TOKEN_ID).any(axis=1))[0])
            raise ValueError(
                f"Row {row} of the token table holds {token_table[row].tolist()}: tokens must be above "
                f"{PAD_TOKEN_ID}, the padding (did you pass level-local codes?)."
            )
        if max_history < 1:
            raise ValueError(f"max_history must be at least 1, got {max_history}.")
        self.items = interactions.items
        self.offsets = interactions.offsets
        self.token_table = token_table
        self.max_history = max_history
        # target i of all belongs to the sequence s with first_targets[s] <= i < first_targets[s + 1]
        counts = np.maximum(np.diff(self.offsets) - 1, 0)
        self.first_targets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        if not self.num_targets:
            raise ValueError("No training targets: no sequence has two items or more.")
        self.sampling = sampling
        self.epoch = 0
        if sampling is not None:
            sampling.check(interactions.num_users)
        self.drawn: np.ndarray | None = None  # int64 [targets of an epoch] targets of this epoch
        self.set_epoch(0)

    @property
    def num_targets(self) -> int:
        """All targets, whatever the sampling."""
        return int(self.first_targets[-1])

    @property
    def num_levels(self) -> int:
        return self.token_table.shape[1]

    def set_epoch(self, epoch: int) -> None:
        """The number of the epoch, from which targets of a longer horizon are drawn; and, unless every target is used
        in every epoch, which ones are."""
        self.epoch = epoch
        if self.sampling is not None:
            firsts = self.first_targets[self.sampling.first_sequences]
            counts = self.sampling.counts(np.diff(firsts), self.num_targets)
            self.drawn = self.sampling.draw(firsts, counts, epoch)

    def __len__(self) -> int:
        return self.num_targets if self.drawn is None else len(self.drawn)

    def __getitem__(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"target {index} of {len(self)}")
        return int(self.__getitems__([index % len(self)])[0])

    def __getitems__(self, indices: Sequence[int]) -> np.ndarray:
        """Positions of a batch of targets, int64 [B] (PyTorch's data loader calls this instead of `__getitem__`)."""
        targets = np.asarray(indices, np.int64)
        if self.drawn is not None:
            targets = self.drawn[targets]
        sequences = np.searchsorted(self.first_targets, targets, side="right") - 1
        return self.offsets[sequences] + 1 + targets - self.first_targets[sequences]

    def history_starts(self, positions: np.ndarray) -> np.ndarray:
        """First positions of the targets' histories, int64 [B]: never before the start of the target's sequence."""
        sequences = np.searchsorted(self.offsets, positions, side="right") - 1
        return np.maximum(self.offsets[sequences], positions - self.max_history)


class NextItemCollator:
    """Makes a batch of a list of target positions.

    Args:
        windows (`NextItemWindows`): the dataset that the positions are from.
        valid_codes (`ValidCodes`, *optional*): for a model that normalises over items.
        horizon (`int`, *optional*, defaults to 1): items that follow a history of which its target is drawn, see
            [`target_positions`]; 1: the next item.
        seed (`int`, *optional*, defaults to 0): of that draw, beside the epoch and the histories of the batch.

    Raises:
        ValueError: a horizon below 1.

    Returns:
        `dict` of int64 tensors: `input_ids` and `attention_mask` of shape `(B, H·L)`, padded on the right with 0 to
        the longest history of the batch, and `labels` of shape `(B, L)`, the target's tokens. With `valid_codes` also
        these, bool `(B, L, codes)`.
    """

    def __init__(
        self, windows: NextItemWindows, valid_codes: ValidCodes | None = None, horizon: int = 1, seed: int = 0
    ):
        check_horizon(horizon)
        self.windows = windows
        self.valid_codes = valid_codes
        self.horizon, self.seed = horizon, seed

    def __call__(self, positions: Sequence[int] | np.ndarray) -> dict[str, torch.Tensor]:
        windows = self.windows
        ends = np.asarray(positions, np.int64)
        input_ids, attention_mask = encode_windows(
            windows.items, windows.history_starts(ends), ends, windows.token_table
        )
        seed = [self.seed, windows.epoch, *ends.tolist()]
        targets = target_positions(ends - 1, windows.offsets, self.horizon, seed)
        labels = windows.token_table[windows.items[targets]].astype(np.int64)
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        if self.valid_codes is not None:
            batch["valid_codes"] = self.valid_codes(windows.items[targets])
        return {name: torch.from_numpy(array) for name, array in batch.items()}


class ValidCodes:
    """The codes that some item has after each prefix of each item.

    Args:
        token_table (`np.ndarray`): int [n, L] token ids of the items' semantic IDs. Items of several domains may share
            semantic IDs.
        level_sizes, level_offsets: number of codes of each level, and its first token.

    Memory: a bool for every prefix and code of the level, and L integers for every item.
    """

    def __init__(self, token_table: np.ndarray, level_sizes: Sequence[int], level_offsets: Sequence[int]):
        codes = np.asarray(token_table, np.int64) - np.asarray(level_offsets)
        self.most_codes = max(level_sizes)
        self.prefixes = np.zeros(codes.shape, np.int64)  # number of the item's prefix at each level
        self.exists = []  # of each level: bool [prefixes, most_codes]
        for level, size in enumerate(level_sizes):
            if level:
                keys = self.prefixes[:, level - 1] * level_sizes[level - 1] + codes[:, level - 1]
                self.prefixes[:, level] = np.unique(keys, return_inverse=True)[1]
            exists = np.zeros((int(self.prefixes[:, level].max()) + 1, self.most_codes), bool)
            if codes[:, level].min() < 0 or codes[:, level].max() >= size:
                raise ValueError(f"Codes of level {level} must be 0 to {size - 1}: are they another tokenizer's?")
            exists[self.prefixes[:, level], codes[:, level]] = True
            self.exists.append(exists)

    def __call__(self, items: np.ndarray) -> np.ndarray:
        """Bool [..., L, most_codes] of item rows [...]: the codes that may stand in place of the item's own."""
        return np.stack([exists[self.prefixes[items, level]] for level, exists in enumerate(self.exists)], axis=-2)


@dataclass
class TrainingData:
    """Sequences and semantic IDs of one domain, for the training of a generative recommender.

    Args:
        interactions (`Interactions`): the *training part*, `Interactions.training_part()`.
        token_table (`np.ndarray`): int [n, L] token ids of the items' semantic IDs, in the order of
            `interactions.item_ids` (`ItemIndex.encode_batch`).
        content (`np.ndarray`, *optional*): [n, width] content vectors of the same items, for a model that reads them.
    """

    interactions: Interactions
    token_table: np.ndarray
    content: np.ndarray | None = None


def join_domains(domains: Mapping[str, TrainingData]) -> TrainingData:
    """Catalogues and sequences of several domains one after the other, for pre-training.

    Every target of every domain counts once, so larger domains have more weight (UTGRec mixes all domains alike).

    Args:
        domains (`Mapping[str, TrainingData]`): each domain by its name. Semantic IDs may occur in several domains.

    Returns:
        [`TrainingData`] of all domains, with a token table [Σ n_d, L].

    Raises:
        ValueError: no domains, or (naming the domain) different semantic ID lengths, a table that does not fit, or
            content that another domain lacks or has in another width.
    """
    if not domains:
        raise ValueError("No domains to mix: give at least one.")
    tables = [np.asarray(domain.token_table) for domain in domains.values()]
    for (name, domain), table in zip(domains.items(), tables, strict=True):
        if table.shape != (domain.interactions.num_items, tables[0].shape[-1]):
            raise ValueError(
                f"Domain {name!r}: expected a token table [{domain.interactions.num_items}, {tables[0].shape[-1]}] "
                f"(all domains share one item tokenizer), got {table.shape}."
            )
    widths = {name: None if each.content is None else each.content.shape[1] for name, each in domains.items()}
    if len(set(widths.values())) > 1:
        raise ValueError(f"Domains share one kind of content vectors or have none, got these widths: {widths}.")
    contents = [domain.content for domain in domains.values() if domain.content is not None]
    return TrainingData(
        Interactions.concatenate([domain.interactions for domain in domains.values()]),
        np.concatenate(tables),
        np.concatenate(contents) if contents else None,
    )
