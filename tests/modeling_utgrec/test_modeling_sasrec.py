"""SASRec against the paper's formulas; what all sequential models share is in test_modeling_sequential.py."""

import math

import pytest
import torch
import torch.nn.functional as F

from modeling_utgrec import SASRecConfig, SASRecForNextItem

WIDTH, HEADS = 8, 2


@pytest.fixture
def model() -> SASRecForNextItem:
    torch.manual_seed(0)
    config = SASRecConfig(num_items=20, hidden_size=WIDTH, num_heads=HEADS, max_history=6, initializer_range=0.4)
    model = SASRecForNextItem(config).double().eval()
    with torch.no_grad():  # norms and biases that start as identity would hide that they are used
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    return model


def test_defaults_are_the_papers():
    config = SASRecConfig(num_items=100)
    assert (config.num_layers, config.num_heads, config.hidden_size, config.hidden_dropout) == (2, 1, 64, 0.5)
    assert (config.max_history, config.vocab_size, config.loss) == (50, 101, "ce")


def test_states_equal_the_papers_formulas_position_by_position(model):
    history = [3, 17, 3, 20]
    encoder = model.model
    embeddings = encoder.embeddings
    length = len(history)
    states = [
        math.sqrt(WIDTH) * embeddings.items.weight[token] + embeddings.positions.weight[length - 1 - column]
        for column, token in enumerate(history)
    ]
    for block in encoder.blocks:
        attention = block.attention
        normed = [block.attention_norm(state) for state in states]
        attended = []
        for column in range(length):
            heads = []
            for head in range(HEADS):
                part = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
                query = attention.query(normed[column])[part]
                keys = torch.stack([attention.key(normed[other])[part] for other in range(column + 1)])
                values = torch.stack([attention.value(normed[other])[part] for other in range(column + 1)])
                heads.append(((keys @ query) / math.sqrt(WIDTH // HEADS)).softmax(0) @ values)
            attended.append(states[column] + attention.output(torch.cat(heads)))
        states = [state + block.outer(F.relu(block.inner(block.feed_forward_norm(state)))) for state in attended]
    expected = torch.stack([encoder.norm(state) for state in states])
    found = model(torch.tensor([[0, 0, *history]])).last_hidden_state[0, 2:]
    torch.testing.assert_close(found, expected)


def test_input_and_output_share_the_item_embeddings(model):
    assert model.item_embeddings.data_ptr() == model.model.embeddings.items.weight[1:].data_ptr()
    assert model.item_embeddings.shape == (20, WIDTH)
    assert model.item_bias is None


def test_a_longer_history_is_an_error(model):
    with pytest.raises(ValueError, match="7 columns, the model reads 6"):
        model(torch.ones(1, 7, dtype=torch.long))
