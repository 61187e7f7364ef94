"""Files of this project: JSON, tensors and folders that are written whole or not at all, and settings read from JSON.

Texts, and whatever another library writes, go through [`~hub_cards.write_text`] and [`~hub_cards.replacing`], on which
the functions here build.
"""

import ctypes
import errno
import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file as save_tensors

from hub_cards import replacing, write_text
from hub_cards.files import naming_the_file, sweep, unfinished_path
from modeling_utgrec.checkpoint_fingerprint import read_header, stamp_file

MAPPED_TYPES = {"U8": "u1", "I16": "<i2", "I32": "<i4", "U32": "<u4", "I64": "<i8", "U64": "<u8", "F32": "<f4"}
VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model", "*.tiktoken", "tekken.json")  # of text tokenizers


def write_json(path: str | os.PathLike, values: Any, indent: int | None = 2) -> Path:
    """Writes values as JSON, whole or not at all, and returns the path; one with `indent` ends with a line break."""
    return write_text(path, json.dumps(values, indent=indent) + ("\n" if indent else ""))


def append_lines(path: str | os.PathLike, lines: Sequence[Mapping[str, Any]]) -> None:
    """
    Adds objects to a file of JSON lines, all of them or none: in one write, which is taken back if the disk is full.
    A last line that a kill or a full disk cut short is set aside before, see [`read_lines`].

    Args:
        path (`str` or `os.PathLike`): the file, made if need be.
        lines (`Sequence[Mapping]`): one or several objects.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in lines).encode()
    with naming_the_file(path), open(path, "ab", buffering=0) as file:
        end = _set_aside_cut_line(path, file)
        try:
            if file.write(text) != len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except BaseException:
            file.truncate(end)
            raise


def read_lines(path: str | os.PathLike) -> list[dict[str, Any]]:
    """
    The objects of a file of JSON lines; none if there is no such file. A last line that was cut short is left out with
    a warning that has its number; the next [`append_lines`] moves it to `<name>.cut`.

    Raises:
        ValueError: if another line, which is named, is not JSON or no object.
    """
    path = Path(path)
    found = []
    *whole, rest = path.read_bytes().split(b"\n") if path.is_file() else [b""]
    for number, line in enumerate(whole, 1):
        if line.strip():
            try:
                values = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}, line {number} is not JSON: {error}") from error
            if not isinstance(values, dict):
                raise ValueError(f"{path}, line {number}: expected an object, found {type(values).__name__}.")
            found.append(values)
    if rest.strip():
        warnings.warn(_cut_short(path, len(whole) + 1, rest), stacklevel=2)
    return found


def _cut_short(path: Path, number: int, line: bytes) -> str:
    return f"{path}, line {number} was cut short and is left out: {line[:60]!r}..."


def _set_aside_cut_line(path: Path, file: Any) -> int:
    """Moves a last line without an end to `<name>.cut`; returns where the file ends then."""
    content = path.read_bytes()
    *whole, rest = content.split(b"\n")
    end = len(content) - len(rest)
    if rest:
        warnings.warn(_cut_short(path, len(whole) + 1, rest) + f" It is in {path.name}.cut now.", stacklevel=3)
        with open(path.with_name(f"{path.name}.cut"), "ab") as aside:
            aside.write(rest + b"\n")
        file.truncate(end)
    return end


def write_tensors(
    path: str | os.PathLike,
    tensors: Mapping[str, np.ndarray] | Mapping[str, torch.Tensor],
    metadata: dict[str, str] | None = None,
) -> Path:
    """
    Writes a safetensors file with a fingerprint (see [`modeling_utgrec.checkpoint_fingerprint`]), whole or not at all,
    and returns its path.

    Args:
        path (`str` or `os.PathLike`): the file.
        tensors (`Mapping[str, np.ndarray]` or `Mapping[str, torch.Tensor]`): arrays or tensors of any shapes, by name.
        metadata (`dict[str, str]`, *optional*): what else the file's head says.

    Raises:
        OSError: it cannot be written, as to a disk that is full.
    """
    save: Any = save_tensors if any(isinstance(each, torch.Tensor) for each in tensors.values()) else save_arrays
    with replacing(path) as (temporary,):
        # safetensors writes the bytes of an array as they lie, whatever its order
        rows = {name: np.asarray(each, order="C") if save is save_arrays else each for name, each in tensors.items()}
        save(rows, temporary, metadata=metadata)
        stamp_file(temporary)
    return Path(path)


def map_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """
    The arrays of a safetensors file, which is mapped into memory: what is not looked at is not read.

    Raises:
        ValueError: it is truncated or no safetensors file.
    """
    with open(path, "rb") as file:
        header, start = read_header(path, file)
    arrays: dict[str, np.ndarray] = {}
    for name, said in header.items():
        if name == "__metadata__":
            continue
        dtype, shape, (begin, end) = MAPPED_TYPES.get(said["dtype"]), tuple(said["shape"]), said["data_offsets"]
        if dtype is None or end - begin != math.prod(shape) * np.dtype(dtype).itemsize:
            raise ValueError(f"{path}: the tensor {name!r} is no array of a known type: {str(said)[:80]}")
        empty = begin == end  # of which nothing can be mapped
        arrays[name] = (
            np.zeros(shape, dtype) if empty else np.memmap(path, dtype, mode="r", offset=start + begin, shape=shape)
        )
    return arrays


def check_writable(folder: str | os.PathLike, replaced: bool = False) -> None:
    """
    Raises an `OSError` that names a folder if no files can be written to it: known before the work whose results go
    there. One that is not there is not made either; the nearest one above it must then take files.

    Args:
        folder (`str` or `os.PathLike`): the folder.
        replaced (`bool`, *optional*, defaults to `False`): whether it is to be written by [`replacing_folder`] or
            [`updating_folder`], which make another one beside it.
    """
    there = Path(folder).resolve()
    if replaced and there.is_dir():
        _check_replaceable(there)
        there = there.parent
    try:
        while not there.exists():
            there = there.parent
        with tempfile.TemporaryFile(dir=str(there)):
            pass
    except OSError as error:
        where = f"{there}, in which {folder} is replaced as a whole," if replaced else folder
        raise OSError(f"No files can be written to {where} ({error.strerror}): give another folder.") from error


def _check_replaceable(folder: Path) -> None:
    """Raises an `OSError` for a folder that no other one can take the place of."""
    if folder.is_dir() and os.path.ismount(folder):
        raise OSError(
            errno.EBUSY,
            f"a disk is mounted there, and results are written beside a folder, then take its place: give a folder "
            f"within it, such as {folder / 'run'}",
            str(folder),
        )


@contextmanager
def temporary_folder(folder: str | os.PathLike) -> Iterator[Path]:
    """
    Gives a hidden folder within `folder` for files that are to be moved to it in the block, when all of them are
    there; what is left of it at the end goes.

    Args:
        folder (`str` or `os.PathLike`): made if need be.

    Yields:
        `Path`: the folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    made = unfinished_path(folder / "files", "unfinished")
    made.mkdir()
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def replacing_folder(path: str | os.PathLike, overwrite: bool = False, mark: str | None = None) -> Iterator[Path]:
    """
    Gives a new folder beside `path`, to be filled in the block; at its end it becomes `path`. After an error nothing
    of it is left and a folder that was there is as it was; after a kill, a hidden `.<name>.unfinished-...` may be,
    which the next process that makes a folder there removes. Of a link its target is replaced.

    Args:
        path (`str` or `os.PathLike`): the folder to make.
        overwrite (`bool`, *optional*, defaults to `False`): whether a folder that is there and not empty is replaced.
        mark (`str`, *optional*): a file that every such folder holds: none without it is replaced.

    Yields:
        `Path`: the new folder. It and its weights have the permissions that the process gives to new ones.

    Raises:
        FileExistsError: `path` is a file, or a folder that is not empty and may not be replaced.
        OSError: no folder can be made beside `path`, or a disk is mounted there; or at the end the new folder cannot
            take its place, and stays beside it, where the error says.
    """
    path = Path(path).resolve()
    _check_replaceable(path)
    sweep(path.parent)
    if path.is_file():
        raise FileExistsError(f"{path} is a file; give a folder.")
    if path.is_dir() and any(path.iterdir()):
        if not overwrite:
            raise FileExistsError(f"{path} is not empty: give another folder, or allow it to be overwritten.")
        if mark is not None and not (path / mark).is_file():
            raise FileExistsError(f"{path} holds no {mark}, so it was not made by this: remove it yourself.")
    temporary = unfinished_path(path, "unfinished")
    temporary.mkdir(parents=True)
    try:
        with naming_the_file(path):
            yield temporary
        mode = temporary.stat().st_mode & 0o666
        for file in temporary.rglob("*.safetensors"):
            if file.stat().st_mode & 0o777 == 0o600:  # as safetensors makes them
                file.chmod(mode)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    try:
        if path.exists():
            _exchange(temporary, path)
        else:
            temporary.rename(path)
    except OSError as error:
        if not temporary.exists():
            raise
        # what was made may be hours of work
        kept = temporary.rename(path.with_name(f"{path.name}.new-{temporary.name[-12:]}"))
        raise OSError(error.errno, f"{error.strerror}; what was to take its place is in {kept}", str(path)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # the old one, or the new one of a process that is to end


@contextmanager
def updating_folder(path: str | os.PathLike) -> Iterator[Path]:
    """
    Gives a copy of the folder `path`, an empty one if there is none, to be changed in the block; at its end it takes
    the place of `path` in one step. After an error or a kill `path` is as it was. Weights, which are never changed in
    place, are not copied but linked.

    Args:
        path (`str` or `os.PathLike`): the folder to change or to make.

    Yields:
        `Path`: the copy.

    Raises:
        OSError: there is no room for the copy, or it may not be written.
    """
    path = Path(path).resolve()
    with replacing_folder(path, overwrite=True) as temporary:
        if path.is_dir():
            try:
                shutil.copytree(path, temporary, copy_function=_link_weights, dirs_exist_ok=True)
            except shutil.Error as error:  # of all files
                _, _, reason = error.args[0][0]
                raise OSError(f"{path} cannot be copied to be changed: {reason}") from error
        yield temporary


def _link_weights(source: str, target: str) -> None:
    if source.endswith((".safetensors", ".pt", ".pth")):
        try:
            os.link(source, target)
            return
        except OSError:  # a file system without links
            pass
    shutil.copy2(source, target)


def _exchange(new: Path, old: Path) -> None:
    """Lets two folders change places: in one step where the system can, else with an instant in between at which the
    old one is set aside, from where [`~hub_cards.files.sweep`] puts it back."""
    if sys.platform == "linux" and new.is_dir():
        rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        here, in_exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        if rename is not None and not rename(here, os.fsencode(new), here, os.fsencode(old), in_exchange):
            return
    replaced = unfinished_path(old, "replaced")
    old.rename(replaced)
    try:
        new.rename(old)
    except BaseException:
        replaced.rename(old)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def read_settings(file: Path, kinds: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    """
    Reads an object with known entries; entries that a later release may have added are left out.

    Args:
        file (`Path`): the file.
        kinds (`Mapping[str, tuple[type, ...]]`): name and possible types of each entry. One that may be `None` may be
            absent.

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


@contextmanager
def tokenizer_errors(folder: str | os.PathLike) -> Iterator[None]:
    """
    For the loading of a text tokenizer in the block: says what is wrong with its files, of which transformers says
    little, if they are in a folder of this machine.

    Raises:
        ValueError: if one is truncated or not JSON, or the loading fails and there is none with a vocabulary.
    """
    folder = Path(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            read_json_object(folder / name)
    try:
        yield
    except Exception as error:
        if folder.is_dir() and not any(path for pattern in VOCABULARIES for path in folder.glob(pattern)):
            raise ValueError(
                f"{folder} holds no tokenizer.json, nor another vocabulary ({', '.join(VOCABULARIES[1:])}): copy it "
                "from where the folder came from."
            ) from error
        raise


def read_strings(file: Path) -> list[str]:
    """
    Reads a JSON file that holds a list of strings.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it holds something else.
    """
    try:
        values = json.loads(Path(file).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is truncated or not JSON: {error}") from error
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{file}: expected a list of strings, found {str(values)[:60]!r}")
    return values


def digest_of_strings(values: Sequence[str]) -> str:
    """SHA-256 of strings in their order, in hexadecimal digits."""
    return hashlib.sha256(json.dumps([*values]).encode("ascii")).hexdigest()


def read_json_object(file: Path) -> dict[str, Any]:
    """
    Reads a JSON file that holds an object.

    Raises:
        ValueError: if it does not.
    """
    try:
        values = json.loads(Path(file).read_text(encoding="utf-8-sig"))  # an editor may have added the mark
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is truncated or not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file}: expected an object, found {type(values).__name__}.")
    return values
