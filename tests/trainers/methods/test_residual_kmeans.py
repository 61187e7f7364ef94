"""Residual k-means against distances computed by hand, principal components against a singular value decomposition."""

import builtins
import importlib.util

import numpy as np
import pytest

from trainers.methods.residual_kmeans import principal_components, rq_kmeans

NEEDS_FAISS = pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="needs faiss")


def cloud(num_items: int = 120) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((num_items, 5)).astype(np.float32)


@NEEDS_FAISS
def test_each_level_quantizes_what_the_levels_above_left():
    x = cloud()
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


@NEEDS_FAISS
def test_rq_kmeans_follows_the_seed():
    first, again, other = (rq_kmeans(cloud(), 2, 8, seed=seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_too_few_items_for_rq_kmeans():
    with pytest.raises(ValueError, match="5 items are fewer than 8 centroids"):
        rq_kmeans(cloud(5), 2, 8)


def test_rq_kmeans_without_faiss(monkeypatch):
    real = builtins.__import__

    def without_faiss(name, *arguments, **keywords):
        if name == "faiss":
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", without_faiss)
        codes, residuals, codebooks = rq_kmeans(cloud(), 2, 8, seed=1)
        again = rq_kmeans(cloud(), 2, 8, seed=1)[0]
    np.testing.assert_array_equal(codes, again)
    assert codes.dtype == np.int64 and residuals.dtype == codebooks[0].dtype == np.float32
    for level in range(2):
        distances = ((residuals[:, level, None].astype(np.float64) - codebooks[level]) ** 2).sum(-1)
        np.testing.assert_array_equal(codes[:, level], distances.argmin(1))
        for code in np.unique(codes[:, level]):  # near the mean of what it stands for: Lloyd's rounds are limited
            mean = residuals[codes[:, level] == code, level].mean(0)
            assert np.linalg.norm(mean - codebooks[level][code]) < 0.5 * np.sqrt(distances.min(1).mean())
    np.testing.assert_allclose(residuals[:, 1], residuals[:, 0] - codebooks[0][codes[:, 0]], atol=1e-6)


def points(num_items: int = 60, dim: int = 6, rank: int = 6) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.standard_normal((num_items, rank)) @ rng.standard_normal((rank, dim)) + 5


def test_projection_is_that_of_the_singular_value_decomposition():
    x = points()
    centred = x - x.mean(0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    expected = (left * values)[:, :4]
    found = principal_components(x, 4)
    assert found.dtype == np.float32 and found.shape == (60, 4)
    signs = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found * signs, expected, atol=1e-5)
    everything = principal_components(x, 6)  # a rotation: distances stay
    np.testing.assert_allclose(
        np.linalg.norm(everything[:5, None] - everything[:5], axis=-1),
        np.linalg.norm(x[:5, None] - x[:5], axis=-1),
        rtol=1e-4,
        atol=1e-5,
    )


def test_whitened_components_are_uncorrelated_with_unit_variance():
    found = principal_components(points(), 5, whiten=True).astype(np.float64)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(found.T @ found / len(found), np.eye(5), atol=1e-5)


def test_no_more_components_than_the_points_span():
    assert principal_components(points(rank=3), 6, whiten=True).shape == (60, 3)
    assert principal_components(points(4), 6).shape == (4, 3)  # four points span three dimensions


def test_rows_of_nan_take_the_mean_of_the_others_and_do_not_count():
    x = points()
    with_gaps = np.insert(x, [0, 10], np.nan, axis=0)
    found = principal_components(with_gaps, 3, whiten=True)
    absent = np.isnan(with_gaps).all(1)
    assert (found[absent] == 0).all() and absent.sum() == 2
    np.testing.assert_allclose(found[~absent], principal_components(x, 3, whiten=True), atol=1e-6)


def test_errors_of_principal_components():
    x = points()
    x[7, 2] = np.nan
    with pytest.raises(ValueError, match=r"1 rows.*: 7"):
        principal_components(x, 2)
    with pytest.raises(ValueError, match="No two embeddings differ"):
        principal_components(np.ones((4, 3)), 2)
    with pytest.raises(ValueError, match="No two embeddings differ"):
        principal_components(np.full((4, 3), np.nan), 2)
