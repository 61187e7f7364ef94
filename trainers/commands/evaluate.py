r"""Evaluation of recommenders on a data folder: leave-one-out or the data's own split, full ranking.

    utgrec evaluate --recommender item-transitions --data data/beauty
    utgrec evaluate --recommender runs/beauty --data data/beauty --mask_seen --json -
    utgrec evaluate --recommender runs/seed-* --compare_with item-transitions --data data/beauty --ks 5 10 20
    utgrec evaluate --zero_shot --recommender runs/pretrained/recommender nearest-items --items runs/items \
        --embeddings runs/beauty-texts --data data/beauty

The data folder holds items.{parquet,jsonl,jsonl.gz,csv} and sequences.* or interactions.*, whose column split, if it
has one, is the split. Results are tables, or lines of JSON.
"""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from hub_cards import VALUES_FILE, load_values
from hub_cards.formatting import markdown_table
from tokenization_items.catalogue import Catalogue
from tokenization_items.files import check_writable
from tokenization_items.hub_folders import HubError, model_folder
from tokenization_items.item_index import CODES_NAME
from trainers.arguments import parse_sections
from trainers.data.interactions import Interactions
from trainers.evaluation.candidate_rows import RowChoices, draw_rows
from trainers.evaluation.comparison import described
from trainers.evaluation.level_scores import ZeroShotArguments
from trainers.evaluation.metrics import metric_names
from trainers.evaluation.protocol import evaluate, protocol_of
from trainers.evaluation.significance import BOOTSTRAP_SAMPLES, check_same_cases, over_seeds, paired_test
from trainers.evaluation.tables import load_result, portable_command, render_report, save_results, to_json
from trainers.hub.download import ModelPlace, find_model
from trainers.methods.published import LEFT_OUT, LEVELS, settings_of
from trainers.rankers import RANKERS, Ranker, is_generative, load_ranker

TITLES = "title-likelihood"

# What --help shows; --help-all shows the rest.
SHOWN = (
    "recommender",
    "data",
    "revision",
    "zero_shot",
    "part",
    "mask_seen",
    "max_history",
    "k_core",
    "ks",
    "num_beams",
    "batch_size",
    "no_memory",
    "embeddings",
    "query",
    "intervals",
    "compare_with",
    "per_user",
    "json",
    "labels",
    "score",
    "items",
    "language_model",
    "full_ranking",
)


@dataclass
class EvaluationArguments:
    recommender: list[str] = field(
        metadata={
            "help": "`linear` (settings chosen on validation; reads the texts by --embeddings, or else TF-IDF), "
            "`item-transitions`, `popularity` (from the training part alone), `nearest-items` (needs --embeddings), "
            "or a model's folder or Hub id. Several models: one with several seeds. With --zero_shot also "
            "`title-likelihood` (needs --language_model), each judged alone."
        }
    )
    data: str = field(metadata={"help": "Data folder with the items and the interactions."})
    revision: str | None = field(default=None, metadata={"help": "Of --recommender on the Hub: branch, tag, commit."})
    zero_shot: bool = field(
        default=False, metadata={"help": "Judge without training on the domain, also by the AUC of each user (GAUC)."}
    )
    part: Literal["test", "validation"] = field(
        default="test", metadata={"help": "Predict the last item (test) or the second last (validation)."}
    )
    mask_seen: bool = field(default=False, metadata={"help": "Never recommend an item of the user's whole history."})
    max_history: int = field(
        default=20, metadata={"help": "Last items of a history that the recommender gets; 0: all of them."}
    )
    k_core: int = field(
        default=0, metadata={"help": "Keep users and items with so many interactions, as in training; 0: all."}
    )
    ks: list[int] = field(default_factory=lambda: [5, 10], metadata={"help": "Cut-offs.", "aliases": ["--k"]})
    num_beams: int = field(default=50, metadata={"help": "Beams of a generative recommender."})
    batch_size: int = field(default=64, metadata={"help": "Users per batch."})
    no_memory: bool = field(
        default=False, metadata={"help": "Rank by the network alone, whatever memory lies beside a recommender."}
    )
    embeddings: str | None = field(
        default=None, metadata={"help": "Folder of embeddings, for `nearest-items` and `linear`."}
    )
    query: Literal["last", "mean", "last+mean", "history"] = field(
        default="last",
        metadata={"help": "`nearest-items`: near to the last item, the history's mean, both, or any item of it."},
    )
    intervals: int = field(
        default=BOOTSTRAP_SAMPLES, metadata={"help": "Bootstrap samples of the 95 %% intervals; 0: none."}
    )
    compare_with: str | None = field(
        default=None,
        metadata={"help": "Paired test against another recommender, or a result written with --per_user --json FILE."},
    )
    per_user: bool = field(
        default=False, metadata={"help": "Keep the rank of every user's target, for a later --compare_with."}
    )
    json: str | None = field(
        default=None,
        metadata={"help": "Write the result as one JSON line to this file; `-`: to stdout. Without it: tables."},
    )

    def __post_init__(self) -> None:
        least = {"max_history": 0, "k_core": 0, "intervals": 0, "num_beams": 1, "batch_size": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise SystemExit(f"--{name} is at least {value}, got {getattr(self, name)}.")
        if min(self.ks, default=0) < 1:
            raise SystemExit(f"--ks are cut-offs of at least 1, got {self.ks}.")
        if self.zero_shot and self.part != "test":
            raise SystemExit("--zero_shot judges the test part, or any interaction by --targets: leave out --part.")
        if self.zero_shot and self.per_user:
            raise SystemExit("--per_user keeps ranks, which --zero_shot compares within one run: leave it out.")


def load_interactions(arguments: EvaluationArguments) -> Interactions:
    if arguments.k_core:
        from trainers.data.domains import Domain

        return Domain.from_folder(arguments.data, arguments.k_core, check_images=False).interactions
    return Interactions.from_folder(arguments.data, Catalogue.from_folder(arguments.data).item_ids)


def find_recommenders(arguments: EvaluationArguments) -> list[ModelPlace | None]:
    """Where each recommender is, by folder or Hub id; None for one that needs no training.

    Raises:
        SystemExit: there is no such model, or a revision and none that it is of.
    """
    places = [find_recommender(name, "--recommender", arguments.revision) for name in arguments.recommender]
    if arguments.revision is not None and not any(places):
        raise SystemExit("--revision is of a --recommender on the Hub: there is none.")
    return places


def find_recommender(name: str, flag: str, revision: str | None = None) -> ModelPlace | None:
    """Where the recommender that a flag names is."""
    if name in RANKERS or name == TITLES:
        return None
    try:
        return find_model(name, revision)
    except HubError as error:
        raise SystemExit(f"{flag} {name} is none of {', '.join(RANKERS)}, and as a model: {error}") from error


def ranker_of(
    name: str,
    arguments: EvaluationArguments,
    interactions: Interactions,
    there: ModelPlace | None,
    items: str | Path | None = None,
    flag: str = "--recommender",
) -> Ranker:
    """A ranker for all of the data's items, whose semantic IDs are those in the folder `items` if one is given; `flag`
    named it."""
    texts = None
    if name == "linear" and arguments.embeddings is None:
        texts = catalogue_of(arguments, interactions).texts
    try:
        ranker = load_ranker(
            name,
            interactions,
            embeddings=arguments.embeddings,
            texts=texts,
            query=arguments.query,
            items=items,
            num_beams=arguments.num_beams,
            batch_size=arguments.batch_size,
            memory=not arguments.no_memory,
            revision=None if there is None else there.revision,
        )
    except ValueError as error:
        raise ValueError(f"{flag} {name}: {error}") from error
    longest = getattr(ranker, "max_history", None) or 0
    if 0 < arguments.max_history < longest:
        print(
            f"{flag} {name} reads {longest} items of a history and gets {arguments.max_history}: with --max_history "
            f"{longest} it is judged as its training did."
        )
    if getattr(ranker, "remembers", None) == "all":
        print(
            f"{flag} {name}: its memory counts all interactions that it was made of, as one for serving does. If they "
            "are of this data, what is to be found is among them, and the result is far too good: --no_memory, or a "
            "memory of the training part (`utgrec memory --update`)."
        )
    return ranker


def judge_zero_shot(
    arguments: EvaluationArguments, choices: RowChoices, flags: ZeroShotArguments, argv: Sequence[str]
) -> list[dict[str, Any]]:
    """A result for each recommender, all on the same rows; all are loaded before the first is judged."""
    from trainers.evaluation import zero_shot

    flag = "--recommender"
    places = [(flag, *each) for each in zip(arguments.recommender, find_recommenders(arguments), strict=True)]
    if arguments.compare_with is not None:
        flag = "--compare_with"
        places.append((flag, arguments.compare_with, find_recommender(arguments.compare_with, flag)))
    interactions, limit = load_interactions(arguments), arguments.max_history or None
    domain, rows, models = Path(arguments.data).resolve().name, draw_rows(interactions, choices), []
    for flag, name, there in places:
        folder: Path | None = None
        if name == TITLES:
            ranker = load_titles(flags.language_model, arguments, interactions)
        else:
            items: str | Path | None = flags.items
            if there is not None:
                folder = model_folder(there.name, ("config.json", CODES_NAME, VALUES_FILE), there.revision)
                if is_generative(folder):
                    items = zero_shot.items_folder(folder, domain, flags.items)
            ranker = ranker_of(name, arguments, interactions, there, items, flag)
        models.append(zero_shot.zero_shot_model(ranker, interactions, flags, folder, limit, arguments.batch_size))
    results = [
        zero_shot.evaluate_zero_shot(
            model,
            domain,
            interactions,
            rows,
            max_history=limit,
            mask_seen=arguments.mask_seen,
            ks=arguments.ks,
            batch_size=arguments.batch_size,
            intervals=arguments.intervals,
            full_ranking=flags.full_ranking,
            per_user=True,
        )
        | {"command": portable_command(["utgrec", "evaluate"], argv)}
        for model in models
    ]
    per_user = [result.pop("per_user") for result in results]
    if arguments.compare_with is not None:
        for result, each in zip(results[:-1], per_user, strict=False):
            result["comparison"] = {"with": results[-1]["model"], "metrics": paired_test(each, per_user[-1])}
    return results


def load_titles(language_model: str | None, arguments: EvaluationArguments, interactions: Interactions):
    """A language model as a ranker, with the titles of the data's items."""
    if language_model is None:
        raise SystemExit(f"--recommender {TITLES} needs --language_model: a Hub id or a folder.")
    from trainers.rankers.title_likelihood import TitleLikelihood

    return TitleLikelihood.from_pretrained(language_model, catalogue_of(arguments, interactions))


def catalogue_of(arguments: EvaluationArguments, interactions: Interactions) -> Catalogue:
    """The items of the interactions, in their order."""
    catalogue = Catalogue.from_folder(arguments.data)
    row_of = {item_id: row for row, item_id in enumerate(catalogue.item_ids)}
    return catalogue.select([row_of[item_id] for item_id in interactions.item_ids])


def evaluate_all(
    rankers: Sequence[Ranker], arguments: EvaluationArguments, interactions: Interactions
) -> dict[str, Any]:
    """The result of one recommender, or the mean over several seeds with each one's result under `"seeds"`."""
    results = []
    for ranker in rankers:
        result = evaluate(
            ranker,
            interactions,
            part=arguments.part,
            mask_seen=arguments.mask_seen,
            max_history=arguments.max_history or None,
            ks=arguments.ks,
            batch_size=arguments.batch_size,
            intervals=arguments.intervals,
            per_user=arguments.per_user or arguments.compare_with is not None,
        )
        remembers = {"remembers": "all"} if getattr(ranker, "remembers", None) == "all" else {}
        results.append({**result, **described(ranker), **remembers})
    if len(results) == 1:
        return results[0]
    mean = over_seeds(results)
    mean["seeds"] = [{key: value for key, value in result.items() if key != "per_user"} for result in results]
    return mean


def check_seeds(names: Sequence[str], rankers: Sequence[Ranker], places: Sequence[ModelPlace | None]) -> None:
    """Raises SystemExit if recommenders that are averaged are no seeds of one model: of another class, method or
    setting, or with and without a memory."""
    kinds = [_kind(ranker, place) for ranker, place in zip(rankers, places, strict=True)]
    for name, kind in zip(names[1:], kinds[1:], strict=True):
        told = next((each for each in kinds[0] if kinds[0][each] != kind.get(each)), None)
        if told is not None:
            first, other = (f"{told} {each.get(told)}".removeprefix("class ") for each in (kinds[0], kind))
            raise SystemExit(
                f"Several --recommender are seeds of one model, of which the mean is taken: {names[0]} is {first}, "
                f"{name} is {other}. Evaluate each alone; --compare_with tests the one against the other."
            )


def _kind(ranker: Ranker, place: ModelPlace | None) -> dict[str, Any]:
    """What seeds of one model share, as far as is known; sizes of codes are a tokenizer's, which has seeds, too."""
    model = getattr(ranker, "model", None)
    if model is None:
        return {"class": type(ranker).__name__}
    values = None if place is None else load_values(place.folder)
    return {
        "class": type(model).__name__,
        "method": getattr(values, "method", None),
        "memory": getattr(ranker, "memory", None) is not None,
        **{
            name: value
            for name, value in settings_of(model.config, None).items()
            if not isinstance(value, list) and name not in LEVELS and not any(part in name for part in LEFT_OUT)
        },
    }


def load_other(
    name: str, arguments: EvaluationArguments, interactions: Interactions, there: ModelPlace | None
) -> Ranker | dict[str, Any]:
    """What `--compare_with` names: a recommender, or a result with its cases."""
    if not Path(name).is_file():
        return ranker_of(name, arguments, interactions, there, flag="--compare_with")
    other = load_result(name)
    if "per_user" not in other:
        raise SystemExit(f"{name} has no users' ranks: evaluate it again with --per_user.")
    check_alike(other, arguments, interactions)
    return other


def check_alike(other: dict[str, Any], arguments: EvaluationArguments, interactions: Interactions) -> None:
    """
    Looks whether a result can be compared with what is to be evaluated.

    Raises:
        SystemExit: it is of another protocol or has other cut-offs.
        ValueError: it is of other cases.
    """
    asked = protocol_of(interactions, arguments.part, arguments.mask_seen)
    unlike = [f"{name} is {each!r} and {other.get(name)!r}" for name, each in asked.items() if each != other.get(name)]
    if unlike:
        raise SystemExit(f"This evaluation and that of {other['name']} are not alike: {', '.join(unlike)}.")
    if not set(metric_names(arguments.ks)) & other.keys():
        raise SystemExit(f"--ks {arguments.ks}: the result of {other['name']} has none of these cut-offs.")
    cases = interactions.cases(arguments.part)
    check_same_cases({"users": cases.users, "targets": cases.targets}, other["per_user"])


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, by default the program's."""
    argv = list(sys.argv[1:] if argv is None else argv)
    arguments, choices, zero_shot = parse_sections(
        (EvaluationArguments, RowChoices, ZeroShotArguments), {}, __doc__, argv, SHOWN
    )
    if not arguments.zero_shot:
        check_not_zero_shot(choices, zero_shot)
    if arguments.json is not None and arguments.json != "-":
        if Path(arguments.json).is_dir():
            raise SystemExit(f"--json {arguments.json} is a folder: give a file.")
        check_writable(Path(arguments.json).parent)
    # stdout carries the result and nothing else
    with contextlib.redirect_stdout(sys.stderr):
        if arguments.zero_shot:
            results = judge_zero_shot(arguments, choices, zero_shot, argv)
        else:
            results = judge(arguments)
    if arguments.json is None:
        print(render(results) if arguments.zero_shot else render_report(results))
        return
    written = results if arguments.zero_shot else results[:1]
    if arguments.json == "-":
        print(*map(to_json, written), sep="\n")
    else:
        save_results(written, arguments.json)


def check_not_zero_shot(*choices: RowChoices | ZeroShotArguments) -> None:
    """Raises SystemExit for flags that a zero-shot evaluation alone reads."""
    given = [f"--{each.name}" for of in choices for each in fields(of) if getattr(of, each.name) != each.default]
    if given:
        raise SystemExit(f"{', '.join(given)}: for --zero_shot alone, which is not given.")


def render(results: list[dict[str, Any]]) -> str:
    """Tables of a zero-shot evaluation, and of what was compared."""
    from trainers.evaluation.zero_shot import render_zero_shot

    blocks = [render_zero_shot(results)]
    for result in results:
        if "comparison" in result:
            tests = [{"metric": name, **test} for name, test in result["comparison"]["metrics"].items()]
            blocks.append(f"{result['model']} against {result['comparison']['with']}\n\n{markdown_table(tests)}")
    return "\n\n".join(blocks)


def judge(arguments: EvaluationArguments) -> list[dict[str, Any]]:
    """The result, and that of the recommender that it was compared with, if any."""
    if arguments.per_user and len(arguments.recommender) > 1:
        raise SystemExit("--per_user keeps the ranks of one recommender: evaluate the seeds one by one.")
    places, compared, other_place = find_recommenders(arguments), arguments.compare_with, None
    if compared is not None and not Path(compared).is_file():
        other_place = find_recommender(compared, "--compare_with")
    interactions = load_interactions(arguments)
    # all are loaded before the first is judged
    rankers = [
        ranker_of(name, arguments, interactions, there)
        for name, there in zip(arguments.recommender, places, strict=True)
    ]
    check_seeds(arguments.recommender, rankers, places)
    other = None if compared is None else load_other(compared, arguments, interactions, other_place)
    result = evaluate_all(rankers, arguments, interactions)
    results = [result]
    if other is not None:
        other = other if isinstance(other, dict) else evaluate_all([other], arguments, interactions)
        tests = paired_test(result["per_user"], other["per_user"])
        result["comparison"] = {"with": other["name"], "metrics": tests}
        results.append(other)
    if not arguments.per_user:
        result.pop("per_user", None)
    return results
