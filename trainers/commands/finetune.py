"""UTGRec's fine-tuning on a new domain, or its training from scratch on it, and the evaluation.

    utgrec finetune --config small --pretrained runs/pretrained --data builtin --output_dir runs/office
    utgrec finetune --config small --data builtin --output_dir runs/office-scratch

The method is that of --pretrained; --model recbase is for RecBase from scratch. Writes tokenizer/ (network, processor,
the domain's item index), recommender/ (with an index-only copy of the tokenizer) and results.json. Defaults are the
paper's for fine-tuning: the recommender keeps the epoch that is best on the validation items.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from accelerate import PartialState

from modeling_utgrec import UTGRecForConditionalGeneration, UTGRecTokenizerConfig, UTGRecTokenizerModel
from tokenization_items import ItemProcessor, UniversalItemTokenizer
from trainers.arguments import parse_sections
from trainers.commands.finetuning import (
    MADE,
    FinetuningArguments,
    load_domain,
    pretrained_recommender,
    pretrained_tokenizer,
    train_and_evaluate,
)
from trainers.data.domains import Domain
from trainers.hub.download import ModelPlace, find_part
from trainers.hub.model_facts import assignment_facts, health_facts
from trainers.item_tokenizer_trainer import ItemTokenizerTrainer, ItemTokenizerTrainingArguments
from trainers.methods.catalogue_health import health_of_domains
from trainers.methods.plans import check_utgrec_warmup, plan_utgrec, show_plans
from trainers.methods.runs import check_output, finish_model, place_training, save_tokenizer, tokenize
from trainers.methods.utgrec import (
    FINETUNING_SECTIONS,
    NetworkArguments,
    RecommenderArguments,
    build_network,
    image_targets,
    joint_catalogue,
    new_recommender,
    train_item_tokenizer,
)
from trainers.ranking_trainer import check_validated
from trainers.recommender_trainer import RecommenderTrainingArguments
from trainers.runtime.run_file import run_values

# What --help shows; --help-all shows the rest.
SHOWN = (
    "data",
    "output_dir",
    "pretrained",
    "revision",
    "model",
    "tokenizer_mode",
    "new_recommender",
    "text_fields",
    "k_core",
    "train_users",
    "mask_seen",
    "resume",
    "overwrite",
    "dry_run",
    "seed",
    "name",
    "tokenizer.backbone",
    "tokenizer.autoencoder",
    "tokenizer.root_codebook_size",
    "tokenizer.leaf_codebook_size",
    "tokenizer.num_train_epochs",
    "tokenizer.per_device_train_batch_size",
    "tokenizer.learning_rate",
    "recommender.d_model",
    "recommender.num_layers",
    "recommender.num_train_epochs",
    "recommender.per_device_train_batch_size",
    "recommender.learning_rate",
    "recommender.max_history",
    "recommender.num_beams",
    "recommender.early_stopping_patience",
    "recommender.eval_strategy",
)


@dataclass
class FinetuneArguments(FinetuningArguments):
    model: Literal["utgrec"] = field(
        default="utgrec", metadata={"help": "What to train: this, or recbase, which has other flags."}
    )
    tokenizer_mode: Literal["finetune", "frozen", "full"] = field(
        default="finetune",
        metadata={"help": "Fine-tune the tokenizer with C_root and C_leaf frozen, not at all, or with them."},
    )


def run(
    arguments: FinetuneArguments,
    network_arguments: NetworkArguments,
    tokenizer_training: ItemTokenizerTrainingArguments,
    recommender_arguments: RecommenderArguments,
    recommender_training: RecommenderTrainingArguments,
) -> dict[str, Any] | None:
    """Trains, saves and evaluates; returns the row of `results.json` on the main process."""
    output = Path(arguments.output_dir)
    told = run_values(
        arguments,
        tokenizer=(network_arguments, tokenizer_training),
        recommender=(recommender_arguments, recommender_training),
    )
    place_training(tokenizer_training, output / "checkpoints" / "tokenizer", arguments.seed)
    place_training(recommender_training, output / "checkpoints" / "recommender", arguments.seed)
    domains = [load_domain(arguments)]
    if arguments.train_users:
        check_validated(domains[0].interactions, recommender_training, domains[0].name)
    start = pretrained_recommender(arguments)
    check_output(arguments, *MADE, (tokenizer_training, recommender_training), ("finetune", told))
    if arguments.dry_run:
        found, frozen = None, False
        if arguments.pretrained is not None:
            found = find_part(arguments.pretrained, "tokenizer", arguments.revision)
            frozen = arguments.tokenizer_mode == "frozen"
        sections = network_arguments, tokenizer_training, recommender_arguments, recommender_training
        plans = []
        if arguments.train_users:
            plans = plan_utgrec(domains, *sections, found, start, arguments.tokenizer_mode != "full")
        show_plans(plans[1:] if frozen else plans)
        return None
    if arguments.pretrained is None and not arguments.resume:
        check_utgrec_warmup(len(domains[0].catalogue), tokenizer_training)
    state = PartialState()
    facts: dict[str, Any] = {}
    pushed = None
    tokenizer, trainer = finetune_tokenizer(
        domains, arguments, network_arguments, tokenizer_training, recommender_training.max_history
    )
    if state.is_main_process:
        tokenizer, report = tokenize(tokenizer, domains[0].catalogue)
        print(f"{domains[0].name}: {report}")
        report.check_collapse(tokenizer.index.level_sizes, arguments.allow_collapsed_codes)
        save_tokenizer(tokenizer, output / "tokenizer")
        facts = {"license": arguments.license, "fingerprint": tokenizer.fingerprint}
        facts |= assignment_facts(report, tokenizer.index.level_sizes)
        reports, catalogues = {domains[0].name: report}, [domains[0].catalogue]
        facts |= health_facts(health_of_domains(tokenizer.encoding_network, reports, catalogues, domains))
        pushed = None if trainer is None else finish_model(trainer, output / "tokenizer", facts)
    state.wait_for_everyone()
    tokenizer = UniversalItemTokenizer.from_pretrained(output / "tokenizer")

    recommender = initial_recommender(start, arguments, recommender_arguments, tokenizer)
    return train_and_evaluate(
        recommender,
        tokenizer,
        domains[0],
        recommender_training,
        arguments,
        facts,
        recommender_arguments.early_stopping_patience,
        pushed,
    )


def finetune_tokenizer(
    domains: list[Domain],
    arguments: FinetuneArguments,
    network_arguments: NetworkArguments,
    training: ItemTokenizerTrainingArguments,
    max_history: int,
) -> tuple[UniversalItemTokenizer, ItemTokenizerTrainer | None]:
    """The item tokenizer for the new domain: pre-trained and fine-tuned, pre-trained only, or from scratch; and who
    trained it."""
    if arguments.pretrained and (arguments.tokenizer_mode == "frozen" or not arguments.train_users):
        tokenizer = pretrained_tokenizer(arguments)
        if arguments.train_users:
            tokenizer.max_history = max_history
        return tokenizer, None
    catalogue, _ = joint_catalogue(domains)
    latents = image_targets(catalogue, network_arguments)
    if arguments.pretrained:
        pretrained = pretrained_tokenizer(arguments)
        network, processor = pretrained.network, pretrained.processor
        assert isinstance(network, UTGRecTokenizerModel) and isinstance(processor, ItemProcessor)
        training.freeze_codes = arguments.tokenizer_mode == "finetune"
    else:
        network, processor = build_network(network_arguments, catalogue, latents, arguments.seed)
    trainer = train_item_tokenizer(network, processor, domains, latents, training, resume=arguments.resume)
    return UniversalItemTokenizer.from_network(network, processor, max_history), trainer


def initial_recommender(
    pretrained: ModelPlace | None,
    arguments: FinetuneArguments,
    recommender_arguments: RecommenderArguments,
    tokenizer: UniversalItemTokenizer,
) -> UTGRecForConditionalGeneration:
    """The recommender to start from; a pre-trained one now belongs to the fine-tuned tokenizer."""
    if pretrained is None:
        # Without the network's weights.
        config = UTGRecTokenizerConfig.from_pretrained(Path(arguments.output_dir) / "tokenizer")
        return new_recommender(recommender_arguments, tokenizer, config, arguments.seed)
    recommender = UTGRecForConditionalGeneration.from_pretrained(pretrained.name, revision=pretrained.revision)
    recommender.config.item_tokenizer_fingerprint = tokenizer.fingerprint
    return recommender


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, by default the program's."""
    run(*parse_sections(FinetuneArguments, FINETUNING_SECTIONS, __doc__, argv, SHOWN))
