"""Lines in chunks, and what is in them."""

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.data.readers.base import ReadError, ReadingReport
from trainers.data.readers.text_lines import json_columns, json_records, line_chunks, load_json, table_batches


@settings(max_examples=50, deadline=None)
@given(
    lines=st.lists(st.text("ab é", max_size=6), max_size=12),
    end=st.booleans(),
    size=st.integers(1, 20),
    zipped=st.booleans(),
)
def test_chunks_are_the_file(tmp_path_factory, lines, end, size, zipped):
    data = "\n".join(lines).encode() + b"\n" * end
    path = tmp_path_factory.mktemp("chunks") / ("f.gz" if zipped else "f.txt")
    path.write_bytes(gzip.compress(data) if zipped else data)
    number, found = 1, b""
    for first, chunk in line_chunks(path, size):
        assert first == number and chunk
        number += chunk.count(b"\n")
        found += chunk
        assert chunk.endswith(b"\n") or found == data  # whole lines
    assert found == data


def test_a_file_that_is_one_long_line(write, monkeypatch):
    monkeypatch.setattr("trainers.data.readers.text_lines.MAX_LINE_BYTES", 100)
    with pytest.raises(ReadError, match="line 2 is longer than 100 bytes"):
        list(line_chunks(write("f.jsonl", "short\n" + "x" * 500), 50))


def test_a_gzip_file_that_is_none(write):
    path = write("f.gz", "x")
    path.write_bytes(b"plain text")
    with pytest.raises(ReadError, match="f.gz, after line 0"):
        list(line_chunks(path))


VALUES = st.none() | st.integers(-(2**62), 2**62) | st.text('ab "\\é', max_size=4)


@settings(max_examples=50, deadline=None)
@given(records=st.lists(st.fixed_dictionaries({}, optional={"a": VALUES, "b": VALUES, "c": VALUES}), min_size=1))
def test_fast_and_slow_reading_agree(records):
    """With a blank line or a broken one in a chunk it is read line by line, with the same result."""
    chunk = "".join(json.dumps(record) + "\n" for record in records).encode()
    reports = [ReadingReport() for _ in range(3)]
    fast = json_columns(chunk, 5, ["a", "b"], "f", reports[0])
    blank = json_columns(chunk + b"\n", 5, ["a", "b"], "f", reports[1])
    broken = json_columns(chunk + b"{\n", 5, ["a", "b"], "f", reports[2])
    assert fast.equals(blank) and fast.equals(broken)
    expected = [
        (*(None if record.get(name) is None else str(record[name]) for name in "ab"), 5 + row)
        for row, record in enumerate(records)
    ]
    assert fast.rows() == expected
    assert [report.dropped("interactions") for report in reports] == [0, 0, 1]
    assert [report.read["interactions"] for report in reports] == [len(records), len(records), len(records) + 1]


def test_literals_only_where_they_are_allowed():
    report = ReadingReport()
    lines = b"{'a': 1}\n{'a': __import__('os')}\n" + b"[" * 100_000 + b"\n{'a': 2}\n"
    found = [record for _, record in json_records(lines, 1, "f", report, "items", literals=True)]
    assert found == [{"a": 1}, {"a": 2}]
    assert report.dropped("items") == 2
    assert list(json_records(lines, 1, "f", ReadingReport(), "items")) == []


def test_half_a_surrogate_pair_does_not_stop_a_chunk():
    report = ReadingReport()
    frame = json_columns(b'{"a": "x\\ud83d"}\n{"a": "y"}\n', 1, ["a"], "f", report)
    assert frame["a"].to_list()[1] == "y" and report.dropped("interactions") == 0


def test_load_json(write):
    assert load_json(write("a.json", '{"a": [1]}')) == {"a": [1]}
    with pytest.raises(ReadError, match="'b' occurs twice"):
        load_json(write("a.json", '{"a": {"b": 1, "b": 2}}'))


def test_tables_without_a_header_whose_quotes_are_odd(write):
    for text, title in ((r'1::"a \"b"', 'a "b'), ('1::TV 32" LCD', 'TV 32" LCD')):
        path, report = write("t.dat", f"{text}\n\n2\n"), ReadingReport()
        frames = list(table_batches(path, {0: "id", 2: "title"}, report, separator=":", header=False))
        assert [row for frame in frames for row in frame.rows()] == [(1, "1", title), (3, "2", None)]
        assert report.dropped("interactions") == 1
    write("t.csv", b'id,title\n1,"a \\"b"\n2,"\xfc"\n')
    with pytest.raises(ReadError, match="line 3 is not UTF-8"):
        list(table_batches(path.with_name("t.csv"), {"id": "id"}, ReadingReport()))
