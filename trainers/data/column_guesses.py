"""Guesses of what the columns of a shop's tables mean: by their names, and by whether their values fit each other."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import polars as pl

from hub_cards import named
from trainers.data.readers.base import ReadError
from trainers.data.tables import Table, as_ids
from trainers.data.time_formats import as_times, looks_like_times

SAMPLE_ROWS = 2000  # values that are looked at
SAME_SHARE = 0.1  # of the orders' values that the products' ids have, from which on a column named as an item's is it
ID_SHARE = 0.9  # of values that differ, from which on a column of single words is one of codes
LEAST_ID_SHARE = 0.5  # below which it is none of the products' ids, which may occur twice or be missing
# Words of columns' names, lower case. A name is of a role by one of these, or a word that begins with a long one.
USERS = "user customer client buyer member account visitor reviewer shopper household session person kunde kunden "
USERS += "kundennummer besteller nutzer benutzer utilisateur acheteur cliente usuario comprador uid username"
ITEMS = "item product sku asin article variant goods movie film book track song recipe game artikel artikelnummer "
ITEMS += "stock produkt ware produit articulo artículo producto ean gtin isbn pid iid"
TIMES = "timestamp time datetime date day ordered purchased bought created placed when event dat datum zeit zeitpunkt "
TIMES += "bestellt bestelldatum kaufdatum heure fecha ts"
TIME_UNITS = "ms us ns unix epoch utc"  # in the names of times
LATER_TIMES = "shipped delivery delivered updated modified due paid invoice birth returned geliefert versand"
NOT_TIMES = "hour minute dow week weekday month year duration play watch stay dwell spent elapsed since zone offset"
QUANTITIES = "quantity qty menge anzahl quantité quantite cantidad"
TITLES = "title name titel bezeichnung artikelname produktname label nom titre nombre titulo título heading"
BRANDS = "brand manufacturer vendor maker marke hersteller marque marca author artist publisher studio"
CATEGORIES = "category categories cat department genre genres section group type class kategorie warengruppe "
CATEGORIES += "catégorie categorie categoria categoría tags collection aisle"
DESCRIPTIONS = "description desc summary details about abstract text beschreibung détails descripción descripcion body"
PRICES = "price preis prix precio msrp rrp uvp cost kosten amount betrag"
IDS = "id ids no nr num number code key nummer ref hash uuid identifier numéro numero número parent"
NOT_IDS = "name title email mail phone city country zip address first last gender age segment price type status "
NOT_IDS += f"{QUANTITIES} count units rating score rank position category discount total weight"
IMAGES = "image images img picture photo thumbnail bild foto"
PICTURES = f"{IMAGES} url link href"
ALIASES = {  # of the flags, for those who know the names of a data folder's columns
    "user_id": "user",
    "customer": "user",
    "item_id": "item",
    "timestamp": "time",
    "date": "time",
    "product": "id",
    "product_id": "id",
    "name": "title",
}
_CAMEL = re.compile(r"(?<=[a-zà-ÿ0-9])(?=[A-Z])")
_WORD = re.compile(r"[^\W_]+")
_JOINED = re.compile(r"(.{3,})(id|no|nr|num|key|code)")


@dataclass(frozen=True)
class ShopColumns:
    """
    What the columns of a table of orders, and of one of products, mean.

    Args:
        user (`str`): of the orders: who bought.
        item (`str`): of the orders: what, by the products' `id`.
        time (`str`, *optional*): of the orders: when; without it the rows stand in their order.
        quantity (`str`, *optional*): of the orders: how many; below 0 it is a return.
        id (`str`, *optional*): of the products: the id that orders have; None without products.
        title (`str`, *optional*): of the products.
        price (`str`, *optional*): of the products.
        text (`tuple[str, ...]`, *optional*): of the products: further columns of their text.
    """

    user: str
    item: str
    time: str | None = None
    quantity: str | None = None
    id: str | None = None
    title: str | None = None
    price: str | None = None
    text: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProductColumns:
    """
    What the columns of a table of products alone mean.

    Args:
        id (`str`): the item's id.
        title (`str`, *optional*), price (`str`, *optional*), text (`tuple[str, ...]`, *optional*): as in
            [`ShopColumns`].
        image (`str`, *optional*): a path, an address, or the image itself.
    """

    id: str
    title: str | None = None
    price: str | None = None
    text: tuple[str, ...] = ()
    image: str | None = None

    def as_given(self) -> dict[str, str | Sequence[str]]:
        """As what is known already, see [`guess_product_columns`]: nothing is left to guess."""
        named = {each.name: getattr(self, each.name) or "-" for each in fields(self) if each.name != "text"}
        return named | {"text": list(self.text)}


ORDER_ROLES, PRODUCT_ROLES = ("user", "item", "time", "quantity"), ("id", "title", "price", "text")
assert {each.name for each in fields(ShopColumns)} == {*ORDER_ROLES, *PRODUCT_ROLES}
ITEM_ROLES = tuple(each.name for each in fields(ProductColumns))  # where there are no orders


def parse_columns(
    given: Sequence[str] | Mapping[str, str] | None, roles: Sequence[str] = (*ORDER_ROLES, *PRODUCT_ROLES)
) -> dict[str, str]:
    """`["user=customer_no", "text=colour,size"]` → `{"user": "customer_no", ...}`; `-` for a role that has no column.

    Raises:
        ReadError: an entry is none, or of a role that is not known.
    """
    entries = [(k, "=", v) for k, v in given.items()] if isinstance(given, Mapping) else []
    entries = entries or [each.partition("=") for each in given or ()]
    found = {}
    for role, equals, column in entries:
        known = ALIASES.get(role.strip(), role.strip())
        known = "id" if known == "item" and "item" not in roles else known
        if not equals or not column or known not in roles:
            raise ReadError(
                f"columns: expected role=column with a role of {', '.join(roles)}; got {role}{equals}{column}."
            )
        found[known] = column.strip()
    return found


def guess_columns(orders: Table, products: Table | None, given: Mapping[str, str] | None = None) -> ShopColumns:
    """
    Guesses what the columns mean.

    Args:
        orders ([`Table`]): a row for each interaction.
        products ([`Table`], *optional*): a row for each item.
        given (`Mapping[str, str]`, *optional*): what is known already, see [`parse_columns`].

    Raises:
        ReadError: a column that was named is not there, or one that is needed cannot be told.
    """
    given = dict(given or {})
    for role, column in given.items():
        table = orders if role in ORDER_ROLES else products
        wanted = [each.strip() for each in column.split(",")] if role == "text" else [column]
        if table is None:
            raise ReadError(f"columns: {role}={column} is of the products, and there are none.")
        if missing := [each for each in wanted if each != "-" and each not in table.frame.columns]:
            raise ReadError(f"{table.name} has no column {named(missing)}; it has {named(table.frame.columns, 30)}.")
    sample = orders.frame.head(SAMPLE_ROWS)
    item, product_id = _item_and_id(sample, products, given)
    taken = {item} | {given[role] for role in ("user", "time") if role in given}
    user = given.get("user") or _best(sample, USERS, taken, ids=True)
    time = given.get("time") or _time(sample, taken | {user})
    if user is None:
        left = [each for each in sample.columns if each not in (item, time)]
        user = left[0] if len(left) == 1 else None
    if user is None or item is None:
        role = "user" if user is None else "item"
        raise ReadError(
            f"{orders.name}: no column is plainly the {'customer' if role == 'user' else 'product'}; it has "
            f"{named(sample.columns, 30)}. Say which: --columns {role}=NAME, in Python columns={{{role!r}: 'NAME'}}."
        )
    quantity = given.get("quantity") or _best(sample, QUANTITIES, taken | {user, time}, ids=False, check=_is_numeric)
    chosen: dict[str, str | None] = {"user": user, "item": item}
    chosen |= {role: None if each == "-" else each for role, each in (("time", time), ("quantity", quantity))}
    if products is None:
        return ShopColumns(**chosen)  # type: ignore[arg-type]
    if product_id is None:
        raise ReadError(
            f"{products.name}: no column is plainly the id that orders have in {item!r}; it has "
            f"{named(products.frame.columns, 30)}. Say which: --columns id=NAME, in Python columns={{'id': 'NAME'}}."
        )
    rows = products.frame.head(SAMPLE_ROWS)
    return ShopColumns(**chosen, id=product_id, **_contents(rows, product_id, given))  # type: ignore[arg-type]


def _contents(rows: pl.DataFrame, product_id: str, given: Mapping[str, str | Sequence[str]]) -> dict[str, Any]:
    """The columns of title, price and further text of a table of products."""
    title = given.get("title") or _best(rows, TITLES, {product_id}, ids=False)
    price = given.get("price") or _best(rows, PRICES, {product_id, title}, ids=False, check=_is_numeric)
    if "text" in given:
        text = _named_columns(given["text"])
    else:
        text = [each for each in rows.columns if each not in (product_id, title, price) and _is_text(rows, each)]
    chosen = {"title": None if title == "-" else title, "price": None if price == "-" else price}
    return {**chosen, "text": tuple(text)}


def guess_product_columns(
    products: Table, given: Mapping[str, str | Sequence[str]] | None = None, others: Sequence[str] = ()
) -> ProductColumns:
    """
    Guesses what the columns of a table of products mean, without orders to compare it with.

    Args:
        products ([`Table`]): a row for each item.
        given (`Mapping[str, str]`, *optional*): what is known already, see [`parse_columns`].
        others (`Sequence[str]`, *optional*): columns that are read beside these.

    Raises:
        ReadError: a column that was named is not there, or no column is plainly the id.
    """
    given, columns = dict(given or {}), products.frame.columns
    for role, column in given.items():
        wanted = _named_columns(column) if role == "text" else [column]
        if missing := [each for each in wanted if each != "-" and each not in columns]:
            raise ReadError(
                f"{products.name} has no column {named(missing)}, which {role} was to be; it has "
                f"{named(columns, 30)}. Say which: --columns {role}=NAME, or {role}=- for none."
            )
    product_id = given.get("id") or _product_id(products.frame)
    if product_id is None:
        raise ReadError(
            f"{products.name}: no column is plainly the products' id, a different one in each row; it has "
            f"{named(columns, 30)}. Say which: --columns id=NAME, in Python columns={{'id': 'NAME'}}."
        )
    rows = products.frame.head(SAMPLE_ROWS).drop(others, strict=False)
    image = given.get("image") or _best(rows, IMAGES, {product_id}, ids=False)
    left = rows.drop([each for each in (image,) if each in rows.columns])
    return ProductColumns(
        id=str(product_id),
        image=None if image == "-" else str(image) if image else None,
        **_contents(left, str(product_id), given),
    )


def _named_columns(given: str | Sequence[str]) -> list[str]:
    """`"colour,size"` → `["colour", "size"]`; `"-"` → `[]`."""
    every = given.split(",") if isinstance(given, str) else given
    return [each.strip() for each in every if each.strip() != "-"]


def _product_id(frame: pl.DataFrame) -> str | None:
    """The column that is named as an item's id most plainly and differs from row to row."""
    own = {
        each: max(name_score(each, ITEMS, True), 2 * (set(words_of(each)) <= set(IDS.split())))
        for each in frame.columns
    }
    scores = {each: score * _distinct(frame[each]) for each, score in own.items() if score and _may_be_id(frame, each)}
    return max(scores, key=lambda each: scores[each], default=None)


def words_of(name: str) -> list[str]:
    """`"customerNo"` and `"customerno"` → `["customer", "no"]`."""
    found: list[str] = []
    for word in (each.lower() for each in _WORD.findall(_CAMEL.sub(" ", name))):
        joined = _JOINED.fullmatch(word)
        found += joined.groups() if joined and joined[1] in {*USERS.split(), *ITEMS.split()} else [word]
    return found


def is_of(name: str, words: str) -> bool:
    """Whether a column's name has one of some words, or, as in German, a word that begins with a long one."""
    known = words.split()
    long = tuple(word for word in known if len(word) >= 5)
    return any(word in known or word.startswith(long) for word in words_of(name))


def name_score(name: str, words: str, ids: bool) -> float:
    """How plainly a name says a role: 0 not at all, more the less it says beside it; of equal ones a little more by
    the words that come first."""
    if not is_of(name, words):
        return 0
    others = [word for word in words_of(name) if not is_of(word, words)]
    if ids and any(word in NOT_IDS.split() for word in others):
        return 0
    if not ids and any(word in IDS.split() for word in others):
        return 0
    score = 4 - min(2, sum(word not in IDS.split() for word in others))
    score += ids and any(word in IDS.split() for word in others)
    return score - min(place for place, word in enumerate(words.split()) if is_of(name, word)) / 1000


def _best(frame: pl.DataFrame, words: str, taken: set, ids: bool, check=None) -> str | None:
    """The column that a role is said of most plainly, of equal ones the first."""
    scores = {
        each: name_score(each, words, ids)
        for each in frame.columns
        if each not in taken and (check is None or check(frame, each))
    }
    best = max(scores, key=lambda each: scores[each], default=None)
    return best if best is not None and scores[best] else None


def _item_and_id(
    sample: pl.DataFrame, products: Table | None, given: Mapping[str, str]
) -> tuple[str | None, str | None]:
    """The orders' column of items and the products' of ids: those that say so, and whose values are the same."""
    if products is None:
        return given.get("item") or _best(sample, ITEMS, {given.get("user"), given.get("time")}, ids=True), None
    rows = products.frame
    candidates = [given["id"]] if "id" in given else [each for each in rows.columns if _may_be_id(rows, each)]
    values = {each: set(as_ids(rows[each]).drop_nulls()) for each in candidates}
    best: tuple[bool, float, str | None, str | None] = (False, 0.0, given.get("item"), given.get("id"))
    for item in [given["item"]] if "item" in given else sample.columns:
        if "item" not in given and item in (given.get("user"), given.get("time")):
            continue
        bought = as_ids(sample[item]).drop_nulls().unique().to_list()
        said = name_score(item, ITEMS, True)
        if "item" not in given and not said and name_score(item, USERS, True):
            continue  # running numbers of customers may be the same as those of products
        for each in candidates:
            shared = sum(value in values[each] for value in bought) / max(1, len(bought))
            own = max(name_score(each, ITEMS, True), 2 * (set(words_of(each)) <= set(IDS.split())))
            score = 20 * shared * _distinct(rows[each]) + said + own + ("item" in given) + ("id" in given)
            # quantities are among running numbers as well, and more of them where some products are gone
            is_named = said > 0 and shared >= SAME_SHARE
            if (is_named, score) > best[:2] and (shared or said or "item" in given):
                best = (is_named, score, item, each)
    return best[2], best[3]


def _time(sample: pl.DataFrame, taken: set) -> str | None:
    """The column of times: one that is named so, else one whose values are. Numbers that are no times since 1970 are
    the second choice, as beside a date they are the time of the day, and none where their name says so."""
    left = [each for each in sample.columns if each not in taken and looks_like_times(sample[each])]
    words = f"{TIMES} {TIME_UNITS}"
    scores = {
        each: name_score(each, words, False) - 3 * is_of(each, LATER_TIMES) for each in left if is_of(each, TIMES)
    }
    is_time = {each: as_times(sample[each])[1] != "order" for each in scores if scores[each] > 0}
    named_so = [each for each in is_time if is_time[each] or not is_of(each, NOT_TIMES)]
    if named_so:
        return max(named_so, key=lambda each: (is_time[each], scores[each]))
    dated = [each for each in left if not _is_numeric(sample, each) or sample[each].dtype.is_temporal()]
    return dated[0] if dated else None


def _may_be_id(frame: pl.DataFrame, name: str) -> bool:
    return not frame[name].dtype.is_temporal() and _distinct(frame[name]) >= LEAST_ID_SHARE


def _distinct(column: pl.Series) -> float:
    """Different values among the rows."""
    return as_ids(column).drop_nulls().n_unique() / max(1, len(column))


def _is_numeric(frame: pl.DataFrame, name: str) -> bool:
    column = frame[name]
    if column.dtype.is_numeric() or column.dtype.is_temporal():
        return True
    if column.dtype != pl.String:
        return False
    known = column.drop_nulls().str.strip_chars()
    known = known.filter(known != "")
    return len(known) > 0 and bool(known.str.contains(r"^\D{0,4}[-+]?\d[\d.,' ]*\D{0,4}$").mean() >= ID_SHARE)  # type: ignore[operator]


def _is_text(frame: pl.DataFrame, name: str) -> bool:
    """Whether a column says what an item is like: words, not addresses, numbers, dates or a code of each item."""
    column = frame[name]
    if isinstance(column.dtype, pl.List | pl.Array):
        kind: Any = column.dtype
        while isinstance(kind, pl.List | pl.Array):  # categories of Amazon Reviews 2014 are lists of lists
            kind = kind.inner
        return kind == pl.String
    if column.dtype not in (pl.String, pl.Categorical, pl.Enum) or is_of(name, PICTURES):
        return False
    known = column.cast(pl.String).str.strip_chars()
    known = known.filter(known.is_not_null() & (known != ""))
    if not len(known) or _is_numeric(frame, name) or looks_like_times(known):
        return False
    if known.str.contains(r"^(https?://|/|www\.)").mean() >= 0.5:  # type: ignore[operator]
        return False
    one_word = known.str.contains(r"\s").mean() < 0.1  # type: ignore[operator]
    return not (one_word and known.n_unique() >= ID_SHARE * len(known) and len(known) > 20)
