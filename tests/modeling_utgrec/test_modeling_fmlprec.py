"""FMLP-Rec: the filter against a circular convolution, the window, the positions that may predict."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modeling_utgrec.configuration_fmlprec import FMLPRecConfig
from modeling_utgrec.modeling_fmlprec import FilterLayer, FMLPRecForNextItem, whole_window

TINY = {"num_items": 20, "hidden_size": 8, "max_history": 7}


def make_model(**config) -> FMLPRecForNextItem:
    torch.manual_seed(0)
    return FMLPRecForNextItem(FMLPRecConfig(**{**TINY, "initializer_range": 0.5, **config})).eval()


@pytest.mark.parametrize("length", [1, 2, 7, 8])
def test_filter_is_a_circular_convolution(length):
    """The same result without any Fourier transform of the states: with the filter's impulse response, column by
    column."""
    layer = FilterLayer(FMLPRecConfig(hidden_size=3, max_history=length)).double().eval()
    rng = np.random.default_rng(0)
    frequencies = length // 2 + 1
    filters = rng.normal(size=(frequencies, 3, 2))
    states = rng.normal(size=(2, length, 3))
    with torch.no_grad():
        layer.filter.copy_(torch.from_numpy(filters))
    found = layer(torch.from_numpy(states)).detach()

    response = np.zeros((length, 3))
    for time in range(length):
        for frequency in range(frequencies):
            # every frequency but the mean and the highest of an even length stands for its negative, too
            signs = 1 if frequency == 0 or 2 * frequency == length else 2
            angle = 2 * np.pi * frequency * time / length
            real, imaginary = filters[frequency].T
            # a wave with one sign only has no sine at the columns: its imaginary part does nothing
            response[time] += signs * (np.cos(angle) * real - np.sin(angle) * imaginary) / length
    filtered = np.zeros_like(states)
    for column in range(length):
        for source in range(length):
            filtered[:, column] += response[(column - source) % length] * states[:, source]
    expected = F.layer_norm(torch.from_numpy(states + filtered), (3,))
    torch.testing.assert_close(found, expected)


def test_filter_of_ones_changes_nothing():
    layer = FilterLayer(FMLPRecConfig(**TINY)).eval()
    with torch.no_grad():
        layer.filter.copy_(torch.tensor([1.0, 0.0]).expand_as(layer.filter))
    states = torch.randn(2, 7, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(states), F.layer_norm(2 * states, (8,)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    input_ids = torch.tensor([[0, 4, 5], [1, 2, 3]])
    expected = make_model().user_states(input_ids)
    found = make_model().to(dtype).user_states(input_ids)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, atol=0.1, rtol=0.1)


def test_window_is_filled_on_the_left():
    input_ids, mask = whole_window(torch.tensor([[0, 4]]), torch.tensor([[False, True]]), 4)
    assert input_ids.tolist() == [[0, 0, 0, 4]]
    assert mask.tolist() == [[False, False, False, True]]


@pytest.mark.parametrize("padding", ["positions", "zeros"])
def test_whole_model_by_hand(padding):
    """With NumPy's full transform; columns without item are their positions, as in the authors' program, or zeros."""
    model = make_model(num_layers=2, padding=padding).double()
    weights = {name: weight.numpy() for name, weight in model.model.state_dict().items()}
    states = np.zeros((7, 8))
    for column, token in enumerate([0, 0, 0, 0, 0, 4, 5]):
        position = weights["embeddings.positions.weight"][6 - column]
        if token or padding == "positions":
            states[column] = normalise(weights["embeddings.items.weight"][token] + position)
    for layer in range(2):
        half = weights[f"blocks.{layer}.0.filter"] @ [1, 1j]
        both_signs = np.concatenate([half[:1].real, half[1:], half[:0:-1].conj()])
        filtered = np.fft.ifft(np.fft.fft(states, axis=0) * both_signs, axis=0)
        assert np.abs(filtered.imag).max() < 1e-12
        states = normalise(states + filtered.real)
        inner, outer = (
            (weights[f"blocks.{layer}.1.{name}.weight"], weights[f"blocks.{layer}.1.{name}.bias"])
            for name in ("inner", "outer")
        )
        hidden = F.gelu(torch.from_numpy(states @ inner[0].T + inner[1])).numpy()
        states = normalise(states + hidden @ outer[0].T + outer[1])
    found = model(torch.tensor([[4, 5]])).last_hidden_state[0].detach()
    torch.testing.assert_close(found, torch.from_numpy(states[5:]))


def test_earlier_configurations_keep_their_padding(tmp_path):
    values = FMLPRecConfig().to_dict()
    assert values.pop("padding") == "positions" and FMLPRecConfig.from_dict(values).padding == "zeros"
    FMLPRecConfig().save_pretrained(tmp_path)
    assert FMLPRecConfig.from_pretrained(tmp_path).padding == "positions"


def normalise(states: np.ndarray) -> np.ndarray:
    return (states - states.mean(-1, keepdims=True)) / np.sqrt(states.var(-1, keepdims=True) + 1e-5)


def test_filters_start_small():
    model = make_model(initializer_range=0.02, max_history=99)
    assert model.model.blocks[1][0].filter.std().item() == pytest.approx(0.02, rel=0.1)


def test_only_the_last_position_predicts():
    """States of earlier positions depend on later items, so a label there could be read off the input."""
    assert FMLPRecForNextItem.training_targets == "last"
    model = make_model()
    before = model(torch.tensor([[4, 5, 6]])).last_hidden_state
    after = model(torch.tensor([[4, 5, 7]])).last_hidden_state
    assert not torch.allclose(before[:, 0], after[:, 0], atol=1e-3)


def test_every_item_of_the_window_matters():
    model = make_model()
    history = torch.arange(1, 8)[None]
    expected = model.user_states(history)
    for column in range(7):
        changed = history.clone()
        changed[0, column] = 15
        assert not torch.allclose(model.user_states(changed), expected, atol=1e-4), column


def test_a_longer_history_is_an_error():
    with pytest.raises(ValueError, match="8 columns, the model reads 7"):
        make_model()(torch.ones(1, 8, dtype=torch.long))
