"""Marks of tasks that were begun and did not end: what ends its process each time is not tried for ever."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

MOST = 4  # of a task: a machine may fail, or be taken away, while it is at work


class EndedEachTimeError(RuntimeError):
    """A task whose process was ended each time that it was tried."""


@dataclass(frozen=True)
class Attempts:
    """
    Counts how often each task was begun, by a byte in a file for each time; a task that ends takes its file away.

    Args:
        folder (`Path`): for the files; all processes see it.
        names (`Sequence[str]`): of the tasks, for the message.
        run (`str`, *optional*): another one for each run, which begins to count anew.
    """

    folder: Path
    names: Sequence[str]
    run: str = field(default_factory=lambda: uuid.uuid4().hex)

    @contextmanager
    def of(self, number: int) -> Iterator[None]:
        """
        Does a task in the block.

        Args:
            number (`int`): of the task, from 0 on.

        Raises:
            EndedEachTimeError: it was begun [`MOST`] times and has not ended.
        """
        with self._marked(f"task-{number}", MOST, self.names[number]):
            yield

    @contextmanager
    def making(self, num_workers: int) -> Iterator[None]:
        """Makes what does the tasks in the block; so many do it at a time. Raises as `of`."""
        with self._marked("worker", MOST * num_workers, "What does the work"):
            yield

    @contextmanager
    def _marked(self, name: str, most: int, what: str) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        mark = self.folder / f"{name}-{self.run}"
        with mark.open("ab") as file:
            file.write(b".")
        times = mark.stat().st_size - 1
        if times >= most:
            raise EndedEachTimeError(f"{what} ended its process each of the {times} times that it was begun.")
        try:
            yield
        finally:  # not where the process is ended
            mark.unlink(missing_ok=True)

    def forget(self) -> None:
        """Takes all marks away, those of earlier runs too."""
        shutil.rmtree(self.folder, ignore_errors=True)
