"""Nearest items against plain Python."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.rankers.nearest_items import NearestItems

checked = settings(max_examples=50, deadline=None)


def cosines(embeddings: np.ndarray, history: list[int], query: str) -> np.ndarray:
    unit = [vector / np.linalg.norm(vector) for vector in embeddings.astype(np.float64)]
    scores = np.zeros(len(unit))
    if history and query == "history":
        centred = embeddings.astype(np.float64) - embeddings.astype(np.float64).mean(0)
        unit = [vector / np.linalg.norm(vector) for vector in centred]
        weights = [1 / (len(history) - place) ** 0.5 for place in range(len(history))]
        total = sum(
            weight / sum(weights) * np.exp([vector @ unit[item] / 0.3 for vector in unit])
            for weight, item in zip(weights, history, strict=True)
        )
        return 0.3 * np.log(total)
    if history and query != "mean":
        scores += [vector @ unit[history[-1]] for vector in unit]
    if history and query != "last":
        mean = sum(unit[item] for item in history)
        scores += [vector @ mean / np.linalg.norm(mean) for vector in unit]
    return scores


@checked
@given(st.integers(0, 2**32 - 1), st.lists(st.lists(st.integers(0, 8), max_size=6), min_size=1, max_size=5))
@pytest.mark.parametrize(
    "query, max_history",
    [("last", None), ("mean", None), ("mean", 2), ("last+mean", None), ("history", None), ("history", 2)],
)
def test_nearest_items_equal_plain_python(query, max_history, seed, histories):
    embeddings = np.random.default_rng(seed).normal(size=(9, 6)).astype(np.float32)
    ranker = NearestItems(embeddings, query, max_history, batch_size=2, chunk_items=4)
    arrays = [np.array(history, np.int32) for history in histories]
    for exclude in (None, arrays):
        for ranked, history in zip(ranker.rank(arrays, 7, exclude).tolist(), histories, strict=True):
            scores = cosines(embeddings, history[-max_history:] if max_history else history, query)
            left = [item for item in range(9) if exclude is None or item not in history]
            found = [item for item in ranked if item >= 0]
            assert len(found) == len(set(found)) == min(7, len(left)) and set(found) <= set(left)
            # by score and not by item: the mean of two items is as near to the one as to the other
            best = sorted(scores[left], reverse=True)[:7]
            assert scores[found].tolist() == pytest.approx(best, abs=1e-5)


def test_candidates_score_as_in_the_whole_catalogue():
    ranker = NearestItems(np.random.default_rng(0).normal(size=(9, 6)), "history")
    histories = [np.array([3, 1, 3]), np.array([], np.int64), np.array([8])]
    users = ranker.scorer.encode(histories)
    found = ranker.score(histories, np.array([[0, 8, 4], [1, 2, -1], [8, 3, 3]]))
    whole = ranker.scorer.scores(users, slice(0, 9)).numpy()
    assert found[0].tolist() == pytest.approx(whole[0, [0, 8, 4]].tolist(), abs=1e-6)
    assert found[1].tolist() == [0.0, 0.0, -np.inf]
    assert found[2, 0] == pytest.approx(1.0, abs=1e-6) and found[2, 1] == found[2, 2]


def test_nearest_items_ignores_length_and_keeps_catalogue_order_of_twins():
    embeddings = np.array([[0, 1], [3, 0], [0, 0], [9, 0], [1, 0]], np.float16)
    assert NearestItems(embeddings).rank([np.array([3])], 5).tolist() == [[1, 3, 4, 0, 2]]
    assert NearestItems(embeddings).name == "nearest items (last)"
    with pytest.raises(ValueError, match="row 1"):
        NearestItems(np.array([[1, 2], [np.nan, 0]]))
    with pytest.raises(ValueError, match="'first'"):
        NearestItems(embeddings, "first")
    with pytest.raises(ValueError, match="Expected embeddings"):
        NearestItems(np.ones(3))
