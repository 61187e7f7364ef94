r"""Preparation of a data folder from Amazon Reviews, MovieLens, RecBole, LETTER, MiniOneRec, UTGRec or tables.

    utgrec prepare --format movielens --input ml-1m --output_dir data/ml-1m --min_rating 4
    utgrec prepare --format tabular --interactions log.csv --columns user_id=buyer item_id=sku \
        --items goods.parquet --item_columns item_id=sku title=name --output_dir data/shop

The folder holds items.parquet, interactions.parquet, images, and prepared.json: counts, choices, checksums, and what
was dropped and why. It appears when it is complete.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from trainers.arguments import parse_sections
from trainers.data.preparation import PreparationChoices
from trainers.data.prepared_folder import PreparedDataError, check_prepared, prepare_data_set
from trainers.data.readers import (
    AmazonHubReader,
    AmazonReader,
    LetterReader,
    MiniOneRecReader,
    MovieLensReader,
    Reader,
    ReadError,
    RecBoleReader,
    TabularReader,
    UTGRecFilesReader,
)
from trainers.data.readers.base import survey

AMAZON = {"amazon-2014": 2014, "amazon-2018": 2018, "amazon-2023": 2023}
FOLDERS = {
    "movielens": MovieLensReader,
    "recbole": RecBoleReader,
    "letter": LetterReader,
    "minionerec": MiniOneRecReader,
    "utgrec": UTGRecFilesReader,
}


@dataclass
class PrepareArguments:
    output_dir: str = field(metadata={"help": "The folder to make."})
    format: (
        Literal[
            "amazon-2014",
            "amazon-2018",
            "amazon-2023",
            "amazon-2023-hub",
            "movielens",
            "recbole",
            "letter",
            "minionerec",
            "utgrec",
            "tabular",
        ]
        | None
    ) = field(default=None, metadata={"help": "Layout of the source; `letter` is LC-Rec's as well."})
    input: str | None = field(
        default=None, metadata={"help": "The source's folder (movielens, recbole, letter, minionerec, utgrec)."}
    )
    interactions: str | None = field(
        default=None, metadata={"help": "File of the reviews (amazon) or of the interactions (tabular)."}
    )
    items: str | None = field(
        default=None, metadata={"help": "File of the metadata (amazon) or of the items (tabular, may be left out)."}
    )
    category: str | None = field(default=None, metadata={"help": "Category of Amazon Reviews 2023 on the Hub."})
    name: str | None = field(
        default=None, metadata={"help": "Which data set, where a folder holds several (recbole, letter, minionerec)."}
    )
    columns: list[str] = field(
        default_factory=list,
        metadata={"help": "Names in the interactions, as ours=theirs: user_id, item_id, timestamp, rating."},
    )
    item_columns: list[str] = field(
        default_factory=list,
        metadata={"help": "Names in the items: item_id, title, brand, features, categories, description, image, …"},
    )
    timestamp_unit: Literal["s", "ms", "us", "ns", "iso", "order"] = field(
        default="s",
        metadata={"help": "Of tabular and recbole. `iso`: dates as text. `order`: no time, integers that increase."},
    )
    image_size: Literal["large", "hi_res", "thumb"] = field(
        default="large", metadata={"help": "Of Amazon Reviews 2023's images."}
    )
    k_core: int = field(
        default=5, metadata={"help": "Users and items with at least so many interactions, to a fixed point; 0: all."}
    )
    repeats: Literal["first", "all"] = field(
        default="first", metadata={"help": "Which of a user's interactions with one item to keep."}
    )
    min_rating: float | None = field(default=None, metadata={"help": "Lower ratings are no interactions."})
    text_fields: list[str] = field(
        default_factory=lambda: ["title", "brand", "features", "categories", "description"],
        metadata={"help": "The items' text (the paper's: title features categories)."},
    )
    split: Literal["leave-one-out", "temporal", "ratio"] = field(
        default="leave-one-out",
        metadata={"help": "By each user's last two items, two points in time, or a share of each user's sequence."},
    )
    ratios: list[float] = field(
        default_factory=lambda: [0.8, 0.1, 0.1],
        metadata={"help": "Training, validation and test of a temporal or ratio split."},
    )
    latest_time: str | None = field(
        default=None, metadata={"help": "Later interactions are dropped: an ISO date in UTC; by default now."}
    )
    co_occurrence: bool = field(
        default=False, metadata={"help": "Write the graph of items that follow each other in training."}
    )
    download_images: bool = field(default=False, metadata={"help": "Fetch the images of the items that are left."})
    image_cache: str | None = field(
        default=None, metadata={"help": "Where fetched images are kept; by default .image_cache beside the output."}
    )
    image_workers: int = field(default=16, metadata={"help": "Images fetched at once."})
    dry_run: bool = field(default=False, metadata={"help": "Say what there is to read, and stop."})
    check: bool = field(default=False, metadata={"help": "Compare the output's files with its checksums, and stop."})
    overwrite: bool = field(default=False, metadata={"help": "Replace a prepared folder that is there."})


def pairs(given: list[str]) -> dict[str, str]:
    """`["user_id=buyer"]` → `{"user_id": "buyer"}`."""
    split = [entry.partition("=") for entry in given]
    if wrong := [entry for entry, (ours, _, theirs) in zip(given, split, strict=True) if not ours or not theirs]:
        raise SystemExit(f"Expected ours=theirs, got {' '.join(wrong)}.")
    return {ours: theirs for ours, _, theirs in split}


def make_reader(arguments: PrepareArguments) -> Reader:
    """The reader of a format, with those arguments that it takes; others that were given are an error."""
    kind = arguments.format
    if kind is None:
        raise SystemExit("--format says how to read the source.")
    taken = {"interactions", "items"} if kind in AMAZON or kind == "tabular" else {"input"}
    taken = {"category"} if kind == "amazon-2023-hub" else taken
    needed = taken - {"items"} if kind == "tabular" else set(taken)
    taken |= {"name"} if kind in ("recbole", "letter", "minionerec") else set()
    taken |= {"columns", "item_columns"} if kind in ("recbole", "tabular") else set()
    ways = ("input", "interactions", "items", "category", "name", "columns", "item_columns")
    given = {way for way in ways if getattr(arguments, way)}
    if missing := sorted(needed - given):
        raise SystemExit(f"--format {kind} needs --{', --'.join(missing)}.")
    if extra := sorted(given - taken):
        raise SystemExit(f"--format {kind} does not use --{', --'.join(extra)}.")
    columns = {"columns": pairs(arguments.columns), "item_columns": pairs(arguments.item_columns)}
    if kind in AMAZON:
        return AmazonReader(Path(arguments.interactions), Path(arguments.items), AMAZON[kind], arguments.image_size)
    if kind == "amazon-2023-hub":
        return AmazonHubReader(arguments.category, arguments.image_size)
    if kind == "tabular":
        items = None if arguments.items is None else Path(arguments.items)
        return TabularReader(Path(arguments.interactions), items, **columns, time_unit=arguments.timestamp_unit)
    settings = {"name": arguments.name} if "name" in taken else {}
    if kind == "recbole":
        settings |= columns | {"time_unit": arguments.timestamp_unit}
    return FOLDERS[kind](Path(arguments.input), **settings)


def describe(reader: Reader, output: Path) -> None:
    """Prints the files to read and the room there is for what will be written."""
    files = survey(reader)
    for entry in files:
        about = "" if entry["exact"] else "about "
        print(f"{entry['file']}: {entry['bytes'] / 1e6:,.1f} MB, {about}{entry['lines']:,} lines")
    print(json.dumps(reader.settings(), indent=2))
    parent = next(path for path in output.absolute().parents if path.is_dir())
    print(f"{shutil.disk_usage(parent).free / 1e9:,.1f} GB are free for {output}")


def run(arguments: PrepareArguments) -> dict | None:
    """Prepares the data set, prints an account and returns the content of prepared.json."""
    output = Path(arguments.output_dir)
    if arguments.check:
        try:
            document = check_prepared(output)
        except PreparedDataError as error:
            raise SystemExit(str(error)) from None
        print(f"{output}: as it was prepared")
        return document
    try:
        reader = make_reader(arguments)
        if arguments.dry_run:
            return describe(reader, output)
        document = prepare_data_set(
            reader,
            output,
            PreparationChoices(
                k_core=arguments.k_core,
                repeats=arguments.repeats,
                min_rating=arguments.min_rating,
                text_fields=tuple(arguments.text_fields),
                split=arguments.split,
                ratios=tuple(arguments.ratios),
            ),
            latest_time=datetime.fromisoformat(arguments.latest_time) if arguments.latest_time else None,
            download=arguments.download_images,
            image_cache=arguments.image_cache,
            image_workers=arguments.image_workers,
            co_occurrence=arguments.co_occurrence,
            overwrite=arguments.overwrite,
        )
    except (ReadError, FileExistsError, ValueError) as error:
        raise SystemExit(str(error)) from None
    for kind, count in document["read"].items():
        print(f"read {count:,} {kind}")
        for reason, entry in document["dropped"].get(kind, {}).items():
            example = f", such as {entry['examples'][0]}" if entry["examples"] else ""
            print(f"  dropped {entry['count']:,}: {reason}{example}")
    print(", ".join(f"{name}: {value}" for name, value in document["counts"].items()))
    print(f"{output}: written")
    return document


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, by default the program's."""
    run(*parse_sections(PrepareArguments, {}, __doc__, argv))
