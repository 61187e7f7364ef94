"""Base of autoencoders of item embeddings with codebooks in their middle: the standardised input, MLPs, and
codebooks that start from k-means and revive codes that no item chooses.
"""

from collections.abc import Collection, Iterator

import torch
import torch.distributed as dist
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .checkpoint_format import CheckedLoading
from .process_rows import joined, world_size
from .quantization import ResidualCodebooks, SimVQCodebook
from .quantization_kmeans import kmeans


def mlp(sizes: list[int]) -> nn.Sequential:
    """Linear layers of these widths, with ReLU between them."""
    layers: list[nn.Module] = []
    for width, following in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(width, following), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class EmbeddingAutoencoder(CheckedLoading, PreTrainedModel):
    """
    Base of [`RQVAEModel`] and [`RecBaseTokenizerModel`].

    embedding -> standardise -> encoder MLP -> residual quantization -> codes
                                                 quantized -> decoder MLP -> standardised embedding

    Args:
        config (`PreTrainedConfig`): has `input_dim`, `hidden_sizes`, `codebook_dim`, `num_levels`, `codebook_size`,
            `level_sizes`, `commitment_weight` and `restart_passes`.
        encoder_width (`int`): what the encoder gives for each embedding.
        distance (`str`, *optional*, defaults to `"euclidean"`): see [`ResidualCodebooks`].
    """

    main_input_name = "embeddings"
    accepts_loss_kwargs = False  # the losses are means over the batch
    encoder: nn.Sequential
    decoder: nn.Sequential
    quantizer: ResidualCodebooks
    input_mean: torch.Tensor
    input_scale: torch.Tensor
    training_passes: torch.Tensor
    idle_passes: torch.Tensor
    restarts: torch.Tensor

    def __init__(self, config, encoder_width: int, distance: str = "euclidean"):
        super().__init__(config)
        widths = [config.input_dim, *config.hidden_sizes]
        self.encoder = mlp([*widths, encoder_width])
        self.decoder = mlp([config.codebook_dim, *widths[::-1]])
        self.quantizer = ResidualCodebooks(
            config.level_sizes, config.codebook_dim, config.commitment_weight, distance=distance
        )
        levels = (config.num_levels, config.codebook_size)
        self.register_buffer("input_mean", torch.zeros(config.input_dim))
        self.register_buffer("input_scale", torch.ones(()))
        self.register_buffer("training_passes", torch.zeros((), dtype=torch.long))
        self.register_buffer("idle_passes", torch.zeros(levels, dtype=torch.long))  # since an item chose the code
        self.register_buffer("restarts", torch.zeros((), dtype=torch.long))  # codes that started anew so far

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            # He et al. 2015, as the layers are separated by ReLU: activations keep their size through any depth.
            init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, SimVQCodebook):
            module.reset_parameters()
        elif isinstance(module, EmbeddingAutoencoder):
            init.ones_(module.input_scale)
            for name in ("input_mean", "training_passes", "idle_passes", "restarts"):
                init.zeros_(getattr(module, name))

    @torch.no_grad()
    def set_input_statistics(self, embeddings: torch.Tensor) -> None:
        """
        Sets the mean that is subtracted from embeddings and the one factor that then gives them a mean squared length
        of 1: the reconstruction loss becomes the share of the variance that is lost, and codebooks, whose steps have
        the size of the learning rate, keep up with representations of any encoder.

        Args:
            embeddings (`torch.FloatTensor` of shape `(items, input_dim)`): those to train on.
        """
        mean = embeddings.mean(0, dtype=torch.float64)
        spread = (embeddings.double() - mean).square().sum(-1).mean().sqrt()
        self.input_mean.copy_(mean)
        self.input_scale.copy_(1.0 / spread if spread > 0 else torch.ones(()))

    def code_tensors(self) -> Iterator[torch.Tensor]:
        """What an item's codes depend on."""
        yield from (self.input_mean, self.input_scale)
        yield from self.encoder.parameters()
        yield from self.quantizer.parameters()

    def standardise(self, embeddings: torch.Tensor) -> torch.Tensor:
        return (embeddings - self.input_mean) * self.input_scale

    @torch.no_grad()
    def _renew_codebooks(
        self, z: torch.Tensor, num_levels: int, starting: Collection[int], counted: bool = True
    ) -> None:
        """
        Sets codebooks from the residuals of all processes' batches, level by level: all vectors of a level that starts
        (k-means), and those that no item chose for `restart_passes` passes of any other level.

        Args:
            z (`torch.FloatTensor` of shape `(items, codebook_dim)`): what the first level quantizes.
            num_levels (`int`): levels that are in use, from the first on.
            starting (`Collection[int]`): those of them that start with this pass.
            counted (`bool`, *optional*, defaults to `True`): whether these items are among all processes'.
        """
        config = self.config
        unused = self.idle_passes >= config.restart_passes if config.restart_passes else self.idle_passes < 0
        if not starting and not unused[:num_levels].any():
            return
        residuals, _ = joined(z.float(), counted)
        for level, codebook in enumerate(self.quantizer.each(num_levels)):
            vectors = codebook.vectors.clone()
            if level in starting:
                vectors = kmeans(residuals, len(vectors)).to(vectors)
                self.idle_passes[level] = 0
            else:
                far = (residuals - vectors[codebook.nearest(residuals, vectors)]).square().sum(-1)
                # As k-means++ seeds: far residuals are the likelier the farther they are.
                places = unused[level].nonzero()[:, 0][: len(far)]  # a small batch leaves some for the next pass
                if len(places):
                    self.idle_passes[level, places] = 0
                    self.restarts += len(places)
                    vectors[places] = residuals[torch.multinomial(far + 1e-12, len(places))].to(vectors)
            codebook.set_vectors(of_first_process(vectors))
            residuals = residuals - codebook.vectors[codebook.nearest(residuals, codebook.vectors)]

    @torch.no_grad()
    def _count_pass(self, codes: torch.Tensor, num_levels: int, counted: bool = True) -> None:
        """Counts a training pass, and for each code of the levels in use the passes since an item of any process chose
        it."""
        codes, _ = joined(codes, counted)
        idle = self.idle_passes[:num_levels]
        idle += 1
        idle.scatter_(1, codes[:, :num_levels].T, 0)
        self.training_passes += 1


def of_first_process(values: torch.Tensor) -> torch.Tensor:
    """The first process' values on all processes."""
    if world_size() > 1:
        values = values.contiguous()
        dist.broadcast(values, 0)
    return values
