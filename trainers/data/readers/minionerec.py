"""MiniOneRec's files: training examples (`user, history, next item`), of which the sequences are put together again.

Two layouts, with the items in `<name>.item.json` as in LETTER:

- `<name>.{train,valid,test}.inter`, tab-separated, with `user_id:token`, `item_id_list:token_seq`, `item_id:token`;
- `{train,valid,test}/<name>*.csv` with `user_id`, `history_item_id` (a list as text), `item_id` and other columns, and
  `index/<name>.item.json`.

Histories are cut to the last 10 or 50 items; their overlaps tell the whole sequence. The published parts (8:1:1 of all
examples in time) are not kept: choose a split anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from trainers.data.readers.base import RawData, ReadError, ReadingReport
from trainers.data.readers.item_writer import read_item_json
from trainers.data.readers.log_writer import LogWriter
from trainers.data.readers.sequence_rebuilder import PARTS, SequenceRebuilder, atomic_windows
from trainers.data.readers.text_lines import only_file, require_files, table_batches


@dataclass
class MiniOneRecReader:
    """
    A folder as MiniOneRec publishes it or writes it. Ids are the files' numbers, as strings.

    Args:
        input (`Path`): folder as MiniOneRec publishes or writes it.
        name (`str`, *optional*): which data set, if the folder holds several.
    """

    input: Path
    name: str | None = None
    format = "minionerec"
    keeps_items = False

    def files(self) -> list[Path]:
        folder, name = Path(self.input), self.name or "*"
        if (folder / PARTS[0]).is_dir():
            parts = [only_file(folder / part, f"{self.name or ''}*.csv") for part in PARTS]
            items = only_file(folder / "index", f"{name}.item.json")
        else:
            parts = [only_file(folder, f"{name}.{part}.inter") for part in PARTS]
            items = only_file(folder, f"{name}.item.json")
        return require_files(*parts, items)

    def settings(self) -> dict:
        return {"timestamp": "place in the user's sequence", "published_parts": "not kept"}

    def read(self, scratch: Path, report: ReadingReport, latest_time: datetime) -> RawData:
        *parts, items = self.files()
        rebuilder = SequenceRebuilder(report)
        for path in parts:
            rebuilder.add(csv_windows(path) if path.suffix == ".csv" else atomic_windows(path))
        log = LogWriter(scratch, report, "order", latest_time)
        log.add_sequences(rebuilder.sequences, " and ".join(path.name for path in parts))
        return RawData(log.finish(), read_item_json(items, scratch, report), has_time=False)


def csv_windows(path: Path) -> Iterator[tuple[str, str, list[str], str]]:
    """Rows of a csv file with histories as lists in text: place, user, history, target."""
    columns = {"user_id": "user", "history_item_id": "history", "item_id": "item"}
    for batch in table_batches(path, columns, ReadingReport()):
        for user_id, history, item, line in batch.select("user", "history", "item", "line").iter_rows():
            place = f"{path.name}, line {line}"
            if user_id is None or item is None:
                raise ReadError(f"{path}, line {line}: the user or the item is missing.")
            try:
                items = json.loads((history or "[]").replace("'", '"'))
                if not isinstance(items, list):
                    raise ValueError(history)
            except (ValueError, RecursionError) as error:
                raise ReadError(f"{path}, line {line}: history_item_id is no list: {str(history)[:60]!r}.") from error
            yield place, user_id, [str(entry) for entry in items], item
