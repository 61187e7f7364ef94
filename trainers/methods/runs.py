"""Steps of every method's training: where it writes, what it resumes, when it stops, what is saved and sent."""

import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from accelerate import PartialState
from transformers import (
    EarlyStoppingCallback,
    PreTrainedConfig,
    PreTrainedModel,
    TrainerCallback,
    TrainingArguments,
)
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer_utils import IntervalStrategy

from hub_cards import method_named
from modeling_utgrec.generation_mixin import ItemRecommendation
from tokenization_items.catalogue import Catalogue
from tokenization_items.collision_report import AssignmentReport, group_sizes
from tokenization_items.files import check_writable, updating_folder
from tokenization_items.item_index import ItemIndex
from tokenization_items.item_memory import MEMORY_NAME
from tokenization_items.network_reference import NetworkReference
from tokenization_items.tokenization_items import UniversalItemTokenizer
from trainers.data.domains import Domain
from trainers.hub.data_facts import sizes
from trainers.hub.model_facts import method_of
from trainers.hub_trainer import HubTrainer
from trainers.rankers.item_rows import save_item_ids
from trainers.ranking_trainer import RankingTrainer
from trainers.recommender_trainer import EvaluationData, RecommenderTrainer, RecommenderTrainingArguments
from trainers.runtime.callbacks import TimeLimitCallback
from trainers.runtime.checkpoints import CheckpointError, hub_checkpoint, newest_checkpoint
from trainers.runtime.run_file import read_run_file, write_run_file
from trainers.training_data.next_item_windows import TrainingData

logger = logging.getLogger(__name__)
Training = TypeVar("Training", bound=TrainingArguments)


class ResumeArguments(Protocol):
    """Flags of a command that trains into a folder."""

    output_dir: str
    resume: bool
    allow_partial_resume: bool
    overwrite: bool
    dry_run: bool


# What makes a run another one, beside --data; values of its sections may change, as for more epochs.
OF_THE_RUN = ("model", "seed", "train_users", "k_core")
# What of it is read from elsewhere.
READ_BY_THE_RUN = ("data", "semantic_ids", "text_encoder", "embeddings", "image_encoder", "image_embeddings")


def _check_same_run(before: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    """Raises SystemExit if a run that is to go on was told otherwise what is trained, and on what: checkpoints of
    another one would be taken for its own. Folders count by their last part, as they may have moved."""
    if "data" not in before:  # an early release wrote none
        return
    pairs = [(f"--{name}", before[name], told[name]) for name in OF_THE_RUN if name in before and name in told]
    # a run that began at random is another one than one that is pre-trained
    read = [name for name in READ_BY_THE_RUN if name in before and name in told] + ["pretrained"]
    pairs += [(f"--{name}", _last_parts(before.get(name)), _last_parts(told.get(name))) for name in read]
    other = [f"{flag} was {old}, is {new}" for flag, old, new in pairs if old != new]
    if other:
        raise SystemExit(
            f"--resume goes on with the run that is there, which was another one: {'; '.join(other)}. Give what it "
            "was given, or another --output_dir; --overwrite starts anew."
        )


def _last_parts(folders: str | Sequence[str] | None) -> str | None:
    """The names of folders, or models of the Hub, wherever they lie."""
    if folders is None:
        return None
    return " ".join(Path(folder).resolve().name for folder in ([folders] if isinstance(folders, str) else folders))


def check_output(
    arguments: ResumeArguments,
    made: Iterable[str],
    stages: Iterable[str],
    trainings: Iterable[TrainingArguments] = (),
    told: tuple[str, dict[str, Any]] | None = None,
) -> None:
    """
    Looks, before any work, at what the output folder holds of an earlier run. Of a dry run nothing is changed.

    Args:
        arguments (`ResumeArguments`): the command's flags; `allow_partial_resume` is passed on to the trainings.
        made (`Iterable[str]`): what this run will make there last; what is there of it was finished.
        stages (`Iterable[str]`): the folders within to which this run's trainings write, as patterns.
        trainings (`Iterable[TrainingArguments]`, *optional*, defaults to `()`): arguments of the run's trainings.
        told (`tuple[str, dict]`, *optional*): the command and its values, see [`write_run_file`], which the folder
            keeps.

    Raises:
        SystemExit: if the folder holds a finished model and neither `--overwrite` nor `--resume` is given, or an
            unfinished training; or if `--resume` is given for a run of other data, or of another seed.
    """
    for training in trainings:
        if hasattr(training, "allow_partial_resume"):
            training.allow_partial_resume |= arguments.allow_partial_resume
    if arguments.resume and arguments.overwrite:
        raise SystemExit("--resume goes on with what is there, --overwrite starts anew: give one of them.")
    if arguments.allow_partial_resume and not arguments.resume:
        raise SystemExit("--allow_partial_resume is for --resume.")
    output, state = Path(arguments.output_dir), PartialState()
    if arguments.resume and told is not None:
        _check_same_run(read_run_file(output), told[1])
    if arguments.overwrite:
        # a later --resume must not take these checkpoints for its own
        if state.is_main_process and not arguments.dry_run:
            for stage in stages:
                for path in output.glob(stage):
                    shutil.rmtree(path, ignore_errors=True)
        state.wait_for_everyone()
    elif not arguments.resume:
        finished = [str(output / name) for name in made if (output / name).exists()]
        if finished:
            raise SystemExit(
                f"{finished[0]} is there, of a run that finished. To keep it, give another --output_dir; --overwrite "
                "trains anew and replaces it when the new model is complete."
            )
        found = (path for stage in stages for path in output.glob(f"{stage}/*checkpoint-*"))
        unfinished = sorted(path.parent for path in found)
        if unfinished:
            raise SystemExit(
                f"{unfinished[0]} holds checkpoints of a run that was stopped: --resume goes on from the last one, "
                "--overwrite starts anew."
            )
    if told is not None and state.is_main_process and not arguments.dry_run:
        write_run_file(output, *told)


def stopping(
    training: TrainingArguments, patience: int | None = None, minutes: float | None = None
) -> list[TrainerCallback]:
    """Callbacks that end a training early.

    Args:
        training (`TrainingArguments`): of the training.
        patience (`int`, *optional*): evaluations without a better validation metric; a training that does not validate
            has none, which a warning says.
        minutes (`float`, *optional*): time; the learning rate's schedule is then fitted to it.
    """
    callbacks: list[TrainerCallback] = []
    if patience is not None and training.eval_strategy != IntervalStrategy.NO:
        callbacks.append(EarlyStoppingCallback(patience))
    elif patience is not None and training.process_index == 0:
        logger.warning(f"Nothing is validated (eval_strategy no), so no patience of {patience} ends the training.")
    if minutes is not None:
        callbacks.append(TimeLimitCallback(60 * minutes))
    return callbacks


def place_training(training: TrainingArguments, folder: Path, seed: int) -> None:
    """Where a training writes its checkpoints, and its seed.

    Raises:
        OSError: if no files can be written there, which would be known after the first epoch.
        ValueError: if it is to be pushed and its repository has no name: the folder's would say nothing.
    """
    if training.push_to_hub and training.hub_model_id is None:
        raise ValueError(f"push_to_hub needs a name for the repository of {folder.name}: give its hub_model_id.")
    check_writable(folder)
    training.output_dir = str(folder)
    training.seed = seed
    training.dataloader_pin_memory = training.dataloader_pin_memory and torch.cuda.is_available()


def stage_before(training: Training, name: str, epochs: float, **changes: Any) -> Training:
    """
    Arguments of a training that goes before another one, with its optimizer and batch.

    Args:
        training (`TrainingArguments`): of the one that follows. How long that is, how it is validated, where it is
            pushed and what checkpoint it goes on from is of that one alone.
        name (`str`): behind the name of its folder.
        epochs (`float`): passes over the data.
        changes: further arguments, or others.
    """
    own: dict[str, Any] = {"output_dir": f"{training.output_dir}-{name}", "num_train_epochs": epochs, "max_steps": -1}
    own |= {"eval_strategy": "no", "eval_on_start": False, "load_best_model_at_end": False}
    own |= {"push_to_hub": False, "resume_from_checkpoint": None}
    return replace(training, **own | changes)


def last_checkpoint(training: TrainingArguments) -> str | None:
    """The latest whole checkpoint of a training: the folder's, or else the one in the repository that it is pushed to,
    or `None` if it has not written any yet.

    Raises:
        CheckpointError: if there are checkpoints and none is whole, see [`newest_checkpoint`].
    """
    partial = getattr(training, "allow_partial_resume", False)
    found = newest_checkpoint(training.output_dir, training.world_size, partial)
    if found is None and training.push_to_hub and training.hub_model_id is not None:
        place = training.hub_model_id, training.hub_revision, training.hub_token
        try:
            return hub_checkpoint(*place, training.world_size, partial)
        except CheckpointError:
            raise
        except ValueError:  # a new repository, or one without checkpoints
            return None
    return None if found is None else str(found)


def data_facts(kind: str, domains: list[Domain], catalogues: Sequence[Catalogue] = ()) -> dict[str, Any]:
    """What the card of a model says of the data that it was trained on; of `catalogues` it read the items alone."""
    rows = [{"Domain": domain.name, **sizes(domain)} for domain in domains]
    rows += [{"Domain": each.name, "Items": len(each), "Users": 0, "Interactions": 0} for each in catalogues]
    return {"name": f"{kind} for {', '.join(row['Domain'] for row in rows)}", "training_data": rows}


def tokenize(
    tokenizer: UniversalItemTokenizer, catalogue: Catalogue
) -> tuple[UniversalItemTokenizer, AssignmentReport]:
    """A tokenizer with the same network, which its copies name as they find it, and an index of one domain's items;
    the report has what was quantized."""
    if torch.cuda.is_available():
        tokenizer.network.to("cuda")  # type: ignore[arg-type]
    assert tokenizer.processor is not None  # it comes with the network
    domain_tokenizer = UniversalItemTokenizer.from_network(
        tokenizer.network, tokenizer.processor, tokenizer.max_history
    )
    domain_tokenizer.network_reference = tokenizer.network_reference
    report = domain_tokenizer.add_items(catalogue, keep_residuals=True)
    return domain_tokenizer, report


def shared_semantic_ids(tokenizers: dict[str, UniversalItemTokenizer]) -> int:
    """Items whose semantic ID an item of another domain has too. Each domain has its own index: no error."""
    codes = np.concatenate([tokenizer.index.codes for tokenizer in tokenizers.values()])
    return int((group_sizes(codes) > 1).sum())


def training_data(domain: Domain, index: ItemIndex) -> TrainingData:
    """The training part of a domain's sequences, with the semantic IDs and content vectors that an index has."""
    rows = index.rows(domain.catalogue.item_ids)
    content = None if index.content is None else index.content[rows]
    return TrainingData(domain.interactions.training_part(), index.token_table[rows], content)


def train_recommender(
    recommender: ItemRecommendation,
    domains: list[Domain],
    tokenizers: dict[str, UniversalItemTokenizer],
    training: RecommenderTrainingArguments,
    early_stopping_patience: int | None = None,
    resume: bool = False,
    minutes: float | None = None,
    walks: Sequence[Domain] = (),
    method: str | None = None,
) -> RecommenderTrainer:
    """Trains a recommender, [`UTGRecForConditionalGeneration`], [`RecBaseForCausalLM`] or [`ItemLevelForCausalLM`], in
    place on the training part of all domains' sequences, mixed; every position is a target.

    Validation, if `training.eval_strategy` asks for it, is on each domain's validation items. `walks` are domains with
    generated interactions, see [`trainers.methods.content_walks`]: they are trained on, too. `method` is the
    name in [`hub_cards.METHODS`] that the card gives the model; a T5's semantic IDs may be any method's, so without it
    its card cites none.
    """
    for tokenizer in tokenizers.values():
        tokenizer.check_recommender(recommender)
    data = {domain.name: training_data(domain, tokenizers[domain.name].index) for domain in [*domains, *walks]}
    evaluation = {
        domain.name: EvaluationData(domain.interactions, tokenizers[domain.name].index) for domain in domains
    }
    trainer = RecommenderTrainer(
        model=recommender,
        args=training,
        train_dataset=data,
        evaluation=evaluation if len(domains) > 1 else next(iter(evaluation.values())),
        callbacks=stopping(training, early_stopping_patience, minutes),
    )
    named = method_named(method or method_of(recommender.config))
    kind = f"{named.title} recommender" if named else "Recommender"
    trainer.card_facts |= data_facts(kind, domains, [domain.catalogue for domain in walks])
    if method is not None:
        trainer.card_facts["method"] = method
    if len(domains) == 1:
        trainer.domain = domains[0].name
    trainer.train(resume_from_checkpoint=last_checkpoint(training) if resume else None)
    return trainer


def changed_settings(config: PreTrainedConfig) -> dict[str, Any]:
    """Settings of a configuration that are no defaults, without what the first save of its model adds to them."""
    added = ("architectures", "auto_map", "dtype")
    return {name: value for name, value in config.to_diff_dict().items() if name not in added}


def gathered_weights(trainer: RankingTrainer) -> dict[str, torch.Tensor] | None:
    """Weights that are sharded over the processes (ZeRO-3), put together on the main one; else `None`, the model has
    them. Every process calls this."""
    return trainer.accelerator.get_state_dict(trainer.model_wrapped) if is_deepspeed_zero3_enabled() else None


def save_recommender(
    recommender: PreTrainedModel,
    tokenizer: UniversalItemTokenizer | None,
    folder: str | Path,
    weights: dict[str, torch.Tensor] | None = None,
    item_ids: Sequence[str] | None = None,
) -> None:
    """Saves a recommender, and the index of its items beside it so that recommending needs no network; of a sequential
    one, which has none, its `item_ids`. What was there is replaced in one step; a memory of it, which was chosen for
    another recommender, is removed. `weights` are those of [`gathered_weights`]."""
    with updating_folder(folder) as working:
        (working / MEMORY_NAME).unlink(missing_ok=True)
        recommender.save_pretrained(working, state_dict=weights)
        if tokenizer is not None:
            tokenizer.check_recommender(recommender)
            tokenizer.max_history = recommender.config.max_history  # an item tokenizer's training may have had another
            tokenizer.save_pretrained(working, include_network=False)
        if item_ids is not None:
            save_item_ids(working, item_ids)


def save_tokenizer(tokenizer: UniversalItemTokenizer, folder: str | Path, include_network: bool = True) -> None:
    """Saves an item tokenizer to a folder of its own, in one step."""
    with updating_folder(folder) as working:
        tokenizer.save_pretrained(working, include_network=include_network)
    if include_network:
        tokenizer.network_reference = NetworkReference(str(Path(folder).absolute()))


def finish_model(
    trainer: HubTrainer, folder: str | Path, facts: dict[str, Any], network: dict[str, str] | None = None
) -> dict[str, str] | None:
    """Writes the card of a model that was saved to a folder, and sends the folder if the training is pushed.

    Args:
        trainer (`HubTrainer`): the model's trainer.
        folder (`str` or `Path`): where the model is.
        facts (`dict[str, Any]`): for the card, see [`HubTrainer.card_facts`].
        network (`dict[str, str]`, *optional*): where the item tokenizer was sent, for a recommender.

    Returns:
        Where the folder was sent, `None` if it was not.
    """
    trainer.card_facts |= facts
    trainer.save_card(folder)
    if not trainer.args.push_to_hub:
        return None
    commit = trainer.push_folder(folder, network=network)
    return {"name_or_path": str(trainer.hub_model_id), "revision": commit.oid}
