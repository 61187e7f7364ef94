"""The benchmark of an item tokenizer's training on a tiny encoder: what its methods differ in, and what it counts."""

import json
import sys
from pathlib import Path

import pytest

from trainers.data.domains import Domain
from trainers.data.synthetic import DOWNSTREAM_DOMAIN, generate_domain, write_domain
from trainers.methods.backbones import write_tiny_text_encoder

BENCHMARKS = Path(__file__).resolve().parents[3] / "examples" / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import timing
    import tokenizer_training

    monkeypatch.setattr(timing, "PRODUCT_SIZE", 64)
    yield tokenizer_training
    for name in ("tokenizer_training", "timing"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer-training")
    domain = generate_domain(DOWNSTREAM_DOMAIN, num_items=64, num_users=30, seed=0)
    write_domain(domain, folder / "data")
    texts = Domain.from_folder(folder / "data").catalogue.texts
    write_tiny_text_encoder(list(texts), folder / "encoder", seed=0, hidden_size=32)
    return ["--data", str(folder / "data"), "--backbone", str(folder / "encoder")]


def test_methods(benchmark, places, monkeypatch):
    sizes = "--pairs 4 --steps 4 --text_tokens 24 --text_labels 3 --codebook_dim 8 --state_gigabytes 0".split()
    results = {}
    for method in benchmark.METHODS:
        monkeypatch.setattr(sys, "argv", ["tokenizer_training.py", *places, *sizes, "--work", method])
        results[method] = benchmark.work(benchmark.parse())
    for result in results.values():
        assert 0 < result["fraction_of_limit"] and result["peak_gb"] > 0.1
        assert result["tokens_per_second"] > 0 and result["processor_seconds"] > 0
        assert {name: len(losses) for name, losses in result["curves"].items()} == dict.fromkeys(benchmark.LOSSES, 4)
        assert set(result["losses"]) == set(benchmark.LOSSES)
    texts = {name: result["losses"]["loss/text"][0] for name, result in results.items()}
    assert len({str(result["curves"]["loss/text"]) for result in results.values()}) == 3  # other draws and precision
    assert texts["parts"] == pytest.approx(texts["whole"], rel=0.1)
    assert texts["parts-bf16"] == pytest.approx(texts["parts"], rel=0.02)
    json.dumps(results)


def test_tokens_are_those_of_prompts(benchmark):
    class Pairs:
        def collate(self, batch):
            return {"attention_mask": batch}

    import torch

    tokens = benchmark.Tokens(Pairs())
    tokens(torch.tensor([[1, 1, 0], [1, 0, 0]]))
    tokens(torch.tensor([[1, 1, 1]]))
    assert tokens.counts == [3, 3]


def test_too_few_steps_are_refused(benchmark, places, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tokenizer_training.py", *places, "--steps", "2"])
    with pytest.raises(SystemExit):
        benchmark.parse()
    assert "more than 2" in capsys.readouterr().err
