"""Training of sequential recommenders, one trainer for all of them, with validation by full ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from transformers import TrainerCallback

from hub_cards.values import SequentialCardValues
from modeling_utgrec import MISSRecForNextItem, SequentialForNextItem
from tokenization_items.files import digest_of_strings
from trainers.data.interactions import Interactions
from trainers.rankers.item_rows import check_catalogue, load_item_ids, save_item_ids
from trainers.rankers.sequential import SequentialRanker
from trainers.ranking_trainer import (
    RankingTrainer,
    RankingTrainingArguments,
    check_kinds,
    check_training_part,
    order_of,
)
from trainers.runtime.callbacks import EpochCallback
from trainers.runtime.interests import InterestsCallback
from trainers.runtime.processes import weighed, without_repeated
from trainers.runtime.trainer_arguments import CHECKPOINTING, DEBUG, tell_negatives
from trainers.training_data.augmented_sequences import AugmentedCollator
from trainers.training_data.corpus import SequenceCorpus
from trainers.training_data.masked_segments import MaskedSegmentsCollator
from trainers.training_data.sequence_windows import SequenceCollator, SequenceWindows
from trainers.training_data.streamed_windows import StreamedSequences
from trainers.training_data.target_horizon import check_horizon


@dataclass
class SequentialTrainingArguments(RankingTrainingArguments):
    """Arguments of [`SequentialTrainer`]. Set `eval_strategy="epoch"`, `save_strategy="epoch"`,
    `load_best_model_at_end=True` and pass an [`~transformers.EarlyStoppingCallback`]: how many epochs a model needs
    depends on the data, and more of them overfit.

    > Parameters with a new default (Kang & McAuley 2018, section IV-D): `learning_rate`, `lr_scheduler_type`,
    `num_train_epochs`, `per_device_train_batch_size` (sequences, or targets for models that learn one target a row),
    `per_device_eval_batch_size`; `max_grad_norm` (no clipping, as in RecBole and in all the authors' programs but
    BERT4Rec's, which has 5); and those of [`RankingTrainingArguments`].

    > Parameters that control the targets

    Args:
        horizon (`int`, *optional*, defaults to 1): a position's target is drawn from so many items that follow, near
            ones more often, see [`target_positions`]; 1: the next item. Not for models that predict masked items.
    """

    learning_rate: float = field(default=1e-3, metadata={"help": "Learning rate of AdamW."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "Learning rate schedule."})
    num_train_epochs: float = field(default=200.0, metadata={"help": "Passes over all training sequences, at most."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Longest gradient; 0: as long as it is."})
    per_device_train_batch_size: int = field(default=128, metadata={"help": "Rows per device and step."})
    per_device_eval_batch_size: int = field(default=256, metadata={"help": "Users per device in validation."})
    horizon: int = field(
        default=1,
        metadata={"help": "Items that follow of which a target is drawn, near ones more often; 1: the next."},
    )

    refused: ClassVar[Mapping[str, str]] = CHECKPOINTING | DEBUG

    def __post_init__(self):
        super().__post_init__()
        check_horizon(self.horizon)


def training_windows(
    model: SequentialForNextItem, data: Interactions | SequenceCorpus, args: SequentialTrainingArguments
) -> SequenceWindows:
    """What a model is trained on, see [`SequentialTrainer`]."""
    if isinstance(data, SequenceCorpus):
        return StreamedSequences(data, model.training_targets, model.config.max_history, **order_of(args))
    if args.domain_temperature != 1:
        raise ValueError(
            f"domain_temperature is {args.domain_temperature}, and interactions in memory are one domain: leave it at "
            "1, or give a corpus of several (write_corpus)."
        )
    return SequenceWindows(data, model.training_targets, model.config.max_history)


class SequentialTrainer(RankingTrainer):
    """[`~transformers.Trainer`] of sequential recommenders: any [`SequentialForNextItem`].

    Which batches a model learns from, and how long its histories are, is known from its class and its configuration.
    The loss is the mean over all labels of a step, whatever the accumulation steps and processes.

    Args:
        model (`SequentialForNextItem`): the model, made for the catalogue of the interactions.
        args (`SequentialTrainingArguments`): the arguments.
        train_dataset (`Interactions` or `SequenceCorpus`, *optional*): the *training part*,
            `Interactions.training_part()`, in memory or as a corpus on disk; not needed to evaluate.
        evaluation (`Interactions`, *optional*): all interactions, for validation (see [`RankingTrainer`]).
        callbacks (`list[TrainerCallback]`, *optional*): more callbacks.
        optimizers (*optional*): optimizer and schedule, see [`~transformers.Trainer`].
        fewer_words (`np.ndarray`, *optional*): for contrastive pre-training, see [`AugmentedCollator`].

    Raises:
        TypeError: data of another kind.
        ValueError: model, interactions and validation differ in their items, no sequence has two items, data loader
            workers would persist while epochs differ, a temperature of domains is given and the interactions are in
            memory, as one domain, the training data are all interactions, or validation is asked for with sharded
            weights (FSDP, ZeRO-3).

    Example:

    ```python
    >>> model = SASRecForNextItem(SASRecConfig(num_items=interactions.num_items, max_history=20))
    >>> args = SequentialTrainingArguments("beauty-sasrec", eval_strategy="epoch")
    >>> SequentialTrainer(model, args, interactions.training_part(), interactions).train()
    ```
    """

    card_class = SequentialCardValues
    evaluation_kind = Interactions, "all interactions, not their training part"

    def __init__(
        self,
        model: SequentialForNextItem,
        args: SequentialTrainingArguments,
        train_dataset: Interactions | SequenceCorpus | None = None,
        evaluation: Interactions | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
        fewer_words: np.ndarray | None = None,
    ):
        windows: SequenceWindows | None = None
        collator: SequenceCollator | None = None
        self._item_ids: Sequence[str] | None = None
        if train_dataset is not None:  # as one domain: the catalogue is the model's
            kinds = (Interactions, SequenceCorpus)
            check_kinds("train_dataset", {"": train_dataset}, kinds, "interactions.training_part()")
        if evaluation is not None:
            self._check_evaluation("evaluation", {"": evaluation})
        for data in (train_dataset, evaluation):
            self._know_items(model, data)
        if isinstance(train_dataset, Interactions) and evaluation is not None:
            check_training_part(train_dataset, evaluation)
        if train_dataset is not None:
            windows = training_windows(model, train_dataset, args)
            if model.training_batches == "augmented":
                collator = AugmentedCollator(windows, model.config, args.seed, fewer_words, args.horizon)
            elif model.training_batches == "masked":
                collator = MaskedSegmentsCollator(windows, model.config, args.seed, args.horizon)
            else:
                collator = SequenceCollator(windows, model.config, args.seed, args.horizon)
            drawn = model.training_targets == "cloze" or model.training_batches != "plain" or args.horizon > 1
            if (drawn or isinstance(windows, StreamedSequences)) and args.dataloader_persistent_workers:
                raise ValueError(
                    "Persistent data loader workers would keep what the first epoch has drawn: turn off "
                    "dataloader_persistent_workers."
                )
            callbacks = [EpochCallback(windows), *(callbacks or [])]
            if isinstance(model, MISSRecForNextItem):  # the last: others decide whether weights are judged or saved
                callbacks.append(InterestsCallback(args.seed))
        super().__init__(
            model=model,
            args=args,
            data_collator=collator,
            train_dataset=windows,
            eval_dataset=evaluation,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        if model.in_batch_negatives:
            tell_negatives(args)
        if evaluation is not None:
            self._check_validation()

    def _know_items(self, model: SequentialForNextItem, data: Interactions | SequenceCorpus | None) -> None:
        """Looks whether data have the model's items, which are known from the first that name them."""
        if data is None:
            return
        check_catalogue(model.config, data.num_items, data.item_ids, self._item_ids)
        if data.item_ids is not None:
            self._item_ids, model.config.item_ids_fingerprint = data.item_ids, digest_of_strings(data.item_ids)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """As transformers' method, unless the checkpoint is of other items: their rows would go on as these."""
        if self._item_ids is not None:
            assert isinstance(self.model, SequentialForNextItem)
            config = type(self.model.config).from_pretrained(resume_from_checkpoint)
            known = load_item_ids(Path(resume_from_checkpoint), config)
            check_catalogue(config, len(self._item_ids), self._item_ids, known)
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.args.should_save and self._item_ids is not None:
            folder = Path(output_dir or self.output_folder)
            folder.mkdir(parents=True, exist_ok=True)
            save_item_ids(folder, self._item_ids)
        super()._save(output_dir, state_dict)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """As the Trainer's, without examples that another process has; of batches without labels, by which the loss
        would weigh them, each has its weight."""
        share = weighed if self.model.training_batches == "masked" else without_repeated  # type: ignore[union-attr]
        batches = (share(self.accelerator, batch, self.epoch_examples) for batch in epoch_iterator)
        return super().get_batch_samples(batches, num_batches, device)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        weight = inputs.pop("weight", None)
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        loss = loss if weight is None else loss * weight
        return (loss, outputs) if return_outputs else loss

    def _ranker(self, data: Interactions) -> SequentialRanker:
        model = self.accelerator.unwrap_model(self.model)
        check_catalogue(model.config, data.num_items, data.item_ids, self._item_ids)
        return SequentialRanker(model, self.args.per_device_eval_batch_size)

    def _interactions(self, data: Interactions) -> Interactions:
        return data
