"""Pre-trained recommenders on domains that they never trained on, beside what needs no training; and with a little.

Copy and paste:

```bash
# what needs no training
python examples/benchmarks/zero_shot.py --domains data/office data/beauty
# a pre-trained recommender as it is, and fine-tuned on 1, 10, 100 % of the users; two seeds of fine-tuning
python examples/benchmarks/zero_shot.py --domains data/office --pretrained runs/pretrained \
    --train_users 0 0.01 0.1 1 --seeds 0 1
# the same model from scratch, for comparison
python examples/benchmarks/zero_shot.py --domains data/office --models scratch --train_users 0.01 0.1 1 --seeds 0 1
# RecBase: its own configuration for fine-tuning
python examples/benchmarks/zero_shot.py --domains data/office --models none --pretrained runs/recbase \
    --config recbase_small --train_users 0 0.01 0.1 1
# how much of the items' content its semantic IDs keep: the cosine of the vectors that their codes stand for
python examples/benchmarks/zero_shot.py --domains data/office --model recbase --pretrained runs/recbase \
    --models nearest-codes
# nothing forgotten: the pre-trained model as it is, mixed with a memory of these users' interactions and of the texts
python examples/benchmarks/zero_shot.py --domains data/office --models none --pretrained runs/recbase \
    --config recbase_small --train_users 0 0.01 0.1 1 --memory
# the table of what was measured so far
python examples/benchmarks/zero_shot.py --table_only
```

A line of JSON for each run: GAUC on the same rows for every model of a domain, and Recall and NDCG over the whole
catalogue (leave-one-out, seen items kept). What has a line already is not run again. A pre-trained recommender goes by
its folder's name: another one of that name, by its weights, is refused. Domains of the pre-training are
told apart by the model's card, or by `--pretrained_on`. A recommender's semantic IDs of a domain are looked for in
`items/<domain>` of its folder; where there are none, its item tokenizer makes them.
"""

import copy
import hashlib
import os
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from modeling_utgrec import ItemMemory, MemorySettings
from tokenization_items import Catalogue, UniversalItemTokenizer
from tokenization_items.catalogue import TEXT_FIELDS
from tokenization_items.files import append_lines, read_lines
from tokenization_items.item_embeddings import embed_items, load_embeddings
from tokenization_items.text_encoders import TextEncoder
from trainers.arguments import parse_sections
from trainers.commands import choose_method, finetune, finetune_recbase
from trainers.data.domains import Domain, domain_folders
from trainers.evaluation.candidate_rows import CandidateRows, RowChoices, draw_rows
from trainers.evaluation.codebooks import summed_vectors
from trainers.evaluation.level_scores import ZeroShotArguments
from trainers.evaluation.tables import portable_command
from trainers.evaluation.zero_shot import (
    ZeroShotModel,
    evaluate_zero_shot,
    items_folder,
    render_zero_shot,
    training_of,
    zero_shot_model,
)
from trainers.methods.memory import build_memory, content_memory
from trainers.methods.mixture_selection import with_memory
from trainers.methods.recbase import RECBASE_SECTIONS, codebooks_of
from trainers.methods.runs import tokenize
from trainers.methods.utgrec import SECTIONS
from trainers.rankers.generative import GenerativeRanker
from trainers.rankers.linear import LinearSettings
from trainers.rankers.nearest_items import NearestItems, Query
from trainers.rankers.popularity import Popularity
from trainers.rankers.title_likelihood import TitleLikelihood

HERE = Path(__file__).resolve().parent

# centred: the mean of the history's embeddings, all without the mean of the domain's; history: each of its items so
NEAREST = tuple(f"nearest-items-{kind}" for kind in ("last", "mean", "centred", "history"))
BASELINES = ("popularity", *NEAREST, "title-likelihood")
SCRATCH = "scratch"
NEAREST_CODES = "nearest-codes"
MEMORY = "-with-memory"
WEIGHTS = "pretrained_weights"  # their digest, in a line
# The defaults, whatever the domain: a domain that was not trained on has nothing to choose by.
MEMORY_SETTINGS = MemorySettings(content_weight=LinearSettings().content_weight)


@dataclass
class BenchmarkArguments:
    domains: list[str] = field(default_factory=list, metadata={"help": "Folders with items and interactions."})
    pretrained: list[str] = field(default_factory=list, metadata={"help": "Output folders of pretrain.py."})
    model: Literal["utgrec", "recbase"] = field(
        default="utgrec", metadata={"help": f"What --pretrained and {SCRATCH} are."}
    )
    models: list[str] = field(
        default_factory=lambda: list(BASELINES),
        metadata={
            "help": f"Beside --pretrained: of {', '.join(BASELINES)}, {SCRATCH}, {NEAREST_CODES} (nearest items by "
            "the semantic IDs of each --pretrained); or none."
        },
    )
    train_users: list[float] = field(
        default_factory=lambda: [0.0], metadata={"help": "Shares of the domain's users to fine-tune on; 0: zero-shot."}
    )
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "Seeds of fine-tuning."})
    memory: bool = field(
        default=False,
        metadata={"help": "In place of fine-tuning, a memory of these users' interactions and the items' texts."},
    )
    text_encoder: str = field(
        default="sentence-transformers/all-MiniLM-L6-v2", metadata={"help": "Hub id or folder of the text encoder."}
    )
    text_fields: list[str] = field(
        default_factory=list,
        metadata={"help": "Fields of an item's text, in order; default: all, and those of each --pretrained."},
    )
    results: str = field(
        default=str(HERE / "results" / "zero_shot.jsonl"), metadata={"help": "File that a line per run goes to."}
    )
    work_dir: str = field(default="runs/zero_shot", metadata={"help": "Where models, items and embeddings go."})
    num_beams: int = field(default=50, metadata={"help": "Beams of the full ranking."})
    batch_size: int = field(default=64, metadata={"help": "Users per batch."})
    table_only: bool = field(default=False, metadata={"help": "Only print the table of the results so far."})


@dataclass(frozen=True)
class Run:
    """One line: a model with a seed, on a domain, trained on a share of its users; or nearest items by its codes."""

    domain: Domain
    rows: CandidateRows
    model: str
    pretrained: Path | None = None
    train_users: float = 0.0
    seed: int | None = None
    of_codes: bool = False
    memory: bool = False

    @property
    def name(self) -> str:
        kind = f"-{NEAREST_CODES}" if self.of_codes else MEMORY if self.memory else ""
        return f"{self.model}{kind}"

    def key(self) -> dict[str, Any]:
        """What tells its line from others."""
        named = {"domain": self.domain.name, "model": self.name, "train_users": self.train_users, "seed": self.seed}
        return named | asdict(self.rows.choices)

    def folder(self, arguments: BenchmarkArguments) -> Path:
        share = f"{self.model}-users-{self.train_users:g}-seed-{self.seed}"
        return Path(arguments.work_dir) / self.domain.name / share


def main(arguments: BenchmarkArguments, choices: RowChoices, flags: ZeroShotArguments, *sections: Any) -> None:
    results = Path(arguments.results)
    if not arguments.table_only:
        runs = list(planned(arguments, choices))  # every domain is read and drawn from before the first run
        check_names(runs, results)
        for run in runs:
            key = run.key()
            name = " ".join(str(value) for value in list(key.values())[:4])
            if any(all(line.get(k) == value for k, value in key.items()) for line in read_lines(results)):
                print(f"{name}: done before")
                continue
            print(f"{name} ...", flush=True)
            try:
                line = judge(run, arguments, flags, sections)
            except Exception:  # the other runs are hours of work: go on with them
                traceback.print_exc()
                continue
            append_lines(results, [line])
            print(f"  gauc {line['gauc']:.4f}, ndcg@10 {line['ndcg@10']}", flush=True)
    lines = read_lines(results)
    if lines:
        print(render_zero_shot(lines))


def check_names(runs: list[Run], results: Path) -> None:
    """
    Looks whether the pre-trained recommenders are those that earlier lines of their names are of, where these say so.

    Raises:
        SystemExit: there is another one of the same name.
    """
    known = {line["model"]: line[WEIGHTS] for line in read_lines(results) if line.get(WEIGHTS)}
    for run in runs:
        if run.pretrained is None or run.name not in known:
            continue
        if known[run.name] != weights_of(run.pretrained):
            raise SystemExit(
                f"{results} has lines of {run.name}, of other weights than those of {run.pretrained}: rename the "
                "folder, or give other --results and --work_dir."
            )


@cache
def weights_of(pretrained: Path) -> str:
    """Digest of a pre-trained recommender's weights."""
    digest = hashlib.sha256()
    for path in sorted((pretrained / "recommender").glob("*.safetensors")):
        with open(path, "rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def planned(arguments: BenchmarkArguments, choices: RowChoices) -> Iterator[Run]:
    """All runs, baselines first.

    Raises:
        SystemExit: an unknown model, no domain, or a share that nothing can be trained with.
    """
    models = [name for name in arguments.models if name != "none"]
    unknown = set(models) - {*BASELINES, SCRATCH, NEAREST_CODES}
    if unknown:
        raise SystemExit(
            f"--models: unknown {', '.join(sorted(unknown))}; there are {', '.join(BASELINES)}, {SCRATCH}, "
            f"{NEAREST_CODES}."
        )
    if NEAREST_CODES in models and not arguments.pretrained:
        raise SystemExit(f"--models {NEAREST_CODES}: say whose codes, by --pretrained.")
    if not arguments.domains:
        raise SystemExit("--domains: give at least one folder, or --table_only.")
    for folder in arguments.pretrained:
        if not (Path(folder) / "recommender").is_dir():
            raise SystemExit(
                f"--pretrained {folder}: no folder recommender in it; make one with examples/pretrain.py."
            )
    names = [Path(folder).resolve().name for folder in dict.fromkeys(arguments.pretrained)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SystemExit(
            f"--pretrained: {', '.join(twice)} is the name of two folders, by which lines go: rename one."
        )
    for share in arguments.train_users:
        if not 0 <= share <= 1:
            raise SystemExit(f"--train_users: shares between 0 and 1, got {share}.")
    for folder in domain_folders(arguments.domains):
        domain = Domain.from_folder(folder, check_images=False, text_fields=arguments.text_fields or TEXT_FIELDS)
        rows = draw_rows(domain.interactions, choices)
        print(f"{domain}: {len(rows):,} rows of {rows.num_users:,} users, labels {rows.choices.labels}")
        for model in models:
            if model in BASELINES:
                yield Run(domain, rows, model)
        for pretrained in [*map(Path, arguments.pretrained), *([None] if SCRATCH in models else [])]:
            model = f"{SCRATCH}-{arguments.model}" if pretrained is None else pretrained.resolve().name
            if pretrained is not None and NEAREST_CODES in models:
                seed = training_of(pretrained / "recommender")[1]
                yield Run(domain, rows, model, pretrained, seed=seed, of_codes=True)
            for share in arguments.train_users:
                memory = arguments.memory and pretrained is not None
                if share:
                    for seed in arguments.seeds:
                        yield Run(domain, rows, model, pretrained, share, seed, memory=memory)
                elif pretrained is not None:
                    seed = training_of(pretrained / "recommender")[1]
                    yield Run(domain, rows, model, pretrained, 0.0, seed, memory=memory)


def judge(
    run: Run, arguments: BenchmarkArguments, flags: ZeroShotArguments, sections: tuple[Any, ...]
) -> dict[str, Any]:
    """The line of a run."""
    start = time.perf_counter()
    if run.model in BASELINES:
        model = baseline(run, arguments, flags)
    elif run.of_codes:
        model = nearest_codes(run, arguments, flags)
    else:
        model = recommender(run, arguments, flags, sections)
    seconds = time.perf_counter() - start
    line = evaluate_zero_shot(
        model,
        run.domain.name,
        run.domain.interactions,
        run.rows,
        batch_size=arguments.batch_size,
        full_ranking=flags.full_ranking,
    )
    return {
        **line,
        **run.key(),
        **({} if run.pretrained is None else {WEIGHTS: weights_of(run.pretrained)}),
        "train_seconds": round(seconds, 1) if run.train_users else 0.0,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu x{os.cpu_count()}",
        "command": command(run, arguments, flags),
    }


def baseline(run: Run, arguments: BenchmarkArguments, flags: ZeroShotArguments) -> ZeroShotModel:
    """What needs no training."""
    domain = run.domain
    if run.model == "popularity":
        found = Popularity(domain.interactions.training_part())
    elif run.model == "title-likelihood":
        if flags.language_model is None:
            raise ValueError("title-likelihood needs --language_model: a Hub id or a folder.")
        found = TitleLikelihood.from_pretrained(flags.language_model, domain.catalogue)
    else:
        embeddings = text_embeddings(run, arguments)
        if run.model == "nearest-items-centred":
            embeddings = embeddings - embeddings.mean(axis=0)
        queries: dict[str, Query] = dict(zip(NEAREST, ("last", "mean", "mean", "history"), strict=True))
        found = NearestItems(embeddings, queries[run.model])
    return zero_shot_model(found, domain.interactions, flags, batch_size=arguments.batch_size)


def text_embeddings(run: Run, arguments: BenchmarkArguments) -> np.ndarray:
    """Of the domain's items, made if they are not there."""
    folder = Path(arguments.work_dir) / run.domain.name / "text-embeddings"
    embed_items(run.domain.catalogue, TextEncoder.from_pretrained(arguments.text_encoder), folder)
    return load_embeddings(folder, run.domain.catalogue.item_ids)


def remembered(run: Run, arguments: BenchmarkArguments) -> ItemMemory:
    """A memory of the texts and of the training interactions of a share of the users, of none at 0."""
    content = text_embeddings(run, arguments)
    if not run.train_users:
        return content_memory(content, MEMORY_SETTINGS)
    few = run.domain.interactions.sample_training_users(run.train_users, run.seed or 0)
    return build_memory(few.training_part(), content, settings=MEMORY_SETTINGS).memory


def nearest_codes(run: Run, arguments: BenchmarkArguments, flags: ZeroShotArguments) -> ZeroShotModel:
    """Nearest items by the sums of their codes' vectors: what of the items' content a decoder gets to read."""
    items = UniversalItemTokenizer.from_pretrained(made_items(run, arguments) or run.pretrained / "recommender")
    codes = items.index.codes[items.index.rows(run.domain.catalogue.item_ids)]
    books = [book.detach().float().cpu().numpy() for book in codebooks_of(run.pretrained)]
    found = NearestItems(summed_vectors(books, codes), "mean")
    made = zero_shot_model(found, run.domain.interactions, flags, batch_size=arguments.batch_size)
    return replace(made, name=run.name, seed=run.seed)


def recommender(
    run: Run, arguments: BenchmarkArguments, flags: ZeroShotArguments, sections: tuple[Any, ...]
) -> ZeroShotModel:
    """The pre-trained recommender as it is, or fine-tuned, or one from scratch."""
    domain, folder, items = run.domain, run.folder(arguments), None
    trained_on = flags.pretrained_on
    if run.pretrained is None:
        trained_on = ["none"]
    elif trained_on is None:
        trained_on = training_of(run.pretrained / "recommender")[0]
    if run.train_users and not run.memory:
        # the folder of a domain has its name; sections are changed by a training
        data = next(path for path in domain_folders(arguments.domains) if path.resolve().name == domain.name)
        command = finetune_recbase if arguments.model == "recbase" else finetune
        command.run(
            command.FinetuneArguments(
                data=[str(data)],
                output_dir=str(folder),
                pretrained=None if run.pretrained is None else str(run.pretrained),
                train_users=run.train_users,
                text_fields=arguments.text_fields,
                overwrite=True,  # of a run that was stopped: its line is not there
                seed=run.seed,
            ),
            *copy.deepcopy(sections),
        )
        source = folder / "recommender"
    else:
        source = run.pretrained / "recommender"
        items = made_items(run, arguments)
    ranker = GenerativeRanker.from_pretrained(
        source, domain.catalogue.item_ids, arguments.num_beams, arguments.batch_size, items=items
    )
    if run.memory:
        ranker = with_memory(ranker, remembered(run, arguments))
    flags = replace(flags, pretrained_on=trained_on)
    made = zero_shot_model(ranker, domain.interactions, flags, source, batch_size=arguments.batch_size)
    return replace(made, name=run.name, seed=run.seed, uses_domain=run.train_users > 0)


def made_items(run: Run, arguments: BenchmarkArguments) -> Path | None:
    """Where the pre-trained recommender's semantic IDs of the domain's items are; made if there are none."""
    try:
        return items_folder(run.pretrained / "recommender", run.domain.name)
    except FileNotFoundError:
        folder = run.folder(arguments) / "items"
        if folder.is_dir():
            made, wanted = (
                UniversalItemTokenizer.from_pretrained(each, index_only=True).fingerprint
                for each in (folder, run.pretrained / "tokenizer")
            )
            if made != wanted:
                raise ValueError(
                    f"{folder} has semantic IDs of another item tokenizer than {run.pretrained}'s: delete it, or give "
                    "another --work_dir."
                ) from None
        else:
            tokenizer = UniversalItemTokenizer.from_pretrained(run.pretrained / "tokenizer")
            catalogue, template = run.domain.catalogue, tokenizer.encoding_network and tokenizer.processor.template
            fields = tuple(arguments.text_fields) or tokenizer.text_fields
            if template is not None or fields != catalogue.text_fields:  # RecBase's texts are put together by one
                data = next(
                    path for path in domain_folders(arguments.domains) if path.resolve().name == catalogue.name
                )
                catalogue = Catalogue.from_folder(data, fields, template=template)
            tokenizer, report = tokenize(tokenizer, catalogue)
            print(f"  {report}")
            tokenizer.save_pretrained(folder, include_network=False)
        return folder


def command(run: Run, arguments: BenchmarkArguments, flags: ZeroShotArguments) -> str:
    """The command that repeats one run; folders by their names alone."""
    words = ["--domains", run.domain.name]
    words += ["--model", arguments.model] if arguments.model != "utgrec" and run.model not in BASELINES else []
    if run.pretrained is None:
        words += ["--models", SCRATCH if run.model.startswith(SCRATCH) else run.model]
    else:
        words += ["--models", NEAREST_CODES if run.of_codes else "none", "--pretrained", str(run.pretrained)]
    if run.model not in BASELINES and not run.of_codes:
        words += ["--train_users", f"{run.train_users:g}"]
        words += ["--seeds", str(run.seed)] if run.train_users else []
        words += ["--memory"] if run.memory else []
    if run.model.startswith("nearest-items") or run.memory:
        words += ["--text_encoder", arguments.text_encoder]
    if run.model == "title-likelihood":
        words += ["--language_model", flags.language_model]
    words += ["--text_fields", *arguments.text_fields] if arguments.text_fields else []
    drawn = RowChoices().resolve(run.domain.interactions)
    for given, defaults in (
        (run.rows.choices, drawn),
        (flags, ZeroShotArguments(language_model=flags.language_model)),
    ):
        for name, value in asdict(given).items():
            if value != getattr(defaults, name):
                words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    of_section = False
    for word in sys.argv[1:]:
        if word.startswith("--"):
            of_section = word.startswith(("--config", "--recommender.", "--tokenizer."))
        words += [word] if of_section and run.train_users else []
    return portable_command(["python", "examples/benchmarks/zero_shot.py"], words)


if __name__ == "__main__":
    is_recbase = choose_method("pretrain", sys.argv[1:]) == "recbase"
    chosen, config = (RECBASE_SECTIONS, "recbase_small") if is_recbase else (SECTIONS, "text_encoder")
    classes = (BenchmarkArguments, RowChoices, ZeroShotArguments)
    main(*parse_sections(classes, chosen, __doc__, default_config=config))
