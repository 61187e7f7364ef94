"""A lock on a folder that one run at a time works in: a file with the host and the number of its process."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_NAME = ".lock"


class LockedFolderError(ValueError):
    """Another run works in the folder."""


@contextmanager
def locked_folder(folder: str | os.PathLike) -> Iterator[None]:
    """
    Holds the lock of a folder during the block. What a process of this machine left that is no more is taken over.

    Args:
        folder (`str` or `os.PathLike`): made if need be.

    Raises:
        LockedFolderError: another process holds it; it is named.
    """
    file, own = Path(folder) / LOCK_NAME, f"{socket.gethostname()} {os.getpid()}"
    file.parent.mkdir(parents=True, exist_ok=True)
    prepared = file.with_name(f"{LOCK_NAME}-{socket.gethostname()}-{os.getpid()}")
    prepared.write_text(own, encoding="utf-8")  # a lock is never seen without its owner
    try:
        while True:
            try:
                os.link(prepared, file)
                break
            except FileExistsError:
                _remove_if_left(file)
    finally:
        prepared.unlink(missing_ok=True)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _remove_if_left(file: Path) -> None:
    try:
        owner = file.read_text(encoding="utf-8")
    except FileNotFoundError:  # it has just been given up
        return
    host, _, pid = owner.partition(" ")
    if host == socket.gethostname() and pid.isdigit() and not _is_alive(int(pid)):
        file.unlink(missing_ok=True)
        return
    raise LockedFolderError(
        f"Process {pid or '?'} on {host or '?'} works in {file.parent.absolute()}: wait for it, or give another "
        f"folder. If it is no more, delete {file}."
    )


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


__all__ = ["LOCK_NAME", "LockedFolderError", "locked_folder"]
