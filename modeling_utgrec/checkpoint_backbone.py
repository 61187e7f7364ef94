"""The backbone's own weights inside an item tokenizer's network: which they are, what tells that they are the same,
and how a checkpoint without them gets them back.

With LoRA they are frozen, identical to the published weights, and most of the network. So a checkpoint may leave them
out and name the backbone and its commit instead, with a fingerprint of the weights that it was trained on.
"""

import hashlib
from collections.abc import Iterable

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel

from .checkpoint_safety import SAFELY

# Values of one tensor that go into the fingerprint.
SAMPLED_VALUES = 4096


def language_linear_layers(backbone: PreTrainedModel) -> list[str]:
    """Names of the linear layers of the language model: all of a text encoder's, none of a vision tower's."""
    prefix = "language_model." if hasattr(backbone, "language_model") else ""
    return [
        name
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(prefix) and not name.startswith("pooler")
    ]


def add_lora(backbone: PreTrainedModel, lora_config: dict) -> None:
    """Puts LoRA on the linear layers of the language model.

    Raises:
        ImportError: without peft.
    """
    try:  # here: only LoRA needs it
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        message = "The tokenizer's backbone is adapted with LoRA, which needs peft: pip install peft"
        raise ImportError(message) from error
    inject_adapter_in_model(LoraConfig(target_modules=language_linear_layers(backbone), **lora_config), backbone)


@torch.no_grad()
def merge_lora(backbone: PreTrainedModel) -> None:
    """Adds LoRA's products to the weights that they adapt, and leaves plain linear layers.

    Raises:
        ImportError: without peft.
    """
    try:
        from peft.tuners.lora import LoraLayer
    except ImportError as error:
        raise ImportError("Merging LoRA needs peft: pip install peft") from error
    for name, module in list(backbone.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge(safe_merge=True)
            backbone.set_submodule(name, module.get_base_layer())


def is_adaptation(name: str) -> bool:
    """Whether a weight of an adapted backbone was added to it: LoRA, or the embeddings of the code tokens."""
    return "lora_" in name or name.endswith("code_tokens")


def fingerprint_weights(weights: Iterable[tuple[str, torch.Tensor]]) -> str:
    """
    A digest of a backbone's own weights, cheap because it looks at some values of each tensor.

    It depends neither on the names, which differ between a plain and an adapted backbone, nor on the precision:
    bfloat16 has the digits that all share. A pooler is left out; no code depends on it, and many checkpoints come
    without one.

    Args:
        weights (`Iterable[tuple[str, torch.Tensor]]`): names within the backbone and tensors; adaptations are skipped.
    """
    digests = []
    for name, tensor in weights:
        if is_adaptation(name) or name.startswith("pooler."):
            continue
        values = tensor.detach().flatten()
        values = values[:: max(1, len(values) // SAMPLED_VALUES)].cpu()
        if values.is_floating_point():
            values = values.to(torch.bfloat16).view(torch.int16)
        shape = str(list(tensor.shape)).encode()
        digests.append(hashlib.sha256(shape + values.contiguous().numpy().tobytes()).digest())
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()[:32]


def load_own_weights(config, **hub_arguments) -> dict[str, torch.Tensor]:
    """
    Loads the weights that a checkpoint left out, from the backbone that its configuration names.

    Args:
        config ([`UTGRecTokenizerConfig`]): with `backbone_name_or_path`, `backbone_revision`, `backbone_fingerprint`.
        hub_arguments: `token`, `cache_dir`, `local_files_only` and the like.

    Returns:
        Weights by their names in a network with this configuration.

    Raises:
        ValueError: if the backbone is not there, or has other weights than those of the training.
    """
    name = config.backbone_name_or_path
    place = f"{name!r}" + (f" at revision {config.backbone_revision}" if config.backbone_revision else "")
    remedy = "Name the place of the right one as backbone_name_or_path, or save the network with save_backbone=True."
    try:
        backbone = AutoModel.from_pretrained(
            name, revision=config.backbone_revision, dtype="auto", **SAFELY, **hub_arguments
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"The checkpoint holds no backbone, and the one it was trained on, {place}, cannot be loaded: {error}\n"
            + remedy
        ) from error
    weights = backbone.state_dict()
    found = fingerprint_weights(weights.items())
    if found != config.backbone_fingerprint:
        raise ValueError(
            f"The checkpoint holds no backbone and was trained on one with fingerprint {config.backbone_fingerprint}; "
            f"{place} has {found}, other weights. {remedy}"
        )
    adapted = dict.fromkeys(language_linear_layers(backbone), "base_layer")
    embedding = backbone.get_input_embeddings()
    adapted.update((module_name, "tokens") for module_name, module in backbone.named_modules() if module is embedding)
    renamed = {}
    for weight_name, tensor in weights.items():
        module_name, _, leaf = weight_name.rpartition(".")
        parts = ("backbone", module_name, adapted.get(module_name), leaf)
        renamed[".".join(part for part in parts if part)] = tensor
    return renamed


__all__ = [
    "add_lora",
    "fingerprint_weights",
    "is_adaptation",
    "language_linear_layers",
    "load_own_weights",
    "merge_lora",
]
