"""Beam search of the item-level recommender: the history is read once, each level is a few layers over the beams."""

from typing import Any

import torch
from torch import Tensor

from .item_trie import ItemTrie


class DepthHeadBeamStep:
    """
    Step of a depth head over beams, a [`BeamStep`] that has logits of one level's codes at a time.

    All that a beam remembers is one vector, the state of its user plus the embeddings of its codes so far, and its
    node in the trie: no keys, no values, and nothing that grows with history or depth.

    Args:
        model ([`ItemLevelForCausalLM`]): the model, in eval mode.
        trie ([`ItemTrie`]): the catalogue, which has the content of the histories' items; on the model's device.
        input_ids (`torch.LongTensor` of shape `(B, S)`): history of each user, whole items.
        attention_mask (`torch.Tensor` of shape `(B, S)`): 0 on padding, on whichever side.
    """

    def __init__(self, model: Any, trie: ItemTrie, input_ids: Tensor, attention_mask: Tensor):
        self.model = model
        self.input_ids, self.attention_mask = input_ids, attention_mask
        self.content = None
        if model.config.content_size is not None:
            self.content = content_of(trie, input_ids, attention_mask)
        self.trie = trie
        self.vectors = model.node_vectors(trie) if model.config.node_content else None
        self.prefixes: Tensor  # [B, W, hidden_size]
        self.nodes: Tensor  # [B, W]
        self.level = 0

    @torch.no_grad()
    def start(self) -> Tensor:
        """Reads the histories. Returns the logits of the first level's codes, `[B, 1, codes]`."""
        states = self.model(self.input_ids, self.attention_mask, self.content).last_hidden_state
        real = self.attention_mask.unflatten(1, (-1, self.model.config.num_levels))[..., 0] != 0
        last = torch.where(real, torch.arange(real.shape[1], device=real.device), 0).amax(1)
        self.prefixes = states.gather(1, last[:, None, None].expand(-1, 1, states.shape[-1]))
        self.nodes = torch.zeros_like(last[:, None])
        return self._logits()

    @torch.no_grad()
    def advance(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """
        Appends `tokens` `[B, W]`, where beam `w` continues beam `parents[:, w]` of the call before. Returns the logits
        of the next level's codes, `[B, W, codes]`.
        """
        own = self.prefixes.gather(1, parents[..., None].expand(-1, -1, self.prefixes.shape[-1]))
        self.prefixes = own + self.model.written(tokens, self.level)
        if self.vectors is not None:
            codes = tokens - self.trie.level_offsets[self.level]
            self.nodes = self.trie.levels[self.level].edge(self.nodes.gather(1, parents), codes)
        self.level += 1
        return self._logits()

    def _logits(self) -> Tensor:
        """Of the codes of the level, for each beam."""
        if self.vectors is None:
            return self.model.level_logits(self.prefixes, self.level)
        edges_of_level = self.trie.levels[self.level]
        return self.model.child_logits(self.prefixes, self.level, edges_of_level, self.nodes, self.vectors[self.level])


def content_of(trie: ItemTrie, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Content vectors `[B, items, width]` of histories `[B, S]` of tokens; zero on padding, and for items that are not
    in the trie."""
    assert trie.content is not None
    tokens = input_ids.unflatten(1, (-1, trie.num_levels))
    rows = trie.find(tokens - torch.tensor(trie.level_offsets, device=tokens.device))
    known = (rows >= 0) & (attention_mask.unflatten(1, (-1, trie.num_levels))[..., 0] != 0)
    return trie.content[rows.clamp(min=0)].masked_fill(~known[..., None], 0)


__all__ = ["DepthHeadBeamStep", "content_of"]
