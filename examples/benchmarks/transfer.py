"""Does it transfer? Recommenders of a domain, from scratch and pre-trained on other domains, with all of its users and
with few; on codes of an item tokenizer that has not seen the domain. A line of JSON for each run.

Copy and paste:

```bash
# three targets, each with all the other domains before it; codes of three tokenizers made of those domains' texts
python examples/benchmarks/transfer.py --domains data/office data/beauty data/films data/sports data/games \
    --targets office beauty films --codes rq-kmeans tiger letter --seeds 0 1 2
# UTGRec's codes: a tokenizer pre-trained without the target, whose `utgrec pretrain --stage tokenize` had all domains
python examples/benchmarks/transfer.py --domains data/office data/beauty data/sports --targets office \
    --codes utgrec=runs/utgrec-without-{target}    # and with --network t5, the paper's
# the table of what was measured so far
python examples/benchmarks/transfer.py --table_only
```

For each target, codes and seed the recommender is pre-trained on the training parts of all other domains
(`--pretraining_steps`), as `utgrec pretrain` does it. Then, for each share of the target's users,
one from scratch and one that starts from it are trained on the same users, whose training interactions are all that
either reads of the domain; validation and test are those of all users.

Rules, fixed before any test item is looked at:

1. Both have the same budget on the domain: at most `--steps` optimizer steps, an end after `--patience` validations
   without a better NDCG@10, and each of `--learning_rates`, of which the one with the best validation is kept. What
   pre-training took is beside it (`pretraining_processor_seconds`); the one from scratch is given no more in its
   place, since its patience ends it.
2. The weights that are kept are those with the best validation NDCG@10, seen items kept, the first step's start among
   them.
3. Both read the same codes. Item-level ones read the same content, too, and both give items of the domain embeddings
   of their own; a T5's sizes and batches are those of `--recommender`, before and after.
4. Each is judged alone and with a memory of the same users' interactions, chosen walk-forward; beside them the linear
   ranker and the memory alone, of the same users.

A pre-training is kept in --work_dir with what it was made with, and taken again by the next run; one that was made
with something else (other domains, codes, texts, settings) is refused. Codes from two folders need two names.

`against_scratch` is the paired test of a pre-trained one against the one from scratch on the same users and seed.
`--tokenizer_on all` shows the tokenizer the target's texts, too.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from quality import (
    HERE,
    LINEAR,
    TESTED,
    WITH_MEMORY,
    append,
    clocks,
    judge,
    lines_of,
    mean,
    of_slice,
    ranks_file,
    since,
    stored_cases,
)
from recipes import RECOMMENDER, Setting, TrainedRanker, floor, generative_ranker, validation_of, with_memory

from hub_cards.formatting import markdown_table, plain
from tokenization_items import UniversalItemTokenizer
from tokenization_items.files import read_json_object, read_lines, write_json
from trainers.arguments import parse_sections
from trainers.data.domains import Domain, domain_folders
from trainers.evaluation.significance import paired_test
from trainers.evaluation.tables import CASES, portable_command
from trainers.hub.model_facts import NOT_LEARNING
from trainers.methods.baselines import GIVEN, ItemEmbeddings, train_generative_baseline
from trainers.methods.item_level import ItemLevelArguments, ItemLevelTrainingArguments, set_item_content
from trainers.methods.item_level_pretraining import pretrain_item_level, set_centred_content
from trainers.methods.runs import place_training, save_recommender, train_recommender
from trainers.methods.semantic_ids import TokenizedItems, given_semantic_ids
from trainers.methods.shared_semantic_ids import (
    SHARED,
    collaborative_training,
    semantic_ids_of_domain,
    shared_semantic_ids,
)
from trainers.methods.utgrec import SECTIONS, RecommenderArguments, new_recommender
from trainers.recommender_trainer import RecommenderTrainingArguments

SCRATCH, PRETRAINED = "from scratch", "pre-trained"
FACTS = "pretraining.json"
MADE_WITH = "made_with"  # in it
SIZES = ("num_levels", "codebook_size")
FLOORS = (LINEAR, "memory")


@dataclass
class TransferArguments:
    domains: list[str] = field(default_factory=list, metadata={"help": "Folders with items and interactions."})
    targets: list[str] = field(
        default_factory=list, metadata={"help": "Names of the domains that are recommended from; default: all."}
    )
    codes: list[str] = field(
        default_factory=lambda: ["rq-kmeans"],
        metadata={
            "help": f"Of {', '.join(SHARED)}, made here, or NAME=FOLDER of `utgrec pretrain` with items/<domain>/; "
            "{target} in it stands for the target's name."
        },
    )
    tokenizer_on: Literal["others", "all"] = field(
        default="others", metadata={"help": "Whose texts tokenizers that are made here learn from."}
    )
    num_levels: int | None = field(
        default=None, metadata={"help": "Codes of an item, of tokenizers that are made here; default: the method's."}
    )
    codebook_size: int | None = field(default=None, metadata={"help": "Codes of each of their levels."})
    network: Literal["item-level", "t5"] = field(
        default="item-level", metadata={"help": "Which recommender, the item-level one or UTGRec's T5."}
    )
    centre_domains: bool = field(
        default=False, metadata={"help": "These tokenizers read each domain's embeddings without their mean."}
    )
    start_from_content: bool = field(
        default=True, metadata={"help": "New item-level networks begin as the likeness to the history, not at random."}
    )
    train_users: list[float] = field(
        default_factory=lambda: [0.01, 0.1, 1.0],
        metadata={"help": "Shares of the target's users that are learnt from."},
    )
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "Of users, codes and weights."})
    steps: int = field(default=2000, metadata={"help": "Most optimizer steps of a training on the target."})
    eval_steps: int = field(default=100, metadata={"help": "Steps between two validations."})
    patience: int = field(default=5, metadata={"help": "Validations without a better NDCG@10 before the end."})
    learning_rates: list[float] = field(
        default_factory=lambda: [5e-3], metadata={"help": "Tried for each; that with the best validation is kept."}
    )
    pretraining_steps: int = field(default=3000, metadata={"help": "Optimizer steps of a pre-training."})
    domain_temperature: float = field(
        default=1.0, metadata={"help": "Of the pre-training: above 1, small domains count more."}
    )
    max_history: int = field(default=20, metadata={"help": "Last items of a history that models read."})
    memory: bool = field(
        default=True, metadata={"help": "Judge recommenders with a memory, too, and the memory alone."}
    )
    masked: bool = field(default=False, metadata={"help": "A line with seen items masked, too."})
    text_encoder: str = field(
        default="sentence-transformers/all-MiniLM-L6-v2", metadata={"help": "Hub id or folder of the text encoder."}
    )
    embeddings: list[str] = field(
        default_factory=list, metadata={"help": "Folders of text embeddings instead, one for each of --domains."}
    )
    results: str = field(
        default=str(HERE / "results" / "transfer.jsonl"), metadata={"help": "File that the lines of a run go to."}
    )
    work_dir: str = field(default="runs/transfer", metadata={"help": "Where models, embeddings and checkpoints go."})
    table_only: bool = field(default=False, metadata={"help": "Only print the tables of the results so far."})

    def check(self, names: list[str]) -> None:
        """Raises SystemExit for what cannot be run on domains of these names."""
        if len(names) < 2:
            raise SystemExit("--domains: give a target and at least one other domain, or --table_only.")
        if unknown := set(self.targets) - set(names):
            raise SystemExit(f"--targets: {', '.join(sorted(unknown))} is none of the domains {', '.join(names)}.")
        if unknown := {each for each in self.codes if "=" not in each} - set(SHARED):
            raise SystemExit(
                f"--codes: {', '.join(sorted(unknown))} is neither NAME=FOLDER nor of {', '.join(SHARED)}."
            )
        given = [each.partition("=")[0] for each in dict.fromkeys(self.codes)]
        if twice := sorted({name for name in given if given.count(name) > 1}):
            raise SystemExit(
                f"--codes: {', '.join(twice)} stands for codes from two places: give each a name of its own."
            )
        if self.tokenizer_on == "all" and "letter" in self.codes:
            raise SystemExit(
                "--tokenizer_on all: LETTER's would learn from interactions of all of the target's users."
            )
        if bad := [share for share in self.train_users if not 0 < share <= 1]:
            raise SystemExit(f"--train_users: shares above 0 and up to 1, got {bad}.")
        if self.embeddings and len(self.embeddings) != len(names):
            raise SystemExit(f"--embeddings: {len(self.embeddings)} folders for {len(names)} domains.")


@dataclass(frozen=True)
class Case:
    """A target with the domains before it, the codes that all share, and a seed."""

    target: Domain
    sources: list[Domain]
    embeddings: dict[str, ItemEmbeddings]
    codes: str
    seed: int
    arguments: TransferArguments
    sections: tuple[Any, ...]

    @property
    def name(self) -> str:
        return self.codes.partition("=")[0]

    @property
    def is_item_level(self) -> bool:
        return self.arguments.network == "item-level"

    @property
    def sizes(self) -> dict[str, int]:
        """What is given of the sizes of codes that are made here."""
        given = {name: getattr(self.arguments, name) for name in SIZES}
        return {} if "=" in self.codes else {name: value for name, value in given.items() if value is not None}

    @property
    def label(self) -> str:
        """The codes, and what they were made with beside the defaults."""
        words = [self.name]
        words += ["x".join(str(self.sizes.get(each, "")) for each in SIZES)] * bool(self.sizes)
        words += ["seen"] if self.arguments.tokenizer_on == "all" else []
        words += ["centred"] if self.arguments.centre_domains else []
        words += ["likeness"] if self.is_item_level and self.arguments.start_from_content else []
        return "-".join(words)

    @property
    def folder(self) -> Path:
        words = [self.label] if self.is_item_level else [self.label, self.arguments.network]
        words += [f"temperature-{self.arguments.domain_temperature:g}"] * (self.arguments.domain_temperature != 1)
        words += [f"steps-{self.arguments.pretraining_steps}", f"seed-{self.seed}"]
        return Path(self.arguments.work_dir) / self.target.name / "-".join(words)

    def setting(self, domain: Domain, folder: Path) -> Setting:
        """What a recommender of the target is made with, as the quality table's are."""
        embeddings = replace(self.embeddings[domain.name], domain=domain)
        network, tokenizer, recommender, training = self.sections
        training = replace(training, max_history=self.arguments.max_history)
        limits = (None, self.arguments.patience, None)
        return Setting(domain, self.seed, folder, embeddings, *limits, network, tokenizer, recommender, training)

    def key(self, model: str, start: str | None, share: float) -> dict[str, Any]:
        """What tells a run's lines from others."""
        own = {"domain": self.target.name, "model": model, "seed": self.seed, "minutes": None, "train_users": share}
        own |= {"history": self.arguments.max_history, "start": start}
        if start is not None:
            own |= {"codes": self.name, "tokenizer_on": self.arguments.tokenizer_on, "steps": self.arguments.steps}
            own |= {"start_from_content": self.is_item_level and self.arguments.start_from_content}
            own |= {"centre_domains": self.arguments.centre_domains, "sources": [each.name for each in self.sources]}
        if start == PRETRAINED:
            own |= {"pretraining_steps": self.arguments.pretraining_steps}
            own |= {"domain_temperature": self.arguments.domain_temperature}
        return own


def main(arguments: TransferArguments, *sections: Any) -> None:
    results = Path(arguments.results)
    if not arguments.table_only:
        cases = list(cases_of(arguments, sections))
        for case in cases:
            check_pretraining(case)
        for case in cases:
            try:
                run_case(case, results)
            except Exception:  # the other cases are hours of work: go on with them
                traceback.print_exc()
    shown = render(read_lines(results))
    if shown:
        print(shown)


def cases_of(arguments: TransferArguments, sections: tuple[Any, ...]) -> Iterator[Case]:
    """All cases; every domain is read before the first."""
    folders = domain_folders(arguments.domains)
    arguments.check([folder.resolve().name for folder in folders])
    domains = [Domain.from_folder(folder, check_images=False) for folder in folders]
    given = arguments.embeddings or [None] * len(domains)
    embeddings = {
        domain.name: ItemEmbeddings(
            domain, Path(arguments.work_dir) / domain.name, arguments.text_encoder, text_folder=folder
        )
        for domain, folder in zip(domains, given, strict=True)
    }
    for domain in domains:
        print(domain)
    for target in [each for each in domains if not arguments.targets or each.name in arguments.targets]:
        sources = [each for each in domains if each is not target]
        for codes in arguments.codes:
            for seed in arguments.seeds:
                yield Case(target, sources, embeddings, codes, seed, arguments, sections)


def run_case(case: Case, results: Path) -> None:
    """Trains and judges all that has no lines yet."""
    arguments = case.arguments
    for share in arguments.train_users:
        few = (
            case.target.interactions
            if share == 1
            else case.target.interactions.sample_training_users(share, case.seed)
        )
        domain = replace(case.target, interactions=few)
        for name in FLOORS if arguments.memory else (LINEAR,):
            own = replace(case, seed=0) if share == 1 else case
            run, setting = own.key(name, None, share), own.setting(domain, case.folder / "floors")
            if not lines_of(run, results):
                start = clocks()
                ranker = floor(name, setting)
                judged(ranker, setting, run, since(start), case, results)
        for start_from in (SCRATCH, PRETRAINED):
            run_start(case, domain, share, start_from, results)


def run_start(case: Case, domain: Domain, share: float, start_from: str, results: Path) -> None:
    """A recommender on some of the target's users, alone and with a memory."""
    model = f"{case.label}-{case.arguments.network}, {start_from}"
    run = case.key(model, start_from, share)
    remembered = run | {"model": f"{model}{WITH_MEMORY}"}
    if lines_of(run, results) and (lines_of(remembered, results) or not case.arguments.memory):
        print(f"{case.target.name} {model}, {share:.0%} of the users, seed {case.seed}: done before")
        return
    print(f"{case.target.name} {model}, {share:.0%} of the users, seed {case.seed} ...", flush=True)
    items, facts = prepared(case)
    start, chosen = clocks(), None
    for rate in case.arguments.learning_rates:
        folder = case.folder / f"users-{share:g}" / f"{start_from.replace(' ', '-')}-{rate:g}"
        setting = case.setting(domain, folder)
        training = training_of(case, setting, folder, **limits_of(case, setting, rate))
        baseline = train_generative_baseline(
            GIVEN,
            domain,
            items,
            network_of(case, setting),
            training,
            pretrained=case.folder / RECOMMENDER if start_from == PRETRAINED else None,
        )
        best = baseline.trainer.state.best_metric or 0.0
        if chosen is None or best > chosen[0]:
            chosen = best, baseline, setting
    assert chosen is not None
    _, baseline, setting = chosen
    state = baseline.trainer.state
    trained = generative_ranker(
        setting,
        baseline.model,
        items.tokenizer,
        baseline.trainer,
        baseline.description,
        baseline.raw_codes,
        steps=state.global_step,
        **{name: value for name, value in facts.items() if start_from == PRETRAINED or name.startswith("tokenizer")},
    )
    seconds = since(start)
    if not lines_of(run, results):
        judged(trained, setting, run, seconds, case, results)
    if not case.arguments.memory:
        return
    start = clocks()
    trained = with_memory(setting, trained)
    taken = since(start)
    judged(trained, setting, remembered, (seconds[0] + taken[0], seconds[1] + taken[1]), case, results)


def network_of(case: Case, setting: Setting) -> ItemLevelArguments | RecommenderArguments:
    """What a new recommender is made with."""
    patience = {"early_stopping_patience": case.arguments.patience}
    if case.is_item_level:
        return ItemLevelArguments(**patience, start_from_content=case.arguments.start_from_content)
    return replace(setting.recommender, **patience)


def training_of(case: Case, setting: Setting, folder: Path, **values: Any) -> RecommenderTrainingArguments:
    """A training's arguments; of a T5 those of its section, where `values` have no others."""
    if case.is_item_level:
        training: RecommenderTrainingArguments = ItemLevelTrainingArguments(str(folder), **values, report_to=[])
    else:
        training = replace(setting.training, **values)
    place_training(training, folder / "checkpoints", case.seed)
    return training


def limits_of(case: Case, setting: Setting, learning_rate: float) -> dict[str, Any]:
    """Steps and validations of a training on the target."""
    arguments = case.arguments
    by_steps = {"eval_strategy": "steps", "save_strategy": "steps"}
    by_steps |= {"eval_steps": arguments.eval_steps, "save_steps": arguments.eval_steps, "eval_on_start": True}
    return validation_of(setting) | by_steps | {"max_steps": arguments.steps, "learning_rate": learning_rate}


def judged(
    trained: TrainedRanker,
    setting: Setting,
    run: dict[str, Any],
    seconds: tuple[float, float],
    case: Case,
    results: Path,
) -> None:
    """Writes the lines of a model."""
    arguments = case.arguments
    masks = (False, True) if arguments.masked else (False,)
    lines = judge(trained, setting, run, seconds, arguments, command(case, run), masks)
    for line in lines:
        if run["start"] == PRETRAINED:
            other = case.key(run["model"].replace(PRETRAINED, SCRATCH), SCRATCH, run["train_users"])
            found = ranks_file(arguments, other, line["mask_seen"])
            line["against_scratch"] = None
            if found.exists():
                own = stored_cases(ranks_file(arguments, run, line["mask_seen"]))
                pair = [{name: each[name] for name in (*CASES, *TESTED)} for each in (own, stored_cases(found))]
                tested = paired_test(*pair)
                line["against_scratch"] = {name: tested[name] for name in TESTED}
    append(results, lines)


def prepared(case: Case) -> tuple[TokenizedItems, dict[str, Any]]:
    """Semantic IDs of the target's items, with their content, and what a pre-training says of itself; made if they are
    not there."""
    embeddings = case.embeddings[case.target.name]
    if not (case.folder / FACTS).is_file():
        start = clocks()
        tokenizers = shared_tokenizers(case)
        facts = {"tokenizer_processor_seconds": round(since(start)[1], 1)}
        facts |= pretrain(case, tokenizers, semantic_ids_of_target(case, embeddings))
        write_json(case.folder / FACTS, facts | {MADE_WITH: made_with(case)})
    items = semantic_ids_of_target(case, embeddings)
    if case.is_item_level:
        encoder = embeddings.text_encoder_fingerprint(fitted=True)
        set_item_content(items.tokenizer.index, embeddings.item_ids, embeddings.text, encoder)
    facts = read_json_object(case.folder / FACTS)
    facts.pop(MADE_WITH)  # which names folders
    return items, facts


def made_with(case: Case) -> dict[str, Any]:
    """What a pre-training depends on beside what its folder's name says, as JSON has it."""
    arguments = case.arguments
    read = [*case.sources, *([case.target] if arguments.tokenizer_on == "all" else [])]
    texts = arguments.text_encoder
    network, training = pretraining_arguments(case)
    if arguments.embeddings:
        texts = [str(Path(str(case.embeddings[each.name].text_folder)).resolve()) for each in (*read, case.target)]
    told = {
        "domains": {each.name: [each.interactions.num_items, len(each.interactions.items)] for each in read},
        "codes": case.name if "=" not in case.codes else str(given_folder(case).resolve()),
        "texts": texts,
        "recommender": dataclasses.asdict(network),
        "training": {
            each.name: plain(getattr(training, each.name))
            for each in dataclasses.fields(training)
            if each.name not in NOT_LEARNING and each.name != "num_beams"
        },
    }
    told["recommender"].pop("early_stopping_patience", None)  # nothing is validated
    return json.loads(json.dumps(told))


def check_pretraining(case: Case) -> None:
    """
    Looks at the pre-training that is there, if there is one, before any work.

    Raises:
        SystemExit: it was made with something else than this run has, or does not say with what.
    """
    if not (case.folder / FACTS).is_file():
        return
    found, wanted = read_json_object(case.folder / FACTS).get(MADE_WITH), made_with(case)
    way = f"delete {case.folder}, or give another --work_dir."
    if not isinstance(found, dict):
        raise SystemExit(f"{case.folder / FACTS} does not say what the pre-training was made with: {way}")
    if unlike := [
        f"{name} {found.get(name)!r}, not {wanted[name]!r}" for name in wanted if found.get(name) != wanted[name]
    ]:
        raise SystemExit(f"{case.folder} was pre-trained with {'; '.join(unlike)}: {way}")


def pretrain(case: Case, tokenizers: dict[str, UniversalItemTokenizer], items: TokenizedItems) -> dict[str, Any]:
    """Pre-trains a recommender on the domains before the target, whose semantic IDs are `items`; what it says of
    itself."""
    start = clocks()
    arguments, training = pretraining_arguments(case)
    if isinstance(arguments, ItemLevelArguments):
        content = {each.name: case.embeddings[each.name].text_content for each in case.sources}
        encoder = case.embeddings[case.target.name].text_encoder_fingerprint(fitted=True)
        set_centred_content(case.sources, tokenizers, content, encoder)
        arguments = replace(arguments, early_stopping_patience=None)
        trainer = pretrain_item_level(case.sources, tokenizers, arguments, training)
    else:
        for tokenizer in (items.tokenizer, *tokenizers.values()):
            tokenizer.max_history = training.max_history
        model = new_recommender(arguments, items.tokenizer, items, case.seed)
        trainer = train_recommender(model, case.sources, tokenizers, training)
    save_recommender(trainer.model, None, case.folder / RECOMMENDER)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"pretraining_processor_seconds": round(since(start)[1], 1), "pretraining_loss": losses[-1]}


def pretraining_arguments(
    case: Case,
) -> tuple[ItemLevelArguments | RecommenderArguments, RecommenderTrainingArguments]:
    """What the recommender of a pre-training is made and trained with."""
    setting = case.setting(case.target, case.folder)
    training = training_of(
        case,
        setting,
        case.folder,
        max_steps=case.arguments.pretraining_steps,
        max_history=case.arguments.max_history,
        domain_temperature=case.arguments.domain_temperature,
        logging_steps=max(1, case.arguments.pretraining_steps // 20),
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
        use_cpu=validation_of(setting)["use_cpu"],
        disable_tqdm=setting.training.disable_tqdm,
    )
    return network_of(case, setting), training


def shared_tokenizers(case: Case) -> dict[str, UniversalItemTokenizer]:
    """Semantic IDs of the domains before the target."""
    if "=" in case.codes:
        return {
            domain.name: given_semantic_ids(
                given_folder(case) / "items" / domain.name,
                domain.interactions.item_ids,
                case.folder / "items" / domain.name,
            ).tokenizer
            for domain in case.sources
        }
    domains = case.sources if case.arguments.tokenizer_on == "others" else [*case.sources, case.target]
    cpu = not torch.cuda.is_available()
    tokenizers = shared_semantic_ids(
        case.codes,
        domains,
        {domain.name: case.embeddings[domain.name].text_content for domain in domains},
        case.folder,
        seed=case.seed,
        centre_domains=case.arguments.centre_domains,
        collaborative_training=collaborative_training(case.folder, case.seed, use_cpu=cpu),
        **case.sizes,
    )
    return {domain.name: tokenizers[domain.name] for domain in case.sources}


def semantic_ids_of_target(case: Case, embeddings: ItemEmbeddings) -> TokenizedItems:
    folder = case.folder / "items" / case.target.name
    if "=" in case.codes:
        source = given_folder(case) / "items" / case.target.name
        return given_semantic_ids(source, embeddings.item_ids, folder)
    return semantic_ids_of_domain(case.folder, embeddings.item_ids, embeddings.text, folder)


def given_folder(case: Case) -> Path:
    return Path(case.codes.partition("=")[2].replace("{target}", case.target.name))


def command(case: Case, run: dict[str, Any]) -> str:
    """The command that repeats one run; folders by their names alone."""
    codes = case.codes if "=" not in case.codes else f"{case.name}={given_folder(case).name}"
    words = ["--domains", *(each.name for each in (case.target, *case.sources)), "--targets", case.target.name]
    words += ["--codes", codes, "--train_users", f"{run['train_users']:g}", "--seeds", str(run["seed"])]
    said = ("domains", "targets", "codes", "train_users", "seeds", "memory", "embeddings", "results", "work_dir")
    said += ("table_only",)
    for entry in dataclasses.fields(TransferArguments):
        value = getattr(case.arguments, entry.name)
        default = entry.default if entry.default is not dataclasses.MISSING else entry.default_factory()  # type: ignore[misc]
        if entry.name not in said and value != default:
            words += [f"--{entry.name}", *map(str, value if isinstance(value, list) else [value])]
    of_section = False
    for word in sys.argv[1:]:
        if word.startswith("--"):
            of_section = word.startswith(("--config", "--recommender."))
        words += [word] if of_section else []
    return portable_command(["python", "examples/benchmarks/transfer.py"], words)


def render(lines: list[dict[str, Any]]) -> str:
    """A table for each target and share of its users: means over the seeds."""
    tables = []
    lines = [line for line in lines if not line["mask_seen"]]
    for domain, share in dict.fromkeys((line["domain"], line["train_users"]) for line in lines):
        rows = []
        own = [line for line in lines if (line["domain"], line["train_users"]) == (domain, share)]
        for settings in dict.fromkeys(map(settings_of_line, own)):
            found = [line for line in own if settings_of_line(line) == settings]
            rows.append({"model": variant_of(found[0]), "seeds": len(found), **row(found)})
        tables.append(f"### {domain}, {share:.0%} of the users\n\n{markdown_table(rows)}")
    return "\n\n".join(tables)


def settings_of_line(line: dict[str, Any]) -> tuple[Any, ...]:
    """What lines share that are seeds of one row."""
    return variant_of(line), line["history"], *(line.get("sources") or ())


def variant_of(line: dict[str, Any]) -> str:
    """The model's name, with how long it was trained and what is not the default."""
    words = [line["model"]]
    if line["start"] is not None:
        words += [f"{line['steps']} steps"]
    if line["start"] == PRETRAINED:
        words += [f"{line['pretraining_steps']} steps on {len(line['sources'])} domains before"]
        words += [f"temperature {line['domain_temperature']:g}"] * (line["domain_temperature"] != 1)
    words += [f"last {line['history']} items"] * (line["history"] != TransferArguments.max_history)
    return ", ".join(words)


def row(lines: list[dict[str, Any]]) -> dict[str, Any]:
    cells: dict[str, Any] = {
        "ndcg@10 validation": mean(line["validation"]["ndcg@10"] for line in lines),
        **{name: mean(line[name] for line in lines) for name in ("recall@10", "ndcg@10")},
    }
    for title, slices in (("unseen transition", ("[0,1)",)), ("seen transition", ("[1,∞)",))):
        cells[f"recall@10 {title}"] = of_slice(lines, "seen_transitions", "training_transitions", slices)
    cells["recall@10 cold"] = of_slice(lines, "cold_targets", "training_interactions", ("[0,1)", "[1,5)"))
    tests = [line["against_scratch"]["ndcg@10"] for line in lines if line.get("against_scratch")]
    cells["ndcg@10 against scratch"] = f"{mean(each['difference'] for each in tests):+.4f}" if tests else None
    cells["p"] = ", ".join(f"{each['p_value']:.2g}" for each in tests) or None
    cells["processor seconds"] = round(mean(line["processor_seconds"] for line in lines))
    before = [line["details"].get("pretraining_processor_seconds") for line in lines]
    cells["before"] = round(mean(before)) if all(before) else None
    return cells


if __name__ == "__main__":
    main(*parse_sections(TransferArguments, SECTIONS, __doc__, default_config="text_encoder"))
