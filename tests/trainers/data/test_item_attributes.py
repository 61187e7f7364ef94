"""Attributes read from a data folder: lists and texts, order, items without any."""

import json

import polars as pl
import pytest

from tokenization_items.catalogue import Catalogue
from trainers.data.item_attributes import read_attributes

ITEMS = [
    {"item_id": "a", "title": "A", "categories": "tools, saws,  tools", "brand": "Acme, Inc."},
    {"item_id": "b", "title": "B", "categories": ["saws", "Garden, Patio"], "brand": None},
    {"item_id": "c", "title": "C", "categories": "", "brand": "Zed"},
    {"item_id": "d", "title": "D"},
]


def write(folder, items=ITEMS):
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return folder


def test_values_and_places(tmp_path):
    found = read_attributes(write(tmp_path), ["d", "b", "a", "c"])
    assert found.values == {"categories": ["Garden, Patio", "saws", "tools"], "brand": ["Acme, Inc.", "Zed"]}
    assert [row.tolist() for row in found.rows["categories"]] == [[], [1, 0], [2, 1], []]
    assert [row.tolist() for row in found.rows["brand"]] == [[], [], [0], [1]]
    assert found.table().tolist() == [
        [[0, 0], [0, 0]],
        [[2, 1], [0, 0]],
        [[3, 2], [1, 0]],
        [[0, 0], [2, 0]],
    ]


def test_a_field_that_no_item_has_is_left_out(tmp_path):
    items = [{key: value for key, value in item.items() if key != "categories"} for item in ITEMS]
    found = read_attributes(write(tmp_path, items), ["a", "c"])
    assert list(found.values) == ["brand"] and found.table().shape == (2, 1, 1)


def test_no_attribute_at_all_is_an_error(tmp_path):
    items = [{"item_id": "a", "title": "A"}]
    with pytest.raises(ValueError, match="no categories and no brand of any item: attributes are missing"):
        read_attributes(write(tmp_path, items), ["a"])


@pytest.mark.parametrize("name", ["items.jsonl", "items.parquet"])
def test_ids_are_those_of_the_catalogue(tmp_path, name):
    """Floating-point ids are whole numbers, and NaN is no brand."""
    brands = ["x", "y", float("nan")]
    items = [{"item_id": float(n), "title": "T", "brand": brand} for n, brand in enumerate(brands, 1)]
    if name.endswith("parquet"):
        items[2]["brand"] = None
        pl.DataFrame(items).write_parquet(tmp_path / name)
    else:
        write(tmp_path, items)
    item_ids = Catalogue.from_folder(tmp_path).item_ids
    assert item_ids == ["1", "2", "3"]
    found = read_attributes(tmp_path, item_ids)
    assert [row.tolist() for row in found.rows["brand"]] == [[0], [1], []]


@pytest.mark.parametrize("column", ["sku", "item_id"])
def test_items_that_were_read_by_other_columns_have_none(tmp_path, column):
    write(tmp_path, [{column: "1", "number": "a", "brand": "x"}])
    with pytest.raises(ValueError, match="attributes are missing"):
        read_attributes(tmp_path, ["a"])
