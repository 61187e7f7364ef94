"""What an item memory keeps of the items' content: vectors, and which items are alike."""

from typing import NamedTuple

import torch
from torch import Tensor

CONTENT_TENSORS = ("similar_items", "content", "content_mean", "content_projection")  # of [`MemoryContent`], in files
CONTENT_WIDTH = 384  # principal directions of the content that are kept: at most 768 bytes an item
MANY_ITEMS = 500_000  # above which a catalogue keeps fewer
CONTENT_WIDTH_OF_MANY = 128
NO_CONTENT = 1e-4  # share of the usual length below which an embedding is the catalogue's mean: it says nothing
SAME_CONTENT = 0.1  # distance of unit vectors that half precision, or an encoder on another device, do not make
BLOCK_ENTRIES = 2**25  # of cosines that are there at once: 128 MiB


class MemoryContent(NamedTuple):
    """
    What an [`ItemMemory`] keeps of the items' content.

    Args:
        similar_items (`torch.IntTensor` of shape `(num_items, k)`): items alike in content, each item among its own;
            -1 for none.
        vectors (`torch.Tensor` of shape `(num_items, r)`): content vectors, whose products are the cosines of the
            content embeddings without their mean; kept in float16.
        mean (`torch.Tensor` of shape `(width,)`): that mean, for items that are added.
        projection (`torch.Tensor` of shape `(width, r)`): from embeddings without their mean, of unit length, to
            content vectors, see [`principal_directions`].
    """

    similar_items: Tensor
    vectors: Tensor
    mean: Tensor
    projection: Tensor


def check_items(name: str, items: Tensor) -> None:
    """Whether the items of sparse rows are whole numbers within the catalogue."""
    if items.ndim != 2 or not len(items) or items.is_floating_point():
        raise ValueError(
            f"{name} items of an item memory must be int of shape (num_items, kept), got {items.dtype} "
            f"{tuple(items.shape)}."
        )
    outside = ((items < -1) | (items >= len(items))).any(1)
    if outside.any():
        row = int(outside.nonzero()[0])
        found = items[row][(items[row] < -1) | (items[row] >= len(items))]
        raise ValueError(
            f"{name} items of an item memory must be rows of its {len(items)} items or -1, found "
            f"{found[:10].tolist()} of item {row}."
        )


def checked_content(content: MemoryContent, num_items: int) -> MemoryContent:
    """Content in the dtypes that are kept, if it is of so many items, of shapes that fit, and finite."""
    check_items("similar", content.similar_items)
    if len(content.similar_items) != num_items or len(content.vectors) != num_items:
        raise ValueError(
            f"{num_items} items have transitions, {len(content.similar_items)} similar items, "
            f"{len(content.vectors)} content vectors."
        )
    if content.mean.ndim != 1 or content.projection.ndim != 2 or content.vectors.ndim != 2:
        raise ValueError("content_mean of an item memory is a vector, content and content_projection are matrices.")
    expected = len(content.mean), content.vectors.shape[1]
    if content.projection.shape != expected:
        raise ValueError(
            f"content_projection of an item memory must have shape {expected}, got {tuple(content.projection.shape)}."
        )
    kept = MemoryContent(
        content.similar_items.to(torch.int32),
        content.vectors.half(),
        content.mean.float(),
        content.projection.float(),
    )
    for name, tensor in zip(CONTENT_TENSORS, kept, strict=True):
        if not tensor.isfinite().all():
            raise ValueError(f"{name} of an item memory must be finite numbers.")
    return kept


def check_encoder(content: MemoryContent, unit: Tensor) -> None:
    """Raises ValueError if most of the items' content embeddings, of [`unit_content`], are not those that are kept."""
    known = content.vectors.any(dim=1)
    differ = (unit[known] @ content.projection - content.vectors[known].float()).norm(dim=1) > SAME_CONTENT
    if differ.sum() > len(differ) / 2:
        raise ValueError(
            f"The content embeddings of {int(differ.sum())} of {len(differ)} items are not those that the memory "
            "was built with: they are of another encoder, or of items in another order."
        )


def unit_content(content: Tensor, num_items: int, mean: Tensor) -> Tensor:
    """
    Content embeddings without their mean, of unit length, float32 `(num_items, width)`, of float64 ones float64; zeros
    for an item whose embedding is the mean, of which nothing is known.

    Raises:
        ValueError: if there are not so many, they are of another width than the mean, or not finite.
    """
    if content.ndim != 2 or len(content) != num_items:
        raise ValueError(f"Expected content embeddings of {num_items} items, got shape {tuple(content.shape)}.")
    if content.shape[1] != len(mean):
        raise ValueError(
            f"The memory's content embeddings have {len(mean)} numbers, those given {content.shape[1]}: they are of "
            "another encoder."
        )
    broken = ~content.isfinite().all(1)
    if broken.any():
        raise ValueError(
            f"{int(broken.sum())} items have content embeddings that are not finite, such as row "
            f"{int(broken.nonzero()[0])}."
        )
    content = content if content.dtype == torch.float64 else content.float()
    usual, centred = content.norm(dim=1).mean(), content - mean
    lengths = centred.norm(dim=1, keepdim=True)
    return (centred / (lengths + 1e-9)).masked_fill_(lengths <= NO_CONTENT * usual, 0)


def principal_directions(unit: Tensor, width: int | None = None) -> Tensor:
    """
    The `width` directions in which content vectors differ most: float32 `(e, min(width, e))`, the first one first. As
    many as there are numbers only turn the vectors: their products stay.

    Args:
        unit (`torch.Tensor` of shape `(num_items, e)`): vectors.
        width (`int`, *optional*): at most so many; by default 384, of more than 500,000 items 128.
    """
    if width is None:
        width = CONTENT_WIDTH if len(unit) <= MANY_ITEMS else CONTENT_WIDTH_OF_MANY
    spread = torch.zeros(unit.shape[1], unit.shape[1], dtype=torch.float64, device=unit.device)
    step = max(1, BLOCK_ENTRIES // max(1, unit.shape[1]))
    for start in range(0, len(unit), step):
        block = unit[start : start + step].double()
        spread += block.T @ block
    _, directions = torch.linalg.eigh(spread)  # the largest last
    return directions.flip(1)[:, :width].float().contiguous()


def nearest_items(queries: Tensor, unit: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """
    The `kept` largest cosines of each query, itself among them if it is there; exact, by blocks.

    Args:
        queries (`torch.Tensor` of shape `(num_queries, width)`), unit (`torch.Tensor` of shape `(num_items, width)`):
            vectors of unit length.
        kept (`int`): at most so many.

    Returns:
        `tuple[torch.IntTensor, torch.FloatTensor]`: items and cosines, the largest first.
    """
    kept = min(kept, len(unit))
    items = torch.empty(len(queries), kept, dtype=torch.int32, device=unit.device)
    values = torch.empty(len(queries), kept, device=unit.device)
    step = max(1, BLOCK_ENTRIES // len(unit))
    for start in range(0, len(queries), step):
        best = (queries[start : start + step] @ unit.T).topk(kept, dim=1)
        items[start : start + step], values[start : start + step] = best.indices.to(torch.int32), best.values
    return items, values


def most_alike(content: MemoryContent, embeddings: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """
    The items whose content is most like that of others.

    Args:
        content ([`MemoryContent`]): of the items; of many only some are there in full precision at a time.
        embeddings (`torch.Tensor` of shape `(n, width)`): content embeddings, of the encoder of the items'.
        kept (`int`): at most so many items.

    Returns:
        `tuple[torch.IntTensor, torch.FloatTensor]`: items and cosines `(n, kept)`, the largest first; -1 and 0 for an
        embedding that says nothing.

    Raises:
        ValueError: if embeddings are of another width or not finite.
    """
    unit = unit_content(embeddings.to(content.mean), len(embeddings), content.mean) @ content.projection
    items = torch.zeros(len(unit), 0, dtype=torch.int32, device=unit.device)
    cosines = torch.zeros(len(unit), 0, device=unit.device)
    step = max(1, BLOCK_ENTRIES // content.vectors.shape[1])
    for start in range(0, len(content.vectors), step):
        near, found = nearest_items(unit, content.vectors[start : start + step].float(), kept)
        items, cosines = torch.cat((items, near + start), dim=1), torch.cat((cosines, found), dim=1)
        best = cosines.topk(min(kept, cosines.shape[1]), dim=1)
        items, cosines = items.gather(1, best.indices), best.values
    says_nothing = ~unit.any(dim=1, keepdim=True)
    return items.masked_fill_(says_nothing, -1), cosines.masked_fill_(says_nothing, 0)


def place_neighbours(similar_items: Tensor, unit: Tensor, rows: Tensor) -> Tensor:
    """
    Similar items with some items in their places, both ways: what is alike to each of these, and in the lists of the
    others in place of what is less so.

    Args:
        similar_items (`torch.IntTensor` of shape `(num_items, k)`): before; the items are in no list, and the lists at
            `rows` say nothing.
        unit (`torch.Tensor` of shape `(num_items, width)`): vectors of all items, of unit length.
        rows (`torch.LongTensor` of shape `(num_placed,)`): the items to place.
    """
    kept, placed = similar_items.shape[1], unit[rows]
    items = similar_items.clone()
    step = BLOCK_ENTRIES // max(len(rows), kept * unit.shape[1], 1) + 1
    for start in range(0, len(unit) if len(rows) else 0, step):
        block = slice(start, start + step)
        near, found = nearest_items(unit[block], placed, min(kept, len(rows)))
        before = torch.einsum("bke,be->bk", unit[items[block].clamp(min=0).long()], unit[block])
        both = torch.cat((before.masked_fill_(items[block] < 0, -torch.inf), found), dim=1)
        every = torch.cat((items[block], rows[near.long()].to(items.dtype)), dim=1)
        items[block] = every.gather(1, both.topk(kept, dim=1).indices)
    theirs, _ = nearest_items(placed, unit, kept)
    items[rows] = torch.nn.functional.pad(theirs, (0, kept - theirs.shape[1]), value=-1)
    return items


__all__ = [
    "MemoryContent",
    "check_encoder",
    "check_items",
    "checked_content",
    "most_alike",
    "nearest_items",
    "place_neighbours",
    "principal_directions",
    "unit_content",
]
