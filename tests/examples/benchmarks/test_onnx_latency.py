"""The benchmark of onnxruntime beside torch, on a tiny model."""

import json
import runpy
import sys
from pathlib import Path

import pytest

for name in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(name)
BENCHMARKS = Path(__file__).resolve().parents[3] / "examples" / "benchmarks"


@pytest.mark.slow
def test_prints_ratios_in_one_object_last(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    found = runpy.run_path(str(BENCHMARKS / "onnx_latency.py"))
    options = "--items 50 --width 16 --content_size 4 --batch 1 3 --beams 5 --repetitions 2 --warmup 1".split()
    found["main"](found["parse"](options))
    sys.modules.pop("timing", None), sys.modules.pop("trie", None)
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    for batch in (1, 3):
        assert result[f"batch {batch}, largest difference"] < 1e-4
        for part in ("history", "recommend"):
            assert result[f"batch {batch}, {part}, onnxruntime / torch"]["median"] > 0
