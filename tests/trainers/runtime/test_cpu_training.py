"""Dropout with cheap random numbers: the same distribution, the same gradients, and the Trainer's random state.

And parts of a batch: every row once, no more padding than needed, and the gradient of the whole batch.
"""

import copy

import pytest
import torch
from torch import nn
from transformers import set_seed

from modeling_utgrec import UTGRecConfig, UTGRecForConditionalGeneration
from trainers.runtime import cpu_training
from trainers.runtime.cpu_training import STEPS, CpuDropout, length_parts, use_cpu_dropout

LEVELS = 3


@pytest.mark.parametrize("p", [0.1, 0.5, 0.93])
def test_share_and_scale(p):
    torch.manual_seed(0)
    ones = torch.ones(1000, 1001)
    output = CpuDropout(p)(ones)
    kept = output != 0
    deviation = (p * (1 - p) / ones.numel()) ** 0.5
    assert abs(1 - kept.double().mean().item() - p) < 4 * deviation + 1 / STEPS
    assert output[kept].unique().tolist() == pytest.approx([1 / (1 - p)], rel=1e-3)
    assert output.mean().item() == pytest.approx(1, abs=4 * deviation / (1 - p))
    # neither rows nor columns, nor neighbours that share a random number, go together
    dropped = (~kept).double()
    for a, b in ((dropped[:, 1:], dropped[:, :-1]), (dropped[1:], dropped[:-1]), (dropped[:, 4:], dropped[:, :-4])):
        assert abs(((a - p) * (b - p)).mean().item()) < 5 * p * (1 - p) / ones.numel() ** 0.5


def test_gradient_is_that_of_what_was_kept():
    torch.manual_seed(1)
    states = torch.randn(7, 5, dtype=torch.double, requires_grad=True)  # 35 elements, no multiple of 4
    output = CpuDropout(0.3)(states)
    weights = torch.randn_like(output)
    (output * weights).sum().backward()
    torch.testing.assert_close(output, torch.where(output != 0, states / (1 - round(0.3 * STEPS) / STEPS), 0))
    torch.testing.assert_close(states.grad, torch.where(output != 0, weights / (1 - round(0.3 * STEPS) / STEPS), 0))


def test_seeds_repeat_the_draw_and_precision_stays():
    states, dropout = torch.randn(50, 3).bfloat16(), CpuDropout(0.5)
    torch.manual_seed(2)
    first = dropout(states)
    assert first.dtype == torch.bfloat16 and not torch.equal(first, dropout(states))
    torch.manual_seed(2)
    assert torch.equal(first, dropout(states))


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_nothing_and_everything(p):
    torch.testing.assert_close(CpuDropout(p)(torch.ones(5)), torch.full((5,), 1 - p))


@pytest.mark.parametrize("dropped", [1, STEPS - 1])
def test_the_least_and_the_most_likely_steps(dropped):
    """Of a million elements 16 are of the rare kind: neither none nor twice as many."""
    torch.manual_seed(0)
    output = CpuDropout(dropped / STEPS)(torch.ones(2**20))
    rare = (output == 0).sum() if dropped == 1 else (output != 0).sum()
    assert 4 <= rare <= 28  # three standard deviations


def test_swapped_in_a_model_and_off_in_evaluation():
    class Other(nn.Dropout):
        pass

    model = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.2), nn.Sequential(nn.Dropout(0.4), Other(0.5)))
    model.append(model[1])
    model[2].eval()
    state = model.state_dict().keys()
    use_cpu_dropout(model)
    assert [type(module) for module in (model[1], *model[2])] == [CpuDropout, CpuDropout, Other]
    assert model[3] is model[1], "a module that stands in two places stays one"
    assert [model[1].training, model[2][0].training] == [True, False]
    assert (model[1].p, model[2][0].p) == (0.2, 0.4) and model.state_dict().keys() == state
    states = torch.randn(4, 2)
    assert torch.equal(model.eval()(states), model[0](states))


def make_batch(rows, longest=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = LEVELS * torch.randint(1, longest + 1, (rows,), generator=generator)
    mask = (torch.arange(LEVELS * longest) < lengths[:, None]).long()
    tokens = torch.randint(2, 14, mask.shape, generator=generator)
    return {
        "input_ids": tokens * mask,
        "attention_mask": mask,
        "labels": torch.randint(2, 14, (rows, LEVELS), generator=generator),
    }


@pytest.mark.parametrize(("rows", "num_parts"), [(1, 1), (9, 1), (10, 2), (23, 4), (500, 6)])
def test_rows_and_columns(rows, num_parts):
    batch = make_batch(rows)
    parts = length_parts(batch, least_rows=5, least_tokens=1, most_parts=6)
    assert len(parts) == num_parts and sum(share for share, _ in parts) == pytest.approx(1)
    found, longest = [], 0
    for share, part in parts:
        assert share == len(part["labels"]) / rows and (num_parts == 1 or len(part["labels"]) >= 5)
        lengths = part["attention_mask"].sum(1)
        assert lengths.min() >= longest
        longest = int(lengths.max())
        if num_parts > 1:
            assert part["input_ids"].shape[1] == part["attention_mask"].shape[1] == longest
        for ids, mask, labels in zip(part["input_ids"], part["attention_mask"], part["labels"], strict=True):
            found.append((tuple(ids[mask > 0].tolist()), tuple(labels.tolist())))
    expected = zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True)
    assert sorted(found) == sorted((tuple(i[m > 0].tolist()), tuple(t.tolist())) for i, m, t in expected)


def test_small_batches_stay_whole():
    batch = make_batch(100)
    num_tokens = batch["attention_mask"].numel()
    for least_tokens, num_parts in ((num_tokens, 1), (num_tokens // 2, 2), (num_tokens // 3, 3), (num_tokens + 1, 1)):
        assert len(length_parts(batch, least_rows=5, least_tokens=least_tokens)) == num_parts


def test_gradients_add_up_to_those_of_the_batch(float32_tolerance):
    set_seed(0)
    sizes = dict(d_model=16, d_ff=24, num_heads=2, d_kv=8, num_layers=2, dropout_rate=0.0)
    model = UTGRecForConditionalGeneration(UTGRecConfig(root_codebook_size=6, leaf_codebook_size=6, **sizes)).double()
    other, batch = copy.deepcopy(model), make_batch(23)
    loss = model(**batch).loss
    loss.backward()
    total = 0.0
    for share, part in length_parts(batch, least_rows=4, least_tokens=1):
        part_loss = share * other(**part).loss
        part_loss.backward()
        total += part_loss.detach()
    # T5's norms and softmax are in float32 whatever the model is in
    torch.testing.assert_close(total, loss.detach(), **float32_tolerance())
    for (name, parameter), same in zip(model.named_parameters(), other.parameters(), strict=True):
        allowed = float32_tolerance(4, parameter.grad)
        torch.testing.assert_close(same.grad, parameter.grad, **allowed, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize(
    ("capabilities", "able"), [({"amx_bf16": True}, True), ({"avx512_bf16": True}, True), ({"avx2": True}, False)]
)
def test_instructions_for_bfloat16(monkeypatch, capabilities, able):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert cpu_training.multiplies_bfloat16() == able
