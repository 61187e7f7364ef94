"""Building, growing and asking the trie of semantic IDs, beside the nested dictionary that is usual.

    python examples/benchmarks/trie.py --items 1000000                                  # 3 levels: 256, 512, 512 codes
    python examples/benchmarks/trie.py --items 10000000 --sizes 256 512 512 512 --no-dictionary

Asked is what one step of a beam search asks at each level: which children 64 users × 50 beams have, and which were
chosen. Rules: a mask of the whole catalogue, and 20 seen items for each user. The limit of building is the time of
reading the codes and writing the trie, at the rate of a copy measured in the same run; the sort is not in it. The last
line is one JSON object.
"""

import argparse
import json
import statistics
from typing import Any

import timing
import torch
from torch import Tensor

from modeling_utgrec import ItemTrie
from modeling_utgrec.generation_rules import ItemRules


def random_codes(num_items: int, sizes: list[int], generator: torch.Generator) -> Tensor:
    """Distinct random semantic IDs `[num_items, L]`."""
    capacity = torch.tensor(sizes).prod().item()
    if num_items > capacity:
        raise SystemExit(f"{num_items:,} items need more codes than {sizes}: raise --sizes.")
    numbers = torch.randint(capacity, (num_items,), generator=generator).unique()
    while len(numbers) < num_items:
        numbers = torch.cat((numbers, torch.randint(capacity, (num_items,), generator=generator))).unique()
    numbers = numbers[torch.randperm(len(numbers), generator=generator)[:num_items]]
    codes = torch.empty(num_items, len(sizes), dtype=torch.long)
    for level in reversed(range(len(sizes))):
        codes[:, level] = numbers % sizes[level]
        numbers = numbers // sizes[level]
    return codes


def nested_dictionary(codes: Tensor) -> dict:
    """The usual trie."""
    root: dict[int, dict] = {}
    for semantic_id in codes.tolist():
        node = root
        for code in semantic_id:
            node = node.setdefault(code, {})
    return root


def ask_dictionary(root: dict, prefixes: list[list[int]], size: int) -> Tensor:
    """Mask of the codes that may follow each prefix."""
    mask = torch.zeros(len(prefixes), size, dtype=torch.bool)
    for row, prefix in enumerate(prefixes):
        node = root
        for code in prefix:
            node = node[code]
        mask[row, list(node)] = True
    return mask


def main(options: argparse.Namespace) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(options.seed)
    sizes, device = options.sizes, torch.device(options.device)
    offsets = torch.tensor([2, *sizes[:-1]]).cumsum(0).tolist()
    every = random_codes(options.items + options.added, sizes, generator)
    codes, added = every[: options.items].to(device), every[options.items :].to(device)
    trie = ItemTrie(codes, sizes, offsets)

    rows = torch.randint(options.items, (options.batch, options.beams), generator=generator).to(device)
    path = trie.path(rows)
    nodes = [torch.zeros_like(rows), *path[:-1]]
    columns = [level.columns(nodes[depth], path[depth]) for depth, level in enumerate(trie.levels)]
    chosen = trie.codes_of(rows)
    mask = torch.rand(options.items, generator=generator).to(device) < 0.9
    seen = torch.randint(options.items, (options.batch, 20), generator=generator).to(device)

    def ask() -> None:
        for depth, level in enumerate(trie.levels):
            level.children(nodes[depth])
            level.child(nodes[depth], columns[depth])

    def ask_rules(rules: ItemRules) -> None:
        of_search = rules.start(options.batch)
        for depth in range(trie.num_levels):
            of_search.children(depth, nodes[depth])

    masked, excluding = ItemRules(trie, allow=mask), ItemRules(trie, deny=seen)
    methods = {
        "build": lambda: ItemTrie(codes, sizes, offsets),
        "add items": lambda: trie.add_items(added),
        "build with them": lambda: ItemTrie(torch.cat((codes, added)), sizes, offsets),
        "ask all levels": ask,
        "make rules from a mask": lambda: ItemRules(trie, allow=mask),
        "ask with a mask": lambda: ask_rules(masked),
        "ask with seen items": lambda: ask_rules(excluding),
    }
    if options.dictionary:
        dictionary = nested_dictionary(codes)
        prefixes = [chosen[..., :depth].flatten(0, 1).tolist() for depth in range(len(sizes))]
        methods["dictionary: build"] = lambda: nested_dictionary(codes)
        methods["dictionary: ask all levels"] = lambda: [
            ask_dictionary(dictionary, prefixes[depth], size) for depth, size in enumerate(sizes)
        ]
    copies, copied_bytes = timing.copy(device)
    seconds = timing.interleave({**methods, **copies}, options.repetitions, options.warmup, device)
    copy_rate = copied_bytes / min(seconds["copy"])
    limit = (codes.nbytes + trie.nbytes) / copy_rate
    print(timing.table(seconds, {"build": options.items, "add items": options.added}, "items/s"))
    per_item = trie.nbytes / options.items
    print(f"{trie.nbytes / 1e6:.1f} MB, {per_item:.1f} bytes an item; a copy: {copy_rate / 1e9:.1f} GB/s")

    def ratio(slow: str, fast: str) -> dict[str, float]:
        return {
            "min": timing.significant(min(seconds[slow]) / min(seconds[fast])),
            "median": timing.significant(statistics.median(seconds[slow]) / statistics.median(seconds[fast])),
        }

    result = {
        **{name: getattr(options, name) for name in ("items", "sizes", "added", "batch", "beams")},
        **timing.environment(device),
        "seconds": {name: timing.summary(times) for name, times in seconds.items()},
        "megabytes": timing.significant(trie.nbytes / 1e6),
        "dense_levels": [level.table is not None for level in trie.levels],
        "widest_nodes": [level.fan_out for level in trie.levels],
        "add_over_rebuild": ratio("build with them", "add items"),
        "build_fraction_of_limit": timing.significant(limit / min(seconds["build"])),
    }
    if options.dictionary:
        result["build_over_dictionary"] = ratio("dictionary: build", "build")
        result["ask_over_dictionary"] = ratio("dictionary: ask all levels", "ask all levels")
        masks = [trie.allowed(depth, nodes[depth]).flatten(0, 1).cpu() for depth in range(len(sizes))]
        asked = [ask_dictionary(dictionary, prefixes[depth], size) for depth, size in enumerate(sizes)]
        result["identical_results"] = all(map(torch.equal, masks, asked))
    print(json.dumps(result))
    return result


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000, help="Size of the catalogue (%(default)s).")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 512], help="Codes of each level.")
    parser.add_argument("--added", type=int, default=1000, help="Items that are added (%(default)s).")
    parser.add_argument("--batch", type=int, default=64, help="Users who ask (%(default)s).")
    parser.add_argument("--beams", type=int, default=50, help="Prefixes of each (%(default)s).")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--dictionary", action=argparse.BooleanOptionalAction, default=True, help="Compare with a dictionary."
    )
    parser.add_argument("--repetitions", type=int, default=5, help="Rounds that are timed (%(default)s).")
    parser.add_argument("--warmup", type=int, default=2, help="Rounds before them (%(default)s).")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse())
