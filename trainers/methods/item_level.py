"""The item-level recommender on any tokenizer's semantic IDs: its arguments, how it is trained by default, and how it
is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from transformers import set_seed

from modeling_utgrec import ItemLevelConfig, ItemLevelForCausalLM, ItemTrie
from tokenization_items.item_index import ItemIndex
from tokenization_items.tokenization_items import UniversalItemTokenizer
from trainers.methods.published import Published
from trainers.recommender_trainer import RecommenderTrainingArguments


@dataclass
class ItemLevelArguments:
    """The item-level recommender."""

    hidden_size: int = field(default=64, metadata={"help": "Width."})
    num_layers: int = field(default=2, metadata={"help": "Blocks over the history."})
    num_heads: int = field(default=2, metadata={"help": "Attention heads."})
    depth_layers: int = field(default=1, metadata={"help": "Residual layers of the head that writes codes."})
    hidden_dropout: float = field(default=0.3, metadata={"help": "Dropout of the input and of layers' outputs."})
    attention_dropout: float = field(default=0.0, metadata={"help": "Dropout of attention weights."})
    content: bool = field(default=True, metadata={"help": "Read the items' text embeddings beside their codes."})
    item_residuals: bool = field(
        default=True, metadata={"help": "Give every item of the training an embedding of its own, too."}
    )
    residual_dropout: float = field(
        default=0.5, metadata={"help": "Share of items read without their own embedding in training."}
    )
    node_content: bool | None = field(
        default=None, metadata={"help": "Predict codes by the content of what they lead to; default: if it is read."}
    )
    read_codes: bool | None = field(
        default=None, metadata={"help": "Read items by their codes, too; default: without node_content."}
    )
    write_codes: bool | None = field(
        default=None, metadata={"help": "Predict codes by embeddings, too; default: without node_content."}
    )
    node_counts: bool | None = field(
        default=None,
        metadata={
            "help": "Let codes begin as likely as they have items; default: where content alone is read and written."
        },
    )
    start_from_content: bool | None = field(
        default=None,
        metadata={
            "help": "Begin as the likeness to the history's items, not at random; default: where content alone is "
            "read and written."
        },
    )
    tie_word_embeddings: bool = field(default=False, metadata={"help": "One matrix for codes read and predicted."})
    normalize_over: str = field(
        default="items",
        metadata={"help": "'items', the codes that exist after a prefix, or 'vocabulary': all codes of a level."},
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "Validations without a better NDCG@10 before the training stops."},
    )

    def __post_init__(self) -> None:
        """Raises the configuration's error for what no recommender can be, before semantic IDs are made."""
        config = ItemLevelConfig(content_size=1 if self.content else None, **architecture(self))
        if self.start_from_content and not config.node_content:
            raise ValueError("`start_from_content` is of nodes' content: turn `node_content` on, or leave it off.")


@dataclass
class ItemLevelTrainingArguments(RecommenderTrainingArguments):
    """Arguments of [`RecommenderTrainer`] for an item-level recommender. Code embeddings that start small (standard
    deviation .02) need a high learning rate: with 1e-3 they do not get off the ground in 24 epochs of a small domain.
    At such a rate validation goes up and down by a tenth from epoch to epoch, and what counts is that it falls to its
    end: a long schedule that early stopping cuts is worse than a short one.

    > Parameters with a new default: `learning_rate`, `num_train_epochs`, `per_device_train_batch_size` (rows of
    `max_history` items, filled with whole sequences), `max_grad_norm`, `horizon`.
    """

    learning_rate: float = field(default=5e-3, metadata={"help": "Peak learning rate."})
    num_train_epochs: float = field(default=30.0, metadata={"help": "Passes over all training sequences, at most."})
    per_device_train_batch_size: int = field(
        default=64, metadata={"help": "Rows of `max_history` items per device and step."}
    )
    max_grad_norm: float = field(
        default=0.33, metadata={"help": "Largest norm of the gradient of the mean over the codes."}
    )
    horizon: int | None = field(
        default=10,
        metadata={"help": "Items that follow of which a target is drawn, near ones more often; 1: the next."},
    )


# The arguments that are the configuration's.
ARCHITECTURE = {each.name for each in fields(ItemLevelArguments)} & {each.name for each in fields(ItemLevelConfig)}


def architecture(arguments: ItemLevelArguments) -> dict[str, Any]:
    """The configuration's values among the arguments."""
    values = {name: getattr(arguments, name) for name in ARCHITECTURE}
    if values["node_counts"] is None:
        values["node_counts"] = False
        values["node_counts"] = by_content_alone(
            ItemLevelConfig(content_size=1 if arguments.content else None, **values)
        )
    return values


def by_content_alone(config: ItemLevelConfig) -> bool:
    """Whether items are read, and codes predicted, by content and not by embeddings of codes."""
    return bool(config.node_content) and not config.read_codes and not config.write_codes


def set_item_content(index: ItemIndex, item_ids: Sequence[str], vectors: np.ndarray, encoder: str | None) -> None:
    """
    Gives the items of an index their content vectors.

    Args:
        index ([`ItemIndex`]): its items that are not among `item_ids` get zeros, which stand for no content.
        item_ids (`Sequence[str]`): items with content, in any order.
        vectors (`np.ndarray` of shape `(items, width)`): of these.
        encoder (`str`, *optional*): fingerprint of their encoder, see [`encoder_fingerprint`].

    Raises:
        UnknownItemError: the index lacks items.
    """
    content = np.zeros((len(index), vectors.shape[1]), vectors.dtype)
    content[index.rows(item_ids)] = vectors
    index.set_content(content, encoder)


PUBLISHED_RECOMMENDER = Published("no paper: an item-level recommender with a depth head")


def new_item_level(
    arguments: ItemLevelArguments,
    tokenizer: UniversalItemTokenizer,
    seed: int,
    trie: ItemTrie | None = None,
    domains: Sequence[ItemTrie] = (),
) -> ItemLevelForCausalLM:
    """A recommender with random weights for a tokenizer's semantic IDs; with `arguments.content` it reads the content
    vectors of the tokenizer's index. Its catalogue is the tokenizer's, or that of `trie` and `domains`, see
    [`ItemLevelForCausalLM.set_catalogue`].

    Raises:
        ValueError: if it is to read content and the index has none.
    """
    index = tokenizer.index
    if arguments.content and index.content is None:
        raise ValueError(
            "The recommender is to read content vectors, and the item index has none: give them to it by "
            "ItemIndex.set_content, or turn `content` off."
        )
    values = architecture(arguments)
    if arguments.content and index.content is not None:
        values |= {"content_size": index.content.shape[1], "content_encoder_fingerprint": index.content_encoder}
    config = ItemLevelConfig(
        level_sizes=index.level_sizes,
        level_offsets=index.level_offsets,
        max_history=tokenizer.max_history,
        num_item_residuals=len(index) if arguments.item_residuals else 0,
        item_tokenizer_fingerprint=tokenizer.fingerprint,
        **values,
    )
    set_seed(seed)
    recommender = ItemLevelForCausalLM(config)
    recommender.set_catalogue(tokenizer.trie if trie is None else trie, domains)
    if by_content_alone(config) if arguments.start_from_content is None else arguments.start_from_content:
        recommender.start_from_content()
    return recommender
