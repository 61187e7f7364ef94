"""The evaluation command, in process, on a small data folder."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from trainers.evaluation import evaluate
from trainers.floors import ItemTransitions
from trainers.interactions import Interactions

SCRIPT = Path(__file__).parents[2] / "examples" / "evaluate.py"
IDS = [f"i{n}" for n in range(30)]


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    sequences = [[IDS[item] for item in rng.zipf(1.5, 9) % 30] for _ in range(40)]
    (tmp_path / "items.jsonl").write_text(
        "".join(json.dumps({"item_id": i, "title": f"item {i}"}) + "\n" for i in IDS)
    )
    rows = [{"user_id": str(u), "items": sequence} for u, sequence in enumerate(sequences)]
    (tmp_path / "sequences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture
def run(monkeypatch, capsys, data):
    spec = importlib.util.spec_from_file_location("evaluate_example", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    # dataclasses with postponed or string annotations are resolved through sys.modules
    monkeypatch.setitem(sys.modules, "evaluate_example", script)
    spec.loader.exec_module(script)

    def call(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--data", str(data), *arguments])
        script.main()
        return capsys.readouterr().out

    return call


@pytest.mark.parametrize("flags, masked", [([], False), (["--mask_seen"], True), (["--mask-seen"], True)])
def test_json_is_one_line_and_equals_evaluate(run, data, flags, masked):
    out = run("--recommender", "item-transitions", *flags, "--json", "-")
    assert out.count("\n") == 1
    interactions = Interactions.from_folder(data, IDS)
    expected = evaluate(ItemTransitions(interactions.training_part()), interactions, mask_seen=masked)
    assert json.loads(out) == expected
    assert expected["seen"] == ("masked" if masked else "kept") and expected["recall@10"] > 0


def test_table_and_file(run, tmp_path):
    table = run("--recommender", "popularity", "--part", "validation", "--max_history", "5")
    assert "| popularity | 0." in table and "| [0,20) |" in table and "validation" in table
    assert run("--recommender", "popularity", "--json", str(tmp_path / "out.json")) == ""
    assert json.loads((tmp_path / "out.json").read_text())["num_users"] == 40
    assert not list(tmp_path.glob("*.tmp"))


def test_unknown_recommender(run):
    with pytest.raises(SystemExit, match="nowhere is no folder"):
        run("--recommender", "nowhere")
