"""The card of a data folder, from what is in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from hub_cards import DatasetCardValues
from hub_cards.csv_layout import csv_layout, split_rows
from tokenization_items.catalogue import FILE_NAMES as ITEM_FILES
from tokenization_items.files import read_json_object
from trainers.data.domains import Domain, domain_folders
from trainers.data.interaction_files import EVENT_FILES, RECORD_FILE, SEQUENCE_FILES
from trainers.hub.model_facts import versions

GENERATED_FILE = "dataset.json"  # of the built-in data
PACKAGES = ("utgrec", "datasets")
COLUMNS = {
    "item_id": "identifier of the item",
    "title": "what the item is called",
    "brand": "who makes it",
    "features": "its properties",
    "categories": "where the shop puts it",
    "description": "what the shop says of it",
    "image": "path of its picture in this repository, or the picture",
    "image_url": "address of its picture",
    "user_id": "identifier of the user",
    "items": "the user's items, oldest first",
    "timestamp": "when; see Preparation for its unit",
    "rating": "as the source has it, null for an interaction without one",
    "split": "train, validation or test",
}


def dataset_card_values(folder: str | Path, name: str | None = None, **facts: Any) -> DatasetCardValues:
    """
    What the card of a data folder says: sizes, columns, and how it was made, where `prepared.json` tells.

    Args:
        folder (`str` or `Path`): a domain, or a folder of domains.
        name (`str`, *optional*): of the data set, by default the folder's.
        facts: further values of the card, such as `license` and `repo_id`.

    Raises:
        ValueError: if a domain cannot be read.
    """
    folder = Path(folder)
    rows, configs, sources, dropped, num_rows = [], [], [], [], 0
    columns: dict[str, str] = {}  # and the table that has it
    preparation: dict[str, dict[str, Any]] = {}
    places = domain_folders([str(folder)])
    for place in places:
        domain = Domain.from_folder(place, check_images=False)
        inner = "" if place == folder else place.name
        rows.append({"Domain": domain.name, **({"folder": inner} if inner else {}), **sizes(domain)})
        num_rows = max(num_rows, len(domain.catalogue), len(domain.interactions.items))
        for kind, names in (("items", ITEM_FILES), ("interactions", SEQUENCE_FILES + EVENT_FILES)):
            file = next(place / file_name for file_name in names if (place / file_name).is_file())
            config = f"{inner}-{kind}" if inner else kind
            configs.append({"config_name": config, "data_files": file.relative_to(folder).as_posix()})
            columns |= dict.fromkeys(column_names(file), kind) | columns
        document, choices = _document(place)
        own = {"Domain": inner} if inner else {}
        for setting, value in choices.items():
            preparation.setdefault(setting, {"Setting": setting})[inner or "Value"] = value
        if document:
            sources += [own | _file(document["source"]["format"], file) for file in document["source"]["files"]]
            dropped += [own | row for row in _dropped(document)]
    described = [
        {"Table": kind, "Column": column, "Meaning": COLUMNS[column]}
        for column, kind in columns.items()
        if column in COLUMNS
    ]
    values: dict[str, Any] = {
        "name": name or folder.resolve().name,
        "domains": rows,
        "configs": configs,
        "columns": described,
        "sources": sources,
        "preparation": list(preparation.values()),
        "dropped": dropped,
        "num_rows": num_rows,
        "versions": {package: version for package, version in versions().items() if package in PACKAGES},
    }
    return DatasetCardValues(**values | facts)


def sizes(domain: Domain) -> dict[str, Any]:
    """Numbers of a domain that a card tells."""
    interactions, catalogue = domain.interactions, domain.catalogue
    return {
        "Items": len(catalogue),
        "Items with image": 0 if catalogue.images is None else int(catalogue.images.present.sum()),
        "Users": interactions.num_users,
        "Interactions": len(interactions.items),
        "Median per user": float(np.median(interactions.lengths)) if interactions.num_users else None,
    } | ({} if interactions.in_training is None else {"Training users": int(interactions.in_training.sum())})


def column_names(file: Path) -> list[str]:
    """Names of a table's columns. Of lines of JSON, those of the first line."""
    if file.suffix == ".parquet":
        return pq.read_schema(file).names
    if file.suffix == ".jsonl":
        with open(file, encoding="utf-8") as lines:
            return list(json.loads(next(lines, "{}")))
    if file.suffix == ".csv":
        layout = csv_layout(file)
        with open(file, encoding=layout.encoding, newline=None) as lines:
            header = next(lines, "").removeprefix("\ufeff")
        return [name.strip() for row in split_rows(header, layout.separator) for name in row]
    return []


def _document(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the folder holds about how it was made, if it does: the whole document, and the choices in it."""
    if (folder / RECORD_FILE).is_file():
        document = read_json_object(folder / RECORD_FILE)
        if not all(isinstance(document.get(part), dict) for part in ("choices", "counts", "source")):
            raise ValueError(f"{folder / RECORD_FILE} does not say how the data were prepared: prepare them anew.")
        told = document["choices"] | {f"counted: {key}": value for key, value in document["counts"].items()}
        return document, {key.replace("_", " "): _words(value) for key, value in told.items()}
    if (folder / GENERATED_FILE).is_file():
        told = read_json_object(folder / GENERATED_FILE)
        told = {"drawn by": "trainers/data/synthetic.py"} | {
            key: value for key, value in told.items() if key != "name"
        }
        return {}, {key.replace("_", " "): _words(value) for key, value in told.items()}
    return {}, {}


def _file(kind: str, entry: dict[str, Any]) -> dict[str, Any]:
    return {"Format": kind, "File": entry["name"], "Bytes": entry["bytes"], "SHA-256": entry["sha256"]}


def _dropped(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"Of": kind, "Reason": reason, "Count": entry["count"]}
        for kind, reasons in document.get("dropped", {}).items()
        for reason, entry in reasons.items()
    ]


def _words(value: Any) -> Any:
    if isinstance(value, dict):
        return "; ".join(f"{key}: {entry}" for key, entry in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else value
