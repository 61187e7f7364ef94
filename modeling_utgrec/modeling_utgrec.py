"""The UTGRec recommender: a T5 that reads the identifiers of a user's items and writes that of the next one."""

import torch
from torch import Tensor
from transformers import T5ForConditionalGeneration
from transformers.modeling_outputs import Seq2SeqLMOutput

from .configuration_utgrec import UTGRecConfig
from .generation_items import RecommendOutput, T5BeamStep, constrained_beam_search
from .item_trie import ItemTrie


class UTGRecForConditionalGeneration(T5ForConditionalGeneration):
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
        super().__init__(config)
        # identifiers have a fixed length and no end-of-sequence
        self.generation_config.eos_token_id = None
        self.generation_config.max_new_tokens = config.num_levels

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
        use_cache: bool | None = None,
        **kwargs,
    ) -> Seq2SeqLMOutput | tuple:
        """
        As [`~transformers.T5ForConditionalGeneration.forward`]. The loss is the mean negative log-likelihood of the
        labels (UTGRec, Eq. 14).

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`): codes of the history as token ids.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`): 0 on padding.
            labels (`torch.LongTensor` of shape `(batch_size, num_levels)`):
                Token ids of the next item's codes; -100 is left out of the loss.

        Raises:
            ValueError: if `labels` has not `num_levels` columns.
        """
        if labels is not None:
            if labels.shape[-1] != self.config.num_levels:
                raise ValueError(
                    f"labels must be the {self.config.num_levels} codes of the next item (no end-of-sequence), got "
                    f"shape {tuple(labels.shape)}."
                )
            labels = labels.contiguous()  # T5 views them flat, and a slice of a longer tensor is common
            use_cache = False  # a cache would only cost time and memory here
        return super().forward(
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

    @torch.no_grad()
    def recommend(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        trie: ItemTrie,
        num_items: int = 10,
        num_beams: int = 50,
        exclude: Tensor | None = None,
    ) -> RecommendOutput:
        """
        Recommends items by beam search over the identifiers that exist (UTGRec, section 2.4). Dropout is off whatever
        the model's mode.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`): codes of the history as token ids.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
                0 on padding; by default every token but the padding token is read.
            trie ([`ItemTrie`]): identifiers of the catalogue. Moved to the model's device if it is elsewhere: keep it
                there to save the copy.
            num_items (`int`, *optional*, defaults to 10): items to return per user.
            num_beams (`int`, *optional*, defaults to 50): width of the beam, raised to `num_items` if below.
            exclude (`torch.LongTensor` of shape `(batch_size, num_excluded)`, *optional*):
                Item rows never to return, for instance those seen; padded with -1. A user's beam is raised to
                `num_items` plus the number of excluded items if below, so that `num_items` others are found whenever
                the catalogue has them.

        Returns:
            [`RecommendOutput`]: item rows, scores and, when the trie has them, item ids.

        Raises:
            ValueError: if the trie is not of this model's vocabulary, if a token id or an item row is out of range, or
                if shapes disagree.
        """
        self._check_trie(trie)
        if num_items < 1 or num_beams < 1:
            raise ValueError(f"num_items and num_beams must be at least 1, got {num_items} and {num_beams}.")
        device = self.device
        input_ids = input_ids.to(device)
        if input_ids.ndim != 2 or input_ids.numel() == 0:
            raise ValueError(f"input_ids must have shape (batch_size, sequence_length), got {tuple(input_ids.shape)}.")
        _check_range("input_ids", input_ids, 0, self.config.vocab_size, "of the vocabulary")
        attention_mask = (
            input_ids.ne(self.config.pad_token_id) if attention_mask is None else attention_mask.to(device)
        )
        if attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask.shape)}, input_ids {tuple(input_ids.shape)}."
            )
        if exclude is not None:
            if exclude.ndim != 2 or len(exclude) != len(input_ids):
                raise ValueError(
                    f"exclude must have shape ({len(input_ids)}, num_excluded), got {tuple(exclude.shape)}."
                )
            exclude = exclude.to(device=device, dtype=torch.long)
            if exclude.numel() == 0:
                exclude = None
            else:
                _check_range("exclude", exclude, -1, trie.num_items, "of items in the trie (-1 is padding)")

        in_training = [module for module in self.modules() if module.training]
        self.eval()
        try:
            rows, scores = constrained_beam_search(
                T5BeamStep(self, input_ids, attention_mask),
                trie.to(device),
                num_items=num_items,
                num_beams=max(num_beams, num_items),
                exclude=exclude,
            )
        finally:
            for module in in_training:
                module.training = True
        item_ids = None
        if trie.item_ids is not None:
            item_ids = [[trie.item_ids[row] for row in user if row >= 0] for user in rows.tolist()]
        return RecommendOutput(item_rows=rows, scores=scores, item_ids=item_ids)

    def _check_trie(self, trie: ItemTrie):
        expected = list(self.config.level_sizes), list(self.config.level_offsets)
        found = list(trie.level_sizes), list(trie.level_offsets)
        if expected != found:
            raise ValueError(
                f"the trie is not of this model's vocabulary: expected level_sizes {expected[0]} with level_offsets "
                f"{expected[1]}, found {found[0]} with {found[1]}. Build it with the item tokenizer that the model "
                "was trained with."
            )


def _check_range(name: str, values: Tensor, low: int, high: int, what: str):
    """Raises ValueError naming the first user with a value outside of low..high-1: on a GPU it would only crash."""
    outside = (values < low) | (values >= high)
    if outside.any():
        user, position = outside.nonzero()[0].tolist()
        raise ValueError(
            f"{name}[{user}, {position}] is {values[user, position].item()}, outside of the ids {low}..{high - 1} "
            f"{what}."
        )


__all__ = ["UTGRecForConditionalGeneration"]
