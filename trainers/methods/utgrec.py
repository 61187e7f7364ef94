"""UTGRec's item tokenizer and recommender: their arguments, how they are made, and the tokenizer's training."""

import logging
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedTokenizerBase, set_seed
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from modeling_utgrec import (
    UTGRecConfig,
    UTGRecForConditionalGeneration,
    UTGRecTokenizerConfig,
    UTGRecTokenizerModel,
)
from tokenization_items.catalogue import Catalogue
from tokenization_items.processing_items import ItemProcessor
from tokenization_items.tokenization_items import UniversalItemTokenizer
from trainers.data.co_occurrence import CoOccurrenceGraph
from trainers.data.domains import Domain
from trainers.data.interactions import Interactions
from trainers.item_tokenizer_trainer import ItemTokenizerTrainer, ItemTokenizerTrainingArguments
from trainers.methods.backbones import TINY, TINY_AUTOENCODER, backbone_commit, load_autoencoder, load_backbone
from trainers.methods.published import Published
from trainers.methods.runs import data_facts, last_checkpoint
from trainers.recommender_trainer import RecommenderTrainingArguments
from trainers.training_data.image_latents import ImageLatents, encode_images
from trainers.training_data.item_pairs import ItemPairs

logger = logging.getLogger(__name__)


class LevelLayout(Protocol):
    """What knows the levels of semantic IDs: the item tokenizer's configuration, or the items that it tokenized."""

    def level_layout(self) -> dict[str, Any]:
        """The arguments of [`UTGRecConfig`] that describe them."""


@dataclass
class NetworkArguments:
    """The item tokenizer's network: backbone, codebooks, decoders and the weights of the losses."""

    backbone: str = field(
        default=TINY,
        metadata={"help": "Hub id or folder of a Qwen2-VL-like model or a text encoder, or 'tiny-qwen2-vl'."},
    )
    backbone_revision: str | None = field(default=None, metadata={"help": "Revision of the backbone on the Hub."})
    autoencoder: str | None = field(
        default=TINY_AUTOENCODER,
        metadata={"help": "Hub id or folder of an AutoencoderKL, 'tiny', or 'none'."},
    )
    image_size: int = field(default=32, metadata={"help": "Side of the images that the autoencoder sees (256)."})
    image_pixels: int | None = field(
        default=None, metadata={"help": "Most pixels of an image that the backbone sees (1024 * 28 * 28)."}
    )
    latent_scale: float | None = field(
        default=None, metadata={"help": "Factor on the latents (0.2325); default: what gives unit variance."}
    )
    sample_latents: bool = field(
        default=False, metadata={"help": "Reconstruct draws from the autoencoder's posterior, in place of its mode."}
    )
    flip_images: bool = field(default=False, metadata={"help": "Reconstruct mirror images in half of the cases."})
    attention_dropout: float = field(
        default=0.0, metadata={"help": "Of the backbone's attention weights; Qwen2-VL was trained without."}
    )
    lora_r: int = field(default=8, metadata={"help": "Rank of LoRA; 0 trains the whole backbone."})
    lora_alpha: int = field(default=32, metadata={"help": "Scale of LoRA."})
    lora_dropout: float = field(default=0.1, metadata={"help": "Dropout of LoRA."})
    num_levels: int = field(default=3, metadata={"help": "Codes of a semantic ID."})
    root_codebook_size: int = field(default=256, metadata={"help": "Codes of the first level."})
    leaf_codebook_size: int = field(default=512, metadata={"help": "Codes shared by the further levels."})
    codebook_structure: str = field(
        default="tree", metadata={"help": "'tree', or 'residual' for one codebook per level (ablation)."}
    )
    codebook_init: str | None = field(
        default=None, metadata={"help": "'normal' or 'kmeans'; default: kmeans for the tiny backbone, else normal."}
    )
    codebook_projection_init: str = field(
        default="linear", metadata={"help": "'linear' or 'orthogonal': how the codebooks' projections start."}
    )
    codebook_centering: bool = field(
        default=False, metadata={"help": "Quantize what items differ from their mean by, or few codes may take all."}
    )
    shared_representation: bool = field(
        default=False,
        metadata={"help": "All levels quantize one representation, each 'residual' codebook what those above left."},
    )
    centre_domains: bool = field(
        default=False,
        metadata={"help": "Read each domain's items without their mean, so that codes need not say the domain."},
    )
    codebook_dim: int = field(default=128, metadata={"help": "Width of the codebook vectors."})
    adapter_hidden_size: int = field(default=768, metadata={"help": "Hidden width of the adapter MLP."})
    adapter_init: str = field(
        default="normal", metadata={"help": "'normal', or 'principal': components of what the adapter reads."}
    )
    adapter_dropout: float = field(default=0.1, metadata={"help": "Dropout of the adapter MLP."})
    max_text_tokens: int = field(
        default=1024, metadata={"help": "Longest item text, in tokens; 0: as long as 95 % of the texts are."}
    )
    image_attends_masks: bool = field(
        default=True,
        metadata={"help": "The image decoder attends to its mask vectors too; false: it cannot look away from codes."},
    )
    denoiser_width: int = field(default=1024, metadata={"help": "Width of the diffusion loss' denoiser."})
    quantization_weight: float = field(default=200.0, metadata={"help": "Weight of the codebook loss."})
    commitment_weight: float = field(
        default=0.25, metadata={"help": "Beta: weight of the items' side in it; much of it, and all items look alike."}
    )
    image_weight: float = field(default=3.0, metadata={"help": "Weight of image against text reconstruction."})
    alignment_weight: float = field(default=0.01, metadata={"help": "Weight of the alignment; 0: ablation."})
    co_reconstruction_weight: float = field(
        default=0.03, metadata={"help": "Weight of the co-occurring item's reconstruction; 0: ablation."}
    )


@dataclass
class RecommenderArguments:
    """The recommender's T5; the defaults are the paper's."""

    d_model: int = field(default=128, metadata={"help": "Width."})
    d_ff: int = field(default=1024, metadata={"help": "Width of the feed-forward layers."})
    d_kv: int = field(default=64, metadata={"help": "Width of a head."})
    num_heads: int = field(default=6, metadata={"help": "Heads."})
    num_layers: int = field(default=4, metadata={"help": "Layers of the encoder, and of the decoder (1 to 6)."})
    dropout_rate: float = field(default=0.1, metadata={"help": "Dropout."})
    causal_encoder: bool = field(
        default=False, metadata={"help": "Read histories in one direction: trains several times as fast."}
    )
    normalize_over: str = field(
        default="vocabulary", metadata={"help": "'vocabulary', or 'items': the codes that exist after a prefix."}
    )
    embedding_std: float = field(
        default=1.0, metadata={"help": "Of new code embeddings; T5's 1.0 learns slowly with AdamW, 0.05 fast."}
    )
    scale_decoder_outputs: bool = field(
        default=True, metadata={"help": "T5's factor d_model^-0.5 before the output embeddings; false learns faster."}
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "Validations without a better NDCG@10 before the training stops."},
    )

    def architecture(self) -> dict[str, Any]:
        """The arguments of [`UTGRecConfig`] among these."""
        values = {name: getattr(self, name) for name in ARCHITECTURE}
        return values | {"num_decoder_layers": self.num_layers}


@dataclass
class FinetuningNetworkTrainingArguments(ItemTokenizerTrainingArguments):
    """[`ItemTokenizerTrainingArguments`] with the paper's defaults for fine-tuning on a new domain (section 3.1.4)."""

    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate."})
    num_train_epochs: float = field(default=20.0, metadata={"help": "Epochs; every item is an anchor once in each."})


@dataclass
class FinetuningRecommenderArguments(RecommenderArguments):
    """[`RecommenderArguments`] of a fine-tuning, which stops early (section 3.1.4, without a patience)."""

    early_stopping_patience: int | None = field(
        default=10,
        metadata={"help": "Validations without a better NDCG@10 before the training stops."},
    )


@dataclass
class FinetuningRecommenderTrainingArguments(RecommenderTrainingArguments):
    """
    [`RecommenderTrainingArguments`] with the paper's defaults for fine-tuning on a new domain (section 3.1.4): every
    epoch is validated and saved, and the best weights are kept.
    """

    learning_rate: float = field(default=3e-3, metadata={"help": "Peak learning rate."})
    num_train_epochs: float = field(default=200.0, metadata={"help": "Passes over all training pairs, at most."})
    eval_strategy: IntervalStrategy | str = field(default="epoch", metadata={"help": "When to validate."})
    save_strategy: SaveStrategy | str = field(default="epoch", metadata={"help": "When to save."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints to keep, beside the best one."})
    load_best_model_at_end: bool = field(
        default=None,  # type: ignore[assignment]
        metadata={"help": "End with the best validated weights; default: where every epoch is validated and saved."},
    )

    def __post_init__(self):
        if self.load_best_model_at_end is None:
            validates = IntervalStrategy(self.eval_strategy) == IntervalStrategy.EPOCH
            saves = SaveStrategy(self.save_strategy) in (SaveStrategy.EPOCH, SaveStrategy.BEST)
            self.load_best_model_at_end = validates and saves
        super().__post_init__()


# What the flags `--tokenizer.<flag>` and `--recommender.<flag>` set, see `trainers.arguments`: of pre-training and of
# training from scratch in the examples, and of `utgrec finetune`.
SECTIONS = {
    "tokenizer": (NetworkArguments, ItemTokenizerTrainingArguments),
    "recommender": (RecommenderArguments, RecommenderTrainingArguments),
}
FINETUNING_SECTIONS = {
    "tokenizer": (NetworkArguments, FinetuningNetworkTrainingArguments),
    "recommender": (FinetuningRecommenderArguments, FinetuningRecommenderTrainingArguments),
}
# The arguments that are the configurations'.
NETWORK = {each.name for each in fields(NetworkArguments)} & {each.name for each in fields(UTGRecTokenizerConfig)}
# Not the intersection: T5Config has settings that are none of its fields, such as scale_decoder_outputs.
ARCHITECTURE = {each.name for each in fields(RecommenderArguments)} - {"early_stopping_patience"}


# The T5 of UTGRec and, with its sizes, of the methods that it is compared with.
PUBLISHED_RECOMMENDER = Published(
    "Zheng et al. 2025 (UTGRec): T5 in TIGER's sizes",
    {
        "recommender.d_model": 128,
        "recommender.d_ff": 1024,
        "recommender.d_kv": 64,
        "recommender.num_heads": 6,
        "recommender.num_layers": 4,
        "recommender.num_decoder_layers": 4,
        "recommender.dropout_rate": 0.1,
        "recommender.causal_encoder": False,
        "recommender.normalize_over": "vocabulary",
        "recommender.embedding_std": 1.0,
        "recommender.scale_decoder_outputs": True,
        "recommender.max_history": 20,
        "recommender.learning_rate": 3e-3,
        "recommender.lr_scheduler_type": "cosine",
        "recommender.batch_size": 1024,
        "recommender.batch_of": "pairs of a history and its next item",
    },
)
PUBLISHED_TOKENIZER = Published(
    "Zheng et al. 2025 (UTGRec), fine-tuning",
    {
        "tokenizer.backbone": "Qwen/Qwen2-VL-2B-Instruct",
        "tokenizer.images": True,
        "tokenizer.pretrained_on_other_domains": True,
        "tokenizer.num_levels": 3,
        "tokenizer.root_codebook_size": 256,
        "tokenizer.leaf_codebook_size": 512,
        "tokenizer.codebook_structure": "tree",
        "tokenizer.codebook_centering": False,
        "tokenizer.adapter_init": "normal",
        "tokenizer.shared_representation": False,
        "tokenizer.centre_domains": False,
        "tokenizer.image_attends_masks": True,
        "tokenizer.codebook_dim": 128,
        "tokenizer.codebook_init": "normal",
        "tokenizer.adapter_hidden_size": 768,
        "tokenizer.max_text_tokens": 1024,
        "tokenizer.lora_r": 8,
        "tokenizer.collisions": "nearest_first",
        "tokenizer.commitment_weight": 0.25,
        "tokenizer.quantization_weight": 200.0,
        "tokenizer.image_weight": 3.0,
        "tokenizer.alignment_weight": 0.01,
        "tokenizer.co_reconstruction_weight": 0.03,
        "tokenizer.temperature": 0.1,
        "tokenizer.learning_rate": 1e-4,
        "tokenizer.codebook_warmup_steps": 300,
        "tokenizer.text_labels": 0,
        "tokenizer.freeze_backbone": False,
        "tokenizer.batch_size": 256,
        "tokenizer.num_train_epochs": 20,
    },
)


def joint_catalogue(domains: list[Domain]) -> tuple[Catalogue, CoOccurrenceGraph]:
    """All domains' items one after the other, and their neighbours in the training part of the sequences."""
    training = Interactions.concatenate([domain.interactions.training_part() for domain in domains])
    return Catalogue.concatenate([domain.catalogue for domain in domains]), CoOccurrenceGraph.from_interactions(
        training
    )


def image_targets(catalogue: Catalogue, arguments: NetworkArguments) -> ImageLatents | None:
    """Latents of the catalogue's images, or `None` without images or autoencoder."""
    if arguments.autoencoder in (None, "none", ""):
        return None
    autoencoder = load_autoencoder(arguments.autoencoder)
    if torch.cuda.is_available():
        autoencoder.to("cuda")  # type: ignore[arg-type]
    return encode_images(
        catalogue,
        autoencoder,
        arguments.image_size,
        arguments.latent_scale,
        sample=arguments.sample_latents,
        flip=arguments.flip_images,
    )


def build_network(
    arguments: NetworkArguments, catalogue: Catalogue, latents: ImageLatents | None, seed: int
) -> tuple[UTGRecTokenizerModel, ItemProcessor]:
    """A network on a loaded backbone, with fresh codebooks and decoders, and its processor."""
    revision = arguments.backbone_revision
    if arguments.backbone != TINY:
        revision = backbone_commit(arguments.backbone, revision) or revision
    backbone, tokenizer, image_processor = load_backbone(
        arguments.backbone,
        texts=catalogue.texts,
        image_pixels=arguments.image_pixels,
        revision=revision,
        seed=seed,
        attention_dropout=arguments.attention_dropout,
    )
    arguments = with_text_length(arguments, tokenizer, catalogue.texts)
    set_seed(seed)
    config = network_config(arguments, backbone.config, revision)
    if latents is not None:
        config.latent_channels, config.latent_size = latents.channels, latents.size
    network = UTGRecTokenizerModel(config, backbone=backbone)
    instruct = arguments.backbone != TINY
    return network, ItemProcessor.for_model(network.config, tokenizer, image_processor, instruct)


def with_text_length(
    arguments: NetworkArguments, tokenizer: PreTrainedTokenizerBase, texts: list[str]
) -> NetworkArguments:
    """The arguments with the length of texts that `max_text_tokens` 0 stands for."""
    if arguments.max_text_tokens != 0:
        return arguments
    return replace(arguments, max_text_tokens=usual_length(tokenizer, texts))


def usual_length(tokenizer: PreTrainedTokenizerBase, texts: list[str], share: float = 0.95) -> int:
    """Tokens that this share of the texts have at most, at least one."""
    if not texts:
        return 1
    lengths = [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    return max(1, int(np.quantile(lengths, share, method="higher")))


def network_config(
    arguments: NetworkArguments, backbone_config: PreTrainedConfig, revision: str | None = None
) -> UTGRecTokenizerConfig:
    """The network's configuration on a given backbone's, which is that of a revision of its repository."""
    lora = {"r": arguments.lora_r, "lora_alpha": arguments.lora_alpha, "lora_dropout": arguments.lora_dropout}
    positions = getattr(backbone_config.get_text_config(), "max_position_embeddings", arguments.max_text_tokens)
    given = {name: getattr(arguments, name) for name in NETWORK}
    given |= {
        "backbone_revision": revision,
        "codebook_init": arguments.codebook_init or ("kmeans" if arguments.backbone == TINY else "normal"),
        "max_text_tokens": min(arguments.max_text_tokens, positions),
    }
    return UTGRecTokenizerConfig(
        backbone_config=backbone_config,
        backbone_name_or_path=None if arguments.backbone == TINY else arguments.backbone,
        lora_config=lora if arguments.lora_r else None,
        **given,
    )


def train_item_tokenizer(
    network: UTGRecTokenizerModel,
    processor: ItemProcessor,
    domains: list[Domain],
    latents: ImageLatents | None,
    training: ItemTokenizerTrainingArguments,
    resume: bool = False,
) -> ItemTokenizerTrainer:
    """Trains a network in place on the items of all domains.

    Raises:
        ValueError: if the latents are of another size than the network's image decoder.
    """
    config = network.config
    if latents is not None and config.latent_channels is not None:
        found, expected = (latents.channels, latents.size), (config.latent_channels, config.latent_size)
        if found != expected:
            raise ValueError(
                f"The images' latents have {found[0]} channels and side {found[1]}, the network's image decoder was "
                f"made for {expected[0]} and {expected[1]}: give the autoencoder and image_size of its training."
            )
    if training.push_to_hub and Path(config.backbone_name_or_path or "").is_dir():
        config.backbone_fingerprint = None  # what is pushed holds the backbone: the folder is local
    catalogue, graph = joint_catalogue(domains)
    sizes = {domain.name: len(domain.catalogue) for domain in domains}
    pairs = ItemPairs(catalogue, graph, processor, latents, training.seed, sizes)
    longest = processor.max_text_tokens
    cut = sum(len(text) >= longest for text in pairs.texts)
    if cut and training.process_index == 0:
        logger.warning(f"item tokenizer: {cut:,} of {len(pairs):,} texts are cut to, or have, {longest} tokens")
    trainer = ItemTokenizerTrainer(model=network, args=training, train_dataset=pairs)
    trainer.card_facts |= data_facts("UTGRec item tokenizer", domains)
    trainer.train(resume_from_checkpoint=last_checkpoint(training) if resume else None)
    return trainer


def new_recommender(
    arguments: RecommenderArguments,
    tokenizer: UniversalItemTokenizer,
    levels: LevelLayout,
    seed: int,
    loss_temperature: float = 1.0,
) -> UTGRecForConditionalGeneration:
    """A recommender with random weights for a tokenizer's semantic IDs, whose levels a [`UTGRecTokenizerConfig`] or
    [`~trainers.methods.semantic_ids.TokenizedItems`] describes."""
    set_seed(seed)
    return UTGRecForConditionalGeneration(
        UTGRecConfig(
            **levels.level_layout(),
            loss_temperature=loss_temperature,
            max_history=tokenizer.max_history,
            item_tokenizer_fingerprint=tokenizer.fingerprint,
            **arguments.architecture(),
        )
    )
