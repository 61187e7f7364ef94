"""A Hub that has no time, cuts, and lies about sizes and contents: an error that names the repository, and nothing
that came of it is taken for the model later."""

import time

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi

from modeling_utgrec import UTGRecConfig, UTGRecForConditionalGeneration
from tokenization_items import UniversalItemTokenizer
from tokenization_items.hub_folders import HubError, model_folder
from tokenization_items.item_index import ItemIndex

pytestmark = pytest.mark.hub
FILES = ["*.json", "*.safetensors"]


@pytest.fixture
def repo_id(hub, hub_server, tmp_path, monkeypatch):
    """A recommender with its index, in no cache; nobody waits."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    sizes = {"d_model": 8, "d_ff": 8, "num_heads": 2, "d_kv": 4, "num_layers": 1, "num_decoder_layers": 1}
    config = UTGRecConfig(root_codebook_size=4, leaf_codebook_size=4, item_tokenizer_fingerprint="f00d", **sizes)
    torch.manual_seed(0)
    UTGRecForConditionalGeneration(config).save_pretrained(tmp_path / "recommender")
    index = ItemIndex([4, 4, 4], [2, 6, 6])
    index.assign([f"i{row}" for row in range(6)], np.stack(np.unravel_index(np.arange(6) * 9, (4, 4, 4)), 1))
    UniversalItemTokenizer(index, "f00d").save_pretrained(tmp_path / "recommender")
    name = hub.new_repo("odd")
    HfApi().create_repo(name)
    HfApi().upload_folder(repo_id=name, folder_path=tmp_path / "recommender")
    hub_server.log.clear()
    return name


def load(repo_id):
    folder = model_folder(repo_id, FILES)
    return UTGRecForConditionalGeneration.from_pretrained(folder), UniversalItemTokenizer.from_pretrained(folder)


def test_a_hub_that_has_no_time_once(repo_id, hub_server):
    hub_server.throttle("GET", "/resolve/", times=1)
    try:
        _, tokenizer = load(repo_id)
    except HubError as error:  # of a client that does not wait
        assert "429" in str(error)
        _, tokenizer = load(repo_id)
    assert len(tokenizer) == 6


@pytest.mark.parametrize("path", ["/api/models/", "/resolve/"])
def test_a_hub_that_has_no_time(repo_id, hub_server, path):
    for method in ("GET", "HEAD"):
        hub_server.throttle(method, path, times=999)
    with pytest.raises(HubError, match=f"{repo_id}.*"):
        load(repo_id)
    hub_server.heal()
    assert len(load(repo_id)[1]) == 6


@pytest.mark.parametrize("name", ["model.safetensors", "item_index.safetensors"])
@pytest.mark.parametrize("size", [7, 10**6])
def test_a_hub_that_lies_about_sizes(repo_id, hub_server, name, size):
    hub_server.lie(name, size=size)
    with pytest.raises(HubError, match=f"{repo_id}.*size"):
        load(repo_id)
    hub_server.heal()
    assert len(load(repo_id)[1]) == 6


@pytest.mark.parametrize("name", ["model.safetensors", "item_index.safetensors", "item_ids.json"])
def test_a_hub_that_sends_other_bytes(repo_id, hub_server, name):
    """Of the same size, and under the right digest: what is loaded has a fingerprint of its own."""
    content = bytearray(hub_server.content(repo_id, name))
    content[-5 if name.endswith("json") else -1] ^= 1
    hub_server.lie(name, content=bytes(content))
    with pytest.raises(ValueError, match=name):
        load(repo_id)


def test_a_hub_that_cuts_again_and_again(repo_id, hub_server):
    hub_server.cut("GET", "model.safetensors", after=1000, times=99)
    with pytest.raises(HubError, match=f"{repo_id} cannot be downloaded: .*Try again"):
        load(repo_id)
    hub_server.heal()
    model, tokenizer = load(repo_id)
    tokenizer.check_recommender(model)
