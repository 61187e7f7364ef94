"""Tokenizing a catalogue with `UniversalItemTokenizer.compute_codes`, beside the loop that is usual.

    python examples/benchmarks/tokenizing.py                                  # texts as long as those of Amazon Office
    python examples/benchmarks/tokenizing.py --data data/office --backbone all-MiniLM-L6-v2 --items 400
    python examples/benchmarks/tokenizing.py --kinds images

The usual loop takes 16 items at a time, in the catalogue's order, pads all to the catalogue's longest item and has the
language model's head compute logits that are not used. Two methods between it and this package's show where the time
goes. The text encoder has the size of MiniLM (6 layers of width 384) and random weights, the multimodal one is a tiny
Qwen2-VL; images are JPEG files of 640 × 480 pixels. `--backbone` takes a folder or a Hub id of another one for the
first.

The limit is the arithmetic of each item alone, without padding, at the rate of a large matrix product measured in the
same run. Codes of all methods are compared: codebooks are made of the items, so that they tell items apart; an item
whose nearest two codes are as good as equally near may get the other one. The last line is one JSON object.
"""

import argparse
import io
import json
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import timing
import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import BertWordPieceTokenizer
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, set_seed

from modeling_utgrec import UTGRecTokenizerConfig, UTGRecTokenizerModel
from tokenization_items import Catalogue, ItemProcessor, UniversalItemTokenizer
from tokenization_items.caches import takes_states
from trainers.methods.backbones import load_backbone, tiny_backbone

NAIVE_BATCH = 16
MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
# Words of the items' texts in Amazon Office (5-core, 2014), measured: percentiles and their values.
PERCENTILES = [0, 1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99, 100]
WORDS = [6, 13, 16, 19, 25, 32, 50, 66, 83, 105, 149, 297, 523, 1091, 2297]
IMAGE_SIZE = 640, 480
# Most pixels that the tiny Qwen2-VL sees of an image.
PIXELS = 224 * 224
NAIVE, WITHOUT_LOGITS, SHORT_BATCHES, OURS = (
    "loop: 16 items, logits, longest item",
    "loop: without logits",
    "loop: padded to the batch",
    "compute_codes",
)


def drawn_texts(num_items: int, rng: np.random.Generator) -> list[str]:
    """Texts with the words of Amazon Office in number, and a vocabulary of Zipf's law."""
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(rng.choice(letters, size)) for size in rng.integers(2, 9, 5000)]
    shares = 1 / np.arange(1, len(words) + 1)
    lengths = np.interp(np.linspace(0, 100, num_items), PERCENTILES, WORDS).astype(int)
    return [" ".join(rng.choice(words, length, p=shares / shares.sum())) for length in lengths]


def spread_rows(texts: list[str], num_rows: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of texts in random order, with the lengths of all: evenly spaced among the texts by length."""
    by_length = np.argsort([len(text) for text in texts], kind="stable")
    chosen = np.linspace(0, len(texts) - 1, min(num_rows, len(texts))).astype(int)
    return rng.permutation(by_length[chosen])


def drawn_image(rng: np.random.Generator) -> bytes:
    """A JPEG file with a few shapes and some grain."""
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(IMAGE_SIZE)
    grain = rng.integers(-12, 13, (IMAGE_SIZE[1], IMAGE_SIZE[0], 1))
    pixels = np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def text_backbone(texts: list[str]) -> tuple[BertModel, PreTrainedTokenizerFast, None]:
    """A BERT of MiniLM's size with random weights, and a WordPiece tokenizer trained on the texts."""
    pieces = BertWordPieceTokenizer()
    pieces.train_from_iterator(texts, vocab_size=8000, show_progress=False)
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces._tokenizer, **special)
    # Wider than the usual 0.02: with random weights, rounding would else not tell items apart.
    return BertModel(BertConfig(**MINILM, initializer_range=0.2)), tokenizer, None


def make_tokenizer(backbone: tuple, catalogue: Catalogue, device: str, dtype: torch.dtype) -> UniversalItemTokenizer:
    """A tokenizer with random weights whose codebooks are residuals of the catalogue's items."""
    model, tokenizer, image_processor = backbone
    # no more codes than residuals: which of two equal codes is nearer is a matter of rounding
    sizes = {"root_codebook_size": min(256, len(catalogue)), "leaf_codebook_size": min(512, 2 * len(catalogue))}
    config = UTGRecTokenizerConfig(backbone_config=model.config, with_decoders=False, **sizes)
    network = UTGRecTokenizerModel(config, backbone=model).eval().to(device, dtype)
    processor = ItemProcessor.for_model(config, tokenizer, image_processor, instruct=image_processor is None)
    items = UniversalItemTokenizer.from_network(network, processor)
    _, residuals = items.compute_codes(catalogue)
    for number, codebook in enumerate(network.quantizer.codebooks):
        points = torch.from_numpy(residuals[:, network.quantizer.levels_of(number)]).flatten(0, 1)
        chosen = torch.linspace(0, len(points) - 1, len(codebook.codes)).long()
        codebook.set_vectors(points[chosen].to(device, dtype))
    return UniversalItemTokenizer.from_network(network, processor)


@torch.inference_mode()
def usual_loop(
    items: UniversalItemTokenizer, catalogue: Catalogue, logits: bool = True, to_longest: bool = True
) -> np.ndarray:
    """Codes of a catalogue, 16 items at a time."""
    network, processor = items.network, items.processor
    texts = processor.encode_texts(catalogue.texts)
    length = processor.prompt_length + max(len(text) for text in texts)
    if processor.image_processor is not None:
        length += processor.max_image_tokens + 2  # with the image's start and end
    head = network.get_input_embeddings().weight
    codes = []
    for start in range(0, len(texts), NAIVE_BATCH):
        rows, images = range(start, min(start + NAIVE_BATCH, len(texts))), None
        if processor.image_processor is not None:
            opened = [catalogue.image(row) for row in rows]
            images = [None if image is None else processor.encode_image(image) for image in opened]
        batch = processor.collate([texts[row] for row in rows], images)
        batch = {name: value.to(network.device) for name, value in batch.items()}
        if to_longest:
            padding = max(0, length - batch["input_ids"].shape[1])
            batch["input_ids"] = F.pad(batch["input_ids"], (0, padding), value=processor.pad_token_id)
            for name in batch.keys() & {"attention_mask", "mm_token_type_ids"}:
                batch[name] = F.pad(batch[name], (0, padding))
        states = network.backbone(**batch).last_hidden_state
        if logits:
            F.linear(states, head)
        hidden = states[batch["input_ids"] >= network.config.backbone_vocab_size]
        z = network.adapter(hidden.view(len(rows), network.config.num_levels, -1))
        codes.append(network.quantize(z).codes.cpu().numpy())
    return np.concatenate(codes)


@torch.no_grad()
def arithmetic(items: UniversalItemTokenizer, catalogue: Catalogue) -> float:
    """FLOPs of the network for each item alone."""
    processor, texts = items.processor, items.processor.encode_texts(catalogue.texts)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        for row, text in enumerate(texts):
            images = None
            if processor.image_processor is not None and catalogue.has_image(row):
                images = [processor.encode_image(catalogue.image(row))]
            batch = processor.collate([text], images)
            items.network(**{name: value.to(items.network.device) for name, value in batch.items()})
    return float(counter.get_total_flops())


def compare(items: UniversalItemTokenizer, catalogue: Catalogue, options: argparse.Namespace) -> dict[str, Any]:
    """Times all methods on one catalogue."""
    has_images, device, dtype = catalogue.images is not None, items.network.device, items.network.dtype
    ours = partial(items.compute_codes, catalogue, options.batch_tokens, progress=False, num_workers=options.workers)
    methods: dict[str, Callable[[], Any]] = {
        NAIVE: partial(usual_loop, items, catalogue),
        WITHOUT_LOGITS: partial(usual_loop, items, catalogue, logits=False),
        SHORT_BATCHES: partial(usual_loop, items, catalogue, logits=False, to_longest=False),
        OURS: ours,
    }
    with tempfile.TemporaryDirectory() as folder:
        if has_images:
            methods[f"{OURS}, no threads"] = partial(ours, num_workers=0)
            if takes_states(items.network.backbone):  # from transformers 5.17 on
                methods[f"{OURS}, cached features"] = partial(ours, feature_cache=folder)
        products, product_flops = timing.product(dtype, device)
        seconds = timing.interleave({**methods, **products}, options.repetitions, options.warmup, device)
        codes = {name: method() for name, method in methods.items()}
    found = codes[OURS][0]
    product_rate = product_flops / min(min(seconds[name]) for name in products)
    flops = arithmetic(items, catalogue)
    lengths = np.array([len(text) for text in items.processor.encode_texts(catalogue.texts)])
    rates = {name: timing.significant(len(catalogue) / min(seconds[name])) for name in methods}
    print(timing.table(seconds, dict.fromkeys(methods, float(len(catalogue))), "items/s"))
    limit = len(catalogue) * product_rate / flops
    print(
        f"text tokens: mean {lengths.mean():.0f}, longest {lengths.max()}; {flops / len(catalogue) / 1e9:.1f} GFLOP "
        f"an item at {product_rate / 1e9:.0f} GFLOP/s: at most {limit:.0f} items/s"
    )
    return {
        "items": len(catalogue),
        "images": int(catalogue.images.present.sum()) if has_images else 0,
        "text_tokens": {"mean": timing.significant(lengths.mean()), "longest": int(lengths.max())},
        "seconds": {name: timing.summary(times) for name, times in seconds.items()},
        "items_per_second": rates,
        "items_per_second_limit": timing.significant(limit),
        "fraction_of_limit": timing.significant(rates[OURS] / limit),
        "speedup": {
            name: timing.significant(min(seconds[name]) / min(seconds[OURS])) for name in methods if name != OURS
        },
        "equal_codes": {
            name: timing.significant(float((found == (other[0] if isinstance(other, tuple) else other)).all(1).mean()))
            for name, other in codes.items()
            if name != OURS
        },
        "distinct_codes": len(np.unique(found, axis=0)),
    }


def main(options: argparse.Namespace) -> dict[str, Any]:
    set_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    if options.data is None:
        texts = drawn_texts(options.items, rng)
        records = [{"item_id": str(row), "description": text} for row, text in enumerate(texts)]
        whole = Catalogue.from_records(records, name="drawn")
    else:
        whole = Catalogue.from_folder(options.data)
        records = [{"item_id": i, "description": text} for i, text in zip(whole.item_ids, whole.texts, strict=True)]
    rows = spread_rows(whole.texts, options.items, rng)
    result = {"data": whole.name, "dtype": options.dtype, "batch_tokens": options.batch_tokens}
    result |= timing.environment(options.device)
    for kind in options.kinds:
        if kind == "text":
            catalogue = Catalogue.from_records([records[row] for row in rows])
            given = options.backbone
            backbone = text_backbone(whole.texts) if given is None else load_backbone(given, image_pixels=PIXELS)
        else:
            rows = spread_rows(whole.texts, options.images, rng)
            catalogue = whole.select(rows)
            if whole.images is None:
                pictures = [drawn_image(rng) for _ in range(len(catalogue))]
                catalogue = Catalogue.from_records(
                    [{**records[row], "image": picture} for row, picture in zip(rows, pictures, strict=False)]
                )
            backbone = tiny_backbone(whole.texts, PIXELS)
        items = make_tokenizer(backbone, catalogue, options.device, getattr(torch, options.dtype))
        print(f"\n{kind}: {len(catalogue)} items of {whole.name}")
        result[kind] = compare(items, catalogue, options)
    print(json.dumps(result))
    return result


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="Data folder; without one, texts and images are drawn.")
    parser.add_argument("--kinds", nargs="+", choices=["text", "images"], default=["text", "images"])
    parser.add_argument("--backbone", help="Hub id or folder of the encoder for the texts.")
    parser.add_argument("--items", type=int, default=128, help="Items drawn from the data, at most (%(default)s).")
    parser.add_argument("--images", type=int, default=64, help="Items with images, at most (%(default)s).")
    parser.add_argument(
        "--batch_tokens",
        type=int,
        default=2048,
        help="Tokens of our batches (%(default)s; compute_codes has 8192 by default, for whole catalogues, in which "
        "neighbours by length are nearer to each other than in a sample).",
    )
    parser.add_argument("--workers", type=int, default=4, help="Threads that open images (%(default)s).")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repetitions", type=int, default=3, help="Rounds that are timed (%(default)s).")
    parser.add_argument("--warmup", type=int, default=1, help="Rounds before them (%(default)s).")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse())
