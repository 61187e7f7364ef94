"""Settings of the quality table: what each model of it is made with, from a domain's folder to a ranker."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from sequential_rows import ROWS, SequentialRow

from modeling_utgrec import UTGRecTokenizerConfig
from tokenization_items import UniversalItemTokenizer
from tokenization_items.item_memory import StoredMemory
from trainers.data.domains import Domain
from trainers.data.interactions import Interactions
from trainers.data.item_brands import item_brands
from trainers.embedding_tokenizer_trainer import EmbeddingTokenizerTrainingArguments
from trainers.evaluation.codebooks import collision_rate
from trainers.item_tokenizer_trainer import ItemTokenizerTrainingArguments
from trainers.methods import recbase, utgrec
from trainers.methods.baselines import (
    DECODER,
    GIVEN,
    ITEM_LEVEL,
    ItemEmbeddings,
    NotApplicable,
    make_semantic_ids,
    published_recommender,
    recommender_on,
    recommender_settings,
    semantic_ids_of,
    train_generative_baseline,
    train_sequential_baseline,
)
from trainers.methods.item_level import ItemLevelArguments, ItemLevelTrainingArguments, set_item_content
from trainers.methods.memory import for_index
from trainers.methods.memory_selection import choose_memory_alone
from trainers.methods.mixture_selection import choose_memory
from trainers.methods.mixture_selection import with_memory as mixed
from trainers.methods.published import Published, describe, settings_of
from trainers.methods.recbase_tokenizer import RecBaseTokenizerTrainingArguments, recbase_tokenizer
from trainers.methods.runs import place_training, save_recommender, tokenize, train_recommender
from trainers.methods.semantic_ids import SEMANTIC_IDS, TokenizedItems
from trainers.methods.sequential import SequentialArguments
from trainers.methods.sequential_methods import SEQUENTIAL
from trainers.methods.sequential_pretraining import PRETRAINED
from trainers.methods.utgrec import LevelLayout, NetworkArguments, RecommenderArguments, build_network
from trainers.methods.utgrec import train_item_tokenizer as train_utgrec_tokenizer
from trainers.rankers import Ranker
from trainers.rankers.generative import GenerativeRanker
from trainers.rankers.item_memory import MemoryRanker
from trainers.rankers.item_transitions import ItemTransitions
from trainers.rankers.linear_selection import REPEAT_WEIGHTS, linear_ranker
from trainers.rankers.nearest_items import NearestItems
from trainers.rankers.popularity import Popularity
from trainers.rankers.sequential import SequentialRanker
from trainers.ranking_trainer import RankingTrainer
from trainers.recommender_trainer import RecommenderTrainingArguments
from trainers.runtime.run_file import RUN_FILE
from trainers.sequential_trainer import SequentialTrainingArguments


@dataclass
class Setting:
    """What a model of the table is made with.

    Args:
        domain: items and interactions.
        seed: of weights and batches.
        folder: where the model goes.
        embeddings: of the items.
        minutes: most time of a recommender's training, the same for every model; None: until early stopping ends it.
        patience: evaluations without a better validation NDCG@10 before a training stops.
        dropout: of a sequential model; None: its published one.
        network, tokenizer: UTGRec's item tokenizer.
        recommender, training: the T5 of every generative model; all models read the last `training.max_history` items.
        pretraining: folders of domains that UTGRec is pre-trained on in its ablations.
        pretrained: folders of `utgrec pretrain`, by the names of sequential models.
        bf16: train recommenders in bfloat16.
        batch_size: rows a step of a sequential model; None: as many as for any.
        brands: memories know the items' brands, of a domain that has any.
        resume: take what a run that was stopped has finished, and go on from the last epoch of its training.
    """

    domain: Domain
    seed: int
    folder: Path
    embeddings: ItemEmbeddings
    minutes: float | None
    patience: int
    dropout: float | None
    network: NetworkArguments
    tokenizer: ItemTokenizerTrainingArguments
    recommender: RecommenderArguments
    training: RecommenderTrainingArguments
    pretraining: Sequence[str] = ()
    pretrained: Mapping[str, str] = field(default_factory=dict)
    bf16: bool = False
    batch_size: int | None = None
    brands: bool = False
    resume: bool = False


@dataclass
class TrainedRanker:
    """A model that is ready to be judged.

    Args:
        ranker: what ranks.
        parameters: number of its weights, the tokenizer's left out.
        details: plain values that tell how its training went.
        description: see [`trainers.methods.published.describe`].
        identifiers: codes before collisions were resolved, int [n, L], for models that have them.
    """

    ranker: Ranker
    parameters: int = 0
    details: dict[str, Any] = field(default_factory=dict)
    description: dict[str, Any] = field(default_factory=dict)
    identifiers: np.ndarray | None = None


def sequential(name: str, setting: Setting) -> TrainedRanker:
    """A sequential baseline, of another dropout or batch if one is given, pre-trained, or one of
    [`sequential_rows.ROWS`]."""
    row = ROWS.get(name, SequentialRow(name.removesuffix(PRETRAINED_ROW)))
    facts: dict[str, Any] = {}
    start = None
    if name.endswith(PRETRAINED_ROW):
        start, facts["pretrained_on"] = pretrained_on(setting, row.method)
    own = name not in ROWS  # others have settings of their own, whatever the flags say
    arguments = SequentialArguments(
        hidden_dropout=setting.dropout if own else None,
        attention_dropout=setting.dropout if own else None,
        max_history=setting.training.max_history,
        early_stopping_patience=setting.patience,
    )
    arguments = dataclasses.replace(arguments, **row.arguments)
    batch = {"per_device_train_batch_size": setting.batch_size} if own and setting.batch_size else {}
    training = sequential_training(setting.folder, setting.seed, bf16=setting.bf16, **batch, **row.training)
    baseline = train_sequential_baseline(
        row.method,
        setting.domain,
        arguments,
        training,
        setting.minutes,
        setting.resume,
        embeddings=setting.embeddings,
        pretrained=start,
    )
    model = baseline.model
    description = baseline.description
    if row.published is not None:
        description = describe(model, settings_of(model.config, training), row.published)
    model.save_pretrained(setting.folder / RECOMMENDER)
    ranker = SequentialRanker(model, name=model.config.model_type)
    return TrainedRanker(ranker, model.num_parameters(), training_facts(baseline.trainer) | facts, description)


def family(method: str) -> str:
    """Which model of `utgrec pretrain` a sequential baseline starts from."""
    return method.removesuffix(PRETRAINED_ROW).removesuffix("-transductive").removesuffix("-images")


def pretrained_on(setting: Setting, method: str) -> tuple[str, list[str]]:
    """The folder that a sequential baseline starts from, and the domains that it was pre-trained on.

    Raises:
        NotApplicable: there is none, or it has seen the domain.
    """
    folder = setting.pretrained.get(family(method))
    if folder is None:
        raise NotApplicable(
            f"give --pretrained {family(method)}=FOLDER of `utgrec pretrain --model {family(method)} --data ...`."
        )
    run = yaml.safe_load((Path(folder) / RUN_FILE).read_text(encoding="utf-8"))
    domains = [Path(each).name for each in run["data"]]
    if setting.domain.name in domains:
        raise NotApplicable(f"{folder} was pre-trained on {setting.domain.name} itself.")
    return folder, domains


def sequential_training(folder: Path, seed: int, **values: Any) -> SequentialTrainingArguments:
    """SASRec's, evaluated after each epoch."""
    training = SequentialTrainingArguments(str(folder), **_evaluated_each_epoch(), report_to=[], **values)
    place_training(training, folder / "checkpoints", seed)
    return training


def generative(name: str, setting: Setting) -> TrainedRanker:
    """Semantic IDs and a recommender on them: the T5 of the setting, a decoder of its size, or the published T5."""
    published = name.endswith(PUBLISHED_T5)
    name = name.removesuffix(PUBLISHED_T5)
    made_by = EmbeddingTokenizerTrainingArguments()
    folder = setting.folder / "tokenizer"
    items = make_semantic_ids(semantic_ids_of(name), setting.embeddings, folder, made_by, setting.seed, setting.resume)
    training, arguments = published_training(setting) if published else recommender_training(setting)
    baseline = train_generative_baseline(
        name, setting.domain, items, arguments, training, made_by, setting.minutes, setting.resume
    )
    return generative_ranker(
        setting, baseline.model, items.tokenizer, baseline.trainer, baseline.description, items.raw_codes
    )


def item_level(name: str, setting: Setting) -> TrainedRanker:
    """Semantic IDs and an item-level recommender on them that reads the texts' embeddings too; its own sizes."""
    codes = name.endswith(WITH_CODES) or None
    name = name.removesuffix(WITH_CODES)
    made_by = EmbeddingTokenizerTrainingArguments()
    folder = setting.folder / "tokenizer"
    items = make_semantic_ids(semantic_ids_of(name), setting.embeddings, folder, made_by, setting.seed, setting.resume)
    return item_level_on(name, setting, items, made_by, codes)


def item_level_on(
    name: str,
    setting: Setting,
    items: TokenizedItems,
    made_by: EmbeddingTokenizerTrainingArguments | None = None,
    codes: bool | None = None,
    **facts: Any,
) -> TrainedRanker:
    """An item-level recommender on semantic IDs that reads the texts' embeddings too, and with `codes` these."""
    encoder = setting.embeddings.text_encoder_fingerprint(fitted=True)
    set_item_content(items.tokenizer.index, setting.embeddings.item_ids, setting.embeddings.text, encoder)
    training = ItemLevelTrainingArguments(str(setting.folder), **validation_of(setting), report_to=[])
    place_training(training, setting.folder / "checkpoints", setting.seed)
    arguments = ItemLevelArguments(early_stopping_patience=setting.patience, read_codes=codes, write_codes=codes)
    baseline = train_generative_baseline(
        name, setting.domain, items, arguments, training, made_by, setting.minutes, setting.resume
    )
    return generative_ranker(
        setting, baseline.model, items.tokenizer, baseline.trainer, baseline.description, items.raw_codes, **facts
    )


def recommender_training(setting: Setting) -> tuple[RecommenderTrainingArguments, RecommenderArguments]:
    """The recommender's training, evaluated after each epoch, and its arguments."""
    training = dataclasses.replace(setting.training, **validation_of(setting))
    place_training(training, setting.folder / "checkpoints", setting.seed)
    return training, dataclasses.replace(setting.recommender, early_stopping_patience=setting.patience)


def published_training(setting: Setting) -> tuple[RecommenderTrainingArguments, RecommenderArguments]:
    """The paper's T5 and its fine-tuning: batches of 1024 pairs, in four parts."""
    values = validation_of(setting) | {"per_device_train_batch_size": 256, "gradient_accumulation_steps": 4}
    training = RecommenderTrainingArguments(str(setting.folder), learning_rate=3e-3, **values, report_to=[])
    place_training(training, setting.folder / "checkpoints", setting.seed)
    return training, RecommenderArguments(early_stopping_patience=setting.patience)


def recbase_recipe(name: str, setting: Setting) -> TrainedRanker:
    """RecBase's tokenizer on the domain alone, with fewer steps and narrower layers than the paper's, and a decoder of
    the T5's size; the paper's is for millions of users."""
    training = RecBaseTokenizerTrainingArguments(learning_rate=1e-3, per_device_train_batch_size=1024, max_steps=300)
    domains = {setting.domain.name: (setting.embeddings.item_ids, setting.embeddings.text)}
    sizes = {"codebook_size": 256, "hidden_sizes": [512, 256, 128]}
    made = recbase_tokenizer(
        domains,
        setting.folder / "tokenizer",
        training,
        setting.seed,
        setting.resume,
        max_history=setting.training.max_history,
        **sizes,
    )
    used = settings_of(made.network.config, training, "tokenizer.")
    return with_recommender(
        name,
        setting,
        made.tokenizers[setting.domain.name],
        made.network.config,
        used | {"tokenizer.collisions": "least_distance"},
        recbase.PUBLISHED_TOKENIZER,
        made.report["domains"][setting.domain.name],
        made.raw_codes[setting.domain.name],
    )


def utgrec_recipe(name: str, setting: Setting) -> TrainedRanker:
    """UTGRec's T5 on semantic IDs of [`utgrec_items`]."""
    items, config, steps = utgrec_items(setting)
    settings = {f"tokenizer.{key}": value for key, value in items.report["settings"].items()}
    made_by = (config, settings, utgrec.PUBLISHED_TOKENIZER, items.report, items.raw_codes)
    return with_recommender(name, setting, items.tokenizer, *made_by, tokenizer_steps=steps)


def utgrec_item_level(name: str, setting: Setting) -> TrainedRanker:
    """The item-level recommender on semantic IDs of [`utgrec_items`]."""
    items, _, steps = utgrec_items(setting)
    return item_level_on(GIVEN, setting, items, tokenizer_steps=steps)


def utgrec_items(setting: Setting) -> tuple[TokenizedItems, UTGRecTokenizerConfig, int]:
    """Semantic IDs of UTGRec's item tokenizer, trained from scratch on the domain, with the text encoder as backbone
    and without images; its network's configuration, and the steps of its training."""
    network = dataclasses.replace(setting.network, backbone=setting.embeddings.text_encoder, autoencoder=None)
    training = dataclasses.replace(setting.tokenizer)
    place_training(training, setting.folder / "checkpoints-tokenizer", setting.seed)
    model, processor = build_network(network, setting.domain.catalogue, None, setting.seed)
    trainer = train_utgrec_tokenizer(model, processor, [setting.domain], None, training, setting.resume)
    health = trainer.evaluate()
    tokenizer = UniversalItemTokenizer.from_network(model, processor, setting.training.max_history)
    tokenizer, report = tokenize(tokenizer, setting.domain.catalogue)
    found = report.to_dict() | {"collision_rate": health["eval_collision_rate"]}
    used = utgrec_settings(network, settings_of(model.config, training, "tokenizer."))
    found["collisions"] = used["tokenizer.collisions"]
    found["settings"] = {key.removeprefix("tokenizer."): value for key, value in used.items()}
    return TokenizedItems(tokenizer, report.given_codes, found), model.config, trainer.state.global_step


def utgrec_settings(network: NetworkArguments, used: dict[str, Any]) -> dict[str, Any]:
    """The item tokenizer's settings, with what its configuration does not say."""
    return used | {
        "tokenizer.backbone": Path(network.backbone).name if Path(network.backbone).is_dir() else network.backbone,
        "tokenizer.images": network.autoencoder not in (None, "none", ""),
        "tokenizer.pretrained_on_other_domains": False,
        "tokenizer.lora_r": network.lora_r,
        "tokenizer.collisions": "least_distance",
    }


def with_recommender(
    name: str,
    setting: Setting,
    tokenizer: UniversalItemTokenizer,
    levels: LevelLayout,
    tokenizer_settings: dict[str, Any],
    published: Published,
    report: dict[str, Any],
    raw_codes: np.ndarray | None = None,
    **facts: Any,
) -> TrainedRanker:
    """A recommender on the codes of a tokenizer that is no baseline's."""
    training, arguments = recommender_training(setting)
    kind = name + DECODER if name == "recbase" else name
    model = recommender_on(kind, tokenizer, levels, arguments, setting.seed)
    trainer = train_recommender(
        model,
        [setting.domain],
        {setting.domain.name: tokenizer},
        training,
        early_stopping_patience=arguments.early_stopping_patience,
        resume=setting.resume,
        minutes=setting.minutes,
        method=name,
    )
    used = tokenizer_settings | recommender_settings(model, training)
    description = describe(model, used, published | published_recommender(model), report)
    return generative_ranker(setting, model, tokenizer, trainer, description, raw_codes, **facts)


def generative_ranker(setting, model, tokenizer, trainer, description, raw_codes, **facts) -> TrainedRanker:
    """A generative recommender that was trained: saved, and loaded as it ranks."""
    save_recommender(model, tokenizer, setting.folder / RECOMMENDER)
    ranker = GenerativeRanker.from_pretrained(setting.folder / RECOMMENDER, setting.embeddings.item_ids)
    codebooks = description["codebooks"]
    details = training_facts(trainer) | facts
    if "items_sharing_codes" in codebooks:  # not of semantic IDs that were given
        details["items_sharing_codes"] = codebooks["items_sharing_codes"]
    if raw_codes is not None:
        details["collision_rate"] = collision_rate(torch.from_numpy(raw_codes))
    return TrainedRanker(ranker, model.num_parameters(), details, description, raw_codes)


def validation_of(setting: Setting) -> dict[str, Any]:
    """What the trainings of all generative recommenders have in common."""
    of_all = ("max_history", "num_beams", "max_eval_users", "disable_tqdm")
    values = {each: getattr(setting.training, each) for each in of_all}
    return values | _evaluated_each_epoch() | {"bf16": setting.bf16 or setting.training.bf16}


def _evaluated_each_epoch() -> dict[str, Any]:
    return {
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "load_best_model_at_end": True,
        "use_cpu": not torch.cuda.is_available(),
    }


def training_facts(trainer: RankingTrainer) -> dict[str, Any]:
    """How a training went."""
    facts: dict[str, Any] = {"bf16": True} if trainer.args.bf16 else {}
    if trainer.seconds_before:
        facts["resumed_after_seconds"] = trainer.seconds_before
    return facts | {
        "epochs": round(trainer.state.epoch or 0, 2),
        "best_validation_ndcg@10": trainer.state.best_metric,
        "learning_rate": trainer.args.learning_rate,
        "batch_size": trainer.args.per_device_train_batch_size,
    }


def with_memory(setting: Setting, trained: TrainedRanker) -> TrainedRanker:
    """A trained model with a memory chosen on validation. A generative recommender was saved, and the memory is saved
    beside it."""
    folder, interactions = setting.folder / RECOMMENDER, setting.domain.interactions
    text, network = setting.embeddings.text, trained.ranker
    assert isinstance(network, GenerativeRanker | SequentialRanker)
    stored = choose_memory(network, interactions, text, alone=memory_alone(setting))
    ranker: Ranker = mixed(network, stored.memory)
    if isinstance(network, GenerativeRanker):
        index = UniversalItemTokenizer.from_pretrained(folder, index_only=True).index
        for_index(stored, interactions.item_ids, index).save(folder, index)
        ranker = GenerativeRanker.from_pretrained(folder, interactions.item_ids)
    described = {"variant": f"{trained.description['variant']}, with memory", "memory": memory_of(stored)}
    return dataclasses.replace(trained, ranker=ranker, description=trained.description | described, identifiers=None)


def memory_alone(setting: Setting) -> StoredMemory:
    """What every model of a domain is mixed with, made for the first of them."""
    interactions = setting.domain.interactions
    if not _made or _made[0][0] is not interactions:
        brands = item_brands(setting.domain.catalogue) if setting.brands else None
        _made[:] = [(interactions, choose_memory_alone(interactions, setting.embeddings.text, brands=brands))]
    return dataclasses.replace(_made[0][1], facts=dict(_made[0][1].facts))


def memory_of(stored: StoredMemory) -> dict[str, Any]:
    """What a line says of a memory: its settings, a gate's weights among them, and the tables of their choice."""
    return {"settings": dataclasses.asdict(stored.memory.settings), **stored.facts}


def floor(name: str, setting: Setting) -> TrainedRanker:
    """What needs no training."""
    interactions = setting.domain.interactions
    if name in ("linear", "linear-repeats"):
        encoder = Path(setting.embeddings.text_encoder or "embeddings").name
        weights = REPEAT_WEIGHTS if name == "linear-repeats" else ()
        linear = linear_ranker(interactions, setting.embeddings.text, content_name=encoder, repeat_weights=weights)
        return TrainedRanker(linear, description=linear.description)
    description: dict[str, Any] = {"variant": FLOORS[name]}
    if name == "memory":
        stored = memory_alone(setting)
        stored.memory = stored.memory.with_settings(mixing_weight=1.0)
        return TrainedRanker(MemoryRanker(stored.memory), description=description | {"memory": memory_of(stored)})
    if name == "nearest-items":
        return TrainedRanker(NearestItems(setting.embeddings.text), description=description)
    counted = {"popularity": Popularity, "item-transitions": ItemTransitions}[name]
    return TrainedRanker(counted(interactions.training_part()), description=description)


WITH_CODES = "-codes"  # after the name of an item-level model that reads and predicts codes beside content
PRETRAINED_ROW = "-pretrained"  # after the name of a sequential model that starts from one of other domains
PUBLISHED_T5 = "-published-t5"  # after the name of semantic IDs, whatever the T5 of the setting
RECOMMENDER = "recommender"  # where it is saved, in the folder of its setting
_made: list[tuple[Interactions, StoredMemory]] = []  # the memory of the last domain, without a network
FLOORS = {
    "popularity": "counted from the training part",
    "item-transitions": "counted from the training part",
    "nearest-items": "text embeddings nearest to the last item's",
    "linear": "transitions in closed form and the texts' cosine with the history, weights chosen on validation",
    "linear-repeats": "the same, and whether what a history has is taken again",
    "memory": "sparse transitions, likeness of texts and trend, weights chosen walk-forward: a mixture's with g = 1",
}
COUNTED = ("popularity", "item-transitions")  # of the floors, those that read no texts
RECIPES: dict[str, Callable[[str, Setting], TrainedRanker]] = {
    **dict.fromkeys(FLOORS, floor),
    **dict.fromkeys(SEQUENTIAL, sequential),
    **dict.fromkeys(ROWS, sequential),
    **{f"{name}{PRETRAINED_ROW}": sequential for name in SEQUENTIAL if family(name) in PRETRAINED},
    **dict.fromkeys(SEMANTIC_IDS, generative),
    f"tiger{DECODER}": generative,
    **{f"{name}{PUBLISHED_T5}": generative for name in ("tiger", "letter")},
    **{f"{name}{ITEM_LEVEL}": item_level for name in SEMANTIC_IDS},
    f"rq-kmeans{ITEM_LEVEL}{WITH_CODES}": item_level,
    "utgrec": utgrec_recipe,
    f"utgrec{ITEM_LEVEL}": utgrec_item_level,
    "recbase": recbase_recipe,
}
__all__ = [
    "COUNTED",
    "FLOORS",
    "PRETRAINED_ROW",
    "RECIPES",
    "RECOMMENDER",
    "NotApplicable",
    "TrainedRanker",
    "family",
    "Setting",
    "floor",
    "generative_ranker",
    "recommender_training",
    "sequential_training",
    "utgrec_settings",
    "validation_of",
    "with_memory",
]
