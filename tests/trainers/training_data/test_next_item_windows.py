import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tokenization_items.histories import encode_histories
from trainers.data.interactions import Interactions
from trainers.training_data.next_item_windows import NextItemCollator, NextItemWindows, TrainingData, join_domains

NUM_ITEMS, NUM_LEVELS = 7, 3


def interactions_of(sequences, num_items=NUM_ITEMS):
    offsets = np.cumsum([0] + [len(sequence) for sequence in sequences]).astype(np.int64)
    items = np.array([item for sequence in sequences for item in sequence], np.int32)
    ids = [f"i{row}" for row in range(num_items)]
    return Interactions(ids, [f"u{user}" for user in range(len(sequences))], items, offsets)


def table_of(num_items=NUM_ITEMS, first=2):
    return np.arange(num_items * NUM_LEVELS).reshape(num_items, NUM_LEVELS) + first


def naive_pairs(sequences, max_history):
    """(history, target) of every position, one Python loop per pair."""
    pairs = []
    for sequence in sequences:
        for position in range(1, len(sequence)):
            pairs.append((list(sequence[max(0, position - max_history) : position]), sequence[position]))
    return pairs


def naive_batch(pairs, table):
    longest = max(len(history) for history, _ in pairs)
    input_ids, mask, labels = [], [], []
    for history, target in pairs:
        tokens = [int(token) for item in history for token in table[item]]
        padding = [0] * (longest * NUM_LEVELS - len(tokens))
        input_ids.append(tokens + padding)
        mask.append([1] * len(tokens) + padding)
        labels.append(table[target].tolist())
    return {"input_ids": input_ids, "attention_mask": mask, "labels": labels}


sequence_lists = st.lists(
    st.lists(st.integers(0, NUM_ITEMS - 1), max_size=9), min_size=1, max_size=8
).filter(lambda sequences: any(len(sequence) > 1 for sequence in sequences))  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(sequence_lists, st.integers(1, 5), st.randoms(use_true_random=False))
def test_windows_and_batches_equal_a_naive_enumeration(sequences, max_history, random):
    windows = NextItemWindows(interactions_of(sequences), table_of(), max_history)
    pairs = naive_pairs(sequences, max_history)
    assert len(windows) == len(pairs)
    order = list(range(len(pairs)))
    random.shuffle(order)
    positions = windows.__getitems__(order)
    assert positions.tolist() == [windows[i] for i in order]
    starts = windows.history_starts(positions)
    found = [(windows.items[a:b].tolist(), windows.items[b]) for a, b in zip(starts, positions, strict=True)]
    assert found == [pairs[i] for i in order]
    batch = NextItemCollator(windows)(positions)
    expected = naive_batch([pairs[i] for i in order], table_of())
    assert {name: tensor.tolist() for name, tensor in batch.items()} == expected
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), min_size=1, max_size=9), min_size=1, max_size=6))
def test_encode_histories_equals_a_naive_construction(histories):
    input_ids, mask = encode_histories([np.array(history) for history in histories], table_of(), max_history=4)
    expected = naive_batch([(history[-4:], 0) for history in histories], table_of())
    assert input_ids.tolist() == expected["input_ids"]
    assert mask.tolist() == expected["attention_mask"]


def test_data_loader_visits_every_pair_once():
    sequences = [[0, 1, 2], [], [3], [4, 5], [6, 0, 1, 2, 3]]
    windows = NextItemWindows(interactions_of(sequences), table_of(), max_history=2)
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(windows, 3, shuffle=True, collate_fn=NextItemCollator(windows), generator=generator)
    seen = [
        (history[keep.bool()].tolist(), target.tolist())
        for batch in loader
        for history, keep, target in zip(*batch.values(), strict=True)
    ]
    table = table_of()
    pairs = naive_pairs(sequences, 2)
    expected = [(table[history].flatten().tolist(), table[target].tolist()) for history, target in pairs]
    assert sorted(seen) == sorted(expected)


def test_dataset_shares_the_interactions():
    interactions = interactions_of([[0, 1, 2]])
    assert np.shares_memory(NextItemWindows(interactions, table_of()).items, interactions.items)


def test_indices_outside_of_the_dataset_are_errors():
    windows = NextItemWindows(interactions_of([[0, 1, 2]]), table_of())
    assert windows[-1] == windows[1] == 2
    with pytest.raises(IndexError):
        windows[2]


def test_joined_domains_keep_each_domains_own_tokens():
    first, second = [[0, 1, 2], [3]], [[0, 1], [2, 1, 0]]
    tables = table_of(), table_of(3, first=50)
    data = join_domains(
        {
            "games": TrainingData(interactions_of(first), tables[0]),
            "office": TrainingData(interactions_of(second, 3), tables[1]),
        }
    )
    windows = NextItemWindows(data.interactions, data.token_table, 2)
    batch = NextItemCollator(windows)(windows.__getitems__(range(len(windows))))
    expected = [(tables[0][h].flatten().tolist(), tables[0][t].tolist()) for h, t in naive_pairs(first, 2)]
    expected += [(tables[1][h].flatten().tolist(), tables[1][t].tolist()) for h, t in naive_pairs(second, 2)]
    found = [
        (history[keep.bool()].tolist(), target.tolist()) for history, keep, target in zip(*batch.values(), strict=True)
    ]
    assert found == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NextItemWindows(interactions_of([[0, 1]]), table_of(5)), r"token table \[7, L\]"),
        (lambda: NextItemWindows(interactions_of([[0, 1]]), table_of(first=0)), "Row 0 .*padding"),
        (lambda: NextItemWindows(interactions_of([[0], [], [1]]), table_of()), "No training targets"),
        (lambda: NextItemWindows(interactions_of([[0, 1]]), table_of(), max_history=0), "at least 1"),
        (lambda: join_domains({}), "at least one"),
        (
            lambda: join_domains(
                {
                    name: TrainingData(interactions_of([[0, 1]]), table_of()[:, :levels])
                    for name, levels in (("games", 3), ("office", 2))
                }
            ),
            r"Domain 'office': expected a token table \[7, 3\]",
        ),
        (lambda: encode_histories([], table_of()), "at least one"),
        (lambda: encode_histories([np.array([1]), np.array([], int)], table_of()), r"1 empty histories, at 1:"),
        (lambda: encode_histories([np.array([1]), np.array([2, 7])], table_of()), "History 1 holds item row 7"),
        (lambda: encode_histories([np.array([-1])], table_of()), "History 0 holds item row -1"),
        (lambda: encode_histories([np.array(["a"])], table_of()), "item rows"),
        (lambda: encode_histories([np.array([1])], table_of(), max_history=0), "at least 1"),
    ],
)  # fmt: skip
def test_wrong_inputs_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
