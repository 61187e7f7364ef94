"""Columns of shops' tables are told by their names in several languages, and by values that fit each other."""

import polars as pl
import pytest

from trainers.data.column_guesses import ITEMS, TITLES, USERS, guess_columns, name_score, parse_columns
from trainers.data.readers.base import ReadError
from trainers.data.tables import Table

WHEN = ["2024-05-01 10:00", "2024-05-02 11:00", "2024-05-03 12:00", "2024-05-04 13:00"]


def orders(user: str, item: str, time: str, **more) -> Table:
    columns = {**more, user: ["u1", "u1", "u2", "u2"], item: ["p1", "p2", "p1", "p3"], time: WHEN}
    return Table("orders.csv", pl.DataFrame(columns))


def products(**columns) -> Table:
    return Table("products.csv", pl.DataFrame(columns))


@pytest.mark.parametrize(
    ("user", "item", "time"),
    [
        ("user_id", "item_id", "timestamp"),
        ("customer_no", "sku", "ordered_at"),
        ("CustomerID", "StockCode", "InvoiceDate"),
        ("Kundennummer", "Artikelnummer", "Bestelldatum"),
        ("visitorid", "itemid", "event_time"),
        ("buyer", "article", "when"),
    ],
)
def test_names(user, item, time):
    table = orders(user, item, time, quantity=[1, 2, 1, 1], order_no=["7", "7", "8", "9"])
    items = products(code=["p1", "p2", "p3"], name=["a b", "c d", "e f"])
    found = guess_columns(table, items)
    assert (found.user, found.item, found.time) == (user, item, time)
    assert (found.id, found.title) == ("code", "name")


@pytest.mark.parametrize(
    ("orders", "products", "expected"),
    [
        ("userId movieId rating timestamp", "movieId title genres", "userId movieId timestamp movieId title"),
        ("user_id parent_asin rating timestamp", "parent_asin title main_category", "user_id parent_asin timestamp"),
        (
            "t_dat customer_id article_id price sales_channel_id",
            "article_id product_type_name prod_name",
            "customer_id",
        ),
        ("timestamp visitorid event itemid transactionid", None, "visitorid itemid timestamp"),
        (
            "InvoiceNo StockCode Quantity InvoiceDate UnitPrice CustomerID Country",
            None,
            "CustomerID StockCode InvoiceDate",
        ),
        ("session_id user_id item_id event_time", None, "user_id item_id event_time"),
        ("session_id timestamp item_id category", None, "session_id item_id timestamp"),
        ("order_id,buyer_email,client_no,product,created_at".replace(",", " "), None, "client_no product created_at"),
    ],
)
def test_layouts_that_people_have(orders, products, expected):
    """Columns of public logs: what they are called, with values as they are."""

    def values(name: str) -> list:
        lower = name.lower()
        if any(word in lower for word in ("time", "date", "t_dat", "created")):
            return WHEN
        if (
            any(word in lower for word in ("movie", "asin", "article", "item", "stock", "product"))
            and "name" not in lower
        ):
            return ["p1", "p2", "p3", "p1"] if "type" not in lower else ["x", "x", "y", "y"]
        return ["7", "7", "8", "9"]

    table = Table("o", pl.DataFrame({name: values(name) for name in orders.split()}))
    items = None
    if products is not None:
        columns = {name: values(name)[:3] for name in products.split()}
        columns |= {name: ["a b", "c d", "e f"] for name in columns if name in ("title", "prod_name")}
        items = Table("p", pl.DataFrame(columns))
    found = guess_columns(table, items)
    for role, column in zip(("user", "item", "time", "id", "title"), expected.split(), strict=False):
        assert getattr(found, role) == column, role
    if items is not None:
        assert found.id == products.split()[0] and found.title in ("title", "prod_name")


def test_values_decide_between_ids():
    """Of two columns that are both named as an item's, the one whose values the products have."""
    table = orders("client", "product_code", "date", product_id=["9", "8", "9", "7"])
    found = guess_columns(
        table, products(product_id=["p1", "p2", "p3"], ean=["111", "222", "333"], label=["a", "b", "c"])
    )
    assert (found.item, found.id) == ("product_code", "product_id")


@pytest.mark.parametrize("quantity", ["quantity", "item_quantity", "product_count", "product_rating"])
@pytest.mark.parametrize("item", ["product_id", "artistID"])
def test_running_numbers_of_customers_and_quantities_are_no_items(item, quantity):
    """They are among the products' ids as well, more of them than of the items where some products are gone."""
    gone = [4, 5, 9, 8] if item == "product_id" else [4, 5, 3, 4]
    table = Table("orders.csv", pl.DataFrame({"user_id": [1, 1, 2, 3], quantity: [1, 2, 1, 1], item: gone}))
    if item == "artistID":
        table = Table("orders.csv", table.frame.drop(quantity))
    items = products(id=[1, 2, 3, 4, 5], name=["a b", "c d", "e f", "g h", "i j"])
    found = guess_columns(table, items)
    assert (found.user, found.item, found.id) == ("user_id", item, "id")


def test_products_columns():
    rows = 30
    table = products(
        sku=[f"p{row}" for row in range(rows)],
        product_name=[f"pen number {row}" for row in range(rows)],
        brand=["Acme", "Bolt", "Crux"] * 10,
        colour=["red", "blue"] * 15,
        image_url=[f"https://x/{row}.jpg" for row in range(rows)],
        barcode=[f"{row:05}x" for row in range(rows)],
        stock=[str(row) for row in range(rows)],
        price=[f"{row},50 €" for row in range(rows)],
        added=["2024-05-01"] * rows,
        empty=[None] * rows,
    )
    found = guess_columns(orders("user", "sku", "time"), table)
    assert (found.title, found.price, found.text) == ("product_name", "price", ("brand", "colour"))
    given = parse_columns(["text=colour, stock", "title=-", "price=-"])
    found = guess_columns(orders("user", "sku", "time"), table, given)
    assert (found.title, found.price, found.text) == (None, None, ("colour", "stock"))


def test_of_several_times_the_order_and_not_the_delivery():
    table = orders("user", "item", "created_at", delivery_date=WHEN, updated_at=WHEN)
    assert guess_columns(table, None).time == "created_at"
    assert guess_columns(table, None, {"time": "updated_at"}).time == "updated_at"
    assert guess_columns(table, None, {"time": "-"}).time is None


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"order_dow": ["1", "3", "2", "0"], "order_hour_of_day": ["08", "23", "10", "11"]}, None),  # Instacart
        ({"date": ["20240502", "20240501", "20240501", "20240503"], "time": ["1631", "0805", "2210", "0101"]}, "date"),
        ({"ts": [1714557600, 1714557500, 1714557700, 1714557800], "play_time": [3, 9, 12, 1]}, "ts"),
        ({"play_time": [3, 9, 12, 1]}, None),
        ({"date": ["20240502"] * 4, "time_ms": [1714557600000, 1714557500000, 1714557700000, 0]}, "time_ms"),
        ({"duration_ms": [9000, 8000, 3000, 2000]}, None),
        ({"DAY": ["1", "1", "2", "711"], "TRANS_TIME": ["1631", "1642", "0805", "2210"]}, "DAY"),  # Dunnhumby
    ],
)
def test_hours_of_the_day_and_durations_are_no_times_and_days_the_second_choice(columns, expected):
    frame = pl.DataFrame({"user_id": ["u1", "u1", "u2", "u2"], "item_id": ["p1", "p2", "p1", "p3"], **columns})
    assert guess_columns(Table("orders.csv", frame), None).time == expected


@pytest.mark.parametrize(
    ("name", "words", "ids", "said"),
    [
        ("customer_name", USERS, True, False),
        ("customer_id", USERS, True, True),
        ("product_name", ITEMS, True, False),
        ("product_name", TITLES, False, True),
        ("order_id", ITEMS, True, False),
        ("name_id", TITLES, False, False),
        ("kundennr", USERS, True, True),
    ],
)
def test_name_score(name, words, ids, said):
    assert bool(name_score(name, words, ids)) is said


def test_errors_name_the_flag():
    blank = Table("o.csv", pl.DataFrame({"a": ["x", "y"], "b": ["p", "q"], "c": ["1", "2"]}))
    with pytest.raises(
        ReadError, match="no column is plainly the customer; it has 'a', 'b', 'c'.*--columns user=NAME"
    ):
        guess_columns(blank, None, {"item": "b"})
    with pytest.raises(ReadError, match="o.csv has no column 'z'; it has 'a'"):
        guess_columns(blank, None, {"user": "z"})
    with pytest.raises(ReadError, match="is of the products, and there are none"):
        guess_columns(blank, None, {"title": "a"})
    with pytest.raises(ReadError, match="plainly the id"):
        guess_columns(blank, products(name=["x"] * 3, note=["y"] * 3), {"user": "a", "item": "b"})
    for wrong in ("user", "colour=x", "user="):
        with pytest.raises(ReadError, match="expected role=column"):
            parse_columns([wrong])
    assert parse_columns({"user_id": "a", "timestamp": "t"}) == {"user": "a", "time": "t"}
