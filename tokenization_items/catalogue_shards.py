"""Shards of a catalogue: parquet files of items, too many for one memory, that are checked and read block by block.

A block is a number of consecutive items of all shards together, however they are cut into files: the same items in one
file or in a thousand have the same blocks.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hub_cards import listed, named
from tokenization_items.batching import BLOCK_ITEMS, blocks_of
from tokenization_items.catalogue import TEXT_FIELDS, Catalogue
from tokenization_items.item_files import CatalogueError, check_parquet
from tokenization_items.text_template import TextTemplate

if TYPE_CHECKING:
    import pyarrow as pa

READY_TEXT = "utgrec_text"  # column of texts that are put together already
MOST_NAMED = 10
MOST_COMPARED = 1000  # pairs of ids of the same hash that are read at a time
_NUMBERED = re.compile(r"(?P<before>.*?)(?P<number>\d+)-of-(?P<count>\d+)(?P<after>\D.*)?")


class Piece(NamedTuple):
    """
    Items of one shard: those from `start` to before `stop` of the file with number `shard`.
    """

    shard: int
    start: int
    stop: int


@dataclass(frozen=True)
class CatalogueShards:
    """
    Parquet files that together are a catalogue, in the order of their names.

    Args:
        files (`tuple[Path, ...]`): the files.
        num_items (`tuple[int, ...]`): items of each.
        text_fields (`tuple[str, ...]`): fields of the text, in order.
        template ([`TextTemplate`], *optional*): puts them together.
        name (`str`): of the catalogue.
        is_ready (`bool`): whether the texts are put together already, see `write`.
        unread (`tuple[str, ...]`): further columns.
    """

    files: tuple[Path, ...]
    num_items: tuple[int, ...]
    text_fields: tuple[str, ...]
    template: TextTemplate | None
    name: str
    is_ready: bool = False
    unread: tuple[str, ...] = ()

    @classmethod
    def find(
        cls, data: str | Path, text_fields: Sequence[str] = TEXT_FIELDS, template: TextTemplate | None = None
    ) -> CatalogueShards | None:
        """
        The shards that a folder holds: `items.parquet` of a data folder, or parquet files and nothing else that counts
        (names that begin with a dot or an underscore do not).

        Args:
            data (`str` or `Path`): the folder.
            text_fields, template: see [`Catalogue.from_folder`].

        Returns:
            [`CatalogueShards`], or `None` if it is something else, or its columns are not those of a data folder.

        Raises:
            CatalogueError: a shard is missing or cut short, or has columns of other names or types than the first; all
                are named.
        """
        path = Path(data)
        if (path / "items.parquet").is_file():
            files = [path / "items.parquet"]
        else:
            every = sorted(path.iterdir()) if path.is_dir() else []
            files = [each for each in every if each.is_file() and each.name[0] not in "._"]
            files = files if all(each.suffix == ".parquet" for each in files) else []
        if not files:
            return None
        schemas, counts = _read_footers(files)
        first = schemas[0]
        if "item_id" not in first or not {*text_fields, "image"} & first.keys():
            return None
        _check_missing(files)
        wanted = {"item_id", "title", "image", *text_fields}
        _check_schemas(files, [{name: schema[name] for name in schema if name in wanted} for schema in schemas])
        if not sum(counts):
            raise CatalogueError(f"{path} holds no items: is it complete?")
        unread = tuple(name for name in first if name not in wanted)
        return cls(tuple(files), tuple(counts), tuple(text_fields), template, path.resolve().name, unread=unread)

    @classmethod
    def write(cls, catalogue: Catalogue, folder: Path, block_items: int = BLOCK_ITEMS) -> CatalogueShards:
        """
        Writes a catalogue that was read into memory as shards with ready texts.

        Args:
            catalogue ([`Catalogue`]): items without images.
            folder (`Path`): for the shards.
            block_items (`int`, *optional*, defaults to `BLOCK_ITEMS`): items of a shard.

        Raises:
            CatalogueError: an item has an image.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        from hub_cards import replacing

        if catalogue.images is not None and catalogue.images.present.any():
            raise CatalogueError(
                f"{catalogue.name}: of items with images, --engine ray reads parquet files with the columns of a data "
                "folder (item_id, title, ..., image): write the items to such files."
            )
        files, counts = [], []
        for number, block in enumerate(blocks_of(len(catalogue), block_items)):
            table = pa.table(
                {
                    "item_id": pa.array(catalogue.item_ids[block], pa.string()),
                    "title": pa.array(catalogue.titles[block], pa.string()),
                    READY_TEXT: pa.array(catalogue.texts[block], pa.string()),
                }
            )
            files.append(folder / f"items-{number:05}.parquet")
            counts.append(len(table))
            with replacing(files[-1]) as (temporary,):
                pq.write_table(table, temporary)
        fields, template = catalogue.text_fields, catalogue.template
        return cls(tuple(files), tuple(counts), fields, template, catalogue.name, is_ready=True)

    def __len__(self) -> int:
        return sum(self.num_items)

    def digest(self) -> str:
        """Changes with the files, their order, and how texts are put together: by size and time of each file, or by
        the content of files that this project wrote."""
        said: list[Any] = [list(self.text_fields), repr(self.template), list(self.num_items)]
        for file in self.files:
            stat = file.stat()
            said.append(
                hashlib.sha256(file.read_bytes()).hexdigest()
                if self.is_ready
                else [file.name, stat.st_size, stat.st_mtime_ns]
            )
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()

    def blocks(self, block_items: int = BLOCK_ITEMS) -> list[list[Piece]]:
        """The pieces of shards that each block is made of."""
        ends = np.cumsum(self.num_items)
        found = []
        for block in blocks_of(len(self), block_items):
            pieces, start = [], block.start
            while start < block.stop:
                shard = int(np.searchsorted(ends, start, side="right"))
                before = int(ends[shard]) - self.num_items[shard]
                stop = min(block.stop, int(ends[shard]))
                pieces.append(Piece(shard, start - before, stop - before))
                start = stop
            found.append(pieces)
        return found

    def read(self, pieces: Sequence[Piece]) -> Catalogue:
        """
        The items of a block.

        Raises:
            CatalogueError: they cannot be read, or a value has a wrong type; the shard is named.
        """
        parts = [self.read_piece(piece) for piece in pieces]
        return parts[0] if len(parts) == 1 else replace(Catalogue.concatenate(parts), name=self.name)

    def read_piece(self, piece: Piece) -> Catalogue:
        """The items of a piece; addresses of images are left aside. Errors as those of `read`."""
        file = self.files[piece.shard]
        return self._items_of(read_rows(file, self._columns, piece.start, piece.stop), file, piece.start)

    def select(self, rows: np.ndarray) -> Catalogue:
        """
        Single items, in the order of `rows`. No row group is read twice.

        Args:
            rows (`np.ndarray`): int, their places among all items.

        Raises:
            CatalogueError: as `read`.
        """
        order, ends = np.argsort(rows, kind="stable"), np.cumsum(self.num_items)
        shards = np.searchsorted(ends, rows[order], side="right")
        parts = []
        for shard in np.unique(shards).tolist():
            wanted = rows[order][shards == shard] - (int(ends[shard]) - self.num_items[shard])
            parts.append(self._items_of(take_rows(self.files[shard], self._columns, wanted), self.files[shard], 0))
        items = parts[0] if len(parts) == 1 else replace(Catalogue.concatenate(parts), name=self.name)
        return items.select(np.argsort(order, kind="stable"))

    @property
    def _columns(self) -> list[str]:
        return ["item_id", "title", *([READY_TEXT] if self.is_ready else ["image", *self.text_fields])]

    def _items_of(self, table: pa.Table, file: Path, start: int) -> Catalogue:
        """Items of rows of a file, of which `start` is the first."""
        try:
            if self.is_ready:
                item_ids, titles, texts = (table[name].to_pylist() for name in ("item_id", "title", READY_TEXT))
                return Catalogue(item_ids, texts, titles, None, self.name, self.template, self.text_fields)
            part = Catalogue.from_records(table, self.text_fields, file.parent, self.name, template=self.template)
            return part if part.images is None else replace(part, images=part.images.without(part.images.addresses()))
        except CatalogueError as error:
            raise CatalogueError(f"{file}, from row {start:,} on: {error}") from error

    def check(self, pieces: Sequence[Piece], images: bool = False) -> list[str]:
        """
        The ids of a block, if its items can be tokenized.

        Args:
            pieces (`Sequence[Piece]`): the block.
            images (`bool`, *optional*, defaults to `False`): whether to decode images.

        Raises:
            CatalogueError: an item has no id or that of another, neither a text nor an image, or an image that cannot
                be decoded; the shard is named.
        """
        parts = [self.read_piece(piece) for piece in pieces]
        for piece, part in zip(pieces, parts, strict=True):
            where = f"{self.files[piece.shard]}, from row {piece.start:,} on"
            try:
                part.check(images=images)
            except CatalogueError as error:
                raise CatalogueError(f"{where}: {error}") from error
        if self.template is not None and all(self.template.is_bare(text) for part in parts for text in part.texts):
            raise CatalogueError(f"{self.files[pieces[0].shard]}, from row {pieces[0].start:,} on: no item has a text")
        return [item_id for part in parts for item_id in part.item_ids]

    def check_distinct(self, hashes: Sequence[np.ndarray], block_items: int) -> None:
        """
        Raises a [`CatalogueError`] if an item occurs twice in all shards together; up to 10 are named, with their
        shards.

        Args:
            hashes (`Sequence[np.ndarray]`): uint64, of the ids of each block, see
                [`~tokenization_items.sharded_index.id_hashes`]. Ids of the same hash are read and compared.
            block_items (`int`): items of a block.
        """
        every = np.concatenate(hashes)
        order = np.argsort(every, kind="stable")
        ranked = every[order]
        same = np.flatnonzero(ranked[1:] == ranked[:-1])
        ends = np.cumsum(self.num_items)
        for begin in range(0, len(same), MOST_COMPARED):  # only where ids of the same hash differ, more than the first
            pairs, places = same[begin : begin + MOST_COMPARED], dict[str, list[str]]()
            for row in np.unique(np.concatenate([order[pairs], order[pairs + 1]])).tolist():
                shard = int(np.searchsorted(ends, row, side="right"))
                at = row - int(ends[shard]) + self.num_items[shard]
                item_id = self.read_piece(Piece(shard, at, at + 1)).item_ids[0]
                places.setdefault(item_id, []).append(f"{self.files[shard].name}, row {at:,}")
            problems = [f"item {item_id!r}: {'; '.join(at)}" for item_id, at in places.items() if len(at) > 1]
            if problems:
                raise CatalogueError(
                    f"{self.name}: {len(same):,} items occur more than once; leave one row of each:\n  "
                    f"{listed(problems[:MOST_NAMED])}"
                )


def read_rows(file: Path, columns: Sequence[str], start: int, stop: int) -> pa.Table:
    """
    Rows of a parquet file, of which no more row groups are read than hold them.

    Args:
        file (`Path`): the file.
        columns (`Sequence[str]`): columns to read, those that it has.
        start, stop (`int`): the first row, and the one after the last.

    Raises:
        CatalogueError: the file cannot be read.
    """
    with _row_groups(file, columns) as (read, starts):
        first, last = (np.searchsorted(starts, [start, stop - 1], side="right") - 1).tolist()
        table = read(range(first, last + 1)).slice(start - int(starts[first]), stop - start)
        table.validate(full=True)
        return table


def take_rows(file: Path, columns: Sequence[str], rows: np.ndarray) -> pa.Table:
    """
    Single rows of a parquet file; of row groups that hold none of them nothing is read.

    Args:
        file, columns: as [`read_rows`], whose errors it has.
        rows (`np.ndarray`): int, ascending.
    """
    import pyarrow as pa

    with _row_groups(file, columns) as (read, starts):
        groups = np.searchsorted(starts, rows, side="right") - 1
        parts = [read([group]).take(rows[groups == group] - starts[group]) for group in np.unique(groups).tolist()]
        table = pa.concat_tables(parts)
        table.validate(full=True)
        return table


@contextmanager
def _row_groups(
    file: Path, columns: Sequence[str]
) -> Iterator[tuple[Callable[[Sequence[int]], pa.Table], np.ndarray]]:
    """What reads the columns that there are of some row groups of a parquet file; and the first row of each group,
    last the number of rows: what lies behind them is of a group that there is not."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as opened:
            sizes = [opened.metadata.row_group(group).num_rows for group in range(opened.metadata.num_row_groups)]
            starts = np.cumsum([0, *sizes])
            present = [column for column in columns if column in opened.schema_arrow.names]
            yield lambda groups: opened.read_row_groups([*groups], columns=present), starts
    except (pa.ArrowException, OSError, IndexError) as error:
        raise CatalogueError(f"{file} cannot be read: {error}") from error


def _read_footers(files: Sequence[Path]) -> tuple[list[dict[str, str]], list[int]]:
    """The kinds of each file's columns, and its number of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schemas, counts, problems = [], [], []
    for file in files:
        try:
            metadata = check_parquet(file)
            schema = pq.read_schema(file)
            schemas.append({field.name: _kind(field.type) for field in schema})
            counts.append(metadata.num_rows)
        except CatalogueError as error:
            problems.append(str(error))
        except (pa.ArrowException, OSError) as error:
            problems.append(f"{file} is cut short or no parquet file ({error}): write it again")
    if problems:
        raise CatalogueError(
            problems[0]
            if len(files) == 1
            else f"{len(problems)} of {len(files)} shards cannot be read:\n  {listed(problems)}"
        )
    return schemas, counts


def _kind(dtype: Any) -> str:
    """What two shards must have in common in the type of a column."""
    import pyarrow as pa

    if pa.types.is_dictionary(dtype):
        return _kind(dtype.value_type)
    if pa.types.is_string(dtype) or pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype):
        return "text"
    if pa.types.is_integer(dtype):
        return "whole numbers"
    if pa.types.is_floating(dtype):
        return "numbers"
    if pa.types.is_list(dtype) or pa.types.is_large_list(dtype):
        return f"lists of {_kind(dtype.value_type)}"
    return "nothing" if pa.types.is_null(dtype) else str(dtype)


def _check_schemas(files: Sequence[Path], schemas: Sequence[dict[str, str]]) -> None:
    first, problems = schemas[0], []
    known = dict(first)
    for file, schema in zip(files[1:], schemas[1:], strict=True):
        if absent := sorted(first.keys() - schema.keys()):
            problems.append(f"{file.name} lacks the columns {named(absent)}, which {files[0].name} has")
        if further := sorted(schema.keys() - first.keys()):
            problems.append(f"{file.name} has the columns {named(further)}, which {files[0].name} lacks")
        for name in sorted(first.keys() & schema.keys()):
            one, other = known[name], schema[name]
            if "nothing" in (one, other):  # a shard without any value
                known[name] = other if one == "nothing" else one
            elif one != other:
                problems.append(f"{file.name}: {name} holds {other}, in {files[0].name} {one}")
    if problems:
        raise CatalogueError(
            f"{files[0].parent}: the shards are not of one schema, write them alike:\n  "
            f"{listed(problems[:MOST_NAMED])}"
        )


def _check_missing(files: Sequence[Path]) -> None:
    """Raises a [`CatalogueError`] if names say that there are more files, as `part-00003-of-00010.parquet` does."""
    there: dict[tuple[str, str, str], list[int]] = {}
    for file in files:
        if match := _NUMBERED.fullmatch(file.name):
            there.setdefault((match["before"], match["count"], match["after"] or ""), []).append(int(match["number"]))
    for (before, count, after), numbers in there.items():
        first = 1 if 0 not in numbers and int(count) in numbers else 0
        if missing := sorted({*range(first, first + int(count))} - {*numbers}):
            lost = [f"{before}{number:0{len(count)}}-of-{count}{after}" for number in missing]
            raise CatalogueError(
                f"{files[0].parent}: {len(missing)} of {int(count)} shards are missing: {named(lost)}; copy them, too."
            )


__all__ = ["CatalogueShards", "Piece", "read_rows"]
