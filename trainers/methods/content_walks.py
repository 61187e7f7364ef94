"""Sequences of similar items, for a catalogue without interactions: RecBase's training data in their place.

A decoder that was pre-trained on other domains has not met most first codes of a new one. Walks from item to item
between nearest neighbours by content tell it which codes go together there, and nothing of what users do.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tokenization_items.catalogue import Catalogue
from tokenization_items.item_embeddings import load_embeddings
from tokenization_items.tokenization_items import UniversalItemTokenizer
from trainers.data.domains import Domain
from trainers.data.interactions import Interactions
from trainers.rankers.nearest_items import NearestItems

WALKS = "content walks"  # the split of their interactions: all are for training


def content_walks(
    embeddings: np.ndarray, walks_per_item: int = 3, length: int = 8, neighbours: int = 20, seed: int = 0
) -> np.ndarray:
    """
    Walks from every item. Each next item is drawn from the `neighbours` nearest, by cosine, of an item that is drawn
    from the walk so far, without those that the walk has.

    Args:
        embeddings (`np.ndarray`): float `[items, E]`.
        walks_per_item (`int`, *optional*, defaults to 3): walks from each item.
        length (`int`, *optional*, defaults to 8): items of a walk; fewer in a catalogue that has fewer.
        neighbours (`int`, *optional*, defaults to 20): of how many nearest items the next one is drawn; all others in
            a catalogue that has fewer.
        seed (`int`, *optional*, defaults to 0): of the draws.

    Returns:
        Item rows, int32 `[walks_per_item * items, length]`.

    Raises:
        ValueError: there is one item, a number is below 1, or there are fewer neighbours than the walk's other items.
    """
    num_items = len(embeddings)
    if num_items < 2:
        raise ValueError(f"A walk needs two items, there are {num_items}.")
    if min(walks_per_item, length, neighbours) < 1 or neighbours < length - 1:
        raise ValueError(
            f"Walks need walks_per_item and length of at least 1 and neighbours of at least length - 1, got "
            f"{walks_per_item}, {length}, {neighbours}."
        )
    rows = np.arange(num_items)
    neighbours = min(neighbours, num_items - 1)
    nearest = NearestItems(embeddings).rank(list(rows[:, None]), neighbours, exclude=list(rows[:, None]))
    rng = np.random.default_rng(seed)
    return np.concatenate([_walks(nearest, min(length, num_items), rng) for _ in range(walks_per_item)])


def _walks(nearest: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """One walk from every item."""
    rows = np.arange(len(nearest))
    walks = np.empty((len(nearest), length), np.int32)
    walks[:, 0] = rows
    for step in range(1, length):
        candidates = nearest[walks[rows, rng.integers(step, size=len(rows))]]
        draws = rng.random(candidates.shape, dtype=np.float32)
        for before in range(step):
            draws[candidates == walks[:, before, None]] = -1
        walks[:, step] = candidates[rows, draws.argmax(axis=1)]
    return walks


def walking_domain(
    catalogue: Catalogue, tokenizer: UniversalItemTokenizer, embeddings: str | Path, seed: int = 0, **walks: int
) -> Domain:
    """A domain of a catalogue, with walks for interactions, all of them for training.

    Args:
        catalogue ([`Catalogue`]): the items.
        tokenizer ([`UniversalItemTokenizer`]): RecBase's, with the catalogue's semantic IDs; embeddings are compared
            as its network reads them.
        embeddings (`str` or `Path`): folder with the items' content embeddings.
        seed (`int`, *optional*, defaults to 0): of the walks.
        walks: further arguments of [`content_walks`].

    Raises:
        EmbeddingError: the folder lacks embeddings of items.
        ValueError: as [`content_walks`].
    """
    content = load_embeddings(embeddings, catalogue.item_ids)
    rows = content_walks(tokenizer.centre(content, catalogue.name), seed=seed, **walks)
    interactions = Interactions(
        item_ids=list(catalogue.item_ids),
        user_ids=[f"walk-{number}" for number in range(len(rows))],
        items=rows.reshape(-1),
        offsets=np.arange(len(rows) + 1, dtype=np.int64) * rows.shape[1],
        parts=np.zeros(rows.size, np.int8),
        split=WALKS,
    )
    return Domain(catalogue.name, catalogue, interactions)
