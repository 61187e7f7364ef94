"""Training of RQ-VAEs on embeddings: batches, logs, evaluation, resuming."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import set_seed

from modeling_utgrec import RecBaseTokenizerConfig, RecBaseTokenizerModel, RQVAEConfig, RQVAEModel
from tokenization_items.processing_content import codes_of_embeddings
from trainers.embedding_tokenizer_trainer import (
    EmbeddingRows,
    EmbeddingTokenizerTrainer,
    EmbeddingTokenizerTrainingArguments,
)

SIZES = {"input_dim": 6, "hidden_sizes": [8], "codebook_dim": 4, "num_levels": 2, "codebook_size": 6}
RECBASE = {**SIZES, "curriculum_passes": 3, "restart_passes": 2, "entropy_weight": 0.1, "kl_weight": 1e-3}
LETTER = {"collaborative_weight": 0.1, "collaborative_dim": 3, "diversity_weight": 1e-2, "diversity_clusters": 2}


def make_items(num_items: int = 50, collaborative: bool = False) -> EmbeddingRows:
    rng = np.random.default_rng(0)
    matrices = rng.standard_normal((num_items, 6)) + 4, rng.standard_normal((num_items, 3))
    return EmbeddingRows(*(matrix.astype(np.float32) for matrix in matrices[: 1 + collaborative]))


def make_trainer(folder, items=None, config=None, seed=0, model=None, **changes) -> EmbeddingTokenizerTrainer:
    values = {"max_steps": 12, "per_device_train_batch_size": 16, "logging_steps": 4, "learning_rate": 1e-2}
    values |= {"output_dir": str(folder), "use_cpu": True, "disable_tqdm": True, "seed": seed}
    set_seed(seed)
    if model == "recbase":
        model = RecBaseTokenizerModel(RecBaseTokenizerConfig(**RECBASE))
    else:
        model = RQVAEModel(RQVAEConfig(**SIZES, **(config or {})))
    arguments = EmbeddingTokenizerTrainingArguments(**{**values, **changes})
    return EmbeddingTokenizerTrainer(model, arguments, make_items() if items is None else items)


def test_batches_are_rows():
    items = make_items(collaborative=True)
    batch = items.collate(items.__getitems__([3, 0, 3]))
    assert len(items) == 50 and set(batch) == {"embeddings", "collaborative"}
    for name, values in batch.items():
        torch.testing.assert_close(values, torch.stack([items[row][name] for row in (3, 0, 3)]))


def test_negatives_of_a_batch_are_not_those_of_a_step(tmp_path, caplog):
    make_trainer(tmp_path, gradient_accumulation_steps=2)
    make_trainer(tmp_path, make_items(collaborative=True), LETTER)
    assert not caplog.messages
    make_trainer(tmp_path, make_items(collaborative=True), LETTER, gradient_accumulation_steps=2)
    assert "those of 16 examples and not of the 32 of a step" in caplog.text


def test_measures_of_others_are_refused(tmp_path):
    """They were left out without a word."""
    trainer = make_trainer(tmp_path)
    assert trainer.evaluate(trainer.train_dataset) == trainer.evaluate()
    with pytest.raises(ValueError, match="evaluates the items that it is trained on: leave eval_dataset out"):
        trainer.evaluate(make_items(20))
    with pytest.raises(ValueError, match="EmbeddingTokenizerTrainer takes no compute_metrics: losses and measures"):
        EmbeddingTokenizerTrainer(trainer.model, trainer.args, make_items(), compute_metrics=lambda prediction: {})


def test_wrong_matrices_are_named():
    with pytest.raises(ValueError, match="5 items, but 4 collaborative"):
        EmbeddingRows(np.ones((5, 2)), np.ones((4, 2)))
    broken = np.ones((5, 2))
    broken[3] = np.nan
    with pytest.raises(ValueError, match=r"1 rows of the collaborative embeddings .*: 3"):
        EmbeddingRows(np.ones((5, 2)), broken)
    with pytest.raises(ValueError, match=r"got shape \(3,\)"):
        EmbeddingRows(np.ones(3))


@pytest.mark.parametrize("letter", [False, True])
def test_losses_fall_and_parts_and_codebooks_are_logged(tmp_path, letter):
    trainer = make_trainer(tmp_path, make_items(collaborative=letter), LETTER if letter else None, max_steps=60)
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(entries) == 15 and entries[-1]["loss"] < entries[0]["loss"]
    parts = {"reconstruction", "quantization"} | ({"collaborative", "diversity"} if letter else set())
    assert {key.removeprefix("loss/") for key in entries[0] if key.startswith("loss/")} == parts
    assert {"codes/used_0", "codes/perplexity_1"} <= entries[0].keys()
    assert trainer.model.training_passes == 60


def test_a_fresh_model_takes_the_embeddings_mean_and_scale_and_a_trained_one_keeps_its_own(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=1)
    embeddings = trainer.train_dataset.columns["embeddings"]
    torch.testing.assert_close(trainer.model.input_mean, embeddings.mean(0))
    length = (embeddings - embeddings.mean(0)).square().sum(-1).mean().sqrt()
    torch.testing.assert_close(trainer.model.input_scale, 1 / length)
    trainer.train()
    other = EmbeddingRows(embeddings.numpy() * 3)
    again = EmbeddingTokenizerTrainer(trainer.model, trainer.args, other)
    torch.testing.assert_close(again.model.input_scale, 1 / length)


def test_evaluation_covers_all_items_and_changes_nothing(tmp_path):
    items = make_items(collaborative=True)
    trainer = make_trainer(tmp_path, items, LETTER)
    trainer.train()
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    metrics = trainer.evaluate()
    assert all(torch.equal(value, trainer.model.state_dict()[name]) for name, value in before.items())
    model = trainer.model.eval()
    with torch.no_grad():
        output = model(**items.columns)
    codes = output.codes.numpy()
    _, groups, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    assert metrics["eval_collision_rate"] == pytest.approx((counts[groups.reshape(-1)] > 1).mean())
    assert metrics["eval_used_0"] == pytest.approx(len(np.unique(codes[:, 0])) / 6)
    for name in ("reconstruction", "quantization", "diversity"):
        assert metrics[f"eval_{name}"] == pytest.approx(output[f"{name}_loss"].item(), rel=1e-5)
    assert metrics["eval_loss"] == pytest.approx(output.loss.item(), rel=1e-5)
    assert metrics["eval_restarts"] == int(model.restarts)


def test_the_best_weights_have_all_levels(tmp_path):
    steps = dict(max_steps=6, eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2)
    trainer = make_trainer(tmp_path, model="recbase", load_best_model_at_end=True, learning_rate=0.0, **steps)
    trainer.train()  # each level in use adds its own part to the loss
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert losses[0] < min(losses[1:]) and trainer.state.best_metric == min(losses[1:])
    assert trainer.model.num_active_levels == 2


def test_evaluation_of_several_domains(tmp_path):
    embeddings = make_items().columns["embeddings"].numpy().copy()
    embeddings[45:] = embeddings[:5]  # items of the second domain like some of the first
    items = EmbeddingRows(embeddings, domains={"toys": 40, "films": 10})
    assert items.rows_of_domains() == {"toys": slice(0, 40), "films": slice(40, 50)}
    trainer = make_trainer(tmp_path, items, model="recbase", max_steps=10)
    trainer.train()
    metrics = trainer.evaluate()
    codes = [tuple(row) for row in codes_of_embeddings(trainer.model, embeddings)[0].tolist()]
    for name, rows in (("", codes), ("_toys", codes[:40]), ("_films", codes[40:])):
        expected = np.mean([rows.count(row) > 1 for row in rows])
        assert metrics[f"eval_collision_rate{name}"] == pytest.approx(expected)
    shares = np.array([codes.count(code) / 50 for code in set(codes)])
    assert metrics["eval_entropy_pairs"] == pytest.approx(-(shares * np.log(shares)).sum())
    assert "eval_entropy_triples" not in metrics  # of two levels
    assert metrics.keys() >= {"eval_entropy", "eval_kl", "eval_reconstruction", "eval_used_1", "eval_perplexity_1"}
    assert trainer.model.training_passes == 10  # the evaluation counted nothing
    with pytest.raises(ValueError, match="50 items, but the domains have {'toys': 40}"):
        EmbeddingRows(embeddings, domains={"toys": 40})


def test_codes_do_not_depend_on_the_parts_they_are_computed_in(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path)
    trainer.train()
    embeddings = trainer.train_dataset.columns["embeddings"].numpy()
    codes, residuals = codes_of_embeddings(trainer.model, embeddings)
    assert codes.shape == (50, 2) and residuals.shape == (50, 2, 4) and residuals.dtype == np.float32
    monkeypatch.setattr("tokenization_items.processing_content.ROWS_AT_A_TIME", 7)
    again, parts = codes_of_embeddings(trainer.model, embeddings)
    np.testing.assert_array_equal(codes, again)
    np.testing.assert_allclose(residuals, parts, atol=1e-5)
    assert trainer.model.training  # as it was


def test_training_follows_the_seed(tmp_path):
    models = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        trainer = make_trainer(tmp_path / folder, seed=seed)
        trainer.train()
        models.append(trainer.model.state_dict())
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    assert not torch.equal(models[0]["encoder.0.weight"], models[2]["encoder.0.weight"])


def test_a_resumed_training_ends_as_an_uninterrupted_one(tmp_path):
    """Codebooks are not set anew, idle codes are counted on, and the clusters stay."""
    config = {**LETTER, "restart_passes": 2, "cluster_refresh_passes": 5}
    items = make_items(collaborative=True)
    whole = make_trainer(tmp_path / "whole", items, config, save_strategy="steps", save_steps=6)
    whole.train()
    resumed = make_trainer(tmp_path / "resumed", items, config, seed=0)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-6"))
    a, b = whole.model.state_dict(), resumed.model.state_dict()
    assert whole.model.restarts > 0
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_defaults_are_those_documented():
    arguments = EmbeddingTokenizerTrainingArguments()
    assert (arguments.learning_rate, arguments.per_device_train_batch_size, arguments.max_steps) == (1e-3, 1024, 1000)
    assert arguments.optim.startswith("adamw")


@pytest.fixture(scope="module")
def ranks(run_two_processes, tmp_path_factory) -> Path:
    """What both processes left of a training of each kind."""
    folder = tmp_path_factory.mktemp("ranks")
    run_two_processes(__file__, folder)
    return folder


@pytest.mark.distributed
@pytest.mark.parametrize("kind", ["letter", "recbase"])
def test_two_processes_have_one_set_of_codebooks(ranks, kind):
    """k-means, restarts and clusters are drawn on each process, and one's are taken; levels start in step."""
    reports = [json.loads((ranks / f"{kind}{rank}.json").read_text()) for rank in (0, 1)]
    assert [report["world_size"] for report in reports] == [2, 2]
    states = [torch.load(ranks / f"{kind}{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert reports[0]["restarts"] > 0 and reports[0]["metrics"] == reports[1]["metrics"]


def run_worker(folder: str) -> None:
    output = Path(folder)
    config = {**LETTER, "restart_passes": 2, "cluster_refresh_passes": 5}
    for kind in ("letter", "recbase"):
        items = make_items(collaborative=kind == "letter")
        trainer = make_trainer(output / kind, items, config, model=kind, per_device_train_batch_size=8)
        rank = trainer.accelerator.process_index
        torch.manual_seed(rank)  # k-means then differs between the processes
        trainer.train()
        torch.save(dict(trainer.model.named_parameters()), output / f"{kind}{rank}.pt")
        metrics = {name: value for name, value in trainer.evaluate().items() if "collision" in name or "used" in name}
        report = {"world_size": trainer.accelerator.num_processes, "restarts": int(trainer.model.restarts)}
        (output / f"{kind}{rank}.json").write_text(json.dumps(report | {"metrics": metrics}))
    torch.distributed.barrier()
