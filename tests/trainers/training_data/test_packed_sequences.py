"""Packed rows: every target once, sequences apart, and the same loss as a row for each target."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_utgrec import UTGRecConfig, UTGRecForConditionalGeneration
from trainers.data.interactions import Interactions
from trainers.training_data.next_item_windows import NextItemCollator, NextItemWindows
from trainers.training_data.packed_sequences import PackedCollator, PackedSequences

NUM_ITEMS = 12
CONFIG = dict(
    level_sizes=[4, 5, 6],
    d_model=16,
    d_ff=32,
    d_kv=8,
    num_heads=2,
    num_layers=2,
    causal_encoder=True,
    dropout_rate=0.0,
)


def token_table() -> np.ndarray:
    config = UTGRecConfig(**CONFIG)
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, size, NUM_ITEMS) for size in config.level_sizes], axis=1)
    return codes + np.array(config.level_offsets)


def make_interactions(lengths: list[int], seed: int = 0) -> Interactions:
    rng = np.random.default_rng(seed)
    ids = [str(item) for item in range(NUM_ITEMS)]
    return Interactions.from_sequences([[ids[i] for i in rng.integers(0, NUM_ITEMS, n)] for n in lengths], ids)


def make_model(**changes) -> UTGRecForConditionalGeneration:
    torch.manual_seed(0)
    return UTGRecForConditionalGeneration(UTGRecConfig(**{**CONFIG, **changes})).double()


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_one_pass_is_as_a_row_for_each_target(attention, float32_tolerance):
    """The loss and every gradient, where no sequence is longer than the history."""
    interactions = make_interactions([5, 2, 8, 1, 3, 6, 2])
    model = make_model(attn_implementation=attention)
    packed = PackedSequences(interactions, token_table(), max_history=9, seed=3)
    windows = NextItemWindows(interactions, token_table(), max_history=9)
    assert len(packed) < 6 and packed.num_targets == windows.num_targets == len(windows)
    once = PackedCollator(packed)(range(len(packed)))
    each = NextItemCollator(windows)(windows.__getitems__(range(len(windows))))
    assert once["attention_mask"].max() > 1
    loss, wanted = model(**once).loss, model(**each).loss
    # transformers' norms and its eager softmax are in float32 whatever the model is in
    torch.testing.assert_close(loss, wanted, **float32_tolerance())
    found, expected = gradients(model, loss), gradients(model, wanted)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], **float32_tolerance(4, expected[name]), msg=name)


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 23), min_size=1, max_size=12).filter(lambda lengths: max(lengths) > 1),
    max_history=st.integers(1, 9),
    seed=st.integers(0, 3),
)
def test_every_target_once(lengths, max_history, seed):
    interactions = make_interactions(lengths)
    table = np.arange(2, 2 + 3 * NUM_ITEMS).reshape(NUM_ITEMS, 3)
    packed = PackedSequences(interactions, table, max_history, seed)
    batch = PackedCollator(packed)(range(len(packed)))
    inputs, sequences, labels = (
        batch[name].numpy().reshape(len(packed), -1, 3) for name in ("input_ids", "attention_mask", "labels")
    )
    assert inputs.shape[1] <= max_history and (sequences == sequences[..., :1]).all()
    found = []
    for row in range(len(packed)):
        number = sequences[row, :, 0]
        real = number > 0
        assert (np.diff(number[real]) >= 0).all() and not real[real.sum() :].any()
        assert (inputs[row][~real] == 0).all() and (labels[row][~real] == -100).all()
        for sequence in np.unique(number[real]):
            rows = (inputs[row][number == sequence, 0] - 2) // 3
            following = (labels[row][number == sequence, 0] - 2) // 3
            assert (rows[1:] == following[:-1]).all()  # a window of one sequence
            found += list(zip(rows.tolist(), following.tolist(), strict=True))
    wanted = [
        pair
        for user in range(interactions.num_users)
        for pair in zip(
            interactions.sequence(user)[:-1].tolist(), interactions.sequence(user)[1:].tolist(), strict=True
        )
    ]
    assert sorted(found) == sorted(wanted)


@pytest.mark.parametrize("length", [2, 4, 5, 8, 9, 23])
def test_a_windows_first_item_is_a_target_of_the_window_before(length):
    """Rows of a decoder, which reads its targets: every item that another one precedes is a target once, the first of
    a window too where the sequence goes on before it."""
    ids = [str(item) for item in range(length)]
    interactions = Interactions.from_sequences([ids], ids)  # each item once: a token says its place
    packed = PackedSequences(interactions, np.arange(2, 2 + length)[:, None], max_history=4, with_targets=True)
    batch = PackedCollator(packed)(range(len(packed)))
    labels = batch["labels"][batch["labels"] != -100] - 2
    assert sorted(labels.tolist()) == list(range(1, length))
    for row in range(len(packed)):
        begins = np.flatnonzero(np.diff(batch["attention_mask"][row].numpy(), prepend=0) > 0)
        first = batch["input_ids"][row][begins] - 2
        assert (batch["labels"][row][begins] == -100).all() and set(first.tolist()) - {0} <= set(labels.tolist())


def test_rows_are_full():
    lengths = np.random.default_rng(0).integers(2, 12, 500).tolist()
    packed = PackedSequences(make_interactions(lengths), token_table(), max_history=20)
    assert packed.num_targets / (20 * len(packed)) > 0.75
    assert packed[-1] == len(packed) - 1
    with pytest.raises(IndexError, match="row"):
        packed[len(packed)]


def test_wrong_table():
    with pytest.raises(ValueError, match=r"token table \[12, L\]"):
        PackedSequences(make_interactions([4]), token_table()[:5])


def test_later_items_change_nothing(float32_tolerance):
    """Causal: the states of a history are those that it has alone, in recommending too."""
    model = make_model().eval()
    ids = torch.from_numpy(token_table()[[1, 2, 3, 4]].reshape(1, -1))
    whole = model.encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    part = model.encoder(input_ids=ids[:, :6]).last_hidden_state
    allowed = float32_tolerance(5, part)  # two layers, whose norms and softmax are in float32, and a norm
    torch.testing.assert_close(whole[:, :6], part, **allowed)
    # within an item both directions are open
    other = ids.clone()
    other[0, 5] = 2 + 4 + 5
    changed = model.encoder(input_ids=other).last_hidden_state
    assert not torch.allclose(changed[0, 3], whole[0, 3], atol=1e-3)
    torch.testing.assert_close(changed[0, :3], whole[0, :3], **allowed)


def test_labels_of_all_items_need_a_causal_encoder():
    model = make_model(causal_encoder=False)
    batch = PackedCollator(PackedSequences(make_interactions([5, 4]), token_table(), 9))([0])
    with pytest.raises(ValueError, match="labels must be the 3 codes"):
        model(**batch)


def test_a_causal_encoder_starts_as_the_other():
    given, other = (make_model(causal_encoder=causal).state_dict() for causal in (True, False))
    assert given.keys() == other.keys()
    assert all(torch.equal(given[name], other[name]) for name in given)


def test_a_causal_encoder_survives_saving(tmp_path):
    model = make_model().float().eval()
    model.save_pretrained(tmp_path)
    again = UTGRecForConditionalGeneration.from_pretrained(tmp_path).eval()
    ids = torch.from_numpy(token_table()[[1, 2, 3]].reshape(1, -1))
    labels = torch.from_numpy(token_table()[[2, 3, 4]].reshape(1, -1))
    assert torch.equal(model(input_ids=ids, labels=labels).loss, again(input_ids=ids, labels=labels).loss)
    assert again.encoder.embed_tokens.weight is again.shared.weight
