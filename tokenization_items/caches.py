"""Codes of the parts of a catalogue that are finished, in files: what a killed run leaves for the next one."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

FORMAT_VERSION = 1
# Batches of one file, at most; small catalogues have a file for each batch.
MOST_BATCHES = 16


def shards_of(batches: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """Batches in groups that are finished and written together, whatever the number of processes."""
    size = min(max(len(batches) // 64, 1), MOST_BATCHES)
    return [list(batches[start : start + size]) for start in range(0, len(batches), size)]


class FinishedShards:
    """
    A folder of finished shards, each named by a digest of all that its codes depend on: the network, the items' texts
    and images, and how they share batches. So what another network, another catalogue or other settings left is never
    found, and what is found is the same to the bit. Files are there whole or not at all.

    Args:
        folder (`str` or `os.PathLike`): made if need be.
        network (`Sequence[str]`): what tells the network, its precision and its device.
    """

    def __init__(self, folder: str | os.PathLike, network: Sequence[str]):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.network = list(network)

    def key(self, batches: Sequence[np.ndarray], items: Iterable[tuple[Sequence[int], str | None]]) -> str:
        """A shard's name, from its batches and, in their order, the items' text tokens and image digests."""
        settings = [FORMAT_VERSION, self.network, [len(rows) for rows in batches]]
        digest = hashlib.sha256(json.dumps(settings).encode())
        for tokens, image in items:
            digest.update(len(tokens).to_bytes(4, "little") + np.asarray(tokens, "<i4").tobytes())
            digest.update((image or "none").encode())
        return digest.hexdigest()[:32]

    def load(self, key: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Codes and residuals of a shard, in the order of its items; `None` if it isn't there, or broken."""
        try:
            tensors = load_file(self._file(key))
            return tensors["codes"], tensors["residuals"]
        except (OSError, SafetensorError, KeyError):
            return None

    def save(self, key: str, codes: np.ndarray, residuals: np.ndarray) -> None:
        file = self._file(key)
        temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        save_file({"codes": codes, "residuals": residuals}, temporary)
        os.replace(temporary, file)

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"
