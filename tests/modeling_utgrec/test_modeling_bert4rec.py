"""BERT4Rec: masks, both directions, the output layer; what all models share is in test_modeling_sequential.py."""

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassClassValidationError

from modeling_utgrec import BERT4RecConfig, BERT4RecForNextItem

NUM_ITEMS, WIDTH = 20, 8


@pytest.fixture
def model() -> BERT4RecForNextItem:
    torch.manual_seed(0)
    config = BERT4RecConfig(num_items=NUM_ITEMS, hidden_size=WIDTH, max_history=5, initializer_range=0.4)
    model = BERT4RecForNextItem(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    return model


def test_vocabulary_ends_with_the_mask(model):
    config = model.config
    assert (config.vocab_size, config.mask_token_id) == (NUM_ITEMS + 2, NUM_ITEMS + 1)
    assert model.get_input_embeddings().weight.shape == (NUM_ITEMS + 2, WIDTH)
    assert model.item_embeddings.shape == (NUM_ITEMS, WIDTH) and model.item_bias.shape == (NUM_ITEMS,)
    assert torch.equal(model.item_embeddings[-1], model.get_input_embeddings().weight[NUM_ITEMS])


def test_bias_starts_at_zero_and_survives_loading(tmp_path, model):
    assert BERT4RecForNextItem(BERT4RecConfig(num_items=3)).bias.tolist() == [0, 0, 0]
    model.save_pretrained(tmp_path)
    assert torch.equal(BERT4RecForNextItem.from_pretrained(tmp_path).bias, model.bias)


def test_history_is_scored_by_an_appended_mask(model):
    history, mask = [4, 9, 2], model.config.mask_token_id
    states = model(torch.tensor([[0, *history, mask]])).last_hidden_state[0, -1]
    expected = F.gelu(model.transform.weight @ states + model.transform.bias)
    torch.testing.assert_close(model.user_states(torch.tensor([history]))[0], expected)


def test_it_reads_both_directions(model):
    mask = model.config.mask_token_id
    first, second = (model(torch.tensor([[4, mask, last]])).last_hidden_state[0, 1] for last in (5, 6))
    assert (first - second).abs().max() > 1e-3


def test_positions_agree_in_training_and_use(model):
    """A mask at the end of a training window stands where the one that recommends stands."""
    mask = model.config.mask_token_id
    labels = torch.tensor([[-100, -100, -100, 7]])
    loss = model(torch.tensor([[4, 9, 2, mask]]), labels=labels).loss
    scores = model.user_states(torch.tensor([[4, 9, 2]])) @ model.item_embeddings.T + model.item_bias
    torch.testing.assert_close(loss, F.cross_entropy(scores, torch.tensor([6])))


def test_a_full_history_leaves_room_for_the_mask(model):
    assert model.user_states(torch.ones(1, 5, dtype=torch.long)).shape == (1, WIDTH)
    with pytest.raises(ValueError, match="7 columns, the model reads 6"):
        model.user_states(torch.ones(1, 6, dtype=torch.long))


@pytest.mark.parametrize("name", ["mask_ratio", "last_item_ratio"])
def test_shares_outside_of_the_unit_interval_are_errors(name):
    with pytest.raises(StrictDataclassClassValidationError, match=name):
        BERT4RecConfig(**{name: 1.5})
