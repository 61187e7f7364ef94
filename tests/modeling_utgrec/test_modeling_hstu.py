"""HSTU: the block against loops, causality, lengths, scores."""

import math

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassClassValidationError

from modeling_utgrec.configuration_hstu import HSTUConfig
from modeling_utgrec.modeling_hstu import HSTUBlock, HSTUForNextItem
from modeling_utgrec.modeling_sequential import causal_mask

TINY = {"num_items": 20, "hidden_size": 8, "num_layers": 2, "num_heads": 2, "max_history": 7}


def make_model(**config) -> HSTUForNextItem:
    torch.manual_seed(0)
    return HSTUForNextItem(HSTUConfig(**{**TINY, "initializer_range": 0.5, **config})).eval()


def silu(value: float) -> float:
    return value / (1 + math.exp(-value))


@pytest.mark.parametrize("size", [None, 3])
def test_block_against_loops(size):
    torch.manual_seed(0)
    block = HSTUBlock(HSTUConfig(**TINY, head_size=size)).double().eval()
    size = size or 4
    with torch.no_grad():
        block.relative_bias.copy_(torch.linspace(-2, 2, 7))
    states = torch.randn(2, 5, 8, dtype=torch.float64)
    attention_mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    distances = (torch.arange(5)[:, None] - torch.arange(5)).clamp(min=0)
    found = block(states, causal_mask(attention_mask), distances).detach()

    weight = block.projection.weight.detach()
    for user in range(2):
        normalised = (states[user] - states[user].mean(-1, keepdim=True)) / (
            states[user].var(-1, correction=0, keepdim=True) + 1e-6
        ).sqrt()
        projected = (normalised @ weight.T).apply_(silu)
        gate, value, query, key = projected.split(2 * size, dim=1)
        for row in range(5):
            if not attention_mask[user, row]:
                continue
            attended = torch.zeros(2 * size, dtype=torch.float64)
            for column in range(row + 1):
                if not attention_mask[user, column]:
                    continue
                for head in (slice(0, size), slice(size, 2 * size)):
                    bias = -2 + 4 * (row - column) / 6
                    score = silu(float(query[row, head] @ key[column, head]) + bias) / 7
                    attended[head] += score * value[column, head]
            attended = (attended - attended.mean()) / (attended.var(correction=0) + 1e-6).sqrt() * gate[row]
            expected = states[user, row] + block.output(attended).detach()
            torch.testing.assert_close(found[user, row], expected)


def test_blocks_read_scaled_items_and_positions():
    model = make_model(num_layers=1)
    received = []
    model.model.blocks[0].register_forward_pre_hook(lambda module, inputs: received.append(inputs[0]))
    model.user_states(torch.tensor([[0, 4, 5]]))
    items, positions = model.model.embeddings.items.weight, model.model.embeddings.positions.weight
    expected = torch.stack([torch.zeros(8), items[4] * 8**0.5 + positions[1], items[5] * 8**0.5 + positions[0]])
    torch.testing.assert_close(received[0][0], expected)


def test_no_position_reads_later_items():
    assert HSTUForNextItem.training_targets == "all"
    model = make_model()
    history = torch.tensor([[1, 2, 3, 4, 5]])
    expected = model(history).last_hidden_state
    for column in range(5):
        changed = history.clone()
        changed[0, column] = 15
        found = model(changed).last_hidden_state
        assert torch.equal(found[:, :column], expected[:, :column])
        differs = (found[:, column:] - expected[:, column:]).abs().amax(dim=-1) > 1e-4
        assert differs.all(), column  # and every later position reads it


def test_a_shorter_history_has_the_same_states_in_a_longer_input():
    """The division by the length doesn't see padding; neither does the bias."""
    model = make_model()
    alone = model(torch.tensor([[4, 5]])).last_hidden_state
    padded = model(torch.tensor([[0, 0, 0, 4, 5]])).last_hidden_state
    torch.testing.assert_close(padded[:, 3:], alone)


def test_bias_depends_on_the_distance_only():
    """Positions have no other way to act once their embeddings are zero."""
    model = make_model(num_layers=1)
    with torch.no_grad():
        model.model.embeddings.positions.weight.zero_()
    one, other = model.user_states(torch.tensor([[4, 5, 6], [5, 4, 6]]))
    assert not torch.allclose(one, other, atol=1e-3)
    states = model(torch.tensor([[3, 3, 3], [0, 3, 3]])).last_hidden_state
    torch.testing.assert_close(states[0, 1], states[1, 2])  # an item after the same item
    assert not torch.allclose(states[0, 2], states[1, 2], atol=1e-3)  # two of them weigh more: no softmax


def test_scores_are_cosines_over_the_temperature():
    model = make_model(temperature=0.25)
    input_ids, labels = torch.tensor([[0, 4, 5], [1, 2, 3]]), torch.tensor([[-100, 5, 9], [2, 3, 20]])
    output = model(input_ids, labels=labels)
    items = model.model.embeddings.items.weight[1:]
    losses = []
    for user, column in (labels != -100).nonzero().tolist():
        scores = F.cosine_similarity(output.last_hidden_state[user, column], items) / 0.25
        losses.append(F.cross_entropy(scores, labels[user, column] - 1).item())
    assert output.loss.item() == pytest.approx(sum(losses) / 5, rel=1e-5)
    user_scores = model.user_states(input_ids) @ model.item_embeddings.T
    torch.testing.assert_close(user_scores[1], scores)


def test_initial_weights():
    block = make_model(hidden_size=64, max_history=200, initializer_range=0.02).model.blocks[1]
    assert block.projection.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert block.relative_bias.std().item() == pytest.approx(0.02, rel=0.2)
    assert block.output.weight.std().item() == pytest.approx(0.125, rel=0.1)  # Glorot's, sqrt(2 / (64 + 64))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_temperature_is_positive(temperature):
    with pytest.raises(StrictDataclassClassValidationError, match="temperature"):
        HSTUConfig(temperature=temperature)


def test_a_longer_history_is_an_error():
    with pytest.raises(ValueError, match="8 columns, the model reads 7"):
        make_model()(torch.ones(1, 8, dtype=torch.long))


def test_dropout_of_the_embeddings_alone():
    model = make_model(hidden_dropout=0.0, embedding_dropout=0.5).train()
    history = torch.tensor([[1, 2, 3]])
    dropped = model.model.embeddings(history, torch.ones(1, 3)).eq(0)
    assert 0 < dropped.sum() < dropped.numel()
    assert [block.dropout.p for block in model.model.blocks] == [0.0, 0.0]
    assert make_model(hidden_dropout=0.25).model.embeddings.dropout.p == 0.25


@pytest.mark.parametrize("values", [{"head_size": 0}, {"embedding_dropout": 1.0}])
def test_sizes_of_blocks_are_checked(values):
    with pytest.raises(StrictDataclassClassValidationError, match=next(iter(values))):
        HSTUConfig(**values)
