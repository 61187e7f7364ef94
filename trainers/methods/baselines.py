"""Baselines by name: sequential models, and recommenders on the semantic IDs of an item tokenizer, with what each says
of itself and of how it differs from what was published."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from transformers import PreTrainedModel, TrainingArguments

from modeling_utgrec import ItemLevelForCausalLM, RecBaseForCausalLM, SequentialForNextItem
from modeling_utgrec.generation_mixin import ItemRecommendation
from tokenization_items import UniversalItemTokenizer
from tokenization_items.image_encoders import ImageEncoder
from tokenization_items.item_embeddings import embed_items, encoder_fingerprint, load_embeddings, save_embeddings
from tokenization_items.text_encoders import TextEncoder
from tokenization_items.text_statistics import TF_IDF, TextStatistics
from trainers.data.domains import Domain
from trainers.data.item_attributes import ItemAttributes, read_attributes
from trainers.embedding_tokenizer_trainer import EmbeddingTokenizerTrainingArguments
from trainers.hub.model_facts import method_of
from trainers.methods import item_level, recbase, utgrec
from trainers.methods.item_level import ItemLevelArguments, new_item_level
from trainers.methods.item_level_pretraining import as_pretrained, start_from
from trainers.methods.item_tables import Content
from trainers.methods.published import Published, describe, settings_of
from trainers.methods.recbase import RecBaseArguments, new_recbase
from trainers.methods.runs import last_checkpoint, place_training, train_recommender
from trainers.methods.semantic_ids import REPORT_NAME, SEMANTIC_IDS, TokenizedItems, load_tokenized_items
from trainers.methods.sequential import SequentialArguments, train_sequential
from trainers.methods.sequential_methods import SEQUENTIAL
from trainers.methods.transition_embeddings import transition_embeddings
from trainers.methods.utgrec import LevelLayout, RecommenderArguments, new_recommender
from trainers.rankers.generative import load_model
from trainers.recommender_trainer import RecommenderTrainer, RecommenderTrainingArguments
from trainers.sequential_trainer import SequentialTrainer, SequentialTrainingArguments

# After the name of semantic IDs, what is trained on them instead of a T5:
DECODER = "-decoder"  # a decoder, RecBase's
ITEM_LEVEL = "-item-level"  # a recommender with one position an item and a depth head
GIVEN = "item-level"  # the same on semantic IDs that are there already
NAMES = (*SEQUENTIAL, *(f"{name}{kind}" for kind in ("", DECODER, ITEM_LEVEL) for name in SEMANTIC_IDS), GIVEN)


def semantic_ids_of(name: str) -> str:
    """The method of [`SEMANTIC_IDS`] in a baseline's name."""
    return name.removesuffix(DECODER).removesuffix(ITEM_LEVEL)


def inputs_of(name: str) -> tuple[str, ...]:
    """What is to be known of the items for a baseline of [`NAMES`] or its semantic IDs."""
    if name in SEQUENTIAL:
        return SEQUENTIAL[name].inputs
    return () if name == GIVEN else SEMANTIC_IDS[semantic_ids_of(name)].inputs


class NotApplicable(ValueError):
    """A model cannot be had for a domain with what was given; the message says why."""


@dataclass
class ItemEmbeddings:
    """
    Embeddings of a domain's items: read from a folder, or made when they are first asked for and kept.

    Args:
        domain ([`Domain`]): the items and their interactions.
        folder (`Path`): where embeddings that are made go; what is there is not made again.
        text_encoder, image_encoder (`str`, *optional*): Hub ids or folders; a text encoder may be `"tf-idf"`.
        text_folder, image_folder (`str`, *optional*): folders of embeddings, which need no encoder.
        collaborative_training ([`SequentialTrainingArguments`], *optional*): of the SASRec whose item embeddings are
            the collaborative ones; its seed counts.
        patience, minutes (*optional*): when its training stops.
        resume (`bool`, *optional*, defaults to `False`): whether it goes on from its last checkpoint.
    """

    domain: Domain
    folder: Path
    text_encoder: str | None = None
    image_encoder: str | None = None
    text_folder: str | None = None
    image_folder: str | None = None
    collaborative_training: SequentialTrainingArguments | None = None
    patience: int | None = None
    minutes: float | None = None
    resume: bool = False

    @property
    def item_ids(self) -> list[str]:
        return self.domain.interactions.item_ids

    def check(self, names: Iterable[str]) -> None:
        """
        Looks whether inputs of a method can be had, before there is any work: what is in folders is read, and what an
        encoder or a training makes is not made yet.

        Args:
            names (`Iterable[str]`): of [`inputs_of`].

        Raises:
            NotApplicable: one cannot be had.
            EmbeddingError: a folder has not the embeddings of these items.
        """
        for name in names:
            if name == "text" and self.text_folder is not None:
                _ = self.text
            elif name == "text" and self.text_encoder is None:
                raise NotApplicable("It needs text embeddings: give --text_encoder, or --embeddings of `embed`.")
            elif name == "images" and self.image_folder is not None:
                _ = self.images
            elif name == "images" and self.image_encoder is None:
                raise NotApplicable(
                    "It needs image embeddings: give --image_encoder, or --image_embeddings of `embed`."
                )
            elif name == "images" and not any(map(self.domain.catalogue.has_image, range(len(self.item_ids)))):
                raise NotApplicable(f"No item of {self.domain.name} has an image.")
            elif name == "attributes":
                _ = self.attributes

    @cached_property
    def text(self) -> np.ndarray:
        """Float32 `(items, E)`."""
        return self.text_content.vectors

    @cached_property
    def text_content(self) -> Content:
        """The same, with the encoder that it is of."""
        if self.text_folder is not None:
            return Content.of_folder(self.text_folder, load_embeddings(self.text_folder, self.item_ids))
        self.check(["text"])
        folder, name = self.folder / "text-embeddings", str(self.text_encoder)
        with PartialState().main_process_first():  # the others find it done
            encoder = TextStatistics() if name == TF_IDF else TextEncoder.from_pretrained(name)
            try:
                embed_items(self.domain.catalogue, encoder, folder)
            except ValueError as error:
                raise NotApplicable(f"No embeddings can be made of the texts: {error}") from error
        return Content.of_folder(folder, load_embeddings(folder, self.item_ids))

    def of_items(self, names: Iterable[str]) -> dict[str, Any]:
        """What a sequential baseline's items are made from, by the names of [`SequentialMethod`]'s `inputs`."""
        known = {"text": "text_content", "images": "image_content", "attributes": "attributes"}
        return {name: getattr(self, known[name]) for name in names}

    @cached_property
    def attributes(self) -> ItemAttributes:
        """Categories and brands, as the data folder has them."""
        if self.domain.folder is None:
            raise NotApplicable("It needs attributes of items, which are read from a data folder.")
        try:
            return read_attributes(self.domain.folder, self.item_ids)
        except ValueError as error:
            raise NotApplicable(str(error)) from None

    def text_encoder_fingerprint(self, fitted: bool = False) -> str | None:
        """What made `text`, see [`encoder_fingerprint`]."""
        _ = self.text  # made now, if it was not
        folder = self.folder / "text-embeddings" if self.text_folder is None else self.text_folder
        return encoder_fingerprint(folder, fitted)

    @cached_property
    def images(self) -> np.ndarray:
        """Float32 `(items, F)`, NaN for items without image."""
        return self.image_content.vectors

    @cached_property
    def image_content(self) -> Content:
        """The same, with the encoder that it is of."""
        if self.image_folder is not None:
            vectors = load_embeddings(self.image_folder, self.item_ids, allow_missing=True)
            return Content.of_folder(self.image_folder, vectors)
        self.check(["images"])
        folder = self.folder / "image-embeddings"
        with PartialState().main_process_first():
            embed_items(self.domain.catalogue, ImageEncoder.from_pretrained(str(self.image_encoder)), folder)
        return Content.of_folder(folder, load_embeddings(folder, self.item_ids, allow_missing=True))

    @cached_property
    def transitions(self) -> np.ndarray:
        """Float32 `(items, d)`: what the training interactions say of each item, see [`transition_embeddings`]."""
        return transition_embeddings(self.domain.interactions.training_part())

    @cached_property
    def collaborative(self) -> np.ndarray:
        """Float32 `(items, d)`: item embeddings of a SASRec that has seen the training interactions only."""
        training = self.collaborative_training
        if training is None:
            raise NotApplicable("It needs collaborative embeddings: give the training of a SASRec.")
        folder = self.folder / f"collaborative-embeddings-seed-{training.seed}"
        if not (folder / "embeddings.json").exists():
            training = replace(training, push_to_hub=False)
            place_training(training, folder / "sasrec" / "checkpoints", training.seed)
            arguments = SequentialArguments(early_stopping_patience=self.patience)
            model = train_sequential("sasrec", self.domain, arguments, training, self.minutes, self.resume).model
            assert isinstance(model, SequentialForNextItem)
            embeddings = model.item_embeddings.detach().cpu().numpy()
            if PartialState().is_main_process:
                save_embeddings(folder, self.item_ids, embeddings, {"model": "sasrec", "part": "training"})
            PartialState().wait_for_everyone()
        return load_embeddings(folder, self.item_ids)


@dataclass
class TrainedBaseline:
    """
    A baseline and what is known of it.

    Args:
        model ([`~transformers.PreTrainedModel`]): what recommends.
        trainer ([`SequentialTrainer`] or [`RecommenderTrainer`]): who trained it.
        tokenizer ([`UniversalItemTokenizer`], *optional*): the semantic IDs, for a generative one.
        raw_codes (`np.ndarray`, *optional*): int `(items, levels)`, codes before collisions were resolved, in the
            order of the domain's items.
        description (`dict`): see [`describe`].
    """

    model: PreTrainedModel
    trainer: SequentialTrainer | RecommenderTrainer
    description: dict[str, Any]
    tokenizer: UniversalItemTokenizer | None = None
    raw_codes: np.ndarray | None = None


def train_sequential_baseline(
    name: str,
    domain: Domain,
    arguments: SequentialArguments,
    training: SequentialTrainingArguments,
    minutes: float | None = None,
    resume: bool = False,
    embeddings: ItemEmbeddings | None = None,
    pretrained: str | Path | None = None,
) -> TrainedBaseline:
    """[`train_sequential`], with a description.

    Raises:
        NotApplicable: what is to be known of the items cannot be had.
    """
    names = SEQUENTIAL[name].inputs
    if names and embeddings is None:
        raise NotApplicable(f"It needs what is known of the items: {', '.join(names)}.")
    inputs = {} if embeddings is None else embeddings.of_items(names)
    trainer = train_sequential(name, domain, arguments, training, minutes, resume, inputs, pretrained)
    model = trainer.model
    assert isinstance(model, SequentialForNextItem)
    used, method = settings_of(model.config, training), SEQUENTIAL[name]
    if "pretrained_on_other_domains" in method.published.settings:
        used["pretrained_on_other_domains"] = pretrained is not None
    if "pretraining_epochs" in method.published.settings:
        used["pretraining_epochs"] = arguments.pretraining_epochs if method.pretraining else 0
    return TrainedBaseline(model, trainer, describe(model, used, SEQUENTIAL[name].published))


def make_semantic_ids(
    name: str,
    embeddings: ItemEmbeddings,
    folder: Path,
    training: EmbeddingTokenizerTrainingArguments | None = None,
    seed: int = 0,
    resume: bool = False,
    **config: Any,
) -> TokenizedItems:
    """
    Semantic IDs of a domain's items by one of [`SEMANTIC_IDS`].

    Args:
        name (`str`): of the method.
        embeddings ([`ItemEmbeddings`]): what it is made from.
        folder (`Path`): where the tokenizer goes.
        training ([`EmbeddingTokenizerTrainingArguments`], *optional*): of its network.
        seed (`int`, *optional*, defaults to 0): of weights, batches and k-means.
        resume (`bool`, *optional*, defaults to `False`): take what is finished, else go on from the last checkpoint.
        config: further arguments of the method.

    Raises:
        NotApplicable: if embeddings cannot be had.
    """
    method = SEMANTIC_IDS[name]
    if resume and (folder / REPORT_NAME).is_file():
        return load_tokenized_items(folder)
    # What not every domain has comes first, and what takes a training last.
    made: dict[str, np.ndarray] = {
        each: getattr(embeddings, each)
        for each in ("images", "text", "transitions", "collaborative")
        if each in method.inputs
    }
    if method.trained:
        training = EmbeddingTokenizerTrainingArguments() if training is None else training
        training = replace(training)
        place_training(training, folder / "training", seed)
        if resume:
            training.resume_from_checkpoint = last_checkpoint(training) or training.resume_from_checkpoint
        config["training"] = training
    return method.function(*(made[each] for each in method.inputs), embeddings.item_ids, folder, seed=seed, **config)


def train_generative_baseline(
    name: str,
    domain: Domain,
    items: TokenizedItems,
    arguments: RecommenderArguments | ItemLevelArguments,
    training: RecommenderTrainingArguments,
    tokenizer_training: TrainingArguments | None = None,
    minutes: float | None = None,
    resume: bool = False,
    pretrained: str | Path | None = None,
) -> TrainedBaseline:
    """
    A recommender on semantic IDs: a T5, a decoder of its size if the name ends with `-decoder`, or an item-level
    recommender if it ends with `-item-level`.

    Args:
        name (`str`): of the method that made the semantic IDs, with or without one of these ends; `"item-level"` for
            semantic IDs that were given.
        domain ([`Domain`]): items and interactions.
        items ([`TokenizedItems`]): the semantic IDs.
        arguments ([`RecommenderArguments`] or [`ItemLevelArguments`]): the recommender's size and when to stop. An
            item-level one reads the content of the items' index, if it is to read any.
        training ([`RecommenderTrainingArguments`]): its `output_dir` has the checkpoints; its seed is the weights'.
        tokenizer_training (*optional*): how the tokenizer was trained, for the description.
        minutes (`float`, *optional*): most time.
        resume (`bool`, *optional*, defaults to `False`): go on from the last checkpoint.
        pretrained (`str` or `Path`, *optional*): folder of a recommender of this kind to start from, whose
            architecture counts; of an item-level one see [`start_from`].
    """
    method = SEMANTIC_IDS.get(semantic_ids_of(name))
    items.tokenizer.max_history = training.max_history
    temperature = 1.0 if method is None else method.loss_temperature
    if pretrained is None:
        model = recommender_on(name, items.tokenizer, items, arguments, training.seed, temperature)
    elif isinstance(arguments, ItemLevelArguments):
        arguments = as_pretrained(arguments, pretrained)
        model = recommender_on(name, items.tokenizer, items, arguments, training.seed)
        assert isinstance(model, ItemLevelForCausalLM)
        start_from(model, pretrained)
    else:
        model = load_model(pretrained)
    trainer = train_recommender(
        model,
        [domain],
        {domain.name: items.tokenizer},
        training,
        early_stopping_patience=arguments.early_stopping_patience,
        minutes=minutes,
        resume=resume,
        method=method_of(model.config) if method is None else name,
    )
    used = tokenizer_settings(items, tokenizer_training) | recommender_settings(model, training)
    used["recommender.pretrained_on_other_domains"] = pretrained is not None
    published = published_recommender(model)
    published = published if method is None else method.published | published
    description = describe(model, used, published, items.report)
    raw_codes = items.raw_codes[items.tokenizer.index.rows(domain.interactions.item_ids)]
    return TrainedBaseline(model, trainer, description, items.tokenizer, raw_codes)


def recommender_on(
    name: str,
    tokenizer: UniversalItemTokenizer,
    levels: LevelLayout,
    arguments: RecommenderArguments | ItemLevelArguments,
    seed: int,
    loss_temperature: float = 1.0,
) -> ItemRecommendation:
    """A recommender with random weights on a tokenizer's semantic IDs: an item-level one if these are the arguments,
    RecBase's decoder in the T5's size if the name ends with `-decoder`, else the T5."""
    if isinstance(arguments, ItemLevelArguments):
        return new_item_level(arguments, tokenizer, seed)
    if name.endswith(DECODER):
        return new_recbase(decoder_arguments(arguments), tokenizer, seed)
    return new_recommender(arguments, tokenizer, levels, seed, loss_temperature)


def decoder_arguments(sizes: RecommenderArguments) -> RecBaseArguments:
    """A decoder of about the size of a T5; RecBase's own sizes are for millions of users."""
    return RecBaseArguments(
        size="tiny",
        hidden_size=sizes.d_model,
        intermediate_size=sizes.d_ff,
        num_hidden_layers=sizes.num_layers + 1,
        num_attention_heads=sizes.num_heads,
        head_dim=sizes.d_kv,
        attention_dropout=sizes.dropout_rate,
        embedding_dropout=2 * sizes.dropout_rate,
        normalize_over=sizes.normalize_over,
    )


def tokenizer_settings(items: TokenizedItems, training: TrainingArguments | None) -> dict[str, Any]:
    """What semantic IDs were made with, as [`Published.settings`] names it."""
    config = None if items.network is None else items.network.config
    used = settings_of(config, None if config is None else training, "tokenizer.")
    used |= {f"tokenizer.{name}": value for name, value in items.report.get("settings", {}).items() if config is None}
    return used | {"tokenizer.collisions": items.report["collisions"]}


def recommender_settings(model: PreTrainedModel, training: RecommenderTrainingArguments) -> dict[str, Any]:
    """What a generative recommender was made and trained with, as [`Published.settings`] names it."""
    used = settings_of(model.config, training, "recommender.")
    whole = not model.config.is_encoder_decoder or model.config.causal_encoder
    used["recommender.pretrained_on_other_domains"] = False
    used["recommender.batch_of"] = "whole sequences" if whole else "pairs of a history and its next item"
    return used


def published_recommender(model: PreTrainedModel) -> Published:
    """The published settings of the recommender of a model's kind."""
    if isinstance(model, ItemLevelForCausalLM):
        return item_level.PUBLISHED_RECOMMENDER
    decoder = isinstance(model, RecBaseForCausalLM)
    return recbase.PUBLISHED_RECOMMENDER if decoder else utgrec.PUBLISHED_RECOMMENDER
