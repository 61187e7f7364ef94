"""RecBole's atomic files: ml-100k's, an Amazon category's, one without times, and the variant with parts."""

import pytest

from trainers.data.readers import ReadError, RecBoleReader

SECOND = 1_000_000


def test_ml_100k(read, write, tmp_path):
    write(
        "ml-100k.inter",
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t242\t3\t881250949\n186\t302\t3\t8.91717742e8\n",
    )
    write(
        "ml-100k.item",
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        '242\tKolya\t1996\tComedy\n302\tL.A. "Confidential"\t1997\tCrime Film-Noir Mystery Thriller\n303\t\t\t\n',
    )
    write("ml-100k.user", "user_id:token\tage:token\n196\t49\n")
    reader = RecBoleReader(tmp_path)
    log, items, report = read(reader)
    assert log == [("196", "242", 881250949 * SECOND, 3.0), ("186", "302", 891717742 * SECOND, 3.0)]
    assert items["302"]["title"] == 'L.A. "Confidential"'  # quotes are text
    assert items["302"]["categories"] == ["Crime", "Film-Noir", "Mystery", "Thriller"]
    assert items["303"]["title"] == "" and items["303"]["categories"] == []
    assert reader.settings()["unused_item_columns"] == ["release_year:token"]


def test_amazon_and_lists_with_commas(read, write, tmp_path):
    write("Amazon.inter", "user_id:token\titem_id:token\trating:float\ttimestamp:float\nA\tB\t5.0\t1385078400\n")
    write(
        "Amazon.item",
        "item_id:token\ttitle:token\tprice:float\tsales_type:token\tsales_rank:float\tbrand:token\tcategories:token_seq\n"
        "B\tA &amp; B\t9.99\t\t\tFender\t'Sports & Outdoors', 'Cycling'\n",
    )
    _, items, _ = read(RecBoleReader(tmp_path))
    assert items["B"]["title"] == "A & B" and items["B"]["brand"] == "Fender"
    assert items["B"]["categories"] == ["Sports & Outdoors", "Cycling"]


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("'Sports & Outdoors'", ["Sports & Outdoors"]),
        ("['Hair Care']", ["Hair Care"]),
        ("'Bags, Cases & Sleeves', 'Laptop'", ["Bags, Cases & Sleeves", "Laptop"]),
        ("['Women\\'s, Girls\\'', \"Men's\"]", ["Women's, Girls'", "Men's"]),
        ("'Men's Shoes'", ["Men's Shoes"]),
        ("'Men's', 'Shoes'", ["Men's", "Shoes"]),
        ("[]", []),
        ("[Drama, Film Noir]", ["Drama", "Film Noir"]),
        ("Animation Children's Comedy", ["Animation", "Children's", "Comedy"]),
        ("'Til Dawn", ["'Til", "Dawn"]),
        ("'A' 'B'", ["A", "B"]),
    ],
)
def test_lists_of_quoted_entries(read, write, tmp_path, text, entries):
    write("x.inter", "user_id:token\titem_id:token\nu\tB\n")
    write("x.item", f"item_id:token\ttitle:token\tcategories:token_seq\nB\tx\t{text}\n")
    assert read(RecBoleReader(tmp_path))[1]["B"]["categories"] == entries


def test_without_times_the_file_is_in_order(read, write, tmp_path):
    write("x.inter", "item_id:token\tuser_id:token\nb\tu\na\tv\na\tu\n")
    reader = RecBoleReader(tmp_path)
    log, items, _ = read(reader)
    assert [row[:2] for row in log] == [("u", "b"), ("v", "a"), ("u", "a")] and items is None
    assert [row[2] for row in log] == [2, 3, 4]  # lines
    assert "place in the file" in reader.settings()["timestamp"]


def test_other_names(read, write, tmp_path):
    write("x.inter", "reader:token\titem_id:token\ttimestamp:float\nu\tb\t1385078400000\n")
    write("x.item", "item_id:token\theadline:token_seq\nb\tA headline\n")
    reader = RecBoleReader(
        tmp_path, columns={"user_id": "reader"}, item_columns={"title": "headline"}, timestamp_unit="ms"
    )
    log, items, _ = read(reader)
    assert log[0][:3] == ("u", "b", 1385078400 * SECOND) and items["b"]["title"] == "A headline"
    with pytest.raises(ReadError, match="x.inter lacks the column user_id or session_id; it has .*'reader'"):
        read(RecBoleReader(tmp_path))
    with pytest.raises(ReadError, match="lacks the column nobody"):
        read(RecBoleReader(tmp_path, columns={"user_id": "nobody"}))
    with pytest.raises(ReadError, match="no column .'age'"):
        read(RecBoleReader(tmp_path, columns={"age": "reader"}))


HEADER = "user_id:token\titem_id_list:token_seq\titem_id:token\n"


def test_parts_with_histories(read, write, tmp_path):
    # as LC-Rec writes them: the training rows of a user from the longest to the shortest
    write("Games.train.inter", f"{HEADER}0\t1 2 3\t4\n0\t1 2\t3\n0\t1\t2\n1\t7\t8\n")
    write("Games.valid.inter", f"{HEADER}0\t1 2 3 4\t5\n1\t7 8\t9\n")
    write("Games.test.inter", f"{HEADER}0\t1 2 3 4 5\t6\n1\t7 8 9\t7\n")
    log, items, report = read(RecBoleReader(tmp_path))
    assert [(user, item) for user, item, *_ in log] == [("0", str(i)) for i in range(1, 7)] + [
        ("1", item) for item in "7897"
    ]
    assert [row[2] for row in log] == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]
    assert items is None and report.dropped("windows") == 0


def test_several_data_sets_in_a_folder(read, write, tmp_path):
    for name in ("a", "b"):
        write(f"{name}.inter", f"user_id:token\titem_id:token\ttimestamp:float\n{name}\ti\t1385078400\n")
    with pytest.raises(ReadError, match="a.inter.*b.inter"):
        RecBoleReader(tmp_path).files()
    log, _, _ = read(RecBoleReader(tmp_path, name="b"))
    assert log[0][0] == "b"
    with pytest.raises(ReadError, match="c.inter, found none"):
        RecBoleReader(tmp_path, name="c").files()


def test_bad_files(read, write, tmp_path, examples_of):
    write("x.inter", "user_id\titem_id:token\nu\tb\n")
    with pytest.raises(ReadError, match="line 1: .'user_id'. have no type"):
        read(RecBoleReader(tmp_path))
    write("x.inter", "user_id:token\titem_id:token\ttimestamp:float\nu\tb\t1385078400\tmore\n")
    with pytest.raises(ReadError, match="x.inter.*line 2 has 4 fields, the first line has 3"):
        read(RecBoleReader(tmp_path))
    write("x.inter", "user_id:token\titem_id:token\ttimestamp:float\nu\tb\t1385078400\nu\tb\tnan\nu\tb\t\n")
    _, _, report = read(RecBoleReader(tmp_path))
    assert "x.inter, line 3" in examples_of(report, "interactions", "timestamp is missing")
    assert "x.inter, line 4" in examples_of(report, "interactions", "timestamp is missing")


def test_a_line_with_too_many_fields_is_named(read, write, tmp_path):
    """Though the column where they are too many is not read."""
    header = "user_id:token\titem_id:token\ttimestamp:float\tplace:token\n"
    write("x.inter", header + "u\ta\t1600000000\tx\nu\tb\tmore\t1600000001\tx\n")
    with pytest.raises(ReadError, match="x.inter cannot be read: line 3 has 5 fields, the first line has 4"):
        read(RecBoleReader(tmp_path))
