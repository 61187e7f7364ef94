"""The UTGRec recommender: a T5 that reads the semantic IDs of a user's items and writes that of the next one."""

import copy
from collections.abc import Callable
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import T5ForConditionalGeneration
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput
from transformers.models.t5.modeling_t5 import T5Stack

from .attention_masks import as_scores, causal_item_mask, target_masks
from .checkpoint_format import CheckedLoading
from .configuration_utgrec import UTGRecConfig
from .generation_histories import whole_items
from .generation_items import BeamStep
from .generation_mixin import ItemRecommendation
from .generation_t5 import FusedT5, T5BeamStep
from .item_trie import ItemTrie
from .loss_cross_entropy import cross_entropy_of_valid, linear_cross_entropy


class CausalItemEncoder(T5Stack):
    """T5's encoder, reading in one direction: the tokens of an item see those of the same and of earlier items."""

    @classmethod
    def is_custom_code(cls) -> bool:
        """False: transformers leaves some modules of custom code as torch initialises them, and these are a T5's."""
        return False

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutput:
        given = input_ids if inputs_embeds is None else inputs_embeds
        assert given is not None and self.config.num_levels is not None
        if attention_mask is None:
            attention_mask = torch.ones(given.shape[:2], dtype=torch.bool, device=given.device)
        mask = causal_item_mask(attention_mask, self.config.num_levels)
        mask = as_scores(mask, self.dtype, self.config._attn_implementation)
        return super().forward(input_ids=input_ids, attention_mask=mask, inputs_embeds=inputs_embeds, **kwargs)


class UTGRecForConditionalGeneration(ItemRecommendation, CheckedLoading, T5ForConditionalGeneration):
    """
    Generative recommender of UTGRec (section 2.4): T5 encoder-decoder over the codes of items.

    The input is the codes of the user's last `config.max_history` items, flattened and padded on the right; the target
    is the L codes of the next item, without end-of-sequence. Trained with [`~transformers.Trainer`] like any other
    sequence-to-sequence model.

    Example:

    ```python
    >>> import torch
    >>> from modeling_utgrec import ItemTrie, UTGRecConfig, UTGRecForConditionalGeneration
    >>> model = UTGRecForConditionalGeneration(UTGRecConfig()).eval()
    >>> codes = torch.tensor([[17, 301, 3], [17, 9, 3], [200, 0, 511]])
    >>> trie = ItemTrie(codes, model.config.level_sizes, model.config.level_offsets, item_ids=["a", "b", "c"])
    >>> history = codes[:2].add(torch.tensor(model.config.level_offsets)).view(1, -1)
    >>> model.recommend(history, torch.ones_like(history), trie, num_items=2).item_rows.shape
    torch.Size([1, 2])
    ```
    """

    config: UTGRecConfig
    # the loss is a mean over the batch, the Trainer must divide it by the accumulation steps itself
    accepts_loss_kwargs = False

    def __init__(self, config: UTGRecConfig):
        # T5's own parts in T5's order, which the random numbers of their weights follow; but for the encoder's class.
        super(T5ForConditionalGeneration, self).__init__(config)
        self.model_dim = config.d_model
        assert config.vocab_size is not None and config.num_decoder_layers is not None  # the configuration set them
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        encoder_config, decoder_config = copy.deepcopy(config), copy.deepcopy(config)
        encoder_config.is_decoder = encoder_config.use_cache = False
        self.encoder = (CausalItemEncoder if config.causal_encoder else T5Stack)(encoder_config)
        decoder_config.is_decoder, decoder_config.num_layers = True, config.num_decoder_layers
        self.decoder = T5Stack(decoder_config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.post_init()
        # semantic IDs have a fixed length and no end-of-sequence
        self.generation_config.eos_token_id = None
        self.generation_config.max_new_tokens = config.num_levels

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        # transformers asks for this module, not for the model as T5 would have it: the model has no weight of its own
        sizes = self.config.vocab_size, self.config.d_model
        if isinstance(module, nn.Embedding) and module.weight.shape == sizes and self.config.embedding_std != 1:
            init.normal_(module.weight, std=self.config.initializer_factor * self.config.embedding_std)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: torch.BoolTensor | None = None,
        encoder_outputs: tuple[tuple[torch.Tensor]] | None = None,
        past_key_values=None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        valid_codes: torch.BoolTensor | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> Seq2SeqLMOutput | tuple:
        """
        As [`~transformers.T5ForConditionalGeneration.forward`]. The loss is the mean negative log-likelihood of the
        labels (UTGRec, Eq. 14), of logits divided by `config.loss_temperature`.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`): codes of the history as token ids.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`): 0 on padding.
            labels (`torch.LongTensor` of shape `(batch_size, num_levels)` or `(batch_size, sequence_length)`):
                Token ids of the next item's codes; -100 is left out of the loss, which is 0 if nothing is left. With
                `config.causal_encoder` also the codes of the items that follow each item of `input_ids`: the loss is
                then the mean over all of them, as if each were a row of its own, and a row may pack several sequences
                (`attention_mask` then holds the number of each token's sequence, from 1). Nothing but the loss is
                returned.
            valid_codes (`torch.BoolTensor` of the shape of `labels` and `max(config.level_sizes)`, *optional*):
                Which codes an item of the catalogue has after the label's prefix; needed with labels when
                `config.normalize_over` is `"items"`.

        Raises:
            ValueError: if `labels` has not that many columns, or `valid_codes` are missing.
        """
        if labels is not None and self.config.normalize_over == "items":
            expected = *labels.shape, max(columns.stop - columns.start for columns in self._columns)
            if valid_codes is None or valid_codes.shape != expected:
                found = None if valid_codes is None else tuple(valid_codes.shape)
                raise ValueError(f"A loss normalised over items needs valid_codes of shape {expected}, got {found}.")
        if labels is not None:
            if self.config.causal_encoder and input_ids is not None and labels.shape == input_ids.shape:
                loss = self._loss_of_all_targets(input_ids, attention_mask, labels, valid_codes)
                return Seq2SeqLMOutput(loss=cast(torch.FloatTensor, loss))
            if labels.shape[-1] != self.config.num_levels:
                raise ValueError(
                    f"labels must be the {self.config.num_levels} codes of the next item (no end-of-sequence), got "
                    f"shape {tuple(labels.shape)}."
                )
            labels = cast(
                torch.LongTensor, labels.contiguous()
            )  # T5 views them flat, and a slice of a longer tensor is common
            use_cache = False  # a cache would only cost time and memory here
        output = super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=encoder_outputs,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            decoder_inputs_embeds=decoder_inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            **kwargs,
        )
        if labels is None:
            return output
        loss, logits = output[:2]
        if self.config.normalize_over == "items":
            columns = [logits[:, level, codes] for level, codes in enumerate(self._columns)]
            loss = self._loss_over_items(columns, labels, cast(Tensor, valid_codes))  # checked above
        else:
            if self.config.loss_temperature != 1:
                loss = F.cross_entropy(logits.flatten(0, 1) / self.config.loss_temperature, labels.flatten())
            loss = torch.where((labels != -100).any(), loss, 0.0)  # a mean over no labels is NaN
        if isinstance(output, tuple):
            return (loss, *output[1:])
        output.loss = loss
        return output

    @property
    def _columns(self) -> list[slice]:
        """The vocabulary's columns of each level."""
        assert self.config.level_sizes is not None
        return [
            slice(first, first + size)
            for first, size in zip(self.config.level_offsets, self.config.level_sizes, strict=True)
        ]

    def _loss_over_items(self, logits: list[Tensor], labels: Tensor, valid_codes: Tensor) -> Tensor:
        """Mean negative log-likelihood of `labels` `(targets, L)` among the codes that exist after their prefixes,
        `valid_codes` `(targets, L, codes)`, of each level's `logits` `(targets, codes of the level)`. 0 if all
        labels are -100."""
        total, missing = logits[0].new_zeros((), dtype=torch.float32), labels == -100
        for level, (columns, of_level) in enumerate(zip(self._columns, logits, strict=True)):
            of_level = of_level.float() / self.config.loss_temperature
            codes = (labels[:, level] - columns.start).masked_fill(missing[:, level], -100)
            total = total + cross_entropy_of_valid(of_level, codes, valid_codes[:, level])
        places, known = torch.ones_like(labels).sum(), (~missing).sum()
        # not divided by `known` alone: with all labels the number stays what it was, to the last bit
        return total / max(labels.numel(), 1) * (places / known.clamp(min=1))

    def _loss_of_all_targets(
        self, input_ids: Tensor, attention_mask: Tensor | None, labels: Tensor, valid_codes: Tensor | None
    ) -> Tensor:
        """Mean loss of the successors `labels` of every item of `input_ids`, both `(batch, items * num_levels)`."""
        config = self.config
        assert config.num_levels is not None
        if attention_mask is None:
            attention_mask = input_ids.ne(config.pad_token_id).long()
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        # each block of the decoder's input is its target moved by one, behind a start token
        shifted = labels.masked_fill(labels == -100, config.pad_token_id).unflatten(1, (-1, config.num_levels))
        shifted = shifted.roll(1, dims=2)
        shifted[..., 0] = config.decoder_start_token_id
        own, read = (
            as_scores(mask, states.dtype, config._attn_implementation)
            for mask in target_masks(attention_mask, config.num_levels)
        )
        states = self.decoder(
            input_ids=shifted.flatten(1),
            attention_mask=own,
            encoder_hidden_states=states,
            encoder_attention_mask=read,
            use_cache=False,
        ).last_hidden_state
        if config.scale_decoder_outputs:
            states = states * self.model_dim**-0.5
        labelled = labels != -100
        states, labels, weight = states[labelled], labels[labelled], self.lm_head.weight
        if config.normalize_over == "vocabulary":
            return linear_cross_entropy(states / config.loss_temperature, weight, labels) / max(len(labels), 1)
        states, labels = states.unflatten(0, (-1, config.num_levels)), labels.view(-1, config.num_levels)
        logits = [F.linear(states[:, level], weight[codes]) for level, codes in enumerate(self._columns)]
        assert valid_codes is not None
        return self._loss_over_items(logits, labels, valid_codes[labelled].unflatten(0, (-1, config.num_levels)))

    def _readable_histories(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        return whole_items(self.config, input_ids, attention_mask)

    def _search_step(self, trie: ItemTrie) -> Callable[[Tensor, Tensor], BeamStep]:
        return partial(T5BeamStep, FusedT5(self))


__all__ = ["UTGRecForConditionalGeneration"]
