"""Configuration of FMLP-Rec."""

from huggingface_hub.dataclasses import strict

from .configuration_sequential import SequentialConfig


@strict
class FMLPRecConfig(SequentialConfig):
    r"""
    Configuration of [`FMLPRecForNextItem`]: [`SequentialConfig`] with the paper's sizes (Zhou et al. 2022:
    64 wide, two blocks, the last 50 items).

    There is no attention: `num_heads` and `attention_dropout` have no effect. `max_history` is also the length of the
    Fourier transform, that is, the shape of the filters: a trained model keeps it.

    Example:

    ```python
    >>> from modeling_utgrec import FMLPRecConfig, FMLPRecForNextItem
    >>> model = FMLPRecForNextItem(FMLPRecConfig(num_items=1000))
    ```
    """

    model_type = "fmlprec"

    num_heads: int = 1  # so that any width is allowed


__all__ = ["FMLPRecConfig"]
