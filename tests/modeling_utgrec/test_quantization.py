"""Codebooks against brute force in float64."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modeling_utgrec.quantization import (
    PlainCodebook,
    ResidualCodebooks,
    SimVQCodebook,
    TreeCodebooks,
    balanced_codes,
    code_usage,
    codebook_loss,
    inverse_prefix_residual,
    prefix_residual,
)

SIZES = {1: [5], 2: [5, 7], 4: [5, 7, 7, 7]}
DIM = 6


def tree(num_levels: int = 4, beta: float = 0.25) -> TreeCodebooks:
    torch.manual_seed(0)
    return TreeCodebooks(SIZES[num_levels], DIM, beta)


def representations(num_levels: int = 4, batch: int = 11) -> torch.Tensor:
    return torch.randn(batch, num_levels, DIM, generator=torch.Generator().manual_seed(1))


def nearest_by_hand(x: np.ndarray, vectors: np.ndarray) -> int:
    best, best_distance = -1, math.inf
    for k, vector in enumerate(vectors):
        distance = sum((a - b) ** 2 for a, b in zip(x, vector, strict=True))
        if distance < best_distance:
            best, best_distance = k, distance
    return best


def vectors_by_hand(codebook) -> np.ndarray:
    codes = codebook.codes.detach().double().numpy()
    if isinstance(codebook, PlainCodebook):
        return codes
    return codes @ codebook.projection.weight.detach().double().numpy().T


@pytest.mark.parametrize("num_levels", SIZES)
def test_tree_codebooks_by_hand(num_levels):
    quantizer, z = tree(num_levels, beta=0.4), representations(num_levels)
    output = quantizer(z)
    root = vectors_by_hand(quantizer.root)
    leaf = None if quantizer.leaf is None else vectors_by_hand(quantizer.leaf)
    z = z.double().numpy()
    root_errors, leaf_errors = [], []
    for row in range(len(z)):
        total = np.zeros(DIM)
        for level in range(num_levels):
            residual = z[row, level] - (z[row, level - 1] if level else 0)
            vectors = leaf if level else root
            code = nearest_by_hand(residual, vectors)
            assert output.codes[row, level] == code
            (leaf_errors if level else root_errors).extend((residual - vectors[code]) ** 2)
            total += vectors[code]
            np.testing.assert_allclose(output.residuals[row, level].detach(), residual, atol=1e-6)
            np.testing.assert_allclose(output.quantized[row, level].detach(), total, atol=1e-5)
    # ||sg[z'] - e||^2 and ||z' - sg[e]||^2 have one value, so each codebook's loss is (1 + beta) times it.
    parts = [1.4 * np.mean(errors) for errors in (root_errors, leaf_errors) if errors]
    assert output.loss.item() == pytest.approx(np.mean(parts), rel=1e-5)


def test_residual_codebooks_by_hand():
    torch.manual_seed(0)
    quantizer, z = ResidualCodebooks([5, 7, 4], DIM, 0.4), representations(3)
    output = quantizer(z)
    z = z.double().numpy()
    errors = [[], [], []]
    for row in range(len(z)):
        above = np.zeros(DIM)
        for level, codebook in enumerate(quantizer.codebooks):
            vectors = vectors_by_hand(codebook)
            residual = z[row, level] - above
            code = nearest_by_hand(residual, vectors)
            assert output.codes[row, level] == code
            errors[level].extend((residual - vectors[code]) ** 2)
            above = above + vectors[code]
            np.testing.assert_allclose(output.residuals[row, level].detach(), residual, atol=1e-6)
            np.testing.assert_allclose(output.quantized[row, level].detach(), above, atol=1e-5)
    assert output.loss.item() == pytest.approx(1.4 * np.mean([np.mean(e) for e in errors]), rel=1e-5)


@pytest.mark.parametrize("num_codes", [3, 64, 257])
def test_a_tie_goes_to_the_lower_code(num_codes):
    codebook = PlainCodebook(num_codes, 2)
    codebook.set_vectors(torch.tensor([[1.0, 0.0]]).repeat(num_codes, 1))
    assert codebook.nearest(torch.randn(50, 2), codebook.vectors).unique().tolist() == [0]
    distant = torch.tensor([[5.0, 5.0], [1.0, 0.0], [-1.0, 0.0]])
    assert codebook.nearest(torch.tensor([[0.0, 1.0], [0.0, 0.0]]), distant).tolist() == [1, 1]


@settings(max_examples=50, deadline=None)
@given(
    hnp.arrays(
        np.float64,
        hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=5),
        elements=st.floats(-1e3, 1e3, allow_subnormal=False),
    )
)
def test_inverse_prefix_residual_undoes_prefix_residual(values):
    z = torch.from_numpy(values)
    residuals = prefix_residual(z)
    torch.testing.assert_close(residuals[:, 0], z[:, 0], rtol=0, atol=0)
    torch.testing.assert_close(inverse_prefix_residual(residuals), z, rtol=0, atol=1e-9)
    torch.testing.assert_close(prefix_residual(inverse_prefix_residual(z)), z, rtol=0, atol=1e-9)


@pytest.mark.parametrize("quantizer", [tree(4), ResidualCodebooks([5, 7, 4, 6], DIM, 0.25)], ids=["tree", "residual"])
def test_gradient_goes_straight_through_to_the_representations_only(quantizer):
    """The quantized representations count as the continuous ones: gradient one to each, none to the codebooks."""
    z = representations().requires_grad_()
    gradient = torch.randn(z.shape, generator=torch.Generator().manual_seed(2))
    given, *codebooks = torch.autograd.grad(
        quantizer(z).quantized, [z, *quantizer.parameters()], gradient, allow_unused=True
    )
    torch.testing.assert_close(given, gradient, rtol=0, atol=1e-5)
    assert all(each is None or not each.any() for each in codebooks)


def test_straight_through_gradient_of_the_residuals_is_the_cumulative_sums():
    quantizer, z = tree(), representations().requires_grad_()
    output = quantizer(z)
    gradient = torch.randn(z.shape)
    (of_residuals,) = torch.autograd.grad(output.quantized, output.residuals, gradient)
    for level in range(4):
        torch.testing.assert_close(of_residuals[:, level], gradient[:, level:].sum(1))


def test_gradient_of_the_losses():
    x = torch.tensor([[1.0, 2.0]], requires_grad=True)
    e = torch.tensor([[0.0, 4.0]], requires_grad=True)
    codebook_loss(x, e, 0.25).backward()
    torch.testing.assert_close(e.grad, torch.tensor([[-1.0, 2.0]]))  # codebook loss: d mean (e - x)^2
    torch.testing.assert_close(x.grad, 0.25 * torch.tensor([[1.0, -2.0]]))  # commitment


@pytest.mark.parametrize("num_levels", SIZES)
def test_loss_reaches_every_codebook_and_the_representations(num_levels):
    quantizer, z = tree(num_levels), representations(num_levels).requires_grad_()
    quantizer(z).loss.backward()
    assert z.grad.abs().sum() > 0
    for name, parameter in quantizer.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_one_gradient_moves_every_simvq_vector():
    quantizer = tree()
    before = quantizer.root.vectors.detach().clone()
    output = quantizer(representations(batch=1))
    output.loss.backward()
    with torch.no_grad():
        for parameter in quantizer.parameters():
            parameter -= 0.1 * parameter.grad
    moved = (quantizer.root.vectors - before).abs().sum(1)
    assert (moved > 0).all()


def test_each_residual_codebook_learns_from_its_own_level_only():
    """The gradient of `mean ||sg[r] - e||^2`: no level's commitment or codebook loss moves the codes above it."""
    quantizer, z = ResidualCodebooks([5, 7, 4], DIM, 0.25), representations(3)
    output = quantizer(z)
    output.loss.backward()
    for level, codebook in enumerate(quantizer.codebooks):
        wanted = torch.zeros_like(codebook.codes)
        for row, code in enumerate(output.codes[:, level].tolist()):
            wanted[code] += 2 * (codebook.codes[code] - output.residuals[row, level]).detach() / (len(z) * DIM * 3)
        torch.testing.assert_close(codebook.codes.grad, wanted)


@pytest.mark.parametrize("kind", [SimVQCodebook, PlainCodebook])
def test_set_vectors(kind):
    torch.manual_seed(0)
    codebook, wanted = kind(5, DIM), torch.randn(5, DIM)
    codebook.set_vectors(wanted)
    torch.testing.assert_close(codebook.vectors.detach(), wanted, rtol=0, atol=1e-5)
    assert codebook.codes.requires_grad


@pytest.mark.parametrize("projection", ["linear", "orthogonal"])
def test_initial_codebooks(projection):
    torch.manual_seed(0)
    codebook = SimVQCodebook(4000, 16, projection)
    assert codebook.codes.std().item() == pytest.approx(16**-0.5, rel=0.02)
    assert codebook.codes.mean().abs() < 0.01
    assert codebook.projection.bias is None
    weight = codebook.projection.weight
    if projection == "orthogonal":  # keeps the vectors' spread
        torch.testing.assert_close(weight @ weight.T, torch.eye(16), rtol=0, atol=1e-5)
    else:  # as nn.Linear: uniform within 1/√16
        assert weight.abs().max() <= 0.25 and weight.std().item() == pytest.approx(0.25 / math.sqrt(3), rel=0.1)


@pytest.mark.parametrize("quantizer", [tree(4), ResidualCodebooks([5, 7, 4, 6], DIM, 0.25)], ids=["tree", "residual"])
def test_quantized_representations_are_sums_of_the_codes_vectors(quantizer):
    output = quantizer(representations())
    vectors = quantizer.level_vectors()
    for item, codes in enumerate(output.codes.tolist()):
        total = torch.zeros(DIM)
        for level, code in enumerate(codes):
            total = total + vectors[level][code]
            torch.testing.assert_close(output.quantized[item, level], total, rtol=0, atol=1e-5)


def test_levels_and_codebooks_belong_together():
    quantizer = tree(4)
    vectors = quantizer.level_vectors()
    assert [v.shape for v in vectors] == [(5, DIM)] + [(7, DIM)] * 3
    assert [quantizer.levels_of(i) for i in range(len(quantizer.codebooks))] == [[0], [1, 2, 3]]
    assert len(tree(1).codebooks) == 1
    residual = ResidualCodebooks([5, 7, 4], DIM, 0.25)
    assert [v.shape for v in residual.level_vectors()] == [(5, DIM), (7, DIM), (4, DIM)]
    assert [residual.levels_of(i) for i in range(3)] == [[0], [1], [2]]


def test_codes_are_chosen_in_float32_under_autocast():
    """Two codes that bfloat16 can't tell apart."""
    codebook = PlainCodebook(2, 1)
    codebook.set_vectors(torch.tensor([[100.0], [100.1]]))
    x = torch.tensor([[100.09], [100.01]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert codebook.nearest(x, codebook.vectors).tolist() == [1, 0]


def test_tree_codebooks_give_the_same_codes_under_autocast():
    """Codes of a training in bfloat16 are those that the saved codebooks give: the projection stays in float32."""
    torch.manual_seed(0)
    quantizer = TreeCodebooks([64, 256, 256], 32, 0.25)
    z = torch.randn(400, 3, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = quantizer(z)
        vectors = quantizer.level_vectors()
    assert torch.equal(output.codes, quantizer(z).codes)
    assert torch.equal(vectors[1], quantizer.level_vectors()[1])


def test_code_usage_by_hand():
    codes = torch.tensor([0, 0, 0, 0, 2, 2, 5, 7])
    usage = code_usage(codes, 8)
    entropy = -(0.5 * math.log(0.5) + 0.25 * math.log(0.25) + 2 * 0.125 * math.log(0.125))
    assert usage == {"used": 4 / 8, "perplexity": pytest.approx(math.exp(entropy))}
    assert code_usage(torch.arange(8), 8) == {"used": 1.0, "perplexity": pytest.approx(8)}
    assert code_usage(torch.full((3,), 4), 8) == {"used": 1 / 8, "perplexity": pytest.approx(1)}


@pytest.mark.parametrize("epsilon", [0.05, 0.2])
def test_balanced_codes_by_hand(epsilon):
    """Rows and columns of the plan are scaled in turn; nothing in logarithms."""
    distances = np.random.default_rng(0).uniform(2, 5, size=(24, 6))
    middle, half = (distances.max() + distances.min()) / 2, (distances.max() - distances.min()) / 2
    plan = np.exp(-(distances - middle) / (half + 1e-5) / epsilon)
    for _ in range(50):
        plan = plan / plan.sum(axis=1, keepdims=True) / len(plan)
        plan = plan / plan.sum(axis=0, keepdims=True) / plan.shape[1]
    found = balanced_codes(torch.from_numpy(distances).requires_grad_(), epsilon)
    assert found.tolist() == plan.argmax(axis=1).tolist() and not found.requires_grad


def test_balanced_codes_are_evenly_used_and_near():
    """Two thirds of the items lie nearest to one code; a tiny epsilon underflows nothing."""
    rng = np.random.default_rng(1)
    distances = torch.from_numpy(rng.uniform(0, 1, size=(32, 8))).float()
    distances[:22, 0] /= 10
    assert torch.bincount(distances.argmin(1), minlength=8).max() >= 16
    for epsilon in (0.003, 0.05):
        codes = balanced_codes(distances, epsilon)
        assert torch.bincount(codes, minlength=8).max() <= 9
        assert distances.gather(1, codes[:, None]).mean() < distances.mean() / 2
    apart = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert balanced_codes(apart, 0.003).tolist() == [0, 1]
    assert balanced_codes(torch.ones(3, 4), 0.003).shape == (3,)


@pytest.mark.distributed
def test_rows_that_do_not_count_get_the_nearest_codes(run_two_processes, tmp_path):
    """Also where there are more of them than those of all processes that count."""
    run_two_processes(__file__, tmp_path)
    counted, others = (torch.load(tmp_path / f"codes{rank}.pt") for rank in (0, 1))
    quantizer, z = residual_codebooks(), representations(2)
    assert torch.equal(counted, quantizer(z[:3], sinkhorn_epsilon=0.05).codes)
    assert torch.equal(others, quantizer(z[3:]).codes)


def residual_codebooks() -> ResidualCodebooks:
    torch.manual_seed(0)
    return ResidualCodebooks(SIZES[2], DIM, 0.25)


def run_worker(folder: str) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    rows = representations(2)[3:] if rank else representations(2)[:3]
    codes = residual_codebooks()(rows, sinkhorn_epsilon=0.05, counted=rank == 0).codes
    torch.save(codes, Path(folder) / f"codes{rank}.pt")
    dist.barrier()
