"""Trainer for item tokenizers: the losses of Eq. 13, their logging, and the health of the codebooks."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import numpy as np
import torch
from accelerate.utils import broadcast
from torch import nn
from torch.utils.data import Subset
from tqdm.auto import tqdm
from transformers.integrations import is_deepspeed_zero3_enabled

from modeling_utgrec import UTGRecTokenizerModel, UTGRecTokenizerOutput
from modeling_utgrec.encoding_parts import length_batches
from modeling_utgrec.quantization import SimVQCodebook
from modeling_utgrec.quantization_kmeans import kmeans
from tokenization_items.tokenization_items import UniversalItemTokenizer
from trainers.codebook_trainer import CodebookLoggingTrainer, CodebookTrainingArguments, check_items, loss_parts
from trainers.evaluation.codebooks import codebook_health
from trainers.runtime.callbacks import EpochCallback, WarmupCallback
from trainers.runtime.cpu_attention import use_cpu_attention
from trainers.runtime.cpu_training import use_cpu_dropout
from trainers.runtime.principal_adapter import set_principal_components
from trainers.runtime.step_memory import StepMemory
from trainers.runtime.trainer_arguments import DEBUG, MEANS, OPTIMIZER, tell_negatives
from trainers.training_data.item_pairs import ItemPairs

# Items that k-means sees for each centroid, as many as faiss asks for at least.
POINTS_PER_CENTROID = 40
# Items whose principal components the adapter may start with.
ITEMS_OF_COMPONENTS = 4096
# Of a batch, what the losses take beside the items.
OF_LOSSES = (
    "text_labels",
    "image_latents",
    "has_image",
    "anchor_rows",
    "positive_rows",
    "anchor_items",
    "positive_items",
)
# Tokens that the backbone reads at a time: few waste little on padding, and stay in a processor's cache.
PROMPT_TOKENS, PROMPT_TOKENS_ON_DEVICE = 2048, 16384


@dataclass
class ItemTokenizerTrainingArguments(CodebookTrainingArguments):
    """
    Arguments of [`ItemTokenizerTrainer`]: those of [`~transformers.TrainingArguments`] with the paper's defaults for
    pre-training (global batch 256 = 16 per device on 16 devices), and:

    Args:
        backbone_learning_rate (`float`, *optional*): of the backbone's trained weights; by default `learning_rate`.
        freeze_codes (`bool`, *optional*, defaults to `False`):
            fine-tuning on a new domain: exactly the codebook matrices C_root and C_leaf stay as they are.
        freeze_backbone (`bool`, *optional*, defaults to `False`):
            the backbone, its adapters and the code tokens stay as they are. It reads every item once, before the
            training, and a step takes a small part of the time; not in the paper.
        codebook_warmup_steps (`int`, *optional*):
            optimizer steps in which the decoders see unquantized representations; by default the model's
            configuration decides. A resumed training or a fine-tuning does not repeat them, whatever is said here.
        prompt_tokens (`int`, *optional*):
            tokens of prompts that the backbone reads at a time. A larger batch is read in parts of like length. By
            default 2048 on a CPU, else 16384.
        state_gigabytes (`float`, *optional*):
            memory for the states that the backward pass through the backbone needs. Parts of a batch beyond are read
            twice: the same loss and gradients, more slowly. By default 1.5 on a CPU, else half of the device's.
        text_labels (`int`, *optional*, defaults to 64):
            tokens of a text that are reconstructed in a step, drawn anew each time: an unbiased estimate of Eq. 8 and
            its gradient, where the paper takes all. 0: all.
        max_eval_items (`int`, *optional*, defaults to 4096):
            items of which an evaluation measures the losses, drawn by the seed; its codes are those of all items.
            0: all.
    """

    learning_rate: float = field(default=3e-4, metadata={"help": "Peak learning rate."})
    backbone_learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate of the backbone's trained weights; default: the same."}
    )
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    warmup_steps: float = field(default=0.03, metadata={"help": "Steps of linear warm-up; below 1: share of all."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of matrices."})
    num_train_epochs: float = field(default=3.0, metadata={"help": "Epochs; every item is an anchor once in each."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Pairs of items per device and step."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Items per device in evaluation."})
    logging_steps: float = field(default=20, metadata={"help": "Steps between two log entries."})
    freeze_codes: bool = field(default=False, metadata={"help": "Freeze C_root and C_leaf (fine-tuning)."})
    freeze_backbone: bool = field(
        default=False, metadata={"help": "Leave the backbone as it is: it reads each item once, steps are fast."}
    )
    codebook_warmup_steps: int | None = field(
        default=None, metadata={"help": "Steps in which decoders see unquantized vectors; default: the model's."}
    )
    prompt_tokens: int | None = field(
        default=None,
        metadata={"help": "Tokens that the backbone reads at a time; default: 2048 on a CPU, else 16384."},
    )
    state_gigabytes: float | None = field(
        default=None,
        metadata={"help": "Memory for the backbone's states; parts beyond are read twice. Default: 1.5 on a CPU."},
    )
    text_labels: int = field(
        default=64, metadata={"help": "Tokens of a text, drawn anew, that a step reconstructs; 0: all."}
    )
    max_eval_items: int = field(
        default=4096, metadata={"help": "Items whose losses an evaluation measures, beside the codes of all; 0: all."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay false: batches are collated."})
    refused: ClassVar[Mapping[str, str]] = MEANS | DEBUG | OPTIMIZER

    def __post_init__(self):
        for name, least in (("prompt_tokens", 1), ("state_gigabytes", 0), ("text_labels", 0), ("max_eval_items", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}.")
        super().__post_init__()


class ItemTokenizerTrainer(CodebookLoggingTrainer):
    """
    Trains a [`UTGRecTokenizerModel`] on pairs of co-occurring items.

    Negatives of the alignment loss come from the batches of all processes; the same item or a known neighbour is not
    counted as one. Every part of the loss is logged, with the codebooks' usage and perplexity; a part that is not
    finite ends the training with its name.

    Args:
        model ([`UTGRecTokenizerModel`]): the network.
        args ([`ItemTokenizerTrainingArguments`]): the arguments.
        train_dataset ([`ItemPairs`]): the training pairs; evaluation uses the same items.
        kwargs: passed on to [`~transformers.Trainer`].

    Raises:
        ValueError: if there is one item, there are fewer than one global batch on several processes, loader workers
            persist, batches of one pair are to be centred, or domains with a backbone that learns; when the training
            starts, if it would end within the warm-up of the codebooks.
    """

    model: UTGRecTokenizerModel
    args: ItemTokenizerTrainingArguments
    train_dataset: ItemPairs

    def __init__(
        self, model: UTGRecTokenizerModel, args: ItemTokenizerTrainingArguments, train_dataset: ItemPairs, **kwargs
    ):
        self.check_loading(args, len(train_dataset))
        if model.running_mean is not None and args.train_batch_size * args.world_size < 2:
            raise ValueError(
                "codebook_centering takes the mean of a batch off each of its items, and of batches of one pair "
                "nothing is left: raise per_device_train_batch_size, or switch it off."
            )
        if model.config.centre_domains and not args.freeze_backbone:
            raise ValueError(
                "centre_domains takes the mean of each domain's states off them, which is known of a backbone that "
                "does not learn: set freeze_backbone too, or switch it off."
            )
        train_dataset.forget_code_states()  # of another network, or of one that has learned since
        # Not a data set that accelerate's loaders would tell their epoch: an evaluation must not redraw the positives.
        items = Subset(train_dataset, np.random.default_rng(args.seed).permutation(len(train_dataset)).tolist())
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=items,
            data_collator=train_dataset.collate,
            **kwargs,
        )
        model.set_trainable(args.freeze_codes, args.freeze_backbone)
        if args.device.type == "cpu":
            use_cpu_dropout(model)
            if args.bf16:
                use_cpu_attention(model.backbone)
        if args.codebook_warmup_steps is not None and not int(model.training_passes):
            model.config.warmup_steps = args.codebook_warmup_steps * args.gradient_accumulation_steps
        if model.config.alignment_weight > 0:
            tell_negatives(args)
        self._bound_memory()
        self.add_callback(EpochCallback(train_dataset))
        self.add_callback(WarmupCallback)

    def _bound_memory(self) -> None:
        """Sets what the network reads at a time and keeps, and says what a step will need."""
        args, network = self.args, self.model
        prompt_tokens = args.prompt_tokens or (PROMPT_TOKENS if args.device.type == "cpu" else PROMPT_TOKENS_ON_DEVICE)
        if network.text_decoder is not None:
            network.text_decoder.labels_per_item = args.text_labels or None
        network.most_tokens = network.kept_tokens = None  # of a training before
        if args.gradient_checkpointing:  # as train() does, and states are few then
            network.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs)
        if not (self.is_deepspeed_enabled or self.is_fsdp_enabled):  # which shard the weights, not yet or already
            pairs = self.train_dataset
            dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
            longest = int(pairs.processor.prompt_lengths(pairs.texts, pairs.catalogue).argmax())
            batch = pairs.collate([(longest, longest)])
            batch = {name: value for name, value in batch.items() if not name.endswith(("_rows", "_items"))}
            if network.config.centre_domains:  # whatever it will be
                batch["domain_means"] = torch.zeros(1, 1, network.config.backbone_hidden_size)
            limits = (args.per_device_train_batch_size, prompt_tokens, args.state_gigabytes, dtype)
            memory = StepMemory.measured(network, batch, *limits)
            if self.is_world_process_zero():
                memory.announce()
            network.kept_tokens = memory.kept_tokens
        network.most_tokens = prompt_tokens

    @staticmethod
    def check_loading(args: ItemTokenizerTrainingArguments, num_items: int) -> None:
        """The alignment loss needs batches of one size on all processes: the last, smaller one is dropped, unless it
        is the only one."""
        check_items(num_items)
        global_batch = args.per_device_train_batch_size * args.world_size
        args.dataloader_drop_last = num_items >= global_batch
        if num_items < global_batch and args.world_size > 1:
            raise ValueError(
                f"{num_items} items are fewer than one global batch of {global_batch} "
                f"({args.per_device_train_batch_size} on {args.world_size} processes): "
                "lower per_device_train_batch_size or use fewer processes."
            )
        if args.dataloader_persistent_workers:
            raise ValueError(
                "Persistent data loader workers would keep the positives of the first epoch: turn off "
                "dataloader_persistent_workers."
            )

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        network = self.model if model is None else model
        if self.optimizer is None:
            decay = set(self.get_decay_parameter_names(network))
            groups = defaultdict(list)
            for name, parameter in network.named_parameters():
                if parameter.requires_grad:
                    groups["backbone." in name, name in decay].append(parameter)
            # which takes any module, as transformers' own create_optimizer gives it
            optimizer_class, arguments = self.get_optimizer_cls_and_kwargs(self.args, network)  # type: ignore[arg-type]
            backbone_rate = self.args.backbone_learning_rate or self.args.learning_rate
            self.optimizer = optimizer_class(
                [
                    {
                        "params": parameters,
                        "lr": backbone_rate if in_backbone else self.args.learning_rate,
                        "weight_decay": self.args.weight_decay if decayed else 0.0,
                    }
                    for (in_backbone, decayed), parameters in groups.items()
                ],
                **arguments,
            )
        return self.optimizer

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        output = self._forward(model, inputs)
        if model.training:
            self.track(output)
        return (output.loss, output) if return_outputs else output.loss

    def training_step(self, model, inputs, num_items_in_batch=None):
        config = self.model.config
        if not int(self.model.training_passes) and config.adapter_init == "principal":
            self._set_adapter()
        warm = int(self.model.training_passes) == config.warmup_steps
        if warm and config.codebook_init == "kmeans" and not self.args.freeze_codes:
            self._set_codebooks()
        return super().training_step(model, inputs, num_items_in_batch)

    def _inner_training_loop(self, *args, **kwargs):
        # Here, and not in train(): the weights of a checkpoint that it goes on from have been read.
        if self.args.freeze_backbone and self.train_dataset.code_states is None:
            every = np.arange(len(self.train_dataset))
            states = self._vectors_of(every, self.model.code_states, "Reading items").cpu()
            self.train_dataset.set_code_states(states, self.model.config.centre_domains)
        return super()._inner_training_loop(*args, **kwargs)

    @torch.no_grad()
    def _vectors_of(
        self, rows: np.ndarray, vectors_of: Callable[[dict[str, Any]], torch.Tensor], shown: str | None = None
    ) -> torch.Tensor:
        """What `vectors_of` makes of the inputs of items, float32 `[rows, ...]`."""
        network, pairs = self.model, self.train_dataset
        lengths = torch.from_numpy(pairs.processor.prompt_lengths(pairs.texts, pairs.catalogue)[rows])
        network.eval()
        assert network.most_tokens is not None
        parts, places = [], []
        silent = self.args.disable_tqdm or not (shown and self.is_world_process_zero())
        for batch in tqdm([*length_batches(lengths, network.most_tokens)], desc=shown, disable=silent):
            inputs: dict[str, Any] = self._prepare_inputs(pairs.encoder_inputs(rows[batch.numpy()]))
            with self.accelerator.autocast():  # in the precision of the training
                parts.append(vectors_of(inputs).float())
            places.append(batch)
        network.train()
        return torch.cat(parts)[torch.cat(places).argsort()]

    def _adapter_inputs(self, inputs: dict[str, Any]) -> torch.Tensor:
        states = self.model.code_states(inputs)
        return states - inputs["domain_means"] if "domain_means" in inputs else states

    def _some_rows(self, most: int) -> np.ndarray:
        """Rows of at most so many items, drawn by the seed."""
        return np.random.default_rng(self.args.seed).permutation(len(self.train_dataset))[:most]

    def _set_adapter(self) -> None:
        """Sets the adapter to the principal components of what it reads."""
        states = self._vectors_of(self._some_rows(ITEMS_OF_COMPONENTS), self._adapter_inputs)
        set_principal_components(self.model.adapter, states.flatten(0, 1))
        # All processes go on with the first one's, should theirs differ in a last digit.
        for parameter in self.model.adapter.parameters():
            parameter.data.copy_(broadcast(parameter.data))

    @torch.no_grad()
    def _set_codebooks(self) -> None:
        """Sets the codebooks to k-means centroids of the items' residuals. Done codebook by codebook: a residual
        quantizer's residuals depend on the levels above."""
        network, quantizer = self.model, self.model.quantizer
        rows = self._some_rows(POINTS_PER_CENTROID * max(quantizer.level_sizes))
        z = self._vectors_of(rows, lambda inputs: network.encode(**inputs))
        network.eval()
        if network.running_mean is not None:
            network.running_mean.train()  # the mean of these items, not of those that the warm-up has seen
        for number, codebook in enumerate(cast(Iterable[SimVQCodebook], quantizer.codebooks)):
            quantized = network.quantize(z).residuals
            assert quantized is not None
            residuals = quantized[:, quantizer.levels_of(number)].flatten(0, 1)
            seeds = torch.Generator().manual_seed(self.args.seed)
            # All processes go on with the first one's, should theirs differ in a last digit.
            codebook.set_vectors(broadcast(kmeans(residuals, len(codebook.codes), seeds)))
        network.train()

    def _forward(self, model: nn.Module, inputs: dict[str, torch.Tensor]) -> UTGRecTokenizerOutput:
        anchors, positives = inputs.pop("anchor_items"), inputs.pop("positive_items")
        candidates = self.accelerator.gather(positives) if self.args.world_size > 1 else positives
        excluded = self.train_dataset.graph.excluded_negatives(
            anchors.cpu().numpy(), candidates.cpu().numpy(), positives.cpu().numpy()
        )
        return model(**inputs, excluded_negatives=torch.from_numpy(excluded).to(anchors.device))

    def get_eval_dataloader(self, eval_dataset=None):
        """All items of the training data, also those that the training drops with its last, smaller batch."""
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader()
        finally:
            self.args.dataloader_drop_last = drop_last

    @torch.no_grad()
    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Codebook usage and collision rate over all items, and losses over `max_eval_items`, without dropout.

        Returns:
            `eval_loss` and its parts, `eval_collision_rate` (items that share their codes with another item, as a
            share of all) and for each level `eval_used_<l>` and `eval_perplexity_<l>`.

        Raises:
            ValueError: `eval_dataset` are other items.
        """
        self.check_items_of(eval_dataset)
        model = self._wrap_model(self.model, training=False)
        was_training = model.training
        model.eval()
        sums: defaultdict[str, float] = defaultdict(float)
        weight, parts, items = 0, [], []
        most = self.args.max_eval_items or len(self.train_dataset)
        loader = self.get_eval_dataloader()
        for inputs in tqdm(loader, desc="Evaluating", disable=None if self.is_world_process_zero() else True):
            inputs = self._prepare_inputs(inputs)
            batch_items = inputs["anchor_items"]
            if weight * self.args.world_size < most:
                output = self._forward(model, inputs)
                assert output.loss is not None and output.codes is not None
                codes = output.codes
                for name, value in {"loss": output.loss, **loss_parts(output)}.items():
                    sums[name] += float(value) * len(batch_items)
                weight += len(batch_items)
            else:
                encoded = {name: value for name, value in inputs.items() if name not in OF_LOSSES}
                codes = model(**encoded).codes[inputs["anchor_rows"]]
            gathered = self.accelerator.gather((codes, batch_items))
            parts.append(gathered[0].cpu())
            items.append(gathered[1].cpu())
        model.train(was_training)
        totals = torch.tensor([[*sums.values(), weight]], dtype=torch.float64, device=self.args.device)
        *totals, weight = self.accelerator.gather(totals).sum(dim=0).tolist()
        metrics = {f"{metric_key_prefix}_{name}": total / weight for name, total in zip(sums, totals, strict=True)}
        # Several processes may have evaluated an item twice to fill their last batches.
        first = np.unique(torch.cat(items).numpy(), return_index=True)[1]
        codes = torch.cat(parts)[first]
        health = codebook_health(codes, self.model.config.level_sizes)
        metrics.update({f"{metric_key_prefix}_{name}": value for name, value in health.items()})
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """A checkpoint is an item tokenizer without items: [`UniversalItemTokenizer.from_pretrained`] reads it.
        Sharded weights (FSDP, ZeRO-3) have no fingerprint; of those, load the network alone."""
        if self.args.should_save and not (self.is_fsdp_enabled or is_deepspeed_zero3_enabled()):
            folder, processor = output_dir or self.output_folder, self.train_dataset.processor
            network = self.accelerator.unwrap_model(self.model)
            tokenizer = UniversalItemTokenizer.from_network(network, processor)
            tokenizer.save_pretrained(folder, include_network=False)
            processor.save_pretrained(folder)
        super()._save(output_dir, state_dict)
