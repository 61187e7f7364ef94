"""UTGRec as a whole on the built-in catalogue: what `make demo` runs.

    utgrec demo --output_dir runs/demo --seeds 1

Pre-trains item tokenizer and recommender on three domains, fine-tunes both on a fourth, trains the same from scratch
on it, and on the fine-tuned tokenizer's semantic IDs an item-level recommender with a memory of transitions and texts;
evaluates them beside popularity, item transitions and the linear ranker, loads the result back and recommends. Writes
results.json (a row for each model and seed), and for each seed what pretrain, finetune and train-baseline write.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from hub_cards.formatting import markdown_table
from tokenization_items.files import write_json
from trainers.arguments import parse_sections
from trainers.commands import finetune, pretrain, recommend, train_baseline
from trainers.data.domains import Domain
from trainers.data.synthetic import DOWNSTREAM_DOMAIN, PRETRAINING_DOMAINS, write_all
from trainers.evaluation.comparison import compare, untrained_rankers
from trainers.evaluation.metrics import TABLE_METRICS
from trainers.evaluation.significance import over_seeds
from trainers.methods.utgrec import FINETUNING_SECTIONS, SECTIONS
from trainers.runtime.progress import Progress, lines_alone

# Three domains' targets fill larger batches, which a CPU works through faster.
PRETRAINING = ["--recommender.per_device_train_batch_size", "128"]
# A pre-trained network is adapted with care. A new one gets as many steps as pre-training had, and the new recommender
# twice the epochs and the dropout without which it overfits: each way has the settings that are best for it.
FINETUNING = ["--tokenizer.learning_rate", "3e-4", "--tokenizer.backbone_learning_rate", "1e-4"]
FINETUNING += ["--tokenizer.num_train_epochs", "4", "--recommender.learning_rate", "1e-3"]
FINETUNING += ["--recommender.num_train_epochs", "6"]
FROM_SCRATCH = ["--tokenizer.num_train_epochs", "12", "--recommender.num_train_epochs", "12"]
FROM_SCRATCH += ["--recommender.dropout_rate", "0.1"]
# Both keep the epoch with the best NDCG@10 on the validation items of a third of the users.
BEST_EPOCH = ["--recommender.eval_strategy", "epoch", "--recommender.save_strategy", "epoch"]
BEST_EPOCH += ["--recommender.load_best_model_at_end", "true", "--recommender.save_total_limit", "1"]
BEST_EPOCH += ["--recommender.max_eval_users", "1000"]
# TF-IDF says little of these items, so they are read and predicted by their codes, too.
ITEM_LEVEL = ["--model", "item-level", "--text_encoder", "tf-idf", "--memory", "true"]
ITEM_LEVEL += ["--item_level.read_codes", "true", "--item_level.write_codes", "true"]
ITEM_LEVEL += ["--item_level.num_train_epochs", "20", "--item_level.disable_tqdm", "true"]


@dataclass
class DemoArguments:
    output_dir: str = field(default="runs/demo", metadata={"help": "Where everything goes."})
    seeds: int = field(default=1, metadata={"help": "Trainings, with seeds 0, 1, ...; their mean is shown too."})


@lines_alone()
def run(arguments: DemoArguments) -> None:
    output = Path(arguments.output_dir)
    started = time.perf_counter()
    progress = Progress(partial(print, flush=True))
    with progress.step("data", "writing four made-up shops: about a thousand items and 3,000 users each"):
        folders = {name: str(folder) for name, folder in write_all(output / "data").items()}
    rows = []
    for seed in range(arguments.seeds):
        rows += run_seed(output / f"seed-{seed}", folders, seed, progress)
        write_json(output / "results.json", rows)

    columns = ("domain", "model", "seed", *TABLE_METRICS)
    print("\n" + markdown_table([{name: row[name] for name in columns} for row in rows]))
    if arguments.seeds > 1:
        print(f"\nMean over {arguments.seeds} seeds\n\n" + markdown_table(seed_means(rows)))
    print("\nRecommendations for the first user:\n")
    recommend.run(
        recommend.RecommendArguments(
            recommender=str(output / "seed-0" / "pretrained-finetuned" / "recommender"),
            data=folders[DOWNSTREAM_DOMAIN],
        )
    )
    print(f"\n{time.perf_counter() - started:.0f} s; the table is in {output / 'results.json'}.")


def run_seed(output: Path, folders: dict[str, str], seed: int, progress: Progress) -> list[dict]:
    """Rows of the table for one seed."""
    common = ["--config", "small", "--seed", str(seed), "--overwrite"]  # its own folder, of an earlier demonstration
    common += ["--tokenizer.logging_steps", "60", "--recommender.logging_steps", "1000"]
    common += [] if sys.stdout.isatty() else ["--tokenizer.disable_tqdm", "true", "--recommender.disable_tqdm", "true"]
    pretrained, target = output / "pretrained", folders[DOWNSTREAM_DOMAIN]
    data = [folders[name] for name in PRETRAINING_DOMAINS]
    pretraining = [*common, *PRETRAINING, "--data", *data, "--output_dir", str(pretrained)]
    with progress.step("pretraining", f"pre-training item tokenizer and T5 on {', '.join(PRETRAINING_DOMAINS)}"):
        pretrain.run(*parse(pretrain.PretrainArguments, pretraining))

    domain = Domain.from_folder(target, check_images=False)
    with progress.step("untrained", f"measuring what needs no training on {DOWNSTREAM_DOMAIN}"):
        others = untrained_rankers(domain.interactions, texts=domain.catalogue.texts)
        rows = compare(others, DOWNSTREAM_DOMAIN, domain.interactions, seed)
    common += ["--data", target, *BEST_EPOCH]
    with progress.step("from scratch", f"training both from scratch on {DOWNSTREAM_DOMAIN}, to compare"):
        rows.append(train(output / "from-scratch", "from scratch", [*common, *FROM_SCRATCH]))
    finetuning = [*common, *FINETUNING, "--pretrained", str(pretrained)]
    with progress.step("fine-tuning", f"fine-tuning the pre-trained ones on {DOWNSTREAM_DOMAIN}"):
        rows.append(train(output / "pretrained-finetuned", "with pre-training", finetuning))
    tokenizer = str(output / "pretrained-finetuned" / "tokenizer")
    item_level = ["--config", "baseline", *ITEM_LEVEL, "--semantic_ids", tokenizer, "--data", target]
    item_level += [
        "--seed",
        str(seed),
        "--overwrite",
        "--output_dir",
        str(output / "item-level"),
        "--name",
        "item-level",
    ]
    parsed = parse_sections(train_baseline.TrainBaselineArguments, train_baseline.SECTIONS, "", item_level)
    with progress.step("item-level", "training an item-level recommender on the same semantic IDs, and its memory"):
        results = train_baseline.run(*parsed)
    assert results is not None
    rows += results[:2]  # alone, and with its memory
    return rows


def train(output: Path, name: str, argv: list[str]) -> dict:
    row = finetune.run(*parse(finetune.FinetuneArguments, [*argv, "--output_dir", str(output), "--name", name]))
    assert row is not None  # of the main process, which is the only one
    return row


def parse(main_arguments: type, argv: list[str]) -> tuple:
    sections = FINETUNING_SECTIONS if main_arguments is finetune.FinetuneArguments else SECTIONS
    return parse_sections(main_arguments, sections, "", argv)


def seed_means(rows: list[dict]) -> list[dict]:
    """Mean and sample standard deviation of each model over the seeds."""
    means = []
    for model in dict.fromkeys(row["model"] for row in rows):
        mean = over_seeds([row for row in rows if row["model"] == model])
        cells = {name: f"{mean[name]:.4f} ± {mean['sd'][name]:.4f}" for name in TABLE_METRICS}
        means.append({"domain": DOWNSTREAM_DOMAIN, "model": model, **cells})
    return means


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, by default the program's."""
    run(*parse_sections(DemoArguments, {}, __doc__, argv))
