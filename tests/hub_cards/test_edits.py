"""Edits of cards: unchanged sections are written anew, what users wrote stays."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub_cards import CardError, RecommenderCardValues, is_edited, render_card, save_card
from hub_cards.edits import mark_sections, merge_body, merge_metadata, sections_of, split_metadata


def values(perplexity=1.5, **more):
    return RecommenderCardValues(name="m", method="utgrec", codebooks=[{"level": 0, "perplexity": perplexity}], **more)


def test_an_unchanged_card_is_written_anew():
    old = render_card(values())
    assert not is_edited(old) and render_card(values(), old=old) == old
    assert render_card(values(2.5), old=old) == render_card(values(2.5))


def test_a_card_that_an_editor_of_windows_has_saved():
    old = render_card(values())
    mine = "\ufeff" + old.replace("---\n", "---\nlicense: mit\n", 1).replace("\n", "\r\n")
    new = render_card(values(2.5), old=mine)
    metadata, body = split_metadata(new)
    assert metadata["license"] == "mit" and "license: mit" not in body and body.count("\n---\n") == 0
    assert render_card(values(2.5), old=new) == new


def test_text_between_sections_stays_and_a_changed_section_too():
    old = render_card(values(), old=None)
    old = old.replace("\n## Usage", "\n## Usage, by hand", 1)
    old = old.replace("<!-- section codebook-health", "## Limits\n\nOnly of ukuleles.\n\n<!-- section codebook-health")
    old += "\n## Thanks\n\nTo all.\n"
    assert is_edited(old)
    new = render_card(values(2.5, hardware="a mill"), old=old)
    assert "## Usage, by hand" in new and new.count("## Usage") == 1
    assert new.index("## Usage") < new.index("Only of ukuleles.") < new.index("2.5") < new.index("To all.")
    assert "| 1.5 |" not in new, "an unchanged section is measured anew"
    assert new.index("2.5") < new.index("a mill") < new.index("bibtex"), "a new section stands where it would"
    assert render_card(values(2.5, hardware="a mill"), old=new) == new


def test_a_deleted_section_comes_back_and_one_without_values_goes():
    old = render_card(values(hardware="a mill"))
    start, end = old.index("<!-- section usage"), old.index("<!-- end of section usage -->")
    new = render_card(
        RecommenderCardValues(name="m", method="utgrec"),
        old=old[:start] + old[end + len("<!-- end of section usage -->") :],
    )
    assert new == render_card(RecommenderCardValues(name="m", method="utgrec"))


def test_the_first_section_can_come_back():
    old = mark_sections([("b", "B"), ("c", "C")])
    assert merge_body(old, [("a", "A"), ("b", "B2"), ("c", "C2")]) == mark_sections(
        [("a", "A"), ("b", "B2"), ("c", "C2")]
    )


def test_several_sections_come_back_in_their_order():
    sections = [(name, name.upper()) for name in "abcde"]
    assert merge_body(mark_sections([sections[1], sections[4]]), sections) == mark_sections(sections)


def test_a_section_that_was_copied_is_written_once_and_changed_copies_stay():
    a, b, c = (mark_sections([(name, name.upper())]) for name in "abc")
    assert merge_body(f"{a}\n\n{a}\n\n{b}", [("a", "A2"), ("b", "B")]) == mark_sections([("a", "A2"), ("b", "B")])
    mine = a.replace("\nA\n", "\nMine\n")
    merged = merge_body(f"{mine}\n\n{mine}\n\n{b}", [("a", "A2"), ("c", "C"), ("b", "B")])
    assert merged == f"{mine}\n\n{mine}\n\n{c}\n\n{b}", "what is new follows the last of them"


def test_the_text_of_a_card_written_by_hand_stays():
    old = "---\nlicense: mit\n---\n\n# My model\n\nAll by hand.\n"
    new = render_card(values(), old=old)
    metadata, body = split_metadata(new)
    assert body.strip() == "# My model\n\nAll by hand." and metadata["license"] == "mit"
    assert metadata["library_name"] == "transformers"


def test_line_ends_of_windows_are_no_change():
    old = render_card(values())
    assert render_card(values(2.5), old=old.replace("\n", "\r\n")) == render_card(values(2.5))


def test_metadata():
    new = {"license": "mit", "tags": ["a", "b"], "model-index": [1]}
    assert merge_metadata({}, new) == new
    old = {"license": "other", "tags": ["b", "mine"], "pipeline_tag": "x", "model-index": [0]}
    assert merge_metadata(old, new) == {
        "license": "mit",
        "tags": ["a", "b", "mine"],
        "model-index": [1],
        "pipeline_tag": "x",
    }
    assert "model-index" not in merge_metadata(old, {"tags": ["a"]}, measured_before=True)
    assert merge_metadata(old, {"tags": ["a"]})["model-index"] == [0], "results of another origin"
    assert merge_metadata({"tags": "one"}, new)["tags"] == ["a", "b", "one"]


@pytest.mark.parametrize(
    "header", ["tags: [a", "- a\n- b", "just text", "date: 2024-13-45", "1: 2", "a: &a [*a]\n? *a"]
)
def test_metadata_that_cannot_be_read_are_an_error_of_ours(header):
    with pytest.raises(CardError, match="metadata"):
        split_metadata(f"---\n{header}\n---\nText\n")


def test_metadata_that_grow_when_they_are_read_are_refused():
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
    with pytest.raises(CardError, match="aliases"):
        split_metadata(f"---\n{bomb}---\nText\n")
    with pytest.raises(CardError, match="characters"):
        split_metadata("---\n" + "a: b\n" * 300_000 + "---\nText\n")


def test_a_card_that_cannot_be_read_stays(tmp_path):
    (tmp_path / "README.md").write_text("---\ntags: [a\n---\nMine\n")
    with pytest.raises(CardError):
        save_card(tmp_path, values())
    assert (tmp_path / "README.md").read_text() == "---\ntags: [a\n---\nMine\n"


def test_headings_in_code_are_no_sections():
    body = "# T\n\nHello\n\n```python\n## not a heading\n```\n\n## Usage\n\nx\n\n### Deeper\n\ny"
    assert [name for name, _ in sections_of(body)] == ["introduction", "usage"]


WORDS = st.sampled_from(["one", "## Mine", "```", "---", "<!-- note -->", "<!-- section usage 00000000 -->", "", "é"])


@settings(max_examples=25, deadline=None)
@given(st.lists(WORDS, max_size=5), st.integers(0, 40), st.booleans())
def test_whatever_is_written_between_sections_stays(words, place, changed):
    """Lines put between two sections are there after two refreshes, in order, and refreshing is done after one."""
    lines, own = render_card(values()).splitlines(), [word for word in words if word.strip()]
    gaps = [row + 1 for row, line in enumerate(lines) if line.startswith("<!-- end of section")]
    row = gaps[place % len(gaps)]
    text = "\n".join([*lines[:row], "", *words, "", *lines[row:]]) + "\n"
    new = render_card(values(2.5 if changed else 1.5), old=text)
    assert render_card(values(2.5 if changed else 1.5), old=new) == new
    found = iter(new.splitlines())
    assert all(any(word == line.strip() for line in found) for word in own)
