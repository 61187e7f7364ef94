"""Configuration of BERT4Rec."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_sequential import SequentialConfig


@strict
class BERT4RecConfig(SequentialConfig):
    r"""
    Configuration of [`BERT4RecForNextItem`]: [`SequentialConfig`] with the paper's sizes (Sun et al. 2019, section
    4.4) and the authors' dropout for MovieLens. The vocabulary ends with the mask token.

    Args:
        mask_ratio (`float`, *optional*, defaults to 0.2):
            Share of a training window's items that are masked. Short histories want more: the authors have 0.6 for
            Beauty, 0.4 for Steam and 0.2 for MovieLens 1M and 20M.
        last_item_ratio (`float`, *optional*, defaults to 0.1):
            Share of training windows in which the last item alone is masked, as it is when the model recommends
            (section 3.6; one window in eleven in the authors' program).
    """

    model_type = "bert4rec"

    hidden_dropout: float | int = 0.2
    attention_dropout: float | int = 0.2
    loss: Literal["ce"] = "ce"
    mask_ratio: float | int = 0.2
    last_item_ratio: float | int = 0.1

    @property
    def mask_token_id(self) -> int:
        """The token after the items."""
        return self.num_items + 1

    @property
    def vocab_size(self) -> int:
        """Number of tokens: padding, the items and the mask."""
        return self.num_items + 2

    def validate_ratios(self):
        """Part of `@strict`-powered validation."""
        for name in ("mask_ratio", "last_item_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be in [0, 1], got {getattr(self, name)}.")


__all__ = ["BERT4RecConfig"]
