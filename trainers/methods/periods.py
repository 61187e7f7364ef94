"""Periods: the time that items are of, read from the order of the sequences alone.

Sequences have an order and seldom timestamps, but they overlap: an item that stands late in one stands early in
another. On one axis of time each item gets the place `t` that fits all of them best,

    min Σ_u Σ_(a before b, gap ≤ 10) 1/gap·(t_b - t_a - gap)² + Σ_i t_i²

(HodgeRank: Jiang et al., Statistical ranking and combinatorial Hodge theory, Mathematical Programming 2011, with gaps
for comparisons). The axis is cut into [`PERIODS`] periods of as many interactions each. How often the latest items of
the users are of period `q` where the item before was of period `p`, over how often they would by chance, is the rate
whose log an [`ItemMemory`] keeps.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from scipy.sparse import linalg

from modeling_utgrec.item_memory import PERIODS, RECENT_ITEMS, MemoryPeriods
from trainers.data.interactions import Interactions

LONGEST_GAP = 10  # of two items that are compared
RATE_PRIOR = 100.0  # transitions by chance that every period has beside its own
TOLERANCE = 1e-6  # of the solution, relative


def item_times(training: Interactions) -> np.ndarray:
    """
    Places of the items on one axis of time, float64 `[n]` in interactions; 0 for an item that is compared with none.

    Args:
        training ([`Interactions`]): the sequences.
    """
    items, owners, n = training.items.astype(np.int64), training.owners, training.num_items
    weights = sparse.csr_array((n, n))
    pull = np.zeros(n)  # Σ 1/gap·gap of the comparisons that an item stands later in, less those it stands earlier in
    for gap in range(1, LONGEST_GAP + 1):
        compared = (owners[gap:] == owners[:-gap]) & (items[gap:] != items[:-gap])
        before, after = items[:-gap][compared], items[gap:][compared]
        weights = weights + sparse.csr_array((np.full(len(before), 1 / gap), (before, after)), (n, n))
        pull += np.bincount(after, minlength=n) - np.bincount(before, minlength=n)
    weights = weights + weights.T
    diagonal = weights.sum(axis=1) + 1
    system = sparse.diags_array(diagonal).tocsr() - weights
    times, _ = linalg.cg(system, pull, rtol=TOLERANCE, maxiter=1000, M=sparse.diags_array(1 / diagonal))
    return times


def item_periods(training: Interactions) -> MemoryPeriods:
    """
    Periods of the items and the rates at which they follow each other.

    Args:
        training ([`Interactions`]): the sequences.
    """
    counts = training.popularity.astype(np.float64)
    order = np.argsort(item_times(training), kind="stable")
    middles = (counts[order].cumsum() - counts[order] / 2) / max(counts.sum(), 1)  # of an item's own interactions
    periods = np.empty(len(counts), np.int64)
    periods[order] = np.minimum((middles * PERIODS).astype(np.int64), PERIODS - 1)
    share = np.bincount(periods, counts, PERIODS) / max(counts.sum(), 1)
    followed = np.zeros((PERIODS, PERIODS))
    for place in range(1, RECENT_ITEMS + 1):
        at = training.offsets[1:][training.lengths > place] - place
        np.add.at(followed, (periods[training.items[at - 1]], periods[training.items[at]]), 1)
    rates = (followed + RATE_PRIOR * share) / (followed.sum(1, keepdims=True) + RATE_PRIOR)
    # a period may hold no interaction
    logs = np.log(np.divide(rates, share, out=np.ones_like(rates), where=share > 0))
    periods[counts == 0] = -1
    return MemoryPeriods(torch.from_numpy(periods.astype(np.int8)), torch.from_numpy(logs.astype(np.float32)))
