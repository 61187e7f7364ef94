"""Shards of one table: what is wrong with them is named before the work."""

import gzip
import json

import polars as pl
import pytest

from trainers.data.readers import ReadError, TabularReader

HEADER = "user_id,item_id,timestamp,rating\n"
ROWS = [("u1", "a", 1_600_000_000, 5), ("u2", "b", 1_600_000_001, 4), ("u1", "b", 1_600_000_002, 3)]


def write_shards(folder, kind, names=("part-0", "part-1", "part-2")):
    folder.mkdir()
    for name, row in zip(names, ROWS, strict=True):
        frame = pl.DataFrame([row], schema=["user_id", "item_id", "timestamp", "rating"], orient="row")
        path = folder / f"{name}.{kind}"
        if kind == "parquet":
            frame.write_parquet(path)
        elif kind == "csv":
            frame.write_csv(path)
        else:
            text = frame.write_ndjson().encode()
            path.write_bytes(gzip.compress(text) if kind.endswith("gz") else text)
    return folder


@pytest.mark.parametrize("kind", ["csv", "jsonl", "jsonl.gz", "parquet"])
def test_shards_are_read_in_the_order_of_their_names(read, tmp_path, kind):
    folder = write_shards(tmp_path / "log", kind)
    (folder / "_SUCCESS").touch()
    (folder / ".part-0.crc").write_bytes(b"x")
    log, _, report = read(TabularReader(folder))
    assert [row[:2] for row in log] == [row[:2] for row in ROWS] and report.read["interactions"] == 3


def test_lines_are_those_of_the_shard(read, tmp_path, examples_of):
    folder = write_shards(tmp_path / "log", "parquet")
    frame = pl.read_parquet(folder / "part-2.parquet")
    pl.concat([frame, frame.with_columns(user_id=pl.lit(""))]).write_parquet(folder / "part-2.parquet")
    report = read(TabularReader(folder))[2]
    assert "part-2.parquet, line 2: user_id" in examples_of(report, "interactions", "user_id is missing")


def wrong(folder, message, **settings):
    with pytest.raises(ReadError, match=message):
        TabularReader(folder, **settings).files()


def test_missing_shards(tmp_path):
    wrong(write_shards(tmp_path / "gap", "csv", ("part-0", "part-1", "part-4")), r"the numbers 2, 3 are missing")
    (tmp_path / "gap" / "_SUCCESS").touch()
    assert len(TabularReader(tmp_path / "gap").files()) == 3
    names = [f"log-{number:05d}-of-00004" for number in range(3)]
    wrong(write_shards(tmp_path / "of", "parquet", names), r"the numbers 3 are missing")
    dates = write_shards(tmp_path / "days", "csv", ("2024-01-01", "2024-01-02", "2024-01-09"))
    assert len(TabularReader(dates).files()) == 3
    (tmp_path / "none").mkdir()
    wrong(tmp_path / "none", "holds no shards")


def test_half_written_shards(tmp_path):
    folder = write_shards(tmp_path / "parquet", "parquet")
    content = (folder / "part-1.parquet").read_bytes()
    (folder / "part-1.parquet").write_bytes(content[: len(content) // 2])
    wrong(folder, r"part-1.parquet cannot be read.*half-written")
    (folder / "part-1.parquet").write_bytes(b"")
    wrong(folder, r"part-1.parquet is empty")
    folder = write_shards(tmp_path / "csv", "csv")
    (folder / "part-1.csv").write_text(HEADER + "u,a,16000")
    wrong(folder, r"part-1.csv does not end with a line break: is it half-written")
    folder = write_shards(tmp_path / "tmp", "csv")
    (folder / "part-3.csv.tmp").touch()
    wrong(folder, r"not complete: part-3.csv.tmp is still being written")
    folder = write_shards(tmp_path / "gz", "jsonl.gz")
    (folder / "part-2.jsonl.gz").write_bytes((folder / "part-2.jsonl.gz").read_bytes()[:15])
    wrong(folder, r"part-2.jsonl.gz cannot be read.*half-written")


def test_other_schemas(tmp_path):
    folder = write_shards(tmp_path / "csv", "csv")
    (folder / "part-1.csv").write_text("user_id,item_id,timestamp\nu,a,1600000000\n")
    wrong(folder, r"part-1.csv lacks the columns .'rating'., which part-0.csv has")
    (folder / "part-0.csv").write_text("user_id,item_id,timestamp\nu,a,1600000000\n")
    wrong(folder, r"part-0.csv lacks the columns .'rating'., which part-2.csv has")
    folder = write_shards(tmp_path / "parquet", "parquet")
    frame = pl.read_parquet(folder / "part-1.parquet")
    frame.with_columns(pl.col("timestamp").cast(pl.String)).write_parquet(folder / "part-1.parquet")
    wrong(folder, r"part-1.parquet: timestamp is of type text, in part-0.parquet of type number")
    frame.with_columns(pl.col("timestamp").cast(pl.Int32)).write_parquet(folder / "part-1.parquet")
    assert len(TabularReader(folder).files()) == 3
    (folder / "part-3.csv").write_text(HEADER)
    wrong(folder, "files of several kinds, as part-2.parquet and part-3.csv")


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_ids_of_another_type(tmp_path, kind):
    folder = write_shards(tmp_path / "log", kind)
    path = folder / f"part-2.{kind}"
    row = {"user_id": "u", "item_id": 7, "timestamp": 1_600_000_000, "rating": None}
    if kind == "jsonl":
        path.write_text(json.dumps(row) + "\n")
    else:
        pl.DataFrame([row], schema_overrides={"rating": pl.Int64}).write_parquet(path)
    wrong(folder, rf"part-2.{kind}: item_id is of type number, in part-0.{kind} of type text. Ids of one type")
    pl.DataFrame({"id": ["a"]}).write_parquet(tmp_path / "items.parquet")
    wrong(folder, "item_id is of type number", items=tmp_path / "items.parquet")


def test_names_of_columns_are_those_of_the_files(tmp_path):
    folder = write_shards(tmp_path / "log", "csv")
    for path in folder.iterdir():
        path.write_text(path.read_text().replace("user_id,item_id", "buyer,sku"))
    (folder / "part-1.csv").write_text((folder / "part-1.csv").read_text().replace("sku", "article"))
    wrong(folder, "part-1.csv lacks the columns .'sku'.", columns={"user_id": "buyer", "item_id": "sku"})
