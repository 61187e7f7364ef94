"""Attention in bfloat16 on a CPU, for training: without its matrices kept, and in less time than torch's.

The gradient of `scaled_dot_product_attention` in bfloat16 multiplies blocks of a few rows, which on a CPU may take
longer than all else of a layer. Here the scores of a few items at a time, as many as a cache holds, are whole
matrices; for the gradient they are computed again, so memory is that of queries, keys and values. As in transformers'
`eager` attention scores and probabilities are rounded to bfloat16, and the softmax is taken in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "utgrec_cpu"  # of the implementation, as transformers knows it
CACHED_SCORES = 2**19  # of a thread at once: 1 MiB, and twice that in float32
UNLIKE = ("cache", "position_bias", "softcap")  # what `sdpa` takes beside and is not here
MOST_SCORES = 2**24  # of an item; longer ones are torch's, which has no matrix at any time
HIDDEN = -1e9  # added to the scores of what is not to be seen


def cpu_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """
    `softmax(scale · Q Kᵀ + mask) V` with its gradient.

    Args:
        query, key, value (`torch.BFloat16Tensor` of shape `(items, heads, length, width)`): on a CPU.
        mask (`torch.Tensor`, *optional*): bool, true where a key is seen, or what is added to the scores, of a shape
            that broadcasts to `(items, 1, length, length)`. It gets no gradient.
        scale (`float`): of the scores.

    Returns:
        `torch.BFloat16Tensor` of the shape of `value`, contiguous once heads and length change places.
    """
    if mask is not None:
        if mask.dtype == torch.bool:
            mask = torch.zeros(mask.shape, dtype=query.dtype).masked_fill_(~mask, HIDDEN)
        mask = mask.to(query.dtype).expand(len(query), 1, -1, -1)
    return _CpuAttention.apply(query, key, value, mask, scale)


class _CpuAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        found = torch.empty_like(value.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)
        softmax = _Softmax(query)
        for rows in softmax.parts:
            probabilities = softmax(query[rows], key[rows], mask, rows, scale)
            found[rows] = (probabilities @ _flat(value[rows])).view(value[rows].shape)
        ctx.save_for_backward(query, key, value, mask)
        ctx.scale = scale
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask = ctx.saved_tensors
        gradients = [torch.empty_like(each) for each in (query, key, value)]
        softmax = _Softmax(query)
        for rows in softmax.parts:
            queries, keys, values, outer = (_flat(each[rows]) for each in (query, key, value, gradient))
            probabilities = softmax(query[rows], key[rows], mask, rows, ctx.scale)
            scores = torch._softmax_backward_data(outer @ values.mT, probabilities, -1, probabilities.dtype)
            # this way round the transposed factor is the small one
            found = (
                (scores @ keys).mul_(ctx.scale),
                (queries.mT @ scores).mT * ctx.scale,
                (outer.mT @ probabilities).mT,
            )
            for whole, part in zip(gradients, found, strict=True):
                whole[rows] = part.reshape(whole[rows].shape)
        return *gradients, None, None


class _Softmax:
    """Probabilities of some items at a time, in memory that is used again."""

    def __init__(self, query: Tensor):
        items, heads, length, _ = query.shape
        step = max(1, CACHED_SCORES * torch.get_num_threads() // (heads * length * length))
        self.parts = [slice(start, min(start + step, items)) for start in range(0, items, step)]
        size = min(step, items) * heads, length, length
        self.scores, self.probabilities = (torch.empty(size, dtype=torch.float32) for _ in range(2))

    def __call__(self, query: Tensor, key: Tensor, mask: Tensor | None, rows: slice, scale: float) -> Tensor:
        """Of queries and keys `(items, heads, length, width)`: `(items · heads, length, length)`."""
        queries, keys = _flat(query), _flat(key).mT
        if mask is None:
            scores = torch.bmm(queries * scale, keys)
        else:
            added = mask[rows].expand(-1, query.shape[1], -1, -1).flatten(0, 1)
            scores = torch.baddbmm(added, queries, keys, alpha=scale)
        exact, found = self.scores[: len(scores)], self.probabilities[: len(scores)]
        torch.softmax(exact.copy_(scores), -1, out=found)
        return scores.copy_(found)


def _flat(states: Tensor) -> Tensor:
    """States `(items, heads, length, width)` with items and heads as one, each head's together."""
    return states.contiguous().flatten(0, 1)


def cpu_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """What transformers calls: [`cpu_attention`] of a training in bfloat16 without dropout of attention weights and of
    items that are not too long, in all other cases what `sdpa` is."""
    is_autocast = torch.is_autocast_enabled("cpu")  # in which `sdpa` takes states of any dtype in that of autocast
    dtype = torch.get_autocast_dtype("cpu") if is_autocast else query.dtype
    trains = torch.is_grad_enabled() and dtype == torch.bfloat16 and query.device.type == "cpu"
    for_heads = attention_mask is not None and attention_mask.shape[1] != 1
    unlike = for_heads or query.shape != key.shape or any(kwargs.get(name) is not None for name in UNLIKE)
    is_long = query.shape[1] * query.shape[2] ** 2 > MOST_SCORES
    if not trains or dropout or unlike or is_long:
        given = query, key, value, attention_mask, dropout, scaling, is_causal
        return sdpa_attention_forward(module, *given, **kwargs)
    if attention_mask is None and (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        attention_mask = torch.ones(query.shape[2], query.shape[2], dtype=torch.bool).tril()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key, value = (each.bfloat16() for each in (query, key, value))
    return cpu_attention(query, key, value, attention_mask, scale).transpose(1, 2).contiguous(), None


def use_cpu_attention(model: PreTrainedModel) -> None:
    """Has a model of transformers that computes with `sdpa` compute with [`cpu_attention`] where it trains in
    bfloat16. Nothing of it is saved."""
    if model._supports_attention_backend and model.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, cpu_attention_forward)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)
