"""Fixtures of the harness: what runs the commands, and what they need."""

import pytest

from trainers.data.synthetic import DOWNSTREAM_DOMAIN, write_all

from .commands import TINY, training
from .killer import Killer


@pytest.fixture(scope="module")
def killer(tmp_path_factory):
    return Killer(tmp_path_factory.mktemp("kills"))


@pytest.fixture(scope="module")
def data(killer):
    write_all(killer.folder / "data", num_items=64, num_users=60)
    (killer.folder / "tiny.yaml").write_text(TINY)
    return killer.folder / "data" / DOWNSTREAM_DOMAIN


@pytest.fixture(scope="module")
def recommender(killer, data):
    """A recommender with its index, for commands that change one."""
    output = killer.folder / "tiger"
    command = training(killer, data, "tiger", "--text_encoder", "tf-idf")
    code, _, _ = killer.run(command, output)
    assert code == 0, killer.log
    return output / "recommender"
