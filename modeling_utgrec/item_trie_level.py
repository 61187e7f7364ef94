"""One level of an item trie: its edges as sorted keys and, where it is dense, as a table."""

import copy

import torch
from torch import Tensor

# A level may be kept as a dense table of nodes × codes up to this many entries (one byte each), or up to so many for
# each of its edges, which have 8 bytes without it.
DENSE_LIMIT = 4 * 2**20
DENSE_ENTRIES = 2
# Below this share of the codes, the children of a node are listed rather than looked up among all codes.
DENSE_FAN_OUT = 1 / 8
# Above so many edges a CPU searches among those of a node: all together are more than its caches hold.
CACHED_EDGES = 2**18


class TrieLevel:
    """
    The edges from the nodes of one depth of a trie to those of the next, numbered in lexicographic order.

    Edges are kept as sorted keys `node * K + code` and the first edge of each node (compressed sparse rows, after Su
    et al. 2026). If the table nodes × codes is small and a node has many of the possible children, it is kept as well.

    Args:
        size (`int`): Number K of codes.
        keys (`torch.LongTensor` of shape `(edges,)`): Sorted, distinct `node * K + code`.
        fan_outs (`torch.LongTensor` of shape `(nodes,)`): Number of edges of each node.
        counts (`torch.Tensor` of shape `(edges,)`): Number of items below each edge.
        dense_limit (`int`): Largest number of entries (nodes × codes) of a table that has more than 2 for each edge; 0
            for no table.
    """

    def __init__(self, size: int, keys: Tensor, fan_outs: Tensor, counts: Tensor, dense_limit: int):
        self.size = size
        self.dense_limit = dense_limit
        self.num_nodes, self.num_edges = len(fan_outs), len(keys)
        capacity = self.num_nodes * size
        self.keys = keys.to(torch.int32 if capacity < 2**31 else torch.int64)
        self.starts = torch.nn.functional.pad(fan_outs.cumsum(0), (1, 0)).to(torch.int32)
        self.counts = counts.to(torch.int32)
        self.fan_out = int(fan_outs.max())  # of the widest node
        self.table: Tensor | None = None
        self._log_counts: Tensor | None = None  # of a dense level, made when first asked for
        limit = max(dense_limit, DENSE_ENTRIES * self.num_edges) if dense_limit else 0
        if capacity <= limit and self.fan_out >= size * DENSE_FAN_OUT:
            self.table = torch.zeros(capacity, dtype=torch.bool, device=keys.device).index_fill_(0, keys, True)
            self.table = self.table.view(self.num_nodes, size)

    @property
    def width(self) -> int:
        """Number of columns of `children`."""
        return self.fan_out if self.table is None else self.size

    @property
    def nbytes(self) -> int:
        """Size of the tensors in bytes."""
        tables = [each for each in (self.table, self._log_counts) if each is not None]
        return sum(each.nbytes for each in (self.keys, self.starts, self.counts, *tables))

    def to(self, device: torch.device | str) -> "TrieLevel":
        """The level with its tensors on `device`."""
        moved = copy.copy(self)
        moved._log_counts = None
        for name in ("keys", "starts", "counts", "table"):
            tensor = getattr(self, name)
            setattr(moved, name, None if tensor is None else tensor.to(device))
        return moved

    def children(self, nodes: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        """
        The children of nodes side by side: `width` columns, one for each code if the level is dense, else one for each
        edge of the widest node. Static shapes, no synchronisation.

        Args:
            nodes (`torch.LongTensor` of any shape): Nodes; `-1` has no children.

        Returns:
            `tuple`: codes of the columns (None if dense: a column is its code), whether there is a child, and edges of
            the columns (None if dense), each of shape `(*nodes.shape, width)`.
        """
        if self.table is not None:
            return None, self.table[nodes.clamp(min=0)] & (nodes >= 0).unsqueeze(-1), None
        return self.listed_children(nodes)

    def listed_children(self, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """
        The children of nodes, one column for each edge of the widest node whether or not the level is dense.

        Args:
            nodes (`torch.LongTensor` of any shape): Nodes; `-1` has no children.

        Returns:
            `tuple`: codes, 0 where there is no child, whether there is one, and edges, without meaning where there is
            none but always the number of one; each of shape `(*nodes.shape, fan_out)`.
        """
        known, safe = (nodes >= 0).unsqueeze(-1), nodes.clamp(min=0)
        columns = torch.arange(self.fan_out, dtype=self.starts.dtype, device=nodes.device)  # narrow as long as it goes
        edges = taken(self.starts, safe).unsqueeze(-1) + columns
        exists = (edges < taken(self.starts, safe + 1).unsqueeze(-1)) & known
        edges = edges.clamp_(max=self.num_edges - 1)
        codes = taken(self.keys, edges) - (safe * self.size).to(self.keys.dtype).unsqueeze(-1)
        return (codes * exists).long(), exists, edges.long()

    def child(self, nodes: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Codes and edges of the children in given columns, `0 <= columns < width`; 0 and -1 where there is none."""
        if self.table is not None:
            return columns, self.edge(nodes, columns)
        safe = nodes.clamp(min=0)
        edges = self.starts[safe].long() + columns
        missing = (edges >= self.starts[safe + 1]) | (nodes < 0)
        edges = edges.masked_fill_(missing, 0)
        codes = (self.keys[edges] - safe * self.size).masked_fill_(missing, 0)
        return codes, edges.masked_fill_(missing, -1)

    def columns(self, nodes: Tensor, edges: Tensor) -> Tensor:
        """Columns of `children` in which the edges from nodes stand; both of the same shape and not negative."""
        if self.table is None:
            return edges - taken(self.starts, nodes)
        return taken(self.keys, edges) - nodes * self.size

    def edge(self, nodes: Tensor, codes: Tensor) -> Tensor:
        """Edges from nodes with codes, `-1` where there is none; of the shape to which both broadcast."""
        nodes, codes = torch.broadcast_tensors(nodes, codes)
        wanted = nodes * self.size + codes
        if self.num_edges <= CACHED_EDGES or self.keys.device.type != "cpu":
            edges = torch.searchsorted(self.keys, wanted.to(self.keys.dtype)).clamp_(max=self.num_edges - 1)
        else:
            edges = self._among_own(nodes.clamp(min=0), wanted)
        found = (taken(self.keys, edges) == wanted) & (nodes >= 0) & (codes >= 0) & (codes < self.size)
        return edges.masked_fill_(~found, -1)

    def _among_own(self, nodes: Tensor, wanted: Tensor) -> Tensor:
        """The last edge of nodes with a key up to the one that is wanted, or their first: a binary search among a
        node's own edges, which lie close together."""
        edges, last = taken(self.starts, nodes), taken(self.starts, nodes + 1) - 1
        step = 1 << (self.fan_out - 1).bit_length()
        while step := step >> 1:
            further = torch.minimum(edges + step, last)
            edges = torch.where(taken(self.keys, further) <= wanted, further, edges)
        return edges.long()

    def cells(
        self, nodes: Tensor, starts: Tensor, edges: Tensor, codes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """
        Where edges stand among the children of a user's beams.

        Args:
            nodes (`torch.LongTensor` of shape `(B, W)`): Nodes of the beams, each once; `-1` for a beam that ended.
            starts, edges (`torch.LongTensor` of shape `(B, C)`):
                Edges and the nodes that they leave from; an edge that is no number of one is nowhere.
            codes (`torch.LongTensor` of shape `(B, C)`, *optional*): their codes, if they are at hand.

        Returns:
            `tuple`: cells of the edges in `children(nodes)` `[B, W, width]`, its last two dimensions flattened, and
            whether the edge is there; where it is not, the cell has no meaning but exists. Both of shape `(B, C)`.
        """
        ordered, beams = nodes.sort(dim=1)
        places = torch.searchsorted(ordered, starts).clamp_(max=nodes.shape[1] - 1)
        there = (ordered.gather(1, places) == starts) & (edges >= 0) & (edges < self.num_edges)
        edges = edges.clamp(0, self.num_edges - 1)
        if self.table is None:  # the beams' first edges are at hand, those of all nodes are not
            columns = edges - taken(self.starts, ordered.clamp(min=0)).gather(1, places)
        elif codes is not None:
            columns = codes
        else:
            columns = self.columns(starts.clamp(0, self.num_nodes - 1), edges)
        columns = columns.masked_fill(~there, 0)
        return beams.gather(1, places) * self.width + columns, there

    def edges_of_children(self, nodes: Tensor) -> Tensor:
        """Edges of the columns of `children`, of a dense level too; without meaning where there is no child."""
        _, exists, edges = self.children(nodes)
        if edges is None:
            edges = self.starts[nodes.clamp(min=0)].unsqueeze(-1) + exists.cumsum(-1, dtype=torch.int32) - 1
        return edges.clamp_(min=0, max=self.num_edges - 1)

    def log_counts(self, nodes: Tensor) -> Tensor:
        """
        Logarithm of the number of items below each child of nodes.

        Args:
            nodes (`torch.LongTensor` of any shape): Nodes.

        Returns:
            `torch.FloatTensor` of shape `(*nodes.shape, width)`, laid out as `children`; without meaning where there
            is no child.
        """
        if self.table is None:
            return self.log_counts_of(self.edges_of_children(nodes))
        if self._log_counts is None:
            self._log_counts = self.spread(self.counts.float().log_())
        return self.of_nodes(self._log_counts, nodes)

    def log_counts_of(self, edges: Tensor) -> Tensor:
        """Logarithm of the number of items below edges."""
        return taken(self.counts, edges).float().log_()

    def spread(self, values: Tensor) -> Tensor:
        """Values of the edges `(edges,)` of a dense level as a table `(nodes, K)`, 0 where there is no edge."""
        cells = torch.zeros(self.num_nodes * self.size, dtype=values.dtype, device=values.device)
        cells[self.keys.long()] = values
        return cells.view(self.num_nodes, self.size)

    def of_nodes(self, table: Tensor, nodes: Tensor) -> Tensor:
        """Rows of a table `(nodes, K)`, `(*nodes.shape, K)`; that of node 0 for node -1."""
        return taken(table, nodes.clamp(min=0))

    def split(self, edges: Tensor) -> tuple[Tensor, Tensor]:
        """Nodes from which edges leave, and their codes."""
        keys = taken(self.keys, edges).long()
        nodes = keys // self.size
        return nodes, keys - nodes * self.size

    def merge(
        self, old_nodes: Tensor, num_nodes: int, nodes: Tensor, codes: Tensor
    ) -> tuple["TrieLevel", Tensor, Tensor]:
        """
        The level with the edges of more items: linear in the edges there are, nothing is sorted.

        Args:
            old_nodes (`torch.LongTensor` of shape `(nodes,)`): New number of each node of this level, increasing.
            num_nodes (`int`): Number of nodes with the new ones.
            nodes, codes (`torch.LongTensor` of shape `(new_items,)`):
                New number of the node that each new item comes from and its code, sorted.

        Returns:
            `tuple`: the new level, the new number of each edge of this level, and the edge of each new item.
        """
        device = self.keys.device
        old_fan_outs = self.starts.diff().long()
        shifts = (old_nodes - torch.arange(self.num_nodes, device=device)) * self.size
        old_keys = self.keys + torch.repeat_interleave(shifts, old_fan_outs)
        keys, key_of_item = torch.unique_consecutive(nodes * self.size + codes, return_inverse=True)
        places = torch.searchsorted(old_keys, keys)
        is_old = old_keys[places.clamp(max=self.num_edges - 1)] == keys
        added, before = keys[~is_old], places[~is_old]  # an added edge goes before the old one `before`
        shifts = torch.zeros(self.num_edges + 1, dtype=torch.long, device=device)
        shifts.index_add_(0, before, torch.ones_like(before))
        old_edges = torch.arange(self.num_edges, device=device) + shifts.cumsum(0)[:-1]
        added_edges = before + torch.arange(len(before), device=device)
        edges = torch.empty_like(keys)
        edges[~is_old], edges[is_old] = added_edges, old_edges[places[is_old]]

        merged = torch.empty(self.num_edges + len(added), dtype=torch.long, device=device)
        merged[old_edges], merged[added_edges] = old_keys, added
        counts = torch.zeros(len(merged), dtype=torch.int32, device=device)
        counts[old_edges] = self.counts
        counts.index_add_(0, edges, torch.bincount(key_of_item, minlength=len(keys)).to(torch.int32))
        fan_outs = torch.zeros(num_nodes, dtype=torch.long, device=device)
        fan_outs[old_nodes] = old_fan_outs
        fan_outs.index_add_(0, added // self.size, torch.ones_like(added))
        level = TrieLevel(self.size, merged, fan_outs, counts, self.dense_limit)
        return level, old_edges, edges[key_of_item]


def taken(values: Tensor, places: Tensor) -> Tensor:
    """Entries or rows of `values` `(n, ...)` at places of any shape, `values[places]`; a CPU takes them in this way in
    a quarter of the time."""
    return values.index_select(0, places.flatten()).view((*places.shape, *values.shape[1:]))


__all__ = ["DENSE_LIMIT", "TrieLevel", "taken"]
