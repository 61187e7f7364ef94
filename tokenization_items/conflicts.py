"""Conflict resolution: one identifier for each item, at the least additional distance (UTGRec, section 2.4.1).

Pure functions on arrays. UTGRec lets the item that is nearest to its last code keep it and sends the others to the
next free code, one after the other. Here all new items of a crowded prefix are assigned at once, with the least total
distance, and a prefix that is full gives its surplus to its neighbours at the level above.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from modeling_utgrec import code_usage

# Rows of distances computed at a time: 8192 × 512 codes in float64 are 32 MiB.
CHUNK_ROWS = 8192


class CapacityError(ValueError):
    """The catalogue holds more items than there are identifiers."""


@dataclass(frozen=True)
class AssignmentReport:
    """
    What an assignment of identifiers did.

    Args:
        num_items (`int`): Items added.
        collisions_before (`int`): Added items whose given codes were shared with another item, added or present.
        items_moved (`int`): Added items whose identifier differs from their given codes.
        moved_by_level (`list[int]`): The same items, by the first level at which they differ.
        mean_extra_distance (`float`): Mean over moved items of the squared distance, summed over levels, that their
            identifier adds to that of their given codes.
        max_extra_distance (`float`): Largest such distance.
        used_codes (`list[float]`): Share of each level's codes among the given codes (before resolution).
        perplexity (`list[float]`): Exponential of the entropy of the given codes of each level (at most its size).
    """

    num_items: int
    collisions_before: int
    items_moved: int
    moved_by_level: list[int]
    mean_extra_distance: float
    max_extra_distance: float
    used_codes: list[float]
    perplexity: list[float]

    def to_dict(self) -> dict:
        return asdict(self)

    def __str__(self) -> str:
        usage = "; ".join(
            f"level {level}: {used:.1%} of codes used, perplexity {perplexity:.1f}, {moved} items moved"
            for level, (used, perplexity, moved) in enumerate(
                zip(self.used_codes, self.perplexity, self.moved_by_level, strict=True)
            )
        )
        return (
            f"{self.num_items} items added; {self.collisions_before} shared their codes with another item, "
            f"{self.items_moved} moved (additional squared distance: mean {self.mean_extra_distance:.4g}, "
            f"max {self.max_extra_distance:.4g}); {usage}"
        )


def resolve_conflicts(
    codes: np.ndarray,
    level_sizes: Sequence[int],
    residuals: np.ndarray | None = None,
    level_vectors: Sequence[np.ndarray] | None = None,
    occupied: np.ndarray | None = None,
) -> np.ndarray:
    """
    Changes as few codes as needed for all identifiers to differ, from the first level to the last.

    At every level but the last, a code whose prefix would hold more items than identifiers begin with it gives away
    its surplus: the items with the smallest additional distance move to the nearest code of that level with room, in
    rounds, and their later codes become the nearest ones. At the last level, the new items of every prefix that holds
    a conflict are assigned to its free codes with the least total distance. Prefixes without one keep their codes.

    Ties are broken by the order of the rows: sort them by item id for a result that does not depend on their order.

    Args:
        codes (`np.ndarray` of shape `(num_items, num_levels)`):
            Level-local codes of the new items.
        level_sizes (`Sequence[int]`):
            Number of codes of each level.
        residuals (`np.ndarray` of shape `(num_items, num_levels, dim)`, *optional*):
            The vectors z'_l that each level quantizes; code `k` at level `l` costs `||z'_l - e_k||²`. Needed only when
            there is a conflict.
        level_vectors (`Sequence[np.ndarray]` of shapes `(level_sizes[l], dim)`, *optional*):
            Code vectors e of each level.
        occupied (`np.ndarray` of shape `(num_occupied, num_levels)`, *optional*):
            Identifiers that are taken (all different). They are never changed.

    Returns:
        `np.ndarray` of shape `(num_items, num_levels)`, int64: all rows differ from each other and from `occupied`.

    Raises:
        CapacityError: If new and occupied identifiers together outnumber the product of `level_sizes`.
        ValueError: If there is a conflict and `residuals` or `level_vectors` is missing.
    """
    codes = np.array(codes, dtype=np.int64)
    num_items, num_levels = codes.shape
    occupied = np.zeros((0, num_levels), dtype=np.int64) if occupied is None else np.asarray(occupied, dtype=np.int64)
    num_occupied, capacity = len(occupied), math.prod(level_sizes)
    if num_items + num_occupied > capacity:
        raise CapacityError(
            f"{num_items} new items and {num_occupied} items of the index need {num_items + num_occupied} "
            f"identifiers, but levels of {list(level_sizes)} codes have a capacity of {capacity}; use more levels or "
            "larger codebooks"
        )
    if num_items == 0:
        return codes
    distances = _Distances(residuals, level_vectors)
    parents = np.zeros(num_occupied + num_items, dtype=np.int64)  # prefix of each row: occupied rows first, then new
    for level, size in enumerate(level_sizes):
        is_last = level == num_levels - 1
        room = min(math.prod(level_sizes[level + 1 :]), num_items + num_occupied)  # below one code; cannot overflow
        column = np.concatenate([occupied[:, level], codes[:, level]])
        keys, nodes, counts = np.unique(parents * size + column, return_inverse=True, return_counts=True)
        crowded = np.unique(keys[counts > room] // size)
        if len(crowded):
            distances.require(int((counts[nodes[num_occupied:]] > room).sum()))
            if is_last:
                _assign_last_level(codes, column[:num_occupied], parents, crowded, size, distances)
                break
            for members, taken in _groups(parents, crowded, num_occupied):
                totals = np.bincount(np.concatenate([occupied[taken, level], codes[members, level]]), minlength=size)
                moved = _move_surplus(codes, members, level, room - totals, distances)
                for later in range(level + 1, num_levels):
                    codes[moved, later] = distances.nearest(moved, later)
            column[num_occupied:] = codes[:, level]
            nodes = np.unique(parents * size + column, return_inverse=True)[1]
        parents = nodes
    return codes


def report_assignment(
    given: np.ndarray,
    final: np.ndarray,
    occupied: np.ndarray,
    level_sizes: Sequence[int],
    residuals: np.ndarray | None = None,
    level_vectors: Sequence[np.ndarray] | None = None,
) -> AssignmentReport:
    """
    Compares given codes with the identifiers that `resolve_conflicts` made of them (same shapes and arguments).

    Returns:
        [`AssignmentReport`].
    """
    num_items, num_levels = given.shape
    _, inverse, counts = np.unique(np.concatenate([occupied, given]), axis=0, return_inverse=True, return_counts=True)
    changed = given != final
    moved = changed.any(1).nonzero()[0]
    extra = np.zeros(len(moved))
    for level in range(num_levels) if len(moved) else ():
        vectors = np.asarray(level_vectors[level], dtype=np.float64)
        at_level = residuals[moved, level]
        extra += ((at_level - vectors[final[moved, level]]) ** 2).sum(1)
        extra -= ((at_level - vectors[given[moved, level]]) ** 2).sum(1)
    codes = torch.from_numpy(given)
    usage = [code_usage(codes[:, level], size) for level, size in enumerate(level_sizes)]
    return AssignmentReport(
        num_items=num_items,
        collisions_before=int((counts[inverse.reshape(-1)[len(occupied) :]] > 1).sum()),
        items_moved=len(moved),
        moved_by_level=np.bincount(changed[moved].argmax(1), minlength=num_levels).tolist(),
        mean_extra_distance=float(extra.mean()) if len(moved) else 0.0,
        max_extra_distance=float(extra.max()) if len(moved) else 0.0,
        used_codes=[level["used"] for level in usage],
        perplexity=[level["perplexity"] for level in usage],
    )


class _Distances:
    """Squared distances up to the constant ||z'||² of each item, which no comparison within an item needs."""

    def __init__(self, residuals: np.ndarray | None, level_vectors: Sequence[np.ndarray] | None):
        self.residuals = residuals
        self.vectors = None if level_vectors is None else [np.asarray(e, dtype=np.float64) for e in level_vectors]

    def require(self, num_conflicts: int) -> None:
        if self.residuals is None or self.vectors is None:
            raise ValueError(
                f"{num_conflicts} items share identifiers or overflow their prefix; resolving this needs "
                "residuals and level_vectors (the vectors that each level quantizes and its code vectors)"
            )

    def chunk(self, rows: np.ndarray, level: int) -> np.ndarray:
        vectors = self.vectors[level]
        return (vectors**2).sum(1) - 2 * (np.asarray(self.residuals[rows, level], dtype=np.float64) @ vectors.T)

    def matrix(self, rows: np.ndarray, level: int) -> np.ndarray:
        """`(len(rows), K)` in float32: the one large matrix, when a whole catalogue falls on one code."""
        costs = np.empty((len(rows), len(self.vectors[level])), dtype=np.float32)
        for start in range(0, len(rows), CHUNK_ROWS):
            costs[start : start + CHUNK_ROWS] = self.chunk(rows[start : start + CHUNK_ROWS], level)
        return costs

    def nearest(self, rows: np.ndarray, level: int) -> np.ndarray:
        codes = np.empty(len(rows), dtype=np.int64)
        for start in range(0, len(rows), CHUNK_ROWS):
            codes[start : start + CHUNK_ROWS] = self.chunk(rows[start : start + CHUNK_ROWS], level).argmin(1)
        return codes


def _groups(parents: np.ndarray, wanted: np.ndarray, num_occupied: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each wanted prefix: its new rows and its occupied rows, each ascending."""
    order = np.argsort(parents, kind="stable")
    ranked = parents[order]
    starts, ends = np.searchsorted(ranked, wanted), np.searchsorted(ranked, wanted, side="right")
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        rows = order[start:end]
        middle = np.searchsorted(rows, num_occupied)
        yield rows[middle:] - num_occupied, rows[:middle]


def _rank_within(keys: np.ndarray) -> np.ndarray:
    """Position of each entry among the entries with the same key."""
    order = np.argsort(keys, kind="stable")
    ranked = keys[order]
    ranks = np.empty(len(keys), dtype=np.int64)
    ranks[order] = np.arange(len(keys)) - np.searchsorted(ranked, ranked)
    return ranks


def _move_surplus(
    codes: np.ndarray, members: np.ndarray, level: int, room: np.ndarray, distances: _Distances
) -> np.ndarray:
    """Moves the surplus of the codes with negative `room` under one prefix, in place; returns the rows moved."""
    surplus, room = np.maximum(-room, 0), np.maximum(room, 0)
    rows = members[surplus[codes[members, level]] > 0]
    sources = codes[rows, level]
    costs = distances.matrix(rows, level)
    every = np.arange(len(rows))
    stay = costs[every, sources]
    costs[:, room == 0] = np.inf
    targets = costs.argmin(1)
    extra = costs[every, targets] - stay
    active, moved = every, []
    # Each round settles all surplus or fills a code, so there are at most K rounds; the first item always moves.
    while len(active):
        ranked = active[np.argsort(extra[active], kind="stable")]
        ranked = ranked[_rank_within(sources[ranked]) < surplus[sources[ranked]]]
        ranked = ranked[_rank_within(targets[ranked]) < room[targets[ranked]]]
        codes[rows[ranked], level] = targets[ranked]
        np.subtract.at(surplus, sources[ranked], 1)
        np.subtract.at(room, targets[ranked], 1)
        moved.append(rows[ranked])
        is_active = np.zeros(len(rows), dtype=bool)
        is_active[active] = True
        is_active[ranked] = False
        active = every[is_active & (surplus[sources] > 0)]
        full = np.unique(targets[ranked])
        costs[:, full[room[full] == 0]] = np.inf
        again = active[room[targets[active]] == 0]
        for start in range(0, len(again), CHUNK_ROWS):
            part = again[start : start + CHUNK_ROWS]
            targets[part] = costs[part].argmin(1)
        extra[again] = costs[again, targets[again]] - stay[again]
    return np.concatenate(moved)


def _assign_last_level(
    codes: np.ndarray,
    occupied_codes: np.ndarray,
    parents: np.ndarray,
    crowded: np.ndarray,
    size: int,
    distances: _Distances,
) -> None:
    """Least total distance within each crowded prefix: its new items × its free codes, in place."""
    groups = list(_groups(parents, crowded, len(occupied_codes)))
    last = codes.shape[1] - 1
    ends = np.cumsum([len(members) for members, _ in groups])
    start = 0
    while start < len(groups):  # distances of many small prefixes in one product
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + CHUNK_ROWS, side="right")))
        batch = groups[start:stop]
        costs = distances.chunk(np.concatenate([members for members, _ in batch]), last)
        position = 0
        for members, taken in batch:
            part = costs[position : position + len(members)]
            position += len(members)
            if len(taken):
                free = np.ones(size, dtype=bool)
                free[occupied_codes[taken]] = False
                free = free.nonzero()[0]
                codes[members, last] = free[linear_sum_assignment(part[:, free])[1]]
            else:
                codes[members, last] = linear_sum_assignment(part)[1]
        start = stop
