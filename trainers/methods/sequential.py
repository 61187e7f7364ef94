"""Sequential baselines: what a command says of their networks, how they are made, new or pre-trained, and trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from huggingface_hub.errors import StrictDataclassFieldValidationError
from torch import Tensor
from transformers import AutoConfig, set_seed
from transformers.utils import CONFIG_NAME

from hub_cards import method_named
from modeling_utgrec import (
    BERT4RecConfig,
    SequentialConfig,
    SequentialForNextItem,
    VQRecConfig,
    VQRecForNextItem,
)
from modeling_utgrec.checkpoint_safety import SAFELY
from modeling_utgrec.modeling_content import ContentForNextItem, ReadsContent
from tokenization_items.hub_folders import HubError, model_folder
from trainers.data.domains import Domain
from trainers.data.interactions import Interactions
from trainers.hub.download import find_model
from trainers.methods.item_tables import ItemTables
from trainers.methods.product_quantizer import stored_quantizer
from trainers.methods.published import ForeignArgument
from trainers.methods.runs import data_facts, last_checkpoint, stage_before, stopping
from trainers.methods.sequential_methods import SEQUENTIAL
from trainers.sequential_trainer import SequentialTrainer, SequentialTrainingArguments

# Sizes that a pre-trained model fixes.
PRETRAINED_SIZES: tuple[str, ...] = ("hidden_size", "num_layers", "num_heads", "max_history", "inner_size")
PRETRAINED_SIZES += ("num_experts", "num_groups", "codebook_size")
CONTENT_SIZES = ("content_size", "image_size")
CONTENT_SPACES = ("content_fingerprint", "image_fingerprint")
# BERT4Rec's `mask_ratio` by data set: FeiSun/BERT4Rec, run_beauty.sh, run_steam.sh, run_ml-1m.sh, run_ml-20m.sh, as in
# section 4.4 of the paper. Of other data the configuration's.
MASK_RATIOS = {"beauty": 0.6, "steam": 0.4, "ml1m": 0.2, "ml20m": 0.2}
CODE_MAP_EPOCHS = 5  # of VQ-Rec's first stage, in the authors' program


@dataclass
class SequentialArguments:
    """The network of a sequential baseline; what is not given is the method's."""

    hidden_size: int | None = field(default=None, metadata={"help": "Width."})
    num_layers: int | None = field(default=None, metadata={"help": "Blocks."})
    num_heads: int | None = field(default=None, metadata={"help": "Attention heads."})
    hidden_dropout: float | None = field(default=None, metadata={"help": "Dropout of embeddings and outputs."})
    attention_dropout: float | None = field(default=None, metadata={"help": "Dropout of attention weights."})
    loss: str | None = field(
        default=None, metadata={"help": "'ce' over all items, 'sampled' over some, or 'bce' with a negative each."}
    )
    num_negatives: int | None = field(default=None, metadata={"help": "Sampled items of a batch, of loss 'sampled'."})
    log_q_correction: bool | None = field(
        default=None, metadata={"help": "Whether loss 'sampled' estimates the one over all items; default: it does."}
    )
    mask_ratio: float | None = field(
        default=None,
        metadata={
            "help": "Share of items that BERT4Rec and S3-Rec's pre-training mask; default: BERT4Rec's published one "
            "for beauty (.6), steam (.4), ml-1m and ml-20m, else .2."
        },
    )
    max_history: int = field(default=20, metadata={"help": "Last items of a history that the model reads."})
    own: list[str] = field(
        default_factory=list,
        metadata={"help": "What one method alone has, as alpha=0.5 of BSARec's or fusion=mean of MISSRec's."},
    )
    freeze_encoder: bool = field(
        default=True, metadata={"help": "Leave the encoder of a pre-trained model and its positions as they are."}
    )
    code_map: Literal["learned", "random", "reuse"] = field(
        default="learned",
        metadata={
            "help": "How a pre-trained VQ-Rec takes new items: by codes of their own and a map to the pre-trained "
            "ones, learned or (as the authors' program) random, or by the pre-training's codes."
        },
    )
    pretraining_epochs: float = field(
        default=100.0, metadata={"help": "Passes of S3-Rec's pre-training over all prefixes of the sequences."}
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "Validations without a better NDCG@10 before the training stops."},
    )

    def architecture(self, config_class: type[SequentialConfig]) -> dict[str, Any]:
        """The arguments of a configuration among these that are given.

        Raises:
            ForeignArgument: `own` names what the configuration has not, is not `name=value`, or is of another type.
        """
        known = {each.name for each in fields(config_class)}
        given = {each.name: getattr(self, each.name) for each in fields(self) if each.name in known}
        for each in self.own:
            name, _, value = each.partition("=")
            if name not in known:
                raise ForeignArgument(f"{config_class.__name__} has no {name!r}; give name=value, got {each!r}.")
            if not value:
                raise ForeignArgument(f"own: give name=value, as alpha=0.5 or fusion=mean, got {each!r}.")
            given[name] = _plain(value)
            try:
                setattr(config_class(), name, given[name])
            except StrictDataclassFieldValidationError as error:
                raise ForeignArgument(f"own: {each} of {config_class.__name__}: {error.__cause__}.") from error
        return {name: value for name, value in given.items() if value is not None}


def _plain(value: str) -> int | float | bool | str:
    """A value of the command line: a number, true or false, else the word."""
    try:
        return int(value) if value.lstrip("-").isdigit() else float(value)
    except ValueError:
        return {"true": True, "false": False}.get(value, value)


def new_sequential(
    name: str, num_items: int, arguments: SequentialArguments, seed: int, items: ItemTables | None = None
) -> SequentialForNextItem:
    """A baseline of [`SEQUENTIAL`] with random weights for a catalogue of so many items, and with what these are made
    from, if they are made from anything."""
    method, items = SEQUENTIAL[name], items or ItemTables()
    values = {**method.variant, **arguments.architecture(method.config_class), **items.config}
    config = method.config_class(num_items=num_items, **values)
    set_seed(seed)
    return _with_items(method.model_class(config), items)


def published_mask_ratio(data: str) -> float | None:
    """BERT4Rec's `mask_ratio` for a data set of this name, in whatever spelling ("ml-1m", "ML_1M"), if it has one."""
    return MASK_RATIOS.get("".join(filter(str.isalnum, data.lower())))


def pretrained_sequential(
    name: str, folder: Path, num_items: int, arguments: SequentialArguments, seed: int, items: ItemTables
) -> SequentialForNextItem:
    """
    A baseline of [`SEQUENTIAL`] that was pre-trained on other domains, for a new catalogue.

    Args:
        name, num_items, arguments, seed, items: as [`new_sequential`]; the seed is of embeddings of ids, if there are
            any.
        folder (`Path`): of the model.

    Raises:
        ForeignArgument: the folder holds another method, or one of other sizes or other content.
    """
    method = SEQUENTIAL[name]
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if type(config) is not method.config_class or config.num_items:
        theirs = next(each for each, one in SEQUENTIAL.items() if one.config_class is method.config_class)
        raise ForeignArgument(
            f"--pretrained {folder} holds a {config.model_type} of {getattr(config, 'num_items', 'some')} items; it "
            f"takes what `utgrec pretrain --model {theirs}` left, which has none."
        )
    values = {**config.to_dict(), **method.variant, **arguments.architecture(method.config_class), **items.config}
    values["num_items"] = num_items
    for each in (*PRETRAINED_SIZES, *CONTENT_SIZES, *CONTENT_SPACES):
        there, here = getattr(config, each, None), values.get(each)
        if there != here and not (each in CONTENT_SPACES and None in (there, here)):
            raise ForeignArgument(
                f"--pretrained {folder} has {each} {there}, and {here} was given: "
                + (
                    f"embed the items as those of the pre-training were, by {config.content_encoder}."
                    if each in (*CONTENT_SIZES, *CONTENT_SPACES)
                    else f"leave it out, or give --sequential.{each} {there}."
                )
            )
    set_seed(seed)
    loading: Any = method.model_class.from_pretrained  # which gives two values
    model, found = loading(folder, config=method.config_class(**values), output_loading_info=True, **SAFELY)
    assert isinstance(model, SequentialForNextItem)
    # what a catalogue has of its own, and nothing else
    own = (*items.tables, "ids.weight", "present", "centroids", "interests")
    allowed = {f"model.embeddings.items.{each}" for each in own} | {"sharpness_offsets"}
    if found["missing_keys"] - allowed:
        raise ForeignArgument(f"--pretrained {folder} lacks {', '.join(sorted(found['missing_keys'] - allowed))}.")
    model.train()
    return _with_items(model, items)


def pretrained_folder(name: str | Path, revision: str | None = None) -> Path:
    """The folder of a pre-trained model: of the output folder of `utgrec pretrain` its `recommender`, else the folder
    itself, or that of a Hub id, which is downloaded.

    Raises:
        HubError: there is none.
    """
    inner = Path(name) / "recommender"
    there = find_model(inner if inner.is_dir() else name, revision)
    if not (there.folder / CONFIG_NAME).is_file():
        raise HubError(f"{name} holds no model and no folder recommender, as a finished pre-training leaves one.")
    return model_folder(there.name, ("config.json", "model.safetensors"), there.revision)


def learn_code_map(
    model: VQRecForNextItem,
    earlier: dict[str, Tensor],
    training: SequentialTrainingArguments,
    part: Interactions,
    random: bool,
    minutes: float | None = None,
) -> None:
    """
    VQ-Rec's first stage of fine-tuning: which code of the new domain's quantizer takes which pre-trained embedding
    (Hou et al. 2023, section 2.3.3). All else stays as it is.

    Args:
        model (`VQRecForNextItem`): pre-trained, with the new domain's items.
        earlier (`dict[str, Tensor]`): the pre-training's quantizer.
        training (`SequentialTrainingArguments`): of the second stage.
        part (`Interactions`): the training part.
        random (`bool`): draw the map in place of learning it.
        minutes (`float`, *optional*): most time.
    """
    model.start_code_map(earlier)
    if not random:
        own = stage_before(training, "code-map", CODE_MAP_EPOCHS, save_strategy="no")
        SequentialTrainer(model, own, part, callbacks=stopping(own, None, minutes)).train()
    model.finish_code_map(random)


def _with_items(model: SequentialForNextItem, items: ItemTables) -> SequentialForNextItem:
    if items.tables:
        assert isinstance(model, ReadsContent)
        model.set_items(**items.tables)
    return model


def train_sequential(
    name: str,
    domain: Domain,
    arguments: SequentialArguments,
    training: SequentialTrainingArguments,
    minutes: float | None = None,
    resume: bool = False,
    inputs: Mapping[str, Any] | None = None,
    pretrained: str | Path | None = None,
) -> SequentialTrainer:
    """
    Trains a sequential baseline on the training part of a domain's interactions.

    Args:
        name (`str`): of [`SEQUENTIAL`].
        domain ([`Domain`]): items and interactions; validation, if `training.eval_strategy` asks for it, is on its
            validation items.
        arguments ([`SequentialArguments`]): the network and when to stop.
        training ([`SequentialTrainingArguments`]): its `output_dir` has the checkpoints; its seed is the weights'.
        minutes (`float`, *optional*): most time; as much for a stage before, if the method has one.
        resume (`bool`, *optional*, defaults to `False`): go on from the last checkpoint.
        inputs (`Mapping[str, Any]`, *optional*): what is known of the items, by the names of the method's `inputs`.
        pretrained (`str` or `Path`, *optional*): a model to start from, see [`pretrained_folder`].
    """
    interactions, method, items = domain.interactions, SEQUENTIAL[name], ItemTables()
    if method.config_class is BERT4RecConfig and arguments.mask_ratio is None:
        arguments = replace(arguments, mask_ratio=published_mask_ratio(domain.name))
    part = interactions.training_part()
    source = None if pretrained is None else pretrained_folder(pretrained)
    checkpoint = last_checkpoint(training) if resume else None
    begins = checkpoint is None and not training.resume_from_checkpoint  # a checkpoint has what comes of stages before
    if method.tables is not None:
        values = {**method.variant, **arguments.architecture(method.config_class)}
        inputs = dict(inputs or {})
        if source is not None and method.config_class is VQRecConfig:
            there = AutoConfig.from_pretrained(source, trust_remote_code=False)
            values = {each: getattr(there, each, None) for each in ("num_groups", "codebook_size")} | values
        if source is not None and method.config_class is VQRecConfig and arguments.code_map == "reuse":
            inputs["quantizer"] = stored_quantizer(source)
        items = method.tables(part, inputs, values, training.seed)
    if source is None:
        model = new_sequential(name, interactions.num_items, arguments, training.seed, items)
    else:
        model = pretrained_sequential(name, source, interactions.num_items, arguments, training.seed, items)
        if isinstance(model, VQRecForNextItem) and arguments.code_map != "reuse" and begins:
            learn_code_map(model, stored_quantizer(source), training, part, arguments.code_map == "random", minutes)
        if arguments.freeze_encoder and isinstance(model, ContentForNextItem):
            model.freeze_encoder()
    if method.pretraining is not None and begins:
        method.pretraining(model, part, inputs, training, arguments.pretraining_epochs, minutes, resume)
    callbacks = stopping(training, arguments.early_stopping_patience, minutes)
    trainer = SequentialTrainer(model, training, part, interactions, callbacks=callbacks)
    method_name = method_named(model.config.model_type)
    title = name if method_name is None else method_name.title
    trainer.card_facts |= data_facts(title, [domain])
    trainer.domain = domain.name
    trainer.train(resume_from_checkpoint=checkpoint)
    return trainer
