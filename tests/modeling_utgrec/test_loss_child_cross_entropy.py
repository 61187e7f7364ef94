"""Cross-entropy among the children of a node against `F.cross_entropy` over each row's own children."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_utgrec import loss_child_cross_entropy as module
from modeling_utgrec.item_trie import ItemTrie
from modeling_utgrec.loss_child_cross_entropy import child_cross_entropy

WIDTH = 5


def make_inputs(rows: int, items: int = 25, seed: int = 0, dense: bool = True, sizes: tuple[int, int] = (7, 6)):
    """A trie, nodes of its first level, some of them for many rows, and an edge of each row's node."""
    generator = torch.Generator().manual_seed(seed)
    flat = torch.randperm(sizes[0] * sizes[1], generator=generator)[:items]
    codes = torch.stack([flat // 6, flat % 6], dim=1)
    trie = ItemTrie(codes, list(sizes), [2, 2 + sizes[0]], dense_limit=2**20 if dense else 0)
    level = trie.levels[1]
    places = (torch.rand(rows, generator=generator).pow(3) * level.num_nodes).long()
    fan_outs = level.starts[places + 1] - level.starts[places]
    edges = level.starts[places].long() + (torch.rand(rows, generator=generator) * fan_outs).long()
    queries = torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64, requires_grad=True)
    code_logits = torch.randn(rows, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    content = torch.randn(level.num_edges, WIDTH, generator=generator)
    return level, places, edges, queries, code_logits, content


def expected_loss(level, nodes, edges, queries, code_logits, content, counted):
    losses = []
    for row, node in enumerate(nodes.tolist()):
        own = torch.arange(int(level.starts[node]), int(level.starts[node + 1]))
        logits = content[own].double() @ queries[row] + code_logits[row, level.keys[own].long() - 6 * node]
        if counted:
            logits = logits + level.counts[own].double().log()
        losses.append(F.cross_entropy(logits[None], edges[row : row + 1] - own[0], reduction="sum"))
    return torch.stack(losses).sum()


@pytest.mark.parametrize("gathered", [1, 60, 10**9])
@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("dense", [True, False])
def test_loss_and_gradients_are_those_of_each_row(monkeypatch, gathered, counted, dense):
    monkeypatch.setattr(module, "MOST_GATHERED", gathered)
    level, nodes, edges, queries, code_logits, content = make_inputs(40, dense=dense)
    level.counts = torch.arange(1, level.num_edges + 1, dtype=torch.int32)
    expected = expected_loss(level, nodes, edges, queries, code_logits, content, counted)
    wanted = torch.autograd.grad(0.7 * expected, (queries, code_logits))
    found = child_cross_entropy(queries, code_logits, content, level, nodes, edges, counted)
    torch.testing.assert_close(found.detach(), expected.detach())
    torch.testing.assert_close(torch.autograd.grad(0.7 * found, (queries, code_logits)), wanted)
    with torch.no_grad():
        without = child_cross_entropy(queries, code_logits, content, level, nodes, edges, counted)
    assert not without.requires_grad
    torch.testing.assert_close(without, expected.detach())


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 70), items=st.integers(1, 42), seed=st.integers(0, 2**16), most=st.integers(1, 400))
def test_whatever_the_groups(rows, items, seed, most):
    level, nodes, edges, queries, code_logits, content = make_inputs(rows, items, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST_GATHERED", most)
        found = child_cross_entropy(queries, code_logits, content, level, nodes, edges)
    expected = expected_loss(level, nodes, edges, queries, code_logits, content, False)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
    given = torch.autograd.grad(found, (queries, code_logits))
    torch.testing.assert_close(given, torch.autograd.grad(expected, (queries, code_logits)), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("gathered", [60, 10**9])
def test_few_products_for_many_nodes(monkeypatch, gathered):
    """Rows and nodes of a batch are not gone through one after the other, nor gathered all at once."""
    monkeypatch.setattr(module, "MOST_GATHERED", gathered)
    level, nodes, edges, *tensors = make_inputs(200, items=200, sizes=(40, 6))
    bmm, shapes = torch.bmm, []

    def spy(left, right):
        shapes.append((left.shape, right.shape))
        return bmm(left, right)

    monkeypatch.setattr(torch, "bmm", spy)
    child_cross_entropy(*tensors, level, nodes, edges).backward()
    products = shapes[::2]  # the others are their gradients
    most = nodes.bincount().max().item()
    assert len(nodes.unique()) > 30
    if gathered == 60:
        assert len(products) > 9 and all(right.numel() <= 60 for _, right in products)
    else:
        assert len(products) <= 2 + math.log2(most), "one for each doubling of a node's rows"
    assert sum(left[0] * left[1] for left, _ in products) <= 2 * len(nodes), "less than half is padding"


def test_large_logits_and_half_precision():
    level, nodes, edges, queries, code_logits, content = make_inputs(40)
    large = (1e3 * queries).detach().float().requires_grad_()
    loss = child_cross_entropy(large, code_logits.float(), content, level, nodes, edges)
    loss.backward()
    assert loss.isfinite() and large.grad.isfinite().all()
    half = queries.detach().bfloat16().requires_grad_()
    logits = code_logits.detach().bfloat16().requires_grad_()
    loss = child_cross_entropy(half, logits, content, level, nodes, edges)
    loss.backward()
    expected = expected_loss(level, nodes, edges, half.double(), logits.double(), content, False)
    assert loss.dtype == torch.float32 and half.grad.dtype == logits.grad.dtype == torch.bfloat16
    torch.testing.assert_close(loss.double(), expected, rtol=1e-2, atol=0.1)
