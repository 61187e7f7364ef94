"""Commands that take a checkpoint, with Hub ids in place of folders: the same results, of the revision asked for, and
what cannot be had is said before there is any work."""

import json
import uuid
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants
from safetensors.torch import load_file, save_file

from modeling_utgrec import SASRecConfig, SASRecForNextItem
from modeling_utgrec.checkpoint_fingerprint import stamp_file
from tokenization_items import UniversalItemTokenizer
from trainers import Recommender
from trainers.commands import run_command
from trainers.commands.publish import PublishArguments
from trainers.commands.publish import run as publish
from trainers.methods.sequential import pretrained_folder

pytestmark = pytest.mark.hub
CHECKPOINTS = Path(__file__).parents[2] / "checkpoints/version_0_1"
KINDS = {
    "utgrec": ("utgrec_tokenizer_text", "utgrec_recommender"),
    "recbase": ("recbase_tokenizer", "recbase_recommender"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """The checkpoints' items, without images, and users of them."""
    folder = tmp_path_factory.mktemp("data") / "shop"
    folder.mkdir()
    items = [json.loads(line) for line in (CHECKPOINTS / "items" / "items.jsonl").read_text().splitlines()][:12]
    ids = [item.pop("image", "") and item["item_id"] or item["item_id"] for item in items]
    users = [{"user_id": f"u{n}", "items": [ids[(n + 5 * step) % 12] for step in range(5)]} for n in range(15)]
    for name, rows in (("items", items), ("sequences", users)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def pushed(tmp_path_factory) -> dict[str, str]:
    """Names of pre-trainings on the Hub, by method. Their tag `first` is the checkpoints' state; at `second` the
    weights of the recommenders are others; what is there now is broken, so that nothing may read it."""
    api = HfApi()
    names = {kind: f"{api.whoami()['name']}/utgrec-test-{uuid.uuid4().hex[:8]}-{kind}" for kind in KINDS}
    for kind, folders in KINDS.items():
        for part, folder in zip(("tokenizer", "recommender"), folders, strict=True):
            repo_id = f"{names[kind]}-{part}"
            api.create_repo(repo_id)
            api.upload_folder(repo_id=repo_id, folder_path=CHECKPOINTS / folder, ignore_patterns=["*.py"])
            api.create_tag(repo_id, tag="first")
        weights = load_file(CHECKPOINTS / folder / "model.safetensors")
        later = tmp_path_factory.mktemp("later") / "model.safetensors"
        save_file({key: -value for key, value in weights.items()}, later, metadata={"format": "pt"})
        stamp_file(later)
        api.upload_file(path_or_fileobj=later, path_in_repo=later.name, repo_id=repo_id)
        for part in ("tokenizer", "recommender"):
            api.create_tag(repo_id := f"{names[kind]}-{part}", tag="second")
            for file, content in (("config.json", b'{"model_type": "bert"}'), ("item_tokenizer_config.json", b"{}")):
                api.upload_file(path_or_fileobj=content, path_in_repo=file, repo_id=repo_id)
    yield names
    for name in names.values():
        for part in ("tokenizer", "recommender"):
            api.delete_repo(f"{name}-{part}")


@pytest.fixture(autouse=True)
def in_the_checkpoints_folder(monkeypatch):
    """Where RecBase's checkpoint finds its text encoder."""
    monkeypatch.chdir(CHECKPOINTS)


def run(command, *argv):
    run_command(command, [str(each) for each in argv])


@pytest.fixture
def output_of(capsys):
    def call(command, *argv) -> str:
        run(command, *argv)
        return capsys.readouterr().out

    return call


@pytest.mark.parametrize("kind", KINDS)
def test_finetune_finds_both_models_from_one_name(pushed, data, tmp_path, kind):
    flags = ["--data", data, "--train_users", 0, "--recommender.num_beams", 10, "--recommender.use_cpu"]
    found = {}
    for name, source in (("here", None), ("first", "first"), ("second", "second")):
        pretrained = pushed[kind]
        if name == "here":
            pretrained = tmp_path / "pretrained"
            for part, folder in zip(("tokenizer", "recommender"), KINDS[kind], strict=True):
                (pretrained / part).parent.mkdir(exist_ok=True)
                (pretrained / part).symlink_to(CHECKPOINTS / folder)
        more = [] if source is None else ["--revision", source]
        run("finetune", "--pretrained", pretrained, *more, *flags, "--output_dir", tmp_path / name)
        weights = load_file(tmp_path / name / "recommender" / "model.safetensors")
        rows = json.loads((tmp_path / name / "results.json").read_text())
        found[name] = weights, {key: value for key, value in rows[0].items() if key not in ("model", "name")}
    assert found["first"][1] == found["here"][1]
    for key, value in found["here"][0].items():
        assert value.equal(found["first"][0][key]) and value.equal(-found["second"][0][key])
    # an index-only copy names the repository of its network, and its commit
    copy = tmp_path / "first" / "recommender"
    place = UniversalItemTokenizer.from_pretrained(copy).network_reference
    commit = HfApi().model_info(f"{pushed[kind]}-tokenizer", revision="first").sha
    own = (str(tmp_path / "first" / "tokenizer"), None)
    wanted = {"recbase": (f"{pushed[kind]}-tokenizer", commit), "utgrec": own}
    assert (place.name_or_path, place.revision) == wanted[kind]


@pytest.mark.parametrize(
    ("kind", "flags", "planned"),
    [
        ("utgrec", [], ["item tokenizer", "recommender"]),
        ("utgrec", ["--tokenizer_mode", "frozen", "--new_recommender"], ["recommender"]),
        ("utgrec", ["--train_users", 0], []),
        ("recbase", [], ["recommender"]),
        ("recbase", ["--new_recommender", "--recommender.size", "tiny"], ["recommender"]),
        ("recbase", ["--train_users", 0], []),
    ],
)
def test_a_dry_run_is_of_the_models_that_are_there(pushed, data, tmp_path, output_of, kind, flags, planned):
    use_cpu = [f"--{section}.use_cpu" for section in ("tokenizer", "recommender")]
    more = ["--revision", "first", "--data", data, *use_cpu, *flags, "--dry_run"]
    said = output_of("finetune", "--pretrained", pushed[kind], *more, "--output_dir", tmp_path / "run").splitlines()
    assert [text.partition(":")[0] for text in said if " steps" in text] == planned
    assert not list(tmp_path.iterdir())
    if "--new_recommender" not in flags and planned:
        weights = load_file(CHECKPOINTS / KINDS[kind][1] / "model.safetensors")
        assert f"; {sum(each.numel() for each in weights.values()):,} weights, " in said[-2]


def test_what_ranks_and_recommends(pushed, data, tmp_path, output_of):
    name = f"{pushed['utgrec']}-recommender"
    local = CHECKPOINTS / "utgrec_recommender"
    flags = ["--data", data, "--num_beams", 10]

    def recommended(*argv):
        return output_of("recommend", "--history", "kettle", "spade", "--num_beams", 10, "--recommender", *argv)

    first, second = (recommended(name, "--revision", revision) for revision in ("first", "second"))
    assert first == recommended(local) != second
    judged = ["--intervals", 0, "--json", "-"]
    here = json.loads(output_of("evaluate", "--recommender", local, *flags, *judged))
    there = json.loads(output_of("evaluate", "--recommender", name, "--revision", "first", *flags, *judged))
    assert there.pop("name") == name.partition("/")[2] and here.pop("name") == "utgrec_recommender"
    assert there == here
    second = [name, "--revision", "second"]
    compared = output_of("evaluate", "--recommender", *second, "--compare_with", "popularity", *flags)
    assert "against popularity" in compared
    zero = [*flags, "--zero_shot", "--no_full_ranking", "--revision", "first", "--json", "-"]
    assert json.loads(output_of("evaluate", "--recommender", name, *zero))["model"] == name.partition("/")[2]
    assert Recommender.from_pretrained(name, "first").recommend(["kettle"], num_beams=10)


def test_memory_of_a_revision(pushed, data, tmp_path):
    name = f"{pushed['utgrec']}-recommender"
    fixed = ["--temperature", 0.04, "--mixing_weight", 0.6, "--no_test", "--data", data]
    with pytest.raises(SystemExit, match="is no folder; for one of the Hub give --output_dir"):
        run("memory", "--recommender", name, *fixed)
    run("memory", "--recommender", name, "--revision", "first", "--output_dir", tmp_path / "own", *fixed)
    assert (tmp_path / "own" / "item_memory.safetensors").is_file()
    wanted = load_file(CHECKPOINTS / "utgrec_recommender" / "model.safetensors")
    found = load_file(tmp_path / "own" / "model.safetensors")
    assert all(value.equal(found[key]) for key, value in wanted.items())


def test_item_tokenizers(pushed, data, tmp_path):
    """To tokenize with, and as the semantic IDs of another recommender."""
    name = f"{pushed['utgrec']}-tokenizer"
    commit = HfApi().model_info(name, revision="first").sha
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "items.jsonl").write_text('{"item_id": "late", "title": "Clay kite"}\n')
    tokenize = ["--data", tmp_path / "new", "--use_cpu", "--index_only", "--output_dir", tmp_path / "items"]
    run("tokenize", "--tokenizer", name, "--revision", "first", *tokenize)
    items = UniversalItemTokenizer.from_pretrained(tmp_path / "items")
    assert (items.network_reference.name_or_path, items.network_reference.revision) == (name, commit)
    assert "late" in items and len(items) == 13
    flags = ["--data", data, "--model", "item-level", "--text_encoder", "tf-idf", "--item_level.max_steps", 1]
    flags += ["--item_level.use_cpu", "--item_level.hidden_size", 8, "--item_level.num_beams", 10]
    run("train-baseline", "--semantic_ids", name, "--revision", commit, *flags, "--output_dir", tmp_path / "run")
    report = json.loads((tmp_path / "run" / "tokenizer" / "tokenizer_report.json").read_text())
    assert report["settings"] == {"semantic_ids": name, "revision": commit}


def test_the_start_of_a_sequential_model(hub, tmp_path):
    model = SASRecForNextItem(SASRecConfig(num_items=12, hidden_size=8, max_history=4))
    model.push_to_hub(name := hub.new_repo("sasrec"))
    HfApi().create_tag(name, tag="v1")
    folder = pretrained_folder(name, "v1")
    assert load_file(folder / "model.safetensors").keys() == model.state_dict().keys()
    model.save_pretrained(tmp_path / "recommender")
    assert pretrained_folder(tmp_path) == pretrained_folder(tmp_path / "recommender") == tmp_path / "recommender"


def test_models_of_the_hub_are_published_under_another_name(hub, pushed, capsys):
    """Copied, and their cards written anew."""
    name, kinds = hub.new_repo("copy"), ("tokenizer", "recommender")
    sources = {kind: f"{pushed['utgrec']}-{kind}" for kind in kinds}
    try:
        publish(PublishArguments(name, revision="first", push=True, license="mit", **sources))
        assert capsys.readouterr().out.count("(private)") == 2
        for kind in kinds:
            files = {each: set(HfApi().list_repo_files(each)) for each in (sources[kind], f"{name}-{kind}")}
            endpoint = {"handler.py", "requirements.txt"} if kind == "recommender" else set()
            assert files[f"{name}-{kind}"] - files[sources[kind]] <= {"README.md", "card_values.json"} | endpoint
            assert "README.md" not in files[sources[kind]] and "README.md" in files[f"{name}-{kind}"]
    finally:
        for kind in kinds:
            HfApi().delete_repo(f"{name}-{kind}", missing_ok=True)


@pytest.mark.parametrize(
    ("command", "flag", "more"),
    [
        ("finetune", "--pretrained", ["--output_dir", "run"]),
        ("evaluate", "--recommender", []),
        ("recommend", "--recommender", []),
        ("tokenize", "--tokenizer", ["--output_dir", "run"]),
        ("memory", "--recommender", ["--output_dir", "run"]),
        ("train-baseline", "--semantic_ids", ["--model", "item-level", "--output_dir", "run"]),
        ("train-baseline", "--pretrained", ["--model", "unisrec", "--output_dir", "run"]),
        ("publish", "--tokenizer", ["--name", "org/copy"]),
    ],
)
def test_what_is_not_there_is_said_before_work(pushed, tmp_path, monkeypatch, command, flag, more):
    """No such repository, and no such revision of one that is there; the data are no folder, and nobody looked."""
    monkeypatch.chdir(tmp_path)
    data = [] if command == "publish" else ["--data", str(tmp_path / "nowhere")]
    with pytest.raises(SystemExit, match="owner/nothing.* no repository that can be read"):
        run(command, flag, "owner/nothing", *data, *more)
    name = pushed["utgrec"] if command == "finetune" else f"{pushed['utgrec']}-recommender"
    with pytest.raises(SystemExit, match="has no branch, tag or commit 'v9'"):
        run(command, flag, name, "--revision", "v9", *data, *more)
    (tmp_path / "here").mkdir()
    wanted = "no output folder of pretrain" if command == "finetune" else "is a folder, and folders have no revision"
    more = [] if command == "memory" else more  # where one in a folder stays
    with pytest.raises(SystemExit, match=wanted):
        run(command, flag, "here", "--revision", "v9", *data, *more)


def test_gated_and_offline(hub_server, pushed, data, monkeypatch):
    name = f"{pushed['utgrec']}-recommender"
    recommend = ["--history", "kettle", "--recommender", name, "--revision", "first", "--num_beams", 5]
    run("recommend", *recommend)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    run("recommend", *recommend)  # from the cache
    with pytest.raises(SystemExit, match="not in this machine's cache while the Hub cannot be reached: run `hf down"):
        run("finetune", "--pretrained", "owner/never-seen", "--data", data, "--output_dir", "run")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    name = f"{pushed['recbase']}-recommender"
    hub_server.repo(name).readers = set()
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    with pytest.raises(SystemExit, match="recbase-recommender is gated: ask for access on that page"):
        run("recommend", "--history", "kettle", "--recommender", name, "--revision", "main")
    hub_server.repo(name).readers = None
