"""Layers written out for beam search over few steps: what `generate` computes, without what it computes twice."""

import torch
from torch import Tensor, nn

# oneDNN's product, which torch.compile uses too: on some processors more than twice the rate of the BLAS behind
# `torch.nn.functional.linear` in float32, and ReLU costs nothing.
_FUSED_LINEAR = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
FUSED_DTYPES: tuple[torch.dtype, ...] = () if _FUSED_LINEAR is None else (torch.float32,)
# It has none in bfloat16 for processors without such instructions.
if _FUSED_LINEAR is not None and torch.ops.mkldnn._is_mkldnn_bf16_supported():
    FUSED_DTYPES += (torch.bfloat16,)

# The C library of Linux keeps freed memory for the next request up to a limit that it learns from the largest block
# that was freed, if that is below 32 MiB. Every layer takes and frees the same memory: given back to the system in
# between and fetched again, page by page, it costs a tenth of the time.
LARGEST_BLOCK = 32 * 2**20 - 2**16


class Projection:
    """Linear maps of one input, after a norm of it; the outputs beside each other in the last dimension."""

    def __init__(self, *modules: nn.Module, norm: nn.Module | None = None, relu: bool = False):
        self.norm = norm
        self.relu = relu
        self.modules = modules
        self.weight = None
        if all(map(_is_plain, modules)):
            weights = [module.weight for module in modules]
            self.weight = torch.cat(weights).detach() if len(weights) > 1 else weights[0].detach()

    def __call__(self, states: Tensor, residual: Tensor | None = None) -> Tensor:
        """The outputs, added to `residual` if it is given."""
        if self.norm is not None:
            states = rms_norm(states, self.norm)
        if self.weight is not None:
            output = _linear(states.to(self.weight.dtype), self.weight, self.relu)
        else:
            output = torch.cat([module(states) for module in self.modules], dim=-1)
            output = output.relu_() if self.relu else output
        if residual is None:
            return output
        return _clamp_half(output.add_(residual) if output.dtype == residual.dtype else residual + output)


def _is_plain(module: nn.Module) -> bool:
    """Whether calling the module is no more than a product with its weight."""
    hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    return type(module) is nn.Linear and module.bias is None and not hooked and module.weight.device.type != "meta"


def _linear(states: Tensor, weight: Tensor, relu: bool) -> Tensor:
    fits = states.dtype in FUSED_DTYPES and states.device.type == "cpu"
    if fits and not torch.is_autocast_enabled("cpu"):
        return _FUSED_LINEAR(states, weight, None, "relu" if relu else "none", [], "")
    output = nn.functional.linear(states, weight)
    return output.relu_() if relu else output


def rms_norm(states: Tensor, norm: nn.Module) -> Tensor:
    """The norm of T5 and Qwen, of the last dimension."""
    if states.dtype != norm.weight.dtype:  # float32 states of a half-precision model
        return norm(states)
    if states.dtype != torch.float32:
        return nn.functional.rms_norm(states, norm.weight.shape, norm.weight, norm.variance_epsilon)
    # the same, without a tensor of squares
    scale = torch.linalg.vector_norm(states, dim=-1, keepdim=True).square_()
    scale = scale.mul_(1 / states.shape[-1]).add_(norm.variance_epsilon).rsqrt_()
    return (states * scale).mul_(norm.weight)


def keep_freed_memory() -> None:
    """Before a search: lets the allocator keep the memory of its steps."""
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

    def __init__(self):
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


__all__ = ["FUSED_DTYPES", "BeamPrefixes", "Projection", "additive", "keep_freed_memory", "rms_norm", "split_heads"]
