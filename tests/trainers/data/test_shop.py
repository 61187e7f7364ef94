"""A shop's tables as a domain: order of rows, duplicates, missing values and times; everything left out is counted."""

from decimal import Decimal

import numpy as np
import polars as pl
import pytest

from trainers.data.readers.base import ReadError
from trainers.data.shop import read_shop

ORDERS = """Kürzel;Kundennr;Artikelnr;Bestelldatum
1;K2;A1;13.02.2024 10:00
2;K1;A2;02.02.2024 10:00
3;K1;A1;01.02.2024 10:00
4;K1;A1;01.02.2024 10:00
5;;A1;01.02.2024 10:00
6;K2;A9;14.02.2024 10:00
7;K2;A3;gestern
8;K2;A2;15.02.2024 10:00
"""
PRODUCTS = """Artikelnr;Titel;Warengruppe;Preis
A1;Käsemesser;Küche;12,99
A2;;Küche;1.299,00
A3;Füller;Büro;
A3;Füller nochmal;Büro;
;ohne Nummer;Büro;1
A4;Nie gekauft;Büro;5
A5;;;
"""


@pytest.fixture
def shop(tmp_path):
    (tmp_path / "orders.csv").write_bytes(ORDERS.encode("cp1252"))
    (tmp_path / "products.csv").write_bytes(b"\xef\xbb\xbf" + PRODUCTS.encode())
    return read_shop(tmp_path / "orders.csv", tmp_path / "products.csv")


def test_sequences_and_catalogue(shop):
    interactions, catalogue = shop.domain.interactions, shop.domain.catalogue
    assert catalogue.item_ids == interactions.item_ids == ["A1", "A2", "A3", "A4", "A5"]
    rows = {user: interactions.sequence(row).tolist() for row, user in enumerate(interactions.user_ids)}
    assert rows == {"K2": [0, 1], "K1": [0, 1]}
    assert interactions.items.dtype == np.int32 and shop.domain.name == "orders"
    assert catalogue.titles == ["Käsemesser", "", "Füller", "Nie gekauft", ""]
    assert catalogue.texts[0] == "Käsemesser. price 10 to 20. Küche"
    assert catalogue.texts[1] == "price 1000 to 2000. Küche" and catalogue.texts[4] == ""


def test_what_was_left_out_is_counted_and_shown(shop):
    dropped = shop.report.to_dict()["dropped"]
    counts = {reason: entry["count"] for reason, entry in dropped["interactions"].items()}
    assert counts == {
        "time is none of dates as %d.%m.%Y %H:%M": 1,
        "user_id is missing": 1,
        "its item is not among the items": 1,
        "the same user, item and time again": 1,
    }
    assert {reason: entry["count"] for reason, entry in dropped["items"].items()} == {
        "item_id is there already": 1,
        "item_id is missing": 1,
    }
    assert shop.report.read == {"interactions": 8, "items": 7}
    assert len(shop.domain.interactions.items) == 8 - sum(counts.values())
    shown = shop.describe_left_out()
    assert "orders.csv, line 8: 'gestern'" in shown and "item 'A9'" in shown


def test_columns_are_shown(shop):
    shown = shop.describe_columns()
    assert "orders.csv: 8 rows (csv, separator ';', cp1252)" in shown
    for line in (
        "user      Kundennr      'K2'",
        "item      Artikelnr",
        "not used  Kürzel",
        "text      Warengruppe",
    ):
        assert line in shown
    assert "(dates as %d.%m.%Y %H:%M)" in shown and "price     Preis" in shown


@pytest.mark.parametrize("quantities", [["2", "-2", "-1,5", None, "1"], [2, -2, -1, None, 1]])
@pytest.mark.parametrize("times", [["2024-01-03", "2024-01-02", "x", "2024-01-01", "soon"], None])
def test_returns_are_no_orders(quantities, times):
    """Cancelled orders of Online Retail have a quantity below 0."""
    orders = {"user": ["u"] * 5, "item": [*"abcde"], "Quantity": quantities} | (
        {} if times is None else {"when": times}
    )
    shop = read_shop(pl.DataFrame(orders), None, {"quantity": "Quantity"})
    dropped = shop.report.to_dict()["dropped"]["interactions"]
    assert dropped.pop("Quantity is below 0: a return")["examples"] == [
        "orders, line 3: item 'b'",
        "orders, line 4: item 'c'",
    ]
    kept = "da" if times else "ade"
    assert [shop.domain.interactions.item_ids[row] for row in shop.domain.interactions.sequence(0)] == [*kept]
    assert shop.report.read["interactions"] == 5 == len(kept) + 2 + sum(each["count"] for each in dropped.values())
    assert read_shop(pl.DataFrame(orders)).columns.quantity == "Quantity"
    assert len(read_shop(pl.DataFrame(orders), None, {"quantity": "-"}).domain.interactions.items) == (
        3 if times else 5
    )


def test_without_times_and_products_rows_stand_in_their_order():
    rows = [{"user": 7, "item": 1.0}, {"user": 7, "item": 3.0}, {"user": 7, "item": 2.0}, {"user": 7, "item": 3.0}]
    shop = read_shop(rows, columns={"time": "-"}, name="mine")
    interactions = shop.domain.interactions
    assert interactions.item_ids == ["1", "3", "2"] and interactions.user_ids == ["7"]
    assert interactions.sequence(0).tolist() == [0, 1, 2, 1]  # bought again at another time
    assert shop.domain.name == "mine" and shop.describe_left_out() == ""
    assert "no column of times" in shop.describe_columns()


@pytest.mark.parametrize("kind", [pl.List(pl.List(pl.String)), pl.Array(pl.List(pl.String), 2)])
def test_lists_of_lists_are_texts(kind):
    """As the categories of Amazon Reviews 2014."""
    categories = pl.Series("categories", [[["Beauty", "Hair Care"], ["Bags"]], [["Toys"], []]], dtype=kind)
    products = pl.DataFrame({"asin": ["a", "b"], "title": ["x", "y"]}).with_columns(categories)
    shop = read_shop([{"username": "u", "asin": "a", "time": "2024-01-01"}], products)
    assert shop.columns.user == "username"
    assert shop.domain.catalogue.texts == ["x. Beauty, Hair Care, Bags", "y. Toys"]


def test_nothing_left_says_what_does_not_match():
    orders = pl.DataFrame({"user": ["a", "a"], "sku": ["1", "2"], "time": [1, 2]})
    products = pl.DataFrame({"id": ["x1", "x2"], "name": ["a b", "c d"]})
    with pytest.raises(ReadError, match=r"'sku' of orders has '1', '2', the column 'id' of products has 'x1'"):
        read_shop(orders, products, {"item": "sku", "id": "id"})


def test_numbers_of_data_frames_are_ids_and_prices():
    users = [user for user in range(4) for _ in range(3)]
    items = [17.0, 3.0, 5.0] * 4  # as a data frame makes them where one was missing
    bought = pl.DataFrame({"user": users, "item": items, "time": range(1, 13)})
    goods = pl.DataFrame({"id": [17, 3, 5], "price": [12.5, 3.0, None], "name": ["red pen", "ink", "blue pen"]})
    shop = read_shop(bought, goods)
    assert shop.domain.catalogue.item_ids == ["17", "3", "5"] and shop.columns.price == "price"
    assert shop.domain.interactions.items.tolist() == [0, 1, 2] * 4
    with pytest.raises(ReadError, match="'price' holds values of type Float64, which are no ids"):
        read_shop(bought, goods, {"id": "price"})


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ([45002.5, 45001.75, 45001.25, 45001.25], "numbers, as an order"),  # a spreadsheet's days
        (["45002,5", "45001,75", "45001,25", "45001,25"], "numbers, as an order"),
        ([Decimal(f"1700000000.{each}") for each in ("9", "5", "1", "1")], "seconds since 1970"),
        (pl.Series([f"0{each}.05.2024" for each in (4, 3, 2, 2)], dtype=pl.Categorical), "dates as %d.%m.%Y"),
    ],
)
def test_times_of_other_types_are_times_and_lose_no_order(times, said):
    orders = pl.DataFrame({"customer": ["u"] * 4, "item": list("dcab"), "bought": times})
    shop = read_shop(orders)
    assert shop.columns.time == "bought" and shop.notes["time"].startswith(said)
    assert shop.report.dropped("interactions") == 0
    bought = shop.domain.interactions
    assert [bought.item_ids[row] for row in bought.sequence(0)] == list("abcd")


def test_what_is_no_number_of_an_order_is_left_out_by_line():
    times = ["45002.5", "soon", None, "45001.25"]
    orders = pl.DataFrame({"customer": ["u"] * 4, "item": list("dcba"), "bought": times})
    shop = read_shop(orders, columns={"time": "bought"})
    dropped = shop.report.to_dict()["dropped"]["interactions"]
    assert {reason: entry["count"] for reason, entry in dropped.items()} == {
        "timestamp is no number": 1,
        "timestamp is missing": 1,
    }
    assert "line 3: timestamp 'soon'" in dropped["timestamp is no number"]["examples"][0]


def test_decimals_are_prices():
    products = pl.DataFrame({"item": ["a", "b"], "title": ["A", "B"], "price": [Decimal("12.990"), Decimal("5.000")]})
    orders = pl.DataFrame({"user": ["u", "u"], "item": ["a", "b"]})
    assert read_shop(orders, products).domain.catalogue.texts == ["A. price 10 to 20", "B. price 5 to 10"]
