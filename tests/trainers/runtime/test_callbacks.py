"""Callbacks that any trainer can have."""

import math

import pytest
import torch
from torch.utils.data import TensorDataset
from transformers import Trainer, TrainingArguments

from trainers.runtime import callbacks
from trainers.runtime.callbacks import TimeLimitCallback

STEPS = 40


class Line(torch.nn.Module):
    def __init__(self, clock):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.clock = clock

    def forward(self, x):
        self.clock.now += 1.0  # a second for each step
        return {"loss": (self.weight - x.mean()).square().sum()}


class Clock:
    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def train(tmp_path, monkeypatch):
    def run(seconds, **arguments):
        clock = Clock()
        monkeypatch.setattr(callbacks, "time", clock)
        args = TrainingArguments(
            str(tmp_path), max_steps=STEPS, learning_rate=1.0, per_device_train_batch_size=2, logging_steps=1,
            report_to=[], disable_tqdm=True, use_cpu=True, **arguments,
        )  # fmt: skip
        data = TensorDataset(torch.ones(2 * STEPS))
        trainer = Trainer(
            Line(clock), args, train_dataset=data, data_collator=lambda rows: {"x": torch.stack([x for (x,) in rows])},
            callbacks=[TimeLimitCallback(seconds)],
        )  # fmt: skip
        trainer.train()
        return trainer, [row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row]

    return run


def cosine(progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


def test_schedule_ends_with_the_limit(train):
    trainer, rates = train(10, lr_scheduler_type="cosine", save_strategy="no")
    assert trainer.state.global_step == 11  # the step that passes the limit is the last
    assert rates[:11] == pytest.approx([cosine(step / 10) for step in range(11)], abs=1e-6)


def test_steps_rule_where_there_is_time_enough(train):
    trainer, rates = train(1000, lr_scheduler_type="cosine", save_strategy="no")
    assert trainer.state.global_step == STEPS
    assert rates == pytest.approx([cosine(step / STEPS) for step in range(STEPS)], abs=1e-6)


def test_constant_rates_stay_and_the_model_is_saved_at_the_limit(train, tmp_path):
    trainer, rates = train(5, lr_scheduler_type="constant", save_strategy="epoch")
    assert trainer.state.global_step == 6 and set(rates) == {1.0}
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-6"]
