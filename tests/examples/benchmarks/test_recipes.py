"""Every model of the quality table in small: a line that says what it is, and how many items shared their codes."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tokenization_items.item_embeddings import save_embeddings
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
    items = [{"item_id": each, "title": f"{row} of {row % 7} and {row % 5}"} for row, each in enumerate(ids)]
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
        sys.modules.pop("recipes")


def test_every_model_has_a_line_that_says_what_it_is(workplace, recipes, monkeypatch, capsys):
    results = workplace / "quality.jsonl"
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

    from trainers.methods import baselines, semantic_ids

    real = baselines.embed_items
    monkeypatch.setattr(baselines, "ImageEncoder", Images)
    monkeypatch.setattr(baselines, "embed_items", embed)
    steps = semantic_ids.EmbeddingTokenizerTrainingArguments.__dataclass_fields__["max_steps"]
    assert steps.default == 1000
    quick = {"max_steps": 3, "use_cpu": True}
    for module, name in (
        (recipes, "EmbeddingTokenizerTrainingArguments"),
        (recipes, "RecBaseTokenizerTrainingArguments"),
    ):
        kind = getattr(module, name)
        monkeypatch.setattr(module, name, lambda kind=kind, **given: kind(**{**given, **quick}))
    argv = ["--config", workplace / "small.yaml", "--domains", workplace / "tiny", "--results", results]
    argv += ["--work_dir", workplace / "work", "--minutes", "0.01", "--text_encoder", workplace / "encoder"]
    argv += ["--image_encoder", "images", "--models", "all"]
    monkeypatch.setattr(sys, "argv", ["quality.py", *map(str, argv)])
    runpy.run_path(str(BENCHMARKS / "quality.py"), run_name="__main__")
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert [line["model"] for line in lines[::2]] == list(recipes.RECIPES), capsys.readouterr().err[-3000:]
    for line in lines:
        if line["model"] in recipes.FLOORS:
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
    at_item_level = {f"{name}-item-level" for name in methods}
    assert generative == methods | at_item_level | {"tiger-decoder", "utgrec", "recbase"}
    assert all("item level 128 wide" in line["variant"] for line in lines if line["model"] in at_item_level)
    by_model = {line["model"]: line["differs_from_published"] for line in lines[::2] if line["parameters"]}
    assert by_model["utgrec"]["tokenizer.codebook_dim"] == {"here": 8, "published": 128}
    assert by_model["tiger"]["recommender.d_model"] == {"here": 8, "published": 128}
    assert by_model["tiger"]["tokenizer.num_train_epochs"]["here"] == "3 steps"
