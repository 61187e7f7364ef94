"""Pre-training of any method: its flags, the items' semantic IDs, the recommender's training."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from transformers import TrainingArguments

from modeling_utgrec.generation_mixin import ItemRecommendation
from tokenization_items import Catalogue, UniversalItemTokenizer
from tokenization_items.catalogue import TEXT_FIELDS
from trainers.data.domains import Domain
from trainers.hub.download import ModelPlace, find_part
from trainers.methods.catalogue_health import health_of_domains, tell_health
from trainers.methods.runs import (
    finish_model,
    gathered_weights,
    save_recommender,
    save_tokenizer,
    shared_semantic_ids,
    tokenize,
    train_recommender,
)
from trainers.recommender_trainer import RecommenderTrainingArguments


@dataclass
class PretrainingArguments:
    """Flags of every pre-training."""

    data: list[str] = field(
        metadata={"help": "Folders of domains, a folder of such folders, or 'builtin' for the built-in catalogue."}
    )
    output_dir: str = field(metadata={"help": "Where the results go."})
    stage: Literal["all", "tokenizer", "tokenize", "recommender"] = field(
        default="all", metadata={"help": "One stage alone; it takes what the earlier ones wrote to output_dir."}
    )
    text_fields: list[str] = field(
        default_factory=lambda: list(TEXT_FIELDS),
        metadata={"help": "Fields of an item's text, in order; the paper's: title features categories."},
    )
    k_core: int = field(default=0, metadata={"help": "Keep users and items with so many interactions; 0: all."})
    resume: bool = field(default=False, metadata={"help": "Go on from the last checkpoint of each stage."})
    allow_partial_resume: bool = field(
        default=False,
        metadata={"help": "With --resume: go on though the optimizer's or the random numbers' state is lost."},
    )
    overwrite: bool = field(
        default=False, metadata={"help": "Train anew though the output folder holds a model, and replace it."}
    )
    allow_collapsed_codes: bool = field(
        default=False, metadata={"help": "Take semantic IDs though nearly all items share their codes with another."}
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Check data and flags, say sizes, steps and memory, and stop."}
    )
    license: str | None = field(default=None, metadata={"help": "Licence of the models, for their cards."})
    push_to_hub: bool = field(default=False, metadata={"help": "Push both models, at every save and at the end."})
    hub_model_id: str | None = field(
        default=None,
        metadata={"help": "Where to: -tokenizer and -recommender are added; default: the output folder's name."},
    )
    seed: int = field(default=0, metadata={"help": "Seed of weights and training."})


# What the stages make last, and the trainings of each; STAGES: which of the plans of item tokenizer and recommender.
STAGES = {"all": slice(0, 2), "tokenizer": slice(0, 1), "tokenize": slice(0, 0), "recommender": slice(1, 2)}
MADE = {
    "all": (["recommender"], ["checkpoints/tokenizer", "checkpoints/recommender"]),
    "tokenizer": (["tokenizer"], ["checkpoints/tokenizer"]),
    "tokenize": (["items"], []),
    "recommender": (["recommender"], ["checkpoints/recommender"]),
}


def made_tokenizer(arguments: PretrainingArguments) -> ModelPlace | None:
    """The item tokenizer that an earlier stage left for this one; None where this run makes it.

    Raises:
        HubError: it is not there.
    """
    takes_it = arguments.stage in ("tokenize", "recommender")
    return find_part(arguments.output_dir, "tokenizer") if takes_it else None


def name_repositories(
    arguments: PretrainingArguments, tokenizer_training: TrainingArguments, recommender_training: TrainingArguments
) -> None:
    """Where both models are pushed, if they are."""
    if arguments.push_to_hub:
        name = arguments.hub_model_id or Path(arguments.output_dir).absolute().name
        for kind, training in (("tokenizer", tokenizer_training), ("recommender", recommender_training)):
            training.push_to_hub = True
            training.hub_model_id = f"{name}-{kind}"


def write_semantic_ids(
    output: Path, catalogues: list[Catalogue], allow_collapsed: bool = False, domains: Sequence[Domain] = ()
) -> None:
    """Gives the items of each catalogue semantic IDs by the tokenizer in `output`, and saves them there. The
    tokenizer's card says how well it does on them; `domains` are those of which interactions are known.

    Raises:
        CollapsedCodesError: nearly all items of a catalogue share their codes, and that was not allowed.
    """
    tokenizer = UniversalItemTokenizer.from_pretrained(output / "tokenizer")
    tokenizers, reports = {}, {}
    for catalogue in catalogues:
        name = catalogue.name
        tokenizers[name], reports[name] = tokenize(tokenizer, catalogue)
        print(f"{name}: {reports[name]}")
        reports[name].check_collapse(tokenizers[name].index.level_sizes, allow_collapsed)
    for name, items in tokenizers.items():
        save_tokenizer(items, output / "items" / name, include_network=False)
    health = health_of_domains(tokenizer.encoding_network, reports, catalogues, domains)
    tell_health(output / "tokenizer", health, keep_others=True)  # those tokenized before, of which items/ keeps theirs
    print(f"{shared_semantic_ids(tokenizers):,} items have a semantic ID that an item of another domain has too.")


def train_and_save(
    recommender: ItemRecommendation,
    domains: list[Domain],
    tokenizers: dict[str, UniversalItemTokenizer],
    training: RecommenderTrainingArguments,
    arguments: PretrainingArguments,
    patience: int | None = None,
    walks: Sequence[Domain] = (),
) -> None:
    """Trains the recommender and saves it with its card in the output folder.

    Args:
        patience (`int`, *optional*): evaluations without a better one after which training stops.
        walks (`Sequence[Domain]`, *optional*, defaults to `()`): domains with generated interactions, see
            [`trainers.methods.content_walks`].
    """
    trainer = train_recommender(
        recommender,
        domains,
        tokenizers,
        training,
        patience,
        resume=arguments.resume,
        walks=walks,
        method="utgrec" if recommender.config.is_encoder_decoder else "recbase",
    )
    weights = gathered_weights(trainer)
    if trainer.is_world_process_zero():
        output = Path(arguments.output_dir)
        save_recommender(recommender, None, output / "recommender", weights)
        finish_model(trainer, output / "recommender", {"license": arguments.license})
