"""UTGRec's ablations on two tiny domains: lines of each, what they share of the pre-training, and what differs."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from modeling_utgrec import UTGRecTokenizerConfig
from trainers.methods.backbones import write_tiny_text_encoder

BENCHMARKS = Path(__file__).resolve().parents[3] / "examples" / "benchmarks"
SMALL = """
tokenizer:
  root_codebook_size: 8
  leaf_codebook_size: 8
  codebook_dim: 8
  adapter_hidden_size: 16
  max_text_tokens: 8
  max_steps: 2
  codebook_warmup_steps: 1
  save_strategy: "no"
  use_cpu: true
  disable_tqdm: true
recommender:
  d_model: 8
  d_ff: 8
  d_kv: 4
  num_heads: 2
  num_layers: 1
  max_history: 5
  num_beams: 20
  num_train_epochs: 1
  max_steps: 2
  max_eval_users: 5
  use_cpu: true
  disable_tqdm: true
"""
TESTED = ("utgrec-whole", "utgrec-no-tree", "utgrec-new-recommender", "utgrec-no-pretraining")


@pytest.fixture
def workplace(tmp_path) -> Path:
    titles = []
    for number, name in enumerate(("target", "other")):
        rng = np.random.default_rng(number)
        (tmp_path / name).mkdir()
        items = [{"item_id": f"{name}{row}", "title": f"{name} {row} of {row % 7} and {row % 5}"} for row in range(30)]
        users = [
            {"user_id": f"u{user}", "items": [items[row]["item_id"] for row in rng.permutation(30)[:5]]}
            for user in range(15)
        ]
        for file, rows in (("items", items), ("sequences", users)):
            (tmp_path / name / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        titles += [item["title"] for item in items]
    (tmp_path / "small.yaml").write_text(SMALL)
    write_tiny_text_encoder(titles, tmp_path / "encoder", 0, hidden_size=16)
    return tmp_path


def run(monkeypatch, capsys, workplace, *argv) -> str:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    flags = [
        "--config",
        workplace / "small.yaml",
        "--domains",
        workplace / "target",
        "--results",
        workplace / "r.jsonl",
    ]
    flags += ["--work_dir", workplace / "work", "--text_encoder", workplace / "encoder", "--no_memory"]
    monkeypatch.setattr(sys, "argv", ["quality.py", *map(str, [*flags, *argv])])
    try:
        import ablations

        for name in ablations.ABLATIONS.keys() - set(TESTED):
            del ablations.ABLATIONS[name]
        runpy.run_path(str(BENCHMARKS / "quality.py"), run_name="__main__")
    finally:
        for name in ("ablations", "recipes", "sequential_rows"):
            sys.modules.pop(name, None)
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err, shown.err
    return shown.out


def test_lines_of_ablations(workplace, monkeypatch, capsys):
    flags = ["--ablations", "--pretraining_domains", workplace / "other"]
    shown = run(monkeypatch, capsys, workplace, *flags)
    lines = [json.loads(line) for line in (workplace / "r.jsonl").read_text().splitlines()]
    assert [line["model"] for line in lines[::2]] == list(TESTED)
    for line in lines:
        assert "--ablations --pretraining_domains other" in line["command"] and "--models" not in line["command"]
        assert (
            line["details"]["pretraining_domains"] == ["other"] and 0 <= line["details"]["items_sharing_codes"] <= 30
        )
    by_model = {line["model"]: line for line in lines[::2]}
    away = {name: line["differs_from_published"] for name, line in by_model.items()}
    assert "tokenizer.pretrained_on_other_domains" not in away["utgrec-whole"]
    assert away["utgrec-no-tree"]["tokenizer.codebook_structure"] == {"here": "residual", "published": "tree"}
    assert away["utgrec-no-pretraining"]["tokenizer.pretrained_on_other_domains"]["here"] is False
    assert by_model["utgrec-whole"]["variant"].startswith("pre-trained on other domains, fine-tuned with C frozen; T5")
    work = workplace / "work" / "target"
    made = sorted(each.name for each in work.glob("pretrained-*"))
    assert made == ["pretrained-codebook_structure-residual-seed-0", "pretrained-seed-0"]
    tuned = UTGRecTokenizerConfig.from_pretrained(work / "utgrec-no-tree-history-20-seed-0" / "tokenizer")
    assert tuned.codebook_structure == "residual"
    before, after = (
        load_file(folder / "tokenizer" / "model.safetensors")["quantizer.root.codes"]
        for folder in (work / "pretrained-seed-0", work / "utgrec-whole-history-20-seed-0")
    )
    assert before.equal(after)  # C is frozen
    assert "done before" in run(monkeypatch, capsys, workplace, *flags)
    assert "| utgrec-no-tree | a codebook for each level" in shown


def test_what_is_missing_is_said(workplace, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="give both or neither"):
        run(monkeypatch, capsys, workplace, "--ablations")
    with pytest.raises(ValueError, match="occur twice"):
        run(monkeypatch, capsys, workplace, "--ablations", "--pretraining_domains", workplace / "target")


def test_there_are_the_papers_seven(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    try:
        from ablations import ABLATIONS
    finally:
        for name in ("ablations", "recipes", "sequential_rows"):
            sys.modules.pop(name, None)
    assert len(ABLATIONS) == 8
    assert (
        len(
            {
                (str(each.network), each.tokenizer_mode, each.new_recommender, each.pretrained)
                for each in ABLATIONS.values()
            }
        )
        == 8
    )
