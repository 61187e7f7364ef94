"""A Space's card and files."""

import ast
from dataclasses import replace

import pytest
from huggingface_hub import SpaceCard

from hub_cards import CardError, SpaceCardValues, load_values, save_card, space_files
from hub_cards.schema import check_card

VALUES = SpaceCardValues(
    name="Shop", models=["org/shop-recommender"], datasets=["o/d"], sdk_version="6.31.0", requirements=["a", "b==1"]
)


def test_card_has_what_the_hub_starts_a_space_by(tmp_path):
    save_card(tmp_path, VALUES)
    data = SpaceCard.load(tmp_path / "README.md").data
    assert (data.title, data.sdk, data.sdk_version, data.app_file) == ("Shop", "gradio", "6.31.0", "app.py")
    assert data.models == ["org/shop-recommender"] and data.datasets == ["o/d"]
    assert "utgrec space org/shop-recommender" in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert load_values(tmp_path) == VALUES


def test_what_people_change_in_the_card_is_kept(tmp_path):
    path = save_card(tmp_path, VALUES)
    path.write_text(path.read_text(encoding="utf-8").replace("emoji: 🛍️", "emoji: 🎸") + "\n## Ours\n\nHello.\n")
    text = save_card(tmp_path, VALUES).read_text(encoding="utf-8")
    assert "emoji: 🎸" in text and "Hello." in text


def test_program_and_requirements():
    files = space_files(VALUES)
    assert files["requirements.txt"] == "a\nb==1\n"
    ast.parse(files["app.py"])
    assert 'SpaceArguments(model="org/shop-recommender", data="o/d", host=host)' in files["app.py"]
    assert "data=" not in space_files(replace(VALUES, datasets=[]))["app.py"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sdk: docker", "sdk must be gradio"),
        ("sdk: gradio\nsdk_version: 6.3", "in quotes"),
        ("sdk: gradio", "version"),
    ],
)
def test_cards_that_the_hub_would_not_start(line, message):
    with pytest.raises(CardError, match=message):
        check_card(f"---\n{line}\n---\n\ntext\n", "space")
