"""From codes that items may share to an index in which every item has an identifier of its own."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from modeling_utgrec import UTGRecConfig, code_usage
from tokenization_items.item_index import ItemIndex

Resolution = Literal["digit", "assign"]
# Codes of TIGER's additional level: as many as of the others, so that catalogues have one vocabulary.
COLLISION_DIGITS = 256


def resolve(
    item_ids: Sequence[str],
    codes: np.ndarray,
    level_sizes: Sequence[int],
    resolution: Resolution,
    residuals: np.ndarray | None = None,
    level_vectors: Sequence[np.ndarray] | None = None,
    num_digits: int = COLLISION_DIGITS,
) -> tuple[ItemIndex, dict[str, Any]]:
    """
    Gives every item an identifier of its own.

    - `"digit"`, TIGER's: one more level, on which items with the same codes count up from 0, by item id. It has
      `num_digits` codes, or as many as the largest group of items if that is larger.
    - `"assign"`, this project's (see [`~ItemIndex.assign`]): no more levels, but items that collide move to free codes
      near by. For LETTER, whose own resolution (Sinkhorn on the last level) needs the same vectors.

    Args:
        item_ids (`Sequence[str]`): the items.
        codes (`np.ndarray` of shape `(items, levels)`): their codes.
        level_sizes (`Sequence[int]`): number of codes of each level.
        resolution (`str`): `"digit"` or `"assign"`.
        residuals, level_vectors: what each level quantized, and its code vectors; for `"assign"`.
        num_digits (`int`, *optional*, defaults to 256): least size of the digits' level.

    Returns:
        [`ItemIndex`] with the items in the order given, and a report: `collisions` (items that shared their codes),
        `collision_rate`, `largest_group`, `used` and `perplexity` of each level (all of these before resolution),
        `items_moved`, `level_sizes`.

    Raises:
        ValueError: for an unknown resolution, or as [`~ItemIndex.assign`].
    """
    if resolution not in ("digit", "assign"):
        raise ValueError(f"resolution must be 'digit' or 'assign', got {resolution!r}.")
    item_ids, codes, sizes = list(item_ids), np.asarray(codes), list(level_sizes)
    _, groups, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    groups = groups.reshape(-1)
    largest = int(counts.max(initial=0))
    usage = [code_usage(torch.from_numpy(codes[:, level]), size) for level, size in enumerate(sizes)]
    report = {
        "num_items": len(item_ids),
        "collisions": int((counts[groups] > 1).sum()),
        "collision_rate": float((counts[groups] > 1).mean()) if len(item_ids) else 0.0,
        "largest_group": largest,
        "used": [level["used"] for level in usage],
        "perplexity": [level["perplexity"] for level in usage],
        "resolution": resolution,
    }
    if resolution == "digit":
        codes = np.column_stack([codes, collision_digits(item_ids, groups)])
        sizes.append(max(largest, num_digits))
    index = ItemIndex(sizes, UTGRecConfig(level_sizes=sizes).level_offsets)
    if resolution == "digit":  # the digits leave no conflict
        residuals = level_vectors = None
    assignment = index.assign(item_ids, codes, residuals, level_vectors)
    return index, report | {"items_moved": assignment.items_moved, "level_sizes": sizes}


def collision_digits(item_ids: Sequence[str], groups: np.ndarray) -> np.ndarray:
    """The position of each item among those of its group, by item id: int64 `[items]`, from 0."""
    order = np.array(sorted(range(len(item_ids)), key=item_ids.__getitem__), dtype=np.int64)
    order = order[np.argsort(groups[order], kind="stable")]
    ranked = groups[order]
    digits = np.empty(len(order), dtype=np.int64)
    digits[order] = np.arange(len(order)) - np.searchsorted(ranked, ranked)
    return digits
