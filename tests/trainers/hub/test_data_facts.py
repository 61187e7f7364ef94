"""Cards of data folders: every number is counted in the files."""

import json

import numpy as np
import pytest
import yaml

from hub_cards import render_card
from trainers.data.preparation import PreparationChoices
from trainers.data.prepared_folder import check_prepared, prepare_data_set
from trainers.data.readers import TabularReader
from trainers.data.synthetic import write_all
from trainers.hub.data_facts import column_names, dataset_card_values


def write_domain(folder, num_items=6):
    folder.mkdir(parents=True)
    items = [{"item_id": f"i{row}", "title": f"t{row}"} for row in range(num_items)]
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    users = [{"user_id": str(user), "items": [f"i{row}" for row in range(3 + user)]} for user in range(3)]
    (folder / "sequences.jsonl").write_text("".join(json.dumps(user) + "\n" for user in users))


def test_one_domain(tmp_path):
    write_domain(tmp_path / "shop")
    values = dataset_card_values(tmp_path / "shop", license="mit", repo_id="o/shop")
    assert values.name == "shop"
    (row,) = values.domains
    assert row == {
        "Domain": "shop",
        "Items": 6,
        "Items with image": 0,
        "Users": 3,
        "Interactions": 12,
        "Median per user": 4.0,
    }
    assert values.configs == [
        {"config_name": "items", "data_files": "items.jsonl"},
        {"config_name": "interactions", "data_files": "sequences.jsonl"},
    ]
    assert [column["Column"] for column in values.columns] == ["item_id", "title", "user_id", "items"]
    assert 'snapshot_download("o/shop", repo_type="dataset")\n' in render_card(values)


def test_several_domains(tmp_path):
    for name, size in (("a", 6), ("b", 9)):
        write_domain(tmp_path / name, size)
    values = dataset_card_values(tmp_path, "both")
    assert [(row["Domain"], row["folder"], row["Items"]) for row in values.domains] == [("a", "a", 6), ("b", "b", 9)]
    assert values.configs[2] == {"config_name": "b-items", "data_files": "b/items.jsonl"}
    header = yaml.safe_load(render_card(values).split("---\n")[1])
    assert header["pretty_name"] == "both" and header["size_categories"] == ["n<1K"]


def test_the_builtin_data(tmp_path):
    folders = write_all(tmp_path, num_items=64, num_users=60)
    values = dataset_card_values(tmp_path)
    assert len(values.domains) == len(folders) == 4
    told = {row["Setting"]: row for row in values.preparation}
    assert told["num items"]["office"] == 64 and told["seed"]["kitchen"] == 0
    assert "trainers/data/synthetic.py" in render_card(values)


def test_prepared_data_say_how_they_were_made_and_may_have_a_card(tmp_path):
    rng = np.random.default_rng(0)
    rows = [f"u{user},i{item},{time}" for user in range(12) for time, item in enumerate(rng.permutation(8)[:5])]
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + "\n".join([*rows, rows[0]]) + "\n")
    (tmp_path / "goods.csv").write_text("item_id,title\n" + "".join(f"i{row},thing {row}\n" for row in range(8)))
    reader = TabularReader(tmp_path / "log.csv", tmp_path / "goods.csv", timestamp_unit="order")
    folder = tmp_path / "shop"
    document = prepare_data_set(reader, folder, PreparationChoices(k_core=2))
    values = dataset_card_values(folder)
    told = {row["Setting"]: row["Value"] for row in values.preparation}
    assert told["k core"] == 2 and told["counted: items"] == document["counts"]["items"]
    assert [row["File"] for row in values.sources] == ["log.csv", "goods.csv"]
    assert {"Of": "interactions", "Reason": "the same user, item and time again", "Count": 1} in values.dropped
    (folder / "README.md").write_text(render_card(values))
    assert check_prepared(folder) == document, "a card is no change of the data"


@pytest.mark.parametrize(
    ("name", "text", "columns"),
    [("a.jsonl", '{"x": 1, "y": 2}\n', ["x", "y"]), ("a.csv", "x,y\n1,2\n", ["x", "y"]), ("a.jsonl.gz", "", [])],
)
def test_columns(tmp_path, name, text, columns):
    (tmp_path / name).write_text(text)
    assert column_names(tmp_path / name) == columns
