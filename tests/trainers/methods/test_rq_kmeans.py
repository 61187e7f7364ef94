"""RQ-k-means: residuals, nearest centroids, and what happens without faiss."""

import builtins

import numpy as np
import pytest

from trainers.methods.rq_kmeans import rq_kmeans

pytest.importorskip("faiss")


def points(num_items: int = 120) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((num_items, 5)).astype(np.float32)


def test_each_level_quantizes_what_the_levels_above_left():
    x = points()
    codes, residuals, codebooks = rq_kmeans(x, num_levels=3, codebook_size=8)
    assert codes.shape == (120, 3) and residuals.shape == (120, 3, 5)
    left = x.astype(np.float64)
    for level in range(3):
        np.testing.assert_allclose(residuals[:, level], left, atol=1e-5)
        distances = ((left[:, None] - codebooks[level].astype(np.float64)) ** 2).sum(-1)
        np.testing.assert_allclose(distances[np.arange(120), codes[:, level]], distances.min(1), atol=1e-5)
        assert len(np.unique(codes[:, level])) == 8
        left = left - codebooks[level][codes[:, level]]
    errors = (residuals.astype(np.float64) ** 2).sum((0, 2))
    assert errors[0] > 1.5 * errors[1] > 1.5 * errors[2] and (left**2).sum() < errors[2]


def test_follows_the_seed():
    first, again, other = (rq_kmeans(points(), 2, 8, seed=seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_errors(monkeypatch):
    with pytest.raises(ValueError, match="5 items are fewer than 8 centroids"):
        rq_kmeans(points(5), 2, 8)
    real = builtins.__import__

    def without_faiss(name, *arguments, **keywords):
        if name == "faiss":
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without_faiss)
    with pytest.raises(ImportError, match="pip install faiss-cpu"):
        rq_kmeans(points())
