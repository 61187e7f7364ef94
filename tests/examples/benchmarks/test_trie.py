"""The benchmark of the trie on a tiny catalogue."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[3] / "examples" / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    found = runpy.run_path(str(BENCHMARKS / "trie.py"))
    found["timing"].COPY_BYTES = 1000
    yield found
    sys.modules.pop("timing", None)


@pytest.mark.parametrize("dictionary", [True, False])
def test_prints_one_object_last(benchmark, capsys, dictionary):
    arguments = "--items 300 --sizes 8 9 10 --added 20 --batch 3 --beams 4 --repetitions 2 --warmup 1".split()
    benchmark["main"](benchmark["parse"]([*arguments, "--dictionary" if dictionary else "--no-dictionary"]))
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert ("identical_results" in result) == dictionary
    assert result.get("identical_results", True) is True
    assert result["sizes"] == [8, 9, 10] and result["megabytes"] > 0
    assert {"build", "add items", "ask with a mask", "ask with seen items"} < set(result["seconds"])
    assert result["add_over_rebuild"]["min"] > 0


def test_random_codes_are_distinct(benchmark):
    codes = benchmark["random_codes"](700, [8, 9, 10], torch.Generator().manual_seed(0))
    assert codes.unique(dim=0).shape == codes.shape == (700, 3)
    assert (codes.amax(0) == torch.tensor([7, 8, 9])).all() and (codes >= 0).all()
    with pytest.raises(SystemExit, match="721 items need more codes"):
        benchmark["random_codes"](721, [8, 9, 10], torch.Generator())
