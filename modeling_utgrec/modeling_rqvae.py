"""RQ-VAE: the embedding of an item in, its codes out (TIGER), with LETTER's regularisations as options."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_rqvae import RQVAEConfig
from .modeling_embedding_autoencoder import EmbeddingAutoencoder, of_first_process
from .process_rows import joined
from .quantization_kmeans import balanced_clusters


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

    loss: torch.Tensor | None = None
    reconstruction_loss: torch.Tensor | None = None
    quantization_loss: torch.Tensor | None = None
    collaborative_loss: torch.Tensor | None = None
    diversity_loss: torch.Tensor | None = None
    codes: torch.Tensor | None = None
    representations: torch.Tensor | None = None
    residuals: torch.Tensor | None = None
    quantized: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None


class RQVAEModel(EmbeddingAutoencoder):
    """
    Residual-quantized variational autoencoder of item embeddings (TIGER: Rajput et al. 2023, section 3.1), and with
    `collaborative_weight`, `diversity_weight` and `sinkhorn_epsilon` LETTER's tokenizer (Wang et al. 2024).

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
    to_collaborative: nn.Module
    code_clusters: torch.Tensor

    def __init__(self, config: RQVAEConfig):
        super().__init__(config, encoder_width=config.codebook_dim)
        # The paper's widths are equal and need no projection.
        self.to_collaborative = nn.Identity()
        if config.collaborative_dim not in (None, config.codebook_dim):
            self.to_collaborative = nn.Linear(config.codebook_dim, config.collaborative_dim, bias=False)
        self.register_buffer("code_clusters", torch.zeros(config.num_levels, config.codebook_size, dtype=torch.long))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, RQVAEModel):
            init.zeros_(module.code_clusters)

    def encode(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Continuous representations `(items, codebook_dim)` of embeddings `(items, input_dim)`."""
        return self.encoder(self.standardise(embeddings))

    def forward(
        self, embeddings: torch.Tensor, collaborative: torch.Tensor | None = None, counted: bool = True
    ) -> RQVAEOutput:
        """
        Args:
            embeddings (`torch.FloatTensor` of shape `(items, input_dim)`): content embeddings.
            collaborative (`torch.FloatTensor` of shape `(items, collaborative_dim)`, *optional*):
                frozen collaborative embeddings of the same items; without them there is no collaborative loss.
            counted (`bool`, *optional*, defaults to `True`): whether the items are among those of all processes that
                train together: not on one that has none left, and is given some of another.

        Raises:
            ValueError: in training, if the configuration has a collaborative weight and `collaborative` is missing.
        """
        config = self.config
        standardised = self.standardise(embeddings)
        z = self.encoder(standardised)
        if self.training:
            first = bool(self.training_passes == 0)
            self._renew_codebooks(z, config.num_levels, range(config.num_levels) if first else (), counted)
            self._renew_clusters()
        epsilon = config.sinkhorn_epsilon if self.training else 0.0
        quantized = self.quantizer(
            z[:, None].expand(-1, config.num_levels, -1), sinkhorn_epsilon=epsilon, counted=counted
        )
        if self.training:
            self._count_pass(quantized.codes, config.num_levels, counted)
        last = quantized.quantized[:, -1]
        decoded = self.decoder(last)
        reconstruction_loss = (decoded.float() - standardised.float()).square().sum(-1).mean()
        # A sum over levels and dimensions, as TIGER's, of the quantizer's mean.
        quantization_loss = config.num_levels * config.codebook_dim * quantized.loss
        output = RQVAEOutput(
            reconstruction_loss=reconstruction_loss,
            quantization_loss=quantization_loss,
            codes=quantized.codes,
            representations=z,
            residuals=quantized.residuals,
            quantized=last,
            reconstruction=decoded / self.input_scale + self.input_mean,
        )
        loss = reconstruction_loss + config.quantization_weight * quantization_loss
        # LETTER's inner products and weights are those of embeddings with elements, not lengths, of about 1.
        scale = config.input_dim**0.5
        if config.collaborative_weight:
            if collaborative is not None:
                aligned = self.to_collaborative(scale * last)
                candidates, start = joined(collaborative, counted) if self.training else (collaborative, 0)
                alignment = output.collaborative_loss = collaborative_alignment(aligned, candidates, start)
                loss = loss + config.collaborative_weight * alignment
            elif self.training:
                raise ValueError("collaborative_weight is set, but forward got no collaborative embeddings.")
        if config.diversity_weight:
            losses = [
                code_diversity(scale * vectors, clusters, codes)
                for vectors, clusters, codes in zip(
                    self.quantizer.level_vectors(), self.code_clusters, quantized.codes.T, strict=True
                )
            ]
            diversity = output.diversity_loss = torch.stack(losses).mean()
            loss = loss + config.diversity_weight * diversity
        output.loss = loss
        return output

    @torch.no_grad()
    def _renew_clusters(self) -> None:
        config = self.config
        if config.diversity_weight and self.training_passes % config.cluster_refresh_passes == 0:
            clusters = [balanced_clusters(v, config.diversity_clusters) for v in self.quantizer.level_vectors()]
            self.code_clusters.copy_(of_first_process(torch.stack(clusters)))


def collaborative_alignment(quantized: torch.Tensor, collaborative: torch.Tensor, first: int = 0) -> torch.Tensor:
    """
    Cross-entropy of finding an item's collaborative embedding among those of the batch by the inner product with its
    quantized vector (LETTER: Wang et al. 2024).

    Args:
        quantized (`torch.FloatTensor` of shape `(items, dim)`): quantized vectors.
        collaborative (`torch.FloatTensor` of shape `(candidates, dim)`): frozen collaborative embeddings of the batch,
            of the batches of all processes if there are several.
        first (`int`, *optional*, defaults to 0): the candidate that is the first item's.
    """
    with torch.autocast(quantized.device.type, enabled=False):
        logits = quantized.float() @ collaborative.detach().float().T
    return F.cross_entropy(logits, first + torch.arange(len(logits), device=logits.device))


def code_diversity(vectors: torch.Tensor, clusters: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
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
    return per_code.index_select(0, codes).mean()
