"""An off-the-shelf language model as a ranker: how likely is an item's title after the titles of a history?

Any causal language model of `AutoModelForCausalLM`, by Hub id or folder. It reads the titles of a history as a list,
and a candidate scores the log-likelihood of its own title as the next line.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from hub_cards.named import named
from modeling_utgrec.checkpoint_safety import SAFELY
from tokenization_items.catalogue import Catalogue
from tokenization_items.files import tokenizer_errors

OPENING = "Items that one person chose, one after the other:\n"
NO_HISTORY = "Items that people choose:\n"
MAX_TITLE_TOKENS = 64
UNLIMITED = 2048  # tokens of a prompt if the model does not say how many it reads
SCORES = ("sum", "mean", "pmi")


class TitleLikelihood:
    """
    Scores candidates by the likelihood of their titles.

    Args:
        model (`PreTrainedModel`): a causal language model; stays where it is.
        tokenizer (`PreTrainedTokenizerBase`): its tokenizer.
        titles (`Sequence[str]`): title of each item of the catalogue, or what stands for it.
        name (`str`, *optional*): name in result tables.
        batch_tokens (`int`, *optional*, defaults to 8192): tokens of one batch, with padding.

    Raises:
        ValueError: items without title, of which up to 10 are named by their rows, or a model that reads too little.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        titles: Sequence[str],
        name: str = "title-likelihood",
        batch_tokens: int = 8192,
    ):
        empty = [row for row, title in enumerate(titles) if not title.strip()]
        if empty:
            raise ValueError(
                f"{len(empty)} of {len(titles)} items have neither title nor text for a language model to read, as "
                f"rows {named(empty)}."
            )
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.name = name
        self.batch_tokens = batch_tokens
        self.limit = getattr(model.config.get_text_config(), "max_position_embeddings", None) or UNLIMITED
        self.lines = [ids[:MAX_TITLE_TOKENS] for ids in self._tokens([f"- {title}\n" for title in titles])]
        self.opening, self.no_history = (tokenizer(text)["input_ids"] for text in (OPENING, NO_HISTORY))
        # tokenizers of encoders close a text; a text that goes on must stay open
        closing = {tokenizer.eos_token_id, tokenizer.sep_token_id} - {None}
        if self.opening[-1] in closing:
            self.opening, self.no_history = self.opening[:-1], self.no_history[:-1]
        if self.limit < len(self.opening) + 2 * MAX_TITLE_TOKENS:
            raise ValueError(f"{name} reads {self.limit} tokens: too few for a history and a title.")
        keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._only_last = (lambda count: {"logits_to_keep": count}) if keeps else (lambda count: {})
        self._alone: dict[int, float] = {}  # of each item that was asked for, its likelihood without a history

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, catalogue: Catalogue, device: str | torch.device | None = None, **arguments
    ) -> TitleLikelihood:
        """Loads a language model for a catalogue; of items without title it reads the text.

        Args:
            name_or_path (`str` or `Path`): Hub id or folder of any model of `AutoModelForCausalLM`.
            catalogue (`Catalogue`): the items.
            device (`str` or `torch.device`, *optional*): where to run; by default the GPU if there is one.
            arguments: of the class.

        Raises:
            ValueError: the domain has items without any text.
        """
        titles = [title or text for title, text in zip(catalogue.titles, catalogue.texts, strict=True)]
        model = AutoModelForCausalLM.from_pretrained(name_or_path, **SAFELY)
        model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))  # type: ignore[arg-type]
        with tokenizer_errors(name_or_path):
            tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
        return cls(model, tokenizer, titles, Path(name_or_path).name, **arguments)

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"]

    def score(self, histories: Sequence[np.ndarray], candidates: np.ndarray) -> np.ndarray:
        """Log-likelihoods of the candidates' titles.

        Args:
            histories (`Sequence[np.ndarray]`): B arrays of item rows, oldest first. What the model cannot read is cut
                off at the oldest end.
            candidates (`np.ndarray`): int64 [B, C] item rows, -1 for padding.

        Returns:
            float64 [B, C, 3], of the title's tokens after the history the sum and the mean, and the sum minus that
            without a history (`"pmi"`); -inf for padding.
        """
        scores = np.full((*candidates.shape, len(SCORES)), -np.inf)
        users, columns = np.nonzero(candidates >= 0)
        items = candidates[users, columns]
        self._fill_alone(items)
        prompts = [self._prompt(history) for history in histories]
        found = self._likelihoods([prompts[user] for user in users], [self.lines[item] for item in items])
        lengths = np.array([len(self.lines[item]) for item in items])
        alone = np.array([self._alone[item] for item in items.tolist()])
        scores[users, columns] = np.stack([found, found / lengths, found - alone], axis=1)
        return scores

    def _prompt(self, history: np.ndarray) -> list[int]:
        """Opening and the last titles that fit, with room for a candidate's."""
        room, lines = self.limit - len(self.opening) - MAX_TITLE_TOKENS, []
        for row in reversed(history.tolist()):
            room -= len(self.lines[row])
            if room < 0:
                break
            lines.append(self.lines[row])
        return [*self.opening, *(token for line in reversed(lines) for token in line)]

    def _fill_alone(self, items: np.ndarray) -> None:
        new = [item for item in np.unique(items).tolist() if item not in self._alone]
        found = self._likelihoods([self.no_history] * len(new), [self.lines[item] for item in new])
        self._alone |= dict(zip(new, found.tolist(), strict=True))

    @torch.inference_mode()
    def _likelihoods(self, prompts: list[list[int]], lines: list[list[int]]) -> np.ndarray:
        """Sum of the natural log-probabilities of each line's tokens after its prompt, float64 [n]."""
        result = np.empty(len(prompts))
        order = sorted(range(len(prompts)), key=lambda row: (len(prompts[row]), len(lines[row])))
        lengths = [len(prompts[row]) + len(lines[row]) for row in order]
        start = 0
        while start < len(order):
            stop, width = start + 1, lengths[start]
            while stop < len(order) and (stop + 1 - start) * max(width, lengths[stop]) <= self.batch_tokens:
                width, stop = max(width, lengths[stop]), stop + 1
            batch, first, size = order[start:stop], len(prompts[order[start]]), stop - start
            start = stop
            ids = torch.zeros(size, width, dtype=torch.long)
            mask = torch.zeros(size, width, dtype=torch.long)
            own = torch.zeros(size, width, dtype=torch.bool)  # tokens of the line
            for number, row in enumerate(batch):
                tokens = prompts[row] + lines[row]
                ids[number, : len(tokens)], mask[number, : len(tokens)] = torch.tensor(tokens), 1
                own[number, len(prompts[row]) : len(tokens)] = True
            # padding is on the right: no token that counts sees it
            device, kept = self.model.device, width - first + 1
            output = self.model(ids.to(device), attention_mask=mask.to(device), **self._only_last(kept))
            logits = output.logits[:, -kept:-1].float()
            targets, own = ids[:, first:].to(device), own[:, first:].to(device)
            log_probs = -torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
            result[batch] = (log_probs * own).sum(1, dtype=torch.float64).cpu().numpy()
        return result
