"""How each model of the quality table is trained: from a domain's folder to something that ranks its items.

A recipe gets a [`Setting`] and returns a [`Ranker`]. What a recipe makes for others too (embeddings, collaborative
embeddings) is kept in the work folder and made once.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, set_seed

from modeling_utgrec import (
    BERT4RecConfig,
    BERT4RecForNextItem,
    BSARecConfig,
    BSARecForNextItem,
    FMLPRecConfig,
    FMLPRecForNextItem,
    GRU4RecConfig,
    GRU4RecForNextItem,
    HSTUConfig,
    HSTUForNextItem,
    SASRecConfig,
    SASRecForNextItem,
    UTGRecConfig,
    UTGRecForConditionalGeneration,
)
from tokenization_items import UniversalItemTokenizer
from tokenization_items.image_encoders import ImageEncoder
from tokenization_items.item_embeddings import embed_items, load_embeddings, save_embeddings
from tokenization_items.text_encoders import TextEncoder
from trainers.data.domains import Domain
from trainers.item_tokenizer_trainer import ItemTokenizerTrainingArguments
from trainers.methods.recbase import RecBaseArguments, new_recbase
from trainers.methods.recbase_tokenizer import RecBaseTokenizerTrainingArguments, recbase_tokenizer
from trainers.methods.runs import place_training, stopping, tokenize, train_recommender
from trainers.methods.semantic_ids import (
    letter_tokenizer,
    load_raw_codes,
    rq_kmeans_tokenizer,
    tiger_m_tokenizer,
    tiger_tokenizer,
)
from trainers.methods.utgrec import NetworkArguments, RecommenderArguments, build_network, train_item_tokenizer
from trainers.rankers import Ranker
from trainers.rankers.generative import GenerativeRanker
from trainers.rankers.item_transitions import ItemTransitions
from trainers.rankers.nearest_items import NearestItems
from trainers.rankers.popularity import Popularity
from trainers.rankers.sequential import SequentialRanker
from trainers.ranking_trainer import RankingTrainingArguments
from trainers.recommender_trainer import RecommenderTrainingArguments
from trainers.sequential_trainer import SequentialTrainer, SequentialTrainingArguments


class NotApplicable(Exception):
    """The model cannot be had for the domain; the message says why."""


@dataclass
class Setting:
    """What a recipe may use.

    Args:
        domain: items and interactions.
        seed: of weights and batches.
        folder: where the model goes.
        shared: where what several models of the domain use goes.
        text_encoder, image_encoder: Hub ids or folders.
        minutes: most time of a recommender's training, the same for every model.
        patience: evaluations without a better validation NDCG@10 before a training stops.
        dropout: of a sequential model; None: its published one.
        network, tokenizer: UTGRec's item tokenizer.
        recommender, training: the T5 of every generative model.
    """

    domain: Domain
    seed: int
    folder: Path
    shared: Path
    text_encoder: str
    image_encoder: str | None
    minutes: float
    patience: int
    dropout: float | None
    network: NetworkArguments
    tokenizer: ItemTokenizerTrainingArguments
    recommender: RecommenderArguments
    training: RecommenderTrainingArguments

    @property
    def item_ids(self) -> list[str]:
        return self.domain.interactions.item_ids

    @cached_property
    def text_embeddings(self) -> np.ndarray:
        folder = self.shared / "text-embeddings"
        embed_items(self.domain.catalogue, TextEncoder.from_pretrained(self.text_encoder), folder)
        return load_embeddings(folder, self.item_ids)

    @cached_property
    def image_embeddings(self) -> np.ndarray:
        if self.image_encoder is None:
            raise NotApplicable("no --image_encoder")
        if not any(map(self.domain.catalogue.has_image, range(len(self.item_ids)))):
            raise NotApplicable("items without images")
        folder = self.shared / "image-embeddings"
        embed_items(self.domain.catalogue, ImageEncoder.from_pretrained(self.image_encoder), folder)
        return load_embeddings(folder, self.item_ids, allow_missing=True)

    @cached_property
    def collaborative_embeddings(self) -> np.ndarray:
        """Item embeddings of SASRec, which has seen the training interactions only."""
        folder = self.shared / f"collaborative-embeddings-seed-{self.seed}"
        if not (folder / "embeddings.json").exists():
            ranker = sequential(SASRecForNextItem, SASRecConfig)(dataclasses.replace(self, folder=folder / "sasrec"))
            embeddings = ranker.recommender.model.item_embeddings.detach().cpu().numpy()
            save_embeddings(folder, self.item_ids, embeddings, {"model": "sasrec", "part": "training"})
        return load_embeddings(folder, self.item_ids)


@dataclass
class Ranker:
    """A model that is ready to be judged.

    Args:
        recommender: what ranks.
        parameters: number of its weights, the tokenizer's left out.
        details: plain values that tell how it was made.
        identifiers: codes before conflicts were resolved, int [n, L], for models that have them.
    """

    recommender: Ranker
    parameters: int = 0
    details: dict[str, Any] = field(default_factory=dict)
    identifiers: np.ndarray | None = None


Recipe = Callable[[Setting], Ranker]


def sequential(model_class: type, config_class: type, **values) -> Recipe:
    """A sequential model with its published settings but for `values`, and the dropout if one is given."""

    def recipe(setting: Setting) -> Ranker:
        interactions, given = setting.domain.interactions, values
        if setting.dropout is not None:
            given = values | {"hidden_dropout": setting.dropout, "attention_dropout": setting.dropout}
        set_seed(setting.seed)
        model = model_class(config_class(num_items=interactions.num_items, max_history=20, **given))
        args = SequentialTrainingArguments(str(setting.folder), **_evaluated_each_epoch(), report_to=[])
        place_training(args, setting.folder / "checkpoints", setting.seed)
        trainer = SequentialTrainer(
            model,
            args,
            interactions.training_part(),
            interactions,
            callbacks=stopping(setting.patience, setting.minutes),
        )
        trainer.train()
        ranker = SequentialRanker(model, name=model.config.model_type)
        return Ranker(ranker, model.num_parameters(), _training_facts(trainer, args) | given)

    return recipe


def t5(setting: Setting, tokenizer: UniversalItemTokenizer, facts: dict[str, Any]) -> PreTrainedModel:
    """UTGRec's recommender, which the generative models share."""
    config = UTGRecConfig(
        **facts.pop("level_layout"),
        max_history=setting.training.max_history,
        item_tokenizer_fingerprint=tokenizer.fingerprint,
        loss_temperature=facts.pop("loss_temperature", 1.0),
        **setting.recommender.architecture(),
    )
    set_seed(setting.seed)
    return UTGRecForConditionalGeneration(config)


def decoder(setting: Setting, tokenizer: UniversalItemTokenizer, facts: dict[str, Any]) -> PreTrainedModel:
    """RecBase's recommender, in the size of the T5 of the configuration; the paper's is for millions of users."""
    facts.pop("level_layout"), facts.pop("loss_temperature", None)
    sizes = setting.recommender
    arguments = RecBaseArguments(
        size="tiny",
        hidden_size=sizes.d_model,
        intermediate_size=sizes.d_ff,
        num_hidden_layers=sizes.num_layers + 1,
        num_attention_heads=sizes.num_heads,
        head_dim=sizes.d_kv,
        attention_dropout=sizes.dropout_rate,
        embedding_dropout=2 * sizes.dropout_rate,
        normalize_over=sizes.normalize_over,
    )
    return new_recbase(arguments, tokenizer, setting.seed)


def generative(
    make_tokenizer: Callable[[Setting], tuple[UniversalItemTokenizer, dict, np.ndarray | None]], new_model=t5
) -> Recipe:
    """A recommender on the identifiers of `make_tokenizer`, which also gives facts about them and the codes before
    conflicts were resolved."""

    def recipe(setting: Setting) -> Ranker:
        tokenizer, facts, raw_codes = make_tokenizer(setting)
        model = new_model(setting, tokenizer, facts)
        args = dataclasses.replace(setting.training, **_evaluated_each_epoch())
        place_training(args, setting.folder / "checkpoints", setting.seed)
        trainer = train_recommender(
            model,
            [setting.domain],
            {setting.domain.name: tokenizer},
            args,
            early_stopping_patience=setting.patience,
            minutes=setting.minutes,
        )
        model.save_pretrained(setting.folder / "recommender")
        tokenizer.save_pretrained(setting.folder / "recommender", include_network=False)
        ranker = GenerativeRanker.from_pretrained(setting.folder / "recommender", setting.item_ids)
        return Ranker(ranker, model.num_parameters(), _training_facts(trainer, args) | facts, raw_codes)

    return recipe


def tiger(setting: Setting):
    made = tiger_tokenizer(setting.text_embeddings, setting.item_ids, setting.folder / "tokenizer", seed=setting.seed)
    return _from_embeddings(setting, made)


def rq_kmeans(setting: Setting):
    folder = setting.folder / "tokenizer"
    made = rq_kmeans_tokenizer(setting.text_embeddings, setting.item_ids, folder, seed=setting.seed)
    return _from_embeddings(setting, made)


def letter(setting: Setting):
    folder = setting.folder / "tokenizer"
    made = letter_tokenizer(
        setting.text_embeddings, setting.collaborative_embeddings, setting.item_ids, folder, seed=setting.seed
    )
    tokenizer, facts, raw_codes = _from_embeddings(setting, made)
    return tokenizer, {**facts, "loss_temperature": 0.7}, raw_codes


def tiger_m(setting: Setting):
    folder = setting.folder / "tokenizer"
    images = setting.image_embeddings  # first: not every domain has them
    made = tiger_m_tokenizer(setting.text_embeddings, images, setting.item_ids, folder, seed=setting.seed)
    return _from_embeddings(setting, made)


def recbase(setting: Setting):
    """RecBase's tokenizer on the domain alone, with fewer steps and narrower layers than the paper's."""
    folder = setting.folder / "tokenizer"
    training = RecBaseTokenizerTrainingArguments(learning_rate=1e-3, per_device_train_batch_size=1024, max_steps=300)
    domains = {setting.domain.name: (setting.item_ids, setting.text_embeddings)}
    sizes = {"codebook_size": 256, "hidden_sizes": [512, 256, 128]}
    max_history = setting.training.max_history
    made = recbase_tokenizer(domains, folder, training, setting.seed, max_history=max_history, **sizes)
    tokenizer = made.tokenizers[setting.domain.name]
    facts = {"level_layout": {}, "collision_rate": made.report["collision_rate"]}
    return tokenizer, facts, made.raw_codes[setting.domain.name]


def utgrec(setting: Setting):
    """UTGRec from scratch on the domain, with the text encoder as backbone and without images."""
    network = dataclasses.replace(setting.network, backbone=setting.text_encoder, autoencoder=None)
    training = dataclasses.replace(setting.tokenizer)
    place_training(training, setting.folder / "checkpoints-tokenizer", setting.seed)
    model, processor = build_network(network, setting.domain.catalogue, None, setting.seed)
    trainer = train_item_tokenizer(model, processor, [setting.domain], None, training)
    health = trainer.evaluate()
    tokenizer = UniversalItemTokenizer.from_network(model, processor, setting.training.max_history)
    tokenizer, report = tokenize(tokenizer, setting.domain.catalogue)
    facts = {
        "level_layout": model.config.level_layout(),
        "tokenizer_steps": trainer.state.global_step,
        "collision_rate": health["eval_collision_rate"],
        "items_moved": report.items_moved,
    }
    return tokenizer, facts, None


def _from_embeddings(setting: Setting, made) -> tuple[UniversalItemTokenizer, dict[str, Any], np.ndarray]:
    collisions = made.report.get("collisions_before", made.report.get("items_sharing_codes"))
    facts = {"level_layout": made.level_layout(), "items_sharing_codes": collisions}
    return made.tokenizer, facts, load_raw_codes(setting.folder / "tokenizer")


def _evaluated_each_epoch() -> dict[str, Any]:
    return {
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "load_best_model_at_end": True,
        "use_cpu": not torch.cuda.is_available(),
    }


def _training_facts(trainer, args: RankingTrainingArguments) -> dict[str, Any]:
    return {
        "epochs": round(trainer.state.epoch or 0, 2),
        "best_validation_ndcg@10": trainer.state.best_metric,
        "learning_rate": args.learning_rate,
        "batch_size": args.per_device_train_batch_size,
    }


SEQUENTIAL: dict[str, Recipe] = {
    "sasrec": sequential(SASRecForNextItem, SASRecConfig),
    "sasrec-bce": sequential(SASRecForNextItem, SASRecConfig, loss="bce"),
    "gru4rec": sequential(GRU4RecForNextItem, GRU4RecConfig),
    "bert4rec": sequential(BERT4RecForNextItem, BERT4RecConfig),
    "fmlp-rec": sequential(FMLPRecForNextItem, FMLPRecConfig),
    "bsarec": sequential(BSARecForNextItem, BSARecConfig),
    "hstu": sequential(HSTUForNextItem, HSTUConfig),
}
RECIPES: dict[str, Recipe] = {
    "popularity": lambda setting: Ranker(Popularity(setting.domain.interactions.training_part())),
    "item-transitions": lambda setting: Ranker(ItemTransitions(setting.domain.interactions.training_part())),
    "nearest-items": lambda setting: Ranker(NearestItems(setting.text_embeddings)),
    **SEQUENTIAL,
    "rq-kmeans": generative(rq_kmeans),
    "tiger": generative(tiger),
    "tiger-decoder": generative(tiger, decoder),
    "letter": generative(letter),
    "tiger-m": generative(tiger_m),
    "utgrec": generative(utgrec),
    "recbase": generative(recbase, decoder),
}
