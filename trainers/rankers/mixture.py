"""Mixture of an item memory with any model that gives scores, item by item over the whole catalogue.

What the beam search does prefix by prefix for generative recommenders: `P(i) = (1 - g)·P_net(i) + g·p_mem(i)`, here
with `P_net` the softmax of the model's scores over all items. See `modeling_utgrec/generation_memory.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from modeling_utgrec.generation_memory import LOG_REMAINDER, UserMemory, log_normalizer, log_weights
from modeling_utgrec.item_memory import ItemMemory
from trainers.rankers.item_memory import flat_trie, padded_left
from trainers.rankers.scoring import Scorer, ScoringRanker


class _Users(NamedTuple):
    """
    What a batch of users is scored by.

    Args:
        users: what the model's scorer gave.
        log_total (`torch.DoubleTensor` of shape `(B, 1)`): log of the sum of the exponentials of the model's scores.
        rows (`torch.LongTensor` of shape `(B, C)`): items that the memory says something of, in order; then the
            number of items.
        log_shares (`torch.DoubleTensor` of shape `(B, C)`): log p_mem of them; -inf behind them.
        log_rest (`torch.DoubleTensor` of shape `(B, 1)`): log p_mem of every other item.
        log_mixing (`torch.DoubleTensor` of shape `(2, B, 1)`): log(1 - g) and log g.
    """

    users: Any
    log_total: torch.Tensor
    rows: torch.Tensor
    log_shares: torch.Tensor
    log_rest: torch.Tensor
    log_mixing: torch.Tensor


class MixtureScorer:
    """
    Log-probabilities of the mixture of a model and a memory; a [`Scorer`] in whose chunks nothing of the size of the
    catalogue is kept.

    Args:
        scorer ([`Scorer`]): of the model, with scores that are logits; one without `encode` is given histories.
        memory ([`ItemMemory`]): of the same items in the same order.
        max_history (`int`, *optional*): items of a history that the model looks at; None: all.
        chunk_items (`int`, *optional*, defaults to 32768): items at a time in the sum over the catalogue.

    Raises:
        ValueError: scorer and memory are of different numbers of items.
    """

    def __init__(self, scorer: Scorer, memory: ItemMemory, max_history: int | None = None, chunk_items: int = 32768):
        if memory.num_items != scorer.num_items:
            raise ValueError(f"The memory is of {memory.num_items} items, the model of {scorer.num_items}.")
        self.scorer, self.memory, self.num_items = scorer, memory, scorer.num_items
        self.max_history, self.chunk_items = max_history, chunk_items
        self.trie = flat_trie(memory.num_items).to(memory.device)

    def encode(self, histories: Sequence[np.ndarray]) -> _Users:
        scorer = self.scorer
        read = histories if self.max_history is None else [each[-self.max_history :] for each in histories]
        users = scorer.encode(read) if hasattr(scorer, "encode") else read
        log_total: torch.Tensor | None = None
        for start in range(0, self.num_items, self.chunk_items):
            scores = torch.as_tensor(scorer.scores(users, slice(start, min(start + self.chunk_items, self.num_items))))
            part = scores.double().logsumexp(1, keepdim=True)
            log_total = part if log_total is None else torch.logaddexp(log_total, part)
        assert log_total is not None
        remembered = padded_left([each[-self.memory.settings.max_history :] for each in histories])
        found = UserMemory(self.memory, torch.from_numpy(remembered).to(self.memory.device), self.trie)
        logs = log_weights(found.logits)
        others = self.num_items - (found.positions < self.num_items).sum(1)
        total = log_normalizer(logs, others)[:, None]
        mixing = found.mixing.to(logs.dtype)[:, None]
        log_mixing = torch.stack((torch.log1p(-mixing), mixing.log()))
        return _Users(users, log_total, found.positions, logs - total, LOG_REMAINDER - total, log_mixing)

    def scores(self, users: _Users, items: slice) -> torch.Tensor:
        scores = torch.as_tensor(self.scorer.scores(users.users, items))
        network = scores.double() - users.log_total
        width = items.stop - items.start
        inside = (users.rows >= items.start) & (users.rows < items.stop)
        places = (users.rows - items.start).masked_fill(~inside, width)  # the last column is waste
        memory = users.log_rest.expand(-1, width + 1).clone().scatter_(1, places, users.log_shares)[:, :width]
        log_model, log_memory = users.log_mixing
        return torch.logaddexp(network + log_model, memory.to(network) + log_memory)


class MixtureRanker(ScoringRanker):
    """
    Ranks by the mixture of a model and a memory, as [`MixtureScorer`] has it.

    Args:
        ranker ([`ScoringRanker`]): of the model, such as [`SequentialRanker`].
        memory ([`ItemMemory`]): of the same items in the same order.
    """

    def __init__(self, ranker: ScoringRanker, memory: ItemMemory):
        longest = None if ranker.max_history is None else max(ranker.max_history, memory.settings.max_history)
        scorer = MixtureScorer(ranker.scorer, memory, ranker.max_history, ranker.chunk_items)
        super().__init__(scorer, ranker.name, longest, ranker.batch_size, ranker.chunk_items)
