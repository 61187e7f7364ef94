"""Training of generative recommenders, with validation by constrained beam search over the whole catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedConfig, TrainerCallback
from transformers.trainer_utils import SchedulerType

from hub_cards.values import ModelCardValues, RecommenderCardValues
from modeling_utgrec import ItemLevelConfig, ItemTrie
from modeling_utgrec.generation_mixin import ItemRecommendation
from tokenization_items.item_index import ItemIndex
from tokenization_items.tokenization_items import UniversalItemTokenizer
from trainers.data.interactions import Interactions
from trainers.rankers.generative import GenerativeRanker, item_space
from trainers.ranking_trainer import (
    RankingTrainer,
    RankingTrainingArguments,
    check_kinds,
    check_training_part,
    domains_of,
    order_of,
)
from trainers.runtime.callbacks import EpochCallback
from trainers.runtime.cpu_training import length_parts
from trainers.runtime.processes import weighed
from trainers.runtime.trainer_arguments import DEBUG, MEANS
from trainers.training_data.domain_sampling import DomainSampling
from trainers.training_data.next_item_windows import (
    NextItemCollator,
    NextItemWindows,
    TrainingData,
    ValidCodes,
    join_domains,
)
from trainers.training_data.packed_sequences import PackedCollator, PackedSequences
from trainers.training_data.streamed_windows import StreamedData, StreamedRows, StreamedWindows
from trainers.training_data.target_horizon import check_horizon


@dataclass
class RecommenderTrainingArguments(RankingTrainingArguments):
    """Arguments of [`RecommenderTrainer`]. Defaults that differ from [`~transformers.TrainingArguments`] are those of
    pre-training (UTGRec, section 2); for fine-tuning set `learning_rate=0.003`, `eval_strategy="epoch"`,
    `save_strategy="epoch"`, `load_best_model_at_end=True` and pass an [`~transformers.EarlyStoppingCallback`].

    The paper's batch is 1024 pairs over all devices: `per_device_train_batch_size` × processes ×
    `gradient_accumulation_steps`. The default is right for one device; divide it when there are more.

    > Parameters with a new default: `learning_rate`, `lr_scheduler_type`, `warmup_steps`, `weight_decay`,
    `num_train_epochs`, `per_device_train_batch_size`, `per_device_eval_batch_size`, `metric_for_best_model`,
    `remove_unused_columns` (always false: the dataset has no columns).

    > Parameters that control training and validation

    Args:
        max_history (`int`, *optional*, defaults to 20): items of history, counted from the most recent one.
        num_beams (`int`, *optional*, defaults to 50): beams of the constrained beam search.
        max_eval_users (`int`, *optional*): validate on this many users of each domain, drawn once and for all.
        horizon (`int`, *optional*): a history's target is drawn from so many items that follow it, near ones more
            often, see [`target_positions`]; 1: the next item. By default that of the model's configuration if it has
            one, as [`ItemLevelConfig`], else 1. A decoder's targets are the items that it reads: 1 alone.
    """

    learning_rate: float = field(default=5e-3, metadata={"help": "Peak learning rate (0.003 in fine-tuning)."})
    lr_scheduler_type: SchedulerType | str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    warmup_steps: float = field(
        default=0.03, metadata={"help": "Steps of linear warm-up; below 1, a share of all steps."}
    )
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of AdamW (not on norms and biases)."})
    num_train_epochs: float = field(default=50.0, metadata={"help": "Passes over all training pairs."})
    per_device_train_batch_size: int = field(
        default=1024,
        metadata={
            "help": "Pairs per device and step (1024 in the paper); with a causal encoder or a decoder rows of "
            "`max_history` items."
        },
    )
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Users per device and beam search."})
    max_history: int = field(default=20, metadata={"help": "Items of history, counted from the most recent one."})
    num_beams: int = field(default=50, metadata={"help": "Beams of the constrained beam search in validation."})
    horizon: int | None = field(
        default=None,
        metadata={"help": "Items that follow of which a target is drawn, near ones more often; default: the model's."},
    )

    refused: ClassVar[Mapping[str, str]] = MEANS | DEBUG

    def __post_init__(self):
        super().__post_init__()
        for name in ("max_history", "num_beams"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.horizon is not None:
            check_horizon(self.horizon)


@dataclass
class EvaluationData:
    """Users and catalogue of one domain, for validation.

    Args:
        interactions (`Interactions`): all interactions of the domain (not the training part).
        item_index (`ItemIndex`): semantic IDs of at least the items of `interactions.item_ids`.

    Attributes:
        trie (`ItemTrie`): semantic IDs of the catalogue, in its order.
        token_table (`np.ndarray`): int64 [n, L] token ids, in the catalogue's order.
    """

    interactions: Interactions
    item_index: ItemIndex
    trie: ItemTrie = field(init=False, repr=False)
    token_table: np.ndarray = field(init=False, repr=False)

    def __post_init__(self):
        self.trie, self.token_table = item_space(self.item_index, self.interactions.item_ids)


def training_rows(
    config: PreTrainedConfig,
    data: TrainingData | dict[str, TrainingData] | StreamedData,
    args: RecommenderTrainingArguments,
) -> NextItemWindows | PackedSequences:
    """What a recommender with this configuration is trained on, see [`RecommenderTrainer`].

    Raises:
        ValueError: as [`RecommenderTrainer`].
    """
    is_streamed = isinstance(data, StreamedData)
    differ = is_streamed or args.domain_temperature != 1 or horizon_of(config, args) > 1
    if args.dataloader_persistent_workers and differ:
        raise ValueError(
            "Persistent data loader workers would keep the targets of the first epoch: turn off "
            "dataloader_persistent_workers, or leave domain_temperature and horizon at 1 and read no corpus."
        )
    reads_pairs = config.is_encoder_decoder and not config.causal_encoder
    with_targets = not config.is_encoder_decoder and not isinstance(config, ItemLevelConfig)
    if isinstance(data, StreamedData):
        _check_semantic_ids(config, data.token_table)
        given = data.corpus, data.token_table, args.max_history
        if reads_pairs:
            return StreamedWindows(*given, **order_of(args))
        return StreamedRows(*given, with_targets, **order_of(args))
    domains = data if isinstance(data, dict) else {"": data}
    for domain in domains.values():
        _check_semantic_ids(config, domain.token_table)
    sampling = None
    if args.domain_temperature != 1:
        num_sequences = [domain.interactions.num_users for domain in domains.values()]
        sampling = DomainSampling(num_sequences, args.domain_temperature, args.seed)
    joint = data if isinstance(data, TrainingData) else join_domains(domains)
    if reads_pairs:
        return NextItemWindows(joint.interactions, joint.token_table, args.max_history, sampling)
    # which windows share a row is the same for every seed of the training
    return PackedSequences(
        joint.interactions,
        joint.token_table,
        args.max_history,
        with_targets=with_targets,
        sampling=sampling,
    )


def collator_of(
    config: PreTrainedConfig,
    rows: NextItemWindows | PackedSequences,
    data: TrainingData | dict[str, TrainingData] | StreamedData,
    args: RecommenderTrainingArguments,
) -> NextItemCollator | PackedCollator:
    """What makes batches of [`training_rows`] of the same data.

    Raises:
        ValueError: the data lack the content vectors that the model reads, or a decoder is to have a horizon.
    """
    valid, content = None, None
    if config.normalize_over == "items" and not getattr(config, "node_content", False):  # there the model knows them
        valid = ValidCodes(rows.token_table, config.level_sizes, config.level_offsets)
    if isinstance(config, ItemLevelConfig) and config.content_size is not None:
        content = (join_domains(data) if isinstance(data, dict) else data).content
        if content is None or content.shape[1] != config.content_size:
            found = "none" if content is None else f"vectors of {content.shape[1]} numbers"
            raise ValueError(
                f"The model reads content vectors of {config.content_size} numbers, the training data have {found}: "
                "give them the `content` of the items, from the encoder that the model is made for."
            )
    horizon = horizon_of(config, args)
    if isinstance(rows, PackedSequences):
        return PackedCollator(rows, valid, horizon, args.seed, content)
    return NextItemCollator(rows, valid, horizon, args.seed)


def horizon_of(config: PreTrainedConfig, args: RecommenderTrainingArguments) -> int:
    """Items of which a target is drawn: what the arguments say, or else the model's configuration."""
    return getattr(config, "horizon", 1) if args.horizon is None else args.horizon


def _check_semantic_ids(config: PreTrainedConfig, token_table: np.ndarray) -> None:
    """Raises ValueError unless tokens [n, L] are of the model's vocabulary, level by level."""
    table = np.asarray(token_table)
    first = np.array(config.level_offsets)
    end = first + np.array(config.level_sizes)
    if table.ndim != 2 or table.shape[1] != len(first):
        raise ValueError(
            f"Semantic IDs and model do not belong together: expected a token table [items, {len(first)}], got shape "
            f"{table.shape}. Use the semantic IDs of the item tokenizer that the model is configured for."
        )
    if ((table < first) | (table >= end)).any():
        raise ValueError(
            f"Semantic IDs and model do not belong together: the tokens of the levels go from "
            f"{table.min(axis=0).tolist()} to {table.max(axis=0).tolist()}, the model's from {first.tolist()} to "
            f"{(end - 1).tolist()}. Use the semantic IDs of the item tokenizer that the model is configured for."
        )


class RecommenderTrainer(RankingTrainer):
    """[`~transformers.Trainer`] of generative recommenders.

    Validation ranks the whole catalogue for the users' validation items by constrained beam search, see
    [`RankingTrainer`].

    What is trained on follows from the model's configuration: a decoder reads whole sequences with their targets, an
    item-level recommender or an encoder-decoder with a causal encoder whole sequences ([`PackedSequences`]), any other
    one pairs of a history and its next item ([`NextItemWindows`]). Losses of the levels, where a model gives them, are
    logged as `loss/level_0`, ...

    On a CPU a batch of windows is worked on in parts of like length, which saves most of its padding, and dropout
    draws its random numbers four at a time ([`CpuDropout`]). The gradients are the same, up to rounding and the draw.

    A checkpoint with a single domain holds the item index too, ready for [`GenerativeRanker.from_pretrained`] and
    [`UniversalItemTokenizer.from_pretrained`].

    Args:
        model ([`ItemRecommendation`]): the recommender, [`UTGRecForConditionalGeneration`], [`RecBaseForCausalLM`] or
            [`ItemLevelForCausalLM`].
        args (`RecommenderTrainingArguments`): the arguments.
        train_dataset (`TrainingData`, `dict[str, TrainingData]` or `StreamedData`, *optional*):
            The training part of one domain or of several, which are mixed as `args.domain_temperature` says, in
            memory or from a corpus on disk; not needed to evaluate.
        evaluation (`EvaluationData` or `dict[str, EvaluationData]`, *optional*):
            Data of the validation. Several domains give `eval_<domain>_ndcg@10` each and their plain mean as
            `eval_ndcg@10`.
        processing_class (*optional*): object whose `save_pretrained` completes each checkpoint, as a
            `UniversalItemTokenizer`; the item index alone is then not written.
        callbacks (`list[TrainerCallback]`, *optional*): more callbacks.
        optimizers (*optional*): optimizer and schedule, see [`~transformers.Trainer`].

    Raises:
        TypeError: data of another kind.
        ValueError: the semantic IDs are not of the model's vocabulary, an item-level model has positions of another
            `max_history`, the training data are all interactions, nothing is left to train on, data loader workers
            would persist while epochs differ, or validation is asked for with sharded weights (FSDP, ZeRO-3).

    Example:

    ```python
    >>> evaluation = EvaluationData(interactions, tokenizer.index)
    >>> training = TrainingData(interactions.training_part(), evaluation.token_table)
    >>> args = RecommenderTrainingArguments("beauty-recommender", learning_rate=0.003, eval_strategy="epoch")
    >>> RecommenderTrainer(UTGRecForConditionalGeneration(UTGRecConfig()), args, training, evaluation).train()
    ```
    """

    model: ItemRecommendation
    args: RecommenderTrainingArguments
    # Every pair has L labels, so the mean over a batch is the mean over pairs (packed rows hold about as many each).
    # Were the Trainer to believe that the model scales its loss by `num_items_in_batch`, gradients would grow with the
    # accumulation steps.
    loss_is_scaled_for_ga = False
    card_class = RecommenderCardValues
    evaluation_kind = EvaluationData, "EvaluationData(interactions, tokenizer.index), of all interactions"

    def __init__(
        self,
        model: ItemRecommendation,
        args: RecommenderTrainingArguments,
        train_dataset: TrainingData | dict[str, TrainingData] | StreamedData | None = None,
        evaluation: EvaluationData | dict[str, EvaluationData] | None = None,
        processing_class: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
    ):
        rows = collator = None
        if train_dataset is not None and not isinstance(train_dataset, StreamedData):
            way = "TrainingData(interactions.training_part(), tokenizer.index.encode_batch(interactions.item_ids))"
            check_kinds("train_dataset", train_dataset, (TrainingData,), way)
        if evaluation is not None:
            self._check_evaluation("evaluation", evaluation)
        if isinstance(model.config, ItemLevelConfig) and model.config.max_history != args.max_history:
            raise ValueError(
                f"The model has positions of {model.config.max_history} items, and max_history is {args.max_history}: "
                "give the arguments the model's max_history, or ItemLevelConfig theirs."
            )
        if train_dataset is not None and not isinstance(train_dataset, StreamedData) and evaluation is not None:
            for part, every in product(domains_of(train_dataset).values(), domains_of(evaluation).values()):
                check_training_part(part.interactions, every.interactions)
        if train_dataset is not None:
            rows = training_rows(model.config, train_dataset, args)
            collator = collator_of(model.config, rows, train_dataset, args)
            if isinstance(model.config, ItemLevelConfig):
                model.config.horizon = horizon_of(model.config, args)
            callbacks = [EpochCallback(rows), *(callbacks or [])]
        super().__init__(
            model=model,
            args=args,
            data_collator=collator,
            train_dataset=rows,
            eval_dataset=evaluation,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        self.model_accepts_loss_kwargs = False  # no counting of labels over processes either
        self._weight: torch.Tensor | float = 1.0  # of this process' batch among all processes'
        self._share = 1.0  # of the batch that the next loss is the mean over
        self._level_losses: list[torch.Tensor] = []  # of the steps since the last entry of the log
        windows_on_cpu = self.args.device.type == "cpu" and isinstance(rows, NextItemWindows)
        self._in_parts = windows_on_cpu and not self.is_deepspeed_enabled
        if evaluation is not None:
            self._check_validation()
        self.model.config.max_history = args.max_history
        if not self.model.config.is_encoder_decoder:
            self.card_facts |= {"auto_class": "AutoModelForCausalLM"}

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """As the Trainer's; of several processes each counts as many labels as it has, and none twice."""
        batches = (weighed(self.accelerator, batch, self.epoch_examples) for batch in epoch_iterator)
        return super().get_batch_samples(batches, num_batches, device)

    def training_step(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """As the Trainer's; on a CPU in parts of like length, whose gradients add up to the batch's."""
        self._weight = inputs.pop("weight", 1.0)
        parts = length_parts(inputs) if self._in_parts else [(1.0, inputs)]
        total: torch.Tensor | float = 0.0
        for number, (share, part) in enumerate(parts, start=1):
            self._share = share
            # processes exchange gradients once
            with nullcontext() if number == len(parts) else self.accelerator.no_sync(model):
                total = total + super().training_step(model, part, num_items_in_batch)
        self._share = self._weight = 1.0
        assert isinstance(total, torch.Tensor)
        return total

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training and "level_losses" in outputs:
            self._level_losses.append(outputs["level_losses"].detach() * self._weight)
        return (loss, outputs) if return_outputs else loss * (self._share * self._weight)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if {"loss", "train_loss"} & logs.keys() and self._level_losses:
            means = self.accelerator.gather(torch.stack(self._level_losses).mean(dim=0)[None]).mean(dim=0).tolist()
            logs.update({f"loss/level_{level}": round(mean, 5) for level, mean in enumerate(means)})
            self._level_losses = []
        super().log(logs, start_time)

    def _ranker(self, data: EvaluationData) -> GenerativeRanker:
        args = self.args
        return GenerativeRanker(
            self.accelerator.unwrap_model(self.model),
            data.trie,
            data.token_table,
            args.num_beams,
            args.per_device_eval_batch_size,
            args.max_history,
        )

    def _interactions(self, data: EvaluationData) -> Interactions:
        return data.interactions

    def card_values(self) -> ModelCardValues:
        values = super().card_values()
        if values.num_items is None and self._item_index is not None:
            values = replace(values, num_items=len(self._item_index))
        return replace(values, fingerprint=self.model.config.item_tokenizer_fingerprint)

    @property
    def _item_index(self) -> ItemIndex | None:
        """What a checkpoint carries: with several domains there is no one catalogue to save."""
        data = self.eval_dataset
        return data.item_index if isinstance(data, EvaluationData) and self.processing_class is None else None

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.args.should_save and self._item_index is not None:
            config = self.model.config
            tokenizer = UniversalItemTokenizer(
                self._item_index, config.item_tokenizer_fingerprint, self.args.max_history
            )
            tokenizer.save_pretrained(output_dir or self.output_folder)
        super()._save(output_dir, state_dict)
