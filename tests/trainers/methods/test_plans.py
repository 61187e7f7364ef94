"""Dry runs: they say how many steps a training will take and how many weights it has, and leave nothing behind."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from transformers import TrainingArguments

from hub_cards import load_values
from modeling_utgrec import SASRecConfig, SASRecForNextItem
from tokenization_items.item_embeddings import save_embeddings
from trainers.commands import run_command
from trainers.methods.plans import plan_training

IDS = [f"i{row}" for row in range(24)]
TINY = {
    "tokenizer": "root_codebook_size 8 leaf_codebook_size 8 codebook_dim 8 num_train_epochs 2 autoencoder none "
    "per_device_train_batch_size 5 adapter_hidden_size 8",
    "recommender": "d_model 8 d_ff 8 d_kv 4 num_heads 2 num_layers 1 num_train_epochs 2 num_beams 5 "
    "per_device_train_batch_size 13 gradient_accumulation_steps 2",
    "sequential": "hidden_size 8 num_train_epochs 3 per_device_train_batch_size 7",
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


def flags(section: str) -> list[str]:
    words = TINY[section].split()
    return [f"--{section}.use_cpu", *(f"--{section}.{word}" if n % 2 == 0 else word for n, word in enumerate(words))]


COMMANDS = {
    "finetune": [*flags("tokenizer"), *flags("recommender")],
    "train-baseline --model sasrec": flags("sequential"),
    "train-baseline --model rq-kmeans-decoder": [
        *flags("recommender"),
        "--tokenizer.codebook_size",
        "6",
        "--tokenizer.collisions",
        "least_distance",
    ],
}


@pytest.mark.parametrize("line", COMMANDS)
def test_steps_and_weights_are_those_of_the_training(line, data, tmp_path, capsys):
    command, *argv = line.split()
    argv += [*COMMANDS[line], "--data", str(data), "--output_dir", str(tmp_path)]
    if "rq-kmeans" in line:
        argv += ["--embeddings", str(data.parent / "texts")]
    run_command(command, [*argv, "--dry_run"])
    said = capsys.readouterr().out
    assert said.splitlines()[-1].startswith("A dry run: data and flags are in order, ")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    run_command(command, argv)
    models = ["tokenizer", "recommender"] if command == "finetune" else ["recommender"]
    plans = [text for text in said.splitlines() if " steps" in text]
    assert len(plans) == len(models)
    for text, model in zip(plans, models, strict=True):
        values = load_values(tmp_path / model)
        steps, weights = re.search(r": ([\d,]+) steps; ([\d,]+) weights", text).groups()
        assert int(steps.replace(",", "")) == max(entry["step"] for entry in values.logs)
        assert int(weights.replace(",", "")) == values.num_parameters, text


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
    args.max_steps = 5
    assert plan_training("it", 30, "rows", args).steps == 5
    assert "30 rows" in str(plan) and "weights" not in str(plan_training("it", 30, "rows", args))


def test_a_dry_run_refuses_what_the_run_would(data, tmp_path):
    (tmp_path / "results.json").write_text("[]")
    argv = ["--model", "sasrec", "--data", str(data), "--output_dir", str(tmp_path), "--dry_run"]
    with pytest.raises(SystemExit, match="results.json is there, of a run that finished"):
        run_command("train-baseline", argv)
    run_command("train-baseline", [*argv, "--overwrite"])
    assert (tmp_path / "results.json").read_text() == "[]" and not (tmp_path / "run.yaml").exists()
    argv[1] = "item-level"
    with pytest.raises(SystemExit, match="--semantic_ids is what --model item-level recommends by"):
        run_command("train-baseline", [*argv, "--overwrite"])
