"""Item memories: built as the linear ranker's, updated to the last bit, chosen on validation as the search finds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from modeling_utgrec import SASRecConfig, SASRecForNextItem, UTGRecConfig, UTGRecForConditionalGeneration
from modeling_utgrec.generation_memory import UserMemory, log_weights
from modeling_utgrec.item_trie import ItemTrie
from modeling_utgrec.memory_settings import MemorySettings
from tokenization_items import ItemIndex
from tokenization_items.item_memory import StoredMemory
from trainers.data.interactions import Interactions
from trainers.evaluation.protocol import evaluate
from trainers.methods import memory_selection
from trainers.methods.log_counts import recent_counts
from trainers.methods.memory import (
    add_interactions,
    build_memory,
    content_memory,
    follow_index,
    for_index,
    rebuild_memory,
)
from trainers.methods.memory_selection import (
    BRAND_WEIGHTS,
    CAREFULLY,
    MIXING_WEIGHTS,
    TREND_WEIGHTS,
    choose_best,
    choose_carefully,
    choose_memory,
    choose_memory_alone,
    fit_gate,
    gates,
    mixture_cases,
    select_mixture,
    walk_forward,
    with_memory,
)
from trainers.methods.pair_counts import PairCounts
from trainers.rankers.generative import GenerativeRanker
from trainers.rankers.item_memory import MemoryRanker
from trainers.rankers.linear import LinearRanker, LinearSettings, decayed_counts, transition_matrix
from trainers.rankers.linear_selection import REPEAT_WEIGHTS, select_settings
from trainers.rankers.sequential import SequentialRanker

N, LEVELS = 30, [4, 5, 6]
IDS = [f"i{row}" for row in range(N)]


def make_interactions(users: int = 60, seed: int = 0) -> Interactions:
    """Walks around a circle with detours, so that what follows what can be learnt."""
    rng = np.random.default_rng(seed)
    walks = []
    for _ in range(users):
        steps = np.where(rng.random(rng.integers(4, 12)) < 0.7, 1, rng.integers(2, N))
        walks.append([IDS[place] for place in (rng.integers(N) + np.cumsum(steps)) % N])
    return Interactions.from_sequences(walks, IDS)


def make_content(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(N, 8)).astype(np.float32)


def make_trie() -> ItemTrie:
    flat = np.random.default_rng(0).choice(int(np.prod(LEVELS)), size=N, replace=False)
    return ItemTrie(np.stack(np.unravel_index(flat, LEVELS), axis=1), LEVELS, [2, 6, 11])


def make_ranker(**arguments) -> GenerativeRanker:
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_ff": 24, "num_heads": 2, "d_kv": 8, "num_layers": 1, "initializer_factor": 2.0}
    model = UTGRecForConditionalGeneration(UTGRecConfig(level_sizes=LEVELS, **sizes)).eval()
    trie = make_trie()
    return GenerativeRanker(model, trie, (trie.codes + torch.tensor(trie.level_offsets)).numpy(), **arguments)


@pytest.mark.parametrize("way", ["inverse", "counts"])
@pytest.mark.parametrize(("evidence", "repeats"), [(0.0, 0.0), (10.0, 0.3), (10.0, -10.0)])
def test_with_weight_1_the_search_ranks_as_the_linear_ranker(way, evidence, repeats):
    interactions, content = make_interactions(), make_content()
    linear = LinearSettings(transitions=way, content_weight=0.1, evidence=evidence, repeat_weight=repeats)
    training = interactions.training_part()
    stored = build_memory(training, content, linear, row_items=N)
    transitions = transition_matrix(training, linear)
    transitions = transitions if isinstance(transitions, np.ndarray) else transitions.toarray()
    ranker = make_ranker(num_beams=N)
    ranker.memory = stored.memory.with_settings(mixing_weight=1.0)
    expected = LinearRanker(training, content, linear, transitions)
    histories = interactions.cases("test").histories()
    scores = torch.zeros(len(histories), N, dtype=torch.float64)
    users = expected.scorer.encode(histories)
    scores[:] = expected.scorer.scores(users, slice(0, N))
    ranked = torch.from_numpy(ranker.rank(histories, 10))
    # both round: float32 products there, float16 rows here
    torch.testing.assert_close(scores.gather(1, ranked), scores.topk(10, dim=1).values, atol=2e-3, rtol=0)
    assert (ranked[:, 0].numpy() == expected.rank(histories, 1)[:, 0]).mean() > 0.95


def test_rows_are_of_the_largest_magnitude():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(N, N)).astype(np.float32)
    stored = build_memory(make_interactions(), linear=LinearSettings(), row_items=4, transitions=matrix)
    items, weights = stored.memory.transition_items, stored.memory.transition_weights
    for row in range(N):
        assert sorted(items[row].tolist()) == sorted(np.argsort(-np.abs(matrix[row]))[:4].tolist())
        np.testing.assert_allclose(weights[row], matrix[row, items[row]], rtol=1e-3)
    assert stored.facts["row_items"] == 4
    # cut once, by the memory: what a linear ranker would keep of a row plays no part
    training = make_interactions().training_part()
    cut, whole = (build_memory(training, linear=LinearSettings(row_items=each), row_items=5) for each in (2, None))
    assert torch.equal(cut.memory.transition_items, whole.memory.transition_items)


def test_a_memory_of_no_interactions_ranks_by_content_alone():
    content, mixed = make_content(), MemorySettings(content_weight=0.3, evidence=4.0, mixing_weight=1.0)
    ranker = MemoryRanker(content_memory(content, mixed))
    histories = make_interactions().cases("test").histories(0, 20)
    unit = content - content.mean(0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    found = ranker.rank(histories, 10)
    for history, rows in zip(histories, found, strict=True):
        recent = history[::-1][:20]
        cosines = (1 / np.arange(1, len(recent) + 1)) @ (unit[recent] @ unit.T)
        expected = np.argsort(-cosines)[:10]
        positive = cosines[expected] > 1e-6  # what is like nothing of the history is not remembered
        np.testing.assert_allclose(cosines[rows][positive], cosines[expected][positive], atol=5e-3)


def test_counts_are_those_of_the_linear_ranker():
    training = make_interactions().training_part()
    settings = LinearSettings(transitions="counts", dtype="float64")
    found = PairCounts.of(training, settings.horizon).transitions().toarray()
    np.testing.assert_allclose(found, decayed_counts(training, settings).toarray(), atol=1e-7)


def test_updates_of_counts_are_a_rebuild_to_the_last_bit():
    whole = make_interactions().training_part()
    linear = LinearSettings(transitions="counts", content_weight=0.1)
    content = make_content()
    brands = np.arange(N) % 4 - 1
    expected = build_memory(whole, content, linear, brands=brands)
    rng = np.random.default_rng(1)
    known = (whole.lengths * rng.random(whole.num_users)).astype(np.int64)
    known[:5] = 0
    sequences = [[IDS[row] for row in whole.sequence(user)] for user in range(whole.num_users)]
    first = Interactions.from_sequences([each[:cut] for each, cut in zip(sequences, known, strict=True)], IDS)
    grown = add_interactions(build_memory(first, content, linear, brands=brands), whole, known)
    for mine, theirs in ((grown.memory.tensors(), expected.memory.tensors()), (grown.pairs, expected.pairs)):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())
    assert grown.facts["interactions"] == expected.facts["interactions"]
    # sequences of their own
    half = whole.select_users(np.arange(20)), whole.select_users(np.arange(20, whole.num_users))
    grown = add_interactions(build_memory(half[0], content, linear, brands=brands), half[1])
    assert grown.memory.tensors().keys() == expected.memory.tensors().keys()
    assert all(torch.equal(tensor, expected.memory.tensors()[name]) for name, tensor in grown.memory.tensors().items())
    assert grown.facts == expected.facts


def test_exact_counts_have_a_horizon_that_their_unit_fits():
    training = make_interactions().training_part()
    assert PairCounts.of(training, 20).matrix.nnz
    with pytest.raises(ValueError, match="horizon of at most 20 items, got 21"):
        PairCounts.of(training, 21)


def test_latest_interactions_are_counted_from_the_end():
    training = Interactions.from_sequences([["i0", "i1", "i2", "i3"], ["i2"], ["i3", "i3"]], IDS)
    found = recent_counts(training, training.lengths)
    assert found[:5].tolist() == [0, 2, 3 + 6, 6 + 3 + 6, 0]
    assert recent_counts(training, np.array([2, 0, 1]))[:5].tolist() == [3, 6, 0, 6, 0]


def test_the_trend_is_judged_as_the_search_ranks_by_the_memory_alone():
    """With g = 1 and as many beams as items the search is the memory's order."""
    interactions, content = make_interactions(), make_content()
    ranker = make_ranker(num_beams=N)
    memory = build_memory(interactions.training_part(), content, LinearSettings()).memory
    _, table = choose_best(memory, "trend_weight", interactions)
    assert [row["trend_weight"] for row in table] == list(TREND_WEIGHTS)
    for row in table:
        ranker.memory = memory.with_settings(trend_weight=row["trend_weight"], mixing_weight=1.0)
        judged = evaluate(ranker, interactions, part="validation", ks=[10])
        assert judged["ndcg@10"] == pytest.approx(row["ndcg@10"], abs=1e-9)
    assert table[0]["ndcg@10"] != table[1]["ndcg@10"]


@pytest.mark.parametrize("setting", CAREFULLY)
def test_settings_are_judged_as_the_memory_ranks_and_no_chance_is_taken(setting):
    interactions, content = make_interactions(), make_content()
    memory = build_memory(interactions.training_part(), content, LinearSettings()).memory
    chosen, table = choose_carefully(memory, setting, interactions)
    assert [row[setting] for row in table] == list(CAREFULLY[setting])
    cases = []
    for row in table:
        ranker = MemoryRanker(memory.with_settings(**{setting: row[setting]}))
        judged = evaluate(ranker, interactions, part="validation", ks=[10], per_user=True)
        cases.append(judged["per_user"]["ndcg@10"])
        assert row["ndcg@10"] == pytest.approx(judged["ndcg@10"], abs=1e-9)
    best = max(range(len(table)), key=lambda place: table[place]["ndcg@10"])
    for row, each in zip(table, cases, strict=True):
        assert row["standard_error"] == pytest.approx((cases[best] - each).std() / len(each) ** 0.5, abs=1e-12)
    assert any(row["standard_error"] > 0 for row in table)
    close = [row[setting] for row in table if row["ndcg@10"] >= table[best]["ndcg@10"] - row["standard_error"]]
    assert chosen == close[0]


@pytest.mark.parametrize("shift, chosen", [(0.0, 0.0), (0.02, 0.01), (0.5, 0.015)])
def test_the_smallest_value_within_one_standard_error_is_taken(monkeypatch, shift, chosen):
    """What 100 users gain by a value is `shift` times 0, .3, .9 or 1; the noise of the last two differs by .05, an
    error of .005: .9·.02 is within it of .02, .9·.5 of .5 is not."""
    interactions = make_interactions()
    memory = build_memory(interactions).memory
    gains = iter((0.0, 0.3, 0.9, 1.0))
    noises = iter(np.r_[np.full(50, sign), np.full(50, -sign)] * 0.05 for sign in (0, 1, 1, 0))

    def judge(*_, **__):
        each = shift * next(gains) + next(noises)
        return {"recall@10": 0.0, "ndcg@10": float(each.mean()), "per_user": {"ndcg@10": each}}

    monkeypatch.setattr("trainers.methods.memory_selection.evaluate", judge)
    assert choose_carefully(memory, "period_weight", interactions)[0] == chosen


def test_counted_memories_have_no_periods():
    interactions = make_interactions()
    assert build_memory(interactions, None, LinearSettings(transitions="counts")).memory.periods is None
    assert build_memory(interactions).memory.periods is not None


def test_updates_that_cannot_be_are_refused():
    interactions = make_interactions()
    counted = build_memory(interactions, None, LinearSettings(transitions="counts"))
    with pytest.raises(ValueError, match="closed form"):
        add_interactions(build_memory(interactions), interactions)
    with pytest.raises(ValueError, match="known must be a number for each user"):
        add_interactions(counted, interactions, np.zeros(3, int))
    with pytest.raises(ValueError, match="known must be"):
        add_interactions(counted, interactions, interactions.lengths + 1)
    with pytest.raises(ValueError, match="known must be"):
        add_interactions(counted, interactions, np.full(interactions.num_users, -1))
    with pytest.raises(ValueError, match="of 30 items, the interactions of 31"):
        add_interactions(counted, Interactions.from_sequences([IDS], [*IDS, "new"]))


def test_what_cannot_be_built_is_refused():
    nothing = Interactions.from_sequences([["i0", "i1"]], IDS).training_part()
    with pytest.raises(ValueError, match="no interactions"):
        build_memory(nothing)
    with pytest.raises(ValueError, match="there is no content"):
        build_memory(make_interactions(), settings=MemorySettings(content_weight=0.1))
    with pytest.raises(ValueError, match="content embeddings of 30 items"):
        build_memory(make_interactions(), make_content()[:-1])
    with pytest.raises(ValueError, match="not finite"):
        build_memory(make_interactions(), np.full((N, 3), np.nan, np.float32))
    with pytest.raises(ValueError, match="row_items"):
        build_memory(make_interactions(), row_items=0)


def test_a_long_search_for_similar_items_is_announced(caplog, monkeypatch):
    training = make_interactions().training_part()
    build_memory(training, make_content())
    assert not caplog.records
    monkeypatch.setattr("trainers.methods.similar_items.MANY_COSINES", 1)
    build_memory(training, make_content())
    assert "similar items: 0.0 billion cosines" in caplog.text


def test_more_pairs_than_are_kept_make_the_same_memory_that_is_not_added_to(caplog, monkeypatch):
    training, linear = make_interactions().training_part(), LinearSettings(transitions="counts")
    usual = build_memory(training, make_content(), linear, row_items=3)
    monkeypatch.setattr("trainers.methods.memory.MOST_PAIRS", 1)
    stored = build_memory(training, make_content(), linear, row_items=3)
    assert "an update counts all interactions anew" in caplog.text
    assert stored.pairs is None and stored.facts == usual.facts
    found, expected = stored.memory.tensors(), usual.memory.tensors()
    weights = found.pop("transition_weights"), expected.pop("transition_weights")
    torch.testing.assert_close(*weights, rtol=1e-3, atol=0)  # of sums in another order, rounded to half
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    with pytest.raises(ValueError, match="counts of more pairs than are kept"):
        add_interactions(stored, training)


def test_order_of_an_index():
    interactions = make_interactions()
    stored = build_memory(interactions, make_content(), LinearSettings(transitions="counts"))
    index = ItemIndex([4, 5, 6], [2, 6, 11])
    codes = np.stack(np.unravel_index(np.arange(N + 1), LEVELS), axis=1)
    index.assign(["unknown", *reversed(IDS)], codes)
    moved = for_index(stored, IDS, index)
    assert moved.memory.num_items == N + 1
    assert (moved.memory.transition_items[0] == -1).all() and moved.memory.counts[0] == 0
    rows = torch.from_numpy(index.rows(IDS))
    back = moved.memory.select(rows)
    assert all(torch.equal(tensor, stored.memory.tensors()[name]) for name, tensor in back.tensors().items())
    matrix = PairCounts.of_tensors(moved.pairs).matrix.toarray()
    assert (matrix[np.ix_(rows, rows)] == PairCounts.of_tensors(stored.pairs).matrix.toarray()).all()
    assert matrix[0].sum() == 0
    assert for_index(stored, IDS, _index(IDS)) is stored


def _index(ids: list[str]) -> ItemIndex:
    index = ItemIndex(LEVELS, [2, 6, 11])
    index.assign(ids, np.stack(np.unravel_index(np.arange(len(ids)), LEVELS), axis=1))
    return index


def test_cases_are_judged_as_the_search_judges_them(monkeypatch):
    """Candidates of all items, beams as many: the table has the metrics of the search itself."""
    monkeypatch.setattr(memory_selection, "CANDIDATES", N)
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
    monkeypatch.setattr(memory_selection, "CANDIDATES", N)
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
    assert {row["mixing_weight"] for row in constant} == set(memory_selection.MIXING_WEIGHTS)
    searched = [row for row in constant if "searched" in row]
    best = max(searched, key=lambda row: row["searched"])
    assert (settings.temperature, settings.mixing_weight) == (best["temperature"], best["mixing_weight"])
    assert len(searched) == memory_selection.SEARCHED
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

    monkeypatch.setattr(memory_selection, "fit_gate", lambda *_: (-50.0, 0.0, 0.0, 0.0))  # the network alone
    chosen, table = select_mixture(cases, search)
    assert table[-1]["ndcg@10"] == pytest.approx(network) and chosen["gate"] is None
    assert len(asked) == memory_selection.SEARCHED
    monkeypatch.setattr(memory_selection, "MIXING_WEIGHTS", (0.0,))  # a gate that gives the memory a say is better
    monkeypatch.setattr(memory_selection, "fit_gate", lambda *_: (0.5, 0.0, 0.0, 0.0))
    chosen, table = select_mixture(cases, search)
    assert chosen["gate"] == (0.5, 0.0, 0.0, 0.0) and table[-1]["searched"] == 1.0
    assert len(asked) == memory_selection.SEARCHED + 2, "the network alone once, whatever the temperature"
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


def test_the_memory_alone_is_chosen_walk_forward():
    interactions, content = make_interactions(), make_content()
    before = interactions.earlier()
    assert walk_forward(interactions)[1] == "test" and walk_forward(interactions)[0].items.tolist() == (
        before.items.tolist()
    )
    stored = choose_memory_alone(interactions, content)
    selection = select_settings(before, content, part="test", repeat_weights=REPEAT_WEIGHTS)
    assert stored.facts["linear_selection"] == selection.table
    assert stored.facts["repeat_weight_selection"] == selection.repeat_table
    kept, chosen = stored.memory.settings, selection.settings
    assert (kept.content_weight, kept.evidence) == (chosen.content_weight, chosen.evidence)
    rehearsed = build_memory(before.training_part(), content, chosen).memory
    assert rehearsed.settings.repeat_weight == kept.repeat_weight == chosen.repeat_weight
    assert stored.facts["trend_weight_selection"] == choose_best(rehearsed, "trend_weight", before, "test")[1]
    with_trend = rehearsed.with_settings(trend_weight=kept.trend_weight)
    weight, table = choose_carefully(with_trend, "period_weight", before, "test")
    assert stored.facts["period_weight_selection"] == table and kept.period_weight == weight
    with_periods = with_trend.with_settings(period_weight=weight)
    assert (kept.discount, stored.facts["discount_selection"]) == choose_carefully(
        with_periods, "discount", before, "test"
    )
    built = build_memory(interactions.training_part(), content, chosen, kept)  # of all that may be learnt from
    for name, tensor in built.memory.tensors().items():
        assert torch.equal(tensor, stored.memory.tensors()[name]), name


def test_brands_are_chosen_after_the_trend_and_kept():
    interactions, content = make_interactions(), make_content()
    brands = np.where(np.arange(N) % 5, np.arange(N) // 4, -1)
    stored = choose_memory_alone(interactions, content, brands=brands)
    kept = stored.memory.settings
    assert stored.memory.brands.tolist() == brands.tolist()
    before = interactions.earlier()
    chosen = select_settings(before, content, part="test", repeat_weights=REPEAT_WEIGHTS).settings
    rehearsed = build_memory(before.training_part(), content, chosen, brands=brands).memory
    with_trend = rehearsed.with_settings(trend_weight=kept.trend_weight)
    weight, table = choose_best(with_trend, "brand_weight", before, "test")
    assert [row["brand_weight"] for row in table] == list(BRAND_WEIGHTS)
    assert stored.facts["brand_weight_selection"] == table and kept.brand_weight == weight
    assert len({row["ndcg@10"] for row in table}) > 1
    # an update keeps them, whatever is remembered
    again = rebuild_memory(stored, interactions, content, "all")
    assert again.memory.brands.tolist() == brands.tolist() and again.memory.settings == kept
    assert choose_memory_alone(interactions, content).memory.brands is None


def test_without_an_earlier_training_part_validation_judges():
    short = Interactions.from_sequences([["i0", "i1", "i2"], ["i1", "i2", "i3"]], IDS)
    assert walk_forward(short) == (short, "validation")
    stored = choose_memory_alone(short)
    assert stored.facts["linear_selection"] == select_settings(short, repeat_weights=REPEAT_WEIGHTS).table
    given = replace(make_interactions(), parts=np.zeros(len(make_interactions().items), np.int8), split="temporal")
    assert walk_forward(given) == (given, "validation")


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


@pytest.mark.parametrize("way", ["inverse", "counts"])
def test_a_memory_built_anew_is_made_and_read_as_the_one_before(way):
    interactions, content = make_interactions(), make_content()
    linear = LinearSettings(way, regularization=3.0, horizon=2, content_weight=0.05, evidence=4.0)
    before = build_memory(interactions.training_part(), content, linear, None, 5, 4)
    before.memory = before.memory.with_settings(temperature=0.5)
    before.facts |= {"selection": "told before", "part": "training"}
    expected = build_memory(interactions, content, linear, before.memory.settings, 5, 4)
    found = rebuild_memory(before, interactions, content, "all")
    given = rebuild_memory(before, interactions, content, "all", before.memory.content)
    for each in (found, given):
        assert each.facts == expected.facts | {"selection": "told before", "part": "all"}
        assert each.memory.settings == before.memory.settings
        for name, tensor in expected.memory.tensors().items():
            assert torch.equal(each.memory.tensors()[name], tensor), name
    assert given.memory.content.vectors is before.memory.content.vectors


@pytest.mark.parametrize("way", ["inverse", "counts"])
def test_a_memory_follows_its_index(way, tmp_path):
    interactions, content = make_interactions(), make_content()
    linear = LinearSettings(transitions=way, content_weight=0.1)
    stored = build_memory(interactions, content, linear, row_items=N, similar_items=N)
    index = ItemIndex(LEVELS, [2, 6, 11])
    codes = np.stack(np.unravel_index(np.arange(N), LEVELS), axis=1)
    index.assign(IDS, codes)
    index.remove(["i3", "i10"])
    index.assign(["new", "newer"], np.stack(np.unravel_index(np.arange(N, N + 2), LEVELS), axis=1))
    kept = [row for row in range(N) if row not in (3, 10)]
    new_content = np.random.default_rng(5).normal(size=(2, 8)).astype(np.float32)
    for vectors in (new_content, None):
        followed = follow_index(stored, IDS, index, vectors).memory
        assert followed.num_items == N and not followed.counts[-2:].any()

        def rows(memory, ids):
            """What follows what, by the items' ids."""
            return {
                (ids[row], ids[item]): weight
                for row, (items, weights) in enumerate(
                    zip(memory.transition_items.tolist(), memory.transition_weights.tolist(), strict=True)
                )
                for item, weight in zip(items, weights, strict=True)
                if item >= 0
            }

        before = {pair: value for pair, value in rows(stored.memory, IDS).items() if not {*pair} & {"i3", "i10"}}
        assert rows(followed, index.item_ids) == before
        assert torch.equal(followed.content.vectors[:-2], stored.memory.content.vectors[kept])
        assert bool(followed.content.vectors[-2:].any()) == (vectors is not None)
        # a restart changes nothing
        StoredMemory(followed).save(tmp_path, index)
        read = StoredMemory.load(tmp_path, index).memory
        assert torch.equal(read.trend, followed.trend) and read.brands is None
        assert read.usual_count == pytest.approx(followed.usual_count, rel=1e-14)
    makers = np.arange(N) % 4 - 1
    known = build_memory(interactions, content, linear, brands=makers)
    for given, added in ((np.array([2, 7]), [2, 7]), (None, [-1, -1])):
        found = follow_index(known, IDS, index, new_content, given).memory
        assert found.brands.tolist() == [*makers[kept].tolist(), *added]
    pairs = follow_index(stored, IDS, index, new_content).pairs
    if way == "counts":
        expected = np.zeros((N, N), np.int64)
        expected[: N - 2, : N - 2] = PairCounts.of_tensors(stored.pairs).matrix.toarray()[np.ix_(kept, kept)]
        np.testing.assert_array_equal(PairCounts.of_tensors(pairs).matrix.toarray(), expected)
    else:
        assert pairs is None
    bare = build_memory(interactions, None, LinearSettings(transitions=way), row_items=N)
    assert (follow_index(bare, IDS, index).memory.periods is None) == (way == "counts")
    if way == "inverse":  # what is new is of the last period, whether there is content or not
        periods, rates = follow_index(bare, IDS, index).memory.periods
        assert periods[-2:].tolist() == [len(rates) - 1] * 2
