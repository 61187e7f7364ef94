"""Provenance of semantic IDs: digests that change with what is read of an item, and files that belong to an index."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from tokenization_items import item_provenance
from tokenization_items.catalogue import Catalogue, CatalogueError
from tokenization_items.item_index import ItemIndex, ItemIndexError
from tokenization_items.item_provenance import PROVENANCE_NAME, ItemProvenance, content_digests


def provenance(num_items: int, seed: int = 0) -> ItemProvenance:
    rng = np.random.default_rng(seed)
    digests = [rng.integers(0, 256, (num_items, 16)).astype(np.uint8) for _ in range(2)]
    return ItemProvenance(*digests, rng.integers(0, 4, (num_items, 2)).astype(np.int32))


def filled(num_items: int = 3) -> ItemIndex:
    index = ItemIndex([4, 4], [2, 6])
    index.assign([f"i{row}" for row in range(num_items)], np.array([[row // 4, row % 4] for row in range(num_items)]))
    index.set_provenance(provenance(num_items))
    return index


def test_digests_are_of_what_is_read(tmp_path):
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (4, 4), colour).save(tmp_path / name)
    records = [
        {"item_id": "1", "title": "pen", "image": "a.png"},
        {"item_id": "2", "title": "pen", "image": "a.png"},
        {"item_id": "3", "title": "pen", "image": "b.png"},
        {"item_id": "4", "title": "Pen", "image": "a.png"},
        {"item_id": "5", "title": "pen", "image": None},
    ]
    catalogue = Catalogue.from_records(records, image_root=tmp_path)
    both = content_digests(catalogue, images=True)
    assert both.shape == (5, 16) and both.dtype == np.uint8
    assert len({bytes(row) for row in both}) == 4 and (both[0] == both[1]).all()  # not of the id
    # saved ones are compared with those of later releases: sha256 of text and the file's own digest, as JSON
    said = ["pen", catalogue.image_digest(2)]
    assert both[2].tobytes() == hashlib.sha256(json.dumps(said).encode()).digest()[:16]
    texts = content_digests(catalogue, images=False)
    assert texts[3].tobytes() == hashlib.sha256(b'["Pen", null]').digest()[:16]
    assert len({bytes(row) for row in texts}) == 2 and (texts[0] == texts[4]).all()
    assert content_digests(catalogue.select([]), images=True).shape == (0, 16)
    (tmp_path / "b.png").unlink()
    with pytest.raises(CatalogueError, match="item '3': missing image file"):
        content_digests(catalogue, images=True)


def test_a_few_images_are_read_ahead(monkeypatch):
    """Of a large catalogue not all wait at once, and rows stay in their order over parts."""
    monkeypatch.setattr(item_provenance, "ITEMS_AT_A_TIME", 2)
    images = [Image.new("RGB", (2, 2), (row, 0, 0)) for row in range(9)]
    records = [{"item_id": str(row), "title": "pen", "image": image} for row, image in enumerate(images)]
    catalogue, asked = Catalogue.from_records(records), []
    whole = [content_digests(catalogue.select([row]), images=True)[0].tolist() for row in range(9)]

    def digest(row: int) -> str | None:
        asked.append(row)
        if row == 1:
            raise CatalogueError("item '1': broken")
        return Catalogue.image_digest(catalogue, row)

    assert content_digests(catalogue, images=True).tolist() == whole
    object.__setattr__(catalogue, "image_digest", digest)
    with pytest.raises(CatalogueError, match="'1': broken"):
        content_digests(catalogue, images=True)
    assert max(asked) < 8


def test_rows_follow_the_items(tmp_path):
    index, before = filled(), provenance(3)
    index.remove(["i1"])
    index.assign(["new"], np.array([[3, 3]]))
    np.testing.assert_array_equal(index.provenance.latest[:2], before.latest[[0, 2]])
    assert not index.provenance.latest[2].any() and (index.provenance.given_codes[2] == -1).all()
    assert index.provenance.has_codes.tolist() == [True, True, False]
    assert index.provenance.is_stale.tolist() == [True, True, False]
    index.set_titles(["a", "b", "c"])
    index.save(tmp_path)
    for one, other in zip(index.provenance, ItemIndex.load(tmp_path).provenance, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    index.set_provenance(None)
    index.save(tmp_path)
    assert not (tmp_path / PROVENANCE_NAME).exists() and ItemIndex.load(tmp_path).provenance is None
    with pytest.raises(ValueError, match=r"3 items, but provenance of \[2, 2, 2\]"):
        index.set_provenance(provenance(2))


def test_what_is_of_another_index_is_not_known_and_what_is_broken_is_an_error(tmp_path):
    filled().save(tmp_path)
    content = (tmp_path / PROVENANCE_NAME).read_bytes()
    other = filled(4)
    other.set_provenance(None)
    other.save(tmp_path)
    (tmp_path / PROVENANCE_NAME).write_bytes(content)  # as a program leaves it that knows of none
    assert ItemIndex.load(tmp_path).provenance is None
    filled().save(tmp_path)
    (tmp_path / PROVENANCE_NAME).write_bytes(content[:-3])
    with pytest.raises(ItemIndexError, match="item_provenance.safetensors"):
        ItemIndex.load(tmp_path)
