"""What a catalogue and a log of any size take, on paper: bytes, processor hours and device hours of each step.

    python examples/benchmarks/at_scale.py              # 1, 10, 100 million items; .1, 1, 10 billion interactions
    python examples/benchmarks/at_scale.py --items 1e9 --interactions 1e11 --memory 1024

Nothing is measured here: a constant stands beside the command that measured it (on two cores of an EPYC with AVX512),
or is said to be assumed. The output is Markdown.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

LEVELS = 4  # codes of an item
TOKENS = 400  # of an item's prompt
ITEM_FLOP = 2 * 1.31e9 * TOKENS + 2 * 0.67e9 * 324  # Qwen2-VL-2B's forward pass: language model, and tower of an image
GPU_FLOPS = 312e12 * 0.35  # of a GPU in bfloat16, at the share that is reached; assumed
GPU_TARGETS = 25 * 1024  # a second, of a recommender that is too small to fill a GPU; assumed
ROW_ITEMS, SIMILAR_ITEMS, WIDTH = 30, 30, 128  # of a memory

Formula = Callable[[float], float]


@dataclass(frozen=True)
class Step:
    """
    A step on the way from raw data to recommendations.

    Args:
        name (`str`): what it is.
        of (`str`): what it grows with, `"items"` (n) or `"interactions"` (I).
        how (`str`): its formulas.
        measured (`str`): where the constants come from.
        disk, held (`Callable`, *optional*): bytes on the disk, and those that one process holds.
        cores, device (`Callable`, *optional*): seconds of a core and of a GPU.
    """

    name: str
    of: Literal["items", "interactions"]
    how: str
    measured: str
    disk: Formula | None = None
    held: Formula | None = None
    cores: Formula | None = None
    device: Formula | None = None


STEPS = (
    Step(
        "semantic IDs: Qwen2-VL-2B",
        "items",
        f"device n · (2 · 1.31e9 · {TOKENS} + 2 · .67e9 · 324) FLOP / (312 TFLOP/s · .35); disk n · 4 · {LEVELS} · 128"
        " of residuals while it runs",
        "arithmetic; the share is assumed",
        disk=lambda n: n * 4 * LEVELS * 128,
        device=lambda n: n * ITEM_FLOP / GPU_FLOPS,
    ),
    Step(
        "or MiniLM on processors",
        "items",
        "cores n · .077 s",
        "`tokenizing.py --kinds text`: 26 items/s on two",
        cores=lambda n: n * 0.077,
    ),
    Step(
        "collisions, index: `tokenize --engine ray`",
        "items",
        f"disk n · (20 + 2 · {LEVELS} + 40 of ids and titles); cores n · 44 µs, as one machine, + 40 s",
        "`scale_catalogue.py`",
        disk=lambda n: n * (20 + 2 * LEVELS + 40),
        cores=lambda n: n * 44e-6 + 40,
    ),
    Step(
        "trie",
        "items",
        "held n · 18; cores n · .25 µs",
        "`trie.py --items 10000000`",
        held=lambda n: n * 18.2,
        cores=lambda n: n * 0.25e-6,
    ),
    Step(
        "similar items by faiss",
        "items",
        f"held n · (4 · {WIDTH} + 2 · {WIDTH} + 4 · {SIMILAR_ITEMS}); cores 142 s · (n / 1e6)^1.5",
        "`scale_memory.py --parts similar --items 1000000`",
        held=lambda n: n * (6 * WIDTH + 4 * SIMILAR_ITEMS),
        cores=lambda n: 142 * (n / 1e6) ** 1.5,
    ),
    Step(
        "memory in the search",
        "items",
        f"disk, held n · (6 · {ROW_ITEMS} + 8 + 4 · {SIMILAR_ITEMS} + 2 · {WIDTH})",
        "`scale_memory.py`: 188 n without content",
        disk=lambda n: n * (6 * ROW_ITEMS + 8 + 4 * SIMILAR_ITEMS + 2 * WIDTH),
        held=lambda n: n * (6 * ROW_ITEMS + 8 + 4 * SIMILAR_ITEMS + 2 * WIDTH),
    ),
    Step(
        "log: `prepare --engine ray`",
        "interactions",
        "disk I · (28 + 86 while it runs); held by a worker .9 GB; cores I · 11.5 µs",
        "`preparation.py --engine ray`",
        disk=lambda i: i * (28 + 86),
        held=lambda i: 0.92e9,
        cores=lambda i: i * 11.5e-6,
    ),
    Step(
        "log read by one process",
        "interactions",
        "held I · 125 + .5 GB of libraries (assumed); cores I · 1.2 µs",
        "`preparation.py --program read`, of 3.7 million",
        held=lambda i: i * 125 + 0.5e9,
        cores=lambda i: i * 1.2e-6,
    ),
    Step(
        "counts of a memory, by one process",
        "interactions",
        "held I · 64 + 1 GB; cores I · 2.4 µs",
        "`scale_memory.py --items 10000000 --interactions 100000000`",
        held=lambda i: i * 64 + 1.07e9,
        cores=lambda i: i * 2.35e-6,
    ),
    Step(
        "corpus that is streamed",
        "interactions",
        "disk I · 4; held .8 GB; cores I · .37 µs",
        "`preparation.py --program corpus`, of 3.7 million",
        disk=lambda i: i * 4,
        held=lambda i: 0.8e9,
        cores=lambda i: i * 0.37e-6,
    ),
    Step(
        "an epoch of the recommender",
        "interactions",
        "device I / (25 · 1,024) s",
        "assumed, as in `pretrain_paper.sh`",
        device=lambda i: i / GPU_TARGETS,
    ),
)


def amount(value: float | None, unit: float, name: str) -> str:
    """`"1.2 GB"`; of few hours seconds, `"–"` for nothing."""
    if not value:
        return "–"
    if unit == 3600 and value < 100:
        return f"{value:.2g} {name.replace('h', 's')}"
    shown = value / unit
    return f"{shown:,.0f} {name}" if shown >= 10 else f"{shown:.2g} {name}"


def of_step(step: Step, size: float) -> str:
    """Disk, memory, processor and device hours of a step in a cell; what is nothing is left out."""
    named = (
        (step.disk, 1e9, "GB disk"),
        (step.held, 1e9, "GB held"),
        (step.cores, 3600, "core h"),
        (step.device, 3600, "GPU h"),
    )
    return ", ".join(amount(formula(size), unit, name) for formula, unit, name in named if formula is not None)


def table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def short(size: float) -> str:
    """`"10 million"`."""
    return f"{size / 1e9:g} billion" if size >= 1e9 else f"{size / 1e6:g} million"


def steps_of(kind: str, sizes: Sequence[float]) -> str:
    """What the steps take that grow with one of the two."""
    rows = [
        [step.name, *(of_step(step, size) for size in sizes), step.how, step.measured]
        for step in STEPS
        if step.of == kind
    ]
    return table(rows, ["step", *(f"{short(size)} {kind}" for size in sizes), "formulas", "constants"])


def broken(items: float, interactions: float, memory: float) -> list[str]:
    """Steps of which one process would hold more than a machine has, what holds most first."""
    held = {}
    for step in STEPS:
        if step.held is not None:
            held[step.name] = step.held(items if step.of == "items" else interactions)
    over = [name for name in held if held[name] > memory]
    return sorted(over, key=lambda name: -held[name])


def totals(items: Sequence[float], interactions: Sequence[float], memory: float) -> str:
    """Sums of all steps, and what breaks."""
    rows = []
    for n in items:
        for i in interactions:
            sums = [
                sum(
                    formula(n if step.of == "items" else i)
                    for step in STEPS
                    if (formula := getattr(step, name)) is not None and step.name != "or MiniLM on processors"
                )
                for name in ("disk", "cores", "device")
            ]
            over = broken(n, i, memory)
            cells = [amount(sums[0], 1e12, "TB"), amount(sums[1], 3600, "h"), amount(sums[2], 3600, "h")]
            rows.append([short(n), short(i), *cells, "; ".join(over) or "nothing"])
    head = ["items", "interactions", "disk", "processors", "GPU", f"does not fit in {memory / 1e9:g} GB"]
    return table(rows, head)


def main(options: argparse.Namespace) -> str:
    text = "\n\n".join(
        [
            steps_of("items", options.items),
            steps_of("interactions", options.interactions),
            totals(options.items, options.interactions, options.memory * 1e9),
        ]
    )
    print(text)
    return text


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=float, nargs="+", default=[1e6, 1e7, 1e8])
    parser.add_argument("--interactions", type=float, nargs="+", default=[1e8, 1e9, 1e10])
    parser.add_argument("--memory", type=float, default=128, help="Of a machine, in GB (%(default)s).")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse())
