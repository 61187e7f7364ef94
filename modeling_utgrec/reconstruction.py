"""Decoders that reconstruct an item's text and image from its quantized representations (UTGRec, section 2.3.1).

Both are weak on purpose: one bidirectional transformer layer that sees the representations and mask vectors only, so
what they can tell of the item must stand in the codes.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import initialization as init

from .loss_cross_entropy import linear_cross_entropy
from .process_rows import mean_over_processes

ITEMS_AT_A_TIME = 64  # whose states a decoder keeps for the gradient; of a larger batch they are made again


class MaskedDecoder(nn.Module):
    """`[Ĥ + levels; M + positions]` through one bidirectional transformer layer; returns the states at the mask
    positions. Without the embeddings of the levels the layer could not tell them apart, and would read an item's
    codes as a set."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        max_positions: int,
        num_levels: int,
        dropout: float,
        attends_masks: bool = True,
    ):
        super().__init__()
        self.attends_masks = attends_masks
        self.levels = nn.Embedding(num_levels, width)
        self.mask = nn.Parameter(torch.empty(width))
        self.positions = nn.Embedding(max_positions, width)
        self.layer = nn.TransformerEncoderLayer(
            width, num_heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.normal_(self.mask, std=0.02)
        init.xavier_uniform_(self.layer.self_attn.in_proj_weight)
        init.zeros_(self.layer.self_attn.in_proj_bias)

    def forward(self, hidden: torch.Tensor, valid: torch.Tensor, places: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            hidden (`torch.FloatTensor` of shape `(batch, num_levels, width)`): projected quantized representations.
            valid (`torch.BoolTensor` of shape `(batch, length)`): which target positions exist.
            places (`torch.LongTensor` of shape `(batch, chosen)`, *optional*):
                of which target positions states are wanted, by default of all. Of one layer, the others are no more
                than keys and values.

        Returns:
            `torch.FloatTensor` of shape `(batch, length, width)`, or `(batch, chosen, width)`.
        """
        layer, attention = self.layer, self.layer.self_attn
        width, heads = hidden.shape[-1], attention.num_heads
        masks = (self.mask + self.positions.weight[: valid.shape[1]]).to(hidden.dtype)
        hidden = hidden + self.levels.weight.to(hidden.dtype)
        # Mask vectors are the same for every item: their queries, keys and values are computed once.
        of_masks = F.linear(layer.norm1(masks), attention.in_proj_weight, attention.in_proj_bias)
        read = F.linear(layer.norm1(hidden), attention.in_proj_weight[width:], attention.in_proj_bias[width:])
        there = None
        if self.attends_masks:
            read = torch.cat([read, of_masks[:, width:].expand(len(hidden), -1, -1)], dim=1)
            there = torch.cat([valid.new_ones(hidden.shape[:2]), valid], dim=1)[:, None, None]
        keys, values = read.unflatten(-1, (2, heads, -1)).permute(2, 0, 3, 1, 4)
        queries = of_masks[:, :width]
        if places is None:
            states, queries = (each.expand(len(hidden), -1, -1) for each in (masks, queries))
        else:
            states, queries = (F.embedding(places, each) for each in (masks, queries))
        attended = F.scaled_dot_product_attention(
            queries.unflatten(-1, (heads, -1)).transpose(1, 2),
            keys,
            values,
            attn_mask=there,
            dropout_p=attention.dropout if self.training else 0.0,
        )
        states = states + layer.dropout1(attention.out_proj(attended.transpose(1, 2).flatten(2)))
        inner = layer.dropout(layer.activation(layer.linear1(layer.norm2(states))))
        return self.norm(states + layer.dropout2(layer.linear2(inner)))


def no_loss(decoder: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """Zero. Every parameter gets a (zero) gradient, as distributed training expects of every batch."""
    return hidden.sum() * 0.0 + sum(parameter.sum() * 0.0 for parameter in decoder.parameters())


class TextDecoder(MaskedDecoder):
    """
    Cross-entropy of every text token given the representations alone: mask rate 100 % (Eq. 8).

    Attributes:
        labels_per_item (`int`, *optional*): in training, this many tokens of each text, drawn anew each time, stand
            for all of it, and count as many times more. The loss and its gradient are then unbiased estimates.
    """

    labels_per_item: int | None = None

    def loss(self, hidden: torch.Tensor, labels: torch.Tensor, output_embeddings: torch.Tensor) -> torch.Tensor:
        """
        Args:
            hidden (`torch.FloatTensor` of shape `(batch, num_levels, width)`): projected quantized representations.
            labels (`torch.LongTensor` of shape `(batch, length)`): text tokens, -100 where there is none.
            output_embeddings (`torch.FloatTensor` of shape `(vocabulary, width)`): the backbone's token embeddings.

        Returns:
            Mean negative log-likelihood over the text tokens, in training those of all processes; 0 when the batch
            has none.
        """
        valid = labels != -100
        number = mean_over_processes(valid.sum()) if self.training else valid.sum()
        if not valid.any():
            return no_loss(self, hidden)
        most = self.labels_per_item
        if not self.training or most is None or labels.shape[1] <= most:
            states, targets, counted = self._states(hidden, valid, valid), labels[valid], None
        else:
            # Those that exist come first, in random order.
            places = (torch.rand(valid.shape, device=valid.device) + valid).topk(most, dim=1).indices
            drawn, lengths = valid.gather(1, places), valid.sum(dim=1, keepdim=True)
            states, targets = self._states(hidden, valid, drawn, places), labels.gather(1, places)[drawn]
            counted = (lengths / lengths.clamp(max=most)).expand_as(drawn)[drawn]
        return linear_cross_entropy(states, output_embeddings, targets, row_weights=counted) / number

    def _states(
        self, hidden: torch.Tensor, valid: torch.Tensor, wanted: torch.Tensor, places: torch.Tensor | None = None
    ) -> torch.Tensor:
        """States at the `wanted` ones of the places. Of a large batch what the layer keeps is made again for the
        gradient, of some items at a time."""
        if not (self.training and torch.is_grad_enabled()) or len(hidden) <= ITEMS_AT_A_TIME:
            return self(hidden, valid, places)[wanted]
        parts = []
        for start in range(0, len(hidden), ITEMS_AT_A_TIME):
            rows = slice(start, start + ITEMS_AT_A_TIME)
            chosen = None if places is None else places[rows]
            states = checkpoint(self.__call__, hidden[rows], valid[rows], chosen, use_reentrant=False)
            parts.append(states[wanted[rows]])
        return torch.cat(parts)


class ImageDecoder(MaskedDecoder):
    """Diffusion loss on the latents of a frozen autoencoder, one token for each latent position (Eq. 9).

    Beside the mask vectors an item's representation is noise until the denoiser has learned what all images have in
    common: with a high learning rate the layer has looked away from it by then, and its softmax never comes back.
    Without `attends_masks` it cannot. What the mask vectors add is the same for every item, a function of the place,
    which the layer has anyway.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        dropout: float,
        latent_channels: int,
        latent_size: int,
        num_levels: int,
        denoiser_width: int,
        denoiser_depth: int,
        num_steps: int,
        repeats: int,
        attends_masks: bool = True,
    ):
        super().__init__(width, num_heads, latent_size**2, num_levels, dropout, attends_masks)
        self.repeats = repeats
        self.diffusion = DiffusionLoss(latent_channels, width, denoiser_width, denoiser_depth, num_steps)

    def loss(self, hidden: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """
        Args:
            hidden (`torch.FloatTensor` of shape `(images, num_levels, width)`): representations of items with image.
            latents (`torch.FloatTensor` of shape `(images, channels, size, size)`): scaled latents of their images.

        Returns:
            Mean squared error of the predicted noise, in training over the images of all processes; 0 when there is
            none.
        """
        own = torch.tensor(len(latents), device=latents.device)
        number = mean_over_processes(own) if self.training else own  # also where there is no image: others wait
        if len(latents) == 0:
            return no_loss(self, hidden)
        targets = latents.flatten(2).transpose(1, 2)
        valid = torch.ones(targets.shape[:2], dtype=torch.bool, device=targets.device)
        states = self(hidden, valid)
        error = self.diffusion(
            states.flatten(0, 1).repeat(self.repeats, 1), targets.flatten(0, 1).repeat(self.repeats, 1)
        )
        return error * (own / number)


class DiffusionLoss(nn.Module):
    """`E ||eps - eps_theta(x_t | t, z)||^2` for a small conditional denoiser (Li et al. 2024, "Autoregressive Image
    Generation without Vector Quantization"); the noise schedule is a diffusers scheduler.
    """

    def __init__(self, channels: int, condition_width: int, width: int, depth: int, num_steps: int):
        super().__init__()
        try:  # here: only training with images needs it
            from diffusers import DDPMScheduler
        except ImportError as error:
            raise ImportError("Reconstructing images needs diffusers: pip install diffusers") from error
        # Built on the CPU even when the model is built on the meta device: the schedule is not a saved weight.
        with torch.device("cpu"):
            self.scheduler: Any = DDPMScheduler(
                num_train_timesteps=num_steps, beta_schedule="squaredcos_cap_v2", clip_sample=False
            )
        self.denoiser = Denoiser(channels, condition_width, width, depth)

    def forward(self, condition: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """`condition` `[n, condition_width]`, `targets` `[n, channels]`; returns a scalar."""
        # The schedule in float32: bfloat16 would round the noise of the first timesteps to none.
        targets = targets.float()
        steps = torch.randint(self.scheduler.config.num_train_timesteps, (len(targets),), device=targets.device)
        noise = torch.randn_like(targets)
        noisy = self.scheduler.add_noise(targets, noise, steps).to(condition.dtype)
        return F.mse_loss(self.denoiser(noisy, steps, condition).float(), noise)


class Denoiser(nn.Module):
    """MLP of residual blocks whose layer norms are modulated by timestep and condition (AdaLN)."""

    def __init__(self, channels: int, condition_width: int, width: int, depth: int, frequencies: int = 256):
        super().__init__()
        self.frequencies = frequencies
        self.time = nn.Sequential(nn.Linear(frequencies, width), nn.SiLU(), nn.Linear(width, width))
        self.condition = nn.Linear(condition_width, width)
        self.input = nn.Linear(channels, width)
        self.blocks = nn.ModuleList([AdaLNBlock(width) for _ in range(depth)])
        self.output = AdaLNOutput(width, channels)

    def forward(self, x: torch.Tensor, steps: torch.LongTensor, condition: torch.Tensor) -> torch.Tensor:
        half = self.frequencies // 2
        rates = torch.exp(-math.log(10000.0) * torch.arange(half, device=x.device, dtype=torch.float32) / half)
        angles = steps[:, None].float() * rates
        time = self.time(torch.cat([angles.cos(), angles.sin()], dim=-1).to(x.dtype))
        condition = F.silu(time + self.condition(condition))
        x = self.input(x)
        for block in self.blocks:
            x = block(x, condition)
        return self.output(x, condition)


class ZeroLinear(nn.Linear):
    """A linear layer that starts at zero. It needs a class of its own: transformers initialises the linear layers of a
    module and never asks about the module itself if it has no parameters besides."""

    def reset_parameters(self) -> None:
        init.zeros_(self.weight)
        init.zeros_(self.bias)


class AdaLNBlock(nn.Module):
    """`x + gate * MLP(LN(x) * (1 + scale) + shift)`; modulation starts at zero, so the block starts as identity."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = ZeroLinear(width, 3 * width)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        shift, scale, gate = self.modulation(condition).chunk(3, dim=-1)
        return x + gate * self.mlp(self.norm(x) * (1 + scale) + shift)


class AdaLNOutput(nn.Module):
    """Modulated layer norm and a linear map to the channels; starts at zero."""

    def __init__(self, width: int, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = ZeroLinear(width, 2 * width)
        self.linear = ZeroLinear(width, channels)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        shift, scale = self.modulation(condition).chunk(2, dim=-1)
        return self.linear(self.norm(x) * (1 + scale) + shift)
