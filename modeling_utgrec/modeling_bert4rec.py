"""BERT4Rec: a bidirectional transformer that fills in masked items (Sun et al., "BERT4Rec: Sequential Recommendation
with Bidirectional Encoder Representations from Transformer", 2019)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_bert4rec import BERT4RecConfig
from .modeling_post_norm import PostNormBlock
from .modeling_sequential import (
    ItemEmbeddings,
    SequentialForNextItem,
    SequentialPreTrainedModel,
    bidirectional_mask,
)


class BERT4RecModel(SequentialPreTrainedModel):
    """The encoder of BERT4Rec. It reads `max_history` items and one mask."""

    config: BERT4RecConfig

    def __init__(self, config: BERT4RecConfig):
        super().__init__(config)
        self.embeddings = ItemEmbeddings(config, config.max_history + 1, norm=True)
        self.blocks = nn.ModuleList([PostNormBlock(config, 4 * config.hidden_size) for _ in range(config.num_layers)])
        self.post_init()

    @can_return_tuple
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> BaseModelOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, history)`):
                Tokens of items and masks, padded on the left with 0.
            attention_mask (`torch.Tensor` of shape `(batch_size, history)`, *optional*): 0 on padding.

        Raises:
            ValueError: more than `max_history + 1` columns.
        """
        attention_mask = self.item_mask(input_ids, attention_mask)
        states = self.embeddings(input_ids, attention_mask)
        mask = bidirectional_mask(attention_mask)
        for block in self.blocks:
            states = block(states, mask)
        return BaseModelOutput(last_hidden_state=states)


class BERT4RecForNextItem(SequentialForNextItem):
    """
    BERT4Rec. Trained on windows with masked items; to recommend, a mask is appended to the history and its state
    scores the items.

    Example:

    ```python
    >>> import torch
    >>> from modeling_utgrec import BERT4RecConfig, BERT4RecForNextItem
    >>> model = BERT4RecForNextItem(BERT4RecConfig(num_items=1000)).eval()
    >>> scores = model.user_states(torch.tensor([[0, 17, 301]])) @ model.item_embeddings.T + model.item_bias
    >>> scores.shape
    torch.Size([1, 1000])
    ```
    """

    config: BERT4RecConfig
    encoder_class = BERT4RecModel
    training_targets = "cloze"

    def __init__(self, config: BERT4RecConfig):
        super().__init__(config)
        self.transform = nn.Linear(config.hidden_size, config.hidden_size)
        self.bias = nn.Parameter(torch.zeros(config.num_items))
        self.post_init()

    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if module is self:
            init.zeros_(self.bias)

    def scoring_states(self, states: Tensor) -> Tensor:
        """`GELU(W h + b)` (Eq. 7)."""
        return F.gelu(self.transform(states))

    def user_states(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """
        The states of a mask that follows the history: `states @ item_embeddings.T + item_bias` scores the items.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, history)`): item tokens, padded on the left with 0.
            attention_mask (`torch.Tensor` of shape `(batch_size, history)`, *optional*): 0 on padding.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, hidden_size)`.
        """
        attention_mask = self.item_mask(input_ids, attention_mask)
        input_ids = F.pad(input_ids, (0, 1), value=self.config.mask_token_id)
        return super().user_states(input_ids, F.pad(attention_mask, (0, 1), value=1))

    @property
    def item_bias(self) -> Tensor:
        """`(num_items,)`, added to the scores."""
        return self.bias


__all__ = ["BERT4RecForNextItem", "BERT4RecModel"]
