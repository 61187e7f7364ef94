"""The publishing command: a dry run by default, and all three repositories with it."""

import json
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import DatasetCard, HfApi, ModelCard, SpaceCard, parse_eval_result_entries, snapshot_download

from hub_cards import Evaluation, RecommenderCardValues, save_card
from modeling_utgrec import UTGRecConfig, UTGRecForConditionalGeneration
from tokenization_items.catalogue import Catalogue
from tokenization_items.item_index import ItemIndex
from tokenization_items.tokenization_items import UniversalItemTokenizer
from trainers.commands.publish import PublishArguments, run
from trainers.commands.space import SpaceArguments

IDS = [f"i{row}" for row in range(6)]


@pytest.fixture
def publish(capsys):
    def call(**arguments):
        run(PublishArguments(**arguments))
        return capsys.readouterr().out

    return call


@pytest.fixture
def folders(tmp_path):
    """A data folder, an item tokenizer and a recommender."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "items.jsonl").write_text("".join(json.dumps({"item_id": i, "title": f"item {i}"}) + "\n" for i in IDS))
    rows = [{"user_id": str(user), "items": IDS[:4]} for user in range(3)]
    (data / "sequences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    index = ItemIndex([4, 4, 4], [2, 6, 6])
    index.assign(IDS, np.stack(np.unravel_index(np.arange(6) * 9, (4, 4, 4)), 1))
    tokenizer = UniversalItemTokenizer(index, "f00d")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    sizes = dict(d_model=8, d_ff=8, num_heads=2, d_kv=4, num_layers=1, num_decoder_layers=1)
    config = UTGRecConfig(root_codebook_size=4, leaf_codebook_size=4, item_tokenizer_fingerprint="f00d", **sizes)
    UTGRecForConditionalGeneration(config).save_pretrained(tmp_path / "recommender")
    tokenizer.save_pretrained(tmp_path / "recommender", include_network=False)
    evaluation = Evaluation.from_result("office", {"recall@10": 0.25, "part": "test", "num_users": 3})
    values = RecommenderCardValues(name="Office", num_items=6, fingerprint="f00d", evaluations=[evaluation])
    save_card(tmp_path / "recommender", values)
    torch.save([1], tmp_path / "recommender" / "training_args.bin")
    return {name: str(tmp_path / name) for name in ("data", "tokenizer", "recommender")}


def test_without_push_everything_stays_here(hub, publish, folders):
    before = {path: path.read_bytes() for path in Path(folders["data"]).parent.rglob("*") if path.is_file()}
    name = hub.new_repo("office")
    out = publish(name=name, license="mit", **folders)
    assert {path: path.read_bytes() for path in before} == before
    for line in (f"model {name}-recommender", f"dataset {name}-data", "model.safetensors", "Nothing was sent"):
        assert line in out
    assert "training_args.bin" in out.partition("left out")[2] and "hf_" not in out
    assert not any(HfApi().repo_exists(f"{name}-{kind}") for kind in ("recommender", "tokenizer"))


@pytest.mark.hub
def test_pushed_together_they_work_together(hub, publish, folders):
    name = hub.new_repo("office")
    try:
        out = publish(name=name, license="mit", data_license="cc0-1.0", language=["en"], push=True, **folders)
        assert out.count("(private)") == 3
        for kind in ("tokenizer", "recommender"):
            card = ModelCard.load(f"{name}-{kind}")
            assert card.data.license == "mit" and card.data.datasets == [f"{name}-data"]
            assert f'from_pretrained("{name}-{kind}")' in card.text
        assert ModelCard.load(f"{name}-recommender").data.eval_results[0].metric_value == 0.25
        assert DatasetCard.load(f"{name}-data").data.license == "cc0-1.0"
        assert "training_args.bin" not in HfApi().list_repo_files(f"{name}-recommender")
        folder = snapshot_download(f"{name}-data", repo_type="dataset")
        assert Catalogue.from_folder(folder).item_ids == IDS
        tokenizer = UniversalItemTokenizer.from_pretrained(f"{name}-recommender")
        recommender = UTGRecForConditionalGeneration.from_pretrained(f"{name}-recommender")
        tokenizer.check_recommender(recommender)
        batch = tokenizer([IDS[:2]], return_tensors="pt")
        assert len(recommender.eval().recommend(**batch, trie=tokenizer.trie, num_items=3).item_ids[0]) == 3
        assert "(private)" in publish(name=name, push=True, **folders), "once more"
        assert ModelCard.load(f"{name}-recommender").data.license == "mit", "what was said stays"
    finally:
        for kind in ("tokenizer", "recommender"):
            HfApi().delete_repo(f"{name}-{kind}", missing_ok=True)
        HfApi().delete_repo(f"{name}-data", repo_type="dataset", missing_ok=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "office"}, "expected <user or organisation>/<name>"),
        ({"name": "a/b/c"}, "expected <user or organisation>/<name>"),
        ({"license": "my own"}, "license 'my own' is no identifier"),
        ({"tokenizer": None, "recommender": None, "data": None}, "Nothing to publish"),
    ],
)
def test_what_cannot_be_published_says_why(publish, folders, changes, message):
    with pytest.raises(ValueError, match=message):
        publish(**{"name": "o/office", **folders, **changes})


def test_parts_of_two_trainings_are_refused(publish, folders):
    path = Path(folders["tokenizer"]) / "item_tokenizer_config.json"
    path.write_text(path.read_text().replace("f00d", "beef"))
    with pytest.raises(ValueError, match="beef.*f00d: they are not of one training"):
        publish(name="o/office", **folders)


def test_a_folder_without_item_tokenizer_is_none(publish, folders):
    with pytest.raises(ValueError, match="data holds no tokenizer"):
        publish(name="o/office", **folders | {"tokenizer": folders["data"]})


@pytest.mark.parametrize("kind", ["tokenizer", "recommender"])
def test_a_folder_of_data_or_of_a_run_is_not_sent_as_a_model(publish, folders, kind):
    for folder, fix in ((folders["data"], "the folder of one"), (Path(folders["data"]).parent, f".*/{kind}")):
        with pytest.raises(ValueError, match=f"--{kind} .* holds no {kind}: .* is missing; give {fix}"):
            publish(name="o/office", **{kind: str(folder)})


def test_a_pickle_stops_everything(publish, folders):
    torch.save([1], Path(folders["recommender"]) / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pytorch_model.bin is a pickle"):
        publish(name="o/office", push=True, **folders)


@pytest.mark.hub
def test_results_are_on_the_published_data(hub, publish, folders):
    Path(folders["data"]).rename(Path(folders["data"]).with_name("office"))  # the domain that was evaluated
    name = hub.new_repo("office")
    arguments = {**folders, "data": folders["data"].replace("data", "office"), "tokenizer": None}
    try:
        out = publish(name=name, push=True, **arguments)
        assert ".eval_results/utgrec.yaml" in out
        result = ModelCard.load(f"{name}-recommender").data.eval_results[0]
        assert (result.dataset_type, result.dataset_config) == (f"{name}-data", "interactions")
        file = HfApi().hf_hub_download(f"{name}-recommender", ".eval_results/utgrec.yaml")
        (entry,) = parse_eval_result_entries(yaml.safe_load(Path(file).read_text()))
        assert (entry.dataset_id, entry.value) == (f"{name}-data", result.metric_value)
        assert entry.task_id == "interactions/test/recall@10" and entry.notes == "num users: 3"
    finally:
        HfApi().delete_repo(f"{name}-recommender", missing_ok=True)
        HfApi().delete_repo(f"{name}-data", repo_type="dataset", missing_ok=True)


@pytest.mark.hub
def test_a_space_of_the_recommender(hub, publish, folders):
    pytest.importorskip("gradio")
    name = hub.new_repo("office")
    arguments = {**folders, "tokenizer": None, "space": True, "license": "mit", "space_requirement": "utgrec @ git+x"}
    try:
        out = publish(name=name, **arguments)
        assert f"space {name}-space" in out and "app.py" in out and not HfApi().repo_exists(f"{name}-space")
        publish(name=name, push=True, **arguments)
        card = SpaceCard.load(f"{name}-space").data
        assert (card.sdk, card.app_file, card.license) == ("gradio", "app.py", "mit")
        assert card.sdk_version == metadata.version("gradio") and card.models == [f"{name}-recommender"]
        assert card.get("datasets") is None  # without pictures
        folder = Path(snapshot_download(f"{name}-space", repo_type="space"))
        assert (folder / "requirements.txt").read_text() == "utgrec @ git+x\n"
        asked = []
        scope = {"SpaceArguments": SpaceArguments, "run": asked.append}
        program = (folder / "app.py").read_text()
        exec(program.replace("from trainers.commands.space import SpaceArguments, run", ""), scope)
        assert asked == [SpaceArguments(f"{name}-recommender")]
        assert HfApi().repo_info(f"{name}-space", repo_type="space").private
    finally:
        HfApi().delete_repo(f"{name}-recommender", missing_ok=True)
        HfApi().delete_repo(f"{name}-data", repo_type="dataset", missing_ok=True)
        HfApi().delete_repo(f"{name}-space", repo_type="space", missing_ok=True)


def test_a_space_needs_a_recommender(publish, folders):
    with pytest.raises(ValueError, match="--space shows a recommender"):
        publish(name="o/office", tokenizer=folders["tokenizer"], space=True)
