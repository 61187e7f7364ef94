"""Choice of how an item memory alone is read, on validation, by a fixed rule, before any look at the test.

β of what the history has, then λ, w and κ of the memory alone, from the linear ranker's grids
([`trainers.rankers.linear_selection`]), then δ of the trend and, of a memory that knows brands, ζ from
[`BY_THE_BEST`], by NDCG@10; then ε of the periods and α of the discount from [`CAREFULLY`], the smallest that is at
most one standard error of the paired difference below the best.

Under leave-one-out all this is walk-forward: a memory of all but the users' last three interactions is judged by the
validation items. They lie as far behind it as the test items behind the memory of the training part, so what drifts
has drifted as far. Under a given split validation is as it is. How a network is mixed in is chosen after it, in
[`trainers.methods.mixture_selection`].
"""

from __future__ import annotations

import os
from typing import Any, Literal

import numpy as np

from modeling_utgrec.item_memory import ItemMemory
from modeling_utgrec.memory_settings import MemorySettings
from tokenization_items.item_memory import StoredMemory
from trainers.data.interactions import Interactions
from trainers.evaluation.protocol import evaluate
from trainers.methods.memory import ROW_ITEMS, SIMILAR_ITEMS, build_memory, content_rows
from trainers.rankers.item_memory import MemoryRanker
from trainers.rankers.linear import LinearSettings
from trainers.rankers.linear_selection import CRITERION, CUTOFF, REPEAT_WEIGHTS, LinearSelection, select_settings

TREND_WEIGHTS = (0.0, 0.015, 0.03)  # δ
BRAND_WEIGHTS = (0.0, 0.005, 0.01, 0.015, 0.02, 0.03)  # ζ
BY_THE_BEST = {"trend_weight": TREND_WEIGHTS, "brand_weight": BRAND_WEIGHTS}
# ε and α: settings that gain much on some domains and nothing on others
CAREFULLY = {"period_weight": (0.0, 0.005, 0.01, 0.015), "discount": (0.0, 0.1, 0.2)}
MOST_CASES = 5000  # validation cases; of more, some at equal distances
Judged = dict[MemorySettings, dict[str, Any]]


def walk_forward(interactions: Interactions) -> tuple[Interactions, Literal["validation", "test"]]:
    """
    The interactions that settings of a memory alone are chosen by, and the part whose cases judge them; see the rule
    of the module. Where one interaction before nobody had anything to learn from, it is the validation part as well.
    """
    if interactions.parts is None:
        before = interactions.earlier()
        if len(before.training_part().items):
            return before, "test"
    return interactions, "validation"


def choose_memory_alone(
    interactions: Interactions,
    content: np.ndarray | None = None,
    linear: LinearSettings | None = None,
    row_items: int = ROW_ITEMS,
    similar_items: int = SIMILAR_ITEMS,
    batch_size: int = 64,
    selection: LinearSelection | None = None,
    most_cases: int = MOST_CASES,
    folder: str | os.PathLike | None = None,
    brands: np.ndarray | None = None,
) -> StoredMemory:
    """
    Builds a memory from the training part and chooses what needs no network, the first step of the module's rule.

    Args:
        interactions ([`Interactions`]): all interactions; the test is not looked at.
        content (`np.ndarray`, *optional*): float `[n, e]` content embeddings in catalogue order.
        linear ([`LinearSettings`], *optional*): what the choice of the linear ranker leaves as it is.
        row_items, similar_items (`int`, *optional*): see [`build_memory`].
        batch_size (`int`, *optional*, defaults to 64): users at a time.
        selection ([`LinearSelection`], *optional*): the linear ranker's choice on what [`walk_forward`] gives, if it
            was made already.
        most_cases (`int`, *optional*, defaults to 5000): cases that trend, brands, periods and discount are judged by.
        folder (`str` or `os.PathLike`, *optional*): see [`build_memory`].
        brands (`np.ndarray`, *optional*): see [`build_memory`].

    Returns:
        [`StoredMemory`], in the order of the interactions' catalogue. Its facts have `linear_selection`,
        `repeat_weight_selection` and so on for each setting of [`BY_THE_BEST`] and [`CAREFULLY`] that was chosen: the
        tables that they were chosen from.

    Raises:
        ValueError: an empty training part, no validation case, or content that does not fit.
    """
    before, part = walk_forward(interactions)
    if selection is None:
        selection = select_settings(before, content, linear, part, repeat_weights=REPEAT_WEIGHTS)
    if not selection.table:
        raise ValueError("The split has no validation case: nothing can be chosen. Give the settings of the memory.")
    alike = None
    if content is not None and selection.settings.content_weight:
        alike = content_rows(content, interactions.num_items, similar_items)
    chosen = (content if alike else None, selection.settings, None, row_items, similar_items)
    stored = build_memory(before.training_part(), *chosen, selection.transitions, alike, folder, brands)
    weights: dict[str, float] = {}
    tables: dict[str, Any] = {}
    known: Judged = {}
    reads = {"brand_weight": brands, "period_weight": stored.memory.periods}
    for setting in BY_THE_BEST | CAREFULLY:
        if reads.get(setting, True) is None:
            continue
        weighted = stored.memory.with_settings(**weights)
        weights[setting], table = choose_setting(weighted, setting, before, part, batch_size, most_cases, known)
        tables[f"{setting}_selection"] = table
    if before is not interactions:
        stored = build_memory(interactions.training_part(), *chosen, None, alike, folder, brands)
    stored.memory = stored.memory.with_settings(**weights)
    tables |= {"linear_selection": selection.table, "repeat_weight_selection": selection.repeat_table}
    stored.facts |= {"part": "training", **tables}
    return stored


def choose_setting(
    memory: ItemMemory,
    setting: str,
    interactions: Interactions,
    part: Literal["validation", "test"] = "validation",
    batch_size: int = 64,
    most_cases: int = MOST_CASES,
    known: Judged | None = None,
) -> tuple[float, list[dict[str, Any]]]:
    """
    A setting of the memory alone from its grid, by NDCG@10 with seen items kept: of [`BY_THE_BEST`] that with the
    best, of equal ones the first; of [`CAREFULLY`] the smallest that is at most one standard error of the paired
    difference below the best.

    Args:
        memory ([`ItemMemory`]): in catalogue order.
        setting (`str`): of [`MemorySettings`].
        interactions ([`Interactions`]): all interactions.
        part (`str`, *optional*, defaults to `"validation"`): the cases that judge.
        batch_size (`int`, *optional*, defaults to 64): users at a time.
        most_cases (`int`, *optional*, defaults to 5000): see [`judged_users`].
        known (`dict`, *optional*): results of settings of this memory on these cases, which are not asked for again:
            a setting's 0 is what was chosen before it. Those that are found are added.

    Returns:
        The value, and a row for each of the grid with its value, `recall@10`, `ndcg@10` and, of [`CAREFULLY`],
        `standard_error`.
    """
    judged = judged_users(interactions, part, most_cases)
    known = {} if known is None else known
    table: list[dict[str, Any]] = []
    cases = []
    for value in (BY_THE_BEST | CAREFULLY)[setting]:
        read = memory.with_settings(**{setting: value})
        if read.settings not in known:
            ranker = MemoryRanker(read, batch_size)
            result = evaluate(ranker, judged, part=part, ks=[CUTOFF], long_tail=False, per_user=True)
            known[read.settings] = result
        table.append({setting: value, **shown(known[read.settings])})
        cases.append(known[read.settings]["per_user"][CRITERION])
    best = max(table, key=lambda row: row[CRITERION])
    if setting in BY_THE_BEST:
        return best[setting], table
    of_best = cases[table.index(best)]
    for row, each in zip(table, cases, strict=True):
        row["standard_error"] = float(np.std(of_best - each) / max(len(each), 1) ** 0.5)
    return min(row[setting] for row in table if row[CRITERION] >= best[CRITERION] - row["standard_error"]), table


def judged_users(
    interactions: Interactions, part: Literal["validation", "test"] = "validation", most_cases: int = MOST_CASES
) -> Interactions:
    """The users of the cases that settings are judged by: of more than `most_cases`, some at equal distances."""
    return interactions.select_users(np.unique(interactions.cases(part).spread(most_cases).users))


def shown(metrics: dict[str, float]) -> dict[str, float]:
    return {name: metrics[name] for name in (f"recall@{CUTOFF}", CRITERION)}
