"""Tokenizing a catalogue: the codes are the same whatever the workers, caches, processes and interruptions."""

import copy
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen2VLModel

from modeling_utgrec import UTGRecTokenizerModel
from tokenization_items import caches, catalogue_codes, domain_mean, files
from tokenization_items.batching import BATCHES_AHEAD, prepared
from tokenization_items.caches import VisualFeatureCache, takes_states
from tokenization_items.catalogue import Catalogue, CatalogueError
from tokenization_items.tokenization_items import UniversalItemTokenizer

ROOT = Path(__file__).parents[2]
SMALL = {"batch_tokens": 60, "progress": False}


@pytest.fixture(scope="module")
def catalogue(tiny_items, tmp_path_factory) -> Catalogue:
    """The tiny items, their images as files, bytes and PIL images."""
    folder, records = tmp_path_factory.mktemp("images"), []
    for row, item in enumerate(tiny_items):
        image = item["image"]
        if image is not None and row % 2:
            image.save(folder / f"{row}.png")
            image = str(folder / f"{row}.png") if row % 4 == 1 else (folder / f"{row}.png").read_bytes()
        records.append({"item_id": item["item_id"], "description": item["text"], "image": image})
    return Catalogue.from_records(records)


@pytest.fixture(scope="module")
def spread_network(make_network, tiny_qwen2_vl, catalogue):
    """A tiny network whose codebooks are residuals of the items, so that it tells them apart. Shared."""
    return spread(*make_network(tiny_qwen2_vl), catalogue)


def spread(network, processor, catalogue):
    _, residuals = UniversalItemTokenizer.from_network(network, processor).compute_codes(catalogue, progress=False)
    for number, codebook in enumerate(network.quantizer.codebooks):
        points = torch.from_numpy(residuals[:, network.quantizer.levels_of(number)]).flatten(0, 1)
        codebook.set_vectors(points[:: len(points) // len(codebook.codes)][: len(codebook.codes)])
    return network, processor


@pytest.fixture
def tokenizer(spread_network) -> UniversalItemTokenizer:
    return UniversalItemTokenizer.from_network(*spread_network)


@pytest.fixture
def expected(tokenizer, catalogue):
    codes, residuals = tokenizer.compute_codes(catalogue, num_workers=0, **SMALL)
    assert len(np.unique(codes, axis=0)) > 3, "the fixture must tell items apart"
    return codes, residuals


def assert_identical(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def forwards(monkeypatch, network):
    """Counts the items that go through the network."""
    counts, forward = [], network.forward

    def counted(*args, **kwargs):
        counts.append(len(kwargs["input_ids"]))
        return forward(*args, **kwargs)

    monkeypatch.setattr(network, "forward", counted)
    return counts


# Workers


@pytest.mark.parametrize("num_workers", [1, 3])
def test_workers_keep_the_order(tokenizer, catalogue, expected, num_workers):
    assert_identical(tokenizer.compute_codes(catalogue, num_workers=num_workers, **SMALL), expected)


@pytest.mark.parametrize("progress", [True, False])
def test_a_bar_is_shown_when_it_is_asked_for(tokenizer, catalogue, capsys, progress):
    tokenizer.compute_codes(catalogue, **SMALL | {"progress": progress})
    assert (f"{len(catalogue)}/{len(catalogue)}" in capsys.readouterr().err) == progress


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("image", ["missing.png", b"\x89PNG\r\n\x1a\nbroken"])
def test_errors_name_the_item(tokenizer, catalogue, num_workers, image):
    items = zip(catalogue.item_ids, catalogue.texts, map(catalogue.image, range(len(catalogue))), strict=True)
    records = [{"item_id": item_id, "description": text, "image": picture} for item_id, text, picture in items]
    for row in (0, 5, 12):
        bad = {"item_id": "bad", "description": "strings", "image": image}
        with_bad = Catalogue.from_records([*records[:row], bad, *records[row:]])
        with pytest.raises(CatalogueError, match="item 'bad'"):
            tokenizer.compute_codes(with_bad, num_workers=num_workers, **SMALL)


def test_no_more_is_made_ready_than_the_network_soon_needs():
    started = []
    batches = prepared(lambda row: started.append(row) or 2 * row, np.arange(40).reshape(10, 4), num_workers=2)
    rows, values = next(batches)
    assert rows.tolist() == [0, 1, 2, 3] and values == [0, 2, 4, 6]
    batches.close()
    assert max(started) < 4 * (1 + BATCHES_AHEAD)


# Domains without their mean


@pytest.fixture
def centring(make_network, tiny_qwen2_vl, catalogue):
    network, processor = make_network(tiny_qwen2_vl, centre_domains=True)
    return UniversalItemTokenizer.from_network(*spread(network, processor, catalogue))


def test_the_domains_mean_is_taken_off(centring, catalogue, tmp_path):
    network, processor = centring.network, centring.processor
    added = centring.add_items(catalogue.select(np.arange(9)), keep_residuals=True, num_workers=0, **SMALL)
    texts = processor.encode_texts(catalogue.texts)
    images = [None if catalogue.image(r) is None else processor.encode_image(catalogue.image(r)) for r in range(9)]
    with torch.inference_mode():
        states = network.code_states(processor.collate(texts[:9], images))
        means = states.mean(0, keepdim=True)
        expected = network(code_states=states, domain_means=means)
    np.testing.assert_allclose(centring.domain_mean, means.flatten(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(added.residuals, expected.residuals, rtol=1e-3, atol=1e-4)
    mean = centring.domain_mean.copy()
    centring.save_pretrained(tmp_path)
    again = UniversalItemTokenizer.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again.domain_mean, mean)
    for each in (centring, again):
        rest = each.add_items(catalogue.select(np.arange(9, 12)), keep_residuals=True, num_workers=0, **SMALL)
        np.testing.assert_array_equal(each.domain_mean, mean)  # that of the first items stays
        with torch.inference_mode():
            lone = [
                None if (image := catalogue.image(r)) is None else processor.encode_image(image) for r in (9, 10, 11)
            ]
            expected = network(**processor.collate(texts[9:12], lone), domain_means=means)
        np.testing.assert_allclose(rest.residuals, expected.residuals, rtol=1e-3, atol=1e-4)


def test_the_mean_of_a_large_catalogue_is_that_of_some_items(centring, catalogue, monkeypatch, tmp_path):
    rows = domain_mean.rows_of_mean(10**5)  # of a catalogue that may be sorted, not the first ones
    assert len(set(rows.tolist())) == 2048 and rows.min() < 1000 and rows.max() > 99_000
    whole = centring.compute_codes(catalogue, **SMALL)
    exact = centring.domain_mean
    monkeypatch.setattr(domain_mean, "ITEMS_OF_MEAN", 5)
    some = centring.compute_codes(catalogue, resume_folder=tmp_path, **SMALL)
    assert not np.allclose(centring.domain_mean, exact) and not np.array_equal(whole[1], some[1])
    assert_identical(centring.compute_codes(catalogue, num_workers=0, **SMALL), some)
    monkeypatch.setattr(domain_mean, "ITEMS_OF_MEAN", 2048)
    assert_identical(centring.compute_codes(catalogue, resume_folder=tmp_path, **SMALL), whole)


def test_one_item_is_no_domain(centring, catalogue):
    with pytest.raises(ValueError, match="there is one item: tokenize the domain's catalogue first"):
        centring.add_items(catalogue.select(np.arange(1)))


# Visual features

takes_cached = pytest.mark.skipif(
    not takes_states(Qwen2VLModel), reason="this release of transformers takes no states of images"
)


def test_a_backbone_that_takes_no_states_of_images_is_refused(spread_network, tmp_path, monkeypatch):
    network, processor = spread_network
    forward = type(network.backbone).forward

    def earlier(self, input_ids, attention_mask=None, pixel_values=None, **kwargs):
        return forward(self, input_ids, attention_mask=attention_mask, pixel_values=pixel_values, **kwargs)

    monkeypatch.setattr(type(network.backbone), "forward", earlier)
    with pytest.raises(ValueError, match="Qwen2VLModel of transformers .* takes no states of images"):
        VisualFeatureCache(tmp_path / "cache", network, processor)
    assert not (tmp_path / "cache").exists()


@takes_cached
@pytest.mark.parametrize("backbone", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_cached_features_give_the_same_codes(make_network, backbones, catalogue, tmp_path, monkeypatch, backbone):
    tokenizer = UniversalItemTokenizer.from_network(*spread(*make_network(backbones[backbone]), catalogue))
    expected = tokenizer.compute_codes(catalogue, **SMALL)
    filled = tokenizer.compute_codes(catalogue, feature_cache=tmp_path, **SMALL)
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert len(files) == sum(map(catalogue.has_image, range(len(catalogue))))
    assert not list(tmp_path.rglob("*.tmp"))

    visual = tokenizer.network.backbone.visual
    monkeypatch.setattr(visual, "forward", lambda *_, **__: pytest.fail("encodes an image again"))
    monkeypatch.setattr(Catalogue, "image", lambda *_: pytest.fail("decodes an image again"))
    for batch_tokens in (60, 10_000):
        arguments = {**SMALL, "batch_tokens": batch_tokens}
        cached = tokenizer.compute_codes(catalogue, feature_cache=tmp_path, **arguments)
        for found in (filled, cached):
            np.testing.assert_array_equal(found[0], expected[0])
            np.testing.assert_allclose(found[1], expected[1], atol=1e-5)


@takes_cached
def test_a_cache_is_for_one_vision_tower_and_pixel_setting(spread_network, make_network, backbones, tmp_path):
    network, processor = spread_network
    folder = VisualFeatureCache(tmp_path, network, processor).folder
    assert VisualFeatureCache(tmp_path, *make_network(backbones["qwen2_vl"], seed=1)).folder == folder  # same backbone
    assert VisualFeatureCache(tmp_path, *make_network(backbones["qwen2_5_vl"])).folder != folder
    changed, processor = make_network(backbones["qwen2_vl"])
    next(changed.backbone.visual.parameters()).data[0] += 1e-4
    assert VisualFeatureCache(tmp_path, changed, processor).folder != folder
    half = copy.deepcopy(network).to(torch.bfloat16)
    assert VisualFeatureCache(tmp_path, half, processor).folder != folder
    size = dict(processor.image_processor.size)
    processor.image_processor.size = {**size, "longest_edge": 56 * 56}
    try:
        assert VisualFeatureCache(tmp_path, network, processor).folder != folder
    finally:
        processor.image_processor.size = size


@takes_cached
def test_broken_files_are_made_anew_and_new_images_are_added(tokenizer, catalogue, expected, tmp_path, monkeypatch):
    half = catalogue.select(range(6))
    tokenizer.compute_codes(half, feature_cache=tmp_path, **SMALL)
    before = sorted(tmp_path.rglob("*.safetensors"))
    before[0].write_bytes(before[0].read_bytes()[:20])
    np.testing.assert_array_equal(tokenizer.compute_codes(catalogue, feature_cache=tmp_path, **SMALL)[0], expected[0])
    after = sorted(tmp_path.rglob("*.safetensors"))
    assert set(before) < set(after) and before[0].stat().st_size > 20


def test_a_text_encoder_has_no_features(make_network, tiny_bert, catalogue, tmp_path):
    catalogue = catalogue.select([row for row, text in enumerate(catalogue.texts) if text])
    tokenizer = UniversalItemTokenizer.from_network(*spread(*make_network(tiny_bert), catalogue))
    expected = tokenizer.compute_codes(catalogue, **SMALL)
    assert_identical(tokenizer.compute_codes(catalogue, feature_cache=tmp_path, **SMALL), expected)
    assert not list(tmp_path.iterdir())


# After a kill


class Killed(BaseException):
    pass


@pytest.mark.parametrize("when", [0, 1, 3])
def test_a_resumed_run_is_the_same_to_the_bit(tokenizer, catalogue, expected, tmp_path, monkeypatch, caplog, when):
    save, saved = files.save_tensors, []

    def killed(tensors, path, metadata):
        if len(saved) == when:
            Path(path).write_bytes(b"half a file")
            raise Killed
        save(tensors, path, metadata)
        saved.append(len(tensors["codes"]))

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(files, "save_tensors", killed)
        tokenizer.compute_codes(catalogue, resume_folder=tmp_path, **SMALL)
    counts = forwards(monkeypatch, tokenizer.network)
    assert_identical(tokenizer.compute_codes(catalogue, resume_folder=tmp_path, **SMALL), expected)
    assert sum(counts) == len(catalogue) - sum(saved)
    message = f"{sum(saved)} of {len(catalogue)} items were tokenized before"
    assert (message in caplog.text) == bool(when)
    counts.clear()
    assert_identical(tokenizer.compute_codes(catalogue, resume_folder=tmp_path, **SMALL), expected)
    assert not counts


def test_another_network_or_item_is_not_taken_up(
    tokenizer, make_network, tiny_qwen2_vl, catalogue, tmp_path, monkeypatch
):
    def computed(tokenizer, catalogue, **changes):
        counts = forwards(patch, tokenizer.network)
        tokenizer.compute_codes(catalogue, resume_folder=tmp_path, **{**SMALL, **changes})
        return sum(counts)

    num_items = len(catalogue)
    with monkeypatch.context() as patch:
        assert computed(tokenizer, catalogue) == num_items
        assert computed(tokenizer, catalogue) == 0
        # another network, another precision, another batch, another text, another image
        other = UniversalItemTokenizer.from_network(*make_network(tiny_qwen2_vl, seed=1))
        assert computed(other, catalogue) == num_items
        half = UniversalItemTokenizer.from_network(copy.deepcopy(tokenizer.network), tokenizer.processor)
        half.network.to(torch.bfloat16)
        assert half.fingerprint == tokenizer.fingerprint and computed(half, catalogue) == num_items
        assert computed(tokenizer, catalogue, batch_tokens=200) == num_items
        changed = catalogue.select(range(num_items))
        changed.texts[3] = changed.texts[3].replace(" ", "  ", 1)[::-1]
        assert 0 < computed(tokenizer, changed) < num_items
        images = [catalogue.image(row) for row in range(num_items)]
        pictures = [image and image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in images]
        flipped = Catalogue.from_records(
            [
                {"item_id": item_id, "description": text, "image": image}
                for item_id, text, image in zip(catalogue.item_ids, catalogue.texts, pictures, strict=True)
            ]
        )
        assert 0 < computed(tokenizer, flipped) <= num_items


def test_a_broken_shard_is_computed_anew(tokenizer, catalogue, expected, tmp_path, monkeypatch):
    tokenizer.compute_codes(catalogue, resume_folder=tmp_path, **SMALL)
    file = sorted(tmp_path.iterdir())[0]
    file.write_bytes(file.read_bytes()[:-8])
    counts = forwards(monkeypatch, tokenizer.network)
    assert_identical(tokenizer.compute_codes(catalogue, resume_folder=tmp_path, **SMALL), expected)
    assert 0 < sum(counts) < len(catalogue)


def test_shards_of_a_large_catalogue_have_many_batches():
    batches = [np.array([number]) for number in range(5000)]
    shards = caches.shards_of(batches)
    assert [len(shard) for shard in shards] == [16] * 312 + [8]
    assert [rows[0] for shard in shards for rows in shard] == list(range(5000))
    assert [len(shard) for shard in caches.shards_of(batches[:60])] == [1] * 60
    assert caches.shards_of([]) == []


# Decoders


def test_decoders_are_loaded_only_when_asked_for(tokenizer, catalogue, expected, tmp_path):
    tokenizer.save_pretrained(tmp_path / "saved")
    loaded = UniversalItemTokenizer.from_pretrained(tmp_path / "saved")
    assert_identical(loaded.compute_codes(catalogue, **SMALL), expected)
    assert loaded.encoding_network.text_decoder is None and loaded.encoding_network.image_decoder is None
    assert loaded.network.text_decoder is not None
    assert loaded.encoding_network is loaded.network
    # a tokenizer that encoded before is saved with its decoders
    loaded = UniversalItemTokenizer.from_pretrained(tmp_path / "saved")
    loaded.add_items(catalogue)
    loaded.save_pretrained(tmp_path / "again")
    again = UTGRecTokenizerModel.from_pretrained(tmp_path / "again")
    for name, tensor in tokenizer.network.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_encoding_asks_nothing_of_the_decoders(tokenizer, catalogue, expected, monkeypatch):
    for module in (tokenizer.network.expand, tokenizer.network.text_decoder, tokenizer.network.image_decoder):
        monkeypatch.setattr(module, "forward", lambda *_, **__: pytest.fail("decodes"))
    assert_identical(tokenizer.compute_codes(catalogue, **SMALL), expected)


# Several processes


@pytest.mark.distributed
def test_two_processes_give_the_codes_of_one(tokenizer, catalogue, expected, tmp_path, monkeypatch):
    """Also after a kill, of a run in one process."""
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    rows = [{"item_id": i, "description": text} for i, text in zip(catalogue.item_ids, catalogue.texts, strict=True)]
    for row, record in enumerate(rows):
        if catalogue.has_image(row):
            record["image"] = f"{row}.png"
            catalogue.image(row).save(tmp_path / record["image"])
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(record) + "\n" for record in rows))
    num_shards = []

    def killed(tensors, path):
        if len(num_shards) == 2:
            raise Killed
        num_shards.append(path)
        files.write_tensors(path, tensors)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(catalogue_codes.FinishedShards, "save_codes", lambda self, key, c, r: killed(
            {"codes": c, "residuals": r}, self.folder / f"{key}.safetensors"))  # fmt: skip
        tokenizer.compute_codes(Catalogue.from_folder(tmp_path), resume_folder=tmp_path / "out/.unfinished", **SMALL)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--main_process_port", port, "examples/tokenize_items.py", "--use_cpu", "--batch_tokens", "60"]
    command += ["--tokenizer", tmp_path / "tokenizer", "--data", tmp_path, "--output_dir", tmp_path / "out"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        list(map(str, command)), env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "items were tokenized before" in done.stderr, "both took up what was there"
    found = UniversalItemTokenizer.from_pretrained(tmp_path / "out")
    tokenizer.add_items(catalogue)
    assert found.index.item_ids == tokenizer.index.item_ids
    np.testing.assert_array_equal(found.index.codes, tokenizer.index.codes)
    assert not (tmp_path / "out/.unfinished").exists()
    assert found.network.text_decoder is not None


class Share:
    """One of several processes, without the others."""

    is_main_process = True

    def __init__(self, process_index, num_processes):
        self.process_index, self.num_processes = process_index, num_processes


@pytest.mark.parametrize("num_processes", [2, 3, 50])
def test_shares_add_up(tokenizer, catalogue, expected, monkeypatch, num_processes):
    monkeypatch.setattr(catalogue_codes, "_exchange", lambda codes, residuals, num_finished, device: num_finished)
    codes, residuals, computed = 0, 0, []
    for process in range(num_processes):
        with monkeypatch.context() as patch:
            counts = forwards(patch, tokenizer.network)
            share = tokenizer.compute_codes(catalogue, state=Share(process, num_processes), **SMALL)
        codes, residuals = codes + share[0], residuals + share[1]
        computed.append(sum(counts))
    assert_identical((codes, residuals), expected)
    assert sum(computed) == len(catalogue)


def test_deeper_features_keep_the_order_of_their_levels():
    """A vision tower may give more than ten: as text, level 10 comes before level 2."""
    cache = object.__new__(VisualFeatureCache)
    cache.backbone = SimpleNamespace(device="cpu")
    features = {f"deeper.{level}": torch.tensor([level]) for level in range(12)}
    output = cache.as_output([{"states": torch.zeros(1), **features}])
    assert [int(images[0]) for images in output.deepstack_features] == list(range(12))
