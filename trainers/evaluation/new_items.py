"""Recommending of new items: how often what users took after an update is found, of new items and of older ones."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np

from trainers.data.interactions import Interactions
from trainers.data.splits import TEST, TRAIN
from trainers.evaluation.protocol import evaluate
from trainers.rankers import Ranker

MOST_CASES = 2_000  # of each kind, at equal distances


def recall_of_new_items(ranker: Ranker, interactions: Interactions, new_items: Collection[str]) -> dict[str, Any]:
    """
    Recall and NDCG where the target is one of some new items, and, to compare, where it is the last item of a user and
    none of them. Histories are all of the user before the target; all items are ranked.

    Args:
        ranker ([`Ranker`]): of the catalogue of the interactions.
        interactions ([`Interactions`]): the sequences; what the split says counts for nothing.
        new_items (`Collection[str]`): ids of the new items.

    Returns:
        `dict`: `new_items` and `older_items`, each with `num_cases` and, if there are any, the metrics.
    """
    wanted = {*new_items}
    is_new = np.array([item_id in wanted for item_id in interactions.item_ids], dtype=bool)
    places = np.arange(len(interactions.items)) - interactions.offsets[:-1][interactions.owners]
    is_last = np.zeros(len(places), dtype=bool)
    is_last[interactions.offsets[1:][interactions.lengths > 0] - 1] = True
    follows, to_new = places > 0, is_new[interactions.items]
    found: dict[str, Any] = {}
    for name, targets in (("new_items", follows & to_new), ("older_items", follows & is_last & ~to_new)):
        at = np.flatnonzero(targets)
        if len(at) > MOST_CASES:
            at = at[np.linspace(0, len(at) - 1, MOST_CASES).astype(np.int64)]
        found[name] = {"num_cases": len(at)}
        if len(at):
            parts = np.full(len(places), TRAIN, np.int8)
            parts[at] = TEST
            asked = replace(interactions, parts=parts, split="new items")
            result = evaluate(ranker, asked, max_history=None, long_tail=False)
            found[name] |= {metric: result[metric] for metric in ("recall@10", "ndcg@10")}
    return found
