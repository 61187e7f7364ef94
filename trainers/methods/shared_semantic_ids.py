"""Semantic IDs that several domains share: an item tokenizer on the embeddings of all their items (TIGER's, LETTER's,
RQ-k-means), an index for each domain, and semantic IDs by that tokenizer for a domain that it has not seen.

Laid out as `utgrec pretrain` leaves it: `tokenizer/` with the network, `items/<domain>/` with the semantic IDs. Items
of a domain that get the same codes are told apart by the least distance, so that all domains have the same levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

from tokenization_items.catalogue import Catalogue
from tokenization_items.collisions import Collisions
from tokenization_items.files import write_json
from tokenization_items.item_embeddings import ContentEmbeddings, save_embeddings
from tokenization_items.processing_content import EmbeddingProcessor
from tokenization_items.tokenization_items import UniversalItemTokenizer
from trainers.data.domains import Domain
from trainers.data.interactions import Interactions
from trainers.embedding_tokenizer_trainer import EmbeddingTokenizerTrainingArguments
from trainers.methods.baselines import ItemEmbeddings, make_semantic_ids
from trainers.methods.item_level_pretraining import without_mean
from trainers.methods.item_tables import Content
from trainers.methods.runs import save_tokenizer
from trainers.methods.semantic_ids import REPORT_NAME, TokenizedItems
from trainers.sequential_trainer import SequentialTrainingArguments

COLLISIONS: Collisions = "least_distance"
PATIENCE = 10  # validations without a better NDCG@10 before LETTER's SASRec stops
VALIDATION_USERS = 1500  # of all domains, that it is validated on
SHARED = ("rq-kmeans", "tiger", "letter")  # of SEMANTIC_IDS, those that read the texts of any catalogue


def shared_semantic_ids(
    method: str,
    domains: Sequence[Domain],
    content: Mapping[str, Content],
    output: Path,
    training: EmbeddingTokenizerTrainingArguments | None = None,
    seed: int = 0,
    resume: bool = False,
    centre_domains: bool = False,
    collaborative_training: SequentialTrainingArguments | None = None,
    **config: Any,
) -> dict[str, UniversalItemTokenizer]:
    """
    Makes one item tokenizer of several domains, and semantic IDs of each domain's items.

    Args:
        method (`str`): of [`SHARED`].
        domains (`Sequence[Domain]`): their items, and for LETTER their interactions.
        content (`Mapping[str, Content]`): embeddings of each domain's texts, rows as its items, of one encoder.
        output (`Path`): where all goes.
        training, seed, resume, config: as [`make_semantic_ids`].
        centre_domains (`bool`, *optional*, defaults to `False`): read each domain's embeddings without their mean.
        collaborative_training (*optional*): of LETTER's SASRec, see [`ItemEmbeddings`].

    Returns:
        For each domain a tokenizer with the index of its items.

    Raises:
        ValueError: another method, or content of different encoders.
        CollapsedCodesError: nearly all items share their codes.
    """
    if method not in SHARED:
        raise ValueError(f"{method}: semantic IDs that domains share are made by one of {', '.join(SHARED)}.")
    whole = Content.concatenate({domain.name: content[domain.name] for domain in domains})
    vectors = [content[domain.name].vectors for domain in domains]
    joint = joint_domain(domains)
    embeddings = output / "embeddings" / "joint"
    given = np.concatenate([without_mean(part) for part in vectors]) if centre_domains else whole.vectors
    state = PartialState()
    if state.is_main_process:
        save_embeddings(embeddings, joint.interactions.item_ids, given)
    state.wait_for_everyone()
    inputs = ItemEmbeddings(
        joint,
        output,
        text_folder=str(embeddings),
        collaborative_training=collaborative_training,
        patience=PATIENCE,
        resume=resume,
    )
    folder = output / "joint-tokenizer"
    items = make_semantic_ids(method, inputs, folder, training, seed, resume, collisions=COLLISIONS, **config)
    network = items.network
    assert network is not None
    network.config.centre_domains = centre_domains
    bare = UniversalItemTokenizer.from_network(network, EmbeddingProcessor(network.config))
    if state.is_main_process:
        save_tokenizer(bare, output / "tokenizer")
        write_json(output / "tokenizer" / REPORT_NAME, items.report)
    state.wait_for_everyone()
    tokenizers = {}
    for domain, part in zip(domains, vectors, strict=True):
        folder = output / "items" / domain.name
        tokenizers[domain.name] = semantic_ids_of_domain(output, domain.interactions.item_ids, part, folder).tokenizer
    return tokenizers


def collaborative_training(output: str | Path, seed: int, **values: Any) -> SequentialTrainingArguments:
    """The training of LETTER's SASRec, which keeps the epoch with the best validation; `values` are further arguments,
    or others."""
    epochs: dict[str, Any] = {"eval_strategy": "epoch", "save_strategy": "epoch", "save_total_limit": 1}
    epochs |= {"load_best_model_at_end": True, "max_eval_users": VALIDATION_USERS, "report_to": []}
    return SequentialTrainingArguments(str(output), seed=seed, **{**epochs, **values})


def semantic_ids_of_domain(
    pretrained: str | Path, item_ids: Sequence[str], embeddings: np.ndarray, output: str | Path
) -> TokenizedItems:
    """
    Semantic IDs of a domain's items by the tokenizer of [`shared_semantic_ids`], whether it has seen them or not.

    Args:
        pretrained (`str` or `Path`): its output folder.
        item_ids (`Sequence[str]`): the items.
        embeddings (`np.ndarray` of shape `(items, E)`): of the same encoder as the tokenizer's, as they are.
        output (`str` or `Path`): where the index goes.

    Raises:
        EncoderMismatchError: embeddings of another width.
    """
    source = Path(pretrained) / "tokenizer"
    there = UniversalItemTokenizer.from_pretrained(source)
    assert there.processor is not None
    tokenizer = UniversalItemTokenizer.from_network(there.network, there.processor)
    tokenizer.network_reference = there.network_reference
    content = ContentEmbeddings(list(item_ids), embeddings, name=Path(output).name)
    assignment = tokenizer.add_items(content, COLLISIONS)
    report = {"method": "shared", "settings": {"tokenizer": source.parent.name}, **assignment.to_dict()}
    report |= {"collisions": COLLISIONS, "level_sizes": tokenizer.index.level_sizes}
    if PartialState().is_main_process:
        save_tokenizer(tokenizer, output, include_network=False)
    PartialState().wait_for_everyone()
    return TokenizedItems(tokenizer, assignment.given_codes, report, reads_embeddings=False)


def joint_domain(domains: Sequence[Domain]) -> Domain:
    """All domains as one; items are named "domain/item"."""
    item_ids = [f"{domain.name}/{item_id}" for domain in domains for item_id in domain.interactions.item_ids]
    interactions = Interactions.concatenate([domain.interactions for domain in domains])
    catalogue = Catalogue.concatenate([domain.catalogue for domain in domains])
    return Domain(catalogue.name, replace(catalogue, item_ids=item_ids), replace(interactions, item_ids=item_ids))
