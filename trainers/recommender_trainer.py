"""Training of generative recommenders, with validation by constrained beam search over the whole catalogue."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer_utils import SchedulerType, speed_metrics

from modeling_utgrec import ItemTrie
from tokenization_items.item_index import ItemIndex
from trainers.callbacks import EpochCallback
from trainers.evaluation import evaluate
from trainers.generative_recommender import GenerativeRecommender, item_space
from trainers.interactions import MIN_INTERACTIONS, Interactions
from trainers.next_item import NextItemCollator, NextItemWindows

EVALUATION_USERS_SEED = 2024  # not the training seed: runs with different seeds must be judged on the same users


@dataclass
class RecommenderTrainingArguments(TrainingArguments):
    """Arguments of [`RecommenderTrainer`]. Defaults that differ from [`~transformers.TrainingArguments`] are those of
    pre-training (UTGRec, section 2); for fine-tuning set `learning_rate=0.003`, `eval_strategy="epoch"`,
    `save_strategy="epoch"`, `load_best_model_at_end=True` and pass an [`~transformers.EarlyStoppingCallback`].

    The paper's batch is 1024 pairs over all devices: `per_device_train_batch_size` × processes ×
    `gradient_accumulation_steps`. The default is right for one device; divide it when there are more.

    > Parameters with a new default: `learning_rate`, `lr_scheduler_type`, `warmup_steps`, `weight_decay`,
    `num_train_epochs`, `per_device_train_batch_size`, `per_device_eval_batch_size`, `metric_for_best_model`,
    `remove_unused_columns` (always false: the dataset has no columns).

    > Parameters that control the validation

    Args:
        max_history (`int`, *optional*, defaults to 20): items of history; the training windows must agree.
        num_beams (`int`, *optional*, defaults to 50): beams of the constrained beam search.
        max_eval_users (`int`, *optional*): validate on this many users of each domain, drawn once and for all.
    """

    learning_rate: float = field(
        default=5e-3, metadata={"help": "Peak learning rate (0.005 pre-training, 0.003 fine-tuning)."}
    )
    lr_scheduler_type: SchedulerType | str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    warmup_steps: float = field(
        default=0.03, metadata={"help": "Steps of linear warm-up; below 1, a share of all steps."}
    )
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of AdamW (not on norms and biases)."})
    num_train_epochs: float = field(default=50.0, metadata={"help": "Passes over all training pairs."})
    per_device_train_batch_size: int = field(
        default=1024, metadata={"help": "Pairs per device and step. The paper's global batch is 1024."}
    )
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Users per device and beam search."})
    metric_for_best_model: str | None = field(
        default="ndcg@10",
        metadata={"help": "Validation metric that picks the best checkpoint; `<domain>_ndcg@10` for one of several."},
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Always false: the dataset has no columns."})
    max_history: int = field(default=20, metadata={"help": "Items of history, counted from the most recent one."})
    num_beams: int = field(default=50, metadata={"help": "Beams of the constrained beam search in validation."})
    max_eval_users: int | None = field(
        default=None,
        metadata={"help": "Validate on this many users of each domain, the same ones each time. Default: all users."},
    )

    def __post_init__(self):
        super().__post_init__()
        self.remove_unused_columns = False
        for name in ("max_history", "num_beams", "max_eval_users"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")


@dataclass
class EvaluationData:
    """Users and catalogue of one domain, for validation.

    Args:
        interactions (`Interactions`): all interactions of the domain (not the training part).
        item_index (`ItemIndex`): identifiers of at least the items of `interactions.item_ids`.

    Attributes:
        trie (`ItemTrie`): identifiers of the catalogue, in its order.
        token_table (`np.ndarray`): int64 [n, L] token ids, in the catalogue's order.
    """

    interactions: Interactions
    item_index: ItemIndex
    trie: ItemTrie = field(init=False, repr=False)
    token_table: np.ndarray = field(init=False, repr=False)

    def __post_init__(self):
        self.trie, self.token_table = item_space(self.item_index, self.interactions.item_ids)


def _select_users(interactions: Interactions, users: np.ndarray) -> Interactions:
    """The interactions of the users at rows `users`, in that order."""
    lengths = interactions.lengths[users]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    positions = np.arange(offsets[-1]) + np.repeat(interactions.offsets[users] - offsets[:-1], lengths)
    user_ids = [interactions.user_ids[user] for user in users]
    return Interactions(interactions.item_ids, user_ids, interactions.items[positions], offsets)


class RecommenderTrainer(Trainer):
    """[`~transformers.Trainer`] of generative recommenders.

    Validation ranks the whole catalogue for the users' validation items by constrained beam search and gives
    `eval_recall@5`, `eval_ndcg@5`, `eval_recall@10`, `eval_ndcg@10` and `eval_num_users`. Best-model tracking
    (`metric_for_best_model="ndcg@10"`, `load_best_model_at_end`) and [`~transformers.EarlyStoppingCallback`] use them.
    It runs in the precision of the weights, without autocast: the number is the one that the saved model gives later.
    With several processes each one ranks its share of the users.

    A checkpoint with a single domain holds the item index too, ready for [`GenerativeRecommender.from_pretrained`].

    Args:
        model (`PreTrainedModel`): the recommender, as [`UTGRecForConditionalGeneration`].
        args (`RecommenderTrainingArguments`): the arguments.
        train_dataset (`NextItemWindows`, *optional*): training pairs; not needed to evaluate.
        evaluation (`EvaluationData` or `dict[str, EvaluationData]`, *optional*):
            Data of the validation. Several domains give `eval_<domain>_ndcg@10` each and their plain mean as
            `eval_ndcg@10`.
        processing_class (*optional*): object whose `save_pretrained` completes each checkpoint, as a
            `UniversalItemTokenizer`; the item index alone is then not written.
        callbacks (`list[TrainerCallback]`, *optional*): more callbacks.
        optimizers (*optional*): optimizer and schedule, see [`~transformers.Trainer`].

    Raises:
        ValueError: windows and arguments disagree on `max_history`, the identifiers are not of the model's vocabulary,
            or validation is asked for with sharded weights (FSDP, ZeRO-3).

    Example:

    ```python
    >>> windows = NextItemWindows(interactions.training_part(), evaluation.token_table)
    >>> args = RecommenderTrainingArguments("beauty-recommender", learning_rate=0.003, eval_strategy="epoch")
    >>> RecommenderTrainer(UTGRecForConditionalGeneration(UTGRecConfig()), args, windows, evaluation).train()
    ```
    """

    # Every pair has L labels, so the mean over a batch is the mean over pairs. Were the Trainer to believe that the
    # model scales its loss by `num_items_in_batch`, gradients would grow with the accumulation steps.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: PreTrainedModel,
        args: RecommenderTrainingArguments,
        train_dataset: NextItemWindows | None = None,
        evaluation: EvaluationData | dict[str, EvaluationData] | None = None,
        processing_class: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
    ):
        if train_dataset is not None:
            self._check_windows(train_dataset, model, args)
            callbacks = [EpochCallback(train_dataset), *(callbacks or [])]
        super().__init__(
            model=model,
            args=args,
            data_collator=None if train_dataset is None else NextItemCollator(train_dataset),
            train_dataset=train_dataset,
            eval_dataset=evaluation,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        self.model_accepts_loss_kwargs = False  # no counting of labels over processes either
        if evaluation is not None:
            if self.is_fsdp_enabled or is_deepspeed_zero3_enabled():
                raise ValueError(
                    "Validation by beam search needs whole weights on every process: a recommender is small, train it "
                    "with DDP or ZeRO-1/2, or without `evaluation`."
                )
            for data in _domains(evaluation).values():
                self._recommender(data)  # a mismatch must not wait for the end of the first epoch
        self.model.config.max_history = args.max_history

    @staticmethod
    def _check_windows(windows: NextItemWindows, model: PreTrainedModel, args: RecommenderTrainingArguments) -> None:
        if windows.max_history != args.max_history:
            raise ValueError(
                f"The training windows have max_history={windows.max_history}, the arguments "
                f"max_history={args.max_history}: give both the same."
            )
        if args.dataloader_persistent_workers and windows.max_targets_per_epoch is not None:
            raise ValueError(
                "Persistent data loader workers would keep the targets of the first epoch: turn off "
                "dataloader_persistent_workers or leave out max_targets_per_epoch."
            )
        highest = int(windows.token_table.max())
        if windows.num_levels != model.config.num_levels or highest >= model.config.vocab_size:
            raise ValueError(
                f"The training windows have {windows.num_levels} tokens per item, up to {highest}; the model has "
                f"{model.config.num_levels} levels and {model.config.vocab_size} tokens. Use the identifiers of the "
                "item tokenizer that the model is configured for."
            )

    def _recommender(self, data: EvaluationData) -> GenerativeRecommender:
        args = self.args
        return GenerativeRecommender(
            self.accelerator.unwrap_model(self.model),
            data.trie,
            data.token_table,
            args.num_beams,
            args.per_device_eval_batch_size,
            args.max_history,
        )

    def evaluate(
        self,
        eval_dataset: EvaluationData | dict[str, EvaluationData] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
        part: Literal["validation", "test"] = "validation",
    ) -> dict[str, float]:
        """Ranks the catalogue for the users' held-out items, logs the metrics and calls `on_evaluate`.

        Args:
            eval_dataset: other data than the Trainer's.
            ignore_keys: not used; the Trainer passes it.
            metric_key_prefix: prefix of the metrics.
            part: held-out item; `max_eval_users` limits the validation only, never the test.

        Returns:
            `dict`: `{prefix}_recall@5`, … and `{prefix}_num_users` (those ranked), the same with `{prefix}_{domain}_`
            when there are several domains, and run times. Equal on all processes.

        Raises:
            ValueError: no data, or no user with three interactions.
        """
        evaluation = self.eval_dataset if eval_dataset is None else eval_dataset
        if evaluation is None:
            raise ValueError("Nothing to evaluate: give the trainer `evaluation`, or evaluate() an `eval_dataset`.")
        self._memory_tracker.start()
        start = time.time()
        results = {name: self._evaluate_domain(data, part) for name, data in _domains(evaluation).items()}
        num_users = sum(result["num_users"] for result in results.values())
        metrics = {
            f"{metric_key_prefix}_{name}_{key}": value
            for name, result in results.items()
            if isinstance(evaluation, dict)
            for key, value in result.items()
        }
        for key in next(iter(results.values())):
            metrics[f"{metric_key_prefix}_{key}"] = sum(result[key] for result in results.values()) / len(results)
        metrics[f"{metric_key_prefix}_num_users"] = num_users
        metrics |= speed_metrics(metric_key_prefix, start, num_samples=num_users)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._memory_tracker.stop_and_update_metrics(metrics)
        return metrics

    def _evaluate_domain(self, data: EvaluationData, part: Literal["validation", "test"]) -> dict[str, float]:
        """Metrics of one domain over the users of all processes, and `num_users`."""
        users = np.flatnonzero(data.interactions.lengths >= MIN_INTERACTIONS)
        if not len(users):
            raise ValueError("No user to evaluate has three interactions or more.")
        limit = self.args.max_eval_users
        if part == "validation" and limit is not None and limit < len(users):
            users = np.sort(np.random.default_rng(EVALUATION_USERS_SEED).choice(users, limit, replace=False))
        share = users[self.accelerator.process_index :: self.accelerator.num_processes]
        means = {}
        if len(share):  # none when there are more processes than users
            recommender = self._recommender(data)
            shard = _select_users(data.interactions, share)
            result = evaluate(recommender, shard, part, max_history=self.args.max_history, long_tail=False)
            means = {name: value for name, value in result.items() if "@" in name}
        shares = [(count, means) for count, means in gather_object([(len(share), means)]) if count]
        total = sum(count for count, _ in shares)
        metrics = {name: sum(count * means[name] for count, means in shares) / total for name in shares[0][1]}
        return {**metrics, "num_users": total}

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        # identifiers make the checkpoint usable; with several domains there is no one catalogue to save
        if self.args.should_save and self.processing_class is None and isinstance(self.eval_dataset, EvaluationData):
            self.eval_dataset.item_index.save(output_dir or self.args.output_dir)


def _domains(evaluation: EvaluationData | dict[str, EvaluationData]) -> dict[str, EvaluationData]:
    return evaluation if isinstance(evaluation, dict) else {"": evaluation}
