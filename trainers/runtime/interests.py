"""Interests of MISSRec: clusters of the items' adapted texts and images, found anew while a model is trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from modeling_utgrec import MISSRecForNextItem
from trainers.runtime.faiss_clusters import faiss_clusters

ROUNDS = 5  # of k-means, as in the authors' program


def discover_interests(model: MISSRecForNextItem, seed: int = 0, rounds: int = ROUNDS) -> None:
    """
    Clusters what there is of all items, by faiss on one thread: the interests of the same weights and seed are always
    the same. Of interactions nothing is used.

    Args:
        model ([`MISSRecForNextItem`]): gets the interests, `config.num_interests` of them.
        seed (`int`, *optional*, defaults to 0): of the first centroids.
        rounds (`int`, *optional*, defaults to 5): of k-means.

    Raises:
        ImportError: without faiss.
        ValueError: there are fewer texts and images than interests.
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError("MISSRec's interests need faiss: pip install faiss-cpu, or utgrec[baselines]") from error
    points, places = model.points()
    number = model.config.num_interests
    if len(points) < number:
        raise ValueError(f"{len(points)} texts and images are fewer than {number} interests: lower num_interests.")
    values = np.ascontiguousarray(points.float().cpu().numpy())
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        centroids, found = faiss_clusters(values, number, rounds, seed)
    finally:
        faiss.omp_set_num_threads(threads)
    lookup = torch.full_like(model.content_items.interests, -1)
    lookup[places[:, 0], places[:, 1]] = torch.from_numpy(found).to(lookup.device)
    model.set_interests(torch.from_numpy(centroids).to(points), lookup)


class InterestsCallback(TrainerCallback):
    """
    Finds the interests before every epoch, and before weights are evaluated or saved: what is judged and what a
    checkpoint holds are the interests of its weights. A resumed training begins with those of its checkpoint.
    """

    def __init__(self, seed: int = 0):
        self.seed = seed

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if not state.global_step:
            discover_interests(model, self.seed)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if control.should_evaluate or control.should_save:
            discover_interests(model, self.seed)

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        discover_interests(model, self.seed)
