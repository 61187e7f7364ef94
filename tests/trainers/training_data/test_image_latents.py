"""Latents of images: each item's own, scaled, and none made up for items without an image."""

import numpy as np
import pytest
import torch
from PIL import Image

from tokenization_items.catalogue import Catalogue
from trainers.methods.backbones import load_autoencoder
from trainers.training_data.image_latents import encode_images


@pytest.fixture(scope="module")
def autoencoder():
    return load_autoencoder("tiny")


@pytest.fixture(scope="module")
def catalogue(tiny_items):
    return Catalogue.from_records(
        [{"item_id": i["item_id"], "description": i["text"], "image": i["image"]} for i in tiny_items]
    )


def encode_alone(autoencoder, image, size):
    """The posterior's mean, the mode of a Gaussian."""
    return posterior_alone(autoencoder, image, size).mean[0].numpy()


def posterior_alone(autoencoder, image, size):
    """The largest centred square, resized, through the encoder."""
    side = min(image.size)
    left, top = ((length - side) / 2 for length in image.size)
    square = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    pixels = torch.tensor(np.asarray(square), dtype=torch.float32).permute(2, 0, 1)[None] / 255 * 2 - 1
    with torch.no_grad():
        return autoencoder.encode(pixels).latent_dist


def test_latents_of_each_image_and_its_row(autoencoder, catalogue):
    found = encode_images(catalogue, autoencoder, image_size=32, scale=0.5, batch_size=3, progress=False)
    with_image = [row for row in range(len(catalogue)) if catalogue.has_image(row)]
    assert found.latents.shape == (len(with_image), 16, 4, 4) and (found.channels, found.size) == (16, 4)
    assert found.latents.dtype == np.float16
    assert [row for row in range(len(catalogue)) if found.rows[row] >= 0] == with_image
    for row in with_image:
        expected = 0.5 * encode_alone(autoencoder, catalogue.image(row), 32)
        np.testing.assert_allclose(found.latents[found.rows[row]], expected, rtol=2e-3, atol=1e-3)


def test_latents_do_not_depend_on_the_batch(autoencoder, catalogue):
    one, other = (encode_images(catalogue, autoencoder, 32, 1.0, batch_size=n, progress=False) for n in (1, 64))
    np.testing.assert_allclose(one.latents, other.latents, rtol=2e-3, atol=1e-3)


def test_default_scale_gives_unit_variance(autoencoder, catalogue):
    raw = encode_images(catalogue, autoencoder, 32, scale=1.0, progress=False).latents.astype(np.float64)
    scaled = encode_images(catalogue, autoencoder, 32, progress=False).latents.astype(np.float64)
    assert scaled.std() == pytest.approx(1, abs=2e-3) and abs(raw.std() - 1) > 0.01
    np.testing.assert_allclose(scaled, raw / raw.std(), rtol=5e-3, atol=2e-3)


def test_batch_gives_zeros_where_there_is_no_image(autoencoder, catalogue):
    found = encode_images(catalogue, autoencoder, 16, 1.0, progress=False)
    latents, has_image = found.batch(np.array([3, 2, 0, 3]))
    assert has_image.tolist() == [True, False, True, True]
    assert latents.dtype == torch.float32 and not latents[1].any()
    for place, row in ((0, 3), (2, 0), (3, 3)):
        np.testing.assert_array_equal(latents[place].numpy(), found.latents[found.rows[row]].astype(np.float32))


def test_no_image_at_all(autoencoder, catalogue):
    assert encode_images(catalogue.select([2, 5]), autoencoder, 32) is None
    assert encode_images(Catalogue.from_records([{"item_id": "a", "title": "b"}]), autoencoder, 32) is None


def test_mirror_images_are_half_of_what_is_drawn(autoencoder, catalogue):
    found = encode_images(catalogue, autoencoder, 32, 0.5, batch_size=3, progress=False, flip=True)
    plain = encode_images(catalogue, autoencoder, 32, 0.5, progress=False)
    assert found.is_random and not plain.is_random and found.views == 2
    rows = np.flatnonzero(found.rows >= 0)
    without = np.array([2])
    for row in rows:
        image = catalogue.image(row)
        mirrored = 0.5 * encode_alone(autoencoder, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 32)
        same = 0.5 * encode_alone(autoencoder, image, 32)
        drawn, _ = found.batch(np.full(64, row), np.random.default_rng(0))
        close = [[np.allclose(each, wanted, rtol=2e-3, atol=2e-3) for each in drawn] for wanted in (same, mirrored)]
        assert (np.array(close[0]) ^ np.array(close[1])).all() and 16 < sum(close[1]) < 48
    np.testing.assert_allclose(found.batch(rows)[0], plain.batch(rows)[0], rtol=2e-3, atol=1e-3)
    assert not found.batch(without, np.random.default_rng(0))[0].any()


def test_draws_are_of_the_posterior(autoencoder, catalogue):
    found = encode_images(catalogue, autoencoder, 32, 0.5, batch_size=3, progress=False, sample=True)
    mode = encode_images(catalogue, autoencoder, 32, 0.5, progress=False)
    row = int(np.flatnonzero(found.rows >= 0)[1])
    posterior = posterior_alone(autoencoder, catalogue.image(row), 32)
    drawn = found.batch(np.full(4000, row), np.random.default_rng(0))[0].numpy()
    deviation = 0.5 * posterior.std[0].numpy()
    np.testing.assert_allclose(drawn.std(axis=0), deviation, rtol=0.1)
    assert (np.abs(drawn.mean(axis=0) - 0.5 * posterior.mean[0].numpy()) < 5 * deviation / 4000**0.5 + 2e-3).all()
    np.testing.assert_allclose(found.batch(np.array([row]))[0], mode.batch(np.array([row]))[0], rtol=2e-3, atol=1e-3)


def test_default_scale_counts_what_is_drawn(autoencoder, catalogue):
    found = encode_images(catalogue, autoencoder, 32, progress=False, sample=True, flip=True)
    rows = np.resize(np.flatnonzero(found.rows >= 0), 400)
    drawn, _ = found.batch(rows, np.random.default_rng(0))
    assert drawn.std().item() == pytest.approx(1, abs=0.05)
