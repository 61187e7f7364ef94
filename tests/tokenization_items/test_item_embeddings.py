"""Folders of embeddings: what is read back, in which order, what is an error, and when nothing is computed."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from tokenization_items.catalogue import Catalogue
from tokenization_items.image_encoders import ImageEncoder
from tokenization_items.item_embeddings import (
    EmbeddingError,
    embed_items,
    encoder_fingerprint,
    load_embeddings,
    save_embeddings,
)
from tokenization_items.text_encoders import TextEncoder, TextSettings
from tokenization_items.text_statistics import TextStatistics

IDS = ["b", "a", "10", "é"]
RECORDS = [
    {"item_id": "i0", "title": "red guitar", "brand": "oak"},
    {"item_id": "i1", "title": "steel string"},
    {"item_id": "i2", "title": "violin bow case"},
]


def matrix(num_items: int = 4) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((num_items, 3)).astype(np.float32)


@pytest.fixture
def encoder(tiny_bert) -> TextEncoder:
    backbone, tokenizer, _ = tiny_bert
    settings = TextSettings("mean", True, 32, "", False, "float32")
    return TextEncoder(backbone, tokenizer, settings, name="tiny", fingerprint="f")


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_round_trip_in_any_order(tmp_path):
    values = matrix()
    save_embeddings(tmp_path / "e", IDS, values, {"encoder": "x"})
    assert sorted(times(tmp_path / "e")) == ["embeddings.json", "embeddings.safetensors", "item_ids.json"]
    np.testing.assert_array_equal(load_embeddings(tmp_path / "e"), values)
    wanted = ["é", "b", "b"]
    loaded = load_embeddings(tmp_path / "e", wanted)
    np.testing.assert_array_equal(loaded, values[[3, 0, 0]])
    assert loaded.dtype == np.float32
    assert load_embeddings(tmp_path / "e", []).shape == (0, 3)
    record = json.loads((tmp_path / "e" / "embeddings.json").read_text())
    assert (record["encoder"], record["num_items"], record["dim"]) == ("x", 4, 3)


def test_missing_items_are_named_or_rows_of_nan(tmp_path):
    save_embeddings(tmp_path, IDS, matrix())
    with pytest.raises(EmbeddingError, match=r"no embeddings of 2 of 3 items: 'x', 'y'"):
        load_embeddings(tmp_path, ["x", "a", "y"])
    loaded = load_embeddings(tmp_path, ["x", "a"], allow_missing=True)
    assert np.isnan(loaded[0]).all()
    np.testing.assert_array_equal(loaded[1], matrix()[1])


@pytest.mark.parametrize(("value", "what"), [(np.nan, "NaN"), (np.inf, "infinity"), (0.0, "only zeros")])
def test_broken_rows_are_named_at_both_ends(tmp_path, value, what):
    values = matrix()
    values[2] = value
    with pytest.raises(EmbeddingError, match=rf"1 items have embeddings with .*{what}.*'10'"):
        save_embeddings(tmp_path / "e", IDS, values)
    assert not (tmp_path / "e").exists()


def test_save_checks_its_arguments(tmp_path):
    with pytest.raises(EmbeddingError, match="4 items need a matrix"):
        save_embeddings(tmp_path, IDS, matrix(3))
    with pytest.raises(EmbeddingError, match="more than once"):
        save_embeddings(tmp_path, ["a", "a"], matrix(2))


def test_damaged_folders_are_errors(tmp_path):
    with pytest.raises(EmbeddingError, match="missing.*`utgrec embed`"):
        load_embeddings(tmp_path)
    save_embeddings(tmp_path, IDS, matrix())
    path = tmp_path / "embeddings.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(EmbeddingError, match="truncated"):
        load_embeddings(tmp_path)
    save_file({"embeddings": matrix() + 1}, path)
    with pytest.raises(EmbeddingError, match="different saves"):
        load_embeddings(tmp_path)
    save_file({"embeddings": matrix(3)}, path)
    with pytest.raises(EmbeddingError, match="4 item ids"):
        load_embeddings(tmp_path)
    path.write_bytes(whole)
    (tmp_path / "item_ids.json").write_text(json.dumps(IDS)[:-3])
    with pytest.raises(EmbeddingError, match="not JSON"):
        load_embeddings(tmp_path)


def test_embed_items_writes_what_the_encoder_gives(tmp_path, encoder):
    catalogue = Catalogue.from_records(RECORDS)
    assert embed_items(catalogue, encoder, tmp_path)
    np.testing.assert_array_equal(load_embeddings(tmp_path, catalogue.item_ids), encoder.embed(catalogue.texts))
    record = json.loads((tmp_path / "embeddings.json").read_text())
    assert record["encoder"] == "tiny" and record["pooling"] == "mean" and record["input"] == "text"
    assert record["text_fields"][0] == "title" and len(record["inputs_sha256"]) == 64


def test_a_second_call_does_nothing_unless_something_differs(tmp_path, encoder, monkeypatch):
    catalogue = Catalogue.from_records(RECORDS)
    assert embed_items(catalogue, encoder, tmp_path)
    before = times(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(TextEncoder, "embed", lambda *args, **kwargs: pytest.fail("computed again"))
        assert not embed_items(catalogue, encoder, tmp_path, batch_tokens=7)
        encoder.name = "the same encoder by another path"
        assert not embed_items(catalogue, encoder, tmp_path)
    assert times(tmp_path) == before

    changed = Catalogue.from_records([{**RECORDS[0], "brand": "ash"}, *RECORDS[1:]])
    assert embed_items(changed, encoder, tmp_path)
    assert embed_items(changed.select([1, 0, 2]), encoder, tmp_path)
    encoder.text_settings.pooling = "cls"
    assert embed_items(changed, encoder, tmp_path)
    encoder.fingerprint = "another revision"
    assert embed_items(changed, encoder, tmp_path)
    (tmp_path / "embeddings.safetensors").write_bytes(b"half")
    assert embed_items(changed, encoder, tmp_path)
    (tmp_path / "embeddings.json").write_text("{")
    assert embed_items(changed, encoder, tmp_path)
    assert not embed_items(changed, encoder, tmp_path)


class MeanColour(ImageEncoder):
    """An image's mean colour."""

    def __init__(self):
        self.name, self.fingerprint = "mean-colour", "1"

    settings = {}

    def embed(self, catalogue, rows, batch_images=64, progress=None):
        return np.stack([np.asarray(catalogue.image(row), np.float32).mean((0, 1)) for row in rows])


def test_images_of_the_items_that_have_one(tmp_path):
    images = [Image.new("RGB", (4, 4), (i + 1, 5, 9)) for i in range(3)]
    records = [{**record, "image": image} for record, image in zip(RECORDS, [images[0], None, images[2]], strict=True)]
    catalogue = Catalogue.from_records(records)
    assert embed_items(catalogue, MeanColour(), tmp_path)
    assert not embed_items(catalogue, MeanColour(), tmp_path)
    loaded = load_embeddings(tmp_path, catalogue.item_ids, allow_missing=True)
    np.testing.assert_array_equal(loaded[[0, 2]], [[1, 5, 9], [3, 5, 9]])
    assert np.isnan(loaded[1]).all()
    records[2]["image"] = images[1]
    assert embed_items(Catalogue.from_records(records), MeanColour(), tmp_path)
    with pytest.raises(EmbeddingError, match="no item has an image"):
        embed_items(Catalogue.from_records(RECORDS), MeanColour(), tmp_path)


def test_what_made_vectors_is_one_word(tmp_path, encoder):
    """The same where vectors compare, another where they do not."""
    catalogue = Catalogue.from_records(RECORDS)
    embed_items(catalogue, encoder, tmp_path / "a")
    embed_items(catalogue.select([2, 0]), encoder, tmp_path / "b")
    first = encoder_fingerprint(tmp_path / "a")
    assert first == encoder_fingerprint(tmp_path / "b") == encoder_fingerprint(tmp_path / "b", fitted=True)
    for changes in ({"pooling": "cls"}, {"normalize": False}, {"prefix": "item: "}, {"lower_case": True}):
        settings = replace(encoder.text_settings, **changes)
        other = TextEncoder(encoder.model, encoder.tokenizer, settings, name="tiny", fingerprint="f")
        embed_items(catalogue, other, tmp_path / "c")
        assert encoder_fingerprint(tmp_path / "c") != first, changes
    encoder.fingerprint = "g"
    embed_items(catalogue, encoder, tmp_path / "c")
    assert encoder_fingerprint(tmp_path / "c") != first
    save_embeddings(tmp_path / "own", IDS, matrix(), {"model": "mine"})
    assert encoder_fingerprint(tmp_path / "own") is None
    with pytest.raises(EmbeddingError, match="missing"):
        encoder_fingerprint(tmp_path / "none")


def test_vectors_of_tf_idf_are_of_their_texts(tmp_path):
    records = [{"item_id": str(row), "title": f"case {'red' if row % 2 else 'blue'}"} for row in range(6)]
    for name, used in (("a", records), ("b", records[:5])):
        embed_items(Catalogue.from_records(used), TextStatistics(), tmp_path / name)
    a, b = (encoder_fingerprint(tmp_path / name) for name in "ab")
    assert a == b == TextStatistics().fingerprint, "what is made anew from all texts is alike"
    a, b = (encoder_fingerprint(tmp_path / name, fitted=True) for name in "ab")
    assert a != b and a == encoder_fingerprint(tmp_path / "a", fitted=True)


@pytest.mark.parametrize("statistics", [False, True])
def test_items_without_any_text_are_named_before_the_work(tmp_path, encoder, statistics):
    images = [{"item_id": str(row), "image": Image.new("RGB", (2, 2))} for row in range(3)]
    used = TextStatistics() if statistics else encoder
    with pytest.raises(EmbeddingError, match="none of the 3 items has a text: give the fields"):
        embed_items(Catalogue.from_records(images), used, tmp_path / "texts")
    assert not (tmp_path / "texts").exists()


def test_a_folder_that_takes_no_files_is_named_before_the_work(tmp_path, encoder, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(encoder, "embed", None)
    with pytest.raises(OSError, match="No files can be written to .*file"):
        embed_items(Catalogue.from_records(RECORDS), encoder, tmp_path / "file")
