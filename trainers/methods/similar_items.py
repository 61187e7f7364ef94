"""Items alike in content: the exact search, and faiss' for catalogues whose square is too much work."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from modeling_utgrec.memory_content import nearest_items

logger = logging.getLogger(__name__)

MOST_EXACT = 150_000  # items that are compared with all others: minutes on two cores
MANY_COSINES = 2e11  # multiplications from which on the exact search is announced: seconds
CHECKED = 500  # items whose neighbours are searched exactly, too
WANTED = 0.95  # of the exact neighbours
PROBES = (8, 16, 32, 64)  # cells that are looked into, until enough of the neighbours are found
TRAINING_POINTS = 64  # vectors that faiss' k-means sees for each cell
QUERIES = 2**16  # at a time


def find_similar_items(unit: torch.Tensor, kept: int, most_exact: int = MOST_EXACT) -> torch.Tensor:
    """
    The items of the largest cosine with each item, itself among them.

    Up to `most_exact` items all cosines are computed. Of more items faiss searches an inverted file of 2√n cells, in
    as few of 8 to 64 of them as find 95 % of the exact neighbours of 500 items; the share found is logged.

    Args:
        unit (`torch.FloatTensor` of shape `(items, width)`): vectors of unit length, or zeros.
        kept (`int`): neighbours of an item, at most.
        most_exact (`int`, *optional*, defaults to 150,000): items up to which the search is exact.

    Returns:
        `torch.IntTensor` of shape `(items, kept)`: the largest cosine first; -1 where the cells held no more.

    Raises:
        ImportError: for more items than `most_exact` without faiss.
    """
    num_items, width = unit.shape
    if num_items <= most_exact:
        if num_items**2 * width > MANY_COSINES:
            logger.warning(f"similar items: {num_items**2 / 1e9:.1f} billion cosines are computed")
        return nearest_items(unit, unit, kept)[0]
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            f"Items alike in content are searched for by faiss in a catalogue of {num_items:,} items: pip install "
            "faiss-cpu, or utgrec[baselines]."
        ) from error
    kept = min(kept, num_items)
    cells = int(2 * num_items**0.5)
    logger.warning(f"similar items: an inverted file of {cells:,} cells for {num_items:,} items is made and searched")
    index: Any = faiss.index_factory(width, f"IVF{cells},SQfp16", faiss.METRIC_INNER_PRODUCT)
    rng = np.random.default_rng(0)
    vectors = unit.numpy()
    sample = np.sort(rng.choice(num_items, min(num_items, TRAINING_POINTS * cells), replace=False))
    index.train(vectors[sample])
    index.add(vectors)
    checked = np.sort(rng.choice(num_items, min(num_items, CHECKED), replace=False))
    exact = nearest_items(unit[checked], unit, kept)[0].numpy()
    for probes in PROBES:
        index.nprobe = probes
        found = index.search(vectors[checked], kept)[1]
        share = np.mean([len(np.intersect1d(*rows)) for rows in zip(exact, found, strict=True)]) / kept
        if share >= WANTED:
            break
    logger.warning(f"similar items: {probes} cells find {share:.1%} of the {kept} exact neighbours of an item")
    items = torch.empty(num_items, kept, dtype=torch.int32)
    for start in tqdm(range(0, num_items, QUERIES), desc="Similar items", leave=False, disable=None):
        part = slice(start, start + QUERIES)
        items[part] = torch.from_numpy(index.search(vectors[part], kept)[1].astype(np.int32))
    return items
