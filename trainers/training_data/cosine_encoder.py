"""Latents of images without weights to download or to learn: the low frequencies of blocks of pixels, as JPEG's.

It stands in for the encoder of a pretrained autoencoder where there is none. What it says of an image, the brightness
and colour of its parts and their edges, is the same for every catalogue and in every stage of a training; an encoder
of random weights would ask the codes for what nothing can tell.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

STRIDE = 8
# Luminance, blue and red difference (ITU-R BT.601), each with how many frequencies are kept, the lowest, and with its
# gain. Colour has about a quarter of the luminance's amplitude in photographs, and an amplitude falls with the
# frequency: with the gains all latents vary about as much.
CHANNELS = (((0.299, 0.587, 0.114), 10, 1.0), ((-0.169, -0.331, 0.5), 3, 4.0), ((0.5, -0.419, -0.081), 3, 4.0))
FREQUENCY_GAIN = 2.0


class CosineEncoder(nn.Module):
    """
    A linear map of blocks of 8 × 8 pixels to 16 numbers: 10 coefficients of the discrete cosine transform of their
    luminance, and 3 of each colour difference. It has the interface of the encoder of `diffusers.AutoencoderKL`.

    Attributes:
        latent_channels (`int`): numbers of a block.
        kernels (`torch.Tensor` of shape `(latent_channels, 3, 8, 8)`): what each is the product of a block with.
    """

    kernels: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        places = (torch.arange(STRIDE) + 0.5) * math.pi / STRIDE
        frequencies = [(u, v) for u in range(STRIDE) for v in range(STRIDE)]
        frequencies.sort(key=lambda each: (math.hypot(*each), each))
        kernels = []
        for colour, kept, gain in CHANNELS:
            for u, v in frequencies[:kept]:
                waves = torch.outer((u * places).cos(), (v * places).cos())
                scale = gain * max(1.0, FREQUENCY_GAIN * math.hypot(u, v)) / (STRIDE * waves.norm())
                kernels.append(scale * torch.tensor(colour)[:, None, None] * waves)
        self.register_buffer("kernels", torch.stack(kernels), persistent=False)

    @property
    def latent_channels(self) -> int:
        return len(self.kernels)

    @property
    def device(self) -> torch.device:
        return self.kernels.device

    @property
    def dtype(self) -> torch.dtype:
        return self.kernels.dtype

    def encode(self, pixels: torch.Tensor):
        """
        Args:
            pixels (`torch.FloatTensor` of shape `(images, 3, height, width)`): in [-1, 1].

        Returns:
            `diffusers`' `AutoencoderKLOutput`, whose `latent_dist` has no spread.
        """
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
        from diffusers.models.modeling_outputs import AutoencoderKLOutput

        latents = F.conv2d(pixels, self.kernels, stride=STRIDE)
        parameters = torch.cat([latents, torch.zeros_like(latents)], dim=1)
        return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(parameters, deterministic=True))
