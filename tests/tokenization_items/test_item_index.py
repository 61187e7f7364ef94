"""The item index: a bijection under any sequence of additions and removals, and files that cannot be mixed up."""

import hashlib
import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import tokenization_items.item_index as item_index
from tokenization_items.collision_report import CollapsedCodesError
from tokenization_items.item_index import (
    CODES_NAME,
    CONTENT_NAME,
    IDS_NAME,
    TITLES_NAME,
    CapacityError,
    ItemIndex,
    ItemIndexError,
    UnknownItemError,
)

SIZES, OFFSETS, DIM = [3, 4, 4], [2, 5, 5], 2
CAPACITY = 48
VECTORS = [np.random.default_rng(level).normal(size=(size, DIM)) for level, size in enumerate(SIZES)]


def new_items(item_ids, spread=0.5):
    """Codes and residuals that depend on the item's id alone."""
    residuals = np.zeros((len(item_ids), len(SIZES), DIM))
    for row, item_id in enumerate(item_ids):
        rng = np.random.default_rng(list(item_id.encode()))
        residuals[row] = spread * rng.normal(size=(len(SIZES), DIM))
    costs = [((residuals[:, level, None] - vectors) ** 2).sum(-1) for level, vectors in enumerate(VECTORS)]
    return np.stack([cost.argmin(1) for cost in costs], axis=1), residuals


def filled(item_ids, **arguments):
    index = ItemIndex(SIZES, OFFSETS)
    codes, residuals = new_items(item_ids, **arguments)
    index.assign(item_ids, codes, residuals, VECTORS)
    return index


def names(count, start=0):
    return [f"item-{number}" for number in range(start, start + count)]


def assert_bijection(index):
    assert len(set(map(tuple, index.codes.tolist()))) == len(index) == len(index.item_ids)
    for row, item_id in enumerate(index.item_ids):
        tokens = index.encode(item_id)
        assert tokens == [offset + code for offset, code in zip(OFFSETS, index.codes[row].tolist(), strict=True)]
        assert index.decode(tokens) == item_id


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["add", "remove"]), st.integers(0, 20)), max_size=6), st.integers(0, 99))
def test_additions_and_removals_keep_a_bijection_and_given_identifiers(changes, seed):
    index, rng, given_before, fresh = ItemIndex(SIZES, OFFSETS), random.Random(seed), {}, 0
    for change, count in changes:
        if change == "add":
            item_ids = names(count, start=fresh)
            fresh += count
            codes, residuals = new_items(item_ids, spread=0.2)
            if len(index) + count > CAPACITY:
                with pytest.raises(CapacityError, match=f"capacity of {CAPACITY}"):
                    index.assign(item_ids, codes, residuals, VECTORS)
            else:
                assert index.assign(item_ids, codes, residuals, VECTORS).num_items == count
        else:
            gone = rng.sample(index.item_ids, min(count, len(index)))
            index.remove(gone)
            for item_id in gone:
                assert item_id not in index
                del given_before[item_id]
        assert_bijection(index)
        now = {item_id: index.encode(item_id) for item_id in index.item_ids}
        assert given_before.items() <= now.items()
        given_before = now


@settings(max_examples=25, deadline=None)
@given(st.integers(1, CAPACITY), st.sampled_from([0.0, 0.3, 2.0]), st.randoms(use_true_random=False))
def test_identifiers_do_not_depend_on_the_order_of_the_items(count, spread, rng):
    item_ids = names(count)
    shuffled = rng.sample(item_ids, count)
    first, second = filled(item_ids, spread=spread), filled(shuffled, spread=spread)
    assert second.item_ids == shuffled  # rows follow the order, identifiers do not
    assert {item_id: first.encode(item_id) for item_id in item_ids} == {
        item_id: second.encode(item_id) for item_id in item_ids
    }


def test_codes_without_collisions_are_kept():
    codes = np.array([[2, 3, 1], [0, 0, 0], [2, 3, 0]])
    index = ItemIndex(SIZES, OFFSETS)
    report = index.assign(["b", "a", "c"], codes)
    assert index.codes.tolist() == codes.tolist() and index.codes.dtype == np.int32
    assert report.items_moved == report.items_sharing_codes == 0 and report.max_extra_distance == 0.0
    assert index.encode("b") == [4, 8, 6]
    assert index.token_table.tolist() == (codes + OFFSETS).tolist()
    assert index.encode_batch(["c", "b", "c"]).tolist() == [[4, 8, 5], [4, 8, 6], [4, 8, 5]]
    assert index.rows(["c", "b"]).tolist() == [2, 0]
    assert "b" in index and "d" not in index


def test_the_report_tells_of_collisions():
    item_ids = names(20)
    index = ItemIndex(SIZES, OFFSETS)
    _, residuals = new_items(item_ids)
    report = index.assign(item_ids, np.zeros((20, 3), dtype=int), residuals, VECTORS)
    assert report.items_sharing_codes == 20
    assert report.items_moved == int((index.codes != 0).any(1).sum()) == sum(report.moved_by_level)
    assert report.moved_by_level[0] == int((index.codes[:, 0] != 0).sum()) == 4  # 16 identifiers below root 0
    assert report.used == pytest.approx([1 / 3, 1 / 4, 1 / 4]) and report.perplexity == [1.0, 1.0, 1.0]
    json.dumps(report.to_dict())


def test_digits_tell_items_apart_on_a_level_of_their_own():
    index = ItemIndex([3, 4], [2, 5])
    report = index.assign(["c", "a", "b"], np.array([[1, 3], [1, 3], [0, 0]]), collisions="digit")
    assert index.level_sizes == [3, 4, 256] and index.level_offsets == [2, 5, 9]
    assert index.codes.tolist() == [[1, 3, 1], [1, 3, 0], [0, 0, 0]] and index.encode("c") == [3, 8, 10]
    assert (report.items_sharing_codes, report.largest_group, report.items_moved) == (2, 2, 0)
    assert report.used == [2 / 3, 0.5] and report.given_codes.tolist() == [[1, 3], [1, 3], [0, 0]]
    index.remove(["a"])
    report = index.assign(["e", "d"], np.array([[1, 3], [1, 3]]), collisions="digit")  # the free digit, then the next
    assert index.encode("d") == [3, 8, 9] and index.encode("e") == [3, 8, 11] and report.largest_group == 3
    with pytest.raises(ValueError, match=r"gives an item 2 codes, the index has 3 levels: .*collisions='digit'"):
        index.assign(["f"], np.array([[0, 0]]))
    with pytest.raises(ValueError, match=r"20 items of the index have no level of digits"):
        filled(names(20)).assign(["f"], np.zeros((1, 3), dtype=int), collisions="digit")
    with pytest.raises(CapacityError, match="items share their codes, and the index has 256 digits"):
        index.assign(names(300), np.zeros((300, 2), dtype=int), collisions="digit")
    assert len(index) == 4
    many = ItemIndex([3], [2])
    many.assign(names(300), np.zeros((300, 1), dtype=int), collisions="digit")
    assert many.level_sizes == [3, 300]
    downwards = ItemIndex([4, 3], [10, 2])
    downwards.assign(["a"], np.array([[3, 2]]), collisions="digit")
    assert downwards.level_offsets == [10, 2, 14], "tokens that no other level has"
    with pytest.raises(ValueError, match="one of least_distance, nearest_first, digit, got 'sinkhorn'"):
        index.assign([], np.zeros((0, 2), dtype=int), collisions="sinkhorn")


@pytest.mark.parametrize("collisions", ["least_distance", "nearest_first", "digit"])
def test_the_order_of_the_items_does_not_matter_to_any_way(collisions):
    rng = np.random.default_rng(0)
    item_ids = names(30)
    codes, residuals = rng.integers(2, size=(30, 3)), rng.standard_normal((30, 3, 2)).round()  # with ties
    vectors = [rng.standard_normal((size, 2)) for size in SIZES]
    order = rng.permutation(30)
    one, other = ItemIndex(SIZES, OFFSETS), ItemIndex(SIZES, OFFSETS)
    one.assign(item_ids, codes, residuals, vectors, collisions=collisions)
    other.assign([item_ids[row] for row in order], codes[order], residuals[order], vectors, collisions=collisions)
    np.testing.assert_array_equal(one.encode_batch(item_ids), other.encode_batch(item_ids))
    assert len(np.unique(one.codes, axis=0)) == 30
    assert all(one.decode(one.encode(item_id)) == item_id for item_id in item_ids)


def test_adding_no_items_changes_nothing():
    index = filled(names(5))
    report = index.assign([], np.zeros((0, 3), dtype=int))
    assert report.num_items == report.items_moved == 0 and len(index) == 5 and str(report).startswith("0 items added")


def test_an_identifier_is_free_after_removal():
    index = filled(names(CAPACITY))
    tokens = index.encode("item-7")
    index.remove(["item-7"])
    with pytest.raises(UnknownItemError, match=rf"no item of the index has the semantic ID \[{tokens[0]}, "):
        index.decode(tokens)
    codes, residuals = new_items(["late"])
    index.assign(["late"], codes, residuals, VECTORS)
    assert index.encode("late") == tokens


def test_the_trie_is_kept_until_the_index_changes():
    index = filled(names(10))
    trie = index.trie()
    assert index.trie() is trie and trie.item_ids == index.item_ids
    assert trie.level_offsets == OFFSETS and trie.codes.tolist() == index.codes.tolist()
    index.remove(["item-0"])
    assert index.trie() is not trie and index.trie().num_items == 9
    codes, residuals = new_items(["late"])
    index.assign(["late"], codes, residuals, VECTORS)
    assert index.trie().item_ids[-1] == "late"


def test_the_codes_are_read_only():
    index = filled(names(4))
    for table in (index.codes, index.token_table):
        with pytest.raises(ValueError, match="read-only"):
            table[0, 0] = 1
    tokens = index.encode_batch(names(2))
    tokens[:] = 0
    assert (index.token_table >= 2).all()


def test_unknown_items_are_named():
    index = filled(names(4))
    with pytest.raises(UnknownItemError, match=r"12 items .* 'x0', .*'x9' and 2 more; add them") as caught:
        index.rows(["item-1", *(f"x{number}" for number in range(12)), "x0"])
    assert "x10" not in str(caught.value)
    with pytest.raises(UnknownItemError, match="'nobody'"):
        index.encode("nobody")
    with pytest.raises(UnknownItemError, match="'nobody'"):
        index.remove(["item-1", "nobody"])
    assert len(index) == 4


@pytest.mark.parametrize("tokens", [[2, 5, 99], [0, 5, 5], [2, 4, 5]])
def test_tokens_outside_their_level_are_no_identifier(tokens):
    with pytest.raises(UnknownItemError, match="no item of the index has the semantic ID"):
        filled(names(CAPACITY)).decode(tokens)
    with pytest.raises(UnknownItemError):
        ItemIndex(SIZES, OFFSETS).decode(tokens)


def test_identifiers_of_another_length_are_an_error():
    with pytest.raises(ValueError, match="a semantic ID has 3 tokens"):
        filled(names(4)).decode([2, 5])


@pytest.mark.parametrize(
    ("item_ids", "changes", "message"),
    [
        (["a", "a"], {}, r"1 item ids occur more than once: 'a'"),
        (["a", "item-1"], {}, r"in the index already .*: 'item-1'"),
        ([1, "b"], {}, r"must be strings, got 1"),
        (["a", "b"], {"codes": np.zeros((2, 2), int)}, "gives an item 2 codes, the index has 3 levels"),
        (["a", "b"], {"codes": np.zeros((2, 3))}, "must be integers"),
        (
            ["a", "b"],
            {"codes": np.array([[0, 0, 0], [3, 0, 0]])},
            r"1 items have codes outside .*\('b', \[3, 0, 0\]\)",
        ),
        (["a", "b"], {"residuals": np.zeros((2, 3, 5))}, r"residuals must have shape \(2, 3, 2\)"),
        (["a", "b"], {"residuals": np.full((2, 3, 2), np.nan)}, r"2 items have residuals with NaN .*'a'"),
        (["a", "b"], {"level_vectors": VECTORS[:2]}, "level_vectors must be"),
        (["a", "b"], {"residuals": None}, "needs residuals"),
    ],
)
def test_bad_additions_leave_the_index_unchanged(item_ids, changes, message):
    index = filled(names(4))
    before = index.codes.tolist()
    arguments = {"codes": np.zeros((2, 3), int), "residuals": np.zeros((2, 3, 2)), "level_vectors": VECTORS} | changes
    with pytest.raises(ValueError, match=message):
        index.assign(item_ids, **arguments)
    assert index.item_ids == names(4) and index.codes.tolist() == before


@pytest.mark.parametrize(
    ("sizes", "offsets", "message"),
    [
        ([4, 4], [0, 4], "level_offsets must be whole numbers from 1"),
        ([4, 4], [2, 4], r"level_offsets \[2, 4\] with level_sizes \[4, 4\]: tokens 4 to 5 would be of two levels"),
        ([4, 2], [4, 3], "tokens 4 to 4 would be of two levels"),
    ],
)
def test_tokens_of_two_levels_and_of_padding_are_an_error(sizes, offsets, message):
    with pytest.raises(ValueError, match=message):
        ItemIndex(sizes, offsets)
    assert len(ItemIndex([4, 4, 4], [2, 6, 6])) == 0 and len(ItemIndex([4, 3], [5, 2])) == 0


def test_empty_ids_are_an_error():
    with pytest.raises(ValueError, match=r"1 items have an empty id, in rows 1"):
        filled(["a", " "])


@pytest.mark.parametrize("items, warned", [(30, True), (19, False)])
def test_collapsed_codes_are_warned_of(monkeypatch, items, warned):
    said = []
    monkeypatch.setattr(item_index.logger, "warning", said.append)
    index, codes = ItemIndex(SIZES, OFFSETS), np.zeros((items, 3), int)
    codes[0] = 2, 3, 3
    index.assign(names(items), codes, np.zeros((items, 3, DIM)), VECTORS)
    assert len(said) == warned
    if warned:
        assert "29 of 30 items have the codes of another item (97%)" in said[0]
        assert "effective codes are 1.2 of 3, 1.2 of 4, 1.2 of 4" in said[0]
    filled(names(30), spread=3.0)
    assert len(said) == warned


@pytest.mark.parametrize(("items", "alike", "refused"), [(100, 91, True), (100, 90, False), (99, 99, False)])
def test_collapsed_codes_are_refused_where_they_would_be_trained_on(items, alike, refused):
    sizes = [10, 10, 10]
    codes = np.stack(np.unravel_index(np.arange(items), sizes), axis=1)
    codes[:alike] = 9
    index, digits = ItemIndex(sizes, [2, 12, 22]), "digit"
    report = index.assign(names(items), codes, collisions=digits)
    if not refused:
        return report.check_collapse(sizes)
    with pytest.raises(CollapsedCodesError, match=r"91 of 100 items .* effective codes are .*--allow_collapsed_codes"):
        report.check_collapse(sizes)
    return report.check_collapse(sizes, allowed=True)


def test_bad_levels_are_an_error():
    with pytest.raises(ValueError, match="3 level_sizes but 2 level_offsets"):
        ItemIndex([2, 2, 2], [2, 4])
    with pytest.raises(ValueError, match="level_sizes must be"):
        ItemIndex([2, 0], [2, 4])


@pytest.mark.parametrize("count", [0, 1, 30])
def test_saving_and_loading(tmp_path, count):
    index = filled([*names(count)[1:], "Käse {0}\n"] if count else [])
    index.save(tmp_path / "new" / "folder")
    loaded = ItemIndex.load(tmp_path / "new" / "folder")
    assert loaded.item_ids == index.item_ids
    assert loaded.codes.tolist() == index.codes.tolist() and loaded.codes.dtype == np.int32
    assert (loaded.level_sizes, loaded.level_offsets) == (SIZES, OFFSETS)
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [IDS_NAME, CODES_NAME]
    codes, residuals = new_items(["late"])
    loaded.assign(["late"], codes, residuals, VECTORS)
    assert_bijection(loaded)


def test_saving_twice_replaces_the_files(tmp_path):
    filled(names(10)).save(tmp_path)
    filled(names(3)).save(tmp_path)
    assert ItemIndex.load(tmp_path).item_ids == names(3)


def test_missing_files_are_named(tmp_path):
    filled(names(5)).save(tmp_path)
    for name in (IDS_NAME, CODES_NAME):
        (tmp_path / name).rename(tmp_path / "aside")
        with pytest.raises(ItemIndexError, match=f"{name} is missing"):
            ItemIndex.load(tmp_path)
        (tmp_path / "aside").rename(tmp_path / name)


def titled(item_ids):
    index = ItemIndex(SIZES, OFFSETS)
    index.assign(item_ids, *new_items(item_ids), VECTORS, titles=[f"Title of {item_id}" for item_id in item_ids])
    return index


def test_titles_stay_with_their_items(tmp_path):
    index = titled(names(6))
    index.remove(["item-2"])
    index.assign(["bare"], *new_items(["bare"]), VECTORS)
    index.save(tmp_path)
    loaded = ItemIndex.load(tmp_path)
    for row, item_id in enumerate(loaded.item_ids):
        assert loaded.titles[row] == ("" if item_id == "bare" else f"Title of {item_id}")
    assert loaded.checksum == index.checksum != filled(names(6)).checksum
    with pytest.raises(ValueError, match="1 item_ids but 2 titles"):
        index.assign(["new"], *new_items(["new"]), VECTORS, titles=["a", "b"])


def test_titles_of_another_save_are_named(tmp_path):
    titled(names(4)).save(tmp_path)
    titles = json.loads((tmp_path / TITLES_NAME).read_text())
    for other in (titles[:-1], [*titles[:-1], "other"]):
        (tmp_path / TITLES_NAME).write_text(json.dumps(other))
        with pytest.raises(ItemIndexError, match=f"{TITLES_NAME} does not belong to {CODES_NAME}: expected 4 titles"):
            ItemIndex.load(tmp_path)
    (tmp_path / TITLES_NAME).unlink()
    with pytest.raises(ItemIndexError, match=f"{TITLES_NAME} is missing, which {CODES_NAME} names"):
        ItemIndex.load(tmp_path)
    filled(names(2)).save(tmp_path)
    assert ItemIndex.load(tmp_path).titles == ["", ""]
    titled(names(2)).save(tmp_path)
    filled(names(2)).save(tmp_path)
    assert not (tmp_path / TITLES_NAME).exists()


@pytest.mark.parametrize("name", [CODES_NAME, IDS_NAME])
@pytest.mark.parametrize("kept", [0, 5, 0.5, -1])
def test_truncated_files_are_named(tmp_path, name, kept):
    filled(names(5)).save(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(ItemIndexError, match=f"{name} is truncated or not"):
        ItemIndex.load(tmp_path)


def test_files_that_do_not_belong_together_are_named(tmp_path):
    filled(names(6)).save(tmp_path)
    (tmp_path / IDS_NAME).write_text(json.dumps(names(5)))
    with pytest.raises(ItemIndexError, match="expected 6 item ids, found 5"):
        ItemIndex.load(tmp_path)
    (tmp_path / IDS_NAME).write_text(json.dumps([*names(5), "other"]))
    with pytest.raises(ItemIndexError, match="expected sha256 .* found"):
        ItemIndex.load(tmp_path)
    (tmp_path / IDS_NAME).write_text(json.dumps({"a": 1}))
    with pytest.raises(ItemIndexError, match="expected a list of strings"):
        ItemIndex.load(tmp_path)


def rewrite(folder, codes=None, **metadata):
    """Saves the codes again with other codes or metadata, and a checksum that fits them."""
    from safetensors import safe_open

    with safe_open(folder / CODES_NAME, framework="numpy") as file:
        old = file.metadata()
    codes = load_file(folder / CODES_NAME)["codes"] if codes is None else codes
    digest = hashlib.sha256(codes.astype("<i4").tobytes() + (folder / IDS_NAME).read_bytes())
    save_file({"codes": codes}, folder / CODES_NAME, metadata=old | {"sha256": digest.hexdigest()} | metadata)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "2"}, "expected utgrec-item-index version 1, found utgrec-item-index version 2"),
        ({"format": "other"}, "found other version 1"),
        ({"num_items": "7"}, r"expected int32 codes of shape \(7, 3\), found int32 \(4, 3\)"),
        ({"level_sizes": "[3, 4]"}, "2 level_sizes but 3 level_offsets"),
        ({"level_sizes": "[3, 4"}, "expected level sizes and offsets"),
        ({"level_sizes": "[1, 1, 1]"}, r"expected codes within level sizes \[1, 1, 1\]"),
        ({"codes": np.zeros((4, 3), np.int32)}, "expected 4 semantic IDs, found 1 different"),
        ({"codes": np.zeros((4, 3), np.int64)}, "found int64"),
    ],
)
def test_other_codes_and_metadata_are_named(tmp_path, changes, message):
    filled(names(4), spread=2.0).save(tmp_path)
    rewrite(tmp_path, **changes)
    with pytest.raises(ItemIndexError, match=message):
        ItemIndex.load(tmp_path)


def test_another_safetensors_file_is_named(tmp_path):
    filled(names(4)).save(tmp_path)
    save_file({"weight": np.zeros(3)}, tmp_path / CODES_NAME)
    with pytest.raises(ItemIndexError, match=r"expected a tensor 'codes' .*found \['weight'\]"):
        ItemIndex.load(tmp_path)


def test_duplicate_ids_in_the_file_are_named(tmp_path):
    filled(names(3)).save(tmp_path)
    (tmp_path / IDS_NAME).write_text(json.dumps(["a", "b", "a"]))
    rewrite(tmp_path)
    with pytest.raises(ItemIndexError, match=r"more than once: 'a'"):
        ItemIndex.load(tmp_path)


# content vectors


def with_content(count, width=3, seed=0):
    index = filled(names(count), spread=2.0)
    index.set_content(np.random.default_rng(seed).normal(size=(count, width)))
    return index


def test_content_that_lies_column_by_column_is_saved_by_rows(tmp_path):
    index = with_content(6)
    vectors = np.asfortranarray(np.random.default_rng(1).normal(size=(6, 4)))
    index.set_content(vectors)
    index.save(tmp_path)
    np.testing.assert_array_equal(ItemIndex.load(tmp_path).content, vectors.astype(np.float16))


def test_content_is_saved_beside_the_index_and_follows_its_items(tmp_path):
    index = with_content(6)
    content = index.content
    assert content.dtype == np.float16 and content.shape == (6, 3)
    with pytest.raises(ValueError, match="read-only"):
        content[0] = 0
    index.save(tmp_path)
    loaded = ItemIndex.load(tmp_path)
    np.testing.assert_array_equal(loaded.content, content)
    assert loaded.checksum == index.checksum == filled(names(6), spread=2.0).checksum
    np.testing.assert_array_equal(loaded.trie().content.numpy(), content)
    loaded.remove(names(2, 1))
    np.testing.assert_array_equal(loaded.content, content[[0, 3, 4, 5]])
    codes, residuals = new_items(["new"])
    loaded.assign(["new"], codes, residuals, VECTORS, content=np.ones((1, 3)))
    np.testing.assert_array_equal(loaded.content, [*content[[0, 3, 4, 5]], np.ones(3)])
    assert loaded.trie().content.shape == (5, 3)
    loaded.save(tmp_path)
    np.testing.assert_array_equal(ItemIndex.load(tmp_path).content, loaded.content)
    loaded.set_content(None)
    loaded.save(tmp_path)
    assert not (tmp_path / CONTENT_NAME).exists() and ItemIndex.load(tmp_path).content is None
    assert loaded.trie().content is None


def test_no_new_items_need_no_content():
    """As on a day on which items have changed and none is new."""
    index = with_content(4)
    before = index.content
    codes, residuals = new_items([])
    index.assign([], codes, residuals, VECTORS)
    index.check_content([], None)
    np.testing.assert_array_equal(index.content, before)


def test_content_that_does_not_fit_is_named_and_changes_nothing():
    index = with_content(4)
    before = index.content
    codes, residuals = new_items(["new"])
    for content, message in (
        (None, "give `content` of the new ones"),
        (np.ones((2, 3)), r"floats of shape \(1, width\)"),
        (np.ones((1, 3), int), "got int64"),
        (np.ones((1, 0)), r"got float64 \(1, 0\)"),
        (np.ones((1, 4)), "content vectors of 3 numbers, the new ones have 4"),
        (np.array([[1, np.nan, 1]]), "1 items have content with NaN.*'new'"),
        (np.array([[1, 1e6, 1]]), "numbers above 65504: 'new'"),
    ):
        with pytest.raises(ValueError, match=message):
            index.assign(["new"], codes, residuals, VECTORS, content=content)
    with pytest.raises(ValueError, match=r"shape \(4, width\)"):
        index.set_content(np.ones((3, 3)))
    assert index.content is before and len(index) == 4
    bare = filled(names(4))
    with pytest.raises(ValueError, match="the index has no content vectors"):
        bare.assign(["new"], codes, residuals, VECTORS, content=np.ones((1, 3)))


def test_content_of_another_encoder_is_refused(tmp_path):
    index, (codes, residuals) = with_content(4), new_items(["new"])
    index.set_content(index.content, "first")
    index.save(tmp_path)
    loaded = ItemIndex.load(tmp_path)
    assert loaded.content_encoder == "first"
    for refused in (
        lambda: loaded.assign(["new"], codes, residuals, VECTORS, content=np.ones((1, 3)), content_encoder="second"),
        lambda: loaded.check_content(["new"], np.ones((1, 3)), "second"),
    ):
        with pytest.raises(ValueError, match="encoder with fingerprint first, the new ones are of second"):
            refused()
    assert len(loaded) == 4
    loaded.check_content(["new"], np.ones((1, 3)))  # of an encoder that nobody knows
    loaded.assign(["new"], codes, residuals, VECTORS, content=np.ones((1, 3)), content_encoder="first")
    loaded.remove(names(4))
    assert len(loaded) == 1 and loaded.content_encoder == "first"
    loaded.remove(["new"])
    loaded.assign(["new"], codes, residuals, VECTORS, content=np.ones((1, 2)), content_encoder="second")
    assert loaded.content_encoder == "second", "an empty index takes what is given"
    loaded.set_content(np.ones((1, 3)))
    assert loaded.content_encoder is None
    loaded.save(tmp_path)
    assert ItemIndex.load(tmp_path).content_encoder is None
    index.set_content(None, "first")
    index.assign(["new"], codes, residuals, VECTORS, content_encoder="second")
    assert index.content_encoder is None, "no content, no encoder"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file, _: file.unlink(), f"{CONTENT_NAME} is missing, which {CODES_NAME} names"),
        (lambda file, _: file.write_bytes(file.read_bytes()[:50]), "truncated or not a safetensors file"),
        (lambda file, sha: save_file({"content": np.ones((4, 3), np.float16)}, file), "does not belong to"),
        (lambda file, sha: save_file({"content": np.ones((3, 3), np.float16)}, file, sha), r"shape \(4, 3\), found"),
        (lambda file, sha: save_file({"content": np.ones((4, 3), np.float32)}, file, sha), "found float32"),
        (lambda file, sha: save_file({"other": np.ones((4, 3), np.float16)}, file, sha), "no such tensor"),
        (lambda file, sha: save_file({"content": np.full((4, 3), np.nan, np.float16)}, file, sha), "NaN or infinity"),
    ],
)
def test_broken_content_files_are_named(tmp_path, change, message):
    index = with_content(4)
    index.save(tmp_path)
    change(tmp_path / CONTENT_NAME, {"index_sha256": index.checksum})
    with pytest.raises(ItemIndexError, match=message):
        ItemIndex.load(tmp_path)


def test_items_that_are_replaced_keep_their_rows():
    index = filled(names(12))
    index.set_titles([f"old {name}" for name in index.item_ids])
    before = {item_id: index.encode(item_id) for item_id in index.item_ids}
    again, fresh = ["item-7", "item-2"], names(3, start=20)
    codes, residuals = new_items([*again, *fresh], spread=2.0)
    index.assign([*fresh[:1], *again, *fresh[1:]], codes[[2, 0, 1, 3, 4]], residuals[[2, 0, 1, 3, 4]], VECTORS,
                 ["new"] * 5, replace=True)  # fmt: skip
    assert index.item_ids == [*names(12), *fresh]
    assert [title == "new" for title in index.titles] == [name in again for name in names(12)] + [True] * 3
    assert all(index.encode(name) == before[name] for name in before if name not in again)
    assert_bijection(index)
    # the same as if they had not been there
    other = filled(names(12))
    other.remove(again)
    other.assign([*again, *fresh], codes, residuals, VECTORS)
    assert all(index.encode(name) == other.encode(name) for name in index.item_ids)
    with pytest.raises(ValueError, match="are in the index already"):
        index.assign(again, codes[:2], residuals[:2], VECTORS)
    with pytest.raises(ValueError, match="occur more than once"):
        index.assign(["item-2"] * 2, codes[:2], residuals[:2], VECTORS, replace=True)


def test_content_of_replaced_items_is_replaced():
    index = ItemIndex([4, 4], [2, 6])
    index.assign(["a", "b"], np.array([[0, 0], [0, 1]]), content=np.array([[1.0], [2.0]]))
    index.assign(["b", "c"], np.array([[1, 0], [1, 1]]), content=np.array([[5.0], [6.0]]), replace=True)
    assert index.item_ids == ["a", "b", "c"] and index.content[:, 0].tolist() == [1, 5, 6]
    assert index.codes.tolist() == [[0, 0], [1, 0], [1, 1]]
