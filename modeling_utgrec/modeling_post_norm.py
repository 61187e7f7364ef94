"""The post-norm block of BERT, which BERT4Rec and MISSRec have too, and RecBole's encoder of such blocks, which FDSA,
S3-Rec, UniSRec and VQ-Rec share."""

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_post_norm import PostNormConfig
from .configuration_sequential import SequentialConfig
from .modeling_sequential import (
    LAST,
    WHOLE,
    ItemEmbeddings,
    SelfAttention,
    SequentialPreTrainedModel,
    bidirectional_mask,
    causal_mask,
)


class PostNormBlock(nn.Module):
    """`LayerNorm(x + Dropout(g(x)))`, g first self-attention, then a feed-forward network (Sun et al. 2019, Eq. 1-5).

    Args:
        config ([`SequentialConfig`]): width, heads and dropout.
        inner_size (`int`): width of the feed-forward network.
        eps (`float`, *optional*, defaults to 1e-5): of the layer norms.
    """

    def __init__(self, config: SequentialConfig, inner_size: int, eps: float = 1e-5):
        super().__init__()
        width = config.hidden_size
        self.attention = SelfAttention(config)
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.inner = nn.Linear(width, inner_size)
        self.outer = nn.Linear(inner_size, width)
        self.feed_forward_norm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, states: Tensor, mask: Tensor, columns: slice | list[int] = WHOLE) -> Tensor:
        """
        Args:
            states (`torch.FloatTensor` of shape `(batch, history, hidden_size)`): the block's input.
            mask (`torch.BoolTensor` of shape `(batch, 1, history, history)`): true where a row may read a column.
            columns (`slice` or `list[int]`, *optional*): those whose states are made, by default all.
        """
        return self.fed_forward(self.attended(states, mask, columns))

    def attended(self, states: Tensor, mask: Tensor, columns: slice | list[int] = WHOLE) -> Tensor:
        """The first half of the block, self-attention."""
        chosen = states[:, columns]
        return self.attention_norm(chosen + self.dropout(self.attention(chosen, mask[:, :, columns], states)))

    def fed_forward(self, states: Tensor) -> Tensor:
        """The second half, the feed-forward network."""
        return self.feed_forward_norm(states + self.dropout(self.outer(F.gelu(self.inner(states)))))


class PostNormModel(SequentialPreTrainedModel):
    """
    States of the positions of a history, none of which depends on later ones.

    Histories are padded on the left and positions counted from the last item (RecBole pads on the right): a
    pre-trained table of positions then means the same in every domain.

    Args:
        config ([`PostNormConfig`]): sizes.
        items (`nn.Module`, *optional*): makes the items' vectors, see [`ItemEmbeddings`].
    """

    config: PostNormConfig

    def __init__(self, config: PostNormConfig, items: nn.Module | None = None):
        super().__init__(config)
        self.embeddings = ItemEmbeddings(config, config.max_history, norm=True, eps=config.layer_norm_eps, items=items)
        self.blocks = nn.ModuleList(
            [PostNormBlock(config, config.inner_size, config.layer_norm_eps) for _ in range(config.num_layers)]
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        item_vectors: Tensor | None = None,
        bidirectional: bool = False,
        last_only: bool = False,
    ) -> BaseModelOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, history)`): item tokens, padded on the left with 0.
            attention_mask (`torch.Tensor` of shape `(batch_size, history)`, *optional*): 0 on padding.
            item_vectors (`torch.FloatTensor` of shape `(items, hidden_size)`, *optional*): vectors of all items, where
                they were made before.
            bidirectional (`bool`, *optional*, defaults to `False`): whether positions read later ones.
            last_only (`bool`, *optional*, defaults to `False`): make the last position's state alone.

        Raises:
            ValueError: more than `max_history` columns.
        """
        attention_mask = self.item_mask(input_ids, attention_mask)
        states = self.embeddings(input_ids, attention_mask, item_vectors)
        mask = (bidirectional_mask if bidirectional else causal_mask)(attention_mask)
        for block in self.blocks:
            states = block(states, mask, LAST if last_only and block is self.blocks[-1] else WHOLE)
        return BaseModelOutput(last_hidden_state=states)


__all__ = ["PostNormBlock", "PostNormModel"]
