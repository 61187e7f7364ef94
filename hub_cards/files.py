"""Files that are there whole or not at all: written beside their place and renamed when they are complete."""

import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_RUN = uuid.uuid4().hex[:6]  # a container that starts anew gives its processes the same numbers
_HOST = re.sub(r"[^A-Za-z0-9]", "_", socket.gethostname())
_OWNED = re.compile(
    rf"\.(?P<name>.+)\.(?P<state>[a-z]+)-{_HOST}-(?P<pid>\d+)-(?P<run>[0-9a-f]{{6}})[0-9a-f]{{6}}(\.tmp)?"
    r"(\.stamping\.tmp)?"  # weights that were about to get their fingerprint, see `stamp_file`
)
# What safetensors, polars and torch say, in errors of their own, where the disk is full or broken.
_OF_THE_DISK = re.compile(r"I/?O error|\(os error \d+\)|iostream error|inline_container|PytorchStreamWriter")
_swept: set[Path] = set()  # folders from which this process has removed what others left


def unfinished_path(path: Path, state: str, suffix: str = "") -> Path:
    """A hidden place beside `path` for what becomes it, or was it: its name says which process owns it."""
    return path.with_name(f".{path.name}.{state}-{_HOST}-{os.getpid()}-{_RUN}{uuid.uuid4().hex[:6]}{suffix}")


def sweep(folder: Path) -> None:
    """Removes from a folder, once in a process, what processes of this machine that are no more left unfinished there.
    A folder that was set aside and whose successor never came is put back."""
    folder = folder.absolute()
    if folder in _swept or not folder.is_dir():
        return
    _swept.add(folder)
    for path in list(folder.iterdir()):
        found = _OWNED.fullmatch(path.name)
        if found is None or _is_alive(int(found["pid"]), found["run"]):
            continue
        if found["state"] == "replaced" and not (folder / found["name"]).exists():
            path.rename(folder / found["name"])
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_alive(pid: int, run: str) -> bool:
    if pid == os.getpid():
        return run == _RUN
    if os.name != "posix":  # where a signal of 0 is one
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


@contextmanager
def naming_the_file(path: str | os.PathLike[str]) -> Iterator[None]:
    """Errors of the disk while a file or folder is written in the block name it, those of libraries in other languages
    too, which have no name in them or are no `OSError`."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            if error.filename is not None:
                raise
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        if not _OF_THE_DISK.search(str(error)) or "cannot be written" in str(error):
            raise
        raise OSError(f"{path} cannot be written: {error}. Is the disk full?") from error


@contextmanager
def replacing(*paths: str | os.PathLike[str]) -> Iterator[tuple[Path, ...]]:
    """
    Gives a temporary file beside each path, to be written in the block. At its end they take their places, in the
    order given; after an error, and if any of them cannot be written, none does and all are deleted. Files have the
    permissions that the process gives to new ones, whatever wrote them (safetensors makes files for their owner only).
    What a process that was killed leaves of them is removed by the next one that writes to the folder.

    Args:
        paths (`str` or `os.PathLike`): the files; their folders are made if absent. Readers may see some of several
            files replaced and others not yet: name the one last that vouches for the others.

    Yields:
        `tuple[Path, ...]`: the temporary files, empty.

    Example:

    ```python
    >>> with replacing("curve.png") as (temporary,):
    ...     figure.savefig(temporary, format="png")
    ```
    """
    places = [Path(path) for path in paths]
    temporary = tuple(unfinished_path(path, "unfinished", ".tmp") for path in places)
    try:
        modes = []
        for place, path in zip(places, temporary, strict=True):
            place.parent.mkdir(parents=True, exist_ok=True)
            sweep(place.parent)
            with open(path, "xb") as file:
                modes.append(os.fstat(file.fileno()).st_mode & 0o777)
        with naming_the_file(", ".join(map(str, places))):
            yield temporary
        for mode, path in zip(modes, temporary, strict=True):
            if path.stat().st_mode & 0o777 != mode:
                path.chmod(mode)
        for place, path in zip(places, temporary, strict=True):
            os.replace(path, place)
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Writes a text in UTF-8, whole or not at all (see [`replacing`]), and returns its path."""
    with replacing(path) as (temporary,):
        temporary.write_text(text, encoding="utf-8")
    return Path(path)
