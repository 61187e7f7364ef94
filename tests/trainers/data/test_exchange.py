"""Rows that meet in partitions."""

from zlib import crc32

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from trainers.data.exchange import ExchangeWriter, partitions_of, read_partition

SCHEMA = pl.Schema({"id": pl.String(), "value": pl.Int64()})


def test_partitions_are_those_of_crc_32():
    ids = pl.Series(["a", "é", "a", "", "日本", "b" * 300])
    assert partitions_of(ids, 7).tolist() == [crc32(each.encode()) % 7 for each in ids]
    assert partitions_of(ids, 1).tolist() == [0] * 6


@pytest.mark.parametrize("read_rows", [1, 5, 1000])
def test_each_partition_is_read_alone_and_in_order(tmp_path, read_rows):
    rng = np.random.default_rng(0)
    partitions, files, rows = 5, [], []
    for number in range(3):
        files.append(tmp_path / f"{number}.arrow")
        with ExchangeWriter(files[-1], SCHEMA, partitions) as out:
            for _ in range(number):  # the first file has no rows
                frame = pl.DataFrame({"value": rng.integers(0, 99, 20)}).with_columns(
                    id=pl.col("value").cast(pl.String)
                )
                out.add(frame, partitions_of(frame["id"], partitions))
                rows.append(frame.select("id", "value"))
            out.add(frame[:0] if number else pl.DataFrame(schema=SCHEMA), np.zeros(0, np.int64))
        assert out.rows == 20 * number
    whole = pl.concat(rows)
    of = partitions_of(whole["id"], partitions)
    for partition in range(partitions):
        parts = list(read_partition(files, partition, partitions, read_rows))
        assert pl.concat(parts).equals(whole.filter(of == partition))
        assert all(len(part) for part in parts)


def test_a_partition_without_rows_has_the_columns(tmp_path):
    with ExchangeWriter(tmp_path / "f.arrow", SCHEMA, 3):
        pass
    (part,) = read_partition([tmp_path / "f.arrow"], 1, 3)
    assert part.is_empty() and part.schema == SCHEMA


def test_a_file_that_was_cut_cannot_be_read(tmp_path):
    with ExchangeWriter(tmp_path / "f.arrow", SCHEMA, 3) as out:
        out.add(pl.DataFrame({"id": ["a"], "value": [1]}), np.zeros(1, np.int64))
    content = (tmp_path / "f.arrow").read_bytes()
    (tmp_path / "f.arrow").write_bytes(content[:-20])
    with pytest.raises(pa.ArrowInvalid):
        list(read_partition([tmp_path / "f.arrow"], 0, 3))
