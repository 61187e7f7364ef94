"""The benchmark of tokenizing on tiny networks: what it compares, and that all methods give the same codes."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import Qwen2VLModel

from tokenization_items.caches import takes_states

BENCHMARKS = Path(__file__).resolve().parents[3] / "examples" / "benchmarks"
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    found = runpy.run_path(str(BENCHMARKS / "tokenizing.py"))
    values = found["main"].__globals__
    for name, value in {"MINILM": TINY, "IMAGE_SIZE": (60, 40), "PIXELS": 56 * 56}.items():
        monkeypatch.setitem(values, name, value)
    found["timing"].PRODUCT_SIZE = 64
    yield found
    sys.modules.pop("timing", None)


def test_methods_agree(benchmark, capsys):
    argv = "--items 12 --images 4 --repetitions 1 --warmup 0 --batch_tokens 2000 --device cpu".split()
    benchmark["main"](benchmark["parse"](argv))
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    for kind, num_items in (("text", 12), ("images", 4)):
        part = result[kind]
        assert part["items"] == num_items and part["distinct_codes"] > num_items // 2
        others = {name for name in part["items_per_second"]} - {benchmark["OURS"]}
        assert set(part["speedup"]) == set(part["equal_codes"]) == others
        assert min(part["equal_codes"].values()) >= 0.95
        rate = part["items_per_second"][benchmark["OURS"]]
        assert part["items_per_second_limit"] > 0
        assert part["fraction_of_limit"] == pytest.approx(rate / part["items_per_second_limit"], rel=0.01)
    assert result["images"]["images"] == 4 and result["text"]["images"] == 0
    assert len(result["images"]["speedup"]) == 4 + takes_states(Qwen2VLModel)  # of images that are kept


def test_drawn_texts_are_as_long_as_measured(benchmark):
    lengths = [len(text.split()) for text in benchmark["drawn_texts"](500, np.random.default_rng(0))]
    found = np.percentile(lengths, benchmark["PERCENTILES"])
    np.testing.assert_allclose(found, benchmark["WORDS"], rtol=0.05)


def test_rows_are_spread_over_the_lengths(benchmark):
    rng = np.random.default_rng(0)
    texts = ["x" * length for length in rng.permutation(1000)]
    rows = benchmark["spread_rows"](texts, 11, rng)
    lengths = [len(texts[row]) for row in rows]
    assert lengths != sorted(lengths)
    np.testing.assert_allclose(sorted(lengths), np.linspace(0, 999, 11), atol=1)
    assert sorted(benchmark["spread_rows"](texts, 5000, rng)) == list(range(1000))
