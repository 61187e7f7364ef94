"""Health of an item tokenizer on a catalogue: how its codes are used, what they tell apart, what they say of items,
and how much of the items' vectors they keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from modeling_utgrec.quantization import TreeCodebooks
from tokenization_items.collision_report import group_sizes
from tokenization_items.network_reference import Network
from trainers.data.interactions import Interactions
from trainers.evaluation.candidate_rows import draw_rows, score_in_batches
from trainers.evaluation.codebooks import codebook_health, summed_vectors
from trainers.evaluation.metrics import auc_by_user
from trainers.rankers.nearest_items import NearestItems

MOST_ITEMS = 20_000  # that what the codes say of attributes is measured on
MOST_QUERIES = 2_000  # items whose neighbours are looked for
NEIGHBOURS = 10
PERMUTATIONS = 20
MAX_HISTORY = 20


def tokenizer_health(
    codes: np.ndarray,
    level_sizes: Sequence[int],
    texts: Sequence[str] | None = None,
    attributes: Mapping[str, Sequence[np.ndarray]] | None = None,
    vectors: tuple[np.ndarray, np.ndarray] | None = None,
    interactions: Interactions | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """
    All that is measured of an item tokenizer on the items of one catalogue.

    Args:
        codes (`np.ndarray` of shape `(items, levels)`): codes before collisions are resolved.
        level_sizes (`Sequence[int]`): number of codes of each level.
        texts (`Sequence[str]`, *optional*): of the items, as the tokenizer reads them.
        attributes (`Mapping[str, Sequence[np.ndarray]]`, *optional*): of each attribute for every item the numbers of
            its values, as `ItemAttributes.rows`.
        vectors (`tuple[np.ndarray, np.ndarray]`, *optional*): float `(items, dim)` each, as
            [`vectors_of_items`]: of the items' codes, and what was quantized.
        interactions ([`Interactions`], *optional*): of users with these items, in the order of `codes`.
        seed (`int`, *optional*, defaults to 0): of samples and permutations.

    Returns:
        `dict` of plain values: `"items"`; `"used"` and `"perplexity"`, lists over levels; `"entropy_pairs"` in nats
        and the most that it can be; `"sharing_codes"`, the share of items with the codes of another item,
        `"equal_texts"`, of items with the text of another, and `"sharing_codes_of_other_texts"`, of items with the
        codes of an item that has another text. With attributes `"information"`, see [`attribute_information`]; with
        vectors `"neighbours"`, see [`neighbour_agreement`], and with interactions beside them `"gauc"`, see
        [`nearest_gauc`].
    """
    measured = codebook_health(torch.from_numpy(np.asarray(codes, np.int64)), level_sizes)
    levels = range(len(level_sizes))
    health: dict[str, Any] = {
        "items": len(codes),
        **{name: [measured[f"{name}_{level}"] for level in levels] for name in ("used", "perplexity")},
        "sharing_codes": measured["collision_rate"],
    }
    if len(level_sizes) > 1:
        most = min(np.log(level_sizes[0]) + np.log(level_sizes[1]), np.log(max(len(codes), 1)))
        health |= {"entropy_pairs": measured["entropy_pairs"], "entropy_pairs_most": float(most)}
    if texts is not None:
        health |= shared_texts(codes, texts)
    if attributes:
        health["information"] = {
            name: attribute_information(codes, rows, seed) for name, rows in sorted(attributes.items())
        }
    if vectors is not None:
        health["neighbours"] = neighbour_agreement(*vectors, seed=seed)
        if interactions is not None:
            health["gauc"] = nearest_gauc(*vectors, interactions)
    return health


def shared_texts(codes: np.ndarray, texts: Sequence[str]) -> dict[str, float]:
    """Of items, the share whose text another item has, and the share that has the codes of an item with another text:
    what a tokenizer of texts could tell apart and does not."""
    if not len(codes):
        return {"equal_texts": 0.0, "sharing_codes_of_other_texts": 0.0}
    numbers = np.unique(np.asarray(texts, dtype=object).astype(str), return_inverse=True)[1].reshape(-1, 1)
    alike = group_sizes(np.concatenate([codes, numbers], axis=1))  # items of the same codes and the same text
    return {
        "equal_texts": float((group_sizes(numbers) > 1).mean()),
        "sharing_codes_of_other_texts": float((group_sizes(codes) > alike).mean()),
    }


def attribute_information(
    codes: np.ndarray,
    rows: Sequence[np.ndarray],
    seed: int = 0,
    permutations: int = PERMUTATIONS,
    most_items: int = MOST_ITEMS,
) -> dict[str, Any]:
    """
    How much of an attribute each level's codes tell: their mutual information, adjusted for chance.

    An item with several values is counted once, with equal parts for each of them. The information of the code C and
    the value V can be no more than that of the item itself, `I(item; V) = H(V) - mean log(number of values)`, the
    entropy of the values where each item has one. Of few items for each code it is above zero whatever the code; so
    its mean over permutations of the codes among the items is taken off both: 0 is what codes without any connection
    have, 1 what codes have that tell all that the item does. (Adjusted mutual information, Vinh et al., JMLR 2010, by
    drawn permutations and with the attribute's information in the denominator.)

    Args:
        codes (`np.ndarray` of shape `(items, levels)`): codes of each item.
        rows (`Sequence[np.ndarray]`): of each item the numbers of its values, each once; items without any are left
            out.
        seed (`int`, *optional*, defaults to 0): of permutations and sample.
        permutations (`int`, *optional*, defaults to 20): how many are drawn.
        most_items (`int`, *optional*, defaults to 20,000): of more items with the attribute so many are drawn.

    Returns:
        `"items"`, those measured; `"without"`, those without a value; `"values"`, the different ones among the items
        measured; `"most"`, `I(item; V)` in nats; and lists over the levels: `"information"` in nats, `"by_chance"`,
        its mean over the permutations, and `"adjusted"`, `None` where chance leaves nothing to tell.
    """
    counts = np.array([len(row) for row in rows], np.int64)
    known = np.flatnonzero(counts)
    rng = np.random.default_rng(seed)
    chosen = known if len(known) <= most_items else np.sort(rng.choice(known, most_items, replace=False))
    result: dict[str, Any] = {"items": len(chosen), "without": len(rows) - len(known), "values": 0, "most": 0.0}
    result |= {"information": [], "by_chance": [], "adjusted": []}
    if not len(chosen):
        return result
    places, values = (
        np.repeat(np.arange(len(chosen)), counts[chosen]),
        np.concatenate([rows[row] for row in chosen.tolist()]),
    )
    values = np.unique(values, return_inverse=True)[1].reshape(-1)
    weights = 1 / (counts[chosen][places] * len(chosen))
    of_values = _entropy(values, weights)
    most = of_values - float(np.log(counts[chosen]).mean())

    def information(column: np.ndarray) -> float:
        of_items = column[places]
        joint = of_items * (int(values.max()) + 1) + values
        return _entropy(of_items, weights) + of_values - _entropy(joint, weights)

    result |= {"values": int(values.max()) + 1, "most": most}
    for column in np.asarray(codes, np.int64)[chosen].T:
        found = information(column)
        chance = float(np.mean([information(rng.permutation(column)) for _ in range(permutations)]))
        room = most - chance
        result["information"].append(found)
        result["by_chance"].append(chance)
        result["adjusted"].append((found - chance) / room if room > 1e-9 else None)
    return result


def _entropy(numbers: np.ndarray, weights: np.ndarray) -> float:
    """Of a distribution that gives each of `numbers` the sum of its weights, in nats; weights sum to 1."""
    groups = np.unique(numbers, return_inverse=True)[1].reshape(-1)
    shares = np.bincount(groups, weights)
    return float(-(shares * np.log(shares)).sum())


def vectors_of_items(network: Network, codes: np.ndarray, residuals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    What items are before and after quantization.

    Args:
        network ([`UTGRecTokenizerModel`], [`RecBaseTokenizerModel`] or [`RQVAEModel`]): whose codes they are.
        codes (`np.ndarray` of shape `(items, levels)`): as the network gave them.
        residuals (`np.ndarray` of shape `(items, levels, dim)`): what each level quantized.

    Returns:
        Two float32 arrays `(items, dim)`: the sum of the codes' vectors, which is what a decoder reads last, and what
        it stands for: the last level's representation.
    """
    with torch.no_grad():
        books = [book.float().cpu().numpy() for book in network.quantizer.level_vectors()]
    quantized = summed_vectors(books, codes)
    if isinstance(network.quantizer, TreeCodebooks):  # differences of neighbouring levels (Eq. 3)
        return quantized, residuals.sum(axis=1, dtype=np.float32)
    return quantized, residuals[:, -1] + quantized - books[-1][codes[:, -1]]


def neighbour_agreement(
    of_codes: np.ndarray,
    unquantized: np.ndarray,
    neighbours: int = NEIGHBOURS,
    most_queries: int = MOST_QUERIES,
    seed: int = 0,
) -> dict[str, Any]:
    """
    Of the items nearest to an item by cosine, the share that its codes' vectors find too.

    Args:
        of_codes, unquantized (`np.ndarray` of shape `(items, dim)`): as [`vectors_of_items`].
        neighbours (`int`, *optional*, defaults to 10): nearest items, the item itself left out; ties by their order.
        most_queries (`int`, *optional*, defaults to 2,000): items to look from; of more so many are drawn. All items
            are looked at.
        seed (`int`, *optional*, defaults to 0): of that draw.

    Returns:
        `"queries"`, `"neighbours"` (fewer of a small catalogue), `"agreement"` and `"by_chance"`, what any other
        `neighbours` items would have.
    """
    count = len(of_codes)
    most = min(neighbours, count - 1)
    if most < 1:
        return {"queries": 0, "neighbours": 0, "agreement": None, "by_chance": None}
    queries = np.arange(count)
    if count > most_queries:
        queries = np.sort(np.random.default_rng(seed).choice(count, most_queries, replace=False))
    first, second = (_nearest(vectors, queries, most) for vectors in (of_codes, unquantized))
    shared = [len(np.intersect1d(a, b)) for a, b in zip(first, second, strict=True)]
    return {
        "queries": len(queries),
        "neighbours": most,
        "agreement": float(np.mean(shared) / most),
        "by_chance": most / (count - 1),
    }


def _nearest(vectors: np.ndarray, queries: np.ndarray, most: int, block: int = 256) -> np.ndarray:
    """Rows of the nearest items by cosine, int64 `(queries, most)`."""
    unit = torch.nn.functional.normalize(torch.from_numpy(np.asarray(vectors, np.float32)))
    found = []
    for start in range(0, len(queries), block):
        rows = torch.from_numpy(queries[start : start + block])
        cosines = unit[rows] @ unit.T
        cosines[torch.arange(len(rows)), rows] = -torch.inf
        found.append(cosines.sort(dim=1, descending=True, stable=True).indices[:, :most].numpy())
    return np.concatenate(found)


def nearest_gauc(of_codes: np.ndarray, unquantized: np.ndarray, interactions: Interactions) -> dict[str, Any] | None:
    """
    How well items near to the mean of a history tell what its user takes next (GAUC), by the codes' vectors and by
    what they stand for.

    Args:
        of_codes, unquantized (`np.ndarray` of shape `(items, dim)`): as [`vectors_of_items`].
        interactions ([`Interactions`]): of users with these items.

    Returns:
        `"codes"` and `"unquantized"`, the mean AUC of the users, both on the rows that zero-shot evaluation draws, and
        their numbers `"rows"` and `"users"`; `None` where the interactions give no rows.
    """
    try:
        rows = draw_rows(interactions)
    except ValueError:  # no user has both labels
        return None
    scores = {
        name: score_in_batches(NearestItems(vectors, "mean").score, rows, MAX_HISTORY)
        for name, vectors in (("codes", of_codes), ("unquantized", unquantized))
    }
    gauc = {name: float(auc_by_user(rows.users, each, rows.labels)[1].mean()) for name, each in scores.items()}
    return gauc | {"rows": len(rows), "users": rows.num_users}
