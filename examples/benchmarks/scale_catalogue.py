"""Tokenizing a catalogue in parts by Ray, beside one machine: items a second, bytes an item, and whether all is equal.

    python examples/benchmarks/scale_catalogue.py                                    # 200,000 items; 1, 2 and 4 actors
    python examples/benchmarks/scale_catalogue.py --items 10000000 --actors 16 --no-one_machine

Items have titles of a generated vocabulary; the item tokenizer is RQ-k-means of TF-IDF, fitted on some. The index
is looked up by ids and by semantic IDs after the file was opened anew, and its trie is built shard by shard. Times are
of the whole command but for Ray's start; seconds of the cores are the driver's and its workers', so of a Ray that is
started here. The last line is one JSON object.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from workers import WorkerMemory

from tokenization_items import ShardedItemIndex, UniversalItemTokenizer
from tokenization_items.catalogue_shards import CatalogueShards
from tokenization_items.processing_content import EmbeddingProcessor
from tokenization_items.text_statistics import FittedTextStatistics
from trainers.methods.large_catalogue import TokenizingTask, Workers, tokenize_shards
from trainers.methods.residual_kmeans import linear_network, principal_axes, projected, rq_kmeans
from trainers.runtime.ray_engine import ray_session

WORDS, WORDS_OF_TITLE = 5000, 8


def titles_of(num_items: int, rng: np.random.Generator) -> list[str]:
    """Titles of words that are used as unevenly as those of a language."""
    shares = 1 / np.arange(1, WORDS + 1)
    words = rng.choice(WORDS, size=(num_items, WORDS_OF_TITLE), p=shares / shares.sum())
    return [" ".join(f"word{word}" for word in row) for row in words.tolist()]


def make_tokenizer(folder: Path, options: argparse.Namespace) -> None:
    """An item tokenizer without items."""
    vectors, statistics = FittedTextStatistics.fit(titles_of(options.fitted_on, np.random.default_rng(0)), width=64)
    mean, projection = principal_axes(vectors, options.dim)
    points = projected(vectors, mean, projection)
    _, _, codebooks = rq_kmeans(points, options.levels, options.codes, seed=0)
    network = linear_network(mean, projection, codebooks)
    tokenizer = UniversalItemTokenizer.from_network(network, EmbeddingProcessor(network.config, statistics))
    tokenizer.save_pretrained(folder)


def make_items(folder: Path, options: argparse.Namespace) -> CatalogueShards:
    """Shards of items, their ids in no order."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    ids = rng.permutation(options.items)
    for number, rows in enumerate(np.array_split(ids, options.shards)):
        table = pa.table({"item_id": [f"B{row:09}" for row in rows.tolist()], "title": titles_of(len(rows), rng)})
        pq.write_table(table, folder / f"part-{number:05}-of-{options.shards:05}.parquet")
    shards = CatalogueShards.find(folder)
    assert shards is not None
    return shards


def on_one_machine(tokenizer_folder: Path, shards: CatalogueShards, block_items: int) -> tuple[Any, dict[str, float]]:
    """The index; seconds, and those of the cores."""
    started, cores = time.perf_counter(), time.process_time()
    tokenizer = UniversalItemTokenizer.from_pretrained(tokenizer_folder)
    tokenizer.add_items(shards.read(shards.blocks(len(shards))[0]), block_items=block_items)
    seconds = time.perf_counter() - started
    return tokenizer.index, {"seconds": seconds, "core_seconds": time.process_time() - cores}


def in_parts(folder: Path, shards: CatalogueShards, num_actors: int, options: argparse.Namespace) -> dict[str, Any]:
    """Where the index is, seconds of each step and of all, and of the report."""
    tokenizer = UniversalItemTokenizer.from_pretrained(folder / "tokenizer")
    task = TokenizingTask(
        shards=shards,
        folder=folder / f"work-{num_actors}",
        tokenizer=str(folder / "tokenizer"),
        revision=None,
        level_sizes=tokenizer.index.level_sizes,
        level_offsets=tokenizer.index.level_offsets,
        block_items=options.block_items,
        batch_tokens=8192,
        range_items=options.range_items,
    )
    task.folder.mkdir()
    ends: dict[str, float] = {}
    with ray_session(options.ray_address, num_actors + 1):
        took = WorkerMemory()
        took.start()
        started, cores = time.perf_counter(), time.process_time()
        report = tokenize_shards(
            tokenizer,
            task,
            Workers(num_actors),
            progress=lambda step, done, of: ends.update({step: time.perf_counter() - started}),
        )
        seconds, cores = time.perf_counter() - started, time.process_time() - cores
        took.ended.set()
    said = {"seconds": seconds, "core_seconds": cores + took.cpu_seconds, "largest_worker_gb": took.largest}
    return {"index": task.index, "said": said | {"ends": ends}, "shared": report.collision_rate}


def asked(folder: Path, ids: list[str]) -> dict[str, float]:
    """Microseconds of a look-up each way, and seconds and bytes of the trie."""
    started = time.perf_counter()
    index = ShardedItemIndex(folder)
    opened = time.perf_counter()
    rows = index.find(ids)
    found = time.perf_counter()
    back = [index.row_of_codes(codes) for codes in index.codes[rows].tolist()]
    both = time.perf_counter()
    trie = index.trie()
    built = time.perf_counter()
    assert back == rows.tolist() and rows.min() >= 0
    return {
        "open_ms": 1e3 * (opened - started),
        "by_id_us": 1e6 * (found - opened) / len(ids),
        "by_codes_us": 1e6 * (both - found) / len(ids),
        "trie_s": built - both,
        "trie_bytes_per_item": trie.nbytes / len(index),
        "bytes_per_item": (index.nbytes - index.text_bytes) / len(index),
    }


def main(options: argparse.Namespace) -> dict[str, Any]:
    result: dict[str, Any] = {"items": options.items, "level_sizes": [options.codes] * options.levels, "actors": {}}
    with tempfile.TemporaryDirectory(prefix="utgrec-", dir=options.folder) as name:
        folder = Path(name)
        make_tokenizer(folder / "tokenizer", options)
        shards = make_items(folder / "items", options)
        one, every_id = None, None
        if options.one_machine:
            one, said = on_one_machine(folder / "tokenizer", shards, options.block_items)
            every_id, result["one_machine"] = one.item_ids, said
            print(f"one machine: {said['seconds']:.1f} s, {said['core_seconds']:.1f} s of the cores", flush=True)
        for num_actors in options.actors:
            made = in_parts(folder, shards, num_actors, options)
            index, said = ShardedItemIndex(made["index"]), made["said"]
            if one is not None:
                said["equal"] = bool(np.array_equal(index.codes[index.find(every_id)], one.codes))
            result["actors"][str(num_actors)], result["shared"] = said, made["shared"]
            equal = {True: ", equal", False: ", NOT EQUAL", None: ""}[said.get("equal")]
            seconds, cores = said["seconds"], said["core_seconds"]
            print(f"{num_actors} actors: {seconds:.1f} s, {cores:.1f} s of the cores{equal}", flush=True)
            some = np.random.default_rng(2).integers(0, options.items, min(options.items, 2000)).tolist()
            result["asked"] = asked(made["index"], [f"B{row:09}" for row in some])
    result["most_memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(result))
    return result


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--shards", type=int, default=7, help="parquet files")
    parser.add_argument("--actors", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--levels", type=int, default=3)
    parser.add_argument("--codes", type=int, default=256, help="of each level")
    parser.add_argument("--dim", type=int, default=32, help="width of the codebooks")
    parser.add_argument("--fitted_on", type=int, default=20_000, help="titles that the tokenizer is made of")
    parser.add_argument("--block_items", type=int, default=16_384)
    parser.add_argument("--range_items", type=int, default=50_000)
    parser.add_argument("--one_machine", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--ray_address")
    parser.add_argument("--folder", help="for temporary files; all machines must see it")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse())
