"""The constraint to items that exist, for engines that serve plain checkpoints: one row of logits per request."""

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor
from transformers import AutoTokenizer

from modeling_utgrec.generation_items import ItemLogitsProcessor
from trainers.hub.sid_tokens import END, load_trie


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
        tokens = torch.tensor([list(generated[row]) for row in rows], dtype=torch.long, device=logits.device)
        logits[rows] = constraint(tokens.view(len(rows), length), logits[rows])
    return logits


__all__ = ["constrain", "load_constraint"]
