"""Arguments of transformers' Trainer that a training here cannot honour, refused by name before any work starts.

Each was tried with each of the Trainers: those below stop a training in the middle, or leave every number as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

import torch
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.utils import logging

logger = logging.get_logger(__name__)

_VALIDATION = "the validation is this package's own, and does not go through transformers' evaluation loop"
_LENGTHS = "examples are rows that a collator makes, and have no length of their own"
_LOSS = "the losses here are not those of transformers"
REFUSED = {
    "label_smoothing_factor": _LOSS,
    "prediction_loss_only": _VALIDATION,
    "eval_do_concat_batches": _VALIDATION,
    "eval_use_gather_object": _VALIDATION,
    "eval_accumulation_steps": _VALIDATION,
    "include_for_metrics": _VALIDATION,
    "batch_eval_metrics": _VALIDATION,
    "label_names": _VALIDATION,
    "bf16_full_eval": "the validation runs in the precision of the weights",
    "fp16_full_eval": "the validation runs in the precision of the weights",
    "use_liger_kernel": "Liger has no kernels of these networks",
    "liger_kernel_config": "Liger has no kernels of these networks",
    "use_cache": "a training reads no cache of a generation",
    "length_column_name": _LENGTHS,
    "remove_unused_columns": "the data have no columns",
    "logging_nan_inf_filter": "a loss that is not finite ends the training",
    "do_train": "the commands and methods say what is done",
    "do_predict": "the commands and methods say what is done",
}
ORDERS = ("random", "sequential")  # of the sampling that need no lengths
# Of some Trainers alone.
CHECKPOINTING = dict.fromkeys(
    ("activation_checkpointing", "gradient_checkpointing"), "the network has no layers that are computed twice"
)
MEANS = {"average_tokens_across_devices": "the loss is a mean over examples"}
DEBUG = {"debug": "transformers' search for overflows stops at masks"}
OPTIMIZER = {"optim_target_modules": "GaLore and APOLLO do not know the learning rate of the backbone"}
EMBEDDINGS = {"neftune_noise_alpha": "there are no embeddings of tokens that it could add noise to"}


def refuse(args: TrainingArguments, further: Mapping[str, str]) -> None:
    """
    Refuses arguments that are not at their defaults and that a Trainer cannot honour.

    Args:
        args ([`~transformers.TrainingArguments`]): as they were given.
        further (`Mapping[str, str]`): beside [`REFUSED`], those of this Trainer, and why.

    Raises:
        ValueError: there are any; all of them are named.
    """
    given = {name: why for name, why in {**REFUSED, **further}.items() if _is_given(args, name)}
    if "optim_target_modules" not in given and args.optim_target_modules and not _takes_modules(args):
        given["optim_target_modules"] = "it is of GaLore and APOLLO (optim)"
    if args.train_sampling_strategy not in ORDERS:
        given[f"train_sampling_strategy {args.train_sampling_strategy}"] = f"{_LENGTHS}: choose {' or '.join(ORDERS)}"
    if given:
        said = "; ".join(f"{name}: {why}" for name, why in given.items())
        raise ValueError(f"{type(args).__name__} cannot honour {said}. Leave it out.")


def check_optimization(args: TrainingArguments) -> None:
    """
    Whether optimizer and schedule can be made, which transformers would know after the data and models were.

    Raises:
        ValueError: a package or an argument is missing.
    """
    if not _takes_modules(args) and "lomo" not in args.optim:  # those need the model
        try:
            Trainer.get_optimizer_cls_and_kwargs(args)
        except (ImportError, ValueError) as error:
            raise ValueError(f"optim {getattr(args.optim, 'value', args.optim)}: {error}") from error
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    given = args.lr_scheduler_kwargs if isinstance(args.lr_scheduler_kwargs, dict) else None
    try:
        get_scheduler(args.lr_scheduler_type, optimizer, 1, 10, given or None)
    except (TypeError, ValueError) as error:
        name = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
        raise ValueError(f"lr_scheduler_type {name}: {error}; see lr_scheduler_kwargs.") from error


def check_last_batch(args: TrainingArguments, num_examples: int) -> None:
    """
    Whether there is a batch at all.

    Raises:
        ValueError: batches are to be whole (`dataloader_drop_last`), and the data are fewer than one.
    """
    batch = args.train_batch_size * args.world_size
    if args.dataloader_drop_last and num_examples < batch:
        raise ValueError(
            f"There is no batch to train on: {num_examples} examples are fewer than one batch of {batch}, and "
            "dataloader_drop_last leaves the rest out. Lower per_device_train_batch_size, or leave it out."
        )


def tell_negatives(args: TrainingArguments) -> None:
    """Warns that accumulation adds none to the negatives of a loss that takes them from its batch."""
    accumulation, batch = args.gradient_accumulation_steps, args.train_batch_size * args.world_size
    if accumulation > 1 and args.should_log:
        logger.warning(
            f"The negatives are those of {batch} examples and not of the {batch * accumulation} of a step: "
            f"gradient_accumulation_steps {accumulation} adds none, and the result is not that of such a batch. Where "
            "it must be, raise per_device_train_batch_size, or the number of processes."
        )


def _is_given(args: TrainingArguments, name: str) -> bool:
    found = [each for each in fields(args) if each.name == name]
    if not found:  # of a later or an earlier release of transformers
        return False
    factory = found[0].default_factory
    default: Any = found[0].default if factory is MISSING else factory()
    value = getattr(args, name)
    return value != default and bool(value or default)  # an empty text may have become an empty list


def _takes_modules(args: TrainingArguments) -> bool:
    return any(kind in args.optim for kind in ("galore", "apollo"))
