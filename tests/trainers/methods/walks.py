"""Walks around a circle, from which a memory learns what follows what, and a small T5 beside it."""

import numpy as np
import torch

from modeling_utgrec import UTGRecConfig, UTGRecForConditionalGeneration
from modeling_utgrec.item_trie import ItemTrie
from trainers.data.interactions import Interactions
from trainers.rankers.generative import GenerativeRanker

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
