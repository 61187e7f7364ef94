"""Latency of an item-level recommender in onnxruntime beside torch, as ratios.

    python examples/benchmarks/onnx_latency.py
    python examples/benchmarks/onnx_latency.py --items 100000 --batch 1 8 64 --content_size 0

A model with random weights (the default configuration, histories of 20 items, content vectors unless their size is 0)
is exported as by `utgrec export --format onnx`. Timed are the network that reads histories, and `recommend` as a
whole, whose search over the trie is the same for both. Above 1, onnxruntime takes longer. The last line is one JSON
object.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import timing
import torch
from trie import random_codes

from modeling_utgrec import ItemLevelConfig, ItemLevelForCausalLM
from tokenization_items.item_index import ItemIndex
from tokenization_items.tokenization_items import UniversalItemTokenizer
from trainers.hub.onnx_export import export_onnx
from trainers.rankers.onnx_item_level import OnnxItemLevel


def make_recommender(options: argparse.Namespace) -> tuple[ItemLevelForCausalLM, UniversalItemTokenizer]:
    """A model with random weights and its items."""
    torch.manual_seed(options.seed)
    config = ItemLevelConfig(content_size=options.content_size or None, hidden_size=options.width)
    index = ItemIndex(config.level_sizes or [], config.level_offsets)
    codes = random_codes(options.items, config.level_sizes, torch.Generator().manual_seed(options.seed))
    shape = options.items, options.content_size
    content = np.random.default_rng(0).normal(size=shape).astype(np.float32) if options.content_size else None
    index.assign([str(row) for row in range(options.items)], codes.numpy(), content=content)
    tokenizer = UniversalItemTokenizer(index, None, config.max_history)
    model = ItemLevelForCausalLM(config).eval()
    model.set_catalogue(tokenizer.trie)
    return model, tokenizer


def main(options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    model, tokenizer = make_recommender(options)
    with tempfile.TemporaryDirectory(prefix="utgrec-onnx-") as scratch:
        export_onnx(model, tokenizer, Path(scratch) / "onnx")
        exported = OnnxItemLevel.from_folder(Path(scratch) / "onnx", threads=options.threads)
    generator = np.random.default_rng(options.seed)
    seconds: dict[str, list[float]] = {}
    result: dict[str, Any] = {"items": options.items, "width": options.width, "content": options.content_size}
    for batch in options.batch:
        rows = generator.integers(0, options.items, size=(batch, model.config.max_history))
        inputs = tokenizer([[str(row) for row in each] for each in rows], return_tensors="pt")
        tokens = inputs["input_ids"].unflatten(1, (-1, model.config.num_levels))
        mask = torch.ones_like(tokens[..., 0])
        content = None
        if options.content_size:
            content = tokenizer.trie.content[torch.from_numpy(rows)].float()
        methods = {}
        for name, network in (("torch", model), ("onnxruntime", exported)):
            methods[f"batch {batch}, history, {name}"] = lambda network=network, given=(tokens, mask, content): encode(
                network, *given
            )
            methods[f"batch {batch}, recommend, {name}"] = lambda network=network, given=inputs: network.recommend(
                **given, trie=tokenizer.trie, num_items=10, num_beams=options.beams
            )
        timed = timing.interleave(methods, options.repetitions, options.warmup)
        seconds |= timed
        for part in ("history", "recommend"):
            pair = [timed[f"batch {batch}, {part}, {name}"] for name in ("onnxruntime", "torch")]
            result[f"batch {batch}, {part}, onnxruntime / torch"] = {
                "min": timing.significant(min(pair[0]) / min(pair[1])),
                "median": timing.significant(statistics.median(pair[0]) / statistics.median(pair[1])),
            }
        states = [encode(network, tokens, mask, content) for network in (model, exported)]
        result[f"batch {batch}, largest difference"] = float((states[0] - states[1]).abs().max())
    print(timing.table(seconds, {}, ""))
    result |= timing.environment("cpu") | {"threads": options.threads}
    print(json.dumps(result))
    return result


@torch.no_grad()
def encode(network: ItemLevelForCausalLM, *inputs: torch.Tensor | None) -> torch.Tensor:
    """States of histories."""
    return network.encode_items(*inputs, residual_rows=None)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000, help="Size of the catalogue (%(default)s).")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64], help="Users at once.")
    parser.add_argument("--beams", type=int, default=50, help="Width of the search (%(default)s).")
    parser.add_argument("--width", type=int, default=128, help="Width of the model (%(default)s).")
    parser.add_argument("--content_size", type=int, default=64, help="Of content vectors; 0: none (%(default)s).")
    parser.add_argument("--threads", type=int, default=1, help="Of torch and onnxruntime each (%(default)s).")
    parser.add_argument("--repetitions", type=int, default=20, help="Rounds that are timed (%(default)s).")
    parser.add_argument("--warmup", type=int, default=5, help="Rounds before them (%(default)s).")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse())
