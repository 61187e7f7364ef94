r"""UTGRec's pre-training on several domains: item tokenizer, semantic IDs, recommender.

    utgrec pretrain --config small --data builtin --output_dir runs/pretrained
    accelerate launch -m trainers pretrain --data data/sports data/games --output_dir runs/pretrained \
        --tokenizer.backbone sentence-transformers/all-MiniLM-L6-v2 --tokenizer.autoencoder none

A domain is a folder with items.{parquet,jsonl,jsonl.gz,csv} and sequences.* or interactions.*. Writes tokenizer/
(network and processor), items/<domain>/ (semantic IDs) and recommender/. `--model NAME --help` shows the flags of
recbase, item-level, unisrec, vq-rec and missrec.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from accelerate import PartialState

from modeling_utgrec import UTGRecForConditionalGeneration, UTGRecTokenizerConfig
from tokenization_items import UniversalItemTokenizer
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
from trainers.data.domains import Domain, check_trainable, load_domains
from trainers.data.synthetic import PRETRAINING_DOMAINS
from trainers.item_tokenizer_trainer import ItemTokenizerTrainingArguments
from trainers.methods.plans import check_utgrec_warmup, plan_utgrec, show_plans
from trainers.methods.runs import check_output, finish_model, place_training, save_tokenizer
from trainers.methods.utgrec import (
    SECTIONS,
    NetworkArguments,
    RecommenderArguments,
    build_network,
    image_targets,
    joint_catalogue,
    new_recommender,
    train_item_tokenizer,
)
from trainers.recommender_trainer import RecommenderTrainingArguments
from trainers.runtime.run_file import run_values

# What --help shows; --help-all shows the rest.
SHOWN = (
    "data",
    "output_dir",
    "model",
    "stage",
    "text_fields",
    "k_core",
    "resume",
    "overwrite",
    "dry_run",
    "license",
    "push_to_hub",
    "hub_model_id",
    "seed",
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
    "recommender.save_strategy",
)


@dataclass
class PretrainArguments(PretrainingArguments):
    model: Literal["utgrec"] = field(
        default="utgrec",
        metadata={"help": "What to pre-train: this; recbase, item-level, unisrec, ... have flags of their own."},
    )


def run(
    arguments: PretrainArguments,
    network_arguments: NetworkArguments,
    tokenizer_training: ItemTokenizerTrainingArguments,
    recommender_arguments: RecommenderArguments,
    recommender_training: RecommenderTrainingArguments,
) -> None:
    output = Path(arguments.output_dir)
    told = run_values(
        arguments,
        tokenizer=(network_arguments, tokenizer_training),
        recommender=(recommender_arguments, recommender_training),
    )
    name_repositories(arguments, tokenizer_training, recommender_training)
    place_training(tokenizer_training, output / "checkpoints" / "tokenizer", arguments.seed)
    place_training(recommender_training, output / "checkpoints" / "recommender", arguments.seed)
    domains = load_domains(
        arguments.data, builtin=PRETRAINING_DOMAINS, k_core=arguments.k_core, text_fields=arguments.text_fields
    )
    state = PartialState()
    for domain in domains:
        state.print(domain)
    if arguments.stage in ("all", "recommender"):
        check_trainable(domains)
    check_output(arguments, *MADE[arguments.stage], (tokenizer_training, recommender_training), ("pretrain", told))
    if arguments.dry_run:
        sections = network_arguments, tokenizer_training, recommender_arguments, recommender_training
        plans = plan_utgrec(domains, *sections, made_tokenizer(arguments))
        return show_plans(plans[STAGES[arguments.stage]])

    if arguments.stage in ("all", "tokenizer"):
        if not arguments.resume:
            check_utgrec_warmup(sum(len(domain.catalogue) for domain in domains), tokenizer_training)
        history = recommender_training.max_history
        pretrain_tokenizer(output, domains, network_arguments, tokenizer_training, arguments, history)
    if arguments.stage in ("all", "tokenize"):
        if state.is_main_process:
            catalogues = [domain.catalogue for domain in domains]
            write_semantic_ids(output, catalogues, arguments.allow_collapsed_codes, domains)
        state.wait_for_everyone()
    if arguments.stage in ("all", "recommender"):
        pretrain_recommender(output, domains, recommender_arguments, recommender_training, arguments)


def pretrain_tokenizer(
    output: Path,
    domains: list[Domain],
    network_arguments: NetworkArguments,
    training: ItemTokenizerTrainingArguments,
    arguments: PretrainArguments,
    max_history: int,
) -> None:
    catalogue, _ = joint_catalogue(domains)
    latents = image_targets(catalogue, network_arguments)
    network, processor = build_network(network_arguments, catalogue, latents, arguments.seed)
    trainer = train_item_tokenizer(network, processor, domains, latents, training, resume=arguments.resume)
    trainer.evaluate()
    if trainer.is_world_process_zero():
        tokenizer = UniversalItemTokenizer.from_network(network, processor, max_history)
        tokenizer.text_fields = catalogue.text_fields
        save_tokenizer(tokenizer, output / "tokenizer")
        facts = {"license": arguments.license, "fingerprint": tokenizer.fingerprint}
        finish_model(trainer, output / "tokenizer", facts)


def pretrain_recommender(
    output: Path,
    domains: list[Domain],
    recommender_arguments: RecommenderArguments,
    training: RecommenderTrainingArguments,
    arguments: PretrainArguments,
) -> None:
    tokenizer = UniversalItemTokenizer.from_pretrained(output / "tokenizer")
    tokenizers = {
        domain.name: UniversalItemTokenizer.from_pretrained(output / "items" / domain.name) for domain in domains
    }
    recommender: UTGRecForConditionalGeneration = new_recommender(
        recommender_arguments,
        tokenizer,
        UTGRecTokenizerConfig.from_pretrained(output / "tokenizer"),  # without the network's weights
        arguments.seed,
    )
    patience = recommender_arguments.early_stopping_patience
    train_and_save(recommender, domains, tokenizers, training, arguments, patience)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, by default the program's."""
    run(*parse_sections(PretrainArguments, SECTIONS, __doc__, argv, SHOWN))
