"""Commands that are killed and run again make what they would have made. A few kills here; `make test-faults` has the
rest, KILLS of each command."""

import json
import os

import numpy as np
import pytest

from .commands import (
    PRETRAINING,
    daily_update,
    embedding,
    judging,
    preparing,
    pretraining,
    quick_start,
    remembering,
    tokenizing,
    training,
)
from .killer import Command, differences

KILLS = int(os.environ.get("KILLS", "10"))


def assert_survived(report, least=1):
    print(report)
    assert report.survived == report.tried and report.killed >= least, str(report)


def test_kills_of_a_training(killer, data):
    """Within the second checkpoint, and while what was trained is saved."""
    assert_survived(killer.try_kills(training(killer, data, "sasrec"), [0.55, 0.97]), least=2)


def test_the_harness_sees_what_differs(tmp_path):
    for name, seconds in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps([{"ndcg": 0.5, "train_seconds": seconds}]))
        np.save(tmp_path / name / "x.npy", np.arange(3))
    assert differences(tmp_path / "a", tmp_path / "b") == []
    np.save(tmp_path / "b" / "x.npy", np.arange(4))
    (tmp_path / "b" / "results.json").write_text(json.dumps([{"ndcg": 0.6}]))
    (tmp_path / "b" / ".checkpoint-2.unfinished").mkdir()
    (tmp_path / "b" / "y.txt").touch()
    said = [".checkpoint-2.unfinished was left", "results.json differs", "x.npy differs", "y.txt is too many"]
    assert differences(tmp_path / "a", tmp_path / "b") == said


@pytest.mark.slow
@pytest.mark.parametrize("model", ["sasrec", "tiger", "tiger-item-level"])
def test_many_kills_of_trainings(killer, data, model):
    flags = () if model == "sasrec" else ("--text_encoder", "tf-idf")
    assert_survived(killer.try_kills(training(killer, data, model, *flags), KILLS))


@pytest.mark.slow
def test_many_kills_of_a_preparation(killer):
    assert_survived(killer.try_kills(preparing(killer), KILLS))


@pytest.mark.slow
def test_many_kills_of_an_embedding(killer, data):
    assert_survived(killer.try_kills(embedding(data), KILLS))


@pytest.mark.slow
def test_many_kills_of_a_quality_table(killer, data):
    assert_survived(killer.try_kills(judging(killer, data), KILLS))


@pytest.mark.slow
def test_many_kills_of_a_memory(killer, data, recommender):
    assert_survived(killer.try_kills(remembering(data, recommender), KILLS))


@pytest.mark.slow
def test_many_kills_of_a_daily_update(killer):
    assert_survived(killer.try_kills(daily_update(killer), KILLS))


@pytest.mark.slow
@pytest.mark.parametrize("model", PRETRAINING)
def test_many_kills_of_pre_training_and_fine_tuning(killer, data, model):
    """At writes and moments of every stage: encoder, item tokenizer, identifiers, recommender, evaluation."""
    command = pretraining(killer, data, model)
    assert_survived(killer.try_kills(command, KILLS))
    code, _, _ = killer.run(command, killer.folder / f"{model}-pretrained")
    assert code == 0, killer.log
    argv = ["finetune", "--config", str(killer.folder / f"{model}.yaml"), "--data", str(data), "--output_dir", "{out}"]
    argv += ["--pretrained", str(killer.folder / f"{model}-pretrained"), "--name", "small"]
    assert_survived(killer.try_kills(Command(f"finetune --model {model}", argv, again=["--resume"]), KILLS))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_many_kills_of_a_tokenization(killer, processes):
    assert_survived(killer.try_kills(tokenizing(processes), KILLS))


@pytest.mark.slow
def test_many_kills_of_a_quick_start(killer):
    assert_survived(killer.try_kills(quick_start(killer), KILLS))


@pytest.mark.slow
def test_many_kills_of_a_publication(killer, data, recommender, hub_server):
    """To the stand-in of the Hub, before requests and at moments: what is there in the end is what would have been."""
    argv = ["publish", "--name", "owner/shop", "--license", "mit", "--data_license", "mit", "--data", str(data)]
    argv += ["--recommender", str(recommender), "--tokenizer", str(recommender.parent / "tokenizer"), "--push"]
    assert_survived(killer.try_kills(Command("publish", argv, hub=hub_server), KILLS))
