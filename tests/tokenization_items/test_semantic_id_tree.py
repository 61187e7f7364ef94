"""The tree of semantic IDs against a look at every item."""

from itertools import groupby

import numpy as np
import pytest

from tokenization_items.item_index import ItemIndex
from tokenization_items.semantic_id_tree import SemanticIDTree
from tokenization_items.telling_words import TellingWords


def make_index(num_items: int, sizes: list[int], titles: list[str] | None = None) -> ItemIndex:
    rng = np.random.default_rng(0)
    codes = np.stack(np.unravel_index(rng.permutation(int(np.prod(sizes)))[:num_items], sizes), 1)
    index = ItemIndex(sizes, list(np.cumsum([2, *sizes[:-1]])))
    index.assign([f"i{row}" for row in range(num_items)], codes, titles=titles)
    return index


@pytest.fixture(scope="module")
def tree():
    colours = ["red", "blue", "green"]
    titles = [f"{colours[row % 3]} pen of kind{row % 7}" for row in range(60)]
    return SemanticIDTree(make_index(60, [4, 5, 6], titles))


def test_branches_and_items_of_every_prefix(tree):
    codes = tree.index.codes.tolist()
    for length in range(4):
        for prefix in {tuple(each[:length]) for each in codes}:
            rows = [row for row, each in enumerate(codes) if tuple(each[:length]) == prefix]
            assert tree.rows(prefix).tolist() == sorted(rows, key=lambda row: codes[row])
            found, total = tree.branches(prefix)
            expected = {}
            if length < 3:
                below = sorted(rows, key=lambda row: codes[row][length])
                expected = {
                    (*prefix, code): list(each) for code, each in groupby(below, key=lambda row: codes[row][length])
                }
            assert total == len(found) == len(expected)
            assert {each.prefix: each.num_items for each in found} == {
                key: len(each) for key, each in expected.items()
            }
            assert [each.prefix for each in found] == sorted(expected, key=lambda key: (-len(expected[key]), key))


def test_branches_come_in_parts_with_the_words_of_the_whole(tree):
    every, total = tree.branches(())
    assert [part for start in range(0, total, 3) for part in tree.branches((), start, 3)[0]] == every
    words = TellingWords(tree.index.titles).of_groups(np.arange(60), tree.index.codes[:, 0].astype(np.int64))
    assert {each.prefix[0]: each.words for each in every} == dict(enumerate(map(tuple, words)))


def test_path_to_an_item(tree):
    codes = tuple(tree.index.codes[17].tolist())
    path = tree.path(codes)
    assert [each.prefix for each in path] == [codes[:1], codes[:2], codes]
    assert path[0] in tree.branches(())[0] and path[1] in tree.branches(codes[:1])[0]
    assert path[2] in tree.branches(codes[:2])[0] and path[2].num_items == 1


def test_prefixes_that_are_none(tree):
    absent = next(
        each for each in np.ndindex(4, 5, 6) if each not in {tuple(codes) for codes in tree.index.codes.tolist()}
    )
    assert tree.longest_prefix(absent) == absent[:2] and len(tree.path(absent)) == 2
    with pytest.raises(ValueError, match=rf"begins with \({', '.join(map(str, absent))}\); some begin with"):
        tree.rows(absent)
    with pytest.raises(ValueError, match="Level 2 has the codes 0 to 4, got 5"):
        tree.branches((0, 5))
    with pytest.raises(ValueError, match="has 3 codes"):
        tree.path((0, 0, 0, 0))
    empty = SemanticIDTree(ItemIndex([4, 4], [1, 5]))
    assert empty.branches(()) == ([], 0) and empty.rows(()).tolist() == []
