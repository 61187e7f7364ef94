"""Configuration of the baselines whose items are made from content: UniSRec, VQ-Rec, MISSRec."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from .configuration_post_norm import PostNormConfig


@strict
class ContentConfig(PostNormConfig):
    r"""
    [`PostNormConfig`] of models that compare states and items by their cosine over a temperature, and whose items are
    made from content. Without items (`num_items` 0) a model is what pre-training on several domains leaves: it has
    nothing of any catalogue, and is given one by `set_items` of a model of that many items.

    Args:
        content_size (`int`, *optional*, defaults to 768): width of an item's content embedding.
        temperature (`float`, *optional*, defaults to 0.07): divides the cosines.
        content_encoder (`str`, *optional*): name of the encoder that embedded the content.
        content_fingerprint (`str`, *optional*):
            Digest of that encoder and its settings. Domains share a pre-trained model only if they share this.
        items_fingerprint (`str`, *optional*): digest of the catalogue's content.

    Raises:
        ValueError: `content_size` below 1, or `temperature` not positive.
    """

    least_items: ClassVar[int] = 0

    hidden_size: int = 300
    content_size: int = 768
    temperature: float | int = 0.07
    content_encoder: str | None = None
    content_fingerprint: str | None = None
    items_fingerprint: str | None = None

    def validate_content(self):
        """Part of `@strict`-powered validation."""
        if self.content_size < 1:
            raise ValueError(f"`content_size` must be at least 1, got {self.content_size}.")
        if not self.temperature > 0:
            raise ValueError(f"`temperature` must be positive, got {self.temperature}.")


__all__ = ["ContentConfig"]
