r"""Semantic IDs for the items of a catalogue, or for those of today: the ones given before stay.

    utgrec tokenize --tokenizer runs/pretrained/tokenizer --data data/office --output_dir runs/office-items
    # every day: new products, of a tokenizer or of a recommender whose index and memory are brought up to date
    utgrec tokenize --tokenizer runs/shop --data products.csv --columns id=sku text=colour,size image=photo
    # what left the shop goes, what changed gets a semantic ID of what it is now; is it recommended?
    utgrec tokenize --tokenizer runs/shop --data products.csv --remove_missing --retokenize --orders orders.csv
    accelerate launch -m trainers tokenize --tokenizer org/tokenizer --data org/products --output_dir runs/items
    # millions of items: parquet shards, workers of Ray on many machines (pip install 'utgrec[scale]')
    utgrec tokenize --tokenizer runs/t --data items/ --output_dir runs/items --engine ray --ray_address auto

--data is a data folder, its items in one file or in parquet shards; or products alone: a csv of any separator and
encoding, JSON lines, parquet, gzipped or not, or a data set of the Hub (NAME or NAME:SPLIT). Columns are guessed and
shown, --columns corrects, and the next day they mean the same. Price and further columns become part of the text.
Images are paths from the file's folder; of addresses only with --download_images, https and public machines.

New items get semantic IDs. A digest of each item's text and image is kept beside the index: what has changed is told,
and keeps its semantic ID unless --retokenize is given. Items that the data lacks stay unless --remove_missing is
given. A recommender's memory keeps what it knows; new items are in it by their texts where the quick start made it, or
else with `utgrec memory --update`. catalogue_journal.jsonl gets a line: what was done, collisions, how far the
semantic IDs have drifted from what the texts would get today, and with --orders Recall@10 of the newest items.

The folder changes in one step, at the end. If it is stopped, the same command goes on where it was.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from tqdm.auto import tqdm

from hub_cards import TokenizerCardValues, load_values, named, save_card
from tokenization_items import Catalogue, TextTemplate, UniversalItemTokenizer
from tokenization_items.batching import BLOCK_ITEMS
from tokenization_items.catalogue_shards import CatalogueShards
from tokenization_items.catalogue_updates import JOURNAL_NAME, journal_line, read_journal, write_journal
from tokenization_items.files import check_writable, write_json
from tokenization_items.folder_lock import locked_folder
from tokenization_items.network_reference import NETWORK_CONFIGS, model_config
from tokenization_items.sharded_index import ShardedItemIndex
from tokenization_items.tokenization_items import TOKENIZER_FILE
from trainers.arguments import parse_sections
from trainers.data.column_guesses import ALIASES, ORDER_ROLES
from trainers.data.item_sources import read_items
from trainers.hub.download import find_model
from trainers.methods.catalogue_health import catalogue_health, tell_health
from trainers.methods.daily_catalogue import (
    content_of,
    known_columns,
    newest_items,
    read_orders,
    recall_of_folder,
    updated_folder,
    updated_memory,
    with_titles,
)
from trainers.methods.large_catalogue import TokenizingTask, Workers, check_tokenizer, tokenize_shards
from trainers.methods.recommendation_rules import read_recommender
from trainers.runtime.ray_engine import import_ray, ray_session
from trainers.runtime.run_file import run_values, write_run_file

UNFINISHED = ".unfinished"  # folder within the output folder, deleted at the end


@dataclass
class TokenizeArguments:
    tokenizer: str = field(
        metadata={"help": "Folder or Hub id of an item tokenizer with its network, or of a recommender."}
    )
    data: str = field(metadata={"help": "Data folder, file of products or data set of the Hub, with the items."})
    output_dir: str | None = field(
        default=None,
        metadata={
            "help": "Where the tokenizer goes, with its item index; default: the folder of --tokenizer is brought up "
            "to date."
        },
    )
    columns: list[str] = field(
        default_factory=list,
        metadata={
            "help": "What columns of a file mean, where the guess is wrong: id=NAME, title=NAME, price=NAME, "
            "text=NAME,NAME, image=NAME; =- for none. With --orders also user=, item=, time=NAME."
        },
    )
    revision: str | None = field(default=None, metadata={"help": "Of --tokenizer on the Hub: branch, tag, commit."})
    text_fields: list[str] = field(
        default_factory=list,
        metadata={"help": "Fields of an item's text, in order; default: those of the tokenizer's training."},
    )
    only_new: bool = field(default=False, metadata={"help": "Leave out items that the index has already."})
    retokenize: bool = field(
        default=False,
        metadata={"help": "Items whose text or image has changed get new semantic IDs and memory."},
    )
    remove_missing: bool = field(default=False, metadata={"help": "Remove items that the data lacks."})
    orders: str | None = field(
        default=None,
        metadata={
            "help": "Orders since the recommender was made, a file or a data folder: Recall of the newest items is "
            "measured, and of older ones."
        },
    )
    download_images: bool = field(default=False, metadata={"help": "Fetch the images of https addresses."})
    image_cache: str | None = field(
        default=None, metadata={"help": "Where fetched images are kept; by default .image_cache beside the output."}
    )
    engine: str = field(default="local", metadata={"help": "'local', or 'ray': many workers, a sharded index."})
    ray_address: str | None = field(default=None, metadata={"help": "Of a Ray cluster; default: this machine."})
    num_actors: int | None = field(default=None, metadata={"help": "Default: as many as GPUs, or CPUs but one."})
    actor_cpus: int = field(default=1, metadata={"help": "CPUs, and threads, of each."})
    block_items: int = field(default=BLOCK_ITEMS, metadata={"help": "Items that are tokenized together."})
    index_only: bool = field(default=False, metadata={"help": "Write the index without the network."})
    batch_tokens: int = field(default=8192, metadata={"help": "Tokens of one batch."})
    num_workers: int = field(default=4, metadata={"help": "Threads of a process that open and resize images."})
    feature_cache: str | None = field(
        default=None, metadata={"help": "Folder for what the vision tower makes of images, for the next time."}
    )
    introduction: str | None = field(
        default=None,
        metadata={"help": "How the texts of items begin (RecBase), as 'Describe a movie:'; default: the tokenizer's."},
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace an item tokenizer that is in output_dir."})
    allow_collapsed_codes: bool = field(
        default=False, metadata={"help": "Take semantic IDs though nearly all items share their codes with another."}
    )
    use_cpu: bool = field(default=False, metadata={"help": "Stay on the CPU."})

    def __post_init__(self) -> None:
        if self.only_new and (self.retokenize or self.remove_missing):
            raise SystemExit(
                "--only_new leaves out the items that the index has: what has changed or is missing cannot be told. "
                "Leave it out for --retokenize and --remove_missing."
            )
        if self.engine not in ("local", "ray"):
            raise SystemExit(f"--engine {self.engine}: there are local and ray.")
        if min(self.block_items, self.actor_cpus, 1 if self.num_actors is None else self.num_actors) < 1:
            raise SystemExit("--block_items, --num_actors and --actor_cpus must be 1 or more.")
        if self.engine == "ray" and (self.only_new or self.retokenize or self.remove_missing or self.orders):
            raise SystemExit(
                "--engine ray makes an index from the beginning: leave out --only_new, --retokenize, --remove_missing "
                "and --orders, which bring one up to date."
            )
        if self.engine == "ray" and self.download_images:
            raise SystemExit("--engine ray fetches no images: let `utgrec prepare` do so, or leave them aside.")


def run(arguments: TokenizeArguments) -> dict[str, Any]:
    """Tokenizes, saves, prints a report and returns it: that of the assignment, and as `update` the whole."""
    if arguments.engine == "ray":
        return run_on_ray(arguments)
    state, source = PartialState(cpu=arguments.use_cpu), Path(arguments.tokenizer)
    output_dir, in_place = place_of(arguments)
    with state.main_process_first():  # the others find what was downloaded
        there = find_model(arguments.tokenizer, arguments.revision)
        tokenizer = UniversalItemTokenizer.from_pretrained(there.name, revision=there.revision)
        catalogue, columns = items_of(arguments, tokenizer, output_dir, state)
    before, stored, orders = tokenizer.index, None, None
    if in_place:
        stored, catalogue = tokenizer.stored_memory, with_titles(catalogue, before)
    if arguments.orders is not None:
        every = dict.fromkeys([*before.item_ids, *catalogue.item_ids])
        orders = read_orders(arguments.orders, columns_of(arguments)[1], [*every])
    # What is saved to another folder has decoders too.
    network = tokenizer.encoding_network if in_place or arguments.index_only else tokenizer.network
    network.to(state.device)
    check_writable(output_dir, replaced=in_place)
    if in_place:
        load_values(output_dir)  # a broken card would be an error after all the work
    elif state.is_main_process:
        write_run_file(output_dir, "tokenize", run_values(arguments))
    update = tokenizer.update_items(
        catalogue,
        arguments.retokenize,
        arguments.remove_missing,
        content_of(tokenizer),
        batch_tokens=arguments.batch_tokens,
        num_workers=arguments.num_workers,
        feature_cache=arguments.feature_cache,
        resume_folder=output_dir / UNFINISHED,
        state=state,
        keep_residuals=not len(before),
        block_items=arguments.block_items,
    )
    report = update.assignment.to_dict() | {"update": update.to_dict()}
    if state.is_main_process:
        network.to("cpu")  # type: ignore[arg-type]
        print(update.assignment)
        print(update)
        update.assignment.check_collapse(network.config.level_sizes, arguments.allow_collapsed_codes)
        if not in_place:
            tokenizer.save_pretrained(output_dir, include_network=not arguments.index_only)
            write_json(output_dir / "assignment_report.json", update.assignment.to_dict())
            if not len(before) and not arguments.index_only:  # all items of the index were given their codes now
                card = load_values(source) if source.is_dir() else None
                if isinstance(card, TokenizerCardValues):
                    save_card(output_dir, replace(card, num_items=len(tokenizer)), old=source)
                health = catalogue_health(network, update.assignment, catalogue, folder=arguments.data)
                tell_health(output_dir, {catalogue.name: health})
            (output_dir / JOURNAL_NAME).unlink(missing_ok=True)
            write_journal(output_dir, [*read_journal(source), journal_line(update, columns=columns)])
        elif not update.is_empty or orders is not None:
            if stored is not None:
                tokenizer.stored_memory = updated_memory(stored, before.item_ids, tokenizer, update, catalogue)
            with updated_folder(source, tokenizer, update.index_sha256[0], stored) as working:
                shutil.rmtree(working / UNFINISHED, ignore_errors=True)
                if orders is not None:
                    newest = newest_items(update, read_journal(source))
                    report["recall"] = recall_of_folder(working, orders.for_items(tokenizer.index.item_ids), newest)
                    print(describe_recall(report["recall"]))
                if not update.is_empty:
                    measured = {"recall": report["recall"]} if "recall" in report else {}
                    write_journal(working, [journal_line(update, columns=columns, **measured)])
        shutil.rmtree(output_dir / UNFINISHED, ignore_errors=True)
    state.wait_for_everyone()
    return report


def run_on_ray(arguments: TokenizeArguments) -> dict[str, Any]:
    """Tokenizes a catalogue on workers of Ray into a sharded index, prints a report and returns it."""
    import_ray()
    output_dir, in_place = place_of(arguments)
    if in_place:
        raise SystemExit("--engine ray makes an index from the beginning: give --output_dir, another folder.")
    there = find_model(arguments.tokenizer, arguments.revision)
    tokenizer = UniversalItemTokenizer.from_pretrained(there.name, revision=there.revision)
    check_tokenizer(tokenizer)
    check_writable(output_dir)
    with locked_folder(output_dir / UNFINISHED):
        shards = shards_of(arguments, tokenizer, output_dir)
        print(f"{shards.name}: {len(shards):,} items in {len(shards.files):,} files")
        if shards.unread:
            print(f"not read: {named(shards.unread)}; --text_fields names the columns that are texts")
        said = [tokenizer.fingerprint, shards.digest(), arguments.batch_tokens, arguments.block_items]
        key = hashlib.sha256(json.dumps([*said, arguments.use_cpu, arguments.actor_cpus]).encode()).hexdigest()[:16]
        source = Path(there.name)
        task = TokenizingTask(
            shards=shards,
            folder=(output_dir / UNFINISHED / key).absolute(),
            tokenizer=str(source.absolute() if source.is_dir() else there.name),
            revision=there.revision,
            level_sizes=tokenizer.index.level_sizes,
            level_offsets=tokenizer.index.level_offsets,
            block_items=arguments.block_items,
            batch_tokens=arguments.batch_tokens,
            num_workers=arguments.num_workers,
            feature_cache=arguments.feature_cache,
            cpus=arguments.actor_cpus,
            use_cpu=arguments.use_cpu,
            reads_images=getattr(tokenizer.loaded_processor, "image_processor", None) is not None,
        )
        task.folder.mkdir(parents=True, exist_ok=True)
        write_run_file(output_dir, "tokenize", run_values(arguments))
        local_cpus = None if arguments.num_actors is None else arguments.num_actors * arguments.actor_cpus + 1
        with ray_session(arguments.ray_address, local_cpus) as ray, closing(StepBars()) as bars:
            workers = Workers.of_cluster(
                ray.cluster_resources(), arguments.num_actors, arguments.actor_cpus, arguments.use_cpu
            )
            report = tokenize_shards(tokenizer, task, workers, arguments.allow_collapsed_codes, bars)
        print(report)
        index = ShardedItemIndex(task.index)
        tokenizer.index = index
        tokenizer.text_fields, tokenizer.template = shards.text_fields, shards.template
        tokenizer.save_pretrained(output_dir, include_network=not arguments.index_only)
        rest = (index.nbytes - index.text_bytes) / len(index)
        print(f"{len(index):,} semantic IDs, {rest:.1f} bytes an item beside the texts of ids and titles")
        write_json(output_dir / "assignment_report.json", report.to_dict())
        (output_dir / JOURNAL_NAME).unlink(missing_ok=True)
        shutil.rmtree(output_dir / UNFINISHED, ignore_errors=True)
    return report.to_dict() | {"index": {"items": len(index), "bytes_per_item": rest}}


def shards_of(arguments: TokenizeArguments, tokenizer: UniversalItemTokenizer, output_dir: Path) -> CatalogueShards:
    """The shards of --data: parquet files as they are, or what this machine reads and writes to some."""
    fields = arguments.text_fields or tokenizer.text_fields
    shards = None
    if not arguments.columns:
        shards = CatalogueShards.find(arguments.data, fields, template_of(arguments, tokenizer))
    if shards is None:
        catalogue, _ = items_of(arguments, tokenizer, output_dir, PartialState(cpu=True))
        shards = CatalogueShards.write(catalogue, output_dir / UNFINISHED / "items", arguments.block_items)
    return replace(shards, files=tuple(file.absolute() for file in shards.files))


class StepBars:
    """A bar for each step of a large catalogue."""

    def __init__(self) -> None:
        self.step, self.done = "", 0
        self.bar: tqdm | None = None

    def __call__(self, step: str, done: int, of: int) -> None:
        if self.bar is None or self.step != step:
            self.close()
            self.step, self.done = step, done
            self.bar = tqdm(total=of, initial=done, desc=step, unit="part", disable=None)
        self.bar.update(done - self.done)
        self.done = done

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def template_of(arguments: TokenizeArguments, tokenizer: UniversalItemTokenizer) -> TextTemplate | None:
    """What puts the texts of items together.

    Raises:
        SystemExit: an introduction for a tokenizer that reads none.
    """
    template = tokenizer.template
    if arguments.introduction is None:
        return template
    if template is None:
        raise SystemExit("--introduction is for RecBase's item tokenizer; this one reads fields without any.")
    return replace(template, introduction=arguments.introduction)


def items_of(
    arguments: TokenizeArguments, tokenizer: UniversalItemTokenizer, output_dir: Path, state: PartialState
) -> tuple[Catalogue, dict[str, Any] | None]:
    """The items to tokenize, with what the columns of their file meant; tells both.

    Raises:
        ReadError, CatalogueError: they cannot be read; lines are named.
        SystemExit: an introduction for a tokenizer that reads none.
    """
    source, template = Path(arguments.tokenizer), template_of(arguments, tokenizer)
    cache = arguments.image_cache or output_dir.absolute().parent / ".image_cache"
    catalogue, how = read_items(
        arguments.data,
        columns_of(arguments)[0],
        known_columns(read_journal(source), read_recommender(source)[1]),
        arguments.text_fields or tokenizer.text_fields,
        template,
        cache if arguments.download_images else None,
    )
    note = how if isinstance(how, str) else how.describe_columns()
    if note:
        state.print(note)
    num_images = 0 if catalogue.images is None else int(catalogue.images.present.sum())
    state.print(f"{catalogue.name}: {len(catalogue):,} items, {num_images:,} with image")
    if not isinstance(how, str):
        how.check_texts(tokenizer)
    if arguments.only_new:
        catalogue = catalogue.select(np.flatnonzero([item_id not in tokenizer for item_id in catalogue.item_ids]))
        state.print(f"{len(catalogue):,} of them are new")
    return catalogue, None if isinstance(how, str) else asdict(how.columns)


def columns_of(arguments: TokenizeArguments) -> tuple[list[str], list[str]]:
    """What is said of the products' columns, and of the orders'."""
    if arguments.orders is None:
        return arguments.columns, []
    is_of_orders = [
        ALIASES.get(role, role) in ORDER_ROLES for role in (each.partition("=")[0] for each in arguments.columns)
    ]
    kept = [
        [each for each, is_one in zip(arguments.columns, is_of_orders, strict=True) if is_one == of]
        for of in (False, True)
    ]
    return kept[0], kept[1]


def place_of(arguments: TokenizeArguments) -> tuple[Path, bool]:
    """Where the items go, and whether that is the tokenizer's own folder.

    Raises:
        SystemExit: there is none, or it holds a finished item tokenizer.
    """
    source = Path(arguments.tokenizer)
    if arguments.output_dir is None and not source.is_dir():
        raise SystemExit(
            f"--tokenizer {arguments.tokenizer} is no folder, which could be brought up to date: for one of the Hub "
            "give --output_dir."
        )
    output_dir = source if arguments.output_dir is None else Path(arguments.output_dir)
    in_place = source.is_dir() and output_dir.resolve() == source.resolve()
    if in_place:
        has_model = model_config(source).get("model_type")
        if arguments.orders is not None and (has_model is None or has_model in NETWORK_CONFIGS):
            raise SystemExit(f"--orders is for a recommender, which --tokenizer {source} does not hold.")
        return output_dir, True
    if arguments.orders is not None:
        raise SystemExit("--orders is for a recommender that is brought up to date: leave out --output_dir.")
    finished = (output_dir / TOKENIZER_FILE).is_file() and not (output_dir / UNFINISHED).is_dir()
    if finished and not arguments.overwrite:
        raise SystemExit(
            f"{output_dir} holds a finished item tokenizer. To keep it, give another --output_dir; --overwrite "
            "replaces it."
        )
    return output_dir, False


def describe_recall(recall: dict[str, Any]) -> str:
    """What is found of new items and of older ones, in a line each."""
    lines = []
    for name, found in recall.items():
        said = f"Recall@10 {found['recall@10']:.4f}, NDCG@10 {found['ndcg@10']:.4f}" if found["num_cases"] else "none"
        lines.append(f"{name.replace('_', ' ')}: {said} ({found['num_cases']:,} orders)")
    return "\n".join([*lines, "(too high for older items, if the recommender has learnt from these orders)"])


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, by default the program's."""
    run(*parse_sections(TokenizeArguments, {}, __doc__, argv))
