"""The zero-shot table's baselines on a tiny domain; the pre-trained recommenders' are in test_scripts.py."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from tokenization_items.item_embeddings import load_embeddings
from trainers.data.domains import Domain
from trainers.evaluation.candidate_rows import draw_rows
from trainers.evaluation.level_scores import ZeroShotArguments
from trainers.evaluation.zero_shot import evaluate_zero_shot, zero_shot_model
from trainers.rankers.nearest_items import NearestItems

BENCHMARKS = Path(__file__).resolve().parents[3] / "examples" / "benchmarks"
COLOURS, THINGS = ("red", "blue", "green"), ("stapler", "guitar", "paper", "lamp")


@pytest.fixture
def domain(tmp_path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    titles = [f"{colour} {thing}" for colour in COLOURS for thing in THINGS]
    items = [{"item_id": f"i{row}", "title": title} for row, title in enumerate(titles)]
    rng = np.random.default_rng(1)
    users = [
        {"user_id": f"u{user}", "items": [f"i{item}" for item in rng.choice(12, 5, replace=False)]}
        for user in range(20)
    ]
    for name, rows in (("items", items), ("sequences", [*users, {"user_id": "one", "items": ["i0"]}])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def encoders(tmp_path, tiny_bert, make_language_model) -> list[str]:
    flags = []
    for flag, (model, tokenizer) in (("text_encoder", tiny_bert[:2]), ("language_model", make_language_model())):
        model.save_pretrained(tmp_path / flag)
        tokenizer.save_pretrained(tmp_path / flag)
        flags += [f"--{flag}", str(tmp_path / flag)]
    return flags


def run(monkeypatch, capsys, *argv) -> str:
    monkeypatch.setattr(sys, "argv", ["zero_shot.py", *map(str, argv)])
    monkeypatch.setattr(sys, "path", list(sys.path))
    runpy.run_path(str(BENCHMARKS / "zero_shot.py"), run_name="__main__")
    return capsys.readouterr().out


def test_what_needs_no_training(domain, encoders, tmp_path, monkeypatch, capsys):
    results = tmp_path / "zero_shot.jsonl"
    flags = ["--domains", domain, "--results", results, "--work_dir", tmp_path / "work", *encoders]
    out = run(monkeypatch, capsys, *flags)
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    models = [
        "popularity",
        *(f"nearest-items-{kind}" for kind in ("last", "mean", "centred", "history")),
        "title-likelihood",
    ]
    assert [line["model"] for line in lines] == models
    assert [line["score"] for line in lines] == ["count", "cosine", "cosine", "cosine", "cosine", "sum"]
    assert [line["uses_domain"] for line in lines] == [True, False, False, False, False, False]
    for line in lines:
        assert (line["domain"], line["num_rows"], line["num_users"], line["num_without_history"]) == (
            "tiny",
            60,
            20,
            1,
        )
        assert 0 <= line["gauc"] <= 1 and line["row_seed"] == 2024 and line["seen_in_pretraining"] == "unseen"
        assert str(tmp_path) not in line["command"] and line["device"]
        assert (line["ndcg@10"] is None) == (line["model"] == "title-likelihood")
    loaded = Domain.from_folder(domain, check_images=False)
    embeddings = load_embeddings(tmp_path / "work" / "tiny" / "text-embeddings", loaded.catalogue.item_ids)
    centred = NearestItems(embeddings - embeddings.mean(0), "mean", max_history=20)
    model = zero_shot_model(centred, loaded.interactions, ZeroShotArguments())
    expected = evaluate_zero_shot(model, "tiny", loaded.interactions, draw_rows(loaded.interactions))
    assert [lines[3][name] for name in ("gauc", "ndcg@10")] == [expected[name] for name in ("gauc", "ndcg@10")]
    assert len({line["gauc"] for line in lines[1:5]}) == 4
    assert set(lines[5]["gauc_by_score"]) == {"sum", "mean", "pmi"}
    assert lines[5]["command"].endswith("--models title-likelihood --language_model language_model")
    assert "### tiny, unseen in pre-training" in out and "| gauc pmi |" in out

    assert run(monkeypatch, capsys, *flags).count("done before") == 6
    # other rows are other runs
    run(monkeypatch, capsys, *flags, "--models", "popularity", "--row_seed", 1)
    other = json.loads(results.read_text().splitlines()[6])
    assert other["row_seed"] == 1 and other["command"].endswith("--models popularity --row_seed 1")


def test_refuses(domain, tmp_path, monkeypatch, capsys):
    flags = ["--domains", domain, "--results", tmp_path / "none"]
    with pytest.raises(SystemExit, match="--domains: give at least one folder"):
        run(monkeypatch, capsys, *flags[2:])
    with pytest.raises(SystemExit, match="nearest-codes: say whose codes, by --pretrained"):
        run(monkeypatch, capsys, *flags, "--models", "nearest-codes")
    for place, weights in (("here", b"1"), ("there", b"2")):
        (tmp_path / place / "pre" / "recommender").mkdir(parents=True)
        (tmp_path / place / "pre" / "recommender" / "model.safetensors").write_bytes(weights)
    folders = [tmp_path / place / "pre" for place in ("here", "there")]
    with pytest.raises(SystemExit, match="--pretrained: pre is the name of two folders"):
        run(monkeypatch, capsys, *flags, "--pretrained", *folders)
    with pytest.raises(SystemExit, match="shares between 0 and 1, got 2"):
        run(monkeypatch, capsys, *flags, "--train_users", 2)
    with pytest.raises(ValueError, match="The data has no ratings"):
        run(monkeypatch, capsys, *flags, "--labels", "ratings")
    assert not (tmp_path / "none").exists()


def test_the_papers_configuration_is_read_with_its_fields(domain, tmp_path, monkeypatch, capsys):
    flags = ["--config", "paper", "--tokenizer.use_cpu", "--recommender.use_cpu", "--results", tmp_path / "results"]
    run(monkeypatch, capsys, *flags, "--domains", domain, "--work_dir", tmp_path / "work", "--models", "popularity")
    line = json.loads((tmp_path / "results").read_text())
    assert line["command"].endswith("--models popularity --text_fields title features categories")
