"""Semantic IDs made from embeddings of the items: TIGER, LETTER, TIGER-M, RQ-k-means, and that with transitions.

Each function goes from embeddings to the folder of an index-only [`UniversalItemTokenizer`], which UTGRec's
recommender, trainer, trie and evaluation take like any other: only the tokenizer differs. Every level has its own
tokens. Besides the tokenizer's files the folder holds

- `raw_codes.safetensors`: tensor "codes", int32 [items, levels], before collisions were resolved, in the order of
  `item_ids.json` (for what is measured on semantic IDs rather than items);
- `tokenizer_report.json`: method, settings, collisions, usage and perplexity of each level, losses, seconds;
- `network/`: the trained RQ-VAE, if there is one.
"""

import inspect
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from safetensors import safe_open
from transformers import set_seed

from modeling_utgrec import RQVAEConfig, RQVAEModel
from modeling_utgrec.checkpoint_fingerprint import check_file
from modeling_utgrec.checkpoint_safety import SAFELY
from tokenization_items.collision_report import AssignmentReport
from tokenization_items.collisions import Collisions, check_capacity, check_way
from tokenization_items.files import read_json_object, updating_folder, write_json, write_tensors
from tokenization_items.item_embeddings import ContentEmbeddings
from tokenization_items.item_index import ItemIndex
from tokenization_items.network_reference import NetworkReference, network_fingerprint
from tokenization_items.processing_content import EmbeddingProcessor
from tokenization_items.tokenization_items import UniversalItemTokenizer
from trainers.embedding_tokenizer_trainer import (
    EmbeddingRows,
    EmbeddingTokenizerTrainer,
    EmbeddingTokenizerTrainingArguments,
)
from trainers.hub.model_facts import place_name
from trainers.methods.published import ForeignArgument, Published
from trainers.methods.residual_kmeans import linear_network, principal_axes, principal_components, projected, rq_kmeans
from trainers.methods.runs import changed_settings, place_training

RAW_CODES_NAME = "raw_codes.safetensors"
REPORT_NAME = "tokenizer_report.json"
NETWORK_FOLDER = "network"
# HonghuiBao2000/LETTER, RQ-VAE/main.py, as read in 2026.
LETTER_HIDDEN_SIZES = [2048, 1024, 512, 256, 128, 64]
LETTER_EPSILON = 0.003


@dataclass(frozen=True)
class TokenizedItems:
    """
    A catalogue's semantic IDs and where they come from.

    Args:
        tokenizer ([`UniversalItemTokenizer`]): the semantic IDs.
        raw_codes (`np.ndarray` of shape `(items, levels)`): codes before collisions were resolved; rows as the
            index's.
        report (`dict`): what `tokenizer_report.json` holds.
        network ([`RQVAEModel`], *optional*): the trained network.
        reads_embeddings (`bool`, *optional*, defaults to `True`): whether the network reads embeddings as they were
            given, so that the saved tokenizer can add new items by [`ContentEmbeddings`].
    """

    tokenizer: UniversalItemTokenizer
    raw_codes: np.ndarray
    report: dict[str, Any] = field(default_factory=dict)
    network: RQVAEModel | None = None
    reads_embeddings: bool = True

    def level_layout(self) -> dict[str, list[int]]:
        """The arguments of [`UTGRecConfig`] that describe these semantic IDs."""
        return {"level_sizes": self.tokenizer.index.level_sizes}

    def save(self, folder: str | os.PathLike) -> None:
        """Writes the files that the module's description names."""
        folder = Path(folder)
        with updating_folder(folder) as working:
            if self.network is not None:
                self.network.save_pretrained(working / NETWORK_FOLDER)
                if self.reads_embeddings:
                    self.tokenizer.network_reference = NetworkReference(str(working / NETWORK_FOLDER))
            self.tokenizer.save_pretrained(working, include_network=False)
            write_tensors(working / RAW_CODES_NAME, {"codes": self.raw_codes.astype(np.int32)})
            write_json(working / REPORT_NAME, self.report)
        if self.network is not None and self.reads_embeddings:
            self.tokenizer.network_reference = NetworkReference(str((folder / NETWORK_FOLDER).absolute()))


def load_tokenized_items(folder: str | os.PathLike) -> TokenizedItems:
    """What [`TokenizedItems.save`] wrote to a folder."""
    folder = Path(folder)
    network = None
    if (folder / NETWORK_FOLDER).is_dir():
        network = RQVAEModel.from_pretrained(folder / NETWORK_FOLDER, **SAFELY)
    report = read_json_object(folder / REPORT_NAME)
    return TokenizedItems(UniversalItemTokenizer.from_pretrained(folder), load_raw_codes(folder), report, network)


def load_raw_codes(folder: str | os.PathLike) -> np.ndarray:
    """Codes of a saved tokenizer before collisions were resolved, int32 `[items, levels]`, rows as its index's."""
    check_file(Path(folder) / RAW_CODES_NAME)
    with safe_open(Path(folder) / RAW_CODES_NAME, framework="numpy") as file:
        return file.get_tensor("codes")


def tiger_tokenizer(
    embeddings: np.ndarray,
    item_ids: Sequence[str],
    output_dir: str | os.PathLike,
    training: EmbeddingTokenizerTrainingArguments | None = None,
    collisions: Collisions = "digit",
    seed: int = 0,
    allow_collapsed: bool = False,
    **config,
) -> TokenizedItems:
    """
    TIGER (Rajput et al. 2023): RQ-VAE on text embeddings, and a digit that tells items with the same codes apart.

    Args:
        embeddings (`np.ndarray` of shape `(items, E)`): text embeddings, see [`load_embeddings`].
        item_ids (`Sequence[str]`): the items.
        output_dir (`str` or `os.PathLike`): where the tokenizer goes.
        training ([`EmbeddingTokenizerTrainingArguments`], *optional*): by default 1,000 steps.
        collisions (`str`, *optional*, defaults to `"digit"`): how items with the same codes are told apart, see
            [`~UniversalItemTokenizer.add_items`].
        seed (`int`, *optional*, defaults to 0): of weights, batches and k-means.
        allow_collapsed (`bool`, *optional*, defaults to `False`): take codes that nearly all items share.
        config: further arguments of [`RQVAEConfig`].

    Raises:
        CollapsedCodesError: nearly all items share their codes; nothing is saved.
    """
    shared = item_ids, output_dir, training, collisions, seed, allow_collapsed
    return _rqvae_tokenizer("tiger", embeddings, None, *shared, config)


def letter_tokenizer(
    embeddings: np.ndarray,
    collaborative: np.ndarray,
    item_ids: Sequence[str],
    output_dir: str | os.PathLike,
    training: EmbeddingTokenizerTrainingArguments | None = None,
    collisions: Collisions = "least_distance",
    seed: int = 0,
    allow_collapsed: bool = False,
    **config,
) -> TokenizedItems:
    """
    LETTER (Wang et al. 2024): TIGER's RQ-VAE with four levels, collaborative alignment (weight 0.02) and diversity
    regularisation (weight 1e-4); as in its program with an encoder of six hidden layers, and codes of the last level
    that are balanced while it trains. That the program balances those of items that collide afterwards, too, is not
    here: `"least_distance"` also moves them to codes near by, and adds no level. Its ranking-guided loss is the
    recommender's, `UTGRecConfig(loss_temperature=...)`.

    Args:
        embeddings (`np.ndarray` of shape `(items, E)`): text embeddings.
        collaborative (`np.ndarray` of shape `(items, d)`): item embeddings of a recommender that was trained on the
            training interactions only: one that saw the test items would leak them into the semantic IDs.
        item_ids, output_dir, training, collisions, seed, allow_collapsed, config: see [`tiger_tokenizer`].
    """
    own: dict[str, Any] = {"num_levels": 4, "collaborative_weight": 0.02, "diversity_weight": 1e-4}
    own |= {"hidden_sizes": LETTER_HIDDEN_SIZES, "sinkhorn_epsilon": LETTER_EPSILON}
    own["collaborative_dim"] = np.shape(collaborative)[-1]
    shared = item_ids, output_dir, training, collisions, seed, allow_collapsed
    return _rqvae_tokenizer("letter", embeddings, collaborative, *shared, {**own, **config})


def tiger_m_tokenizer(
    text_embeddings: np.ndarray,
    image_embeddings: np.ndarray,
    item_ids: Sequence[str],
    output_dir: str | os.PathLike,
    num_components: int = 128,
    training: EmbeddingTokenizerTrainingArguments | None = None,
    collisions: Collisions = "digit",
    seed: int = 0,
    allow_collapsed: bool = False,
    **config,
) -> TokenizedItems:
    """
    TIGER-M: TIGER on text and image embeddings, each whitened, side by side.

    Args:
        text_embeddings (`np.ndarray` of shape `(items, E)`): text embeddings.
        image_embeddings (`np.ndarray` of shape `(items, F)`): image embeddings; rows of NaN for items without image
            (`load_embeddings(..., allow_missing=True)`), which take the mean of those with one.
        num_components (`int`, *optional*, defaults to 128): principal components that are kept of each.
        item_ids, output_dir, training, collisions, seed, allow_collapsed, config: see [`tiger_tokenizer`].
    """
    parts = [principal_components(part, num_components, whiten=True) for part in (text_embeddings, image_embeddings)]
    both = np.concatenate(parts, axis=1)
    shared = item_ids, output_dir, training, collisions, seed, allow_collapsed
    return _rqvae_tokenizer("tiger-m", both, None, *shared, config)


def rq_kmeans_tokenizer(
    embeddings: np.ndarray,
    item_ids: Sequence[str],
    output_dir: str | os.PathLike,
    num_levels: int = 3,
    codebook_size: int = 256,
    num_components: int | None = 32,
    collisions: Collisions = "digit",
    seed: int = 0,
    allow_collapsed: bool = False,
    method: str = "rq-kmeans",
) -> TokenizedItems:
    """
    RQ-k-means of the embeddings' principal components. For items that come later it is kept as an RQ-VAE whose encoder
    is linear: the projection.

    Args:
        embeddings, item_ids, output_dir, collisions, seed, allow_collapsed: see [`tiger_tokenizer`].
        num_levels (`int`, *optional*, defaults to 3): codes of an item.
        codebook_size (`int`, *optional*, defaults to 256): centroids of each level.
        num_components (`int`, *optional*, defaults to 32, the width of TIGER's codebooks):
            principal components that are quantized; `None` for the embeddings themselves. In hundreds of dimensions
            most residuals are nearer to the mean than to any other centroid, so one code takes them: a quarter of
            the items of two Amazon domains then shared their codes, against a tenth with 32 components.
        method (`str`, *optional*, defaults to `"rq-kmeans"`): name in the report.
    """
    layout = RQVAEConfig(num_levels=num_levels, codebook_size=codebook_size)
    item_ids = _check_items(item_ids, embeddings, layout, collisions)
    started = time.perf_counter()
    points = np.asarray(embeddings, dtype=np.float32)
    mean, projection = np.zeros(points.shape[1]), np.eye(points.shape[1])
    if num_components is not None:
        mean, projection = principal_axes(points, num_components)
        points = projected(points, mean, projection)
    codes, residuals, codebooks = rq_kmeans(points, num_levels, codebook_size, seed=seed)
    network = linear_network(mean, projection, codebooks)
    settings = {"num_components": num_components, "num_levels": num_levels, "codebook_size": codebook_size}
    report = {"method": method, "seed": seed, "settings": settings, "seconds": time.perf_counter() - started}
    index = ItemIndex(layout.level_sizes, layout.level_offsets)
    assignment = index.assign(item_ids, codes, residuals, codebooks, collisions=collisions)
    assignment.check_collapse(layout.level_sizes, allow_collapsed)
    report |= _assignment_facts(assignment, index, collisions)
    tokenizer = UniversalItemTokenizer(index, network_fingerprint(network, EmbeddingProcessor(network.config)))
    reads_embeddings = method == "rq-kmeans"  # not with transitions beside
    return _saved(TokenizedItems(tokenizer, assignment.given_codes, report, network, reads_embeddings), output_dir)


def rq_kmeans_transitions_tokenizer(
    embeddings: np.ndarray,
    transitions: np.ndarray,
    item_ids: Sequence[str],
    output_dir: str | os.PathLike,
    num_components: int | None = 64,
    **config,
) -> TokenizedItems:
    """
    RQ-k-means of text and transitions side by side, of equal weight: items share codes if they are alike in both.

    Args:
        embeddings (`np.ndarray` of shape `(items, E)`): text embeddings; without their mean they are scaled to length
            1.
        transitions (`np.ndarray` of shape `(items, d)`): of the training interactions alone, at length 1 or zero, see
            [`transition_embeddings`].
        item_ids, output_dir, num_components, config: see [`rq_kmeans_tokenizer`].
    """
    if len(transitions) != len(embeddings):
        raise ValueError(f"{len(embeddings)} items with text, but {len(transitions)} with transitions.")
    centred = np.asarray(embeddings, np.float32) - np.mean(embeddings, axis=0, dtype=np.float32)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    both = np.concatenate([centred / np.where(lengths > 0, lengths, 1), transitions], axis=1)
    return rq_kmeans_tokenizer(
        both, item_ids, output_dir, num_components=num_components, method="rq-kmeans-transitions", **config
    )


def given_semantic_ids(
    source: str | os.PathLike, item_ids: Sequence[str], output_dir: str | os.PathLike, revision: str | None = None
) -> TokenizedItems:
    """
    Semantic IDs that an item tokenizer has given already, UTGRec's or RecBase's among them.

    Args:
        source (`str` or `os.PathLike`): folder or Hub id with an item index, as `utgrec finetune`, `pretrain` or
            `tokenize` write it.
        item_ids (`Sequence[str]`): items that it must hold.
        output_dir (`str` or `os.PathLike`): where the index goes.
        revision (`str`, *optional*): branch, tag or commit on the Hub.

    Raises:
        UnknownItemError: if the index lacks items.
        FileNotFoundError, ItemIndexError: if there is no index, or a broken one.
    """
    tokenizer = UniversalItemTokenizer.from_pretrained(source, index_only=True, revision=revision)
    tokenizer.index.rows(item_ids)
    settings = {"semantic_ids": place_name(source, parts=2)} | ({"revision": revision} if revision else {})
    report = {"method": "given", "settings": settings, "collisions": "as given"}
    return _saved(TokenizedItems(tokenizer, tokenizer.index.codes, report), output_dir)


def train_rqvae(
    config: RQVAEConfig,
    embeddings: np.ndarray,
    collaborative: np.ndarray | None,
    training: EmbeddingTokenizerTrainingArguments,
) -> EmbeddingTokenizerTrainer:
    """Trains an RQ-VAE on all items' embeddings; seed and the checkpoint to go on from, if any, are the training's."""
    set_seed(training.seed)
    trainer = EmbeddingTokenizerTrainer(RQVAEModel(config), training, EmbeddingRows(embeddings, collaborative))
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    return trainer


def _rqvae_tokenizer(
    method: str,
    embeddings: np.ndarray,
    collaborative: np.ndarray | None,
    item_ids: Sequence[str],
    output_dir: str | os.PathLike,
    training: EmbeddingTokenizerTrainingArguments | None,
    collisions: Collisions,
    seed: int,
    allow_collapsed: bool,
    config: dict[str, Any],
) -> TokenizedItems:
    network_config = RQVAEConfig(input_dim=np.shape(embeddings)[1], **config)
    item_ids = _check_items(item_ids, embeddings, network_config, collisions)
    started = time.perf_counter()
    training = EmbeddingTokenizerTrainingArguments() if training is None else training
    place_training(training, Path(output_dir) / "training", seed)
    trainer = train_rqvae(network_config, embeddings, collaborative, training)
    network = trainer.model
    assert isinstance(network, RQVAEModel)
    metrics = trainer.evaluate(metric_key_prefix="final")
    tokenizer = UniversalItemTokenizer.from_network(network, EmbeddingProcessor(network.config))
    assignment = tokenizer.add_items(ContentEmbeddings(item_ids, embeddings, name=method), collisions)
    report = {
        "method": method,
        "seed": seed,
        "settings": changed_settings(network.config),
        "steps": trainer.state.global_step,
        "metrics": {name.removeprefix("final_"): value for name, value in metrics.items()},
        "seconds": time.perf_counter() - started,
    }
    assignment.check_collapse(network.config.level_sizes, allow_collapsed)
    report |= _assignment_facts(assignment, tokenizer.index, collisions)
    items = TokenizedItems(tokenizer, assignment.given_codes, report, network, reads_embeddings=method != "tiger-m")
    return _saved(items, output_dir)


def _assignment_facts(assignment: AssignmentReport, index: ItemIndex, collisions: Collisions) -> dict[str, Any]:
    return {**assignment.to_dict(), "collisions": collisions, "level_sizes": index.level_sizes}


def _check_items(
    item_ids: Sequence[str], embeddings: np.ndarray, layout: RQVAEConfig, collisions: Collisions
) -> list[str]:
    """The items, if each has an embedding and there are semantic IDs for all: known before a training."""
    if len(item_ids) != len(embeddings):
        raise ValueError(f"{len(item_ids)} items, but {len(embeddings)} embeddings; give one for each, in order.")
    check_way(collisions)
    if collisions != "digit":
        check_capacity(len(item_ids), 0, layout.level_sizes)
    return list(item_ids)


def _saved(items: TokenizedItems, folder: str | os.PathLike) -> TokenizedItems:
    if PartialState().is_main_process:
        items.save(folder)
    return items


@dataclass
class SemanticIDArguments:
    """An item tokenizer; what is not given is the method's."""

    num_levels: int | None = field(default=None, metadata={"help": "Codes of an item."})
    codebook_size: int | None = field(default=None, metadata={"help": "Codes of each level."})
    codebook_dim: int | None = field(default=None, metadata={"help": "Width of the codebook vectors."})
    hidden_sizes: list[int] | None = field(default=None, metadata={"help": "Widths of the encoder's layers."})
    quantization_weight: float | None = field(default=None, metadata={"help": "Weight of the codebook loss."})
    restart_passes: int | None = field(default=None, metadata={"help": "Steps before an unused code starts anew."})
    collaborative_weight: float | None = field(default=None, metadata={"help": "LETTER's alpha."})
    diversity_weight: float | None = field(default=None, metadata={"help": "LETTER's beta."})
    diversity_clusters: int | None = field(default=None, metadata={"help": "LETTER's clusters of each codebook."})
    sinkhorn_epsilon: float | None = field(
        default=None, metadata={"help": "LETTER's balance of the last level in training; 0: nearest codes."}
    )
    num_components: int | None = field(default=None, metadata={"help": "Principal components, TIGER-M, RQ-k-means."})
    collisions: str | None = field(
        default=None,
        metadata={"help": "How items with the same codes are told apart: 'digit', 'least_distance', 'nearest_first'."},
    )

    def given(self, name: str) -> dict[str, Any]:
        """The values that are given, as arguments of a method of [`SEMANTIC_IDS`].

        Raises:
            ForeignArgument: if the method has not all of them.
        """
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        values = {key: value for key, value in values.items() if value is not None}
        method = SEMANTIC_IDS[name]
        known = set(inspect.signature(method.function).parameters) | set(method.further)
        known |= {each.name for each in fields(RQVAEConfig)} if method.trained else set()
        if foreign := sorted(values.keys() - known):
            raise ForeignArgument(f"{name} has no {', '.join(foreign)}.")
        return values


@dataclass(frozen=True)
class SemanticIDMethod:
    """
    An item tokenizer that can be had by its name.

    Args:
        function (`Callable`): one of this module; it takes the inputs, then the items and the output folder.
        published ([`Published`]): the authors' settings of the tokenizer.
        inputs (`tuple[str, ...]`, *optional*): embeddings that it is made from: of `"text"`, of `"images"`, of the
            training's `"transitions"`, or the `"collaborative"` ones of a recommender.
        trained (`bool`, *optional*, defaults to `True`): whether it has a `training`.
        loss_temperature (`float`, *optional*, defaults to 1.0): of its recommender's loss.
        further (`tuple[str, ...]`, *optional*): arguments that the function passes on.
    """

    function: Callable[..., TokenizedItems]
    published: Published
    inputs: tuple[str, ...] = ("text",)
    trained: bool = True
    loss_temperature: float = 1.0
    further: tuple[str, ...] = ()


_TIGER = Published(
    "Rajput et al. 2023",
    {
        "tokenizer.num_levels": 3,
        "tokenizer.codebook_size": 256,
        "tokenizer.codebook_dim": 32,
        "tokenizer.hidden_sizes": [512, 256, 128],
        "tokenizer.commitment_weight": 0.25,
        "tokenizer.quantization_weight": 1.0,
        "tokenizer.restart_passes": 0,
        "tokenizer.collisions": "digit",
        "tokenizer.optim": "adagrad",
        "tokenizer.learning_rate": 0.4,
        "tokenizer.batch_size": 1024,
        "tokenizer.num_train_epochs": 20000,
    },
)
_LETTER = Published(
    "Wang et al. 2024 and the authors' program",
    {
        "tokenizer.num_levels": 4,
        "tokenizer.codebook_size": 256,
        "tokenizer.codebook_dim": 32,
        "tokenizer.collaborative_weight": 0.02,
        "tokenizer.diversity_weight": 1e-4,
        "tokenizer.diversity_clusters": 10,
        "tokenizer.hidden_sizes": LETTER_HIDDEN_SIZES,
        "tokenizer.sinkhorn_epsilon": LETTER_EPSILON,
        "tokenizer.restart_passes": 0,
        "tokenizer.collisions": "Sinkhorn on the last level",
        "tokenizer.learning_rate": 1e-3,
        "tokenizer.batch_size": 1024,
        "tokenizer.num_train_epochs": 20000,
    },
)
_RQ_KMEANS = Published("TIGER's levels", {"tokenizer.num_levels": 3, "tokenizer.codebook_size": 256})
# What `train_baseline --model` makes a recommender on: a new tokenizer is a function above and a row here.
SEMANTIC_IDS: dict[str, SemanticIDMethod] = {
    "tiger": SemanticIDMethod(tiger_tokenizer, _TIGER),
    "letter": SemanticIDMethod(letter_tokenizer, _LETTER, ("text", "collaborative"), loss_temperature=0.7),
    "tiger-m": SemanticIDMethod(tiger_m_tokenizer, _TIGER, ("text", "images")),
    "rq-kmeans": SemanticIDMethod(rq_kmeans_tokenizer, _RQ_KMEANS, trained=False),
    "rq-kmeans-transitions": SemanticIDMethod(
        rq_kmeans_transitions_tokenizer,
        _RQ_KMEANS,
        ("text", "transitions"),
        trained=False,
        further=("num_levels", "codebook_size", "collisions"),
    ),
}
