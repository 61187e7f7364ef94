"""k-means of the vectors that a codebook quantizes, and balanced clusters of a codebook's own vectors."""

import importlib
from types import ModuleType

import numpy as np
import torch
from transformers.utils import requires_backends

# Spread of the copies that stand in for missing points, relative to the points' own.
JITTER = 1e-2


def _scipy(module: str) -> ModuleType:
    """A module of scipy. Only training clusters: a checkpoint gives codes where there is no scipy."""
    requires_backends(kmeans, "scipy")
    return importlib.import_module(f"scipy.{module}")


def kmeans(points: torch.Tensor, num_clusters: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """
    Centroids of points: Lloyd's algorithm from k-means++ seeds.

    Args:
        points (`torch.FloatTensor` of shape `(n, dim)`): the points. If fewer than `num_clusters` of them differ, the
            centroids are these, and copies of some a little beside them.
        num_clusters (`int`): number of centroids.
        generator (`torch.Generator`, *optional*): of the seeds; by default torch's own.

    Returns:
        `torch.FloatTensor` of shape `(num_clusters, dim)`.

    Raises:
        ImportError: without scipy.
    """
    vq = _scipy("cluster.vq")
    rng = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))
    values = points.detach().float().cpu().numpy()
    distinct = np.unique(values, axis=0)
    if len(distinct) > num_clusters:
        values = values.astype(np.float64)
        centroids = vq.kmeans2(values, plus_plus_seeds(values, num_clusters, rng), minit="matrix")[0]
    else:
        copies = distinct.take(rng.integers(len(distinct), size=num_clusters - len(distinct)), axis=0)
        spread = values.std() or 1.0
        centroids = np.concatenate([distinct, copies + JITTER * spread * rng.standard_normal(copies.shape)])
    return torch.from_numpy(centroids).to(points.device, torch.float32)


def plus_plus_seeds(values: np.ndarray, num_seeds: int, rng: np.random.Generator) -> np.ndarray:
    """
    Seeds of k-means++ (Arthur & Vassilvitskii 2007): each a point, drawn by its squared distance to those before it.
    The same that scipy draws, which looks at all earlier seeds again for each one: with a thousand that takes minutes.

    Args:
        values (`np.ndarray` of shape `(n, dim)`): the points.
        num_seeds (`int`): number of seeds.
        rng (`np.random.Generator`): draws them.

    Returns:
        `np.ndarray` of shape `(num_seeds, dim)`.
    """
    cdist = _scipy("spatial.distance").cdist
    seeds = np.empty((num_seeds, values.shape[1]))
    seeds[0] = values[rng.integers(len(values))]
    nearest = np.full(len(values), np.inf)
    for number in range(1, num_seeds):
        np.minimum(nearest, cdist(seeds[number - 1 : number], values, "sqeuclidean")[0], out=nearest)
        place = int(np.searchsorted((nearest / nearest.sum()).cumsum(), rng.uniform()))
        seeds[number] = values[min(place, len(values) - 1)]
    return seeds


def balanced_clusters(vectors: torch.Tensor, num_clusters: int, iterations: int = 10) -> torch.Tensor:
    """
    Constrained k-means: clusters of like vectors whose sizes differ by one at most. Each round assigns all vectors at
    once, with the least total squared distance.

    Args:
        vectors (`torch.FloatTensor` of shape `(n, dim)`): what is clustered.
        num_clusters (`int`): number of clusters, at most n.
        iterations (`int`, *optional*, defaults to 10): most rounds.

    Returns:
        `torch.LongTensor` of shape `(n,)`: the cluster of each vector.
    """
    optimize = _scipy("optimize")
    values = vectors.detach().double().cpu().numpy()
    centroids = kmeans(vectors, num_clusters).double().cpu().numpy()
    size, extra = divmod(len(values), num_clusters)
    # Columns are the clusters' places: `size` in each, then one more in each, of which only `extra` are filled: the
    # rows after the vectors take the others, and none of the first.
    slots = np.concatenate([np.repeat(np.arange(num_clusters), size), np.arange(num_clusters)])
    idle = num_clusters - extra
    clusters = np.full(len(values), -1)
    for _ in range(iterations):
        distances = ((values[:, None] - centroids) ** 2).sum(-1)
        costs = np.zeros((len(values) + idle, len(slots)))
        costs[: len(values)] = distances[:, slots]
        costs[len(values) :, : size * num_clusters] = np.inf if size else 0.0
        assigned = slots[optimize.linear_sum_assignment(costs)[1][: len(values)]]
        if (assigned == clusters).all():
            break
        clusters = assigned
        sums = np.zeros_like(centroids)
        np.add.at(sums, clusters, values)
        centroids = sums / np.bincount(clusters, minlength=num_clusters)[:, None]
    return torch.from_numpy(clusters).to(vectors.device)
