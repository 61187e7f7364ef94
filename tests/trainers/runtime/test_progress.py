"""Progress in lines: of steps that take long, and of a training's log."""

import time
from logging import ERROR, getLogger
from types import SimpleNamespace

import pytest
from transformers import PrinterCallback, ProgressCallback, TrainingArguments
from transformers.utils import logging

from modeling_utgrec import ItemLevelConfig, ItemLevelForCausalLM
from trainers.hub_trainer import HubTrainer
from trainers.runtime import progress as module
from trainers.runtime.progress import LogBar, LogLines, Progress, lines_alone, log_line


@pytest.mark.parametrize("bars", [True, False])
def test_lines_alone_until_the_end(bars, caplog):
    (logging.enable_progress_bar if bars else logging.disable_progress_bar)()
    ours = getLogger("trainers.rankers")
    before = logging.get_verbosity(), ours.level
    with pytest.raises(ValueError, match="no"), lines_alone("trainers.rankers"):
        assert logging.get_verbosity() == ERROR and not logging.is_progress_bar_enabled()
        getLogger("trainers.rankers.linear").warning("said by the program")
        raise ValueError("no")
    assert not caplog.records and (logging.get_verbosity(), ours.level) == before
    assert logging.is_progress_bar_enabled() is bars
    getLogger("trainers.rankers.linear").warning("said here")
    assert caplog.messages == ["said here"]
    logging.enable_progress_bar()


def test_steps_are_announced_and_timed():
    lines = []
    progress = Progress(lines.append)
    for _ in range(2):
        with progress.step("texts", "reading the texts"):
            pass
    assert [line.partition("] ")[2] for line in lines] == ["reading the texts"] * 2
    assert progress.seconds["texts"] < 1


def test_a_long_step_says_that_it_goes_on():
    lines = []
    with Progress(lines.append, quiet=0.05).step("memory", "building the memory"):
        time.sleep(0.3)
    told = [line for line in lines if "... still building the memory" in line]
    assert 2 <= len(told) <= 6
    settled = len(lines)
    time.sleep(0.15)
    assert len(lines) == settled  # nothing comes after the step


def test_an_error_ends_the_step():
    lines = []
    try:
        with Progress(lines.append, quiet=0.02).step("a", "a"):
            raise ValueError("no")
    except ValueError:
        pass
    settled = len(lines)
    time.sleep(0.1)
    assert len(lines) == settled


def test_nobody_is_told():
    progress = Progress()
    with progress.step("a", "a"):
        progress.line("b")
    assert list(progress.seconds) == ["a"]


def test_log_lines_have_few_figures():
    assert log_line({"loss": 2.34567, "grad_norm": 1.0, "learning_rate": 1e-3, "epoch": 2.0}) == "loss 2.346"
    logs = {"eval_ndcg@10": 0.07123, "eval_recall@10": 0.12, "eval_ndcg@5": 0.05, "eval_runtime": 3.0, "epoch": 2.0}
    assert log_line(logs) == "on validation NDCG@10 0.0712, Recall@10 0.1200"
    assert log_line({"eval_office_ndcg@10": 0.5}) == "on validation of office NDCG@10 0.5000"
    assert log_line({"eval_loss": 1.5, "eval_used_0": 0.97, "eval_used_1": 1.0}) == (
        "on validation loss 1.500, codes in use 97%/100%"
    )
    assert log_line({"train_runtime": 75.0, "train_loss": 2.0, "train_steps_per_second": 3}) == (
        "trained in 1 min 15 s, mean loss 2.000"
    )
    assert log_line({"train_seconds": 3.0, "epoch": 1.0}) == ""


def test_training_lines(monkeypatch):
    lines = []
    callback = LogLines(lines.append, quiet=5.0)
    state = SimpleNamespace(global_step=0, max_steps=100, is_local_process_zero=True)
    callback.on_train_begin(None, state, None)
    callback._began -= 10
    state.global_step = 20
    monkeypatch.setattr(module, "_latest_line", time.monotonic())
    callback.on_step_end(None, state, None)
    assert lines == []  # there was one just now
    monkeypatch.setattr(module, "_latest_line", time.monotonic() - 6)
    callback.on_step_end(None, state, None)
    assert lines[0].startswith("  step 20 of 100 (at most 40.0 s left)")
    callback.on_log(None, state, None, logs={"loss": 1.0})
    callback.on_log(None, state, None, logs={"epoch": 1.0})
    state.is_local_process_zero = False
    callback.on_log(None, state, None, logs={"loss": 1.0})
    assert lines[1:] == ["  step 20 of 100: loss 1.000"]


@pytest.mark.parametrize(("quiet", "expected"), [(True, LogLines), (False, LogBar)])
def test_trainers_say_lines_in_place_of_dictionaries(tmp_path, quiet, expected):
    arguments = TrainingArguments(str(tmp_path), disable_tqdm=quiet, report_to=[], use_cpu=True)
    trainer = HubTrainer(ItemLevelForCausalLM(ItemLevelConfig.tiny()), arguments)
    kinds = [type(callback) for callback in trainer.callback_handler.callbacks]
    assert kinds.count(expected) == 1
    assert not {PrinterCallback, ProgressCallback} & set(kinds)
