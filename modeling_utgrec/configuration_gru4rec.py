"""Configuration of GRU4Rec."""

from huggingface_hub.dataclasses import strict

from .configuration_sequential import SequentialConfig


@strict
class GRU4RecConfig(SequentialConfig):
    r"""
    Configuration of [`GRU4RecForNextItem`]: [`SequentialConfig`] (`num_heads` and `attention_dropout` have no meaning
    here) with one layer, as the paper's best (Hidasi et al. 2016, section 4).

    Args:
        state_size (`int`, *optional*, defaults to 128): width of the recurrent states, at least 1.
    """

    model_type = "gru4rec"

    num_layers: int = 1
    num_heads: int = 1
    hidden_dropout: float | int = 0.3
    state_size: int = 128

    def validate_state_size(self):
        """Part of `@strict`-powered validation."""
        if self.state_size < 1:
            raise ValueError(f"`state_size` must be at least 1, got {self.state_size}.")


__all__ = ["GRU4RecConfig"]
