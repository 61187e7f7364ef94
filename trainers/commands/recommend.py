"""Recommendations of items to users by a trained recommender, generative or sequential: ids, titles and scores.

utgrec recommend --recommender runs/office/recommender --history office-00017 office-00303
utgrec recommend --recommender runs/office/recommender --data data/builtin/office --users 3

The rules that are saved with a `Recommender`, items to deny and to choose from among them, hold here, too.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from hub_cards import listed, named
from modeling_utgrec.generation_memory import ItemSources
from modeling_utgrec.generation_rules import ItemRules
from tokenization_items import Catalogue, UniversalItemTokenizer
from tokenization_items.hub_folders import model_folder
from tokenization_items.item_index import UnknownItemError
from tokenization_items.item_index_files import IDS_NAME
from tokenization_items.pipeline_item_recommendation import allowed_items
from trainers.arguments import parse_sections
from trainers.data.interactions import Interactions
from trainers.hub.download import ModelPlace, find_model
from trainers.methods.recommendation_rules import RECOMMENDER_FILE, RecommendationRules, saved_rules
from trainers.rankers import is_generative
from trainers.rankers.generative import load_model
from trainers.rankers.sequential import SequentialRanker


@dataclass
class RecommendArguments:
    recommender: str = field(metadata={"help": "Folder or Hub id of a recommender with its item index or item ids."})
    revision: str | None = field(default=None, metadata={"help": "Of --recommender on the Hub: branch, tag, commit."})
    history: list[str] | None = field(default=None, metadata={"help": "Item ids of one user, oldest first."})
    data: str | None = field(default=None, metadata={"help": "Data folder: titles, and users to recommend to."})
    users: int = field(default=1, metadata={"help": "Without --history: so many of the first users of --data."})
    num_items: int = field(default=10, metadata={"help": "Items to recommend."})
    num_beams: int = field(default=50, metadata={"help": "Width of the beam search."})
    no_memory: bool = field(
        default=False, metadata={"help": "The network alone, whatever memory lies beside the recommender."}
    )
    sources: bool = field(
        default=False, metadata={"help": "Say how much of each item is of the network and of the memory."}
    )
    keep_seen: bool | None = field(
        default=None,
        metadata={"help": "Recommend items of the history too; default: as the saved rules say, else not."},
    )

    def __post_init__(self) -> None:
        for name in ("users", "num_items", "num_beams"):
            if (number := getattr(self, name)) < 1:
                raise SystemExit(f"--{name} must be at least 1, got {number}.")


def run(arguments: RecommendArguments) -> list[list[tuple[str, float]]]:
    """Prints the recommendations and returns item ids with scores for each user."""
    there = find_model(arguments.recommender, arguments.revision)
    if not is_generative(there.name, there.revision):
        return recommend_by_scores(arguments, there)
    tokenizer = UniversalItemTokenizer.from_pretrained(there.name, index_only=True, revision=there.revision)
    recommender = load_model(there.name, there.revision)
    recommender.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]
    recommender.eval()
    tokenizer.check_recommender(recommender)
    memory = None if arguments.no_memory else tokenizer.memory
    if arguments.sources and memory is None:
        raise SystemExit("--sources: there is no memory; without one every item is the network's.")

    rules = saved_rules(model_folder(there.name, (RECOMMENDER_FILE,), there.revision))
    histories, titles = read_histories(arguments, tokenizer)
    titles = dict(zip(tokenizer.index.item_ids, tokenizer.index.titles, strict=True)) | titles
    keep_seen = not rules.exclude_seen if arguments.keep_seen is None else arguments.keep_seen
    seen = None if keep_seen else padded_rows([tokenizer.index.rows(history) for history in histories])
    output = recommender.recommend(
        **tokenizer(histories, return_tensors="pt").to(recommender.device),
        trie=tokenizer.trie.to(recommender.device),
        num_items=arguments.num_items,
        num_beams=arguments.num_beams,
        exclude=seen,
        rules=item_rules(rules, tokenizer, f"{arguments.recommender}, {RECOMMENDER_FILE}"),
        memory=memory,
        return_sources=arguments.sources,
    )
    assert output.item_ids is not None and output.scores is not None
    results = []
    for user, (history, item_ids) in enumerate(zip(histories, output.item_ids, strict=True)):
        results.append(list(zip(item_ids, output.scores[user].tolist(), strict=False)))
        below: list[str] = []
        if output.sources is not None:
            own = range(len(item_ids))
            below = [described(output.sources, user, place, tokenizer.index.item_ids) for place in own]
        show(history[-tokenizer.max_history :], results[-1], titles, below)
    return results


def recommend_by_scores(arguments: RecommendArguments, there: ModelPlace) -> list[list[tuple[str, float]]]:
    """As [`run`], by a sequential recommender, which scores every item of the catalogue that it was trained on."""
    if arguments.sources:
        raise SystemExit("--sources: a sequential recommender has no memory; every item is the network's.")
    folder = model_folder(there.name, ("config.json", "model*.safetensors*", IDS_NAME), there.revision)
    ranker = SequentialRanker.from_pretrained(folder)
    assert ranker.item_ids is not None
    row_of = {item_id: row for row, item_id in enumerate(ranker.item_ids)}
    histories, titles = read_histories(arguments, row_of)
    if unknown := [item_id for item_id in histories[0] if item_id not in row_of]:
        raise UnknownItemError(f"The recommender has no item {named(unknown)}.")
    rows = [np.array([row_of[item_id] for item_id in history]) for history in histories]
    best = ranker.rank(rows, arguments.num_items, None if arguments.keep_seen else rows)
    scores = ranker.score(rows, best)
    results = []
    for user, history in enumerate(histories):
        found = zip(best[user].tolist(), scores[user].tolist(), strict=True)
        results.append([(ranker.item_ids[row], score) for row, score in found if row >= 0])
        show(history[-(ranker.max_history or 0) :], results[-1], titles)
    return results


def read_histories(arguments: RecommendArguments, known: Container[str]) -> tuple[list[list[str]], dict[str, str]]:
    """Histories to recommend for, and the titles of the data's items; `known` are the recommender's."""
    histories, titles = [arguments.history] if arguments.history else [], {}
    if arguments.data:
        catalogue = Catalogue.from_folder(Path(arguments.data))
        titles = dict(zip(catalogue.item_ids, catalogue.titles, strict=True))
        if not histories:
            interactions = Interactions.from_folder(arguments.data, catalogue.item_ids)
            histories = histories_of(interactions, known, arguments.users)
    if not histories:
        raise SystemExit("Nothing to recommend for: give --history or --data.")
    return histories, titles


def show(
    history: Sequence[str], found: Sequence[tuple[str, float]], titles: Mapping[str, str], below: Sequence[str] = ()
) -> None:
    """Prints what is recommended for a history, with a line below each item if there are any."""
    print("History: " + "; ".join(titles.get(item_id) or item_id for item_id in history))
    for place, (item_id, score) in enumerate(found, start=1):
        print(f"{place:3d}. {score:8.3f}  {item_id}  {titles.get(item_id, '')}")
        if below:
            print(f"{'':15}{below[place - 1]}")


def item_rules(rules: RecommendationRules, tokenizer: UniversalItemTokenizer, place: str) -> ItemRules | None:
    """What saved rules allow, None for everything; `place` is where they are.

    Raises:
        UnknownItemError: a rule names an item that is not there.
    """
    if not rules.deny and rules.allow is None:
        return None
    try:
        return ItemRules(tokenizer.trie, allow=allowed_items(tokenizer, rules.allow, rules.deny))
    except UnknownItemError as error:
        raise UnknownItemError(f"{place}, rules: {error}") from None


def histories_of(interactions: Interactions, known: Container[str], users: int) -> list[list[str]]:
    """Histories of the first users that can be recommended to; those that cannot are left out, and it is said why.

    Raises:
        SystemExit: there is none.
    """
    histories: list[list[str]] = []
    left_out = []
    for user, name in enumerate(interactions.user_ids):
        if len(histories) == users:
            break
        history = [interactions.item_ids[row] for row in interactions.sequence(user)]
        unknown = [item_id for item_id in history if item_id not in known]
        if history and not unknown:
            histories.append(history)
        else:
            why = f"the recommender has no item {named(unknown, 1)}" if unknown else "no interaction"
            left_out.append(f"{name} ({why})")
    if left_out:
        print(f"{len(left_out):,} users are left out: {listed(left_out, '; ')}")
    if not histories:
        raise SystemExit("Nothing to recommend for: no user has a history of the recommender's items alone.")
    return histories


def described(sources: ItemSources, user: int, place: int, item_ids: Sequence[str]) -> str:
    """Where an item comes from, in a line: shares of 1 % and more."""
    shares = {"network": sources.network[user, place].item()}
    history = sources.history_rows[user].tolist()
    for name, of_items in (("after", sources.transitions), ("like", sources.content)):
        for row, share in zip(history, of_items[user, place].tolist(), strict=True):
            if row >= 0:
                shares[f"{name} {item_ids[row]}"] = share
    shares["no reason"] = sources.unknown[user, place].item()
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share >= 0.01)


def padded_rows(rows: list) -> torch.Tensor:
    """Item rows of several users as one tensor, padded with -1."""
    return torch.nn.utils.rnn.pad_sequence([torch.as_tensor(row) for row in rows], batch_first=True, padding_value=-1)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, by default the program's."""
    (arguments,) = parse_sections(RecommendArguments, {}, __doc__, argv)
    run(arguments)
