"""Kills of commands: a command is started in a process group of its own, killed at a write to its output folder or at
a moment, run again until it ends, and what it leaves is compared with that of a run that nobody killed.

    make test-faults KILLS=20

A write is what Python's audit events show of one: a file opened to be written, renamed, linked or removed, a folder
made. The kill comes before it. What is written between two of them, as the bytes of weights, a random moment may hit.
"""

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file

from trainers.runtime.checkpoints import RECORD

PRELOADED = [f"trainers.commands.{name}" for name in ("train_baseline", "memory", "finetune", "tokenize")]
# Of two runs that did the same: how long it took, and the mean loss of the steps since the last resume.
TIMES = re.compile(
    r"seconds|runtime|per_second|total_flos|took|^created$|^date$|^time$|_time$|output_dir|best_model_checkpoint|^train_loss$"
)
NOT_COMPARED = {".png", ".svg", ".md", ".log"}
WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"}


@dataclass(frozen=True)
class Command:
    """
    A command whose kills are survived if running it again with `again` makes what it would have made.

    Args:
        name (`str`): what it is called in the report.
        argv (`Sequence[str]`): the command line of `utgrec`; `{out}` stands for the output folder.
        again (`Sequence[str]`): flags of the runs after a kill.
        given (`Path`, *optional*): what the output folder holds before, for commands that change one in place.
    """

    name: str
    argv: Sequence[str]
    again: Sequence[str] = ()
    given: Path | None = None


@dataclass
class Report:
    """What became of the kills of a command."""

    name: str
    tried: int = 0
    killed: int = 0
    survived: int = 0
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        said = f"{self.name}: {self.tried} tried, {self.killed} killed, {self.survived} survived"
        return "\n  ".join([said, *self.failures])


class Killer:
    """
    Runs commands in forks of a process that has imported them.

    Args:
        folder (`Path`): where output folders and logs go.
        seed (`int`, *optional*, defaults to 0): of the moments of the kills.
    """

    def __init__(self, folder: Path, seed: int = 0):
        self.folder = folder
        self.random = random.Random(seed)
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)
        self._runs = 0

    def run(self, argv: Sequence[str], output: Path, at_write: int | None = None, after: float | None = None):
        """
        Runs a command line, and kills its process group before write number `at_write` or `after` seconds.

        Returns:
            `tuple[int, int, float]`: the exit code (-9 if it was killed), writes that were counted, seconds.
        """
        self._runs += 1
        log = self.folder / f"{self._runs}.log"
        counted = self.context.Value("q", 0)
        argv = [part.format(out=output) for part in argv]
        began = time.perf_counter()
        process = self.context.Process(target=_child, args=(argv, str(output), str(log), at_write, counted))
        process.start()
        process.join(after)
        if process.is_alive():
            assert process.pid is not None
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:  # it has no group of its own yet
                process.kill()
            process.join()
        assert process.exitcode is not None
        self.log = log.read_text(errors="replace") if log.is_file() else ""
        return process.exitcode, counted.value, time.perf_counter() - began

    def new_output(self, command: Command, name: str) -> Path:
        """An output folder as the command finds it. Its name is the same for each, since cards have it."""
        output = self.folder / name / "out"
        if command.given is not None:
            shutil.copytree(command.given, output)
        output.parent.mkdir(parents=True, exist_ok=True)
        return output

    def try_kills(self, command: Command, at_writes: Sequence[int | float] | int, keep: bool = False) -> Report:
        """
        Kills a command again and again, each time in a fresh folder.

        Args:
            command ([`Command`]): the command.
            at_writes (`Sequence[int | float]` or `int`): the writes at which to kill it, as numbers or as shares of
                all; or how many kills, half of them at random writes and half at random moments.
            keep (`bool`, *optional*, defaults to `False`): keep the folders of kills that were survived.
        """
        report = Report(command.name)
        whole = self.new_output(command, f"{command.name}-whole")
        code, writes, seconds = self.run(command.argv, whole)
        if code != 0:
            report.failures.append(f"the uninterrupted run ended with {code}: {self.log[-2000:]}")
            return report
        if isinstance(at_writes, int):
            kinds = [{"at_write": self.random.randint(1, writes)} for _ in range(-(-at_writes // 2))]
            kinds += [{"after": self.random.random()} for _ in range(at_writes // 2)]  # of the fastest run so far
        else:
            kinds = [{"at_write": max(1, round(at * writes) if isinstance(at, float) else at)} for at in at_writes]
        for number, kind in enumerate(kinds):
            output = self.new_output(command, f"{command.name}-{number}")
            report.tried += 1
            kind = {"after": kind["after"] * seconds} if "after" in kind else kind
            code, _, took = self.run(command.argv, output, **kind)
            seconds = min(seconds, took) if code == 0 else seconds
            report.killed += code == -signal.SIGKILL
            if code == 0:  # it had ended before
                difference = differences(whole, output)
            else:
                code, _, _ = self.run([*command.argv, *self.flags_to_go_on(command)], output)
                difference = [f"run again it ended with {code}: {self.log[-1500:]}"] if code else []
                difference = difference or differences(whole, output)
            if difference:
                report.failures.append(f"{kind}: {'; '.join(difference[:5])}")
            else:
                report.survived += 1
                if not keep:
                    shutil.rmtree(output.parent)
        return report

    def flags_to_go_on(self, command: Command) -> Sequence[str]:
        return command.again


def _child(argv: list[str], output: str, log: str, at_write: int | None, counted) -> None:
    """The command, in a process group of its own, with its output in a file."""
    os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    from trainers.__main__ import main  # preloaded

    torch.set_num_threads(1)
    parent = str(Path(output).parent)

    def watch(event: str, args: tuple) -> None:
        if event == "open":
            path, mode, flags = args
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            writes = writes or (isinstance(mode, str) and set(mode) & set("wax+"))
        else:
            path, writes = args[0] if args else None, event in WRITES
        if not writes or not isinstance(path, str | bytes | os.PathLike) or not os.fsdecode(path).startswith(parent):
            return
        counted.value += 1
        if counted.value == at_write:
            os.killpg(0, signal.SIGKILL)

    sys.addaudithook(watch)
    try:
        code = main(argv) or 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1 if end.code else 0
        if end.code and not isinstance(end.code, int):
            print(end.code)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    os._exit(code)


def differences(expected: Path, found: Path) -> list[str]:
    """What differs between the folders of two runs that should have made the same, bit by bit; times are left out. A
    file of an unfinished save is a difference, too."""
    names = {
        path.relative_to(root).as_posix() for root in (expected, found) for path in root.rglob("*") if path.is_file()
    }
    left = [path.name for path in found.parent.rglob(".*") if path.name.startswith(".") and path.is_dir()]
    differing = [f"{name} was left" for name in left]
    for name in sorted(names):
        a, b = expected / name, found / name
        if a.suffix in NOT_COMPARED:
            continue
        if not a.is_file() or not b.is_file():
            differing.append(f"{name} is {'missing' if a.is_file() else 'too many'}")
        elif not _same(a, b):
            differing.append(f"{name} differs")
    return differing


def _same(a: Path, b: Path) -> bool:
    if a.read_bytes() == b.read_bytes():
        return True
    if a.name == RECORD:  # whose digests are of files with times
        one, other = (json.loads(path.read_text())["files"].keys() for path in (a, b))
        return one == other
    if a.suffix == ".json":
        one, other = (_without_times(json.loads(path.read_text()), str(path.parent)) for path in (a, b))
        return one == other
    if a.suffix == ".jsonl":
        one, other = (
            [_without_times(json.loads(line), str(path.parent)) for line in path.read_text().splitlines()]
            for path in (a, b)
        )
        return one == other
    if a.suffix == ".safetensors":
        one, other = load_file(a), load_file(b)
        return one.keys() == other.keys() and all(_bits(one[key], other[key]) for key in one)
    if a.suffix in (".pt", ".pth"):
        return _bits(torch.load(a, weights_only=False), torch.load(b, weights_only=False))
    return False


def _bits(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_bits(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_bits, a, b))
    return bool((a == b) if not hasattr(a, "all") else (a == b).all())  # type: ignore[attr-defined]


def _without_times(value: object, folder: str) -> object:
    if isinstance(value, dict):
        return {key: _without_times(each, folder) for key, each in value.items() if not TIMES.search(key)}
    if isinstance(value, list):
        return [_without_times(each, folder) for each in value]
    return value
