"""Tables of any separator, encoding and kind give the same rows; what cannot be read is named with its line."""

import gzip
import json

import polars as pl
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from hub_cards.csv_layout import separator_of
from trainers.data.readers.base import ReadError
from trainers.data.tables import as_ids, read_table

ROWS = [("a1", "Käse, alt", "12,50"), ("b2", 'a "quoted" one', ""), ("c3", "plain", "3")]


def csv_text(separator: str) -> str:
    quoted = [["id", "name", "price"], *([each.replace('"', '""') for each in row] for row in ROWS)]
    return "\r\n".join(separator.join(f'"{cell}"' if cell else "" for cell in row) for row in quoted) + "\r\n"


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize(
    ("encoding", "mark"),
    [("utf-8", b""), ("utf-8", b"\xef\xbb\xbf"), ("cp1252", b""), ("utf-16-le", b"\xff\xfe"), ("utf-16-le", b"")],
)
def test_csv_of_any_separator_and_encoding(tmp_path, separator, encoding, mark):
    path = tmp_path / "items.csv"
    path.write_bytes(mark + csv_text(separator).encode(encoding))
    table = read_table(path)
    assert table.frame.rows() == [(a, b, c or None) for a, b, c in ROWS]
    assert table.frame.columns == ["id", "name", "price"] and encoding in table.layout


def test_decimal_commas_do_not_make_a_separator():
    assert separator_of("sku;name;price\nA;pen;1,50\nB;ink;2,75\nC;nib;3,00\n", "t") == ";"
    assert separator_of('sku,name\nA,"x;y;z"\nB,"u;v;w"\n', "t") == ","


def test_line_ends_of_old_macintoshes(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"id;name\ra1;pen\rb2;ink\r")
    assert read_table(tmp_path / "t.csv").frame.rows() == [("a1", "pen"), ("b2", "ink")]


def test_other_kinds_give_the_same_rows(tmp_path):
    frame = pl.DataFrame(ROWS, schema=["id", "name", "price"], orient="row")
    records = frame.to_dicts()
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    (tmp_path / "a.json").write_text(json.dumps(records))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    frame.write_parquet(tmp_path / "a.parquet")
    sources = [*(tmp_path / name for name in ("a.jsonl", "a.json", "a.jsonl.gz", "a.parquet")), frame, frame.lazy()]
    sources += [records, frame.to_dict(as_series=False), frame.to_arrow()]
    for source in sources:
        assert read_table(source).frame.rows() == frame.rows()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,name\na,b\nc,d,e\n", r"line 3 has 3 fields, the first line has 2: \['c', 'd', 'e'\]"),
        ("one\ntwo\n", "has one column"),
        ("a1,2024-05-01,3.5\nb2,2024-05-02,4\n", "no column names but values"),
        ("u1\t2009-05-04T23:08:57Z\tx\nu2\t2009-05-04T23:08:57Z\ty\n", "no column names but values"),  # Last.fm 1K
        ("id,id\na,b\n", "'id'. occur twice"),
        ("  \n", "is empty"),
        ("id,name\n", "has no rows"),
        ("id,name\na,žlutý\nb,\udce9\n", "line 3 is not UTF-8, as the others are"),
        ("id,name\na,b\nc,\0d\n", "line 3 holds a zero byte"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, text, message):
    (tmp_path / "t.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ReadError, match=message):
        read_table(tmp_path / "t.csv")


def test_other_files(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"a": 1}\n[2]\n')
    with pytest.raises(ReadError, match="line 2 is not a JSON object"):
        read_table(tmp_path / "t.jsonl")
    (tmp_path / "t.jsonl").write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(ReadError, match="line 2"):
        read_table(tmp_path / "t.jsonl")
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"id,name\na,b\n")[:-6])
    with pytest.raises(ReadError, match="Is the file complete"):
        read_table(tmp_path / "t.csv.gz")
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    with pytest.raises(ReadError, match="save it as csv"):
        read_table(tmp_path / "t.xlsx")
    with pytest.raises(ReadError, match="is a folder: give the one file"):
        read_table(tmp_path)
    with pytest.raises(ReadError, match="no such file"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(ReadError, match="got int"):
        read_table(3)


def test_lines_of_python(tmp_path):
    """Of Steam, and of the metadata of Amazon Reviews 2014, in which fields come and go."""
    path = tmp_path / "t.json"
    path.write_text("{u'id': u'007', 'x': {'a': [1]}, 'price': 1}\n{'id': 'it\\'s', 'ok': True, 'price': 1.5}\n")
    frame = read_table(path).frame
    assert frame["id"].to_list() == ["007", "it's"] and frame["price"].to_list() == [1, 1.5]
    assert frame["ok"].to_list() == [None, True]
    path.write_text("{'id': '1'}\n{'id': '2'\n")
    with pytest.raises(ReadError, match="t.json, line 2"):
        read_table(path)


def test_data_sets():
    orders = Dataset.from_dict(
        {"item": [1, 0], "n": [1, 2]}, features=Features(item=ClassLabel(names=["a", "b"]), n=Value("int64"))
    )
    for given in (orders, orders.to_iterable_dataset(), DatasetDict(train=orders)):
        assert read_table(given).frame.to_dict(as_series=False) == {"item": ["b", "a"], "n": [1, 2]}
    with pytest.raises(ReadError, match="orders: expected one data set, got the splits 'train', 'test': give one"):
        read_table(DatasetDict(train=orders, test=orders), "orders")


def test_ids():
    nan = float("nan")
    for column, expected in (
        ([17, None, 3], ["17", None, "3"]),
        ([17.0, None, 3.0, nan], ["17", None, "3", None]),
        ([" 017 ", "17.0", None], ["017", "17.0", None]),
        (
            ["17.0", " 3.0", None, "0.0"],
            ["17", "3", None, "0"],
        ),  # of pandas, where some are missing
        (["1.0", "1.1"], ["1.0", "1.1"]),
        ([12.5, 3.0], [None, None]),
        ([3.0, 1e30], [None, None]),
        ([["a"], ["b"]], [None, None]),
    ):
        assert as_ids(pl.Series("id", column)).to_list() == expected
