"""Configuration of S3-Rec."""

from huggingface_hub.dataclasses import strict

from .configuration_post_norm import PostNormConfig

WEIGHTS = ("attribute_weight", "item_weight", "masked_attribute_weight", "segment_weight")


@strict
class S3RecConfig(PostNormConfig):
    r"""
    Configuration of [`S3RecForNextItem`] and [`S3RecForPreTraining`]: [`PostNormConfig`] with the sizes of RecBole (64
    wide, two blocks of two heads, dropout 0.5). The vocabulary ends with the mask token.

    The paper's fine-tuning has `loss="bce"`; recent tables have the default, cross-entropy over all items.

    Args:
        num_attributes (`int`, *optional*, defaults to 1): attributes of all items, as categories and brands.
        attributes_per_item (`int`, *optional*, defaults to 1): most attributes that an item has.
        mask_ratio (`float`, *optional*, defaults to 0.2): share of a sequence's items that pre-training masks.
        attribute_weight (`float`, *optional*, defaults to 0.2): of associated attribute prediction (AAP).
        item_weight (`float`, *optional*, defaults to 1.0): of masked item prediction (MIP).
        masked_attribute_weight (`float`, *optional*, defaults to 1.0): of masked attribute prediction (MAP).
        segment_weight (`float`, *optional*, defaults to 0.5): of segment prediction (SP).
        two_sigmoids (`bool`, *optional*, defaults to `False`):
            Whether scores of MIP and SP pass a sigmoid before they are compared by another one, as in the authors'
            program: these losses then lie between 0.31 and 1.31.
        items_fingerprint (`str`, *optional*): digest of what the items have.

    Raises:
        ValueError: a size below 1, `mask_ratio` outside of [0, 1], or a negative weight.

    Example:

    ```python
    >>> from modeling_utgrec import S3RecConfig, S3RecForNextItem
    >>> model = S3RecForNextItem(S3RecConfig(num_items=1000))
    ```
    """

    model_type = "s3rec"

    num_attributes: int = 1
    attributes_per_item: int = 1
    mask_ratio: float | int = 0.2
    attribute_weight: float | int = 0.2
    item_weight: float | int = 1.0
    masked_attribute_weight: float | int = 1.0
    segment_weight: float | int = 0.5
    two_sigmoids: bool = False
    items_fingerprint: str | None = None

    @property
    def mask_token_id(self) -> int:
        """The token after the items."""
        return self.num_items + 1

    @property
    def vocab_size(self) -> int:
        """Number of tokens: padding, the items and the mask."""
        return self.num_items + 2

    def validate_pretraining(self):
        """Part of `@strict`-powered validation."""
        for name in ("num_attributes", "attributes_per_item"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if not 0 <= self.mask_ratio <= 1:
            raise ValueError(f"`mask_ratio` must be in [0, 1], got {self.mask_ratio}.")
        for name in WEIGHTS:
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}.")


__all__ = ["S3RecConfig"]
