"""Fine-tuning of any method: its flags, the domain, the recommender's training and evaluation."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState

from hub_cards import Evaluation
from hub_cards.formatting import markdown_table
from modeling_utgrec.generation_mixin import ItemRecommendation
from tokenization_items import UniversalItemTokenizer
from tokenization_items.catalogue import TEXT_FIELDS
from tokenization_items.files import write_json
from tokenization_items.text_template import TextTemplate
from trainers.data.domains import Domain, check_trainable, load_domains
from trainers.data.synthetic import DOWNSTREAM_DOMAIN
from trainers.evaluation.comparison import compare, short_table, untrained_rankers
from trainers.evaluation.protocol import check_cases
from trainers.evaluation.significance import BOOTSTRAP_SAMPLES
from trainers.hub.download import ModelPlace, find_part
from trainers.methods.runs import finish_model, gathered_weights, save_recommender, train_recommender
from trainers.rankers.generative import GenerativeRanker
from trainers.recommender_trainer import RecommenderTrainingArguments

MADE = ["results.json", "recommender"], ["checkpoints/tokenizer", "checkpoints/recommender"]  # last; trainings


@dataclass
class FinetuningArguments:
    """Flags of every fine-tuning."""

    data: list[str] = field(metadata={"help": "Folder of the new domain, or 'builtin'."})
    output_dir: str = field(metadata={"help": "Where the results go."})
    pretrained: str | None = field(
        default=None,
        metadata={"help": "Output folder of pretrain, or the name that it pushed to; none: from scratch."},
    )
    revision: str | None = field(default=None, metadata={"help": "Of both on the Hub: branch, tag, commit."})
    new_recommender: bool = field(default=False, metadata={"help": "Start the recommender from random weights."})
    text_fields: list[str] = field(
        default_factory=list,
        metadata={"help": "Fields of an item's text, in order; default: the pre-training's, or else all."},
    )
    k_core: int = field(default=0, metadata={"help": "Keep users and items with so many interactions; 0: all."})
    train_users: float = field(
        default=1.0,
        metadata={"help": "Share of the users whose training interactions are used; 0: nothing is trained."},
    )
    mask_seen: bool = field(default=False, metadata={"help": "Never recommend items of the history, in the test."})
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
    seed: int = field(default=0, metadata={"help": "Seed of weights and training."})
    name: str | None = field(default=None, metadata={"help": "The model's name in results.json."})

    def __post_init__(self):
        if not 0 <= self.train_users <= 1:
            raise SystemExit(f"--train_users is a share between 0 and 1, got {self.train_users}.")
        if self.revision is not None and self.pretrained is None:
            raise SystemExit("--revision is of --pretrained: give both, or neither.")
        if self.train_users == 0 and (self.pretrained is None or self.new_recommender):
            raise SystemExit("--train_users 0 trains nothing: it needs --pretrained, and no --new_recommender.")


def load_domain(arguments: FinetuningArguments, templates: dict[str, TextTemplate] | None = None) -> Domain:
    domains = load_domains(
        arguments.data,
        builtin=[DOWNSTREAM_DOMAIN],
        k_core=arguments.k_core,
        check_images=not templates,
        templates=templates,
        text_fields=arguments.text_fields or fields_of_pretraining(arguments),
    )
    if len(domains) != 1:
        raise SystemExit(f"Fine-tuning takes one domain, --data has {len(domains)}: {[d.name for d in domains]}.")
    domain = domains[0]
    if arguments.train_users < 1:
        few = domain.interactions.sample_training_users(arguments.train_users, arguments.seed)
        domain = replace(domain, interactions=few)
    PartialState().print(domain)
    if arguments.train_users:
        check_trainable([domain])
    check_cases(domain.interactions)  # known before a training
    return domain


def fields_of_pretraining(arguments: FinetuningArguments) -> tuple[str, ...]:
    """Fields of the items' texts that a pre-trained item tokenizer reads; all where there is none."""
    if arguments.pretrained is None:
        return TEXT_FIELDS
    return pretrained_tokenizer(arguments, index_only=True).text_fields


def pretrained_tokenizer(arguments: FinetuningArguments, index_only: bool = False) -> UniversalItemTokenizer:
    """The item tokenizer of `--pretrained`.

    Raises:
        HubError: there is none.
    """
    assert arguments.pretrained is not None
    there = find_part(arguments.pretrained, "tokenizer", arguments.revision)
    return UniversalItemTokenizer.from_pretrained(there.name, index_only, revision=there.revision)


def pretrained_recommender(arguments: FinetuningArguments) -> ModelPlace | None:
    """Where the recommender of `--pretrained` is; None for one with random weights.

    Raises:
        HubError: there is none.
    """
    if arguments.pretrained is None or arguments.new_recommender:
        return None
    return find_part(arguments.pretrained, "recommender", arguments.revision)


def train_and_evaluate(
    recommender: ItemRecommendation,
    tokenizer: UniversalItemTokenizer,
    domain: Domain,
    training: RecommenderTrainingArguments,
    arguments: FinetuningArguments,
    facts: dict[str, Any],
    patience: int | None,
    pushed: dict[str, str] | None = None,
) -> dict[str, Any] | None:
    """Trains, saves and evaluates the recommender.

    Args:
        facts (`dict[str, Any]`): of the recommender, for its card; the evaluation is added.
        patience (`int` or `None`): evaluations without a better one after which training stops.
        pushed (`dict[str, str]`, *optional*): where the tokenizer was pushed to, if it was.

    Returns:
        The model's row of `results.json` on the main process, else `None`.
    """
    output = Path(arguments.output_dir)
    trainer, weights = None, None
    if arguments.train_users:
        trainer = train_recommender(
            recommender,
            [domain],
            {domain.name: tokenizer},
            training,
            patience,
            resume=arguments.resume,
            method="utgrec" if recommender.config.is_encoder_decoder else "recbase",
        )
        weights = gathered_weights(trainer)
    if not PartialState().is_main_process:
        return None
    save_recommender(recommender, tokenizer, output / "recommender", weights)
    ranker = GenerativeRanker.from_pretrained(
        output / "recommender", domain.catalogue.item_ids, num_beams=training.num_beams
    )
    others = untrained_rankers(domain.interactions, texts=domain.catalogue.texts)
    rankers = {arguments.name or output.name: ranker, **others}
    rows = compare(
        rankers,
        domain.name,
        domain.interactions,
        arguments.seed,
        mask_seen=arguments.mask_seen,
        intervals=BOOTSTRAP_SAMPLES,
    )
    rows[0]["train_users"] = arguments.train_users
    write_json(output / "results.json", rows)
    shown = short_table(rows)
    if trainer is not None:  # what was not trained here keeps the card of its own training
        facts |= {"evaluations": [Evaluation.from_result(domain.name, rows[0])], "comparison": shown}
        finish_model(trainer, output / "recommender", facts, pushed)
    print(markdown_table(shown))
    return rows[0]
