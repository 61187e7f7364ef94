"""A lock on a folder that one run at a time works in."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

LOCK_NAME = ".lock"


class LockedFolderError(ValueError):
    """Another run works in the folder."""


@contextmanager
def locked_folder(folder: str | os.PathLike) -> Iterator[None]:
    """
    Holds the lock of a folder during the block. It ends with its process, however that ends.

    Args:
        folder (`str` or `os.PathLike`): made if need be, and removed if nothing else is in it at the end.

    Raises:
        LockedFolderError: another process holds it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_NAME)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise LockedFolderError(
            f"Another run works in {folder.absolute()}: wait until it has ended, or give another --output_dir."
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):  # where an open file cannot be removed
            (folder / LOCK_NAME).unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):
            folder.rmdir()
