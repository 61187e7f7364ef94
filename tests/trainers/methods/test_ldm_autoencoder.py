"""Latent diffusion's autoencoder in diffusers: equal outputs to a forward pass written down from the layout."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from trainers.commands import convert_autoencoder
from trainers.methods.backbones import load_autoencoder
from trainers.methods.ldm_autoencoder import convert_ldm_autoencoder, read_ldm_weights

WIDTHS, LAYERS, LATENT, GROUPS = (8, 8, 16), 2, 5, 4


class LatentDiffusion:
    """The autoencoder as a function of weights by name; a first pass makes them, so that names and shapes are those
    that the layout has."""

    def __init__(self, attends_up: bool = False):
        self.weights: dict[str, torch.Tensor] = {}
        self.attends_up = attends_up
        self.generator = torch.Generator().manual_seed(0)
        image = torch.zeros(1, 3, 16, 16, dtype=torch.float64)
        self.decode(self.encode(image)[:, :LATENT])

    def weight(self, name: str, *shape: int) -> torch.Tensor:
        if name not in self.weights:
            values = torch.randn(shape, generator=self.generator, dtype=torch.float64)
            values = values / values[0].numel() ** 0.5 if len(shape) > 1 else 1 + values / 4
            self.weights[name] = values.float().double()  # no rounding when they are converted
        return self.weights[name]

    def conv(self, name: str, x: torch.Tensor, width: int, size: int = 3, **options) -> torch.Tensor:
        weight, bias = self.weight(f"{name}.weight", width, x.shape[1], size, size), self.weight(f"{name}.bias", width)
        return F.conv2d(x, weight, bias, **options)

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        weight, bias = (self.weight(f"{name}.{each}", x.shape[1]) for each in ("weight", "bias"))
        return F.group_norm(x, GROUPS, weight, bias, eps=1e-6)

    def block(self, name: str, x: torch.Tensor, width: int) -> torch.Tensor:
        inner = self.conv(f"{name}.conv1", F.silu(self.norm(f"{name}.norm1", x)), width, padding=1)
        inner = self.conv(f"{name}.conv2", F.silu(self.norm(f"{name}.norm2", inner)), width, padding=1)
        return inner + (x if x.shape[1] == width else self.conv(f"{name}.nin_shortcut", x, width, 1))

    def attention(self, name: str, x: torch.Tensor) -> torch.Tensor:
        width, normed = x.shape[1], self.norm(f"{name}.norm", x)
        query, key, value = (self.conv(f"{name}.{each}", normed, width, 1).flatten(2) for each in "qkv")
        shares = (torch.einsum("bcq,bck->bqk", query, key) / width**0.5).softmax(-1)
        read = torch.einsum("bqk,bck->bcq", shares, value).view_as(x)
        return x + self.conv(f"{name}.proj_out", read, width, 1)

    def middle(self, name: str, x: torch.Tensor) -> torch.Tensor:
        x = self.attention(f"{name}.attn_1", self.block(f"{name}.block_1", x, x.shape[1]))
        return self.block(f"{name}.block_2", x, x.shape[1])

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Means and logarithms of variances."""
        x = self.conv("encoder.conv_in", x, WIDTHS[0], padding=1)
        for level, width in enumerate(WIDTHS):
            for number in range(LAYERS):
                x = self.block(f"encoder.down.{level}.block.{number}", x, width)
                if level == len(WIDTHS) - 1:  # as KL-16 at its 16 x 16 positions
                    x = self.attention(f"encoder.down.{level}.attn.{number}", x)
            if level < len(WIDTHS) - 1:
                x = self.conv(f"encoder.down.{level}.downsample.conv", F.pad(x, (0, 1, 0, 1)), width, stride=2)
        x = self.middle("encoder.mid", x)
        x = self.conv("encoder.conv_out", F.silu(self.norm("encoder.norm_out", x)), 2 * LATENT, padding=1)
        return self.conv("quant_conv", x, 2 * LATENT, 1)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        x = self.conv("decoder.conv_in", self.conv("post_quant_conv", z, LATENT, 1), WIDTHS[-1], padding=1)
        x = self.middle("decoder.mid", x)
        for level in reversed(range(len(WIDTHS))):
            for number in range(LAYERS + 1):
                x = self.block(f"decoder.up.{level}.block.{number}", x, WIDTHS[level])
                if self.attends_up and level == len(WIDTHS) - 1:
                    x = self.attention(f"decoder.up.{level}.attn.{number}", x)
            if level:
                x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
                x = self.conv(f"decoder.up.{level}.upsample.conv", x, WIDTHS[level], padding=1)
        return self.conv("decoder.conv_out", F.silu(self.norm("decoder.norm_out", x)), 3, padding=1)


@pytest.fixture(scope="module")
def original() -> LatentDiffusion:
    return LatentDiffusion()


def check(converted, original: LatentDiffusion) -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1
    converted = converted.double()
    posterior = converted.encode(images).latent_dist
    means, variances = original.encode(images).chunk(2, dim=1)
    torch.testing.assert_close(posterior.mean, means)
    torch.testing.assert_close(posterior.logvar, variances)
    torch.testing.assert_close(converted.decode(means).sample, original.decode(means))


def linear_attention(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name: value.flatten(1) if ".attn" in name and value.ndim == 4 else value for name, value in weights.items()
    }


@pytest.mark.parametrize("layout", [dict, linear_attention], ids=["convolutions", "linear"])
def test_outputs_are_equal(original, layout: Callable):
    weights = layout(original.weights) | {"loss.logvar": torch.zeros(())}
    converted = convert_ldm_autoencoder(weights, norm_num_groups=GROUPS)
    check(converted, original)
    assert converted.config.scaling_factor == 0.2325 and converted.config.latent_channels == LATENT
    assert not converted.training and not any(parameter.requires_grad for parameter in converted.parameters())


def test_attention_in_the_decoders_levels():
    original = LatentDiffusion(attends_up=True)
    check(convert_ldm_autoencoder(original.weights, norm_num_groups=GROUPS), original)


@pytest.mark.parametrize("place", ["", "model", "state_dict"])
def test_files(original, tmp_path, capsys, place):
    values = {name: value.float() for name, value in original.weights.items()}
    path = tmp_path / ("weights.ckpt" if place else "weights.safetensors")
    if place:
        torch.save({place: values, "global_step": 3}, path)
    else:
        save_file(values, path)
    assert read_ldm_weights(path).keys() == values.keys()
    argv = ["--weights", str(path), "--output_dir", str(tmp_path / "kl"), "--norm_num_groups", str(GROUPS)]
    convert_autoencoder.main(argv)
    assert "5 channels, a latent for 4 x 4 pixels" in capsys.readouterr().out
    loaded = load_autoencoder(str(tmp_path / "kl"))  # of safetensors alone
    images = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(
        loaded.encode(images).latent_dist.mean,
        original.encode(images.double())[:, :LATENT].float(),
        rtol=1e-3,
        atol=1e-4,
    )
    with pytest.raises(SystemExit, match="holds a model"):
        convert_autoencoder.main(argv)


def test_faults_are_named(original, tmp_path):
    def without(name):
        return {each: value for each, value in original.weights.items() if each != name}

    for weights, said in (
        ({}, "No autoencoder"),
        (without("encoder.mid.block_1.conv1.bias"), "1 weights of the autoencoder are missing"),
        (original.weights | {"decoder.extra.weight": torch.zeros(1)}, "are unknown: 'decoder.extra.weight'"),
        (original.weights | {"quant_conv.bias": torch.zeros(3)}, "another shape: 'quant_conv.bias'"),
    ):
        with pytest.raises(ValueError, match=said):
            convert_ldm_autoencoder(weights, norm_num_groups=GROUPS)
    torch.save({"model": {"a": Callable}}, tmp_path / "code.ckpt")
    with pytest.raises(ValueError, match="would run"):
        read_ldm_weights(tmp_path / "code.ckpt")
    torch.save({"step": 3}, tmp_path / "empty.ckpt")
    with pytest.raises(ValueError, match="holds no weights"):
        read_ldm_weights(tmp_path / "empty.ckpt")
