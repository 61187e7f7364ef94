"""Brands of items as numbers: the same for every catalogue and spelling, none where there is none."""

import json

import pytest

from trainers.data.item_brands import brand_number, item_brands


def write(folder, brands) -> list[str]:
    ids = [f"i{row}" for row in range(len(brands))]
    rows = [{"item_id": each, "title": "a", "brand": brand} for each, brand in zip(ids, brands, strict=True)]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ids


def test_a_brand_is_a_number_of_its_own(tmp_path):
    ids = write(tmp_path, ["Fernwick", None, "Oak & Co", " fernwick ", "", "OAK  & CO"])
    found = item_brands(tmp_path, ids)
    assert found[0] == found[3] != found[2] == found[5] and found[1] == found[4] == -1
    assert found[[0, 2]].tolist() == [brand_number("Fernwick"), brand_number("Oak & Co")]
    assert item_brands(tmp_path, ids[::-1]).tolist() == found[::-1].tolist()
    assert 0 <= found.max() < 2**63
    assert brand_number("Fernwick") == 4353551433393413059, "what files of memories have"


def test_without_any_brand_is_said(tmp_path):
    ids = write(tmp_path, [None, ""])
    with pytest.raises(ValueError, match="no brand of any item"):
        item_brands(tmp_path, ids)
