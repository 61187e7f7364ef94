"""The trie against dictionaries of sets, on its dense and its sparse path."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_utgrec.item_trie import ItemTrie, lexicographic_order


def random_codes(num_items, level_sizes, seed):
    rng = np.random.default_rng(seed)
    flat = rng.permutation(int(np.prod(level_sizes)))[:num_items]
    return np.stack(np.unravel_index(flat, level_sizes), axis=1)


def prefix_sets(codes):
    """For each prefix (a tuple) the set of codes that follow it."""
    following = {}
    for row in codes.tolist():
        for level, code in enumerate(row):
            following.setdefault(tuple(row[:level]), set()).add(code)
    return following


def walk(trie, prefix):
    node = torch.zeros((), dtype=torch.long)
    for level, code in enumerate(prefix):
        node = trie.step(level, node, torch.tensor(code))
    return node


@st.composite
def code_tables(draw):
    sizes = draw(st.lists(st.integers(1, 5), min_size=2, max_size=4))
    capacity = int(np.prod(sizes))
    num_items = draw(st.integers(1, min(capacity, 40)))
    return sizes, random_codes(num_items, sizes, draw(st.integers(0, 10_000)))


@settings(max_examples=50, deadline=None)
@given(code_tables(), st.sampled_from([0, 8, 10**6]))
def test_allowed_codes_equal_a_dictionary_of_sets(table, dense_limit):
    sizes, codes = table
    trie = ItemTrie(codes, sizes, [0] * len(sizes), dense_limit=dense_limit)
    following = prefix_sets(codes)
    for level, size in enumerate(sizes):
        prefixes = sorted(prefix for prefix in following if len(prefix) == level)
        assert trie.num_nodes(level) == len(prefixes)
        nodes = torch.stack([walk(trie, prefix) for prefix in prefixes])
        assert nodes.tolist() == list(range(len(prefixes)))
        allowed = trie.allowed(level, nodes)
        assert allowed.shape == (len(prefixes), size)
        for row, prefix in enumerate(prefixes):
            assert set(allowed[row].nonzero().flatten().tolist()) == following[prefix]
            for code in range(size):
                exists = trie.step(level, nodes[row], torch.tensor(code)).item() >= 0
                assert exists == (code in following[prefix])
    for row, identifier in enumerate(codes.tolist()):
        assert walk(trie, identifier).item() == row


@pytest.mark.parametrize("sizes", [[7, 9], [6, 5, 8], [4, 3, 5, 6]])
def test_dense_and_sparse_levels_answer_alike(sizes):
    codes = random_codes(40, sizes, seed=1)
    dense = ItemTrie(codes, sizes, [0] * len(sizes))
    sparse = ItemTrie(codes, sizes, [0] * len(sizes), dense_limit=0)
    assert all(level.table is not None for level in dense.levels)
    assert all(level.table is None for level in sparse.levels)
    generator = torch.Generator().manual_seed(0)
    for level, size in enumerate(sizes):
        nodes = torch.randint(-1, dense.num_nodes(level), (3, 4, 5), generator=generator)
        following = torch.randint(-1, size + 1, (3, 4, 5), generator=generator)
        assert torch.equal(dense.allowed(level, nodes), sparse.allowed(level, nodes))
        assert torch.equal(dense.step(level, nodes, following), sparse.step(level, nodes, following))


def test_levels_over_the_limit_or_with_few_children_are_sparse():
    codes = random_codes(40, [4, 5, 6], seed=2)
    trie = ItemTrie(codes, [4, 5, 6], [0, 4, 9], dense_limit=20)
    assert [level.table is not None for level in trie.levels] == [True, True, False]
    chain = ItemTrie(torch.tensor([[0, 1], [3, 2]]), [4, 1000], [0, 4])
    assert [level.table is not None for level in chain.levels] == [True, False]


def test_one_item():
    trie = ItemTrie(torch.tensor([[2, 0, 3]]), [4, 5, 6], [2, 6, 6], item_ids=["only"])
    node = torch.zeros(1, dtype=torch.long)
    for level, code in enumerate([2, 0, 3]):
        assert trie.allowed(level, node)[0].nonzero().flatten().tolist() == [code]
        node = trie.step(level, node, torch.tensor([code]))
    assert node.tolist() == [0] and len(trie) == trie.num_items == 1 and trie.item_ids == ["only"]


def test_unknown_prefixes_stay_unknown():
    for dense_limit in (0, 10**6):
        trie = ItemTrie(torch.tensor([[0, 1], [1, 0], [1, 1]]), [2, 2], [2, 4], dense_limit=dense_limit)
        dead = torch.tensor([-1, 0, 1])
        assert trie.allowed(1, dead).tolist() == [[False, False], [False, True], [True, True]]
        assert trie.step(1, dead, torch.tensor([0, 0, 0])).tolist() == [-1, -1, 1]
        # 0 * 2 + 2 is the key of node 1 with code 0, and -1 * 2 + 3 the key of node 0 with code 1: neither is a child.
        assert trie.step(1, torch.tensor([0, 1, -1]), torch.tensor([2, -1, 3])).tolist() == [-1, -1, -1]


def test_step_broadcasts_nodes_over_codes():
    codes = random_codes(15, [4, 5], seed=3)
    trie = ItemTrie(codes, [4, 5], [0, 4])
    nodes = torch.arange(trie.num_nodes(1))
    children = trie.step(1, nodes[:, None], torch.arange(5))
    assert children.shape == (trie.num_nodes(1), 5)
    assert sorted(children[children >= 0].tolist()) == list(range(15))
    assert torch.equal(children >= 0, trie.allowed(1, nodes))


def test_item_rows_follow_the_given_order():
    codes = random_codes(30, [4, 5, 6], seed=4)
    permutation = np.random.default_rng(0).permutation(30)
    trie, shuffled = (ItemTrie(table, [4, 5, 6], [0, 4, 9]) for table in (codes, codes[permutation]))
    for level in range(3):
        assert torch.equal(
            trie.allowed(level, torch.arange(trie.num_nodes(level))),
            shuffled.allowed(level, torch.arange(trie.num_nodes(level))),
        )
    assert [walk(shuffled, identifier).item() for identifier in codes[permutation].tolist()] == list(range(30))


def test_to_the_same_device_is_the_trie_itself():
    trie = ItemTrie(random_codes(10, [4, 5], seed=5), [4, 5], [0, 4])
    assert trie.to("cpu") is trie
    meta = trie.to("meta")
    assert meta.device.type == "meta" and trie.device.type == "cpu"
    assert meta.allowed(1, torch.zeros(2, 3, dtype=torch.long, device="meta")).shape == (2, 3, 5)


def same_tensors(first: ItemTrie, second: ItemTrie) -> bool:
    """Whether two tries consist of equal tensors of equal types."""

    def tensors(trie):
        found = [trie._codes, trie._rows]
        for level in trie.levels:
            found += [level.keys, level.starts, level.counts, torch.tensor([level.fan_out, level.num_nodes])]
            found.append(torch.zeros(0) if level.table is None else level.table)
        return found

    pairs = zip(tensors(first), tensors(second), strict=True)
    return all(one.dtype == other.dtype and torch.equal(one, other) for one, other in pairs)


@settings(max_examples=50, deadline=None)
@given(code_tables(), st.integers(0, 40), st.sampled_from([0, 8, 10**6]))
def test_adding_items_equals_building_anew(table, num_first, dense_limit):
    sizes, codes = table
    num_first = max(1, min(num_first, len(codes)))
    whole = ItemTrie(codes, sizes, [0] * len(sizes), dense_limit=dense_limit)
    first = ItemTrie(codes[:num_first], sizes, [0] * len(sizes), dense_limit=dense_limit)
    before = copy.deepcopy(first)
    added = first.add_items(codes[num_first:])
    assert same_tensors(added, whole)
    assert same_tensors(first, before)
    assert added.is_copy_of(first) == (num_first == len(codes))


def test_adding_items_keeps_names_and_names_mistakes():
    trie = ItemTrie(torch.tensor([[0, 1], [1, 1]]), [2, 3], [0, 2], item_ids=["a", "b"])
    assert trie.add_items([[1, 0]], ["c"]).item_ids == ["a", "b", "c"] and trie.item_ids == ["a", "b"]
    with pytest.raises(ValueError, match=r"2 new semantic IDs .* rows \[1, 2\] .*\[\[1, 1\], \[0, 1\]\]"):
        trie.add_items([[0, 0], [1, 1], [0, 1]], ["c", "d", "e"])
    with pytest.raises(ValueError, match=r"rows \[0, 1\] of the new codes"):
        trie.add_items([[0, 0], [0, 0]], ["c", "d"])
    with pytest.raises(ValueError, match="have item_ids"):
        trie.add_items([[0, 0]])
    with pytest.raises(ValueError, match="have no item_ids"):
        ItemTrie([[0, 1]], [2, 3], [0, 2]).add_items([[0, 0]], ["c"])
    with pytest.raises(ValueError, match=r"rows \[0\], codes \[\[0, 3\]\]"):
        trie.add_items([[0, 3]], ["c"])


def test_identifiers_that_do_not_fit_into_one_integer():
    sizes = [2**15, 2**16, 2**31, 2**20]  # 82 bits
    rng = np.random.default_rng(0)
    codes = np.unique(np.stack([rng.integers(0, size, 50) // 7 * 7 for size in sizes], axis=1), axis=0)
    codes = np.repeat(codes, 3, axis=0) + np.arange(3 * len(codes))[:, None] % 3 * [0, 0, 1, 0]
    codes = rng.permutation(codes)
    order = lexicographic_order(torch.from_numpy(codes), sizes)
    assert codes[order].tolist() == sorted(codes.tolist())
    trie = ItemTrie(codes[:-20], sizes, [0] * 4).add_items(codes[-20:])
    assert trie.levels[2].keys.dtype == torch.int64
    assert [walk(trie, identifier).item() for identifier in codes.tolist()] == list(range(len(codes)))


def test_path_leads_to_positions():
    codes = random_codes(30, [4, 5, 6], seed=6)
    trie = ItemTrie(codes, [4, 5, 6], [0, 4, 9])
    rows = torch.tensor([[3, -1], [29, 0]])
    path = trie.path(rows)
    assert torch.equal(trie.rows_at(path[-1]), rows)
    assert trie.codes_of(rows)[0, 0].tolist() == codes[3].tolist()
    for depth, edges in enumerate(path):
        for place in ((0, 0), (1, 0), (1, 1)):
            prefix = codes[rows[place], : depth + 1].tolist()
            assert edges[place] == sorted({tuple(row[: depth + 1]) for row in codes.tolist()}).index(tuple(prefix))
        assert edges[0, 1] == -1


def test_memory_of_a_large_catalogue():
    trie = ItemTrie(random_codes(50_000, [64, 64, 64], seed=7), [64, 64, 64], [0, 64, 128])
    assert trie.nbytes < 1.5e6  # 30 bytes an item, of which the tables are 5


@pytest.mark.parametrize(
    ("codes", "sizes", "offsets", "item_ids", "message"),
    [
        ([[0, 1], [1, 1], [0, 1]], [2, 2], [0, 2], None, r"equal rows: \[\[0, 2\]\]"),
        ([[0, 1], [1, 2]], [2, 2], [0, 2], None, r"rows \[1\], codes \[\[1, 2\]\]"),
        ([[0, 1], [-1, 1]], [2, 2], [0, 2], None, r"rows \[1\]"),
        ([[0, 1]], [2, 2, 2], [0, 2, 4], None, r"shape \(num_items, 3\), got \(1, 2\)"),
        ([[0, 1]], [2, 2], [0], None, "2 level_sizes but 1 level_offsets"),
        ([[0, 1]], [2, 2], [0, 2], ["a", "b"], "1 rows of codes but 2 item_ids"),
        ([[0.0, 1.0]], [2, 2], [0, 2], None, "must be integers"),
    ],
)
def test_bad_codes_are_named(codes, sizes, offsets, item_ids, message):
    with pytest.raises(ValueError, match=message):
        ItemTrie(torch.tensor(codes), sizes, offsets, item_ids=item_ids)


def test_no_items_is_an_error():
    with pytest.raises(ValueError, match="at least one item"):
        ItemTrie(np.zeros((0, 2), dtype=np.int64), [2, 2], [0, 2])


# content vectors


def test_content_goes_with_the_items():
    codes = random_codes(20, [4, 4, 4], seed=0)
    content = torch.randn(20, 3, dtype=torch.float16)
    whole = ItemTrie(codes, [4, 4, 4], [0, 4, 8], content=content)
    grown = ItemTrie(codes[:15], [4, 4, 4], [0, 4, 8], content=content[:15]).add_items(
        codes[15:], content=content[15:].float()
    )
    for trie in (whole, grown, grown.to("cpu")):
        assert trie.content.dtype == torch.float16 and torch.equal(trie.content, content)
    assert whole.nbytes == ItemTrie(codes, [4, 4, 4], [0, 4, 8]).nbytes + content.nbytes
    moved = whole.to("meta")
    assert moved.content.device.type == "meta" and whole.content.device.type == "cpu"
    added = codes[15:]
    for new, message in (
        (None, "the items of this trie have content, so must the new ones"),
        (torch.randn(5, 4), r"content must have shape \(5, 3\)"),
        (torch.randn(4, 3), r"content must have shape \(5, 3\)"),
        (torch.full((5, 3), torch.inf), r"5 items have content with NaN or infinity: rows \[0, 1"),
        (torch.ones(5, 3, dtype=torch.int64), "must be floating-point"),
    ):
        with pytest.raises(ValueError, match=message):
            ItemTrie(codes[:15], [4, 4, 4], [0, 4, 8], content=content[:15]).add_items(added, content=new)
    with pytest.raises(ValueError, match="have no content, so must the new ones"):
        ItemTrie(codes[:15], [4, 4, 4], [0, 4, 8]).add_items(added, content=content[15:])
    with pytest.raises(ValueError, match=r"shape \(20, width\), a row for each item, got \(19, 3\)"):
        ItemTrie(codes, [4, 4, 4], [0, 4, 8], content=content[1:])
    with pytest.raises(ValueError, match=r"got \(20, 0\)"):
        ItemTrie(codes, [4, 4, 4], [0, 4, 8], content=content[:, :0])


@pytest.mark.parametrize("dense_limit", [0, 10**6])
def test_find_is_the_inverse_of_codes(dense_limit):
    codes = torch.as_tensor(random_codes(20, [4, 4, 4], seed=0))
    trie = ItemTrie(codes, [4, 4, 4], [0, 4, 8], dense_limit=dense_limit)
    every = torch.cartesian_prod(*[torch.arange(-1, 5)] * 3).view(6, 36, 3)
    found = trie.find(every)
    assert found.shape == (6, 36) and (found >= 0).sum() == 20
    assert torch.equal(trie.find(codes), torch.arange(20))
    assert torch.equal(every[found >= 0], codes[found[found >= 0]])


@settings(max_examples=100, deadline=None)
@given(code_tables(), st.sampled_from([0, 8, 10**6]), st.lists(st.integers(0, 40), max_size=4))
def test_sorted_parts_make_the_trie_of_the_whole(table, dense_limit, cuts):
    sizes, codes = table
    codes = codes[np.lexsort(codes.T[::-1])]
    names = [f"item {row}" for row in range(len(codes))]
    whole = ItemTrie(codes, sizes, [1] * len(sizes), names, dense_limit)
    parts = np.split(codes, sorted(cut for cut in cuts if cut <= len(codes)))
    trie = ItemTrie.from_sorted(iter(parts), sizes, [1] * len(sizes), names, dense_limit)
    assert torch.equal(trie.codes, whole.codes) and trie.num_items == len(codes) and trie.item_ids == names
    for one, other in zip(trie.levels, whole.levels, strict=True):
        assert (one.num_nodes, one.num_edges, one.fan_out) == (other.num_nodes, other.num_edges, other.fan_out)
        for name in ("keys", "starts", "counts", "table"):
            first, second = getattr(one, name), getattr(other, name)
            assert first is second is None or (torch.equal(first, second) and first.dtype == second.dtype)
    assert torch.equal(trie.find(whole.codes), torch.arange(len(codes)))
    assert torch.equal(trie.positions_of(torch.arange(len(codes))), torch.arange(len(codes)))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([[[0, 1], [0, 0]]], "not sorted"),
        ([[[0, 1]], [[0, 0]]], "not sorted"),
        ([[[1, 0]], [[0, 2]]], "not sorted"),
        ([[[0, 1], [0, 1]]], "same semantic ID"),
        ([[[0, 1]], [[0, 1]]], "same semantic ID"),
        ([], "at least one"),
        ([[[0, 3]]], "outside the level sizes"),
    ],
)
def test_parts_that_make_no_trie(parts, message):
    with pytest.raises(ValueError, match=message):
        ItemTrie.from_sorted([torch.tensor(part) for part in parts], [2, 3], [1, 3])


def test_names_of_sorted_parts_must_be_as_many():
    with pytest.raises(ValueError, match="2 rows of codes but 1 item_ids"):
        ItemTrie.from_sorted([torch.tensor([[0, 1], [1, 1]])], [2, 3], [1, 3], ["one"])
