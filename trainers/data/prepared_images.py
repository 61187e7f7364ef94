"""Images of a prepared data set: those of the source that can be decoded, and those that are fetched.

Images are fetched in parallel into a cache that outlives a crash. A file of the cache is named by the SHA-256 of its
address and is written only when it is whole and can be decoded, so that a second run takes up where the first stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import numpy as np
import polars as pl
from PIL import Image
from tqdm.auto import tqdm

from hub_cards import replacing
from tokenization_items.item_images import ImageColumn, ImageError, open_image
from tokenization_items.remote_images import TIMEOUT, RemoteImageError, fetch_image
from trainers.data.readers.base import MAX_EXAMPLES, ReadingReport

FOLDER, FAILURES = "images", "image_failures.jsonl"
LONGEST_NAME = 150  # bytes of an item id in a file's name; file systems allow 255 in all
RETRIES = 3  # after failures that may pass: no answer, 429, 5xx
LONGEST_WAIT = 60.0  # seconds between two attempts
_QUEUED = 4096  # addresses handed to the threads at once


def decodable_images(items: pl.DataFrame, report: ReadingReport) -> pl.DataFrame:
    """`items` with null for each `image` (a file's path) that cannot be decoded; these are counted."""
    named = items.filter(pl.col("image").is_not_null()).select("item_id", "image")
    if named.is_empty():
        return items
    report.read["images"] += named.height
    problems = []
    with (
        ThreadPoolExecutor() as pool,  # Pillow decodes without holding the interpreter's lock
        tqdm(total=named.height, desc="Checking images", unit="image", disable=None) as bar,
    ):
        for problem in pool.map(_problem, named["image"]):
            problems.append(problem)
            bar.update()
    broken = named.with_columns(problem=pl.Series(problems, dtype=pl.String)).drop_nulls("problem")
    examples = [f"item {item!r}: {problem}" for item, _, problem in broken.head(MAX_EXAMPLES).iter_rows()]
    report.drop("images", "the file is missing or cannot be decoded", broken.height, examples)
    fine = ~pl.col("item_id").is_in(broken["item_id"].implode())
    return items.with_columns(image=pl.when(fine).then(pl.col("image")))


def _problem(path: str) -> str | None:
    try:
        open_image(path)
    except ImageError as error:
        return str(error)
    return None


def place_images(items: pl.DataFrame, folder: Path) -> dict[str, str]:
    """
    Puts the images of `items` (`item_id`, `image`) into the folder, as links where the file system allows it.

    Returns:
        `dict[str, str]`: item id → path relative to the folder.
    """
    named = items.filter(pl.col("image").is_not_null())
    return {item: _place(Path(path), item, folder) for item, path in named.select("item_id", "image").iter_rows()}


def fetch_images(
    items: pl.DataFrame, folder: Path, cache: Path, workers: int, report: ReadingReport
) -> dict[str, str]:
    """
    Fetches the images of `items` (`item_id`, `image_url`; without null) and puts them into the folder.

    Images that cannot be had are counted in the report and listed in `image_failures.jsonl`.

    Returns:
        `dict[str, str]`: item id → path relative to the folder.
    """
    report.read["images"] += items.height
    downloads = download_images(items["image_url"].to_list(), cache, workers)
    placed, failed = {}, []
    for item, address in items.select("item_id", "image_url").iter_rows():
        if address in downloads.paths:
            placed[item] = _place(downloads.paths[address], item, folder)
        else:
            reason = downloads.failures[address]
            failed.append({"item_id": item, "image_url": address, "reason": reason})
            report.drop("images", "could not be fetched", 1, [f"item {item!r}: {address}: {reason}"])
    if failed:
        _write_lines(failed, folder / FAILURES)
    return placed


def _place(source: Path, item: str, folder: Path) -> str:
    name = quote(item, safe="")
    if len(name) > LONGEST_NAME:
        name = hashlib.sha256(item.encode()).hexdigest()
    with Image.open(source) as image:
        name += f".{(image.format or 'image').lower().replace('jpeg', 'jpg')}"
    target = folder / FOLDER / name
    target.parent.mkdir(exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
    return f"{FOLDER}/{name}"


def _write_lines(records: Sequence[dict], path: Path) -> None:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")


@dataclass
class Downloads:
    """
    Args:
        paths (`dict[str, Path]`): file of the cache for each address that is there.
        failures (`dict[str, str]`): reason for each of the others.
        num_cached (`int`): how many of `paths` were there before.
    """

    paths: dict[str, Path] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    num_cached: int = 0


def download_images(
    addresses: Sequence[str], cache: Path, workers: int = 16, retries: int = RETRIES, timeout: float = TIMEOUT
) -> Downloads:
    """
    Fetches the images that the cache lacks. Failures are tried anew in the next call.

    Args:
        addresses (`Sequence[str]`): of https and public; others, and redirections to others, are failures.
        cache (`Path`): folder, made if needed.
        workers (`int`, *optional*, defaults to 16): threads.
        retries (`int`, *optional*, defaults to `RETRIES`): further attempts after a failure that may pass, each after
            a longer pause.
        timeout (`float`, *optional*, defaults to `TIMEOUT`): seconds.
    """
    found = Downloads()
    waiting = []
    for address in dict.fromkeys(addresses):
        path = cache_path(cache, address)
        if path.is_file():
            found.paths[address] = path
        else:
            waiting.append(address)
    found.num_cached = len(found.paths)
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=len(waiting), desc="Images", unit="image", disable=None) as bar,
    ):
        try:
            for start in range(0, len(waiting), _QUEUED):
                part = waiting[start : start + _QUEUED]
                tasks = {pool.submit(_fetch_into, address, cache, retries, timeout): address for address in part}
                for task in as_completed(tasks):
                    bar.update()
                    try:
                        found.paths[tasks[task]] = task.result()
                    except RemoteImageError as failure:
                        found.failures[tasks[task]] = str(failure)
        except BaseException:  # an interrupt should not wait for thousands of images
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return found


def local_images(images: ImageColumn, cache: str | Path | None = None) -> tuple[ImageColumn, str]:
    """
    Images of a catalogue of which none is on another machine: those that are were fetched, or are no more there.

    Args:
        images ([`ImageColumn`]): as the catalogue has them.
        cache (`str` or `Path`, *optional*): folder for what is fetched, from https and public addresses only and each
            once; without it nothing is.

    Returns:
        `tuple[ImageColumn, str]`: the images, and what became of the addresses; "" if there are none.
    """
    addresses = images.addresses()
    if not addresses:
        return images, ""
    note, paths = f"{len(addresses):,} addresses", list[str | None]([None] * len(images))
    if cache is None:
        note += ", which are not fetched without --download_images"
    else:
        found = download_images([*addresses.values()], Path(cache))
        paths = [
            str(found.paths[at]) if (at := addresses.get(row)) in found.paths else None for row in range(len(images))
        ]
        lost = [at for at in addresses.values() if at in found.failures]
        note += f", {len(addresses) - len(lost):,} of them fetched"
        if lost:
            note += f"; {len(lost):,} could not be, such as {lost[0]}: {found.failures[lost[0]]}"
    rows = np.arange(len(images))
    rows[[*addresses]] += len(images)
    return ImageColumn.concatenate([images, ImageColumn(paths)]).select(rows), note


def cache_path(cache: Path, address: str) -> Path:
    """Where the image of an address is kept."""
    name = hashlib.sha256(address.encode("utf-8", "surrogatepass")).hexdigest()
    return Path(cache) / name[:2] / name


def _fetch_into(address: str, cache: Path, retries: int, timeout: float) -> Path:
    for attempt in range(retries + 1):
        try:
            content = fetch_image(address, timeout)
            break
        except RemoteImageError as failure:
            if not failure.passing or attempt == retries:
                raise
            pause = 2.0**attempt * random.uniform(0.5, 1.0) if failure.wait is None else failure.wait
            time.sleep(min(pause, LONGEST_WAIT))
    try:
        open_image(content)
    except ImageError as error:
        raise RemoteImageError(str(error)) from error
    path = cache_path(cache, address)
    with replacing(path) as (temporary,):
        temporary.write_bytes(content)
    return path
