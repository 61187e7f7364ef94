"""Sequential baselines by name, trained from interactions alone: SASRec, GRU4Rec, BERT4Rec, FMLP-Rec, BSARec, HSTU.

A new one is a configuration and a model in `modeling_utgrec`, and a row in `SEQUENTIAL`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from transformers import set_seed

from hub_cards import method_named
from modeling_utgrec import (
    BERT4RecConfig,
    BERT4RecForNextItem,
    BSARecConfig,
    BSARecForNextItem,
    FMLPRecConfig,
    FMLPRecForNextItem,
    GRU4RecConfig,
    GRU4RecForNextItem,
    HSTUConfig,
    HSTUForNextItem,
    SASRecConfig,
    SASRecForNextItem,
    SequentialConfig,
    SequentialForNextItem,
)
from trainers.data.domains import Domain
from trainers.methods.published import ForeignArgument, Published
from trainers.methods.runs import data_facts, last_checkpoint, stopping
from trainers.sequential_trainer import SequentialTrainer, SequentialTrainingArguments


@dataclass(frozen=True)
class SequentialMethod:
    """
    A sequential baseline.

    Args:
        config_class, model_class (`type`): of the model.
        published ([`Published`]): the authors' settings.
        variant (`Mapping[str, Any]`, *optional*): values of the configuration that make this row another one than the
            configuration's defaults.
    """

    config_class: type[SequentialConfig]
    model_class: type[SequentialForNextItem]
    published: Published
    variant: Mapping[str, Any] = field(default_factory=dict)


_BLOCKS = {"hidden_size": 64, "num_layers": 2, "hidden_dropout": 0.5, "max_history": 50, "learning_rate": 1e-3}
_SASREC = Published(
    "Kang & McAuley 2018, section IV-D, sparse data sets",
    {**_BLOCKS, "hidden_size": 50, "num_heads": 1, "attention_dropout": 0.5, "loss": "bce", "batch_size": 128},
)
# Where a source is a file, each value was compared with it.
SEQUENTIAL: dict[str, SequentialMethod] = {
    "sasrec": SequentialMethod(SASRecConfig, SASRecForNextItem, _SASREC),
    "sasrec-bce": SequentialMethod(SASRecConfig, SASRecForNextItem, _SASREC, {"loss": "bce"}),
    "gru4rec": SequentialMethod(
        GRU4RecConfig,
        GRU4RecForNextItem,
        Published(
            "RUCAIBox/RecBole, properties/model/GRU4Rec.yaml and overall.yaml, which tables of later papers use; "
            "max_history not checked",
            {
                **_BLOCKS,
                "num_layers": 1,
                "hidden_dropout": 0.3,
                "state_size": 128,
                "loss": "ce",
                "batch_size": 2048,
                "weight_decay": 0.0,
                "num_train_epochs": 300,
            },
        ),
    ),
    "bert4rec": SequentialMethod(
        BERT4RecConfig,
        BERT4RecForNextItem,
        Published(
            "FeiSun/BERT4Rec, run_beauty.sh, bert_train/bert_config_beauty_64.json and optimization.py, Amazon Beauty",
            {
                **_BLOCKS,
                "num_heads": 2,
                "attention_dropout": 0.2,
                "mask_ratio": 0.6,
                "learning_rate": 1e-4,
                "lr_scheduler_type": "linear",
                "warmup_steps": 100,
                "weight_decay": 0.01,
                "max_grad_norm": 5.0,
                "batch_size": 256,
                "num_train_epochs": "400000 steps",
            },
        ),
    ),
    "fmlp-rec": SequentialMethod(
        FMLPRecConfig,
        FMLPRecForNextItem,
        Published(
            "Woeee/FMLP-Rec, main.py, trainers.py and output/FMLPRec-Beauty-4eval.txt, Amazon Beauty",
            {**_BLOCKS, "loss": "bce", "batch_size": 256, "weight_decay": 0.0, "num_train_epochs": 200},
        ),
    ),
    "bsarec": SequentialMethod(
        BSARecConfig,
        BSARecForNextItem,
        Published(
            "yehjin-shin/BSARec, README.md, src/utils.py and src/output/BSARec_Beauty_best.log, Amazon Beauty",
            {
                **_BLOCKS,
                "num_heads": 1,
                "attention_dropout": 0.5,
                "alpha": 0.7,
                "num_low_frequencies": 5,
                "loss": "ce",
                "learning_rate": 5e-4,
                "batch_size": 256,
                "weight_decay": 0.0,
                "num_train_epochs": 200,
            },
        ),
    ),
    "hstu": SequentialMethod(
        HSTUConfig,
        HSTUForNextItem,
        Published(
            "facebookresearch/generative-recommenders, configs/amzn-books/hstu-sampled-softmax-n512-final.gin",
            {
                **_BLOCKS,
                "num_layers": 4,
                "num_heads": 4,
                "temperature": 0.05,
                "loss": "sampled",
                "num_negatives": 512,
                "log_q_correction": False,
                "batch_size": 128,
                "weight_decay": 0.0,
                "num_train_epochs": 201,
            },
        ),
    ),
}


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
    max_history: int = field(default=20, metadata={"help": "Last items of a history that the model reads."})
    own: list[str] = field(
        default_factory=list,
        metadata={"help": "What one method alone has, as alpha=0.5 of BSARec's configuration."},
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Evaluations without a better NDCG@10 before the training stops."}
    )

    def architecture(self, config_class: type[SequentialConfig]) -> dict[str, Any]:
        """The arguments of a configuration among these that are given.

        Raises:
            ForeignArgument: `own` names what the configuration has not, or is not `name=number`.
        """
        known = {each.name for each in fields(config_class)}
        given = {each.name: getattr(self, each.name) for each in fields(self) if each.name in known}
        for each in self.own:
            name, _, value = each.partition("=")
            if name not in known:
                raise ForeignArgument(f"{config_class.__name__} has no {name!r}; give name=number, got {each!r}.")
            try:
                given[name] = int(value) if value.lstrip("-").isdigit() else float(value)
            except ValueError:
                raise ForeignArgument(f"own: give name=number, as alpha=0.5, got {each!r}.") from None
        return {name: value for name, value in given.items() if value is not None}


def new_sequential(name: str, num_items: int, arguments: SequentialArguments, seed: int) -> SequentialForNextItem:
    """A baseline of [`SEQUENTIAL`] with random weights for a catalogue of so many items."""
    method = SEQUENTIAL[name]
    values = {**method.variant, **arguments.architecture(method.config_class)}
    config = method.config_class(num_items=num_items, **values)
    set_seed(seed)
    return method.model_class(config)


def train_sequential(
    name: str,
    domain: Domain,
    arguments: SequentialArguments,
    training: SequentialTrainingArguments,
    minutes: float | None = None,
    resume: bool = False,
) -> SequentialTrainer:
    """
    Trains a sequential baseline on the training part of a domain's interactions.

    Args:
        name (`str`): of [`SEQUENTIAL`].
        domain ([`Domain`]): items and interactions; validation, if `training.eval_strategy` asks for it, is on its
            validation items.
        arguments ([`SequentialArguments`]): the network and when to stop.
        training ([`SequentialTrainingArguments`]): its `output_dir` has the checkpoints; its seed is the weights'.
        minutes (`float`, *optional*): most time.
        resume (`bool`, *optional*, defaults to `False`): go on from the last checkpoint.
    """
    interactions = domain.interactions
    model = new_sequential(name, interactions.num_items, arguments, training.seed)
    callbacks = stopping(arguments.early_stopping_patience, minutes)
    trainer = SequentialTrainer(model, training, interactions.training_part(), interactions, callbacks=callbacks)
    method = method_named(model.config.model_type)
    title = name if method is None else method.title
    trainer.card_facts |= data_facts(title, [domain])
    trainer.domain = domain.name
    trainer.train(resume_from_checkpoint=last_checkpoint(training) if resume else None)
    return trainer
