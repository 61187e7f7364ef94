"""Small checkpoints of an item tokenizer's network: with or without the backbone, with or without the decoders."""

import copy
import os
from dataclasses import fields

import torch
from safetensors.torch import load_file
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_NAME, cached_file

from .checkpoint_backbone import fingerprint_weights, is_adaptation, load_own_weights
from .checkpoint_format import Upload
from .configuration_utgrec_tokenizer import UTGRecTokenizerConfig

# Parts of the network that only training uses.
DECODERS = ("expand.", "expand_domain.", "text_decoder.", "image_decoder.")
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "token")


class AdapterCheckpoints(PreTrainedModel):
    """For a model with a `backbone`: `save_pretrained`, `push_to_hub` and `from_pretrained` that may leave out its own
    weights, and the decoders."""

    backbone: PreTrainedModel
    config: UTGRecTokenizerConfig
    _keys_to_ignore_on_load_unexpected = [rf"^{name}" for name in DECODERS]  # with_decoders=False

    def own_backbone_weights(self) -> set[str]:
        """Names of the backbone's own weights."""
        return {f"backbone.{name}" for name in self.backbone.state_dict() if not is_adaptation(name)}

    @property
    def has_published_backbone(self) -> bool:
        """Whether the backbone's own weights were loaded from somewhere and are frozen."""
        config = self.config
        loaded = config.backbone_name_or_path is not None and config.backbone_fingerprint is not None
        return loaded and config.lora_config is not None

    def why_whole(self, state_dict: dict[str, torch.Tensor]) -> str | None:
        """Why a checkpoint with these weights must hold the backbone; `None` if it need not."""
        config = self.config
        if config.lora_config is None:
            return "it is trained as a whole, without LoRA"
        if not self.has_published_backbone:
            return "it was not loaded from anywhere (backbone_name_or_path)"
        weights = ((name.removeprefix("backbone."), state_dict[name]) for name in self.own_backbone_weights())
        if fingerprint_weights(weights) != config.backbone_fingerprint:
            return f"its weights have changed since it was loaded from {config.backbone_name_or_path!r}"
        return None

    def save_pretrained(  # type: ignore[override]  # with arguments of its own
        self,
        save_directory: str | os.PathLike,
        save_backbone: bool | None = None,
        without_decoders: bool = False,
        state_dict: dict[str, torch.Tensor] | None = None,
        push_to_hub: bool = False,
        **kwargs,
    ) -> None:
        """
        As [`~transformers.PreTrainedModel.save_pretrained`].

        Args:
            save_directory (`str` or `os.PathLike`): the folder.
            save_backbone (`bool`, *optional*):
                `True` for a self-contained checkpoint, `False` for one without the backbone's own weights, which names
                them instead. By default `False` if the backbone was loaded by name and is adapted with LoRA; one from
                a local folder is pushed along, as it is not on the Hub.
            without_decoders (`bool`): leaves out what only training uses; the codes are the same.
            state_dict, push_to_hub, kwargs: as in transformers.

        Raises:
            ValueError: for `save_backbone=False` if the backbone's weights are nowhere else.
        """
        state_dict = dict(self.state_dict() if state_dict is None else state_dict)
        config, reason = copy.deepcopy(self.config), self.why_whole(state_dict)
        is_folder = os.path.isdir(config.backbone_name_or_path or "")
        if save_backbone is None:
            save_backbone = reason is not None or (push_to_hub and is_folder)
        elif not save_backbone and reason is not None:
            raise ValueError(f"The checkpoint must hold the backbone, as {reason}: leave out save_backbone=False.")
        left_out: set[str] = set()
        config.backbone_saved = save_backbone
        if save_backbone and is_folder:  # which means nothing elsewhere
            config.backbone_name_or_path = config.backbone_fingerprint = None
        if not save_backbone:
            left_out |= self.own_backbone_weights()
            if is_folder and config.backbone_name_or_path is not None:
                config.backbone_name_or_path = os.path.abspath(config.backbone_name_or_path)
            kwargs |= {"max_shard_size": "50GB", "save_original_format": False}  # one file, names as in the network
        if without_decoders:
            left_out |= {name for name in state_dict if name.startswith(DECODERS)}
            config.with_decoders = False
        before = self.config, self._keys_to_ignore_on_save
        self.config, self._keys_to_ignore_on_save = config, left_out
        try:
            super().save_pretrained(save_directory, state_dict=state_dict, push_to_hub=push_to_hub, **kwargs)
        finally:
            self.config, self._keys_to_ignore_on_save = before

    def push_to_hub(  # type: ignore[override]
        self, repo_id: str, save_backbone: bool | None = None, without_decoders: bool = False, **kwargs
    ) -> str:
        """As [`~transformers.PreTrainedModel.push_to_hub`], with the choices of `save_pretrained`."""
        if save_backbone is None and os.path.isdir(self.config.backbone_name_or_path or ""):
            save_backbone = True
        upload = Upload(lambda folder: self.save_pretrained(folder, save_backbone, without_decoders))
        return upload.push_to_hub(repo_id, **{"commit_message": "Upload model", **kwargs})

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, config=None, **kwargs):
        """
        As [`~transformers.PreTrainedModel.from_pretrained`]. A backbone that the checkpoint does not hold is loaded
        from where the checkpoint says, or from `backbone_name_or_path` and `backbone_revision` if given.

        Raises:
            ValueError: if the backbone is not there, or not the one of the training.
        """
        hub = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
        place = {name: kwargs[name] for name in ("revision", "subfolder") if name in kwargs}
        stated, changes = config, {}
        if not isinstance(config, PreTrainedConfig):
            known = {field.name for field in fields(cls.config_class)} - {"dtype"}
            changes = {name: value for name, value in kwargs.items() if name in known}
            source = pretrained_model_name_or_path if config is None else config
            stated = cls.config_class.from_pretrained(source, **hub, **place, **changes)
        if stated.backbone_saved:
            return super().from_pretrained(pretrained_model_name_or_path, *model_args, config=config, **kwargs)

        weights = load_file(cached_file(pretrained_model_name_or_path, SAFE_WEIGHTS_NAME, **hub, **place))
        weights |= load_own_weights(stated, **hub)
        kwargs = {n: v for n, v in kwargs.items() if n not in {*hub, *place, *changes, "adapter_kwargs"}}
        stated = copy.deepcopy(stated)
        stated.backbone_saved = True  # said of the checkpoint, not of the model
        loaded = super().from_pretrained(None, *model_args, config=stated, state_dict=weights, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.name_or_path = model.config.name_or_path = str(pretrained_model_name_or_path)
        return loaded


__all__ = ["AdapterCheckpoints"]
