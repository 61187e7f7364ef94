r"""Pre-training of a sequential baseline on several domains: UniSRec, VQ-Rec, MISSRec.

    utgrec pretrain --model unisrec --data data/sports data/games --output_dir runs/unisrec \
        --text_encoder sentence-transformers/all-MiniLM-L6-v2
    utgrec train-baseline --model unisrec --pretrained runs/unisrec --data data/beauty \
        --output_dir runs/beauty-unisrec --text_encoder sentence-transformers/all-MiniLM-L6-v2

A domain is a folder with items and interactions; its training part is learnt from. Writes recommender/, which has
nothing of any domain (neither ids nor content), and embeddings/ of each domain's texts, once as they are and once
without 15 % of their words, unless --embeddings names folders for the domains in their order. Settings are those of
the packaged configuration `contrastive`, unless --config gives others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from accelerate import PartialState
from transformers.trainer_utils import HubStrategy

from tokenization_items.item_embeddings import embed_items, load_embeddings
from tokenization_items.text_encoders import TextEncoder
from trainers.arguments import parse_sections
from trainers.commands.text_pretraining import TextPretrainingArguments, load_text_domains
from trainers.data.domains import Domain, check_trainable
from trainers.methods.item_tables import Content
from trainers.methods.plans import plan_sequential_pretraining, show_plans
from trainers.methods.runs import check_output, finish_model, gathered_weights, place_training, save_recommender
from trainers.methods.sequential import SequentialArguments
from trainers.methods.sequential_pretraining import (
    PRETRAINED,
    pretrain_sequential,
    pretraining_windows,
    with_fewer_words,
)
from trainers.runtime.run_file import run_values
from trainers.sequential_trainer import SequentialTrainingArguments

SECTIONS: dict[str, tuple[type, ...]] = {"sequential": (SequentialArguments, SequentialTrainingArguments)}
SHOWN = (
    "model",
    "data",
    "output_dir",
    "text_encoder",
    "embeddings",
    "image_embeddings",
    "minutes",
    "k_core",
    "resume",
    "overwrite",
    "dry_run",
    "license",
    "push_to_hub",
    "hub_model_id",
    "seed",
    "sequential.max_history",
    "sequential.num_train_epochs",
    "sequential.per_device_train_batch_size",
    "sequential.learning_rate",
    "sequential.save_strategy",
)


@dataclass
class PretrainSequentialArguments(TextPretrainingArguments):
    model: str = field(default="unisrec", metadata={"help": f"What to pre-train: {', '.join(PRETRAINED)}."})
    image_embeddings: list[str] = field(
        default_factory=list,
        metadata={"help": "Folders of image embeddings for missrec, one for each domain, 'none' for one without."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_embeddings and self.model != "missrec":
            raise SystemExit(f"--image_embeddings are for missrec, and {self.model} reads no images.")


def run(
    arguments: PretrainSequentialArguments, sequential: SequentialArguments, training: SequentialTrainingArguments
) -> None:
    output = Path(arguments.output_dir)
    told = run_values(arguments, sequential=(sequential, training))
    if arguments.push_to_hub:
        training.push_to_hub = True
        training.hub_model_id = arguments.hub_model_id or output.absolute().name
        training.hub_strategy = HubStrategy.END  # checkpoints have the items of all domains
    place_training(training, output / "checkpoints", arguments.seed)
    domains = load_text_domains(arguments)
    if arguments.image_embeddings and len(arguments.image_embeddings) != len(domains):
        raise SystemExit(f"--image_embeddings: {len(arguments.image_embeddings)} folders for {len(domains)} domains.")
    if len(domains) < 2:
        raise SystemExit(f"--data: pre-training contrasts several domains, and there is {domains[0].name} alone.")
    check_trainable(domains)
    pretraining_windows(arguments.model, domains, sequential, training)  # too few are known before texts are embedded
    check_output(arguments, ["recommender"], ["checkpoints"], [training], ("pretrain", told))
    if arguments.dry_run:
        return show_plans(plan_sequential_pretraining(arguments.model, domains, sequential, training))
    content, fewer_words = content_of(domains, arguments)
    trainer = pretrain_sequential(
        arguments.model,
        domains,
        content,
        sequential,
        training,
        fewer_words,
        images_of(domains, arguments),
        arguments.minutes,
        arguments.resume,
    )
    weights = gathered_weights(trainer)
    if not trainer.is_world_process_zero():
        return
    if weights is not None:
        trainer.model.load_state_dict(weights)
    save_recommender(trainer.model.without_items(), None, output / "recommender")  # type: ignore[operator]
    finish_model(trainer, output / "recommender", {"license": arguments.license, "num_items": 0})


def content_of(
    domains: list[Domain], arguments: PretrainSequentialArguments
) -> tuple[dict[str, Content], np.ndarray | None]:
    """Embeddings of each domain's texts, by name, and of all texts without some words, where there is an encoder."""
    if arguments.embeddings:
        folders = zip(domains, arguments.embeddings, strict=True)
        found = {
            each.name: Content.of_folder(folder, load_embeddings(folder, each.interactions.item_ids))
            for each, folder in folders
        }
        return found, None
    content, poorer = {}, []
    with PartialState().main_process_first():  # the others find it done
        encoder = TextEncoder.from_pretrained(str(arguments.text_encoder))
        for domain in domains:
            folder = Path(arguments.output_dir) / "embeddings" / domain.name
            embed_items(domain.catalogue, encoder, folder)
            less = with_fewer_words(domain.catalogue, arguments.seed)
            embed_items(less, encoder, f"{folder}-fewer-words")
            ids = domain.interactions.item_ids
            content[domain.name] = Content.of_folder(folder, load_embeddings(folder, ids))
            poorer.append(load_embeddings(f"{folder}-fewer-words", ids))
    return content, np.concatenate(poorer)


def images_of(domains: list[Domain], arguments: PretrainSequentialArguments) -> dict[str, Content]:
    """Embeddings of images, by the names of the domains that have any."""
    return {
        each.name: Content.of_folder(folder, load_embeddings(folder, each.interactions.item_ids, allow_missing=True))
        for each, folder in zip(domains, arguments.image_embeddings, strict=False)
        if folder != "none"
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, by default the program's."""
    run(*parse_sections(PretrainSequentialArguments, SECTIONS, __doc__, argv, SHOWN, "contrastive"))
