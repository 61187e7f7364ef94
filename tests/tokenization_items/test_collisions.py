"""Ways to tell items apart that share their codes, against brute force, and their invariants."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenization_items.collisions import (
    CapacityError,
    append_digits,
    assign_least_distance,
    assign_nearest_first,
    crowded_first_codes,
    spread_first_codes,
)

DIM = 3


def all_costs(residuals, level_vectors):
    """Per level, squared distances `(num_items, K)`, the slow and obvious way."""
    return [
        np.array([[((z - e) ** 2).sum() for e in vectors] for z in residuals[:, level]]).reshape(len(residuals), -1)
        for level, vectors in enumerate(level_vectors)
    ]


def make_vectors(rng, level_sizes):
    return [rng.normal(size=(size, DIM)).astype(np.float32) for size in level_sizes]


def nearest_codes(residuals, level_vectors):
    return np.stack([costs.argmin(1) for costs in all_costs(residuals, level_vectors)], axis=1)


def least_total(costs, free):
    """Smallest total cost of giving each row its own free column, over all permutations."""
    return min(
        sum(costs[row, code] for row, code in enumerate(choice)) for choice in itertools.permutations(free, len(costs))
    )


@st.composite
def crowded_catalogues(draw):
    """A catalogue with occupied identifiers, on few codes, that fits its levels, sometimes exactly."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    capacity = int(np.prod(sizes))
    num_items = draw(st.integers(1, capacity))
    num_occupied = draw(st.integers(0, capacity - num_items))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    level_vectors = make_vectors(rng, sizes)
    residuals = draw(st.sampled_from([0.0, 0.1, 1.0])) * rng.normal(size=(num_items, len(sizes), DIM))
    flat = rng.permutation(capacity)[:num_occupied]
    occupied = np.stack(np.unravel_index(flat, sizes), axis=1).reshape(num_occupied, len(sizes))
    return sizes, residuals, level_vectors, occupied


@pytest.mark.parametrize("assign", [assign_least_distance, assign_nearest_first])
@settings(max_examples=50, deadline=None)
@given(crowded_catalogues())
def test_identifiers_are_all_different_within_their_levels_and_changed_only_by_collisions(assign, catalogue):
    sizes, residuals, level_vectors, occupied = catalogue
    given_codes = nearest_codes(residuals, level_vectors)
    before = given_codes.copy()
    final = assign(given_codes, sizes, residuals, level_vectors, occupied)
    assert np.array_equal(given_codes, before)
    assert ((final >= 0) & (final < sizes)).all()
    together = [tuple(row) for row in np.concatenate([occupied, final]).tolist()]
    assert len(set(together)) == len(together)
    wanted = [tuple(row) for row in np.concatenate([occupied, given_codes]).tolist()]
    if len(set(wanted)) == len(wanted):
        assert np.array_equal(final, given_codes)


def nearest_first_by_hand(codes, sizes, costs, occupied):
    """UTGRec's order, item by item on lists of whole identifiers: no counts, no prefixes kept."""
    codes, last = [tuple(row) for row in codes.tolist()], len(sizes) - 1
    every = list(itertools.product(*map(range, sizes)))
    taken = {tuple(row) for row in occupied.tolist()}
    final = {}
    for identifier in set(codes) - taken:
        rows = [row for row, each in enumerate(codes) if each == identifier]
        final[min(rows, key=lambda row: (costs[last][row, identifier[-1]], row))] = identifier
    left = [row for row in range(len(codes)) if row not in final]
    for level in range(last, -1, -1):
        waiting = []
        for row in sorted(left, key=lambda row: (costs[level][row, codes[row][level]], row)):
            free = [each for each in every if each not in taken and each not in final.values()]
            free = [each for each in free if each[:level] == codes[row][:level]]
            if free:
                final[row] = min(
                    free, key=lambda each: [(costs[d][row, each[d]], each[d]) for d in range(level, last + 1)]
                )
            else:
                waiting.append(row)
        left = waiting
    assert not left
    return np.array([final[row] for row in range(len(codes))]).reshape(len(codes), len(sizes))


@settings(max_examples=150, deadline=None)
@given(crowded_catalogues())
def test_nearest_first_is_the_papers_order(catalogue):
    sizes, residuals, level_vectors, occupied = catalogue
    given_codes = nearest_codes(residuals, level_vectors)
    costs = all_costs(residuals, level_vectors)
    final = assign_nearest_first(given_codes, sizes, residuals, level_vectors, occupied)
    assert np.array_equal(final, nearest_first_by_hand(given_codes, sizes, costs, occupied))
    together = given_codes.tolist() + occupied.tolist()
    for identifier in {tuple(row) for row in given_codes.tolist()}:
        rows = (given_codes == identifier).all(1).nonzero()[0]
        if together.count(list(identifier)) == 1:  # collides with none
            assert tuple(final[rows[0]]) == identifier
        elif list(identifier) not in occupied.tolist():
            assert tuple(final[rows[costs[-1][rows, identifier[-1]].argmin()]]) == identifier


def test_nearest_first_by_example():
    # Last codes at 0, 1, 3 and 9. Three items want code 0 and one code 1, which keeps it although it is farther away.
    level_vectors = [np.zeros((1, 1)), np.array([[0.0], [1.0], [3.0], [9.0]])]
    last = np.array([0.3, -0.1, 0.4, 1.9])
    residuals = np.stack([np.zeros(4), last], axis=1)[:, :, None]
    codes = np.array([[0, 0], [0, 0], [0, 0], [0, 1]])
    final = assign_nearest_first(codes, [1, 4], residuals, level_vectors)
    assert final[:, 1].tolist() == [2, 0, 3, 1]  # the nearer of the others, item 0, takes the nearer free code
    assert assign_least_distance(codes, [1, 4], residuals, level_vectors)[:, 1].tolist() != final[:, 1].tolist()
    with pytest.raises(CapacityError, match="capacity of 4"):
        assign_nearest_first(codes, [1, 4], residuals, level_vectors, occupied=np.array([[0, 3]]))


def test_nearest_first_moves_the_level_above_when_a_prefix_is_full():
    level_vectors = [np.array([[0.0], [1.0], [5.0]]), np.array([[0.0], [1.0]])]
    roots, leaves = np.array([0.1, 0.2, -0.3, 0.4]), np.array([0.0, 0.1, 0.2, 0.9])
    residuals = np.stack([roots, leaves], axis=1)[:, :, None]
    codes = np.array([[0, 0], [0, 0], [0, 0], [0, 1]])
    final = assign_nearest_first(codes, [3, 2], residuals, level_vectors, occupied=np.array([[1, 0]]))
    # Items 0 and 3 keep theirs. Item 1, the nearer to root 0, takes what is left below root 1, item 2 goes to root 2.
    assert final.tolist() == [[0, 0], [1, 1], [2, 0], [0, 1]]


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 5), st.integers(1, 5), st.integers(0, 10_000))
def test_the_total_within_a_prefix_is_the_least_possible(size, num_items, seed):
    rng = np.random.default_rng(seed)
    num_items = min(num_items, size)
    num_occupied = int(rng.integers(0, size - num_items + 1))
    level_vectors = make_vectors(rng, [2, size])
    # All items and occupied identifiers under root code 1; the last codes crowd on the codes nearest to the centre.
    residuals = 0.3 * rng.normal(size=(num_items, 2, DIM))
    costs = all_costs(residuals, level_vectors)[1]
    given_codes = np.stack([np.ones(num_items, dtype=int), costs.argmin(1)], axis=1)
    taken = rng.permutation(size)[:num_occupied]
    occupied = np.stack([np.ones(num_occupied, dtype=int), taken], axis=1)
    final = assign_least_distance(given_codes, [2, size], residuals, level_vectors, occupied)
    assert (final[:, 0] == 1).all()
    free = [code for code in range(size) if code not in taken]
    total = costs[np.arange(num_items), final[:, 1]].sum()
    assert total == pytest.approx(least_total(costs, free), abs=1e-9)


def test_least_total_beats_first_come():
    # Both items want code 0. The first is nearer to it, but the second would pay 100 for code 1 and the first only 9.
    level_vectors = [np.array([[0.0], [4.0]])]
    residuals = np.array([[[0.5]], [[-8.0]]])
    final = assign_least_distance(np.array([[0], [0]]), [2], residuals, level_vectors)
    assert final.tolist() == [[1], [0]]


@pytest.mark.parametrize(("origin", "sign"), [(0, 1), (20, -1)])  # distances depend on neither
def test_the_surplus_with_the_smallest_additional_distance_moves_at_the_level_above(origin, sign):
    # Root codes at 0, 1 and 10; two identifiers below each. Four items want root 0, and root 1 has one left.
    level_vectors = [origin + sign * np.array([[0.0], [1.0], [10.0]]), np.array([[0.0], [1.0]])]
    roots = origin + sign * np.array([-1.0, 0.1, 0.4, 0.3])
    leaves = np.array([0.0, 0.0, 0.0, 1.0])
    residuals = np.stack([roots, leaves], axis=1)[:, :, None]
    given_codes = np.array([[0, 0], [0, 0], [0, 0], [0, 1]])
    final = assign_least_distance(given_codes, [3, 2], residuals, level_vectors, occupied=np.array([[1, 0]]))
    # Additional distances to root 1: 3, 0.8, 0.2 and 0.4; to root 10: 120, 98, 92 and 94. Item 2 takes the place in
    # root 1 and the surplus left is one item: the nearest code with room is then root 10, cheapest for item 3.
    assert final[:, 0].tolist() == [0, 0, 1, 2]
    assert final[2].tolist() == [1, 1]
    assert final[3].tolist() == [2, 1]  # moved to an empty prefix, it has the nearest last code there
    assert sorted(final[:2, 1].tolist()) == [0, 1]


def test_moves_to_another_prefix_choose_all_later_codes_by_distance():
    rng = np.random.default_rng(0)
    sizes = [3, 2, 2]
    level_vectors = make_vectors(rng, sizes)
    residuals = rng.normal(size=(5, 3, DIM))
    given_codes = np.zeros((5, 3), dtype=int)  # 5 items, 4 identifiers below root 0
    given_codes[:4, 1:] = [[0, 0], [0, 1], [1, 0], [1, 1]]
    final = assign_least_distance(given_codes, sizes, residuals, level_vectors)
    costs = all_costs(residuals, level_vectors)
    extra = costs[0][:, 1:] - costs[0][:, :1]
    mover = int(extra.min(1).argmin())
    assert (final[:, 0] != 0).nonzero()[0].tolist() == [mover]
    assert final[mover].tolist() == [1 + extra[mover].argmin(), costs[1][mover].argmin(), costs[2][mover].argmin()]


@pytest.mark.parametrize("assign", [assign_least_distance, assign_nearest_first])
def test_a_full_catalogue_uses_every_identifier(assign):
    rng = np.random.default_rng(1)
    sizes = [3, 4, 5]
    level_vectors = make_vectors(rng, sizes)
    residuals = rng.normal(size=(60, 3, DIM))
    final = assign(np.zeros((60, 3), dtype=int), sizes, residuals, level_vectors)
    assert len(np.unique(final, axis=0)) == 60
    with pytest.raises(CapacityError, match=r"60 new items and 1 items of the index need 61 .* capacity of 60"):
        assign(final, sizes, residuals, level_vectors, occupied=np.zeros((1, 3), dtype=int))


@pytest.mark.parametrize("assign", [assign_least_distance, assign_nearest_first])
def test_equal_residuals_are_separated(assign):
    level_vectors = make_vectors(np.random.default_rng(2), [4, 6])
    final = assign(np.full((20, 2), 3), [4, 6], np.zeros((20, 2, DIM)), level_vectors)
    assert len(np.unique(final, axis=0)) == 20


@pytest.mark.parametrize("assign", [assign_least_distance, assign_nearest_first])
def test_many_levels_do_not_overflow(assign):
    sizes = [256] * 12  # 2**96 identifiers
    level_vectors = [np.random.default_rng(3).normal(size=(256, DIM))] * 12
    final = assign(np.full((300, 12), 255), sizes, np.zeros((300, 12, DIM)), level_vectors)
    assert len(np.unique(final, axis=0)) == 300
    assert (final[:, :10] == 255).all()  # one prefix of length 11 holds 256 of them


@pytest.mark.parametrize("assign", [assign_least_distance, assign_nearest_first])
def test_missing_residuals_are_an_error_only_with_collisions(assign):
    codes = np.array([[0, 1], [1, 1]])
    assert np.array_equal(assign(codes, [2, 2]), codes)
    with pytest.raises(ValueError, match="2 items share semantic IDs.*needs residuals and level_vectors"):
        assign(np.array([[0, 1], [0, 1]]), [2, 2])
    with pytest.raises(ValueError, match="1 items share semantic IDs"):
        assign(codes, [2, 2], occupied=np.array([[1, 1]]))


@pytest.mark.parametrize("assign", [assign_least_distance, assign_nearest_first])
def test_a_large_skewed_catalogue(assign):
    rng = np.random.default_rng(4)
    sizes, num_items, dim = [256, 512, 512], 30_000, 8
    level_vectors = [rng.normal(size=(size, dim)).astype(np.float32) for size in sizes]
    codes = np.empty((num_items, 3), dtype=np.int64)
    residuals = np.empty((num_items, 3, dim), dtype=np.float32)
    for level, (size, vectors) in enumerate(zip(sizes, level_vectors, strict=True)):
        shares = 1.0 / np.arange(1, size + 1) ** 1.5
        codes[:, level] = rng.choice(size, size=num_items, p=shares / shares.sum())
        residuals[:, level] = vectors[codes[:, level]] + 0.1 * rng.normal(size=(num_items, dim))
    assert len(np.unique(codes, axis=0)) < num_items / 3
    final = assign(codes, sizes, residuals, level_vectors)
    assert len(np.unique(final, axis=0)) == num_items
    assert np.array_equal(final[:, 0], codes[:, 0])  # 262,144 identifiers below each root code


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 30), st.integers(0, 10), st.integers(1, 3), st.integers(0, 10_000))
def test_digits_count_up_by_item_id_and_leave_out_what_is_taken(num_items, num_occupied, size, seed):
    rng = np.random.default_rng(seed)
    item_ids = [f"item-{row}" for row in rng.permutation(num_items)]
    codes = rng.integers(size, size=(num_items, 2))
    flat = rng.permutation(size * size * 20)[:num_occupied]
    occupied = np.stack(np.unravel_index(flat, (size, size, 20)), axis=1)
    final = append_digits(item_ids, codes, occupied)
    assert np.array_equal(final[:, :2], codes)
    given_before = {tuple(row) for row in occupied.tolist()}
    for _item_id, row in sorted(zip(item_ids, final.tolist(), strict=True)):
        free = next(digit for digit in itertools.count() if (*row[:2], digit) not in given_before)
        assert row[2] == free
        given_before.add(tuple(row))


def test_digits_by_hand():
    codes = np.array([[1], [1], [0], [1]])
    assert append_digits(["c", "a", "b", "d"], codes).tolist() == [[1, 1], [1, 0], [0, 0], [1, 2]]


@st.composite
def crowded_parts(draw):
    """A crowded catalogue with rows that are equal to the bit, and first codes in one to three parts."""
    sizes, residuals, level_vectors, occupied = draw(crowded_catalogues().filter(lambda each: len(each[0]) > 1))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    if draw(st.booleans()):  # as of items with the same text
        residuals = residuals[rng.integers(0, max(1, len(residuals) // 2), len(residuals))]
    return sizes, residuals.astype(np.float32), level_vectors, occupied, rng.integers(0, draw(st.integers(1, 3)), 4)


@settings(max_examples=300, deadline=None)
@given(crowded_parts())
def test_first_codes_are_resolved_apart_as_together(catalogue):
    sizes, residuals, level_vectors, occupied, part_of = catalogue
    given_codes = nearest_codes(residuals, level_vectors)
    together = assign_least_distance(given_codes, sizes, residuals, level_vectors, occupied)
    apart = given_codes.copy()
    totals = np.bincount(np.concatenate([occupied[:, 0], apart[:, 0]]), minlength=sizes[0])
    rows = np.flatnonzero(np.isin(apart[:, 0], crowded_first_codes(totals, sizes)))
    apart[rows] = spread_first_codes(apart[rows], sizes, totals, residuals[rows], level_vectors)
    final = np.empty_like(apart)
    for part in range(3):
        mine, taken = (part_of[codes[:, 0]] == part for codes in (apart, occupied))
        final[mine] = assign_least_distance(apart[mine], sizes, residuals[mine], level_vectors, occupied[taken])
    assert np.array_equal(final, together)


def test_many_prefixes_are_resolved_as_each_of_them():
    """Distances of many prefixes come from one call: the last bits must not tell."""
    rng = np.random.default_rng(0)
    sizes, level_vectors = [8, 16, 16], [rng.normal(size=(size, 9)).astype(np.float32) for size in (8, 16, 16)]
    residuals = rng.normal(size=(500, 3, 9)).astype(np.float32)[rng.integers(0, 400, 500)]
    given_codes = nearest_codes(residuals, level_vectors)
    assert not len(crowded_first_codes(np.bincount(given_codes[:, 0], minlength=8), sizes))
    together = assign_least_distance(given_codes, sizes, residuals, level_vectors)
    assert (together != given_codes).any()
    for code in range(8):
        rows = np.flatnonzero(given_codes[:, 0] == code)
        alone = assign_least_distance(given_codes[rows], sizes, residuals[rows], level_vectors)
        assert np.array_equal(alone, together[rows])


def test_spreading_more_items_than_there_are_semantic_ids():
    with pytest.raises(CapacityError, match="capacity of 4"):
        spread_first_codes(np.zeros((5, 2)), [2, 2], np.array([5, 0]), np.zeros((5, 2, 1)), [np.zeros((2, 1))] * 2)
    assert crowded_first_codes(np.array([2, 3, 0]), [3, 2]).tolist() == [1]
    with pytest.raises(ValueError, match="two levels"):
        crowded_first_codes(np.array([2, 0]), [2])
