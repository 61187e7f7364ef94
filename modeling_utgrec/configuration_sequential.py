"""Configuration that all sequential recommenders share: models that score items by their ids' learned embeddings."""

from typing import ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .checkpoint_format import FORMAT_VERSION, CheckedConfig

PAD_TOKEN_ID = 0  # item row r is token r + 1


@strict
class SequentialConfig(CheckedConfig, PreTrainedConfig):
    r"""
    Base of the configurations of [`SequentialForNextItem`] models.

    The vocabulary is the catalogue: padding is token 0, the item at row `r` is token `r + 1`.

    Args:
        num_items (`int`, *optional*, defaults to 1): items in the catalogue.
        hidden_size (`int`, *optional*, defaults to 64): width of states and item embeddings.
        num_layers (`int`, *optional*, defaults to 2): blocks.
        num_heads (`int`, *optional*, defaults to 2): attention heads; they divide `hidden_size`.
        hidden_dropout (`float`, *optional*, defaults to 0.5): dropout of embeddings and of each block's outputs.
        attention_dropout (`float`, *optional*, defaults to 0.5): dropout of attention weights.
        max_history (`int`, *optional*, defaults to 50): longest history the model reads, in items.
        initializer_range (`float`, *optional*, defaults to 0.02): standard deviation of initial weights.
        loss (`str`, *optional*, defaults to `"ce"`):
            `"ce"`: cross-entropy over all items. `"bce"`: binary cross-entropy with one sampled negative for each
            position (Kang & McAuley 2018, Eq. 8). `"sampled"`: softmax over the target and `num_negatives` items that
            all positions of a batch share, drawn uniformly with replacement; a negative that is the position's target
            does not count for it.
        num_negatives (`int`, *optional*, defaults to 512): sampled items of a batch, of the loss `"sampled"` alone.
        log_q_correction (`bool`, *optional*, defaults to `True`):
            Whether `"sampled"` takes log(num_negatives · q) from a negative's score, q its probability of being drawn
            (Yi et al. 2019), here 1 / num_items: the softmax over all items is then what is estimated. Without it, as
            HSTU's authors have it, negatives weigh less by num_negatives / num_items.
        item_ids_fingerprint (`str`, *optional*):
            Digest of the ids of the catalogue's items in the order of their rows, which the trainer sets.
        format_version (`int`, *optional*): of the checkpoint, see `checkpoint_format`.

    Raises:
        ValueError: a size below 1, heads that do not divide the width, or a dropout outside of [0, 1).
    """

    least_items: ClassVar[int] = 1

    attribute_map = {"num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"}

    num_items: int = 1
    hidden_size: int = 64
    num_layers: int = 2
    num_heads: int = 2
    hidden_dropout: float | int = 0.5
    attention_dropout: float | int = 0.5
    max_history: int = 50
    initializer_range: float | int = 0.02
    loss: Literal["ce", "bce", "sampled"] = "ce"
    num_negatives: int = 512
    log_q_correction: bool = True
    pad_token_id: int = PAD_TOKEN_ID
    item_ids_fingerprint: str | None = None
    format_version: int = FORMAT_VERSION

    @property
    def vocab_size(self) -> int:
        """Number of tokens: padding and the items."""
        return self.num_items + 1

    def validate_sizes(self):
        """Part of `@strict`-powered validation. Checks sizes and rates."""
        if self.num_items < self.least_items:
            raise ValueError(f"`num_items` must be at least {self.least_items}, got {self.num_items}.")
        for name in ("hidden_size", "num_layers", "num_heads", "max_history", "num_negatives"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.hidden_size % self.num_heads:
            raise ValueError(f"`num_heads` {self.num_heads} does not divide `hidden_size` {self.hidden_size}.")
        for name in ("hidden_dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be in [0, 1), got {getattr(self, name)}.")
        if self.pad_token_id != PAD_TOKEN_ID:
            raise ValueError(f"`pad_token_id` is {PAD_TOKEN_ID} in every catalogue, got {self.pad_token_id}.")


__all__ = ["SequentialConfig"]
