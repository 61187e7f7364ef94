"""Attention masks over sequences of items, for an encoder that reads in one direction.

With such an encoder the states of a history do not depend on what follows, so one pass over a sequence gives the
states of all its histories, and every item after the first can be a target of that pass.
"""

import torch
from torch import Tensor


def causal_item_mask(attention_mask: Tensor, num_levels: int) -> Tensor:
    """Who reads whom in the encoder: the tokens of an item read those of the same item and of earlier ones.

    Args:
        attention_mask (`torch.Tensor` of shape `(batch, length)`):
            0 on padding; an item is `num_levels` columns, and so is padding before it. Where a row packs several
            sequences, the number of a token's sequence, from 1.
        num_levels (`int`): tokens of an item.

    Returns:
        `torch.BoolTensor` of shape `(batch, 1, length, length)`, true where a row may read a column. Padding reads
        padding, so that no row is empty.
    """
    item = torch.arange(attention_mask.shape[1], device=attention_mask.device) // num_levels
    return _same_sequence(attention_mask) & (item <= item[:, None])


def target_masks(attention_mask: Tensor, num_levels: int) -> tuple[Tensor, Tensor]:
    """Masks of a decoder that predicts the successors of all items of a sequence in one pass.

    The decoder's tokens stand in blocks of `num_levels`, one block for each item: those that generate the item after
    it. A block reads itself from left to right and, in the encoder's states, the items up to its own.

    Args:
        attention_mask, num_levels: as [`causal_item_mask`].

    Returns:
        Masks of the self-attention, bool `(1, 1, length, length)`, and of the cross-attention, bool
        `(batch, 1, length, length)`.
    """
    token = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    item = token // num_levels
    within = (item == item[:, None]) & (token <= token[:, None])
    return within[None, None], causal_item_mask(attention_mask, num_levels)


def _same_sequence(attention_mask: Tensor) -> Tensor:
    return attention_mask[:, None, :, None] == attention_mask[:, None, None, :]


def as_scores(mask: Tensor, dtype: torch.dtype, attention: str) -> Tensor:
    """A bool mask in the form that an attention implementation of transformers takes: eager adds it to the scores."""
    if attention != "eager":
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)
