"""Small checkpoints: what they leave out, that they load as they were, and what tells that they do not."""

import copy
import json
import shutil
import sys

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

import modeling_utgrec
from modeling_utgrec import UTGRecConfig, UTGRecTokenizerModel
from modeling_utgrec.checkpoint_backbone import fingerprint_weights, is_adaptation

KINDS = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "bert"]


@pytest.fixture
def build(make_network, backbones, tmp_path):
    """Builds a network on a backbone that is published in the folder `backbone`, disturbed so that nothing is zero."""

    def build(kind="bert", **config):
        folder = tmp_path / "backbone"
        backbones[kind][0].save_pretrained(folder)
        backbone = AutoModel.from_pretrained(folder)
        network, processor = make_network(
            (backbone, *backbones[kind][1:]), **{"backbone_name_or_path": str(folder), **config}
        )
        torch.manual_seed(7)
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.requires_grad:
                    parameter += 0.05 * torch.randn_like(parameter)
        return network, processor

    return build


@pytest.fixture
def network(build):
    return build()[0]


def weights_of(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def parts_of(weights) -> set[str]:
    return {name.split(".")[0] for name in weights}


def codes(network, processor, make_batch, items):
    with torch.no_grad():
        output = network.eval()(**make_batch(processor, network, items, labels=False))
    return output.codes, output.representations


def assert_same_weights(a, b, but=()):
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys()
    assert {name for name in a if not torch.equal(a[name], b[name])} == set(but)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_checkpoint_gives_the_same_codes(kind, build, make_batch, tiny_items, tmp_path):
    network, processor = build(kind)
    wanted = codes(network, processor, make_batch, tiny_items[:6])
    whole, sizes = network.state_dict().keys(), {}
    for save_backbone in (True, False):
        for without_decoders in (False, True):
            folder = tmp_path / f"{save_backbone}-{without_decoders}"
            network.save_pretrained(folder, save_backbone=save_backbone, without_decoders=without_decoders)
            saved = weights_of(folder)
            own = {name for name in whole if name.startswith("backbone.") and not is_adaptation(name)}
            assert {"adapter", "quantizer", "backbone"} <= parts_of(saved)
            assert any("lora_A" in name for name in saved) and any("code_tokens" in name for name in saved)
            assert bool({"expand", "text_decoder", "image_decoder"} & parts_of(saved)) != without_decoders
            if not save_backbone:
                assert not own & saved.keys()
            sizes[save_backbone, without_decoders] = sum(tensor.nbytes for tensor in saved.values())
            loaded = AutoModel.from_pretrained(folder)
            assert not loaded.training and type(loaded) is UTGRecTokenizerModel
            if not without_decoders:
                assert_same_weights(loaded, network)
            for found, expected in zip(codes(loaded, processor, make_batch, tiny_items[:6]), wanted, strict=True):
                assert torch.equal(found, expected)
    assert sizes[False, True] < sizes[False, False] < sizes[True, False]
    assert sizes[False, True] < sizes[True, True]


def test_saving_changes_nothing(network, tmp_path):
    config, state = network.config.to_dict(), {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.save_pretrained(tmp_path / "small", without_decoders=True)
    network.save_pretrained(tmp_path / "whole", save_backbone=True)
    assert network.text_decoder is not None and network.state_dict().keys() == state.keys()
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in state.items())
    after = network.config.to_dict()
    assert {name for name in config if after[name] != config[name]} <= {"architectures", "dtype", "auto_map"}
    assert "backbone" in parts_of(weights_of(tmp_path / "whole"))
    # Loaded from a small checkpoint it can be saved whole, and the other way round.
    small = AutoModel.from_pretrained(tmp_path / "small")
    small.save_pretrained(tmp_path / "whole-again", save_backbone=True)
    shutil.rmtree(tmp_path / "backbone")
    again = AutoModel.from_pretrained(tmp_path / "whole-again")
    assert again.config.backbone_saved and again.text_decoder is None
    assert torch.equal(again.quantizer.root.codes, network.quantizer.root.codes)


def test_small_by_default_if_the_backbone_is_published(build, make_network, tiny_bert, tmp_path):
    build()[0].save_pretrained(tmp_path / "published")
    config = AutoConfig.from_pretrained(tmp_path / "published")
    assert not config.backbone_saved and config.backbone_name_or_path == str(tmp_path / "backbone")
    make_network(tiny_bert)[0].save_pretrained(tmp_path / "random")
    build(lora=False)[0].save_pretrained(tmp_path / "full")
    for name in ("random", "full"):
        assert AutoConfig.from_pretrained(tmp_path / name).backbone_saved
        assert any("word_embeddings.tokens" in key for key in weights_of(tmp_path / name))


def test_a_relative_folder_is_found_from_elsewhere(build, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = build(backbone_name_or_path="backbone")[0]
    network.save_pretrained("network")
    monkeypatch.chdir("/")
    assert_same_weights(AutoModel.from_pretrained(tmp_path / "network"), network)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda network: network.config.__setattr__("lora_config", None), "as a whole, without LoRA"),
        (lambda network: network.config.__setattr__("backbone_name_or_path", None), "not loaded from anywhere"),
        (lambda network: network.backbone.encoder.layer[1].output.LayerNorm.bias.data.add_(0.1), "have changed since"),
    ],
)
def test_what_is_nowhere_else_is_saved(network, tmp_path, change, reason):
    with torch.no_grad():
        change(network)
    with pytest.raises(ValueError, match=f"must hold the backbone, as .*{reason}"):
        network.save_pretrained(tmp_path / "network", save_backbone=False)
    network.save_pretrained(tmp_path / "network")
    assert AutoConfig.from_pretrained(tmp_path / "network").backbone_saved
    assert any("LayerNorm" in name for name in weights_of(tmp_path / "network"))


def test_another_backbone_in_its_place(network, tmp_path):
    network.save_pretrained(tmp_path / "network")
    backbone = AutoModel.from_pretrained(tmp_path / "backbone")
    with torch.no_grad():
        backbone.encoder.layer[0].attention.self.query.weight.mul_(1.01)
    backbone.save_pretrained(tmp_path / "backbone")
    fingerprint = network.config.backbone_fingerprint
    with pytest.raises(ValueError, match=f"fingerprint {fingerprint}; '.*backbone' has .*, other weights"):
        AutoModel.from_pretrained(tmp_path / "network")


def test_a_backbone_that_has_moved(network, tmp_path):
    network.save_pretrained(tmp_path / "network")
    (tmp_path / "backbone").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="(?s)holds no backbone.*backbone', cannot be loaded.*save_backbone=True"):
        AutoModel.from_pretrained(tmp_path / "network")
    place = str(tmp_path / "elsewhere")
    for kind in (AutoModel, UTGRecTokenizerModel):
        assert_same_weights(kind.from_pretrained(tmp_path / "network", backbone_name_or_path=place), network)


@pytest.mark.parametrize("save_backbone", [True, False])
def test_truncated_or_incomplete(network, tmp_path, save_backbone):
    folder = tmp_path / "network"
    network.save_pretrained(folder, save_backbone=save_backbone)
    saved = weights_of(folder)
    name = next(name for name in saved if "lora_B" in name)
    save_file({key: tensor for key, tensor in saved.items() if key != name}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="not of the same save"):
        AutoModel.from_pretrained(folder)
    values = json.loads((folder / "config.json").read_text())
    del values["weights_fingerprint"]
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=f"{folder}: 1 weights of UTGRecTokenizerModel are missing: .*{name}"):
        AutoModel.from_pretrained(folder)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors is truncated"):
        AutoModel.from_pretrained(folder)
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    with pytest.raises(OSError, match="model.safetensors"):
        AutoModel.from_pretrained(folder)


def test_arguments_of_from_pretrained(network, tmp_path):
    network.save_pretrained(tmp_path / "runs" / "network")
    loaded, report = UTGRecTokenizerModel.from_pretrained(
        tmp_path / "runs",
        subfolder="network",
        dtype=torch.bfloat16,
        temperature=0.7,
        output_loading_info=True,
        local_files_only=True,
    )
    assert loaded.dtype == torch.bfloat16 and loaded.config.temperature == 0.7
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert loaded.name_or_path == str(tmp_path / "runs")
    low = {
        name: tensor.to(torch.bfloat16) for name, tensor in network.state_dict().items() if tensor.is_floating_point()
    }
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in low.items())
    # The fingerprint is that of the backbone whatever the precision, so a small checkpoint is possible again.
    loaded.save_pretrained(tmp_path / "low", save_backbone=False)
    assert AutoModel.from_pretrained(tmp_path / "low").dtype == torch.bfloat16


def test_without_decoders(build, make_batch, tiny_items, tmp_path):
    network, processor = build()
    network.save_pretrained(tmp_path / "whole", save_backbone=True)
    network.save_pretrained(tmp_path / "small", without_decoders=True)
    batch = make_batch(processor, network, tiny_items[:4])
    for loaded, report in (
        UTGRecTokenizerModel.from_pretrained(tmp_path / "small", output_loading_info=True),
        UTGRecTokenizerModel.from_pretrained(tmp_path / "whole", with_decoders=False, output_loading_info=True),
    ):
        assert not report["unexpected_keys"] and loaded.expand is loaded.text_decoder is loaded.image_decoder is None
        with pytest.raises(ValueError, match="no decoders"):
            loaded(**batch)
    with pytest.raises(ValueError, match="missing: .*expand.bias"):
        UTGRecTokenizerModel.from_pretrained(tmp_path / "small", with_decoders=True)


@pytest.mark.parametrize("kind", KINDS)
def test_merge_and_unload(kind, build, make_batch, tiny_items, tmp_path, monkeypatch):
    network, processor = build(kind)
    wanted = codes(network, processor, make_batch, tiny_items)
    assert network.merge_and_unload() is network
    assert not [name for name, _ in network.named_modules() if "lora" in name or name.endswith("base_layer")]
    assert network.config.lora_config is None and all(p.requires_grad for p in network.parameters())
    found = codes(network, processor, make_batch, tiny_items)
    assert torch.equal(found[0], wanted[0])
    torch.testing.assert_close(found[1], wanted[1], rtol=0, atol=1e-5)
    network.save_pretrained(tmp_path / "merged")
    monkeypatch.setitem(sys.modules, "peft", None)  # as without peft
    loaded = AutoModel.from_pretrained(tmp_path / "merged")
    assert_same_weights(loaded, network)
    assert torch.equal(codes(loaded, processor, make_batch, tiny_items)[1], found[1])
    assert loaded.merge_and_unload() is loaded


def test_the_trainer_knows_what_its_checkpoints_leave_out(network, make_network, tiny_bert, tmp_path):
    network.save_pretrained(tmp_path / "network")
    result = network.load_state_dict(weights_of(tmp_path / "network"), strict=False)
    assert not result.unexpected_keys
    assert set(result.missing_keys) == set(network._keys_to_ignore_on_save)
    assert make_network(tiny_bert)[0]._keys_to_ignore_on_save is None


def test_adapters_that_no_checkpoint_would_load_are_refused(make_network, tiny_bert):
    """peft renames the weights below them, which the configuration must know."""
    backbone, *others = copy.deepcopy(tiny_bert)
    backbone.add_adapter(LoraConfig(r=2, target_modules=["query", "value"]))
    with pytest.raises(ValueError, match="adapters that the configuration knows nothing of"):
        make_network((backbone, *others), lora=False)


def test_lora_without_peft(monkeypatch, make_network, tiny_bert):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match="pip install peft"):
        make_network(tiny_bert)


# fingerprint of a backbone


def test_the_fingerprint_sees_every_tensor(tiny_bert):
    state = tiny_bert[0].state_dict()
    wanted = fingerprint_weights(state.items())
    assert fingerprint_weights(reversed(state.items())) == wanted
    renamed = {name.replace("query.", "query.base_layer."): tensor for name, tensor in state.items()}
    assert fingerprint_weights(renamed.items()) == wanted
    for name, tensor in state.items():
        changed = fingerprint_weights((state | {name: tensor + 0.1}).items())
        assert (changed == wanted) == name.startswith("pooler."), name
    added = {"lora_A.weight": torch.ones(2), "embeddings.code_tokens": torch.ones(3)}
    assert fingerprint_weights((state | added).items()) == wanted
    assert fingerprint_weights(list(state.items())[1:]) != wanted


def test_the_fingerprint_is_the_same_in_every_precision_that_holds_the_weights():
    torch.manual_seed(0)
    published = {"weight": torch.randn(300, 50).to(torch.bfloat16), "position_ids": torch.arange(7)}
    trained = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in published.items()}
    assert fingerprint_weights(published.items()) == fingerprint_weights(trained.items())
    single = {"weight": torch.randn(300, 50)}
    assert fingerprint_weights(single.items()) == fingerprint_weights({"weight": single["weight"].bfloat16()}.items())
    assert fingerprint_weights({"weight": single["weight"].T}.items()) != fingerprint_weights(single.items())


# kinds and versions


def test_another_kind_of_checkpoint(network, tmp_path):
    network.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="Expected a configuration of model type 'utgrec', found 'utgrec_tokenizer'"):
        UTGRecConfig.from_pretrained(tmp_path)


CONFIGURATIONS = [
    each
    for name in sorted(modeling_utgrec.__all__)
    if name.endswith("Config") and (each := getattr(modeling_utgrec, name)).model_type
]


@pytest.mark.parametrize("kind", CONFIGURATIONS, ids=lambda kind: kind.model_type)
def test_a_configuration_of_another_kind(kind):
    other = "sasrec" if kind.model_type != "sasrec" else "hstu"
    with pytest.raises(ValueError, match=f"Expected a configuration of model type '{kind.model_type}', found"):
        kind.from_dict(kind().to_dict() | {"model_type": other})


@pytest.mark.parametrize(("version", "advice"), [(2, "newer release"), (0, "save it anew"), ("1", "save it anew")])
@pytest.mark.parametrize("kind", CONFIGURATIONS, ids=lambda kind: kind.model_type)
def test_another_format_version(kind, version, advice):
    values = kind().to_dict()
    assert values["format_version"] == 1
    assert kind.from_dict(values).format_version == 1
    with pytest.raises(ValueError, match=f"format version {version}, expected 1: .*{advice}"):
        kind.from_dict(values | {"format_version": version})
    del values["format_version"]  # before there was an entry
    assert kind.from_dict(values).format_version == 1
