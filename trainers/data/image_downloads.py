"""Images of addresses, fetched in parallel into a cache that outlives a crash. Fetches when called and never else.

A file of the cache is named by the SHA-256 of its address and is written only when it is whole and can be decoded, so
that a second run takes up where the first one stopped.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from tokenization_items.item_images import ImageError, open_image
from tokenization_items.remote_images import TIMEOUT, RemoteImageError, fetch_image

RETRIES = 3  # after failures that may pass: no answer, 429, 5xx
LONGEST_WAIT = 60.0  # seconds between two attempts
_QUEUED = 4096  # addresses handed to the threads at once


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
        addresses: of https and public; others, and redirections to others, are failures.
        cache: folder, made if needed.
        workers: threads.
        retries: further attempts after a failure that may pass, each after a longer pause.
        timeout: seconds.
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
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError:  # the disk is full: no image of this run will do better
        temporary.unlink(missing_ok=True)
        raise
    return path
