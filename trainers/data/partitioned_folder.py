"""Prepared data folders made by partitions, for logs that one machine cannot hold: the same folder, file by file, as
[`~trainers.data.prepared_folder.prepare_data_set`] makes.

What runs is a list of stages, see [`~trainers.data.partitioned_preparation`]; this is the driver, which adds up what
the tasks return. It holds some bytes for each item (16 while the k-core is taken) and nothing for each user or
interaction.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from hub_cards import replacing
from tokenization_items.files import replacing_folder
from trainers.data import partitioned_preparation as tasks
from trainers.data.co_occurrence import unit_of
from trainers.data.interaction_files import RECORD_FILE
from trainers.data.partitioned_preparation import Job
from trainers.data.preparation import EMPTY, SAME_ITEM, SAME_TIME, UNKNOWN, UNRATED, PreparationChoices, check_split
from trainers.data.prepared_folder import (
    GRAPH,
    INTERACTIONS,
    ITEMS,
    LEFT_OUT,
    PAIRS,
    RULES,
    WRITTEN_ROWS,
    check_output,
    choices_for,
    items_of_log,
    place_all_images,
    resliced,
    write_items,
    write_parts,
    write_record,
)
from trainers.data.readers.base import MAX_EXAMPLES, ReadError, ReadingReport, count_lines
from trainers.data.readers.item_writer import ALREADY_THERE, check_items
from trainers.data.readers.log_writer import check_log
from trainers.data.readers.tabular import TabularReader
from trainers.data.splits import MIN_INTERACTIONS, SplitError, check_starts, temporal_places
from trainers.data.stages import SHARED, MapTasks, Stages, in_turn, working_folder

PARTITION_ROWS = 1_500_000  # interactions of a partition, about
_LEFT_OUT = pl.Schema({"kind": pl.String(), "id": pl.String(), "reason": pl.String()})


def prepare_by_partitions(
    reader: TabularReader,
    output_dir: str | os.PathLike,
    choices: PreparationChoices | None = None,
    latest_time: datetime | None = None,
    download: bool = False,
    image_cache: str | os.PathLike | None = None,
    image_workers: int = 16,
    co_occurrence: bool = False,
    overwrite: bool = False,
    pair_horizon: int | None = None,
    partitions: int | None = None,
    map_tasks: MapTasks = in_turn,
) -> dict:
    """
    Prepares a data folder as [`~trainers.data.prepared_folder.prepare_data_set`] does, by hash partitions. What was
    done when a run ends early lies in the hidden folder `.<name>.partitions` beside the output; the same call goes on
    from there, and removes it when the output is complete.

    Args:
        reader ([`TabularReader`]): the source: files, or folders of shards, which all workers see.
        output_dir (`str` or `os.PathLike`): the folder to make, where all workers see it.
        choices, latest_time, download, image_cache, image_workers, co_occurrence, overwrite, pair_horizon: as there.
        partitions (`int`, *optional*): of items and of users each; by default of about 1.5 million interactions. A
            worker needs memory for one, by estimate 400 bytes for each of its interactions.
        map_tasks (`Callable`, *optional*, defaults to [`in_turn`]): how tasks are done, see
            [`~trainers.runtime.ray_tasks.tasks_on_ray`].

    Returns:
        The content of `prepared.json`.

    Raises:
        ReadError: if the source cannot be read or nothing of it is left; shards that do not fit together.
        LockedFolderError: another run works on the same output.
        UnfinishedWorkError: one that ended early was of other choices.
        FileExistsError: if the folder is there.
    """
    output = Path(output_dir).absolute()
    choices = choices_for(reader, choices)
    check_output(reader, output)
    check_split(choices, reader.timestamp_unit != "order")
    if pair_horizon:
        unit_of(pair_horizon)
    if partitions is not None and partitions < 1:
        raise ValueError(f"partitions is 1 or more, got {partitions}.")
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise FileExistsError(f"{output} is not empty: give another folder, or allow it to be overwritten.")
    work = output.with_name(f".{output.name}.partitions")
    plan = {
        "source": [str(path.absolute()) for path in reader.files()],
        "reader": reader.settings() | {"format": reader.format, "separator": reader.separator},
        "choices": json.loads(json.dumps(asdict(choices))),
        "latest_time": None if latest_time is None else latest_time.isoformat(),
        "partitions": partitions,
        "co_occurrence": co_occurrence,
        "pair_horizon": pair_horizon or 0,
        "versions": {name: metadata.version(name) for name in ("utgrec", "polars", "pyarrow")},
    }
    defaults = {
        "latest_time": datetime.now(UTC).replace(tzinfo=None).isoformat(),
        "partitions": max(1, round(about_rows(reader.log_shards()) / PARTITION_ROWS)),
    }
    with working_folder(work, plan, defaults) as plan:
        job = Job(
            work,
            reader,
            choices,
            datetime.fromisoformat(plan["latest_time"]),
            plan["partitions"],
            co_occurrence,
            pair_horizon,
        )
        with replacing_folder(output, overwrite, mark=RECORD_FILE) as folder:
            made = _Preparation(job, Stages(work, map_tasks)).write(
                folder, output, download, image_cache, image_workers
            )
        shutil.rmtree(work)
    return made


def about_rows(shards: Sequence[Path]) -> int:
    """Rows of a table, from the first shard's, as many in a byte."""
    first, size = count_lines(shards[0])["lines"], shards[0].stat().st_size
    return round(first * sum(path.stat().st_size for path in shards) / size)


class _Preparation:
    """One run: what its stages have returned so far."""

    def __init__(self, job: Job, stages: Stages):
        self.job, self.stages, self.report = job, stages, ReadingReport()
        self.counts: dict[str, Any] = {}
        self.num_numbers = 0
        self.first = self.usable = np.zeros(0, bool)  # of items, by number

    def write(
        self, folder: Path, output: Path, download: bool, image_cache: str | os.PathLike | None, image_workers: int
    ) -> dict:
        """Does all stages and fills the folder."""
        job, with_items = self.job, self.job.reader.items is not None
        log = self._read("log", tasks.read_log, job.reader.log_shards())
        items = self._read_items() if with_items else []
        for result in (*log, *items):
            self.report.merge(result["report"])
        newest = max(result["newest"] for result in log)
        check_log(sum(result["rows"] for result in log), newest, job.reader.timestamp_unit, self.report)
        if with_items:
            self._name_items(items)
        else:
            self._find_items()
        self._place_items()
        ordered = self._order_users()
        counts = self._k_core(ordered)
        kept = self._keep_items(counts)
        self._split(ordered, counts[kept])
        self._write_items(folder, output, kept, download, image_cache, image_workers)
        split = self._run("split", tasks.split_log, job.partitions)
        self._join(folder, split)
        self._count_items(counts, kept)
        self._write_left_out(folder, split)
        if job.co_occurrence:
            self._write_graph(folder)
        if job.pair_horizon:
            self._write_pairs(folder)
        return write_record(
            folder,
            output.name,
            {
                "format": job.reader.format,
                "files": [result["file"] for result in (*log, *items)],
                "settings": job.reader.settings(),
            },
            asdict(job.choices)
            | {
                "latest_time": job.latest_time.isoformat(),
                "timestamp_unit": "microseconds since 1970-01-01, UTC"
                if job.reader.timestamp_unit != "order"
                else "place in the order",
                "rules": RULES,
                "download_images": download,
                "co_occurrence": job.co_occurrence,
            }
            | ({"pair_horizon": job.pair_horizon} if job.pair_horizon else {}),
            self.counts,
            self.report,
        )

    def _run(self, stage: str, function: Any, count: int) -> list[dict]:
        return self.stages.run(stage, partial(function, self.job), count)

    def _read(self, stage: str, function: Any, shards: Sequence[Path]) -> list[dict]:
        inputs = [[str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns] for path in shards]
        return self.stages.run(stage, partial(function, self.job), len(shards), inputs)

    def _share(self, name: str, array: np.ndarray) -> None:
        """Writes an array that tasks read, memory-mapped."""
        with replacing(self.job.work / SHARED / f"{name}.npy") as (path,), open(path, "wb") as file:
            np.save(file, array)

    # --- items

    def _read_items(self) -> list[dict]:
        results = self._read("items", tasks.read_items, self.job.reader.item_shards())
        offsets = np.cumsum([0, *(result["rows"] for result in results)])
        self.job = replace(self.job, offsets=tuple(offsets[:-1].tolist()))
        self.num_numbers = int(offsets[-1])
        return results

    def _name_items(self, items: list[dict]) -> None:
        check_items(self.num_numbers, self.report)
        named = self._run("first-items", tasks.name_items, self.job.partitions)
        examples = sorted(each for result in named for each in result["examples"])
        extra = sum(result["extra"] for result in named)
        self.report.drop("items", ALREADY_THERE, extra, [text for _, text in examples[:MAX_EXAMPLES]])
        first = np.zeros(self.num_numbers, bool)
        for file in self.stages.files("first-items", "items.arrow"):
            first[pl.read_ipc(file, columns=["item"])["item"].to_numpy()] = True
        self._share("first", first)
        usable = np.concatenate([np.load(file) for file in self.stages.files("items", "has_text.npy")])
        if any(result["images"] for result in items):
            for result in self._run("images", tasks.check_images, len(items)):
                self.report.merge(result["report"])
            usable |= np.concatenate([np.load(file) for file in self.stages.files("images", "fine.npy")])
        self.first, self.usable = first, usable & first
        self._share("usable", self.usable)

    def _find_items(self) -> None:
        """Of a log without items: numbers by first appearance."""
        self._run("appearances", tasks.find_items, self.job.partitions)
        firsts = np.sort(np.concatenate([np.load(file) for file in self.stages.files("appearances", "first.npy")]))
        self._share("appearances", firsts)
        self.num_numbers = len(firsts)
        self.first = self.usable = np.ones(0, bool)

    def _keep_items(self, counts: np.ndarray) -> np.ndarray:
        """Which items are left: bool by number. Their rows are shared."""
        kept = counts > 0
        if self.job.choices.keeps_items and self.job.reader.items is not None:
            kept = kept | self.usable
        self._share("kept", kept)
        self._share("rows", (np.cumsum(kept) - 1).clip(0).astype(np.uint32))
        return kept

    # --- the log

    def _place_items(self) -> None:
        job, placed = self.job, self._run("placed", tasks.place_items, self.job.partitions)
        dropped = _summed(result["dropped"] for result in placed)
        for reason, key in ((UNRATED, None), (job.choices.rated_below, None), (UNKNOWN, "unknown"), (EMPTY, "empty")):
            named = sorted(each for result in placed for each in result[key]) if key else []
            texts = [text for _, text in named[:MAX_EXAMPLES]]
            self.report.drop("interactions", reason, dropped.get(reason, 0), texts)
        self.job = replace(job, has_rating=any(result["has_rating"] for result in placed))
        self.stages.release("log", "placed")

    def _order_users(self) -> list[dict]:
        results = self._run("users", tasks.order_users, self.job.partitions)
        dropped = _summed(result["dropped"] for result in results)
        for reason in (SAME_TIME, SAME_ITEM):
            self.report.drop("interactions", reason, dropped.get(reason, 0))
        self.counts |= _summed(result["counts"] for result in results)
        self.stages.release("placed", "users")
        return results

    def _k_core(self, ordered: list[dict]) -> np.ndarray:
        """Takes the k-core, round by round; returns the interactions of each item that are left, int64 by number."""
        counts = np.zeros(self.num_numbers, np.int64)
        for file in self.stages.files("users", "items.arrow"):
            found = pl.read_ipc(file, columns=["item", "count"])
            counts[found["item"].to_numpy()] += found["count"].to_numpy()
        left, k, rounds = sum(result["rows"] for result in ordered), self.job.choices.k_core, 0
        total = left
        while k and left:
            self._share(f"frequent-{rounds}", counts >= k)
            stage = f"core-{rounds + 1}"
            results = self._run(stage, tasks.core_round, self.job.partitions)
            for file in self.stages.files(stage, "removed.arrow"):
                found = pl.read_ipc(file)
                counts[found["item"].to_numpy()] -= found["count"].to_numpy()
            rounds += 1
            self.job = replace(self.job, rounds=rounds)
            removed = sum(result["removed"] for result in results)
            left -= removed
            if not removed:
                break
        if k:
            self.report.drop("interactions", self.job.choices.not_in_core, total - left)
            self.counts["k_core_rounds"] = rounds
        if not left:
            raise ReadError(f"No interaction is left.\n{self.report}")
        return counts

    def _split(self, ordered: list[dict], counts: np.ndarray) -> None:
        """Chooses the ranges in which users and items are written, and the points in time of a temporal split."""
        job = self.job
        if job.choices.split == "temporal":
            self._run("times", tasks.order_times, job.partitions)
            files = self.stages.files("times", "times.npy")
            job = replace(job, starts=_starts([np.load(file, mmap_mode="r") for file in files], job.choices))
        # each cut stands for as many interactions as a partition has between two
        cuts = np.array([cut for result in ordered for cut in result["cuts"]], np.int64)
        weights = np.array([result["rows"] for result in ordered for _ in result["cuts"]], float)
        order = np.argsort(cuts)
        shares = np.cumsum(weights[order]) / weights.sum()
        at = np.searchsorted(shares, np.arange(1, job.partitions) / job.partitions)
        user_bounds = np.unique(cuts[order][at])
        held = np.cumsum(counts)
        item_bounds = np.unique(np.searchsorted(held, held[-1] * np.arange(1, job.partitions) / job.partitions))
        self.job = replace(
            job,
            user_bounds=tuple(user_bounds.tolist()),
            item_bounds=tuple(item_bounds[item_bounds > 0].tolist()),
            num_items=len(counts),
        )

    # --- what is written

    def _write_items(
        self,
        folder: Path,
        output: Path,
        kept: np.ndarray,
        download: bool,
        image_cache: str | os.PathLike | None,
        image_workers: int,
    ) -> None:
        job, images, fields = self.job, {}, self.job.choices.text_fields
        if job.reader.items is None:
            found = [pl.read_ipc(file) for file in self.stages.files("appearances", "items.arrow")]
            ids = pl.concat(found).sort("first")["item_id"].filter(pl.Series(kept))
            items = items_of_log(ids, fields)
        else:
            self._run("kept", tasks.keep_items, len(job.offsets))
            items = pl.scan_ipc(self.stages.files("kept", "kept.arrow"))
            pictured = pl.col("image").is_not_null() | pl.col("image_url").is_not_null()
            with_images = items.select("item_id", "image", "image_url").filter(pictured).collect(engine="streaming")
            images = place_all_images(with_images, folder, output, download, image_cache, image_workers, self.report)
            items = items.drop("image")
        write_items(items, images, fields, folder / ITEMS)
        self.counts = {"items": job.num_items, "items_with_image": len(images)} | self.counts

    def _join(self, folder: Path, split: list[dict]) -> None:
        ranges = len(self.job.user_bounds) + 1
        joined = self._run("joined", tasks.join_users, ranges)
        assert len(joined) == ranges
        logs = (pl.read_ipc(file).drop("first") for file in self.stages.files("joined", "log.arrow"))
        write_parts(resliced(logs, WRITTEN_ROWS), folder / INTERACTIONS)
        found = {name: sum(result[name] for result in split) for name in ("users", "interactions")}
        lengths = np.sum([result["lengths"] for result in split], axis=0)
        found["users_too_short_to_split"] = int(lengths[1:MIN_INTERACTIONS].sum())
        first = {name: self.counts.pop(name) for name in ("items", "items_with_image")}
        self.counts = first | found | self.counts
        if parts := _summed(result.get("split", {}) for result in split):
            self.counts["split"] = dict(sorted(parts.items()))

    def _count_items(self, counts: np.ndarray, kept: np.ndarray) -> None:
        if self.job.reader.items is None:
            return
        unusable = int((self.first & ~self.usable).sum())
        self.report.drop("items", "neither text nor image", unusable)
        self.report.drop("items", "not enough interactions", int(self.first.sum()) - unusable - int(kept.sum()))
        self.counts["items_without_interactions"] = int((kept & (counts == 0)).sum())

    def _write_left_out(self, folder: Path, split: list[dict]) -> None:
        self.counts["users_left_out"] = sum(result["users_left_out"] for result in split)
        users = pl.scan_ipc(self.stages.files("joined", "left_out.arrow")).select(
            pl.lit("user").alias("kind"), pl.col("user_id").alias("id"), reason=pl.lit("not enough interactions")
        )
        parts = [users]
        if files := self.stages.files("kept", "left_out.arrow"):
            parts.insert(0, pl.scan_ipc(files))
        left = pl.concat(parts)
        if left.select(pl.len()).collect().item():
            write_parts(resliced(left.collect_batches(), WRITTEN_ROWS), folder / LEFT_OUT)

    def _write_graph(self, folder: Path) -> None:
        pairs = self._sum_pairs("neighbours")
        self.counts["co_occurring_pairs"] = pairs // 2
        _write_tensors(
            folder / GRAPH,
            {
                "indices": ("I64", pairs, self._arrays("neighbours", "columns.npy", np.int64)),
                "indptr": ("I64", self.job.num_items + 1, self._offsets("neighbours")),
                "counts": ("I32", pairs, self._arrays("neighbours", "counts.npy", np.int32)),
            },
        )

    def _write_pairs(self, folder: Path) -> None:
        pairs, n = self._sum_pairs("pairs"), self.job.num_items
        counts = np.zeros(n, np.int64)
        for file in self.stages.files("split", "training.arrow"):
            found = pl.read_ipc(file)
            counts[found["item"].to_numpy()] += found["count"].to_numpy()
        _write_tensors(
            folder / PAIRS,
            {
                "item_counts": ("I64", n, iter([counts])),
                "pair_counts": ("I64", pairs, self._arrays("pairs", "counts.npy", np.int64)),
                "pair_offsets": ("I64", n + 1, self._offsets("pairs")),
                "pair_items": ("I32", pairs, self._arrays("pairs", "columns.npy", np.int32)),
            },
        )

    def _sum_pairs(self, name: str) -> int:
        function = partial(tasks.sum_pairs, self.job, name)
        return sum(result["pairs"] for result in self.stages.run(name, function, len(self.job.item_bounds) + 1))

    def _arrays(self, stage: str, name: str, kind: type) -> Iterator[np.ndarray]:
        return (np.load(file, mmap_mode="r").astype(kind, copy=False) for file in self.stages.files(stage, name))

    def _offsets(self, stage: str) -> Iterator[np.ndarray]:
        """Where each row of a matrix starts, and where the last one ends, int64."""
        end = np.zeros(1, np.int64)
        yield end
        for lengths in self._arrays(stage, "lengths.npy", np.int64):
            offsets = end + np.cumsum(lengths)
            yield offsets
            end = offsets[-1:] if len(offsets) else end


def _summed(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for each in counts:
        for name, count in each.items():
            total[name] = total.get(name, 0) + count
    return total


def _starts(times: Sequence[np.ndarray], choices: PreparationChoices) -> tuple[int, int]:
    """
    Where validation and test of a temporal split start: two order statistics of times that lie in order in several
    arrays, found by halving the range of their values.
    """
    times = [each for each in times if len(each)]
    first, last = int(min(each[0] for each in times)), int(max(each[-1] for each in times))

    def at(place: int) -> int:
        low, high = first, last  # the least value that more than `place` times do not exceed
        while low < high:
            middle = (low + high) // 2
            if sum(int(np.searchsorted(each, middle, side="right")) for each in times) > place:
                high = middle
            else:
                low = middle + 1
        return low

    places = temporal_places(sum(map(len, times)), choices.ratios)
    starts = at(places[0]), at(places[1])
    try:
        check_starts(first, *starts)
    except SplitError as error:
        raise ReadError(str(error)) from error
    return starts


def _write_tensors(path: Path, tensors: dict[str, tuple[str, int, Iterator[np.ndarray]]]) -> None:
    """
    Writes vectors to a safetensors file a part at a time, as `safetensors.numpy.save` would at once.

    Args:
        path (`Path`): the file.
        tensors (`dict`): name to type (`"I64"` or `"I32"`), length and parts, wider types first, of one type by name.
    """
    header, start = {}, 0
    for name, (kind, length, _) in tensors.items():
        end = start + length * int(kind[1:]) // 8
        header[name] = {"dtype": kind, "shape": [length], "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, parts in tensors.values():
            for part in parts:
                file.write(np.ascontiguousarray(part).data)
