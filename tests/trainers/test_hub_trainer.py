"""Trainings and the Hub: what is sent, what is not, cards, and taking up a training from there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, ModelCard, snapshot_download
from transformers import EarlyStoppingCallback, set_seed

from hub_cards import load_values
from modeling_utgrec import (
    RQVAEConfig,
    RQVAEModel,
    SASRecConfig,
    SASRecForNextItem,
    UTGRecConfig,
    UTGRecForConditionalGeneration,
)
from tokenization_items.catalogue import Catalogue
from tokenization_items.item_index import ItemIndex
from tokenization_items.tokenization_items import UniversalItemTokenizer
from trainers.data.co_occurrence import CoOccurrenceGraph
from trainers.data.interactions import Interactions
from trainers.embedding_tokenizer_trainer import (
    EmbeddingRows,
    EmbeddingTokenizerTrainer,
    EmbeddingTokenizerTrainingArguments,
)
from trainers.hub.upload import published_files
from trainers.item_tokenizer_trainer import ItemTokenizerTrainer, ItemTokenizerTrainingArguments
from trainers.recommender_trainer import EvaluationData, RecommenderTrainer, RecommenderTrainingArguments
from trainers.runtime.checkpoints import hub_checkpoint
from trainers.sequential_trainer import SequentialTrainer, SequentialTrainingArguments
from trainers.training_data.item_pairs import ItemPairs
from trainers.training_data.next_item_windows import TrainingData

ROOT = Path(__file__).parents[2]
IDS = [f"item{row}" for row in range(10)]
QUIET = {"use_cpu": True, "disable_tqdm": True, "logging_steps": 1, "seed": 3, "dataloader_pin_memory": False}


def make_interactions():
    rng = np.random.default_rng(0)
    return Interactions.from_sequences([[IDS[i] for i in rng.permutation(10)[:6]] for _ in range(24)], IDS)


def make_recommender(seed=0):
    set_seed(seed)
    sizes = dict(d_model=8, d_ff=8, num_heads=2, d_kv=4, num_layers=1, num_decoder_layers=1, dropout_rate=0.1)
    config = UTGRecConfig(root_codebook_size=4, leaf_codebook_size=4, item_tokenizer_fingerprint="f00d", **sizes)
    return UTGRecForConditionalGeneration(config)


def make_trainer(folder, **changes):
    interactions = make_interactions()
    codes = np.stack(np.unravel_index(np.arange(10) * 5, (4, 4, 4)), axis=1)
    index = ItemIndex([4] * 3, [2, 6, 6])
    index.assign(IDS, codes)
    evaluation = EvaluationData(interactions, index)
    training = TrainingData(interactions.training_part(), evaluation.token_table)
    values = dict(per_device_train_batch_size=36, num_beams=4, max_history=4, num_train_epochs=2, save_strategy="no")
    args = RecommenderTrainingArguments(str(folder), **QUIET | values | changes)
    return RecommenderTrainer(make_recommender(), args, training, evaluation)


def files_of(repo_id):
    return set(HfApi().list_repo_files(repo_id)) - {".gitattributes"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    trainer = make_trainer(folder, eval_strategy="epoch", learning_rate=0.01)
    trainer.train()
    trainer.save_model()
    return trainer, folder


def test_tensorboard_gets_the_log_which_stays_here(tmp_path):
    pytest.importorskip("tensorboard", reason="of utgrec[tracking]")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = make_trainer(tmp_path, report_to=["tensorboard"], logging_strategy="epoch")
    trainer.train()
    trainer.save_model()
    (file,) = tmp_path.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file.parent))
    events.Reload()
    losses = [round(entry.value, 3) for entry in events.Scalars("train/loss")]
    assert losses == [round(entry["loss"], 3) for entry in trainer.state.log_history if "loss" in entry]
    assert "model.safetensors" in published_files(tmp_path) and file.name not in " ".join(published_files(tmp_path))


TRACKED = """
from trackio.sqlite_storage import SQLiteStorage
from test_hub_trainer import make_trainer
import sys

trainer = make_trainer(sys.argv[1], report_to=["trackio"], project="tiny", logging_strategy="epoch")
trainer.train()
(run,) = SQLiteStorage.get_runs("tiny")
kept = [round(each["train/loss"], 3) for each in SQLiteStorage.get_logs("tiny", run) if "train/loss" in each]
assert kept == [round(each["loss"], 3) for each in trainer.state.log_history if "loss" in each] != [], kept
"""


@pytest.mark.slow
def test_trackio_gets_the_log_which_stays_here(tmp_path):
    """In a process of its own: trackio reads where to write as it is imported."""
    pytest.importorskip("trackio", reason="of utgrec[tracking]")
    told = {"TRACKIO_DIR": str(tmp_path / "trackio"), "PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", TRACKED, str(tmp_path / "run")]
    done = subprocess.run(command, env=os.environ | told, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert list((tmp_path / "trackio").iterdir())


def test_each_training_has_its_own_precision(tmp_path):
    """Of trainings whose arguments were read together, as in a script: accelerate would keep the first one's."""
    values = dict(max_steps=1, save_strategy="no", per_device_train_batch_size=8, **QUIET)
    arguments = [
        SequentialTrainingArguments(str(tmp_path / str(number)), bf16=number == 0, **values) for number in range(2)
    ]
    for args, precision in zip(arguments, ("bf16", "no"), strict=True):
        model = SASRecForNextItem(SASRecConfig(num_items=10, hidden_size=8, max_history=4))
        trainer = SequentialTrainer(model, args, make_interactions().training_part())
        trainer.train()
        assert trainer.accelerator.mixed_precision == precision


def test_a_save_holds_card_index_and_no_pickle(trained):
    trainer, folder = trained
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"README.md", "card_values.json", "model.safetensors", "plots/losses.png"} <= names
    assert {"item_index.safetensors", "item_ids.json", "item_tokenizer_config.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt"))]
    tokenizer = UniversalItemTokenizer.from_pretrained(folder)
    tokenizer.check_recommender(UTGRecForConditionalGeneration.from_pretrained(folder))
    assert tokenizer.max_history == 4 and tokenizer.index.item_ids == IDS


def test_the_card_says_what_the_training_measured(trained):
    trainer, folder = trained
    card, values = ModelCard.load(folder / "README.md"), load_values(folder)
    history = trainer.state.log_history
    assert values.logs == history and values.num_items == 10 and values.fingerprint == "f00d"
    last = [entry for entry in history if "eval_ndcg@10" in entry][-1]
    (evaluation,) = values.evaluations
    assert evaluation.metrics == {k[5:]: v for k, v in last.items() if re.match(r"eval_(recall|ndcg|mrr)@", k)}
    assert evaluation.protocol["part"] == "validation" and evaluation.num_users == 24
    assert {r.metric_type: r.metric_value for r in card.data.eval_results} == evaluation.metrics
    assert values.hyperparameters["learning_rate"] == 0.01 and values.hyperparameters["d_model"] == 8
    assert values.hyperparameters["global_train_batch_size"] == 36 and "output_dir" not in values.hyperparameters
    assert values.training_seconds == history[-1]["train_seconds"] > 0
    assert str(folder) not in (folder / "README.md").read_text() + (folder / "card_values.json").read_text()


def test_the_best_step_counts_when_its_weights_were_loaded(tmp_path):
    both = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True, "num_train_epochs": 4}
    trainer = make_trainer(tmp_path, learning_rate=0.03, greater_is_better=False, **both)  # an early one is the best
    trainer.train()
    entries = {e["step"]: e["eval_ndcg@10"] for e in trainer.state.log_history if "eval_ndcg@10" in e}
    best = trainer.state.best_global_step
    assert len(set(entries.values())) > 1 and best != max(entries)
    (evaluation,) = trainer.card_values().evaluations
    assert evaluation.metrics["ndcg@10"] == entries[best] and evaluation.protocol["step"] == best
    trainer.evaluate(part="test")
    assert trainer.card_values().evaluations[0].metrics["ndcg@10"] == entries[best]


def test_changes_to_the_card_survive_every_save(tmp_path):
    trainer = make_trainer(tmp_path, save_strategy="epoch")
    trainer.save_model()
    card = tmp_path / "README.md"
    text = card.read_text().replace("library_name:", "pipeline_tag: other\nlibrary_name:") + "\n## Mine\n\nMy words.\n"
    card.write_text(text)
    trainer.train()
    trainer.save_model()
    for folder in (tmp_path, tmp_path / "checkpoint-2"):
        new = ModelCard.load(folder / "README.md")
        assert new.data.pipeline_tag == "other" and "My words." in new.text and "Training loss" in new.text


def test_a_card_that_cannot_be_written_does_not_stop_a_training(tmp_path):
    (tmp_path / "README.md").write_text("---\ntags: [a\n---\nMine")
    trainer = make_trainer(tmp_path)
    trainer.save_model()
    assert (tmp_path / "README.md").read_text() == "---\ntags: [a\n---\nMine"
    assert (tmp_path / "model.safetensors").is_file()


def make_sequential_trainer(folder, **changes):
    interactions = make_interactions()
    set_seed(0)
    model = SASRecForNextItem(SASRecConfig(num_items=10, hidden_size=8, num_heads=1, num_layers=1, max_history=4))
    args = SequentialTrainingArguments(str(folder), **QUIET | {"save_strategy": "no"} | changes)
    return SequentialTrainer(model, args, interactions.training_part(), interactions)


def test_a_sequential_recommender_has_a_card_too(tmp_path):
    trainer = make_sequential_trainer(tmp_path, max_steps=2)
    trainer.train()
    trainer.evaluate()
    trainer.save_model()
    assert "scores every item" in (tmp_path / "README.md").read_text()
    assert load_values(tmp_path).evaluations[0].metrics["ndcg@10"] > 0


def make_item_tokenizer_trainer(folder, catalogue, network, **changes):
    sequences = Interactions.from_sequences([catalogue.item_ids], catalogue.item_ids)
    pairs = ItemPairs(catalogue, CoOccurrenceGraph.from_interactions(sequences), network[1], None, seed=0)
    values = {"per_device_train_batch_size": 3, "save_strategy": "no"}
    return ItemTokenizerTrainer(
        network[0], ItemTokenizerTrainingArguments(str(folder), **QUIET | values | changes), pairs
    )


@pytest.fixture
def catalogue():
    titles = ["red string", "blue oak", "steel bow", "amp case", "drum reed", "violin stand"]
    return Catalogue.from_records([{"item_id": f"i{row}", "title": title} for row, title in enumerate(titles)])


def test_an_item_tokenizers_checkpoint_is_an_item_tokenizer(tmp_path, make_network, tiny_bert, catalogue):
    network = make_network(tiny_bert, latent_channels=None)
    trainer = make_item_tokenizer_trainer(tmp_path, catalogue, network, max_steps=2)
    trainer.card_facts["license"] = "mit"
    trainer.train()
    trainer.evaluate()
    trainer.save_model()
    tokenizer = UniversalItemTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == 0
    tokenizer.add_items(catalogue)
    assert tokenizer.decode(tokenizer.encode("i3")) == "i3"
    values, last = load_values(tmp_path), trainer.state.log_history[-1]
    assert [row["Perplexity"] for row in values.codebooks] == [last[f"eval_perplexity_{level}"] for level in range(3)]
    assert ModelCard.load(tmp_path / "README.md").data.license == "mit"


def make_embedding_trainer(folder, **changes):
    set_seed(0)
    network = RQVAEModel(RQVAEConfig(input_dim=4, hidden_sizes=[4], codebook_dim=4, num_levels=2, codebook_size=4))
    args = EmbeddingTokenizerTrainingArguments(str(folder), **QUIET | {"max_steps": -1} | changes)
    rows = EmbeddingRows(np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32))
    return EmbeddingTokenizerTrainer(network, args, rows)


def log_without_times(trainer):
    """But for the training's mean loss, which is of the steps since it was resumed."""
    times = ("runtime", "per_second", "seconds", "total_flos", "train_loss")
    return [
        {name: value for name, value in entry.items() if not name.endswith(times)}
        for entry in trainer.state.log_history
    ]


@pytest.mark.parametrize(
    ("kind", "delay"),
    [("recommender", 0), ("sequential", 0), ("sequential", 2), ("embeddings", 0), ("item tokenizer", 0)],
)
def test_the_evaluation_at_an_epochs_end_comes_after_its_last_checkpoint(tmp_path, make_network, tiny_bert, catalogue,
                                                                          kind, delay):  # fmt: skip
    """Also when the training goes on from there, in the next epoch, or is over."""
    values = {"num_train_epochs": 2.5, "eval_strategy": "epoch", "save_strategy": "steps", "save_steps": 1}

    def make(name):
        kinds = {"recommender": make_trainer, "sequential": make_sequential_trainer}
        if kind == "item tokenizer":
            set_seed(0)
            network = make_network(tiny_bert, latent_channels=None)
            return make_item_tokenizer_trainer(tmp_path / name, catalogue, network, **values, eval_delay=delay)
        sizes = {"per_device_train_batch_size": 36 if kind == "recommender" else 12}
        return kinds.get(kind, make_embedding_trainer)(tmp_path / name, **values, **sizes, eval_delay=delay)

    whole = make("whole")
    whole.train()
    state = torch.get_rng_state()
    evaluated = [entry["step"] for entry in whole.state.log_history if "eval_runtime" in entry or "eval_loss" in entry]
    assert len(evaluated) == (2 if delay else 3) and evaluated[-1] == whole.state.max_steps
    for step in (whole.state.max_steps * 2 // 5, whole.state.max_steps):
        resumed = make(f"resumed{step}")
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert log_without_times(resumed) == log_without_times(whole)
        assert any("train_loss" in entry for entry in resumed.state.log_history) == (step < whole.state.max_steps)
        assert torch.equal(torch.get_rng_state(), state)
        for name, value in whole.model.state_dict().items():
            assert torch.equal(resumed.model.state_dict()[name], value), name


def test_the_best_checkpoint_that_was_judged_after_its_save_is_kept(tmp_path):
    """It was, by a training that was resumed, and not by one that was not interrupted."""
    values = {"num_train_epochs": 4, "eval_strategy": "epoch", "save_strategy": "steps", "save_steps": 1}
    values |= {"learning_rate": 0.0, "per_device_train_batch_size": 24, "save_total_limit": 2}
    trainer = make_sequential_trainer(tmp_path, **values)
    trainer.train()
    assert trainer.state.best_global_step == 1
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-4"}


def test_an_evaluation_that_was_missing_stops_a_training_early(tmp_path):
    values = {"num_train_epochs": 9, "eval_strategy": "epoch", "save_strategy": "steps", "save_steps": 1}
    values |= {"learning_rate": 0.0, "per_device_train_batch_size": 24}
    whole, resumed = (make_sequential_trainer(tmp_path / name, **values) for name in ("whole", "resumed"))
    for trainer in (whole, resumed):
        trainer.add_callback(EarlyStoppingCallback(1))
    whole.train()
    assert whole.state.global_step == 2
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert log_without_times(resumed) == log_without_times(whole) and resumed.state.global_step == 2


@pytest.mark.hub
def test_every_save_is_pushed_with_card_and_index_and_without_pickles(hub, tmp_path):
    repo_id = hub.new_repo("every-save")
    token = os.environ["HF_TOKEN"]
    settings = {"push_to_hub": True, "hub_model_id": repo_id, "hub_private_repo": True, "hub_token": token}
    trainer = make_trainer(tmp_path / "run", save_strategy="epoch", hub_always_push=True, **settings)
    trainer.train()
    pushed = files_of(repo_id)
    assert {"README.md", "card_values.json", "plots/losses.png", "model.safetensors", "item_ids.json"} <= pushed
    assert not [name for name in pushed if name.endswith((".bin", ".pt", ".pth")) or "checkpoint-" in name]
    trainer.push_to_hub()
    assert HfApi().model_info(repo_id).private
    folder = snapshot_download(repo_id)
    model = UTGRecForConditionalGeneration.from_pretrained(folder)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), trainer.model.parameters(), strict=True))
    UniversalItemTokenizer.from_pretrained(folder).check_recommender(model)
    assert f'from_pretrained("{repo_id}")' in ModelCard.load(repo_id).text
    assert "training_args.bin" not in files_of(repo_id)
    for place in (Path(folder), tmp_path):
        assert not [path for path in place.rglob("*") if path.is_file() and token.encode() in path.read_bytes()]


@pytest.mark.hub
@pytest.mark.parametrize("strategy, folder", [("checkpoint", "last-checkpoint"), ("all_checkpoints", "checkpoint-2")])
def test_a_training_goes_on_from_the_hub(hub, tmp_path, strategy, folder):
    repo_id = hub.new_repo("resume")
    whole = make_trainer(tmp_path / "whole")
    whole.train()
    settings = {"push_to_hub": True, "hub_model_id": repo_id, "hub_strategy": strategy, "hub_always_push": True}
    first = make_trainer(tmp_path / "first", save_strategy="epoch", save_total_limit=1, **settings)
    first.train()
    assert f"{folder}/optimizer.pt" in files_of(repo_id)
    assert not [name for name in files_of(repo_id) if "training_args" in name]
    assert hub_checkpoint(repo_id).endswith("last-checkpoint" if strategy == "checkpoint" else "checkpoint-4")
    assert hub_checkpoint(repo_id.partition("/")[2]) == hub_checkpoint(repo_id), "one's own, by its name alone"
    if strategy == "all_checkpoints":
        HfApi().delete_folder("checkpoint-4", repo_id)  # now at step 2 of 4
        second = make_trainer(tmp_path / "second")
        second.train(resume_from_checkpoint=repo_id)
        assert second.state.global_step == 4
        pairs = zip(whole.model.parameters(), second.model.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        seconds = [entry["train_seconds"] for entry in second.state.log_history]
        assert seconds == sorted(seconds) and len(seconds) == 5, "the time goes on too"


@pytest.mark.hub
def test_a_card_that_was_changed_on_the_hub_is_kept(hub, tmp_path):
    repo_id = hub.new_repo("edited")
    api = HfApi()
    api.create_repo(repo_id)
    api.upload_file(
        repo_id=repo_id, path_or_fileobj=b"---\nlicense: mit\n---\n\nOurs, by hand.\n", path_in_repo="README.md"
    )
    trainer = make_trainer(tmp_path, push_to_hub=True, hub_model_id=repo_id)
    trainer.push_to_hub()
    card = ModelCard.load(repo_id)
    assert card.data.license == "mit" and card.data.library_name == "transformers"
    assert card.text.strip() == "Ours, by hand."


@pytest.mark.hub
def test_what_cannot_be_resumed_says_why(hub, tmp_path):
    repo_id = hub.new_repo("no-checkpoint")
    HfApi().create_repo(repo_id)
    with pytest.raises(ValueError, match='holds no checkpoint.*hub_strategy="checkpoint"'):
        make_trainer(tmp_path).train(resume_from_checkpoint=repo_id)
    with pytest.raises(ValueError, match="neither a folder nor a repository"):
        make_trainer(tmp_path).train(resume_from_checkpoint=f"{hub.namespace}/nothing-there")
    with pytest.raises(ValueError, match="neither a folder nor a repository"):
        make_trainer(tmp_path).train(resume_from_checkpoint="../some/where/else")


def test_pickled_weights_are_refused(tmp_path):
    trainer = make_trainer(tmp_path / "run", save_strategy="epoch", num_train_epochs=1)
    trainer.train()
    checkpoint = tmp_path / "run" / "checkpoint-2"
    torch.save(trainer.model.state_dict(), checkpoint / "pytorch_model.bin")
    make_trainer(tmp_path / "run").train(resume_from_checkpoint=str(checkpoint))  # beside safetensors it is not read
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="pytorch_model.bin, a pickle: opening one can run any code"):
        make_trainer(tmp_path / "run").train(resume_from_checkpoint=str(checkpoint))
    assert json.loads((checkpoint / "trainer_state.json").read_text())["global_step"] == 2
