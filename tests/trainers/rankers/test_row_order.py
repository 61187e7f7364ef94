"""Orders and largest entries of rows against sorts one by one."""

import numpy as np
import pytest
from scipy import sparse

from trainers.rankers.row_order import largest_of_rows, order_in_rows


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_order_in_rows_is_that_of_lexsort(dtype):
    rng = np.random.default_rng(0)
    owners, values = rng.integers(0, 5, 200), rng.integers(-3, 4, 200).astype(dtype) / 4
    values[rng.random(200) < 0.2] *= -1.0  # makes -0, which is 0
    expected = np.lexsort((np.arange(200), -values, owners))
    assert order_in_rows(owners, values).tolist() == expected.tolist()
    assert order_in_rows(owners[:0], values[:0]).tolist() == []


@pytest.mark.parametrize("make", [lambda matrix: matrix, sparse.csr_array], ids=["dense", "sparse"])
def test_largest_of_rows(make):
    matrix = np.array([[0.1, 0.5, 0.5, 0.5], [-1.0, 0.0, -2.0, 3.0], [0.0, 0.0, 0.0, 0.0]])
    found = largest_of_rows(make(matrix), 2)
    assert found.toarray().tolist() == [[0, 0.5, 0.5, 0], [0, 0, -2.0, 3.0], [0] * 4]
    assert found.nnz == 4, "zeros take no memory"


def test_of_equal_entries_the_first_columns_are_kept_in_whatever_order_they_lie():
    lying = sparse.csr_array((np.ones(3), np.array([2, 0, 1]), np.array([0, 3])), shape=(1, 3))
    assert largest_of_rows(lying, 2).toarray().tolist() == [[1, 1, 0]]
    assert lying.indices.tolist() == [2, 0, 1], "what was given stays as it is"


@pytest.mark.parametrize("make", [lambda matrix: matrix, sparse.csr_array], ids=["dense", "sparse"])
def test_largest_of_rows_one_by_one(make, monkeypatch):
    monkeypatch.setattr("trainers.rankers.row_order.CHUNK_ENTRIES", 50)  # several rows at a time, not all
    matrix = np.random.default_rng(0).integers(-2, 4, (25, 20)).astype(np.float32)  # many ties
    expected = np.zeros_like(matrix)
    for row, values in enumerate(matrix):
        for column in sorted(range(20), key=lambda column: (-abs(values[column]), column))[:7]:
            expected[row, column] = values[column]
    found = largest_of_rows(make(matrix), 7)
    assert np.array_equal(found.toarray(), expected) and found.nnz == np.count_nonzero(expected)
    assert found.dtype == np.float32 and found.has_sorted_indices
