"""The quality table on a tiny domain: lines for each run, none run twice, and the table."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[3] / "examples" / "benchmarks"


@pytest.fixture
def domain(tmp_path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    items = [{"item_id": f"i{row}", "title": f"item {row}"} for row in range(12)]
    rng = np.random.default_rng(0)
    users = [{"user_id": f"u{user}", "items": [f"i{(start + step) % 12}" for step in range(6)]}
             for user, start in enumerate(rng.integers(0, 12, 20))]  # fmt: skip
    for name, rows in (("items", items), ("sequences", users)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def run(monkeypatch, capsys, *argv) -> str:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", ["quality.py", *map(str, argv)])
    try:
        runpy.run_path(str(BENCHMARKS / "quality.py"), run_name="__main__")
    finally:
        sys.modules.pop("recipes", None)
    return capsys.readouterr().out


def test_lines_and_table(domain, tmp_path, monkeypatch, capsys):
    results = tmp_path / "quality.jsonl"
    flags = ["--domains", domain, "--results", results, "--work_dir", tmp_path / "work", "--minutes", "0.02"]
    encoder = ("--image_encoder", tmp_path / "resnet")
    run(monkeypatch, capsys, *flags, *encoder, "--models", "popularity", "sasrec", "--seeds", "0", "1")
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    runs = [(line["model"], line["seed"], line["mask_seen"]) for line in lines]
    # a floor has no seeds
    assert runs == [(model, seed, seen) for model, seed in (("popularity", 0), ("sasrec", 0), ("sasrec", 1))
                    for seen in (False, True)]  # fmt: skip
    for line in lines:
        assert line["domain"] == "tiny" and 0 <= line["recall@5"] <= line["recall@10"] <= 1
        assert line["validation"].keys() >= {"recall@10", "ndcg@10"} and len(line["intervals"]["ndcg@10"]) == 2
        assert str(tmp_path) not in line["command"] and line["device"]
        assert line["command"].endswith("--minutes 0.02 --image_encoder resnet")
    assert lines[2]["parameters"] > 0 and lines[0]["parameters"] == 0

    before = results.read_text()
    shown = run(monkeypatch, capsys, *flags, "--models", "sasrec", "item-transitions", "--seeds", "0", "1")
    assert shown.count("done before") == 2 and results.read_text().startswith(before)
    assert len(results.read_text().splitlines()) == 8
    table = run(monkeypatch, capsys, "--table_only", "--results", results)
    assert "### tiny" in table and "| item-transitions | counted from the training part | 1 |" in table
    assert "| sasrec | 64 wide, 2 layers, dropout 0.5, loss ce, 0.05 M parameters | 2 |" in table


def test_another_dropout_is_another_row(domain, tmp_path, monkeypatch, capsys):
    results = tmp_path / "quality.jsonl"
    flags = ["--domains", domain, "--results", results, "--work_dir", tmp_path / "work", "--minutes", "0.02"]
    for models in (["hstu", "popularity"], ["hstu", "popularity", "item-transitions", "--dropout", "0.25"]):
        run(monkeypatch, capsys, *flags, "--models", *models)
    lines = [json.loads(line) for line in results.read_text().splitlines()][::2]
    assert [line["model"] for line in lines] == ["hstu", "popularity", "hstu-dropout-0.25", "item-transitions"]
    assert lines[2]["architecture"]["hidden_dropout"] == lines[2]["architecture"]["attention_dropout"] == 0.25
    assert lines[2]["command"].endswith("--models hstu --seeds 0 --minutes 0.02 --dropout 0.25")
    assert "dropout" not in lines[0]["command"] + lines[3]["command"] and lines[0]["ndcg@10"] != lines[2]["ndcg@10"]
    with pytest.raises(SystemExit, match="--dropout: at least 0 and below 1, got 1"):
        run(monkeypatch, capsys, *flags, "--dropout", "1")


def test_every_line_of_the_results_says_what_it_is():
    lines = [json.loads(line) for line in (BENCHMARKS / "results" / "quality.jsonl").read_text().splitlines()]
    for line in lines:
        assert line["variant"], line["model"]
        if not line["parameters"]:
            continue
        assert line["architecture"]["parameters"] == line["parameters"]
        assert line["losses"] and line["training"] and line["differs_from_published"] and line["published_in"]
        if "codebooks" in line:
            shared = line["details"]["items_sharing_codes"]
            assert shared is not None or line["details"]["items_sharing_codes_note"] == "not recorded"
    tiger = next(line for line in lines if line["model"] == "tiger")["differs_from_published"]
    assert tiger["recommender.d_model"] == {"here": 64, "published": 128}
    assert {"recommender.causal_encoder", "recommender.normalize_over", "tokenizer.num_train_epochs"} <= tiger.keys()


def test_unknown_model(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="unknown sasrek"):
        run(monkeypatch, capsys, "--models", "sasrek", "--results", tmp_path / "none")
