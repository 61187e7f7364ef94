"""Recommendations of items to users by a fine-tuned recommender: ids, titles and scores.

utgrec recommend --recommender runs/office/recommender --history office-00017 office-00303
utgrec recommend --recommender runs/office/recommender --data data/builtin/office --users 3
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tokenization_items import Catalogue, UniversalItemTokenizer
from trainers.arguments import parse_sections
from trainers.data.interactions import Interactions
from trainers.rankers.generative import load_model


@dataclass
class RecommendArguments:
    recommender: str = field(metadata={"help": "Folder or Hub id of a recommender with its item index."})
    history: list[str] | None = field(default=None, metadata={"help": "Item ids of one user, oldest first."})
    data: str | None = field(default=None, metadata={"help": "Data folder: titles, and users to recommend to."})
    users: int = field(default=1, metadata={"help": "Without --history: so many of the first users of --data."})
    num_items: int = field(default=10, metadata={"help": "Items to recommend."})
    num_beams: int = field(default=50, metadata={"help": "Width of the beam search."})
    keep_seen: bool = field(default=False, metadata={"help": "Recommend items of the history too."})


def run(arguments: RecommendArguments) -> list[list[tuple[str, float]]]:
    """Prints the recommendations and returns item ids with scores for each user."""
    tokenizer = UniversalItemTokenizer.from_pretrained(arguments.recommender, index_only=True)
    recommender = load_model(arguments.recommender)
    recommender.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]
    recommender.eval()
    tokenizer.check_recommender(recommender)

    titles: dict[str, str] = {}
    histories = [arguments.history] if arguments.history else []
    if arguments.data:
        catalogue = Catalogue.from_folder(Path(arguments.data))
        titles = dict(zip(catalogue.item_ids, catalogue.titles, strict=True))
        if not histories:
            interactions = Interactions.from_folder(arguments.data, catalogue.item_ids)
            rows = [interactions.sequence(user) for user in range(min(arguments.users, interactions.num_users))]
            histories = [[catalogue.item_ids[row] for row in history] for history in rows]
    if not histories:
        raise SystemExit("Nothing to recommend for: give --history or --data.")

    seen = None if arguments.keep_seen else padded_rows([tokenizer.index.rows(history) for history in histories])
    output = recommender.recommend(
        **tokenizer(histories, return_tensors="pt").to(recommender.device),
        trie=tokenizer.trie.to(recommender.device),
        num_items=arguments.num_items,
        num_beams=arguments.num_beams,
        exclude=seen,
    )
    assert output.item_ids is not None and output.scores is not None
    results = []
    for history, item_ids, scores in zip(histories, output.item_ids, output.scores.tolist(), strict=True):
        print("History: " + "; ".join(titles.get(item_id) or item_id for item_id in history[-tokenizer.max_history :]))
        for place, (item_id, score) in enumerate(zip(item_ids, scores, strict=False), start=1):
            print(f"{place:3d}. {score:8.3f}  {item_id}  {titles.get(item_id, '')}")
        results.append(list(zip(item_ids, scores, strict=False)))
    return results


def padded_rows(rows: list) -> torch.Tensor:
    """Item rows of several users as one tensor, padded with -1."""
    return torch.nn.utils.rnn.pad_sequence([torch.as_tensor(row) for row in rows], batch_first=True, padding_value=-1)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, by default the program's."""
    run(*parse_sections(RecommendArguments, {}, __doc__, argv))
