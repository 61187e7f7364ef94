"""Models by folder or Hub id: the commit that is settled, and what is said where there is none."""

import pytest
from huggingface_hub import HfApi

from modeling_utgrec import SASRecConfig, SASRecForNextItem
from tokenization_items.hub_folders import HubError
from trainers.hub.download import ModelPlace, find_model, find_part


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("output") / "recommender"
    SASRecForNextItem(SASRecConfig(num_items=5, hidden_size=4)).save_pretrained(folder)
    return folder


def test_a_folder_is_itself(folder):
    assert find_model(folder) == find_part(folder.parent, "recommender") == ModelPlace(str(folder), None, folder)
    with pytest.raises(HubError, match=f"{folder} is a folder, and folders have no revision 'main'"):
        find_model(folder, "main")
    with pytest.raises(HubError, match="no output folder of pretrain: there is no folder tokenizer in it"):
        find_part(folder.parent, "tokenizer")


@pytest.mark.hub
def test_a_repository_is_of_one_commit(hub_server, hub, folder):
    name = hub.new_repo("recommender")
    HfApi().create_repo(name)
    with pytest.raises(HubError, match=f"{name} on the Hub holds no model: neither config.json nor item_tokenizer_co"):
        find_model(name)
    HfApi().upload_folder(repo_id=name, folder_path=folder)
    first = HfApi().model_info(name).sha
    HfApi().create_branch(name, branch="trial")
    HfApi().upload_file(path_or_fileobj=b"{}", path_in_repo="other.json", repo_id=name)
    hub_server.log.clear()
    there = find_model(name, "trial")
    assert (there.name, there.revision, there.folder.name) == (name, first, first)
    assert find_model(name).revision != first
    assert {path.name for path in there.folder.iterdir()} == {"config.json"}, "no weights"
    assert find_part(name.removesuffix("-recommender"), "recommender", "trial") == there
    pretrained = name.removesuffix("-recommender")
    said = f"`--pretrained {pretrained}` on the Hub is {pretrained}-tokenizer and {pretrained}-recommender"
    with pytest.raises(HubError, match=said):
        find_part(pretrained, "tokenizer")
    with pytest.raises(HubError, match=f"{name} has no branch, tag or commit 'v1'"):
        find_model(name, "v1")
