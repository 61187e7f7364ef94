"""Frozen text encoders: pooling by hand, sentence-transformers folders, batches."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tokenization_items.text_encoders import TextEncoder, files_fingerprint, pool, read_sentence_transformers

TEXTS = ["red guitar", "blue drum stand with a strap and a case", "", "oak violin bow", "steel string amp pedal " * 60]


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory, tiny_bert) -> Path:
    """A BERT that no sentence-transformers configuration comes with."""
    folder = tmp_path_factory.mktemp("bert")
    backbone, tokenizer, _ = tiny_bert
    backbone.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_sentence_transformers(
    folder: Path, plain: Path, pooling: dict, dense: bool = False, normalize: bool = True, **configuration
) -> Path:
    folder.mkdir()
    for path in plain.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    modules += [("2_Dense", "Dense")] * dense + [("3_Normalize", "Normalize")] * normalize
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
                for i, (path, kind) in enumerate(modules)
            ]
        )
    )
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16, "do_lower_case": False}))
    (folder / "config_sentence_transformers.json").write_text(json.dumps(configuration))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **pooling}))
    if dense:
        (folder / "2_Dense").mkdir()
        values = {"in_features": 32, "out_features": 5, "bias": False}
        values["activation_function"] = "torch.nn.modules.activation.Tanh"
        (folder / "2_Dense" / "config.json").write_text(json.dumps(values))
        weight = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
        save_file({"linear.weight": weight}, folder / "2_Dense" / "model.safetensors")
    return folder


def states_by_hand(tiny_bert, text: str, max_length: int) -> torch.Tensor:
    backbone, tokenizer, _ = tiny_bert
    inputs = tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt")
    with torch.no_grad():
        return backbone(**inputs).last_hidden_state[0].double()


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("normalize", [True, False])
def test_pooling_by_hand_one_text_at_a_time(plain_folder, tiny_bert, pooling, normalize, float32_tolerance):
    encoder = TextEncoder.from_pretrained(plain_folder, pooling=pooling, normalize=normalize, max_length=20)
    vectors = encoder.embed(TEXTS)
    assert vectors.dtype == np.float32 and vectors.shape == (len(TEXTS), 32)
    for text, vector in zip(TEXTS, vectors, strict=True):
        states = states_by_hand(tiny_bert, text, 20)
        expected = {"mean": states.mean(0), "cls": states[0], "last": states[-1]}[pooling]
        if normalize:
            expected = expected / expected.norm()
        np.testing.assert_allclose(vector, expected, **float32_tolerance(5, expected))


def test_defaults_without_sentence_transformers_configuration(plain_folder):
    settings = TextEncoder.from_pretrained(plain_folder).settings
    assert settings == {
        "pooling": "mean",
        "normalize": False,
        "max_length": 128,  # the model's positions
        "prefix": "",
        "lower_case": False,
        "dtype": "float32",
    }


@pytest.mark.parametrize("batch_tokens", [1, 40, 10**6])
def test_batches_do_not_change_the_vectors(plain_folder, batch_tokens, float32_tolerance):
    encoder = TextEncoder.from_pretrained(plain_folder)
    expected = encoder.embed(TEXTS, batch_tokens=100)
    allowed = float32_tolerance(5, np.abs(expected).max())  # two layers of a BERT and its embeddings
    np.testing.assert_allclose(encoder.embed(TEXTS, batch_tokens=batch_tokens), expected, **allowed)
    order = [3, 0, 4, 2, 1]
    np.testing.assert_allclose(encoder.embed([TEXTS[i] for i in order]), expected[order], **allowed)


def test_padding_on_the_left_by_default_is_set_right(plain_folder, float32_tolerance):
    encoder = TextEncoder.from_pretrained(plain_folder, pooling="last")
    encoder.tokenizer.padding_side = "left"
    again = TextEncoder(encoder.model, encoder.tokenizer, encoder.text_settings)
    expected = np.stack([again.embed([text])[0] for text in TEXTS])
    np.testing.assert_allclose(again.embed(TEXTS), expected, **float32_tolerance(5, np.abs(expected).max()))


def test_a_text_without_tokens_has_a_row_of_zeros(plain_folder, float32_tolerance):
    encoder = TextEncoder.from_pretrained(plain_folder)
    full = encoder.embed(["oak", "red"])
    encoder.tokenizer.backend_tokenizer.post_processor = None  # no [CLS] and [SEP]
    vectors = encoder.embed(["oak", "", "red guitar", ""])
    assert vectors.any(axis=1).tolist() == [True, False, True, False]
    allowed = float32_tolerance(5, np.abs(vectors).max())
    np.testing.assert_allclose(vectors[0], encoder.embed(["oak"])[0], **allowed)
    np.testing.assert_allclose(vectors[2], encoder.embed(["red guitar"])[0], **allowed)
    assert not np.allclose(vectors[0], full[0])


def test_no_text_and_bfloat16(plain_folder):
    encoder = TextEncoder.from_pretrained(plain_folder, dtype="bfloat16")
    assert encoder.model.dtype == torch.bfloat16 and encoder.embed([]).shape[0] == 0
    full = TextEncoder.from_pretrained(plain_folder).embed(TEXTS)
    vectors = encoder.embed(TEXTS)
    assert vectors.dtype == np.float32
    cosine = (vectors * full).sum(1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(full, axis=1)
    assert cosine.min() > 0.99 and not np.array_equal(vectors, full)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_lasttoken": True, "include_prompt": True}, "last"),
        ({"pooling_mode": "cls"}, "cls"),
    ],
)
def test_sentence_transformers_folder_is_obeyed(tmp_path, plain_folder, tiny_bert, pooling, expected):
    prompts = {"prompts": {"query": "oak ", "document": "drum "}, "default_prompt_name": "document"}
    folder = write_sentence_transformers(tmp_path / "st", plain_folder, pooling, dense=True, **prompts)
    encoder = TextEncoder.from_pretrained(folder)
    assert encoder.settings["pooling"] == expected and encoder.settings["normalize"]
    assert (encoder.settings["max_length"], encoder.settings["prefix"]) == (16, "drum ")
    weight = torch.randn(5, 32, generator=torch.Generator().manual_seed(0)).double()
    for text, vector in zip(TEXTS, encoder.embed(TEXTS), strict=True):
        states = states_by_hand(tiny_bert, "drum " + text, 16)
        pooled = {"mean": states.mean(0), "cls": states[0], "last": states[-1]}[expected]
        dense = (weight @ pooled).tanh()
        np.testing.assert_allclose(vector, dense / dense.norm(), atol=1e-5)
    given = TextEncoder.from_pretrained(folder, pooling="mean", normalize=False, prefix="", max_length=9)
    assert given.settings["pooling"] == "mean" and not given.settings["normalize"]
    assert (given.settings["max_length"], given.settings["prefix"]) == (9, "")


def test_unknown_modules_and_poolings_are_named(tmp_path, plain_folder):
    folder = write_sentence_transformers(tmp_path / "max", plain_folder, {"pooling_mode_max_tokens": True})
    with pytest.raises(ValueError, match="max_tokens.*is not known"):
        read_sentence_transformers(folder)
    folder = write_sentence_transformers(tmp_path / "cnn", plain_folder, {"pooling_mode": "mean"})
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([*modules, {"path": "4", "type": "sentence_transformers.CNN"}]))
    with pytest.raises(ValueError, match="names a CNN"):
        read_sentence_transformers(folder)
    with pytest.raises(ValueError, match="pooling must be one of"):
        TextEncoder.from_pretrained(plain_folder, pooling="max")


def test_what_would_give_other_vectors_is_refused(tmp_path, plain_folder):
    prompts = {"prompts": {"document": "drum "}, "default_prompt_name": "document"}
    pooling = {"pooling_mode": "mean", "include_prompt": False}
    folder = write_sentence_transformers(tmp_path / "prompt", plain_folder, pooling, **prompts)
    with pytest.raises(ValueError, match="tokens of the prompt 'drum '"):
        read_sentence_transformers(folder)
    without_prompt = write_sentence_transformers(tmp_path / "none", plain_folder, pooling)
    assert read_sentence_transformers(without_prompt).prefix == ""
    folder = write_sentence_transformers(tmp_path / "order", plain_folder, {"pooling_mode": "mean"}, dense=True)
    modules = json.loads((folder / "modules.json").read_text())
    modules[2:] = modules[:1:-1]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match="Dense after Normalize"):
        read_sentence_transformers(folder)


@pytest.mark.parametrize(
    "pooling",
    [
        {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
        {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True},
        {"pooling_mode": "lasttoken"},
    ],
)
@pytest.mark.parametrize("dense", [False, True])
def test_vectors_of_sentence_transformers(tmp_path, plain_folder, pooling, dense):
    """The same folder, and the same again as that library saves it, read here and there."""
    library = pytest.importorskip("sentence_transformers")
    prompts = {"prompts": {"query": "oak ", "document": "drum "}, "default_prompt_name": "document"}
    folder = write_sentence_transformers(tmp_path / "st", plain_folder, pooling, dense=dense, **prompts)
    theirs = library.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    expected = theirs.encode(TEXTS, show_progress_bar=False)
    theirs.save(str(tmp_path / "saved"))
    for each in (folder, tmp_path / "saved"):
        vectors = TextEncoder.from_pretrained(each, device="cpu").embed(TEXTS)
        np.testing.assert_allclose(vectors, expected, atol=1e-6, rtol=0)


def test_fingerprint_follows_the_files(tmp_path, plain_folder):
    folder = write_sentence_transformers(tmp_path / "st", plain_folder, {"pooling_mode": "mean"})
    first = files_fingerprint(folder)
    (folder / "README.md").write_text("no part of the encoder")
    assert files_fingerprint(folder) == first
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "cls"}))
    assert files_fingerprint(folder) != first


def test_pool_reads_valid_tokens_only():
    states = torch.arange(12.0).view(2, 3, 2)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert pool(states, mask, "mean").tolist() == [[1.0, 2.0], [8.0, 9.0]]
    assert pool(states, mask, "last").tolist() == [[2.0, 3.0], [10.0, 11.0]]
    assert pool(states, mask, "cls").tolist() == [[0.0, 1.0], [6.0, 7.0]]


def test_equal_texts_have_equal_vectors_and_are_read_once(plain_folder, float32_tolerance):
    encoder = TextEncoder.from_pretrained(plain_folder)
    seen = []
    forward = encoder._forward
    encoder._forward = lambda inputs: seen.append(len(inputs["input_ids"])) or forward(inputs)
    vectors = encoder.embed(["oak", "red guitar", "oak", "", "oak"], batch_tokens=8)
    assert sum(seen) == 3
    np.testing.assert_array_equal(vectors[[2, 4]], vectors[[0, 0]])
    allowed = float32_tolerance(5, np.abs(vectors).max())
    np.testing.assert_allclose(vectors[1], encoder.embed(["red guitar"])[0], **allowed)


def test_threads_take_turns_at_the_tokenizer(plain_folder):
    encoder = TextEncoder.from_pretrained(plain_folder)
    own, at_once, most = encoder.tokenizer, [], []

    def tokenizer(*given, **settings):
        at_once.append(1)
        most.append(len(at_once))
        time.sleep(0.01)
        found = own(*given, **settings)
        at_once.pop()
        return found

    encoder.tokenizer = tokenizer
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(encoder.embed, [[f"text {number}"] for number in range(8)]))
    assert len(most) == 16 and max(most) == 1 and all(each.shape == found[0].shape for each in found)
