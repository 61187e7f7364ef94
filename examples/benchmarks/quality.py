"""Every model on every domain, trained and judged the same way: two lines of JSON for each run, and tables.

Copy and paste:

```bash
# the floors and two models on one domain, three seeds; --text_encoder: a Hub id or a folder
python examples/benchmarks/quality.py --domains data/office --models floors sasrec tiger-item-level --seeds 0 1 2
# everything; what has lines in the results already is not run again
python examples/benchmarks/quality.py --domains data/office data/beauty --models all --seeds 0 1 2
# settings that others reached their figures with, which they give for histories of 50 items
python examples/benchmarks/quality.py --domains data/beauty --max_history 50 \
    --models bsarec-recboard hstu-recboard sasrec-recboard
# a run that was stopped goes on from its last epoch
python examples/benchmarks/quality.py --domains data/office --models tiger-published-t5 --resume
# what 10 minutes of a training give: a table of its own
python examples/benchmarks/quality.py --domains data/office --models sasrec tiger --minutes 10
# UTGRec and the seven ablations of its paper, pre-trained on other domains
python examples/benchmarks/quality.py --domains data/office --ablations --pretraining_domains data/sports data/games
# a sequential model that was pre-trained on other domains: runs/unisrec is of `utgrec pretrain --model unisrec`
python examples/benchmarks/quality.py --domains data/office --models unisrec-pretrained \\
    --pretrained unisrec=runs/unisrec
# the tables of what was measured so far, with published numbers as reference rows
python examples/benchmarks/quality.py --table_only
```

Protocol: leave-one-out, the last 20 items of the history (`--max_history`; the linear ranker and every memory look at
20), all items ranked, seen items kept and masked, a line for each. A trained model is judged alone and, from the same
training, with a memory: inside the beam search of a generative recommender, item by item of one that gives scores. All
but the linear ranker are tested against it on the same users.

Rules by which all is chosen, before any test item is looked at:

1. Settings are the defaults of the code, or those that a row is named for, for all domains alike. None is tuned.
2. The epoch that is kept is that with the best validation NDCG@10, seen items kept. A training ends after `--patience`
   epochs without a better one, at the method's last epoch, or after `--minutes`.
3. λ, w and κ of the linear ranker, τ, g and the gate of a mixture are chosen on validation NDCG@10, seen items kept;
   those of a memory alone on the same items, with a memory of all but the users' last three interactions
   (walk-forward). All are from the fixed grids of `trainers.rankers.linear_selection`, and of `memory_selection` and
   `mixture_selection` in `trainers.methods`; a line has their tables in `selection` and `memory`. Among them is β,
   whether what a user has had is taken again, which the linear ranker leaves open: `linear-repeats` is the one that
   does not, and with seen items masked all are alike in it.
4. Of several rows the one that is called best is best by the mean validation NDCG@10 over the seeds, seen items kept.
   Every row within 5 % of it has three seeds.
5. Both kinds of line, seen items kept and masked, are of the same weights and choices.

The T5 of the generative models is that of `--config` for all alike, and smaller than the published one, which rows
named for it have. A line says in `variant` what it is of, in `architecture`, `losses`, `codebooks` and `training` its
settings, in `differs_from_published` each one that is another one than the authors', and in `processor_seconds` what
it took: seconds of all cores, embeddings of texts left out. With `--resume` they are those of the last sitting, and
`details` say after how many seconds the recommender's training was resumed, which `train_seconds` count. Where each
user's target was ranked is in the folder `ranks` of `--work_dir`.
"""

import dataclasses
import hashlib
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from ablations import ABLATIONS, ablation_recipe
from recipes import (
    COUNTED,
    FLOORS,
    PRETRAINED_ROW,
    RECIPES,
    RECOMMENDER,
    NotApplicable,
    Setting,
    TrainedRanker,
    family,
    floor,
    sequential_training,
    with_memory,
)
from sequential_rows import ROWS

from hub_cards.formatting import markdown_table
from tokenization_items.catalogue import TEXT_FIELDS
from tokenization_items.files import append_lines, read_lines
from trainers.arguments import parse_sections
from trainers.data.domains import Domain, domain_folders
from trainers.evaluation.metrics import TABLE_METRICS, metrics_per_case
from trainers.evaluation.protocol import evaluate
from trainers.evaluation.significance import BOOTSTRAP_SAMPLES, paired_test
from trainers.evaluation.tables import CASES, SLICES, portable_command
from trainers.methods.baselines import ItemEmbeddings
from trainers.methods.sequential_methods import SEQUENTIAL
from trainers.methods.sequential_pretraining import PRETRAINED
from trainers.methods.utgrec import SECTIONS
from trainers.rankers import Ranker, load_ranker
from trainers.runtime.run_file import RUN_FILE

HERE = Path(__file__).parent
KS = (5, 10, 20)
TESTED = ("recall@10", "ndcg@10")  # against the linear ranker
LINEAR = "linear"
WITH_MEMORY = " with memory"  # after the name of a trained row
MEMORY = "memory"
AND_BRANDS = " and brands"  # and after that of a memory, where it knows them
TUNED = ("dropout", "batch_size")  # flags that make rows of their own of sequential models
# What makes a run: a row of a table and a seed.
RUN = ("domain", "model", "seed", "history", "minutes")
USERS = "train_users"  # share of the users that are learnt from, of scripts that have one
# What every line has, and what those of a network have beside it.
COMPLETE = (
    *RUN,
    "mask_seen",
    "variant",
    *TABLE_METRICS,
    *SLICES,
    "intervals",
    "validation",
    "against_linear",
    "memory",
)
COMPLETE += ("parameters", "train_seconds", "processor_seconds", "versions", "device", "details", "command")
DESCRIBED = ("architecture", "losses", "training", "differs_from_published", "published_in")


@dataclass
class QualityArguments:
    domains: list[str] = field(default_factory=list, metadata={"help": "Folders with items and interactions."})
    models: list[str] = field(
        default_factory=lambda: ["all"], metadata={"help": f"all, floors, or of: {', '.join(RECIPES)}."}
    )
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "Seeds; floors run once."})
    max_history: int = field(default=20, metadata={"help": "Last items of a history that models read."})
    ablations: bool = field(default=False, metadata={"help": f"These in place of --models: {', '.join(ABLATIONS)}."})
    pretraining_domains: list[str] = field(
        default_factory=list, metadata={"help": "Folders of the domains that --ablations are pre-trained on."}
    )
    memory: bool = field(default=True, metadata={"help": "Judge trained models with a memory, too."})
    brands: bool = field(
        default=True, metadata={"help": "Memories know the items' brands, where there are any: rows of their own."}
    )
    minutes: float | None = field(
        default=None, metadata={"help": "Most time to train a recommender; default: until early stopping ends it."}
    )
    patience: int = field(default=10, metadata={"help": "Epochs without a better validation NDCG@10 before the end."})
    dropout: float | None = field(
        default=None,
        metadata={"help": "Dropout of the sequential models, a row of its own; default: each one's published."},
    )
    batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Rows a step of the sequential models, a row of its own; default: 128, whatever the method."
        },
    )
    pretrained: list[str] = field(
        default_factory=list,
        metadata={"help": "NAME=FOLDER of `utgrec pretrain --model NAME`, for the rows NAME...-pretrained."},
    )
    bf16: bool = field(default=False, metadata={"help": "Train recommenders in bfloat16; a line's details say so."})
    resume: bool = field(
        default=False,
        metadata={"help": "Go on from the last epoch of a run that was stopped; --work_dir has its checkpoints."},
    )
    text_encoder: str = field(
        default="sentence-transformers/all-MiniLM-L6-v2",
        metadata={"help": "Hub id or folder of the text encoder, or tf-idf."},
    )
    image_encoder: str | None = field(default=None, metadata={"help": "Hub id or folder, for TIGER-M."})
    text_fields: list[str] = field(
        default_factory=lambda: list(TEXT_FIELDS), metadata={"help": "Fields of an item's text, in order."}
    )
    results: str = field(
        default=str(HERE / "results" / "quality.jsonl"), metadata={"help": "File that the lines of a run go to."}
    )
    work_dir: str = field(default="runs/quality", metadata={"help": "Where models, embeddings and checkpoints go."})
    table_only: bool = field(default=False, metadata={"help": "Only print the tables of the results so far."})


class Judging(Protocol):
    """What judging a model needs of a script's arguments."""

    work_dir: str
    patience: int


def main(arguments: QualityArguments, *sections: Any) -> None:
    unknown = set(arguments.models) - {*RECIPES, "all", "floors"}
    if unknown:
        raise SystemExit(
            f"--models: unknown {', '.join(sorted(unknown))}; there are all, floors, {', '.join(RECIPES)}."
        )
    if arguments.dropout is not None and not 0 <= arguments.dropout < 1:
        raise SystemExit(f"--dropout: at least 0 and below 1, got {arguments.dropout}.")
    if arguments.batch_size is not None and arguments.batch_size < 1:
        raise SystemExit(f"--batch_size: at least 1, got {arguments.batch_size}.")
    if arguments.max_history < 1 or (arguments.minutes is not None and arguments.minutes <= 0):
        raise SystemExit(
            f"--max_history and --minutes are above 0, got {arguments.max_history} and {arguments.minutes}."
        )
    for given in arguments.pretrained:
        name, _, folder = given.partition("=")
        if name not in PRETRAINED or not (Path(folder) / RUN_FILE).is_file():
            raise SystemExit(
                f"--pretrained {given}: give NAME=FOLDER of `utgrec pretrain --model NAME`, NAME of "
                f"{', '.join(PRETRAINED)}; {RUN_FILE} is in the folder."
            )
    results = Path(arguments.results)
    if not arguments.table_only:
        if not arguments.domains:
            raise SystemExit("--domains: give at least one folder, or --table_only.")
        if arguments.ablations != bool(arguments.pretraining_domains):
            raise SystemExit("--pretraining_domains is what --ablations need: give both or neither.")
        domain_folders([*arguments.domains, *arguments.pretraining_domains])  # each of them is another one
        network, tokenizer, recommender, training = sections
        training = dataclasses.replace(training, max_history=arguments.max_history)
        fields = arguments.text_fields
        domains = [Domain.from_folder(each, check_images=False, text_fields=fields) for each in arguments.domains]
        for domain in domains:
            print(domain)
            run_domain(domain, arguments, (network, tokenizer, recommender, training), results)
    lines = read_lines(results)
    incomplete = [line for line in lines if lacking(line)]
    if incomplete:
        print(f"{len(incomplete)} lines are left out: they lack {', '.join(lacking(incomplete[0]))}.")
    shown = render([line for line in lines if not lacking(line)])
    if shown:
        print(shown)


def run_domain(domain: Domain, arguments: QualityArguments, sections: tuple, results: Path) -> None:
    """Trains and judges every model of the domain that has no lines yet."""
    for model in ABLATIONS if arguments.ablations else chosen(arguments.models):
        for seed in [0] if model in FLOORS else arguments.seeds:
            name = model + "".join(f"{row_word(each)}{value:g}" for each, value in tuned(model, arguments))
            name += AND_BRANDS if model == MEMORY and knows_brands(domain, arguments) else ""
            minutes = None if model in FLOORS else arguments.minutes
            run = dict(zip(RUN, (domain.name, name, seed, arguments.max_history, minutes), strict=True))
            setting = setting_of(domain, run, arguments, sections)
            try:
                run_model(model, run, setting, arguments, results)
            except NotApplicable as reason:
                print(f"{domain.name} {model}: left out, {reason}")
            except Exception:  # the other models are hours of work: go on with them
                traceback.print_exc()


def tuned(model: str, arguments: QualityArguments) -> list[tuple[str, float]]:
    """What the flags say of a sequential model that makes it a row of its own."""
    if model.removesuffix(PRETRAINED_ROW) not in SEQUENTIAL:
        return []
    given = [(each, getattr(arguments, each)) for each in TUNED]
    return [(each, value) for each, value in given if value is not None]


def row_word(flag: str) -> str:
    """What stands before a flag's value in the name of a row."""
    return f"-{flag.replace('_', '-')}-"


def setting_of(domain: Domain, run: dict[str, Any], arguments: QualityArguments, sections: tuple) -> Setting:
    """What a run is made with. Runs of limited time are apart: what they share is of limited time, too."""
    limit = "" if run["minutes"] is None else f"{run['minutes']:g}-minutes"
    shared = Path(arguments.work_dir) / domain.name / limit
    embeddings = ItemEmbeddings(
        domain,
        shared,
        arguments.text_encoder,
        arguments.image_encoder,
        collaborative_training=sequential_training(shared, run["seed"]),
        patience=arguments.patience,
        minutes=run["minutes"],
        resume=arguments.resume,
    )
    folder = shared / f"{run['model']}-history-{run['history']}-seed-{run['seed']}"
    limits = (run["minutes"], arguments.patience, arguments.dropout)
    pretrained = dict(each.split("=", 1) for each in arguments.pretrained)
    more = (arguments.pretraining_domains, pretrained, arguments.bf16, arguments.batch_size)
    brands = knows_brands(domain, arguments)
    return Setting(domain, run["seed"], folder, embeddings, *limits, *sections, *more, brands, arguments.resume)


def knows_brands(domain: Domain, arguments: QualityArguments) -> bool:
    """Whether memories of the domain know brands."""
    return arguments.brands and any(domain.catalogue.brands or ())


def run_model(model: str, run: dict[str, Any], setting: Setting, arguments: QualityArguments, results: Path) -> None:
    """A model alone and, where it was trained, with a memory; what has lines already is not made again."""
    done = lines_of(run, results)
    with_which = f"{WITH_MEMORY}{AND_BRANDS}" if setting.brands else WITH_MEMORY
    remembered = run | {"model": run["model"] + with_which}
    named = f"{run['domain']} {run['model']} seed {run['seed']}"
    if reads_texts(model):
        _ = setting.embeddings.text  # made once for all, before the clock runs
    if done:
        print(f"{named}: done before")
        if model in FLOORS or not arguments.memory or lines_of(remembered, results):
            return
        trained = trained_before(setting, done[0])
        seconds = done[0]["train_seconds"], done[0]["processor_seconds"]
    else:
        print(f"{named} ...", flush=True)
        start = clocks()
        trained = (ablation_recipe if model in ABLATIONS else RECIPES[model])(model, setting)
        wall, processor = since(start)
        seconds = wall + trained.details.get("resumed_after_seconds", 0.0), processor
        append(results, judge(trained, setting, run, seconds, arguments, command(run, arguments)))
    if arguments.memory and model not in FLOORS:
        print(f"{named}{with_which} ...", flush=True)
        start = clocks()
        trained = with_memory(setting, trained)
        taken = since(start)
        both = seconds[0] + taken[0], seconds[1] + taken[1]
        append(results, judge(trained, setting, remembered, both, arguments, command(remembered, arguments)))


def reads_texts(model: str) -> bool:
    """Whether a row is made from the items' texts."""
    if model.removesuffix(PRETRAINED_ROW) in SEQUENTIAL:
        return "text" in SEQUENTIAL[model.removesuffix(PRETRAINED_ROW)].inputs
    return model not in COUNTED and model not in ROWS


def clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float]) -> tuple[float, float]:
    """Seconds that went by, and seconds of the processor's cores."""
    now = clocks()
    return now[0] - start[0], now[1] - start[1]


def trained_before(setting: Setting, line: dict[str, Any]) -> TrainedRanker:
    """A model that was trained and judged alone before, from its folder and its line."""
    folder = setting.folder / RECOMMENDER
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{line['model']} seed {line['seed']} has lines without memory, but is not in {folder}: give the "
            "--work_dir of that run, or remove its lines."
        )
    ranker = load_ranker(folder, setting.domain.interactions, memory=False)
    details = {name: value for name, value in line["details"].items() if name not in ("minutes", "patience")}
    described = {name: line[name] for name in ("variant", "codebooks", *DESCRIBED) if name in line}
    return TrainedRanker(ranker, line["parameters"], details, described)


def chosen(models: list[str]) -> list[str]:
    names = [name for model in models for name in {"all": list(RECIPES), "floors": list(FLOORS)}.get(model, [model])]
    return list(dict.fromkeys(names))


def judge(
    trained: TrainedRanker,
    setting: Setting,
    run: dict[str, Any],
    seconds: tuple[float, float],
    arguments: Judging,
    repeated_by: str,
    masks: Sequence[bool] = (False, True),
) -> list[dict[str, Any]]:
    """A line for seen items kept and one for seen items masked; `repeated_by` is the command that a line says."""
    lines = []
    for mask_seen in masks:
        protocol: dict[str, Any] = {"mask_seen": mask_seen, "max_history": run["history"], "ks": KS}
        interactions = setting.domain.interactions
        validation = evaluate(trained.ranker, interactions, "validation", long_tail=False, **protocol)
        more = {"identifiers": trained.identifiers, "intervals": BOOTSTRAP_SAMPLES, "per_user": True}
        test = evaluate(trained.ranker, interactions, "test", **protocol, **more)
        test.pop("name")
        cases = test.pop("per_user")
        save_ranks(ranks_file(arguments, run, mask_seen), cases)
        against = None
        if run["model"] != LINEAR:
            linear = linear_cases(setting, run, mask_seen, arguments)
            tested = paired_test(*({name: each[name] for name in (*CASES, *TESTED)} for each in (cases, linear)))
            against = {name: tested[name] for name in TESTED}
        lines.append(
            {
                **run,
                "mask_seen": mask_seen,
                "memory": None,
                **trained.description,
                **test,
                "validation": {name: value for name, value in validation.items() if "@" in name},
                "against_linear": against,
                "train_seconds": round(seconds[0], 1),
                "processor_seconds": round(seconds[1], 1),
                "parameters": trained.parameters,
                "details": {**trained.details, "minutes": run["minutes"], "patience": arguments.patience},
                "versions": versions(),
                "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu x{os.cpu_count()}",
                "command": repeated_by,
            }
        )
        shown = {name: round(test[name], 4) for name in TABLE_METRICS}
        print(f"  seen {test['seen']}: {shown} after {seconds[0]:.0f} s", flush=True)
    return lines


def linear_cases(setting: Setting, run: dict[str, Any], mask_seen: bool, arguments: Judging) -> dict[str, np.ndarray]:
    """The linear ranker's test cases, by which all others are compared; it is made if it has not run before. It learns
    from the same users: which they are goes by the seed."""
    seed = 0 if run.get(USERS, 1) == 1 else run["seed"]
    run = {name: run[name] for name in (*RUN, USERS) if name in run} | {"model": LINEAR, "seed": seed, "minutes": None}
    path = ranks_file(arguments, run, mask_seen)
    if not path.exists():
        ranker = floor(LINEAR, setting).ranker
        for masked in (False, True):
            save_ranks(ranks_file(arguments, run, masked), cases_of(ranker, setting, run, masked))
    return stored_cases(path)


def stored_cases(path: Path) -> dict[str, np.ndarray]:
    """What [`save_ranks`] wrote, with the metrics of each case."""
    with np.load(path, allow_pickle=False) as stored:
        cases = {name: stored[name].astype(np.int64) for name in CASES}
    return cases | metrics_per_case(cases["ranks"], KS)


def cases_of(ranker: Ranker, setting: Setting, run: dict[str, Any], mask_seen: bool) -> dict[str, np.ndarray]:
    """`per_user` of the test."""
    protocol: dict[str, Any] = {"mask_seen": mask_seen, "max_history": run["history"], "ks": KS}
    return evaluate(ranker, setting.domain.interactions, **protocol, long_tail=False, per_user=True)["per_user"]


def ranks_file(arguments: Judging, run: dict[str, Any], mask_seen: bool) -> Path:
    """Where the rank of each test case's target is kept, for later tests of two rows."""
    words = [run["model"].replace(",", "").replace(" ", "-"), "history", run["history"], "seed", run["seed"]]
    words += [] if run.get(USERS, 1) == 1 else ["users", f"{run[USERS]:g}"]
    words += [] if run["minutes"] is None else [f"{run['minutes']:g}", "minutes"]
    # what a script has beside: one file for two settings would hold the ranks of the later run
    more = {name: value for name, value in run.items() if name not in (*RUN, USERS) and value is not None}
    words += [hashlib.sha256(json.dumps(more, sort_keys=True).encode()).hexdigest()[:8]] if more else []
    words.append("masked" if mask_seen else "kept")
    return Path(arguments.work_dir) / run["domain"] / "ranks" / f"{'-'.join(map(str, words))}.npz"


def save_ranks(path: Path, cases: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **{name: cases[name].astype(np.int32) for name in CASES})


def versions() -> dict[str, Any]:
    """What a number may depend on beside the settings."""
    packages = {name: version(name) for name in ("torch", "transformers", "numpy", "scipy")}
    capability = torch.backends.cpu.get_cpu_capability()
    return {"python": platform.python_version(), **packages, "cpu": capability, "threads": torch.get_num_threads()}


def command(run: dict[str, Any], arguments: QualityArguments) -> str:
    """The command that repeats one run; folders by their names alone."""
    model = run["model"].removesuffix(AND_BRANDS).removesuffix(WITH_MEMORY)
    flags = [each for each in TUNED if row_word(each) in model]
    for each in flags:
        model = model.partition(row_word(each))[0]
    words = ["--domains", run["domain"]]
    if model in ABLATIONS:
        words += ["--ablations", "--pretraining_domains", *(Path(each).name for each in arguments.pretraining_domains)]
    else:
        words += ["--models", model]
    words += ["--seeds", str(run["seed"])]
    words += [] if arguments.brands else ["--no_brands"]
    words += ["--bf16", "true"] if arguments.bf16 and model not in FLOORS else []
    for given in arguments.pretrained if model.endswith(PRETRAINED_ROW) else []:
        name, _, folder = given.partition("=")
        words += ["--pretrained", f"{name}={Path(folder).name}"] if name == family(model) else []
    for name, value in dataclasses.asdict(arguments).items():
        default = QualityArguments.__dataclass_fields__[name]
        plain = ("max_history", "minutes", "patience", "text_encoder", "image_encoder", *flags)
        if name in plain and value != default.default:
            words += [f"--{name}", str(value)]
    of_section = False
    for word in sys.argv[1:]:
        if word.startswith("--"):
            of_section = word.startswith(("--config", "--text_fields", "--recommender.", "--tokenizer."))
        words += [word] if of_section else []
    return portable_command(["python", "examples/benchmarks/quality.py"], words)


def lacking(line: dict[str, Any]) -> list[str]:
    """What a line has to say and does not."""
    wanted = [*COMPLETE, *(DESCRIBED if line.get("parameters") else ())]
    missing = [name for name in wanted if name not in line]
    if line.get("against_linear") is None and line.get("model") != LINEAR:
        missing.append("against_linear")
    if WITH_MEMORY in str(line.get("model")) and not line.get("memory"):
        missing.append("memory")
    return list(dict.fromkeys(missing))


def append(results: Path, lines: list[dict[str, Any]]) -> None:
    """Adds the lines of one run, all or none."""
    for line in lines:
        if lacking(line):
            raise ValueError(f"A line of {line['model']} lacks {', '.join(lacking(line))}: nothing was written.")
    append_lines(results, lines)


def lines_of(run: dict[str, Any], results: Path) -> list[dict[str, Any]]:
    """The lines of a run that are complete."""
    lines = read_lines(results)
    return [line for line in lines if not lacking(line) and all(line.get(key) == run[key] for key in run)]


def is_floor(model: str) -> bool:
    """Whether a row is of what needs no training, and has no limit of time."""
    return model.removesuffix(AND_BRANDS) in FLOORS


def render(lines: list[dict[str, Any]]) -> str:
    """A table for each domain, length of the history and limit of time; the floors are in each, published rows below
    those of the usual history."""
    published = json.loads((HERE / "published.json").read_text(encoding="utf-8"))
    tables = []
    for domain, history in dict.fromkeys((line["domain"], line["history"]) for line in lines):
        of_domain = [line for line in lines if (line["domain"], line["history"]) == (domain, history)]
        limits = dict.fromkeys(line["minutes"] for line in of_domain if not is_floor(line["model"])) or [None]
        for minutes in limits:
            rows = []
            shown = [line for line in of_domain if line["minutes"] == minutes or is_floor(line["model"])]
            for model in dict.fromkeys(line["model"] for line in shown):
                kept, masked = (
                    [line for line in shown if (line["model"], line["mask_seen"]) == (model, seen)]
                    for seen in (False, True)
                )
                rows.append({"model": model, "variant": kept[0]["variant"], "seeds": len(kept), **row(kept, masked)})
            if history == QualityArguments.max_history:
                others = published.get(domain, {}).items()
                rows += [{"model": f"{name} (published)", **values} for name, values in others]
            limit = "" if minutes is None else f", at most {minutes:g} minutes of training"
            tables.append(f"### {domain}, last {history} items{limit}\n\n{markdown_table(rows)}")
    return "\n\n".join(tables)


def row(kept: list[dict[str, Any]], masked: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds; the 95 % interval is of the users of the first seed, p the largest of the seeds."""
    low, high = kept[0]["intervals"]["ndcg@10"]
    cells: dict[str, Any] = {
        **{name: mean(line[name] for line in kept) for name in TABLE_METRICS},
        "ndcg@10, 95 %": f"{low:.4f}–{high:.4f}",
        "ndcg@10 validation": mean(line["validation"]["ndcg@10"] for line in kept),
        "recall@10 masked": mean(line["recall@10"] for line in masked),
        "ndcg@10 masked": mean(line["ndcg@10"] for line in masked),
    }
    if kept[0]["against_linear"] is not None:
        tests = [line["against_linear"]["ndcg@10"] for line in kept]
        cells["ndcg@10 against linear"] = f"{mean(each['difference'] for each in tests):+.4f}"
        cells["p"] = max(each["p_value"] for each in tests)
    for title, slices in (("unseen transition", ("[0,1)",)), ("seen transition", ("[1,∞)",))):
        cells[f"recall@10 {title}"] = of_slice(kept, "seen_transitions", "training_transitions", slices)
    cells["recall@10 cold"] = of_slice(kept, "cold_targets", "training_interactions", ("[0,1)", "[1,5)"))
    return {
        **cells,
        "processor minutes": f"{mean(line['processor_seconds'] for line in kept) / 60:.1f}",
        "parameters": kept[0]["parameters"],
    }


def mean(values: Any) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)


def of_slice(lines: list[dict[str, Any]], name: str, key: str, labels: tuple[str, ...]) -> float | None:
    """Recall@10 of some slices taken together, mean over the lines; None without cases."""
    slices = [[each for each in line[name] if each[key] in labels and each["num_cases"]] for line in lines]
    if not all(slices):
        return None
    totals = [sum(each["num_cases"] for each in found) for found in slices]
    hits = [sum(each["num_cases"] * each["recall@10"] for each in found) for found in slices]
    return mean(hit / total for hit, total in zip(hits, totals, strict=True))


if __name__ == "__main__":
    main(*parse_sections(QualityArguments, SECTIONS, __doc__, default_config="text_encoder"))
