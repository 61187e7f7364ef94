"""UTGRec's network and recommender from their arguments."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from transformers import Qwen2VLConfig

from modeling_utgrec import UTGRecConfig, UTGRecTokenizerModel
from tokenization_items.tokenization_items import UniversalItemTokenizer
from trainers.item_tokenizer_trainer import ItemTokenizerTrainingArguments
from trainers.methods.utgrec import (
    NETWORK,
    NetworkArguments,
    RecommenderArguments,
    build_network,
    image_targets,
    joint_catalogue,
    network_config,
    new_recommender,
    train_item_tokenizer,
    usual_length,
)
from trainers.training_data.image_latents import ImageLatents

SIZES = {"root_codebook_size": 4, "leaf_codebook_size": 4, "codebook_dim": 8, "denoiser_width": 16, "image_size": 16}


def test_joint_catalogue_links_items_of_the_training_part_within_domains(domains):
    catalogue, graph = joint_catalogue(domains)
    assert catalogue.item_ids == domains[0].catalogue.item_ids + domains[1].catalogue.item_ids
    edges = {frozenset(edge) for edge in np.argwhere(graph.adjacency.toarray()).tolist()}
    # Of a: 0 1 2 | 3 5 and 5 | 3 1; of b, whose rows start at 6: 3 4 6 | 7 8, which are its rows 0 1 3.
    assert edges == {frozenset(edge) for edge in [(0, 1), (1, 2), (6, 7), (7, 9)]}


@pytest.mark.parametrize("lora_r", [0, 4])
def test_build_network_follows_the_arguments(domains, lora_r):
    catalogue, _ = joint_catalogue(domains)
    arguments = NetworkArguments(**SIZES, lora_r=lora_r, max_text_tokens=9, quantization_weight=7.0)
    latents = image_targets(catalogue, arguments)
    network, processor = build_network(arguments, catalogue, latents, seed=1)
    config = network.config
    assert (config.latent_channels, config.latent_size) == (latents.channels, latents.size) == (16, 2)
    assert config.level_sizes == [4, 4, 4] and config.quantization_weight == 7 and config.codebook_init == "kmeans"
    assert processor.max_text_tokens == 9 and not processor.instruct
    frozen = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    assert bool(frozen) == bool(lora_r) and (config.lora_config is None) == (lora_r == 0)
    again, _ = build_network(arguments, catalogue, latents, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("dropout", [None, 0.25])
def test_attention_of_a_text_encoder_drops_nothing_unless_told(domains, tiny_bert, tmp_path, dropout):
    for part in tiny_bert[:2]:
        part.save_pretrained(tmp_path)
    given = {} if dropout is None else {"attention_dropout": dropout}
    arguments = NetworkArguments(**SIZES, backbone=str(tmp_path), autoencoder="none", **given)
    network, _ = build_network(arguments, joint_catalogue(domains)[0], None, seed=1)
    config = UTGRecTokenizerModel.config_class.from_dict(network.config.to_dict()).backbone_config
    assert config.attention_probs_dropout_prob == (dropout or 0.0)


def test_texts_as_long_as_most_are(domains, tmp_path, caplog):
    catalogue, _ = joint_catalogue(domains)
    network, processor = build_network(NetworkArguments(**SIZES, max_text_tokens=0), catalogue, None, seed=1)
    lengths = sorted(len(ids) for ids in processor.tokenizer(catalogue.texts, add_special_tokens=False)["input_ids"])
    longest = next(most for most in lengths if sum(each <= most for each in lengths) >= 0.95 * len(lengths))
    assert network.config.max_text_tokens == processor.max_text_tokens == longest > 1
    assert usual_length(processor.tokenizer, []) == usual_length(processor.tokenizer, [""]) == 1

    network, processor = build_network(NetworkArguments(**SIZES, max_text_tokens=2), catalogue, None, seed=1)
    training = ItemTokenizerTrainingArguments(
        str(tmp_path), max_steps=1, codebook_warmup_steps=0, report_to=[], use_cpu=True
    )
    train_item_tokenizer(network, processor, domains, None, training)
    cut = sum(each >= 2 for each in lengths)
    assert f"{cut} of {len(lengths)} texts are cut to, or have, 2 tokens" in caplog.text


def test_every_argument_of_the_network_is_passed_on():
    """A new hyper-parameter is a field of the configuration and one of the arguments, and nothing else."""
    assert {"codebook_dim", "alignment_weight", "denoiser_width"} <= NETWORK
    config = Qwen2VLConfig()
    positions = config.get_text_config().max_position_embeddings
    choices = {
        "backbone_revision",
        "codebook_structure",
        "codebook_init",
        "codebook_projection_init",
        "shared_representation",
        "adapter_init",
    }
    for name in sorted(NETWORK - choices):
        value = getattr(NetworkArguments(), name)
        other = not value if isinstance(value, bool) else value + 1
        built = network_config(replace(NetworkArguments(), **{name: other}), config)
        assert getattr(built, name) == other
    built = network_config(
        NetworkArguments(
            "org/model",
            codebook_structure="residual",
            codebook_projection_init="orthogonal",
            shared_representation=True,
            adapter_init="principal",
            max_text_tokens=positions + 1,
        ),
        config,
        "abc",
    )
    assert built.codebook_projection_init == "orthogonal" and built.shared_representation
    assert built.adapter_init == "principal"
    assert (built.codebook_structure, built.codebook_init, built.backbone_revision) == ("residual", "normal", "abc")
    assert built.max_text_tokens == positions and built.backbone_name_or_path == "org/model"


def test_every_argument_of_the_recommender_is_passed_on():
    other = {"normalize_over": "items", "causal_encoder": True, "scale_decoder_outputs": False, "embedding_std": 0.5}
    other |= {"dropout_rate": 0.25, "d_model": 3, "d_ff": 5, "d_kv": 7, "num_heads": 9, "num_layers": 2}
    names = {each.name for each in fields(RecommenderArguments)} - {"early_stopping_patience"}
    assert names == other.keys()
    config = UTGRecConfig(**RecommenderArguments(**other, early_stopping_patience=4).architecture())
    assert {name: getattr(config, name) for name in names} == other and config.num_decoder_layers == 2
    assert UTGRecConfig(**RecommenderArguments().architecture()).scale_decoder_outputs


@pytest.mark.parametrize("autoencoder", [None, "none", ""])
def test_without_autoencoder_there_is_no_image_decoder(domains, autoencoder):
    arguments = NetworkArguments(**SIZES, autoencoder=autoencoder)
    assert image_targets(domains[0].catalogue, arguments) is None
    network, processor = build_network(arguments, domains[0].catalogue, None, seed=0)
    assert network.image_decoder is None and processor.image_processor is not None


def test_latents_of_another_autoencoder(domains, tmp_path):
    arguments = NetworkArguments(**SIZES)
    network, processor = build_network(
        arguments, domains[0].catalogue, image_targets(domains[0].catalogue, arguments), seed=0
    )
    other = ImageLatents(np.zeros((1, 16, 4, 4), np.float16), np.array([0, -1, -1, -1, -1, -1]))
    training = ItemTokenizerTrainingArguments(str(tmp_path), use_cpu=True)
    with pytest.raises(ValueError, match="16 channels and side 4, .* made for 16 and 2"):
        train_item_tokenizer(network, processor, domains[:1], other, training)


@pytest.mark.parametrize("structure, offsets", [("tree", [2, 9, 9]), ("residual", [2, 9, 18])])
def test_new_recommender_belongs_to_its_tokenizer(make_network, tiny_bert, structure, offsets):
    network, processor = make_network(tiny_bert, codebook_structure=structure)
    tokenizer = UniversalItemTokenizer.from_network(network, processor, max_history=4)
    arguments = RecommenderArguments(d_model=8, d_ff=8, d_kv=4, num_heads=2, num_layers=2)
    recommender = new_recommender(arguments, tokenizer, network.config, seed=0)
    tokenizer.check_recommender(recommender)
    config = recommender.config
    assert config.level_offsets == offsets and config.max_history == 4
    assert (config.num_layers, config.num_decoder_layers) == (2, 2)
