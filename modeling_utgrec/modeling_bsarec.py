"""BSARec: self-attention beside a layer that rescales high frequencies (Shin et al., "An Attentive Inductive Bias for
Sequential Recommendation beyond the Self-Attention", 2024)."""

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_bsarec import BSARecConfig
from .modeling_fmlprec import FeedForward, from_frequencies, to_frequencies, whole_window
from .modeling_sequential import (
    LAST,
    WHOLE,
    ItemEmbeddings,
    SelfAttention,
    SequentialForNextItem,
    SequentialPreTrainedModel,
    causal_mask,
)


class FrequencyRescaler(nn.Module):
    """The low frequencies of a window plus its high ones times a learned factor for each feature (Shin et al. 2024,
    "Frequency Rescaler"), with residual connection and layer norm."""

    def __init__(self, config: BSARecConfig):
        super().__init__()
        # of the two signs of a frequency a transform of real numbers holds one
        self.num_low = config.num_low_frequencies // 2 + 1
        self.sqrt_beta = nn.Parameter(torch.empty(config.hidden_size))  # squared: the factor is not negative
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.norm = nn.LayerNorm(config.hidden_size)

    def low_pass(self, states: Tensor, columns: slice = WHOLE) -> Tensor:
        """What the low frequencies make of `(batch, length, hidden_size)`, at these columns. They are a projection of
        the columns, in one matrix product: for windows of usual length a transform and its inverse take longer."""
        dtype, length = torch.promote_types(states.dtype, torch.float32), states.shape[1]
        frequencies = to_frequencies(torch.eye(length, dtype=dtype, device=states.device)[None])[:, : self.num_low]
        # the inverse takes those that are missing as zeros; and the projection is symmetric
        projection = from_frequencies(frequencies, length, dtype)[0, columns]
        with torch.autocast(states.device.type, enabled=False):
            return (projection @ states.to(dtype)).to(states.dtype)

    def forward(self, states: Tensor, columns: slice = WHOLE) -> Tensor:
        low, states = self.low_pass(states, columns), states[:, columns]
        rescaled = low + self.sqrt_beta.square() * (states - low)
        return self.norm(states + self.dropout(rescaled))


class BSARecBlock(nn.Module):
    """`alpha` of the frequency layer, `1 - alpha` of self-attention, then a feed-forward network."""

    def __init__(self, config: BSARecConfig):
        super().__init__()
        self.alpha = config.alpha
        self.rescaler = FrequencyRescaler(config)
        self.attention = SelfAttention(config)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.attention_norm = nn.LayerNorm(config.hidden_size)
        self.feed_forward = FeedForward(config)

    def forward(self, states: Tensor, mask: Tensor, columns: slice = WHOLE) -> Tensor:
        """
        Args:
            states (`torch.FloatTensor` of shape `(batch, max_history, hidden_size)`): the block's input.
            mask (`torch.BoolTensor` of shape `(batch, 1, max_history, max_history)`):
                true where a row may read a column.
            columns (`slice`, *optional*): those whose states are made, by default all.
        """
        chosen = states[:, columns]
        attended = self.attention_norm(chosen + self.dropout(self.attention(chosen, mask[:, :, columns], states)))
        return self.feed_forward(self.alpha * self.rescaler(states, columns) + (1 - self.alpha) * attended)


class BSARecModel(SequentialPreTrainedModel):
    """
    The encoder of BSARec. Its attention is causal, but its frequency layers mix all columns of the window, so states
    of earlier positions know later items: only the last one predicts.

    No item attends to the columns of the window that hold no item, but the frequency layers mix them with the others:
    what they are is `config.padding`.
    """

    config: BSARecConfig

    def __init__(self, config: BSARecConfig):
        super().__init__(config)
        self.embeddings = ItemEmbeddings(config, config.max_history, norm=True)
        self.blocks = nn.ModuleList([BSARecBlock(config) for _ in range(config.num_layers)])
        self.post_init()

    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, FrequencyRescaler):
            init.normal_(module.sqrt_beta)  # factors around one, as in the authors' program

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
        mask, present = causal_mask(attention_mask), attention_mask
        if self.config.padding == "positions":
            # no column is readable for them, and a mask that takes the same from all scores takes nothing
            mask = mask | attention_mask.eq(0)[:, None, :, None]
            present = torch.ones_like(attention_mask)
        states = self.embeddings(input_ids, present)
        for block in self.blocks:
            states = block(states, mask, LAST if last_only and block is self.blocks[-1] else WHOLE)
        return BaseModelOutput(last_hidden_state=states[:, -history:])


class BSARecForNextItem(SequentialForNextItem):
    """
    BSARec. The last position of a history is trained to predict the item that follows it; input and output share the
    item embeddings.

    Example:

    ```python
    >>> import torch
    >>> from modeling_utgrec import BSARecConfig, BSARecForNextItem
    >>> model = BSARecForNextItem(BSARecConfig(num_items=1000)).eval()
    >>> scores = model.user_states(torch.tensor([[0, 17, 301]])) @ model.item_embeddings.T
    >>> scores.shape
    torch.Size([1, 1000])
    ```
    """

    config: BSARecConfig
    encoder_class = BSARecModel
    training_targets = "last"
    takes_last_only = True
    reads_padding = True


__all__ = ["BSARecForNextItem", "BSARecModel"]
