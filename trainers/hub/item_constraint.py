"""The constraint to items that exist, for engines that serve plain checkpoints: one row of logits per request."""

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from modeling_utgrec.generation_items import ItemLogitsProcessor
from trainers.hub.sid_tokens import END, load_trie

SWITCH = "valid_items"  # of a vLLM request's extra_args: False lets it generate anything


@lru_cache(maxsize=8)
def load_constraint(
    name: str | os.PathLike, revision: str | None = None, device: str | torch.device = "cpu"
) -> ItemLogitsProcessor:
    """
    The constraint of a plain checkpoint. What is generated begins with a semantic ID; after it come the end of
    sequence and `<|sid_end|>` alone.

    Args:
        name, revision, device: as for [`~sid_tokens.load_trie`], whose errors it raises.
    """
    trie = load_trie(name, revision, device)
    tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    ends = {tokenizer.eos_token_id, tokenizer.get_vocab().get(END)} - {None}
    return ItemLogitsProcessor(trie, prompt_length=0, fallback_token_ids=sorted(ends))


def is_constrained(params: Any) -> bool:
    """Whether a vLLM request is to be constrained, by its sampling parameters."""
    return bool((getattr(params, "extra_args", None) or {}).get(SWITCH, True))


def check_switch(params: Any) -> None:
    """Raises ValueError if a vLLM request has a switch that is neither on nor off."""
    value = (getattr(params, "extra_args", None) or {}).get(SWITCH, True)
    if not isinstance(value, bool):
        raise ValueError(f"extra_args {SWITCH!r} must be true or false, got {value!r}.")


def constrain(constraint: ItemLogitsProcessor, logits: Tensor, generated: Mapping[int, Sequence[int]]) -> Tensor:
    """
    Sets logits of tokens that lead to no item to -inf, in place.

    Args:
        constraint ([`ItemLogitsProcessor`]): what [`load_constraint`] gives.
        logits (`torch.FloatTensor` of shape `(rows, vocab_size)`): of the next token.
        generated (`Mapping[int, Sequence[int]]`): rows to constrain, with the tokens that each has generated.
    """
    by_length: dict[int, list[int]] = {}
    for row, tokens in generated.items():
        by_length.setdefault(len(tokens), []).append(row)
    for length, rows in by_length.items():
        prefixes = torch.tensor([list(generated[row]) for row in rows], dtype=torch.long, device=logits.device)
        logits[rows] = constraint(prefixes.view(len(rows), length), logits[rows])
    return logits


__all__ = ["check_switch", "constrain", "is_constrained", "load_constraint"]
