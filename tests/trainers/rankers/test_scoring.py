"""Chunked ranking by scores against sorting each user's list in plain Python."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.rankers.scoring import DotProductScorer, ScoringRanker, stable_topk

checked = settings(max_examples=50, deadline=None)


def naive(scores: np.ndarray, exclude: list[np.ndarray] | None, k: int) -> list[list[int]]:
    ranked = []
    for user, row in enumerate(scores):
        kept = [i for i in range(len(row)) if row[i] > -np.inf and (exclude is None or i not in exclude[user])]
        best = sorted(kept, key=lambda i: (-row[i], i))[:k]
        ranked.append(best + [-1] * (k - len(best)))
    return ranked


class Table:
    """Looks scores up: a history's first item is the row of the table. Remembers how often it encoded."""

    def __init__(self, scores):
        self.table, self.num_items, self.encoded = scores, scores.shape[1], 0

    def encode(self, histories):
        self.encoded += 1
        return [int(history[0]) for history in histories]

    def scores(self, users, items):
        return self.table[users][:, items]


def histories(scores) -> list[np.ndarray]:
    return [np.array([user]) for user in range(len(scores))]


@checked
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 9), st.integers(1, 4), st.booleans())
def test_chunks_equal_plain_python(seed, k, chunk_items, batch_size, masked):
    rng = np.random.default_rng(seed)
    # four different scores: ties within chunks, across their borders and at the end of the list
    scores = rng.integers(0, 4, (rng.integers(1, 6), rng.integers(1, 30))).astype(rng.choice(["f4", "f8"]))
    scores[rng.random(scores.shape) < 0.2] = -np.inf
    before = scores.copy()
    exclude = [rng.integers(0, scores.shape[1], rng.integers(0, 5)) for _ in scores] if masked else None
    ranker = ScoringRanker(Table(scores), "t", batch_size=batch_size, chunk_items=chunk_items)
    assert ranker.rank(histories(scores), k, exclude).tolist() == naive(scores, exclude, k)
    assert ranker.scorer.encoded == -(-len(scores) // batch_size)  # once per batch, not per chunk
    assert np.array_equal(scores, before)  # masking must not write into the scorer's own table


def test_all_equal_scores_give_the_catalogue_in_order():
    ranker = ScoringRanker(Table(np.zeros((2, 1000))), "t", chunk_items=7)
    assert ranker.rank([np.array([0]), np.array([1])], 9).tolist() == [list(range(9))] * 2


def test_masking_the_best_items_of_a_chunk_leaves_the_next_ones():
    scores = -np.arange(20.0)[None].repeat(2, 0)
    exclude = [np.array([0, 1, 2, 4, 9, 2]), np.array([], int)]
    ranked = ScoringRanker(Table(scores), "t", chunk_items=8).rank(histories(scores), 3, exclude)
    assert ranked.tolist() == [[3, 5, 6], [0, 1, 2]]


@checked
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_stable_topk(seed, k):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 3, (4, rng.integers(1, 20))).astype(np.float32)
    values, columns = stable_topk(torch.from_numpy(scores), k)
    assert columns.tolist() == [row[: scores.shape[1]] for row in naive(scores, None, min(k, scores.shape[1]))]
    assert np.array_equal(values.numpy(), np.take_along_axis(scores, columns.numpy(), 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("biased", [False, True])
def test_dot_products(dtype, biased):
    rng = np.random.default_rng(0)
    items, states = rng.normal(size=(50, 6)), rng.normal(size=(7, 6))
    bias = rng.normal(size=50) if biased else None
    embeddings = torch.tensor(items, dtype=dtype, requires_grad=True)  # as a model's parameter
    scorer = DotProductScorer(lambda histories: torch.tensor(states)[[h[0] for h in histories]], embeddings, bias)
    exact = embeddings.detach().double().numpy()
    expected = naive(states @ exact.T + (bias if biased else 0), None, 8)
    assert ScoringRanker(scorer, "d", chunk_items=16).rank(histories(states), 8).tolist() == expected
    assert scorer.scores(scorer.encode(histories(states)), slice(0, 3)).dtype == (
        torch.float64 if dtype == torch.float64 else torch.float32
    )


def test_scorers_without_encode_get_the_histories_cut():
    class Last:
        num_items = 5

        def scores(self, histories, items):
            self.seen = [history.tolist() for history in histories]
            return np.eye(5)[[history[-1] for history in histories]][:, items]

    ranker = ScoringRanker(Last(), "last", max_history=2)
    assert ranker.rank([np.array([0, 1, 2]), np.array([4])], 2).tolist() == [[2, 0], [4, 0]]
    assert ranker.scorer.seen == [[1, 2], [4]]


def test_mistakes_are_named():
    scores = np.zeros((2, 5))
    with pytest.raises(ValueError, match="2 histories, but 1"):
        ScoringRanker(Table(scores), "t").rank(histories(scores), 2, [np.array([1])])
    with pytest.raises(ValueError, match="NaN or infinity for items 2 to 3"):
        broken = np.where(np.arange(5) == 3, np.nan, scores)
        ScoringRanker(Table(broken), "t", chunk_items=2).rank(histories(scores), 2)
    with pytest.raises(ValueError, match="must return floats"):
        ScoringRanker(Table(scores.astype(int)), "t").rank(histories(scores), 2)
    with pytest.raises(ValueError, match="at least 1"):
        ScoringRanker(Table(scores), "t", chunk_items=0)
    with pytest.raises(ValueError, match=r"bias \[5\]"):
        DotProductScorer(lambda h: scores, scores.T, np.zeros(4))
    with pytest.raises(ValueError, match="user states"):
        ScoringRanker(DotProductScorer(lambda h: scores[:1], scores), "t").rank(histories(scores), 2)
