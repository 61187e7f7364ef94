"""Codebooks that turn an item's representations into codes (UTGRec, section 2.2.2).

Two quantizers share one interface: [`TreeCodebooks`], the paper's, and [`ResidualCodebooks`], its ablation without
tree codebooks. Both map representations `[B, L, D]` to codes `[B, L]` and back to quantized representations.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.utils import ModelOutput

from .process_rows import joined

SINKHORN_ROUNDS = 50  # as in LETTER's program


@dataclass
class QuantizerOutput(ModelOutput):
    """
    Args:
        codes (`torch.LongTensor` of shape `(batch, num_levels)`): level-local codes.
        quantized (`torch.FloatTensor` of shape `(batch, num_levels, dim)`):
            quantized representations after the inverse prefix residual, with straight-through gradient.
        residuals (`torch.FloatTensor` of shape `(batch, num_levels, dim)`): the vectors that were quantized.
        loss (`torch.FloatTensor` of shape `()`): codebook loss plus weighted commitment loss (Eq. 5-7).
    """

    codes: torch.Tensor | None = None
    quantized: torch.Tensor | None = None
    residuals: torch.Tensor | None = None
    loss: torch.Tensor | None = None


def prefix_residual(representations: torch.Tensor) -> torch.Tensor:
    """Adjacent differences along the levels (Eq. 3): `[B, L, D]` to `[B, L, D]`; the first level stays as it is."""
    return torch.cat([representations[:, :1], representations[:, 1:] - representations[:, :-1]], dim=1)


def inverse_prefix_residual(residuals: torch.Tensor) -> torch.Tensor:
    """Undoes [`prefix_residual`] (section 2.3.1): cumulative sum along the levels, `[B, L, D]` to `[B, L, D]`."""
    return residuals.cumsum(dim=1)


class SimVQCodebook(nn.Module):
    """A codebook `E = C W`: `C` `[K, D]` holds the codes, the bias-free projection `W` `[D, D]` moves all of them at
    once, so that every gradient updates the whole codebook and none of its vectors is left behind (Zhu et al. 2024).
    `W` starts as linear layers do, or orthogonal.
    """

    def __init__(self, num_codes: int, dim: int, projection_init: str = "linear"):
        super().__init__()
        self.projection_init = projection_init
        self.codes = nn.Parameter(torch.empty(num_codes, dim))
        self.projection = nn.Linear(dim, dim, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.normal_(self.codes, std=self.codes.shape[1] ** -0.5)
        if self.projection_init == "orthogonal":
            init.orthogonal_(self.projection.weight)
        else:
            init.kaiming_uniform_(self.projection.weight, a=math.sqrt(5))

    @property
    def vectors(self) -> torch.Tensor:
        """Codebook vectors `[K, D]`."""
        # In the precision of the weights even under autocast: the codes of training are those of the saved codebook.
        with torch.autocast(self.codes.device.type, enabled=False):
            return self.projection(self.codes)

    @torch.no_grad()
    def set_vectors(self, vectors: torch.Tensor) -> None:
        """Chooses `C` such that the codebook vectors become `vectors` `[K, D]`."""
        weight = self.projection.weight.float()
        self.codes.copy_(torch.linalg.solve(weight, vectors.to(weight).T).T)

    def nearest(self, x: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """Index of the nearest of `vectors` `[K, D]` for each row of `x` `[..., D]` (Eq. 4)."""
        # ||x||^2 is the same for every code; float32 even under autocast, or near codes would swap with batch size.
        with torch.autocast(x.device.type, enabled=False):
            x, vectors = x.detach().float(), vectors.detach().float()
            return (vectors.square().sum(-1) - 2 * x @ vectors.T).argmin(-1)

    def distances(self, x: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """What `nearest` makes smallest, with gradient: `x` `[N, D]` and `vectors` `[K, D]` to `[N, K]`, float32."""
        with torch.autocast(x.device.type, enabled=False):
            x, vectors = x.float(), vectors.float()
            squares = x.square().sum(-1, keepdim=True) + vectors.square().sum(-1)
            return (squares - 2 * x @ vectors.T).clamp_min(0.0)


def codebook_loss(x: torch.Tensor, quantized: torch.Tensor, commitment_weight: float) -> torch.Tensor:
    """`||sg[x] - e||^2 + beta ||x - sg[e]||^2`, each a mean over elements (Eq. 6-7)."""
    x, quantized = x.float(), quantized.float()
    return F.mse_loss(quantized, x.detach()) + commitment_weight * F.mse_loss(x, quantized.detach())


class TreeCodebooks(nn.Module):
    """Root codebook for the first level, one leaf codebook shared by all further levels (Eq. 3-7). An item's codes on
    all levels are its semantic ID."""

    def __init__(self, level_sizes: list[int], dim: int, commitment_weight: float, projection_init: str = "linear"):
        super().__init__()
        self.level_sizes = list(level_sizes)
        self.commitment_weight = commitment_weight
        self.root = SimVQCodebook(level_sizes[0], dim, projection_init)
        self.leaf = SimVQCodebook(level_sizes[1], dim, projection_init) if len(level_sizes) > 1 else None

    @property
    def codebooks(self) -> list[SimVQCodebook]:
        """The distinct codebooks, root first."""
        return [self.root] if self.leaf is None else [self.root, self.leaf]

    def levels_of(self, codebook: int) -> list[int]:
        """The levels that a codebook of `codebooks` serves."""
        return [0] if codebook == 0 else list(range(1, len(self.level_sizes)))

    def level_vectors(self) -> list[torch.Tensor]:
        """Codebook vectors of each level, `[K_l, D]` each; leaf levels share one tensor."""
        if self.leaf is None:
            return [self.root.vectors]
        return [self.root.vectors] + [self.leaf.vectors] * (len(self.level_sizes) - 1)

    def forward(self, representations: torch.Tensor) -> QuantizerOutput:
        residuals = prefix_residual(representations)
        root_vectors = self.root.vectors
        codes = [self.root.nearest(residuals[:, :1], root_vectors)]
        # Not `vectors[codes]`: on CPU its gradient adds rows in the order in which the threads come.
        chosen = [F.embedding(codes[0], root_vectors)]
        loss = codebook_loss(residuals[:, :1], chosen[0], self.commitment_weight)
        if self.leaf is not None:
            leaf_vectors = self.leaf.vectors
            codes.append(self.leaf.nearest(residuals[:, 1:], leaf_vectors))
            chosen.append(F.embedding(codes[1], leaf_vectors))
            loss = (loss + codebook_loss(residuals[:, 1:], chosen[1], self.commitment_weight)) / 2
        straight_through = residuals + (torch.cat(chosen, dim=1) - residuals).detach()
        return QuantizerOutput(
            codes=torch.cat(codes, dim=1),
            quantized=inverse_prefix_residual(straight_through),
            residuals=residuals,
            loss=loss,
        )


class ResidualCodebooks(nn.Module):
    """Ablation "w/o TreeCode": one codebook per level and residual quantization. Each level quantizes what the
    quantized levels above left of its representation, `z_l - ẑ_{l-1}`, and plain codebooks take SimVQ's place.

    Args:
        level_sizes (`list[int]`): number of codes of each level.
        dim (`int`): width D of the vectors.
        commitment_weight (`float`): beta of the commitment loss.
        distance (`str`, *optional*, defaults to `"euclidean"`): which code is the nearest, the one at the least
            distance or (`"cosine"`) at the smallest angle.
    """

    def __init__(self, level_sizes: list[int], dim: int, commitment_weight: float, distance: str = "euclidean"):
        super().__init__()
        self.level_sizes = list(level_sizes)
        self.commitment_weight = commitment_weight
        kind = CosineCodebook if distance == "cosine" else PlainCodebook
        self.codebooks = nn.ModuleList([kind(size, dim) for size in level_sizes])

    def levels_of(self, codebook: int) -> list[int]:
        return [codebook]

    def level_vectors(self) -> list[torch.Tensor]:
        return [codebook.vectors for codebook in self.each(None)]

    def each(self, num_levels: int | None) -> Iterable[SimVQCodebook]:
        """The codebooks of the first levels, or of all."""
        return cast(Iterable[SimVQCodebook], self.codebooks[:num_levels])

    def forward(
        self,
        representations: torch.Tensor,
        num_levels: int | None = None,
        sinkhorn_epsilon: float = 0.0,
        counted: bool = True,
    ) -> QuantizerOutput:
        """Quantizes representations `[B, L, D]`, or the first `num_levels` of them, by as many levels. With an epsilon
        the codes of the last level are [`balanced_codes`] of all processes' batches, those that are `counted`; others
        get the nearest."""
        last = len(self.codebooks[:num_levels]) - 1
        codes, residuals, quantized, losses = [], [], [], []
        above = torch.zeros_like(representations[:, 0])
        for level, codebook in enumerate(self.each(num_levels)):
            residual = representations[:, level] - above
            balanced = sinkhorn_epsilon and level == last
            if balanced:  # also where no row counts: the others wait
                every, first = joined(codebook.distances(residual, codebook.vectors), counted)
            if balanced and counted:
                code = balanced_codes(every, sinkhorn_epsilon)[first : first + len(residual)]
            else:
                code = codebook.nearest(residual, codebook.vectors)
            chosen = F.embedding(code, codebook.vectors)
            losses.append(codebook_loss(residual, chosen, self.commitment_weight))
            quantized.append(above + residual + (chosen - residual).detach())
            # Detached: the decoders' gradient goes straight through to the representations, not to the codes above.
            above = above + chosen.detach()
            codes.append(code)
            residuals.append(residual)
        return QuantizerOutput(
            codes=torch.stack(codes, dim=1),
            quantized=torch.stack(quantized, dim=1),
            residuals=torch.stack(residuals, dim=1),
            loss=torch.stack(losses).mean(),
        )


class PlainCodebook(SimVQCodebook):
    """A codebook without projection: `E = C`."""

    def __init__(self, num_codes: int, dim: int):
        nn.Module.__init__(self)
        self.codes = nn.Parameter(torch.empty(num_codes, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.normal_(self.codes, std=self.codes.shape[1] ** -0.5)

    @property
    def vectors(self) -> torch.Tensor:
        return self.codes

    @torch.no_grad()
    def set_vectors(self, vectors: torch.Tensor) -> None:
        self.codes.copy_(vectors)


class CosineCodebook(PlainCodebook):
    """A plain codebook whose nearest code is the one at the smallest angle."""

    def nearest(self, x: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return (x.detach().float() @ F.normalize(vectors.detach().float(), dim=-1).T).argmax(-1)

    def distances(self, x: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return 1.0 - F.normalize(x.float(), dim=-1) @ F.normalize(vectors.float(), dim=-1).T


@torch.no_grad()
def balanced_codes(distances: torch.Tensor, epsilon: float) -> torch.Tensor:
    """
    Codes of a batch that are near and, together, evenly used: each item's largest entry in the transport plan that
    Sinkhorn's algorithm makes of the distances, brought to [-1, 1] (LC-Rec: Zheng et al. 2024; LETTER's program has
    it too).

    Args:
        distances (`torch.Tensor` of shape `(items, num_codes)`): of the items to the codes.
        epsilon (`float`): weight of the plan's entropy; the smaller, the nearer the codes.

    Returns:
        `torch.LongTensor` of shape `(items,)`.
    """
    low, high = (distances.double().min(), distances.double().max())
    centred = (distances.double() - (high + low) / 2) / ((high - low) / 2 + 1e-5)
    plan = -centred / epsilon  # its logarithm, up to constants that change no maximum
    for _ in range(SINKHORN_ROUNDS):
        plan = plan - plan.logsumexp(1, keepdim=True)  # items weigh the same
        plan = plan - plan.logsumexp(0, keepdim=True)  # codes weigh the same
    return plan.argmax(-1)


def code_usage(codes: torch.Tensor, num_codes: int) -> dict[str, float]:
    """How evenly one level uses its codebook.

    Args:
        codes (`torch.LongTensor` of shape `(n,)`): the codes of one level.
        num_codes (`int`): size of its codebook.

    Returns:
        `used`, the share of codes used at least once, and `perplexity`, the exponential of the codes' entropy in nats
        (`num_codes` when all are used equally, 1 when one is, 0 without codes).
    """
    if not codes.numel():
        return {"used": 0.0, "perplexity": 0.0}
    counts = torch.bincount(codes.flatten(), minlength=num_codes).double()
    shares = counts[counts > 0] / counts.sum()
    perplexity = torch.exp(-(shares * shares.log()).sum())
    return {"used": (counts > 0).double().mean().item(), "perplexity": perplexity.item()}
