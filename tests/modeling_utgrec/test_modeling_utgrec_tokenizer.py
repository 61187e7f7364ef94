"""The item tokenizer network: gradients, losses, warm-up, saving, batching, and every kind of backbone."""

import copy

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from transformers import AutoConfig, AutoModel

import modeling_utgrec
from modeling_utgrec import UTGRecTokenizerConfig, UTGRecTokenizerModel, reconstruction
from modeling_utgrec.encoding_parts import prompt_parts
from modeling_utgrec.loss_contrastive import info_nce
from modeling_utgrec.modeling_utgrec_tokenizer import decoder_heads

BACKBONES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "bert"]
ENCODER_INPUTS = ("input_ids", "attention_mask", "pixel_values", "image_grid_thw", "mm_token_type_ids")
PARTS = ["text_loss", "image_loss", "quantization_loss", "alignment_loss", "co_text_loss", "co_image_loss"]


def disturb(network: UTGRecTokenizerModel, std: float = 0.05) -> UTGRecTokenizerModel:
    """What starts at zero (LoRA's B, the denoiser's modulation) would hide gradients and differences."""
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter += std * torch.randn_like(parameter)
    return network


def trainable(network: UTGRecTokenizerModel) -> set[str]:
    return {name for name, parameter in network.named_parameters() if parameter.requires_grad}


def outputs(network: UTGRecTokenizerModel, batch: dict, seed: int = 0):
    torch.manual_seed(seed)
    return network(**batch)


def gradients(network: UTGRecTokenizerModel, loss: torch.Tensor) -> dict[str, torch.Tensor | None]:
    network.zero_grad(set_to_none=True)
    loss.backward()
    return {name: parameter.grad for name, parameter in network.named_parameters()}


# what learns


@pytest.mark.parametrize("kind", BACKBONES)
def test_gradients_reach_all_that_learns_and_nothing_frozen(
    kind, backbones, make_network, make_batch, tiny_items, ordered_sums
):
    network, processor = make_network(backbones[kind])
    disturb(network).train()
    batch = make_batch(processor, network, tiny_items[:6])
    batch["anchor_rows"][-1], batch["positive_rows"][:3] = 0, 4  # an anchor twice, a positive three times
    loss = network(**batch).loss
    with ordered_sums():
        found = gradients(network, loss)
    for name, parameter in network.named_parameters():
        learns = not name.startswith("backbone.") or "lora_" in name or name.endswith("code_tokens")
        assert parameter.requires_grad == learns, name
        assert (found[name] is not None) == learns, name
        assert not learns or found[name].any(), name
    assert (found["backbone." + code_tokens(network)].abs().sum(1) > 0).all()  # of each level
    adapted = [name for name in found if "lora_A" in name]
    linear_layers = 6 if kind == "bert" else 7
    assert len(adapted) == 2 * linear_layers
    assert not any("visual" in name or "pooler" in name for name in adapted)


def code_tokens(network: UTGRecTokenizerModel) -> str:
    return next(name for name, _ in network.backbone.named_parameters() if name.endswith("code_tokens"))


def test_freezing_the_codes_freezes_exactly_them(tiny_network, make_network, tiny_qwen2_vl):
    network, _ = make_network(tiny_qwen2_vl)
    before = trainable(network)
    network.set_trainable(freeze_codes=True)
    assert before - trainable(network) == {"quantizer.root.codes", "quantizer.leaf.codes"}
    network.set_trainable()
    assert trainable(network) == before


def test_frozen_codes_still_move_with_their_projection(make_network, make_batch, tiny_qwen2_vl, tiny_items):
    network, processor = make_network(tiny_qwen2_vl)
    network.set_trainable(freeze_codes=True)
    found = gradients(network, network(**make_batch(processor, network, tiny_items[:4])).quantization_loss)
    assert found["quantizer.root.codes"] is None
    assert found["quantizer.root.projection.weight"].any() and found["quantizer.leaf.projection.weight"].any()


def test_without_lora_the_whole_backbone_learns(make_network, make_batch, tiny_qwen2_vl, tiny_items):
    network, processor = make_network(tiny_qwen2_vl, lora=False)
    assert trainable(network) == {name for name, _ in network.named_parameters()}
    found = gradients(disturb(network), network(**make_batch(processor, network, tiny_items[:6])).loss)
    assert all(found[name].any() for name in found)


@pytest.mark.parametrize("part", PARTS)
def test_every_part_of_the_loss_can_be_lowered(part, make_network, make_batch, tiny_qwen2_vl, tiny_items):
    network, processor = make_network(tiny_qwen2_vl)
    batch = make_batch(processor, network, tiny_items[:6])
    network.train()
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=2e-3)
    before = outputs(network, batch)[part].item()
    for _ in range(6):
        optimizer.zero_grad()
        outputs(network, batch)[part].backward()
        optimizer.step()
    assert outputs(network, batch)[part].item() < 0.995 * before


def test_given_weights_are_kept_and_the_given_backbone_is_built_in(make_network, tiny_qwen2_vl):
    given = tiny_qwen2_vl[0].state_dict()
    network, _ = make_network(tiny_qwen2_vl)
    own = {
        name.replace("base_layer.", "").replace(".tokens.", "."): t
        for name, t in network.backbone.state_dict().items()
    }
    assert all(torch.equal(own[name], tensor) for name, tensor in given.items())


def test_initial_weights(make_network, tiny_qwen2_vl):
    network, _ = make_network(tiny_qwen2_vl, num_levels=5)
    parameters = dict(network.named_parameters())
    for name, parameter in parameters.items():
        if "lora_B" in name or "modulation" in name or name.startswith("image_decoder.diffusion.denoiser.output"):
            assert not parameter.any(), name
        elif "lora_A" in name or "quantizer" in name or name.endswith((".mask", "in_proj_weight")):
            assert parameter.std() > 0, name
    for codebook in network.quantizer.codebooks:
        assert codebook.projection.weight.abs().max() <= 8**-0.5  # as linear layers start
        assert codebook.codes.std().item() == pytest.approx(8**-0.5, rel=0.3)
    turned, _ = make_network(tiny_qwen2_vl, codebook_projection_init="orthogonal")
    for codebook in turned.quantizer.codebooks:
        weight = codebook.projection.weight
        torch.testing.assert_close(weight @ weight.T, torch.eye(8), rtol=0, atol=1e-5)
    embedding = network.get_input_embeddings().requires_grad_(False)
    vocabulary = embedding.weight
    assert embedding.code_tokens.shape == (5, 48)
    assert (embedding.code_tokens.mean() - vocabulary.mean()).abs() < 0.5 * vocabulary.std()
    assert embedding.code_tokens.std() == pytest.approx(vocabulary.std().item(), rel=0.3)
    assert len(torch.unique(embedding.code_tokens, dim=0)) == 5


# losses


def test_loss_is_the_weighted_sum_of_its_parts(make_network, make_batch, tiny_qwen2_vl, tiny_items):
    weights = {
        "quantization_weight": 7.0,
        "image_weight": 3.5,
        "alignment_weight": 0.3,
        "co_reconstruction_weight": 0.6,
    }
    network, processor = make_network(tiny_qwen2_vl, **weights)
    o = disturb(network, 0.3)(**make_batch(processor, network, tiny_items[:6]))
    parts = [o[name].item() for name in PARTS]
    assert all(part > 0 for part in parts) and len(set(parts)) == len(parts)
    text, image, quantization, alignment, co_text, co_image = parts
    wanted = text + 3.5 * image + 7 * quantization + 0.3 * alignment + 0.6 * (co_text + 3.5 * co_image)
    assert o.loss.item() == pytest.approx(wanted, rel=1e-6)


def test_parts_take_the_rows_of_anchors_and_positives(make_network, make_batch, tiny_qwen2_vl, tiny_items):
    """Items that take part twice are encoded once: rows say which. Items 2 and 5 have no image."""
    network, processor = make_network(tiny_qwen2_vl, temperature=0.3)
    disturb(network)
    batch = make_batch(processor, network, tiny_items[:6])
    anchors, positives = torch.tensor([3, 2, 1, 0]), torch.tensor([5, 0, 1, 4])
    excluded = torch.zeros(4, 4, dtype=torch.bool)
    excluded[0, 2] = excluded[3, 1] = True
    batch |= {"anchor_rows": anchors, "positive_rows": positives, "excluded_negatives": excluded}
    o = outputs(network, batch)

    z = network(**make_batch(processor, network, tiny_items[:6], labels=False)).representations
    torch.testing.assert_close(o.representations, z[anchors])
    quantized = network.quantizer(z[anchors])
    assert torch.equal(o.codes, quantized.codes) and torch.equal(o.residuals, quantized.residuals)
    hidden = network.expand(summed_vectors(network, quantized.codes))
    embeddings, labels, latents = network.get_input_embeddings().weight, batch["text_labels"], batch["image_latents"]
    torch.manual_seed(0)
    wanted = {
        "text_loss": network.text_decoder.loss(hidden, labels[[3, 2, 1, 0]], embeddings),
        "image_loss": network.image_decoder.loss(hidden[[0, 2, 3]], latents[[3, 1, 0]]),
        "quantization_loss": quantized.loss,
        "alignment_loss": info_nce(z[anchors], z[positives], 0.3, excluded),
        "co_text_loss": network.text_decoder.loss(hidden, labels[[5, 0, 1, 4]], embeddings),
        "co_image_loss": network.image_decoder.loss(hidden[[1, 2, 3]], latents[[0, 1, 4]]),
    }
    for name, value in wanted.items():
        torch.testing.assert_close(o[name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("change", "dropped"),
    [
        ({"alignment_weight": 0}, {"alignment_loss"}),
        ({"co_reconstruction_weight": 0}, {"co_text_loss", "co_image_loss"}),
        ({"codebook_structure": "residual"}, set()),
        ({"codebook_structure": "residual", "shared_representation": True}, set()),
        ({"latent_channels": None}, set()),
        ({"image_attends_masks": False}, set()),
        ({"num_levels": 1}, set()),
    ],
)
def test_ablations(change, dropped, make_network, make_batch, tiny_qwen2_vl, tiny_items, tmp_path):
    network, processor = make_network(tiny_qwen2_vl, **change)
    disturb(network)
    o = outputs(network, make_batch(processor, network, tiny_items[:4]))
    assert {name for name in PARTS if getattr(o, name) is None} == dropped
    found = gradients(network, o.loss)
    assert all(found[name] is not None for name in trainable(network))
    if "codebook_structure" in change:
        assert [len(v) for v in network.quantizer.level_vectors()] == [7, 9, 9]
        network.set_trainable(freeze_codes=True)
        assert not any(parameter.requires_grad for parameter in network.quantizer.parameters())
    if "image_attends_masks" in change:
        assert not network.image_decoder.attends_masks
    if "latent_channels" in change:
        assert network.image_decoder is None and o.image_loss.item() == o.co_image_loss.item() == 0
    network.save_pretrained(tmp_path)
    again = outputs(AutoModel.from_pretrained(tmp_path), make_batch(processor, network, tiny_items[:4]))
    assert torch.equal(again.codes, o.codes) and again.loss.item() == pytest.approx(o.loss.item(), rel=1e-6)


@pytest.mark.parametrize("most_tokens", [None, 40])
def test_levels_that_share_a_representation_refine_it(most_tokens, make_network, make_batch, tiny_bert, tiny_items):
    """Residual quantization of the adapter's output for the mean of the prompt's states, here in float64."""
    shared = {"codebook_structure": "residual", "shared_representation": True, "adapter_dropout": 0.0}
    network, processor = make_network(tiny_bert, **shared)
    disturb(network)
    batch = make_batch(processor, network, tiny_items)
    prompts = {name: batch[name] for name in ("input_ids", "attention_mask")}
    code_tokens = torch.tensor(network.config.code_token_ids)
    with torch.no_grad():
        hidden = network.backbone(**prompts).last_hidden_state.double()
        counted = prompts["attention_mask"].bool() & ~torch.isin(prompts["input_ids"], code_tokens)
        states = torch.stack([row[there].mean(dim=0) for row, there in zip(hidden, counted, strict=True)])
        up, _, _, down = network.adapter
        inner = torch.nn.functional.gelu(states @ up.weight.double().T + up.bias.double())
        left = representation = inner @ down.weight.double().T + down.bias.double()
        wanted = []
        for codebook in network.quantizer.codebooks:
            codebook.codes.copy_(left.mean(0) + left.std(0) * torch.randn(codebook.codes.shape))
            vectors = codebook.codes.double()
            codes = torch.cdist(left, vectors).argmin(dim=1)
            left = left - vectors[codes]
            wanted.append(codes)
    network.most_tokens = most_tokens
    if most_tokens is not None:  # which reads prompts in parts where there is a gradient
        network.train()
        for module in network.backbone.modules():
            module.eval()
    z = network.encode(**prompts)
    assert z.shape == (len(tiny_items), 3, network.config.codebook_dim)
    torch.testing.assert_close(z, representation.float()[:, None].expand_as(z), rtol=1e-4, atol=1e-6)
    quantized = network.quantize(z)
    assert len({*map(tuple, quantized.codes.tolist())}) > 3
    assert torch.equal(quantized.codes, torch.stack(wanted, dim=1))
    torch.testing.assert_close(quantized.quantized[:, -1], (representation - left).float(), rtol=1e-4, atol=1e-6)


def test_without_positives_there_is_no_co_occurrence_loss(tiny_network, make_batch, tiny_items):
    network, processor = tiny_network
    batch = make_batch(processor, network, tiny_items[:4])
    del batch["anchor_rows"], batch["positive_rows"]
    o = network(**batch)
    assert o.alignment_loss is None and o.co_text_loss is None and o.co_image_loss is None
    assert o.loss.item() == pytest.approx((o.text_loss + 3 * o.image_loss + 200 * o.quantization_loss).item())


@pytest.mark.parametrize(
    "rows",
    [[2, 5], [0, 1], [0, 2, 4], [4], [4, 4]],
    ids=["no image", "all images", "mixed", "no text", "twice no text"],
)
def test_losses_are_finite_and_everything_gets_a_gradient(rows, make_network, make_batch, tiny_qwen2_vl, tiny_items):
    network, processor = make_network(tiny_qwen2_vl)
    network.train()
    o = network(**make_batch(processor, network, [tiny_items[row] for row in rows]))
    assert all(o[name].isfinite() for name in PARTS)
    found = gradients(network, o.loss)
    assert all(found[name] is not None and found[name].isfinite().all() for name in trainable(network))
    without_images = rows == [2, 5]
    assert (o.image_loss == 0) == (o.co_image_loss == 0) == without_images
    assert all(
        (not found[name].any()) == without_images
        for name in found
        if name.startswith("image_decoder.diffusion.denoiser.output.linear")
    )
    assert (o.text_loss == 0) == (4 in rows and 0 not in rows)


def test_missing_latents_count_as_no_image(tiny_network, make_batch, tiny_items):
    network, processor = tiny_network
    batch = make_batch(processor, network, tiny_items[:3])
    del batch["image_latents"], batch["has_image"]
    o = network(**batch)
    assert o.image_loss == 0 and o.co_image_loss == 0 and o.loss.isfinite()


def test_latents_of_items_without_image_do_not_matter(tiny_network, make_batch, tiny_items):
    network, processor = tiny_network
    batch = make_batch(processor, network, tiny_items[:6])
    wanted = outputs(network, batch).loss
    batch["image_latents"][~batch["has_image"]] = float("nan")
    assert torch.equal(outputs(network, batch).loss, wanted)


def test_codes_alone_cost_no_decoder(make_network, make_batch, monkeypatch, tiny_qwen2_vl, tiny_items):
    network, processor = make_network(tiny_qwen2_vl)
    wanted = network(**make_batch(processor, network, tiny_items[:5]))

    def fail(*args, **kwargs):
        raise AssertionError("a decoder ran")

    for decoder in (network.text_decoder, network.image_decoder):
        monkeypatch.setattr(decoder, "forward", fail)
        monkeypatch.setattr(decoder, "loss", fail)
    monkeypatch.setattr(reconstruction, "linear_cross_entropy", fail)
    o = network(**make_batch(processor, network, tiny_items[:5], labels=False))
    assert set(o.keys()) == {"codes", "representations", "residuals"}
    assert torch.equal(o.codes, wanted.codes) and o.codes.shape == (5, 3)
    assert (o.codes >= 0).all() and (o.codes < torch.tensor(network.config.level_sizes)).all()


# warm-up


def summed_vectors(network: UTGRecTokenizerModel, codes: torch.Tensor) -> torch.Tensor:
    """Quantized representations `(items, levels, dim)`: sums of the codes' vectors from the first level on."""
    vectors = network.quantizer.level_vectors()
    return torch.stack([each[codes[:, level]] for level, each in enumerate(vectors)], dim=1).cumsum(1)


def decoded_by(network: UTGRecTokenizerModel, batch: dict) -> str:
    """Whether the decoders saw unquantized or quantized representations."""
    seen = []
    handle = network.expand.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    o = network(**batch)
    handle.remove()
    quantized = summed_vectors(network, o.codes)
    assert not torch.allclose(o.representations, quantized, atol=1e-2)
    if torch.equal(seen[0], o.representations):
        return "unquantized"
    torch.testing.assert_close(seen[0], quantized, rtol=0, atol=1e-5)
    return "quantized"


def test_warmup_counts_training_passes_and_survives_saving(
    make_network, make_batch, tiny_qwen2_vl, tiny_items, tmp_path
):
    network, processor = make_network(tiny_qwen2_vl, warmup_steps=3)
    batch, codes = (
        make_batch(processor, network, tiny_items[:3]),
        make_batch(processor, network, tiny_items[:3], False),
    )
    network.train()
    assert decoded_by(network, batch) == "unquantized"
    network.eval()
    for _ in range(4):
        assert decoded_by(network, batch) == "unquantized"
    network.train()
    network(**codes)  # no training pass: nothing is decoded
    assert decoded_by(network, batch) == "unquantized"
    assert int(network.training_passes) == 2 and network.in_warmup

    network.save_pretrained(tmp_path)
    resumed = AutoModel.from_pretrained(tmp_path)
    assert int(resumed.training_passes) == 2
    resumed.train()
    assert [decoded_by(resumed, batch) for _ in range(3)] == ["unquantized", "quantized", "quantized"]
    assert decoded_by(resumed.eval(), batch) == "quantized" and not resumed.in_warmup


def test_a_checkpoint_without_the_counter_starts_at_zero(tiny_network, tmp_path):
    state = {name: tensor for name, tensor in tiny_network[0].state_dict().items() if name != "training_passes"}
    tiny_network[0].save_pretrained(tmp_path, state_dict=state)
    assert int(AutoModel.from_pretrained(tmp_path).training_passes) == 0


def test_no_warmup(tiny_network, make_batch, tiny_items):
    network, processor = tiny_network
    assert decoded_by(network, make_batch(processor, network, tiny_items[:3])) == "quantized"


@pytest.mark.parametrize("codebook_init", ["normal", "kmeans"])
def test_the_warmup_leaves_the_codebooks_alone(make_network, make_batch, tiny_qwen2_vl, tiny_items, codebook_init):
    network, processor = make_network(tiny_qwen2_vl, warmup_steps=1, codebook_init=codebook_init)
    batch = make_batch(processor, network, tiny_items[:4])
    disturb(network).train()
    for in_warmup in (True, False):
        o = network(**batch)
        found = gradients(network, o.loss)
        # A zero gradient instead of none, which would stop distributed training.
        assert all(found[name] is not None for name in trainable(network))
        assert found["quantizer.leaf.projection.weight"].any() == (not in_warmup)
        weight = 0 if in_warmup else 200
        wanted = o.text_loss + 3 * o.image_loss + weight * o.quantization_loss + 0.01 * o.alignment_loss
        wanted = wanted + 0.03 * (o.co_text_loss + 3 * o.co_image_loss)
        assert o.loss.item() == pytest.approx(wanted.item(), rel=1e-6)


# as a transformers model


@pytest.mark.parametrize("kind", BACKBONES)
def test_save_and_load(kind, backbones, make_network, make_batch, tiny_items, tmp_path):
    network, processor = make_network(backbones[kind])
    assert all(not p.any() for name, p in network.named_parameters() if "lora_B" in name)
    disturb(network)
    network.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is UTGRecTokenizerModel is modeling_utgrec.UTGRecTokenizerModel and not loaded.training
    before, after = network.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    batch = make_batch(processor, network, tiny_items[:5])
    wanted, got = outputs(network, batch), outputs(loaded, batch)
    assert torch.equal(got.representations, wanted.representations) and torch.equal(got.codes, wanted.codes)
    torch.testing.assert_close(got.loss, wanted.loss, rtol=1e-6, atol=0)  # kernels round by where memory is aligned
    loaded.set_trainable()
    assert trainable(loaded) == trainable(network)
    assert {n for n, p in after.items() if "lora_B" in n and p.any()} == {n for n in after if "lora_B" in n}


def test_config_round_trip(tiny_network, tmp_path):
    config = tiny_network[0].config
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert type(again) is UTGRecTokenizerConfig and type(again.backbone_config) is type(config.backbone_config)
    wanted, got = config.to_dict(), again.to_dict()
    assert {k: v for k, v in got.items() if "name_or_path" not in k and k != "architectures"}.items() <= wanted.items()


def test_a_model_from_its_configuration_alone(tiny_network):
    network = tiny_network[0]
    built = AutoModel.from_config(network.config)
    assert built.state_dict().keys() == network.state_dict().keys()
    assert all(not p.any() for name, p in built.named_parameters() if "lora_B" in name)
    assert trainable(built) == trainable(network)


@pytest.mark.parametrize("kind", BACKBONES)
def test_an_item_gets_the_same_codes_alone_and_in_a_batch(kind, backbones, make_network, make_batch, tiny_items):
    network, processor = make_network(backbones[kind])
    disturb(network)
    with torch.no_grad():
        together = network(**make_batch(processor, network, tiny_items, labels=False))
        for row, item in enumerate(tiny_items):
            alone = network(**make_batch(processor, network, [item], labels=False))
            torch.testing.assert_close(alone.representations[0], together.representations[row], rtol=0, atol=1e-5)
            assert torch.equal(alone.codes[0], together.codes[row])
    assert len(torch.unique(together.representations.flatten(1), dim=0)) == len(tiny_items)


@pytest.mark.parametrize("kind", BACKBONES[:3])
def test_images_matter_to_their_own_item_only(kind, backbones, make_network, make_batch, tiny_items):
    network, processor = make_network(backbones[kind])
    disturb(network)
    items = [dict(item) for item in tiny_items[:5]]
    before = network(**make_batch(processor, network, items, labels=False)).representations
    items[1]["image"] = items[1]["image"].transpose(1)
    after = network(**make_batch(processor, network, items, labels=False)).representations
    changed = (after - before).abs().amax((1, 2)) > 1e-4
    assert changed.tolist() == [False, True, False, False, False]


def test_deepstack_features_of_qwen3_vl_reach_the_codes(backbones, make_network, make_batch, tiny_items):
    network, processor = make_network(backbones["qwen3_vl"])
    batch = make_batch(processor, network, tiny_items[:3], labels=False)
    before = network(**batch).representations
    with torch.no_grad():
        for parameter in network.backbone.visual.deepstack_merger_list.parameters():
            parameter.zero_()
    moved = (network(**batch).representations - before).abs().amax((1, 2))
    assert (moved[:2] > 1e-5).all() and moved[2] < 1e-6  # the third has no image


def test_windows_of_qwen2_5_vl(backbones, make_network, make_batch, tiny_items):
    """The image of item 3 is larger than a window: wider attention gives other representations, of this item only."""
    network, processor = make_network(backbones["qwen2_5_vl"])
    batch = make_batch(processor, network, tiny_items[:4], labels=False)
    assert (batch["image_grid_thw"][:, 1:] * 14 > 56).any(1).tolist() == [False, False, True]
    before = network(**batch).representations
    network.backbone.visual.window_size *= 4
    moved = (network(**batch).representations - before).abs().amax((1, 2))
    assert (moved > 1e-6).tolist() == [False, False, False, True]


@pytest.mark.parametrize("kind", BACKBONES)
def test_gradient_checkpointing_changes_nothing(kind, backbones, make_network, make_batch, tiny_items):
    network, processor = make_network(backbones[kind])
    disturb(network).train()
    batch = make_batch(processor, network, tiny_items[:4])
    calls, last = [], layers(network)[-1]
    attention = last.attention if kind == "bert" else last.self_attn
    attention.register_forward_pre_hook(lambda *args: calls.append(1))
    wanted = gradients(network, outputs(network, batch).loss)
    assert len(calls) == 1
    network.gradient_checkpointing_enable()
    got = gradients(network, outputs(network, batch).loss)
    assert len(calls) == 3  # once more, and again in the backward pass
    for name in trainable(network):
        torch.testing.assert_close(got[name], wanted[name], rtol=1e-4, atol=1e-6, msg=name)


def drop(network: UTGRecTokenizerModel, probability: float) -> None:
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = probability


@pytest.mark.parametrize("kept", [None, 40, 0])
@pytest.mark.parametrize("kind", BACKBONES)
def test_prompts_in_parts_change_nothing(kind, kept, backbones, make_network, make_batch, tiny_items):
    """Neither do parts that are read again for the gradient."""
    network, processor = make_network(backbones[kind])
    drop(disturb(network).train(), 0.0)
    batch = make_batch(processor, network, tiny_items[:6])
    calls = []
    network.backbone.register_forward_pre_hook(lambda *args: calls.append(1))
    wanted = outputs(network, batch)
    of_whole = gradients(network, wanted.loss)
    network.most_tokens = most = int(batch["attention_mask"].sum(1).max())
    network.kept_tokens = kept
    parts = prompt_parts({name: batch[name] for name in batch if name in ENCODER_INPUTS}, most)
    got = outputs(network, batch)
    of_parts = gradients(network, got.loss)
    tokens = torch.tensor([part["input_ids"].numel() for _, part in parts]).cumsum(0)
    again = 0 if kept is None else int((tokens > kept).sum())
    assert len(parts) > 2 and len(calls) == 1 + len(parts) + again
    torch.testing.assert_close(got.representations, wanted.representations, rtol=1e-4, atol=1e-5)
    for name in trainable(network):
        torch.testing.assert_close(of_parts[name], of_whole[name], rtol=1e-3, atol=1e-5, msg=name)
    with torch.no_grad():  # which keeps nothing
        calls.clear()
        outputs(network, batch)
    assert len(calls) == 1


def test_parts_that_are_read_again_drop_the_same(make_network, make_batch, tiny_bert, tiny_items):
    network, processor = make_network(tiny_bert)
    drop(disturb(network).train(), 0.5)
    batch = make_batch(processor, network, tiny_items[:6])
    network.most_tokens = int(batch["attention_mask"].sum(1).max())
    results = []
    for kept in (None, 0, 60):
        network.kept_tokens = kept
        results.append(gradients(network, outputs(network, batch).loss))
    for name in trainable(network):
        assert all(torch.equal(other[name], results[0][name]) for other in results[1:]), name


def layers(network: UTGRecTokenizerModel):
    backbone = network.backbone
    return backbone.language_model.layers if hasattr(backbone, "language_model") else backbone.encoder.layer


def test_evaluation_is_deterministic_and_training_drops_out(make_network, make_batch, tiny_qwen2_vl, tiny_items):
    network, processor = make_network(tiny_qwen2_vl, adapter_dropout=0.5, decoder_dropout=0.5)
    batch = make_batch(processor, network, tiny_items[:4])
    first, second = outputs(network, batch, seed=0), outputs(network, batch, seed=1)
    assert torch.equal(first.representations, second.representations) and first.text_loss == second.text_loss
    network.train()
    assert not torch.equal(outputs(network, batch, seed=1).representations, first.representations)


@pytest.mark.parametrize("kind", BACKBONES)
def test_bfloat16(kind, backbones, make_network, make_batch, tiny_items, tmp_path):
    network, processor = make_network(backbones[kind])
    disturb(network)
    batch = make_batch(processor, network, tiny_items[:5])
    wanted = network(**batch).representations
    with torch.autocast("cpu", dtype=torch.bfloat16):
        o = network(**batch)
    assert o.loss.isfinite() and all(o[name].isfinite() for name in PARTS)
    assert all(p.grad.isfinite().all() for p in backward(network, o.loss))
    torch.testing.assert_close(o.representations.float(), wanted, rtol=0.1, atol=0.1)

    network.save_pretrained(tmp_path)
    low = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    low.set_trainable()
    o = low(**batch)
    assert o.representations.dtype == torch.bfloat16 and o.loss.isfinite()
    assert all(p.grad.isfinite().all() for p in backward(low, o.loss))
    torch.testing.assert_close(o.representations.float(), wanted, rtol=0.1, atol=0.1)


def backward(network: UTGRecTokenizerModel, loss: torch.Tensor) -> list[torch.nn.Parameter]:
    gradients(network, loss)
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def test_copies_are_equal(tiny_network, make_batch, tiny_items):
    network, processor = tiny_network
    batch = make_batch(processor, network, tiny_items[:3])
    assert torch.equal(outputs(copy.deepcopy(network), batch).loss, outputs(network, batch).loss)


# configuration


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_levels": 0}, "num_levels must be at least 1, got 0"),
        ({"codebook_structure": "forest"}, "'tree' or 'residual', got 'forest'"),
        ({"shared_representation": True}, "shared_representation needs codebook_structure='residual'"),
        ({"codebook_init": "zeros"}, "'normal' or 'kmeans', got 'zeros'"),
        ({"adapter_init": "zeros"}, "'normal' or 'principal', got 'zeros'"),
        ({"codebook_projection_init": "zeros"}, "'linear' or 'orthogonal', got 'zeros'"),
        ({"root_codebook_size": 0}, "root_codebook_size must be at least 1, got 0"),
        ({"leaf_codebook_size": -1}, "leaf_codebook_size must be at least 1, got -1"),
        ({"codebook_dim": 0}, "codebook_dim"),
        ({"max_text_tokens": 0}, "max_text_tokens"),
        ({"latent_size": 0}, "latent_size"),
        ({"temperature": 0}, "temperature must be positive, got 0"),
        ({"num_levels": "3"}, "num_levels"),
        ({"codebook_dim": 8.0}, "codebook_dim"),
    ],
)
def test_wrong_configurations_are_named(change, message):
    with pytest.raises((StrictDataclassClassValidationError, StrictDataclassFieldValidationError)) as error:
        UTGRecTokenizerConfig(**change)
    assert message in f"{error.value} {error.value.__cause__}"


def test_default_configuration_is_the_papers():
    config = UTGRecTokenizerConfig()
    assert config.backbone_config.model_type == "qwen2_vl"
    assert config.level_sizes == [256, 512, 512] and config.level_offsets == [2, 258, 258]
    assert config.code_token_ids == [config.backbone_vocab_size + level for level in range(3)]
    weights = (
        config.quantization_weight,
        config.image_weight,
        config.alignment_weight,
        config.co_reconstruction_weight,
    )
    assert weights == (200, 3, 0.01, 0.03)
    assert (config.commitment_weight, config.temperature, config.warmup_steps) == (0.25, 0.1, 300)
    residual = UTGRecTokenizerConfig(codebook_structure="residual")
    assert residual.level_offsets == [2, 258, 770]


@pytest.mark.parametrize(("width", "heads"), [(1536, 24), (384, 6), (48, 1), (96, 1), (130, 2), (200, 2), (7, 1)])
def test_decoder_heads_divide_the_width(width, heads):
    assert decoder_heads(width) == heads and width % heads == 0
