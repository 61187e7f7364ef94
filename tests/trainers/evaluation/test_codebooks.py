"""Measures of codebooks against plain Python computations."""

import math
from collections import Counter

import pytest
import torch

from trainers.evaluation.codebooks import codebook_health, collision_rate


def entropy(values: list) -> float:
    return -sum(count / len(values) * math.log(count / len(values)) for count in Counter(values).values())


@pytest.mark.parametrize("sizes", [[4], [4, 3], [4, 3, 5], [4, 3, 5, 2]])
def test_health_equals_plain_python(sizes):
    generator = torch.Generator().manual_seed(0)
    codes = torch.stack([torch.randint(size, (40,), generator=generator) for size in sizes], dim=1)
    codes[:, 0] = codes[:, 0].clamp(max=2)  # one code of the first level is never used
    rows = [tuple(row) for row in codes.tolist()]
    expected = {"collision_rate": sum(rows.count(row) > 1 for row in rows) / 40}
    for length, name in ((2, "pairs"), (3, "triples")):
        if length <= len(sizes):
            expected[f"entropy_{name}"] = entropy([row[:length] for row in rows])
    for level, size in enumerate(sizes):
        column = [row[level] for row in rows]
        expected |= {f"used_{level}": len(set(column)) / size, f"perplexity_{level}": math.exp(entropy(column))}
    health = codebook_health(codes, sizes)
    assert health.keys() == expected.keys() and health["used_0"] == 0.75
    assert health == pytest.approx(expected, rel=1e-6)


def test_items_that_collide_all_count():
    assert collision_rate(torch.tensor([[0, 1], [0, 1], [0, 2], [1, 1]])) == 0.5
    assert collision_rate(torch.tensor([[0, 1], [0, 2]])) == 0.0
