"""Codes of content: the quantizer's error, that it is the same again, what it is fitted to."""

import importlib.util

import numpy as np
import pytest
import torch

from modeling_utgrec.quantization_product import product_codes
from trainers.data.interactions import Interactions
from trainers.methods.item_tables import Content
from trainers.methods.product_quantizer import code_tables, codes_of, fit_product_quantizer

pytestmark = pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="needs faiss")


def points(n=200, width=10, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, 4)) @ rng.normal(size=(4, width)) + 3).astype(np.float32)


def reconstruction_error(content, quantizer):
    """Mean squared distance of content and of what its codes stand for, in float64 from the definition."""
    codes = codes_of(content, quantizer).numpy()
    centre, rotation, centroids = (each.double().numpy() for each in quantizer.values())
    rotated = np.concatenate([centroids[group][codes[:, group]] for group in range(len(centroids))], axis=1)
    return ((rotated @ rotation)[:, : content.shape[1]] + centre - content) ** 2


def test_rotation_is_orthogonal_and_codes_tell_the_content():
    content = points()
    quantizer = fit_product_quantizer(content, 3, 16)  # 10 wide: two columns of zeros more
    rotation = quantizer["rotation"].double()
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(12, dtype=torch.float64), atol=1e-5, rtol=0)
    assert quantizer["centroids"].shape == (3, 16, 4)
    assert reconstruction_error(content, quantizer).mean() < 0.2 * content.var(axis=0).mean()


def test_codes_of_a_seed_are_the_same_again():
    first, second, other = (fit_product_quantizer(points(), 2, 8, seed, rounds=3) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["centroids"], other["centroids"])


def test_only_items_of_the_training_are_fitted_to():
    content = points(60)
    ids = [f"i{row}" for row in range(60)]
    training = Interactions.from_sequences([ids[:40]], ids)
    values = {"num_groups": 2, "codebook_size": 8}
    changed = content.copy()
    changed[40:] *= 5
    one, other = (code_tables(training, {"text": Content(each)}, values, 0).tables for each in (content, changed))
    assert torch.equal(one["centroids"], other["centroids"]) and torch.equal(one["codes"][:40], other["codes"][:40])
    assert one["codes"].shape == (60, 2)
    given = {"text": Content(content), "quantizer": fit_product_quantizer(points(seed=1), 2, 8)}
    reused = code_tables(training, given, values, 0).tables
    expected = product_codes(torch.from_numpy(content), *given["quantizer"].values())
    assert torch.equal(reused["codes"], expected)
    with pytest.raises(ValueError, match="reads content 10 wide, and the items' is 4 wide"):
        code_tables(training, given | {"text": Content(content[:, :4])}, values, 0)


@pytest.mark.parametrize(
    ("number", "size", "said"),
    [(5, 8, "5 items are fewer than 8 centroids: .*codebook_size=4"), (50, 6, "power of 2")],
)
def test_too_few_items_and_other_sizes(number, size, said):
    with pytest.raises(ValueError, match=said):
        fit_product_quantizer(points(number), 2, size)
