"""Configuration of FMLP-Rec."""

from huggingface_hub.dataclasses import strict

from .configuration_window import WindowConfig


@strict
class FMLPRecConfig(WindowConfig):
    r"""
    Configuration of [`FMLPRecForNextItem`]: [`WindowConfig`] with the paper's sizes (Zhou et al. 2022:
    64 wide, two blocks, the last 50 items).

    There is no attention: `num_heads` and `attention_dropout` have no effect.

    Example:

    ```python
    >>> from modeling_utgrec import FMLPRecConfig, FMLPRecForNextItem
    >>> model = FMLPRecForNextItem(FMLPRecConfig(num_items=1000))
    ```
    """

    model_type = "fmlprec"


__all__ = ["FMLPRecConfig"]
