"""Training batches of sequential recommenders."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from modeling_utgrec import BERT4RecConfig, SASRecConfig
from trainers.data.interactions import Interactions
from trainers.training_data.sequence_windows import SequenceCollator, SequenceWindows, encode_left_padded

NUM_ITEMS = 7
MASK = NUM_ITEMS + 1


def interactions_of(sequences):
    offsets = np.cumsum([0] + [len(sequence) for sequence in sequences]).astype(np.int64)
    items = np.array([item for sequence in sequences for item in sequence], np.int32)
    ids = [f"i{row}" for row in range(NUM_ITEMS)]
    return Interactions(ids, [f"u{user}" for user in range(len(sequences))], items, offsets)


def naive_windows(sequences, targets, max_history):
    """Windows of each sequence from its end, with loops over positions."""
    windows = []
    for sequence in sequences:
        if len(sequence) < 2:
            continue
        if targets == "last":
            for position in range(len(sequence) - 1, 0, -1):
                windows.append(sequence[max(0, position - max_history) : position + 1])
            continue
        end = len(sequence)
        while end > (1 if targets == "all" else 0):
            start = max(0, end - max_history - 1)
            windows.append(sequence[start:end])
            end = start + 1 if targets == "all" else start
    return windows


def rows_of(batch):
    """(tokens, labels) of each row without its padding, which must be on the left."""
    rows = []
    for tokens, mask, labels in zip(*(batch[key].tolist() for key in batch), strict=True):
        padding = mask.count(0)
        assert mask == [0] * padding + [1] * (len(mask) - padding)
        assert tokens[:padding] == [0] * padding and labels[:padding] == [-100] * padding
        rows.append((tokens[padding:], labels[padding:]))
    return rows


sequence_lists = st.lists(
    st.lists(st.integers(0, NUM_ITEMS - 1), max_size=13), min_size=1, max_size=6
).filter(lambda sequences: any(len(sequence) > 1 for sequence in sequences))  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(sequence_lists, st.sampled_from(["all", "last"]), st.integers(1, 5))
def test_windows_and_batches_equal_a_naive_enumeration(sequences, targets, max_history):
    windows = SequenceWindows(interactions_of(sequences), targets, max_history)
    expected = naive_windows(sequences, targets, max_history)
    assert len(windows) == len(expected)
    bounds = windows.__getitems__(range(len(windows)))
    assert [windows.items[start:end].tolist() for start, end in bounds] == expected
    batch = SequenceCollator(windows, SASRecConfig(num_items=NUM_ITEMS))(bounds)
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    assert batch["input_ids"].shape[1] == max(len(window) - 1 for window in expected)
    for (tokens, labels), window in zip(rows_of(batch), expected, strict=True):
        following = [item + 1 for item in window[1:]]
        assert tokens == [item + 1 for item in window[:-1]]
        assert labels == (following if targets == "all" else [-100] * (len(following) - 1) + following[-1:])


@settings(max_examples=50, deadline=None)
@given(sequence_lists, st.sampled_from(["all", "last"]), st.integers(1, 5))
def test_every_position_is_a_target_once(sequences, targets, max_history):
    windows = SequenceWindows(interactions_of(sequences), targets, max_history)
    seen = []
    for start, end in windows.__getitems__(range(len(windows))):
        assert end - start <= max_history + 1
        seen += range(start + 1, end) if targets == "all" else [end - 1]
    ends = np.cumsum([len(sequence) for sequence in sequences])
    firsts = ends - [len(sequence) for sequence in sequences]
    assert sorted(seen) == [p for first, end in zip(firsts, ends, strict=True) for p in range(first + 1, end)]


@settings(max_examples=50, deadline=None)
@given(
    sequence_lists, st.integers(1, 5), st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from([0.0, 0.5, 1.0]),
    st.integers(0, 5),
)  # fmt: skip
def test_masked_windows(sequences, max_history, mask_ratio, last_item_ratio, seed):
    windows = SequenceWindows(interactions_of(sequences), "cloze", max_history)
    expected = naive_windows(sequences, "cloze", max_history)
    bounds = windows.__getitems__(range(len(windows)))
    assert [windows.items[start:end].tolist() for start, end in bounds] == expected
    assert sum(map(len, expected)) == sum(len(sequence) for sequence in sequences if len(sequence) > 1)
    config = BERT4RecConfig(num_items=NUM_ITEMS, mask_ratio=mask_ratio, last_item_ratio=last_item_ratio)
    for (tokens, labels), window in zip(
        rows_of(SequenceCollator(windows, config, seed)(bounds)), expected, strict=True
    ):
        hidden = [label != -100 for label in labels]
        assert any(hidden)
        assert tokens == [MASK if mask else item + 1 for mask, item in zip(hidden, window, strict=True)]
        assert labels == [item + 1 if mask else -100 for mask, item in zip(hidden, window, strict=True)]
        if last_item_ratio == 1:
            assert hidden == [False] * (len(window) - 1) + [True]
        elif last_item_ratio == 0 and mask_ratio == 1:
            assert all(hidden)
        elif last_item_ratio == 0 and mask_ratio == 0:
            assert sum(hidden) == 1


def test_masks_have_the_configured_shares():
    windows = SequenceWindows(interactions_of([list(np.arange(20) % NUM_ITEMS)] * 2000), "cloze", 19)
    bounds = windows.__getitems__(range(len(windows)))
    config = BERT4RecConfig(num_items=NUM_ITEMS, mask_ratio=0.2, last_item_ratio=0.1)
    hidden = SequenceCollator(windows, config)(bounds)["labels"] != -100
    last_only = (hidden.sum(dim=1) == 1) & hidden[:, -1]
    chance = 0.2 * 0.8**19 + 0.8**20 / 20  # of the last item alone without being asked for
    assert last_only.float().mean().item() == pytest.approx(0.1 + 0.9 * chance, abs=0.02)
    assert hidden[~last_only].float().mean().item() == pytest.approx(0.2, abs=0.01)
    # without any mask drawn, every item of a window is as likely to be the one
    one = SequenceCollator(windows, BERT4RecConfig(num_items=NUM_ITEMS, mask_ratio=0, last_item_ratio=0))(bounds)
    assert ((one["labels"] != -100).float().mean(dim=0) - 0.05).abs().max() < 0.02


def test_masks_depend_on_seed_epoch_and_windows_only():
    windows = SequenceWindows(interactions_of([[0, 1, 2, 3, 4, 5, 6]] * 9), "cloze", 6)
    config = BERT4RecConfig(num_items=NUM_ITEMS, mask_ratio=0.5)

    def masks(indices, seed=0):
        return SequenceCollator(windows, config, seed)(windows.__getitems__(indices))["labels"].tolist()

    first = masks(range(4))
    assert masks(range(4)) == first
    assert masks(range(4), seed=1) != first
    assert masks(range(4, 8)) != first
    windows.set_epoch(1)
    assert masks(range(4)) != first
    windows.set_epoch(0)
    assert masks(range(4)) == first


def test_data_loader_visits_every_window_once():
    sequences = [[0, 1, 2], [], [3], [4, 5], [6, 0, 1, 2, 3]]
    windows = SequenceWindows(interactions_of(sequences), "all", 2)
    collator = SequenceCollator(windows, SASRecConfig(num_items=NUM_ITEMS))
    loader = DataLoader(windows, 2, shuffle=True, collate_fn=collator, generator=torch.Generator().manual_seed(0))
    seen = [[token - 1 for token in row] for batch in loader for row, _ in rows_of(batch)]
    assert sorted(seen) == sorted(window[:-1] for window in naive_windows(sequences, "all", 2))
    assert windows[-1].tolist() == windows[len(windows) - 1].tolist()
    with pytest.raises(IndexError):
        windows[len(windows)]


def test_dataset_shares_the_interactions():
    interactions = interactions_of([[0, 1, 2]])
    assert np.shares_memory(SequenceWindows(interactions, "all", 5).items, interactions.items)


def test_histories_are_padded_on_the_left_and_cut_to_the_last_items():
    batch = encode_left_padded([np.array([3]), np.array([6, 5, 4, 0])], NUM_ITEMS, max_history=3)
    assert batch["input_ids"].tolist() == [[0, 0, 4], [6, 5, 1]]
    assert batch["attention_mask"].tolist() == [[0, 0, 1], [1, 1, 1]]
    with pytest.raises(ValueError, match="History 1 holds item row 7"):
        encode_left_padded([np.array([0]), np.array([7])], NUM_ITEMS, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0], [], [1]], "all", 5), "No training windows"),
        (([[0, 1]], "all", 0), "max_history"),
        (([[0, 1]], "next", 5), "all, last, cloze"),
    ],
)
def test_wrong_inputs_are_named(arguments, message):
    sequences, targets, max_history = arguments
    with pytest.raises(ValueError, match=message):
        SequenceWindows(interactions_of(sequences), targets, max_history)
