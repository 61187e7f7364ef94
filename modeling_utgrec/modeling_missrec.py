"""MISSRec: histories read together with the interests that their items' texts and images belong to (Wang et al.,
"MISSRec: Pre-training and Transferring Multi-modal Interest-aware Sequence Representation for Recommendation", 2023).
"""

from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_missrec import MISSRecConfig
from .encoding_parts import histories_by_length
from .loss_contrastive import in_batch_cross_entropy, info_nce, same_targets
from .loss_cross_entropy import MOST_LOGITS, MOST_LOGITS_ON_ACCELERATORS
from .modeling_content import ContentForNextItem, ContentItems, ContentModel, last_labels
from .modeling_post_norm import PostNormBlock
from .modeling_sequential import (
    WHOLE,
    ItemEmbeddings,
    NextItemOutput,
    SelfAttention,
    bidirectional_mask,
    rows_of_tokens,
)
from .process_rows import gathered


class Candidates(NamedTuple):
    """
    What items are scored by: the same ones for all rows of states, or, with one more dimension in front, some of each
    row.

    Args:
        vectors (`torch.FloatTensor` of shape `(items, modalities, hidden_size)`): of texts and images, of length 1.
        present (`torch.BoolTensor` of shape `(items, modalities)`): which of them there are.
        ids (`torch.FloatTensor` of shape `(items, hidden_size)`, *optional*): embeddings of ids, of length 1.
        offsets (`torch.FloatTensor` of shape `(items,)`, *optional*): what the items' own φ differ from the common
            one by.
    """

    vectors: Tensor
    present: Tensor
    ids: Tensor | None = None
    offsets: Tensor | None = None

    def rows(self, rows: Tensor | slice) -> "Candidates":
        return Candidates(*(None if each is None else each[rows] for each in self))  # type: ignore[arg-type]


def fused_scores(states: Tensor, candidates: Candidates, sharpness: Tensor) -> Tensor:
    """
    Scores of all pairs of states and items (Wang et al. 2023, Eqs. 9-10): the cosines of text and image, weighed by
    their softmax times `sharpness`. What an item lacks has no part in it. With embeddings of ids their cosine is a
    third of the score.

    Args:
        states (`torch.FloatTensor` of shape `(rows, hidden_size)`): of length 1.
        candidates ([`Candidates`]): the items.
        sharpness (`torch.FloatTensor` of shape `()`): φ; 0 for the mean. Items may have offsets to it.

    Returns:
        `torch.FloatTensor` of shape `(rows, items)`.
    """

    def cosine(vectors: Tensor) -> Tensor:
        return states @ vectors.T if vectors.ndim == 2 else torch.einsum("rd,rid->ri", states, vectors)

    cosines = [cosine(vectors) for vectors in candidates.vectors.unbind(-2)]
    if len(cosines) == 1:
        fused = cosines[0]
    else:
        own = sharpness if candidates.offsets is None else sharpness + candidates.offsets
        weights = [
            (own * each).masked_fill(~present, -torch.inf)
            for each, present in zip(cosines, candidates.present.unbind(-1), strict=True)
        ]
        shares = torch.stack(weights).softmax(0)
        fused = sum(share * each for share, each in zip(shares, cosines, strict=True))  # type: ignore[assignment]
    return fused if candidates.ids is None else (cosine(candidates.ids) + 2 * fused) / 3


class MISSRecItems(ContentItems):
    """Texts and images of items, adapted to one width, with what each item lacks, and the interests they belong to."""

    present: Tensor
    centroids: Tensor
    interests: Tensor

    def __init__(self, config: MISSRecConfig):
        super().__init__(config, config.transductive)
        sizes = {"text": config.content_size}
        if config.image_size is not None:
            sizes["image"] = config.image_size
        self.modalities = tuple(sizes)
        self.stacked = config.history_fusion == "stack"
        self.tables = (*self.modalities, "present")
        self.adapters = nn.ModuleList([nn.Linear(size, config.hidden_size) for size in sizes.values()])
        for name, size in sizes.items():
            self.add_table(name, torch.zeros(config.num_items, size))
        shape = (config.num_items, len(sizes))
        self.add_table("present", torch.zeros(shape, dtype=torch.bool))
        self.add_table("interests", torch.full(shape, -1))
        centroids = torch.zeros(config.num_interests, config.hidden_size) if config.num_items else None
        self.register_buffer("centroids", centroids)

    @property
    def given(self) -> tuple[str, ...]:
        return self.modalities

    def stored(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        present = torch.stack([~table.isnan().all(1) for table in given.values()], dim=1)
        without = (~present.any(1)).nonzero().flatten().tolist()
        if without:
            raise ValueError(
                f"{len(without)} items have neither of {', '.join(given)}, the first in row {without[0]}."
            )
        return {name: table.nan_to_num(0.0) for name, table in given.items()} | {"present": present}

    def adapted(self, *rows: Tensor) -> Tensor:
        """Rows `(..., width)` of the content of each modality, whatever follows them, to vectors `(..., modalities,
        hidden_size)`."""
        return torch.stack([adapt(each) for adapt, each in zip(self.adapters, rows, strict=False)], dim=-2)

    def of_rows(self, *rows: Tensor) -> Tensor:
        """What is read of items: the sum of what there is of each `(..., hidden_size)`, or, stacked, each by itself
        and 1 for what there is, `(..., modalities * (hidden_size + 1))`."""
        adapted, present = self.adapted(*rows), rows[-1]
        if not self.stacked:
            return (adapted * present[..., None]).sum(-2)
        return torch.cat([adapted.flatten(-2), present.to(adapted.dtype)], dim=-1)

    def with_ids(self, vectors: Tensor, ids: Tensor) -> Tensor:
        if not self.stacked:
            return super().with_ids(vectors, ids)
        number = len(self.modalities)
        return torch.cat([vectors[..., :-number] + torch.cat([ids] * number, -1), vectors[..., -number:]], dim=-1)

    def unstacked(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Stacked vectors of histories `(batch, history, ...)` by modality, `(batch, modalities, history,
        hidden_size)`, and bool `(batch, modalities, history)`, which there are."""
        number = len(self.modalities)
        each = vectors[..., :-number].unflatten(-1, (number, -1)).transpose(1, 2)
        return each, vectors[..., -number:].transpose(1, 2) > 0.5

    def interest_sets(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """The distinct interests of each history: centroids `(batch, most, hidden_size)`, bool `(batch, most)`."""
        found = self.interests[(input_ids - 1).clamp(min=0)].masked_fill((input_ids == 0)[..., None], -1)
        found = found.flatten(1).sort(dim=1, descending=True).values
        known = found >= 0
        known[:, 1:] &= found[:, 1:] != found[:, :-1]
        order = known.logical_not().to(torch.uint8).argsort(dim=1, stable=True)
        most = max(1, int(known.sum(1).max()))
        found, known = (each.gather(1, order)[:, :most] for each in (found, known))
        return F.embedding(found.clamp(min=0), self.centroids), known


class InterestBlock(nn.Module):
    """Post-norm block of a decoder: items read each other, then the user's interests."""

    def __init__(self, config: MISSRecConfig):
        super().__init__()
        self.items = PostNormBlock(config, config.inner_size, config.layer_norm_eps)
        self.reading = SelfAttention(config)
        self.reading_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(
        self,
        states: Tensor,
        mask: Tensor,
        interests: Tensor,
        interest_mask: Tensor,
        columns: slice | list[int] = WHOLE,
    ) -> Tensor:
        """
        Args:
            states (`torch.FloatTensor` of shape `(batch, history, hidden_size)`): of the items.
            mask (`torch.BoolTensor` of shape `(batch, 1, history, history)`): true where a row may read a column.
            interests (`torch.FloatTensor` of shape `(batch, interests, hidden_size)`): encoded.
            interest_mask (`torch.BoolTensor` of shape `(batch, 1, 1, interests)`): which there are, one at least.
            columns (`slice` or `list[int]`, *optional*): those whose states are made, by default all.
        """
        states = self.items.attended(states, mask, columns)
        states = self.reading_norm(states + self.dropout(self.reading(states, interest_mask, interests)))
        return self.items.fed_forward(states)


class MISSRecModel(ContentModel):
    """
    The network of MISSRec: an encoder of the interests of a history, which are a set, and a decoder of its items,
    which reads in both directions and looks at them. The state of the last item is what recommends.
    """

    config: MISSRecConfig

    def __init__(self, config: MISSRecConfig):
        super().__init__(config)
        eps, of_interests = config.layer_norm_eps, config.num_layers // 2
        items = MISSRecItems(config)
        self.embeddings = ItemEmbeddings(config, config.max_history, norm=True, eps=eps, items=items)
        self.interest_blocks = nn.ModuleList(
            [PostNormBlock(config, config.inner_size, eps) for _ in range(of_interests)]
        )
        self.interest_norm = nn.LayerNorm(config.hidden_size, eps=eps)
        self.blocks = nn.ModuleList([InterestBlock(config) for _ in range(config.num_layers - of_interests)])
        self.norm = nn.LayerNorm(config.hidden_size, eps=eps)
        self.post_init()

    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, MISSRecItems) and module.num_items:
            init.zeros_(module.centroids)
            init.constant_(module.interests, -1)

    def encode_interests(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Encoded interests of histories `(batch, most, hidden_size)`, and bool `(batch, most)`, which there are."""
        items: MISSRecItems = self.embeddings.items  # type: ignore[assignment]
        interests, known = items.interest_sets(input_ids)
        mask = bidirectional_mask(known)
        for block in self.interest_blocks:
            interests = block(interests, mask)
        return self.interest_norm(interests), known

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        item_vectors: Tensor | None = None,
        interests: tuple[Tensor, Tensor] | None = None,
        last_only: bool = False,
    ) -> BaseModelOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, history)`): item tokens, padded on the left with 0.
            attention_mask (`torch.Tensor` of shape `(batch_size, history)`, *optional*): 0 on padding.
            item_vectors (`torch.FloatTensor` of shape `(items, hidden_size)`, *optional*): what is read of all items,
                where it was made before.
            interests (*optional*): what `encode_interests` gives, where it was called before.
            last_only (`bool`, *optional*, defaults to `False`): make the last position's state alone.

        Raises:
            ValueError: more than `max_history` columns.
        """
        attention_mask = self.item_mask(input_ids, attention_mask)
        encoded, known = self.encode_interests(input_ids) if interests is None else interests
        items: MISSRecItems = self.embeddings.items  # type: ignore[assignment]
        if items.stacked:
            vectors = items(input_ids) if item_vectors is None else rows_of_tokens(input_ids, item_vectors)
            each, present = items.unstacked(vectors)
            present = present & attention_mask.bool()[:, None]
            states = self.embeddings.placed(each, present).flatten(1, 2)
            mask = bidirectional_mask(present.flatten(1))
        else:
            states = self.embeddings(input_ids, attention_mask, item_vectors)
            mask = bidirectional_mask(attention_mask)
        # before interests are discovered the first place is read: a softmax over nothing has no value
        known = known | (~known.any(1, keepdim=True) & (torch.arange(known.shape[1], device=known.device) == 0))
        history, number = input_ids.shape[1], len(items.modalities) if items.stacked else 1
        last = [history * (place + 1) - 1 for place in range(number)]
        for block in self.blocks:
            columns = last if last_only and block is self.blocks[-1] else WHOLE
            states = block(states, mask, encoded, known[:, None, None, :], columns)
        if number > 1:
            of_text, of_image = states.unflatten(1, (2, -1)).unbind(1)
            has_text = present[:, 0, -of_text.shape[1] :, None]
            states = torch.where(has_text, of_text, of_image)
        return BaseModelOutput(last_hidden_state=self.norm(states))


class MISSRecForNextItem(ContentForNextItem):
    """
    MISSRec on one domain, from scratch or fine-tuned. A row is a history and its next item: the decoder sees all of a
    history at once. An item is scored by what there is of its text and its image, see [`fused_scores`].

    `set_items` takes `text` `(num_items, content_size)` and, if the model reads images, `image` `(num_items,
    image_size)`; a row of NaN says that the item has none, and it must have one of them. `set_interests` takes the
    clusters of their adapted vectors, which training finds anew before every epoch and which the checkpoint holds.

    Example:

    ```python
    >>> import torch
    >>> from modeling_utgrec import MISSRecConfig, MISSRecForNextItem
    >>> model = MISSRecForNextItem(MISSRecConfig(num_items=1000, content_size=384, num_interests=10)).eval()
    >>> model = model.set_items(text=torch.randn(1000, 384))
    >>> model.set_interests(torch.randn(10, 300), torch.randint(10, (1000, 1)))
    >>> model.scores(model.user_states(torch.tensor([[0, 17, 301]])), model.candidates()).shape
    torch.Size([1, 1000])
    ```
    """

    config: MISSRecConfig
    encoder_class = MISSRecModel
    training_targets = "last"
    takes_last_only = True

    def __init__(self, config: MISSRecConfig):
        super().__init__(config)
        self.sharpness = nn.Parameter(torch.zeros(())) if self._is_weighed else None
        by_item = self._is_weighed and config.fusion == "dynamic_by_item" and config.num_items
        self.sharpness_offsets = nn.Parameter(torch.zeros(config.num_items)) if by_item else None
        self.post_init()

    @property
    def _is_weighed(self) -> bool:
        return self.config.fusion != "mean" and self.config.image_size is not None

    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        for each in ("sharpness", "sharpness_offsets"):
            weights = getattr(self, each, None)
            if module is self and weights is not None:
                init.zeros_(weights)

    @property
    def content_items(self) -> MISSRecItems:
        return self.model.embeddings.items

    def candidates(self, rows: Tensor | None = None) -> Candidates:
        """Items as they are scored, by default all."""
        items, offsets = self.content_items, self.sharpness_offsets
        ids: Tensor | None = None
        if items.ids is not None:
            ids = F.normalize(items.ids.weight[1:] if rows is None else items.ids(rows + 1), dim=-1)
        if rows is None:
            return Candidates(items.of_all(self._unit_vectors), items.present, ids, offsets)
        tables = [getattr(items, name)[rows] for name in items.tables]
        own = None if offsets is None else offsets[rows]
        return Candidates(self._unit_vectors(*tables), items.present[rows], ids, own)

    def _unit_vectors(self, *rows: Tensor) -> Tensor:
        return F.normalize(self.content_items.adapted(*rows), dim=-1)

    def scores(self, states: Tensor, candidates: Candidates) -> Tensor:
        """Scores `(rows, items)` of `user_states` `(rows, hidden_size)`, over the temperature."""
        sharpness = states.new_zeros(()) if self.sharpness is None else self.sharpness
        return fused_scores(states, candidates, sharpness) / self.config.temperature

    def scoring_states(self, states: Tensor) -> Tensor:
        return F.normalize(states, dim=-1)

    def candidate_embeddings(self, item_vectors: Tensor | None = None) -> Tensor:
        raise NotImplementedError("MISSRec's score is no dot product: use `candidates` and `scores`.")

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
            attention_mask (`torch.Tensor` of shape `(batch_size, history)`, *optional*): 0 on padding.
            labels (`torch.LongTensor` of shape `(batch_size, history)`, *optional*):
                The token of the item that follows in the last column, -100 before.
            num_items_in_batch (`int`, *optional*):
                Divides the summed loss in place of the number of rows here; for gradient accumulation.

        Returns:
            [`NextItemOutput`]; the loss is cross-entropy over all items and the regularization of interests.

        Raises:
            ValueError: the input is longer than the model reads, or rows have no label in their last column alone.
        """
        attention_mask = self.item_mask(input_ids, attention_mask)
        if labels is None:
            return NextItemOutput(last_hidden_state=self.model(input_ids, attention_mask).last_hidden_state)
        states, interests = self._last_states(input_ids, attention_mask)
        # without any label: of a process whose rows are all another's, and the loss is 0
        rows = len(labels) if labels.ne(-100).any() else 0
        targets = last_labels(labels[:rows])
        loss = self._cross_entropy(self.scoring_states(states[:rows, -1]), targets - 1) / max(rows, 1)
        loss = loss + self.config.interest_weight * self.interest_regularization(*interests)
        if num_items_in_batch is not None or not rows:
            loss = loss * rows / (1 if num_items_in_batch is None else num_items_in_batch)
        return NextItemOutput(loss=loss, last_hidden_state=states)

    def _last_states(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """States of the last positions `(batch, 1, hidden_size)`, and what `encode_interests` gives, of the same rows
        in any order."""
        parts: list[tuple[Tensor, Tensor]] = []

        def encode(rows: Tensor | slice, columns: int) -> Tensor:
            tokens, mask = input_ids[rows, -columns:], attention_mask[rows, -columns:]
            parts.append(self.model.encode_interests(tokens))
            return self.model(tokens, mask, interests=parts[-1], last_only=True).last_hidden_state

        states = histories_by_length(encode, attention_mask, last_only=True)
        most = max(known.shape[1] for _, known in parts)
        encoded = torch.cat([F.pad(each, (0, 0, 0, most - each.shape[1])) for each, _ in parts])
        return states, (encoded, torch.cat([F.pad(known, (0, most - known.shape[1])) for _, known in parts]))

    def _cross_entropy(self, states: Tensor, targets: Tensor) -> Tensor:
        """Summed over rows; scores of as many rows at a time as fit in, and made again for their gradient."""
        candidates = self.candidates()
        most = MOST_LOGITS.get(states.device.type, MOST_LOGITS_ON_ACCELERATORS)
        rows = max(1, most // len(candidates.vectors))

        def part(states: Tensor, targets: Tensor) -> Tensor:
            return F.cross_entropy(self.scores(states, candidates).float(), targets, reduction="sum")

        parts = zip(states.split(rows), targets.split(rows), strict=True)
        if rows >= len(states):
            return part(states, targets)
        return torch.stack([checkpoint(part, *each, use_reentrant=False) for each in parts]).sum()

    def interest_regularization(self, encoded: Tensor, known: Tensor) -> Tensor:
        """How alike a user's encoded interests `(batch, most, hidden_size)` are, see [`MISSRecConfig`]."""
        weights = known.to(encoded.dtype)
        if self.config.interest_regularization == "pooled":
            share = weights.mean(1)
            return ((encoded * weights[..., None]).sum(1) * share[:, None]).square().sum() / encoded.shape[-1]
        unit = F.normalize(encoded, dim=-1) * weights[..., None]
        number = weights.sum(1)
        squares = (unit @ unit.transpose(1, 2)).square().sum((1, 2)) - number  # without those with themselves
        return (squares / (number * (number - 1)).clamp(min=1)).mean()

    def _check_table(self, name: str, table: Tensor) -> None:
        super()._check_table(name, table.masked_fill(table.isnan().all(1, keepdim=True), 0.0))

    @torch.no_grad()
    def points(self) -> tuple[Tensor, Tensor]:
        """What interests are clusters of: the adapted vectors `(points, hidden_size)` of what there is, text before
        image, and where they are in `(items, modalities)`, int64 `(points, 2)`."""
        items = self.content_items
        vectors = items.of_all(items.adapted)
        places = torch.cat(
            [F.pad(each.nonzero(), (0, 1), value=number) for number, each in enumerate(items.present.unbind(1))]
        )
        return vectors[places[:, 0], places[:, 1]], places

    @torch.no_grad()
    def set_interests(self, centroids: Tensor, interests: Tensor) -> None:
        """
        Sets the interests, constants of the training until they are found anew.

        Args:
            centroids (`torch.FloatTensor` of shape `(num_interests, hidden_size)`): of the clusters of `points`.
            interests (`torch.LongTensor` of shape `(num_items, modalities)`): cluster of each, -1 for what is missing.
        """
        items = self.content_items
        items.centroids.copy_(centroids)
        items.interests.copy_(interests.masked_fill(~items.present, -1))

    def freeze_encoder(self) -> None:
        """Keeps the transformer and its positions as they are."""
        super().freeze_encoder()
        for module in (self.model.norm, self.model.interest_blocks, self.model.interest_norm):
            module.requires_grad_(False)

    def without_items(self, **config: Any) -> Self:
        return super().without_items(num_interests=1, **config)


class MISSRecForPreTraining(MISSRecForNextItem):
    """
    MISSRec's pre-training on the sequences of several domains, mixed in every batch: a row's next item against those
    of the other rows, by the fused score, and its sequence against augmented ones. Interests of a shorter sequence are
    those of the items that are left.
    """

    training_batches = "augmented"
    in_batch_negatives = True

    @can_return_tuple
    def forward(  # type: ignore[override]
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        augmented_ids: torch.LongTensor | None = None,
        augmented_content: Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> NextItemOutput:
        """Arguments, result and errors as [`UniSRecForPreTraining.forward`]. Items that lose words keep their images
        and interests; there are no embeddings of ids."""
        config = self.config
        attention_mask = self.item_mask(input_ids, attention_mask)
        if labels is None:
            return NextItemOutput(last_hidden_state=self.model(input_ids, attention_mask).last_hidden_state)
        states, interests = self._last_states(input_ids, attention_mask)
        targets = last_labels(labels)
        excluded = same_targets(targets) if config.duplicates == "excluded" else None
        own = self.candidates(targets - 1)
        offsets = None if own.offsets is None else gathered(own.offsets)
        others = Candidates(gathered(own.vectors), gathered(own.present.to(own.vectors.dtype)) > 0.5, None, offsets)
        scores = self.scores(self.scoring_states(states[:, -1]), others).float()
        loss = in_batch_cross_entropy(scores[None], excluded)
        loss = loss + config.interest_weight * self.interest_regularization(*interests)
        if augmented_ids is not None:
            shorter, of_shorter = self._augmented(input_ids, augmented_ids, augmented_content)
            pairs = info_nce(states, shorter, config.temperature, excluded)
            loss = loss + config.augmentation_weight * pairs
            loss = loss + config.interest_weight * self.interest_regularization(*of_shorter)
        if num_items_in_batch is not None:
            loss = loss * len(targets) / num_items_in_batch
        return NextItemOutput(loss=loss, last_hidden_state=states)

    def _augmented(self, input_ids: Tensor, augmented_ids: Tensor, content: Tensor | None) -> Any:
        if content is None:
            return self._last_states(augmented_ids, self.item_mask(augmented_ids, None))
        # the same places, of which some are read with fewer words
        interests = self.model.encode_interests(input_ids)
        poorer = augmented_ids > self.config.num_items
        items, rows = self.content_items, (input_ids - 1).clamp(min=0)
        tables = [getattr(items, name)[rows] for name in items.tables]
        numbers = (augmented_ids - self.config.num_items - 1).clamp(min=0)
        tables[0] = torch.where(poorer[..., None], content.to(tables[0])[numbers], tables[0])
        vectors = items.of_rows(*tables)
        places = torch.arange(1, input_ids.numel() + 1, device=input_ids.device).view_as(input_ids)
        numbered = places.masked_fill(input_ids == 0, 0)
        states = self.model(numbered, None, vectors.flatten(0, 1), interests, last_only=True).last_hidden_state
        return states, interests


__all__ = ["MISSRecForNextItem", "MISSRecForPreTraining", "MISSRecModel"]
