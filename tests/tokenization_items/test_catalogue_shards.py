"""Shards of a catalogue: what is wrong is said before the work, and blocks are the same however they are cut."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenization_items import Catalogue, CatalogueError, TextTemplate
from tokenization_items.catalogue_shards import CatalogueShards, Piece
from tokenization_items.sharded_index import id_hashes


def write(folder, *shards, name="part-{:02}.parquet", **columns):
    """A shard of each list of ids; the title is the id."""
    folder.mkdir(exist_ok=True)
    for number, ids in enumerate(shards):
        table = {"item_id": ids, "title": [f"title {each}" for each in ids], **columns}
        pq.write_table(pa.table(table), folder / name.format(number), row_group_size=3)
    return folder


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(sum), st.integers(1, 12))
def test_blocks_are_rows_of_the_whole(tmp_path_factory, counts, block_items):
    folder, ends = tmp_path_factory.mktemp("shards"), np.cumsum([0, *counts]).tolist()
    write(folder, *([f"i{row}" for row in range(*pair)] for pair in zip(ends[:-1], ends[1:], strict=True)))
    shards = CatalogueShards.find(folder)
    assert shards is not None and len(shards) == sum(counts)
    blocks = shards.blocks(block_items)
    assert [sum(piece.stop - piece.start for piece in block) for block in blocks[:-1]] == [block_items] * (
        len(blocks) - 1
    )
    read = [shards.read(block) for block in blocks]
    assert [item_id for part in read for item_id in part.item_ids] == [f"i{row}" for row in range(sum(counts))]
    assert [text for part in read for text in part.texts] == [f"title i{row}" for row in range(sum(counts))]
    assert all(shards.check(block) == part.item_ids for block, part in zip(blocks, read, strict=True))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(sum), st.data())
def test_single_items_in_any_order(tmp_path_factory, counts, data):
    folder, ends = tmp_path_factory.mktemp("shards"), np.cumsum([0, *counts]).tolist()
    write(folder, *([f"i{row}" for row in range(*pair)] for pair in zip(ends[:-1], ends[1:], strict=True)))
    rows = data.draw(st.lists(st.integers(0, sum(counts) - 1), min_size=1, max_size=12, unique=True))
    found = CatalogueShards.find(folder).select(np.array(rows))
    assert found.item_ids == [f"i{row}" for row in rows] and found.texts == [f"title i{row}" for row in rows]


def test_a_shard_that_has_lost_rows_since_is_named(tmp_path):
    shards = CatalogueShards.find(write(tmp_path, [f"i{row}" for row in range(8)]))
    write(tmp_path, ["i0", "i1", "i2", "i3", "i4"])
    with pytest.raises(CatalogueError, match="part-00.parquet cannot be read"):
        shards.read([Piece(0, 3, 8)])
    with pytest.raises(CatalogueError, match="part-00.parquet cannot be read"):
        shards.select(np.array([6, 1]))


def test_a_data_folder_and_what_is_no_folder_of_shards(tmp_path):
    folder = write(tmp_path / "office", ["b", "a"], name="items.parquet")
    (folder / "sequences.parquet").write_bytes(b"")
    as_folder = CatalogueShards.find(folder)
    assert as_folder.files == (folder / "items.parquet",) and as_folder.name == "office"
    with_price = CatalogueShards.find(write(tmp_path / "priced", ["b"], price=[3.5], brand=["c"]))
    assert with_price.unread == ("price",) and with_price.read(with_price.blocks()[0]).texts == ["title b. c"]
    assert CatalogueShards.find(folder / "items.parquet") is None
    whole = Catalogue.from_folder(folder)
    assert as_folder.read(as_folder.blocks()[0]).texts == whole.texts and whole.item_ids == ["b", "a"]
    assert CatalogueShards.find(tmp_path / "absent") is None and CatalogueShards.find(tmp_path) is None
    other = write(tmp_path / "other", ["b"])
    (other / "readme.txt").write_text("more than shards")
    (other / "_SUCCESS").write_text("")
    assert CatalogueShards.find(other) is None
    (other / "readme.txt").unlink()
    assert CatalogueShards.find(other).num_items == (1,)
    (tmp_path / "shop").mkdir()
    pq.write_table(pa.table({"sku": ["1"], "title": ["x"]}), tmp_path / "shop" / "products.parquet")
    assert CatalogueShards.find(tmp_path / "shop") is None  # columns that are to be guessed


def test_shards_that_cannot_be_read_are_all_named(tmp_path):
    folder = write(tmp_path / "items", ["a"], ["b"], ["c"])
    content = (folder / "part-01.parquet").read_bytes()
    (folder / "part-01.parquet").write_bytes(content[: len(content) // 2])  # half-written
    (folder / "part-02.parquet").write_bytes(b"")
    with pytest.raises(CatalogueError) as error:
        CatalogueShards.find(folder)
    assert "2 of 3 shards cannot be read" in str(error.value)
    assert "part-01.parquet is cut short" in str(error.value) and "part-02.parquet is cut short" in str(error.value)


def test_missing_shards_are_named(tmp_path):
    folder = write(tmp_path / "items", ["a"], ["b"], ["c"], ["d"], name="items-{:05}-of-00004.parquet")
    assert len(CatalogueShards.find(folder)) == 4
    (folder / "items-00002-of-00004.parquet").unlink()
    with pytest.raises(CatalogueError, match="1 of 4 shards are missing: 'items-00002-of-00004.parquet'; copy"):
        CatalogueShards.find(folder)
    for path in folder.iterdir():  # counted from 1
        number = int(path.name[6:11])
        path.rename(folder / f"part-{number + 1}-of-4.parquet")
    with pytest.raises(CatalogueError, match="part-3-of-4.parquet"):
        CatalogueShards.find(folder)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"item_id": [7], "title": ["x"]}, "b.parquet: item_id holds whole numbers, in a.parquet text"),
        ({"item_id": ["7"]}, "b.parquet lacks the columns 'title', which a.parquet has"),
        ({"item_id": ["7"], "title": ["x"], "brand": ["y"]}, "b.parquet has the columns 'brand'"),
        ({"item_id": ["7"], "title": [["x"]]}, "b.parquet: title holds lists of text, in a.parquet text"),
        ({"name": ["7"], "title": ["x"]}, "b.parquet lacks the columns 'item_id'"),
    ],
)
def test_shards_of_other_schemas_are_named(tmp_path, other, message):
    pq.write_table(pa.table({"item_id": ["1"], "title": ["x"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table(other), tmp_path / "b.parquet")
    with pytest.raises(CatalogueError, match=message):
        CatalogueShards.find(tmp_path)


def test_schemas_that_mean_the_same(tmp_path):
    types = [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.null()]
    for number, dtype in enumerate(types):
        title = pa.array([None if dtype == pa.null() else "x"]).cast(dtype)
        pq.write_table(
            pa.table({"item_id": [str(number)], "title": title, "brand": ["y"]}), tmp_path / f"{number}.parquet"
        )
    shards = CatalogueShards.find(tmp_path)
    assert shards.read(shards.blocks()[0]).texts == ["x. y"] * 3 + ["y"]


def test_items_that_cannot_be_tokenized_are_named_with_their_shard(tmp_path):
    shards = CatalogueShards.find(write(tmp_path / "items", ["a", "b"], ["c", "d", "e"]))
    assert shards.check(shards.blocks()[0]) == ["a", "b", "c", "d", "e"]
    for change, message in (
        ({"title": ["x", None, "y"]}, "item 'd' .row 1.: empty text and no image"),
        ({"item_id": ["c", None, "e"]}, "missing item_id"),
        ({"item_id": ["c", "d", "c"]}, "duplicate item_id, 2 times"),
    ):
        table = pa.table({"item_id": ["c", "d", "e"], "title": ["x", "y", "z"]} | change)
        pq.write_table(table, tmp_path / "items" / "part-01.parquet")
        with pytest.raises(CatalogueError, match=f"part-01.parquet, from row 0 on: .*\n.*{message}"):
            shards.check(shards.blocks()[0])
    template = CatalogueShards.find(tmp_path / "items", template=TextTemplate("Describe an item:"))
    pq.write_table(
        pa.table({"item_id": ["c", "d", "e"], "title": ["", "", ""]}), tmp_path / "items" / "part-01.parquet"
    )
    assert len(template.check(template.blocks()[0])) == 5
    with pytest.raises(CatalogueError, match="part-01.parquet, from row 0 on: no item has a text"):
        template.check([Piece(1, 0, 3)])


def test_an_item_of_two_shards_is_named(tmp_path):
    shards = CatalogueShards.find(write(tmp_path / "items", ["a", "b", "c"], ["d", "b"], ["e", "a"]))
    hashes = [id_hashes(shards.check(block)) for block in shards.blocks(2)]
    with pytest.raises(CatalogueError) as error:
        shards.check_distinct(hashes, 2)
    assert "2 items occur more than once" in str(error.value)
    assert "item 'b': part-00.parquet, row 1; part-01.parquet, row 1" in str(error.value)
    assert "item 'a': part-00.parquet, row 0; part-02.parquet, row 1" in str(error.value)
    same = [np.full_like(each, 5) for each in hashes]  # ids that share their hash are no same ids
    distinct = CatalogueShards.find(write(tmp_path / "more", ["a", "b", "c"], ["d", "f"], ["e", "g"]))
    distinct.check_distinct(same, 2)


@pytest.mark.parametrize("number", [999, 1000, 1001])
def test_many_items_of_two_shards_are_found(tmp_path, number):
    ids = [f"i{row}" for row in range(number)]
    shards = CatalogueShards.find(write(tmp_path / "items", ids, ids[::-1]))
    hashes = [id_hashes(ids), id_hashes(ids[::-1])]
    with pytest.raises(CatalogueError, match=f"{number:,} items occur more than once"):
        shards.check_distinct(hashes, number)


def test_behind_many_hashes_that_are_equal_by_chance_an_item_of_two_shards_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("tokenization_items.catalogue_shards.MOST_COMPARED", 2)
    shards = CatalogueShards.find(write(tmp_path / "items", ["a", "b", "c"], ["d", "e"], ["f", "c"]))
    hashes = [np.array(each, np.uint64) for each in ([1, 2, 9], [1, 2], [3, 9])]
    with pytest.raises(CatalogueError, match="item 'c': part-00.parquet, row 2; part-02.parquet, row 1"):
        shards.check_distinct(hashes, 3)


def test_a_catalogue_in_memory_becomes_shards(tmp_path):
    catalogue = Catalogue.from_records([{"item_id": row, "title": f"t{row}", "brand": "b"} for row in range(5)])
    shards = CatalogueShards.write(catalogue, tmp_path / "work", block_items=2)
    assert shards.num_items == (2, 2, 1)
    read = shards.read([piece for block in shards.blocks(2) for piece in block])
    assert (read.item_ids, read.texts, read.titles) == (catalogue.item_ids, catalogue.texts, catalogue.titles)
    assert CatalogueShards.write(catalogue, tmp_path / "again", block_items=2).digest() == shards.digest()
    other = Catalogue.from_records([{"item_id": row, "title": f"u{row}", "brand": "b"} for row in range(5)])
    assert CatalogueShards.write(other, tmp_path / "other", block_items=2).digest() != shards.digest()
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(CatalogueError, match="of items with images, --engine ray reads parquet"):
        CatalogueShards.write(
            Catalogue.from_records([{"item_id": "a", "title": "t", "image": str(tmp_path / "x.png")}]), tmp_path / "y"
        )
