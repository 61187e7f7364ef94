"""Facts of a training, in plain values for its card: settings, versions, machine, codebooks."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, TrainingArguments

from hub_cards import METHODS
from hub_cards.formatting import metric_name, plain
from tokenization_items.collision_report import AssignmentReport
from tokenization_items.item_memory import StoredMemory

PACKAGES = (
    "utgrec",
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "diffusers",
    "datasets",
    "tokenizers",
    "safetensors",
    "huggingface_hub",
)
# Arguments that do not change what is learned: where files, logs and pushes go, who looks on, what runs beside.
NOT_LEARNING = frozenset(
    """
    output_dir logging_strategy logging_steps logging_first_step log_on_each_node log_level log_level_replica
    logging_nan_inf_filter disable_tqdm report_to run_name project trackio_space_id trackio_bucket_id
    trackio_static_space_id save_strategy save_steps save_total_limit save_on_each_node save_only_model
    enable_jit_checkpoint push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision
    ignore_data_skip restore_callback_states_from_checkpoint use_cpu accelerator_config parallelism_config
    dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor
    dataloader_multiprocessing_context dataloader_in_order remove_unused_columns label_names ddp_timeout ddp_backend
    skip_memory_metrics do_train do_eval do_predict resume_from_checkpoint local_rank debug include_for_metrics
    eval_accumulation_steps torch_empty_cache_steps allow_partial_resume
    """.split()
)
# Settings of a configuration that follow from others, or that the card shows above.
TOLD_ELSEWHERE = frozenset(
    "vocab_size level_sizes level_offsets share_leaf_codes item_tokenizer_fingerprint "
    "content_encoder_fingerprint auto_map".split()
)

# Networks of one method whose `model_type` is not the method's name.
METHOD_OF_TYPE = {"utgrec_tokenizer": "utgrec", "recbase_tokenizer": "recbase"}


def place_name(name: str | os.PathLike, parts: int = 1) -> str:
    """A Hub id as it is; of a folder of this machine the last `parts` of its path alone, for what others read."""
    path = Path(name)
    if path.is_dir():
        path = path.resolve()
    return "/".join(path.parts[-parts:]) if path.is_absolute() else str(name)


def method_of(config: PreTrainedConfig) -> str | None:
    """The method in [`hub_cards.METHODS`] that a model's configuration tells, `None` if it is one of several: a T5
    recommends by the codes of any item tokenizer (TIGER's, LETTER's, ...), and an RQ-VAE is TIGER's or LETTER's."""
    if config.model_type == "utgrec":
        return None
    name = METHOD_OF_TYPE.get(config.model_type, config.model_type)
    return name if name in METHODS else None


def hyperparameters(
    args: TrainingArguments, config: PreTrainedConfig, batch_size: int | None = None
) -> dict[str, Any]:
    """Training arguments and settings of the model that differ from the defaults.

    Defaults are those of [`~transformers.TrainingArguments`], which readers know, and of the model's configuration;
    arguments that only our trainers have are always told. Paths of files are not: they are of no use elsewhere.
    `batch_size` is what a process took at a time, where `auto_find_batch_size` found that less fits.
    """
    known = {field.name: _default(field) for field in dataclasses.fields(TrainingArguments)}
    told = {}
    for field in dataclasses.fields(args):
        value = plain(getattr(args, field.name))
        if field.name in NOT_LEARNING or value is None or value == {} or value == [] or _is_path(value):
            continue
        unset = known.get(field.name, "") is None and value is False
        if not unset and (field.name not in known or value != plain(known[field.name])):
            told[field.name] = value
    told["processes"] = args.world_size
    batch_size = batch_size or args.train_batch_size
    told["global_train_batch_size"] = batch_size * args.world_size * args.gradient_accumulation_steps
    if batch_size != args.train_batch_size:
        told["per_device_train_batch_size"] = batch_size // max(1, args.n_gpu)
    own = type(config).__dict__.get("__annotations__", {})
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if (
            field.name not in own
            or field.name in TOLD_ELSEWHERE
            or isinstance(value, PreTrainedConfig)
            or value is None
        ):
            continue
        if plain(value) != plain(_default(field)) and not _is_path(value):
            told[field.name] = plain(value)
    return told


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a training uses."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware(args: TrainingArguments) -> str:
    """The machine of this training: `"4 × NVIDIA H100"`, or the processor and the number of its cores."""
    if torch.cuda.is_available() and not args.use_cpu:
        return f"{args.world_size * max(1, args.n_gpu)} × {torch.cuda.get_device_name()}"
    name = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        lines = information.read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"CPU, {os.cpu_count()} cores ({name}), {args.world_size} process{'es' * (args.world_size > 1)}"


def last_entry(logs: Sequence[Mapping[str, Any]], key: str) -> Mapping[str, Any] | None:
    """The latest entry of a training log that has this key."""
    return next((entry for entry in reversed(logs) if key in entry), None)


def assignment_facts(report: AssignmentReport, level_sizes: Sequence[int]) -> dict[str, Any]:
    """What the card says of the codes of the items in the index."""
    rows = [
        {"Level": level, "Codes": size, "Share used": used, "Perplexity": perplexity, "Measured over": "all items"}
        for level, (size, used, perplexity) in enumerate(zip(level_sizes, report.used, report.perplexity, strict=True))
    ]
    collisions = {
        "Items added": report.num_items,
        "Items whose codes collided": report.items_sharing_codes,
        "Moved to other codes": report.items_moved,
        "Moved, by the first level that changed": ", ".join(map(str, report.moved_by_level)),
        "Additional squared distance, mean": report.mean_extra_distance,
        "Additional squared distance, most": report.max_extra_distance,
    }
    return {"codebooks": rows, "collisions": collisions, "num_items": report.num_items}


def health_facts(health: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the card says of the health of an item tokenizer.

    Args:
        health (`Mapping[str, Mapping]`): of each catalogue by its name, as
            [`~trainers.evaluation.tokenizer_health.tokenizer_health`] gives it.
    """
    rows, attributes = [], []
    for name, found in health.items():
        neighbours, gauc = found.get("neighbours") or {}, found.get("gauc") or {}
        rows.append(
            {
                "Catalogue": name,
                "Items": found["items"],
                "Share codes with another": found["sharing_codes"],
                "Share codes with one of another text": found.get("sharing_codes_of_other_texts"),
                "Have another's text": found.get("equal_texts"),
                "Codes used, by level": ", ".join(f"{used:.1%}" for used in found["used"]),
                "Perplexity, by level": ", ".join(f"{perplexity:.1f}" for perplexity in found["perplexity"]),
                "Entropy of pairs": found.get("entropy_pairs"),
                "At most": found.get("entropy_pairs_most"),
                "Nearest items kept": neighbours.get("agreement"),
                "By chance": neighbours.get("by_chance"),
                "GAUC of the codes": gauc.get("codes"),
                "GAUC unquantized": gauc.get("unquantized"),
            }
        )
        for attribute, told in found.get("information", {}).items():
            levels = {f"Level {level}": share for level, share in enumerate(told["adjusted"])}
            counts = {"Items": told["items"], "Without": told["without"], "Values": told["values"]}
            attributes.append({"Catalogue": name, "Attribute": attribute, **counts, **levels})
    return {"health": rows, "attribute_information": attributes}


def memory_facts(stored: StoredMemory) -> dict[str, Any]:
    """What the card of a recommender says of its item memory."""
    memory, facts, settings = stored.memory, stored.facts, stored.memory.settings
    told: dict[str, Any] = {
        "Transitions": {"inverse": "linear, in closed form", "counts": "decayed counts"}[facts["transitions"]],
        "Regularization": facts.get("regularization"),
        "Transitions kept of each item": facts["row_items"],
        "Similar items kept of each": facts["similar_items"] if memory.content is not None else None,
        "Interactions remembered": facts["interactions"],
        "Part": facts.get("part"),
        "Content": None if facts.get("content") is None else place_name(facts["content"]),
        "Weight of the content": settings.content_weight,
        "Evidence": settings.evidence,
        "Weight of the brand": settings.brand_weight if memory.brands is not None else None,
        "Weight of what a history has": settings.repeat_weight,
        "Weight of the trend": settings.trend_weight,
        "Weight of the periods": settings.period_weight,
        "Discount of popular items": settings.discount,
        "Temperature": settings.temperature,
    }
    if settings.gate is None:
        told["Mixing weight g"] = settings.mixing_weight
    else:
        numbers = ", ".join(f"{number:.4g}" for number in settings.gate)
        told["Gate (bias, log count, log row mass, entropy)"] = numbers
    for metric, value in facts.get("validation", {}).items():
        told[f"Validation, {metric_name(metric)}"] = value
    told["Size in MB"] = round(memory.nbytes / 1e6, 2)
    rows = [{_title(name): value for name, value in row.items()} for row in facts.get("selection", [])]
    return {"memory": {name: value for name, value in told.items() if value is not None}, "memory_selection": rows}


def _title(name: str) -> str:
    return metric_name(name) if "@" in name else name.replace("_", " ").capitalize()


def codebook_rows(logs: Sequence[Mapping[str, Any]], level_sizes: Sequence[int]) -> list[dict[str, Any]]:
    """A row for each level: size, share of codes used and perplexity, over all items if there was an evaluation, else
    over the items of the last steps that were logged."""
    for prefix, over in (("eval_", "all items"), ("codes/", "the last logged training steps")):
        entry = last_entry(logs, f"{prefix}used_0")
        if entry is not None:
            return [
                {
                    "Level": level,
                    "Codes": size,
                    "Share used": entry.get(f"{prefix}used_{level}"),
                    "Perplexity": entry.get(f"{prefix}perplexity_{level}"),
                    "Measured over": over,
                }
                for level, size in enumerate(level_sizes)
            ]
    return []


def _default(field: dataclasses.Field) -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and (os.sep in value or os.path.exists(value))
