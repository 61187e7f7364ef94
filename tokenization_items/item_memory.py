"""Files of an item memory, which lie beside the item index that it belongs to."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from modeling_utgrec.checkpoint_fingerprint import check_file
from modeling_utgrec.item_memory import PERIOD_TENSORS, ItemMemory, MemoryPeriods
from modeling_utgrec.memory_content import CONTENT_TENSORS, MemoryContent
from modeling_utgrec.memory_settings import MemorySettings
from tokenization_items.files import write_tensors
from tokenization_items.item_index import ItemIndex

MEMORY_NAME = "item_memory.safetensors"
FORMAT = "utgrec-item-memory"
FORMAT_VERSION = "2"  # 1, never released, kept the cosines of similar items alone
_REQUIRED = {"transition_items": torch.int32, "transition_weights": torch.float16, "counts": torch.int32}
_CONTENT = dict(zip(CONTENT_TENSORS, (torch.int32, torch.float16, torch.float32, torch.float32), strict=True))
_RECENT = {"recent": torch.int32}
_PERIODS = dict(zip(PERIOD_TENSORS, (torch.int8, torch.float32), strict=True))
_BRANDS = {"brands": torch.int64}
_PAIRS = {"pair_offsets": torch.int64, "pair_items": torch.int32, "pair_counts": torch.int64}


class ItemMemoryError(ValueError):
    """The file of an item memory is truncated, or does not belong to the item index beside it."""


@dataclass
class StoredMemory:
    """
    An item memory with what its file says of it.

    Args:
        memory ([`ItemMemory`]): in the order of the index.
        facts (`dict`, *optional*): how it was made, as JSON has it: the way, the data, the grid that was searched.
        pairs (`dict[str, torch.Tensor]`, *optional*): whole numbers behind transitions that are counts, as compressed
            sparse rows `pair_offsets`, `pair_items`, `pair_counts`: further interactions are added to them exactly.
    """

    memory: ItemMemory
    facts: dict[str, Any] = field(default_factory=dict)
    pairs: dict[str, torch.Tensor] | None = None

    def save(self, folder: str | os.PathLike, index: ItemIndex) -> Path:
        """
        Writes `item_memory.safetensors` to the folder of an index, whole or not at all.

        Raises:
            ItemMemoryError: if the memory is of another number of items than the index.
        """
        if self.memory.num_items != len(index):
            raise ItemMemoryError(
                f"The memory is of {self.memory.num_items} items, the item index of {len(index)}: nothing was written."
            )
        metadata = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "index_sha256": index.checksum,
            "num_items": str(len(index)),
            "settings": json.dumps(asdict(self.memory.settings)),
            "facts": json.dumps(self.facts),
        }
        tensors = self.memory.tensors() | (self.pairs or {})
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        return write_tensors(Path(folder) / MEMORY_NAME, tensors, metadata)

    @classmethod
    def load(cls, folder: str | os.PathLike, index: ItemIndex | None = None) -> "StoredMemory":
        """
        Reads what `save` wrote.

        Args:
            folder (`str` or `os.PathLike`): the folder.
            index ([`ItemIndex`], *optional*): the index beside it. Without one it may be of another, to be brought up
                to date.

        Raises:
            FileNotFoundError: if the folder has no memory.
            ItemMemoryError: if the file is truncated, of another format, holds numbers that no memory has, or belongs
                to another index, as after items were added or removed.
        """
        path = Path(folder) / MEMORY_NAME
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: build the memory with `utgrec memory`.")
        metadata, tensors = _read(path)
        wanted = {"format", "version", "index_sha256", "num_items", "settings", "facts"}
        if not wanted <= metadata.keys():
            raise ItemMemoryError(f"{path}: expected metadata {sorted(wanted)}, found {sorted(metadata)}.")
        if (metadata["format"], metadata["version"]) != (FORMAT, FORMAT_VERSION):
            raise ItemMemoryError(
                f"{path}: expected {FORMAT} version {FORMAT_VERSION}, found {metadata['format']} version "
                f"{metadata['version']}."
            )
        if index is not None and metadata["index_sha256"] != index.checksum:
            raise ItemMemoryError(
                f"{path} belongs to another item index: it was made for {metadata['num_items']} items with sha256 "
                f"{metadata['index_sha256']}, the index has {len(index)} with {index.checksum}. Items were added or "
                "removed, or the files come from different models: build it anew with `utgrec memory`, extend it with "
                "`utgrec memory --update`, or leave it out (memory=False, --no_memory)."
            )
        _check_tensors(path, tensors, metadata["num_items"])
        try:
            settings = json.loads(metadata["settings"])
            facts = json.loads(metadata["facts"])
            if not isinstance(settings, dict) or not isinstance(facts, dict):
                raise ValueError("settings and facts must be objects")
            memory = ItemMemory(
                tensors["transition_items"],
                tensors["transition_weights"],
                tensors["counts"],
                MemorySettings.from_dict(settings),
                MemoryContent(*(tensors[name] for name in _CONTENT)) if "content" in tensors else None,
                tensors.get("recent"),
                MemoryPeriods(*(tensors[name] for name in _PERIODS)) if "periods" in tensors else None,
                tensors.get("brands"),
            )
        except (ValueError, TypeError, RecursionError) as error:
            raise ItemMemoryError(f"{path}: {error}") from error
        pairs = {name: tensors[name] for name in _PAIRS} if "pair_offsets" in tensors else None
        return cls(memory, facts, pairs)


def _read(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    try:
        check_file(path)
    except (ValueError, OSError) as error:
        raise ItemMemoryError(f"{error}") from error
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ItemMemoryError(f"{path} is truncated or not a safetensors file: {error}") from error


def _check_tensors(path: Path, tensors: dict[str, torch.Tensor], stated: str) -> None:
    known = _REQUIRED | _CONTENT | _RECENT | _PERIODS | _BRANDS | _PAIRS
    for group in (_CONTENT, _PERIODS, _PAIRS):
        if set(group) & set(tensors) and not set(group) <= set(tensors):
            raise ItemMemoryError(f"{path}: {sorted(group)} go together, found {sorted(tensors)}.")
    if not set(_REQUIRED) <= set(tensors):
        raise ItemMemoryError(f"{path}: expected tensors {sorted(_REQUIRED)}, found {sorted(tensors)}.")
    for name, dtype in known.items():
        if name in tensors and tensors[name].dtype != dtype:
            raise ItemMemoryError(f"{path}: expected {name} as {dtype}, found {tensors[name].dtype}.")
    num_items = len(tensors["transition_items"])
    if str(num_items) != stated:
        raise ItemMemoryError(f"{path}: expected transitions of {stated} items, found {num_items}.")
    if "pair_offsets" in tensors:
        offsets, items, counts = (tensors[name] for name in _PAIRS)
        if (
            offsets.shape != (num_items + 1,)
            or items.ndim != 1
            or items.shape != counts.shape
            or int(offsets[0]) != 0
            or int(offsets[-1]) != len(items)
            or bool((offsets.diff() < 0).any())
            or bool(((items < 0) | (items >= num_items)).any())
            or bool((counts < 1).any())
        ):
            raise ItemMemoryError(f"{path}: the counts of pairs are no sparse rows of {num_items} items.")


__all__ = ["MEMORY_NAME", "ItemMemoryError", "StoredMemory"]
