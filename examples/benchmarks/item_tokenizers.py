"""Item tokenizers of several domains at once: RecBase's, a plain RQ-VAE and RQ-k-means of the same sizes, and what
RecBase's loses without its curriculum, its restarts or its entropy term, or gains by a KL term. One line of JSON for
each run, and a table.

Copy and paste:

```bash
python examples/benchmarks/item_tokenizers.py --domains data/beauty data/office data/films \
    --introductions "films=Describe a movie:" --text_encoder sentence-transformers/all-MiniLM-L6-v2
# what has a line in the results already is not run again; the table alone:
python examples/benchmarks/item_tokenizers.py --table_only
# how healthy tokenizers are that were trained before, on catalogues of any domain; with --write_cards in their cards
python examples/benchmarks/item_tokenizers.py --domains data/beauty data/office --tokenizers runs/pretrained/tokenizer
```

All networks have the same widths, batches, steps, learning rate and seed. The defaults are small enough for one CPU
core; RecBase has 100 epochs of batches of 2,048 and a learning rate of 1e-4. Collisions are counted before collisions
are resolved: the share of items that have the codes of another item, over all domains together and in each alone.
"identical" are the items whose text is that of another item, which no tokenizer tells apart. What `--tokenizers`
prints is explained in [`trainers.evaluation.tokenizer_health`].
"""

import dataclasses
import json
import os
import shlex
import sys
import time
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import HfArgumentParser, set_seed

from hub_cards.formatting import markdown_table
from modeling_utgrec import RecBaseTokenizerConfig, RecBaseTokenizerModel, RQVAEConfig, RQVAEModel
from tokenization_items.catalogue import Catalogue
from tokenization_items.files import append_lines, read_lines
from tokenization_items.item_embeddings import ContentEmbeddings, embed_items, load_content
from tokenization_items.processing_content import codes_of_embeddings
from tokenization_items.text_encoders import TextEncoder
from tokenization_items.text_template import TextTemplate
from tokenization_items.tokenization_items import UniversalItemTokenizer
from trainers.data.domains import domain_folders
from trainers.data.interactions import Interactions
from trainers.embedding_tokenizer_trainer import EmbeddingRows, EmbeddingTokenizerTrainer
from trainers.evaluation.codebooks import codebook_health, collision_rate
from trainers.hub.model_facts import health_facts
from trainers.methods.catalogue_health import catalogue_health, tell_health
from trainers.methods.recbase_tokenizer import (
    RecBaseTokenizerTrainingArguments,
    check_domains,
    content_report,
    curriculum_passes,
)
from trainers.methods.residual_kmeans import principal_components, rq_kmeans
from trainers.methods.runs import place_training, tokenize

HERE = Path(__file__).parent
KL_WEIGHT = 0.01  # which no one has published


@dataclass
class TokenizersArguments:
    domains: list[str] = field(default_factory=list, metadata={"help": "Folders with items."})
    tokenizers: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Folders or Hub ids of item tokenizers with their networks, whose health is measured alone."
        },
    )
    write_cards: bool = field(default=False, metadata={"help": "Write it into the cards of those in folders, too."})
    methods: list[str] = field(default_factory=lambda: ["all"], metadata={"help": "all, or some of the table's."})
    seed: int = field(default=0, metadata={"help": "Of weights, batches and k-means."})
    text_encoder: str = field(
        default="sentence-transformers/all-MiniLM-L6-v2", metadata={"help": "Hub id or folder of the text encoder."}
    )
    text_encoder_name: str | None = field(
        default=None, metadata={"help": "Hub id of an encoder that --text_encoder has in a folder, for the record."}
    )
    introduction: str = field(default="Describe an item:", metadata={"help": "How the items' texts begin."})
    introductions: list[str] = field(
        default_factory=list, metadata={"help": "The same for single domains: 'films=Describe a movie:'."}
    )
    embeddings: str = field(
        default="runs/item_tokenizers/embeddings", metadata={"help": "Where embeddings go, a folder for each domain."}
    )
    hidden_sizes: list[int] = field(
        default_factory=lambda: [512, 256, 128], metadata={"help": "Hidden widths of the encoder."}
    )
    codebook_dim: int = field(default=128, metadata={"help": "Width of the codebook vectors."})
    num_levels: int = field(default=4, metadata={"help": "Codes of an item."})
    codebook_size: int = field(default=1024, metadata={"help": "Codes of each level."})
    steps: int = field(default=300, metadata={"help": "Optimizer steps."})
    batch_size: int = field(default=1024, metadata={"help": "Items of a step."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate."})
    curriculum_epochs: float = field(
        default=0.3, metadata={"help": "Epochs after which RecBase's next level becomes active."}
    )
    entropy_weight: float = field(default=0.01, metadata={"help": "Weight of RecBase's entropy term."})
    results: str = field(
        default=str(HERE / "results" / "item_tokenizers.jsonl"), metadata={"help": "File that a line per run goes to."}
    )
    work_dir: str = field(default="runs/item_tokenizers", metadata={"help": "Where trainings go."})
    table_only: bool = field(default=False, metadata={"help": "Only print the table of the results so far."})


@dataclass(frozen=True)
class Tokenized:
    """Codes int64 `[items, levels]`, the share of the embeddings' variance that the codes lose, and the steps."""

    codes: np.ndarray
    lost: float
    steps: int = 0


def main(arguments: TokenizersArguments) -> None:
    unknown = set(arguments.methods) - {*METHODS, "all"}
    if unknown:
        raise SystemExit(f"--methods: unknown {', '.join(sorted(unknown))}; there are all, {', '.join(METHODS)}.")
    results = Path(arguments.results)
    if not arguments.table_only:
        if not arguments.domains:
            raise SystemExit("--domains: give at least one folder, or --table_only.")
        if arguments.tokenizers:
            for name in arguments.tokenizers:
                print(render_health(name, measure(name, arguments)))
            return
        run(embedded(arguments), arguments, results)
    lines = read_lines(results)
    if lines:
        print(render(lines))


def measure(name: str, arguments: TokenizersArguments) -> dict[str, Any]:
    """The health of an item tokenizer on each domain, by name; a line of it goes to the results beside."""
    tokenizer = UniversalItemTokenizer.from_pretrained(name)
    health, own = {}, introductions(arguments)
    for folder in domain_folders(arguments.domains):
        template = tokenizer.loaded_processor.template
        if template is not None:
            template = replace(template, introduction=own.get(folder.resolve().name, own[""]))
        catalogue = Catalogue.from_folder(folder, tokenizer.text_fields, template=template)
        print(f"{name}: {len(catalogue):,} items of {catalogue.name} ...", flush=True)
        items, report = tokenize(tokenizer, catalogue)
        interactions = None
        if any(folder.glob("sequences.*")) or any(folder.glob("interactions.*")):
            interactions = Interactions.from_folder(folder, catalogue.item_ids)
        health[catalogue.name] = catalogue_health(items.encoding_network, report, catalogue, interactions, folder)
    line = {"tokenizer": Path(name).name, "fingerprint": tokenizer.fingerprint, "health": health}
    append_lines(Path(arguments.work_dir) / "health.jsonl", [line])
    if arguments.write_cards and Path(name).is_dir():
        tell_health(name, health)
    return health


def render_health(name: str, health: dict[str, Any]) -> str:
    """The tables that a card has."""
    tables = health_facts(health)
    shown = [markdown_table(rows) for rows in (tables["health"], tables["attribute_information"]) if rows]
    return "\n\n".join([f"### {name}", *shown])


def embedded(arguments: TokenizersArguments) -> dict[str, ContentEmbeddings]:
    """The domains' embeddings, computed unless they are there."""
    own = introductions(arguments)
    other = own.pop("")
    folders = {folder.resolve().name: folder for folder in domain_folders(arguments.domains)}
    unknown = sorted(own.keys() - folders.keys())
    if unknown:
        raise SystemExit(f"--introductions: {unknown} are none of the domains {sorted(folders)}.")
    encoder = TextEncoder.from_pretrained(arguments.text_encoder)
    domains = {}
    for name, folder in folders.items():
        template = TextTemplate(own.get(name, other))
        target = Path(arguments.embeddings) / name
        embed_items(Catalogue.from_folder(folder, template=template), encoder, target, batch_tokens=2048)
        domains[name] = load_content(target)
    check_domains(domains)
    return domains


def run(domains: dict[str, ContentEmbeddings], arguments: TokenizersArguments, results: Path) -> None:
    """Trains and judges every method that has no line yet."""
    names = list(METHODS) if "all" in arguments.methods else arguments.methods
    embeddings = np.concatenate([content.embeddings for content in domains.values()])
    rows = EmbeddingRows(embeddings, domains={name: len(content.item_ids) for name, content in domains.items()})
    identical = content_report(domains)["identical_content"]["items"]
    for method in names:
        key = {"domains": list(domains), "method": method, "seed": arguments.seed, "settings": settings(arguments)}
        if any(all(line[name] == value for name, value in key.items()) for line in read_lines(results)):
            print(f"{method}: done before")
            continue
        print(f"{method} ...", flush=True)
        started = time.perf_counter(), time.process_time()
        tokenized = METHODS[method](rows, arguments)
        wall, cpu = time.perf_counter() - started[0], time.process_time() - started[1]
        line = {
            **key,
            **judge(tokenized.codes, rows, arguments),
            "num_items": len(rows),
            "identical": identical / len(rows),
            "reconstruction": tokenized.lost,
            "steps": tokenized.steps,
            "seconds": round(wall, 1),
            "cpu_seconds": round(cpu, 1),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu x{os.cpu_count()}",
            "threads": torch.get_num_threads(),
            "command": command(method, arguments),
        }
        append_lines(results, [line])


def judge(codes: np.ndarray, rows: EmbeddingRows, arguments: TokenizersArguments) -> dict[str, Any]:
    """What the codes are like before collisions are resolved."""
    codes = torch.from_numpy(codes)
    sizes = RecBaseTokenizerConfig(num_levels=arguments.num_levels, codebook_size=arguments.codebook_size).level_sizes
    health = codebook_health(codes, sizes)
    levels = range(len(sizes))
    lists = {name: [health.pop(f"{name}_{level}") for level in levels] for name in ("used", "perplexity")}
    alone = {name: collision_rate(codes[part]) for name, part in rows.rows_of_domains().items()}
    return {**health, "collision_rate_alone": alone, **lists}


def network_settings(arguments: TokenizersArguments) -> dict[str, Any]:
    names = ("hidden_sizes", "codebook_dim", "num_levels", "codebook_size")
    return {name: getattr(arguments, name) for name in names}


def train(model, rows: EmbeddingRows, training: RecBaseTokenizerTrainingArguments) -> Tokenized:
    trainer = EmbeddingTokenizerTrainer(model, training, rows)
    trainer.train()
    codes, _ = codes_of_embeddings(model, rows.columns["embeddings"].numpy())
    lost = trainer.evaluate(metric_key_prefix="final")["final_reconstruction"]
    return Tokenized(codes, lost, trainer.state.global_step)


def training_arguments(arguments: TokenizersArguments) -> RecBaseTokenizerTrainingArguments:
    training = RecBaseTokenizerTrainingArguments(
        max_steps=arguments.steps,
        learning_rate=arguments.learning_rate,
        per_device_train_batch_size=arguments.batch_size,
        curriculum_epochs=arguments.curriculum_epochs,
        report_to=[],
        disable_tqdm=not sys.stdout.isatty(),
    )
    place_training(training, Path(arguments.work_dir) / "training", arguments.seed)
    set_seed(arguments.seed)
    return training


def recbase(rows: EmbeddingRows, arguments: TokenizersArguments, **changes) -> Tokenized:
    training = training_arguments(arguments)
    values = {
        "input_dim": rows.columns["embeddings"].shape[1],
        "curriculum_passes": curriculum_passes(training, len(rows)),
        "entropy_weight": arguments.entropy_weight,
    }
    config = RecBaseTokenizerConfig(**{**values, **network_settings(arguments), **changes})
    return train(RecBaseTokenizerModel(config), rows, training)


def rqvae(rows: EmbeddingRows, arguments: TokenizersArguments) -> Tokenized:
    training = training_arguments(arguments)
    config = RQVAEConfig(input_dim=rows.columns["embeddings"].shape[1], **network_settings(arguments))
    return train(RQVAEModel(config), rows, training)


def kmeans(rows: EmbeddingRows, arguments: TokenizersArguments) -> Tokenized:
    embeddings = rows.columns["embeddings"].numpy()
    points = principal_components(embeddings, arguments.codebook_dim)
    codes, residuals, codebooks = rq_kmeans(points, arguments.num_levels, arguments.codebook_size, seed=arguments.seed)
    # What is lost: the components that were left out, and what the last level leaves over.
    left = residuals[:, -1] - codebooks[-1][codes[:, -1]]
    variance = np.square(embeddings - embeddings.mean(0)).sum(1).mean()
    kept = np.square(points).sum(1).mean()
    return Tokenized(codes, float((variance - kept + np.square(left).sum(1).mean()) / variance))


METHODS: dict[str, Callable[[EmbeddingRows, TokenizersArguments], Tokenized]] = {
    "recbase": recbase,
    "rq-vae": rqvae,
    "rq-k-means": kmeans,
    "recbase, no curriculum": lambda rows, arguments: recbase(rows, arguments, curriculum_passes=0),
    "recbase, no restarts": lambda rows, arguments: recbase(rows, arguments, restart_passes=0),
    "recbase, no entropy": lambda rows, arguments: recbase(rows, arguments, entropy_weight=0),
    "recbase, KL": lambda rows, arguments: recbase(rows, arguments, kl_weight=KL_WEIGHT),
    "recbase, cosine": lambda rows, arguments: recbase(rows, arguments, distance="cosine"),
}
SETTINGS = ("steps", "batch_size", "learning_rate", "curriculum_epochs", "entropy_weight")


def settings(arguments: TokenizersArguments) -> dict[str, Any]:
    values = network_settings(arguments) | {name: getattr(arguments, name) for name in SETTINGS}
    return values | {"text_encoder": encoder_name(arguments), "introductions": introductions(arguments)}


def encoder_name(arguments: TokenizersArguments) -> str:
    return arguments.text_encoder_name or arguments.text_encoder


def introductions(arguments: TokenizersArguments) -> dict[str, str]:
    """How the items' texts begin, for the domains that have something of their own, and else ("")."""
    return {"": arguments.introduction, **dict(value.split("=", 1) for value in arguments.introductions)}


def command(method: str, arguments: TokenizersArguments) -> str:
    """The command that repeats one run; folders by their names alone."""
    words = ["python", "examples/benchmarks/item_tokenizers.py", "--domains"]
    words += [Path(folder).resolve().name for folder in arguments.domains]
    words += ["--methods", method, "--text_encoder", encoder_name(arguments)]
    for name, value in dataclasses.asdict(arguments).items():
        entry = TokenizersArguments.__dataclass_fields__[name]
        default = entry.default_factory() if entry.default is dataclasses.MISSING else entry.default
        kept = (
            *SETTINGS,
            "seed",
            "hidden_sizes",
            "codebook_dim",
            "num_levels",
            "codebook_size",
            "introduction",
            "introductions",
        )
        if name in kept and value != default:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words)


def render(lines: list[dict[str, Any]]) -> str:
    """A table for each union of domains and setting."""
    tables = []
    groups = list({json.dumps([line["domains"], line["settings"]]): line for line in lines}.values())
    for first in groups:
        rows = [row(line) for line in lines if all(line[name] == first[name] for name in ("domains", "settings"))]
        values = first["settings"]
        title = f"{' + '.join(first['domains'])}: {first['num_items']:,} items, {first['identical']:.2%} identical; "
        title += f"{values['num_levels']} × {values['codebook_size']} codes of {values['codebook_dim']} dimensions, "
        title += f"{values['steps']} steps of {values['batch_size']}"
        tables.append(f"### {title}\n\n{markdown_table(rows)}")
    return "\n\n".join(tables)


def row(line: dict[str, Any]) -> dict[str, Any]:
    alone = line["collision_rate_alone"]
    return {
        "method": line["method"],
        "seed": line["seed"],
        "collisions": f"{line['collision_rate']:.2%}",
        **{name: f"{rate:.2%}" for name, rate in alone.items()},
        "perplexity 1": f"{line['perplexity'][0]:.0f}",
        "used": " ".join(f"{used:.0%}" for used in line["used"]),
        "variance lost": f"{line['reconstruction']:.3f}",
        "seconds": f"{line['seconds']:.0f}",
    }


if __name__ == "__main__":
    main(
        HfArgumentParser(
            TokenizersArguments, description=__doc__, formatter_class=RawDescriptionHelpFormatter
        ).parse_args_into_dataclasses()[0]
    )
