"""RecBole's atomic files: `<name>.inter` and `<name>.item`, tab-separated, with types in the header: `user_id:token`.

Also the variant with parts, `<name>.{train,valid,test}.inter`, whose rows hold a history, `item_id_list:token_seq`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from trainers.data.readers.base import RawData, ReadError, ReadingReport
from trainers.data.readers.item_writer import ItemWriter, quoted_entries
from trainers.data.readers.log_writer import LogWriter
from trainers.data.readers.sequence_rebuilder import PARTS, SequenceRebuilder, atomic_windows
from trainers.data.readers.text_lines import only_file, require_files, table_batches
from trainers.data.readers.timestamps import TimeUnit

# Names that the published data sets use for our fields, in the order in which they are looked for.
_LOG_NAMES = {
    "user_id": ("user_id", "session_id"),
    "item_id": ("item_id",),
    "timestamp": ("timestamp",),
    "rating": ("rating",),
}
_ITEM_NAMES = {
    "item_id": ("item_id",),
    "title": ("title", "movie_title", "item_title", "item_name", "name"),
    "brand": ("brand", "store"),
    "features": ("features", "feature"),
    "categories": ("categories", "category", "genre", "genres", "class"),
    "description": ("description",),
}
_LISTS = ("features", "categories")


@dataclass
class RecBoleReader:
    """
    A folder of atomic files. Without a `timestamp`, the order of the file is taken as the order in time.

    Args:
        input (`Path`): folder with `<name>.inter`, or its three parts, and perhaps `<name>.item`.
        name (`str`, *optional*): which data set, if the folder holds several.
        columns (`dict[str, str]`, *optional*): names in the interactions where they differ, ours to theirs:
            `user_id`, `item_id`, `timestamp`, `rating`.
        item_columns (`dict[str, str]`, *optional*): names in the items where they differ, ours to theirs: `item_id`,
            `title`, `brand`, `features`, `categories`, `description`, ...
        timestamp_unit (`str`, *optional*, defaults to `"s"`): of the timestamps; `iso`: dates as text, `order`: no
            time, integers that increase.
    """

    input: Path
    name: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    item_columns: dict[str, str] = field(default_factory=dict)
    timestamp_unit: TimeUnit = "s"
    format = "recbole"
    keeps_items = False

    def files(self) -> list[Path]:
        folder, name = Path(self.input), self.name or "*"
        whole = [path for path in sorted(folder.glob(f"{name}.inter")) if path.stem.rpartition(".")[2] not in PARTS]
        if not whole and any(folder.glob(f"{name}.{PARTS[0]}.inter")):
            logs = [only_file(folder, f"{name}.{part}.inter") for part in PARTS]
        elif len(whole) == 1:
            logs = whole
        else:
            logs = [only_file(folder, f"{name}.inter")]
        items = logs[0].with_name(logs[0].name.removesuffix(".inter").removesuffix(f".{PARTS[0]}") + ".item")
        return require_files(*logs, *([items] if items.exists() else []))

    def settings(self) -> dict:
        log, *_ = self._parts()
        settings: dict[str, Any] = {"columns": _names(log, _LOG_NAMES, self.columns)}
        if len(self._parts()) > 1 or "timestamp" not in settings["columns"].values():
            settings["timestamp"] = "place in the file or, of a history, in the user's sequence"
        if items := self._items():
            used = settings["item_columns"] = _names(items, _ITEM_NAMES, self.item_columns)
            settings["unused_item_columns"] = [name for name in _header(items) if name not in used]
        return settings

    def read(self, scratch: Path, report: ReadingReport, latest_time: datetime) -> RawData:
        logs = self._parts()
        names = _names(logs[0], _LOG_NAMES, self.columns)
        has_time = len(logs) == 1 and "timestamp" in names.values()
        log = LogWriter(scratch, report, self.timestamp_unit if has_time else "order", latest_time)
        if len(logs) > 1:
            rebuilder = SequenceRebuilder(report)
            user = next(theirs for theirs, ours in names.items() if ours == "user_id")
            for path in logs:
                rebuilder.add(atomic_windows(path, user))
            log.add_sequences(rebuilder.sequences, " and ".join(path.name for path in logs))
        else:
            for part in table_batches(logs[0], names, report, separator="\t", quote=None):
                if not has_time:
                    part = part.with_columns(timestamp="line")
                log.add(part, logs[0].name)
        items = None
        if item_file := self._items():
            writer = ItemWriter(scratch, report)
            writer.add(self._item_records(item_file, report))
            items = writer.finish()
        return RawData(log.finish(), items, has_time)

    def _parts(self) -> list[Path]:
        return [path for path in self.files() if path.suffix == ".inter"]

    def _items(self) -> Path | None:
        return next((path for path in self.files() if path.suffix == ".item"), None)

    def _item_records(self, path: Path, report: ReadingReport) -> Iterator[tuple[str, Mapping]]:
        names = _names(path, _ITEM_NAMES, self.item_columns)
        lists = [ours for theirs, ours in names.items() if theirs.endswith(":token_seq") and ours in _LISTS]
        for batch in table_batches(path, names, report, "items", separator="\t", quote=None):
            for record in batch.iter_rows(named=True):
                record |= {name: _tokens(record[name]) for name in lists}
                yield f"{path.name}, line {record['line']}", record


def _header(path: Path) -> list[str]:
    with open(path, encoding="utf-8-sig") as file:
        names = file.readline().rstrip("\r\n").split("\t")
    if untyped := [name for name in names if ":" not in name]:
        raise ReadError(f"{path}, line 1: {untyped} have no type: expected a header such as 'user_id:token'.")
    return names


def _names(path: Path, usual: Mapping[str, tuple[str, ...]], given: Mapping[str, str]) -> dict[str, str]:
    """`{theirs, with type: ours}` of the columns that are there."""
    if unknown := sorted(set(given) - set(usual)):
        raise ReadError(f"There is no column {unknown} to name: choose from {list(usual)}.")
    typed = {name.rpartition(":")[0]: name for name in _header(path)}
    names = {}
    for ours, candidates in usual.items():
        candidates = (given[ours],) if ours in given else candidates
        theirs = next((name for name in candidates if name in typed), None)
        if theirs is not None:
            names[typed[theirs]] = ours
        elif ours in given or ours in ("user_id", "item_id"):
            raise ReadError(f"{path} lacks the column {' or '.join(candidates)}; it has {list(typed)}.")
    return names


def _tokens(text: str | None) -> list[str]:
    """Entries of a list: what quotes hold ("'Hair Care', 'Bags, Cases'"); without quotes split at commas, where there
    are any ("Drama, Romance"), or else at blanks."""
    text = (text or "").strip().removeprefix("[").removesuffix("]").strip()
    if (entries := quoted_entries(text)) is not None:
        return entries
    # 'Men's Shoes': the quote within has no backslash, but those around still make one entry
    if "," not in text and not (len(text) > 1 and text[0] == text[-1] == "'"):
        return text.split()
    return [entry.strip().strip("'") for entry in text.split(",")]
