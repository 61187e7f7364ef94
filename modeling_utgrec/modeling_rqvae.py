"""RQ-VAE: the embedding of an item in, its codes out (TIGER), with LETTER's regularisations as options.

embedding -> standardise -> encoder MLP -> residual quantization -> codes
                                             quantized -> decoder MLP -> standardised embedding
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .clustering import balanced_clusters, kmeans
from .configuration_rqvae import RQVAEConfig
from .contrastive import world_size
from .quantization import ResidualCodebooks, SimVQCodebook


@dataclass
class RQVAEOutput(ModelOutput):
    """
    Args:
        loss (`torch.FloatTensor` of shape `()`): the weighted sum of the parts.
        reconstruction_loss (`torch.FloatTensor` of shape `()`):
            mean squared distance of the standardised embeddings and their reconstructions.
        quantization_loss (`torch.FloatTensor` of shape `()`):
            codebooks and commitment, mean over the items of the squared distances' sum over the levels.
        collaborative_loss (`torch.FloatTensor` of shape `()`, *optional*): LETTER's collaborative alignment.
        diversity_loss (`torch.FloatTensor` of shape `()`, *optional*): LETTER's diversity regularisation.
        codes (`torch.LongTensor` of shape `(items, num_levels)`): the codes.
        representations (`torch.FloatTensor` of shape `(items, codebook_dim)`): the encoder's output.
        residuals (`torch.FloatTensor` of shape `(items, num_levels, codebook_dim)`): what each level quantized.
        quantized (`torch.FloatTensor` of shape `(items, codebook_dim)`): sum of the codes' vectors, with
            straight-through gradient.
        reconstruction (`torch.FloatTensor` of shape `(items, input_dim)`): of the embeddings, on their own scale.
    """

    loss: torch.FloatTensor | None = None
    reconstruction_loss: torch.FloatTensor | None = None
    quantization_loss: torch.FloatTensor | None = None
    collaborative_loss: torch.FloatTensor | None = None
    diversity_loss: torch.FloatTensor | None = None
    codes: torch.LongTensor | None = None
    representations: torch.FloatTensor | None = None
    residuals: torch.FloatTensor | None = None
    quantized: torch.FloatTensor | None = None
    reconstruction: torch.FloatTensor | None = None


def mlp(sizes: list[int]) -> nn.Sequential:
    """Linear layers of these widths, with ReLU between them."""
    layers = []
    for width, following in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(width, following), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class RQVAEModel(PreTrainedModel):
    """
    Residual-quantized variational autoencoder of item embeddings (TIGER: Rajput et al. 2023, section 3.1), and with
    `collaborative_weight` and `diversity_weight` LETTER's tokenizer (Wang et al. 2024).

    The first training pass sets the codebooks to k-means centroids of its batch, level by level, and a code that no
    item chose for `restart_passes` training passes starts anew: both are state of the model, which a resumed training
    goes on with.

    Args:
        config ([`RQVAEConfig`]): the architecture.

    Example:

    ```python
    >>> model = RQVAEModel(RQVAEConfig(input_dim=embeddings.shape[1]))
    >>> model.set_input_statistics(embeddings)
    >>> model(embeddings[:1024]).loss.backward()
    >>> model.eval()(embeddings).codes.shape
    torch.Size([12101, 3])
    ```
    """

    config: RQVAEConfig
    base_model_prefix = "rqvae"
    main_input_name = "embeddings"
    accepts_loss_kwargs = False  # the losses are means over the batch

    def __init__(self, config: RQVAEConfig):
        super().__init__(config)
        sizes = [config.input_dim, *config.hidden_sizes, config.codebook_dim]
        self.encoder = mlp(sizes)
        self.decoder = mlp(sizes[::-1])
        self.quantizer = ResidualCodebooks(config.level_sizes, config.codebook_dim, config.commitment_weight)
        # The paper's widths are equal and need no projection.
        self.to_collaborative = nn.Identity()
        if config.collaborative_dim not in (None, config.codebook_dim):
            self.to_collaborative = nn.Linear(config.codebook_dim, config.collaborative_dim, bias=False)
        levels = (config.num_levels, config.codebook_size)
        self.register_buffer("input_mean", torch.zeros(config.input_dim))
        self.register_buffer("input_scale", torch.ones(()))
        self.register_buffer("training_passes", torch.zeros((), dtype=torch.long))
        self.register_buffer("idle_passes", torch.zeros(levels, dtype=torch.long))  # since an item chose the code
        self.register_buffer("restarts", torch.zeros((), dtype=torch.long))  # codes that started anew so far
        self.register_buffer("code_clusters", torch.zeros(levels, dtype=torch.long))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            # He et al. 2015, as the layers are separated by ReLU: activations keep their size through any depth.
            init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, SimVQCodebook):
            module.reset_parameters()
        elif isinstance(module, RQVAEModel):
            init.ones_(module.input_scale)
            for name in ("input_mean", "training_passes", "idle_passes", "restarts", "code_clusters"):
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

    def encode(self, embeddings: torch.FloatTensor) -> torch.Tensor:
        """Continuous representations `(items, codebook_dim)` of embeddings `(items, input_dim)`."""
        return self.encoder((embeddings - self.input_mean) * self.input_scale)

    def forward(self, embeddings: torch.FloatTensor, collaborative: torch.FloatTensor | None = None) -> RQVAEOutput:
        """
        Args:
            embeddings (`torch.FloatTensor` of shape `(items, input_dim)`): content embeddings.
            collaborative (`torch.FloatTensor` of shape `(items, collaborative_dim)`, *optional*):
                frozen collaborative embeddings of the same items; without them there is no collaborative loss.

        Raises:
            ValueError: in training, if the configuration has a collaborative weight and `collaborative` is missing.
        """
        config = self.config
        standardised = (embeddings - self.input_mean) * self.input_scale
        z = self.encoder(standardised)
        if self.training:
            self._renew_codebooks(z)
        quantized = self.quantizer(z[:, None].expand(-1, config.num_levels, -1))
        if self.training:
            self._count_idle(quantized.codes)
            self.training_passes += 1
        last = quantized.quantized[:, -1]
        decoded = self.decoder(last)
        output = RQVAEOutput(
            reconstruction_loss=(decoded.float() - standardised.float()).square().sum(-1).mean(),
            # A sum over levels and dimensions, as TIGER's, of the quantizer's mean.
            quantization_loss=config.num_levels * config.codebook_dim * quantized.loss,
            codes=quantized.codes,
            representations=z,
            residuals=quantized.residuals,
            quantized=last,
            reconstruction=decoded / self.input_scale + self.input_mean,
        )
        loss = output.reconstruction_loss + config.quantization_weight * output.quantization_loss
        # LETTER's inner products and weights are those of embeddings with elements, not lengths, of about 1.
        scale = config.input_dim**0.5
        if config.collaborative_weight:
            if collaborative is not None:
                aligned = self.to_collaborative(scale * last)
                output.collaborative_loss = collaborative_alignment(aligned, collaborative)
                loss = loss + config.collaborative_weight * output.collaborative_loss
            elif self.training:
                raise ValueError("collaborative_weight is set, but forward got no collaborative embeddings.")
        if config.diversity_weight:
            losses = [
                code_diversity(scale * vectors, clusters, codes)
                for vectors, clusters, codes in zip(
                    self.quantizer.level_vectors(), self.code_clusters, quantized.codes.T, strict=True
                )
            ]
            output.diversity_loss = torch.stack(losses).mean()
            loss = loss + config.diversity_weight * output.diversity_loss
        output.loss = loss
        return output

    @torch.no_grad()
    def _renew_codebooks(self, z: torch.Tensor) -> None:
        """Sets codebooks from the batch's residuals: all vectors in the first pass, those of unused codes later."""
        config, first = self.config, bool(self.training_passes == 0)
        unused = self.idle_passes >= config.restart_passes if config.restart_passes else self.idle_passes < 0
        if first or unused.any():
            residuals = z.float()
            for level, codebook in enumerate(self.quantizer.codebooks):
                vectors = codebook.vectors.clone()
                if first:
                    vectors = kmeans(residuals, len(vectors)).to(vectors)
                else:
                    far = (residuals - vectors[codebook.nearest(residuals, vectors)]).square().sum(-1)
                    # As k-means++ seeds: far residuals are the likelier the farther they are.
                    places = unused[level].nonzero()[:, 0][: len(far)]  # a small batch leaves some for the next pass
                    if len(places):
                        self.idle_passes[level, places] = 0
                        self.restarts += len(places)
                        vectors[places] = residuals[torch.multinomial(far + 1e-12, len(places))].to(vectors)
                codebook.set_vectors(_of_first_process(vectors))
                residuals = residuals - codebook.vectors[codebook.nearest(residuals, codebook.vectors)]
        if config.diversity_weight and self.training_passes % config.cluster_refresh_passes == 0:
            clusters = [balanced_clusters(v, config.diversity_clusters) for v in self.quantizer.level_vectors()]
            self.code_clusters.copy_(_of_first_process(torch.stack(clusters)))

    @torch.no_grad()
    def _count_idle(self, codes: torch.LongTensor) -> None:
        self.idle_passes += 1
        self.idle_passes.scatter_(1, codes.T, 0)


def _of_first_process(values: torch.Tensor) -> torch.Tensor:
    """The first process' values on all processes."""
    if world_size() > 1:
        values = values.contiguous()
        dist.broadcast(values, 0)
    return values


def collaborative_alignment(quantized: torch.Tensor, collaborative: torch.Tensor) -> torch.Tensor:
    """
    Cross-entropy of finding an item's collaborative embedding among those of the batch by the inner product with its
    quantized vector (LETTER: Wang et al. 2024).

    Args:
        quantized (`torch.FloatTensor` of shape `(items, dim)`): quantized vectors.
        collaborative (`torch.FloatTensor` of shape `(items, dim)`): frozen collaborative embeddings.
    """
    with torch.autocast(quantized.device.type, enabled=False):
        logits = quantized.float() @ collaborative.detach().float().T
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def code_diversity(vectors: torch.Tensor, clusters: torch.LongTensor, codes: torch.LongTensor) -> torch.Tensor:
    """
    Cross-entropy of finding, by the inner product with an item's code vector, another code of the same cluster among
    all other codes of the level (LETTER: Wang et al. 2024). LETTER draws that code at random; this is the mean over
    all draws.

    Args:
        vectors (`torch.FloatTensor` of shape `(num_codes, dim)`): code vectors of one level.
        clusters (`torch.LongTensor` of shape `(num_codes,)`): the cluster of each, none with a single code.
        codes (`torch.LongTensor` of shape `(items,)`): the items' codes.
    """
    itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    with torch.autocast(vectors.device.type, enabled=False):
        logits = (vectors.float() @ vectors.float().T).masked_fill(itself, float("-inf"))
    losses = -logits.log_softmax(-1).masked_fill(itself, 0.0)
    mates = (clusters[:, None] == clusters) & ~itself
    per_code = (losses * mates).sum(-1) / mates.sum(-1)
    return per_code[codes].mean()
