"""Callbacks of our trainers."""

from transformers import TrainerCallback


class EpochCallback(TrainerCallback):
    """Announces each epoch to a data set that draws its samples by epoch, also after a resume."""

    def __init__(self, dataset):
        self.dataset = dataset

    def on_epoch_begin(self, args, state, control, **kwargs):
        # A resumed training starts in the middle of an epoch: 1.5 belongs to epoch 1, as 1.9999999 does to 2.
        self.dataset.set_epoch(int(state.epoch + 1e-6))
