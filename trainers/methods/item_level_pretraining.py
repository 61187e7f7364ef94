"""Pre-training of the item-level recommender on several domains, and where one of a new domain starts from it.

What is learnt there is of no domain: how content vectors are projected and compared, what codes say, how a history is
read. Left out is what belongs to single items, embeddings of their own, and to a catalogue: how popular its codes are,
their biases, and the mean of its content, without which every domain's vectors are read, in pre-training as in
fine-tuning. The domains share the item tokenizer, so a code means the same in all of them. The loss of a target is
over the items of its domain, which are those that there are in recommending: over all domains' items the network
learns above all to tell domains apart, and of one that it has not seen all items look alike.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from transformers import AutoConfig

from modeling_utgrec import ItemLevelConfig, ItemLevelForCausalLM, ItemTrie
from modeling_utgrec.checkpoint_safety import SAFELY
from tokenization_items.item_index import ItemIndex
from tokenization_items.tokenization_items import UniversalItemTokenizer
from trainers.data.domains import Domain
from trainers.methods.item_level import ARCHITECTURE, ItemLevelArguments, new_item_level, set_item_content
from trainers.methods.item_tables import Content
from trainers.methods.runs import train_recommender
from trainers.recommender_trainer import RecommenderTrainer, RecommenderTrainingArguments

logger = logging.getLogger(__name__)

# Weights and buffers of a domain's items, which a recommender of another one does not take.
OF_A_DOMAIN = ("content_mean", "residual_keys", "residuals.weight", "code_biases", "lm_head.bias")
# Settings of a fine-tuning, not of what was pre-trained.
OF_A_TRAINING = {"hidden_dropout", "attention_dropout", "residual_dropout"}
MUST_AGREE = ("level_sizes", "level_offsets", "content_size", "max_history")


def without_mean(vectors: np.ndarray) -> np.ndarray:
    """Content vectors `[items, width]` without their mean, float32; zeros, of items without content, stay."""
    vectors = np.asarray(vectors, np.float32)
    given = vectors.any(axis=1, keepdims=True)
    return (vectors - vectors.mean(axis=0, dtype=np.float64).astype(np.float32)) * given


def set_centred_content(
    domains: Sequence[Domain],
    tokenizers: Mapping[str, UniversalItemTokenizer],
    content: Mapping[str, Content],
    encoder: str | None,
) -> None:
    """Gives the items of each domain's index their content vectors, without the domain's mean.

    Args:
        domains (`Sequence[Domain]`): whose items they are.
        tokenizers (`Mapping[str, UniversalItemTokenizer]`): each domain's, by name.
        content (`Mapping[str, Content]`): each domain's, rows as its items.
        encoder (`str`, *optional*): fingerprint of their encoder, see [`encoder_fingerprint`].

    Raises:
        ValueError: content of different encoders.
        UnknownItemError: an index lacks items.
    """
    Content.concatenate({domain.name: content[domain.name] for domain in domains})
    for domain in domains:
        vectors = without_mean(content[domain.name].vectors)
        set_item_content(tokenizers[domain.name].index, domain.interactions.item_ids, vectors, encoder)


def joint_trie(indices: Sequence[ItemIndex]) -> ItemTrie:
    """
    The semantic IDs that exist in any of several indices, each once.

    Args:
        indices (`Sequence[ItemIndex]`): of one item tokenizer, all with content or none.

    Returns:
        [`ItemTrie`], whose items are semantic IDs, in lexicographic order; its content is the mean of that of all
        items with the semantic ID, of whatever domain.
    """
    first = indices[0]
    codes, places = np.unique(
        np.concatenate([index.codes for index in indices]).astype(np.int64), axis=0, return_inverse=True
    )
    content = None
    if first.content is not None:
        vectors = np.concatenate([np.asarray(index.content, np.float32) for index in indices])
        content = np.zeros((len(codes), vectors.shape[1]), np.float32)
        np.add.at(content, places.reshape(-1), vectors)
        content /= np.bincount(places.reshape(-1), minlength=len(codes))[:, None]
    return ItemTrie(codes, first.level_sizes, first.level_offsets, content=content)


def pretrain_item_level(
    domains: list[Domain],
    tokenizers: Mapping[str, UniversalItemTokenizer],
    arguments: ItemLevelArguments,
    training: RecommenderTrainingArguments,
    resume: bool = False,
    minutes: float | None = None,
) -> RecommenderTrainer:
    """
    Pre-trains an item-level recommender on the training parts of several domains.

    Args:
        domains (`list[Domain]`): whose interactions are learnt from.
        tokenizers (`Mapping[str, UniversalItemTokenizer]`): semantic IDs of each domain, of one item tokenizer, with
            content that [`set_centred_content`] gave them if `arguments.content`.
        arguments ([`ItemLevelArguments`]): the recommender. No item gets an embedding of its own.
        training, resume, minutes: as [`~trainers.methods.runs.train_recommender`].

    Returns:
        The trainer, with the recommender as its model.

    Raises:
        TokenizerMismatchError: the domains' semantic IDs are of different item tokenizers.
    """
    own = [tokenizers[domain.name] for domain in domains]
    arguments = replace(arguments, item_residuals=False)
    trie = joint_trie([tokenizer.index for tokenizer in own])
    recommender = new_item_level(arguments, own[0], training.seed, trie, [tokenizer.trie for tokenizer in own])
    return train_recommender(
        recommender,
        domains,
        {domain.name: tokenizers[domain.name] for domain in domains},
        training,
        arguments.early_stopping_patience,
        resume,
        minutes,
        method="item_level",
    )


def as_pretrained(arguments: ItemLevelArguments, pretrained: str | Path) -> ItemLevelArguments:
    """The arguments with the architecture of a pre-trained recommender; what is of a training, dropout, stays."""
    config = AutoConfig.from_pretrained(pretrained, trust_remote_code=False)
    if not isinstance(config, ItemLevelConfig):
        raise ValueError(f"{pretrained} holds a {config.model_type}, no item-level recommender to start from.")
    values = {name: getattr(config, name) for name in ARCHITECTURE - OF_A_TRAINING}
    return replace(arguments, content=config.content_size is not None, start_from_content=False, **values)


def start_from(recommender: ItemLevelForCausalLM, pretrained: str | Path) -> None:
    """
    Gives a new recommender the weights of a pre-trained one; embeddings of single items and the codes' biases stay as
    they are.

    Args:
        recommender ([`ItemLevelForCausalLM`]): made with the arguments of [`as_pretrained`], with its catalogue.
        pretrained (`str` or `Path`): folder of the pre-trained recommender.

    Raises:
        ValueError: semantic IDs, content or history are of another kind.
    """
    source = ItemLevelForCausalLM.from_pretrained(pretrained, **SAFELY)
    ours, theirs = recommender.config, source.config
    for name in MUST_AGREE:
        if getattr(ours, name) != getattr(theirs, name):
            raise ValueError(
                f"{pretrained} was pre-trained with {name} {getattr(theirs, name)}, and here it is "
                f"{getattr(ours, name)}: take semantic IDs of its item tokenizer, content of its encoder and its "
                "length of histories."
            )
    encoders = ours.content_encoder_fingerprint, theirs.content_encoder_fingerprint
    if None not in encoders and encoders[0] != encoders[1]:
        raise ValueError(
            f"{pretrained} was pre-trained on content of the encoder with fingerprint {encoders[1]}, and here it is "
            f"of {encoders[0]}: embed the items with the same encoder and settings."
        )
    if ours.item_tokenizer_fingerprint != theirs.item_tokenizer_fingerprint:
        logger.warning(
            f"{pretrained} was pre-trained on the semantic IDs of another item tokenizer: its codes mean the same "
            "only if this one was fine-tuned from it."
        )
    state = {name: value for name, value in source.state_dict().items() if name not in OF_A_DOMAIN}
    missing, unexpected = recommender.load_state_dict(state, strict=False)
    left = sorted(set(missing) - set(OF_A_DOMAIN)) + sorted(unexpected)
    if left:
        raise ValueError(f"{pretrained} is of another architecture: it has not, or has beside, {', '.join(left)}.")
