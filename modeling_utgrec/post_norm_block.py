"""The post-norm block of BERT, which BERT4Rec has and, in RecBole's form, the baselines that read content."""

import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_sequential import SequentialConfig
from .modeling_sequential import SelfAttention


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

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """
        Args:
            states (`torch.FloatTensor` of shape `(batch, history, hidden_size)`): the block's input.
            mask (`torch.BoolTensor` of shape `(batch, 1, history, history)`): true where a row may read a column.
        """
        states = self.attention_norm(states + self.dropout(self.attention(states, mask)))
        return self.feed_forward_norm(states + self.dropout(self.outer(F.gelu(self.inner(states)))))


__all__ = ["PostNormBlock"]
