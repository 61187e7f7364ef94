"""Training of item tokenizers. Run as a script (`__main__` below) this file is the worker of the two-process tests."""

import json
import math
import os
import re
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import EarlyStoppingCallback, TrainerCallback, set_seed

from modeling_utgrec import UTGRecTokenizerConfig, UTGRecTokenizerModel
from tokenization_items.catalogue import Catalogue
from tokenization_items.processing_items import ItemProcessor
from trainers.data.co_occurrence import CoOccurrenceGraph
from trainers.data.interactions import Interactions
from trainers.item_tokenizer_trainer import ItemTokenizerTrainer, ItemTokenizerTrainingArguments
from trainers.methods.backbones import load_autoencoder, tiny_backbone
from trainers.runtime.cpu_training import CpuDropout
from trainers.runtime.step_memory import StepMemory
from trainers.training_data.image_latents import encode_images
from trainers.training_data.item_pairs import ItemPairs

NUM_ITEMS = 24
ROOT = Path(__file__).parents[2]
PARTS = {"text", "image", "quantization", "alignment", "co_text", "co_image"}
WORDS = ["steel string", "oak body", "violin bow", "drum skin", "silent pad", "stage light"]
LATENT = {"latent_channels": 16, "latent_size": 2}
NO_DROPOUT = {"adapter_dropout": 0.0, "decoder_dropout": 0.0}
CENTRED = {**NO_DROPOUT, "codebook_centering": True}  # by the mean over all processes


def make_catalogue(num_items=NUM_ITEMS, images=True):
    """Six groups of items; an item's text and picture show its group. Every fourth has no picture."""
    rng, records = np.random.default_rng(0), []
    for row in range(num_items):
        group = row % len(WORDS)
        pixels = np.full((32, 32, 3), 40 * group, np.uint8) + rng.integers(0, 30, (32, 32, 3), dtype=np.uint8)
        records.append(
            {
                "item_id": f"i{row}",
                "title": f"{WORDS[group]} number {row} of the {WORDS[group]} kind",
                "image": Image.fromarray(pixels) if images and row % 4 != 3 else None,
            }
        )
    return Catalogue.from_records(records)


def make_graph(catalogue):
    """Items of one group follow each other, in a ring."""
    groups = [list(range(group, len(catalogue), len(WORDS))) for group in range(len(WORDS))]
    sequences = [[catalogue.item_ids[row] for row in group + group[:1]] for group in groups]
    return CoOccurrenceGraph.from_interactions(Interactions.from_sequences(sequences, catalogue.item_ids))


def make_network(catalogue, seed=0, lora_dropout=0.0, lora=True, **config):
    set_seed(7)
    backbone, tokenizer, image_processor = tiny_backbone(catalogue.texts, 56 * 56, hidden_size=48, vocab_size=300)
    sizes = dict(root_codebook_size=6, leaf_codebook_size=8, codebook_dim=8, adapter_hidden_size=16)
    denoiser = dict(denoiser_width=16, denoiser_depth=1, diffusion_steps=20, diffusion_repeats=2)
    values = {**sizes, **denoiser, **LATENT, "max_text_tokens": 6, "warmup_steps": 0, "quantization_weight": 1.0}
    config = UTGRecTokenizerConfig(
        backbone_config=backbone.config,
        lora_config={"r": 2, "lora_alpha": 4, "lora_dropout": lora_dropout} if lora else None,
        **{**values, **config},
    )
    set_seed(seed)
    network = UTGRecTokenizerModel(config, backbone=backbone)
    return network, ItemProcessor.for_model(network.config, tokenizer, image_processor, instruct=False)


def make_trainer(folder, network=None, num_items=NUM_ITEMS, images=True, config=None, domains=None, **changes):
    catalogue = make_catalogue(num_items, images)
    network, processor = make_network(catalogue, **(config or {})) if network is None else network
    latents = encode_images(catalogue, load_autoencoder("tiny"), 16, progress=False) if images else None
    pairs = ItemPairs(catalogue, make_graph(catalogue), processor, latents, seed=5, domains=domains)
    values = dict(
        output_dir=str(folder),
        per_device_train_batch_size=8,
        per_device_eval_batch_size=8,
        learning_rate=3e-3,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        seed=5,
    )
    return ItemTokenizerTrainer(network, ItemTokenizerTrainingArguments(**{**values, **changes}), pairs)


def weights(network):
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def assert_equal(a, b):
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different, different


def logged(trainer, name="loss"):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


class Recorder(TrainerCallback):
    """What the network and its data look like before every step."""

    def __init__(self, look):
        self.look, self.seen = look, []

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self.seen.append(self.look(model))


def count_settings(monkeypatch):
    """Where in the training k-means ran, as `training_passes`."""
    settings, original = [], ItemTokenizerTrainer._set_codebooks

    def spy(self):
        settings.append(int(self.model.training_passes))
        original(self)

    monkeypatch.setattr(ItemTokenizerTrainer, "_set_codebooks", spy)
    return settings


def test_losses_fall_and_every_part_is_logged(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=40, config=NO_DROPOUT)
    trainer.train()
    for name in ("loss", "loss/text", "loss/co_text", "loss/alignment", "loss/quantization"):
        values = logged(trainer, name)
        assert len(values) == 40
        assert np.mean(values[-5:]) < 0.95 * np.mean(values[:5]), (name, values)
    entry = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert {name.split("/")[1] for name in entry if name.startswith("loss/")} == PARTS
    for level, size in enumerate([6, 8, 8]):
        used, perplexity = logged(trainer, f"codes/used_{level}"), logged(trainer, f"codes/perplexity_{level}")
        assert all(1 / size <= value <= 1 for value in used)
        # A batch of 8 cannot use more codes than that; perplexity lies between 1 and the codes in use.
        assert all(1 <= p <= size * u + 1e-3 for p, u in zip(perplexity, used, strict=True))


def test_logged_parts_are_means_since_the_last_entry(tmp_path):
    every = make_trainer(tmp_path, max_steps=6, config=NO_DROPOUT)
    every.train()
    seldom = make_trainer(tmp_path, max_steps=6, logging_steps=4, config=NO_DROPOUT)
    seldom.train()
    for name in ("loss/text", "loss/alignment", "loss/image"):
        values = logged(every, name)
        assert logged(seldom, name) == pytest.approx([np.mean(values[:4]), np.mean(values[4:])], abs=2e-5), name
    # The total is the weighted sum of its parts (Eq. 13).
    config = every.model.config
    for entry in every.state.log_history[:6]:
        part = {name: entry[f"loss/{name}"] for name in PARTS}
        total = part["text"] + config.image_weight * part["image"] + part["quantization"]
        total += config.alignment_weight * part["alignment"]
        total += config.co_reconstruction_weight * (part["co_text"] + config.image_weight * part["co_image"])
        assert entry["loss"] == pytest.approx(total, abs=1e-3)


def test_parts_that_are_switched_off_are_not_logged(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=1, config={"alignment_weight": 0, "co_reconstruction_weight": 0})
    trainer.train()
    names = {name for entry in trainer.state.log_history for name in entry if name.startswith("loss/")}
    assert names == {"loss/text", "loss/image", "loss/quantization"}


def test_parameter_groups(tmp_path):
    trainer = make_trainer(tmp_path, learning_rate=1e-2, backbone_learning_rate=1e-4, weight_decay=0.1)
    groups = trainer.create_optimizer().param_groups
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    found = {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert found.keys() == {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert any("lora_A" in name for name in found) and any("code_tokens" in name for name in found)
    for name, (rate, decay) in found.items():
        assert rate == (1e-4 if name.startswith("backbone.") else 1e-2), name
        plain = name.endswith("bias") or "norm" in name
        assert decay == (0.0 if plain else 0.1), name
    same = make_trainer(tmp_path, learning_rate=1e-2).create_optimizer().param_groups
    assert {group["lr"] for group in same} == {1e-2}


def test_freeze_codes_freezes_exactly_the_codebook_matrices(tmp_path):
    trainer = make_trainer(tmp_path, freeze_codes=True, max_steps=8, backbone_learning_rate=1e-3)
    before, frozen = weights(trainer.model), {"quantizer.root.codes", "quantizer.leaf.codes"}
    trainer.train()
    after = trainer.model.state_dict()
    learns = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert learns == {name for name, p in make_trainer(tmp_path).model.named_parameters() if p.requires_grad} - frozen
    for name in frozen:
        assert torch.equal(after[name], before[name])
    for name in ("quantizer.root.projection.weight", "quantizer.leaf.projection.weight"):
        assert not torch.equal(after[name], before[name])
    unchanged = {name for name in learns if torch.equal(after[name], before[name])}
    assert not unchanged
    for name in before.keys() - learns - {"training_passes"}:
        assert torch.equal(after[name], before[name]), name


def test_freezing_ends_with_the_next_training(tmp_path):
    network = make_network(make_catalogue())
    make_trainer(tmp_path, network, freeze_codes=True)
    make_trainer(tmp_path, network)
    assert network[0].quantizer.root.codes.requires_grad


def test_codebook_warmup_steps_count_optimizer_steps(tmp_path):
    trainer = make_trainer(
        tmp_path, codebook_warmup_steps=3, gradient_accumulation_steps=2, per_device_train_batch_size=4, max_steps=5
    )
    recorder = Recorder(lambda model: model.in_warmup)
    trainer.add_callback(recorder)
    trainer.train()
    assert recorder.seen == [True, True, True, False, False]
    # A fine-tuning of this network does not warm up again.
    again = make_trainer(tmp_path, (trainer.model, trainer.train_dataset.processor), codebook_warmup_steps=3)
    assert not again.model.in_warmup
    # Nor where a step has more passes than that training had.
    more = {"codebook_warmup_steps": 3, "gradient_accumulation_steps": 8}
    assert not make_trainer(tmp_path, (trainer.model, trainer.train_dataset.processor), **more).model.in_warmup


@pytest.mark.parametrize("length", [{"max_steps": 3}, {"num_train_epochs": 1}])
def test_a_training_within_the_warmup_is_refused(tmp_path, length):
    """24 items in batches of 8 are 3 steps an epoch."""
    trainer = make_trainer(tmp_path, codebook_warmup_steps=3, **length)
    before = weights(trainer.model)
    with pytest.raises(ValueError, match="has 3 steps, and its codebooks are in use after 3: .*codebook_warmup_steps"):
        trainer.train()
    assert_equal(weights(trainer.model), before)


def test_a_warmup_that_is_over_refuses_no_training(tmp_path):
    """What is left of it counts: of a network that is trained further, or a training that is resumed."""
    settings = {"codebook_warmup_steps": 3, "save_strategy": "steps", "save_steps": 2}
    first = make_trainer(tmp_path, max_steps=4, **settings)
    first.train()
    again = make_trainer(tmp_path, max_steps=3, **settings)
    with pytest.raises(ValueError, match="has 1 steps, and its codebooks are in use after 1"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    make_trainer(tmp_path / "more", max_steps=5, **settings).train(str(tmp_path / "checkpoint-4"))
    further = make_trainer(tmp_path / "new", (first.model, first.train_dataset.processor), max_steps=1, **settings)
    further.train()
    assert further.state.global_step == 1


def test_one_item_is_refused(tmp_path):
    with pytest.raises(ValueError, match="learns to tell items apart, and there is 1"):
        ItemTokenizerTrainer.check_loading(ItemTokenizerTrainingArguments(str(tmp_path), use_cpu=True), 1)


@pytest.mark.parametrize("structure", ["tree", "residual"])
def test_kmeans_sets_the_codebooks_once_at_the_end_of_the_warmup(tmp_path, monkeypatch, structure):
    settings = count_settings(monkeypatch)
    config = {"codebook_init": "kmeans", "codebook_structure": structure, **NO_DROPOUT}
    trainer = make_trainer(tmp_path, codebook_warmup_steps=4, max_steps=8, config=config)
    recorder = Recorder(lambda model: weights(model.quantizer))
    trainer.add_callback(recorder)
    trainer.train()
    assert settings == [4]
    for before, after in zip(recorder.seen[:4], recorder.seen[1:5], strict=True):
        # No codebook loss in the warm-up (what changes is weight decay).
        assert all(torch.allclose(before[name], after[name], rtol=1e-3) for name in before)
    perplexity = logged(trainer, "codes/perplexity_0")
    assert 2 * np.mean(perplexity[:4]) < np.mean(perplexity[4:]), perplexity
    assert logged(trainer, "loss/quantization")[4] < 0.2 * logged(trainer, "loss/quantization")[3]


@pytest.mark.parametrize("centred", [False, True])
def test_kmeans_centroids_are_means_of_their_residuals(tmp_path, centred):
    config = {"codebook_init": "kmeans", "codebook_centering": centred, **NO_DROPOUT}
    trainer = make_trainer(tmp_path, config=config)
    trainer._set_codebooks()
    assert trainer.model.training
    network = trainer.model.eval()
    with torch.no_grad():
        output = network(**trainer.train_dataset.encoder_inputs(np.arange(NUM_ITEMS)))
        vectors = [vectors.numpy() for vectors in network.quantizer.level_vectors()]
    codes, residuals = output.codes.numpy(), output.residuals.numpy()
    spread = residuals.std()
    for levels, table in (([0], vectors[0]), ([1, 2], vectors[1])):
        points, owners = residuals[:, levels].reshape(-1, 8), codes[:, levels].reshape(-1)
        for code in np.unique(owners):
            np.testing.assert_allclose(table[code], points[owners == code].mean(0), atol=0.3 * spread)
        assert ((points - table[owners]) ** 2).mean() < 0.3 * points.var(axis=0).mean()


@pytest.mark.parametrize("shared", [False, True])
def test_the_adapter_starts_with_principal_components_once(tmp_path, monkeypatch, shared):
    settings = []
    original = ItemTokenizerTrainer._set_adapter
    monkeypatch.setattr(
        ItemTokenizerTrainer,
        "_set_adapter",
        lambda self: (settings.append(int(self.model.training_passes)), original(self)),
    )
    config = {"adapter_init": "principal", "codebook_init": "kmeans", "codebook_centering": True, **NO_DROPOUT}
    config |= {"codebook_structure": "residual", "shared_representation": True} if shared else {}
    trainer = make_trainer(tmp_path, codebook_warmup_steps=2, max_steps=4, config=config)
    trainer._set_adapter()
    assert trainer.model.training
    network = trainer.model.eval()
    with torch.no_grad():
        z = network.encode(**trainer.train_dataset.encoder_inputs(np.arange(NUM_ITEMS)))
    z = (z[:, :1] if shared else z).flatten(0, 1).double()
    covariance = z.T @ z / len(z)
    torch.testing.assert_close(z.mean(dim=0), torch.zeros(8).double(), atol=1e-3, rtol=0)
    assert covariance.trace().item() == pytest.approx(8, rel=1e-2)
    values = covariance.diagonal()
    assert (covariance - values.diag()).abs().max() < 1e-2 * values[0] and (values[:-1] >= values[1:] - 1e-3).all()
    settings.clear()
    trainer.train()
    assert settings == [0]
    trainer.train()  # the weights are trained by now
    assert settings == [0]


def test_a_frozen_backbone_reads_each_item_once(tmp_path, monkeypatch):
    config = {"adapter_init": "principal", "codebook_init": "kmeans", "lora_dropout": 0.3, **NO_DROPOUT}
    trainer = make_trainer(tmp_path, freeze_backbone=True, codebook_warmup_steps=2, max_steps=6, config=config)
    network, pairs, read = trainer.model, trainer.train_dataset, []
    original = type(network).code_states
    monkeypatch.setattr(
        type(network),
        "code_states",
        lambda self, inputs: (read.append(len(inputs.get("input_ids", ()))), original(self, inputs))[1],
    )
    before = {name: value.clone() for name, value in network.state_dict().items()}
    prompts = pairs.encoder_inputs(np.arange(NUM_ITEMS))
    trainer.train()
    assert sum(read) == NUM_ITEMS
    after = network.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith("backbone."))
    assert not torch.equal(after["adapter.0.weight"], before["adapter.0.weight"])
    states = pairs.encoder_inputs(np.arange(NUM_ITEMS))
    assert states.keys() == {"code_states"}
    network.eval()
    with torch.no_grad():
        torch.testing.assert_close(network.encode(**states), network.encode(**prompts), rtol=1e-4, atol=1e-5)
    evaluated = trainer.evaluate()
    pairs.code_states = None
    for name, value in trainer.evaluate().items():
        if "image" not in name and name != "eval_loss":  # whose noise is drawn anew
            assert evaluated[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


def test_another_training_reads_the_items_anew(tmp_path):
    first = make_trainer(tmp_path, config=NO_DROPOUT, freeze_backbone=True, max_steps=1)
    first.train()
    pairs, states = first.train_dataset, first.train_dataset.code_states
    with torch.no_grad():
        first.model.get_input_embeddings().code_tokens.add_(1.0)
    again = ItemTokenizerTrainer(first.model, first.args, pairs)
    assert pairs.code_states is None, "a backbone that learns must be asked again, too"
    again.train()
    assert not torch.allclose(pairs.code_states, states, atol=1e-2)


def test_a_resumed_frozen_backbone_is_that_of_the_checkpoint(tmp_path):
    """Also where the network was made with other random weights."""
    settings = dict(freeze_backbone=True, max_steps=6, save_strategy="steps", save_steps=3)
    whole = make_trainer(tmp_path, config=NO_DROPOUT, **settings)
    whole.train()
    resumed = make_trainer(tmp_path, config=NO_DROPOUT, **settings)
    with torch.no_grad():
        resumed.model.get_input_embeddings().code_tokens.add_(1.0)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    wanted = whole.model.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in resumed.model.state_dict().items())


@pytest.mark.parametrize("shared", [False, True])
def test_domains_are_read_without_their_means(tmp_path, monkeypatch, shared):
    config = {"centre_domains": True, "adapter_init": "principal", **NO_DROPOUT}
    config |= {"codebook_structure": "residual", "shared_representation": True} if shared else {}
    domains = {"a": 20, "b": NUM_ITEMS - 20}
    trainer = make_trainer(tmp_path, freeze_backbone=True, max_steps=3, config=config, domains=domains)
    pairs, network = trainer.train_dataset, trainer.model
    trainer.train()
    inputs = pairs.encoder_inputs(np.array([NUM_ITEMS - 1, 3, 20, 19]))
    levels = 1 if shared else 3
    expected = torch.stack([pairs.code_states[:20].mean(0), pairs.code_states[20:].mean(0)])
    assert expected.shape == (2, levels, 48)
    torch.testing.assert_close(inputs["domain_means"], expected[[1, 0, 1, 0]], rtol=1e-5, atol=1e-6)
    network.eval()
    with torch.no_grad():
        moved = {"code_states": inputs["code_states"] + 7.0, "domain_means": inputs["domain_means"] + 7.0}
        torch.testing.assert_close(network.encode(**moved), network.encode(**inputs), rtol=1e-3, atol=1e-3)
    seen, original = [], network.reconstruct
    monkeypatch.setattr(network, "reconstruct", lambda hidden, *rest: seen.append(hidden) or original(hidden, *rest))
    batch = pairs.collate([(3, 9), (NUM_ITEMS - 1, 21), (19, 3)])  # rows of items are not those of pairs
    del batch["anchor_items"], batch["positive_items"]
    output = network(**batch)
    told = seen[0] - network.expand(network.quantize(output.representations).quantized)
    wanted = network.expand_domain(expected[[0, 1, 0]])
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(told, wanted.expand_as(told), rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="domain_means, the mean of the domain's states"):
        network.encode(code_states=inputs["code_states"])


def test_the_adapter_of_centred_domains_has_their_components(tmp_path):
    config = {"centre_domains": True, "adapter_init": "principal", **NO_DROPOUT}
    trainer = make_trainer(tmp_path, freeze_backbone=True, config=config, domains={"a": 20, "b": NUM_ITEMS - 20})
    network, pairs = trainer.model.eval(), trainer.train_dataset
    with torch.no_grad():
        states = network.code_states(pairs.encoder_inputs(np.arange(NUM_ITEMS)))
        pairs.set_code_states(states + 5.0 * (torch.arange(NUM_ITEMS) < 20)[:, None, None], centre_domains=True)
        trainer._set_adapter()
        z = network.eval().encode(**pairs.encoder_inputs(np.arange(NUM_ITEMS)))
    for part in (z[:20], z[20:]):
        torch.testing.assert_close(part.flatten(0, 1).mean(0), torch.zeros(8), atol=1e-3, rtol=0)


def test_domains_that_cannot_be_centred(tmp_path):
    config = {"centre_domains": True, **NO_DROPOUT}
    with pytest.raises(ValueError, match="set freeze_backbone too"):
        make_trainer(tmp_path, config=config)
    trainer = make_trainer(
        tmp_path, freeze_backbone=True, max_steps=3, config=config, domains={"a": NUM_ITEMS - 1, "lonely": 1}
    )
    with pytest.raises(ValueError, match="lonely: the network codes in what an item differs"):
        trainer.train()
    with pytest.raises(ValueError, match=f"has {NUM_ITEMS} items, the domains"):
        make_trainer(tmp_path, config=config, domains={"a": NUM_ITEMS - 1})


def test_a_frozen_backbone_reads_in_the_precision_of_the_training(tmp_path):
    trainer = make_trainer(tmp_path, freeze_backbone=True, max_steps=1, bf16=True, images=False, config=NO_DROPOUT)
    prompts = trainer.train_dataset.encoder_inputs(np.arange(NUM_ITEMS))
    trainer.train()
    network = trainer.model.eval()
    with torch.no_grad():
        exact = network.code_states(prompts)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network.code_states(prompts).float()
    found = trainer.train_dataset.code_states
    assert (found - rounded).abs().mean() < 0.3 * (found - exact).abs().mean()


@pytest.mark.parametrize("most, measured", [(4, 4), (5, 8), (0, NUM_ITEMS), (1000, NUM_ITEMS)])
def test_losses_of_some_items_and_codes_of_all(tmp_path, monkeypatch, most, measured):
    settings = dict(config=NO_DROPOUT, images=False, per_device_eval_batch_size=4)
    trainer = make_trainer(tmp_path, max_eval_items=most, **settings)
    whole = make_trainer(tmp_path, max_eval_items=0, **settings).evaluate()
    seen, original = [], trainer._forward
    monkeypatch.setattr(
        trainer,
        "_forward",
        lambda model, inputs: seen.extend(inputs["anchor_items"].tolist()) or original(model, inputs),
    )
    found = trainer.evaluate()
    assert len(seen) == len(set(seen)) == measured
    assert measured == NUM_ITEMS or sorted(seen) != list(range(measured)), "not those of the first domain"
    same = [name for name in whole if "used" in name or "perplexity" in name or "collision" in name]
    assert len(same) > 4 and all(found[name] == whole[name] for name in same)
    assert (found["eval_text"] == whole["eval_text"]) == (measured == NUM_ITEMS)


def test_batches_of_one_pair_are_not_centred(tmp_path):
    with pytest.raises(ValueError, match="of batches of one pair nothing is left"):
        make_trainer(tmp_path, per_device_train_batch_size=1, config=CENTRED)
    make_trainer(tmp_path, per_device_train_batch_size=1, config=NO_DROPOUT)
    make_trainer(tmp_path, per_device_train_batch_size=2, config=CENTRED)


def test_dropout_of_a_cpu(tmp_path):
    """Of adapter, decoders and LoRA."""
    model = make_trainer(tmp_path, config={"lora_dropout": 0.1}).model
    kinds = Counter(type(module) for module in model.modules() if isinstance(module, torch.nn.Dropout))
    assert kinds[CpuDropout] > 3 and not kinds[torch.nn.Dropout]


def test_kmeans_with_fewer_items_than_codes(tmp_path):
    config = {"codebook_init": "kmeans", "root_codebook_size": 40, "leaf_codebook_size": 80}
    trainer = make_trainer(tmp_path, num_items=8, codebook_warmup_steps=1, max_steps=3, config=config)
    trainer.train()
    assert all(torch.isfinite(vectors).all() for vectors in trainer.model.quantizer.level_vectors())


@pytest.mark.parametrize("logging_steps", [1, 100])
@pytest.mark.parametrize("part", ["text", "image"])
def test_nan_ends_the_training_by_name(tmp_path, monkeypatch, logging_steps, part):
    trainer = make_trainer(tmp_path, max_steps=3, logging_steps=logging_steps, config={"co_reconstruction_weight": 0})
    decoder = getattr(trainer.model, f"{part}_decoder")
    original = decoder.loss
    monkeypatch.setattr(decoder, "loss", lambda *inputs: original(*inputs) * math.nan)
    with pytest.raises(FloatingPointError, match=r"Not finite at step \d+: ") as error:
        trainer.train()
    if logging_steps == 1:
        assert f"step 1: {part}. Lower" in str(error.value)
    else:
        assert part in str(error.value), "also a training that ends before the next log entry"


def resumable(folder, seed=0, **changes):
    """Three batches an epoch, eight steps: warm-up ends, and with it k-means comes, at step 4 in the second epoch."""
    config = {"lora_dropout": 0.2, "codebook_init": "kmeans", "seed": seed}
    values = dict(
        max_steps=8, codebook_warmup_steps=4, save_strategy="steps", save_steps=1, backbone_learning_rate=1e-3
    )
    return make_trainer(folder, config=config, **values, **changes)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    trainer, batches = resumable(folder), []
    collate = trainer.data_collator
    trainer.data_collator = lambda pairs: batches.append(pairs) or collate(pairs)
    trainer.train()
    return folder, weights(trainer.model), batches


@pytest.mark.parametrize("step, settings", [(2, [4]), (3, [4]), (4, [4]), (5, []), (6, [])])
def test_resuming_is_exact(uninterrupted, tmp_path, monkeypatch, step, settings):
    folder, expected, batches = uninterrupted
    counted = count_settings(monkeypatch)
    trainer, seen = resumable(tmp_path, seed=99), []
    collate = trainer.data_collator
    trainer.data_collator = lambda pairs: seen.append(pairs) or collate(pairs)
    trainer.train(resume_from_checkpoint=str(folder / f"checkpoint-{step}"))
    assert seen[:1] == batches[step : step + 1], "same items, with the positives of that epoch"
    assert counted == settings
    assert int(trainer.model.training_passes) == 8
    assert_equal(weights(trainer.model), expected)


@pytest.mark.parametrize("step", [5, 8])
def test_what_a_resumed_training_draws_afterwards_is_the_same(tmp_path, step):
    """As the noise of an evaluation; also where no step was left."""
    whole = resumable(tmp_path / "whole")
    whole.train()
    expected = whole.evaluate()
    again = resumable(tmp_path / "again", seed=99)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
    found = again.evaluate()
    losses = [key for key in expected if not re.search("runtime|per_second", key)]
    assert {key: found[key] for key in losses} == {key: expected[key] for key in losses}


def test_positives_are_redrawn_for_every_epoch(uninterrupted):
    _, _, batches = uninterrupted
    graph = make_graph(make_catalogue())
    by_epoch = [sorted(sum(batches[3 * epoch : 3 * epoch + 3], [])) for epoch in range(2)]
    for epoch, pairs in enumerate(by_epoch):
        anchors, positives = np.array(pairs).T
        assert anchors.tolist() == list(range(NUM_ITEMS)), "every item once"
        generator = np.random.default_rng([5, epoch])
        assert positives.tolist() == graph.sample(np.arange(NUM_ITEMS), generator).tolist()
    assert by_epoch[0] != by_epoch[1]


def test_an_evaluation_amid_an_epoch_changes_no_positives(tmp_path):
    def run(**changes):
        trainer, batches = make_trainer(tmp_path, max_steps=6, **changes), []
        collate = trainer.data_collator
        trainer.data_collator = lambda pairs: (
            (batches.append(pairs) if trainer.model.training else None) or collate(pairs)
        )
        trainer.train()
        return trainer, batches

    plain, expected = run()
    evaluated, found = run(eval_strategy="steps", eval_steps=1, save_strategy="no")
    assert len(logged(evaluated, "eval_loss")) == 6
    assert found == expected
    assert evaluated.train_dataset.positives.tolist() == plain.train_dataset.positives.tolist()


def test_gradient_accumulation_equals_the_large_batch(tmp_path):
    config = {**NO_DROPOUT, "alignment_weight": 0}
    values = dict(max_steps=3, images=False, optim="sgd", learning_rate=0.1, max_grad_norm=1e9)
    large = make_trainer(tmp_path, config=config, per_device_train_batch_size=8, **values)
    small = make_trainer(
        tmp_path, config=config, per_device_train_batch_size=4, gradient_accumulation_steps=2, **values
    )
    start = weights(large.model)
    large.train()
    small.train()
    assert logged(small) == pytest.approx(logged(large), rel=1e-4)
    changed = 0
    for name, weight in weights(large.model).items():
        if name == "training_passes":
            continue
        torch.testing.assert_close(small.model.state_dict()[name], weight, rtol=1e-4, atol=1e-6)
        changed += not torch.equal(weight, start[name])
    assert changed > 20


def test_gradient_checkpointing_and_loader_workers_change_nothing(tmp_path):
    plain = make_trainer(tmp_path, config=NO_DROPOUT, max_steps=5)
    plain.train()
    checkpointing = dict(gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": False})
    other = make_trainer(tmp_path, config=NO_DROPOUT, max_steps=5, dataloader_num_workers=1, **checkpointing)
    other.train()
    assert other.model.is_gradient_checkpointing
    # Five steps are two epochs: the workers follow to the second one's positives.
    assert logged(other) == pytest.approx(logged(plain), rel=1e-4)
    for name, weight in weights(plain.model).items():
        torch.testing.assert_close(other.model.state_dict()[name], weight, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("gigabytes", [None, 0.0])
def test_prompts_in_parts_train_the_same(tmp_path, gigabytes):
    plain = make_trainer(tmp_path, config=NO_DROPOUT, max_steps=3)
    plain.train()
    parts = make_trainer(tmp_path, config=NO_DROPOUT, max_steps=3, prompt_tokens=60, state_gigabytes=gigabytes)
    assert (parts.model.most_tokens, plain.model.most_tokens) == (60, 2048)
    assert (parts.model.kept_tokens == 0) == (gigabytes == 0.0)
    parts.train()
    assert logged(parts) == pytest.approx(logged(plain), rel=1e-4)


def test_states_are_measured_as_the_training_keeps_them(tmp_path):
    """With gradient checkpointing there are few; what a training before read at a time does not count."""
    settings = dict(config=NO_DROPOUT, max_steps=1, state_gigabytes=1e-4)
    plain = make_trainer(tmp_path, **settings)
    checkpointing = dict(gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": False})
    assert make_trainer(tmp_path, **settings, **checkpointing).model.kept_tokens > 1.5 * plain.model.kept_tokens
    network = plain.model, plain.train_dataset.processor
    first = make_trainer(tmp_path, network, prompt_tokens=30, **settings | {"state_gigabytes": 0.0})
    assert (first.model.most_tokens, first.model.kept_tokens) == (30, 0)
    kept = make_trainer(tmp_path, network, **settings).model.kept_tokens
    assert kept == make_trainer(tmp_path, **settings).model.kept_tokens > 0


def test_the_longest_prompt_may_be_one_with_an_image(tmp_path, monkeypatch):
    seen, said = [], []
    measured = StepMemory.measured
    spy = lambda network, longest, *limits: seen.append(longest) or measured(network, longest, *limits)  # noqa: E731
    monkeypatch.setattr(StepMemory, "measured", spy)
    monkeypatch.setattr(StepMemory, "announce", lambda memory: said.append(memory))
    monkeypatch.setitem(globals(), "WORDS", [*WORDS[:-1], "stage light and stage light and stage light"])
    trainer = make_trainer(tmp_path, config={"max_text_tokens": 40})
    pairs = trainer.train_dataset
    assert pairs.catalogue.image(int(np.argmax([len(text) for text in pairs.texts]))) is None
    lengths = pairs.encoder_inputs(np.arange(NUM_ITEMS))["attention_mask"].sum(1)
    assert seen[0]["input_ids"].shape == (1, lengths.max()) and "pixel_values" in seen[0]
    assert len(said) == 1
    monkeypatch.setattr(ItemTokenizerTrainer, "is_world_process_zero", lambda self: False)
    trainer._bound_memory()
    assert len(seen) == 2 and len(said) == 1  # each process measures, one says


def test_text_labels_are_drawn_in_training_alone(tmp_path):
    few = make_trainer(tmp_path, config=NO_DROPOUT, text_labels=2)
    everything = make_trainer(tmp_path, config=NO_DROPOUT, text_labels=0)
    assert (few.model.text_decoder.labels_per_item, everything.model.text_decoder.labels_per_item) == (2, None)
    assert few.evaluate()["eval_text"] == everything.evaluate()["eval_text"]
    few.train(), everything.train()
    assert logged(few, "loss/text")[0] == pytest.approx(logged(everything, "loss/text")[0], rel=0.2)
    assert logged(few, "loss/text")[0] != logged(everything, "loss/text")[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt_tokens": 0}, "prompt_tokens must be at least 1, got 0"),
        ({"state_gigabytes": -1.0}, "state_gigabytes must be at least 0, got -1.0"),
        ({"text_labels": -2}, "text_labels must be at least 0, got -2"),
    ],
)
def test_limits_that_cannot_be_are_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        ItemTokenizerTrainingArguments(str(tmp_path), **change)


def test_bfloat16_on_a_cpu_needs_no_further_flag(tmp_path):
    assert ItemTokenizerTrainingArguments(str(tmp_path), bf16=True).device.type == "cpu" or torch.cuda.is_available()


def test_bfloat16_keeps_the_weights_in_float32(tmp_path):
    trainer = make_trainer(tmp_path, bf16=True, max_steps=6, config={"codebook_init": "kmeans", **NO_DROPOUT})
    trainer.train()
    full = make_trainer(tmp_path, max_steps=6, config={"codebook_init": "kmeans", **NO_DROPOUT})
    full.train()
    assert {weight.dtype for weight in weights(trainer.model).values()} == {torch.float32, torch.int64}
    assert logged(trainer, "loss/text") == pytest.approx(logged(full, "loss/text"), rel=0.03)
    assert logged(trainer, "loss/text") != logged(full, "loss/text")


def test_a_domain_smaller_than_the_batch(tmp_path):
    trainer = make_trainer(tmp_path, num_items=6, num_train_epochs=2)
    trainer.train()
    assert trainer.state.global_step == 2 and not trainer.args.dataloader_drop_last
    assert trainer.evaluate()["eval_loss"] > 0


def test_the_last_smaller_batch_is_dropped_in_training_only(tmp_path):
    trainer = make_trainer(tmp_path, num_items=21, num_train_epochs=1)
    sizes, forward = [], trainer._forward

    def spy(model, inputs):
        sizes.append(len(inputs["anchor_items"]))
        return forward(model, inputs)

    trainer._forward = spy
    trainer.train()
    assert sizes == [8, 8]
    sizes.clear()
    trainer.evaluate()
    assert sizes == [8, 8, 5] and trainer.args.dataloader_drop_last


def test_persistent_workers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="dataloader_persistent_workers"):
        make_trainer(tmp_path, dataloader_persistent_workers=True, dataloader_num_workers=1)


def test_known_neighbours_are_no_negatives(tmp_path, monkeypatch):
    seen = []
    original = UTGRecTokenizerModel.forward

    def spy(self, **inputs):
        seen.append(inputs)
        return original(self, **inputs)

    monkeypatch.setattr(UTGRecTokenizerModel, "forward", spy)
    trainer = make_trainer(tmp_path, max_steps=3)
    batches, collate = [], trainer.data_collator
    trainer.data_collator = lambda pairs: batches.append(pairs) or collate(pairs)
    trainer.train()
    dense = trainer.train_dataset.graph.adjacency.toarray()
    num_excluded = 0
    for inputs, pairs in zip(seen, batches, strict=False):
        expected = np.array(
            [[dense[a, other] or other == a or other == p for _, other in pairs] for a, p in pairs], dtype=bool
        )
        np.testing.assert_array_equal(inputs["excluded_negatives"].numpy(), expected)
        assert not {"anchor_items", "positive_items"} & inputs.keys()
        num_excluded += (expected & ~np.eye(len(pairs), dtype=bool)).sum()
    assert len(seen) == 3 and num_excluded, "some negative was left out"


def test_evaluate_counts_every_item_once(tmp_path):
    trainer = make_trainer(tmp_path, num_items=21, per_device_eval_batch_size=4, config={"root_codebook_size": 3})
    trainer._set_codebooks()  # so that the items' codes differ
    trainer.model.train()
    metrics = trainer.evaluate()
    assert trainer.model.training, "left as it was"
    network = trainer.model.eval()
    with torch.no_grad():
        output = network(**trainer.train_dataset.encoder_inputs(np.arange(21)))
    codes = list(map(tuple, output.codes.tolist()))
    assert len(set(codes)) > 3
    assert metrics["eval_collision_rate"] == pytest.approx(np.mean([codes.count(code) > 1 for code in codes]))
    for level, size in enumerate([3, 8, 8]):
        counts = np.bincount([code[level] for code in codes], minlength=size)
        shares = counts[counts > 0] / 21
        assert metrics[f"eval_used_{level}"] == pytest.approx((counts > 0).mean())
        assert metrics[f"eval_perplexity_{level}"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    # A mean over all items, whatever the batches: the codebook loss has no noise and no interaction between items.
    residuals, vectors = output.residuals, network.quantizer.level_vectors()
    chosen = torch.stack([table[output.codes[:, level]] for level, table in enumerate(vectors)], dim=1)
    square = (residuals - chosen).square()
    expected = 1.25 * (square[:, :1].mean() + square[:, 1:].mean()) / 2
    assert metrics["eval_quantization"] == pytest.approx(expected.item(), rel=1e-4)
    assert {f"eval_{part}" for part in PARTS} <= metrics.keys()
    assert trainer.state.log_history[-1]["eval_collision_rate"] == metrics["eval_collision_rate"]


def test_collision_rate_with_collisions(tmp_path):
    trainer = make_trainer(tmp_path, config={"root_codebook_size": 1, "leaf_codebook_size": 1})
    metrics = trainer.evaluate()
    assert (metrics["eval_collision_rate"], metrics["eval_used_1"], metrics["eval_perplexity_2"]) == (1, 1, 1)


def test_measures_of_others_are_refused(tmp_path):
    """They were left out without a word."""
    trainer, other = make_trainer(tmp_path, images=False), make_trainer(tmp_path, num_items=12, images=False)
    with pytest.raises(ValueError, match="evaluates the items that it is trained on: leave eval_dataset out"):
        trainer.evaluate(other.train_dataset)
    given = {"compute_metrics": lambda prediction: {}, "optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.1})}
    with pytest.raises(ValueError, match="takes no compute_metrics, optimizer_cls_and_kwargs"):
        ItemTokenizerTrainer(trainer.model, trainer.args, trainer.train_dataset, **given)


def test_negatives_of_a_batch_are_not_those_of_a_step(tmp_path, caplog):
    make_trainer(tmp_path, config={"alignment_weight": 0.0}, gradient_accumulation_steps=2)
    assert "negatives" not in caplog.text
    make_trainer(tmp_path, gradient_accumulation_steps=2)
    assert "those of 8 examples and not of the 16 of a step" in caplog.text


def test_best_checkpoint_by_evaluation(tmp_path):
    trainer = make_trainer(
        tmp_path,
        max_steps=4,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="collision_rate",
    )
    trainer.train()
    assert trainer.state.best_metric == min(logged(trainer, "eval_collision_rate"))


def test_the_best_weights_are_none_of_the_warm_up(tmp_path):
    """Their loss has no part of the codebooks, which the others' is mostly of."""
    steps = dict(max_steps=8, eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2)
    config = {"warmup_steps": 4, "quantization_weight": 200.0}
    trainer = make_trainer(tmp_path, config=config, load_best_model_at_end=True, **steps)
    trainer.add_callback(EarlyStoppingCallback(1))
    trainer.train()
    losses = logged(trainer, "eval_loss")
    assert len(losses) == 4 and losses[0] == min(losses)
    assert trainer.state.best_metric == min(losses[1:]) and not trainer.model.in_warmup


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def two_process_training(**changes):
    return dict(max_steps=4, optim="sgd", learning_rate=0.1, max_grad_norm=1e9, images=False, **changes)


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """The same work in one process: metrics of 24 and of 22 items, and the weights after a training."""
    folder = tmp_path_factory.mktemp("single")
    metrics = [evaluated(folder, num_items) for num_items in (24, 22)]
    trainer = make_trainer(folder, config=CENTRED, **two_process_training(per_device_train_batch_size=8))
    trainer.train()
    return metrics, trainer


def evaluated(folder, num_items):
    trainer = make_trainer(folder, num_items=num_items, per_device_eval_batch_size=4)
    trainer._set_codebooks()
    return trainer.evaluate()


@pytest.mark.distributed
@pytest.mark.parametrize("launcher", ["torchrun", pytest.param("accelerate", marks=pytest.mark.slow)])
def test_two_processes(single, tmp_path, launcher):
    """Two processes evaluate as one does, and both train to the weights of one process with the joined batch."""
    port = free_port()
    if launcher == "torchrun":
        command = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port]
    else:
        command = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
        command += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", port]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command, __file__, str(tmp_path)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    reports = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert [report["world_size"] for report in reports] == [2, 2]
    assert [report["rank"] for report in reports] == [0, 1]
    assert {report["type"] for report in reports} == {"DistributedType.MULTI_CPU"}

    (divisible, other), trainer = single
    health = {name for name in divisible if name.startswith(("eval_collision", "eval_used", "eval_perplexity"))}
    assert len(health) == 7
    for report in reports:
        assert report["divisible"] == reports[0]["divisible"] and report["other"] == reports[0]["other"]
        for name in health | {"eval_text", "eval_quantization"}:
            assert report["divisible"][name] == pytest.approx(divisible[name], rel=1e-5), name
        for name in health:  # two items are evaluated twice, and counted once
            assert report["other"][name] == pytest.approx(other[name], rel=1e-5), name
        assert "24 items are fewer than one global batch of 26 (13 on 2 processes)" in report["error"]
        # A logged part is the mean over both processes.
        assert report["text"] == pytest.approx(logged(trainer, "loss/text"), abs=1e-4)
        assert report["alignment"] == pytest.approx(logged(trainer, "loss/alignment"), abs=1e-4)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert_equal(*ranks)
    for name, weight in weights(trainer.model).items():
        torch.testing.assert_close(
            ranks[0][name], weight, rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )
    # With k-means and images on the way.
    assert_equal(*(torch.load(tmp_path / f"kmeans{rank}.pt", weights_only=True) for rank in (0, 1)))


def run_worker(output):
    values = two_process_training(per_device_train_batch_size=4, prompt_tokens=60, state_gigabytes=1e-4)
    trainer = make_trainer(output / "training", config=CENTRED, **values)
    assert 0 < trainer.model.kept_tokens < 100  # some parts are kept for the gradient, others read again
    rank = trainer.accelerator.process_index
    report = {
        "world_size": trainer.accelerator.num_processes,
        "rank": rank,
        "type": str(trainer.accelerator.distributed_type),
        "divisible": evaluated(output / "evaluated", 24),
        "other": evaluated(output / "evaluated", 22),
    }
    trainer.train()
    report |= {name: logged(trainer, f"loss/{name}") for name in ("text", "alignment")}
    torch.save(weights(trainer.model), output / f"rank{rank}.pt")
    kmeans = make_trainer(
        output / "kmeans",
        config={"codebook_init": "kmeans"},
        codebook_warmup_steps=2,
        max_steps=4,
        per_device_train_batch_size=4,
    )
    kmeans.train()
    torch.save(weights(kmeans.model), output / f"kmeans{rank}.pt")
    try:
        make_trainer(output / "error", per_device_train_batch_size=13)
    except ValueError as error:
        report["error"] = str(error)
    (output / f"rank{rank}.json").write_text(json.dumps(report))
    torch.distributed.barrier()
    os._exit(0)  # all is written; the threads of gloo sometimes keep the interpreter from ending


if __name__ == "__main__":
    run_worker(Path(sys.argv[1]))
