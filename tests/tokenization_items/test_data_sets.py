"""Data sets of `datasets` as people hold them: labels, streams, splits, transforms."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict, Sequence, Value
from datasets import Image as ImageFeature
from PIL import Image

from tokenization_items import Catalogue, CatalogueError
from tokenization_items.data_sets import read_data_set

PICTURE = Image.fromarray(np.full((4, 4, 3), 200, np.uint8))
FEATURES = Features(
    item_id=Value("string"),
    title=Value("string"),
    brand=ClassLabel(names=["Fernwick", "Oakham"]),
    categories=Sequence(ClassLabel(names=["Office", "Pens"])),
    image=ImageFeature(),
)
ITEMS = {
    "item_id": ["a", "b", "c"],
    "title": ["stapler", "pen", "eraser"],
    "brand": [0, 1, -1],  # of the last it is not known
    "categories": [[0], [0, 1], None],
    "image": [None, PICTURE, None],
}


@pytest.fixture(scope="module")
def items() -> Dataset:
    return Dataset.from_dict(ITEMS, features=FEATURES)


@pytest.mark.parametrize(
    "kind", ["held", "split", "stream", "stream of tensors", "stream of a split", "stream without features"]
)
def test_labels_have_names_and_images_stay_encoded(items, kind):
    stream = items.to_iterable_dataset()
    given = {
        "held": items,
        "split": DatasetDict(train=items),
        "stream": stream,
        "stream of tensors": stream.with_format("torch"),
        "stream of a split": IterableDatasetDict(train=stream),
        "stream without features": stream.map(
            lambda item: {**item, "brand": ["Fernwick", "Oakham", ""][item["brand"]], "categories": ["Office"]},
            features=None,
        ),
    }[kind]
    catalogue = Catalogue.from_records(given)
    assert catalogue.item_ids == ["a", "b", "c"] and catalogue.brands == ["Fernwick", "Oakham", ""]
    assert catalogue.images.present.tolist() == [False, True, False] and catalogue.image(1).size == (4, 4)
    if kind != "stream without features":
        assert catalogue.texts == ["stapler. Fernwick. Office", "pen. Oakham. Office, Pens", "eraser"]


def test_a_stream_whose_columns_are_empty_at_first():
    rows = [{"item_id": f"i{row}", "title": "pen", "brand": None if row < 1500 else "Oakham"} for row in range(2000)]
    catalogue = Catalogue.from_records(IterableDataset.from_generator(lambda: iter(rows)))
    assert len(catalogue) == 2000 and (catalogue.brands[0], catalogue.brands[-1]) == ("", "Oakham")


def test_transforms_are_made(items):
    shouted = items.remove_columns(["brand", "categories", "image"]).with_transform(
        lambda batch: {**batch, "title": [title.upper() for title in batch["title"]]}
    )
    assert Catalogue.from_records(shouted).texts == ["STAPLER", "PEN", "ERASER"]


def test_one_of_several_splits_is_to_be_given(items):
    with pytest.raises(CatalogueError, match="expected one data set, got the splits 'train', 'test': give one"):
        Catalogue.from_records(DatasetDict(train=items, test=items))


def test_nothing(items):
    none = items.to_iterable_dataset().filter(lambda item: False)
    assert read_data_set(none) == [] and len(Catalogue.from_records(none)) == 0
