r"""What the codes of an item tokenizer keep of the items' images.

    utgrec pretrain --stage tokenizer --config small --data ml100k --output_dir runs/films
    python examples/benchmarks/images.py --tokenizer runs/films/tokenizer --config small --data ml100k

The image loss (UTGRec, Eq. 9) of the items with an image, the same noise for each row: reconstructed from an item's
own codes, from those of another item, and from the mean of all items' representations; beside it that of the mean
image, which needs no training: of latents that are normally distributed around the mean of their place, with the
variance of their place, the noise of a step with signal ᾱ is predicted best with an error of ᾱσ²/(ᾱσ² + 1 - ᾱ),
whatever the image. Below that line, and below that of another item's codes, the codes tell images apart.

Then the codes of items with another item's image in place of their own, and with none, the text as it is: how many
change, by level. The last line is one JSON object.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from hub_cards.formatting import markdown_table
from modeling_utgrec import UTGRecTokenizerModel
from tokenization_items.catalogue import Catalogue
from tokenization_items.processing_items import ItemProcessor
from tokenization_items.tokenization_items import UniversalItemTokenizer
from trainers.arguments import parse_sections
from trainers.methods.utgrec import SECTIONS, image_targets
from trainers.training_data.image_latents import ImageLatents

BATCH = 64


@dataclass
class ImageArguments:
    tokenizer: str = field(metadata={"help": "Folder of an item tokenizer that was trained with images."})
    data: str = field(metadata={"help": "Data folder with items and images."})
    draws: int = field(default=8, metadata={"help": "Draws of noise and step for each place of an image."})
    seed: int = field(default=0, metadata={"help": "Of the noise, and of which other item stands in."})


def mean_image_loss(latents: np.ndarray, signal: torch.Tensor) -> float:
    """
    Error of the best prediction of the noise that knows nothing but mean and variance of each place.

    Args:
        latents (`np.ndarray`): `[images, channels, size, size]`.
        signal (`torch.Tensor`): ᾱ of each step, of which each is as likely.
    """
    variance = torch.from_numpy(latents.astype(np.float64).var(axis=0)).flatten()[:, None]
    signal = signal.double()
    return float((signal * variance / (signal * variance + 1 - signal)).mean())


def representations(tokenizer: UniversalItemTokenizer, catalogue: Catalogue) -> tuple[torch.Tensor, np.ndarray]:
    """What the decoders read of each item, its quantized representation, and the codes `[items, levels]`."""
    processor, network = tokenizer.loaded_processor, tokenizer.network
    assert isinstance(processor, ItemProcessor) and isinstance(network, UTGRecTokenizerModel)
    texts, found, codes = processor.encode_texts(catalogue.texts), [], []
    for start in range(0, len(catalogue), BATCH):
        rows = range(start, min(start + BATCH, len(catalogue)))
        pictures = [catalogue.image(row) for row in rows]
        images = [None if each is None else processor.encode_image(each) for each in pictures]
        inputs: dict[str, Any] = processor.collate([texts[row] for row in rows], images)
        output = network.quantize(network.encode(**inputs))
        assert output.quantized is not None and output.codes is not None
        found.append(output.quantized)
        codes.append(output.codes.numpy())
    return torch.cat(found), np.concatenate(codes)


def image_losses(
    network: UTGRecTokenizerModel, own: torch.Tensor, latents: ImageLatents, arguments: ImageArguments
) -> dict[str, float]:
    """The image loss from each kind of representation, the same noise for all."""
    assert network.expand is not None and network.image_decoder is not None
    rows = np.flatnonzero(latents.rows >= 0)
    targets, _ = latents.batch(rows)
    own = own[rows]
    order = torch.from_numpy(np.random.default_rng(arguments.seed).permutation(len(rows)))
    another = torch.empty_like(own)
    another[order] = own[order.roll(1)]  # nobody's own, if there are two
    network.image_decoder.repeats = arguments.draws
    losses = {}
    for name, read in {"own": own, "another item's": another, "mean": own.mean(0).expand_as(own)}.items():
        torch.manual_seed(arguments.seed)
        hidden = network.expand(read)
        parts = [
            (float(network.image_decoder.loss(hidden[start : start + BATCH], targets[start : start + BATCH])), size)
            for start in range(0, len(rows), BATCH)
            for size in [len(targets[start : start + BATCH])]
        ]
        losses[name] = sum(loss * size for loss, size in parts) / len(rows)
    return losses


def changed(codes: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """Shares of the items whose codes differ: all of them, and by level."""
    differs = codes != others
    return {"any": float(differs.any(1).mean())} | {
        f"level {level + 1}": float(share) for level, share in enumerate(differs.mean(0))
    }


@torch.inference_mode()
def run(
    arguments: ImageArguments, tokenizer: UniversalItemTokenizer, latents: ImageLatents, catalogue: Catalogue
) -> dict[str, object]:
    """Measures a tokenizer on the items of a catalogue that have an image."""
    network = tokenizer.network.eval()
    assert isinstance(network, UTGRecTokenizerModel)
    if network.image_decoder is None:
        raise SystemExit(f"{arguments.tokenizer} was trained without images, or saved without its decoders.")
    if network.config.centre_domains:
        raise SystemExit(f"{arguments.tokenizer} reads items without the mean of their domain: not measured here.")
    assert catalogue.images is not None
    signal = network.image_decoder.diffusion.scheduler.alphas_cumprod
    hidden, codes = representations(tokenizer, catalogue)
    losses = image_losses(network, hidden, latents, arguments)
    losses["mean image"] = mean_image_loss(latents.latents, signal)
    shifted = np.roll(np.arange(len(catalogue)), 1)
    swapped = replace(catalogue, images=catalogue.images.select(shifted))
    moved = {
        "another item's": changed(codes, representations(tokenizer, swapped)[1]),
        "none": changed(codes, representations(tokenizer, replace(catalogue, images=None))[1]),
    }
    return {"data": catalogue.name, "items": len(catalogue), "image_loss": losses, "codes_changed": moved}


def main(argv: Sequence[str] | None = None) -> None:
    arguments, network, _, _, _ = parse_sections(ImageArguments, SECTIONS, __doc__ or "", argv)
    tokenizer = UniversalItemTokenizer.from_pretrained(arguments.tokenizer)
    template = tokenizer.loaded_processor.template
    whole = Catalogue.from_folder(arguments.data, tokenizer.text_fields, template=template)
    catalogue = whole.select([row for row in range(len(whole)) if whole.has_image(row)])
    latents = image_targets(catalogue, network) if len(catalogue) else None
    if latents is None:
        raise SystemExit(f"{arguments.data}: no images, or no --tokenizer.autoencoder, and so no image loss.")
    line = run(arguments, tokenizer, latents, catalogue)
    losses, moved = line["image_loss"], line["codes_changed"]
    assert isinstance(losses, dict) and isinstance(moved, dict)
    print(markdown_table([{"image loss from the codes of": name, "": f"{loss:.4f}"} for name, loss in losses.items()]))
    rows = [{"image": name} | {key: f"{share:.1%}" for key, share in each.items()} for name, each in moved.items()]
    print(markdown_table(rows))
    print(json.dumps(line))


if __name__ == "__main__":
    main()
