"""Mixture of a memory and any model that gives scores, against sums over the whole catalogue in float64."""

import math

import numpy as np
import pytest
import torch

from modeling_utgrec import SASRecConfig, SASRecForNextItem
from modeling_utgrec.item_memory import ItemMemory
from modeling_utgrec.memory_content import MemoryContent
from modeling_utgrec.memory_settings import MemorySettings
from trainers.rankers.item_memory import MemoryRanker
from trainers.rankers.mixture import MixtureRanker, MixtureScorer
from trainers.rankers.scoring import ScoringRanker
from trainers.rankers.sequential import SequentialRanker

N = 40
HISTORIES = [np.array(each) for each in ([5], [0, 7], [1, 2, 3, 4, 3, 9], list(range(30)))]


def make_memory(**values) -> ItemMemory:
    rng = np.random.default_rng(0)
    items = torch.from_numpy(np.stack([rng.choice(N, 4, replace=False) for _ in range(N)]))
    vectors = torch.from_numpy(rng.normal(size=(N, 3)))
    content = MemoryContent(items.flip(0), vectors / vectors.norm(dim=1, keepdim=True), torch.zeros(3), torch.eye(3))
    settings = MemorySettings(**{"content_weight": 0.1, "temperature": 0.05, "max_history": 5} | values)
    return ItemMemory(items, torch.from_numpy(rng.normal(size=(N, 4)) / 5), torch.arange(N), settings, content)


class Bilinear:
    """Scores by the first item of what is read, so that how much is read shows."""

    num_items = N

    def __init__(self):
        self.table = torch.randn(N, N, generator=torch.Generator().manual_seed(1))

    def encode(self, histories):
        return torch.stack([self.table[int(each[0])] for each in histories])

    def scores(self, users, items):
        return users[:, items]


class WithoutEncode:
    num_items = N

    def scores(self, histories, items):
        return Bilinear().encode(histories)[:, items].numpy()


def by_hand(network: torch.Tensor, memory: ItemMemory, history: np.ndarray) -> torch.Tensor:
    """log P of all items, from the scores that the memory ranks by."""
    settings = memory.settings
    scores = MemoryRanker(memory).scorer.encode([history[-settings.max_history :]])[0].tolist()
    rows = [history[-settings.max_history :][place] for place in range(len(history[-settings.max_history :]))]
    known = {*memory.transition_items[rows].flatten().tolist(), *memory.content.similar_items[rows].flatten().tolist()}
    weights = [
        max(math.expm1(score / settings.temperature), 0) + 1e-6 * math.exp(score / settings.temperature)
        if item in known
        else 1e-6
        for item, score in enumerate(scores)
    ]
    shares = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    g = settings.mixing_weight
    return ((1 - g) * network.double().softmax(0) + g * shares).log()


@pytest.mark.parametrize("scorer", [Bilinear(), WithoutEncode()])
@pytest.mark.parametrize("chunk_items", [7, 40, 1000])
@pytest.mark.parametrize("mixing", [0.0, 0.3, 1.0])
def test_scores_are_those_of_the_whole_catalogue(scorer, chunk_items, mixing):
    memory = make_memory(mixing_weight=mixing)
    mixture = MixtureScorer(scorer, memory, max_history=3, chunk_items=chunk_items)
    users = mixture.encode(HISTORIES)
    found = torch.cat([mixture.scores(users, slice(start, min(start + 9, N))) for start in range(0, N, 9)], dim=1)
    for user, history in enumerate(HISTORIES):
        network = Bilinear().encode([history[-3:]])[0]
        torch.testing.assert_close(found[user], by_hand(network, memory, history), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(4, dtype=torch.float64))


def test_a_gate_gives_each_user_its_weight():
    memory = make_memory(gate=(0.2, -0.5, 0.1, 0.3))
    plain = make_memory()
    users = MixtureScorer(Bilinear(), memory).encode(HISTORIES)
    weights = users.log_mixing[1].exp().flatten()
    assert len(weights.unique()) > 1
    scores = MixtureScorer(Bilinear(), memory).scores(users, slice(0, N))
    for user, weight in enumerate(weights.tolist()):
        one = MixtureScorer(Bilinear(), plain.with_settings(mixing_weight=weight))
        torch.testing.assert_close(scores[user], one.scores(one.encode(HISTORIES), slice(0, N))[user])


def test_the_ranker_of_a_model_mixes_it():
    torch.manual_seed(0)
    model = SASRecForNextItem(SASRecConfig(num_items=N, hidden_size=8, max_history=4, initializer_range=0.5)).train()
    alone = SequentialRanker(model, batch_size=3)
    network, memory = MixtureRanker(alone, make_memory(mixing_weight=0.0)), make_memory(mixing_weight=1.0)
    assert (network.name, network.max_history, network.batch_size) == ("sasrec", 5, 3)
    np.testing.assert_array_equal(network.rank(HISTORIES, N), alone.rank(HISTORIES, N))
    remembered, expected = MixtureRanker(alone, memory).rank(HISTORIES, 5), MemoryRanker(memory).rank(HISTORIES, 5)
    np.testing.assert_array_equal(remembered, expected)
    between = MixtureRanker(alone, make_memory(mixing_weight=0.5, max_history=2))
    assert between.max_history == 4
    ranked = between.rank(HISTORIES, N, [np.array([3]), *[np.array([], int)] * 3])
    assert 3 not in ranked[0] and ranked[0, -1] == -1
    assert model.training, "dropout is off in ranking only"
    with torch.no_grad():
        states = model.eval().user_states(torch.from_numpy(HISTORIES[2][-4:] + 1)[None])
    wanted = by_hand((states @ model.item_embeddings.T)[0], between.scorer.memory, HISTORIES[2])
    assert ranked[2, :10].tolist() == wanted.argsort(descending=True)[:10].tolist()


def test_another_catalogue_is_refused():
    class Other(Bilinear):
        num_items = N + 1

    with pytest.raises(ValueError, match="40 items, the model of 41"):
        MixtureRanker(ScoringRanker(Other(), "other"), make_memory())
