"""Items of folders, files and data sets: the same items whatever holds them, and what holds none says so."""

import gzip
import json

import datasets
import polars as pl
import pytest
from huggingface_hub import HfApi

from trainers.data.item_sources import read_items
from trainers.data.readers.base import ReadError

ROWS = [{"item_id": f"i{row}", "title": f"pen {row}", "brand": "Fernwick" if row % 2 else "", "colour": "dark red"}
        for row in range(4)]  # fmt: skip


def texts(data, **arguments) -> list[str]:
    return read_items(data, **arguments)[0].texts


@pytest.fixture(scope="module")
def expected():
    return texts(pl.DataFrame(ROWS))


def test_files_and_data_sets_are_read_alike(tmp_path, expected):
    assert expected[1] == "pen 1. Fernwick. dark red"
    frame = pl.DataFrame(ROWS)
    frame.write_csv(tmp_path / "a.csv", separator="|")
    frame.write_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    for name in ("a.csv", "a.parquet", "a.jsonl", "a.csv.gz"):
        catalogue, how = read_items(tmp_path / name)
        assert catalogue.texts == expected and catalogue.name == "a" and how.columns.id == "item_id", name
    made = datasets.Dataset.from_list(ROWS)
    made.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": made}).save_to_disk(tmp_path / "split")
    (tmp_path / "repository").mkdir()
    frame.write_parquet(tmp_path / "repository" / "part.parquet")
    for source in (
        made,
        frame.to_pandas(),
        ROWS,
        tmp_path / "saved",
        str(tmp_path / "split"),
        tmp_path / "repository",
    ):
        assert texts(source) == expected
    datasets.DatasetDict({"new": made, "old": made}).save_to_disk(tmp_path / "two")
    with pytest.raises(ReadError, match="has the splits 'new', 'old': say which, as two:new"):
        read_items(tmp_path / "two")


def test_a_data_folder_has_its_columns_unless_they_are_named(tmp_path, expected):
    pl.DataFrame(ROWS).with_columns(image=pl.lit("https://x.org/a.png")).write_csv(tmp_path / "items.csv")
    catalogue, note = read_items(tmp_path)
    assert catalogue.texts[1] == "pen 1. Fernwick" and catalogue.name == tmp_path.name
    assert note.startswith("4 addresses, which are not fetched") and not catalogue.images.present.any()
    assert texts(tmp_path, columns=["text=brand,colour"]) == expected
    assert texts(tmp_path, text_fields=["colour"]) == ["dark red"] * 4


@pytest.mark.hub
def test_a_data_set_of_the_hub(hub, tmp_path, expected):
    name = hub.new_repo("products")
    api = HfApi()
    api.create_repo(name, repo_type="dataset")
    pl.DataFrame(ROWS).write_parquet(tmp_path / "train.parquet")
    api.upload_file(
        path_or_fileobj=tmp_path / "train.parquet",
        path_in_repo="train.parquet",
        repo_id=name,
        repo_type="dataset",
    )
    catalogue, how = read_items(name)
    assert catalogue.texts == expected and catalogue.name == name.rpartition("/")[2] and how.columns.title == "title"
    assert texts(f"{name}:train[:2]") == expected[:2]
    with pytest.raises(ReadError, match="no data set that can be read"):
        read_items(f"{name}-that-is-not-there")


@pytest.mark.parametrize("name", ["no.csv", "no/such/folder", "a b"])
def test_what_is_nothing(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ReadError, match="no such file or folder, nor the id of a data set"):
        read_items(name)


def test_an_empty_folder(tmp_path):
    with pytest.raises(ReadError, match="no data set that can be read.*a data folder has one of items.parquet"):
        read_items(tmp_path)
