"""Sequential models as rankers."""

import ast

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
from trainers.data.interactions import Interactions
from trainers.rankers.sequential import SequentialRanker
from trainers.sequential_trainer import SequentialTrainer, SequentialTrainingArguments

NUM_ITEMS = 15
IDS = [f"sku-{row}" for row in range(NUM_ITEMS)]
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


def saved(folder, item_ids=IDS):
    """A recommender as a training leaves it, and its ranker in memory."""
    model = make_model(SASRecForNextItem, SASRecConfig).eval()
    interactions = Interactions.from_sequences([item_ids[:4], item_ids[3:8]], item_ids)
    trainer = SequentialTrainer(model, SequentialTrainingArguments(str(folder), use_cpu=True), interactions)
    trainer.save_model()
    return SequentialRanker(model)


def test_a_saved_recommender_knows_its_items(tmp_path):
    in_memory = saved(tmp_path / "model")
    assert in_memory.item_ids is None
    for given in (None, IDS):
        ranker = SequentialRanker.from_pretrained(tmp_path / "model", given)
        assert ranker.item_ids == IDS
        np.testing.assert_array_equal(ranker.rank(HISTORIES, NUM_ITEMS), in_memory.rank(HISTORIES, NUM_ITEMS))


def test_what_the_card_says_recommends_items_by_their_ids(tmp_path, monkeypatch, capsys):
    saved(tmp_path)
    monkeypatch.chdir(tmp_path)
    exec((tmp_path / "README.md").read_text().split("```python\n")[1].split("```")[0], {})
    said = ast.literal_eval(capsys.readouterr().out)
    assert len(said) == 10 and {*said} <= {*IDS}


def test_another_catalogue_of_as_many_items_is_refused(tmp_path):
    """Their rows would be taken for the model's."""
    saved(tmp_path / "model")
    for item_ids, said in (
        (IDS[::-1], "their order: their rows would be mistaken"),
        ([*IDS[:-2], "x", "a"], "2 are none of the model's, 'a', 'x'"),
        (IDS[:-1], "The model has 15 items, the catalogue 14"),
    ):
        with pytest.raises(ValueError, match=said):
            SequentialRanker.from_pretrained(tmp_path / "model", item_ids)
    (tmp_path / "model" / "item_ids.json").unlink()
    with pytest.raises(ValueError, match="not those that it was trained on in their order: their rows"):
        SequentialRanker.from_pretrained(tmp_path / "model", [*IDS[:-2], "x", "a"])
    assert SequentialRanker.from_pretrained(tmp_path / "model", IDS).item_ids == IDS
    with pytest.raises(ValueError, match=r"model has no item_ids.json: give item_ids"):
        SequentialRanker.from_pretrained(tmp_path / "model")


def test_ids_of_other_weights_or_broken_ones_are_named(tmp_path):
    saved(tmp_path / "model")
    saved(tmp_path / "other", IDS[::-1])
    for content, said in (
        ((tmp_path / "other" / "item_ids.json").read_bytes(), "item_ids.json was changed, or is of another model"),
        (b'["sku-1", ', "item_ids.json is truncated or not JSON"),
        (b"{}", "item_ids.json: expected a list of strings"),
    ):
        (tmp_path / "model" / "item_ids.json").write_bytes(content)
        with pytest.raises(ValueError, match=said):
            SequentialRanker.from_pretrained(tmp_path / "model", IDS)


def test_a_model_of_an_earlier_release_is_known_by_its_size_alone(tmp_path):
    make_model(SASRecForNextItem, SASRecConfig).save_pretrained(tmp_path)
    assert SequentialRanker.from_pretrained(tmp_path, IDS[::-1]).item_ids == IDS[::-1]
    with pytest.raises(ValueError, match="give item_ids"):
        SequentialRanker.from_pretrained(tmp_path)
