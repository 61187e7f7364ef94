"""Batches and parts of like length: a backbone that reads prompts one part after the other wastes little on padding,
and keeps the states of few of them for the backward pass, or of none; so does an encoder of histories."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IMAGES = ("pixel_values", "image_grid_thw")  # which have no row for each item
MOST_PLACES = 512  # of a part of histories, with its padding


def length_batches(lengths: Tensor, most_tokens: int) -> Iterator[Tensor]:
    """Rows of items in batches of like length, each of at most `most_tokens` tokens with padding (or of one item),
    longest first: what does not fit into memory shows at once.

    Args:
        lengths (`torch.LongTensor` of shape `(items,)`): tokens of each item.
        most_tokens (`int`): of a batch.
    """
    order = (-lengths).argsort(stable=True)
    longest_first, start = lengths[order].tolist(), 0
    while start < len(order):
        size = max(1, most_tokens // max(1, longest_first[start]))
        yield order[start : start + size]
        start += size


def prompt_parts(inputs: dict[str, Any], most_tokens: int) -> list[tuple[Tensor, dict[str, Any]]]:
    """
    Cuts a batch of prompts by their lengths.

    Args:
        inputs (`dict[str, torch.Tensor]`):
            `input_ids` and `attention_mask` of shape `(items, length)`, padded on the right; with images
            `mm_token_type_ids` of the same shape, `image_grid_thw` of shape `(images, 3)` and `pixel_values` of shape
            `(patches, values)`, at most one image an item, in the order of the items.
        most_tokens (`int`): of a part, with its padding, unless one prompt has more.

    Returns:
        Rows of the items, `torch.LongTensor` of shape `(part,)`, and inputs of each part, shortest prompts first: the
        other way round, a training's allocator keeps up to a fifth more.
    """
    lengths = inputs["attention_mask"].ne(0).sum(dim=1)
    parts = list(length_batches(lengths, most_tokens))[::-1]
    if len(parts) == 1:
        return [(torch.arange(len(lengths), device=lengths.device), inputs)]
    return [(rows, _part(inputs, rows, int(lengths[rows[0]]))) for rows in parts]


def _part(inputs: dict[str, Any], rows: Tensor, longest: int) -> dict[str, Any]:
    part = {name: value[rows, :longest] for name, value in inputs.items() if name not in IMAGES}
    grids = inputs.get("image_grid_thw")
    if grids is None:
        return part
    has_image = inputs["mm_token_type_ids"].ne(0).any(dim=1)
    image_of = (has_image.cumsum(0) - 1)[rows[has_image[rows]]]
    if not len(image_of):
        del part["mm_token_type_ids"]
        return part
    part["image_grid_thw"] = grids[image_of]
    if "pixel_values" in inputs:
        patches = inputs["pixel_values"].split(grids.prod(dim=1).tolist())
        part["pixel_values"] = torch.cat([patches[image] for image in image_of.tolist()])
    return part


def histories_by_length(
    encode: Callable[[Tensor | slice, int], Tensor], attention_mask: Tensor, last_only: bool = False
) -> Tensor:
    """
    States of histories whose encoder reads no padding, in parts of like length: most histories of a batch are much
    shorter than its longest, and a CPU computes their padding as it does items. All at once on an accelerator, which
    more and smaller parts would keep waiting.

    Args:
        encode: gives the states `(part, columns, width)` of some rows, of their last so many columns.
        attention_mask (`torch.Tensor` of shape `(batch, history)`): 0 on padding, which is on the left.
        last_only (`bool`, *optional*, defaults to `False`): `encode` gives the last position's state alone, `(part, 1,
            width)`.

    Returns:
        `torch.FloatTensor` of shape `(batch, history, width)`, 0 on padding that was not read, or `(batch, 1, width)`.
    """
    history = attention_mask.shape[1]
    if attention_mask.device.type != "cpu" or attention_mask.numel() <= MOST_PLACES:
        return encode(slice(None), history)
    lengths = attention_mask.ne(0).cumsum(dim=1).ne(0).sum(dim=1).clamp(min=1)
    parts = list(length_batches(lengths, MOST_PLACES))
    states = [encode(rows, int(lengths[rows[0]])) for rows in parts]  # the longest of a part comes first
    width = 1 if last_only else history
    padded = torch.cat([F.pad(each, (0, 0, width - each.shape[1], 0)) for each in states])
    return padded.index_select(0, torch.cat(parts).argsort())
