"""Files of an item index: codes with their levels, ids, titles, content vectors and provenance, and their checks."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hub_cards import named, replacing
from modeling_utgrec.checkpoint_fingerprint import check_file, stamp_file
from tokenization_items.files import digest_of_strings, read_strings
from tokenization_items.item_provenance import PROVENANCE_NAME, ItemProvenance

CODES_NAME = "item_index.safetensors"
IDS_NAME = "item_ids.json"
TITLES_NAME = "item_titles.json"  # only if there are titles
CONTENT_NAME = "item_content.safetensors"  # only if there are content vectors
SHARDED_NAME = "item_index"  # folder of an index in shards
MANIFEST_NAME = "index.json"  # in it, which makes an index of them
FORMAT_VERSION = "1"


class ItemIndexError(ValueError):
    """The files of an item index are missing, truncated or do not belong together."""


class IndexParts(NamedTuple):
    """
    What the files of an [`~tokenization_items.item_index.ItemIndex`] hold; for each but the last see there.

    Args:
        sha256 (`str`): digest of item ids and codes, by which the files tell that they belong together.
    """

    level_sizes: list[int]
    level_offsets: list[int]
    item_ids: list[str]
    codes: np.ndarray
    titles: list[str]
    content: np.ndarray | None
    content_encoder: str | None
    provenance: ItemProvenance | None
    sha256: str

    def write(self, folder: Path) -> None:
        """Writes the files, and removes those of before that are not needed any more, and an index in shards."""
        metadata = {
            "format": "utgrec-item-index",
            "version": FORMAT_VERSION,
            "level_sizes": json.dumps(self.level_sizes),
            "level_offsets": json.dumps(self.level_offsets),
            "num_items": str(len(self.item_ids)),
            "sha256": self.sha256,
        }
        lists = {IDS_NAME: self.item_ids}
        if any(self.titles):
            lists[TITLES_NAME] = self.titles
            metadata["titles_sha256"] = digest_of_strings(self.titles)
        optional = {CONTENT_NAME: self.content, PROVENANCE_NAME: self.provenance}
        names = [*lists, *(name for name, values in optional.items() if values is not None)]
        if self.content is not None:
            metadata["content_width"] = str(self.content.shape[1])
        with replacing(folder / CODES_NAME, *(folder / name for name in names)) as (codes, *others):
            save_file({"codes": self.codes}, codes, metadata=metadata)
            place = dict(zip(names, others, strict=True))
            for name, values in lists.items():
                place[name].write_text(json.dumps(values), encoding="utf-8")
            if self.content is not None:
                said = {"index_sha256": self.sha256}
                if self.content_encoder is not None:
                    said["encoder_fingerprint"] = self.content_encoder
                save_file({"content": self.content}, place[CONTENT_NAME], metadata=said)
                stamp_file(place[CONTENT_NAME])
            if self.provenance is not None:
                self.provenance.save(place[PROVENANCE_NAME], self.sha256)
        for name in {TITLES_NAME, *optional} - {*names}:
            (folder / name).unlink(missing_ok=True)
        (folder / SHARDED_NAME / MANIFEST_NAME).unlink(missing_ok=True)

    @classmethod
    def read(cls, folder: Path) -> "IndexParts":
        """
        Reads what `write` wrote. Whether ids and codes are those of an index, and of `sha256`, is left to it.

        Raises:
            ItemIndexError: as [`~tokenization_items.item_index.ItemIndex.load`].
        """
        for name in (CODES_NAME, IDS_NAME):
            if not (folder / name).is_file():
                raise ItemIndexError(f"{folder / name} is missing; an item index is {CODES_NAME} and {IDS_NAME}")
        metadata, codes = _read_codes(folder / CODES_NAME)
        item_ids = _strings(folder / IDS_NAME)
        try:
            sizes, offsets = json.loads(metadata["level_sizes"]), json.loads(metadata["level_offsets"])
            wanted = (int(metadata["num_items"]), len(offsets))  # as many as sizes, which the index checks
        except (ValueError, TypeError, RecursionError) as error:
            raise ItemIndexError(f"{folder / CODES_NAME}: expected level sizes and offsets: {error}") from error
        if codes.shape != wanted or codes.dtype != np.int32:
            raise ItemIndexError(
                f"{folder / CODES_NAME}: expected int32 codes of shape {wanted}, found {codes.dtype} {codes.shape}"
            )
        if len(item_ids) != len(codes):
            raise ItemIndexError(f"{folder / IDS_NAME}: expected {len(codes)} item ids, found {len(item_ids)}")
        titles = [""] * len(item_ids)
        if "titles_sha256" in metadata:
            titles = _strings(folder / TITLES_NAME)
            if len(titles) != len(item_ids) or digest_of_strings(titles) != metadata["titles_sha256"]:
                raise ItemIndexError(
                    f"{folder}: {TITLES_NAME} does not belong to {CODES_NAME}: expected {len(item_ids)} titles with "
                    f"sha256 {metadata['titles_sha256']}, found {len(titles)} with {digest_of_strings(titles)}"
                )
        content, encoder = _read_content(folder, metadata) if "content_width" in metadata else (None, None)
        provenance = None
        if (folder / PROVENANCE_NAME).is_file():
            try:
                provenance = ItemProvenance.load(folder / PROVENANCE_NAME, metadata["sha256"], len(item_ids))
            except ValueError as error:
                raise ItemIndexError(f"{error}") from error
        return cls(sizes, offsets, item_ids, codes, titles, content, encoder, provenance, metadata["sha256"])


def _strings(file: Path) -> list[str]:
    try:
        return read_strings(file)
    except FileNotFoundError as error:
        raise ItemIndexError(f"{file} is missing, which {CODES_NAME} names") from error
    except ValueError as error:
        raise ItemIndexError(f"{error}") from error


def _read_content(folder: Path, index: dict[str, str]) -> tuple[np.ndarray, str | None]:
    """The content vectors that belong to an index with this metadata, and their encoder's fingerprint."""
    path = folder / CONTENT_NAME
    if not path.is_file():
        raise ItemIndexError(f"{path} is missing, which {CODES_NAME} names")
    try:
        check_file(path)
    except (ValueError, OSError) as error:
        raise ItemIndexError(f"{error}") from error
    try:
        with safe_open(path, framework="numpy") as file:
            said = file.metadata() or {}
            content = file.get_tensor("content") if "content" in file.keys() else None  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise ItemIndexError(f"{path} is truncated or not a safetensors file: {error}") from error
    wanted = f"({index['num_items']}, {index['content_width']})"
    if content is None or content.dtype != np.float16 or str(content.shape) != wanted:
        found = "no such tensor" if content is None else f"{content.dtype} {content.shape}"
        raise ItemIndexError(f"{path}: expected float16 'content' of shape {wanted}, found {found}")
    if said.get("index_sha256") != index["sha256"]:
        raise ItemIndexError(
            f"{folder}: {CONTENT_NAME} does not belong to {CODES_NAME}: it is of the index with sha256 "
            f"{said.get('index_sha256')}, found the one with {index['sha256']}"
        )
    broken = np.flatnonzero(~np.isfinite(content).all(1))
    if len(broken):
        raise ItemIndexError(f"{path}: rows {named(broken)} have NaN or infinity")
    return content, said.get("encoder_fingerprint")


def _read_codes(path: Path) -> tuple[dict[str, str], np.ndarray]:
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
            codes = file.get_tensor("codes") if "codes" in names else None
    except (SafetensorError, OSError) as error:
        raise ItemIndexError(f"{path} is truncated or not a safetensors file: {error}") from error
    wanted = {"format", "version", "level_sizes", "level_offsets", "num_items", "sha256"}
    if codes is None or not wanted <= metadata.keys():
        raise ItemIndexError(
            f"{path}: expected a tensor 'codes' and metadata {sorted(wanted)}, found {names} and {sorted(metadata)}"
        )
    if metadata["format"] != "utgrec-item-index" or metadata["version"] != FORMAT_VERSION:
        raise ItemIndexError(
            f"{path}: expected utgrec-item-index version {FORMAT_VERSION}, "
            f"found {metadata['format']} version {metadata['version']}"
        )
    return metadata, codes
