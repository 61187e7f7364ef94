"""Training on a CPU: cheap dropout, and batches in parts of like length.

PyTorch draws a random number for each element of a dropout, which on a CPU takes longer than a matrix product with few
columns: a fifth of a T5's training. In [`CpuDropout`] 64 random bits serve four elements, so a probability is a
multiple of 2^-16 (0.1 becomes 0.100006), and what is kept is scaled by exactly that; the mask is made and used by
vectors. [`length_parts`] saves most of a batch's padding and gives the gradient of the whole.
"""

from typing import Any

import torch
from torch import Tensor, nn

STEPS = 2**16  # of the probability of dropout
# Below, a part costs more than it saves. With 8 parts, batches of Amazon Beauty hold 1.2 times the tokens that are no
# padding, undivided 3 times.
LEAST_ROWS = 32
LEAST_TOKENS = 2048  # of the whole batch for each part
MOST_PARTS = 8


def multiplies_bfloat16() -> bool:
    """Whether the CPU has instructions for matrix products in bfloat16, as far as torch can tell."""
    ask = getattr(torch.cpu, "get_capabilities", None)
    return ask is not None and any(ask().get(name) for name in ("amx_bf16", "avx512_bf16"))


class _CpuDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, dropped: int) -> Tensor:
        # int64 from its least value on without an end: all 64 bits are random
        bits = torch.empty((states.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        bits = bits.view(torch.int16)[: states.numel()].view(states.shape)
        # A byte for an element, and not bool: choosing by a mask of bool takes four times as long.
        kept = torch.ge(bits, dropped - STEPS // 2, out=torch.empty(states.shape, dtype=torch.int8))
        ctx.save_for_backward(kept)
        ctx.scale = STEPS / (STEPS - dropped)
        return kept.to(states.dtype).mul_(states).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return kept.to(gradient.dtype).mul_(gradient).mul_(ctx.scale), None


class CpuDropout(nn.Dropout):
    """[`~torch.nn.Dropout`] with other random numbers on a CPU, and the same elsewhere."""

    def forward(self, states: Tensor) -> Tensor:
        dropped = round(self.p * STEPS)
        if not self.training or states.device.type != "cpu" or dropped in (0, STEPS):
            return super().forward(states)
        return _CpuDropout.apply(states, dropped)


def use_cpu_dropout(model: nn.Module) -> None:
    """Replaces the dropout modules of a model by [`CpuDropout`]. Nothing of it is saved: neither has a state."""
    replaced: dict[nn.Module, nn.Module] = {}  # a module that stands in several places stays one
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if type(module) is nn.Dropout:
            if module not in replaced:
                replaced[module] = CpuDropout(module.p, module.inplace).train(module.training)
            model.set_submodule(name, replaced[module])


def length_parts(
    batch: dict[str, Tensor],
    least_rows: int = LEAST_ROWS,
    least_tokens: int = LEAST_TOKENS,
    most_parts: int = MOST_PARTS,
) -> list[tuple[float, dict[str, Tensor]]]:
    """
    Cuts a batch by the lengths of its rows. The mean over the batch is the sum of the parts' means, each times its
    share; so are the gradients, and a part needs no more columns than its longest row.

    Args:
        batch (`dict[str, Tensor]`): `attention_mask` `[B, T]`, 0 on padding (on the right), `input_ids` `[B, T]`, and
            anything with a row for each of theirs.
        least_rows (`int`, *optional*, defaults to `LEAST_ROWS`): of a part, unless the batch has fewer.
        least_tokens (`int`, *optional*, defaults to `LEAST_TOKENS`): tokens that the batch has for each part, with
            padding.
        most_parts (`int`, *optional*, defaults to `MOST_PARTS`): parts at most.

    Returns:
        Share of the rows and part, shortest rows first.
    """
    rows = len(batch["attention_mask"])
    num_parts = max(min(rows // least_rows, batch["attention_mask"].numel() // least_tokens, most_parts), 1)
    if num_parts == 1:
        return [(1.0, batch)]
    lengths = batch["attention_mask"].ne(0).sum(dim=1)
    parts = []
    for chosen in torch.tensor_split(lengths.argsort(stable=True), num_parts):
        part = {name: value[chosen] for name, value in batch.items()}
        longest = int(lengths[chosen[-1]])
        part |= {name: part[name][:, :longest] for name in ("input_ids", "attention_mask")}
        parts.append((len(chosen) / rows, part))
    return parts
