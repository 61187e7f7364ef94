"""`handler.py` of pushed recommenders, as Inference Endpoints loads it: from the folder that it is in."""

import importlib.util
import json

import pytest
from huggingface_hub import HfApi, snapshot_download

from trainers.commands.publish import PublishArguments, plan
from trainers.hub.endpoint import HANDLER, endpoint_files, write_endpoint
from trainers.hub.publish import publish


def handler_of(folder):
    """An instance of the handler in a folder."""
    specification = importlib.util.spec_from_file_location("handler", folder / "handler.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.EndpointHandler(str(folder))


@pytest.fixture
def folder(recommender, tmp_path):
    recommender.save_pretrained(tmp_path / "shop")
    return tmp_path / "shop"


def test_a_recommender_gets_the_files_once(folder):
    write_endpoint(folder)
    assert (folder / "handler.py").read_text() == HANDLER.read_text()
    assert (folder / "requirements.txt").read_text().startswith("utgrec")
    (folder / "requirements.txt").write_text("utgrec @ git+https://example.com/utgrec\n")
    write_endpoint(folder)
    assert "example.com" in (folder / "requirements.txt").read_text() and endpoint_files(folder) == {}


def test_other_folders_get_none(folder, tmp_path):
    assert endpoint_files(tmp_path) == {} and endpoint_files(folder / "item_tokenizer") == {}
    (folder / "config.json").unlink()
    assert endpoint_files(folder) == {}


def test_it_answers_as_the_recommender(folder, recommender, check_same):
    write_endpoint(folder)
    handler = handler_of(folder)
    histories = [["sku-1", "sku-5"], ["gone"], []]
    found = json.loads(json.dumps(handler({"inputs": histories, "parameters": {"top_k": 3, "deny": ["sku-9"]}})))
    expected = recommender.recommend([histories[0], []], top_k=3, deny=["sku-9"])
    check_same(found[0], expected[0])
    check_same(found[2], expected[1])
    assert "'gone'" in found[1][0]["reason"] and found[1][0]["item_id"] is None
    check_same(handler({"inputs": ["sku-1"]}), recommender.recommend(["sku-1"]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "inputs: expected a list"),
        ({"inputs": "sku-1"}, "inputs: expected a list"),
        ({"inputs": [["sku-1"]], "parameters": {"k": 3}}, "parameters: k unknown"),
        ({"inputs": [["sku-1"]], "parameters": ["top_k"]}, "parameters: expected an object"),
        ({"inputs": [["sku-1"]], "parameters": {"deny": ["gone"]}}, "deny: .*'gone'"),
        ({"inputs": [[{"title": "pen", "image": "/etc/passwd"}]]}, "pictures are not taken"),
        ({"inputs": [{"title": "pen", "image": "/etc/passwd"}]}, "pictures are not taken"),
    ],
)
def test_it_says_what_is_wrong(recommender, shop, data, message):
    specification = importlib.util.spec_from_file_location("handler", HANDLER)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    with pytest.raises((ValueError, KeyError), match=message):
        module.EndpointHandler(str(shop))(data)


def test_it_says_what_is_missing(folder, monkeypatch):
    write_endpoint(folder)

    def lacking(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr("importlib.import_module", lacking)
    with pytest.raises(ImportError, match="requirements.txt beside this file names utgrec"):
        handler_of(folder)


@pytest.mark.hub
def test_it_is_pushed_whichever_way(folder, recommender, hub, tmp_path, check_same):
    pushed = hub.new_repo("shop")
    recommender.push_to_hub(pushed)
    name = hub.new_repo("published")
    (publication,) = plan(PublishArguments(name=name, recommender=str(folder)))
    assert {"handler.py", "requirements.txt"} <= {file for file, _ in publication.plan.files}
    publish(publication, public=False, message="m")
    for number, repository in enumerate((pushed, publication.repo_id)):
        assert {"handler.py", "requirements.txt"} <= set(HfApi().list_repo_files(repository))
        local = tmp_path / str(number)
        snapshot_download(repository, local_dir=local)
        (found,) = handler_of(local)({"inputs": [["sku-1", "sku-5"]], "parameters": {"top_k": 4}})
        check_same(found, recommender.recommend(["sku-1", "sku-5"], top_k=4))
    HfApi().delete_repo(publication.repo_id)
