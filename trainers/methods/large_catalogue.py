"""Semantic IDs of a catalogue that many workers tokenize: from parquet to a sharded index, the same as on one machine.

Four steps, each of which leaves files and goes on from those that are there:

1. *survey*: ids and texts of all shards are checked, and that no id occurs twice, before a network is loaded;
2. *encode*: a block of items ([`CatalogueShards.blocks`]) becomes a file of codes and residuals. Blocks are those in
   which one machine makes its batches, so their numbers are the same to the bit;
3. *resolve*: collisions, for ranges of first codes, each on its own (why that is exact: [`assign_least_distance`]),
   into shards of the index. Where a first code has more items than semantic IDs, they are spread before, in one place;
4. *look up*: tables from ids to rows, for ranges of the ids' hashes.

With the same processors, threads and batches the outcome does not depend on the number of workers, on how the items
are cut into shards, or on what was killed in between.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from hub_cards import replacing
from modeling_utgrec import UTGRecTokenizerConfig, UTGRecTokenizerModel
from tokenization_items import AssignmentReport, UniversalItemTokenizer
from tokenization_items.catalogue_codes import states_of_items
from tokenization_items.catalogue_shards import CatalogueShards
from tokenization_items.code_shards import CodedItems, ranges_of, read_range, read_said, write_block
from tokenization_items.collision_report import group_sizes, report_assignment
from tokenization_items.collisions import (
    assign_least_distance,
    check_capacity,
    crowded_first_codes,
    spread_first_codes,
)
from tokenization_items.domain_mean import rows_of_mean
from tokenization_items.files import read_json_object, write_json, write_tensors
from tokenization_items.processing_items import ItemProcessor
from tokenization_items.sharded_index import id_hashes, write_codes, write_lookup, write_manifest
from trainers.data.attempts import Attempts
from trainers.runtime.ray_engine import spread

RANGE_ITEMS = 2**20  # of a range of first codes, and of a table from ids to rows
SPREAD_NAME = "spread.parquet"  # items that a crowded first code gave away, with their new codes
GIVEN_NAME = "spread.json"  # and their ids with the codes that the network gave them
VECTORS_NAME = "level_vectors.safetensors"


@dataclass(frozen=True)
class Workers:
    """
    Who does the work.

    Args:
        num_workers (`int`): actors.
        cpus (`int`): processors of each, the threads of its network.
        gpus (`float`): of each that holds a network.
    """

    num_workers: int
    cpus: int = 1
    gpus: float = 0.0

    @classmethod
    def of_cluster(cls, resources: dict[str, float], num_workers: int | None, cpus: int, use_cpu: bool) -> Workers:
        """As many as there are GPUs, or else processors but one, for what feeds them; or the number that is given."""
        gpus = 0 if use_cpu else int(resources.get("GPU", 0))
        usual = gpus or max(1, (int(resources.get("CPU", 1)) - 1) // cpus)
        return cls(num_workers or usual, cpus, 1.0 if gpus else 0.0)


@dataclass(frozen=True)
class TokenizingTask:
    """
    What workers have to know.

    Args:
        shards ([`CatalogueShards`]): the items.
        folder (`Path`): for the files of the work; all workers see it.
        tokenizer (`str`): folder or Hub id of the item tokenizer with its network.
        revision (`str`, *optional*): of it.
        level_sizes, level_offsets (`list[int]`): of its codes.
        block_items, batch_tokens, num_workers, feature_cache: see
            [`~tokenization_items.catalogue_codes.codes_of_catalogue`].
        cpus (`int`): threads of a worker's network.
        use_cpu (`bool`): whether it stays on the CPU.
        reads_images (`bool`): whether the network does, so that they are checked before.
        range_items (`int`): items of a range of first codes and of a table from ids to rows, about.
    """

    shards: CatalogueShards
    folder: Path
    tokenizer: str
    revision: str | None
    level_sizes: list[int]
    level_offsets: list[int]
    block_items: int
    batch_tokens: int
    num_workers: int = 0
    feature_cache: str | None = None
    cpus: int = 1
    use_cpu: bool = True
    reads_images: bool = False
    range_items: int = RANGE_ITEMS

    @property
    def num_blocks(self) -> int:
        return math.ceil(len(self.shards) / self.block_items)

    def hashes(self, block: int) -> Path:
        """Hashes of the ids of a block."""
        return self.folder / "survey" / f"ids-{block:05}.npy"

    def codes(self, block: int) -> Path:
        """Codes of a block."""
        return self.folder / "codes" / f"block-{block:05}.parquet"

    def name_of_block(self, block: int) -> str:
        """What a block is, by its shards."""
        first = block * self.block_items
        last = min(first + self.block_items, len(self.shards)) - 1
        ends = np.cumsum(self.shards.num_items)
        start, stop = (int(np.searchsorted(ends, item, side="right")) for item in (first, last))
        files = ", ".join(str(file) for file in self.shards.files[start : stop + 1])
        return f"Block {block} (items {first:,} to {last:,}, of {files})"

    @property
    def mean(self) -> Path:
        """What a network with `centre_domains` takes off all items."""
        return self.folder / "mean.npy"

    @property
    def every_codes(self) -> list[Path]:
        return [self.codes(block) for block in range(self.num_blocks)]

    @property
    def index(self) -> Path:
        """The index while it is made."""
        return self.folder / "index"

    def said(self, kind: str, number: int) -> Path:
        """What is said of a shard of the index, written after it."""
        return self.folder / "said" / f"{kind}-{number:05}.json"


def tokenize_shards(
    tokenizer: UniversalItemTokenizer,
    task: TokenizingTask,
    workers: Workers,
    allow_collapsed: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> AssignmentReport:
    """
    Tokenizes a catalogue in a session of Ray ([`~trainers.runtime.ray_engine.ray_session`]).

    Args:
        tokenizer ([`UniversalItemTokenizer`]): with an empty index, which is replaced by the new one.
        task ([`TokenizingTask`]): the work; its folder has the finished index at the end, in `index`.
        workers ([`Workers`]): who does it.
        allow_collapsed (`bool`, *optional*, defaults to `False`): takes codes that tell little apart.
        progress (`Callable`, *optional*): is told the name of the step, what is done of it, and all there is to do.

    Returns:
        [`AssignmentReport`], without the codes that were given.

    Raises:
        CatalogueError: an item cannot be tokenized; its shard is named.
        CapacityError: there are more items than semantic IDs.
        ValueError: the tokenizer has items, or takes off the mean of all items' embeddings.
        CollapsedCodesError: the codes tell nearly nothing apart.
        WorkerError: a worker failed, and again after it was replaced.
    """
    check_tokenizer(tokenizer)
    check_capacity(len(task.shards), 0, task.level_sizes)
    show = progress or (lambda step, done, of: None)
    survey(task, workers, show)
    set_mean(tokenizer, task)
    totals, usage = encode(task, workers, show)
    report = resolve(tokenizer, task, workers, totals, usage, show)
    report.check_collapse(task.level_sizes, allow_collapsed)
    look_up(task, workers, show)
    return report


def check_tokenizer(tokenizer: UniversalItemTokenizer) -> None:
    """Raises a `ValueError` unless a tokenizer can tokenize a catalogue in parts: its index is empty, and nothing is
    taken of all items together."""
    if len(tokenizer):
        raise ValueError(
            f"The item tokenizer has {len(tokenizer):,} items already, and --engine ray makes an index from the "
            "beginning: give the folder that training wrote, or tokenize new items without --engine."
        )
    config = tokenizer.encoding_network.config
    if getattr(config, "centre_domains", False) and not isinstance(config, UTGRecTokenizerConfig):
        raise ValueError(
            "The item tokenizer takes the mean of all items' embeddings off each (centre_domains), which --engine ray "
            "does not: tokenize without --engine."
        )


def survey(task: TokenizingTask, workers: Workers, show: Callable[[str, int, int], None]) -> None:
    """Checks all items, and that no id occurs twice."""
    todo = [block for block in range(task.num_blocks) if not task.hashes(block).is_file()]
    task.hashes(0).parent.mkdir(parents=True, exist_ok=True)
    _run("check", task, todo, task.num_blocks, SurveyWorker, workers, show)
    hashes = [np.load(task.hashes(block)) for block in range(task.num_blocks)]
    task.shards.check_distinct(hashes, task.block_items)


def set_mean(tokenizer: UniversalItemTokenizer, task: TokenizingTask) -> None:
    """What a network with `centre_domains` takes off all items, of the items that one machine would read for it."""
    network, processor = tokenizer.encoding_network, tokenizer.processor
    if not (isinstance(network, UTGRecTokenizerModel) and isinstance(processor, ItemProcessor)):
        return
    if not network.config.centre_domains:
        return
    if not task.mean.is_file():
        sample = task.shards.select(rows_of_mean(len(task.shards)))
        rest = (task.batch_tokens, task.num_workers, task.feature_cache)
        mean = tokenizer.mean_of(lambda: states_of_items(network.eval(), processor, sample, *rest), task.shards.name)
        assert mean is not None
        save_array(task.mean, mean)
    tokenizer.domain_mean = np.load(task.mean)


def encode(
    task: TokenizingTask, workers: Workers, show: Callable[[str, int, int], None]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Codes of all blocks. Returns how many items have each first code, and each code of each level."""
    found = {block: read_said(task.codes(block)) for block in range(task.num_blocks)}
    todo = [block for block, said in found.items() if said is None]
    for answer in _run("encode", task, todo, task.num_blocks, EncodingWorker, workers, show):
        found[answer["block"]] = answer
    counts = [np.zeros(size, np.int64) for size in task.level_sizes]
    for of_block in found.values():
        assert of_block is not None
        for level, of_level in enumerate(of_block["counts"]):
            counts[level] += np.asarray(of_level)
    return counts[0].copy(), counts


def resolve(
    tokenizer: UniversalItemTokenizer,
    task: TokenizingTask,
    workers: Workers,
    totals: np.ndarray,
    usage: Sequence[np.ndarray],
    show: Callable[[str, int, int], None],
) -> AssignmentReport:
    """Semantic IDs of all items, in shards of the index."""
    vectors = {f"level_{level}": each for level, each in enumerate(tokenizer.level_vectors())}
    write_tensors(task.folder / VECTORS_NAME, vectors)
    has_parts = len(task.level_sizes) > 1
    crowded = crowded_first_codes(totals, task.level_sizes) if has_parts else np.zeros(0, np.int64)
    if len(crowded):
        totals = spread_items(task, totals, crowded, [*vectors.values()])
    task.index.mkdir(exist_ok=True)
    (task.folder / "said").mkdir(exist_ok=True)
    ranges = ranges_of(totals, task.range_items if has_parts else len(task.shards))
    todo = [number for number in range(len(ranges)) if not task.said("codes", number).is_file()]
    rest = {"ranges": ranges, "spread": bool(len(crowded))}
    _run("resolve", task, todo, len(ranges), ResolvingWorker, workers, show, **rest)
    return merged_report(
        [read_json_object(task.said("codes", number))["report"] for number in range(len(ranges))], usage
    )


def look_up(task: TokenizingTask, workers: Workers, show: Callable[[str, int, int], None]) -> None:
    """Tables from ids to rows, and what makes an index of the shards."""
    files = sorted((task.folder / "said").glob("codes-*.json"))
    shards = [read_json_object(file)["shard"] for file in files]
    num_items = [shard["num_items"] for shard in shards]
    if sum(num_items) != len(task.shards):
        raise ValueError(f"{task.folder}: {sum(num_items):,} semantic IDs of {len(task.shards):,} items; delete it.")
    num_tables = math.ceil(len(task.shards) / task.range_items)
    todo = [number for number in range(num_tables) if not task.said("lookup", number).is_file()]
    rest = {"num_items": num_items, "num_tables": num_tables}
    _run("look up", task, todo, num_tables, LookUpWorker, workers, show, **rest)
    tables = [read_json_object(task.said("lookup", number)) for number in range(num_tables)]
    write_manifest(task.index, task.level_sizes, task.level_offsets, shards, tables)


def _run(
    step: str,
    task: TokenizingTask,
    todo: Sequence[int],
    total: int,
    worker: type,
    workers: Workers,
    show: Callable[[str, int, int], None],
    **arguments: Any,
) -> list[dict[str, Any]]:
    """Does what is left of a step."""
    done = total - len(todo)
    show(step, done, total)
    found = []
    holds_network, arguments = worker is EncodingWorker, {"task": task, **arguments}
    gpus = workers.gpus if holds_network else 0.0
    tasks = [{"number": number} for number in todo]
    by_blocks = worker in (SurveyWorker, EncodingWorker)
    names = [task.name_of_block(number) if by_blocks else f"Part {number} of the step '{step}'" for number in todo]
    attempts = Attempts(task.folder / "begun", names)
    rest = workers.num_workers, workers.cpus, gpus, holds_network, attempts
    for said in spread(tasks, worker, arguments, *rest):
        found.append(said)
        done += 1
        show(step, done, total)
    attempts.forget()
    return found


class SurveyWorker:
    """Checks a block, and keeps the hashes of its ids."""

    def __init__(self, task: TokenizingTask):
        self.task, self.blocks = task, task.shards.blocks(task.block_items)

    def __call__(self, said: dict[str, Any]) -> dict[str, Any]:
        block = said["number"]
        hashes = id_hashes(self.task.shards.check(self.blocks[block], self.task.reads_images))
        save_array(self.task.hashes(block), hashes)
        return {"block": block, "items": len(hashes)}


class EncodingWorker:
    """Holds the network, and gives the items of a block their codes."""

    def __init__(self, task: TokenizingTask):
        torch.set_num_threads(task.cpus)
        self.task, self.blocks = task, task.shards.blocks(task.block_items)
        self.tokenizer = UniversalItemTokenizer.from_pretrained(task.tokenizer, revision=task.revision)
        device = "cpu" if task.use_cpu or not torch.cuda.is_available() else "cuda"
        self.tokenizer.encoding_network.to(device)  # type: ignore[arg-type]

    def __call__(self, said: dict[str, Any]) -> dict[str, Any]:
        task, block = self.task, said["number"]
        catalogue = task.shards.read(self.blocks[block])
        codes, residuals = self.tokenizer.compute_codes(
            catalogue,
            batch_tokens=task.batch_tokens,
            progress=False,
            num_workers=task.num_workers,
            feature_cache=task.feature_cache,
            block_items=task.block_items,
            domain_mean=np.load(task.mean) if task.mean.is_file() else None,
        )
        items = CodedItems(catalogue.item_ids, catalogue.titles, codes, residuals)
        return {"block": block, **write_block(task.codes(block), items, task.level_sizes)}


def spread_items(
    task: TokenizingTask, totals: np.ndarray, crowded: np.ndarray, vectors: Sequence[np.ndarray]
) -> np.ndarray:
    """Spreads the items of crowded first codes, writes those that move, and returns how many have each first code
    then. In memory are the items of these codes."""
    levels = range(len(task.level_sizes))
    parts = [read_range(task.every_codes, (code, code + 1), len(levels), levels) for code in crowded.tolist()]
    items = in_order(parts)
    codes = spread_first_codes(items.codes, task.level_sizes, totals, items.residuals, vectors)
    moved = np.flatnonzero(codes[:, 0] != items.codes[:, 0])
    given = items.take(moved)
    write_block(task.folder / SPREAD_NAME, replace(given, codes=codes[moved]), task.level_sizes)
    write_json(task.folder / GIVEN_NAME, dict(zip(given.item_ids, given.codes.tolist(), strict=True)), indent=None)
    before, after = (np.bincount(each[:, 0], minlength=len(totals)) for each in (given.codes, codes[moved]))
    return totals - before + after


def in_order(parts: Sequence[CodedItems]) -> CodedItems:
    """Items of several parts in the order of their ids."""
    item_ids = [item_id for part in parts for item_id in part.item_ids]
    together = CodedItems(
        item_ids,
        [title for part in parts for title in part.titles],
        np.concatenate([part.codes for part in parts]),
        np.concatenate([part.residuals for part in parts]),
    )
    return together.take(np.array(sorted(range(len(item_ids)), key=item_ids.__getitem__), dtype=np.int64))


class ResolvingWorker:
    """Resolves the collisions among the items of a range of first codes, into a shard of the index."""

    def __init__(self, task: TokenizingTask, ranges: Sequence[tuple[int, int]], spread: bool):
        torch.set_num_threads(task.cpus)
        self.task, self.ranges, self.paths = task, ranges, task.every_codes
        found = load_file(task.folder / VECTORS_NAME)
        self.vectors = [found[f"level_{level}"] for level in range(len(task.level_sizes))]
        self.given_codes = read_json_object(task.folder / GIVEN_NAME) if spread else {}

    def __call__(self, said: dict[str, Any]) -> dict[str, Any]:
        task, number = self.task, said["number"]
        there = self._read(self.ranges[number])
        items, given = self._after_spreading(there, self.ranges[number])
        final = assign_least_distance(items.codes, task.level_sizes, items.residuals, self.vectors)
        report = report_assignment(given, final, final[:0], task.level_sizes, items.residuals, self.vectors)
        groups = group_sizes(there.codes)
        shard = self._write(number, items, final)
        told = {
            "items": len(final),
            "sharing": int((groups > 1).sum()),
            "largest": int(groups.max(initial=0)),
            "moved": report.moved_by_level,
            "extra": report.mean_extra_distance * report.items_moved,
            "max_extra": report.max_extra_distance,
        }
        write_json(task.said("codes", number), {"shard": shard, "report": told})
        return {}

    def _read(self, first_codes: tuple[int, int]) -> CodedItems:
        """The items of a range by the codes that the network gave them; with the residuals that are needed."""
        num_levels = len(self.task.level_sizes)
        if not self.given_codes:  # most catalogues collide at the last level alone
            items = read_range(self.paths, first_codes, num_levels, [num_levels - 1])
            if not self._is_crowded(items.codes):
                return items
        return read_range(self.paths, first_codes, num_levels, range(num_levels))

    def _is_crowded(self, codes: np.ndarray) -> bool:
        """Whether at a level between the first and the last a code has more items than semantic IDs below it."""
        sizes = self.task.level_sizes
        return any(
            group_sizes(codes[:, : level + 1]).max(initial=0) > math.prod(sizes[level + 1 :])
            for level in range(1, len(sizes) - 1)
        )

    def _after_spreading(self, there: CodedItems, first_codes: tuple[int, int]) -> tuple[CodedItems, np.ndarray]:
        """The items of a range by the codes of which no first one is crowded, and the codes that they were given."""
        if not self.given_codes:
            return there, there.codes
        stay = np.flatnonzero([item_id not in self.given_codes for item_id in there.item_ids])
        levels = range(len(self.task.level_sizes))
        come = read_range([self.task.folder / SPREAD_NAME], first_codes, len(levels), levels)
        items = in_order([there.take(stay), come])
        given = [
            self.given_codes.get(item_id, codes)
            for item_id, codes in zip(items.item_ids, items.codes.tolist(), strict=True)
        ]
        return items, np.array(given, np.int64).reshape(items.codes.shape)

    def _write(self, number: int, items: CodedItems, final: np.ndarray) -> dict[str, Any]:
        """A shard of the index, and the hashes of its ids in order with their rows in it."""
        task, order = self.task, np.lexsort(final.T[::-1])
        chosen = [(items.item_ids[row], items.titles[row]) for row in order.tolist()]
        item_ids, titles = ([pair[part] for pair in chosen] for part in (0, 1))
        hashes = id_hashes(item_ids)
        by_hash = np.argsort(hashes, kind="stable")
        save_array(task.said("hashes", number).with_suffix(".npy"), hashes[by_hash])
        save_array(task.said("rows", number).with_suffix(".npy"), by_hash.astype(np.uint32))
        path = task.index / f"codes-{number:05}.safetensors"
        return write_codes(path, final[order], item_ids, titles, task.level_sizes)


class LookUpWorker:
    """Makes the table of a range of hashes."""

    def __init__(self, task: TokenizingTask, num_items: Sequence[int], num_tables: int):
        self.task, self.num_tables = task, num_tables
        self.starts = np.cumsum([0, *num_items])[:-1].tolist()

    def __call__(self, said: dict[str, Any]) -> dict[str, Any]:
        task, number = self.task, said["number"]
        low, high = (2**64 * each // self.num_tables for each in (number, number + 1))
        hashes, rows = [], []
        for shard, start in enumerate(self.starts):
            every = np.load(task.said("hashes", shard).with_suffix(".npy"), mmap_mode="r")
            begin = int(np.searchsorted(every, np.uint64(low)))
            end = len(every) if high == 2**64 else int(np.searchsorted(every, np.uint64(high)))
            hashes.append(np.array(every[begin:end]))
            within = np.load(task.said("rows", shard).with_suffix(".npy"), mmap_mode="r")[begin:end]
            rows.append(within.astype(np.uint64) + np.uint64(start))
        path = task.index / f"lookup-{number:05}.safetensors"
        table = write_lookup(path, np.concatenate(hashes), np.concatenate(rows))
        write_json(task.said("lookup", number), table | {"first": low})
        return {}


def save_array(path: Path, values: np.ndarray) -> None:
    """Writes an array, whole or not at all."""
    with replacing(path) as (temporary,), open(temporary, "wb") as file:
        np.save(file, values)


def merged_report(parts: Sequence[dict[str, Any]], usage: Sequence[np.ndarray]) -> AssignmentReport:
    """
    The report on all items.

    Args:
        parts (`Sequence[dict]`): what workers have said of their ranges.
        usage (`Sequence[np.ndarray]`): items of each code of each level, before collisions are resolved.
    """
    num_items, sharing = (sum(part[name] for part in parts) for name in ("items", "sharing"))
    moved = np.sum([part["moved"] for part in parts], axis=0)
    items_moved = int(moved.sum())
    shares = [counts[counts > 0] / counts.sum() for counts in usage]
    return AssignmentReport(
        num_items=num_items,
        items_sharing_codes=sharing,
        collision_rate=sharing / num_items,
        largest_group=max(part["largest"] for part in parts),
        used=[float((counts > 0).mean()) for counts in usage],
        perplexity=[float(np.exp(-(share * np.log(share)).sum())) for share in shares],
        items_moved=items_moved,
        moved_by_level=moved.tolist(),
        mean_extra_distance=sum(part["extra"] for part in parts) / items_moved if items_moved else 0.0,
        max_extra_distance=max(part["max_extra"] for part in parts),
        given_codes=np.zeros((0, len(usage)), np.int64),
    )
