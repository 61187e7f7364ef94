"""Content of the nodes of a trie: what the items below a prefix are like."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .item_trie import ItemTrie

# Numbers of children's vectors that are gathered at a time: on a CPU few enough to stay in its caches.
MOST_GATHERED = 2**18
MOST_GATHERED_ON_ACCELERATORS = 2**28


def unit_content(content: Tensor, mean: Tensor) -> Tensor:
    """Content vectors `(..., width)` without the catalogue's mean `(width,)`, at length 1, in float32; zero for those
    of zeros, which stand for items without content."""
    given = content.any(dim=-1, keepdim=True)
    return F.normalize(content.float() - mean.float(), dim=-1) * given


def node_content(trie: ItemTrie, mean: Tensor) -> list[Tensor]:
    """
    Content of the nodes that each level's edges lead to: the mean of the items' [`unit_content`], at length 1.

    Args:
        trie ([`ItemTrie`]): items with content.
        mean (`torch.FloatTensor` of shape `(width,)`): what is taken off their vectors, on the trie's device.

    Returns:
        `list[torch.FloatTensor]`: of shape `(edges, width)` for each level, the last one's in order of positions; zero
        where no item below has content.
    """
    assert trie.content is not None
    rows = trie.rows_at(torch.arange(trie.num_items, device=trie.device))
    sums = unit_content(trie.content[rows], mean)
    levels = [sums]
    for level in reversed(trie.levels[1:]):
        parents, _ = level.split(torch.arange(level.num_edges, device=trie.device))
        sums = sums.new_zeros(level.num_nodes, sums.shape[1]).index_add_(0, parents, sums)
        levels.insert(0, F.normalize(sums, dim=-1))
    return levels


def child_products(states: Tensor, vectors: Tensor, children: Tensor) -> Tensor:
    """
    Inner products of states with the vectors of their own children.

    Args:
        states (`torch.FloatTensor` of shape `(..., width)`): the states.
        vectors (`torch.FloatTensor` of shape `(nodes, width)`): of all nodes.
        children (`torch.LongTensor` of shape `(..., children)`): the nodes of each state.

    Returns:
        `torch.FloatTensor` of shape `(..., children)`.
    """
    width, fan_out = states.shape[-1], children.shape[-1]
    rows, of_rows = states.reshape(-1, width, 1), children.reshape(-1, fan_out)
    most = MOST_GATHERED if states.device.type == "cpu" else MOST_GATHERED_ON_ACCELERATORS
    size = max(1, most // (width * fan_out))
    blocks = [
        torch.bmm(F.embedding(own, vectors), block)
        for own, block in zip(of_rows.split(size), rows.split(size), strict=True)
    ]
    products = blocks[0] if len(blocks) == 1 else torch.cat(blocks)
    return products.view(children.shape)


__all__ = ["child_products", "node_content", "unit_content"]
