"""Training of generative recommenders."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import EarlyStoppingCallback, HfArgumentParser, TrainerCallback, set_seed

from modeling_utgrec import UTGRecConfig, UTGRecForConditionalGeneration
from tokenization_items.item_index import ItemIndex, UnknownItemError
from trainers import recommender_trainer
from trainers.data.interactions import Interactions
from trainers.evaluation.protocol import evaluate
from trainers.rankers.generative import GenerativeRanker, item_space
from trainers.recommender_trainer import EvaluationData, RecommenderTrainer, RecommenderTrainingArguments
from trainers.runtime.checkpoints import find_faults
from trainers.training_data.domain_sampling import DomainSampling
from trainers.training_data.next_item_windows import NextItemWindows, TrainingData, join_domains

NUM_USERS, NUM_ITEMS, CODES = 150, 20, 6
METRICS = {"recall@5", "ndcg@5", "recall@10", "ndcg@10"}


def make_interactions(num_users=NUM_USERS, num_items=NUM_ITEMS, prefix="item"):
    """Item i is followed by item i + 1: a model that learns that ranks the target first."""
    rng = np.random.default_rng(0)
    sequences = [(rng.integers(num_items) + np.arange(rng.integers(5, 16))) % num_items for _ in range(num_users)]
    ids = [f"{prefix}{row}" for row in range(num_items)]
    return Interactions.from_sequences([[ids[row] for row in sequence] for sequence in sequences], ids)


def make_index(item_ids, seed=0):
    """Random identifiers, in an order that is not the catalogue's."""
    rng = np.random.default_rng(seed)
    codes = np.stack(np.unravel_index(rng.permutation(CODES**3)[: len(item_ids)], (CODES,) * 3), axis=1)
    index = ItemIndex([CODES] * 3, [2, 2 + CODES, 2 + CODES])
    index.assign([item_ids[row] for row in rng.permutation(len(item_ids))], codes)
    return index


def make_model(dropout=0.0, seed=0):
    set_seed(seed)
    sizes = dict(d_model=32, d_ff=64, num_heads=2, d_kv=16, num_layers=2, num_decoder_layers=1)
    config = UTGRecConfig(root_codebook_size=CODES, leaf_codebook_size=CODES, dropout_rate=dropout, **sizes)
    return UTGRecForConditionalGeneration(config)


def make_args(folder, **changes):
    values = dict(
        per_device_train_batch_size=32,
        per_device_eval_batch_size=16,
        num_beams=10,
        max_history=5,
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        logging_steps=1,
        seed=7,
        dataloader_pin_memory=False,
    )
    return RecommenderTrainingArguments(str(folder), **{**values, **changes})


def make_trainer(folder, model=None, training=None, evaluation=None, callbacks=None, **changes):
    interactions = make_interactions()
    evaluation = evaluation or EvaluationData(interactions, make_index(interactions.item_ids))
    training = training or training_of(EvaluationData(interactions, make_index(interactions.item_ids)))
    model = model or make_model()
    return RecommenderTrainer(model, make_args(folder, **changes), training, evaluation, callbacks=callbacks)


def training_of(data):
    return TrainingData(data.interactions.training_part(), data.token_table)


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trainer that has learned the successors, its checkpoint and its metrics."""
    folder = tmp_path_factory.mktemp("trained")
    trainer = make_trainer(folder, max_steps=350, learning_rate=0.005, logging_steps=50)
    trainer.train()
    trainer.save_model()
    return trainer, folder


def test_arguments_are_the_papers_and_parse():
    (args,) = HfArgumentParser(RecommenderTrainingArguments).parse_args_into_dataclasses(
        ["--output_dir", "out", "--max_eval_users", "100", "--use_cpu", "true"]
    )
    assert (args.learning_rate, args.lr_scheduler_type, args.num_train_epochs) == (0.005, "cosine", 50)
    assert (args.per_device_train_batch_size, args.weight_decay, args.warmup_steps) == (1024, 0.01, 0.03)
    assert (args.max_history, args.num_beams, args.max_eval_users) == (20, 50, 100)
    assert (args.metric_for_best_model, args.greater_is_better) == ("ndcg@10", True)
    assert args.remove_unused_columns is False
    with pytest.raises(ValueError, match="num_beams"):
        make_args("out", num_beams=0)


def test_learns_successors_and_logs_prefixed_metrics(trained):
    trainer, _ = trained
    calls = []

    class Recorder(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics, **kwargs):
            calls.append(dict(metrics))

    trainer.add_callback(Recorder())
    metrics = trainer.evaluate()
    trainer.remove_callback(Recorder)
    assert metrics["eval_ndcg@10"] > 0.9  # 1.0 with each seed that was tried, 0.25 before training
    assert metrics["eval_num_users"] == NUM_USERS
    assert {f"eval_{name}" for name in METRICS} <= metrics.keys()
    assert len(calls) == 1 and calls[0]["eval_ndcg@10"] == metrics["eval_ndcg@10"]
    assert trainer.state.log_history[-1]["eval_ndcg@10"] == metrics["eval_ndcg@10"]
    assert trainer.model.config.max_history == 5
    assert any("eval_ndcg@10" in entry for entry in trainer.state.log_history)


def test_evaluation_is_the_protocols(trained):
    trainer, _ = trained
    data = trainer.eval_dataset
    recommender = GenerativeRanker(trainer.model, data.trie, data.token_table, 10, 7, max_history=5)
    expected = evaluate(recommender, data.interactions, "test", long_tail=False)
    metrics = trainer.evaluate(metric_key_prefix="test", part="test")
    for name in METRICS:
        assert metrics[f"test_{name}"] == pytest.approx(expected[name], abs=1e-12)


def test_checkpoint_ranks_as_the_model_in_memory(trained):
    trainer, folder = trained
    data = trainer.eval_dataset
    histories = data.interactions.cases("test").histories()
    in_memory = trainer._ranker(data).rank(histories, 10)
    loaded = GenerativeRanker.from_pretrained(folder, data.interactions.item_ids, num_beams=10, batch_size=16)
    assert loaded.max_history == 5
    np.testing.assert_array_equal(loaded.rank(histories, 10), in_memory)

    # another order and a smaller catalogue: same items, and none outside of it
    rows = np.random.default_rng(1).permutation(NUM_ITEMS)[:15]
    ids = [data.interactions.item_ids[row] for row in rows]
    subset = GenerativeRanker.from_pretrained(folder, ids, num_beams=15)
    ranked = subset.rank([np.array([4]), np.array([2, 3])], 15)
    full = loaded.rank([rows[[4]], rows[[2, 3]]], NUM_ITEMS)
    for few, many in zip(ranked, full, strict=True):
        assert rows[few].tolist() == [row for row in many.tolist() if row in rows]

    with pytest.raises(UnknownItemError, match=r"'new'.*`utgrec tokenize`"):
        GenerativeRanker.from_pretrained(folder, [*ids, "new"])


def test_rank_equals_scoring_every_item():
    interactions = make_interactions()
    trie, table = item_space(make_index(interactions.item_ids), interactions.item_ids)
    model = make_model(seed=3).eval()
    histories = [np.array([3]), np.arange(9), np.array([5, 1]), np.array([2])]
    exclude = [np.array([3]), np.array([], int), np.array([5, 1, 0]), np.array([2])]
    recommender = GenerativeRanker(model, trie, table, num_beams=NUM_ITEMS, batch_size=2, max_history=4)
    ranked = recommender.rank(histories, NUM_ITEMS)
    without = recommender.rank(histories, 6, exclude)
    for user, history in enumerate(histories):
        tokens = torch.from_numpy(table[history[-4:]].reshape(1, -1)).expand(NUM_ITEMS, -1)
        with torch.no_grad():
            logits = model(input_ids=tokens, labels=torch.from_numpy(table)).logits
        scores = logits.log_softmax(-1).gather(2, torch.from_numpy(table)[..., None]).sum((1, 2))
        best = scores.argsort(descending=True).tolist()
        assert ranked[user].tolist() == best
        assert without[user].tolist() == [row for row in best if row not in exclude[user]][:6]
    assert not model.training


@pytest.mark.parametrize("steps", [1, 3])
def test_gradient_accumulation_equals_a_large_batch(tmp_path, steps):
    def run(batch_size, accumulation):
        trainer = make_trainer(
            tmp_path,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            max_steps=steps,
            optim="sgd",
            learning_rate=0.1,
            warmup_steps=0,
            max_grad_norm=1e9,
        )
        trainer.train()
        return trainer

    large, small = run(32, 1), run(8, 4)
    norms = [[e["grad_norm"] for e in t.state.log_history if "grad_norm" in e] for t in (large, small)]
    losses = [[e["loss"] for e in t.state.log_history if "loss" in e] for t in (large, small)]
    assert len(norms[0]) == steps
    np.testing.assert_allclose(norms[0], norms[1], rtol=1e-4)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    for name, weight in large.model.state_dict().items():
        torch.testing.assert_close(small.model.state_dict()[name], weight, rtol=1e-4, atol=1e-6)


def test_model_that_claims_loss_kwargs_is_not_believed(tmp_path):
    """T5's own forward takes any keyword, from which the Trainer would conclude that the loss is scaled already."""
    norms = []
    for batch_size, accumulation in ((32, 1), (8, 4)):
        model = make_model()
        model.accepts_loss_kwargs = True
        trainer = make_trainer(
            tmp_path,
            model,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
        )
        trainer.train()
        norms.append(trainer.state.log_history[0]["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_no_cache_in_training(tmp_path):
    trainer = make_trainer(tmp_path)
    batch = trainer.data_collator(trainer.train_dataset.__getitems__(range(4)))
    trainer.model.train()
    assert trainer.compute_loss(trainer.model, batch, return_outputs=True)[1].past_key_values is None


def test_early_stopping_restores_the_best_weights(tmp_path):
    scripted = [0.1, 0.5, 0.4, 0.3, 0.9, 0.9]
    after_epoch = []

    class Scripted(RecommenderTrainer):
        def _evaluate_domain(self, data, part):
            result = super()._evaluate_domain(data, part)
            after_epoch.append(weights(self.model))
            return {**result, "ndcg@10": scripted[len(after_epoch) - 1]}

    interactions = make_interactions()
    data = EvaluationData(interactions, make_index(interactions.item_ids))
    args = make_args(
        tmp_path,
        num_train_epochs=6,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        max_eval_users=5,
    )
    trainer = Scripted(make_model(), args, training_of(data), data, callbacks=[EarlyStoppingCallback(2)])
    trainer.train()
    assert trainer.state.epoch == 4 and trainer.state.best_metric == 0.5
    assert_equal(weights(trainer.model), after_epoch[1])
    assert not torch.equal(after_epoch[1]["shared.weight"], after_epoch[3]["shared.weight"])
    # the best checkpoint can recommend on its own
    best = GenerativeRanker.from_pretrained(trainer.state.best_model_checkpoint, interactions.item_ids, 10)
    assert_equal(weights(best.model), after_epoch[1])


def test_resumed_run_is_bit_exact(tmp_path):
    """With dropout, an epoch's own draw of targets, validation in between, and a checkpoint inside of an epoch."""

    def trainer(folder):
        interactions = make_interactions(16)
        data = EvaluationData(interactions, make_index(interactions.item_ids))
        domains = {"games": training_of(data), "office": training_of(data)}
        return make_trainer(
            folder,
            make_model(dropout=0.2),
            domains,
            data,
            per_device_train_batch_size=64,
            domain_temperature=2.0,
            num_train_epochs=3,
            save_strategy="steps",
            save_steps=6,
            eval_strategy="steps",
            eval_steps=3,
            max_eval_users=4,
        )

    whole = trainer(tmp_path)
    whole.train()
    assert whole.state.global_step == 12
    resumed = trainer(tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert_equal(weights(resumed.model), weights(whole.model))
    entries = [[e for e in t.state.log_history if "loss" in e] for t in (whole, resumed)]
    assert [e["loss"] for e in entries[0]] == [e["loss"] for e in entries[1]]


def test_a_resumed_training_of_adapters_is_bit_exact(tmp_path):
    """Its checkpoints hold them and no other weights."""

    def trainer():
        set_seed(1)
        model = get_peft_model(make_model(dropout=0.2), LoraConfig(r=2, target_modules=["q", "v"]))
        saving = dict(max_steps=4, save_strategy="steps", save_steps=2, eval_strategy="steps", eval_steps=2)
        return make_trainer(tmp_path, model, **saving)

    whole = trainer()
    whole.train()
    shutil.rmtree(tmp_path / "checkpoint-4")
    resumed = trainer()
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 4
    assert_equal(weights(resumed.model), weights(whole.model))
    (tmp_path / "checkpoint-4" / "adapter_model.safetensors").unlink()
    (tmp_path / "checkpoint-4" / "checkpoint_files.json").unlink()
    assert find_faults(tmp_path / "checkpoint-4") == {"model.safetensors": "is missing"}


def test_what_validation_is_to_find_is_not_learnt(tmp_path):
    interactions = make_interactions(16)
    data = EvaluationData(interactions, make_index(interactions.item_ids))
    whole = TrainingData(interactions, data.token_table)
    for training, evaluation in ((whole, data), ({"games": training_of(data), "office": whole}, {"office": data})):
        with pytest.raises(ValueError, match="training data are all .* interactions, .*training_part"):
            make_trainer(tmp_path, make_model(), training, evaluation)


def test_each_epoch_draws_its_targets(tmp_path):
    domains = {}
    for seed, (name, num_users) in enumerate({"games": 20, "office": 4}.items()):
        interactions = make_interactions(num_users, prefix=name)
        domains[name] = training_of(EvaluationData(interactions, make_index(interactions.item_ids, seed)))
    seen = []

    class Recorder(TrainerCallback):
        def on_epoch_end(self, args, state, control, **kwargs):
            seen.append(trainer.train_dataset.drawn.tolist())

    trainer = make_trainer(tmp_path, None, domains, num_train_epochs=3, callbacks=[Recorder()], domain_temperature=2.0)
    trainer.train()
    joint = join_domains(domains)
    expected = NextItemWindows(joint.interactions, joint.token_table, 5, DomainSampling([20, 4], 2.0, seed=7))
    for epoch, drawn in enumerate(seen):
        expected.set_epoch(epoch)
        assert drawn == expected.drawn.tolist()
    assert len(seen) == 3 and seen[0] != seen[1]


def test_limited_validation_takes_the_same_users_whatever_the_seed(trained, tmp_path):
    model = trained[0].model
    results = []
    for seed in (1, 2):
        trainer = make_trainer(tmp_path, model, max_eval_users=15, seed=seed)
        results.append({name: value for name, value in trainer.evaluate().items() if "@" in name})
        assert trainer.evaluate()["eval_num_users"] == 15
    assert results[0] == results[1]
    assert trainer.evaluate(part="test")["eval_num_users"] == NUM_USERS


def test_several_domains(tmp_path):
    domains = {}
    for seed, name in enumerate(("games", "office")):
        interactions = make_interactions(num_users=20 + 10 * seed, num_items=15 + seed, prefix=name)
        domains[name] = EvaluationData(interactions, make_index(interactions.item_ids, seed))
    training = {name: training_of(data) for name, data in domains.items()}
    model = make_model(seed=5)
    trainer = make_trainer(
        tmp_path, model, training, domains, max_steps=2, eval_strategy="steps", eval_steps=1, save_strategy="best"
    )
    trainer.train()
    metrics = trainer.evaluate()
    assert (metrics["eval_games_num_users"], metrics["eval_office_num_users"], metrics["eval_num_users"]) == (
        20,
        30,
        50,
    )
    for name in METRICS:
        apart = [make_trainer(tmp_path, model, None, data).evaluate()[f"eval_{name}"] for data in domains.values()]
        assert [metrics[f"eval_games_{name}"], metrics[f"eval_office_{name}"]] == pytest.approx(apart)
        assert metrics[f"eval_{name}"] == pytest.approx(np.mean(apart))
    assert list(tmp_path.glob("checkpoint-*")) and not list(tmp_path.rglob("item_ids.json"))


def test_mismatches_are_errors_before_training(tmp_path):
    interactions = make_interactions()
    data = EvaluationData(interactions, make_index(interactions.item_ids))
    part = interactions.training_part()
    with pytest.raises(ValueError, match=r"token table \[items, 3\], got shape \(20, 2\)"):
        make_trainer(tmp_path, training=TrainingData(part, data.token_table[:, :2]))
    with pytest.raises(ValueError, match=r"token table \[20, L\] for the 20 items"):
        make_trainer(tmp_path, training=TrainingData(part, data.token_table[:-1]))
    single = Interactions.from_sequences([["item1"]], interactions.item_ids)
    with pytest.raises(ValueError, match="No training targets"):
        make_trainer(tmp_path, training=TrainingData(single, data.token_table))
    with pytest.raises(ValueError, match="persistent"):
        workers = dict(dataloader_num_workers=1, dataloader_persistent_workers=True)
        make_trainer(tmp_path, domain_temperature=2.0, **workers)
    with pytest.raises(UnknownItemError, match="item19"):
        EvaluationData(interactions, make_index(interactions.item_ids[:-1]))
    other = UTGRecForConditionalGeneration(UTGRecConfig(root_codebook_size=9, leaf_codebook_size=9, num_layers=1))
    with pytest.raises(ValueError, match="do not belong together"):
        make_trainer(tmp_path, other)
    with pytest.raises(ValueError, match="Nothing to evaluate"):
        RecommenderTrainer(make_model(), make_args(tmp_path)).evaluate()
    with pytest.raises(ValueError, match="token table"):
        GenerativeRanker(make_model(), data.trie, data.token_table[:-1])
    with pytest.raises(ValueError, match="2 histories, but 1"):
        GenerativeRanker(make_model(), data.trie, data.token_table).rank([[1], [2]], 5, [[1]])


def test_data_of_another_kind_say_what_to_give(tmp_path):
    interactions = make_interactions()
    data = EvaluationData(interactions, make_index(interactions.item_ids))
    for training in (data, interactions.training_part(), [{"input_ids": [1]}], {"a": interactions}):
        with pytest.raises(TypeError, match=r"train_dataset is TrainingData, got \w+: give it TrainingData\("):
            make_trainer(tmp_path, training=training)
    for evaluation in (interactions, training_of(data), {"a": interactions}):
        with pytest.raises(TypeError, match=r"evaluation is EvaluationData, got \w+: give it EvaluationData\("):
            make_trainer(tmp_path, evaluation=evaluation)
    trainer = make_trainer(tmp_path)
    with pytest.raises(TypeError, match="eval_dataset is EvaluationData, got Interactions"):
        trainer.evaluate(interactions)
    with pytest.raises(TypeError, match="part='test'"):
        trainer.predict(data)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_parts_of_a_batch_train_as_the_whole(tmp_path, monkeypatch, accumulation):
    values = two_process_training(per_device_train_batch_size=30, gradient_accumulation_steps=accumulation)
    whole = make_trainer(tmp_path / "whole", **values)
    whole.train()
    parts, shapes = recommender_trainer.length_parts, []

    def small_parts(batch):
        found = parts(batch, least_rows=6, least_tokens=1)
        shapes.append([part["input_ids"].shape[1] for _, part in found])
        return found

    monkeypatch.setattr(recommender_trainer, "length_parts", small_parts)
    in_parts = make_trainer(tmp_path / "parts", **values)
    in_parts.train()
    assert len(shapes) == 3 * accumulation and all(len(columns) == 5 for columns in shapes)
    assert all(columns[0] < columns[-1] for columns in shapes)
    losses = [[entry["loss"] for entry in t.state.log_history if "loss" in entry] for t in (whole, in_parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for name, weight in whole.model.state_dict().items():
        torch.testing.assert_close(in_parts.model.state_dict()[name], weight, rtol=1e-4, atol=1e-6)


def test_tied_weights_are_not_said_to_be_missing(tmp_path, monkeypatch):
    """A checkpoint has one of the weights that are one tensor; that of the best step is in place of all of them."""
    said = []
    monkeypatch.setattr(transformers.trainer.logger, "warning", lambda text, *_: said.append(text))
    settings = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    settings |= {"load_best_model_at_end": True, "learning_rate": 0.01, "disable_tqdm": True}
    trainer = make_trainer(tmp_path, max_steps=2, **settings)
    trainer.train()
    model, best = trainer.model, load_file(Path(trainer.state.best_model_checkpoint) / "model.safetensors")
    assert "shared.weight" in best and "lm_head.weight" not in best
    for weight in (model.shared.weight, model.encoder.embed_tokens.weight, model.lm_head.weight):
        assert torch.equal(weight, best["shared.weight"])
    make_trainer(tmp_path, max_steps=3, **settings).train(str(tmp_path / "checkpoint-2"))
    assert not [text for text in said if "missing keys" in text]
    names = ["shared.weight", "lm_head.weight", "encoder.embed_tokens.weight", "decoder.final_layer_norm.weight"]
    for missing, expected in ((names[1:], names[3:]), (names, names), (names[1:3], None)):
        said.clear()
        trainer._issue_warnings_after_load(torch.nn.modules.module._IncompatibleKeys(missing, []))
        assert said == ([f"There were missing keys in the checkpoint model loaded: {expected}."] if expected else [])


@pytest.mark.distributed
def test_two_processes(run_two_processes, trained, tmp_path):
    """Two processes evaluate as one does, train to the same weights on both, and to those of one process."""
    trainer, folder = trained
    run_two_processes(__file__, folder, tmp_path)
    reports = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert [report["world_size"] for report in reports] == [2, 2]
    assert [report["rank"] for report in reports] == [0, 1]
    assert reports[0]["type"] == "DistributedType.MULTI_CPU"

    expected = trainer.evaluate()
    for report in reports:
        assert report["metrics"]["eval_num_users"] == expected["eval_num_users"]
        for name in METRICS:
            assert report["metrics"][f"eval_{name}"] == pytest.approx(expected[f"eval_{name}"], abs=1e-9)
    assert reports[0]["one_user"] == reports[1]["one_user"] and reports[0]["one_user"]["eval_num_users"] == 1

    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert_equal(*ranks)
    single = make_trainer(tmp_path / "single", **two_process_training(per_device_train_batch_size=16))
    single.train()
    for name, weight in single.model.state_dict().items():
        torch.testing.assert_close(ranks[0][name], weight, rtol=1e-4, atol=1e-6)
    for batch in WHOLE_EPOCHS:
        single = make_trainer(tmp_path / "whole", **whole_epochs(batch))
        assert len(single.train_dataset) % batch not in (0, batch // 2)
        single.train()
        losses = [entry["loss"] for entry in single.state.log_history if "loss" in entry]
        assert reports[0]["losses"][str(batch)] == pytest.approx(losses, rel=1e-4)
        for rank in (0, 1):
            trained_weights = torch.load(tmp_path / f"whole{batch}-{rank}.pt", weights_only=True)
            for name, weight in single.model.state_dict().items():
                torch.testing.assert_close(trained_weights[name], weight, rtol=1e-4, atol=1e-6)


WHOLE_EPOCHS = (64, 32)  # of 1,112 pairs: of the last 24 the second process has none, and 8


def whole_epochs(batch, processes=1):
    return two_process_training(per_device_train_batch_size=batch // processes, num_train_epochs=2) | {"max_steps": -1}


def two_process_training(**changes):
    return dict(max_steps=3, optim="sgd", learning_rate=0.1, max_grad_norm=1e9, **changes)


def run_worker(folder, output):
    output = Path(output)
    model = UTGRecForConditionalGeneration.from_pretrained(folder)
    trainer = make_trainer(output / "evaluated", model)
    names = [f"eval_{name}" for name in METRICS] + ["eval_num_users"]
    metrics = trainer.evaluate()
    rank = trainer.accelerator.process_index
    limited = make_trainer(output / "limited", model, max_eval_users=1).evaluate()
    report = {
        "world_size": trainer.accelerator.num_processes,
        "rank": rank,
        "type": str(trainer.accelerator.distributed_type),
        "metrics": {name: metrics[name] for name in names},
        "one_user": {name: limited[name] for name in names},
    }
    report["losses"] = {}
    for batch in WHOLE_EPOCHS:
        trainer = make_trainer(output / "whole", **whole_epochs(batch, 2))
        trainer.train()
        report["losses"][batch] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        torch.save(weights(trainer.model), output / f"whole{batch}-{rank}.pt")
    (output / f"rank{rank}.json").write_text(json.dumps(report))
    recommender_trainer.length_parts = partial(recommender_trainer.length_parts, least_rows=3, least_tokens=1)
    trainer = make_trainer(output / "training", **two_process_training(per_device_train_batch_size=8))
    trainer.train()
    torch.save(weights(trainer.model), output / f"rank{rank}.pt")
    torch.distributed.barrier()
