"""Codes of the blocks of a catalogue as parquet files, sorted by codes, and the parts of them that collide only with
each other.

The file of a block has the columns `item_id`, `title`, `code_0`, `code_1`, ... and `residual_0`, ..., the vectors that
were quantized. Items of a range of first codes are read from all files without reading the rest of them: that is the
shuffle which brings the items together that may collide, see
[`~tokenization_items.collisions.assign_least_distance`].
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hub_cards import replacing

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_OF_GROUP = 2048  # read together
SAID = b"utgrec"  # in a file's metadata


@dataclass(frozen=True)
class CodedItems:
    """
    Items with the codes that the network gives them.

    Args:
        item_ids, titles (`list[str]`): of the items.
        codes (`np.ndarray` of shape `(items, levels)`): int64, level-local codes.
        residuals (`np.ndarray` of shape `(items, levels, dim)`): float32, the vectors that were quantized; zeros at
            levels that were not read.
    """

    item_ids: list[str]
    titles: list[str]
    codes: np.ndarray
    residuals: np.ndarray

    def __len__(self) -> int:
        return len(self.item_ids)

    def take(self, rows: np.ndarray) -> CodedItems:
        """The items of these rows, in this order."""
        ids, titles = ([texts[row] for row in rows.tolist()] for texts in (self.item_ids, self.titles))
        return CodedItems(ids, titles, self.codes[rows], self.residuals[rows])


def counts_of(codes: np.ndarray, level_sizes: Sequence[int]) -> list[list[int]]:
    """How many items have each code of each level."""
    return [np.bincount(codes[:, level], minlength=size).tolist() for level, size in enumerate(level_sizes)]


def write_block(path: Path, items: CodedItems, level_sizes: Sequence[int]) -> dict[str, Any]:
    """
    Writes the items of a block, whole or not at all.

    Args:
        path (`Path`): the file.
        items ([`CodedItems`]): the items.
        level_sizes (`Sequence[int]`): number of codes of each level.

    Returns:
        `items`, their number, and `counts`, see [`counts_of`]; the file says them, too.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    items = items.take(np.lexsort(items.codes.T[::-1]))
    _, num_levels, dim = items.residuals.shape
    texts = {"item_id": items.item_ids, "title": items.titles}
    columns = {name: pa.array(values, pa.string()) for name, values in texts.items()}
    for level in range(num_levels):
        columns[f"code_{level}"] = pa.array(items.codes[:, level].astype(np.int32))
    for level in range(num_levels):
        values = pa.array(items.residuals[:, level].astype(np.float32).reshape(-1))
        columns[f"residual_{level}"] = pa.FixedSizeListArray.from_arrays(values, dim)
    said = {"items": len(items), "counts": counts_of(items.codes, level_sizes)}
    table = pa.table(columns).replace_schema_metadata({SAID: json.dumps(said).encode()})
    packing = {name: "zstd" if name in texts else "none" for name in columns}
    with replacing(path) as (temporary,):
        pq.write_table(table, temporary, row_group_size=ROWS_OF_GROUP, compression=packing, use_dictionary=False)
    return said


def read_said(path: Path) -> dict[str, Any] | None:
    """What [`write_block`] has returned, of a file that is there and whole; else `None`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        return None
    try:
        said = json.loads((pq.read_schema(path).metadata or {})[SAID])
        return said if pq.read_metadata(path).num_rows == said["items"] else None
    except (pa.ArrowException, OSError, KeyError, ValueError):
        return None


def read_range(
    paths: Sequence[Path], first_codes: tuple[int, int], num_levels: int, levels: Sequence[int]
) -> CodedItems:
    """
    The items of a range of first codes, in the order of their ids.

    Args:
        paths (`Sequence[Path]`): files of [`write_block`].
        first_codes (`tuple[int, int]`): the lowest first code, and the one after the highest.
        num_levels (`int`): levels of the codes.
        levels (`Sequence[int]`): those of which the residuals are read; at least one.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    names = ["item_id", "title", *(f"code_{level}" for level in range(num_levels))]
    names += [f"residual_{level}" for level in levels]
    table = pa.concat_tables([_read_codes_between(path, first_codes, names) for path in paths])
    table = table.take(pc.sort_indices(table["item_id"])).combine_chunks()  # by bytes, which is by characters
    codes = np.stack([table[f"code_{level}"].to_numpy() for level in range(num_levels)], axis=1)
    dim = table.schema.field(f"residual_{levels[0]}").type.list_size
    by_level = np.zeros((num_levels, len(table), dim), np.float32)  # pages that are not written take no memory
    for level in levels:
        chunks = [chunk.flatten().to_numpy() for chunk in table[f"residual_{level}"].chunks]
        by_level[level] = np.concatenate([*chunks, np.zeros(0, np.float32)]).reshape(len(table), dim)
    return CodedItems(
        table["item_id"].to_pylist(),
        table["title"].to_pylist(),
        codes.astype(np.int64),
        by_level.transpose(1, 0, 2),
    )


def _read_codes_between(path: Path, first_codes: tuple[int, int], names: Sequence[str]) -> pa.Table:
    """Rows of a file whose first code is in a range: of the row groups whose statistics allow it."""
    import pyarrow.parquet as pq

    low, high = first_codes
    with pq.ParquetFile(path, memory_map=True) as opened:
        column = opened.schema_arrow.names.index("code_0")
        wanted = []
        for group in range(opened.metadata.num_row_groups):
            said = opened.metadata.row_group(group).column(column).statistics
            if said is None or not said.has_min_max or (said.min < high and said.max >= low):
                wanted.append(group)
        table = opened.read_row_groups(wanted, columns=[*names])
    codes = table["code_0"].to_numpy()
    start, stop = np.searchsorted(codes, [low, high]).tolist()
    return table.slice(start, stop - start)


def ranges_of(totals: np.ndarray, most_items: int) -> list[tuple[int, int]]:
    """
    Ranges of first codes with items, of at most so many items each, or of one code.

    Args:
        totals (`np.ndarray` of shape `(codes,)`): items of each first code.
        most_items (`int`): of a range.
    """
    found: list[tuple[int, int]] = []
    start, held = 0, 0
    for code, items in enumerate(totals.tolist()):
        if held and items and held + items > most_items:
            found.append((start, code))
            start, held = code, 0
        held += items
    return [*found, (start, len(totals))] if held else found


__all__ = ["CodedItems", "counts_of", "ranges_of", "read_range", "read_said", "write_block"]
