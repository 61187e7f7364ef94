"""Configuration of FDSA."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_post_norm import PostNormConfig


@strict
class FDSAConfig(PostNormConfig):
    r"""
    Configuration of [`FDSAForNextItem`]: [`PostNormConfig`] with the sizes of RecBole (64 wide, two blocks of two
    heads, dropout 0.5).

    The paper's loss is `loss="bce"` (Zhang et al. 2019, Eq. 11); recent tables have the default, cross-entropy over
    all items.

    Args:
        features (`str`, *optional*, defaults to `"text"`):
            What the second stream reads of an item: `"text"`: an adapted embedding of its text, as in later tables.
            `"fields"`: values of its fields, as category and brand, weighed by attention (the paper).
        content_size (`int`, *optional*, defaults to 768): width of a text's embedding.
        field_sizes (`list[int]`, *optional*): number of values of each field, for `"fields"`.
        values_per_field (`int`, *optional*, defaults to 1): most values of one field that an item has.
        content_encoder (`str`, *optional*): name of the encoder that embedded the texts.
        content_fingerprint (`str`, *optional*): digest of that encoder and its settings.
        items_fingerprint (`str`, *optional*): digest of what the items have.

    Raises:
        ValueError: a size below 1, or fields without sizes.

    Example:

    ```python
    >>> from modeling_utgrec import FDSAConfig, FDSAForNextItem
    >>> model = FDSAForNextItem(FDSAConfig(num_items=1000, content_size=384))
    ```
    """

    model_type = "fdsa"

    features: Literal["text", "fields"] = "text"
    content_size: int = 768
    field_sizes: list[int] | None = None
    values_per_field: int = 1
    content_encoder: str | None = None
    content_fingerprint: str | None = None
    items_fingerprint: str | None = None

    def validate_features(self):
        """Part of `@strict`-powered validation."""
        if min(self.content_size, self.values_per_field, *(self.field_sizes or [1])) < 1:
            raise ValueError(
                "`content_size`, `values_per_field` and all `field_sizes` must be at least 1, got "
                f"{self.content_size}, {self.values_per_field} and {self.field_sizes}."
            )
        if self.features == "fields" and not self.field_sizes:
            raise ValueError("`features` 'fields' needs `field_sizes`, the number of values of each field.")


__all__ = ["FDSAConfig"]
