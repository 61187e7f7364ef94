"""A quick start in small: its parts agree with those that they are made of, and little data are enough."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tokenization_items.catalogue import Catalogue
from tokenization_items.text_encoders import TextEncoder
from trainers.data.domains import Domain
from trainers.data.interactions import Interactions
from trainers.evaluation.protocol import evaluate
from trainers.methods import quickstart as module
from trainers.methods.memory import build_memory
from trainers.methods.quickstart import content_of, quickstart, with_content
from trainers.rankers.item_memory import MemoryRanker
from trainers.rankers.linear_selection import REPEAT_WEIGHTS, select_settings
from trainers.runtime.progress import Progress

COLOURS = ["red", "blue", "green", "black"]


def make_domain(num_items: int = 60, users: int = 80, texts: bool = True, seed: int = 0) -> Domain:
    """Items in a ring, of which the last two were never bought; what follows is mostly the next of the same colour."""
    rng, ids = np.random.default_rng(seed), [f"i{row}" for row in range(num_items)]
    sold = num_items - 2
    sequences = []
    for _ in range(users):
        steps = np.where(rng.random(rng.integers(2, 9)) < 0.7, 4, rng.integers(1, sold))
        sequences.append([ids[row] for row in (rng.integers(sold) + np.cumsum(steps)) % sold])
    titles = [f"{COLOURS[row % 4]} pen with {COLOURS[row % 3]} ink" if texts else "" for row in range(num_items)]
    catalogue = Catalogue(ids, titles, titles, name="ring")
    return Domain("ring", catalogue, Interactions.from_sequences(sequences, ids))


@pytest.fixture(scope="module")
def domain():
    return make_domain()


@pytest.mark.parametrize("inverted", [0, 1000])
def test_the_memory_is_of_all_interactions_with_settings_chosen_before(domain, tmp_path, monkeypatch, inverted):
    monkeypatch.setattr(module, "MOST_INVERTED", inverted)
    made = quickstart(domain, tmp_path)
    memory, settings = made.stored.memory, made.stored.memory.settings
    assert settings.mixing_weight == 1 and settings.gate is None and settings.content_weight > 0
    assert made.facts["transitions"] == ("inverse" if inverted else "counts")
    assert [row["repeat_weight"] for row in made.stored.facts["repeat_weight_selection"]] == list(REPEAT_WEIGHTS)
    assert made.stored.facts["part"] == "all" and made.stored.facts["interactions"] == len(domain.interactions.items)
    linear = module.LinearSettings(
        made.facts["transitions"], regularization=made.stored.facts.get("regularization", 10.0)
    )
    content = module.content_of(domain, "tf-idf")[0]
    expected = build_memory(domain.interactions, content, linear, settings).memory
    for name, tensor in expected.tensors().items():
        assert torch.equal(memory.tensors()[name], tensor), name
    assert made.tokenizer.index.item_ids == domain.catalogue.item_ids
    assert [row["model"] for row in made.rows] == ["recommender", "popularity", "item-transitions", "linear"]


def test_the_search_ranks_as_the_memory_alone(domain, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "with_everything", lambda stored, *_: stored)
    made = quickstart(domain, tmp_path)
    row = made.rows[0]
    ranker = MemoryRanker(made.stored.memory)
    alone = evaluate(ranker, domain.interactions, part="validation", mask_seen=made.exclude_seen, long_tail=False)
    for name in ("ndcg@10", "recall@10"):  # a beam search of 60 items misses none; equal scores may change places
        assert row[name] == pytest.approx(alone[name], abs=0.02), name


def test_a_network_is_trained_and_mixed_in(domain, tmp_path, monkeypatch):
    chosen = []
    real = module.choose_memory
    monkeypatch.setattr(module, "choose_memory", lambda *a, **k: chosen.append(k["most_cases"]) or real(*a, **k))
    made = quickstart(domain, tmp_path, minutes=0.02)
    assert chosen == [module.MIXTURE_CASES] and made.facts["network"] == "item-level, 0.02 minutes"
    assert made.model.config.content_size == made.tokenizer.index.content.shape[1]
    assert "selection" in made.stored.facts and "validation" in made.stored.facts


def test_texts_that_do_not_help_get_the_least_harmful_weight(domain):
    selection = select_settings(domain.interactions, np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32))
    none = replace(selection, settings=replace(selection.settings, content_weight=0.0, evidence=0.0))
    found = with_content(none)
    same = [row for row in none.table if row["regularization"] == none.settings.regularization]
    best = max((row for row in same if row["content_weight"]), key=lambda row: row["ndcg@10"])
    assert (found.settings.content_weight, found.settings.evidence) == (best["content_weight"], best["evidence"])
    assert found.settings.regularization == none.settings.regularization
    assert with_content(found) is found
    without = select_settings(domain.interactions)
    assert with_content(without) is without


@pytest.mark.parametrize(
    "sequences",
    [
        [["i0", "i1"]],
        [["i0", "i1", "i2"]],
        [["i0", "i1", "i2"], ["i1", "i2"], ["i3"]],
        [["i0", "i0", "i0", "i0"], ["i0"]],
    ],
)
@pytest.mark.parametrize("texts", [True, False])
def test_little_data_are_enough(tmp_path, sequences, texts):
    small = make_domain(5, 1, texts)
    small = replace(small, interactions=Interactions.from_sequences(sequences, small.catalogue.item_ids))
    lines = []
    made = quickstart(small, tmp_path, progress=Progress(lines.append))
    assert made.stored.memory.num_items == 5 and len(made.tokenizer) == 5
    assert bool(made.rows) == any(len(each) > 2 for each in sequences)


def test_too_little_data_are_an_error(tmp_path):
    small = make_domain(5, 1)
    none = replace(small, interactions=Interactions.from_sequences([["i0"], ["i1"]], small.catalogue.item_ids))
    with pytest.raises(ValueError, match="no user with two interactions"):
        quickstart(none, tmp_path)


@pytest.mark.parametrize("again", [True, False])
def test_customers_who_buy_again(domain, tmp_path, again):
    rng, ids = np.random.default_rng(0), domain.catalogue.item_ids
    orders = [[ids[row] for row in rng.permutation(60)[: 3 if again else 6]] for _ in range(120)]
    interactions = Interactions.from_sequences([each * (2 if again else 1) for each in orders], ids)
    made = quickstart(replace(domain, interactions=interactions), tmp_path)
    assert made.exclude_seen == (made.stored.memory.settings.repeat_weight < 0) == (not again)
    assert made.facts["seen"] == ("kept" if again else "masked")
    assert (made.rows[0]["recall@10"] > 0.9) == again, "what was had is all that there is to go by"


def test_titles_are_the_texts_where_there_are_none(tmp_path):
    domain = make_domain(8, 10)
    untitled = replace(domain.catalogue, titles=[""] * 8)
    made = quickstart(replace(domain, catalogue=untitled), tmp_path)
    assert made.tokenizer.index.titles == untitled.texts


def test_texts_by_an_encoder(tmp_path, tiny_bert):
    for part in tiny_bert[:2]:
        part.save_pretrained(tmp_path / "encoder")
    domain = make_domain(8, 10)
    texts = [*domain.catalogue.texts[:-1], ""]
    domain = replace(domain, catalogue=replace(domain.catalogue, texts=texts))
    found, encoder = content_of(domain, str(tmp_path / "encoder"))
    assert encoder.name == str(tmp_path / "encoder")
    alone = TextEncoder.from_pretrained(tmp_path / "encoder").embed(texts[:-1])
    np.testing.assert_allclose(found[:-1], alone, atol=1e-5)
    np.testing.assert_allclose(found[-1], alone.mean(0), atol=1e-5)
    made = quickstart(domain, tmp_path / "made", str(tmp_path / "encoder"))
    assert made.facts["content"] == "encoder" and made.stored.facts["content"] == "encoder", "no path of this machine"
