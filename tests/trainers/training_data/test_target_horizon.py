"""Targets of a horizon: their distribution, and every collator that draws them."""

from collections import Counter

import numpy as np
import pytest

from modeling_utgrec import BERT4RecConfig, SASRecConfig
from trainers.data.interactions import Interactions
from trainers.training_data.next_item_windows import NextItemCollator, NextItemWindows
from trainers.training_data.packed_sequences import PackedCollator, PackedSequences
from trainers.training_data.sequence_windows import SequenceCollator, SequenceWindows
from trainers.training_data.target_horizon import target_positions

LENGTHS = [6, 0, 1, 3, 2, 9]
OFFSETS = np.cumsum([0, *LENGTHS])
LEVELS = 2


def interactions() -> Interactions:
    """Every item occurs once, so an item tells its place."""
    ids = [f"i{row}" for row in range(OFFSETS[-1])]
    users = [f"u{user}" for user in range(len(LENGTHS))]
    return Interactions(ids, users, np.arange(OFFSETS[-1], dtype=np.int32), OFFSETS.astype(np.int64))


def distances_allowed(position: int, horizon: int) -> np.ndarray:
    end = OFFSETS[np.flatnonzero(position < OFFSETS)[0]]
    return np.arange(1, min(horizon, end - 1 - position) + 1)


def assert_distributed(drawn: dict[int, Counter], horizon: int) -> None:
    """Each position's targets against 1 / distance, normalised over what its sequence still has."""
    for position, counts in drawn.items():
        allowed = distances_allowed(position, horizon)
        wanted = 1 / allowed / (1 / allowed).sum()
        total = counts.total()
        assert set(counts) <= set(allowed.tolist())
        for distance, share in zip(allowed.tolist(), wanted, strict=True):
            assert abs(counts[distance] / total - share) < 4.5 * np.sqrt(share * (1 - share) / total) + 1e-9


@pytest.mark.parametrize("horizon", [2, 4, 100])
def test_distances_are_distributed_as_one_over_the_distance(horizon):
    positions = np.array([place for place in range(OFFSETS[-1]) if place + 1 not in OFFSETS])
    many = np.tile(positions, 2000)
    targets = target_positions(many, OFFSETS, horizon, [3, 1])
    drawn = {place: Counter((targets[many == place] - place).tolist()) for place in positions.tolist()}
    assert len(drawn) == sum(max(length - 1, 0) for length in LENGTHS)
    assert_distributed(drawn, horizon)


def test_the_next_item_is_not_drawn():
    positions = np.array([0, 7, 8])
    np.testing.assert_array_equal(target_positions(positions, OFFSETS, 1, [0]), positions + 1)
    with pytest.raises(ValueError, match="horizon must be at least 1"):
        target_positions(positions, OFFSETS, 0, [0])


def make_collators(horizon: int, seed: int = 0):
    """Of each kind: the data set, its elements, and a collator with batches of (position, target) pairs."""
    part = interactions()
    table = np.arange(part.num_items)[:, None] * LEVELS + np.arange(LEVELS) + 2

    def of_sequences(targets):
        windows = SequenceWindows(part, targets, 4)
        collate = SequenceCollator(windows, SASRecConfig(num_items=part.num_items), seed, horizon)

        def pairs(rows):
            batch = {name: value.numpy() for name, value in collate(windows.__getitems__(rows)).items()}
            labelled = batch["labels"] != -100
            assert (batch["attention_mask"][labelled] == 1).all()
            return batch["input_ids"][labelled] - 1, batch["labels"][labelled] - 1

        return windows, pairs

    packed = PackedSequences(part, table, 4)
    collate_packed = PackedCollator(packed, horizon=horizon, seed=seed)

    def packed_pairs(rows):
        batch = collate_packed(rows)
        inputs, labels = (batch[name].numpy().reshape(-1, LEVELS) for name in ("input_ids", "labels"))
        labelled = labels[:, 0] != -100
        assert (labelled == (inputs[:, 0] != 0)).all()
        assert ((labels[labelled] - 2) % LEVELS == np.arange(LEVELS)).all()
        return (inputs[labelled, 0] - 2) // LEVELS, (labels[labelled, 0] - 2) // LEVELS

    histories = NextItemWindows(part, table, 4)
    collate_histories = NextItemCollator(histories, horizon=horizon, seed=seed)

    def history_pairs(rows):
        batch = collate_histories(histories.__getitems__(rows))
        last = batch["attention_mask"].sum(1).numpy() - LEVELS
        inputs = batch["input_ids"].numpy()[np.arange(len(rows)), last]
        return (inputs - 2) // LEVELS, (batch["labels"][:, 0].numpy() - 2) // LEVELS

    return {
        "all": of_sequences("all"),
        "last": of_sequences("last"),
        "packed": (packed, packed_pairs),
        "histories": (histories, history_pairs),
    }


@pytest.mark.parametrize("kind", ["all", "last", "packed", "histories"])
def test_every_collator_draws_from_the_whole_sequence(kind):
    """Beyond a window's end too, and each position as often as without a horizon."""
    data, pairs = make_collators(horizon=3)[kind]
    drawn: dict[int, Counter] = {}
    for epoch in range(600):
        data.set_epoch(epoch)
        for position, target in zip(*(each.tolist() for each in pairs(range(len(data)))), strict=True):
            drawn.setdefault(position, Counter())[target - position] += 1
    assert len(drawn) == sum(max(length - 1, 0) for length in LENGTHS)
    assert {counts.total() for counts in drawn.values()} == {600}
    assert_distributed(drawn, 3)


@pytest.mark.parametrize("kind", ["all", "last", "packed", "histories"])
def test_a_draw_follows_from_seed_and_epoch(kind):
    def draw(seed: int = 0, epoch: int = 2):
        data, pairs = make_collators(10, seed)[kind]
        data.set_epoch(epoch)
        return pairs([0, 1])[1].tolist()

    assert draw() == draw()
    several = [[draw(seed=seed) for seed in range(8)], [draw(epoch=epoch) for epoch in range(8)]]
    assert all(len({tuple(each) for each in draws}) > 1 for draws in several)


@pytest.mark.parametrize("kind", ["all", "last", "packed", "histories"])
def test_batches_of_an_epoch_have_draws_of_their_own(kind):
    """With the same numbers for every batch, all that come first in one would get targets equally near."""
    data, pairs = make_collators(10)[kind]
    draws = []
    for row in range(len(data)):
        size = len(pairs([row])[1])
        draws.append({tuple(pairs([row] * times)[1][:size].tolist()) for times in range(1, 9)})
    assert any(len(each) > 1 for each in draws)


def test_models_without_a_horizon():
    part = interactions()
    table = np.arange(part.num_items)[:, None] + 2
    windows = SequenceWindows(part, "cloze", 4)
    with pytest.raises(ValueError, match="predicts masked items has no horizon.* got 2"):
        SequenceCollator(windows, BERT4RecConfig(num_items=part.num_items), 0, 2)
    with pytest.raises(ValueError, match="no longer horizon, got 2"):
        PackedCollator(PackedSequences(part, table, 4, with_targets=True), horizon=2)


def test_content_of_the_items_comes_along():
    part = interactions()
    table = np.arange(part.num_items)[:, None] + 2
    content = np.random.default_rng(0).normal(size=(part.num_items, 3)).astype(np.float16)
    packed = PackedSequences(part, table, 4)
    batch = PackedCollator(packed, content=content)(range(len(packed)))
    items = batch["input_ids"].numpy() - 2
    assert batch["content"].numpy().dtype == np.float16 and (items >= 0).any() and (items < 0).any()
    for row, column in np.ndindex(*items.shape):
        wanted = content[items[row, column]] if items[row, column] >= 0 else np.zeros(3)
        np.testing.assert_array_equal(batch["content"][row, column], wanted)
    with pytest.raises(ValueError, match="a content vector for each of 21 items"):
        PackedCollator(packed, content=content[1:])
