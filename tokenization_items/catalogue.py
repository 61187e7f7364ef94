"""Items as a shop has them: an id, a text put together from fields, and an image; reading and checking."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from hub_cards import listed
from hub_cards.item_ids import IdError, id_text, is_missing
from tokenization_items.data_sets import is_data_set, read_data_set
from tokenization_items.item_files import CatalogueError, read_items
from tokenization_items.item_images import ImageColumn, ImageError, is_arrow
from tokenization_items.text_template import TextTemplate

if TYPE_CHECKING:
    import pyarrow as pa

# Fields of an item's text, in the order in which they are joined.
TEXT_FIELDS = ("title", "brand", "features", "categories", "description")
ITEM_COLUMNS = ("item_id", "title", "brand", "image")  # that are read whatever the text is put together from
FILE_NAMES = ("items.parquet", "items.jsonl", "items.jsonl.gz", "items.csv")
# Images that one task of the checking threads opens.
IMAGES_PER_TASK = 32

# White space, control characters and lone surrogates (which no text encoder accepts).
_BLANK = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, eq=False)
class Catalogue:
    """
    The items of one domain.

    Args:
        item_ids (`list[str]`): Id of each item in its shop.
        texts (`list[str]`): Text of each item, in one line unless a template says otherwise; may be empty for an item
            with an image.
        titles (`list[str]`): Title of each item, for display; may be empty.
        images (`ImageColumn`, *optional*): References to images, opened one at a time.
        name (`str`): Name of the domain.
        template (`TextTemplate`, *optional*): What the texts were put together with, if not joined by full stops.
        text_fields (`tuple[str, ...]`, *optional*, defaults to `TEXT_FIELDS`): Fields that the texts were put together
            from.
        brands (`list[str]`, *optional*): Brand of each item, by which an item memory knows items of one maker; may be
            empty. None: the items were given without such a column.
    """

    item_ids: list[str]
    texts: list[str]
    titles: list[str]
    images: ImageColumn | None = None
    name: str = "catalogue"
    template: TextTemplate | None = None
    text_fields: tuple[str, ...] = TEXT_FIELDS
    brands: list[str] | None = None

    def __post_init__(self):
        lengths = {"texts": len(self.texts), "titles": len(self.titles)}
        if self.images is not None:
            lengths["images"] = len(self.images)
        if self.brands is not None:
            lengths["brands"] = len(self.brands)
        if any(length != len(self.item_ids) for length in lengths.values()):
            raise CatalogueError(f"{self.name}: {len(self.item_ids)} item_ids but {lengths}")

    @classmethod
    def from_folder(
        cls,
        path: str | os.PathLike,
        text_fields: Sequence[str] = TEXT_FIELDS,
        name: str | None = None,
        allow_remote_images: bool = False,
        template: TextTemplate | None = None,
    ) -> "Catalogue":
        """
        Reads `items.parquet`, `items.jsonl`, `items.jsonl.gz` or `items.csv` of a folder.

        Args:
            path (`str` or `os.PathLike`):
                Folder with one of these files. Columns: `item_id`, text fields, and, optionally, `brand` and `image`:
                a path relative to the folder and within it, or (parquet) bytes or the `Image` feature of `datasets`.
            text_fields (`Sequence[str]`, *optional*, defaults to `TEXT_FIELDS`):
                Fields of the text, in order. Fields other than the default ones must exist, and one of all.
            name (`str`, *optional*, defaults to the folder's name):
                Name of the domain.
            allow_remote_images (`bool`, *optional*, defaults to `False`):
                Whether to fetch images of https addresses, see `from_records`.
            template (`TextTemplate`, *optional*):
                Puts the fields together; by default they are joined by full stops.

        Raises:
            CatalogueError: If the folder holds none or several of the files, or the file cannot be read or is empty.
        """
        folder = Path(path)
        found = [folder / file_name for file_name in FILE_NAMES if (folder / file_name).is_file()]
        if len(found) != 1:
            names = [file.name for file in found]
            raise CatalogueError(f"{folder}: expected exactly one of {', '.join(FILE_NAMES)}, found {names or 'none'}")
        file = found[0]
        name = folder.resolve().name if name is None else name
        records = read_items(file, {*ITEM_COLUMNS, *text_fields})
        if not len(records):
            raise CatalogueError(f"{file} holds no items: is the file complete?")
        try:
            return cls.from_records(records, text_fields, folder, name, allow_remote_images, template)
        except CatalogueError as error:
            raise CatalogueError(f"{file}: {error}") from error

    @classmethod
    def from_records(
        cls,
        records: object,
        text_fields: Sequence[str] = TEXT_FIELDS,
        image_root: str | os.PathLike | None = None,
        name: str = "catalogue",
        allow_remote_images: bool = False,
        template: TextTemplate | None = None,
    ) -> "Catalogue":
        """
        Takes items from a `datasets.Dataset` or `IterableDataset`, a polars or pandas `DataFrame`, a `pyarrow.Table`
        or dictionaries.

        Args:
            records (`object`): The items, with the columns that `from_folder` describes. `image` may also be a
                `PIL.Image.Image`.
            text_fields (`Sequence[str]`, *optional*, defaults to `TEXT_FIELDS`): Fields of the text, in order.
            image_root (`str` or `os.PathLike`, *optional*): Folder that image paths start from and must stay in, links
                included. Without it they are taken as they are: give it for records that others made.
            name (`str`, *optional*): Name of the domain.
            allow_remote_images (`bool`, *optional*, defaults to `False`): Whether to fetch images of https addresses,
                from public addresses only, each time that they are asked for. To fetch many once, see
                `utgrec prepare`.
            template (`TextTemplate`, *optional*): Puts the fields together; by default they are joined by full stops.

        Raises:
            CatalogueError: If the item ids, or all text fields and images, are absent, or a value has a wrong type.
        """
        columns, num_items = _columns(records, [*ITEM_COLUMNS, *text_fields])
        if "item_id" not in columns and num_items:
            raise CatalogueError(f"no column item_id; found {sorted(columns)}; rename the column that holds the ids")
        absent = [field for field in text_fields if field not in columns]
        if num_items and (unknown := [field for field in absent if field not in TEXT_FIELDS]):
            raise CatalogueError(f"no column for the text fields {unknown}; correct text_fields")
        if num_items and len(absent) == len(text_fields) and "image" not in columns:
            raise CatalogueError(f"neither an image column nor one of the text fields {list(text_fields)}")
        item_ids = [_item_id(value, row) for row, value in enumerate(_values(columns.get("item_id", [])))]
        fields = [_texts(columns[field], field) for field in text_fields if field in columns]
        rows = list(zip(*fields, strict=True)) or [()] * num_items
        texts = [". ".join(filter(None, row)) if template is None else template.render(row) for row in rows]
        titles = _texts(columns.get("title", [None] * num_items), "title")
        try:
            images = ImageColumn(columns["image"], image_root, allow_remote_images) if "image" in columns else None
        except ImageError as error:
            raise CatalogueError(f"column image: {error}") from error
        brands = _texts(columns["brand"], "brand", _brand) if "brand" in columns else None
        return cls(item_ids, texts, titles, images, name, template, tuple(text_fields), brands)

    def __len__(self) -> int:
        return len(self.item_ids)

    def __repr__(self) -> str:
        num_images = 0 if self.images is None else int(self.images.present.sum())
        return f"Catalogue(name={self.name!r}, num_items={len(self)}, num_images={num_images})"

    def has_image(self, row: int) -> bool:
        """Whether the item names an image (which may still be broken: see `check`)."""
        return self.images is not None and bool(self.images.present[row])

    def image(self, row: int) -> Image.Image | None:
        """
        The item's image in RGB, its longest side at most 1024 pixels, decoded anew at each call; `None` without one.

        Raises:
            CatalogueError: If the image is remote, missing, broken, truncated or larger than 89 MPixel.
        """
        if self.images is None or not self.has_image(row):
            return None
        try:
            return self.images[row]
        except ImageError as error:
            raise CatalogueError(f"{self.name}: item {self.item_ids[row]!r}: {error}") from error

    def image_digest(self, row: int) -> str | None:
        """
        Digest of the content of the item's image, which is read and not decoded; `None` without one.

        Raises:
            CatalogueError: If the image is remote, missing or outside of the catalogue's folder.
        """
        if self.images is None or not self.has_image(row):
            return None
        try:
            return self.images.digest(row)
        except ImageError as error:
            raise CatalogueError(f"{self.name}: item {self.item_ids[row]!r}: {error}") from error

    def check(
        self,
        images: bool | Sequence[int] | np.ndarray = True,
        rows: Sequence[int] | np.ndarray | None = None,
    ) -> dict[str, int]:
        """
        Looks for items that cannot be tokenized. What was found in order is not looked at again, but for images.

        Args:
            images (`bool` or rows, *optional*, defaults to `True`):
                Whether to decode images, in threads: all of them, none, or those of these rows.
            rows (*optional*):
                Items that are to be tokenized, if not all: of the others the ids alone are looked at.

        Returns:
            `dict[str, int]`: `num_items`, `num_texts` (items with text), `num_images` (items with an image) and
            `num_images_checked`.

        Raises:
            CatalogueError: If an item has no id or the id of another one, neither text nor image, or an image that
                cannot be decoded. Up to 10 items are named.
        """
        present = np.zeros(len(self), dtype=bool) if self.images is None else self.images.present
        if isinstance(images, bool):
            images = (range(len(self)) if rows is None else rows) if images else ()
        opened = np.asarray(images, dtype=np.int64)
        opened = opened[present[opened]]
        problems = [] if self._is_checked else self._item_problems(present, rows)
        problems += self._image_problems(opened)
        if problems:
            raise CatalogueError(
                f"{self.name}: {len(problems)} problems in {len(self)} items; "
                "correct these items or leave them out, as `utgrec prepare` does, and select():\n"
                f"  {listed(problems)}"
            )
        if rows is None:
            self._mark_checked()
        return {
            "num_items": len(self),
            "num_texts": sum(map(bool, self.texts)),
            "num_images": int(present.sum()),
            "num_images_checked": len(opened),
        }

    def check_texts(self) -> None:
        """
        Looks for items of which an item tokenizer would read nothing that reads texts alone.

        Raises:
            CatalogueError: If an item has an image and no text. Up to 10 are named.
        """
        problems = [
            f"item {item_id!r} (row {row})"
            for row, (item_id, text) in enumerate(zip(self.item_ids, self.texts, strict=True))
            if not text
        ]
        if problems:
            raise CatalogueError(
                f"{self.name}: the item tokenizer reads texts alone, and {len(problems)} of {len(self)} items have no "
                "text; give them a title, leave them out with select(), or take a tokenizer that reads images:\n"
                f"  {listed(problems)}"
            )

    @property
    def _is_checked(self) -> bool:
        return "_checked" in self.__dict__

    def _mark_checked(self) -> None:
        self.__dict__["_checked"] = True  # the fields are frozen, so it stays so

    def _item_problems(self, present: np.ndarray, rows: Sequence[int] | np.ndarray | None) -> list[str]:
        """What is wrong with ids, and with items, of these rows if they are given, that have neither a text nor an
        image."""
        counts = Counter(self.item_ids)
        looked_at = range(len(self)) if rows is None else {*np.asarray(rows).tolist()}
        problems = [f"row {row}: missing item_id" for row, item_id in enumerate(self.item_ids) if not item_id]
        problems += [
            f"item {item_id!r}: duplicate item_id, {count} times"
            for item_id, count in counts.items()
            if count > 1 and item_id
        ]
        problems += [
            f"item {item_id!r} (row {row}): empty text and no image"
            for row, (item_id, text) in enumerate(zip(self.item_ids, self.texts, strict=True))
            if not text and not present[row] and row in looked_at
        ]
        return problems

    def _image_problems(self, rows: np.ndarray) -> list[str]:
        def problems_of(part: np.ndarray) -> list[str]:
            assert self.images is not None  # otherwise there are no rows
            found = []
            for row in part.tolist():
                try:
                    self.images[row]
                except ImageError as error:
                    found.append(f"item {self.item_ids[row]!r} (row {row}): {error}")
            return found

        parts = [rows[start : start + IMAGES_PER_TASK] for start in range(0, len(rows), IMAGES_PER_TASK)]
        problems = []
        with (
            ThreadPoolExecutor() as pool,  # Pillow decodes without holding the interpreter's lock
            tqdm(total=len(rows), desc=f"Images of {self.name}", unit="image", disable=None) as bar,
        ):
            for part, found in zip(parts, pool.map(problems_of, parts), strict=True):
                problems += found
                bar.update(len(part))
        return problems

    def select(self, rows: Sequence[int] | np.ndarray) -> "Catalogue":
        """The items of these rows, in this order."""
        rows = np.asarray(rows, dtype=np.int64)
        picked = rows.tolist()
        selected = Catalogue(
            item_ids=[self.item_ids[row] for row in picked],
            texts=[self.texts[row] for row in picked],
            titles=[self.titles[row] for row in picked],
            images=None if self.images is None else self.images.select(rows),
            name=self.name,
            template=self.template,
            text_fields=self.text_fields,
            brands=None if self.brands is None else [self.brands[row] for row in picked],
        )
        if self._is_checked and len(np.unique(rows)) == len(rows):
            selected._mark_checked()
        return selected

    @staticmethod
    def concatenate(catalogues: Sequence["Catalogue"]) -> "Catalogue":
        """One catalogue after the other. Item ids stay as they are, so domains may share some."""
        columns = [ImageColumn([None] * len(part)) if part.images is None else part.images for part in catalogues]
        has_images = any(part.images is not None for part in catalogues)
        has_brands = any(part.brands is not None for part in catalogues)
        return Catalogue(
            item_ids=[item_id for part in catalogues for item_id in part.item_ids],
            texts=[text for part in catalogues for text in part.texts],
            titles=[title for part in catalogues for title in part.titles],
            images=ImageColumn.concatenate(columns) if has_images else None,
            name="+".join(part.name for part in catalogues),
            template=catalogues[0].template if len({part.template for part in catalogues}) == 1 else None,
            text_fields=catalogues[0].text_fields,
            brands=[brand for part in catalogues for brand in part.brands or [""] * len(part)] if has_brands else None,
        )


def _columns(records: Any, wanted: Sequence[str]) -> tuple[dict[str, Sequence], int]:
    """The wanted columns that exist, and the number of rows. Image columns of tables stay in Arrow, undecoded."""
    if is_data_set(records):
        records = read_data_set(records)
    elif _is_frame_of("polars", records, "DataFrame"):
        if str(records.schema.get("image")) == "Object":  # PIL images
            return {column: records[column].to_list() for column in wanted if column in records}, len(records)
        records = records.to_arrow()
    elif hasattr(records, "iloc"):  # pandas.DataFrame
        return {column: records[column].tolist() for column in wanted if column in records}, len(records)
    if _is_frame_of("pyarrow", records, "Table"):
        return {column: records[column] for column in wanted if column in records.column_names}, len(records)
    if isinstance(records, (str, bytes, dict)) or not isinstance(records, Iterable):
        raise CatalogueError(f"records are a Dataset, a DataFrame or dictionaries, got {type(records).__name__}")
    records = list(records)
    for row, record in enumerate(records):
        if not isinstance(record, dict):
            raise CatalogueError(f"row {row}: expected a dictionary, got {type(record).__name__}")
    present = set().union(*records)
    return {column: [record.get(column) for record in records] for column in wanted if column in present}, len(records)


def _is_frame_of(library: str, records: object, name: str) -> bool:
    """Whether records are a library's frame or table, which need not be imported to tell."""
    return type(records).__module__.startswith(f"{library}.") and type(records).__name__ == name


def _values(column: Any) -> Sequence:
    return column.to_pylist() if is_arrow(column) else column


def _item_id(value: object, row: int) -> str:
    """By [`id_text`]; a missing id becomes an empty one (see `Catalogue.check`)."""
    try:
        text = id_text(value)
    except IdError as error:
        raise CatalogueError(f"row {row}: item_id {error}") from error
    if text is not None and _SURROGATE.search(text):
        raise CatalogueError(f"row {row}: item_id {value!r} holds half a character; correct it")
    return text if text is not None and text.strip() else ""


def _text(value: object) -> str:
    """One line of text: lists joined by commas (nested ones flattened), blanks and control characters collapsed; bytes
    are UTF-8, as in parquet files of Spark and Impala that do not say that they hold texts."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, bytes):
        value = value.decode("utf-8")
    if isinstance(value, (set, frozenset)):  # whose order is another in each process
        value = sorted(map(_text, value))
    if isinstance(value, (list, tuple)):
        return ", ".join(filter(None, map(_text, value)))
    if isinstance(value, dict):
        return ", ".join(f"{_text(key)}: {_text(entry)}" for key, entry in value.items() if _text(entry))
    if is_missing(value):
        return ""
    return _BLANK.sub(" ", str(value)).strip()


def _brand(value: Any) -> str:
    """An item's brand, of several the first."""
    names = value.tolist() if isinstance(value, np.ndarray) else value
    names = names if isinstance(names, (list, tuple)) else [names]
    return next(filter(None, map(_text, names)), "")


def _texts(column: "Sequence | pa.ChunkedArray", name: str, text_of: Callable[[Any], str] = _text) -> list[str]:
    try:
        return [text_of(value) for value in _values(column)]
    except RecursionError as error:
        raise CatalogueError(f"column {name}: a value is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise CatalogueError(f"column {name}: {error.object[:40]!r} is no text in UTF-8: {error}") from error
