"""Micro-batches: one thread runs the model, and reads together the requests that came while it was busy."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

Question = TypeVar("Question", bound=Hashable)


class BusyError(RuntimeError):
    """As many rows wait as may."""


class ClosedError(RuntimeError):
    """There will be no more answers."""


@dataclass(eq=False)
class _Job(Generic[Question]):
    question: Question
    rows: Sequence[Any]
    answers: Future[list[Any]] = field(default_factory=Future)


class Batcher(Generic[Question]):
    """
    Gathers rows of several requests and answers them in one call.

    Rows are read together if they have the same question: what is asked of them, and of which state. A batch is full
    with `max_batch_size` rows, or complete `max_wait` seconds after its first request was taken; a request is never
    divided. Where a batch of several requests fails, each is asked alone, so that an error is of its own request.

    Args:
        answer (`Callable[[Question, list], list]`): answers rows, one for each; called in one thread alone.
        max_batch_size (`int`): rows of a batch.
        max_wait (`float`): seconds to wait for further requests.
        max_waiting (`int`): rows that may wait.
    """

    def __init__(
        self,
        answer: Callable[[Question, list[Any]], list[Any]],
        max_batch_size: int,
        max_wait: float,
        max_waiting: int,
    ):
        self.answer, self.max_batch_size, self.max_wait = answer, max_batch_size, max_wait
        self.max_waiting = max_waiting
        self.waiting = 0  # rows
        self._jobs: deque[_Job[Question]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="recommend", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether rows are still answered."""
        return self._thread.is_alive()

    def submit(self, question: Question, rows: Sequence[Any]) -> Future[list[Any]]:
        """
        Asks for answers, which come in the order of the rows. A future that is cancelled in time costs nothing.

        Raises:
            BusyError: too many rows wait.
            ClosedError: it was closed.
        """
        with self._changed:
            if self._closed or not self.is_alive:
                raise ClosedError("The service ends.")
            if self.waiting + len(rows) > self.max_waiting:
                raise BusyError(f"{self.waiting} histories wait, {self.max_waiting} may.")
            job = _Job(question, rows)
            self._jobs.append(job)
            self.waiting += len(rows)
            self._changed.notify()
        return job.answers

    def close(self) -> None:
        """Answers what waits, and ends."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _take(self) -> list[_Job[Question]]:
        """The next batch; nothing when it was closed and all is answered."""
        with self._changed:
            while not self._jobs:
                if self._closed:
                    return []
                self._changed.wait()
            taken, until = [self._jobs.popleft()], time.monotonic() + self.max_wait
            size = len(taken[0].rows)
            while size < self.max_batch_size:
                if not self._jobs:
                    left = until - time.monotonic()
                    if self._closed or left <= 0 or not self._changed.wait(left):
                        break
                    continue
                if size + len(self._jobs[0].rows) > self.max_batch_size:
                    break
                taken.append(self._jobs.popleft())
                size += len(taken[-1].rows)
            self.waiting -= size
        return taken

    def _work(self) -> None:
        while jobs := self._take():
            groups: dict[Question, list[_Job[Question]]] = {}
            for job in jobs:
                if job.answers.set_running_or_notify_cancel():
                    groups.setdefault(job.question, []).append(job)
            for question, group in groups.items():
                self._answer(question, group)

    def _answer(self, question: Question, group: list[_Job[Question]]) -> None:
        try:
            rows = [row for job in group for row in job.rows]
            answers = self.answer(question, rows)
            if len(answers) != len(rows):
                raise RuntimeError(f"{len(rows)} histories got {len(answers)} answers.")
        except BaseException as error:  # a panic of polars or tokenizers is no Exception, and would end the thread
            if len(group) > 1:
                for job in group:
                    self._answer(question, [job])
            else:
                told = error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}")
                group[0].answers.set_exception(told)
            return
        start = 0
        for job in group:
            job.answers.set_result(answers[start : start + len(job.rows)])
            start += len(job.rows)
