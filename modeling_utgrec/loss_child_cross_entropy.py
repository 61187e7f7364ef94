"""Cross-entropy of a trie's edges among the children of each row's node, by the content of the items below them."""

from collections.abc import Iterator

import torch
from torch import Tensor

from .item_trie_level import TrieLevel, taken

# Numbers of children's content that are gathered at a time: on a CPU few enough to stay in its caches.
MOST_GATHERED = 2**21
MOST_GATHERED_ON_ACCELERATORS = 2**27


class _ChildCrossEntropy(torch.autograd.Function):
    """Sum of cross-entropies. Rows of the same node share what is gathered of its children, and their gradients are
    taken while it is there."""

    @staticmethod
    def forward(
        ctx,
        queries: Tensor,
        code_logits: Tensor,
        content: Tensor,
        edges_of_level: TrieLevel,
        nodes: Tensor,
        edges: Tensor,
        counted: bool,
        differentiate: bool,
    ):
        wide = torch.promote_types(queries.dtype, torch.float32)
        size, width = edges_of_level.size, content.shape[1]
        if differentiate:
            of_queries, of_codes = torch.zeros_like(queries), torch.zeros_like(code_logits, dtype=wide)
        total = queries.new_zeros((), dtype=wide)
        for rows, real_rows, first, children, real in _groups(edges_of_level, nodes, width):
            vectors = taken(content, children).to(queries.dtype)
            own, of_group = taken(queries, rows), taken(code_logits, rows).to(wide)
            codes = taken(edges_of_level.keys, children).long() % size
            at = codes[:, None].expand(-1, rows.shape[1], -1)
            logits = torch.bmm(own, vectors.mT).to(wide) + of_group.gather(2, at)
            if counted:
                logits += edges_of_level.log_counts_of(children)[:, None]
            logits = logits.masked_fill_(~real[:, None], -torch.inf).log_softmax(dim=2)
            columns = (taken(edges, rows) - first[:, None]).masked_fill_(~real_rows, 0)[..., None]
            total -= logits.gather(2, columns)[..., 0].masked_fill_(~real_rows, 0.0).sum()
            if not differentiate:
                continue
            logits = logits.exp_().scatter_add_(2, columns, logits.new_full(columns.shape, -1.0))
            logits *= real_rows[..., None]
            flat = rows.flatten()  # padding is of rows that are there as well, and adds nothing to them
            of_queries.index_add_(0, flat, torch.bmm(logits.to(queries.dtype), vectors).flatten(0, 1))
            of_codes.index_add_(0, flat, torch.zeros_like(of_group).scatter_add_(2, at, logits).flatten(0, 1))
        if differentiate:
            ctx.save_for_backward(of_queries, of_codes)
            ctx.dtype = code_logits.dtype
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor):
        of_queries, of_codes = ctx.saved_tensors
        scaled = of_queries * gradient.to(of_queries.dtype), (of_codes * gradient).to(ctx.dtype)
        return *scaled, None, None, None, None, None, None


def _groups(
    edges_of_level: TrieLevel, nodes: Tensor, width: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
    """Nodes with about as many rows and children, some at a time, which products of one shape serve: their rows
    `(nodes, most rows)`, which of these are real, first edges `(nodes,)`, all edges `(nodes, most children)`, and
    which are real. Rows of padding are any, edges of padding any that there are."""
    device = nodes.device
    most = MOST_GATHERED if device.type == "cpu" else MOST_GATHERED_ON_ACCELERATORS
    ordered, order = nodes.sort(stable=True)
    groups, sizes = torch.unique_consecutive(ordered, return_counts=True)
    starts = sizes.cumsum(0) - sizes
    first = taken(edges_of_level.starts, groups).long()
    fan_outs = taken(edges_of_level.starts, groups + 1).long() - first
    doublings = (sizes - 1).float().log2().floor().clamp(min=-1)  # 1; 2; 3, 4; 5 to 8; ... rows
    _, by_fan_out = fan_outs.sort(stable=True)
    by_both = by_fan_out[doublings[by_fan_out].sort(stable=True).indices]
    columns = torch.stack((doublings.long(), sizes, fan_outs))[:, by_both].tolist()
    begin = 0
    while begin < len(by_both):
        end = begin + 1
        while (
            end < len(by_both)
            and columns[0][end] == columns[0][begin]
            and (end + 1 - begin) * columns[2][end] * width <= most
        ):
            end += 1
        own = by_both[begin:end]
        places = torch.arange(max(columns[1][begin:end]), device=device)
        rows = taken(order, (starts[own, None] + places).clamp_(max=len(order) - 1))
        following = torch.arange(columns[2][end - 1], device=device)
        children = (first[own, None] + following).clamp_(max=edges_of_level.num_edges - 1)
        yield rows, places < sizes[own, None], first[own], children, following < fan_outs[own, None]
        begin = end


def child_cross_entropy(
    queries: Tensor,
    code_logits: Tensor,
    content: Tensor,
    edges_of_level: TrieLevel,
    nodes: Tensor,
    edges: Tensor,
    counted: bool = False,
) -> Tensor:
    """Sum over rows of the cross-entropy of an edge among those that leave the row's node. An edge's logit is the
    inner product of the row's query with the content below the edge, plus what the row gives to its code.

    Content has no gradient, so it is never projected: of what all rows together look at, only gathered in blocks.
    Gradients can be taken once, not twice. Under autocast the products are in the precision of the queries.

    Args:
        queries (`torch.FloatTensor` of shape `(rows, content_size)`): what is compared with content.
        code_logits (`torch.FloatTensor` of shape `(rows, codes)`): added to the logits of the codes.
        content (`torch.FloatTensor` of shape `(edges, content_size)`): what the items below each edge are like.
        edges_of_level ([`TrieLevel`]): the edges.
        nodes (`torch.LongTensor` of shape `(rows,)`): nodes of the rows.
        edges (`torch.LongTensor` of shape `(rows,)`): the edges to predict, each one of its row's node.
        counted (`bool`, *optional*, defaults to `False`): whether logits begin with the logarithm of the number of
            items below.

    Returns:
        The sum, a scalar in single precision or wider; 0 without rows.
    """
    with torch.autocast(queries.device.type, enabled=False):
        return _ChildCrossEntropy.apply(
            queries, code_logits, content, edges_of_level, nodes, edges, counted, torch.is_grad_enabled()
        )


__all__ = ["child_cross_entropy"]
