"""Embeddings of items by a frozen encoder: computed once into a folder, and read from it in the order asked for.

A folder holds `embeddings.safetensors` (tensor "embeddings", float32 [n, E]), `item_ids.json` (the items in the order
of the rows) and `embeddings.json` (how they were made). Whatever has one vector for each item is written so: texts,
images, and a trained recommender's item embeddings.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hub_cards import named, replacing
from tokenization_items.catalogue import Catalogue
from tokenization_items.files import check_writable, read_json_object, read_strings
from tokenization_items.image_encoders import ImageEncoder
from tokenization_items.text_encoders import TextEncoder, TextSettings
from tokenization_items.text_statistics import TF_IDF, TextStatistics

EMBEDDINGS_NAME = "embeddings.safetensors"
IDS_NAME = "item_ids.json"
RECORD_NAME = "embeddings.json"
FORMAT_VERSION = 1
COMPARABLE = ("pooling", "normalize", "prefix", "lower_case")  # settings without which vectors do not compare


class ContentEmbeddings(NamedTuple):
    """
    One vector for each item of a domain, and where they come from.

    Args:
        item_ids (`Sequence[str]`): the items.
        embeddings (`np.ndarray` of shape `(items, E)`): their vectors.
        encoder (`dict`, *optional*): `name`, `fingerprint` and `settings` of the text encoder, if they are known.
        without_text (`Sequence[str]`): items of which nothing but the template's introduction was embedded.
        name (`str`): of the domain, for error messages.
    """

    item_ids: Sequence[str]
    embeddings: np.ndarray
    encoder: dict[str, Any] | None = None
    without_text: Sequence[str] = ()
    name: str = "items"

    def check(self, zeros: bool = False) -> None:
        """
        Looks for items that cannot be tokenized.

        Args:
            zeros (`bool`, *optional*, defaults to `False`): whether vectors may be zero.

        Raises:
            EmbeddingError: If items and rows differ in number, an item occurs twice, a vector is not finite, or
                nothing but zeros, or no item has a text. Up to 10 items are named.
        """
        values = np.asarray(self.embeddings)
        if values.ndim != 2 or len(values) != len(self.item_ids):
            raise EmbeddingError(
                f"{self.name}: {len(self.item_ids)} items need a matrix of as many rows, got shape {values.shape}"
            )
        twice = [item_id for item_id, count in Counter(self.item_ids).items() if count > 1]
        if twice:
            raise EmbeddingError(f"{self.name}: {len(twice)} item ids occur more than once: {named(twice)}")
        _check_values(self.name, values, self.item_ids, zeros)
        if len(self.item_ids) and len(self.without_text) == len(self.item_ids):
            raise EmbeddingError(f"{self.name}: none of the {len(values)} items has a text")


class EmbeddingError(ValueError):
    """Embeddings that are missing, broken or not those of the items asked for; the message says what to do."""


def load_embeddings(
    folder: str | os.PathLike, item_ids: Sequence[str] | None = None, allow_missing: bool = False
) -> np.ndarray:
    """
    Reads embeddings in the order asked for.

    Args:
        folder (`str` or `os.PathLike`): what [`save_embeddings`] or [`embed_items`] wrote.
        item_ids (`Sequence[str]`, *optional*): the items wanted; by default all, in the folder's order.
        allow_missing (`bool`, *optional*, defaults to `False`):
            gives an item that the folder lacks a row of NaN, as for a catalogue in which not every item has an image,
            instead of raising.

    Returns:
        `np.ndarray` of shape `(len(item_ids), E)`, float32.

    Raises:
        EmbeddingError: if a file is missing, truncated or does not belong to the other, if an item is missing, or if
            an item's embedding has a NaN, an infinity or no length (up to 10 items are named).
    """
    folder = Path(folder)
    stored_ids, embeddings, _ = _read(folder)
    if item_ids is None:
        item_ids = stored_ids
    row_of = {item_id: row for row, item_id in enumerate(stored_ids)}
    rows = np.array([row_of.get(item_id, -1) for item_id in item_ids], dtype=np.int64)
    absent = [item_id for item_id, row in zip(item_ids, rows.tolist(), strict=True) if row < 0]
    if absent and not allow_missing:
        raise EmbeddingError(
            f"{folder}: no embeddings of {len(absent)} of {len(rows)} items: {named(absent)}; compute them with "
            "`utgrec embed`, from the data that has these items"
        )
    wanted = embeddings[rows[rows >= 0]]
    _check_values(folder, wanted, [item_id for item_id in item_ids if item_id in row_of])
    result = np.full((len(rows), embeddings.shape[1]), np.nan, dtype=np.float32)
    result[rows >= 0] = wanted
    return result


def encoder_fingerprint(folder: str | os.PathLike, fitted: bool = False) -> str | None:
    """
    What made the embeddings of a folder, as one word: vectors are comparable if it is the same.

    Args:
        folder (`str` or `os.PathLike`): what [`save_embeddings`] or [`embed_items`] wrote.
        fitted (`bool`, *optional*, defaults to `False`): whether the texts that TF-IDF is fitted on count too, as
            where vectors are put beside others that stay; not where all are made anew.

    Returns:
        `str`, or `None` if the folder's record does not name the encoder.

    Raises:
        EmbeddingError: as [`load_embeddings`].
    """
    record = _read(Path(folder))[2]
    if record.get("encoder_fingerprint") is None:
        return None
    said = [record[name] for name in COMPARABLE if name in record]
    if fitted and record.get("encoder") == TF_IDF:
        said.append(record["inputs_sha256"])
    digest = record["encoder_fingerprint"]
    return hashlib.sha256(json.dumps([digest, *said]).encode()).hexdigest() if said else digest


def load_content(folder: str | os.PathLike) -> ContentEmbeddings:
    """All embeddings of a folder that [`embed_items`] wrote, with the text encoder that its record names.

    Raises:
        EmbeddingError: as [`load_embeddings`], or if the embeddings are not those of texts by a template, which all
            domains of one tokenizer share, or are TF-IDF, which no two domains share.
    """
    folder = Path(folder)
    item_ids, embeddings, record = _read(folder)
    _check_values(folder, embeddings, item_ids)
    if "template" not in record:
        raise EmbeddingError(
            f"{folder}: the embeddings are not of texts by a template: make them with `utgrec embed "
            "--introduction 'Describe an item:'`, or the domain's own introduction"
        )
    if record["encoder"] == TF_IDF:
        raise EmbeddingError(
            f"{folder}: {TF_IDF} is fitted on its own catalogue; a tokenizer of several domains and new items needs "
            "a text encoder"
        )
    settings = {field.name: record[field.name] for field in fields(TextSettings) if field.name in record}
    encoder = {"name": record["encoder"], "fingerprint": record["encoder_fingerprint"], "settings": settings}
    encoder["revision"] = record.get("encoder_revision")
    return ContentEmbeddings(item_ids, embeddings, encoder, record["items_without_text"], folder.name)


def save_embeddings(
    folder: str | os.PathLike, item_ids: Sequence[str], embeddings: np.ndarray, record: dict[str, Any] | None = None
) -> None:
    """
    Writes one vector for each item.

    Args:
        folder (`str` or `os.PathLike`): made if need be.
        item_ids (`Sequence[str]`): the items.
        embeddings (`np.ndarray` of shape `(len(item_ids), E)`): their vectors.
        record (`dict`, *optional*): how they were made, any values that JSON has.

    Raises:
        EmbeddingError: if items and rows differ in number, an item occurs twice, or a vector is not finite or zero.
    """
    folder, item_ids = Path(folder), list(item_ids)
    embeddings = np.ascontiguousarray(embeddings, dtype=np.float32)
    ContentEmbeddings(item_ids, embeddings, name=str(folder)).check()
    record = {"format_version": FORMAT_VERSION, **(record or {}), "num_items": len(item_ids)}
    record |= {"dim": embeddings.shape[1], "sha256": _digest(item_ids, embeddings)}
    # The record last: it vouches for the other two.
    with replacing(folder / EMBEDDINGS_NAME, folder / IDS_NAME, folder / RECORD_NAME) as (vectors, ids, description):
        save_file({"embeddings": embeddings}, vectors)
        ids.write_text(json.dumps(item_ids), encoding="utf-8")
        description.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def embed_items(
    catalogue: Catalogue,
    encoder: TextEncoder | TextStatistics | ImageEncoder,
    folder: str | os.PathLike,
    batch_tokens: int = 16384,
    batch_images: int = 64,
    progress: bool | None = None,
) -> bool:
    """
    Embeds the texts or the images of a catalogue into a folder. Does nothing if the folder holds the same embeddings:
    of the same inputs by the same encoder with the same settings.

    Args:
        catalogue ([`Catalogue`]): the items. Of images, only the items that have one get a row.
        encoder ([`TextEncoder`], [`TextStatistics`] or [`ImageEncoder`]): decides what is read of an item.
        folder (`str` or `os.PathLike`): where the embeddings go.
        batch_tokens (`int`, *optional*, defaults to 16384): tokens of one batch of texts, with padding.
        batch_images (`int`, *optional*, defaults to 64): images of one batch.
        progress (`bool`, *optional*): whether to show a bar; by default if the output is a terminal.

    Returns:
        `bool`: whether anything was computed.

    Raises:
        EmbeddingError: if no item has an image (for an image encoder) or a text (for the others), no two items share
            a word (for TF-IDF), or an embedding is not finite or zero.
        OSError: if no files can be written to the folder.
    """
    record = {"encoder": encoder.name, "encoder_fingerprint": encoder.fingerprint, **encoder.settings}
    if getattr(encoder, "revision", None) is not None:
        record["encoder_revision"] = encoder.revision  # type: ignore[union-attr]
    if isinstance(encoder, TextEncoder | TextStatistics):
        rows: Sequence[int] = range(len(catalogue))
        inputs = catalogue.texts
        if not any(map(str.strip, inputs)):
            raise _no_text(catalogue)
        record |= {"input": "text", "text_fields": list(catalogue.text_fields)}
        if catalogue.template is not None:
            record |= {"template": asdict(catalogue.template), "items_without_text": _without_text(catalogue)}
    else:
        rows = [row for row in range(len(catalogue)) if catalogue.has_image(row)]
        if not rows:
            raise EmbeddingError(f"{catalogue.name}: no item has an image for {encoder.name} to embed")
        inputs = _image_digests(catalogue, rows)
        record |= {"input": "image"}
    item_ids = [catalogue.item_ids[row] for row in rows]
    inputs_digest = hashlib.sha256(json.dumps([item_ids, inputs]).encode()).hexdigest()
    record |= {"inputs_sha256": inputs_digest}
    if _holds(Path(folder), record):
        return False
    check_writable(folder)
    if isinstance(encoder, TextEncoder | TextStatistics):
        embeddings = encoder.embed(inputs, batch_tokens=batch_tokens, progress=progress)
    else:
        embeddings = encoder.embed(catalogue, rows, batch_images=batch_images, progress=progress)
    save_embeddings(folder, item_ids, embeddings, record)
    return True


def _without_text(catalogue: Catalogue) -> list[str]:
    """The items whose text is the template's introduction alone.

    Raises:
        EmbeddingError: if that are all of them.
    """
    template = catalogue.template
    assert template is not None
    rows = [row for row, text in enumerate(catalogue.texts) if template.is_bare(text)]
    if len(rows) == len(catalogue):
        raise _no_text(catalogue)
    return [catalogue.item_ids[row] for row in rows]


def _no_text(catalogue: Catalogue) -> EmbeddingError:
    return EmbeddingError(
        f"{catalogue.name}: none of the {len(catalogue)} items has a text: give the fields that hold one"
    )


def _image_digests(catalogue: Catalogue, rows: Sequence[int]) -> list[str]:
    def digest(row: int) -> str:
        image = catalogue.image(row)
        assert image is not None  # the rows are of items with one
        return hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()

    with ThreadPoolExecutor() as pool:
        return list(pool.map(digest, rows))


def _holds(folder: Path, record: dict[str, Any]) -> bool:
    """Whether the folder's embeddings are those of the record, and intact."""
    try:
        stored = json.loads((folder / RECORD_NAME).read_text(encoding="utf-8"))
        # Not by the encoder's name or the fields' names: the digests of encoder and inputs say what they stand for.
        decisive = record.keys() - {"encoder", "encoder_revision", "text_fields", "template", "items_without_text"}
        if any(stored.get(name) != record[name] for name in decisive):
            return False
        _read(folder)
    except (OSError, ValueError):  # missing, half-written or broken: computed anew
        return False
    return True


def _read(folder: Path) -> tuple[list[str], np.ndarray, dict[str, Any]]:
    for name in (EMBEDDINGS_NAME, IDS_NAME, RECORD_NAME):
        if not (folder / name).is_file():
            raise EmbeddingError(
                f"{folder / name} is missing; a folder of embeddings holds {EMBEDDINGS_NAME}, {IDS_NAME} and "
                f"{RECORD_NAME}: make one with `utgrec embed`"
            )
    try:
        with safe_open(folder / EMBEDDINGS_NAME, framework="numpy") as file:
            embeddings = file.get_tensor("embeddings")
    except (SafetensorError, OSError) as error:
        raise EmbeddingError(
            f"{folder / EMBEDDINGS_NAME} is truncated or has no tensor 'embeddings': {error}"
        ) from error
    try:
        item_ids, record = read_strings(folder / IDS_NAME), read_json_object(folder / RECORD_NAME)
    except ValueError as error:
        raise EmbeddingError(f"{error}") from error
    if record.get("format_version") != FORMAT_VERSION:
        raise EmbeddingError(
            f"{folder / RECORD_NAME}: format version {FORMAT_VERSION} expected, found {record.get('format_version')}"
        )
    if embeddings.dtype != np.float32 or embeddings.ndim != 2 or len(embeddings) != len(item_ids):
        raise EmbeddingError(
            f"{folder}: {len(item_ids)} item ids, but embeddings are {embeddings.dtype} of shape {embeddings.shape}; "
            "expected float32 [items, width]"
        )
    if record.get("sha256") != _digest(item_ids, embeddings):
        raise EmbeddingError(f"{folder}: the files were changed or come from different saves; embed the items anew")
    return item_ids, embeddings, record


def _check_values(
    place: str | os.PathLike, embeddings: np.ndarray, item_ids: Sequence[str], zeros: bool = False
) -> None:
    finite = np.isfinite(embeddings).all(axis=1)
    zero = ~embeddings.any(axis=1) & (not zeros)
    for rows, what in ((~finite, "NaN or infinity"), (zero, "only zeros")):
        if rows.any():
            broken = [item_ids[row] for row in np.flatnonzero(rows).tolist()]
            raise EmbeddingError(f"{place}: {len(broken)} items have embeddings with {what}: {named(broken)}")


def _digest(item_ids: list[str], embeddings: np.ndarray) -> str:
    digest = hashlib.sha256(json.dumps(item_ids).encode())
    digest.update(np.ascontiguousarray(embeddings, dtype="<f4").tobytes())
    return digest.hexdigest()
