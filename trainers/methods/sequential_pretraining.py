"""Pre-training of sequential baselines on several domains at once: UniSRec, VQ-Rec, MISSRec."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from transformers import set_seed

from hub_cards import method_named
from modeling_utgrec import (
    MISSRecConfig,
    MISSRecForPreTraining,
    SequentialConfig,
    UniSRecConfig,
    UniSRecForPreTraining,
    VQRecConfig,
    VQRecForPreTraining,
)
from modeling_utgrec.modeling_content import ContentForNextItem
from tokenization_items.catalogue import Catalogue
from trainers.data.domains import Domain
from trainers.data.interactions import Interactions
from trainers.methods.item_tables import Content, MakesTables, modality_tables, text_tables
from trainers.methods.product_quantizer import code_tables
from trainers.methods.runs import data_facts, last_checkpoint, stopping
from trainers.methods.sequential import SequentialArguments
from trainers.sequential_trainer import SequentialTrainer, SequentialTrainingArguments
from trainers.training_data.sequence_windows import SequenceWindows

WORD_DROP = 0.15  # share of a text's words that its second embedding lacks


@dataclass(frozen=True)
class SequentialPretraining:
    """
    A baseline that is pre-trained on several domains.

    Args:
        config_class, model_class (`type`): of the model in pre-training.
        tables (`MakesTables`): what the items of all domains are made from.
    """

    config_class: type[SequentialConfig]
    model_class: Callable[[Any], ContentForNextItem]
    tables: MakesTables


PRETRAINED: dict[str, SequentialPretraining] = {
    "unisrec": SequentialPretraining(UniSRecConfig, UniSRecForPreTraining, text_tables),
    "missrec": SequentialPretraining(MISSRecConfig, MISSRecForPreTraining, modality_tables),
    "vq-rec": SequentialPretraining(VQRecConfig, VQRecForPreTraining, code_tables),
}


def with_fewer_words(catalogue: Catalogue, seed: int) -> Catalogue:
    """The catalogue with texts that lack some of their words; at least one is left (Hou et al. 2022, section
    2.2.2)."""
    rng = np.random.default_rng(seed)
    texts = []
    for text in catalogue.texts:
        words = np.array(text.split(), dtype=object)
        kept = rng.random(len(words)) >= WORD_DROP
        if len(words) and not kept.any():
            kept[rng.integers(len(words))] = True
        texts.append(" ".join(words[kept]))
    return replace(catalogue, texts=texts)


def _with_all(images: Mapping[str, Content], domains: list[Domain]) -> dict[str, Content]:
    """Images of all domains: NaN in one that has none."""
    known = next(iter(images.values()))
    width = known.vectors.shape[1]
    return {
        domain.name: images.get(
            domain.name,
            replace(known, vectors=np.full((domain.interactions.num_items, width), np.nan, np.float32)),
        )
        for domain in domains
    }


def pretraining_windows(
    name: str, domains: Sequence[Domain], arguments: SequentialArguments, training: SequentialTrainingArguments
) -> SequenceWindows:
    """
    What a baseline of [`PRETRAINED`] is pre-trained on: the training parts of several domains.

    Raises:
        ValueError: there are fewer targets than one batch.
    """
    part = Interactions.concatenate([domain.interactions for domain in domains]).training_part()
    targets = PRETRAINED[name].model_class.training_targets  # type: ignore[attr-defined]
    windows = SequenceWindows(part, targets, arguments.max_history)
    batch = training.train_batch_size * training.world_size
    if len(windows) < batch:
        raise ValueError(
            f"The domains have {len(windows)} targets, fewer than one batch of {batch}: lower "
            "--sequential.per_device_train_batch_size."
        )
    return windows


def pretrain_sequential(
    name: str,
    domains: list[Domain],
    content: Mapping[str, Content],
    arguments: SequentialArguments,
    training: SequentialTrainingArguments,
    fewer_words: np.ndarray | None = None,
    images: Mapping[str, Content] | None = None,
    minutes: float | None = None,
    resume: bool = False,
) -> SequentialTrainer:
    """
    Pre-trains a baseline of [`PRETRAINED`] on the training parts of several domains, of which every batch is a
    mixture: a domain's share is its share of the targets.

    Args:
        name (`str`): of [`PRETRAINED`].
        domains (`list[Domain]`): two at least: negatives of other domains are what makes the items comparable.
        content (`Mapping[str, Content]`): of each domain by name, of one encoder.
        arguments, training, minutes, resume: as [`~trainers.methods.sequential.train_sequential`]. Batches of less
            than the whole size are left out.
        fewer_words (`np.ndarray`, *optional*): embeddings of the texts of all domains without some of their words.
        images (`Mapping[str, Content]`, *optional*): embeddings of the items' images in the domains that have any, for
            MISSRec.

    Returns:
        The trainer; its model has the items of all domains, see `without_items`.

    Raises:
        ValueError: one domain, content of different encoders, or as [`SequentialTrainer`].
    """
    if len(domains) < 2:
        raise ValueError(
            f"Pre-training contrasts items of several domains, and there is {domains[0].name} alone: give further "
            "folders by --data, or train from scratch on this one by `utgrec train-baseline`."
        )
    pretraining_windows(name, domains, arguments, training)  # known before items are made
    method = PRETRAINED[name]
    interactions = Interactions.concatenate([domain.interactions for domain in domains])
    part = interactions.training_part()
    inputs: dict[str, Any] = {"text": Content.concatenate({domain.name: content[domain.name] for domain in domains})}
    if images:
        inputs["images"] = Content.concatenate(_with_all(images, domains))
    values = arguments.architecture(method.config_class)
    items = method.tables(part, inputs, values, training.seed)
    set_seed(training.seed)
    model = method.model_class(method.config_class(num_items=part.num_items, **{**values, **items.config}))
    model.set_items(**items.tables)
    # the loss compares the rows of a batch: all processes have as many, and a rest would be another task
    training.dataloader_drop_last = True
    callbacks = stopping(training, arguments.early_stopping_patience, minutes)
    validation = interactions if training.eval_strategy != "no" else None
    trainer = SequentialTrainer(model, training, part, validation, callbacks, fewer_words=fewer_words)
    found = method_named(model.config.model_type)
    title = name if found is None else found.title
    trainer.card_facts |= data_facts(f"{title}, pre-trained,", domains)
    trainer.train(resume_from_checkpoint=last_checkpoint(training) if resume else None)
    return trainer
