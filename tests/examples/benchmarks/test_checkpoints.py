"""Small checkpoints of runs: what is in them, their codes, their cards, and what cannot be made."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest

from hub_cards import RecommenderCardValues, TokenizerCardValues, load_values, save_card
from tokenization_items import UniversalItemTokenizer

BENCHMARKS = Path(__file__).resolve().parents[3] / "examples" / "benchmarks"
CHECKPOINTS = Path(__file__).parents[2] / "checkpoints" / "version_0_1"
RUNS = {
    "utgrec": ("utgrec_tokenizer_text", TokenizerCardValues),
    "recbase": ("recbase_tokenizer", TokenizerCardValues),
    "recommender": ("recbase_recommender", RecommenderCardValues),
}


@pytest.fixture
def runs(tmp_path, monkeypatch) -> dict[str, Path]:
    found = {}
    monkeypatch.chdir(tmp_path)  # RecBase's tokenizer names its text encoder from here
    shutil.copytree(CHECKPOINTS / "text_encoder", tmp_path / "text_encoder")
    for kind, (name, card) in RUNS.items():
        found[kind] = tmp_path / name
        shutil.copytree(CHECKPOINTS / name, found[kind])
        health = [{"Catalogue": "office", "Items": 8}] if card is TokenizerCardValues else []
        save_card(found[kind], card(name=kind, health=health))
    (found["recommender"] / "optimizer.pt").write_bytes(b"0")
    return found


def run(monkeypatch, capsys, *argv) -> str:
    monkeypatch.setattr(sys, "argv", ["checkpoints.py", *map(str, argv)])
    runpy.run_path(str(BENCHMARKS / "checkpoints.py"), run_name="__main__")
    return capsys.readouterr().out


def flags_of(runs, output):
    flags = ["--name", "org/demo", "--output_dir", output, "--license", "mit"]
    return [*flags, *(word for kind, folder in runs.items() for word in (f"--{kind}", folder))]


def test_three_checkpoints_with_cards_and_one_command(runs, tmp_path, monkeypatch, capsys):
    output = tmp_path / "small"
    shown = run(monkeypatch, capsys, *flags_of(runs, output), "--encoder", "org/encoder")
    assert shown.count("the codes of 8 items are those of") == 2
    for kind in runs:
        values = load_values(output / kind)
        assert values.license == "mit" and values.name == kind and (output / kind / "README.md").is_file()
    assert load_values(output / "utgrec").health[0]["Catalogue"] == "office"
    config = json.loads((output / "utgrec" / "config.json").read_text())
    assert config["with_decoders"] is False
    before, after = ((folder / "model.safetensors").stat().st_size for folder in (runs["utgrec"], output / "utgrec"))
    assert after < before
    assert json.loads((output / "recbase" / "config.json").read_text())["text_encoder"] == "org/encoder"
    assert not (output / "recommender" / "optimizer.pt").exists()
    there = UniversalItemTokenizer.from_pretrained(output / "recommender", index_only=True)
    assert there.index.item_ids == UniversalItemTokenizer.from_pretrained(runs["recommender"]).index.item_ids
    lines = (output / "push.sh").read_text().splitlines()[2:]
    assert [line.split()[:4] for line in lines] == [
        ["utgrec", "publish", "--name", f"org/demo-{kind}"] for kind in runs
    ]
    assert all(line.endswith('"$@"') for line in lines)


def test_what_cannot_be_made_is_said(runs, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="Nothing to make"):
        run(monkeypatch, capsys, "--name", "org/demo", "--output_dir", tmp_path / "x")
    with pytest.raises(SystemExit, match="expected <user or organisation>/<name>"):
        run(monkeypatch, capsys, "--name", "demo", "--output_dir", tmp_path / "x", "--recbase", runs["recbase"])
    only = {"recommender": runs["recommender"]}
    with pytest.raises(SystemExit, match="more than 0.001 MB: model.safetensors"):
        run(monkeypatch, capsys, *flags_of(only, tmp_path / "x"), "--megabytes", 0.001)
    with pytest.raises(SystemExit, match="is there: give another --output_dir"):
        run(monkeypatch, capsys, *flags_of(only, tmp_path / "x"))
    (runs["recommender"] / "card_values.json").unlink()
    with pytest.raises(SystemExit, match="holds no model with a card"):
        run(monkeypatch, capsys, *flags_of(only, tmp_path / "y"))
