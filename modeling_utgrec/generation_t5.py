"""A T5 written out for beam search over few steps: what `generate` computes, without what it computes twice."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .attention_masks import causal_item_mask
from .generation_layers import BeamPrefixes, Projection, additive, keep_freed_memory, rms_norm, split_heads

# Devices whose fused attention kernel is slower than two products: on a CPU it has half to four fifths of their rate.
TWO_PRODUCTS = ("cpu",)


class FusedT5:
    """
    The weights of a T5 as beam search reads them: projections of the same input are one matrix, position biases are
    computed once. Made anew for every search (1 % of its time), so a change of the weights is always seen.

    Modules that are no plain `nn.Linear` (LoRA, quantized, sharded or offloaded weights) are called as they are. The
    model must be in eval mode: dropout is left out.

    Args:
        model ([`~transformers.T5ForConditionalGeneration`]): the model, with any feed-forward type.
    """

    def __init__(self, model: Any):  # transformers leaves its layers without types
        self.model = model
        self.config = self.model.config
        self.encoder = [_Block(block) for block in self.model.encoder.block]
        self.decoder = [_Block(block) for block in self.model.decoder.block]
        # keys and values of the history for all layers of the decoder: one product
        cross = [block.layer[1].EncDecAttention for block in self.model.decoder.block]
        self.cross_keys_values = Projection(*(module for each in cross for module in (each.k, each.v)))
        self.head = Projection(self.model.lm_head, precise=True)  # rounded logits of thousands of codes are ties
        self._decoder_biases: dict[int, Tensor] = {}
        keep_freed_memory()

    def encoder_bias(self, length: int, device: torch.device) -> Tensor:
        """Relative position bias of the encoder's layers, `[1, heads, length, length]`."""
        return self.model.encoder.block[0].layer[0].SelfAttention.compute_bias(length, length, device=device)

    def decoder_bias(self, length: int, device: torch.device) -> Tensor:
        """Relative position bias of the decoder's last position towards all positions, `[length, heads, 1]`."""
        if length not in self._decoder_biases:
            attention = self.model.decoder.block[0].layer[0].SelfAttention
            bias = attention.compute_bias(1, length, device=device, past_seen_tokens=length - 1)
            self._decoder_biases[length] = bias[0, :, 0].t()[:, :, None].float()
        return self._decoder_biases[length]

    def encode(self, input_ids: Tensor, attention_mask: Tensor, padded: bool) -> Tensor:
        """
        Last hidden states of the encoder, `[B, S, d_model]`.

        Args:
            input_ids (`torch.LongTensor` of shape `(B, S)`): history of each user.
            attention_mask (`torch.Tensor` of shape `(B, S)`): 0 on padding.
            padded (`bool`): whether the mask may hold zeros.
        """
        states = self.model.encoder.embed_tokens(input_ids)
        bias = self.encoder_bias(input_ids.shape[1], input_ids.device).to(states.dtype)
        if getattr(self.config, "causal_encoder", False):
            bias = bias + additive(causal_item_mask(attention_mask, self.config.num_levels), states.dtype)
        elif padded:
            bias = bias + additive(attention_mask[:, None, None], states.dtype)
        bias = _prepare_bias(bias, len(input_ids), self.config.num_heads)
        for block in self.encoder:
            query, key, value = block.self_attention(states).chunk(3, dim=-1)
            heads = split_heads(key, self.config.num_heads), split_heads(value, self.config.num_heads)
            states = block.self_output(_attend(query, *heads, bias), residual=states)
            states = block.feed_forward(states)
        return rms_norm(states, self.model.encoder.final_layer_norm)

    def logits(self, states: Tensor) -> Tensor:
        """Logits `[B, W, vocab_size]` of the decoder's last hidden states `[B, W, d_model]`."""
        states = rms_norm(states, self.model.decoder.final_layer_norm)
        if self.config.scale_decoder_outputs:  # because the output embeddings are the input embeddings
            states = states * self.model.model_dim**-0.5
        return self.head(states)


class T5BeamStep:
    """
    Step of a T5 decoder over beams, a [`BeamStep`].

    The beams of a user are query rows of one cross-attention against the user's keys, which are computed once per
    user, where `generate` repeats them for every beam. Their self-attention is to their own prefixes, see
    [`BeamPrefixes`].

    Args:
        model ([`~transformers.T5ForConditionalGeneration`] or [`FusedT5`]): the model, in eval mode.
        input_ids (`torch.LongTensor` of shape `(B, S)`): history of each user.
        attention_mask (`torch.Tensor` of shape `(B, S)`): 0 on padding.
        encoder_states (`torch.Tensor` of shape `(B, S, d_model)`, *optional*):
            Last hidden states of the encoder, if they are known already.
    """

    def __init__(
        self,
        model: nn.Module | FusedT5,
        input_ids: Tensor,
        attention_mask: Tensor,
        encoder_states: Tensor | None = None,
    ):
        self.fused = model if isinstance(model, FusedT5) else FusedT5(model)
        self.num_heads = self.fused.config.num_heads
        self.input_ids = input_ids
        self.attention_mask = attention_mask
        self.encoder_states = encoder_states
        self.cross_keys_values: list[tuple[Tensor, Tensor]] = []  # per layer, keys and values [B·heads, S, d_kv]
        self.cross_bias: Tensor | None = None  # additive mask
        self.prefixes = BeamPrefixes()

    @torch.no_grad()
    def start(self) -> Tensor:
        """Reads the histories. Returns the logits of the first code, `[B, 1, vocab_size]`."""
        # The look saves adding zeros to all scores. On a GPU it would be a synchronisation, which costs more.
        on_cpu = self.attention_mask.device.type == "cpu"
        padded = not on_cpu or not bool(self.attention_mask.all())
        states = self.encoder_states
        if states is None:
            states = self.fused.encode(self.input_ids, self.attention_mask, padded)
        keys_values = self.fused.cross_keys_values(states).chunk(2 * len(self.fused.decoder), dim=-1)
        heads = [split_heads(each, self.num_heads) for each in keys_values]
        self.cross_keys_values = list(zip(heads[::2], heads[1::2], strict=True))
        if padded:
            mask = additive(self.attention_mask[:, None, None], keys_values[0].dtype)
            self.cross_bias = _prepare_bias(mask, len(states), self.num_heads)
        tokens = self.attention_mask.new_full(
            (len(states), 1), self.fused.config.decoder_start_token_id, dtype=torch.long
        )
        return self._forward(tokens)

    @torch.no_grad()
    def advance(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """
        Appends `tokens` `[B, W]`, where beam `w` continues beam `parents[:, w]` of the call before. Returns the logits
        of the next code, `[B, W, vocab_size]`.
        """
        self.prefixes.reorder(parents)
        return self._forward(tokens)

    def _forward(self, tokens: Tensor) -> Tensor:
        self.prefixes.append(tokens)
        bias = self.fused.decoder_bias(self.prefixes.depth, tokens.device)
        states = self.fused.model.decoder.embed_tokens(tokens)  # [B, W, d_model]
        for layer, block in enumerate(self.fused.decoder):
            mixed = self._attend_to_prefix(block.self_attention(states), bias)
            states = block.self_output(mixed, residual=states)
            mixed = _attend(block.cross_query(states), *self.cross_keys_values[layer], self.cross_bias)
            states = block.cross_output(mixed, residual=states)
            states = block.feed_forward(states)
        return self.fused.logits(states)

    def _attend_to_prefix(self, query_key_value: Tensor, bias: Tensor) -> Tensor:
        """
        Self-attention of each beam to its own prefix, `[B, W, heads·d_kv]`. With the two to four keys there are,
        products of vectors cost less than attention kernels, which see one query per beam and head.
        """
        size = query_key_value.shape[-1] // 3
        query, own = query_key_value.split((size, 2 * size), dim=-1)
        query = query.unflatten(-1, (self.num_heads, -1))
        keys_values = self.prefixes.extend(own.unflatten(-1, (2, self.num_heads, -1)))
        scores = torch.stack([(query * each.select(2, 0)).sum(-1, keepdim=True) for each in keys_values])
        scores = scores.float() + bias[:, None, None]
        weights = scores.softmax(0).to(query.dtype)
        mixed = weights[-1] * keys_values[-1].select(2, 1)
        for weight, each in zip(weights, keys_values[:-1], strict=False):
            mixed.addcmul_(weight, each.select(2, 1))
        return mixed.flatten(2)


class _Block:
    """Weights of a block of the encoder or, with `cross_query` and `cross_output`, of the decoder."""

    def __init__(self, block: Any):
        attention = block.layer[0].SelfAttention
        self.self_attention = Projection(attention.q, attention.k, attention.v, norm=block.layer[0].layer_norm)
        self.self_output = Projection(attention.o)
        if len(block.layer) == 3:
            attention = block.layer[1].EncDecAttention
            self.cross_query = Projection(attention.q, norm=block.layer[1].layer_norm)
            self.cross_output = Projection(attention.o)
        layer = block.layer[-1].DenseReluDense
        self.gated = hasattr(layer, "wi_0")
        self.inner = Projection(
            *((layer.wi_0, layer.wi_1) if self.gated else (layer.wi,)),
            norm=block.layer[-1].layer_norm,
            relu=isinstance(layer.act, nn.ReLU) and not self.gated,
        )
        self.activation: Callable[[Tensor], Tensor] = nn.Identity() if self.inner.relu else layer.act
        self.outer = Projection(layer.wo)

    def feed_forward(self, states: Tensor) -> Tensor:
        """The sublayer with its residual connection."""
        hidden = self.inner(states)
        if self.gated:
            hidden, linear = hidden.chunk(2, dim=-1)
            hidden = self.activation(hidden) * linear
        else:
            hidden = self.activation(hidden)
        return self.outer(hidden, residual=states)


def _prepare_bias(bias: Tensor, batch_size: int, num_heads: int) -> Tensor:
    """`[1 or B, 1 or heads, 1 or T, S]` to `[B·heads, 1 or T, S]`."""
    return bias.expand(batch_size, num_heads, -1, -1).flatten(0, 1)


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """
    Attention of all queries of a user to the user's keys; T5 does not scale the products.

    Args:
        query (`torch.Tensor` of shape `(B, W, heads·d_kv)`): queries.
        key, value (`torch.Tensor` of shape `(B·heads, S, d_kv)`): keys and values.
        bias (`torch.Tensor` of shape `(B·heads, 1 or W, S)`, *optional*): added to the scores.

    Returns:
        `torch.Tensor` of shape `(B, W, heads·d_kv)`.
    """
    batch_size, width, size = query.shape
    num_heads = len(key) // batch_size
    query = split_heads(query, num_heads)
    if query.device.type in TWO_PRODUCTS:
        scores = torch.bmm(query, key.mT) if bias is None else torch.baddbmm(bias, query, key.mT)
        weights = scores.float().softmax(-1).to(query.dtype)  # softmax in bfloat16 takes longer than two conversions
        mixed = torch.bmm(weights, value).unflatten(0, (batch_size, num_heads))
    else:
        query, key, value = (each.unflatten(0, (batch_size, num_heads)) for each in (query, key, value))
        mask = None if bias is None else bias.unflatten(0, (batch_size, num_heads))
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0)
    return mixed.transpose(1, 2).reshape(batch_size, width, size)


__all__ = ["FusedT5", "T5BeamStep"]
