"""Backbones: the small ones made from the data, and pretrained ones of a folder as the Hub lays them out."""

import pytest
import torch
from diffusers.models import AutoencoderKL
from transformers import AutoTokenizer

from tokenization_items.processing_items import IMAGE_END, IMAGE_PAD, IMAGE_START
from trainers.methods.backbones import (
    SPECIAL_TOKENS,
    TINY,
    load_autoencoder,
    load_backbone,
    tiny_backbone,
    write_tiny_text_encoder,
)
from trainers.training_data.cosine_encoder import CosineEncoder

TEXTS = ["red guitar strap", "blue steel drum", "guitar stand. {braces} <|image_pad|>"]


@pytest.fixture(scope="module")
def tiny():
    return load_backbone(TINY, texts=TEXTS, seed=3)


def assert_same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys()
    for name, weight in a.items():
        assert torch.equal(weight, b[name]), name


def test_tiny_backbone_is_a_qwen2_vl_that_fits_its_tokenizer(tiny):
    backbone, tokenizer, image_processor = tiny
    config = backbone.config
    assert config.model_type == "qwen2_vl" and config.get_text_config().vocab_size == len(tokenizer)
    assert config.image_token_id == tokenizer.convert_tokens_to_ids(IMAGE_PAD)
    assert config.vision_start_token_id == tokenizer.convert_tokens_to_ids(IMAGE_START)
    assert config.vision_end_token_id == tokenizer.convert_tokens_to_ids(IMAGE_END)
    assert config.vision_config.hidden_size == config.get_text_config().hidden_size
    assert image_processor.patch_size == config.vision_config.patch_size
    for text in TEXTS + ["Ünïcode ≠ \n 漢字"]:
        assert tokenizer.decode(tokenizer(text, split_special_tokens=True)["input_ids"]) == text
    for token in SPECIAL_TOKENS:
        assert len(tokenizer(token)["input_ids"]) == 1


def test_tiny_backbone_depends_on_texts_and_seed_alone(tiny):
    torch.manual_seed(11)
    again = load_backbone(TINY, texts=TEXTS, seed=3)
    assert_same_weights(tiny[0], again[0])
    assert tiny[1].get_vocab() == again[1].get_vocab()
    other = load_backbone(TINY, texts=TEXTS, seed=4)[0].state_dict()
    assert not torch.equal(
        tiny[0].state_dict()["language_model.embed_tokens.weight"], other["language_model.embed_tokens.weight"]
    )


def test_image_pixels_limit_what_the_backbone_sees():
    image = torch.zeros(3, 400, 300, dtype=torch.uint8)
    for pixels in (56 * 56, 112 * 112):
        _, _, image_processor = load_backbone(TINY, texts=TEXTS, image_pixels=pixels)
        grid = image_processor(images=[image], return_tensors="pt")["image_grid_thw"][0]
        assert grid.prod() * image_processor.patch_size**2 <= pixels
        assert grid.prod() * image_processor.patch_size**2 > pixels / 3


def test_backbone_of_a_folder(tmp_path):
    backbone, tokenizer, image_processor = tiny_backbone(TEXTS, 56 * 56, hidden_size=48, vocab_size=300)
    for part in (backbone, tokenizer, image_processor):
        part.save_pretrained(tmp_path)
    loaded, loaded_tokenizer, loaded_processor = load_backbone(str(tmp_path), image_pixels=80 * 80)
    assert_same_weights(backbone, loaded)
    assert loaded.dtype == torch.float32
    assert loaded_tokenizer(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]
    size = dict(loaded_processor.size)
    assert (size["shortest_edge"], size["longest_edge"]) == (80 * 80, 80 * 80)
    papers = dict(load_backbone(str(tmp_path))[2].size)
    assert (papers["shortest_edge"], papers["longest_edge"]) == (128 * 28 * 28, 1024 * 28 * 28)
    assert load_backbone(str(tmp_path), dtype=torch.bfloat16)[0].dtype == torch.bfloat16


def test_text_encoder_of_a_folder(tiny_bert, tmp_path):
    backbone, tokenizer, _ = tiny_bert
    backbone.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, loaded_tokenizer, image_processor = load_backbone(str(tmp_path))
    assert image_processor is None
    assert_same_weights(backbone, loaded)
    assert loaded_tokenizer(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]


def test_dropout_of_attention_weights(tiny_bert, tmp_path):
    tiny_bert[0].save_pretrained(tmp_path)
    tiny_bert[1].save_pretrained(tmp_path)
    own = tiny_bert[0].config.attention_probs_dropout_prob
    assert own > 0
    for given, wanted in ((None, own), (0.0, 0.0), (0.25, 0.25)):
        backbone, _, _ = load_backbone(str(tmp_path), attention_dropout=given)
        assert backbone.config.attention_probs_dropout_prob == wanted
        assert backbone.encoder.layer[0].attention.self.dropout.p == wanted


def test_autoencoder_is_frozen_and_loads_from_a_folder(tmp_path):
    assert isinstance(load_autoencoder("tiny"), CosineEncoder)
    autoencoder = AutoencoderKL(block_out_channels=(4,), latent_channels=2, norm_num_groups=2, layers_per_block=1)
    autoencoder.save_pretrained(tmp_path)
    loaded = load_autoencoder(str(tmp_path))
    assert_same_weights(autoencoder, loaded)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        load_backbone(str(tmp_path / "nowhere"))


def test_words_of_a_tiny_backbone_are_far_enough_apart_for_a_decoder(tiny):
    """Logits are products of layer-normalised states with the embeddings: a state that is a word's direction tells it
    from the others."""
    embeddings = tiny[0].get_input_embeddings().weight
    states = torch.nn.functional.layer_norm(embeddings, embeddings.shape[1:])
    probabilities = (states @ embeddings.T).softmax(-1).diagonal()
    assert probabilities.median() > 0.99


def test_tiny_text_encoder_depends_on_texts_and_seed_alone(tmp_path):
    """Down to the numbers of its words, which a tokenizer's trainer may take from a hash map's order."""
    for name in ("a", "b"):
        write_tiny_text_encoder(TEXTS, tmp_path / name, seed=3)
    for name in ("tokenizer.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert AutoTokenizer.from_pretrained(tmp_path / "a").tokenize("Red drum") == ["Ġred", "Ġdrum"]
