"""The load test: what it takes for a right answer, and a whole run at a size that takes seconds."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[3] / "examples" / "benchmarks" / "serving.py"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(FILE.parent))
    for name in ("timing", "quickstart"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    spec = importlib.util.spec_from_file_location("benchmark_serving", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def entries(**scores):
    return [{"item_id": name, "score": score} for name, score in scores.items()]


def test_a_right_answer(benchmark):
    expected = entries(a=-1.0, b=-2.0, c=-2.0, d=-3.0)
    assert benchmark.is_right(expected, expected)
    assert benchmark.is_right(entries(a=-1.0001, c=-2.0, b=-2.0001, e=-3.0), expected)  # equal scores change places
    for wrong in (expected[:3], entries(b=-1.0, a=-2.0, c=-2.0, d=-3.0), entries(a=-1.1, b=-2.0, c=-2.0, d=-3.0), []):
        assert not benchmark.is_right(wrong, expected)
    assert not benchmark.is_right(entries(a=-1.0, b=-2.0, x=-2.0, d=-3.0), expected)


@pytest.mark.slow
def test_no_answer_is_wrong(benchmark, capsys):
    flags = ["--orders", "2000", "--products", "100", "--clients", "1", "4", "--seconds", "1"]
    result = benchmark.main(benchmark.parse(flags))
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result
    assert {(row["wrong"], row["failed"]) for row in result["rows"]} == {(0, 0)} and len(result["rows"]) == 5
    assert result["end"]["answered"] == result["end"]["sent"] == 4 and result["end"]["exit_code"] == 0
