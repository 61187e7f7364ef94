"""Prepared data folders: `items.parquet`, `interactions.parquet`, images, and `prepared.json`, which says how.

| file                        | holds                                                                             |
|-----------------------------|-----------------------------------------------------------------------------------|
| `items.parquet`             | `item_id`, the chosen text fields, `image` (relative path or null), `image_url`   |
| `interactions.parquet`      | `user_id`, `item_id`, `timestamp` (int64), `rating` (float32) if there are any,   |
|                             | and `split` unless it is leave-one-out                                            |
| `images/`                   | one file for each item with an image                                              |
| `image_failures.jsonl`      | `item_id`, `image_url`, `reason` of images that could not be had                  |
| `co_occurrence.safetensors` | `indptr`, `indices`, `counts` of the items' neighbours in the training part (CSR) |
| `pair_counts.safetensors`   | `pair_offsets`, `pair_items`, `pair_counts` (CSR) and `item_counts` of training   |
| `left_out.parquet`          | `kind` (item or user), `id`, `reason` of those that are not in the folder          |
| `prepared.json`             | source, choices, counts, what was dropped and why, checksums; written last        |
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from safetensors.numpy import save

from hub_cards import CARD_FILE, VALUES_FILE
from tokenization_items.files import read_json_object, replacing_folder
from trainers.data.co_occurrence import co_occurrence_counts, pair_weights
from trainers.data.interaction_files import RECORD_FILE
from trainers.data.preparation import PreparationChoices, PreparedLog, has_text, prepare_log
from trainers.data.prepared_images import FOLDER as IMAGES
from trainers.data.prepared_images import decodable_images, fetch_images, place_images
from trainers.data.readers.base import ITEM_SCHEMA, RawData, Reader, ReadingReport, described, sha256_of
from trainers.data.splits import MIN_INTERACTIONS

FORMAT_VERSION = 1
ITEMS, INTERACTIONS, GRAPH = "items.parquet", "interactions.parquet", "co_occurrence.safetensors"
LEFT_OUT, PAIRS = "left_out.parquet", "pair_counts.safetensors"
UNCHECKED = (RECORD_FILE, CARD_FILE, VALUES_FILE)  # a card may be written, and edited, later
WRITTEN_ROWS = 1_000_000  # interactions that become strings again at once
WRITTEN_ITEMS = 2**16  # of which texts are held at once
_PLACED = {"item_id": pl.String, "image": pl.String}
RULES = {  # that leave no choice
    "text": "entities decoded, HTML removed, blanks collapsed; of categories and features each once",
    "order_of_users": "by first appearance in the source",
    "order_of_items": "as in the source",
    "order_of_interactions": "user after user, by time; ties in time stay in the order of the source",
    "duplicates": "the same user, item and time is one interaction",
    "k_core": "of the whole log, before it is split",
}


class PreparedDataError(ValueError):
    """A prepared folder that is not what its `prepared.json` says."""


def prepare_data_set(
    reader: Reader,
    output_dir: str | os.PathLike,
    choices: PreparationChoices | None = None,
    latest_time: datetime | None = None,
    download: bool = False,
    image_cache: str | os.PathLike | None = None,
    image_workers: int = 16,
    co_occurrence: bool = False,
    overwrite: bool = False,
    pair_horizon: int | None = None,
) -> dict:
    """
    Reads a source, prepares it and writes the data folder, which appears when it is complete and not before.

    Args:
        reader ([`~trainers.data.readers.base.Reader`]): the source.
        output_dir (`str` or `os.PathLike`): the folder to make.
        choices ([`PreparationChoices`], *optional*): see there.
        latest_time (`datetime`, *optional*, defaults to now): later interactions are dropped; in UTC, no time zone.
        download (`bool`, *optional*, defaults to `False`): whether to fetch the images of addresses. Otherwise nothing
            is fetched.
        image_cache (*optional*, defaults to `.image_cache` beside `output_dir`): where fetched images are kept.
        image_workers (`int`, *optional*, defaults to 16): images fetched at once.
        co_occurrence (`bool`, *optional*, defaults to `False`): whether to write the co-occurrence graph.
        overwrite (`bool`, *optional*, defaults to `False`): whether to replace a prepared folder that is there.
        pair_horizon (`int`, *optional*): whether to write the counts of pairs of items within so many interactions of
            each other, as a memory of counted transitions keeps them.

    Returns:
        The content of `prepared.json`.

    Raises:
        ReadError: if the source cannot be read or nothing of it is left.
        FileExistsError: if the folder is there.
    """
    output = Path(output_dir).absolute()
    choices = choices_for(reader, choices)
    latest_time = latest_time or datetime.now(UTC).replace(tzinfo=None)
    check_output(reader, output)
    report = ReadingReport()
    with replacing_folder(output, overwrite, mark=RECORD_FILE) as folder:
        scratch = folder / "scratch"
        files = [described(path) for path in reader.files()]
        raw = reader.read(scratch, report, latest_time)
        usable = None if raw.items is None else _usable_items(raw.items, choices.text_fields, report)
        prepared = prepare_log(raw, choices, report, usable)
        images = {}
        if usable is not None:
            kept = usable.filter(pl.col("item_id").is_in(prepared.item_ids.implode()))
            images = place_all_images(kept, folder, output, download, image_cache, image_workers, report)
        fields = _fields_of(raw, prepared.item_ids, choices.text_fields)
        write_items(fields, images, choices.text_fields, folder / ITEMS)
        counts = {"items": len(prepared.item_ids), "items_with_image": len(images)}
        counts |= _write_interactions(prepared, folder / INTERACTIONS) | prepared.counts
        shutil.rmtree(scratch)
        if usable is not None:
            empty = int((~usable["usable"]).sum())
            report.drop("items", "neither text nor image", empty)
            report.drop("items", "not enough interactions", usable.height - empty - counts["items"])
            used = prepared.log["item"].n_unique()
            counts["items_without_interactions"] = counts["items"] - used
        counts |= _write_left_out(prepared, usable, folder / LEFT_OUT)
        if co_occurrence:
            graph = co_occurrence_counts(*prepared.training_part(), counts["items"])
            counts["co_occurring_pairs"] = graph.nnz // 2
            arrays = {"indptr": graph.indptr.astype(np.int64), "indices": graph.indices, "counts": graph.data}
            (folder / GRAPH).write_bytes(save(arrays))
        if pair_horizon:
            users, items = prepared.training_part()
            pairs = pair_weights(users, items, counts["items"], pair_horizon)
            arrays = {"pair_offsets": pairs.indptr.astype(np.int64), "pair_items": pairs.indices.astype(np.int32)}
            arrays |= {"pair_counts": pairs.data, "item_counts": np.bincount(items, minlength=counts["items"])}
            (folder / PAIRS).write_bytes(save(arrays))
        return write_record(
            folder,
            output.name,
            {"format": reader.format, "files": files, "settings": reader.settings()},
            asdict(choices)
            | {
                "latest_time": latest_time.isoformat(),
                "timestamp_unit": "microseconds since 1970-01-01, UTC" if raw.has_time else "place in the order",
                "rules": RULES,
                "download_images": download,
                "co_occurrence": co_occurrence,
            }
            | ({"pair_horizon": pair_horizon} if pair_horizon else {}),
            counts,
            report,
        )


def choices_for(reader: Reader, choices: PreparationChoices | None) -> PreparationChoices:
    """The choices, with what the reader's kind of source has for items without interactions."""
    choices = choices or PreparationChoices()
    if choices.k_core and choices.items_without_interactions is None:
        return replace(choices, items_without_interactions="keep" if reader.keeps_items else "drop")
    return choices


def check_output(reader: Reader, output: Path) -> None:
    """Raises `FileExistsError` if a file of the source lies in the folder that will be made."""
    inside = [path for path in reader.files() if path.absolute().is_relative_to(output)]
    if inside:
        raise FileExistsError(f"{inside[0]} lies in {output}, which would be replaced: give another folder.")


def write_record(folder: Path, name: str, source: dict, choices: dict, counts: dict, report: ReadingReport) -> dict:
    """Writes `prepared.json` into a folder that is complete but for it, and returns its content."""
    document = {
        "format_version": FORMAT_VERSION,
        "name": name,
        "source": source,
        "choices": choices,
        "counts": counts,
        **report.to_dict(),
        "checksums": _checksums(folder),
        "versions": {name: metadata.version(name) for name in ("utgrec", "polars")},
    }
    text = json.dumps(document, indent=2, ensure_ascii=False)
    (folder / RECORD_FILE).write_text(text + "\n", encoding="utf-8")
    return json.loads(text)


def place_all_images(
    items: pl.DataFrame,
    folder: Path,
    output: Path,
    download: bool,
    image_cache: str | os.PathLike | None,
    image_workers: int,
    report: ReadingReport,
) -> dict[str, str]:
    """Images of the items that are left (`item_id`, `image`, `image_url`), placed in the folder and, if they are to be
    downloaded, fetched: item id → path relative to the folder."""
    images = place_images(items, folder)
    if download:
        cache = Path(image_cache) if image_cache else output.with_name(".image_cache")
        wanted = items.filter(pl.col("image").is_null() & pl.col("image_url").is_not_null())
        images |= fetch_images(wanted, folder, cache, image_workers, report)
    return images


def check_prepared(folder: str | os.PathLike) -> dict:
    """
    Compares a prepared folder with the checksums in its `prepared.json`, whose content is returned.

    Raises:
        PreparedDataError: if the document or a file is missing, was changed, or is not named in it.
    """
    folder = Path(folder)
    try:
        document = read_json_object(folder / RECORD_FILE)
        expected = document["checksums"]
        if not isinstance(expected, dict):
            raise ValueError(f"checksums are an object, found {str(expected)[:60]}")
    except (OSError, ValueError, KeyError) as error:
        raise PreparedDataError(f"{folder} is no prepared data folder: {RECORD_FILE}: {error!r}") from error
    found = _checksums(folder)
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        raise PreparedDataError(f"{folder}: {', '.join(wrong)} differ from {RECORD_FILE}; prepare the data set anew.")
    return document


def _checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file; the images have one together, of their names and checksums."""
    sums = {
        path.name: sha256_of(path)
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name not in UNCHECKED
    }
    images = sorted((folder / IMAGES).iterdir()) if (folder / IMAGES).is_dir() else []
    if images:
        with ThreadPoolExecutor() as pool:
            lines = [f"{path.name} {each}\n" for path, each in zip(images, pool.map(sha256_of, images), strict=True)]
        sums[f"{IMAGES}/"] = hashlib.sha256("".join(lines).encode()).hexdigest()
    return sums


def _usable_items(items: pl.LazyFrame, text_fields: tuple[str, ...], report: ReadingReport) -> pl.DataFrame:
    """`item_id`, `image` (path of a file that can be decoded), `image_url` and `usable`: has text or such an image."""
    selected = items.select("item_id", "image", "image_url", usable=has_text(text_fields))
    frame = decodable_images(selected.collect(engine="streaming"), report)
    return frame.with_columns(pl.col("usable") | pl.col("image").is_not_null())


def _fields_of(raw: RawData, item_ids: pl.Series, text_fields: tuple[str, ...]) -> pl.LazyFrame:
    """The items that are left, without their images, in the order of the source."""
    if raw.items is None:
        return items_of_log(item_ids, text_fields)
    kept = item_ids.alias("item_id").to_frame().lazy()
    fields = raw.items.select("item_id", *text_fields, "image_url")
    return fields.join(kept, on="item_id", how="semi", maintain_order="left")


def items_of_log(item_ids: pl.Series, text_fields: tuple[str, ...]) -> pl.LazyFrame:
    """Items of which nothing is known but their ids."""
    empty = [pl.lit(None, ITEM_SCHEMA[name]).alias(name) for name in (*text_fields, "image_url")]
    return item_ids.alias("item_id").to_frame().lazy().with_columns(empty)


def write_items(items: pl.LazyFrame, images: dict[str, str], text_fields: tuple[str, ...], path: Path) -> None:
    """Writes items (`item_id`, texts, `image_url`) with the places of their images."""
    placed = pl.LazyFrame({"item_id": list(images), "image": list(images.values())}, schema=_PLACED)
    items = items.join(placed, on="item_id", how="left", maintain_order="left")
    chosen = items.select("item_id", *text_fields, "image", "image_url")
    write_parts(resliced(chosen.collect_batches(), WRITTEN_ITEMS), path)


def _write_interactions(prepared: PreparedLog, path: Path) -> dict:
    """Writes the log with its ids, a part at a time; returns counts."""
    log = prepared.log
    write_parts(
        (
            part.select(
                prepared.user_ids.gather(part["user"]).alias("user_id"),
                prepared.item_ids.gather(part["item"]).alias("item_id"),
                "timestamp",
                *(column for column in ("rating", "split") if column in part.columns),
            )
            for part in log.iter_slices(WRITTEN_ROWS)
        ),
        path,
    )
    lengths = np.bincount(log["user"].to_numpy())
    return {
        "users": len(prepared.user_ids),
        "interactions": log.height,
        "users_too_short_to_split": int((lengths < MIN_INTERACTIONS).sum()),
    }


def resliced(frames: Iterable[pl.DataFrame], rows: int) -> Iterator[pl.DataFrame]:
    """The rows of frames in frames of so many each, but the last."""
    held = pl.DataFrame()
    for frame in frames:
        held = pl.concat([held, frame]) if len(held) else frame
        while len(held) >= rows:
            yield held[:rows].rechunk()
            held = held[rows:]
    if len(held):
        yield held.rechunk()


def write_parts(parts: Iterable[pl.DataFrame], path: Path) -> None:
    """Writes frames as one file, a row group each: frames that are cut alike give the same bytes, whoever made them
    with how many threads, which polars' own writer does not promise."""
    writer = None
    try:
        for part in parts:
            table = part.to_arrow(compat_level=pl.CompatLevel.oldest())
            writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _write_left_out(prepared: PreparedLog, usable: pl.DataFrame | None, path: Path) -> dict:
    """Writes which items and users are not in the folder, and why; returns counts."""
    users = prepared.left_out_users.alias("id").to_frame().with_columns(reason=pl.lit("not enough interactions"))
    parts = [users.select(pl.lit("user").alias("kind"), "id", "reason")]
    if usable is not None:
        items = usable.filter(~pl.col("item_id").is_in(prepared.item_ids.implode()))
        why = pl.when("usable").then(pl.lit("not enough interactions")).otherwise(pl.lit("neither text nor image"))
        parts.insert(0, items.select(pl.lit("item").alias("kind"), pl.col("item_id").alias("id"), why.alias("reason")))
    frame = pl.concat(parts)
    if frame.height:
        write_parts(resliced([frame], WRITTEN_ROWS), path)
    return {"users_left_out": users.height}
