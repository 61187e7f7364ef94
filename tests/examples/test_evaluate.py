"""The evaluation command, in process, on a small data folder."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from trainers.evaluation import evaluate
from trainers.floors import ItemTransitions, NearestItems, Popularity
from trainers.interactions import Interactions
from trainers.significance import paired_test

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
    recommender = ItemTransitions(interactions.training_part())
    expected = evaluate(recommender, interactions, mask_seen=masked, intervals=1000)
    assert json.loads(out) == expected
    assert expected["seen"] == ("masked" if masked else "kept") and expected["recall@10"] > 0


def test_settings_arrive(run, data):
    out = run("--recommender", "popularity", "--k", "3", "7", "--max_history", "0", "--intervals", "0", "--json", "-")
    interactions = Interactions.from_folder(data, IDS)
    expected = evaluate(Popularity(interactions.training_part()), interactions, max_history=None, ks=(3, 7))
    assert json.loads(out) == expected and expected["max_history"] is None
    core = interactions.k_core(4)
    kept = json.loads(run("--recommender", "popularity", "--k_core", "4", "--json", "-"))
    assert (
        0 < core.num_users
        and kept["candidates"] == f"all {(core.popularity > 0).sum()} items"
        and kept["num_users"] == core.num_users
    )


def test_given_split(run, data):
    sequences = [json.loads(line) for line in (data / "sequences.jsonl").read_text().splitlines()]
    (data / "sequences.jsonl").unlink()
    parts = ["train"] * 6 + ["validation"] + ["test"] * 2
    rows = [
        f"{row['user_id']},{item},{time},{part}"
        for row in sequences
        for time, (item, part) in enumerate(zip(row["items"], parts, strict=True))
    ]
    (data / "interactions.csv").write_text("user_id,item_id,timestamp,split\n" + "\n".join(rows))
    (data / "prepared.json").write_text(json.dumps({"choices": {"split": "temporal"}}))
    result = json.loads(run("--recommender", "item-transitions", "--json", "-"))
    assert (result["split"], result["num_users"], result["num_cases"]) == ("temporal", 40, 80)


def test_nearest_items(run, data, tmp_path):
    embeddings = np.random.default_rng(1).normal(size=(30, 4)).astype(np.float32)
    with pytest.raises(SystemExit, match="needs --embeddings"):
        run("--recommender", "nearest-items")
    save_embeddings = pytest.importorskip("trainers.item_embeddings").save_embeddings
    save_embeddings(tmp_path / "texts", IDS[::-1], embeddings[::-1])  # the file's order is not the catalogue's
    flags = ["--embeddings", str(tmp_path / "texts"), "--query", "mean", "--intervals", "0"]
    interactions = Interactions.from_folder(data, IDS)
    expected = evaluate(NearestItems(embeddings, "mean"), interactions)
    assert json.loads(run("--recommender", "nearest-items", *flags, "--json", "-")) == expected


def test_comparison_with_a_recommender_and_with_a_file(run, data, tmp_path):
    file = str(tmp_path / "floor.json")
    run("--recommender", "popularity", "--per_user", "--json", file)
    result = json.loads(run("--recommender", "item-transitions", "--compare_with", "popularity", "--json", "-"))
    assert result == json.loads(run("--recommender", "item-transitions", "--compare_with", file, "--json", "-"))
    interactions = Interactions.from_folder(data, IDS)
    training = interactions.training_part()
    a, b = (evaluate(floor(training), interactions, per_user=True) for floor in (ItemTransitions, Popularity))
    assert result["comparison"] == {"with": "popularity", "metrics": paired_test(a["per_user"], b["per_user"])}
    assert result["comparison"]["metrics"]["ndcg@10"]["difference"] == pytest.approx(a["ndcg@10"] - b["ndcg@10"])
    table = run("--recommender", "item-transitions", "--compare_with", file)
    assert "item transitions against popularity" in table and "| p_value |" in table
    with pytest.raises(SystemExit, match="seen is 'masked' and 'kept'"):
        run("--recommender", "item-transitions", "--mask-seen", "--compare_with", file)
    run("--recommender", "popularity", "--json", file)
    with pytest.raises(SystemExit, match="--per_user"):
        run("--recommender", "item-transitions", "--compare_with", file)


def test_seeds(run):
    result = json.loads(run("--recommender", "popularity", "item-transitions", "--json", "-"))
    first, second = result["seeds"]
    assert result["name"] == "popularity, item transitions" and result["num_seeds"] == 2
    assert result["recall@10"] == pytest.approx((first["recall@10"] + second["recall@10"]) / 2)
    assert result["sd"]["recall@10"] == pytest.approx(abs(first["recall@10"] - second["recall@10"]) / 2**0.5)
    table = run("--recommender", "popularity", "item-transitions", "--compare_with", "popularity")
    assert " ± " in table and "against popularity" in table
    with pytest.raises(SystemExit, match="one by one"):
        run("--recommender", "popularity", "item-transitions", "--per_user")


def test_table_and_file(run, tmp_path):
    table = run("--recommender", "popularity", "--part", "validation", "--max_history", "5")
    assert "| popularity | 0." in table and "| [0,20) |" in table and "validation" in table
    assert run("--recommender", "popularity", "--json", str(tmp_path / "out.json")) == ""
    assert json.loads((tmp_path / "out.json").read_text())["num_users"] == 40
    assert not list(tmp_path.glob("*.tmp"))


def test_unknown_recommender(run):
    with pytest.raises(SystemExit, match="nowhere is no folder"):
        run("--recommender", "nowhere")
