"""The benchmark of item tokenizers on two tiny domains: a line for each method, none run twice, and the table."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest

from hub_cards import TokenizerCardValues, load_values, save_card

BENCHMARKS = Path(__file__).resolve().parents[3] / "examples" / "benchmarks"
WORDS = ["red", "blue", "oak", "steel", "guitar", "drum", "violin", "amp"]


def run(monkeypatch, capsys, *argv) -> str:
    monkeypatch.setattr(sys, "argv", ["item_tokenizers.py", *map(str, argv)])
    runpy.run_path(str(BENCHMARKS / "item_tokenizers.py"), run_name="__main__")
    return capsys.readouterr().out


def test_lines_and_table(tmp_path, tiny_bert, monkeypatch, capsys):
    backbone, tokenizer, _ = tiny_bert
    for part in (backbone, tokenizer):
        part.save_pretrained(tmp_path / "encoder")
    for name, step in (("toys", 1), ("films", 3)):
        (tmp_path / name).mkdir()
        titles = [f"{WORDS[row % 8]} {WORDS[row * step // 8 % 8]}" for row in range(40)]
        items = [{"item_id": f"i{row}", "title": title} for row, title in enumerate(titles)]
        (tmp_path / name / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    results = tmp_path / "results.jsonl"
    flags = ["--domains", tmp_path / "toys", tmp_path / "films", "--text_encoder", tmp_path / "encoder"]
    flags += [
        "--text_encoder_name",
        "org/tiny",
        "--introductions",
        "films=red violin:",
        "--embeddings",
        tmp_path / "embeddings",
        "--work_dir",
        tmp_path,
    ]
    flags += ["--results", results, "--steps", 6, "--batch_size", 32, "--hidden_sizes", 12, "--codebook_dim", 4]
    flags += ["--num_levels", 3, "--codebook_size", 6]
    table = run(monkeypatch, capsys, *flags, "--methods", "recbase", "rq-k-means", "recbase, KL")
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert [line["method"] for line in lines] == ["recbase", "rq-k-means", "recbase, KL"]
    assert lines[0]["reconstruction"] != lines[2]["reconstruction"]
    for line in lines:
        assert line["num_items"] == 80 and set(line["collision_rate_alone"]) == {"toys", "films"}
        assert 0 <= max(line["collision_rate_alone"].values()) and line["collision_rate"] <= 1
        assert len(line["used"]) == len(line["perplexity"]) == 3 and max(line["perplexity"]) <= 6
        assert line["settings"]["text_encoder"] == "org/tiny" and "--text_encoder org/tiny" in line["command"]
        assert 0 < line["reconstruction"] and str(tmp_path) not in line["command"]
    assert lines[0]["identical"] == pytest.approx(len_of_identical(tmp_path) / 80)
    assert "### toys + films: 80 items" in table and "| recbase, KL | 0 |" in table
    again = run(monkeypatch, capsys, *flags, "--methods", "recbase", "rq-vae")
    assert "recbase: done before" in again and len(results.read_text().splitlines()) == 4


def len_of_identical(folder: Path) -> int:
    count = 0
    for name in ("toys", "films"):
        titles = [json.loads(line)["title"] for line in (folder / name / "items.jsonl").read_text().splitlines()]
        count += sum(titles.count(title) > 1 for title in titles)
    return count


def test_health_of_a_tokenizer_that_is_there(tmp_path, monkeypatch, capsys):
    source = Path(__file__).parents[2] / "checkpoints" / "version_0_1" / "utgrec_tokenizer_text"
    shutil.copytree(source, tmp_path / "tokenizer")
    save_card(tmp_path / "tokenizer", TokenizerCardValues(name="t"))
    (tmp_path / "toys").mkdir()
    items = [{"item_id": f"i{row}", "title": f"{WORDS[row]} toy", "brand": "ab"[row % 2]} for row in range(8)]
    (tmp_path / "toys" / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    flags = ["--domains", tmp_path / "toys", "--tokenizers", tmp_path / "tokenizer", "--work_dir", tmp_path]
    shown = run(monkeypatch, capsys, *flags, "--write_cards")
    (line,) = [json.loads(line) for line in (tmp_path / "health.jsonl").read_text().splitlines()]
    assert line["health"]["toys"]["items"] == 8 and line["health"]["toys"]["information"]["brand"]["values"] == 2
    assert "gauc" not in line["health"]["toys"] and "| toys | brand | 8 | 0 | 2 |" in shown
    assert load_values(tmp_path / "tokenizer").attribute_information[0]["Attribute"] == "brand"


def test_unknown_names(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="unknown recbas"):
        run(monkeypatch, capsys, "--methods", "recbas", "--results", tmp_path / "none")
    (tmp_path / "toys").mkdir()
    (tmp_path / "toys" / "items.jsonl").write_text('{"item_id": "a", "title": "red"}\n')
    with pytest.raises(SystemExit, match=r"\['tois'\] are none of the domains \['toys'\]"):
        run(
            monkeypatch,
            capsys,
            "--domains",
            tmp_path / "toys",
            "--introductions",
            "tois=x",
            "--results",
            tmp_path / "r",
        )
