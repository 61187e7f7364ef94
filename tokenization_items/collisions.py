"""Collisions, items to which an item tokenizer gives the same codes, and three ways to tell them apart.

Pure functions on arrays:

- `"least_distance"`, this project's: all new items of a crowded prefix are assigned at once, with the least total
  distance, and a prefix that is full gives its surplus to its neighbours at the level above;
- `"nearest_first"`, UTGRec's (section 2.4.1): of the items that collide the nearest to its last code keeps it, and one
  after the other takes the second-nearest or a farther one;
- `"digit"`, TIGER's (Rajput et al. 2023, section 3.1): a further level, on which items with the same codes count up.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import numpy as np
from scipy.optimize import linear_sum_assignment

# Rows of distances computed at a time: 8192 × 512 codes in float64 are 32 MiB.
CHUNK_ROWS = 8192
# Codes of the digits' level, at least: as many as TIGER's other levels have.
NUM_DIGITS = 256

Collisions = Literal["least_distance", "nearest_first", "digit"]


class CapacityError(ValueError):
    """The catalogue holds more items than there are semantic IDs."""


def check_capacity(num_items: int, num_occupied: int, level_sizes: Sequence[int]) -> None:
    """Raises a [`CapacityError`] unless there are semantic IDs for new items beside those that are taken."""
    capacity, needed = math.prod(level_sizes), num_items + num_occupied
    if needed > capacity:
        raise CapacityError(
            f"{num_items} new items and {num_occupied} items of the index need {needed} semantic IDs, but levels of "
            f"{list(level_sizes)} codes have a capacity of {capacity}; use more levels or larger codebooks"
        )


def check_way(collisions: str) -> None:
    """Raises a `ValueError` unless `collisions` is a way of this file."""
    if collisions not in get_args(Collisions):
        raise ValueError(f"collisions must be one of {', '.join(get_args(Collisions))}, got {collisions!r}.")


def assign_least_distance(
    codes: np.ndarray,
    level_sizes: Sequence[int],
    residuals: np.ndarray | None = None,
    level_vectors: Sequence[np.ndarray] | None = None,
    occupied: np.ndarray | None = None,
) -> np.ndarray:
    """
    Changes as few codes as needed for all semantic IDs to differ, from the first level to the last.

    At every level but the last, a code whose prefix would hold more items than semantic IDs begin with it gives away
    its surplus: the items with the smallest additional distance move to the nearest code of that level with room, in
    rounds, and their later codes become the nearest ones. At the last level, the new items of every prefix that holds
    a collision are assigned to its free codes with the least total distance. Prefixes without one keep their codes.

    Ties are broken by the order of the rows: sort them by item id for a result that does not depend on their order.

    **A catalogue in parts**, of two levels or more. What is done at a level to a prefix depends on the rows with this
    prefix alone, in their order: on their codes, their residuals and how many rows each code has; all distances are
    computed row by row. A prefix of one code or more lies below one first code, so when no first code holds more items
    than semantic IDs begin with it, the outcome for the rows of some first codes is that of this function for these
    rows alone. Where one does, [`spread_first_codes`] does to the codes what this function does at the first level,
    which then finds nothing to do there.

    Args:
        codes (`np.ndarray` of shape `(num_items, num_levels)`):
            Level-local codes of the new items.
        level_sizes (`Sequence[int]`):
            Number of codes of each level.
        residuals (`np.ndarray` of shape `(num_items, num_levels, dim)`, *optional*):
            The vectors z'_l that each level quantizes; code `k` at level `l` costs `||z'_l - e_k||²`. Needed only when
            there is a collision.
        level_vectors (`Sequence[np.ndarray]` of shapes `(level_sizes[l], dim)`, *optional*):
            Code vectors e of each level.
        occupied (`np.ndarray` of shape `(num_occupied, num_levels)`, *optional*):
            semantic IDs that are taken (all different). They are never changed.

    Returns:
        `np.ndarray` of shape `(num_items, num_levels)`, int64: all rows differ from each other and from `occupied`.

    Raises:
        CapacityError: If new and occupied semantic IDs together outnumber the product of `level_sizes`.
        ValueError: If there is a collision and `residuals` or `level_vectors` is missing.
    """
    codes, occupied = _checked(codes, level_sizes, occupied)
    (num_items, num_levels), num_occupied = codes.shape, len(occupied)
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
                _move_members(codes, members, level, room - totals, distances)
            column[num_occupied:] = codes[:, level]
            nodes = np.unique(parents * size + column, return_inverse=True)[1]
        parents = nodes
    return codes


def crowded_first_codes(totals: np.ndarray, level_sizes: Sequence[int]) -> np.ndarray:
    """
    First codes with more items than semantic IDs begin with them, int64.

    Args:
        totals (`np.ndarray` of shape `(level_sizes[0],)`): items of each first code, new and occupied.
        level_sizes (`Sequence[int]`): number of codes of each level, two or more: what has one is no part of a whole.

    Raises:
        ValueError: There is one level.
    """
    if len(level_sizes) < 2:
        raise ValueError("first codes are resolved apart where there are two levels or more, got one")
    return np.flatnonzero(totals > min(math.prod(level_sizes[1:]), int(totals.sum())))


def spread_first_codes(
    codes: np.ndarray,
    level_sizes: Sequence[int],
    totals: np.ndarray,
    residuals: np.ndarray,
    level_vectors: Sequence[np.ndarray],
) -> np.ndarray:
    """
    The first step of [`assign_least_distance`], for the rows that it concerns.

    Args:
        codes (`np.ndarray` of shape `(num_items, num_levels)`): codes of all new items whose first code is crowded
            ([`crowded_first_codes`]), in the order of that function's rows.
        level_sizes, residuals, level_vectors: as there, of these rows; two levels or more.
        totals (`np.ndarray` of shape `(level_sizes[0],)`): items of each first code, new and occupied, of all.

    Returns:
        `np.ndarray` of shape `(num_items, num_levels)`, int64: codes of which no first one is crowded any more.

    Raises:
        CapacityError: There are more items than semantic IDs.
    """
    codes = np.array(codes, dtype=np.int64)
    check_capacity(int(totals.sum()), 0, level_sizes)
    room = min(math.prod(level_sizes[1:]), int(totals.sum()))
    distances = _Distances(residuals, level_vectors)
    if len(codes):
        _move_members(codes, np.arange(len(codes)), 0, room - totals, distances)
    return codes


def assign_nearest_first(
    codes: np.ndarray,
    level_sizes: Sequence[int],
    residuals: np.ndarray | None = None,
    level_vectors: Sequence[np.ndarray] | None = None,
    occupied: np.ndarray | None = None,
) -> np.ndarray:
    """
    Lets the nearest of the items that collide keep its codes and moves the others, as UTGRec does (section 2.4.1).

    Of the items with the same codes the one at the least distance from its last code keeps them, unless they are
    occupied; so does an item that collides with none. Then the others, the nearest first, take the nearest last code
    that is free under their prefix. An item whose prefix is full by then moves at the level above likewise, the
    nearest to its code of that level first: to the nearest code with room, and under it to the nearest codes with
    room. If there is none, it does so one level higher.

    Ties are broken by the order of the rows, then by the lower code: sort rows by item id for a result that does not
    depend on their order.

    Args, returns and raises as [`assign_least_distance`].
    """
    codes, occupied = _checked(codes, level_sizes, occupied)
    num_levels = len(level_sizes)
    if not len(codes):
        return codes
    _, groups = np.unique(np.concatenate([occupied, codes]), axis=0, return_inverse=True)
    taken, groups = np.split(groups.reshape(-1), [len(occupied)])
    collides = np.isin(groups, taken) | (np.bincount(groups)[groups] > 1)
    rows = collides.nonzero()[0]
    if not len(rows):
        return codes
    distances = _Distances(residuals, level_vectors)
    distances.require(len(rows))
    # The nearest of each group, unless an occupied semantic ID is in it.
    ranked = rows[np.argsort(distances.to_codes(rows, codes, num_levels - 1), kind="stable")]
    keeps = (_rank_within(groups[ranked]) == 0) & ~np.isin(groups[ranked], taken)
    moving = np.sort(ranked[~keeps])
    settled = np.ones(len(codes), dtype=bool)
    settled[moving] = False
    given = codes.copy()
    for level in reversed(range(num_levels)):
        prefixes = {tuple(row) for row in given[moving, :level].tolist()}
        room = _Room(level_sizes, level)
        for row in np.concatenate([occupied, codes[settled]]).tolist():
            if tuple(row[:level]) in prefixes:
                room.take(tuple(row))
        left = []
        for row in moving[np.argsort(distances.to_codes(moving, given, level), kind="stable")].tolist():
            prefix = tuple(given[row, :level].tolist())
            if not room.is_left(prefix):
                left.append(row)
                continue
            for deeper in range(level, num_levels):
                prefix += (distances.nearest_but(row, deeper, room.full[prefix]),)
            room.take(prefix)
            codes[row] = prefix
            settled[row] = True
        moving = np.array(sorted(left), dtype=np.int64)
        if not left:
            break
    return codes


def append_digits(item_ids: Sequence[str], codes: np.ndarray, occupied: np.ndarray | None = None) -> np.ndarray:
    """
    Adds a level on which items with the same codes count up from 0, by item id, leaving out the digits that are taken.

    Args:
        item_ids (`Sequence[str]`): the new items.
        codes (`np.ndarray` of shape `(items, levels)`): their codes.
        occupied (`np.ndarray` of shape `(others, levels + 1)`, *optional*): semantic IDs that are taken, with digits.

    Returns:
        `np.ndarray` of shape `(items, levels + 1)`, int64.
    """
    taken = defaultdict(set)
    for *above, digit in () if occupied is None else occupied.tolist():
        taken[tuple(above)].add(digit)
    digits, following = np.empty(len(codes), dtype=np.int64), Counter[tuple[int, ...]]()
    rows = codes.tolist()
    for row in sorted(range(len(item_ids)), key=item_ids.__getitem__):
        above = tuple(rows[row])
        while following[above] in taken[above]:
            following[above] += 1
        digits[row] = following[above]
        following[above] += 1
    return np.column_stack([codes, digits])


def _checked(
    codes: np.ndarray, level_sizes: Sequence[int], occupied: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Copies of codes and occupied semantic IDs, int64; raises [`CapacityError`] if they are too many."""
    codes = np.array(codes, dtype=np.int64)
    occupied = np.zeros((0, codes.shape[1])) if occupied is None else occupied
    check_capacity(len(codes), len(occupied), level_sizes)
    return codes, np.array(occupied, dtype=np.int64)


class _Room:
    """Codes below which no semantic ID is free, by their prefix; of prefixes of at least `least` codes."""

    def __init__(self, level_sizes: Sequence[int], least: int):
        self.below = [math.prod(level_sizes[level:]) for level in range(len(level_sizes) + 1)]
        self.least = least
        self.taken: Counter[tuple[int, ...]] = Counter()
        self.full: defaultdict[tuple[int, ...], set[int]] = defaultdict(set)

    def take(self, codes: tuple[int, ...]) -> None:
        """Takes a semantic ID."""
        for length in range(self.least, len(codes)):
            self.taken[codes[:length]] += 1
        self.full[codes[:-1]].add(codes[-1])
        for length in range(self.least + 1, len(codes)):
            if not self.is_left(codes[:length]):
                self.full[codes[: length - 1]].add(codes[length - 1])

    def is_left(self, prefix: tuple[int, ...]) -> bool:
        return self.taken[prefix] < self.below[len(prefix)]


class _Distances:
    """Squared distances of the residuals that were quantized from code vectors, computed when they are needed."""

    def __init__(self, residuals: np.ndarray | None, level_vectors: Sequence[np.ndarray] | None):
        self._residuals = residuals
        self._vectors = None if level_vectors is None else [np.asarray(e, dtype=np.float64) for e in level_vectors]

    def require(self, num_items: int) -> None:
        if self._residuals is None or self._vectors is None:
            raise ValueError(
                f"{num_items} items share semantic IDs or overflow their prefix; resolving this needs "
                "residuals and level_vectors (the vectors that each level quantizes and its code vectors)"
            )

    @property
    def residuals(self) -> np.ndarray:
        assert self._residuals is not None
        return self._residuals

    @property
    def vectors(self) -> list[np.ndarray]:
        assert self._vectors is not None
        return self._vectors

    def to_codes(self, rows: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
        """`(len(rows),)`: from each row's residual to its code `codes[row, level]`."""
        difference = self.residuals[rows, level].astype(np.float64) - self.vectors[level][codes[rows, level]]
        return (difference**2).sum(1)

    def nearest_but(self, row: int, level: int, excluded: set[int]) -> int:
        """The nearest code of a row that is not excluded."""
        costs = ((self.residuals[row, level].astype(np.float64) - self.vectors[level]) ** 2).sum(1)
        costs[list(excluded)] = np.inf
        return int(costs.argmin())

    def chunk(self, rows: np.ndarray, level: int) -> np.ndarray:
        """`(len(rows), K)`, up to the constant ||z'||² of each row, which no comparison within a row needs. Each row
        is a product of its own: in one of many rows, the last bits of a row depend on how many there are."""
        vectors, at_level = self.vectors[level], np.asarray(self.residuals[rows, level], dtype=np.float64)
        return (vectors**2).sum(1) - 2 * np.matmul(vectors, at_level[:, :, None])[..., 0]

    def matrix(self, rows: np.ndarray, level: int) -> np.ndarray:
        """`chunk` of any rows, in float32: the one large matrix, when a whole catalogue falls on one code."""
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


def _move_members(codes: np.ndarray, members: np.ndarray, level: int, room: np.ndarray, distances: _Distances) -> None:
    """Moves the surplus of the codes with negative `room` under one prefix, and gives the rows that move the nearest
    codes of the levels below, in place."""
    moved = _move_surplus(codes, members, level, room, distances)
    for later in range(level + 1, codes.shape[1]):
        codes[moved, later] = distances.nearest(moved, later)


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
