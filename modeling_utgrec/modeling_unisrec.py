"""UniSRec: items from text by a mixture of whitening experts, for sequences of any domain (Hou et al., "Towards
Universal Sequence Representation Learning for Recommender Systems", 2022)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils.generic import can_return_tuple

from .configuration_unisrec import UniSRecConfig
from .loss_contrastive import info_nce, same_targets
from .modeling_content import ContentForNextItem, ContentItems, ContentModel, batch_items, last_labels
from .modeling_post_norm import PostNormModel
from .modeling_sequential import NextItemOutput


class WhiteningExperts(nn.Module):
    """
    Mixture of parametric whitening experts (Hou et al. 2022, Eqs. 3-6): Σ_g softmax(gate)_g · W_g (x - b_g).

    W_g and b_g are trained, nothing is estimated from the data. The gate mixes all experts; in training it has noise
    of a learned size, one draw for each item and step.
    """

    def __init__(self, config: UniSRecConfig):
        super().__init__()
        experts, content, width = config.num_experts, config.content_size, config.hidden_size
        self.weight = nn.Parameter(torch.empty(experts, width, content))
        self.shift = nn.Parameter(torch.empty(experts, content))
        self.gate = nn.Parameter(torch.empty(content, experts))
        self.noise = nn.Parameter(torch.empty(content, experts))
        self.dropout = nn.Dropout(config.content_dropout)

    def reset_parameters(self, std: float) -> None:
        init.normal_(self.weight, std=std)
        for parameter in (self.shift, self.gate, self.noise):
            init.zeros_(parameter)

    def forward(self, content: Tensor) -> Tensor:
        """Content `(..., content_size)` to vectors `(..., hidden_size)`."""
        logits = content @ self.gate
        if self.training:
            with torch.autocast(content.device.type, enabled=False):
                spread = F.softplus(content @ self.noise) + 0.01
                logits = logits + torch.randn_like(spread) * spread
        mixed = torch.zeros((), device=content.device, dtype=content.dtype)
        for number, share in enumerate(logits.softmax(-1).split(1, dim=-1)):
            weight = self.weight[number]
            mixed = mixed + share * F.linear(self.dropout(content), weight, -(weight @ self.shift[number]))
        return mixed


class UniSRecItems(ContentItems):
    """Vectors of items: the experts' of their content and, transductive, embeddings of their ids."""

    tables = ("content",)

    def __init__(self, config: UniSRecConfig):
        super().__init__(config, config.transductive)
        self.experts = WhiteningExperts(config)
        self.add_table("content", torch.zeros(config.num_items, config.content_size))

    def of_rows(self, *rows: Tensor) -> Tensor:
        return self.experts(*rows)


class UniSRecModel(ContentModel, PostNormModel):
    """The encoder of UniSRec: a causal transformer over the vectors of items."""

    config: UniSRecConfig

    def __init__(self, config: UniSRecConfig):
        super().__init__(config, UniSRecItems(config))

    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, WhiteningExperts):
            module.reset_parameters(self.config.initializer_range)


class UniSRecForNextItem(ContentForNextItem):
    """
    UniSRec on one domain, from scratch or fine-tuned. Inductive, an item is what is made from its content, and items
    that nobody has interacted with are ranked with the others; transductive (`config.transductive`), it has a learned
    embedding too, which encoder and scores add (Hou et al. 2022, section 2.3.2).

    Example:

    ```python
    >>> import torch
    >>> from modeling_utgrec import UniSRecConfig, UniSRecForNextItem
    >>> model = UniSRecForNextItem(UniSRecConfig(num_items=1000, content_size=384)).eval()
    >>> model = model.set_items(content=torch.randn(1000, 384))
    >>> scores = model.user_states(torch.tensor([[0, 17, 301]])) @ model.item_embeddings.T
    >>> scores.shape
    torch.Size([1, 1000])
    ```
    """

    config: UniSRecConfig
    encoder_class = UniSRecModel
    training_targets = "all"
    takes_last_only = True


class UniSRecForPreTraining(ContentForNextItem):
    """
    UniSRec's pre-training on the sequences of several domains, mixed in every batch: the sequence-item and the
    sequence-sequence contrastive task (Hou et al. 2022, Eqs. 8-10). Negatives are the targets of other rows, most of
    them of other domains.

    Rows are one history and its next item; a row whose target is another row's too is no negative of it.
    """

    config: UniSRecConfig
    encoder_class = UniSRecModel
    training_targets = "last"
    training_batches = "augmented"
    in_batch_negatives = True

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        augmented_ids: torch.LongTensor | None = None,
        augmented_content: Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> NextItemOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, history)`): item tokens, padded on the left with 0.
            attention_mask (`torch.Tensor` of shape `(batch_size, history)`, *optional*): 0 on padding.
            labels (`torch.LongTensor` of shape `(batch_size, history)`, *optional*):
                The token of the item that follows in the last column, -100 before.
            augmented_ids (`torch.LongTensor` of shape `(batch_size, shorter or equal history)`, *optional*):
                The same sequences with items dropped, or with items that lost words: those are tokens beyond the
                items', `num_items + r` for the r-th row of `augmented_content`. Without them there is no
                sequence-sequence task.
            augmented_content (`torch.FloatTensor` of shape `(items that lost words, content_size)`, *optional*):
                embeddings of what is left of their texts.
            num_items_in_batch (`int`, *optional*):
                Divides the summed loss in place of the number of rows here; for gradient accumulation.

        Returns:
            [`NextItemOutput`].

        Raises:
            ValueError: the input is longer than the model reads, or a row has no label in its last column alone.
        """
        attention_mask = self.item_mask(input_ids, attention_mask)
        if labels is None:
            return NextItemOutput(last_hidden_state=self.model(input_ids, attention_mask).last_hidden_state)
        targets = last_labels(labels)
        inputs = [input_ids, targets[:, None], *([] if augmented_ids is None else [augmented_ids])]
        tokens, inputs = batch_items(*inputs)
        content = self.model.embeddings.items.content
        if augmented_content is not None:
            known = tokens <= self.config.num_items
            content = torch.cat([content[tokens[known] - 1], augmented_content.to(content)])
        else:
            content = content[tokens - 1]
        table = self.model.embeddings.items.of_rows(content)
        states = self.states_by_length(inputs[0], attention_mask, last_only=True, item_vectors=table)
        doubles = same_targets(targets), 0.0 if self.config.duplicates == "zero" else -torch.inf
        items = F.embedding(inputs[1] - 1, table)
        loss = info_nce(states, items, self.config.temperature, *doubles)
        if augmented_ids is not None:
            shorter = self.states_by_length(inputs[2], last_only=True, item_vectors=table)
            pairs = info_nce(states, shorter, self.config.temperature, *doubles)
            loss = loss + self.config.augmentation_weight * pairs
        if num_items_in_batch is not None:
            loss = loss * len(targets) / num_items_in_batch
        return NextItemOutput(loss=loss, last_hidden_state=states)


__all__ = ["UniSRecForNextItem", "UniSRecForPreTraining", "UniSRecModel", "WhiteningExperts"]
