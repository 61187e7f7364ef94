"""Changes of what is served: another one beside it, as if it had been changed itself."""

import shutil

import pytest

from tokenization_items.catalogue_updates import read_journal
from tokenization_items.item_files import CatalogueError
from tokenization_items.item_index import UnknownItemError
from trainers import Recommender
from trainers.data.readers.base import ReadError
from trainers.serving.state import Question, Served, changed, load, write_changes

HISTORIES = [["sku-1", "sku-5"], ["sku-2"], []]
NEW = {"item_id": "new-1", "title": "green cup number 1"}


def test_a_change_leaves_what_is_served(recommender):
    served, ids = Served(recommender), list(recommender.item_ids)
    before, journal, facts = recommender.recommend(HISTORIES, top_k=20), list(recommender.journal), recommender.facts
    after, updates = changed(served, [NEW], ["sku-3"])
    assert after.version == 2 and [(each.added, each.removed) for each in updates] == [
        ([], ["sku-3"]),
        (["new-1"], []),
    ]
    assert set(after.recommender.item_ids) == {*ids, "new-1"} - {"sku-3"}
    assert recommender.item_ids == ids and recommender.journal == journal and recommender.facts == facts
    assert recommender.memory.num_items == 40 == len(after.recommender.item_ids)
    assert recommender.recommend(HISTORIES, top_k=20) == before
    assert after.recommender.model is recommender.model
    found = after.recommender.recommend([["sku-2"]], top_k=40)
    assert "new-1" in [each["item_id"] for each in found[0]]


def test_a_change_is_that_of_the_recommender_itself(recommender, shop, check_same):
    alone = Recommender.from_pretrained(shop)
    alone.remove_items(["sku-3"])
    alone.add_items([{"sku": "new-1", "name": "green cup number 1", "price": None}])
    after, _ = changed(Served(recommender), [NEW], ["sku-3"])
    assert after.recommender.item_ids == alone.item_ids
    both = [each.recommend(HISTORIES, top_k=20) for each in (after.recommender, alone)]
    for found, expected in zip(*both, strict=True):
        check_same(found, expected)


def test_rows_are_those_of_the_shop_or_of_everybody(recommender):
    served = Served(recommender)
    rows = [{"sku": "new-1", "name": "green cup number 1", "price": 2.5}, {"item_id": 7, "title": "red pen"}]
    after, _ = changed(served, rows, [])
    assert after.recommender.titles["new-1"] == "green cup number 1" and after.recommender.titles["7"] == "red pen"
    bare = Recommender(recommender.model, recommender.tokenizer, recommender.stored)  # as of `train-baseline`
    after, _ = changed(Served(bare), [NEW | {"colour": "green"}, {"item_id": "new-2", "title": "red pen"}], [])
    assert after.recommender.titles["new-1"] == NEW["title"] and "new-2" in after.recommender.item_ids


def test_an_item_that_is_known_is_changed(recommender):
    after, (update,) = changed(Served(recommender), [{"item_id": "sku-1", "title": "blue map"}], [])
    assert update.changed == ["sku-1"] and update.added == []
    assert after.recommender.titles["sku-1"] == "blue map" and recommender.titles["sku-1"] == "blue ink number 0"
    assert after.recommender.tokenizer.encode("sku-1") == recommender.tokenizer.encode("sku-1")


def test_an_item_is_removed_once(recommender):
    after, (update,) = changed(Served(recommender), [], ["sku-1", "sku-2", "sku-1"])
    assert update.removed == ["sku-1", "sku-2"] and len(after.recommender.item_ids) == 38


@pytest.mark.parametrize(
    ("add", "remove", "error"),
    [
        ([{"title": "pen"}], [], (ReadError, CatalogueError)),
        ([NEW, NEW], [], (ReadError, CatalogueError)),
        ([{"item_id": "new-1"}], [], ReadError),
        ([NEW | {"title": 10**400}], [], ReadError),
        ([NEW, NEW | {"item_id": "new-2", "title": ["a"]}], [], ReadError),
        ([], ["gone"], UnknownItemError),
        ([NEW], ["gone"], UnknownItemError),
        ([], [f"sku-{row}" for row in range(40)], ValueError),
    ],
)
def test_what_cannot_be_changed(recommender, add, remove, error):
    ids = list(recommender.item_ids)
    with pytest.raises(error):
        changed(Served(recommender), add, remove)
    assert recommender.item_ids == ids


def test_a_picture_is_no_path_to_open(recommender, monkeypatch):
    known = recommender.facts["columns"]
    pictured = Recommender(
        recommender.model,
        recommender.tokenizer,
        recommender.stored,
        facts=recommender.facts | {"columns": known | {"image": "photo"}},
    )
    with pytest.raises(ValueError, match="photo: pictures are not taken here"):
        changed(Served(pictured), [NEW | {"photo": "/etc/passwd"}], [])
    opened = []
    monkeypatch.setattr("trainers.data.products.local_images", lambda *args, **_: opened.append(args))
    bare = Recommender(recommender.model, recommender.tokenizer, recommender.stored)
    changed(Served(bare), [NEW | {"photo": "/etc/passwd.png"}], [])
    assert opened == []


def test_changes_are_written_in_one_step(shop, tmp_path, check_same):
    folder = shutil.copytree(shop, tmp_path / "shop")
    before = load(str(folder))
    after, _ = changed(before, [NEW], [])
    write_changes(folder, before, after)
    again = load(str(folder), version=3)
    assert again.version == 3 and again.recommender.item_ids == after.recommender.item_ids
    both = [each.recommender.recommend(HISTORIES, top_k=9) for each in (again, after)]
    for found, expected in zip(*both, strict=True):
        check_same(found, expected)
    assert len(read_journal(folder)) == 1
    third, _ = changed(after, [NEW | {"item_id": "new-2"}], ["sku-4"])
    write_changes(folder, after, third)
    assert len(read_journal(folder)) == 3 and load(str(folder)).recommender.item_ids == third.recommender.item_ids
    with pytest.raises(ValueError, match="was changed by another program meanwhile"):
        write_changes(folder, before, after)


def test_equal_questions_are_read_together(recommender):
    served = Served(recommender)
    settings = (5, None, None, ("sku-9",), 50, False, "skip")
    assert Question(served, *settings) == Question(served, *settings)
    assert len({Question(served, *settings), Question(served, *settings)}) == 1
    assert Question(Served(recommender), *settings) != Question(served, *settings)
    assert Question(served, 5, None, None, (), 50, False, "skip") != Question(served, *settings)
