"""Sequential baselines by name: their configurations, and their training from interactions."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from modeling_utgrec import MISSRecConfig, MISSRecForNextItem, S3RecConfig
from trainers.data.interactions import Interactions
from trainers.data.item_attributes import ItemAttributes
from trainers.methods.item_tables import Content, ItemTables
from trainers.methods.published import ForeignArgument
from trainers.methods.sequential import SequentialArguments, new_sequential, published_mask_ratio, train_sequential
from trainers.methods.sequential_methods import SEQUENTIAL
from trainers.runtime.callbacks import TimeLimitCallback
from trainers.sequential_trainer import SequentialTrainer, SequentialTrainingArguments

SMALL = {"codebook_size": 4, "num_groups": 2}  # of methods that quantize


def made_of(name, num_items=7, width=6, seed=0) -> ItemTables:
    """What the items of a baseline are made from, as its `tables` makes it of random content."""
    method = SEQUENTIAL[name]
    if method.tables is None:
        return ItemTables()
    rng = np.random.default_rng(seed)
    text = Content(rng.normal(size=(num_items, width)).astype(np.float32), "random")
    ids = [f"i{row}" for row in range(num_items)]
    interactions = Interactions.from_sequences([ids, ids[::-1]], ids)
    brands = [np.array([row % 3]) for row in range(num_items)]
    attributes = ItemAttributes({"brand": ["x", "y", "z"]}, {"brand": brands})
    return method.tables(
        interactions, {"text": text, "images": text, "attributes": attributes}, {**method.variant, **SMALL}, seed
    )


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_a_row_is_a_model(name):
    method = SEQUENTIAL[name]
    items = made_of(name)
    model = new_sequential(name, 7, SequentialArguments(hidden_size=8), 3, items)
    assert type(model) is method.model_class and type(model.config) is method.config_class
    assert (model.config.num_items, model.config.hidden_size, model.config.max_history) == (7, 8, 20)
    default = method.config_class()
    assert model.config.num_layers == default.num_layers and model.config.hidden_dropout == default.hidden_dropout
    again = new_sequential(name, 7, SequentialArguments(hidden_size=8), 3, items)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    other = new_sequential(name, 7, SequentialArguments(hidden_size=8), 4, items)
    if method.model_class is MISSRecForNextItem:  # whose score is no dot product
        assert not torch.equal(model.candidates().vectors, other.candidates().vectors)
    else:
        assert not torch.equal(model.item_embeddings, other.item_embeddings)


def test_variants_and_arguments():
    assert new_sequential("sasrec-bce", 5, SequentialArguments(), 0).config.loss == "bce"
    assert new_sequential("sasrec-bce", 5, SequentialArguments(loss="ce"), 0).config.loss == "ce"
    arguments = SequentialArguments(hidden_dropout=0.1, own=["alpha=0.25", "num_low_frequencies=3"])
    config = new_sequential("bsarec", 5, arguments, 0).config
    assert (config.hidden_dropout, config.alpha, config.num_low_frequencies) == (0.1, 0.25, 3)
    own = SequentialArguments(own=["fusion=mean", "history_fusion=stack", "initializer_range=1e-2"])
    assert own.architecture(MISSRecConfig) == {
        "max_history": 20,
        "fusion": "mean",
        "history_fusion": "stack",
        "initializer_range": 0.01,
    }
    assert SequentialArguments(own=["two_sigmoids=true"]).architecture(S3RecConfig)["two_sigmoids"] is True
    for given, said in (
        ("alpha=0.5", "SASRecConfig has no 'alpha'"),
        ("num_layers", "give name=value"),
        ("num_layers=two", "num_layers=two of SASRecConfig: .*expected int"),
        ("loss=mse", r"loss=mse of SASRecConfig: .*'ce'"),
    ):
        with pytest.raises(ForeignArgument, match=said):
            new_sequential("sasrec", 5, SequentialArguments(own=[given]), 0)


def test_it_learns_from_the_training_part_alone(domains, tmp_path):
    domain = domains[0]
    training = SequentialTrainingArguments(str(tmp_path), num_train_epochs=1, use_cpu=True, report_to=[], seed=1)
    arguments = SequentialArguments(hidden_size=8)
    trainer = train_sequential("sasrec", domain, arguments, training)
    part = domain.interactions.training_part()
    assert trainer.train_dataset.items.tolist() == part.items.tolist()
    assert len(part.items) < len(domain.interactions.items)
    assert not [each for each in trainer.callback_handler.callbacks if isinstance(each, TimeLimitCallback)]
    assert trainer.card_facts["name"] == f"SASRec for {domain.name}" and trainer.domain == domain.name


def test_published_mask_ratios():
    found = [published_mask_ratio(name) for name in ("beauty", "Steam", "ml-1m", "ML_20M", "ml100k", "office")]
    assert found == [0.6, 0.4, 0.2, 0.2, None, None]


@pytest.mark.parametrize(
    ("data", "given", "expected"),
    [("beauty", {}, 0.6), ("beauty", {"mask_ratio": 0.3}, 0.3), ("beauty", {"own": ["mask_ratio=0.3"]}, 0.3),
     ("office", {}, 0.2)],
)  # fmt: skip
def test_bert4rec_masks_as_published_for_the_data(domains, tmp_path, data, given, expected):
    training = SequentialTrainingArguments(str(tmp_path), max_steps=1, use_cpu=True, report_to=[])
    arguments = SequentialArguments(hidden_size=8, **given)
    trainer = train_sequential("bert4rec", replace(domains[0], name=data), arguments, training)
    assert trainer.model.config.mask_ratio == expected


def test_gradients_are_not_clipped(domains, tmp_path):
    training = SequentialTrainingArguments(
        str(tmp_path), max_steps=1, use_cpu=True, report_to=[], optim="sgd", learning_rate=1e3
    )
    model = new_sequential("gru4rec", domains[0].interactions.num_items, SequentialArguments(hidden_size=8), 0)
    before = model.item_embeddings.detach().clone()
    SequentialTrainer(model, training, domains[0].interactions.training_part()).train()
    step = float((model.item_embeddings - before).detach().norm()) / 1e3
    clipped = replace(training, max_grad_norm=step / 10)
    again = new_sequential("gru4rec", domains[0].interactions.num_items, SequentialArguments(hidden_size=8), 0)
    SequentialTrainer(again, clipped, domains[0].interactions.training_part()).train()
    assert 0 < (again.item_embeddings - before).norm() / 1e3 <= step / 10 * 1.001


def test_its_time_is_limited(domains, tmp_path):
    training = SequentialTrainingArguments(str(tmp_path), max_steps=1, use_cpu=True, report_to=[])
    arguments = SequentialArguments(hidden_size=8)
    trainer = train_sequential("sasrec", domains[0], arguments, training, minutes=2)
    assert [each.seconds for each in trainer.callback_handler.callbacks if isinstance(each, TimeLimitCallback)] == [
        120
    ]


def test_a_stage_before_is_a_training_of_its_own(domains, tmp_path):
    """Of what the fine-tuning is given, S3-Rec's pre-training has neither length nor validation nor checkpoint."""
    domain = domains[0]
    brands = [np.array([row % 3]) for row in range(domain.interactions.num_items)]
    inputs = {"attributes": ItemAttributes({"brand": ["x", "y", "z"]}, {"brand": brands})}
    arguments = SequentialArguments(hidden_size=8, num_layers=1, pretraining_epochs=2)

    def train(folder, **changes):
        values = dict(max_steps=4, eval_strategy="steps", save_strategy="steps", eval_steps=2, save_steps=2)
        values |= dict(load_best_model_at_end=True, eval_on_start=True, use_cpu=True, report_to=[], disable_tqdm=True)
        training = SequentialTrainingArguments(str(tmp_path / folder), **values, **changes)
        trainer = train_sequential("s3-rec", domain, arguments, training, inputs=inputs)
        return trainer.model.state_dict()

    whole = train("whole")
    assert [path.name for path in (tmp_path / "whole-pretraining").glob("checkpoint-*")] == ["checkpoint-2"]  # epochs
    resumed = train("resumed", resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert not (tmp_path / "resumed-pretraining").exists()
    assert all(torch.equal(resumed[name], weights) for name, weights in whole.items())
