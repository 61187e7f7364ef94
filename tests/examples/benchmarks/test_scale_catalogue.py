"""The benchmark of a catalogue in parts, small and without Ray."""

import json
import runpy
from contextlib import nullcontext
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[3] / "examples" / "benchmarks" / "scale_catalogue.py"


def test_prints_one_object_last(monkeypatch, capsys, tmp_path):
    pytest.importorskip("faiss", reason="of utgrec[baselines]")

    def spread(tasks, worker, arguments, *rest):
        return map(worker(**arguments), tasks)

    monkeypatch.setattr("trainers.methods.large_catalogue.spread", spread)
    monkeypatch.setattr("trainers.runtime.ray_engine.ray_session", lambda *_: nullcontext())
    monkeypatch.syspath_prepend(str(BENCHMARK.parent))
    benchmark = runpy.run_path(str(BENCHMARK))
    sizes = "--items 600 --codes 32 --fitted_on 400 --dim 8 --block_items 128 --range_items 100"
    benchmark["main"](benchmark["parse"]([*sizes.split(), "--actors", "2", "--folder", str(tmp_path)]))
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["actors"]["2"]["equal"] is True and result["one_machine"]["seconds"] > 0
    assert {"check", "encode", "resolve", "look up"} == {*result["actors"]["2"]["ends"]}
    assert 22 <= result["asked"]["bytes_per_item"] < 40 and not [*tmp_path.iterdir()]
