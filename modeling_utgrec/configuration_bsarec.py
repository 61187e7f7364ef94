"""Configuration of BSARec."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_sequential import SequentialConfig


@strict
class BSARecConfig(SequentialConfig):
    r"""
    Configuration of [`BSARecForNextItem`]: [`SequentialConfig`] with the authors' sizes for Amazon Beauty (Shin et al.
    2024: 64 wide, two blocks, one head, dropout 0.5, the last 50 items).

    `max_history` is also the length of the Fourier transform: a trained model keeps it.

    Args:
        alpha (`float`, *optional*, defaults to 0.7):
            Weight of the frequency layer beside self-attention. The paper searches 0.1, 0.3, 0.5, 0.7 and 0.9.
        num_low_frequencies (`int`, *optional*, defaults to 5):
            Components of the Fourier transform that count as low frequency, the paper's c: the mean and
            `num_low_frequencies // 2` frequencies with both signs. The paper searches 1, 3, 5, 7 and 9.
        padding (`str`, *optional*, defaults to `"positions"`):
            What the columns of the window without item are, which the frequency layers mix with the others.
            `"positions"`: the embeddings of their positions, and they attend to every column, as in the authors'
            program. `"zeros"`: zeros, and they attend to themselves, as in checkpoints that say nothing of it.

    Raises:
        ValueError: `alpha` outside of [0, 1], or more low frequencies than `max_history`.

    Example:

    ```python
    >>> from modeling_utgrec import BSARecConfig, BSARecForNextItem
    >>> model = BSARecForNextItem(BSARecConfig(num_items=1000))
    ```
    """

    model_type = "bsarec"

    num_heads: int = 1
    alpha: float | int = 0.7
    num_low_frequencies: int = 5
    padding: Literal["positions", "zeros"] = "positions"

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs):
        """As [`~transformers.PreTrainedConfig.from_dict`]; earlier checkpoints have `padding` `"zeros"`."""
        return super().from_dict({"padding": "zeros", **config_dict}, **kwargs)

    def validate_frequencies(self):
        """Part of `@strict`-powered validation. Checks what the frequency layer needs."""
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"`alpha` must be in [0, 1], got {self.alpha}.")
        if not 1 <= self.num_low_frequencies <= self.max_history:
            raise ValueError(
                f"`num_low_frequencies` must be in 1..{self.max_history} (`max_history`), got "
                f"{self.num_low_frequencies}."
            )


__all__ = ["BSARecConfig"]
