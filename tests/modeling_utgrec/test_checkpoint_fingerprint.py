"""Weights that were changed since they were saved, or are of another save than config.json, are not loaded."""

import json
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import HfApi, try_to_load_from_cache
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel, set_seed

from modeling_utgrec import (
    RecBaseConfig,
    RecBaseForCausalLM,
    RecBaseTokenizerConfig,
    RecBaseTokenizerModel,
    RQVAEConfig,
    RQVAEModel,
    SASRecConfig,
    SASRecForNextItem,
    UTGRecConfig,
    UTGRecForConditionalGeneration,
    checkpoint_fingerprint,
)
from modeling_utgrec.checkpoint_fingerprint import check_file, check_folder, fingerprint_file, stamp_file
from modeling_utgrec.checkpoint_format import _HOST, STAGING, check_finite

WEIGHTS = "model.safetensors"
T5 = dict(d_model=8, d_ff=8, num_heads=2, d_kv=4, num_layers=1, num_decoder_layers=1, level_sizes=[4, 3, 3])
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


def edit(folder, **changes):
    values = json.loads((folder / "config.json").read_text()) | changes
    values = {name: value for name, value in values.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("kind", "config", "change"),
    [
        (SASRecForNextItem, SASRecConfig(num_items=30, hidden_size=8, max_history=4), {"num_heads": 2}),
        (RQVAEModel, RQVAEConfig(**AUTOENCODER, centre_domains=True), {"centre_domains": None}),
        (RecBaseTokenizerModel, RecBaseTokenizerConfig(**AUTOENCODER), {"distance": "cosine"}),
        (UTGRecForConditionalGeneration, UTGRecConfig(**T5), {"feed_forward_proj": "gelu", "dense_act_fn": "gelu"}),
        (UTGRecForConditionalGeneration, UTGRecConfig(**T5), {"level_sizes": [3, 3, 4], "share_leaf_codes": False}),
        (RecBaseForCausalLM, RecBaseConfig.tiny(), {"rms_norm_eps": 1e-2}),
    ],
)
def test_a_config_that_was_changed_beside_its_weights_is_an_error(tmp_path, kind, config, change):
    """All of these gave other results without a word: no weight has another shape."""
    set_seed(0)
    kind(config).save_pretrained(tmp_path)
    edit(tmp_path, **change)
    for loader in (kind, AutoModel if kind._auto_class == "AutoModel" else getattr(transformers, kind._auto_class)):
        with pytest.raises(ValueError, match=rf"config\.json was changed since .*{[*change][0]}"):
            loader.from_pretrained(tmp_path)


def test_what_may_be_changed_of_a_config(tmp_path):
    set_seed(0)
    model = UTGRecForConditionalGeneration(UTGRecConfig(**T5))
    model.save_pretrained(tmp_path)
    free = {"dropout_rate": 0.3, "max_history": 7, "transformers_version": "5.99.0", "new_in_5_99": [1], "_x": 1}
    edit(tmp_path, **free, initializer_factor=None)
    loaded = UTGRecForConditionalGeneration.from_pretrained(tmp_path)
    assert same(model, loaded) and (loaded.config.dropout_rate, loaded.config.max_history) == (0.3, 7)
    # On purpose, and by a configuration of one's own.
    changed = UTGRecForConditionalGeneration.from_pretrained(tmp_path, layer_norm_epsilon=0.1)
    assert changed.config.layer_norm_epsilon == 0.1
    edit(tmp_path, layer_norm_epsilon=0.1)
    own = UTGRecForConditionalGeneration.from_pretrained(tmp_path, config=UTGRecConfig(**T5))
    assert same(own, model) and own.config.layer_norm_epsilon == 1e-6
    # Saved with it, and of a release that did not say it.
    changed.save_pretrained(tmp_path / "changed")
    assert UTGRecForConditionalGeneration.from_pretrained(tmp_path / "changed").config.layer_norm_epsilon == 0.1
    save_file(load_file(tmp_path / WEIGHTS), tmp_path / WEIGHTS, {"format": "pt"})
    edit(tmp_path, weights_fingerprint={WEIGHTS: stamp_file(tmp_path / WEIGHTS)})
    assert UTGRecForConditionalGeneration.from_pretrained(tmp_path).config.layer_norm_epsilon == 0.1


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
    new.save_pretrained(tmp_path)
    assert same(new, load(tmp_path)) and files(tmp_path) == {"config.json", WEIGHTS}


def test_what_a_kill_leaves_is_removed(tmp_path):
    """Not what another process is saving."""
    now = time.time()
    ended = subprocess.Popen([sys.executable, "-S", "-c", ""])
    ended.wait()
    (tmp_path / f"{STAGING}{_HOST}-{ended.pid}-000000-x").mkdir()
    (tmp_path / f"{STAGING}{_HOST}-{os.getpid()}-000000-x").mkdir()  # of a container that has started anew
    (tmp_path / f"{STAGING}{_HOST}-{os.getppid()}-000000-x").mkdir()
    for name, hours in (("_model.unfinished-dead", 7), ("_model.unfinished-alive", 5), ("theirs", 7)):
        (tmp_path / name).mkdir()
        (tmp_path / name / WEIGHTS).write_text("half")
        os.utime(tmp_path / name, (now, now - hours * 3600))
    make().save_pretrained(tmp_path)
    assert files(tmp_path) == {"config.json", WEIGHTS, "_model.unfinished-alive", "theirs"} | {
        f"{STAGING}{_HOST}-{os.getppid()}-000000-x"
    }
    assert same(make(), load(tmp_path))


def test_two_saves_to_one_folder(tmp_path, monkeypatch):
    """One within the other, as of two processes: each takes its own files, and the last one's are there."""
    first, second, save = make(0), make(1), PreTrainedModel.save_pretrained
    started = []

    def save_within(self, *args, **kwargs):
        if not started:
            started.append(self)
            second.save_pretrained(tmp_path)
            assert same(second, load(tmp_path))
        return save(self, *args, **kwargs)

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", save_within)
    first.save_pretrained(tmp_path)
    assert same(first, load(tmp_path)) and files(tmp_path) == {"config.json", WEIGHTS}


def test_a_folder_by_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make().save_pretrained(Path("a", "b"))
    make(1).save_pretrained("a/b/")
    assert same(make(1), load("a/b")) and files(tmp_path / "a/b") == {"config.json", WEIGHTS}


def test_weights_without_a_configuration(tmp_path):
    """Even those that fit the default one."""
    SASRecForNextItem(SASRecConfig()).save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"there is no config\.json"):
        load(tmp_path)


def test_adapters_without_a_configuration(tmp_path):
    """PEFT's name the model that they belong to."""
    make().save_pretrained(tmp_path / "base")
    model = load(tmp_path / "base")
    model.add_adapter(LoraConfig(target_modules=["query"], r=2, init_lora_weights=False))
    model.save_pretrained(tmp_path / "adapters")
    assert not {"config.json", WEIGHTS} & files(tmp_path / "adapters")
    assert same(model, load(tmp_path / "adapters"))


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    model = make()
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        model.model.embeddings.items.weight[3, 1] = torch.nan
    with pytest.raises(FloatingPointError, match=r"model\.embeddings\.items\.weight"):
        model.save_pretrained(tmp_path)
    assert same(make(), load(tmp_path))


def test_finite_weights_whose_sum_is_not(tmp_path):
    huge = {"a": torch.full((4,), 3e38), "b": torch.full((3,), 6e4, dtype=torch.float16), "c": torch.zeros(0)}
    check_finite(huge)
    for value in (torch.nan, torch.inf, -torch.inf):
        with pytest.raises(FloatingPointError, match="^b and 0 other"):
            check_finite(huge | {"b": torch.tensor([1.0, value])})
    with pytest.raises(FloatingPointError, match="^a and 0 other"):
        check_finite({"a": torch.tensor([torch.inf, -torch.inf])})


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


@pytest.mark.hub
def test_what_the_hub_gives_is_checked_too(hub, make_network, tiny_bert):
    """Also of a checkpoint that names its backbone and holds the rest."""
    tiny_bert[0].push_to_hub(backbone_id := hub.new_repo("backbone"))
    commit = HfApi().model_info(backbone_id).sha
    network, _ = make_network(tiny_bert, backbone_name_or_path=backbone_id, backbone_revision=commit)
    for model in (make(), network):
        model.push_to_hub(repo_id := hub.new_repo("damaged"))
        assert same(type(model).from_pretrained(repo_id), model)
        flip(Path(try_to_load_from_cache(repo_id, WEIGHTS)).resolve(), -9)
        with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
            type(model).from_pretrained(repo_id)
