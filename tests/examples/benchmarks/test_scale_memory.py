"""The benchmark of a large catalogue's memory on a tiny one."""

import json
import runpy
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[3] / "examples" / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return runpy.run_path(str(BENCHMARKS / "scale_memory.py"))


def test_both_parts(script, capsys):
    flags = ["--items", "700", "--interactions", "4000", "--row_items", "5", "--similar_items", "8"]
    script["main"](script["parse"]([*flags, "--content_width", "8", "--parts", "counts", "similar"]))
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert 4 < result["counts"]["transitions_an_item"] <= 5 and result["counts"]["keeps_pairs"]
    assert result["similar"]["share_found"] > 0.8
