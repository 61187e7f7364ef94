"""Item memories: built from a training part, chosen on validation, and brought up to date.

The transitions are those of the linear ranker, of each row those of the largest magnitude: below 0 too, as an item's
own mostly is, since what was bought is seldom bought again. The content is its cosines, cut to the nearest items. What
is chosen is chosen on validation by a fixed rule, before any look at the test:

1. λ, w and κ of the memory alone, as the linear ranker chooses them ([`trainers.rankers.linear_selection`]), then δ
   of the trend from [`TREND_WEIGHTS`] by its NDCG@10, too;
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

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy import sparse
from tqdm.auto import tqdm

from modeling_utgrec.generation_memory import LOG_REMAINDER, UserMemory, history_rows, log_weights
from modeling_utgrec.item_memory import (
    NUM_FEATURES,
    RECENT_ITEMS,
    RECENT_UNIT,
    ItemMemory,
    MemorySettings,
    nearest_items,
    unit_content,
)
from modeling_utgrec.item_trie import ItemTrie
from tokenization_items.histories import encode_histories
from tokenization_items.item_index import ItemIndex
from tokenization_items.item_memory import StoredMemory
from tokenization_items.text_statistics import TF_IDF, tf_idf_embeddings
from trainers.data.domains import Domain
from trainers.data.interactions import Cases, Interactions
from trainers.evaluation.metrics import means, metrics_per_case
from trainers.evaluation.protocol import evaluate
from trainers.rankers.generative import GenerativeRanker
from trainers.rankers.item_memory import flat_trie, padded_left
from trainers.rankers.linear import LinearSettings, check_training, largest_of_rows, transition_matrix
from trainers.rankers.linear_selection import select_settings

logger = logging.getLogger(__name__)

TREND_WEIGHTS = (0.0, 0.015)  # δ
TEMPERATURES = (0.02, 0.03, 0.05)  # τ
MIXING_WEIGHTS = (0.0, 0.3, 0.5, 0.7, 0.85, 0.93, 1.0)  # g
ROW_ITEMS = 100  # transitions of an item that are kept
SIMILAR_ITEMS = 100  # items alike in content, itself among them
CANDIDATES = 100  # best items of the network, and of the memory, that are ranked by each mixture
SEARCHED = 3  # pairs that the search itself judges
MOST_CASES = 5000  # validation cases; of more, some at equal distances
FOLDS = 5  # of users, for the gate
CUTOFF = 10
CRITERION = f"ndcg@{CUTOFF}"
MANY_COSINES = 2e9  # from which on the search for similar items is announced: seconds


@dataclass(frozen=True)
class PairCounts:
    """
    Pairs of items that stand within a horizon of each other, weight 1/gap, as whole numbers of 1/lcm(1..horizon): what
    is added to them later is added exactly.

    Args:
        matrix (`scipy.sparse.csr_array`): int64 `[n, n]`, symmetric, columns of a row in order.
    """

    matrix: sparse.csr_array

    @classmethod
    def of(cls, interactions: Interactions, horizon: int, known: np.ndarray | None = None) -> PairCounts:
        """
        Counts the pairs of sequences.

        Args:
            interactions ([`Interactions`]): the sequences.
            horizon (`int`): largest gap.
            known (`np.ndarray`, *optional*): int `[U]`, the first interactions of each user whose pairs among
                themselves are counted already.
        """
        unit, owners, n = math.lcm(*range(1, horizon + 1)), interactions.owners, interactions.num_items
        places = np.arange(len(owners)) - interactions.offsets[:-1][owners]
        is_new = np.ones(len(owners), bool) if known is None else places >= known[owners]
        items = interactions.items.astype(np.int64)
        rows, columns, values = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for gap in range(1, horizon + 1):
            counted = (owners[gap:] == owners[:-gap]) & is_new[gap:]
            rows.append(items[:-gap][counted])
            columns.append(items[gap:][counted])
            values.append(np.full(int(counted.sum()), unit // gap, np.int64))
        one_way = sparse.csr_array((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), (n, n))
        return cls(_sorted(one_way + one_way.T))

    def __add__(self, other: PairCounts) -> PairCounts:
        return PairCounts(_sorted(self.matrix + other.matrix))

    def transitions(self) -> sparse.csr_array:
        """Counts divided by the square roots of both items' sums, float32: what
        [`~trainers.rankers.linear.decayed_counts`] gives, but for rounding."""
        sums = np.asarray(self.matrix.sum(axis=1), np.float64).ravel()
        norm = 1 / np.sqrt(np.maximum(sums, 1))
        owners = np.repeat(np.arange(len(sums)), np.diff(self.matrix.indptr))
        values = self.matrix.data * norm[owners] * norm[self.matrix.indices]
        shape = self.matrix.shape
        return sparse.csr_array((values.astype(np.float32), self.matrix.indices, self.matrix.indptr), shape)

    def tensors(self) -> dict[str, torch.Tensor]:
        """As [`StoredMemory.pairs`]."""
        matrix = self.matrix
        return {
            "pair_offsets": torch.from_numpy(matrix.indptr.astype(np.int64)),
            "pair_items": torch.from_numpy(matrix.indices.astype(np.int32)),
            "pair_counts": torch.from_numpy(matrix.data.astype(np.int64)),
        }

    @classmethod
    def of_tensors(cls, tensors: dict[str, torch.Tensor]) -> PairCounts:
        offsets, items, counts = (tensors[name].numpy() for name in ("pair_offsets", "pair_items", "pair_counts"))
        n = len(offsets) - 1
        return cls(sparse.csr_array((counts, items, offsets), (n, n)))


def _sorted(matrix: sparse.csr_array) -> sparse.csr_array:
    matrix = sparse.csr_array(matrix)
    matrix.sum_duplicates()
    matrix.sort_indices()
    return matrix


def build_memory(
    training: Interactions,
    content: np.ndarray | None = None,
    linear: LinearSettings | None = None,
    settings: MemorySettings | None = None,
    row_items: int = ROW_ITEMS,
    similar_items: int = SIMILAR_ITEMS,
    transitions: np.ndarray | sparse.csr_array | None = None,
) -> StoredMemory:
    """
    Builds a memory, in the order of the interactions' catalogue.

    Args:
        training ([`Interactions`]): what is remembered.
        content (`np.ndarray`, *optional*): float `[n, e]` content embeddings in catalogue order.
        linear ([`LinearSettings`], *optional*): how transitions are made; its weights of the content are taken unless
            `settings` are given, and none where there is no content.
        settings ([`MemorySettings`], *optional*): how the memory is read.
        row_items (`int`, *optional*, defaults to 100): transitions of an item that are kept, of the largest magnitude.
        similar_items (`int`, *optional*, defaults to 100): items alike in content that are kept of each.
        transitions (`np.ndarray` or `scipy.sparse.csr_array`, *optional*): B in closed form, if it was made already.

    Raises:
        ValueError: an empty training part; content of another number of items, or not finite; a weight of the content
            without any.
    """
    check_training(training)
    if min(row_items, similar_items) < 1:
        raise ValueError(f"row_items and similar_items must be at least 1, got {row_items} and {similar_items}.")
    linear = LinearSettings() if linear is None else linear
    if settings is None:
        settings = MemorySettings(max_history=linear.max_history)
        if content is not None:
            settings = replace(settings, content_weight=linear.content_weight, evidence=linear.evidence)
    if settings.content_weight and content is None:
        raise ValueError(
            f"The content's weight is {settings.content_weight}, but there is no content: give embeddings of the "
            "items' texts, or content_weight 0."
        )
    num_items, way, pairs = training.num_items, linear.way(training.num_items), None
    if way == "counts":
        pairs = PairCounts.of(training, linear.horizon)
        transitions = pairs.transitions()
    elif transitions is None:
        transitions = transition_matrix(training, replace(linear, row_items=None))
    similar: tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None] = (None, None, None)
    if content is not None and settings.content_weight:
        vectors = torch.from_numpy(np.ascontiguousarray(content, np.float32))
        mean = vectors.mean(0, dtype=torch.float64).float() if len(vectors) else vectors.sum(0)
        unit = unit_content(vectors, num_items, mean)
        if num_items**2 * unit.shape[1] > MANY_COSINES * 100:
            logger.warning(f"item memory: {num_items**2 / 1e9:.1f} billion cosines of similar items are computed")
        similar = (*nearest_items(unit, unit, similar_items), mean)
    counts = torch.from_numpy(training.popularity.astype(np.int32))
    recent = torch.from_numpy(recent_counts(training, training.lengths).astype(np.int32))
    memory = ItemMemory(*_largest(transitions, row_items), counts, settings, *similar, recent)
    facts: dict[str, Any] = {"transitions": way, "horizon": linear.horizon, "row_items": row_items}
    facts["similar_items"] = similar_items
    if way == "inverse":
        facts["regularization"] = linear.regularization
    facts |= {"interactions": len(training.items), "users": training.num_users}
    return StoredMemory(memory, facts, None if pairs is None else pairs.tensors())


def recent_counts(interactions: Interactions, lengths: np.ndarray) -> np.ndarray:
    """
    The latest interactions by item, as [`ItemMemory`] keeps them: int64 `[n]`.

    Args:
        interactions ([`Interactions`]): the sequences.
        lengths (`np.ndarray`): int `[U]`, the first interactions of each user beyond which nothing is known yet.
    """
    counts = np.zeros(interactions.num_items, np.int64)
    for place in range(1, RECENT_ITEMS + 1):
        long_enough = lengths >= place
        at = interactions.offsets[:-1][long_enough] + lengths[long_enough] - place
        counts += np.bincount(interactions.items[at], minlength=len(counts)) * (RECENT_UNIT // place)
    return counts


def choose_trend(
    memory: ItemMemory, interactions: Interactions, trie: ItemTrie, batch_size: int = 64
) -> list[dict[str, Any]]:
    """
    What each of [`TREND_WEIGHTS`] is worth to the memory alone, on validation: a row each with `trend_weight`,
    `recall@10` and `ndcg@10`, seen items kept. Of equal scores half stand before the target.

    Args:
        memory ([`ItemMemory`]): in catalogue order.
        interactions ([`Interactions`]): all interactions.
        trie ([`ItemTrie`]): identifiers of the same items in the same order, whatever they are.
        batch_size (`int`, *optional*, defaults to 64): users at a time.
    """
    cases = interactions.cases("validation")
    chosen, _ = _sampled(cases)
    every, trie = cases.histories(), trie.to(memory.device)
    table = []
    for weight in TREND_WEIGHTS:
        weighted, ranks = memory.with_settings(trend_weight=weight), []
        for start in range(0, len(chosen), batch_size):
            rows = chosen[start : start + batch_size]
            histories = padded_left([every[row][-memory.settings.max_history :] for row in rows])
            users = UserMemory(weighted, torch.from_numpy(histories).to(memory.device), trie)
            score = users.scores_of(torch.from_numpy(cases.targets[rows]).to(memory.device)[:, None])
            known = users.positions < trie.num_items
            others = trie.num_items - known.sum(1)  # m = 0
            ahead = ((users.scores > score) & known).sum(1) + others * (score[:, 0] < 0)
            level = ((users.scores == score) & known).sum(1) + others * (score[:, 0] == 0)
            ranks.append((ahead + (level.clamp(min=1) - 1) // 2).cpu())
        placed = torch.cat(ranks).numpy()
        table.append({"trend_weight": weight, **_shown(means(metrics_per_case(placed, [CUTOFF])))})
    return table


def _largest(transitions: np.ndarray | sparse.csr_array, row_items: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The entries of each row of the largest magnitude as items and weights side by side, those of largest weight
    first."""
    kept = largest_of_rows(transitions, row_items)
    lengths = np.diff(kept.indptr)
    owners = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((kept.indices, -kept.data, owners))
    columns = np.arange(len(owners)) - kept.indptr[:-1].astype(np.int64)[owners]
    shape = len(lengths), max(1, int(lengths.max(initial=0)))
    items, weights = np.full(shape, -1, np.int32), np.zeros(shape, np.float32)
    items[owners, columns], weights[owners, columns] = kept.indices[order], kept.data[order]
    return torch.from_numpy(items), torch.from_numpy(weights)


def add_interactions(
    stored: StoredMemory, interactions: Interactions, known: np.ndarray | None = None
) -> StoredMemory:
    """
    A memory of counts with further interactions, to the last bit what [`build_memory`] makes of all of them. A memory
    in closed form is built anew from all interactions instead: its inverse is of the whole.

    Args:
        stored ([`StoredMemory`]): the memory, of the same items in the same order.
        interactions ([`Interactions`]): sequences that hold the new interactions.
        known (`np.ndarray`, *optional*): int `[U]`, how many of each user's interactions, from the first, the memory
            counts already; by default none. The items before a new one are needed: they are its neighbours.

    Raises:
        ValueError: a memory of other items, one in closed form, or counts of known interactions that do not fit.
    """
    if stored.pairs is None:
        raise ValueError(
            "The memory's transitions are in closed form, which further interactions change as a whole: build it anew "
            "from all interactions, with the settings of this one."
        )
    memory = stored.memory
    if memory.num_items != interactions.num_items:
        raise ValueError(f"The memory is of {memory.num_items} items, the interactions of {interactions.num_items}.")
    known = np.zeros(interactions.num_users, np.int64) if known is None else np.asarray(known)
    if known.shape != (interactions.num_users,) or (known < 0).any() or (known > interactions.lengths).any():
        raise ValueError("known must be a number for each user, from 0 to its number of interactions.")
    pairs = PairCounts.of_tensors(stored.pairs) + PairCounts.of(interactions, stored.facts["horizon"], known)
    places = np.arange(len(interactions.items)) - interactions.offsets[:-1][interactions.owners]
    is_new = places >= known[interactions.owners]
    counts = memory.counts + torch.from_numpy(
        np.bincount(interactions.items[is_new], minlength=memory.num_items).astype(np.int32)
    )
    recent = memory.recent
    if recent is not None:
        change = recent_counts(interactions, interactions.lengths) - recent_counts(interactions, known)
        recent = recent + torch.from_numpy(change.astype(np.int32))
    content = (memory.similar_items, memory.similarities, memory.content_mean)
    rows = _largest(pairs.transitions(), stored.facts["row_items"])
    grown = ItemMemory(*rows, counts, memory.settings, *content, recent)
    facts = dict(stored.facts)
    facts["interactions"] += int(is_new.sum())
    facts["users"] += int(((known == 0) & (interactions.lengths > 0)).sum())
    return StoredMemory(grown, facts, pairs.tensors())


def for_index(stored: StoredMemory, item_ids: Sequence[str], index: ItemIndex) -> StoredMemory:
    """
    The memory of a catalogue in the order of an item index, as it is saved; an item that the catalogue lacks has empty
    rows.

    Raises:
        UnknownItemError: if the index lacks items of the catalogue.
    """
    rows = np.full(len(index), -1, np.int64)
    rows[index.rows(item_ids)] = np.arange(len(item_ids))
    if np.array_equal(rows, np.arange(len(item_ids))):
        return stored
    pairs = None
    if stored.pairs is not None:
        matrix = PairCounts.of_tensors(stored.pairs).matrix.tocoo()
        place = index.rows(item_ids)
        moved = sparse.csr_array((matrix.data, (place[matrix.row], place[matrix.col])), (len(index), len(index)))
        pairs = PairCounts(_sorted(moved)).tensors()
    return StoredMemory(stored.memory.select(torch.from_numpy(rows)), stored.facts, pairs)


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
        remembered = log_weights(self.memory_scores / temperature).logsumexp(1)
        total = torch.logaddexp(self.others.log() + LOG_REMAINDER, remembered)
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


def mixture_cases(ranker: GenerativeRanker, memory: ItemMemory, interactions: Interactions) -> MixtureCases:
    """
    Asks network and memory for the candidates of validation cases.

    Args:
        ranker ([`GenerativeRanker`]): the network, whatever memory it has.
        memory ([`ItemMemory`]): of the same items in the same order.
        interactions ([`Interactions`]): all interactions.

    Raises:
        ValueError: there is no validation case.
    """
    cases = interactions.cases("validation")
    if not len(cases):
        raise ValueError("The split has no validation case: nothing can be chosen. Give the settings of the memory.")
    chosen, _ = _sampled(cases)
    model, trie = ranker.model, ranker.trie.to(ranker.model.device)
    memory = memory.to(model.device)
    wanted = min(CANDIDATES, trie.num_items)
    parts: list[tuple[torch.Tensor, ...]] = []
    every = cases.histories()
    for start in tqdm(range(0, len(chosen), ranker.batch_size), desc="candidates", unit="batch", disable=None):
        rows = chosen[start : start + ranker.batch_size]
        batch = encode_histories([every[row] for row in rows], ranker.token_table, ranker.max_history)
        input_ids, attention_mask = (torch.from_numpy(each).to(model.device) for each in batch)
        targets = torch.from_numpy(cases.targets[rows]).to(model.device)
        users = UserMemory(memory, history_rows(input_ids, attention_mask, trie, memory.settings.max_history), trie)
        found = model.recommend(input_ids, attention_mask, trie, wanted, max(ranker.num_beams, wanted))
        assert found.item_rows is not None and found.scores is not None
        best = users.logits.topk(min(wanted, users.positions.shape[1]), dim=1)
        positions = users.positions.gather(1, best.indices).masked_fill(best.values == -torch.inf, -1)
        remembered = trie.rows_at(positions)
        remembered.masked_fill_((remembered[:, :, None] == found.item_rows[:, None]).any(2), -1)
        asked = torch.cat((remembered, targets[:, None]), dim=1)
        log_network = torch.cat((found.scores, model.score_items(input_ids, attention_mask, trie, asked)), dim=1)
        items = torch.cat((found.item_rows, asked), dim=1)
        fixed = users.evidence[:, :2].double()
        known = users.positions < trie.num_items
        raw = users.scores.masked_fill(~known, -torch.inf)
        others = trie.num_items - known.sum(1)
        is_target = (items == targets[:, None]) & (log_network > -torch.inf)
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


def _sampled(cases: Cases) -> tuple[np.ndarray, np.ndarray]:
    """The cases that are judged, of very many some at equal distances, and their users."""
    chosen = np.linspace(0, len(cases) - 1, min(MOST_CASES, len(cases))).astype(np.int64)
    return chosen, np.unique(cases.users[chosen])


def _widened(values: torch.Tensor, width: int, fill: float) -> torch.Tensor:
    """More columns before the first."""
    return torch.nn.functional.pad(values, (width - values.shape[1], 0), value=fill)


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
        {"temperature": temperature, "mixing_weight": mixing, **_shown(cases.metrics(temperature, mixing))}
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
    row = {"temperature": temperature, "mixing_weight": "gate", **_shown(cases.metrics(temperature, mixing))}
    table.append(row)
    if row[CRITERION] > ranked[0][CRITERION]:
        with_gate = chosen | {"gate": fit_gate(evidence, log_network, log_memory)}
        row["searched"] = search(with_gate)[CRITERION]
        if row["searched"] > best["searched"]:
            chosen = with_gate
    return chosen, table


def _shown(metrics: dict[str, float]) -> dict[str, float]:
    return {name: metrics[name] for name in (f"recall@{CUTOFF}", CRITERION)}


def texts_without_encoder(domain: Domain) -> tuple[np.ndarray | None, str | None]:
    """TF-IDF of a domain's texts and its name, as the linear ranker reads them where there are no embeddings; none
    where no two items share a word."""
    found = tf_idf_embeddings(domain.catalogue.texts)
    return (found, TF_IDF) if found.shape[1] else (None, None)


def choose_memory_alone(
    interactions: Interactions,
    content: np.ndarray | None = None,
    linear: LinearSettings | None = None,
    row_items: int = ROW_ITEMS,
    similar_items: int = SIMILAR_ITEMS,
    trie: ItemTrie | None = None,
    batch_size: int = 64,
) -> StoredMemory:
    """
    Builds a memory from the training part and chooses what needs no network, the first step of the module's rule.

    Args:
        interactions ([`Interactions`]): all interactions; the test is not looked at.
        content (`np.ndarray`, *optional*): float `[n, e]` content embeddings in catalogue order.
        linear ([`LinearSettings`], *optional*): what the choice of the linear ranker leaves as it is.
        row_items, similar_items (`int`, *optional*): see [`build_memory`].
        trie ([`ItemTrie`], *optional*): identifiers of the items, if there are any.
        batch_size (`int`, *optional*, defaults to 64): users at a time.

    Returns:
        [`StoredMemory`], in the order of the interactions' catalogue. Its facts have `linear_selection` and
        `trend_selection`, the tables that were chosen from.

    Raises:
        ValueError: an empty training part, no validation case, or content that does not fit.
    """
    selection = select_settings(interactions, content, linear)
    if not selection.table:
        raise ValueError("The split has no validation case: nothing can be chosen. Give the settings of the memory.")
    if not selection.settings.content_weight:
        content = None
    training = interactions.training_part()
    chosen = (selection.settings, None, row_items, similar_items, selection.transitions)
    stored = build_memory(training, content, *chosen)
    trie = flat_trie(interactions.num_items) if trie is None else trie
    trends = choose_trend(stored.memory, interactions, trie, batch_size)
    trend = max(trends, key=lambda row: row[CRITERION])["trend_weight"]  # of equal ones the first
    stored.memory = stored.memory.with_settings(trend_weight=trend)
    stored.facts |= {"part": "training", "linear_selection": selection.table, "trend_selection": trends}
    return stored


def choose_memory(
    ranker: GenerativeRanker,
    interactions: Interactions,
    content: np.ndarray | None = None,
    linear: LinearSettings | None = None,
    row_items: int = ROW_ITEMS,
    similar_items: int = SIMILAR_ITEMS,
) -> StoredMemory:
    """
    Builds a memory from the training part and chooses how it is read, by the rule of the module.

    Args:
        ranker ([`GenerativeRanker`]): the recommender; what memory it has is left aside.
        interactions ([`Interactions`]): all interactions; the test is not looked at.
        content (`np.ndarray`, *optional*): float `[n, e]` content embeddings in catalogue order.
        linear ([`LinearSettings`], *optional*): what the choice of the linear ranker leaves as it is.
        row_items, similar_items (`int`, *optional*): see [`build_memory`].

    Returns:
        [`StoredMemory`], in the order of the interactions' catalogue. Its facts have `linear_selection` and
        `selection`, the tables that were chosen from, and `validation`, the metrics of the search with the choice.

    Raises:
        ValueError: an empty training part, no validation case, or content that does not fit.
    """
    ranker = GenerativeRanker(
        ranker.model, ranker.trie, ranker.token_table, ranker.num_beams, ranker.batch_size, ranker.max_history
    )
    stored = choose_memory_alone(
        interactions, content, linear, row_items, similar_items, ranker.trie, ranker.batch_size
    )
    cases = mixture_cases(ranker, stored.memory, interactions)
    judged = interactions.select_users(_sampled(interactions.cases("validation"))[1])
    searched: dict[str, dict[str, float]] = {}

    def search(values: dict[str, Any]) -> dict[str, float]:
        ranker.memory = stored.memory.with_settings(**values)
        result = evaluate(ranker, judged, part="validation", ks=[CUTOFF], long_tail=False)
        return searched.setdefault(str(values), _shown(result))

    values, table = select_mixture(cases, search)
    stored.memory = stored.memory.with_settings(**values)
    stored.facts |= {
        "selection": table,
        "selection_cases": len(cases),
        "validation": searched[str(values)],
    }
    return stored
