"""Content of an item memory: nearest items, principal directions, vectors without the mean."""

import numpy as np
import torch

from modeling_utgrec.memory_content import nearest_items, principal_directions, unit_content

N, E = 12, 5


def embeddings(n: int = N, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, E, generator=torch.Generator().manual_seed(seed)) + 1


def test_nearest_items_are_the_largest_cosines(monkeypatch):
    content = embeddings(40)
    unit = unit_content(content, 40, content.mean(0))
    numbers = content.double().numpy() - content.double().numpy().mean(0)
    numbers /= np.linalg.norm(numbers, axis=1, keepdims=True)
    cosines = numbers @ numbers.T
    monkeypatch.setattr("modeling_utgrec.memory_content.BLOCK_ENTRIES", 100)
    items, values = nearest_items(unit, unit, 7)
    np.testing.assert_allclose(values, -np.sort(-cosines, axis=1)[:, :7], atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(cosines, items.numpy().astype(int), 1), values, atol=1e-6)
    assert torch.equal(items[:, 0], torch.arange(40, dtype=torch.int32)), "each is nearest to itself"
    assert nearest_items(unit, unit, 99)[0].shape == (40, 40)
    monkeypatch.setattr("modeling_utgrec.memory_content.BLOCK_ENTRIES", 3)  # not enough for a row: one by one
    assert torch.equal(nearest_items(unit, unit, 7)[0], items)


def test_principal_directions_keep_what_they_can(monkeypatch):
    unit = unit_content(embeddings(40), 40, embeddings(40).mean(0))
    whole = principal_directions(unit)
    torch.testing.assert_close(unit @ whole @ (unit @ whole).T, unit @ unit.T)
    _, values, right = np.linalg.svd(unit.double().numpy(), full_matrices=False)
    monkeypatch.setattr("modeling_utgrec.memory_content.BLOCK_ENTRIES", 20)
    few = principal_directions(unit, 2)
    assert few.shape == (E, 2) and few.dtype == torch.float32
    np.testing.assert_allclose(np.abs(right[:2] @ few.double().numpy()), np.eye(2), atol=1e-5)
    np.testing.assert_allclose((unit @ few).square().sum(0), values[:2] ** 2, rtol=1e-5)
    monkeypatch.setattr("modeling_utgrec.memory_content.CONTENT_WIDTH_OF_MANY", 3)
    assert principal_directions(unit).shape == (E, E)
    monkeypatch.setattr("modeling_utgrec.memory_content.MANY_ITEMS", 39)
    assert principal_directions(unit).shape == (E, 3), "a large catalogue keeps fewer"


def test_an_embedding_that_is_the_mean_is_like_nothing():
    content = embeddings()
    content[3] = 0
    content[3] = content.sum(0) / (N - 1)
    unit = unit_content(content, N, content.mean(0))
    assert (unit[3] == 0).all() and torch.allclose(unit[4].norm(), torch.tensor(1.0))
    # on whatever scale
    assert torch.allclose(unit_content(1e6 * content, N, 1e6 * content.mean(0)), unit, atol=1e-5)
    assert torch.allclose(unit_content(1e-6 * content, N, 1e-6 * content.mean(0)), unit, atol=1e-2)
