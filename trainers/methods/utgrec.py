"""The stages of UTGRec, as the examples run them: train an item tokenizer, tokenize, train a recommender."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState
from transformers import (
    EarlyStoppingCallback,
    PreTrainedConfig,
    PreTrainedModel,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer_utils import get_last_checkpoint

from modeling_utgrec import (
    UTGRecConfig,
    UTGRecForConditionalGeneration,
    UTGRecTokenizerConfig,
    UTGRecTokenizerModel,
)
from tokenization_items.catalogue import Catalogue
from tokenization_items.item_index import AssignmentReport
from tokenization_items.processing_items import ItemProcessor
from tokenization_items.tokenization_items import UniversalItemTokenizer
from trainers.data.co_occurrence import CoOccurrenceGraph
from trainers.data.domains import Domain
from trainers.data.interactions import Interactions
from trainers.hub.data_facts import sizes
from trainers.hub_trainer import HubTrainer, hub_checkpoint
from trainers.item_tokenizer_trainer import ItemTokenizerTrainer, ItemTokenizerTrainingArguments
from trainers.methods.backbones import TINY, TINY_AUTOENCODER, backbone_commit, load_autoencoder, load_backbone
from trainers.recommender_trainer import EvaluationData, RecommenderTrainer, RecommenderTrainingArguments
from trainers.training_data.domain_sampling import DomainSampling
from trainers.training_data.image_latents import ImageLatents, encode_images
from trainers.training_data.item_pairs import ItemPairs
from trainers.training_data.next_item_windows import NextItemWindows, join_domains
from trainers.training_data.packed_sequences import PackedSequences


@dataclass
class NetworkArguments:
    """The item tokenizer's network: backbone, codebooks, decoders and the weights of the losses."""

    backbone: str = field(
        default=TINY,
        metadata={"help": "Hub id or folder of a Qwen2-VL-like model or a text encoder, or 'tiny-qwen2-vl'."},
    )
    backbone_revision: str | None = field(default=None, metadata={"help": "Revision of the backbone on the Hub."})
    autoencoder: str | None = field(
        default=TINY_AUTOENCODER, metadata={"help": "Hub id or folder of an AutoencoderKL, 'tiny', or 'none'."}
    )
    image_size: int = field(default=32, metadata={"help": "Side of the images that the autoencoder sees (256)."})
    image_pixels: int | None = field(
        default=None, metadata={"help": "Most pixels of an image that the backbone sees (1024 * 28 * 28)."}
    )
    latent_scale: float | None = field(
        default=None, metadata={"help": "Factor on the latents (0.2325); default: what gives unit variance."}
    )
    lora_r: int = field(default=8, metadata={"help": "Rank of LoRA; 0 trains the whole backbone."})
    lora_alpha: int = field(default=32, metadata={"help": "Scale of LoRA."})
    lora_dropout: float = field(default=0.1, metadata={"help": "Dropout of LoRA."})
    num_levels: int = field(default=3, metadata={"help": "Codes of an identifier."})
    root_codebook_size: int = field(default=256, metadata={"help": "Codes of the first level."})
    leaf_codebook_size: int = field(default=512, metadata={"help": "Codes shared by the further levels."})
    codebook_structure: str = field(
        default="tree", metadata={"help": "'tree', or 'residual' for one codebook per level (ablation)."}
    )
    codebook_init: str | None = field(
        default=None, metadata={"help": "'normal' or 'kmeans'; default: kmeans for the tiny backbone, else normal."}
    )
    codebook_dim: int = field(default=128, metadata={"help": "Width of the codebook vectors."})
    adapter_hidden_size: int = field(default=768, metadata={"help": "Hidden width of the adapter MLP."})
    max_text_tokens: int = field(default=1024, metadata={"help": "Longest item text, in tokens."})
    denoiser_width: int = field(default=1024, metadata={"help": "Width of the diffusion loss' denoiser."})
    quantization_weight: float = field(default=200.0, metadata={"help": "Weight of the codebook loss."})
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
        default=None, metadata={"help": "Evaluations without a better NDCG@10 before the training stops."}
    )

    def architecture(self) -> dict[str, Any]:
        """The arguments of [`UTGRecConfig`] among these."""
        values = dataclasses.asdict(self)
        values.pop("early_stopping_patience")
        return values | {"num_decoder_layers": self.num_layers}


# What the flags `--tokenizer.<flag>` and `--recommender.<flag>` of the examples set, see `trainers.arguments`.
SECTIONS = {
    "tokenizer": (NetworkArguments, ItemTokenizerTrainingArguments),
    "recommender": (RecommenderArguments, RecommenderTrainingArguments),
}


def place_training(training: TrainingArguments, folder: Path, seed: int) -> None:
    """Where a training writes its checkpoints, and its seed.

    Raises:
        ValueError: if it is to be pushed and its repository has no name: the folder's would say nothing.
    """
    if training.push_to_hub and training.hub_model_id is None:
        raise ValueError(f"push_to_hub needs a name for the repository of {folder.name}: give its hub_model_id.")
    training.output_dir = str(folder)
    training.seed = seed
    training.dataloader_pin_memory = training.dataloader_pin_memory and torch.cuda.is_available()


def last_checkpoint(training: TrainingArguments) -> str | None:
    """The latest checkpoint of a training: the folder's, or else the one in the repository that it is pushed to, or
    `None` if it has not written any yet."""
    found = get_last_checkpoint(training.output_dir) if Path(training.output_dir).is_dir() else None
    if found is None and training.push_to_hub:
        try:
            found = hub_checkpoint(training.hub_model_id, training.hub_revision, training.hub_token)
        except ValueError:  # a new repository, or one without checkpoints
            return None
    return found


def data_facts(kind: str, domains: list[Domain], catalogues: Sequence[Catalogue] = ()) -> dict[str, Any]:
    """What the card of a model says of the data that it was trained on; of `catalogues` it read the items alone."""
    rows = [{"Domain": domain.name, **sizes(domain)} for domain in domains]
    rows += [{"Domain": each.name, "Items": len(each), "Users": 0, "Interactions": 0} for each in catalogues]
    return {"name": f"{kind} for {', '.join(row['Domain'] for row in rows)}", "training_data": rows}


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
        autoencoder.to("cuda")
    return encode_images(catalogue, autoencoder, arguments.image_size, arguments.latent_scale)


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
    )
    set_seed(seed)
    config = network_config(arguments, backbone.config, revision)
    if latents is not None:
        config.latent_channels, config.latent_size = latents.channels, latents.size
    network = UTGRecTokenizerModel(config, backbone=backbone)
    instruct = arguments.backbone != TINY
    return network, ItemProcessor.for_model(network.config, tokenizer, image_processor, instruct)


def network_config(
    arguments: NetworkArguments, backbone_config: PreTrainedConfig, revision: str | None = None
) -> UTGRecTokenizerConfig:
    """The network's configuration on a given backbone's, which is that of a revision of its repository."""
    lora = {"r": arguments.lora_r, "lora_alpha": arguments.lora_alpha, "lora_dropout": arguments.lora_dropout}
    positions = getattr(backbone_config.get_text_config(), "max_position_embeddings", arguments.max_text_tokens)
    return UTGRecTokenizerConfig(
        backbone_config=backbone_config,
        backbone_name_or_path=None if arguments.backbone == TINY else arguments.backbone,
        backbone_revision=revision,
        lora_config=lora if arguments.lora_r else None,
        num_levels=arguments.num_levels,
        root_codebook_size=arguments.root_codebook_size,
        leaf_codebook_size=arguments.leaf_codebook_size,
        codebook_structure=arguments.codebook_structure,
        codebook_init=arguments.codebook_init or ("kmeans" if arguments.backbone == TINY else "normal"),
        codebook_dim=arguments.codebook_dim,
        adapter_hidden_size=arguments.adapter_hidden_size,
        max_text_tokens=min(arguments.max_text_tokens, positions),
        denoiser_width=arguments.denoiser_width,
        quantization_weight=arguments.quantization_weight,
        image_weight=arguments.image_weight,
        alignment_weight=arguments.alignment_weight,
        co_reconstruction_weight=arguments.co_reconstruction_weight,
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
        config.backbone_fingerprint = None  # what is pushed holds the backbone: nobody else has the folder
    AcceleratorState._reset_state()  # see train_recommender
    catalogue, graph = joint_catalogue(domains)
    pairs = ItemPairs(catalogue, graph, processor, latents, seed=training.seed)
    trainer = ItemTokenizerTrainer(model=network, args=training, train_dataset=pairs)
    trainer.card_facts |= data_facts("UTGRec item tokenizer", domains)
    trainer.train(resume_from_checkpoint=last_checkpoint(training) if resume else None)
    return trainer


def tokenize(
    tokenizer: UniversalItemTokenizer, catalogue: Catalogue
) -> tuple[UniversalItemTokenizer, AssignmentReport]:
    """A tokenizer with the same network and an index of one domain's items."""
    if torch.cuda.is_available():
        tokenizer.network.to("cuda")
    domain_tokenizer = UniversalItemTokenizer.from_network(
        tokenizer.network, tokenizer.processor, tokenizer.max_history
    )
    report = domain_tokenizer.add_items(catalogue)
    return domain_tokenizer, report


def shared_identifiers(tokenizers: dict[str, UniversalItemTokenizer]) -> int:
    """Items whose identifier an item of another domain has too. Each domain has its own index, so this is no error."""
    codes = np.concatenate([tokenizer.index.codes for tokenizer in tokenizers.values()])
    _, inverse, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    return int((counts[inverse.reshape(-1)] > 1).sum())


def new_recommender(
    arguments: RecommenderArguments, tokenizer: UniversalItemTokenizer, config: UTGRecTokenizerConfig, seed: int
) -> UTGRecForConditionalGeneration:
    """A recommender with random weights for a tokenizer's identifiers."""
    set_seed(seed)
    return UTGRecForConditionalGeneration(
        UTGRecConfig(
            **config.level_layout(),
            max_history=tokenizer.max_history,
            item_tokenizer_fingerprint=tokenizer.fingerprint,
            **arguments.architecture(),
        )
    )


def training_windows(
    config: PreTrainedConfig,
    interactions: Interactions,
    token_table: np.ndarray,
    num_sequences: Sequence[int],
    training: RecommenderTrainingArguments,
) -> NextItemWindows | PackedSequences:
    """What a recommender with this configuration is trained on: whole sequences if it reads in one direction, else
    pairs of a history and its next item.

    Args:
        config: the recommender's.
        interactions, token_table: training part and token ids of all domains, from [`join_domains`].
        num_sequences: sequences of each domain.
        training: gives `max_history` and, for the draw of each epoch, `domain_temperature` and the seed.
    """
    arguments: dict[str, Any] = {"max_history": training.max_history}
    if training.domain_temperature != 1:
        arguments["sampling"] = DomainSampling(num_sequences, training.domain_temperature, training.seed)
    if not config.is_encoder_decoder:
        return PackedSequences(interactions, token_table, with_targets=True, **arguments)
    return (PackedSequences if config.causal_encoder else NextItemWindows)(interactions, token_table, **arguments)


def train_recommender(
    recommender: PreTrainedModel,
    domains: list[Domain],
    tokenizers: dict[str, UniversalItemTokenizer],
    training: RecommenderTrainingArguments,
    early_stopping_patience: int | None = None,
    resume: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    walks: Sequence[Domain] = (),
) -> RecommenderTrainer:
    """Trains a recommender, [`UTGRecForConditionalGeneration`] or [`RecBaseForCausalLM`], in place on the training
    part of all domains' sequences, mixed; every position is a target.

    Validation, if `training.eval_strategy` asks for it, is on each domain's validation items. `walks` are domains with
    interactions that nobody made, see [`trainers.methods.content_walks`]: they are trained on, too.
    """
    # The process' first training fixed its precision; this one may have another (bf16 for the backbone, fp32 here).
    AcceleratorState._reset_state()
    for tokenizer in tokenizers.values():
        tokenizer.check_recommender(recommender)
    parts = []
    for domain in [*domains, *walks]:
        tokens = tokenizers[domain.name].index.encode_batch(domain.catalogue.item_ids)
        parts.append((domain.interactions.training_part(), tokens))
    num_sequences = [interactions.num_users for interactions, _ in parts]
    windows = training_windows(recommender.config, *join_domains(parts), num_sequences, training)
    evaluation = {
        domain.name: EvaluationData(domain.interactions, tokenizers[domain.name].index) for domain in domains
    }
    trainer = RecommenderTrainer(
        model=recommender,
        args=training,
        train_dataset=windows,
        evaluation=evaluation if len(domains) > 1 else next(iter(evaluation.values())),
        callbacks=list(callbacks),
    )
    kind = "UTGRec" if recommender.config.is_encoder_decoder else "RecBase"
    trainer.card_facts |= data_facts(f"{kind} recommender", domains, [domain.catalogue for domain in walks])
    if len(domains) == 1:
        trainer.domain = domains[0].name
    if early_stopping_patience is not None:
        trainer.add_callback(EarlyStoppingCallback(early_stopping_patience))
    trainer.train(resume_from_checkpoint=last_checkpoint(training) if resume else None)
    return trainer


def gathered_weights(trainer: RecommenderTrainer) -> dict[str, torch.Tensor] | None:
    """Weights that are sharded over the processes (ZeRO-3), put together on the main one; else `None`, the model has
    them. Every process calls this."""
    return trainer.accelerator.get_state_dict(trainer.model_wrapped) if is_deepspeed_zero3_enabled() else None


def save_recommender(
    recommender: PreTrainedModel,
    tokenizer: UniversalItemTokenizer | None,
    folder: str | Path,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Saves a recommender, and the index of its items beside it so that recommending needs no network. `weights` are
    those of [`gathered_weights`]."""
    recommender.save_pretrained(folder, state_dict=weights)
    if tokenizer is not None:
        tokenizer.check_recommender(recommender)
        tokenizer.save_pretrained(folder, include_network=False)


def finish_model(
    trainer: HubTrainer, folder: str | Path, facts: dict[str, Any], network: dict[str, str] | None = None
) -> dict[str, str] | None:
    """Writes the card of a model that was saved to a folder, and sends the folder if the training is pushed.

    Args:
        trainer: the model's trainer.
        folder: where the model is.
        facts: for the card, see [`HubTrainer.card_facts`].
        network: where the item tokenizer was sent, for a recommender.

    Returns:
        Where the folder was sent, `None` if it was not.
    """
    trainer.card_facts |= facts
    trainer.save_card(folder)
    if not trainer.args.push_to_hub:
        return None
    commit = trainer.push_folder(folder, network=network)
    return {"name_or_path": trainer.hub_model_id, "revision": commit.oid}
