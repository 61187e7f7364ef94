"""Baselines by name."""

import re

import pytest

from hub_cards import METHODS
from trainers.hub.model_facts import method_of
from trainers.methods.baselines import NAMES
from trainers.methods.sequential import SEQUENTIAL


@pytest.mark.parametrize("name", NAMES)
def test_every_baseline_has_a_title_and_sources_for_its_card(name):
    """A sequential one under its configuration's `model_type`, a generative one under its name."""
    method = METHODS[method_of(SEQUENTIAL[name].config_class) if name in SEQUENTIAL else name]
    assert method.citation
    assert re.sub(r"[^a-z0-9]", "", method.title.lower()) == name.removesuffix("-bce").replace("-", "")
