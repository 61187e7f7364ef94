"""Semantic IDs of one embedding for each item: folders that a recommender takes, and their making."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from transformers import AutoModel

from modeling_utgrec import RQVAEConfig
from tokenization_items import CatalogueError, ContentEmbeddings, EncoderMismatchError, UniversalItemTokenizer
from tokenization_items.collision_report import CollapsedCodesError
from tokenization_items.collisions import CapacityError
from tokenization_items.processing_content import codes_of_embeddings
from trainers.embedding_tokenizer_trainer import EmbeddingTokenizerTrainingArguments
from trainers.methods import semantic_ids
from trainers.methods.residual_kmeans import principal_components
from trainers.methods.runs import save_recommender
from trainers.methods.semantic_ids import (
    letter_tokenizer,
    load_raw_codes,
    rq_kmeans_tokenizer,
    rq_kmeans_transitions_tokenizer,
    tiger_m_tokenizer,
    tiger_tokenizer,
    train_rqvae,
)
from trainers.methods.utgrec import RecommenderArguments, new_recommender

NEEDS_FAISS = pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="needs faiss")
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
    "rq-kmeans-transitions": lambda folder, **more: rq_kmeans_transitions_tokenizer(
        embeddings(), embeddings(4, 2), IDS, folder, **{"codebook_size": 6, "num_components": 5, **more}
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
    assert report["method"] == name and report["items_sharing_codes"] == NUM_ITEMS == report["num_items"]
    assert report["collisions"] == ("least_distance" if name == "letter" else "digit")
    assert report["level_sizes"] == loaded.index.level_sizes
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
    np.testing.assert_array_equal(codes_of_embeddings(network, embeddings())[0], items.raw_codes)


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
    other = MAKERS["tiger"](tmp_path / "other", seed=1)
    assert other.tokenizer.fingerprint not in fingerprints
    for collisions in ("least_distance", "nearest_first"):
        moved = MAKERS["tiger"](tmp_path / collisions, collisions=collisions)
        assert moved.tokenizer.index.level_sizes == [6] * 3 and moved.report["items_moved"] >= NUM_ITEMS / 2
        assert len(np.unique(moved.tokenizer.index.codes, axis=0)) == NUM_ITEMS


@pytest.mark.parametrize("name", ["tiger", "letter"])
def test_new_items_are_added_by_their_embeddings(made, name):
    """The saved tokenizer finds the network beside it; items whose embeddings are known get codes of their twins."""
    items, folder = made[name]
    collisions = items.report["collisions"]
    loaded = UniversalItemTokenizer.from_pretrained(folder)
    new = ContentEmbeddings(["new-0", "new-1"], embeddings()[[0, 6]])
    report = loaded.add_items(new, collisions)
    np.testing.assert_array_equal(report.given_codes, items.raw_codes[[0, 6]])
    assert report.items_sharing_codes == 2 and len(np.unique(loaded.index.codes, axis=0)) == NUM_ITEMS + 2
    np.testing.assert_array_equal(loaded.index.codes[:NUM_ITEMS], items.tokenizer.index.codes)
    if name == "tiger":
        np.testing.assert_array_equal(loaded.index.codes[NUM_ITEMS:, :3], items.raw_codes[[0, 6]])
        with pytest.raises(ValueError, match="collisions='digit'"):
            loaded.add_items(ContentEmbeddings(["new-2"], embeddings()[:1]), "least_distance")
    with pytest.raises(EncoderMismatchError, match="have width 5, the network reads 7"):
        loaded.add_items(ContentEmbeddings(["new-2"], np.ones((1, 5))), collisions)
    with pytest.raises(CatalogueError, match="the network reads embeddings"):
        loaded.add_items([{"item_id": "new-2", "title": "A title"}], collisions)
    assert len(loaded) == NUM_ITEMS + 2


def test_a_network_that_reads_whitened_embeddings_is_not_named(made):
    assert UniversalItemTokenizer.from_pretrained(made["tiger-m"][1]).network_reference is None


def test_tiger_m_reads_whitened_text_and_images_and_the_mean_for_items_without(made):
    items, _ = made["tiger-m"]
    assert items.network.config.input_dim == 8  # 4 components of each
    text, image = (principal_components(part, 4, whiten=True) for part in (embeddings(), images()))
    assert (image[:12] == 0).all()
    np.testing.assert_array_equal(codes_of_embeddings(items.network, np.hstack([text, image]))[0], items.raw_codes)
    without = codes_of_embeddings(items.network, np.hstack([text, np.zeros_like(image)]))[0]
    np.testing.assert_array_equal(without[:12], items.raw_codes[:12])
    assert (without != items.raw_codes).any()


def test_collaborative_embeddings_matter(made, tmp_path):
    other = letter_tokenizer(
        embeddings(), embeddings(3, seed=9), IDS, tmp_path, training(), **SIZES, diversity_clusters=2
    )
    ours = made["letter"][0].network.state_dict()
    assert any(not torch.equal(value, ours[name]) for name, value in other.network.state_dict().items())


def test_letters_own_settings_may_be_changed(made, tmp_path):
    config = made["letter"][0].network.config
    assert (config.num_levels, config.collaborative_weight, config.diversity_weight) == (4, 0.02, 1e-4)
    assert config.sinkhorn_epsilon == 0.003
    changed = {"num_levels": 3, "collaborative_weight": 0.5, "diversity_weight": 0.0, "sinkhorn_epsilon": 0.0}
    config = MAKERS["letter"](tmp_path, **changed).network.config
    assert {name: getattr(config, name) for name in changed} == changed


def test_letters_encoder_is_the_published_one(monkeypatch, tmp_path):
    """Without sizes that are given, and no other method's."""
    given = {}
    monkeypatch.setattr(semantic_ids, "_rqvae_tokenizer", lambda name, *rest: given.update({name: rest[-1]}))
    letter_tokenizer(embeddings(), embeddings(3, seed=2), IDS, tmp_path)
    tiger_tokenizer(embeddings(), IDS, tmp_path)
    assert given["letter"]["hidden_sizes"] == [2048, 1024, 512, 256, 128, 64]
    assert given["letter"]["sinkhorn_epsilon"] == 0.003 and given["tiger"] == {}
    published = semantic_ids.SEMANTIC_IDS["letter"].published.settings
    assert published["tokenizer.hidden_sizes"] == given["letter"]["hidden_sizes"]


def test_items_and_embeddings_must_be_as_many(tmp_path):
    with pytest.raises(ValueError, match="3 items, but 40 embeddings"):
        tiger_tokenizer(embeddings(), IDS[:3], tmp_path)
    with pytest.raises(ValueError, match="3 items, but 40 embeddings"):
        rq_kmeans_tokenizer(embeddings(), IDS[:3], tmp_path)


@pytest.mark.parametrize("name", [*MAKERS])
def test_too_few_identifiers_are_an_error_before_training(name, tmp_path, monkeypatch):
    for work in ("train_rqvae", "rq_kmeans"):
        monkeypatch.setattr(semantic_ids, work, lambda *_, **__: pytest.fail("works"))
    with pytest.raises(CapacityError, match="40 new items .* capacity of 36"):
        MAKERS[name](tmp_path / name, num_levels=2, collisions="nearest_first")
    with pytest.raises(ValueError, match="collisions must be one of .*, got 'sinkhorn'"):
        MAKERS[name](tmp_path / name, collisions="sinkhorn")
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("method", ["tiger", "rq-kmeans"])
def test_collapsed_codes_are_not_saved(tmp_path, method):
    """Two kinds of items in pairs of a hundred: no tokenizer tells more than two apart."""
    vectors = np.eye(2, 6, dtype=np.float32).repeat(60, axis=0)
    ids = [f"item-{row}" for row in range(len(vectors))]

    def make(folder, **more):
        if method == "tiger":
            return tiger_tokenizer(vectors, ids, folder, training(), **SIZES, **more)
        return rq_kmeans_tokenizer(vectors, ids, folder, num_levels=1, codebook_size=2, **more)

    with pytest.raises(CollapsedCodesError, match="120 of 120 items have the codes of another item"):
        make(tmp_path / "refused")
    assert not (tmp_path / "refused" / "tokenizer_report.json").exists()
    assert len(make(tmp_path / "taken", allow_collapsed=True).tokenizer) == 120


def test_the_seed_is_the_weights_too():
    config = RQVAEConfig(input_dim=embeddings().shape[1], num_levels=2, **SIZES)
    found = []
    for seed in (1, 1, 2):
        args = training()
        args.seed, args.learning_rate, args.max_steps = seed, 0.0, 1
        found.append(train_rqvae(config, embeddings(), None, args).model.state_dict())
    weights = [name for name in found[0] if name.startswith("encoder") and name.endswith("weight")]
    assert weights and all(torch.equal(found[0][name], found[1][name]) for name in weights)
    assert not any(torch.equal(found[0][name], found[2][name]) for name in weights)


@NEEDS_FAISS
def test_the_fingerprint_of_rq_kmeans_is_of_its_codebooks(made, tmp_path):
    fingerprint = made["rq-kmeans"][0].tokenizer.fingerprint
    assert MAKERS["rq-kmeans"](tmp_path / "same").tokenizer.fingerprint == fingerprint
    assert MAKERS["rq-kmeans"](tmp_path / "other", seed=1).tokenizer.fingerprint != fingerprint


@pytest.mark.parametrize("num_components", [3, None])
def test_rq_kmeans_is_kept_as_a_linear_network(tmp_path, num_components):
    pytest.importorskip("faiss")
    points = np.random.default_rng(0).standard_normal((200, 7)).astype(np.float32) + 2
    ids = [f"i{row}" for row in range(200)]
    state = torch.get_rng_state()
    made = rq_kmeans_tokenizer(points, ids, tmp_path, codebook_size=8, num_components=num_components)
    assert torch.equal(torch.get_rng_state(), state)  # what comes after draws as before
    loaded = UniversalItemTokenizer.from_pretrained(tmp_path)
    codes, residuals = codes_of_embeddings(loaded.network, points)
    assert (codes == made.raw_codes).all(1).mean() > 0.99  # but for ties in float32
    left = points.astype(np.float64)
    if num_components is not None:
        left = left - left.mean(0)
        values, vectors = np.linalg.eigh(left.T @ left)
        lengths = np.sort(np.abs(residuals[:, 0]).sum(0))
        np.testing.assert_allclose(lengths, np.sort(np.abs(left @ vectors[:, -num_components:]).sum(0)), rtol=1e-4)
    else:
        np.testing.assert_allclose(residuals[:, 0], left, rtol=1e-5)
    new = points[:5] + 0.01
    report = loaded.add_items(ContentEmbeddings([f"new-{row}" for row in range(5)], new), "digit")
    np.testing.assert_array_equal(loaded.index.codes[200:, :3], codes_of_embeddings(loaded.network, new)[0])
    assert report.num_items == 5 and loaded.index.item_ids[:200] == ids


def test_with_transitions_there_is_no_network_for_texts_alone(made):
    _, folder = made["rq-kmeans-transitions"]
    assert UniversalItemTokenizer.from_pretrained(folder).network_reference is None
