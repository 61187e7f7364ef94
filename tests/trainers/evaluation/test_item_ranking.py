"""The `evaluate` module, loaded by its path, gives the numbers of the protocol."""

import builtins
import importlib.util
from pathlib import Path

import evaluate as hf_evaluate
import numpy as np
import pytest

from trainers.data.interactions import Interactions
from trainers.evaluation.metrics import ranking_metrics
from trainers.evaluation.protocol import evaluate

FOLDER = Path(__file__).parents[3] / "trainers" / "evaluation" / "item_ranking"
IDS = [f"i{n}" for n in range(20)]


@pytest.fixture
def item_ranking(tmp_path, monkeypatch):
    monkeypatch.setattr(hf_evaluate.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    return hf_evaluate.load(str(FOLDER), cache_dir=str(tmp_path / "cache"))


class Shuffled:
    def __init__(self):
        self.ranked = []

    def rank(self, histories, k, exclude=None):
        rows = [np.random.default_rng(len(self.ranked) + i).permutation(20)[:k] for i in range(len(histories))]
        self.ranked += rows
        return np.array(rows)


def test_same_numbers_as_the_protocol(item_ranking):
    rng = np.random.default_rng(0)
    interactions = Interactions.from_sequences([[IDS[i] for i in rng.integers(0, 20, 6)] for _ in range(30)], IDS)
    recommender = Shuffled()
    expected = evaluate(recommender, interactions, ks=(1, 5, 10), batch_size=7)
    targets = interactions.cases().targets
    popularity = interactions.training_part().popularity
    found = item_ranking.compute(
        predictions=np.array(recommender.ranked), references=targets, ks=[1, 5, 10], popularity=popularity
    )
    assert found == {name: value for name, value in expected.items() if "@" in name}
    # in batches, with the defaults
    for start in range(0, 30, 8):
        rows = slice(start, start + 8)
        item_ranking.add_batch(predictions=recommender.ranked[rows], references=targets[rows])
    assert item_ranking.compute() == ranking_metrics(np.array(recommender.ranked), targets)


def test_lists_may_differ_in_length_but_not_be_short(item_ranking):
    found = item_ranking.compute(predictions=[[3, 1, 2], [0, -1]], references=[1, 4], ks=[2])
    assert found["recall@2"] == 0.5 and found["mrr@2"] == 0.25
    with pytest.raises(ValueError, match="pad with -1"):
        item_ranking.compute(predictions=[[3, 1, 2], [0]], references=[1, 4], ks=[2])


def test_a_missing_package_is_named(monkeypatch):
    imported = builtins.__import__

    def without_trainers(name, *arguments, **keywords):
        if name.split(".")[0] == "trainers":
            raise ImportError(f"No module named {name!r}")
        return imported(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without_trainers)
    spec = importlib.util.spec_from_file_location("item_ranking_alone", FOLDER / "item_ranking.py")
    with pytest.raises(ImportError, match="pip install -e"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
