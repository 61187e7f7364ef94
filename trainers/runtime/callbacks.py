"""Callbacks of the trainers."""

import time
from collections.abc import Callable

import torch
from accelerate.utils import broadcast
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainerControl

from trainers.hub.model_facts import last_entry


class EpochCallback(TrainerCallback):
    """Announces each epoch to a data set that draws its samples by epoch, also after a resume."""

    def __init__(self, dataset):
        self.dataset = dataset

    def on_epoch_begin(self, args, state, control, **kwargs):
        # A resumed training starts in the middle of an epoch: 1.5 belongs to epoch 1, as 1.9999999 does to 2.
        self.dataset.set_epoch(int(state.epoch + 1e-6))


class BeginningCallback(TrainerCallback):
    """Does something when a training begins, after all that it goes on from was loaded, and gives what comes of it."""

    def __init__(self, begin: Callable[[], TrainerControl]):
        self.begin = begin

    def on_train_begin(self, args, state, control, **kwargs):
        return self.begin()


def check_warmup(flag: str, passes: int, steps: int, accumulation: int) -> None:
    """
    Whether an item tokenizer's training goes on after all of its codebooks have come into use.

    Args:
        flag (`str`): the argument that says when they do, `codebook_warmup_steps` or `curriculum_epochs`.
        passes (`int`): forward passes until then.
        steps (`int`): of the optimizer until the end; 0: a training that is over.
        accumulation (`int`): passes of a step.

    Raises:
        ValueError: the training ends before.
    """
    if 0 < steps <= passes / accumulation:
        raise ValueError(
            f"The item tokenizer's training has {steps:,} steps, and its codebooks are in use after "
            f"{passes / accumulation:,g}: the decoders would never see quantized vectors, or levels never be trained, "
            f"and the codes tell little. Lower {flag}, or train longer (num_train_epochs, max_steps, a smaller batch)."
        )


class WarmupCallback(TrainerCallback):
    """Refuses an item tokenizer's training that ends within the warm-up of its codebooks, see [`check_warmup`]."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        config, flag = model.config, "codebook_warmup_steps"
        passes = getattr(config, "warmup_steps", 0)
        if getattr(config, "curriculum_passes", 0):
            passes, flag = config.curriculum_passes * (config.num_levels - 1), "curriculum_epochs"
        left = max(0, passes - int(model.training_passes))
        if left:  # the warm-up of a network that is trained further may be over
            check_warmup(flag, left, state.max_steps - state.global_step, args.gradient_accumulation_steps)


class TimeLimitCallback(TrainerCallback):
    """Ends a training after so many seconds, evaluations included, at the end of the step that passes the limit. The
    model is then evaluated and saved as at the end of an epoch.

    The learning rate's schedule follows the time where that is further than the steps, so that it ends with the
    training: a model that the limit stops in the middle of a cosine is worse than one that had a whole, shorter one.

    The seconds of a training that is resumed count, as far as its log tells them (`train_seconds`). Of several
    processes the first one's clock holds: each by its own would take other steps and leave the others waiting.

    Args:
        seconds (`float`): the limit.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.start = 0.0  # set when the training begins
        self.spent = 0.0  # seconds until the step that was made last

    def on_train_begin(self, args, state, control, lr_scheduler=None, **kwargs):
        earlier = last_entry(state.log_history, "train_seconds")
        self.spent = earlier["train_seconds"] if earlier else 0.0
        self.start = time.monotonic() - self.spent
        if isinstance(lr_scheduler, LambdaLR):
            lr_scheduler.lr_lambdas = [self._in_time(f, state.max_steps) for f in lr_scheduler.lr_lambdas]

    def _in_time(self, schedule: Callable[[int], float], max_steps: int) -> Callable[[int], float]:
        def factor(step: int) -> float:
            return schedule(max(step, int(min(self.spent / self.seconds, 1.0) * max_steps)))

        return factor

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.spent = time.monotonic() - self.start
        if args.world_size > 1:
            self.spent = broadcast(torch.tensor(self.spent, device=args.device)).item()

    def on_step_end(self, args, state, control, **kwargs):
        if self.spent > self.seconds:
            control.should_training_stop = True
            control.should_evaluate = args.eval_strategy != "no"
            control.should_save = args.save_strategy != "no"
        return control
