"""Content of a trie's nodes, and products with the vectors of children, against loops over items and children."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modeling_utgrec.item_trie import ItemTrie
from modeling_utgrec.node_content import child_products, node_content, unit_vectors

SIZES = [3, 4, 5]


def make_trie(items: int = 20, width: int = 6, seed: int = 0) -> ItemTrie:
    rng = np.random.default_rng(seed)
    flat = rng.choice(int(np.prod(SIZES)), size=items, replace=False)
    codes = np.stack(np.unravel_index(flat, SIZES), axis=1)
    content = torch.from_numpy(rng.normal(size=(items, width))).float()
    content[3] = 0  # an item without
    return ItemTrie(codes, SIZES, [2, 5, 9], content=content)


def test_content_of_a_node_is_the_mean_of_the_items_below():
    trie = make_trie()
    mean = trie.content.mean(0)
    units = [
        torch.zeros(6, dtype=torch.float64) if not row.any() else F.normalize((row - mean).double(), dim=0)
        for row in trie.content
    ]
    found = node_content(trie, mean)
    codes = [tuple(row) for row in trie.codes.tolist()]
    for depth, vectors in enumerate(found, start=1):
        prefixes = sorted({row[:depth] for row in codes})
        assert len(vectors) == len(prefixes)
        for prefix, vector in zip(prefixes, vectors, strict=True):
            total = sum(unit for row, unit in zip(codes, units, strict=True) if row[:depth] == prefix)
            expected = total / total.norm() if total.any() else total
            torch.testing.assert_close(vector.double(), expected, atol=1e-6, rtol=1e-6)


def test_units_are_centred_and_zero_without_content():
    content, mean = torch.tensor([[3.0, 1.0], [0.0, 0.0]]), torch.tensor([0.0, 1.0])
    assert unit_vectors(content, mean).tolist() == [[1.0, 0.0], [0.0, 0.0]]


def ragged(rows: int, nodes: int, most: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ranges of nodes as children, several rows with the same; a row may have none."""
    rng = np.random.default_rng(seed)
    bounds = np.arange(0, nodes + 1, most)
    ranges = [(first, rng.integers(1, most + 1)) for first in bounds[:-1]]
    chosen = [ranges[rng.integers(len(ranges))] if rng.random() > 0.1 else (0, 0) for _ in range(rows)]
    children = torch.tensor([[min(first + at, nodes - 1) for at in range(most)] for first, _ in chosen])
    return children, torch.tensor([count for _, count in chosen])


@pytest.mark.parametrize("sharing", [1, 4, 10**6])  # all rows of the same children together, many of them, none
@pytest.mark.parametrize("gathered", [1, 40, 10**9])
def test_products_are_those_with_each_child(monkeypatch, sharing, gathered):
    monkeypatch.setattr("modeling_utgrec.node_content.LEAST_SHARING", sharing)
    monkeypatch.setattr("modeling_utgrec.node_content.MOST_GATHERED", gathered)
    children, counts = ragged(rows=40, nodes=24, most=6, seed=sharing % 7)
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    vectors = torch.randn(24, 5, generator=generator, dtype=torch.float64)
    there = torch.arange(6) < counts[:, None]
    found = child_products(states, vectors, children, counts)
    torch.testing.assert_close(found[there], (states[:, None] * vectors[children]).sum(-1)[there])


def test_products_of_any_shape():
    children, counts = ragged(rows=12, nodes=24, most=6, seed=1)
    states, vectors = torch.randn(12, 5), torch.randn(24, 5)
    flat = child_products(states, vectors, children, counts)
    found = child_products(states.view(3, 4, 5), vectors, children.view(3, 4, 6), counts.view(3, 4))
    assert torch.equal(found, flat.view(3, 4, 6))
