"""S3-Rec's pre-training on the domain that it is then fine-tuned on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import set_seed

from modeling_utgrec import S3RecConfig, S3RecForNextItem, S3RecForPreTraining
from trainers.data.interactions import Interactions
from trainers.data.item_attributes import ItemAttributes
from trainers.methods.item_tables import digest
from trainers.methods.runs import last_checkpoint, stage_before, stopping
from trainers.sequential_trainer import SequentialTrainer, SequentialTrainingArguments


def attribute_table(attributes: ItemAttributes) -> tuple[np.ndarray, int]:
    """Attributes of all fields together: int64 `[items, most of an item]` from 1, 0 for none, and their number."""
    starts = np.cumsum([0, *(len(known) for known in attributes.values.values())])
    fields = zip(starts, attributes.rows.values(), strict=False)
    rows = [
        np.concatenate(parts) for parts in zip(*([each + start for each in of] for start, of in fields), strict=True)
    ]
    most = max(1, max(map(len, rows)))
    return np.stack([np.pad(row + 1, (0, most - len(row))) for row in rows]).astype(np.int64), int(starts[-1])


def pretrain_s3rec(
    model: S3RecForNextItem,
    part: Interactions,
    inputs: Mapping[str, Any],
    training: SequentialTrainingArguments,
    epochs: float,
    minutes: float | None = None,
    resume: bool = False,
) -> SequentialTrainer:
    """
    Trains the encoder of a model, in place, by the four tasks of [`S3RecForPreTraining`].

    Args:
        model ([`S3RecForNextItem`]): its configuration has the weights of the tasks.
        part ([`Interactions`]): the training part.
        inputs (`Mapping[str, Any]`): the items' `attributes`.
        training ([`SequentialTrainingArguments`]): of the fine-tuning, whose optimizer and batch this has.
        epochs (`float`): passes over all prefixes.
        minutes (`float`, *optional*): most time.
        resume (`bool`, *optional*, defaults to `False`): go on from the last checkpoint.
    """
    table, number = attribute_table(inputs["attributes"])
    values = model.config.to_dict() | {
        "num_attributes": number,
        "attributes_per_item": table.shape[1],
        "items_fingerprint": digest(table),
    }
    set_seed(training.seed)
    pretraining = S3RecForPreTraining(S3RecConfig(**values)).set_items(torch.from_numpy(table))
    own = stage_before(training, "pretraining", epochs, horizon=1)
    trainer = SequentialTrainer(pretraining, own, part, callbacks=stopping(own, None, minutes))
    trainer.train(resume_from_checkpoint=last_checkpoint(own) if resume else None)
    # the heads and the attributes' embeddings are of no further use
    model.model.load_state_dict(pretraining.model.state_dict())
    return trainer
