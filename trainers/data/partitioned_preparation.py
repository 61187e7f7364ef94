"""Preparation of a log by partitions: what a worker does to one shard or one partition, with polars.

The steps are those of [`~trainers.data.preparation.prepare_log`]; ids are not turned into rows of the whole catalogue
at once, but meet in partitions: rows are exchanged first by the hash of the item, where an item gets its number and is
checked, then by the hash of the user, where an order is made. Each function is a task of [`~trainers.data.stages`]: it
takes a [`Job`], a number and a folder, and returns values of JSON.

| stage          | a task for each    | writes                                                                 |
|----------------|--------------------|------------------------------------------------------------------------|
| `items`        | shard of items     | the cleaned items; their ids, by the item's partition                  |
| `first-items`  | item partition     | the ids with their numbers, of several with one id the first           |
| `images`       | shard of items     | which images can be decoded, if there are any                          |
| `log`          | shard of the log   | interactions, by the item's partition                                  |
| `appearances`  | item partition     | where an item appears first, if there is no table of items             |
| `placed`       | item partition     | interactions whose item is known, by the user's partition              |
| `users`        | user partition     | users, and their interactions in order, without those that are again   |
| `core-N`       | user partition     | which interactions a round of the k-core leaves                        |
| `times`        | user partition     | times in order, for a temporal split                                   |
| `split`        | user partition     | interactions and users left out, by the range of the users' appearance |
|                |                    | and pairs of items, by the range of the items' rows                    |
| `kept`         | shard of items     | the items that are left, and those that are not                        |
| `joined`       | range of users     | interactions in their final order                                      |
| `neighbours`, `pairs` | range of items | sums of the pairs' counts                                           |

A worker holds one partition, the driver a few bytes for each item.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from trainers.data.co_occurrence import neighbour_pairs, pairs_at_gap, unit_of
from trainers.data.exchange import ExchangeWriter, partitions_of, read_partition
from trainers.data.preparation import (
    EMPTY,
    UNKNOWN,
    PreparationChoices,
    PreparedLog,
    has_text,
    ordered,
    rated,
    split_column,
    unknown_items,
)
from trainers.data.readers.base import MAX_EXAMPLES, ReadingReport, described
from trainers.data.readers.item_writer import ItemWriter, there_already
from trainers.data.readers.log_writer import LogWriter
from trainers.data.readers.tabular import TabularReader
from trainers.data.splits import MIN_INTERACTIONS
from trainers.data.stages import SHARED

SHARD_BITS = 36  # of a place: the shard's number above, the row in the shard below
CUTS = 64  # of a partition's interactions, from which ranges of users are chosen
SUMMED_ROWS = 8_000_000  # counts of pairs that are held before they are summed

_NAMED = pl.Schema({"item_id": pl.String(), "place": pl.Int64(), "at": pl.String(), "has_text": pl.Boolean()})
_READ = pl.Schema(
    {
        "user_id": pl.String(),
        "item_id": pl.String(),
        "timestamp": pl.Int64(),
        "rating": pl.Float32(),
        "place": pl.Int64(),
    }
)
_PLACED = pl.Schema({"user_id": pl.String(), "item": pl.UInt32(), **{name: _READ[name] for name in list(_READ)[1:]}})
_LEFT_OUT = pl.Schema({"first": pl.Int64(), "user_id": pl.String()})
_PAIRS = pl.Schema({"pair": pl.Int64(), "count": pl.Int64()})


@dataclass(frozen=True)
class Job:
    """
    What the tasks share.

    Args:
        work (`Path`): folder of the stages, which all workers see.
        reader ([`TabularReader`]): the source.
        choices ([`PreparationChoices`]): see there.
        latest_time (`datetime`): later interactions are dropped.
        partitions (`int`): number of partitions of items, and of users.
        co_occurrence (`bool`, *optional*, defaults to `False`): whether neighbours are counted.
        pair_horizon (`int`, *optional*): largest gap of the pairs that are counted.
        offsets (`tuple[int, ...]`, *optional*): number of the first item of each shard of items.
        has_rating (`bool`, *optional*): whether an interaction has any.
        rounds (`int`, *optional*, defaults to 0): of the k-core that are done.
        starts (`tuple[int, int]`, *optional*): of validation and test of a temporal split.
        user_bounds (`tuple[int, ...]`, *optional*): places at which ranges of users start, but the first.
        item_bounds (`tuple[int, ...]`, *optional*): rows at which ranges of items start, but the first.
        num_items (`int`, *optional*): items that are left.
    """

    work: Path
    reader: TabularReader
    choices: PreparationChoices
    latest_time: datetime
    partitions: int
    co_occurrence: bool = False
    pair_horizon: int | None = None
    offsets: tuple[int, ...] = ()
    has_rating: bool = False
    rounds: int = 0
    starts: tuple[int, int] | None = None
    user_bounds: tuple[int, ...] = ()
    item_bounds: tuple[int, ...] = ()
    num_items: int = 0

    def of(self, stage: str, number: int, name: str) -> Path:
        """A file of a task."""
        return self.work / stage / f"{number:05d}" / name

    def all_of(self, stage: str, name: str) -> list[Path]:
        """The files of one name of a stage's tasks, in their order."""
        return sorted((self.work / stage).glob(f"[0-9]*/{name}"))

    def shared(self, name: str) -> np.ndarray:
        """An array that the driver wrote, memory-mapped."""
        return np.load(self.work / SHARED / f"{name}.npy", mmap_mode="r")


# --- items


def read_items(job: Job, number: int, folder: Path) -> dict:
    """Reads and cleans a shard of items; sends their ids to their partitions."""
    report, path = ReadingReport(), job.reader.item_shards()[number]
    writer = ItemWriter(folder / "scratch", report)
    writer.add(job.reader.item_records(path, folder / "scratch", report))
    writer.flush()
    rows, images = 0, 0
    texts = [np.zeros(0, bool)]
    with ExchangeWriter(folder / "ids.arrow", _NAMED, job.partitions) as ids:
        for file in writer.files:
            part = pl.read_ipc(file)
            part = part.with_columns(has_text=has_text(job.choices.text_fields))
            images += part["image"].count()
            texts.append(part["has_text"].to_numpy())
            named = part.select("item_id", place=place_of(number, rows, len(part)), at="place", has_text="has_text")
            ids.add(named, partitions_of(part["item_id"], job.partitions))
            rows += len(part)
    np.save(folder / "has_text.npy", np.concatenate(texts))
    if writer.files:
        pl.scan_ipc(writer.files).sink_ipc(folder / "items.arrow", compression="lz4")
    shutil.rmtree(folder / "scratch")
    return {"rows": rows, "images": images, "file": described(path), "report": report.to_dict()}


def place_of(shard: int, start: int, rows: int) -> pl.Series:
    """Places of rows in the source, int64: ascending along a shard, and from one to the next."""
    first = (shard << SHARD_BITS) + start
    return pl.int_range(first, first + rows, eager=True, dtype=pl.Int64)


def numbers_of(places: np.ndarray, offsets: Sequence[int]) -> np.ndarray:
    """Numbers of items, from 0 over all shards, of their places; uint32."""
    rows = places & ((1 << SHARD_BITS) - 1)
    return (np.asarray(offsets, np.int64)[places >> SHARD_BITS] + rows).astype(np.uint32)


def name_items(job: Job, number: int, folder: Path) -> dict:
    """Numbers the items of a partition; of several with one id the first is the item."""
    parts = list(read_partition(job.all_of("items", "ids.arrow"), number, job.partitions))
    named = pl.concat(parts).sort("place")
    several = there_already(named.lazy().select("item_id", place="at")).collect().sort("place")
    first = named.unique("item_id", keep="first", maintain_order=True)
    numbers = pl.Series("item", numbers_of(first["place"].to_numpy(), job.offsets))
    first.select("item_id").with_columns(numbers).write_ipc(folder / "items.arrow", compression="lz4")
    examples = [[place, f"{place}: item_id {name!r}"] for name, _, place in several.head(MAX_EXAMPLES).iter_rows()]
    return {"extra": len(named) - len(first), "examples": examples}


def check_images(job: Job, number: int, folder: Path) -> dict:
    """Opens the images of a shard's items, but of those whose id was there already."""
    from trainers.data.prepared_images import decodable_images  # with it comes torch, which other tasks do not need

    report, items = ReadingReport(), job.of("items", number, "items.arrow")
    fine = np.zeros(0, bool)
    if items.is_file():
        frame = pl.read_ipc(items, columns=["item_id", "image"])
        first = job.shared("first")[job.offsets[number] : job.offsets[number] + len(frame)]
        images = frame.with_columns(image=pl.when(pl.Series(np.array(first))).then(pl.col("image")))
        fine = decodable_images(images, report)["image"].is_not_null().to_numpy()
    np.save(folder / "fine.npy", fine)
    return {"report": report.to_dict()}


def keep_items(job: Job, number: int, folder: Path) -> dict:
    """Items of a shard that are left, and why the others are not."""
    items = job.of("items", number, "items.arrow")
    if not items.is_file():
        return {}
    frame = pl.read_ipc(items)
    here = slice(job.offsets[number], job.offsets[number] + len(frame))
    kept, first, usable = (pl.Series(np.array(job.shared(name)[here])) for name in ("kept", "first", "usable"))
    fine = job.of("images", number, "fine.npy")
    frame = frame.with_columns(
        image=pl.when(pl.Series(np.load(fine))).then(pl.col("image")) if fine.is_file() else pl.lit(None, pl.String)
    )
    fields = ("item_id", *job.choices.text_fields, "image", "image_url")
    frame.filter(kept).select(fields).write_ipc(folder / "kept.arrow", compression="lz4")
    why = pl.when(usable).then(pl.lit("not enough interactions")).otherwise(pl.lit("neither text nor image"))
    left = frame.with_columns(reason=why).filter(first & ~kept)
    left = left.select(pl.lit("item").alias("kind"), pl.col("item_id").alias("id"), "reason")
    left.write_ipc(folder / "left_out.arrow", compression="lz4")
    return {}


# --- the log


def read_log(job: Job, number: int, folder: Path) -> dict:
    """Reads a shard of the log; sends its interactions to their items' partitions."""
    report, path = ReadingReport(), job.reader.log_shards()[number]
    log = LogWriter(folder / "scratch", report, job.reader.timestamp_unit, job.latest_time)
    with ExchangeWriter(folder / "log.arrow", _READ, job.partitions) as out:
        for part in job.reader.log_parts(path, folder / "scratch", report):
            good = log.checked(part, path.name)
            good = good.with_columns(pl.col("rating").cast(pl.Float32), place=place_of(number, out.rows, len(good)))
            out.add(good, partitions_of(good["item_id"], job.partitions))
    shutil.rmtree(folder / "scratch")
    return {"rows": out.rows, "newest": log.newest, "file": described(path), "report": report.to_dict()}


def find_items(job: Job, number: int, folder: Path) -> dict:
    """Of a log without items: the partition's items, and the place where each appears first."""
    first = pl.DataFrame(schema={"item_id": pl.String, "first": pl.Int64})
    for part in read_partition(job.all_of("log", "log.arrow"), number, job.partitions):
        appearing = part.select("item_id", first="place")
        first = pl.concat([first, appearing]).unique("item_id", keep="first", maintain_order=True)
    first.write_ipc(folder / "items.arrow", compression="lz4")
    np.save(folder / "first.npy", first["first"].to_numpy())
    return {}


def place_items(job: Job, number: int, folder: Path) -> dict:
    """Gives the interactions of a partition the numbers of their items; sends them to their users' partitions. Of
    those that are dropped only the user is sent on."""
    report = ReadingReport()
    usable: pl.Series | None = None
    if job.reader.items is None:
        items = pl.read_ipc(job.of("appearances", number, "items.arrow"))
        numbers = pl.Series(np.searchsorted(job.shared("appearances"), items["first"].to_numpy()).astype(np.uint32))
    else:
        items = pl.read_ipc(job.of("first-items", number, "items.arrow"))
        numbers = items["item"]
        usable = pl.Series(job.shared("usable")[numbers.to_numpy()])
    names = pl.Enum(items["item_id"])
    unknown: list[list] = []
    empty: dict[str, int] = {}
    has_rating = False
    with ExchangeWriter(folder / "log.arrow", _PLACED, job.partitions) as out:
        for part in read_partition(job.all_of("log", "log.arrow"), number, job.partitions):
            code = pl.col("item_id").cast(names, strict=False).to_physical().cast(pl.UInt32)
            part = part.with_columns(item=code).with_row_index("row")
            good = rated(part, job.choices, report)
            has_rating |= good["rating"].null_count() < len(good)
            if usable is not None:
                rows = part.filter(pl.col("item").is_null()).head(MAX_EXAMPLES - len(unknown))
                unknown += [[place, text] for place, text in zip(rows["place"], unknown_items(rows), strict=True)]
                report.drop("interactions", UNKNOWN, good["item"].null_count())
                good = good.filter(pl.col("item").is_not_null())
                bad = ~usable.gather(good["item"])
                report.drop("interactions", EMPTY, bad.sum())
                for place, item in (
                    good.filter(bad).unique("item_id", maintain_order=True)["place", "item_id"].iter_rows()
                ):
                    empty.setdefault(item, place)
                good = good.filter(~bad)
            rest = np.ones(len(part), bool)
            rest[good["row"].to_numpy()] = False
            users = part.filter(rest).unique("user_id", keep="first", maintain_order=True)
            users = users.with_columns(pl.lit(None).cast(_PLACED[each]).alias(each) for each in ("item", "item_id"))
            kept = good.with_columns(item=numbers.gather(good["item"]))
            rows = pl.concat([each.select(_PLACED.names()) for each in (kept, users)])
            out.add(rows, partitions_of(rows["user_id"], job.partitions))
    dropped = {reason: entry["count"] for reason, entry in report.to_dict()["dropped"].get("interactions", {}).items()}
    named = sorted([place, f"item {item!r}"] for item, place in empty.items())[:MAX_EXAMPLES]
    return {"dropped": dropped, "unknown": unknown, "empty": named, "has_rating": has_rating}


def order_users(job: Job, number: int, folder: Path) -> dict:
    """The interactions of a partition's users in order: users by first appearance, each one's by time."""
    frame = pl.concat(list(read_partition(job.all_of("placed", "log.arrow"), number, job.partitions))).sort("place")
    user_ids = frame["user_id"].unique(maintain_order=True)
    users = frame["user_id"].cast(pl.Enum(user_ids)).to_physical().cast(pl.UInt32)
    _, at = np.unique(users.to_numpy(), return_index=True)
    firsts = frame["place"].gather(at).alias("first")
    pl.DataFrame([user_ids, firsts]).write_ipc(folder / "users.arrow", compression="lz4")
    log = frame.with_columns(user=users).filter(pl.col("item").is_not_null()).drop("user_id", "place")
    del frame, users
    counted = log.group_by("item").agg(pl.col("item_id").first()).sort("item")
    chosen = np.searchsorted(counted["item"].to_numpy(), log["item"].to_numpy()).astype(np.uint32)
    log = log.select("user", "timestamp", "rating", item=pl.Series(chosen))
    report = ReadingReport()
    log, counts = ordered(log, job.choices, report, len(counted))
    log.write_ipc(folder / "log.arrow", compression="lz4")
    occurrences = np.bincount(log["item"].to_numpy(), minlength=len(counted))
    counted.with_columns(count=pl.Series(occurrences)).write_ipc(folder / "items.arrow", compression="lz4")
    dropped = {reason: entry["count"] for reason, entry in report.to_dict()["dropped"].get("interactions", {}).items()}
    spread = log["user"].gather(np.linspace(0, len(log) - 1, CUTS if len(log) else 0).astype(np.int64))
    return {
        "rows": len(log),
        "users": len(user_ids),
        "counts": counts,
        "dropped": dropped,
        "cuts": firsts.gather(spread).to_list(),
    }


def alive(job: Job, number: int) -> np.ndarray | slice:
    """Positions of a partition's interactions that the rounds of the k-core so far have left."""
    return np.load(job.of(f"core-{job.rounds}", number, "alive.npy")) if job.rounds else slice(None)


def core_round(job: Job, number: int, folder: Path) -> dict:
    """A round of the k-core: users and items that have not enough lose their interactions, of which the items' counts
    are written."""
    log = pl.read_ipc(job.of("users", number, "log.arrow"), columns=["user", "item"])
    numbers = pl.read_ipc(job.of("users", number, "items.arrow"), columns=["item"])["item"]
    positions = np.arange(len(log), dtype=np.uint32)[alive(job, number)]
    users, items = (log[name].to_numpy()[positions] for name in ("user", "item"))
    frequent = job.shared(f"frequent-{job.rounds}")[numbers.to_numpy()]
    left = (np.bincount(users) >= job.choices.k_core)[users] & frequent[items] if len(users) else np.zeros(0, bool)
    np.save(folder / "alive.npy", positions[left])
    removed = np.bincount(items[~left], minlength=len(numbers))
    counts = pl.DataFrame({"item": numbers, "count": removed}).filter(pl.col("count") > 0)
    counts.write_ipc(folder / "removed.arrow", compression="lz4")
    return {"removed": int((~left).sum())}


def order_times(job: Job, number: int, folder: Path) -> dict:
    """The times of a partition in order."""
    log = pl.read_ipc(job.of("users", number, "log.arrow"), columns=["timestamp"])
    np.save(folder / "times.npy", np.sort(log["timestamp"].to_numpy()[alive(job, number)]))
    return {}


def split_log(job: Job, number: int, folder: Path) -> dict:
    """A partition's interactions with their ids and parts, and its users that have none, by ranges of users; what is
    counted of its training part, by ranges of items."""
    log = pl.read_ipc(job.of("users", number, "log.arrow"))[alive(job, number)]
    users = pl.read_ipc(job.of("users", number, "users.arrow"))
    items = pl.read_ipc(job.of("users", number, "items.arrow"))
    counts: dict[str, Any] = {}
    if job.choices.split != "leave-one-out":
        log = log.with_columns(split_column(log, job.choices, job.starts))
        counts["split"] = dict(log["split"].value_counts().iter_rows())
    lengths = np.bincount(log["user"].to_numpy(), minlength=len(users))
    counts |= {"users": int((lengths > 0).sum()), "interactions": len(log), "lengths": short_lengths(lengths)}
    ranges = np.searchsorted(np.array(job.user_bounds, np.int64), users["first"].to_numpy(), side="right")
    left = users.filter(lengths == 0)
    counts["users_left_out"] = len(left)
    with ExchangeWriter(folder / "left_out.arrow", _LEFT_OUT, len(job.user_bounds) + 1) as out:
        out.add(left, ranges[lengths == 0])
    named = log.select(
        users["user_id"].gather(log["user"]).alias("user_id"),
        items["item_id"].gather(log["item"]).alias("item_id"),
        "timestamp",
        *(["rating"] if job.has_rating else []),
        *(["split"] if "split" in log.columns else []),
        users["first"].gather(log["user"]).alias("first"),
    )
    with ExchangeWriter(folder / "log.arrow", named.schema, len(job.user_bounds) + 1) as out:
        out.add(named, ranges[log["user"].to_numpy()])
    if job.co_occurrence or job.pair_horizon:
        rows = pl.Series("item", job.shared("rows")[items["item"].to_numpy()])
        placed = log.with_columns(rows.gather(log["item"]))
        owners, seen = PreparedLog(placed, users["user_id"], items["item_id"]).training_part()
        count_pairs(job, owners, seen, folder)
    return counts


def short_lengths(lengths: np.ndarray) -> list[int]:
    """Users with 0, 1, 2, ... interactions, up to those too few for a split."""
    return np.bincount(lengths[lengths < MIN_INTERACTIONS], minlength=MIN_INTERACTIONS).tolist()


def count_pairs(job: Job, users: np.ndarray, items: np.ndarray, folder: Path) -> None:
    """Counts pairs of items (rows) of the training part, both ways, and sends them to the ranges of their first."""
    ranges, n = len(job.item_bounds) + 1, job.num_items

    def send(out: ExchangeWriter, pairs: np.ndarray, counts: np.ndarray) -> None:
        firsts = np.searchsorted(np.array(job.item_bounds, np.int64), pairs // n, side="right")
        out.add(pl.DataFrame({"pair": pairs, "count": counts}, schema=_PAIRS), firsts)

    if job.co_occurrence:
        with ExchangeWriter(folder / "neighbours.arrow", _PAIRS, ranges) as out:
            pairs, counts = neighbour_pairs(users, items, n)
            send(out, np.concatenate([pairs, pairs % n * n + pairs // n]), np.tile(counts, 2))
    if job.pair_horizon:
        with ExchangeWriter(folder / "pairs.arrow", _PAIRS, ranges) as out:
            for gap in range(1, job.pair_horizon + 1):
                _, earlier, later = pairs_at_gap(users, items, gap)
                both = np.concatenate([earlier * n + later, later * n + earlier])
                pairs, counts = np.unique(both, return_counts=True)
                send(out, pairs, counts * (unit_of(job.pair_horizon) // gap))
        training = np.bincount(items, minlength=0)
        used = np.flatnonzero(training)
        pl.DataFrame({"item": used, "count": training[used]}).write_ipc(folder / "training.arrow", compression="lz4")


# --- what is written


def join_users(job: Job, number: int, folder: Path) -> dict:
    """A range of users, in the order of their first appearance, with their interactions; and of those left out."""
    for name in ("log", "left_out"):
        files = job.all_of("split", f"{name}.arrow")
        parts = list(read_partition(files, number, len(job.user_bounds) + 1))
        pl.concat(parts).sort("first", maintain_order=True).write_ipc(folder / f"{name}.arrow", compression="lz4")
    return {}


def sum_pairs(job: Job, name: str, number: int, folder: Path) -> dict:
    """Sums the counts of the pairs of a range of items: columns, counts and ends of its rows, in order."""
    held = pl.DataFrame(schema=_PAIRS)
    waiting: list[pl.DataFrame] = []

    def summed() -> pl.DataFrame:
        return pl.concat([held, *waiting]).group_by("pair").agg(pl.col("count").sum())

    for part in read_partition(job.all_of("split", f"{name}.arrow"), number, len(job.item_bounds) + 1):
        waiting.append(part)
        if sum(map(len, waiting)) >= SUMMED_ROWS:
            held, waiting = summed(), []
    held = summed().sort("pair")
    pairs, bounds = held["pair"].to_numpy(), (0, *job.item_bounds, job.num_items)
    lengths = np.bincount(pairs // job.num_items - bounds[number], minlength=bounds[number + 1] - bounds[number])
    np.save(folder / "lengths.npy", lengths.astype(np.int64))
    np.save(folder / "columns.npy", (pairs % job.num_items).astype(np.int32))
    np.save(folder / "counts.npy", held["count"].to_numpy())
    return {"pairs": len(pairs)}
