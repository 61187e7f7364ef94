"""Generation of items: beam search over the semantic IDs that exist, and the same constraint for `generate`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedConfig,
    PreTrainedModel,
    StoppingCriteriaList,
)
from transformers.generation import GenerateBeamDecoderOnlyOutput, GenerateBeamEncoderDecoderOutput
from transformers.utils import ModelOutput

from .generation_cells import largest, open_only
from .generation_memory import ItemSources, UserMemory
from .generation_rules import ItemRules
from .item_memory import ItemMemory
from .item_trie import ItemTrie


@dataclass
class RecommendOutput(ModelOutput):
    """
    Recommended items of a batch of users, best first.

    Args:
        item_rows (`torch.LongTensor` of shape `(batch_size, num_items)`):
            Rows of the items in the trie; -1 where fewer items were found.
        scores (`torch.FloatTensor` of shape `(batch_size, num_items)`):
            Sum over the levels of the code's natural log-probability, normalised as the model was trained (by default
            over the full vocabulary); with a memory, natural logarithm of the mixture. -inf where `item_rows` is -1.
        item_ids (`list[list[str]]`, *optional*):
            Item ids, when the trie has them. Users with fewer items found have shorter lists.
        sources ([`ItemSources`], *optional*):
            How much of each item is of the network, of the memory's transitions and of its content, if asked for.
    """

    item_rows: Tensor | None = None
    scores: Tensor | None = None
    item_ids: list[list[str]] | None = None
    sources: ItemSources | None = None


class BeamStep(Protocol):
    """What the beam search needs of a network. It holds the state (caches) of B users."""

    def start(self) -> Tensor:
        """Reads the users' context. Returns the logits of the first code, `[B, 1, vocab_size]`, or of the codes of its
        level alone, `[B, 1, codes]`."""

    def advance(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """
        Appends `tokens` `[B, W]`, where beam `w` continues beam `parents[:, w]` of the call before. Returns the logits
        of the next code, as `start`.
        """


def level_log_probs(logits: Tensor, trie: ItemTrie, depth: int, nodes: Tensor, normalize_over: str) -> Tensor:
    """
    Log-probabilities of a level's codes, in float32 whatever the weights.

    Args:
        logits (`torch.Tensor` of shape `(B, W, vocab_size)` or `(B, W, codes of the level)`):
            of the next code. A network that has logits of one level at a time has none for other levels' tokens.
        trie ([`ItemTrie`]): the valid semantic IDs.
        depth (`int`): the level.
        nodes (`torch.LongTensor` of shape `(B, W)`): nodes of the beams at that depth.
        normalize_over (`str`): `"vocabulary"`, all that has logits, or `"items"`: the codes that exist after the
            beam's prefix.

    Returns:
        `torch.FloatTensor` of shape `(B, W, codes of the level)`; without meaning where a code does not exist.
    """
    level, first = trie.levels[depth], trie.level_offsets[depth]
    # a vocabulary has special tokens too, so it is larger than any level
    columns = slice(None) if logits.shape[-1] == level.size else slice(first, first + level.size)
    if normalize_over == "vocabulary":
        return logits.log_softmax(-1, dtype=torch.float32)[..., columns]
    codes, exists = level.children(nodes)[:2]
    if codes is not None:
        of_code = torch.zeros(*nodes.shape, level.size, dtype=torch.uint8, device=nodes.device)
        exists = of_code.scatter_reduce_(-1, codes, exists.to(torch.uint8), "amax").bool()
    return logits[..., columns].float().masked_fill(~exists, -torch.inf).log_softmax(-1)


@torch.no_grad()
def constrained_beam_search(
    step: BeamStep,
    trie: ItemTrie,
    num_items: int,
    num_beams: int,
    rules: ItemRules | None = None,
    normalize_over: str = "vocabulary",
    memory: UserMemory | None = None,
) -> tuple[Tensor, Tensor]:
    """
    Beam search over the semantic IDs of a trie: the items and scores that `generate` gives with `num_beams`,
    [`ItemLogitsProcessor`] and `length_penalty=0`, and where the network is normalised over items
    `renormalize_logits=True`. The order of exactly equal scores is not defined.

    With rules, it is the search over a trie of the items that each user may get. With `num_beams >= num_items`, as
    many items come back as were asked for, whenever there are so many (see `generation_rules.py`).

    With a memory, prefixes and items are ranked by their probability in the mixture of network and memory (see
    `generation_memory.py`).

    Args:
        step ([`BeamStep`]): the network with B users.
        trie ([`ItemTrie`]): the valid semantic IDs, on the device of the network.
        num_items (`int`): items to return per user.
        num_beams (`int`): prefixes kept per user and level.
        rules ([`ItemRules`], *optional*): what each user may get, on the same device and of the same trie.
        normalize_over (`str`, *optional*, defaults to `"vocabulary"`):
            What a code's probability is normalised over, as the network was trained: the `"vocabulary"` or `"items"`,
            the codes that exist after the prefix whatever the rules.
        memory ([`UserMemory`], *optional*): what a memory says of the B users.

    Returns:
        `tuple[torch.LongTensor, torch.FloatTensor]`: item rows and float32 scores, both of shape `(B, num_items)`,
        best first; -1 and -inf where there are no more items.
    """
    logits = step.start()
    nodes = torch.zeros(logits.shape[:2], dtype=torch.long, device=logits.device)
    scores = torch.zeros(logits.shape[:2], dtype=torch.float32, device=logits.device)
    rules_of_search = None if rules is None else rules.start(len(logits))
    mass = None if memory is None else memory.start(rules_of_search)
    for depth, (level, first) in enumerate(zip(trie.levels, trie.level_offsets, strict=True)):
        is_last = depth == trie.num_levels - 1
        log_probs = level_log_probs(logits, trie, depth, nodes, normalize_over)
        if rules_of_search is None:
            codes, exists = level.children(nodes)[:2]
        else:
            codes, exists = rules_of_search.children(depth, nodes)
        if codes is not None:
            log_probs = log_probs.gather(-1, codes)
        log_probs = log_probs + scores[..., None]
        if mass is not None and is_last:
            ranked, best = mass.best_items(nodes, open_only(log_probs, exists), num_items)
        else:
            ranked_by = log_probs if mass is None else mass.mix_children(depth, nodes, log_probs)
            ranked, best = largest(open_only(ranked_by, exists), num_items if is_last else num_beams)
        scores = ranked if memory is None else log_probs.flatten(1).gather(1, best)  # the network goes on from its own
        parents, columns = best // level.width, best % level.width
        # a beam without continuation has edge -1 and score -inf from here on
        codes, nodes = level.child(nodes.gather(1, parents), columns)
        if not is_last:
            logits = step.advance(codes + first, parents)

    missing = num_items - ranked.shape[1]
    ranked = nn.functional.pad(ranked, (0, missing), value=-torch.inf)
    rows = nn.functional.pad(trie.rows_at(nodes), (0, missing), value=-1)
    return rows.masked_fill(ranked == -torch.inf, -1), ranked


class ItemLogitsProcessor(LogitsProcessor):
    """
    Restricts `generate` to the semantic IDs of a trie, for use of the constraint with other generation strategies;
    `recommend` gives the same result as beam search with it, faster. A sequence that is no prefix of a semantic ID, or
    is a whole one, may only go on with a fallback token.

    Args:
        trie ([`ItemTrie`]): the valid semantic IDs, on the device of the model.
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


def generate_items(
    model: PreTrainedModel,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    inputs_tensor: Tensor,
    trie: ItemTrie,
    exclude: Tensor | None = None,
    rules: ItemRules | None = None,
    memory: ItemMemory | None = None,
    **model_kwargs,
) -> Tensor | GenerateBeamEncoderDecoderOutput | GenerateBeamDecoderOnlyOutput:
    """
    `custom_generate` of a model that has `recommend`, such as [`UTGRecForConditionalGeneration`]: `generate` then
    returns what it would with [`ItemLogitsProcessor`], from the faster search. Calling `recommend` saves what
    `generate` prepares: it runs the encoder and repeats its states for every beam before it comes here.

    Args:
        trie, exclude, rules, memory: as for `recommend`; arguments of `generate`, like `num_beams` and
            `num_return_sequences`.

    Returns:
        As `generate`: token ids `(batch_size * num_return_sequences, 1 + num_levels)`, for a decoder with the history
        in place of the start token, or with `return_dict_in_generate` also `sequences_scores`. Where there are fewer
        items, padding and -inf.

    Raises:
        ValueError: if sampling or further logits processors are asked for, and as `recommend`.

    Example:

    ```python
    >>> model.generate(**batch, custom_generate=generate_items, trie=trie, num_beams=50, num_return_sequences=10)
    ```
    """
    if generation_config.do_sample or len(logits_processor) > 0:
        raise ValueError(
            "generate_items is a beam search over items: it takes neither do_sample nor logits processors, which "
            f"would have no effect (got {[type(each).__name__ for each in logits_processor]}). Use `rules`, or "
            "`generate` with ItemLogitsProcessor."
        )
    num_items = generation_config.num_return_sequences
    expansion = max(generation_config.num_beams, num_items)  # `generate` has repeated all but `inputs_tensor`
    attention_mask = model_kwargs.get("attention_mask")
    if attention_mask is None:
        attention_mask = torch.ones_like(inputs_tensor)
    elif len(attention_mask) != len(inputs_tensor):
        attention_mask = attention_mask[::expansion]
    recommend: Callable[..., RecommendOutput] = model.recommend  # type: ignore[assignment]  # a mixin's
    output = recommend(
        inputs_tensor, attention_mask, trie, num_items, generation_config.num_beams, exclude, rules, memory
    )
    assert output.item_rows is not None and output.scores is not None
    return as_generated(
        model.config,
        input_ids[::expansion],
        output.item_rows,
        output.scores,
        trie.to(output.item_rows.device),
        model.config.pad_token_id,
        generation_config.length_penalty,
        bool(generation_config.return_dict_in_generate),
    )


def as_generated(
    config: PreTrainedConfig,
    prompts: Tensor,
    rows: Tensor,
    scores: Tensor,
    trie: ItemTrie,
    pad_token_id: int,
    length_penalty: float = 0.0,
    return_dict: bool = False,
) -> Tensor | GenerateBeamEncoderDecoderOutput | GenerateBeamDecoderOnlyOutput:
    """
    Items in the form of what `generate` returns.

    Args:
        config ([`~transformers.PreTrainedConfig`]): of the model.
        prompts (`torch.LongTensor` of shape `(B, T)`): what stands before the semantic IDs.
        rows (`torch.LongTensor` of shape `(B, num_items)`): items, -1 where there are fewer.
        scores (`torch.FloatTensor` of shape `(B, num_items)`): their log-probabilities.
        trie ([`ItemTrie`]): the semantic IDs, on the device of `rows`.
        pad_token_id (`int`): token in place of items that are missing.
        length_penalty (`float`, *optional*, defaults to 0.0): exponent of the length that scores are divided by.
        return_dict (`bool`, *optional*, defaults to `False`): whether scores are returned too.

    Returns:
        Token ids `(B * num_items, T + num_levels)`, alone or with the scores `(B * num_items,)`.
    """
    num_items, rows = rows.shape[1], rows.flatten()
    tokens = trie.codes_of(rows) + torch.tensor(trie.level_offsets, device=rows.device)
    tokens = tokens.masked_fill(rows[:, None] < 0, pad_token_id)
    sequences = torch.cat((prompts.repeat_interleave(num_items, dim=0), tokens), dim=1)
    if not return_dict:
        return sequences
    scores = scores.flatten() / trie.num_levels**length_penalty
    kind = GenerateBeamEncoderDecoderOutput if config.is_encoder_decoder else GenerateBeamDecoderOnlyOutput
    return kind(sequences=cast(torch.LongTensor, sequences), sequences_scores=cast(torch.FloatTensor, scores))


__all__ = [
    "BeamStep",
    "ItemLogitsProcessor",
    "RecommendOutput",
    "as_generated",
    "constrained_beam_search",
    "generate_items",
    "level_log_probs",
]
