r"""RecBase's fine-tuning on a new domain, or its training from scratch on it, and the evaluation.

    utgrec finetune --config recbase_small --pretrained runs/recbase --data data/beauty \
        --output_dir runs/recbase-beauty

The item tokenizer stays as it is for every domain: it gives the domain's items semantic IDs without training, unless
items/<domain>/ of the pre-trained folder has them. Writes items/<domain>/, recommender/ and results.json.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from accelerate import PartialState

from modeling_utgrec import RecBaseForCausalLM
from tokenization_items import UniversalItemTokenizer
from tokenization_items.item_index import CODES_NAME
from tokenization_items.text_template import TextTemplate
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
from trainers.hub.download import find_part
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
from trainers.methods.recbase_tokenizer import ITEMS_FOLDER, TOKENIZER_FOLDER, RecBaseTokenizerTrainingArguments
from trainers.methods.runs import check_output, place_training, save_tokenizer, tokenize
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
    "new_recommender",
    "k_core",
    "train_users",
    "mask_seen",
    "resume",
    "overwrite",
    "dry_run",
    "seed",
    "name",
    "tokenizer.text_encoder",
    "tokenizer.introductions",
    "tokenizer.num_levels",
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
    "recommender.eval_strategy",
    "recommender.save_strategy",
)


@dataclass
class FinetuneArguments(FinetuningArguments):
    model: Literal["recbase"] = field(
        default="recbase", metadata={"help": "What to train: this, or utgrec, which has other flags."}
    )


def run(
    arguments: FinetuneArguments,
    tokenizer_arguments: RecBaseTokenizerArguments,
    tokenizer_training: RecBaseTokenizerTrainingArguments,
    recommender_arguments: RecBaseArguments,
    training: RecommenderTrainingArguments,
) -> dict[str, Any] | None:
    """Trains the recommender, saves and evaluates; returns the row of `results.json` on the main process."""
    output = Path(arguments.output_dir)
    told = run_values(
        arguments,
        tokenizer=(tokenizer_arguments, tokenizer_training),
        recommender=(recommender_arguments, training),
    )
    place_training(training, output / "checkpoints" / "recommender", arguments.seed)
    domain = load_domain(arguments, tokenizer_arguments.templates(template_of_pretraining(arguments)))
    if arguments.train_users:
        check_validated(domain.interactions, training, domain.name)
    start = pretrained_recommender(arguments)
    check_output(arguments, *MADE, (tokenizer_training, training), ("finetune", told))
    if arguments.dry_run:
        sections = tokenizer_arguments, tokenizer_training, recommender_arguments, training
        found = None
        if arguments.pretrained is not None:
            found = find_part(arguments.pretrained, TOKENIZER_FOLDER, arguments.revision)
        plans = plan_recbase([domain], *sections, found, start) if arguments.train_users else []
        show_plans(plans if found is None else plans[1:])
        return None
    tokenizer = recbase_semantic_ids(domain, arguments, tokenizer_arguments, tokenizer_training, training.max_history)
    if start is None:
        source = arguments.pretrained or output
        codebooks = codebooks_of(source, arguments.revision) if recommender_arguments.warm_start else None
        recommender = new_recbase(recommender_arguments, tokenizer, arguments.seed, codebooks)
    else:
        recommender = RecBaseForCausalLM.from_pretrained(start.name, revision=start.revision)
    facts = {"license": arguments.license, "num_items": len(tokenizer)}
    patience = recommender_arguments.early_stopping_patience
    return train_and_evaluate(recommender, tokenizer, domain, training, arguments, facts, patience)


def template_of_pretraining(arguments: FinetuneArguments) -> TextTemplate | None:
    """What puts together the texts that a pre-trained item tokenizer reads; None where there is none."""
    if arguments.pretrained is None:
        return None
    tokenizer = pretrained_tokenizer(arguments)
    return tokenizer.template if tokenizer.has_network else None


def recbase_semantic_ids(
    domain: Domain,
    arguments: FinetuneArguments,
    tokenizer_arguments: RecBaseTokenizerArguments,
    tokenizer_training: RecBaseTokenizerTrainingArguments,
    max_history: int,
) -> UniversalItemTokenizer:
    """The domain's semantic IDs: those that the pre-trained folder or the output folder has, or new ones by the
    pre-trained tokenizer, or by one trained on the domain."""
    output, state = Path(arguments.output_dir), PartialState()
    own = None if arguments.overwrite else arguments.output_dir
    for folder in filter(None, (arguments.pretrained, own)):
        if (Path(folder) / ITEMS_FOLDER / domain.name / CODES_NAME).is_file():
            state.print(f"{domain.name}: semantic IDs of {folder} are taken as they are")
            return load_semantic_ids(folder, [domain.catalogue])[domain.name]
    if arguments.pretrained is None:
        if not arguments.resume:
            check_recbase_curriculum(len(domain.catalogue), tokenizer_arguments, tokenizer_training)
        train_recbase_tokenizer(
            tokenizer_arguments,
            tokenizer_training,
            [domain.catalogue],
            output,
            arguments.seed,
            arguments.resume,
            max_history,
            arguments.allow_collapsed_codes,
        )
    elif state.is_main_process:
        tokenizer, report = tokenize(pretrained_tokenizer(arguments), domain.catalogue)
        print(f"{domain.name}: {report}")
        report.check_collapse(tokenizer.index.level_sizes, arguments.allow_collapsed_codes)
        save_tokenizer(tokenizer, output / ITEMS_FOLDER / domain.name, include_network=False)
    state.wait_for_everyone()
    return load_semantic_ids(output, [domain.catalogue])[domain.name]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, by default the program's."""
    run(*parse_sections(FinetuneArguments, RECBASE_SECTIONS, __doc__, argv, SHOWN))
