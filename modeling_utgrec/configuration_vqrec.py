"""Configuration of VQ-Rec."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_content import ContentConfig


@strict
class VQRecConfig(ContentConfig):
    r"""
    Configuration of [`VQRecForNextItem`] and [`VQRecForPreTraining`]: [`ContentConfig`] with the authors' sizes (Hou
    et al. 2023, section 3.1.4, and RUCAIBox/VQ-Rec: 32 codes of 256, 300 wide, two blocks of two heads, dropout 0.5).

    Content reaches the network by its codes alone; `content_size` is the width of what is quantized.

    Args:
        num_groups (`int`, *optional*, defaults to 32): codes of an item.
        codebook_size (`int`, *optional*, defaults to 256): values that a code has.
        replacement_rate (`float`, *optional*, defaults to 0.75):
            ρ: a code of a semi-synthetic negative is a random one with this probability.
        duplicates (`str`, *optional*, defaults to `"excluded"`):
            What other rows with the same target are in pre-training: `"excluded"`: no negatives (the paper). `"zero"`:
            negatives of cosine 0, as in the authors' program.

    Raises:
        ValueError: a size below 1, or `replacement_rate` outside of [0, 1].

    Example:

    ```python
    >>> from modeling_utgrec import VQRecConfig, VQRecForNextItem
    >>> model = VQRecForNextItem(VQRecConfig(num_items=1000, content_size=384))
    ```
    """

    model_type = "vqrec"

    num_groups: int = 32
    codebook_size: int = 256
    replacement_rate: float | int = 0.75
    duplicates: Literal["excluded", "zero"] = "excluded"

    def validate_codes(self):
        """Part of `@strict`-powered validation."""
        for name in ("num_groups", "codebook_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if not 0 <= self.replacement_rate <= 1:
            raise ValueError(f"`replacement_rate` must be in [0, 1], got {self.replacement_rate}.")


__all__ = ["VQRecConfig"]
