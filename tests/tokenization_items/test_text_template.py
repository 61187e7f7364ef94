"""One template for the texts of all domains."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenization_items import Catalogue, TextTemplate

ITEMS = [
    {"item_id": "a", "title": "Toy Story", "categories": ["Animation", "Comedy"], "description": "x" * 2500},
    {"item_id": "b", "title": "", "description": None},
    {"item_id": "c", "title": "Heat\n1995"},
]


def test_fields_have_a_line_each_and_are_cut():
    catalogue = Catalogue.from_records(ITEMS, template=TextTemplate("Describe a movie:"))
    assert catalogue.texts[0] == "Describe a movie: Toy Story\nAnimation, Comedy\n" + "x" * 2000
    assert catalogue.texts[1] == "Describe a movie:" and catalogue.texts[2] == "Describe a movie: Heat 1995"
    assert [catalogue.template.is_bare(text) for text in catalogue.texts] == [False, True, False]
    assert catalogue.check(images=False)["num_texts"] == 3  # an item without text is let through, and reported later


def test_catalogues_remember_their_template():
    movies, things = TextTemplate("Describe a movie:"), TextTemplate()
    first = Catalogue.from_records(ITEMS, template=movies)
    assert first.select([2, 0]).template == movies
    assert Catalogue.concatenate([first, first]).template == movies
    assert Catalogue.concatenate([first, Catalogue.from_records(ITEMS, template=things)]).template is None
    assert Catalogue.from_records(ITEMS).template is None


@given(st.lists(st.text(max_size=30), max_size=5), st.integers(1, 20))
def test_no_field_changes_another_or_the_introduction(fields, limit):
    template = TextTemplate("Describe a {thing}:", limit)
    text = template.render(fields)
    assert text.startswith("Describe a {thing}:")
    assert len(text) <= len("Describe a {thing}: ") + sum(min(limit, len(field)) + 1 for field in fields)
    if not any(field[:limit].strip() for field in fields):
        assert template.is_bare(text)


def test_no_room_for_a_character_is_an_error():
    with pytest.raises(ValueError, match="max_field_characters must be at least 1, got 0"):
        TextTemplate(max_field_characters=0)
