"""Pre-training of the item-level recommender on two domains and fine-tuning on a third, from the command line."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from hub_cards import load_values
from modeling_utgrec import ItemLevelConfig, RQVAEConfig
from tokenization_items import UniversalItemTokenizer
from tokenization_items.item_embeddings import load_embeddings, save_embeddings
from tokenization_items.processing_content import codes_of_embeddings
from trainers.commands import run_command
from trainers.methods.shared_semantic_ids import collaborative_training

NUM_ITEMS, WIDTH = 20, 8
SMALL = """
tokenizer:
  codebook_size: 6
  max_steps: 4
  use_cpu: true
  disable_tqdm: true
item_level:
  hidden_size: 8
  num_layers: 1
  num_heads: 1
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
        ids = [f"{row}" for row in range(NUM_ITEMS)]  # the same in all domains
        (folder / name).mkdir()
        items = [{"item_id": each, "title": f"item {each} of many"} for each in ids]
        users = [
            {"user_id": f"u{user}", "items": [ids[(start + step) % (NUM_ITEMS - 1)] for step in range(6)]}
            for user, start in enumerate(rng.integers(0, NUM_ITEMS, 12))
        ]
        for file, rows in (("items", items), ("sequences", users)):
            (folder / name / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        vectors = rng.normal(2.0 * number, 1, size=(NUM_ITEMS, WIDTH)).astype(np.float32)
        save_embeddings(folder / f"{name}-texts", ids, vectors, ENCODER)
    (folder / "small.yaml").write_text(SMALL)
    return folder


def command(workplace, name, output, data, *flags, model="rq-kmeans-item-level"):
    argv = ["--config", workplace / "small.yaml", "--model", model, "--output_dir", output, "--data"]
    argv += [*(workplace / each for each in data), "--embeddings", *(workplace / f"{each}-texts" for each in data)]
    run_command(name, [str(each) for each in [*argv, *flags]])


@pytest.fixture(scope="module")
def pretrained(workplace) -> Path:
    command(workplace, "pretrain", workplace / "pre", ("a", "b"), "--centre_domains", "true")
    return workplace / "pre"


def vectors_of(workplace, name):
    return load_embeddings(workplace / f"{name}-texts", [str(row) for row in range(NUM_ITEMS)])


def test_domains_share_a_tokenizer_that_reads_them_without_their_means(workplace, pretrained):
    tokenizer = UniversalItemTokenizer.from_pretrained(pretrained / "tokenizer")
    network = tokenizer.network
    assert isinstance(network.config, RQVAEConfig) and network.config.centre_domains
    for name in ("a", "b"):
        items = UniversalItemTokenizer.from_pretrained(pretrained / "items" / name)
        vectors = vectors_of(workplace, name)
        given, _ = codes_of_embeddings(network, vectors - vectors.mean(0))
        assert items.fingerprint == tokenizer.fingerprint and len(items) == NUM_ITEMS
        assert (items.index.codes == given).all(1).mean() > 0.5  # but those that collided
        np.testing.assert_allclose(items.domain_mean, vectors.mean(0), atol=1e-5)
    config = ItemLevelConfig.from_pretrained(pretrained / "recommender")
    assert (config.level_sizes, config.num_item_residuals, config.content_size) == ([6, 6, 6], 0, WIDTH)
    values = load_values(pretrained / "recommender")
    assert values.method == "item_level" and [row["Domain"] for row in values.training_data] == ["a", "b"]


def test_fine_tuning_starts_from_it_on_codes_of_the_same_tokenizer(workplace, pretrained, tmp_path):
    command(workplace, "train-baseline", tmp_path, ("c",), "--pretrained", pretrained)
    (row, *_) = json.loads((tmp_path / "results.json").read_text())
    assert "pretrained_on_other_domains" in json.dumps(row["description"])
    index = UniversalItemTokenizer.from_pretrained(tmp_path / "recommender").index
    network = UniversalItemTokenizer.from_pretrained(pretrained / "tokenizer").network
    vectors = vectors_of(workplace, "c")
    given, _ = codes_of_embeddings(network, vectors - vectors.mean(0))
    assert (index.codes == given).all(1).mean() > 0.5
    config = ItemLevelConfig.from_pretrained(tmp_path / "recommender")
    assert config.num_item_residuals == NUM_ITEMS and config.hidden_size == 8


def test_semantic_ids_that_are_there(workplace, pretrained, tmp_path, monkeypatch):
    given = ("--semantic_ids", pretrained)
    command(workplace, "pretrain", tmp_path / "again", ("a", "b"), *given, model="item-level")
    assert not (tmp_path / "again" / "tokenizer").exists()
    command(
        workplace,
        "train-baseline",
        tmp_path / "tuned",
        ("a",),
        *("--semantic_ids", pretrained / "items" / "a", "--pretrained", tmp_path / "again", "--train_users", "0.5"),
        model="item-level",
    )
    assert (tmp_path / "tuned" / "results.json").is_file()
    with pytest.raises(SystemExit, match="there is no items/c in it"):
        command(workplace, "pretrain", tmp_path / "other", ("a", "c"), *given, model="item-level")


def test_what_cannot_be_is_said_before_any_work(workplace, pretrained, tmp_path, capsys):
    with pytest.raises(SystemExit, match="give both or neither"):
        command(workplace, "pretrain", tmp_path / "x", ("a", "b"), model="item-level")
    with pytest.raises(SystemExit, match="there is no item tokenizer in it"):
        command(workplace, "train-baseline", tmp_path / "x", ("c",), "--pretrained", pretrained / "recommender")
    with pytest.raises(SystemExit, match="--pretrained is for models that read content"):
        command(workplace, "train-baseline", tmp_path / "x", ("c",), "--pretrained", pretrained, model="tiger")
    command(workplace, "pretrain", tmp_path / "x", ("a", "b"), "--dry_run", "true")
    assert "recommender:" in capsys.readouterr().out and not (tmp_path / "x" / "recommender").exists()


@pytest.mark.parametrize("name", ["tiger", "letter"])
def test_other_tokenizers(workplace, tmp_path, name, monkeypatch):
    quick = partial(collaborative_training, num_train_epochs=1)
    monkeypatch.setattr("trainers.commands.pretrain_item_level.collaborative_training", quick)
    flags = ["--tokenizer.hidden_sizes", "8", "--tokenizer.num_levels", "3"]
    flags += ["--tokenizer.diversity_clusters", "2"] if name == "letter" else []
    command(workplace, "pretrain", tmp_path, ("a", "b"), *flags, model=f"{name}-item-level")
    assert ItemLevelConfig.from_pretrained(tmp_path / "recommender").level_sizes == [6, 6, 6]
