"""Configuration of SASRec."""

from huggingface_hub.dataclasses import strict

from .configuration_sequential import SequentialConfig


@strict
class SASRecConfig(SequentialConfig):
    r"""
    Configuration of [`SASRecForNextItem`]: [`SequentialConfig`] with the paper's sizes for sparse data (Kang & McAuley
    2018, section IV-D: two blocks, one head, dropout 0.5, the last 50 items).

    The paper's loss is `loss="bce"`. The default, cross-entropy over all items, is the stronger variant.

    Example:

    ```python
    >>> from modeling_utgrec import SASRecConfig, SASRecForNextItem
    >>> model = SASRecForNextItem(SASRecConfig(num_items=1000))
    ```
    """

    model_type = "sasrec"

    num_heads: int = 1


__all__ = ["SASRecConfig"]
