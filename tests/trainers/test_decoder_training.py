"""A decoder with the Trainer of recommenders: packed rows, validation, checkpoints, sampling over domains."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import set_seed

from hub_cards import load_values
from modeling_utgrec import RecBaseConfig, RecBaseForCausalLM, UTGRecConfig, UTGRecForConditionalGeneration
from tokenization_items.item_index import ItemIndex
from trainers import ranking_trainer
from trainers.data.interactions import Interactions
from trainers.methods import runs
from trainers.methods.runs import gathered_weights, save_recommender
from trainers.rankers.generative import GenerativeRanker, load_model
from trainers.recommender_trainer import EvaluationData, RecommenderTrainer, RecommenderTrainingArguments
from trainers.training_data.next_item_windows import NextItemWindows, TrainingData, ValidCodes
from trainers.training_data.packed_sequences import PackedCollator, PackedSequences

SIZES = [6, 6, 6]
NUM_ITEMS = 20


def make_interactions(num_users=150, num_items=NUM_ITEMS, prefix="item"):
    """Item i is followed by item i + 1: a model that learns that ranks the target first."""
    rng = np.random.default_rng(0)
    sequences = [(rng.integers(num_items) + np.arange(rng.integers(5, 16))) % num_items for _ in range(num_users)]
    ids = [f"{prefix}{row}" for row in range(num_items)]
    return Interactions.from_sequences([[ids[row] for row in sequence] for sequence in sequences], ids)


def make_model(seed=0, **config):
    set_seed(seed)
    sizes = dict(hidden_size=32, intermediate_size=64, head_dim=16, num_attention_heads=2)
    return RecBaseForCausalLM(RecBaseConfig.tiny(**{**sizes, "level_sizes": SIZES, **config}))


def make_data(interactions, seed=0):
    codes = np.random.default_rng(seed).permutation(6**3)[: interactions.num_items]
    index = ItemIndex(SIZES, RecBaseConfig(level_sizes=SIZES).level_offsets)
    index.assign(interactions.item_ids, np.stack(np.unravel_index(codes, SIZES), axis=1))
    return EvaluationData(interactions, index)


def make_args(folder, **changes):
    values = dict(per_device_train_batch_size=16, per_device_eval_batch_size=16, num_beams=10, max_history=5)
    values |= dict(save_strategy="no", disable_tqdm=True, use_cpu=True, logging_steps=1, seed=7)
    return RecommenderTrainingArguments(str(folder), dataloader_pin_memory=False, **{**values, **changes})


def make_trainer(folder, model=None, training=None, data=None, **changes):
    data = data or make_data(make_interactions())
    training = training or training_of(data)
    return RecommenderTrainer(model or make_model(), make_args(folder, **changes), training, data)


def training_of(data):
    return TrainingData(data.interactions.training_part(), data.token_table)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    trainer = make_trainer(folder, max_steps=250, learning_rate=0.01, logging_steps=50)
    trainer.train()
    trainer.save_model()
    return trainer, folder


# rows


@pytest.mark.parametrize("normalize_over", ["vocabulary", "items"])
def test_packed_users_train_as_users_apart(normalize_over, float32_tolerance):
    """The loss and every gradient of what the collator makes, against rows of one user each."""
    interactions = make_interactions(12)
    table = make_data(interactions).token_table
    model = make_model(normalize_over=normalize_over).double()
    valid = ValidCodes(table, SIZES, model.config.level_offsets) if normalize_over == "items" else None
    packed = PackedSequences(interactions, table, max_history=20, seed=3, with_targets=True)
    batch = PackedCollator(packed, valid)(range(len(packed)))
    assert len(packed) < 12 and batch["attention_mask"].max() > 1
    apart = {"input_ids": [], "labels": []} | ({"valid_codes": []} if valid else {})
    for user in range(12):
        rows = interactions.sequence(user)
        tokens = torch.from_numpy(table[rows])
        labels = tokens.clone()
        labels[0] = -100  # the first item has no history
        row = {"input_ids": tokens.flatten(), "labels": labels.flatten()}
        if valid:
            row["valid_codes"] = torch.from_numpy(valid(rows)).flatten(0, 1)
        for name in apart:
            apart[name].append(row[name])
    fills = {"input_ids": 0, "labels": -100, "valid_codes": True}
    apart = {
        name: torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=fills[name])
        for name, rows in apart.items()
    }
    loss, wanted = model(**batch).loss, model(**apart).loss
    # transformers' norms are in float32 whatever the model is in
    torch.testing.assert_close(loss, wanted, **float32_tolerance())
    found, expected = gradients(model, loss), gradients(model, wanted)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], **float32_tolerance(4, expected[name]), msg=name)


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 23), min_size=1, max_size=12).filter(lambda lengths: max(lengths) > 1),
    max_history=st.integers(1, 9),
    seed=st.integers(0, 3),
)
def test_every_item_but_the_first_is_a_target_once(lengths, max_history, seed):
    rng = np.random.default_rng(seed)
    ids = [str(item) for item in range(12)]
    sequences = [rng.integers(0, 12, length) for length in lengths]
    interactions = Interactions.from_sequences([[ids[item] for item in each] for each in sequences], ids)
    table = np.arange(2, 2 + 36).reshape(12, 3)
    packed = PackedSequences(interactions, table, max_history, seed, with_targets=True)
    batch = PackedCollator(packed)(range(len(packed)))
    inputs, numbers, labels = (
        batch[name].numpy().reshape(len(packed), -1, 3) for name in ("input_ids", "attention_mask", "labels")
    )
    assert inputs.shape[1] <= max_history + 1
    labelled = labels != -100
    assert (labels[labelled] == inputs[labelled]).all() and (labelled == labelled[..., :1]).all()
    pairs = []
    for row in range(len(packed)):
        for number in range(1, numbers[row].max() + 1):
            window = np.flatnonzero(numbers[row, :, 0] == number)
            assert labelled[row, window, 0].tolist() == [False] + [True] * (len(window) - 1)
            items = (inputs[row, window, 0] - 2) // 3
            pairs += list(zip(items[:-1].tolist(), items[1:].tolist(), strict=True))
        assert not labelled[row, numbers[row, :, 0] == 0].any()
    wanted = [pair for each in sequences for pair in zip(each[:-1].tolist(), each[1:].tolist(), strict=True)]
    assert sorted(pairs) == sorted(wanted) and packed.num_targets == len(wanted)


# training


@pytest.mark.parametrize("normalize_over", ["vocabulary", "items"])
def test_learns_successors(trained, tmp_path, normalize_over):
    trainer = trained[0]
    if normalize_over == "items":
        trainer = make_trainer(
            tmp_path, make_model(normalize_over="items"), max_steps=150, learning_rate=0.01, logging_steps=50
        )
        trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_ndcg@10"] > 0.9 and metrics["eval_num_users"] == 150
    assert trainer.model.config.max_history == 5


def test_checkpoint_ranks_as_the_model_in_memory(trained):
    trainer, folder = trained
    data = trainer.eval_dataset
    histories = data.interactions.cases("test").histories()
    in_memory = trainer._ranker(data).rank(histories, 10)
    loaded = GenerativeRanker.from_pretrained(folder, data.interactions.item_ids, num_beams=10, batch_size=16)
    assert isinstance(loaded.model, RecBaseForCausalLM) and loaded.max_history == 5
    np.testing.assert_array_equal(loaded.rank(histories, 10), in_memory)
    values = load_values(folder)
    assert values.auto_class == "AutoModelForCausalLM" and values.method == "recbase"
    assert values.num_items == NUM_ITEMS


def test_gradient_accumulation_equals_a_large_batch(tmp_path):
    """Of rows with the same number of targets; the loss is the mean of the steps' means."""
    rng = np.random.default_rng(0)
    ids = [f"item{row}" for row in range(NUM_ITEMS)]
    interactions = Interactions.from_sequences([[ids[row] for row in rng.integers(0, 20, 8)] for _ in range(64)], ids)
    data = make_data(interactions)
    norms = []
    for batch_size, accumulation in ((16, 1), (4, 4)):
        trainer = make_trainer(
            tmp_path,
            data=data,
            max_steps=1,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
        )
        trainer.train()
        norms.append(trainer.state.log_history[0]["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_resumed_run_is_bit_exact_with_sampling_over_domains(tmp_path):
    """With dropout, each epoch's own draw of rows, and a checkpoint inside of an epoch."""
    evaluation = {
        name: make_data(make_interactions(users, 15 + seed, name), seed)
        for seed, (name, users) in enumerate({"games": 60, "office": 12}.items())
    }

    def trainer():
        model = make_model(attention_dropout=0.2)
        args = make_args(
            tmp_path,
            num_train_epochs=3,
            per_device_train_batch_size=16,
            domain_temperature=3.0,
            save_strategy="steps",
            save_steps=10,
        )
        training = {name: training_of(data) for name, data in evaluation.items()}
        return RecommenderTrainer(model, args, training, evaluation)

    whole = trainer()
    assert isinstance(whole.train_dataset, PackedSequences) and whole.train_dataset.sampling.seed == 7
    per_epoch = -(-len(whole.train_dataset) // 16)
    assert per_epoch < 10 < 2 * per_epoch, "the checkpoint is inside of the second epoch"
    whole.train()
    resumed = trainer()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-10"))
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    drawn = resumed.train_dataset.drawn.tolist()
    resumed.train_dataset.set_epoch(2)
    assert drawn == resumed.train_dataset.drawn.tolist()


def test_mismatches_are_errors_before_training(tmp_path):
    interactions = make_interactions()
    data = make_data(interactions)
    part, table = interactions.training_part(), data.token_table
    for level, token, message in (
        (2, 13, r"from \[2, 8, 13\]"),
        (2, 20, r"to \[7, 13, 20\]"),
        (0, 1, r"from \[1, 8, 14\]"),
    ):
        other = np.sort(np.arange(NUM_ITEMS)[:, None] % 6 + np.array([2, 8, 14]), axis=0)
        other[5, level] = token
        with pytest.raises(
            ValueError, match=rf"do not belong together.*{message}.*from \[2, 8, 14\] to \[7, 13, 19\]"
        ):
            make_trainer(tmp_path, training=TrainingData(part, other))
    with pytest.raises(ValueError, match="persistent"):
        more = dict(dataloader_num_workers=1, dataloader_persistent_workers=True, domain_temperature=2.0)
        make_trainer(tmp_path, **more)
    with pytest.raises(ValueError, match=r"Domain 'b': expected a token table \[20, 3\]"):
        make_trainer(tmp_path, training={"a": TrainingData(part, table), "b": TrainingData(part, table[1:])})
    with pytest.raises(ValueError, match="do not belong together"):
        make_trainer(tmp_path, make_model(level_sizes=[9, 9, 9]))
    with pytest.raises(ValueError, match="temperature.*above 0"):
        make_args(tmp_path, domain_temperature=0.0)


def test_sharded_weights_are_trained_and_saved_but_not_validated(tmp_path, monkeypatch):
    """As under ZeRO-3, which shards the large model's weights over the processes."""
    trainer = make_trainer(tmp_path, eval_strategy="epoch")
    assert gathered_weights(trainer) is None
    for module in (ranking_trainer, runs):
        monkeypatch.setattr(module, "is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(ValueError, match="eval_strategy='no'"):
        make_trainer(tmp_path, eval_strategy="epoch")
    trainer = make_trainer(tmp_path)
    with pytest.raises(ValueError, match="whole weights on every process"):
        trainer.evaluate()
    weights = {name: tensor + 1 for name, tensor in trainer.model.state_dict().items()}
    monkeypatch.setattr(trainer.accelerator, "get_state_dict", lambda model: weights)
    save_recommender(trainer.model, None, tmp_path / "saved", gathered_weights(trainer))
    found = load_model(tmp_path / "saved").state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())


def test_each_model_gets_its_rows(tmp_path):
    interactions = make_interactions(20)
    data = make_data(interactions)
    domains = {"a": training_of(data), "b": training_of(data)}
    sizes = dict(level_sizes=SIZES, d_model=8, d_ff=8, d_kv=4, num_heads=2, num_layers=1)
    for model, kind, with_targets in (
        (make_model(), PackedSequences, True),
        (UTGRecForConditionalGeneration(UTGRecConfig(**sizes, causal_encoder=True)), PackedSequences, False),
        (UTGRecForConditionalGeneration(UTGRecConfig(**sizes)), NextItemWindows, None),
    ):
        rows = make_trainer(tmp_path, model, domains, data, domain_temperature=2.0).train_dataset
        assert type(rows) is kind and getattr(rows, "with_targets", None) == with_targets
        assert (rows.sampling.temperature, rows.sampling.seed, rows.max_history) == (2.0, 7, 5)
        assert rows.sampling.first_sequences.tolist() == [0, 20, 40]
        rows = make_trainer(tmp_path, model, domains, data, max_history=4, seed=8).train_dataset
        assert (
            rows.sampling is None
            and rows.max_history == 4
            and rows.num_targets == 2 * kind(interactions.training_part(), data.token_table, 4).num_targets
        )
        if kind is PackedSequences:  # which windows share a row does not depend on the training's seed
            again = make_trainer(tmp_path, model, domains, data, max_history=4, seed=9).train_dataset
            np.testing.assert_array_equal(again.bounds, rows.bounds)
