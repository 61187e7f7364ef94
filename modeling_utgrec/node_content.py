"""Content of the nodes of a trie: what the items below a prefix are like."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .item_trie import ItemTrie

# Numbers of children's vectors that are gathered at a time: on a CPU few enough to stay in its caches.
MOST_GATHERED = 2**18
MOST_GATHERED_ON_ACCELERATORS = 2**28
# From so many states with the same children on, one product of matrices is faster than one for each state.
LEAST_SHARING = 4


def unit_vectors(content: Tensor, mean: Tensor) -> Tensor:
    """Content vectors `(..., width)` without the catalogue's mean `(width,)`, at length 1, in float32; zero for those
    of zeros, which stand for items without content."""
    given = content.any(dim=-1, keepdim=True)
    return F.normalize(content.float() - mean.float(), dim=-1) * given


def node_content(trie: ItemTrie, mean: Tensor) -> list[Tensor]:
    """
    Content of the nodes that each level's edges lead to: the mean of the items' [`unit_vectors`], at length 1.

    Args:
        trie ([`ItemTrie`]): items with content.
        mean (`torch.FloatTensor` of shape `(width,)`): what is taken off their vectors, on the trie's device.

    Returns:
        `list[torch.FloatTensor]`: of shape `(edges, width)` for each level, the last one's in order of positions; zero
        where no item below has content.
    """
    assert trie.content is not None
    rows = trie.rows_at(torch.arange(trie.num_items, device=trie.device))
    sums = unit_vectors(trie.content[rows], mean)
    levels = [sums]
    for level in reversed(trie.levels[1:]):
        parents, _ = level.split(torch.arange(level.num_edges, device=trie.device))
        sums = sums.new_zeros(level.num_nodes, sums.shape[1]).index_add_(0, parents, sums)
        levels.insert(0, F.normalize(sums, dim=-1))
    return levels


def _blocks(states: Tensor, children: Tensor, counts: Tensor) -> Iterator[tuple[Tensor | slice, Tensor]]:
    """Rows to work on together, and their children `(rows, most)`, or `(children,)` where all rows have the same. On a
    CPU there are these, and the rest goes by the number of children."""
    if states.device.type != "cpu":
        size = max(1, MOST_GATHERED_ON_ACCELERATORS // max(1, children.shape[1] * states.shape[1]))
        for first in range(0, len(children), size):
            yield slice(first, first + size), children[first : first + size]
        return
    rows = counts.nonzero().flatten()
    firsts, order = children[rows, 0].sort(stable=True)
    rows = rows[order]
    lengths = torch.unique_consecutive(firsts, return_counts=True)[1]
    shared = lengths >= LEAST_SHARING
    starts = (lengths.cumsum(0) - lengths)[shared]
    for first, length in zip(starts.tolist(), lengths[shared].tolist(), strict=True):
        run = rows[first : first + length]
        yield run, children[run[0], : counts[run[0]]]
    rows = rows[~shared.repeat_interleave(lengths)]
    widths, order = counts[rows].sort(descending=True, stable=True)
    rows, of_rows, first = rows[order], widths.tolist(), 0
    while first < len(rows):
        size = max(1, MOST_GATHERED // (of_rows[first] * states.shape[1]))
        yield rows[first : first + size], children[rows[first : first + size], : of_rows[first]]
        first += size


@torch.no_grad()
def child_products(states: Tensor, vectors: Tensor, children: Tensor, counts: Tensor) -> Tensor:
    """
    Inner products of states with the vectors of their own children, block by block: the vectors of a block are
    gathered, used and forgotten. Without gradients; under autocast the products are in its precision.

    Args:
        states (`torch.FloatTensor` of shape `(..., width)`): the states.
        vectors (`torch.FloatTensor` of shape `(nodes, width)`): of all nodes.
        children (`torch.LongTensor` of shape `(..., most)`):
            The nodes of each state, and any others behind them. States with the same first one have the same.
        counts (`torch.LongTensor` of shape `(...)`): number of nodes of each state.

    Returns:
        `torch.FloatTensor` of shape `(..., most)`; without meaning behind a state's nodes.
    """
    device = states.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else vectors.dtype
    rows, vectors = states.reshape(-1, states.shape[-1]).to(dtype), vectors.to(dtype)
    own, numbers = children.flatten(0, -2), counts.flatten()
    products = rows.new_zeros(own.shape)
    with torch.autocast(device, enabled=False):
        for block, listed in _blocks(rows, own, numbers):
            gathered, some = F.embedding(listed, vectors), rows[block]
            together = some @ gathered.T if listed.ndim == 1 else (gathered @ some[..., None])[..., 0]
            products[block, : listed.shape[-1]] = together
    return products.view(children.shape)


__all__ = ["child_products", "node_content", "unit_vectors"]
