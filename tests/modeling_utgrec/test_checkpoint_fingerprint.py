"""Weights that were changed since they were saved, or are of another save than config.json, are not loaded."""

import json
import os
import shutil
import stat

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, set_seed

from modeling_utgrec import (
    RecBaseTokenizerConfig,
    RecBaseTokenizerModel,
    RQVAEConfig,
    RQVAEModel,
    SASRecConfig,
    SASRecForNextItem,
    checkpoint_fingerprint,
)
from modeling_utgrec.checkpoint_fingerprint import check_file, check_folder, fingerprint_file, stamp_file

WEIGHTS = "model.safetensors"
AUTOENCODER = dict(input_dim=8, hidden_sizes=[6], codebook_dim=4, num_levels=2, codebook_size=4)


def make(seed=0):
    set_seed(seed)
    return SASRecForNextItem(SASRecConfig(num_items=30, hidden_size=8, max_history=4))


def load(folder):
    return SASRecForNextItem.from_pretrained(folder)


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def files(folder):
    return {path.name for path in folder.iterdir() if path.suffix != ".py"}  # of the code that travels along


def same(a, b):
    return all(torch.equal(tensor, b.state_dict()[name]) for name, tensor in a.state_dict().items())


def test_a_save_says_what_it_is(tmp_path):
    model = make()
    before = os.umask(0o027)
    try:
        model.save_pretrained(tmp_path)
    finally:
        os.umask(before)
    with safe_open(tmp_path / WEIGHTS, framework="pt") as file:
        assert file.metadata()["format"] == "pt"
        stated = file.metadata()["fingerprint"]
    assert json.loads((tmp_path / "config.json").read_text())["weights_fingerprint"] == {WEIGHTS: stated}
    assert fingerprint_file(tmp_path / WEIGHTS) == (stated, stated)
    assert stat.S_IMODE((tmp_path / WEIGHTS).stat().st_mode) == 0o640  # safetensors itself: 600
    assert files(tmp_path) == {"config.json", WEIGHTS}
    loaded = load(tmp_path)
    assert same(model, loaded) and not hasattr(loaded.config, "weights_fingerprint")
    loaded.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (tmp_path / WEIGHTS).read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9999])
def test_any_flipped_byte_is_found(tmp_path, share):
    make().save_pretrained(tmp_path)
    size = (tmp_path / WEIGHTS).stat().st_size
    flip(tmp_path / WEIGHTS, max(int(share * size), 60))
    with pytest.raises(ValueError, match=WEIGHTS):
        load(tmp_path)
    with pytest.raises(ValueError, match=WEIGHTS):
        AutoModelForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", [RQVAEModel, RecBaseTokenizerModel])
def test_a_flipped_byte_of_a_decoder(tmp_path, kind):
    config = RQVAEConfig if kind is RQVAEModel else RecBaseTokenizerConfig
    model = kind(config(**AUTOENCODER))
    model.save_pretrained(tmp_path)
    assert same(model, AutoModel.from_pretrained(tmp_path))
    raw = model.decoder[0].weight.detach().numpy().tobytes()
    flip(tmp_path / WEIGHTS, (tmp_path / WEIGHTS).read_bytes().index(raw) + 3)
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        AutoModel.from_pretrained(tmp_path)


def test_files_of_two_saves(tmp_path):
    make(0).save_pretrained(tmp_path / "a")
    make(1).save_pretrained(tmp_path / "b")
    shutil.copy(tmp_path / "a" / WEIGHTS, tmp_path / "b" / WEIGHTS)
    with pytest.raises(ValueError, match=r"b/model\.safetensors is not of the same save"):
        load(tmp_path / "b")
    save_file(load_file(tmp_path / "a" / WEIGHTS), tmp_path / "b" / WEIGHTS, {"format": "pt"})
    with pytest.raises(ValueError, match="states none"):
        load(tmp_path / "b")
    (tmp_path / "b" / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is missing"):
        load(tmp_path / "b")
    values = json.loads((tmp_path / "a" / "config.json").read_text())
    (tmp_path / "a" / "config.json").write_text(json.dumps(values | {"weights_fingerprint": {"../x": "y"}}))
    with pytest.raises(ValueError, match="object of file names"):
        load(tmp_path / "a")


def test_older_files_are_read_as_they_are(tmp_path):
    model = make()
    model.save_pretrained(tmp_path)
    save_file(load_file(tmp_path / WEIGHTS), tmp_path / WEIGHTS, {"format": "pt"})
    values = json.loads((tmp_path / "config.json").read_text())
    del values["weights_fingerprint"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert same(model, load(tmp_path))


def test_in_parts(tmp_path):
    model = make()
    model.save_pretrained(tmp_path, max_shard_size="1KB")
    parts = sorted(path.name for path in tmp_path.glob("model-*.safetensors"))
    assert len(parts) > 2 and same(model, load(tmp_path))
    make(1).save_pretrained(tmp_path / "other", max_shard_size="1KB")
    shutil.copy(tmp_path / "other" / parts[1], tmp_path / parts[1])
    with pytest.raises(ValueError, match=parts[1]):
        load(tmp_path)
    model.save_pretrained(tmp_path)  # in one part, over them
    assert same(model, load(tmp_path))
    assert files(tmp_path) == {"config.json", WEIGHTS, "other"}
    model.save_pretrained(tmp_path, max_shard_size="1KB")
    assert same(model, load(tmp_path)) and not (tmp_path / WEIGHTS).exists()


@pytest.mark.parametrize("replaced", [0, 1])
def test_a_save_that_is_cut_short(tmp_path, monkeypatch, replaced):
    """While files are written, or between their taking their places; the next save mends it."""
    old, new = make(0), make(1)
    old.save_pretrained(tmp_path)
    replace, calls = os.replace, []

    def cut(source, target):
        if os.path.dirname(target) == str(tmp_path):
            calls.append(target)
            if len(calls) > replaced:
                raise KeyboardInterrupt
        return replace(source, target)

    monkeypatch.setattr("modeling_utgrec.checkpoint_format.os.replace", cut)
    with pytest.raises(KeyboardInterrupt):
        new.save_pretrained(tmp_path)
    monkeypatch.undo()
    if replaced:
        with pytest.raises(ValueError, match="not of the same save"):
            load(tmp_path)
    else:
        assert same(old, load(tmp_path))
    (tmp_path / ".model.unfinished").mkdir()  # as a kill leaves it
    new.save_pretrained(tmp_path)
    assert same(new, load(tmp_path)) and files(tmp_path) == {"config.json", WEIGHTS}


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    model = make()
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        model.model.embeddings.items.weight[3, 1] = torch.nan
    with pytest.raises(FloatingPointError, match=r"model\.embeddings\.items\.weight"):
        model.save_pretrained(tmp_path)
    assert same(make(), load(tmp_path))


def test_the_digest_does_not_depend_on_threads(tmp_path, monkeypatch):
    """Of several chunks, against a plain computation; and an empty tensor."""
    monkeypatch.setattr(checkpoint_fingerprint, "CHUNK", 64)
    path = tmp_path / "x.safetensors"
    for tensors in ({"a": torch.arange(100.0), "b": torch.arange(7)}, {"a": torch.zeros(0)}):
        save_file(tensors, path)
        stated = stamp_file(path)
        monkeypatch.setattr(checkpoint_fingerprint, "THREADS", 1)
        assert check_file(path) == stated == fingerprint_file(path)[0]
        assert torch.equal(load_file(path)["a"], tensors["a"])
    check_folder(tmp_path)


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 20, b"\x02" + b"\0" * 7 + b"[]"])
def test_what_is_no_safetensors_file(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.safetensors is"):
        check_file(tmp_path / "x.safetensors")
