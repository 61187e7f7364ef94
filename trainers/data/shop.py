"""A shop's tables, orders and products with columns of any name, as a domain; what was left out is counted."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from hub_cards import named
from tokenization_items.catalogue import TEXT_FIELDS, Catalogue
from trainers.data.column_guesses import (
    BRANDS,
    CATEGORIES,
    DESCRIPTIONS,
    ORDER_ROLES,
    ShopColumns,
    guess_columns,
    is_of,
    parse_columns,
)
from trainers.data.domains import Domain
from trainers.data.interactions import Interactions
from trainers.data.preparation import PreparationChoices, prepare_log
from trainers.data.readers.base import RawData, ReadError, ReadingReport
from trainers.data.readers.item_writer import ItemWriter
from trainers.data.readers.log_writer import LogWriter
from trainers.data.tables import Table, as_ids, read_table
from trainers.data.time_formats import as_times

PRICE_STEPS = (1, 2, 5)  # limits of the ranges that prices are told in, times powers of ten
SHOWN = 24  # characters of an example


@dataclass(frozen=True)
class Shop:
    """
    A shop's data, ready to be learnt from.

    Args:
        domain ([`Domain`]): items, those without interactions too, and the users' sequences.
        columns ([`ShopColumns`]): what the columns were taken for.
        orders ([`Table`]), products ([`Table`], *optional*): the tables.
        report ([`ReadingReport`]): what was read, and what was left out and why.
        notes (`dict[str, str]`): how a column was read, by its role.
    """

    domain: Domain
    columns: ShopColumns
    orders: Table
    products: Table | None
    report: ReadingReport
    notes: dict[str, str]

    def describe_columns(self) -> str:
        """What each column was taken for, a line each, with its first value."""
        lines = []
        for table in filter(None, (self.orders, self.products)):
            roles = _roles(self.columns, table is self.orders)
            rows = [(role, column, self._shown(table, role, column)) for role, columns in roles for column in columns]
            if table is self.orders and self.columns.time is None:
                rows.append(("time", "-", "no column of times: the rows are in their order"))
            lines.append(f"{table.name}: {table.frame.height:,} rows" + (f" ({table.layout})" if table.layout else ""))
            width = max((len(column) for _, column, _ in rows), default=0)
            lines += [f"  {role:<9} {column:<{width}}  {shown}".rstrip() for role, column, shown in rows]
            used = {column for _, column, _ in rows}
            if left := [each for each in table.frame.columns if each not in used]:
                lines.append(f"  {'not used':<9} {', '.join(left)}")
        return "\n".join(lines)

    def _shown(self, table: Table, role: str, column: str) -> str:
        """The first value of a column, and how it was read."""
        note = self.notes.get(role)
        return _example(table.frame[column]) + (f"  ({note})" if note else "")

    def describe_left_out(self) -> str:
        """What was left out, a line for each reason with an example; empty if nothing was."""
        dropped = self.report.to_dict()["dropped"]
        return "\n".join(
            f"  {entry['count']:,} {kind}: {reason}"
            + (f"; such as {entry['examples'][0]}" if entry["examples"] else "")
            for kind, reasons in dropped.items()
            for reason, entry in reasons.items()
        )


def read_shop(
    orders: Any,
    products: Any = None,
    columns: Sequence[str] | Mapping[str, str] | None = None,
    name: str | None = None,
) -> Shop:
    """
    Reads a shop's orders and products.

    Rows without user or item, with a time that is none, of an item that is not among the products, and the same user,
    item and time again are left out; of products of one id the first stays. Items without any text, or without any
    order, stay.

    Args:
        orders: a row for each interaction, in any order; what [`read_table`] takes.
        products (*optional*): a row for each item; without it the items are those of the orders.
        columns (*optional*): what columns mean where a guess would be wrong: `{"user": "customer_no", "text":
            "colour,size"}` or `["user=customer_no", ...]`, see [`ShopColumns`]; `-` for none.
        name (`str`, *optional*): of the shop, by default that of the file of orders.

    Raises:
        ReadError: a file cannot be read, a column is missing or cannot be told, or no interaction is left.
    """
    order_table = read_table(orders, "orders")
    product_table = None if products is None else read_table(products, "products")
    chosen = guess_columns(order_table, product_table, parse_columns(columns))
    report, notes = ReadingReport(), {}
    now = datetime.now(UTC).replace(tzinfo=None)
    with tempfile.TemporaryDirectory(prefix="utgrec-") as folder:
        log, has_time, notes["time"] = _log(order_table, chosen, Path(folder), report, now)
        items = None if product_table is None else _items(product_table, chosen, Path(folder), report)
        if items is None:
            items = log.select(pl.col("item_id").unique(maintain_order=True)).collect()
            items = items.with_columns(title=pl.lit(""))
        raw = RawData(log, items.lazy(), has_time)
        usable = items.select("item_id", usable=pl.lit(True))
        try:
            prepared = prepare_log(raw, PreparationChoices(k_core=0, repeats="all"), report, usable)
        except ReadError as error:
            raise ReadError(f"{_nothing_left(order_table, product_table, chosen)}\n{error}") from error
    lengths = np.bincount(prepared.log["user"].to_numpy(), minlength=len(prepared.user_ids))
    interactions = Interactions(
        prepared.item_ids.to_list(),
        prepared.user_ids.to_list(),
        prepared.log["item"].to_numpy().astype(np.int32),
        np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
    )
    name = name or Path(order_table.name).name.partition(".")[0]
    catalogue = Catalogue.from_records(items, name=name, text_fields=[each for each in TEXT_FIELDS if each in items])
    return Shop(Domain(name, catalogue, interactions), chosen, order_table, product_table, report, notes)


def _log(
    table: Table, columns: ShopColumns, folder: Path, report: ReadingReport, now: datetime
) -> tuple[pl.LazyFrame, bool, str]:
    """The orders as a log, whether they have times, and how those were read."""
    frame = table.frame.select(user_id=_ids(table, columns.user), item_id=_ids(table, columns.item))
    frame = frame.with_row_index("line", offset=2).with_columns(pl.col("line").cast(pl.Int64))
    if columns.time is None:
        times, unit, said = pl.int_range(frame.height, eager=True), "order", ""
    else:
        given = table.frame[columns.time]
        times, unit, said = as_times(given)
        if times.dtype.is_temporal() and given.dtype == pl.String:
            wrong = times.is_null() & given.is_not_null()
            rows = wrong.arg_true().head(5).to_list()
            shown = [f"{table.line(row)}: {given[row]!r}" for row in rows]
            report.drop("interactions", f"time is none of {said.partition(',')[0]}", wrong.sum(), shown)
            report.read["interactions"] += int(wrong.sum())
            frame, times = frame.filter(~wrong), times.filter(~wrong)
    log = LogWriter(folder, report, unit, now)  # type: ignore[arg-type]
    report.read["interactions"] += frame.height
    try:
        log.add(frame.with_columns(times.alias("timestamp")), table.name)
        return log.finish(), unit != "order", said
    except ReadError as error:
        raise ReadError(f"{_used(table, columns, ORDER_ROLES)}\n{error}") from error


def _ids(table: Table, name: str) -> pl.Series:
    """The ids of a column, by [`as_ids`]."""
    column = table.frame[name]
    ids = as_ids(column)
    if ids.null_count() == len(ids) > column.null_count():
        raise ReadError(f"{table.name}: the column {name!r} holds values of type {column.dtype}, which are no ids.")
    return ids


def _items(table: Table, columns: ShopColumns, folder: Path, report: ReadingReport) -> pl.DataFrame:
    """The products with their texts."""
    assert columns.id is not None
    fields: dict[str, list[str]] = {"brand": [], "categories": [], "description": [], "features": []}
    for column in columns.text:
        kinds = {"brand": BRANDS, "categories": CATEGORIES, "description": DESCRIPTIONS}
        kind = next((field for field, words in kinds.items() if is_of(column, words)), "features")
        fields["features" if kind != "categories" and fields[kind] else kind].append(column)
    wanted = [each for each in (columns.title, columns.price, *columns.text) if each is not None]
    frame = table.frame.select(list(dict.fromkeys(wanted))).with_columns(_ids(table, columns.id).alias("_id"))
    single = {"title": columns.title} | {each: next(iter(fields[each]), None) for each in ("brand", "description")}

    def records() -> Iterator[tuple[str, dict[str, Any]]]:
        for row, record in enumerate(frame.iter_rows(named=True)):
            report.read["items"] += 1
            features = [record[each] for each in fields["features"]]
            if columns.price is not None:
                features.append(price_range(record[columns.price]))
            item = {field: None if column is None else record[column] for field, column in single.items()}
            item |= {"item_id": record["_id"], "features": features}
            yield table.line(row), item | {"categories": [record[each] for each in fields["categories"]]}

    writer = ItemWriter(folder, report)
    writer.add(records())
    return writer.finish().select("item_id", *TEXT_FIELDS).collect()


def price_range(value: Any) -> str | None:
    """
    A price as words that items of a like price share: `"12,99 €"` → `"price 10 to 20"`. None for what is no price.

    Args:
        value: a number, or a text of one with a decimal point or comma, thousands' separators and a currency.
    """
    number = as_number(value)
    if number is None or not number > 0:
        return None
    power = 10 ** math.floor(math.log10(number) + 1e-9)
    low = max(step * power for step in PRICE_STEPS if step * power <= number * (1 + 1e-9))
    high = next((step * power for step in PRICE_STEPS if step * power > low), 10 * power)
    return f"price {low:g} to {high:g}"


def as_number(value: Any) -> float | None:
    """A number, or a text of one, in either way to write it: `"1.299,00 €"`, `"$1,299.00"`, `"12,5"`."""
    if isinstance(value, int | float):
        return float(value) if math.isfinite(value) else None
    text = "".join(each for each in str(value) if each.isdigit() or each in ".,-")
    last = max(text.rfind("."), text.rfind(","))
    if last >= 0:
        mark, after = text[last], text[last + 1 :]
        # one mark before three digits separates thousands, unless the other mark stands there too
        thousands = len(after) == 3 and text.count(mark) >= 1 and not (set(".,") - {mark}) & set(text)
        whole = text[:last].replace(".", "").replace(",", "")
        text = whole + after if thousands else f"{whole}.{after}"
    try:
        return float(text)
    except ValueError:
        return None


def _roles(columns: ShopColumns, orders: bool) -> list[tuple[str, list[str]]]:
    if orders:
        return [(role, [getattr(columns, role)]) for role in ORDER_ROLES if getattr(columns, role) is not None]
    roles = [(role, [getattr(columns, role)]) for role in ("id", "title", "price") if getattr(columns, role)]
    return [*roles, ("text", list(columns.text))]


def _example(column: pl.Series) -> str:
    values = column.drop_nulls().head(1).to_list()
    text = str(values[0]) if values else "(empty)"
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 1] + "…")


def _used(table: Table, columns: ShopColumns, roles: Sequence[str]) -> str:
    said = ", ".join(f"{role}={getattr(columns, role)}" for role in roles if getattr(columns, role) is not None)
    return f"{table.name} was read with {said}; if a column means something else, name it: --columns role=NAME."


def _nothing_left(orders: Table, products: Table | None, columns: ShopColumns) -> str:
    """What to look at when no order is of a product."""
    if products is None:
        return _used(orders, columns, ORDER_ROLES)
    bought = orders.frame[columns.item].cast(pl.String, strict=False).drop_nulls().head(3).to_list()
    ids = products.frame[str(columns.id)].cast(pl.String, strict=False).drop_nulls().head(3).to_list()
    return (
        f"No order is of one of the products: the column {columns.item!r} of {orders.name} has {named(bought)}, the "
        f"column {columns.id!r} of {products.name} has {named(ids)}. Say which match: --columns item=NAME id=NAME."
    )
