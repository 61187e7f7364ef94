"""How a network and a memory are mixed: chosen on validation, as the search finds."""

import numpy as np
import pytest
import torch

from modeling_utgrec import SASRecConfig, SASRecForNextItem
from modeling_utgrec.generation_memory import UserMemory, log_weights
from modeling_utgrec.memory_settings import MemorySettings
from trainers.data.interactions import Interactions
from trainers.evaluation.protocol import evaluate
from trainers.methods import mixture_selection
from trainers.methods.memory import build_memory
from trainers.methods.memory_selection import choose_memory_alone
from trainers.methods.mixture_selection import (
    MIXING_WEIGHTS,
    choose_memory,
    fit_gate,
    gates,
    mixture_cases,
    select_mixture,
    with_memory,
)
from trainers.rankers.item_memory import MemoryRanker
from trainers.rankers.linear import LinearSettings
from trainers.rankers.linear_selection import REPEAT_WEIGHTS, select_settings
from trainers.rankers.sequential import SequentialRanker

from .walks import IDS, N, make_content, make_interactions, make_ranker


def test_cases_are_judged_as_the_search_judges_them(monkeypatch):
    """Candidates of all items, beams as many: the table has the metrics of the search itself."""
    monkeypatch.setattr(mixture_selection, "CANDIDATES", N)
    interactions, ranker = make_interactions(), make_ranker(num_beams=N, batch_size=16)
    stored = build_memory(interactions.training_part(), make_content(), LinearSettings(content_weight=0.05))
    cases = mixture_cases(ranker, stored.memory, interactions)
    for temperature, mixing in ((0.03, 0.5), (0.05, 0.85), (0.03, 0.0), (0.02, 1.0)):
        ranker.memory = stored.memory.with_settings(temperature=temperature, mixing_weight=mixing)
        wanted = evaluate(ranker, interactions, part="validation", ks=[10], long_tail=False)
        found = cases.metrics(temperature, mixing)
        if mixing == 1.0:  # items of which the memory knows nothing are equal
            assert found["recall@10"] == pytest.approx(wanted["recall@10"], abs=0.1)
        else:
            assert found == pytest.approx({name: wanted[name] for name in found}, abs=1e-9)
    every = interactions.cases("validation").histories()
    tokens = torch.nn.utils.rnn.pad_sequence(
        [torch.from_numpy(h[-20:].astype(np.int64)).flip(0) for h in every], True, -1
    ).flip(1)
    users = UserMemory(stored.memory.with_settings(temperature=0.05), tokens, ranker.trie)
    torch.testing.assert_close(cases.evidence(0.05).float(), users.evidence, atol=1e-4, rtol=1e-4)
    targets = torch.from_numpy(interactions.cases("validation").targets)[:, None]
    total = users.start().log_total
    expected = log_weights(users.scores_of(targets)[:, 0] / 0.05) - total
    torch.testing.assert_close(cases.log_memory(0.05)[:, -1], expected)


def make_sasrec() -> SequentialRanker:
    torch.manual_seed(0)
    config = SASRecConfig(num_items=N, hidden_size=8, max_history=6, initializer_range=0.5)
    return SequentialRanker(SASRecForNextItem(config), batch_size=16)


def test_cases_of_a_model_that_gives_scores_are_judged_as_its_mixture_is(monkeypatch):
    monkeypatch.setattr(mixture_selection, "CANDIDATES", N)
    interactions, ranker = make_interactions(), make_sasrec()
    memory = build_memory(interactions.training_part(), make_content(), LinearSettings(content_weight=0.05)).memory
    cases = mixture_cases(ranker, memory, interactions)
    for temperature, mixing in ((0.03, 0.5), (0.05, 0.85), (0.03, 0.0)):
        mixture = with_memory(ranker, memory.with_settings(temperature=temperature, mixing_weight=mixing))
        wanted = evaluate(mixture, interactions, part="validation", ks=[10], long_tail=False)
        found = cases.metrics(temperature, mixing)
        assert found == pytest.approx({name: wanted[name] for name in found}, abs=1e-9)


def test_a_memory_is_chosen_for_a_model_that_gives_scores():
    interactions, content = make_interactions(), make_content()
    ranker = make_sasrec()
    stored = choose_memory(ranker, interactions, content)
    assert {row["mixing_weight"] for row in stored.facts["selection"]} >= set(MIXING_WEIGHTS)
    judged = evaluate(with_memory(ranker, stored.memory), interactions, part="validation", ks=[10])
    assert stored.facts["validation"]["ndcg@10"] == judged["ndcg@10"]
    alone = evaluate(ranker, interactions, part="validation", ks=[10])
    assert judged["ndcg@10"] >= alone["ndcg@10"], "g = 0 is in the grid"


def test_a_gate_finds_who_is_whose():
    """Users of much evidence follow the memory, the others the network."""
    generator = torch.Generator().manual_seed(0)
    evidence = torch.randn(2000, 3, dtype=torch.float64, generator=generator) * torch.tensor([2.0, 1.0, 0.5]) + 3
    mixing = (evidence[:, 0] - 3).sigmoid()
    of_memory = torch.rand(2000, generator=generator, dtype=torch.float64) < mixing
    log_memory = torch.where(of_memory, 0.5, 0.001).log().double()
    log_network = torch.where(of_memory, 0.001, 0.5).log().double()
    gate = fit_gate(evidence, log_network, log_memory)
    assert abs(gates(gate, evidence) - mixing).mean() < 0.05
    assert MemorySettings(gate=gate).gate == gate


def test_the_choice_is_the_best_of_a_table_that_has_both_alone():
    interactions, ranker = make_interactions(), make_ranker(num_beams=N)
    stored = choose_memory(ranker, interactions, make_content())
    assert ranker.memory is None, "the ranker is as it was"
    table, settings = stored.facts["selection"], stored.memory.settings
    constant = [row for row in table if row["mixing_weight"] != "gate"]
    assert {row["mixing_weight"] for row in constant} == set(mixture_selection.MIXING_WEIGHTS)
    searched = [row for row in constant if "searched" in row]
    best = max(searched, key=lambda row: row["searched"])
    assert (settings.temperature, settings.mixing_weight) == (best["temperature"], best["mixing_weight"])
    assert len(searched) == mixture_selection.SEARCHED
    assert max(row["ndcg@10"] for row in constant) in [row["ndcg@10"] for row in searched]
    ranker.memory = stored.memory
    result = evaluate(ranker, interactions, part="validation", ks=[10], long_tail=False)
    assert stored.facts["validation"] == {name: result[name] for name in ("recall@10", "ndcg@10")}
    ranker.memory = None
    assert stored.facts["linear_selection"] and stored.facts["part"] == "training"
    again = choose_memory(ranker, interactions, make_content())
    assert again.facts == stored.facts and again.memory.settings == settings


def test_a_gate_is_taken_only_if_it_is_better_on_users_that_it_has_not_seen(monkeypatch):
    interactions, ranker = make_interactions(), make_ranker(num_beams=N)
    stored = build_memory(interactions.training_part(), None)
    cases = mixture_cases(ranker, stored.memory, interactions)
    network = cases.metrics(0.02, 0.0)["ndcg@10"]
    asked = []

    def search(values):
        asked.append(values)
        return {"ndcg@10": 1.0 if values["gate"] else 0.5}

    monkeypatch.setattr(mixture_selection, "fit_gate", lambda *_: (-50.0, 0.0, 0.0, 0.0))  # the network alone
    chosen, table = select_mixture(cases, search)
    assert table[-1]["ndcg@10"] == pytest.approx(network) and chosen["gate"] is None
    assert len(asked) == mixture_selection.SEARCHED
    monkeypatch.setattr(mixture_selection, "MIXING_WEIGHTS", (0.0,))  # a gate that gives the memory a say is better
    monkeypatch.setattr(mixture_selection, "fit_gate", lambda *_: (0.5, 0.0, 0.0, 0.0))
    chosen, table = select_mixture(cases, search)
    assert chosen["gate"] == (0.5, 0.0, 0.0, 0.0) and table[-1]["searched"] == 1.0
    assert len(asked) == mixture_selection.SEARCHED + 2, "the network alone once, whatever the temperature"
    chosen, _ = select_mixture(cases, lambda values: {"ndcg@10": 0.0 if values["gate"] else 0.5})
    assert chosen["gate"] is None, "the search has the last word"


def test_no_gate_is_fitted_on_a_handful_of_users():
    interactions, ranker = make_interactions(users=49), make_ranker(num_beams=N)
    cases = mixture_cases(ranker, build_memory(interactions.training_part()).memory, interactions)
    chosen, table = select_mixture(cases, lambda _: {"ndcg@10": 0.5})
    assert len(cases) == 49 and chosen["gate"] is None
    assert "gate" not in {row["mixing_weight"] for row in table}


def test_nothing_is_chosen_without_validation():
    short = Interactions.from_sequences([["i0", "i1"]], IDS)
    with pytest.raises(ValueError, match="no interactions"):
        choose_memory(make_ranker(), short)


def test_what_was_chosen_already_is_taken_over():
    interactions, content, ranker = make_interactions(), make_content(), make_ranker(num_beams=N)
    expected = choose_memory(ranker, interactions, content)
    selection = select_settings(interactions.earlier(), content, part="test", repeat_weights=REPEAT_WEIGHTS)
    alone = choose_memory_alone(interactions, content, selection=selection)
    found = choose_memory(ranker, interactions, content, alone=alone)
    assert found.facts == expected.facts and found.memory.settings == expected.memory.settings
    few = choose_memory(ranker, interactions, content, most_cases=7)
    assert few.facts["selection_cases"] == 7


def test_the_memory_alone_is_what_a_search_with_weight_1_ranks_by():
    interactions, content = make_interactions(), make_content()
    alone = choose_memory_alone(interactions, content)
    mixed = choose_memory(make_ranker(num_beams=N), interactions, content)
    assert alone.facts["linear_selection"] == mixed.facts["linear_selection"]
    assert alone.facts["trend_weight_selection"] == mixed.facts["trend_weight_selection"]
    values = (
        "content_weight",
        "evidence",
        "repeat_weight",
        "trend_weight",
        "period_weight",
        "discount",
        "max_history",
    )
    for name in values:
        assert getattr(alone.memory.settings, name) == getattr(mixed.memory.settings, name)
    ranker = make_ranker(num_beams=N)
    ranker.memory = alone.memory.with_settings(mixing_weight=1.0)
    histories = interactions.cases("test").histories(max_history=20)
    flat = MemoryRanker(alone.memory)
    searched = torch.from_numpy(ranker.rank(histories, 8))
    scores = flat.scorer.encode(histories)
    # items that the memory says nothing of are equal, in any order
    torch.testing.assert_close(scores.gather(1, searched), scores.topk(8, dim=1).values, atol=1e-6, rtol=0)
