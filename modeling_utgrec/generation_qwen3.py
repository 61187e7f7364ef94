"""A Qwen3 decoder written out for beam search: a history is read once, and its beams share the keys and values."""

from typing import Any

import torch
from torch import Tensor, nn

from .generation_layers import BeamPrefixes, Projection, additive, keep_freed_memory, rms_norm

# What a step hands on from layer to layer: cosines and sines of the positions, `[B, 1, head_dim]` each.
Rotation = tuple[Tensor, Tensor]


class FusedDecoder:
    """
    The weights of a Qwen3 as beam search reads them. Made anew for every search, so a change of the weights is always
    seen; nothing is copied.

    Modules that are no plain `nn.Linear` (LoRA, quantized, sharded or offloaded weights) are called as they are. The
    model must be in eval mode: dropout is left out.

    Args:
        model ([`~transformers.Qwen3ForCausalLM`]): the model, with full attention in every layer.
    """

    def __init__(self, model: Any):  # transformers leaves its layers without types
        self.model = model
        self.config = self.model.config
        self.blocks = [_Block(block) for block in self.model.model.layers]
        self.head = Projection(self.model.lm_head, norm=self.model.model.norm, precise=True)
        keep_freed_memory()

    def rotation(self, states: Tensor, positions: Tensor) -> Rotation:
        """Cosines and sines of positions `[B, T]` in the precision of `states`, `[B, T, head_dim]`."""
        return self.model.model.rotary_emb(states, position_ids=positions)


class DecoderBeamStep:
    """
    Step of a decoder over beams, a [`BeamStep`].

    The beams of a user are query rows of one attention to the keys of the user's history, which are computed once per
    user and never repeated; the few tokens of a beam itself are kept beside them ([`BeamPrefixes`]), and one softmax
    goes over both. Query heads that share a key head are further rows of it.

    Args:
        model ([`~transformers.Qwen3ForCausalLM`] or [`FusedDecoder`]): the model, in eval mode.
        input_ids (`torch.LongTensor` of shape `(B, S)`): history of each user.
        attention_mask (`torch.Tensor` of shape `(B, S)`): 0 on padding, on whichever side.
    """

    def __init__(self, model: nn.Module | FusedDecoder, input_ids: Tensor, attention_mask: Tensor):
        self.fused = model if isinstance(model, FusedDecoder) else FusedDecoder(model)
        config = self.fused.config
        self.head_dim, self.num_key_heads = config.head_dim, config.num_key_value_heads
        self.groups = config.num_attention_heads // config.num_key_value_heads
        self.lengths = (attention_mask != 0).sum(1)
        # On the right, padding cannot be seen from the tokens before it: the mask is the causal one.
        order = (attention_mask == 0).to(torch.uint8).argsort(dim=1, stable=True)
        self.input_ids = input_ids.gather(1, order)
        self.history: list[tuple[Tensor, Tensor]] = []  # per layer, keys and values [B·key heads, S, head_dim]
        self.history_bias: Tensor | None = None  # additive mask, [B·key heads, 1, S]
        self.prefixes = BeamPrefixes()

    @torch.no_grad()
    def start(self) -> Tensor:
        """Reads the histories. Returns the logits of the first code, `[B, 1, vocab_size]`."""
        batch_size, length = self.input_ids.shape
        positions = torch.arange(length, device=self.input_ids.device)
        states = self.fused.model.model.embed_tokens(self.input_ids)
        cos, sin = self.fused.rotation(states, positions[None])
        for block in self.fused.blocks:
            query, key, value = block.query_key_value(states, self.head_dim)
            query, key = (_rotate(each, cos, sin).transpose(1, 2) for each in (query, key))  # [B, heads, S, head_dim]
            value = value.transpose(1, 2)
            self.history.append((key.flatten(0, 1), value.flatten(0, 1)))
            mixed = nn.functional.scaled_dot_product_attention(
                query, key, value, is_causal=True, enable_gqa=self.groups > 1
            )
            states = block.output(mixed.transpose(1, 2).flatten(2), residual=states)
            states = block.feed_forward(states)
        # The look saves adding zeros to all scores. On a GPU it would be a synchronisation, which costs more.
        if self.lengths.device.type != "cpu" or bool((self.lengths < length).any()):
            mask = additive(positions < self.lengths[:, None], states.dtype)
            self.history_bias = mask[:, None].repeat_interleave(self.num_key_heads, dim=0)
        last = (self.lengths - 1).view(-1, 1, 1).expand(-1, 1, states.shape[-1])
        return self.fused.head(states.gather(1, last))

    @torch.no_grad()
    def advance(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """
        Appends `tokens` `[B, W]`, where beam `w` continues beam `parents[:, w]` of the call before. Returns the logits
        of the next code, `[B, W, vocab_size]`.
        """
        self.prefixes.reorder(parents)
        states = self.fused.model.model.embed_tokens(tokens)  # [B, W, hidden_size]
        cos, sin = self.fused.rotation(states, self.lengths[:, None] + self.prefixes.depth)
        self.prefixes.append(tokens)
        for layer, block in enumerate(self.fused.blocks):
            query, key, value = block.query_key_value(states, self.head_dim)
            query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
            mixed = self._attend(query, torch.stack((key, value), dim=2), *self.history[layer])
            states = block.output(mixed, residual=states)
            states = block.feed_forward(states)
        return self.fused.head(states)

    def _attend(self, query: Tensor, own: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """
        Attention of each beam to the user's history and to its own prefix.

        Args:
            query (`torch.Tensor` of shape `(B, W, heads, head_dim)`): queries.
            own (`torch.Tensor` of shape `(B, W, 2, key heads, head_dim)`): keys and values of the beams' last tokens.
            key, value (`torch.Tensor` of shape `(B·key heads, S, head_dim)`): those of the history.

        Returns:
            `torch.Tensor` of shape `(B, W, heads·head_dim)`.
        """
        batch_size, width = query.shape[:2]
        query = query * self.head_dim**-0.5
        # [B, key heads, groups, W, head_dim], and the same with all rows of a key head together
        query = query.unflatten(2, (self.num_key_heads, self.groups)).permute(0, 2, 3, 1, 4).contiguous()
        rows = query.flatten(2, 3).flatten(0, 1)
        scores = (
            torch.bmm(rows, key.mT) if self.history_bias is None else torch.baddbmm(self.history_bias, rows, key.mT)
        )
        # of each depth, keys and values [B, key heads, 1, W or 1, head_dim]
        prefixes = [each.permute(2, 0, 3, 1, 4).unsqueeze(3) for each in self.prefixes.extend(own)]
        of_prefix = torch.stack([(query * keys).sum(-1) for keys, _ in prefixes], dim=-1)
        scores = torch.cat((scores, of_prefix.view(*scores.shape[:2], -1)), dim=-1)
        weights = scores.float().softmax(-1).to(query.dtype)
        mixed = torch.bmm(weights[..., : key.shape[1]], value).view(query.shape)
        of_prefix = weights[..., key.shape[1] :].view(of_prefix.shape)
        for depth, (_, values) in enumerate(prefixes):
            mixed.addcmul_(of_prefix[..., depth, None], values)
        return mixed.permute(0, 3, 1, 2, 4).reshape(batch_size, width, -1)


class _Block:
    """Weights of a layer."""

    def __init__(self, block: Any):
        self.attention = block.self_attn
        self.norm, self.feed_forward_norm = block.input_layernorm, block.post_attention_layernorm
        self.query, self.key, self.value, self.output = (
            Projection(getattr(block.self_attn, name)) for name in ("q_proj", "k_proj", "v_proj", "o_proj")
        )
        self.gate, self.up, self.down = (
            Projection(getattr(block.mlp, name)) for name in ("gate_proj", "up_proj", "down_proj")
        )
        self.activation = block.mlp.act_fn

    def query_key_value(self, states: Tensor, head_dim: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of states `[B, T, hidden_size]`, `[B, T, heads, head_dim]` each, not yet rotated."""
        states = rms_norm(states, self.norm)
        query, key, value = (
            projection(states).unflatten(-1, (-1, head_dim)) for projection in (self.query, self.key, self.value)
        )
        return rms_norm(query, self.attention.q_norm), rms_norm(key, self.attention.k_norm), value

    def feed_forward(self, states: Tensor) -> Tensor:
        """The sublayer with its residual connection."""
        normed = rms_norm(states, self.feed_forward_norm)
        return self.down(self.activation(self.gate(normed)).mul_(self.up(normed)), residual=states)


def _rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions `[B, T, head_dim]` of states `[B, T, heads, head_dim]`."""
    first, second = states.chunk(2, dim=-1)
    return states * cos[:, :, None] + torch.cat((-second, first), dim=-1) * sin[:, :, None]


__all__ = ["DecoderBeamStep", "FusedDecoder"]
