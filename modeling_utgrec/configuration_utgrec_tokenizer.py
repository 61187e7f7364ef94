"""Configuration of UTGRec's item tokenizer network."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .checkpoint_format import FORMAT_VERSION, CheckedConfig
from .configuration_utgrec import UTGRecConfig


@strict
class UTGRecTokenizerConfig(CheckedConfig, PreTrainedConfig):
    """
    Configuration of [`UTGRecTokenizerModel`]. The defaults are the paper's.

    Args:
        backbone_config (`PreTrainedConfig` or `dict`, *optional*):
            The content encoder: Qwen2-VL or a successor (text and images), or any text encoder of `AutoModel`.
        backbone_name_or_path (`str`, *optional*): Hub id or folder that the backbone's weights came from.
        backbone_revision (`str`, *optional*): their commit on the Hub.
        backbone_fingerprint (`str`, *optional*): of these weights; taken when the network is built on them.
        backbone_saved (`bool`, *optional*, defaults to `True`):
            whether the checkpoint holds the backbone's own weights; see [`UTGRecTokenizerModel.save_pretrained`].
        lora_config (`dict`, *optional*):
            peft `LoraConfig` arguments for the linear layers of the language model; the rest of the backbone is
            frozen. `None` trains the whole backbone.
        num_levels (`int`, *optional*, defaults to 3): length of a semantic ID.
        root_codebook_size (`int`, *optional*, defaults to 256): codes of the first level.
        leaf_codebook_size (`int`, *optional*, defaults to 512): codes that all further levels share.
        codebook_structure (`str`, *optional*, defaults to `"tree"`):
            `"tree"`, or `"residual"` for the ablation with one codebook per level and residual quantization.
        codebook_dim (`int`, *optional*, defaults to 128): width of the codebook vectors.
        codebook_init (`str`, *optional*, defaults to `"normal"`):
            `"normal"`, the paper's, or `"kmeans"`: at the end of the warm-up the trainer sets the codebooks to
            centroids of the representations. A backbone with random weights needs it: its representations start so
            close together that one code would take them all.
        codebook_projection_init (`str`, *optional*, defaults to `"linear"`):
            how the projections of tree codebooks start: `"linear"`, as linear layers do, or `"orthogonal"`. With
            `codebook_init="kmeans"` a projection that is nearly singular makes C so large that a step of training
            moves all codes by more than they lie apart.
        codebook_centering (`bool`, *optional*, defaults to `False`):
            quantize what representations differ from their mean by, see [`~running_mean.RunningMean`]; not in the
            paper.
        shared_representation (`bool`, *optional*, defaults to `False`):
            all levels quantize one representation, of the mean of the prompt's states, so that each of the
            `"residual"` codebooks tells apart what those above left together. Not in the paper, whose levels each
            have their code token's: as long as these say much the same of an item, so do its codes.
        centre_domains (`bool`, *optional*, defaults to `False`):
            the adapter reads what an item's states differ from the mean of its domain's by, and the decoders are told
            that mean: codes need not say which domain an item is of, and those of a domain that training has not seen
            are spread as those of the others. Not in the paper. Training needs a backbone that does not learn.
        adapter_hidden_size (`int`, *optional*, defaults to 768): hidden width of the adapter MLP.
        adapter_init (`str`, *optional*, defaults to `"normal"`):
            `"normal"`, or `"principal"`: the trainer starts the adapter MLP as the principal components of the states
            that it reads, of at most half as many as it has hidden units. Not in the paper. Of states that hold much
            from the start, as a text encoder's, little is lost until it has learned.
        adapter_dropout (`float`, *optional*, defaults to 0.1): dropout of the adapter MLP.
        commitment_weight (`float`, *optional*, defaults to 0.25): beta of Eq. 6 and 7.
        warmup_steps (`int`, *optional*, defaults to 300):
            training forward passes in which the decoders see unquantized representations and there is no codebook
            loss.
        with_decoders (`bool`, *optional*, defaults to `True`):
            whether the network has its decoders. Training needs them, codes don't.
        decoder_dropout (`float`, *optional*, defaults to 0.1): dropout of the text and image decoder.
        max_text_tokens (`int`, *optional*, defaults to 1024): longest item text, in backbone tokens.
        latent_channels (`int`, *optional*): channels of the autoencoder's latents; `None` for no image decoder.
        latent_size (`int`, *optional*, defaults to 16): side of the square of latents.
        image_attends_masks (`bool`, *optional*, defaults to `True`):
            whether the image decoder's layer attends to its mask vectors beside the item's representations, as the
            paper's does, or to these alone, see [`~reconstruction.ImageDecoder`].
        denoiser_width (`int`, *optional*, defaults to 1024): width of the diffusion loss' denoiser.
        denoiser_depth (`int`, *optional*, defaults to 3): residual blocks of the denoiser.
        diffusion_steps (`int`, *optional*, defaults to 1000): length of the noise schedule.
        diffusion_repeats (`int`, *optional*, defaults to 4): timesteps drawn for each latent.
        quantization_weight (`float`, *optional*, defaults to 200.0): weight of the codebook loss (Eq. 13).
        image_weight (`float`, *optional*, defaults to 3.0): lambda of Eq. 10 and 12.
        alignment_weight (`float`, *optional*, defaults to 0.01): weight of Eq. 11; 0 for the ablation without it.
        co_reconstruction_weight (`float`, *optional*, defaults to 0.03): weight of Eq. 12; 0 for the ablation.
        temperature (`float`, *optional*, defaults to 0.1): temperature of Eq. 11.
        format_version (`int`, *optional*): of the checkpoint, see `checkpoint_format`.
    """

    model_type = "utgrec_tokenizer"
    sub_configs = {"backbone_config": AutoConfig}

    backbone_config: dict | PreTrainedConfig | None = None
    backbone_name_or_path: str | None = None
    backbone_revision: str | None = None
    backbone_fingerprint: str | None = None
    backbone_saved: bool = True
    lora_config: dict | None = None
    num_levels: int = 3
    root_codebook_size: int = 256
    leaf_codebook_size: int = 512
    codebook_structure: str = "tree"
    codebook_dim: int = 128
    codebook_init: str = "normal"
    codebook_projection_init: str = "linear"
    codebook_centering: bool = False
    shared_representation: bool = False
    centre_domains: bool = False
    adapter_hidden_size: int = 768
    adapter_init: str = "normal"
    adapter_dropout: float | int = 0.1
    commitment_weight: float | int = 0.25
    warmup_steps: int = 300
    with_decoders: bool = True
    decoder_dropout: float | int = 0.1
    max_text_tokens: int = 1024
    latent_channels: int | None = None
    latent_size: int = 16
    image_attends_masks: bool = True
    denoiser_width: int = 1024
    denoiser_depth: int = 3
    diffusion_steps: int = 1000
    diffusion_repeats: int = 4
    quantization_weight: float | int = 200.0
    image_weight: float | int = 3.0
    alignment_weight: float | int = 0.01
    co_reconstruction_weight: float | int = 0.03
    temperature: float | int = 0.1
    initializer_range: float | int = 0.02
    format_version: int = FORMAT_VERSION
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        if not isinstance(self.backbone_config, PreTrainedConfig):
            self.backbone_config = AutoConfig.for_model(**{"model_type": "qwen2_vl", **(self.backbone_config or {})})
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        if self.num_levels < 1:
            raise ValueError(f"num_levels must be at least 1, got {self.num_levels}")
        if self.codebook_structure not in ("tree", "residual"):
            raise ValueError(f"codebook_structure must be 'tree' or 'residual', got {self.codebook_structure!r}")
        if self.shared_representation and self.codebook_structure != "residual":
            raise ValueError(
                "shared_representation needs codebook_structure='residual': tree codebooks quantize what "
                "neighbouring levels differ by, which is nothing then."
            )
        if self.codebook_init not in ("normal", "kmeans"):
            raise ValueError(f"codebook_init must be 'normal' or 'kmeans', got {self.codebook_init!r}")
        if self.adapter_init not in ("normal", "principal"):
            raise ValueError(f"adapter_init must be 'normal' or 'principal', got {self.adapter_init!r}")
        if self.codebook_projection_init not in ("linear", "orthogonal"):
            raise ValueError(
                f"codebook_projection_init must be 'linear' or 'orthogonal', got {self.codebook_projection_init!r}"
            )
        for name in ("root_codebook_size", "leaf_codebook_size", "codebook_dim", "max_text_tokens", "latent_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")

    def to_dict(self) -> dict:
        values = super().to_dict()
        # It may be a local folder of the training machine; backbone_name_or_path says where the backbone is.
        values["backbone_config"].pop("_name_or_path", None)
        return values

    @property
    def level_sizes(self) -> list[int]:
        """Number of codes of each level."""
        return [self.root_codebook_size] + [self.leaf_codebook_size] * (self.num_levels - 1)

    def level_layout(self) -> dict:
        """The arguments of [`UTGRecConfig`] that describe these semantic IDs: the recommender's vocabulary."""
        if self.codebook_structure == "residual":
            return {"level_sizes": self.level_sizes}
        return {
            "num_levels": self.num_levels,
            "root_codebook_size": self.root_codebook_size,
            "leaf_codebook_size": self.leaf_codebook_size,
        }

    @property
    def level_offsets(self) -> list[int]:
        """First token of each level in the recommender's vocabulary."""
        return UTGRecConfig(**self.level_layout()).level_offsets

    @property
    def backbone_hidden_size(self) -> int:
        return self._backbone_text_config.hidden_size

    @property
    def input_dim(self) -> int:
        """Numbers that the adapter reads of an item: its states, of all levels unless they share a representation."""
        return self.backbone_hidden_size * (1 if self.shared_representation else self.num_levels)

    @property
    def backbone_vocab_size(self) -> int:
        return self._backbone_text_config.vocab_size

    @property
    def _backbone_text_config(self) -> PreTrainedConfig:
        assert isinstance(self.backbone_config, PreTrainedConfig)  # made of a dictionary
        return self.backbone_config.get_text_config()

    @property
    def code_token_ids(self) -> list[int]:
        """Input ids of the code tokens `<CODE_0>` ... `<CODE_{L-1}>`: they follow the backbone's vocabulary."""
        return [self.backbone_vocab_size + level for level in range(self.num_levels)]
