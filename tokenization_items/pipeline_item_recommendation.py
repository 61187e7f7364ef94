"""`pipeline("item-recommendation")`: from histories of items to the ids, titles and scores of what to recommend."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import Pipeline, PreTrainedModel

from hub_cards import CARD_FILE, VALUES_FILE
from hub_cards.item_ids import id_text, is_id
from modeling_utgrec import ItemTrie
from modeling_utgrec.generation_mixin import ItemRecommendation
from modeling_utgrec.generation_rules import ItemRules
from modeling_utgrec.item_memory import ItemMemory
from modeling_utgrec.memory_content import most_alike
from tokenization_items.catalogue import Catalogue
from tokenization_items.item_index import UnknownItemError
from tokenization_items.item_memory import ItemMemoryError, StoredMemory
from tokenization_items.processing_content import EmbeddingProcessor
from tokenization_items.tokenization_items import UniversalItemTokenizer

NETWORK_FOLDER = "item_tokenizer"

Item = str | int | Mapping[str, Any]
History = Sequence[Item]
OnError = Literal["raise", "skip", "fallback"]


class ItemRecommendationPipeline(Pipeline):
    """
    Recommends items to users with a generative recommender and the item index beside it.

    A history is a list of items, the oldest first. An item is its id, a string or a whole number, or what a catalogue
    has for one that the index does not know (a dict with `title`, other text fields and `image`): its codes then come
    from the item tokenizer's network, which is fetched when it is first needed.

    Args:
        model (`PreTrainedModel`): a recommender with `recommend`, such as [`UTGRecForConditionalGeneration`].
        tokenizer ([`UniversalItemTokenizer`]): the items that it was trained on; `pipeline()` finds it in the
            recommender's folder or repository.
        memory ([`ItemMemory`] or `bool`, *optional*): transitions and content to rank by beside the network; by
            default the one that lies beside the tokenizer's index, if there is one; `False`: none.
        kwargs: those of [`~transformers.Pipeline`] (`device`, `batch_size`, ...), and defaults for those of a call.

    Raises:
        TypeError: if the tokenizer is none of items, or the model no generative recommender.
        TokenizerMismatchError: if model and tokenizer are not of one training.
        ItemMemoryError: if the memory beside the index does not belong to it.

    Example:

    ```python
    >>> import tokenization_items  # registers the pipeline
    >>> from transformers import pipeline
    >>> recommender = pipeline("item-recommendation", model="org/utgrec-recommender-beauty")
    >>> recommender(["B00NX0X2Q0", {"title": "Hand cream with shea butter"}], top_k=2)
    [{'item_id': 'B0043R2QJO', 'title': 'Lip balm', 'score': -4.71}, {'item_id': 'B001MA0QY2', ...}]
    ```
    """

    model: ItemRecommendation
    tokenizer: UniversalItemTokenizer  # type: ignore[assignment]  # of items, not of text
    # transformers gives them the type of their default, None
    _load_tokenizer = True  # type: ignore[assignment]
    _load_processor = False  # type: ignore[assignment]
    _load_image_processor = False  # type: ignore[assignment]
    _load_video_processor = False  # type: ignore[assignment]
    _load_feature_extractor = False  # type: ignore[assignment]

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: UniversalItemTokenizer,
        memory: ItemMemory | bool | None = None,
        **kwargs,
    ):
        if not isinstance(tokenizer, UniversalItemTokenizer):
            raise TypeError(
                f"The tokenizer of a recommendation is a UniversalItemTokenizer, got {type(tokenizer).__name__}: "
                "leave it out, or give what UniversalItemTokenizer.from_pretrained returns."
            )
        if not hasattr(model, "recommend"):
            raise TypeError(f"Expected a generative recommender, got {type(model).__name__}.")
        tokenizer.check_recommender(model)
        self._trie: ItemTrie | None = None
        self._memory_is_given, self._has_memory = isinstance(memory, ItemMemory), memory is not False
        self._memory = memory if isinstance(memory, ItemMemory) else tokenizer.memory if self._has_memory else None
        self._memory_index = tokenizer.index.checksum
        if memory is True and self._memory is None:
            raise ValueError("There is no memory beside the item index: build one with `utgrec memory`.")
        super().__init__(model=model, tokenizer=tokenizer, **kwargs)  # type: ignore[arg-type]

    @property
    def memory(self) -> ItemMemory | None:
        """The memory that it recommends by, None for none. After items were added or removed it is the tokenizer's of
        then.

        Raises:
            ItemMemoryError: after such a change, of one that was given, or that has not followed the tokenizer.
        """
        checksum = self.tokenizer.index.checksum
        if checksum != self._memory_index:
            if self._memory_is_given:
                raise ItemMemoryError(
                    "Items were added or removed since the pipeline was given its memory: make it anew, with the "
                    "memory of the items as they are."
                )
            self._memory, self._memory_index = self.tokenizer.memory if self._has_memory else None, checksum
        return self._memory

    def __call__(  # type: ignore[override]  # nothing but the histories goes by place
        self, inputs: History | Sequence[History], **kwargs
    ) -> list[dict[str, Any]] | list[list[dict[str, Any]]]:
        """
        Args:
            inputs (`History` or `Sequence[History]`): one history, or several: a list, a `torch.utils.data.Dataset` or
                a generator of them.
            top_k (`int`, *optional*, defaults to 10): items to return for each.
            num_beams (`int`, *optional*, defaults to 50): width of the beam search.
            exclude_seen (`bool`, *optional*, defaults to `True`): never return items of the history, also of what is
                older than the `max_history` items that the model reads.
            allow (`list[str]`, *optional*): ids of the items to choose from; by default all.
            deny (`list[str]`, *optional*): ids of items never to return.
            return_sources (`bool`, *optional*, defaults to `False`): tell for each item where it comes from; needs a
                memory.
            on_error (`str`, *optional*, defaults to `"raise"`): what becomes of a history that is empty or has an item
                that is not known: `"raise"`: an error, and no result at all; `"skip"`: one entry without item, which
                has the `reason`; `"fallback"`: the items with most training interactions that it may get, each entry
                with the `reason`; needs a memory, which has the counts.
            batch_size (`int`, *optional*, defaults to 1): histories that the model reads at once.

        Returns:
            For each history a list of dicts with `item_id`, `title` (empty if not known) and `score` (natural
            log-probability), the best first; shorter than `top_k` if there are not so many. With `return_sources` also
            `sources`, shares that sum to 1 (see [`ItemSources`]): `network`, `transitions` and `content` by the id of
            the history's item, and `unknown`. An iterator for a data set or a generator.

        Raises:
            UnknownItemError: for an item id that the index does not know, or one in `allow` or `deny`.
            ValueError: for an empty history, or raw items where no network is known.
        """
        if isinstance(inputs, Mapping) or is_id(inputs):
            raise TypeError(f"A history is a list of items, got one item: {inputs!r}")
        inputs = as_list(inputs)
        if isinstance(inputs, list) and inputs and (isinstance(inputs[0], Mapping) or is_id(inputs[0])):
            return super().__call__([inputs], **kwargs)[0]
        return super().__call__(inputs, **kwargs) if inputs != [] else []

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Saves the recommender with an index-only copy of the tokenizer, the memory that it recommends by, and its
        card. A network that is nowhere else is saved in the folder `item_tokenizer` within."""
        folder, tokenizer = Path(save_directory), self.tokenizer
        memory = self.memory if self._memory_is_given else None
        self.model.save_pretrained(folder)
        copy_card(self.model, folder)
        if tokenizer.has_network and tokenizer.network_reference is None:
            tokenizer.save_pretrained(folder / NETWORK_FOLDER)
        tokenizer.save_pretrained(folder, include_network=False)
        if memory is not None:
            StoredMemory(memory.to("cpu"), {}).save(folder, tokenizer.index)

    def _sanitize_parameters(  # type: ignore[override]  # by name, so that others are refused
        self,
        top_k: int | None = None,
        num_beams: int | None = None,
        exclude_seen: bool | None = None,
        allow: Sequence[str] | None = None,
        deny: Sequence[str] | None = None,
        return_sources: bool | None = None,
        on_error: OnError | None = None,
        local_files_only: bool = False,  # `pipeline` has used it, and passes it on
    ) -> tuple[dict, dict, dict]:
        preprocess: dict[str, Any] = {} if exclude_seen is None else {"exclude_seen": exclude_seen}
        given = {"num_items": top_k, "num_beams": num_beams, "return_sources": return_sources}
        forward: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if on_error is not None:
            if on_error not in ("raise", "skip", "fallback"):
                raise ValueError(f"on_error is 'raise', 'skip' or 'fallback', got {on_error!r}.")
            if on_error == "fallback" and self.memory is None:
                raise ValueError("on_error='fallback' needs a memory, which counts how popular items are: 'skip'?")
            preprocess["on_error"] = forward["on_error"] = on_error
        if allow is not None or deny is not None:
            forward["allowed"] = self._allowed(allow, deny)
            forward["rules"] = ItemRules(self.trie, allow=forward["allowed"])
        return preprocess, forward, {}

    def _allowed(self, allow: Sequence[str] | None, deny: Sequence[str] | None) -> torch.Tensor:
        """Which items rules allow, bool `[items]`."""
        return allowed_items(self.tokenizer, allow, deny)

    def popular(
        self, top_k: int = 10, allow: Sequence[str] | None = None, deny: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """
        The items with most training interactions, for users of whom nothing is known.

        Args:
            top_k, allow, deny: as in a call.

        Returns:
            `item_id`, `title` and `score`, the logarithm of the share of all interactions, each item having one more.

        Raises:
            ValueError: there is no memory, which has the counts.
        """
        rows, scores = self._most_popular(self._allowed(allow, deny), top_k)
        return self._entries(rows.tolist(), scores.tolist())

    def _most_popular(self, allowed: torch.Tensor, num_items: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and scores of the allowed items that were bought most; fewer if there are fewer."""
        if self.memory is None:
            raise ValueError(
                "What is popular, as for an empty history, a memory knows: there is none, `utgrec memory` builds one."
            )
        counts = self.memory.counts.cpu().double()
        scores = ((counts + 1) / (counts + 1).sum()).log().masked_fill(~allowed, -torch.inf)
        best = scores.sort(descending=True, stable=True)
        most = min(num_items, int(allowed.sum()))
        return best.indices[:most], best.values[:most]

    @property
    def trie(self) -> ItemTrie:
        """The items that may be recommended, where the model is."""
        trie = self.tokenizer.trie
        if self._trie is None or not self._trie.is_copy_of(trie):
            self._trie = trie.to(self.model.device)
        return self._trie

    def preprocess(  # type: ignore[override]  # as above, and tensors only
        self, history: History, exclude_seen: bool = True, on_error: OnError = "raise"
    ) -> dict[str, Any]:
        reason, is_row = "", isinstance(history, Sequence) and not isinstance(history, str | bytes)
        history = list(history) if is_row else as_list(history)
        try:
            tokens = self._tokens(history)
        except (ValueError, KeyError, TypeError) as error:
            if on_error == "raise":
                raise
            tokens, reason = torch.zeros(1, self.tokenizer.index.num_levels, dtype=torch.long), str(error)
        items = history if exclude_seen and isinstance(history, list) else []
        seen = [item for item in map(_given_id, items) if item in self.tokenizer]
        # As numbers above zero: batches are padded with zeros.
        rows = torch.from_numpy(self.tokenizer.index.rows(seen))[None] + 1
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "seen": rows, "reason": reason}

    def _tokens(self, history: History) -> torch.Tensor:
        """Semantic IDs of the items that the model reads one after the other, `[1, items * num_levels]`: those of the
        index, and those that the network gives to items that the index does not know."""
        if not isinstance(history, list):
            raise TypeError(f"A history is a list of items, got {history!r}")
        if not history:
            raise ValueError("A recommendation needs at least one item in the history, got an empty one.")
        history = history[-self.tokenizer.max_history :]
        index, ids = self.tokenizer.index, {at: id_text(_given_id(item)) for at, item in enumerate(history)}
        new = {at: item for at, item in enumerate(history) if isinstance(item, Mapping) and ids[at] not in index}
        tokens = np.empty((len(history), index.num_levels), dtype=np.int64)
        known = [at for at in ids if at not in new]
        tokens[known] = index.encode_batch([ids[at] for at in known])  # type: ignore[misc]  # no None is known
        if new:
            self.tokenizer.encoding_network.to(self.device)  # type: ignore[arg-type]
            fields, template = self.tokenizer.text_fields, self.tokenizer.template
            records = [{**dict.fromkeys(fields, ""), **item, "item_id": str(at)} for at, item in new.items()]
            catalogue = Catalogue.from_records(records, fields, name="history", template=template)
            if not self.tokenizer.reads_images:  # a picture alone says nothing
                catalogue = replace(catalogue, images=None)
            catalogue.check(images=False)
            codes, _ = self.tokenizer.compute_codes(catalogue, progress=False)
            # Where items with the same codes have digits it is as the first of them.
            codes = np.pad(codes, ((0, 0), (0, index.num_levels - codes.shape[1])))
            tokens[list(new)] = self._of_known_items(codes, catalogue) + np.asarray(index.level_offsets)
        return torch.from_numpy(tokens.reshape(1, -1))

    def _of_known_items(self, codes: np.ndarray, catalogue: Catalogue) -> np.ndarray:
        """Codes `[items, levels]` of new items; of one with codes of no item, of which a memory knows nothing, those
        of the item whose content is most like its own, where the memory has content of the same encoder of texts."""
        memory, processor = self.memory, self.tokenizer.processor
        if memory is None or memory.content is None:
            return codes
        if type(processor) is not EmbeddingProcessor or not processor.reads_texts:
            return codes
        unknown = (self.tokenizer.trie.find(torch.from_numpy(codes)) < 0).nonzero().flatten()
        if not len(unknown):
            return codes
        vectors = torch.from_numpy(processor.embeddings_of(catalogue.select(unknown.numpy()), progress=False))
        if vectors.shape[1] != len(memory.content.mean):
            return codes
        nearest = most_alike(memory.content, vectors, 1)[0][:, 0].cpu()
        known = nearest >= 0  # of texts without a known word nothing is known
        codes[unknown[known].numpy()] = self.tokenizer.index.codes[nearest[known].numpy()]
        return codes

    def _forward(  # type: ignore[override]
        self,
        model_inputs: dict[str, Any],
        num_items: int = 10,
        on_error: OnError = "raise",
        allowed: torch.Tensor | None = None,
        **arguments: Any,
    ) -> dict[str, Any]:
        reasons = model_inputs["reason"]
        reasons = [reasons] if isinstance(reasons, str) else reasons
        exclude = model_inputs["seen"] - 1
        fine = torch.tensor([not reason for reason in reasons], device=exclude.device)
        found: dict[str, Any] = {"item_rows": torch.full((len(reasons), num_items), -1, device=exclude.device)}
        found["scores"] = torch.zeros(found["item_rows"].shape, device=exclude.device)
        if fine.any():
            memory = self.memory
            if memory is not None:
                self._memory = memory = memory.to(self.model.device)
            output = self.model.recommend(
                model_inputs["input_ids"][fine],
                model_inputs["attention_mask"][fine],
                self.trie,
                num_items=num_items,
                exclude=exclude[fine],
                memory=memory,
                **arguments,
            )
            assert output.item_rows is not None and output.scores is not None
            sources = {} if output.sources is None else output.sources._asdict()
            for name, values in {"item_rows": output.item_rows, "scores": output.scores, **sources}.items():
                found[name] = values.new_full((len(reasons), *values.shape[1:]), -1 if name.endswith("rows") else 0)
                found[name][fine] = values
        if on_error == "fallback":
            for user in (~fine).nonzero().flatten().tolist():
                may = torch.ones(len(self.tokenizer), dtype=torch.bool) if allowed is None else allowed.cpu().clone()
                may[exclude[user][exclude[user] >= 0].cpu()] = False
                rows, scores = self._most_popular(may, num_items)
                found["item_rows"][user, : len(rows)] = rows.to(exclude.device)
                found["scores"][user, : len(rows)] = scores.to(found["scores"])
        return {**found, "reason": reasons}

    def _entries(self, rows: Sequence[int], scores: Sequence[float]) -> list[dict[str, Any]]:
        index = self.tokenizer.index
        return [
            {"item_id": index.item_ids[row], "title": index.titles[row], "score": score}
            for row, score in zip(rows, scores, strict=True)
            if row >= 0
        ]

    def postprocess(  # type: ignore[override]
        self, model_outputs: dict[str, Any]
    ) -> list[dict[str, Any]]:
        index, reason = self.tokenizer.index, model_outputs["reason"]
        recommended = self._entries(model_outputs["item_rows"][0].tolist(), model_outputs["scores"][0].tolist())
        reason = reason if isinstance(reason, str) else reason[0]  # of a batch its own, else a list of one
        if reason:
            recommended = recommended or [{"item_id": None, "title": "", "score": None}]
            return [{**entry, "reason": reason} for entry in recommended]
        if "network" in model_outputs:
            history = model_outputs["history_rows"][0].tolist()
            for place, entry in enumerate(recommended):
                sources: dict[str, Any] = {"network": model_outputs["network"][0, place].item()}
                for name in ("transitions", "content"):
                    shares: dict[str, float] = {}
                    for row, share in zip(history, model_outputs[name][0, place].tolist(), strict=True):
                        if share:
                            shares[index.item_ids[row]] = shares.get(index.item_ids[row], 0.0) + share
                    sources[name] = shares
                entry["sources"] = sources | {"unknown": model_outputs["unknown"][0, place].item()}
        return recommended


def allowed_items(
    tokenizer: UniversalItemTokenizer, allow: Sequence[str] | None = None, deny: Sequence[str] | None = None
) -> torch.Tensor:
    """
    Which items rules leave, bool `(num_items,)`.

    Args:
        tokenizer ([`UniversalItemTokenizer`]): the items.
        allow (`Sequence[str]`, *optional*): ids of the items to choose from; by default all.
        deny (`Sequence[str]`, *optional*): ids of items that are none.

    Raises:
        UnknownItemError: a rule, which is named, has an item that is not there.
        TypeError: a rule is one id in place of several.
    """
    allowed = torch.full((len(tokenizer),), allow is None)
    for name, item_ids in (("allow", allow), ("deny", deny)):
        if item_ids is None:
            continue
        if isinstance(item_ids, str):
            raise TypeError(f"{name} is a list of item ids, got {item_ids!r}")
        try:
            allowed[torch.from_numpy(tokenizer.index.rows(item_ids))] = name == "allow"
        except UnknownItemError as error:
            raise UnknownItemError(f"{name}: {error}") from None
    return allowed


def copy_card(model: PreTrainedModel, folder: Path) -> None:
    """Copies the card of the folder that a model was loaded from to one that has none."""
    source = Path(model.name_or_path) if model.name_or_path else None  # "" would be where the program runs
    if source is not None and (source / CARD_FILE).is_file() and not (folder / CARD_FILE).exists():
        for name in (CARD_FILE, VALUES_FILE):
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)


def _given_id(item: Any) -> Any:
    """What an item of a history has for an id."""
    return item.get("item_id") if isinstance(item, Mapping) else item


def as_list(values: Any) -> Any:
    """A list of what a tuple, a column of `datasets`, an array or a series holds; all else, such as data sets, as it
    is."""
    if isinstance(values, Sequence) and not isinstance(values, str | bytes):
        return list(values)
    if isinstance(values, np.ndarray | torch.Tensor):
        return values.tolist()
    return list(values) if type(values).__name__ == "Series" else values  # of pandas or polars
