"""Item transitions against plain Python, and both counted rankers against the known values of real data."""

import collections
import gzip
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.data.interactions import Interactions
from trainers.evaluation.protocol import evaluate
from trainers.rankers.item_transitions import ItemTransitions
from trainers.rankers.popularity import Popularity

IDS = [f"i{n}" for n in range(9)]
SEQUENCES = st.lists(st.lists(st.integers(0, 8), max_size=8), min_size=1, max_size=10)

# Recall@10, NDCG@10 with seen items kept, then with seen items masked, from an independent script in plain Python
KNOWN = {
    ("amazon_beauty_2014", Popularity): (0.0112, 0.0053, 0.0114, 0.0054),
    ("amazon_beauty_2014", ItemTransitions): (0.0665, 0.0425, 0.0694, 0.0456),
    ("amazon_games_2018", Popularity): (0.0103, 0.0058, 0.0107, 0.0059),
    ("amazon_games_2018", ItemTransitions): (0.0618, 0.0383, 0.0633, 0.0399),
    ("amazon_office_2014", Popularity): (0.0006, 0.0002, 0.0012, 0.0004),
    ("amazon_office_2014", ItemTransitions): (0.0862, 0.0518, 0.0895, 0.0539),
    ("amazon_sports_2014", Popularity): (0.0090, 0.0051, 0.0091, 0.0052),
    ("amazon_sports_2014", ItemTransitions): (0.0335, 0.0215, 0.0340, 0.0222),
    ("ml100k", Popularity): (0.0498, 0.0224, 0.0859, 0.0449),
    ("ml100k", ItemTransitions): (0.1166, 0.0635, 0.1463, 0.0789),
}


def naive(sequences: list[list[int]], histories: list[list[int]], exclude: list[set[int]], k: int):
    """Every list in full: no cut of the popular items, no vectors."""
    popularity = collections.Counter(item for s in sequences for item in s)
    follows = collections.defaultdict(lambda: collections.defaultdict(float))
    for sequence in sequences:
        for a, b in zip(sequence, sequence[1:], strict=False):
            follows[a][b] += 1.0
            follows[b][a] += 0.3
    ranked = []
    for history, seen in zip(histories, exclude, strict=True):
        scores = collections.defaultdict(float)
        for weight, item in zip((1.0, 0.5, 0.3), reversed(history), strict=False):
            for other, count in follows[item].items():
                scores[other] += weight * count / math.sqrt(popularity[other] + 5)
        # an item without a score comes after all with one: by popularity, then by catalogue order
        order = sorted(range(len(IDS)), key=lambda i: (i not in scores, -scores.get(i, popularity[i]), i))
        kept = [item for item in order if item not in seen][:k]
        ranked.append(kept + [-1] * (k - len(kept)))
    return ranked


@settings(max_examples=50, deadline=None)
@given(SEQUENCES, SEQUENCES, st.integers(1, 12), st.booleans())
def test_equals_plain_python(sequences, histories, k, masked):
    training = Interactions.from_sequences([[IDS[i] for i in s] for s in sequences], IDS)
    arrays = [np.array(history, np.int32) for history in histories]
    ranked = ItemTransitions(training).rank(arrays, k, arrays if masked else None)
    seen = [set(history) if masked else set() for history in histories]
    assert ranked.tolist() == naive(sequences, histories, seen, k)


def test_exclusion_is_wider_than_the_history():
    training = Interactions.from_sequences([["i0", "i1"], ["i0", "i2"], ["i3", "i0"]], IDS)
    assert ItemTransitions(training).rank([np.array([0])], 3, [np.array([1, 0, 0])]).tolist() == [[2, 3, 4]]


def test_transitions_do_not_cross_users():
    training = Interactions.from_sequences([["i0", "i1"], ["i5", "i6"], ["i6", "i6"]], IDS)
    # i5 never follows i1; popularity (i6 first) fills up after i0, which only precedes i1
    assert ItemTransitions(training).rank([np.array([1])], 3).tolist() == [[0, 6, 1]]


def real_floors(folder: Path, masked: bool) -> dict[str, dict[str, float]]:
    """Recall, NDCG and MRR of both floors from the files themselves, in plain Python."""
    with gzip.open(folder / "items.jsonl.gz", "rt") as file:
        order = {json.loads(line)["item_id"]: row for row, line in enumerate(file)}
    with gzip.open(folder / "sequences.jsonl.gz", "rt") as file:
        sequences = [[order[item] for item in json.loads(line)["items"]] for line in file]
    sequences = [sequence for sequence in sequences if len(sequence) >= 3]
    popularity = collections.Counter(item for sequence in sequences for item in sequence[:-2])
    popular = sorted(range(len(order)), key=lambda item: (-popularity[item], item))
    follows = collections.defaultdict(collections.Counter)
    for *sequence, _, _ in sequences:
        for a, b in zip(sequence, sequence[1:], strict=False):
            follows[a][b] += 1.0
            follows[b][a] += 0.3
    totals = {floor: collections.Counter() for floor in ("popularity", "item transitions")}
    for *history, target in sequences:
        seen = set(history) if masked else set()
        scores = collections.Counter()
        for weight, item in zip((1.0, 0.5, 0.3), reversed(history), strict=False):
            for other, count in follows[item].items():
                scores[other] += weight * count / math.sqrt(popularity[other] + 5)
        scored = sorted((item for item in scores if item not in seen), key=lambda item: (-scores[item], item))
        filling = [item for item in popular[: 20 + len(history)] if item not in seen]
        lists = {"popularity": filling, "item transitions": scored + [i for i in filling if i not in scores]}
        for floor, ranked in lists.items():
            place = ranked[:10].index(target) if target in ranked[:10] else 99
            for k in (5, 10):
                if place < k:
                    gains = {"recall": 1, "ndcg": 1 / math.log2(place + 2), "mrr": 1 / (place + 1)}
                    totals[floor].update({f"{name}@{k}": gain for name, gain in gains.items()})
    return {floor: {name: total / len(sequences) for name, total in sums.items()} for floor, sums in totals.items()}


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("domain", dict.fromkeys(domain for domain, _ in KNOWN))
def test_known_values_on_real_data(domain, masked):
    folder = Path(os.environ.get("UTGREC_DATA", "")) / domain
    if not (folder / "items.jsonl.gz").exists():
        pytest.skip("UTGREC_DATA does not name a folder with this domain")
    with gzip.open(folder / "items.jsonl.gz", "rt") as lines:
        interactions = Interactions.from_folder(folder, [json.loads(line)["item_id"] for line in lines])
    expected = real_floors(folder, masked)
    for floor in (Popularity, ItemTransitions):
        result = evaluate(floor(interactions.training_part()), interactions, mask_seen=masked)
        known = KNOWN[domain, floor][2:] if masked else KNOWN[domain, floor][:2]
        assert (round(result["recall@10"], 4), round(result["ndcg@10"], 4)) == known
        metrics = {name: value for name, value in expected[floor.name].items()}
        assert {name: result[name] for name in metrics} == pytest.approx(metrics, abs=1e-9)
