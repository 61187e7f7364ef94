"""The JSON files of LETTER, LC-Rec and their successors: `<name>.inter.json` and `<name>.item.json`.

`{"0": [1, 2, 3]}`: a user's item numbers, oldest first. `{"0": {"title", "description", "brand", "categories"}}`: an
item's texts, mostly strings; categories are one string with commas, also within names, so that they stay one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from trainers.data.readers.base import RawData, ReadingReport
from trainers.data.readers.item_writer import read_item_json
from trainers.data.readers.log_writer import LogWriter
from trainers.data.readers.text_lines import load_json, only_file, require_files


@dataclass
class LetterReader:
    """
    A folder as LETTER and LC-Rec publish it. Ids are the files' numbers, as strings.

    Args:
        input (`Path`): folder with `<name>.inter.json` and `<name>.item.json`.
        name (`str`, *optional*): which data set, if the folder holds several.
    """

    input: Path
    name: str | None = None
    format = "letter"
    keeps_items = False

    def files(self) -> list[Path]:
        sequences = only_file(Path(self.input), f"{self.name or '*'}.inter.json")
        return require_files(sequences, sequences.with_name(sequences.name.replace(".inter.json", ".item.json")))

    def settings(self) -> dict:
        return {"timestamp": "place in the user's sequence", "categories": "one string, as in the file"}

    def read(self, scratch: Path, report: ReadingReport, latest_time: datetime) -> RawData:
        sequences, items = self.files()
        log = LogWriter(scratch, report, "order", latest_time)
        log.add_sequences(load_json(sequences), sequences.name)
        return RawData(log.finish(), read_item_json(items, scratch, report), has_time=False)
