"""Memory of a step of an item tokenizer's training: measured on one item, told before the training."""

import logging

import psutil
import pytest
import torch
from torch import nn

from trainers.runtime import step_memory
from trainers.runtime.step_memory import StepMemory, kept_bytes


def test_kept_bytes_are_counted_once_and_without_weights():
    layer = nn.Linear(8, 4)
    inputs = torch.randn(10, 8)

    def twice():
        hidden = layer(inputs)  # keeps inputs, 320 bytes, and the weight, which does not count
        return hidden.sin() + hidden.cos()  # both keep hidden, 160 bytes

    assert kept_bytes(twice, layer) == 320 + 160
    with torch.no_grad():
        assert kept_bytes(twice, layer) == 0


@pytest.fixture
def measured(make_network, make_batch, tiny_bert, tiny_items):
    network, processor = make_network(tiny_bert)
    batch = make_batch(processor, network, tiny_items[11:])
    longest = {name: value for name, value in batch.items() if not name.endswith("_rows")}

    def measure(pairs=3, part_tokens=1, gigabytes=None, dtype=None):
        return network, longest, StepMemory.measured(network, longest, pairs, part_tokens, gigabytes, dtype)

    return measure


def test_states_of_a_token_are_what_a_batch_keeps(measured):
    network, longest, memory = measured()
    inputs = {name: torch.cat([longest[name]] * 5) for name in ("input_ids", "attention_mask")}
    network.train()
    length = longest["input_ids"].numel()
    kept = kept_bytes(lambda: network.encode(**inputs), network)
    assert kept == pytest.approx(5 * length * memory.per_token + memory.per_part, rel=0.02)
    assert (memory.tokens, memory.part_tokens, memory.pairs) == (2 * 3 * length, length, 3)
    assert memory.kept_tokens == pytest.approx(1.5e9 / (memory.per_token + memory.per_part / length), rel=1e-3)
    assert memory.decoders > 0 and memory.available <= psutil.virtual_memory().total
    trained = sum(each.nbytes for each in network.parameters() if each.requires_grad)
    assert memory.weights == sum(each.nbytes for each in network.parameters()) + 3 * trained


def test_weights_in_another_precision_are_of_each_part(measured):
    network, longest, memory = measured(dtype=torch.bfloat16)
    assert measured()[2].per_part == 0 < memory.per_part
    inputs = {name: torch.cat([longest[name]] * 5) for name in ("input_ids", "attention_mask")}
    network.train()
    with torch.autocast("cpu", torch.bfloat16):
        kept = kept_bytes(lambda: network.encode(**inputs), network)
    assert kept == pytest.approx(5 * longest["input_ids"].numel() * memory.per_token + memory.per_part, rel=0.02)


def test_measuring_changes_nothing(measured):
    network, _, _ = measured()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.eval()
    torch.manual_seed(0)
    measured()
    assert torch.equal(torch.rand(3), (torch.manual_seed(0), torch.rand(3))[1])
    assert not network.training and all(torch.equal(network.state_dict()[name], before[name]) for name in before)


def test_what_is_kept_is_bounded(measured):
    _, _, free = measured(pairs=64)
    assert free.states == pytest.approx((free.per_token + free.per_part / free.part_tokens) * free.tokens)
    _, _, bounded = measured(pairs=64, gigabytes=free.states / 4e9)
    assert bounded.states == pytest.approx(
        free.states / 4 + (free.per_token + free.per_part / free.part_tokens) * free.part_tokens, rel=0.02
    )
    assert bounded.total == bounded.weights + bounded.states + bounded.decoders


def test_texts_are_bounded_and_images_are_not(make_network, make_batch, tiny_qwen2_vl, tiny_items):
    network, processor = make_network(tiny_qwen2_vl)
    batch = make_batch(processor, network, tiny_items[:1])
    longest = {name: value for name, value in batch.items() if not name.endswith("_rows")}
    one, many, more = (StepMemory.measured(network, longest, pairs, 1, None, None).decoders for pairs in (1, 64, 264))
    assert many == 64 * one and 0 < more - many < 200 * one
    network.train()
    hidden = network.expand(torch.zeros(2, network.config.num_levels, network.config.codebook_dim))
    assert batch["has_image"].all()

    def image(number):
        rows = torch.zeros(number, dtype=torch.long)
        items = batch["text_labels"], batch["image_latents"], batch["has_image"]
        return network.reconstruct(hidden[:number], rows, *items)[1]

    of_an_image = kept_bytes(lambda: image(2), network) - kept_bytes(lambda: image(1), network)
    assert more - many == 2 * 200 * of_an_image  # of the item and of its positive


@pytest.mark.parametrize(("available", "warned"), [(10**12, False), (1000, True)])
def test_what_is_said(measured, caplog, monkeypatch, available, warned):
    monkeypatch.setattr(step_memory.psutil, "virtual_memory", lambda: type("Memory", (), {"available": available}))
    _, _, memory = measured(gigabytes=0.0)
    if not warned:
        memory.announce()
        assert not caplog.text  # nobody need know of some megabytes
        memory.weights = 10**9
    with caplog.at_level(logging.WARNING):
        memory.announce()
    assert f"a step of 3 pairs needs up to {memory.total / 1e9:.1f} GB" in caplog.text
    assert "those beyond 0 are read twice" in caplog.text
    assert ("lower state_gigabytes, prompt_tokens or per_device_train_batch_size" in caplog.text) == warned


@pytest.mark.parametrize(("able", "dtype", "hint"), [(True, None, True), (False, None, False), (True, "bf16", False)])
def test_a_processor_that_could_do_better_is_named(
    make_network, make_batch, tiny_bert, tiny_items, monkeypatch, caplog, able, dtype, hint
):
    monkeypatch.setattr(step_memory, "multiplies_bfloat16", lambda: able)
    network, processor = make_network(tiny_bert)
    batch = make_batch(processor, network, tiny_items[11:])
    longest = {name: value for name, value in batch.items() if not name.endswith("_rows")}
    with caplog.at_level(logging.WARNING):
        memory = StepMemory.measured(network, longest, 3, 1, None, torch.bfloat16 if dtype else None)
        memory.weights = 10**9
        memory.announce()
    assert ("in bfloat16 (bf16) this processor" in caplog.text) == hint
