"""GRU4Rec: a recurrent network over the items of a history (Hidasi et al., "Session-based Recommendations with
Recurrent Neural Networks", 2016), with item embeddings and the losses of [`SequentialForNextItem`]."""

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_gru4rec import GRU4RecConfig
from .modeling_sequential import ItemEmbeddings, SequentialForNextItem, SequentialPreTrainedModel


class GRU4RecModel(SequentialPreTrainedModel):
    """The encoder of GRU4Rec: recurrent states, projected to the width of the item embeddings."""

    config: GRU4RecConfig

    def __init__(self, config: GRU4RecConfig):
        super().__init__(config)
        self.embeddings = ItemEmbeddings(config, num_positions=None)
        between_layers = config.hidden_dropout if config.num_layers > 1 else 0.0
        self.gru = nn.GRU(
            config.hidden_size, config.state_size, config.num_layers, batch_first=True, dropout=between_layers
        )
        self.projection = nn.Linear(config.state_size, config.hidden_size)
        self.post_init()

    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, nn.GRU):
            for name, parameter in module.named_parameters():
                if name.startswith("weight"):
                    init.xavier_uniform_(parameter)
                else:
                    init.zeros_(parameter)

    @can_return_tuple
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> BaseModelOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, history)`): item tokens, padded on the left with 0.
            attention_mask (`torch.Tensor` of shape `(batch_size, history)`, *optional*): 0 on padding.
        """
        attention_mask = self.item_mask(input_ids, attention_mask)
        embedded = self.embeddings(input_ids, attention_mask)
        # A recurrent network must not start with padding: the items go to the first columns, and back afterwards.
        columns = torch.arange(input_ids.shape[1], device=input_ids.device)
        padding = input_ids.shape[1] - attention_mask.long().sum(dim=1, keepdim=True)
        first = (columns + padding) % input_ids.shape[1]
        back = (columns - padding) % input_ids.shape[1]
        states, _ = self.gru(embedded.gather(1, first[..., None].expand_as(embedded)))
        states = states.gather(1, back[..., None].expand_as(states))
        return BaseModelOutput(last_hidden_state=self.projection(states))


class GRU4RecForNextItem(SequentialForNextItem):
    """
    GRU4Rec, trained on every position of a window. The loss over all items takes the place of the paper's ranking loss
    over a batch's items.

    Example:

    ```python
    >>> import torch
    >>> from modeling_utgrec import GRU4RecConfig, GRU4RecForNextItem
    >>> model = GRU4RecForNextItem(GRU4RecConfig(num_items=1000)).eval()
    >>> (model.user_states(torch.tensor([[0, 17, 301]])) @ model.item_embeddings.T).shape
    torch.Size([1, 1000])
    ```
    """

    config: GRU4RecConfig
    encoder_class = GRU4RecModel
    training_targets = "all"


__all__ = ["GRU4RecForNextItem", "GRU4RecModel"]
