"""A recommender normalised over items: probabilities of the items of the catalogue, in training as in use."""

import math

import numpy as np
import pytest
import torch

from modeling_utgrec import ItemTrie, UTGRecConfig, UTGRecForConditionalGeneration
from modeling_utgrec.generation_rules import ItemRules
from trainers.data.interactions import Interactions
from trainers.training_data.next_item_windows import NextItemCollator, NextItemWindows, ValidCodes
from trainers.training_data.packed_sequences import PackedCollator, PackedSequences

CODES = np.array([[0, 0, 0], [0, 0, 4], [0, 3, 1], [2, 3, 1], [2, 1, 5], [2, 1, 0], [2, 1, 1], [3, 4, 2]])


def make_model(causal: bool, **changes) -> UTGRecForConditionalGeneration:
    torch.manual_seed(0)
    config = UTGRecConfig(
        level_sizes=[4, 5, 6],
        d_model=16,
        d_ff=32,
        d_kv=8,
        num_heads=2,
        num_layers=2,
        dropout_rate=0.0,
        causal_encoder=causal,
        normalize_over="items",
        **changes,
    )
    return UTGRecForConditionalGeneration(config).eval()


def tokens_of(config: UTGRecConfig) -> np.ndarray:
    return CODES + np.array(config.level_offsets)


def make_trie(config: UTGRecConfig) -> ItemTrie:
    return ItemTrie(CODES, config.level_sizes, config.level_offsets)


def by_hand(model: UTGRecForConditionalGeneration, history: list[int]) -> np.ndarray:
    """Log-probability of every item: softmax by softmax over what the catalogue has, in plain Python."""
    table = tokens_of(model.config)
    ids = torch.from_numpy(table[history].reshape(1, -1))
    scores = []
    for item in range(len(CODES)):
        decoder_ids = torch.tensor([[0, *table[item][:-1]]])
        logits = model(input_ids=ids, decoder_input_ids=decoder_ids).logits[0].tolist()
        total = 0.0
        for level in range(3):
            others = {
                tuple(code[: level + 1]) for code in CODES.tolist() if (code[:level] == CODES[item][:level]).all()
            }
            offset = model.config.level_offsets[level]
            values = [logits[level][offset + code[-1]] for code in others]
            total += logits[level][table[item][level]] - math.log(sum(map(math.exp, values)))
        scores.append(total)
    return np.array(scores)


@pytest.mark.parametrize("causal", [False, True])
def test_scores_are_a_distribution_over_the_items(causal):
    model = make_model(causal)
    history = [3, 0, 5]
    wanted = by_hand(model, history)
    assert np.exp(wanted).sum() == pytest.approx(1.0, abs=1e-5)
    ids = torch.from_numpy(tokens_of(model.config)[history].reshape(1, -1))
    trie = make_trie(model.config)
    output = model.recommend(ids, None, trie, num_items=8)
    np.testing.assert_allclose(output.scores[0], np.sort(wanted)[::-1], atol=1e-4)
    assert output.item_rows[0].tolist() == np.argsort(-wanted).tolist()
    candidates = torch.tensor([[7, 2, 6, -1, 0]])
    scores = model.score_items(ids, None, trie, candidates)[0]
    np.testing.assert_allclose(scores[[0, 1, 2, 4]], wanted[[7, 2, 6, 0]], atol=1e-4)
    # a rule takes items away, it does not change the others' probabilities
    rules = ItemRules(trie, deny=torch.tensor([[int(np.argmax(wanted))]]))
    ruled = model.recommend(ids, None, trie, num_items=7, rules=rules)
    np.testing.assert_allclose(ruled.scores[0], np.sort(wanted)[::-1][1:], atol=1e-4)


@pytest.mark.parametrize("causal", [False, True])
def test_loss(causal):
    """Of every target of a sequence, by either way of making batches."""
    model = make_model(causal)
    sequence = [3, 0, 5, 5, 7]
    wanted = -np.mean([by_hand(model, sequence[:t])[sequence[t]] for t in range(1, 5)]) / 3
    ids = [str(item) for item in range(len(CODES))]
    interactions = Interactions.from_sequences([[ids[item] for item in sequence]], ids)
    config, table = model.config, tokens_of(model.config)
    valid = ValidCodes(table, config.level_sizes, config.level_offsets)
    windows = NextItemWindows(interactions, table)
    batch = NextItemCollator(windows, valid)(windows.__getitems__(range(4)))
    assert model(**batch).loss.item() == pytest.approx(wanted, abs=1e-4)
    assert model(**batch, return_dict=False)[0].item() == pytest.approx(wanted, abs=1e-4)
    if causal:
        packed = PackedCollator(PackedSequences(interactions, table), valid)([0])
        assert model(**packed).loss.item() == pytest.approx(wanted, abs=1e-4)
    del batch["valid_codes"]
    with pytest.raises(ValueError, match=r"needs valid_codes of shape \(4, 3, 6\), got None"):
        model(**batch)


def labelled_batch(model: UTGRecForConditionalGeneration, causal: bool) -> dict[str, torch.Tensor]:
    """Two users, whose targets are the next item or all items after the first."""
    table = torch.from_numpy(tokens_of(model.config))
    valid = ValidCodes(table.numpy(), model.config.level_sizes, model.config.level_offsets)
    rows = np.array([[1, 2, 4], [6, 0, 3]])
    targets = rows[:, 1:] if causal else rows[:, 2:]
    return {
        "input_ids": table[rows[:, :2]].flatten(1),
        "labels": table[targets].flatten(1),
        "valid_codes": torch.from_numpy(valid(targets.ravel())).view(2, targets.shape[1] * 3, 6),
    }


@pytest.mark.parametrize("causal", [False, True])
def test_missing_labels_are_left_out(causal, float32_tolerance):
    """A user without labels is as one who is not there, in the loss and its gradient."""
    model = make_model(causal)
    batch = labelled_batch(model, causal)
    found = []
    for rows in ([0, 1], [0]):
        part = {name: value[rows].clone() for name, value in batch.items()}
        part["labels"][1:], part["valid_codes"][1:] = -100, False
        model.zero_grad()
        loss = model(**part).loss
        loss.backward()
        found.append((loss.detach(), model.shared.weight.grad.clone()))
    for got, wanted in zip(*found, strict=True):
        torch.testing.assert_close(got, wanted, **float32_tolerance(12, wanted))


@pytest.mark.parametrize("normalize_over", ["items", "vocabulary"])
@pytest.mark.parametrize("causal", [False, True])
def test_a_batch_without_labels_changes_nothing(causal, normalize_over):
    model = make_model(causal)
    model.config.normalize_over = normalize_over
    batch = labelled_batch(model, causal)
    batch["labels"].fill_(-100)
    for temperature in (1, 2):
        model.config.loss_temperature = temperature
        loss = model(**batch).loss
        loss.backward()
        assert loss.item() == 0
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and not parameter.grad.any(), name


def test_temperature_applies():
    cold, warm = make_model(False), make_model(False, loss_temperature=2.0)
    table = tokens_of(cold.config)
    valid = ValidCodes(table, cold.config.level_sizes, cold.config.level_offsets)
    batch = {
        "input_ids": torch.from_numpy(table[[1, 2]].reshape(1, -1)),
        "labels": torch.from_numpy(table[[4]]),
        "valid_codes": torch.from_numpy(valid(np.array([4]))),
    }
    assert cold(**batch).loss.item() != pytest.approx(warm(**batch).loss.item(), abs=1e-3)


def test_valid_codes():
    config = UTGRecConfig(level_sizes=[4, 5, 6])
    valid = ValidCodes(tokens_of(config), config.level_sizes, config.level_offsets)
    found = valid(np.arange(len(CODES)))
    assert found.shape == (8, 3, 6)
    for item in range(len(CODES)):
        for level in range(3):
            wanted = {code[level] for code in CODES.tolist() if (code[:level] == CODES[item][:level]).all()}
            assert set(np.flatnonzero(found[item, level]).tolist()) == wanted
    with pytest.raises(ValueError, match="Codes of level 0 must be 0 to 2"):
        ValidCodes(tokens_of(config), [3, 5, 6], config.level_offsets)


def test_unknown_choice():
    with pytest.raises(Exception, match="normalize_over"):
        UTGRecConfig(normalize_over="codes")
