"""Configuration of the RQ-VAE that turns embeddings of items into codes (TIGER, LETTER)."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .checkpoint_format import FORMAT_VERSION, CheckedConfig
from .configuration_utgrec import UTGRecConfig


@strict
class RQVAEConfig(CheckedConfig, PreTrainedConfig):
    """
    Configuration of [`RQVAEModel`]. The defaults are TIGER's (Rajput et al. 2023).

    Args:
        input_dim (`int`, *optional*, defaults to 384): width of the embeddings.
        hidden_sizes (`list[int]`, *optional*, defaults to `[512, 256, 128]`):
            hidden widths of the encoder; the decoder has the same in reverse.
        codebook_dim (`int`, *optional*, defaults to 32): width of the codebook vectors.
        num_levels (`int`, *optional*, defaults to 3): number of codes of an item.
        codebook_size (`int`, *optional*, defaults to 256): number of codes of each level.
        commitment_weight (`float`, *optional*, defaults to 0.25): beta of the commitment loss.
        quantization_weight (`float`, *optional*, defaults to 4.0):
            weight of codebook and commitment loss, both losses being sums over elements. TIGER's formula has 1; means
            over elements, as in published programs, come to 4 for three levels of 32 dimensions and embeddings of
            384. With 4, fewer items share their codes.
        restart_passes (`int`, *optional*, defaults to 20):
            training forward passes that a code may go without any item before it starts anew as a residual of the
            batch; 0 for no restarts.
        collaborative_weight (`float`, *optional*, defaults to 0.0):
            weight of LETTER's collaborative alignment (its alpha, 0.01 to 0.1); 0 for TIGER.
        collaborative_dim (`int`, *optional*): width of the collaborative embeddings; needed with their weight.
        diversity_weight (`float`, *optional*, defaults to 0.0):
            weight of LETTER's diversity regularisation (its beta, 1e-4); 0 for TIGER.
        diversity_clusters (`int`, *optional*, defaults to 10): balanced clusters of each codebook's vectors.
        cluster_refresh_passes (`int`, *optional*, defaults to 100):
            training forward passes after which the codebooks are clustered anew.
        sinkhorn_epsilon (`float`, *optional*, defaults to 0.0):
            above 0, the last level's codes of a training batch are balanced by Sinkhorn's algorithm with this weight
            of the entropy, see [`balanced_codes`] (LETTER's program: 0.003); 0 for the nearest codes.
        centre_domains (`bool`, *optional*, defaults to `False`):
            whether the embeddings of each catalogue are read without their mean, so that domains share codes.
        format_version (`int`, *optional*): of the checkpoint, see `checkpoint_format`.
    """

    model_type = "rqvae"

    input_dim: int = 384
    hidden_sizes: list[int] | None = None
    codebook_dim: int = 32
    num_levels: int = 3
    codebook_size: int = 256
    commitment_weight: float | int = 0.25
    quantization_weight: float | int = 4.0
    restart_passes: int = 20
    collaborative_weight: float | int = 0.0
    collaborative_dim: int | None = None
    diversity_weight: float | int = 0.0
    diversity_clusters: int = 10
    cluster_refresh_passes: int = 100
    sinkhorn_epsilon: float | int = 0.0
    centre_domains: bool = False
    format_version: int = FORMAT_VERSION

    def __post_init__(self, **kwargs):
        if self.hidden_sizes is None:
            self.hidden_sizes = [512, 256, 128]
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        for name in ("input_dim", "codebook_dim", "num_levels", "codebook_size", "cluster_refresh_passes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if min(self.hidden_sizes, default=1) < 1:
            raise ValueError(f"hidden_sizes must be positive, got {self.hidden_sizes}")
        if self.restart_passes < 0:
            raise ValueError(f"restart_passes must be 0 (no restarts) or more, got {self.restart_passes}")
        if self.sinkhorn_epsilon < 0:
            raise ValueError(f"sinkhorn_epsilon must be 0 (nearest codes) or more, got {self.sinkhorn_epsilon}")
        if self.collaborative_weight and self.collaborative_dim is None:
            raise ValueError("collaborative_weight needs collaborative_dim, the width of the collaborative embeddings")
        if self.diversity_weight and not 1 <= self.diversity_clusters <= self.codebook_size // 2:
            raise ValueError(
                f"diversity_clusters must be 1 to {self.codebook_size // 2}, so that every one of the "
                f"{self.codebook_size} codes has another one in its cluster; got {self.diversity_clusters}"
            )

    @property
    def level_sizes(self) -> list[int]:
        """Number of codes of each level."""
        return [self.codebook_size] * self.num_levels

    def level_layout(self) -> dict:
        """The arguments of [`UTGRecConfig`] that describe these semantic IDs: every level has its own tokens."""
        return {"level_sizes": self.level_sizes}

    @property
    def level_offsets(self) -> list[int]:
        """First token of each level in the recommender's vocabulary."""
        return UTGRecConfig(**self.level_layout()).level_offsets
