"""Codes of a product quantizer, and maps of one quantizer's codes to another's (VQ-Rec)."""

import importlib

import torch
from torch import Tensor
from transformers.utils import requires_backends


def padded_width(width: int, num_groups: int) -> int:
    """The width, up to a multiple of the number of groups."""
    return -(-width // num_groups) * num_groups


def product_codes(content: Tensor, centre: Tensor, rotation: Tensor, centroids: Tensor) -> Tensor:
    """
    Codes of content by optimized product quantization (Ge et al. 2013): it is centred, rotated and cut into groups,
    and a group's code is its nearest centroid.

    Args:
        content (`torch.FloatTensor` of shape `(n, E)`): what is quantized.
        centre (`torch.FloatTensor` of shape `(E,)`): is taken away first.
        rotation (`torch.FloatTensor` of shape `(E', E')`):
            orthogonal; E' is E up to a multiple of the number of groups, the rest of the content is zero.
        centroids (`torch.FloatTensor` of shape `(M, K, E' / M)`): of each group.

    Returns:
        `torch.LongTensor` of shape `(n, M)`.
    """
    centred = torch.nn.functional.pad(content - centre, (0, len(rotation) - len(centre)))
    groups = (centred @ rotation.T).unflatten(-1, centroids.shape[::2])
    # ||x||² is the same for every centroid
    distances = centroids.square().sum(-1) - 2 * torch.einsum("nme,mke->nmk", groups, centroids)
    return distances.argmin(-1)


def centroid_likeness(rotations: tuple[Tensor, Tensor], centroids: tuple[Tensor, Tensor]) -> Tensor:
    """
    Cosines of the centroids of two quantizers of one space, group by group, rotated back.

    Args:
        rotations, centroids: of the new and the earlier quantizer, see [`product_codes`].

    Returns:
        `torch.FloatTensor` of shape `(M, K, K)`, rows are the new one's codes.
    """
    back = []
    for rotation, each in zip(rotations, centroids, strict=True):
        axes = rotation.unflatten(0, (len(each), -1))  # of group m: rows of the rotation
        back.append(torch.nn.functional.normalize(torch.einsum("mke,mef->mkf", each, axes), dim=-1))
    return back[0] @ back[1].transpose(1, 2)


def sinkhorn(logits: Tensor, rounds: int = 3) -> Tensor:
    """Doubly stochastic matrices `(M, K, K)` of logits: rows and columns are normalised in turns (Mena et al. 2018).
    The last ones are the columns, so that rows sum to 1 but for what more rounds would change."""
    for _ in range(rounds):
        logits = logits - logits.logsumexp(dim=2, keepdim=True)
        logits = logits - logits.logsumexp(dim=1, keepdim=True)
    return logits.exp()


@torch.no_grad()
def nearest_permutations(matrices: Tensor) -> Tensor:
    """The permutation matrices `(M, K, K)` with the largest sums of what they pick from matrices of that shape.

    Raises:
        ImportError: without scipy. Only fine-tuning needs it.
    """
    requires_backends(nearest_permutations, "scipy")
    assign = importlib.import_module("scipy.optimize").linear_sum_assignment
    hard = torch.zeros_like(matrices)
    for number, matrix in enumerate(matrices.detach().double().cpu().numpy()):
        rows, columns = map(torch.from_numpy, assign(matrix, maximize=True))
        hard[number, rows, columns] = 1.0
    return hard


__all__ = ["centroid_likeness", "nearest_permutations", "padded_width", "product_codes", "sinkhorn"]
