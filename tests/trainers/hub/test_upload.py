"""Files that may leave this machine, and those that may not."""

import itertools
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, ModelCard, hf_hub_download

from hub_cards import RecommenderCardValues, load_values, save_card
from trainers.hub.publish import Publication, publish
from trainers.hub.upload import PublishingError, format_bytes, plan_folder, published_files, send_folder

VALUES = RecommenderCardValues(name="m", num_items=3)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(1500))
    return folder


def test_a_plan_lists_files_with_sizes_and_leaves_the_rest(folder):
    left = ["training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "rng_state_3.pth", ".hidden", ".env"]
    left += ["checkpoint-5/model.safetensors", "runs/events.out.tfevents.1", "a/.b.json.tmp", "x.tmp", "run.yaml"]
    left += ["training/checkpoint-4/optimizer.pt", "training/run.yaml"]
    for name in left:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"1")
    plan = plan_folder(folder)
    assert plan.files == [("config.json", 2), ("model.safetensors", 1500)] and plan.num_bytes == 1502
    assert plan.left_out == sorted(left) and published_files(folder) == ["config.json", "model.safetensors"]
    assert "1.5 kB  model.safetensors" in str(plan) and "1.5 kB  in 2 files" in str(plan) and "14 files" in str(plan)


def test_results_for_the_hub_go_though_they_are_hidden(folder):
    (folder / ".eval_results").mkdir()
    for name in ("utgrec.yaml", "own.yaml", ".utgrec.yaml.unfinished"):
        (folder / ".eval_results" / name).write_text("[]")
    expected = [".eval_results/own.yaml", ".eval_results/utgrec.yaml", "config.json", "model.safetensors"]
    assert published_files(folder) == [name for name, _ in plan_folder(folder).files] == expected


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "sub/weights.pt", "x.PKL", "codes.npy", "model.ckpt", "a.joblib"]
)
def test_pickles_are_refused(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(pickle.dumps([1]))
    with pytest.raises(PublishingError, match=f"{name} is a pickle .*runs code: save as safetensors, or remove it"):
        plan_folder(folder)
    assert name not in published_files(folder)


def test_other_kinds_of_files_are_refused(folder):
    (folder / "weights.exe").write_bytes(b"")
    with pytest.raises(PublishingError, match="weights.exe is of a kind that is not published"):
        plan_folder(folder)


@pytest.mark.parametrize("place", [0, 10, 2**20 - 5, 2**20 + 3])
def test_tokens_are_refused_and_not_shown(folder, place):
    token = "hf_" + "aB3" * 12
    (folder / "notes.md").write_text("x" * place + f" {token} " + "x" * 100)
    with pytest.raises(PublishingError, match="notes.md holds an access token") as caught:
        plan_folder(folder)
    assert token not in str(caught.value)


def test_the_token_in_use_is_refused_whatever_it_looks_like(folder, monkeypatch):
    monkeypatch.setattr("trainers.hub.upload.get_token", lambda: "an-odd-token")
    (folder / "run.py").write_text("login('an-odd-token')")
    with pytest.raises(PublishingError, match="run.py holds an access token"):
        plan_folder(folder)


def test_links_out_of_the_folder_are_refused(folder, tmp_path):
    (tmp_path / "secret.txt").write_text("s")
    os.symlink(tmp_path / "secret.txt", folder / "notes.txt")
    os.symlink(folder / "config.json", folder / "fine.json")
    with pytest.raises(PublishingError, match="notes.txt is a link out of the folder") as caught:
        plan_folder(folder)
    assert "fine.json" not in str(caught.value)


def test_folders_without_anything(tmp_path):
    with pytest.raises(PublishingError, match="is no folder"):
        plan_folder(tmp_path / "nowhere")
    (tmp_path / "optimizer.pt").write_bytes(b"")
    with pytest.raises(PublishingError, match="holds no file"):
        plan_folder(tmp_path)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (10**9, "1.0 GB"), (10**16, "10000.0 TB")]
)
def test_sizes(size, text):
    assert format_bytes(size) == text


def test_looking_changes_nothing(folder):
    before = sorted(path.name for path in folder.iterdir())
    publication = Publication(str(folder), "o/m", VALUES)
    assert sorted(path.name for path in folder.iterdir()) == before
    names = [name for name, _ in publication.plan.files]
    assert names == ["README.md", "card_values.json", "config.json", "model.safetensors"]
    assert dict(publication.plan.files)["README.md"] == len(publication.card.encode())


def files_of(repo_id):
    return set(HfApi().list_repo_files(repo_id)) - {".gitattributes"}


@pytest.mark.hub
def test_publishing_is_private_and_sends_what_was_listed(hub, folder):
    repo_id = hub.new_repo("m")
    torch.save([1], folder / "training_args.bin")
    publication = Publication(str(folder), repo_id, VALUES)
    said, commit = publish(publication, public=False, message="First")
    assert commit == HfApi().model_info(repo_id).sha
    assert "(private): 4 files" in said and HfApi().model_info(repo_id).private
    assert files_of(repo_id) == {name for name, _ in publication.plan.files}
    assert HfApi().list_repo_commits(repo_id)[0].title == "First"
    assert load_values(folder).name == "m"


@pytest.mark.hub
def test_what_is_public_stays_untouched_unless_that_is_meant(hub, folder):
    repo_id = hub.new_repo("public")
    HfApi().create_repo(repo_id)
    publication = Publication(str(folder), repo_id, VALUES)
    with pytest.raises(PublishingError, match="is there and public: give --public"):
        publish(publication, public=False, message="m")
    assert files_of(repo_id) == set()
    assert "(public)" in publish(publication, public=True, message="m")[0]


@pytest.mark.hub
def test_changes_of_a_card_on_the_hub_are_kept_unless_this_one_was_changed(hub, folder):
    repo_id = hub.new_repo("edited")
    save_card(folder, VALUES)
    publish(Publication(str(folder), repo_id, VALUES), public=False, message="m")
    text = ModelCard.load(repo_id).content.replace("## Usage", "## Usage, said better")
    HfApi().upload_file(repo_id=repo_id, path_or_fileobj=text.encode(), path_in_repo="README.md")
    publish(Publication(str(folder), repo_id, VALUES), public=False, message="m")
    assert "said better" in ModelCard.load(repo_id).content and "said better" in (folder / "README.md").read_text()
    (folder / "README.md").write_text(text.replace("said better", "said best"))
    publish(Publication(str(folder), repo_id, VALUES), public=False, message="m")
    assert "said best" in ModelCard.load(repo_id).content


@pytest.mark.hub
@pytest.mark.parametrize("network", [None, {"name_or_path": "o/tokenizer", "revision": "abc"}])
def test_folders_of_this_machine_are_not_named(hub, folder, network):
    """An index-only copy says where its network is; a folder of this machine is of no use to others."""
    repo_id = hub.new_repo("items")
    HfApi().create_repo(repo_id)
    here = {"network": {"name_or_path": "./../tokenizer", "revision": None, "subfolder": ""}, "fingerprint": "f"}
    (folder / "item_tokenizer_config.json").write_text(json.dumps(here))
    send_folder(folder, repo_id, "m", network=network)
    sent = json.loads(Path(hf_hub_download(repo_id, "item_tokenizer_config.json")).read_text())
    assert sent == here | {"network": network and {"subfolder": "", **network}}
    assert files_of(repo_id) == {"config.json", "model.safetensors", "item_tokenizer_config.json"}
    assert json.loads((folder / "item_tokenizer_config.json").read_text()) == here, "here it stays as it is"


@pytest.mark.hub
def test_nothing_of_an_earlier_push_is_taken_for_what_is_sent(hub, folder):
    """Weights in one file would be loaded in place of those in shards, and an earlier memory with them."""
    repo_id = hub.new_repo("again")
    HfApi().create_repo(repo_id)
    index = ["item_index.safetensors", "item_ids.json", "item_titles.json", "item_content.safetensors"]
    beside = ["item_memory.safetensors", "recommender.json", "own/item_memory.safetensors", "notes.json"]
    for name in index + beside:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"{}")
    send_folder(folder, repo_id, "m")
    assert {*index, *beside, "model.safetensors"} <= files_of(repo_id)
    network = folder.with_name("network")  # an item tokenizer's has neither index nor memory
    network.mkdir()
    (network / "model.safetensors").write_bytes(b"{}")
    send_folder(network, repo_id, "m")
    assert {*index, *beside} <= files_of(repo_id)

    weights = ["model-00001-of-00001.safetensors", "model.safetensors.index.json"]
    shards = ["item_index/index.json", "item_index/codes-00000.safetensors"]
    for name in ["model.safetensors", *index, *beside]:
        (folder / name).unlink()
    for name in weights + shards:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"{}")
    send_folder(folder, repo_id, "m")
    kept = {"own/item_memory.safetensors", "notes.json"}  # no loader's, or not at the place of one
    assert files_of(repo_id) - {"handler.py", "requirements.txt"} == {"config.json", *weights, *shards, *kept}

    for name in weights + shards:
        (folder / name).unlink()
    send_folder(folder, repo_id, "m")  # a card alone, say
    assert {*weights, *shards} <= files_of(repo_id)


@pytest.mark.hub
@pytest.mark.parametrize("within", ["", "item_tokenizer/"])
def test_an_item_tokenizer_has_no_text_encoder_of_an_earlier_push(hub, folder, within):
    repo_id = hub.new_repo("encoders")
    HfApi().create_repo(repo_id)
    (folder / within).mkdir(exist_ok=True)
    (folder / within / "model.safetensors").write_bytes(b"{}")
    for kept, other in itertools.permutations(("text_statistics.safetensors", "text_encoder.json")):
        (folder / within / kept).write_bytes(b"{}")
        (folder / within / other).unlink(missing_ok=True)
        send_folder(folder, repo_id, "m")
        assert f"{within}{kept}" in files_of(repo_id) and f"{within}{other}" not in files_of(repo_id)


@pytest.mark.hub
def test_an_upload_without_write_access_is_an_error(hub_server, hub, folder, monkeypatch):
    publication = Publication(str(folder), hub.new_repo("theirs"), VALUES)
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    with pytest.raises(PublishingError, match="(?s)could not be written.*hf auth login") as caught:
        publish(publication, public=False, message="m")
    assert "hf_reader" not in str(caught.value)
