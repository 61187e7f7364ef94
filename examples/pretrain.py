"""Pre-trains UTGRec on several domains: item tokenizer, identifiers, recommender.

The built-in catalogue, on a laptop:

    accelerate launch examples/pretrain.py --config examples/configs/small.yaml --data builtin \
        --output_dir runs/pretrained

Your own domains, each a folder with items.{parquet,jsonl,jsonl.gz,csv} and sequences.* or interactions.*, with a text
encoder as backbone:

    accelerate launch examples/pretrain.py --data data/sports data/games --output_dir runs/pretrained \
        --tokenizer.backbone sentence-transformers/all-MiniLM-L6-v2 --tokenizer.autoencoder none

The paper's scale, on 16 GPUs:

    accelerate launch examples/pretrain.py --config examples/configs/paper.yaml --data data --output_dir runs/paper

To the Hub, during the training and at its end, as org/office-tokenizer and org/office-recommender:

    accelerate launch examples/pretrain.py --data data/sports --output_dir runs/pretrained \
        --push_to_hub --hub_model_id org/office

One stage alone (tokenizer, tokenize, recommender), going on where a stopped training was:

    accelerate launch examples/pretrain.py --data data/sports --output_dir runs/pretrained --stage recommender --resume

Writes `tokenizer/` (network and processor), `items/<domain>/` (identifiers) and `recommender/` to the output folder.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from accelerate import PartialState

from modeling_utgrec import UTGRecForConditionalGeneration, UTGRecTokenizerConfig
from tokenization_items import UniversalItemTokenizer
from trainers.arguments import parse_sections
from trainers.domains import Domain, load_domains
from trainers.item_tokenizer_trainer import ItemTokenizerTrainingArguments
from trainers.recommender_trainer import RecommenderTrainingArguments
from trainers.stages import (
    SECTIONS,
    NetworkArguments,
    RecommenderArguments,
    build_network,
    finish_model,
    image_targets,
    joint_catalogue,
    new_recommender,
    place_training,
    save_recommender,
    shared_identifiers,
    tokenize,
    train_item_tokenizer,
    train_recommender,
)
from trainers.synthetic import PRETRAINING_DOMAINS


@dataclass
class PretrainArguments:
    data: list[str] = field(
        metadata={"help": "Folders of domains, a folder of such folders, or 'builtin' for the built-in catalogue."}
    )
    output_dir: str = field(metadata={"help": "Where the results go."})
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


def main(
    arguments: PretrainArguments,
    network_arguments: NetworkArguments,
    tokenizer_training: ItemTokenizerTrainingArguments,
    recommender_arguments: RecommenderArguments,
    recommender_training: RecommenderTrainingArguments,
) -> None:
    output = Path(arguments.output_dir)
    if arguments.push_to_hub:
        for kind, training in (("tokenizer", tokenizer_training), ("recommender", recommender_training)):
            training.push_to_hub = True
            training.hub_model_id = f"{arguments.hub_model_id or output.absolute().name}-{kind}"
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
            write_identifiers(output, domains)
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


def write_identifiers(output: Path, domains: list[Domain]) -> None:
    tokenizer = UniversalItemTokenizer.from_pretrained(output / "tokenizer")
    tokenizers = {}
    for domain in domains:
        tokenizers[domain.name], report = tokenize(tokenizer, domain)
        print(f"{domain.name}: {report}")
        tokenizers[domain.name].save_pretrained(output / "items" / domain.name, include_network=False)
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
    trainer = train_recommender(
        recommender,
        domains,
        tokenizers,
        training,
        recommender_arguments.early_stopping_patience,
        resume=arguments.resume,
    )
    if trainer.is_world_process_zero():
        save_recommender(recommender, None, output / "recommender")
        finish_model(trainer, output / "recommender", {"license": arguments.license})


if __name__ == "__main__":
    main(*parse_sections(PretrainArguments, SECTIONS, __doc__))
