"""The Trainer that recommenders share: validation by ranking the whole catalogue."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
from accelerate.utils import gather_object
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer_utils import IntervalStrategy, speed_metrics

from hub_cards.values import Evaluation, ModelCardValues
from trainers.data.interactions import Interactions
from trainers.evaluation.metrics import is_rank_metric
from trainers.evaluation.protocol import check_cases, evaluate
from trainers.hub_trainer import HubTrainer, HubTrainingArguments
from trainers.rankers import Ranker
from trainers.runtime.cpu_attention import use_cpu_attention
from trainers.runtime.cpu_training import use_cpu_dropout
from trainers.training_data.domain_sampling import check_temperature
from trainers.training_data.streamed_elements import BUFFER_TARGETS, StreamedElements

VALIDATED = tuple(f"{name}@{k}" for k in (5, 10) for name in ("recall", "ndcg", "mrr"))  # what a validation gives
EVALUATION_USERS_SEED = 2024  # not the training seed: runs with different seeds must be judged on the same users


@dataclass
class RankingTrainingArguments(HubTrainingArguments):
    """Arguments of a [`RankingTrainer`].

    > Parameters with a new default: `metric_for_best_model`, `remove_unused_columns` (always false: the dataset has no
    columns).

    > Parameters that control the validation

    Args:
        max_eval_users (`int`, *optional*): validate on this many users of each domain, drawn once and for all.

    > Parameters that control the mixture of several domains, and the order of a corpus

    Args:
        domain_temperature (`float`, *optional*, defaults to 1.0): an epoch takes targets of a domain with n of them in
            proportion to `n^(1/domain_temperature)`, see [`DomainSampling`]; 1: every target once.
        buffer_targets (`int`, *optional*, defaults to 1,048,576): of a corpus that is streamed, targets that are
            shuffled together, see [`StreamedElements`].
    """

    metric_for_best_model: str | None = field(
        default="ndcg@10",
        metadata={"help": "Validation metric that picks the best checkpoint; `<domain>_ndcg@10` for one of several."},
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Always false: the dataset has no columns."})
    max_eval_users: int | None = field(
        default=None,
        metadata={"help": "Validate on this many users of each domain, the same ones each time. Default: all users."},
    )
    domain_temperature: float = field(
        default=1.0,
        metadata={"help": "Above 1, small domains count more: in proportion to (their targets)^(1/temperature)."},
    )
    buffer_targets: int = field(
        default=BUFFER_TARGETS, metadata={"help": "Of a corpus that is streamed: targets that are shuffled together."}
    )

    def __post_init__(self):
        super().__post_init__()
        metric = (self.metric_for_best_model or "").removeprefix("eval_")
        if metric and metric.rpartition("_")[2] not in VALIDATED:
            raise ValueError(
                f"metric_for_best_model is one of {', '.join(VALIDATED)}, of one of several domains <domain>_ndcg@10; "
                f"got {self.metric_for_best_model!r}."
            )
        if self.max_eval_users is not None and self.max_eval_users < 1:
            raise ValueError(f"max_eval_users must be at least 1, got {self.max_eval_users}.")
        if self.buffer_targets < 1:
            raise ValueError(f"buffer_targets must be at least 1, got {self.buffer_targets}.")
        check_temperature(self.domain_temperature)


def order_of(args: RankingTrainingArguments) -> dict[str, Any]:
    """What the arguments say of the order of [`StreamedElements`]."""
    return {"temperature": args.domain_temperature, "buffer_targets": args.buffer_targets, "seed": args.seed}


def check_kinds(name: str, data: Any, kinds: tuple[type, ...], way: str) -> None:
    """
    Whether a trainer was given what it takes, or a `dict` of that for several domains.

    Args:
        name (`str`): of the argument.
        data (`Any`): what was given.
        kinds (`tuple[type, ...]`): what it may be.
        way (`str`): how such data are made.

    Raises:
        TypeError: it is something else.
    """
    for each in domains_of(data).values():
        if not isinstance(each, kinds):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise TypeError(f"{name} is {wanted}, got {type(each).__name__}: give it {way}.")


def check_training_part(training: Interactions, every: Interactions) -> None:
    """
    Whether a training leaves out what its validation is to find.

    Raises:
        ValueError: it is of all interactions.
    """
    if np.array_equal(training.items, every.items):
        raise ValueError(
            f"The training data are all {len(every.items):,} interactions, and the validation would find what was "
            "learnt by heart: train on interactions.training_part()."
        )


class RankingTrainer(HubTrainer):
    """[`HubTrainer`] whose validation ranks the whole catalogue for the users' validation items.

    It gives `eval_recall@5`, `eval_ndcg@5`, `eval_mrr@5`, the same at 10, and `eval_num_users`. Best-model tracking
    (`metric_for_best_model="ndcg@10"`, `load_best_model_at_end`) and [`~transformers.EarlyStoppingCallback`] use them.
    It runs in the precision of the weights, without autocast: the number is the one that the saved model gives later.
    With several processes each one ranks its share of the users.

    `eval_dataset` is the data of one domain or a `dict` of several. A subclass says in `_ranker` who ranks, in
    `_interactions` for whom, and in `evaluation_kind` what the data are and how they are made.

    The card shows the metrics of the weights that it stands beside, unless `card_facts` has `evaluations`.

    Attributes:
        domain (`str`): what the card calls the data set when there is one.
    """

    args: RankingTrainingArguments
    domain = "validation data"
    evaluation_kind: ClassVar[tuple[type, str]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._tests: list[dict[str, Any]] = []  # entries of the log that are no validation
        super().__init__(*args, **kwargs)
        if self.args.device.type == "cpu":
            use_cpu_dropout(self.model)
            if self.args.bf16:
                use_cpu_attention(self.model)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        """As the Trainer's; a corpus is read in its own order, which is random already."""
        rows = self.train_dataset if train_dataset is None else train_dataset
        if isinstance(rows, StreamedElements):
            return SequentialSampler(rows)
        return super()._get_train_sampler(train_dataset)

    def card_values(self) -> ModelCardValues:
        values, entry = super().card_values(), self._validation()
        if values.evaluations or entry is None:
            return values
        evaluations = []
        for name, data in domains_of(self.eval_dataset).items():
            prefix = f"eval_{name}_" if name else "eval_"
            metrics = {key.removeprefix(prefix): value for key, value in entry.items() if key.startswith(prefix)}
            interactions = self._interactions(data)
            protocol = {"split": interactions.split, "part": "validation", "seen": "kept", "step": entry["step"]}
            evaluations.append(
                Evaluation(
                    dataset=name or self.domain,
                    metrics={key: value for key, value in metrics.items() if is_rank_metric(key)},
                    protocol={**protocol, "candidates": f"all {interactions.num_items} items"},
                    num_users=metrics.get("num_users"),
                )
            )
        return replace(values, evaluations=evaluations)

    def _validation(self) -> dict[str, Any] | None:
        """The log's entry on the weights as they are: after training, or of the best step if that one was loaded."""
        found = [
            (at, entry)
            for at, entry in enumerate(self.state.log_history)
            if "eval_num_users" in entry and not any(entry is test for test in self._tests)
        ]
        if self.eval_dataset is None or not found:
            return None
        ends = [at for at, entry in enumerate(self.state.log_history) if "train_runtime" in entry]
        at, entry = found[-1]
        if self._best_is_loaded and (not ends or at < ends[-1]):
            return next((entry for _, entry in found if entry["step"] == self.state.best_global_step), entry)
        return entry

    def _ranker(self, data: Any) -> Ranker:
        """The model in training as a ranker for the catalogue of `data`."""
        raise NotImplementedError

    def _interactions(self, data: Any) -> Interactions:
        """All interactions of `data` (not the training part)."""
        raise NotImplementedError

    def _check_validation(self) -> None:
        """Raises what validation would raise: a mistake must not wait for the end of the first epoch.

        Raises:
            ValueError: weights are sharded (FSDP, ZeRO-3) and the training is to be validated, there is nothing to
                validate by, or as `_ranker`.
        """
        if self.args.eval_strategy != "no":
            self._check_whole_weights()
        for name, data in domains_of(self.eval_dataset).items():
            check_validated(self._interactions(data), self.args, name or self.domain)
            self._ranker(data)

    def _check_whole_weights(self) -> None:
        if self.is_fsdp_enabled or is_deepspeed_zero3_enabled():
            raise ValueError(
                "Validation by ranking needs whole weights on every process: train with DDP or ZeRO-1/2, or with "
                "eval_strategy='no' and evaluate what was saved."
            )

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
        part: Literal["validation", "test"] = "validation",
    ) -> dict[str, float]:
        """Ranks the catalogue for the users' held-out items, logs the metrics and calls `on_evaluate`.

        Args:
            eval_dataset (`Any`, *optional*): other data than the Trainer's.
            ignore_keys (`list[str]`, *optional*): not used; the Trainer passes it.
            metric_key_prefix (`str`, *optional*, defaults to `"eval"`): prefix of the metrics.
            part (`str`, *optional*, defaults to `"validation"`): held-out item; `max_eval_users` limits the validation
                only, never the test.

        Returns:
            `dict`: `{prefix}_recall@5`, … and `{prefix}_num_users` (those ranked), the same with `{prefix}_{domain}_`
            when there are several domains, and run times. Equal on all processes.

        Raises:
            TypeError: data of another kind.
            ValueError: no data, no user with anything to predict, or weights are sharded (FSDP, ZeRO-3).
        """
        self._check_whole_weights()
        evaluation = self.eval_dataset if eval_dataset is None else eval_dataset
        if evaluation is None:
            raise ValueError("Nothing to evaluate: give the trainer `evaluation`, or evaluate() an `eval_dataset`.")
        self._check_evaluation("eval_dataset", evaluation)
        self._memory_tracker.start()
        start = time.time()
        results = {name: self._evaluate_domain(data, part) for name, data in domains_of(evaluation).items()}
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
        if part != "validation":
            self._tests.append(self.state.log_history[-1])
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._memory_tracker.stop_and_update_metrics(metrics)
        return metrics

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Raises TypeError: what ranks items has no labels to predict."""
        raise TypeError(
            f"{type(self).__name__} predicts no labels: evaluate(part='test') gives the metrics of the test items, "
            "and a ranker (trainers.load_ranker) of what was saved the items themselves."
        )

    @classmethod
    def _check_evaluation(cls, name: str, data: Any) -> None:
        """Raises TypeError unless data are those of a validation."""
        kind, way = cls.evaluation_kind
        check_kinds(name, data, (kind,), way)

    def _evaluate(self, trial: Any, ignore_keys_for_eval: list[str] | None, skip_scheduler: bool = False) -> Any:
        """As [`HubTrainer`]'s; with `eval_on_start` the weights before the first step may be the best ones, too: a
        training never ends with worse ones, on validation, than it began with."""
        metrics = super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)
        starts = bool(metrics) and self.args.eval_on_start and not self.state.global_step
        if starts and self.args.load_best_model_at_end and self._determine_best_metric(metrics, trial):
            self._save_checkpoint(self.model_wrapped, trial)
        return metrics

    def _evaluate_domain(self, data: Any, part: Literal["validation", "test"]) -> dict[str, float]:
        """Metrics of one domain over the users of all processes, and `num_users`."""
        interactions = self._interactions(data)
        users = np.unique(interactions.cases(part).users)
        if not len(users):
            raise ValueError(f"No user to evaluate has anything to predict in the {part} part.")
        limit = self.args.max_eval_users
        if part == "validation" and limit is not None and limit < len(users):
            users = np.sort(np.random.default_rng(EVALUATION_USERS_SEED).choice(users, limit, replace=False))
        share = users[self.accelerator.process_index :: self.accelerator.num_processes]
        means, num_cases = {}, 0
        if len(share):  # none when there are more processes than users
            ranker = self._ranker(data)
            shard = interactions.select_users(share)
            # the ranker's own max_history holds
            result = evaluate(ranker, shard, part, max_history=None, long_tail=False)
            means = {name: value for name, value in result.items() if is_rank_metric(name)}
            num_cases = result["num_cases"]
        shares = [(count, means) for count, means in gather_object([(num_cases, means)]) if count]
        total = sum(count for count, _ in shares)
        metrics = {name: sum(count * means[name] for count, means in shares) / total for name in shares[0][1]}
        return {**metrics, "num_users": len(users)}


def check_validated(interactions: Interactions, args: TrainingArguments, name: str) -> None:
    """
    For what trains after other work: known before it.

    Raises:
        ValueError: the training is to be validated, and the split of the data of this name has no validation case.
    """
    if args.eval_strategy == IntervalStrategy.NO:
        return
    try:
        check_cases(interactions, "validation")
    except ValueError as error:
        raise ValueError(
            f"{name}: {error} The training is to be validated by them: take a split that has some, or train with "
            "eval_strategy no and load_best_model_at_end false."
        ) from None


def domains_of(evaluation: Any) -> dict[str, Any]:
    """Data of several domains by name, or of the one there is."""
    return evaluation if isinstance(evaluation, dict) else {"": evaluation}
