"""Fixtures that several rooms share: a tiny catalogue, and tiny backbones and networks with random weights."""

import copy
import os
from collections.abc import Callable

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, set_seed

from modeling_utgrec import UTGRecTokenizerConfig, UTGRecTokenizerModel
from tokenization_items.processing_items import ItemProcessor
from trainers.backbones import tiny_backbone

BERT_SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TINY_NETWORK = {
    "root_codebook_size": 7,
    "leaf_codebook_size": 9,
    "codebook_dim": 8,
    "adapter_hidden_size": 16,
    "adapter_dropout": 0.0,
    "decoder_dropout": 0.0,
    "warmup_steps": 0,
    "max_text_tokens": 24,
    "latent_channels": 4,
    "latent_size": 2,
    "denoiser_width": 16,
    "denoiser_depth": 2,
    "diffusion_steps": 50,
    "diffusion_repeats": 2,
}
LORA = {"r": 2, "lora_alpha": 4, "lora_dropout": 0.0}


@pytest.fixture(scope="session")
def tiny_items() -> list[dict]:
    """Twelve items as dicts with `item_id`, `title`, `text` and `image`. The images differ in size, every third item
    has none, and item 4 has an image but no text."""
    rng = np.random.default_rng(0)
    words = "red blue steel oak guitar string amp pedal drum reed violin bow case strap stand cable".split()
    items = []
    for row in range(12):
        picked = [words[i] for i in rng.integers(len(words), size=2 + row)]
        height, width = 40 + 16 * (row % 4), 40 + 24 * (row % 3)
        pixels = rng.integers(0, 256, size=(height, width, 3), dtype=np.uint8)
        items.append(
            {
                "item_id": f"item-{row}",
                "title": " ".join(picked[:2]),
                "text": "" if row == 4 else " ".join(picked),
                "image": None if row % 3 == 2 else Image.fromarray(pixels),
            }
        )
    return items


@pytest.fixture(scope="session")
def tiny_qwen2_vl(tiny_items):
    """Backbone, tokenizer and image processor of a Qwen2-VL of two layers."""
    set_seed(0)
    texts = [item["text"] for item in tiny_items]
    backbone, tokenizer, image_processor = tiny_backbone(texts, image_pixels=112 * 112, hidden_size=48, vocab_size=320)
    return backbone.eval(), tokenizer, image_processor


@pytest.fixture(scope="session")
def tiny_bert(tiny_items):
    """Backbone, tokenizer and no image processor: a BERT of two layers that reads 128 tokens."""
    pieces = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer()
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=BERT_SPECIAL_TOKENS, show_progress=False)
    pieces.train_from_iterator([item["text"] for item in tiny_items], trainer)
    ends = [(token, pieces.token_to_id(token)) for token in ("[SEP]", "[CLS]")]
    pieces.post_processor = processors.BertProcessing(*ends)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=128,
    )
    set_seed(0)
    return BertModel(config).eval(), tokenizer, None


@pytest.fixture(scope="session")
def make_network() -> Callable[..., tuple[UTGRecTokenizerModel, ItemProcessor]]:
    """Builds a tiny network, in evaluation mode, and its processor from (backbone, tokenizer, image processor), which
    stay as they are. `lora=False` for a backbone that trains as a whole; further arguments go to the configuration."""

    def make(parts, lora: bool = True, seed: int = 0, **config):
        backbone, tokenizer, image_processor = parts
        set_seed(seed)
        backbone = copy.deepcopy(backbone)
        config = UTGRecTokenizerConfig(
            backbone_config=backbone.config, lora_config=dict(LORA) if lora else None, **{**TINY_NETWORK, **config}
        )
        network = UTGRecTokenizerModel(config, backbone=backbone).eval()
        return network, ItemProcessor.for_model(network.config, tokenizer, image_processor, instruct=False)

    return make


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., dict[str, torch.Tensor]]:
    """Builds the network's inputs for items (`labels=False`: the encoder's only), with random latents for the items
    with an image; every item is an anchor and the next one its positive."""

    def make(processor: ItemProcessor, network: UTGRecTokenizerModel, items: list[dict], labels: bool = True):
        texts = processor.encode_texts([item["text"] for item in items])
        images = None
        if processor.image_processor is not None:
            images = [item["image"] and processor.encode_image(item["image"]) for item in items]
        batch = processor.collate(texts, images)
        if not labels:
            return batch
        config = network.config
        rows = torch.arange(len(items))
        batch |= {"text_labels": processor.text_labels(texts), "anchor_rows": rows, "positive_rows": rows.roll(-1)}
        if config.latent_channels is not None:
            shape = (len(items), config.latent_channels, config.latent_size, config.latent_size)
            batch["image_latents"] = torch.randn(shape, generator=torch.Generator().manual_seed(1))
            batch["has_image"] = torch.tensor([item["image"] is not None for item in items])
        return batch

    return make


@pytest.fixture(scope="session")
def tiny_network(make_network, tiny_qwen2_vl) -> tuple[UTGRecTokenizerModel, ItemProcessor]:
    """A tiny network on Qwen2-VL with LoRA, and its processor. Shared: don't change it."""
    return make_network(tiny_qwen2_vl)
