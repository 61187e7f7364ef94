"""Item memory as a ranker of its own: what a mixture of network and memory has without the network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from modeling_utgrec import ItemTrie
from modeling_utgrec.generation_memory import UserMemory
from modeling_utgrec.item_memory import ItemMemory
from trainers.rankers.scoring import ScoringRanker


class MemoryRanker(ScoringRanker):
    """
    Ranks by the scores m of an [`ItemMemory`], as a search with mixing weight 1 does. Items that are in no row of the
    history score 0, in catalogue order.

    Args:
        memory ([`ItemMemory`]): in catalogue order.
        batch_size (`int`, *optional*, defaults to 64): users at a time.
        name (`str`, *optional*, defaults to `"memory"`): name in result tables.
    """

    def __init__(self, memory: ItemMemory, batch_size: int = 64, name: str = "memory"):
        super().__init__(_MemoryScorer(memory), name, memory.settings.max_history, batch_size)


class _MemoryScorer:
    """Float64 scores of all items, `[B, n]`, made at once for each batch of users."""

    def __init__(self, memory: ItemMemory):
        self.memory, self.num_items = memory, memory.num_items
        self.trie = flat_trie(memory.num_items).to(memory.device)

    def encode(self, histories: Sequence[np.ndarray]) -> torch.Tensor:
        rows = torch.from_numpy(padded_left(histories)).to(self.memory.device)
        users = UserMemory(self.memory, rows, self.trie)
        scores = users.scores.new_zeros(len(rows), self.num_items + 1)  # the last column is waste
        scores.scatter_(1, users.positions, users.scores)
        return scores[:, : self.num_items]

    def scores(self, users: torch.Tensor, items: slice) -> torch.Tensor:
        return users[:, items]


def flat_trie(num_items: int) -> ItemTrie:
    """Semantic IDs of one level, the row of each item: for what needs a trie of a catalogue without semantic IDs."""
    return ItemTrie(np.arange(num_items)[:, None], [num_items], [0])


def padded_left(histories: Sequence[np.ndarray]) -> np.ndarray:
    """Histories of item rows as one int64 `[B, H]`, the latest last, -1 before the first."""
    longest = max(map(len, histories))
    return np.stack(
        [np.pad(each.astype(np.int64), (longest - len(each), 0), constant_values=-1) for each in histories]
    )
