"""Writer of the items of any source to one table on disk, cleaned a part at a time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import polars as pl

from hub_cards.item_ids import IdError, id_text
from trainers.data.readers.base import ITEM_SCHEMA, MAX_EXAMPLES, ReadError, ReadingReport
from trainers.data.readers.html_text import clean_html
from trainers.data.readers.text_lines import load_json, plain_text

PART_ROWS = 20_000  # items that are held at once
TEXT = ("title", "brand", "features", "categories", "description")
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")
_QUOTED_LIST = re.compile(rf"(?:{_QUOTED.pattern})(?:(?:\s*,\s*|\s+)(?:{_QUOTED.pattern}))*")
_ESCAPED, _BLANKS = re.compile(r"\\(xa0|.)"), dict.fromkeys(("n", "r", "t", "xa0"), " ")
ALREADY_THERE = "item_id is there already"  # why an item is left out


class ItemWriter:
    """
    Takes items as dictionaries, cleans their text and keeps them in files.

    Items without id, or with what is none (see [`~hub_cards.item_ids.id_text`]), are dropped and counted; of
    several with one id the first stays.

    Args:
        folder (`Path`): where the files go.
        report (`ReadingReport`): counts what is dropped.
    """

    def __init__(self, folder: Path, report: ReadingReport):
        self.folder = folder / "items"
        self.folder.mkdir(parents=True)
        self.report = report
        self.files: list[Path] = []
        self._part: list[dict] = []

    def add(self, items: Iterable[tuple[str, Mapping]]) -> None:
        """
        Args:
            items (`Iterable[tuple[str, Mapping]]`): where each stands in its source (for messages, such as
                "meta.json.gz, line 7") and its fields: `item_id` and any of `title`, `brand`, `features`,
                `categories`, `description`, `image`, `image_url`. Values may be strings, also as bytes of UTF-8,
                numbers, `None`, or lists of these, however nested.
        """
        for place, fields in items:
            try:
                item_id = id_text(fields.get("item_id"))
            except IdError as error:
                self.report.drop("items", "item_id is no string or whole number", 1, [f"{place}: item_id {error}"])
                continue
            self._part.append(
                {
                    name: strings(fields.get(name)) if kind == pl.List(pl.String) else string(fields.get(name))
                    for name, kind in ITEM_SCHEMA.items()
                }
                | {"item_id": plain_text(item_id or ""), "place": place}
            )
            if len(self._part) == PART_ROWS:
                self.flush()

    def finish(self) -> pl.LazyFrame:
        """All items, in the order in which they were added. Raises `ReadError` if there is none."""
        self.flush()
        check_items(len(self.files), self.report)
        items = pl.scan_ipc(self.files)
        several = there_already(items).collect(engine="streaming").sort("place")
        if several.height:
            examples = [f"{place}: item_id {name!r}" for name, _, place in several.head(MAX_EXAMPLES).iter_rows()]
            extra = several["count"].sum() - several.height
            self.report.drop("items", ALREADY_THERE, extra, examples)
            items = items.unique("item_id", keep="first", maintain_order=True)
        return items.select(list(ITEM_SCHEMA))

    def flush(self) -> None:
        """Writes what was added and is not in [`files`] yet."""
        if not self._part:
            return
        part = pl.DataFrame(self._part, schema=pl.Schema({**ITEM_SCHEMA, "place": pl.String()}))
        self._part = []
        part = part.with_columns(pl.col("item_id").str.strip_chars())
        nameless = part.filter(pl.col("item_id") == "")
        places = [f"{place}: item_id" for place in nameless["place"].head(MAX_EXAMPLES)]
        self.report.drop("items", "item_id is missing", nameless.height, places)
        part = part.filter(pl.col("item_id") != "")
        part = part.with_columns(clean_html(part[name]) for name in TEXT)
        # the same category in several branches of a tree is one category
        part = part.with_columns(pl.col("features", "categories").list.unique(maintain_order=True))
        part = part.with_columns(
            pl.when(pl.col(name) != "").then(pl.col(name)).alias(name) for name in ("image", "image_url")
        )
        self.files.append(self.folder / f"{len(self.files):06d}.arrow")
        part.write_ipc(self.files[-1], compression="lz4")


def there_already(items: pl.LazyFrame) -> pl.LazyFrame:
    """Of items (`item_id`, `place`), in order, the ids that are there several times: `item_id`, their `count`, and the
    `place` of the second."""
    counts = items.group_by("item_id").agg(count=pl.len(), place=pl.col("place").get(1, null_on_oob=True))
    return counts.filter(pl.col("count") > 1)


def check_items(rows: int, report: ReadingReport) -> None:
    """Raises `ReadError` if nothing is left of the items."""
    if not rows:
        raise ReadError(f"No item is left of the items.\n{report}")


def string(value: object) -> str:
    """One text of a value that should be one: lists are joined by blanks, `None` and NaN are empty."""
    if isinstance(value, str):
        return plain_text(value)
    return " ".join(strings(value))


def strings(value: object) -> list[str]:
    """The texts in a value that should be a list: nested lists flattened, also one that a csv file has as Python or
    numpy shows it ("['a', 'b']", "[]"), single values alone, `None` and NaN none."""
    if value is None or value != value:
        return []
    if isinstance(value, (list, tuple)):
        return [text for entry in value for text in strings(entry)]
    if isinstance(value, Mapping):
        return [f"{key}: {text}" for key, entry in value.items() for text in strings(entry)]
    if isinstance(value, bytes):  # some programs write the texts of parquet files without saying that they are some
        return [value.decode("utf-8", "replace")]
    text = plain_text(str(value))
    inner = text.strip()
    if inner.startswith("[") and inner.endswith("]"):
        inner = inner[1:-1].strip()
        entries = quoted_entries(inner) if inner else []
        return [text] if entries is None else entries
    return [text]


def quoted_entries(text: str) -> list[str] | None:
    """What quotes hold in a text of nothing else, with commas or blanks between; `None` for another text."""
    if not _QUOTED_LIST.fullmatch(text):
        return None
    return [
        _ESCAPED.sub(lambda found: _BLANKS.get(found[1], found[1]), entry[1:-1]) for entry in _QUOTED.findall(text)
    ]


def read_item_json(path: Path, scratch: Path, report: ReadingReport) -> pl.LazyFrame:
    """The items of a `<name>.item.json` of LETTER, LC-Rec or MiniOneRec: `{item: {field: text}}`."""

    def records() -> Iterable[tuple[str, dict]]:
        for item, fields in load_json(path).items():
            report.read["items"] += 1
            if not isinstance(fields, dict):
                report.drop("items", "the item is no object", 1, [f"{path.name}, item {item!r}: {str(fields)[:80]}"])
                continue
            yield f"{path.name}, item {item!r}", fields | {"item_id": item}

    items = ItemWriter(scratch, report)
    items.add(records())
    return items.finish()
