"""Sequences that lost items or words: order, what is never dropped, rates, and that draws can be repeated."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modeling_utgrec import UniSRecConfig
from trainers.data.interactions import Interactions
from trainers.training_data.augmented_sequences import AugmentedCollator, drop_items
from trainers.training_data.sequence_windows import SequenceCollator, SequenceWindows

NUM_ITEMS = 30


def make_collator(seed=0, fewer_words=False, **config):
    rng = np.random.default_rng(0)
    ids = [f"i{row}" for row in range(NUM_ITEMS)]
    sequences = [[ids[row] for row in rng.choice(NUM_ITEMS, rng.integers(3, 12), replace=False)] for _ in range(40)]
    windows = SequenceWindows(Interactions.from_sequences(sequences, ids), "last", max_history=8)
    words = rng.normal(size=(NUM_ITEMS, 4)).astype(np.float32) if fewer_words else None
    return windows, AugmentedCollator(windows, UniSRecConfig(num_items=NUM_ITEMS, **config), seed, words)


def test_dropped_items_go_and_the_others_keep_their_order():
    """The authors' program makes 2, 4, 5 of the items 1 to 5 of which 1, 3 and 5 stay."""
    kept = np.array([[1, 0, 1, 0, 1], [1, 1, 1, 1, 0]], bool)
    found = drop_items(np.array([[1, 2, 3, 4, 5], [0, 0, 6, 7, 8]]), kept)
    assert found.tolist() == [[1, 3, 5], [0, 6, 7]]


@given(st.lists(st.lists(st.tuples(st.integers(1, 9), st.booleans()), max_size=6), min_size=1, max_size=4))
def test_compaction_against_lists(rows):
    width = max(map(len, rows))
    ids = np.array([[0] * (width - len(row)) + [item for item, _ in row] for row in rows]).reshape(len(rows), width)
    kept = np.array([[True] * (width - len(row)) + [stays for _, stays in row] for row in rows], bool)
    found = drop_items(ids, kept.reshape(ids.shape))
    expected = [[item for item, stays in row if stays] for row in rows]
    assert found.shape[1] == max(map(len, expected))
    assert [row[row > 0].tolist() for row in found] == expected
    assert all((np.diff((row > 0).astype(int)) >= 0).all() for row in found)


def test_items_are_dropped_at_their_rate_and_never_the_first():
    windows, collate = make_collator(drop_ratio=0.3, item_drop_share=1.0)
    read = left = 0
    for epoch in range(20):
        windows.set_epoch(epoch)
        batch = collate(windows.__getitems__(range(len(windows))))
        for row, augmented in zip(batch["input_ids"].tolist(), batch["augmented_ids"].tolist(), strict=True):
            items, rest = [each for each in row if each], [each for each in augmented if each]
            assert rest[0] == items[0]
            assert rest == [each for each in items if each in rest]
            read, left = read + len(items) - 1, left + len(rest) - 1
        assert "augmented_content" not in batch
    assert 1 - left / read == pytest.approx(0.3, abs=0.02)


def test_targets_of_a_longer_horizon_are_those_of_plain_batches():
    windows, collate = make_collator(seed=3)
    rows, config = windows.__getitems__(range(len(windows))), collate.config
    further = AugmentedCollator(windows, config, 3, horizon=4)(rows)
    assert torch.equal(further["labels"], SequenceCollator(windows, config, 3, 4)(rows)["labels"])
    assert not torch.equal(further["labels"], collate(rows)["labels"])
    assert torch.equal(further["augmented_ids"], collate(rows)["augmented_ids"])


def test_items_that_lose_words_have_tokens_of_their_own():
    windows, collate = make_collator(fewer_words=True, item_drop_share=0.0, drop_ratio=0.5)
    batch = collate(windows.__getitems__(range(10)))
    ids, augmented = batch["input_ids"], batch["augmented_ids"]
    changed = ids != augmented
    assert 0.3 < changed[ids > 0].float().mean() < 0.7 and not changed[ids == 0].any()
    rows = batch["augmented_content"]
    assert (augmented[changed] - NUM_ITEMS).unique().tolist() == list(range(1, len(rows) + 1))
    expected = torch.from_numpy(collate.fewer_words)[ids[changed] - 1]
    assert torch.equal(rows[augmented[changed] - NUM_ITEMS - 1], expected)


def test_a_coin_for_each_batch():
    windows, collate = make_collator(fewer_words=True, item_drop_share=0.75)
    kinds = []
    for epoch in range(200):
        windows.set_epoch(epoch)
        kinds.append("augmented_content" in collate(windows.__getitems__(range(20))))
    assert np.mean(kinds) == pytest.approx(0.25, abs=0.08)


def test_draws_are_those_of_seed_epoch_and_windows():
    windows, collate = make_collator(drop_ratio=0.5)
    first = collate(windows.__getitems__(range(20)))["augmented_ids"]
    assert torch.equal(collate(windows.__getitems__(range(20)))["augmented_ids"], first)
    windows.set_epoch(1)
    other = collate(windows.__getitems__(range(20)))["augmented_ids"]
    assert other.shape != first.shape or not torch.equal(other, first)
    _, again = make_collator(seed=1, drop_ratio=0.5)
    other = again(windows.__getitems__(range(20)))["augmented_ids"]
    assert other.shape != first.shape or not torch.equal(other, first)
