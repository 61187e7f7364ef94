"""Csv files as people have them, and as data folders hold them: one rule for all."""

import numpy as np
import polars as pl
import pytest

from hub_cards.csv_layout import CsvError
from hub_cards.csv_table import read_csv
from tokenization_items.catalogue import Catalogue
from trainers.data.interactions import Interactions
from trainers.data.tables import read_table

ITEMS = "item_id,title,price\n007,Tür,\n1e5,Stück; klein,3\n"
LOG = "user_id;item_id;timestamp;rating\nu;007;1,5;4,5\nu;1e5;2,5;\nw;007;1;3\n"


def written(text, separator=",", encoding="utf-8", line_end="\n"):
    return text.replace(",", separator).replace("\n", line_end).encode(encoding)


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"encoding": "utf-8-sig"},
        {"separator": "\t", "encoding": "cp1252"},
        {"separator": "|", "line_end": "\r\n"},
        {"line_end": "\r", "encoding": "cp1252"},
        {"encoding": "utf-16"},
        {"separator": "\t", "encoding": "utf-16-be"},
    ],
)
def test_items_of_a_folder_are_what_the_file_says(tmp_path, layout, caplog):
    """Ids as they stand, texts with their letters; whatever the layout."""
    (tmp_path / "items.csv").write_bytes(written(ITEMS, **layout))
    catalogue = Catalogue.from_folder(tmp_path)
    assert catalogue.item_ids == ["007", "1e5"] and catalogue.titles == ["Tür", "Stück; klein"]
    usual = layout.get("separator", ",") == "," and layout.get("encoding", "utf-8").startswith("utf-8")
    assert ("items.csv was read with" in caplog.text) == (not usual)
    frame = read_table(tmp_path / "items.csv").frame
    assert frame["item_id"].to_list() == catalogue.item_ids and frame["title"].to_list() == catalogue.titles


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_interactions_of_a_folder(tmp_path, encoding):
    """Separated by semicolons, with decimal commas in times and ratings."""
    (tmp_path / "interactions.csv").write_bytes(LOG.encode(encoding))
    found = Interactions.from_folder(tmp_path, ["007", "1e5"])
    assert [found.sequence(user).tolist() for user in range(2)] == [[0, 1], [0]]
    np.testing.assert_array_equal(found.ratings, np.array([4.5, np.nan, 3], np.float32))


def test_blanks_around_names_and_rows_without_values(tmp_path):
    (tmp_path / "items.csv").write_text("item_id , title\na,b\n,\n\nc,d\n")
    assert Catalogue.from_folder(tmp_path).titles == ["b", "d"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "t.csv is empty"),
        (b"\xef\xbb\xbf \n", "t.csv is empty"),
        (b"a;b\nc\n1;2;3\n", "line 3 has 3 fields, the first line has 2"),
        (b'a,b\n1,2\n"3,4\n', "the row that starts on line 3"),
        ("a,b\ngrün,süß\n".encode() + b"x,\xfc\n", "t.csv, line 3 is not UTF-8, as the others are"),
        ("a,b\ngr,s\n".encode("utf-16")[:-1], "t.csv is not utf-16-le, as its beginning is"),
        (b"a,b\nc,d\0\n", "t.csv, line 2 holds a zero byte"),
        (b"item_id\na\n", "one column, by comma, semicolon, tab or bar"),
        (b"a;b; a \n1;2;3\n", r"the columns \['a'\] occur twice: rename one"),
    ],
)
def test_what_is_no_table_is_named_with_its_line(data, said):
    with pytest.raises(CsvError, match=said):
        read_csv(data, "t.csv")


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (r'1,"a \" b"|2,x|3,"c \" d"|', [("1", 'a " b'), ("2", "x"), ("3", 'c " d')]),
        (r'1,"say \"hi\" now"|', [("1", 'say "hi" now')]),  # polars would read: say \hi\ now
        (r'1,"12\""|2,"14\", b"|', [("1", '12"'), ("2", '14", b')]),  # before an end and a separator
        (r'1,"\",|x"|2,b|', [("1", '",\nx'), ("2", "b")]),  # no row is short
        (r'1,"C:\new \"x\" \\"|2|"3",""|', [("1", r'C:\new "x" ' + "\\"), ("2", None), ("3", None)]),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_quotes_after_a_backslash(text, rows, encoding):
    """As Spark and MySQL write them; no row is lost between two of them."""
    frame, layout = read_csv(("id,title|" + text).replace("|", "\n").encode(encoding), "t.csv")
    assert frame.rows() == rows and frame.columns == ["id", "title"]
    assert str(layout).endswith(", quotes after a backslash") and not layout.is_usual


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (r'1,"C:\"|2,b|3,"D:\"|', [("1", "C:\\"), ("2", "b"), ("3", "D:\\")]),
        (r'1,"{""k"": ""a \""b\"" c""}"|', [("1", r'{"k": "a \"b\" c"}')]),  # JSON in csv
        (r"1,5\" pipe|", [("1", r"5\" pipe")]),  # within an unquoted text
        (r'1,"C:\"|2,' + "x" * 200_000 + "|", [("1", "C:\\"), ("2", "x" * 200_000)]),
    ],
)
def test_backslashes_before_quotes_that_are_doubled(text, rows):
    frame, layout = read_csv(("id,title|" + text).replace("|", "\n").encode(), "t.csv")
    assert frame.rows() == rows and layout.is_usual


def test_backslashes_whose_meaning_cannot_be_told():
    with pytest.raises(
        CsvError, match="t.csv cannot be read: the row that starts on line 3: .* starts on line 2: .* double"
    ):
        read_csv(b'id,title\n1,"C:\\"\n2,"a \\" b"\n', "t.csv")
    with pytest.raises(CsvError, match="t.csv: of the row that starts on line 3 it cannot be told"):
        read_csv(b'id,title\n1,b\n"12\\"",", x"\n', "t.csv")


@pytest.mark.parametrize("separator", [",", "\t"])
@pytest.mark.parametrize("rows", [['TV 32" LCD', "b"], ['TV 32"', "b", '40" x', 'a 5" x 7"', ""]])
def test_quotes_within_unquoted_texts(rows, separator):
    text = "".join(
        f"{separator.join(row)}\n" for row in [("id", "title", "n"), *((str(n), t, "1") for n, t in enumerate(rows))]
    )
    frame, _ = read_csv(text.encode(), "t.csv")
    assert frame["title"].to_list() == [each or None for each in rows] and frame["n"].to_list() == ["1"] * len(rows)


@pytest.mark.parametrize("places", [(1, 3), (2,), (1, 2, 3)])
def test_quotes_that_are_not_doubled_lose_no_row(places):
    """Between two of them polars would take all rows for one text."""
    rows = "".join(f'{row},"15 " screen {row}"\n' if row in places else f"{row},plain\n" for row in range(5))
    with pytest.raises(CsvError, match=rf"the row that starts on line {places[0] + 2}: .*each quote in it doubled"):
        read_csv(f"id,title\n{rows}".encode(), "items.csv")


@pytest.mark.parametrize("more", ["", 'x "y" z', '"a \\" b"'])
def test_what_programs_write_for_an_empty_field(more):
    """Whichever way the rows are read."""
    frame, _ = read_csv(f"item_id,title,brand\n1,NaN,nano\n2,NULL,\\N\n3,{more},<NA>\n".encode(), "items.csv")
    assert frame["item_id"].to_list() == ["1", "2", "3"] and frame["title"].head(2).to_list() == [None, None]
    assert frame["brand"].to_list() == ["nano", None, None]


def test_a_mark_between_rows_is_a_text():
    frame, layout = read_csv("a|b\n\ufeffc|d,e\n".encode(), "t.csv")
    assert frame.equals(pl.DataFrame({"a": ["\ufeffc"], "b": ["d,e"]})) and str(layout) == "separator '|', utf-8"
