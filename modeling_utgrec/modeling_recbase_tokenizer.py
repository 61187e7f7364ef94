"""RecBase's unified item tokenizer: a curriculum-learning variational autoencoder (CL-VAE) of content embeddings."""

import math
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_recbase_tokenizer import RecBaseTokenizerConfig
from .modeling_embedding_autoencoder import EmbeddingAutoencoder
from .process_rows import joined, over_joined

# Where the logarithm of the variance starts (a standard deviation of 0.05, of representations with length 1) and ends.
LOG_VARIANCE_START = -6.0
LOG_VARIANCE_BOUNDS = (-20.0, 5.0)


@dataclass
class RecBaseTokenizerOutput(ModelOutput):
    """
    Args:
        loss (`torch.FloatTensor` of shape `()`): the weighted sum of the parts.
        reconstruction_loss (`torch.FloatTensor` of shape `()`):
            mean squared distance of the standardised embeddings and their reconstructions.
        quantization_loss (`torch.FloatTensor` of shape `()`):
            codebooks and commitment, mean over the items of the squared distances' sum over the active levels.
        entropy_loss (`torch.FloatTensor` of shape `()`, *optional*):
            log K minus the entropy of the codes' soft usage, in nats, mean over the active levels: 0 for even use.
        kl_loss (`torch.FloatTensor` of shape `()`, *optional*): KL divergence from a standard normal distribution,
            sum over the dimensions, mean over the items.
        codes (`torch.LongTensor` of shape `(items, num_levels)`): the codes; 0 at levels that are not active yet.
        representations (`torch.FloatTensor` of shape `(items, codebook_dim)`): the encoder's output, its mean if it
            gives mean and variance.
        residuals (`torch.FloatTensor` of shape `(items, num_levels, codebook_dim)`): what each level quantized; 0 at
            levels that are not active yet.
        quantized (`torch.FloatTensor` of shape `(items, codebook_dim)`): sum of the codes' vectors, with
            straight-through gradient.
        reconstruction (`torch.FloatTensor` of shape `(items, input_dim)`): of the embeddings, on their own scale.
    """

    loss: torch.Tensor | None = None
    reconstruction_loss: torch.Tensor | None = None
    quantization_loss: torch.Tensor | None = None
    entropy_loss: torch.Tensor | None = None
    kl_loss: torch.Tensor | None = None
    codes: torch.Tensor | None = None
    representations: torch.Tensor | None = None
    residuals: torch.Tensor | None = None
    quantized: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None


class RecBaseTokenizerModel(EmbeddingAutoencoder):
    """
    RecBase's item tokenizer (Zhou et al. 2025): content embeddings of any encoder and domain to codes of `num_levels`
    levels, by residual quantization.

    Levels become active one after the other. Each starts from k-means centroids of the residuals of its first batch,
    and a code of an active level that no item chose for `restart_passes` training passes starts anew. Where the
    curriculum is, and how long each code has been idle, is state of the model: a resumed training goes on with it, and
    evaluation does not advance it.

    Args:
        config ([`RecBaseTokenizerConfig`]): the architecture.

    Example:

    ```python
    >>> model = RecBaseTokenizerModel(RecBaseTokenizerConfig(input_dim=embeddings.shape[1]))
    >>> model.set_input_statistics(embeddings)
    >>> model(embeddings[:2048]).loss.backward()
    >>> model.eval()(embeddings).codes.shape
    torch.Size([51419, 4])
    ```
    """

    config: RecBaseTokenizerConfig
    base_model_prefix = "recbase_tokenizer"

    def __init__(self, config: RecBaseTokenizerConfig):
        width = config.codebook_dim * (2 if config.kl_weight else 1)
        super().__init__(config, encoder_width=width, distance=config.distance)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, RecBaseTokenizerModel) and module.config.kl_weight:
            half, bias = module.config.codebook_dim, cast(nn.Linear, module.encoder[-1]).bias
            start = torch.where(torch.arange(2 * half) < half, 0.0, LOG_VARIANCE_START)
            init.copy_(bias, start.to(bias))

    @property
    def num_active_levels(self) -> int:
        """Levels that the training so far has used: 1 or more, all of them without a curriculum."""
        return self._num_started(max(0, int(self.training_passes) - 1))

    def _num_started(self, passes: int) -> int:
        """Levels in use in the pass that follows this number of passes."""
        config = self.config
        started = 1 + passes // config.curriculum_passes if config.curriculum_passes else config.num_levels
        return min(config.num_levels, started)

    def encode(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Continuous representations `(items, codebook_dim)` of embeddings `(items, input_dim)`."""
        return self._encode(embeddings)[0]

    def _encode(self, embeddings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        encoded = self.encoder(self.standardise(embeddings))
        if not self.config.kl_weight:
            return encoded, None
        mean, log_variance = encoded.chunk(2, dim=-1)
        return mean, log_variance.clamp(*LOG_VARIANCE_BOUNDS)

    def forward(self, embeddings: torch.Tensor, counted: bool = True) -> RecBaseTokenizerOutput:
        """
        Args:
            embeddings (`torch.FloatTensor` of shape `(items, input_dim)`): content embeddings.
            counted (`bool`, *optional*, defaults to `True`): whether the items are among those of all processes that
                train together: not on one that has none left, and is given some of another.

        Returns:
            [`RecBaseTokenizerOutput`].
        """
        config = self.config
        mean, log_variance = self._encode(embeddings)
        z, num_levels = mean, self.num_active_levels
        if self.training:
            if log_variance is not None:
                every, first = joined(mean, counted)  # the noise of one process, of which each takes its rows'
                noise = torch.randn_like(every)[first : first + len(mean)]
                z = mean + (0.5 * log_variance).exp() * noise
            num_levels = self._start_levels(z, counted)
        quantized = self.quantizer(z[:, None].expand(-1, config.num_levels, -1), num_levels)
        if self.training:
            self._count_pass(quantized.codes, num_levels, counted)
        last = quantized.quantized[:, -1]
        decoded = self.decoder(last)
        standardised = self.standardise(embeddings)
        reconstruction_loss = (decoded.float() - standardised.float()).square().sum(-1).mean()
        quantization_loss = num_levels * config.codebook_dim * quantized.loss
        output = RecBaseTokenizerOutput(
            reconstruction_loss=reconstruction_loss,
            quantization_loss=quantization_loss,
            codes=_up_to(config.num_levels, quantized.codes),
            representations=mean,
            residuals=_up_to(config.num_levels, quantized.residuals),
            quantized=last,
            reconstruction=decoded / self.input_scale + self.input_mean,
        )
        loss = reconstruction_loss + config.quantization_weight * quantization_loss
        if config.entropy_weight:
            shortfall = partial(usage_shortfall, temperature=config.entropy_temperature)
            distances = [
                codebook.distances(residuals, codebook.vectors)
                for codebook, residuals in zip(
                    self.quantizer.each(num_levels), quantized.residuals.unbind(1), strict=True
                )
            ]
            shortfalls = [
                over_joined(shortfall, each, counted) if self.training else shortfall(each) for each in distances
            ]
            entropy = output.entropy_loss = torch.stack(shortfalls).mean()
            loss = loss + config.entropy_weight * entropy
        if log_variance is not None:
            divergence = output.kl_loss = kl_divergence(mean, log_variance)
            loss = loss + config.kl_weight * divergence
        if self.training:
            # Every parameter has a gradient in every pass, as data-parallel training expects.
            for vectors in self.quantizer.level_vectors()[num_levels:]:
                loss = loss + 0.0 * vectors.sum()
        output.loss = loss
        return output

    def _start_levels(self, z: torch.Tensor, counted: bool) -> int:
        """The number of levels in this training pass, those that start and dead codes set from its residuals."""
        passes = int(self.training_passes)
        before, now = self._num_started(passes - 1) if passes else 0, self._num_started(passes)
        self._renew_codebooks(z, now, range(before, now), counted)
        return now


def usage_shortfall(distances: torch.Tensor, temperature: float) -> torch.Tensor:
    """
    What the codes' usage lacks in entropy, in nats: log K - H(p), where p is the mean over the items of their soft
    assignments, softmax(-distance / t), and t a share of the mean distance to the nearest code. Its gradient moves
    codes and representations towards even use, whatever the scale of the distances is.

    Args:
        distances (`torch.FloatTensor` of shape `(items, K)`): of the items to all codes of a level.
        temperature (`float`): the share.

    Returns:
        `torch.Tensor` of shape `()`: 0 for even use, log K if all items are of one code.
    """
    scale = distances.detach().amin(-1).mean().clamp_min(1e-12)
    soft = (-distances / (temperature * scale)).log_softmax(-1)
    log_usage = soft.logsumexp(0) - math.log(len(soft))  # finite, and so its gradient, for the most remote codes too
    return math.log(soft.shape[1]) + (log_usage.exp() * log_usage).sum()


def kl_divergence(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """KL divergence from the standard normal distribution, of `(items, dim)` each; sum over dim, mean over items."""
    mean, log_variance = mean.float(), log_variance.float()
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(-1).mean()


def _up_to(num_levels: int, values: torch.Tensor) -> torch.Tensor:
    """Zeros for the levels that are missing in `values` `(items, levels, ...)`."""
    missing = num_levels - values.shape[1]
    return torch.cat([values, values.new_zeros(len(values), missing, *values.shape[2:])], dim=1)
