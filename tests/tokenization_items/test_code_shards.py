"""Codes of blocks as parquet: what is read of them is what was written, by ranges of first codes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenization_items import code_shards
from tokenization_items.code_shards import CodedItems, counts_of, ranges_of, read_range, read_said, write_block

SIZES = [5, 4, 3]


def items_of(num_items, seed, prefix="i"):
    rng = np.random.default_rng(seed)
    ids = [f"{prefix}{row}ä" for row in rng.permutation(num_items)]
    codes = np.stack([rng.integers(0, size, num_items) for size in SIZES], axis=1)
    return CodedItems(
        ids, [each.upper() for each in ids], codes, rng.normal(size=(num_items, 3, 2)).astype(np.float32)
    )


@pytest.mark.parametrize("levels", [[0, 1, 2], [2]])
def test_a_range_of_several_files_comes_in_the_order_of_ids(tmp_path, monkeypatch, levels):
    monkeypatch.setattr(code_shards, "ROWS_OF_GROUP", 4)
    blocks = [items_of(30, 0, "a"), items_of(17, 1, "B"), items_of(1, 2, "ü")]
    paths = [tmp_path / f"{number}.parquet" for number in range(3)]
    for path, block in zip(paths, blocks, strict=True):
        said = write_block(path, block, SIZES)
        assert said == {"items": len(block), "counts": counts_of(block.codes, SIZES)} == read_said(path)
    expected = {}
    for block in blocks:
        for row, item_id in enumerate(block.item_ids):
            expected[item_id] = (block.titles[row], block.codes[row], block.residuals[row])
    for low, high in [(0, 5), (1, 3), (4, 5), (2, 2)]:
        found = read_range(paths, (low, high), 3, levels)
        assert found.item_ids == sorted(each for each, (_, codes, _) in expected.items() if low <= codes[0] < high)
        for row, item_id in enumerate(found.item_ids):
            title, codes, residuals = expected[item_id]
            assert found.titles[row] == title and np.array_equal(found.codes[row], codes)
            assert np.array_equal(found.residuals[row, levels], residuals[levels])
            assert not found.residuals[row, sorted({0, 1, 2} - {*levels})].any()


def test_what_is_no_finished_block(tmp_path):
    path = tmp_path / "block.parquet"
    assert read_said(path) is None
    write_block(path, items_of(30, 0), SIZES)
    content = path.read_bytes()
    for broken in (b"", content[:100], content[:-5]):
        path.write_bytes(broken)
        assert read_said(path) is None


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(1, 20))
def test_ranges_hold_each_code_once(totals, most_items):
    totals = np.array(totals)
    ranges = ranges_of(totals, most_items)
    if not totals.any():
        assert ranges == []
        return
    assert [code for low, high in ranges for code in range(low, high)] == [*range(len(totals))]
    for low, high in ranges:
        assert 0 < totals[low:high].sum() and (
            totals[low:high].sum() <= most_items or (totals[low:high] > 0).sum() == 1
        )
