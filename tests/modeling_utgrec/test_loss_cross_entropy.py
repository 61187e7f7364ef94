"""Cross-entropy in blocks against `F.cross_entropy`: values and gradients."""

import pytest
import torch
import torch.nn.functional as F

from modeling_utgrec import loss_cross_entropy as module
from modeling_utgrec.loss_cross_entropy import cross_entropy_of_valid, linear_cross_entropy, sampled_cross_entropy

ROWS, VOCABULARY, WIDTH = 23, 11, 5


def make_inputs(dtype=torch.float64, scale=3.0):
    generator = torch.Generator().manual_seed(0)
    shapes = ((ROWS, WIDTH), (VOCABULARY, WIDTH), (VOCABULARY,))
    tensors = [scale * torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]
    targets = torch.randint(VOCABULARY, (ROWS,), generator=generator)
    return [tensor.to(dtype).requires_grad_() for tensor in tensors], targets


def expected_of(tensors, targets, with_bias=True, row_weights=None):
    """Loss and gradients by autograd, in double precision."""
    leaves = [tensor.detach().double().requires_grad_() for tensor in tensors]
    logits = leaves[0] @ leaves[1].T + (leaves[2] if with_bias else 0)
    losses = F.cross_entropy(logits, targets, reduction="none")
    loss = losses.sum() if row_weights is None else losses @ row_weights
    loss.backward()
    return loss.detach(), [leaf.grad for leaf in leaves]


@pytest.mark.parametrize("block", [1, 4, ROWS, 1000])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_equals_autograd_whatever_the_blocks(monkeypatch, block, with_bias, weighted):
    monkeypatch.setitem(module.MOST_LOGITS, "cpu", block * VOCABULARY)
    tensors, targets = make_inputs()
    row_weights = torch.linspace(0, 2, ROWS, dtype=torch.float64) if weighted else None
    bias = tensors[2] if with_bias else None
    loss = linear_cross_entropy(tensors[0], tensors[1], targets, bias, row_weights)
    (0.7 * loss).backward()
    expected, gradients = expected_of(tensors, targets, with_bias, row_weights)
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


@pytest.mark.parametrize("with_bias", [True, False])
def test_sampled_cross_entropy_equals_a_loop(with_bias):
    tensors, targets = make_inputs()
    negatives = torch.tensor([0, 3, 3, 7, 10, 1])
    log_counts = torch.linspace(-2, 1, len(negatives), dtype=torch.float64)
    bias = tensors[2] if with_bias else None
    found = sampled_cross_entropy(tensors[0], tensors[1], targets, negatives, log_counts, bias)
    wanted = 0
    for state, target in zip(tensors[0], targets.tolist(), strict=True):
        scores = tensors[1] @ state + (tensors[2] if with_bias else 0)
        terms = [scores[target].exp()]
        terms += [
            scores[item].exp() / count.exp()
            for item, count in zip(negatives.tolist(), log_counts, strict=True)
            if item != target
        ]
        wanted = wanted + sum(terms).log() - scores[target]
    torch.testing.assert_close(found, wanted)
    leaves = tensors[: 2 + with_bias]
    for gradient, expected in zip(
        torch.autograd.grad(found, leaves), torch.autograd.grad(wanted, leaves), strict=True
    ):
        torch.testing.assert_close(gradient, expected)


def test_sampled_gradients_come_to_those_over_all_items():
    """Whatever the items are drawn by: the error of the mean gradient falls with the number of negatives, and goes."""
    tensors, targets = make_inputs(scale=1.0)
    _, wanted = expected_of(tensors, targets)
    generator = torch.Generator().manual_seed(1)
    for probabilities in (torch.full((VOCABULARY,), 1 / VOCABULARY), torch.arange(1, VOCABULARY + 1) / 66):
        errors = []
        for number in (8, 64, 20000):
            sums = [torch.zeros_like(tensor) for tensor in tensors]
            draws = 20 if number < 1000 else 4
            for _ in range(draws):
                negatives = torch.multinomial(probabilities, number, replacement=True, generator=generator)
                log_counts = (number * probabilities.double()[negatives]).log()
                loss = sampled_cross_entropy(*tensors[:2], targets, negatives, log_counts, tensors[2])
                sums = [a + b / draws for a, b in zip(sums, torch.autograd.grad(loss, tensors), strict=True)]
            errors.append(max(((a - b).norm() / b.norm()).item() for a, b in zip(sums, wanted, strict=True)))
        assert errors[0] > errors[1] > errors[2] and errors[2] < 0.02, errors
    uncorrected = sampled_cross_entropy(*tensors[:2], targets, negatives, 0.0, tensors[2])
    far = torch.autograd.grad(uncorrected, tensors)
    assert max(((a - b).norm() / b.norm()).item() for a, b in zip(far, wanted, strict=True)) > 0.2


def test_sampled_cross_entropy_at_its_ends():
    tensors, targets = make_inputs(torch.float32, scale=1e3)
    negatives = torch.arange(4)
    loss = sampled_cross_entropy(*tensors[:2], targets, negatives, -3.0, tensors[2])
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, tensors))
    nothing = sampled_cross_entropy(tensors[0][:0], tensors[1], targets[:0], negatives)
    assert nothing.item() == 0
    # all negatives are the target: nothing to tell it from
    alone = sampled_cross_entropy(tensors[0][:1], tensors[1], targets[:1], targets[:1].repeat(3))
    assert alone.item() == 0
    assert all(gradient.eq(0).all() for gradient in torch.autograd.grad(alone, tensors[:2]))
    halves = [tensor.detach().bfloat16() for tensor in make_inputs(scale=1.0)[0]]
    found = sampled_cross_entropy(halves[0], halves[1], targets, negatives, 0.5)
    exact = sampled_cross_entropy(halves[0].double(), halves[1].double(), targets, negatives, 0.5)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=0.02, atol=0.02)
