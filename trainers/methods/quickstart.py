"""A recommender of a domain in about a minute: semantic IDs, a memory chosen on validation, a network if asked for.

The parts are those of the other methods, with settings that a minute has time for:

- semantic IDs by RQ-k-means of the texts' embeddings, TF-IDF unless there is an encoder; of items whose texts say
  nothing, by what follows what;
- transitions in closed form up to [`MOST_INVERTED`] items, above that decayed counts, which take seconds;
- λ, w and κ, the trend and, where items have brands, their weight, chosen on [`MOST_CASES`] validation cases at
  equal distances; of texts some weight, or what was never bought would never be recommended;
- with `minutes` an item-level recommender, and how its search mixes the memory in chosen on [`MIXTURE_CASES`].
  Without, a network of random weights stands in its place and g is 1: what is recommended is the memory's alone.

Then the choices stay, and the memory is built anew of all interactions.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeling_utgrec import ItemLevelForCausalLM
from modeling_utgrec.generation_mixin import ItemRecommendation
from tokenization_items.catalogue import Catalogue
from tokenization_items.item_memory import StoredMemory
from tokenization_items.item_provenance import ItemProvenance, content_digests
from tokenization_items.processing_content import EmbeddingProcessor
from tokenization_items.text_encoders import TextEncoder
from tokenization_items.text_statistics import TF_IDF, FittedTextStatistics
from tokenization_items.tokenization_items import UniversalItemTokenizer
from trainers.data.domains import Domain
from trainers.data.interactions import Interactions
from trainers.data.item_brands import item_brands
from trainers.evaluation.comparison import compare
from trainers.hub.model_facts import place_name
from trainers.methods.item_level import ItemLevelArguments, ItemLevelTrainingArguments, new_item_level
from trainers.methods.memory import add_interactions, build_memory, rebuild_memory
from trainers.methods.memory_selection import choose_memory_alone, judged_users, walk_forward
from trainers.methods.mixture_selection import TEMPERATURES, choose_memory
from trainers.methods.runs import place_training, train_recommender
from trainers.methods.semantic_ids import rq_kmeans_tokenizer
from trainers.methods.transition_embeddings import transition_embeddings
from trainers.rankers import Ranker
from trainers.rankers.generative import GenerativeRanker
from trainers.rankers.item_transitions import ItemTransitions
from trainers.rankers.linear import LinearRanker, LinearSettings, check_training
from trainers.rankers.linear_selection import (
    CONTENT_WEIGHTS,
    CRITERION,
    REPEAT_WEIGHTS,
    LinearSelection,
    select_settings,
)
from trainers.rankers.popularity import Popularity
from trainers.runtime.progress import Progress

MOST_INVERTED = 5_000  # items; the closed form of twice as many takes eight times as long, and there are two λ
MOST_CASES = 4_000  # validation cases that settings are chosen by, and rankers judged
MIXTURE_CASES = 1_000  # of a network, which is asked by a beam search
# Counts are of another size than a closed form, by a factor that depends on the shop: lighter texts to choose from.
LIGHT_TEXTS = ((0.0003, 0.0), (0.001, 0.0), (0.003, 0.0), (0.01, 0.0), (0.001, 10.0), (0.003, 10.0), (0.003, 30.0))
CODES = 256  # of a level, TIGER's
ITEMS_PER_CODE = 4  # at least, of small catalogues
STAND_IN_WIDTH = 8  # of the network of random weights where none is trained
BATCH = 128  # users of a beam search


@dataclass
class Quickstart:
    """
    What a quick start has made.

    Args:
        model ([`ItemRecommendation`]): the network.
        tokenizer ([`UniversalItemTokenizer`]): items, titles, semantic IDs; and, where texts tell items apart, the
            network with its encoder of texts, for new items.
        stored ([`StoredMemory`]): of all interactions, in the index's order.
        exclude_seen (`bool`): whether bought items are seldom bought again: their weight, as chosen on validation, is
            below 0.
        rows (`list[dict]`): results on validation: what was made first, then what needs no training; empty where the
            data has no validation case.
        facts (`dict`): how it was made, in plain values.
    """

    model: ItemRecommendation
    tokenizer: UniversalItemTokenizer
    stored: StoredMemory
    exclude_seen: bool
    rows: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def quickstart(
    domain: Domain,
    folder: Path,
    text_encoder: str = TF_IDF,
    minutes: float = 0.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Quickstart:
    """
    Makes a recommender of a domain, see the module.

    Args:
        domain ([`Domain`]): items, of which some may have no text or no interaction, and interactions.
        folder (`Path`): for intermediate files.
        text_encoder (`str`, *optional*, defaults to `"tf-idf"`): or Hub id or folder of a text encoder.
        minutes (`float`, *optional*, defaults to 0.0): training of the item-level recommender; 0: none.
        seed (`int`, *optional*, defaults to 0): of clusters, weights and training.
        progress ([`Progress`], *optional*): is told what happens.

    Raises:
        ValueError: fewer than two items, or no user with two interactions: nothing follows anything.
    """
    progress = Progress() if progress is None else progress
    interactions, num_items = domain.interactions, domain.interactions.num_items
    if num_items < 2 or not (interactions.lengths > 1).any():
        raise ValueError(
            f"{domain.name} has {num_items} items, and no user with two interactions or more: there is nothing to "
            "learn from what follows what."
        )
    name = "TF-IDF" if text_encoder == TF_IDF else place_name(text_encoder)
    with progress.step("texts", f"reading the texts of {num_items:,} items by {name}"):
        content, encoder = content_of(domain, text_encoder)
    with progress.step("semantic IDs", f"giving {num_items:,} items their semantic IDs by RQ-k-means"):
        tokenizer = semantic_ids(domain, content, encoder, folder / "tokenizer", seed)
    linear = LinearSettings(transitions="inverse" if num_items <= MOST_INVERTED else "counts")
    if linear.way(num_items) == "counts":
        progress.line(
            f"with more than {MOST_INVERTED:,} items transitions are counted: their closed form, a little better, "
            f"would take {_inverse_minutes(num_items)}"
        )
    if not len(interactions.cases("validation")):
        progress.line("no user has three interactions: nothing can be chosen or measured on validation")
        check_training(interactions)
        stored = _alone(build_memory(interactions, content, linear))
        facts = _facts(domain, stored, name, progress, 0.0, None)
        return Quickstart(stand_in(tokenizer, seed), tokenizer, stored, True, [], facts)
    with progress.step("transitions", f"counting what follows what in {len(interactions.items):,} interactions"):
        weights = CONTENT_WEIGHTS + LIGHT_TEXTS if linear.transitions == "counts" else CONTENT_WEIGHTS
        before, part = walk_forward(interactions)
        selection = select_settings(before, content, linear, part, MOST_CASES, weights, REPEAT_WEIGHTS)
    exclude_seen = selection.settings.repeat_weight < 0
    remembered = with_content(selection)
    if remembered is not selection:
        progress.line("texts did not help on validation; they get a little weight, for what was never bought")
    with progress.step("memory", "building the memory of transitions and texts, and choosing how it is read"):
        brands = item_brands(domain.catalogue)
        stored = choose_memory_alone(interactions, content, selection=remembered, most_cases=MOST_CASES, brands=brands)
    model: ItemRecommendation
    if minutes:
        with progress.step("network", f"training the item-level recommender for {minutes:g} minutes"):
            model = trained(domain, tokenizer, content, minutes, folder / "network", seed)
        ranker = _ranker(model, tokenizer)
        with progress.step("mixture", "choosing how the network and the memory are mixed"):
            stored = choose_memory(ranker, interactions, content, alone=stored, most_cases=MIXTURE_CASES)
    else:
        model, stored = stand_in(tokenizer, seed), _alone(stored)
        ranker = _ranker(model, tokenizer)
    ranker.memory = stored.memory
    with progress.step("validation", "measuring it beside what needs no training"):
        rows = judged(ranker, domain, content, selection, exclude_seen)
    with progress.step("all interactions", "building the memory of all interactions, the latest too"):
        stored = with_everything(stored, interactions, content)
    return Quickstart(
        model, tokenizer, stored, exclude_seen, rows, _facts(domain, stored, name, progress, minutes, exclude_seen)
    )


def content_of(
    domain: Domain, text_encoder: str
) -> tuple[np.ndarray | None, TextEncoder | FittedTextStatistics | None]:
    """Embeddings of the texts, float32 `[n, e]`, and what makes them; an item without text has the mean of the others.
    None where texts say nothing: there are none, or no two share a word."""
    texts = domain.catalogue.texts
    has_text = np.array([bool(text) for text in texts])
    if has_text.sum() < 2:
        return None, None
    if text_encoder == TF_IDF:
        vectors, fitted = FittedTextStatistics.fit(texts)
        return (vectors, fitted) if vectors.shape[1] else (None, None)
    encoder = TextEncoder.from_pretrained(text_encoder)
    found = encoder.embed([text for text in texts if text])
    vectors = np.tile(found.mean(axis=0), (len(texts), 1)).astype(np.float32)
    vectors[has_text] = found
    return vectors, encoder


def semantic_ids(
    domain: Domain,
    content: np.ndarray | None,
    encoder: TextEncoder | FittedTextStatistics | None,
    folder: Path,
    seed: int,
) -> UniversalItemTokenizer:
    """Semantic IDs of a domain's items, with their titles; where texts do not tell items apart, by what follows what,
    and where nothing does at random. Made of texts, the tokenizer has the network that gives new items theirs."""
    catalogue, vectors = domain.catalogue, content
    if vectors is None or not (vectors != vectors[:1]).any():
        try:
            vectors = transition_embeddings(domain.interactions.training_part())
        except ValueError:
            vectors = np.random.default_rng(seed).normal(size=(len(catalogue), 8)).astype(np.float32)
    size = min(CODES, max(2, len(catalogue) // ITEMS_PER_CODE))
    # a memory does not read the codes: that items share theirs is said, and no reason to stop
    items = rq_kmeans_tokenizer(
        vectors, catalogue.item_ids, folder, codebook_size=size, seed=seed, allow_collapsed=True
    )
    index, network = items.tokenizer.index, items.network
    assert network is not None
    index.set_titles(shown_titles(catalogue))
    digests = content_digests(catalogue, images=False)
    index.set_provenance(ItemProvenance(digests, digests, items.raw_codes.astype(np.int32)))
    if vectors is not content:
        return UniversalItemTokenizer(index, items.tokenizer.fingerprint)
    processor = EmbeddingProcessor(network.config, encoder)
    return UniversalItemTokenizer(index, items.tokenizer.fingerprint, network=network, processor=processor)


def shown_titles(catalogue: Catalogue) -> list[str]:
    """Titles for display: the beginning of the text for an item without."""
    return [title or text[:80] for title, text in zip(catalogue.titles, catalogue.texts, strict=True)]


def stand_in(tokenizer: UniversalItemTokenizer, seed: int = 0) -> ItemLevelForCausalLM:
    """A small network of random weights: the beam search needs one, and with g = 1 does not listen to it."""
    arguments = ItemLevelArguments(STAND_IN_WIDTH, num_layers=1, num_heads=1, content=False, item_residuals=False)
    return new_item_level(arguments, tokenizer, seed).eval()


def trained(
    domain: Domain,
    tokenizer: UniversalItemTokenizer,
    content: np.ndarray | None,
    minutes: float,
    folder: Path,
    seed: int,
) -> ItemRecommendation:
    """An item-level recommender, trained for so many minutes on the training part."""
    arguments = ItemLevelArguments(content=content is not None, read_codes=True, write_codes=True)
    if content is not None:
        tokenizer.index.set_content(content)
    training = ItemLevelTrainingArguments(
        output_dir=str(folder), save_strategy="no", report_to=[], logging_strategy="no", disable_tqdm=True
    )
    place_training(training, folder, seed)
    tokenizer.max_history = training.max_history
    model = new_item_level(arguments, tokenizer, seed)
    train_recommender(model, [domain], {domain.name: tokenizer}, training, minutes=minutes)
    return model.eval()


def judged(
    ranker: GenerativeRanker,
    domain: Domain,
    content: np.ndarray | None,
    selection: LinearSelection,
    exclude_seen: bool,
) -> list[dict[str, Any]]:
    """Results on the validation items of [`MOST_CASES`] users, all ranked alike: seen items as in recommending."""
    interactions = domain.interactions
    training = interactions.training_part()
    transitions = selection.transitions if walk_forward(interactions)[0] is interactions else None
    rankers: dict[str, Ranker] = {
        "recommender": ranker,
        "popularity": Popularity(training),
        "item-transitions": ItemTransitions(training),
        "linear": LinearRanker(training, content, selection.settings, transitions),
    }
    users = judged_users(interactions, most_cases=MOST_CASES)
    protocol: dict[str, Any] = {"part": "validation", "mask_seen": exclude_seen, "long_tail": False}
    return compare(rankers, domain.name, users, 0, **protocol)


def with_content(selection: LinearSelection) -> LinearSelection:
    """The choice with the best of the weights above 0 in place of none, where there is content."""
    rows = [row for row in selection.table if row["content_weight"]]
    if selection.settings.content_weight or not rows:
        return selection
    # of the same λ, for which the transitions are there
    same = [
        row
        for row in rows
        if row.get("regularization", selection.settings.regularization) == selection.settings.regularization
    ]
    best = max(same, key=lambda row: row[CRITERION])
    settings = replace(selection.settings, content_weight=best["content_weight"], evidence=best["evidence"])
    return replace(selection, settings=settings)


def with_everything(stored: StoredMemory, interactions: Interactions, content: np.ndarray | None) -> StoredMemory:
    """The memory of all interactions, read as that of the training part. Counts are added to; what is in closed form
    is built anew."""
    if stored.pairs is not None:
        lengths = interactions.lengths
        grown = add_interactions(stored, interactions, np.where(lengths < 3, 0, lengths - 2))
        grown.facts["part"] = "all"
        return grown
    return rebuild_memory(stored, interactions, content, "all", stored.memory.content)


def _alone(stored: StoredMemory) -> StoredMemory:
    """Read without a network: g = 1. The temperature moves no order; with the lowest the search misses least."""
    stored.memory = stored.memory.with_settings(temperature=min(TEMPERATURES), mixing_weight=1.0, gate=None)
    return stored


def _ranker(model: ItemRecommendation, tokenizer: UniversalItemTokenizer) -> GenerativeRanker:
    if torch.cuda.is_available():
        model.to("cuda")  # type: ignore[arg-type]
    return GenerativeRanker(
        model, tokenizer.trie, tokenizer.index.token_table, batch_size=BATCH, max_history=tokenizer.max_history
    )


def _inverse_minutes(num_items: int) -> str:
    """About how long two inverses take at 50 billion operations in a second, a few cores' rate."""
    minutes = 2 * 7 / 3 * num_items**3 / 50e9 / 60
    return (
        "about a minute"
        if minutes < 1.5
        else f"{minutes:,.0f} minutes"
        if minutes < 120
        else f"{minutes / 60:,.0f} hours"
    )


def _facts(
    domain: Domain, stored: StoredMemory, content: str, progress: Progress, minutes: float, exclude_seen: bool | None
) -> dict[str, Any]:
    if stored.memory.settings.content_weight:
        stored.facts["content"] = content
    interactions = domain.interactions
    return {
        "items": interactions.num_items,
        "users": interactions.num_users,
        "interactions": len(interactions.items),
        "content": content,
        "transitions": stored.facts["transitions"],
        "network": f"item-level, {minutes:g} minutes" if minutes else "none: random weights, the memory decides alone",
        "seconds": progress.seconds,
    } | ({} if exclude_seen is None else {"seen": "masked" if exclude_seen else "kept"})
