r"""RecBase's pre-training on several domains: one item tokenizer on the embeddings of their texts, and a decoder.

    utgrec pretrain --model recbase --config recbase_small --data data/sports data/games \
        --tokenizer.text_encoder sentence-transformers/all-MiniLM-L6-v2 --output_dir runs/recbase
    utgrec pretrain --config recbase_minilm --data data/sports data/games --catalogues data/beauty \
        --output_dir runs/recbase

A domain is a folder with items.{parquet,jsonl,jsonl.gz,csv} and sequences.* or interactions.*. Writes tokenizer/,
items/<domain>/ (semantic IDs) and recommender/.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from accelerate import PartialState

from trainers.arguments import parse_sections
from trainers.commands.pretraining import (
    MADE,
    STAGES,
    PretrainingArguments,
    made_tokenizer,
    name_repositories,
    train_and_save,
    write_semantic_ids,
)
from trainers.data.domains import check_trainable, load_catalogues, load_domains
from trainers.data.synthetic import PRETRAINING_DOMAINS
from trainers.hub.model_facts import health_facts
from trainers.methods.catalogue_health import health_of_domains
from trainers.methods.content_walks import walking_domain
from trainers.methods.plans import check_recbase_curriculum, plan_recbase, show_plans
from trainers.methods.recbase import (
    RECBASE_SECTIONS,
    RecBaseArguments,
    RecBaseTokenizerArguments,
    codebooks_of,
    load_semantic_ids,
    new_recbase,
    train_recbase_tokenizer,
)
from trainers.methods.recbase_tokenizer import RecBaseTokenizerTrainingArguments
from trainers.methods.runs import check_output, data_facts, finish_model, place_training
from trainers.recommender_trainer import RecommenderTrainingArguments
from trainers.runtime.run_file import run_values

# What --help shows; --help-all shows the rest.
SHOWN = (
    "data",
    "output_dir",
    "model",
    "catalogues",
    "stage",
    "k_core",
    "resume",
    "dry_run",
    "push_to_hub",
    "hub_model_id",
    "seed",
    "tokenizer.text_encoder",
    "tokenizer.introductions",
    "tokenizer.codebook_size",
    "tokenizer.num_train_epochs",
    "tokenizer.per_device_train_batch_size",
    "tokenizer.learning_rate",
    "recommender.size",
    "recommender.domain_temperature",
    "recommender.num_train_epochs",
    "recommender.per_device_train_batch_size",
    "recommender.learning_rate",
    "recommender.max_history",
    "recommender.num_beams",
    "recommender.early_stopping_patience",
)


@dataclass
class PretrainArguments(PretrainingArguments):
    model: Literal["recbase"] = field(
        default="recbase", metadata={"help": "What to pre-train: this; the others have flags of their own."}
    )
    catalogues: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Folders of more domains, of which RecBase reads the items alone: those to recommend from without "
            "their interactions. The tokenizer learns them, and the recommender which are alike."
        },
    )


def run(
    arguments: PretrainArguments,
    tokenizer_arguments: RecBaseTokenizerArguments,
    tokenizer_training: RecBaseTokenizerTrainingArguments,
    recommender_arguments: RecBaseArguments,
    training: RecommenderTrainingArguments,
) -> None:
    output = Path(arguments.output_dir)
    told = run_values(
        arguments,
        tokenizer=(tokenizer_arguments, tokenizer_training),
        recommender=(recommender_arguments, training),
    )
    name_repositories(arguments, tokenizer_training, training)
    place_training(training, output / "checkpoints" / "recommender", arguments.seed)
    templates = tokenizer_arguments.templates()
    more = load_catalogues(arguments.catalogues, templates, arguments.text_fields)
    for catalogue in more:
        if len(catalogue) < 2 and recommender_arguments.walks_per_item:
            raise SystemExit(f"--catalogues: {catalogue.name} has one item, and none that is like it.")
    domains = load_domains(
        arguments.data,
        builtin=PRETRAINING_DOMAINS,
        k_core=arguments.k_core,
        check_images=False,
        templates={name: template for name, template in templates.items() if name not in {each.name for each in more}},
        text_fields=arguments.text_fields,
    )
    twice = {each.name for each in more} & {domain.name for domain in domains}
    if twice:
        raise SystemExit(f"--catalogues: {', '.join(sorted(twice))} in --data, too; a domain is one or the other.")
    catalogues = [*(domain.catalogue for domain in domains), *more]
    state = PartialState()
    for domain in domains:
        state.print(domain)
    for catalogue in more:
        state.print(f"{catalogue.name}: {len(catalogue):,} items, and no interactions")
    if arguments.stage in ("all", "recommender") and not recommender_arguments.walks_per_item:
        check_trainable(domains)
    check_output(arguments, *MADE[arguments.stage], (tokenizer_training, training), ("pretrain", told))
    if arguments.dry_run:
        sections = tokenizer_arguments, tokenizer_training, recommender_arguments, training
        plans = plan_recbase(domains, *sections, made_tokenizer(arguments), catalogues=more)
        return show_plans(plans[STAGES[arguments.stage]])

    if arguments.stage in ("all", "tokenizer"):  # identifies the items, too
        if not arguments.resume:
            check_recbase_curriculum(sum(map(len, catalogues)), tokenizer_arguments, tokenizer_training)
        items = train_recbase_tokenizer(
            tokenizer_arguments,
            tokenizer_training,
            catalogues,
            output,
            arguments.seed,
            arguments.resume,
            training.max_history,
            arguments.allow_collapsed_codes,
        )
        if state.is_main_process:
            assert items.trainer is not None
            fingerprint = items.tokenizers[domains[0].name].fingerprint
            items.trainer.card_facts |= data_facts("RecBase item tokenizer", domains, more)
            health = health_of_domains(items.network, items.assignments, catalogues, domains)
            items.trainer.card_facts |= health_facts(health)
            facts = {"license": arguments.license, "fingerprint": fingerprint}
            finish_model(items.trainer, output / "tokenizer", facts)
    if arguments.stage == "tokenize":
        if state.is_main_process:
            write_semantic_ids(output, catalogues, arguments.allow_collapsed_codes, domains)
        state.wait_for_everyone()
    if arguments.stage in ("all", "recommender"):
        tokenizers = load_semantic_ids(output, catalogues)
        codebooks = codebooks_of(output) if recommender_arguments.warm_start else None
        recommender = new_recbase(recommender_arguments, tokenizers[domains[0].name], arguments.seed, codebooks)
        walks = []
        if recommender_arguments.walks_per_item:
            walks = [
                walking_domain(
                    each,
                    tokenizers[each.name],
                    output / "embeddings" / each.name,
                    arguments.seed,
                    walks_per_item=recommender_arguments.walks_per_item,
                )
                for each in more
            ]
        patience = recommender_arguments.early_stopping_patience
        train_and_save(recommender, domains, tokenizers, training, arguments, patience, walks)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, by default the program's."""
    run(*parse_sections(PretrainArguments, RECBASE_SECTIONS, __doc__, argv, SHOWN))
