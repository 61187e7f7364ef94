"""Tables with named columns."""

import gzip
import json
from datetime import datetime
from datetime import time as clock
from decimal import Decimal

import polars as pl
import pytest

from trainers.data.readers import ReadError, TabularReader

SECOND = 1_000_000
LOG = pl.DataFrame(
    {
        "user_id": ["01", "1", "01"],
        "item_id": ["a", "b", "c"],
        "timestamp": [1_600_000_003, 1_600_000_002, 1_600_000_001],
        "rating": [5.0, None, 3.5],
    }
)
EXPECTED = [
    ("01", "a", 1_600_000_003 * SECOND, 5.0),
    ("1", "b", 1_600_000_002 * SECOND, None),
    ("01", "c", 1_600_000_001 * SECOND, 3.5),
]
ITEMS = [
    {"item_id": "a", "title": "A &amp; B", "features": ["x", ["y<br>", None]], "categories": [], "image": "a.jpg"},
    {"item_id": "b", "title": None, "brand": "Maker", "features": None, "image_url": "https://x/b.jpg", "price": 3},
]


@pytest.mark.parametrize("name", ["l.csv", "l.csv.gz", "l.tsv", "l.tsv.gz", "l.jsonl", "l.jsonl.gz", "l.parquet"])
def test_interactions(read, write, tmp_path, name):
    if name.endswith("parquet"):
        LOG.write_parquet(tmp_path / name)
    elif "jsonl" in name:
        write(name, LOG.write_ndjson())
    else:
        write(name, LOG.write_csv(separator="\t" if "tsv" in name else ","))
    log, items, _ = read(TabularReader(tmp_path / name))
    assert log == EXPECTED and items is None


def test_other_names_and_no_rating(read, write, tmp_path):
    path = write("l.csv", "when,sku,buyer,extra\n1600000000,a,u,x\n")
    reader = TabularReader(path, columns={"user_id": "buyer", "item_id": "sku", "timestamp": "when"})
    assert read(reader)[0] == [("u", "a", 1600000000 * SECOND, None)]
    assert reader.settings()["columns"]["user_id"] == "buyer"
    with pytest.raises(ReadError, match=r"l.csv lacks the columns \['user_id', 'item_id', 'timestamp'\]; it has"):
        read(TabularReader(path))
    with pytest.raises(ReadError, match="lacks the columns .'stars'"):
        read(TabularReader(path, columns=reader.columns | {"rating": "stars"}))
    with pytest.raises(ReadError, match="no column .'user'"):
        TabularReader(path, columns={"user": "buyer"})


@pytest.mark.parametrize("name", ["i.jsonl", "i.jsonl.gz", "i.parquet"])
def test_items(read, write, tmp_path, name):
    path = tmp_path / "shop" / name
    if name.endswith("parquet"):
        path.parent.mkdir()
        flat = ITEMS[0] | {"features": ["x", "y<br>", None]}
        schema = {"features": pl.List(pl.String), "categories": pl.List(pl.String)}
        pl.DataFrame([flat, ITEMS[1]], schema_overrides=schema, infer_schema_length=None).write_parquet(path)
    else:
        write(f"shop/{name}", "".join(json.dumps(item) + "\n" for item in ITEMS))
    _, items, _ = read(TabularReader(write("l.csv", LOG.write_csv()), path))
    assert items["a"]["title"] == "A & B" and items["a"]["features"] == ["x", "y"]
    assert items["a"]["image"] == str(tmp_path / "shop" / "a.jpg") and items["a"]["image_url"] is None
    assert items["b"]["title"] == "" and items["b"]["brand"] == "Maker" and items["b"]["features"] == []
    assert items["b"]["image"] is None and items["b"]["image_url"] == "https://x/b.jpg"


def test_items_in_csv(read, write, examples_of):
    content = 'sku,name,features\na,"A, and ""B""",red\n,nameless,\nb,"two\nlines",\na,again,\n'
    reader = TabularReader(
        write("l.csv", LOG.write_csv()), write("i.csv", content), item_columns={"item_id": "sku", "title": "name"}
    )
    _, items, report = read(reader)
    assert list(items) == ["a", "b"] and items["a"]["title"] == 'A, and "B"' and items["a"]["features"] == ["red"]
    assert items["b"]["title"] == "two lines"
    assert "i.csv, line 3: item_id" in examples_of(report, "items", "item_id is missing")
    assert "'a'" in examples_of(report, "items", "item_id is there already")


@pytest.mark.parametrize(
    "unit, values, expected",
    [
        ("s", ["1600000000", "1600000000.25"], [1_600_000_000_000_000, 1_600_000_000_250_000]),
        ("ms", ["1600000000123", "1600000000124"], [1_600_000_000_123_000, 1_600_000_000_124_000]),
        ("us", ["1600000000123456", "1"], [1_600_000_000_123_456, 1]),
        ("ns", ["1600000000123456789", "1600000000000000000"], [1_600_000_000_123_456, 1_600_000_000_000_000]),
        ("iso", ["2020-09-13T12:26:40Z", "2020-09-13"], [1_600_000_000_000_000, 1_599_955_200_000_000]),
        (
            "iso",
            ["2020-09-13 12:26:40 UTC", "2020-09-13 12:26:40.5 UTC"],
            [1_600_000_000_000_000, 1_600_000_000_500_000],
        ),
        ("iso", ["2020-09-13 14:26 +02:00", "2020-09-13T12:26Z"], [1_599_999_960_000_000] * 2),
        ("order", ["7", "-2"], [7, -2]),
    ],
)
def test_units_of_time(read, write, unit, values, expected):
    path = write("l.csv", "user_id,item_id,timestamp\n" + "".join(f"u,i,{value}\n" for value in values))
    assert [row[2] for row in read(TabularReader(path, timestamp_unit=unit))[0]] == expected


def test_dates_in_parquet(read, tmp_path):
    times = [datetime(2020, 9, 13, 12, 26, 40), None]
    pl.DataFrame({"user_id": [1, 2], "item_id": [3, 4], "timestamp": times}).write_parquet(tmp_path / "l.parquet")
    log, _, report = read(TabularReader(tmp_path / "l.parquet"))
    assert log == [("1", "3", 1_600_000_000 * SECOND, None)]
    assert report.count("interactions", "timestamp is missing") == 1


def test_ids_that_a_database_exports_as_decimals(read, tmp_path):
    users = [Decimal("7"), Decimal("12345678901234567890123456789012345678"), None]
    log = pl.DataFrame(
        {"user_id": users, "item_id": [Decimal("1.50"), Decimal("2.00"), Decimal("3.00")], "timestamp": [10**9] * 3},
        schema_overrides={"user_id": pl.Decimal(38, 0), "item_id": pl.Decimal(10, 2)},
    )
    log.write_parquet(tmp_path / "l.parquet")
    rows, _, report = read(TabularReader(tmp_path / "l.parquet"))
    assert [row[:2] for row in rows] == [("12345678901234567890123456789012345678", "2")]
    assert report.count("interactions", "item_id is no string or whole number") == 1
    assert report.count("interactions", "user_id is missing") == 1


@pytest.mark.parametrize(
    ("unit", "values", "expected"),
    [
        ("s", ["1600000000.75", "1600000000.25"], [1_600_000_000_750_000, 1_600_000_000_250_000]),
        ("ms", ["1600000000000.5", "1600000000000.0"], [1_600_000_000_000_500, 1_600_000_000_000_000]),
        ("us", ["1600000000000001", "1600000000000000"], [1_600_000_000_000_001, 1_600_000_000_000_000]),
    ],
)
def test_decimal_times_keep_what_is_after_the_point(read, tmp_path, unit, values, expected):
    times = [Decimal(each) for each in values]
    log = pl.DataFrame({"user_id": ["u", "u"], "item_id": ["b", "a"], "timestamp": times})
    log.write_parquet(tmp_path / "l.parquet")
    assert [row[2] for row in read(TabularReader(tmp_path / "l.parquet", timestamp_unit=unit))[0]] == expected


def test_an_order_in_decimals_is_of_whole_numbers(read, tmp_path, examples_of):
    places = [Decimal("3.5"), Decimal("4.0")]
    frame = pl.DataFrame({"user_id": ["u", "u"], "item_id": ["b", "a"], "timestamp": places})
    frame.write_parquet(tmp_path / "l.parquet")
    log, _, report = read(TabularReader(tmp_path / "l.parquet", timestamp_unit="order"))
    assert [row[1:3] for row in log] == [("a", 4)]
    assert "l.parquet, line 1: timestamp" in examples_of(report, "interactions", "timestamp is no integer")


def test_categories_in_parquet(read, tmp_path):
    LOG.with_columns(pl.all().cast(pl.String).cast(pl.Categorical)).write_parquet(tmp_path / "l.parquet")
    assert read(TabularReader(tmp_path / "l.parquet"))[0] == EXPECTED


@pytest.mark.parametrize(
    ("column", "values", "kind"),
    [("timestamp", [clock(1), clock(2)], "Time"), ("timestamp", [[1], [2]], "List"), ("rating", [[1], [2]], "List")],
)
def test_types_that_are_no_times_and_no_ratings(read, tmp_path, column, values, kind):
    pl.DataFrame(LOG.head(2).to_dict() | {column: values}).write_parquet(tmp_path / "l.parquet")
    with pytest.raises(ReadError, match=f"l.parquet: {column} holds values of type {kind}.*make them numbers or text"):
        read(TabularReader(tmp_path / "l.parquet"))


def test_a_log_with_every_fault(read, write, examples_of):
    rows = [
        ("u", "i", "1600000000"),
        ("", "i", "1600000000"),
        ("u", " ", "1600000000"),
        ("u", "i", ""),
        ("u", "i", "NaN"),
        ("u", "i", "inf"),
        ("u", "i", "soon"),
        ("u", "i", "0"),
        ("u", "i", "-5"),
        ("u", "i", "99999999999"),
    ]
    path = write("l.csv", "user_id,item_id,timestamp\n" + "".join(f"{','.join(row)}\n" for row in rows) + "u,i\n")
    log, _, report = read(TabularReader(path))
    assert len(log) == 1
    for reason, lines in [
        ("user_id is missing", [3]),
        ("item_id is missing", [4]),
        ("timestamp is missing", [5, 6, 12]),
        ("timestamp is infinite", [7]),
        ("timestamp is no number", [8]),
        ("timestamp is not after 1970-01-01", [9, 10]),
        ("timestamp is in the future", [11]),
    ]:
        assert report.count("interactions", reason) == len(lines)
        for line in lines:
            assert f"l.csv, line {line}:" in examples_of(report, "interactions", reason)


@pytest.mark.parametrize("layout", ["{}", '"{}"'])
def test_what_stands_for_an_empty_value_is_no_id_and_no_text(read, write, layout):
    """Diginetica's customers who are not known are "NA": together they would be the one with most interactions."""
    log = [("u1", "a"), ("NA", "a"), ("nan", "b"), ("NULL", "a"), ("u2", "None"), ("u2", "\\N"), ("nana", "b")]
    rows = "".join(f"{layout.format(user)},{item},1600000000\n" for user, item in log)
    items = f"item_id,title,brand\na,x,{layout.format('nan')}\nb,{layout.format('NaN 1')},None\n"
    paths = write("l.csv", f"user_id,item_id,timestamp\n{rows}"), write("i.csv", items)
    log, items, report = read(TabularReader(*paths))
    assert [row[:2] for row in log] == [("u1", "a"), ("nana", "b")]
    assert [(items[name]["title"], items[name]["brand"]) for name in "ab"] == [("x", ""), ("NaN 1", "")]
    assert [report.count("interactions", f"{name} is missing") for name in ("user_id", "item_id")] == [3, 2]


def test_lists_in_csv_are_lists(read, write):
    """As pandas writes them, of Python or of numpy; an item of empty ones alone has no text."""
    rows = [
        ("a", "['Sports & Outdoors', \"Men's, Boys'\"]", ["Sports & Outdoors", "Men's, Boys'"]),
        ("b", "['red dress'\n 'a\\xa0b']", ["red dress", "a b"]),
        ("c", "[]", []),
        ("d", "[REC] a film", ["[REC] a film"]),
        ("e", "Drama, Romance", ["Drama, Romance"]),
    ]
    table = pl.DataFrame(rows, schema=["item_id", "categories", "expected"], orient="row")
    paths = write("l.csv", "user_id,item_id,timestamp\nu,a,1600000000\n"), write("i.csv", table[:, :2].write_csv())
    items = read(TabularReader(*paths))[1]
    assert [items[row[0]]["categories"] for row in rows] == [row[2] for row in rows]


def test_a_column_that_is_named_and_in_no_line_of_json(read, write):
    """Though one that is empty in some lines, or in some shards, may be left out there."""
    log = '{"user_id": "u", "item_id": "a", "timestamp": 1600000000}\n'
    write("l/1.jsonl", log)
    folder = write("l/2.jsonl", log.replace("}", ', "stars": 4}')).parent
    items = write("i.jsonl", '{"item_id": "a", "name": "x"}\n')
    found = read(TabularReader(folder, items, {"rating": "stars"}, {"title": "name"}))
    assert [row[3] for row in found[0]] == [None, 4] and found[1]["a"]["title"] == "x"
    with pytest.raises(ReadError, match=r"l: no line has \['star'\]. Say which"):
        read(TabularReader(folder, items, {"rating": "star"}))
    with pytest.raises(ReadError, match=r"i.jsonl: no line has \['nmae'\]. Say which"):
        read(TabularReader(folder, items, item_columns={"title": "nmae"}))


def test_at_most_ten_examples(read, write):
    path = write("l.csv", "user_id,item_id,timestamp\nu,i,1600000000\n" + "u,i,x\n" * 12)
    _, _, report = read(TabularReader(path))
    entry = report.to_dict()["dropped"]["interactions"]["timestamp is no number"]
    assert entry["count"] == 12 and len(entry["examples"]) == 10
    lines = str(report).split("\n")
    assert lines[1] == "dropped 12 interactions: timestamp is no number" and lines[-1] == "    and 2 more"
    assert lines[2:-1] == [f"    {each}" for each in entry["examples"]]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_rows_without_times_stand_in_their_order(read, tmp_path, monkeypatch, kind):
    """As those of Book-Crossing, shard after shard."""
    monkeypatch.setattr("trainers.data.readers.tabular.TABLE_ROWS", 1)
    folder = tmp_path / "log"
    folder.mkdir()
    for number, items in enumerate(["cab", "dc"]):
        shard = pl.DataFrame({"user_id": ["u"] * len(items), "item_id": [*items]})
        write_shard = {"csv": shard.write_csv, "jsonl": shard.write_ndjson, "parquet": shard.write_parquet}[kind]
        write_shard(folder / f"{number}.{kind}")
    log, _, _ = read(TabularReader(folder, timestamp_unit="order"))
    assert [row[1] for row in sorted(log, key=lambda row: row[2])] == [*"cabdc"]
    if kind != "jsonl":
        with pytest.raises(ReadError, match=r"lacks the columns \['timestamp'\].* --timestamp_unit order"):
            read(TabularReader(folder))


def test_a_table_in_parts_keeps_its_order_and_lines(read, write, monkeypatch, examples_of):
    monkeypatch.setattr("trainers.data.readers.text_lines.TABLE_ROWS", 7)
    rows = "".join(f"u{row},i,{'x' if row == 50 else 1600000000 + row}\n" for row in range(100))
    log, _, report = read(TabularReader(write("l.csv", "user_id,item_id,timestamp\n" + rows)))
    assert [row[0] for row in log] == [f"u{row}" for row in range(100) if row != 50]
    assert "line 52" in examples_of(report, "interactions", "timestamp is no number")


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("l.csv", "user_id,item_id,timestamp\nu,i,1600000000\nu,a,b,1600000000\n", ["line 3 has 4 fields", "3"]),
        ("l.csv", b"user_id,item_id,timestamp\nu,\xc3\xa9\xc3\xa9,160\nu,\xe9,160\n", ["line 3", "UTF-8"]),
        ("l.csv", "user_id\nu\n", ["has one column"]),
        ("l.csv", 'user_id,item_id,timestamp\nu,i,1600000000\nu,"i,1600000000\n', ["line 3", "unexpected end"]),
        ("l.csv", "user_id,item_id,timestamp\n", ["No interaction is left"]),
        (
            "l.csv.gz",
            gzip.compress(b"user_id,item_id,timestamp\n" + b"u,i,1600000000\n" * 999, mtime=0)[:-12],
            ["complete"],
        ),
        ("l.parquet", "not parquet", ["l.parquet cannot be read"]),
        ("l.xlsx", "x", [".csv, .tsv, .txt, .jsonl, .parquet"]),
        ("l.csv", "user_id,item_id,timestamp\nu,i,1600000\n", ["1970-01-19", "'s'"]),
    ],
)
def test_files_that_cannot_be_read(read, tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ReadError) as error:
        read(TabularReader(tmp_path / name))
    for word in words:
        assert word in str(error.value)


def test_types_that_are_no_ids_and_no_paths(read, tmp_path):
    LOG.with_columns(user_id=pl.Series([True, False, None])).write_parquet(tmp_path / "l.parquet")
    with pytest.raises(ReadError, match="user_id holds values of type Boolean"):
        read(TabularReader(tmp_path / "l.parquet"))
    LOG.write_parquet(tmp_path / "l.parquet")
    pl.DataFrame({"item_id": ["a"], "image": [b"bytes"]}).write_parquet(tmp_path / "i.parquet")
    with pytest.raises(ReadError, match="not paths of files"):
        read(TabularReader(tmp_path / "l.parquet", tmp_path / "i.parquet"))
    with pytest.raises(ReadError, match="'weeks'"):
        read(TabularReader(tmp_path / "l.parquet", timestamp_unit="weeks"))


def test_texts_that_parquet_holds_as_bytes(read, write, tmp_path):
    texts = {"title": ["Käse &amp; Brot".encode(), None], "categories": [[b"A", b"B"], []], "brand": [b"\xff", b""]}
    pl.DataFrame({"item_id": ["a", "b"]} | texts).write_parquet(tmp_path / "i.parquet")
    _, items, _ = read(TabularReader(write("l.csv", LOG.head(2).write_csv()), tmp_path / "i.parquet"))
    assert items["a"]["title"] == "Käse & Brot" and items["a"]["categories"] == ["A", "B"]
    assert items["a"]["brand"] == "\ufffd" and items["b"]["title"] == items["b"]["brand"] == ""


def test_addresses_of_images_are_no_paths(read, tmp_path):
    LOG.write_csv(tmp_path / "l.csv")
    images = ["https://cdn.example.com/a.jpg", "b.jpg", "//cdn.example.com/c.jpg"]
    pl.DataFrame({"item_id": ["a", "b", "c"], "title": ["A", "B", "C"], "image": images}).write_csv(tmp_path / "i.csv")
    _, items, _ = read(TabularReader(tmp_path / "l.csv", tmp_path / "i.csv"))
    rows = {item_id: (row["image"], row["image_url"]) for item_id, row in items.items()}
    assert rows == {"a": (None, images[0]), "b": (str(tmp_path / "b.jpg"), None), "c": (None, images[2])}


@pytest.mark.parametrize(("name", "separator"), [("l.csv", ","), ("l.tsv", "\t"), ("l.csv.gz", ",")])
def test_a_line_with_too_many_fields_is_named_whichever_columns_are_read(read, tmp_path, name, separator):
    """The column zip is not read: the fields of the third line would move on, and with them user and item."""
    rows = [["user_id", "item_id", "timestamp", "zip"], ["u", "a", "1600000000", "1"]]
    rows.append(["Doe", " John", "a", "1600000001", "1"])
    text = "".join(separator.join(row) + "\n" for row in rows).encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    with pytest.raises(ReadError, match=f"{name} cannot be read: line 3 has 5 fields, the first line has 4"):
        read(TabularReader(tmp_path / name))
    LOG.write_csv(tmp_path / "good.csv")
    (tmp_path / "i.csv").write_text("item_id,price,title,year\na,$1,299.99,Stapler,2014\nb,3,Pens,2015\n")
    with pytest.raises(ReadError, match="i.csv cannot be read: line 2 has 5 fields, the first line has 4"):
        read(TabularReader(tmp_path / "good.csv", tmp_path / "i.csv"))


def test_two_columns_of_one_name(read, tmp_path):
    (tmp_path / "l.csv").write_bytes(b"\xef\xbb\xbfuser_id,item_id,timestamp,user_id\nu,a,1600000000,v\n")
    with pytest.raises(ReadError, match=r"the columns \['user_id'\] occur twice"):
        read(TabularReader(tmp_path / "l.csv"))


@pytest.mark.parametrize("end", ["\n", "\n\n"])
def test_whole_numbers_with_a_decimal_point_are_the_integers(read, tmp_path, end):
    """Also where a blank last line sends a part of the file down another path."""
    lines = [
        {"user_id": user, "item_id": item, "timestamp": 1600000000 + 10 * int(user) + place}
        for user in (0.0, 1.0, 2)
        for place, item in enumerate((0.0, 1, "2", 3.0))
    ]
    (tmp_path / "l.jsonl").write_text("\n".join(map(json.dumps, lines)) + end)
    (tmp_path / "i.jsonl").write_text("".join(f'{{"item_id": {row}, "title": "thing"}}\n' for row in range(4)) + end)
    log, items, report = read(TabularReader(tmp_path / "l.jsonl", tmp_path / "i.jsonl"))
    assert {row[0] for row in log} == {"0", "1", "2"} and {row[1] for row in log} == set(items) == set("0123")
    assert len(log) == 12 and not report.to_dict()["dropped"]
    frame = pl.DataFrame(lines, strict=False, schema_overrides={"user_id": pl.Float64, "item_id": pl.Float32})
    frame.write_parquet(tmp_path / "l.parquet")
    pl.DataFrame({"item_id": [0.0, 1.0, 2.0, 3.0], "title": ["t"] * 4}).write_parquet(tmp_path / "i.parquet")
    again, items, _ = read(TabularReader(tmp_path / "l.parquet", tmp_path / "i.parquet"))
    assert [row[:2] for row in again] == [row[:2] for row in log] and set(items) == set("0123")


@pytest.mark.parametrize("end", ["\n", "\n\n"])
def test_what_is_no_id_is_left_out_by_line(read, tmp_path, end):
    lines = ['"true"', "true", "1.5", '"1.5"', "7"]
    rows = [
        f'{{"user_id": "u", "item_id": {each}, "timestamp": {1600000000 + row}}}' for row, each in enumerate(lines)
    ]
    (tmp_path / "l.jsonl").write_text("\n".join(rows) + end)
    (tmp_path / "i.jsonl").write_text("".join(f'{{"item_id": {each}, "title": "t"}}\n' for each in lines) + end)
    log, items, report = read(TabularReader(tmp_path / "l.jsonl", tmp_path / "i.jsonl"))
    assert [row[1] for row in log] == [*items] == ["true", "1.5", "7"]
    for kind, file in (("interactions", "l.jsonl"), ("items", "i.jsonl")):
        ((reason, entry),) = report.to_dict()["dropped"][kind].items()
        assert "no string or whole number" in reason and entry["count"] == 2
        assert f"{file}, line 2: item_id 'True' of type bool is no id" in entry["examples"][0]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("encoding", "mark", "name"),
    [
        ("utf-8", b"", "l.csv"),
        ("utf-8", b"\xef\xbb\xbf", "l.tsv"),
        ("cp1252", b"", "l.csv.gz"),
        ("utf-16-le", b"\xff\xfe", "l.txt"),
        ("utf-16-be", b"", "l.csv"),
    ],
)
def test_csv_of_any_separator_encoding_and_line_end(read, write, separator, line_end, encoding, mark, name):
    rows = [(" user_id ", "item_id", "timestamp", "rating"), ("Jürgen", "café", "1600000000", '"4,5"')]
    rows += [("Zoë", "thé, vert", "1600000001", "3.5"), ("x", "y", "1600000002", "")]
    text = "".join(
        separator.join(f'"{cell}"' if separator in cell and '"' not in cell else cell for cell in row) + line_end
        for row in rows
    )
    reader = TabularReader(write(name, mark + text.encode(encoding)))
    assert read(reader)[0] == [
        ("Jürgen", "café", 1600000000 * SECOND, 4.5),
        ("Zoë", "thé, vert", 1600000001 * SECOND, 3.5),
        ("x", "y", 1600000002 * SECOND, None),
    ]
    shown = {"\t": "tab"}.get(separator, f"'{separator}'")
    assert reader.settings()["layouts"] == {name: f"separator {shown}, {encoding}"}


def test_layouts_that_are_given(read, write):
    path = write("l.csv", "user_id|item_id|timestamp\nпётр|a|1600000000\n".encode("koi8-r"))
    assert read(TabularReader(path, encoding="koi8-r"))[0][0][0] == "пётр"
    assert read(TabularReader(path))[0][0][0] != "пётр"
    path = write("t.csv", "user_id\titem_id\ttimestamp\na;b;c\td;e;f\t1600000000\n")
    assert read(TabularReader(path, separator="tab"))[0][0][:2] == ("a;b;c", "d;e;f")
    with pytest.raises(ReadError, match="lacks the columns .* It was read with separator ',', utf-8"):
        read(TabularReader(path, separator=","))
    with pytest.raises(ReadError, match="separator is one character, or one of tab"):
        read(TabularReader(path, separator="::"))
    with pytest.raises(ReadError, match="encoding is one that Python knows"):
        read(TabularReader(path, encoding="klingon"))
    odd = write("o.csv", b"user_id,item_id,timestamp\nu,i,1600000000\nu,\x81,1600000000\n")
    with pytest.raises(ReadError, match="o.csv, line 3 is not cp1252"):
        read(TabularReader(odd, encoding="cp1252"))
    assert read(TabularReader(odd))[0][1][1] == "\x81"


def test_layout_of_a_file_in_parts(read, write, monkeypatch):
    """A character may lie in two parts, and the only one that is no UTF-8 may come late."""
    monkeypatch.setattr("hub_cards.csv_layout.CHUNK_BYTES", 7)
    text = "user_id,item_id,timestamp\n" + "".join(f"ü{row},é,1600000000\n" for row in range(9))
    for encoding in ("utf-8", "cp1252", "utf-16"):
        log = read(TabularReader(write("l.csv", text.encode(encoding))))[0]
        assert [row[:2] for row in log] == [(f"ü{row}", "é") for row in range(9)], encoding


def written(rows, places, text):
    header = "user_id,item_id,timestamp,review\n"
    return header + "".join(f"u{n},i,{1600000000 + n},{text if n in places else 'fine'}\n" for n in range(rows))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("name", ["l.csv", "l.csv.gz"])
def test_no_row_is_lost_between_quotes_after_a_backslash(read, write, monkeypatch, name, encoding):
    monkeypatch.setattr("hub_cards.csv_layout.CHUNK_BYTES", 1001)
    reader = TabularReader(write(name, written(1000, (100, 700), r'"so \"good"').encode(encoding)))
    log, _, report = read(reader)
    assert [row[0] for row in log] == [f"u{n}" for n in range(1000)] and not report.dropped("interactions")
    assert next(iter(reader.settings()["layouts"].values())).endswith(", quotes after a backslash")


def test_backslashes_whose_meaning_cannot_be_told_are_named(read, write):
    text = written(5, (1,), r'"so \"good"') + 'u,i,1600000000,"C:\\"\n'
    with pytest.raises(ReadError, match="l.csv cannot be read: the row that starts on line 3"):
        read(TabularReader(write("l.csv", text)))


@pytest.mark.parametrize("chunk", [7, 2**20])
def test_no_row_is_lost_between_quotes_that_are_not_doubled(read, write, monkeypatch, chunk):
    monkeypatch.setattr("trainers.data.readers.text_lines.CHUNK_BYTES", chunk)
    with pytest.raises(ReadError, match="l.csv cannot be read: the row that starts on line 102"):
        read(TabularReader(write("l.csv", written(1000, (100, 700), '"so " good"'))))


@pytest.mark.parametrize("places", [(3,), (3, 70_000), (60_000, 130_000)])
def test_quotes_within_unquoted_texts(read, write, monkeypatch, places):
    """In batches and parts of batches; polars would leave out rows, then end with an error."""
    monkeypatch.setattr("trainers.data.readers.text_lines.TABLE_ROWS", 20_000)
    text = written(150_000, places, 'TV 32" LCD') + "u,,1600000000\n"
    log, _, report = read(TabularReader(write("l.csv", text), write("i.tsv", 'item_id\ttitle\ni\tTV 32" LCD\nj\tb\n')))
    assert [row[0] for row in log] == [f"u{n}" for n in range(150_000)]
    assert report.dropped("interactions") == 1 and "line 150002" in str(report.to_dict())
