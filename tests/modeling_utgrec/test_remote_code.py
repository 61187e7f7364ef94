"""Checkpoints from the Hub where none of our packages are installed: their code travels along."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import HfApi, hf_hub_download
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, PreTrainedModel, set_seed

import modeling_utgrec
from modeling_utgrec import SequentialForNextItem

EXPORTED = [getattr(modeling_utgrec, name) for name in modeling_utgrec.__all__]
MODELS = [kind for kind in EXPORTED if isinstance(kind, type) and issubclass(kind, PreTrainedModel)]
REGISTERED = [kind for kind in MODELS if kind._auto_class is not None]
# What a process does that has transformers and torch, and none of our packages.
STRANGER = """
import json, sys

for package in ("modeling_utgrec", "tokenization_items", "trainers", "hub_cards"):
    sys.modules[package] = None  # importing it is an ImportError

import torch, transformers
from safetensors.torch import load_file, save_file

for job in json.load(open(sys.argv[1])):
    model = getattr(transformers, job["auto_class"]).from_pretrained(job["repo_id"], trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    with torch.no_grad():
        output = model(**load_file(f"{job['name']}-inputs.safetensors"))
    tensors = {name: value.contiguous() for name, value in output.items() if isinstance(value, torch.Tensor)}
    save_file(tensors, f"{job['name']}-outputs.safetensors")
    model.save_pretrained(job["name"])  # a loaded copy can be saved again
    if job["load_again"]:
        again = getattr(transformers, job["auto_class"]).from_pretrained(job["name"], trust_remote_code=True)
        assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
"""

# Three such processes, once for each folder, at the same time.
STRANGERS = """
import os, sys, time, traceback

for package in ("modeling_utgrec", "tokenization_items", "trainers", "hub_cards"):
    sys.modules[package] = None

import torch, transformers

failed = 0
for folder in sys.argv[1:]:
    begin, children = time.time() + 0.5, []
    for _ in range(3):
        if not (child := os.fork()):
            try:
                time.sleep(max(0.0, begin - time.time()))
                model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, trust_remote_code=True)
                assert type(model).__module__.startswith("transformers_modules.")
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        children.append(child)
    failed += sum(os.waitpid(child, 0)[1] != 0 for child in children)
sys.exit(failed)
"""


def small(kind: type[PreTrainedModel]) -> PreTrainedModel:
    """A network of this class with random weights."""
    set_seed(0)
    config = kind.config_class
    return kind(config.tiny() if hasattr(config, "tiny") else config()).eval()


def inputs_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Something to put into a network, by the arguments that its forward takes."""
    if hasattr(model.config, "input_dim"):
        return {"embeddings": torch.randn(3, model.config.input_dim)}
    tokens = torch.ones(2, 2 * getattr(model.config, "num_levels", 2), dtype=torch.long)
    if model.config.is_encoder_decoder:
        return {
            "input_ids": tokens,
            "attention_mask": torch.ones_like(tokens),
            "decoder_input_ids": tokens[:, :1].clone(),
        }
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def test_every_network_has_an_auto_class():
    assert len(REGISTERED) >= 2
    assert set(MODELS) - set(REGISTERED) == {SequentialForNextItem}, "export concrete networks and register them"
    for kind in REGISTERED:
        config = AutoConfig.for_model(kind.config_class.model_type)
        assert type(config) is kind.config_class and kind.config_class._auto_class == "AutoConfig"
        assert getattr(transformers, kind._auto_class)._model_mapping[type(config)] is kind
        assert type(config) in AutoModel._model_mapping


@pytest.mark.parametrize("kind", REGISTERED, ids=lambda kind: kind.__name__)
def test_the_code_travels_with_a_checkpoint(kind, make_network, tiny_bert, tmp_path):
    model = make_network(tiny_bert)[0] if kind is modeling_utgrec.UTGRecTokenizerModel else small(kind)
    model.save_pretrained(tmp_path)
    auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert auto_map.keys() == {"AutoConfig", kind._auto_class}
    for reference in auto_map.values():
        assert (tmp_path / f"{reference.split('.')[0]}.py").is_file()
    assert type(AutoModel.from_pretrained(tmp_path)).__module__.startswith("modeling_utgrec."), "the installed one"


@pytest.mark.hub
def test_a_process_without_our_packages_loads_every_network(
    hub, make_network, make_batch, tiny_bert, tiny_items, tmp_path
):
    tiny_bert[0].push_to_hub(backbone_id := hub.new_repo("backbone"))
    commit = HfApi().model_info(backbone_id).sha
    jobs, wanted, states = [], {}, {}
    for kind in REGISTERED:
        if kind is modeling_utgrec.UTGRecTokenizerModel:
            published = {"backbone_name_or_path": backbone_id, "backbone_revision": commit}
            model, processor = make_network(tiny_bert, **published)
            inputs = make_batch(processor, model, tiny_items[:3], labels=False)
        else:
            model = small(kind)
            inputs = inputs_of(model)
        states[kind.__name__] = model.state_dict()
        model.push_to_hub(repo_id := hub.new_repo(kind.__name__))
        with torch.no_grad():
            output = model(**inputs)
        wanted[kind.__name__] = {name: value for name, value in output.items() if isinstance(value, torch.Tensor)}
        save_file(inputs, tmp_path / f"{kind.__name__}-inputs.safetensors")
        # The others are saved with the code that was published, so they load again, too.
        load_again = kind in (modeling_utgrec.UTGRecTokenizerModel, modeling_utgrec.UTGRecForConditionalGeneration)
        names = {"name": kind.__name__, "repo_id": repo_id, "auto_class": kind._auto_class}
        jobs.append(names | {"load_again": load_again})
    # A later commit changes nothing: the checkpoint names one.
    HfApi().upload_file(repo_id=backbone_id, path_or_fileobj=b"{}", path_in_repo="config.json")

    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    process = subprocess.run(
        [sys.executable, "-c", STRANGER, "jobs.json"],
        cwd=tmp_path,
        env=os.environ | {"HF_HOME": str(tmp_path / "home")},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    for name, tensors in wanted.items():
        found = load_file(tmp_path / f"{name}-outputs.safetensors")
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[key], value) for key, value in tensors.items()), name
    for job in jobs:
        folder = tmp_path / job["name"]
        published = [path for path in HfApi().list_repo_files(job["repo_id"]) if path.endswith(".py")]
        assert sorted(path.name for path in folder.glob("*.py")) == sorted(published)
        for path in published:
            assert (folder / path).read_bytes() == Path(hf_hub_download(job["repo_id"], path)).read_bytes()
        again = getattr(transformers, job["auto_class"]).from_pretrained(folder)
        assert type(again).__module__.startswith("modeling_utgrec.")
        found, state = again.state_dict(), states[job["name"]]
        assert found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)


@pytest.mark.slow
def test_processes_load_the_same_code_for_the_first_time_at_once(tmp_path):
    model = small(modeling_utgrec.UTGRecForConditionalGeneration)
    folders = [str(tmp_path / f"model{number}") for number in range(4)]
    for folder in folders:
        model.save_pretrained(folder)
    done = subprocess.run(
        [sys.executable, "-c", STRANGERS, *folders],
        cwd=tmp_path,
        env=os.environ | {"HF_HOME": str(tmp_path / "home")},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert any((tmp_path / "home" / "modules" / "transformers_modules").rglob("modeling_utgrec.py"))


def test_a_checkpoint_names_the_class_that_loads_it_whole():
    classes = {
        modeling_utgrec.RecBaseForCausalLM: "AutoModelForCausalLM",
        modeling_utgrec.UTGRecForConditionalGeneration: "AutoModelForSeq2SeqLM",
        modeling_utgrec.SASRecForNextItem: "AutoModelForCausalLM",
        modeling_utgrec.SASRecModel: "AutoModel",
        modeling_utgrec.UTGRecTokenizerModel: "AutoModel",
    }
    assert {model: model._auto_class for model in classes} == classes
