"""Rows of csv tables that are not what the header says: which one, in words."""

import pytest

from hub_cards.csv_rows import bad_row, repeated_columns


@pytest.mark.parametrize(
    ("text", "arguments", "said"),
    [
        ("a,b\n1,2\n3\n", {}, None),  # a short row has empty fields
        ("a,b\n1,2\n3,4,5\n", {}, "line 3 has 3 fields, the first line has 2: ['3', '4', '5']."),
        ('a,b\n"x\ny",2\n3,4,5\n', {}, "line 4 has 3 fields"),  # lines of a text are counted
        ('a,b\n1,"2\n3,4\n', {}, "the row that starts on line 2: "),
        ("a;b\n1,2,3;4\n", {"separator": ";"}, None),
        ('a\tb\n"1\t2\t3\n', {"separator": "\t", "quote": None}, "line 2 has 3 fields"),
        ("", {}, None),
    ],
)
def test_the_first_bad_row_is_named(text, arguments, said):
    found = bad_row(text.splitlines(keepends=True), **arguments)
    assert found is None if said is None else found.startswith(said)


def test_columns_of_one_name():
    assert repeated_columns(["a,b, a ,c,b\n", "1,1,1\n"]) == ["a", "b"]
    assert repeated_columns(["\ufeffa,b,a\n"]) == ["a"]  # with the mark of an editor
    assert repeated_columns(["a,,\n"]) == []  # those without a name are none
    assert repeated_columns(["a|b|a\n"], "|") == ["a"] and repeated_columns([]) == []
    assert repeated_columns(['"a\n', "b,c\n"]) == []  # which `bad_row` says
