"""Scores of given items against teacher forcing, and the number of prefixes that the network reads."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_utgrec.generation_mixin import score_candidates
from modeling_utgrec.item_trie import ItemTrie

USERS = 3


def make_trie(sizes: list[int], num_items: int, seed: int) -> ItemTrie:
    flat = np.random.default_rng(seed).choice(int(np.prod(sizes)), size=num_items, replace=False)
    offsets = np.cumsum([2, *sizes[:-1]]).tolist()
    return ItemTrie(np.stack(np.unravel_index(flat, sizes), axis=1), sizes, offsets)


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    num_candidates=st.integers(0, 30),
    seed=st.integers(0, 10**6),
)
def test_equals_scoring_items_one_by_one(prefix_step, float32_tolerance, sizes, num_candidates, seed):
    trie = make_trie(sizes, min(40, int(np.prod(sizes))), seed)
    candidates = np.random.default_rng(seed).integers(-1, trie.num_items, (USERS, num_candidates))
    candidates = torch.from_numpy(candidates)
    step = prefix_step(USERS, 2 + sum(sizes), seed)
    every = step.score(trie.codes + torch.tensor(trie.level_offsets))
    expected = every.gather(1, candidates.clamp(min=0)).masked_fill(candidates < 0, -torch.inf)
    scores = score_candidates(step, trie, candidates)
    allowed = float32_tolerance(len(sizes) + 1, every)
    torch.testing.assert_close(scores, expected, **allowed)
    levels = score_candidates(step, trie, candidates, per_level=True)
    assert levels.shape == (*candidates.shape, len(sizes)) and torch.equal(levels.sum(2) == -torch.inf, candidates < 0)
    torch.testing.assert_close(levels.sum(2), scores, **allowed)
    # the first levels of an item are the score of that prefix
    tokens = trie.codes + torch.tensor(trie.level_offsets)
    for depth in range(1, len(sizes) + 1):
        prefix = step.score(tokens[:, :depth]).gather(1, candidates.clamp(min=0))
        prefix.masked_fill_(candidates < 0, -torch.inf)
        torch.testing.assert_close(levels[..., :depth].sum(2), prefix, **allowed)


def test_each_distinct_prefix_is_read_once(prefix_step):
    trie = make_trie([4, 6, 50], 1000, 0)
    step = prefix_step(USERS, 70)
    score_candidates(step, trie, torch.arange(1000).expand(USERS, -1))
    assert step.widths == [1, 4, 24]
    step.widths.clear()
    rows = torch.full((USERS, 1000), 5)
    rows[1, 0] = (trie.codes[:, 0] != trie.codes[5, 0]).nonzero()[0]
    score_candidates(step, trie, rows)
    assert step.widths == [1, 2, 2]


@pytest.mark.parametrize("shape", [(USERS, 0), (USERS, 4)])
def test_only_padding(prefix_step, shape):
    trie = make_trie([3, 3], 5, 0)
    scores = score_candidates(prefix_step(USERS, 10), trie, torch.full(shape, -1))
    assert scores.shape == shape and (scores == -torch.inf).all()
    levels = score_candidates(prefix_step(USERS, 10), trie, torch.full(shape, -1), per_level=True)
    assert levels.shape == (*shape, 2) and (levels == -torch.inf).all()
