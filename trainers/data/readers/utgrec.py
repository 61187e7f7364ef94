"""Folder of a domain as UTGRec publishes it:

- `all_item_seqs.json`: `{user: [item, ...]}`, oldest first;
- `id_mapping.json`: `user2id`, `item2id`, and the lists `id2user` and `id2item`, which start with "[PAD]";
- `metadata.sentence.json`: `{item: text}`, title, features and the rest in one text;
- `Images/<item>.jpg`, where there is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from trainers.data.readers.base import MAX_EXAMPLES, RawData, ReadError, ReadingReport
from trainers.data.readers.item_writer import ItemWriter
from trainers.data.readers.log_writer import LogWriter
from trainers.data.readers.text_lines import load_json, require_files

FILES = ("all_item_seqs.json", "id_mapping.json", "metadata.sentence.json")
IMAGES = "Images"


@dataclass
class UTGRecFilesReader:
    """
    A domain as UTGRec publishes it. Items keep the order of `id2item`; their text becomes the description.

    Args:
        input (`Path`): folder of a domain, such as `Musical_Instruments`.
    """

    input: Path
    format = "utgrec"
    keeps_items = False

    def files(self) -> list[Path]:
        return require_files(*(Path(self.input) / name for name in FILES))

    def settings(self) -> dict:
        return {
            "timestamp": "place in the user's sequence",
            "text": "metadata.sentence.json, as the description",
            "images": f"{IMAGES}/<item>.jpg",
        }

    def read(self, scratch: Path, report: ReadingReport, latest_time: datetime) -> RawData:
        sequences, mapping, texts = self.files()
        log = LogWriter(scratch, report, "order", latest_time)
        log.add_sequences(load_json(sequences), sequences.name)
        items = ItemWriter(scratch, report)
        items.add(self._items(mapping, texts, report))
        return RawData(log.finish(), items.finish(), has_time=False)

    def _items(self, mapping: Path, texts: Path, report: ReadingReport) -> Iterator[tuple[str, dict]]:
        content, sentences = load_json(mapping), load_json(texts)
        id2item = content.get("id2item")
        if not isinstance(id2item, list):
            raise ReadError(f"{mapping}: id2item should be the list of the items; found {str(id2item)[:80]}.")
        if id2item[:1] != ["[PAD]"]:
            raise ReadError(f"{mapping}: id2item should start with '[PAD]'; found {id2item[:1]}.")
        images = Path(self.input) / IMAGES
        present = {path.name for path in images.iterdir()} if images.is_dir() else set()
        for place, item in enumerate(id2item[1:], 1):
            report.read["items"] += 1
            fields = {"item_id": item, "description": sentences.get(item)}
            if f"{item}.jpg" in present:
                fields["image"] = str(images / f"{item}.jpg")
            yield f"{mapping.name}, id2item[{place}]", fields
        if extra := sentences.keys() - set(id2item):
            named = sorted(extra)[:MAX_EXAMPLES]
            report.read["items"] += len(extra)
            report.drop("items", "not in id2item", len(extra), [f"{texts.name}: item {item!r}" for item in named])
