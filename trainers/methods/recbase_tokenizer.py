"""RecBase's unified tokenizer: one network for the items of several domains, and an index for each.

From content embeddings to a folder laid out as `utgrec pretrain` writes UTGRec's: `tokenizer/` with the network
and `tokenizer_report.json`, and `items/<domain>/` with the semantic IDs. A network that is there gives semantic IDs to
the items of a new domain without training.
"""

import math
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from transformers import set_seed

from hub_cards import MAX_NAMED
from modeling_utgrec import RecBaseTokenizerConfig, RecBaseTokenizerModel
from tokenization_items.catalogue import TEXT_FIELDS, Catalogue
from tokenization_items.collision_report import AssignmentReport
from tokenization_items.collisions import CapacityError
from tokenization_items.domain_mean import domain_mean
from tokenization_items.files import updating_folder, write_json
from tokenization_items.item_embeddings import ContentEmbeddings, EmbeddingError, embed_items, load_content
from tokenization_items.network_reference import NetworkReference
from tokenization_items.processing_content import ContentProcessor
from tokenization_items.text_encoders import TextEncoder
from tokenization_items.text_template import TextTemplate
from tokenization_items.tokenization_items import UniversalItemTokenizer
from trainers.embedding_tokenizer_trainer import (
    EmbeddingRows,
    EmbeddingTokenizerTrainer,
    EmbeddingTokenizerTrainingArguments,
)
from trainers.evaluation.codebooks import codebook_health
from trainers.methods.runs import (
    changed_settings,
    last_checkpoint,
    place_training,
    save_tokenizer,
    shared_semantic_ids,
)

REPORT_NAME = "tokenizer_report.json"
TOKENIZER_FOLDER, ITEMS_FOLDER = "tokenizer", "items"


@dataclass
class RecBaseTokenizerTrainingArguments(EmbeddingTokenizerTrainingArguments):
    """
    Arguments of [`EmbeddingTokenizerTrainer`] as RecBase has them (AdamW, learning rate 1e-4, weight decay 1e-4, batch
    2048, 100 epochs), and its curriculum: the next of the levels becomes active every 5 epochs.
    """

    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate."})
    max_steps: int = field(default=-1, metadata={"help": "Optimizer steps; -1: num_train_epochs decides."})
    num_train_epochs: float = field(default=100.0, metadata={"help": "Epochs."})
    per_device_train_batch_size: int = field(default=2048, metadata={"help": "Items per device and step."})
    curriculum_epochs: float = field(
        default=5.0, metadata={"help": "Epochs after which the next level becomes active; 0: all from the start."}
    )


@dataclass(frozen=True)
class RecBaseItems:
    """
    A trained tokenizer, and the semantic IDs of its domains' items.

    Args:
        network ([`RecBaseTokenizerModel`]): the network.
        tokenizers (`dict[str, UniversalItemTokenizer]`): for each domain a tokenizer with the index of its items.
        assignments (`dict[str, AssignmentReport]`): for each domain what was assigned, with the codes before
            collisions were resolved and what was quantized, rows as the index's.
        report (`dict`): what `tokenizer_report.json` holds.
        trainer ([`EmbeddingTokenizerTrainer`], *optional*): of the network, if it was trained here.
    """

    network: RecBaseTokenizerModel
    tokenizers: dict[str, UniversalItemTokenizer]
    assignments: dict[str, AssignmentReport]
    report: dict[str, Any]
    trainer: EmbeddingTokenizerTrainer | None = None

    @property
    def raw_codes(self) -> dict[str, np.ndarray]:
        """For each domain the codes before collisions were resolved, int64 `[items, levels]`, rows as the index's."""
        return {name: assignment.given_codes for name, assignment in self.assignments.items()}

    def __str__(self) -> str:
        report = self.report
        lines = [f"{report['num_items']:,} items, {report['collision_rate']:.1%} share their codes with another item"]
        for name, what in (("without_text", "have no text"), ("identical_content", "have another item's content")):
            found = report[name]
            if found["items"]:
                lines.append(f"{found['items']:,} {what}, so only the index tells them apart: {found['first']}")
        return "; ".join(lines)

    def save(self, folder: str | os.PathLike) -> None:
        """Writes `tokenizer/` and `items/<domain>/`."""
        folder = Path(folder)
        any_domain = next(iter(self.tokenizers.values()))
        assert any_domain.processor is not None
        bare = UniversalItemTokenizer.from_network(self.network, any_domain.processor, any_domain.max_history)
        bare.text_fields = any_domain.text_fields
        with updating_folder(folder / TOKENIZER_FOLDER) as working:
            bare.save_pretrained(working)
            write_json(working / REPORT_NAME, self.report)
        bare.network_reference = NetworkReference(str((folder / TOKENIZER_FOLDER).absolute()))
        for name, tokenizer in self.tokenizers.items():
            tokenizer.network_reference = bare.network_reference
            save_tokenizer(tokenizer, folder / ITEMS_FOLDER / name, include_network=False)


def recbase_tokenizer(
    domains: Mapping[str, ContentEmbeddings | tuple],
    output_dir: str | os.PathLike,
    training: RecBaseTokenizerTrainingArguments | None = None,
    seed: int = 0,
    resume: bool = False,
    max_history: int = 20,
    text_fields: tuple[str, ...] = TEXT_FIELDS,
    templates: Mapping[str, TextTemplate] | None = None,
    allow_collapsed: bool = False,
    **config,
) -> RecBaseItems:
    """
    Trains one tokenizer on the items of several domains (Zhou et al. 2025, unified item tokenizer) and gives the items
    of each domain semantic IDs of their own.

    Args:
        domains (`Mapping[str, ContentEmbeddings]`): for each domain its items, see [`load_content`]; a pair of item
            ids and embeddings `(items, E)` will do.
        output_dir (`str` or `os.PathLike`): where tokenizer, semantic IDs and checkpoints go.
        training ([`RecBaseTokenizerTrainingArguments`], *optional*): by default RecBase's.
        seed (`int`, *optional*, defaults to 0): of weights, batches and k-means.
        resume (`bool`, *optional*, defaults to `False`): goes on from the last checkpoint.
        max_history (`int`, *optional*, defaults to 20): of the tokenizers, items that a recommender will read.
        text_fields (`tuple[str, ...]`, *optional*, defaults to `TEXT_FIELDS`): fields that the texts were put together
            from, as those of new items will be.
        templates (`Mapping[str, TextTemplate]`, *optional*): for each domain what put them together, likewise; by
            default that of the network.
        allow_collapsed (`bool`, *optional*, defaults to `False`): take codes that nearly all items of a domain share.
        config: further arguments of [`RecBaseTokenizerConfig`].

    Returns:
        [`RecBaseItems`]. The report has for all domains together `collision_rate` (before collisions were resolved),
        `used` and `perplexity` of each level, `entropy_pairs`, `entropy_triples`, `shared_identifiers` (items whose
        semantic ID an item of another domain has too), `identical_content` (items with the very embedding of another
        item: no network tells them apart, the index does) and `without_text`; under `domains` those of each alone; and
        under `metrics` the losses.

    Raises:
        EmbeddingError: for embeddings that are not finite, zero, of several widths, or by several encoders.
        CapacityError: if a domain has more items than there are semantic IDs.
        CollapsedCodesError: nearly all items of a domain share their codes; nothing is saved.
        ValueError: for domains without items, or of one item with `centre_domains`, or fewer items than codes of a
            level.
    """
    contents = {name: ContentEmbeddings(*content)._replace(name=name) for name, content in domains.items()}
    encoder = check_domains(contents)
    inputs = {name: np.asarray(content.embeddings, dtype=np.float32) for name, content in contents.items()}
    if config.get("centre_domains"):
        inputs = {name: values - domain_mean(values, name) for name, values in inputs.items()}
    embeddings = np.concatenate(list(inputs.values()))
    training = RecBaseTokenizerTrainingArguments() if training is None else training
    values = {"input_dim": embeddings.shape[1], "curriculum_passes": curriculum_passes(training, len(embeddings))}
    if encoder is not None:
        values |= {f"text_encoder_{key}": encoder[key] for key in ("fingerprint", "settings")}
        values |= {"text_encoder": encoder["name"], "text_encoder_revision": encoder.get("revision")}
    network_config = RecBaseTokenizerConfig(**values | config)
    check_room(network_config, {name: len(content.item_ids) for name, content in contents.items()})
    place_training(training, Path(output_dir) / "checkpoints" / TOKENIZER_FOLDER, seed)

    started = time.perf_counter()
    set_seed(seed)
    sizes = {name: len(content.item_ids) for name, content in contents.items()}
    trainer = EmbeddingTokenizerTrainer(
        RecBaseTokenizerModel(network_config), training, EmbeddingRows(embeddings, domains=sizes)
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(training) if resume else None)
    metrics = trainer.evaluate(metric_key_prefix="final")
    network = trainer.model
    assert isinstance(network, RecBaseTokenizerModel)
    report = {
        "method": "recbase",
        "seed": seed,
        "settings": changed_settings(network.config),
        "steps": trainer.state.global_step,
        "seconds": round(time.perf_counter() - started, 1),
        "metrics": {name.removeprefix("final_"): value for name, value in metrics.items()},
    }
    processor = ContentProcessor(network.config)
    tokenizers, assignments, reports = {}, {}, {}
    for name, content in contents.items():
        tokenizers[name] = UniversalItemTokenizer.from_network(network, processor, max_history)
        tokenizers[name].text_fields = text_fields
        tokenizers[name].template = (templates or {}).get(name)
        assignment = tokenizers[name].add_items(content, keep_residuals=True)
        assignment.check_collapse(network_config.level_sizes, allow_collapsed)
        assignments[name] = assignment
        reports[name] = assignment.to_dict() | content_report({name: content})
    report |= codes_report(np.concatenate([each.given_codes for each in assignments.values()]), network)
    report |= content_report(contents) | {"shared_identifiers": shared_semantic_ids(tokenizers), "domains": reports}
    items = RecBaseItems(network, tokenizers, assignments, report, trainer)
    if PartialState().is_main_process:
        items.save(output_dir)
    PartialState().wait_for_everyone()
    return items


def recbase_tokenizer_of_catalogues(
    catalogues: Sequence[Catalogue],
    encoder: TextEncoder,
    output_dir: str | os.PathLike,
    embeddings_dir: str | os.PathLike | None = None,
    **arguments,
) -> RecBaseItems:
    """
    [`recbase_tokenizer`] from items: embeds the catalogues first, unless that was done before.

    Args:
        catalogues (`Sequence[Catalogue]`): the domains, with texts by a [`TextTemplate`].
        encoder ([`TextEncoder`]): the text encoder.
        output_dir (`str` or `os.PathLike`): where all goes.
        embeddings_dir (`str` or `os.PathLike`, *optional*): where the embeddings go, a folder for each domain; by
            default `embeddings` in the output folder.
        arguments: further arguments of [`recbase_tokenizer`].
    """
    folder = Path(output_dir) / "embeddings" if embeddings_dir is None else Path(embeddings_dir)
    for catalogue in catalogues:
        if catalogue.template is None:
            raise ValueError(f"{catalogue.name}: read the catalogue with a template, so that all domains share it.")
    with PartialState().main_process_first():  # the others find it done
        for catalogue in catalogues:
            embed_items(catalogue, encoder, folder / catalogue.name)
    domains = {catalogue.name: load_content(folder / catalogue.name) for catalogue in catalogues}
    templates = {catalogue.name: catalogue.template for catalogue in catalogues if catalogue.template is not None}
    fields = catalogues[0].text_fields
    return recbase_tokenizer(domains, output_dir, text_fields=fields, templates=templates, **arguments)


def codes_report(codes: np.ndarray, network: RecBaseTokenizerModel) -> dict[str, Any]:
    """What [`codebook_health`] says of codes `[items, levels]`, with a list for the levels."""
    health = codebook_health(torch.from_numpy(codes), network.config.level_sizes)
    levels = range(network.config.num_levels)
    lists = {name: [health.pop(f"{name}_{level}") for level in levels] for name in ("used", "perplexity")}
    return {"num_items": len(codes), **health, **lists}


def content_report(domains: Mapping[str, ContentEmbeddings]) -> dict[str, Any]:
    """Items that no network tells apart: those with the embedding of another item, and those without text; their
    number, and the first ten as "domain/item"."""
    named = [f"{name}/{item_id}" for name, content in domains.items() for item_id in content.item_ids]
    keys = [row.tobytes() for content in domains.values() for row in np.ascontiguousarray(content.embeddings)]
    counts = Counter(keys)
    identical = [item for item, key in zip(named, keys, strict=True) if counts[key] > 1]
    empty = [f"{name}/{item_id}" for name, content in domains.items() for item_id in content.without_text]
    return {
        name: {"items": len(items), "first": items[:MAX_NAMED]}
        for name, items in (("identical_content", identical), ("without_text", empty))
    }


def check_domains(domains: Mapping[str, ContentEmbeddings]) -> dict[str, Any] | None:
    """The text encoder of all domains, `None` if it is not known for all; raises as [`recbase_tokenizer`]."""
    if not domains:
        raise ValueError("Give at least one domain.")
    widths, encoders = {}, {}
    for name, content in domains.items():
        content.check()
        if not len(content.item_ids):
            raise ValueError(f"{name}: the domain has no items.")
        widths[name] = np.shape(content.embeddings)[1]
        if content.encoder is not None:
            encoders[name] = content.encoder
    if len(set(widths.values())) > 1:
        raise EmbeddingError(f"One tokenizer reads embeddings of one width, and these have {widths}")
    if not encoders:
        return None
    first, encoder = next(iter(encoders.items()))
    for name, other in encoders.items():
        if (other["fingerprint"], other["settings"]) != (encoder["fingerprint"], encoder["settings"]):
            raise EmbeddingError(
                f"One tokenizer reads embeddings of one encoder; {first} has those of {encoder}, {name} of {other}"
            )
    return encoder if len(encoders) == len(domains) else None


def check_room(config: RecBaseTokenizerConfig, sizes: Mapping[str, int]) -> None:
    """Raises unless the levels have room for each domain's items, and k-means points for its centroids."""
    capacity = math.prod(config.level_sizes)
    full = {name: size for name, size in sizes.items() if size > capacity}
    if full:
        raise CapacityError(
            f"{config.num_levels} levels of {config.codebook_size} codes make {capacity} semantic IDs, too few for "
            f"the items of {full}: raise num_levels or codebook_size."
        )
    if sum(sizes.values()) < config.codebook_size:
        raise ValueError(
            f"{sum(sizes.values())} items are fewer than the {config.codebook_size} codes of a level: lower "
            "codebook_size."
        )


def curriculum_passes(training: RecBaseTokenizerTrainingArguments, num_items: int) -> int:
    """Forward passes of each process after which the next level becomes active."""
    batch = training.per_device_train_batch_size * max(1, training.n_gpu) * training.world_size
    return round(training.curriculum_epochs * math.ceil(num_items / batch))
