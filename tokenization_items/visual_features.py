"""What a frozen vision tower makes of images, kept on disk: an image seen before is neither decoded nor encoded."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from modeling_utgrec import UTGRecTokenizerModel
from tokenization_items.item_images import MAX_SIDE

if TYPE_CHECKING:
    from tokenization_items.processing_items import ItemProcessor

Features = dict[str, Tensor]


class VisualFeatureCache:
    """
    A folder of one file for each image: its grid, the vision tower's states, and for a Qwen3-VL those that enter
    deeper layers too. Tokens × width × bytes of a number each, so 3 MB for the largest image of a Qwen2-VL-2B in
    bfloat16.

    Files are named by a digest of the image's content and stand in a folder for the vision tower's weights and
    precision and the image processor's settings: those of other networks are not found, and not deleted. A network
    that adapts its language model only, as LoRA does here, shares them with every other one on the same backbone.

    Args:
        folder (`str` or `os.PathLike`): made if need be.
        network ([`UTGRecTokenizerModel`]): a network whose backbone has a vision tower.
        processor ([`ItemProcessor`]): the network's processor.
    """

    def __init__(self, folder: str | os.PathLike, network: UTGRecTokenizerModel, processor: "ItemProcessor"):
        self.backbone, self.processor = network.backbone, processor
        self.folder = Path(folder) / self._fingerprint()
        self.folder.mkdir(parents=True, exist_ok=True)

    def _fingerprint(self) -> str:
        settings = [type(self.processor.image_processor).__name__, self.processor.image_processor.to_dict(), MAX_SIDE]
        settings.append(str(self.backbone.visual.dtype))
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
        for tensor in self.backbone.visual.state_dict().values():
            digest.update(tensor.contiguous().view(torch.uint8).cpu().numpy().tobytes())
        return digest.hexdigest()[:32]

    def load(self, image: str) -> Features | None:
        """Features of the image with this digest; `None` if they aren't there, or the file is broken."""
        try:
            return load_file(self._file(image))
        except (OSError, SafetensorError):
            return None

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
            file = self._file(image)
            file.parent.mkdir(exist_ok=True)
            temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
            save_file(features, temporary)
            os.replace(temporary, file)
            found.append(features)
        return found

    def as_output(self, images: Sequence[Features]) -> SimpleNamespace:
        """Features of a batch's images as the vision tower would have given them."""
        device = self.backbone.device
        deeper = [[features[name].to(device) for features in images] for name in sorted(images[0]) if "deeper" in name]
        return SimpleNamespace(
            pooler_output=[features["states"].to(device) for features in images], deepstack_features=deeper
        )

    def _file(self, image: str) -> Path:
        return self.folder / image[:2] / f"{image}.safetensors"
