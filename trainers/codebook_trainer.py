"""The Trainer that item tokenizers share: it logs the parts of the loss and the use of the codebooks."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils import ModelOutput

from hub_cards import TokenizerCardValues
from modeling_utgrec import code_usage
from trainers.hub_trainer import HubTrainer, HubTrainingArguments

# How the names of measures begin of which more is better; of losses, collisions and restarts less is.
MORE_IS_BETTER = ("used_", "perplexity_", "entropy_")

# Arguments of transformers' Trainer that these do not honour: what an output is, and an optimizer of one rate.
OF_OUTPUTS = ("compute_metrics", "preprocess_logits_for_metrics", "compute_loss_func", "optimizer_cls_and_kwargs")


@dataclass
class CodebookTrainingArguments(HubTrainingArguments):
    """
    Arguments of a [`CodebookLoggingTrainer`]. `greater_is_better` follows from `metric_for_best_model` unless it is
    given: transformers takes the greatest of all whose names do not end in "loss".
    """

    def __post_init__(self):
        if self.greater_is_better is None and self.metric_for_best_model is not None:
            self.greater_is_better = self.metric_for_best_model.removeprefix("eval_").startswith(MORE_IS_BETTER)
        super().__post_init__()


class CodebookLoggingTrainer(HubTrainer):
    """
    A [`HubTrainer`] of a model with codes: logs the mean of every part of the loss and the codebooks' usage
    and perplexity since the last entry; a part that is not finite ends the training with its name. The best weights
    (`load_best_model_at_end`, early stopping) are chosen from those after the warm-up of the codebooks. The model's
    outputs, handed to `track`, have `codes` and parts named `<part>_loss`; its configuration has `level_sizes`.
    """

    card_class = TokenizerCardValues

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if given := [name for name in OF_OUTPUTS if kwargs.get(name) is not None]:
            raise ValueError(
                f"{type(self).__name__} takes no {', '.join(given)}: losses and measures are the network's own. A "
                "callback's on_evaluate gets what an evaluation gives."
            )
        super().__init__(*args, **kwargs)
        self._part_sums: dict[str, torch.Tensor] = {}
        self._part_steps = 0
        self._code_counts: list[torch.Tensor] | None = None

    def check_items_of(self, eval_dataset: Any) -> None:
        """Raises a `ValueError` for other items than those of the training, which alone are evaluated."""
        if not any(eval_dataset is items for items in (None, self.eval_dataset, self.train_dataset)):
            raise ValueError(
                f"{type(self).__name__} evaluates the items that it is trained on: leave eval_dataset out. The codes "
                "of others are those of UniversalItemTokenizer.compute_codes."
            )

    def track(self, output: ModelOutput, weight: torch.Tensor | float = 1.0) -> None:
        """Adds what a training step gave to what the next log entry shows, as much as it weighs among the processes:
        nothing of a batch that another one has."""
        for name, value in loss_parts(output).items():
            self._part_sums[name] = self._part_sums.get(name, 0.0) + value * weight
        self._part_steps += 1
        sizes = self.model.config.level_sizes
        codes = output["codes"] if weight else output["codes"][:0]
        counts = [torch.bincount(codes[:, level], minlength=size) for level, size in enumerate(sizes)]
        self._code_counts = (
            counts
            if self._code_counts is None
            else [old + new for old, new in zip(self._code_counts, counts, strict=True)]
        )

    def _broken_parts(self) -> list[str]:
        return [name for name, part in sorted(self._part_sums.items()) if not torch.isfinite(part)] or ["the loss"]

    @property
    def _is_warming_up(self) -> bool:
        """Whether the decoders see unquantized vectors, or those of some of the levels alone."""
        model, levels = self.model, self.model.config.num_levels
        return bool(getattr(model, "in_warmup", False) or getattr(model, "num_active_levels", levels) < levels)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """As transformers' method; weights within the warm-up are not the best ones, however small their loss is:
        their codes are of codebooks that have learned nothing."""
        return not self._is_warming_up and super()._determine_best_metric(metrics, trial)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if {"loss", "train_loss"} & logs.keys() and self._part_steps:  # train_loss: what came after the last entry
            names = sorted(self._part_sums)
            sums = torch.stack([self._part_sums[name].float() for name in names])[None] / self._part_steps
            means = self.accelerator.gather(sums).mean(dim=0).tolist()
            logs.update({f"loss/{name}": round(mean, 5) for name, mean in zip(names, means, strict=True)})
            assert self._code_counts is not None
            for level, own in enumerate(self._code_counts):
                counts = self.accelerator.reduce(own.clone())
                codes = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
                for name, value in code_usage(codes, len(counts)).items():
                    logs[f"codes/{name}_{level}"] = round(value, 4)
            self._part_sums, self._part_steps, self._code_counts = {}, 0, None
        super().log(logs, start_time)


def loss_parts(output: ModelOutput) -> dict[str, torch.Tensor]:
    """The unweighted parts of the loss that were computed, by name."""
    return {name.removesuffix("_loss"): part.detach() for name, part in output.items() if name.endswith("_loss")}


def check_items(num_items: int) -> None:
    """Raises a `ValueError` unless there are items to tell apart."""
    if num_items < 2:
        raise ValueError(f"An item tokenizer learns to tell items apart, and there is {num_items}: give it more.")
