"""Choice of how a network and an item memory are mixed, on validation, by a fixed rule, before any look at the test.

1. How the memory alone is read: [`trainers.methods.memory_selection`];
2. τ and g together, from [`TEMPERATURES`] × [`MIXING_WEIGHTS`] by NDCG@10 of the mixture, seen items kept; of equal
   ones the first. The best [`SEARCHED`] pairs are judged again by the beam search itself, which may miss an item whose
   prefixes have little mass, and the best of them is chosen. g = 0 and 1, network and memory alone, are in the grid;
3. a gate in place of the constant g, fitted by maximum likelihood, if its NDCG@10 on users that it was not fitted on
   (5 folds) is above that of the best constant, and that of the search with it above that of the choice of step 2.

For the grid the network is asked once. Of each validation case the items that a mixture could rank among the first 10
are the network's best and the memory's best, [`CANDIDATES`] of each; the network's log-probabilities of all of them
are exact, so is the memory's normaliser, and each pair is a sort of these.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from modeling_utgrec.generation_memory import UserMemory, history_rows, log_normalizer, log_weights
from modeling_utgrec.item_memory import ItemMemory
from modeling_utgrec.memory_settings import NUM_FEATURES
from tokenization_items.histories import encode_histories
from tokenization_items.item_memory import StoredMemory
from trainers.data.interactions import Interactions
from trainers.evaluation.metrics import means, metrics_per_case
from trainers.evaluation.protocol import evaluate
from trainers.methods.memory import ROW_ITEMS, SIMILAR_ITEMS
from trainers.methods.memory_selection import MOST_CASES, choose_memory_alone, judged_users, shown
from trainers.rankers.generative import GenerativeRanker
from trainers.rankers.item_memory import flat_trie, padded_left
from trainers.rankers.linear import LinearSettings
from trainers.rankers.linear_selection import CRITERION, CUTOFF
from trainers.rankers.mixture import MixtureRanker
from trainers.rankers.scoring import ScoringRanker, stable_topk

TEMPERATURES = (0.02, 0.03, 0.05, 0.08)  # τ
MIXING_WEIGHTS = (0.0, 0.3, 0.5, 0.7, 0.85, 0.93, 1.0)  # g
CANDIDATES = 100  # best items of the network, and of the memory, that are ranked by each mixture
SEARCHED = 3  # pairs that the search itself judges
FOLDS = 5  # of users, for the gate


def choose_memory(
    ranker: GenerativeRanker | ScoringRanker,
    interactions: Interactions,
    content: np.ndarray | None = None,
    linear: LinearSettings | None = None,
    row_items: int = ROW_ITEMS,
    similar_items: int = SIMILAR_ITEMS,
    alone: StoredMemory | None = None,
    most_cases: int = MOST_CASES,
    folder: str | os.PathLike | None = None,
    brands: np.ndarray | None = None,
) -> StoredMemory:
    """
    Builds a memory from the training part and chooses how it is read, by the rule of the module.

    Args:
        ranker ([`GenerativeRanker`] or [`ScoringRanker`]): the recommender; what memory it has is left aside. What
            gives scores is mixed item by item, see [`MixtureRanker`].
        interactions ([`Interactions`]): all interactions; the test is not looked at.
        content (`np.ndarray`, *optional*): float `[n, e]` content embeddings in catalogue order.
        linear ([`LinearSettings`], *optional*): what the choice of the linear ranker leaves as it is.
        row_items, similar_items (`int`, *optional*): see [`build_memory`].
        alone ([`StoredMemory`], *optional*): what [`choose_memory_alone`] has given, if that was asked already.
        most_cases (`int`, *optional*, defaults to 5000): validation cases that the mixture is judged by.
        folder (`str` or `os.PathLike`, *optional*): see [`build_memory`].
        brands (`np.ndarray`, *optional*): see [`build_memory`].

    Returns:
        [`StoredMemory`], in the order of the interactions' catalogue. Its facts have `linear_selection` and
        `selection`, the tables that were chosen from, and `validation`, the metrics of the search with the choice.

    Raises:
        ValueError: an empty training part, no validation case, or content that does not fit.
    """
    stored = alone
    if stored is None:
        kept = row_items, similar_items
        given = {"folder": folder, "brands": brands}
        stored = choose_memory_alone(interactions, content, linear, *kept, ranker.batch_size, **given)  # type: ignore[arg-type]
    cases = mixture_cases(ranker, stored.memory, interactions, most_cases)
    judged = judged_users(interactions, most_cases=most_cases)
    searched: dict[str, dict[str, float]] = {}

    def search(values: dict[str, Any]) -> dict[str, float]:
        mixed = with_memory(ranker, stored.memory.with_settings(**values))
        # each reads its own length of history, as of the candidates
        result = evaluate(mixed, judged, part="validation", max_history=None, ks=[CUTOFF], long_tail=False)
        return searched.setdefault(str(values), shown(result))

    values, table = select_mixture(cases, search)
    stored.memory = stored.memory.with_settings(**values)
    stored.facts |= {
        "selection": table,
        "selection_cases": len(cases),
        "validation": searched[str(values)],
    }
    return stored


@dataclass(frozen=True)
class MixtureCases:
    """
    What every mixture of a network and a memory is judged by: candidates of validation cases.

    Args:
        log_network (`torch.Tensor`): float64 `[C, K]` exact log-probabilities of the candidates; the last column is
            the target's. -inf for what is no candidate, or one twice.
        scores (`torch.Tensor`): float64 `[C, K]` m of the same items.
        is_target (`torch.Tensor`): bool `[C, K]`; the last column is no candidate.
        others (`torch.Tensor`): float64 `[C]` number of items with m = 0 beside `memory_scores`.
        memory_scores (`torch.Tensor`): float64 `[C, M]` m of all items in the rows of the history, -inf behind them.
        fixed_evidence (`torch.Tensor`): float64 `[C, 2]` the evidence that no temperature moves.
    """

    log_network: torch.Tensor
    scores: torch.Tensor
    is_target: torch.Tensor
    others: torch.Tensor
    memory_scores: torch.Tensor
    fixed_evidence: torch.Tensor

    def __len__(self) -> int:
        return len(self.log_network)

    def log_memory(self, temperature: float) -> torch.Tensor:
        """log p_mem of the candidates, `[C, K]`."""
        total = log_normalizer(log_weights(self.memory_scores / temperature), self.others)
        return log_weights(self.scores / temperature) - total[:, None]

    def evidence(self, temperature: float) -> torch.Tensor:
        """As [`UserMemory.evidence`], float64 `[C, 3]`."""
        logits = self.memory_scores / temperature
        shares = logits - logits.logsumexp(1, keepdim=True)
        entropy = -torch.where(logits > -torch.inf, shares.exp() * shares, 0).sum(1)
        return torch.cat((self.fixed_evidence, entropy[:, None]), dim=1)

    def metrics(self, temperature: float, mixing: float | torch.Tensor) -> dict[str, float]:
        """NDCG and Recall of the mixture with g `mixing`, one for all or `[C]`."""
        weights = torch.as_tensor(mixing, dtype=torch.float64).expand(len(self))[:, None]
        mixed = torch.logaddexp(self.log_network + torch.log1p(-weights), self.log_memory(temperature) + weights.log())
        mixed = mixed.masked_fill(self.log_network == -torch.inf, -torch.inf)[:, :-1]
        is_target = self.is_target[:, :-1]
        own = mixed.masked_fill(~is_target, -torch.inf).amax(1, keepdim=True)
        ranks = torch.where(is_target.any(1), (mixed > own).sum(1), -1)
        return means(metrics_per_case(ranks.numpy(), [CUTOFF]))


def mixture_cases(
    ranker: GenerativeRanker | ScoringRanker,
    memory: ItemMemory,
    interactions: Interactions,
    most_cases: int = MOST_CASES,
) -> MixtureCases:
    """
    Asks network and memory for the candidates of validation cases.

    Args:
        ranker ([`GenerativeRanker`] or [`ScoringRanker`]): the network, whatever memory it has.
        memory ([`ItemMemory`]): of the same items in the same order.
        interactions ([`Interactions`]): all interactions.
        most_cases (`int`, *optional*, defaults to 5000): cases; of more, some at equal distances.

    Raises:
        ValueError: there is no validation case.
    """
    cases = interactions.cases("validation").spread(most_cases)
    if not len(cases):
        raise ValueError("The split has no validation case: nothing can be chosen. Give the settings of the memory.")
    parts: list[tuple[torch.Tensor, ...]] = []
    for start in tqdm(range(0, len(cases), ranker.batch_size), desc="candidates", unit="batch", disable=None):
        stop = start + ranker.batch_size
        targets = torch.from_numpy(cases.targets[start:stop])
        histories = cases.histories(start, stop)
        if isinstance(ranker, GenerativeRanker):
            users, items, log_network = _ask_search(ranker, memory, histories, targets)
        else:
            users, items, log_network = _ask_scorer(ranker, memory, histories, targets)
        fixed = users.evidence[:, :2].double()
        known = users.positions < users.trie.num_items
        raw = users.scores.masked_fill(~known, -torch.inf)
        others = users.trie.num_items - known.sum(1)
        is_target = (items == targets.to(items)[:, None]) & (log_network > -torch.inf)
        part = (log_network.double(), users.scores_of(items).double(), is_target, others.double(), raw.double(), fixed)
        parts.append(tuple(each.cpu() for each in part))
    joined = []
    for column, tensors in enumerate(zip(*parts, strict=True)):
        if tensors[0].ndim == 2:  # candidates are as many as there are: the target's column stays the last
            width = max(each.shape[1] for each in tensors)
            fill = 0 if column in (1, 2) else -torch.inf
            tensors = tuple(_widened(each, width, fill) for each in tensors)
        joined.append(torch.cat(tensors))
    return MixtureCases(*joined)


def _ask_search(
    ranker: GenerativeRanker, memory: ItemMemory, histories: list[np.ndarray], targets: torch.Tensor
) -> tuple[UserMemory, torch.Tensor, torch.Tensor]:
    """The memory of users, candidates `[B, K]`, the target last, and their exact log-probabilities by the network;
    -inf for what is no candidate, or one twice."""
    model, trie = ranker.model, ranker.trie.to(ranker.model.device)
    memory = memory.to(model.device)
    batch = encode_histories(histories, ranker.token_table, ranker.max_history)
    input_ids, attention_mask = (torch.from_numpy(each).to(model.device) for each in batch)
    users = UserMemory(memory, history_rows(input_ids, attention_mask, trie, memory.settings.max_history), trie)
    wanted = min(CANDIDATES, trie.num_items)
    found = model.recommend(input_ids, attention_mask, trie, wanted, max(ranker.num_beams, wanted))
    assert found.item_rows is not None and found.scores is not None
    asked = _asked(users, found.item_rows, targets.to(model.device))
    log_network = torch.cat((found.scores, model.score_items(input_ids, attention_mask, trie, asked)), dim=1)
    return users, torch.cat((found.item_rows, asked), dim=1), log_network


@torch.inference_mode()
def _ask_scorer(
    ranker: ScoringRanker, memory: ItemMemory, histories: list[np.ndarray], targets: torch.Tensor
) -> tuple[UserMemory, torch.Tensor, torch.Tensor]:
    """The same of a model that gives scores, whose softmax over all items is the network."""
    scorer = ranker.scorer
    cut = histories if ranker.max_history is None else [each[-ranker.max_history :] for each in histories]
    encoded = scorer.encode(cut) if hasattr(scorer, "encode") else cut
    parts = [  # a batch of users, so all their scores are there at once
        torch.as_tensor(scorer.scores(encoded, slice(start, min(start + ranker.chunk_items, scorer.num_items))))
        for start in range(0, scorer.num_items, ranker.chunk_items)
    ]
    log_shares = torch.cat(parts, dim=1).double().log_softmax(1).to(memory.device)
    read = padded_left([each[-memory.settings.max_history :] for each in histories])
    trie = flat_trie(memory.num_items).to(memory.device)
    users = UserMemory(memory, torch.from_numpy(read).to(memory.device), trie)
    best = stable_topk(log_shares, CANDIDATES)[1]
    asked = _asked(users, best, targets.to(memory.device))
    items = torch.cat((best, asked), dim=1)
    return users, items, log_shares.gather(1, items.clamp(min=0)).masked_fill(items < 0, -torch.inf)


def _asked(users: UserMemory, found: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The memory's best items that the network has not `found`, else -1, and the targets behind them."""
    trie = users.trie
    best = users.logits.topk(min(CANDIDATES, trie.num_items, users.positions.shape[1]), dim=1)
    positions = users.positions.gather(1, best.indices).masked_fill(best.values == -torch.inf, -1)
    remembered = trie.rows_at(positions)
    remembered.masked_fill_((remembered[:, :, None] == found[:, None]).any(2), -1)
    return torch.cat((remembered, targets[:, None]), dim=1)


def _widened(values: torch.Tensor, width: int, fill: float) -> torch.Tensor:
    """More columns before the first."""
    return torch.nn.functional.pad(values, (width - values.shape[1], 0), value=fill)


def select_mixture(
    cases: MixtureCases, search: Callable[[dict[str, Any]], dict[str, float]], seed: int = 0
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """
    Chooses τ, g and whether a gate replaces g, by the rule of the module.

    Args:
        cases ([`MixtureCases`]): of validation.
        search (`Callable`): the metrics of the beam search with values of [`MemorySettings`].
        seed (`int`, *optional*, defaults to 0): of the folds.

    Returns:
        The values of [`MemorySettings`] that were chosen, and the table that they were chosen from: a row for each
        pair with `temperature`, `mixing_weight`, `recall@10`, `ndcg@10`, and one with `mixing_weight` "gate". Rows
        that the search has judged have `searched`, its NDCG@10.
    """
    table: list[dict[str, Any]] = [
        {"temperature": temperature, "mixing_weight": mixing, **shown(cases.metrics(temperature, mixing))}
        for temperature in TEMPERATURES
        for mixing in MIXING_WEIGHTS
    ]
    # stable, so of equal ones the first; the network alone has no temperature, and the memory's order none either
    ranked = sorted(table, key=lambda row: -row[CRITERION])
    alone = {0.0: TEMPERATURES[0], 1.0: TEMPERATURES[0]}
    distinct = [row for row in ranked if alone.get(row["mixing_weight"], row["temperature"]) == row["temperature"]]
    for row in distinct[:SEARCHED]:
        values = {"temperature": row["temperature"], "mixing_weight": row["mixing_weight"], "gate": None}
        row["searched"] = search(values)[CRITERION]
    best = max(distinct[:SEARCHED], key=lambda row: row["searched"])
    temperature = best["temperature"]
    chosen: dict[str, Any] = {"temperature": temperature, "mixing_weight": best["mixing_weight"], "gate": None}
    if len(cases) < 10 * FOLDS:
        return chosen, table
    evidence, log_network = cases.evidence(temperature), cases.log_network[:, -1]
    log_memory = cases.log_memory(temperature)[:, -1]
    folds = np.random.default_rng(seed).permutation(len(cases)) % FOLDS
    mixing = torch.empty(len(cases), dtype=torch.float64)
    for fold in range(FOLDS):
        inside = torch.from_numpy(folds == fold)
        gate = fit_gate(evidence[~inside], log_network[~inside], log_memory[~inside])
        mixing[inside] = gates(gate, evidence[inside])
    row = {"temperature": temperature, "mixing_weight": "gate", **shown(cases.metrics(temperature, mixing))}
    table.append(row)
    if row[CRITERION] > ranked[0][CRITERION]:
        with_gate = chosen | {"gate": fit_gate(evidence, log_network, log_memory)}
        row["searched"] = search(with_gate)[CRITERION]
        if row["searched"] > best["searched"]:
            chosen = with_gate
    return chosen, table


def fit_gate(evidence: torch.Tensor, log_network: torch.Tensor, log_memory: torch.Tensor) -> tuple[float, ...]:
    """
    A logistic gate by maximum likelihood: the `g_u = σ(b + v·evidence_u)` that maximise
    `Σ_u log((1 - g_u)·P_net(target) + g_u·p_mem(target))`.

    Args:
        evidence (`torch.Tensor`): float64 `[C, 3]`.
        log_network, log_memory (`torch.Tensor`): float64 `[C]` log-probabilities of the targets.

    Returns:
        `tuple[float, ...]`: b and v, as [`MemorySettings.gate`].
    """
    mean, spread = evidence.mean(0), evidence.std(0, unbiased=False).clamp(min=1e-6)
    features = (evidence - mean) / spread
    weights = torch.zeros(1 + NUM_FEATURES, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = weights[0] + features @ weights[1:]
        mixed = torch.logaddexp(
            log_network + torch.nn.functional.logsigmoid(-logits), log_memory + torch.nn.functional.logsigmoid(logits)
        )
        # a little ridge: without it a feature that tells all users apart has no finite weight
        value = -mixed.mean() + 1e-4 * weights.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    fitted = weights.detach()
    slopes = fitted[1:] / spread
    return (float(fitted[0] - slopes @ mean), *slopes.tolist())


def gates(gate: Sequence[float], evidence: torch.Tensor) -> torch.Tensor:
    """g of users by a gate."""
    weights = torch.tensor(gate, dtype=evidence.dtype)
    return (weights[0] + evidence @ weights[1:]).sigmoid()


def with_memory(ranker: GenerativeRanker | ScoringRanker, memory: ItemMemory) -> GenerativeRanker | MixtureRanker:
    """
    A ranker of the same network that ranks by its mixture with a memory.

    Args:
        ranker ([`GenerativeRanker`] or [`ScoringRanker`]): the network, whatever memory it has.
        memory ([`ItemMemory`]): of the same items in the same order.
    """
    if not isinstance(ranker, GenerativeRanker):
        return MixtureRanker(ranker, memory)
    mixed = copy.copy(ranker)
    mixed.memory = memory
    return mixed
