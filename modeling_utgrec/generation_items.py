"""Generation of items: beam search over the identifiers that exist, and the same constraint for `generate`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor
from transformers.utils import ModelOutput

from .item_trie import ItemTrie


@dataclass
class RecommendOutput(ModelOutput):
    """
    Recommended items of a batch of users, best first.

    Args:
        item_rows (`torch.LongTensor` of shape `(batch_size, num_items)`):
            Rows of the items in the trie; -1 where fewer items were found.
        scores (`torch.FloatTensor` of shape `(batch_size, num_items)`):
            Sum over the levels of the code's natural log-probability, normalised over the full vocabulary; -inf where
            `item_rows` is -1.
        item_ids (`list[list[str]]`, *optional*):
            Item ids, when the trie has them. Users with fewer items found have shorter lists.
    """

    item_rows: Tensor | None = None
    scores: Tensor | None = None
    item_ids: list[list[str]] | None = None


class BeamStep(Protocol):
    """What the beam search needs of a network. It holds the state (caches) of B users."""

    def start(self) -> Tensor:
        """Reads the users' context. Returns the logits of the first code, `[B, 1, vocab_size]`."""

    def advance(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """
        Appends `tokens` `[B, W]`, where beam `w` continues beam `parents[:, w]` of the call before. Returns the logits
        of the next code, `[B, W, vocab_size]`.
        """


class T5BeamStep:
    """
    Step of a T5 decoder over beams, on the model's own layers. The model must be in eval mode: dropout between the
    layers is left out.

    The beams of a user are query rows of one cross-attention, `[B, heads, W, d_kv]` against the keys of the encoder
    `[B, heads, S, d_kv]`. These are computed once per user, where `generate` repeats them for every beam.

    Args:
        model ([`~transformers.T5ForConditionalGeneration`]): the model.
        input_ids (`torch.LongTensor` of shape `(B, S)`): history of each user.
        attention_mask (`torch.Tensor` of shape `(B, S)`): 0 on padding.
    """

    def __init__(self, model: nn.Module, input_ids: Tensor, attention_mask: Tensor):
        self.model = model
        self.decoder = model.decoder
        self.input_ids = input_ids
        self.attention_mask = attention_mask
        self.cross_keys_values: list[tuple[Tensor, Tensor]] = []  # per layer, [B, heads, S, d_kv]
        self.cross_mask: Tensor  # [B, 1, 1, S], additive
        self.keys_values: list[tuple[Tensor, Tensor] | None] = [None] * len(
            self.decoder.block
        )  # [B·W, heads, T, d_kv]
        self.length = 0  # T, tokens in the self-attention cache

    def start(self) -> Tensor:
        states = self.model.encoder(input_ids=self.input_ids, attention_mask=self.attention_mask).last_hidden_state
        for block in self.decoder.block:
            attention = block.layer[1].EncDecAttention
            self.cross_keys_values.append(
                (_split_heads(attention.k(states), attention), _split_heads(attention.v(states), attention))
            )
        dtype = self.cross_keys_values[0][0].dtype
        # the lowest finite number as transformers uses, not -inf: an empty history must not give NaN
        self.cross_mask = torch.zeros(self.attention_mask.shape, dtype=dtype, device=states.device)
        self.cross_mask.masked_fill_(self.attention_mask == 0, torch.finfo(dtype).min)
        self.cross_mask = self.cross_mask[:, None, None, :]
        tokens = self.input_ids.new_full((len(self.input_ids), 1), self.model.config.decoder_start_token_id)
        return self._forward(tokens, parent_rows=None)

    def advance(self, tokens: Tensor, parents: Tensor) -> Tensor:
        previous_width = self.keys_values[0][0].shape[0] // len(parents)
        first_rows = torch.arange(len(parents), device=parents.device)[:, None] * previous_width
        return self._forward(tokens, parent_rows=(first_rows + parents).flatten())

    def _forward(self, tokens: Tensor, parent_rows: Tensor | None) -> Tensor:
        self.length += 1
        # T5 has one relative position bias, in the first layer, for the self-attention of all of them
        position_bias = (
            self.decoder.block[0]
            .layer[0]
            .SelfAttention.compute_bias(1, self.length, device=tokens.device, past_seen_tokens=self.length - 1)
        )
        states = self.decoder.embed_tokens(tokens)  # [B, W, d_model]
        for index, block in enumerate(self.decoder.block):
            self_attention, cross_attention, feed_forward = block.layer
            states = states + self._attend_self(index, self_attention, states, position_bias, parent_rows)
            states = _clamp_half(states)
            states = states + self._attend_cross(index, cross_attention, states)
            states = _clamp_half(states)
            states = _clamp_half(feed_forward(states))
        states = self.decoder.final_layer_norm(states)
        if self.model.config.scale_decoder_outputs:  # because the output embeddings are the input embeddings
            states = states * self.model.model_dim**-0.5
        return self.model.lm_head(states)

    def _attend_self(
        self, index: int, layer: nn.Module, states: Tensor, position_bias: Tensor, parent_rows: Tensor | None
    ) -> Tensor:
        """Attention of each beam to its own prefix, `[B, W, d_model]`."""
        attention = layer.SelfAttention
        rows = layer.layer_norm(states).flatten(0, 1)[:, None]  # [B·W, 1, d_model]: a beam is a row of its own
        query, key, value = (
            _split_heads(project(rows), attention) for project in (attention.q, attention.k, attention.v)
        )
        if parent_rows is not None:
            past_key, past_value = self.keys_values[index]
            key = torch.cat((past_key.index_select(0, parent_rows), key), dim=2)
            value = torch.cat((past_value.index_select(0, parent_rows), value), dim=2)
        self.keys_values[index] = (key, value)
        output = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=position_bias.to(query.dtype), scale=attention.scaling
        )
        return attention.o(output.flatten(1)).view(states.shape)

    def _attend_cross(self, index: int, layer: nn.Module, states: Tensor) -> Tensor:
        """Attention of all beams of a user to the user's history, `[B, W, d_model]`."""
        attention = layer.EncDecAttention
        key, value = self.cross_keys_values[index]
        query = _split_heads(attention.q(layer.layer_norm(states)), attention)  # [B, heads, W, d_kv]
        output = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=self.cross_mask, scale=attention.scaling
        )
        return attention.o(output.transpose(1, 2).flatten(2))


def _split_heads(states: Tensor, attention: nn.Module) -> Tensor:
    """`[B, T, heads·d_kv]` to `[B, heads, T, d_kv]`."""
    return states.unflatten(-1, (attention.n_heads, attention.key_value_proj_dim)).transpose(1, 2)


def _clamp_half(states: Tensor) -> Tensor:
    """T5 overflows in float16; its blocks clamp, and so must we."""
    if states.dtype != torch.float16:
        return states
    highest = torch.finfo(states.dtype).max
    bound = torch.where(states.isinf().any(), highest - 1000, highest)
    return states.clamp(min=-bound, max=bound)


def constrained_beam_search(
    step: BeamStep, trie: ItemTrie, num_items: int, num_beams: int, exclude: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """
    Beam search over the identifiers of a trie: the items and scores that `generate` gives with `num_beams`,
    [`ItemLogitsProcessor`] and `length_penalty=0`. The order of exactly equal scores is not defined.

    Excluded items are removed at the last level. Each of them may have cost a beam on the way, so a user with E
    excluded items has at least `num_items + E` beams: `num_items` others are found whenever the catalogue has them.

    Args:
        step ([`BeamStep`]): the network with B users.
        trie ([`ItemTrie`]): the valid identifiers, on the device of the network.
        num_items (`int`): items to return per user.
        num_beams (`int`): prefixes kept per user and level.
        exclude (`torch.LongTensor` of shape `(B, E)`, *optional*): item rows never to return, -1 for padding.

    Returns:
        `tuple[torch.LongTensor, torch.FloatTensor]`: item rows and float32 scores, both of shape `(B, num_items)`,
        best first; -1 and -inf where there are no more items.
    """
    logits = step.start()
    nodes = torch.zeros(logits.shape[:2], dtype=torch.long, device=logits.device)
    scores = torch.zeros(logits.shape[:2], dtype=torch.float32, device=logits.device)
    num_excluded, widths = 0, None
    if exclude is not None:
        exclude = exclude.sort(dim=1).values
        distinct = (exclude >= 0) & (exclude != exclude.roll(1, dims=1))
        distinct[:, :1] = exclude[:, :1] >= 0
        # per user, so that a result does not depend on the other users of the batch
        widths = (distinct.sum(dim=1, keepdim=True) + num_items).clamp(min=num_beams)
        num_excluded, num_beams = exclude.shape[1], max(num_beams, int(widths.max()))

    for level, (size, first) in enumerate(zip(trie.level_sizes, trie.level_offsets, strict=True)):
        is_last = level == trie.num_levels - 1
        logits = logits.float()  # scores are summed in float32 whatever the weights
        candidates = logits[..., first : first + size] - logits.logsumexp(-1, keepdim=True) + scores[..., None]
        candidates = candidates.masked_fill(~trie.allowed(level, nodes), -torch.inf).flatten(1)
        # at most `num_excluded` of the best will be dropped at the last level
        keep = num_items + num_excluded if is_last else num_beams
        scores, best = candidates.topk(min(keep, candidates.shape[1]))
        parents, codes = best // size, best % size
        # a beam without continuation has node -1 and score -inf from here on
        nodes = trie.step(level, nodes.gather(1, parents), codes)
        if not is_last:
            if widths is not None:
                ranks = torch.arange(scores.shape[1], device=scores.device)
                scores = scores.masked_fill(ranks >= widths, -torch.inf)
            logits = step.advance(codes + first, parents)

    if exclude is not None and num_excluded:
        position = torch.searchsorted(exclude, nodes).clamp(max=num_excluded - 1)
        scores = scores.masked_fill(exclude.gather(1, position) == nodes, -torch.inf)
        scores, order = scores.topk(min(num_items, scores.shape[1]))
        nodes = nodes.gather(1, order)
    missing = num_items - scores.shape[1]
    scores = nn.functional.pad(scores, (0, missing), value=-torch.inf)
    rows = nn.functional.pad(nodes, (0, missing), value=-1)
    return rows.masked_fill(scores == -torch.inf, -1), scores


class ItemLogitsProcessor(LogitsProcessor):
    """
    Restricts `generate` to the identifiers of a trie, for use of the constraint with other generation strategies;
    `recommend` gives the same result as beam search with it, faster. A sequence that is no prefix of an identifier, or
    is a whole one, may only go on with a fallback token.

    Args:
        trie ([`ItemTrie`]): the valid identifiers, on the device of the model.
        prompt_length (`int`, *optional*, defaults to 1):
            Tokens before the first code: the start token of an encoder-decoder, the whole prompt of a decoder.
        fallback_token_ids (`Sequence[int]`, *optional*, defaults to `(0, 1)`): padding and end-of-sequence.

    Example:

    ```python
    >>> processors = LogitsProcessorList([ItemLogitsProcessor(trie)])
    >>> model.generate(**batch, num_beams=50, num_return_sequences=10, length_penalty=0.0, logits_processor=processors)
    ```
    """

    def __init__(self, trie: ItemTrie, prompt_length: int = 1, fallback_token_ids: Sequence[int] = (0, 1)):
        self.trie = trie
        self.prompt_length = prompt_length
        self.fallback_token_ids = list(fallback_token_ids)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Sets the scores `[N, vocab_size]` of tokens that may not follow `input_ids` `[N, T]` to -inf."""
        trie = self.trie
        codes = input_ids[:, self.prompt_length :]
        level = codes.shape[1]
        nodes = torch.zeros(len(codes), dtype=torch.long, device=codes.device)
        for depth in range(min(level, trie.num_levels)):
            nodes = trie.step(depth, nodes, codes[:, depth] - trie.level_offsets[depth])
        masked = torch.full_like(scores, -torch.inf)
        if level < trie.num_levels:
            columns = slice(trie.level_offsets[level], trie.level_offsets[level] + trie.level_sizes[level])
            masked[:, columns] = scores[:, columns].masked_fill(~trie.allowed(level, nodes), -torch.inf)
            at_end = nodes < 0
        else:
            at_end = torch.ones_like(nodes, dtype=torch.bool)
        fallback = self.fallback_token_ids
        masked[:, fallback] = scores[:, fallback].masked_fill(~at_end[:, None], -torch.inf)
        return masked


__all__ = [
    "BeamStep",
    "ItemLogitsProcessor",
    "RecommendOutput",
    "T5BeamStep",
    "constrained_beam_search",
]
