"""The benchmark of the linear ranker on tiny catalogues."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[3] / "examples" / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    found = runpy.run_path(str(BENCHMARKS / "linear.py"))
    found["timing"].PRODUCT_SIZE = 64
    yield found
    sys.modules.pop("timing", None)


def test_prints_one_object_last(benchmark, capsys):
    sizes = "--items 60 --inverse_interactions 600 --counted_items 300 --interactions 2000 --checked_items 40"
    benchmark["main"](benchmark["parse"]([*sizes.split(), "--scored_users", "20"]))
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["inverse"]["selection_seconds"] > 0 and result["inverse"]["gigabytes"] > 0
    assert result["counts"]["cut_entries"] <= result["counts"]["entries"] and result["counts"]["interactions"] == 2000
    assert 0 < result["precision"]["relative_error"] < 1e-4


def test_walks_have_neighbours(benchmark):
    data = benchmark["walks"](200, 3000, 0)
    assert (data.num_users, data.num_items, len(data.items)) == (300, 200, 3000)
    pairs = np.stack([data.items.reshape(300, 10)[:, :-1], data.items.reshape(300, 10)[:, 1:]], axis=-1).reshape(-1, 2)
    most = np.unique(pairs, axis=0, return_counts=True)[1].max()
    assert most > 5, "no pair occurs more often than by chance"
