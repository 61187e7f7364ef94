"""A week of a shop's products: semantic IDs stay, the recommender goes on, and what has changed is written down."""

import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch
from transformers import pipeline

import tokenization_items  # noqa: F401  # registers the pipeline
from modeling_utgrec.memory_content import unit_content
from tokenization_items.catalogue_updates import JOURNAL_NAME, read_journal
from tokenization_items.item_index import UnknownItemError
from tokenization_items.network_reference import NetworkReference
from trainers import RecommendationRules, Recommender
from trainers.data.item_brands import brand_number
from trainers.data.item_sources import read_items
from trainers.data.readers.base import ReadError
from trainers.methods.daily_catalogue import content_of, known_columns, newest_items, reference_within

COLOURS, THINGS = ["red", "blue", "green", "black"], ["pen", "ink", "cup", "map", "lamp"]


def products(rows, changed=()) -> pl.DataFrame:
    def title(row: int) -> str:
        colour = COLOURS[(row + (row in changed)) % 4]
        return f"{colour} {THINGS[row % 5]} number {row // 20} with {colour} {THINGS[(row + 2) % 5]}"

    rows = list(rows)
    columns = {"sku": [f"sku-{row}" for row in rows], "name": [title(row) for row in rows]}
    return pl.DataFrame(columns | {"price": [1.0 + row % 9 for row in rows]})


def orders(num_items: int = 40, users: int = 80) -> pl.DataFrame:
    rng, rows = np.random.default_rng(0), []
    for user in range(users):
        steps = np.where(rng.random(rng.integers(3, 8)) < 0.8, 4, rng.integers(1, num_items))
        for time, item in enumerate((rng.integers(num_items) + np.cumsum(steps)) % num_items):
            rows.append((f"c{user}", f"sku-{item}", 1_700_000_000 + 60 * time))
    return pl.DataFrame(rows, schema=["customer", "sku", "ordered_at"], orient="row")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "shop"
    Recommender.from_interactions(orders(), products(range(40))).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "shop")


HISTORIES = [["sku-1", "sku-5"], ["sku-2"], ["sku-30", "sku-7", "sku-11"]]


def ranked(recommender, only=None) -> list[list[str]]:
    """All that can be recommended, the best first; of some items if they are given."""
    found = recommender.recommend(HISTORIES, top_k=100, num_beams=100)
    return [[each["item_id"] for each in one if only is None or each["item_id"] in only] for one in found]


def assert_content_is_of_now(recommender, table):
    """Whether the memory knows the items by these products' texts, to half precision."""
    known = known_columns(recommender.journal, recommender.facts)
    catalogue, _ = read_items(table, None, known, recommender.tokenizer.text_fields)
    vectors = content_of(recommender.tokenizer)(catalogue)
    kept = recommender.memory.content
    unit = unit_content(torch.from_numpy(vectors).float(), len(catalogue), kept.mean)
    rows = torch.from_numpy(recommender.tokenizer.index.rows(catalogue.item_ids))
    torch.testing.assert_close(kept.vectors[rows].float(), unit @ kept.projection, atol=2e-3, rtol=0)


def test_a_week(folder):
    first = Recommender.from_pretrained(folder)
    old = {item_id: first.tokenizer.encode(item_id) for item_id in first.item_ids}
    before, ids = ranked(first), dict(old)
    for day in range(7):
        recommender = Recommender.from_pretrained(folder)
        new = range(40 + 3 * day, 43 + 3 * day)
        some = range(20) if day % 2 else range(40)  # on some days a part of the catalogue
        update = recommender.add_items(products([*some, *new], changed=range(day)))
        assert update.added == [f"sku-{row}" for row in new]
        assert update.changed == ([f"sku-{day - 1}"] if day else [])
        assert update.drift.stale == day and update.missing == len(recommender.item_ids) - len(some) - 3
        now = {item_id: recommender.tokenizer.encode(item_id) for item_id in recommender.item_ids}
        assert ids.items() <= now.items()  # to the bit
        ids = now
        assert recommender.memory.num_items == len(recommender.item_ids) == 43 + 3 * day
        # of what was there before, what is recommended and in which order is as it was
        after = ranked(recommender, only=old.keys())
        assert all(one[:10] == other[:10] for one, other in zip(before, after, strict=True))
        # new items are recommended by what they are like, before anybody has bought them
        found = recommender.recommend([[item_id] for item_id in recommender.item_ids], top_k=20)
        assert {*update.added} <= {each["item_id"] for one in found for each in one}
        recommender.save_pretrained(folder)
        assert recommender.titles[f"sku-{max(0, day - 1)}"].startswith(COLOURS[(max(0, day - 1) + bool(day)) % 4])
    lines = read_journal(folder)
    assert [line["added"] for line in lines] == [3] * 7 and sum(line["changed"] for line in lines) == 6
    assert lines[-1]["columns"]["id"] == "sku" and lines[-1]["drift"]["num_items"] == 61
    again = Recommender.from_pretrained(folder)
    assert again.add_items(products(range(61), changed=range(6))).is_empty
    assert len(again.journal) == 7
    # at the end of the week some go, one comes, and what changed is tokenized again
    kept = [row for row in range(62) if row not in (30, 31, 50)]
    update = again.add_items(products(kept, changed=range(6)), retokenize=True, remove_missing=True)
    assert sorted(update.removed) == ["sku-30", "sku-31", "sku-50"] and len(update.retokenized) == 6
    assert update.drift.stale == update.drift.moved_by_changes == 0
    stay = {item_id: codes for item_id, codes in ids.items() if item_id in again.item_ids}
    moved = {item_id for item_id, codes in stay.items() if again.tokenizer.encode(item_id) != codes}
    assert moved == {*update.reassigned} <= {f"sku-{row}" for row in range(6)}
    assert_content_is_of_now(again, products(kept, changed=range(6)))
    with pytest.raises(UnknownItemError, match="'sku-30'"):
        again.recommend(["sku-30"])
    again.save_pretrained(folder)
    recommend = pipeline("item-recommendation", model=str(folder))
    assert recommend(["sku-1"], top_k=3) == Recommender.from_pretrained(folder).recommend(["sku-1"], top_k=3)


def test_brands_are_known_of_old_items_and_of_new_ones():
    def of_makers(rows):
        return products(rows).with_columns(brand=pl.Series([f"maker {row % 6}" if row % 7 else None for row in rows]))

    recommender = Recommender.from_interactions(orders(), of_makers(range(40)))
    recommender.add_items(of_makers(range(44)))
    found = dict(zip(recommender.item_ids, recommender.memory.brands.tolist(), strict=True))
    expected = {f"sku-{row}": brand_number(f"maker {row % 6}") if row % 7 else -1 for row in range(44)}
    assert found == expected and recommender.stored.facts["brand_weight_selection"]
    # another maker, and none any more: as the memory had them, until they are tokenized again
    table = products(range(4), changed=[3]).with_columns(brand=pl.Series([None, None, "another", "maker 3"]))
    for retokenize in (False, True):
        update = recommender.add_items(table, retokenize=retokenize)
        if retokenize:
            assert sorted(update.retokenized) == ["sku-1", "sku-2", "sku-3"]
            expected |= {"sku-1": -1, "sku-2": brand_number("another"), "sku-3": brand_number("maker 3")}
        found = dict(zip(recommender.item_ids, recommender.memory.brands.tolist(), strict=True))
        assert found == expected


def test_of_the_old_items_alone_scores_stay_too(folder):
    """With new items that are like none of the history the candidates, and so the scores, are the same."""
    recommender = Recommender.from_pretrained(folder)
    before = recommender.recommend(HISTORIES, top_k=10)
    odd = pl.DataFrame(
        {"sku": ["x-1", "x-2"], "name": ["never heard words", "other unheard things"], "price": [0.0, 0.0]}
    )
    recommender.add_items(odd)
    after = recommender.recommend(HISTORIES, top_k=10)
    for one, other in zip(before, after, strict=True):
        assert [each["item_id"] for each in one] == [each["item_id"] for each in other if each["item_id"][0] == "s"]


def test_an_item_that_nobody_knows_is_as_the_one_that_is_like_it(folder):
    recommender = Recommender.from_pretrained(folder)
    titles = dict(products(range(40)).select("sku", "name").iter_rows())
    like = recommender.recommend([{"title": titles["sku-6"]}], top_k=5)
    found = recommender.recommend(["sku-6"], top_k=40, exclude_seen=False)
    assert {each["item_id"] for each in like} <= {each["item_id"] for each in found}


def test_removing_frees_and_forgets(folder):
    recommender = Recommender.from_pretrained(folder)
    recommender.rules = RecommendationRules(deny=["sku-3", "sku-4"], allow=[f"sku-{row}" for row in range(30)])
    update = recommender.remove_items(["sku-3", "sku-5"])
    assert update.removed == ["sku-3", "sku-5"] and recommender.rules.deny == ("sku-4",)
    assert len(recommender.rules.allow) == 28 and recommender.memory.num_items == 38
    found = recommender.recommend(["sku-1"], top_k=40)
    assert found and not {"sku-3", "sku-4", "sku-5"} & {each["item_id"] for each in found}
    recommender.save_pretrained(folder)
    assert len(Recommender.from_pretrained(folder).item_ids) == 38
    with pytest.raises(UnknownItemError, match="'sku-3'"):
        recommender.remove_items(["sku-1", "sku-3"])
    with pytest.raises(ValueError, match="nothing to recommend"):
        recommender.remove_items(recommender.item_ids)
    with pytest.raises(TypeError, match="a list of item ids"):
        recommender.remove_items("sku-1")
    assert "sku-1" in recommender.item_ids and len(recommender.journal) == 1
    recommender.add_items(products([3]))
    assert recommender.item_ids[-1] == "sku-3" and recommender.memory.counts[-1] == 0


@pytest.mark.parametrize(
    ("day", "error", "message"),
    [
        (
            pl.DataFrame({"sku": ["a", "a"], "name": ["x y", "z w"], "price": [1.0, 2.0]}),
            ReadError,
            "'a' in lines 2, 3",
        ),
        (pl.DataFrame({"sku": ["a"], "name": ["x y"]}), ReadError, "no column 'price', which price was to be"),
        (pl.DataFrame({"sku": ["a"], "name": [""], "price": [0.0]}), ReadError, "line 2: 'a'.*Give them a title"),
        ("no.csv", ReadError, "no such file"),
    ],
)
def test_bad_products_change_nothing(folder, day, error, message):
    recommender = Recommender.from_pretrained(folder)
    before, index = recommender.recommend(HISTORIES), recommender.tokenizer.index
    with pytest.raises(error, match=message):
        recommender.add_items(day)
    assert recommender.tokenizer.index is index and not recommender.journal
    assert recommender.recommend(HISTORIES) == before


def test_an_error_late_changes_nothing_either(folder, monkeypatch):
    recommender = Recommender.from_pretrained(folder)
    index = recommender.tokenizer.index

    def broken(*_):
        raise MemoryError

    monkeypatch.setattr("trainers.methods.recommender.updated_memory", broken)
    with pytest.raises(MemoryError):
        recommender.add_items(products(range(42)))
    assert recommender.tokenizer.index is index and len(recommender.item_ids) == 40


def test_a_trained_network_gets_the_content_of_new_items():
    trained = Recommender.from_interactions(orders(), products(range(40)), minutes=0.02)
    trained.add_items(products(range(42)))
    content = trained.tokenizer.index.content
    assert len(content) == 42 and np.isfinite(content).all() and content[40:].any()
    assert trained.recommend(["sku-41"], top_k=3)


def test_texts_that_tell_nothing_get_no_new_items():
    rows = {"sku": [f"sku-{row}" for row in range(40)], "name": [f"one{row}" for row in range(40)]}
    recommender = Recommender.from_interactions(orders(), pl.DataFrame(rows))
    with pytest.raises(ValueError, match="takes no new items: .*from_interactions"):
        recommender.add_items(pl.DataFrame({"sku": ["new"], "name": ["one1"]}))


def test_the_network_of_the_items_travels(folder, tmp_path):
    """Saved elsewhere, or pushed, it is still there when the first folder is gone."""
    recommender = Recommender.from_pretrained(folder)
    recommender.save_pretrained(tmp_path / "copy")
    shutil.rmtree(folder)
    copied = Recommender.from_pretrained(tmp_path / "copy")
    copied.add_items(products(range(41)))
    copied.save_pretrained(tmp_path / "copy")
    (tmp_path / "copy").rename(tmp_path / "moved")
    assert len(Recommender.from_pretrained(tmp_path / "moved").add_items(products(range(43))).added) == 2


def test_what_another_process_does_to_the_folder_is_not_read_later(folder, tmp_path):
    """Of a folder that is brought up to date meanwhile, what was loaded is what is saved."""
    recommender, other = Recommender.from_pretrained(folder), Recommender.from_pretrained(folder)
    other.add_items(products(range(42)))
    other.save_pretrained(folder)
    recommender.save_pretrained(tmp_path / "copy")
    copied = Recommender.from_pretrained(tmp_path / "copy")
    assert len(copied.item_ids) == copied.memory.num_items == 40
    assert copied.recommend(HISTORIES) == recommender.recommend(HISTORIES)
    assert Recommender.from_pretrained(folder).memory.num_items == 42


def test_another_assortment_does_not_empty_the_index(folder):
    recommender = Recommender.from_pretrained(folder)
    with pytest.raises(ValueError, match="none of its 10 items .* nothing would be left of the 40"):
        recommender.add_items(products(range(50, 60)), remove_missing=True)
    assert len(recommender.item_ids) == recommender.memory.num_items == 40 and not recommender.journal
    update = recommender.add_items(products(range(39, 60)), remove_missing=True)  # of one, something is left
    assert len(update.removed) == 39 and len(recommender.item_ids) == recommender.memory.num_items == 21
    assert recommender.recommend(["sku-50"], top_k=3)


@pytest.mark.hub
def test_the_same_through_the_hub(folder, hub):
    name = hub.new_repo("shop")
    Recommender.from_pretrained(folder).push_to_hub(name)
    shutil.rmtree(folder)
    pulled = Recommender.from_pretrained(name)
    assert pulled.add_items(products(range(42))).added == ["sku-40", "sku-41"]
    pulled.push_to_hub(name)
    assert len(Recommender.from_pretrained(name).journal) == 1


def test_columns_and_newest_items_by_the_journal():
    facts = {"columns": {"user": "u", "item": "i", "id": "sku", "title": "name", "price": None, "text": ["a"]}}
    assert known_columns([], {}) is None and known_columns([], {"columns": {"user": "u", "id": None}}) is None
    assert known_columns([], facts).text == ("a",) and known_columns([], facts).image is None
    line = {"columns": {"id": "no", "title": None, "price": None, "text": [], "image": "photo"}}
    assert known_columns([line, {"removed": 1}], facts).image == "photo"

    class Update:
        added: list = []

    journal = [{"item_ids": {"added": ["a"]}}, {"item_ids": {"added": ["b"]}}, {"item_ids": {"removed": ["c"]}}]
    assert newest_items(Update, journal) == ["b"] and newest_items(Update, []) == []


def test_places_of_networks_in_a_copy(tmp_path):
    for name in ("shop/item_tokenizer", "tokenizer", "copy"):
        (tmp_path / name).mkdir(parents=True)
    shop, copy = tmp_path / "shop", tmp_path / "copy"
    within = NetworkReference(str(shop / "item_tokenizer"))
    assert reference_within(within, shop, copy).name_or_path == str(copy / "item_tokenizer")
    for elsewhere in (NetworkReference(str(tmp_path / "tokenizer")), NetworkReference("org/name", "commit"), None):
        assert reference_within(elsewhere, shop, copy) == elsewhere
    assert reference_within(NetworkReference(str(shop)), shop, copy) is None


def test_journal_lines_are_whole(folder):
    recommender = Recommender.from_pretrained(folder)
    recommender.add_items(products(range(41)))
    recommender.save_pretrained(folder)
    text = (folder / JOURNAL_NAME).read_text()
    assert text.endswith("\n") and [json.loads(line)["added"] for line in text.splitlines()] == [1]
    assert torch.equal(recommender.memory.counts, Recommender.from_pretrained(folder).memory.counts)
