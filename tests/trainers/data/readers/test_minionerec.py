"""MiniOneRec's two layouts, and sequences put together again from windows of them."""

import csv
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.data.readers import MiniOneRecReader, ReadError
from trainers.data.readers.base import ReadingReport
from trainers.data.readers.sequence_rebuilder import SequenceRebuilder

HEADER = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
ITEMS = json.dumps({str(row): {"title": f"Item {row}", "description": "", "categories": "A"} for row in range(10)})


def test_inter_files(read, write, tmp_path):
    write("Office.train.inter", f"{HEADER}3\t1 2\t3\n3\t1 2 3\t4\n5\t\t6\n")
    write("Office.valid.inter", f"{HEADER}3\t3 4\t1\n")
    write("Office.test.inter", f"{HEADER}5\t6\t7\n")
    write("Office.item.json", ITEMS)
    log, items, report = read(MiniOneRecReader(tmp_path))
    assert [row[:3] for row in log] == [
        *(("3", item, place) for place, item in enumerate("12341")),
        *(("5", item, place) for place, item in enumerate("67")),
    ]
    assert len(items) == 10 and report.dropped("windows") == 0


def examples_csv(rows):
    names = "user_id,history_item_title,item_title,history_item_id,item_id,history_item_sid,item_sid".split(",")
    file = io.StringIO()
    writer = csv.DictWriter(file, names)
    writer.writeheader()
    for user, history, item in rows:
        titles = str([f'It\'s "{each}", nice' for each in history])
        writer.writerow(
            {
                "user_id": user,
                "history_item_title": titles,
                "item_title": f"Item, {item}",
                "history_item_id": str(history),
                "item_id": item,
                "history_item_sid": "['<a_1><b_2>']",
                "item_sid": "<a_1><b_3>",
            }
        )
    return file.getvalue()


def test_csv_files(read, write, tmp_path):
    name = "Industrial_and_Scientific_5_2016-10-2018-11.csv"
    write(f"train/{name}", examples_csv([("A0", [1], 2), ("A0", [1, 2], 3), ("A1", [5], 5)]))
    write(f"valid/{name}", examples_csv([("A0", [2, 3], 4)]))
    write(f"test/{name}", examples_csv([("A1", [5, 5], 5)]))
    write("index/Industrial_and_Scientific.item.json", ITEMS)
    write("index/Industrial_and_Scientific.index.json", "{}")
    log, items, _ = read(MiniOneRecReader(tmp_path))
    assert [row[:2] for row in log] == [*(("A0", item) for item in "1234"), *(("A1", item) for item in "555")]
    # a second data set in the same folders
    for part in ("train", "valid", "test"):
        write(f"{part}/Office_Products_5_2016-10-2018-11.csv", examples_csv([("A9", [1], 2)]))
    write("index/Office_Products.item.json", ITEMS)
    with pytest.raises(ReadError, match="Office_Products"):
        MiniOneRecReader(tmp_path).files()
    assert len(MiniOneRecReader(tmp_path, "Office_Products").files()) == 4


def test_bad_rows_are_named(read, write, tmp_path, examples_of):
    write("X.train.inter", f"{HEADER}3\t1 2\t3\n3\t8 9\t4\n")
    write("X.valid.inter", f"{HEADER}3\t1 2 3\t5\n")
    write("X.test.inter", f"{HEADER}3\t9\t5\n")
    write("X.item.json", ITEMS)
    log, _, report = read(MiniOneRecReader(tmp_path))
    assert [row[1] for row in log] == list("1235")
    examples = examples_of(report, "windows", "the row does not continue its user's sequence")
    assert "X.train.inter, line 3: user '3'" in examples and "X.test.inter, line 2" in examples
    write("X.test.inter", f"{HEADER}\t9\t5\n")
    with pytest.raises(ReadError, match="X.test.inter, line 2: the user or the item is missing"):
        read(MiniOneRecReader(tmp_path))
    for part in ("train", "valid", "test"):
        write(f"c/{part}/x.csv", 'user_id,history_item_id,item_id\nu,"[1, \'x",3\n')
    write("c/index/x.item.json", ITEMS)
    with pytest.raises(ReadError, match="x.csv, line 2: history_item_id is no list"):
        read(MiniOneRecReader(tmp_path / "c"))


@settings(max_examples=50, deadline=None)
@given(
    sequences=st.lists(st.lists(st.sampled_from("abcd"), min_size=2, max_size=9), min_size=1, max_size=4),
    window=st.integers(1, 9),
    shrinking=st.booleans(),
)
def test_windows_give_the_sequences_back(sequences, window, shrinking):
    """Rows of LC-Rec (shrinking, not cut) and of MiniOneRec (growing, cut); the last item is in another file."""
    if shrinking:
        window = 9
    training, test = [], []
    for user, items in enumerate(sequences):
        rows = [("", str(user), items[max(0, i - window) : i], items[i]) for i in range(1, len(items))]
        training += rows[-2::-1] if shrinking else rows[:-1]
        test.append(rows[-1])
    report = ReadingReport()
    rebuilder = SequenceRebuilder(report)
    rebuilder.add(training)
    rebuilder.add(test)
    found = [rebuilder.sequences[str(user)] for user in range(len(sequences))]
    assert found == sequences and report.dropped("windows") == 0
