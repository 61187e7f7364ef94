"""`Recommender`: one object that holds all that recommends in a shop, network, items, titles, memory and rules."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import EntryNotFoundError

from hub_cards import CARD_FILE, Evaluation, RecommenderCardValues, load_values, named, save_card
from hub_cards.item_ids import is_id
from modeling_utgrec.generation_mixin import ItemRecommendation
from modeling_utgrec.item_memory import ItemMemory
from tokenization_items.catalogue_updates import (
    JOURNAL_NAME,
    CatalogueUpdate,
    journal_line,
    read_journal,
    write_journal,
)
from tokenization_items.files import updating_folder, write_json
from tokenization_items.hub_folders import model_folder
from tokenization_items.item_index import UnknownItemError
from tokenization_items.item_memory import StoredMemory
from tokenization_items.network_reference import NetworkReference
from tokenization_items.pipeline_item_recommendation import (
    NETWORK_FOLDER,
    History,
    ItemRecommendationPipeline,
    as_list,
    copy_card,
)
from tokenization_items.text_statistics import TF_IDF
from tokenization_items.tokenization_items import TOKENIZER_FILE, UniversalItemTokenizer
from trainers.data.domains import Domain
from trainers.data.item_sources import read_items
from trainers.data.shop import read_shop
from trainers.evaluation.comparison import short_table
from trainers.hub.endpoint import REQUIREMENTS_FILE
from trainers.hub.model_facts import memory_facts, place_name
from trainers.hub.upload import ALLOWED, check_text_encoder, send_folder, text_encoders_of
from trainers.methods.daily_catalogue import (
    content_of,
    known_columns,
    updated_memory,
    with_titles,
)
from trainers.methods.memory import follow_index
from trainers.methods.quickstart import quickstart
from trainers.methods.recommendation_rules import (
    RECOMMENDER_FILE,
    RecommendationRules,
    read_recommender,
    saved_rules,
)
from trainers.methods.runs import save_recommender
from trainers.rankers.generative import load_model
from trainers.runtime.progress import Progress

FORMAT_VERSION = 1
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token")


@dataclass(eq=False)
class Recommender:
    """
    A generative recommender with all that it needs: network, items with semantic IDs and titles, memory, rules.

    ```python
    from trainers import Recommender

    recommender = Recommender.from_interactions("orders.csv", "products.csv")  # about a minute
    recommender.recommend(["sku-17", "sku-301"], top_k=3)  # [{"item_id": ..., "title": ..., "score": ...}, ...]
    recommender.save_pretrained("shop")
    Recommender.from_pretrained("shop").push_to_hub("org/shop")
    ```

    Its folder is a recommender's, as those of `utgrec train-baseline`, with `recommender.json` beside: what reads one
    reads the other.

    Args:
        model ([`ItemRecommendation`]): the network.
        tokenizer ([`UniversalItemTokenizer`]): items, titles and semantic IDs.
        stored ([`StoredMemory`], *optional*): what followed what, and what is alike, in the index's order.
        rules ([`RecommendationRules`], *optional*): what may be recommended.
        facts (`dict`, *optional*): how it was made and what was measured, in plain values.
        journal (`list`, *optional*): updates of its items, see [`read_journal`].

    Attributes:
        domain ([`Domain`], *optional*): the data that it was made of, in the process that made it; not saved.

    Raises:
        TokenizerMismatchError: the network is of another tokenizer's semantic IDs.
        UnknownItemError: a rule names an item that is not there.
    """

    model: ItemRecommendation
    tokenizer: UniversalItemTokenizer
    stored: StoredMemory | None = None
    rules: RecommendationRules = field(default_factory=RecommendationRules)
    facts: dict[str, Any] = field(default_factory=dict)
    domain: Domain | None = field(default=None, repr=False)
    journal: list[Mapping[str, Any]] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        self.tokenizer.check_recommender(self.model)
        self.tokenizer.index.rows([*self.rules.deny, *(self.rules.allow or ())])

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in ("model", "tokenizer", "stored"):  # what recommends was made of the earlier ones
            self.__dict__.pop("_pipeline", None)

    def __repr__(self) -> str:
        memory = "no memory" if self.memory is None else repr(self.memory)
        return f"Recommender({type(self.model).__name__}, {len(self.tokenizer):,} items, {memory}, {self.rules})"

    @property
    def memory(self) -> ItemMemory | None:
        return None if self.stored is None else self.stored.memory

    @property
    def item_ids(self) -> list[str]:
        """All items that it knows."""
        return self.tokenizer.index.item_ids

    @property
    def titles(self) -> dict[str, str]:
        """Titles by item id; "" for an item without."""
        return dict(zip(self.item_ids, self.tokenizer.index.titles, strict=True))

    @cached_property
    def _pipeline(self) -> ItemRecommendationPipeline:
        memory = False if self.memory is None else self.memory
        return ItemRecommendationPipeline(self.model, self.tokenizer, memory)  # type: ignore[arg-type]

    @classmethod
    def from_interactions(
        cls,
        orders: Any,
        products: Any = None,
        columns: Sequence[str] | Mapping[str, str] | None = None,
        text_encoder: str = TF_IDF,
        minutes: float = 0.0,
        seed: int = 0,
        progress: Callable[[str], None] | None = None,
        rules: RecommendationRules | None = None,
    ) -> Recommender:
        """
        Makes a recommender of a shop's own tables, in about a minute for a million orders, see
        [`trainers.methods.quickstart`].

        Args:
            orders: a row for each interaction, with columns of a user, an item and, if there is one, a time, of any
                names and in any order: a csv (of any separator and encoding), JSON lines or parquet file, a data frame
                or a list of dictionaries, see [`read_shop`].
            products (*optional*): a row for each item, with its id and whatever says what it is like.
            columns (*optional*): what columns mean, where the guess is wrong: `{"user": "customer_no", "text":
                "colour,size"}`, by the names of [`ShopColumns`].
            text_encoder (`str`, *optional*, defaults to `"tf-idf"`): or Hub id or folder of a text encoder.
            minutes (`float`, *optional*, defaults to 0.0): training of a network; without it the memory decides.
            seed (`int`, *optional*, defaults to 0): of clusters and training.
            progress (`Callable[[str], None]`, *optional*): takes lines that say what happens, such as `print`.
            rules ([`RecommendationRules`], *optional*): by default items of the history are excluded, unless customers
                often buy the same again.

        Raises:
            ReadError: a table cannot be read, or its columns cannot be told.
            ValueError: the data are too small to learn from.
        """
        steps = Progress(progress)
        with steps.step("reading", "reading the tables"):
            shop = read_shop(orders, products, columns)
        if progress is not None:
            progress(shop.describe_columns())
            left_out = shop.describe_left_out()
            progress(f"left out:\n{left_out}" if left_out else "nothing was left out")
            if never := int((shop.domain.interactions.popularity == 0).sum()):
                progress(f"{never:,} items without any order stay, to be recommended by their texts")
        with tempfile.TemporaryDirectory(prefix="utgrec-") as folder:
            made = quickstart(shop.domain, Path(folder), text_encoder, minutes, seed, steps)
        counts = {  # without the examples, which name customers
            kind: {reason: entry["count"] for reason, entry in reasons.items()}
            for kind, reasons in shop.report.to_dict()["dropped"].items()
        }
        facts: dict[str, Any] = made.facts | {"left_out": counts, "columns": asdict(shop.columns)}
        facts |= {"name": shop.domain.name, "validation": short_table(made.rows), "rows": made.rows}
        rules = RecommendationRules(made.exclude_seen) if rules is None else rules
        return cls(made.model, made.tokenizer, made.stored, rules, facts, shop.domain)

    def recommend(
        self,
        history: History | Sequence[History],
        top_k: int = 10,
        exclude_seen: bool | None = None,
        allow: Sequence[str] | None = None,
        deny: Sequence[str] | None = None,
        **arguments: Any,
    ) -> list[dict[str, Any]] | list[list[dict[str, Any]]]:
        """
        Recommends items.

        Args:
            history (`History` or `Sequence[History]`): ids of one user's items, the oldest first; or several such
                lists. Arrays, series and generators are taken for lists. For an empty one, a new customer, the most
                popular items come back.
            top_k (`int`, *optional*, defaults to 10): items to return.
            exclude_seen (`bool`), allow (`list[str]`), deny (`list[str]`), *optional*: in place of the rules'; items
                that the rules deny stay denied.
            arguments: further ones of [`ItemRecommendationPipeline`], such as `num_beams`, `return_sources`.

        Returns:
            A list of `{"item_id", "title", "score"}`, the best first, or a list of those for each history. Scores are
            natural logarithms of probabilities.

        Raises:
            UnknownItemError: an item that is not there.
            TypeError: one id in place of a list of them.
            ValueError: fewer than one item asked for.
        """
        given = list(history) if isinstance(history, Iterator) else as_list(history)
        if not isinstance(given, list):
            raise TypeError(f"A history is a list of item ids, got {history!r}.")
        check_top_k(top_k)
        is_one = not given or isinstance(given[0], Mapping) or is_id(given[0])
        histories: list[Any] = [given] if is_one else [as_list(each) for each in given]
        rules = self.rules
        allow = rules.allow if allow is None else listed_ids("allow", allow)
        deny = [*rules.deny, *(() if deny is None else listed_ids("deny", deny))]
        found: list[list[dict[str, Any]]] = [[]] * len(histories)
        # Where nothing knows what is popular, the pipeline says of a new customer that there is no answer, if it may.
        every = self.memory is None and arguments.get("on_error", "raise") != "raise"
        known = [row for row, each in enumerate(histories) if each != [] or every]
        if known:
            arguments |= {"top_k": top_k, "exclude_seen": rules.exclude_seen if exclude_seen is None else exclude_seen}
            arguments |= {"allow": allow} if allow is not None else {}
            arguments |= {"deny": deny} if deny else {}
            results: Any = self._pipeline([histories[row] for row in known], **arguments)
            for row, each in zip(known, results, strict=True):
                found[row] = each
        if len(known) < len(histories):
            popular = self._pipeline.popular(top_k, allow, deny)
            found = [popular if each == [] else found[row] for row, each in enumerate(histories)]
        return found[0] if is_one else found

    def similar(self, item_id: str, top_k: int = 10) -> list[dict[str, Any]]:
        """
        Items that are alike in content, of those that the memory keeps for each item and the rules allow.

        Args:
            item_id (`str`): the item.
            top_k (`int`, *optional*, defaults to 10): items to return.

        Returns:
            A list of `{"item_id", "title", "score"}`, the best first. Scores are cosines of the contents without their
            mean.

        Raises:
            UnknownItemError: there is no such item.
            ValueError: there is no memory with contents, or fewer than one item asked for.
        """
        check_top_k(top_k)
        index, memory, rules = self.tokenizer.index, self.memory, self.rules
        row = int(index.rows([item_id])[0])
        if memory is None or memory.content is None:
            raise ValueError("What is alike, a memory with contents knows: there is none, `utgrec memory` builds one.")
        denied = {row, -1, *index.rows(rules.deny).tolist()}
        allowed = None if rules.allow is None else {*index.rows(rules.allow).tolist()}
        kept = [
            each
            for each in memory.content.similar_items[row].tolist()
            if each not in denied and (allowed is None or each in allowed)
        ]
        cosines = memory.content.vectors[kept].float() @ memory.content.vectors[row].float()
        best = cosines.sort(descending=True, stable=True)
        return [
            {"item_id": index.item_ids[kept[place]], "title": index.titles[kept[place]], "score": score}
            for score, place in zip(best.values[:top_k].tolist(), best.indices[:top_k].tolist(), strict=True)
        ]

    def add_items(
        self,
        products: Any,
        columns: Sequence[str] | Mapping[str, str] | None = None,
        retokenize: bool = False,
        remove_missing: bool = False,
    ) -> CatalogueUpdate:
        """
        Brings the items up to date with products of today, all or some: new ones can be recommended, by their texts
        until they are bought; what changed has its new title, and its semantic ID unless that is to change, too.

        Semantic IDs that were given stay, and so does what the memory knows. Among themselves old items are
        recommended in the order of before, with new ones between; scores change, as they are shares of all candidates.
        An old item may fall out of a long list where a new one takes its place among the items most alike that the
        memory keeps, or among the beams.

        Args:
            products: a row for each item, as in [`~Recommender.from_interactions`], or a data set of the Hub.
            columns (`Sequence[str]` or `Mapping[str, str]`, *optional*): what columns mean; by default what they
                meant the last time.
            retokenize (`bool`, *optional*, defaults to `False`): whether changed items get new semantic IDs, and the
                memory their content and brand of now.
            remove_missing (`bool`, *optional*, defaults to `False`): whether items that are not among the products are
                removed.

        Returns:
            [`CatalogueUpdate`]: what was added, changed and removed, and how far the semantic IDs have drifted. It is
            in the journal that `save_pretrained` writes.

        Raises:
            ReadError, CatalogueError: products that cannot be read; rows or items are named. Nothing has changed then.
            ValueError: the semantic IDs were not made of texts, or by an earlier version that kept no network.
        """
        tokenizer = self.tokenizer
        if not tokenizer.has_network and tokenizer.network_reference is None:
            raise ValueError(
                "This recommender takes no new items: semantic IDs of theirs would be made of texts, and its own were "
                "not, for want of products with some, or its item tokenizer is elsewhere. Make it anew, with the "
                "items: Recommender.from_interactions(orders, products)."
            )
        template = tokenizer.template
        known = known_columns(self.journal, self.facts)
        catalogue, how = read_items(products, columns, known, tokenizer.text_fields, template)
        if not isinstance(how, str):
            how.check_texts(tokenizer)
        catalogue = with_titles(catalogue, tokenizer.index)
        index = tokenizer.index
        try:
            update = tokenizer.update_items(catalogue, retokenize, remove_missing, content_of(tokenizer))
            if self.stored is not None:
                self.stored = updated_memory(self.stored, index.item_ids, tokenizer, update, catalogue)
        except BaseException:
            tokenizer.index = index
            raise
        if not update.is_empty:
            self._changed(update, columns=None if isinstance(how, str) else asdict(how.columns))
        return update

    def remove_items(self, item_ids: Sequence[str]) -> CatalogueUpdate:
        """
        Forgets items, and frees their semantic IDs for items that are added later. Histories must not name them any
        more; what was bought with them is forgotten, too. For what may come back, see [`RecommendationRules.deny`].

        Args:
            item_ids (`Sequence[str]`): the items.

        Returns:
            [`CatalogueUpdate`]: what was removed; it is in the journal that `save_pretrained` writes.

        Raises:
            UnknownItemError: one of them is not there; none is removed then.
        """
        item_ids = listed_ids("item_ids", item_ids)
        if len({*item_ids}) == len(self.tokenizer):
            raise ValueError(
                f"All {len(self.tokenizer)} items were to be removed: there would be nothing to recommend."
            )
        index = self.tokenizer.index
        self.tokenizer.index = copy.copy(index)  # what it holds is replaced, never changed
        try:
            update = self.tokenizer.remove_items([*dict.fromkeys(item_ids)])
            if self.stored is not None:
                self.stored = follow_index(self.stored, index.item_ids, self.tokenizer.index)
        except BaseException:
            self.tokenizer.index = index
            raise
        self._changed(update)
        return update

    def _changed(self, update: CatalogueUpdate, **more: Any) -> None:
        """What follows from other items: rules without those that are gone, a search over those that are there."""
        gone = {*update.removed}
        self.rules = replace(
            self.rules,
            deny=tuple(each for each in self.rules.deny if each not in gone),
            allow=None if self.rules.allow is None else tuple(each for each in self.rules.allow if each not in gone),
        )
        self.__dict__.pop("_pipeline", None)
        self.facts = {**self.facts, "items": len(self.tokenizer)} if self.facts else self.facts
        self.journal = [*self.journal, journal_line(update, **more)]

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """
        Writes everything to one folder, in one step, with a card.

        Args:
            save_directory (`str` or `os.PathLike`): the folder; made if need be.
            push_to_hub (`bool`, *optional*, defaults to `False`): whether to push it too; `kwargs` are then `repo_id`,
                by default the folder's name, and those of [`~Recommender.push_to_hub`].
        """
        folder = Path(save_directory)
        facts = {name: value for name, value in self.facts.items() if name != "rows"}
        values = {"format_version": FORMAT_VERSION, "rules": asdict(self.rules), "facts": facts}
        with updating_folder(folder) as working:
            self._save_items(folder, working)
            write_json(working / RECOMMENDER_FILE, values)
            if self.facts:
                save_card(working, self._card(kwargs.get("repo_id", folder.resolve().name)))
            else:  # the card is that of a training
                copy_card(self.model, working)
                card = load_values(working)
                if isinstance(card, RecommenderCardValues):
                    save_card(working, replace(card, num_items=len(self.tokenizer)))
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", folder.absolute().name), **kwargs)

    def _save_items(self, folder: Path, working: Path) -> None:
        """Network, items, memory and journal; an item tokenizer's network that is nowhere else goes into a folder."""
        tokenizer, place, network = self.tokenizer, self.tokenizer.network_reference, working / NETWORK_FOLDER
        copied = place is not None and is_within(place)
        if place is not None and copied and Path(place.name_or_path).resolve() != (folder / NETWORK_FOLDER).resolve():
            shutil.rmtree(network, ignore_errors=True)
            shutil.copytree(place.name_or_path, network)
        elif place is None and tokenizer.has_network:
            shutil.rmtree(network, ignore_errors=True)
            tokenizer.network.save_pretrained(network)
            assert tokenizer.processor is not None
            tokenizer.processor.save_pretrained(network)
            copied = True
        save_recommender(self.model, None, working)
        tokenizer.stored_memory = self.stored
        try:
            tokenizer.network_reference = NetworkReference(str(network)) if copied else place
            tokenizer.save_pretrained(working, include_network=False)
        finally:
            tokenizer.network_reference = place
        (working / JOURNAL_NAME).unlink(missing_ok=True)
        if self.journal:
            write_journal(working, self.journal)

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str = "Upload recommender",
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> CommitInfo:
        """
        Pushes what [`~Recommender.save_pretrained`] writes, and what serves it on Inference Endpoints, see
        [`send_folder`]. What people changed in the repository's card is kept, as are its requirements.

        Args:
            repo_id (`str`): the repository, such as `"org/shop"`; made if need be.
            commit_message, private, token, revision: as in transformers; a branch is made if need be.
            kwargs: `create_pr` and `commit_description`, as in transformers.

        Raises:
            PublishingError: the text encoder that new items need is a folder of this machine.
        """
        self._check_text_encoder()
        api, place = HfApi(token=token), self.tokenizer.network_reference
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not revision.startswith("refs/pr/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        if place is not None and Path(place.name_or_path).is_dir() and not is_within(place):
            self.tokenizer.network_reference = None  # a folder of this machine is of no use on the Hub
        try:
            with tempfile.TemporaryDirectory(prefix="utgrec-") as folder:
                for name in (CARD_FILE, REQUIREMENTS_FILE):
                    with suppress(EntryNotFoundError):
                        shutil.copyfile(api.hf_hub_download(repo_id, name, revision=revision), Path(folder, name))
                self.save_pretrained(folder, repo_id=repo_id)
                return send_folder(folder, repo_id, commit_message, revision=revision, token=token, **kwargs)
        finally:
            self.tokenizer.network_reference = place

    def _check_text_encoder(self) -> None:
        """Raises [`PublishingError`] if the item tokenizer that is sent names a text encoder of this machine."""
        tokenizer, place = self.tokenizer, self.tokenizer.network_reference
        with tempfile.TemporaryDirectory(prefix="utgrec-") as scratch:
            folder = scratch
            if place is not None and is_within(place):
                folder = place.name_or_path
            elif place is None and tokenizer.has_network:
                assert tokenizer.processor is not None
                tokenizer.network.config.save_pretrained(folder)
                tokenizer.processor.save_pretrained(folder)
            for _, name in text_encoders_of(folder):
                check_text_encoder(name)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, revision: str | None = None, **kwargs: Any
    ) -> Recommender:
        """
        Loads a recommender, one of [`~Recommender.save_pretrained`] or any other with its item index beside it.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): folder or Hub id.
            revision (`str`, *optional*): branch, tag or commit on the Hub.
            kwargs: `token`, `cache_dir`, `local_files_only`, `force_download`, as everywhere in transformers.

        Raises:
            FileNotFoundError: no recommender with an item index.
            HubError: no such repository, or one that may not be read.
            ValueError: a broken file, or one of another format version.
        """
        if unknown := sorted(set(kwargs) - {*HUB_ARGUMENTS}):
            raise TypeError(f"from_pretrained takes revision, {', '.join(HUB_ARGUMENTS)}; got {named(unknown)}.")
        folder = model_folder(pretrained_model_name_or_path, ALLOWED, revision, **kwargs)
        if not (folder / TOKENIZER_FILE).is_file():
            raise FileNotFoundError(
                f"{pretrained_model_name_or_path} holds no recommender with its items: {TOKENIZER_FILE} is missing."
            )
        tokenizer = UniversalItemTokenizer.from_pretrained(folder)
        stored = tokenizer.stored_memory
        rules, facts = saved_rules(folder), read_recommender(folder)[1]
        try:
            return cls(load_model(folder).eval(), tokenizer, stored, rules, facts, journal=read_journal(folder))
        except UnknownItemError as error:
            raise UnknownItemError(f"{folder / RECOMMENDER_FILE}, rules: {error}") from None

    def _card(self, name: str) -> RecommenderCardValues:
        """What was measured, for the card."""
        told, config = dict(self.facts), self.model.config
        if "content" in told:
            told["content"] = place_name(told["content"])
        values: dict[str, Any] = {
            "name": name.rpartition("/")[2],
            "repo_id": name if "/" in name else None,
            "auto_class": "AutoModelForSeq2SeqLM" if config.is_encoder_decoder else "AutoModelForCausalLM",
            "num_parameters": self.model.num_parameters(),
            "level_sizes": list(config.level_sizes),
            "num_items": len(self.tokenizer),
            "comparison": told.get("validation", []),
            "training_data": [
                {
                    "Domain": told.get("name"),
                    **{each.title(): told.get(each) for each in ("items", "users", "interactions")},
                }
            ],
            "hyperparameters": {
                each: told[each] for each in ("content", "transitions", "network", "seen") if each in told
            },
        }
        if told.get("rows"):
            values["evaluations"] = [Evaluation.from_result(str(told.get("name")), told["rows"][0])]
        elif self.model.name_or_path:  # what was measured stands in the card of the folder that it was loaded from
            before = load_values(self.model.name_or_path)
            if isinstance(before, RecommenderCardValues):
                values["evaluations"] = before.evaluations
        return RecommenderCardValues(**values, **({} if self.stored is None else memory_facts(self.stored)))


def listed_ids(name: str, item_ids: Iterable[Any]) -> list[Any]:
    """Item ids that are read more than once, whatever holds them. Raises TypeError, which says the name, for one id: a
    text is a sequence, too, and "12" would be the items "1" and "2"."""
    if is_id(item_ids) or not isinstance(item_ids, Iterable):
        raise TypeError(f"{name} is a list of item ids, got {item_ids!r}.")
    return list(as_list(item_ids))


def check_top_k(top_k: Any) -> None:
    """Raises TypeError or ValueError unless it is a number of items."""
    if isinstance(top_k, bool) or not isinstance(top_k, Integral):
        raise TypeError(f"top_k is a whole number, got {top_k!r}.")
    if top_k < 1:
        raise ValueError(f"top_k is at least 1, got {top_k}.")


def is_within(place: NetworkReference) -> bool:
    """Whether the network of the items is in a folder within a recommender's, and travels with it."""
    return Path(place.name_or_path).name == NETWORK_FOLDER and Path(place.name_or_path).is_dir()


__all__ = ["Recommender"]
