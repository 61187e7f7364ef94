"""The rule for ids, on every path by which they come."""

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from hub_cards.item_ids import IdError, id_text, is_id
from tokenization_items import Catalogue, CatalogueError, ItemIndex, UnknownItemError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("007", "007"),
        ("7.0", "7.0"),
        (np.str_("a"), "a"),
        (7, "7"),
        (2**80, str(2**80)),
        (np.uint64(2**64 - 1), str(2**64 - 1)),
        (7.0, "7"),
        (-0.0, "0"),
        (np.float32(7), "7"),
        (Decimal("7"), "7"),
        (Decimal("-7.00"), "-7"),
        (Decimal(2**100), str(2**100)),
        (Decimal("NaN"), None),
        (None, None),
        (float("nan"), None),
        (pd.NA, None),
    ],
)
def test_ids(value, text):
    assert id_text(value) == text


@pytest.mark.parametrize(
    "value",
    [True, np.True_, 7.5, Decimal("7.5"), Decimal("inf"), 1e300, [7], {"a": 1}, b"a", np.array([7]), 1j],
)
def test_what_is_no_id(value):
    with pytest.raises(IdError, match="is no id; make it a string or a whole number"):
        id_text(value)
    with pytest.raises(CatalogueError, match="row 1: item_id .* is no id"):
        Catalogue.from_records([{"item_id": 1, "title": "a"}, {"item_id": value, "title": "b"}])


def test_one_id_or_several():
    assert all(map(is_id, ("a", 1, 1.5, np.int64(3), np.str_("a"))))
    assert not any(map(is_id, (["a"], ("a",), np.array([1]), {"item_id": 1}, None)))


def test_an_index_finds_items_by_what_they_were_given_by():
    items = Catalogue.from_records([{"item_id": each, "title": "t"} for each in (101, np.int32(102), 103.0, "a")])
    assert items.item_ids == ["101", "102", "103", "a"]
    index = ItemIndex([4, 4], [2, 6])
    index.assign(items.item_ids, np.array([[0, 0], [1, 1], [2, 2], [3, 3]]))
    for ids in ([101, "a", 103], np.array([101.0, 103.0]), pd.Series([102, 101]), ["101", 102.0], range(101, 103)):
        wanted = [items.item_ids.index(id_text(each)) for each in ids]
        assert index.rows(ids).tolist() == wanted and index.rows(ids).dtype == np.int64
    assert index.rows([]).tolist() == []
    assert index.encode(102) == index.encode("102") == [3, 7] and index.decode(index.encode(102)) == "102"
    assert 101 in index and 103.0 in index and 104 not in index and True not in index and [101] not in index
    for strange in (104, None, True, [101], 101.5):
        with pytest.raises(UnknownItemError, match="1 items are not in the index of 4 items"):
            index.rows([101, strange, strange])
    index.remove([101, 102.0])
    assert index.item_ids == ["103", "a"]
