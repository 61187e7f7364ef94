"""Base of the sequential recommenders: input embeddings, masks, losses and the state that scores the next item.

Histories are padded on the left, so the last item stands in the last column, and positions are counted from there:
the last item has position 0. A history has the same states whatever the padding of its batch, and the position that
makes the prediction is position 0 in use as in training, where earlier positions of a window predict too.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .checkpoint_format import CheckedLoading
from .configuration_sequential import SequentialConfig
from .encoding_parts import histories_by_length
from .loss_cross_entropy import linear_cross_entropy, sampled_cross_entropy

WHOLE, LAST = slice(None), slice(-1, None)  # columns of a history whose states are made


@dataclass
class NextItemOutput(ModelOutput):
    """
    Output of [`SequentialForNextItem`].

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*, returned when `labels` is given):
            Mean loss over the labelled positions.
        last_hidden_state (`torch.FloatTensor` of shape `(batch_size, history, hidden_size)`):
            State of every position. Those of padding mean nothing. Where the last position alone predicts, a model
            that is given labels makes its state alone, if it can.
    """

    loss: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None


def causal_mask(attention_mask: Tensor) -> Tensor:
    """Who reads whom when no position reads later ones: bool `(batch, 1, history, history)`, true where allowed.

    Padding reads itself, so that no row is empty (a softmax over nothing has no value).
    """
    length = attention_mask.shape[1]
    earlier = torch.ones(length, length, dtype=torch.bool, device=attention_mask.device).tril()
    return _readable(attention_mask) & earlier


def bidirectional_mask(attention_mask: Tensor) -> Tensor:
    """Every position reads every item: bool `(batch, 1, history, history)`, otherwise as [`causal_mask`]."""
    return _readable(attention_mask)


def _readable(attention_mask: Tensor) -> Tensor:
    itself = torch.eye(attention_mask.shape[1], dtype=torch.bool, device=attention_mask.device)
    return attention_mask.bool()[:, None, None, :] | itself


class ItemEmbeddings(nn.Module):
    """Item embeddings plus embeddings of the positions, counted from the last column.

    Args:
        config ([`SequentialConfig`]): sizes.
        num_positions (`int`, *optional*): longest input; None for no embeddings of positions and any length.
        scale (`bool`): multiply item embeddings by `sqrt(hidden_size)` first, as the original transformer does.
        norm (`bool`): layer norm of the sum.
        eps (`float`, *optional*, defaults to 1e-5): of the layer norm.
        items (`nn.Module`, *optional*): gives the vectors of item tokens `(batch, history)`, as made from their
            content; by default an embedding of each token.
    """

    def __init__(
        self,
        config: SequentialConfig,
        num_positions: int | None,
        scale: bool = False,
        norm: bool = False,
        eps: float = 1e-5,
        items: nn.Module | None = None,
    ):
        super().__init__()
        if items is None:
            items = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.items = items
        self.positions = None if num_positions is None else nn.Embedding(num_positions, config.hidden_size)
        self.scale = math.sqrt(config.hidden_size) if scale else 1.0
        self.norm = nn.LayerNorm(config.hidden_size, eps=eps) if norm else nn.Identity()
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, item_vectors: Tensor | None = None) -> Tensor:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(batch, history)`): item tokens, padded on the left.
            attention_mask (`torch.Tensor` of shape `(batch, history)`): 0 on padding.
            item_vectors (`torch.FloatTensor` of shape `(items, hidden_size)`, *optional*): what `items` makes of the
                tokens from 1, where it was made before.

        Returns:
            `torch.FloatTensor` of shape `(batch, history, hidden_size)`, zero on padding.

        Raises:
            ValueError: more columns than there are positions.
        """
        vectors = self.items(input_ids) if item_vectors is None else rows_of_tokens(input_ids, item_vectors)
        return self.placed(vectors, attention_mask)

    def placed(self, vectors: Tensor, attention_mask: Tensor) -> Tensor:
        """Vectors of items `(..., history, hidden_size)` at their positions, zero where the mask `(..., history)` is.

        Raises:
            ValueError: more columns than there are positions.
        """
        states = vectors * self.scale
        if self.positions is not None:
            length, longest = vectors.shape[-2], self.positions.num_embeddings
            if length > longest:
                raise ValueError(f"The input has {length} columns, the model reads {longest}: keep the last ones.")
            states = states + self.positions.weight[:length].flip(0)
        return self.dropout(self.norm(states)) * attention_mask[..., None].to(states.dtype)


def rows_of_tokens(input_ids: Tensor, table: Tensor) -> Tensor:
    """The rows `(..., width)` of a table `(items, width)` that belong to item tokens `(...)`, any row for padding."""
    return F.embedding((input_ids - 1).clamp(min=0), table)


class AttentionSizes(Protocol):
    """What [`SelfAttention`] needs of a configuration."""

    hidden_size: int
    num_heads: int
    attention_dropout: float | int


class SelfAttention(nn.Module):
    """Multi-head scaled dot-product attention of a history to itself, or to something else that is given (without
    residual connection and norm)."""

    def __init__(self, config: AttentionSizes):
        super().__init__()
        self.num_heads = config.num_heads
        self.dropout = config.attention_dropout
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, states: Tensor, mask: Tensor, read: Tensor | None = None) -> Tensor:
        """
        Args:
            states (`torch.FloatTensor` of shape `(batch, history, hidden_size)`): what attends and is attended to.
            mask (`torch.BoolTensor` of shape `(batch, 1, history, history)`): true where a row may read a column.
            read (`torch.FloatTensor` of shape `(batch, columns, hidden_size)`, *optional*): what is attended to, in
                place of the history; the mask has its columns then.

        Returns:
            `torch.FloatTensor` of shape `(batch, history, hidden_size)`.
        """
        read = states if read is None else read
        query, key, value = (
            layer(source).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer, source in ((self.query, states), (self.key, read), (self.value, read))
        )
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        return self.output(attended.transpose(1, 2).flatten(2))


class SequentialPreTrainedModel(CheckedLoading, PreTrainedModel):
    """Base of encoders and of models with a head. An encoder's item and position embeddings are its `embeddings`, an
    [`ItemEmbeddings`] or any module with the item embeddings in `items`; the head's encoder is its `model`."""

    config: SequentialConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _supports_sdpa = True

    def get_input_embeddings(self) -> nn.Embedding:
        return self._encoder.embeddings.items

    def set_input_embeddings(self, value: nn.Module):
        self._encoder.embeddings.items = value

    @property
    def _encoder(self) -> Any:
        return self.base_model

    def item_mask(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """`attention_mask`, or where the input is no padding."""
        return input_ids.ne(self.config.pad_token_id) if attention_mask is None else attention_mask


class SequentialForNextItem(SequentialPreTrainedModel):
    """
    Base of the sequential recommenders: an encoder of the history whose state at a position is compared with the
    embeddings of all items.

    A subclass names its encoder in `encoder_class`; `encoder_class.forward(input_ids, attention_mask)` returns a
    [`~transformers.modeling_outputs.BaseModelOutput`]. Where states need another transformation before they are
    compared, it overrides `scoring_states`; where items have a bias, `item_bias`.

    `training_targets` says how training batches are built:

    - `"all"`: a row is a window of a sequence and every position is labelled with the item that follows;
    - `"last"`: a row is a history and only its last position is labelled (for encoders in which earlier positions
      see later ones);
    - `"cloze"`: a row is a window in which items are replaced by the mask token and labelled with themselves.
    """

    encoder_class: ClassVar[type[SequentialPreTrainedModel]]
    training_targets: ClassVar[Literal["all", "last", "cloze"]] = "all"
    # what a batch has beside them: "augmented" sequences, or "masked" ones with segments
    training_batches: ClassVar[Literal["plain", "augmented", "masked"]] = "plain"
    # whether `encoder_class.forward` takes `last_only`, and then makes the state of the last position alone
    takes_last_only: ClassVar[bool] = False
    # whether padding changes states, so that a window has the width that it has
    reads_padding: ClassVar[bool] = False
    # whether a row's loss has the other rows of its batch as negatives
    in_batch_negatives: ClassVar[bool] = False
    # the Trainer gives the number of labels in all batches of a step, and the loss below divides by it
    accepts_loss_kwargs = True

    def __init__(self, config: SequentialConfig):
        super().__init__(config)
        self.model = self.encoder_class(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> NextItemOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, history)`): item tokens, padded on the left with 0.
            attention_mask (`torch.Tensor` of shape `(batch_size, history)`, *optional*):
                0 on padding; by default every token but the padding token is read.
            labels (`torch.LongTensor` of shape `(batch_size, history)`, *optional*):
                Token of the item that follows each position (with `training_targets` `"cloze"`: of the item that was
                masked there), -100 where nothing is predicted.
            num_items_in_batch (`int`, *optional*):
                Divides the summed loss in place of the number of labels here; for gradient accumulation.

        Returns:
            [`NextItemOutput`].

        Raises:
            ValueError: `labels` and `input_ids` differ in shape, an encoder in which the last position alone predicts
                has labels elsewhere, or the input is longer than the model reads.
        """
        attention_mask = self.item_mask(input_ids, attention_mask)
        vectors = None if labels is None else self.training_vectors()
        given: dict[str, Any] = {} if vectors is None else {"item_vectors": vectors}
        if labels is not None:
            if labels.shape != input_ids.shape:
                raise ValueError(f"labels have shape {tuple(labels.shape)}, input_ids {tuple(input_ids.shape)}.")
            labelled = labels != -100
            if self.training_targets == "last":
                if labelled[:, :-1].any():
                    raise ValueError("Earlier positions know later items here: only the last one can have a label.")
                given |= self.of_last
        if labels is None or self.reads_padding:
            states = self.model(input_ids=input_ids, attention_mask=attention_mask, **given).last_hidden_state
        else:
            states = self.states_by_length(input_ids, attention_mask, **given)
        loss = None
        if labels is not None:
            predicting = self.scoring_states(states[labelled[:, -states.shape[1] :]])
            items = self.candidate_embeddings(vectors)
            if self.config.loss == "ce":
                loss = linear_cross_entropy(predicting, items, labels[labelled] - 1, self.item_bias)
            elif self.config.loss == "bce":
                loss = self._binary_loss(predicting, items, input_ids, labels)
            else:
                loss = self._sampled_loss(predicting, items, labels[labelled] - 1)
            loss = loss / (labelled.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch)
        return NextItemOutput(loss=loss, last_hidden_state=states)

    def states_by_length(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, last_only: bool = False, **given: Any
    ) -> Tensor:
        """The encoder's states `(batch, history, hidden_size)`, or of the last position alone, without most of the
        padding, see [`histories_by_length`]; `given` is what the encoder takes beside them, the same for all rows."""
        if last_only:
            given["last_only"] = True
        mask = self.item_mask(input_ids, attention_mask)

        def encode(rows: Tensor | slice, columns: int) -> Tensor:
            return self.model(input_ids[rows, -columns:], mask[rows, -columns:], **given).last_hidden_state

        return histories_by_length(encode, mask, last_only)

    def _binary_loss(self, states: Tensor, items: Tensor, input_ids: Tensor, labels: Tensor) -> Tensor:
        """Binary cross-entropy with one negative for each label (Kang & McAuley 2018, Eq. 8), summed."""
        labelled = labels != -100
        rows = torch.stack([labels[labelled], sample_negatives(input_ids, labels, self.config.num_items)]) - 1
        scores = (states * F.embedding(rows, items)).sum(-1)
        if self.item_bias is not None:
            scores = scores + F.embedding(rows, self.item_bias[:, None]).squeeze(-1)
        return F.softplus(-scores[0]).sum() + F.softplus(scores[1]).sum()

    def _sampled_loss(self, states: Tensor, items: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy over targets and negatives of the batch, uniform with replacement, summed."""
        config = self.config
        negatives = torch.randint(config.num_items, (config.num_negatives,), device=states.device)
        return sampled_cross_entropy(states, items, targets, negatives, self.log_correction, self.item_bias)

    @property
    def log_correction(self) -> float:
        """What is taken from the score of a sampled negative, see [`SequentialConfig`]."""
        config = self.config
        return math.log(config.num_negatives / config.num_items) if config.log_q_correction else 0.0

    def scoring_states(self, states: Tensor) -> Tensor:
        """The encoder's states `(..., hidden_size)` as they are compared with `item_embeddings`."""
        return states

    def user_states(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """
        States that score the next item: `states @ item_embeddings.T + item_bias`.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, history)`): item tokens, padded on the left with 0.
            attention_mask (`torch.Tensor` of shape `(batch_size, history)`, *optional*): 0 on padding.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, hidden_size)`.
        """
        attention_mask = self.item_mask(input_ids, attention_mask)
        return self.scoring_states(self.model(input_ids, attention_mask, **self.of_last).last_hidden_state[:, -1])

    @property
    def of_last(self) -> dict[str, bool]:
        """What the encoder is given where the last position's state is all that is needed of it."""
        return {"last_only": True} if self.takes_last_only else {}

    @property
    def item_embeddings(self) -> Tensor:
        """`(num_items, hidden_size)`, row `r` for the item at row `r` of the catalogue."""
        return self.get_input_embeddings().weight[1 : self.config.num_items + 1]

    def item_vectors(self) -> Tensor | None:
        """What the encoder reads of the items where that is made from something else than their ids, as content,
        `(num_items, hidden_size)`: made once for many histories. None where each token has an embedding."""
        return None

    def training_vectors(self) -> Tensor | None:
        """`item_vectors` as a step of the training needs them: those of all items where all are scored by them."""
        return self.item_vectors()

    def candidate_embeddings(self, item_vectors: Tensor | None = None) -> Tensor:
        """`item_embeddings`, of vectors that `item_vectors` gave before."""
        return self.item_embeddings

    @property
    def item_bias(self) -> Tensor | None:
        """`(num_items,)`, added to the scores, or None."""
        return None


def sample_negatives(input_ids: Tensor, labels: Tensor, num_items: int) -> Tensor:
    """One item for each label, uniform among those that are neither in the row's input nor in its labels.

    Args:
        input_ids (`torch.LongTensor` of shape `(batch, history)`): item tokens; others (padding, mask) don't matter.
        labels (`torch.LongTensor` of shape `(batch, history)`): item tokens, -100 for none.
        num_items (`int`): size of the catalogue.

    Returns:
        `torch.LongTensor` of shape `(number of labels,)`, item tokens. A row that holds the whole catalogue gets any
        items.
    """
    nothing = num_items + 1
    taken = torch.cat([input_ids, labels], dim=1)
    taken = taken.masked_fill((taken < 1) | (taken > num_items), nothing).sort(dim=1).values
    taken[:, 1:] = taken[:, 1:].masked_fill(taken[:, 1:] == taken[:, :-1], nothing)
    taken = taken.sort(dim=1).values
    number = (taken < nothing).sum(dim=1, keepdim=True)
    whole = number >= num_items
    taken, number = taken.masked_fill(whole, nothing), number.masked_fill(whole, 0)
    # the r-th free token is r + 1 plus the number of taken ones before it: those whose own free predecessors are <= r
    free = (torch.rand(labels.shape, device=labels.device, dtype=torch.float64) * (num_items - number)).long()
    before = taken - torch.arange(taken.shape[1], device=taken.device) - 1
    before = before.masked_fill(taken == nothing, num_items)
    return (free + 1 + torch.searchsorted(before, free, right=True))[labels != -100]


__all__ = [
    "ItemEmbeddings",
    "NextItemOutput",
    "SelfAttention",
    "SequentialForNextItem",
    "SequentialPreTrainedModel",
]
