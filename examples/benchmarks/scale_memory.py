"""An item memory of a large catalogue: counted transitions in bounded memory, and items alike in content.

    python examples/benchmarks/scale_memory.py                                  # a tenth of a million items
    python examples/benchmarks/scale_memory.py --items 10000000 --interactions 100000000 --row_items 30
    python examples/benchmarks/scale_memory.py --parts similar --items 1000000  # faiss, with the share that it finds

Interactions are generated: users with 10 items each, the next item near to the last one or a popular one. Content is
vectors around 300 directions. Peak memory is the process', with the data themselves. The last line is one JSON object.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import timing
import torch
from linear import walks

from modeling_utgrec.memory_content import nearest_items
from trainers.methods.memory import build_memory
from trainers.methods.similar_items import find_similar_items
from trainers.rankers.linear import LinearSettings


def measured(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What a function gives; seconds, those of the cores, and the process' peak memory until then."""
    clock, cores = time.perf_counter(), time.process_time()
    result = work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    seconds = {"seconds": time.perf_counter() - clock, "core_seconds": time.process_time() - cores}
    return result, {name: timing.significant(value) for name, value in (seconds | {"peak_gigabytes": peak}).items()}


def counts(options: argparse.Namespace) -> dict[str, Any]:
    """The memory's transitions by counts."""
    training, made = measured(lambda: walks(options.items, options.interactions, options.seed))
    linear = LinearSettings(transitions="counts")
    stored, built = measured(lambda: build_memory(training, None, linear, row_items=options.row_items))
    filled = (stored.memory.transition_items >= 0).sum().item() / options.items
    return {
        "data": made,
        "memory": built,
        "bytes_an_item": timing.significant(stored.memory.nbytes / options.items),
        "transitions_an_item": timing.significant(filled),
        "keeps_pairs": stored.pairs is not None,
    }


def similar(options: argparse.Namespace) -> dict[str, Any]:
    """Items alike in content by faiss, and the share of the exact ones."""
    generator = torch.Generator().manual_seed(options.seed)
    centres = torch.randn(300, options.content_width, generator=generator)
    unit = torch.randn(options.items, options.content_width, generator=generator)
    unit += centres[torch.randint(300, (options.items,), generator=generator)]
    unit /= unit.norm(dim=1, keepdim=True)
    found, searched = measured(lambda: find_similar_items(unit, options.similar_items, most_exact=0))
    asked = torch.randperm(options.items, generator=generator)[:1000]
    exact, one_by_one = measured(lambda: nearest_items(unit[asked], unit, options.similar_items)[0])
    rows = zip(exact.numpy(), found[asked].numpy(), strict=True)
    share = np.mean([len(np.intersect1d(*pair)) for pair in rows]) / exact.shape[1]
    of_all = one_by_one["core_seconds"] * options.items / len(asked)
    return {
        "faiss": searched,
        "share_found": timing.significant(float(share)),
        "core_seconds_of_all_cosines": timing.significant(of_all),
    }


def main(options: argparse.Namespace) -> dict[str, Any]:
    names = ("items", "interactions", "row_items", "similar_items", "content_width", "seed")
    result: dict[str, Any] = timing.environment("cpu") | {name: getattr(options, name) for name in names}
    for name, part in (("counts", counts), ("similar", similar)):
        if name in options.parts:
            result[name] = part(options)
            print(name, json.dumps(result[name], indent=2))
    print(json.dumps(result))
    return result


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("counts", "similar"), default=["counts"])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--interactions", type=int, default=1_000_000)
    parser.add_argument("--row_items", type=int, default=100, help="Transitions of an item (%(default)s).")
    parser.add_argument("--similar_items", type=int, default=100, help="Items alike in content (%(default)s).")
    parser.add_argument("--content_width", type=int, default=128, help="Numbers of a content vector (%(default)s).")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse())
