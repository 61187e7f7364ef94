"""Recall of new items: by hand, on a ranker whose ranking is known."""

import numpy as np

from trainers.data.interactions import Interactions
from trainers.evaluation.new_items import recall_of_new_items

IDS = [f"i{row}" for row in range(30)]


class Following:
    """Ranks the items that come after the last one, in their order."""

    def rank(self, histories, k, exclude=None):
        return np.stack([(history[-1] + 1 + np.arange(k)) % 30 for history in histories])


def test_recall_by_hand():
    sequences = [
        ["i0", "i3", "i20"],  # i20 is 17 after i3: not found; an older item last? no, the new one
        ["i18", "i20", "i5"],  # i20 is found, two after; the last one, i5, is 15 after i20: not found
        ["i21"],  # nothing before it
        ["i1", "i2"],  # older, found
    ]
    interactions = Interactions.from_sequences(sequences, IDS)
    found = recall_of_new_items(Following(), interactions, ["i20", "i21", "gone"])
    assert found["new_items"] == {"num_cases": 2, "recall@10": 0.5, "ndcg@10": (1 / np.log2(3)) / 2}
    assert found["older_items"] == {"num_cases": 2, "recall@10": 0.5, "ndcg@10": 0.5}
    assert recall_of_new_items(Following(), interactions, ["i29"])["new_items"] == {"num_cases": 0}


def test_interactions_of_other_items_are_left_out():
    interactions = Interactions.from_sequences([["i0", "i9", "i1"], ["i9"]], IDS)
    kept = interactions.for_items(["i1", "new", "i0"])
    assert (
        kept.item_ids == ["i1", "new", "i0"]
        and kept.sequence(0).tolist() == [2, 0]
        and kept.lengths.tolist() == [2, 0]
    )
