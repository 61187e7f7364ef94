"""Every model of the quality table in small: a line that says what it is, and how many items shared their codes."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tokenization_items.item_embeddings import save_embeddings
from trainers.commands import pretrain_sequential
from trainers.methods.backbones import write_tiny_text_encoder

BENCHMARKS = Path(__file__).resolve().parents[3] / "examples" / "benchmarks"
NUM_ITEMS = 300  # more than the codes of a level
SMALL = """
tokenizer:
  root_codebook_size: 16
  leaf_codebook_size: 16
  codebook_dim: 8
  adapter_hidden_size: 16
  max_text_tokens: 8
  max_steps: 2
  codebook_warmup_steps: 1
  save_strategy: "no"
  use_cpu: true
recommender:
  d_model: 8
  d_ff: 8
  d_kv: 4
  num_heads: 2
  num_layers: 1
  max_history: 5
  num_beams: 20
  num_train_epochs: 1
  max_steps: 2
  max_eval_users: 5
  use_cpu: true
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recipes")
    tiny, rng = folder / "tiny", np.random.default_rng(0)
    (tiny / "images").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tiny / "images" / "a.png")
    ids = [f"i{row}" for row in range(NUM_ITEMS)]
    items = [
        {"item_id": each, "title": f"{row} of {row % 7} and {row % 5}", "brand": f"b{row % 9}"}
        for row, each in enumerate(ids)
    ]
    items[0]["image"] = "images/a.png"
    users = [
        {"user_id": f"u{user}", "items": [ids[row] for row in rng.permutation(NUM_ITEMS)[:5]]} for user in range(20)
    ]
    for name, rows in (("items", items), ("sequences", users)):
        (tiny / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "small.yaml").write_text(SMALL)
    write_tiny_text_encoder([item["title"] for item in items], folder / "encoder", 0, hidden_size=16)
    return folder


@pytest.fixture(scope="module")
def recipes():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import recipes

        yield recipes
        for name in ("recipes", "sequential_rows"):
            sys.modules.pop(name)


@pytest.fixture
def quick(recipes, monkeypatch):
    """Item tokenizers of three steps."""
    for name in ("EmbeddingTokenizerTrainingArguments", "RecBaseTokenizerTrainingArguments"):
        kind, own = getattr(recipes, name), {"max_steps": 3, "use_cpu": True}
        own |= {"curriculum_epochs": 0} if name.startswith("RecBase") else {}
        monkeypatch.setattr(recipes, name, lambda kind=kind, own=own, **given: kind(**{**given, **own}))


def run(monkeypatch, workplace, results, *argv) -> list[dict]:
    words = ["--config", workplace / "small.yaml", "--domains", workplace / "tiny", "--results", results]
    words += ["--minutes", "0.01", "--max_history", "5", "--text_encoder", workplace / "encoder", *argv]
    monkeypatch.setattr(sys, "argv", ["quality.py", *map(str, words)])
    runpy.run_path(str(BENCHMARKS / "quality.py"), run_name="__main__")
    return [json.loads(line) for line in results.read_text().splitlines()]


def test_a_generative_row_with_memory(workplace, quick, monkeypatch, capsys):
    results = workplace / "memory.jsonl"
    flags = ("--work_dir", workplace / "memory", "--models", "rq-kmeans-item-level")
    lines = run(monkeypatch, workplace, results, *flags)
    assert [(line["model"], line["mask_seen"]) for line in lines] == [
        (f"rq-kmeans-item-level{end}", seen) for end in ("", " with memory and brands") for seen in (False, True)
    ]
    alone, memory = lines[0], lines[2]
    assert alone["memory"] is None and memory["variant"] == f"{alone['variant']}, with memory"
    said = memory["memory"]
    assert said["settings"].keys() >= {"temperature", "mixing_weight", "gate", "trend_weight", "content_weight"}
    assert len(said["selection"]) >= 21 and said["validation"].keys() == {"recall@10", "ndcg@10"}
    same = ("architecture", "losses", "training", "codebooks", "parameters", "command", "differs_from_published")
    assert all(alone[name] == memory[name] for name in same)
    assert memory["processor_seconds"] >= alone["processor_seconds"] > 0
    # from what was trained before, if a run ended between the two
    results.write_text("".join(json.dumps(line) + "\n" for line in lines[:2]))
    capsys.readouterr()
    again = run(monkeypatch, workplace, results, *flags)
    assert "done before" in capsys.readouterr().out
    timed = {"train_seconds", "processor_seconds"}
    for before, after in zip(lines, again, strict=True):
        assert {key: after[key] for key in after.keys() - timed} == {key: before[key] for key in before.keys() - timed}
    assert run(monkeypatch, workplace, results, *flags) == again
    without = run(monkeypatch, workplace, workplace / "none.jsonl", *flags, "--no_memory")
    assert [line["model"] for line in without] == ["rq-kmeans-item-level"] * 2
    results.write_text("".join(json.dumps(line) + "\n" for line in lines[:2]))
    flags = ("--work_dir", workplace / "elsewhere", *flags[2:])
    assert len(run(monkeypatch, workplace, results, *flags)) == 2
    assert "has lines without memory, but is not in" in capsys.readouterr().err


def test_a_row_that_was_pretrained_on_other_domains(workplace, quick, monkeypatch, capsys):
    for name in ("other", "third"):
        shutil.copytree(workplace / "tiny", workplace / name)
    flags = [
        "--model",
        "unisrec",
        "--data",
        workplace / "tiny",
        workplace / "other",
        "--output_dir",
        workplace / "pre",
    ]
    flags += ["--text_encoder", workplace / "encoder", "--sequential.max_history", "5", "--sequential.max_steps", "1"]
    flags += ["--sequential.per_device_train_batch_size", "8", "--sequential.use_cpu", "true"]
    pretrain_sequential.main(list(map(str, [*flags, "--sequential.save_strategy", "no"])))
    results, pretrained = workplace / "pretrained.jsonl", ("--pretrained", f"unisrec={workplace / 'pre'}")
    row = ("--models", "unisrec-transductive-pretrained", "--no_memory", "--bf16", "--seeds", "3")
    third = ("--work_dir", workplace / "third-work", "--domains", workplace / "third", *row)
    found = run(monkeypatch, workplace, results, *third, *pretrained)
    assert [line["model"] for line in found] == [row[1]] * 2
    assert found[0]["details"]["pretrained_on"] == ["tiny", "other"] and found[0]["details"]["bf16"] is True
    assert "pretrained_on_other_domains" not in found[0]["differs_from_published"]
    own = f"--models {row[1]} --seeds 3 --bf16 true --pretrained unisrec=pre"
    assert found[0]["command"].startswith(f"python examples/benchmarks/quality.py --domains third {own} --")
    # one that has seen the domain, none, and no such folder
    tiny = ("--work_dir", workplace / "tiny-work", *row)
    for given, reason in ((pretrained, "was pre-trained on tiny itself"), ((), "give --pretrained unisrec=FOLDER")):
        capsys.readouterr()
        assert run(monkeypatch, workplace, results, *tiny, *given) == found
        assert reason in capsys.readouterr().out
    for wrong in (f"unisrec={workplace / 'tiny'}", f"sasrec={workplace / 'pre'}", "pre"):
        with pytest.raises(SystemExit, match="give NAME=FOLDER"):
            run(monkeypatch, workplace, results, *tiny, "--pretrained", wrong)


# One of each way in which a row is made; the others differ in settings.
SOME = [
    "popularity",
    "linear",
    "unisrec",
    "s3-rec",
    "tiger",
    "rq-kmeans-item-level",
    "utgrec",
    "utgrec-item-level",
    "recbase",
]


@pytest.mark.parametrize("models", [SOME, pytest.param(["all"], marks=pytest.mark.slow)], ids=["some", "all"])
def test_every_model_has_a_line_that_says_what_it_is(workplace, recipes, quick, monkeypatch, capsys, models):
    results = workplace / f"quality-of-{len(models)}.jsonl"  # both may run, one after the other
    made = save_embeddings  # image embeddings are made by an encoder that the Hub has: these stand for them
    images = np.random.default_rng(1).normal(size=(NUM_ITEMS, 160)).astype(np.float32)

    class Images:
        @classmethod
        def from_pretrained(cls, name):
            return cls()

    def embed(catalogue, encoder, folder):
        if isinstance(encoder, Images):
            return made(folder, catalogue.item_ids, images, {"model": "images"})
        return real(catalogue, encoder, folder)

    from trainers.methods import baselines

    real = baselines.embed_items
    monkeypatch.setattr(baselines, "ImageEncoder", Images)
    monkeypatch.setattr(baselines, "embed_items", embed)
    flags = ("--work_dir", workplace / "work", "--image_encoder", "images", "--models", *models, "--no_memory")
    lines = run(monkeypatch, workplace, results, *flags)
    with_folder = recipes.PRETRAINED_ROW  # left out without --pretrained
    every = [each for each in recipes.RECIPES if not each.endswith(with_folder)] if models == ["all"] else models
    named = [line["model"].removesuffix(" and brands") for line in lines]
    assert named[::2] == every, capsys.readouterr().err[-3000:]
    for line, name in zip(lines, named, strict=True):
        if name in recipes.FLOORS:
            continue
        assert line["variant"] and line["architecture"]["parameters"] == line["parameters"] > 0
        assert line["training"] and line["losses"] and line["published_in"]
        assert all(each["here"] != each["published"] for each in line["differs_from_published"].values())
        if "codebooks" in line:
            shared = line["details"]["items_sharing_codes"]
            assert isinstance(shared, int) and 0 <= shared <= NUM_ITEMS
            assert shared == line["codebooks"]["items_sharing_codes"]
            assert line["details"]["items_sharing_codes"] == round(NUM_ITEMS * line["codebooks"]["collision_rate"])
    generative = {line["model"] for line in lines if "codebooks" in line}
    methods = {"tiger", "letter", "tiger-m", "rq-kmeans", "rq-kmeans-transitions"}
    at_item_level = {*(f"{name}-item-level" for name in (*methods, "utgrec")), "rq-kmeans-item-level-codes"}
    published = {"tiger-published-t5", "letter-published-t5"}
    known = methods | at_item_level | published | {"tiger-decoder", "utgrec", "recbase"}
    assert generative == known & {*every}
    assert all("item level 64 wide" in line["variant"] for line in lines if line["model"] in at_item_level)
    by_model = {line["model"]: line["differs_from_published"] for line in lines[::2] if line["parameters"]}
    assert by_model["utgrec"]["tokenizer.codebook_dim"] == {"here": 8, "published": 128}
    assert by_model["tiger"]["recommender.d_model"] == {"here": 8, "published": 128}
    published_t5 = by_model.get("tiger-published-t5", {})
    assert not any(name.startswith("recommender.") for name in published_t5.keys() - {
        "recommender.max_history"
    })  # fmt: skip
    assert by_model["tiger"]["tokenizer.num_train_epochs"]["here"] == "3 steps"
