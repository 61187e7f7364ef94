"""A memory as a ranker: its scores by hand, and the order of the search with mixing weight 1."""

import numpy as np
import pytest
import torch

from modeling_utgrec import ItemMemory, MemoryContent, MemorySettings
from trainers.rankers.item_memory import MemoryRanker, flat_trie, padded_left

N, KEPT = 40, 6


def make_memory(**settings) -> ItemMemory:
    generator = torch.Generator().manual_seed(0)
    items = torch.stack([torch.randperm(N, generator=generator)[:KEPT] for _ in range(N)]).int()
    alike = torch.stack([torch.randperm(N, generator=generator)[:KEPT] for _ in range(N)]).int()
    weights = torch.rand(N, KEPT, generator=generator) - 0.2
    items[0, 4:], weights[0, 4:] = -1, 0
    counts, recent = (torch.randint(0, 50, (N,), generator=generator).int() for _ in range(2))
    settings = MemorySettings(content_weight=0.1, evidence=10.0, max_history=3, **settings)
    content = MemoryContent(alike, torch.randn(N, 2, generator=generator), torch.zeros(2), torch.eye(2))
    return ItemMemory(items, weights, counts, settings, content, recent)


@pytest.mark.parametrize("trend", [0.0, 0.02])
def test_scores_by_hand(trend):
    memory = make_memory(trend_weight=trend)
    ranker = MemoryRanker(memory, batch_size=2)
    histories = [np.array(each) for each in ([5], [0, 7], [1, 2, 3, 4, 3])]
    users = ranker.scorer.encode([each[-3:] for each in histories])
    for history, scores in zip(histories, users, strict=True):
        wanted, candidates = np.zeros(N), set()
        last = int(memory.counts[history[-1]])
        weight = 0.1 * (1 + 10 / (last + 1))
        user = np.zeros(2)
        for place, item in enumerate(history[::-1][:3], start=1):
            values = memory.transition_weights[item].double().tolist()
            for other, value in zip(memory.transition_items[item].tolist(), values, strict=True):
                if other >= 0:
                    wanted[other] += value / place
                    candidates.add(other)
            candidates.update(memory.content.similar_items[item].tolist())
            user += memory.content.vectors[item].double().numpy() / place
        for other in candidates - {-1}:
            wanted[other] += weight * float(memory.content.vectors[other].double().numpy() @ user)
            wanted[other] += trend * float(memory.trend[other])
        np.testing.assert_allclose(scores.numpy(), wanted, atol=1e-6)
    ranked = ranker.rank(histories, 10)
    for row, scores in zip(ranked, users.numpy(), strict=True):
        assert row.tolist() == np.argsort(-scores, kind="stable")[:10].tolist()


def test_excluded_items_and_the_whole_catalogue():
    ranker = MemoryRanker(make_memory())
    history = np.array([3, 9])
    ranked = ranker.rank([history, history], N, [history, np.arange(N)])
    assert sorted(ranked[0][:-2].tolist()) == sorted(set(range(N)) - {3, 9}) and (ranked[0][-2:] == -1).all()
    assert (ranked[1] == -1).all()


def test_flat_identifiers_and_padding():
    trie = flat_trie(N)
    assert torch.equal(trie.positions_of(torch.arange(N)[None]), torch.arange(N)[None])
    assert padded_left([np.array([4, 2], np.int32), np.array([1])]).tolist() == [[4, 2], [-1, 1]]
