"""UTGRec's own folder."""

import json

import pytest

from trainers.data.readers import ReadError, UTGRecFilesReader

MAPPING = {
    "user2id": {"[PAD]": 0, "AG": 1, "AH": 2},
    "item2id": {"[PAD]": 0, "B2": 1, "B1": 2, "B3": 3},
    "id2user": ["[PAD]", "AG", "AH"],
    "id2item": ["[PAD]", "B2", "B1", "B3"],
}
SEQUENCES = {"AG": ["B1", "B2", "B1"], "AH": ["B3"]}
TEXTS = {"B1": "A text. With features, and <i>categories</i>.", "B2": "Another &amp; text"}


@pytest.fixture
def folder(write, tmp_path):
    write("Office/all_item_seqs.json", json.dumps(SEQUENCES))
    write("Office/id_mapping.json", json.dumps(MAPPING))
    write("Office/metadata.sentence.json", json.dumps(TEXTS))
    write("Office/Images/B3.jpg", b"an image")
    write("Office/Images/unrelated.jpg", b"an image")
    return tmp_path / "Office"


def test_the_published_folder(read, folder):
    log, items, _ = read(UTGRecFilesReader(folder))
    assert [row[:3] for row in log] == [("AG", "B1", 0), ("AG", "B2", 1), ("AG", "B1", 2), ("AH", "B3", 0)]
    assert list(items) == ["B2", "B1", "B3"]  # as in id2item
    assert items["B1"]["description"] == "A text. With features, and categories." and items["B1"]["title"] == ""
    assert items["B3"]["description"] == "" and items["B3"]["image"] == str(folder / "Images" / "B3.jpg")
    assert items["B1"]["image"] is None and items["B1"]["image_url"] is None


def test_a_folder_without_images_and_texts_of_no_item(read, folder, write, examples_of):
    for path in (folder / "Images").iterdir():
        path.unlink()
    (folder / "Images").rmdir()
    write("Office/metadata.sentence.json", json.dumps(TEXTS | {"B9": "nobody's"}))
    _, items, report = read(UTGRecFilesReader(folder))
    assert all(item["image"] is None for item in items.values())
    assert "metadata.sentence.json: item 'B9'" in examples_of(report, "items", "not in id2item")


def test_what_cannot_be_read(read, folder, write):
    write("Office/id_mapping.json", json.dumps(MAPPING | {"id2item": {"B1": 1}}))
    with pytest.raises(ReadError, match="id_mapping.json: id2item should be the list"):
        read(UTGRecFilesReader(folder))
    write("Office/id_mapping.json", json.dumps(MAPPING | {"id2item": ["B1", "B2"]}))
    with pytest.raises(ReadError, match="should start with '.PAD.'"):
        read(UTGRecFilesReader(folder))
    (folder / "metadata.sentence.json").unlink()
    with pytest.raises(ReadError, match="metadata.sentence.json: no such file"):
        UTGRecFilesReader(folder).files()
