"""Comparison of a trained ranker with those that need no training, all judged alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from trainers.data.interactions import Interactions
from trainers.evaluation.protocol import evaluate
from trainers.rankers import Ranker
from trainers.rankers.item_transitions import ItemTransitions
from trainers.rankers.linear import LinearRanker
from trainers.rankers.nearest_items import NearestItems
from trainers.rankers.popularity import Popularity


def untrained_rankers(training_part: Interactions, content: np.ndarray | None = None) -> dict[str, Ranker]:
    """What a trained model has to beat: rankers that count, by name. The linear one needs something to count.

    Args:
        training_part (`Interactions`): what they count.
        content (`np.ndarray`, *optional*): float `[n, e]` content embeddings in catalogue order; with them there are
            also the nearest items, and the linear ranker reads them.
    """
    rankers: dict[str, Ranker] = {
        "popularity": Popularity(training_part),
        "item-transitions": ItemTransitions(training_part),
    }
    if content is not None:
        rankers["nearest-items"] = NearestItems(content)
    if len(training_part.items):
        rankers["linear"] = LinearRanker(training_part, content)
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
        protocol: further arguments of [`~trainers.evaluation.protocol.evaluate`], the same for all.

    Returns:
        `list[dict]`: what `evaluate` gives, with `domain`, `model` and `seed`, in the order of the rankers.
    """
    return [
        {**evaluate(ranker, interactions, **protocol), "domain": domain, "model": name, "seed": seed}
        for name, ranker in rankers.items()
    ]
