"""Cards: what goes in comes out, readable by the Hub's client; what does not go in is nowhere."""

import ast
import dataclasses
import re
import sys
from enum import Enum
from unittest.mock import MagicMock

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard

from hub_cards import (
    Evaluation,
    RecommenderCardValues,
    TokenizerCardValues,
    render_recommender_card,
    render_tokenizer_card,
    write_card,
)
from hub_cards.formatting import format_duration, markdown_list, markdown_table, plain

RENDERERS = [(TokenizerCardValues, render_tokenizer_card), (RecommenderCardValues, render_recommender_card)]
RESULT = {
    "name": "UTGRec",
    "recall@10": 0.0412,
    "ndcg@10": 0.0213,
    "num_users": 24773,
    "split": "leave-one-out",
    "part": "test",
    "seen": "kept",
    "max_history": 20,
    "long_tail": [{"popularity": "[0,20)", "recall@10": 0.011}],
}


def full_values(cls):
    return cls(
        model_name="UTGRec instruments",
        repo_id="some-org/utgrec-instruments",
        license="cc-by-4.0",
        language="en",
        base_model="Qwen/Qwen2-VL-2B-Instruct",
        base_model_revision="aca78372505e6cb469c4fa6a35c60265b00ff5a4",
        datasets=["some-org/amazon-2023"],
        description="Adapted from five domains.",
        level_sizes=[256, 512, 512],
        num_items=24587,
        num_parameters=4600321,
        fingerprint="0f3a9b",
        evaluations=[Evaluation.from_result("Musical Instruments", RESULT)],
        comparison=[{"model": "Popularity", "recall@10": 0.0101}],
        long_tail=RESULT["long_tail"],
        codebooks=[{"level": 0, "size": 256, "share_used": 0.984, "perplexity": 187.25}],
        collisions={"collisions_before": 312, "items_moved": 156},
        training_data=[{"domain": "Instruments", "users": 57439}],
        hyperparameters={"learning_rate": 5e-4, "num_train_epochs": 200},
        versions={"torch": "2.13.0", "transformers": "5.23.0"},
        hardware="1 accelerator with 80 GB",
        training_seconds=5025.0,
    )


class Color(str, Enum):  # noqa: UP042 (transformers' enumerations are made this way)
    RED = "red"


def snippet(card):
    return re.search(r"```python\n(.*?)```", card, flags=re.DOTALL).group(1)


@pytest.mark.parametrize(("cls", "render"), RENDERERS)
def test_metadata_are_what_was_given(cls, render):
    data = ModelCard(render(full_values(cls))).data
    assert data.library_name == "transformers"
    assert data.tags == ["utgrec", "generative-recommendation"]
    assert (data.license, data.language) == ("cc-by-4.0", "en")
    assert data.base_model == "Qwen/Qwen2-VL-2B-Instruct"
    assert data.datasets == ["some-org/amazon-2023"]
    assert data.model_name == "UTGRec instruments"
    assert data.pipeline_tag is None


@pytest.mark.parametrize(("cls", "render"), RENDERERS)
def test_every_given_value_is_in_the_text(cls, render):
    text = ModelCard(render(full_values(cls))).text
    shown = """
        UTGRec instruments|some-org/utgrec-instruments|Adapted from five domains.|256 × 512 × 512|24587|4600321|0f3a9b
        aca78372505e6cb469c4fa6a35c60265b00ff5a4|Musical Instruments|0.0412|0.0213|24773|leave-one-out|seen: kept
        max_history: 20|Popularity|0.0101|[0,20)|0.0110|0.9840|187.2|collisions_before: 312|items_moved: 156|57439
        learning_rate: 0.0005|num_train_epochs: 200|torch: 2.13.0|transformers: 5.23.0|1 accelerator with 80 GB
        1 h 23 min 45 s|2504.04405
    """
    missing = [value for value in re.split(r"[|\n]", shown) if value.strip() not in text]
    assert missing == []


def test_eval_results_round_trip_with_their_protocol():
    evaluation = Evaluation.from_result("Musical Instruments", RESULT, dataset_id="some-org/amazon-2023")
    assert evaluation.metrics == {"recall@10": 0.0412, "ndcg@10": 0.0213}
    results = ModelCard(
        render_recommender_card(RecommenderCardValues(model_name="m", evaluations=[evaluation]))
    ).data.eval_results
    assert [(r.metric_type, r.metric_name, r.metric_value) for r in results] == [
        ("recall@10", "Recall@10", 0.0412),
        ("ndcg@10", "NDCG@10", 0.0213),
    ]
    for result in results:
        assert (result.dataset_type, result.dataset_name) == ("some-org/amazon-2023", "Musical Instruments")
        assert (result.task_type, result.dataset_split) == ("sequential-recommendation", "test")
        assert result.metric_args == {
            "split": "leave-one-out",
            "part": "test",
            "seen": "kept",
            "max_history": 20,
            "num_users": 24773,
        }


def test_two_protocols_on_one_data_set_stay_apart():
    evaluations = [
        Evaluation(dataset="Games", metrics={"recall@10": value}, protocol={"part": "test", "seen": seen})
        for seen, value in (("kept", 0.04), ("masked", 0.05))
    ]
    card = render_recommender_card(RecommenderCardValues(model_name="m", evaluations=evaluations))
    results = ModelCard(card).data.eval_results
    assert {r.metric_args["seen"]: r.metric_value for r in results} == {"kept": 0.04, "masked": 0.05}
    assert card.index("seen: kept\n\n") < card.index("0.0400") < card.index("seen: masked\n\n") < card.index("0.0500")


def test_domains_of_one_hub_data_set_need_a_configuration():
    def values(*configs):
        evaluations = [
            Evaluation(dataset=name, metrics={"recall@10": 0.1}, dataset_id="org/amazon", dataset_config=config)
            for name, config in zip(("Games", "Beauty"), configs, strict=True)
        ]
        return RecommenderCardValues(model_name="m", evaluations=evaluations)

    with pytest.raises(ValueError, match="'Games' and 'Beauty'.*dataset_config"):
        render_recommender_card(values(None, None))
    results = ModelCard(render_recommender_card(values("games", "beauty"))).data.eval_results
    assert [r.dataset_name for r in results] == ["Games", "Beauty"]


@pytest.mark.parametrize(("cls", "render"), RENDERERS)
def test_nothing_is_said_of_absent_values(cls, render):
    card = render(cls(model_name="bare", citation=None))
    header = yaml.safe_load(card.split("---\n")[1])
    assert header == {"library_name": "transformers", "tags": ["utgrec", "generative-recommendation"]}
    body = card.split("---\n", 2)[2]
    assert re.findall(r"^#+ .*", re.sub(r"```.*?```", "", body, flags=re.DOTALL), flags=re.MULTILINE) == [
        "# bare",
        "## Usage",
    ]
    prose = re.sub(r"```.*?```", "", body, flags=re.DOTALL)
    assert not re.search(r"\d|None|nan|\|", prose)


@pytest.mark.parametrize(("cls", "render"), RENDERERS)
@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(TokenizerCardValues) if f.name != "model_name"])
def test_each_value_can_be_absent(cls, render, field):
    given, absent = full_values(cls), getattr(cls(model_name="x", citation=None), field)
    card = render(dataclasses.replace(given, **{field: absent}))
    assert card != render(given), f"{field} is never shown"
    assert "None" not in card and "\n\n\n" not in card


def test_unmeasured_numbers_are_left_out():
    values = RecommenderCardValues(
        model_name="m",
        evaluations=[Evaluation(dataset="Games", metrics={"recall@10": float("nan"), "ndcg@10": 0.02})],
        codebooks=[{"level": 0, "perplexity": float("nan")}],
        long_tail=[{"popularity": "[0,20)", "recall@10": None}, {"popularity": "[20,∞)", "recall@10": 0.5}],
        training_seconds=float("nan"),
    )
    card = render_recommender_card(values)
    assert [r.metric_type for r in ModelCard(card).data.eval_results] == ["ndcg@10"]
    assert "nan" not in card and "perplexity" not in card and "Time:" not in card
    assert "| [0,20) | – |" in card and "| [20,∞) | 0.5000 |" in card


def test_numbers_of_numpy_become_plain_yaml():
    evaluation = Evaluation.from_result("Games", {"recall@10": np.float64(0.25), "num_users": np.int64(7)})
    card = render_recommender_card(RecommenderCardValues(model_name="m", evaluations=[evaluation]))
    metric = yaml.safe_load(card.split("---\n")[1])["model-index"][0]["results"][0]["metrics"][0]
    assert metric["value"] == 0.25 and metric["args"] == {"num_users": 7}


@pytest.mark.parametrize(("cls", "render"), RENDERERS)
def test_the_usage_snippet_runs_as_it_stands(cls, render, monkeypatch):
    for name in ("modeling_utgrec", "tokenization_items", "transformers"):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    code = snippet(render(full_values(cls)))
    exec(compile(ast.parse(code), "card", "exec"), {})  # a name that the snippet does not define would raise
    loaded = sys.modules["tokenization_items"].UniversalItemTokenizer.from_pretrained
    loaded.assert_called_once_with("some-org/utgrec-instruments")


def test_auto_class_is_used():
    code = snippet(render_recommender_card(RecommenderCardValues(model_name="m", auto_class="AutoModelForCausalLM")))
    assert "from transformers import AutoModelForCausalLM\n" in code and "Seq2Seq" not in code
    assert 'AutoModelForCausalLM.from_pretrained(".")' in code


def test_write_card_replaces_the_file_and_leaves_nothing_else(tmp_path):
    folder = tmp_path / "model"
    assert write_card(folder, "old") == folder / "README.md"
    write_card(folder, "new – card")
    assert [p.name for p in folder.iterdir()] == ["README.md"]
    assert (folder / "README.md").read_text(encoding="utf-8") == "new – card"


def test_write_card_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch):
    write_card(tmp_path, "old")

    def fail(*_):
        raise OSError("disk")

    monkeypatch.setattr("hub_cards.cards.os.replace", fail)
    with pytest.raises(OSError, match="disk"):
        write_card(tmp_path, "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("README.md", "old")]


def test_table_columns_and_cells():
    rows = [{"a|b": "x|y\nz", "n": 1}, {"n": 2.5, "late": 12345.6, "empty": None}]
    assert markdown_table(rows).splitlines() == [
        "| a\\|b | n | late |",
        "| --- | ---: | ---: |",
        "| x\\|y z | 1 | – |",
        "| – | 2.5 | 12346 |",
    ]
    assert markdown_table([]) == markdown_table([{"a": None}]) == ""


def test_list_and_plain_values():
    assert markdown_list({"lr": 5e-5, "none": None, "on": True}) == "- lr: 5e-05\n- on: True"
    assert plain({"a": np.array([1, 2]), "b": (np.float32(0.5), float("inf"))}) == {"a": [1, 2], "b": [0.5, None]}
    assert type(plain(np.float64(0.5))) is float and type(plain(np.str_("x"))) is str
    assert plain(Color.RED) == "red"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (59.96, "1 min"), (3600, "1 h"), (3661.4, "1 h 1 min 1 s"), (90000, "25 h")],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text
