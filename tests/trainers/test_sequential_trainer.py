"""Training of sequential recommenders, and its validation."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import EarlyStoppingCallback, HfArgumentParser, TrainerCallback, set_seed

import modeling_utgrec
from trainers.data.interactions import Interactions
from trainers.evaluation.protocol import evaluate
from trainers.rankers.sequential import SequentialRanker
from trainers.runtime.cpu_training import CpuDropout
from trainers.sequential_trainer import SequentialTrainer, SequentialTrainingArguments

NUM_USERS, NUM_ITEMS = 60, 12
METRICS = {"recall@5", "ndcg@5", "mrr@5", "recall@10", "ndcg@10", "mrr@10"}
NAMES = ["BERT4Rec", "BSARec", "FDSA", "FMLPRec", "GRU4Rec", "HSTU", "MISSRec", "S3Rec", "SASRec", "UniSRec", "VQRec"]
# what items are made from, of the models that make them
MADE = {
    "MISSRec": lambda: {"text": torch.randn(NUM_ITEMS, 16)},
    "FDSA": lambda: {"content": torch.randn(NUM_ITEMS, 16)},
    "UniSRec": lambda: {"content": torch.randn(NUM_ITEMS, 16)},
    "VQRec": lambda: {"codes": torch.randint(256, (NUM_ITEMS, 32))},
}


def make_interactions(num_users=NUM_USERS, num_items=NUM_ITEMS):
    """Item i is followed by item i + 1: a model that learns that ranks the target first."""
    rng = np.random.default_rng(0)
    sequences = [(rng.integers(num_items) + np.arange(rng.integers(5, 12))) % num_items for _ in range(num_users)]
    ids = [f"item{row}" for row in range(num_items)]
    return Interactions.from_sequences([[ids[row] for row in sequence] for sequence in sequences], ids)


def make_model(name="SASRec", dropout=0.0, seed=0, **config):
    set_seed(seed)
    sizes = dict(num_items=NUM_ITEMS, hidden_size=16, num_layers=1, max_history=5, hidden_dropout=dropout)
    if name in MADE:
        config = {"content_size": 16, **config}
    if name == "MISSRec":  # a layer of interests and one of items
        config = {"num_layers": 2, "num_interests": 4, **config}
    config = getattr(modeling_utgrec, f"{name}Config")(**{**sizes, "attention_dropout": dropout, **config})
    model = getattr(modeling_utgrec, f"{name}ForNextItem")(config)
    return model.set_items(**MADE[name]()) if name in MADE else model


def make_trainer(folder, model=None, callbacks=None, evaluation=True, **changes):
    interactions = make_interactions()
    values = dict(
        per_device_train_batch_size=16,
        per_device_eval_batch_size=16,
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        logging_steps=1,
        seed=7,
        dataloader_pin_memory=False,
    )
    args = SequentialTrainingArguments(str(folder), **{**values, **changes})
    return SequentialTrainer(
        model or make_model(), args, interactions.training_part(), interactions if evaluation else None, callbacks
    )


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_arguments_parse():
    (args,) = HfArgumentParser(SequentialTrainingArguments).parse_args_into_dataclasses(
        ["--output_dir", "out", "--max_eval_users", "100", "--use_cpu", "true"]
    )
    assert (args.learning_rate, args.lr_scheduler_type, args.per_device_train_batch_size) == (1e-3, "constant", 128)
    assert (args.metric_for_best_model, args.greater_is_better, args.max_eval_users) == ("ndcg@10", True, 100)
    assert args.remove_unused_columns is False
    with pytest.raises(ValueError, match="max_eval_users"):
        SequentialTrainingArguments("out", max_eval_users=0)


@pytest.mark.parametrize("name", NAMES)
def test_every_model_learns_successors(tmp_path, name):
    calls = []

    class Recorder(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics, **kwargs):
            calls.append(dict(metrics))

    sizes, training = {}, dict(max_steps=60, learning_rate=0.02)
    if name == "BERT4Rec":  # learns slowly: few of a window's items are labelled
        sizes = dict(hidden_size=64, initializer_range=0.1, mask_ratio=0.4, last_item_ratio=0.6)
        training = dict(max_steps=200, learning_rate=0.005, lr_scheduler_type="linear")
    trainer = make_trainer(tmp_path, make_model(name, **sizes), [Recorder()], logging_steps=50, **training)
    trainer.train()
    metrics = trainer.evaluate(metric_key_prefix="test", part="test")
    # 1.0 with each of ten seeds, and with BERT4Rec after 150 steps; 0.2 to 0.5 before training
    assert metrics["test_ndcg@10"] > 0.95 and metrics["test_recall@5"] > 0.95
    assert metrics["test_num_users"] == NUM_USERS
    assert {f"test_{metric}" for metric in METRICS} <= metrics.keys()
    assert len(calls) == 1 and calls[0]["test_ndcg@10"] == metrics["test_ndcg@10"]
    assert trainer.state.log_history[-1]["test_ndcg@10"] == metrics["test_ndcg@10"]

    expected = evaluate(SequentialRanker(trainer.model), make_interactions(), "test", long_tail=False)
    assert expected["max_history"] == 5 and expected["ties"] == "catalogue order"
    for metric in METRICS:
        assert metrics[f"test_{metric}"] == pytest.approx(expected[metric], abs=1e-12)

    trainer.save_model()
    ids = make_interactions().item_ids
    loaded = SequentialRanker.from_pretrained(tmp_path, ids)
    histories = make_interactions().cases("test").histories()
    in_memory = SequentialRanker(trainer.model, batch_size=7)
    np.testing.assert_array_equal(loaded.rank(histories, NUM_ITEMS), in_memory.rank(histories, NUM_ITEMS))
    with pytest.raises(ValueError, match=f"{NUM_ITEMS} items, the catalogue {NUM_ITEMS - 1}"):
        SequentialRanker.from_pretrained(tmp_path, ids[:-1])
    assert json.loads((tmp_path / "item_ids.json").read_text()) == ids
    mistaken = Interactions.from_sequences([ids[:5]], ids[::-1])
    with pytest.raises(ValueError, match="in their order: their rows would be mistaken"):
        trainer.evaluate(mistaken)
    for given in ((mistaken,), (None, mistaken)):
        with pytest.raises(ValueError, match="in their order: their rows would be mistaken"):
            SequentialTrainer(trainer.model, trainer.args, *given)


def test_items_are_known_from_the_validation_where_training_is_streamed(tmp_path):
    """A corpus has rows and no ids."""
    arguments = SequentialTrainingArguments(str(tmp_path), use_cpu=True)
    SequentialTrainer(make_model(), arguments, None, make_interactions()).save_model()
    assert SequentialRanker.from_pretrained(tmp_path).item_ids == make_interactions().item_ids


def test_learns_with_sampled_negatives(tmp_path):
    """Items of a window are never its negatives (Kang & McAuley 2018), so only the others are told from the target."""
    model = make_model(loss="bce")
    trainer = make_trainer(tmp_path, model, max_steps=100, learning_rate=0.02, logging_steps=50)
    trainer.train()
    recommender = SequentialRanker(trainer.model)
    assert evaluate(recommender, make_interactions(), mask_seen=True, long_tail=False)["ndcg@10"] > 0.95


@pytest.mark.parametrize("name", ["BERT4Rec", "SASRec"])
def test_gradient_accumulation_equals_a_large_batch(tmp_path, name):
    """Batches differ in their number of labels, and each label counts the same."""

    def run(accumulation):
        model = make_model(name, **({"mask_ratio": 1.0, "last_item_ratio": 0.0} if name == "BERT4Rec" else {}))
        sizes = dict(per_device_train_batch_size=16 // accumulation, gradient_accumulation_steps=accumulation)
        optimizer = dict(optim="sgd", learning_rate=0.1, max_grad_norm=1e9)
        trainer = make_trainer(tmp_path, model, max_steps=2, **sizes, **optimizer)
        trainer.train()
        return trainer

    large, small = run(1), run(4)
    for key in ("loss", "grad_norm"):
        logs = [[entry[key] for entry in trainer.state.log_history if key in entry] for trainer in (large, small)]
        assert len(logs[0]) == 2
        np.testing.assert_allclose(logs[0], logs[1], rtol=1e-4)
    for key, weight in large.model.state_dict().items():
        torch.testing.assert_close(small.model.state_dict()[key], weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "loss"), [("BERT4Rec", "ce"), ("FMLPRec", "ce"), ("SASRec", "bce")])
def test_resumed_run_is_bit_exact(tmp_path, name, loss):
    """With dropout, masks, negatives, validation in between, and a checkpoint inside of an epoch."""

    def trainer():
        model = make_model(name, dropout=0.2, loss=loss)
        saving = dict(save_strategy="steps", save_steps=6, eval_strategy="steps", eval_steps=3, max_eval_users=4)
        return make_trainer(tmp_path, model, max_steps=10, **saving)

    whole = trainer()
    whole.train()
    resumed = trainer()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert_equal(weights(resumed.model), weights(whole.model))
    entries = [[entry["loss"] for entry in t.state.log_history if "loss" in entry] for t in (whole, resumed)]
    assert len(entries[0]) == 10 and entries[0] == entries[1]


def test_data_of_another_kind_say_what_to_give(tmp_path):
    interactions = make_interactions()
    args = SequentialTrainingArguments(str(tmp_path), use_cpu=True)
    for training in ([["a", "b"]], {"a": interactions}):
        with pytest.raises(TypeError, match="train_dataset is Interactions or SequenceCorpus, got .*training_part"):
            SequentialTrainer(make_model(), args, training)
    with pytest.raises(TypeError, match="evaluation is Interactions, got list: give it all interactions"):
        SequentialTrainer(make_model(), args, interactions.training_part(), [["a", "b"]])


def test_a_checkpoint_of_other_items_is_not_gone_on_with(tmp_path):
    """As of a data folder that was prepared anew: the rows of its items would go on as those of these."""
    make_trainer(tmp_path, max_steps=2, save_strategy="steps", save_steps=2).train()
    other = make_interactions()
    other.item_ids = other.item_ids[::-1]
    args = SequentialTrainingArguments(str(tmp_path), max_steps=4, use_cpu=True, disable_tqdm=True)
    trainer = SequentialTrainer(make_model(), args, other.training_part())
    with pytest.raises(ValueError, match="their rows would be mistaken"):
        trainer.train(resume_from_checkpoint=True)


def test_early_stopping_restores_the_best_weights(tmp_path):
    scripted = [0.1, 0.5, 0.4, 0.3, 0.9]
    after_epoch = []

    class Scripted(SequentialTrainer):
        def _evaluate_domain(self, data, part):
            result = super()._evaluate_domain(data, part)
            after_epoch.append(weights(self.model))
            return {**result, "ndcg@10": scripted[len(after_epoch) - 1]}

    interactions = make_interactions()
    args = make_trainer(
        tmp_path,
        num_train_epochs=5,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        max_eval_users=5,
    ).args
    training = interactions.training_part()
    trainer = Scripted(make_model(), args, training, interactions, [EarlyStoppingCallback(2)])
    trainer.train()
    assert trainer.state.epoch == 4 and trainer.state.best_metric == 0.5
    assert_equal(weights(trainer.model), after_epoch[1])


def test_weights_before_the_first_step_may_be_the_best(tmp_path):
    better = make_trainer(tmp_path / "before", max_steps=40)
    better.train()
    start = weights(better.model)
    saving = dict(eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2, save_total_limit=2)
    saving |= dict(load_best_model_at_end=True, max_steps=6, learning_rate=1.0)
    kept = {}
    for eval_on_start in (True, False):
        model = make_model()
        model.load_state_dict(start)
        folder = tmp_path / f"after-{eval_on_start}"
        trainer = make_trainer(folder, model, eval_on_start=eval_on_start, **saving)
        trainer.train()
        kept[eval_on_start] = trainer.state.best_metric
        assert (trainer.state.best_global_step == 0) is eval_on_start
        assert all(torch.equal(model.state_dict()[name], start[name]) for name in start) is eval_on_start
        assert (folder / "checkpoint-0").is_dir() is eval_on_start and (folder / "checkpoint-6").is_dir()
        # a run that goes on does not take its weights for the start's
        trainer = make_trainer(folder, make_model(), eval_on_start=eval_on_start, **(saving | dict(max_steps=8)))
        trainer.train(resume_from_checkpoint=str(folder / "checkpoint-6"))
        assert trainer.state.best_metric == kept[eval_on_start] and trainer.state.global_step == 8
    assert kept[True] > kept[False]


def test_a_training_that_goes_on_has_no_start_to_evaluate(tmp_path):
    """Or early stopping would end it an evaluation sooner, and its log tell of one more."""
    saving = dict(eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2, max_eval_users=8)
    saving |= dict(load_best_model_at_end=True, eval_on_start=True, max_steps=20, learning_rate=0.0)

    def run(checkpoint=None):
        trainer = make_trainer(tmp_path, make_model(), [EarlyStoppingCallback(3)], **saving)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(tmp_path / checkpoint))
        return [entry["step"] for entry in trainer.state.log_history if "eval_ndcg@10" in entry]

    assert run() == [0, 2, 4, 6]
    assert run("checkpoint-2") == [0, 2, 4, 6] and run("checkpoint-0") == [0, 2, 4, 6]


def test_contrastive_pre_training_has_the_horizon_of_its_arguments(tmp_path):
    sizes = dict(num_items=NUM_ITEMS, content_size=16, hidden_size=16, num_layers=1, max_history=5)
    model = modeling_utgrec.UniSRecForPreTraining(modeling_utgrec.UniSRecConfig(**sizes))
    assert make_trainer(tmp_path, model, evaluation=False, horizon=3).data_collator.horizon == 3


@pytest.mark.parametrize("name", ["UniSRec", "VQRec", "MISSRec"])
def test_negatives_of_a_batch_are_not_those_of_a_step(tmp_path, name, caplog):
    kind = getattr(modeling_utgrec, f"{name}ForPreTraining")
    make_trainer(tmp_path, kind(make_model(name).config), evaluation=False)
    make_trainer(tmp_path, make_model(name), evaluation=False, gradient_accumulation_steps=4)
    assert not caplog.messages
    make_trainer(tmp_path, kind(make_model(name).config), evaluation=False, gradient_accumulation_steps=4)
    assert "those of 16 examples and not of the 64 of a step" in caplog.text


@pytest.mark.parametrize("name", NAMES)
def test_dropout_of_a_cpu(tmp_path, name):
    model = make_trainer(tmp_path, make_model(name, dropout=0.2), evaluation=False).model
    kinds = {type(module) for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    assert kinds == {CpuDropout}


def test_what_validation_is_to_find_is_not_learnt(tmp_path):
    """It was, and a validation of what is known by heart chose the weights, without a word."""
    args = SequentialTrainingArguments(str(tmp_path), use_cpu=True)
    with pytest.raises(ValueError, match="training data are all .* interactions, .*training_part"):
        SequentialTrainer(make_model(), args, make_interactions(), make_interactions())
    SequentialTrainer(make_model(), args, make_interactions())  # with no validation all may be learnt


def test_the_card_has_the_batch_that_was_found_to_fit(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, evaluation=False, max_steps=2, auto_find_batch_size=True)
    compute_loss = trainer.compute_loss

    def in_small_memory(model, inputs, *args, **kwargs):
        if len(inputs["input_ids"]) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return compute_loss(model, inputs, *args, **kwargs)

    monkeypatch.setattr(trainer, "compute_loss", in_small_memory)
    monkeypatch.setattr(trainer.args, "gradient_accumulation_steps", 2)
    trainer.train()
    told = trainer.card_values().hyperparameters
    assert trainer.state.train_batch_size < 11
    assert told["per_device_train_batch_size"] == trainer.state.train_batch_size
    assert told["global_train_batch_size"] == 2 * trainer.state.train_batch_size


def test_training_without_validation(tmp_path):
    trainer = make_trainer(tmp_path, evaluation=False, max_steps=1)
    trainer.train()
    with pytest.raises(ValueError, match="Nothing to evaluate"):
        trainer.evaluate()


def test_another_catalogue_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=f"5 items, the catalogue {NUM_ITEMS}"):
        make_trainer(tmp_path, make_model(num_items=5))


def test_persistent_workers_would_repeat_the_masks(tmp_path):
    workers = dict(dataloader_persistent_workers=True, dataloader_num_workers=1)
    with pytest.raises(ValueError, match="Persistent"):
        make_trainer(tmp_path, make_model("BERT4Rec"), **workers)
    make_trainer(tmp_path, make_model("SASRec"), **workers)


ROWS = 16  # of both processes' batches: of an epoch's last one the second has none


def one_target_a_row(folder, name, processes):
    if name == "MISSRec":
        model = make_model(name)
    else:
        set_seed(0)
        sizes = dict(hidden_size=16, num_layers=1, max_history=5, hidden_dropout=0.0, attention_dropout=0.0)
        config = modeling_utgrec.S3RecConfig(num_items=NUM_ITEMS, num_attributes=3, **sizes)
        model = modeling_utgrec.S3RecForPreTraining(config).set_items(torch.arange(NUM_ITEMS)[:, None] % 3 + 1)
    steps = dict(per_device_train_batch_size=ROWS // processes, num_train_epochs=2, optim="sgd", learning_rate=0.01)
    return make_trainer(folder, model, evaluation=False, **steps)


@pytest.mark.distributed
def test_two_processes_of_which_one_has_no_row_left(run_two_processes, tmp_path):
    run_two_processes(__file__, tmp_path)
    for name in ("MISSRec", "S3Rec"):
        single = one_target_a_row(tmp_path / "single", name, processes=1)
        assert 0 < len(single.train_dataset) % ROWS <= ROWS // 2
        ranks = [torch.load(tmp_path / f"{name}{rank}.pt", weights_only=True) for rank in (0, 1)]
        assert_equal(*ranks)
        if name == "S3Rec":  # what is masked is drawn by batch
            continue
        single.train()
        for key, weight in single.model.state_dict().items():
            torch.testing.assert_close(ranks[0][key], weight, rtol=1e-4, atol=1e-6)


def run_worker(folder):
    for name in ("MISSRec", "S3Rec"):
        trainer = one_target_a_row(Path(folder) / name, name, processes=2)
        trainer.train()
        torch.save(weights(trainer.model), Path(folder) / f"{name}{trainer.accelerator.process_index}.pt")
    torch.distributed.barrier()


@pytest.mark.slow
def test_sasrec_finds_more_than_item_transitions_on_real_data(tmp_path):
    """Default settings on Amazon Office 2014, where counting transitions has Recall@10 .0862 (seen items kept)."""
    folder = Path(os.environ.get("UTGREC_DATA", "")) / "amazon_office_2014"
    if not (folder / "items.jsonl.gz").exists():
        pytest.skip("UTGREC_DATA does not name a folder with this domain")
    with gzip.open(folder / "items.jsonl.gz", "rt") as lines:
        interactions = Interactions.from_folder(folder, [json.loads(line)["item_id"] for line in lines])
    set_seed(0)
    model = modeling_utgrec.SASRecForNextItem(
        modeling_utgrec.SASRecConfig(num_items=interactions.num_items, max_history=20)
    )
    args = SequentialTrainingArguments(
        str(tmp_path), num_train_epochs=24, use_cpu=True, save_strategy="no", disable_tqdm=True, logging_steps=1000
    )
    trainer = SequentialTrainer(model, args, interactions.training_part(), interactions)
    trainer.train()
    metrics = trainer.evaluate(part="test")
    assert metrics["eval_recall@10"] > 0.092
    assert metrics["eval_ndcg@10"] > 0.042
