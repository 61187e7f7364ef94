"""Titles and sources of the methods, and that a card cites the method that it describes."""

import json
import re

import pytest

from hub_cards import (
    METHODS,
    ModelCardValues,
    RecommenderCardValues,
    SequentialCardValues,
    TokenizerCardValues,
    load_values,
    method_named,
    render_card,
    save_card,
)

# Title, and first author and year of each source.
SOURCES = {
    "utgrec": ("UTGRec", "Zheng 2025"),
    "recbase": ("RecBase", "Zhou 2025"),
    "tiger": ("TIGER", "Rajput 2023"),
    "letter": ("LETTER", "Wang 2024"),
    "tiger-m": ("TIGER-M", "Rajput 2023"),
    "rq-kmeans": ("RQ-k-means", "Chen 2010"),
    "tiger-decoder": ("TIGER (decoder)", "Rajput 2023, Zhou 2025"),
    "letter-decoder": ("LETTER (decoder)", "Wang 2024, Zhou 2025"),
    "tiger-m-decoder": ("TIGER-M (decoder)", "Rajput 2023, Zhou 2025"),
    "rq-kmeans-decoder": ("RQ-k-means (decoder)", "Chen 2010, Zhou 2025"),
    "rq-kmeans-transitions": ("RQ-k-means transitions", "Chen 2010"),
    "rq-kmeans-transitions-decoder": ("RQ-k-means transitions (decoder)", "Chen 2010, Zhou 2025"),
    "item_level": ("Item-level recommender", "Lepage 2025, Lee 2022"),
    "tiger-item-level": ("TIGER (item level)", "Rajput 2023, Lepage 2025, Lee 2022"),
    "letter-item-level": ("LETTER (item level)", "Wang 2024, Lepage 2025, Lee 2022"),
    "tiger-m-item-level": ("TIGER-M (item level)", "Rajput 2023, Lepage 2025, Lee 2022"),
    "rq-kmeans-item-level": ("RQ-k-means (item level)", "Chen 2010, Lepage 2025, Lee 2022"),
    "rq-kmeans-transitions-item-level": (
        "RQ-k-means transitions (item level)",
        "Chen 2010, Lepage 2025, Lee 2022",
    ),
    "sasrec": ("SASRec", "Kang 2018"),
    "gru4rec": ("GRU4Rec", "Hidasi 2016"),
    "bert4rec": ("BERT4Rec", "Sun 2019"),
    "fmlprec": ("FMLP-Rec", "Zhou 2022"),
    "bsarec": ("BSARec", "Shin 2024"),
    "hstu": ("HSTU", "Zhai 2024"),
    "fdsa": ("FDSA", "Zhang 2019"),
    "s3rec": ("S3-Rec", "Zhou 2020"),
    "missrec": ("MISSRec", "Wang 2023"),
    "unisrec": ("UniSRec", "Hou 2022"),
    "vqrec": ("VQ-Rec", "Hou 2023"),
    "linear": ("Linear item-item model", "Choi 2021, Steck 2019"),
}
CARDS = [TokenizerCardValues, RecommenderCardValues, SequentialCardValues, ModelCardValues]


def cited(text):
    """First author and year of each BibTeX entry in a text."""
    entries = re.findall(r"^@\w+\{\w+,$.*?^\}$", text, flags=re.DOTALL | re.MULTILINE)
    return ", ".join(
        re.search(r"author\s*= \{([^,]+),", entry)[1] + " " + re.search(r"year\s*= \{(\d{4})\}", entry)[1]
        for entry in entries
    )


def test_every_method_has_a_title_and_sources():
    assert {name: (method.title, cited(method.citation)) for name, method in METHODS.items()} == SOURCES


@pytest.mark.parametrize("name", METHODS)
def test_bibtex_is_whole(name):
    for entry in METHODS[name].citation.split("\n\n"):
        assert entry.count("{") == entry.count("}") and entry.startswith("@") and entry.endswith("\n}")
        fields = dict(re.findall(r"^  (\w+)\s*= \{(.*?)\}(?:,$|\n\})", entry, flags=re.DOTALL | re.MULTILINE))
        assert {"title", "author", "year"} < fields.keys() and ("journal" in fields) != ("booktitle" in fields)
        authors = re.split(r"\s+and\s+", fields["author"])
        assert all(re.fullmatch(r"[^,]+, [^,]+", author) for author in authors), authors
        assert fields["year"] in re.search(r"@\w+\{(\w+),", entry)[1]


@pytest.mark.parametrize("cls", CARDS)
@pytest.mark.parametrize("name", METHODS)
def test_a_card_cites_its_method_and_no_other(cls, name):
    card = render_card(cls(name="x", method=name))
    assert f"- Method: {METHODS[name].title}\n" in card
    assert cited(card) == SOURCES[name][1]


@pytest.mark.parametrize("cls", CARDS)
def test_without_a_method_nothing_is_cited(cls):
    card = render_card(cls(name="x"))
    assert "bibtex" not in card and "Method" not in card
    unknown = render_card(cls(name="x", method="a new one"))
    assert "bibtex" not in unknown and "- Method: a new one\n" in unknown
    assert method_named(None) is None and method_named("a new one").citation is None


def test_a_given_citation_comes_before_the_methods():
    card = render_card(RecommenderCardValues(name="x", method="tiger", citation="@misc{own2026,\n  year = {2026}\n}"))
    assert "@misc{own2026,\n  year = {2026}\n}" in card and "Rajput" not in card


def test_the_method_comes_back_from_the_file_of_values(tmp_path):
    save_card(tmp_path, SequentialCardValues(name="x", method="hstu"))
    assert load_values(tmp_path).method == "hstu"
    assert cited((tmp_path / "README.md").read_text()) == "Zhai 2024"


@pytest.mark.parametrize(
    ("citation", "kept"), [(METHODS["utgrec"].citation, ""), (METHODS["recbase"].citation, "Zhou 2025")]
)
def test_the_default_citation_of_version_0_1_is_not_believed(tmp_path, citation, kept):
    """Values of version 0.1 have no method, and UTGRec's citation whatever the method was."""
    values = {"card": "sequential recommender", "name": "SASRec", "citation": citation}
    (tmp_path / "card_values.json").write_text(json.dumps(values))
    assert cited(render_card(load_values(tmp_path))) == kept
