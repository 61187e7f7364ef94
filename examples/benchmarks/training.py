"""Training of a recommender with `RecommenderTrainer`, beside a plain `Seq2SeqTrainer` on the same model.

    python examples/benchmarks/training.py --data data/beauty --batch 256
    python examples/benchmarks/training.py --to_equal_quality --d_model 64 --num_layers 2   # on the built-in data
    python examples/benchmarks/training.py --data data/beauty --methods item-level sasrec windows

Methods, each in a process of its own, of which one works while the others wait:

- *plain*: `Seq2SeqTrainer` with a list of examples, one for each target, padded to the batch's longest;
- *windows*: `RecommenderTrainer` with `NextItemWindows`. The same model and the same batches, so the same training:
  the gradients are exactly those of *plain*, up to rounding and the draw of dropout;
- *packed*: `RecommenderTrainer` with `PackedSequences` and a causal encoder. All items of a sequence are targets of
  one pass. Its loss and gradients are exactly those of windows, of the same causal model, as long as no sequence is
  longer than the history; behind that border the history begins anew. The causal model is another one than the
  bidirectional one of the paper: what that does to quality has to be measured on each data set;
- *item-level*: `RecommenderTrainer` with an item-level recommender that reads content vectors, on packed rows;
- *sasrec*: `SequentialTrainer` with a SASRec of the same width and the cross-entropy over all items.

Only the first two are the same training; what a target of the others is worth has to be measured.

Timed are targets a second and, with `--to_equal_quality`, the seconds of training (without validation) until the
NDCG@10 of the validation that *plain* reaches. Peak memory is the resident set of each method's process, with the
libraries. The limit is the arithmetic without any padding, three times that of a forward pass, at the rate of a large
matrix product measured in the same run. The last line is one JSON object.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
import timing
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    PreTrainedModel,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainerCallback,
    set_seed,
)
from trie import random_codes

from modeling_utgrec import (
    ItemLevelConfig,
    ItemLevelForCausalLM,
    ItemTrie,
    SASRecConfig,
    SASRecForNextItem,
    UTGRecConfig,
    UTGRecForConditionalGeneration,
)
from tokenization_items import Catalogue
from trainers.data.interactions import Interactions
from trainers.data.synthetic import DOWNSTREAM_DOMAIN, generate_domain
from trainers.evaluation.protocol import evaluate
from trainers.rankers import Ranker
from trainers.rankers.generative import GenerativeRanker
from trainers.rankers.sequential import SequentialRanker
from trainers.recommender_trainer import RecommenderTrainer, RecommenderTrainingArguments
from trainers.sequential_trainer import SequentialTrainer, SequentialTrainingArguments
from trainers.training_data.next_item_windows import NextItemWindows, TrainingData
from trainers.training_data.packed_sequences import PackedSequences
from trainers.training_data.sequence_windows import SequenceWindows

PLAIN, WINDOWS, PACKED, ITEM_LEVEL, SASREC = METHODS = ("plain", "windows", "packed", "item-level", "sasrec")
WHOLE_SEQUENCES = (PACKED, ITEM_LEVEL, SASREC)  # a row has as many targets as items
TRAINING = {"learning_rate": 3e-3, "lr_scheduler_type": "cosine", "warmup_steps": 0.03, "weight_decay": 0.01}


class Data:
    """Sequences and random semantic IDs, the same in every process."""

    def __init__(self, options: argparse.Namespace):
        if options.data is None:
            domain = generate_domain(DOWNSTREAM_DOMAIN, options.items, options.users, options.seed)
            self.interactions = Interactions.from_sequences(
                [sequence["items"] for sequence in domain.sequences], [item["item_id"] for item in domain.items]
            )
        else:
            item_ids = Catalogue.from_folder(options.data).item_ids
            self.interactions = Interactions.from_folder(options.data, item_ids)
        sizes = [options.codes] * options.levels
        generator = torch.Generator().manual_seed(options.seed)
        codes = random_codes(self.interactions.num_items, sizes, generator)
        config = UTGRecConfig(level_sizes=sizes)
        content = torch.randn(self.interactions.num_items, options.content, generator=generator).half()
        self.trie = ItemTrie(codes, config.level_sizes, config.level_offsets, content=content)
        self.table = codes.numpy() + np.array(config.level_offsets)
        self.windows = NextItemWindows(self.interactions.training_part(), self.table, options.max_history)
        self.packed = PackedSequences(self.interactions.training_part(), self.table, options.max_history)
        self.sequences = SequenceWindows(self.interactions.training_part(), "all", options.max_history)

    def num_rows(self, method: str) -> int:
        """Rows of an epoch."""
        if method not in WHOLE_SEQUENCES:
            return len(self.windows)
        return len(self.sequences if method == SASREC else self.packed)

    def examples(self) -> list[dict[str, list[int]]]:
        """Each target with its history, as lists of tokens."""
        positions = self.windows.__getitems__(np.arange(len(self.windows)))
        starts, items = self.windows.history_starts(positions), self.windows.items
        return [
            {"input_ids": self.table[items[start:end]].ravel().tolist(), "labels": self.table[items[end]].tolist()}
            for start, end in zip(starts.tolist(), positions.tolist(), strict=True)
        ]


def pad(examples: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """What `DataCollatorForSeq2Seq` does: a batch padded to its longest example."""
    longest = max(len(example["input_ids"]) for example in examples)
    rows = [example["input_ids"] + [0] * (longest - len(example["input_ids"])) for example in examples]
    masks = [[1] * len(example["input_ids"]) + [0] * (longest - len(example["input_ids"])) for example in examples]
    labels = [example["labels"] for example in examples]
    return {
        "input_ids": torch.tensor(rows),
        "attention_mask": torch.tensor(masks),
        "labels": torch.tensor(labels),
    }


def make_model(method: str, data: Data, options: argparse.Namespace) -> PreTrainedModel:
    set_seed(options.seed)
    own = {"hidden_size": options.hidden_size, "num_layers": 2, "num_heads": 2, "max_history": options.max_history}
    if method == SASREC:
        return SASRecForNextItem(SASRecConfig(num_items=data.interactions.num_items, **own))
    if method == ITEM_LEVEL:
        own |= {"level_sizes": [options.codes] * options.levels, "content_size": options.content}
        model = ItemLevelForCausalLM(ItemLevelConfig(**own))
        model.set_catalogue(data.trie)
        return model
    sizes = {name: getattr(options, name) for name in ("d_model", "d_ff", "d_kv", "num_heads", "num_layers")}
    return UTGRecForConditionalGeneration(
        UTGRecConfig(
            level_sizes=[options.codes] * options.levels,
            causal_encoder=method == PACKED,
            max_history=options.max_history,
            dropout_rate=options.dropout,
            **sizes,
        )
    )


def rows_of_a_batch(method: str, data: Data, options: argparse.Namespace) -> int:
    """As many as hold `options.batch` targets."""
    return max(1, round(options.batch * data.num_rows(method) / len(data.windows)))


def make_trainer(method: str, data: Data, folder: str, options: argparse.Namespace) -> Trainer:
    values = {
        **TRAINING,
        "output_dir": folder,
        "per_device_train_batch_size": rows_of_a_batch(method, data, options),
        "seed": options.seed,
        "use_cpu": options.device == "cpu",
        "bf16": options.bf16,
        "dataloader_pin_memory": options.device != "cpu",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": [],
    }
    if options.to_equal_quality:
        values["num_train_epochs"] = options.epochs
    else:
        values["max_steps"] = options.steps * (options.repetitions + options.warmup)
    model, training = make_model(method, data, options), data.interactions.training_part()
    if method == SASREC:
        return SequentialTrainer(model, SequentialTrainingArguments(**values), training)
    if method == PLAIN:
        examples, arguments = data.examples(), Seq2SeqTrainingArguments(**values, remove_unused_columns=False)
        return Seq2SeqTrainer(model, arguments, train_dataset=examples, data_collator=pad)
    arguments = RecommenderTrainingArguments(**values, max_history=options.max_history)
    assert data.trie.content is not None
    return RecommenderTrainer(model, arguments, TrainingData(training, data.table, data.trie.content.numpy()))


class Turns(TrainerCallback):
    """Tells the parent how long the last turn's training took, and waits for the next turn."""

    def __init__(self, data: Data, options: argparse.Namespace):
        self.data, self.options = data, options
        self.began = 0.0

    def _wait(self) -> None:
        if sys.stdin.readline().strip() != "go":
            raise SystemExit
        self.began = timing.clock(self.options.device)

    def _report(self, **values) -> None:
        seconds = timing.clock(self.options.device) - self.began
        values |= {"seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
        if self.options.device != "cpu":
            values["peak_gpu_mb"] = torch.cuda.max_memory_allocated() / 2**20
        print(json.dumps(values), flush=True)

    def on_train_begin(self, args, state, control, **kwargs):
        self._report()
        self._wait()

    def on_step_end(self, args, state, control, **kwargs):
        if not self.options.to_equal_quality and state.global_step % self.options.steps == 0:
            self._report()
            self._wait()

    def on_epoch_end(self, args, state, control, model, **kwargs):
        if self.options.to_equal_quality:
            seconds = timing.clock(self.options.device) - self.began
            options = self.options
            ranker: Ranker
            if options.work == SASREC:
                ranker = SequentialRanker(model)
            else:
                ranker = GenerativeRanker(
                    model, self.data.trie, self.data.table, options.num_beams, max_history=options.max_history
                )
            result = evaluate(ranker, self.data.interactions, "validation", long_tail=False, ks=(10,))
            self._report(train_seconds=seconds, ndcg=result["ndcg@10"])
            self._wait()


def work(options: argparse.Namespace) -> None:
    """The process of one method."""
    data = Data(options)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(options.work, data, folder, options)
        trainer.add_callback(Turns(data, options))
        trainer.train()


class Worker:
    """A method's process, seen from the parent."""

    def __init__(self, method: str, argv: list[str]):
        command = [sys.executable, __file__, *argv, "--work", method]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.last = self._read()

    def _read(self) -> dict[str, float]:
        for line in self.process.stdout:
            if line.startswith('{"'):
                return json.loads(line)
        raise SystemExit(f"A method's process ended with {self.process.wait()}.")

    def turn(self) -> dict[str, float]:
        print("go", file=self.process.stdin, flush=True)
        self.last = self._read()
        return self.last

    def end(self) -> None:
        print("end", file=self.process.stdin, flush=True)
        self.process.stdin.close()
        self.process.stdout.read()
        self.process.wait()


def arithmetic(method: str, data: Data, options: argparse.Namespace) -> float:
    """FLOPs of forward and backward passes for one target, on average, without padding."""
    model, levels = make_model(method, data, options).eval(), options.levels
    if method in WHOLE_SEQUENCES:
        sizes = data.packed.bounds[:, 1] - data.packed.bounds[:, 0] - 1
        num_targets = data.packed.num_targets
    else:
        positions = data.windows.__getitems__(np.arange(len(data.windows)))
        sizes, num_targets = positions - data.windows.history_starts(positions), len(positions)
    total = 0.0
    for items, count in zip(*np.unique(sizes, return_counts=True), strict=True):
        input_ids = torch.full((1, int(items) * (1 if method == SASREC else levels)), 2)
        labels = input_ids if method in WHOLE_SEQUENCES else input_ids[:, :levels]
        inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "labels": labels}
        if method == ITEM_LEVEL:
            inputs["labels"] = torch.tensor(data.table[:1]).repeat(1, int(items))
            inputs["content"] = torch.ones(1, int(items), options.content)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
            model(**inputs)
        total += 3.0 * counter.get_total_flops() * int(count)
    return total / num_targets


def throughput(options: argparse.Namespace, argv: list[str], data: Data) -> dict[str, Any]:
    """Targets a second of each method."""
    workers = {method: Worker(method, argv) for method in options.methods}
    products, product_flops = timing.product(torch.bfloat16 if options.bf16 else torch.float32, options.device)
    seconds: dict[str, list[float]] = {name: [] for name in (*workers, *products)}
    for repetition in range(options.warmup + options.repetitions):
        for name, worker in workers.items():
            spent = worker.turn()["seconds"]
            if repetition >= options.warmup:
                seconds[name].append(spent)
        for name, product in products.items():
            start = timing.clock(options.device)
            product()
            seconds[name].append(timing.clock(options.device) - start)
    for worker in workers.values():
        worker.end()
    rate = product_flops / min(min(seconds[name]) for name in products)
    targets = {}
    for method in workers:
        rows = rows_of_a_batch(method, data, options)
        targets[method] = options.steps * rows * len(data.windows) / data.num_rows(method)
    print(timing.table(seconds, targets, "targets/s"))
    result = {
        "seconds": {name: timing.summary(times) for name, times in seconds.items()},
        "targets_per_second": {
            name: timing.significant(count / min(seconds[name])) for name, count in targets.items()
        },
        "peak_mb": {name: round(worker.last["peak_mb"]) for name, worker in workers.items()},
        "fraction_of_limit": {},
    }
    for method, count in targets.items():
        limit = rate / arithmetic(method, data, options)
        result["fraction_of_limit"][method] = timing.significant(count / min(seconds[method]) / limit)
    if PLAIN in targets:
        plain = result["targets_per_second"][PLAIN]
        result["speedup_over_plain"] = {
            name: timing.significant(value / plain)
            for name, value in result["targets_per_second"].items()
            if name != PLAIN
        }
    if ITEM_LEVEL in targets:
        ours = result["targets_per_second"][ITEM_LEVEL]
        result["item_level_speedup"] = {
            name: timing.significant(ours / value)
            for name, value in result["targets_per_second"].items()
            if name != ITEM_LEVEL
        }
    return result


def to_equal_quality(options: argparse.Namespace, argv: list[str]) -> dict[str, Any]:
    """Seconds of training until the validation is as good as the plain trainer's ever was."""
    workers = {method: Worker(method, argv) for method in options.methods}
    curves: dict[str, list[tuple[float, float]]] = {name: [] for name in workers}
    for epoch in range(options.epochs):
        for name, worker in workers.items():
            turn, before = worker.turn(), curves[name][-1][0] if curves[name] else 0.0
            curves[name].append((before + turn["train_seconds"], turn["ndcg"]))
        line = ", ".join(f"{name} {curve[-1][1]:.4f} ({curve[-1][0]:.1f} s)" for name, curve in curves.items())
        print(f"epoch {epoch + 1}: NDCG@10 of {line}", flush=True)
    for worker in workers.values():
        worker.end()
    goal = options.share_of_quality * max(ndcg for _, ndcg in curves[PLAIN])
    reached = {
        name: next((seconds for seconds, ndcg in curve if ndcg >= goal), None) for name, curve in curves.items()
    }
    return {
        "ndcg@10": {name: [timing.significant(ndcg) for _, ndcg in curve] for name, curve in curves.items()},
        "train_seconds": {name: [timing.significant(spent) for spent, _ in curve] for name, curve in curves.items()},
        "goal": timing.significant(goal),
        "seconds_to_goal": reached,
        "share_of_plain": {
            name: timing.significant(spent / reached[PLAIN]) for name, spent in reached.items() if spent is not None
        },
    }


def main(options: argparse.Namespace, argv: list[str]) -> dict[str, Any]:
    data = Data(options)
    lengths = np.diff(data.windows.offsets)
    result = {
        name: getattr(options, name) for name in ("data", "batch", "bf16", "d_model", "num_layers", "max_history")
    }
    result |= {"num_targets": len(data.windows), "mean_length": timing.significant(lengths.mean())}
    result |= timing.environment(options.device)
    start = time.perf_counter()
    if options.to_equal_quality:
        result |= to_equal_quality(options, argv)
    else:
        result |= throughput(options, argv, data)
    result["wall_seconds"] = timing.significant(time.perf_counter() - start)
    print(json.dumps(result))
    return result


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="Data folder; without one, the built-in catalogue.")
    parser.add_argument("--items", type=int, default=1000, help="Items of the built-in catalogue (%(default)s).")
    parser.add_argument("--users", type=int, default=3000, help="Its users (%(default)s).")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[PLAIN, WINDOWS, PACKED])
    parser.add_argument("--batch", type=int, default=256, help="Targets of a step (%(default)s).")
    parser.add_argument("--steps", type=int, default=2, help="Steps of a repetition (%(default)s).")
    parser.add_argument("--to_equal_quality", action="store_true", help="Train until the validation is equally good.")
    parser.add_argument("--epochs", type=int, default=20, help="Of the training to equal quality (%(default)s).")
    parser.add_argument("--share_of_quality", type=float, default=1.0, help="Of plain's best that counts as equal.")
    parser.add_argument("--num_beams", type=int, default=20, help="Of the validation (%(default)s).")
    parser.add_argument("--max_history", type=int, default=20, help="Items of a history (%(default)s).")
    parser.add_argument("--levels", type=int, default=3, help="Codes of a semantic ID (%(default)s).")
    parser.add_argument("--codes", type=int, default=256, help="Codes of a level (%(default)s).")
    for name, value in {"d_model": 128, "d_ff": 1024, "d_kv": 64, "num_heads": 6, "num_layers": 4}.items():
        parser.add_argument(f"--{name}", type=int, default=value, help="Of the T5 (%(default)s).")
    parser.add_argument("--hidden_size", type=int, default=128, help="Of item-level and SASRec (%(default)s).")
    parser.add_argument("--content", type=int, default=384, help="Width of content vectors (%(default)s).")
    parser.add_argument("--dropout", type=float, default=0.1, help="Of the T5 (%(default)s).")
    parser.add_argument("--bf16", action="store_true", help="Train in mixed precision.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repetitions", type=int, default=5, help="Turns that are timed (%(default)s).")
    parser.add_argument("--warmup", type=int, default=1, help="Turns before them (%(default)s).")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", choices=METHODS, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


if __name__ == "__main__":
    given = parse()
    if given.work:
        work(given)
    else:
        main(given, sys.argv[1:])
