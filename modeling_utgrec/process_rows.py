"""Rows of the batches of all processes that train together, with gradient and without."""

from collections.abc import Callable

import torch
import torch.distributed as dist


class _GatherWithGradient(torch.autograd.Function):
    """Concatenates equally shaped tensors of all processes; the gradient flows back to the process it came from.

    `torch.distributed.nn.all_gather` would do the same, but is deprecated (torch 2.13), and with gloo it mixes up a
    gradient that does not lie in memory row by row, as that of the similarities below.
    """

    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        ctx.rows = x.shape[0]
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        start = dist.get_rank() * ctx.rows
        return gradient[start : start + ctx.rows]


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0


def gathered(x: torch.Tensor) -> torch.Tensor:
    """Equally shaped tensors of all processes, one after the other, with gradient."""
    return _GatherWithGradient.apply(x) if world_size() > 1 else x


@torch.no_grad()
def mean_over_processes(number: torch.Tensor) -> torch.Tensor:
    """Mean of a number `()` over the processes, float32: what a sum is divided by, so that the mean of what processes
    make of their rows is that of all rows together."""
    if world_size() == 1:
        return number
    total = number.to(torch.float32, copy=True)
    dist.all_reduce(total)
    return total / world_size()


@torch.no_grad()
def joined(x: torch.Tensor, counted: bool = True) -> tuple[torch.Tensor, int]:
    """
    Rows of all processes, one process after the other, without gradient.

    Args:
        x (`torch.Tensor` of shape `(rows, ...)`): of this process; another may have more or fewer rows.
        counted (`bool`, *optional*, defaults to `True`): whether they are among those that are joined: not on a
            process that has none left, and whose loss weighs nothing.

    Returns:
        `tuple[torch.Tensor, int]`: the rows, and which is the first one of this process; 0 if they are not counted.
    """
    if world_size() == 1:
        return x.detach(), 0
    rows = torch.tensor(len(x) if counted else 0, device=x.device)
    sizes = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(sizes, rows)
    counts = torch.stack(sizes).tolist()
    padded = x.new_zeros(max(counts), *x.shape[1:])
    padded[: counts[process_rank()]] = x.detach()[: counts[process_rank()]]
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    every = torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
    return every, sum(counts[: process_rank()]) if counted else 0


def over_joined(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, counted: bool) -> torch.Tensor:
    """
    A function of the rows of all processes. Its gradient is that of the mean over the processes of what each one
    returns, times its share of all rows: what a process returns is weighed as a mean over its rows is.

    Args:
        function (`Callable[[torch.Tensor], torch.Tensor]`): of `(rows, ...)`, gives `()`.
        x, counted: see [`joined`].
    """
    if world_size() == 1:
        return function(x)
    every, first = joined(x, counted)
    value = function(torch.cat([every[:first], x, every[first + len(x) :]]))
    return value.detach() + (value - value.detach()) * (len(every) / len(x))
