"""Configuration of UniSRec."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_content import ContentConfig


@strict
class UniSRecConfig(ContentConfig):
    r"""
    Configuration of [`UniSRecForNextItem`] and [`UniSRecForPreTraining`]: [`ContentConfig`] with the authors' sizes
    (Hou et al. 2022, section 3.1.4, and RUCAIBox/UniSRec: 300 wide, two blocks of two heads, dropout 0.5).

    Args:
        num_experts (`int`, *optional*, defaults to 8): whitening experts of the adaptor.
        content_dropout (`float`, *optional*, defaults to 0.2): dropout of the content that an expert reads.
        transductive (`bool`, *optional*, defaults to `False`):
            Whether items have learned embeddings of their ids beside what is made from content. Then an item without
            interactions is scored by its content and an untrained vector.
        augmentation_weight (`float`, *optional*, defaults to 0.001): λ of the sequence-sequence contrastive task.
        item_drop_share (`float`, *optional*, defaults to 0.9):
            Share of pre-training batches whose sequences lose items; in the others items lose words.
        drop_ratio (`float`, *optional*, defaults to 0.2): share of a sequence's items that are dropped or lose words.
        duplicates (`str`, *optional*, defaults to `"excluded"`):
            What other rows with the same target are: `"excluded"`: no negatives (the paper). `"zero"`: negatives of
            cosine 0, as in the authors' program.

    Raises:
        ValueError: `num_experts` below 1, a negative `augmentation_weight`, or a share outside of [0, 1] (a dropout
            outside of [0, 1)).

    Example:

    ```python
    >>> from modeling_utgrec import UniSRecConfig, UniSRecForNextItem
    >>> model = UniSRecForNextItem(UniSRecConfig(num_items=1000, content_size=384))
    >>> model = model.set_items(content=torch.randn(1000, 384))
    ```
    """

    model_type = "unisrec"

    num_experts: int = 8
    content_dropout: float | int = 0.2
    transductive: bool = False
    augmentation_weight: float | int = 1e-3
    item_drop_share: float | int = 0.9
    drop_ratio: float | int = 0.2
    duplicates: Literal["excluded", "zero"] = "excluded"

    def validate_adaptor(self):
        """Part of `@strict`-powered validation."""
        if self.num_experts < 1:
            raise ValueError(f"`num_experts` must be at least 1, got {self.num_experts}.")
        if not 0 <= self.content_dropout < 1:
            raise ValueError(f"`content_dropout` must be in [0, 1), got {self.content_dropout}.")
        for name in ("item_drop_share", "drop_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be in [0, 1], got {getattr(self, name)}.")
        if not self.augmentation_weight >= 0:
            raise ValueError(f"`augmentation_weight` must not be negative, got {self.augmentation_weight}.")


__all__ = ["UniSRecConfig"]
