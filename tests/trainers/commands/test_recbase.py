"""RecBase from identifiers to recommendations as a user runs it, on a catalogue that takes seconds."""

import itertools
import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType
from huggingface_hub import HfApi, ModelCard
from transformers import AutoTokenizer, pipeline

from hub_cards import load_values
from modeling_utgrec import RecBaseForCausalLM, RecBaseTokenizerModel
from tokenization_items import ItemIndex, TextTemplate, TokenizerMismatchError, UniversalItemTokenizer
from trainers.arguments import find_config, parse_sections
from trainers.commands import choose_method
from trainers.commands.pretrain_recbase import PretrainArguments
from trainers.data.domains import load_domains
from trainers.data.synthetic import DOWNSTREAM_DOMAIN, PRETRAINING_DOMAINS, write_all
from trainers.evaluation.protocol import evaluate
from trainers.evaluation.zero_shot import training_of
from trainers.methods.recbase import (
    RECBASE_SECTIONS,
    RecBaseArguments,
    RecBaseTokenizerArguments,
    codebooks_of,
    load_semantic_ids,
    new_recbase,
)
from trainers.methods.semantic_ids import rq_kmeans_tokenizer
from trainers.rankers.generative import GenerativeRanker, load_model

EXAMPLES = Path(__file__).parents[3] / "examples"
TINY = """
model: recbase
tokenizer:
  text_encoder: tiny
  num_levels: 3
  codebook_size: 8
  codebook_dim: 8
  hidden_sizes: [16]
  num_train_epochs: 2
  curriculum_epochs: 0
  use_cpu: true
  disable_tqdm: true
recommender:
  size: tiny
  warm_start: true
  hidden_size: 16
  intermediate_size: 16
  head_dim: 8
  num_attention_heads: 2
  num_beams: 10
  max_history: 5
  num_train_epochs: 2
  per_device_train_batch_size: 32
  learning_rate: 5e-3
  save_strategy: "no"
  use_cpu: true
  disable_tqdm: true
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """Data, and in `identifiers/items/<domain>/` the codes of one item tokenizer for all domains."""
    folder = tmp_path_factory.mktemp("recbase")
    (folder / "tiny.yaml").write_text(TINY)
    write_all(folder / "data", num_items=64, num_users=60)
    domains = load_domains([str(folder / "data")], check_images=False)
    ids = [f"{domain.name}/{item}" for domain in domains for item in domain.catalogue.item_ids]
    embeddings = np.random.default_rng(0).normal(size=(len(ids), 12)).astype(np.float32)
    made = rq_kmeans_tokenizer(
        embeddings, ids, folder / "joint", num_levels=3, codebook_size=8, collisions="least_distance"
    )
    joint = made.tokenizer
    for domain in domains:
        index = ItemIndex(joint.index.level_sizes, joint.index.level_offsets)
        codes = joint.index.codes[joint.index.rows([f"{domain.name}/{item}" for item in domain.catalogue.item_ids])]
        index.assign(domain.catalogue.item_ids, codes, titles=domain.catalogue.titles)
        UniversalItemTokenizer(index, joint.fingerprint, max_history=5).save_pretrained(
            folder / "identifiers" / "items" / domain.name
        )
    return folder


@pytest.fixture(scope="module")
def run(workplace):
    def call(script, *argv):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [script, "--config", str(workplace / "tiny.yaml"), *map(str, argv)])
            return runpy.run_path(str(EXAMPLES / script), run_name="__main__")

    return call


@pytest.fixture(scope="module")
def pretrained(run, workplace):
    folder = workplace / "pretrained"
    data = [workplace / "data" / name for name in PRETRAINING_DOMAINS]
    introduction = f"{PRETRAINING_DOMAINS[0]}=Describe a thing:"
    more = ("--recommender.domain_temperature", 2, "--tokenizer.introductions", introduction)
    more += ("--tokenizer.introduction", "Describe a product:")
    run("pretrain.py", "--data", *data, "--output_dir", folder, *more)
    return folder


@pytest.fixture(scope="module")
def finetuned(run, workplace, pretrained):
    folder = workplace / "finetuned"
    run("finetune.py", *downstream(workplace, folder), "--pretrained", pretrained, "--name", "RecBase")
    return folder


def downstream(workplace, folder):
    return "--data", workplace / "data" / DOWNSTREAM_DOMAIN, "--output_dir", folder


def test_pretraining_writes_a_recommender_of_the_identifiers(pretrained):
    recommender = load_model(pretrained / "recommender")
    assert isinstance(recommender, RecBaseForCausalLM)
    assert recommender.config.hidden_size == 16 and recommender.config.max_history == 5
    for name in PRETRAINING_DOMAINS:
        UniversalItemTokenizer.from_pretrained(pretrained / "items" / name).check_recommender(recommender)
    values = load_values(pretrained / "recommender")
    assert values.hyperparameters["domain_temperature"] == 2
    assert [row["Domain"] for row in values.training_data] == list(PRETRAINING_DOMAINS)


def test_pretraining_writes_a_tokenizer_of_all_domains(pretrained):
    tokenizer = UniversalItemTokenizer.from_pretrained(pretrained / "tokenizer")
    assert type(tokenizer.network) is RecBaseTokenizerModel and len(tokenizer) == 0
    report = json.loads((pretrained / "tokenizer" / "tokenizer_report.json").read_text())
    assert set(report["domains"]) == set(PRETRAINING_DOMAINS) and report["num_items"] == 64 * len(PRETRAINING_DOMAINS)
    card = ModelCard.load(pretrained / "tokenizer" / "README.md")
    assert "RecBase item tokenizer for" in card.text and "zhou2025recbase" in card.text
    first = json.loads((pretrained / "embeddings" / PRETRAINING_DOMAINS[0] / "embeddings.json").read_text())
    assert first["template"]["introduction"] == "Describe a thing:"
    items = [UniversalItemTokenizer.from_pretrained(pretrained / "items" / name) for name in PRETRAINING_DOMAINS[:2]]
    assert [each.template.introduction for each in items] == ["Describe a thing:", "Describe a product:"]


def test_a_catalogue_without_interactions_is_read_and_walked(run, workplace, tmp_path, capsys, monkeypatch):
    data, name = workplace / "data", DOWNSTREAM_DOMAIN
    (tmp_path / name).mkdir()
    for file in (data / name).glob("items.*"):  # no interactions
        shutil.copy(file, tmp_path / name)
    flags = ["--data", data / PRETRAINING_DOMAINS[0], "--output_dir", tmp_path / "out", "--catalogues"]
    introduction = ("--tokenizer.introductions", f"{name}=Describe a tool:")
    run("pretrain.py", *flags, tmp_path / name, *introduction, "--tokenizer.centre_domains", "true")
    assert f"{name}: 64 items, and no interactions" in capsys.readouterr().out
    recommender = tmp_path / "out" / "recommender"
    items = UniversalItemTokenizer.from_pretrained(tmp_path / "out" / "items" / name)
    items.check_recommender(load_model(recommender))
    assert len(items) == 64 and len(items.domain_mean)
    embeddings = json.loads((tmp_path / "out" / "embeddings" / name / "embeddings.json").read_text())
    assert embeddings["template"]["introduction"] == "Describe a tool:"
    for values in map(load_values, (tmp_path / "out" / "tokenizer", recommender)):
        first, second = values.training_data
        assert first["Interactions"] and (second["Domain"], second["Interactions"]) == (name, 0)
    assert training_of(recommender)[0] == [PRETRAINING_DOMAINS[0]]
    weights = [load_model(recommender).lm_head.weight]  # after three walks from each item
    for walks in (0, 1):
        flag = ("--recommender.walks_per_item", walks)
        run("pretrain.py", *flags, tmp_path / name, "--stage", "recommender", "--overwrite", *flag)
        weights.append(load_model(recommender).lm_head.weight)
    assert not any(torch.equal(*pair) for pair in itertools.combinations(weights, 2))

    (tmp_path / "lonely").mkdir()
    (tmp_path / "lonely" / "items.jsonl").write_text('{"item_id": "a", "title": "drum"}\n')
    for folder, message in (
        (data / PRETRAINING_DOMAINS[0], "in --data, too"),
        (tmp_path / "no", "No data folder"),
        (tmp_path / "lonely", "lonely has one item"),
    ):
        with pytest.raises(SystemExit, match=message):
            run("pretrain.py", *flags, folder)
    with pytest.raises(SystemExit, match="walks_per_item must be at least 0, got -1"):
        run("pretrain.py", *flags, tmp_path / name, "--recommender.walks_per_item", -1)
    monkeypatch.setattr(sys, "argv", ["pretrain.py", *map(str, flags), str(tmp_path / name)])
    with pytest.raises(SystemExit, match="Unknown flag: --catalogues"):
        runpy.run_path(str(EXAMPLES / "pretrain.py"), run_name="__main__")


def test_zero_shot_folders_recommend(run, pretrained, workplace, tmp_path, monkeypatch):
    """The pre-trained decoder and the identifiers of a domain that it has not seen."""
    argv = ["tokenize_items.py", "--tokenizer", pretrained / "tokenizer", "--output_dir", tmp_path, "--use_cpu"]
    argv += ["--data", workplace / "data" / DOWNSTREAM_DOMAIN, "--index_only", "--introduction", "Describe a tool:"]
    monkeypatch.setattr(sys, "argv", list(map(str, argv)))
    runpy.run_path(str(EXAMPLES / "tokenize_items.py"), run_name="__main__")
    tokenizer = UniversalItemTokenizer.from_pretrained(tmp_path)
    assert tokenizer.template.introduction == "Describe a tool:"
    recommender = load_model(pretrained / "recommender")
    histories = [tokenizer.index.item_ids[:3], tokenizer.index.item_ids[7:8]]
    output = recommender.recommend(**tokenizer(histories, return_tensors="pt"), trie=tokenizer.trie, num_items=4)
    assert all(len(set(ids)) == 4 for ids in output.item_ids)


def test_finetuned_results_are_those_of_the_saved_recommender(finetuned, workplace):
    row, *_ = json.loads((finetuned / "results.json").read_text())
    assert (row["model"], row["domain"], row["seed"]) == ("RecBase", DOWNSTREAM_DOMAIN, 0)
    domain = load_domains([str(workplace / "data" / DOWNSTREAM_DOMAIN)])[0]
    ranker = GenerativeRanker.from_pretrained(finetuned / "recommender", domain.catalogue.item_ids, num_beams=10)
    assert isinstance(ranker.model, RecBaseForCausalLM) and ranker.max_history == 5
    expected = json.loads(json.dumps(evaluate(ranker, domain.interactions)))
    assert {name: row[name] for name in expected} == expected


def test_finetuning_goes_on_from_the_pretrained_weights(run, workplace, pretrained, finetuned, tmp_path):
    # a step of size 0 leaves them as they are
    more = ("--recommender.learning_rate", 0, "--recommender.max_steps", 1)
    run("finetune.py", *downstream(workplace, tmp_path), "--pretrained", pretrained, *more)
    before, after, tuned = (
        load_model(folder / "recommender").state_dict() for folder in (pretrained, tmp_path, finetuned)
    )
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not torch.equal(before["lm_head.weight"], tuned["lm_head.weight"])


def test_a_new_domains_texts_are_as_those_of_the_pretraining(finetuned, pretrained):
    items = UniversalItemTokenizer.from_pretrained(finetuned / "recommender")
    assert items.template == TextTemplate("Describe a product:")
    flags = RecBaseTokenizerArguments(introductions=["a=Describe a drum:"], max_field_characters=9)
    assert flags.templates(items.template) == {
        "": TextTemplate("Describe a product:", 9),
        "a": TextTemplate("Describe a drum:", 9),
    }


def test_new_recommender_is_the_flags(run, workplace, pretrained, tmp_path):
    more = ("--new_recommender", "--recommender.num_hidden_layers", 1, "--recommender.normalize_over", "items")
    run("finetune.py", *downstream(workplace, tmp_path), "--pretrained", pretrained, *more)
    config = load_model(tmp_path / "recommender").config
    assert (config.num_hidden_layers, config.normalize_over) == (1, "items")


def test_cards_render_for_recbase(pretrained, finetuned):
    for folder in (pretrained, finetuned):
        card = ModelCard.load(folder / "recommender" / "README.md")
        assert "RecBase recommender for" in card.text and "zhou2025recbase" in card.text
        assert "AutoModelForCausalLM.from_pretrained" in card.text and "Seq2Seq" not in card.text
        assert "zheng2025universal" not in card.text
    row, *_ = json.loads((finetuned / "results.json").read_text())
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results["ndcg@10"] == row["ndcg@10"]
    assert load_values(finetuned / "recommender").num_items == 64


def test_the_examples_usage_of_the_card_runs(finetuned, monkeypatch):
    text = (finetuned / "recommender" / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(finetuned / "recommender")
    names: dict = {}
    exec(code, names)
    assert len(names["recommendations"].item_ids[0]) == 10


def test_evaluate_and_recommend_load_the_folder(finetuned, workplace, monkeypatch, capsys):
    data = workplace / "data" / DOWNSTREAM_DOMAIN
    argv = ["evaluate.py", "--recommender", str(finetuned / "recommender"), "--data", str(data), "--json", "-"]
    monkeypatch.setattr(sys, "argv", [*argv, "--num_beams", "10"])
    runpy.run_path(str(EXAMPLES / "evaluate.py"), run_name="__main__")
    row, *_ = json.loads((finetuned / "results.json").read_text())
    assert json.loads(capsys.readouterr().out)["ndcg@10"] == row["ndcg@10"]
    argv = ["recommend.py", "--recommender", str(finetuned / "recommender"), "--data", str(data), "--users", "2"]
    monkeypatch.setattr(sys, "argv", argv)
    runpy.run_path(str(EXAMPLES / "recommend.py"), run_name="__main__")
    assert capsys.readouterr().out.count("History: ") == 2


def test_pipeline_loads_the_folder_and_equals_recommend(finetuned):
    recommender = pipeline("item-recommendation", model=str(finetuned / "recommender"))
    assert isinstance(recommender.model, RecBaseForCausalLM)
    ids = recommender.tokenizer.index.item_ids
    histories = [ids[:3], ids[10:15], ids[4:5]]
    tokenizer = UniversalItemTokenizer.from_pretrained(finetuned / "recommender")
    batch = tokenizer(histories, return_tensors="pt")
    seen = torch.nn.utils.rnn.pad_sequence(
        [torch.from_numpy(tokenizer.index.rows(history)) for history in histories], True, -1
    )
    expected = recommender.model.recommend(**batch, trie=tokenizer.trie, num_items=4, exclude=seen)
    for batch_size in (1, 3):  # which a pipeline pads as it likes
        found = recommender(histories, top_k=4, batch_size=batch_size)
        assert [[item["item_id"] for item in user] for user in found] == expected.item_ids


@pytest.mark.hub
def test_a_pushed_recommender_comes_back_whole(run, workplace, pretrained, tmp_path, hub):
    name = hub.new_repo("recommender")
    push = ("--recommender.push_to_hub", "true", "--recommender.hub_model_id", name, "--license", "mit")
    run("finetune.py", *downstream(workplace, tmp_path), "--pretrained", pretrained, *push)
    files = set(HfApi().list_repo_files(name))
    assert {"config.json", "model.safetensors", "modeling_recbase.py", "generation_qwen3.py"} <= files
    assert not [file for file in files if file.endswith((".bin", ".pt", ".pth"))]
    card = ModelCard.load(name)
    assert card.data.license == "mit" and f'AutoModelForCausalLM.from_pretrained("{name}")' in card.text
    items = AutoTokenizer.from_pretrained(name)
    assert isinstance(items, UniversalItemTokenizer) and len(items) == 64
    saved = load_model(tmp_path / "recommender").state_dict()
    pushed = load_model(name)
    assert all(torch.equal(saved[key], tensor) for key, tensor in pushed.state_dict().items())
    items.check_recommender(pushed)
    assert len(pipeline("item-recommendation", model=name)(items.index.item_ids[:2], top_k=3)) == 3


def test_from_scratch_on_identifiers_in_the_output_folder(run, workplace, tmp_path, capsys):
    shutil.copytree(workplace / "identifiers", tmp_path, dirs_exist_ok=True)
    run("finetune.py", *downstream(workplace, tmp_path), "--seed", 3, "--recommender.warm_start", "false")
    assert f"{DOWNSTREAM_DOMAIN}: semantic IDs of {tmp_path} are taken as they are" in capsys.readouterr().out
    assert json.loads((tmp_path / "results.json").read_text())[0]["seed"] == 3


def test_what_is_missing_is_named_before_work_starts(run, workplace, tmp_path):
    with pytest.raises(SystemExit, match=f"holds no semantic IDs of {DOWNSTREAM_DOMAIN}"):
        run("pretrain.py", *downstream(workplace, tmp_path), "--stage", "recommender")
    with pytest.raises(SystemExit, match="'tiny' is on this machine alone"):
        run("pretrain.py", *downstream(workplace, tmp_path), "--push_to_hub", "--hub_model_id", "someone/recbase")
    with pytest.raises(SystemExit, match="domain=text"):
        run("pretrain.py", *downstream(workplace, tmp_path), "--tokenizer.introductions", "Describe:")
    domain = load_domains([str(workplace / "data" / DOWNSTREAM_DOMAIN)])[0]
    other = load_domains([str(workplace / "data" / PRETRAINING_DOMAINS[0])])[0]
    shutil.copytree(workplace / "identifiers", tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "items" / other.name
    tokenizer = UniversalItemTokenizer.from_pretrained(folder)
    tokenizer.fingerprint = "another"
    tokenizer.save_pretrained(folder)
    with pytest.raises(TokenizerMismatchError, match=f"{other.name} of another"):
        load_semantic_ids(tmp_path, [domain.catalogue, other.catalogue])
    shared = ItemIndex([8, 8, 8], [2, 10, 10])
    shared.assign(["a"], np.zeros((1, 3), int))
    with pytest.raises(TokenizerMismatchError, match="level offsets"):
        new_recbase(RecBaseArguments(size="tiny"), UniversalItemTokenizer(shared, "x"), seed=0)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="'bert', which is no generative recommender"):
        load_model(tmp_path)


def test_from_scratch_trains_a_tokenizer_too(run, workplace, tmp_path, capsys):
    run("finetune.py", *downstream(workplace, tmp_path))
    assert "64 items, " in capsys.readouterr().out  # how many of them share their codes, and which have no text
    tokenizer = UniversalItemTokenizer.from_pretrained(tmp_path / "tokenizer")
    tokenizer.check_recommender(load_model(tmp_path / "recommender"))
    vectors = tokenizer.network.quantizer.level_vectors()
    assert all(torch.equal(a, b) for a, b in zip(codebooks_of(tmp_path), vectors, strict=True))


def test_warm_start_from_codebooks(workplace):
    tokenizer = UniversalItemTokenizer.from_pretrained(workplace / "identifiers" / "items" / DOWNSTREAM_DOMAIN)
    arguments = RecBaseArguments(size="tiny", hidden_size=16)
    codebooks = [torch.randn(8, 12, generator=torch.Generator().manual_seed(level)) for level in range(3)]
    cold, warm = new_recbase(arguments, tokenizer, 0), new_recbase(arguments, tokenizer, 0, codebooks)
    assert torch.equal(cold.lm_head.weight, warm.lm_head.weight)
    assert not torch.equal(cold.get_input_embeddings().weight, warm.get_input_embeddings().weight)


def test_frozen_codes_are_the_codebooks_until_fine_tuning(run, workplace, tmp_path):
    data = [workplace / "data" / name for name in PRETRAINING_DOMAINS]
    frozen = ("--recommender.tie_word_embeddings", "true", "--recommender.freeze_codes", "true")
    run("pretrain.py", "--data", *data, "--output_dir", tmp_path / "pretrained", *frozen)
    codes = [load_model(tmp_path / "pretrained" / "recommender").get_input_embeddings().weight.detach()[2:]]
    books = torch.cat(codebooks_of(tmp_path / "pretrained"))
    ratio = torch.cdist(codes[0], codes[0]) / torch.cdist(books, books).clamp(min=1e-6)
    apart = ~torch.eye(len(books), dtype=torch.bool)
    torch.testing.assert_close(ratio[apart], ratio[apart].median().expand(apart.sum()), rtol=1e-3, atol=0)
    run("finetune.py", *downstream(workplace, tmp_path), "--pretrained", tmp_path / "pretrained")
    codes.append(load_model(tmp_path / "recommender").get_input_embeddings().weight.detach()[2:])
    assert not torch.equal(*codes)
    for lacking in ({"warm_start": True}, {"tie_word_embeddings": True}):
        with pytest.raises(ValueError, match="turn warm_start and tie_word_embeddings on"):
            RecBaseArguments(freeze_codes=True, **lacking)


# configurations


@pytest.mark.parametrize(
    ("name", "size"), [("recbase.yaml", "base"), ("recbase_small.yaml", "tiny"), ("recbase_minilm.yaml", "tiny")]
)
def test_configurations_are_read(name, size):
    values = yaml.safe_load(find_config(name).read_text())
    assert values.pop("model") == "recbase"
    # on a machine without GPU, bf16 is only accepted for the CPU
    argv = ["--config", name, "--data", "x", "--output_dir", "y", "--recommender.use_cpu"]
    argv += ["--tokenizer.use_cpu"]
    assert choose_method("pretrain", argv) == "recbase"
    main, _, tokenizer_training, arguments, training = parse_sections(PretrainArguments, RECBASE_SECTIONS, "", argv)
    assert (main.model, arguments.size) == ("recbase", size)
    assert training.learning_rate == float(values["recommender"]["learning_rate"])


@pytest.mark.parametrize("stage", [2, 3])
def test_accelerate_configurations(stage):
    """They are what accelerate knows, no key left over, and name the stage; ZeRO-3 writes whole weights."""
    path = EXAMPLES / "accelerate_configs" / f"zero{stage}.yaml"
    config = load_config_from_file(str(path))
    assert config.distributed_type == DistributedType.DEEPSPEED and config.deepspeed_config["zero_stage"] == stage
    assert (config.mixed_precision, config.num_processes) == ("bf16", 8)
    assert config.deepspeed_config.get("zero3_save_16bit_model", False) == (stage == 3)
    known = {action.dest for action in launch_command_parser()._actions}
    assert set(config.deepspeed_config) <= known
