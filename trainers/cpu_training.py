"""Dropout that costs a CPU little: a quarter of the random numbers, and a mask that is made and used by vectors.

PyTorch draws a random number for each element, which on a CPU takes longer than a matrix product with few columns: a
fifth of a T5's training. Here 64 random bits serve four elements, so a probability is a multiple of 2^-16 (0.1 becomes
0.100006), and what is kept is scaled by exactly that.
"""

from typing import Any

import torch
from torch import Tensor, nn

STEPS = 2**16  # of the probability


class _CpuDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, dropped: int) -> Tensor:
        # int64 from its least value on without an end: all 64 bits are random
        bits = torch.empty((states.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        bits = bits.view(torch.int16)[: states.numel()].view(states.shape)
        # A mask of the states' type: comparing, and choosing by a mask of bool, take four to eight times as long.
        kept = torch.ge(bits, dropped - STEPS // 2, out=torch.empty(states.shape, dtype=states.dtype))
        ctx.save_for_backward(kept)
        ctx.scale = STEPS / (STEPS - dropped)
        return (states * kept).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return (gradient * kept).mul_(ctx.scale), None


class CpuDropout(nn.Dropout):
    """[`~torch.nn.Dropout`] with other random numbers on a CPU, and the same elsewhere."""

    def forward(self, states: Tensor) -> Tensor:
        dropped = round(self.p * STEPS)
        if not self.training or states.device.type != "cpu" or dropped in (0, STEPS):
            return super().forward(states)
        return _CpuDropout.apply(states, dropped)


def use_cpu_dropout(model: nn.Module) -> None:
    """Makes the dropout modules of a model [`CpuDropout`]; nothing of it is saved."""
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = CpuDropout
