"""Uploads to the Hub, of safetensors, JSON, text, tables and images only: no pickles, no secrets."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi, get_token
from huggingface_hub.utils import filter_repo_objects
from transformers.utils import CONFIG_NAME

from hub_cards.named import listed, named
from modeling_utgrec.checkpoint_safety import SHARDS
from tokenization_items.files import read_json_object
from tokenization_items.item_index_files import (
    CODES_NAME,
    CONTENT_NAME,
    IDS_NAME,
    MANIFEST_NAME,
    SHARDED_NAME,
    TITLES_NAME,
)
from tokenization_items.item_memory import MEMORY_NAME
from tokenization_items.item_provenance import PROVENANCE_NAME
from tokenization_items.pipeline_item_recommendation import NETWORK_FOLDER
from tokenization_items.processing_content import ENCODER_NAME
from tokenization_items.text_statistics import STATISTICS_NAME
from tokenization_items.tokenization_items import TOKENIZER_FILE
from trainers.hub.endpoint import write_endpoint

# Of no use to others. `training_args.bin` is a pickle that holds whatever the arguments hold, a token included.
LEFT_OUT = [
    "training_args.bin",
    "run.yaml",  # paths of this machine
    "optimizer.*",
    "scheduler.pt",
    "scaler.pt",
    "rng_state*.pth",
    "user_content.pt",
    "trainer_state.json.tmp",
    "checkpoint-*",
    "*/checkpoint-*",
    "checkpoints/*",
    "training/*",  # of an item tokenizer, within its folder
    "last-checkpoint/*",
    "global_step*",
    "runs/*",
    "events.out.tfevents.*",
    "*/events.out.tfevents.*",
    ".[!e]*",  # what is hidden, but for .eval_results: a pattern has no exception
    ".e",
    ".e[!v]*",
    "*/.*",
    "_*",
    "*/__pycache__/*",
    "*.tmp",
]
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".npy", ".npz", ".h5", ".keras")
TEXTS = (".json", ".jsonl", ".md", ".txt", ".yaml", ".yml", ".py", ".csv", ".jinja", ".toml", ".cfg", ".ini", ".sh")
PUBLISHED = (
    ".safetensors",
    ".json",
    ".jsonl",
    ".jsonl.gz",
    ".parquet",
    ".csv",
    ".md",
    ".txt",
    ".yaml",
    ".jinja",
    ".model",
    ".py",
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".avif",
    ".jp2",
    ".jpeg2000",
    ".ppm",
    ".mpo",
)
NAMES = ("LICENSE", "NOTICE", "CITATION.cff")
ALLOWED = [*(f"*{suffix}" for suffix in PUBLISHED), *NAMES]
# Files of one part of a model. Those of an earlier push that a folder with the part lacks would be taken for its own:
# weights in shards beside others, the memory of another recommender, codes in shards, rules, what embeds texts.
WEIGHTS = ("model.safetensors", SHARDS, "model-*-of-*.safetensors")
INDEX = (CODES_NAME, IDS_NAME, TITLES_NAME, CONTENT_NAME, PROVENANCE_NAME, f"{SHARDED_NAME}/*")
ENCODERS = (ENCODER_NAME, STATISTICS_NAME)  # what an item tokenizer's network reads texts by, one of them
OF_A_RECOMMENDER = (MEMORY_NAME, "recommender.json", "catalogue_journal.jsonl")
_TOKEN = re.compile(rb"hf_[A-Za-z0-9]{30,}")
_BLOCK = 1 << 20
_OVERLAP = 256  # bytes of a block looked at again with the next one: a token may lie across


class PublishingError(ValueError):
    """A folder that must not be published as it is; the message names the files and the fix."""


@dataclass
class Plan:
    """
    What a push would send.

    Args:
        folder (`Path`): the folder.
        files (`list[tuple[str, int]]`): path within the folder and size in bytes of each file to send.
        left_out (`list[str]`): files that stay here.
    """

    folder: Path
    files: list[tuple[str, int]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def num_bytes(self) -> int:
        return sum(size for _, size in self.files)

    def __str__(self) -> str:
        lines = [f"{format_bytes(size):>10}  {name}" for name, size in self.files]
        lines.append(f"{format_bytes(self.num_bytes):>10}  in {len(self.files)} files")
        if self.left_out:
            lines.append(f"{'left out':>10}  {len(self.left_out)} files: {named(self.left_out)}")
        return "\n".join(lines)


def published_files(folder: str | os.PathLike) -> list[str]:
    """Paths within the folder of the files that a push takes: [`LEFT_OUT`] stays here, [`ALLOWED`] may go."""
    names = sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())
    return list(filter_repo_objects(names, allow_patterns=ALLOWED, ignore_patterns=LEFT_OUT))


def plan_folder(folder: str | os.PathLike) -> Plan:
    """
    Looks through a folder; nothing is sent.

    Raises:
        PublishingError: for a folder without files, pickles, files of a kind that is not published, links that leave
            the folder, texts that hold an access token (which is not shown), and an item tokenizer whose text encoder
            is on this machine alone.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise PublishingError(f"{folder} is no folder.")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    kept = list(filter_repo_objects(names, ignore_patterns=LEFT_OUT))
    plan = Plan(folder, [(name, (folder / name).stat().st_size) for name in kept], sorted({*names} - {*kept}))
    problems = list(_problems(folder, kept))
    if problems:
        raise PublishingError(f"{folder} must not be published as it is:\n  {listed(problems)}")
    if not kept:
        raise PublishingError(f"{folder} holds no file to publish.")
    return plan


def _problems(folder: Path, names: list[str]) -> Iterator[str]:
    root, token = folder.resolve(), get_token()
    for name, encoder in text_encoders_of(folder):
        try:
            if name in names:
                check_text_encoder(encoder)
        except PublishingError as error:
            yield f"{name}: {error}"
    for name in names:
        path = folder / name
        if not path.resolve().is_relative_to(root):
            yield f"{name} is a link out of the folder: put the file itself there"
        elif name.lower().endswith(PICKLES):
            yield f"{name} is a pickle or may hold one, and opening those runs code: save as safetensors, or remove it"
        elif not name.endswith(PUBLISHED) and name not in NAMES:
            yield f"{name} is of a kind that is not published: remove it"
        elif name.lower().endswith(TEXTS) and _holds_token(path, token):
            yield f"{name} holds an access token: remove the token, and revoke it if the file was ever shared"


def text_encoders_of(folder: str | os.PathLike) -> Iterator[tuple[str, str]]:
    """The files within a folder that name the text encoder of an item tokenizer, with its name."""
    for path in sorted(Path(folder).rglob("*.json")):
        key = {ENCODER_NAME: "name", CONFIG_NAME: "text_encoder"}.get(path.name)
        if key is None:
            continue
        try:
            name = read_json_object(path).get(key)
        except ValueError:  # broken, which is not for here
            continue
        if isinstance(name, str):
            yield path.relative_to(folder).as_posix(), name


def check_text_encoder(name: str, is_here: bool = False) -> None:
    """
    For a text encoder that an item tokenizer on the Hub names: by it others give new items their semantic IDs.

    Args:
        name (`str`): Hub id or folder.
        is_here (`bool`, *optional*, defaults to `False`): whether it is known to be on this machine alone.

    Raises:
        PublishingError: it is a folder of this machine.
    """
    if is_here or Path(name).is_dir() or Path(name).is_absolute() or name.startswith((".", "~")):
        raise PublishingError(
            f"An item tokenizer on the Hub names its text encoder, and {name!r} is on this machine alone, so that "
            "others could add no items: give a Hub id as text_encoder, or do not push."
        )


def _holds_token(path: Path, token: str | None) -> bool:
    """Whether a file holds something like a token of the Hub, or the one that is in use."""
    secret = token.encode() if token and len(token) >= 8 else None
    with open(path, "rb") as file:
        rest = b""
        while block := file.read(_BLOCK):
            text = rest + block
            if _TOKEN.search(text) or (secret is not None and secret in text):
                return True
            rest = text[-_OVERLAP:]
    return False


def format_bytes(size: int) -> str:
    """`1536` as `1.5 kB`; units are powers of 1000, as on the Hub."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def send_folder(
    folder: str | os.PathLike,
    repo_id: str,
    message: str,
    repo_type: str = "model",
    revision: str | None = None,
    token: str | None = None,
    network: Mapping[str, str] | None = None,
    **kwargs: Any,
) -> CommitInfo:
    """
    Sends what a folder has to publish to a repository that is there; a recommender's gets what serves it, see
    [`write_endpoint`]. After an interruption it goes on with what has not arrived. What an earlier push has left there
    of a model's parts, and the folder has not, is deleted in the same commit.

    Args:
        folder (`str` or `os.PathLike`): the folder, which is looked through first.
        repo_id, repo_type, revision: where to.
        message (`str`): of the commit.
        token (`str`, *optional*): by default that of the user who is logged in.
        network (`Mapping[str, str]`, *optional*): place of the item tokenizer's network on the Hub (`name_or_path`,
            `revision`), for an index-only copy. Where its file names a folder of this machine, this is what is sent
            instead.
        kwargs: `create_pr` and `commit_description` of the commit.

    Raises:
        PublishingError: if the folder holds what must not be published.
    """
    folder = Path(folder)
    write_endpoint(folder)
    plan = plan_folder(folder)
    api = HfApi(token=token)
    settings = _settings_for_others(folder / TOKENIZER_FILE, network)
    if settings is not None:
        api.upload_file(
            path_or_fileobj=settings,
            path_in_repo=TOKENIZER_FILE,
            repo_id=repo_id,
            repo_type=repo_type,
            revision=revision,
            commit_message=f"{message}: settings",
        )
    return api.upload_folder(
        folder_path=folder,
        repo_id=repo_id,
        repo_type=repo_type,
        revision=revision,
        commit_message=message,
        allow_patterns=ALLOWED,
        ignore_patterns=[*LEFT_OUT, *([TOKENIZER_FILE] if settings is not None else [])],
        delete_patterns=_outdated(name for name, _ in plan.files) or None,
        **kwargs,
    )


def _outdated(names: Iterable[str]) -> list[str]:
    """Patterns of what a repository must not keep beside these files of a folder, each of which is sent."""
    there = {*names}
    has_weights, has_index = bool(there & {*WEIGHTS}), bool(there & {CODES_NAME, f"{SHARDED_NAME}/{MANIFEST_NAME}"})
    within = [tuple(f"{NETWORK_FOLDER}/{name}" for name in part) for part in (WEIGHTS, ENCODERS)]
    parts = (
        (has_weights, WEIGHTS + ENCODERS),
        (has_index, INDEX),
        (has_weights and has_index, OF_A_RECOMMENDER),
        (bool(there & {*within[0]}), within[0] + within[1]),
    )
    return [pattern for is_there, patterns in parts if is_there for pattern in patterns]


def _settings_for_others(file: Path, network: Mapping[str, str] | None) -> bytes | None:
    """The settings of an item tokenizer whose network lies in a folder of this machine, as others can use them; `None`
    if they can be sent as they are."""
    if not file.is_file():
        return None
    values = read_json_object(file)
    place = values.get("network")
    if place is not None and place["name_or_path"].startswith("."):
        inside = (file.parent / place["name_or_path"]).resolve()
        if inside.is_dir() and inside.is_relative_to(file.parent.resolve()):  # it is sent along
            return None
    if place is None or not (place["name_or_path"].startswith(".") or Path(place["name_or_path"]).exists()):
        return None
    values["network"] = None if network is None else {"subfolder": "", **network}
    return (json.dumps(values, indent=2) + "\n").encode()
