"""The sharded index against an index in memory, looked up both ways, and files that are broken."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenization_items import ItemIndex, ItemIndexError, UniversalItemTokenizer, UnknownItemError
from tokenization_items import sharded_index as module
from tokenization_items.semantic_id_tree import SemanticIDTree
from tokenization_items.sharded_index import (
    MANIFEST_NAME,
    SHARDED_NAME,
    ReadOnlyIndexError,
    ShardedItemIndex,
    id_hash,
    id_hashes,
    write_codes,
    write_lookup,
    write_manifest,
)
from tokenization_items.tokenization_items import TOKENIZER_FILE

SIZES, OFFSETS = [3, 4, 5], [1, 4, 8]


def made(folder, codes, item_ids, titles=None, cuts=(), num_tables=1, sizes=SIZES):
    """An index of items in shards that are cut at rows."""
    order = np.lexsort(codes.T[::-1])
    folder.mkdir(parents=True)
    titles = [""] * len(codes) if titles is None else titles
    shards = []
    for number, rows in enumerate(part for part in np.split(order, sorted(cuts)) if len(part)):
        ids, names = ([texts[row] for row in rows] for texts in (item_ids, titles))
        shards.append(write_codes(folder / f"codes-{number:05}.safetensors", codes[rows], ids, names, sizes))
    hashes = id_hashes([item_ids[row] for row in order])
    tables = []
    for number in range(num_tables):
        low, high = (2**64 * each // num_tables for each in (number, number + 1))
        rows = np.array([row for row, each in enumerate(hashes.tolist()) if low <= each < high], dtype=np.int64)
        table = write_lookup(folder / f"lookup-{number:05}.safetensors", hashes[rows], rows)
        tables.append(table | {"first": low})
    offsets = [1 + sum(sizes[:level]) for level in range(len(sizes))]
    write_manifest(folder, sizes, offsets, shards, tables)
    return ShardedItemIndex(folder)


@st.composite
def catalogues(draw):
    num_items = draw(st.integers(1, 60))
    flat = np.random.default_rng(draw(st.integers(0, 999))).permutation(60)[:num_items]
    codes = np.stack(np.unravel_index(flat, SIZES), axis=1)
    ids = draw(
        st.lists(
            st.text(st.characters(codec="utf-8", exclude_characters=" \t\n"), min_size=1, max_size=6),
            min_size=num_items,
            max_size=num_items,
            unique=True,
        )
    )
    ids = [item_id if item_id.strip() else f"{item_id}x{row}" for row, item_id in enumerate(ids)]
    return codes, ids if len({*ids}) == num_items else [f"{item_id}{row}" for row, item_id in enumerate(ids)]


@settings(max_examples=40, deadline=None)
@given(catalogues(), st.lists(st.integers(1, 59), max_size=3), st.integers(1, 3), st.booleans())
def test_answers_as_an_index_in_memory(tmp_path_factory, catalogue, cuts, num_tables, has_titles):
    codes, ids = catalogue
    titles = [f"title of {item_id}" if row % 2 else "" for row, item_id in enumerate(ids)] if has_titles else None
    index = made(tmp_path_factory.mktemp("made") / "index", codes, ids, titles, cuts, num_tables)
    plain = ItemIndex(SIZES, OFFSETS)
    plain.assign(ids, codes, titles=titles)
    index.check()
    assert len(index) == len(plain) and [*index.item_ids] == [index.item_ids[row] for row in range(len(index))]
    assert {*index.item_ids} == {*ids} and index.item_ids[-1] == [*index.item_ids][-1]
    rows = index.rows(ids)
    assert np.array_equal(index.codes[rows], plain.codes) and np.array_equal(
        index.token_table[rows], plain.token_table
    )
    assert np.array_equal(index.find([*ids, "not there"]), [*rows, -1])
    assert [index.titles[row] for row in rows.tolist()] == plain.titles
    for item_id in ids:
        tokens = plain.encode(item_id)
        assert item_id in index and index.encode(item_id) == tokens and index.decode(tokens) == item_id
    every = np.stack(np.unravel_index(np.arange(60), SIZES), axis=1)
    found = [index.row_of_codes(row) for row in every]
    assert found == index.trie().find(torch.from_numpy(every)).tolist()
    assert index.trie().item_ids[rows[0]] == ids[0]
    again = index.in_memory()
    assert again.item_ids == [*index.item_ids] and np.array_equal(again.codes, index.codes[:])
    assert "not there" not in index and 3.5 not in index
    with pytest.raises(UnknownItemError, match="1 items are not in the index"):
        index.rows([ids[0], "not there"])


def test_its_codes_are_an_array_for_trees_and_measures(tmp_path):
    codes = np.stack(np.unravel_index(np.random.default_rng(0).permutation(60)[:40], SIZES), axis=1)
    titles = [f"{'red' if row % 3 else 'blue'} pen of kind{row % 7}" for row in range(40)]
    index = made(tmp_path / "index", codes, [f"i{row}" for row in range(40)], titles, [11, 30])
    plain = index.in_memory()
    assert np.array_equal(index.codes, plain.codes) and index.codes.tolist() == plain.codes.tolist()
    assert np.array_equal(index.codes[:, :2], plain.codes[:, :2]) and index.codes.astype(np.int64).dtype == np.int64
    tree, expected = SemanticIDTree(index), SemanticIDTree(plain)
    for prefix in ((), (1,), (2, 3)):
        assert tree.branches(prefix) == expected.branches(prefix)
        assert tree.rows(prefix).tolist() == expected.rows(prefix).tolist()
    assert tree.path(codes[0].tolist()) == expected.path(codes[0].tolist())


def test_ids_of_one_hash_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "id_hash", lambda item_id: 7)
    codes = np.array([[0, 0, 0], [0, 1, 2], [2, 3, 4]])
    folder = tmp_path / "index"
    folder.mkdir()
    shard = write_codes(folder / "codes-00000.safetensors", codes, ["a", "b", "c"], [""] * 3, SIZES)
    table = write_lookup(folder / "lookup-00000.safetensors", np.full(3, 7, np.uint64), np.arange(3))
    write_manifest(folder, SIZES, OFFSETS, [shard], [table])
    index = ShardedItemIndex(folder)
    assert index.find(["c", "a", "b", "d"]).tolist() == [2, 0, 1, -1]


def test_hashes_are_those_of_a_released_index():
    """A table that was written must be found by later releases."""
    assert id_hashes(["B00NX0X2Q0", "ä"]).tolist() == [id_hash("B00NX0X2Q0"), id_hash("ä")]
    assert (id_hash("B00NX0X2Q0"), id_hash("ä")) == (0xE3DB9973CD818EC1, 0x39A02B5EE2BB4DF0)


def test_bytes_of_an_item(tmp_path):
    num_items = 20_000
    flat = np.random.default_rng(0).permutation(256**3)[:num_items]
    codes = np.stack(np.unravel_index(flat, [256] * 3), axis=1)
    folder = tmp_path / "index"
    index = made(folder, codes, [f"item {row}" for row in range(num_items)], sizes=[256] * 3)
    assert index.codes[:1].dtype == np.int32 and index._shards[0].arrays["codes"].dtype == np.int16
    assert (index.nbytes - index.text_bytes) / num_items == pytest.approx(16 + 2 * 3, abs=0.1)
    assert (index.nbytes - index.text_bytes) / num_items < 40
    assert isinstance(index._shards[0].arrays["codes"], np.memmap)


@pytest.fixture
def index(tmp_path):
    codes = np.array([[0, 0, 0], [0, 1, 2], [2, 3, 4], [2, 0, 1]])
    return made(tmp_path / SHARDED_NAME, codes, ["a", "b", "c", "d"], cuts=[2])


def test_it_does_not_change(index):
    for change in (
        lambda: index.assign(["e"], np.array([[1, 1, 1]])),
        lambda: index.remove(["a"]),
        lambda: index.set_content(None),
        lambda: index.set_titles([""] * 4),
        lambda: index.check_new(["e"]),
    ):
        with pytest.raises(ReadOnlyIndexError, match="does not change: tokenize the catalogue"):
            change()
    assert len(index) == 4


def test_a_tokenizer_with_it(index, tmp_path):
    tokenizer = UniversalItemTokenizer(index, None)
    tokenizer.save_pretrained(tmp_path / "saved")
    ItemIndex(SIZES, OFFSETS).save(tmp_path / "plain")
    again = UniversalItemTokenizer.from_pretrained(tmp_path / "saved")
    assert isinstance(again.index, ShardedItemIndex) and len(again) == 4
    assert again.decode(again.encode("c")) == "c" and "c" in again
    batch = again([["a", "c"], ["d"]])
    assert batch["input_ids"] == [[*again.encode("a"), *again.encode("c")], [*again.encode("d"), 0, 0, 0]]
    assert again.trie.num_items == 4
    with pytest.raises(ReadOnlyIndexError):
        again.remove_items(["a"])
    again.save_pretrained(tmp_path / "saved")  # where it lies
    again.save_pretrained(tmp_path / "more")
    assert len(UniversalItemTokenizer.from_pretrained(tmp_path / "more")) == 4
    # an index in memory that takes its place
    plain = UniversalItemTokenizer(index.in_memory(), None)
    plain.save_pretrained(tmp_path / "more")
    assert not isinstance(UniversalItemTokenizer.from_pretrained(tmp_path / "more").index, ShardedItemIndex)
    again.save_pretrained(tmp_path / "more")
    assert isinstance(UniversalItemTokenizer.from_pretrained(tmp_path / "more").index, ShardedItemIndex)


def test_broken_files_are_named(index, tmp_path):
    folder = index.folder
    manifest, shard = folder / MANIFEST_NAME, folder / "codes-00001.safetensors"
    said, content = manifest.read_text(), shard.read_bytes()
    shard.write_bytes(content[:-3])
    with pytest.raises(ItemIndexError, match="codes-00001.safetensors is missing, truncated"):
        ShardedItemIndex(folder)
    shard.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    with pytest.raises(ItemIndexError, match="damaged"):
        ShardedItemIndex(folder).check()
    shard.unlink()
    with pytest.raises(ItemIndexError, match="codes-00001.safetensors is missing"):
        ShardedItemIndex(folder)
    (folder / "codes-00000.safetensors").replace(shard)
    (folder / "codes-00000.safetensors").write_bytes(content)  # changed places
    with pytest.raises(ItemIndexError, match="of another save"):
        ShardedItemIndex(folder).check()
    values = json.loads(said)
    for change in (
        {"version": 9},
        {"format": "x"},
        {"num_items": 5},
        {"level_sizes": [3, 4, 6]},
        {"shards": values["shards"][:1]},
        {"lookup": "x"},
    ):
        manifest.write_text(json.dumps(values | change))
        with pytest.raises(ItemIndexError, match=MANIFEST_NAME if "num_items" not in change else "items expected"):
            ShardedItemIndex(folder)
    manifest.write_text(said[:40])
    with pytest.raises(ItemIndexError, match="missing or broken"):
        ShardedItemIndex.load(tmp_path)


def test_the_index_of_another_save_is_refused(index, tmp_path):
    UniversalItemTokenizer(index, None).save_pretrained(tmp_path / "saved")
    file = tmp_path / "saved" / TOKENIZER_FILE
    file.write_text(file.read_text().replace(index.checksum, "0" * 64))
    with pytest.raises(ValueError, match="belongs to the index with sha256"):
        UniversalItemTokenizer.from_pretrained(tmp_path / "saved")
