"""Files that are there whole or not at all: written beside their place and renamed when they are complete."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(*paths: str | os.PathLike[str]) -> Iterator[tuple[Path, ...]]:
    """
    Gives a temporary file beside each path, to be written in the block. At its end they take their places, in the
    order given; after an error, and if any of them cannot be written, none does and all are deleted. Files have the
    permissions that the process gives to new ones, whatever wrote them (safetensors makes files for their owner only).

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
    temporary = tuple(path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp") for path in places)
    try:
        modes = []
        for place, path in zip(places, temporary, strict=True):
            place.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "xb") as file:
                modes.append(os.fstat(file.fileno()).st_mode & 0o777)
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
