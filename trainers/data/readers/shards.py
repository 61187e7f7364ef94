"""Shards of a table: the files of a folder that are one table, checked against each other before any is read."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from trainers.data.readers.base import ReadError

DONE_MARK = "_SUCCESS"  # Spark's and Hadoop's, of a folder that is complete; they leave out files that are empty
UNFINISHED = ("_temporary", "*.tmp", "*.crdownload", "*.part", "*.partial", "*.inprogress", "*.incomplete")
HEAD_LINES = 200  # of a shard of JSON lines, from which the types of its fields are told
_NUMBERED = re.compile(r"(.*?)(\d+)(?:-of-(\d+))?(\D*(?:-[0-9a-f-]{36}.*)?)")


def shard_files(path: Path, kind_of: Callable[[Path], str]) -> list[Path]:
    """
    The files of a table: one, or those of a folder in the order of their names. Names that begin with "." or "_" are
    not data.

    Args:
        path (`Path`): a file or a folder.
        kind_of (`Callable`): the kind of a file; raises `ReadError` for what is no table.

    Raises:
        ReadError: there is none, an empty one, or one that is being written; a number is missing between those of the
            names; or the files are of several kinds.
    """
    if not path.is_dir():
        return [path]
    if unfinished := sorted(each.name for pattern in UNFINISHED for each in path.glob(pattern)):
        raise ReadError(f"{path} is not complete: {unfinished[0]} is still being written, or was left half-written.")
    shards = sorted(each for each in path.iterdir() if each.is_file() and each.name[0] not in "._")
    if not shards:
        raise ReadError(f"{path} holds no shards.")
    if empty := [each for each in shards if not each.stat().st_size]:
        raise ReadError(f"{empty[0]} is empty: write this shard anew, or remove it.")
    kinds = {kind_of(each): each.name for each in shards}
    if len(kinds) > 1:
        raise ReadError(f"{path} holds files of several kinds, as {' and '.join(kinds.values())}: keep one kind.")
    _check_numbers(path, [each.name for each in shards])
    return shards


def _check_numbers(path: Path, names: Sequence[str]) -> None:
    """Raises `ReadError` if names are numbered and a number between the first and the last is missing."""
    found = [_NUMBERED.fullmatch(name) for name in names]
    prefixes = {each[1] for each in found if each}
    if not all(found) or len(prefixes) > 1 or re.search(r"\d", prefixes.pop()):  # a date has gaps
        return
    numbers = [int(each[2]) for each in found if each]
    totals = {each[3] for each in found if each}
    if len(totals) == 1 and (total := totals.pop()) is not None:
        expected: Iterable[int] = range(int(total)) if 0 in numbers else range(1, int(total) + 1)
    elif (path / DONE_MARK).exists():
        return
    else:
        expected = range(min(numbers), max(numbers) + 1)
    if missing := sorted(set(expected) - set(numbers)):
        listed = ", ".join(map(str, missing[:10])) + (" ..." if len(missing) > 10 else "")
        raise ReadError(
            f"{path}: of the shards from {names[0]} to {names[-1]}, the numbers {listed} are missing. Fetch or write "
            f"them; if there are none, an empty file {DONE_MARK} in the folder says that it is complete."
        )


def check_shards(files: Sequence[Path], kind: str, columns: Sequence[str], ids: Sequence[str]) -> None:
    """
    Compares the shards of a table: each must have the columns of the first, of the same type.

    Args:
        files (`Sequence[Path]`): the shards, two or more.
        kind (`str`): `".parquet"`, `".jsonl"` or another one for tables of text.
        columns (`Sequence[str]`): the columns that are read, as the files name them.
        ids (`Sequence[str]`): those of them that hold ids.

    Raises:
        ReadError: a shard cannot be read, was cut, lacks a column of the first or has one that the first lacks, or
            its values are of another type; both shards are named.
    """
    look = {".parquet": _parquet_types, ".jsonl": _json_types}.get(kind, _csv_types)
    with ThreadPoolExecutor() as pool:
        types = list(pool.map(look, files))
    first, expected = files[0], {name: found for name, found in types[0].items() if name in columns}
    for file, found in zip(files[1:], types[1:], strict=True):
        if kind != ".jsonl":  # where a field that is empty may be left out
            for here, there, lacks in ((first, file, expected.keys() - found), (file, first, found.keys() - expected)):
                if lacking := sorted(lacks & set(columns)):
                    raise ReadError(f"{there} lacks the columns {lacking}, which {here.name} has: write it anew.")
        for name in found.keys() & expected.keys():
            if (
                found[name] != expected[name]
                and (name in ids or kind == ".parquet")
                and None
                not in (
                    found[name],
                    expected[name],
                )
            ):
                fix = " Ids of one type are needed: 7 and '07' would be two." if name in ids else " Write it anew."
                raise ReadError(
                    f"{file}: {name} is of type {found[name]}, in {first.name} of type {expected[name]}.{fix}"
                )


def _parquet_types(file: Path) -> dict[str, str | None]:
    try:
        schema = pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise ReadError(f"{file} cannot be read: {error} Is it half-written? Write this shard anew.") from error
    return {field.name: _type_name(field.type) for field in schema}


def _type_name(kind: pa.DataType) -> str | None:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_null(kind):
        return None
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):  # a whole column with a gap may become a float's
        return "number"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "text"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list of {_type_name(kind.value_type)}"
    return "date" if pa.types.is_temporal(kind) else str(kind)


def _head(file: Path, lines: int) -> list[bytes]:
    """The first lines of a text; the last line must end, as those of a file that was not cut do."""
    try:
        if file.suffix != ".gz":
            with open(file, "rb") as raw:
                raw.seek(-1, io.SEEK_END)
                if raw.read(1) not in b"\r\n":
                    raise ReadError(
                        f"{file} does not end with a line break: is it half-written? Write this shard anew, or "
                        "end its last line."
                    )
        with gzip.open(file) if file.suffix == ".gz" else open(file, "rb") as content:
            return [line for line, _ in zip(content, range(lines), strict=False)]
    except (OSError, EOFError, zlib.error) as error:
        raise ReadError(f"{file} cannot be read: {error}. Is it half-written? Write this shard anew.") from error


def _csv_types(file: Path) -> dict[str, str | None]:
    text = b"".join(_head(file, 1)).decode("latin-1").removeprefix("ï»¿")
    separator = max(",;\t|", key=text.count)
    return {name.strip(): None for name in next(csv.reader(io.StringIO(text), delimiter=separator), [])}


def _json_types(file: Path) -> dict[str, str | None]:
    types: dict[str, str | None] = {}
    for line in _head(file, HEAD_LINES):
        try:
            record = json.loads(line)
        except ValueError:
            continue  # reading counts and names it
        for name, value in record.items() if isinstance(record, dict) else ():
            if value is not None and types.get(name) is None:
                types[name] = "text" if isinstance(value, str) else "number" if _is_number(value) else "other"
    return types


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
