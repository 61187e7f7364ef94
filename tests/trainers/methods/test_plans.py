"""Dry runs: they say how many steps a training will take and how many weights it has, and leave nothing behind."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from transformers import Trainer, TrainingArguments

from hub_cards import load_values
from modeling_utgrec import SASRecConfig, SASRecForNextItem
from tokenization_items.item_embeddings import save_embeddings
from trainers.commands import run_command
from trainers.methods.plans import plan_training

IDS = [f"i{row}" for row in range(24)]
TINY = {
    "tokenizer": "root_codebook_size 8 leaf_codebook_size 8 codebook_dim 8 num_train_epochs 2 autoencoder none "
    "per_device_train_batch_size 5 adapter_hidden_size 8 max_text_tokens 0 "
    "codebook_warmup_steps 1",
    "recommender": "d_model 8 d_ff 8 d_kv 4 num_heads 2 num_layers 1 num_train_epochs 2 num_beams 5 "
    "per_device_train_batch_size 13 gradient_accumulation_steps 2",
    "sequential": "hidden_size 8 num_train_epochs 3 per_device_train_batch_size 7 eval_strategy no save_strategy no "
    "load_best_model_at_end false",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shop"
    folder.mkdir()
    rng = np.random.default_rng(0)
    items = [{"item_id": each, "title": f"thing {number % 5} number {number}"} for number, each in enumerate(IDS)]
    users = [{"user_id": f"u{user}", "items": [*rng.permutation(IDS)[: 4 + user % 4]]} for user in range(20)]
    for name, rows in (("items", items), ("sequences", users)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_embeddings(folder.parent / "texts", IDS, rng.normal(size=(24, 6)).astype(np.float32))
    return folder


def flags_of(section: str) -> list[str]:
    words = TINY[section].split()
    return [f"--{section}.use_cpu", *(f"--{section}.{word}" if n % 2 == 0 else word for n, word in enumerate(words))]


COMMANDS = {
    "finetune": [*flags_of("tokenizer"), *flags_of("recommender")],
    "train-baseline --model sasrec": flags_of("sequential"),
    "train-baseline --model rq-kmeans-decoder": [
        *flags_of("recommender"),
        "--tokenizer.codebook_size",
        "6",
        "--tokenizer.collisions",
        "least_distance",
    ],
}


@pytest.mark.parametrize("line", COMMANDS)
def test_steps_and_weights_are_those_of_the_training(line, data, tmp_path, capsys):
    command, *argv = line.split()
    output = tmp_path / "run"
    argv += [*COMMANDS[line], "--data", str(data), "--output_dir", str(output)]
    if "rq-kmeans" in line:
        argv += ["--embeddings", str(data.parent / "texts")]
    run_command(command, [*argv, "--dry_run"])
    said = capsys.readouterr().out
    assert said.splitlines()[-1].startswith("A dry run: data and flags are in order, ")
    assert not list(tmp_path.iterdir())
    run_command(command, argv)
    capsys.readouterr()
    models = ["tokenizer", "recommender"] if command == "finetune" else ["recommender"]
    plans = [text for text in said.splitlines() if " steps" in text]
    assert len(plans) == len(models)
    for text, model in zip(plans, models, strict=True):
        values = load_values(output / model)
        steps, weights = re.search(r": ([\d,]+) steps; ([\d,]+) weights", text).groups()
        assert int(steps.replace(",", "")) == max(entry["step"] for entry in values.logs)
        assert int(weights.replace(",", "")) == values.num_parameters, text
    again = ["--config", str(output / "run.yaml"), "--output_dir", str(tmp_path / "again"), "--dry_run"]
    run_command(command, again)
    assert [text for text in capsys.readouterr().out.splitlines() if " steps" in text] == plans


@pytest.mark.parametrize(
    ("settings", "per_epoch"),
    [({}, 8), ({"gradient_accumulation_steps": 3}, 3), ({"dataloader_drop_last": True}, 7)],
)
def test_counted_as_the_trainer_counts(settings, per_epoch, tmp_path):
    usual = {"use_cpu": True, "per_device_train_batch_size": 4, "num_train_epochs": 2.5}
    args = TrainingArguments(str(tmp_path), **usual, **settings)
    model = SASRecForNextItem(SASRecConfig(num_items=9, hidden_size=4))
    model.model.requires_grad_(False)
    plan = plan_training("it", 30, "rows", args, model)
    assert plan.steps == int(np.ceil(2.5 * per_epoch)) and plan.batch == 4 * args.gradient_accumulation_steps
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    assert plan.num_bytes == 4 * (plan.weights + 3 * trained) and plan.trained == trained
    trainer = Trainer(model=model, args=args, train_dataset=[{"input_ids": row} for row in range(30)])
    *_, steps = trainer.set_initial_training_values(args, trainer.get_train_dataloader())
    assert plan.steps == steps
    args.max_steps = 5
    assert plan_training("it", 30, "rows", args).steps == 5
    assert "30 rows" in str(plan) and "weights" not in str(plan_training("it", 30, "rows", args))


def test_a_dry_run_refuses_what_the_run_would(data, tmp_path):
    (tmp_path / "results.json").write_text("[]")
    stopped = tmp_path / "checkpoints" / "recommender" / "checkpoint-3"
    stopped.mkdir(parents=True)
    argv = ["--model", "sasrec", "--data", str(data), "--output_dir", str(tmp_path), "--dry_run"]
    with pytest.raises(SystemExit, match="results.json is there, of a run that finished"):
        run_command("train-baseline", argv)
    run_command("train-baseline", [*argv, "--overwrite"])
    assert (tmp_path / "results.json").read_text() == "[]" and not (tmp_path / "run.yaml").exists()
    assert stopped.is_dir()
    argv[1] = "item-level"
    with pytest.raises(SystemExit, match="--semantic_ids is what --model item-level recommends by"):
        run_command("train-baseline", [*argv, "--overwrite"])


def planned(capsys, command: str, *argv) -> list[str]:
    run_command(command, [*map(str, argv), "--dry_run"])
    return [text for text in capsys.readouterr().out.splitlines() if " steps" in text]


@pytest.mark.parametrize("model", ["utgrec", "recbase"])
def test_a_later_stage_is_planned_for_the_tokenizer_that_is_there(model, data, tmp_path, capsys):
    """Whose levels are not those of the flags."""
    sizes = ["--tokenizer.num_levels", 2]
    if model == "recbase":
        sizes += ["--tokenizer.codebook_size", 8, "--tokenizer.codebook_dim", 4, "--tokenizer.hidden_sizes", 8]
        flags = ["--tokenizer.text_encoder", "tiny", "--recommender.size", "tiny", "--recommender.use_cpu"]
        flags += ["--tokenizer.use_cpu", "--tokenizer.num_train_epochs", 1, "--tokenizer.curriculum_epochs", 0]
    else:
        flags = [*flags_of("tokenizer"), *flags_of("recommender")]
    common = ["--model", model, "--data", data, *flags]
    wanted = planned(capsys, "pretrain", *common, *sizes, "--output_dir", tmp_path / "none")
    assert len(wanted) == 2 and not list(tmp_path.iterdir())
    assert planned(capsys, "pretrain", *common, *sizes, "--output_dir", tmp_path, "--stage", "tokenizer") == wanted[:1]
    later = [*common, "--output_dir", tmp_path, "--stage", "recommender"]
    with pytest.raises(SystemExit, match="there is no folder tokenizer in it"):
        planned(capsys, "pretrain", *later)
    run_command("pretrain", [*map(str, [*common, *sizes, "--output_dir", tmp_path, "--stage", "tokenizer"])])
    capsys.readouterr()
    assert planned(capsys, "pretrain", *later) == wanted[1:]
    assert planned(capsys, "pretrain", *common, "--output_dir", tmp_path, "--stage", "tokenize", "--overwrite") == []
