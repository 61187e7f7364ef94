"""Training of an RQ-VAE or RecBase's tokenizer on a matrix of item embeddings."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset

from hub_cards import named
from modeling_utgrec.modeling_embedding_autoencoder import EmbeddingAutoencoder
from trainers.codebook_trainer import CodebookLoggingTrainer, CodebookTrainingArguments, check_items, loss_parts
from trainers.evaluation.codebooks import codebook_health, collision_rate
from trainers.runtime.callbacks import WarmupCallback
from trainers.runtime.processes import weighed
from trainers.runtime.trainer_arguments import CHECKPOINTING, EMBEDDINGS, MEANS, tell_negatives

# Items of one forward pass without gradient.
ROWS_AT_A_TIME = 4096


@dataclass
class EmbeddingTokenizerTrainingArguments(CodebookTrainingArguments):
    """
    Arguments of [`EmbeddingTokenizerTrainer`]: those of [`~transformers.TrainingArguments`] with LETTER's optimizer
    and batch (AdamW, learning rate 1e-3, batch 1024; TIGER's paper has Adagrad, 0.4) but far fewer steps than their
    20,000 epochs: 1,000, which one CPU core takes a minute for, with a warm-up and a cosine schedule to make up.
    `max_steps=-1` and `num_train_epochs=20000` are the published length.
    """

    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    warmup_steps: float = field(default=0.03, metadata={"help": "Steps of linear warm-up; below 1: share of all."})
    weight_decay: float = field(default=1e-4, metadata={"help": "Weight decay of matrices."})
    max_steps: int = field(default=1000, metadata={"help": "Optimizer steps; -1: num_train_epochs decides."})
    per_device_train_batch_size: int = field(default=1024, metadata={"help": "Items per device and step."})
    logging_steps: float = field(default=100, metadata={"help": "Steps between two log entries."})
    save_strategy: str = field(default="no", metadata={"help": "When checkpoints are written."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay false: batches are rows."})
    refused: ClassVar[Mapping[str, str]] = CHECKPOINTING | MEANS | EMBEDDINGS


class EmbeddingRows(Dataset):
    """
    Rows of item embeddings, in batches.

    Args:
        embeddings (`np.ndarray` of shape `(items, E)`): content embeddings.
        collaborative (`np.ndarray` of shape `(items, d)`, *optional*): collaborative embeddings of the same items.
        domains (`Mapping[str, int]`, *optional*): the domains, and how many rows each has, one after the other.

    Raises:
        ValueError: if a matrix is not finite or the two differ in rows, or the domains have not all the rows.
    """

    def __init__(
        self,
        embeddings: np.ndarray,
        collaborative: np.ndarray | None = None,
        domains: Mapping[str, int] | None = None,
    ):
        self.columns = {"embeddings": _matrix("embeddings", embeddings)}
        if collaborative is not None:
            self.columns["collaborative"] = _matrix("collaborative embeddings", collaborative)
            if len(collaborative) != len(embeddings):
                raise ValueError(f"{len(embeddings)} items, but {len(collaborative)} collaborative embeddings.")
        self.domains = dict(domains or {})
        if self.domains and sum(self.domains.values()) != len(self):
            raise ValueError(f"{len(self)} items, but the domains have {self.domains}.")

    def __len__(self) -> int:
        return len(self.columns["embeddings"])

    def rows_of_domains(self) -> dict[str, slice]:
        """The rows of each domain."""
        ends = np.cumsum(list(self.domains.values())).tolist()
        return {name: slice(end - size, end) for (name, size), end in zip(self.domains.items(), ends, strict=True)}

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return {name: values[row] for name, values in self.columns.items()}

    def __getitems__(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """A whole batch (PyTorch's data loader calls this instead of `__getitem__`)."""
        picked = torch.as_tensor(rows)
        return {name: values[picked] for name, values in self.columns.items()}

    @staticmethod
    def collate(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return batch


class EmbeddingTokenizerTrainer(CodebookLoggingTrainer):
    """
    Trains an [`RQVAEModel`] or a [`RecBaseTokenizerModel`] on item embeddings.

    Args:
        model ([`RQVAEModel`] or [`RecBaseTokenizerModel`]): the network; a fresh one gets the embeddings' mean and
            scale.
        args ([`EmbeddingTokenizerTrainingArguments`]): the arguments.
        train_dataset ([`EmbeddingRows`]): the items, also those of the evaluation.
        kwargs: passed on to [`~transformers.Trainer`].

    Raises:
        ValueError: there is one item, or, when the training starts, it would end before all levels are trained.
    """

    model: EmbeddingAutoencoder
    train_dataset: EmbeddingRows

    def __init__(
        self,
        model: EmbeddingAutoencoder,
        args: EmbeddingTokenizerTrainingArguments,
        train_dataset: EmbeddingRows,
        **kwargs,
    ):
        check_items(len(train_dataset))
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=train_dataset,
            data_collator=train_dataset.collate,
            **kwargs,
        )
        if getattr(model.config, "collaborative_weight", 0):
            tell_negatives(args)
        self.add_callback(WarmupCallback)
        if not model.training_passes:
            model.set_input_statistics(train_dataset.columns["embeddings"].to(model.device))

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """As the Trainer's; of several processes each counts as many items as it has, and none twice."""
        batches = (weighed(self.accelerator, batch, self.epoch_examples) for batch in epoch_iterator)
        return super().get_batch_samples(batches, num_batches, device)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        weight = inputs.pop("weight", 1.0)
        output = model(**inputs, counted=bool(weight))
        if model.training:
            self.track(output, weight)
        loss = output.loss * weight
        return (loss, output) if return_outputs else loss

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Losses, codebook usage and collision rate over all items; every process computes all of them.

        Returns:
            `eval_loss` and its parts, `eval_collision_rate` (items that share their codes with another item, as a
            share of all), `eval_collision_rate_<domain>` (of each domain alone), `eval_entropy_pairs` and
            `eval_entropy_triples` (of the first codes, in nats), `eval_restarts` (codes that started anew so far) and
            for each level `eval_used_<l>` and `eval_perplexity_<l>`.

        Raises:
            ValueError: `eval_dataset` are other items.
        """
        self.check_items_of(eval_dataset)
        model, items = self.accelerator.unwrap_model(self.model), self.train_dataset
        assert isinstance(model, EmbeddingAutoencoder) and isinstance(items, EmbeddingRows)
        sums: defaultdict[str, float] = defaultdict(float)
        parts = []
        for rows, output in forward_all(model, items):
            for name, value in {"loss": output.loss, **loss_parts(output)}.items():
                sums[name] += value.item() * len(rows)
            parts.append(output.codes.cpu())
        metrics = {name: total / len(items) for name, total in sums.items()}
        codes = torch.cat(parts)
        metrics |= codebook_health(codes, model.config.level_sizes)
        for domain, within in items.rows_of_domains().items():
            metrics[f"collision_rate_{domain}"] = collision_rate(codes[within])
        metrics["restarts"] = int(model.restarts)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


@torch.no_grad()
def forward_all(model: EmbeddingAutoencoder, items: EmbeddingRows):
    """Rows and outputs of a model in evaluation mode, part by part, for all items in order."""
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(items), ROWS_AT_A_TIME):
            rows = range(start, min(start + ROWS_AT_A_TIME, len(items)))
            yield rows, model(**{name: values.to(model.device) for name, values in items.__getitems__(rows).items()})
    finally:
        model.train(was_training)


def _matrix(name: str, values: np.ndarray) -> torch.Tensor:
    values = np.ascontiguousarray(values, dtype=np.float32)
    if values.ndim != 2 or not len(values):
        raise ValueError(f"The {name} must be a matrix with one row for each item, got shape {values.shape}.")
    broken = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(broken):
        raise ValueError(f"{len(broken)} rows of the {name} have NaN or infinity: {named(broken)}.")
    return torch.from_numpy(values)
