"""Attributes read from a data folder: lists and texts, order, items without any."""

import json

import pytest

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
