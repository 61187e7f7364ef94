"""Fixtures that several rooms share: a Hub on this machine, a tiny catalogue, and tiny backbones and networks with
random weights."""

# ruff: noqa: E402 - where the Hub is must be said before huggingface_hub is imported

import copy
import importlib.util
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# huggingface_hub reads where the Hub is when it is imported. No test sees another Hub than this machine's own, or the
# one that UTGREC_TEST_HUB names (see the README), nor the caches of the user who runs the tests.
_home = tempfile.TemporaryDirectory(prefix="utgrec-tests-", ignore_cleanup_errors=True)
os.environ |= {"HF_HOME": _home.name, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
for _name in ("HF_HUB_CACHE", "HF_MODULES_CACHE", "HF_DATASETS_CACHE", "TRANSFORMERS_OFFLINE"):
    os.environ.pop(_name, None)
if "UTGREC_TEST_HUB" in os.environ:
    _server = None
    os.environ["HF_ENDPOINT"] = os.environ["UTGREC_TEST_HUB"]
else:
    _specification = importlib.util.spec_from_file_location("hub_server", Path(__file__).with_name("hub_server.py"))
    hub_server = importlib.util.module_from_spec(_specification)
    _specification.loader.exec_module(hub_server)
    _server = hub_server.HubServer().__enter__()
    os.environ |= {"HF_ENDPOINT": _server.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": f"hf_{hub_server.OWNER}"}

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, constants
from hypothesis import settings
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    set_seed,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

# the same examples in every run: a property that fails for you fails for everyone
settings.register_profile("deterministic", derandomize=True, deadline=None)
settings.load_profile("deterministic")


from modeling_utgrec import UTGRecTokenizerConfig, UTGRecTokenizerModel
from tokenization_items.processing_items import ItemProcessor
from trainers.methods.backbones import tiny_backbone

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


@dataclass
class Hub:
    """Where the tests push and pull: `server` is the stand-in, None on another Hub."""

    url: str
    namespace: str
    server: Any
    new_repo: Callable[[str], str]
    """The id of a repository that is not there yet; it is deleted after the test."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    assert constants.ENDPOINT == os.environ["HF_ENDPOINT"], "huggingface_hub was imported before tests/conftest.py"
    api, made = HfApi(), []

    def new_repo(name: str) -> str:
        made.append(f"{namespace}/utgrec-test-{uuid.uuid4().hex[:8]}-{name}")
        return made[-1]

    namespace = api.whoami()["name"]
    yield Hub(constants.ENDPOINT, namespace, _server, new_repo)
    if _server is not None:
        _server.heal()
    for repo_id in made:
        api.delete_repo(repo_id, missing_ok=True)


@pytest.fixture
def hub_server(hub) -> Any:
    """The stand-in of the Hub, for what only it can do: cut connections, gate repositories."""
    if hub.server is None:
        pytest.skip("needs the stand-in of the Hub")
    return hub.server


@pytest.fixture(scope="session")
def run_two_processes() -> Callable[..., None]:
    """Calls `run_worker` of a test file with these arguments, as text, in two processes (see two_processes.py)."""

    def run(file: str, *arguments: str | Path) -> None:
        root = Path(__file__).parents[1]
        done = subprocess.run(
            [sys.executable, Path(__file__).with_name("two_processes.py"), file, *arguments],
            env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
            cwd=root,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr[-3000:]

    return run


@pytest.fixture(scope="session")
def float32_tolerance() -> Callable[..., dict[str, float]]:
    """Builds `atol` and `rtol` for two computations of the same numbers in float32, such as one in parts and one as a
    whole. Processors, numbers of threads and shapes differ in the order of their sums, and each of the `depth` layers
    on the way (a product with its norm or softmax) adds to the difference. Sixteen units in the last place for each is
    three times and more what is seen; they are units of `scale`, the largest number that was summed, because what
    cancels keeps the error of its parts."""

    def tolerance(depth: int = 1, scale: float | torch.Tensor = 1.0) -> dict[str, float]:
        scale = scale.detach().abs().max().item() if isinstance(scale, torch.Tensor) else scale
        bound = 16 * depth * torch.finfo(torch.float32).eps
        return {"atol": bound * scale, "rtol": bound}

    return tolerance


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
    # Not WordPieceTrainer: it numbers the pieces in the order of a hash map, which each process has its own.
    text = " ".join(item["text"] for item in tiny_items).lower()
    words, letters = set(text.split()), set(text) - {" "}
    known = [*BERT_SPECIAL_TOKENS, *sorted(words | letters), *sorted(f"##{letter}" for letter in letters)]
    pieces = Tokenizer(models.WordPiece({piece: number for number, piece in enumerate(known)}, unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer()
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
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


LANGUAGE_MODELS = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2},
    "llama": {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    },
}


@pytest.fixture(scope="session")
def make_language_model() -> Callable[..., tuple[PreTrainedModel, PreTrainedTokenizerFast]]:
    """Builds a tiny causal language model that reads `limit` tokens, and its tokenizer with a token for each byte:
    texts begin with a token of their own and, if `closed`, end with one."""

    def make(kind: str = "gpt2", closed: bool = False, limit: int = 256):
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {token: row for row, token in enumerate(["<s>", "</s>", *alphabet])}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>" if closed else "<s> $A", special_tokens=[("<s>", 0), ("</s>", 1)]
        )
        sizes = {"vocab_size": len(vocabulary), "max_position_embeddings": limit, "bos_token_id": 0, "eos_token_id": 1}
        set_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **LANGUAGE_MODELS[kind])).eval()
        with torch.no_grad():  # likelihoods that differ
            for weight in model.parameters():
                weight.mul_(4)
        return model, PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")

    return make


def successor(parts, model_type: str):
    """A tiny Qwen2.5-VL or Qwen3-VL with the tokenizer of the tiny Qwen2-VL."""
    backbone, tokenizer, image_processor = parts
    config = backbone.config
    tokens = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    fields = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    fields += ("num_key_value_heads", "rope_parameters", "pad_token_id", "bos_token_id", "eos_token_id")
    text = {name: getattr(config.text_config, name) for name in fields}
    vision = {"hidden_size": 48, "num_heads": 2, "intermediate_size": 48, "out_hidden_size": 48}
    if model_type == "qwen2_5_vl":
        vision |= {"depth": 2, "fullatt_block_indexes": [1], "window_size": 56}
    else:
        text["head_dim"] = 24
        vision |= {"depth": 3, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64}
        image_processor = Qwen2VLImageProcessorPil(size=dict(image_processor.size), patch_size=16)
    config = AutoConfig.for_model(
        model_type, text_config=text, vision_config=vision, **{name: getattr(config, name) for name in tokens}
    )
    set_seed(0)
    return AutoModel.from_config(config).eval(), tokenizer, image_processor


@pytest.fixture(scope="session")
def backbones(tiny_qwen2_vl, tiny_bert) -> dict:
    """Backbone, tokenizer and image processor of each kind."""
    return {
        "qwen2_vl": tiny_qwen2_vl,
        "qwen2_5_vl": successor(tiny_qwen2_vl, "qwen2_5_vl"),
        "qwen3_vl": successor(tiny_qwen2_vl, "qwen3_vl"),
        "bert": tiny_bert,
    }


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
