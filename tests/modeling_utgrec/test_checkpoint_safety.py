"""Checkpoints that are broken, by accident or not: each ends in an error of the package, and runs nothing."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

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


def some(**entries) -> st.SearchStrategy[dict]:
    """Some of these entries, with values that are drawn."""
    return st.fixed_dictionaries({}, optional=entries)


SHARES, POSITIVE = st.floats(0, 0.9), st.floats(0.01, 100)
# What a configuration may hold as well: everything that is no size of a weight, and entries of later releases.
OF_RECOMMENDERS = some(
    max_history=st.integers(1, 10**6),
    causal_encoder=st.booleans(),
    normalize_over=st.sampled_from(["vocabulary", "items"]),
    loss_temperature=POSITIVE,
    dropout_rate=SHARES,
    item_tokenizer_fingerprint=st.none() | st.text(),
    entry_of_a_later_release=st.none() | st.integers() | st.text() | st.lists(st.integers()),
)
OF_NETWORKS = some(
    temperature=POSITIVE,
    image_weight=st.integers(0, 9) | POSITIVE,
    commitment_weight=POSITIVE,
    warmup_steps=st.integers(0, 10**6),
    adapter_dropout=SHARES,
    codebook_init=st.sampled_from(["normal", "kmeans"]),
    entry_of_a_later_release=st.none() | st.integers() | st.text() | st.lists(st.integers()),
)


@MANY
@given(data=st.data(), fine=OF_RECOMMENDERS)
def test_configurations_of_recommenders(recommender, data, fine):
    values = json.loads((recommender / "config.json").read_text()) | fine
    config = UTGRecConfig.from_dict(values)
    assert {name: getattr(config, name) for name in fine} == fine
    try:
        config = UTGRecConfig.from_dict(data.draw(changed(values)))
    except ValueError:
        return
    assert config.vocab_size == max(o + s for o, s in zip(config.level_offsets, config.level_sizes, strict=True))


@MANY
@given(data=st.data(), fine=OF_NETWORKS)
def test_configurations_of_networks(network, data, fine):
    values = json.loads((network / "config.json").read_text()) | fine
    config = UTGRecTokenizerConfig.from_dict(values)
    assert {name: getattr(config, name) for name in fine} == fine
    try:
        UTGRecTokenizerConfig.from_dict(data.draw(changed(values)))
    except ValueError:
        pass


@settings(MANY, max_examples=5)
@given(fine=OF_NETWORKS)
def test_networks_of_another_configuration_that_fits(network, tmp_path, fine):
    shutil.copytree(network, tmp_path, dirs_exist_ok=True)
    values = json.loads((network / "config.json").read_text()) | fine
    (tmp_path / "config.json").write_text(json.dumps(values))
    loaded = UTGRecTokenizerModel.from_pretrained(tmp_path)
    assert {name: getattr(loaded.config, name) for name in fine} == fine
    assert_holds(loaded, network / "model.safetensors")


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


def assert_holds(model: torch.nn.Module, weights: Path) -> None:
    """That a model has all weights of a file, bit by bit."""
    found = model.state_dict()
    for name, tensor in load_file(weights).items():
        bits, expected = (each.reshape(-1).view(torch.uint8) for each in (found[name], tensor))
        assert torch.equal(bits, expected), name


@settings(MANY, max_examples=25)
@given(
    place=st.integers(0, 400) | st.integers(-2000, -1),
    content=st.binary(min_size=1, max_size=9),
    cut=st.none() | st.integers(0, 5000),
)
@example(place=-40, content=b"\0", cut=None)
@example(place=0, content=b"\0", cut=None)
def test_weights_of_a_recommender(recommender, tmp_path, place, content, cut):
    """Any numbers among the weights of an older file are read, whatever they are; a broken header or a shorter file is
    an error, and so is any change of a file that states its fingerprint."""
    shutil.copytree(recommender, tmp_path, dirs_exist_ok=True)
    weights = bytearray((recommender / "model.safetensors").read_bytes())
    place %= len(weights)
    header, content = 8 + int.from_bytes(weights[:8], "little"), content[: len(weights) - place]
    weights[place : place + len(content)] = content
    (tmp_path / "model.safetensors").write_bytes(bytes(weights[:cut]))
    if place >= header and (cut is None or cut >= len(weights)):
        if weights != (recommender / "model.safetensors").read_bytes():
            with pytest.raises(ValueError, match="is damaged"):
                UTGRecForConditionalGeneration.from_pretrained(tmp_path)
        values = json.loads((recommender / "config.json").read_text())
        del values["weights_fingerprint"]
        (tmp_path / "config.json").write_text(json.dumps(values))
        save_file(load_file(tmp_path / "model.safetensors"), tmp_path / "model.safetensors", {"format": "pt"})
        assert_holds(UTGRecForConditionalGeneration.from_pretrained(tmp_path), tmp_path / "model.safetensors")
        return
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


def test_missing_weights_are_not_mistaken_for_the_state_of_a_training(recommender, tmp_path):
    shutil.copytree(recommender, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").unlink()
    for name in ("optimizer.pt", "scheduler.pt", "rng_state_0.pth"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(OSError, match="model.safetensors is missing"):
        UTGRecForConditionalGeneration.from_pretrained(tmp_path)


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


def check_trie(trie: ItemTrie, codes: torch.Tensor) -> None:
    nodes = torch.zeros(trie.num_items, dtype=torch.long)
    for level in range(trie.num_levels):
        nodes = trie.step(level, nodes, codes[:, level])
    assert nodes.tolist() == list(range(len(codes)))


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
    check_trie(trie, table)


@MANY
@given(data=st.data(), sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_tries_of_distinct_identifiers(data, sizes):
    """Distinct codes within their levels make a trie, always."""
    row = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    codes = torch.tensor(data.draw(st.lists(row, min_size=1, max_size=8, unique=True)))
    offsets = data.draw(st.lists(st.integers(0, 9), min_size=len(sizes), max_size=len(sizes)))
    check_trie(ItemTrie(codes, sizes, offsets), codes)
