"""The benchmark of the quick start at a size that takes a second."""

import importlib.util
import json
from pathlib import Path

FILE = Path(__file__).parents[3] / "examples" / "benchmarks" / "quickstart.py"


def test_parts_are_timed(capsys):
    spec = importlib.util.spec_from_file_location("benchmark_quickstart", FILE)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    result = benchmark.main(benchmark.parse(["--orders", "2000", "--products", "100"]))
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result
    assert {"imports", "reading", "texts", "transitions", "memory", "validation"} <= result["parts"].keys()
    scores = {row["model"].partition(" ")[0]: row["ndcg@10"] for row in result["validation"]}
    assert scores["recommender"] > scores["popularity"]  # the generated shop has something to learn
