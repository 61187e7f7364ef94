"""Files of this project: JSON, tensors and folders that are written whole or not at all, and settings read from JSON.

Texts, and whatever another library writes, go through [`~hub_cards.write_text`] and [`~hub_cards.replacing`], on which
the functions here build.
"""

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file as save_tensors

from hub_cards import replacing, write_text


def write_json(path: str | os.PathLike, values: Any, indent: int | None = 2) -> Path:
    """Writes values as JSON, whole or not at all, and returns the path; one with `indent` ends with a line break."""
    return write_text(path, json.dumps(values, indent=indent) + ("\n" if indent else ""))


def write_tensors(
    path: str | os.PathLike,
    tensors: Mapping[str, np.ndarray] | Mapping[str, torch.Tensor],
    metadata: dict[str, str] | None = None,
) -> Path:
    """
    Writes a safetensors file, whole or not at all, and returns its path.

    Args:
        path (`str` or `os.PathLike`): the file.
        tensors (`Mapping[str, np.ndarray]` or `Mapping[str, torch.Tensor]`): arrays or tensors of any shapes, by name.
        metadata (`dict[str, str]`, *optional*): what else the file's head says.
    """
    save: Any = save_tensors if any(isinstance(each, torch.Tensor) for each in tensors.values()) else save_arrays
    with replacing(path) as (temporary,):
        save(dict(tensors), temporary, metadata=metadata)
    return Path(path)


def check_writable(folder: str | os.PathLike) -> None:
    """
    Makes a folder if need be, and raises an `OSError` that names it if no files can be written there: known before the
    work whose results go there.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=str(folder)):
            pass
    except OSError as error:
        raise OSError(f"No files can be written to {folder} ({error.strerror}): give another folder.") from error


@contextmanager
def replacing_folder(path: str | os.PathLike, overwrite: bool = False, mark: str | None = None) -> Iterator[Path]:
    """
    Gives a new folder beside `path`, to be filled in the block; at its end it becomes `path`. After an error nothing
    of it is left and a folder that was there is as it was; after a kill, a hidden `.<name>.unfinished-...` may be.

    Args:
        path (`str` or `os.PathLike`): the folder to make.
        overwrite (`bool`, *optional*, defaults to `False`): whether a folder that is there and not empty is replaced.
        mark (`str`, *optional*): a file that every such folder holds: none without it is replaced.

    Yields:
        `Path`: the new folder, with the permissions that the process gives to new ones.

    Raises:
        FileExistsError: `path` is a file, or a folder that is not empty and may not be replaced.
    """
    path = Path(path).absolute()
    if path.is_file():
        raise FileExistsError(f"{path} is a file; give a folder.")
    if path.is_dir() and any(path.iterdir()):
        if not overwrite:
            raise FileExistsError(f"{path} is not empty: give another folder, or allow it to be overwritten.")
        if mark is not None and not (path / mark).is_file():
            raise FileExistsError(f"{path} holds no {mark}, so it was not made by this: remove it yourself.")
    run = uuid.uuid4().hex[:12]
    temporary, replaced = (path.with_name(f".{path.name}.{state}-{run}") for state in ("unfinished", "replaced"))
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if path.exists():
            path.rename(replaced)
        try:
            temporary.rename(path)
        except BaseException:
            if replaced.exists():
                replaced.rename(path)
            raise
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_settings(file: Path, kinds: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    """
    Reads an object with known entries; entries that a later release may have added are left out.

    Args:
        file: the file.
        kinds: name and possible types of each entry. One that may be `None` may be absent.

    Raises:
        ValueError: if the file is not JSON or no object, or an entry is missing or of another type.
    """
    values = read_json_object(file)
    settings = {}
    for name, types in kinds.items():
        value = values.get(name)
        if name not in values and type(None) not in types:
            raise ValueError(f"{file}: the entry {name!r} is missing.")
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            expected = " or ".join(each.__name__ for each in types)
            raise ValueError(f"{file}: {name} must be of type {expected}, found {str(value)[:60]!r}.")
        settings[name] = value
    return settings


def read_numbers(file: Path, name: str, values: list) -> np.ndarray:
    """The entry `name` of a file as a vector, float32.

    Raises:
        ValueError: if it is anything but finite numbers.
    """
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    vector = np.asarray(numbers, dtype=np.float32)
    if not values or len(numbers) < len(values) or not np.isfinite(vector).all():
        raise ValueError(f"{file}: {name} must be finite numbers, found {str(values)[:60]}.")
    return vector


def read_json_object(file: Path) -> dict[str, Any]:
    """
    Reads a JSON file that holds an object.

    Raises:
        ValueError: if it does not.
    """
    try:
        values = json.loads(Path(file).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is truncated or not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file}: expected an object, found {type(values).__name__}.")
    return values
