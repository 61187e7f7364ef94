"""The built-in catalogue with pictures: three pre-training domains and one downstream domain, drawn from a seed.

Every item has a purpose, a material and a price tier, which only its text tells, and a style, which only its picture
shows. All domains share these attributes, the words and the pictures for them, and one process for the next item:

    P(next = j | history) ∝ purpose[last, j] · material[last, j] · price[last, j] · style(history)[j] · popularity[j]

and 0 for an item of the history. Purposes follow a cycle, materials go with their partner, prices drift upwards, and
the style of the next item follows the styles of the whole history. Nouns belong to one domain.
So text, picture, order and the popularity within one domain each tell something that the rest do not. Other domains
repeat the same process: they save learning it anew, and tell nothing about it that many downstream users would not.

Measured on the downstream domain (1,000 items, 3,000 users, seed 0; leave-one-out test, all items, seen items kept):

| recommender                                    | Recall@10 | NDCG@10 |
|------------------------------------------------|-----------|---------|
| oracle                                         |    0.3873 |  0.2144 |
| oracle that does not know popularity           |    0.2610 |  0.1236 |
| oracle that does not see styles (text only)    |    0.1973 |  0.0985 |
| oracle that sees nothing but styles (pictures) |    0.1320 |  0.0604 |
| oracle, history in random order                |    0.1400 |  0.0790 |
| item transitions (`trainers.rankers.item_transitions`)        |    0.1143 |  0.0600 |
| popularity                                     |    0.0373 |  0.0164 |
"""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from hub_cards import replacing
from tokenization_items.files import write_json
from trainers.data.synthetic_items import (
    MATERIALS,
    NOUNS,
    PRICES,
    PURPOSES,
    STYLES,
    ItemAttributes,
    draw_attributes,
    draw_items,
)

if TYPE_CHECKING:
    import datasets

GENERATOR_VERSION = 5  # in dataset.json: raise it with any change to what is drawn, so that write_all writes anew

PRETRAINING_DOMAINS = ("kitchen", "garden", "music")
DOWNSTREAM_DOMAIN = "office"

# Shortest and longest sequence, and the chance to end after each item past the shortest. They are mostly short, as
# real histories are, and shorter in the downstream domain: there, few observations are left for each pair of items.
LENGTHS = {name: (6, 16, 0.3) for name in PRETRAINING_DOMAINS} | {DOWNSTREAM_DOMAIN: (4, 10, 0.5)}
MIN_ITEMS = 64
STYLE_FLOOR = 0.035  # weight of a style that the history does not have
USER_CHUNK = 1024  # users simulated at once: bounds the [users, items] table


def _purpose_transitions() -> np.ndarray:
    """[purposes, purposes]: mostly the next purpose of the cycle, sometimes the one after, rarely any other."""
    size = len(PURPOSES)
    matrix = np.full((size, size), 0.03)
    for purpose in range(size):
        matrix[purpose, (purpose + 1) % size] = 0.85
        matrix[purpose, (purpose + 2) % size] = 0.09
    return matrix


PURPOSE_TRANSITIONS = _purpose_transitions()
MATERIAL_TRANSITIONS = np.array(  # wood goes with cloth, steel with glass
    [[0.40, 0.12, 0.12, 0.36], [0.12, 0.40, 0.36, 0.12], [0.12, 0.36, 0.40, 0.12], [0.36, 0.12, 0.12, 0.40]]
)
PRICE_TRANSITIONS = np.array([[0.48, 0.40, 0.12], [0.15, 0.45, 0.40], [0.30, 0.18, 0.52]])


class AttributeOracle:
    """The true process of the next item; the upper bound for every recommender. It sees all attributes.

    Fits `trainers.evaluation.protocol.evaluate`: `name`, `max_history` and `rank`.
    """

    name = "oracle"
    max_history = None

    def __init__(self, attributes: ItemAttributes):
        self.attributes = attributes
        self.num_items = len(attributes.purpose)
        self._style_one_hot = np.eye(len(STYLES))[:, attributes.style]  # [styles, items]
        contexts = np.indices((len(PURPOSES), len(MATERIALS), len(PRICES))).reshape(3, -1)
        # One row for each (purpose, material, price) of the last item: all that the process takes from it.
        self._context_table = (
            PURPOSE_TRANSITIONS[contexts[0]][:, attributes.purpose]
            * MATERIAL_TRANSITIONS[contexts[1]][:, attributes.material]
            * PRICE_TRANSITIONS[contexts[2]][:, attributes.price]
            * attributes.popularity
        )
        self._context = (attributes.purpose * len(MATERIALS) + attributes.material) * len(PRICES) + attributes.price

    def next_weights(self, last: np.ndarray, style_counts: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Unnormalised P(next | history), [B, num_items], from the last row [B] (-1 for an empty history), how often
        the history has each style [B, styles], and which items it holds (bool [B, num_items])."""
        cubes = style_counts.astype(np.float64) ** 3  # cubes: a user's main style wins over single exceptions
        share = cubes / np.maximum(cubes.sum(1, keepdims=True), 1)
        style_weights = STYLE_FLOOR + (1 - STYLE_FLOOR * len(STYLES)) * share
        weights = self._context_table[self._context[last]]
        weights *= style_weights @ self._style_one_hot
        weights[last < 0] = self.attributes.popularity
        weights[seen] = 0
        return weights

    def probabilities(self, histories: Sequence[np.ndarray]) -> np.ndarray:
        """P(next | history) for each history of item rows, [B, num_items], rows sum to 1."""
        lengths = np.array([len(history) for history in histories], dtype=np.int64)
        rows = np.concatenate(
            [np.asarray(history, dtype=np.int64) for history in histories] or [np.zeros(0, np.int64)]
        )
        users = np.repeat(np.arange(len(lengths)), lengths)
        last = np.full(len(lengths), -1)
        last[lengths > 0] = rows[(np.cumsum(lengths) - 1)[lengths > 0]]
        style_counts = np.zeros((len(lengths), len(STYLES)))
        np.add.at(style_counts, (users, self.attributes.style[rows]), 1)
        seen = np.zeros((len(lengths), self.num_items), dtype=bool)
        seen[users, rows] = True
        weights = self.next_weights(last, style_counts, seen)
        return weights / np.maximum(weights.sum(1, keepdims=True), np.finfo(np.float64).tiny)

    def rank(self, histories: Sequence[np.ndarray], k: int, exclude: Sequence[np.ndarray] | None = None) -> np.ndarray:
        """The `k` most probable next items, int [B, k], best first; ties go to the lower row.

        Items of probability 0 (those of the history) and those in `exclude` are not ranked; -1 fills up.
        """
        ranked = np.full((len(histories), k), -1, dtype=np.int64)
        for start in range(0, len(histories), USER_CHUNK):
            part = slice(start, start + USER_CHUNK)
            scores = self.probabilities(histories[part])
            if exclude is not None:
                excluded = [np.asarray(rows, dtype=np.int64) for rows in exclude[part]]
                users = np.repeat(np.arange(len(excluded)), [len(rows) for rows in excluded])
                scores[users, np.concatenate(excluded)] = 0
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            ranked[part, : order.shape[1]] = np.where(np.take_along_axis(scores, order, 1) > 0, order, -1)
        return ranked


@dataclass(frozen=True)
class SyntheticDomain:
    """One domain: what a user's files would hold (`items`, `sequences`), and the truth behind them.

    Attributes:
        items: dicts with item_id, title, features, categories and image (RGB `PIL.Image` of 64x64, or None).
        sequences: dicts with user_id and items (item ids in order of time, no item twice).
        attributes: the attributes of each item row.
        oracle: ranks by the true process.
        rows, offsets: the sequences as item rows: those of user u are `rows[offsets[u]:offsets[u + 1]]`.
    """

    name: str
    seed: int
    items: list[dict]
    sequences: list[dict]
    attributes: ItemAttributes
    oracle: AttributeOracle
    rows: np.ndarray
    offsets: np.ndarray


def _simulate(
    oracle: AttributeOracle, num_users: int, limits: tuple[int, int, float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws all users' sequences, step by step for many users at once: item rows [total] and offsets [U + 1]."""
    shortest, longest, end = limits
    lengths = np.minimum(shortest + rng.geometric(end, size=num_users) - 1, longest)
    table = np.full((num_users, longest), -1, dtype=np.int64)
    for start in range(0, num_users, USER_CHUNK):
        size = min(USER_CHUNK, num_users - start)
        last = np.full(size, -1)
        style_counts = np.zeros((size, len(STYLES)))
        seen = np.zeros((size, oracle.num_items), dtype=bool)
        for step in range(longest):
            active = np.flatnonzero(lengths[start : start + size] > step)
            cumulative = np.cumsum(oracle.next_weights(last[active], style_counts[active], seen[active]), axis=1)
            threshold = rng.random(len(active)) * cumulative[:, -1]
            drawn = (cumulative <= threshold[:, None]).sum(1)  # the first item above: never one of weight 0
            last[active] = drawn
            seen[active, drawn] = True
            style_counts[active, oracle.attributes.style[drawn]] += 1
            table[start + active, step] = drawn
    return table[table >= 0], np.concatenate([[0], np.cumsum(lengths)])


def generate_domain(name: str, num_items: int = 1000, num_users: int = 3000, seed: int = 0) -> SyntheticDomain:
    """Draws one domain. The same arguments give the same domain.

    Args:
        name (`str`): one of `PRETRAINING_DOMAINS` or `DOWNSTREAM_DOMAIN`.
        num_items (`int`, *optional*, defaults to 1000): at least 64, one for each purpose and style.
        num_users (`int`, *optional*, defaults to 3000): number of sequences, see `LENGTHS`.
        seed (`int`, *optional*, defaults to 0): domains of one seed are independent of each other.

    Raises:
        ValueError: for an unknown name or a size that is too small.
    """
    if name not in NOUNS:
        raise ValueError(f"unknown synthetic domain {name!r}; the domains are {', '.join(NOUNS)}")
    if num_items < MIN_ITEMS or num_users < 1:
        raise ValueError(
            f"a synthetic domain needs num_items >= {MIN_ITEMS} and num_users >= 1, got {num_items} and {num_users}"
        )
    # crc32, because hash() of a string differs from run to run.
    streams = np.random.SeedSequence([seed, zlib.crc32(name.encode())]).spawn(3)
    attribute_rng, item_rng, user_rng = (np.random.default_rng(stream) for stream in streams)
    attributes = draw_attributes(num_items, attribute_rng)
    oracle = AttributeOracle(attributes)
    items = draw_items(name, attributes, item_rng)
    rows, offsets = _simulate(oracle, num_users, LENGTHS[name], user_rng)
    ids = [item["item_id"] for item in items]
    sequences = [
        {"user_id": f"{name}-user-{user:05d}", "items": [ids[row] for row in rows[start:end]]}
        for user, (start, end) in enumerate(zip(offsets[:-1], offsets[1:], strict=True))
    ]
    return SyntheticDomain(name, seed, items, sequences, attributes, oracle, rows, offsets)


def _description(name: str, num_items: int, num_users: int, seed: int) -> dict:
    return {
        "name": name,
        "seed": seed,
        "num_items": num_items,
        "num_users": num_users,
        "generator_version": GENERATOR_VERSION,
    }


def _png(image: Image.Image) -> dict:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=3)
    return {"bytes": buffer.getvalue(), "path": None}


def _write_parquet(data: datasets.Dataset, path: Path) -> None:
    with replacing(path) as (temporary,):
        # Not to_parquet(), which shows a progress bar for each file; the schema holds the features either way.
        pq.write_table(data.data.table, temporary)


def write_domain(domain: SyntheticDomain, folder: str | os.PathLike) -> Path:
    """Writes `items.parquet` (pictures as PNG in a `datasets.Image` column), `sequences.parquet` and `dataset.json`.

    `dataset.json` goes first and comes last, so that it never describes files of another run. Returns the folder.
    """
    import datasets

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").unlink(missing_ok=True)
    text = datasets.Value("string")
    columns = {key: [item[key] for item in domain.items] for key in ("item_id", "title", "features", "categories")}
    columns["image"] = [None if item["image"] is None else _png(item["image"]) for item in domain.items]
    lists = datasets.List(text)
    features = {"item_id": text, "title": text, "features": lists, "categories": lists, "image": datasets.Image()}
    _write_parquet(datasets.Dataset.from_dict(columns, datasets.Features(features)), folder / "items.parquet")
    columns = {key: [sequence[key] for sequence in domain.sequences] for key in ("user_id", "items")}
    kinds = datasets.Features({"user_id": text, "items": lists})
    _write_parquet(datasets.Dataset.from_dict(columns, kinds), folder / "sequences.parquet")

    description = _description(domain.name, len(domain.items), len(domain.sequences), domain.seed)
    description["num_interactions"] = len(domain.rows)
    description["num_items_without_image"] = int((~domain.attributes.has_image).sum())
    description["num_near_duplicates"] = int((domain.attributes.duplicate_of >= 0).sum())
    write_json(folder / "dataset.json", description)
    return folder


def _is_written(folder: Path, description: dict) -> bool:
    try:
        found = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return False
    files = (folder / "items.parquet", folder / "sequences.parquet")
    return description.items() <= found.items() and all(file.exists() for file in files)


def write_all(root: str | os.PathLike, num_items: int = 1000, num_users: int = 3000, seed: int = 0) -> dict[str, Path]:
    """Writes the pre-training domains and the downstream domain to `root/<name>`; name → folder.

    A folder whose `dataset.json` names the same sizes, seed and generator version is left as it is.
    """
    folders = {}
    for name in (*PRETRAINING_DOMAINS, DOWNSTREAM_DOMAIN):
        folders[name] = Path(root) / name
        if not _is_written(folders[name], _description(name, num_items, num_users, seed)):
            write_domain(generate_domain(name, num_items, num_users, seed), folders[name])
    return folders
