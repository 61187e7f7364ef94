"""Mean of the representations that a codebook quantizes, of each level."""

import torch
import torch.distributed as dist
from torch import nn

MOMENTUM = 0.1  # of a batch in the running mean, as in torch's batch normalization


class RunningMean(nn.Module):
    """
    The mean that is taken away from representations before they are quantized: in training that of the batch, over all
    processes, without gradient; afterwards a running mean of the batches. An adapter that learns moves all
    representations together, by more in a few steps than they differ: codes cannot follow, and few of them, those on
    the near side, are left with all items.

    Args:
        num_levels (`int`): levels of codes.
        dim (`int`): width of the representations.
    """

    mean: torch.Tensor
    batches: torch.Tensor

    def __init__(self, num_levels: int, dim: int):
        super().__init__()
        # In float32 whatever the weights: a mean that is rounded to bfloat16 soon moves no more.
        self.register_buffer("mean", torch.zeros(num_levels, dim, dtype=torch.float32))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def forward(self, representations: torch.Tensor) -> torch.Tensor:
        """The mean of representations `[B, L, D]`, float32 `[L, D]`."""
        if not self.training:
            return self.mean.float()
        total = representations.float().sum(dim=0)
        count = torch.full((), len(representations), dtype=torch.float32, device=total.device)
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(total)
            dist.all_reduce(count)
        mean = total / count
        self.batches += 1
        self.mean.lerp_(mean.to(self.mean.dtype), max(MOMENTUM, 1 / int(self.batches)))
        return mean
