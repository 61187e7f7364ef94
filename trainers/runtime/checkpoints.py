"""Checkpoints of a training: which are whole, what is wrong with the others, and the newest one to go on from, of a
folder or of the Hub."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError, safe_open
from transformers.trainer import (
    OPTIMIZER_NAME,
    SCALER_NAME,
    SCHEDULER_NAME,
    TRAINER_STATE_NAME,
    TRAINING_ARGS_NAME,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import ADAPTER_SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_NAME, logging

from hub_cards import listed
from modeling_utgrec.checkpoint_fingerprint import check_folder, digest_bytes
from modeling_utgrec.checkpoint_safety import SHARDS
from tokenization_items.files import read_json_object, write_json
from tokenization_items.hub_folders import HTTP_ERROR

logger = logging.get_logger(__name__)

LAST_CHECKPOINT = "last-checkpoint"  # where hub_strategy="checkpoint" keeps the latest one, on the Hub
RECORD = "checkpoint_files.json"  # names, sizes and digests of the files that a training goes on from
_NUMBERED = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")
_RESUMED_FROM = {".safetensors", ".json", ".pt", ".pth", ".bin", ".distcp", ".metadata", ""}  # not cards and pictures
_CARDS = {"card_values.json", RECORD}
_SHARDED = ("global_step", "optimizer_", "pytorch_model_fsdp")  # DeepSpeed's and FSDP's own formats


class CheckpointError(ValueError):
    """A checkpoint from which a training cannot go on as if it had not been interrupted."""


def step_of(name: str) -> int | None:
    """The step of a checkpoint's folder, from its name; `None` if it has another one."""
    found = _NUMBERED.fullmatch(name)
    return int(found[1]) if found else None


def write_record(folder: Path) -> None:
    """Writes down which files a checkpoint has, so that it can be told later whether they are all there and intact."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and path.suffix in _RESUMED_FROM and name not in _CARDS:
            files[name] = {"size": path.stat().st_size, "digest": _digest(path)}
    write_json(folder / RECORD, {"format_version": 1, "files": files})


def find_faults(folder: str | os.PathLike, world_size: int = 1) -> dict[str, str]:
    """
    What is wrong with a checkpoint, by the names of its files; nothing for one that is whole.

    Args:
        folder (`str` or `os.PathLike`): the checkpoint. One that an older release or transformers wrote has no record
            of its files; then they are checked for themselves.
        world_size (`int`, *optional*, defaults to 1): processes of the training that goes on.
    """
    folder = Path(folder)
    faults: dict[str, str] = {}
    try:
        read_json_object(folder / TRAINER_STATE_NAME)
    except FileNotFoundError:
        faults[TRAINER_STATE_NAME] = "is missing"
    except (OSError, ValueError):
        faults[TRAINER_STATE_NAME] = "is truncated or damaged"
    if not any(path.name.startswith(_SHARDED) for path in folder.glob("*/")):
        random = ["rng_state.pth"] if world_size == 1 else [f"rng_state_{rank}.pth" for rank in range(world_size)]
        for name in (OPTIMIZER_NAME, SCHEDULER_NAME, *random):
            if not (folder / name).is_file():
                faults[name] = "is missing"
        weights = (SAFE_WEIGHTS_NAME, SHARDS, ADAPTER_SAFE_WEIGHTS_NAME)  # the last where peft's adapters alone learn
        if not any((folder / name).is_file() for name in weights):
            faults[SAFE_WEIGHTS_NAME] = "is missing"
    if (folder / RECORD).is_file():
        return faults | _faults_by_record(folder)
    return faults | _faults_of_files(folder)


def resumes_partially(faults: Iterable[str]) -> bool:
    """Whether a checkpoint with these faults has weights and the count of steps, and lacks no more than the state of
    optimizer, learning rate and random numbers."""
    return all(name in (OPTIMIZER_NAME, SCHEDULER_NAME, SCALER_NAME) or _is_random(name) for name in faults)


def describe(faults: dict[str, str]) -> str:
    """Faults in one line."""
    return listed([f"{name} {fault}" for name, fault in faults.items()], ", ")


def newest_checkpoint(
    folder: str | os.PathLike | None, world_size: int = 1, allow_partial: bool = False
) -> Path | None:
    """
    The newest whole checkpoint of a training's folder; `None` if it holds no checkpoint. Those that are skipped are
    named in a warning, with the reason.

    Args:
        folder (`str` or `os.PathLike`): where the training writes.
        world_size (`int`, *optional*, defaults to 1): processes of the training that goes on.
        allow_partial (`bool`, *optional*, defaults to `False`): if none is whole, take the newest one that
            [`resumes_partially`].

    Raises:
        CheckpointError: if there are checkpoints and none can be taken.
    """
    if folder is None or not Path(folder).is_dir():
        return None
    found = {step: path for path in Path(folder).iterdir() if (step := step_of(path.name)) is not None}
    skipped: dict[Path, dict[str, str]] = {}
    for step in sorted(found, reverse=True):
        faults = find_faults(found[step], world_size)
        if not faults:
            _tell(skipped, found[step])
            return found[step]
        skipped[found[step]] = faults
    partial = [path for path, faults in skipped.items() if resumes_partially(faults)]
    if allow_partial and partial:
        _tell({path: faults for path, faults in skipped.items() if path != partial[0]}, partial[0])
        return partial[0]
    if skipped:
        reasons = "; ".join(f"{path.name}: {describe(faults)}" for path, faults in skipped.items())
        raise CheckpointError(
            f"{folder} holds no whole checkpoint to resume from: {reasons}. "
            + (
                "With --allow_partial_resume the training goes on without what is missing, and gives other results; "
                if partial
                else ""
            )
            + "remove them, or give --overwrite, to start anew."
        )
    return None


def hub_checkpoint(
    repo_id: str,
    revision: str | None = None,
    token: str | None = None,
    world_size: int = 1,
    allow_partial: bool = False,
) -> str:
    """
    Downloads the latest checkpoint that a training pushed, and returns its folder. Of several the latest whole one is
    taken; those that are skipped are named in a warning.

    Raises:
        CheckpointError: if none is whole.
        ValueError: if there is no such repository, or no checkpoint in it.
    """
    api = HfApi(token=token)
    try:
        if "/" not in repo_id:  # as when it was made: the user's
            repo_id = f"{api.whoami()['name']}/{repo_id}"
        files = api.list_repo_files(repo_id, revision=revision)
    except (HTTP_ERROR, HFValidationError, OSError) as error:
        raise ValueError(f"{repo_id} is neither a folder nor a repository that can be read: {error}") from error
    suffix = f"/{TRAINER_STATE_NAME}"
    folders = [name.removesuffix(suffix) for name in files if name.endswith(suffix) and name.count("/") == 1]
    numbered = {step: name for name in folders if (step := step_of(name)) is not None}
    candidates = (
        [LAST_CHECKPOINT] if LAST_CHECKPOINT in folders else [numbered[step] for step in sorted(numbered)[::-1]]
    )
    if not candidates:
        raise ValueError(
            f'{repo_id} holds no checkpoint to resume from: train with push_to_hub and hub_strategy="checkpoint".'
        )
    skipped: list[str] = []
    for folder in candidates:
        try:
            path = snapshot_download(
                repo_id,
                revision=revision,
                token=token,
                allow_patterns=[f"{folder}/*"],
                ignore_patterns=[f"*/{TRAINING_ARGS_NAME}"],
            )
        except (HTTP_ERROR, OSError) as error:
            raise ValueError(f"{folder} of {repo_id} cannot be downloaded: {error}. Try again later.") from error
        found = Path(path) / folder
        faults = find_faults(found, world_size)
        if not faults or (allow_partial and resumes_partially(faults)):
            for reason in skipped:
                logger.warning(f"{repo_id}: skipped, {folder} is taken: {reason}.")
            return str(found)
        skipped.append(f"{folder}: {describe(faults)}")
    raise CheckpointError(f"{repo_id} holds no whole checkpoint to resume from: {'; '.join(skipped)}.")


def _tell(skipped: dict[Path, dict[str, str]], taken: Path) -> None:
    for path, faults in skipped.items():
        logger.warning(f"{path} is skipped, {taken.name} is taken: {describe(faults)}.")


def _faults_by_record(folder: Path) -> dict[str, str]:
    try:
        files: Any = read_json_object(folder / RECORD)["files"]
        stated = {str(name): (int(file["size"]), str(file["digest"])) for name, file in files.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {RECORD: "is truncated or damaged"}
    faults = {}
    for name, (size, digest) in stated.items():
        path = folder / name
        if not path.is_file():
            faults[name] = "is missing"
        elif path.stat().st_size != size:
            faults[name] = f"has {path.stat().st_size:,} bytes of {size:,}"
        elif _digest(path) != digest:
            faults[name] = "is damaged (its bytes have changed)"
    return faults


def _faults_of_files(folder: Path) -> dict[str, str]:
    faults = {}
    for path in sorted([*folder.glob("*.pt"), *folder.glob("*.pth")]):
        try:  # torch's files are zip archives, which have checksums
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:
                    faults[path.name] = "is damaged"
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
            faults[path.name] = "is truncated or damaged"
    for path in sorted(folder.glob("*model*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (OSError, SafetensorError):
            faults[path.name] = "is truncated or damaged"
    try:
        parts = set(json.loads((folder / SHARDS).read_text(encoding="utf-8"))["weight_map"].values())
        faults |= {name: "is missing" for name in parts if not (folder / name).is_file()}
    except FileNotFoundError:
        pass
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        faults[SHARDS] = "is truncated or damaged"
    if not faults:
        try:
            check_folder(folder)
        except (OSError, ValueError) as error:
            faults[SAFE_WEIGHTS_NAME] = str(error)
    return faults


def _is_random(name: str) -> bool:
    return name.startswith("rng_state")


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return digest_bytes(file).hex()
