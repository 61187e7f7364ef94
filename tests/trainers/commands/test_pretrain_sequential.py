"""Pre-training on several domains and fine-tuning on another one, from the command line in small."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hub_cards import load_values
from tokenization_items.item_embeddings import save_embeddings
from trainers.commands import run_command
from trainers.data.domains import Domain
from trainers.methods.item_tables import Content
from trainers.methods.sequential_pretraining import PRETRAINED, with_fewer_words
from trainers.rankers.sequential import SequentialRanker

NUM_ITEMS, WIDTH = 18, 8
SMALL = """
sequential:
  hidden_size: 8
  max_history: 5
  num_train_epochs: 2
  per_device_train_batch_size: 16
  save_strategy: "no"
  use_cpu: true
  disable_tqdm: true
"""
ENCODER = {"encoder": "made", "encoder_fingerprint": "a", "pooling": "mean"}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pretraining")
    for number, name in enumerate(("a", "b", "c")):
        rng = np.random.default_rng(number)
        ids = [f"{name}{row}" for row in range(NUM_ITEMS)]
        (folder / name).mkdir()
        items = [{"item_id": each, "title": f"item {each} of many"} for each in ids]
        users = [
            {"user_id": f"u{user}", "items": [ids[(start + step) % (NUM_ITEMS - 1)] for step in range(6)]}
            for user, start in enumerate(rng.integers(0, NUM_ITEMS, 12))
        ]
        for file, rows in (("items", items), ("sequences", users)):
            (folder / name / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        vectors = rng.normal(size=(NUM_ITEMS, WIDTH)).astype(np.float32)
        save_embeddings(folder / f"{name}-texts", ids, vectors, ENCODER)
        save_embeddings(folder / f"{name}-other", ids, vectors, ENCODER | {"encoder_fingerprint": "b"})
        save_embeddings(folder / f"{name}-images", ids[3:], rng.normal(size=(NUM_ITEMS - 3, 4)), {"encoder": "eyes"})
        save_embeddings(folder / f"{name}-wide", ids, np.tile(vectors, 2), {})
    (folder / "small.yaml").write_text(SMALL)
    return folder


# of the method that quantizes content
OWN = {"vq-rec": ["--sequential.own", "codebook_size=8", "num_groups=2"]}


def pretrain(workplace, output, *flags, data=("a", "b"), texts=("a-texts", "b-texts"), model="unisrec"):
    flags = [*OWN.get(model, []), *flags]
    argv = ["--config", workplace / "small.yaml", "--model", model, "--output_dir", output]
    argv += ["--data", *(workplace / each for each in data)]
    argv += ["--embeddings", *(workplace / each for each in texts)] if texts else []
    run_command("pretrain", [str(each) for each in [*argv, *flags]])


def finetune(workplace, output, *flags, texts="c-texts", model="unisrec"):
    flags = [*OWN.get(model, []), *flags]
    argv = ["--config", workplace / "small.yaml", "--model", model, "--output_dir", output, "--data", workplace / "c"]
    argv += ["--embeddings", workplace / texts]
    run_command("train-baseline", [str(each) for each in [*argv, *flags]])
    return json.loads((output / "results.json").read_text())


@pytest.fixture(scope="module")
def pretrained(workplace) -> dict[str, Path]:
    for name in PRETRAINED:
        pretrain(workplace, workplace / f"pretrained-{name}", model=name)
    return {name: workplace / f"pretrained-{name}" for name in PRETRAINED}


@pytest.mark.parametrize("name", PRETRAINED)
def test_what_pre_training_leaves_has_nothing_of_a_domain(pretrained, name):
    folder = pretrained[name] / "recommender"
    config = json.loads((folder / "config.json").read_text())
    assert (config["num_items"], config["content_encoder"], config["content_size"]) == (0, "made", WIDTH)
    assert config["content_fingerprint"] and config["items_fingerprint"] is None
    stored = load_file(folder / "model.safetensors")
    assert not any(tensor.shape[0] in (2 * NUM_ITEMS, 2 * NUM_ITEMS + 1) for tensor in stored.values())
    values = load_values(folder)
    assert values.method == config["model_type"] and [row["Domain"] for row in values.training_data] == ["a", "b"]
    card = (folder / "README.md").read_text()  # it cannot rank as it is
    assert "SequentialRanker" not in card and 'utgrec train-baseline --pretrained "."' in card


@pytest.mark.hub
def test_push_to_a_repository_that_is_not_there_yet(hub, workplace, tmp_path):
    name = hub.new_repo("pretrained")
    flags = ["--push_to_hub", "--hub_model_id", name, "--sequential.save_strategy", "epoch"]
    pretrain(workplace, tmp_path / "run", *flags)
    assert {"README.md", "config.json", "model.safetensors"} <= set(HfApi().list_repo_files(name))
    model = AutoModelForCausalLM.from_pretrained(name)
    assert model.config.num_items == 0
    # nothing but the end is sent: checkpoints have the items of the domains
    assert not [each.title for each in HfApi().list_repo_commits(name) if "in progress" in each.title]


@pytest.mark.parametrize("name", PRETRAINED)
def test_fine_tuning_keeps_the_encoder_and_ranks_items_without_interactions(workplace, pretrained, tmp_path, name):
    rows = finetune(workplace, tmp_path, "--pretrained", pretrained[name], "--train_users", "0.9", model=name)
    assert rows[0]["model"] == name and 0 <= rows[0]["ndcg@10"] <= 1
    assert "pretrained_on_other_domains" not in rows[0]["description"]["differs_from_published"]
    before = load_file(pretrained[name] / "recommender" / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "recommender")
    after = model.state_dict()
    frozen = [key for key in before if ".blocks." in key or ".positions." in key]
    assert frozen and all(torch.equal(before[key], after[key]) for key in frozen)
    assert any(not torch.equal(before[key], after[key]) for key in before if key not in frozen and key in after)
    domain = Domain.from_folder(workplace / "c", check_images=False)
    cold = np.flatnonzero(domain.interactions.popularity == 0)
    assert len(cold) == 1
    ranker = SequentialRanker.from_pretrained(tmp_path / "recommender", domain.interactions.item_ids)
    scores = ranker.score([np.array([1, 2])], cold[None])
    assert np.isfinite(scores).all()


def test_the_map_of_codes_is_learned_where_the_fine_tuning_is_validated_from_its_start(
    workplace, pretrained, tmp_path
):
    validated = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": "true"}
    flags = [word for name, value in validated.items() for word in (f"--sequential.{name}", value)]
    flags += ["--sequential.eval_on_start", "true", "--pretrained", pretrained["vq-rec"]]
    assert finetune(workplace, tmp_path, *flags, model="vq-rec")[0]["model"] == "vq-rec"


def test_the_encoder_may_be_trained_too(workplace, pretrained, tmp_path):
    flags = ["--pretrained", pretrained["unisrec"] / "recommender", "--sequential.freeze_encoder", "false"]
    finetune(workplace, tmp_path, *flags, model="unisrec-transductive")
    before = load_file(pretrained["unisrec"] / "recommender" / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "recommender")
    assert model.get_input_embeddings().weight.shape == (NUM_ITEMS + 1, 8)
    assert not torch.equal(model.state_dict()["model.blocks.0.inner.weight"], before["model.blocks.0.inner.weight"])


@pytest.mark.parametrize("code_map", ["random", "reuse"])
def test_other_ways_to_take_codes(workplace, pretrained, tmp_path, code_map):
    flags = ["--pretrained", pretrained["vq-rec"], "--sequential.code_map", code_map]
    finetune(workplace, tmp_path, *flags, model="vq-rec")
    before = load_file(pretrained["vq-rec"] / "recommender" / "model.safetensors")
    after = load_file(tmp_path / "recommender" / "model.safetensors")
    key = "model.embeddings.items.rotation"
    assert torch.equal(before[key], after[key]) == (code_map == "reuse")


def test_images_of_some_domains_and_items(workplace, tmp_path):
    """Where a domain, or an item, has none, its text stands alone."""
    flags = ["--image_embeddings", workplace / "a-images", "none"]
    pretrain(workplace, tmp_path / "pretrained", *flags, model="missrec")
    config = json.loads((tmp_path / "pretrained" / "recommender" / "config.json").read_text())
    assert (config["image_size"], config["image_encoder"]) == (4, "eyes")
    flags = ["--pretrained", tmp_path / "pretrained", "--image_embeddings", workplace / "c-images"]
    finetune(workplace, tmp_path / "tuned", *flags, model="missrec-images")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "tuned" / "recommender")
    assert model.content_items.present.tolist() == [[True, row >= 3] for row in range(NUM_ITEMS)]
    assert (model.content_items.interests >= 0).tolist() == model.content_items.present.tolist()
    with pytest.raises(SystemExit, match="has image_size 4, and None was given"):
        finetune(workplace, tmp_path / "text", "--pretrained", tmp_path / "pretrained", model="missrec")


@pytest.mark.parametrize(
    ("flags", "texts", "said"),
    [
        ([], "c-other", "has content_fingerprint .* embed the items as those of the pre-training were, by made"),
        ([], "c-wide", "has content_size 8, and 16 was given"),
        (["--sequential.max_history", "7"], "c-texts", "has max_history 5, and 7 was given: leave it out"),
        (["--model", "unisrec-transductive", "--sequential.hidden_size", "16"], "c-texts", "has hidden_size 8"),
    ],
)
def test_a_pre_trained_model_that_does_not_fit(workplace, pretrained, tmp_path, flags, texts, said):
    with pytest.raises(SystemExit, match=said):
        finetune(workplace, tmp_path, "--pretrained", pretrained["unisrec"], *flags, texts=texts)
    assert not (tmp_path / "recommender").exists()


def test_a_pre_training_that_was_stopped_is_known_before_the_work(workplace, tmp_path):
    (tmp_path / "stopped" / "checkpoints").mkdir(parents=True)
    with pytest.raises(SystemExit, match="stopped holds no model and no folder recommender, as a finished"):
        finetune(workplace, tmp_path / "tuned", "--pretrained", tmp_path / "stopped", "--data", tmp_path / "not-read")


def test_a_model_with_items_is_no_pre_trained_one(workplace, tmp_path):
    finetune(workplace, tmp_path / "scratch")
    with pytest.raises(SystemExit, match="holds a unisrec of 18 items; it takes what"):
        finetune(workplace, tmp_path / "again", "--pretrained", tmp_path / "scratch")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": ["a"], "texts": ["a-texts"]}, "contrasts several domains, and there is a alone"),
        ({"texts": ["a-texts"]}, "1 folders for 2 domains"),
        ({"texts": None}, "give either --text_encoder or --embeddings"),
        ({"texts": None, "flags": ["--text_encoder", "tf-idf"]}, "no two domains share its space"),
        ({"flags": ["--image_embeddings", "x", "y"]}, "are for missrec, and unisrec reads no images"),
        ({"flags": ["--image_embeddings", "x"], "model": "missrec"}, "1 folders for 2 domains"),
        ({"texts": ["a-texts", "b-other"]}, "a and b differ in their content"),
        ({"texts": ["a-texts", "b-wide"]}, "a and b differ in their content: made, .* 8 wide and .* 16 wide"),
        ({"flags": ["--sequential.per_device_train_batch_size", "999"]}, "72 targets, fewer than one batch of 999"),
        ({"flags": ["--minutes", "0"]}, "--minutes is a time"),
    ],
)
def test_what_cannot_be_pre_trained_is_said_before_work_starts(workplace, tmp_path, changes, said):
    flags = changes.pop("flags", [])
    with pytest.raises(SystemExit, match=said):
        pretrain(workplace, tmp_path, *flags, **changes)
    assert not (tmp_path / "recommender").exists()


def test_a_dry_run_counts_whole_batches(workplace, tmp_path, capsys):
    batch = ["--sequential.per_device_train_batch_size", "7", "--sequential.num_train_epochs", "3"]
    pretrain(workplace, tmp_path / "run", *batch, "--dry_run")
    said = capsys.readouterr().out
    assert "unisrec: 72 histories with their next item, 7 a step, up to 3 epochs: 30 steps" in said
    assert not list(tmp_path.iterdir())
    pretrain(workplace, tmp_path, *batch)
    assert max(entry["step"] for entry in load_values(tmp_path / "recommender").logs) == 30
    with pytest.raises(SystemExit, match="72 targets, fewer than one batch of 99"):
        pretrain(workplace, tmp_path / "run", "--sequential.per_device_train_batch_size", "99", "--dry_run")


def test_texts_with_fewer_words(workplace):
    catalogue = Domain.from_folder(workplace / "a", check_images=False).catalogue
    less = with_fewer_words(catalogue, seed=0)
    assert less.texts == with_fewer_words(catalogue, seed=0).texts != with_fewer_words(catalogue, seed=1).texts
    for text, words in zip(catalogue.texts, less.texts, strict=True):
        rest = iter(text.split())
        assert words and all(word in rest for word in words.split())  # in their order
    lost = 1 - sum(len(each.split()) for each in less.texts) / sum(len(each.split()) for each in catalogue.texts)
    assert 0.05 < lost < 0.25


def test_tf_idf_of_two_catalogues_are_two_spaces(tmp_path):
    vectors = np.eye(3, dtype=np.float32)
    for name in ("a", "b"):
        record = {"encoder": "tf-idf", "encoder_fingerprint": "x", "inputs_sha256": name}
        save_embeddings(tmp_path / name, ["1", "2", "3"], vectors, record)
    contents = [Content.of_folder(tmp_path / name, vectors) for name in ("a", "b")]
    assert contents[0].encoder == "tf-idf" and contents[0].fingerprint != contents[1].fingerprint
