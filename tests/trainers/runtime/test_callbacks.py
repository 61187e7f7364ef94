"""Callbacks that any trainer can have."""

import json
import math
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import TensorDataset
from transformers import Trainer, TrainerCallback, TrainingArguments

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


class TimedTrainer(Trainer):
    """Says in each entry of its log what `HubTrainer` does."""

    def log(self, logs, start_time=None):
        super().log(logs | {"train_seconds": self.model.clock.now - Clock.now}, start_time)


@pytest.fixture
def train(tmp_path, monkeypatch):
    def run(seconds, resume_from=None, **arguments):
        clock = Clock()
        monkeypatch.setattr(callbacks, "time", clock)
        args = TrainingArguments(
            str(tmp_path), max_steps=STEPS, learning_rate=1.0, per_device_train_batch_size=2, logging_steps=1,
            report_to=[], disable_tqdm=True, use_cpu=True, **arguments,
        )  # fmt: skip
        data = TensorDataset(torch.ones(2 * STEPS))
        trainer = TimedTrainer(
            Line(clock), args, train_dataset=data, data_collator=lambda rows: {"x": torch.stack([x for (x,) in rows])},
            callbacks=[TimeLimitCallback(seconds)],
        )  # fmt: skip
        trainer.train(resume_from)
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


def test_the_time_before_a_resume_counts(train, tmp_path):
    """The rate goes on where it was, and the limit is that of both parts."""
    _, whole = train(10, lr_scheduler_type="cosine", save_strategy="steps", save_steps=7)
    trainer, rates = train(10, str(tmp_path / "checkpoint-7"), lr_scheduler_type="cosine", save_strategy="no")
    assert trainer.state.global_step == 11 and rates == pytest.approx(whole)


def test_the_first_process_tells_the_time(run_two_processes, tmp_path):
    """The other one's clock stands still: by that it would go on alone, at another rate."""
    run_two_processes(__file__, tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second and first["steps"] == 6
    assert first["rates"] == pytest.approx([cosine(step / 5) for step in range(6)], abs=1e-6)


def run_worker(folder):
    rank, clock = int(os.environ["RANK"]), Clock()
    model = Line(clock if rank == 0 else Clock())
    callbacks.time = clock if rank == 0 else SimpleNamespace(monotonic=lambda: 0.0)
    args = TrainingArguments(
        folder, max_steps=STEPS, learning_rate=1.0, per_device_train_batch_size=2, lr_scheduler_type="cosine",
        logging_steps=1, report_to=[], disable_tqdm=True, use_cpu=True, save_strategy="no",
    )  # fmt: skip
    seen: list[float] = []

    class Rates(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
            seen.append(optimizer.param_groups[0]["lr"])

    trainer = Trainer(
        model, args, train_dataset=TensorDataset(torch.ones(4 * STEPS)),
        data_collator=lambda rows: {"x": torch.stack([x for (x,) in rows])}, callbacks=[TimeLimitCallback(5), Rates()],
    )  # fmt: skip
    trainer.train()
    told = {"steps": trainer.state.global_step, "rates": seen, "weight": model.weight.item()}
    Path(folder, f"{rank}.json").write_text(json.dumps(told))
