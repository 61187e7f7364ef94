"""FDSA: both streams and the attention of fields against loops; what is scored; fields that an item lacks."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError

from modeling_utgrec import FDSAConfig, FDSAForNextItem

NUM_ITEMS, SIZES = 12, [4, 3]
TINY = {"num_items": NUM_ITEMS, "hidden_size": 8, "inner_size": 10, "max_history": 6, "initializer_range": 0.3}
HISTORY = torch.tensor([[0, 3, 4, 9]])


def make_model(features="fields", **config):
    torch.manual_seed(0)
    own = {"field_sizes": SIZES, "values_per_field": 2} if features == "fields" else {"content_size": 5}
    model = FDSAForNextItem(FDSAConfig(**{**TINY, **own, "features": features, **config})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    if features == "text":
        return model.set_items(content=torch.randn(NUM_ITEMS, 5))
    values = torch.stack([torch.randint(1, size + 1, (NUM_ITEMS, 2)) for size in SIZES], dim=1)
    values[2, 0, 1] = 0  # one category
    values[3] = 0  # neither category nor brand
    values[4, 1] = 0
    return model.set_items(values=values)


def norm(x, layer):
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-12).sqrt()
    return x * layer.weight.double() + layer.bias.double()


def linear(x, layer):
    return x @ layer.weight.double().T + layer.bias.double()


def block_by_loops(x, block, heads=2):
    """A post-norm block on one history, in float64, row by row."""
    query, key, value = (
        linear(x, layer) for layer in (block.attention.query, block.attention.key, block.attention.value)
    )
    size = x.shape[1] // heads
    rows = []
    for row in range(len(x)):
        parts = []
        for head in (slice(number * size, (number + 1) * size) for number in range(heads)):
            scores = torch.stack([query[row, head] @ key[column, head] / size**0.5 for column in range(row + 1)])
            weights = scores.exp() / scores.exp().sum()
            parts.append(sum(weight * value[column, head] for column, weight in enumerate(weights)))
        rows.append(torch.cat(parts))
    x = norm(x + linear(torch.stack(rows), block.attention.output), block.attention_norm)
    inner = linear(x, block.inner)
    inner = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
    return norm(x + linear(inner, block.outer), block.feed_forward_norm)


@torch.no_grad()
def test_both_streams_against_loops():
    model = make_model("text")
    network = model.model
    items = [3, 4, 9]
    positions = network.embeddings.positions.weight.double()[:3].flip(0)
    first = network.embeddings.items.weight.double()[items]
    content = network.features.content.double()[[item - 1 for item in items]]
    second = linear(content, network.features.adapter).clamp(min=0)
    first = norm(first + positions, network.embeddings.norm)
    second = norm(second + positions, network.feature_norm)
    for block, of_features in zip(network.blocks, network.feature_blocks, strict=True):
        first, second = block_by_loops(first, block), block_by_loops(second, of_features)
    expected = norm(linear(torch.cat([first, second], dim=1), network.output), network.output_norm)
    found = model(HISTORY).last_hidden_state[0, 1:].double()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)


@torch.no_grad()
def test_attention_of_fields_against_loops():
    features = make_model().model.features
    found = features.vectors().double()
    embeddings, starts = features.embeddings.weight.double(), [0, 5]
    for row in range(NUM_ITEMS):
        fields = []
        for field, start in enumerate(starts):
            present = [value for value in features.values[row, field].tolist() if value]
            vectors = [embeddings[start + value] for value in present] or [embeddings[start]]
            fields.append(sum(vectors) / len(vectors))
        scores = [linear(linear(each, features.inner).clamp(min=0), features.outer) for each in fields]
        weights = torch.cat(scores).softmax(0)
        expected = sum(weight * each for weight, each in zip(weights, fields, strict=True))
        torch.testing.assert_close(found[row], expected, rtol=1e-5, atol=1e-6)


def test_what_an_item_has_not_is_learned_and_padding_is_not_read():
    model = make_model(hidden_dropout=0.0, attention_dropout=0.0).train()
    model(HISTORY, labels=torch.tensor([[-100, 4, 9, 5]])).loss.backward()
    gradient = model.model.features.embeddings.weight.grad
    assert gradient[[0, 5]].abs().sum(1).gt(0).all(), "the vectors of none: item 4 has neither field"


def test_items_are_scored_by_their_ids_alone():
    model = make_model("text")
    expected = model.item_embeddings.clone()
    states = model.user_states(HISTORY)
    model.set_items(content=torch.randn(NUM_ITEMS, 5))
    assert torch.equal(model.item_embeddings, expected)
    assert torch.equal(expected, model.get_input_embeddings().weight[1:])
    assert (model.user_states(HISTORY) - states).abs().max() > 1e-3
    given = model.user_states(HISTORY, item_vectors=model.item_vectors())
    torch.testing.assert_close(given, model.user_states(HISTORY))


def test_a_step_makes_features_of_its_items_alone():
    model = make_model("text")
    shapes = []
    model.model.features.adapter.register_forward_hook(lambda _, given, __: shapes.append(given[0].shape[:-1]))
    labels = torch.tensor([[-100, 4, 9, 5]])
    loss = model(HISTORY, labels=labels).loss
    assert shapes == [HISTORY.shape]
    scores = model(HISTORY).last_hidden_state[0, 1:] @ model.item_embeddings.T
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(scores, labels[0, 1:] - 1))


def test_no_weights_are_shared_between_places():
    model = make_model("text")
    norms = {id(each) for each in (model.model.embeddings.norm, model.model.feature_norm, model.model.output_norm)}
    assert len(norms) == 3
    assert sum("positions" in key for key, _ in model.named_parameters()) == 1


@pytest.mark.parametrize("value", [[[9, 0], [1, 1]], [[1, 1], [4, 0]], [[-1, 0], [1, 1]]])
def test_values_that_there_are_not(value):
    values = torch.ones(NUM_ITEMS, 2, 2, dtype=torch.long)
    values[5] = torch.tensor(value)
    with pytest.raises(ValueError, match=r"whole numbers from 1 to \[4, 3\], 0 for none"):
        make_model().set_items(values=values)


@pytest.mark.parametrize("values", [{"features": "fields"}, {"content_size": 0}, {"field_sizes": [3, 0]}])
def test_contradictions_are_named(values):
    with pytest.raises(StrictDataclassClassValidationError, match=next(iter(values))):
        FDSAConfig(**values)
