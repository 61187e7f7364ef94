"""The stand-in of the Hub, seen through huggingface_hub: the other tests rest on it."""

import hashlib
import time

import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

pytestmark = pytest.mark.hub
READER = "hf_reader"


@pytest.fixture
def api() -> HfApi:
    return HfApi()


@pytest.fixture
def folder(tmp_path):
    """A small file, a file of a format that goes to the large-file storage, and one in a folder."""
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "config.json").write_text("{}")
    (source / "model.safetensors").write_bytes(bytes(range(256)) * 400)
    (source / "sub" / "notes.txt").write_text("ä note")
    return source


@pytest.fixture
def repo_id(hub, api, folder) -> str:
    """A repository with the files of `folder`."""
    repo_id = hub.new_repo("artifact")
    api.create_repo(repo_id)
    api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="All files")
    return repo_id


def contents(folder) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".cache" not in path.parts and path.name != ".gitattributes"
    }


def test_a_folder_comes_back_as_it_was(api, repo_id, folder, tmp_path):
    pulled = snapshot_download(repo_id, local_dir=tmp_path / "pulled")
    assert contents(tmp_path / "pulled") == contents(folder), pulled
    some = snapshot_download(repo_id, allow_patterns=["*.json"], local_dir=tmp_path / "some")
    assert set(contents(tmp_path / "some")) == {"config.json"}, some
    assert set(api.list_repo_files(repo_id)) >= set(contents(folder))
    assert [commit.title for commit in api.list_repo_commits(repo_id)] == ["All files", "initial commit"]


def test_repositories_are_created_once_and_deleted(api, hub):
    repo_id = hub.new_repo("twice")
    assert not api.repo_exists(repo_id)
    assert api.create_repo(repo_id).repo_id == repo_id
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(repo_id)
    assert api.create_repo(repo_id.split("/")[1], exist_ok=True).repo_id == repo_id
    api.delete_repo(repo_id)
    assert not api.repo_exists(repo_id)


def test_branches_tags_and_commits_keep_their_files(api, repo_id, tmp_path):
    first = api.model_info(repo_id).sha
    api.create_tag(repo_id, tag="v1")
    api.create_branch(repo_id, branch="trial")
    api.upload_file(repo_id=repo_id, path_or_fileobj=b"[2]", path_in_repo="config.json", revision="trial")
    api.upload_file(repo_id=repo_id, path_or_fileobj=b"[3]", path_in_repo="config.json")

    def config(revision):
        with open(hf_hub_download(repo_id, "config.json", revision=revision)) as file:
            return file.read()

    assert [config(revision) for revision in ("v1", first, "trial", None)] == ["{}", "{}", "[2]", "[3]"]
    assert {branch.name for branch in api.list_repo_refs(repo_id).branches} >= {"main", "trial"}


def test_deleting_files(api, repo_id):
    api.delete_file("config.json", repo_id)
    api.delete_folder("sub", repo_id)
    assert set(api.list_repo_files(repo_id)) - {".gitattributes"} == {"model.safetensors"}


def test_what_is_not_there(api, hub, repo_id):
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download(f"{hub.namespace}/nothing", "config.json")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(repo_id, "absent.json")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download(repo_id, "config.json", revision="absent")


def test_private_and_gated(api, hub_server, repo_id):
    with pytest.raises(HfHubHTTPError, match="403"):
        api.upload_file(repo_id=repo_id, path_or_fileobj=b"", path_in_repo="a", token=READER)
    repo = hub_server.repo(repo_id)
    repo.readers = set()
    for token in (READER, False):
        with pytest.raises(GatedRepoError, match="restricted"):
            hf_hub_download(repo_id, "config.json", token=token)
    repo.readers = {"reader"}
    assert hf_hub_download(repo_id, "config.json", token=READER)
    repo.private = True
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download(repo_id, "model.safetensors", token=READER)
    assert hf_hub_download(repo_id, "model.safetensors")


@pytest.fixture
def no_waiting(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)


def test_an_upload_that_is_cut_once_arrives_whole(api, hub_server, repo_id, folder, no_waiting):
    weights = bytes(range(256)) * 500
    hub_server.cut("PUT", "/_lfs/", after=10_000)
    hub_server.log.clear()
    api.upload_file(repo_id=repo_id, path_or_fileobj=weights, path_in_repo="model.safetensors")
    assert [method for method, _ in hub_server.log].count("PUT") == 2
    assert hub_server.content(repo_id, "model.safetensors") == weights


def test_an_upload_goes_on_where_it_was_cut(api, hub_server, repo_id, folder, no_waiting):
    """The repository stays as it was until all files are there; what arrived is not sent again."""
    before = hub_server.repo(repo_id).heads["main"]
    for number in (1, 2):
        (folder / f"model-{number}.safetensors").write_bytes(bytes([number]) * 50_000)
    oids = [hashlib.sha256(bytes([number]) * 50_000).hexdigest() for number in (1, 2)]
    hub_server.cut("PUT", oids[1], after=20_000, times=99)
    with pytest.raises(Exception, match="(?i)write|reset|broken|disconnected|closed|error"):
        api.upload_folder(repo_id=repo_id, folder_path=folder)
    assert hub_server.repo(repo_id).heads["main"] == before
    assert oids[0] in hub_server.blobs and oids[1] not in hub_server.blobs
    hub_server.heal()
    hub_server.log.clear()
    api.upload_folder(repo_id=repo_id, folder_path=folder)
    assert [path for method, path in hub_server.log if method == "PUT"] == [f"/_lfs/{oids[1]}"]
    assert hub_server.content(repo_id, "model-2.safetensors") == bytes([2]) * 50_000


def test_a_download_goes_on_where_it_was_cut(hub_server, repo_id, folder, no_waiting):
    hub_server.cut("GET", "model.safetensors", after=30_000)
    hub_server.log.clear()
    path = hf_hub_download(repo_id, "model.safetensors")
    assert [method for method, _ in hub_server.log].count("GET") == 2
    with open(path, "rb") as file:
        assert file.read() == (folder / "model.safetensors").read_bytes()


def test_requests_that_it_does_not_know_say_so(api, hub_server):
    with pytest.raises(HfHubHTTPError, match="404"):
        api.list_models(author="owner").__next__()
