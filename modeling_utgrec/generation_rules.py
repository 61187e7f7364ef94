"""Rules about which items a user may get, applied inside the beam search: seen items, allow- and deny-lists, masks.

A rule never rebuilds the trie. A prefix may be entered if it has an item below it that the user may get; how many
there are follows from sums over the sorted items (masks) or from the runs of equal prefixes in a sorted list. So every
beam that the search keeps leads to an allowed item. If the beam is at least as wide as the number of items asked for,
then as many items come back as were asked for, whenever the rules allow so many: a level either keeps all prefixes,
and the search is exhaustive so far, or as many as the beam is wide, and each has a continuation at the next level.
"""

import copy

import torch
from torch import Tensor

from .generation_cells import put
from .item_trie import ItemTrie
from .item_trie_level import taken

ENTRIES_AT_ONCE = 2**26  # users × items of masks whose sums are taken together: 1 GiB of temporary memory


class ItemRules:
    """
    What each user may get. `allow` and `deny` take one of three forms, and an item must pass both:

    - a mask for everybody, bool `(num_items,)`: in stock, sold in this market;
    - masks, bool `(num_users, num_items)`;
    - lists of item rows, int64 `(num_users, longest)`, padded with -1. A user whose allow-list is empty gets nothing.

    Rules with one row hold for any number of users. Masks cost one pass over the items when the rules are made; for
    rules of a few kinds (markets, ages) make them once, one row for each kind, and `select` the kind of each user.

    Args:
        trie ([`ItemTrie`]): the catalogue. The rules are made on its device.
        allow (`torch.Tensor`, *optional*): items to choose from; by default all.
        deny (`torch.Tensor`, *optional*): items never to return.

    Raises:
        ValueError: if a tensor has another form than the three above, an item row is not in the trie, or `allow` and
            `deny` are for different numbers of users.

    Example:

    ```python
    >>> markets = ItemRules(trie, allow=sold_in, deny=out_of_stock)  # bool [markets, items] and [items]
    >>> rules = markets.select(market_of_user).excluding(seen_rows)  # [users] and [users, longest]
    >>> model.recommend(input_ids, attention_mask, trie, rules=rules)
    ```
    """

    def __init__(self, trie: ItemTrie, allow: Tensor | None = None, deny: Tensor | None = None):
        self.trie = trie
        mask: Tensor | None = None
        self._allowed: Tensor | None = None
        self._denied: Tensor | None = None
        if allow is not None:
            allow = self._checked("allow", allow)
            if allow.dtype == torch.bool:
                mask = allow
            else:
                self._allowed = allow
        if deny is not None:
            deny = self._checked("deny", deny)
            if deny.dtype != torch.bool:
                self._denied = deny
            elif mask is None:
                mask = ~deny
            else:
                _common([len(mask), len(deny)])
                mask = mask & ~deny
        self._masks = None if mask is None else _Masks(trie, mask)
        self._users: Tensor | None = None  # row of `_masks` of each user
        self.num_users = self._common_length()

    def _checked(self, name: str, rule: Tensor) -> Tensor:
        num_items = self.trie.num_items
        rule = torch.as_tensor(rule)
        if rule.dtype == torch.bool and rule.ndim in (1, 2) and rule.shape[-1] == num_items:
            return rule.to(self.trie.device).view(-1, num_items)
        if rule.dtype == torch.bool or rule.is_floating_point() or rule.ndim != 2:
            raise ValueError(
                f"{name} must be a bool mask of shape ({num_items},) or (num_users, {num_items}), or item rows of "
                f"shape (num_users, longest) padded with -1, got {rule.dtype} of shape {tuple(rule.shape)}."
            )
        check_range(name, rule, -1, num_items, "of items in the trie (-1 is padding)")
        if rule.shape[1] == 0:  # a column of padding: nothing is allowed or denied
            rule = rule.new_full((len(rule), 1), -1)
        return rule.to(device=self.trie.device, dtype=torch.long)

    def _common_length(self) -> int:
        lengths = [len(each) for each in (self._allowed, self._denied) if each is not None]
        if self._users is not None:
            lengths.append(len(self._users))
        elif self._masks is not None:
            lengths.append(self._masks.num_rows)
        return _common(lengths)

    def select(self, users: Tensor) -> "ItemRules":
        """
        The rules with row `users[b]` for user `b`; masks are shared, not copied.

        Args:
            users (`torch.LongTensor` of shape `(batch_size,)`): a row of these rules for each user of a batch.
        """
        users = users.to(self.trie.device)
        selected = copy.copy(self)
        if self._masks is not None and self._masks.num_rows > 1:
            if self._users is None:
                selected._users = users
            elif len(self._users) > 1:  # else that row holds for everybody
                selected._users = self._users[users]
        selected._allowed, selected._denied = (
            each if each is None or len(each) == 1 else each[users] for each in (self._allowed, self._denied)
        )
        selected.num_users = len(users)
        return selected

    def excluding(self, rows: Tensor) -> "ItemRules":
        """The rules with more denied items: item rows `(num_users, longest)` padded with -1, such as those seen."""
        rows = self._checked("exclude", rows)
        excluding = copy.copy(self)
        if self._denied is not None:
            length = max(len(rows), len(self._denied))
            rows = torch.cat((self._denied.expand(length, -1), rows.expand(length, -1)), dim=1)
        excluding._denied = rows
        excluding.num_users = excluding._common_length()
        return excluding

    def on(self, trie: ItemTrie) -> "ItemRules":
        """
        The rules on the device of a copy of their trie (themselves, if it is the same device).

        Raises:
            ValueError: if the rules were made for another trie.
        """
        if not self.trie.is_copy_of(trie):
            raise ValueError(f"the rules were made for another trie ({self.trie}) than the one given ({trie}).")
        if trie.device == self.trie.device:
            return self
        moved = copy.copy(self)
        moved.trie = trie
        moved._masks = None if self._masks is None else self._masks.on(trie)
        for name in ("_users", "_allowed", "_denied"):
            tensor = getattr(self, name)
            setattr(moved, name, None if tensor is None else tensor.to(trie.device))
        return moved

    def start(self, batch_size: int) -> "RulesOfSearch":
        """
        Prepares a search for a batch of users.

        Returns:
            [`RulesOfSearch`]: what may be entered, level by level.

        Raises:
            ValueError: if the rules are for another number of users.
        """
        if self.num_users not in (1, batch_size):
            raise ValueError(
                f"the rules are for {self.num_users} users, the batch has {batch_size}; `select` a row for each user."
            )
        return RulesOfSearch(self.trie, self._masks, self._users, self._allowed, self._denied, batch_size)


def _common(lengths: list[int]) -> int:
    """The number of users that rules of these numbers of rows are for; one row is for any number."""
    several = sorted({length for length in lengths if length != 1})
    if len(several) > 1:
        raise ValueError(f"the rules are for {several[0]} users and for {several[1]}.")
    return several[0] if several else 1


class _Masks:
    """Masks of items summed along the trie: for each level the number of allowed items below each edge."""

    def __init__(self, trie: ItemTrie, mask: Tensor):
        self.trie = trie
        self.num_rows = len(mask)
        parts = [self._sums(part) for part in mask.split(max(1, ENTRIES_AT_ONCE // trie.num_items))]
        # per level, [rows, edges]: int32, bool at the last level
        self.counts: list[Tensor] = [torch.cat(level) for level in zip(*parts, strict=True)]
        self.tables = [self._table(level) for level in range(trie.num_levels)]
        self._log_counts: dict[int, Tensor] = {}  # of dense levels of a mask for everybody, when first asked for

    def _sums(self, mask: Tensor) -> list[Tensor]:
        """Numbers of items of masks `[rows, num_items]` below each edge, for each level."""
        positions = torch.arange(self.trie.num_items, device=self.trie.device)
        counts: list[Tensor] = []
        below = mask[:, self.trie.rows_at(positions)]
        for level in reversed(self.trie.levels):
            counts.insert(0, below)
            sums = torch.nn.functional.pad(below.cumsum(1, dtype=torch.int32), (1, 0))
            below = sums.index_select(1, level.starts).diff(dim=1)
        return counts

    def _table(self, level: int) -> Tensor | None:
        """Which codes may follow which node, `[rows, nodes, K]`, if the level is dense."""
        edges = self.trie.levels[level]
        if edges.table is None:
            return None
        table = torch.zeros(self.num_rows, edges.table.numel(), dtype=torch.bool, device=self.trie.device)
        table[:, edges.keys.long()] = self.counts[level] > 0
        return table.view(self.num_rows, *edges.table.shape)

    def on(self, trie: ItemTrie) -> "_Masks":
        moved = copy.copy(self)
        moved.trie = trie
        moved.counts = [counts.to(trie.device) for counts in self.counts]
        moved.tables = [None if table is None else table.to(trie.device) for table in self.tables]
        moved._log_counts = {}
        return moved

    def below(self, level: int, rows: Tensor, edges: Tensor) -> Tensor:
        """Numbers of allowed items below edges `[B, ...]` for the masks `rows` `[B]`; that of edge 0 for edge -1."""
        if self.num_rows == 1:
            return taken(self.counts[level][0], edges.clamp(min=0))
        rows = rows.view(-1, *(1,) * (edges.ndim - 1))
        return taken(self.counts[level].flatten(), rows * self.counts[level].shape[1] + edges.clamp(min=0))

    def log_counts(self, level: int, rows: Tensor, nodes: Tensor) -> Tensor:
        """Logarithm of the number of allowed items below each child of nodes `[B, W]` for the masks `rows` `[B]`,
        float32, laid out as [`TrieLevel.children`] does; without meaning where no child may be entered."""
        edges = self.trie.levels[level]
        if self.num_rows > 1 or edges.table is None:
            return self.below(level, rows, edges.edges_of_children(nodes)).float().log_()
        if level not in self._log_counts:
            self._log_counts[level] = edges.spread(self.counts[level][0].float().log_())
        return edges.of_nodes(self._log_counts[level], nodes)


class RulesOfSearch:
    """Rules of a batch of users during one search, as [`ItemRules.start`] makes them."""

    def __init__(
        self,
        trie: ItemTrie,
        masks: _Masks | None,
        users: Tensor | None,
        allowed: Tensor | None,
        denied: Tensor | None,
        batch_size: int,
    ):
        self.trie, self.masks, self.batch_size = trie, masks, batch_size
        if masks is not None:
            if users is None:
                users = torch.arange(batch_size, device=trie.device).clamp(max=masks.num_rows - 1)
            self.mask_rows = users.expand(batch_size)
        without = None if denied is None else self._sorted_path(denied)
        self.allowed = None if allowed is None else self._sorted_path(allowed, without)
        self.denied = without if allowed is None else None  # else they are off the allow-list already

    def _sorted_path(self, rows: Tensor, without: list[Tensor] | None = None) -> list[Tensor]:
        """
        Edges of listed items for each level, `[B, longest]`, sorted, each item once: -1 in place of items given twice,
        items that the masks deny, and items in the list `without`.
        """
        path = self.trie.path(rows.expand(self.batch_size, -1))
        positions, order = path[-1].sort(dim=1)
        drop = torch.zeros_like(positions, dtype=torch.bool)
        drop[:, 1:] = positions[:, 1:] == positions[:, :-1]
        if self.masks is not None:
            drop |= ~self.masks.below(self.trie.num_levels - 1, self.mask_rows, positions)
        if without is not None:
            drop |= _is_in(without[-1], positions)
        positions, again = positions.masked_fill_(drop, -1).sort(dim=1)
        order = order.gather(1, again)
        return [edges.gather(1, order).masked_fill_(positions < 0, -1) for edges in path]

    def children(self, level: int, nodes: Tensor) -> tuple[Tensor | None, Tensor]:
        """
        What may follow nodes `[B, W]` of a level's depth, different ones for a user: codes (None if the level is
        dense) and whether a child may be entered, laid out as [`TrieLevel.children`] does.
        """
        codes, exists, edges = self.trie.levels[level].children(nodes)
        if self.allowed is not None:
            exists = torch.zeros_like(exists)
            self._mark(level, nodes, self.allowed, exists, True)
            return codes, exists
        if self.masks is not None:
            table = self.masks.tables[level]
            if table is not None:
                exists &= table[self.mask_rows[:, None], nodes.clamp(min=0)]
            elif edges is not None:
                below = self.masks.below(level, self.mask_rows, edges)
                exists &= below if below.dtype == torch.bool else below > 0
        if self.denied is not None:
            self._mark(level, nodes, self.denied, exists, False)
        return codes, exists

    def counts(self, level: int, edges: Tensor) -> Tensor:
        """Numbers of items that a user may get below edges `[B, C]` of a level, which are all of the trie; int64."""
        if self.allowed is not None:
            return _number_of(self.allowed[level], edges)
        if self.masks is None:
            counts = taken(self.trie.levels[level].counts, edges).long()
        else:
            counts = self.masks.below(level, self.mask_rows, edges).long()
        return counts if self.denied is None else counts - _number_of(self.denied[level], edges)

    def totals(self) -> Tensor:
        """Numbers of items that each user may get, int64 `[B]`."""
        if self.allowed is not None:
            return (self.allowed[-1] >= 0).sum(1)
        if self.masks is None:
            totals = torch.full((self.batch_size,), self.trie.num_items, device=self.trie.device)
        else:
            totals = self.masks.counts[0].sum(1)[self.mask_rows]
        return totals if self.denied is None else totals - (self.denied[-1] >= 0).sum(1)

    def log_counts(self, level: int, nodes: Tensor) -> Tensor:
        """Logarithm of the number of items that a user may get below each child of nodes `[B, W]`, float32, laid out
        as `children`; without meaning where no child may be entered."""
        edges_of_level = self.trie.levels[level]
        if level == self.trie.num_levels - 1:  # an edge is an item: what may be entered is one
            return torch.zeros(*nodes.shape, edges_of_level.width, device=nodes.device)
        if self.masks is None or self.allowed is not None:
            logs = edges_of_level.log_counts(nodes)
        else:
            logs = self.masks.log_counts(level, self.mask_rows, nodes)
        listed = self.denied if self.allowed is None else self.allowed
        if listed is not None:  # of all that may be entered, the others are as they were, or not listed
            cells, there = self._cells(level, nodes, listed)
            counts = self.counts(level, listed[level].clamp(min=0))
            put(logs, cells, there, counts.float().log_())
        return logs

    def allows(self, positions: Tensor) -> Tensor:
        """Whether a user may get the items at positions `[B, C]`, which are all of the trie."""
        if self.allowed is not None:
            return _is_in(self.allowed[-1], positions)
        allows = torch.ones_like(positions, dtype=torch.bool)
        if self.masks is not None:
            allows &= self.masks.below(self.trie.num_levels - 1, self.mask_rows, positions)
        if self.denied is not None:
            allows &= ~_is_in(self.denied[-1], positions)
        return allows

    def _cells(self, level: int, nodes: Tensor, path: list[Tensor]) -> tuple[Tensor, Tensor]:
        edges = path[level]
        starts = path[level - 1] if level else edges.clamp(max=0)  # nodes that the edges leave from
        return self.trie.levels[level].cells(nodes, starts, edges)

    def _mark(self, level: int, nodes: Tensor, path: list[Tensor], exists: Tensor, value: bool):
        """
        Sets `exists` `[B, W, columns]` to `value` at listed edges that leave from `nodes` `[B, W]`; with False, only
        at edges below which all items are listed.
        """
        edges = path[level]
        cells, applies = self._cells(level, nodes, path)
        if not value:
            listed = torch.searchsorted(edges, edges, right=True) - torch.searchsorted(edges, edges)
            if self.masks is not None:
                applies &= listed >= self.masks.below(level, self.mask_rows, edges)
            else:
                applies &= listed >= self.trie.levels[level].counts[edges.clamp(min=0)]
        exists = exists.view(torch.uint8).flatten(1)
        values = applies.to(torch.uint8)  # those that do not apply change nothing where they go
        exists.scatter_reduce_(1, cells, values if value else 1 - values, "amax" if value else "amin")


def _number_of(listed: Tensor, edges: Tensor) -> Tensor:
    """How many of sorted edges `[B, longest]` are each of the edges `[B, C]`."""
    return torch.searchsorted(listed, edges, right=True) - torch.searchsorted(listed, edges)


def _is_in(listed: Tensor, positions: Tensor) -> Tensor:
    """Whether positions `[B, C]` are among sorted ones `[B, longest]`."""
    places = torch.searchsorted(listed, positions).clamp_(max=listed.shape[1] - 1)
    return listed.gather(1, places) == positions


def check_range(name: str, values: Tensor, low: int, high: int, what: str):
    """Raises ValueError naming the first user with a value outside of low..high-1: on a GPU it would only crash."""
    outside = (values < low) | (values >= high)
    if outside.any():
        user, position = outside.nonzero()[0].tolist()
        raise ValueError(
            f"{name}[{user}, {position}] is {values[user, position].item()}, outside of the ids {low}..{high - 1} "
            f"{what}."
        )


__all__ = ["ItemRules", "RulesOfSearch", "check_range"]
