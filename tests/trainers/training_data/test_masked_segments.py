"""Batches of S3-Rec's pre-training: masks, segments and where they lie."""

import numpy as np
import pytest

from modeling_utgrec import S3RecConfig
from trainers.data.interactions import Interactions
from trainers.training_data.masked_segments import MaskedSegmentsCollator
from trainers.training_data.sequence_windows import SequenceWindows

NUM_ITEMS, HISTORY, MASK = 40, 7, 41


@pytest.fixture(scope="module")
def batches():
    rng = np.random.default_rng(0)
    ids = [f"i{row}" for row in range(NUM_ITEMS)]
    sequences = [[ids[row] for row in rng.integers(0, NUM_ITEMS, rng.integers(1, 12))] for _ in range(50)]
    interactions = Interactions.from_sequences(sequences, ids)
    windows = SequenceWindows(interactions, "last", HISTORY)
    collate = MaskedSegmentsCollator(windows, S3RecConfig(num_items=NUM_ITEMS, mask_ratio=0.3), seed=1)
    found = []
    for epoch in range(5):
        windows.set_epoch(epoch)
        bounds = windows.__getitems__(range(len(windows)))
        found.append((bounds, {name: tensor.numpy() for name, tensor in collate(bounds).items()}))
    return interactions, windows, collate, found


def test_every_prefix_of_two_items_is_a_row(batches):
    interactions, _, _, found = batches
    prefixes = [
        (interactions.sequence(user)[:length] + 1)[-HISTORY:].tolist()
        for user in range(interactions.num_users)
        for length in range(2, len(interactions.sequence(user)) + 1)
    ]
    rows = [[each for each in row if each] for row in found[0][1]["original_ids"].tolist()]
    assert sorted(rows) == sorted(prefixes)


def test_there_is_no_horizon(batches):
    _, windows, collate, _ = batches
    with pytest.raises(ValueError, match="no horizon of targets: leave it at 1, got 3"):
        MaskedSegmentsCollator(windows, collate.config, horizon=3)


def test_masks(batches):
    read = hidden = 0
    for _, batch in batches[3]:
        masked = batch["input_ids"] == MASK
        assert masked[:, -1].all() and (batch["input_ids"][~masked] == batch["original_ids"][~masked]).all()
        assert not masked[batch["attention_mask"] == 0].any()
        read += (batch["attention_mask"][:, :-1] > 0).sum()
        hidden += masked[:, :-1].sum()
    assert hidden / read == pytest.approx(0.3, abs=0.03)


def test_segments(batches):
    interactions, _, _, found = batches
    flat = (interactions.items + 1).tolist()
    lengths = {}
    for _, batch in found:
        rows = zip(
            *(batch[f"{name}_ids"].tolist() for name in ("original", "segment", "positive", "negative")), strict=True
        )
        for original, segment, positive, negative in rows:
            present = sum(each > 0 for each in original)
            inside = [column for column, token in enumerate(segment) if token == MASK]
            assert inside == list(range(inside[0], inside[-1] + 1)) and 1 <= len(inside) <= present // 2
            lengths.setdefault(present, set()).add(len(inside))
            for column, token in enumerate(original):
                if column in inside:
                    assert (segment[column], positive[column]) == (MASK, token) and negative[column] <= NUM_ITEMS
                else:
                    assert segment[column] == token
                    assert positive[column] == negative[column] == (MASK if token else 0)
            other = [negative[column] for column in inside]
            assert any(flat[start : start + len(other)] == other for start in range(len(flat)))
    assert lengths[7] == {1, 2, 3} and lengths[2] == {1}


def test_draws_are_those_of_seed_epoch_and_windows(batches):
    _, windows, collate, found = batches
    windows.set_epoch(4)
    bounds, batch = found[-1]
    again = collate(bounds)
    assert all((again[name].numpy() == value).all() for name, value in batch.items())
    assert (found[0][1]["input_ids"] != found[1][1]["input_ids"]).any()
