"""S3-Rec: a sequential recommender that is first trained to tell items, attributes and segments apart (Zhou et al.,
"S3-Rec: Self-Supervised Learning for Sequential Recommendation with Mutual Information Maximization", 2020)."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils.generic import can_return_tuple

from .configuration_s3rec import S3RecConfig
from .modeling_post_norm import PostNormModel
from .modeling_sequential import NextItemOutput, SequentialForNextItem, sample_negatives


@dataclass
class S3RecPreTrainingOutput(NextItemOutput):
    """
    Output of [`S3RecForPreTraining`].

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*): weighted sum of the four below.
        last_hidden_state (`torch.FloatTensor` of shape `(batch_size, history, hidden_size)`):
            State of every position of the masked sequences.
        attribute_loss, item_loss, masked_attribute_loss, segment_loss (`torch.FloatTensor` of shape `(1,)`,
            *optional*): AAP, MIP, MAP and SP, each summed over a sequence and then a mean over sequences.
    """

    attribute_loss: torch.Tensor | None = None
    item_loss: torch.Tensor | None = None
    masked_attribute_loss: torch.Tensor | None = None
    segment_loss: torch.Tensor | None = None


class S3RecModel(PostNormModel):
    """The encoder of S3-Rec. It reads in one direction, in pre-training in both."""

    config: S3RecConfig

    def __init__(self, config: S3RecConfig):
        super().__init__(config)


class S3RecForNextItem(SequentialForNextItem):
    """
    S3-Rec after its pre-training, or without it. Every position of a window is trained to predict the item that
    follows it; input and output share the item embeddings.

    Example:

    ```python
    >>> import torch
    >>> from modeling_utgrec import S3RecConfig, S3RecForNextItem
    >>> model = S3RecForNextItem(S3RecConfig(num_items=1000)).eval()
    >>> scores = model.user_states(torch.tensor([[0, 17, 301]])) @ model.item_embeddings.T
    >>> scores.shape
    torch.Size([1, 1000])
    ```
    """

    config: S3RecConfig
    encoder_class = S3RecModel
    training_targets: ClassVar[Literal["all", "last", "cloze"]] = "all"
    takes_last_only = True


class S3RecForPreTraining(S3RecForNextItem):
    """
    S3-Rec's pre-training on one domain's sequences and attributes: associated attributes at positions that are read
    (AAP), items (MIP) and attributes (MAP) at masked ones, and segments (SP) (Zhou et al. 2020, Eqs. 5-11).

    The encoder reads in both directions; its weights and the item embeddings are what fine-tuning starts from.
    Losses are sums over positions and attributes, as in the authors' program, and a mean over sequences.
    """

    training_targets = "last"
    training_batches = "masked"
    attributes_of_items: Tensor

    def __init__(self, config: S3RecConfig):
        super().__init__(config)
        width = config.hidden_size
        self.attributes = nn.Embedding(config.num_attributes, width)
        self.attribute_head, self.item_head, self.masked_attribute_head, self.segment_head = (
            nn.Linear(width, width) for _ in range(4)
        )
        shape = (config.num_items, config.attributes_per_item)
        self.register_buffer("attributes_of_items", torch.zeros(shape, dtype=torch.long))
        self.post_init()

    @torch.no_grad()
    def set_items(self, attributes: Tensor) -> Self:
        """
        Gives the model the items' attributes.

        Args:
            attributes (`torch.LongTensor` of shape `(num_items, attributes_per_item)`): from 1, 0 for none.

        Raises:
            ValueError: of another shape, or an attribute that there is not.
        """
        own, most = self.attributes_of_items, self.config.num_attributes
        if attributes.shape != own.shape:
            raise ValueError(f"attributes: the model has {tuple(own.shape)}, and got {tuple(attributes.shape)}.")
        if attributes.is_floating_point() or not 0 <= attributes.min() <= attributes.max() <= most:
            raise ValueError(f"attributes: whole numbers from 1 to {most}, 0 for none.")
        own.copy_(attributes)
        return self

    @can_return_tuple
    def forward(  # type: ignore[override]
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        original_ids: torch.LongTensor | None = None,
        segment_ids: torch.LongTensor | None = None,
        positive_ids: torch.LongTensor | None = None,
        negative_ids: torch.LongTensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> S3RecPreTrainingOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, history)`):
                Tokens of items and masks, padded on the left with 0.
            attention_mask (`torch.Tensor` of shape `(batch_size, history)`, *optional*): 0 on padding.
            original_ids (`torch.LongTensor` of shape `(batch_size, history)`, *optional*): the same without masks.
            segment_ids, positive_ids, negative_ids (`torch.LongTensor` of shape `(sequences, history)`, *optional*):
                sequences with a masked segment, that segment alone and another one in its place, masks around both.
            num_items_in_batch (`int`, *optional*): not used: a batch has no labels.

        Returns:
            [`S3RecPreTrainingOutput`].

        Raises:
            ValueError: the input is longer than the model reads.
        """
        config = self.config
        attention_mask = self.item_mask(input_ids, attention_mask)
        if original_ids is None:
            states = self.model(input_ids, attention_mask, bidirectional=True).last_hidden_state
            return S3RecPreTrainingOutput(last_hidden_state=states)
        states = self.states_by_length(input_ids, attention_mask, bidirectional=True)
        masked = input_ids == config.mask_token_id
        read = (input_ids > 0) & ~masked
        labels = original_ids.masked_fill(~masked, -100)
        losses = {
            "attribute_loss": self._attributes(self.attribute_head(states[read]), original_ids[read]),
            "item_loss": self._items(self.item_head(states[masked]), input_ids, labels),
            "masked_attribute_loss": self._attributes(
                self.masked_attribute_head(states[masked]), original_ids[masked]
            ),
            "segment_loss": states.new_zeros(()),
        }
        if segment_ids is not None and len(segment_ids):
            assert positive_ids is not None and negative_ids is not None
            context, positive, negative = (
                self.states_by_length(ids, last_only=True, bidirectional=True)[:, -1]
                for ids in (segment_ids, positive_ids, negative_ids)
            )
            context = self.segment_head(context)
            losses["segment_loss"] = self._compared((context * positive).sum(-1), (context * negative).sum(-1))
        losses = {name: loss / len(input_ids) for name, loss in losses.items()}
        loss = sum(getattr(config, name.replace("_loss", "_weight")) * value for name, value in losses.items())
        return S3RecPreTrainingOutput(loss=loss, last_hidden_state=states, **losses)

    def _attributes(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Binary cross-entropy of each attribute and each state, summed."""
        attributes = F.embedding(tokens - 1, self.attributes_of_items)
        owners, columns = attributes.nonzero(as_tuple=True)
        scores = states @ self.attributes.weight.T
        return F.softplus(scores).sum() - scores[owners, attributes[owners, columns] - 1].sum()

    def _items(self, states: Tensor, input_ids: Tensor, labels: Tensor) -> Tensor:
        """Masked items, each against one that is not in its sequence, summed."""
        negatives = sample_negatives(input_ids, labels, self.config.num_items)
        items = self.get_input_embeddings()
        own, other = ((states * items(tokens)).sum(-1) for tokens in (labels[labels != -100], negatives))
        return self._compared(own, other)

    def _compared(self, own: Tensor, other: Tensor) -> Tensor:
        """-log σ(own - other), summed."""
        if self.config.two_sigmoids:
            own, other = own.sigmoid(), other.sigmoid()
        return F.softplus(other - own).sum()


__all__ = ["S3RecForNextItem", "S3RecForPreTraining", "S3RecModel", "S3RecPreTrainingOutput"]
