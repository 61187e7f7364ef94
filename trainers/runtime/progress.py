"""Progress in lines that people read: what happens now, for how long, and that it goes on where it takes long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging import ERROR, WARNING, getLogger
from typing import Any

from transformers import ProgressCallback, TrainerCallback
from transformers.utils import logging

from hub_cards.formatting import format_duration, metric_name

QUIET_SECONDS = 8.0  # after which a step that says nothing is said to go on
SHOWN_METRICS = ("ndcg@10", "recall@10")
_latest_line = time.monotonic()  # of this process: two that tell of one thing need not both say that it goes on


def _tell(say: Callable[[str], None], text: str) -> None:
    global _latest_line
    _latest_line = time.monotonic()
    say(text)


@contextmanager
def lines_alone(*loggers: str) -> Iterator[None]:
    """While the block lasts, transformers' messages and bars and the warnings of some loggers are left out, so that
    what is printed stands alone; unless `--log_level` asks for more than warnings."""
    if logging.get_verbosity() < WARNING:
        yield
        return
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    quiet = [getLogger(name) for name in loggers]
    levels = [each.level for each in quiet]
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for each in quiet:
        each.setLevel(ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
        for each, level in zip(quiet, levels, strict=True):
            each.setLevel(level)


class Progress:
    """
    Announces steps, says of each that takes long that it goes on, and keeps how long each took.

    Args:
        say (`Callable[[str], None]`, *optional*): takes a line; by default nobody does.
        quiet (`float`, *optional*, defaults to 8.0): seconds without a line after which there is one.

    Attributes:
        seconds (`dict[str, float]`): of each part that is finished, by its name.

    Example:

    ```python
    >>> progress = Progress(print)
    >>> with progress.step("texts", "reading the texts of 20,000 products"):
    ...     vectors = tf_idf_embeddings(texts)
    [   0 s] reading the texts of 20,000 products
    ```
    """

    def __init__(self, say: Callable[[str], None] | None = None, quiet: float = QUIET_SECONDS):
        self._say, self._quiet = say, quiet
        self._began = time.monotonic()
        self.seconds: dict[str, float] = {}

    def line(self, text: str) -> None:
        """A line, with the seconds since the beginning."""
        if self._say is not None:
            _tell(self._say, f"[{time.monotonic() - self._began:4.0f} s] {text}")

    @contextmanager
    def step(self, name: str, text: str) -> Iterator[None]:
        """Announces what the block does; seconds of blocks of one name are added."""
        self.line(text)
        began, ended = time.monotonic(), threading.Event()
        beat = threading.Thread(target=self._beat, args=(text, began, ended), daemon=True)
        if self._say is not None:
            beat.start()
        try:
            yield
        finally:
            ended.set()
            if beat.is_alive():
                beat.join()
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - began, 2)

    def _beat(self, text: str, began: float, ended: threading.Event) -> None:
        while not ended.wait(max(0.01, _latest_line + self._quiet - time.monotonic())):
            if time.monotonic() - _latest_line >= self._quiet:
                self.line(f"... still {text}, for {time.monotonic() - began:.0f} s now")


def log_line(logs: dict[str, Any]) -> str:
    """
    What a training has logged, in a line of few figures; all of them go into the card. Empty where none is for people.

    Args:
        logs (`dict`): an entry of the training's log.
    """
    if "train_runtime" in logs:
        loss = f", mean loss {logs['train_loss']:.3f}" if "train_loss" in logs else ""
        return f"trained in {format_duration(logs['train_runtime'])}{loss}"
    parts = [f"loss {logs['loss']:.3f}"] if "loss" in logs else []
    for key, value in logs.items():
        metric = next((each for each in SHOWN_METRICS if key.startswith("eval_") and key.endswith(each)), None)
        if metric is not None and isinstance(value, float):
            domain = key.removeprefix("eval_").removesuffix(metric).strip("_")
            parts.append(f"{f'of {domain} ' if domain else ''}{metric_name(metric)} {value:.4f}")
    if not parts and isinstance(logs.get("eval_loss"), float):
        parts = [f"loss {logs['eval_loss']:.3f}"]
    if any(key.startswith("eval_") for key in logs) and parts:
        parts[0] = f"on validation {parts[0]}"
    used = [value for key, value in sorted(logs.items()) if "used_" in key and isinstance(value, float)]
    if used and parts:
        parts.append("codes in use " + "/".join(f"{value:.0%}" for value in used))
    return ", ".join(parts)


class LogLines(TrainerCallback):
    """Says in lines how far a training is and what it has logged, in place of dictionaries; one every few seconds.

    Args:
        say (`Callable[[str], None]`, *optional*): takes a line; by default it is printed.
        quiet (`float`, *optional*, defaults to 8.0): seconds without a line after which a step gets one.
    """

    def __init__(self, say: Callable[[str], None] | None = None, quiet: float = QUIET_SECONDS):
        self._say = (lambda text: print(text, flush=True)) if say is None else say
        self._quiet = quiet
        self._began, self._first = time.monotonic(), 0

    def on_train_begin(self, args, state, control, **kwargs):
        self._began, self._first = time.monotonic(), state.global_step

    def on_step_end(self, args, state, control, **kwargs):
        if state.is_local_process_zero and time.monotonic() - _latest_line >= self._quiet:
            self._line(state, "")

    def on_log(self, args, state, control, logs=None, **kwargs):
        text = log_line(logs or {})
        if state.is_local_process_zero and text:
            self._line(state, text)

    def _line(self, state, text: str) -> None:
        done, most = state.global_step - self._first, max(state.max_steps, 1)
        if "trained in" in text:
            return _tell(self._say, f"  {text}")
        place = f"step {state.global_step:,} of {most:,}"
        left = (time.monotonic() - self._began) / max(done, 1) * (most - state.global_step)
        soon = f" (at most {format_duration(left)} left)" if done and not text and left else ""
        _tell(self._say, f"  {place}{': ' + text if text else ''}{soon}")


class LogBar(ProgressCallback):
    """transformers' bar for a terminal, with the lines of [`LogLines`] in place of dictionaries."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        text = log_line(logs or {})
        if state.is_world_process_zero and self.training_bar is not None and text:
            self.training_bar.write(f"step {state.global_step:,}: {text}")
