"""Every baseline from the command line in small: trained, saved, loaded again, resumed, pushed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, TrainerCallback, pipeline

from hub_cards import load_values
from modeling_utgrec import (
    ItemLevelForCausalLM,
    RecBaseForCausalLM,
    SequentialForNextItem,
    UTGRecForConditionalGeneration,
)
from tokenization_items import ItemIndex, UniversalItemTokenizer
from tokenization_items.item_embeddings import load_embeddings, save_embeddings
from trainers.commands import run_command, train_baseline
from trainers.data.domains import Domain
from trainers.evaluation.protocol import evaluate
from trainers.hub_trainer import HubTrainer
from trainers.methods.baselines import semantic_ids_of
from trainers.methods.semantic_ids import SEMANTIC_IDS, load_raw_codes
from trainers.methods.sequential_methods import SEQUENTIAL
from trainers.rankers import load_ranker
from trainers.rankers.generative import GenerativeRanker
from trainers.rankers.sequential import SequentialRanker

NUM_ITEMS = 24
SMALL = """
sequential:
  hidden_size: 8
  max_history: 5
  num_train_epochs: 1
  eval_strategy: epoch
  save_strategy: epoch
  load_best_model_at_end: true
  use_cpu: true
  disable_tqdm: true
tokenizer:
  codebook_size: 8
  max_steps: 4
  save_strategy: steps
  save_steps: 2
  use_cpu: true
  disable_tqdm: true
recommender:
  d_model: 8
  d_ff: 8
  d_kv: 4
  num_heads: 2
  num_layers: 1
  max_history: 5
  num_beams: 10
  num_train_epochs: 1
  per_device_train_batch_size: 64
  eval_strategy: epoch
  save_strategy: epoch
  load_best_model_at_end: true
  use_cpu: true
  disable_tqdm: true
"""
SMALL += """
item_level:
  hidden_size: 8
  num_layers: 1
  max_history: 5
  num_beams: 10
  num_train_epochs: 1
  eval_strategy: epoch
  save_strategy: epoch
  load_best_model_at_end: true
  use_cpu: true
  disable_tqdm: true
"""
FLOORS = ["popularity", "item-transitions"]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    folder, rng = tmp_path_factory.mktemp("baselines"), np.random.default_rng(0)
    (folder / "tiny").mkdir()
    ids = [f"i{row}" for row in range(NUM_ITEMS)]
    items = [
        {"item_id": item_id, "title": f"item {item_id}", "brand": f"brand {row % 3}", "categories": f"all, c{row % 2}"}
        for row, item_id in enumerate(ids)
    ]
    users = [
        {"user_id": f"u{user}", "items": [ids[(start + step) % NUM_ITEMS] for step in range(6)]}
        for user, start in enumerate(rng.integers(0, NUM_ITEMS, 20))
    ]
    for name, rows in (("items", items), ("sequences", users)):
        (folder / "tiny" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "small.yaml").write_text(SMALL)
    for name in ("texts", "images"):
        save_embeddings(folder / name, ids, rng.normal(size=(NUM_ITEMS, 8)).astype(np.float32), {"model": name})
    return folder


def reads_texts(name: str) -> bool:
    return name not in SEQUENTIAL or "text" in SEQUENTIAL[name].inputs


def train(workplace: Path, name: str, output: Path, *flags) -> list[dict]:
    argv = ["--config", workplace / "small.yaml", "--model", name, "--data", workplace / "tiny"]
    argv += ["--output_dir", output]
    if reads_texts(name):
        argv += ["--embeddings", workplace / "texts"]
    if name == "vq-rec":
        argv += ["--sequential.own", "codebook_size=8", "num_groups=2"]
    if name == "s3-rec":
        argv += ["--sequential.pretraining_epochs", "1"]
    if name.startswith("missrec-images"):
        argv += ["--image_embeddings", workplace / "images"]
    if name.startswith("tiger-m"):
        argv += ["--image_embeddings", workplace / "images", "--tokenizer.num_components", "4"]
    if name.startswith("letter"):
        argv += ["--tokenizer.diversity_clusters", "2"]
    run_command("train-baseline", [str(word) for word in [*argv, *flags]])
    return json.loads((output / "results.json").read_text())


@pytest.mark.parametrize("name", [*SEQUENTIAL, *SEMANTIC_IDS, "tiger-decoder", "rq-kmeans-item-level"])
def test_every_model_is_trained_saved_and_loaded_again(workplace, tmp_path, name, capsys):
    rows = train(workplace, name, tmp_path / "run")
    generative = name not in SEQUENTIAL
    assert [row["model"] for row in rows] == [
        name,
        *FLOORS,
        *(["nearest-items"] if reads_texts(name) else []),
        "linear",
    ]
    assert all(0 <= row["ndcg@10"] <= row["recall@10"] <= 1 and row["part"] == "test" for row in rows)
    assert "| item-transitions |" in capsys.readouterr().out

    folder = tmp_path / "run" / "recommender"
    domain = Domain.from_folder(workplace / "tiny", check_images=False)
    if generative:
        kinds = {"-decoder": RecBaseForCausalLM, "-item-level": ItemLevelForCausalLM}
        kind = next((kinds[end] for end in kinds if name.endswith(end)), UTGRecForConditionalGeneration)
        seq2seq = kind is UTGRecForConditionalGeneration
        model = (AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM).from_pretrained(folder)
        assert type(model) is kind
        tokenizer = UniversalItemTokenizer.from_pretrained(folder)
        tokenizer.check_recommender(model)
        assert len(tokenizer) == NUM_ITEMS and tokenizer.max_history == model.config.max_history == 5
        ranker = GenerativeRanker.from_pretrained(folder, domain.interactions.item_ids, num_beams=10)
    else:
        assert isinstance(AutoModelForCausalLM.from_pretrained(folder), SequentialForNextItem)
        ranker = SequentialRanker.from_pretrained(folder, domain.interactions.item_ids)
    result = evaluate(ranker, domain.interactions)
    assert {key: rows[0][key] for key in result if "@" in key} == {key: result[key] for key in result if "@" in key}

    description = rows[0]["description"]
    assert description["variant"].endswith("M parameters") and description["architecture"]["parameters"] > 0
    differing = description["differs_from_published"]
    assert all(each["here"] != each["published"] for each in differing.values())
    if generative:
        assert isinstance(description["codebooks"]["items_sharing_codes"], int)
        assert "tokenizer.codebook_size" in differing
        if kind is ItemLevelForCausalLM:
            assert model.config.content_size == 8 and tokenizer.index.content.shape == (NUM_ITEMS, 8)
            variant = (
                "item level 8 wide, 1+1 layers, reads content, predicts content of nodes, item residuals, horizon 10"
            )
            assert variant in description["variant"]
        if seq2seq:
            assert differing["recommender.batch_size"] == {"here": 64, "published": 1024}
            assert differing["recommender.d_model"] == {"here": 8, "published": 128}
        if SEMANTIC_IDS[semantic_ids_of(name)].trained:
            assert differing["tokenizer.num_train_epochs"] == {"here": "4 steps", "published": 20000}
    else:
        assert differing["hidden_size"]["here"] == 8 and differing["max_history"] == {"here": 5, "published": 50}
    values = load_values(folder)
    assert [row["model"] for row in values.comparison] == [*(row["model"] for row in rows[:-1]), rows[-1]["name"]]
    assert rows[-1]["description"]["content"] == ("embeddings" if reads_texts(name) else "tf-idf")
    assert values.evaluations[0].metrics["ndcg@10"] == rows[0]["ndcg@10"]


def test_every_row_is_of_its_ranker_under_the_protocol_that_was_asked_for(workplace, tmp_path):
    flags = ["--mask_seen", "--k_core", "4", "--license", "mit", "--seed", "1", "--tokenizer.num_levels", "1"]
    rows = train(workplace, "rq-kmeans", tmp_path / "run", *flags)
    whole = Domain.from_folder(workplace / "tiny", check_images=False).interactions
    interactions = Domain.from_folder(workplace / "tiny", 4, check_images=False).interactions
    assert len(interactions.items) < len(whole.items)
    raw_codes = load_raw_codes(tmp_path / "run" / "tokenizer")
    assert len(np.unique(raw_codes, axis=0)) < len(raw_codes), "identifiers that are shared, or nothing is compared"
    for row in rows:
        own = row["model"] == "rq-kmeans"
        name = tmp_path / "run" / "recommender" if own else row["model"]
        ranker = load_ranker(name, interactions, embeddings=workplace / "texts", num_beams=10)
        identifiers = raw_codes if own else None
        expected = evaluate(ranker, interactions, mask_seen=True, max_history=None, identifiers=identifiers)
        assert {key: row[key] for key in expected if key != "name"} == {
            key: value for key, value in json.loads(json.dumps(expected)).items() if key != "name"
        }
        assert row["seed"] == 1 and row["num_bootstrap"] == 1000
        assert ("description" in row) == (own or row["model"] == "linear")
    values = load_values(tmp_path / "run" / "recommender")
    assert (values.license, values.num_items) == ("mit", interactions.num_items)
    assert values.hyperparameters["seed"] == 1


def test_item_level_on_semantic_ids_that_are_there(workplace, tmp_path):
    """Of a folder whose index has its items in another order, and one more than the data."""
    folder, texts = tmp_path / "ids", dict(zip([f"i{row}" for row in range(NUM_ITEMS)], range(NUM_ITEMS), strict=True))
    ids = [*reversed(texts), "other"]
    index = ItemIndex([8, 8], [2, 10])
    index.assign(ids, np.array([[at // 8, at % 8] for at in range(len(ids))]))
    UniversalItemTokenizer(index, "given").save_pretrained(folder)
    rows = train(workplace, "item-level", tmp_path / "run", "--semantic_ids", folder)
    tokenizer = UniversalItemTokenizer.from_pretrained(tmp_path / "run" / "recommender", index_only=True)
    assert tokenizer.index.item_ids == ids and (tokenizer.index.codes == index.codes).all()
    vectors = load_embeddings(workplace / "texts", list(texts))
    assert tokenizer.index.content is not None
    np.testing.assert_allclose(tokenizer.index.content[:-1], vectors[::-1], atol=1e-2)
    assert not tokenizer.index.content[-1].any(), "nothing is known of it"
    assert rows[0]["model"] == "item-level"
    report = json.loads((tmp_path / "run" / "tokenizer" / "tokenizer_report.json").read_text())
    assert report["settings"] == {"semantic_ids": f"{tmp_path.name}/ids"}, "no path of this machine"
    assert str(tmp_path) not in (tmp_path / "run" / "results.json").read_text()
    with pytest.raises(SystemExit, match="--semantic_ids is what --model item-level"):
        train(workplace, "item-level", tmp_path / "none")
    with pytest.raises(SystemExit, match="--semantic_ids is what --model item-level"):
        train(workplace, "rq-kmeans", tmp_path / "none", "--semantic_ids", folder)


def test_a_memory_is_a_second_row(workplace, tmp_path):
    rows = train(workplace, "rq-kmeans", tmp_path / "run", "--memory", "--name", "ours")
    assert [row["model"] for row in rows[:3]] == ["ours", "ours with memory", "popularity"]
    assert [row.get("recommender") for row in rows[:3]] == ["network alone", "with memory", None]
    folder, domain = tmp_path / "run" / "recommender", Domain.from_folder(workplace / "tiny", check_images=False)
    for row, memory in zip(rows[:2], (False, True), strict=True):
        ranker = load_ranker(folder, domain.interactions, num_beams=10, memory=memory)
        assert evaluate(ranker, domain.interactions)["ndcg@10"] == row["ndcg@10"]
    assert rows[1]["ndcg@10"] > rows[0]["ndcg@10"], "what follows what is plain in these data"
    values = load_values(folder)
    assert len(values.evaluations) == 2 and values.memory["Transitions"] == "linear, in closed form"
    assert "Weight of the brand" in values.memory
    assert "## Memory" in (folder / "README.md").read_text(encoding="utf-8")
    with pytest.raises(SystemExit, match="--memory is for recommenders that generate"):
        train(workplace, "sasrec", tmp_path / "other", "--memory")
    # another training of the folder leaves no memory of this one
    with pytest.raises(SystemExit, match="results.json is there, of a run that finished"):
        train(workplace, "rq-kmeans", tmp_path / "run")
    train(workplace, "rq-kmeans", tmp_path / "run", "--overwrite")
    assert load_ranker(folder, domain.interactions).memory is None


def test_what_s3_rec_was_pre_trained_to_goes_with_an_earlier_run(workplace, tmp_path):
    """No later --resume takes it; and a run that was stopped there is not begun anew without a word."""
    train(workplace, "s3-rec", tmp_path)
    folder = tmp_path / "checkpoints" / "recommender-pretraining"
    (checkpoint,) = folder.glob("checkpoint-*")
    checkpoint.rename(folder / "checkpoint-999")
    train(workplace, "s3-rec", tmp_path, "--overwrite")
    assert list(folder.iterdir()) == [checkpoint]
    for path in (tmp_path / "results.json", tmp_path / "recommender", tmp_path / "checkpoints" / "recommender"):
        path.unlink() if path.is_file() else shutil.rmtree(path)
    with pytest.raises(SystemExit, match="recommender-pretraining holds checkpoints of a run that was stopped"):
        train(workplace, "s3-rec", tmp_path)


def test_letters_variants(workplace, tmp_path):
    rows = train(workplace, "letter", tmp_path / "run")
    assert rows[0]["description"]["losses"]["recommender.loss_temperature"] == 0.7
    assert (tmp_path / "run" / "collaborative-embeddings-seed-0" / "embeddings.json").is_file()
    assert "loss temperature 0.7" in rows[0]["description"]["variant"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def watch(patch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The folder of every training, and the step that it begins at."""
    began, start = [], HubTrainer.__init__

    class Begin(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            began.append((Path(args.output_dir).name, state.global_step))

    def watched(self, *args, **kwargs):
        start(self, *args, **kwargs)
        self.add_callback(Begin())

    patch.setattr(HubTrainer, "__init__", watched)
    return began


@pytest.mark.parametrize(
    ("name", "section"), [("sasrec", "sequential"), ("tiger", "recommender"), ("rq-kmeans-item-level", "item_level")]
)
def test_after_a_kill_it_goes_on(workplace, tmp_path, monkeypatch, name, section):
    """A recommender's training, killed after the first epoch's checkpoint, ends as one that was left alone."""

    class Kill(TrainerCallback):
        def on_epoch_begin(self, args, state, control, **kwargs):
            if state.epoch and state.epoch >= 1 and "recommender" in args.output_dir:
                raise KeyboardInterrupt

    epochs = [f"--{section}.num_train_epochs", "2"]
    train(workplace, name, tmp_path / "whole", *epochs)
    start = HubTrainer.__init__

    def killed(self, *args, **kwargs):
        start(self, *args, **kwargs)
        self.add_callback(Kill())

    with monkeypatch.context() as patch:
        patch.setattr(HubTrainer, "__init__", killed)
        with pytest.raises(KeyboardInterrupt):
            train(workplace, name, tmp_path / "run", *epochs)
    assert (tmp_path / "run" / "checkpoints" / "recommender").is_dir()
    assert not (tmp_path / "run" / "results.json").exists()
    tokenizer = tmp_path / "run" / "tokenizer" / "network" / "model.safetensors"
    before = tokenizer.stat().st_mtime_ns if name == "tiger" else None
    with monkeypatch.context() as patch:
        began = watch(patch)
        train(workplace, name, tmp_path / "run", *epochs, "--resume")
    ((trained, step),) = began
    assert trained == "recommender" and step > 0, "from the checkpoint, not anew to the same end"
    if name == "tiger":
        assert tokenizer.stat().st_mtime_ns == before, "a finished tokenizer is taken as it is"
    whole, resumed = (weights(tmp_path / each / "recommender") for each in ("whole", "run"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_another_run_is_not_gone_on_with(workplace, tmp_path):
    """Of the same sizes its weights would be taken without a word, and results saved under the other's name."""
    run = tmp_path / "run"
    train(workplace, "sasrec", run)
    kept = (run / "run.yaml").read_bytes(), (run / "results.json").read_bytes()
    other = shutil.copytree(workplace / "tiny", tmp_path / "other")
    for name, flags, said in (
        ("sasrec-bce", [], "--model was sasrec, is sasrec-bce"),
        ("sasrec", ["--seed", "5"], "--seed was 0, is 5"),
        ("sasrec", ["--data", other], "--data was tiny, is other"),
    ):
        with pytest.raises(SystemExit, match=f"--resume goes on .* another one: {said}"):
            train(workplace, name, run, *flags, "--resume")
    assert kept == ((run / "run.yaml").read_bytes(), (run / "results.json").read_bytes())
    moved = shutil.copytree(workplace / "tiny", tmp_path / "elsewhere" / "tiny")
    train(workplace, "sasrec", run, "--data", moved, "--sequential.num_train_epochs", "2", "--resume")
    (run / "run.yaml").write_text("broken: [")
    train(workplace, "sasrec", run, "--resume")


def test_a_run_on_other_content_is_not_gone_on_with(workplace, tmp_path):
    """Its codes would be of the one content, what is read and judged of the other."""
    train(workplace, "rq-kmeans-item-level", tmp_path / "run")
    shutil.copytree(workplace / "texts", tmp_path / "moved" / "texts")
    flags = ["--embeddings", tmp_path / "moved" / "texts", "--resume"]
    train(workplace, "rq-kmeans-item-level", tmp_path / "run", *flags)
    for flags, said in (
        (["--embeddings", workplace / "images"], "--embeddings was texts, is images"),
        (["--pretrained", tmp_path / "run"], "--pretrained was None, is run"),
    ):
        with pytest.raises(SystemExit, match=f"--resume goes on .* another one: {said}"):
            train(workplace, "rq-kmeans-item-level", tmp_path / "run", *flags, "--resume")


def test_a_killed_tokenizer_goes_on(workplace, tmp_path, monkeypatch):
    class Kill(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 3:
                raise KeyboardInterrupt

    train(workplace, "tiger", tmp_path / "whole")
    start = HubTrainer.__init__

    def killed(self, *args, **kwargs):
        start(self, *args, **kwargs)
        self.add_callback(Kill())

    with monkeypatch.context() as patch:
        patch.setattr(HubTrainer, "__init__", killed)
        with pytest.raises(KeyboardInterrupt):
            train(workplace, "tiger", tmp_path / "run")
    assert (tmp_path / "run" / "tokenizer" / "training" / "checkpoint-2").is_dir()
    with monkeypatch.context() as patch:
        began = watch(patch)
        train(workplace, "tiger", tmp_path / "run", "--resume")
    assert began == [("training", 2), ("recommender", 0)]
    codes = [UniversalItemTokenizer.from_pretrained(tmp_path / each / "tokenizer") for each in ("whole", "run")]
    assert np.array_equal(codes[0].index.codes, codes[1].index.codes)
    assert codes[0].fingerprint == codes[1].fingerprint


@pytest.mark.hub
@pytest.mark.parametrize("name", ["gru4rec", "tiger"])
def test_push(hub, workplace, tmp_path, name):
    repo_id = hub.new_repo("baseline")
    train(workplace, name, tmp_path / "run", "--push_to_hub", "--hub_model_id", repo_id, "--license", "mit")
    files = set(HfApi().list_repo_files(repo_id))
    assert {"README.md", "config.json", "model.safetensors"} <= files
    assert not [file for file in files if file.endswith((".bin", ".pt"))]
    if name == "tiger":
        model = AutoModelForSeq2SeqLM.from_pretrained(repo_id)
        UniversalItemTokenizer.from_pretrained(repo_id).check_recommender(model)
        assert load_values(tmp_path / "run" / "recommender").method == "tiger"
    else:
        assert type(AutoModelForCausalLM.from_pretrained(repo_id)).__name__ == "GRU4RecForNextItem"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--model", "sasrek"], "--model sasrek: there are sasrec, "),
        (["--model", "tiger"], "--model tiger: It needs text embeddings: give --text_encoder, or --embeddings"),
        (["--model", "unisrec"], "--model unisrec: It needs text embeddings: give --text_encoder, or --embeddings"),
        (["--model", "tiger-m", "--text_encoder", "x"], "--model tiger-m: It needs image embeddings: give --image_"),
        (["--model", "tiger-m", "--text_encoder", "x", "--image_encoder", "x"], "No item of tiny has an image"),
        (["--model", "sasrec", "--embeddings", "nowhere"], "nowhere/embeddings.safetensors is missing"),
        (["--model", "rq-kmeans-item-level"], "--model rq-kmeans-item-level: It needs text embeddings"),
        (["--model", "sasrec", "--pretrained", "x"], "--pretrained is for models that read content, and sasrec"),
        (["--model", "sasrec", "--train_users", "0"], "--train_users is a share"),
        (["--model", "sasrec", "--minutes", "0"], "--minutes is a time, got 0"),
        (["--model", "sasrec", "--minutes", "nan"], "--minutes is a time, got nan"),
    ],
)
def test_what_cannot_be_had_is_said_before_work_starts(workplace, tmp_path, flags, said):
    """By a dry run, too; and nothing is written."""
    flags = [*flags, "--data", str(workplace / "tiny"), "--output_dir", str(tmp_path / "run")]
    for more in ([], ["--dry_run"]):
        with pytest.raises(SystemExit, match=said):
            run_command("train-baseline", [*flags, *more])
    assert not list(tmp_path.iterdir())


def test_an_encoder_that_is_not_there_is_known_before_a_training(workplace, tmp_path, monkeypatch):
    """Of what the trained model is compared with, too."""
    monkeypatch.setattr(train_baseline, "train_sequential_baseline", None)
    flags = ["--model", "sasrec", "--text_encoder", "/no/such/encoder", "--data", str(workplace / "tiny")]
    with pytest.raises(SystemExit, match="/no/such/encoder"):
        run_command("train-baseline", [*flags, "--output_dir", str(tmp_path)])


@pytest.mark.parametrize(
    ("interactions", "said"),
    [
        ("split\nu,i0,0,train\nu,i1,1,train\nu,i2,2,test", "--memory is chosen on validation items"),
        ("split\nu,i0,0,train\nu,i1,1,train\nu,i2,2,validation", "The split has no interaction in 'test' that"),
        ("rating\nu,i0,0,1\nu,i1,1,1", "nothing to train on"),  # a validation and a test item
    ],
)
def test_parts_that_are_empty_are_named_before_the_training(workplace, tmp_path, monkeypatch, interactions, said):
    monkeypatch.setattr(train_baseline, "ItemEmbeddings", None)
    (tmp_path / "items.jsonl").write_bytes((workplace / "tiny" / "items.jsonl").read_bytes())
    (tmp_path / "interactions.csv").write_text(f"user_id,item_id,timestamp,{interactions}\n")
    flags = ["--model", "rq-kmeans", "--memory", "--data", str(tmp_path), "--output_dir", str(tmp_path / "run")]
    with pytest.raises(SystemExit, match=said):
        run_command("train-baseline", flags)


@pytest.mark.parametrize(
    ("held_out", "missing", "command"),
    [
        ("validation", "test", ["finetune"]),
        ("test", "validation", ["finetune", "--recommender.eval_strategy", "epoch"]),
        ("test", "validation", ["train-baseline", "--model", "tiger", "--text_encoder", "tf-idf"]),
    ],
)
def test_no_test_or_validation_item_is_known_before_a_training(workplace, tmp_path, held_out, missing, command):
    (tmp_path / "items.jsonl").write_bytes((workplace / "tiny" / "items.jsonl").read_bytes())
    rows = f"u,i0,0,train\nu,i1,1,train\nu,i2,2,{held_out}\n"
    (tmp_path / "interactions.csv").write_text(f"user_id,item_id,timestamp,split\n{rows}")
    name, *flags = command
    with pytest.raises(SystemExit, match=f"The split has no interaction in '{missing}' that follows another one"):
        run_command(name, [*flags, "--data", str(tmp_path), "--output_dir", str(tmp_path / "run")])
    assert not [*(tmp_path / "run").rglob("*.*")]


def test_texts_that_say_nothing_are_named(workplace, tmp_path):
    """Before anything is trained; and so is a folder that takes no files."""
    (tmp_path / "mute").mkdir()
    lines = [json.dumps({"item_id": f"i{row}", "title": f"unique{row}"}) + "\n" for row in range(NUM_ITEMS)]
    (tmp_path / "mute" / "items.jsonl").write_text("".join(lines))
    (tmp_path / "mute" / "sequences.jsonl").write_bytes((workplace / "tiny" / "sequences.jsonl").read_bytes())
    flags = ["--model", "rq-kmeans-item-level", "--text_encoder", "tf-idf", "--data", str(tmp_path / "mute")]
    with pytest.raises(SystemExit, match="No word is in two of the 24 texts"):
        run_command("train-baseline", [*flags, "--output_dir", str(tmp_path / "run")])
    assert not (tmp_path / "run" / "recommender").exists()
    with pytest.raises(SystemExit, match="No files can be written to .*items.jsonl"):
        run_command("train-baseline", [*flags, "--output_dir", str(tmp_path / "mute" / "items.jsonl")])


def test_arguments_that_a_method_has_not(workplace, tmp_path):
    with pytest.raises(SystemExit, match="rq-kmeans has no codebook_dim"):
        train(workplace, "rq-kmeans", tmp_path / "run", "--tokenizer.codebook_dim", "4")
    with pytest.raises(SystemExit, match="SASRecConfig has no 'alpha'"):
        train(workplace, "sasrec", tmp_path / "run", "--sequential.own", "alpha=0.5")
    rows = train(workplace, "bsarec", tmp_path / "run", "--sequential.own", "alpha=0.25", "--name", "mine")
    assert rows[0]["description"]["differs_from_published"]["alpha"] == {"here": 0.25, "published": 0.7}
    assert rows[0]["model"] == "mine"


@pytest.mark.parametrize("name", ["hstu", "tiger"])
def test_other_commands_take_what_was_saved(workplace, tmp_path, capsys, name):
    rows = train(workplace, name, tmp_path / "run")
    folder, result = str(tmp_path / "run" / "recommender"), tmp_path / "result.json"
    flags = ["--data", str(workplace / "tiny"), "--num_beams", "10", "--json", str(result)]
    run_command("evaluate", ["--recommender", folder, *flags])
    assert json.loads(result.read_text())["ndcg@10"] == rows[0]["ndcg@10"]
    if name == "tiger":
        capsys.readouterr()
        run_command("recommend", ["--recommender", folder, "--history", "i1", "i2", "--num_items", "3"])
        assert "History: i1; i2" in capsys.readouterr().out
        recommended = pipeline("item-recommendation", model=folder)([["i1", "i2"]])
        assert len(recommended) == 1
