"""How a memory alone is read: chosen walk-forward, as it ranks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from trainers.data.interactions import Interactions
from trainers.evaluation.protocol import evaluate
from trainers.methods.memory import (
    build_memory,
    rebuild_memory,
)
from trainers.methods.memory_selection import (
    BRAND_WEIGHTS,
    CAREFULLY,
    TREND_WEIGHTS,
    choose_memory_alone,
    choose_setting,
    walk_forward,
)
from trainers.rankers.item_memory import MemoryRanker
from trainers.rankers.linear import LinearSettings
from trainers.rankers.linear_selection import REPEAT_WEIGHTS, select_settings

from .walks import IDS, N, make_content, make_interactions, make_ranker


def test_the_trend_is_judged_as_the_search_ranks_by_the_memory_alone():
    """With g = 1 and as many beams as items the search is the memory's order."""
    interactions, content = make_interactions(), make_content()
    ranker = make_ranker(num_beams=N)
    memory = build_memory(interactions.training_part(), content, LinearSettings()).memory
    _, table = choose_setting(memory, "trend_weight", interactions)
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
    chosen, table = choose_setting(memory, setting, interactions)
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
    assert choose_setting(memory, "period_weight", interactions)[0] == chosen


def test_of_trend_and_brands_the_best_value_is_taken_whatever_chance_may_explain(monkeypatch):
    interactions, gains = make_interactions(), iter((0.0, 0.002, 0.001))
    noise = np.random.default_rng(0).normal(size=(3, 100))

    def judge(*_, **__):
        gain = next(gains)
        return {"recall@10": 0.0, "ndcg@10": gain, "per_user": {"ndcg@10": gain + noise[int(1000 * gain)]}}

    monkeypatch.setattr("trainers.methods.memory_selection.evaluate", judge)
    chosen, table = choose_setting(build_memory(interactions).memory, "trend_weight", interactions)
    assert chosen == TREND_WEIGHTS[1] and not any("standard_error" in row for row in table)


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
    assert stored.facts["trend_weight_selection"] == choose_setting(rehearsed, "trend_weight", before, "test")[1]
    with_trend = rehearsed.with_settings(trend_weight=kept.trend_weight)
    weight, table = choose_setting(with_trend, "period_weight", before, "test")
    assert stored.facts["period_weight_selection"] == table and kept.period_weight == weight
    with_periods = with_trend.with_settings(period_weight=weight)
    assert (kept.discount, stored.facts["discount_selection"]) == choose_setting(
        with_periods, "discount", before, "test"
    )
    built = build_memory(interactions.training_part(), content, chosen, kept)  # of all that may be learnt from
    for name, tensor in built.memory.tensors().items():
        assert torch.equal(tensor, stored.memory.tensors()[name]), name


def test_no_settings_are_judged_twice(monkeypatch):
    asked = []

    def judge(ranker, *given, **arguments):
        asked.append(ranker.scorer.memory.settings)
        return evaluate(ranker, *given, **arguments)

    monkeypatch.setattr("trainers.methods.memory_selection.evaluate", judge)
    choose_memory_alone(make_interactions(), make_content(), brands=np.arange(N) % 4)
    values = [*TREND_WEIGHTS, *BRAND_WEIGHTS, *CAREFULLY["period_weight"], *CAREFULLY["discount"]]
    assert len(asked) == len({*asked}) == len(values) - 3, "a setting's 0 is what was chosen before it"


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
    weight, table = choose_setting(with_trend, "brand_weight", before, "test")
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
