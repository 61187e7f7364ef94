"""The stages of RecBase, as the examples run them: identifiers of every domain, and a decoder over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from torch import Tensor
from transformers import set_seed

from modeling_utgrec import RecBaseConfig, RecBaseForCausalLM
from tokenization_items.item_index import CODES_NAME
from tokenization_items.tokenization_items import TokenizerMismatchError, UniversalItemTokenizer
from trainers.domains import Domain
from trainers.recommender_trainer import RecommenderTrainingArguments

ITEMS_FOLDER = "items"


@dataclass
class RecBaseArguments:
    """The recommender's decoder; what is not given follows from `size`."""

    size: Literal["tiny", "base", "large"] = field(
        default="base", metadata={"help": "Sizes of the paper, 0.3 and 1.5 billion parameters, or a tiny decoder."}
    )
    hidden_size: int | None = field(default=None, metadata={"help": "Width."})
    intermediate_size: int | None = field(default=None, metadata={"help": "Width of the feed-forward layers."})
    num_hidden_layers: int | None = field(default=None, metadata={"help": "Layers."})
    num_attention_heads: int | None = field(default=None, metadata={"help": "Heads."})
    num_key_value_heads: int | None = field(default=None, metadata={"help": "Heads of keys and values."})
    head_dim: int | None = field(default=None, metadata={"help": "Width of a head."})
    attention_dropout: float = field(default=0.0, metadata={"help": "Dropout of the attention's weights."})
    tie_word_embeddings: bool = field(default=False, metadata={"help": "One matrix for codes read and written."})
    normalize_over: str = field(
        default="vocabulary", metadata={"help": "'vocabulary', or 'items': the codes that exist after a prefix."}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Evaluations without a better NDCG@10 before the training stops."}
    )


# What the flags `--recommender.<flag>` of the examples set, see `trainers.arguments`.
RECBASE_SECTIONS = {"recommender": (RecBaseArguments, RecommenderTrainingArguments)}
# The arguments that are the configuration's.
ARCHITECTURE = {each.name for each in fields(RecBaseArguments)} & {each.name for each in fields(RecBaseConfig)}


def write_recbase_identifiers(output: Path, domains: list[Domain]) -> None:
    """The stages before the recommender, which end with the identifiers of every domain in `items/<domain>/` of the
    output folder. Those that are there are kept.

    Raises:
        ValueError, UnknownItemError, TokenizerMismatchError: as [`load_identifiers`].
    """
    load_identifiers(output, domains)


def load_identifiers(folder: str | Path, domains: list[Domain]) -> dict[str, UniversalItemTokenizer]:
    """The identifiers in `items/<domain>/` of a folder, all made by one item tokenizer.

    Raises:
        ValueError: a domain has none there.
        UnknownItemError: an index lacks items of its domain.
        TokenizerMismatchError: the domains' identifiers are of different item tokenizers.
    """
    folder = Path(folder) / ITEMS_FOLDER
    lacking = [domain.name for domain in domains if not (folder / domain.name / CODES_NAME).is_file()]
    if lacking:
        raise ValueError(
            f"{folder} holds no identifiers of {', '.join(lacking)}: tokenize the domain's items into a folder of its "
            "name there first."
        )
    tokenizers = {domain.name: UniversalItemTokenizer.from_pretrained(folder / domain.name) for domain in domains}
    for domain in domains:
        tokenizers[domain.name].index.rows(domain.catalogue.item_ids)
    first = domains[0].name
    for name, tokenizer in tokenizers.items():
        if tokenizer.fingerprint != tokenizers[first].fingerprint:
            raise TokenizerMismatchError(
                f"{folder}: the identifiers of {first} are of the item tokenizer {tokenizers[first].fingerprint}, "
                f"those of {name} of {tokenizer.fingerprint}. A recommender reads those of one tokenizer."
            )
    return tokenizers


def new_recbase(
    arguments: RecBaseArguments,
    tokenizer: UniversalItemTokenizer,
    seed: int,
    codebooks: Sequence[Tensor] | None = None,
) -> RecBaseForCausalLM:
    """A recommender with random weights for a tokenizer's identifiers; with the tokenizer's `codebooks`, one `(codes,
    D)` for each level, the code embeddings start from them (see [`RecBaseForCausalLM.warm_start`])."""
    given = {name: getattr(arguments, name) for name in ARCHITECTURE}
    config = getattr(RecBaseConfig, arguments.size)(
        level_sizes=tokenizer.index.level_sizes,
        max_history=tokenizer.max_history,
        item_tokenizer_fingerprint=tokenizer.fingerprint,
        **{name: value for name, value in given.items() if value is not None},
    )
    set_seed(seed)
    recommender = RecBaseForCausalLM(config)
    tokenizer.check_recommender(recommender)
    if codebooks is not None:
        recommender.warm_start(codebooks)
    return recommender
