"""Bases of the recommenders that read content of items: UniSRec, VQ-Rec, MISSRec, FDSA."""

from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import initialization as init
from transformers.utils.generic import can_return_tuple

from .configuration_content import ContentConfig
from .configuration_post_norm import PostNormConfig
from .loss_cross_entropy import sampled_cross_entropy
from .modeling_sequential import NextItemOutput, SequentialForNextItem, SequentialPreTrainedModel

# Items whose vectors are made at a time: bounds the memory of a large catalogue.
ITEMS_AT_A_TIME = 16384


class ContentItems(nn.Module):
    """
    Vectors of items that are made from what is known of them, kept as buffers with a row for each item.

    A subclass names these buffers in `tables`, makes vectors of some rows of them in `of_rows`, and may have
    embeddings of item tokens in `ids`, which are added. What it is `given` are its tables, unless it says otherwise
    and makes them in `stored`.
    """

    tables: tuple[str, ...] = ()

    @property
    def given(self) -> tuple[str, ...]:
        """What `set_items` takes, by name."""
        return self.tables

    def stored(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tables, of what was given.

        Raises:
            ValueError: there is too little of an item.
        """
        return given

    def __init__(self, config: PostNormConfig, transductive: bool = False):
        super().__init__()
        self.num_items = config.num_items
        width, padding = config.hidden_size, config.pad_token_id
        self.ids = nn.Embedding(config.vocab_size, width, padding_idx=padding) if transductive else None

    def add_table(self, name: str, table: Tensor) -> None:
        """A buffer with a row for each item, which the checkpoint has; None without items."""
        self.register_buffer(name, table if self.num_items else None)

    def of_rows(self, *rows: Tensor) -> Tensor:
        """Rows `(..., width)` of each of `tables` to vectors `(..., hidden_size)`."""
        raise NotImplementedError

    def forward(self, input_ids: Tensor) -> Tensor:
        """Item tokens `(batch, history)` to vectors `(batch, history, hidden_size)`; those of padding mean nothing."""
        rows = [getattr(self, name)[(input_ids - 1).clamp(min=0)] for name in self.tables]
        vectors = self.of_rows(*rows)
        return vectors if self.ids is None else self.with_ids(vectors, self.ids(input_ids))

    def with_ids(self, vectors: Tensor, ids: Tensor) -> Tensor:
        """What is made of the content, with embeddings of ids `(..., hidden_size)`."""
        return vectors + ids

    def of_all(self, make: Callable[..., Tensor]) -> Tensor:
        """What `make` makes of rows of each of `tables`, of all items. Of a large catalogue nothing is held but this:
        it is made of some items at a time, and again for their gradient."""
        parts = [*zip(*(getattr(self, name).split(ITEMS_AT_A_TIME) for name in self.tables), strict=True)]
        if len(parts) == 1:
            return make(*parts[0])
        if torch.is_grad_enabled():
            return torch.cat([checkpoint(make, *part, use_reentrant=False) for part in parts])
        return torch.cat([make(*part) for part in parts])

    def vectors(self) -> Tensor:
        """`(num_items, hidden_size)`."""
        vectors = self.of_all(self.of_rows)
        return vectors if self.ids is None else self.with_ids(vectors, self.ids.weight[1:])


class ContentModel(SequentialPreTrainedModel):
    """What encoders have whose `embeddings.items` are [`ContentItems`]; the network is another base's."""

    config: ContentConfig

    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, ContentItems):
            for name in module.tables:  # a checkpoint without items has none
                if getattr(module, name) is not None:
                    init.zeros_(getattr(module, name))

    def get_input_embeddings(self) -> nn.Embedding | None:  # type: ignore[override]
        """The embeddings of item tokens, None where items are made from content alone."""
        return self.embeddings.items.ids  # type: ignore[return-value, union-attr]

    def set_input_embeddings(self, value: nn.Module):
        self.embeddings.items.ids = value  # type: ignore[assignment, union-attr]


class ReadsContent(SequentialForNextItem):
    """
    Base of the recommenders that read more of items than their ids. A model is made for so many items and then given
    what it reads of them by `set_items`; checkpoints hold it.
    """

    config: PostNormConfig

    @property
    def content_items(self) -> ContentItems:
        """What makes the items' vectors."""
        return self.model.embeddings.items

    def item_vectors(self) -> Tensor:
        """What the encoder reads of the items, `(num_items, hidden_size)`. In training one draw of noise and dropout
        for each item."""
        return self.content_items.vectors()

    def user_states(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, item_vectors: Tensor | None = None
    ) -> Tensor:
        """As [`SequentialForNextItem.user_states`]; `item_vectors`, where they are at hand, are not made again."""
        attention_mask = self.item_mask(input_ids, attention_mask)
        states = self.model(input_ids, attention_mask, item_vectors=item_vectors, **self.of_last).last_hidden_state
        return self.scoring_states(states[:, -1])

    @torch.no_grad()
    def set_items(self, **tables: Tensor) -> Self:
        """
        Gives the model its items.

        Args:
            tables: what the model's items are made from, by name, a row for each item.

        Returns:
            The model itself.

        Raises:
            ValueError: a table is missing or unknown, of another shape than the model's, or not finite. The model
                has then the items that it had.
        """
        items = self.content_items
        if tables.keys() != set(items.given):
            raise ValueError(f"The items need {', '.join(items.given)}, got {', '.join(tables) or 'nothing'}.")
        if not items.num_items:
            raise ValueError("The model has no items: make one for the catalogue's num_items.")
        for name, table in tables.items():
            own = getattr(items, name)
            if table.shape != own.shape:
                raise ValueError(
                    f"{name}: the model reads {tuple(own.shape)}, items and width, and got {tuple(table.shape)}."
                )
            self._check_table(name, table)
        for name, table in items.stored({name: tables[name] for name in items.given}).items():
            getattr(items, name).copy_(table)
        return self

    def _check_table(self, name: str, table: Tensor) -> None:
        """Raises ValueError where values of a table make no sense."""
        broken = (~table.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
        if broken:
            raise ValueError(f"{name}: {len(broken)} items have NaN or infinity, the first in row {broken[0]}.")


class ContentForNextItem(ReadsContent):
    """
    Base of the recommenders whose items are made from content, with or without embeddings of their ids. A score is the
    cosine of state and item over `config.temperature`, and without ids an item that nobody has interacted with is
    scored as any other.
    """

    config: ContentConfig

    def get_input_embeddings(self) -> nn.Embedding | None:  # type: ignore[override]
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.model.set_input_embeddings(value)

    def candidate_embeddings(self, item_vectors: Tensor | None = None) -> Tensor:
        return F.normalize(self.item_vectors() if item_vectors is None else item_vectors, dim=-1)

    @property
    def item_embeddings(self) -> Tensor:
        """`(num_items, hidden_size)`, of length 1."""
        return self.candidate_embeddings()

    def scoring_states(self, states: Tensor) -> Tensor:
        return F.normalize(states, dim=-1) / self.config.temperature

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> NextItemOutput:
        """As [`SequentialForNextItem.forward`]. With the loss `"sampled"` only the batch's items and the negatives are
        made from their content: a large catalogue costs no more than a small one."""
        if labels is None or self.config.loss != "sampled" or labels.shape != input_ids.shape:
            return super().forward(input_ids, attention_mask, labels, num_items_in_batch)
        config, labelled = self.config, labels != -100
        negatives = torch.randint(config.num_items, (config.num_negatives,), device=input_ids.device)
        tokens, (inputs, targets, others) = batch_items(input_ids, labels[labelled], negatives + 1)
        vectors = self.content_items(tokens[None])[0]
        attention_mask = self.item_mask(input_ids, attention_mask)
        states = self.states_by_length(inputs, attention_mask, item_vectors=vectors)
        loss = sampled_cross_entropy(
            self.scoring_states(states[labelled]),
            self.candidate_embeddings(vectors),
            targets - 1,
            others - 1,
            self.log_correction,
        )
        loss = loss / (labelled.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch)
        return NextItemOutput(loss=loss, last_hidden_state=states)

    def freeze_encoder(self) -> None:
        """Keeps blocks and positions as they are: fine-tuning trains what makes items' vectors, and the layer norm of
        the input (Hou et al. 2022, section 2.3.2)."""
        self.model.blocks.requires_grad_(False)
        self.model.embeddings.positions.requires_grad_(False)

    def without_items(self, **config: Any) -> Self:
        """A copy that has nothing of the catalogue, as pre-training leaves it; `config` are further changes."""
        none = {"num_items": 0, "items_fingerprint": None, "item_ids_fingerprint": None}
        values = self.config.to_dict() | none | config
        model = type(self)(type(self.config)(**values))
        kept = {name: tensor for name, tensor in self.state_dict().items() if name in model.state_dict()}
        model.load_state_dict(kept)
        return model.to(self.device)  # type: ignore[arg-type]


def batch_items(input_ids: Tensor, *more: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The distinct item tokens `(U,)` of some inputs, ascending and without padding, and the inputs with the place of
    each token among them, from 1, in its stead; padding stays 0. Of a large catalogue only those take part in a step.
    """
    flat = torch.cat([each.flatten() for each in (input_ids, *more)])
    tokens = flat[flat > 0].unique()
    return tokens, [
        torch.where(each > 0, torch.searchsorted(tokens, each.contiguous()) + 1, 0) for each in (input_ids, *more)
    ]


def last_labels(labels: Tensor) -> Tensor:
    """The labels `(batch,)` of the last column.

    Raises:
        ValueError: a row has none there, or another one before.
    """
    labelled = labels != -100
    if not labelled[:, -1].all() or labelled[:, :-1].any():
        raise ValueError("Contrastive pre-training takes rows of one target each, labelled in the last column alone.")
    return labels[:, -1]


__all__ = ["ContentForNextItem", "ContentItems", "ContentModel", "ReadsContent", "batch_items", "last_labels"]
