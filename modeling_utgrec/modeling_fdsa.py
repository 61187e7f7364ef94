"""FDSA: one transformer over the items of a history and one over their features (Zhang et al., "Feature-level Deeper
Self-Attention Network for Sequential Recommendation", 2019)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_fdsa import FDSAConfig
from .modeling_content import ContentItems, ReadsContent
from .modeling_post_norm import PostNormBlock, PostNormModel
from .modeling_sequential import causal_mask, rows_of_tokens


class TextFeatures(ContentItems):
    """`ReLU(A x + b)` of the embedding x of an item's text."""

    tables = ("content",)

    def __init__(self, config: FDSAConfig):
        super().__init__(config)
        self.adapter = nn.Linear(config.content_size, config.hidden_size)
        self.add_table("content", torch.zeros(config.num_items, config.content_size))

    def of_rows(self, *rows: Tensor) -> Tensor:
        return F.relu(self.adapter(*rows))


class FieldFeatures(ContentItems):
    """
    Fields of an item, weighed by attention (Zhang et al. 2019, Eqs. 2-3, with RecBole's ReLU): Σ_f α_f a_f, a_f the
    mean of the embeddings of the field's values, or a trained vector where the item has none.
    """

    tables = ("values",)

    def __init__(self, config: FDSAConfig):
        super().__init__(config)
        sizes, width = list(config.field_sizes or []), config.hidden_size
        # of each field: "none", then its values
        self.starts = [sum(sizes[:field]) + field for field in range(len(sizes))]
        self.embeddings = nn.Embedding(sum(sizes) + len(sizes), width)
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, 1)
        shape = (config.num_items, len(sizes), config.values_per_field)
        self.add_table("values", torch.zeros(shape, dtype=torch.long))

    def of_rows(self, *rows: Tensor) -> Tensor:
        (values,) = rows  # (..., fields, values), from 1, 0 for none
        starts = torch.tensor(self.starts, device=values.device)
        present = values > 0
        present[..., 0] |= ~present.any(-1)  # the trained vector of none
        vectors = self.embeddings(values + starts[:, None]) * present[..., None]
        fields = vectors.sum(-2) / present.sum(-1, keepdim=True)
        weights = self.outer(F.relu(self.inner(fields))).softmax(-2)
        return (weights * fields).sum(-2)


class FDSAModel(PostNormModel):
    """
    The encoder of FDSA. Both streams read one table of positions and have norms of their own (RecBole has one norm for
    all three places); the state is the norm of a projection of both.
    """

    config: FDSAConfig

    def __init__(self, config: FDSAConfig):
        super().__init__(config)
        width, eps = config.hidden_size, config.layer_norm_eps
        self.features = (TextFeatures if config.features == "text" else FieldFeatures)(config)
        self.feature_norm = nn.LayerNorm(width, eps=eps)
        self.feature_dropout = nn.Dropout(config.hidden_dropout)
        self.feature_blocks = nn.ModuleList(
            [PostNormBlock(config, config.inner_size, eps) for _ in range(config.num_layers)]
        )
        self.output = nn.Linear(2 * width, width)
        self.output_norm = nn.LayerNorm(width, eps=eps)
        self.post_init()

    @can_return_tuple
    def forward(  # type: ignore[override]
        self, input_ids: Tensor, attention_mask: Tensor | None = None, item_vectors: Tensor | None = None
    ) -> BaseModelOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, history)`): item tokens, padded on the left with 0.
            attention_mask (`torch.Tensor` of shape `(batch_size, history)`, *optional*): 0 on padding.
            item_vectors (`torch.FloatTensor` of shape `(items, hidden_size)`, *optional*): features of all items,
                where they were made before.

        Raises:
            ValueError: more than `max_history` columns.
        """
        attention_mask = self.item_mask(input_ids, attention_mask)
        items = self.embeddings(input_ids, attention_mask)
        features = self.features(input_ids) if item_vectors is None else rows_of_tokens(input_ids, item_vectors)
        positions = self.embeddings.positions
        assert positions is not None
        features = features + positions.weight[: input_ids.shape[1]].flip(0)
        features = self.feature_dropout(self.feature_norm(features)) * attention_mask[..., None].to(features.dtype)
        mask = causal_mask(attention_mask)
        for block, of_features in zip(self.blocks, self.feature_blocks, strict=True):
            items, features = block(items, mask), of_features(features, mask)
        states = self.output_norm(self.output(torch.cat([items, features], dim=-1)))
        return BaseModelOutput(last_hidden_state=states)


class FDSAForNextItem(ReadsContent):
    """
    FDSA. Every position of a window is trained to predict the item that follows it. Items are scored by the embeddings
    of their ids alone: what is known of an item helps to read a history, not to recommend an item that nobody has
    interacted with.

    Example:

    ```python
    >>> import torch
    >>> from modeling_utgrec import FDSAConfig, FDSAForNextItem
    >>> model = FDSAForNextItem(FDSAConfig(num_items=1000, content_size=384)).eval()
    >>> model = model.set_items(content=torch.randn(1000, 384))
    >>> scores = model.user_states(torch.tensor([[0, 17, 301]])) @ model.item_embeddings.T
    >>> scores.shape
    torch.Size([1, 1000])
    ```
    """

    config: FDSAConfig
    encoder_class = FDSAModel
    training_targets = "all"

    @property
    def content_items(self) -> ContentItems:
        return self.model.features

    def training_vectors(self) -> None:
        """None: items are scored by their ids, so that features are made of a batch's items alone."""

    def _check_table(self, name: str, table: Tensor) -> None:
        super()._check_table(name, table)
        if name == "values":
            sizes = torch.tensor(self.config.field_sizes, device=table.device)[:, None]
            if table.is_floating_point() or (table < 0).any() or (table > sizes).any():
                raise ValueError(f"values: whole numbers from 1 to {self.config.field_sizes}, 0 for none.")


__all__ = ["FDSAForNextItem", "FDSAModel"]
