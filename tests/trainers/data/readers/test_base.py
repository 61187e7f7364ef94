"""Sizes of what there is to read, before any work."""

import gzip
import random

import polars as pl
import pytest

from trainers.data.readers import ReadError, TabularReader
from trainers.data.readers.base import survey


def lines_of(path):
    (entry,) = survey(TabularReader(path))
    assert entry["file"] == str(path) and entry["bytes"] == path.stat().st_size
    return entry["lines"], entry["exact"]


@pytest.mark.parametrize("name", ["l.csv", "l.csv.gz"])
def test_lines_are_counted_or_guessed(write, monkeypatch, name):
    assert lines_of(write(name, "a\nb\nc")) == (3, True)
    monkeypatch.setattr("trainers.data.readers.base.SAMPLE_BYTES", 200_000)
    rng = random.Random(0)
    guess, exact = lines_of(write(name, "".join(f"{rng.random()},{rng.random()}\n" for _ in range(50_000))))
    assert not exact and abs(guess - 50_000) < 5_000


def test_parquet_knows(tmp_path):
    pl.DataFrame({"a": range(7)}).write_parquet(tmp_path / "l.parquet")
    assert lines_of(tmp_path / "l.parquet") == (7, True)


def test_a_file_that_is_cut(write):
    path = write("l.csv.gz", "x")
    path.write_bytes(gzip.compress(b"x,y\n" * 1000)[:-12])
    with pytest.raises(ReadError, match="complete"):
        lines_of(path)
