"""The codes that a network gives to a catalogue: batches without padding, over several processes, taken up again."""

import hashlib
import os
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import reduce
from tqdm.auto import tqdm
from transformers.utils import logging

from modeling_utgrec import UTGRecTokenizerModel
from modeling_utgrec.encoding_parts import length_batches
from tokenization_items.batching import BLOCK_ITEMS, blocks_of, prepared
from tokenization_items.caches import Features, FinishedShards, VisualFeatureCache, shards_of
from tokenization_items.catalogue import Catalogue, CatalogueError
from tokenization_items.domain_mean import rows_of_mean

if TYPE_CHECKING:
    from tokenization_items.processing_items import ItemProcessor

logger = logging.get_logger(__name__)

# Input tokens of one batch when tokenizing a catalogue: enough to keep two CPU cores busy, little enough for memory.
BATCH_TOKENS = 8192
# Threads that open images; Pillow decodes and resizes without holding the interpreter's lock.
NUM_WORKERS = 4
# Items whose codes processes exchange at a time.
ITEMS_EXCHANGED = 2**16


@dataclass(frozen=True)
class ImageInputs:
    """
    One item's image, ready for the network.

    Args:
        patches (`torch.Tensor` of shape `(patches, values)`, *optional*): not needed if there are features.
        grid (`torch.LongTensor` of shape `(3,)`): time, height and width in patches.
        digest (`str`, *optional*): of the image's content, if there is a cache.
        features (*optional*): what the cache has.
    """

    patches: torch.Tensor | None
    grid: torch.Tensor
    digest: str | None = None
    features: Features | None = None


@torch.inference_mode()
def codes_of_catalogue(
    network: UTGRecTokenizerModel,
    processor: "ItemProcessor",
    catalogue: Catalogue,
    fingerprint: str,
    batch_tokens: int = BATCH_TOKENS,
    num_workers: int = NUM_WORKERS,
    feature_cache: str | os.PathLike | None = None,
    resume_folder: str | os.PathLike | None = None,
    state: PartialState | None = None,
    progress: bool | None = None,
    block_items: int = BLOCK_ITEMS,
    mean_of: Callable[[Callable[[], np.ndarray], str], np.ndarray | None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """
    The codes that a network gives to items, before collisions are resolved.

    Items of like length share a batch, so that little is padded. Nothing but the items and the network influences the
    codes; batches and cached features change the residuals by rounding. No logits are computed, and no decoder runs.

    Args:
        network (`UTGRecTokenizerModel`): in evaluation mode.
        processor (`ItemProcessor`): the network's.
        catalogue (`Catalogue`): the items; images are opened as they are needed.
        fingerprint (`str`): of the network.
        batch_tokens (`int`, *optional*, defaults to `BATCH_TOKENS`): input tokens of one batch, with padding; an image
            counts as the largest one would.
        num_workers (`int`, *optional*, defaults to `NUM_WORKERS`): threads that open and resize images while the
            network computes; 0 for none.
        feature_cache (`str` or `os.PathLike`, *optional*): folder for what the vision tower makes of images, see
            [`VisualFeatureCache`].
        resume_folder (`str` or `os.PathLike`, *optional*): folder for the codes of finished parts, which a later call
            with the same items and network takes up, the same to the bit; what another network left is not found.
            Delete it when the codes are saved.
        state (`PartialState`, *optional*): with several processes, `PartialState()` or an `Accelerator`: each process
            tokenizes a share, and all get the whole. All must call this.
        progress (`bool`, *optional*): whether to show a bar; by default if the output is a terminal.
        block_items (`int`, *optional*, defaults to `BLOCK_ITEMS`): items among which those of like length are looked
            for.
        mean_of (`Callable`, *optional*): gives what a network with `centre_domains` takes off items' states, of a
            function that reads some of them, and of the name: [`~UniversalItemTokenizer.mean_of`].

    Returns:
        Codes, `int64 [items, num_levels]`, and the residuals that were quantized, `float32 [items, levels, dim]`.

    Raises:
        CatalogueError: if an image cannot be opened; the item is named.
    """
    texts = processor.encode_texts(catalogue.texts)
    images = catalogue if processor.image_processor is not None else None
    lengths = torch.from_numpy(processor.prompt_lengths(texts, catalogue))
    shards = shards_of(
        [
            block.start + rows.numpy()
            for block in blocks_of(len(texts), block_items)
            for rows in length_batches(lengths[block], batch_tokens)
        ]
    )
    if state is not None:
        shards = shards[state.process_index :: state.num_processes]
    codes = np.zeros((len(texts), network.config.num_levels), dtype=np.int64)
    residuals = np.zeros((*codes.shape, network.config.codebook_dim), dtype=np.float32)

    def states_of_some() -> np.ndarray:
        some = catalogue.select(rows_of_mean(len(catalogue)))
        return states_of_items(network, processor, some, batch_tokens, num_workers, feature_cache)

    mean = None if mean_of is None else mean_of(states_of_some, catalogue.name)
    rest = {}
    if mean is not None:
        shape = (1, -1, network.config.backbone_hidden_size)
        rest["domain_means"] = torch.from_numpy(mean).view(shape).to(network.device, network.dtype)

    finished, keys, num_finished = None, [""] * len(shards), 0
    if resume_folder is not None:
        told = [fingerprint, str(network.dtype), network.device.type]
        if mean is not None:
            told.append(hashlib.sha256(mean.tobytes()).hexdigest())
        finished = FinishedShards(resume_folder, told)
        keys = _keys(finished, shards, texts, images, num_workers)
        found = [finished.load_codes(key) for key in keys]
        for shard, arrays in zip(shards, found, strict=True):
            if arrays is not None:
                rows = np.concatenate(shard)
                codes[rows], residuals[rows] = arrays
                num_finished += len(rows)
        shards = [shard for shard, arrays in zip(shards, found, strict=True) if arrays is None]
        keys = [key for key, arrays in zip(keys, found, strict=True) if arrays is None]

    batches = _read(network, processor, catalogue, texts, chain.from_iterable(shards), num_workers, feature_cache)
    num_left = sum(len(rows) for shard in shards for rows in shard)
    hidden = None if progress is None else not progress
    if state is not None and not state.is_main_process:
        hidden = True
    bar = tqdm(total=num_finished + num_left, initial=num_finished, desc="Tokenizing", unit="item", disable=hidden)
    with bar, closing(batches):
        for shard, key in zip(shards, keys, strict=True):
            for rows, batch in islice(batches, len(shard)):
                output = network(**batch, **rest)
                codes[rows] = output.codes.cpu().numpy()
                residuals[rows] = output.residuals.float().cpu().numpy()
                bar.update(len(rows))
            if finished is not None:
                rows = np.concatenate(shard)
                finished.save_codes(key, codes[rows], residuals[rows])
    if state is not None and state.num_processes > 1:
        num_finished = _exchange(codes, residuals, num_finished, network.device)
    if num_finished and (state is None or state.is_main_process):
        logger.warning(f"{num_finished:,} of {len(texts):,} items were tokenized before, see {resume_folder}.")
    return codes, residuals


@torch.inference_mode()
def states_of_items(
    network: UTGRecTokenizerModel,
    processor: "ItemProcessor",
    catalogue: Catalogue,
    batch_tokens: int = BATCH_TOKENS,
    num_workers: int = NUM_WORKERS,
    feature_cache: str | os.PathLike | None = None,
) -> np.ndarray:
    """
    What a network's adapter reads of items, float32 `[items, input_dim]`, in an order of its own.

    Args:
        network, processor, catalogue, batch_tokens, num_workers, feature_cache: see [`codes_of_catalogue`].

    Raises:
        CatalogueError: if an image cannot be opened; the item is named.
    """
    texts = processor.encode_texts(catalogue.texts)
    lengths = torch.from_numpy(processor.prompt_lengths(texts, catalogue))
    batches = (rows.numpy() for rows in length_batches(lengths, batch_tokens))
    with closing(_read(network, processor, catalogue, texts, batches, num_workers, feature_cache)) as inputs:
        parts = [network.code_states(batch).flatten(1).float().cpu().numpy() for _, batch in inputs]
    return np.concatenate(parts) if parts else np.zeros((0, network.config.input_dim), np.float32)


def _read(
    network: UTGRecTokenizerModel,
    processor: "ItemProcessor",
    catalogue: Catalogue,
    texts: Sequence[Sequence[int]],
    batches: Iterable[np.ndarray],
    num_workers: int,
    feature_cache: str | os.PathLike | None,
) -> Generator[tuple[np.ndarray, dict[str, Any]], None, None]:
    """Batches of rows with their inputs of the network, made ready ahead of it."""
    images = catalogue if processor.image_processor is not None else None
    cache = None if feature_cache is None or images is None else VisualFeatureCache(feature_cache, network, processor)
    prepare = partial(_image_inputs, catalogue=images, processor=processor, cache=cache)
    with closing(prepared(prepare, batches, 0 if images is None else num_workers)) as ready:
        for rows, opened in ready:
            yield rows, _network_inputs(network, processor, cache, [texts[row] for row in rows], opened)


def _keys(
    finished: FinishedShards,
    shards: Sequence[Sequence[np.ndarray]],
    texts: Sequence[Sequence[int]],
    catalogue: Catalogue | None,
    num_workers: int,
) -> list[str]:
    """Names of shards. Reads the images' files, which takes a small part of the time that the network does."""

    def digest(row: int) -> str | None:
        return None if catalogue is None else catalogue.image_digest(row)

    digests = prepared(digest, map(np.concatenate, shards), 0 if catalogue is None else num_workers)
    return [
        finished.key(shard, ((texts[row], image) for row, image in zip(rows, images, strict=True)))
        for shard, (rows, images) in zip(shards, digests, strict=True)
    ]


def _image_inputs(
    row: int, catalogue: Catalogue | None, processor: "ItemProcessor", cache: VisualFeatureCache | None
) -> ImageInputs | None:
    """The image of an item, `None` for one without; runs in threads."""
    if catalogue is None or not catalogue.has_image(row):
        return None
    digest = None if cache is None else catalogue.image_digest(row)
    features = None if cache is None or digest is None else cache.load(digest)
    if features is not None:
        return ImageInputs(None, features["grid"], digest, features)
    image = catalogue.image(row)
    assert image is not None
    try:
        return ImageInputs(*processor.encode_image(image), digest)
    except ValueError as error:  # such as a side that is too many times the other
        raise CatalogueError(f"{catalogue.name}: item {catalogue.item_ids[row]!r}: {error}") from error


def _network_inputs(
    network: UTGRecTokenizerModel,
    processor: "ItemProcessor",
    cache: VisualFeatureCache | None,
    texts: Sequence[Sequence[int]],
    images: Sequence[ImageInputs | None],
) -> dict[str, Any]:
    """A batch on the network's device; with a cache the vision tower's states take the place of pixels."""
    given = [None if image is None else (image.patches, image.grid) for image in images]
    batch = {name: value.to(network.device) for name, value in processor.collate(texts, given).items()}
    present = [image for image in images if image is not None]
    if cache is None or not present:
        return batch
    new = [image for image in present if image.features is None]
    features = {image.digest: image.features for image in present if image.features is not None}
    if new:
        digests = [image.digest for image in new if image.digest is not None]  # with a cache all have one
        grids = torch.stack([image.grid for image in new])
        features |= zip(digests, cache.compute(digests, batch.pop("pixel_values"), grids), strict=True)
    return {**batch, "mm_encoder_outputs": {"image": cache.as_output([features[image.digest] for image in present])}}


def _exchange(codes: np.ndarray, residuals: np.ndarray, num_finished: int, device: torch.device) -> int:
    """Fills in what the other processes computed, and gives the items that all found finished. Of each item all
    processes but one hold zeros, so a sum over processes is exact."""
    for array in (codes, residuals):
        for start in range(0, len(array), ITEMS_EXCHANGED):
            part = torch.from_numpy(array[start : start + ITEMS_EXCHANGED]).to(device)
            array[start : start + ITEMS_EXCHANGED] = reduce(part, "sum").cpu().numpy()
    return int(reduce(torch.tensor(num_finished, device=device), "sum"))
