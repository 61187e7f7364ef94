"""The item-level recommender: a causal transformer with one position for each item, and a depth head that writes the
next item's codes one after the other.

The two directions are those of MARIUS (arXiv 2508.14910), a timeline transformer over items and a depth network over
the codes of one, and of RQ-Transformer (Lee et al. 2022), whose depth transformer is here a few layers on the sum of
state and codes so far.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .attention_masks import causal_item_mask
from .checkpoint_format import CheckedLoading
from .configuration_item_level import ItemLevelConfig
from .depth_head import DepthHead, DepthHeadPrediction, ResidualLayer
from .generation_histories import whole_items
from .generation_item_level import DepthHeadBeamStep
from .generation_items import BeamStep
from .generation_mixin import ItemRecommendation
from .item_trie import ItemTrie
from .modeling_sequential import SelfAttention
from .node_content import node_content, unit_vectors

# Items whose content is taken in double precision at a time: bounds the memory of a large catalogue.
ITEMS_AT_A_TIME = 16384


@dataclass
class ItemLevelOutput(ModelOutput):
    """
    Output of [`ItemLevelForCausalLM`].

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*, returned when `labels` is given):
            Mean negative log-likelihood of the labels' codes.
        level_losses (`torch.FloatTensor` of shape `(num_levels,)`, *optional*, returned when `labels` is given):
            The same for each level, of which `loss` is the mean.
        last_hidden_state (`torch.FloatTensor` of shape `(batch_size, items, hidden_size)`):
            State of every item, which writes the one that follows. Those of padding mean nothing.
    """

    loss: torch.Tensor | None = None
    level_losses: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None


class ItemLevelBlock(nn.Module):
    """A causal block over the history, norms first."""

    def __init__(self, config: ItemLevelConfig):
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size)
        self.attention = SelfAttention(config)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.feed_forward = ResidualLayer(config)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """
        Args:
            states (`torch.FloatTensor` of shape `(batch, items, hidden_size)`): the block's input.
            mask (`torch.BoolTensor` of shape `(batch, 1, items, items)`): true where a row may read a column.
        """
        states = states + self.dropout(self.attention(self.attention_norm(states), mask))
        return self.feed_forward(states)


class ItemLevelForCausalLM(DepthHeadPrediction, CheckedLoading, ItemRecommendation, GenerationMixin):
    """
    Generative recommender that reads a history at one position an item and writes the next item's codes by a depth
    head. An item is read as the mean of its codes' embeddings, plus a projection of its content vector and an
    embedding of its own, where the configuration has these; its semantic ID is what is generated.

    With `config.node_content` a code is predicted by the content of the items that it leads to, a hierarchical softmax
    over the trie: the head's vector is compared with a node's, which is the projection of its [`node_content`]. What
    an item is like then counts at every level, and a new item has vectors without any training.

    The input is the codes of the user's last `config.max_history` items, flattened, as for the other generative
    recommenders. Padding may stand on either side; positions are counted from the last item. Content vectors, if they
    are read, come with the trie ([`ItemTrie`]) in recommending, so items that are added later have theirs.

    Example:

    ```python
    >>> import torch
    >>> from modeling_utgrec import ItemLevelConfig, ItemLevelForCausalLM, ItemTrie
    >>> model = ItemLevelForCausalLM(ItemLevelConfig()).eval()
    >>> codes = torch.tensor([[17, 201, 3], [17, 9, 3], [200, 0, 11]])
    >>> trie = ItemTrie(codes, model.config.level_sizes, model.config.level_offsets, item_ids=["a", "b", "c"])
    >>> history = codes[:2].add(torch.tensor(model.config.level_offsets)).view(1, -1)
    >>> model.recommend(history, torch.ones_like(history), trie, num_items=2).item_rows.shape
    torch.Size([1, 2])
    ```

    Attributes:
        content_mean (`torch.Tensor` of shape `(content_size,)`):
            What is taken off content vectors before they are scaled to length 1, the training catalogue's mean.
        residual_keys (`torch.LongTensor` of shape `(num_item_residuals,)`):
            Semantic IDs of the items with an embedding of their own, as sorted numbers; both are set by
            [`~ItemLevelForCausalLM.set_catalogue`].
        node_scales (`torch.nn.Parameter` of shape `(num_levels,)`):
            What the projections of the nodes' content are multiplied by, with `config.node_content`.
        code_biases (`torch.nn.Parameter` of shape `(num_rows,)`):
            Biases of the codes, which otherwise are `lm_head`'s; without `config.write_codes`.
    """

    config: ItemLevelConfig
    content_mean: Tensor
    residual_keys: Tensor
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _supports_sdpa = True
    _tied_weights_keys = {"lm_head.weight": "embed_tokens.weight"}
    # the loss is a mean over the batch, the Trainer must divide it by the accumulation steps itself
    accepts_loss_kwargs = False

    def __init__(self, config: ItemLevelConfig):
        super().__init__(config)
        if config.read_codes:
            self.embed_tokens = nn.Embedding(config.num_rows, config.hidden_size)
        self.positions = nn.Embedding(config.max_history, config.hidden_size)
        if config.content_size is not None:
            self.content_projection = nn.Linear(config.content_size, config.hidden_size, bias=False)
            self.register_buffer("content_mean", torch.zeros(config.content_size))
        if config.num_item_residuals:
            self.residuals = nn.Embedding(config.num_item_residuals + 1, config.hidden_size, padding_idx=0)
            self.register_buffer("residual_keys", torch.arange(config.num_item_residuals))
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.blocks = nn.ModuleList([ItemLevelBlock(config) for _ in range(config.num_layers)])
        self.norm = nn.LayerNorm(config.hidden_size)
        self.depth_head = DepthHead(config)
        if config.write_codes:
            self.lm_head = nn.Linear(config.hidden_size, config.num_rows)
        else:
            self.code_biases = nn.Parameter(torch.zeros(config.num_rows))
        if config.node_content:
            assert config.num_levels is not None
            self.node_scales = nn.Parameter(torch.ones(config.num_levels))
        self._catalogues: list[tuple[ItemTrie, list[Tensor]]] = []
        self._domains = self._searched = None
        self.post_init()
        # semantic IDs have a fixed length and no end-of-sequence
        self.generation_config.eos_token_id = None
        self.generation_config.max_new_tokens = config.num_levels

    def generate(self, inputs: Tensor | None = None, *args, **kwargs):
        """As [`~transformers.GenerationMixin.generate`] with `custom_generate=generate_items`: the search among items
        that [`~ItemLevelForCausalLM.recommend`] makes, the one way in which codes are generated here.

        Raises:
            ValueError: for any other generation.
        """
        if kwargs.get("custom_generate") is None:
            raise ValueError(
                "An item-level recommender generates whole items: call `recommend`, or `generate` with "
                "custom_generate=generate_items and a trie."
            )
        return super().generate(inputs, *args, **kwargs)  # type: ignore[misc]  # self is that of a protocol

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        embeddings = [getattr(self, name, None) for name in ("content_projection", "lm_head")]
        if isinstance(module, nn.Linear) and module not in embeddings:
            init.uniform_(module.weight, -(module.in_features**-0.5), module.in_features**-0.5)
        if module is getattr(self, "residuals", None):  # an item begins as one that is not known
            init.zeros_(module.weight)
        if module is self and not self.config.write_codes:
            init.zeros_(self.code_biases)
        if module is self and self.config.node_content:
            init.ones_(self.node_scales)

    @torch.no_grad()
    def start_from_content(self) -> None:
        """
        Makes of a new model one that ranks items by their likeness to the history, its last item and the mean of all
        alike. The projection becomes the principal components of the catalogue's content, the first block's attention
        the mean, and residual layers add nothing yet. To be called after `set_catalogue`, before training; a model
        that starts at random has to learn what likeness is.

        Raises:
            ValueError: without `config.node_content` or a catalogue.
        """
        if not self._catalogues:
            raise ValueError(
                "A start from content is that of a catalogue: set `node_content` and call `set_catalogue` before."
            )
        width = self.config.hidden_size
        parts = [part for _, contents in self._catalogues for part in contents[-1].split(ITEMS_AT_A_TIME)]
        products: Any = sum(part.double().T @ part.double() for part in parts)
        components = torch.linalg.eigh(products).eigenvectors[:, -width:].T.to(self.device)
        # turned at random: a layer norm takes all dimensions for alike
        turn = nn.init.orthogonal_(torch.empty(width, width, device=self.device))[:, : len(components)]
        weight = turn.double() @ components
        length = torch.cat([(part.to(weight) @ weight.T).norm(dim=1) for part in parts]).mean()
        if length > 0:  # else no item has content, or all have the same
            self.content_projection.weight.copy_(weight / length)
        for layer in self.modules():
            if isinstance(layer, ResidualLayer):
                layer.outer.weight.zero_()
        attentions: list[Any] = [block.attention for block in self.blocks]
        for attention in attentions:
            attention.output.weight.zero_()
        attention = attentions[0]
        attention.query.weight.zero_()
        nn.init.eye_(attention.value.weight)
        # a layer norm gives vectors of the length sqrt(width)
        nn.init.eye_(attention.output.weight).mul_(width**-0.5)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embed_tokens if self.config.read_codes else self.depth_head.codes

    def set_input_embeddings(self, value: nn.Module) -> None:
        if self.config.read_codes:
            self.embed_tokens = value  # type: ignore[assignment]
        else:
            self.depth_head.codes = value  # type: ignore[assignment]

    def get_output_embeddings(self) -> nn.Linear | None:
        return self.lm_head if self.config.write_codes else None

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.lm_head = value  # type: ignore[assignment]

    @torch.no_grad()
    def set_catalogue(self, trie: ItemTrie, domains: Sequence[ItemTrie] = ()) -> None:
        """
        Takes from the training catalogue what belongs to the model: the mean of the content vectors, and which items
        have an embedding of their own. To be called before training; with `config.node_content` the loss is over this
        catalogue, which is not saved with the model.

        Args:
            trie ([`ItemTrie`]): semantic IDs and content of the items.
            domains (`Sequence[ItemTrie]`, *optional*): of several domains, each one's. With `config.node_content` the
                loss of a target is over the items of its domain, which are those that there are when the model
                recommends; of domains that share a semantic ID, the first one's.

        Raises:
            ValueError: if a trie is not of this model's vocabulary, or has no content of the configured width, or
                another number of items than `config.num_item_residuals`.
        """
        for each in (trie, *domains):
            self._check_trie(each)
        config = self.config
        if config.num_item_residuals not in (0, trie.num_items):
            raise ValueError(
                f"The model has embeddings of their own for {config.num_item_residuals} items, the catalogue has "
                f"{trie.num_items}: set num_item_residuals to that, or to 0."
            )
        if config.content_size is not None and trie.content is not None:
            self.content_mean.copy_(trie.content.double().mean(dim=0))
        if config.num_item_residuals:
            self.residual_keys.copy_(self._keys(trie.codes).sort().values)
        if config.node_content:
            tries = list(domains) or [trie]
            self._catalogues = [(each, node_content(each, self.content_mean.to(each.device))) for each in tries]
            self._domains = None
            if len(tries) > 1:
                keys = [self._keys(each.codes) for each in tries]
                of_items = torch.cat([torch.full((len(each),), number) for number, each in enumerate(keys)])
                known, places = torch.cat(keys).sort(stable=True)
                self._domains = known, of_items[places]

    def _residual_numbers(self, tokens: Tensor, real: Tensor) -> Tensor:
        """Rows of `residuals` for items `(batch, items, num_levels)`: 0 for padding and for items without one."""
        keys = self._keys(tokens - torch.tensor(self.config.level_offsets, device=tokens.device))
        places = torch.searchsorted(self.residual_keys, keys).clamp(max=len(self.residual_keys) - 1)
        known = real & (self.residual_keys[places] == keys)
        if self.training and self.config.residual_dropout:
            known = known & (torch.rand(known.shape, device=known.device) >= self.config.residual_dropout)
        return (places + 1).masked_fill(~known, 0)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        content: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        valid_codes: torch.BoolTensor | None = None,
    ) -> ItemLevelOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, items * num_levels)`):
                Codes of the items as token ids, item after item.
            attention_mask (`torch.Tensor` of shape `(batch_size, items * num_levels)`, *optional*):
                0 on padding; by default every token but the padding token is read. A row may pack several sequences:
                the mask then holds the number of each token's sequence, from 1. A sequence reads nothing of another.
            content (`torch.Tensor` of shape `(batch_size, items, content_size)`, *optional*):
                Content vectors of the items, as their encoder gives them; needed if `config.content_size` is set. Zero
                for an item without.
            labels (`torch.LongTensor` of shape `(batch_size, items * num_levels)`, *optional*):
                In the places of each item the token ids of the item that is to follow, all of them or -100.
            valid_codes (`torch.BoolTensor` of the shape of `labels` and `max(config.level_sizes)`, *optional*):
                Which codes an item of the catalogue has after the label's prefix; needed with labels when
                `config.normalize_over` is `"items"`, unless the catalogue says it (`config.node_content`).

        Returns:
            [`ItemLevelOutput`].

        Raises:
            ValueError: if the input is not whole items or more than the model reads, content is missing or of another
                shape, `labels` have another shape than `input_ids`, or `valid_codes` are missing; with
                `config.node_content` if there are labels and no catalogue, or they are of no item in it.
        """
        config = self.config
        assert config.num_levels is not None and config.level_sizes is not None
        if attention_mask is None:
            assert config.pad_token_id is not None
            attention_mask = input_ids.ne(config.pad_token_id)
        if input_ids.shape[1] % config.num_levels:
            raise ValueError(
                f"input_ids {tuple(input_ids.shape)} are no whole items: an item has {config.num_levels} tokens."
            )
        tokens = input_ids.unflatten(1, (-1, config.num_levels))
        sequences = attention_mask.long()[:, :: config.num_levels]
        self._check_content(content, tokens)
        if labels is not None:
            if labels.shape != input_ids.shape:
                raise ValueError(f"labels have shape {tuple(labels.shape)}, input_ids {tuple(input_ids.shape)}.")
            expected = *labels.shape, max(config.level_sizes)
            if config.node_content:
                if not self._catalogues:
                    raise ValueError(
                        "The loss is over the items of a catalogue, and the model has none: call `set_catalogue` with "
                        "the trie of the training's items. It is not saved with the model."
                    )
            elif config.normalize_over == "items" and getattr(valid_codes, "shape", None) != expected:
                found = None if valid_codes is None else tuple(valid_codes.shape)
                raise ValueError(f"A loss normalised over items needs valid_codes of shape {expected}, got {found}.")
        states = self._encode(tokens, sequences, content)
        if labels is None:
            return ItemLevelOutput(last_hidden_state=states)
        labels = labels.unflatten(1, (-1, config.num_levels))
        labelled = labels[..., 0] != -100
        if valid_codes is not None:
            valid_codes = valid_codes.unflatten(1, (-1, config.num_levels))[labelled]
        if config.node_content:
            level_losses = self._node_losses(states[labelled], labels[labelled])
        else:
            level_losses = self._level_losses(states[labelled], labels[labelled], valid_codes)
        return ItemLevelOutput(loss=level_losses.mean(), level_losses=level_losses, last_hidden_state=states)

    def _encode(self, tokens: Tensor, sequences: Tensor, content: Tensor | None) -> Tensor:
        """States `(batch, items, hidden_size)` of items `(batch, items, num_levels)`; `sequences` `(batch, items)` has
        the number of each item's sequence, 0 on padding."""
        numbers = self._residual_numbers(tokens, sequences != 0) if self.config.num_item_residuals else None
        return self.encode_items(tokens, sequences, content, numbers)

    def encode_items(
        self, tokens: Tensor, sequences: Tensor, content: Tensor | None, residual_rows: Tensor | None
    ) -> Tensor:
        """The network that reads histories, without the look at whose embeddings of their own the items have.

        Args:
            tokens (`torch.LongTensor` of shape `(batch, items, num_levels)`): token ids of the items' codes.
            sequences (`torch.LongTensor` of shape `(batch, items)`): number of each item's sequence, 0 on padding.
            content (`torch.Tensor` of shape `(batch, items, content_size)`, *optional*): content vectors.
            residual_rows (`torch.LongTensor` of shape `(batch, items)`, *optional*): rows of `residuals`.

        Returns:
            `torch.FloatTensor` of shape `(batch, items, hidden_size)`.

        Raises:
            ValueError: if a sequence has more items than the model reads.
        """
        real = sequences != 0
        mask = causal_item_mask(sequences, 1)
        # so many items of the same sequence follow; of padding the last position's embedding is as good as any
        positions = (mask[:, 0].sum(dim=1) - 1).masked_fill(~real, 0)
        longest = self.positions.num_embeddings
        if tokens.shape[1] > longest and int(positions.max()) >= longest:
            raise ValueError(
                f"A history has {int(positions.max()) + 1} items, the model reads {longest}: keep the last."
            )
        states = self.positions(positions)
        if self.config.read_codes:
            states = self.embed_tokens(self._rows(tokens)).mean(dim=2) + states
        if content is not None:
            states = states + self._project(content)
        if residual_rows is not None:
            states = states + self.residuals(residual_rows)
        states = self.dropout(states)
        for block in self.blocks:
            states = block(states, mask)
        return self.norm(states)

    def _project(self, content: Tensor) -> Tensor:
        """Content vectors without the catalogue's mean, at length 1, in the model's width; zero for those of zeros."""
        return self._project_unit(unit_vectors(content, self.content_mean))

    def _check_content(self, content: Tensor | None, tokens: Tensor) -> None:
        width = self.config.content_size
        if width is None:
            if content is not None:
                raise ValueError("This model reads no content: its content_size is None.")
            return
        expected = *tokens.shape[:2], width
        if getattr(content, "shape", None) != expected:
            found = None if content is None else tuple(content.shape)
            raise ValueError(f"The model reads content vectors: expected content of shape {expected}, got {found}.")

    def _search_step(self, trie: ItemTrie) -> Callable[[Tensor, Tensor], BeamStep]:
        return partial(DepthHeadBeamStep, self, trie)

    def _readable_histories(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        return whole_items(self.config, input_ids, attention_mask)

    def _check_trie(self, trie: ItemTrie) -> None:
        super()._check_trie(trie)
        width = self.config.content_size
        if width is None:
            return
        if trie.content is None:
            raise ValueError(
                f"The model reads content vectors of {width} numbers, and the trie has none: build it with `content`, "
                "or save the item index with them."
            )
        if trie.content.shape[1] != width:
            raise ValueError(
                f"The model reads content vectors of {width} numbers, those of the trie have {trie.content.shape[1]}: "
                "they must be of the encoder that the model was trained with."
            )


__all__ = ["ItemLevelForCausalLM", "ItemLevelOutput"]
