"""Plans of trainings for a dry run: how many steps of how many examples, and the memory of weights and optimizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import torch
from accelerate import PartialState
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, TrainingArguments

from modeling_utgrec import (
    ItemLevelConfig,
    RecBaseConfig,
    RecBaseForCausalLM,
    RecBaseTokenizerConfig,
    RQVAEConfig,
    UTGRecConfig,
    UTGRecForConditionalGeneration,
    UTGRecTokenizerConfig,
    UTGRecTokenizerModel,
)
from tokenization_items.catalogue import Catalogue
from tokenization_items.item_index import ItemIndex
from tokenization_items.tokenization_items import UniversalItemTokenizer
from trainers.data.domains import Domain
from trainers.hub.download import ModelPlace
from trainers.hub.upload import format_bytes
from trainers.item_tokenizer_trainer import ItemTokenizerTrainer, ItemTokenizerTrainingArguments
from trainers.methods.backbones import TINY, load_autoencoder, load_backbone, load_tokenizer
from trainers.methods.baselines import recommender_on, semantic_ids_of
from trainers.methods.item_level import ItemLevelArguments
from trainers.methods.recbase import RecBaseArguments, RecBaseTokenizerArguments, new_recbase
from trainers.methods.recbase_tokenizer import RecBaseTokenizerTrainingArguments, curriculum_passes
from trainers.methods.semantic_ids import SEMANTIC_IDS, SemanticIDArguments, TokenizedItems
from trainers.methods.sequential import SequentialArguments, new_sequential
from trainers.methods.sequential_methods import SEQUENTIAL
from trainers.methods.sequential_pretraining import pretraining_windows
from trainers.methods.utgrec import (
    NetworkArguments,
    RecommenderArguments,
    network_config,
    new_recommender,
    with_text_length,
)
from trainers.recommender_trainer import RecommenderTrainingArguments, training_rows
from trainers.runtime.callbacks import check_warmup
from trainers.runtime.trainer_arguments import check_last_batch
from trainers.sequential_trainer import SequentialTrainingArguments
from trainers.training_data.image_latents import latent_shape
from trainers.training_data.next_item_windows import NextItemWindows, TrainingData
from trainers.training_data.sequence_windows import SequenceWindows

ADAMW = 3  # of each trained weight: its gradient, and the two averages that AdamW keeps


@dataclass(frozen=True)
class TrainingPlan:
    """
    What a training will do.

    Args:
        name (`str`): of what is trained.
        examples (`int`): of an epoch, on all processes.
        unit (`str`): what they are.
        batch (`int`): of them in a step, on all processes.
        steps (`int`): of the optimizer, if nothing stops the training before.
        epochs (`float`): passes over the examples.
        weights (`int`): numbers in the model; 0 where they are not known.
        trained (`int`): of them those that are trained.
        num_bytes (`int`): of weights, gradients and the optimizer's state, beside what a step computes.
    """

    name: str
    examples: int
    unit: str
    batch: int
    steps: int
    epochs: float
    weights: int = 0
    trained: int = 0
    num_bytes: int = 0

    def __str__(self) -> str:
        text = (
            f"{self.name}: {self.examples:,} {self.unit}, {self.batch:,} a step, up to {self.epochs:g} epochs: "
            f"{self.steps:,} steps"
        )
        if self.weights:
            text += (
                f"; {self.weights:,} weights, {self.trained:,} of them trained, with gradients and AdamW "
                f"{format_bytes(self.num_bytes)}"
            )
        return text


def plan_training(
    name: str, examples: int, unit: str, training: TrainingArguments, model: PreTrainedModel | None = None
) -> TrainingPlan:
    """
    The plan of a training, counted as [`~transformers.Trainer`] counts.

    Args:
        name (`str`): of what is trained.
        examples (`int`), unit (`str`): of an epoch, and what they are.
        training ([`~transformers.TrainingArguments`]): batches and epochs.
        model ([`~transformers.PreTrainedModel`], *optional*): what is trained; its weights may be on the device meta.

    Raises:
        ValueError: a batch is larger than the data, and to be whole.
    """
    at_once = training.train_batch_size * training.world_size
    whole = training.dataloader_drop_last
    check_last_batch(training, examples)
    batches = examples // at_once if whole else math.ceil(examples / at_once)
    steps = max(1, math.ceil(batches / training.gradient_accumulation_steps))
    total, epochs = math.ceil(training.num_train_epochs * steps), training.num_train_epochs
    if training.max_steps > 0:
        total, epochs = training.max_steps, training.max_steps / steps
    plan = TrainingPlan(name, examples, unit, at_once * training.gradient_accumulation_steps, total, epochs)
    if model is None:
        return plan
    trained = [each for each in model.parameters() if each.requires_grad]
    return replace(
        plan,
        weights=model.num_parameters(),
        trained=sum(each.numel() for each in trained),
        num_bytes=sum(each.nbytes for each in model.parameters()) + ADAMW * sum(each.nbytes for each in trained),
    )


def check_utgrec_warmup(num_items: int, training: ItemTokenizerTrainingArguments) -> None:
    """Raises a `ValueError` if the training of a new item tokenizer on so many items is within the warm-up of its
    codebooks, see [`~trainers.runtime.callbacks.check_warmup`]: known before anything is made for it."""
    accumulation, given = training.gradient_accumulation_steps, training.codebook_warmup_steps
    passes = UTGRecTokenizerConfig.warmup_steps if given is None else given * accumulation
    steps = plan_training("item tokenizer", num_items, "items", training).steps
    check_warmup("codebook_warmup_steps", passes, steps, accumulation)


def check_recbase_curriculum(
    num_items: int, arguments: RecBaseTokenizerArguments, training: RecBaseTokenizerTrainingArguments
) -> None:
    """The same for RecBase's item tokenizer, whose levels come into use one after the other."""
    steps = plan_training("item tokenizer", num_items, "items", training).steps
    passes = curriculum_passes(training, num_items) * (arguments.num_levels - 1)
    if passes:
        check_warmup("curriculum_epochs", passes, steps, training.gradient_accumulation_steps)


def plan_recommender(
    config: PreTrainedConfig,
    domains: Sequence[Domain],
    training: RecommenderTrainingArguments,
    model: PreTrainedModel | None = None,
) -> TrainingPlan:
    """
    The plan of a recommender's training; which semantic IDs the items will have makes no difference to it.

    Args:
        config: of the recommender.
        domains, training: as in the training.
        model ([`~transformers.PreTrainedModel`], *optional*): the recommender; its weights may be on the device meta.
    """
    data = {}
    for domain in domains:
        part = domain.interactions.training_part()
        data[domain.name] = TrainingData(part, np.tile(np.array(config.level_offsets), (part.num_items, 1)))
    rows = training_rows(config, data, training)
    unit = "pairs of a history and its next item"
    if not isinstance(rows, NextItemWindows):
        unit = f"rows of {training.max_history} items"
    return plan_training("recommender", len(rows), unit, training, model)


def plan_utgrec(
    domains: Sequence[Domain],
    network_arguments: NetworkArguments,
    tokenizer_training: ItemTokenizerTrainingArguments,
    recommender_arguments: RecommenderArguments,
    recommender_training: RecommenderTrainingArguments,
    tokenizer: ModelPlace | None = None,
    recommender: ModelPlace | None = None,
    freeze_codes: bool = False,
) -> list[TrainingPlan]:
    """
    Plans of UTGRec's item tokenizer and recommender. Of models only configurations are read.

    Args:
        domains, network_arguments, tokenizer_training, recommender_arguments, recommender_training: as in the
            training.
        tokenizer, recommender ([`ModelPlace`], *optional*): what is trained further; by default what the arguments say
            from random weights.
        freeze_codes (`bool`, *optional*, defaults to `False`): of a pre-trained tokenizer.

    Raises:
        ValueError, OSError: what the training would raise of its arguments, and models that are not there.
    """
    catalogue, config = Catalogue.concatenate([domain.catalogue for domain in domains]), None
    if tokenizer is not None:
        config = UTGRecTokenizerConfig.from_pretrained(tokenizer.name, revision=tokenizer.revision or "main")
    network = unwritten_network(network_arguments, catalogue, config)
    network.set_trainable(freeze_codes and tokenizer is not None, tokenizer_training.freeze_backbone)
    ItemTokenizerTrainer.check_loading(tokenizer_training, len(catalogue))
    if tokenizer is None:
        check_utgrec_warmup(len(catalogue), tokenizer_training)
    plans = [plan_training("item tokenizer", len(catalogue), "items", tokenizer_training, network)]
    with torch.device("meta"):
        if recommender is not None:
            there = UTGRecConfig.from_pretrained(recommender.name, revision=recommender.revision or "main")
            model = UTGRecForConditionalGeneration(there)
        else:
            items = _without_items(network.config, recommender_training.max_history)
            model = new_recommender(recommender_arguments, items, network.config, recommender_training.seed)
    return [*plans, plan_recommender(model.config, domains, recommender_training, model)]


def plan_recbase(
    domains: Sequence[Domain],
    tokenizer_arguments: RecBaseTokenizerArguments,
    tokenizer_training: RecBaseTokenizerTrainingArguments,
    recommender_arguments: RecBaseArguments,
    training: RecommenderTrainingArguments,
    tokenizer: ModelPlace | None = None,
    recommender: ModelPlace | None = None,
    catalogues: Sequence[Catalogue] = (),
) -> list[TrainingPlan]:
    """
    Plans of RecBase's item tokenizer, whose few weights are not counted, and decoder. The sequences that are made for
    `catalogues` are not counted either.

    Args:
        domains, tokenizer_arguments, tokenizer_training, recommender_arguments, training: as in the training.
        tokenizer ([`ModelPlace`], *optional*): the item tokenizer, if it is there.
        recommender ([`ModelPlace`], *optional*): what is trained further; by default one with random weights.
        catalogues (`Sequence[Catalogue]`, *optional*): of which the tokenizer learns the items.
    """
    items = sum(len(each) for each in (*(domain.catalogue for domain in domains), *catalogues))
    if tokenizer is None:
        check_recbase_curriculum(items, tokenizer_arguments, tokenizer_training)
    with torch.device("meta"):
        if recommender is not None:
            there = RecBaseConfig.from_pretrained(recommender.name, revision=recommender.revision or "main")
            model = RecBaseForCausalLM(there)
        else:
            if tokenizer is not None:
                levels = RecBaseTokenizerConfig.from_pretrained(tokenizer.name, revision=tokenizer.revision or "main")
            else:
                sizes = {name: getattr(tokenizer_arguments, name) for name in ("num_levels", "codebook_size")}
                levels = RecBaseTokenizerConfig(input_dim=1, **sizes)
            model = new_recbase(recommender_arguments, _without_items(levels, training.max_history), training.seed)
    found = plan_recommender(model.config, domains, training, model)
    return [plan_training("item tokenizer", items, "items", tokenizer_training), found]


def plan_sequential(
    name: str, domain: Domain, arguments: SequentialArguments, training: SequentialTrainingArguments
) -> list[TrainingPlan]:
    """The plan of a sequential baseline; the weights of one that reads content are not counted."""
    method, part = SEQUENTIAL[name], domain.interactions.training_part()
    model = None
    if not method.inputs:
        with torch.device("meta"):
            model = new_sequential(name, part.num_items, arguments, training.seed)
    windows = SequenceWindows(part, method.model_class.training_targets, arguments.max_history)
    return [_plan_windows(name, windows, training, model)]


def plan_sequential_pretraining(
    name: str, domains: Sequence[Domain], arguments: SequentialArguments, training: SequentialTrainingArguments
) -> list[TrainingPlan]:
    """The plan of a sequential baseline's pre-training, whose batches are all of one size.

    Raises:
        ValueError: there are fewer targets than one batch.
    """
    windows = pretraining_windows(name, domains, arguments, training)
    training.dataloader_drop_last = True
    return [_plan_windows(name, windows, training)]


def plan_item_level(domains: Sequence[Domain], training: RecommenderTrainingArguments) -> list[TrainingPlan]:
    """The plan of an item-level recommender's training on semantic IDs that are there; its weights, which depend on
    the content, are not counted."""
    return [plan_recommender(ItemLevelConfig(), domains, training)]


def plan_generative_baseline(
    name: str,
    domain: Domain,
    tokenizer_arguments: SemanticIDArguments,
    tokenizer_training: TrainingArguments,
    arguments: RecommenderArguments | ItemLevelArguments,
    training: RecommenderTrainingArguments,
    semantic_ids: ModelPlace | None = None,
) -> list[TrainingPlan]:
    """
    Plans of a recommender on the semantic IDs of another method, and of what makes these. A level of digits that tells
    items apart is not counted, nor the weights of an item-level recommender, which depend on the content.

    Args:
        name (`str`): as `utgrec train-baseline --model`.
        domain, tokenizer_arguments, tokenizer_training, arguments, training: as in the training.
        semantic_ids ([`ModelPlace`], *optional*): the item tokenizer whose semantic IDs are taken.

    Raises:
        UnknownItemError: semantic IDs that are to be taken lack items.
        ForeignArgument: arguments that the method has not.
    """
    plans = []
    if semantic_ids is not None:
        items = UniversalItemTokenizer.from_pretrained(
            semantic_ids.name, index_only=True, revision=semantic_ids.revision
        )
        items.index.rows(domain.catalogue.item_ids)
    else:
        made_by = semantic_ids_of(name)
        given = tokenizer_arguments.given(made_by)
        sizes = {key: given[key] for key in ("num_levels", "codebook_size") if key in given}
        items = _without_items(RQVAEConfig(**sizes), training.max_history)
        if SEMANTIC_IDS[made_by].trained:
            plans.append(plan_training("item tokenizer", len(domain.catalogue), "items", tokenizer_training))
    index = items.index
    if isinstance(arguments, ItemLevelArguments):
        levels: dict[str, Any] = {"level_sizes": index.level_sizes, "level_offsets": index.level_offsets}
        return [*plans, plan_recommender(ItemLevelConfig(**levels), [domain], training)]
    with torch.device("meta"):
        model = recommender_on(name, items, TokenizedItems(items, index.codes), arguments, training.seed)
    return [*plans, plan_recommender(model.config, [domain], training, model)]


def _plan_windows(
    name: str, windows: SequenceWindows, training: TrainingArguments, model: PreTrainedModel | None = None
) -> TrainingPlan:
    of_one = windows.targets == "last"
    unit = "histories with their next item" if of_one else f"windows of {windows.max_history} items"
    return plan_training(name, len(windows), unit, training, model)


def _without_items(config: RecBaseTokenizerConfig | RQVAEConfig | UTGRecTokenizerConfig, max_history: int):
    """An item tokenizer of a network's levels, without items and without the network."""
    return UniversalItemTokenizer(ItemIndex(config.level_sizes, config.level_offsets), None, max_history)


def unwritten_network(
    arguments: NetworkArguments, catalogue: Catalogue, config: UTGRecTokenizerConfig | None = None
) -> UTGRecTokenizerModel:
    """UTGRec's item tokenizer without memory for its weights: one that is to be made as the arguments say for a
    catalogue, or one of this configuration."""
    if config is None:
        name, revision = arguments.backbone, arguments.backbone_revision
        if name == TINY:
            model, tokenizer, _ = load_backbone(name, texts=catalogue.texts, image_pixels=arguments.image_pixels)
            backbone = model.config
        else:
            backbone = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
            tokenizer = load_tokenizer(name, revision)
        config = network_config(with_text_length(arguments, tokenizer, catalogue.texts), backbone, revision)
        has_images = catalogue.images is not None and catalogue.images.present.any()
        if has_images and arguments.autoencoder not in (None, "none", ""):
            shape = latent_shape(load_autoencoder(arguments.autoencoder), arguments.image_size)
            config.latent_channels, config.latent_size = shape
    with torch.device("meta"):
        return UTGRecTokenizerModel(config)


def show_plans(plans: Sequence[TrainingPlan]) -> None:
    """Prints plans, and that nothing is done."""
    state = PartialState()
    for plan in plans:
        state.print(plan)
    free = psutil.virtual_memory().available
    where = "of memory are free"
    if torch.cuda.is_available():
        free, where = torch.cuda.mem_get_info()[0], "of the device's memory are free"
    state.print(f"A dry run: data and flags are in order, {format_bytes(free)} {where}, and nothing was trained.")
