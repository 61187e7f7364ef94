"""Fine-tunes a pre-trained UTGRec, or RecBase, on a new domain, or trains one from scratch on it, and evaluates it.

    accelerate launch -m trainers finetune --config small --pretrained runs/pretrained \
        --data builtin --output_dir runs/office

RecBase's item tokenizer stays as it is for every domain: it gives the domain's items identifiers without training,
unless items/<domain>/ of the pre-trained folder has them.

    accelerate launch -m trainers finetune --config recbase_small --pretrained runs/recbase \
        --data data/beauty --output_dir runs/recbase-beauty

From scratch, for comparison (network and recommender are described by the configuration):

    accelerate launch -m trainers finetune --config small --data builtin \
        --output_dir runs/office-scratch

The paper's ablations: `--tokenizer_mode frozen` (no tokenizer fine-tuning), `--tokenizer_mode full` (codebook matrices
too), `--new_recommender` (no recommender pre-training), no `--pretrained` (no pre-training at all). Those of the
network are the flags `--tokenizer.codebook_structure residual`, `--tokenizer.alignment_weight 0` and
`--tokenizer.co_reconstruction_weight 0` of pretrain.py: a pre-trained network keeps its losses and architecture.

Few-shot: `--train_users 0.01` trains on a hundredth of the users, drawn by the seed, `--train_users 0` not at all (the
pre-trained models as they are). Validation and test stay those of all users.

Writes `tokenizer/` (network, processor, the domain's item index), `recommender/` (with an index-only copy of the
tokenizer) and `results.json` to the output folder.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from accelerate import PartialState
from transformers import AutoConfig, PreTrainedModel

from hub_cards import Evaluation
from modeling_utgrec import (
    RecBaseConfig,
    RecBaseForCausalLM,
    UTGRecForConditionalGeneration,
    UTGRecTokenizerConfig,
)
from tokenization_items import UniversalItemTokenizer
from tokenization_items.item_index import CODES_NAME
from tokenization_items.text_template import TextTemplate
from trainers.arguments import given_value, parse_sections
from trainers.data.domains import Domain, load_domains
from trainers.data.synthetic import DOWNSTREAM_DOMAIN
from trainers.evaluation.protocol import evaluate, render_table
from trainers.hub.model_facts import assignment_facts
from trainers.item_tokenizer_trainer import ItemTokenizerTrainer, ItemTokenizerTrainingArguments
from trainers.methods.recbase import (
    RECBASE_SECTIONS,
    RecBaseArguments,
    RecBaseTokenizerArguments,
    codebooks_of,
    load_identifiers,
    new_recbase,
    train_recbase_tokenizer,
)
from trainers.methods.recbase_tokenizer import ITEMS_FOLDER, TOKENIZER_FOLDER, RecBaseTokenizerTrainingArguments
from trainers.methods.runs import (
    finish_model,
    gathered_weights,
    place_training,
    save_recommender,
    tokenize,
    train_recommender,
)
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
from trainers.rankers.generative import GenerativeRanker
from trainers.recommender_trainer import RecommenderTrainingArguments

INTERVALS = 1000  # bootstrap samples
METRICS = ("recall@5", "recall@10", "ndcg@5", "ndcg@10")


@dataclass
class FinetuneArguments:
    data: list[str] = field(metadata={"help": "Folder of the new domain, or 'builtin'."})
    output_dir: str = field(metadata={"help": "Where the results go."})
    pretrained: str | None = field(
        default=None, metadata={"help": "Output folder of pretrain.py; none: from scratch."}
    )
    model: Literal["utgrec", "recbase"] = field(
        default="utgrec", metadata={"help": "What to train; what --pretrained is, if that is given."}
    )
    tokenizer_mode: Literal["finetune", "frozen", "full"] = field(
        default="finetune",
        metadata={"help": "Fine-tune the tokenizer with C_root and C_leaf frozen, not at all, or with them."},
    )
    new_recommender: bool = field(default=False, metadata={"help": "Start the recommender from random weights."})
    k_core: int = field(default=0, metadata={"help": "Keep users and items with so many interactions; 0: all."})
    train_users: float = field(
        default=1.0,
        metadata={"help": "Share of the users whose training interactions are used; 0: nothing is trained."},
    )
    mask_seen: bool = field(default=False, metadata={"help": "Never recommend items of the history, in the test."})
    resume: bool = field(default=False, metadata={"help": "Go on from the last checkpoint of each stage."})
    license: str | None = field(default=None, metadata={"help": "Licence of the models, for their cards."})
    seed: int = field(default=0, metadata={"help": "Seed of weights and training."})
    name: str | None = field(default=None, metadata={"help": "The model's name in results.json."})

    def __post_init__(self):
        if not 0 <= self.train_users <= 1:
            raise SystemExit(f"--train_users is a share between 0 and 1, got {self.train_users}.")
        if self.train_users == 0 and (self.pretrained is None or self.new_recommender):
            raise SystemExit("--train_users 0 trains nothing: it needs --pretrained, and no --new_recommender.")


def run(
    arguments: FinetuneArguments,
    network_arguments: NetworkArguments,
    tokenizer_training: ItemTokenizerTrainingArguments,
    recommender_arguments: RecommenderArguments,
    recommender_training: RecommenderTrainingArguments,
) -> dict[str, Any] | None:
    """Trains, saves and evaluates; returns the row of `results.json` on the main process."""
    output = Path(arguments.output_dir)
    place_training(tokenizer_training, output / "checkpoints" / "tokenizer", arguments.seed)
    place_training(recommender_training, output / "checkpoints" / "recommender", arguments.seed)
    domains = [load_domain(arguments)]
    state = PartialState()
    facts: dict[str, Any] = {}
    pushed = None
    tokenizer, trainer = finetune_tokenizer(
        domains, arguments, network_arguments, tokenizer_training, recommender_training
    )
    if state.is_main_process:
        tokenizer, report = tokenize(tokenizer, domains[0].catalogue)
        print(f"{domains[0].name}: {report}")
        tokenizer.save_pretrained(output / "tokenizer")
        facts = {"license": arguments.license, "fingerprint": tokenizer.fingerprint}
        facts |= assignment_facts(report, tokenizer.index.level_sizes)
        pushed = None if trainer is None else finish_model(trainer, output / "tokenizer", facts)
    state.wait_for_everyone()
    tokenizer = UniversalItemTokenizer.from_pretrained(output / "tokenizer")

    recommender = initial_recommender(arguments, recommender_arguments, tokenizer)
    return train_and_evaluate(
        recommender, tokenizer, domains[0], recommender_arguments, recommender_training, arguments, facts, pushed
    )


def run_recbase(
    arguments: FinetuneArguments,
    tokenizer_arguments: RecBaseTokenizerArguments,
    tokenizer_training: RecBaseTokenizerTrainingArguments,
    recommender_arguments: RecBaseArguments,
    training: RecommenderTrainingArguments,
) -> dict[str, Any] | None:
    """As `run`; a tokenizer that is there stays as it is."""
    output = Path(arguments.output_dir)
    place_training(training, output / "checkpoints" / "recommender", arguments.seed)
    domain = load_domain(arguments, tokenizer_arguments.templates())
    tokenizer = recbase_identifiers(domain, arguments, tokenizer_arguments, tokenizer_training, training.max_history)
    if arguments.pretrained is None or arguments.new_recommender:
        folder = arguments.pretrained or output
        codebooks = codebooks_of(folder) if recommender_arguments.warm_start else None
        recommender = new_recbase(recommender_arguments, tokenizer, arguments.seed, codebooks)
    else:
        recommender = RecBaseForCausalLM.from_pretrained(Path(arguments.pretrained) / "recommender")
    facts = {"license": arguments.license, "num_items": len(tokenizer)}
    return train_and_evaluate(recommender, tokenizer, domain, recommender_arguments, training, arguments, facts)


def recbase_identifiers(
    domain: Domain,
    arguments: FinetuneArguments,
    tokenizer_arguments: RecBaseTokenizerArguments,
    tokenizer_training: RecBaseTokenizerTrainingArguments,
    max_history: int,
) -> UniversalItemTokenizer:
    """The domain's identifiers: those that the pre-trained folder or the output folder has, or new ones by the
    pre-trained tokenizer, or by one trained on the domain."""
    output, state = Path(arguments.output_dir), PartialState()
    for folder in filter(None, (arguments.pretrained, arguments.output_dir)):
        if (Path(folder) / ITEMS_FOLDER / domain.name / CODES_NAME).is_file():
            state.print(f"{domain.name}: identifiers of {folder} are taken as they are")
            return load_identifiers(folder, [domain.catalogue])[domain.name]
    if arguments.pretrained is None:
        train_recbase_tokenizer(
            tokenizer_arguments,
            tokenizer_training,
            [domain.catalogue],
            output,
            arguments.seed,
            arguments.resume,
            max_history,
        )
    elif state.is_main_process:
        tokenizer, report = tokenize(
            UniversalItemTokenizer.from_pretrained(Path(arguments.pretrained) / TOKENIZER_FOLDER), domain.catalogue
        )
        print(f"{domain.name}: {report}")
        tokenizer.save_pretrained(output / ITEMS_FOLDER / domain.name, include_network=False)
    state.wait_for_everyone()
    return load_identifiers(output, [domain.catalogue])[domain.name]


def load_domain(arguments: FinetuneArguments, templates: dict[str, TextTemplate] | None = None) -> Domain:
    domains = load_domains(
        arguments.data,
        builtin=[DOWNSTREAM_DOMAIN],
        k_core=arguments.k_core,
        check_images=not templates,
        templates=templates,
    )
    if len(domains) != 1:
        raise SystemExit(f"Fine-tuning takes one domain, --data has {len(domains)}: {[d.name for d in domains]}.")
    domain = domains[0]
    if arguments.train_users < 1:
        few = domain.interactions.sample_training_users(arguments.train_users, arguments.seed)
        domain = replace(domain, interactions=few)
    PartialState().print(domain)
    return domain


def train_and_evaluate(
    recommender: PreTrainedModel,
    tokenizer: UniversalItemTokenizer,
    domain: Domain,
    recommender_arguments: RecommenderArguments | RecBaseArguments,
    training: RecommenderTrainingArguments,
    arguments: FinetuneArguments,
    facts: dict[str, Any],
    pushed: dict[str, str] | None = None,
) -> dict[str, Any] | None:
    output = Path(arguments.output_dir)
    trainer, weights = None, None
    if arguments.train_users:
        trainer = train_recommender(
            recommender,
            [domain],
            {domain.name: tokenizer},
            training,
            recommender_arguments.early_stopping_patience,
            resume=arguments.resume,
        )
        weights = gathered_weights(trainer)
    if not PartialState().is_main_process:
        return None
    save_recommender(recommender, tokenizer, output / "recommender", weights)
    ranker = GenerativeRanker.from_pretrained(
        output / "recommender", domain.catalogue.item_ids, num_beams=training.num_beams
    )
    result = evaluate(ranker, domain.interactions, mask_seen=arguments.mask_seen, intervals=INTERVALS)
    row = {**result, "domain": domain.name, "model": arguments.name or output.name, "seed": arguments.seed}
    row["train_users"] = arguments.train_users
    write_json(output / "results.json", [row])
    if trainer is not None:  # what was not trained here keeps the card of its own training
        facts["evaluations"] = [Evaluation.from_result(domain.name, result)]
        finish_model(trainer, output / "recommender", facts, pushed)
    print(render_table([{key: row[key] for key in ("domain", "model", "seed", *METRICS, "num_users", "seen")}]))
    return row


def finetune_tokenizer(
    domains: list[Domain], arguments, network_arguments, training, recommender_training
) -> tuple[UniversalItemTokenizer, ItemTokenizerTrainer | None]:
    """The item tokenizer for the new domain: pre-trained and fine-tuned, pre-trained only, or from scratch; and who
    trained it."""
    if arguments.pretrained and (arguments.tokenizer_mode == "frozen" or not arguments.train_users):
        return UniversalItemTokenizer.from_pretrained(Path(arguments.pretrained) / "tokenizer"), None
    catalogue, _ = joint_catalogue(domains)
    latents = image_targets(catalogue, network_arguments)
    if arguments.pretrained:
        pretrained = UniversalItemTokenizer.from_pretrained(Path(arguments.pretrained) / "tokenizer")
        network, processor = pretrained.network, pretrained.processor
        training.freeze_codes = arguments.tokenizer_mode == "finetune"
    else:
        network, processor = build_network(network_arguments, catalogue, latents, arguments.seed)
    trainer = train_item_tokenizer(network, processor, domains, latents, training, resume=arguments.resume)
    return UniversalItemTokenizer.from_network(network, processor, recommender_training.max_history), trainer


def initial_recommender(arguments, recommender_arguments, tokenizer) -> UTGRecForConditionalGeneration:
    """The recommender to start from; a pre-trained one now belongs to the fine-tuned tokenizer."""
    if arguments.pretrained is None or arguments.new_recommender:
        # Without the network's weights.
        config = UTGRecTokenizerConfig.from_pretrained(Path(arguments.output_dir) / "tokenizer")
        return new_recommender(recommender_arguments, tokenizer, config, arguments.seed)
    recommender = UTGRecForConditionalGeneration.from_pretrained(Path(arguments.pretrained) / "recommender")
    recommender.config.item_tokenizer_fingerprint = tokenizer.fingerprint
    return recommender


def write_json(path: Path, value: Any) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(temporary, path)


def is_recbase(argv: Sequence[str] | None) -> bool:
    """Whether RecBase is to be trained: the folder of --pretrained says so, or else --model."""
    pretrained = given_value("pretrained", argv)
    if pretrained is None:
        return given_value("model", argv) == "recbase"
    return AutoConfig.from_pretrained(Path(pretrained) / "recommender").model_type == RecBaseConfig.model_type


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, by default the program's."""
    if is_recbase(argv):
        run_recbase(*parse_sections(FinetuneArguments, RECBASE_SECTIONS, __doc__, argv))
    else:
        run(*parse_sections(FinetuneArguments, SECTIONS, __doc__, argv))
