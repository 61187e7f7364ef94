"""What codes keep of images: the same noise for all, a loss of the mean image by its formula, codes that change."""

import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from trainers.commands import run_command
from trainers.training_data.image_latents import ImageLatents

BENCHMARKS = Path(__file__).resolve().parents[3] / "examples" / "benchmarks"


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    (folder / "data" / "images").mkdir(parents=True)
    rng, ids = np.random.default_rng(0), [f"f{row}" for row in range(12)]
    items = [{"item_id": each, "title": f"film {row % 3}"} for row, each in enumerate(ids)]
    for row, item in enumerate(items[:-1]):
        pixels = rng.integers(0, 256, (1, 1, 3), dtype=np.uint8).repeat(32, 0).repeat(32, 1)
        Image.fromarray(pixels).save(folder / "data" / "images" / f"{row}.png")
        item["image"] = f"images/{row}.png"
    users = [{"user_id": f"u{user}", "items": [ids[row] for row in rng.permutation(12)[:5]]} for user in range(8)]
    for name, rows in (("items", items), ("sequences", users)):
        (folder / "data" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--tokenizer.max_steps", "3", "--tokenizer.use_cpu", "true", "--tokenizer.codebook_warmup_steps", "1"]
    sizes = ["--tokenizer.root_codebook_size", "4", "--tokenizer.leaf_codebook_size", "4"]
    where = ["--data", str(folder / "data"), "--output_dir", str(folder / "run")]
    run_command("pretrain", ["--stage", "tokenizer", "--config", "small", *where, *flags, *sizes])
    return folder


@pytest.fixture
def images(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import images

    yield images
    sys.modules.pop("images")


def measure(films, monkeypatch, capsys, *flags) -> dict:
    argv = ["images.py", "--tokenizer", films / "run" / "tokenizer", "--data", films / "data"]
    monkeypatch.setattr(sys, "argv", [str(each) for each in [*argv, "--config", "small", *flags]])
    runpy.run_path(str(BENCHMARKS / "images.py"), run_name="__main__")
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_all_is_measured_and_again_the_same(films, monkeypatch, capsys):
    found = measure(films, monkeypatch, capsys)
    assert found["items"] == 11 and found == measure(films, monkeypatch, capsys)
    assert list(found["image_loss"]) == ["own", "another item's", "mean", "mean image"]
    assert all(0 < loss < 1.5 for loss in found["image_loss"].values())
    for each in found["codes_changed"].values():
        assert max(list(each.values())[1:]) <= each["any"] <= 1
    # a network of three steps tells nothing: the noise is the same, so the losses hardly differ
    assert abs(found["image_loss"]["own"] - found["image_loss"]["another item's"]) < 0.01


def test_losses_are_of_the_representations_that_they_are_named_for(images):
    """With decoders whose loss is the distance from what is read to the latents, which items are read as."""
    latents = np.random.default_rng(0).normal(size=(150, 1, 2, 2)).astype(np.float16)
    rows = np.where(np.arange(160) % 16, np.arange(160) - np.arange(160) // 16 - 1, -1)  # every 16th has no image
    read = torch.full((160, 4), torch.nan)
    read[rows >= 0] = torch.from_numpy(latents[rows[rows >= 0]]).float().flatten(1)

    class Decoder:
        def loss(self, hidden, targets):
            return (hidden - targets.flatten(1)).square().mean()

    network = SimpleNamespace(expand=lambda each: each, image_decoder=Decoder())
    arguments = images.ImageArguments("", "")
    found = images.image_losses(network, read, ImageLatents(latents, rows), arguments)
    spread = float(latents.astype(np.float64).var(0).mean())
    assert found["own"] == 0 and found["mean"] == pytest.approx(spread, rel=1e-4)
    assert found["another item's"] == pytest.approx(2 * spread, rel=0.2), "independent of the item"
    assert network.image_decoder.repeats == arguments.draws


def test_the_mean_image_is_the_best_that_knows_no_image(images):
    """Of normally distributed latents: the formula against draws of noise, predicted by regression on what is seen."""
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(20_000, 1, 1, 2)) * [0.5, 2.0] + [1.0, -3.0]
    signal = torch.tensor([0.9, 0.2])
    errors = []
    for value in signal.tolist():
        noise = rng.normal(size=latents.shape)
        seen = value**0.5 * latents + (1 - value) ** 0.5 * noise
        for place in range(2):
            x, y = seen[..., place].ravel(), noise[..., place].ravel()
            slope, offset = np.polyfit(x, y, 1)
            errors.append(np.mean((y - slope * x - offset) ** 2))
    assert images.mean_image_loss(latents, signal) == pytest.approx(np.mean(errors), rel=0.02)


def test_shares_of_codes_that_change(images):
    codes = np.array([[0, 1], [2, 3], [4, 5], [6, 7]])
    others = np.array([[0, 1], [2, 9], [8, 9], [6, 7]])
    assert images.changed(codes, others) == {"any": 0.5, "level 1": 0.25, "level 2": 0.5}


def test_what_has_no_images_is_said(films, monkeypatch, capsys, tmp_path):
    (tmp_path / "items.jsonl").write_text('{"item_id": "a", "title": "film"}\n')
    with pytest.raises(SystemExit, match="no images"):
        measure(films, monkeypatch, capsys, "--data", tmp_path)
