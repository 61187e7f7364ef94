"""Trie of the semantic IDs that exist, as tensors: which codes may follow which prefix.

Nodes of the trie are integers. At depth 0 there is one node, the root, number 0. The nodes of a depth `l` with
`0 < l < L` are the distinct prefixes of length `l`, numbered in lexicographic order. The nodes of depth `L` are the
items themselves, numbered by their row in the table of codes. `-1` stands for "no such prefix" and stays `-1` further
down.

An edge of level `l` leads from a node of depth `l` to one of depth `l + 1`. Edges are numbered in lexicographic order
too, so an edge of an inner level has the number of the node that it leads to, and an edge of the last level is a
*position*: the place of an item among the sorted semantic IDs. The items below a node are a range of positions.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from .item_trie_level import DENSE_LIMIT, TrieLevel, taken


class ItemTrie:
    """
    The semantic IDs of a catalogue as a prefix tree in tensors, for constrained beam search.

    Each level is a [`TrieLevel`]: sorted edges, so memory follows the number of items, and a dense table for the first
    levels. Neither needs Python code per beam, data-dependent shapes or a transfer between devices. A trie never
    changes: searches may use it while the next one is made by `add_items`.

    Args:
        codes (`torch.Tensor` or `np.ndarray` of shape `(num_items, num_levels)`):
            Integer codes, local to their level (`0 <= codes[:, l] < level_sizes[l]`). Row `i` belongs to item `i`.
        level_sizes (`Sequence[int]`):
            Number of codes of each level.
        level_offsets (`Sequence[int]`):
            First token id of each level in the recommender's vocabulary.
        item_ids (`Sequence[str]`, *optional*):
            Names of the items, in the order of `codes`.
        content (`torch.Tensor` or `np.ndarray` of shape `(num_items, width)`, *optional*):
            Content vectors of the items, such as text embeddings, for a recommender that reads them. Kept as `content`
            in the precision that they have.
        dense_limit (`int`, *optional*, defaults to `DENSE_LIMIT`):
            Largest number of entries (nodes × codes, one byte each) of a level's dense table; 0 keeps all levels
            sparse.

    Raises:
        ValueError: If `codes` is empty, has another number of levels than `level_sizes`, holds a code outside its
            level, or gives two items the same semantic ID (the message names the rows); or if `content` has not a row
            of finite numbers for each item.

    Example:

    ```python
    >>> trie = ItemTrie(torch.tensor([[0, 1], [0, 2], [2, 0]]), level_sizes=[3, 4], level_offsets=[2, 5])
    >>> trie.step(0, torch.tensor([0]), torch.tensor([2]))  # the root and code 2: the second prefix there is
    tensor([1])
    >>> trie.step(1, torch.tensor([1]), torch.tensor([0]))  # which code 0 makes item 2
    tensor([2])
    >>> trie.add_items(torch.tensor([[1, 3]])).num_items
    4
    ```
    """

    def __init__(
        self,
        codes: Tensor | np.ndarray,
        level_sizes: Sequence[int],
        level_offsets: Sequence[int],
        item_ids: Sequence[str] | None = None,
        dense_limit: int = DENSE_LIMIT,
        content: Tensor | np.ndarray | None = None,
    ):
        self.level_sizes = [int(size) for size in level_sizes]
        self.level_offsets = [int(offset) for offset in level_offsets]
        if len(self.level_offsets) != len(self.level_sizes):
            raise ValueError(f"{len(self.level_sizes)} level_sizes but {len(self.level_offsets)} level_offsets")
        self.item_ids = None if item_ids is None else list(item_ids)
        self._codes = self._checked(codes, item_ids)
        if len(self._codes) == 0:
            raise ValueError("an item trie needs at least one item")
        self.content = None if content is None else self._checked_content(content, len(self._codes))
        self._identity = object()  # the same in copies on other devices
        self._build(dense_limit)

    def _checked(self, codes: Tensor | np.ndarray, item_ids: Sequence[str] | None) -> Tensor:
        """The codes in the smallest integer type that holds them."""
        codes = torch.as_tensor(codes)
        if codes.dim() != 2 or codes.shape[1] != self.num_levels:
            raise ValueError(f"codes must have shape (num_items, {self.num_levels}), got {tuple(codes.shape)}")
        if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
            raise ValueError(f"codes must be integers, got {codes.dtype}")
        if item_ids is not None and len(item_ids) != len(codes):
            raise ValueError(f"{len(codes)} rows of codes but {len(item_ids)} item_ids")
        sizes = torch.tensor(self.level_sizes, device=codes.device)
        bad = ((codes < 0) | (codes >= sizes)).any(dim=1).nonzero().flatten()
        if bad.numel():
            rows = bad[:10].tolist()
            raise ValueError(
                f"{bad.numel()} items have codes outside the level sizes {self.level_sizes}: rows {rows}, "
                f"codes {codes[rows].tolist()}"
            )
        return codes.to(torch.int16 if max(self.level_sizes) <= 2**15 else torch.int32)

    def _checked_content(self, content: Tensor | np.ndarray, num_items: int, width: int | None = None) -> Tensor:
        content = torch.as_tensor(content)
        is_matrix = content.dim() == 2 and len(content) == num_items and content.shape[1] > 0
        if not is_matrix or width not in (None, content.shape[1]):
            expected = f"({num_items}, {'width' if width is None else width})"
            raise ValueError(f"content must have shape {expected}, a row for each item, got {tuple(content.shape)}")
        if not content.is_floating_point():
            raise ValueError(f"content must be floating-point numbers, got {content.dtype}")
        broken = (~content.isfinite()).any(dim=1).nonzero().flatten()
        if broken.numel():
            raise ValueError(f"{broken.numel()} items have content with NaN or infinity: rows {broken[:10].tolist()}")
        return content.to(self._codes.device)

    def _build(self, dense_limit: int):
        order = lexicographic_order(self._codes, self.level_sizes)
        self.levels = levels_of_sorted([self._codes[order]], self.level_sizes, dense_limit)
        if self.levels[-1].num_edges != len(order):
            taken = self._codes[order]
            second = (taken[1:] == taken[:-1]).all(1).nonzero().flatten() + 1
            pairs = torch.stack([order[second - 1], order[second]], dim=1)[:10].tolist()
            raise ValueError(f"{second.numel()} semantic IDs belong to more than one item; equal rows: {pairs}")
        self._rows = order.to(torch.int32)  # item row of each position
        self._positions: Tensor | None = None  # the inverse from row -1 on, made when it is first asked for

    @classmethod
    def from_sorted(
        cls,
        parts: Iterable[Tensor | np.ndarray],
        level_sizes: Sequence[int],
        level_offsets: Sequence[int],
        item_ids: Sequence[str] | None = None,
        dense_limit: int = DENSE_LIMIT,
    ) -> "ItemTrie":
        """
        The trie of items that are sorted by their codes and come in parts, as from files: nothing is sorted, and of
        what is not kept one part is in memory at a time. An item's position is its row.

        Args:
            parts (`Iterable` of integers of shape `(num_items, num_levels)`): codes, ascending within a part and from
                part to part.
            level_sizes, level_offsets, dense_limit: as of the constructor.
            item_ids (`Sequence[str]`, *optional*): names of the items, in this order; kept as it is, so that they need
                not be in memory.

        Raises:
            ValueError: as the constructor, or if an item does not come after the one before.
        """
        trie = cls.__new__(cls)
        trie.level_sizes, trie.level_offsets = [*map(int, level_sizes)], [*map(int, level_offsets)]
        trie.item_ids = item_ids  # type: ignore[assignment]  # a list if it is small
        trie.content, trie._positions, trie._identity = None, None, object()
        kept = []

        def checked() -> Iterator[Tensor]:
            for part in parts:
                kept.append(trie._checked(part, None))
                yield kept[-1]

        trie.levels = levels_of_sorted(checked(), trie.level_sizes, dense_limit)
        trie._codes = torch.cat(kept)
        if trie.levels[-1].num_edges != len(trie._codes):
            raise ValueError("two items have the same semantic ID")
        if item_ids is not None and len(item_ids) != len(trie._codes):
            raise ValueError(f"{len(trie._codes)} rows of codes but {len(item_ids)} item_ids")
        trie._rows = torch.arange(len(trie._codes), dtype=torch.int32)
        return trie

    @property
    def codes(self) -> Tensor:
        """Codes of all items, int64 `(num_items, num_levels)`; a new tensor at every call."""
        return self._codes.long()

    @property
    def num_items(self) -> int:
        return self._codes.shape[0]

    @property
    def num_levels(self) -> int:
        return len(self.level_sizes)

    @property
    def device(self) -> torch.device:
        return self._codes.device

    @property
    def nbytes(self) -> int:
        """Size of the tensors in bytes."""
        content = 0 if self.content is None else self.content.nbytes
        return self._codes.nbytes + self._rows.nbytes + content + sum(level.nbytes for level in self.levels)

    def num_nodes(self, depth: int) -> int:
        """Number of nodes at a depth (`1` at depth 0, `num_items` at depth `num_levels`)."""
        return 1 if depth == 0 else self.levels[depth - 1].num_edges

    def is_copy_of(self, other: "ItemTrie") -> bool:
        """Whether both are the same trie, on whatever devices."""
        return self._identity is other._identity

    def to(self, device: torch.device | str) -> "ItemTrie":
        """Returns the trie with its tensors on `device` (itself, if it is there already)."""
        if torch.empty(0, device=device).device == self.device:
            return self
        moved = copy.copy(self)
        moved._codes, moved._rows = self._codes.to(device), self._rows.to(device)
        moved.content = None if self.content is None else self.content.to(device)
        moved._positions = None
        moved.levels = [level.to(device) for level in self.levels]
        return moved

    def codes_of(self, rows: Tensor) -> Tensor:
        """Codes of items, int64 `(*rows.shape, num_levels)`; row -1 gives those of item 0."""
        return taken(self._codes, rows.clamp(min=0)).long()

    def rows_at(self, positions: Tensor) -> Tensor:
        """Item rows of positions, int64 of the same shape; -1 for position -1."""
        return taken(self._rows, positions.clamp(min=0)).long().masked_fill_(positions < 0, -1)

    def positions_of(self, rows: Tensor) -> Tensor:
        """Positions of item rows, int64 of the same shape; `num_items` for row -1, so that it is sorted behind all."""
        if self._positions is None:
            positions = torch.empty(self.num_items + 1, dtype=torch.int32, device=self.device)
            positions[0] = self.num_items  # of row -1
            positions[1:][self._rows.long()] = torch.arange(self.num_items, dtype=torch.int32, device=self.device)
            self._positions = positions
        return taken(self._positions, rows + 1).long()

    def allowed(self, level: int, nodes: Tensor) -> Tensor:
        """
        Which codes may follow each prefix.

        Args:
            level (`int`):
                Depth of `nodes`, which is also the level of the codes asked for (`0 <= level < num_levels`).
            nodes (`torch.LongTensor` of any shape):
                Nodes at depth `level`; `-1` allows nothing.

        Returns:
            `torch.BoolTensor` of shape `(*nodes.shape, level_sizes[level])`.
        """
        codes, exists, _ = self.levels[level].children(nodes)
        if codes is None:
            return exists
        size = self.level_sizes[level]
        allowed = torch.zeros(*nodes.shape, size + 1, dtype=torch.bool, device=nodes.device)
        allowed.scatter_(-1, codes.masked_fill_(~exists, size), True)  # padding lands in the extra column
        return allowed[..., :size]

    def step(self, level: int, nodes: Tensor, codes: Tensor) -> Tensor:
        """
        Children of nodes.

        Args:
            level (`int`):
                Depth of `nodes` and level of `codes`.
            nodes (`torch.LongTensor`):
                Nodes at depth `level`; children of `-1` are `-1`.
            codes (`torch.LongTensor`, broadcastable with `nodes`):
                Level-local codes; a code outside the level leads to `-1`.

        Returns:
            `torch.LongTensor` of the broadcast shape: nodes at depth `level + 1` (item rows when `level` is the last
            one), `-1` where the prefix does not exist.
        """
        edges = self.levels[level].edge(nodes, codes)
        return edges if level < self.num_levels - 1 else self.rows_at(edges)

    def find(self, codes: Tensor) -> Tensor:
        """
        Rows of the items that have given semantic IDs.

        Args:
            codes (`torch.LongTensor` of shape `(..., num_levels)`): Level-local codes.

        Returns:
            `torch.LongTensor` of shape `(...)`: item rows, -1 where no item has these codes.
        """
        nodes = torch.zeros_like(codes[..., 0])
        for level, column in enumerate(codes.unbind(-1)):
            nodes = self.step(level, nodes, column)
        return nodes

    def path(self, rows: Tensor) -> list[Tensor]:
        """
        The edges from the root to items, a tensor of the shape of `rows` for each level; the last has the positions.

        Args:
            rows (`torch.LongTensor` of any shape): Item rows; all edges of row -1 are -1.
        """
        positions = self.positions_of(rows)
        edges, outside = [positions.clamp(max=self.num_items - 1)], rows < 0
        for level in reversed(self.levels[1:]):
            edges.insert(0, level.split(edges[0])[0])
        return [each.masked_fill_(outside, -1) for each in edges]

    def add_items(
        self,
        codes: Tensor | np.ndarray,
        item_ids: Sequence[str] | None = None,
        content: Tensor | np.ndarray | None = None,
    ) -> "ItemTrie":
        """
        A trie with more items: the new ones have the rows after those of this trie, which stays as it is. The sorted
        edges are merged with the new ones, level by level, which is linear in the number of items; a search that
        follows needs the new trie, rules and trie go together.

        Args:
            codes (`torch.Tensor` or `np.ndarray` of shape `(num_new, num_levels)`): Codes of the new items.
            item_ids (`Sequence[str]`, *optional*): Their names; to be given if and only if this trie has names.
            content (`torch.Tensor` or `np.ndarray` of shape `(num_new, width)`, *optional*): Their content vectors; to
                be given if and only if this trie has content.

        Raises:
            ValueError: As for the constructor; also if a semantic ID is taken, or names or content are missing or
                unexpected.
        """
        if (content is None) != (self.content is None):
            expected = "no content" if self.content is None else "content"
            raise ValueError(f"the items of this trie have {expected}, so must the new ones")
        if (item_ids is None) != (self.item_ids is None):
            expected = "no item_ids" if self.item_ids is None else "item_ids"
            raise ValueError(f"the items of this trie have {expected}, so must the new ones")
        codes = self._checked(codes, item_ids).to(self.device)
        if content is not None and self.content is not None:
            content = self._checked_content(content, len(codes), self.content.shape[1]).to(self.content.dtype)
        if len(codes) == 0:
            return self
        added = copy.copy(self)
        added._identity = object()
        added._positions = None
        added.levels = []
        order = lexicographic_order(codes, self.level_sizes)
        old_nodes = torch.zeros(1, dtype=torch.long, device=self.device)  # new number of each old node at this depth
        nodes = torch.zeros(len(codes), dtype=torch.long, device=self.device)  # node of each new item, sorted
        num_nodes = 1
        for level, column in zip(self.levels, codes[order].long().unbind(1), strict=True):
            level, old_nodes, nodes = level.merge(old_nodes, num_nodes, nodes, column)
            added.levels.append(level)
            num_nodes = level.num_edges
        if num_nodes != self.num_items + len(codes):
            taken = added.levels[-1].counts[nodes] > 1
            rows = order[taken][:10].sort().values.tolist()
            raise ValueError(
                f"{int(taken.sum())} new semantic IDs are taken or given twice: rows {rows} of the new codes, "
                f"{codes[rows].tolist()}"
            )
        added._codes = torch.cat((self._codes, codes))
        added._rows = torch.empty(num_nodes, dtype=torch.int32, device=self.device)
        added._rows[old_nodes] = self._rows
        added._rows[nodes] = (order + self.num_items).to(torch.int32)
        if isinstance(content, Tensor) and self.content is not None:
            added.content = torch.cat((self.content, content))
        if item_ids is not None:
            added.item_ids = [*(self.item_ids or []), *item_ids]
        return added

    def __len__(self) -> int:
        return self.num_items

    def __repr__(self) -> str:
        return f"ItemTrie(num_items={self.num_items}, level_sizes={self.level_sizes}, device={str(self.device)!r})"


def levels_of_sorted(parts: Iterable[Tensor], level_sizes: Sequence[int], dense_limit: int) -> list[TrieLevel]:
    """
    The levels of a trie of sorted codes, part by part. Equal rows are one edge of the last level.

    Args:
        parts (`Iterable` of integer tensors of shape `(num_items, num_levels)`): codes, sorted.
        level_sizes (`Sequence[int]`): number of codes of each level.
        dense_limit (`int`): see [`TrieLevel`].

    Raises:
        ValueError: If there are no codes, or they are not sorted.
    """
    keys: list[list[Tensor]] = [[] for _ in level_sizes]
    firsts: list[list[Tensor]] = [[] for _ in level_sizes]  # the first position of each edge
    num_edges, num_items, last = [0] * len(level_sizes), 0, None
    for codes in parts:
        if not len(codes):
            continue
        nodes = codes.new_zeros(len(codes), dtype=torch.long)  # of each position, at this depth
        is_new = torch.zeros(len(codes), dtype=torch.bool, device=codes.device)  # first position of a prefix
        is_new[0] = last is None
        for level, size in enumerate(level_sizes):
            column = codes[:, level].long()
            is_new[1:] |= column[1:] != column[:-1]
            if last is not None:
                is_new[0] |= column[0] != last[level]
            first = is_new.nonzero().flatten()
            keys[level].append(nodes[first] * size + column[first])
            firsts[level].append(first + num_items)
            nodes = is_new.cumsum(0) + (num_edges[level] - 1)
            num_edges[level] += len(first)
        num_items, last = num_items + len(codes), codes[-1]
    if last is None:
        raise ValueError("an item trie needs at least one item")
    levels, num_nodes = [], 1
    for level, size in enumerate(level_sizes):
        edges, starts = torch.cat(keys[level]), torch.cat(firsts[level])
        keys[level], firsts[level] = [], []
        if (edges[1:] <= edges[:-1]).any():
            raise ValueError("the codes are not sorted")
        fan_outs = torch.bincount(edges // size, minlength=num_nodes)
        counts = starts.diff(append=starts.new_tensor([num_items]))
        levels.append(TrieLevel(size, edges, fan_outs, counts, dense_limit))
        num_nodes = len(edges)
    return levels


def lexicographic_order(codes: Tensor, level_sizes: Sequence[int]) -> Tensor:
    """The stable order that sorts rows of codes `[n, L]`: one sort for as many levels as fit into 63 bits."""
    order, level = torch.arange(len(codes), device=codes.device), len(level_sizes)
    while level > 0:
        key, capacity = codes.new_zeros(len(codes), dtype=torch.long), 1
        while level > 0 and capacity * level_sizes[level - 1] < 2**63:
            level -= 1
            key = key + codes[:, level].long() * capacity
            capacity *= level_sizes[level]
        order = order[torch.argsort(key[order], stable=True)]
    return order


__all__ = ["ItemTrie", "lexicographic_order"]
