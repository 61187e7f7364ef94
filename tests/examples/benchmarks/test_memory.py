"""The benchmark of the memory on tiny catalogues."""

import json
import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[3] / "examples" / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield runpy.run_path(str(BENCHMARKS / "memory.py"))
    for name in ("timing", "trie"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("model, in_stock", [("t5", 1.0), ("qwen3", 1.0), ("item-level", 0.8)])
def test_prints_one_object_last(benchmark, capsys, model, in_stock):
    arguments = "--items 40 90 --sizes 4 5 6 --batch 3 --beams 10 --history 6 --repetitions 2 --warmup 1".split()
    sizes = "--row_items 4 --similar_items 5 --content_width 3".split()
    benchmark["main"](benchmark["parse"]([*arguments, *sizes, "--model", model, "--in_stock", str(in_stock)]))
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["cost_of_memory"].keys() == {"40", "90"} and "growth" in result
    assert result["core_seconds"].keys() == {
        f"{kind}, {items} items" for kind in ("network", "with memory") for items in (40, 90)
    }
    assert result["bytes_an_item"] == pytest.approx(6 * 4 + 4 * 5 + 4 + 2 * 3, abs=0.4)
