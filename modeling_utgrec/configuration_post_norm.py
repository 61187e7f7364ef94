"""Configuration that the baselines on RecBole's encoder share: FDSA, S3-Rec, UniSRec, VQ-Rec, MISSRec."""

from huggingface_hub.dataclasses import strict

from .configuration_sequential import SequentialConfig


@strict
class PostNormConfig(SequentialConfig):
    r"""
    [`SequentialConfig`] of RecBole's encoder: post-norm blocks with GELU.

    Args:
        inner_size (`int`, *optional*, defaults to 256): width of the feed-forward networks.
        layer_norm_eps (`float`, *optional*, defaults to 1e-12): of the layer norms.

    Raises:
        ValueError: `inner_size` below 1, or `layer_norm_eps` not positive.
    """

    inner_size: int = 256
    layer_norm_eps: float | int = 1e-12

    def validate_blocks(self):
        """Part of `@strict`-powered validation."""
        if self.inner_size < 1:
            raise ValueError(f"`inner_size` must be at least 1, got {self.inner_size}.")
        if not self.layer_norm_eps > 0:
            raise ValueError(f"`layer_norm_eps` must be positive, got {self.layer_norm_eps}.")


__all__ = ["PostNormConfig"]
