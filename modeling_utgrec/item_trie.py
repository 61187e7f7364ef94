"""The valid identifiers as tensors: which codes may follow which prefix.

Nodes of the trie are integers. At depth 0 there is one node, the root, number 0. The nodes of a depth `l` with
`0 < l < L` are the distinct prefixes of length `l`, numbered in lexicographic order. The nodes of depth `L` are the
items themselves, numbered by their row in `codes`. `-1` stands for "no such prefix" and stays `-1` further down.
"""

import copy
from collections.abc import Sequence

import numpy as np
import torch

# Masks of a level are stored densely up to this many entries (one byte each, 64 MiB); larger levels are stored as CSR.
DENSE_LIMIT = 64 * 2**20


class ItemTrie:
    """
    The identifiers of a catalogue as a prefix tree in tensors, for constrained beam search.

    The edges of each level are kept as sorted keys `parent_node * K + code` (compressed sparse rows), so memory
    follows the number of items, and a look-up costs a binary search. Levels whose mask is small enough are also kept
    as a dense boolean table, where a look-up is one gather. Neither path needs Python code per beam, data-dependent
    shapes or a transfer between devices.

    Args:
        codes (`torch.Tensor` or `np.ndarray` of shape `(num_items, num_levels)`):
            Integer codes, local to their level (`0 <= codes[:, l] < level_sizes[l]`). Row `i` belongs to item `i`.
        level_sizes (`Sequence[int]`):
            Number of codes of each level.
        level_offsets (`Sequence[int]`):
            First token id of each level in the recommender's vocabulary.
        item_ids (`Sequence[str]`, *optional*):
            Names of the items, in the order of `codes`.
        dense_limit (`int`, *optional*, defaults to `DENSE_LIMIT`):
            Largest number of mask entries (nodes × codes) that a level may keep as a dense table.

    Raises:
        ValueError: If `codes` is empty, has another number of levels than `level_sizes`, holds a code outside its
            level, or gives two items the same identifier (the message names the rows).
    """

    def __init__(
        self,
        codes: torch.Tensor | np.ndarray,
        level_sizes: Sequence[int],
        level_offsets: Sequence[int],
        item_ids: Sequence[str] | None = None,
        dense_limit: int = DENSE_LIMIT,
    ):
        self.level_sizes = [int(size) for size in level_sizes]
        self.level_offsets = [int(offset) for offset in level_offsets]
        codes = torch.as_tensor(codes)
        self._check(codes, item_ids)
        self.codes = codes.to(torch.long)
        self.item_ids = None if item_ids is None else list(item_ids)
        self._build(dense_limit)

    def _check(self, codes: torch.Tensor, item_ids: Sequence[str] | None) -> None:
        num_levels = len(self.level_sizes)
        if len(self.level_offsets) != num_levels:
            raise ValueError(f"{num_levels} level_sizes but {len(self.level_offsets)} level_offsets")
        if codes.dim() != 2 or codes.shape[1] != num_levels:
            raise ValueError(f"codes must have shape (num_items, {num_levels}), got {tuple(codes.shape)}")
        if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
            raise ValueError(f"codes must be integers, got {codes.dtype}")
        if codes.shape[0] == 0:
            raise ValueError("an item trie needs at least one item")
        if item_ids is not None and len(item_ids) != codes.shape[0]:
            raise ValueError(f"{codes.shape[0]} rows of codes but {len(item_ids)} item_ids")
        sizes = torch.tensor(self.level_sizes, device=codes.device)
        bad = ((codes < 0) | (codes >= sizes)).any(dim=1).nonzero().flatten()
        if bad.numel():
            rows = bad[:10].tolist()
            raise ValueError(
                f"{bad.numel()} rows hold a code outside level_sizes {self.level_sizes}: rows {rows}, "
                f"codes {codes[rows].tolist()}"
            )

    def _build(self, dense_limit: int) -> None:
        num_items, num_levels = self.codes.shape
        device = self.codes.device
        # Lexicographic order: stable sorts from the last level to the first (no composite key that could overflow).
        order = torch.arange(num_items, device=device)
        for level in reversed(range(num_levels)):
            order = order[torch.argsort(self.codes[order, level], stable=True)]
        ranked = self.codes[order]

        self._keys: list[torch.Tensor] = []  # [edges] sorted `parent * K + code`; the position is the child's number
        self._starts: list[torch.Tensor] = []  # [nodes + 1] first edge of each node
        self._masks: list[torch.Tensor | None] = []  # [nodes, K] dense tables
        self._fan_outs: list[int] = []
        nodes = torch.zeros(num_items, dtype=torch.long, device=device)  # node of each ranked item at this depth
        is_new = torch.zeros(num_items, dtype=torch.bool, device=device)  # first item of a prefix
        is_new[0] = True
        num_nodes = 1
        for level, size in enumerate(self.level_sizes):
            is_new[1:] |= ranked[1:, level] != ranked[:-1, level]
            first = is_new.nonzero().flatten()
            parents = nodes[first]
            keys = parents * size + ranked[first, level]
            counts = torch.bincount(parents, minlength=num_nodes)
            mask = None
            if num_nodes * size <= dense_limit:
                mask = torch.zeros(num_nodes * size, dtype=torch.bool, device=device)
                mask[keys] = True
                mask = mask.view(num_nodes, size)
            self._keys.append(keys)
            self._starts.append(torch.nn.functional.pad(counts.cumsum(0), (1, 0)))
            self._masks.append(mask)
            self._fan_outs.append(int(counts.max()))
            nodes = is_new.long().cumsum(0) - 1
            num_nodes = first.numel()
        if num_nodes != num_items:
            second = (~is_new).nonzero().flatten()
            pairs = torch.stack([order[second - 1], order[second]], dim=1)[:10].tolist()
            raise ValueError(f"{second.numel()} identifiers belong to more than one item; equal rows: {pairs}")
        self._rows = order  # row in `codes` of each edge of the last level

    @property
    def num_items(self) -> int:
        return self.codes.shape[0]

    @property
    def num_levels(self) -> int:
        return len(self.level_sizes)

    @property
    def device(self) -> torch.device:
        return self.codes.device

    def num_nodes(self, level: int) -> int:
        """Number of nodes at depth `level` (`1` at depth 0, `num_items` at depth `num_levels`)."""
        return 1 if level == 0 else self._keys[level - 1].numel()

    def to(self, device: torch.device | str) -> "ItemTrie":
        """Returns the trie with its tensors on `device` (itself, if it is there already)."""
        if torch.empty(0, device=device).device == self.device:
            return self
        moved = copy.copy(self)
        moved.codes = self.codes.to(device)
        moved._rows = self._rows.to(device)
        moved._keys = [keys.to(device) for keys in self._keys]
        moved._starts = [starts.to(device) for starts in self._starts]
        moved._masks = [None if mask is None else mask.to(device) for mask in self._masks]
        return moved

    def allowed(self, level: int, nodes: torch.Tensor) -> torch.Tensor:
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
        known = (nodes >= 0).unsqueeze(-1)
        safe = nodes.clamp(min=0)
        mask = self._masks[level]
        if mask is not None:
            return mask[safe] & known
        size = self.level_sizes[level]
        # Every node reads as many edges as the widest node of the level: static shapes, no synchronisation.
        starts = self._starts[level]
        steps = torch.arange(self._fan_outs[level], device=nodes.device)
        edges = starts[safe].unsqueeze(-1) + steps
        is_edge = (edges < starts[safe + 1].unsqueeze(-1)) & known
        codes = self._keys[level][edges.clamp(max=self._keys[level].numel() - 1)] % size
        allowed = torch.zeros(*nodes.shape, size + 1, dtype=torch.bool, device=nodes.device)
        allowed.scatter_(-1, codes.masked_fill(~is_edge, size), True)  # padding lands in the extra column
        return allowed[..., :size]

    def step(self, level: int, nodes: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
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
        size = self.level_sizes[level]
        nodes, codes = torch.broadcast_tensors(nodes, codes)
        wanted = nodes * size + codes
        keys = self._keys[level]
        positions = torch.searchsorted(keys, wanted.contiguous()).clamp(max=keys.numel() - 1)
        found = (keys[positions] == wanted) & (nodes >= 0) & (codes >= 0) & (codes < size)
        children = self._rows[positions] if level == self.num_levels - 1 else positions
        return children.masked_fill(~found, -1)

    def __len__(self) -> int:
        return self.num_items

    def __repr__(self) -> str:
        return f"ItemTrie(num_items={self.num_items}, level_sizes={self.level_sizes}, device={str(self.device)!r})"
