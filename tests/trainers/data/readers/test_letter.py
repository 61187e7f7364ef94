"""LETTER's and LC-Rec's JSON files."""

import json

import pytest

from trainers.data.readers import LetterReader, ReadError

ITEMS = {
    "0": {"title": "AT&amp;T 210", "description": "", "brand": "AT&amp;T", "categories": "Office Electronics, Phones"},
    "1": {"title": "Pens", "description": ["One<br>", "two"], "brand": "", "categories": ["Pens", "Writing"]},
    "2": {"title": "Bare"},
}


def test_letter(read, write, tmp_path):
    write("Office.inter.json", json.dumps({"0": [2, 0, 1, 0], "1": [1]}))
    write("Office.item.json", json.dumps(ITEMS, indent=4))
    write("Office.index.json", "{}")
    log, items, _ = read(LetterReader(tmp_path))
    assert log == [
        ("0", "2", 0, None),
        ("0", "0", 1, None),
        ("0", "1", 2, None),
        ("0", "0", 3, None),
        ("1", "1", 0, None),
    ]
    assert list(items) == ["0", "1", "2"]
    assert items["0"]["title"] == "AT&T 210" and items["0"]["brand"] == "AT&T"
    assert items["0"]["categories"] == ["Office Electronics, Phones"] and items["0"]["description"] == ""
    assert items["1"]["description"] == "One two" and items["1"]["categories"] == ["Pens", "Writing"]
    assert items["2"]["categories"] == [] and items["2"]["brand"] == ""


def test_empty_sequences_missing_ids_and_odd_items(read, write, tmp_path, examples_of):
    write("X.inter.json", '{"0": [], "1": [0, null, 1, ""]}')
    write("X.item.json", '{"0": {"title": "a"}, "1": "just a text"}')
    log, items, report = read(LetterReader(tmp_path))
    assert [row[1] for row in log] == ["0", "1"] and [row[2] for row in log] == [0, 2]
    assert "X.inter.json, user '1', place 1" in examples_of(report, "interactions", "item_id is missing")
    assert list(items) == ["0"]
    assert "X.item.json, item '1'" in examples_of(report, "items", "the item is no object")


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("X.inter.json", '{"0": [1, 2],\n "1": [3,', ["X.inter.json", "line 2", "not JSON"]),
        ("X.inter.json", '{"0": [1], "0": [2]}', ["X.inter.json", "'0' occurs twice"]),
        ("X.inter.json", "[[1, 2]]", ["X.inter.json", "expected an object"]),
        ("X.inter.json", '{"7": 3}', ["X.inter.json", "user '7'", "list of items"]),
        ("X.inter.json", '{"7": [[3]]}', ["user '7'", "list of items"]),
        ("X.inter.json", '{"7": []}', ["No interaction is left"]),
        ("X.inter.json", b'{"\xe9": [1]}', ["X.inter.json", "UTF-8"]),
        ("X.item.json", "{", ["X.item.json", "line 1"]),
        ("X.item.json", "{}", ["No item is left"]),
    ],
)
def test_files_that_cannot_be_read(read, write, tmp_path, name, content, words):
    write("X.inter.json", '{"0": [0]}')
    write("X.item.json", '{"0": {"title": "a"}}')
    write(name, content)
    with pytest.raises(ReadError) as error:
        read(LetterReader(tmp_path))
    for word in words:
        assert word in str(error.value)


def test_which_files(read, write, tmp_path):
    with pytest.raises(ReadError, match="found none"):
        LetterReader(tmp_path).files()
    write("A.inter.json", '{"0": [0]}')
    with pytest.raises(ReadError, match="A.item.json: no such file"):
        LetterReader(tmp_path).files()
    write("A.item.json", '{"0": {"title": "a"}}')
    write("B.inter.json", '{"0": [0]}')
    with pytest.raises(ReadError, match="A.inter.json.*B.inter.json"):
        LetterReader(tmp_path).files()
    assert [path.name for path in LetterReader(tmp_path, "A").files()] == ["A.inter.json", "A.item.json"]
