"""Periods of items, against dense algebra and counts by hand."""

import numpy as np
import pytest

from modeling_utgrec.item_memory import PERIODS, RECENT_ITEMS
from trainers.data.interactions import Interactions
from trainers.methods.periods import LONGEST_GAP, RATE_PRIOR, item_periods, item_times


def drifting(num_items: int = 60, num_users: int = 300, seed: int = 0) -> tuple[Interactions, np.ndarray]:
    """Users who walk along an axis that items lie on in a hidden order; and the place of each item on it."""
    rng = np.random.default_rng(seed)
    place = rng.permutation(num_items)
    item_at = place.argsort()
    sequences = []
    for _ in range(num_users):
        steps = rng.integers(1, 3, rng.integers(3, 9)).cumsum() + rng.integers(0, num_items)
        sequences.append([f"i{item_at[step]}" for step in steps if step < num_items])
    return Interactions.from_sequences(sequences, [f"i{row}" for row in range(num_items)]), place


def test_times_solve_the_least_squares():
    """The minimum of the module's sum by a dense solver in float64, repeated items and long gaps among the data."""
    rng = np.random.default_rng(0)
    sequences = [[f"i{item}" for item in rng.integers(0, 9, length)] for length in (1, 2, 14, 25, 3)]
    interactions = Interactions.from_sequences(sequences, [f"i{row}" for row in range(11)])
    rows, wanted = [np.eye(11)], [np.zeros(11)]
    for sequence in sequences:
        items = [int(each[1:]) for each in sequence]
        for first in range(len(items)):
            for gap in range(1, LONGEST_GAP + 1):
                if first + gap < len(items) and items[first] != items[first + gap]:
                    row = np.zeros(11)
                    row[items[first + gap]], row[items[first]] = 1, -1
                    rows.append(row[None] / gap**0.5)
                    wanted.append(np.array([gap / gap**0.5]))
    expected = np.linalg.lstsq(np.concatenate(rows), np.concatenate(wanted), rcond=None)[0]
    np.testing.assert_allclose(item_times(interactions), expected, atol=1e-4)
    assert expected[9] == pytest.approx(0, abs=1e-12) and np.ptp(expected) > 1


def test_a_hidden_order_is_found():
    interactions, place = drifting()
    times = item_times(interactions)
    seen = interactions.popularity > 0
    assert np.corrcoef(times[seen].argsort().argsort(), place[seen].argsort().argsort())[0, 1] > 0.98


def test_periods_share_the_interactions_and_rates_are_counts_over_chance():
    interactions, _ = drifting()
    interactions = Interactions.from_sequences(
        [
            [interactions.item_ids[row] for row in interactions.items[a:b]]
            for a, b in zip(interactions.offsets[:-1], interactions.offsets[1:], strict=True)
        ],
        [*interactions.item_ids, "never"],
    )
    found = item_periods(interactions)
    periods, rates = found.periods.numpy().astype(int), found.period_rates.numpy()
    counts = interactions.popularity
    assert (periods == -1).tolist() == (counts == 0).tolist() and periods[-1] == -1
    times = item_times(interactions)
    known = np.flatnonzero(counts)
    order = known[np.argsort(times[known], kind="stable")]
    assert (np.diff(periods[order]) >= 0).all() and periods[order[0]] == 0 and periods[order[-1]] == PERIODS - 1
    held = np.bincount(periods[known], counts[known], PERIODS)
    assert abs(held - counts.sum() / PERIODS).max() <= counts.max()
    followed = np.zeros((PERIODS, PERIODS))
    for start, stop in zip(interactions.offsets[:-1], interactions.offsets[1:], strict=True):
        items = interactions.items[start:stop]
        for at in range(max(1, len(items) - RECENT_ITEMS), len(items)):
            followed[periods[items[at - 1]], periods[items[at]]] += 1
    share = held / counts.sum()
    chance = (followed + RATE_PRIOR * share) / (followed.sum(1, keepdims=True) + RATE_PRIOR) / share
    np.testing.assert_allclose(rates, np.log(chance), atol=1e-6)
    assert rates.diagonal().mean() > 0 > rates[0, -1], "what follows is of the same time"


@pytest.mark.parametrize("sequences", [[["a"]], [["a", "a"], ["a", "a", "a"]], [["a", "b"]]])
def test_few_interactions_give_finite_rates(sequences):
    found = item_periods(Interactions.from_sequences(sequences, ["a", "b", "c"]))
    assert found.period_rates.isfinite().all()
    assert found.periods[2] == -1 and found.periods[0] >= 0
