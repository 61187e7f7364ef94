"""Daily updates of a tokenizer's or recommender's folder: index, memory, rules and journal together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hub_cards import RecommenderCardValues, load_values, save_card
from tokenization_items.catalogue import Catalogue
from tokenization_items.catalogue_updates import CatalogueUpdate
from tokenization_items.files import read_json_object, updating_folder, write_json
from tokenization_items.item_index import ItemIndex
from tokenization_items.item_memory import MEMORY_NAME, StoredMemory
from tokenization_items.network_reference import NetworkReference
from tokenization_items.processing_content import EmbeddingProcessor
from tokenization_items.tokenization_items import TOKENIZER_FILE, UniversalItemTokenizer
from trainers.data.column_guesses import ProductColumns
from trainers.data.interactions import Interactions
from trainers.data.item_brands import item_brands
from trainers.data.shop import read_shop
from trainers.evaluation.new_items import recall_of_new_items
from trainers.methods.memory import follow_index
from trainers.methods.quickstart import shown_titles
from trainers.methods.recommendation_rules import RECOMMENDER_FILE, read_recommender
from trainers.rankers.generative import GenerativeRanker


def known_columns(journal: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> ProductColumns | None:
    """What the columns of a shop's products meant the last time: by the journal, or when the recommender was made.

    Args:
        journal (`Sequence[Mapping]`): updates, see [`read_journal`].
        facts (`Mapping`): of the [`Recommender`].
    """
    told = [line["columns"] for line in journal if line.get("columns")] or [facts.get("columns")]
    if not told[-1] or not told[-1].get("id"):
        return None
    values = {name: told[-1].get(name) for name in ("id", "title", "price", "image")}
    return ProductColumns(**values, text=tuple(told[-1].get("text") or ()))


def content_of(tokenizer: UniversalItemTokenizer) -> Callable[[Catalogue], np.ndarray] | None:
    """What makes content vectors of items for index and memory, if the tokenizer's network brings it: the encoder of
    texts that the semantic IDs were made by, as in a quick start."""
    processor = tokenizer.processor
    if type(processor) is EmbeddingProcessor and processor.reads_texts:
        return processor.embeddings_of
    return None


def with_titles(catalogue: Catalogue, index: ItemIndex) -> Catalogue:
    """A catalogue in which all items have a title for display, if those of an index have."""
    return replace(catalogue, titles=shown_titles(catalogue)) if any(index.titles) else catalogue


def updated_memory(
    stored: StoredMemory,
    item_ids: Sequence[str],
    tokenizer: UniversalItemTokenizer,
    update: CatalogueUpdate,
    catalogue: Catalogue,
) -> StoredMemory:
    """
    The memory of an index after an update of its items: what is new in it, and what was tokenized again as it is now.

    Args:
        stored ([`StoredMemory`]): as it was before.
        item_ids (`Sequence[str]`): the items as they were before.
        tokenizer ([`UniversalItemTokenizer`]): the items as they are.
        update ([`CatalogueUpdate`]): what was done.
        catalogue ([`Catalogue`]): the items that were given.
    """
    embed, kept, vectors = content_of(tokenizer), stored.memory.content, None
    row_of = {item_id: row for row, item_id in enumerate(catalogue.item_ids)}
    # what was added is in the order in which the index has it
    rows = [row_of[item_id] for item_id in (*update.added, *update.retokenized)]
    if embed is not None and kept is not None and rows:
        vectors = embed(catalogue.select(rows))
        vectors = vectors if vectors.shape[1] == len(kept.mean) else None
    brands = item_brands(catalogue)
    theirs = None if brands is None else brands[rows]
    return follow_index(stored, item_ids, tokenizer.index, vectors, theirs, update.retokenized)


def read_orders(orders: Any, columns: Sequence[str], item_ids: Sequence[str]) -> Interactions:
    """
    What was bought, of items of an index.

    Args:
        orders: a data folder with interactions, or what [`read_shop`] takes as orders.
        columns (`Sequence[str]`): what columns mean, see [`read_shop`].
        item_ids (`Sequence[str]`): the items; interactions with others are left out.

    Raises:
        ReadError, InteractionError: it cannot be read.
    """
    if isinstance(orders, str | Path) and Path(orders).is_dir():
        return Interactions.from_folder(orders, item_ids)
    return read_shop(orders, columns=columns).domain.interactions.for_items(item_ids)


def newest_items(update: CatalogueUpdate, journal: Sequence[Mapping[str, Any]]) -> list[str]:
    """The items that an update has added, or else those of the latest update that has added any."""
    earlier = [line.get("item_ids", {}).get("added", []) for line in journal]
    return update.added or next((ids for ids in reversed(earlier) if ids), [])


def recall_of_folder(folder: Path, interactions: Interactions, items: Sequence[str]) -> dict[str, Any]:
    """Recall of a recommender's newest items, see [`recall_of_new_items`]."""
    return recall_of_new_items(GenerativeRanker.from_pretrained(folder, interactions.item_ids), interactions, items)


@contextmanager
def updated_folder(
    folder: Path, tokenizer: UniversalItemTokenizer, index_sha256: str, memory: StoredMemory | None
) -> Iterator[Path]:
    """
    A folder with the items of a tokenizer, and their memory, in place of those that it has; what the block changes in
    it, too, is there with its end, in one step. After an error or a kill the folder is as it was.

    Args:
        folder (`Path`): a tokenizer's or a recommender's; networks stay as they are.
        tokenizer ([`UniversalItemTokenizer`]): the items, with their memory if there is one.
        index_sha256 (`str`): checksum of the index that the folder had when it was read.
        memory ([`StoredMemory`], *optional*): the memory that it had then; None for none.

    Yields:
        `Path`: the copy that is changed.

    Raises:
        ValueError: the folder has other items, or another memory, than when it was read, which would be lost.
    """
    folder = folder.absolute()
    with updating_folder(folder) as working:
        found = read_json_object(working / TOKENIZER_FILE).get("index_sha256")
        if found not in (None, index_sha256):  # an early release wrote none
            raise ValueError(
                f"{folder} was changed by another program meanwhile: its index has sha256 {found}, it had "
                f"{index_sha256}. Nothing was written; run this again."
            )
        if not has_memory(working, memory):
            raise ValueError(
                f"{folder} was changed by another program meanwhile, as by `utgrec memory --update`: its item memory "
                "is another than the one that was read. Nothing was written; run this again."
            )
        place = tokenizer.network_reference
        tokenizer.network_reference = reference_within(place, folder, working)
        try:
            tokenizer.save_pretrained(working, include_network=False)
        finally:
            tokenizer.network_reference = place
        values = load_values(working)
        if isinstance(values, RecommenderCardValues):
            save_card(working, replace(values, num_items=len(tokenizer)))
        keep_facts(working, tokenizer)
        yield working


def has_memory(folder: Path, stored: StoredMemory | None) -> bool:
    """Whether a folder's memory is this one, of whichever index; None for none."""
    if stored is None or not (folder / MEMORY_NAME).is_file():
        return stored is None and not (folder / MEMORY_NAME).is_file()
    found, own = StoredMemory.load(folder), stored.memory
    tensors, theirs = own.tensors() | (stored.pairs or {}), found.memory.tensors() | (found.pairs or {})
    same = own.settings == found.memory.settings and tensors.keys() == theirs.keys()
    return same and all(torch.equal(tensor.cpu(), theirs[name]) for name, tensor in tensors.items())


def reference_within(place: NetworkReference | None, folder: Path, working: Path) -> NetworkReference | None:
    """The place of a network as a copy of its folder has it: in the copy, too, if it is within; none if it is the
    folder itself."""
    if place is None or not Path(place.name_or_path).is_dir():
        return place
    path = Path(place.name_or_path).absolute()
    if not path.is_relative_to(folder):
        return place
    return (
        None
        if path == folder and not place.subfolder
        else replace(place, name_or_path=str(working / path.relative_to(folder)))
    )


def keep_facts(folder: Path, tokenizer: UniversalItemTokenizer) -> None:
    """Takes items that are gone out of a [`Recommender`]'s rules, and says how many there are."""
    file = folder / RECOMMENDER_FILE
    if file.is_file():
        values, (rules, facts) = read_json_object(file), read_recommender(folder)
        for name in ("deny", "allow"):
            if rules.get(name) is not None:
                rules[name] = [item_id for item_id in rules[name] if item_id in tokenizer]
        if facts:
            facts["items"] = len(tokenizer)
        write_json(file, values | {"rules": rules, "facts": facts})


__all__ = [
    "content_of",
    "keep_facts",
    "known_columns",
    "newest_items",
    "read_orders",
    "recall_of_folder",
    "reference_within",
    "updated_folder",
    "updated_memory",
    "with_titles",
]
