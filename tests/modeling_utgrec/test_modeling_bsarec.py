"""BSARec: the frequency layer against an explicit Fourier matrix, how the block mixes, configuration."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassClassValidationError

from modeling_utgrec.configuration_bsarec import BSARecConfig
from modeling_utgrec.modeling_bsarec import BSARecBlock, BSARecForNextItem, FrequencyRescaler
from modeling_utgrec.modeling_sequential import causal_mask

TINY = {"num_items": 20, "hidden_size": 8, "num_heads": 2, "max_history": 7, "num_low_frequencies": 3}


def make_model(**config) -> BSARecForNextItem:
    torch.manual_seed(0)
    return BSARecForNextItem(BSARecConfig(**{**TINY, "initializer_range": 0.5, **config})).eval()


def low_pass_matrix(length: int, components: int) -> np.ndarray:
    """Fourier transform, all but the lowest `components` frequencies set to zero, and back: one real matrix."""
    time = np.arange(length)
    forward = np.exp(-2j * np.pi * np.outer(time, time) / length)
    signed = np.where(time <= length / 2, time, time - length)
    kept = np.diag(np.abs(signed) <= components // 2)
    matrix = forward.conj().T @ kept @ forward / length
    assert np.abs(matrix.imag).max() < 1e-12
    return matrix.real


@pytest.mark.parametrize(("length", "components"), [(7, 1), (7, 3), (8, 3), (8, 7), (8, 8), (20, 5), (1, 1)])
def test_low_pass_is_a_projection_on_the_lowest_frequencies(length, components):
    config = BSARecConfig(hidden_size=3, max_history=length, num_low_frequencies=components)
    layer = FrequencyRescaler(config).double().eval()
    states = np.random.default_rng(0).normal(size=(2, length, 3))
    matrix = low_pass_matrix(length, components)
    low = np.einsum("ts,bsd->btd", matrix, states)
    torch.testing.assert_close(layer.low_pass(torch.from_numpy(states)), torch.from_numpy(low))
    if components % 2 and components < length:
        assert np.linalg.matrix_rank(matrix) == components  # the paper's c counts both signs of a frequency

    with torch.no_grad():
        layer.sqrt_beta.copy_(torch.tensor([0.0, 1.0, -2.0]))
    rescaled = low + np.array([0.0, 1.0, 4.0]) * (states - low)
    expected = F.layer_norm(torch.from_numpy(states + rescaled), (3,))
    torch.testing.assert_close(layer(torch.from_numpy(states)).detach(), expected)


def test_low_pass_is_in_single_precision_under_autocast():
    layer = FrequencyRescaler(BSARecConfig(hidden_size=3, max_history=8, num_low_frequencies=3))
    states = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = layer.low_pass(states)
    expected = torch.einsum("ts,bsd->btd", torch.from_numpy(low_pass_matrix(8, 3)), states.double())
    torch.testing.assert_close(low, expected.float(), rtol=1e-5, atol=1e-5)


def test_alpha_mixes_frequencies_and_attention():
    """Attention computed by loops, no position reading a later one or padding."""
    torch.manual_seed(0)
    block = BSARecBlock(BSARecConfig(**TINY, alpha=0.3, initializer_range=0.5)).double().eval()
    states = torch.randn(1, 7, 8, dtype=torch.float64)
    attention_mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1]])
    layer = block.attention
    query, key, value = layer.query(states)[0], layer.key(states)[0], layer.value(states)[0]
    attended = torch.zeros(7, 8, dtype=torch.float64)
    for column in range(2, 7):
        for head in (slice(0, 4), slice(4, 8)):
            weights = [(query[column, head] @ key[other, head] / 2).exp() for other in range(2, column + 1)]
            for weight, other in zip(weights, range(2, column + 1), strict=True):
                attended[column, head] += weight / sum(weights) * value[other, head]
    attended = F.layer_norm(states[0] + layer.output(attended), (8,))
    mixed = 0.3 * block.rescaler(states)[0] + 0.7 * attended
    inner = F.gelu(block.feed_forward.inner(mixed))
    expected = F.layer_norm(mixed + block.feed_forward.outer(inner), (8,))
    found = block(states, causal_mask(attention_mask))[0]
    torch.testing.assert_close(found[2:], expected[2:])


def authors_states(model: BSARecForNextItem, history: list[int]) -> np.ndarray:
    """All columns as the authors' program has them, in numpy: padding is embedded and attends like any other column,
    and what may not be read loses 10,000 from its score, so that a row that may read nothing reads everything."""
    config, weights = model.config, {name: value.numpy() for name, value in model.model.state_dict().items()}
    length, heads = config.max_history, config.num_heads

    def linear(name, values):
        return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name, values):
        centred = values - values.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    tokens = np.array([0] * (length - len(history)) + history)
    positions = weights["embeddings.positions.weight"][::-1]  # the last column has the first
    states = norm("embeddings.norm", weights["embeddings.items.weight"][tokens] + positions)
    readable = np.tril(np.ones((length, length))) * (tokens > 0)
    for block in (f"blocks.{number}" for number in range(config.num_layers)):
        low = low_pass_matrix(length, config.num_low_frequencies) @ states
        high = weights[f"{block}.rescaler.sqrt_beta"] ** 2 * (states - low)
        filtered = norm(f"{block}.rescaler.norm", states + low + high)
        query, key, value = (
            linear(f"{block}.attention.{name}", states).reshape(length, heads, -1)
            for name in ("query", "key", "value")
        )
        scores = np.einsum("qhd,khd->hqk", query, key) / np.sqrt(query.shape[-1]) - 10_000 * (1 - readable)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        attended = np.einsum("hqk,khd->qhd", shares, value).reshape(length, -1)
        attended = norm(f"{block}.attention_norm", states + linear(f"{block}.attention.output", attended))
        mixed = config.alpha * filtered + (1 - config.alpha) * attended
        inner = F.gelu(torch.from_numpy(linear(f"{block}.feed_forward.inner", mixed))).numpy()
        states = norm(f"{block}.feed_forward.norm", mixed + linear(f"{block}.feed_forward.outer", inner))
    return states


@pytest.mark.parametrize("history", [[4, 5, 6], [4], [1, 2, 3, 4, 5, 6, 7]])
def test_padding_is_as_in_the_authors_program(history):
    model = make_model().double()
    input_ids = torch.tensor([[0] * (7 - len(history)) + history])
    with torch.no_grad():
        found = model(input_ids).last_hidden_state[0].numpy()
        zeros = make_model(padding="zeros").double()(input_ids).last_hidden_state[0].numpy()
    np.testing.assert_allclose(found, authors_states(model, history), rtol=1e-9, atol=1e-9)
    # padding matters at the column that recommends
    assert np.allclose(zeros[-1], found[-1]) == (len(history) == 7)


def test_earlier_configurations_keep_their_padding(tmp_path):
    assert BSARecConfig().padding == "positions"
    values = BSARecConfig().to_dict()
    assert BSARecConfig.from_dict(values).padding == "positions"
    del values["padding"]
    assert BSARecConfig.from_dict(values).padding == "zeros"
    BSARecConfig().save_pretrained(tmp_path)
    assert BSARecConfig.from_pretrained(tmp_path).padding == "positions"


def test_blocks_read_the_whole_window():
    """With zeros for padding: the other columns are the layer norm of item and position."""
    model = make_model(padding="zeros")
    received = []
    model.model.blocks[0].register_forward_pre_hook(lambda module, inputs: received.append(inputs[0]))
    model.user_states(torch.tensor([[4, 5], [0, 5]]))
    (states,) = received
    assert states.shape == (2, 7, 8)
    assert (states == 0).all(dim=-1).sum(dim=1).tolist() == [5, 6]
    items, positions = model.model.embeddings.items.weight, model.model.embeddings.positions.weight
    torch.testing.assert_close(states[0, 5], F.layer_norm(items[4] + positions[1], (8,)))
    torch.testing.assert_close(states[:, 6], F.layer_norm(items[5] + positions[0], (8,)).expand(2, 8))


def test_only_the_last_position_predicts():
    """The frequency layers tell earlier positions of later items, so a label there could be read off the input. With
    attention alone (alpha 0) they would not."""
    assert BSARecForNextItem.training_targets == "last"
    for alpha, causal in ((0.7, False), (0.0, True)):
        model = make_model(alpha=alpha)
        before = model(torch.tensor([[4, 5, 6]])).last_hidden_state
        after = model(torch.tensor([[4, 5, 7]])).last_hidden_state
        assert torch.allclose(before[:, :2], after[:, :2], atol=1e-5) == causal


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    input_ids = torch.tensor([[0, 4, 5], [1, 2, 3]])
    expected = make_model().user_states(input_ids)
    found = make_model().to(dtype).user_states(input_ids)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, atol=0.1, rtol=0.1)


def test_factors_start_around_one():
    model = make_model(hidden_size=512, num_layers=1)
    assert model.model.blocks[0].rescaler.sqrt_beta.square().mean().item() == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 1.1}, "alpha"),
        ({"alpha": -0.1}, "alpha"),
        ({"num_low_frequencies": 0}, r"1\.\.50"),
        ({"num_low_frequencies": 8, "max_history": 7}, r"1\.\.7"),
        ({"num_heads": 3}, "num_heads"),
    ],
)
def test_config_contradictions(arguments, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        BSARecConfig(**arguments)


def test_a_longer_history_is_an_error():
    with pytest.raises(ValueError, match="8 columns, the model reads 7"):
        make_model()(torch.ones(1, 8, dtype=torch.long))
