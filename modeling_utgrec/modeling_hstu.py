"""HSTU: hierarchical sequential transduction units over the items of a history (Zhai et al., "Actions Speak Louder
than Words: Trillion-Parameter Sequential Transducers for Generative Recommendations", 2024)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_hstu import HSTUConfig
from .modeling_sequential import ItemEmbeddings, SequentialForNextItem, SequentialPreTrainedModel, causal_mask


class HSTUBlock(nn.Module):
    """
    A sequential transduction unit: pointwise projection, pointwise aggregated attention and gate (Zhai et al. 2024,
    Eqs. 1-3).

    Attention weights are SiLU values, not normalised by a softmax, so that the number of matching items counts. They
    are divided by a constant, the longest history (as in the authors' program): a sum's scale then depends neither on
    padding nor on the batch. The bias knows distances between positions, not times: the data have none.
    """

    def __init__(self, config: HSTUConfig):
        super().__init__()
        width = config.hidden_size
        inner = config.num_heads * (config.head_size or width // config.num_heads)
        self.num_heads = config.num_heads
        self.max_history = config.max_history
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.projection = nn.Linear(width, 4 * inner, bias=False)
        self.relative_bias = nn.Parameter(torch.empty(config.max_history))
        # what was attended to is small at first: a larger eps would keep it so
        self.attended_norm = nn.LayerNorm(inner, eps=1e-6, elementwise_affine=False)
        self.output = nn.Linear(inner, width)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, states: Tensor, mask: Tensor, distances: Tensor) -> Tensor:
        """
        Args:
            states (`torch.FloatTensor` of shape `(batch, history, hidden_size)`): the block's input.
            mask (`torch.BoolTensor` of shape `(batch, 1, history, history)`): true where a row may read a column.
            distances (`torch.LongTensor` of shape `(history, history)`): from row back to column, 0 for later ones.
        """
        gate, value, query, key = F.silu(self.projection(self.norm(states))).chunk(4, dim=-1)
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (query, key, value))
        bias = F.embedding(distances, self.relative_bias[:, None]).squeeze(-1)
        weights = F.silu(query @ key.transpose(-1, -2) + bias) / self.max_history
        attended = (weights * mask.to(weights.dtype)) @ value
        attended = self.attended_norm(attended.transpose(1, 2).flatten(2))
        return states + self.output(self.dropout(attended * gate))


class HSTUModel(SequentialPreTrainedModel):
    """The encoder of HSTU: states of the positions of a history, none of which depends on later ones."""

    config: HSTUConfig

    def __init__(self, config: HSTUConfig):
        super().__init__(config)
        self.embeddings = ItemEmbeddings(config, config.max_history, scale=True)
        if config.embedding_dropout is not None:
            self.embeddings.dropout.p = config.embedding_dropout
        self.blocks = nn.ModuleList([HSTUBlock(config) for _ in range(config.num_layers)])
        self.post_init()

    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, HSTUBlock):
            init.normal_(module.relative_bias, std=self.config.initializer_range)
            init.xavier_uniform_(module.output.weight)  # as in the authors' program

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
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        distances = (positions[:, None] - positions).clamp(min=0)
        for block in self.blocks:
            states = block(states, mask, distances)
        return BaseModelOutput(last_hidden_state=states)


class HSTUForNextItem(SequentialForNextItem):
    """
    HSTU. Every position of a window is trained to predict the item that follows it. A score is the cosine of state and
    item embedding over `config.temperature`. The default loss compares all items; the authors' is `"sampled"` without
    `log_q_correction`.

    Example:

    ```python
    >>> import torch
    >>> from modeling_utgrec import HSTUConfig, HSTUForNextItem
    >>> model = HSTUForNextItem(HSTUConfig(num_items=1000)).eval()
    >>> scores = model.user_states(torch.tensor([[0, 17, 301]])) @ model.item_embeddings.T
    >>> scores.shape
    torch.Size([1, 1000])
    ```
    """

    config: HSTUConfig
    encoder_class = HSTUModel
    training_targets = "all"

    def scoring_states(self, states: Tensor) -> Tensor:
        return F.normalize(states, dim=-1) / self.config.temperature

    @property
    def item_embeddings(self) -> Tensor:
        return F.normalize(super().item_embeddings, dim=-1)


__all__ = ["HSTUForNextItem", "HSTUModel"]
