"""What the items of a recommender are made from, as tables with a row for each: content of texts and images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokenization_items.files import read_json_object
from tokenization_items.item_embeddings import RECORD_NAME
from tokenization_items.text_statistics import TF_IDF
from trainers.data.interactions import Interactions
from trainers.data.item_attributes import ItemAttributes

# Interests of MISSRec for each text and image. The authors' program has 0.5 in fine-tuning and 0.02 in pre-training;
# with 0.5 k-means takes minutes an epoch for ten thousand items.
INTEREST_RATIO = 0.05
# Of a folder's record, what says nothing of the space that its vectors are in.
NOT_THE_SPACE = frozenset({"num_items", "sha256", "inputs_sha256", "encoder", "text_fields", "items_without_text"})


@dataclass(frozen=True)
class Content:
    """
    Embeddings of the items of one domain or of several, and the space that they are in.

    Args:
        vectors (`np.ndarray`): float32 `[items, width]`; NaN for an item that has none, where that may be.
        encoder (`str`, *optional*): name of what embedded them.
        fingerprint (`str`, *optional*): digest of the encoder and its settings; None where the folder does not say.
    """

    vectors: np.ndarray
    encoder: str | None = None
    fingerprint: str | None = None

    @classmethod
    def of_folder(cls, folder: str | Path, vectors: np.ndarray) -> Content:
        """Vectors that were read from a folder of embeddings."""
        record = read_json_object(Path(folder) / RECORD_NAME)
        name = record.get("encoder", record.get("model"))
        fingerprint = None
        if "encoder_fingerprint" in record:
            # TF-IDF is fitted on its own texts: no two catalogues share its space
            own = NOT_THE_SPACE - ({"inputs_sha256"} if name == TF_IDF else set())
            space = {key: value for key, value in record.items() if key not in own}
            fingerprint = hashlib.sha256(json.dumps(space, sort_keys=True).encode()).hexdigest()
        return cls(vectors, None if name is None else Path(name).name, fingerprint)

    @staticmethod
    def concatenate(parts: Mapping[str, Content]) -> Content:
        """The content of several domains, one after the other, by the domains' names.

        Raises:
            ValueError: it is of different encoders, settings or widths.
        """
        (first, whole), *others = parts.items()
        for name, part in others:
            if part.vectors.shape[1] != whole.vectors.shape[1] or part.fingerprint != whole.fingerprint:
                raise ValueError(
                    f"{first} and {name} differ in their content: {described(whole)} and {described(part)}. Embed all "
                    "domains with one encoder and one set of settings; tf-idf is another one in each catalogue."
                )
        vectors = np.concatenate([part.vectors for part in parts.values()])
        return Content(vectors, whole.encoder, whole.fingerprint)


def described(content: Content) -> str:
    """Encoder, settings and width in a few words, for errors."""
    space = "unknown settings" if content.fingerprint is None else f"settings {content.fingerprint[:8]}"
    return f"{content.encoder or 'unknown encoder'}, {space}, {content.vectors.shape[1]} wide"


@dataclass(frozen=True)
class ItemTables:
    """
    What a model is made for a catalogue with.

    Args:
        config (`dict`): values of the model's configuration.
        tables (`dict`): arguments of its `set_items`.
    """

    config: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, torch.Tensor] = field(default_factory=dict)


# From the training part of the interactions, the domain's inputs by name, values of the configuration and a seed.
MakesTables = Callable[[Interactions, Mapping[str, Any], Mapping[str, Any], int], ItemTables]


def digest(*arrays: np.ndarray) -> str:
    """SHA-256 of some arrays' values, in their order."""
    value = hashlib.sha256()
    for array in arrays:
        value.update(np.ascontiguousarray(array).tobytes())
    return value.hexdigest()


def text_tables(training: Interactions, inputs: Mapping[str, Any], values: Mapping[str, Any], seed: int) -> ItemTables:
    """The embeddings of the items' texts as they are, for UniSRec."""
    text: Content = inputs["text"]
    return ItemTables(content_config(text), {"content": torch.from_numpy(text.vectors)})


def modality_tables(
    training: Interactions, inputs: Mapping[str, Any], values: Mapping[str, Any], seed: int
) -> ItemTables:
    """The embeddings of the items' texts and, where they are given, images, for MISSRec; how many interests there are
    follows from what there is: a share `INTEREST_RATIO`, or `num_interests` of the configuration."""
    text, images = inputs["text"], inputs.get("images")
    config, tables = content_config(text), {"text": torch.from_numpy(text.vectors)}
    config |= {"image_size": None, "image_encoder": None, "image_fingerprint": None}
    points = int((~np.isnan(text.vectors).all(axis=1)).sum())
    if images is not None:
        points += int((~np.isnan(images.vectors).all(axis=1)).sum())
        tables["image"] = torch.from_numpy(images.vectors)
        config |= {
            "image_size": images.vectors.shape[1],
            "image_encoder": images.encoder,
            "image_fingerprint": images.fingerprint,
            "items_fingerprint": digest(text.vectors, images.vectors),
        }
    config["num_interests"] = values.get("num_interests") or max(1, int(INTEREST_RATIO * points))
    return ItemTables(config, tables)


def field_tables(
    training: Interactions, inputs: Mapping[str, Any], values: Mapping[str, Any], seed: int
) -> ItemTables:
    """The values of the items' fields, for FDSA."""
    attributes: ItemAttributes = inputs["attributes"]
    table = attributes.table()
    config = {
        "field_sizes": [len(known) for known in attributes.values.values()],
        "values_per_field": table.shape[2],
        "items_fingerprint": digest(table),
    }
    return ItemTables(config, {"values": torch.from_numpy(table)})


def content_config(text: Content) -> dict[str, Any]:
    """What a configuration says of content."""
    return {
        "content_size": text.vectors.shape[1],
        "content_encoder": text.encoder,
        "content_fingerprint": text.fingerprint,
        "items_fingerprint": digest(text.vectors),
    }
