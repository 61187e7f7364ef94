"""Sequential models as rankers."""

import numpy as np
import pytest
import torch

from modeling_utgrec import (
    BERT4RecConfig,
    BERT4RecForNextItem,
    SASRecConfig,
    SASRecForNextItem,
    UniSRecConfig,
    UniSRecForNextItem,
)
from trainers.rankers.sequential import SequentialRanker

NUM_ITEMS = 15
HISTORIES = [np.array([3]), np.arange(9), np.array([5, 1]), np.array([2, 2])]


def make_model(kind, config):
    torch.manual_seed(0)
    return kind(config(num_items=NUM_ITEMS, hidden_size=8, max_history=4, initializer_range=0.5))


@pytest.mark.parametrize("kind", [(SASRecForNextItem, SASRecConfig), (BERT4RecForNextItem, BERT4RecConfig)])
def test_ranks_by_score_without_excluded_items(kind):
    model = make_model(*kind).train()
    if model.item_bias is not None:
        torch.nn.init.normal_(model.bias)
    ranker = SequentialRanker(model, batch_size=3)
    assert ranker.max_history == 4
    exclude = [np.array([3]), np.arange(12), np.array([], int), np.array([2, 7])]
    ranked, without = ranker.rank(HISTORIES, NUM_ITEMS), ranker.rank(HISTORIES, 5, exclude)
    assert model.training and model.model.training  # dropout is off in ranking only
    model.eval()
    for user, history in enumerate(HISTORIES):
        tokens = torch.from_numpy(history[-4:] + 1)[None]
        scores = (model.user_states(tokens) @ model.item_embeddings.T)[0]
        scores = scores if model.item_bias is None else scores + model.item_bias
        best = scores.argsort(descending=True).tolist()
        assert ranked[user].tolist() == best
        expected = [row for row in best if row not in exclude[user]][:5]
        assert without[user].tolist() == expected + [-1] * (5 - len(expected))


def test_modes_of_frozen_parts_are_restored():
    model = make_model(SASRecForNextItem, SASRecConfig).train()
    model.model.blocks[0].eval()
    SequentialRanker(model).rank(HISTORIES, 3)
    assert model.training and not model.model.blocks[0].training and model.model.blocks[1].training


def test_training_goes_on_after_ranking():
    model = make_model(SASRecForNextItem, SASRecConfig)
    SequentialRanker(model).rank(HISTORIES, 3)
    loss = model(torch.tensor([[1, 2]]), labels=torch.tensor([[2, 3]])).loss
    loss.backward()
    assert model.get_input_embeddings().weight.grad.abs().sum() > 0


def test_histories_outside_of_the_catalogue_are_named():
    ranker = SequentialRanker(make_model(SASRecForNextItem, SASRecConfig))
    with pytest.raises(ValueError, match="item row 15"):
        ranker.rank([np.array([15])], 3)


def test_items_are_made_from_content_once_for_all_users():
    model = UniSRecForNextItem(UniSRecConfig(num_items=9, content_size=4, hidden_size=8, max_history=5))
    model.set_items(content=torch.randn(9, 4))
    calls = []
    model.model.embeddings.items.experts.register_forward_hook(lambda *_: calls.append(1))
    ranker = SequentialRanker(model, batch_size=2)
    histories = [np.array([row, row + 1]) for row in range(7)]
    ranked = ranker.rank(histories, 9)
    assert len(calls) == 1
    scores = model.eval().user_states(torch.tensor([[row + 1, row + 2] for row in range(7)])) @ model.item_embeddings.T
    np.testing.assert_array_equal(ranked, scores.argsort(1, descending=True).numpy())
