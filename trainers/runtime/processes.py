"""Processes that train together: those of a launcher find each other, or it is said that there is one; and batches of
which no example counts twice."""

from __future__ import annotations

import os
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from transformers.utils import is_torch_xla_available, logging

logger = logging.get_logger(__name__)


def is_on_cpu() -> bool:
    """Whether there is no accelerator."""
    return not (torch.accelerator.is_available() or is_torch_xla_available())


def join_processes() -> None:
    """
    On a machine without accelerators: lets processes that `torchrun` started find each other, which accelerate does
    only where it is told that they are to stay on the CPU (each would train alone, and write what the others write);
    and says that `accelerate launch --num_processes 2` has started one.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        if is_on_cpu():
            PartialState(cpu=True)  # which all that ask later share
    elif "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ and is_on_cpu():
        # the launcher sets the port for several processes alone
        logger.warning(
            "accelerate launch has started one process, whatever --num_processes says: on a machine without GPUs it "
            "starts several with --multi_gpu and without --cpu, as `torchrun --nproc_per_node 2 -m trainers ...` does."
        )


def real_rows(accelerator: Accelerator, rows: int, examples: int) -> int:
    """
    Of a batch that has just been taken from a prepared data loader, the rows that no other process has: the last
    batches of an epoch are filled with the first examples, so that all processes have as many.

    Args:
        accelerator ([`~accelerate.Accelerator`]): of the training. Its own `remainder` is not known in an epoch that a
            resumed training begins in the middle of.
        rows (`int`): of the batch.
        examples (`int`): of an epoch; 0 if those of a last, smaller batch are left out of it.
    """
    processes = accelerator.num_processes
    remainder = examples % (rows * processes)
    if processes == 1 or not accelerator.gradient_state.end_of_dataloader or not remainder:
        return rows
    return min(max(remainder - accelerator.process_index * rows, 0), rows)


def without_repeated(accelerator: Accelerator, batch: dict[str, Any], examples: int) -> dict[str, Any]:
    """A batch of rows without those of [`real_rows`] that another has; one row of no label where none is left."""
    rows = len(next(iter(batch.values())))
    kept = real_rows(accelerator, rows, examples)
    if kept == rows:
        return batch
    cut = {name: values[: max(kept, 1)] for name, values in batch.items()}
    return cut if kept else cut | {"labels": torch.full_like(cut["labels"], -100)}


def weighed(accelerator: Accelerator, batch: dict[str, Any], examples: int) -> dict[str, Any]:
    """
    A batch of rows without those that another process has, and `weight`: the share of the global batch's labels
    (rows, if there are none) that it has, times the processes. The mean of the processes' mean losses, each times its
    weight, is the mean over the global batch. Nothing is changed of a single process' batch.
    """
    if accelerator.num_processes == 1:
        return batch
    rows = len(next(iter(batch.values())))
    kept = real_rows(accelerator, rows, examples)
    cut = {name: values[: max(kept, 1)] for name, values in batch.items()}
    count = (cut["labels"] != -100).sum().float() if "labels" in cut and kept else torch.tensor(float(kept))
    count = count.to(accelerator.device)
    total = accelerator.reduce(count.clone(), "sum")
    return cut | {"weight": count * accelerator.num_processes / total}
