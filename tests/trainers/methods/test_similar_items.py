"""Items alike in content: faiss' search against all cosines."""

import sys

import numpy as np
import pytest
import torch

from trainers.methods.similar_items import find_similar_items


def clustered(num_items: int, width: int = 16) -> torch.Tensor:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, width))
    vectors = centres[rng.integers(0, 40, num_items)] + 0.3 * rng.normal(size=(num_items, width))
    return torch.from_numpy(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).float()


def test_few_items_are_compared_with_all():
    unit = clustered(50)
    expected = (unit.double() @ unit.double().T).topk(7).indices
    assert torch.equal(find_similar_items(unit, 7).long(), expected)
    assert find_similar_items(unit, 80).shape == (50, 50)


def test_many_items_are_searched_in_cells(caplog):
    unit = clustered(3000)
    expected = (unit @ unit.T).topk(20).indices.numpy()
    found = find_similar_items(unit, 20, most_exact=1000)
    assert found.dtype == torch.int32 and found.shape == (3000, 20)
    share = np.mean([len(np.intersect1d(*rows)) for rows in zip(expected, found.numpy(), strict=True)]) / 20
    assert share > 0.9
    stated = float(caplog.records[-1].getMessage().split("find ")[1].split("%")[0]) / 100
    assert stated >= 0.95 and abs(stated - share) < 0.04, "of 500 items"
    assert torch.equal(find_similar_items(unit, 20, most_exact=1000), found)


def test_without_faiss_many_items_are_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match="of 60 items: pip install faiss-cpu"):
        find_similar_items(clustered(60), 5, most_exact=50)
