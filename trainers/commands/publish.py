r"""Publication of an item tokenizer, a recommender and their data together, each in a repository of its own.

    utgrec publish --name org/office --tokenizer runs/office/tokenizer --recommender runs/office/recommender \
        --data data/office --license apache-2.0

Without --push nothing leaves this machine: files and sizes are listed, cards are written in memory and checked. The
repositories are org/office-tokenizer, org/office-recommender and org/office-data, private unless --public is given,
and with --space org/office-space, a page that shows the recommender (see utgrec space).
Log in with `hf auth login`, or set HF_TOKEN; there is no flag for a token, which would stay in the shell's history.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers.utils import CONFIG_NAME

from hub_cards import (
    Card,
    DatasetCardValues,
    Evaluation,
    ModelCardValues,
    RecommenderCardValues,
    SpaceCardValues,
    TokenizerCardValues,
    is_repository,
    load_values,
    space_files,
    write_text,
)
from tokenization_items.hub_folders import model_folder
from tokenization_items.tokenization_items import TOKENIZER_FILE, UniversalItemTokenizer
from trainers.arguments import parse_sections
from trainers.hub.data_facts import dataset_card_values
from trainers.hub.download import find_model
from trainers.hub.model_facts import versions
from trainers.hub.publish import Publication, publish
from trainers.hub.upload import ALLOWED, PublishingError

# Of the files that a model of each kind has, at least one.
SETTINGS = {"tokenizer": (TOKENIZER_FILE, CONFIG_NAME), "recommender": (CONFIG_NAME,)}


@dataclass
class PublishArguments:
    name: str = field(metadata={"help": "Where to: <user or organisation>/<name>; each repository adds what it is."})
    tokenizer: str | None = field(default=None, metadata={"help": "Folder or Hub id of the item tokenizer."})
    recommender: str | None = field(default=None, metadata={"help": "Folder or Hub id of the recommender."})
    revision: str | None = field(default=None, metadata={"help": "Of both on the Hub: branch, tag, commit."})
    data: str | None = field(default=None, metadata={"help": "Data folder: a domain, or a folder of domains."})
    license: str | None = field(default=None, metadata={"help": "Licence of the models, as the Hub spells it."})
    data_license: str | None = field(default=None, metadata={"help": "Licence of the data."})
    language: list[str] | None = field(default=None, metadata={"help": "Languages of the texts, such as en."})
    space: bool = field(default=False, metadata={"help": "Also a Space of the Hub that shows the recommender."})
    space_requirement: str | None = field(
        default=None,
        metadata={"help": "How the Space installs this package; by default utgrec[space] of the version here."},
    )
    push: bool = field(default=False, metadata={"help": "Send. Without it: list what would be sent."})
    public: bool = field(
        default=False, metadata={"help": "Make the repositories public; by default they are private."}
    )
    message: str = field(default="Published with UTGRec", metadata={"help": "Message of the commits."})


def run(arguments: PublishArguments) -> list[Publication]:
    """Lists what would be sent, sends it if asked to, and returns it."""
    with tempfile.TemporaryDirectory(prefix="utgrec-") as scratch:
        fetched: dict[str, Any] = {
            kind: fetch(name, arguments.revision, Path(scratch) / kind)
            for kind in ("tokenizer", "recommender")
            if (name := getattr(arguments, kind)) is not None
        }
        return send(replace(arguments, **fetched), Path(scratch))


def fetch(name: str, revision: str | None, scratch: Path) -> str:
    """The folder of a model; one of the Hub is copied, since its card will be written anew.

    Raises:
        HubError: there is none.
    """
    there = find_model(name, revision)
    if there.revision is None:
        return name
    return str(model_folder(name, ALLOWED, there.revision, local_dir=scratch))


def send(arguments: PublishArguments, scratch: Path) -> list[Publication]:
    """[`run`] for models in folders; the files of a Space are made in `scratch`."""
    publications = plan(arguments)
    if arguments.space:
        publications.append(plan_space(arguments, publications, scratch / "space"))
    for publication in publications:
        print(f"\n{publication}")
    if not arguments.push:
        print("\nNothing was sent: add --push to send this.")
        return publications
    network = None  # of the recommender's items: the tokenizer that was published before it
    for publication in publications:
        said, commit = publish(publication, arguments.public, arguments.message, network)
        print(f"\n{said}")
        if publication.repo_id.endswith("-tokenizer"):
            network = {"name_or_path": publication.repo_id, "revision": commit}
    return publications


def plan(arguments: PublishArguments) -> list[Publication]:
    """What would be sent, in the order in which it refers to each other: data, tokenizer, recommender."""
    if not is_repository(arguments.name) or "/" not in arguments.name:
        raise PublishingError(f"--name {arguments.name}: expected <user or organisation>/<name>, such as org/office.")
    if not (arguments.tokenizer or arguments.recommender or arguments.data):
        raise PublishingError("Nothing to publish: give --tokenizer, --recommender or --data.")
    if arguments.space and not arguments.recommender:
        raise PublishingError("--space shows a recommender: give --recommender, too.")
    for kind in SETTINGS:
        check_kind(kind, getattr(arguments, kind))
    check_pair(arguments)
    domains: dict[str, str] = {}
    facts: dict[str, Any] = {"license": arguments.license, "language": arguments.language}
    found = []
    if arguments.data:
        repo_id = f"{arguments.name}-data"
        name = arguments.name.partition("/")[2]
        data_facts = {"license": arguments.data_license, "language": arguments.language, "repo_id": repo_id}
        data = dataset_card_values(arguments.data, name, **data_facts)
        found.append(Publication(arguments.data, repo_id, data))
        folders = {row["Domain"]: row.get("folder") for row in data.domains}
        domains = {name: f"{inner}-interactions" if inner else "interactions" for name, inner in folders.items()}
        facts["datasets"] = [repo_id]
    for kind, folder in (("tokenizer", arguments.tokenizer), ("recommender", arguments.recommender)):
        if folder:
            repo_id = f"{arguments.name}-{kind}"
            values = load_values(folder) or bare_values(kind, Path(folder))
            given = {name: value for name, value in facts.items() if value}
            if domains and isinstance(values, ModelCardValues):
                given["evaluations"] = placed(values.evaluations, domains, f"{arguments.name}-data")
            found.append(Publication(folder, repo_id, replace(values, repo_id=repo_id, **given)))
    return found


def placed(evaluations: Sequence[Evaluation], domains: Mapping[str, str], repo_id: str) -> list[Evaluation]:
    """Evaluations, those on a domain that is published too with its place on the Hub.

    Args:
        evaluations (`Sequence[Evaluation]`): of a card.
        domains (`Mapping[str, str]`): the published domains, with the configuration of the data set that has their
            interactions.
        repo_id (`str`): the data set.
    """
    return [
        replace(each, dataset_id=repo_id, dataset_config=domains[each.dataset])
        if each.dataset_id is None and each.dataset in domains
        else each
        for each in evaluations
    ]


def plan_space(arguments: PublishArguments, others: Sequence[Publication], folder: Path) -> Publication:
    """A Space that shows the recommender, with the pictures of the data if those are of one domain and have any."""
    if find_spec("gradio") is None:
        raise PublishingError(
            '--space names the version of gradio that it was tried with: pip install "utgrec[space]".'
        )
    data = next((each.values for each in others if isinstance(each.values, DatasetCardValues)), None)
    pictures = data is not None and len(data.domains) == 1 and "folder" not in data.domains[0]
    pictures = pictures and data is not None and data.domains[0]["Items with image"] > 0
    repo_id, version = f"{arguments.name}-space", versions().get("utgrec")
    values = SpaceCardValues(
        name=arguments.name.partition("/")[2],
        repo_id=repo_id,
        license=arguments.license,
        models=[f"{arguments.name}-recommender"],
        datasets=[f"{arguments.name}-data"] if pictures else [],
        sdk_version=metadata.version("gradio"),
        requirements=[arguments.space_requirement or "utgrec[space]" + (f"=={version}" if version else "")],
    )
    for name, text in space_files(values).items():
        write_text(folder / name, text)
    return Publication(str(folder), repo_id, values)


def check_kind(kind: str, folder: str | None) -> None:
    """Raises [`PublishingError`] if a folder is of data, or of a run with models within: all in it would be sent under
    a model's name, whatever it says of customers."""
    if folder is None or any((Path(folder) / file).is_file() for file in SETTINGS[kind]):
        return
    within = Path(folder) / kind
    fix = f"give {within}." if within.is_dir() else "give the folder of one."
    raise PublishingError(f"--{kind} {folder} holds no {kind}: {' or '.join(SETTINGS[kind])} is missing; {fix}")


def check_pair(arguments: PublishArguments) -> None:
    """Tokenizer and recommender must be of one training: together is how they will be used."""
    if arguments.tokenizer and arguments.recommender:
        tokenizer, other = (load_items(folder) for folder in (arguments.tokenizer, arguments.recommender))
        if tokenizer is None:
            raise PublishingError(f"--tokenizer {arguments.tokenizer} holds no item tokenizer.")
        if other is not None and tokenizer.fingerprint != other.fingerprint:
            raise PublishingError(
                f"{arguments.tokenizer} has the fingerprint {tokenizer.fingerprint}, the items of "
                f"{arguments.recommender} {other.fingerprint}: they are not of one training."
            )


def load_items(folder: str) -> UniversalItemTokenizer | None:
    try:
        return UniversalItemTokenizer.from_pretrained(folder, index_only=True)
    except FileNotFoundError:
        return None


def bare_values(kind: str, folder: Path) -> Card:
    """Values of the card of a folder without `card_values.json`: what the item index says."""
    items = load_items(str(folder))
    facts: dict[str, Any] = {"name": f"Item {kind}" if kind == "tokenizer" else kind.capitalize(), "num_items": None}
    if items is not None:
        facts |= {"num_items": len(items), "level_sizes": items.index.level_sizes, "fingerprint": items.fingerprint}
    return (TokenizerCardValues if kind == "tokenizer" else RecommenderCardValues)(**facts)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, by default the program's."""
    run(*parse_sections(PublishArguments, {}, __doc__, argv))
