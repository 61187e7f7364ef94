"""Rows of the quality table that are sequential baselines with other settings: those that others reached their figures
with, as far as they are known, and longer targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainers.methods.published import Published


@dataclass(frozen=True)
class SequentialRow:
    """
    A sequential baseline and what of it is not as usual.

    Args:
        method: of [`trainers.methods.sequential_methods.SEQUENTIAL`].
        arguments: of [`trainers.methods.sequential.SequentialArguments`].
        training: of [`trainers.sequential_trainer.SequentialTrainingArguments`].
        published: whose settings they are; None: the method's authors'.
    """

    method: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    published: Published | None = None


# What a run here cannot have stays a difference: its "here" is None.
ROWS: dict[str, SequentialRow] = {
    "bsarec-recboard": SequentialRow(
        "bsarec",
        {
            "hidden_size": 64,
            "num_layers": 2,
            "num_heads": 1,
            "hidden_dropout": 0.5,
            "attention_dropout": 0.5,
            "own": ["alpha=0.7", "num_low_frequencies=5"],
        },
        {
            "learning_rate": 1e-4,
            "per_device_train_batch_size": 256,
            "num_train_epochs": 200,
            "weight_decay": 1e-4,
            "max_grad_norm": 0.0,
        },
        Published(
            "MTandHJ/RecBoard, BSARec/configs/Amazon2014Beauty_550_LOU.yaml and BSARec/main.py",
            {
                "hidden_size": 64,
                "num_layers": 2,
                "num_heads": 1,
                "hidden_dropout": 0.5,
                "attention_dropout": 0.5,
                "max_history": 50,
                "alpha": 0.7,
                "num_low_frequencies": 5,
                "loss": "ce",
                "learning_rate": 1e-4,
                "batch_size": 256,
                "num_train_epochs": 200,
                "optim": "Adam, its weight decay in the gradient",
                "weight_decay": 1e-4,
                "max_grad_norm": 0.0,
                "linear_initialization": "Glorot's normal",
            },
        ),
    ),
    "hstu-recboard": SequentialRow(
        "hstu",
        {
            "hidden_size": 64,
            "num_layers": 4,
            "num_heads": 2,
            "hidden_dropout": 0.2,
            "loss": "sampled",
            "num_negatives": 512,
            "log_q_correction": False,
            "own": ["temperature=0.1", "head_size=4", "embedding_dropout=0.4"],
        },
        {
            "learning_rate": 1e-3,
            "per_device_train_batch_size": 256,
            "num_train_epochs": 300,
            "weight_decay": 1e-3,
            "adam_beta2": 0.98,
            "max_grad_norm": 0.0,
        },
        Published(
            "MTandHJ/RecBoard, HSTU/configs/Amazon2014Beauty_550_LOU.yaml, HSTU/main.py and HSTU/modules.py",
            {
                "hidden_size": 64,
                "num_layers": 4,
                "num_heads": 2,
                "head_size": 4,
                "hidden_dropout": 0.2,
                "embedding_dropout": 0.4,
                "max_history": 50,
                "temperature": 0.1,
                "loss": "sampled",
                "num_negatives": 512,
                "log_q_correction": False,
                "negatives_of": "each target",
                "learning_rate": 1e-3,
                "batch_size": 256,
                "num_train_epochs": 300,
                "weight_decay": 1e-3,
                "adam_beta2": 0.98,
                "max_grad_norm": 0.0,
                "time_buckets": 128,
            },
        ),
    ),
    "sasrec-recboard": SequentialRow(
        "sasrec",
        {
            "hidden_size": 64,
            "num_layers": 1,
            "num_heads": 1,
            "hidden_dropout": 0.2,
            "attention_dropout": 0.2,
            "loss": "sampled",
            "num_negatives": 256,
            "log_q_correction": False,
        },
        {"learning_rate": 1e-3, "per_device_train_batch_size": 256, "num_train_epochs": 300, "max_grad_norm": 0.0},
        Published(
            "RecBoard's leader board, not checked: MTandHJ/RecBoard, SASRec/configs/Amazon2014Beauty_550_LOU.yaml has "
            "two blocks, dropout .4, binary cross-entropy, learning rate 5e-4 and batches of 512",
            {
                "hidden_size": 64,
                "num_layers": 1,
                "hidden_dropout": 0.2,
                "attention_dropout": 0.2,
                "max_history": 50,
                "loss": "sampled",
                "num_negatives": 256,
                "learning_rate": 1e-3,
            },
        ),
    ),
    "sasrec-horizon-10": SequentialRow("sasrec", training={"horizon": 10}),
    "hstu-horizon-10": SequentialRow("hstu", training={"horizon": 10}),
}
