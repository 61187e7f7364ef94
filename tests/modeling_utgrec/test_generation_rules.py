"""Rules against scoring the allowed items one by one, and against a search over a trie of them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import modeling_utgrec.generation_rules as item_rules
from modeling_utgrec.generation_items import constrained_beam_search
from modeling_utgrec.generation_rules import ItemRules
from modeling_utgrec.item_trie import ItemTrie

SIZES, OFFSETS = [5, 6, 7], [2, 7, 13]
USERS = 3


def make_trie(num_items: int, seed: int = 0, **kwargs) -> ItemTrie:
    rng = np.random.default_rng(seed)
    flat = rng.choice(int(np.prod(SIZES)), size=num_items, replace=False)
    return ItemTrie(np.stack(np.unravel_index(flat, SIZES), axis=1), SIZES, OFFSETS, **kwargs)


def tokens_of(trie: ItemTrie) -> torch.Tensor:
    return trie.codes + torch.tensor(OFFSETS)


def padded(mask: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Rows of a mask as shuffled lists, padded with -1 anywhere; some items twice."""
    lists = [np.concatenate((row.nonzero()[0], row.nonzero()[0][:2])) for row in mask.numpy()]
    rows = np.full((len(lists), max(map(len, lists)) + 2), -1)
    for place, found in enumerate(lists):
        rows[place, rng.permutation(rows.shape[1])[: len(found)]] = found
    return torch.from_numpy(rows)


def random_rule(rng: np.random.Generator, num_items: int) -> tuple[torch.Tensor | None, torch.Tensor]:
    """A rule in one of the forms there are, or none, and as a mask `[USERS, num_items]`."""
    form = rng.choice(["none", "shared", "masks", "lists"])
    mask = torch.from_numpy(rng.random((USERS, num_items)) < rng.choice([0.02, 0.3, 0.7, 0.95]))
    if form == "none":
        return None, mask
    if form == "shared":
        return mask[0], mask[:1].expand(USERS, -1)
    return (mask if form == "masks" else padded(mask, rng)), mask


def expected_mask(allow, allowed, deny, denied) -> torch.Tensor:
    mask = torch.ones_like(allowed)
    if allow is not None:
        mask = mask & allowed
    return mask if deny is None else mask & ~denied


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), num_items=st.integers(1, 60), dense_limit=st.sampled_from([0, 60, 10**6]))
def test_wide_beam_equals_scoring_the_allowed_items(prefix_step, assert_same_ranking, seed, num_items, dense_limit):
    rng = np.random.default_rng(seed)
    trie = make_trie(num_items, seed, dense_limit=dense_limit)
    (allow, allowed), (deny, denied), (exclude, excluded) = (random_rule(rng, num_items) for _ in range(3))
    mask = expected_mask(allow, allowed, deny, denied)
    rules = ItemRules(trie, allow=allow, deny=deny)
    if exclude is not None and exclude.dtype != torch.bool:
        rules, mask = rules.excluding(exclude), mask & ~excluded
    step = prefix_step(USERS, 20, seed)
    expected = step.score(tokens_of(trie)).masked_fill(~mask, -torch.inf).sort(dim=1, descending=True)
    rows, scores = constrained_beam_search(step, trie, num_items, num_items, rules)
    found = expected.values > -torch.inf
    assert_same_ranking(rows, scores, expected.indices.masked_fill(~found, -1), expected.values, depth=3)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), num_beams=st.integers(1, 12), dense_limit=st.sampled_from([0, 10**6]))
def test_narrow_beam_equals_a_trie_of_the_allowed_items(
    prefix_step, assert_same_ranking, seed, num_beams, dense_limit
):
    rng = np.random.default_rng(seed)
    trie = make_trie(80, seed, dense_limit=dense_limit)
    (allow, allowed), (deny, denied) = (random_rule(rng, 80) for _ in range(2))
    mask = expected_mask(allow, allowed, deny, denied)
    step = prefix_step(USERS, 20, seed)
    rows, scores = constrained_beam_search(step, trie, num_beams, num_beams, ItemRules(trie, allow=allow, deny=deny))
    for user in range(USERS):
        items = mask[user].nonzero().flatten()
        if not len(items):
            assert (rows[user] == -1).all() and (scores[user] == -torch.inf).all()
            continue
        only = ItemTrie(trie.codes[items], SIZES, OFFSETS)
        own, own_scores = constrained_beam_search(step, only, num_beams, num_beams)
        wanted = torch.where(own[user] < 0, -1, items[own[user].clamp(min=0)])
        assert_same_ranking(rows[user, None], scores[user, None], wanted[None], own_scores[user, None], depth=3)
        assert (rows[user] >= 0).sum() == min(num_beams, len(items))


@pytest.mark.parametrize("form", ["allow list", "deny mask", "deny list"])
def test_as_many_come_back_as_asked_with_99_percent_denied(prefix_step, form):
    trie = make_trie(200, dense_limit=100)
    rng = np.random.default_rng(0)
    denied = torch.ones(USERS, 200, dtype=torch.bool)
    for user in range(USERS):
        denied[user, rng.choice(200, 2, replace=False)] = False
    rules = {
        "allow list": lambda: ItemRules(trie, allow=padded(~denied, rng)),
        "deny mask": lambda: ItemRules(trie, deny=denied),
        "deny list": lambda: ItemRules(trie, deny=padded(denied, rng)),
    }[form]()
    rows, scores = constrained_beam_search(prefix_step(USERS, 20), trie, 2, 2, rules)
    assert torch.equal(rows.sort(dim=1).values, (~denied).nonzero()[:, 1].view(USERS, 2))
    assert scores.isfinite().all()


def test_only_cells_that_are_there_are_written():
    grid = torch.arange(12.0).view(2, 2, 3).clone()
    cells, there = torch.tensor([[4, 1, 4], [2, 0, 5]]), torch.tensor([[False, True, True], [False, False, False]])
    item_rules.put(grid, cells, there, torch.tensor([[-9.0, -1.0, -4.0], [-9.0, -9.0, -9.0]]))
    expected = torch.arange(12.0).view(2, 2, 3).clone()
    expected[0, 0, 1], expected[0, 1, 1] = -1, -4
    assert torch.equal(grid, expected)


def test_rules_of_kinds_are_selected_for_users(prefix_step):
    trie = make_trie(60)
    rng = np.random.default_rng(1)
    kinds = torch.from_numpy(rng.random((4, 60)) < 0.5)
    stock = torch.from_numpy(rng.random(60) < 0.8)
    seen = padded(torch.from_numpy(rng.random((USERS, 60)) < 0.2), rng)
    users = torch.tensor([3, 0, 3])
    step = prefix_step(USERS, 20)
    rules = ItemRules(trie, allow=kinds, deny=~stock)
    assert rules.num_users == 4
    chosen = rules.select(users).excluding(seen)
    assert chosen.num_users == USERS and rules.num_users == 4
    expected = constrained_beam_search(step, trie, 5, 8, ItemRules(trie, kinds[users] & stock, deny=seen))
    for found, wanted in zip(constrained_beam_search(step, trie, 5, 8, chosen), expected, strict=True):
        assert torch.equal(found, wanted)
    # a part of the batch, as a search in blocks takes it
    part = constrained_beam_search(step, trie, 5, 8, chosen.select(torch.tensor([2, 1, 2])))
    assert torch.equal(part[0], constrained_beam_search(step, trie, 5, 8, ItemRules(
        trie, kinds[users][[2, 1, 2]] & stock, deny=seen[[2, 1, 2]]
    ))[0])  # fmt: skip


def test_large_masks_are_summed_in_parts(monkeypatch):
    trie = make_trie(60)
    mask = torch.rand(5, 60, generator=torch.Generator().manual_seed(0)) < 0.5
    whole = ItemRules(trie, allow=mask)._masks.counts
    monkeypatch.setattr(item_rules, "ENTRIES_AT_ONCE", 130)
    parts = ItemRules(trie, allow=mask)._masks.counts
    assert all(map(torch.equal, whole, parts)) and [len(counts) for counts in parts] == [5, 5, 5]
    assert whole[0].sum(dim=1).tolist() == mask.sum(dim=1).tolist()


def test_one_row_holds_for_any_number_of_users(prefix_step):
    trie = make_trie(60)
    for rules in (
        ItemRules(trie, allow=torch.tensor([[1, 2, 3, -1]])),
        ItemRules(trie, deny=torch.tensor([[4, 5, 6]])),
        ItemRules(trie, allow=torch.arange(60) < 20),
    ):
        assert rules.num_users == 1
        rows = [constrained_beam_search(prefix_step(users, 20), trie, 4, 4, rules)[0] for users in (1, USERS)]
        assert rows[0].shape == (1, 4) and rows[1].shape == (USERS, 4)


@pytest.mark.parametrize("form", ["masks", "lists"])
def test_one_selected_row_holds_for_any_number_of_users(prefix_step, form):
    trie, rng = make_trie(60), np.random.default_rng(0)
    kinds = torch.from_numpy(rng.random((4, 60)) < 0.4)
    rules = ItemRules(trie, allow=kinds if form == "masks" else padded(kinds, rng)).select(torch.tensor([2]))
    step = prefix_step(USERS, 20)
    wanted, _ = constrained_beam_search(step, trie, 4, 8, ItemRules(trie, allow=kinds[2]))
    assert rules.num_users == 1
    for each in (rules, rules.select(torch.tensor([1, 2, 0])), rules.excluding(torch.full((USERS, 1), -1))):
        assert torch.equal(constrained_beam_search(step, trie, 4, 8, each)[0], wanted)


def test_empty_lists(prefix_step):
    trie = make_trie(30)
    step = prefix_step(USERS, 20)
    nothing = torch.full((USERS, 2), -1)
    for empty in (nothing, nothing[:, :0]):
        rows, scores = constrained_beam_search(step, trie, 4, 4, ItemRules(trie, allow=empty))
        assert (rows == -1).all() and (scores == -torch.inf).all()
        rules = ItemRules(trie, deny=empty)
        assert torch.equal(
            constrained_beam_search(step, trie, 4, 4, rules)[0], constrained_beam_search(step, trie, 4, 4)[0]
        )


def test_a_catalogue_of_one_item(prefix_step):
    trie = ItemTrie([[1, 2, 3]], SIZES, OFFSETS)
    step = prefix_step(USERS, 20)
    rules = ItemRules(trie, deny=torch.tensor([[0], [-1], [0]]))
    rows, _ = constrained_beam_search(step, trie, 2, 50, rules)
    assert rows.tolist() == [[-1, -1], [0, -1], [-1, -1]]


def test_rules_on_another_device():
    trie = make_trie(20)
    rules = ItemRules(trie, allow=torch.arange(20) < 9, deny=torch.tensor([[1], [2]])).select(torch.tensor([1, 0]))
    moved = rules.on(trie.to("meta"))
    assert rules.on(trie) is rules
    assert moved.trie.device.type == moved._denied.device.type == "meta" and moved.trie.is_copy_of(trie)
    assert all(counts.device.type == "meta" for counts in moved._masks.counts)
    with pytest.raises(ValueError, match="another trie"):
        rules.on(make_trie(20))


def test_a_search_waits_for_nothing(prefix_step):
    """On the meta device a look at a value is an error, as it is a synchronisation on others."""
    trie = make_trie(60, dense_limit=50)
    kinds = torch.rand(2, 60) < 0.5
    rows = torch.tensor([[1, 2], [3, -1], [4, 4]])
    for rules in (ItemRules(trie, kinds, rows[:2]), ItemRules(trie, rows, kinds[0]), ItemRules(trie, deny=rows)):
        rules = rules.select(torch.tensor([1, 0, 1])).excluding(rows).on(trie.to("meta"))
        step = prefix_step(USERS, 20)
        step.users, step.tokens, step.head = (each.to("meta") for each in (step.users, step.tokens, step.head))
        found, scores = constrained_beam_search(step, rules.trie, 4, 6, rules)
        assert found.shape == scores.shape == (USERS, 4) and found.device.type == "meta"


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"allow": torch.ones(19, dtype=torch.bool)}, r"allow must be a bool mask of shape \(20,\)"),
        ({"deny": torch.ones(2, 3, 20, dtype=torch.bool)}, "deny must be"),
        ({"deny": torch.tensor([1, 2])}, r"deny must be .* got torch.int64 of shape \(2,\)"),
        ({"deny": torch.ones(2, 20)}, "deny must be"),
        ({"allow": torch.tensor([[0, 1], [20, -1]])}, r"allow\[1, 0\] is 20"),
        ({"deny": torch.tensor([[-2]])}, r"deny\[0, 0\] is -2"),
        ({"allow": torch.tensor([[0], [1]]), "deny": torch.tensor([[0]] * 3)}, "for 2 users and for 3"),
        ({"allow": torch.ones(4, 20, dtype=torch.bool), "deny": torch.tensor([[0]] * 3)}, "for 3 users and for 4"),
        ({name: torch.ones(rows, 20) > 0 for name, rows in (("allow", 3), ("deny", 2))}, "for 2 users and for 3"),
    ],
)
def test_bad_rules_are_named(rules, message):
    with pytest.raises(ValueError, match=message):
        ItemRules(make_trie(20), **rules)


def test_rules_for_another_number_of_users(prefix_step):
    trie = make_trie(20)
    rules = ItemRules(trie, deny=torch.tensor([[0], [1]]))
    with pytest.raises(ValueError, match="for 2 users, the batch has 3"):
        constrained_beam_search(prefix_step(USERS, 20), trie, 2, 2, rules)
    with pytest.raises(ValueError, match="exclude must be"):
        rules.excluding(torch.tensor([1]))
