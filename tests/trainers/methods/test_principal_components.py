"""Principal components against a singular value decomposition."""

import numpy as np
import pytest

from trainers.methods.principal_components import principal_components


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


def test_errors():
    x = points()
    x[7, 2] = np.nan
    with pytest.raises(ValueError, match=r"1 rows.*\[7\]"):
        principal_components(x, 2)
    with pytest.raises(ValueError, match="No two embeddings differ"):
        principal_components(np.ones((4, 3)), 2)
    with pytest.raises(ValueError, match="No two embeddings differ"):
        principal_components(np.full((4, 3), np.nan), 2)
