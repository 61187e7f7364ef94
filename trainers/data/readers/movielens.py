"""MovieLens as GroupLens publishes it: 100K (`u.data`), 1M and 10M (`ratings.dat`), 20M and later (`ratings.csv`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from trainers.data.readers.base import RawData, ReadError, ReadingReport
from trainers.data.readers.item_writer import ItemWriter
from trainers.data.readers.log_writer import LogWriter
from trainers.data.readers.text_lines import require_files, table_batches

# Of the 24 fields of `u.item`; the 19 flags at the end are the genres of `u.genre`, in its order.
_NUM_FIELDS_100K, _NUM_GENRES_100K = 24, 19
_GENRES_100K = (
    "unknown|Action|Adventure|Animation|Children's|Comedy|Crime|Documentary|Drama|Fantasy|Film-Noir|Horror|Musical"
    "|Mystery|Romance|Sci-Fi|Thriller|War|Western"
).split("|")
_NO_GENRES = "(no genres listed)"
_RATINGS = {
    "100K": ("u.data", "\t", (0, 1, 3, 2)),
    # "::" is ":" with an empty column between
    "1M": ("ratings.dat", ":", (0, 2, 6, 4)),
    "20M": ("ratings.csv", ",", ("userId", "movieId", "timestamp", "rating")),
}
_MOVIES = {"100K": "u.item", "1M": "movies.dat", "20M": "movies.csv"}
_OUR_NAMES = ("user_id", "item_id", "timestamp", "rating")


@dataclass
class MovieLensReader:
    """
    An unpacked folder of MovieLens; its files tell which one. Titles keep their year, genres become categories.

    Args:
        input (`Path`): folder such as `ml-1m`.
    """

    input: Path
    format = "movielens"
    keeps_items = False

    @property
    def layout(self) -> str:
        """`"100K"`, `"1M"` (also 10M) or `"20M"` (also 25M, 32M and the small and full "latest")."""
        found = [layout for layout, (name, *_) in _RATINGS.items() if (Path(self.input) / name).is_file()]
        if len(found) != 1:
            names = [name for name, *_ in _RATINGS.values()]
            raise ReadError(f"{self.input} should hold one of {', '.join(names)}; it holds {found or 'none'} of them.")
        return found[0]

    def files(self) -> list[Path]:
        folder, layout = Path(self.input), self.layout
        return require_files(folder / _RATINGS[layout][0], folder / _MOVIES[layout])

    def settings(self) -> dict:
        return {"layout": self.layout, "interactions": "every rating is one, whatever its value (see min_rating)"}

    def read(self, scratch: Path, report: ReadingReport, latest_time: datetime) -> RawData:
        ratings, movies = self.files()
        _, separator, theirs = _RATINGS[self.layout]
        columns: Any = dict(zip(theirs, _OUR_NAMES, strict=True))  # by name, or by place in files without header
        log = LogWriter(scratch, report, "s", latest_time)
        for part in table_batches(ratings, columns, report, separator=separator, header=self.layout == "20M"):
            log.add(part, ratings.name)
        items = ItemWriter(scratch, report)
        items.add({"100K": _movies_100k, "1M": _movies_1m, "20M": _movies_20m}[self.layout](movies, report))
        return RawData(log.finish(), items.finish(), has_time=True)


def _old_lines(path: Path, separator: str, num_fields: int, report: ReadingReport) -> Iterator[tuple[str, list[str]]]:
    """Place and fields of each line of the older files, which are in Latin-1 (10M's: in UTF-8)."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    for line, row in enumerate(text.split("\n"), 1):
        if not row.strip():
            continue
        report.read["items"] += 1
        fields = row.rstrip("\r").split(separator)
        if len(fields) != num_fields:
            reason = f"the line has not {num_fields} fields"
            report.drop("items", reason, 1, [f"{path.name}, line {line}: {len(fields)} fields: {fields[:3]}"])
            continue
        yield f"{path.name}, line {line}", fields


def _movies_100k(path: Path, report: ReadingReport) -> Iterator[tuple[str, Mapping]]:
    for place, fields in _old_lines(path, "|", _NUM_FIELDS_100K, report):
        flags = fields[-_NUM_GENRES_100K:]
        genres = [genre for genre, flag in zip(_GENRES_100K, flags, strict=True) if flag == "1"]
        yield place, _movie(fields[0], fields[1], genres)


def _movies_1m(path: Path, report: ReadingReport) -> Iterator[tuple[str, Mapping]]:
    for place, (movie, title, genres) in _old_lines(path, "::", 3, report):
        yield place, _movie(movie, title, genres.split("|"))


def _movies_20m(path: Path, report: ReadingReport) -> Iterator[tuple[str, Mapping]]:
    for part in table_batches(path, {"movieId": "movie", "title": "title", "genres": "genres"}, report, "items"):
        for movie, title, genres, line in part.select("movie", "title", "genres", "line").iter_rows():
            yield f"{path.name}, line {line}", _movie(movie, title, (genres or "").split("|"))


def _movie(movie: str, title: str, genres: list[str]) -> dict:
    genres = [genre for genre in genres if genre not in ("", "unknown", _NO_GENRES)]
    return {"item_id": movie, "title": title, "categories": genres}
