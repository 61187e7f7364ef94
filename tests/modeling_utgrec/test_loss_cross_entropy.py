"""Cross-entropy in blocks against `F.cross_entropy`: values and gradients."""

import pytest
import torch
import torch.nn.functional as F

from modeling_utgrec import loss_cross_entropy as module
from modeling_utgrec.loss_cross_entropy import cross_entropy_of_valid, linear_cross_entropy

ROWS, VOCABULARY, WIDTH = 23, 11, 5


def make_inputs(dtype=torch.float64, scale=3.0):
    generator = torch.Generator().manual_seed(0)
    shapes = ((ROWS, WIDTH), (VOCABULARY, WIDTH), (VOCABULARY,))
    tensors = [scale * torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]
    targets = torch.randint(VOCABULARY, (ROWS,), generator=generator)
    return [tensor.to(dtype).requires_grad_() for tensor in tensors], targets


def expected_of(tensors, targets, with_bias=True):
    """Loss and gradients by autograd, in double precision."""
    leaves = [tensor.detach().double().requires_grad_() for tensor in tensors]
    logits = leaves[0] @ leaves[1].T + (leaves[2] if with_bias else 0)
    loss = F.cross_entropy(logits, targets, reduction="sum")
    loss.backward()
    return loss.detach(), [leaf.grad for leaf in leaves]


@pytest.mark.parametrize("block", [1, 4, ROWS, 1000])
@pytest.mark.parametrize("with_bias", [True, False])
def test_equals_autograd_whatever_the_blocks(monkeypatch, block, with_bias):
    monkeypatch.setitem(module.MOST_LOGITS, "cpu", block * VOCABULARY)
    tensors, targets = make_inputs()
    loss = linear_cross_entropy(tensors[0], tensors[1], targets, tensors[2] if with_bias else None)
    (0.7 * loss).backward()
    expected, gradients = expected_of(tensors, targets, with_bias)
    torch.testing.assert_close(loss.detach(), expected)
    for tensor, gradient in zip(tensors[: 2 + with_bias], gradients, strict=False):
        torch.testing.assert_close(tensor.grad, 0.7 * gradient)


def test_gradients_only_where_wanted():
    tensors, targets = make_inputs()
    _, gradients = expected_of(tensors, targets)
    for wanted in range(3):
        leaves = [tensor.detach().requires_grad_(i == wanted) for i, tensor in enumerate(tensors)]
        linear_cross_entropy(leaves[0], leaves[1], targets, leaves[2]).backward()
        torch.testing.assert_close(leaves[wanted].grad, gradients[wanted])
        assert all(leaf.grad is None for i, leaf in enumerate(leaves) if i != wanted)
    with torch.no_grad():
        assert not linear_cross_entropy(tensors[0], tensors[1], targets).requires_grad


def test_large_logits_do_not_overflow():
    tensors, targets = make_inputs(torch.float32, scale=1e3)
    loss = linear_cross_entropy(*tensors[:2], targets, tensors[2])
    loss.backward()
    expected, _ = expected_of(tensors, targets)
    torch.testing.assert_close(loss.detach().double(), expected, rtol=1e-5, atol=0)
    assert all(tensor.grad.isfinite().all() for tensor in tensors)


def test_half_precision_and_autocast_sum_in_single_precision():
    tensors, targets = make_inputs(scale=1.0)
    halves = [tensor.detach().bfloat16().requires_grad_() for tensor in tensors]
    singles = [tensor.detach().float().requires_grad_() for tensor in halves]
    loss = linear_cross_entropy(halves[0], halves[1], targets, halves[2])
    loss.backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = linear_cross_entropy(singles[0], singles[1], targets, singles[2])
    cast.backward()
    expected, gradients = expected_of(halves, targets)
    for found, leaves in ((loss, halves), (cast, singles)):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=0.02, atol=0.02)
        for leaf, gradient in zip(leaves, gradients, strict=True):
            assert leaf.grad.dtype == leaf.dtype
            torch.testing.assert_close(leaf.grad.double(), gradient, rtol=0.05, atol=0.05)


def test_without_rows_the_loss_and_the_gradients_are_zero():
    tensors, targets = make_inputs()
    loss = linear_cross_entropy(tensors[0][:0], tensors[1], targets[:0], tensors[2])
    loss.backward()
    assert loss.item() == 0
    assert all(tensor.grad.eq(0).all() for tensor in tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_cross_entropy_of_valid_codes(dtype):
    """Softmax over what exists, by hand; the codes of other levels that the mask has room for are not looked at."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 5, generator=generator).to(dtype)
    codes = torch.randint(5, (7,), generator=generator)
    valid = torch.rand(7, 9, generator=generator) < 0.5
    valid[torch.arange(7), codes] = True
    found = cross_entropy_of_valid(logits.requires_grad_(), codes, valid)
    wanted = 0.0
    for row in range(7):
        scores = logits[row].detach().double()[valid[row, :5]]
        wanted -= (logits[row, codes[row]].double() - scores.logsumexp(0)).item()
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    assert found.item() == pytest.approx(wanted, rel=1e-5)
    found.backward()
    assert not logits.grad[~valid[:, :5]].any() and logits.grad.isfinite().all()
    assert cross_entropy_of_valid(logits[:0], codes[:0], valid[:0]).item() == 0
