"""Configuration of HSTU."""

from huggingface_hub.dataclasses import strict

from .configuration_sequential import SequentialConfig


@strict
class HSTUConfig(SequentialConfig):
    r"""
    Configuration of [`HSTUForNextItem`]: [`SequentialConfig`] with the authors' sizes for Amazon books (Zhai et al.
    2024: 64 wide, four blocks of four heads, dropout 0.5, the last 50 items).

    Each head is `hidden_size // num_heads` wide in queries, keys, values and gates. Attention weights are not dropped:
    `attention_dropout` has no effect.

    Args:
        temperature (`float`, *optional*, defaults to 0.05):
            Divides the cosine of state and item embedding, which is the score.

    Raises:
        ValueError: `temperature` is not positive.

    Example:

    ```python
    >>> from modeling_utgrec import HSTUConfig, HSTUForNextItem
    >>> model = HSTUForNextItem(HSTUConfig(num_items=1000))
    ```
    """

    model_type = "hstu"

    num_layers: int = 4
    num_heads: int = 4
    temperature: float | int = 0.05

    def validate_temperature(self):
        """Part of `@strict`-powered validation."""
        if not self.temperature > 0:
            raise ValueError(f"`temperature` must be positive, got {self.temperature}.")


__all__ = ["HSTUConfig"]
