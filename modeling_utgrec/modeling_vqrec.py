"""VQ-Rec: items as means of embeddings of their text's codes (Hou et al., "Learning Vector-Quantized Item
Representation for Transferable Sequential Recommenders", 2023)."""

from collections.abc import Callable
from typing import ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils.generic import can_return_tuple

from .configuration_vqrec import VQRecConfig
from .loss_contrastive import info_nce, same_targets
from .modeling_content import ContentForNextItem, ContentItems, ContentModel, batch_items, last_labels
from .modeling_post_norm import PostNormModel
from .modeling_sequential import NextItemOutput
from .quantization_product import centroid_likeness, nearest_permutations, padded_width, product_codes, sinkhorn

GUMBEL_TEMPERATURE = 0.7  # of the authors' program
QUANTIZER = ("centre", "rotation", "centroids")


class VQRecItems(ContentItems):
    """
    Vectors of items: the mean over groups of the embeddings of their codes (Hou et al. 2023, Eq. 2).

    The codes' quantizer comes along as buffers, so that a new item gets codes where its content is all that is known.

    While a map of codes is learned, embeddings are those of an earlier quantizer's codes in another order: a matrix
    for each group, near to a permutation of its rows by Gumbel noise and Sinkhorn's rounds, and a permutation in the
    forward pass (straight-through). The authors' program rounds without gradient, and each row by itself.
    """

    tables = ("codes",)
    codes: Tensor
    centre: Tensor
    rotation: Tensor
    centroids: Tensor
    code_map: nn.Parameter | None

    def __init__(self, config: VQRecConfig):
        super().__init__(config)
        groups, size, content = config.num_groups, config.codebook_size, config.content_size
        width = padded_width(content, groups)
        self.embeddings = nn.Parameter(torch.empty(groups, size, config.hidden_size))
        self.register_parameter("code_map", None)
        self.add_table("codes", torch.zeros(config.num_items, groups, dtype=torch.long))
        self.register_buffer("centre", torch.zeros(content))
        self.register_buffer("rotation", torch.eye(width))
        self.register_buffer("centroids", torch.zeros(groups, size, width // groups))

    def mapped_embeddings(self) -> Tensor:
        """`(num_groups, codebook_size, hidden_size)`, in the order of the items' codes."""
        if self.code_map is None:
            return self.embeddings
        return self.permutations() @ self.embeddings

    def permutations(self) -> Tensor:
        """The permutations of each group's codes `(num_groups, codebook_size, codebook_size)`: hard ones with the
        gradient of the soft ones; with Gumbel noise in training."""
        assert self.code_map is not None
        logits: Tensor = self.code_map
        if self.training:
            logits = logits - (-torch.rand_like(logits).clamp(min=1e-20).log()).log()
        soft = sinkhorn(logits / GUMBEL_TEMPERATURE)
        return nearest_permutations(soft) - soft.detach() + soft

    def of_all(self, make: Callable[..., Tensor]) -> Tensor:
        """At once: a lookup holds little, and a map of codes is drawn once."""
        return make(self.codes)

    def of_rows(self, *rows: Tensor) -> Tensor:
        (codes,) = rows
        embeddings = self.mapped_embeddings()
        groups, size, _ = embeddings.shape
        places = codes + torch.arange(groups, device=codes.device) * size
        vectors = F.embedding_bag(places.flatten(0, -2), embeddings.flatten(0, 1), mode="mean")
        return vectors.unflatten(0, codes.shape[:-1])


class VQRecModel(ContentModel, PostNormModel):
    """The encoder of VQ-Rec: a causal transformer over the vectors of items."""

    config: VQRecConfig

    def __init__(self, config: VQRecConfig):
        super().__init__(config, VQRecItems(config))

    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, VQRecItems):
            init.normal_(module.embeddings, std=self.config.initializer_range)


class VQRecForNextItem(ContentForNextItem):
    """
    VQ-Rec on one domain, from scratch or fine-tuned: inductive, an item is its codes. Items with equal codes have
    equal scores.

    A pre-trained model is fine-tuned on a new domain with the pre-training's quantizer, or with one of its own and a
    map of its codes to the pre-trained ones: `start_code_map`, training of the map alone, `finish_code_map`.

    Example:

    ```python
    >>> import torch
    >>> from modeling_utgrec import VQRecConfig, VQRecForNextItem
    >>> model = VQRecForNextItem(VQRecConfig(num_items=1000)).eval()
    >>> model = model.set_items(codes=torch.randint(256, (1000, 32)))
    >>> scores = model.user_states(torch.tensor([[0, 17, 301]])) @ model.item_embeddings.T
    >>> scores.shape
    torch.Size([1, 1000])
    ```
    """

    config: VQRecConfig
    encoder_class = VQRecModel
    training_targets: ClassVar[Literal["all", "last", "cloze"]] = "all"
    takes_last_only = True

    @property
    def content_items(self) -> VQRecItems:
        return self.model.embeddings.items

    @torch.no_grad()
    def set_items(self, **tables: Tensor) -> Self:
        """
        Gives the model its items.

        Args:
            tables: `codes`, int64 `(num_items, num_groups)`, and, unless they are the model's already, `centre`,
                `rotation` and `centroids` of their quantizer, see [`product_codes`].

        Raises:
            ValueError: as [`ContentForNextItem.set_items`], or codes that there are not.
        """
        quantizer = {name: tables.pop(name) for name in QUANTIZER if name in tables}
        for name, given in quantizer.items():
            own = getattr(self.content_items, name)
            if own.shape != given.shape:
                raise ValueError(f"{name}: the model has {tuple(own.shape)}, and got {tuple(given.shape)}.")
            if not given.isfinite().all():
                raise ValueError(f"{name}: the quantizer has NaN or infinity.")
        super().set_items(**tables)
        for name, given in quantizer.items():
            getattr(self.content_items, name).copy_(given)
        return self

    def _check_table(self, name: str, table: Tensor) -> None:
        size = self.config.codebook_size
        if table.is_floating_point() or (table.numel() and not 0 <= table.min() <= table.max() < size):
            raise ValueError(f"{name}: codes are whole numbers from 0 to {size - 1}.")

    def save_pretrained(self, save_directory, *args, **kwargs) -> None:
        """As [`~transformers.PreTrainedModel.save_pretrained`].

        Raises:
            ValueError: while a map of codes is learned, which a loaded model would lack without a word.
        """
        if self.content_items.code_map is not None:
            raise ValueError("A map of codes is being learned, and is not saved: call finish_code_map before.")
        super().save_pretrained(save_directory, *args, **kwargs)

    def codes_of(self, content: Tensor) -> Tensor:
        """Codes int64 `(n, num_groups)` of content `(n, content_size)` by the model's quantizer."""
        return product_codes(content, *(getattr(self.content_items, name) for name in QUANTIZER))

    def start_code_map(self, earlier: dict[str, Tensor] | None, scale: float = 10.0) -> None:
        """
        Begins to learn which code of the items' quantizer takes which embedding; nothing else is trained until
        `finish_code_map`.

        Args:
            earlier (`dict`, *optional*): `rotation` and `centroids` of the quantizer that the embeddings are of: the
                map starts from the likeness of both quantizers' centroids. None: from nothing.
            scale (`float`, *optional*, defaults to 10.0): β, multiplies the likeness.
        """
        items = self.content_items
        logits = items.embeddings.new_zeros(*items.embeddings.shape[:2], items.embeddings.shape[1])
        if earlier is not None:
            pairs = (
                (items.rotation, earlier["rotation"].to(items.rotation)),
                (items.centroids, earlier["centroids"].to(items.centroids)),
            )
            logits = scale * centroid_likeness(*pairs)
        self.requires_grad_(False)
        items.code_map = nn.Parameter(logits.clone())

    @torch.no_grad()
    def finish_code_map(self, random: bool = False) -> Tensor:
        """
        Puts the embeddings in the order of the items' codes, for good, and trains all weights again.

        Args:
            random (`bool`, *optional*, defaults to `False`): take a random order in place of what was learned, as the
                authors' program comes to do.

        Returns:
            The permutations, `(num_groups, codebook_size, codebook_size)`.
        """
        items = self.content_items
        assert items.code_map is not None
        logits = torch.rand_like(items.code_map) if random else sinkhorn(items.code_map / GUMBEL_TEMPERATURE)
        hard = nearest_permutations(logits)
        items.embeddings.copy_(hard @ items.embeddings)
        items.code_map = None
        self.requires_grad_(True)
        return hard


class VQRecForPreTraining(VQRecForNextItem):
    """
    VQ-Rec's pre-training on the sequences of several domains, mixed in every batch, whose items have codes of one
    quantizer: contrast with the targets of other rows and with a semi-synthetic item of each row, its target with
    random codes in place of some (Hou et al. 2023, Eqs. 5-6).
    """

    training_targets = "last"
    in_batch_negatives = True

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> NextItemOutput:
        """Arguments, result and errors as [`UniSRecForPreTraining.forward`]; no sequences are augmented."""
        attention_mask = self.item_mask(input_ids, attention_mask)
        if labels is None:
            return NextItemOutput(last_hidden_state=self.model(input_ids, attention_mask).last_hidden_state)
        targets = last_labels(labels)
        tokens, (inputs, places) = batch_items(input_ids, targets[:, None])
        codes = self.content_items.codes[tokens - 1]
        table = self.content_items.of_rows(codes)
        states = self.states_by_length(inputs, attention_mask, last_only=True, item_vectors=table)
        synthetic = self.semi_synthetic(codes[places[:, 0] - 1])
        loss = info_nce(
            states,
            F.embedding(places - 1, table),
            self.config.temperature,
            same_targets(targets),
            0.0 if self.config.duplicates == "zero" else -torch.inf,
            own_negatives=self.content_items.of_rows(synthetic)[:, None],
        )
        if num_items_in_batch is not None:
            loss = loss * len(targets) / num_items_in_batch
        return NextItemOutput(loss=loss, last_hidden_state=states)

    def semi_synthetic(self, codes: Tensor) -> Tensor:
        """Codes `(batch, num_groups)` of which some are drawn anew, each by itself."""
        drawn = torch.randint_like(codes, self.config.codebook_size)
        replaced = torch.rand(codes.shape, device=codes.device) < self.config.replacement_rate
        return torch.where(replaced, drawn, codes)


__all__ = ["VQRecForNextItem", "VQRecForPreTraining", "VQRecModel"]
