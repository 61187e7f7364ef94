"""Commands that are killed and run again make what they would have made. A few kills here; `make test-faults` has the
rest, KILLS of each command."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest

from trainers import Recommender
from trainers.data.synthetic import DOWNSTREAM_DOMAIN, PRETRAINING_DOMAINS, write_all

from .killer import Command, Killer, differences

KILLS = int(os.environ.get("KILLS", "10"))
SAVING = (
    "max_steps: 6, save_strategy: steps, save_steps: 2, save_total_limit: 2, logging_steps: 1, use_cpu: true, "
    "disable_tqdm: true, report_to: none"
)
JUDGED = f"eval_strategy: steps, eval_steps: 2, load_best_model_at_end: true, {SAVING}"
TINY = f"""
sequential: {{hidden_size: 8, max_history: 5, per_device_train_batch_size: 16, {JUDGED}}}
tokenizer: {{codebook_size: 8, {SAVING}}}
recommender: {{d_model: 8, d_ff: 8, d_kv: 4, num_heads: 2, num_layers: 1, max_history: 5, num_beams: 10,
              per_device_train_batch_size: 32, {JUDGED}}}
item_level: {{hidden_size: 8, num_layers: 1, max_history: 5, num_beams: 10, {JUDGED}}}
"""
PRETRAINING = {
    "utgrec": f"""
tokenizer: {{image_size: 16, root_codebook_size: 16, leaf_codebook_size: 24, codebook_dim: 8,
            adapter_hidden_size: 16, max_text_tokens: 12, denoiser_width: 16, codebook_warmup_steps: 1,
            per_device_train_batch_size: 16, {SAVING}}}
recommender: {{d_model: 16, d_ff: 16, d_kv: 8, num_heads: 2, num_layers: 1, num_beams: 10, max_history: 5,
              per_device_train_batch_size: 128, {SAVING}}}
""",
    "recbase": f"""
model: recbase
tokenizer: {{text_encoder: tiny, num_levels: 3, codebook_size: 8, codebook_dim: 8, hidden_sizes: [16],
            curriculum_epochs: 0, {SAVING}}}
recommender: {{size: tiny, warm_start: true, hidden_size: 16, intermediate_size: 16, head_dim: 8, num_beams: 10,
              num_attention_heads: 2, max_history: 5, per_device_train_batch_size: 32, {SAVING}}}
""",
}
CHECKPOINTS = Path(__file__).parents[1] / "checkpoints" / "version_0_1"


@pytest.fixture(scope="module")
def killer(tmp_path_factory):
    return Killer(tmp_path_factory.mktemp("kills"))


@pytest.fixture(scope="module")
def data(killer):
    write_all(killer.folder / "data", num_items=64, num_users=60)
    (killer.folder / "tiny.yaml").write_text(TINY)
    return killer.folder / "data" / DOWNSTREAM_DOMAIN


def training(killer, data, model, *flags):
    argv = ["train-baseline", "--model", model, "--config", str(killer.folder / "tiny.yaml"), "--data", str(data)]
    return Command(f"train-baseline --model {model}", [*argv, "--output_dir", "{out}", *flags], again=["--resume"])


@pytest.fixture(scope="module")
def recommender(killer, data):
    """A recommender with its index, for commands that change one."""
    output = killer.folder / "tiger"
    command = training(killer, data, "tiger", "--text_encoder", "tf-idf")
    code, _, _ = killer.run(command, output)
    assert code == 0, killer.log
    return output / "recommender"


def pretraining(killer, data, model):
    config = killer.folder / f"{model}.yaml"
    config.write_text(PRETRAINING[model])
    argv = ["pretrain", "--config", str(config), "--output_dir", "{out}", "--data"]
    argv += [str(data.parent / name) for name in PRETRAINING_DOMAINS]
    return Command(f"pretrain --model {model}", argv, again=["--resume"])


def assert_survived(report, least=1):
    print(report)
    assert report.survived == report.tried and report.killed >= least, str(report)


def test_kills_of_a_training(killer, data):
    """Within the second checkpoint, and while what was trained is saved."""
    assert_survived(killer.try_kills(training(killer, data, "sasrec"), [0.55, 0.97]), least=2)


def test_the_harness_sees_what_differs(tmp_path):
    for name, seconds in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps([{"ndcg": 0.5, "train_seconds": seconds}]))
        np.save(tmp_path / name / "x.npy", np.arange(3))
    assert differences(tmp_path / "a", tmp_path / "b") == []
    np.save(tmp_path / "b" / "x.npy", np.arange(4))
    (tmp_path / "b" / "results.json").write_text(json.dumps([{"ndcg": 0.6}]))
    (tmp_path / "b" / ".checkpoint-2.unfinished").mkdir()
    (tmp_path / "b" / "y.txt").touch()
    said = [".checkpoint-2.unfinished was left", "results.json differs", "x.npy differs", "y.txt is too many"]
    assert differences(tmp_path / "a", tmp_path / "b") == said


@pytest.mark.slow
@pytest.mark.parametrize("model", ["sasrec", "tiger", "tiger-item-level"])
def test_many_kills_of_trainings(killer, data, model):
    flags = () if model == "sasrec" else ("--text_encoder", "tf-idf")
    assert_survived(killer.try_kills(training(killer, data, model, *flags), KILLS))


@pytest.mark.slow
def test_many_kills_of_a_preparation(killer):
    source = killer.folder / "recbole"
    source.mkdir()
    rows = [
        f"u{user}\ti{item}\t{1_600_000_000 + 1000 * user + item}"
        for user in range(40)
        for item in range(user % 3, 30, 2)
    ]
    header = "user_id:token\titem_id:token\ttimestamp:float"
    (source / "x.inter").write_text("\n".join([header, *rows]) + "\n")
    items = [f"i{item}\tItem {item}" for item in range(30)]
    (source / "x.item").write_text("\n".join(["item_id:token\ttitle:token_seq", *items]) + "\n")
    argv = ["prepare", "--format", "recbole", "--input", str(source), "--co_occurrence", "--output_dir", "{out}"]
    assert_survived(killer.try_kills(Command("prepare", argv), KILLS))


@pytest.mark.slow
def test_many_kills_of_an_embedding(killer, data):
    argv = ["embed", "--data", str(data), "--encoder", "tf-idf", "--output_dir", "{out}"]
    assert_survived(killer.try_kills(Command("embed", argv), KILLS))


@pytest.mark.slow
def test_many_kills_of_a_memory(killer, data, recommender):
    argv = ["memory", "--recommender", "{out}", "--data", str(data), "--num_beams", "10"]
    assert_survived(killer.try_kills(Command("memory", argv, given=recommender), KILLS))


@pytest.mark.slow
def test_many_kills_of_a_daily_update(killer):
    """Of a quick start's folder, whose index, memory and journal change together."""
    words = ["red", "blue", "steel", "oak", "glass", "paper", "soft", "large"]
    goods = [{"sku": f"s{row}", "name": f"{words[row % 8]} {words[row // 8 % 8]} thing"} for row in range(48)]
    bought = [{"who": f"c{user}", "sku": f"s{(user + 3 * step) % 40}", "when": step} for user in range(40)
              for step in range(5)]  # fmt: skip
    Recommender.from_interactions(bought, goods[:40]).save_pretrained(killer.folder / "shop")
    (killer.folder / "products.jsonl").write_text("".join(json.dumps(row) + "\n" for row in goods[4:]))
    argv = ["tokenize", "--tokenizer", "{out}", "--data", str(killer.folder / "products.jsonl"), "--remove_missing"]
    command = Command("tokenize, in place", argv, given=killer.folder / "shop")
    assert_survived(killer.try_kills(command, KILLS))


@pytest.mark.slow
@pytest.mark.parametrize("model", PRETRAINING)
def test_many_kills_of_pre_training_and_fine_tuning(killer, data, model):
    """At writes and moments of every stage: encoder, item tokenizer, identifiers, recommender, evaluation."""
    command = pretraining(killer, data, model)
    assert_survived(killer.try_kills(command, KILLS))
    code, _, _ = killer.run(command, killer.folder / f"{model}-pretrained")
    assert code == 0, killer.log
    argv = ["finetune", "--config", str(killer.folder / f"{model}.yaml"), "--data", str(data), "--output_dir", "{out}"]
    argv += ["--pretrained", str(killer.folder / f"{model}-pretrained"), "--name", "small"]
    assert_survived(killer.try_kills(Command(f"finetune --model {model}", argv, again=["--resume"]), KILLS))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_many_kills_of_a_tokenization(killer, processes):
    argv = ["tokenize", "--use_cpu", "--tokenizer", str(CHECKPOINTS / "utgrec_tokenizer_text")]
    argv += [
        "--output_dir",
        "{out}",
        "--data",
        str(CHECKPOINTS / "items"),
        "--batch_tokens",
        "64",
        "--allow_collapsed_codes",
    ]
    name = "tokenize" if processes == 1 else f"tokenize, {processes} processes"
    assert_survived(killer.try_kills(Command(name, argv, again=["--overwrite"], processes=processes), KILLS))


@pytest.fixture(scope="module")
def shop(killer):
    """Orders and products as a shop has them."""
    rows = [[f"K{user}", f"A-{(user + 4 * step) % 20}", f"{1 + step:02}.02.2024 10:00"] for user in range(60)
            for step in range(3 + user % 4)]  # fmt: skip
    goods = [[f"A-{row}", f"Pen {row % 4} green {row}", f"{row},50"] for row in range(22)]
    for name, head, values in (("orders", ["who", "sku", "when"], rows), ("goods", ["sku", "name", "price"], goods)):
        with open(killer.folder / f"{name}.csv", "w", newline="") as file:
            csv.writer(file, delimiter=";").writerows([head, *values])
    return [str(killer.folder / "orders.csv"), str(killer.folder / "goods.csv")]


@pytest.mark.slow
def test_many_kills_of_a_quick_start(killer, shop):
    command = Command("quickstart", ["quickstart", *shop, "--output_dir", "{out}"], again=["--overwrite"])
    assert_survived(killer.try_kills(command, KILLS))


@pytest.mark.slow
def test_many_kills_of_a_publication(killer, data, recommender, hub_server):
    """To the stand-in of the Hub, before requests and at moments: what is there in the end is what would have been."""
    argv = ["publish", "--name", "owner/shop", "--license", "mit", "--data_license", "mit", "--data", str(data)]
    argv += ["--recommender", str(recommender), "--tokenizer", str(recommender.parent / "tokenizer"), "--push"]
    assert_survived(killer.try_kills(Command("publish", argv, hub=hub_server), KILLS))
