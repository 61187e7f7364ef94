"""Latents of the items' images under a frozen autoencoder: the targets of the image reconstruction, computed once."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from tokenization_items.catalogue import Catalogue

if TYPE_CHECKING:
    from diffusers.models import AutoencoderKL


@dataclass(frozen=True)
class ImageLatents:
    """
    Args:
        latents (`np.ndarray` of shape `(images, channels, size, size)`): scaled latents, float16.
        rows (`np.ndarray` of shape `(items,)`): each item's row in `latents`, -1 for an item without image.
    """

    latents: np.ndarray
    rows: np.ndarray

    @property
    def channels(self) -> int:
        return self.latents.shape[1]

    @property
    def size(self) -> int:
        return self.latents.shape[2]

    def batch(self, items: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents `[items, channels, size, size]`, zeros for items without image, and which items have one."""
        rows = self.rows[items]
        has_image = rows >= 0
        latents = np.zeros((len(items), *self.latents.shape[1:]), dtype=np.float32)
        latents[has_image] = self.latents[rows[has_image]]
        return torch.from_numpy(latents), torch.from_numpy(has_image)


def encode_images(
    catalogue: Catalogue,
    autoencoder: "AutoencoderKL",
    image_size: int = 256,
    scale: float | None = None,
    batch_size: int = 64,
    progress: bool | None = None,
) -> ImageLatents | None:
    """Encodes every image of a catalogue: centre crop, `image_size` pixels a side, mode of the posterior.

    Args:
        catalogue: the items.
        autoencoder: frozen.
        image_size: side of the square that the autoencoder sees.
        scale: factor on the latents (0.2325 in the paper); by default what gives them unit variance, as the
            diffusion loss expects.
        batch_size: images encoded at a time.
        progress: whether to show a bar; by default if the output is a terminal.

    Returns:
        The latents, or `None` if no item has an image.
    """
    items = [row for row in range(len(catalogue)) if catalogue.has_image(row)]
    if not items:
        return None
    parts = []
    with (
        torch.inference_mode(),
        tqdm(
            total=len(items), desc="Encoding images", unit="image", disable=None if progress is None else not progress
        ) as bar,
    ):
        for start in range(0, len(items), batch_size):
            images = [catalogue.image(row) for row in items[start : start + batch_size]]
            pixels = np.stack([_pixels(image, image_size) for image in images if image is not None])
            values = torch.from_numpy(pixels).to(autoencoder.device, autoencoder.dtype)
            parts.append(autoencoder.encode(values).latent_dist.mode().float().cpu().numpy())
            bar.update(len(pixels))
    latents = np.concatenate(parts)
    latents *= 1.0 / latents.std() if scale is None else scale
    rows = np.full(len(catalogue), -1, dtype=np.int64)
    rows[items] = np.arange(len(items))
    return ImageLatents(latents.astype(np.float16), rows)


def _pixels(image: Image.Image, size: int) -> np.ndarray:
    """Centre crop to a square, float32 `[3, size, size]` in [-1, 1]."""
    square = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(square, dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1.0
