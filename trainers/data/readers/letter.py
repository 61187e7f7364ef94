"""The JSON files of LETTER, LC-Rec and their successors: `<name>.inter.json` and `<name>.item.json`.

`{"0": [1, 2, 3]}`: a user's item numbers, oldest first. `{"0": {"title", "description", "brand", "categories"}}`: an
item's texts, mostly strings; categories are one string with commas, also within names, so that they stay one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import polars as pl

from trainers.data.readers.base import RawData, ReadError, ReadingReport
from trainers.data.readers.item_writer import ItemSpool
from trainers.data.readers.log_writer import LogSpool
from trainers.data.readers.text_lines import load_json, require_files

BATCH_USERS = 50_000  # users that become a part of the log at once


@dataclass
class LetterReader:
    """
    A folder as LETTER and LC-Rec publish it. Ids are the files' numbers, as strings.

    Args:
        folder (`Path`): holds `<name>.inter.json` and `<name>.item.json`.
        name (`str`, *optional*): which ones, if the folder holds several.
    """

    folder: Path
    name: str | None = None
    format = "letter"

    def files(self) -> list[Path]:
        sequences = only_file(Path(self.folder), f"{self.name or '*'}.inter.json")
        return require_files(sequences, sequences.with_name(sequences.name.replace(".inter.json", ".item.json")))

    def settings(self) -> dict:
        return {"timestamp": "place in the user's sequence", "categories": "one string, as in the file"}

    def read(self, scratch: Path, report: ReadingReport, latest_time: datetime) -> RawData:
        sequences, items = self.files()
        log = LogSpool(scratch, report, "order", latest_time)
        add_sequences(load_json(sequences), sequences.name, log, report)
        return RawData(log.finish(), read_item_json(items, scratch, report), has_time=False)


def only_file(folder: Path, pattern: str) -> Path:
    """The one file of a folder that fits a pattern."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        names = [path.name for path in found] or "none"
        raise ReadError(f"{folder}: expected one file {pattern}, found {names}; give its folder, or the name it has.")
    return found[0]


def add_sequences(sequences: dict[str, list], file: str, log: LogSpool, report: ReadingReport) -> None:
    """Adds `{user: [item, ...]}`, oldest first; the timestamp is the place in the sequence, from 0."""
    for user, items in sequences.items():
        if not isinstance(items, list) or any(isinstance(item, (list, dict)) for item in items):
            raise ReadError(f"{file}, user {user!r}: expected a list of items, found {str(items)[:80]}.")
    users = list(sequences)
    for start in range(0, len(users), BATCH_USERS):
        part = users[start : start + BATCH_USERS]
        texts = [[None if item is None else str(item) for item in sequences[user]] for user in part]
        frame = pl.DataFrame({"user_id": part, "item_id": texts}, schema_overrides={"item_id": pl.List(pl.String)})
        frame = frame.with_columns(timestamp=pl.int_ranges(pl.col("item_id").list.len(), dtype=pl.Int64))
        frame = frame.filter(pl.col("item_id").list.len() > 0).explode("item_id", "timestamp")
        report.read["interactions"] += frame.height
        log.add(frame, file)


def read_item_json(path: Path, scratch: Path, report: ReadingReport) -> pl.LazyFrame:
    """The items of a `<name>.item.json`."""

    def records() -> Iterable[tuple[str, dict]]:
        for item, fields in load_json(path).items():
            report.read["items"] += 1
            if not isinstance(fields, dict):
                report.drop("items", "the item is no object", 1, [f"{path.name}, item {item!r}: {str(fields)[:80]}"])
                continue
            yield f"{path.name}, item {item!r}", fields | {"item_id": item}

    items = ItemSpool(scratch, report)
    items.add(records())
    return items.finish()
