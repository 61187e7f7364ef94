"""Item index: items and their semantic IDs, a bijection that grows, changes none and is saved as plain files."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers.utils import logging

from hub_cards import named
from hub_cards.item_ids import IdError, id_text
from modeling_utgrec.item_trie import ItemTrie
from tokenization_items.collision_report import COLLAPSED, FEWEST_JUDGED, AssignmentReport, report_assignment
from tokenization_items.collisions import (
    NUM_DIGITS,
    CapacityError,
    Collisions,
    append_digits,
    assign_least_distance,
    assign_nearest_first,
    check_way,
)
from tokenization_items.item_index_files import (
    CODES_NAME,
    CONTENT_NAME,
    IDS_NAME,
    TITLES_NAME,
    IndexParts,
    ItemIndexError,
)
from tokenization_items.item_provenance import ItemProvenance

MAX_LEVELS = 256
MAX_CODES = 2**24  # of a level: generation keeps a mask of them for every beam
MAX_TOKEN = 2**31 - 1

logger = logging.get_logger(__name__)


class UnknownItemError(KeyError):
    """An item id or a semantic ID that the index does not hold."""

    def __str__(self) -> str:  # KeyError would show the message in quotes
        return str(self.args[0])


class ItemIndex:
    """
    Bijection between item ids and semantic IDs (Rajput et al. 2023): for each item one code of each level, all of them
    made from its content.

    Args:
        level_sizes (`Sequence[int]`): Number of codes of each level; the last may be one of digits, see `assign`.
        level_offsets (`Sequence[int]`): First token id of each level in the recommender's vocabulary, not 0, which is
            padding. Levels share their tokens if they begin with the same one, and overlap in no other way.

    Attributes:
        item_ids (`list[str]`): Items in the order in which they were added; an item's position is its row.
        codes (`np.ndarray` of shape `(num_items, num_levels)`, int32, read-only): Level-local codes.
        titles (`list[str]`): Title of each item, for display; empty if not known.
        content (`np.ndarray` of shape `(num_items, width)`, float16, read-only, *optional*): Content vector of each
            item, such as a text embedding, for recommenders that read them, see `set_content`.
        content_encoder (`str`, *optional*): Fingerprint of the encoder that made the content, if it is known.
        provenance ([`ItemProvenance`], *optional*): What the semantic IDs were made of, if it is known.
    """

    def __init__(self, level_sizes: Sequence[int], level_offsets: Sequence[int]):
        self.level_sizes = _whole_numbers("level_sizes", level_sizes, least=1, most=MAX_CODES)
        self.level_offsets = _whole_numbers("level_offsets", level_offsets, least=1, most=MAX_TOKEN)  # 0 is padding
        if len(self.level_offsets) != len(self.level_sizes):
            raise ValueError(f"{len(self.level_sizes)} level_sizes but {len(self.level_offsets)} level_offsets")
        _check_ranges(self.level_sizes, self.level_offsets)
        self.content_encoder: str | None = None
        self._replace([], np.zeros((0, len(self.level_sizes)), dtype=np.int32), [])

    def _replace(
        self,
        item_ids: list[str],
        codes: np.ndarray,
        titles: list[str],
        content: np.ndarray | None = None,
        provenance: ItemProvenance | None = None,
    ) -> None:
        codes = np.ascontiguousarray(codes, dtype=np.int32)
        codes.flags.writeable = False
        if content is not None:
            content.flags.writeable = False
        self.item_ids, self.codes, self.titles, self.content = item_ids, codes, titles, content
        self.provenance = provenance
        self._row_of = dict(zip(item_ids, range(len(item_ids)), strict=True))
        self._token_table: np.ndarray | None = None  # all three built when first asked for
        self._trie: ItemTrie | None = None
        self._checksum: str | None = None

    @property
    def checksum(self) -> str:
        """Digest of item ids and codes, by which other files tell that they belong to this index."""
        if self._checksum is None:
            digest = hashlib.sha256(np.ascontiguousarray(self.codes, dtype="<i4").tobytes())
            digest.update(json.dumps(self.item_ids).encode("ascii"))
            self._checksum = digest.hexdigest()
        return self._checksum

    @property
    def num_levels(self) -> int:
        return len(self.level_sizes)

    @property
    def token_table(self) -> np.ndarray:
        """Token ids of all items, int64 `(num_items, num_levels)`, read-only like `codes`."""
        if self._token_table is None:
            self._token_table = self.codes + np.asarray(self.level_offsets, dtype=np.int64)
            self._token_table.flags.writeable = False
        return self._token_table

    def __len__(self) -> int:
        return len(self.item_ids)

    def __contains__(self, item_id: object) -> bool:
        """Whether there is such an item; ids are those of [`~hub_cards.item_ids.id_text`]."""
        try:
            return id_text(item_id) in self._row_of
        except IdError:
            return False

    def __repr__(self) -> str:
        return f"ItemIndex(num_items={len(self)}, level_sizes={self.level_sizes}, level_offsets={self.level_offsets})"

    def assign(
        self,
        item_ids: Sequence[str],
        codes: np.ndarray,
        residuals: np.ndarray | None = None,
        level_vectors: Sequence[np.ndarray] | None = None,
        titles: Sequence[str] | None = None,
        collisions: Collisions = "least_distance",
        content: np.ndarray | None = None,
        content_encoder: str | None = None,
        replace: bool = False,
    ) -> AssignmentReport:
        """
        Adds items. Their semantic IDs are the given codes, told apart where items share them; items of the index keep
        theirs. The outcome does not depend on the order of the items; their rows follow it.

        Args:
            item_ids (`Sequence[str]`):
                New items.
            codes (integers of shape `(num_items, num_levels)`):
                Level-local codes, as the item tokenizer gives them.
            residuals (floats of shape `(num_items, num_levels, dim)`, *optional*):
                The vectors z' that each level quantizes. Needed only when codes change.
            level_vectors (`Sequence` of float arrays of shapes `(level_sizes[l], dim)`, *optional*):
                Code vectors of each level. Needed only when codes change.
            titles (`Sequence[str]`, *optional*):
                Titles of the new items, for display.
            collisions (`str`, *optional*, defaults to `"least_distance"`):
                How items with the same codes are told apart, see [`~tokenization_items.collisions`]:
                `"least_distance"` and `"nearest_first"` change codes; `"digit"` changes none and adds a level, to an
                empty index, with 256 codes or as many as the largest group of items needs.
            content (floats of shape `(num_items, width)`, *optional*):
                Content vectors of the new items, as their encoder gives them; to be given if and only if the index has
                those of its items. An empty index takes what is given.
            content_encoder (`str`, *optional*):
                Fingerprint of that encoder, as [`~tokenization_items.item_embeddings.encoder_fingerprint`] gives it.
            replace (`bool`, *optional*, defaults to `False`):
                Whether items of the index may be among them: these give up their semantic IDs and get new ones, in
                their rows.

        Returns:
            [`AssignmentReport`].

        Raises:
            CapacityError: If the index would hold more items than semantic IDs exist.
            ValueError: If an item is given twice, or present already and not to be replaced, an array does not fit the
                levels or the items, a code is outside its level, a residual is not finite, codes must change and there
                are no residuals, the index has digits and `collisions` is another way, or the other way round, or
                content is missing, unexpected, of another width or encoder, or not finite. The index is unchanged
                after any error.
        """
        check_way(collisions)
        item_ids = list(item_ids)
        titles = [""] * len(item_ids) if titles is None else list(titles)
        if len(titles) != len(item_ids):
            raise ValueError(f"{len(item_ids)} item_ids but {len(titles)} titles")
        self.check_new(item_ids, replace)
        was_empty, content = not len(self), self._content_with(item_ids, content, content_encoder)
        codes = np.asarray(codes)
        has_digits = codes.ndim == 2 and self.check_collisions(codes.shape[1], collisions)
        sizes = self.level_sizes[:-1] if has_digits else self.level_sizes
        before = self.find(item_ids)
        is_new, stays = before < 0, np.ones(len(self), dtype=bool)
        stays[before[~is_new]] = False
        occupied = self.codes[stays].astype(np.int64)
        given = _checked_codes(item_ids, codes, sizes)
        residuals, level_vectors = _checked_vectors(item_ids, given, sizes, residuals, level_vectors)
        # Ties go by item id, so that the order of the catalogue does not matter.
        order = np.array(sorted(range(len(item_ids)), key=item_ids.__getitem__), dtype=np.int64)
        if collisions == "digit":
            final = append_digits(item_ids, given, occupied if has_digits else None)
            report = report_assignment(given, given, occupied[:, : len(sizes)], sizes)
            if not has_digits:
                self._add_level(max(NUM_DIGITS, report.largest_group))
            elif len(item_ids) and final[:, -1].max() >= self.level_sizes[-1]:
                raise CapacityError(
                    f"{report.largest_group} items share their codes, and the index has {self.level_sizes[-1]} digits "
                    "to tell them apart: make an index of all items at once"
                )
        else:
            assign = assign_least_distance if collisions == "least_distance" else assign_nearest_first
            final = np.empty_like(given)
            part = None if residuals is None else residuals[order]
            final[order] = assign(given[order], sizes, part, level_vectors, occupied)
            report = report_assignment(given, final, occupied, sizes, residuals, level_vectors)
        if report.num_items >= FEWEST_JUDGED and report.collision_rate > COLLAPSED:
            logger.warning(report.describe_collapse(sizes))
        # What was given stands behind what there is; from there come new rows, and those that are replaced.
        source = np.arange(len(self))
        source[before[~is_new]] = len(self) + np.flatnonzero(~is_new)
        source = np.concatenate([source, len(self) + np.flatnonzero(is_new)])
        every_id, every_title = self.item_ids + item_ids, self.titles + titles
        provenance = None
        if was_empty:
            self.content_encoder = None if content is None else content_encoder
        elif self.provenance is not None:
            provenance = self.provenance.followed_by(len(item_ids)).take(source)
        self._replace(
            [every_id[row] for row in source.tolist()],
            np.concatenate([self.codes, final.astype(np.int32)])[source],
            [every_title[row] for row in source.tolist()],
            None if content is None else content[source],
            provenance,
        )
        return report

    def set_content(self, content: np.ndarray | None, encoder: str | None = None) -> None:
        """
        Gives the items content vectors, for recommenders that read them. They are kept in half precision and saved
        beside the index.

        Args:
            content (floats of shape `(num_items, width)`): a vector of each item, as the encoder gives it, in the
                order of `item_ids`; `None` takes them away.
            encoder (`str`, *optional*): the encoder's fingerprint, as
                [`~tokenization_items.item_embeddings.encoder_fingerprint`] gives it: later vectors must be of the
                same.

        Raises:
            ValueError: If there is not a row for each item, or a number is not finite in half precision.
        """
        if content is not None:
            content = _checked_content(self.item_ids, content)
        self._replace(self.item_ids, self.codes, self.titles, content, self.provenance)
        self.content_encoder = None if content is None else encoder

    def set_titles(self, titles: Sequence[str]) -> None:
        """Gives the items titles, for display, in the order of `item_ids`; "" for one without.

        Raises:
            ValueError: If there is not one for each item.
        """
        if len(titles) != len(self):
            raise ValueError(f"{len(self)} item_ids but {len(titles)} titles")
        self.titles = list(titles)

    def set_provenance(self, provenance: ItemProvenance | None) -> None:
        """
        Says what the semantic IDs were made of; it is saved beside them.

        Args:
            provenance ([`ItemProvenance`], *optional*): in the order of `item_ids`; `None`: it is not known.

        Raises:
            ValueError: If there is not a row for each item.
        """
        if provenance is not None and {len(each) for each in provenance} != {len(self)}:
            raise ValueError(f"{len(self)} items, but provenance of {[len(each) for each in provenance]}")
        self.provenance = provenance

    def check_content(
        self, item_ids: Sequence[str], content: np.ndarray | None, content_encoder: str | None = None
    ) -> None:
        """Raises the `ValueError` of `assign` unless new items have content vectors as those of the index."""
        self._content_with(item_ids, content, content_encoder)

    def _content_with(
        self, item_ids: Sequence[str], content: np.ndarray | None, encoder: str | None
    ) -> np.ndarray | None:
        """The content of the items there are and of new ones, if there are any."""
        if content is None and not item_ids:
            return self.content
        if not len(self):
            return None if content is None else _checked_content(item_ids, content)
        if (content is None) != (self.content is None):
            raise ValueError(
                "the index has content vectors of its items: give `content` of the new ones, from the same encoder"
                if content is None
                else "the index has no content vectors of its items: leave `content` out, or set_content first"
            )
        if content is None or self.content is None:
            return None
        if None not in (encoder, self.content_encoder) and encoder != self.content_encoder:
            raise ValueError(
                f"the index has content vectors of the encoder with fingerprint {self.content_encoder}, the new ones "
                f"are of {encoder}: they must be of the same encoder, or set_content gives all items theirs anew"
            )
        return np.concatenate([self.content, _checked_content(item_ids, content, self.content.shape[1])])

    def check_new(self, item_ids: Sequence[str], replace: bool = False) -> None:
        """Raises a `ValueError` unless items can be added: strings, none of them twice and, unless they are to be
        replaced, none in the index."""
        self.check_changes()
        _check_ids(item_ids, ValueError)
        present = [] if replace else [item_id for item_id in item_ids if item_id in self._row_of]
        if present:
            raise ValueError(
                f"{len(present)} items are in the index already and keep their semantic IDs: {named(present)}; "
                "leave them out, or remove() them first"
            )

    def check_collisions(self, num_codes: int, collisions: Collisions) -> bool:
        """
        Whether the index has a level of digits behind the codes that a tokenizer gives.

        Args:
            num_codes (`int`): codes that it gives to an item.
            collisions (`str`): how items with the same codes are to be told apart.

        Raises:
            ValueError: that is no way for the items of this index.
        """
        has_digits = num_codes == self.num_levels - 1
        if has_digits and collisions != "digit":
            raise ValueError(
                f"the tokenizer gives an item {num_codes} codes, the index has {self.num_levels} levels: if the last "
                "one is of digits, add items with collisions='digit'"
            )
        if collisions == "digit" and not has_digits and len(self):
            raise ValueError(
                f"the {len(self)} items of the index have no level of digits: add items with "
                "collisions='least_distance' or 'nearest_first', or make an index of all items at once"
            )
        return has_digits

    def _add_level(self, size: int) -> None:
        """A further level of an empty index, with tokens of its own behind those of the others."""
        assert not len(self)
        ends = [first + codes for first, codes in zip(self.level_offsets, self.level_sizes, strict=True)]
        self.level_sizes, self.level_offsets = [*self.level_sizes, size], [*self.level_offsets, max(ends)]
        self._replace([], np.zeros((0, self.num_levels), dtype=np.int32), [])

    def find(self, item_ids: Iterable[str]) -> np.ndarray:
        """Rows of items, int64 `(num_items,)`, -1 for one that is not in the index."""
        return np.array([self._row_of.get(item_id, -1) for item_id in item_ids], dtype=np.int64)

    def rows(self, item_ids: Iterable[str]) -> np.ndarray:
        """
        Rows of items, int64 `(num_items,)`; ids are those of [`~hub_cards.item_ids.id_text`].

        Raises:
            UnknownItemError: If an item is not in the index (up to 10 are named).
            TypeError: One id in place of several.
        """
        if isinstance(item_ids, str):  # whose letters may be ids, too
            raise TypeError(f"item_ids are several ids, such as [{item_ids!r}], got {item_ids!r}.")
        item_ids = list(item_ids)
        try:
            return np.fromiter(map(self._row_of.__getitem__, item_ids), dtype=np.int64, count=len(item_ids))
        except (KeyError, TypeError):  # an unknown one, a number, or what is no id
            unknown = list({repr(item_id): item_id for item_id in item_ids if item_id not in self}.values())
        if unknown:
            raise UnknownItemError(
                f"{len(unknown)} items are not in the index of {len(self)} items: {named(unknown)}; "
                "add them with add_items first"
            )
        return np.array([self._row_of[str(id_text(item_id))] for item_id in item_ids], dtype=np.int64)

    def encode(self, item_id: str) -> list[int]:
        """Token ids of an item. Raises `UnknownItemError` for an item that is not in the index."""
        return self.encode_batch([item_id])[0].tolist()

    def encode_batch(self, item_ids: Iterable[str]) -> np.ndarray:
        """Token ids of items, int64 `(num_items, num_levels)`. Raises `UnknownItemError` as `rows` does."""
        return self.token_table[self.rows(item_ids)]

    def decode(self, tokens: Sequence[int]) -> str:
        """
        The item that has this semantic ID.

        Args:
            tokens (`Sequence[int]` of length `num_levels`): Token ids, one for each level.

        Raises:
            UnknownItemError: If no item has this semantic ID.
            ValueError: If there are not `num_levels` tokens.
        """
        found = np.asarray(tokens)
        if found.shape != (self.num_levels,):
            raise ValueError(f"a semantic ID has {self.num_levels} tokens, got shape {found.shape}: {found.tolist()}")
        codes = found - np.asarray(self.level_offsets)
        if len(self) and ((codes >= 0) & (codes < self.level_sizes)).all():
            row = self.row_of_codes(codes.tolist())
            if row >= 0:
                return self.item_ids[row]
        raise UnknownItemError(f"no item of the index has the semantic ID {found.tolist()} (codes {codes.tolist()})")

    def row_of_codes(self, codes: Sequence[int]) -> int:
        """The row of the item with these level-local codes, -1 if there is none."""
        return int(self.trie().find(torch.tensor([codes])))

    def check_changes(self) -> None:
        """Raises a `ValueError` if the index does not change, as one in shards."""

    def trie(self) -> ItemTrie:
        """All semantic IDs as an [`ItemTrie`], built at the first call after a change; rows are the index's."""
        if self._trie is None:
            codes = self.codes.astype(np.int64)
            # torch takes no array that may not be written
            content = None if self.content is None else self.content.copy()
            self._trie = ItemTrie(codes, self.level_sizes, self.level_offsets, item_ids=self.item_ids, content=content)
        return self._trie

    def remove(self, item_ids: Iterable[str]) -> None:
        """
        Removes items and frees their semantic IDs; later items move up in rows, semantic IDs stay.

        Raises:
            UnknownItemError: If an item is not in the index; nothing is removed then.
        """
        keep = np.ones(len(self), dtype=bool)
        keep[self.rows(item_ids)] = False
        kept = keep.nonzero()[0].tolist()
        content = None if self.content is None else self.content[keep]
        titles = [self.titles[row] for row in kept]
        provenance = None if self.provenance is None else self.provenance.take(keep)
        self._replace([self.item_ids[row] for row in kept], self.codes[keep], titles, content, provenance)

    def save(self, folder: str | os.PathLike) -> None:
        """Writes `item_index.safetensors` (codes and levels), `item_ids.json` (a list) and, if there are any,
        `item_titles.json` (a list), `item_content.safetensors` (vectors) and `item_provenance.safetensors` to
        `folder`."""
        parts = IndexParts(
            level_sizes=self.level_sizes,
            level_offsets=self.level_offsets,
            item_ids=self.item_ids,
            codes=self.codes,
            titles=self.titles,
            content=self.content,
            content_encoder=self.content_encoder,
            provenance=self.provenance,
            sha256=self.checksum,
        )
        parts.write(Path(folder))

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "ItemIndex":
        """
        Reads what `save` wrote.

        Raises:
            ItemIndexError: If a file is missing, truncated, of another format version, or does not belong to the
                other; the message says what was expected and what was found.
        """
        folder = Path(folder)
        parts = IndexParts.read(folder)
        item_ids, codes = parts.item_ids, parts.codes
        try:
            index = cls(parts.level_sizes, parts.level_offsets)
        except (ValueError, TypeError) as error:
            raise ItemIndexError(f"{folder / CODES_NAME}: expected level sizes and offsets: {error}") from error
        index._replace(item_ids, codes, parts.titles, parts.content, parts.provenance)
        index.content_encoder = parts.content_encoder
        if index.checksum != parts.sha256:
            raise ItemIndexError(
                f"{folder}: expected sha256 {parts.sha256}, found {index.checksum}; "
                f"{CODES_NAME} and {IDS_NAME} were changed or come from different saves"
            )
        _check_ids(item_ids, ItemIndexError)
        if ((codes < 0) | (codes >= np.asarray(index.level_sizes))).any():
            raise ItemIndexError(f"{folder / CODES_NAME}: expected codes within level sizes {index.level_sizes}")
        num_unique = len(np.unique(codes, axis=0))
        if num_unique != len(codes):
            raise ItemIndexError(
                f"{folder / CODES_NAME}: expected {len(codes)} semantic IDs, found {num_unique} different"
            )
        return index


def _checked_codes(item_ids: Sequence[str], codes: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """The codes, int64, if they are as many as the items and within their levels."""
    if codes.shape != (len(item_ids), len(sizes)):
        raise ValueError(f"codes must have shape ({len(item_ids)}, {len(sizes)}), got {codes.shape}")
    if len(item_ids) and not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(f"codes must be integers, got {codes.dtype}")
    codes = codes.astype(np.int64)
    outside = np.flatnonzero(((codes < 0) | (codes >= np.asarray(sizes))).any(1))
    if len(outside):
        examples = [(item_ids[row], codes[row].tolist()) for row in outside.tolist()]
        raise ValueError(f"{len(outside)} items have codes outside level_sizes {list(sizes)}: {named(examples)}")
    return codes


def _checked_vectors(
    item_ids: Sequence[str],
    codes: np.ndarray,
    sizes: Sequence[int],
    residuals: np.ndarray | None,
    level_vectors: Sequence[np.ndarray] | None,
) -> tuple[np.ndarray | None, list[np.ndarray] | None]:
    """Residuals and code vectors, if they are finite and fit each other and the levels."""
    vectors, dim = None, None
    if level_vectors is not None:
        vectors = [np.asarray(each) for each in level_vectors]
        dim = vectors[0].shape[-1] if vectors and vectors[0].ndim else 0
        shapes = [each.shape for each in vectors]
        if shapes != [(size, dim) for size in sizes]:
            raise ValueError(f"level_vectors must be ({list(sizes)}, dim) arrays, got shapes {shapes}")
        if not all(np.isfinite(each).all() for each in vectors):
            raise ValueError("level_vectors hold NaN or infinity")
    if residuals is not None:
        residuals = np.asarray(residuals)
        shape = residuals.shape
        if len(shape) != 3 or shape[:2] != codes.shape or dim not in (None, shape[2]):
            wanted = (*codes.shape, "dim" if dim is None else dim)
            raise ValueError(f"residuals must have shape {wanted} (items, levels, dim), got {shape}")
        broken = np.flatnonzero(~np.isfinite(residuals).all((1, 2)))
        if len(broken):
            examples = [item_ids[row] for row in broken.tolist()]
            raise ValueError(f"{len(broken)} items have residuals with NaN or infinity: {named(examples)}")
    return residuals, vectors


def _checked_content(item_ids: Sequence[str], content: np.ndarray, width: int | None = None) -> np.ndarray:
    """The content vectors of items in half precision, if there is one of finite numbers for each."""
    content = np.asarray(content)
    is_matrix = content.ndim == 2 and len(content) == len(item_ids) and content.shape[1] > 0
    if not is_matrix or not np.issubdtype(content.dtype, np.floating):
        raise ValueError(
            f"content must be floats of shape ({len(item_ids)}, width), a row for each item, got {content.dtype} "
            f"{content.shape}"
        )
    if width not in (None, content.shape[1]):
        raise ValueError(
            f"the index has content vectors of {width} numbers, the new ones have {content.shape[1]}: they must be "
            "of the same encoder"
        )
    with np.errstate(over="ignore"):  # infinity then, which is refused
        content = content.astype(np.float16, order="C")  # safetensors writes another order's bytes as they lie
    broken = np.flatnonzero(~np.isfinite(content).all(1))
    if len(broken):
        examples = [item_ids[row] for row in broken.tolist()]
        raise ValueError(
            f"{len(broken)} items have content with NaN, infinity or numbers above {np.finfo(np.float16).max:g}: "
            f"{named(examples)}"
        )
    return content


def _check_ids(item_ids: Sequence[str], error: type[ValueError]) -> None:
    other = [item_id for item_id in item_ids if not isinstance(item_id, str)]
    if other:
        raise error(f"item ids must be strings, got {named(other)}")
    if empty := [row for row, item_id in enumerate(item_ids) if not item_id.strip()]:
        raise error(f"{len(empty)} items have an empty id, in rows {named(empty)}; give each one")
    if len(set(item_ids)) != len(item_ids):
        twice = [item_id for item_id, count in Counter(item_ids).items() if count > 1]
        raise error(f"{len(twice)} item ids occur more than once: {named(twice)}")


def _whole_numbers(name: str, values: Sequence[int], least: int, most: int) -> list[int]:
    """The values as Python's integers. Files are read too, so that nothing is taken for granted."""
    values = list(values)
    if not 0 < len(values) <= MAX_LEVELS:
        raise ValueError(f"{name} must be 1 to {MAX_LEVELS} numbers, got {len(values)}")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not least <= value <= most:
            raise ValueError(f"{name} must be whole numbers from {least} to {most}, got {str(value)[:40]!r}")
    return [int(value) for value in values]


def _check_ranges(sizes: Sequence[int], offsets: Sequence[int]) -> None:
    """Raises a `ValueError` where a token would be of two levels that do not share all of theirs."""
    levels = sorted(zip(offsets, sizes, strict=True))
    for (first, size), (second, _) in zip(levels, levels[1:], strict=False):
        if first < second < first + size:
            raise ValueError(
                f"level_offsets {list(offsets)} with level_sizes {list(sizes)}: tokens {second} to {first + size - 1} "
                "would be of two levels; begin each behind the other, or both with the same token"
            )


__all__ = [
    "CODES_NAME",
    "CONTENT_NAME",
    "IDS_NAME",
    "TITLES_NAME",
    "CapacityError",
    "ItemIndex",
    "ItemIndexError",
    "UnknownItemError",
]
