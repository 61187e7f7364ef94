"""SASRec: a causal transformer over the items of a history (Kang & McAuley, "Self-Attentive Sequential
Recommendation", 2018)."""

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_sasrec import SASRecConfig
from .modeling_sequential import (
    ItemEmbeddings,
    SelfAttention,
    SequentialForNextItem,
    SequentialPreTrainedModel,
    causal_mask,
)


class SASRecBlock(nn.Module):
    """`x + Dropout(g(LayerNorm(x)))`, g first self-attention, then a feed-forward network (section III-B)."""

    def __init__(self, config: SASRecConfig):
        super().__init__()
        width = config.hidden_size
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(config)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """
        Args:
            states (`torch.FloatTensor` of shape `(batch, history, hidden_size)`): the block's input.
            mask (`torch.BoolTensor` of shape `(batch, 1, history, history)`): true where a row may read a column.
        """
        states = states + self.dropout(self.attention(self.attention_norm(states), mask))
        inner = self.dropout(F.relu(self.inner(self.feed_forward_norm(states))))
        return states + self.dropout(self.outer(inner))


class SASRecModel(SequentialPreTrainedModel):
    """The encoder of SASRec: states of the positions of a history, none of which depends on later ones."""

    config: SASRecConfig

    def __init__(self, config: SASRecConfig):
        super().__init__(config)
        self.embeddings = ItemEmbeddings(config, config.max_history, scale=True)
        self.blocks = nn.ModuleList([SASRecBlock(config) for _ in range(config.num_layers)])
        self.norm = nn.LayerNorm(config.hidden_size)
        self.post_init()

    @can_return_tuple
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> BaseModelOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, history)`): item tokens, padded on the left with 0.
            attention_mask (`torch.Tensor` of shape `(batch_size, history)`, *optional*): 0 on padding.

        Raises:
            ValueError: more than `max_history` columns.
        """
        attention_mask = self.item_mask(input_ids, attention_mask)
        states = self.embeddings(input_ids, attention_mask)
        mask = causal_mask(attention_mask)
        for block in self.blocks:
            states = block(states, mask)
        return BaseModelOutput(last_hidden_state=self.norm(states))


class SASRecForNextItem(SequentialForNextItem):
    """
    SASRec. Every position of a window is trained to predict the item that follows it; input and output share the item
    embeddings.

    Example:

    ```python
    >>> import torch
    >>> from modeling_utgrec import SASRecConfig, SASRecForNextItem
    >>> model = SASRecForNextItem(SASRecConfig(num_items=1000)).eval()
    >>> scores = model.user_states(torch.tensor([[0, 17, 301]])) @ model.item_embeddings.T
    >>> scores.shape
    torch.Size([1, 1000])
    ```
    """

    config: SASRecConfig
    encoder_class = SASRecModel
    training_targets = "all"


__all__ = ["SASRecForNextItem", "SASRecModel"]
