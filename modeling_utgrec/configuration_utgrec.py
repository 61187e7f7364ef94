"""Configuration of the UTGRec recommender: a T5 whose vocabulary is the codes of items' semantic IDs."""

from huggingface_hub.dataclasses import strict
from transformers import T5Config

from .checkpoint_format import FORMAT_VERSION, CheckedConfig
from .configuration_levels import NUM_SPECIAL_TOKENS, CodeLevels


@strict
class UTGRecConfig(CodeLevels, CheckedConfig, T5Config):
    r"""
    Configuration of [`UTGRecForConditionalGeneration`]. The defaults are the sizes of the paper (UTGRec, section 2: T5
    from scratch, sizes as TIGER).

    The vocabulary holds the special tokens followed by the codes: pad 0, end-of-sequence 1, code `c` of level `l` is
    token `level_offsets[l] + c`. With the tree codebooks every leaf level (level 1 and up) uses the same codebook and
    hence the same tokens; with one codebook per level every level has its own range of tokens.

    Args:
        num_levels (`int`, *optional*):
            Semantic ID length L, the number of codes of an item. 3 by default, or the length of `level_sizes`.
        root_codebook_size (`int`, *optional*, defaults to 256):
            Number of codes of level 0. Not used when `level_sizes` is given with one codebook per level.
        leaf_codebook_size (`int`, *optional*, defaults to 512):
            Number of codes of every level after the first. Not used when `level_sizes` is given with one codebook per
            level.
        share_leaf_codes (`bool`, *optional*):
            Whether the leaf levels share their token ids (and so their embeddings). By default true, unless
            `level_sizes` is given.
        level_sizes (`list[int]`, *optional*):
            Number of codes of each level, for item tokenizers with one codebook per level. Always a list of
            `num_levels` integers once the configuration is built.
        vocab_size (`int`, *optional*):
            Derived from the sizes above. May be given (a saved configuration does), must then agree.
        max_history (`int`, *optional*, defaults to 20):
            Number of most recent items of a user that the recommender reads; `max_history * num_levels` tokens.
        causal_encoder (`bool`, *optional*, defaults to `False`):
            Whether the encoder reads in one direction, item by item. The paper's T5 reads in both. In one direction,
            one pass trains on every item of a sequence, at a fraction of the cost.
        loss_temperature (`float`, *optional*, defaults to 1.0):
            Divides the logits in the loss, and only there. Below 1 hard negatives weigh more: LETTER's ranking-guided
            generation loss (Wang et al. 2024). The paper's loss has none.
        normalize_over (`str`, *optional*, defaults to `"vocabulary"`):
            What a code's probability is normalised over, in training and in recommending: the `"vocabulary"`, as in
            the paper, or the codes that `"items"` of the catalogue have after the same prefix. The latter does not
            have to learn which semantic IDs exist, which takes a small model most of its training.
        embedding_std (`float`, *optional*, defaults to 1.0):
            Standard deviation of new code embeddings, times `initializer_factor`. T5's 1.0 suits Adafactor, whose
            steps grow with the weights; AdamW moves such embeddings slowly. With 0.05, and without the factor
            `d_model^-0.5` before the output embeddings (`scale_decoder_outputs=False`), a small T5 needs a fraction of
            the epochs.
        item_tokenizer_fingerprint (`str`, *optional*):
            Fingerprint of the item tokenizer whose semantic IDs the recommender was trained on.
        decoder_start_token_id (`int`, *optional*, defaults to 0):
            Token that starts the decoder; T5 uses the padding token.
        format_version (`int`, *optional*):
            Of the checkpoint, see `checkpoint_format`.

    The remaining arguments are those of [`~transformers.T5Config`], with other defaults.

    Raises:
        ValueError: if `num_levels`, `level_sizes`, `share_leaf_codes` and `vocab_size` contradict each other.

    Example:

    ```python
    >>> from modeling_utgrec import UTGRecConfig
    >>> config = UTGRecConfig()
    >>> config.level_sizes, config.level_offsets, config.vocab_size
    ([256, 512, 512], [2, 258, 258], 770)
    >>> UTGRecConfig(level_sizes=[256, 256, 256, 256]).level_offsets
    [2, 258, 514, 770]
    ```
    """

    model_type = "utgrec"

    num_levels: int | None = None
    root_codebook_size: int = 256
    leaf_codebook_size: int = 512
    share_leaf_codes: bool | None = None
    level_sizes: list[int] | None = None
    max_history: int = 20
    causal_encoder: bool = False
    normalize_over: str = "vocabulary"
    loss_temperature: float | int = 1.0
    embedding_std: float | int = 1.0
    item_tokenizer_fingerprint: str | None = None
    format_version: int = FORMAT_VERSION

    vocab_size: int | None = None  # type: ignore[assignment]  # derived
    d_model: int = 128
    d_ff: int = 1024
    num_heads: int = 6
    d_kv: int = 64
    num_layers: int = 4
    dropout_rate: float | int = 0.1
    pad_token_id: int = 0
    eos_token_id: int = 1
    decoder_start_token_id: int = 0

    def __post_init__(self, **kwargs):
        if self.share_leaf_codes is None:
            # a saved configuration always states it, so that a reloaded `level_sizes` keeps its meaning
            self.share_leaf_codes = self.level_sizes is None
        self.derive_levels(3)
        super().__post_init__(**kwargs)

    @property
    def level_offsets(self) -> list[int]:
        """First token id of each level."""
        assert self.num_levels is not None and self.level_sizes is not None  # __post_init__ has set them
        if self.share_leaf_codes:
            return [NUM_SPECIAL_TOKENS + (self.root_codebook_size if level else 0) for level in range(self.num_levels)]
        return super().level_offsets

    def default_level_sizes(self) -> list[int]:
        """Those of the tree codebooks."""
        assert self.num_levels is not None
        return [self.leaf_codebook_size if level else self.root_codebook_size for level in range(self.num_levels)]

    def number_of_tokens(self) -> int:
        """What `vocab_size` must be."""
        assert self.level_sizes is not None
        ends = [first + size for first, size in zip(self.level_offsets, self.level_sizes, strict=False)]
        return max(ends, default=NUM_SPECIAL_TOKENS)

    def validate_levels(self):
        """Part of `@strict`-powered validation. Checks that the description of the semantic IDs is coherent."""
        self.check_levels()
        if self.share_leaf_codes and self.level_sizes != self.default_level_sizes():
            raise ValueError(
                f"`share_leaf_codes` means `level_sizes` {self.default_level_sizes()} (from `root_codebook_size` and "
                f"`leaf_codebook_size`), got {self.level_sizes}. Pass `share_leaf_codes=False` for one codebook per "
                "level."
            )
        self.check_vocabulary()
        for name in ("num_layers", "num_decoder_layers", "num_heads", "d_model", "d_kv", "d_ff"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise ValueError(f"`{name}` must be at least 1, got {number}.")
        for name in ("loss_temperature", "embedding_std"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}.")


__all__ = ["UTGRecConfig"]
