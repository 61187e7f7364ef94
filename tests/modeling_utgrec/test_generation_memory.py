"""Mixture of network and memory in the beam search, against the mixture of all items one by one in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_utgrec import (
    ItemLevelConfig,
    ItemLevelForCausalLM,
    RecBaseConfig,
    RecBaseForCausalLM,
    UTGRecConfig,
    UTGRecForConditionalGeneration,
)
from modeling_utgrec.generation_items import constrained_beam_search, generate_items
from modeling_utgrec.generation_memory import UserMemory, _cosines, history_rows, item_sources
from modeling_utgrec.generation_mixin import score_candidates
from modeling_utgrec.generation_rules import ItemRules
from modeling_utgrec.item_memory import ItemMemory, MemoryPeriods
from modeling_utgrec.item_trie import ItemTrie
from modeling_utgrec.memory_content import MemoryContent
from modeling_utgrec.memory_settings import MemorySettings

SIZES, OFFSETS = [5, 6, 7], [2, 7, 13]
USERS, HISTORY = 3, 5
CLOSE = {"atol": 1e-6, "rtol": 2e-6}  # of log-probabilities; float32 holds them to 1e-7 of their size


def close(memory: ItemMemory) -> dict[str, float]:
    """[`CLOSE`], and what float32 cosines, of up to 2 at these lengths, weigh in m/τ."""
    values = memory.settings
    return CLOSE | {"atol": 1e-6 + 1e-7 * 2 * values.content_weight * (1 + values.evidence) / values.temperature}


def make_trie(num_items: int, seed: int = 0, **kwargs) -> ItemTrie:
    flat = np.random.default_rng(seed).choice(int(np.prod(SIZES)), size=num_items, replace=False)
    return ItemTrie(np.stack(np.unravel_index(flat, SIZES), axis=1), SIZES, OFFSETS, **kwargs)


def make_memory(num_items: int, seed: int = 0, kept: int = 6, low: float = -0.1, **changes) -> ItemMemory:
    """Random rows; a third of the entries and a fifth of the rows are empty."""
    rng = np.random.default_rng(seed)
    kept = min(kept, num_items)

    def rows() -> tuple[torch.Tensor, torch.Tensor]:
        items = np.stack([rng.choice(num_items, kept, replace=False) for _ in range(num_items)])
        items[rng.random(items.shape) < 0.3] = -1
        items[rng.random(num_items) < 0.2] = -1
        return torch.from_numpy(items), torch.from_numpy(rng.uniform(low, 0.6, items.shape))

    values = {
        "content_weight": 0.2,
        "evidence": 10.0,
        "temperature": 0.05,
        "max_history": 4,
        "trend_weight": 0.03,
        "period_weight": 0.02,
        "discount": 0.15,
        "brand_weight": 0.05,
        "repeat_weight": 0.04,
        **changes,
    }
    counts, recent = (torch.from_numpy(rng.integers(0, most, num_items)) for most in (20, 40))
    vectors = torch.from_numpy(rng.normal(size=(num_items, 3)))
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    content = MemoryContent(rows()[0], unit, torch.zeros(3), torch.eye(3))
    transitions = rows()
    periods = MemoryPeriods(
        torch.from_numpy(rng.integers(-1, 3, num_items)), torch.from_numpy(rng.normal(size=(3, 3)))
    )
    brands = torch.from_numpy(rng.integers(-1, 4, num_items))
    return ItemMemory(*transitions, counts, MemorySettings(**values), content, recent, periods, brands)


def dense_scores(memory: ItemMemory, histories: torch.Tensor) -> torch.Tensor:
    """m_u(i) `[B, n]` in float64 by the formula, entry by entry; of items that are in no row of the history 0."""
    values = memory.settings
    interactions, recent = memory.counts.tolist(), memory.recent.tolist()
    shares = [each * sum(interactions) / max(sum(recent), 1) for each in recent]
    trend = [math.log((now + 5) / (ever + 5)) for now, ever in zip(shares, interactions, strict=True)]
    usual = math.exp(sum(each * math.log(each + 1) for each in interactions) / max(sum(interactions), 1))
    discounts = [((each + 1) / usual) ** -values.discount for each in interactions]
    brands = memory.brands.tolist()
    most = math.log(max(len(brands), 2))
    rarity = [math.log(len(brands) / brands.count(each)) / most if each >= 0 else 0 for each in brands]
    scores = torch.zeros(len(histories), memory.num_items, dtype=torch.float64)
    for user, history in enumerate(histories.tolist()):
        candidates: set[int] = set()
        count = 0 if history[-1] < 0 else int(memory.counts[history[-1]])
        weight = values.content_weight * (1 + values.evidence / (count + 1))
        places = [(place, row) for place, row in enumerate(reversed(history), start=1) if row >= 0]
        for place, row in places:
            weights = memory.transition_weights[row].tolist()
            for item, number in zip(memory.transition_items[row].tolist(), weights, strict=True):
                if item >= 0:
                    scores[user, item] += discounts[item] * number / place
                    candidates.add(item)
            if weight:
                candidates.update(memory.content.similar_items[row].tolist())
        if values.repeat_weight:
            candidates.update(row for _, row in places)
        for item in candidates - {-1}:
            scores[user, item] += values.repeat_weight * sum(1 / place for place, row in places if row == item)
            scores[user, item] += values.trend_weight * trend[item]
            periods, rates = memory.periods
            if history[-1] >= 0 and periods[history[-1]] >= 0 and periods[item] >= 0:
                scores[user, item] += values.period_weight * float(rates[periods[history[-1]], periods[item]])
            same = sum(1 / place for place, row in places if brands[row] == brands[item] >= 0)
            scores[user, item] += values.brand_weight * (1 + values.evidence / (count + 1)) * rarity[item] * same
            if weight:
                cosines = memory.content.vectors.double() @ memory.content.vectors[item].double()
                scores[user, item] += weight * sum(float(cosines[row]) / place for place, row in places)
    return scores


def log_shares(logits: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """log p_mem in float64: exp(m/τ) - 1 above 0 and a millionth of exp(m/τ) of everything, of what is allowed."""
    largest = logits.masked_fill(~allowed, -torch.inf).amax(1, keepdim=True).clamp(min=0)
    weights = (logits - largest).exp() - (-largest).exp() * torch.ones_like(logits)
    small = logits.clamp(min=0) < 1e-3  # where the difference loses its digits
    weights = torch.where(small, torch.expm1(logits.clamp(min=0)) * (-largest).exp(), weights.clamp(min=0))
    remainder = logits - largest + math.log(1e-6)  # in logarithms: far below 0 it has no exponential
    logs = torch.logaddexp(weights.log(), remainder).masked_fill(~allowed, -torch.inf)
    return logs - logs.logsumexp(1, keepdim=True)


def mixture(network: torch.Tensor, scores: torch.Tensor, memory: ItemMemory, allowed: torch.Tensor) -> torch.Tensor:
    """log((1 - g) P_net + g p_mem) `[B, n]` in float64, -inf for items that are not allowed."""
    weight = memory.settings.mixing_weight
    remembered = log_shares(scores / memory.settings.temperature, allowed)
    largest = torch.maximum(network, remembered)
    mixed = largest + ((1 - weight) * (network - largest).exp() + weight * (remembered - largest).exp()).log()
    if weight in (0, 1):  # nothing of the other, however small the one
        mixed = remembered if weight else network
    return mixed.masked_fill(~allowed, -torch.inf)


def lists(mask: torch.Tensor) -> torch.Tensor:
    """Rows of a mask as lists padded with -1; some items twice."""
    found = [torch.cat((row.nonzero().flatten(), row.nonzero().flatten()[:2])) for row in mask]
    return torch.nn.utils.rnn.pad_sequence([*found, torch.zeros(3).long()], True, -1)[:-1]


def random_rules(trie: ItemTrie, form: str, denied: torch.Tensor) -> ItemRules | None:
    half = denied & (torch.arange(trie.num_items) % 2 == 0)
    return {
        "none": lambda: None,
        "deny masks": lambda: ItemRules(trie, deny=denied),
        "deny lists": lambda: ItemRules(trie, deny=lists(denied)),
        "allow lists": lambda: ItemRules(trie, allow=lists(~denied)),
        "both": lambda: ItemRules(trie, allow=~half, deny=lists(denied)),
        "lists": lambda: ItemRules(trie, allow=lists(~half), deny=lists(denied)),
    }[form]()


FORMS = st.sampled_from(["none", "deny masks", "deny lists", "allow lists", "both", "lists"])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num_items=st.integers(1, 60),
    dense_limit=st.sampled_from([0, 60, 10**6]),
    form=FORMS,
    share=st.sampled_from([0.0, 0.3, 0.9, 0.99, 1.0]),
    mixing=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    temperature=st.sampled_from([0.002, 0.03, 1.0]),
)
def test_full_beam_is_the_mixture_of_all_items(
    prefix_step, seed, num_items, dense_limit, form, share, mixing, temperature
):
    trie = make_trie(num_items, seed, dense_limit=dense_limit)
    memory = make_memory(num_items, seed, mixing_weight=mixing, temperature=temperature)
    rng = np.random.default_rng(seed)
    histories = torch.from_numpy(rng.integers(-1, num_items, (USERS, HISTORY)))
    denied = torch.from_numpy(rng.random((USERS, num_items)) < (0 if form == "none" else share))
    step = prefix_step(USERS, 20, seed)
    network = step.score(trie.codes + torch.tensor(OFFSETS)).double()
    expected = mixture(network, dense_scores(memory, histories), memory, ~denied)
    rules = random_rules(trie, form, denied)
    rows, scores = constrained_beam_search(
        step, trie, num_items, num_items, rules, memory=UserMemory(memory, histories, trie)
    )
    assert torch.equal((rows >= 0).sum(1), (~denied).sum(1)), "an allowed item is missing"
    sorted_scores = expected.sort(dim=1, descending=True).values
    torch.testing.assert_close(scores.double(), sorted_scores, **close(memory))
    own = torch.where(rows >= 0, expected.gather(1, rows.clamp(min=0)), -torch.inf)
    torch.testing.assert_close(scores.double(), own, **close(memory))


@pytest.mark.parametrize("block", [1, 40, 10**6])
def test_cosines_of_picked_items_are_those_of_all(monkeypatch, block):
    monkeypatch.setattr("modeling_utgrec.generation_memory.CACHED_ENTRIES", block)
    monkeypatch.setattr("modeling_utgrec.generation_memory.BLOCK_ENTRIES", block)
    memory = make_memory(40)
    generator = torch.Generator().manual_seed(0)
    histories = torch.randint(-1, 40, (3, 4), generator=generator)
    places = torch.where(histories >= 0, torch.tensor([1 / 4, 1 / 3, 1 / 2, 1]).double(), 0)
    vectors = memory.content.vectors.double()
    expected = torch.einsum("bh,bhe,ne->bn", places, vectors[histories.clamp(min=0)], vectors)
    for count in (5, 120):  # fewer than the catalogue, and many times as many, of all users together
        rows = torch.randint(40, (3, count), generator=generator)
        found = _cosines(memory.content.vectors, histories, rows).double()
        torch.testing.assert_close(found, expected.gather(1, rows), atol=1e-6, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), num_items=st.integers(1, 60), form=FORMS)
def test_mass_of_every_prefix_is_the_sum_of_its_items(seed, num_items, form):
    trie = make_trie(num_items, seed, dense_limit=[0, 40, 10**6][seed % 3])
    memory = make_memory(num_items, seed, mixing_weight=1.0)
    rng = np.random.default_rng(seed)
    histories = torch.from_numpy(rng.integers(-1, num_items, (USERS, HISTORY)))
    denied = torch.from_numpy(rng.random((USERS, num_items)) < (0 if form == "none" else 0.4))
    rules = random_rules(trie, form, denied)
    mass = UserMemory(memory, histories, trie).start(None if rules is None else rules.start(USERS))
    logits = dense_scores(memory, histories) / memory.settings.temperature
    shares = torch.where(denied.all(1, keepdim=True), 0, log_shares(logits, ~denied).exp())
    path = trie.path(torch.arange(num_items))
    for depth, level in enumerate(trie.levels):
        nodes = torch.arange(level.num_nodes).expand(USERS, -1)
        found = mass.mix_children(depth, nodes, torch.zeros(USERS, level.num_nodes, level.width)).double().exp()
        codes, exists, _ = level.children(nodes)
        columns = torch.arange(level.width).expand_as(exists) if codes is None else codes
        sums = torch.zeros(USERS, level.num_edges, dtype=torch.float64)
        sums.index_add_(1, path[depth], shares)
        edges = level.edge(nodes[..., None], columns)
        wanted = torch.where(exists, sums.gather(1, edges.flatten(1).clamp(min=0)).view_as(found), 0)
        entered = exists if rules is None else rules.start(USERS).children(depth, nodes)[1]
        torch.testing.assert_close(torch.where(entered, found, 0), wanted, atol=1e-12, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), num_items=st.integers(1, 100), number=st.integers(1, 12), form=FORMS)
def test_best_items_are_those_of_all_children(seed, num_items, number, form):
    trie = make_trie(num_items, seed, dense_limit=[0, 10**6][seed % 2])
    memory = make_memory(num_items, seed, mixing_weight=[0.0, 0.4, 1.0][seed % 3])
    rng = np.random.default_rng(seed)
    histories = torch.from_numpy(rng.integers(-1, num_items, (USERS, HISTORY)))
    denied = torch.from_numpy(rng.random((USERS, num_items)) < (0 if form == "none" else 0.4))
    denied[0] |= form != "none"  # who may get nothing
    rules = random_rules(trie, form, denied)
    of_search = (ItemRules(trie) if rules is None else rules).start(USERS)
    mass = UserMemory(memory, histories, trie).start(of_search)
    last, level = trie.num_levels - 1, trie.levels[-1]
    beams = torch.from_numpy(np.stack([rng.permutation(level.num_nodes) for _ in range(USERS)]))[:, :6]
    beams[rng.random(beams.shape) < 0.2] = -1
    _, exists = of_search.children(last, beams)
    network = torch.from_numpy(rng.normal(-3, 1, exists.shape)).float()
    every = torch.where(exists, mass.mix_children(last, beams, network), -torch.inf).flatten(1)
    wanted = every.topk(min(number, every.shape[1])).values
    found, cells = mass.best_items(beams, network.masked_fill(~exists, -torch.inf), number)
    torch.testing.assert_close(found, wanted)
    there = wanted > -torch.inf
    torch.testing.assert_close(every.gather(1, cells)[there], wanted[there])


@pytest.mark.parametrize("num_beams", [3, 40])
def test_weight_0_is_the_network_to_the_last_bit(prefix_step, num_beams):
    trie = make_trie(100, dense_limit=20)
    histories = torch.randint(-1, 100, (USERS, HISTORY), generator=torch.Generator().manual_seed(0))
    users = UserMemory(make_memory(100, mixing_weight=0.0), histories, trie)
    rules = ItemRules(trie, deny=histories)
    found = constrained_beam_search(prefix_step(USERS, 20), trie, 3, num_beams, rules, memory=users)
    alone = constrained_beam_search(prefix_step(USERS, 20), trie, 3, num_beams, rules)
    assert all(map(torch.equal, found, alone))


def test_weight_1_ranks_as_the_memory_however_narrow_the_beam_is(prefix_step):
    """The beam follows the mass, which is the memory's alone; a beam as wide as the items asked for finds the best if
    no prefix hides them, so the best item is first where its prefix has the largest mass."""
    trie, memory = make_trie(100), make_memory(100, low=0.01, mixing_weight=1.0, temperature=0.01)
    histories = torch.randint(100, (USERS, HISTORY), generator=torch.Generator().manual_seed(0))
    scores = dense_scores(memory, histories)
    rows, _ = constrained_beam_search(prefix_step(USERS, 20), trie, 5, 30, memory=UserMemory(memory, histories, trie))
    torch.testing.assert_close(scores.gather(1, rows), scores.topk(5, dim=1).values)


def test_as_many_come_back_as_asked_with_99_percent_denied(prefix_step):
    trie, memory = make_trie(200, dense_limit=100), make_memory(200, temperature=0.001)
    rng = np.random.default_rng(0)
    denied = torch.ones(USERS, 200, dtype=torch.bool)
    for user in range(USERS):
        denied[user, rng.choice(200, 2, replace=False)] = False
    users = UserMemory(memory, torch.from_numpy(rng.integers(0, 200, (USERS, HISTORY))), trie)
    for form in ("deny masks", "deny lists", "allow lists"):
        rules = random_rules(trie, form, denied)
        rows, scores = constrained_beam_search(prefix_step(USERS, 20), trie, 2, 2, rules, memory=users)
        assert torch.equal(rows.sort(dim=1).values, (~denied).nonzero()[:, 1].view(USERS, 2))
        assert scores.isfinite().all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), num_items=st.integers(1, 60))
def test_scoring_given_items_is_the_mixture(prefix_step, seed, num_items):
    trie, memory = make_trie(num_items, seed), make_memory(num_items, seed, mixing_weight=0.6)
    rng = np.random.default_rng(seed)
    histories = torch.from_numpy(rng.integers(-1, num_items, (USERS, HISTORY)))
    candidates = torch.from_numpy(rng.integers(-1, num_items, (USERS, 10)))
    step = prefix_step(USERS, 20, seed)
    network = step.score(trie.codes + torch.tensor(OFFSETS)).double()
    every = mixture(network, dense_scores(memory, histories), memory, torch.ones(USERS, num_items, dtype=torch.bool))
    expected = every.gather(1, candidates.clamp(min=0)).masked_fill(candidates < 0, -torch.inf)
    users = UserMemory(memory, histories, trie)
    scores = score_candidates(step, trie, candidates, memory=users)
    torch.testing.assert_close(scores.double(), expected, atol=1e-5, rtol=1e-5)
    levels = score_candidates(step, trie, candidates, per_level=True, memory=users)
    torch.testing.assert_close(levels.sum(2).double(), expected, atol=1e-5, rtol=1e-5)
    assert (levels <= 1e-6).all(), "a longer prefix has no more mass"


def test_histories_are_read_wherever_the_padding_is():
    trie = make_trie(50)
    rows = torch.tensor([[3, 17, 40], [8, 9, 3]])
    tokens = (trie.codes_of(rows) + torch.tensor(OFFSETS)).flatten(1)
    zeros = torch.zeros(2, 3, dtype=torch.long)
    expected = torch.tensor([[-1, 3, 17, 40], [-1, 8, 9, 3]])
    for parts in ((tokens, zeros), (zeros, tokens), (zeros[:, :1], tokens, zeros[:, :2])):
        input_ids = torch.cat(parts, dim=1)
        assert torch.equal(history_rows(input_ids, input_ids.ne(0), trie, 20), expected)
        assert torch.equal(history_rows(input_ids, input_ids.ne(0), trie, 2), expected[:, 2:])
    mask = torch.ones_like(tokens)
    mask[1, 3:] = 0
    assert torch.equal(history_rows(tokens, mask, trie, 20), torch.tensor([[3, 17, 40], [-1, -1, 8]]))


def test_unknown_items_hold_their_place_and_say_nothing():
    trie = make_trie(50)
    known = {tuple(codes) for codes in trie.codes.tolist()}
    unknown = next(codes for codes in np.ndindex(*SIZES) if codes not in known)
    tokens = torch.cat((trie.codes[7], torch.tensor(unknown), trie.codes[9])) + torch.tensor(OFFSETS * 3)
    rows = history_rows(tokens[None], torch.ones(1, 9), trie, 20)
    assert rows.tolist() == [[7, -1, 9]]
    memory = make_memory(50)
    scores = torch.zeros(1, 51, dtype=torch.float64)
    users = UserMemory(memory, rows, trie)
    scores.scatter_(1, trie.rows_at(users.positions.masked_fill(users.positions == 50, -1)) % 51, users.scores)
    torch.testing.assert_close(scores[:, :50], dense_scores(memory, rows))


def test_of_a_history_without_any_known_item_every_item_is_as_likely(prefix_step):
    trie, memory = make_trie(50), make_memory(50, mixing_weight=1.0)
    users = UserMemory(memory, torch.full((USERS, 4), -1), trie)
    rows, scores = constrained_beam_search(prefix_step(USERS, 20), trie, 50, 50, memory=users)
    torch.testing.assert_close(scores, torch.full((USERS, 50), -float(np.log(50))))
    assert torch.equal(rows.sort(1).values, torch.arange(50).expand(USERS, -1))


def test_the_evidence_has_a_floor_for_rows_with_next_to_nothing():
    weights = torch.tensor([[0.005], [0.0], [0.0001]])
    memory = ItemMemory(torch.tensor([[1], [2], [0]]), weights, torch.tensor([4, 0, 1]))
    users = UserMemory(memory, torch.tensor([[0], [1], [2]]), make_trie(3))
    torch.testing.assert_close(users.evidence[:, 1], torch.tensor([0.005, 1e-3, 1e-3]).log(), atol=1e-2, rtol=0)
    torch.testing.assert_close(users.evidence[:, 0], torch.tensor([5.0, 1.0, 2.0]).log())


def test_sources_are_shares_whatever_the_signs_and_the_rounding():
    """What speaks against an item is no source of it, and no share is above 1."""
    memory = ItemMemory(torch.tensor([[1], [1], [0]]), torch.tensor([[-0.2], [0.6], [0.1]]), torch.tensor([4, 1, 1]))
    users = UserMemory(memory, torch.tensor([[0, 1]]), make_trie(3))
    sources = item_sources(users, None, torch.tensor([[1]]), torch.tensor([[-50.0]]))  # less than the memory's part
    assert sources.network.item() == 0 and sources.transitions[0, 0, 0] == 0
    assert sources.transitions[0, 0, 1].item() == pytest.approx(1, abs=1e-4)


def test_what_a_history_has_comes_last_or_first():
    """Far below 0 items are not taken again, for whatever reason they would be; above 0 the latest are."""
    trie = make_trie(40)
    histories = torch.tensor([[3, 7, 3, 20], [-1, -1, 5, 9]])
    for weight in (-10.0, 0.0, 5.0):
        memory = make_memory(40, repeat_weight=weight)
        scores = UserMemory(memory, histories, trie).scores_of(torch.arange(40).expand(2, -1))
        torch.testing.assert_close(scores, dense_scores(memory, histories))
        ranked = scores.argsort(1, descending=True)
        if weight > 0:  # 3 was there twice, at the second and the last place
            assert ranked[0, :3].tolist() == [20, 3, 7] and ranked[1, :2].tolist() == [9, 5]
        if weight < 0:
            assert {*ranked[0, -3:].tolist()} == {20, 3, 7} and {*ranked[1, -2:].tolist()} == {9, 5}


def test_a_gate_gives_each_user_its_weight():
    trie = make_trie(50)
    histories = torch.randint(50, (USERS, 4), generator=torch.Generator().manual_seed(1))
    memory = make_memory(50, gate=(0.3, -0.5, 0.2, 0.1))
    users = UserMemory(memory, histories, trie)
    for user, history in enumerate(histories.tolist()):
        places = list(enumerate(reversed(history), start=1))
        mass = sum(memory.transition_weights[row].double().sum().item() / place for place, row in places)
        known = {
            *memory.transition_items[history].flatten().tolist(),
            *memory.content.similar_items[history].flatten().tolist(),
            *history,
        }
        logits = dense_scores(memory, histories[user, None])[0, sorted(known - {-1})] / memory.settings.temperature
        entropy = -(logits.softmax(0) * logits.log_softmax(0)).sum().item()
        wanted = [np.log1p(int(memory.counts[history[-1]])), np.log(max(mass, 1e-3)), entropy]
        np.testing.assert_allclose(users.evidence[user], wanted, rtol=1e-5)
        logit = 0.3 - 0.5 * wanted[0] + 0.2 * wanted[1] + 0.1 * wanted[2]
        assert users.mixing[user].item() == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-5)


# with models

LEVELS = [6, 8, 5]


def make_t5() -> UTGRecForConditionalGeneration:
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_ff": 48, "num_heads": 2, "d_kv": 8, "num_layers": 2, "initializer_factor": 1.5}
    return UTGRecForConditionalGeneration(UTGRecConfig(level_sizes=LEVELS, **sizes)).eval()


def make_decoder() -> RecBaseForCausalLM:
    torch.manual_seed(0)
    config = RecBaseConfig.tiny(hidden_size=32, intermediate_size=48, head_dim=8, level_sizes=LEVELS)
    return RecBaseForCausalLM(config).eval()


def make_item_level() -> ItemLevelForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "level_sizes": LEVELS, "content_size": 7, "initializer_range": 0.3}
    return ItemLevelForCausalLM(ItemLevelConfig(**sizes)).eval()


@pytest.fixture(scope="module", params=[make_t5, make_decoder, make_item_level], ids=["T5", "Qwen3", "item level"])
def model(request):
    return request.param()


@pytest.fixture(scope="module")
def trie(model) -> ItemTrie:
    flat = np.random.default_rng(0).choice(int(np.prod(LEVELS)), size=60, replace=False)
    codes = np.stack(np.unravel_index(flat, LEVELS), axis=1)
    config, names = model.config, [f"i{row}" for row in range(60)]
    content = None
    if getattr(config, "content_size", None) is not None:
        content = np.random.default_rng(1).normal(size=(60, config.content_size)).astype(np.float32)
    return ItemTrie(codes, config.level_sizes, config.level_offsets, names, content=content)


def batch_of(trie: ItemTrie, lengths: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, mask and item rows (latest last) of histories, padded on the right."""
    rows = torch.randint(trie.num_items, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed))
    tokens = (trie.codes_of(rows) + torch.tensor(trie.level_offsets)).flatten(1)
    kept = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    mask = kept.repeat_interleave(trie.num_levels, dim=1)
    longest = max(lengths)
    latest = [row.roll(longest - length) for row, length in zip(rows.masked_fill(~kept, -1), lengths, strict=True)]
    return tokens * mask, mask.long(), torch.stack(latest)


def test_models_recommend_the_mixture(model, trie):
    memory = make_memory(60, mixing_weight=0.6)
    input_ids, mask, rows = batch_of(trie, [5, 2, 4])
    everything = torch.arange(60).expand(3, -1)
    network = model.score_items(input_ids, mask, trie, everything).double()
    expected = mixture(network, dense_scores(memory, rows[:, -4:]), memory, torch.ones(3, 60, dtype=torch.bool))
    output = model.recommend(input_ids, mask, trie, 60, 60, memory=memory)
    best = expected.sort(dim=1, descending=True)
    torch.testing.assert_close(output.scores.double(), best.values, atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(
        model.score_items(input_ids, mask, trie, everything, memory=memory).double(), expected, atol=2e-5, rtol=2e-5
    )
    seen = model.recommend(input_ids, mask, trie, 60, 60, exclude=rows, memory=memory)
    assert not (seen.item_rows[:, :, None] == rows[:, None].masked_fill(rows[:, None] < 0, -2)).any()
    allowed = torch.ones(3, 60, dtype=torch.bool)
    for user, row in enumerate(rows):
        allowed[user, row[row >= 0]] = False
    without = mixture(network, dense_scores(memory, rows[:, -4:]), memory, allowed).sort(1, descending=True).values
    torch.testing.assert_close(seen.scores.double(), without, atol=2e-5, rtol=2e-5)


def test_a_batch_is_its_users_one_by_one(model, trie, monkeypatch):
    memory = make_memory(60)
    input_ids, mask, _ = batch_of(trie, [5, 1, 4, 2])
    together = model.recommend(input_ids, mask, trie, 5, 8, memory=memory, return_sources=True)
    monkeypatch.setattr("modeling_utgrec.generation_mixin.ROWS_PER_BLOCK", 8)  # a user at a time
    apart = model.recommend(input_ids, mask, trie, 5, 8, memory=memory, return_sources=True)
    assert torch.equal(together.item_rows, apart.item_rows)
    torch.testing.assert_close(together.scores, apart.scores, atol=1e-5, rtol=1e-5)
    for mine, theirs in zip(together.sources, apart.sources, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_weight_0_and_no_memory_are_the_same(model, trie):
    input_ids, mask, _ = batch_of(trie, [5, 2, 4])
    alone = model.recommend(input_ids, mask, trie, 5, 8)
    silent = model.recommend(input_ids, mask, trie, 5, 8, memory=make_memory(60, mixing_weight=0.0))
    assert torch.equal(alone.item_rows, silent.item_rows) and torch.equal(alone.scores, silent.scores)
    assert alone.sources is None


def test_sources_sum_to_1_and_say_what_they_are(model, trie):
    memory = make_memory(60, low=0.0, mixing_weight=0.7)
    input_ids, mask, rows = batch_of(trie, [5, 2, 4])
    output = model.recommend(input_ids, mask, trie, 60, 60, memory=memory, return_sources=True)
    sources, items = output.sources, output.item_rows
    total = sources.network + sources.transitions.sum(2) + sources.content.sum(2) + sources.unknown
    torch.testing.assert_close(total, torch.ones(3, 60))
    assert torch.equal(sources.history_rows, rows[:, -4:])
    network = model.score_items(input_ids, mask, trie, items)
    torch.testing.assert_close(sources.network, 0.3 * (network - output.scores).exp(), atol=1e-4, rtol=1e-3)
    for user in range(3):
        for place in range(60):
            item = int(items[user, place])
            for slot, row in enumerate(sources.history_rows[user].tolist()):
                followed = row == item or (row >= 0 and bool((memory.transition_items[row] == item).any()))
                near = float(memory.content.vectors[row].float() @ memory.content.vectors[item].float()) > 0
                alike = row >= 0 and (near or bool(memory.brands[row] == memory.brands[item] >= 0))
                assert followed or sources.transitions[user, place, slot] == 0
                assert alike or sources.content[user, place, slot] == 0
    # an item that is taken again comes from its own place in the history
    again = memory.with_settings(repeat_weight=50.0, mixing_weight=1.0)
    found = model.recommend(input_ids, mask, trie, 1, 60, memory=again, return_sources=True)
    assert torch.equal(found.item_rows[:, 0], rows[:, -1])
    assert (found.sources.transitions[:, 0, -1] > 0.9).all()
    with pytest.raises(ValueError, match="needs a memory"):
        model.recommend(input_ids, mask, trie, return_sources=True)
    few = model.recommend(
        input_ids,
        mask,
        trie,
        3,
        3,
        rules=ItemRules(trie, allow=torch.tensor([[4]])),
        memory=memory,
        return_sources=True,
    )
    total = few.sources.network + few.sources.transitions.sum(2) + few.sources.content.sum(2) + few.sources.unknown
    torch.testing.assert_close(total, torch.tensor([[1.0, 0, 0]]).expand(3, -1))


def test_generate_takes_a_memory(trie, model):
    memory = make_memory(60)
    input_ids, mask, _ = batch_of(trie, [4, 4])
    expected = model.recommend(input_ids, mask, trie, 3, 8, memory=memory)
    output = model.generate(
        input_ids=input_ids,
        attention_mask=mask,
        custom_generate=generate_items,
        trie=trie,
        memory=memory,
        num_beams=8,
        num_return_sequences=3,
        length_penalty=0.0,
        max_new_tokens=3,
        return_dict_in_generate=True,
    )
    torch.testing.assert_close(output.sequences_scores.view(2, 3), expected.scores)


def test_a_memory_of_other_items_is_refused(model, trie):
    input_ids, mask, _ = batch_of(trie, [2])
    with pytest.raises(ValueError, match="of 59 items, the trie has 60"):
        model.recommend(input_ids, mask, trie, memory=make_memory(59))
    with pytest.raises(ValueError, match="of 59 items, the trie has 60"):
        model.score_items(input_ids, mask, trie, torch.zeros(1, 1).long(), memory=make_memory(59))
