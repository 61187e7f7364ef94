"""Tables and files of results."""

import json

import numpy as np
import pytest

from trainers.evaluation.metrics import metrics_per_case
from trainers.evaluation.tables import load_result, portable_command, render_report, save_results, to_json

RANKS = np.array([0, -1, 7])
RESULT = {
    "name": "model",
    **{name: float(gain.mean()) for name, gain in metrics_per_case(RANKS).items()},
    "gini@5": None,
    "seen": "kept",
    "intervals": {"recall@5": [0.1, 0.61234]},
    "long_tail": [{"popularity": "[0,20)", "recall@5": None}, {"popularity": "[20,∞)", "recall@5": 0.5}],
    "per_user": {"users": np.arange(3), "targets": np.array([5, 6, 7]), "ranks": RANKS, **metrics_per_case(RANKS)},
}


def test_report_says_everything():
    test = {"difference": 0.1, "low": 0.05, "high": 0.15, "p_value": 0.002}
    other = {"name": "seeds", "recall@5": 0.5, "sd": {"recall@5": 0.01}, "seen": "kept"}
    report = render_report([{**RESULT, "comparison": {"with": "seeds", "metrics": {"recall@5": test}}}, other])
    metrics, protocol, *rest = [block for block in report.split("\n\n") if block.startswith("|")]
    assert "| model | 0.3333 [0.1000, 0.6123] |" in metrics and "| seeds | 0.5000 ± 0.0100 |" in metrics
    assert protocol.splitlines()[2:] == ["| model | kept |", "| seeds | kept |"]
    assert "| [0,20) | – |" in rest[0] and "| recall@5 | 0.1000 | 0.0500 | 0.1500 | 0.0020 |" in rest[1]
    assert "model against seeds" in report and "ranks" not in report


def test_files_keep_the_cases(tmp_path):
    save_results([RESULT], tmp_path / "r.json")
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
    stored = json.loads((tmp_path / "r.json").read_text())
    assert stored["per_user"] == {"users": [0, 1, 2], "targets": [5, 6, 7], "ranks": [0, -1, 7]}
    loaded = load_result(tmp_path / "r.json")
    assert set(loaded["per_user"]) == set(RESULT["per_user"]) and loaded["recall@5"] == RESULT["recall@5"]
    for name, values in RESULT["per_user"].items():
        assert np.array_equal(loaded["per_user"][name], values), name
    # as version 0.1 named them
    stored["per_user"]["places"] = stored["per_user"].pop("ranks")
    (tmp_path / "earlier.json").write_text(json.dumps(stored))
    earlier = load_result(tmp_path / "earlier.json")["per_user"]
    assert earlier.keys() == loaded["per_user"].keys() and earlier["ranks"].tolist() == [0, -1, 7]
    assert "\n" not in to_json(RESULT) and json.loads(to_json({"name": "x"})) == {"name": "x"}


@pytest.mark.parametrize("content", ["[1]", "{", '{"recall@5": 1}', '{"name": "a", "per_user": {"users": [1]}}'])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(ValueError, match="r.json is no result"):
        load_result(tmp_path / "r.json")


def test_commands_name_no_place_of_this_machine(tmp_path, monkeypatch):
    (tmp_path / "office data").mkdir()
    argv = ["--data", str(tmp_path / "office data"), f"--json={tmp_path / 'new.json'}", "--encoder", "org/name", "-"]
    assert portable_command(["python", "examples/e.py"], argv) == (
        "python examples/e.py --data 'office data' --json=new.json --encoder org/name -"
    )
    (tmp_path / "data" / "office").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    argv = ["--data", "data/office", "--tokenizer=../there/not", "--recommender", "data/none"]
    assert portable_command(["utgrec", "e"], argv) == (
        "utgrec e --data office --tokenizer=../there/not --recommender data/none"
    ), "of relative ones those that are there: others may be on the Hub"
