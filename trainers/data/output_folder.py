"""A folder that is there whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def fresh_folder(path: str | os.PathLike, mark: str, overwrite: bool = False) -> Iterator[Path]:
    """
    Gives a temporary folder beside `path`, for two things: `data`, which becomes `path` at the end, and anything else,
    which is deleted. After an error nothing is left; after a kill, a hidden folder that holds no data set itself.

    Args:
        path: the folder to make.
        mark: a file that every folder made in this way holds: only such folders, and empty ones, are overwritten.
        overwrite: whether to replace a folder that is there.

    Raises:
        FileExistsError: if the folder is there and is not empty, or may not be overwritten.
    """
    path = Path(path).absolute()
    if path.is_file():
        raise FileExistsError(f"{path} is a file; give a folder.")
    if path.is_dir() and any(path.iterdir()):
        if not overwrite:
            raise FileExistsError(f"{path} is not empty: give another folder, or allow it to be overwritten.")
        if not (path / mark).is_file():
            raise FileExistsError(f"{path} holds no {mark}, so it was not made by this: remove it yourself.")
    temporary = path.with_name(f".{path.name}.unfinished-{uuid.uuid4().hex[:8]}")
    (temporary / "data").mkdir(parents=True)
    try:
        yield temporary
        replaced = temporary.with_name(f".{path.name}.replaced-{uuid.uuid4().hex[:8]}")
        if path.exists():
            path.rename(replaced)
        try:
            (temporary / "data").rename(path)
        except BaseException:
            if replaced.exists():
                replaced.rename(path)
            raise
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """Checksum of a file's content, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
