"""Telling words against the paper's formula, word by word, and on titles whose answer is plain."""

import math
import re

import numpy as np
import pytest

from tokenization_items.telling_words import TellingWords

TITLES = [
    "Blue pen with ink",
    "Blue pen, blue, with cap",
    "Pen with ink",
    "Paper with lines",
    "Paper with squares",
    "Grey stapler with staples",
    "",
]
GROUPS = np.array([0, 0, 0, 1, 1, 2, 2])


def brute_force(texts, groups, group, most):
    """The formula of the module for every word of a group, in Python's floats."""
    sets = [set(re.findall(r"\w\w+", text.lower())) for text in texts]
    words = {word for each in sets for word in each}
    count = {word: sum(word in each for each in sets) for word in words}
    inside = {word: sum(word in each for each, of in zip(sets, groups, strict=True) if of == group) for word in words}
    n_all, n_in = sum(count.values()), sum(inside.values())
    n_out = n_all - n_in
    scores = {}
    for word in words:
        y_in, prior = inside[word], count[word]
        y_out = count[word] - y_in
        if y_in == 0:
            continue
        odds_in = (y_in + prior) / (n_in + n_all - y_in - prior)
        odds_out = (y_out + prior) / (n_out + n_all - y_out - prior)
        deviation = math.sqrt(1 / (y_in + prior) + 1 / (y_out + prior))
        scores[word] = (math.log(odds_in) - math.log(odds_out)) / deviation
    kept = [word for word in scores if scores[word] > 1e-12]
    return sorted(kept, key=lambda word: (-round(scores[word], 9), -inside[word], word))[:most]


def test_words_are_those_of_a_group_and_not_of_all():
    found = TellingWords(TITLES).of_groups(np.arange(7), GROUPS)
    assert found[0][:2] == ["pen", "blue"] and "with" not in found[0]
    assert found[1][0] == "paper"
    assert found[2] == ["grey", "stapler", "staples"]


@pytest.mark.parametrize("seed", range(5))
def test_the_formula(seed):
    rng = np.random.default_rng(seed)
    words = np.array([f"w{number}" for number in range(30)])
    texts = [" ".join(words[(30 * rng.random(rng.integers(0, 9)) ** 2).astype(int)]) for _ in range(60)]
    rows = rng.permutation(60)[:50]
    groups = rng.integers(0, 6, 50)
    found = TellingWords(texts).of_groups(rows, groups, most_words=5)
    chosen = [texts[row] for row in rows]
    assert found == [brute_force(chosen, groups, group, 5) for group in range(groups.max() + 1)]
    assert TellingWords(texts).of_groups(rows, groups, [3, 1], 5) == [found[3], found[1]]


def test_one_group_alone_has_its_frequent_words():
    assert TellingWords(TITLES).of_groups(np.array([0, 1, 2]), np.zeros(3, np.int64)) == [
        ["pen", "with", "blue", "ink"]
    ]


def test_texts_without_words_and_groups_without_texts():
    words = TellingWords(["", "a !", "same", "same"])
    assert words.words == ["same"]
    assert words.of_groups(np.arange(4), np.array([0, 0, 1, 2])) == [[], [], []]  # no other word to compare with
    assert words.of_groups(np.empty(0, np.int64), np.empty(0, np.int64)) == []
    assert TellingWords([]).words == []
