"""The edges of one level against lists of pairs."""

from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_utgrec import item_trie_level
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
        every_code = torch.arange(-1, size + 1)
        wanted = [edges.index((node, code)) if (node, code) in edges else -1 for code in every_code.tolist()]
        for cached in (item_trie_level.CACHED_EDGES, 0):
            with patch.object(item_trie_level, "CACHED_EDGES", cached):
                assert level.edge(torch.tensor(node), every_code).tolist() == wanted
                assert level.edge(torch.tensor(-1), every_code).tolist() == [-1] * len(every_code)
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


@settings(max_examples=50, deadline=None)
@given(edge_lists(), st.sampled_from([0, DENSE_LIMIT]), st.randoms(use_true_random=False))
def test_edges_and_counts_of_children_agree_with_the_list(edge_list, dense_limit, random):
    edges, num_nodes, size = edge_list
    level = make_level(edges, num_nodes, size, dense_limit)
    level.counts = torch.tensor([random.randint(1, 9) for _ in edges], dtype=torch.int32)
    order = [-1, *random.sample(range(num_nodes), num_nodes)]
    nodes = torch.tensor(order)
    codes, listed, found = level.listed_children(nodes)
    assert codes.shape == listed.shape == found.shape == (len(order), level.fan_out)
    assert (codes[~listed] == 0).all() and ((found >= 0) & (found < len(edges))).all()
    _, exists, _ = level.children(nodes)
    every, logs = level.edges_of_children(nodes), level.log_counts(nodes)
    assert every.shape == logs.shape == exists.shape and ((every >= 0) & (every < len(edges))).all()
    for row, node in enumerate(order):
        expected = [place for place, edge in enumerate(edges) if edge[0] == node]
        assert found[row, listed[row]].tolist() == expected
        assert codes[row, listed[row]].tolist() == [edges[place][1] for place in expected]
        assert every[row, exists[row]].tolist() == expected
        torch.testing.assert_close(logs[row, exists[row]], level.counts[expected].float().log())
    torch.testing.assert_close(level.log_counts(nodes.view(1, -1)), logs[None])


@settings(max_examples=50, deadline=None)
@given(edge_lists(), st.sampled_from([0, DENSE_LIMIT]), st.randoms(use_true_random=False))
def test_cells_are_where_the_children_of_beams_stand(edge_list, dense_limit, random):
    edges, num_nodes, size = edge_list
    level = make_level(edges, num_nodes, size, dense_limit)
    beams = [-1, *random.sample(range(num_nodes), random.randint(1, num_nodes))]
    random.shuffle(beams)
    nodes = torch.tensor([beams])
    # every edge, and what is none: of a beam that ended, and behind the last edge
    asked = [*((node, place) for place, (node, _) in enumerate(edges)), (-1, -1), (0, -1), (0, len(edges))]
    starts, wanted = (torch.tensor([column]) for column in zip(*asked, strict=True))
    cells, there = level.cells(nodes, starts, wanted)
    assert there.tolist() == [[0 <= place < len(edges) and node in beams for node, place in asked]]
    grid, exists = level.edges_of_children(nodes), level.children(nodes)[1]
    assert ((cells >= 0) & (cells < grid.numel())).all()
    assert exists.flatten()[cells[there]].all()
    assert grid.flatten()[cells[there]].tolist() == wanted[there].tolist()


def test_counts_of_a_copy_are_its_own():
    level = make_level([(0, 1), (1, 0), (1, 2)], 2, 3, DENSE_LIMIT)
    level.log_counts(torch.tensor([0, 1]))
    nodes = torch.zeros(2, dtype=torch.long, device="meta")
    assert level.to("meta").log_counts(nodes).device.type == "meta"


def test_a_large_level_is_dense_where_its_edges_fill_the_table():
    """Up to two entries an edge whatever the limit, but for none."""
    edges = [(node, code) for node in range(6) for code in range(3)]
    for size, dense in ((6, True), (7, False)):
        assert (make_level(edges, 6, size, dense_limit=1).table is not None) == dense
        assert make_level(edges, 6, size, dense_limit=0).table is None
        assert make_level(edges, 6, size, dense_limit=6 * size).table is not None
