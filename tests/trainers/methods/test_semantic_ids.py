"""Baselines' tokenizers from embeddings to a folder that the recommender's stages take."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModel

from tokenization_items import UniversalItemTokenizer
from trainers.embedding_tokenizer_trainer import EmbeddingTokenizerTrainingArguments, compute_codes
from trainers.methods.principal_components import principal_components
from trainers.methods.runs import save_recommender
from trainers.methods.semantic_ids import (
    letter_tokenizer,
    load_raw_codes,
    rq_kmeans_tokenizer,
    tiger_m_tokenizer,
    tiger_tokenizer,
)
from trainers.methods.utgrec import RecommenderArguments, new_recommender

NUM_ITEMS = 40
IDS = [f"item-{row}" for row in range(NUM_ITEMS)]
SIZES = {"hidden_sizes": [8], "codebook_dim": 4, "codebook_size": 6}


def embeddings(dim: int = 7, seed: int = 0) -> np.ndarray:
    """Items in pairs that no tokenizer can tell apart."""
    values = np.random.default_rng(seed).standard_normal((NUM_ITEMS // 2, dim)).astype(np.float32) + 2
    return values.repeat(2, axis=0)


def training(**changes) -> EmbeddingTokenizerTrainingArguments:
    values = {"max_steps": 10, "per_device_train_batch_size": 16, "use_cpu": True, "disable_tqdm": True}
    return EmbeddingTokenizerTrainingArguments(**{**values, **changes})


def images() -> np.ndarray:
    values = embeddings(5, seed=1)
    values[:12] = np.nan
    return values


MAKERS = {
    "tiger": lambda folder, **more: tiger_tokenizer(
        embeddings(), IDS, folder, training(), **{**SIZES, "num_levels": 3, **more}
    ),
    "letter": lambda folder, **more: letter_tokenizer(
        embeddings(), embeddings(3, seed=2), IDS, folder, training(), **{**SIZES, "diversity_clusters": 2, **more}
    ),
    "tiger-m": lambda folder, **more: tiger_m_tokenizer(
        embeddings(), images(), IDS, folder, num_components=4, training=training(), **{**SIZES, **more}
    ),
    "rq-kmeans": lambda folder, **more: rq_kmeans_tokenizer(
        embeddings(), IDS, folder, **{"codebook_size": 6, "num_components": 5, **more}
    ),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Each baseline once, with its folder."""
    pytest.importorskip("faiss")
    folders = {name: tmp_path_factory.mktemp("made") / name for name in MAKERS}
    return {name: (MAKERS[name](folder), folder) for name, folder in folders.items()}


@pytest.mark.parametrize("name", MAKERS)
def test_folder_holds_a_tokenizer_raw_codes_and_a_report(made, name):
    items, folder = made[name]
    loaded = UniversalItemTokenizer.from_pretrained(folder)
    assert not loaded.has_network and loaded.fingerprint == items.tokenizer.fingerprint
    np.testing.assert_array_equal(loaded.index.codes, items.tokenizer.index.codes)
    assert loaded.index.item_ids == IDS
    assert all(loaded.decode(loaded.encode(item_id)) == item_id for item_id in IDS)
    raw = load_raw_codes(folder)
    assert raw.dtype == np.int32
    np.testing.assert_array_equal(raw, items.raw_codes)
    np.testing.assert_array_equal(raw[::2], raw[1::2])  # pairs share their codes
    report = json.loads((folder / "tokenizer_report.json").read_text())
    assert report["method"] == name and report["collisions"] == NUM_ITEMS == report["num_items"]
    num_levels = 4 if name == "letter" else 3
    assert raw.shape == (NUM_ITEMS, num_levels) and len(report["used"]) == num_levels
    if name == "letter":  # no more levels, but items move
        assert loaded.index.level_sizes == [6] * 4 and report["items_moved"] >= NUM_ITEMS / 2
        assert {"collaborative", "diversity"} <= report["metrics"].keys()
        assert report["settings"]["collaborative_weight"] == 0.02 and report["settings"]["diversity_weight"] == 1e-4
    else:
        assert loaded.index.level_sizes == [6, 6, 6, 256]
        np.testing.assert_array_equal(loaded.index.codes[:, :3], raw)


@pytest.mark.parametrize("name", ["tiger", "letter"])
def test_saved_network_gives_the_raw_codes(made, name):
    items, folder = made[name]
    network = AutoModel.from_pretrained(folder / "network")
    np.testing.assert_array_equal(compute_codes(network, embeddings())[0], items.raw_codes)


@pytest.mark.parametrize("name", ["tiger", "letter"])
def test_the_recommender_stages_take_them(made, name, tmp_path):
    items, _ = made[name]
    arguments = RecommenderArguments(d_model=16, d_ff=16, d_kv=8, num_heads=2, num_layers=1)
    recommender = new_recommender(arguments, items.tokenizer, items, seed=0).eval()
    assert recommender.config.level_sizes == items.tokenizer.index.level_sizes
    assert not recommender.config.share_leaf_codes
    items.tokenizer.check_recommender(recommender)
    batch = items.tokenizer([[IDS[0], IDS[5]], [IDS[3]]], return_tensors="pt")
    output = recommender.recommend(**batch, trie=items.tokenizer.trie, num_items=NUM_ITEMS, num_beams=NUM_ITEMS)
    assert sorted(output.item_ids[0]) == sorted(IDS)
    save_recommender(recommender, items.tokenizer, tmp_path)
    assert UniversalItemTokenizer.from_pretrained(tmp_path).encode(IDS[7]) == items.tokenizer.encode(IDS[7])


def test_fingerprints_tell_tokenizers_apart_and_the_same_call_gives_the_same(made, tmp_path):
    fingerprints = {items.tokenizer.fingerprint for items, _ in made.values()}
    assert len(fingerprints) == len(made)
    again = MAKERS["tiger"](tmp_path / "again")
    assert again.tokenizer.fingerprint == made["tiger"][0].tokenizer.fingerprint
    np.testing.assert_array_equal(again.tokenizer.index.codes, made["tiger"][0].tokenizer.index.codes)
    for change in ({"seed": 1}, {"resolution": "assign"}):
        other = MAKERS["tiger"](tmp_path / str(change), **change)
        assert other.tokenizer.fingerprint not in fingerprints
    assert other.tokenizer.index.level_sizes == [6] * 3


def test_tiger_m_reads_whitened_text_and_images_and_the_mean_for_items_without(made):
    items, _ = made["tiger-m"]
    assert items.network.config.input_dim == 8  # 4 components of each
    text, image = (principal_components(part, 4, whiten=True) for part in (embeddings(), images()))
    assert (image[:12] == 0).all()
    np.testing.assert_array_equal(compute_codes(items.network, np.hstack([text, image]))[0], items.raw_codes)
    without = compute_codes(items.network, np.hstack([text, np.zeros_like(image)]))[0]
    np.testing.assert_array_equal(without[:12], items.raw_codes[:12])
    assert (without != items.raw_codes).any()


def test_collaborative_embeddings_matter(made, tmp_path):
    other = letter_tokenizer(
        embeddings(), embeddings(3, seed=9), IDS, tmp_path, training(), **SIZES, diversity_clusters=2
    )
    ours = made["letter"][0].network.state_dict()
    assert any(not torch.equal(value, ours[name]) for name, value in other.network.state_dict().items())


def test_items_and_embeddings_must_be_as_many(tmp_path):
    with pytest.raises(ValueError, match="3 items, but 40 embeddings"):
        tiger_tokenizer(embeddings(), IDS[:3], tmp_path)
    with pytest.raises(ValueError, match="3 items, but 40 embeddings"):
        rq_kmeans_tokenizer(embeddings(), IDS[:3], tmp_path)
