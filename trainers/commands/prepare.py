r"""Preparation of a data folder from Amazon Reviews, MovieLens, RecBole, LETTER, MiniOneRec, UTGRec or tables.

    utgrec prepare --format movielens --input ml-1m --output_dir data/ml-1m --min_rating 4
    utgrec prepare --format tabular --interactions log.csv --columns user_id=buyer item_id=sku \
        --items goods.parquet --item_columns item_id=sku title=name --output_dir data/shop

The folder holds items.parquet, interactions.parquet, images, left_out.parquet: items and users that are not in it, and
prepared.json: counts, choices, checksums, and what was dropped and why. It appears when it is complete.
"""

import inspect
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, make_dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from trainers.arguments import parse_sections
from trainers.data.partitioned_folder import prepare_by_partitions
from trainers.data.preparation import PreparationChoices
from trainers.data.prepared_folder import LEFT_OUT, check_prepared, prepare_data_set
from trainers.data.readers import READERS, Reader, TabularReader
from trainers.data.readers.base import describe_dropped, survey
from trainers.runtime.ray_engine import import_ray, ray_session
from trainers.runtime.ray_tasks import tasks_on_ray


def documented(cls: type) -> dict[str, str]:
    """What a class's docstring says of each of its arguments, in one line."""
    _, _, arguments = (inspect.getdoc(cls) or "").partition("Args:\n")
    found = re.findall(r"^ {4}(\w+) \(.*?\): (.*?)(?=^ {0,4}\S|\Z)", arguments, re.MULTILINE | re.DOTALL)
    return {name: text[:1].upper() + " ".join(text.split())[1:] for name, text in found}


def fields_of(reader: Callable[..., Reader]) -> tuple[type, dict[str, Field[Any]], dict[str, Any]]:
    """The dataclass of an entry of [`READERS`], the fields that the entry leaves open, and their types."""
    cls, bound = (reader.func, reader.keywords) if isinstance(reader, partial) else (reader, {})
    found = {each.name: each for each in fields(cast(Any, cls)) if each.name not in bound}
    return cast(type, cls), found, {name: without_none(kind) for name, kind in get_type_hints(cls).items()}


def without_none(kind: Any) -> Any:
    """`X` of `X | None`."""
    if get_origin(kind) in (Union, UnionType):
        return next(each for each in get_args(kind) if each is not NoneType)
    return kind


def as_flag(kind: Any) -> Any:
    """The type of a field on a command line: paths are texts, dictionaries lists of `ours=theirs`, tuples lists."""
    if get_origin(kind) is tuple:
        return list[get_args(kind)[0]]  # type: ignore[misc]  # known when it runs
    return list[str] if get_origin(kind) is dict else str if kind is Path else kind


def source_arguments() -> type:
    """A dataclass of the format and of the fields of all readers; `None` is what was not given."""
    kinds: dict[str, Any] = {"format": Literal.__getitem__(tuple(READERS))}
    helps: dict[str, dict[str, list[str]]] = {}  # flag to what it means to which formats
    for name, reader in READERS.items():
        cls, found, types = fields_of(reader)
        about = documented(cls)
        for each in found.values():
            kinds[each.name] = as_flag(types[each.name])
            default = f" (default: {each.default})" if isinstance(each.default, str) else ""
            helps.setdefault(each.name, {}).setdefault(about[each.name] + default, []).append(name)
    texts = {"format": "Layout of the source; `letter` is LC-Rec's as well."}
    texts |= {
        flag: "\n".join(f"{', '.join(formats)}: {text}" for text, formats in found.items())
        for flag, found in helps.items()
    }
    flags = [(name, kind | None, field(default=None, metadata={"help": texts[name]})) for name, kind in kinds.items()]
    return make_dataclass("SourceArguments", flags)


def choice_arguments() -> type:
    """A dataclass of the fields of [`PreparationChoices`] as flags."""
    about, kinds, default = documented(PreparationChoices), get_type_hints(PreparationChoices), PreparationChoices()
    flags = []
    for each in fields(PreparationChoices):
        value, metadata = getattr(default, each.name), {"help": about[each.name]}
        if isinstance(value, tuple):
            flag = field(default_factory=partial(list, value), metadata=metadata)
        else:
            flag = field(default=value, metadata=metadata)
        flags.append((each.name, as_flag(kinds[each.name]), flag))
    return make_dataclass("ChoiceArguments", flags)


SourceArguments, ChoiceArguments = source_arguments(), choice_arguments()
HIDDEN = {"repository", "image_size", "image_cache", "image_workers", "latest_time", "ratios"}  # from `--help`
HIDDEN |= {"pair_horizon", "partitions", "ray_address", "num_cpus", "encoding"}


@dataclass
class PrepareArguments:
    output_dir: str = field(metadata={"help": "The folder to make."})
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
    pair_horizon: int | None = field(
        default=None, metadata={"help": "Count pairs of items so many interactions apart, as a memory does."}
    )
    engine: str = field(default="local", metadata={"help": "'local', or 'ray': on many workers; goes on if stopped."})
    partitions: int | None = field(
        default=None, metadata={"help": "ray: of users and of items each; default: of 1.5 million interactions."}
    )
    ray_address: str | None = field(default=None, metadata={"help": "Of a Ray cluster; default: this machine alone."})
    num_cpus: int | None = field(
        default=None, metadata={"help": "Processors of a Ray that is started here; default: all."}
    )
    dry_run: bool = field(default=False, metadata={"help": "Say what there is to read, and stop."})
    check: bool = field(default=False, metadata={"help": "Compare the output's files with its checksums, and stop."})
    overwrite: bool = field(default=False, metadata={"help": "Replace a prepared folder that is there."})

    def __post_init__(self) -> None:
        if self.engine not in ("local", "ray"):
            raise SystemExit(f"--engine {self.engine}: there are local and ray.")
        given = [name for name in ("partitions", "ray_address", "num_cpus") if getattr(self, name) is not None]
        if self.engine == "local" and given:
            raise SystemExit(f"--{given[0]} is one of --engine ray.")
        if min(each for each in (1, self.partitions, self.num_cpus, self.pair_horizon) if each is not None) < 1:
            raise SystemExit("--partitions, --num_cpus and --pair_horizon must be 1 or more.")


FLAGS = (PrepareArguments, SourceArguments, ChoiceArguments)
SHOWN = tuple(each.name for cls in FLAGS for each in fields(cls) if each.name not in HIDDEN)


def pairs(given: list[str]) -> dict[str, str]:
    """`["user_id=buyer"]` → `{"user_id": "buyer"}`."""
    split = [entry.partition("=") for entry in given]
    if wrong := [entry for entry, (ours, _, theirs) in zip(given, split, strict=True) if not ours or not theirs]:
        raise SystemExit(f"Expected ours=theirs, got {' '.join(wrong)}.")
    return {ours: theirs for ours, _, theirs in split}


def as_time(text: str) -> datetime:
    """An ISO date of a flag."""
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise SystemExit(f"--latest_time is an ISO date such as 2014-07-01, got {text!r}.") from error


def make_reader(source: Any) -> Reader:
    """The reader of a format, with those arguments that it takes; others that were given are an error."""
    if source.format is None:
        raise SystemExit("--format says how to read the source.")
    reader = READERS[source.format]
    _, known, kinds = fields_of(reader)
    given = {name: value for name, value in vars(source).items() if name != "format" and value not in (None, [])}
    needed = {each.name for each in known.values() if each.default is each.default_factory is MISSING}
    if missing := sorted(needed - given.keys()):
        raise SystemExit(f"--format {source.format} needs --{', --'.join(missing)}.")
    if extra := sorted(given.keys() - known.keys()):
        raise SystemExit(f"--format {source.format} does not use --{', --'.join(extra)}.")
    for name, value in given.items():
        if get_origin(kinds[name]) is dict:
            given[name] = pairs(value)
        elif kinds[name] is Path:
            given[name] = Path(value)
    return reader(**given)


def describe(reader: Reader, output: Path) -> None:
    """Prints the files to read and the room there is for what will be written."""
    files = survey(reader)
    for entry in files:
        about = "" if entry["exact"] else "about "
        print(f"{entry['file']}: {entry['bytes'] / 1e6:,.1f} MB, {about}{entry['lines']:,} lines")
    print(json.dumps(reader.settings(), indent=2))
    parent = next(path for path in output.absolute().parents if path.is_dir())
    print(f"{shutil.disk_usage(parent).free / 1e9:,.1f} GB are free for {output}")


def run(arguments: PrepareArguments, source: Any, choices: Any) -> dict | None:
    """
    Prepares the data set and prints an account.

    Args:
        arguments (`PrepareArguments`): what to write, and where.
        source (`SourceArguments`): what to read: the format, and the fields of its reader.
        choices (`ChoiceArguments`): the fields of [`PreparationChoices`].

    Returns:
        `dict`, *optional*: the content of `prepared.json`; `None` after a dry run.
    """
    output = Path(arguments.output_dir)
    if arguments.check:
        document = check_prepared(output)
        print(f"{output}: as it was prepared")
        return document
    kept: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in vars(choices).items()}
    chosen, latest_time = PreparationChoices(**kept), as_time(arguments.latest_time) if arguments.latest_time else None
    reader = make_reader(source)
    if arguments.dry_run:
        describe(reader, output)
        return None
    settings: dict[str, Any] = {
        "latest_time": latest_time,
        "download": arguments.download_images,
        "image_cache": arguments.image_cache,
        "image_workers": arguments.image_workers,
        "co_occurrence": arguments.co_occurrence,
        "overwrite": arguments.overwrite,
        "pair_horizon": arguments.pair_horizon,
    }
    if arguments.engine == "ray":
        if not isinstance(reader, TabularReader):
            raise SystemExit(f"--engine ray reads --format tabular, got {source.format}: write its log as shards.")
        import_ray()  # an error before the work, as those of the shards are
        reader.files()
        os.environ.setdefault("POLARS_MAX_THREADS", "1")  # of the workers, one on a core; here polars has its threads
        with ray_session(arguments.ray_address, arguments.num_cpus):
            document = prepare_by_partitions(
                reader, output, chosen, partitions=arguments.partitions, map_tasks=tasks_on_ray, **settings
            )
    else:
        document = prepare_data_set(reader, output, chosen, **settings)
    for file, layout in document["source"]["settings"].get("layouts", {}).items():
        print(f"{file}: {layout}")
    for kind, count in document["read"].items():
        print(f"read {count:,} {kind}")
        print(*(f"  dropped {line}\n" for line in describe_dropped(document["dropped"].get(kind, {}))), sep="", end="")
    print(", ".join(f"{name}: {value}" for name, value in document["counts"].items()))
    kept = document["counts"].get("items_without_interactions")
    if kept:
        print(
            f"{kept:,} items without interactions stay as candidates, known by their content; benchmarks leave them "
            "out: --items_without_interactions drop"
        )
    if (output / LEFT_OUT).is_file():
        print(f"{output / LEFT_OUT}: the items and users that were left out")
    print(f"{output}: written")
    return document


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, by default the program's."""
    run(*parse_sections(FLAGS, {}, __doc__ or "", argv, SHOWN))
