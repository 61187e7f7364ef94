"""Configuration of BSARec."""

from huggingface_hub.dataclasses import strict

from .configuration_window import WindowConfig


@strict
class BSARecConfig(WindowConfig):
    r"""
    Configuration of [`BSARecForNextItem`]: [`WindowConfig`] with the authors' sizes for Amazon Beauty (Shin et al.
    2024: 64 wide, two blocks, one head, dropout 0.5, the last 50 items).

    Args:
        alpha (`float`, *optional*, defaults to 0.7):
            Weight of the frequency layer beside self-attention. The paper searches 0.1, 0.3, 0.5, 0.7 and 0.9.
        num_low_frequencies (`int`, *optional*, defaults to 5):
            Components of the Fourier transform that count as low frequency, the paper's c: the mean and
            `num_low_frequencies // 2` frequencies with both signs. The paper searches 1, 3, 5, 7 and 9.

    Raises:
        ValueError: `alpha` outside of [0, 1], or more low frequencies than `max_history`.

    Example:

    ```python
    >>> from modeling_utgrec import BSARecConfig, BSARecForNextItem
    >>> model = BSARecForNextItem(BSARecConfig(num_items=1000))
    ```
    """

    model_type = "bsarec"

    alpha: float | int = 0.7
    num_low_frequencies: int = 5

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
