"""Dropout with cheap random numbers: the same distribution, the same gradients, and the Trainer's random state."""

import pytest
import torch
from torch import nn

from trainers.cpu_training import STEPS, CpuDropout, use_cpu_dropout


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


def test_swapped_in_a_model_and_off_in_evaluation():
    class Other(nn.Dropout):
        pass

    model = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.2), nn.Sequential(nn.Dropout(0.4), Other(0.5)))
    state = model.state_dict().keys()
    use_cpu_dropout(model)
    assert [type(module) for module in (model[1], *model[2])] == [CpuDropout, CpuDropout, Other]
    assert (model[1].p, model[2][0].p) == (0.2, 0.4) and model.state_dict().keys() == state
    states = torch.randn(4, 2)
    assert torch.equal(model.eval()(states), model[0](states))
