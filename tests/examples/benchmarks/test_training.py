"""The benchmark of training on a tiny model: its methods take turns, and work on the same targets."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[3]
BENCHMARKS = ROOT / "examples" / "benchmarks"
TINY = "--items 80 --users 60 --batch 64 --codes 8 --d_model 16 --d_ff 16 --d_kv 8 --num_heads 2 --num_layers 1"
TINY += " --device cpu"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import training

    yield training
    for name in ("training", "timing", "trie"):
        sys.modules.pop(name, None)


def run(*argv) -> dict:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(BENCHMARKS / "training.py"), *TINY.split(), *argv]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_throughput():
    result = run("--repetitions", "2", "--steps", "1", "--warmup", "1")
    methods = {"plain", "windows", "packed"}
    assert set(result["targets_per_second"]) == set(result["peak_mb"]) == methods
    assert set(result["speedup_over_plain"]) == methods - {"plain"}
    assert all(0 < share < 1 for share in result["fraction_of_limit"].values())
    assert all(megabytes > 100 for megabytes in result["peak_mb"].values())


@pytest.mark.slow
def test_throughput_of_an_item_level_recommender():
    methods = ("item-level", "sasrec", "windows")
    result = run("--hidden_size", "8", "--content", "5", "--repetitions", "1", "--steps", "1", "--methods", *methods)
    assert set(result["targets_per_second"]) == set(methods)
    assert set(result["item_level_speedup"]) == {"sasrec", "windows"}
    assert all(0 < share < 1 for share in result["fraction_of_limit"].values())


@pytest.mark.slow
def test_to_equal_quality():
    result = run("--to_equal_quality", "--epochs", "2", "--methods", "plain", "windows")
    for name in ("plain", "windows"):
        assert len(result["ndcg@10"][name]) == 2
        assert result["train_seconds"][name] == sorted(result["train_seconds"][name])
    assert result["goal"] == max(result["ndcg@10"]["plain"]) and result["seconds_to_goal"]["plain"] > 0


def test_plain_examples_are_the_windows(benchmark):
    data = benchmark.Data(benchmark.parse(TINY.split()))
    examples = data.examples()
    assert len(examples) == len(data.windows) == data.packed.num_targets
    batch = benchmark.pad(examples[5:40])
    from trainers.training_data.next_item_windows import NextItemCollator

    expected = NextItemCollator(data.windows)(data.windows.__getitems__(np.arange(5, 40)))
    for name, tensor in expected.items():
        assert torch.equal(batch[name], tensor), name


def test_less_arithmetic_for_packed_rows(benchmark):
    options = benchmark.parse(TINY.split())
    data = benchmark.Data(options)
    windows, packed = (benchmark.arithmetic(method, data, options) for method in ("windows", "packed"))
    assert 0 < packed < windows == benchmark.arithmetic("plain", data, options)
    assert benchmark.rows_of_a_batch("windows", data, options) == 64
    rows = benchmark.rows_of_a_batch("packed", data, options)
    assert rows * data.packed.num_targets / len(data.packed) == pytest.approx(64, rel=0.2)
