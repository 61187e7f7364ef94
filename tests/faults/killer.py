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
import runpy
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from trainers.runtime.checkpoints import RECORD

from .disks import Break, compiled_library, contents, random_break, size_of, small_disk, what_is_wrong
from .record import record

PRELOADED = [f"trainers.commands.{name}" for name in ("train_baseline", "memory", "finetune", "tokenize", "publish")]
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
        argv (`Sequence[str]`): the command line of `utgrec`, or of a script; `{out}` stands for the output folder.
        again (`Sequence[str]`): flags of the runs after a kill.
        given (`Path`, *optional*): what the output folder holds before, for commands that change one in place.
        processes (`int`, *optional*, defaults to 1): that run it together, as torchrun starts them.
        hub (`HubServer`, *optional*): the Hub that it writes to, whose requests count as writes. What it made there
            is compared, and removed between runs.
    """

    name: str
    argv: Sequence[str]
    again: Sequence[str] = ()
    given: Path | None = None
    processes: int = 1
    hub: Any = None


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
        self.library = compiled_library(folder)
        with pytest.MonkeyPatch.context() as patch:  # for the process of which all others are forks
            if self.library is not None:
                patch.setenv("LD_PRELOAD", str(self.library))
            forkserver.ensure_running()

    def run(
        self,
        command: Command,
        output: Path,
        at_write: int | None = None,
        after: float | None = None,
        again: bool = False,
        disk: Break | None = None,
    ) -> tuple[int, int, float]:
        """
        Runs a command, and kills its process group before write number `at_write` or `after` seconds.

        Args:
            command ([`Command`]): the command.
            output (`Path`): its output folder.
            at_write (`int`, *optional*): the write, from 1.
            after (`float`, *optional*): the seconds.
            again (`bool`, *optional*, defaults to `False`): with the flags of a run after a kill.
            disk ([`Break`], *optional*): how the disk fails.

        Returns:
            `tuple[int, int, float]`: the exit code (-9 if it was killed), writes that were counted, seconds.
        """
        self._runs += 1
        log = self.folder / f"{self._runs}.log"
        counted = self.context.Value("q", 0)
        argv = [part.format(out=output) for part in (*command.argv, *(command.again if again else ()))]
        began = time.perf_counter()
        watched = None if command.hub else at_write
        process = self.context.Process(
            target=_child, args=(argv, str(output), str(log), watched, counted, command.processes, disk)
        )
        if command.hub is not None:
            command.hub.before_write = lambda: _count_request(counted, at_write, process)
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
        shutil.rmtree(output.parent, ignore_errors=True)  # of another test of this command
        if command.given is not None:
            shutil.copytree(command.given, output)
        output.parent.mkdir(parents=True, exist_ok=True)
        return output

    def end(self, command: Command, output: Path) -> None:
        """What was written to a Hub goes into the output folder, and off the Hub."""
        if command.hub is not None:
            command.hub.before_write = None
            commits = [sha.encode() for repo in command.hub.repos.values() for sha in repo.commits]
            for repo in command.hub.repos.values():
                for path, digest in repo.history()[0].files.items():
                    file = output / "hub" / repo.kind / repo.id / path
                    file.parent.mkdir(parents=True, exist_ok=True)
                    content = command.hub.blobs[digest]
                    for commit in commits:  # what is pushed later names it, and there is one more after a kill
                        content = content.replace(commit, b"0" * 40)
                    file.write_bytes(content)
            command.hub.repos.clear()

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
        code, writes, seconds = self.run(command, whole)
        self.end(command, whole)
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
            code, _, took = self.run(command, output, **kind)
            seconds = min(seconds, took) if code == 0 else seconds
            report.killed += code == -signal.SIGKILL
            if code != 0:  # else it had ended before
                code, _, _ = self.run(command, output, again=True)
            self.end(command, output)
            difference = [f"run again it ended with {code}: {self.log[-1500:]}"] if code else []
            difference = difference or differences(whole, output)
            if difference:
                report.failures.append(f"{kind}: {'; '.join(difference[:5])}")
            else:
                report.survived += 1
                if not keep:
                    shutil.rmtree(output.parent)
        record("kills", report.name, report.tried, report.survived, killed=report.killed)
        return report

    def try_disks(self, command: Command, tries: int, ways: list[str], keep: bool = False) -> Report:
        """
        Breaks a command's disk again and again, each time in a fresh folder.

        Args:
            command ([`Command`]): the command.
            tries (`int`): how often.
            ways (`list[str]`): of [`Break`].
            keep (`bool`, *optional*, defaults to `False`): keep the folders of what was survived.
        """
        report = Report(command.name)
        whole = self.new_output(command, f"{command.name}-whole-disk")
        code, calls, _ = self.run(command, whole)
        if code != 0:
            report.failures.append(f"the uninterrupted run ended with {code}: {self.log[-2000:]}")
            return report
        for number in range(tries):
            disk = random_break(self.random, calls, size_of(whole), ways)
            folder = self.folder / f"{command.name}-disk-{number}"
            with small_disk(folder, disk.at) if disk.way == "mount" else nullcontext() as give_room:
                wrong, broken = self._try_disk(command, folder, disk, whole, give_room or (lambda: None))
            report.tried += 1
            report.killed += broken
            report.survived += not wrong
            if wrong:
                report.failures.append(f"{disk}: {'; '.join(wrong[:5])}")
            elif not keep:
                shutil.rmtree(folder)
        record("disks", report.name, report.tried, report.survived, broken=report.killed)
        return report

    def _try_disk(
        self, command: Command, folder: Path, disk: Break, whole: Path, give_room: Callable[[], Any]
    ) -> tuple[list[str], bool]:
        """What is wrong, and whether the disk stopped the command."""
        try:
            output = self.new_output(command, folder.name)
        except (OSError, shutil.Error):  # too small for what is there before
            return [], False
        before = contents(output) if command.given is not None else None
        code, _, _ = self.run(command, output, disk=disk)
        broken, wrong = code != 0, []
        if broken:
            wrong = what_is_wrong(self.log, folder)
            wrong += [
                f"{name} is neither as it was nor as it should be"
                for name, content in (before or {}).items()
                if not (output / name).is_file()
                or ((output / name).read_bytes() != content and not _same(whole / name, output / name, whole, output))
            ]
        give_room()
        if broken:
            code, _, _ = self.run(command, output, again=True)
        self.end(command, output)
        wrong += [f"run again it ended with {code}: {self.log[-1500:]}"] if code else differences(whole, output)
        return wrong, broken


def _count_request(counted: Any, at_write: int | None, process: Any) -> None:
    counted.value += 1
    if counted.value == at_write:
        os.killpg(process.pid, signal.SIGKILL)
        process.join()  # before the request is answered


def _child(
    argv: list[str],
    output: str,
    log: str,
    at_write: int | None,
    counted: Any,
    processes: int,
    disk: Break | None,
) -> None:
    """The command, in a process group of its own, with its output in a file."""
    os.setsid()
    others = _start_others(processes)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    from trainers.__main__ import main  # preloaded

    def run() -> int | None:
        if not argv[0].endswith(".py"):
            return main(argv)
        sys.argv = argv
        sys.path.insert(0, str(Path(argv[0]).parent))
        runpy.run_path(argv[0], run_name="__main__")
        return 0

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
        if disk is not None:
            disk.check_call(event, os.fsdecode(path), counted.value)

    if disk is not None:
        disk.start(parent)
    sys.addaudithook(watch)
    try:
        code = run() or 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1 if end.code else 0
        if end.code and not isinstance(end.code, int):
            print(end.code)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    if any(os.waitpid(other, 0)[1] for other in others):
        code = code or 1
    os._exit(code)


def _start_others(processes: int) -> list[int]:
    """Forks the other processes of a group that torchrun would start, and returns theirs to the first of them."""
    if processes == 1:
        return []
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": "0", "LOCAL_RANK": "0"}
    os.environ |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    others: list[int] = []
    for rank in range(1, processes):
        other = os.fork()
        if other == 0:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            return []
        others.append(other)
    return others


def differences(expected: Path, found: Path) -> list[str]:
    """What differs between the folders of two runs that should have made the same, bit by bit; times are left out. A
    file of an unfinished save is a difference, too."""
    names = {
        path.relative_to(root).as_posix() for root in (expected, found) for path in root.rglob("*") if path.is_file()
    }
    left = [path.name for path in found.parent.rglob(".*") if path.is_dir() and path.name != ".eval_results"]
    differing = [f"{name} was left" for name in left]
    for name in sorted(names):
        a, b = expected / name, found / name
        if a.suffix in NOT_COMPARED:
            continue
        if not a.is_file() or not b.is_file():
            differing.append(f"{name} is {'missing' if a.is_file() else 'too many'}")
        elif not _same(a, b, expected, found):
            differing.append(f"{name} differs")
    return differing


def _same(a: Path, b: Path, expected: Path, found: Path) -> bool:
    if a.read_bytes() == b.read_bytes():
        return True
    if a.name == RECORD:  # whose digests are of files with times
        one, other = (json.loads(path.read_text())["files"].keys() for path in (a, b))
        return one == other
    if a.suffix in (".json", ".jsonl", ".yaml"):
        one, other = (
            [_without_times(json.loads(line)) for line in lines]
            for lines in (_json_lines(path, root) for path, root in ((a, expected), (b, found)))
        )
        return one == other
    if a.suffix == ".safetensors":
        one, other = load_file(a), load_file(b)
        return one.keys() == other.keys() and all(_bits(one[key], other[key]) for key in one)
    if a.suffix in (".pt", ".pth"):
        return _bits(torch.load(a, weights_only=False), torch.load(b, weights_only=False))
    return False


def _json_lines(path: Path, root: Path) -> list[str]:
    """The lines of a file of JSON lines, or the one text of another; the output folder has no name."""
    text = path.read_text().replace(str(root), "OUT")
    if path.suffix == ".yaml":
        text = json.dumps(yaml.safe_load(text), default=str)
    return text.splitlines() if path.suffix == ".jsonl" else [text]


def _bits(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_bits(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_bits, a, b))
    return bool((a == b) if not hasattr(a, "all") else (a == b).all())  # type: ignore[attr-defined]


def _without_times(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_times(each) for key, each in value.items() if not TIMES.search(key)}
    if isinstance(value, list):
        return [_without_times(each) for each in value]
    return value
