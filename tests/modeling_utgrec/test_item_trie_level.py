"""The edges of one level against lists of pairs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_utgrec.item_trie_level import DENSE_LIMIT, TrieLevel


def make_level(edges: list[tuple[int, int]], num_nodes: int, size: int, dense_limit: int) -> TrieLevel:
    keys = torch.tensor([node * size + code for node, code in edges])
    fan_outs = torch.bincount(torch.tensor([node for node, _ in edges]), minlength=num_nodes)
    return TrieLevel(size, keys, fan_outs, torch.ones(len(edges)), dense_limit)


@st.composite
def edge_lists(draw):
    """Sorted edges (node, code) in which every node has at least one."""
    num_nodes, size = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    edges = set()
    for node in range(num_nodes):
        codes = draw(st.sets(st.integers(0, size - 1), min_size=1))
        edges |= {(node, code) for code in codes}
    return sorted(edges), num_nodes, size


@settings(max_examples=50, deadline=None)
@given(edge_lists(), st.sampled_from([0, DENSE_LIMIT]))
def test_children_child_and_columns_agree_with_the_list(edge_list, dense_limit):
    edges, num_nodes, size = edge_list
    level = make_level(edges, num_nodes, size, dense_limit)
    assert (level.table is None) == (dense_limit == 0)
    nodes = torch.tensor([-1, *range(num_nodes)])
    codes, exists, found = level.children(nodes)
    assert exists.shape == (num_nodes + 1, level.width) and not exists[0].any()
    every_column = torch.arange(level.width).expand(exists.shape)
    if codes is None:
        codes = every_column
    chosen_codes, chosen = level.child(nodes[:, None].expand(exists.shape), every_column)
    for row in range(1, num_nodes + 1):
        node = row - 1
        columns = exists[row].nonzero().flatten()
        expected = [place for place, edge in enumerate(edges) if edge[0] == node]
        assert [(node, code) for code in codes[row, columns].tolist()] == [edges[place] for place in expected]
        assert chosen[row, columns].tolist() == expected
        assert chosen_codes[row, columns].tolist() == codes[row, columns].tolist()
        places = torch.tensor(expected)
        assert level.columns(torch.full_like(places, node), places).tolist() == columns.tolist()
        assert level.edge(torch.tensor(node), codes[row, columns]).tolist() == expected
    assert (chosen[~exists] == -1).all()
    if found is not None:
        assert torch.equal(found[exists], chosen[exists])


def test_keys_are_as_small_as_the_level_allows():
    edges = [(0, 3), (1, 2)]
    assert make_level(edges, 2, 2**29, 0).keys.dtype == torch.int32
    wide = make_level(edges, 2, 2**30, 0)
    assert wide.keys.dtype == torch.int64
    assert wide.edge(torch.tensor([0, 1]), torch.tensor([3, 2])).tolist() == [0, 1]


@pytest.mark.parametrize("dense_limit", [0, DENSE_LIMIT])
def test_copy_on_another_device_answers_in_shape(dense_limit):
    level = make_level([(0, 1), (1, 0), (1, 2)], 2, 3, dense_limit).to("meta")
    nodes = torch.zeros(2, 4, dtype=torch.long, device="meta")
    assert level.children(nodes)[1].shape == (2, 4, level.width)
    assert level.child(nodes, nodes)[1].shape == (2, 4)
    assert level.nbytes > 0
