"""Stages of work on partitions: tasks that write folders of their own, done once each, whatever is killed between."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hub_cards import write_text
from hub_cards.files import sweep, unfinished_path
from tokenization_items.folder_lock import LOCK_NAME, locked_folder
from trainers.data.attempts import Attempts

PLAN, RECORD = "plan.json", "record.json"
ATTEMPTS = "begun"  # of a stage's tasks
SHARED = "shared"  # folder of what the driver writes for tasks

# Takes a function and the numbers that it is to be called with; gives each number with what it returned, in any order.
MapTasks = Callable[[Callable[[int], dict], Sequence[int]], Iterator[tuple[int, dict]]]


def in_turn(function: Callable[[int], dict], numbers: Sequence[int]) -> Iterator[tuple[int, dict]]:
    """The tasks one after the other in this process."""
    for number in numbers:
        yield number, function(number)


class UnfinishedWorkError(ValueError):
    """Work that was begun in a folder and that is not the same."""


@contextmanager
def working_folder(folder: Path, plan: dict[str, Any], defaults: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """
    Holds the folder of one run's stages: makes it, or takes it over from a run of the same plan that ended early.

    Args:
        folder (`Path`): the folder.
        plan (`dict`): what decides about the results, in values of JSON.
        defaults (`dict`): entries in place of those of the plan that are `None`, unless there was a run before, which
            has chosen.

    Yields:
        `dict`: the plan without `None`.

    Raises:
        LockedFolderError: another run works there.
        UnfinishedWorkError: the work that was begun there has another plan.
    """
    with locked_folder(folder):
        before = json.loads((folder / PLAN).read_text(encoding="utf-8")) if (folder / PLAN).is_file() else None
        if before is not None:
            plan |= {name: before.get(name) for name, value in plan.items() if value is None}
            if wrong := sorted(name for name in plan.keys() | before.keys() if plan.get(name) != before.get(name)):
                shown = "; ".join(
                    f"{name}: {_short(before.get(name))}, now {_short(plan.get(name))}" for name in wrong
                )
                raise UnfinishedWorkError(
                    f"{folder} holds work that was begun otherwise ({shown}). Run it again as it was to finish it, or "
                    "remove that folder to begin anew."
                )
        else:
            plan |= {name: value for name, value in defaults.items() if plan[name] is None}
            write_text(folder / PLAN, json.dumps(plan, indent=2) + "\n")
        yield plan


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


class Stages:
    """
    Runs stages in a folder. A task's files lie in `<stage>/<number>/`, which appears when it is complete; a task whose
    folder is there, with files as large as its record says, is not done again.

    Args:
        folder (`Path`): see [`working_folder`].
        map_tasks (`Callable`, *optional*, defaults to [`in_turn`]): how tasks are done.
    """

    def __init__(self, folder: Path, map_tasks: MapTasks = in_turn):
        self.folder, self.map_tasks = folder, map_tasks
        self._begun: set[str] = set()
        self._released: dict[str, tuple[str | None, Callable[[], list[dict]]]] = {}  # their readers; does them again

    def run(
        self, stage: str, function: Callable[[int, Path], dict], count: int, inputs: Sequence[Any] | None = None
    ) -> list[dict]:
        """
        Does the tasks that are not done.

        Args:
            stage (`str`): name of the stage.
            function (`Callable`): takes a task's number and the folder for its files, returns values of JSON. What it
                writes may depend on nothing but the plan, the stages before and its input.
            count (`int`): number of tasks.
            inputs (`Sequence`, *optional*): what each task reads, in values of JSON. A task whose input has changed is
                done again, and so are the stages after this one.

        Returns:
            `list[dict]`: what each returned.
        """
        inputs = [None] * count if inputs is None else list(inputs)
        place, kept = self.folder / stage, self.folder / f"{stage}.json"
        self._begun.add(stage)
        if kept.is_file():
            results = json.loads(kept.read_text(encoding="utf-8"))
            if results["inputs"] == inputs:
                self._released[stage] = results.get("reader"), partial(self.run, stage, function, count, inputs)
                return results["results"]
            kept.unlink()
        place.mkdir(exist_ok=True)
        sweep(place)
        records = [_record(place / f"{number:05d}") for number in range(count)]
        todo = [n for n, record in enumerate(records) if record is None or record["input"] != inputs[n]]
        found = {number: record["result"] for number, record in enumerate(records) if record is not None}
        if todo:
            self._forget_later()
            read_last = self._redo_released(stage)
            found |= dict(self.map_tasks(StageTask(function, place, inputs), todo))
            for each in read_last:
                self.release(each, stage)
        return [found[number] for number in range(count)]

    def _forget_later(self) -> None:
        for path in self.folder.iterdir():
            if path.name.removesuffix(".json") not in self._begun and path.name not in (PLAN, LOCK_NAME, SHARED):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _redo_released(self, stage: str) -> list[str]:
        """Does the stages again whose files are gone and were read by this one, or by one that was forgotten. Returns
        those that this one reads last."""
        needed = {
            name: self._released.pop(name)
            for name, (reader, _) in [*self._released.items()]
            if reader == stage or reader not in self._begun
        }
        for name, (_, again) in needed.items():
            (self.folder / f"{name}.json").unlink()
            again()
        return [name for name, (reader, _) in needed.items() if reader == stage]

    def release(self, stage: str, reader: str) -> None:
        """Gives up the files of a stage, once what is made of them is complete; what its tasks returned stays.

        Args:
            stage (`str`): the stage.
            reader (`str`): the stage that reads the files last. If that has to be done again, so has this one.
        """
        records = [_record(path) for path in sorted((self.folder / stage).glob("[0-9]*"))]
        if records:
            whole = [record for record in records if record is not None]
            kept = {name: [record[name[:-1]] for record in whole] for name in ("results", "inputs")}
            write_text(self.folder / f"{stage}.json", json.dumps(kept | {"reader": reader}))
        shutil.rmtree(self.folder / stage, ignore_errors=True)

    def files(self, stage: str, name: str) -> list[Path]:
        """The files of one name of a stage's tasks, in their order."""
        return sorted((self.folder / stage).glob(f"[0-9]*/{name}"))


@dataclass(frozen=True)
class StageTask:
    """
    Does a task of a stage, given its number: its folder is made beside its place, then put in it.

    Args:
        function (`Callable`), inputs (`Sequence`): see [`Stages.run`].
        place (`Path`): of the stage.
    """

    function: Callable[[int, Path], dict]
    place: Path
    inputs: Sequence[Any]

    def __call__(self, number: int) -> dict:
        path = self.place / f"{number:05d}"
        temporary = unfinished_path(path, "unfinished")
        temporary.mkdir(parents=True)
        try:
            result = self.function(number, temporary)
            files = {each.name: each.stat().st_size for each in temporary.iterdir() if each.is_file()}
            record = {"result": result, "input": self.inputs[number], "files": files}
            (temporary / RECORD).write_text(json.dumps(record), encoding="utf-8")
            shutil.rmtree(path, ignore_errors=True)  # of a try that was cut
            os.replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return result

    def attempts(self, numbers: Sequence[int]) -> Attempts:
        """Counts how often the tasks of these numbers are begun; a shard is named by its file."""
        names = [f"Part {number} of the stage '{self.place.name}'" for number in numbers]
        files = [each[0] if isinstance(each, list) else None for each in (self.inputs[number] for number in numbers)]
        return Attempts(
            self.place / ATTEMPTS,
            [name if file is None else f"{name} ({file})" for name, file in zip(names, files, strict=True)],
        )


def _record(path: Path) -> dict[str, Any] | None:
    """What is known of a task, if its folder is complete."""
    try:
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
        whole = all((path / name).stat().st_size == size for name, size in record["files"].items())
    except (OSError, ValueError, KeyError):
        return None
    return record if whole else None
