"""Clusters of vectors by faiss."""

from __future__ import annotations

import numpy as np


def faiss_clusters(points: np.ndarray, number: int, rounds: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """
    K-means of all points.

    Args:
        points (`np.ndarray` of shape `(points, dim)`): float32, contiguous; at least `number`.
        number (`int`): clusters.
        rounds (`int`): of Lloyd's algorithm.
        seed (`int`): of the first centroids.

    Returns:
        Centroids, float32 `(number, dim)`, and the nearest of each point, int64 `(points,)`.

    Raises:
        ImportError: without faiss.
    """
    import faiss

    # All points take part; the bounds only make faiss draw a sample, or warn.
    clustering = faiss.Kmeans(
        points.shape[1],
        number,
        niter=rounds,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(points),
    )
    clustering.train(points)
    assert clustering.centroids is not None
    return clustering.centroids.copy(), clustering.index.search(points, 1)[1][:, 0]


__all__ = ["faiss_clusters"]
