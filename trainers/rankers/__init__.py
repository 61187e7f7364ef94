"""Rankers, which rank the items of a catalogue for a user, by name, folder or Hub id.

Importing this package, and asking for a ranker that only counts, takes no model code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from trainers.data.interactions import Interactions

if TYPE_CHECKING:
    from trainers.rankers.linear import LinearSettings

__all__ = ["RANKERS", "Ranker", "is_generative", "load_ranker"]


class Ranker(Protocol):
    """What [`~trainers.evaluation.protocol.evaluate`] needs; [`~trainers.rankers.scoring.ScoringRanker`] makes one of
    a model that gives scores.

    Optional attributes: `name`, `max_history` (items it looks at, None: no limit), `ties` and `num_beams`; what is
    there is stated in the result.
    """

    def rank(self, histories: list[np.ndarray], k: int, exclude: list[np.ndarray] | None = None) -> np.ndarray:
        """B histories of item rows (oldest first) → int [B, k] distinct item rows, best first, padded with -1.

        No item of `exclude` (B arrays of item rows, or None) may be ranked.
        """
        ...


def load_ranker(
    name: str | Path,
    interactions: Interactions,
    *,
    embeddings: str | Path | None = None,
    texts: Sequence[str] | None = None,
    linear: LinearSettings | None = None,
    query: Literal["last", "mean", "last+mean", "history"] = "last",
    items: str | Path | None = None,
    num_beams: int = 50,
    batch_size: int = 64,
    memory: bool = True,
    revision: str | None = None,
) -> Ranker:
    """
    Makes a ranker of a catalogue.

    Args:
        name (`str` or `Path`): one of [`RANKERS`], or the folder or Hub id of a trained recommender, generative or
            sequential.
        interactions (`Interactions`): all interactions. Their `item_ids` are the catalogue; what counts sees their
            training part alone.
        embeddings (`str` or `Path`, *optional*): folder of the items' embeddings: `"nearest-items"` needs them,
            `"linear"` is better with them.
        texts (`Sequence[str]`, *optional*): texts of the items in catalogue order, which `"linear"` reads by TF-IDF
            where it has no embeddings.
        linear ([`~trainers.rankers.linear.LinearSettings`], *optional*): of `"linear"`; by default they are chosen on
            validation, see [`trainers.rankers.linear_selection`].
        query (`str`, *optional*, defaults to `"last"`): what `"nearest-items"` are near to, see
            [`~trainers.rankers.nearest_items.NearestItems`].
        items (`str` or `Path`, *optional*): folder or Hub id with the catalogue's semantic IDs, for a generative
            recommender that was trained on other items; by default those beside the model.
        num_beams (`int`, *optional*, defaults to 50): beams of a generative recommender.
        batch_size (`int`, *optional*, defaults to 64): users at a time.
        memory (`bool`, *optional*, defaults to `True`): whether a generative recommender ranks by the item memory
            beside it, if there is one.
        revision (`str`, *optional*): branch, tag or commit of a recommender on the Hub.

    Raises:
        ValueError: the name is none of these, what it needs is missing, or model and catalogue do not belong together.
        OSError: the model has no semantic IDs beside it.

    Example:

    ```python
    >>> evaluate(load_ranker("item-transitions", interactions), interactions)["ndcg@10"]
    >>> evaluate(load_ranker("org/beauty-recommender", interactions), interactions)["ndcg@10"]
    ```
    """
    settings: dict[str, Any] = {"embeddings": embeddings, "texts": texts, "linear": linear, "query": query}
    settings |= {"batch_size": batch_size}
    if name in RANKERS:
        return RANKERS[str(name)](interactions, settings)
    try:
        generative = is_generative(name, revision)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name} is none of {', '.join(RANKERS)}, and no folder or Hub id of a recommender: {error}"
        ) from error
    if generative:
        from trainers.rankers.generative import GenerativeRanker

        return GenerativeRanker.from_pretrained(
            name, interactions.item_ids, num_beams, batch_size, items=items, memory=memory, revision=revision
        )
    from trainers.rankers.sequential import SequentialRanker

    return SequentialRanker.from_pretrained(name, interactions.item_ids, batch_size, revision=revision)


def is_generative(name: str | Path, revision: str | None = None) -> bool:
    """Whether the recommender of a folder or Hub id generates semantic IDs, or else is a sequential one."""
    from transformers import AutoConfig

    # with it the package, so that its configurations are known
    from modeling_utgrec.checkpoint_safety import errors_that_say_why

    with errors_that_say_why(f"The configuration of {name}"):
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    return hasattr(config, "level_sizes")


def _counted(module: str, name: str) -> Callable[[Interactions, dict[str, Any]], Ranker]:
    """Loader of a class of `trainers.rankers` that is made of the training part."""

    def load(interactions: Interactions, settings: dict[str, Any]) -> Ranker:
        return getattr(import_module(f"trainers.rankers.{module}"), name)(interactions.training_part())

    return load


def _nearest_items(interactions: Interactions, settings: dict[str, Any]) -> Ranker:
    if settings["embeddings"] is None:
        raise ValueError(
            "nearest-items needs the embeddings of the items' texts: make a folder with `utgrec embed` and give it as "
            "`embeddings`."
        )
    from tokenization_items.item_embeddings import load_embeddings
    from trainers.rankers.nearest_items import NearestItems

    vectors = load_embeddings(settings["embeddings"], interactions.item_ids)
    return NearestItems(vectors, settings["query"], batch_size=settings["batch_size"])


def _linear(interactions: Interactions, settings: dict[str, Any]) -> Ranker:
    from trainers.rankers.linear_selection import linear_ranker

    content = None
    if settings["embeddings"] is not None:
        from tokenization_items.item_embeddings import load_embeddings

        content = load_embeddings(settings["embeddings"], interactions.item_ids)
    return linear_ranker(
        interactions, content, settings["texts"], settings["linear"], batch_size=settings["batch_size"]
    )


# Rankers without a model: each is a file of this package and a line here, a loader of interactions and the settings of
# `load_ranker`.
RANKERS: dict[str, Callable[[Interactions, dict[str, Any]], Ranker]] = {
    "popularity": _counted("popularity", "Popularity"),
    "item-transitions": _counted("item_transitions", "ItemTransitions"),
    "nearest-items": _nearest_items,
    "linear": _linear,
}
