"""Latents without weights: the cosine transform of JPEG, and what it says of an image."""

import numpy as np
import pytest
import torch
from scipy.fft import dctn

from trainers.training_data.cosine_encoder import CHANNELS, CosineEncoder
from trainers.training_data.image_latents import latent_shape


def latents_of(pixels: torch.Tensor) -> torch.Tensor:
    return CosineEncoder().encode(pixels).latent_dist.mode()


def test_each_latent_is_a_coefficient_of_a_block():
    """Against scipy's transform: proportional, whatever the frequency's gain."""
    pixels = torch.rand(1, 3, 16, 24, generator=torch.manual_seed(0)) * 2 - 1
    found = latents_of(pixels)[0].numpy()
    assert found.shape == (16, 2, 3)
    frequencies = sorted(((u, v) for u in range(8) for v in range(8)), key=lambda each: (np.hypot(*each), each))
    expected = []
    for weights, kept, _ in CHANNELS:
        plane = np.einsum("c,chw->hw", weights, pixels[0].numpy())
        blocks = plane.reshape(2, 8, 3, 8).transpose(0, 2, 1, 3)
        coefficients = dctn(blocks, axes=(2, 3), norm="ortho")
        expected += [coefficients[..., u, v] for u, v in frequencies[:kept]]
    for one, other in zip(found, expected, strict=True):
        gain = (one * other).sum() / np.square(other).sum()
        assert gain > 0
        np.testing.assert_allclose(one, gain * other, atol=1e-5)


def test_a_plain_image_is_its_colour():
    grey, blue = torch.full((1, 3, 32, 32), 0.5), torch.ones(1, 3, 32, 32)
    blue[:, :2] = -1
    for pixels, others in ((grey, range(1, 16)), (blue, [*range(1, 10), 11, 12, 14, 15])):
        found = latents_of(pixels)
        assert found[:, list(others)].abs().max() < 2e-3 < found[:, 0].abs().max()
    assert latents_of(grey)[0, 0].tolist() == [[pytest.approx(0.5, abs=1e-5)] * 4] * 4, "the luminance"


def test_of_photographs_all_latents_vary_about_as_much():
    """Of images whose amplitude falls with the frequency, with a quarter of it in the colours."""
    rng, size = np.random.default_rng(0), 64
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)) + 1 / size
    planes = np.fft.ifft2(np.fft.fft2(rng.normal(size=(50, 3, size, size))) / frequency).real
    planes /= planes.std()
    light, blue, red = planes[:, 0], planes[:, 1] / 4, planes[:, 2] / 4
    pixels = np.stack([light + 1.402 * red, light - 0.344 * blue - 0.714 * red, light + 1.772 * blue], axis=1)
    spread = latents_of(torch.from_numpy(pixels).float()).std((0, 2, 3))
    assert spread.max() / spread.min() < 3


def test_it_is_the_same_each_time_and_has_no_spread():
    encoder = CosineEncoder()
    posterior = encoder.encode(torch.rand(2, 3, 32, 32)).latent_dist
    assert not posterior.std.any() and torch.equal(posterior.sample(), posterior.mode())
    assert torch.equal(encoder.kernels, CosineEncoder().kernels)
    assert not list(encoder.parameters()) and not encoder.state_dict(), "there is nothing to train or to save"
    assert latent_shape(encoder, 32) == (encoder.latent_channels, 4) == (16, 4)
