"""From shared codes to a bijection."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.methods.collisions import collision_digits, resolve


@st.composite
def catalogues(draw):
    """Item ids in any order, codes with many collisions, residuals and code vectors."""
    num_items, size = draw(st.integers(1, 27)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    item_ids = [f"item-{row}" for row in rng.permutation(num_items)]
    codes = rng.integers(size, size=(num_items, 3)) // draw(st.integers(1, 3))
    residuals = rng.standard_normal((num_items, 3, 2)).astype(np.float32)
    vectors = [rng.standard_normal((size, 2)).astype(np.float32) for _ in range(3)]
    return item_ids, codes, size, residuals, vectors


@settings(max_examples=50, deadline=None)
@given(catalogues(), st.integers(1, 5))
def test_digits_make_a_bijection_that_keeps_the_codes(catalogue, num_digits):
    item_ids, codes, size, _, _ = catalogue
    index, report = resolve(item_ids, codes, [size] * 3, "digit", num_digits=num_digits)
    assert index.item_ids == item_ids
    np.testing.assert_array_equal(index.codes[:, :3], codes)
    groups = {}
    for item_id, row in sorted(zip(item_ids, codes.tolist(), strict=True)):
        groups.setdefault(tuple(row), []).append(item_id)
    for row, members in groups.items():  # 0, 1, 2, … by item id
        digits = [index.codes[index.rows([item_id])[0], 3] for item_id in members]
        assert digits == list(range(len(members))), row
    largest = max(map(len, groups.values()))
    assert report["largest_group"] == largest
    assert report["level_sizes"] == index.level_sizes == [size] * 3 + [max(largest, num_digits)]
    assert report["collisions"] == sum(len(members) for members in groups.values() if len(members) > 1)
    assert report["collision_rate"] == report["collisions"] / len(item_ids)
    assert report["items_moved"] == 0
    for item_id in item_ids:
        assert index.decode(index.encode(item_id)) == item_id


@settings(max_examples=50, deadline=None)
@given(catalogues())
def test_assigning_makes_a_bijection_on_the_same_levels(catalogue):
    item_ids, codes, size, residuals, vectors = catalogue
    if len(item_ids) > size**3:
        with pytest.raises(ValueError, match="capacity"):
            resolve(item_ids, codes, [size] * 3, "assign", residuals, vectors)
        return
    index, report = resolve(item_ids, codes, [size] * 3, "assign", residuals, vectors)
    assert index.level_sizes == [size] * 3 and len(np.unique(index.codes, axis=0)) == len(item_ids)
    assert report["items_moved"] == (index.codes != codes).any(1).sum()
    assert (report["collisions"] == 0) == (report["items_moved"] == 0)
    for item_id in item_ids:
        assert index.decode(index.encode(item_id)) == item_id


@pytest.mark.parametrize("resolution", ["digit", "assign"])
def test_the_order_of_the_items_does_not_matter(resolution):
    rng = np.random.default_rng(0)
    item_ids = [f"i{row}" for row in range(30)]
    codes, residuals = rng.integers(2, size=(30, 3)), rng.standard_normal((30, 3, 2))
    vectors = [rng.standard_normal((4, 2)) for _ in range(3)]
    order = rng.permutation(30)
    a, _ = resolve(item_ids, codes, [4] * 3, resolution, residuals, vectors)
    b, _ = resolve([item_ids[row] for row in order], codes[order], [4] * 3, resolution, residuals[order], vectors)
    np.testing.assert_array_equal(a.encode_batch(item_ids), b.encode_batch(item_ids))


def test_every_level_has_its_own_tokens_and_the_default_digits_are_tigers():
    index, _ = resolve(["a", "b"], np.array([[3, 1], [3, 1]]), [5, 7], "digit")
    assert index.level_sizes == [5, 7, 256] and index.level_offsets == [2, 7, 14]
    assert index.encode("b") == [5, 8, 15]


def test_usage_is_that_before_resolution():
    codes = np.array([[0, 0], [0, 0], [1, 0], [1, 0]])
    _, report = resolve(list("abcd"), codes, [4, 4], "digit")
    assert report["used"] == [0.5, 0.25]
    assert report["perplexity"] == pytest.approx([2.0, 1.0])
    assert (report["collisions"], report["collision_rate"], report["largest_group"]) == (4, 1.0, 2)


def test_collision_digits_by_hand():
    assert collision_digits(["c", "a", "b", "d"], np.array([1, 1, 0, 1])).tolist() == [1, 0, 0, 2]


def test_errors():
    with pytest.raises(ValueError, match="'digit' or 'assign'"):
        resolve(["a"], np.zeros((1, 2), int), [2, 2], "sinkhorn")
    with pytest.raises(ValueError, match="residuals and level_vectors"):
        resolve(["a", "b"], np.zeros((2, 2), int), [2, 2], "assign")
