"""A step of the training of UTGRec's item tokenizer: seconds, memory, share of the arithmetic limit, and loss curves.

    python examples/benchmarks/tokenizer_training.py --data data/office --backbone all-MiniLM-L6-v2
    python examples/benchmarks/tokenizer_training.py --data data/office --steps 60 --plot curves.png

Methods, each in a process of its own, one after the other, on the same pairs with the same seeds:

- *whole*: all prompts of a step at once, padded to the longest; the backbone's own dropout of attention weights, for
  which torch's attention on a CPU keeps whole matrices; every text token reconstructed. float32;
- *parts*: the defaults of `ItemTokenizerTrainer`: prompts in parts of like length, those beyond `--state_gigabytes`
  read twice, no dropout of attention weights, 64 tokens of each text reconstructed. float32;
- *parts-bf16*: the same in bfloat16, for processors that multiply matrices in it.

Seconds are the medians of the steps but the first two; tokens are those of prompts, without padding. The limit is the
arithmetic of one pass forward and backward without padding, at the rate of a large matrix product in the method's
precision, measured in the same process. Peak memory is the resident set of the process, with the libraries. Losses are
means of the last half of the steps, with their standard errors; `--plot` draws all. The last line is one JSON object.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import timing
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback

from trainers.data.domains import Domain
from trainers.item_tokenizer_trainer import ItemTokenizerTrainer, ItemTokenizerTrainingArguments
from trainers.methods.utgrec import NetworkArguments, build_network, joint_catalogue
from trainers.runtime.callbacks import WarmupCallback
from trainers.training_data.item_pairs import ItemPairs

WHOLE, PARTS, BF16 = METHODS = ("whole", "parts", "parts-bf16")
OWN_DROPOUT = 0.1  # of attention weights in BERT and its kin
SKIPPED = 2  # steps that warm up
LOSSES = ("loss", "loss/text", "loss/alignment", "loss/co_text")


def main() -> None:
    options = parse()
    if options.work:
        print(json.dumps(work(options)))
        return
    results: dict[str, Any] = {}
    for method in options.methods:
        command = [sys.executable, __file__, *sys.argv[1:], "--work", method]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            print(f"{method}: ended with {done.returncode}" + (", killed" if done.returncode == -9 else ""))
            continue
        results[method] = json.loads(done.stdout.splitlines()[-1])
        shown = {name: value for name, value in results[method].items() if name != "curves"}
        print(method, json.dumps(shown), flush=True)
    if options.plot:
        plot({name: result["curves"] for name, result in results.items()}, options.plot)
    for result in results.values():
        del result["curves"]
    result = {"pairs": options.pairs, "methods": results, **timing.environment("cpu")}
    if WHOLE in results:
        for name in ("seconds", "processor_seconds", "peak_gb"):
            whole = results[WHOLE][name]
            result[f"{name}_ratio"] = {
                method: timing.significant(whole / each[name]) for method, each in results.items() if method != WHOLE
            }
    print(json.dumps(result))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--data", required=True, help="folder with items and interactions")
    parser.add_argument("--backbone", default="sentence-transformers/all-MiniLM-L6-v2", help="Hub id or folder")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--pairs", type=int, default=32, help="of items, in a step")
    parser.add_argument("--steps", type=int, default=6, help="of the training")
    parser.add_argument("--text_tokens", type=int, default=256, help="where texts are cut")
    parser.add_argument("--text_labels", type=int, default=64, help="text tokens that a step reconstructs, in parts")
    parser.add_argument("--state_gigabytes", type=float, help="for the backbone's states, in parts")
    parser.add_argument("--codebook_dim", type=int, default=128)
    parser.add_argument("--warmup", type=int, default=300, help="steps in which decoders see unquantized vectors")
    parser.add_argument("--learning_rate", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", help="picture of the losses")
    parser.add_argument("--work", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.steps <= SKIPPED:
        parser.error(f"--steps: more than {SKIPPED}, got {options.steps}")
    return options


class Steps(TrainerCallback):
    """Seconds of each step: of the clock, and of the processor's cores."""

    def __init__(self) -> None:
        self.seconds: list[tuple[float, float]] = []

    def on_step_begin(self, args, state, control, **kwargs):
        self.began = time.perf_counter(), time.process_time()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds.append((time.perf_counter() - self.began[0], time.process_time() - self.began[1]))


def work(options: argparse.Namespace) -> dict[str, Any]:
    """The process of one method."""
    method, dtype = options.work, torch.bfloat16 if options.work == BF16 else torch.float32
    products, flops = timing.product(dtype, "cpu")
    rate = flops / min(min(times) for times in timing.interleave(products, 5, 1).values())
    domain = Domain.from_folder(options.data, check_images=False)
    arguments = NetworkArguments(
        backbone=options.backbone,
        autoencoder="none",
        max_text_tokens=options.text_tokens,
        codebook_dim=options.codebook_dim,
        attention_dropout=OWN_DROPOUT if method == WHOLE else 0.0,
    )
    network, processor = build_network(arguments, domain.catalogue, None, options.seed)
    catalogue, graph = joint_catalogue([domain])
    pairs = ItemPairs(catalogue, graph, processor, seed=options.seed)
    limits: dict[str, Any] = {"text_labels": options.text_labels, "state_gigabytes": options.state_gigabytes}
    if method == WHOLE:
        limits = {"text_labels": 0, "state_gigabytes": 1e6, "prompt_tokens": 2**40}
    with tempfile.TemporaryDirectory() as folder:
        training = ItemTokenizerTrainingArguments(
            folder,
            per_device_train_batch_size=options.pairs,
            max_steps=options.steps,
            learning_rate=options.learning_rate,
            codebook_warmup_steps=options.warmup,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            seed=options.seed,
            bf16=method == BF16,
            use_cpu=True,
            **limits,
        )
        trainer = ItemTokenizerTrainer(network, training, pairs)
        steps, tokens = Steps(), Tokens(pairs)
        trainer.data_collator = tokens
        trainer.add_callback(steps)
        trainer.remove_callback(WarmupCallback)  # the steps are those of a longer training
        trainer.train()
    curves = {
        name: [entry[name] for entry in trainer.state.log_history if name in entry and "epoch" in entry]
        for name in LOSSES
    }
    per_token = arithmetic(network, pairs, options)
    counted = tokens.counts[SKIPPED : options.steps]
    seconds, processor_seconds = (statistics.median(values) for values in zip(*steps.seconds[SKIPPED:], strict=True))
    a_step = statistics.mean(counted)
    return {
        "seconds": timing.significant(seconds),
        "processor_seconds": timing.significant(processor_seconds),
        "tokens_per_second": timing.significant(a_step / seconds),
        "fraction_of_limit": timing.significant(per_token * a_step / rate / seconds),
        "gflops_of_a_product": timing.significant(rate / 1e9),
        "peak_gb": timing.significant(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9),
        "losses": {name: mean_and_error(values[len(values) // 2 :]) for name, values in curves.items() if values},
        "curves": curves,
    }


class Tokens:
    """A collator that counts the tokens of prompts."""

    def __init__(self, pairs: ItemPairs):
        self.pairs = pairs
        self.counts: list[int] = []

    def __call__(self, batch: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
        collated = self.pairs.collate(batch)
        self.counts.append(int(collated["attention_mask"].sum()))
        return collated


def arithmetic(network, pairs: ItemPairs, options: argparse.Namespace) -> float:
    """FLOPs of forward and backward passes for a token of a prompt, on average, of one pair without padding."""
    network.most_tokens = None
    flops, tokens = 0.0, 0
    for row in range(0, len(pairs), max(1, len(pairs) // 8)):
        batch = pairs.collate([pairs[row]])
        tokens += int(batch["attention_mask"].sum())
        for name in ("anchor_items", "positive_items"):
            del batch[name]
        with FlopCounterMode(display=False) as counter:
            network(**batch).loss.backward()
        flops += counter.get_total_flops()
    return flops / tokens


def mean_and_error(values: list[float]) -> list[float]:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return [timing.significant(statistics.mean(values)), timing.significant(error, 2)]


def plot(curves: dict[str, dict[str, list[float]]], path: str) -> None:
    """Losses over the steps, a picture for each."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(LOSSES), figsize=(4 * len(LOSSES), 3))
    for axis, name in zip(axes, LOSSES, strict=True):
        for method, losses in curves.items():
            axis.plot(losses[name], label=method, linewidth=1)
        axis.set_title(name)
        axis.set_xlabel("step")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
