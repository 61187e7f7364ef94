"""The configuration of the paper's scale: its numbers, and networks of its sizes, built without memory for them."""

import json
from dataclasses import dataclass, field

import pytest
import torch
from transformers import Qwen2VLConfig

from modeling_utgrec import UTGRecTokenizerModel
from tokenization_items import ItemIndex, UniversalItemTokenizer
from trainers.arguments import parse_sections
from trainers.methods.utgrec import FINETUNING_SECTIONS, SECTIONS, network_config, new_recommender

GPUS = 16
# Qwen2-VL-2B: width, key and value width, feed-forward width, layers, vocabulary.
WIDTH, KEY_WIDTH, FEED_FORWARD, LAYERS, VOCABULARY = 1536, 256, 8960, 28, 151936
# KL-16 on 256 pixels: 16 channels, 16 x 16 positions.
CHANNELS, SIDE = 16, 16


@dataclass
class Main:
    seed: int = field(default=0, metadata={"help": "Seed."})
    text_fields: list[str] = field(default_factory=list, metadata={"help": "Fields."})


def parse(name=None, sections=SECTIONS, argv=()):
    # On a machine without GPU, bf16 is only accepted for the CPU.
    argv = [*argv, "--tokenizer.use_cpu", "--recommender.use_cpu"]
    return parse_sections(Main, sections, "", argv if name is None else ["--config", name, *argv])


def read(*arguments):
    return parse(*arguments)[1:]


@pytest.fixture(scope="module")
def paper():
    return read("paper.yaml")


@pytest.fixture(scope="module")
def backbone_config():
    return Qwen2VLConfig(
        text_config={
            "hidden_size": WIDTH,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "intermediate_size": FEED_FORWARD,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
        },
        vision_config={"depth": 32, "embed_dim": 1280, "num_heads": 16, "hidden_size": WIDTH, "mlp_ratio": 4},
    )


@pytest.fixture(scope="module")
def network(paper, backbone_config):
    config = network_config(paper[0], backbone_config)
    config.latent_channels, config.latent_size = CHANNELS, SIDE
    with torch.device("meta"):
        return UTGRecTokenizerModel(config)


def test_the_papers_numbers(paper):
    network, training, _, recommender = paper
    assert (network.quantization_weight, network.image_weight) == (200, 3)
    assert (network.alignment_weight, network.co_reconstruction_weight) == (0.01, 0.03)
    assert (network.image_size, network.latent_scale) == (256, 0.2325)
    assert network.sample_latents and network.flip_images
    assert (training.learning_rate, training.num_train_epochs) == (3e-4, 3)
    assert GPUS * training.per_device_train_batch_size * training.gradient_accumulation_steps == 256
    assert training.bf16 and training.gradient_checkpointing and training.codebook_warmup_steps == 300
    assert training.gradient_checkpointing_kwargs == {"use_reentrant": False}
    assert (recommender.learning_rate, recommender.num_train_epochs, recommender.max_history) == (5e-3, 50, 20)
    assert GPUS * recommender.per_device_train_batch_size * recommender.gradient_accumulation_steps == 1024
    for arguments in (training, recommender):
        assert (arguments.lr_scheduler_type, arguments.warmup_steps) == ("cosine", 0.03)
        assert (arguments.weight_decay, arguments.max_grad_norm) == (0.01, 1.0)
        assert "adamw" in arguments.optim


def test_network_configuration(network):
    config = network.config
    assert (config.level_sizes, config.level_offsets) == ([256, 512, 512], [2, 258, 258])
    assert config.code_token_ids == [VOCABULARY, VOCABULARY + 1, VOCABULARY + 2]
    assert (config.temperature, config.commitment_weight, config.warmup_steps) == (0.1, 0.25, 300)
    assert (config.diffusion_steps, config.diffusion_repeats, config.max_text_tokens) == (1000, 4, 1024)
    assert config.lora_config == {"r": 8, "lora_alpha": 32, "lora_dropout": 0.1}
    assert json.loads(config.to_json_string())["codebook_init"] == "normal"


def test_network_shapes(network):
    shapes = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
    assert shapes["quantizer.root.codes"] == (256, 128) and shapes["quantizer.leaf.codes"] == (512, 128)
    assert shapes["adapter.0.weight"] == (768, WIDTH) and shapes["adapter.3.weight"] == (128, 768)
    assert shapes["expand.weight"] == (WIDTH, 128)
    assert shapes["text_decoder.positions.weight"] == (1024, WIDTH)
    assert shapes["image_decoder.positions.weight"] == (SIDE**2, WIDTH)
    assert tuple(network.get_input_embeddings().code_tokens.shape) == (3, WIDTH)
    assert tuple(network.get_input_embeddings().weight.shape) == (VOCABULARY, WIDTH)
    assert all(parameter.device.type == "meta" for parameter in network.parameters())


def lora_parameters(rank):
    sizes = [(WIDTH, WIDTH)] * 2 + [(WIDTH, KEY_WIDTH)] * 2 + [(WIDTH, FEED_FORWARD)] * 3
    return LAYERS * sum(rank * (inputs + outputs) for inputs, outputs in sizes)


def decoder_parameters(positions):
    attention = 4 * (WIDTH * WIDTH + WIDTH)
    feed_forward = WIDTH * 4 * WIDTH + 4 * WIDTH + 4 * WIDTH * WIDTH + WIDTH
    mask, levels, norms = WIDTH, 3 * WIDTH, 3 * 2 * WIDTH
    return attention + feed_forward + mask + levels + norms + positions * WIDTH


def linear(inputs, outputs):
    return inputs * outputs + outputs


def denoiser_parameters(width, depth):
    block = 2 * width + 2 * linear(width, width) + linear(width, 3 * width)
    around = linear(256, width) + linear(width, width) + linear(WIDTH, width) + linear(CHANNELS, width)
    return around + depth * block + linear(width, 2 * width) + linear(width, CHANNELS)


def test_trained_parameters(network):
    expected = {
        "backbone": lora_parameters(8) + 3 * WIDTH,
        "adapter": linear(WIDTH, 768) + linear(768, 128),
        "quantizer": (256 + 512) * 128 + 2 * 128 * 128,
        "expand": linear(128, WIDTH),
        "text_decoder": decoder_parameters(1024),
        "image_decoder": decoder_parameters(SIDE**2) + denoiser_parameters(1024, 3),
    }
    found = dict.fromkeys(expected, 0)
    for name, parameter in network.named_parameters():
        found[name.split(".")[0]] += parameter.numel() * parameter.requires_grad
    assert found == expected
    # About 9 million of LoRA on two billion frozen weights, of which the vision tower has a third.
    frozen = sum(parameter.numel() for parameter in network.parameters() if not parameter.requires_grad)
    assert 2.1e9 < frozen < 2.3e9 and 9.2e6 < lora_parameters(8) < 9.3e6
    vision = [p for name, p in network.named_parameters() if name.startswith("backbone.visual")]
    assert not any(p.requires_grad for p in vision) and 6e8 < sum(p.numel() for p in vision) < 7e8


def test_recommender(paper, network):
    index = ItemIndex(network.config.level_sizes, network.config.level_offsets)
    tokenizer = UniversalItemTokenizer(index, "fingerprint")
    with torch.device("meta"):
        recommender = new_recommender(paper[2], tokenizer, network.config, seed=0)
    tokenizer.check_recommender(recommender)
    config = recommender.config
    assert (config.vocab_size, config.max_history) == (2 + 256 + 512, 20)
    assert (config.d_model, config.d_ff, config.num_heads, config.d_kv, config.dropout_rate) == (128, 1024, 6, 64, 0.1)
    assert (config.num_layers, config.num_decoder_layers) == (4, 4)
    attention, feed_forward, norm = 4 * 128 * 6 * 64, 2 * 128 * 1024, 128
    encoder = 4 * (attention + feed_forward + 2 * norm) + norm + 32 * 6
    decoder = 4 * (2 * attention + feed_forward + 3 * norm) + norm + 32 * 6
    assert sum(parameter.numel() for parameter in recommender.parameters()) == 770 * 128 + encoder + decoder


def test_small_configuration_parses():
    network, training, recommender, _ = read("small.yaml")
    assert network.backbone == "tiny-qwen2-vl" and training.num_train_epochs > 0 and recommender.d_model > 0


@pytest.mark.parametrize("name", [None, "paper_finetune"])
def test_the_papers_numbers_of_fine_tuning(name):
    _, tokenizer, network, recommender = read(name, FINETUNING_SECTIONS)
    assert (tokenizer.learning_rate, tokenizer.num_train_epochs) == (1e-4, 20)
    assert (recommender.learning_rate, recommender.num_beams, network.early_stopping_patience) == (3e-3, 50, 10)
    assert (recommender.eval_strategy, recommender.save_strategy) == ("epoch", "epoch")
    assert (recommender.load_best_model_at_end, recommender.save_total_limit) == (True, 1)
    assert (recommender.metric_for_best_model, recommender.greater_is_better) == ("ndcg@10", True)
    for arguments in (tokenizer, recommender):
        assert (arguments.lr_scheduler_type, arguments.warmup_steps) == ("cosine", 0.03)
        assert (arguments.weight_decay, arguments.max_grad_norm) == (0.01, 1.0)


def test_fine_tuning_keeps_the_network_of_pretraining(paper):
    finetuning = read("paper_finetune", FINETUNING_SECTIONS)
    assert finetuning[0] == paper[0] and finetuning[2].architecture() == paper[2].architecture()
    assert finetuning[1].per_device_train_batch_size == paper[1].per_device_train_batch_size


def test_pretraining_keeps_its_own_defaults():
    _, tokenizer, network, recommender = read()
    assert (tokenizer.learning_rate, tokenizer.num_train_epochs) == (3e-4, 3)
    assert (recommender.learning_rate, recommender.num_train_epochs, recommender.eval_strategy) == (5e-3, 50, "no")
    assert (network.early_stopping_patience, recommender.load_best_model_at_end) == (None, False)


@pytest.mark.parametrize("sections", [SECTIONS, FINETUNING_SECTIONS], ids=["pretrain", "finetune"])
@pytest.mark.parametrize(("name", "best"), [("small", False), ("text_encoder", True)])
def test_configurations_of_both_commands(name, best, sections):
    _, tokenizer, _, recommender = read(name, sections)
    assert (tokenizer.save_strategy, tokenizer.learning_rate) == ("no", 2e-3 if name == "small" else 1e-3)
    assert recommender.load_best_model_at_end == best == (recommender.eval_strategy == "epoch")


@pytest.mark.parametrize(
    ("flags", "best"),
    [
        (["save_strategy", "no"], False),
        (["eval_strategy", "no"], False),
        (["eval_strategy", "steps"], False),
        (["save_strategy", "best"], True),
        (["load_best_model_at_end", "false"], False),
    ],
)
def test_best_weights_follow_from_validations_and_saves(flags, best):
    argv = [f"--recommender.{flags[0]}", flags[1]]
    assert read(None, FINETUNING_SECTIONS, argv)[3].load_best_model_at_end is best


@pytest.mark.parametrize("name", ["paper", "paper_finetune"])
def test_the_papers_item_text(name):
    assert parse(name, FINETUNING_SECTIONS)[0].text_fields == ["title", "features", "categories"]
