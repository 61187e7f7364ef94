"""Autoencoders in the layout of latent diffusion's program (CompVis), as the KL-16 of MAR: into diffusers'
`AutoencoderKL`.

What a level of the encoder holds is `encoder.down.<i>.block.<j>` (`norm1`, `conv1`, `norm2`, `conv2`, `nin_shortcut`),
`attn.<j>` (`norm`, `q`, `k`, `v`, `proj_out`) and `downsample.conv`; of the decoder, whose levels are counted from the
image, `decoder.up.<i>` with `upsample.conv`. Between them are `mid.block_1`, `mid.attn_1` and `mid.block_2`, around
them `conv_in`, `norm_out` and `conv_out`, and outside `quant_conv` and `post_quant_conv`.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor

from hub_cards.named import named

if TYPE_CHECKING:
    from diffusers.models import AutoencoderKL

KL16_SCALE = 0.2325  # of the latents in MAR's program
_PARTS = {
    r"\.down\.(\d+)\.block\.(\d+)\.": r".down_blocks.\1.resnets.\2.",
    r"\.down\.(\d+)\.attn\.(\d+)\.": r".down_blocks.\1.attentions.\2.",
    r"\.down\.(\d+)\.downsample\.": r".down_blocks.\1.downsamplers.0.",
    r"\.up\.(\d+)\.block\.(\d+)\.": r".up_blocks.\1.resnets.\2.",
    r"\.up\.(\d+)\.attn\.(\d+)\.": r".up_blocks.\1.attentions.\2.",
    r"\.up\.(\d+)\.upsample\.": r".up_blocks.\1.upsamplers.0.",
    r"\.mid\.block_1\.": ".mid_block.resnets.0.",
    r"\.mid\.block_2\.": ".mid_block.resnets.1.",
    r"\.mid\.attn_1\.": ".mid_block.attentions.0.",
    r"\.norm_out\.": ".conv_norm_out.",
    r"\.nin_shortcut\.": ".conv_shortcut.",
}
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def read_ldm_weights(path: str | os.PathLike) -> dict[str, Tensor]:
    """The weights of a safetensors file, or of a file of torch's that holds tensors and plain values alone, at its top
    or under `model` (MAR) or `state_dict` (latent diffusion).

    Raises:
        ValueError: if the file holds something else.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return load_file(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's own, of many kinds
        raise ValueError(
            f"{path} is not read: it is no file of torch's, or holds objects that loading would run. ({error})"
        ) from error
    for entry in ("model", "state_dict"):
        found = found[entry] if isinstance(found, Mapping) and isinstance(found.get(entry), Mapping) else found
    weights = {name: value for name, value in found.items() if isinstance(value, Tensor)} if found else {}
    if not weights:
        raise ValueError(f"{path} holds no weights, at its top or under model or state_dict.")
    return weights


def convert_ldm_autoencoder(
    weights: Mapping[str, Tensor], scale: float = KL16_SCALE, norm_num_groups: int = 32
) -> "AutoencoderKL":
    """
    Makes an `AutoencoderKL` of diffusers that computes what latent diffusion's does.

    Args:
        weights (`Mapping[str, torch.Tensor]`): in the layout that the module describes. Attention may be convolutions
            `(width, width, 1, 1)` or linear `(width, width)`. Other entries, as of a loss, are left out.
        scale (`float`, *optional*, defaults to 0.2325): of the latents, kept as `scaling_factor`.
        norm_num_groups (`int`, *optional*, defaults to 32): of the group norms, which no shape tells.

    Raises:
        ValueError: if weights are missing, unknown or of a wrong shape.
    """
    from diffusers.models import AutoencoderKL

    own = {name: value for name, value in weights.items() if re.match(r"(encoder|decoder|(post_)?quant_conv)\.", name)}
    blocks = _matches(r"encoder\.down\.(\d+)\.block\.(\d+)\.conv1\.weight", own)
    if not blocks or "post_quant_conv.weight" not in own:
        raise ValueError(
            "No autoencoder of latent diffusion's layout: encoder.down.0.block.0.conv1.weight or "
            f"post_quant_conv.weight is not among {named(sorted(weights))}."
        )
    num_levels = 1 + max(level for level, _ in blocks)
    widths = [own[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] for level in range(num_levels)]
    attends = {
        side: {level for level, _ in _matches(rf"{side}\.(\d+)\.attn\.(\d+)\.q\.weight", own)}
        for side in (r"encoder\.down", r"decoder\.up")
    }
    down, up = attends.values()
    autoencoder = AutoencoderKL(
        in_channels=own["encoder.conv_in.weight"].shape[1],
        out_channels=own["decoder.conv_out.weight"].shape[0],
        down_block_types=tuple(
            "AttnDownEncoderBlock2D" if level in down else "DownEncoderBlock2D" for level in range(num_levels)
        ),
        up_block_types=tuple(
            "AttnUpDecoderBlock2D" if level in up else "UpDecoderBlock2D" for level in reversed(range(num_levels))
        ),
        block_out_channels=tuple(widths),
        layers_per_block=1 + max(number for _, number in blocks),
        latent_channels=own["post_quant_conv.weight"].shape[0],
        norm_num_groups=norm_num_groups,
        scaling_factor=scale,
        mid_block_add_attention="encoder.mid.attn_1.q.weight" in own,
    )
    converted = {}
    for name, value in own.items():
        new = _new_name(name, num_levels)
        if re.search(r"\.(to_q|to_k|to_v|to_out\.0)\.weight$", new):
            value = value.flatten(1)  # a convolution of one pixel is a linear layer
        converted[new] = value.float()
    expected = autoencoder.state_dict()
    for what, names in (
        ("missing", expected.keys() - converted.keys()),
        ("unknown", converted.keys() - expected.keys()),
    ):
        if names:
            raise ValueError(f"{len(names)} weights of the autoencoder are {what}: {named(sorted(names))}.")
    wrong = [name for name, value in converted.items() if value.shape != expected[name].shape]
    if wrong:
        raise ValueError(f"{len(wrong)} weights of the autoencoder have another shape: {named(sorted(wrong))}.")
    autoencoder.load_state_dict(converted)
    return autoencoder.requires_grad_(False).eval()


def _matches(pattern: str, names: Iterable[str]) -> list[tuple[int, int]]:
    """The two numbers of every name that is like the pattern."""
    found = (re.fullmatch(pattern, name) for name in names)
    return [(int(match[1]), int(match[2])) for match in found if match]


def _new_name(name: str, num_levels: int) -> str:
    """Diffusers' name, whose decoder counts its levels from the latents."""
    for pattern, replacement in _PARTS.items():
        name = re.sub(pattern, replacement, name)
    name = re.sub(r"up_blocks\.(\d+)", lambda match: f"up_blocks.{num_levels - 1 - int(match[1])}", name)
    return re.sub(r"(attentions\.\d+)\.(\w+)", lambda match: f"{match[1]}.{_ATTENTION.get(match[2], match[2])}", name)
