"""Published settings of methods, in what a run differs from them, and what a result says of its model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel, TrainingArguments

# What a training says of itself beside its configuration.
OPTIMISATION: tuple[str, ...] = (
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "adam_beta2",
    "max_grad_norm",
    "optim",
)
SAMPLING = ("num_negatives", "log_q_correction")  # of the loss over sampled items alone
# What some trainings have.
EXTRA_TRAINING: tuple[str, ...] = (
    "backbone_learning_rate",
    "codebook_warmup_steps",
    "text_labels",
    "freeze_backbone",
    "curriculum_epochs",
    "horizon",
)


class ForeignArgument(ValueError):
    """An argument that a method has not."""


@dataclass(frozen=True)
class Published:
    """
    Settings that a paper, or the program of its authors, gives.

    Args:
        source (`str`): where they are written.
        settings (`Mapping[str, Any]`): names and values, named as this project's configurations and training arguments
            name them; those of an item tokenizer and of a recommender begin with `tokenizer.` and `recommender.`.
    """

    source: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def differences(self, used: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Every published setting that a run did not use: its name to the values `"here"` and `"published"`; what the
        run does not have at all is `None` here."""
        return {
            name: {"here": used.get(name), "published": value}
            for name, value in self.settings.items()
            if used.get(name) != value
        }

    def __or__(self, other: Published) -> Published:
        """The settings of both, as of an item tokenizer and a recommender."""
        sources = dict.fromkeys([self.source, other.source])
        return Published("; ".join(sources), {**self.settings, **other.settings})


def settings_of(
    config: PreTrainedConfig | None, training: TrainingArguments | None, prefix: str = ""
) -> dict[str, Any]:
    """What a network and its training were given, as [`Published.settings`] names it.

    Args:
        config ([`~transformers.PreTrainedConfig`], *optional*): the network's; values that are no plain ones, such as
            a backbone's configuration, are left out.
        training ([`~transformers.TrainingArguments`], *optional*): its training.
        prefix (`str`, *optional*, defaults to `""`): of the names, such as `"recommender."`.
    """
    used: dict[str, Any] = {}
    if config is not None:
        inherited = {each.name for each in dataclasses.fields(PreTrainedConfig)}
        for each in dataclasses.fields(config):
            value = getattr(config, each.name)
            if each.name in SAMPLING and getattr(config, "loss", None) != "sampled":
                continue
            if each.name not in inherited and isinstance(value, str | int | float | list | None):
                used[each.name] = value
        if hasattr(config, "scale_decoder_outputs"):  # T5's, which is no field
            used["scale_decoder_outputs"] = config.scale_decoder_outputs
    if training is not None:
        for name in OPTIMISATION:
            value = getattr(training, name)
            used[name] = getattr(value, "value", value)
        devices = max(1, training.n_gpu) * training.world_size
        used["batch_size"] = training.per_device_train_batch_size * devices * training.gradient_accumulation_steps
        steps = training.max_steps
        used["num_train_epochs"] = f"{steps} steps" if steps > 0 else training.num_train_epochs
        for name in EXTRA_TRAINING:
            if getattr(training, name, None) is not None:
                used[name] = getattr(training, name)
    return {f"{prefix}{name}": value for name, value in used.items()}


# Which of a configuration's values are what in a description.
LOSSES: tuple[str, ...] = ("loss", "weight", "temperature", "normalize_over", *SAMPLING)
TRAINING: tuple[str, ...] = (*OPTIMISATION, "batch_size", "batch_of", "num_train_epochs", *EXTRA_TRAINING)
# What follows from other settings, is of generation or of files.
LEFT_OUT: tuple[str, ...] = (
    "fingerprint",
    "format_version",
    "token_id",
    "initializer",
    "name_or_path",
    "revision",
    "_saved",
    "use_cache",
)
LEFT_OUT += ("is_decoder", "classifier_dropout", "vocab_size", "layer_types", "sliding_window", "max_window_layers")
LEVELS: tuple[str, ...] = (
    "num_levels",
    "codebook_size",
    "root_codebook_size",
    "leaf_codebook_size",
    "share_leaf_codes",
    "level_sizes",
    "level_offsets",
)


def describe(
    model: PreTrainedModel, used: Mapping[str, Any], published: Published, report: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """
    What a result says of the model that it is of.

    Args:
        model (`PreTrainedModel`): the recommender.
        used (`Mapping[str, Any]`): all settings, see [`settings_of`].
        published (`Published`): those of the authors.
        report (`Mapping[str, Any]`, *optional*): of the item tokenizer, for the number of items that shared their
            codes.

    Returns:
        `dict`: `variant` (a few words for tables), `architecture` (all sizes), `losses` (which, and their weights),
        `codebooks` (sizes, and what came out), `training`, and `differs_from_published`: for every published setting
        that the run does not have, the values `here` and `published`; `published_in` says where.
    """
    groups: dict[str, dict[str, Any]] = {"architecture": {}, "losses": {}, "training": {}}
    for name, value in used.items():
        section, _, setting = name.rpartition(".")
        if any(part in setting for part in LEFT_OUT) or (section == "recommender" and setting in LEVELS):
            continue
        if setting in TRAINING:
            group = "training"
        else:
            group = "losses" if any(part in setting for part in LOSSES) else "architecture"
        groups[group][name] = value
    groups["architecture"]["parameters"] = model.num_parameters()
    description: dict[str, Any] = {"variant": variant(model), **groups}
    if hasattr(model.config, "level_sizes"):
        known = (
            "items_sharing_codes",
            "collision_rate",
            "largest_group",
            "used",
            "perplexity",
            "collisions",
            "items_moved",
        )
        found = {key: report[key] for key in known if report and key in report}
        description["codebooks"] = {"level_sizes": list(model.config.level_sizes), **found}
    description["differs_from_published"] = published.differences(used)
    description["published_in"] = published.source
    return description


def variant(model: PreTrainedModel) -> str:
    """A model in a few words: its kind, sizes, what is unusual, and parameters."""
    config, size = model.config, f"{model.num_parameters() / 1e6:.2f} M parameters"
    if not hasattr(config, "level_sizes"):
        words = [f"{config.hidden_size} wide", f"{config.num_layers} layers", f"dropout {config.hidden_dropout:g}"]
        return ", ".join([*words, f"loss {config.loss}", size])
    levels = "codes " + "+".join(map(str, config.level_sizes))
    if config.is_encoder_decoder:
        words = [f"T5 {config.d_model} wide, {config.num_layers}+{config.num_decoder_layers} layers"]
        words += ["causal encoder"] if config.causal_encoder else []
        words += [f"loss temperature {config.loss_temperature:g}"] if config.loss_temperature != 1 else []
    elif config.model_type == "item_level":
        words = [f"item level {config.hidden_size} wide, {config.num_layers}+{config.depth_layers} layers"]
        words += [] if config.content_size is None else ["reads content"]
        words += ["predicts content of nodes"] if config.node_content else []
        words += (
            ["reads and predicts codes, too"]
            if config.content_size and config.read_codes and config.write_codes
            else []
        )
        words += ["item residuals"] if config.num_item_residuals else []
        words += [f"horizon {config.horizon}"] if config.horizon > 1 else []
    else:
        words = [f"decoder {config.hidden_size} wide, {config.num_hidden_layers} layers"]
    words += ["normalised over items"] if config.normalize_over == "items" else []
    return ", ".join([*words, levels, size])
