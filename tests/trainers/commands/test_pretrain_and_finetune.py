"""Pre-training and fine-tuning from end to end as a user runs them, on a catalogue that takes seconds."""

import copy
import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from transformers import AutoModel, AutoModelForSeq2SeqLM

from hub_cards import load_values
from modeling_utgrec import UTGRecForConditionalGeneration, UTGRecTokenizerModel
from tokenization_items import UniversalItemTokenizer
from tokenization_items.catalogue import Catalogue
from tokenization_items.collision_report import CollapsedCodesError
from trainers.commands.pretraining import write_semantic_ids
from trainers.data.domains import load_domains
from trainers.data.synthetic import DOWNSTREAM_DOMAIN, PRETRAINING_DOMAINS, write_all
from trainers.evaluation.protocol import evaluate
from trainers.rankers.generative import GenerativeRanker

EXAMPLES = Path(__file__).parents[3] / "examples"
CHECKPOINTS = Path(__file__).parents[2] / "checkpoints" / "version_0_1"
TINY = """
tokenizer:
  image_size: 16
  root_codebook_size: 16
  leaf_codebook_size: 24
  codebook_dim: 8
  adapter_hidden_size: 16
  max_text_tokens: 12
  denoiser_width: 16
  quantization_weight: 20.0
  num_train_epochs: 1
  per_device_train_batch_size: 16
  learning_rate: 2e-3
  codebook_warmup_steps: 2
  save_strategy: "no"
  use_cpu: true
  disable_tqdm: true
recommender:
  d_model: 16
  d_ff: 16
  d_kv: 8
  num_heads: 2
  num_layers: 1
  num_beams: 10
  max_history: 5
  num_train_epochs: 2
  per_device_train_batch_size: 128
  save_strategy: "no"
  use_cpu: true
  disable_tqdm: true
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scripts")
    (folder / "tiny.yaml").write_text(TINY)
    write_all(folder / "data", num_items=64, num_users=60)
    return folder


@pytest.fixture(scope="module")
def run(workplace):
    """Runs a script with the tiny configuration; returns the models as they were when it saved them, by folder."""

    def call(script, *argv):
        models = {}
        with pytest.MonkeyPatch.context() as patch:
            for kind in (UTGRecTokenizerModel, UTGRecForConditionalGeneration):
                patch.setattr(kind, "save_pretrained", spy(kind.save_pretrained, models))
            patch.setattr(sys, "argv", [script, "--config", str(workplace / "tiny.yaml"), *map(str, argv)])
            runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        return models

    def spy(save, models):
        def save_pretrained(self, folder, **kwargs):
            place = re.sub(r"\.([^./]+)\.unfinished-[^/]+", r"\1", str(folder))  # it is written beside its place
            models[place] = copy.deepcopy(self).eval()
            return save(self, folder, **kwargs)

        return save_pretrained

    return call


@pytest.fixture(scope="module")
def pretrained(run, workplace):
    folder = workplace / "pretrained"
    data = [workplace / "data" / name for name in PRETRAINING_DOMAINS]
    return folder, run("pretrain.py", "--data", *data, "--output_dir", folder)


@pytest.fixture(scope="module")
def finetuned(run, workplace, pretrained):
    folder = workplace / "finetuned"
    models = run("finetune.py", *downstream(workplace, folder), "--pretrained", pretrained[0], "--name", "UTGRec")
    return folder, models


def downstream(workplace, folder):
    return "--data", workplace / "data" / DOWNSTREAM_DOMAIN, "--output_dir", folder


def domain_of(workplace, name):
    return load_domains([str(workplace / "data" / name)])[0]


def assert_equal(a, b, but=()):
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys()
    assert {name for name in a if not torch.equal(a[name], b[name])} - set(but) == set()


def codebooks(folder):
    network = UTGRecTokenizerModel.from_pretrained(folder / "tokenizer")
    return [(book.codes.detach(), book.projection.weight.detach()) for book in network.quantizer.codebooks]


def test_pretraining_writes_a_tokenizer_identifiers_and_a_recommender(pretrained, workplace):
    folder, models = pretrained
    network = AutoModel.from_pretrained(folder / "tokenizer")
    assert_equal(network, models[str(folder / "tokenizer")])
    tokenizer = UniversalItemTokenizer.from_pretrained(folder / "tokenizer")
    assert len(tokenizer) == 0 and tokenizer.max_history == 5
    told = {row["Catalogue"]: row for row in load_values(folder / "tokenizer").health}
    assert told.keys() == set(PRETRAINING_DOMAINS)
    assert all(0 < row["GAUC unquantized"] < 1 and row["Items"] == 64 for row in told.values())
    for name in PRETRAINING_DOMAINS:
        items = UniversalItemTokenizer.from_pretrained(folder / "items" / name)
        catalogue = domain_of(workplace, name).catalogue
        assert items.index.item_ids == catalogue.item_ids and not items.has_network
        again = UniversalItemTokenizer.from_network(tokenizer.network, tokenizer.processor)
        again.add_items(catalogue)
        np.testing.assert_array_equal(items.index.codes, again.index.codes)
        assert items.fingerprint == again.fingerprint
    recommender = AutoModelForSeq2SeqLM.from_pretrained(folder / "recommender")
    assert_equal(recommender, models[str(folder / "recommender")])
    tokenizer.check_recommender(recommender)


def test_the_stages_one_by_one_give_the_same(run, pretrained, workplace, tmp_path):
    data = [workplace / "data" / name for name in PRETRAINING_DOMAINS]
    models = {}
    for stage in ("tokenizer", "tokenize", "recommender"):
        models |= run("pretrain.py", "--data", *data, "--output_dir", tmp_path, "--stage", stage)
    for part in ("tokenizer", "recommender"):
        assert_equal(models[str(tmp_path / part)], pretrained[1][str(pretrained[0] / part)])
    before = load_values(tmp_path / "tokenizer")
    run("pretrain.py", *downstream(workplace, tmp_path), "--stage", "tokenize", "--overwrite")
    after = load_values(tmp_path / "tokenizer")
    assert after.health[:-1] == before.health and after.health[-1]["Catalogue"] == DOWNSTREAM_DOMAIN
    assert after.attribute_information[: len(before.attribute_information)] == before.attribute_information


def test_finetuned_models_load_as_they_were(finetuned, workplace):
    folder, models = finetuned
    catalogue = domain_of(workplace, DOWNSTREAM_DOMAIN).catalogue
    tokenizer = UniversalItemTokenizer.from_pretrained(folder / "tokenizer")
    index = UniversalItemTokenizer.from_pretrained(folder / "recommender")
    assert not index.has_network
    assert tokenizer.index.item_ids == index.index.item_ids == catalogue.item_ids
    np.testing.assert_array_equal(tokenizer.index.codes, index.index.codes)

    network, saved = AutoModel.from_pretrained(folder / "tokenizer").eval(), models[str(folder / "tokenizer")]
    processor = tokenizer.processor
    images = [catalogue.image(row) and processor.encode_image(catalogue.image(row)) for row in range(8)]
    batch = processor.collate(processor.encode_texts(catalogue.texts[:8]), images)
    with torch.no_grad():
        assert torch.equal(network(**batch).representations, saved(**batch).representations)

    recommender = AutoModelForSeq2SeqLM.from_pretrained(folder / "recommender")
    history = index([catalogue.item_ids[:3], catalogue.item_ids[5:9]], return_tensors="pt")
    labels = torch.from_numpy(index.index.token_table[[7, 9]])
    with torch.no_grad():
        found, expected = (
            m(**history, labels=labels).logits for m in (recommender, models[str(folder / "recommender")])
        )
    assert torch.equal(found, expected)

    output = recommender.recommend(**history, trie=index.trie, num_items=6)
    for ids in output.item_ids:
        assert len(ids) == len(set(ids)) == 6 and set(ids) <= set(catalogue.item_ids)


def test_results_are_those_of_the_saved_recommender(finetuned, workplace):
    folder, _ = finetuned
    row, *_ = json.loads((folder / "results.json").read_text())
    assert (row["model"], row["domain"], row["seed"]) == ("UTGRec", DOWNSTREAM_DOMAIN, 0)
    domain = domain_of(workplace, DOWNSTREAM_DOMAIN)
    ranker = GenerativeRanker.from_pretrained(folder / "recommender", domain.catalogue.item_ids, num_beams=10)
    assert ranker.max_history == 5
    expected = json.loads(json.dumps(evaluate(ranker, domain.interactions)))
    assert {name: row[name] for name in expected} == expected
    assert row["num_users"] == 60 and row["seen"] == "kept" and row["part"] == "test"
    assert not list(folder.rglob("*.tmp"))


def test_cards_say_what_the_run_wrote(pretrained, finetuned):
    """Numbers of the cards are those of the result, of the assignment and of the training's own log."""
    row, *_ = json.loads((finetuned[0] / "results.json").read_text())
    card = ModelCard.load(finetuned[0] / "recommender" / "README.md")
    values = load_values(finetuned[0] / "recommender")
    results = {result.metric_type: result for result in card.data.eval_results}
    assert {name: result.metric_value for name, result in results.items()} == {
        name: value for name, value in row.items() if name.startswith(("recall@", "ndcg@", "mrr@"))
    }
    assert all(list(result.metric_args["interval"]) == row["intervals"][name] for name, result in results.items())
    assert results["ndcg@10"].metric_args["seen"] == "kept" and results["ndcg@10"].dataset_name == DOWNSTREAM_DOMAIN
    assert values.num_items == 64 and values.hyperparameters["num_beams"] == 10 and values.training_seconds > 0
    assert values.training_data[0]["Users"] == 60 and f"UTGRec recommender for {DOWNSTREAM_DOMAIN}" in card.text
    for folder, kinds in ((pretrained[0], PRETRAINING_DOMAINS), (finetuned[0], [DOWNSTREAM_DOMAIN])):
        values = load_values(folder / "tokenizer")
        assert [row["Domain"] for row in values.training_data] == list(kinds)
        assert [row["Codes"] for row in values.codebooks] == [16, 24, 24]
        assert [row["Catalogue"] for row in values.health] == list(kinds)
        assert [row["Attribute"] for row in values.attribute_information] == ["categories"] * len(kinds)
        assert values.fingerprint == UniversalItemTokenizer.from_pretrained(folder / "tokenizer").fingerprint
        texts = [(folder / "tokenizer" / name).read_text() for name in ("README.md", "card_values.json")]
        assert not any(str(folder) in text for text in texts)
    assert values.collisions["Items added"] == 64
    assert "`utgrec finetune`" in (pretrained[0] / "recommender" / "README.md").read_text()


def test_finetuning_keeps_the_codes_and_trains_the_projections(pretrained, finetuned):
    for (codes, projection), (old_codes, old_projection) in zip(
        codebooks(finetuned[0]), codebooks(pretrained[0]), strict=True
    ):
        assert torch.equal(codes, old_codes) and not torch.equal(projection, old_projection)


def test_frozen_tokenizer(run, workplace, pretrained, tmp_path):
    models = run(
        "finetune.py",
        *downstream(workplace, tmp_path),
        *("--pretrained", pretrained[0], "--tokenizer_mode", "frozen", "--mask_seen"),
        *("--recommender.max_history", 7),
    )
    assert_equal(models[str(tmp_path / "tokenizer")], pretrained[1][str(pretrained[0] / "tokenizer")])
    for folder in ("tokenizer", "recommender"):  # what reads histories for a recommender of 7 items
        assert UniversalItemTokenizer.from_pretrained(tmp_path / folder).max_history == 7
    assert UniversalItemTokenizer.from_pretrained(pretrained[0] / "tokenizer").max_history == 5
    row, *_ = json.loads((tmp_path / "results.json").read_text())
    assert row["seen"] == "masked" and row["model"] == tmp_path.name


def test_full_tokenizer_and_new_recommender(run, workplace, pretrained, tmp_path):
    run(
        "finetune.py",
        *downstream(workplace, tmp_path),
        *("--pretrained", pretrained[0], "--tokenizer_mode", "full", "--new_recommender", "--recommender.d_ff=24"),
    )
    assert all(
        not torch.equal(codes, old)
        for (codes, _), (old, _) in zip(codebooks(tmp_path), codebooks(pretrained[0]), strict=True)
    )
    assert AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "recommender").config.d_ff == 24


def test_from_scratch_with_validation_and_resume(run, workplace, tmp_path):
    argv = [
        *downstream(workplace, tmp_path),
        *("--seed", 3, "--k_core", 2, "--tokenizer.codebook_structure", "residual"),
        *("--recommender.eval_strategy", "epoch", "--recommender.save_strategy", "epoch"),
        *("--recommender.load_best_model_at_end", "--recommender.early_stopping_patience", 1),
        *("--tokenizer.save_strategy", "epoch"),
    ]
    models = run("finetune.py", *argv)
    row, *_ = json.loads((tmp_path / "results.json").read_text())
    assert row["seed"] == 3 and row["num_users"] <= 60
    recommender = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "recommender")
    assert recommender.config.level_sizes == [16, 24, 24] and recommender.config.level_offsets == [2, 18, 42]
    with pytest.raises(SystemExit, match="another one: --seed was 3, is 4"):
        run("finetune.py", *(4 if each == 3 else each for each in argv), "--resume")
    # All stages are finished: going on changes nothing.
    again = run("finetune.py", *argv, "--resume")
    for part in ("tokenizer", "recommender"):
        assert_equal(models[str(tmp_path / part)], again[str(tmp_path / part)])
    assert json.loads((tmp_path / "results.json").read_text())[0] == row


def test_no_training_users_leave_the_pretrained_models_as_they_are(run, workplace, pretrained, tmp_path):
    models = run("finetune.py", *downstream(workplace, tmp_path), "--pretrained", pretrained[0], "--train_users", 0)
    for part in ("tokenizer", "recommender"):
        assert_equal(models[str(tmp_path / part)], pretrained[1][str(pretrained[0] / part)])
    row, *_ = json.loads((tmp_path / "results.json").read_text())
    assert row["train_users"] == 0 and row["num_users"] == 60
    with pytest.raises(SystemExit, match="--train_users 0 trains nothing: it needs --pretrained"):
        run("finetune.py", *downstream(workplace, tmp_path), "--train_users", 0)
    with pytest.raises(SystemExit, match="between 0 and 1, got 2"):
        run("finetune.py", *downstream(workplace, tmp_path), "--train_users", 2)


def lines_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_zero_shot_of_a_pretrained_recommender(workplace, pretrained, finetuned, tmp_path, capsys):
    data, items = workplace / "data" / DOWNSTREAM_DOMAIN, tmp_path / "items"
    flags = ["--zero-shot", "--data", data, "--json", tmp_path / "lines.jsonl", "--intervals", 10]
    flags += ["--recommender", pretrained[0] / "recommender", "--num_beams", 10]
    script(capsys, "tokenize_items.py", "--tokenizer", pretrained[0] / "tokenizer", "--data", data, "--output_dir",
           items, "--index_only")  # fmt: skip
    with pytest.raises(SystemExit, match="no semantic IDs of the items of"):
        script(capsys, "evaluate.py", *flags)
    with pytest.raises(SystemExit, match="do not belong together"):
        script(capsys, "evaluate.py", *flags, "--items", finetuned[0] / "tokenizer")
    script(capsys, "evaluate.py", *flags, "--items", items, "--score", "level-normalised")
    (line,) = lines_of(tmp_path / "lines.jsonl")
    assert line["pretrained_on"] == list(PRETRAINING_DOMAINS) and line["seen_in_pretraining"] == "unseen"
    assert line["score"] == "level-normalised" and len(line["gauc_by_score"]) == 5 and line["seed"] == 0
    assert line["gauc"] == line["gauc_by_score"]["level-normalised"] and line["num_rows"] == 180
    # a domain of the pre-training: its items lie beside the recommender
    flags[2] = workplace / "data" / PRETRAINING_DOMAINS[0]
    script(capsys, "evaluate.py", *flags)
    assert lines_of(tmp_path / "lines.jsonl")[0]["seen_in_pretraining"] == "seen"
    with pytest.raises(SystemExit, match="the index"):
        script(capsys, "evaluate.py", *flags, "--items", items)


def script(capsys, name, *argv):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *map(str, argv)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out


def test_zero_shot_benchmark(workplace, pretrained, tmp_path, capsys):
    data, results = workplace / "data" / DOWNSTREAM_DOMAIN, tmp_path / "results.jsonl"
    flags = ["--config", workplace / "tiny.yaml", "--domains", data, "--results", results]
    flags += ["--work_dir", tmp_path / "work", "--num_beams", 10, "--prior_histories", 4]
    argv = ["--models", "popularity", "--pretrained", pretrained[0], "--train_users", 0, 0.2, "--seeds", 5]
    out = script(capsys, "benchmarks/zero_shot.py", *flags, *argv)
    lines = lines_of(results)
    assert [(line["model"], line["train_users"], line["seed"]) for line in lines] == [
        ("popularity", 0, None), ("pretrained", 0, 0), ("pretrained", 0.2, 5)
    ]  # fmt: skip
    assert len({line["rows_digest"] for line in lines}) == 1 and "unseen in pre-training" in out
    for line in lines:
        assert str(tmp_path) not in line["command"] and str(workplace) not in line["command"]
        assert line["pretrained_on"] == ([] if line["model"] == "popularity" else list(PRETRAINING_DOMAINS))
    assert lines[2]["command"] == (
        f"python examples/benchmarks/zero_shot.py --domains {DOWNSTREAM_DOMAIN} --models none --pretrained pretrained "
        "--train_users 0.2 --seeds 5 --prior_histories 4 --config tiny.yaml"
    )
    # what the line says is what the saved recommender does
    work = tmp_path / "work" / DOWNSTREAM_DOMAIN
    domain = domain_of(workplace, DOWNSTREAM_DOMAIN)
    folders = {
        1: (pretrained[0] / "recommender", work / "pretrained-users-0-seed-0" / "items"),
        2: (work / "pretrained-users-0.2-seed-5" / "recommender", None),
    }
    for place, (folder, items) in folders.items():
        ranker = GenerativeRanker.from_pretrained(folder, domain.catalogue.item_ids, 10, items=items)
        assert lines[place]["ndcg@10"] == evaluate(ranker, domain.interactions, ks=(10,))["ndcg@10"]
    assert load_values(folders[2][0]).training_data[0]["Training users"] == 12  # of 60
    again = script(capsys, "benchmarks/zero_shot.py", *flags, *argv)
    assert again.count("done before") == 3 and lines_of(results) == lines
    # another recommender of the same name: neither its lines nor its items are taken for these
    other = shutil.copytree(pretrained[0], tmp_path / "other" / pretrained[0].name)
    argv[argv.index(pretrained[0])] = other
    with open(other / "recommender" / "model.safetensors", "ab") as file:
        file.write(b" ")
    with pytest.raises(SystemExit, match="has lines of pretrained, of other weights than those of .*: rename"):
        script(capsys, "benchmarks/zero_shot.py", *flags, *argv)
    shutil.copyfile(pretrained[0] / "recommender" / "model.safetensors", other / "recommender" / "model.safetensors")
    settings = other / "tokenizer" / "item_tokenizer_config.json"
    values = json.loads(settings.read_text())
    settings.write_text(json.dumps(values | {"fingerprint": "0" * len(values["fingerprint"])}))
    once = [*flags, "--results", tmp_path / "once.jsonl", "--models", "none", "--pretrained"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("traceback.print_exc", lambda: said.append(str(sys.exception())))
        said = []
        script(capsys, "benchmarks/zero_shot.py", *once, other)
    assert "semantic IDs of another item tokenizer" in said[0]
    script(capsys, "benchmarks/zero_shot.py", *once, pretrained[0])  # what was made is taken
    assert lines_of(tmp_path / "once.jsonl")[0]["ndcg@10"] == lines[1]["ndcg@10"]

    script(capsys, "benchmarks/zero_shot.py", *flags, "--models", "scratch", "--train_users", 0, 1, "--seeds", 0)
    line = lines_of(results)[3]
    assert (line["model"], line["train_users"], line["pretrained_on"]) == ("scratch-utgrec", 1, [])
    assert "| scratch-utgrec | 1" in script(capsys, "benchmarks/zero_shot.py", "--table_only", "--results", results)
    with pytest.raises(SystemExit, match="no folder recommender in it"):
        script(capsys, "benchmarks/zero_shot.py", *flags, "--pretrained", tmp_path)
    with pytest.raises(SystemExit, match="unknown utgrek"):
        script(capsys, "benchmarks/zero_shot.py", *flags, "--models", "utgrek")


@pytest.mark.hub
def test_both_models_are_pushed_when_they_are_finished(run, workplace, tmp_path, hub):
    names = {part: hub.new_repo(part) for part in ("tokenizer", "recommender")}
    push = [(f"--{part}.push_to_hub", "true", f"--{part}.hub_model_id", name) for part, name in names.items()]
    run("finetune.py", *downstream(workplace, tmp_path), *push[0], *push[1], "--license", "mit")
    row, *_ = json.loads((tmp_path / "results.json").read_text())
    for part, name in names.items():
        files = set(HfApi().list_repo_files(name))
        kept = {
            path.relative_to(tmp_path / part).as_posix() for path in (tmp_path / part).rglob("*") if path.is_file()
        }
        assert kept <= files and not [file for file in files if file.endswith((".bin", ".pt", ".pth"))]
        assert ModelCard.load(name).data.license == "mit"
        assert len(UniversalItemTokenizer.from_pretrained(name)) == 64
    items = UniversalItemTokenizer.from_pretrained(names["recommender"])
    items.add_items([{"item_id": "new", "title": "a thing"}])  # with the network from the other repository
    assert items.decode(items.encode("new")) == "new"
    results = ModelCard.load(names["recommender"]).data.eval_results
    assert {result.metric_type: result.metric_value for result in results}["ndcg@10"] == row["ndcg@10"]
    with pytest.raises(SystemExit, match="needs a name for the repository of recommender"):
        run("finetune.py", *downstream(workplace, tmp_path), "--recommender.push_to_hub", "true")


def test_stages_may_differ_in_precision(run, workplace, tmp_path):
    argv = [*downstream(workplace, tmp_path), "--tokenizer.bf16", "true", "--tokenizer.use_cpu", "true"]
    run("finetune.py", *argv)
    assert json.loads((tmp_path / "results.json").read_text())[0]["num_users"] == 60


@pytest.mark.parametrize("script, extra", [("pretrain.py", ()), ("finetune.py", ()), ("pretrain.py", ("--dry_run",))])
def test_a_warmup_longer_than_the_training_is_refused_before_anything_is_made(run, workplace, tmp_path, script, extra):
    argv = [*downstream(workplace, tmp_path / "out"), *extra, "--tokenizer.codebook_warmup_steps", "4"]
    with pytest.raises(SystemExit, match="has 4 steps, and its codebooks are in use after 4: .*codebook_warmup_steps"):
        run(script, *argv)
    made = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert made <= {"run.yaml"}


def test_collapsed_codes_stop_before_they_are_saved(tmp_path):
    shutil.copytree(CHECKPOINTS / "utgrec_tokenizer_text", tmp_path / "tokenizer")
    catalogues = [
        Catalogue.from_records([{"item_id": f"{name}{row}", "title": title} for row in range(100)], name=name)
        for name, title in (("a", "one"), ("b", "another"))
    ]
    with pytest.raises(CollapsedCodesError, match="100 of 100 items have the codes of another item"):
        write_semantic_ids(tmp_path, catalogues)
    assert not (tmp_path / "items").exists()
    write_semantic_ids(tmp_path, catalogues, allow_collapsed=True)
    assert {path.name for path in (tmp_path / "items").iterdir()} == {"a", "b"}


def test_finetuning_takes_one_domain(run, workplace, tmp_path):
    with pytest.raises(SystemExit, match="one domain, --data has 4"):
        run("finetune.py", "--data", workplace / "data", "--output_dir", tmp_path)
