"""A training step of sequential models whose histories are encoded in parts of like length, beside all rows at once.

    python examples/benchmarks/history_parts.py --data data/beauty
    python examples/benchmarks/history_parts.py --data data/beauty --max_history 50 --batch 256 --sampled

On a CPU padding costs as much as items, so a batch is encoded in parts ([`histories_by_length`]); loss and gradients
are those of the whole batch, up to rounding and the draw of dropout. Both ways are timed on the same batches, in turn,
with the authors' sizes and random content. The last line is one JSON object.
"""

import argparse
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import timing
import torch

from modeling_utgrec import SequentialForNextItem, encoding_parts
from tokenization_items import Catalogue
from trainers.data.interactions import Interactions
from trainers.methods.sequential_methods import SEQUENTIAL
from trainers.training_data.sequence_windows import SequenceCollator, SequenceWindows

METHODS = ("sasrec", "hstu", "gru4rec", "bert4rec", "fdsa", "unisrec", "missrec")
AT_ONCE = 2**62  # places of a part that no batch has


def make_model(name: str, num_items: int, options: argparse.Namespace) -> SequentialForNextItem:
    """A model with random weights and content."""
    torch.manual_seed(0)
    method = SEQUENTIAL[name]
    config = method.config_class(num_items=num_items, max_history=options.max_history)
    if hasattr(config, "content_size"):
        config.content_size = options.width
    if options.sampled and name not in ("bert4rec", "missrec"):
        config.loss = "sampled"
    model = method.model_class(config)
    content = torch.randn(num_items, options.width)
    if name == "missrec":
        model.set_items(text=content)
        number = model.config.num_interests
        model.set_interests(torch.randn(number, config.hidden_size), torch.randint(number, (num_items, 1)))
    elif hasattr(config, "content_size"):
        model.set_items(content=content)
    return model.train()


def steps(name: str, data: Interactions, options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """A step in both ways; each goes through the same batches."""
    model = make_model(name, data.num_items, options)
    windows = SequenceWindows(data.training_part(), model.training_targets, options.max_history)
    collate = SequenceCollator(windows, model.config)
    rng = np.random.default_rng(0)
    batches = [
        collate(windows.__getitems__(rng.choice(len(windows), options.batch)))
        for _ in range(options.repetitions + options.warmup)
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def way(most_places: int) -> Callable[[], None]:
        upcoming = iter(batches)

        def step() -> None:
            encoding_parts.MOST_PLACES = most_places
            model(**next(upcoming)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    return {"at once": way(AT_ONCE), "in parts": way(encoding_parts.MOST_PLACES)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="Folder of `utgrec prepare`.")
    parser.add_argument("--models", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--max_history", type=int, default=20, help="Last items of a history (%(default)s).")
    parser.add_argument("--batch", type=int, default=128, help="Rows of a step (%(default)s).")
    parser.add_argument("--sampled", action="store_true", help="Loss over sampled items, where the model has it.")
    parser.add_argument("--width", type=int, default=384, help="Of an embedding of content (%(default)s).")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--warmup", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = Interactions.from_folder(options.data, Catalogue.from_folder(options.data).item_ids)
    most_places, found = encoding_parts.MOST_PLACES, {}
    for name in options.models:
        seconds = timing.interleave(steps(name, data, options), options.repetitions, options.warmup)
        least = {way: timing.summary(each)["min"] for way, each in seconds.items()}
        found[name] = least | {"ratio": timing.significant(least["at once"] / least["in parts"], 3)}
        encoding_parts.MOST_PLACES = most_places
        print(f"{name}: {least['at once']} s at once, {least['in parts']} s in parts, {found[name]['ratio']} times")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
