"""Configuration of the RecBase recommender: a Qwen3 decoder whose vocabulary is the codes of items' semantic IDs."""

from huggingface_hub.dataclasses import strict
from transformers import Qwen3Config

from .checkpoint_format import FORMAT_VERSION, CheckedConfig
from .configuration_levels import CodeLevels

PROMPT_PLACES = ("before_history", "before_item", "after_item", "after_history")


@strict
class RecBaseConfig(CodeLevels, CheckedConfig, Qwen3Config):
    r"""
    Configuration of [`RecBaseForCausalLM`]. The defaults are the sizes of the paper's base model (RecBase, Zhou et al.
    2025), see [`~RecBaseConfig.base`].

    The vocabulary holds the special tokens followed by the codes: pad 0, end-of-sequence 1, code `c` of level `l` is
    token `level_offsets[l] + c`. Every level has its own range of tokens.

    Args:
        num_levels (`int`, *optional*):
            Semantic ID length L, the number of codes of an item. 4 by default, or the length of `level_sizes`.
        codebook_size (`int`, *optional*, defaults to 1024):
            Number of codes of every level. Not used when `level_sizes` is given.
        level_sizes (`list[int]`, *optional*):
            Number of codes of each level, where they differ. Always a list of `num_levels` integers once the
            configuration is built.
        vocab_size (`int`, *optional*):
            Derived from the sizes above. May be given (a saved configuration does), must then agree.
        max_history (`int`, *optional*, defaults to 20):
            Number of most recent items of a user that the recommender reads; `max_history * num_levels` tokens.
        embedding_dropout (`float`, *optional*, defaults to 0.0):
            Dropout of the code embeddings and of the last states in training. The paper's large corpus needs none; on
            a small domain the decoder overfits within a few epochs without it.
        code_offsets (`list[int]`, *optional*):
            First token id of each level, of a decoder whose vocabulary is another one's, such as that of a language
            model with tokens for codes; `vocab_size` is then that vocabulary's.
        prompt_tokens (`dict[str, list[int]]`, *optional*):
            Tokens of such a decoder's prompt around the codes of a history, by their place: `"before_history"`,
            `"before_item"`, `"after_item"` and `"after_history"`. Recommending puts them there.
        normalize_over (`str`, *optional*, defaults to `"vocabulary"`):
            What a code's probability is normalised over, in training and in recommending: the `"vocabulary"`, as in
            the paper, or the codes that `"items"` of the catalogue have after the same prefix.
        item_tokenizer_fingerprint (`str`, *optional*):
            Fingerprint of the item tokenizer whose semantic IDs the recommender was trained on.
        format_version (`int`, *optional*):
            Of the checkpoint, see `checkpoint_format`.

    The remaining arguments are those of [`~transformers.Qwen3Config`], with other defaults.

    Raises:
        ValueError: if `num_levels`, `level_sizes` and `vocab_size` contradict each other, a history with the item that
            follows has more than `max_position_embeddings` tokens, a layer has a sliding window, or tokens of codes or
            prompt are outside of the vocabulary.

    Example:

    ```python
    >>> from modeling_utgrec import RecBaseConfig
    >>> config = RecBaseConfig()
    >>> config.level_sizes, config.level_offsets, config.vocab_size
    ([1024, 1024, 1024, 1024], [2, 1026, 2050, 3074], 4098)
    >>> RecBaseConfig.tiny(level_sizes=[8, 8, 4]).level_offsets
    [2, 10, 18]
    ```
    """

    model_type = "recbase"

    num_levels: int | None = None
    codebook_size: int = 1024
    level_sizes: list[int] | None = None
    max_history: int = 20
    embedding_dropout: float | int = 0.0
    code_offsets: list[int] | None = None
    prompt_tokens: dict[str, list[int]] | None = None
    normalize_over: str = "vocabulary"
    item_tokenizer_fingerprint: str | None = None
    format_version: int = FORMAT_VERSION

    vocab_size: int | None = None  # type: ignore[assignment]  # derived
    hidden_size: int = 1024
    intermediate_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    num_key_value_heads: int | None = None
    max_position_embeddings: int = 2048
    pad_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 1

    def __post_init__(self, **kwargs):
        self.derive_levels(4)
        super().__post_init__(**kwargs)

    @property
    def level_offsets(self) -> list[int]:
        """First token id of each level."""
        return super().level_offsets if self.code_offsets is None else self.code_offsets

    def check_vocabulary(self) -> None:
        """As that of other recommenders, unless the vocabulary is another one's: then the codes must be in it."""
        if self.code_offsets is None:
            return super().check_vocabulary()
        assert self.level_sizes is not None and self.vocab_size is not None
        if len(self.code_offsets) != len(self.level_sizes):
            raise ValueError(
                f"`level_sizes` {self.level_sizes} and `code_offsets` {self.code_offsets} differ in length."
            )
        ranges = sorted(zip(self.code_offsets, self.level_sizes, strict=True))
        ends = [0, *(first + size for first, size in ranges)]
        if any(first < end for end, (first, _) in zip(ends, ranges, strict=False)) or ends[-1] > self.vocab_size:
            raise ValueError(
                f"`code_offsets` {self.code_offsets} with `level_sizes` {self.level_sizes}: levels overlap, or have "
                f"tokens outside of the vocabulary of {self.vocab_size}."
            )
        self.check_reading()

    def prompt(self, place: str) -> list[int]:
        """Tokens of the prompt at one of `PROMPT_PLACES`."""
        return (self.prompt_tokens or {}).get(place, [])

    @classmethod
    def tiny(cls, **arguments) -> "RecBaseConfig":
        """For tests and a first look on a CPU; `arguments` are further ones, or other values."""
        sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
        return cls(**{**sizes, "head_dim": 16, **arguments})

    @classmethod
    def base(cls, **arguments) -> "RecBaseConfig":
        """The paper's base model: 0.3 billion parameters, with heads of 128 as Qwen3's."""
        return cls(**arguments)

    @classmethod
    def large(cls, **arguments) -> "RecBaseConfig":
        """The paper's large model: 1.5 billion parameters."""
        sizes = {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12}
        return cls(**{**sizes, **arguments})

    def validate_levels(self):
        """Part of `@strict`-powered validation. Checks that the description of the semantic IDs is coherent."""
        self.check_levels()
        self.check_vocabulary()
        if not 0 <= self.embedding_dropout < 1:
            raise ValueError(f"`embedding_dropout` must be at least 0 and below 1, got {self.embedding_dropout}.")
        if set(self.layer_types) - {"full_attention"}:
            raise ValueError(
                f"every layer reads the whole history: `layer_types` must be 'full_attention', got {self.layer_types}."
            )
        if unknown := set(self.prompt_tokens or {}) - set(PROMPT_PLACES):
            raise ValueError(f"`prompt_tokens` are of {', '.join(PROMPT_PLACES)}, got {sorted(unknown)}.")
        tokens = [token for place in PROMPT_PLACES for token in self.prompt(place)]
        if tokens and not 0 <= min(tokens) <= max(tokens) < self.vocab_size:
            raise ValueError(f"`prompt_tokens` {tokens} are not all in the vocabulary of {self.vocab_size}.")
        around = len(self.prompt("before_item")) + len(self.prompt("after_item"))
        needed = (self.max_history + 1) * self.num_levels + self.max_history * around
        needed += len(self.prompt("before_history")) + len(self.prompt("after_history"))
        if needed > self.max_position_embeddings:
            raise ValueError(
                f"`max_position_embeddings` is {self.max_position_embeddings}, but a history of {self.max_history} "
                f"items and the next one have {needed} tokens."
            )


__all__ = ["RecBaseConfig"]
