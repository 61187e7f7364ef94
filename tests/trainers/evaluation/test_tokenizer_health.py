"""Health of item tokenizers against plain computations: information by loops, neighbours and AUC by brute force."""

import math
import random
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from modeling_utgrec import RecBaseTokenizerConfig, RecBaseTokenizerModel
from modeling_utgrec.quantization import ResidualCodebooks, TreeCodebooks
from tokenization_items.processing_content import codes_of_embeddings
from trainers.data.interactions import Interactions
from trainers.evaluation.candidate_rows import draw_rows
from trainers.evaluation.tokenizer_health import (
    attribute_information,
    nearest_gauc,
    neighbour_agreement,
    shared_texts,
    tokenizer_health,
    vectors_of_items,
)


def entropy(shares):
    return -sum(share * math.log(share) for share in shares.values() if share)


def information(codes, rows):
    """Mutual information of code and value by a loop over the joint distribution, and that of item and value."""
    known = [(code, list(row)) for code, row in zip(codes, rows, strict=True) if len(row)]
    joint, of_code, of_value = defaultdict(float), defaultdict(float), defaultdict(float)
    for code, row in known:
        for value in row:
            share = 1 / (len(row) * len(known))
            joint[code, value] += share
            of_code[code] += share
            of_value[value] += share
    found = sum(p * math.log(p / (of_code[code] * of_value[value])) for (code, value), p in joint.items())
    return found, entropy(of_value) - sum(math.log(len(row)) for _, row in known) / len(known)


def rows_of(lists):
    return [np.array(row, np.int64) for row in lists]


@pytest.mark.parametrize("several", [False, True])
def test_information_equals_the_loop(several):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 5, (60, 2))
    rows = rows_of([rng.permutation(7)[: rng.integers(0, 4) if several else rng.integers(0, 2)] for _ in range(60)])
    found = attribute_information(codes, rows, permutations=3)
    assert found["without"] == sum(not len(row) for row in rows) > 0
    assert found["items"] + found["without"] == 60 and found["values"] == 7
    for level in range(2):
        plain, most = information(codes[:, level].tolist(), rows)
        assert found["information"][level] == pytest.approx(plain, rel=1e-9)
        assert found["most"] == pytest.approx(most, rel=1e-9)


def test_adjusted_information_is_one_where_codes_tell_all_and_nought_by_chance():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 6, 3000)
    codes = np.stack([values * 2 + rng.integers(0, 2, 3000), rng.integers(0, 500, 3000)], axis=1)
    told, chance = attribute_information(codes, rows_of(values[:, None]))["adjusted"]
    assert told == pytest.approx(1, abs=1e-9)
    assert abs(chance) < 0.02  # where the plain information is far from nought, for six items have a code
    found = attribute_information(codes, rows_of(values[:, None]))
    assert found["information"][1] > 0.2 * found["most"]
    assert found["by_chance"][1] == pytest.approx(found["information"][1], rel=0.1)


def test_the_mean_by_chance_is_that_of_all_permutations():
    codes, values = np.array([[0], [0], [1], [1]]), rows_of([[0], [0], [1], [2]])
    expected = 0.0
    for seed in range(4000):  # of 24 permutations each is drawn often
        shuffled = codes[:, 0].tolist()
        random.Random(seed).shuffle(shuffled)
        expected += information(shuffled, values)[0] / 4000
    found = attribute_information(codes, values, permutations=4000)
    assert found["by_chance"][0] == pytest.approx(expected, abs=0.02)


def test_no_item_with_the_attribute_or_one_value_is_no_error():
    nothing = attribute_information(np.zeros((3, 2), np.int64), rows_of([[], [], []]))
    assert nothing["items"] == 0 and nothing["adjusted"] == []
    same = attribute_information(np.array([[0], [1], [0]]), rows_of([[4], [4], [4]]))
    assert same["most"] == pytest.approx(0, abs=1e-12) and same["adjusted"] == [None]


def test_a_sample_is_bounded_and_said():
    rng = np.random.default_rng(0)
    found = attribute_information(rng.integers(0, 3, (50, 1)), rows_of(rng.integers(0, 3, (50, 1))), most_items=20)
    assert (found["items"], found["without"]) == (20, 0)


def test_items_with_equal_texts_are_told_apart_from_those_with_other_texts():
    codes = np.array([[0, 0], [0, 0], [0, 1], [0, 1], [1, 1], [2, 2]])
    texts = ["a", "a", "b", "c", "d", "d"]
    assert shared_texts(codes, texts) == pytest.approx({"equal_texts": 4 / 6, "sharing_codes_of_other_texts": 2 / 6})


def test_vectors_of_a_residual_quantizer_are_the_encoders():
    torch.manual_seed(0)
    network = RecBaseTokenizerModel(
        RecBaseTokenizerConfig(input_dim=6, hidden_sizes=[8], codebook_dim=4, num_levels=3, codebook_size=5)
    ).eval()
    embeddings = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32)
    codes, residuals = codes_of_embeddings(network, embeddings)
    of_codes, unquantized = vectors_of_items(network, codes, residuals)
    np.testing.assert_allclose(unquantized, residuals[:, 0], atol=1e-5)  # the first level quantizes all of it
    books = [book.detach().numpy() for book in network.quantizer.level_vectors()]
    for row in range(20):
        np.testing.assert_allclose(
            of_codes[row], sum(book[code] for book, code in zip(books, codes[row], strict=True)), atol=1e-5
        )


@pytest.mark.parametrize("kind", [TreeCodebooks, ResidualCodebooks])
def test_vectors_of_utgrecs_quantizers_are_the_last_representation(kind):
    torch.manual_seed(0)
    quantizer = kind([6, 5, 5], 4, 0.25)
    representations = torch.randn(15, 3, 4)
    output = quantizer(representations)
    network = type("Network", (), {"quantizer": quantizer})()
    of_codes, unquantized = vectors_of_items(network, output.codes.numpy(), output.residuals.detach().numpy())
    np.testing.assert_allclose(unquantized, representations[:, -1].numpy(), atol=1e-5)
    np.testing.assert_allclose(of_codes, output.quantized[:, -1].detach().numpy(), atol=1e-5)


def test_agreement_equals_brute_force():
    rng = np.random.default_rng(0)
    unquantized = rng.standard_normal((30, 5)).astype(np.float32)
    of_codes = (unquantized + 0.7 * rng.standard_normal((30, 5))).astype(np.float32)

    def nearest(vectors, row):
        unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        others = [other for other in range(30) if other != row]
        return set(sorted(others, key=lambda other: -unit[row] @ unit[other])[:4])

    expected = np.mean([len(nearest(of_codes, row) & nearest(unquantized, row)) / 4 for row in range(30)])
    found = neighbour_agreement(of_codes, unquantized, neighbours=4)
    assert found == {"queries": 30, "neighbours": 4, "agreement": pytest.approx(expected), "by_chance": 4 / 29}
    assert neighbour_agreement(unquantized, unquantized)["agreement"] == 1
    assert neighbour_agreement(of_codes, unquantized, most_queries=7)["queries"] == 7
    assert neighbour_agreement(of_codes[:1], unquantized[:1])["agreement"] is None


def test_gauc_equals_a_loop_over_pairs():
    rng = np.random.default_rng(0)
    items = [f"i{row}" for row in range(25)]
    interactions = Interactions.from_sequences(
        [[items[row] for row in rng.permutation(25)[:6]] for _ in range(12)], items
    )
    vectors = rng.standard_normal((25, 4)).astype(np.float32)
    rows = draw_rows(interactions)
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    by_user = defaultdict(list)
    for row in range(len(rows)):
        mean = unit[rows.history(row)].sum(0)
        by_user[rows.users[row]].append((unit[rows.items[row]] @ mean, rows.labels[row]))
    of_users = []
    for scored in by_user.values():
        pairs = [(a > b) + 0.5 * (a == b) for a, x in scored for b, y in scored if x and not y]
        of_users.append(np.mean(pairs))
    found = nearest_gauc(vectors, np.zeros_like(vectors), interactions)
    assert found["codes"] == pytest.approx(np.mean(of_users), abs=1e-9) and found["unquantized"] == 0.5
    assert (found["rows"], found["users"]) == (len(rows), 12)
    assert nearest_gauc(vectors, vectors, Interactions.from_sequences([["i0"]], items)) is None


def test_all_of_it_together():
    codes = np.array([[0, 0], [0, 0], [1, 2], [1, 1]])
    vectors = np.eye(4, dtype=np.float32)
    health = tokenizer_health(
        codes, [2, 3], ["a", "b", "c", "d"], {"brand": rows_of([[0], [], [1], [1]])}, (vectors, vectors)
    )
    assert health["used"] == [1.0, 1.0] and health["sharing_codes"] == 0.5
    pairs = Counter(map(tuple, codes.tolist()))
    assert health["entropy_pairs"] == pytest.approx(-sum(n / 4 * math.log(n / 4) for n in pairs.values()))
    assert health["entropy_pairs_most"] == pytest.approx(math.log(4))
    assert health["information"]["brand"]["without"] == 1 and "gauc" not in health
    assert health["neighbours"]["agreement"] == 1.0
