"""Pre-trains UTGRec, or RecBase, on several domains: item tokenizer, identifiers, recommender.

The built-in catalogue, on a laptop:

    accelerate launch -m trainers pretrain --config small --data builtin \
        --output_dir runs/pretrained

Your own domains, each a folder with items.{parquet,jsonl,jsonl.gz,csv} and sequences.* or interactions.*, with a text
encoder as backbone:

    accelerate launch -m trainers pretrain --data data/sports data/games --output_dir runs/pretrained \
        --tokenizer.backbone sentence-transformers/all-MiniLM-L6-v2 --tokenizer.autoencoder none

The paper's scale, on 16 GPUs:

    accelerate launch -m trainers pretrain --config paper --data data --output_dir runs/paper

To the Hub, during the training and at its end, as org/office-tokenizer and org/office-recommender:

    accelerate launch -m trainers pretrain --data data/sports --output_dir runs/pretrained \
        --push_to_hub --hub_model_id org/office

One stage alone (tokenizer, tokenize, recommender), going on where a stopped training was:

    accelerate launch -m trainers pretrain --data data/sports --output_dir runs/pretrained --stage recommender --resume

RecBase: one tokenizer on the embeddings of all domains' texts, and a decoder; small domains with more weight:

    accelerate launch -m trainers pretrain --model recbase --config recbase_small \
        --data data/sports data/games --output_dir runs/recbase --recommender.domain_temperature 2 \
        --tokenizer.text_encoder sentence-transformers/all-MiniLM-L6-v2

For domains whose interactions nobody has: the tokenizer learns their texts too, and the decoder which of their items
are alike:

    accelerate launch -m trainers pretrain --config recbase_minilm \
        --data data/sports data/games --catalogues data/beauty --output_dir runs/recbase

Its 1.5 billion parameters over 8 GPUs (ZeRO-3 shards weights, gradients and optimizer; ZeRO-2 all but the weights):

    accelerate launch --config_file examples/accelerate_configs/zero3.yaml -m trainers pretrain --model recbase \
        --config recbase --recommender.size large --data data --output_dir runs/recbase-large

Writes `tokenizer/` (network and processor), `items/<domain>/` (identifiers) and `recommender/` to the output folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from accelerate import PartialState

from modeling_utgrec import UTGRecForConditionalGeneration, UTGRecTokenizerConfig
from tokenization_items import Catalogue, UniversalItemTokenizer
from trainers.arguments import given_value, parse_sections
from trainers.data.domains import load_catalogues, load_domains
from trainers.data.synthetic import PRETRAINING_DOMAINS
from trainers.item_tokenizer_trainer import ItemTokenizerTrainingArguments
from trainers.methods.content_walks import walking_domain
from trainers.methods.recbase import (
    RECBASE_SECTIONS,
    RecBaseArguments,
    RecBaseTokenizerArguments,
    codebooks_of,
    load_identifiers,
    new_recbase,
    train_recbase_tokenizer,
)
from trainers.methods.recbase_tokenizer import RecBaseTokenizerTrainingArguments
from trainers.methods.runs import (
    data_facts,
    finish_model,
    gathered_weights,
    place_training,
    save_recommender,
    shared_identifiers,
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
from trainers.recommender_trainer import RecommenderTrainingArguments


@dataclass
class PretrainArguments:
    data: list[str] = field(
        metadata={"help": "Folders of domains, a folder of such folders, or 'builtin' for the built-in catalogue."}
    )
    output_dir: str = field(metadata={"help": "Where the results go."})
    model: Literal["utgrec", "recbase"] = field(default="utgrec", metadata={"help": "What to pre-train."})
    catalogues: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Folders of more domains, of which RecBase reads the items alone: those to recommend from without "
            "their interactions. The tokenizer learns them, and the recommender which are alike."
        },
    )
    stage: Literal["all", "tokenizer", "tokenize", "recommender"] = field(
        default="all", metadata={"help": "One stage alone; it takes what the earlier ones wrote to output_dir."}
    )
    k_core: int = field(default=0, metadata={"help": "Keep users and items with so many interactions; 0: all."})
    resume: bool = field(default=False, metadata={"help": "Go on from the last checkpoint of each stage."})
    license: str | None = field(default=None, metadata={"help": "Licence of the models, for their cards."})
    push_to_hub: bool = field(default=False, metadata={"help": "Push both models, at every save and at the end."})
    hub_model_id: str | None = field(
        default=None,
        metadata={"help": "Where to: -tokenizer and -recommender are added; default: the output folder's name."},
    )
    seed: int = field(default=0, metadata={"help": "Seed of weights and training."})


def run(
    arguments: PretrainArguments,
    network_arguments: NetworkArguments,
    tokenizer_training: ItemTokenizerTrainingArguments,
    recommender_arguments: RecommenderArguments,
    recommender_training: RecommenderTrainingArguments,
) -> None:
    if arguments.catalogues:
        raise SystemExit("--catalogues is for --model recbase: UTGRec's tokenizer learns from interactions, too.")
    output = Path(arguments.output_dir)
    name_repositories(arguments, tokenizer_training, recommender_training)
    place_training(tokenizer_training, output / "checkpoints" / "tokenizer", arguments.seed)
    place_training(recommender_training, output / "checkpoints" / "recommender", arguments.seed)
    domains = load_domains(arguments.data, builtin=PRETRAINING_DOMAINS, k_core=arguments.k_core)
    state = PartialState()
    for domain in domains:
        state.print(domain)

    if arguments.stage in ("all", "tokenizer"):
        pretrain_tokenizer(output, domains, network_arguments, tokenizer_training, arguments, recommender_training)
    if arguments.stage in ("all", "tokenize"):
        if state.is_main_process:
            write_identifiers(output, [domain.catalogue for domain in domains])
        state.wait_for_everyone()
    if arguments.stage in ("all", "recommender"):
        pretrain_recommender(output, domains, recommender_arguments, recommender_training, arguments)


def pretrain_tokenizer(output, domains, network_arguments, training, arguments, recommender_training) -> None:
    catalogue, _ = joint_catalogue(domains)
    latents = image_targets(catalogue, network_arguments)
    network, processor = build_network(network_arguments, catalogue, latents, arguments.seed)
    trainer = train_item_tokenizer(network, processor, domains, latents, training, resume=arguments.resume)
    trainer.evaluate()
    if trainer.is_world_process_zero():
        tokenizer = UniversalItemTokenizer.from_network(network, processor, recommender_training.max_history)
        tokenizer.save_pretrained(output / "tokenizer")
        facts = {"license": arguments.license, "fingerprint": tokenizer.fingerprint}
        finish_model(trainer, output / "tokenizer", facts)


def write_identifiers(output: Path, catalogues: list[Catalogue]) -> None:
    tokenizer = UniversalItemTokenizer.from_pretrained(output / "tokenizer")
    tokenizers = {}
    for catalogue in catalogues:
        name = catalogue.name
        tokenizers[name], report = tokenize(tokenizer, catalogue)
        print(f"{name}: {report}")
        tokenizers[name].save_pretrained(output / "items" / name, include_network=False)
    print(f"{shared_identifiers(tokenizers):,} items have an identifier that an item of another domain has too.")


def pretrain_recommender(output, domains, recommender_arguments, training, arguments) -> None:
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
    train_and_save(output, recommender, domains, tokenizers, recommender_arguments, training, arguments)


def train_and_save(
    output, recommender, domains, tokenizers, recommender_arguments, training, arguments, walks=()
) -> None:
    trainer = train_recommender(
        recommender,
        domains,
        tokenizers,
        training,
        recommender_arguments.early_stopping_patience,
        resume=arguments.resume,
        walks=walks,
    )
    weights = gathered_weights(trainer)
    if trainer.is_world_process_zero():
        save_recommender(recommender, None, output / "recommender", weights)
        finish_model(trainer, output / "recommender", {"license": arguments.license})


def run_recbase(
    arguments: PretrainArguments,
    tokenizer_arguments: RecBaseTokenizerArguments,
    tokenizer_training: RecBaseTokenizerTrainingArguments,
    recommender_arguments: RecBaseArguments,
    training: RecommenderTrainingArguments,
) -> None:
    output = Path(arguments.output_dir)
    name_repositories(arguments, tokenizer_training, training)
    place_training(training, output / "checkpoints" / "recommender", arguments.seed)
    templates = tokenizer_arguments.templates()
    more = load_catalogues(arguments.catalogues, templates)
    for catalogue in more:
        if len(catalogue) < 2 and recommender_arguments.walks_per_item:
            raise SystemExit(f"--catalogues: {catalogue.name} has one item, and none that is like it.")
    domains = load_domains(
        arguments.data,
        builtin=PRETRAINING_DOMAINS,
        k_core=arguments.k_core,
        check_images=False,
        templates={name: template for name, template in templates.items() if name not in {each.name for each in more}},
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

    if arguments.stage in ("all", "tokenizer"):  # identifies the items, too
        items = train_recbase_tokenizer(
            tokenizer_arguments,
            tokenizer_training,
            catalogues,
            output,
            arguments.seed,
            arguments.resume,
            training.max_history,
        )
        if state.is_main_process:
            fingerprint = items.tokenizers[domains[0].name].fingerprint
            items.trainer.card_facts |= data_facts("RecBase item tokenizer", domains, more)
            facts = {"license": arguments.license, "fingerprint": fingerprint}
            finish_model(items.trainer, output / "tokenizer", facts)
    if arguments.stage == "tokenize":
        if state.is_main_process:
            write_identifiers(output, catalogues)
        state.wait_for_everyone()
    if arguments.stage in ("all", "recommender"):
        tokenizers = load_identifiers(output, catalogues)
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
        train_and_save(output, recommender, domains, tokenizers, recommender_arguments, training, arguments, walks)


def name_repositories(arguments: PretrainArguments, tokenizer_training, recommender_training) -> None:
    if arguments.push_to_hub:
        name = arguments.hub_model_id or Path(arguments.output_dir).absolute().name
        for kind, training in (("tokenizer", tokenizer_training), ("recommender", recommender_training)):
            training.push_to_hub = True
            training.hub_model_id = f"{name}-{kind}"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, by default the program's."""
    if given_value("model", argv) == "recbase":
        run_recbase(*parse_sections(PretrainArguments, RECBASE_SECTIONS, __doc__, argv))
    else:
        run(*parse_sections(PretrainArguments, SECTIONS, __doc__, argv))
