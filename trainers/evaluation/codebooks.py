"""Measures of codebooks: how evenly items use the codes, and how many items share all of theirs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from modeling_utgrec import code_usage
from tokenization_items.collision_report import group_sizes


def collision_rate(codes: torch.Tensor) -> float:
    """The share of items that have the codes of another item.

    Args:
        codes (`torch.LongTensor` of shape `(items, levels)`): the items' codes.
    """
    return float((group_sizes(codes.cpu().numpy()) > 1).mean())


def codebook_health(codes: torch.Tensor, sizes: Sequence[int]) -> dict[str, float]:
    """Everything that is measured of the codes of a catalogue.

    Args:
        codes (`torch.LongTensor` of shape `(items, levels)`): the items' codes.
        sizes (`Sequence[int]`): number of codes of each level.

    Returns:
        `collision_rate`, `used_<l>` and `perplexity_<l>` of each level (see [`code_usage`]), and `entropy_pairs` and
        `entropy_triples` of the first two and three codes, in nats.
    """
    health = {"collision_rate": collision_rate(codes)}
    for length, name in ((2, "pairs"), (3, "triples")):
        if length <= len(sizes):
            shares = torch.unique(codes[:, :length], dim=0, return_counts=True)[1].double() / len(codes)
            health[f"entropy_{name}"] = -(shares * shares.log()).sum().item()
    for level, size in enumerate(sizes):
        for name, value in code_usage(codes[:, level], size).items():
            health[f"{name}_{level}"] = value
    return health


def summed_vectors(level_vectors: Sequence[np.ndarray], codes: np.ndarray) -> np.ndarray:
    """
    What codes stand for: the sum of their vectors.

    Args:
        level_vectors (`Sequence[np.ndarray]` of shapes `(codes, dim)`): of each level.
        codes (`np.ndarray` of shape `(items, levels)`): the items' codes; further levels, as one of digits, are left
            out.

    Returns:
        `np.ndarray` of shape `(items, dim)`.
    """
    return np.sum([vectors[codes[:, level]] for level, vectors in enumerate(level_vectors)], axis=0)
