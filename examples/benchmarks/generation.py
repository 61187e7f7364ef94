"""Users per second of constrained generation, beside transformers' `generate` with three ways to constrain it.

    python examples/benchmarks/generation.py --items 25000 --batch 64 --beams 50 --dtype float32
    python examples/benchmarks/generation.py --items 10000 1000000 --methods recommend    # growth with the catalogue
    python examples/benchmarks/generation.py --items 10000 1000000 --methods recommend item-level
    python examples/benchmarks/generation.py --batch 1 --methods recommend item-level     # of one user

A T5 of TIGER's size with random weights (d 128, 4 + 4 layers, 6 heads of 64, 3 × 256 codes) and histories of 20 items.
With several numbers of items, `generate` runs on the first of them. The arithmetic limit is the time of the products
that the search cannot do without, at the rate of the fastest large product measured in the same run (or of the bytes
that it must move, at the rate of a copy, if that takes longer). On a CPU, `recommend` is measured with the switch
UTGREC_FAST_CPU off, as everybody has it, and on (`modeling_utgrec.fast_cpu`). In other types than float32 it is told
how many of the items that `recommend` and `generate` find are those of float32. *item-level* is an item-level
recommender of the same width with content vectors, on the same items. The last line is one JSON object.
"""

import argparse
import copy
import json
import os
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import timing
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList
from trie import random_codes

from modeling_utgrec import (
    ItemLevelConfig,
    ItemLevelForCausalLM,
    ItemLogitsProcessor,
    ItemTrie,
    UTGRecConfig,
    UTGRecForConditionalGeneration,
)
from modeling_utgrec.generation_rules import ItemRules

METHODS = (
    "recommend",
    "recommend, seen excluded",
    "recommend, 99 % denied",
    "score given items",
    "recommend, UTGREC_FAST_CPU=1",
)
ITEM_LEVEL = "item-level"
GENERATE = ("generate, prefix_allowed_tokens_fn", "generate, vectorised processor", "generate, hash map")


def following_tokens(trie: ItemTrie) -> dict[tuple[int, ...], list[int]]:
    """For each prefix of token ids the tokens that may follow, as a dictionary."""
    following: dict[tuple[int, ...], set[int]] = {}
    for tokens in (trie.codes + torch.tensor(trie.level_offsets)).tolist():
        for level, token in enumerate(tokens):
            following.setdefault(tuple(tokens[:level]), set()).add(token)
    return {prefix: sorted(tokens) for prefix, tokens in following.items()}


class HashMapProcessor(LogitsProcessor):
    """The usual processor: a look-up of each beam's prefix in a hash map."""

    def __init__(self, following: dict[tuple[int, ...], list[int]]):
        self.following = {prefix: torch.tensor(tokens) for prefix, tokens in following.items()}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        mask = torch.full_like(scores, -torch.inf)
        for row, tokens in enumerate(input_ids[:, 1:].tolist()):
            mask[row, self.following.get(tuple(tokens), [0])] = 0
        return scores + mask


def arithmetic(
    config: UTGRecConfig, batch: int, length: int, rows: list[int], element_size: int
) -> tuple[float, float]:
    """
    FLOPs of the products and bytes moved by a search that does nothing twice.

    Args:
        rows: rows of the decoder at each step, such as users, users × beams, users × beams.
    """
    model, inner, hidden = config.d_model, config.num_heads * config.d_kv, config.d_ff
    feed_forward = 2 * model * hidden * (3 if config.is_gated_act else 2)
    attention = 4 * 2 * model * inner
    encoder = batch * length * config.num_layers * (attention + feed_forward + 2 * 2 * length * inner)
    cross = batch * length * config.num_decoder_layers * 2 * 2 * model * inner
    decoder, moved = 0.0, 0.0
    for step, count in enumerate(rows):
        cross_attention = 2 * 2 * model * inner + 2 * 2 * length * inner
        self_attention = attention + 2 * 2 * (step + 1) * inner
        decoder += count * config.num_decoder_layers * (self_attention + cross_attention + feed_forward)
        decoder += count * 2 * model * config.vocab_size
        # keys and values of the histories are read, those of the beams written and the beams' own prefixes read
        moved += config.num_decoder_layers * 2 * inner * (batch * length + count * (step + 2))
    moved += config.num_decoder_layers * 2 * inner * batch * length
    return encoder + cross + decoder, moved * element_size


def distinct_prefixes(trie: ItemTrie, rows: Tensor) -> list[int]:
    """Number of distinct prefixes of each length from 0 that the items `[B, C]` of a user have, over all users."""
    edges = [torch.zeros_like(rows), *trie.path(rows)[:-1]]
    return [len(rows) + int((each.sort(dim=1).values.diff(dim=1) > 0).sum()) for each in edges]


def make_item_level(t5: UTGRecForConditionalGeneration, options: argparse.Namespace) -> ItemLevelForCausalLM:
    """An item-level recommender with random weights, of a T5's width and for its codes."""
    config = ItemLevelConfig(
        level_sizes=t5.config.level_sizes,
        hidden_size=t5.config.d_model,
        max_history=options.history,
        content_size=options.content,
    )
    return ItemLevelForCausalLM(config).eval().to(t5.device, t5.dtype)  # type: ignore[arg-type]


def make_methods(
    model: UTGRecForConditionalGeneration, tries: list[ItemTrie], batch: dict[str, Tensor], options: argparse.Namespace
) -> dict[str, Callable[[], Any]]:
    """What to time, by name."""
    trie, device = tries[0], model.device
    search = partial(model.recommend, **batch, trie=trie, num_items=options.num_items, num_beams=options.beams)
    generator = torch.Generator().manual_seed(options.seed)
    seen = torch.randint(trie.num_items, (options.batch, options.history), generator=generator).to(device)
    candidates = torch.randint(trie.num_items, (options.batch, options.candidates), generator=generator).to(device)
    kinds = torch.rand(4, trie.num_items, generator=generator) < 0.01
    rules = ItemRules(trie, allow=kinds).select(torch.arange(options.batch) % 4)
    generate = partial(
        model.generate,
        **batch,
        num_beams=options.beams,
        num_return_sequences=options.num_items,
        min_new_tokens=trie.num_levels,
        length_penalty=0.0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    chosen = {name for each in options.methods for name in (*METHODS, *GENERATE) if name.startswith(each)}
    following = following_tokens(trie) if chosen & {GENERATE[0], GENERATE[2]} else {}
    makers = {
        METHODS[0]: lambda: search,
        METHODS[1]: lambda: partial(search, exclude=seen),
        METHODS[2]: lambda: partial(search, rules=rules),
        METHODS[3]: lambda: partial(model.score_items, **batch, trie=trie, candidates=candidates),
        METHODS[4]: lambda: mock.patch.dict(os.environ, UTGREC_FAST_CPU="1")(search),
        GENERATE[0]: lambda: partial(
            generate, prefix_allowed_tokens_fn=lambda _, tokens: following.get(tuple(tokens[1:].tolist()), [0])
        ),
        GENERATE[1]: lambda: partial(generate, logits_processor=LogitsProcessorList([ItemLogitsProcessor(trie)])),
        GENERATE[2]: lambda: partial(generate, logits_processor=LogitsProcessorList([HashMapProcessor(following)])),
    }
    methods = {name: make() for name, make in makers.items() if name in chosen}
    if ITEM_LEVEL in options.methods:
        for each in tries:
            network = make_item_level(model, options)  # one each: it keeps the nodes' vectors of one catalogue
            search_items = partial(network.recommend, **batch, num_items=options.num_items, num_beams=options.beams)
            name = ITEM_LEVEL if each is trie else f"{ITEM_LEVEL}, {each.num_items:,} items"
            methods[name] = partial(search_items, trie=each)
    for each in tries[1:]:
        methods[f"recommend, {each.num_items:,} items"] = partial(search, trie=each)
    if device.type != "cpu":
        methods.pop(METHODS[4], None)
    return methods


def constraint_share(method: Callable[[], Any], trie: ItemTrie, repetitions: int) -> float:
    """Median share of a search that goes into the trie."""
    spent = 0.0
    device = trie.device

    def timed(function):
        def call(*arguments):
            nonlocal spent
            start = timing.clock(device)
            result = function(*arguments)
            spent += timing.clock(device) - start
            return result

        return call

    shares = []
    for level in trie.levels:
        level.children, level.child = timed(level.children), timed(level.child)
    for _ in range(repetitions):
        spent, start = 0.0, timing.clock(device)
        method()
        shares.append(spent / (timing.clock(device) - start))
    for level in trie.levels:
        del level.children, level.child
    return statistics.median(shares)


def compare(recommended: Any, generated: Any, trie: ItemTrie) -> dict[str, Any]:
    """Whether both found the same items with the same scores (to 1e-4; items of equal scores may change places)."""
    rows = recommended.item_rows.flatten()
    tokens = trie.codes_of(rows) + torch.tensor(trie.level_offsets, device=rows.device)
    equal = (tokens == generated.sequences[:, 1:]).all(1) | (rows < 0)
    difference = (recommended.scores.flatten() - generated.sequences_scores.float()).abs()
    difference = difference[rows >= 0]
    gaps = recommended.scores.diff(dim=1).abs()
    before = torch.nn.functional.pad(gaps, (1, 0), value=torch.inf)
    after = torch.nn.functional.pad(gaps, (0, 1), value=0.0)  # the last may tie with one that is not in the list
    is_tie = torch.minimum(before, after).flatten() < 1e-4
    return {
        "identical_results": bool((difference < 1e-4).all() and (equal | is_tie).all()),
        "equal_items": timing.significant(equal.float().mean().item()),
        "largest_score_difference": timing.significant(difference.max().item()),
    }


def items_of_float32(
    model: UTGRecForConditionalGeneration, trie: ItemTrie, batch: dict[str, Tensor], rows: Tensor, options: Any
) -> float:
    """Share of `rows` `[B, K]`, items that a search in less precision found, which the search in float32 finds too."""
    exact = copy.deepcopy(model).float()
    found = exact.recommend(**batch, trie=trie, num_items=options.num_items, num_beams=options.beams).item_rows
    return timing.significant((rows[:, :, None] == found[:, None]).any(2).float().mean().item())


def generated_rows(generated: Any, trie: ItemTrie, num_items: int) -> Tensor:
    """Items `[B, num_items]` of the sequences of `generate`."""
    codes = generated.sequences[:, 1:] - torch.tensor(trie.level_offsets, device=generated.sequences.device)
    return trie.find(codes.view(-1, num_items, trie.num_levels))


@mock.patch.dict(os.environ, UTGREC_FAST_CPU="0")
def main(options: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(options.seed)
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    config = UTGRecConfig(level_sizes=[options.codes] * options.levels)
    model = UTGRecForConditionalGeneration(config).eval().to(device, dtype)
    generator = torch.Generator().manual_seed(options.seed)
    sizes, offsets = config.level_sizes, config.level_offsets
    tries = []
    for items in options.items:
        codes = random_codes(items, sizes, generator)
        content = None
        if ITEM_LEVEL in options.methods:
            content = torch.randn(items, options.content, generator=generator, dtype=torch.float32).half()
        tries.append(ItemTrie(codes, sizes, offsets, content=content).to(device))
    histories = torch.randint(tries[0].num_items, (options.batch, options.history), device=device)
    input_ids = (tries[0].codes_of(histories) + torch.tensor(offsets, device=device)).flatten(1)
    batch = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}

    methods = make_methods(model, tries, batch, options)
    products, product_flops = timing.product(dtype, device)
    copies, copied_bytes = timing.copy(device)
    seconds = timing.interleave({**methods, **products, **copies}, options.repetitions, options.warmup, device)

    rows = [options.batch * min(options.beams, tries[0].num_nodes(depth)) for depth in range(options.levels)]
    flops, moved = arithmetic(config, options.batch, input_ids.shape[1], rows, dtype.itemsize)
    product_rates = {name: product_flops / min(seconds[name]) for name in products}
    product_rate = max(product_rates.values())
    copy_rate = copied_bytes / min(seconds["copy"])
    limit = max(flops / product_rate, moved / copy_rate)
    work = dict.fromkeys(methods, float(options.batch))
    print(timing.table(seconds, work, "users/s"))
    print(
        f"arithmetic: {flops / 1e9:.1f} GFLOP at {product_rate / 1e9:.0f} GFLOP/s, {moved / 1e6:.0f} MB at "
        f"{copy_rate / 1e9:.1f} GB/s: at most {options.batch / limit:.0f} users/s"
    )
    result = {
        **{name: getattr(options, name) for name in ("items", "batch", "beams", "dtype", "num_items", "history")},
        "level_sizes": config.level_sizes,
        **timing.environment(device),
        "seconds": {name: timing.summary(times) for name, times in seconds.items()},
        "users_per_second": {name: timing.significant(options.batch / min(seconds[name])) for name in methods},
        "users_per_second_limit": timing.significant(options.batch / limit),
    }
    scoring = methods.get("score given items")
    if scoring is not None:
        prefixes = distinct_prefixes(tries[0], scoring.keywords["candidates"])
        scoring_flops = arithmetic(config, options.batch, input_ids.shape[1], prefixes, dtype.itemsize)[0]
        result["scoring"] = {
            "candidates": options.candidates,
            "distinct_prefixes_per_user": timing.significant(sum(prefixes) / options.batch),
            "fraction_of_limit": timing.significant(scoring_flops / product_rate / min(seconds["score given items"])),
        }
    if "recommend" in methods:
        ours = seconds["recommend"]
        result["fraction_of_limit"] = timing.significant(limit / min(ours))
        result["fraction_of_limit_by_product"] = {
            name: timing.significant(flops / rate / min(ours)) for name, rate in product_rates.items()
        }
        result["constraint_share"] = timing.significant(
            constraint_share(methods["recommend"], tries[0], options.repetitions)
        )
        baselines = [name for name in GENERATE if name in methods]
        if baselines:
            fastest = min(baselines, key=lambda name: min(seconds[name]))
            theirs = seconds[fastest]
            result["speedup_over_generate"] = timing.significant(min(theirs) / min(ours))
            if METHODS[4] in methods:
                result["speedup_over_generate_fast_cpu"] = timing.significant(min(theirs) / min(seconds[METHODS[4]]))
                print(
                    f"recommend is {result['speedup_over_generate']} times as fast as {fastest!r}, with "
                    f"UTGREC_FAST_CPU=1 {result['speedup_over_generate_fast_cpu']} times"
                )
            result["speedup_of_medians"] = timing.significant(statistics.median(theirs) / statistics.median(ours))
            recommended, generated = methods["recommend"](), methods[fastest]()
            result |= compare(recommended, generated, tries[0])
            if dtype != torch.float32:
                found = {"recommend": recommended.item_rows}
                found[fastest] = generated_rows(generated, tries[0], options.num_items)
                result["items_of_float32"] = {
                    name: items_of_float32(model, tries[0], batch, each, options) for name, each in found.items()
                }
                print(f"share of the items of float32: {result['items_of_float32']}")
        if len(tries) > 1:
            names = [
                "recommend",
                *(name for name in methods if name.startswith("recommend") and name.endswith(" items")),
            ]
            result["growth"] = {name: timing.significant(min(seconds[name]) / min(ours)) for name in names}
        if ITEM_LEVEL in methods:
            result["item_level_speedup"] = timing.significant(min(ours) / min(seconds[ITEM_LEVEL]))
    if ITEM_LEVEL in methods:
        result["item_level_milliseconds"] = timing.significant(1000 * min(seconds[ITEM_LEVEL]))
        names = [name for name in methods if name.startswith(ITEM_LEVEL)]
        first = min(seconds[ITEM_LEVEL])
        result["item_level_growth"] = {name: timing.significant(min(seconds[name]) / first) for name in names}
    print(json.dumps(result))
    return result


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[25_000], help="Sizes of the catalogue.")
    parser.add_argument("--batch", type=int, default=64, help="Users at a time (%(default)s).")
    parser.add_argument("--beams", type=int, default=50, help="Width of the beam (%(default)s).")
    parser.add_argument("--num_items", type=int, default=10, help="Items for each user (%(default)s).")
    parser.add_argument("--history", type=int, default=20, help="Items of a history (%(default)s).")
    parser.add_argument("--candidates", type=int, default=1000, help="Items to score for each user (%(default)s).")
    parser.add_argument("--levels", type=int, default=3, help="Codes of a semantic ID (%(default)s).")
    parser.add_argument("--codes", type=int, default=256, help="Codes of a level (%(default)s).")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--methods",
        nargs="+",
        default=["recommend", "score", "generate"],
        help="Beginnings of names: recommend, score, generate; or item-level.",
    )
    parser.add_argument("--content", type=int, default=384, help="Width of item-level's content (%(default)s).")
    parser.add_argument("--repetitions", type=int, default=7, help="Rounds that are timed (%(default)s).")
    parser.add_argument("--warmup", type=int, default=3, help="Rounds before them (%(default)s).")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse())
