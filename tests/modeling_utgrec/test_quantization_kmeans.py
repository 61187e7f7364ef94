"""k-means and balanced clusters against brute force."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.vq import kmeans2
from transformers.utils import import_utils

from modeling_utgrec.quantization_kmeans import balanced_clusters, kmeans, plus_plus_seeds


def blobs(num_blobs: int, per_blob: int, dim: int = 3, spread: float = 0.01) -> tuple[torch.Tensor, torch.Tensor]:
    """Points around far centres, blob after blob, and the means of the blobs."""
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.randn(num_blobs, 1, dim, generator=generator)
    points = centres + spread * torch.randn(num_blobs, per_blob, dim, generator=generator)
    return points.flatten(0, 1), points.mean(1)


def test_kmeans_finds_separate_blobs():
    points, means = blobs(5, 20)
    torch.manual_seed(0)
    centroids = kmeans(points, 5)
    nearest = torch.cdist(means, centroids)
    assert nearest.argmin(1).unique().numel() == 5
    torch.testing.assert_close(nearest.amin(1), torch.zeros(5), atol=1e-4, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_kmeans_starts_from_the_seeds_that_scipy_draws(seed):
    values = np.random.default_rng(seed).standard_normal((80, 3))
    values = np.concatenate([values, values[:20]])  # some points twice
    expected = kmeans2(values, 30, minit="++", seed=np.random.default_rng(seed))[0]
    seeds = plus_plus_seeds(values, 30, np.random.default_rng(seed))
    np.testing.assert_array_equal(kmeans2(values, seeds, minit="matrix")[0], expected)


def test_kmeans_is_a_fixed_point_of_lloyds_algorithm_and_follows_torchs_seed():
    points = torch.randn(60, 2, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(3)
    first = kmeans(points, 4)
    torch.manual_seed(3)
    assert torch.equal(first, kmeans(points, 4))
    state = torch.get_rng_state()
    drawn = [kmeans(points, 20, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert torch.equal(torch.get_rng_state(), state)
    assert first.shape == (4, 2) and first.dtype == torch.float32
    errors = torch.cdist(points, first).square().amin(1).sum()
    one = (points - points.mean(0)).square().sum()
    assert errors < 0.5 * one


@pytest.mark.parametrize("num_points", [1, 3, 8])
def test_kmeans_of_fewer_points_than_clusters_keeps_every_point(num_points):
    points = torch.randn(num_points, 4, generator=torch.Generator().manual_seed(1))
    centroids = kmeans(points.repeat(3, 1), 8)  # the copies are no further points
    assert centroids.shape == (8, 4) and torch.isfinite(centroids).all()
    assert torch.cdist(points, centroids).amin(1).max() < 1e-6
    assert len(centroids.unique(dim=0)) == 8  # no two codes are one


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_copies_stand_a_little_beside_the_points_whatever_their_scale(scale):
    points = scale * torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
    beside = torch.cdist(kmeans(points, 200, torch.Generator().manual_seed(0)), points).amin(1)[5:] / points.std()
    assert 1e-3 < beside.mean() < 0.1 and beside.max() < 0.2


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(1, 10), st.integers(0, 100))
def test_sizes_of_balanced_clusters_differ_by_one_at_most(num_vectors, num_clusters, seed):
    num_clusters = min(num_clusters, num_vectors)
    vectors = torch.randn(num_vectors, 3, generator=torch.Generator().manual_seed(seed))
    sizes = torch.bincount(balanced_clusters(vectors, num_clusters), minlength=num_clusters)
    assert sizes.sum() == num_vectors and sizes.max() - sizes.min() <= 1
    assert len(sizes) == num_clusters


def test_balanced_clusters_of_blobs_are_the_blobs():
    points, _ = blobs(4, 6)
    torch.manual_seed(0)
    clusters = balanced_clusters(points, 4).view(4, 6)
    assert (clusters == clusters[:, :1]).all() and clusters[:, 0].unique().numel() == 4


@pytest.mark.parametrize("num_points", [6, 7])
def test_a_round_of_balanced_clusters_is_the_best_of_all_balanced_partitions(num_points):
    """With two clusters of few points the best partition can be listed; of seven one has a point more."""
    points = torch.randn(num_points, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def cost(members: tuple[int, ...]) -> float:
        mask = np.isin(np.arange(num_points), members)
        return sum(((part - part.mean(0)) ** 2).sum() for part in (points.numpy()[mask], points.numpy()[~mask]))

    found = min(
        cost(tuple(torch.where(balanced_clusters(points, 2) == 0)[0].tolist())) for _ in range(20)
    )  # a local optimum from each seed
    assert found == pytest.approx(min(cost(members) for members in itertools.combinations(range(num_points), 3)))


def test_missing_scipy_is_named(monkeypatch):
    message = import_utils.BACKENDS_MAPPING["scipy"][1]
    monkeypatch.setitem(import_utils.BACKENDS_MAPPING, "scipy", (lambda: False, message))
    with pytest.raises(ImportError, match="pip install scipy"):
        kmeans(torch.zeros(3, 2), 2)
