r"""A memory of transitions and content for a generative recommender, which its search mixes in.

    utgrec memory --recommender runs/office/recommender --data data/office --embeddings runs/office-texts
    utgrec memory --recommender org/office --data data/office --output_dir runs/office-with-memory
    # new interactions or items, no new training: the settings stay, the rows are those of the data as it is now
    utgrec memory --recommender runs/office/recommender --data data/office-today --update --all_interactions

The memory is built from the training part: item transitions in closed form (decayed counts for large catalogues, read
where `utgrec prepare --pair_horizon 10` has counted) and the cosine of the items' texts, by --embeddings of `utgrec
embed` or else TF-IDF (of a quick start its own, by which new items are read), and the items' brands if they have any.
How much each weighs, and whether what a user has had is taken again, is chosen on the validation items by a fixed
grid, which goes into the card; --temperature with --mixing_weight chooses nothing. It is written as
item_memory.safetensors beside the index of the recommender, where `recommend`, `evaluate` and the pipeline find it;
--no_memory there leaves it out. Then the test items are judged with and without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hub_cards import CARD_FILE, Evaluation, RecommenderCardValues, load_values, named, save_card
from hub_cards.formatting import markdown_table
from modeling_utgrec.memory_settings import MemorySettings
from tokenization_items.catalogue import Catalogue
from tokenization_items.files import check_writable
from tokenization_items.hub_folders import model_folder
from tokenization_items.item_embeddings import encoder_fingerprint, load_embeddings
from tokenization_items.item_index import ItemIndex
from tokenization_items.item_memory import ItemMemoryError, StoredMemory
from tokenization_items.text_statistics import (
    STATISTICS_NAME,
    TF_IDF,
    FittedTextStatistics,
    TextStatistics,
    content_of_texts,
)
from tokenization_items.tokenization_items import UniversalItemTokenizer
from trainers.arguments import parse_sections
from trainers.data.domains import Domain
from trainers.data.item_brands import item_brands
from trainers.data.prepared_folder import PAIRS
from trainers.evaluation.comparison import ALONE, WITH_MEMORY
from trainers.evaluation.metrics import TABLE_METRICS
from trainers.evaluation.protocol import check_cases, evaluate
from trainers.evaluation.significance import BOOTSTRAP_SAMPLES
from trainers.hub.download import find_model
from trainers.hub.model_facts import memory_facts
from trainers.hub.upload import ALLOWED
from trainers.methods.log_counts import LogCounts, sample_log
from trainers.methods.memory import ROW_ITEMS, SIMILAR_ITEMS, build_memory, for_index, rebuild_memory
from trainers.methods.mixture_selection import choose_memory
from trainers.rankers.generative import GenerativeRanker
from trainers.rankers.linear import LinearSettings

# What an update takes from the memory that is there.
KEPT = frozenset(
    "row_items similar_items transitions regularization temperature mixing_weight content_weight evidence "
    "trend_weight period_weight discount brand_weight repeat_weight".split()
)


@dataclass
class MemoryArguments:
    recommender: str = field(metadata={"help": "Folder or Hub id of a recommender with its item index."})
    data: str = field(metadata={"help": "Data folder with items and interactions."})
    revision: str | None = field(default=None, metadata={"help": "Of --recommender on the Hub: branch, tag, commit."})
    embeddings: str | None = field(
        default=None, metadata={"help": "Folder of text embeddings; default: TF-IDF of the texts."}
    )
    no_content: bool = field(default=False, metadata={"help": "Remember transitions alone."})
    no_brands: bool = field(
        default=False, metadata={"help": "Leave out the items' brands; else one that the history has may count more."}
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "Where a recommender of the Hub goes; one in a folder stays there."}
    )
    update: bool = field(
        default=False, metadata={"help": "Keep the settings of the memory that is there, and build its rows anew."}
    )
    all_interactions: bool = field(
        default=False,
        metadata={"help": "With --update: remember validation and test items too. For serving: nothing is judged."},
    )
    row_items: int = field(default=ROW_ITEMS, metadata={"help": "Transitions of an item that are kept."})
    similar_items: int = field(default=SIMILAR_ITEMS, metadata={"help": "Items alike in content kept of each item."})
    transitions: Literal["auto", "inverse", "counts"] = field(
        default="auto", metadata={"help": "In closed form, or decayed counts; auto: by the number of items."}
    )
    regularization: float = field(default=10.0, metadata={"help": "Of the closed form, where it is not chosen."})
    temperature: float | None = field(default=None, metadata={"help": "With --mixing_weight: nothing is chosen."})
    mixing_weight: float | None = field(default=None, metadata={"help": "Share of the memory, 0 to 1."})
    content_weight: float = field(default=0.02, metadata={"help": "Weight of the texts, where it is not chosen."})
    evidence: float = field(default=30.0, metadata={"help": "By which rare last items raise it."})
    trend_weight: float = field(default=0.0, metadata={"help": "Weight of the trend, where it is not chosen."})
    period_weight: float = field(default=0.0, metadata={"help": "Weight of the periods, where it is not chosen."})
    discount: float = field(default=0.0, metadata={"help": "Of popular items, where it is not chosen."})
    brand_weight: float = field(default=0.0, metadata={"help": "Weight of the brands, where it is not chosen."})
    repeat_weight: float = field(
        default=0.0, metadata={"help": "Weight of what a user has had, where it is not chosen; -10: never again."}
    )
    k_core: int = field(default=0, metadata={"help": "Keep users and items with so many interactions; 0: all."})
    mask_seen: bool = field(default=False, metadata={"help": "Never recommend items of the history, in the test."})
    num_beams: int = field(default=50, metadata={"help": "Beams of the recommender."})
    batch_size: int = field(default=64, metadata={"help": "Users per batch."})
    sample_users: int | None = field(
        default=None,
        metadata={"help": "Read the log in parts: so many users choose and judge; of the rest, the pairs in --data."},
    )
    seed: int = field(default=0, metadata={"help": "By which --sample_users are drawn."})
    no_test: bool = field(default=False, metadata={"help": "Do not judge the test items."})

    def __post_init__(self) -> None:
        if (self.temperature is None) != (self.mixing_weight is None):
            raise SystemExit("--temperature and --mixing_weight go together.")
        if self.update:
            given = [f"--{each.name}" for each in fields(self) if each.name in KEPT and self.changes(each)]
            if given:
                raise SystemExit(f"--update keeps how the memory was built and is read: leave out {', '.join(given)}.")
        if self.all_interactions and not self.update:
            raise SystemExit("--all_interactions is for --update: a choice on validation must not remember it.")
        if min(self.row_items, self.similar_items) < 1:
            raise SystemExit(
                f"--row_items and --similar_items are at least 1, got {self.row_items} and {self.similar_items}."
            )
        if self.sample_users is not None and (self.k_core or self.all_interactions or self.sample_users < 1):
            raise SystemExit(
                "--sample_users is 1 or more; pairs are counted of the training part of a log as it was prepared, so "
                "leave out --k_core and --all_interactions."
            )
        if self.update and self.no_brands:
            raise SystemExit("--update remembers brands where the memory that is there does: leave out --no_brands.")
        if self.brand_weight and self.no_brands:
            raise SystemExit("--brand_weight and --no_brands contradict each other.")
        if self.no_content and self.embeddings is not None:
            raise SystemExit("--no_content and --embeddings contradict each other.")

    def changes(self, flag: Field) -> bool:
        """Whether a flag has another value than its default."""
        return getattr(self, flag.name) != flag.default


def run(arguments: MemoryArguments) -> list[dict[str, Any]]:
    """Builds, saves and judges; returns the test results with and without the memory."""
    folder = local_folder(arguments)
    check_writable(folder)
    before = StoredMemory.load(folder) if arguments.update else None
    domain, remembered = read_data(arguments, None if before is None else before.facts["transitions"])
    print(domain)
    interactions = domain.interactions
    judges = not arguments.no_test and not arguments.all_interactions
    if judges:
        check_cases(interactions)  # known before the memory is built
    tokenizer = UniversalItemTokenizer.from_pretrained(folder, index_only=True)
    ranker = GenerativeRanker.from_pretrained(
        folder, interactions.item_ids, arguments.num_beams, arguments.batch_size, memory=False
    )
    content, content_name, encoder = load_content(arguments, domain, folder)
    brands = None if arguments.no_brands else item_brands(domain.catalogue)
    if arguments.brand_weight and brands is None:
        raise SystemExit(f"--brand_weight {arguments.brand_weight:g}: no item of {domain.name} has a brand.")
    linear = LinearSettings(transitions=arguments.transitions, regularization=arguments.regularization)
    kept = arguments.row_items, arguments.similar_items
    if before is not None:
        brands = updated_brands(before, domain, folder, tokenizer.index)
        stored = updated(before, domain, content, encoder, arguments.all_interactions, brands, remembered)
    elif arguments.temperature is not None and arguments.mixing_weight is not None:
        settings = MemorySettings(
            trend_weight=arguments.trend_weight,
            period_weight=arguments.period_weight,
            discount=arguments.discount,
            brand_weight=arguments.brand_weight,
            repeat_weight=arguments.repeat_weight,
            temperature=arguments.temperature,
            mixing_weight=arguments.mixing_weight,
        )
        if content is not None:
            settings = replace(settings, content_weight=arguments.content_weight, evidence=arguments.evidence)
        training = remembered or interactions.training_part()
        stored = build_memory(training, content, linear, settings, *kept, folder=domain.folder, brands=brands)
        stored.facts["part"] = "training"
    else:
        stored = choose_memory(ranker, interactions, content, linear, *kept, folder=domain.folder, brands=brands)
        if content is not None and not stored.memory.settings.content_weight:
            print(
                "Validation, whose items have interactions, gave the texts no weight: items that come later will not "
                "be known to the memory. To give them one, give --temperature, --mixing_weight and --content_weight."
            )
        if remembered is not None:
            alike = stored.memory.content
            stored = rebuild_memory(stored, remembered, content, "training", alike, domain.folder)
    if remembered is not None:
        stored.facts["judged_users"] = interactions.num_users
    if stored.memory.settings.content_weight:
        stored.facts |= {"content": content_name, "content_encoder": encoder}
    for_index(stored, interactions.item_ids, tokenizer.index).save(folder, tokenizer.index)
    there = {*interactions.item_ids}
    if missing := [item_id for item_id in tokenizer.index.item_ids if item_id not in there]:
        which = f"Of {len(missing):,} items of the index, which {domain.name} lacks"
        print(f"{which}, nothing is known: {named(missing)}.")
    rows: list[dict[str, Any]] = []
    if judges:
        for name, memory in ((WITH_MEMORY, stored.memory), (ALONE, None)):
            ranker.memory = memory
            result = evaluate(
                ranker, interactions, mask_seen=arguments.mask_seen, max_history=None, intervals=BOOTSTRAP_SAMPLES
            )
            rows.append({**result, "name": f"{ranker.name}, {name}", "recommender": name})
        print(markdown_table([{key: row[key] for key in ("recommender", *TABLE_METRICS)} for row in rows]))
    update_card(folder, domain.name, stored, rows)
    print(f"{folder}: {stored.memory}, {stored.memory.nbytes / 1e6:.1f} MB")
    return rows


def read_data(arguments: MemoryArguments, kept: str | None = None) -> tuple[Domain, LogCounts | None]:
    """The data; with --sample_users some of the users, and the counts of the training part of all. `kept` are the
    transitions of a memory that is updated."""
    if arguments.sample_users is None:
        return Domain.from_folder(arguments.data, arguments.k_core, check_images=False), None
    catalogue = Catalogue.from_folder(arguments.data)
    catalogue.check(images=False)
    horizon, ways = LinearSettings().horizon, LinearSettings(transitions=arguments.transitions)
    if kept == "inverse":
        raise SystemExit(
            "--sample_users needs decayed counts, and the memory is in closed form: build one without --update, by "
            "--transitions counts."
        )
    if kept is None and ways.way(len(catalogue)) != "counts":
        raise SystemExit("--sample_users needs decayed counts, which are updated pair by pair: --transitions counts.")
    if not (Path(arguments.data) / PAIRS).is_file():
        raise SystemExit(
            f"--sample_users takes the pairs of all other users from --data, and {arguments.data} has none: prepare "
            f"it with `utgrec prepare --pair_horizon {horizon}`."
        )
    sample, counts = sample_log(arguments.data, catalogue.item_ids, arguments.sample_users, arguments.seed)
    print(
        f"{sample.num_users:,} users, drawn by seed {arguments.seed}, choose and judge; {counts.num_interactions:,} "
        f"training interactions of {counts.num_users:,} are remembered"
    )
    return Domain(catalogue.name, catalogue, sample, Path(arguments.data)), counts


def local_folder(arguments: MemoryArguments) -> Path:
    """The recommender's folder; one of the Hub is fetched into the output folder."""
    if Path(arguments.recommender).is_dir():
        if arguments.output_dir is not None:
            raise SystemExit(
                "--output_dir is for a recommender of the Hub; in a folder the memory goes beside its index."
            )
        return find_model(arguments.recommender, arguments.revision).folder
    if arguments.output_dir is None:
        raise SystemExit(f"--recommender {arguments.recommender} is no folder; for one of the Hub give --output_dir.")
    output = Path(arguments.output_dir)
    if output.is_dir() and any(output.iterdir()) and not (output / ".cache" / "huggingface").is_dir():
        raise SystemExit(
            f"--output_dir {output} holds other files, which the recommender's might replace: give another."
        )
    there = find_model(arguments.recommender, arguments.revision)
    return model_folder(there.name, ALLOWED, there.revision, local_dir=output)


def load_content(
    arguments: MemoryArguments, domain: Domain, folder: Path
) -> tuple[np.ndarray | None, str | None, str | None]:
    """Embeddings of the items' texts, what they are, and the fingerprint of what made them if it is known; none where
    no word is shared by two items. TF-IDF is the one that the recommender's folder keeps, if it does: new items are
    embedded by it, and vectors of two fits are not comparable."""
    if arguments.no_content:
        return None, None, None
    if arguments.embeddings is not None:
        embeddings = load_embeddings(arguments.embeddings, domain.interactions.item_ids)
        return embeddings, "embeddings of the texts", encoder_fingerprint(arguments.embeddings)
    kept = kept_statistics(folder)
    texts = domain.catalogue.texts
    vectors = content_of_texts(texts) if kept is None else kept.embed(texts)
    if vectors is None:
        print(f"No word is in the texts of two items of {domain.name}: transitions alone are remembered.")
        return None, None, None
    return vectors, TF_IDF, TextStatistics().fingerprint


def kept_statistics(folder: Path) -> FittedTextStatistics | None:
    """TF-IDF as it was fitted for the items of a recommender, where its item tokenizer keeps it, as a quick start's
    does."""
    place = UniversalItemTokenizer.from_pretrained(folder).network_reference
    file = None if place is None else Path(place.name_or_path) / place.subfolder / STATISTICS_NAME
    return None if file is None or not file.is_file() else FittedTextStatistics.load(file)


def updated(
    before: StoredMemory,
    domain: Domain,
    content: np.ndarray | None,
    encoder: str | None,
    everything: bool,
    brands: np.ndarray | None,
    counts: LogCounts | None = None,
) -> StoredMemory:
    """The memory of the data as it is now, read as the one before."""
    interactions, facts, settings = domain.interactions, before.facts, before.memory.settings
    if settings.content_weight and content is None:
        raise SystemExit("The memory reads the items' texts: give --embeddings, or build one without --update.")
    kept, made_by = before.memory.content, facts.get("content_encoder")
    if content is not None and kept is not None:
        advice = "give --embeddings of the same encoder, or build the memory without --update."
        if None not in (made_by, encoder):  # of TF-IDF the width may differ
            if made_by != encoder:
                raise SystemExit(
                    f"The memory's texts were embedded by the encoder with fingerprint {made_by}, these by {encoder}: "
                    + advice
                )
        elif content.shape[1] != len(kept.mean):
            raise SystemExit(
                f"The memory's texts were embedded in {len(kept.mean)} numbers, these in {content.shape[1]}: {advice}"
            )
    remembered = counts or (interactions if everything else interactions.training_part())
    part: Literal["training", "all"] = "all" if everything else "training"
    return rebuild_memory(before, remembered, content, part, folder=domain.folder, brands=brands)


def updated_brands(before: StoredMemory, domain: Domain, folder: str | Path, index: ItemIndex) -> np.ndarray | None:
    """Numbers of the items' brands in catalogue order, where the memory before has any: those of the data, or else the
    memory's own. The latter are of an index; where that has changed since, none is known.

    Raises:
        SystemExit: the memory reads brands, and the data have none.
    """
    if before.memory.brands is None:
        return None
    brands = item_brands(domain.catalogue)
    if brands is not None:
        return brands
    if before.memory.settings.brand_weight:
        raise SystemExit(
            f"The memory reads the items' brands, and no item of {domain.name} has one: give the items the column "
            "brand, or build the memory without --update."
        )
    item_ids = domain.interactions.item_ids
    try:
        StoredMemory.load(folder, index)
    except ItemMemoryError:
        print(f"No item of {domain.name} has a brand, and the index is another than the memory's: none is kept.")
        return np.full(len(item_ids), -1, np.int64)
    return before.memory.brands.cpu().numpy()[index.rows(item_ids)]


def update_card(folder: Path, domain: str, stored: StoredMemory, rows: Sequence[dict[str, Any]]) -> None:
    """Says in the recommender's card what its memory is, and what both are worth; what the memory before was worth is
    no longer said."""
    values = load_values(folder)
    if not isinstance(values, RecommenderCardValues):
        if (folder / CARD_FILE).is_file():
            return  # of another tool, or written by hand
        values = RecommenderCardValues(name=folder.resolve().name)
    facts = memory_facts(stored)
    alone = [each for each in values.evaluations if each.protocol.get("recommender") != WITH_MEMORY]
    facts["evaluations"] = [Evaluation.from_result(domain, row) for row in rows] or alone
    save_card(folder, replace(values, **facts))


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, by default the program's."""
    run(*parse_sections(MemoryArguments, {}, __doc__, argv))
