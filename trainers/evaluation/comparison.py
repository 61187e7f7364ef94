"""Comparison of a trained ranker with those that need no training, all judged alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainers.data.interactions import Interactions
from trainers.evaluation.metrics import TABLE_METRICS
from trainers.evaluation.protocol import evaluate
from trainers.rankers import Ranker
from trainers.rankers.item_transitions import ItemTransitions
from trainers.rankers.linear_selection import linear_ranker
from trainers.rankers.nearest_items import NearestItems
from trainers.rankers.popularity import Popularity

# Which recommender a result is of, of one that has an item memory beside it.
ALONE, WITH_MEMORY = "network alone", "with memory"


def untrained_rankers(
    interactions: Interactions, content: np.ndarray | None = None, texts: Sequence[str] | None = None
) -> dict[str, Ranker]:
    """What a trained model has to beat: rankers that count, by name. The linear one, whose settings are chosen on
    validation, needs something to count.

    Args:
        interactions (`Interactions`): all interactions; they count the training part.
        content (`np.ndarray`, *optional*): float `[n, e]` content embeddings in catalogue order; with them there are
            also the nearest items, and the linear ranker reads them.
        texts (`Sequence[str]`, *optional*): texts of the items in catalogue order, which the linear ranker reads by
            TF-IDF where there are no embeddings.
    """
    training_part = interactions.training_part()
    rankers: dict[str, Ranker] = {
        "popularity": Popularity(training_part),
        "item-transitions": ItemTransitions(training_part),
    }
    if content is not None:
        rankers["nearest-items"] = NearestItems(content)
    if len(training_part.items):
        rankers["linear"] = linear_ranker(interactions, content, texts)
    return rankers


def compare(
    rankers: Mapping[str, Ranker], domain: str, interactions: Interactions, seed: int, **protocol: Any
) -> list[dict[str, Any]]:
    """Test results of several rankers.

    Args:
        rankers (`Mapping[str, Ranker]`): by the name in the results.
        domain (`str`): name of the data.
        interactions (`Interactions`): all interactions.
        seed (`int`): of the training, for the results.
        protocol: further arguments of [`~trainers.evaluation.protocol.evaluate`], the same for all. Each looks at as
            much of a history as it was made for, unless `max_history` is given.

    Returns:
        `list[dict]`: what `evaluate` gives, with `domain`, `model` and `seed`, and the ranker's `description` if it
        has one, in the order of the rankers.
    """
    return [
        {
            # as in validation: a model of longer histories than usual would be judged as another than was chosen
            **evaluate(ranker, interactions, **{"max_history": None, **protocol}),
            **described(ranker),
            **{"domain": domain, "model": name, "seed": seed},
        }
        for name, ranker in rankers.items()
    ]


def described(ranker: Ranker) -> dict[str, Any]:
    """The `description` of a ranker that has one, for its result."""
    return {"description": ranker.description} if hasattr(ranker, "description") else {}


def short_table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Results as the rows of a short table; a ranker whose settings were chosen is named with them. Cases that masking
    the seen items has made unreachable are counted in a column of their own, if there are any."""
    return [
        {
            "model": row["name"] if "selection" in row.get("description", {}) else row["model"],
            **{metric: row[metric] for metric in TABLE_METRICS},
            **({"num_unreachable": row["num_unreachable"]} if row.get("num_unreachable") else {}),
        }
        for row in rows
    ]
