"""Amazon Reviews 2014, 2018 and 2023: raw reviews and metadata, one object per line.

| year | reviews                            | time | metadata                                                |
|------|------------------------------------|------|---------------------------------------------------------|
| 2014 | `reviewerID`, `asin`, `overall`    | s    | Python literals: `asin`, nested `categories`, `imUrl`   |
| 2018 | `reviewerID`, `asin`, `overall`    | s    | `asin`, `category`, `feature`, `imageURLHighRes`        |
| 2023 | `user_id`, `parent_asin`, `rating` | ms   | `parent_asin`, `features`, `store`, `images`            |

Times of 2014 and 2018 are whole days, so that many reviews of a user share one: they stay in the order of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Literal

from trainers.data.readers.base import RawData, ReadError, ReadingReport
from trainers.data.readers.item_writer import ItemWriter, string, strings
from trainers.data.readers.log_writer import LogWriter
from trainers.data.readers.text_lines import json_columns, json_records, line_chunks, require_files

ImageSize = Literal["large", "hi_res", "thumb"]
HUB = "hf://datasets/McAuley-Lab/Amazon-Reviews-2023"
HUB_FILES = {"reviews": "raw/review_categories/{}.jsonl", "items": "raw/meta_categories/meta_{}.jsonl"}
HUB_LINES = 20_000  # lines that are held at once

# Fields of a review: user, item, time and rating.
_REVIEW = {
    2014: ("reviewerID", "asin", "unixReviewTime", "overall"),
    2018: ("reviewerID", "asin", "unixReviewTime", "overall"),
    2023: ("user_id", "parent_asin", "timestamp", "rating"),
}
_OUR_NAMES = ("user_id", "item_id", "timestamp", "rating")
_IMAGE_SIZES = ("large", "hi_res", "thumb")
# The host of 2014's addresses speaks no https; this one has the same paths.
_OLD_HOST, _SECURE_HOST = "http://ecx.images-amazon.com/", "https://images-na.ssl-images-amazon.com/"
# Part of the page's JavaScript, which 2018's metadata has in place of some titles (its authors advise to filter it).
_PAGE_SOURCE = "getTime"


class _Amazon:
    """What files of this machine and files of the Hub have in common."""

    year: int
    image_size: ImageSize
    keeps_items = False

    def settings(self) -> dict:
        settings = {"item": _REVIEW[self.year][1], "fields": "price, rank and related items are not used"}
        if self.year == 2014:
            settings["image_host"] = f"{_OLD_HOST} is replaced by {_SECURE_HOST}"
        if self.year == 2023:
            settings |= {"image": f"variant MAIN or else the first, size {self.image_size} or else the next there is"}
        return settings

    def _read(
        self,
        reviews: Iterable[tuple[int, bytes]],
        metadata: Iterable[tuple[int, bytes]],
        names: tuple[str, str],
        scratch: Path,
        report: ReadingReport,
        latest_time: datetime,
    ) -> RawData:
        fields = _REVIEW[self.year]
        log = LogWriter(scratch, report, "ms" if self.year == 2023 else "s", latest_time)
        for first_line, chunk in reviews:
            part = json_columns(chunk, first_line, fields, names[0], report, self.year == 2014, ids=fields[:2])
            log.add(part.rename(dict(zip(fields, _OUR_NAMES, strict=True))), names[0])
        items = ItemWriter(scratch, report)
        for first_line, chunk in metadata:
            records = json_records(chunk, first_line, names[1], report, "items", literals=self.year == 2014)
            items.add(self._item(record, f"{names[1]}, line {line}", report) for line, record in records)
        return RawData(log.finish(), items.finish(), has_time=True)

    def _item(self, record: Mapping, place: str, report: ReadingReport) -> tuple[str, dict]:
        title = string(record.get("title"))
        if _PAGE_SOURCE in title:
            report.drop("fields", "title is JavaScript of the page", 1, [f"{place}: title {title[:80]!r}"])
            title = ""
        return place, {"title": title, "description": record.get("description")} | _BY_YEAR[self.year](record, self)


@dataclass
class AmazonReader(_Amazon):
    """
    Files as they are downloaded, such as `reviews_Beauty_5.json.gz` and `meta_Beauty.json.gz`.

    Args:
        interactions (`Path`): file of the reviews, `.json`, `.jsonl` or either gzipped.
        items (`Path`): file of the metadata of the same category.
        year (`int`): 2014, 2018 or 2023.
        image_size (`str`, *optional*, defaults to `"large"`): of 2023's images; the next one there is, if absent.
    """

    interactions: Path
    items: Path
    year: int
    image_size: ImageSize = "large"

    def __post_init__(self):
        if self.year not in _REVIEW:
            raise ReadError(f"There is no Amazon Reviews {self.year}: choose {', '.join(map(str, _REVIEW))}.")
        self.format = f"amazon-{self.year}"

    def files(self) -> list[Path]:
        return require_files(Path(self.interactions), Path(self.items))

    def read(self, scratch: Path, report: ReadingReport, latest_time: datetime) -> RawData:
        reviews, metadata = self.files()
        return self._read(
            line_chunks(reviews), line_chunks(metadata), (reviews.name, metadata.name), scratch, report, latest_time
        )


@dataclass
class AmazonHubReader(_Amazon):
    """
    Amazon Reviews 2023 from the Hub, by `datasets`, which keeps what it downloads in its cache.

    The repository's raw files are read as lines: their fields differ too much from line to line for one schema.

    Args:
        category (`str`): category, such as `Musical_Instruments`.
        image_size (`str`, *optional*, defaults to `"large"`): of 2023's images; the next one there is, if absent.
        repository (`str`, *optional*): address of the repository, `@revision` included, or a folder with a copy of it.
    """

    category: str
    image_size: ImageSize = "large"
    repository: str = HUB
    format = "amazon-2023-hub"
    year = 2023

    @property
    def addresses(self) -> dict[str, str]:
        """Of the files of `"reviews"` and `"items"`."""
        return {kind: f"{self.repository}/{name.format(self.category)}" for kind, name in HUB_FILES.items()}

    def files(self) -> list[Path]:
        return []  # nothing is here before it is downloaded

    def settings(self) -> dict:
        return super().settings() | {"addresses": list(self.addresses.values())}

    def read(self, scratch: Path, report: ReadingReport, latest_time: datetime) -> RawData:
        reviews, items = self.addresses["reviews"], self.addresses["items"]
        names = (PurePosixPath(reviews).name, PurePosixPath(items).name)
        return self._read(_hub_lines(reviews), _hub_lines(items), names, scratch, report, latest_time)


def _item_of_2014(record: Mapping, reader: _Amazon) -> dict:
    return {
        "item_id": record.get("asin"),
        "brand": record.get("brand"),
        "categories": record.get("categories"),
        "image_url": string(record.get("imUrl")).replace(_OLD_HOST, _SECURE_HOST),
    }


def _item_of_2018(record: Mapping, reader: _Amazon) -> dict:
    addresses = (strings(record.get(name)) for name in ("imageURLHighRes", "imageURL", "image"))
    return {
        "item_id": record.get("asin"),
        "brand": re.sub(r"^\s*by\s*\n\s*", "", string(record.get("brand"))),  # "by\n\n    Maker" of the page's head
        "features": record.get("feature"),
        "categories": record.get("category"),
        "image_url": next((found[0] for found in addresses if found), None),
    }


def _item_of_2023(record: Mapping, reader: _Amazon) -> dict:
    details = record.get("details")
    brand = record.get("store") or (details.get("Brand") if isinstance(details, Mapping) else None)
    images = record.get("images")
    images = [image for image in images if isinstance(image, Mapping)] if isinstance(images, list) else []
    image = next(
        (image for image in images if string(image.get("variant")).lower() == "main"), images[0] if images else {}
    )
    sizes = (reader.image_size, *_IMAGE_SIZES)
    return {
        "item_id": record.get("parent_asin"),
        "brand": brand,
        "features": record.get("features"),
        "categories": record.get("categories"),
        "image_url": next((image[size] for size in sizes if image.get(size)), None),
    }


_BY_YEAR = {2014: _item_of_2014, 2018: _item_of_2018, 2023: _item_of_2023}


def _hub_lines(address: str) -> Iterator[tuple[int, bytes]]:
    import datasets  # heavy, and of no use to other readers

    try:
        lines = datasets.load_dataset("text", data_files=address, split="train")
    except (OSError, datasets.exceptions.DatasetsError, ValueError) as error:
        raise ReadError(f"{address} cannot be read: {error}. Is the category spelled as in the repository?") from error
    for start, table in enumerate(lines.with_format("arrow").iter(batch_size=HUB_LINES)):
        yield start * HUB_LINES + 1, "\n".join(table["text"].to_pylist()).encode()
