"""HTML of shops, against the same rules in plain Python."""

import html
import re

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.data.readers.html_text import REPLACEMENTS, clean_html

PIECES = ["a", " ", "<b>", "</b>", "<br />", "<p class='x'>", "&amp;", "&quot;", "&amp;lt;", "&#39;", "&#x27;", "&lt;"]
PIECES += ["&nbsp;", "&unknown;", "&", ";", "<", ">", "3", "\n", "é", "<!-- c -->", "<script>x</script>", "<Untitled>"]


def naive(text):
    for _ in range(2):
        text = re.sub(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});", unescape, text)
    for pattern, replacement in REPLACEMENTS:
        text = re.sub(pattern, replacement, text)
    return text.strip()


def unescape(match):
    return html.unescape(match.group())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), min_size=1, max_size=8))
def test_as_plain_python_does(texts):
    assert clean_html(pl.Series(texts)).to_list() == [naive(text) for text in texts]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Girl&#39;s &amp;quot;Tutu&amp;quot;", 'Girl\'s "Tutu"'),
        ("AT&amp;T", "AT&T"),
        ("one<br>two<br/>three<p>four</p>", "one two three four"),
        ("<b>b</b>old, <font color='red'>red</font>", "bold, red"),
        ("&lt;b&gt;bold&lt;/b&gt;", "bold"),
        ("5 < 6 and 7 > 3, <3, <Untitled>", "5 < 6 and 7 > 3, <3, <Untitled>"),
        ("text<script type='a'>var x = '<b>';</script> and<style>.a{}</style> more", "text and more"),
        ("a <!-- <b>hidden</b>\n --> b", "a b"),
        ("caf&eacute;&nbsp;\t\x00 x ", "café x"),
        ("&unknown; &T; R&D;", "&unknown; &T; R&D;"),
        ("", ""),
        (None, None),
    ],
)
def test_examples(text, expected):
    assert clean_html(pl.Series([text], dtype=pl.String)).to_list() == [expected]


def test_lists():
    lists = pl.Series("f", [["a<br>", "<p>", "b"], [], None, [None, "&amp;"]], dtype=pl.List(pl.String))
    assert clean_html(lists).to_list() == [["a", "b"], [], [], ["&"]]
    assert clean_html(lists).name == "f"
    assert clean_html(lists.clear()).to_list() == [] and clean_html(lists[1:3]).to_list() == [[], []]
