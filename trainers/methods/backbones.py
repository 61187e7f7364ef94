"""Backbones and autoencoders to train with: pretrained ones by name or folder, or small ones that need no download.

The small backbone has random weights and a tokenizer trained on the catalogue's own text; in the autoencoder's place
is a fixed transform of the images. So the whole method runs on a laptop without the Hub; a pretrained backbone knows
far more.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    set_seed,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # 5.16's own name asks for torchvision
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.utils import CONFIG_NAME, cached_file, extract_commit_hash

from hub_cards.named import named
from modeling_utgrec.checkpoint_safety import SAFELY
from tokenization_items.files import tokenizer_errors, updating_folder
from tokenization_items.processing_items import IMAGE_END, IMAGE_PAD, IMAGE_START
from trainers.training_data.cosine_encoder import CosineEncoder

if TYPE_CHECKING:
    from diffusers.models import AutoencoderKL

TINY = "tiny-qwen2-vl"
TINY_AUTOENCODER = "tiny"
ATTENTION_DROPOUT = ("attention_dropout", "attention_probs_dropout_prob")  # in configurations of transformers
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", IMAGE_START, IMAGE_END, IMAGE_PAD, "<|video_pad|>"]


def load_backbone(
    name_or_path: str,
    texts: list[str] | None = None,
    image_pixels: int | None = None,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    seed: int = 0,
    attention_dropout: float | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, object | None]:
    """Backbone, its tokenizer and, if it takes images, its image processor.

    Args:
        name_or_path (`str`): a Hub id or folder of a Qwen2-VL-like model or a text encoder, or `"tiny-qwen2-vl"` for a
            small one with random weights.
        texts (`list[str]`, *optional*): the catalogue's texts, on which the small one's tokenizer is trained.
        image_pixels (`int`, *optional*): most pixels of an image that the backbone sees; by default the paper's 1024 *
            28 * 28.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`): of the backbone's weights.
        revision (`str`, *optional*): of the Hub repository.
        seed (`int`, *optional*, defaults to 0): of the small one's weights.
        attention_dropout (`float`, *optional*): of the language model's attention weights; by default what the
            backbone was trained with.

    Raises:
        ValueError: if weights of the backbone are missing, which would be random ones, other ones at each load.
    """
    if name_or_path == TINY:
        set_seed(seed)
        return tiny_backbone(texts or [], image_pixels or 56 * 56)
    config = AutoConfig.from_pretrained(name_or_path, revision=revision, trust_remote_code=False)
    for name in ATTENTION_DROPOUT:
        if attention_dropout is not None and hasattr(config.get_text_config(), name):
            setattr(config.get_text_config(), name, attention_dropout)
    backbone, report = AutoModel.from_pretrained(
        name_or_path, config=config, dtype=dtype, revision=revision, output_loading_info=True, **SAFELY
    )
    lacking = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if lacking:
        raise ValueError(f"{name_or_path}: {len(lacking)} weights of the backbone are missing: {named(lacking)}.")
    tokenizer = load_tokenizer(name_or_path, revision)
    image_processor = None
    if hasattr(config, "vision_config"):
        image_processor = AutoImageProcessor.from_pretrained(name_or_path, revision=revision, trust_remote_code=False)
        most = image_pixels or 1024 * 28 * 28
        image_processor.size = {"shortest_edge": min(128 * 28 * 28, most), "longest_edge": most}
    return backbone, tokenizer, image_processor


def load_tokenizer(name_or_path: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a backbone by Hub id or folder."""
    with tokenizer_errors(name_or_path):
        return AutoTokenizer.from_pretrained(name_or_path, revision=revision, trust_remote_code=False)


def backbone_commit(name_or_path: str, revision: str | None = None) -> str | None:
    """The commit of the Hub repository that a revision stands for now; `None` for a folder."""
    return extract_commit_hash(cached_file(name_or_path, CONFIG_NAME, revision=revision), None)


def tiny_backbone(
    texts: list[str], image_pixels: int, hidden_size: int = 96, num_layers: int = 2, vocab_size: int = 2048
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Qwen2VLImageProcessorPil]:
    """A Qwen2-VL of about a million parameters and a byte-level BPE trained on `texts`."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        ),
    )
    bpe.add_special_tokens(SPECIAL_TOKENS)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=SPECIAL_TOKENS,
    )
    ids = tokenizer.convert_tokens_to_ids(SPECIAL_TOKENS[3:])
    assert isinstance(ids, list)  # one for each token
    image_start, image_end, image_pad, video_pad = ids
    heads = hidden_size // 24
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": hidden_size,
            "intermediate_size": 2 * hidden_size,
            "num_hidden_layers": num_layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "mrope_section": [4, 4, 4], "rope_theta": 1e6},
            # Wider than the usual 0.02: attention and MLPs of random weights then tell inputs apart from the start.
            "initializer_range": 0.1,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "depth": 2,
            "embed_dim": 48,
            "num_heads": 2,
            "hidden_size": hidden_size,
            "mlp_ratio": 2,
            "initializer_range": 0.1,
        },
        image_token_id=image_pad,
        video_token_id=video_pad,
        vision_start_token_id=image_start,
        vision_end_token_id=image_end,
    )
    least = min(image_pixels, 56 * 56)
    image_processor = Qwen2VLImageProcessorPil(size={"shortest_edge": least, "longest_edge": image_pixels})
    backbone = AutoModel.from_config(config)
    # The text decoder's logits are products with the embeddings, which so few channels would keep close to each other:
    # it would learn how often words are and hardly anything of the item.
    with torch.no_grad():
        backbone.get_input_embeddings().weight.mul_(3)
    return backbone, tokenizer, image_processor


def write_tiny_text_encoder(texts: list[str], folder: str | Path, seed: int, hidden_size: int = 128) -> None:
    """Writes a text encoder of one BERT layer with random weights, and a tokenizer trained on `texts`, to a folder.

    The mean of its states is a random projection of the words that a text has, so like texts have like vectors."""
    # Not WordPiece: its trainer numbers the pieces in the order of a hash map, which each process has its own.
    words = Tokenizer(models.BPE())
    words.normalizer = normalizers.BertNormalizer()
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    words.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=8192,
            special_tokens=["[PAD]"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]")
    tokenizer.model_max_length = 256
    set_seed(seed)
    encoder = BertModel(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            intermediate_size=2 * hidden_size,
            num_hidden_layers=1,
            num_attention_heads=4,
            max_position_embeddings=256,
        )
    )
    # Where a word stands is not what tells items apart.
    torch.nn.init.zeros_(encoder.embeddings.position_embeddings.weight)
    with updating_folder(folder) as working:
        encoder.save_pretrained(working)
        tokenizer.save_pretrained(working)


def load_autoencoder(name_or_path: str) -> "AutoencoderKL | CosineEncoder":
    """A frozen autoencoder by Hub id or folder, or for `"tiny"` the encoder that needs no weights."""
    if name_or_path == TINY_AUTOENCODER:
        return CosineEncoder()
    from diffusers.models import AutoencoderKL

    return AutoencoderKL.from_pretrained(name_or_path, use_safetensors=True).requires_grad_(False).eval()
