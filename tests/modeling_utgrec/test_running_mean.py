"""Centred representations: codes that do not follow what all items have in common."""

import pytest
import torch
from transformers import AutoModel

from modeling_utgrec.running_mean import RunningMean
from tokenization_items.network_reference import network_fingerprint


def test_the_mean_of_the_batch_in_training_and_a_running_one_afterwards():
    module = RunningMean(2, 3)
    batches = [torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(seed)) for seed in range(12)]
    expected = torch.zeros(2, 3)
    for number, batch in enumerate(batches, 1):
        found = module(batch.requires_grad_())
        torch.testing.assert_close(found, batch.detach().mean(0))
        assert not found.requires_grad
        expected += max(0.1, 1 / number) * (batch.detach().mean(0) - expected)
    module.eval()
    before = module.mean.clone()
    torch.testing.assert_close(module(batches[0]), expected)
    assert torch.equal(module.mean, before) and int(module.batches) == 12


@pytest.mark.parametrize("structure", ["tree", "residual"])
def test_what_all_items_have_in_common_changes_no_code(structure, make_network, tiny_bert):
    network, _ = make_network(tiny_bert, codebook_centering=True, codebook_structure=structure)
    plain, _ = make_network(tiny_bert, codebook_structure=structure)
    z = torch.randn(16, network.config.num_levels, network.config.codebook_dim)
    common = 5 * torch.randn(network.config.num_levels, network.config.codebook_dim)
    network.train()
    here, there = network.quantize(z), network.quantize(z + common)
    assert torch.equal(here.codes, there.codes)
    torch.testing.assert_close(there.loss, here.loss, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(there.quantized, here.quantized + common, rtol=1e-4, atol=1e-5)
    centred = plain.quantize(z - z.mean(0))
    assert torch.equal(centred.codes, here.codes)
    torch.testing.assert_close(centred.quantized + z.mean(0), here.quantized)
    assert not torch.equal(plain.quantize(z + common).codes, plain.quantize(z).codes)


def test_the_gradient_goes_straight_through(make_network, tiny_bert):
    network, _ = make_network(tiny_bert, codebook_centering=True)
    z = torch.randn(4, network.config.num_levels, network.config.codebook_dim, requires_grad=True)
    network.train()
    network.quantize(z).quantized.sum().backward()
    torch.testing.assert_close(z.grad, torch.ones_like(z))


def test_the_mean_is_saved(make_network, make_batch, tiny_bert, tiny_items, tmp_path):
    network, processor = make_network(tiny_bert, codebook_centering=True)
    batch = make_batch(processor, network, tiny_items[:6])
    network.train()
    network(**batch)
    network.eval().save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert loaded.running_mean.mean.any()
    assert torch.equal(loaded.running_mean.mean, network.running_mean.mean) and int(loaded.running_mean.batches) == 1
    assert torch.equal(loaded(**batch).codes, network(**batch).codes)
    plain, _ = make_network(tiny_bert)
    assert plain.running_mean is None and not any("running_mean" in name for name in plain.state_dict())


def test_the_mean_of_half_precision_moves(make_network, make_batch, tiny_bert, tiny_items, tmp_path):
    """The mean is kept in float32, the rest is of the precision of the weights."""
    network, processor = make_network(tiny_bert, codebook_centering=True)
    batch = make_batch(processor, network, tiny_items[:6])
    network.train()(**batch)
    network.running_mean.batches.fill_(20)
    network.save_pretrained(tmp_path)
    half = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.running_mean.mean.dtype == torch.float32 and half.adapter_dtype == torch.bfloat16
    assert torch.equal(half.running_mean.mean, network.running_mean.mean)

    z = half.encode(batch["input_ids"], batch["attention_mask"])
    plain = half.quantizer(z - half.running_mean.mean.bfloat16())
    found = half.quantize(z)
    assert torch.equal(found.codes, plain.codes) and torch.equal(found.residuals, plain.residuals)
    assert found.quantized.dtype == torch.bfloat16

    before = half.running_mean.mean.clone()
    output = half.train()(**batch)
    output.loss.backward()
    mean = output.representations.detach().float().mean(0)
    assert output.residuals.dtype == torch.bfloat16
    torch.testing.assert_close(half.running_mean.mean, before + 0.1 * (mean - before))
    cast = network.to(torch.bfloat16)
    cast(**batch).loss.backward()
    assert cast.running_mean.mean.dtype == torch.bfloat16 and int(cast.running_mean.batches) == 21


def test_the_mean_is_among_what_codes_depend_on(make_network, tiny_bert):
    """So that a network with another mean is not taken for the one that gave the codes."""
    network, processor = make_network(tiny_bert, codebook_centering=True)
    before = network_fingerprint(network, processor)
    network.running_mean.mean[0, 0] += 1e-3
    assert network_fingerprint(network, processor) != before
