r"""Cost of an item memory in a search, beside the search of the network alone, for catalogues of several sizes.

    python examples/benchmarks/memory.py                                   # 10,000, 25,000 and 1,000,000 items, T5
    python examples/benchmarks/memory.py --model qwen3 --items 25000 --batch 1
    # with rules, at 10 million items: 90 % of them in stock, what a user has seen left out
    python examples/benchmarks/memory.py --model item-level --items 10000 10000000 --in_stock 0.9 \
        --row_items 30 --similar_items 30 --content_width 32

Weights, semantic IDs, histories and the memory's rows are random: they do not move the time. Items that a user has
seen are never returned; the rule of what is in stock is made once for all users. Seconds are those of the process'
cores, of which other work on the machine takes less away than of the clock's. The last line is one JSON object.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import timing
import torch
from trie import random_codes

from modeling_utgrec import (
    ItemLevelConfig,
    ItemLevelForCausalLM,
    ItemMemory,
    ItemRules,
    ItemTrie,
    MemoryContent,
    MemorySettings,
    RecBaseConfig,
    RecBaseForCausalLM,
    UTGRecConfig,
    UTGRecForConditionalGeneration,
)
from modeling_utgrec.generation_mixin import ItemRecommendation


def random_memory(num_items: int, options: argparse.Namespace, generator: torch.Generator) -> ItemMemory:
    """Rows of random items with random weights."""

    def rows(kept: int) -> tuple[torch.Tensor, torch.Tensor]:
        items = torch.randint(num_items, (num_items, kept), generator=generator, dtype=torch.int32)
        return items, torch.rand(num_items, kept, generator=generator).half()

    counts = torch.randint(50, (num_items,), generator=generator)
    settings = MemorySettings(content_weight=0.02, evidence=30.0, repeat_weight=-10.0)
    vectors = torch.randn(num_items, options.content_width, generator=generator).half()
    similar_items, _ = rows(options.similar_items)
    content = MemoryContent(similar_items, vectors, torch.zeros(1), torch.zeros(1, options.content_width))
    return ItemMemory(*rows(options.row_items), counts, settings, content)


def make_model(options: argparse.Namespace) -> ItemRecommendation:
    torch.manual_seed(options.seed)
    if options.model == "t5":
        return UTGRecForConditionalGeneration(UTGRecConfig(level_sizes=options.sizes)).eval()
    if options.model == "item-level":
        return ItemLevelForCausalLM(ItemLevelConfig(level_sizes=options.sizes)).eval()
    return RecBaseForCausalLM(RecBaseConfig.tiny(level_sizes=options.sizes)).eval()


def core_seconds(
    methods: dict[str, Callable[[], Any]], repetitions: int, warmup: int, device: torch.device
) -> dict[str, list[float]]:
    """As [`timing.interleave`], in seconds of the process' cores; of a GPU by the clock."""
    if device.type != "cpu":
        return timing.interleave(methods, repetitions, warmup, device)
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for repetition in range(warmup + repetitions):
        for name, method in methods.items():
            start = time.process_time()
            method()
            if repetition >= warmup:
                seconds[name].append(time.process_time() - start)
    return seconds


def main(options: argparse.Namespace) -> dict[str, Any]:
    device = torch.device(options.device)
    model = make_model(options).to(device)  # type: ignore[arg-type]
    offsets = torch.tensor(model.config.level_offsets)
    methods: dict[str, Callable[[], Any]] = {}
    sizes: dict[int, float] = {}
    lengths = torch.randint(5, options.history + 1, (options.batch,), generator=torch.Generator().manual_seed(1))
    kept = torch.arange(options.history) < lengths[:, None]
    mask = kept.repeat_interleave(len(options.sizes), dim=1).long()
    for num_items in options.items:
        generator = torch.Generator().manual_seed(options.seed)
        trie = ItemTrie(random_codes(num_items, options.sizes, generator), options.sizes, model.config.level_offsets)
        memory = random_memory(num_items, options, generator)
        sizes[num_items] = memory.nbytes / num_items
        rows = torch.randint(num_items, (options.batch, options.history), generator=generator)
        in_stock = torch.rand(num_items, generator=generator) < options.in_stock
        rules = ItemRules(trie.to(device), allow=in_stock) if options.in_stock < 1 else None
        tokens = (trie.codes_of(rows) + offsets).flatten(1) * mask
        recommend = partial(
            model.recommend,
            tokens.to(device),
            mask.to(device),
            trie.to(device) if rules is None else rules.trie,
            rules=rules,
            num_beams=options.beams,
            exclude=rows.masked_fill(~kept, -1).to(device),
        )
        methods[f"network, {num_items:,} items"] = recommend
        methods[f"with memory, {num_items:,} items"] = partial(recommend, memory=memory.to(device))
    seconds = core_seconds(methods, options.repetitions, options.warmup, device)
    print(timing.table(seconds, dict.fromkeys(methods, options.batch), "users/s"))

    def median(kind: str, num_items: int) -> float:
        return statistics.median(seconds[f"{kind}, {num_items:,} items"])

    cost = {size: median("with memory", size) / median("network", size) - 1 for size in options.items}
    least, most = min(options.items), max(options.items)
    growth = median("with memory", most) / median("with memory", least) - 1
    print(*(f"{size:,} items: {share:.1%} for the memory" for size, share in cost.items()), sep="\n")
    print(f"{most:,} over {least:,} items: {growth:.1%} more time; {sizes[most]:.0f} bytes an item")
    names = ("model", "sizes", "batch", "beams", "history", "row_items", "similar_items", "content_width", "in_stock")
    result = {
        **{name: getattr(options, name) for name in names},
        **timing.environment(device),
        "core_seconds": {name: timing.summary(times) for name, times in seconds.items()},
        "cost_of_memory": {str(size): timing.significant(share) for size, share in cost.items()},
        "growth": timing.significant(growth),
        "bytes_an_item": timing.significant(sizes[most]),
    }
    print(json.dumps(result))
    return result


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", choices=("t5", "qwen3", "item-level"), default="t5", help="The network (%(default)s)."
    )
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 25_000, 1_000_000], help="Catalogues.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 256, 256], help="Codes of each level.")
    parser.add_argument("--row_items", type=int, default=100, help="Transitions of an item (%(default)s).")
    parser.add_argument("--similar_items", type=int, default=100, help="Items alike in content (%(default)s).")
    parser.add_argument("--content_width", type=int, default=128, help="Numbers of a content vector (%(default)s).")
    parser.add_argument("--batch", type=int, default=64, help="Users at a time (%(default)s).")
    parser.add_argument("--beams", type=int, default=50, help="Beams (%(default)s).")
    parser.add_argument("--history", type=int, default=20, help="Longest history (%(default)s).")
    parser.add_argument("--in_stock", type=float, default=1.0, help="Share of the items; 1: no rule (%(default)s).")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repetitions", type=int, default=7, help="Rounds that are timed (%(default)s).")
    parser.add_argument("--warmup", type=int, default=2, help="Rounds before them (%(default)s).")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse())
