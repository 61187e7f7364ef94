"""Sharded item index: the semantic IDs of a catalogue that no machine holds in memory, looked up in mapped files.

The folder `item_index` has, beside `index.json`,

- `codes-*.safetensors`: the items sorted by their codes; "codes", int16 or int32 `[items, levels]`, "ids", the bytes
  of their ids one after the other, uint8, and "id_ends", uint32 `[items]`, where each ends; "titles" and "title_ends"
  likewise, if there are any. The place of an item among all of them is its row, and its position in the trie;
- `lookup-*.safetensors`: "hashes", uint64, of all ids ([`id_hash`]), sorted, and "rows", uint32 or uint64, of the
  items that have them.

An item takes 16 bytes and 2 a level (4 where a level has more than 32,768 codes) beside the text of its id: 24 with
four levels; 4 more if there are titles. A row is found by its id in one binary search, by its codes in one a level.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from modeling_utgrec.checkpoint_fingerprint import check_file
from modeling_utgrec.item_trie import ItemTrie
from tokenization_items.collision_report import AssignmentReport
from tokenization_items.files import map_arrays, read_settings, write_json, write_tensors
from tokenization_items.item_index import ItemIndex, ItemIndexError
from tokenization_items.item_index_files import (
    CODES_NAME,
    CONTENT_NAME,
    IDS_NAME,
    MANIFEST_NAME,
    SHARDED_NAME,
    TITLES_NAME,
)
from tokenization_items.item_provenance import PROVENANCE_NAME

FORMAT, FORMAT_VERSION = "utgrec-sharded-item-index", 1
MANIFEST: dict[str, tuple[type, ...]] = {"format": (str,), "version": (int,), "num_items": (int,), "sha256": (str,)}
MANIFEST |= {"level_sizes": (list,), "level_offsets": (list,), "shards": (list,), "lookup": (list,)}
MOST_BYTES = 2**32 - 1  # of the ids of one shard


class ReadOnlyIndexError(ValueError):
    """A sharded index that was to be changed."""


def id_hash(item_id: str) -> int:
    """The first 8 bytes of an id's BLAKE2b digest, as an unsigned number."""
    return int.from_bytes(hashlib.blake2b(item_id.encode(), digest_size=8).digest(), "little")


def id_hashes(item_ids: Sequence[str]) -> np.ndarray:
    """[`id_hash`] of ids, uint64 `[items]`."""
    digests = b"".join([hashlib.blake2b(item_id.encode(), digest_size=8).digest() for item_id in item_ids])
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def write_codes(
    path: Path, codes: np.ndarray, item_ids: Sequence[str], titles: Sequence[str], level_sizes: Sequence[int]
) -> dict[str, Any]:
    """
    Writes a shard of items.

    Args:
        path (`Path`): the file, `codes-*.safetensors`.
        codes (`np.ndarray` of shape `(items, levels)`): semantic IDs in lexicographic order, at least one.
        item_ids, titles (`Sequence[str]`): of the items. No titles if none has one.
        level_sizes (`Sequence[int]`): number of codes of each level.

    Returns:
        What the manifest says of it.
    """
    tensors = {"codes": codes.astype(np.int16 if max(level_sizes) <= 2**15 else np.int32)}
    tensors |= _packed("id", item_ids, path)
    if any(titles):
        tensors |= _packed("title", titles, path)
    write_tensors(path, tensors, {"format": FORMAT})
    return {
        "file": path.name,
        "num_items": len(codes),
        "first": codes[0].tolist(),
        "fingerprint": check_file(path),
    }


def _packed(name: str, texts: Sequence[str], path: Path) -> dict[str, np.ndarray]:
    encoded = [text.encode() for text in texts]
    ends = np.cumsum([len(each) for each in encoded], dtype=np.int64)
    if len(ends) and ends[-1] > MOST_BYTES:
        raise ValueError(f"{path}: {ends[-1]:,} bytes of {name}s, at most {MOST_BYTES:,} fit: make smaller shards.")
    return {f"{name}s": np.frombuffer(b"".join(encoded), np.uint8), f"{name}_ends": ends.astype(np.uint32)}


def write_lookup(path: Path, hashes: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
    """
    Writes a shard of the table from ids to rows.

    Args:
        path (`Path`): the file, `lookup-*.safetensors`.
        hashes (`np.ndarray` of shape `(items,)`): uint64, of the ids.
        rows (`np.ndarray` of shape `(items,)`): of the items.

    Returns:
        What the manifest says of it.
    """
    order = np.lexsort((rows, hashes))
    hashes, rows = hashes[order], rows[order]
    wide = np.uint32 if len(rows) == 0 or rows.max() < 2**32 else np.uint64
    write_tensors(path, {"hashes": hashes, "rows": rows.astype(wide)}, {"format": FORMAT})
    first = int(hashes[0]) if len(hashes) else 0
    return {"file": path.name, "num_items": len(hashes), "first": first, "fingerprint": check_file(path)}


def write_manifest(
    folder: Path,
    level_sizes: Sequence[int],
    level_offsets: Sequence[int],
    shards: Sequence[Mapping[str, Any]],
    lookup: Sequence[Mapping[str, Any]],
) -> None:
    """
    Writes `index.json`, which makes an index of the shards beside it.

    Args:
        folder (`Path`): that holds them.
        level_sizes, level_offsets (`Sequence[int]`): see [`ItemIndex`].
        shards, lookup (`Sequence[Mapping]`): what [`write_codes`] and [`write_lookup`] have returned, ascending.
    """
    values = {"level_sizes": [*level_sizes], "level_offsets": [*level_offsets], "shards": [*shards]}
    values |= {"lookup": [*lookup]}
    num_items = sum(shard["num_items"] for shard in shards)
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    write_json(
        folder / MANIFEST_NAME,
        {"format": FORMAT, "version": FORMAT_VERSION, "num_items": num_items, **values, "sha256": digest},
    )


class ShardedItemIndex(ItemIndex):
    """
    An [`ItemIndex`] in shards, which are mapped and not loaded: what is looked up is read from the disk. It does not
    change; a larger catalogue gets an index of its own.

    Args:
        folder (`Path`): that holds `index.json` and the shards.

    Raises:
        ItemIndexError: a file is missing or truncated, or they do not belong together.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        values = _read_manifest(self.folder)
        try:
            super().__init__(values["level_sizes"], values["level_offsets"])
        except (ValueError, TypeError) as error:
            raise ItemIndexError(f"{self.folder / MANIFEST_NAME}: {error}") from error
        self._manifest = values
        self._shards = [_Shard(self.folder / each["file"], each, self.num_levels) for each in values["shards"]]
        ends = np.cumsum([0, *(shard.num_items for shard in self._shards)])
        self._starts = ends[:-1]  # first row of each shard
        self._num_items = int(ends[-1])
        if self._num_items != values["num_items"]:
            raise ItemIndexError(
                f"{self.folder}: {values['num_items']} items expected, the shards hold {self._num_items}"
            )
        self._lookup = _Lookup(self.folder, values["lookup"], self._num_items)
        self._checksum = values["sha256"]
        self.codes = _Rows(self)  # type: ignore[assignment]  # reads the rows that it is asked for
        self.item_ids = _Texts(self, "ids")  # type: ignore[assignment]
        self.titles = _Texts(self, "titles")  # type: ignore[assignment]
        self._row_of = _RowOf(self)  # type: ignore[assignment]

    @property
    def nbytes(self) -> int:
        """Bytes of the shards, of which [`~ShardedItemIndex.text_bytes`] are ids and titles."""
        names = [each["file"] for each in (*self._manifest["shards"], *self._manifest["lookup"])]
        return sum((self.folder / name).stat().st_size for name in names)

    @property
    def text_bytes(self) -> int:
        """Bytes of the texts of ids and titles."""
        return sum(len(array) for shard in self._shards for name, array in shard.arrays.items() if name in TEXTS)

    @property
    def token_table(self) -> np.ndarray:
        """Token ids of the items whose rows it is asked for."""
        return _Rows(self, np.asarray(self.level_offsets, dtype=np.int64))  # type: ignore[return-value]

    def __len__(self) -> int:
        return getattr(self, "_num_items", 0)

    def find(self, item_ids: Iterable[str]) -> np.ndarray:
        """Rows of items, int64 `(num_items,)`, -1 for one that is not in the index."""
        wanted = list(item_ids)
        return np.array([self._row(item_id) for item_id in wanted], dtype=np.int64)

    def _row(self, item_id: str) -> int:
        for row in self._lookup.candidates(id_hash(item_id)):
            if self.item_ids[row] == item_id:
                return row
        return -1

    def row_of_codes(self, codes: Sequence[int]) -> int:
        """The row of the item with these codes, -1 if there is none."""
        wanted = [*map(int, codes)]
        shard = bisect_right(self._shards, wanted, key=lambda each: each.first) - 1
        if shard < 0:
            return -1
        table = self._shards[shard].arrays["codes"]
        low, high = 0, len(table)
        for level, code in enumerate(wanted):
            column = table[:, level]  # np.searchsorted would read and copy the whole of it
            low, high = bisect_left(column, code, low, high), bisect_right(column, code, low, high)
        return int(self._starts[shard]) + low if low < high else -1

    def trie(self) -> ItemTrie:
        """All semantic IDs as an [`ItemTrie`], built shard by shard at the first call: 24 bytes an item and more in
        memory, the most of them keys of the last level. Rows are the index's."""
        if self._trie is None:
            tables = (np.array(shard.arrays["codes"]) for shard in self._shards)
            self._trie = ItemTrie.from_sorted(tables, self.level_sizes, self.level_offsets, self.item_ids)
        return self._trie

    def check_changes(self) -> None:
        """Raises a [`ReadOnlyIndexError`]: it does not change."""
        raise ReadOnlyIndexError(
            f"{self.folder} is a sharded index of {len(self):,} items, which does not change: tokenize the catalogue "
            "with the new items by `utgrec tokenize --engine ray` into another folder."
        )

    def save(self, folder: str | os.PathLike) -> None:
        """Writes the shards to `item_index` in a folder; where it can, it links them. Nothing is done where they
        lie."""
        target = Path(folder) / SHARDED_NAME
        if target.is_dir() and target.resolve() == self.folder.resolve():
            return
        target.mkdir(parents=True, exist_ok=True)
        for file in (MANIFEST_NAME, *(path.name for path in target.glob("*.safetensors"))):
            (target / file).unlink(missing_ok=True)
        for each in (*self._manifest["shards"], *self._manifest["lookup"]):
            try:
                os.link(self.folder / each["file"], target / each["file"])
            except OSError:  # another file system, or one without links
                shutil.copy2(self.folder / each["file"], target / each["file"])
        write_json(target / MANIFEST_NAME, self._manifest)
        for name in (CODES_NAME, IDS_NAME, TITLES_NAME, CONTENT_NAME, PROVENANCE_NAME):  # of an index in memory
            (Path(folder) / name).unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: str | os.PathLike) -> ShardedItemIndex:
        """Opens the index of a tokenizer's folder; errors as those of the constructor."""
        return cls(Path(folder) / SHARDED_NAME)

    def in_memory(self) -> ItemIndex:
        """The items as an index that is held in memory and may change, in the order of their codes."""
        index = ItemIndex(self.level_sizes, self.level_offsets)
        codes = [np.array(shard.arrays["codes"]) for shard in self._shards]
        index._replace([*self.item_ids], np.concatenate(codes), [*self.titles])
        return index

    def check(self) -> None:
        """
        Reads all shards and compares them with their fingerprints, and the order of the items.

        Raises:
            ItemIndexError: a file is not as it was written, or the items are not sorted.
        """
        for each in (*self._manifest["shards"], *self._manifest["lookup"]):
            try:
                found = check_file(self.folder / each["file"])
            except ValueError as error:
                raise ItemIndexError(str(error)) from error
            if found != each["fingerprint"]:
                raise ItemIndexError(f"{self.folder / each['file']} is of another save than {MANIFEST_NAME}")
        self.trie()

    # What would change it.

    def assign(self, *arguments: Any, **named: Any) -> AssignmentReport:
        """Raises a [`ReadOnlyIndexError`]."""
        self.check_changes()
        raise AssertionError

    def remove(self, item_ids: Iterable[str]) -> None:
        """Raises a [`ReadOnlyIndexError`]."""
        self.check_changes()

    def set_content(self, content: np.ndarray | None, encoder: str | None = None) -> None:
        """Raises a [`ReadOnlyIndexError`]."""
        self.check_changes()

    def set_titles(self, titles: Sequence[str]) -> None:
        """Raises a [`ReadOnlyIndexError`]."""
        self.check_changes()


TEXTS = ("ids", "titles")


class _Shard:
    """Items of one file."""

    def __init__(self, path: Path, said: Mapping[str, Any], num_levels: int):
        self.arrays = _opened(path)
        self.num_items, self.first = int(said["num_items"]), list(said["first"])
        codes, ends = self.arrays.get("codes"), self.arrays.get("id_ends")
        if codes is None or ends is None or codes.shape != (self.num_items, num_levels) or len(ends) != len(codes):
            raise ItemIndexError(f"{path}: no codes of {self.num_items} items and {num_levels} levels with their ids")

    def text(self, name: str, row: int) -> str:
        if name not in self.arrays:
            return ""
        ends = self.arrays[f"{name[:-1]}_ends"]
        start = int(ends[row - 1]) if row else 0
        return self.arrays[name][start : int(ends[row])].tobytes().decode()


class _Lookup:
    """Rows by the hash of the id."""

    def __init__(self, folder: Path, said: Sequence[Mapping[str, Any]], num_items: int):
        self.tables = [_opened(folder / each["file"]) for each in said]
        self.firsts = [int(each["first"]) for each in said]
        found = sum(len(table.get("rows", ())) for table in self.tables)
        if found != num_items:
            raise ItemIndexError(f"{folder}: the lookup tables hold {found} items, expected {num_items}")

    def candidates(self, digest: int) -> list[int]:
        rows: list[int] = []
        last = bisect_right(self.firsts, digest) - 1
        if last >= 0:
            hashes = self.tables[last]["hashes"]
            low, high = (int(np.searchsorted(hashes, np.uint64(digest), side=side)) for side in ("left", "right"))
            rows += self.tables[last]["rows"][low:high].tolist()
        return rows


class _Rows:
    """Codes, or tokens, as an array that is indexed by rows, and then by levels. As a whole it is in memory."""

    def __init__(self, index: ShardedItemIndex, offsets: np.ndarray | None = None):
        self._index, self._offsets = index, offsets
        self.shape = (len(index), index.num_levels)
        self.ndim, self.dtype = 2, np.dtype(np.int32 if offsets is None else np.int64)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(self.dtype if dtype is None else dtype, copy=False)

    def astype(self, dtype: Any) -> np.ndarray:
        return np.asarray(self, dtype)

    def tolist(self) -> list[list[int]]:
        return self[:].tolist()

    def __getitem__(self, rows: Any) -> np.ndarray:
        if isinstance(rows, tuple):
            return self[rows[0]][(..., *rows[1:])]
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        rows = np.asarray(rows)
        flat = rows.reshape(-1).astype(np.int64)
        flat = np.where(flat < 0, flat + len(self), flat)
        if len(flat) and not (0 <= flat.min() and flat.max() < len(self)):
            raise IndexError(f"rows are 0 to {len(self) - 1}")
        found = np.empty((len(flat), self.shape[1]), self.dtype)
        shards = np.searchsorted(self._index._starts, flat, side="right") - 1
        for shard in np.unique(shards).tolist():
            here = shards == shard
            found[here] = self._index._shards[shard].arrays["codes"][flat[here] - self._index._starts[shard]]
        found = found if self._offsets is None else found + self._offsets
        return found.reshape(*rows.shape, self.shape[1])


class _Texts(Sequence[str]):
    """Ids or titles of the items, read when they are asked for."""

    def __init__(self, index: ShardedItemIndex, name: str):
        self._index, self._name = index, name

    def __len__(self) -> int:
        return len(self._index)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[each] for each in range(*row.indices(len(self)))]
        row = int(row) + (len(self) if row < 0 else 0)
        if not 0 <= row < len(self):
            raise IndexError(f"rows are 0 to {len(self) - 1}")
        shard = int(np.searchsorted(self._index._starts, row, side="right")) - 1
        return self._index._shards[shard].text(self._name, row - int(self._index._starts[shard]))

    def __iter__(self) -> Iterator[str]:
        for shard in self._index._shards:
            for row in range(shard.num_items):
                yield shard.text(self._name, row)


class _RowOf:
    """Rows by ids, as the dictionary of an index in memory."""

    def __init__(self, index: ShardedItemIndex):
        self._index = index

    def __contains__(self, item_id: object) -> bool:
        return isinstance(item_id, str) and self._index._row(item_id) >= 0

    def __getitem__(self, item_id: str) -> int:
        row = self._index._row(item_id) if isinstance(item_id, str) else -1
        if row < 0:
            raise KeyError(item_id)
        return row

    def get(self, item_id: str, default: int = -1) -> int:
        return self[item_id] if item_id in self else default


def _opened(path: Path) -> dict[str, np.ndarray]:
    try:
        return map_arrays(path)
    except (OSError, ValueError) as error:
        raise ItemIndexError(f"{path} is missing, truncated or no shard of an item index: {error}") from error


def _read_manifest(folder: Path) -> dict[str, Any]:
    file = folder / MANIFEST_NAME
    try:
        values = read_settings(file, MANIFEST)
    except (OSError, ValueError) as error:
        raise ItemIndexError(f"{file} is missing or broken: {error}") from error
    if (values["format"], values["version"]) != (FORMAT, FORMAT_VERSION):
        raise ItemIndexError(
            f"{file}: expected {FORMAT} version {FORMAT_VERSION}, found {values['format']} version {values['version']}"
        )
    said = {name: values[name] for name in ("level_sizes", "level_offsets", "shards", "lookup")}
    if hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest() != values["sha256"]:
        raise ItemIndexError(f"{file} was changed: its sha256 is not that of what it says")
    for each in (*values["shards"], *values["lookup"]):
        if Path(each["file"]).name != each["file"]:
            raise ItemIndexError(f"{file}: {each['file']!r} is no name of a file beside it")
    return values


__all__ = [
    "MANIFEST_NAME",
    "SHARDED_NAME",
    "ReadOnlyIndexError",
    "ShardedItemIndex",
    "id_hash",
    "id_hashes",
    "write_codes",
    "write_lookup",
    "write_manifest",
]
