"""Commands whose disk fails say which file, leave what was there, and make what they would have made when they are run
again. A few here; `make test-faults DISKS=10` has the rest, of each command."""

import os

import pytest

from .commands import daily_update, embedding, preparing, pretraining, quick_start, remembering, tokenizing, training
from .disks import may_mount

DISKS = int(os.environ.get("DISKS", "10"))


@pytest.fixture(scope="module")
def ways(killer):
    """How disks can be made to fail here."""
    found = ["limit", "calls"]
    return found + ["bytes"] * (killer.library is not None) + ["mount"] * may_mount(killer.folder / "mounted")


def assert_survived(report, least):
    print(str(report).replace("killed", "broken"))
    assert report.survived == report.tried and report.killed >= least, str(report)


def test_broken_disks_of_an_embedding(killer, data, ways):
    assert_survived(killer.try_disks(embedding(data), 4, ways), least=2)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["sasrec", "tiger", "tiger-item-level"])
def test_many_broken_disks_of_trainings(killer, data, ways, model):
    flags = () if model == "sasrec" else ("--text_encoder", "tf-idf")
    assert_survived(killer.try_disks(training(killer, data, model, *flags), DISKS, ways), max(1, DISKS // 10))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["prepare", "embed", "memory", "tokenize, in place", "tokenize", "quickstart"])
def test_many_broken_disks(killer, data, recommender, ways, name):
    commands = {
        "prepare": lambda: preparing(killer),
        "embed": lambda: embedding(data),
        "memory": lambda: remembering(data, recommender),
        "tokenize, in place": lambda: daily_update(killer),
        "tokenize": lambda: tokenizing(1),
        "quickstart": lambda: quick_start(killer),
    }
    assert_survived(killer.try_disks(commands[name](), DISKS, ways), max(1, DISKS // 10))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["utgrec", "recbase"])
def test_many_broken_disks_of_pre_training(killer, data, ways, model):
    assert_survived(killer.try_disks(pretraining(killer, data, model), DISKS, ways), max(1, DISKS // 10))
