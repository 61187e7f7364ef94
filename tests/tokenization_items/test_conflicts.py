"""Conflict resolution against brute force over all permutations, and its invariants."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenization_items.conflicts import CapacityError, report_assignment, resolve_conflicts

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


@settings(max_examples=50, deadline=None)
@given(crowded_catalogues())
def test_identifiers_are_all_different_within_their_levels_and_changed_only_in_crowded_prefixes(catalogue):
    sizes, residuals, level_vectors, occupied = catalogue
    given_codes = nearest_codes(residuals, level_vectors)
    before = given_codes.copy()
    final = resolve_conflicts(given_codes, sizes, residuals, level_vectors, occupied)
    assert np.array_equal(given_codes, before)
    assert ((final >= 0) & (final < sizes)).all()
    together = [tuple(row) for row in np.concatenate([occupied, final]).tolist()]
    assert len(set(together)) == len(together)
    wanted = [tuple(row) for row in np.concatenate([occupied, given_codes]).tolist()]
    if len(set(wanted)) == len(wanted):
        assert np.array_equal(final, given_codes)


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
    final = resolve_conflicts(given_codes, [2, size], residuals, level_vectors, occupied)
    assert (final[:, 0] == 1).all()
    free = [code for code in range(size) if code not in taken]
    total = costs[np.arange(num_items), final[:, 1]].sum()
    assert total == pytest.approx(least_total(costs, free), abs=1e-9)


def test_least_total_beats_first_come():
    # Both items want code 0. The first is nearer to it, but the second would pay 100 for code 1 and the first only 9.
    level_vectors = [np.array([[0.0], [4.0]])]
    residuals = np.array([[[0.5]], [[-8.0]]])
    final = resolve_conflicts(np.array([[0], [0]]), [2], residuals, level_vectors)
    assert final.tolist() == [[1], [0]]


def test_the_surplus_with_the_smallest_additional_distance_moves_at_the_level_above():
    # Root codes at 0, 1 and 10; two identifiers below each. Four items want root 0, and root 1 has one left.
    level_vectors = [np.array([[0.0], [1.0], [10.0]]), np.array([[0.0], [1.0]])]
    roots = np.array([-1.0, 0.1, 0.4, 0.3])
    leaves = np.array([0.0, 0.0, 0.0, 1.0])
    residuals = np.stack([roots, leaves], axis=1)[:, :, None]
    given_codes = np.array([[0, 0], [0, 0], [0, 0], [0, 1]])
    final = resolve_conflicts(given_codes, [3, 2], residuals, level_vectors, occupied=np.array([[1, 0]]))
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
    final = resolve_conflicts(given_codes, sizes, residuals, level_vectors)
    costs = all_costs(residuals, level_vectors)
    extra = costs[0][:, 1:] - costs[0][:, :1]
    mover = int(extra.min(1).argmin())
    assert (final[:, 0] != 0).nonzero()[0].tolist() == [mover]
    assert final[mover].tolist() == [1 + extra[mover].argmin(), costs[1][mover].argmin(), costs[2][mover].argmin()]


def test_a_full_catalogue_uses_every_identifier():
    rng = np.random.default_rng(1)
    sizes = [3, 4, 5]
    level_vectors = make_vectors(rng, sizes)
    residuals = rng.normal(size=(60, 3, DIM))
    final = resolve_conflicts(np.zeros((60, 3), dtype=int), sizes, residuals, level_vectors)
    assert len(np.unique(final, axis=0)) == 60
    with pytest.raises(CapacityError, match=r"60 new items and 1 items of the index need 61 .* capacity of 60"):
        resolve_conflicts(final, sizes, residuals, level_vectors, occupied=np.zeros((1, 3), dtype=int))


def test_equal_residuals_are_separated():
    level_vectors = make_vectors(np.random.default_rng(2), [4, 6])
    final = resolve_conflicts(np.full((20, 2), 3), [4, 6], np.zeros((20, 2, DIM)), level_vectors)
    assert len(np.unique(final, axis=0)) == 20


def test_many_levels_do_not_overflow():
    sizes = [256] * 12  # 2**96 identifiers
    level_vectors = [np.random.default_rng(3).normal(size=(256, DIM))] * 12
    final = resolve_conflicts(np.full((300, 12), 255), sizes, np.zeros((300, 12, DIM)), level_vectors)
    assert len(np.unique(final, axis=0)) == 300
    assert (final[:, :10] == 255).all()  # one prefix of length 11 holds 256 of them


def test_missing_residuals_are_an_error_only_with_conflicts():
    codes = np.array([[0, 1], [1, 1]])
    assert np.array_equal(resolve_conflicts(codes, [2, 2]), codes)
    with pytest.raises(ValueError, match="2 items share identifiers.*needs residuals and level_vectors"):
        resolve_conflicts(np.array([[0, 1], [0, 1]]), [2, 2])
    with pytest.raises(ValueError, match="1 items share identifiers"):
        resolve_conflicts(codes, [2, 2], occupied=np.array([[1, 1]]))


def test_a_large_skewed_catalogue():
    rng = np.random.default_rng(4)
    sizes, num_items, dim = [256, 512, 512], 100_000, 8
    level_vectors = [rng.normal(size=(size, dim)).astype(np.float32) for size in sizes]
    codes = np.empty((num_items, 3), dtype=np.int64)
    residuals = np.empty((num_items, 3, dim), dtype=np.float32)
    for level, (size, vectors) in enumerate(zip(sizes, level_vectors, strict=True)):
        shares = 1.0 / np.arange(1, size + 1) ** 1.5
        codes[:, level] = rng.choice(size, size=num_items, p=shares / shares.sum())
        residuals[:, level] = vectors[codes[:, level]] + 0.1 * rng.normal(size=(num_items, dim))
    assert len(np.unique(codes, axis=0)) < num_items / 3
    final = resolve_conflicts(codes, sizes, residuals, level_vectors)
    assert len(np.unique(final, axis=0)) == num_items
    assert np.array_equal(final[:, 0], codes[:, 0])  # 262,144 identifiers below each root code


def test_the_report_counts_what_happened():
    level_vectors = [np.array([[0.0], [4.0]]), np.array([[0.0], [1.0], [3.0]])]
    given_codes = np.array([[0, 0], [0, 0], [1, 1], [1, 2]])
    final = np.array([[0, 0], [0, 1], [0, 2], [1, 2]])
    occupied = np.array([[1, 2]])
    residuals = np.array([[0.0, 0.0], [0.0, 0.5], [3.0, 1.0], [4.0, 3.0]])[:, :, None]
    report = report_assignment(given_codes, final, occupied, [2, 3], residuals, level_vectors)
    assert report.num_items == 4
    assert report.collisions_before == 3  # the first two with each other, the last one with the occupied identifier
    assert report.items_moved == 2
    assert report.moved_by_level == [1, 1]
    # Item 1: 0.5² - 0.5² = 0. Item 2: (3-0)² - (3-4)² + (1-3)² - (1-1)² = 8 + 4.
    assert report.mean_extra_distance == pytest.approx(6.0)
    assert report.max_extra_distance == pytest.approx(12.0)
    assert report.used_codes == [1.0, 1.0]
    assert report.perplexity == pytest.approx([2.0, 2**1.5])
    assert report.to_dict()["items_moved"] == 2
    assert "4 items added; 3 shared their codes" in str(report) and "level 1: 100.0% of codes used" in str(report)
