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

    from trainers.training_data.cosine_encoder import CosineEncoder

    Autoencoder = AutoencoderKL | CosineEncoder


@dataclass(frozen=True)
class ImageLatents:
    """
    Args:
        latents (`np.ndarray` of shape `(images * views, channels, size, size)`): scaled latents, the mode of the
            posterior, float16; the views of an image one after the other.
        rows (`np.ndarray` of shape `(items,)`): number of each item's image, -1 for an item without.
        deviations (`np.ndarray` of the shape of `latents`, *optional*): scaled standard deviations of the posterior,
            where batches draw from it.
        views (`int`, *optional*, defaults to 1): 2 where an image's mirror image follows it, and batches draw one.
    """

    latents: np.ndarray
    rows: np.ndarray
    deviations: np.ndarray | None = None
    views: int = 1

    @property
    def channels(self) -> int:
        return self.latents.shape[1]

    @property
    def size(self) -> int:
        return self.latents.shape[2]

    @property
    def is_random(self) -> bool:
        """Whether batches are drawn."""
        return self.deviations is not None or self.views > 1

    def batch(
        self, items: np.ndarray, generator: np.random.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents `[items, channels, size, size]`, zeros for items without image, and which items have one. The
        generator draws views and latents; without one they are the image's own and the mode."""
        rows = self.rows[items]
        has_image = rows >= 0
        rows = rows[has_image] * self.views
        if generator is not None and self.views > 1:
            rows = rows + generator.integers(self.views, size=len(rows))
        latents = np.zeros((len(items), *self.latents.shape[1:]), dtype=np.float32)
        latents[has_image] = self.latents[rows]
        if generator is not None and self.deviations is not None:
            noise = generator.standard_normal((len(rows), *self.latents.shape[1:]), dtype=np.float32)
            latents[has_image] += self.deviations[rows] * noise
        return torch.from_numpy(latents), torch.from_numpy(has_image)


def encode_images(
    catalogue: Catalogue,
    autoencoder: "Autoencoder",
    image_size: int = 256,
    scale: float | None = None,
    batch_size: int = 64,
    progress: bool | None = None,
    sample: bool = False,
    flip: bool = False,
) -> ImageLatents | None:
    """Encodes every image of a catalogue: centre crop, `image_size` pixels a side.

    Args:
        catalogue (`Catalogue`): the items.
        autoencoder (`AutoencoderKL`, or with its `encode`): frozen.
        image_size (`int`, *optional*, defaults to 256): side of the square that the autoencoder sees.
        scale (`float`, *optional*): factor on the latents (0.2325 in the paper); by default what gives them unit
            variance, as the diffusion loss expects.
        batch_size (`int`, *optional*, defaults to 64): images encoded at a time.
        progress (`bool`, *optional*): whether to show a bar; by default if the output is a terminal.
        sample (`bool`, *optional*, defaults to `False`): whether batches are to be drawn from the posterior, which
            takes twice the memory; else its mode is what they hold.
        flip (`bool`, *optional*, defaults to `False`): whether batches are to hold mirror images in half of the cases,
            which takes twice the memory.

    Returns:
        The latents, or `None` if no item has an image.
    """
    items = [row for row in range(len(catalogue)) if catalogue.has_image(row)]
    if not items:
        return None
    means, deviations = [], []
    with (
        torch.inference_mode(),
        tqdm(
            total=len(items), desc="Encoding images", unit="image", disable=None if progress is None else not progress
        ) as bar,
    ):
        for start in range(0, len(items), batch_size):
            images = [catalogue.image(row) for row in items[start : start + batch_size]]
            pixels = np.stack([_pixels(image, image_size) for image in images if image is not None])
            bar.update(len(pixels))
            if flip:
                pixels = np.stack([pixels, pixels[..., ::-1]], axis=1).reshape(-1, *pixels.shape[1:])
            values = torch.from_numpy(pixels).to(autoencoder.device, autoencoder.dtype)
            posterior = autoencoder.encode(values).latent_dist
            means.append(posterior.mode().float().cpu().numpy())
            if sample:
                deviations.append(posterior.std.float().cpu().numpy())
    latents = np.concatenate(means)
    spread = np.concatenate(deviations) if sample else None
    if scale is None:
        variance = latents.var() + (0.0 if spread is None else np.square(spread).mean())
        scale = 1.0 / np.sqrt(variance)
    rows = np.full(len(catalogue), -1, dtype=np.int64)
    rows[items] = np.arange(len(items))
    latents *= scale
    if spread is not None:
        spread = (spread * scale).astype(np.float16)
    return ImageLatents(latents.astype(np.float16), rows, spread, 2 if flip else 1)


@torch.inference_mode()
def latent_shape(autoencoder: "Autoencoder", image_size: int) -> tuple[int, int]:
    """Channels and side of the latents of images of a size."""
    pixels = torch.zeros(1, 3, image_size, image_size, device=autoencoder.device, dtype=autoencoder.dtype)
    _, channels, side, _ = autoencoder.encode(pixels).latent_dist.mode().shape
    return channels, side


def _pixels(image: Image.Image, size: int) -> np.ndarray:
    """Centre crop to a square, float32 `[3, size, size]` in [-1, 1]."""
    square = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(square, dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1.0
