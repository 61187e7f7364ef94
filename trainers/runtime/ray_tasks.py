"""Numbered tasks on Ray, for stages of work on partitions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from trainers.data.stages import StageTask
from trainers.runtime.ray_engine import import_ray, spread


def tasks_on_ray(
    function: Callable[[int], dict], numbers: Sequence[int], num_cpus: int = 1
) -> Iterator[tuple[int, dict]]:
    """
    Does tasks with a Ray that runs (see [`~trainers.runtime.ray_engine.ray_session`]), on all of its cores.

    Args:
        function (`Callable`): takes a number, returns values of JSON. It may be called twice with one. A
            [`~trainers.data.stages.StageTask`] counts by itself how often.
        numbers (`Sequence[int]`): what it is called with.
        num_cpus (`int`, *optional*, defaults to 1): cores of a task. How many threads polars has in it,
            `POLARS_MAX_THREADS` says in the environment in which Ray was started.

    Yields:
        `tuple[int, dict]`: each number with what the function returned, in any order.

    Raises:
        ValueError, WorkerError: as [`~trainers.runtime.ray_engine.spread`].
    """
    at_once = max(1, int(import_ray().cluster_resources().get("CPU", 1)) // num_cpus)
    arguments, tasks = {"function": function}, [{"number": number} for number in numbers]
    attempts = function.attempts(numbers) if isinstance(function, StageTask) else None
    done = spread(tasks, NumberedTask, arguments, at_once, num_cpus, attempts=attempts)
    yield from ((each["number"], each["result"]) for each in done)


class NumberedTask:
    """Calls a function with the number of a task."""

    def __init__(self, function: Callable[[int], dict]):
        self.function = function

    def __call__(self, task: dict[str, Any]) -> dict[str, Any]:
        return {"number": task["number"], "result": self.function(task["number"])}
