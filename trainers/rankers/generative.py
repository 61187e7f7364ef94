"""Generative recommenders as rankers: from histories of item rows to the best item rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from modeling_utgrec import ItemTrie
from modeling_utgrec.checkpoint_safety import SAFELY, errors_that_say_why
from modeling_utgrec.generation_mixin import ItemRecommendation
from modeling_utgrec.item_memory import ItemMemory
from tokenization_items import UniversalItemTokenizer
from tokenization_items.histories import encode_histories
from tokenization_items.item_index import ItemIndex, UnknownItemError
from tokenization_items.network_reference import NETWORK_CONFIGS


def item_space(item_index: ItemIndex, item_ids: Sequence[str]) -> tuple[ItemTrie, np.ndarray]:
    """Trie (with the index' content vectors, if it has any) and token table of a catalogue, both in the order of
    `item_ids` whatever the order of the index.

    Items of the index that are not in `item_ids` are left out, so they can never be recommended.

    Returns:
        The trie, and the token table int64 [n, L].

    Raises:
        UnknownItemError: `item_ids` that the index lacks, up to 10 of them named.
    """
    try:
        rows = item_index.rows(item_ids)
    except UnknownItemError as error:
        raise UnknownItemError(f"{error} (tokenize them with `utgrec tokenize`)") from None
    codes = item_index.codes[rows].astype(np.int64)
    content = None if item_index.content is None else item_index.content[rows]
    trie = ItemTrie(codes, item_index.level_sizes, item_index.level_offsets, content=content)
    return trie, item_index.token_table[rows]


def load_model(name: str | Path, revision: str | None = None) -> ItemRecommendation:
    """Loads a generative recommender, whether encoder-decoder or decoder, from a folder or the Hub, there of a
    revision.

    Raises:
        ValueError: the model there is another one.
    """
    with errors_that_say_why(f"The configuration of {name}"):
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    if not hasattr(config, "level_sizes") or config.model_type in NETWORK_CONFIGS:
        raise ValueError(f"{name} holds a model of type {config.model_type!r}, which is no generative recommender.")
    auto_class = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    return cast(ItemRecommendation, auto_class.from_pretrained(name, revision=revision, **SAFELY))


class GenerativeRanker:
    """Ranks items with a generative recommender: what [`evaluate`] asks of any ranker.

    Args:
        model ([`ItemRecommendation`]): as [`UTGRecForConditionalGeneration`] or [`RecBaseForCausalLM`]; stays where it
            is.
        trie (`ItemTrie`): semantic IDs of the catalogue.
        token_table (`np.ndarray`): int [n, L] token ids of the same items in the same order.
        num_beams (`int`, *optional*, defaults to 50): beams.
        batch_size (`int`, *optional*, defaults to 64): users per beam search.
        max_history (`int`, *optional*, defaults to 20): most recent items of a history that the model reads.
        name (`str`, *optional*, defaults to `"utgrec"`): name in result tables.
        memory ([`ItemMemory`], *optional*): transitions and content of the same items in the same order.

    Attributes:
        remembers (`str`, *optional*): what of its data the memory that was loaded counts, `"training"` or `"all"`; of
            the latter's own data no evaluation tells how well it recommends.

    Raises:
        ValueError: the trie is not of the model's vocabulary, or trie, table and memory differ in size.

    Example:

    ```python
    >>> ranker = GenerativeRanker.from_pretrained("beauty-recommender", catalogue.item_ids)
    >>> evaluate(ranker, interactions, part="test")["ndcg@10"]
    ```
    """

    ties = "beam search: by score, order of equal scores undefined"
    remembers: str | None = None

    def __init__(
        self,
        model: ItemRecommendation,
        trie: ItemTrie,
        token_table: np.ndarray,
        num_beams: int = 50,
        batch_size: int = 64,
        max_history: int = 20,
        name: str = "utgrec",
        memory: ItemMemory | None = None,
    ):
        expected = list(model.config.level_sizes), list(model.config.level_offsets)
        found = list(trie.level_sizes), list(trie.level_offsets)
        if expected != found:
            raise ValueError(
                f"Model and item index do not belong together: the model has level_sizes {expected[0]} with "
                f"level_offsets {expected[1]}, the semantic IDs have {found[0]} with {found[1]}. Tokenize the items "
                "with the item tokenizer that the recommender was trained with."
            )
        if np.shape(token_table) != (trie.num_items, len(trie.level_sizes)):
            raise ValueError(
                f"Expected a token table [{trie.num_items}, {len(trie.level_sizes)}], as the trie, got shape "
                f"{np.shape(token_table)}."
            )
        if memory is not None and memory.num_items != trie.num_items:
            raise ValueError(f"The memory is of {memory.num_items} items, the trie of {trie.num_items}.")
        if min(num_beams, batch_size, max_history) < 1:
            raise ValueError(
                f"num_beams, batch_size, max_history must be at least 1, got {num_beams}, {batch_size}, {max_history}."
            )
        self.model = model
        self.trie = trie
        self.token_table = np.asarray(token_table)
        self.num_beams = num_beams
        self.batch_size = batch_size
        self.max_history = max_history
        self.name = name
        self.memory = memory

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        item_ids: Sequence[str],
        num_beams: int = 50,
        batch_size: int = 64,
        device: str | torch.device | None = None,
        items: str | Path | None = None,
        memory: bool = True,
        revision: str | None = None,
    ) -> GenerativeRanker:
        """Loads a recommender and the item index beside it, for one catalogue.

        Args:
            folder (`str` or `Path`): folder or Hub id with a model and its item index, as [`RecommenderTrainer`] saves
                them.
            item_ids (`Sequence[str]`): the catalogue; `rank` takes and gives positions in this list. Other items of
                the index are not recommended.
            num_beams (`int`, *optional*, defaults to 50): beams.
            batch_size (`int`, *optional*, defaults to 64): users per beam search.
            device (`str` or `torch.device`, *optional*): where to run; by default the GPU if there is one.
            items (`str` or `Path`, *optional*): folder or Hub id of an item tokenizer with the index of the catalogue,
                as `utgrec tokenize` writes it, for a recommender that was trained on other items; by default the index
                beside the model.
            memory (`bool`, *optional*, defaults to `True`): whether to rank by the memory beside that index too, if
                there is one.
            revision (`str`, *optional*): branch, tag or commit of a recommender on the Hub; not of `items`.

        Raises:
            UnknownItemError: items of the catalogue that the index lacks.
            FileNotFoundError: the folder has no item index.
            ItemIndexError, ItemMemoryError: a broken index or memory, or a memory of another index.
            TokenizerMismatchError: the semantic IDs are of another item tokenizer than the recommender's.
            ValueError: model and index do not belong together.
        """
        if items is None:
            tokenizer = UniversalItemTokenizer.from_pretrained(folder, index_only=True, revision=revision)
        else:
            tokenizer = UniversalItemTokenizer.from_pretrained(items, index_only=True)
        tokenizer.check_config(AutoConfig.from_pretrained(folder, revision=revision, trust_remote_code=False))
        trie, token_table = item_space(tokenizer.index, item_ids)
        stored, kept = tokenizer.stored_memory if memory else None, None
        if stored is not None:
            kept = stored.memory.select(torch.from_numpy(tokenizer.index.rows(item_ids)))
        model = load_model(folder, revision)
        model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))  # type: ignore[arg-type]
        name = Path(folder).name
        ranker = cls(model, trie, token_table, num_beams, batch_size, model.config.max_history, name, kept)
        ranker.remembers = None if stored is None else stored.facts.get("part")
        return ranker

    def rank(self, histories: Sequence[np.ndarray], k: int, exclude: Sequence[np.ndarray] | None = None) -> np.ndarray:
        """The best `k` items of each user.

        Args:
            histories (`Sequence[np.ndarray]`): B arrays of item rows, oldest first, none empty.
            k (`int`): items per user.
            exclude (`Sequence[np.ndarray]`, *optional*): B arrays of item rows never to rank, or None.

        Returns:
            int64 [B, k] item rows, best first, padded with -1.
        """
        if exclude is not None and len(exclude) != len(histories):
            raise ValueError(f"{len(histories)} histories, but {len(exclude)} lists of items to exclude.")
        self._to_device()
        ranked = np.full((len(histories), k), -1, np.int64)
        # users with histories of like length share a batch: less padding
        order = np.argsort([len(history) for history in histories], kind="stable")
        for start in range(0, len(order), self.batch_size):
            users = order[start : start + self.batch_size]
            batch = encode_histories([histories[user] for user in users], self.token_table, self.max_history)
            input_ids, attention_mask = map(torch.from_numpy, batch)
            unwanted = None if exclude is None else _padded([exclude[user] for user in users])
            output = self.model.recommend(
                input_ids, attention_mask, self.trie, k, self.num_beams, exclude=unwanted, memory=self.memory
            )
            assert output.item_rows is not None
            ranked[users] = output.item_rows.cpu().numpy()
        return ranked

    def score(self, histories: Sequence[np.ndarray], candidates: np.ndarray) -> np.ndarray:
        """Log-probabilities of given items by the levels of their semantic IDs.

        Args:
            histories (`Sequence[np.ndarray]`): B arrays of item rows, oldest first, none empty.
            candidates (`np.ndarray`): int64 [B, C] item rows, -1 for padding.

        Returns:
            float32 [B, C, L], -inf for padding.
        """
        self._to_device()
        batch = encode_histories(histories, self.token_table, self.max_history)
        input_ids, attention_mask = map(torch.from_numpy, batch)
        rows = torch.from_numpy(candidates)
        scores = self.model.score_items(input_ids, attention_mask, self.trie, rows, per_level=True, memory=self.memory)
        return scores.cpu().numpy()

    def _to_device(self) -> None:
        """Trie and memory are where the model is."""
        self.trie = self.trie.to(self.model.device)
        if self.memory is not None:
            self.memory = self.memory.to(self.model.device)


def _padded(arrays: Sequence[np.ndarray]) -> torch.Tensor:
    """Arrays of item rows as one int64 [B, longest], padded with -1."""
    lengths = np.array([len(array) for array in arrays])
    rows = np.full((len(arrays), lengths.max(initial=0)), -1, np.int64)
    rows[np.arange(rows.shape[1]) < lengths[:, None]] = np.concatenate(arrays)
    return torch.from_numpy(rows)
