"""Item memories: built from a training part, and brought up to date.

The transitions are those of the linear ranker, of each row those of the largest magnitude: below 0 too, as an item's
own mostly is, since what was bought is seldom bought again. The content is the nearest items by its cosine, and
vectors for the cosines of all. Periods are of memories in closed form alone: counts are updated exactly, and periods
are of the whole. How a memory is read is chosen in [`trainers.methods.memory_selection`].
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from scipy import sparse

from modeling_utgrec.item_memory import ItemMemory
from modeling_utgrec.memory_content import MemoryContent, principal_directions
from modeling_utgrec.memory_settings import MemorySettings
from tokenization_items.item_index import ItemIndex
from tokenization_items.item_memory import StoredMemory
from trainers.data.co_occurrence import whole_counts
from trainers.data.interactions import Interactions
from trainers.data.neighbour_counts import NeighbourCounts, joined
from trainers.data.prepared_pairs import PreparedPairs
from trainers.methods.log_counts import LogCounts, recent_counts
from trainers.methods.pair_counts import PairCounts
from trainers.methods.periods import item_periods
from trainers.methods.similar_items import find_similar_items
from trainers.rankers.linear import (
    LinearSettings,
    catalogue_content,
    normalised_rows,
    transition_matrix,
)
from trainers.rankers.row_order import largest_of_rows, order_in_rows

logger = logging.getLogger(__name__)

ROW_ITEMS = 100  # transitions of an item that are kept
SIMILAR_ITEMS = 100  # items alike in content, itself among them
MOST_PAIRS = 100_000_000  # of neighbours that are kept to be added to, 24 bytes each in the file


def build_memory(
    training: Interactions | LogCounts,
    content: np.ndarray | None = None,
    linear: LinearSettings | None = None,
    settings: MemorySettings | None = None,
    row_items: int = ROW_ITEMS,
    similar_items: int = SIMILAR_ITEMS,
    transitions: np.ndarray | sparse.csr_array | None = None,
    alike: MemoryContent | None = None,
    folder: str | os.PathLike | None = None,
    brands: np.ndarray | None = None,
) -> StoredMemory:
    """
    Builds a memory, in the order of the interactions' catalogue.

    Args:
        training ([`Interactions`] or [`~trainers.methods.log_counts.LogCounts`]): what is remembered; counts alone
            where the pairs lie in the folder and transitions are by counts.
        content (`np.ndarray`, *optional*): float `[n, e]` content embeddings in catalogue order.
        linear ([`LinearSettings`], *optional*): how transitions are made; its weights of the content are taken unless
            `settings` are given, and none where there is no content.
        settings ([`MemorySettings`], *optional*): how the memory is read.
        row_items (`int`, *optional*, defaults to 100): transitions of an item that are kept, of the largest magnitude.
        similar_items (`int`, *optional*, defaults to 100): items alike in content that are kept of each.
        transitions (`np.ndarray` or `scipy.sparse.csr_array`, *optional*): B in closed form, if it was made already.
        alike ([`MemoryContent`], *optional*): what [`content_rows`] made of the content, if it did already.
        folder (`str` or `os.PathLike`, *optional*): where the interactions come from. Counts of their pairs that lie
            there are taken, see [`PreparedPairs.find`]; the memory is the same to the last bit.
        brands (`np.ndarray`, *optional*): int64 `[n]` numbers of the items' brands, see
            [`~trainers.data.item_brands.item_brands`].

    Raises:
        ValueError: an empty training part; content of another number of items, or not finite; a weight of the content
            without any; counts in the folder that are no such.
    """
    log = training if isinstance(training, LogCounts) else LogCounts.of(training)
    if not log.num_interactions:
        raise ValueError("The training part has no interactions: there is nothing to count.")
    if min(row_items, similar_items) < 1:
        raise ValueError(f"row_items and similar_items must be at least 1, got {row_items} and {similar_items}.")
    linear = LinearSettings() if linear is None else linear
    if settings is None:
        settings = MemorySettings(max_history=linear.max_history, repeat_weight=linear.repeat_weight)
        if content is not None:
            settings = replace(settings, content_weight=linear.content_weight, evidence=linear.evidence)
    if settings.content_weight and content is None:
        raise ValueError(
            f"The content's weight is {settings.content_weight}, but there is no content: give embeddings of the "
            "items' texts, or content_weight 0."
        )
    num_items, way, pairs = log.num_items, linear.way(log.num_items), None
    rows: Iterable[np.ndarray | sparse.csr_array]
    keeps_pairs = linear.horizon * log.num_interactions <= MOST_PAIRS
    neighbours: NeighbourCounts | PreparedPairs | None = None
    if way == "counts":
        neighbours = PreparedPairs.find(folder, log.popularity, linear.horizon)
    if isinstance(training, LogCounts) and neighbours is None:
        raise ValueError(
            f"Of the log there are only counts of its items, and {folder} has none of pairs within {linear.horizon} "
            f"of the same interactions: run `utgrec prepare --pair_horizon {linear.horizon}`, and take transitions by "
            "counts."
        )
    if way == "counts" and neighbours is None:
        assert isinstance(training, Interactions)
        neighbours = whole_counts(training.owners, training.items, num_items, linear.horizon)
        kept = replace(linear, row_items=None if keeps_pairs else row_items)
        announcement = kept.announcement(num_items, log.num_interactions)
        if announcement is not None:
            logger.warning(announcement)
    if neighbours is not None and not keeps_pairs:
        logger.warning(
            "item memory: there may be %s million pairs of neighbours, more than the %s million that are kept to be "
            "added to: an update counts all interactions anew",
            f"{linear.horizon * log.num_interactions / 1e6:,.0f}",
            f"{MOST_PAIRS / 1e6:,.0f}",
        )
        rows = normalised_rows(neighbours)
    elif neighbours is not None:
        pairs = PairCounts(joined(neighbours.blocks()))
        rows = [pairs.transitions()]
    elif transitions is None:
        assert isinstance(training, Interactions)
        rows = [transition_matrix(training, replace(linear, row_items=None))]
    else:
        rows = [transitions]
    if content is None or not settings.content_weight:
        alike = None
    elif alike is None:
        alike = content_rows(content, num_items, similar_items)
    counts = torch.from_numpy(log.popularity.astype(np.int32))
    recent = torch.from_numpy(log.recent.astype(np.int32))
    periods = item_periods(training) if way == "inverse" and isinstance(training, Interactions) else None
    makers = None if brands is None else torch.from_numpy(np.asarray(brands))
    memory = ItemMemory(*_largest(rows, num_items, row_items), counts, settings, alike, recent, periods, makers)
    facts: dict[str, Any] = {"transitions": way, "horizon": linear.horizon, "row_items": row_items}
    facts["similar_items"] = similar_items
    if way == "inverse":
        facts["regularization"] = linear.regularization
    facts |= {"interactions": log.num_interactions, "users": log.num_users}
    return StoredMemory(memory, facts, None if pairs is None else pairs.tensors())


def rebuild_memory(
    before: StoredMemory,
    interactions: Interactions | LogCounts,
    content: np.ndarray | None,
    part: Literal["training", "all"],
    alike: MemoryContent | None = None,
    folder: str | os.PathLike | None = None,
    brands: np.ndarray | None = None,
) -> StoredMemory:
    """
    A memory of other interactions, built and read as one before; what its facts say beside stays.

    Args:
        before ([`StoredMemory`]): whose settings are kept.
        interactions ([`Interactions`] or [`~trainers.methods.log_counts.LogCounts`]): what is remembered.
        content (`np.ndarray`, *optional*): float `[n, e]` content embeddings in catalogue order.
        part (`str`): what of the data the interactions are, `"training"` or `"all"`.
        alike ([`MemoryContent`], *optional*): see [`build_memory`].
        folder (`str` or `os.PathLike`, *optional*): see [`build_memory`].
        brands (`np.ndarray`, *optional*): see [`build_memory`]; by default those of the memory before, which is in
            the same order then.

    Raises:
        ValueError: as [`build_memory`].
    """
    if brands is None and before.memory.brands is not None:
        brands = before.memory.brands.cpu().numpy()
    facts, settings = before.facts, before.memory.settings
    linear = LinearSettings(
        transitions=facts["transitions"],
        regularization=facts.get("regularization", 10.0),
        horizon=facts["horizon"],
        max_history=settings.max_history,
    )
    kept = facts["row_items"], facts["similar_items"]
    given = {"alike": alike, "folder": folder, "brands": brands}
    stored = build_memory(interactions, content, linear, settings, *kept, **given)  # type: ignore[arg-type]
    stored.facts = facts | stored.facts | {"part": part}
    return stored


def content_memory(content: np.ndarray, settings: MemorySettings, similar_items: int = SIMILAR_ITEMS) -> ItemMemory:
    """
    A memory of no interactions, which knows what the items of a catalogue are like.

    Args:
        content (`np.ndarray`): float `[n, e]` content embeddings in catalogue order.
        settings ([`MemorySettings`]): how the memory is read; with a weight of the content.
        similar_items (`int`, *optional*, defaults to 100): items alike in content that are kept of each.

    Raises:
        ValueError: content that is not finite.
    """
    nothing = torch.full((len(content), 1), -1, dtype=torch.int32)
    counts = torch.zeros(len(content), dtype=torch.int32)
    alike = content_rows(content, len(content), similar_items)
    return ItemMemory(nothing, torch.zeros(nothing.shape), counts, settings, alike)


def content_rows(content: np.ndarray, num_items: int, kept: int = SIMILAR_ITEMS) -> MemoryContent:
    """
    What an [`ItemMemory`] keeps of the content.

    Args:
        content (`np.ndarray`): float `[n, e]` content embeddings in catalogue order.
        num_items (`int`): n.
        kept (`int`, *optional*, defaults to 100): items alike in content that are kept of each.

    Raises:
        ValueError: content of another number of items, or not finite.
    """
    unit, mean = catalogue_content(content, num_items)
    projection = principal_directions(unit)
    return MemoryContent(find_similar_items(unit, kept), unit @ projection, mean, projection)


def _largest(
    blocks: Iterable[np.ndarray | sparse.csr_array], num_items: int, row_items: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The entries of each row of the largest magnitude as items and weights side by side, those of largest weight
    first; `blocks` are the rows, some after the other."""
    items = np.full((num_items, row_items), -1, np.int32)
    weights = np.zeros((num_items, row_items), np.float32)
    start, width = 0, 1
    for block in blocks:
        kept = largest_of_rows(block, row_items)
        lengths = np.diff(kept.indptr)
        owners = np.repeat(np.arange(len(lengths)), lengths)
        order = order_in_rows(owners, kept.data)
        columns = np.arange(len(owners)) - kept.indptr[:-1].astype(np.int64)[owners]
        items[start + owners, columns], weights[start + owners, columns] = kept.indices[order], kept.data[order]
        start, width = start + len(lengths), max(width, int(lengths.max(initial=0)))
    return torch.from_numpy(items[:, :width]).contiguous(), torch.from_numpy(weights[:, :width]).contiguous()


def add_interactions(
    stored: StoredMemory, interactions: Interactions, known: np.ndarray | None = None
) -> StoredMemory:
    """
    A memory of counts with further interactions, to the last bit what [`build_memory`] makes of all of them. A memory
    in closed form is built anew from all interactions instead: its inverse is of the whole. So is one of more pairs
    than are kept.

    Args:
        stored ([`StoredMemory`]): the memory, of the same items in the same order.
        interactions ([`Interactions`]): sequences that hold the new interactions.
        known (`np.ndarray`, *optional*): int `[U]`, how many of each user's interactions, from the first, the memory
            counts already; by default none. The items before a new one are needed: they are its neighbours.

    Raises:
        ValueError: a memory of other items, one without its pairs, or counts of known interactions that do not fit.
    """
    if stored.pairs is None:
        why = "are in closed form, which further interactions change as a whole"
        if stored.facts["transitions"] == "counts":
            why = "are counts of more pairs than are kept to be added to"
        raise ValueError(
            f"The memory's transitions {why}: build it anew from all interactions, with the settings of this one."
        )
    memory = stored.memory
    if memory.num_items != interactions.num_items:
        raise ValueError(f"The memory is of {memory.num_items} items, the interactions of {interactions.num_items}.")
    known = np.zeros(interactions.num_users, np.int64) if known is None else np.asarray(known)
    if known.shape != (interactions.num_users,) or (known < 0).any() or (known > interactions.lengths).any():
        raise ValueError("known must be a number for each user, from 0 to its number of interactions.")
    pairs = PairCounts.of_tensors(stored.pairs) + PairCounts.of(interactions, stored.facts["horizon"], known)
    places = np.arange(len(interactions.items)) - interactions.offsets[:-1][interactions.owners]
    is_new = places >= known[interactions.owners]
    counts = memory.counts + torch.from_numpy(
        np.bincount(interactions.items[is_new], minlength=memory.num_items).astype(np.int32)
    )
    recent = memory.recent
    if recent is not None:
        change = recent_counts(interactions, interactions.lengths) - recent_counts(interactions, known)
        recent = recent + torch.from_numpy(change.astype(np.int32))
    rows = _largest([pairs.transitions()], memory.num_items, stored.facts["row_items"])
    grown = ItemMemory(*rows, counts, memory.settings, memory.content, recent, brands=memory.brands)
    facts = dict(stored.facts)
    facts["interactions"] += int(is_new.sum())
    facts["users"] += int(((known == 0) & (interactions.lengths > 0)).sum())
    return StoredMemory(grown, facts, pairs.tensors())


def for_index(stored: StoredMemory, item_ids: Sequence[str], index: ItemIndex) -> StoredMemory:
    """
    The memory of a catalogue in the order of an item index, as it is saved; an item that the catalogue lacks has empty
    rows.

    Raises:
        UnknownItemError: if the index lacks items of the catalogue.
    """
    rows = np.full(len(index), -1, np.int64)
    rows[index.rows(item_ids)] = np.arange(len(item_ids))
    if np.array_equal(rows, np.arange(len(item_ids))):
        return stored
    pairs = None
    if stored.pairs is not None:
        pairs = PairCounts.of_tensors(stored.pairs).moved(index.rows(item_ids), len(index)).tensors()
    return StoredMemory(stored.memory.select(torch.from_numpy(rows)), stored.facts, pairs)


def follow_index(
    stored: StoredMemory,
    item_ids: Sequence[str],
    index: ItemIndex,
    content: np.ndarray | None = None,
    brands: np.ndarray | None = None,
    renewed: Sequence[str] = (),
) -> StoredMemory:
    """
    The memory of an index to which items were added, or from which some were removed, since. Of items that stay it
    knows what it knew, and of new ones what they are like and who makes them, as far as that is given: nothing has
    followed them yet.

    Args:
        stored ([`StoredMemory`]): the memory of the index as it was.
        item_ids (`Sequence[str]`): the items of the index as it was.
        index ([`ItemIndex`]): the index as it is; items that were added are the last.
        content (`np.ndarray`, *optional*): float `[added + renewed, e]` content embeddings of the added items, then of
            the renewed, of the encoder of the others.
        brands (`np.ndarray`, *optional*): int64 `[added + renewed]` numbers of these items' brands, see
            [`~trainers.data.item_brands.item_brands`]; by default the added have none.
        renewed (`Sequence[str]`, *optional*): items that were there before and whose content and brand are others now.

    Raises:
        ValueError: content of another width, or not finite.
    """
    row_of = dict(zip(item_ids, range(len(item_ids)), strict=True))
    rows = np.array([row_of.get(item_id, -1) for item_id in index.item_ids], np.int64)
    is_added, memory = rows < 0, stored.memory
    num_added = int(is_added.sum())
    vectors = None if memory.content is None or content is None else torch.from_numpy(np.asarray(content, np.float32))
    makers = None if brands is None else torch.from_numpy(brands)
    new, other = (
        [None if each is None else each[part] for each in (vectors, makers)]
        for part in (slice(num_added), slice(num_added, None))
    )
    if num_added and (memory.content is None or vectors is not None):
        memory = memory.select(torch.from_numpy(rows[~is_added])).extend(num_added, *new)
    else:
        memory = memory.select(torch.from_numpy(rows))
    if renewed:
        memory = memory.renew(torch.from_numpy(index.rows(renewed)), *other)
    pairs = stored.pairs
    if pairs is not None:
        kept = rows[~is_added]
        part = PairCounts(PairCounts.of_tensors(pairs).matrix[kept][:, kept])
        pairs = part.moved(np.flatnonzero(~is_added), len(index)).tensors()
    return StoredMemory(memory, stored.facts, pairs)
