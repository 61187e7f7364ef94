"""Caches on disk: codes of the finished parts of a catalogue, and what a frozen vision tower makes of images."""

import hashlib
import inspect
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from modeling_utgrec import UTGRecTokenizerModel
from modeling_utgrec.checkpoint_fingerprint import check_file
from tokenization_items.files import write_tensors
from tokenization_items.item_images import MAX_SIDE

if TYPE_CHECKING:
    from tokenization_items.processing_items import ItemProcessor

Features = dict[str, Tensor]

FORMAT_VERSION = 1
# Batches of one file, at most; small catalogues have a file for each batch.
MOST_BATCHES = 16


def shards_of(batches: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """Batches in groups that are finished and written together, whatever the number of processes."""
    size = min(max(len(batches) // 64, 1), MOST_BATCHES)
    return [list(batches[start : start + size]) for start in range(0, len(batches), size)]


class TensorCache:
    """
    A folder of safetensors files, each named by a digest of all that its tensors depend on: so what other inputs or
    settings left is never found, and what is found is the same to the bit. Files are there whole or not at all.

    Args:
        folder (`str` or `os.PathLike`): made if need be.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def file(self, key: str) -> Path:
        """Where the tensors of this name are, or will be."""
        return self.folder / f"{key}.safetensors"

    def load(self, key: str) -> dict[str, Tensor] | None:
        """Tensors of this name; `None` if they aren't there, or the file is broken."""
        try:
            check_file(self.file(key))
            return load_file(self.file(key))
        except (OSError, ValueError, SafetensorError):
            return None

    def save(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Writes tensors, of any shapes, under this name."""
        write_tensors(self.file(key), tensors)


class FinishedShards(TensorCache):
    """
    Codes of the parts of a catalogue that are finished: what a killed run leaves for the next one.

    Args:
        folder (`str` or `os.PathLike`): made if need be.
        network (`Sequence[str]`): what tells the network, its precision and its device.
    """

    def __init__(self, folder: str | os.PathLike, network: Sequence[str]):
        super().__init__(folder)
        self.network = list(network)

    def key(self, batches: Sequence[np.ndarray], items: Iterable[tuple[Sequence[int], str | None]]) -> str:
        """A shard's name, from its batches and, in their order, the items' text tokens and image digests."""
        settings = [FORMAT_VERSION, self.network, [len(rows) for rows in batches]]
        digest = hashlib.sha256(json.dumps(settings).encode())
        for tokens, image in items:
            digest.update(len(tokens).to_bytes(4, "little") + np.asarray(tokens, "<i4").tobytes())
            digest.update((image or "none").encode())
        return digest.hexdigest()[:32]

    def load_codes(self, key: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Codes and residuals of a shard, in the order of its items; `None` if it isn't there, or broken."""
        tensors = self.load(key)
        if tensors is None or not tensors.keys() >= {"codes", "residuals"}:
            return None
        return tensors["codes"].numpy(), tensors["residuals"].numpy()

    def save_codes(self, key: str, codes: np.ndarray, residuals: np.ndarray) -> None:
        """Writes codes and residuals of a shard."""
        self.save(key, {"codes": torch.from_numpy(codes), "residuals": torch.from_numpy(residuals)})


def takes_states(backbone: torch.nn.Module) -> bool:
    """Whether a backbone takes what its vision tower made of images in place of their pixels."""
    return "mm_encoder_outputs" in inspect.signature(backbone.forward).parameters


class VisualFeatureCache(TensorCache):
    """
    What a frozen vision tower makes of images, one file for each: its grid, the vision tower's states, and for a
    Qwen3-VL those that enter deeper layers too. An image seen before is neither decoded nor encoded. Tokens × width ×
    bytes of a number each, so 3 MB for the largest image of a Qwen2-VL-2B in bfloat16.

    Files are named by a digest of the image's content and stand in a folder for the vision tower's weights and
    precision and the image processor's settings: those of other networks are not found, and not deleted. A network
    that adapts its language model only, as LoRA does here, shares them with every other one on the same backbone.

    Args:
        folder (`str` or `os.PathLike`): made if need be.
        network ([`UTGRecTokenizerModel`]): a network whose backbone has a vision tower.
        processor ([`ItemProcessor`]): the network's processor.

    Raises:
        ValueError: the backbone takes no states of images, as with transformers before 5.17, which would leave the
            images out without a word.
    """

    def __init__(self, folder: str | os.PathLike, network: UTGRecTokenizerModel, processor: "ItemProcessor"):
        self.backbone: Any = network.backbone
        if not takes_states(self.backbone):
            raise ValueError(
                f"{type(self.backbone).__name__} of transformers {transformers.__version__} takes no states of images "
                "in place of pixels: leave out the feature cache, or install transformers 5.17 or later."
            )
        super().__init__(Path(folder) / self._fingerprint(processor))

    def _fingerprint(self, processor: "ItemProcessor") -> str:
        images = processor.image_processor
        settings = [type(images).__name__, images.to_dict(), MAX_SIDE, str(self.backbone.visual.dtype)]
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
        for tensor in self.backbone.visual.state_dict().values():
            digest.update(tensor.contiguous().view(torch.uint8).cpu().numpy().tobytes())
        return digest.hexdigest()[:32]

    def file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def compute(self, images: Sequence[str], pixel_values: Tensor, grids: Tensor) -> list[Features]:
        """Features of images that were not there, from their patches `[patches, values]` and grids `[images, 3]`."""
        device = self.backbone.device
        output = self.backbone.get_image_features(pixel_values.to(device), grids.to(device), return_dict=True)
        deeper = getattr(output, "deepstack_features", None) or []
        found = []
        for number, image in enumerate(images):
            features = {"grid": grids[number], "states": output.pooler_output[number]}
            features |= {f"deeper.{level}": states[number] for level, states in enumerate(deeper)}
            features = {name: tensor.cpu().contiguous() for name, tensor in features.items()}
            self.save(image, features)
            found.append(features)
        return found

    def as_output(self, images: Sequence[Features]) -> SimpleNamespace:
        """Features of a batch's images as the vision tower would have given them."""
        device = self.backbone.device
        levels = range(sum(name.startswith("deeper.") for name in images[0]))
        deeper = [[features[f"deeper.{level}"].to(device) for features in images] for level in levels]
        return SimpleNamespace(
            pooler_output=[features["states"].to(device) for features in images], deepstack_features=deeper
        )
