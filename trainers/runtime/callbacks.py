"""Callbacks of the trainers."""

import time
from collections.abc import Callable

from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback
from transformers.utils import logging

logger = logging.get_logger(__name__)


class EpochCallback(TrainerCallback):
    """Announces each epoch to a data set that draws its samples by epoch, also after a resume."""

    def __init__(self, dataset):
        self.dataset = dataset

    def on_epoch_begin(self, args, state, control, **kwargs):
        # A resumed training starts in the middle of an epoch: 1.5 belongs to epoch 1, as 1.9999999 does to 2.
        self.dataset.set_epoch(int(state.epoch + 1e-6))


class WarmupCallback(TrainerCallback):
    """Warns before an item tokenizer's training that ends within the warm-up of its codebooks."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        left = (model.config.warmup_steps - int(model.training_passes)) / args.gradient_accumulation_steps
        steps = state.max_steps - state.global_step
        if 0 < steps <= left:
            logger.warning(
                f"The training has {steps} steps and the codebooks' warm-up {left:g}: the decoders will never see "
                "quantized vectors, and the codes will tell little. Lower codebook_warmup_steps or train longer."
            )


class TimeLimitCallback(TrainerCallback):
    """Ends a training after so many seconds, evaluations included, at the end of the step that passes the limit. The
    model is then evaluated and saved as at the end of an epoch.

    The learning rate's schedule follows the time where that is further than the steps, so that it ends with the
    training: a model that the limit stops in the middle of a cosine is worse than one that had a whole, shorter one.

    Args:
        seconds (`float`): the limit.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.start = 0.0  # set when the training begins

    def on_train_begin(self, args, state, control, lr_scheduler=None, **kwargs):
        self.start = time.monotonic()
        if isinstance(lr_scheduler, LambdaLR):
            lr_scheduler.lr_lambdas = [self._in_time(f, state.max_steps) for f in lr_scheduler.lr_lambdas]

    def _in_time(self, schedule: Callable[[int], float], max_steps: int) -> Callable[[int], float]:
        def factor(step: int) -> float:
            spent = (time.monotonic() - self.start) / self.seconds
            return schedule(max(step, int(min(spent, 1.0) * max_steps)))

        return factor

    def on_step_end(self, args, state, control, **kwargs):
        if time.monotonic() - self.start > self.seconds:
            control.should_training_stop = True
            control.should_evaluate = args.eval_strategy != "no"
            control.should_save = args.save_strategy != "no"
        return control
