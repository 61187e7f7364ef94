"""Format of the checkpoints, which every load checks: the kind of model, the version, that no weight is missing, and
that the weights are those that were saved with the configuration.

The format has a version. A release reads the checkpoints of its own version and refuses others by name; within a
version files may gain entries that older releases may ignore, never change the meaning of one. A release that raises
the version reads the versions before it too, or says how to convert them.
"""

import os
import re
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME, PushToHubMixin

from .checkpoint_fingerprint import CONFIG_ENTRY, check_config, check_folder, stamp_folder
from .checkpoint_safety import SHARDS, check_sizes, errors_that_say_why, only_safetensors

FORMAT_VERSION = 1
STAGING = "_model.unfinished-"  # how folders begin in which models are saved; Trainer uploads none with a "_"
LEFTOVER_SECONDS = 6 * 3600  # of another machine's, without a change: longer than a save takes, its upload included
_HOST = re.sub(r"[^A-Za-z0-9]", "_", socket.gethostname())
_RUN = uuid.uuid4().hex[:6]  # a container that starts anew gives its processes the same numbers
_OWNED = re.compile(rf"{re.escape(STAGING)}{_HOST}-(\d+)-([0-9a-f]{{6}})-.*")


class CheckedConfig:
    """For configurations: loading one of another kind or format version is an error, where transformers would go on
    with default values."""

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs):
        """As [`~transformers.PreTrainedConfig.from_dict`].

        Raises:
            ValueError: if the dictionary is of another kind of model or of a format version that can't be read.
        """
        kind, own = config_dict.get("model_type"), getattr(cls, "model_type", None)  # of the class it is mixed into
        if kind is None:  # transformers takes a file that is not there for an empty one
            raise ValueError(f"Expected a configuration of model type {own!r}: there is no config.json.")
        if kind != own:
            raise ValueError(
                f"Expected a configuration of model type {own!r}, found {kind!r}: load it with the class "
                "of that model, or with an Auto class."
            )
        source = kwargs.get("name_or_path")  # of an Auto class
        with errors_that_say_why(f"The configuration of {source}" if source else "The configuration"):
            check_format_version(config_dict.get("format_version", FORMAT_VERSION), "The configuration")
            check_sizes(config_dict)
            return super().from_dict(config_dict, **kwargs)  # type: ignore[misc]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As [`~transformers.PreTrainedConfig.from_pretrained`], with errors that name the file."""
        with errors_that_say_why(f"The configuration of {pretrained_model_name_or_path}"):
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)  # type: ignore[misc]

    def to_dict(self) -> dict:
        values: dict = super().to_dict()  # type: ignore[misc]
        # transformers takes a class with "Tokenizer" in its name for a text tokenizer and lists a slow and a fast one
        for auto_class, reference in values.get("auto_map", {}).items():
            if not isinstance(reference, str):
                values["auto_map"][auto_class] = reference[0]
        return values


class CheckedLoading:
    """For models: files that lack weights, that were changed or that are of two saves are an error, where transformers
    would load them. What is saved takes its place when it is complete."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """As [`~transformers.PreTrainedModel.from_pretrained`].

        Raises:
            ValueError: if the weights are pickles, truncated, damaged or of another save than config.json, some are
                missing or of another shape, or the configuration is missing, was changed since or has values that no
                model can be built from. Who asks for `output_loading_info` is told there of missing weights and judges
                them.
        """
        wants_report = kwargs.pop("output_loading_info", False)
        given = getattr(kwargs.get("config"), "name_or_path", pretrained_model_name_or_path)
        is_of_place = str(given) == str(pretrained_model_name_or_path)  # not a configuration of one's own
        only_safetensors(pretrained_model_name_or_path, kwargs)
        place = Path(pretrained_model_name_or_path or "", kwargs.get("subfolder") or "")
        is_folder = pretrained_model_name_or_path is not None and place.is_dir()
        if is_folder:
            stated = kwargs.get("config") is not None or (place / CONFIG_NAME).is_file()
            if not stated and any(place.glob("model*.safetensors")):  # transformers takes the defaults
                raise ValueError(f"{place}: there is no {CONFIG_NAME}, by which its weights are read: copy it, too.")
            check_folder(place)
        try:
            with errors_that_say_why(f"{pretrained_model_name_or_path}"):
                model, report = super().from_pretrained(
                    pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs
                )
        except SafetensorError as error:
            raise ValueError(
                f"{pretrained_model_name_or_path}: the weights are truncated or not a safetensors file: {error}"
            ) from error
        lacking = sorted(report["missing_keys"])
        if lacking and not wants_report:
            raise ValueError(
                f"{pretrained_model_name_or_path}: {len(lacking)} weights of {cls.__name__} are missing: "
                f"{lacking[:5]}. Its files are incomplete or do not belong to its config.json."
            )
        if not is_folder and pretrained_model_name_or_path is not None:  # downloaded by now
            name = "/".join(filter(None, (kwargs.get("subfolder"), CONFIG_NAME)))
            source = str(pretrained_model_name_or_path), name, kwargs.get("cache_dir"), kwargs.get("revision")
            config = try_to_load_from_cache(*source)
            if isinstance(config, str):
                place = Path(config).parent
                check_folder(place)
        if is_of_place and pretrained_model_name_or_path is not None:
            check_config(place)
        vars(model.config).pop(CONFIG_ENTRY, None)  # true of the files, not of what becomes of the model
        return (model, report) if wants_report else model

    def save_pretrained(self, save_directory, *args, **kwargs) -> None:
        """As [`~transformers.PreTrainedModel.save_pretrained`], with fingerprints of the weights (see
        `checkpoint_fingerprint`) and the permissions of new files. Files are written to a folder within and take their
        places when all are complete, config.json first: what is cut short before is the model that was there, and
        what is cut short there is an error at load. What a save that was killed leaves is removed by the next one that
        is six hours later.

        Raises:
            FloatingPointError: naming the first weight that is not finite.
        """
        folder = Path(save_directory)
        if kwargs.get("distributed_checkpoint") or not kwargs.get("is_main_process", True):
            super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
            return
        given = kwargs.get("state_dict")
        check_finite(self.state_dict() if given is None else given)  # type: ignore[attr-defined]
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        prefix = f"{STAGING}{_HOST}-{os.getpid()}-{_RUN}-"
        staging = tempfile.mkdtemp(prefix=prefix, dir=folder)  # TemporaryDirectory recurses where it may not remove
        try:
            if kwargs.get("push_to_hub"):
                kwargs.setdefault("repo_id", folder.absolute().name)
            super().save_pretrained(staging, *args, **kwargs)  # type: ignore[misc]
            if not kwargs.get("push_to_hub"):  # those were stamped before they were sent
                stamp_folder(staging)
            written = sorted(os.listdir(staging))
            for name in sorted(written, key=lambda name: name != CONFIG_NAME):
                os.replace(Path(staging, name), folder / name)
        except SafetensorError as error:
            raise OSError(f"{folder} cannot be written: {error}. Is the disk full?") from error
        except OSError as error:
            if error.filename is not None or error.errno is None:
                raise
            raise OSError(error.errno, os.strerror(error.errno), str(folder)) from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        weights = {SAFE_WEIGHTS_NAME, SHARDS, *(path.name for path in folder.glob("model-*-of-*.safetensors"))}
        if weights & {*written}:
            for name in weights - {*written}:  # of a save in other parts
                (folder / name).unlink(missing_ok=True)

    def _upload_modified_files(self, working_dir, *args, **kwargs):
        """As transformers' method, which sends what was saved with `push_to_hub=True`."""
        if Path(working_dir).name.startswith(STAGING):
            stamp_folder(working_dir)
        return super()._upload_modified_files(working_dir, *args, **kwargs)  # type: ignore[misc]


def _remove_leftovers(folder: Path) -> None:
    """Removes what saves that were killed left in a folder, to which other processes may be saving."""
    for path in folder.glob(f"{STAGING}*"):
        owned = _OWNED.fullmatch(path.name)
        if owned is not None and os.name == "posix":  # elsewhere a signal of 0 is one
            if not _is_alive(int(owned[1]), owned[2]):
                shutil.rmtree(path, ignore_errors=True)
            continue
        try:
            seconds = time.time() - path.stat().st_mtime
        except FileNotFoundError:  # another one's, complete by now
            continue
        if seconds > LEFTOVER_SECONDS:
            shutil.rmtree(path, ignore_errors=True)


def _is_alive(pid: int, run: str) -> bool:
    if pid == os.getpid():
        return run == _RUN
    try:
        os.kill(pid, 0)
    except OSError as error:  # one that may not be asked is there
        return not isinstance(error, ProcessLookupError)
    return True


def check_finite(tensors: dict[str, torch.Tensor]) -> None:
    """Raises FloatingPointError, which names it, at the first tensor with a number that is not finite. Of tensors on
    one device the answer is fetched once."""
    sums: dict[torch.device, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.device.type != "meta":
            # a sum is not finite if a term is not, and takes a fortieth of the time of looking at each
            sums.setdefault(tensor.device, {})[name] = tensor.detach().sum().isfinite()
    for found in sums.values():
        finite = torch.stack([*found.values()]).tolist()
        odd = [name for name, is_finite in zip(found, finite, strict=True) if not is_finite]
        broken = [name for name in odd if not torch.isfinite(tensors[name].detach()).all()]  # or it overflowed
        if broken:
            raise FloatingPointError(
                f"{broken[0]} and {len(broken) - 1} other weights hold NaN or infinity, so the model is not saved: "
                "the training diverged. Lower the learning rate and go on from a checkpoint before."
            )


class Upload(PushToHubMixin):
    """`push_to_hub` of what `save` writes to a folder: the way to push with choices that `save_pretrained` has and
    [`~transformers.utils.PushToHubMixin.push_to_hub`] does not pass on."""

    def __init__(self, save: Callable[[str], None]):
        self.save = save

    def save_pretrained(self, save_directory: str, **_) -> None:
        self.save(save_directory)


def check_format_version(found: object, what: str) -> None:
    """Raises ValueError unless this release reads checkpoints of the format version `found`."""
    if found != FORMAT_VERSION:
        newer = isinstance(found, int) and found > FORMAT_VERSION
        raise ValueError(
            f"{what} has format version {found}, expected {FORMAT_VERSION}: "
            + ("install a newer release of utgrec to read it." if newer else "save it anew with this release.")
        )


__all__ = ["FORMAT_VERSION", "CheckedConfig", "CheckedLoading", "Upload", "check_finite", "check_format_version"]
