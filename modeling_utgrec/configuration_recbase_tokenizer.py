"""Configuration of RecBase's unified item tokenizer."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .checkpoint_format import FORMAT_VERSION, CheckedConfig
from .configuration_utgrec import UTGRecConfig

DISTANCES = ("euclidean", "cosine")


@strict
class RecBaseTokenizerConfig(CheckedConfig, PreTrainedConfig):
    """
    Configuration of [`RecBaseTokenizerModel`]. The defaults are RecBase's (Zhou et al. 2025) where it names a value.

    Args:
        input_dim (`int`, *optional*, defaults to 384): width of the content embeddings; the paper's have 4096.
        hidden_sizes (`list[int]`, *optional*, defaults to `[2048, 1024, 512, 256, 128]`):
            hidden widths of the encoder; the decoder has the same in reverse. None at all: both are linear, and items
            with similar contents have similar vectors in domains that the network was not trained on, too.
        codebook_dim (`int`, *optional*, defaults to 128): width of the codebook vectors, which the paper does not say;
            as in the authors' train.sh. Fewer dimensions are resolved finer by four levels: on 51,419 items of five
            domains, 957 of them with the text of another item, 22 others shared their codes with 8 dimensions, and 94
            with 16 or 32. More keep more of the content of domains that the network was not trained on.
        num_levels (`int`, *optional*, defaults to 4): number of codes of an item.
        codebook_size (`int`, *optional*, defaults to 1024): number of codes of each level.
        distance (`str`, *optional*, defaults to `"euclidean"`): `"euclidean"` or `"cosine"`, of residuals and codes.
        commitment_weight (`float`, *optional*, defaults to 0.25): beta of the commitment loss.
        quantization_weight (`float`, *optional*, defaults to 4.0):
            weight of codebook and commitment loss, both losses being sums over elements. The authors' program has
            means, each with weight 1, which come to `input_dim / (num_levels * codebook_dim)` here: 0.75 at these
            sizes, 8 for the paper's 4096 numbers of an embedding.
        entropy_weight (`float`, *optional*, defaults to 0.01):
            weight of the usage-entropy regulariser; 0 for none.
        entropy_temperature (`float`, *optional*, defaults to 0.1):
            temperature of the soft assignments that it counts, as a share of the items' mean distance to their codes.
        kl_weight (`float`, *optional*, defaults to 0.0):
            weight of the KL divergence from a standard normal distribution. Above 0 the encoder gives mean and
            logarithm of the variance, and training samples.
        curriculum_passes (`int`, *optional*, defaults to 0):
            training forward passes after which the next level becomes active, N: level d after (d - 1) N; 0 for all
            levels from the start. The paper has 5 of its 100 epochs.
        restart_passes (`int`, *optional*, defaults to 20):
            training forward passes that a code of an active level may go without any item before it starts anew as a
            residual of the batch; 0 for no restarts.
        centre_domains (`bool`, *optional*, defaults to `False`):
            whether the embeddings that the network reads are without the mean of their domain, which is what all its
            items share: codes then say in what items of a domain differ, and domains have codes in common. Not in the
            paper; `UniversalItemTokenizer` takes the mean off and keeps it.
        text_encoder (`str`, *optional*): Hub id or folder of the text encoder whose embeddings the network reads.
        text_encoder_revision (`str`, *optional*): commit of the Hub that it is loaded from.
        text_encoder_fingerprint (`str`, *optional*): digest of the encoder's files.
        text_encoder_settings (`dict`, *optional*): how the encoder makes a vector of a text.
        introduction (`str`, *optional*, defaults to `"Describe an item:"`): how the texts of items begin, see
            `TextTemplate`; a domain may have its own.
        max_field_characters (`int`, *optional*, defaults to 2000): where each field of a text is cut.
        format_version (`int`, *optional*): of the checkpoint, see `checkpoint_format`.
    """

    model_type = "recbase_tokenizer"

    input_dim: int = 384
    hidden_sizes: list[int] | None = None
    codebook_dim: int = 128
    num_levels: int = 4
    codebook_size: int = 1024
    distance: str = "euclidean"
    commitment_weight: float | int = 0.25
    quantization_weight: float | int = 4.0
    entropy_weight: float | int = 0.01
    entropy_temperature: float | int = 0.1
    kl_weight: float | int = 0.0
    curriculum_passes: int = 0
    restart_passes: int = 20
    centre_domains: bool = False
    text_encoder: str | None = None
    text_encoder_revision: str | None = None
    text_encoder_fingerprint: str | None = None
    text_encoder_settings: dict | None = None
    introduction: str = "Describe an item:"
    max_field_characters: int = 2000
    format_version: int = FORMAT_VERSION

    def __post_init__(self, **kwargs):
        if self.hidden_sizes is None:
            self.hidden_sizes = [2048, 1024, 512, 256, 128]
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        for name in ("input_dim", "codebook_dim", "num_levels", "codebook_size", "max_field_characters"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if min(self.hidden_sizes, default=1) < 1:
            raise ValueError(f"hidden_sizes must be positive, got {self.hidden_sizes}")
        for name in ("commitment_weight", "quantization_weight", "entropy_weight", "kl_weight", "curriculum_passes",
                     "restart_passes"):  # fmt: skip
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.entropy_temperature <= 0:
            raise ValueError(f"entropy_temperature must be above 0, got {self.entropy_temperature}")
        if self.distance not in DISTANCES:
            raise ValueError(f"distance must be one of {', '.join(DISTANCES)}, got {self.distance!r}")

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
