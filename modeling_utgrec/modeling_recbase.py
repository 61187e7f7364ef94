"""The RecBase recommender: a decoder that reads the semantic IDs of a user's items and goes on with the next one's."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Qwen3ForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from .checkpoint_format import CheckedLoading
from .configuration_recbase import RecBaseConfig
from .generation_histories import whole_items
from .generation_items import BeamStep
from .generation_mixin import ItemRecommendation
from .generation_qwen3 import DecoderBeamStep, FusedDecoder
from .item_trie import ItemTrie
from .loss_cross_entropy import cross_entropy_of_valid, linear_cross_entropy

# Attention implementations with this in their name tell packed sequences apart in a batch of one row only.
ONE_ROW_ATTENTION = "flash"


class RecBaseForCausalLM(ItemRecommendation, CheckedLoading, Qwen3ForCausalLM):
    """
    Generative recommender of RecBase (Zhou et al. 2025): a decoder-only transformer over the codes of items, trained
    from scratch on the next token of whole user sequences.

    The input is the codes of the user's last `config.max_history` items, flattened. Padding may stand on either side.
    A decoder of another project, which reads histories within a prompt, gets `config.prompt_tokens` around them in
    `recommend` and `score_items`; `forward` and `generate` read what they are given, the whole prompt.

    Example:

    ```python
    >>> import torch
    >>> from modeling_utgrec import ItemTrie, RecBaseConfig, RecBaseForCausalLM
    >>> model = RecBaseForCausalLM(RecBaseConfig.tiny()).eval()
    >>> codes = torch.tensor([[17, 301, 3, 8], [17, 9, 3, 5], [200, 0, 511, 5]])
    >>> trie = ItemTrie(codes, model.config.level_sizes, model.config.level_offsets, item_ids=["a", "b", "c"])
    >>> history = codes[:2].add(torch.tensor(model.config.level_offsets)).view(1, -1)
    >>> model.recommend(history, torch.ones_like(history), trie, num_items=2).item_rows.shape
    torch.Size([1, 2])
    ```
    """

    config: RecBaseConfig
    # the loss is a mean over the batch, the Trainer must divide it by the accumulation steps itself
    accepts_loss_kwargs = False

    def __init__(self, config: RecBaseConfig):
        super().__init__(config)
        # semantic IDs have a fixed length and no end-of-sequence
        self.generation_config.eos_token_id = None
        self.generation_config.max_new_tokens = config.num_levels

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values=None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        valid_codes: torch.BoolTensor | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """
        As [`~transformers.Qwen3ForCausalLM.forward`], but that with `labels` nothing but the loss is returned: the
        mean negative log-likelihood of the labels, each given the tokens before it in the same sequence.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`): codes of the items as token ids.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`):
                0 on padding. With `labels`, a row may pack several sequences: the mask then holds the number of each
                token's sequence, from 1. A sequence reads nothing of another and its positions start at 0.
            labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`):
                Token ids, in the places of `input_ids` as for any causal language model (the shift is made here);
                -100 is left out of the loss, and so is the first token of every sequence, which nothing precedes. The
                loss is 0 if nothing is left.
            valid_codes (`torch.BoolTensor` of the shape of `labels` and `max(config.level_sizes)`, *optional*):
                Which codes an item of the catalogue has after the label's prefix; needed with labels when
                `config.normalize_over` is `"items"`.

        Raises:
            ValueError: if `labels` have another shape than `input_ids`, or `valid_codes` are missing; with labels if
                the configuration has `prompt_tokens`, which are put around histories in recommending alone.
        """
        if labels is None:
            return super().forward(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                inputs_embeds=inputs_embeds,
                use_cache=use_cache,
                **kwargs,
            )
        if self.config.prompt_tokens:
            raise ValueError(
                "This decoder reads histories within a prompt (`prompt_tokens`) and recommends only: train it where "
                "its prompts were made, or set `prompt_tokens` to None, which trains it on bare semantic IDs."
            )
        if labels.shape != getattr(input_ids, "shape", None):
            found = None if input_ids is None else tuple(input_ids.shape)
            raise ValueError(
                f"labels must have the shape of input_ids {found}, the sequence with the items to predict, got "
                f"{tuple(labels.shape)}."
            )
        assert input_ids is not None and self.config.level_sizes is not None
        expected = *labels.shape, max(self.config.level_sizes)
        if self.config.normalize_over == "items" and getattr(valid_codes, "shape", None) != expected:
            found = None if valid_codes is None else tuple(valid_codes.shape)
            raise ValueError(f"A loss normalised over items needs valid_codes of shape {expected}, got {found}.")
        if attention_mask is None:
            attention_mask = self._not_padding(input_ids)
        loss = self._loss(input_ids, attention_mask.long(), labels, valid_codes)
        return CausalLMOutputWithPast(loss=cast(torch.FloatTensor, loss))

    def _loss(self, input_ids: Tensor, sequences: Tensor, labels: Tensor, valid_codes: Tensor | None) -> Tensor:
        """Mean loss of `labels`; `sequences` holds the number of each token's sequence, 0 on padding."""
        config = self.config
        begins = F.pad(sequences.diff(dim=1) != 0, (1, 0), value=True)
        place = torch.arange(sequences.shape[1], device=sequences.device).expand_as(sequences)
        positions = place - torch.where(begins, place, 0).cummax(dim=1).values
        predicted = (labels != -100) & ~begins & (sequences != 0)
        inputs = {"input_ids": input_ids, "position_ids": positions}
        if ONE_ROW_ATTENTION in config._attn_implementation:
            inputs = {name: tensor.view(1, -1) for name, tensor in inputs.items()}
        inputs["inputs_embeds"] = self._dropout(self.get_input_embeddings()(inputs.pop("input_ids")))
        # Positions that start anew are how transformers' masks know the sequences of a row.
        states = self.model(**inputs, use_cache=False).last_hidden_state.view(*labels.shape, -1)
        states = self._dropout(states)
        states = states[:, :-1][predicted[:, 1:]]
        labels, weight = labels[predicted], self.lm_head.weight
        if config.normalize_over == "vocabulary":
            return linear_cross_entropy(states, weight, labels) / max(len(labels), 1)
        assert valid_codes is not None and config.level_sizes is not None and config.num_levels is not None
        levels, valid_codes = positions[predicted] % config.num_levels, valid_codes[predicted]
        total = states.new_zeros((), dtype=torch.float32)
        for level, (first, size) in enumerate(zip(config.level_offsets, config.level_sizes, strict=True)):
            of_level = levels == level
            logits = F.linear(states[of_level], weight[first : first + size])
            total = total + cross_entropy_of_valid(logits, labels[of_level] - first, valid_codes[of_level])
        return total / max(len(labels), 1)

    def _not_padding(self, input_ids: Tensor) -> Tensor:
        assert self.config.pad_token_id is not None
        return input_ids.ne(self.config.pad_token_id)

    def _dropout(self, states: Tensor) -> Tensor:
        return F.dropout(states, self.config.embedding_dropout, self.training)

    def generate(self, inputs: Tensor | None = None, *args, **kwargs):
        """As [`~transformers.GenerationMixin.generate`]. Histories that are padded on the right, as
        [`UniversalItemTokenizer`] does, are padded on the left first: a decoder goes on where its input ends."""
        inputs = kwargs.pop("input_ids", inputs)
        if inputs is not None:
            mask = kwargs.get("attention_mask")
            mask = self._not_padding(inputs).long() if mask is None else mask
            order = (mask != 0).to(torch.uint8).argsort(dim=1, stable=True)
            inputs, kwargs["attention_mask"] = inputs.gather(1, order), mask.gather(1, order)
        return super().generate(inputs, *args, **kwargs)  # type: ignore[misc]  # self is that of a protocol

    @torch.no_grad()
    def warm_start(self, codebooks: Sequence[Tensor], freeze: bool = False) -> None:
        """
        Sets the input embeddings of the codes to the vectors of the item tokenizer's codebooks, so that codes that
        are near in content begin near; tied embeddings write codes by them too. All levels go through one random
        rotation into the hidden size and have one scale, so sums of codes keep their distances too; the scale is that
        of the embeddings' own initialisation, or of vectors of norm 1 if they are to stay.

        Args:
            codebooks (`Sequence[torch.Tensor]`): for each level the vectors of its codes, `(codes, D)`.
            freeze (`bool`, *optional*, defaults to `False`):
                trains them no further. What is learnt about codes is then learnt about content, and holds for codes
                that no interaction of the training had, as those of another domain.

        Raises:
            ValueError: if the codebooks are not of the configuration's levels, differ in width, or are not finite; or
                if they are to be frozen and the embeddings are not tied.
        """
        if freeze and not self.config.tie_word_embeddings:
            raise ValueError(
                "Frozen code embeddings must be tied (tie_word_embeddings=True): in a matrix of its own, a code "
                "that no interaction has would stay as random as it began."
            )
        sizes, widths = [len(codes) for codes in codebooks], {codes.shape[1] for codes in codebooks}
        if sizes != self.config.level_sizes or len(widths) != 1:
            raise ValueError(
                f"The codebooks have {sizes} codes of widths {sorted(widths)}, the recommender's levels "
                f"{self.config.level_sizes}: give the codebooks of its item tokenizer, of one width."
            )
        vectors = torch.cat([codes.detach().float().cpu() for codes in codebooks])
        deviation = vectors.std()
        if not (torch.isfinite(deviation) and deviation > 0):
            raise ValueError("The codebooks hold NaN, infinity, or nothing but one value.")
        rotation = nn.init.orthogonal_(torch.empty(vectors.shape[1], self.config.hidden_size))
        vectors = vectors @ rotation
        scale = self.config.hidden_size**-0.5 if freeze else self.config.initializer_range
        vectors *= scale / vectors.std()
        embeddings = cast(nn.Embedding, self.get_input_embeddings()).weight
        embeddings[self.config.level_offsets[0] :] = vectors.to(embeddings)
        embeddings.requires_grad_(not freeze)

    def _search_step(self, trie: ItemTrie) -> Callable[[Tensor, Tensor], BeamStep]:
        fused = FusedDecoder(self)
        if not self.config.prompt_tokens:
            return partial(DecoderBeamStep, fused)
        return lambda input_ids, attention_mask: DecoderBeamStep(fused, *self._prompted(input_ids, attention_mask))

    def _prompted(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Histories `[B, S]` with the prompt around their items and themselves, `[B, T]`, and the mask of that, which
        is 0 between a history's end and the tokens that follow."""
        config = self.config
        assert config.num_levels is not None
        mask = (attention_mask != 0).long()
        order = (mask == 0).to(torch.uint8).argsort(dim=1, stable=True)  # padding on the right
        input_ids, mask = (each.gather(1, order) for each in (input_ids, mask))
        length = input_ids.shape[1] // config.num_levels * config.num_levels  # behind it is padding
        items, real = (each[:, :length].unflatten(1, (-1, config.num_levels)) for each in (input_ids, mask))

        def tokens(place: str, *shape: int) -> Tensor:
            return input_ids.new_tensor(config.prompt(place), dtype=torch.long).expand(*shape, -1)

        before, after = (tokens(place, *items.shape[:2]) for place in ("before_item", "after_item"))
        items = torch.cat((before, items, after), dim=2)
        real = real[..., :1].expand(items.shape).flatten(1)
        first, last = (tokens(place, len(items)) for place in ("before_history", "after_history"))
        mask = torch.cat((torch.ones_like(first), real, torch.ones_like(last)), dim=1)
        return torch.cat((first, items.flatten(1), last), dim=1), mask

    def _readable_histories(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        return whole_items(self.config, input_ids, attention_mask)


__all__ = ["RecBaseForCausalLM"]
