"""Ray: started on this machine alone or joined by its address, and tasks that Ray Data spreads over workers.

What tasks work on lies in files that all machines see; through Ray go their names and what is said of the results. A
worker that dies is replaced and its tasks are done again, so a task must leave its results whole or not at all. Ray
tries for ever; what ends its worker each time is given up here ([`~trainers.data.attempts.Attempts`]).
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from trainers.data.attempts import Attempts, EndedEachTimeError

LOOPBACK = "127.0.0.1"
STORE_BYTES = 128 * 2**20  # for objects, on one machine: only names and counts go through Ray
STARTS = 3  # of Ray on this machine, until it is given up
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}

DONE_STAYS = "What is done stays: the same command goes on from there."
DIED = (
    "If it was for want of memory, as of a process that the system killed, give it fewer workers at a time, or less "
    "to hold; or else look at what it reads, and take it out."
)

Task = dict[str, Any]
Worker = Callable[[Task], dict[str, Any]]


class WorkerError(RuntimeError):
    """A task that failed in a worker for a reason that is none of what was given; notes say where."""


def import_ray() -> Any:
    """
    Ray with Ray Data.

    Raises:
        ImportError: it is not installed, or does not load; says how it is mended.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ray
            import ray.data
    except ModuleNotFoundError as error:
        raise ImportError(
            f"Ray Data, which spreads work over cores and machines, is not installed ({error}): pip install "
            "'utgrec[scale]'."
        ) from error
    except Exception as error:  # of any type, by what is broken in Ray or in what it is built on
        raise ImportError(
            f"Ray Data, which spreads work over cores and machines, is installed but does not load ({error!r}): pip "
            "install --force-reinstall 'utgrec[scale]', and the same version on all machines."
        ) from error
    return ray


@contextmanager
def ray_session(address: str | None = None, num_cpus: int | None = None) -> Iterator[Any]:
    """
    Gives Ray in the block. Where it runs in this process already, it is taken as it is and left running.

    Args:
        address (`str`, *optional*): of a cluster, `host:port` or `auto`; by default Ray is started on this machine,
            on the loopback interface, without a dashboard, and stopped at the end.
        num_cpus (`int`, *optional*): processors that a Ray of this machine is told of; by default those there are.

    Raises:
        ImportError: as [`import_ray`].
        ConnectionError: no cluster answers at the address, or Ray does not start here.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        settings |= {"include_dashboard": False, "_node_ip_address": LOOPBACK, "object_store_memory": STORE_BYTES}
        settings |= {"num_cpus": num_cpus, "address": "local"}
    else:
        settings |= {"address": address}
    for tries_left in reversed(range(STARTS if address is None else 1)):
        try:
            with warnings.catch_warnings(), _on_loopback() if address is None else nullcontext():
                warnings.simplefilter("ignore")
                ray.init(**settings)
            break
        except Exception as error:  # of many types; on a busy machine Ray's own processes may take too long
            ray.shutdown()
            if address is not None:
                raise ConnectionError(
                    f"No Ray cluster answers at {address} ({error}): start one with `ray start --head`, or leave the "
                    "address out for this machine alone."
                ) from error
            if not tries_left:
                raise ConnectionError(f"Ray does not start on this machine: {error}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def _on_loopback() -> Iterator[None]:
    """In the block Ray takes the loopback interface for a machine's own, as it does where clusters are not for use. On
    Linux it would exchange the address that it is given for the machine's, and its ports were open to the network."""
    from ray._private import ray_constants

    before = getattr(ray_constants, "ENABLE_RAY_CLUSTER", None)
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def spread(
    tasks: Sequence[Task],
    worker: type,
    arguments: Mapping[str, Any],
    num_workers: int,
    cpus: float = 1.0,
    gpus: float = 0.0,
    in_actors: bool = False,
    attempts: Attempts | None = None,
) -> Iterator[dict[str, Any]]:
    """
    Does tasks by Ray Data, a batch each.

    Args:
        tasks (`Sequence[dict]`): values that JSON has.
        worker (`type`): made with `arguments` and called with a task; returns values that JSON has. An error of what
            was given, a `ValueError` or `OSError`, ends all.
        arguments (`Mapping[str, Any]`): of the worker, which are pickled.
        num_workers (`int`): processes at a time, at most as many as tasks.
        cpus, gpus (`float`, *optional*): of each.
        in_actors (`bool`, *optional*, defaults to `False`): whether a process makes the worker once and keeps it, one
            that holds a network; or else for each task, in processes that later calls take up.
        attempts ([`~trainers.data.attempts.Attempts`], *optional*): counts how often each task is begun; by default in
            a temporary folder, so on each machine by itself.

    Yields:
        `dict`: the results, in any order.

    Raises:
        ValueError: with the message of the error.
        WorkerError: a worker could not be made, or failed otherwise, or a task ended its process each time.
    """
    if not tasks:
        return
    if attempts is None:
        with tempfile.TemporaryDirectory(prefix="utgrec-") as folder:
            counted = Attempts(Path(folder) / "begun", [f"Task {json.dumps(task)}" for task in tasks])
            yield from spread(tasks, worker, arguments, num_workers, cpus, gpus, in_actors, counted)
        return
    ray = import_ray()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    numbered = [{"task": json.dumps(task), "number": number} for number, task in enumerate(tasks)]
    rows = ray.data.from_items(numbered, override_num_blocks=len(tasks))
    size, resources = min(num_workers, len(tasks)), {"batch_size": 1, "num_cpus": cpus, "num_gpus": gpus or None}
    if in_actors:
        actors, made = ray.data.ActorPoolStrategy(size=size), (worker, dict(arguments), attempts, size)
        done = rows.map_batches(_Actor, compute=actors, fn_constructor_args=made, **resources)
    else:
        given = {"worker": worker, "arguments": dict(arguments), "attempts": attempts, "num_workers": size}
        done = rows.map_batches(_do, compute=ray.data.TaskPoolStrategy(size=size), fn_kwargs=given, **resources)
    try:
        for row in done.iter_rows():
            found = json.loads(row["result"])
            if "error" in found:
                raise ValueError(found["error"])
            if "ended" in found:
                raise WorkerError(f"{found['ended']} {DIED} {DONE_STAYS}")
            if "fault" in found:
                fault = WorkerError(f"A worker of Ray failed: {found['fault']}. {DONE_STAYS}")
                fault.add_note(f"In the worker:\n{found['traceback']}")
                raise fault
            yield found["done"]
    except ray.exceptions.RayError as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
        raise WorkerError(f"A worker of Ray died, and again when replaced: {first} {DIED} {DONE_STAYS}") from error


def _do(batch: dict[str, Any], **made: Any) -> dict[str, list[str]]:
    return _Actor(**made)(batch)


class _Actor:
    """Calls a worker with tasks that come as batches of Ray Data."""

    def __init__(self, worker: type, arguments: dict[str, Any], attempts: Attempts, num_workers: int):
        self.call: Worker | None = None
        self.failed, self.attempts = "", attempts
        try:
            with attempts.making(num_workers):
                self.call = worker(**arguments)
        except Exception as error:  # Ray would make it again and again
            self.failed = _failure(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        numbered = zip(batch["number"], batch["task"], strict=True)
        return {"result": [self._answer(int(number), json.loads(task)) for number, task in numbered]}

    def _answer(self, number: int, task: Task) -> str:
        if self.call is None:
            return self.failed
        try:
            with self.attempts.of(number):
                return json.dumps({"done": self.call(task)})
        except Exception as error:  # not to be tried again
            return _failure(error)


def _failure(error: Exception) -> str:
    """What an error says: of what was given, or with the place of a mistake in the program."""
    if isinstance(error, EndedEachTimeError):
        return json.dumps({"ended": str(error)})
    if isinstance(error, ValueError | OSError):
        return json.dumps({"error": str(error)})
    lines = traceback.format_exception_only(error)
    return json.dumps({"fault": lines[-1].strip(), "traceback": "".join(traceback.format_exception(error))})


__all__ = ["WorkerError", "import_ray", "ray_session", "spread"]
