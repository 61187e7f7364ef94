"""Layers written out for beam search over few steps: what `generate` computes, without what it computes twice.

On a CPU they can be faster still, see [`fast_cpu`]; that is off by default.
"""

import os
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import ENV_VARS_TRUE_VALUES

# The C library of Linux keeps freed memory for the next request up to a limit that it learns from the largest block
# that was freed, if that is below 32 MiB. Every layer takes and frees the same memory: given back to the system in
# between and fetched again, page by page, it costs a tenth of the time.
LARGEST_BLOCK = 32 * 2**20 - 2**16


def fast_cpu() -> bool:
    """
    Whether the environment variable `UTGREC_FAST_CPU` is set to 1: the one switch for what makes a CPU faster by
    means that only the owner of the machine should choose. Read anew for every search.

    With it, products of float32 (and of bfloat16, where the processor has instructions for it) are an operator of
    torch that is private, oneDNN's `torch.ops.mkldnn._linear_pointwise`, and the allocator of the C library is told
    once per search to keep freed memory. Scores differ in the last digits, as sums have another order.
    """
    return os.environ.get("UTGREC_FAST_CPU", "").upper() in ENV_VARS_TRUE_VALUES


@cache
def fused_dtypes() -> tuple[torch.dtype, ...]:
    """
    Types for which torch has oneDNN's product, which torch.compile uses too: on some processors more than twice the
    rate of the BLAS behind `torch.nn.functional.linear`, and ReLU costs nothing.
    """
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return ()
    # none in bfloat16 for processors without such instructions
    return (torch.float32, torch.bfloat16) if torch.ops.mkldnn._is_mkldnn_bf16_supported() else (torch.float32,)


class Projection:
    """
    Linear maps of one input, after a norm of it; the outputs beside each other in the last dimension. `precise`: in
    float32, whatever the type of the model.
    """

    def __init__(self, *modules: nn.Module, norm: Any = None, relu: bool = False, precise: bool = False):
        self.norm = norm
        self.relu = relu
        self.modules = modules
        self.fast = fast_cpu()
        self.weight: Tensor | None = None
        weights = [module.weight for module in modules if isinstance(module, nn.Linear) and _is_plain(module)]
        if len(weights) == len(modules):
            self.weight = torch.cat(weights).detach() if len(weights) > 1 else weights[0].detach()
            if precise:
                self.weight = self.weight.float()

    def __call__(self, states: Tensor, residual: Tensor | None = None) -> Tensor:
        """The outputs, added to `residual` if it is given."""
        if self.norm is not None:
            states = rms_norm(states, self.norm)
        if self.weight is not None:
            output = self._product(states.to(self.weight.dtype), self.weight)
        else:
            output = torch.cat([module(states) for module in self.modules], dim=-1)
            output = output.relu_() if self.relu else output
        if residual is None:
            return output
        return _clamp_half(output.add_(residual) if output.dtype == residual.dtype else residual + output)

    def _product(self, states: Tensor, weight: Tensor) -> Tensor:
        fused = self.fast and states.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if fused and states.dtype in fused_dtypes():
            activation = "relu" if self.relu else "none"
            return torch.ops.mkldnn._linear_pointwise(states, weight, None, activation, [], "")
        output = nn.functional.linear(states, weight)
        return output.relu_() if self.relu else output


def _is_plain(module: nn.Linear) -> bool:
    """Whether calling the module is no more than a product with its weight."""
    hooked = bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))
    return type(module) is nn.Linear and module.bias is None and not hooked and module.weight.device.type != "meta"


def rms_norm(states: Tensor, norm: Any) -> Tensor:
    """The norm of T5 and Qwen, of the last dimension; `norm` is their module, with `weight` and `variance_epsilon`."""
    if states.dtype != norm.weight.dtype:  # float32 states of a half-precision model
        return norm(states)
    if states.dtype != torch.float32:
        return nn.functional.rms_norm(states, norm.weight.shape, norm.weight, norm.variance_epsilon)
    # the same, without a tensor of squares
    scale = torch.linalg.vector_norm(states, dim=-1, keepdim=True).square_()
    scale = scale.mul_(1 / states.shape[-1]).add_(norm.variance_epsilon).rsqrt_()
    return (states * scale).mul_(norm.weight)


def keep_freed_memory() -> None:
    """Before a search with [`fast_cpu`]: lets the allocator keep the memory of its steps."""
    if fast_cpu():
        torch.empty(LARGEST_BLOCK, dtype=torch.uint8)


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask with 0 at what is not read to one with 0 at what is read and the lowest number elsewhere."""
    # the lowest finite number as transformers uses, not -inf: an empty history must not give NaN
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(mask == 0, torch.finfo(dtype).min)


def split_heads(states: Tensor, num_heads: int) -> Tensor:
    """`[B, T, heads·d_kv]` to `[B·heads, T, d_kv]` without gaps."""
    return states.unflatten(-1, (num_heads, -1)).transpose(1, 2).flatten(0, 1).contiguous()


class BeamPrefixes:
    """
    The keys and values of each depth stay where they were written; a beam knows the rows of its ancestors.

    Attributes:
        keys_values (`list[list[torch.Tensor]]`): per depth and layer, `[B, W, 2, heads, head_dim]` with the W of then.
        ancestors (`list[torch.Tensor]`): per depth, row in `keys_values` of each beam's prefix, `[B, W]`.
    """

    def __init__(self) -> None:
        self.keys_values: list[list[Tensor]] = []
        self.ancestors: list[Tensor] = []

    @property
    def depth(self) -> int:
        """Number of tokens of each beam."""
        return len(self.ancestors)

    def reorder(self, parents: Tensor) -> None:
        """Makes beam `w` one that continues beam `parents[:, w]`, `[B, W]`."""
        self.ancestors = [rows.gather(1, parents) for rows in self.ancestors]

    def append(self, tokens: Tensor) -> None:
        """Begins the depth of tokens `[B, W]`, one for each beam."""
        self.ancestors.append(torch.arange(tokens.numel(), device=tokens.device).view(tokens.shape))
        self.keys_values.append([])

    def extend(self, own: Tensor) -> list[Tensor]:
        """
        Keeps the keys and values `[B, W, 2, heads, head_dim]` of the last depth's next layer.

        Returns:
            `list[torch.Tensor]`: those of every depth, for each beam its own prefix's: `[B, W or 1, 2, heads,
            head_dim]`.
        """
        layer = len(self.keys_values[-1])
        self.keys_values[-1].append(own)
        found = []
        for depth, rows in enumerate(self.ancestors[:-1]):
            past = self.keys_values[depth][layer]
            if past.shape[1] > 1:  # a single beam is every beam's ancestor and broadcasts
                past = past.flatten(0, 1).index_select(0, rows.flatten()).view(own.shape)
            found.append(past)
        return [*found, own]


def _clamp_half(states: Tensor) -> Tensor:
    """T5 overflows in float16; its blocks clamp, and so must we. Other networks' states are far from infinity."""
    if states.dtype != torch.float16:
        return states
    highest = torch.finfo(states.dtype).max
    bound = torch.where(states.isinf().any(), highest - 1000, highest)
    return states.clamp(min=-bound, max=bound)


__all__ = [
    "BeamPrefixes",
    "Projection",
    "additive",
    "fast_cpu",
    "fused_dtypes",
    "keep_freed_memory",
    "rms_norm",
    "split_heads",
]
