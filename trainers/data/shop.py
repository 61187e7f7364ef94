"""A shop's tables, orders and products with columns of any name, as a domain; what was left out is counted."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from hub_cards import named
from hub_cards.csv_table import DECIMAL_COMMA
from tokenization_items.catalogue import TEXT_FIELDS, Catalogue
from trainers.data.column_guesses import ORDER_ROLES, ShopColumns, guess_columns, parse_columns
from trainers.data.domains import Domain
from trainers.data.interactions import Interactions
from trainers.data.preparation import PreparationChoices, prepare_log
from trainers.data.products import ids_of, item_fields, product_roles
from trainers.data.readers.base import RawData, ReadError, ReadingReport, describe_dropped
from trainers.data.readers.log_writer import LogWriter
from trainers.data.tables import Table, describe_table, read_table
from trainers.data.time_formats import as_times


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
        orders = [(role, column) for role in ORDER_ROLES if (column := getattr(self.columns, role)) is not None]
        without = [] if self.columns.time else [("time", "-", "no column of times: the rows are in their order")]
        described = [describe_table(self.orders, orders, self.notes, without)]
        if self.products is not None:
            described.append(describe_table(self.products, product_roles(self.columns), self.notes))
        return "\n".join(described)

    def describe_left_out(self) -> str:
        """What was left out, why and which; empty if nothing was."""
        dropped = self.report.to_dict()["dropped"]
        return "\n".join(
            f"  {line}" for kind, reasons in dropped.items() for line in describe_dropped(reasons, f" {kind}")
        )


def read_shop(
    orders: Any,
    products: Any = None,
    columns: Sequence[str] | Mapping[str, str] | None = None,
    name: str | None = None,
) -> Shop:
    """
    Reads a shop's orders and products.

    Rows without user or item, with a time that is none, of a quantity below 0 (returns), of an item that is not among
    the products, and the same user, item and time again are left out; of products of one id the first stays. Items
    without any text, or without any order, stay.

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
        items = None if product_table is None else item_fields(product_table, chosen, Path(folder), report)
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
    frame = table.frame.select(user_id=ids_of(table, columns.user), item_id=ids_of(table, columns.item))
    frame = frame.with_row_index("line", offset=2).with_columns(pl.col("line").cast(pl.Int64))
    given = None if columns.time is None else table.frame[columns.time]
    report.read["interactions"] += frame.height
    if columns.quantity is not None:
        returned = (_numbers(table.frame[columns.quantity]) < 0).fill_null(False)
        rows = frame.filter(returned)
        shown = [f"{table.name}, line {line}: item {item!r}" for line, item in rows.head(5)["line", "item_id"].rows()]
        report.drop("interactions", f"{columns.quantity} is below 0: a return", rows.height, shown)
        frame, given = frame.filter(~returned), None if given is None else given.filter(~returned)
    if given is None:
        times, unit, said = pl.int_range(frame.height, eager=True), "order", ""
    else:
        times, unit, said = as_times(given)
        if times.dtype.is_temporal() and given.dtype == pl.String:
            wrong = times.is_null() & given.is_not_null()
            first = wrong.arg_true().head(5).to_list()
            shown = [f"{table.name}, line {frame['line'][row]}: {given[row]!r}" for row in first]
            report.drop("interactions", f"time is none of {said.partition(',')[0]}", wrong.sum(), shown)
            frame, times = frame.filter(~wrong), times.filter(~wrong)
    log = LogWriter(folder, report, unit, now)  # type: ignore[arg-type]
    try:
        log.add(frame.with_columns(times.alias("timestamp")), table.name)
        return log.finish(), unit != "order", said
    except ReadError as error:
        raise ReadError(f"{_used(table, columns, ORDER_ROLES)}\n{error}") from error


def _numbers(column: pl.Series) -> pl.Series:
    text = column.cast(pl.String, strict=False).str.strip_chars().str.replace(DECIMAL_COMMA, "$1.$2")
    return text.cast(pl.Float64, strict=False)


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
