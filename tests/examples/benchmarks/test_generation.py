"""The benchmark of generation on a tiny model: what it prints, and how it counts."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from modeling_utgrec import ItemTrie, UTGRecConfig, UTGRecForConditionalGeneration
from modeling_utgrec.generation_layers import fast_cpu, fused_dtypes

BENCHMARKS = Path(__file__).resolve().parents[3] / "examples" / "benchmarks"
TINY = {"d_model": 16, "d_ff": 24, "num_heads": 2, "d_kv": 8, "num_layers": 2}


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    found = runpy.run_path(str(BENCHMARKS / "generation.py"))
    monkeypatch.setitem(
        found["make_methods"].__globals__, "UTGRecConfig", lambda **sizes: UTGRecConfig(**sizes, **TINY)
    )
    yield found
    for name in ("timing", "trie"):
        sys.modules.pop(name, None)


def run(benchmark, capsys, *argv) -> dict:
    arguments = "--codes 6 --batch 3 --beams 4 --num_items 3 --history 3 --candidates 30".split()
    arguments += "--repetitions 2 --warmup 1".split()
    benchmark["timing"].PRODUCT_SIZE, benchmark["timing"].COPY_BYTES = 64, 1000
    benchmark["main"](benchmark["parse"]([*arguments, *argv]))
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_compares_with_generate(benchmark, capsys):
    result = run(benchmark, capsys, "--items", "40")
    assert set(result["users_per_second"]) == {*benchmark["METHODS"], *benchmark["GENERATE"]}
    assert result["identical_results"] is True and result["equal_items"] == 1
    # how fast it is depends on the machine; that the figures are there does not
    assert result["speedup_over_generate"] > 0 and result["fraction_of_limit"] > 0
    assert result["speedup_over_generate_fast_cpu"] > 0
    assert result["constraint_share"] < 1
    assert result["scoring"]["candidates"] == 30 and 0 < result["scoring"]["fraction_of_limit"] < 1
    assert all(times["min"] <= times["median"] for times in result["seconds"].values())


def test_item_level_stands_beside_the_t5(benchmark, capsys):
    names = "--methods recommend item-level --content 5".split()
    result = run(benchmark, capsys, "--items", "20", "40", *names)
    assert result["users_per_second"]["item-level"] > 0 and result["item_level_speedup"] > 0
    assert result["item_level_milliseconds"] > 0
    assert set(result["item_level_growth"]) == {"item-level", "item-level, 40 items"}
    assert set(result["growth"]) == {"recommend", "recommend, 40 items"}


@pytest.mark.parametrize("switch", ["0", "1"])
def test_the_switch_is_on_in_its_row_alone(benchmark, capsys, monkeypatch, switch):
    monkeypatch.setenv("UTGREC_FAST_CPU", switch)
    seen = []

    class Recommender(UTGRecForConditionalGeneration):
        def recommend(self, *args, **kwargs):
            seen.append(fast_cpu())
            return super().recommend(*args, **kwargs)

    monkeypatch.setitem(benchmark["make_methods"].__globals__, "UTGRecForConditionalGeneration", Recommender)
    arguments = "--items 10 --repetitions 1 --warmup 0 --methods".split()
    run(benchmark, capsys, *arguments, "recommend, UTGREC")
    assert seen == [True]
    seen.clear()
    run(benchmark, capsys, *arguments, "recommend, seen", "recommend, 99")
    assert seen == [False, False]


def test_bfloat16_runs_on_every_processor(benchmark, capsys):
    result = run(benchmark, capsys, "--items", "40", "--methods", "recommend", "generate", "--dtype", "bfloat16")
    shares = result["items_of_float32"]
    assert len(shares) == 2 and all(0.3 < share <= 1 for share in shares.values())
    # the search of an identical model in float32 is compared elsewhere; here that each product times what it can
    assert set(result["fraction_of_limit_by_product"]) == {
        "product",
        *(["product (oneDNN)"] if torch.bfloat16 in fused_dtypes() else []),
    }


def test_growth_with_the_catalogue(benchmark, capsys):
    result = run(benchmark, capsys, "--items", "10", "200", "--methods", "recommend", "--levels", "4")
    assert set(result["growth"]) == {"recommend", "recommend, 200 items"}
    assert "recommend, UTGREC_FAST_CPU=1" in result["seconds"]
    assert result["items"] == [10, 200] and result["level_sizes"] == [6] * 4
    assert "speedup_over_generate" not in result


def test_distinct_prefixes_are_counted(benchmark):
    trie = ItemTrie([[0, 1, 0], [0, 1, 1], [0, 2, 0], [3, 1, 0]], [4, 4, 4], [2, 6, 10])
    rows = torch.tensor([[0, 1, 2, 3], [1, 1, 0, 0]])
    assert benchmark["distinct_prefixes"](trie, rows) == [2, 2 + 1, 3 + 1]


def test_different_results_are_seen(benchmark):
    trie = ItemTrie([[0, 1], [2, 3], [4, 5]], [6, 6], [2, 8])
    scores = torch.tensor([[-1.0, -2.0], [-1.0, -1.00001]])

    def compare(rows, scores, sequences, their_scores):
        recommended = type("Output", (), {"item_rows": torch.tensor(rows), "scores": scores})
        generated = type("Output", (), {"sequences": torch.tensor(sequences), "sequences_scores": their_scores})
        return benchmark["compare"](recommended, generated, trie)["identical_results"]

    same = [[0, 2, 9], [0, 4, 11], [0, 4, 11], [0, 6, 13]]
    assert compare([[0, 1], [1, 2]], scores, same, scores.flatten())
    assert compare([[0, 1], [2, 1]], scores, same, scores.flatten())  # of equal scores
    assert not compare([[1, 0], [1, 2]], scores, same, scores.flatten())
    assert not compare([[0, 1], [1, 2]], scores, same, scores.flatten() + 1e-3)


@pytest.mark.parametrize("feed_forward", ["relu", "gated-gelu"])
def test_counted_operations_are_those_of_the_search(benchmark, monkeypatch, feed_forward):
    """All products but those of the self-attention, which are done one vector at a time and not counted by torch."""
    monkeypatch.delenv("UTGREC_FAST_CPU", raising=False)  # torch counts no products of oneDNN
    config = UTGRecConfig(level_sizes=[6, 6, 6], feed_forward_proj=feed_forward, **TINY)
    model = UTGRecForConditionalGeneration(config).eval()
    codes = torch.cartesian_prod(*[torch.arange(6)] * 3)
    trie = ItemTrie(codes, config.level_sizes, config.level_offsets)
    history = (codes[:6] + torch.tensor(config.level_offsets)).view(2, 9)
    with FlopCounterMode(display=False) as counter:
        model.recommend(history, None, trie, num_items=4, num_beams=4)
    rows = [2, 8, 8]
    flops, moved = benchmark["arithmetic"](config, 2, 9, rows, 4)
    vectors = sum(4 * count * 2 * (step + 1) * 16 for step, count in enumerate(rows))
    assert counter.get_total_flops() + vectors == flops
    assert moved > 4 * 2 * 9 * 2 * 16
