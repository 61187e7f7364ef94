"""FMLP-Rec: learnable filters in the frequency domain in place of self-attention (Zhou et al., "Filter-enhanced MLP is
All You Need for Sequential Recommendation", 2022)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_fmlprec import FMLPRecConfig
from .configuration_sequential import SequentialConfig
from .modeling_sequential import ItemEmbeddings, SequentialForNextItem, SequentialPreTrainedModel


def whole_window(input_ids: Tensor, attention_mask: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Pads histories on the left to `length` columns, of which a Fourier transform's frequencies are fractions: the
    states of a history then do not depend on how far its batch was padded.

    Raises:
        ValueError: more than `length` columns.
    """
    missing = length - input_ids.shape[1]
    if missing < 0:
        raise ValueError(f"The input has {input_ids.shape[1]} columns, the model reads {length}: keep the last ones.")
    return F.pad(input_ids, (missing, 0)), F.pad(attention_mask, (missing, 0))


def to_frequencies(states: Tensor) -> Tensor:
    """Fourier transform of real `(batch, length, width)` along the columns: complex `(batch, length // 2 + 1, width)`.
    In single precision at least: half precision has no transform for every length."""
    return torch.fft.rfft(states.to(torch.promote_types(states.dtype, torch.float32)), dim=1, norm="ortho")


def from_frequencies(frequencies: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """Inverse of [`to_frequencies`]."""
    return torch.fft.irfft(frequencies, n=length, dim=1, norm="ortho").to(dtype)


class FilterLayer(nn.Module):
    """Multiplies every frequency of every feature by a learned complex number, which is a circular convolution of the
    columns (Zhou et al. 2022, section 4, "Filter Layer")."""

    def __init__(self, config: FMLPRecConfig):
        super().__init__()
        self.length = config.max_history
        # real and imaginary parts: a complex parameter would not survive a change of precision
        self.filter = nn.Parameter(torch.empty(config.max_history // 2 + 1, config.hidden_size, 2))
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.norm = nn.LayerNorm(config.hidden_size)

    def filtered(self, states: Tensor) -> Tensor:
        """The circular convolution of `(batch, length, hidden_size)`, in the same shape."""
        frequencies = to_frequencies(states)
        weights = torch.view_as_complex(self.filter.to(frequencies.real.dtype))
        return from_frequencies(frequencies * weights, self.length, states.dtype)

    def forward(self, states: Tensor, last_only: bool = False) -> Tensor:
        if not last_only:
            return self.norm(states + self.dropout(self.filtered(states)))
        # the last column of a convolution is one sum: of each column times what a one in it would leave there
        first = states.new_zeros(1, *states.shape[1:])
        first[:, 0] = 1
        last = (states * self.filtered(first).flip(1)).sum(dim=1, keepdim=True)
        return self.norm(states[:, -1:] + self.dropout(last))


class FeedForward(nn.Module):
    """Two linear layers with a residual connection and layer norm (Zhou et al. 2022, section 4, "Feed-forward
    layers"), four times as wide inside and with GELU as in the authors' program."""

    def __init__(self, config: SequentialConfig):
        super().__init__()
        self.inner = nn.Linear(config.hidden_size, 4 * config.hidden_size)
        self.outer = nn.Linear(4 * config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, states: Tensor) -> Tensor:
        return self.norm(states + self.dropout(self.outer(F.gelu(self.inner(states)))))


class FMLPRecModel(SequentialPreTrainedModel):
    """
    The encoder of FMLP-Rec. A filter mixes all columns of the window, so states of earlier positions know later items:
    only the last one predicts.

    What the columns of the window that hold no item enter as is `config.padding`. After the first filter they carry
    what it moved there, like any other column.
    """

    config: FMLPRecConfig

    def __init__(self, config: FMLPRecConfig):
        super().__init__(config)
        self.embeddings = ItemEmbeddings(config, config.max_history, norm=True)
        self.blocks = nn.ModuleList(
            [nn.Sequential(FilterLayer(config), FeedForward(config)) for _ in range(config.num_layers)]
        )
        self.post_init()

    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, FilterLayer):
            init.normal_(module.filter, std=self.config.initializer_range)

    @can_return_tuple
    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, last_only: bool = False
    ) -> BaseModelOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, history)`): item tokens, padded on the left with 0.
            attention_mask (`torch.Tensor` of shape `(batch_size, history)`, *optional*): 0 on padding.
            last_only (`bool`, *optional*, defaults to `False`): make the last position's state alone.

        Raises:
            ValueError: more than `max_history` columns.
        """
        history = input_ids.shape[1]
        attention_mask = self.item_mask(input_ids, attention_mask)
        input_ids, attention_mask = whole_window(input_ids, attention_mask, self.config.max_history)
        present = torch.ones_like(attention_mask) if self.config.padding == "positions" else attention_mask
        states = self.embeddings(input_ids, present)
        for block in self.blocks:
            states = block[1](block[0](states, last_only and block is self.blocks[-1]))  # type: ignore[index]
        return BaseModelOutput(last_hidden_state=states[:, -history:])


class FMLPRecForNextItem(SequentialForNextItem):
    """
    FMLP-Rec. The last position of a history is trained to predict the item that follows it; input and output share the
    item embeddings.

    Example:

    ```python
    >>> import torch
    >>> from modeling_utgrec import FMLPRecConfig, FMLPRecForNextItem
    >>> model = FMLPRecForNextItem(FMLPRecConfig(num_items=1000)).eval()
    >>> scores = model.user_states(torch.tensor([[0, 17, 301]])) @ model.item_embeddings.T
    >>> scores.shape
    torch.Size([1, 1000])
    ```
    """

    config: FMLPRecConfig
    encoder_class = FMLPRecModel
    training_targets = "last"
    takes_last_only = True
    reads_padding = True


__all__ = ["FMLPRecForNextItem", "FMLPRecModel"]
