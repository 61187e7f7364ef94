"""GRU4Rec against the recurrence written out; what all sequential models share is in test_modeling_sequential.py."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError

from modeling_utgrec import GRU4RecConfig, GRU4RecForNextItem


def make_model(**config) -> GRU4RecForNextItem:
    torch.manual_seed(0)
    sizes = {"num_items": 20, "hidden_size": 6, "state_size": 5, "initializer_range": 0.4}
    model = GRU4RecForNextItem(GRU4RecConfig(**{**sizes, **config})).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    return model


def test_states_equal_the_recurrence_step_by_step():
    model = make_model(num_layers=2)
    encoder, history = model.model, [3, 17, 3, 20]
    inputs = [encoder.embeddings.items.weight[token] for token in history]
    for layer in range(2):
        of_input, of_state, input_bias, state_bias = encoder.gru.all_weights[layer]
        state, outputs = torch.zeros(5, dtype=torch.float64), []
        for given in inputs:
            from_input = (of_input @ given + input_bias).chunk(3)
            from_state = (of_state @ state + state_bias).chunk(3)
            reset = torch.sigmoid(from_input[0] + from_state[0])
            update = torch.sigmoid(from_input[1] + from_state[1])
            candidate = torch.tanh(from_input[2] + reset * from_state[2])
            state = (1 - update) * candidate + update * state
            outputs.append(state)
        inputs = outputs
    expected = torch.stack([encoder.projection(state) for state in inputs])
    found = model(torch.tensor([[0, 0, *history], [1, 2, 3, 4, 5, 6]])).last_hidden_state[0, 2:]
    torch.testing.assert_close(found, expected)


def test_any_length_is_read():
    assert make_model(max_history=3).user_states(torch.arange(1, 11)[None]).shape == (1, 6)


def test_a_state_without_width_is_an_error():
    with pytest.raises(StrictDataclassClassValidationError, match="state_size"):
        GRU4RecConfig(state_size=0)
