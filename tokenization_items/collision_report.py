"""Collisions of an assignment of semantic IDs, counted, and what its codes say of the items."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch

from modeling_utgrec import code_usage

# Of new items, the share with the codes of another one that is said, and that stops a command; from so many items on.
COLLAPSED, FEWEST_JUDGED = 0.5, 20
REFUSED, FEWEST_REFUSED = 0.9, 100


class CollapsedCodesError(ValueError):
    """Codes that nearly all items share with another one."""


@dataclass(frozen=True)
class AssignmentReport:
    """
    What an assignment of semantic IDs did.

    Args:
        num_items (`int`): Items added.
        items_sharing_codes (`int`): Added items to which the tokenizer gave the codes of another item, added or
            present.
        collision_rate (`float`): The same as a share of the items added; 0 without any.
        largest_group (`int`): Most items with the same codes: the given ones of items added, the semantic IDs of items
            present.
        used (`list[float]`): Share of each level's codes among the given codes (before collisions are resolved).
        perplexity (`list[float]`): Exponential of the entropy of the given codes of each level (at most its size).
        items_moved (`int`): Added items whose semantic ID differs from their given codes.
        moved_by_level (`list[int]`): The same items, by the first level at which they differ.
        mean_extra_distance (`float`): Mean over moved items of the squared distance, summed over levels, that their
            semantic ID adds to that of their given codes.
        max_extra_distance (`float`): Largest such distance.
        given_codes (`np.ndarray` of shape `(num_items, num_levels)`): Codes that the tokenizer gave, before collisions
            were resolved, int64, in the order of the items added.
        residuals (`np.ndarray` of shape `(num_items, num_levels, dim)`, *optional*): What each level quantized, where
            it was asked for.
    """

    num_items: int
    items_sharing_codes: int
    collision_rate: float
    largest_group: int
    used: list[float]
    perplexity: list[float]
    items_moved: int
    moved_by_level: list[int]
    mean_extra_distance: float
    max_extra_distance: float
    given_codes: np.ndarray = field(repr=False, compare=False)
    residuals: np.ndarray | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """All numbers but those of single items, as JSON has them."""
        of_items = ("given_codes", "residuals")
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name not in of_items}

    def check_collapse(self, sizes: Sequence[int], allowed: bool = False) -> None:
        """
        Stops what would train on codes that tell nothing apart: from [`FEWEST_REFUSED`] items on, if more than
        [`REFUSED`] of them share their codes with another.

        Args:
            sizes (`Sequence[int]`): codes of each level.
            allowed (`bool`, *optional*, defaults to `False`): whether that was said to be right.

        Raises:
            CollapsedCodesError: they do.
        """
        if not allowed and self.num_items >= FEWEST_REFUSED and self.collision_rate > REFUSED:
            raise CollapsedCodesError(
                f"{self.describe_collapse(sizes)} Above {REFUSED:.0%} of {FEWEST_REFUSED} items or more, nothing is "
                "saved or trained on such codes; --allow_collapsed_codes (in Python allow_collapsed=True) takes them."
            )

    def describe_collapse(self, sizes: Sequence[int]) -> str:
        """What to say where the tokenizer tells few items of levels with `sizes` codes apart, and what to do."""
        effective = ", ".join(f"{used:.1f} of {size}" for used, size in zip(self.perplexity, sizes, strict=False))
        return (
            f"{self.items_sharing_codes} of {self.num_items} items have the codes of another item "
            f"({self.collision_rate:.0%}): the levels' effective codes are {effective}. Semantic IDs told apart "
            "by force say little of an item. Look whether the items have texts that differ; train the item tokenizer "
            "longer, or with a shorter warm-up of its codebooks or a lower learning rate."
        )

    def __str__(self) -> str:
        usage = "; ".join(
            f"level {level}: {used:.1%} of codes used, perplexity {perplexity:.1f}, {moved} items moved"
            for level, (used, perplexity, moved) in enumerate(
                zip(self.used, self.perplexity, self.moved_by_level, strict=True)
            )
        )
        return (
            f"{self.num_items} items added; {self.items_sharing_codes} shared their codes with another item, "
            f"{self.items_moved} moved (additional squared distance: mean {self.mean_extra_distance:.4g}, "
            f"max {self.max_extra_distance:.4g}); {usage}"
        )


def group_sizes(codes: np.ndarray, occupied: np.ndarray | None = None) -> np.ndarray:
    """
    How many items have the codes of each item, the item itself among them.

    Args:
        codes (`np.ndarray` of shape `(items, levels)`): their codes.
        occupied (`np.ndarray` of shape `(others, levels)`, *optional*): codes of further items, which count too.

    Returns:
        `np.ndarray` of shape `(items,)`, int64; above 1 for an item that collides.
    """
    together = codes if occupied is None else np.concatenate([codes, occupied])
    _, groups, counts = np.unique(together, axis=0, return_inverse=True, return_counts=True)
    return counts[groups.reshape(-1)[: len(codes)]]


def report_assignment(
    given: np.ndarray,
    final: np.ndarray,
    occupied: np.ndarray,
    level_sizes: Sequence[int],
    residuals: np.ndarray | None = None,
    level_vectors: Sequence[np.ndarray] | None = None,
) -> AssignmentReport:
    """
    Compares given codes with the semantic IDs that were made of them.

    Args:
        given (`np.ndarray` of shape `(num_items, num_levels)`): the codes of the tokenizer.
        final (`np.ndarray` of the same shape): the semantic IDs, without the level of digits.
        occupied, level_sizes, residuals, level_vectors: see
            [`~tokenization_items.collisions.assign_least_distance`].
    """
    num_items, num_levels = given.shape
    sizes = group_sizes(given, occupied)
    sharing = int((sizes > 1).sum())
    changed = given != final
    moved = changed.any(1).nonzero()[0]
    extra = np.zeros(len(moved))
    for level in range(num_levels) if len(moved) else ():
        assert residuals is not None and level_vectors is not None  # or nothing would have moved
        vectors = np.asarray(level_vectors[level], dtype=np.float64)
        at_level = residuals[moved, level]
        extra += ((at_level - vectors[final[moved, level]]) ** 2).sum(1)
        extra -= ((at_level - vectors[given[moved, level]]) ** 2).sum(1)
    codes = torch.from_numpy(given)
    usage = [code_usage(codes[:, level], size) for level, size in enumerate(level_sizes)]
    return AssignmentReport(
        num_items=num_items,
        items_sharing_codes=sharing,
        collision_rate=sharing / num_items if num_items else 0.0,
        largest_group=int(sizes.max(initial=0)),
        used=[level["used"] for level in usage],
        perplexity=[level["perplexity"] for level in usage],
        items_moved=len(moved),
        moved_by_level=np.bincount(changed[moved].argmax(1), minlength=num_levels).tolist(),
        mean_extra_distance=float(extra.mean()) if len(moved) else 0.0,
        max_extra_distance=float(extra.max()) if len(moved) else 0.0,
        given_codes=given,
    )
