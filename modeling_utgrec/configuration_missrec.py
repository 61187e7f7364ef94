"""Configuration of MISSRec."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_content import ContentConfig


@strict
class MISSRecConfig(ContentConfig):
    r"""
    Configuration of [`MISSRecForNextItem`] and [`MISSRecForPreTraining`]: [`ContentConfig`] with the authors' sizes
    (Wang et al. 2023 and gimpong/MM23-MISSRec: 300 wide, one layer for interests and one for items, four heads,
    dropout 0.5).

    Args:
        image_size (`int`, *optional*): width of an image's embedding; None: items are their texts alone.
        image_encoder (`str`, *optional*): name of the encoder that embedded the images.
        image_fingerprint (`str`, *optional*): digest of that encoder and its settings.
        num_interests (`int`, *optional*, defaults to 1): clusters of all items' adapted texts and images.
        transductive (`bool`, *optional*, defaults to `False`):
            Whether items have learned embeddings of their ids beside their content.
        fusion (`str`, *optional*, defaults to `"dynamic"`):
            How an item's text and image score together: `"dynamic"`: weighed by a softmax of their cosines times a
            trained number, φ. `"dynamic_by_item"`: the same with a number for each item, its offset to the common one;
            a pre-trained model hands on the common one. `"mean"`: alike.
        history_fusion (`str`, *optional*, defaults to `"add"`):
            How a history's text and image are read: `"add"`: their sum is an item's token. `"stack"`: each is a token
            of its own, at the item's position, if it is there, and the state of an item is that of its text, or of
            its image where it has no text.
        interest_weight (`float`, *optional*, defaults to 0.0001): of the regularization of interests.
        interest_regularization (`str`, *optional*, defaults to `"cosine"`):
            `"cosine"`: mean squared cosine of different encoded interests of a user. `"pooled"`: the authors'
            program's, the squared norm of the sum of a user's encoded interests times their share of the longest set,
            by the width, summed over the users.
        augmentation_weight (`float`, *optional*, defaults to 0.001): of the sequence-sequence contrastive task.
        item_drop_share (`float`, *optional*, defaults to 0.9):
            Share of pre-training batches whose sequences lose items; in the others items lose words.
        drop_ratio (`float`, *optional*, defaults to 0.2): share of a sequence's items that are dropped or lose words.
        duplicates (`str`, *optional*, defaults to `"excluded"`):
            Whether other rows with the same target are negatives in pre-training: `"excluded"`: they are not.
            `"kept"`: they are, as in the authors' program.

    Raises:
        ValueError: a size below 1, fewer than two layers, a negative weight, or a share outside of [0, 1].

    Example:

    ```python
    >>> from modeling_utgrec import MISSRecConfig, MISSRecForNextItem
    >>> model = MISSRecForNextItem(MISSRecConfig(num_items=1000, content_size=384, num_interests=100))
    ```
    """

    model_type = "missrec"

    num_heads: int = 4
    loss: Literal["ce"] = "ce"
    image_size: int | None = None
    image_encoder: str | None = None
    image_fingerprint: str | None = None
    num_interests: int = 1
    transductive: bool = False
    fusion: Literal["dynamic", "dynamic_by_item", "mean"] = "dynamic"
    history_fusion: Literal["add", "stack"] = "add"
    interest_weight: float | int = 1e-4
    interest_regularization: Literal["cosine", "pooled"] = "cosine"
    augmentation_weight: float | int = 1e-3
    item_drop_share: float | int = 0.9
    drop_ratio: float | int = 0.2
    duplicates: Literal["excluded", "kept"] = "excluded"

    def validate_interests(self):
        """Part of `@strict`-powered validation."""
        if min(self.num_interests, self.image_size or 1) < 1 or self.image_size == 0:
            raise ValueError(
                f"`num_interests` and `image_size` must be at least 1, got {self.num_interests} and {self.image_size}."
            )
        if self.num_layers < 2:
            raise ValueError(f"`num_layers` are of interests and of items, two at least, got {self.num_layers}.")
        for name in ("interest_weight", "augmentation_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}.")
        for name in ("item_drop_share", "drop_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be in [0, 1], got {getattr(self, name)}.")


__all__ = ["MISSRecConfig"]
