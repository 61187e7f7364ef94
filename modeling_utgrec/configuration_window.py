"""Configuration of the recommenders whose Fourier transforms mix all columns of a window: FMLP-Rec, BSARec."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_sequential import SequentialConfig


@strict
class WindowConfig(SequentialConfig):
    r"""
    [`SequentialConfig`] of models that read every history as a window of `max_history` columns, the length of the
    Fourier transform: a trained model keeps it.

    Args:
        padding (`str`, *optional*, defaults to `"positions"`):
            What the columns of the window without item are, which are mixed with the others. `"positions"`: the
            embeddings of their positions, and where there is attention they attend to every column, as in the authors'
            programs. `"zeros"`: zeros, and they attend to themselves, as in checkpoints that say nothing of it.
    """

    num_heads: int = 1
    padding: Literal["positions", "zeros"] = "positions"

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs):
        """As [`~transformers.PreTrainedConfig.from_dict`]; earlier checkpoints have `padding` `"zeros"`."""
        return super().from_dict({"padding": "zeros", **config_dict}, **kwargs)


__all__ = ["WindowConfig"]
