"""Generation of items by a Qwen3 or T5 of transformers alone: the search of our recommenders, as a `custom_generate`.

transformers loads it from a folder or repository that has it as `custom_generate/generate.py`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, Qwen3ForCausalLM, T5ForConditionalGeneration
from transformers.generation import GenerateBeamDecoderOnlyOutput, GenerateBeamEncoderDecoderOutput

from .generation_items import BeamStep, as_generated, constrained_beam_search
from .generation_mixin import user_blocks
from .generation_qwen3 import DecoderBeamStep, FusedDecoder
from .generation_rules import ItemRules, check_range
from .generation_t5 import FusedT5, T5BeamStep
from .item_trie import ItemTrie

_tries: list[tuple[Tensor, int, ItemTrie]] = []  # of the last call: a catalogue is given again and again


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    inputs: Tensor | None = None,
    generation_config: GenerationConfig | None = None,
    trie: ItemTrie | Tensor | Sequence[Sequence[int]] | None = None,
    input_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    num_beams: int | None = None,
    num_return_sequences: int | None = None,
    length_penalty: float | None = None,
    return_dict_in_generate: bool | None = None,
    exclude: Tensor | None = None,
    normalize_over: str = "vocabulary",
    **kwargs: Any,
) -> Tensor | GenerateBeamEncoderDecoderOutput | GenerateBeamDecoderOnlyOutput:
    """
    Beam search over the semantic IDs that exist, of a model of transformers whose vocabulary has tokens for codes. A
    prompt is read once whatever the beams, and every sequence that comes back is an item, each once. With `num_beams`
    as many as there are items it ranks all of them.

    Args:
        model ([`~transformers.Qwen3ForCausalLM`] or [`~transformers.T5ForConditionalGeneration`]): the model.
        inputs (`torch.LongTensor` of shape `(batch_size, sequence_length)`): the prompts, as `input_ids`.
        trie (`torch.LongTensor` of shape `(num_items, num_levels)`): token ids of every item's semantic ID; a list of
            them, or an [`ItemTrie`], will do. One tensor given again is not looked through again.
        attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*): 0 on padding, on
            whichever side; by default every token is read.
        num_beams, num_return_sequences, length_penalty, return_dict_in_generate (*optional*): as for
            [`~transformers.GenerationMixin.generate`], by default those of the generation configuration. As many beams
            are kept as sequences are returned, if `num_beams` is less.
        exclude (`torch.LongTensor` of shape `(batch_size, num_excluded)`, *optional*): rows of items in `trie` never
            to return, padded with -1.
        normalize_over (`str`, *optional*, defaults to `"vocabulary"`): what a code's probability is normalised over,
            the `"vocabulary"` or `"items"`, the codes that exist after the same prefix.

    Returns:
        As [`~transformers.GenerationMixin.generate`]: token ids of prompt (for a T5 the start token) and semantic ID,
        `(batch_size * num_return_sequences, length)`, best first; with `return_dict_in_generate` also
        `sequences_scores`, sums of log-probabilities divided by `num_levels ** length_penalty`. Where there are fewer
        items, padding and -inf.

    Raises:
        TypeError: for another model.
        ValueError: if there is no trie or one with tokens outside of the vocabulary, two items have the same semantic
            ID, a layer of the model reads a window only, or an argument is given that the search does not know.

    Example:

    ```python
    >>> sids = torch.tensor([tokenizer.convert_tokens_to_ids(["<s_a_3>", "<s_b_1>", "<s_c_0>"]), ...])
    >>> model.generate(**prompts, custom_generate="org/name", trust_remote_code=True, trie=sids, num_beams=50)
    ```
    """
    settings = model.generation_config if generation_config is None else generation_config
    num_items = _setting(num_return_sequences, settings.num_return_sequences, 1)
    num_beams = max(_setting(num_beams, settings.num_beams, 1), num_items)
    length_penalty = _setting(length_penalty, settings.length_penalty, 1.0)
    return_dict = _setting(return_dict_in_generate, settings.return_dict_in_generate, False)
    make_step = _search_step(model)
    if trie is None:
        raise ValueError(
            "Generating items needs `trie=`: the token ids of every item's semantic ID, (num_items, num_levels)."
        )
    trie = _as_trie(trie).to(model.device)
    _check_known(kwargs, trie, settings)
    last = max(first + size for first, size in zip(trie.level_offsets, trie.level_sizes, strict=True)) - 1
    if last >= model.config.vocab_size:
        raise ValueError(f"The trie has tokens up to {last}, the vocabulary of the model {model.config.vocab_size}.")
    if normalize_over not in ("vocabulary", "items"):
        raise ValueError(f"normalize_over must be 'vocabulary' or 'items', got {normalize_over!r}.")
    prompts = input_ids if inputs is None else inputs
    if prompts is None or prompts.ndim != 2 or not prompts.numel():
        raise ValueError("Give the prompts as input_ids of shape (batch_size, sequence_length).")
    check_range("input_ids", prompts, 0, model.config.vocab_size, "of the vocabulary")
    mask = torch.ones_like(prompts) if attention_mask is None else attention_mask
    if mask.shape != prompts.shape or not mask.any(1).all():
        raise ValueError("attention_mask must have the shape of input_ids, and no prompt may be empty.")
    prompts, mask = prompts.to(model.device), mask.to(model.device)
    rules = None
    if exclude is not None and exclude.shape[-1]:
        rules = ItemRules(trie).excluding(exclude.to(model.device))

    rows = torch.empty(len(prompts), num_items, dtype=torch.long, device=model.device)
    scores = torch.empty(len(prompts), num_items, device=model.device)
    for users, columns in user_blocks(mask, num_beams):
        own = rules.select(users) if rules is not None and isinstance(users, Tensor) else rules
        step = make_step(prompts[users, columns], mask[users, columns])
        rows[users], scores[users] = constrained_beam_search(step, trie, num_items, num_beams, own, normalize_over)
    if model.config.is_encoder_decoder:
        prompts = prompts.new_full((len(prompts), 1), model.config.decoder_start_token_id)
    pad = settings.pad_token_id if settings.pad_token_id is not None else model.config.pad_token_id
    return as_generated(model.config, prompts, rows, scores, trie, pad or 0, length_penalty, return_dict)


def _setting(given: Any, configured: Any, default: Any) -> Any:
    """What an argument says, or else the generation configuration, or else transformers."""
    return next(value for value in (given, configured, default) if value is not None)


def _search_step(model: PreTrainedModel) -> Callable[[Tensor, Tensor], BeamStep]:
    """What makes the step of prompts and their mask."""
    if isinstance(model, T5ForConditionalGeneration):
        return partial(T5BeamStep, FusedT5(model))
    if not isinstance(model, Qwen3ForCausalLM):
        raise TypeError(f"This search is for Qwen3ForCausalLM and T5ForConditionalGeneration, not {type(model)}.")
    if set(model.config.layer_types or ()) - {"full_attention"}:
        raise ValueError(f"Every layer must read the whole prompt, but layer_types are {model.config.layer_types}.")
    return partial(DecoderBeamStep, FusedDecoder(model))


def _as_trie(given: ItemTrie | Tensor | Sequence[Sequence[int]]) -> ItemTrie:
    """A trie of semantic IDs as token ids. That of the last tensor is kept, as long as nothing is written to it."""
    if hasattr(given, "level_offsets"):  # an ItemTrie, of whichever copy of its file
        return given  # type: ignore[return-value]
    tokens = torch.as_tensor(given)
    if tokens.ndim != 2 or not tokens.numel() or tokens.is_floating_point():
        raise ValueError(f"trie must be token ids of shape (num_items, num_levels), got {tuple(tokens.shape)}.")
    counts_writes = not tokens.is_inference()
    for known, version, trie in _tries:
        if known is tokens and counts_writes and version == tokens._version:
            return trie
    first, last = tokens.amin(0), tokens.amax(0)
    if int(first.min()) < 0:
        raise ValueError(f"trie must be token ids, got {int(first.min())}.")
    trie = ItemTrie(tokens - first, (last - first + 1).tolist(), first.tolist())
    if counts_writes:
        _tries[:] = [(tokens, tokens._version, trie)]
    return trie


def _check_known(arguments: dict[str, Any], trie: ItemTrie, settings: GenerationConfig) -> None:
    """Raises ValueError for arguments of `generate` that would have no effect; what says nothing is let through."""
    says_nothing = {"max_new_tokens": trie.num_levels, "use_cache": True, "do_sample": False}
    unknown = {
        name
        for name, value in arguments.items()
        if value is not None and value is not False and (name not in says_nothing or value != says_nothing[name])
    }
    if unknown or (settings.do_sample and "do_sample" not in arguments):
        raise ValueError(
            f"This is a beam search over items of {trie.num_levels} tokens, without sampling and further processors: "
            f"leave out {', '.join(sorted(unknown)) or 'do_sample of the generation configuration (do_sample=False)'}."
        )


__all__ = ["generate"]
