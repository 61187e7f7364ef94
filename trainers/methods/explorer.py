"""`Explorer`: what people ask of a recommender and its semantic IDs, answered in plain values, as a page shows it."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from hub_cards import named
from modeling_utgrec.memory_content import most_alike
from tokenization_items.catalogue import Catalogue
from tokenization_items.hub_folders import model_folder
from tokenization_items.item_images import ImageError
from tokenization_items.item_index import ItemIndex, UnknownItemError
from tokenization_items.semantic_id_tree import Branch, SemanticIDTree
from trainers.data.item_sources import read_items
from trainers.evaluation.codebooks import codebook_health
from trainers.hub.upload import ALLOWED
from trainers.methods.daily_catalogue import content_of
from trainers.methods.recommender import Recommender

MOST_CHARACTERS = 20_000  # of what is pasted
MOST_ITEMS = 1000  # of a history, or of a rule
MOST_RECOMMENDED = 50
MOST_FOUND = 8
MOST_ALIKE = 10
PICTURE_SIDE = 160  # pixels
SEPARATORS = re.compile(r"[,;\t]")
NEW_ITEM = "new product"


@dataclass(frozen=True)
class Item:
    """
    An item of the index.

    Args:
        item_id (`str`): its id.
        title (`str`): its title; "" for none.
        codes (`tuple[int, ...]`): its semantic ID, counted from 0 within each level.
    """

    item_id: str
    title: str
    codes: tuple[int, ...]


@dataclass(frozen=True)
class Recommended:
    """
    A recommended item with where it comes from.

    Args:
        item ([`Item`]): the item.
        probability (`float`, *optional*): of the item among all; `None` for what is popular.
        shares (`dict[str, float]`): of its probability, `"network"`, `"memory"` (what followed the history's items),
            `"text"` (what is like them) and `"unknown"`, which sum to 1; empty without a memory.
        reasons (`dict[str, Item]`): the item of the history that has the most of `"memory"` and of `"text"`.
    """

    item: Item
    probability: float | None
    shares: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, Item] = field(default_factory=dict)


@dataclass(frozen=True)
class NewProduct:
    """
    What a product that the index lacks is to it.

    Args:
        codes (`tuple[int, ...]`): what the item tokenizer gives it, before collisions are resolved.
        path (`list[Branch]`): the branches of those codes, as far as items have them.
        same_codes (`list[Item]`): items that share the most of the codes from the first on, those first. Those that
            share all collide with it.
        same_texts (`list[tuple[Item, float]]`): items whose texts are most alike, with the cosine of their content
            vectors; none where no content is kept.
    """

    codes: tuple[int, ...]
    path: list[Branch]
    same_codes: list[Item]
    same_texts: list[tuple[Item, float]]


@dataclass(frozen=True)
class CodeHealth:
    """
    How the items use the codes.

    Args:
        measures (`dict[str, float]`): see [`codebook_health`]. The collision rate is of the codes that the item
            tokenizer gave, before collisions were resolved; it is missing where these are not known.
        level_counts (`list[np.ndarray]`): of each level the items of each code.
        prefix_counts (`list[np.ndarray]`): of one code, two codes, ... the items of each prefix that has any.
        has_digits (`bool`): whether the last level is none of codes, but tells items apart that have the same ones.
    """

    measures: dict[str, float]
    level_counts: list[np.ndarray]
    prefix_counts: list[np.ndarray]
    has_digits: bool


class Explorer:
    """
    Answers about a recommender, its items and its semantic IDs.

    Args:
        recommender ([`Recommender`]): what recommends.
        items ([`Catalogue`], *optional*): items with pictures.

    Raises:
        ValueError: the recommender has no items.
    """

    def __init__(self, recommender: Recommender, items: Catalogue | None = None):
        if not len(recommender.tokenizer):
            raise ValueError("The recommender has no items: there is nothing to show.")
        self.recommender = recommender
        self._items = items
        self._picture_row: dict[str, int] = {}
        if items is not None and items.images is not None:
            if not any(item_id in self.index for item_id in items.item_ids):
                raise ValueError(
                    f"{items.name}: none of its items, such as {named(items.item_ids[:3])}, is among the "
                    f"recommender's, such as {named(self.index.item_ids[:3])}: are the ids written as they were?"
                )
            self._picture_row = {items.item_ids[row]: row for row in np.flatnonzero(items.images.present).tolist()}

    @classmethod
    def from_pretrained(cls, model: str | Path, revision: str | None = None, data: str | None = None) -> Explorer:
        """
        Loads a recommender.

        Args:
            model (`str` or `Path`): its folder or Hub id.
            revision (`str`, *optional*): branch, tag or commit on the Hub.
            data (`str`, *optional*): items with pictures: a data folder, a file of products, or a data set of the Hub.

        Raises:
            FileNotFoundError, ValueError: as [`Recommender.from_pretrained`] and [`read_items`].
        """
        recommender = Recommender.from_pretrained(model, revision)
        if data is None:
            return cls(recommender)
        place = Path(data)
        if not place.exists():
            place = model_folder(data, ALLOWED, repo_type="dataset")
        return cls(recommender, read_items(place)[0])

    @property
    def index(self) -> ItemIndex:
        """Items and semantic IDs, as they are now."""
        return self.recommender.tokenizer.index

    @cached_property
    def tree(self) -> SemanticIDTree:
        """The semantic IDs as a tree."""
        return SemanticIDTree(self.index)

    @cached_property
    def _texts(self) -> list[str]:
        """What a search looks into: id and title of each item, in lower case."""
        return [f"{i}\n{title}".lower() for i, title in zip(self.index.item_ids, self.index.titles, strict=True)]

    @property
    def has_pictures(self) -> bool:
        return bool(self._picture_row)

    @property
    def reads_images(self) -> bool:
        """Whether the item tokenizer makes codes of pictures, too; `False` as well where its network is not there."""
        try:
            return getattr(self.recommender.tokenizer.loaded_processor, "image_processor", None) is not None
        except (OSError, ValueError):
            return False

    def items(self, rows: Sequence[int] | np.ndarray) -> list[Item]:
        """Items by their rows in the index."""
        index = self.index
        return [Item(index.item_ids[row], index.titles[row], tuple(index.codes[row].tolist())) for row in rows]

    def item(self, item_id: str) -> Item:
        """An item by its id. Raises [`UnknownItemError`]."""
        return self.items(self.index.rows([item_id]))[0]

    def search(self, query: str, most: int = MOST_FOUND) -> list[Item]:
        """The item with this id, and then those whose id and title hold all words of the query, in the index's
        order."""
        query = query[:MOST_CHARACTERS].strip()
        words = query.lower().split()
        if not words:
            return []
        rows = self.index.find([query]).tolist()
        found = [row for row in rows if row >= 0]
        for row, text in enumerate(self._texts):
            if len(found) == most:
                break
            if row not in rows and all(word in text for word in words):
                found.append(row)
        return self.items(found)

    def read_ids(self, text: str) -> list[str]:
        """
        Item ids that people paste: one in a line, or several with commas, semicolons or tabs between.

        Raises:
            UnknownItemError: an id that no item has; items that may have been meant are named.
            ValueError: more than can be read.
        """
        if len(text) > MOST_CHARACTERS:
            raise ValueError(f"The text has {len(text):,} characters, at most {MOST_CHARACTERS:,} are read.")
        found = []
        for line in filter(None, map(str.strip, text.splitlines())):
            parts = [line] if line in self.index else [part.strip() for part in SEPARATORS.split(line)]
            found += [part for part in parts if part]
        if len(found) > MOST_ITEMS:
            raise ValueError(f"{len(found):,} items are too many: at most {MOST_ITEMS:,} are read.")
        unknown = [each for each in dict.fromkeys(found) if each not in self.index]
        if unknown:
            alike = [item.item_id for item in self.search(unknown[0], 3)]
            raise UnknownItemError(
                f"None of the {len(self.index):,} items has the id {named([each[:80] for each in unknown])}."
                + (f" Was one of these meant: {named(alike)}?" if alike else " Ids are written as in the catalogue.")
            )
        return found

    def recommend(
        self, history: str, num_items: int = 10, exclude_seen: bool | None = None, allow: str = "", deny: str = ""
    ) -> list[Recommended]:
        """
        Recommends items.

        Args:
            history (`str`): ids of a user's items, the oldest first, as `read_ids` reads them; "" for a new customer,
                who gets what is popular.
            num_items (`int`, *optional*, defaults to 10): how many, 1 to 50.
            exclude_seen (`bool`, *optional*): whether items of the history stay out; by default the recommender's
                rule.
            allow, deny (`str`, *optional*): ids of the items to choose from, all for "", and of those to leave out.

        Raises:
            UnknownItemError, ValueError: as `read_ids`; nothing is left to recommend; a new customer, and no memory
                that knows what is popular.
        """
        if not 1 <= num_items <= MOST_RECOMMENDED:
            raise ValueError(f"1 to {MOST_RECOMMENDED} items can be recommended, got {num_items}.")
        ids, memory = self.read_ids(history), self.recommender.memory
        allowed, denied = self.read_ids(allow) or None, self.read_ids(deny)
        if not ids and memory is None:
            raise ValueError(
                "The history is empty, and without a memory it is not known what is popular: give at least one item."
            )
        arguments: dict[str, Any] = {"return_sources": True} if ids and memory is not None else {}
        found: Any = self.recommender.recommend(
            ids, num_items, exclude_seen=exclude_seen, allow=allowed, deny=denied, **arguments
        )
        if not found:
            raise ValueError("The rules leave no item to recommend: allow more, or deny fewer.")
        return [self._recommended(entry, bool(ids)) for entry in found]

    def _recommended(self, entry: Mapping[str, Any], has_history: bool) -> Recommended:
        item, sources = self.item(entry["item_id"]), entry.get("sources")
        if sources is None:
            return Recommended(item, math.exp(entry["score"]) if has_history else None)
        shares, reasons = {"network": sources["network"]}, {}
        for name, source in (("memory", "transitions"), ("text", "content")):
            shares[name] = sum(sources[source].values())
            if sources[source]:
                reasons[name] = self.item(max(sources[source], key=sources[source].__getitem__))
        return Recommended(item, math.exp(entry["score"]), shares | {"unknown": sources["unknown"]}, reasons)

    def example_history(self, seed: int, length: int = 3) -> list[str]:
        """A history to begin with: an item drawn by how often it was bought, and what is recommended after it."""
        memory, rng = self.recommender.memory, np.random.default_rng(seed)
        counts = np.ones(len(self.index)) if memory is None else memory.counts.cpu().numpy() + 1.0
        ids = [self.index.item_ids[int(rng.choice(len(counts), p=counts / counts.sum()))]]
        while len(ids) < min(length, len(self.index)):
            found: Any = self.recommender.recommend(ids, 1, exclude_seen=True)
            if not found:
                break
            ids.append(found[0]["item_id"])
        return ids

    def new_product(self, fields: Mapping[str, str], image: Image | None = None) -> NewProduct:
        """
        What the item tokenizer makes of a product.

        Args:
            fields (`Mapping[str, str]`): text by the tokenizer's `text_fields`.
            image (`PIL.Image.Image`, *optional*): its picture.

        Raises:
            ValueError: neither text nor picture; text too long; no network beside the index, or one that reads no
                texts.
        """
        fields = {name: text.strip() for name, text in fields.items() if text and text.strip()}
        if not fields and image is None:
            raise ValueError("The product has no text: give it a title.")
        if sum(map(len, fields.values())) > MOST_CHARACTERS:
            raise ValueError(f"The product's texts are too long: at most {MOST_CHARACTERS:,} characters are read.")
        tokenizer = self.recommender.tokenizer
        template = tokenizer.template
        record: dict[str, Any] = {"item_id": NEW_ITEM, **dict.fromkeys(tokenizer.text_fields, ""), **fields}
        record |= {} if image is None else {"image": image}
        catalogue = Catalogue.from_records([record], tokenizer.text_fields, name=NEW_ITEM, template=template)
        catalogue.check(images=image is not None)
        codes = tuple(tokenizer.compute_codes(catalogue, progress=False)[0][0].tolist())
        return NewProduct(codes, self.tree.path(codes), self._same_codes(codes), self._same_texts(catalogue))

    def _same_codes(self, codes: tuple[int, ...]) -> list[Item]:
        rows: dict[int, None] = {}
        for length in range(len(self.tree.longest_prefix(codes)), 0, -1):
            rows |= dict.fromkeys(self.tree.rows(codes[:length])[: 2 * MOST_ALIKE].tolist())
            if len(rows) >= MOST_ALIKE:
                break
        return self.items([*rows][:MOST_ALIKE])

    def _same_texts(self, catalogue: Catalogue) -> list[tuple[Item, float]]:
        memory, embed = self.recommender.memory, content_of(self.recommender.tokenizer)
        content = None if memory is None else memory.content
        vectors = None if embed is None else torch.from_numpy(embed(catalogue))
        if content is None or vectors is None or vectors.shape[1] != len(content.mean):
            return []
        rows, cosines = most_alike(content, vectors, MOST_ALIKE)
        if rows[0, 0] < 0:  # not a word that the texts of the items have
            return []
        return list(zip(self.items(rows[0].tolist()), cosines[0].tolist(), strict=True))

    def health(self) -> CodeHealth:
        """How the items use the codes."""
        index = self.index
        codes = torch.from_numpy(index.codes.astype(np.int64))
        measures = codebook_health(codes, index.level_sizes)
        given = None if index.provenance is None else index.provenance.given_codes
        del measures["collision_rate"]  # of semantic IDs it is 0
        if given is not None and len(given) and (given >= 0).all():
            sizes = index.level_sizes[: given.shape[1]]
            measures["collision_rate"] = codebook_health(torch.from_numpy(given), sizes)["collision_rate"]
        levels = [np.bincount(column, minlength=size) for column, size in zip(codes.T, index.level_sizes, strict=True)]
        prefixes = [
            np.unique(index.codes[:, :length], axis=0, return_counts=True)[1]
            for length in range(1, index.num_levels + 1)
        ]
        has_digits = given is not None and given.shape[1] < index.num_levels
        return CodeHealth(measures, levels, prefixes, has_digits)

    def picture(self, item_id: str) -> bytes | None:
        """A small picture of an item as JPEG; `None` for one without, or whose picture cannot be read."""
        row = self._picture_row.get(item_id)
        if row is None or self._items is None or self._items.images is None:
            return None
        try:
            image = self._items.images[row]
        except ImageError:
            return None
        assert image is not None
        image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
        with io.BytesIO() as file:
            image.save(file, "JPEG", quality=80)
            return file.getvalue()


__all__ = ["CodeHealth", "Explorer", "Item", "NewProduct", "Recommended"]
