"""Checkpoints that somebody broke, by accident or not: each ends in one of our errors, and runs nothing."""

import json
import pickle
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modeling_utgrec import (
    ItemTrie,
    UTGRecConfig,
    UTGRecForConditionalGeneration,
    UTGRecTokenizerConfig,
    UTGRecTokenizerModel,
)
from modeling_utgrec.checkpoint_safety import check_sizes, errors_that_say_why

MANY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SIZES = dict(d_model=8, d_ff=8, num_heads=2, d_kv=4, num_layers=1, num_decoder_layers=1)


@pytest.fixture(scope="module")
def recommender(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recommender")
    UTGRecForConditionalGeneration(UTGRecConfig(**SIZES)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def network(tmp_path_factory, tiny_network):
    folder = tmp_path_factory.mktemp("network")
    tiny_network[0].save_pretrained(folder)
    return folder


ODD = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        3,
        2.5,
        1e308,
        float("nan"),
        10**9,
        10**12,
        2**63,
        "",
        "3",
        "/etc",
        [],
        [1],
        {},
        {"a": 1},
        "\0",
    ]
)


@st.composite
def changed(draw, values: dict) -> dict:
    """A configuration with a few entries changed, taken away or added, at any depth."""
    values = json.loads(json.dumps(values))
    for _ in range(draw(st.integers(1, 2))):
        target = values
        while True:
            key = draw(st.sampled_from(sorted(target)))
            if not (isinstance(target[key], dict) and target[key] and draw(st.booleans())):
                break
            target = target[key]
        kind = draw(st.integers(0, 5))
        if kind == 0:
            del target[key]
        else:
            target[key if kind < 5 else draw(st.sampled_from(["more", "dtype", "id2label", "auto_map"]))] = draw(ODD)
        if not target:
            break
    return values


@MANY
@given(data=st.data())
def test_configurations_of_recommenders(recommender, data):
    values = data.draw(changed(json.loads((recommender / "config.json").read_text())))
    try:
        config = UTGRecConfig.from_dict(values)
    except ValueError:
        return
    assert config.vocab_size == max(o + s for o, s in zip(config.level_offsets, config.level_sizes, strict=True))


@MANY
@given(data=st.data())
def test_configurations_of_networks(network, data):
    values = data.draw(changed(json.loads((network / "config.json").read_text())))
    try:
        UTGRecTokenizerConfig.from_dict(values)
    except ValueError:
        pass


@settings(MANY, max_examples=20)
@given(data=st.data())
def test_networks_of_a_changed_configuration(network, tmp_path, data):
    shutil.copytree(network, tmp_path, dirs_exist_ok=True)
    values = data.draw(changed(json.loads((network / "config.json").read_text())))
    (tmp_path / "config.json").write_text(json.dumps(values))
    try:
        UTGRecTokenizerModel.from_pretrained(tmp_path)
    except (ValueError, OSError):
        pass


@settings(MANY, max_examples=25)
@given(place=st.integers(0, 400), content=st.binary(min_size=1, max_size=9), cut=st.none() | st.integers(0, 5000))
def test_weights_of_a_recommender(recommender, tmp_path, place, content, cut):
    shutil.copytree(recommender, tmp_path, dirs_exist_ok=True)
    weights = bytearray((recommender / "model.safetensors").read_bytes())
    weights[place : place + len(content)] = content
    (tmp_path / "model.safetensors").write_bytes(bytes(weights[:cut]))
    try:
        UTGRecForConditionalGeneration.from_pretrained(tmp_path)
    except (ValueError, OSError):
        pass


@pytest.mark.parametrize(
    "values",
    [
        {"num_layers": 10**12},
        {"num_levels": 10**9},
        {"backbone_config": {"text_config": {"num_hidden_layers": 10**12}}},
        {"vision_config": {"depth": 2000}},
        {"num_labels": 10**12},
        {"diffusion_steps": 10**12},
    ],
)
def test_sizes_that_never_end(values):
    with pytest.raises(ValueError, match="more than 1000"):
        check_sizes(values)
    with pytest.raises(ValueError, match="more than 1000"):
        UTGRecConfig.from_dict({"model_type": "utgrec", **values})


def test_nesting_without_end():
    values = {}
    for _ in range(100):
        values = {"a": values}
    with pytest.raises(ValueError, match="nested more than 50 deep"):
        check_sizes(values)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("recommender", {"d_model": "8"}, "The configuration cannot be used: .*d_model"),
        ("recommender", {"level_sizes": 3}, "The configuration cannot be used"),
        ("network", {"lora_config": {"rank": 3}}, "cannot be used: TypeError: .*rank"),
        ("network", {"denoiser_width": -1}, "cannot be used: RuntimeError"),
    ],
)
def test_the_error_says_what_is_wrong(request, tmp_path, name, changes, message):
    folder = request.getfixturevalue(name)
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = UTGRecTokenizerModel if name == "network" else UTGRecForConditionalGeneration
    with pytest.raises(ValueError, match=message):
        model.from_pretrained(tmp_path)


def test_a_full_device_is_no_malformed_file():
    with pytest.raises(torch.OutOfMemoryError), errors_that_say_why("This"):
        raise torch.OutOfMemoryError("full")
    with pytest.raises(FileNotFoundError), errors_that_say_why("This"):
        raise FileNotFoundError
    with pytest.raises(ValueError, match="This cannot be used: KeyError: 'x'"), errors_that_say_why("This"):
        raise KeyError("x")


class Runs:
    """A pickle of this makes a file when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth"])
def test_pickled_weights_are_refused_with_the_reason(recommender, tmp_path, name):
    shutil.copytree(recommender, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").rename(tmp_path / "item_index.safetensors")
    trace = tmp_path / "code-was-run"
    (tmp_path / name).write_bytes(pickle.dumps(Runs(trace)))
    with pytest.raises(ValueError, match=f"{name}, a pickle: opening one can run any code, so it is not read"):
        UTGRecForConditionalGeneration.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="Only safetensors are read"):
        UTGRecForConditionalGeneration.from_pretrained(recommender, use_safetensors=False)
    assert not trace.exists()


def test_a_pickle_named_safetensors_is_not_opened(recommender, tmp_path):
    shutil.copytree(recommender, tmp_path, dirs_exist_ok=True)
    trace = tmp_path / "code-was-run"
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(Runs(trace)))
    with pytest.raises((ValueError, OSError)):
        UTGRecForConditionalGeneration.from_pretrained(tmp_path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "name", ["../elsewhere.safetensors", "/elsewhere.safetensors", "sub/x.safetensors", "x.bin", "..", 3]
)
def test_parts_that_lie_elsewhere_are_not_read(recommender, tmp_path, name):
    folder = tmp_path / "model"
    shutil.copytree(recommender, folder)
    (folder / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    names = UTGRecForConditionalGeneration(UTGRecConfig(**SIZES)).state_dict()
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="is no safetensors file of this folder"):
        UTGRecForConditionalGeneration.from_pretrained(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": []}}', "[" * 9999])
def test_a_list_of_parts_that_is_none(recommender, tmp_path, text):
    shutil.copytree(recommender, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match="does not say where the weights are"):
        UTGRecForConditionalGeneration.from_pretrained(tmp_path)


def test_parts_that_lie_beside_each_other_are_read(recommender, tmp_path):
    model = UTGRecForConditionalGeneration.from_pretrained(recommender)
    model.save_pretrained(tmp_path, max_shard_size="3KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    loaded = UTGRecForConditionalGeneration.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))


CODES = st.lists(st.lists(st.integers(-1, 4), min_size=0, max_size=3), max_size=5)


@MANY
@given(codes=CODES, sizes=st.lists(st.integers(-1, 5), max_size=4), offsets=st.lists(st.integers(0, 9), max_size=4))
def test_tries(codes, sizes, offsets):
    """Any lists of numbers make a trie that holds exactly these identifiers, or an error of ours."""
    lengths = {len(row) for row in codes}
    table = (
        torch.tensor(codes, dtype=torch.long) if len(lengths) == 1 else torch.zeros(len(codes), 2, dtype=torch.long)
    )
    try:
        trie = ItemTrie(table, sizes, offsets)
    except ValueError:
        return
    nodes = torch.zeros(trie.num_items, dtype=torch.long)
    for level in range(trie.num_levels):
        nodes = trie.step(level, nodes, table[:, level])
    assert nodes.tolist() == list(range(trie.num_items))
