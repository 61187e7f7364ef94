"""Fingerprints of saved weights: what tells that a file is as it was written, and that files are of one save.

A safetensors file states in its metadata a digest of its tensors (names, types, shapes and bytes), and a model's
config.json the digests of the weights that were saved with it. Weights state what config.json said of how they are
read, too. Files without these, those of older releases and of other libraries, are read as they are.
"""

import hashlib
import json
import mmap
import os
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from transformers.utils import CONFIG_NAME

FINGERPRINT = "fingerprint"  # in a file's metadata
METADATA = "metadata_fingerprint"  # beside it: of the other metadata
CONFIG_ENTRY = "weights_fingerprint"  # in config.json: by the names of the files
CONFIG = "config"  # in the metadata of a model's weights: what config.json said, but for what may be edited
# Entries of config.json that no weight is read by: of training, of histories' length, of where things are, and those
# that transformers and the Hub write.
_EDITABLE = re.compile(
    r"_.*|.*dropout.*|.*_(weight|ratio|share|passes|fingerprint|revision|name_or_path|clusters)|loss.*|initializer.*"
    r"|num_negatives|log_q_correction|horizon|max_history|warmup_steps|sinkhorn_epsilon|.*temperature|codebook_.*init"
    r"|diffusion_repeats|backbone_saved|architectures|auto_map|custom_pipelines|(torch_)?dtype|transformers_version"
    r"|use_cache|output_.*|return_dict|id2label|label2id|problem_type|chunk_size_feed_forward|task_specific_params"
)
CHUNK = 1 << 24  # bytes that are digested at once; part of the format
THREADS = 8


def digest_bytes(file: Any, start: int = 0) -> bytes:
    """A digest of an open file from `start` on: sha256 of the sha256 of its chunks of 16 MiB, which threads share. A
    load that follows finds the bytes in memory."""
    size = os.fstat(file.fileno()).st_size
    if size <= start:
        return hashlib.sha256().digest()
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:

        def digest(at: int) -> bytes:
            with view[at : min(at + CHUNK, size)] as chunk:
                return hashlib.sha256(chunk).digest()

        chunks = range(start, size, CHUNK)
        if len(chunks) == 1:
            return hashlib.sha256(digest(start)).digest()
        with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
            return hashlib.sha256(b"".join(pool.map(digest, chunks))).digest()


def fingerprint_file(path: str | os.PathLike) -> tuple[str, str | None]:
    """
    The fingerprint of a safetensors file's tensors, and the one that the file states; `None` if it states none.

    Raises:
        ValueError: if the file is no safetensors file.
    """
    with open(path, "rb") as file:
        header, start = read_header(path, file)
        metadata = header.pop("__metadata__", {})
        digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
        digest.update(digest_bytes(file, start))
    return digest.hexdigest(), metadata.get(FINGERPRINT) if isinstance(metadata, dict) else None


def stamp_file(path: str | os.PathLike, further: Mapping[str, str] | None = None) -> str:
    """Writes the fingerprint of a safetensors file into its metadata, beside `further` ones, and returns it. The file
    is written anew, with the permissions of new files (safetensors' own are for their owner only), and replaced in one
    step."""
    path = Path(path)
    fingerprint, _ = fingerprint_file(path)
    temporary = path.with_name(f".{path.name}.stamping.tmp")
    try:
        with open(path, "rb") as file, open(temporary, "wb") as stamped:
            header, start = read_header(path, file)
            metadata = {**header.get("__metadata__", {}), **(further or {}), FINGERPRINT: fingerprint}
            header["__metadata__"] = metadata | {METADATA: _metadata_digest(metadata)}
            text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
            text += b" " * (-len(text) % 8)
            stamped.write(len(text).to_bytes(8, "little") + text)
            file.seek(start)
            shutil.copyfileobj(file, stamped, CHUNK)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return fingerprint


def _metadata_digest(metadata: dict[str, Any]) -> str:
    others = {name: value for name, value in metadata.items() if name not in (FINGERPRINT, METADATA)}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()


def check_file(path: str | os.PathLike) -> str | None:
    """
    Checks a safetensors file against the fingerprint that it states, which is returned; `None` if it states none.

    Raises:
        ValueError: if its bytes are not those that were written, or it is no safetensors file.
    """
    found, stated = fingerprint_file(path)
    if stated is not None and not isinstance(stated, str):
        raise ValueError(f"{path} is damaged: its fingerprint is a text, found {str(stated)[:60]}. Copy it again.")
    if stated is not None and found != stated:
        raise ValueError(
            f"{path} is damaged: it states the fingerprint {stated[:16]}… and its tensors have {found[:16]}…, so "
            "bytes were changed since it was written. Copy or download it again, or save the model anew."
        )
    if stated is not None:
        with open(path, "rb") as file:
            metadata = read_header(path, file)[0]["__metadata__"]
        if metadata.get(METADATA, _metadata_digest(metadata)) != _metadata_digest(metadata):  # older files have none
            raise ValueError(f"{path} is damaged: its metadata were changed since it was written. Copy it again.")
    return stated


def stamp_folder(folder: str | os.PathLike) -> None:
    """Stamps a model's weights, every safetensors file of the folder, also with what config.json says of them, and
    names their fingerprints there."""
    folder = Path(folder)
    config = folder / CONFIG_NAME
    values = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    further = {CONFIG: json.dumps(_read_by(values), sort_keys=True)} if values else {}
    fingerprints = {path.name: stamp_file(path, further) for path in sorted(folder.glob("*.safetensors"))}
    if values and fingerprints:
        values[CONFIG_ENTRY] = fingerprints
        config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def check_folder(folder: str | os.PathLike) -> None:
    """
    Checks the weights of a model's folder against the fingerprints that they and its config.json state.

    Raises:
        FileNotFoundError: if a file that config.json names is missing.
        ValueError: naming the file, if its bytes were changed, or if it is not of the same save as config.json.
    """
    folder = Path(folder)
    named = _named_by_config(folder / CONFIG_NAME)
    for name, wanted in named.items():
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing, which {CONFIG_NAME} names: copy it, too.")
        found = check_file(folder / name)
        if found != wanted:
            stated = "states none" if found is None else f"has {found[:16]}…"
            raise ValueError(
                f"{folder / name} is not of the same save as the {CONFIG_NAME} beside it, which names weights with "
                f"the fingerprint {wanted[:16]}…, and this file {stated}: take both from one save."
            )
    if not named:
        for path in sorted(folder.glob("model*.safetensors")):
            check_file(path)


def check_config(folder: str | os.PathLike) -> None:
    """
    Checks a config.json that could be read against what the weights beside it say it was when they were saved. An
    entry is to be changed as an argument of `from_pretrained`, and with the weights.

    Raises:
        ValueError: naming the file and the entries, if some were changed that weights are read by.
    """
    config = Path(folder, CONFIG_NAME)
    for name in _named_by_config(config):
        with open(config.parent / name, "rb") as file:
            stated = read_header(name, file)[0].get("__metadata__", {}).get(CONFIG)
        if stated is None:
            continue
        values, wanted = _read_by(json.loads(config.read_text(encoding="utf-8"))), json.loads(stated)
        changed = [key for key in wanted if values.get(key) != wanted[key]]
        if changed:
            key = changed[0]
            raise ValueError(
                f"{config} was changed since the weights beside it were saved: {', '.join(changed)}; {key} is "
                f"{json.dumps(values.get(key))[:60]} and was {json.dumps(wanted[key])[:60]}. Take both from one save; "
                f"what is to be changed is an argument, from_pretrained(..., {key}=...)."
            )


def _read_by(values: dict[str, Any]) -> dict[str, Any]:
    """The entries of a config.json that weights are read by."""
    return {name: value for name, value in values.items() if name != CONFIG_ENTRY and not _EDITABLE.fullmatch(name)}


def _named_by_config(config: Path) -> dict[str, str]:
    """The weights that a config.json names, and their fingerprints."""
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # which whoever reads it says
        return {}
    named = values.get(CONFIG_ENTRY, {}) if isinstance(values, dict) else {}
    if not isinstance(named, dict) or not all(
        isinstance(wanted, str) and Path(name).name == name for name, wanted in named.items()
    ):
        raise ValueError(f"{config}: {CONFIG_ENTRY} is an object of file names and digests, found {str(named)[:60]}.")
    return named


def read_header(path: str | os.PathLike, file: Any) -> tuple[dict[str, Any], int]:
    """The header of an open safetensors file, and where its tensors begin.

    Raises:
        ValueError: if the file is truncated or no safetensors file.
    """
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        raise ValueError(f"{path} is truncated or not a safetensors file: {size} bytes.")
    try:
        header = json.loads(file.read(length))
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    except (ValueError, RecursionError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"{path} is truncated or not a safetensors file: {error}") from error
    if expected != size:
        raise ValueError(f"{path} is truncated or damaged: {size:,} bytes, where {expected:,} are expected.")
    return header, 8 + length


__all__ = ["check_config", "check_file", "check_folder", "digest_bytes", "read_header", "stamp_file", "stamp_folder"]
