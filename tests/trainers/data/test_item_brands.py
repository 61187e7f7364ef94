"""Brands of items as numbers: the same for every catalogue and spelling, none where there is none."""

import pytest

from tokenization_items.catalogue import Catalogue
from trainers.data.item_brands import brand_number, item_brands


def catalogue(brands, **column) -> Catalogue:
    records = [{"item_id": f"i{row}", "title": "a", "brand": brand} for row, brand in enumerate(brands)]
    return Catalogue.from_records(records, **column)


def test_a_brand_is_a_number_of_its_own():
    items = catalogue(["Fernwick", None, "Oak & Co", " fernwick ", "", "OAK  & CO"])
    found = item_brands(items)
    assert found[0] == found[3] != found[2] == found[5] and found[1] == found[4] == -1
    assert found[[0, 2]].tolist() == [brand_number("Fernwick"), brand_number("Oak & Co")]
    assert item_brands(items.select([5, 4, 3])).tolist() == found[[5, 4, 3]].tolist()
    assert 0 <= found.max() < 2**63
    assert brand_number("Fernwick") == 4353551433393413059, "what files of memories have"


def test_whatever_the_text_is_put_together_from():
    assert (item_brands(catalogue(["Fernwick", "Oak"], text_fields=["title"])) >= 0).all()


@pytest.mark.parametrize("brands", [[None, ""], [float("nan"), []]])
def test_without_any_brand_there_is_nothing(brands):
    assert item_brands(catalogue(brands)) is None
    assert item_brands(Catalogue.from_records([{"item_id": "a", "title": "b"}])) is None
