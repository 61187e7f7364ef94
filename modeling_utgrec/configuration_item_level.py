"""Configuration of the item-level recommender: a causal transformer over items, and a depth head over their codes."""

import math

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .checkpoint_format import FORMAT_VERSION, CheckedConfig
from .configuration_levels import NUM_SPECIAL_TOKENS, CodeLevels


@strict
class ItemLevelConfig(CodeLevels, CheckedConfig, PreTrainedConfig):
    r"""
    Configuration of [`ItemLevelForCausalLM`].

    The vocabulary holds the special tokens followed by the codes: pad 0, end-of-sequence 1, code `c` of level `l` is
    token `level_offsets[l] + c`. Levels may share tokens, as those of UTGRec's item tokenizer do; each has embeddings
    of its own here all the same, since an item is read as their mean, which knows no order.

    Args:
        num_levels (`int`, *optional*):
            Semantic ID length L, the number of codes of an item. 3 by default, or the length of `level_sizes`.
        codebook_size (`int`, *optional*, defaults to 256):
            Number of codes of every level. Not used when `level_sizes` is given.
        level_sizes (`list[int]`, *optional*):
            Number of codes of each level, where they differ. Always a list of `num_levels` integers once the
            configuration is built.
        level_offsets (`list[int]`, *optional*):
            First token id of each level, where it is not the first after the level before.
        vocab_size (`int`, *optional*):
            Derived from the sizes above. May be given (a saved configuration does), must then agree.
        max_history (`int`, *optional*, defaults to 20):
            Number of most recent items of a user that the recommender reads; one position for each.
        hidden_size (`int`, *optional*, defaults to 128): Width d of states and embeddings.
        num_layers (`int`, *optional*, defaults to 2): Blocks over the history.
        num_heads (`int`, *optional*, defaults to 2): Attention heads; they divide `hidden_size`.
        intermediate_size (`int`, *optional*): Width of the feed-forward layers, 4 d by default.
        depth_layers (`int`, *optional*, defaults to 1): Residual layers of the depth head.
        hidden_dropout (`float`, *optional*, defaults to 0.2): Dropout of the input and of each layer's output.
        attention_dropout (`float`, *optional*, defaults to 0.2): Dropout of attention weights.
        content_size (`int`, *optional*):
            Width of the items' content vectors, such as text embeddings. By default items are read by their codes
            alone.
        num_item_residuals (`int`, *optional*, defaults to 0):
            Items with an embedding of their own beside their codes and content: those of the training catalogue, or
            none. Items added later have a zero in its place.
        residual_dropout (`float`, *optional*, defaults to 0.5):
            Share of the histories' items that are read without their own embedding in training.
        node_content (`bool`, *optional*):
            Whether a code is predicted by the content of what it leads to: its vector is that of the mean content of
            the items below, by the projection that reads content, on a scale learnt for each level. So every item that
            is added has vectors at once. By default with `content_size`, unless `normalize_over` is `"vocabulary"`.
        read_codes (`bool`, *optional*):
            Whether items are read by embeddings of their codes. By default where `node_content` is off or embeddings
            are tied.
        write_codes (`bool`, *optional*):
            Whether codes are predicted by embeddings, the same after every prefix; with `node_content` the two add up.
            By default as `read_codes`. The depth head reads embeddings of the codes so far either way.
        node_counts (`bool`, *optional*, defaults to `False`):
            With `node_content`: whether a code's logit begins with the logarithm of the number of items below. The
            probability of an item is then what its own content makes it, level by level as in one softmax over all
            items; without, an item among many of its prefix begins as a less likely one.
        tie_word_embeddings (`bool`, *optional*, defaults to `False`):
            One matrix for codes read and predicted. With two the deeper levels learn faster.
        horizon (`int`, *optional*, defaults to 10):
            The target of a position in training: drawn from so many items that follow, with probability in proportion
            to 1 / distance; 1: the next item. A matter of the training batches, kept here for the record.
        normalize_over (`str`, *optional*):
            What a code's probability is normalised over, in training and in recommending: the `"vocabulary"` of its
            level, or the codes that `"items"` of the catalogue have after the same prefix. By default items with
            `node_content`, for which there is no other way, else the vocabulary.
        item_tokenizer_fingerprint (`str`, *optional*):
            Fingerprint of the item tokenizer whose semantic IDs the recommender was trained on.
        content_encoder_fingerprint (`str`, *optional*):
            Fingerprint of the encoder whose content vectors it was trained on, if it is known.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of initial embeddings and of what projects content. Other layers begin uniform within
            1/√inputs, torch's own.
        format_version (`int`, *optional*):
            Of the checkpoint, see `checkpoint_format`.

    Raises:
        ValueError: if `num_levels`, `level_sizes` and `vocab_size` contradict each other, a size or a rate is out of
            range, semantic IDs are too long for items with embeddings of their own, or nothing is left to read items
            or to predict codes by.

    Example:

    ```python
    >>> from modeling_utgrec import ItemLevelConfig
    >>> config = ItemLevelConfig(level_sizes=[8, 8, 4])
    >>> config.level_offsets, config.vocab_size
    ([2, 10, 18], 22)
    ```
    """

    model_type = "item_level"
    attribute_map = {"num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"}

    num_levels: int | None = None
    codebook_size: int = 256
    level_sizes: list[int] | None = None
    level_offsets: list[int] | None = None  # type: ignore[assignment]  # of other recommenders it follows
    vocab_size: int | None = None
    max_history: int = 20
    hidden_size: int = 128
    num_layers: int = 2
    num_heads: int = 2
    intermediate_size: int | None = None
    depth_layers: int = 1
    hidden_dropout: float | int = 0.2
    attention_dropout: float | int = 0.2
    content_size: int | None = None
    num_item_residuals: int = 0
    residual_dropout: float | int = 0.5
    node_content: bool | None = None
    read_codes: bool | None = None
    write_codes: bool | None = None
    node_counts: bool = False
    tie_word_embeddings: bool = False
    horizon: int = 10
    normalize_over: str | None = None
    item_tokenizer_fingerprint: str | None = None
    content_encoder_fingerprint: str | None = None
    initializer_range: float | int = 0.02
    pad_token_id: int | None = 0
    format_version: int = FORMAT_VERSION

    def __post_init__(self, **kwargs):
        if self.num_levels is None and self.level_sizes is None and self.level_offsets is not None:
            self.num_levels = len(self.level_offsets)
        self.derive_levels(3)
        if self.level_offsets is None:
            self.level_offsets = self.row_offsets
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        if self.node_content is None:
            self.node_content = self.content_size is not None and self.normalize_over != "vocabulary"
        if self.normalize_over is None:
            self.normalize_over = "items" if self.node_content else "vocabulary"
        if self.read_codes is None:
            self.read_codes = not self.node_content or self.tie_word_embeddings
        if self.write_codes is None:
            self.write_codes = not self.node_content or self.tie_word_embeddings
        super().__post_init__(**kwargs)

    @classmethod
    def tiny(cls, **arguments) -> "ItemLevelConfig":
        """For tests and a first look on a CPU; `arguments` are further ones, or other values."""
        return cls(**{"hidden_size": 32, "codebook_size": 16, **arguments})

    @property
    def row_offsets(self) -> list[int]:
        """First row of each level in the tables of embeddings, where no two levels share any."""
        assert self.num_levels is not None and self.level_sizes is not None  # __post_init__ has set them
        return [NUM_SPECIAL_TOKENS + sum(self.level_sizes[:level]) for level in range(self.num_levels)]

    @property
    def num_rows(self) -> int:
        """Rows of the tables of embeddings."""
        assert self.level_sizes is not None
        return NUM_SPECIAL_TOKENS + sum(self.level_sizes)

    def number_of_tokens(self) -> int:
        """What `vocab_size` must be."""
        assert self.level_sizes is not None
        if not self.level_offsets:
            return self.num_rows
        return max(first + size for first, size in zip(self.level_offsets, self.level_sizes, strict=False))

    def validate_levels(self):
        """Part of `@strict`-powered validation. Checks that the description of the semantic IDs is coherent."""
        self.check_levels()
        self.check_vocabulary()
        if len(self.level_offsets) != len(self.level_sizes):
            raise ValueError(
                f"`level_sizes` {self.level_sizes} and `level_offsets` {self.level_offsets} differ in length."
            )
        if self.level_offsets and min(self.level_offsets) < NUM_SPECIAL_TOKENS:
            raise ValueError(
                f"`level_offsets` {self.level_offsets} must leave the first {NUM_SPECIAL_TOKENS} tokens alone, which "
                "are padding and end-of-sequence."
            )
        if self.num_item_residuals and math.prod(self.level_sizes) >= 2**63:
            raise ValueError(
                f"`num_item_residuals` needs semantic IDs that are numbers of 63 bits, `level_sizes` "
                f"{self.level_sizes} have more: leave it at 0."
            )

    def validate_inputs_and_outputs(self):
        """Part of `@strict`-powered validation. Checks that items can be read and codes be predicted."""
        if self.node_content and self.content_size is None:
            raise ValueError("`node_content` is of content vectors: set `content_size`, or leave it off.")
        if self.node_counts and not self.node_content:
            raise ValueError("`node_counts` are of nodes' content: turn `node_content` on, or leave them off.")
        if self.node_content and self.normalize_over != "items":
            raise ValueError("`node_content` is of nodes that exist: it needs `normalize_over='items'`.")
        if not self.read_codes and self.content_size is None:
            raise ValueError("Without `content_size` items are read by their codes: leave `read_codes` on.")
        if not self.write_codes and not self.node_content:
            raise ValueError("Without `node_content` codes are predicted by embeddings: leave `write_codes` on.")
        if self.tie_word_embeddings and not (self.read_codes and self.write_codes):
            raise ValueError("`tie_word_embeddings` is of codes that are read and predicted: turn both on.")

    def validate_sizes(self):
        """Part of `@strict`-powered validation. Checks sizes and rates."""
        sizes = ("hidden_size", "num_layers", "num_heads", "intermediate_size", "depth_layers")
        for name in (*sizes, "horizon", *(["content_size"] if self.content_size is not None else [])):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.num_item_residuals < 0:
            raise ValueError(f"`num_item_residuals` must be at least 0, got {self.num_item_residuals}.")
        if self.hidden_size % self.num_heads:
            raise ValueError(f"`num_heads` {self.num_heads} does not divide `hidden_size` {self.hidden_size}.")
        for name in ("hidden_dropout", "attention_dropout", "residual_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be in [0, 1), got {getattr(self, name)}.")


__all__ = ["ItemLevelConfig"]
