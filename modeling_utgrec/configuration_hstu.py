"""Configuration of HSTU."""

from huggingface_hub.dataclasses import strict

from .configuration_sequential import SequentialConfig


@strict
class HSTUConfig(SequentialConfig):
    r"""
    Configuration of [`HSTUForNextItem`]: [`SequentialConfig`] with the authors' sizes for Amazon books (Zhai et al.
    2024: 64 wide, four blocks of four heads, dropout 0.5, the last 50 items).

    Attention weights are not dropped: `attention_dropout` has no effect.

    Args:
        head_size (`int`, *optional*): width of a head's queries, keys, values and gates; by default
            `hidden_size // num_heads`.
        embedding_dropout (`float`, *optional*): dropout of the embeddings that are read; by default `hidden_dropout`.
        temperature (`float`, *optional*, defaults to 0.05):
            Divides the cosine of state and item embedding, which is the score.

    Raises:
        ValueError: `temperature` is not positive, `head_size` below 1 or `embedding_dropout` outside of [0, 1).

    Example:

    ```python
    >>> from modeling_utgrec import HSTUConfig, HSTUForNextItem
    >>> model = HSTUForNextItem(HSTUConfig(num_items=1000))
    ```
    """

    model_type = "hstu"

    num_layers: int = 4
    num_heads: int = 4
    head_size: int | None = None
    embedding_dropout: float | int | None = None
    temperature: float | int = 0.05

    def validate_temperature(self):
        """Part of `@strict`-powered validation."""
        if not self.temperature > 0:
            raise ValueError(f"`temperature` must be positive, got {self.temperature}.")

    def validate_blocks(self):
        """Part of `@strict`-powered validation."""
        if self.head_size is not None and self.head_size < 1:
            raise ValueError(f"`head_size` must be at least 1, got {self.head_size}.")
        if self.embedding_dropout is not None and not 0 <= self.embedding_dropout < 1:
            raise ValueError(f"`embedding_dropout` must be in [0, 1), got {self.embedding_dropout}.")


__all__ = ["HSTUConfig"]
