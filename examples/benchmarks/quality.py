"""Every model on every domain, trained and judged the same way: one line of JSON for each run, and a table.

Copy and paste:

```bash
# the floors and two models on one domain, two seeds; --text_encoder: a Hub id or a folder
python examples/benchmarks/quality.py --domains data/office --models floors sasrec tiger --seeds 0 1
# everything; what has a line in the results already is not run again
python examples/benchmarks/quality.py --domains data/office data/beauty --models all --seeds 0 1 2
# the table of what was measured so far, with published numbers as reference rows
python examples/benchmarks/quality.py --table_only
```

Protocol: leave-one-out, the last 20 items of the history, all items ranked, seen items kept and masked (a line for
each), early stopping on validation NDCG@10. Every recommender gets the same time (`--minutes`) and patience. The T5 of
the generative models is that of `--config` for all alike, and smaller than the published one: a line says in `variant`
what it is of, in `architecture`, `losses`, `codebooks` and `training` its settings, and in `differs_from_published`
each one that is another one than the authors'.
"""

import dataclasses
import json
import os
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from recipes import FLOORS, RECIPES, NotApplicable, Setting, TrainedRanker, sequential_training

from hub_cards.formatting import markdown_table
from trainers.arguments import parse_sections
from trainers.data.domains import Domain
from trainers.evaluation.metrics import TABLE_METRICS
from trainers.evaluation.protocol import evaluate
from trainers.evaluation.tables import portable_command
from trainers.methods.baselines import ItemEmbeddings
from trainers.methods.sequential import SEQUENTIAL
from trainers.methods.utgrec import SECTIONS

HERE = Path(__file__).parent
KS = (5, 10, 20)


@dataclass
class QualityArguments:
    domains: list[str] = field(default_factory=list, metadata={"help": "Folders with items and interactions."})
    models: list[str] = field(
        default_factory=lambda: ["all"], metadata={"help": f"all, floors, or of: {', '.join(RECIPES)}."}
    )
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "Seeds; floors run once."})
    minutes: float = field(default=30.0, metadata={"help": "Most time to train a recommender, the same for each."})
    patience: int = field(default=10, metadata={"help": "Epochs without a better validation NDCG@10 before the end."})
    dropout: float | None = field(
        default=None,
        metadata={"help": "Dropout of the sequential models, a row of its own; default: each one's published."},
    )
    text_encoder: str = field(
        default="sentence-transformers/all-MiniLM-L6-v2", metadata={"help": "Hub id or folder of the text encoder."}
    )
    image_encoder: str | None = field(default=None, metadata={"help": "Hub id or folder, for TIGER-M."})
    results: str = field(
        default=str(HERE / "results" / "quality.jsonl"), metadata={"help": "File that a line per run goes to."}
    )
    work_dir: str = field(default="runs/quality", metadata={"help": "Where models, embeddings and checkpoints go."})
    table_only: bool = field(default=False, metadata={"help": "Only print the table of the results so far."})


def main(arguments: QualityArguments, *sections: Any) -> None:
    unknown = set(arguments.models) - {*RECIPES, "all", "floors"}
    if unknown:
        raise SystemExit(
            f"--models: unknown {', '.join(sorted(unknown))}; there are all, floors, {', '.join(RECIPES)}."
        )
    if arguments.dropout is not None and not 0 <= arguments.dropout < 1:
        raise SystemExit(f"--dropout: at least 0 and below 1, got {arguments.dropout}.")
    results = Path(arguments.results)
    if not arguments.table_only:
        if not arguments.domains:
            raise SystemExit("--domains: give at least one folder, or --table_only.")
        domains = [Domain.from_folder(folder, check_images=False) for folder in arguments.domains]
        for domain in domains:
            print(domain)
            run_domain(domain, arguments, sections, results)
    lines = read_lines(results)
    if lines:
        print(render(lines))


def run_domain(domain: Domain, arguments: QualityArguments, sections: tuple, results: Path) -> None:
    """Trains and judges every model of the domain that has no lines yet."""
    for model in chosen(arguments.models):
        for seed in arguments.seeds[:1] if model in FLOORS else arguments.seeds:
            tuned = arguments.dropout is not None and model in SEQUENTIAL
            name = f"{model}-dropout-{arguments.dropout:g}" if tuned else model
            run = {"domain": domain.name, "model": name, "seed": seed}
            if any(all(line[key] == value for key, value in run.items()) for line in read_lines(results)):
                print(f"{domain.name} {name} seed {seed}: done before")
                continue
            shared = Path(arguments.work_dir) / domain.name
            embeddings = ItemEmbeddings(
                domain,
                shared,
                arguments.text_encoder,
                arguments.image_encoder,
                collaborative_training=sequential_training(shared, seed),
                patience=arguments.patience,
                minutes=arguments.minutes,
            )
            setting = Setting(
                domain,
                seed,
                shared / f"{name}-seed-{seed}",
                embeddings,
                arguments.minutes,
                arguments.patience,
                arguments.dropout,
                *sections,
            )
            print(f"{domain.name} {name} seed {seed} ...", flush=True)
            start = time.perf_counter()
            try:
                ranker = RECIPES[model](model, setting)
            except NotApplicable as reason:
                print(f"{domain.name} {model}: left out, {reason}")
                continue
            except Exception:  # the other models are hours of work: go on with them
                traceback.print_exc()
                continue
            seconds = time.perf_counter() - start
            append(results, judge(ranker, domain, run, seconds, arguments))


def chosen(models: list[str]) -> list[str]:
    names = [name for model in models for name in {"all": list(RECIPES), "floors": list(FLOORS)}.get(model, [model])]
    return list(dict.fromkeys(names))


def judge(
    ranker: TrainedRanker, domain: Domain, run: dict[str, Any], seconds: float, arguments: QualityArguments
) -> list[dict[str, Any]]:
    """A line for seen items kept and one for seen items masked."""
    lines = []
    for mask_seen in (False, True):
        test, validation = (
            evaluate(
                ranker.ranker,
                domain.interactions,
                part,
                mask_seen,
                ks=KS,
                identifiers=ranker.identifiers if part == "test" else None,
                intervals=1000 if part == "test" else 0,
                long_tail=part == "test",
            )
            for part in ("test", "validation")
        )
        test.pop("name")
        lines.append(
            {
                **run,
                "mask_seen": mask_seen,
                **ranker.description,
                **test,
                "validation": {name: value for name, value in validation.items() if "@" in name},
                "train_seconds": round(seconds, 1),
                "parameters": ranker.parameters,
                "details": {**ranker.details, "minutes": arguments.minutes, "patience": arguments.patience},
                "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu x{os.cpu_count()}",
                "command": command(run, arguments),
            }
        )
        shown = {name: round(test[name], 4) for name in TABLE_METRICS}
        print(f"  seen {test['seen']}: {shown} after {seconds:.0f} s", flush=True)
    return lines


def command(run: dict[str, Any], arguments: QualityArguments) -> str:
    """The command that repeats one run; folders by their names alone."""
    model, tuned, _ = run["model"].partition("-dropout-")
    words = ["--domains", run["domain"], "--models", model]
    words += ["--seeds", str(run["seed"])]
    for name, value in dataclasses.asdict(arguments).items():
        default = QualityArguments.__dataclass_fields__[name]
        if name == "dropout" and not tuned:
            continue
        if name in ("minutes", "patience", "dropout", "image_encoder") and value != default.default:
            words += [f"--{name}", str(value)]
    of_section = False
    for word in sys.argv[1:]:
        if word.startswith("--"):
            of_section = word.startswith(("--config", "--recommender.", "--tokenizer."))
        words += [word] if of_section else []
    return portable_command(["python", "examples/benchmarks/quality.py"], words)


def append(results: Path, lines: list[dict[str, Any]]) -> None:
    """Adds the lines of one run in one write, so that a kill leaves both or none."""
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))


def read_lines(results: Path) -> list[dict[str, Any]]:
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines() if line.strip()]


def render(lines: list[dict[str, Any]]) -> str:
    """A table for each domain: seen items kept, test and validation; masked beside it; published rows below."""
    published = json.loads((HERE / "published.json").read_text(encoding="utf-8"))
    tables = []
    for domain in dict.fromkeys(line["domain"] for line in lines):
        rows = []
        for model in dict.fromkeys(line["model"] for line in lines if line["domain"] == domain):
            runs = [line for line in lines if (line["domain"], line["model"]) == (domain, model)]
            kept = [line for line in runs if not line["mask_seen"]]
            masked = [line for line in runs if line["mask_seen"]]
            rows.append({"model": model, "variant": kept[0].get("variant"), "seeds": len(kept), **row(kept, masked)})
        rows += [{"model": f"{name} (published)", **values} for name, values in published.get(domain, {}).items()]
        tables.append(f"### {domain}\n\n{markdown_table(rows)}")
    return "\n\n".join(tables)


def row(kept: list[dict[str, Any]], masked: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds; the 95 % interval is of the users of the first seed."""
    mean = {name: sum(line[name] for line in kept) / len(kept) for name in TABLE_METRICS}
    low, high = kept[0]["intervals"]["ndcg@10"]
    return {
        **mean,
        "ndcg@10, 95 %": f"{low:.4f}–{high:.4f}",
        "ndcg@10 validation": sum(line["validation"]["ndcg@10"] for line in kept) / len(kept),
        "recall@10 masked": sum(line["recall@10"] for line in masked) / len(masked),
        "ndcg@10 masked": sum(line["ndcg@10"] for line in masked) / len(masked),
        "minutes": f"{sum(line['train_seconds'] for line in kept) / len(kept) / 60:.1f}",
        "parameters": kept[0]["parameters"],
    }


if __name__ == "__main__":
    argv = sys.argv[1:]
    if not any(word.partition("=")[0] == "--config" for word in argv):
        argv = ["--config", "text_encoder", *argv]
    main(*parse_sections(QualityArguments, SECTIONS, __doc__, argv))
