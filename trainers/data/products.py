"""A shop's products, columns of any name, as a catalogue; without orders too, for new items every day."""

from __future__ import annotations

import tempfile
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from hub_cards import named
from tokenization_items.catalogue import TEXT_FIELDS, Catalogue
from tokenization_items.item_images import ImageColumn, ImageError
from tokenization_items.text_template import TextTemplate
from trainers.data.column_guesses import (
    BRANDS,
    CATEGORIES,
    DESCRIPTIONS,
    ITEM_ROLES,
    ProductColumns,
    ShopColumns,
    guess_product_columns,
    is_of,
    parse_columns,
)
from trainers.data.prepared_images import local_images
from trainers.data.prices import price_range
from trainers.data.readers.base import MAX_EXAMPLES, ReadError, ReadingReport
from trainers.data.readers.item_writer import ItemWriter
from trainers.data.tables import Table, as_ids, describe_table, read_table


@dataclass(frozen=True)
class Products:
    """
    A table of products, ready to be tokenized.

    Args:
        catalogue ([`Catalogue`]): the items.
        columns ([`ProductColumns`]): what the columns were taken for.
        table ([`Table`]): the table.
        notes (`dict[str, str]`): how a column was read, by its role.
    """

    catalogue: Catalogue
    columns: ProductColumns
    table: Table
    notes: dict[str, str] = field(default_factory=dict)

    def describe_columns(self) -> str:
        """What each column was taken for, a line each, with its first value."""
        return describe_table(self.table, product_roles(self.columns), self.notes)

    def check_texts(self, known: Container[str]) -> None:
        """
        Raises a [`ReadError`] if there is an item that has neither a text nor an image, and is not known; its line is
        named.

        Args:
            known (`Container[str]`): ids of items that have a semantic ID already.
        """
        catalogue = self.catalogue
        is_bare = (lambda text: not text) if catalogue.template is None else catalogue.template.is_bare
        rows = [
            row
            for row, (item_id, text) in enumerate(zip(catalogue.item_ids, catalogue.texts, strict=True))
            if is_bare(text) and item_id not in known and not catalogue.has_image(row)
        ]
        if rows:
            shown = [f"{self.table.line(row)}: {catalogue.item_ids[row]!r}" for row in rows[:MAX_EXAMPLES]]
            image = f" (images: {self.notes['image']})" if self.notes.get("image") else ""
            raise ReadError(
                f"{self.table.name}: {len(rows)} new items have no text and no image{image}: {'; '.join(shown)}. Give "
                "them a title, leave them out, or say which columns are text: --columns text=NAME,NAME."
            )


def read_products(
    products: Any,
    columns: Sequence[str] | Mapping[str, str] | None = None,
    name: str | None = None,
    known: ProductColumns | None = None,
    text_fields: Sequence[str] = TEXT_FIELDS,
    template: TextTemplate | None = None,
    image_cache: str | Path | None = None,
    image_root: str | Path | None = None,
) -> Products:
    """
    Reads a shop's products, items without any interactions.

    Columns of brand, categories and description go into these text fields, further ones and the price's range into
    `features`: each item has the text that it has in [`read_shop`].

    Args:
        products: a row for each item; what [`read_table`] takes.
        columns (`Sequence[str]` or `Mapping[str, str]`, *optional*): what columns mean where a guess would be wrong:
            `{"id": "sku", "text": "colour,size"}` or `["id=sku", ...]`, see [`ProductColumns`]; `-` for none.
        name (`str`, *optional*): of the catalogue, by default that of the file.
        known ([`ProductColumns`], *optional*): what they meant the last time: in place of guesses.
        text_fields (`Sequence[str]`, *optional*, defaults to `TEXT_FIELDS`): fields of the text, in order; others than
            the default ones are columns that are read as they are.
        template ([`TextTemplate`], *optional*): puts the fields together.
        image_cache (`str` or `Path`, *optional*): folder into which images of https addresses are fetched, from public
            addresses only and each once; without it an address is as no image.
        image_root (`str` or `Path`, *optional*): folder that the paths of images start from and must stay in; by
            default the file's.

    Raises:
        ReadError: the file cannot be read, a column is missing or cannot be told, or a row has no id or that of
            another; lines are named.
        CatalogueError: as [`Catalogue.from_records`].
    """
    table = read_table(products, "products")
    given: dict[str, Any] = {} if known is None else dict(known.as_given())
    given |= parse_columns(columns, ITEM_ROLES)
    others = [each for each in text_fields if each not in TEXT_FIELDS]
    if missing := [each for each in others if each not in table.frame.columns]:
        raise ReadError(
            f"{table.name} has no column {named(missing)} for the text; it has {named(table.frame.columns, 30)}. The "
            "item tokenizer's texts have it, or --text_fields asks for it."
        )
    chosen = guess_product_columns(table, given, others)
    item_ids = _checked_ids(table, chosen.id)
    report = ReadingReport()
    with tempfile.TemporaryDirectory(prefix="utgrec-") as folder:
        items = item_fields(table, chosen, Path(folder), report)
    if items["item_id"].to_list() != item_ids:  # white space within, or characters that are none
        raise ReadError(
            f"{table.name}: ids of the column {chosen.id!r} hold characters that no text has; correct them."
        )
    items = items.with_columns(table.frame[each].alias(each) for each in others)
    if name is None:
        name = Path(table.name).name.partition(".")[0]
    catalogue = Catalogue.from_records(items, text_fields, name=name, template=template)
    notes: dict[str, str] = {}
    if chosen.image is not None:
        if image_root is None and isinstance(products, str | Path):
            image_root = Path(products).parent
        images, notes["image"] = local_images(_images(table, chosen.image, image_root), image_cache)
        catalogue = replace(catalogue, images=images)
    return Products(catalogue, chosen, table, notes)


def _checked_ids(table: Table, name: str) -> list[str]:
    """The ids, if each row has one of its own."""
    ids = ids_of(table, name)
    empty = (ids.is_null() | (ids == "")).arg_true()
    if len(empty):
        lines = named([table.line(row) for row in empty.head(MAX_EXAMPLES).to_list()], MAX_EXAMPLES)
        raise ReadError(
            f"{table.name}: {len(empty)} rows have no id in the column {name!r}: {lines}. Give them one, or leave "
            "them out."
        )
    twice = ids.filter(ids.is_duplicated()).unique(maintain_order=True)
    if len(twice):
        shown = [
            f"{each!r} in lines {', '.join(str(row + 2) for row in (ids == each).arg_true().head(3).to_list())}"
            for each in twice.head(MAX_EXAMPLES).to_list()
        ]
        raise ReadError(
            f"{table.name}: {len(twice)} ids of the column {name!r} occur in several rows: {'; '.join(shown)}. Leave "
            "one row of each, or say which column has the ids: --columns id=NAME."
        )
    return ids.to_list()


def _images(table: Table, name: str, root: str | Path | None) -> ImageColumn:
    """The images of a column, which are not opened."""
    column = table.frame[name]
    if isinstance(column.dtype, pl.List):  # several pictures of an item: the first
        column = column.list.first()
    if column.dtype == pl.String:
        values: Any = column.str.strip_chars().to_list()
    elif column.dtype in (pl.Binary, pl.Struct):
        values = column.to_frame().to_arrow()[name]
    else:
        values = column.to_list()
    try:
        return ImageColumn(values, root)
    except ImageError as error:
        raise ReadError(f"{table.name}: the column {name!r} holds no images: {error}. --columns image=-") from error


def ids_of(table: Table, name: str) -> pl.Series:
    """The ids of a column, by [`as_ids`].

    Raises:
        ReadError: the column can hold none.
    """
    column = table.frame[name]
    ids = as_ids(column)
    if ids.null_count() == len(ids) > column.null_count():
        raise ReadError(f"{table.name}: the column {name!r} holds values of type {column.dtype}, which are no ids.")
    return ids


def item_fields(
    table: Table, columns: ShopColumns | ProductColumns, folder: Path, report: ReadingReport
) -> pl.DataFrame:
    """
    The products with their texts: `item_id` and [`TEXT_FIELDS`], cleaned; of several rows with one id the first.

    Args:
        table ([`Table`]): the products.
        columns ([`ShopColumns`] or [`ProductColumns`]): what its columns mean; there is an id.
        folder (`Path`): for intermediate files.
        report ([`ReadingReport`]): counts what is left out.
    """
    assert columns.id is not None
    fields: dict[str, list[str]] = {"brand": [], "categories": [], "description": [], "features": []}
    for column in columns.text:
        kinds = {"brand": BRANDS, "categories": CATEGORIES, "description": DESCRIPTIONS}
        kind = next((field for field, words in kinds.items() if is_of(column, words)), "features")
        fields["features" if kind != "categories" and fields[kind] else kind].append(column)
    wanted = [each for each in (columns.title, columns.price, *columns.text) if each is not None]
    frame = table.frame.select(*dict.fromkeys(wanted), ids_of(table, columns.id).alias("_id"))
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


def product_roles(columns: ShopColumns | ProductColumns) -> list[tuple[str, str]]:
    """The roles that columns of products have, with the columns."""
    roles = [(role, column) for role in ("id", "title", "price") if (column := getattr(columns, role))]
    roles += [("text", column) for column in columns.text]
    image = getattr(columns, "image", None)
    return roles if image is None else [*roles, ("image", image)]
