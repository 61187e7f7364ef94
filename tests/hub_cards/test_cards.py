"""Cards: what goes in comes out, readable by the Hub's client; what does not go in is nowhere."""

import ast
import dataclasses
import json
import re
import sys
from enum import Enum
from unittest.mock import MagicMock

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard

from hub_cards import (
    CardError,
    DatasetCardValues,
    Evaluation,
    ModelCardValues,
    RecommenderCardValues,
    SequentialCardValues,
    TokenizerCardValues,
    load_values,
    render_card,
    save_card,
    values_text,
)
from hub_cards.formatting import format_cell, format_duration, markdown_list, markdown_table, metric_name, plain

MODELS = [TokenizerCardValues, RecommenderCardValues, SequentialCardValues, ModelCardValues]
RESULT = {
    "name": "UTGRec",
    "recall@10": 0.0412,
    "ndcg@10": 0.0213,
    "num_users": 24773,
    "split": "leave-one-out",
    "part": "test",
    "seen": "kept",
    "max_history": 20,
    "num_short": 0,
    "coverage@10": 0.625,
    "long_tail": [{"popularity": "[0,20)", "recall@10": 0.011}, {"popularity": "[20,40)", "recall@10": 0.022}],
    "cold_targets": [{"training_interactions": "[0,1)", "num_users": 0}, {"training_interactions": "[1,∞)"}],
    "intervals": {"recall@10": (0.0391, 0.0437)},
    "seeds": [{"recall@10": 0.5}],
}


def full_values(cls):
    memory = {
        "memory": {"Temperature": 0.03},
        "memory_selection": [{"Temperature": 0.03, "Mixing weight": 0.7, "NDCG@10": 0.0808}],
    }
    return cls(
        name="UTGRec instruments",
        repo_id="some-org/utgrec-instruments",
        license="cc-by-4.0",
        language="en",
        method="utgrec",
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
        codebooks=[{"level": 0, "size": 256, "share_used": 0.984, "perplexity": 187.25}],
        logs=[{"step": 20, "epoch": 0.5, "loss": 7.25, "loss/text": 3.5}, {"step": 20, "eval_ndcg@10": 0.0209}],
        tags=["amazon"],
        collisions={"items_sharing_codes": 312, "items_moved": 156},
        health=[{"Catalogue": "Instruments", "GAUC of the codes": 0.7125}],
        attribute_information=[{"Catalogue": "Instruments", "Attribute": "brand", "Level 0": 0.125}],
        training_data=[{"domain": "Instruments", "users": 57439}],
        hyperparameters={"learning_rate": 5e-4, "num_train_epochs": 200},
        versions={"torch": "2.13.0", "transformers": "5.23.0"},
        hardware="1 accelerator with 80 GB",
        training_seconds=5025.0,
        **(memory if cls is RecommenderCardValues else {}),
    )


def test_health_by_catalogue_is_in_the_card():
    card = render_card(full_values(TokenizerCardValues))
    assert "### By catalogue" in card and "| Instruments | 0.7125 |" in card
    assert "### What the codes tell" in card and "| Instruments | brand | 0.1250 |" in card
    assert "By catalogue" not in render_card(TokenizerCardValues(name="x", collisions={"items": 1}))


def test_a_recommenders_memory_is_in_its_card_and_its_snippet():
    card = render_card(full_values(RecommenderCardValues))
    assert "## Memory" in card and "Temperature: 0.03" in card and "| 0.0300 | 0.7000 | 0.0808 |" in card
    assert "memory=tokenizer.memory" in snippet(card)
    assert "memory=" not in snippet(render_card(RecommenderCardValues(name="x")))


class Color(str, Enum):  # noqa: UP042 (transformers' enumerations are made this way)
    RED = "red"


def snippet(card):
    return re.search(r"```python\n(.*?)```", card, flags=re.DOTALL).group(1)


@pytest.mark.parametrize("cls", MODELS)
def test_metadata_are_what_was_given(cls):
    data = ModelCard(render_card(full_values(cls))).data
    assert data.library_name == "transformers"
    generative = [] if cls is SequentialCardValues else ["generative-recommendation"]
    assert data.tags == ["utgrec", *generative, "sequential-recommendation", "amazon"]
    assert (data.license, data.language) == ("cc-by-4.0", "en")
    assert data.base_model == "Qwen/Qwen2-VL-2B-Instruct"
    assert data.datasets == ["some-org/amazon-2023"]
    assert data.model_name == "UTGRec instruments"
    assert data.pipeline_tag is None


@pytest.mark.parametrize("cls", MODELS)
def test_every_given_value_is_in_the_text(cls):
    text = ModelCard(render_card(full_values(cls))).text
    shown = """
        UTGRec instruments|some-org/utgrec-instruments|Adapted from five domains.|256 × 512 × 512|24587|4600321|0f3a9b
        aca78372505e6cb469c4fa6a35c60265b00ff5a4|Musical Instruments|0.0412|0.0213|24773|leave-one-out|seen: kept
        max history: 20|Popularity|0.0101|[0,20)|0.0110|0.9840|187.2|items_sharing_codes: 312|items_moved: 156|57439
        [0.0391, 0.0437]|7.25|3.5|0.0209|By popularity|0.6250|Coverage
        learning_rate: 0.0005|num_train_epochs: 200|torch: 2.13.0|transformers: 5.23.0|1 accelerator with 80 GB
        1 h 23 min 45 s|2504.04405
    """
    missing = [value for value in re.split(r"[|\n]", shown) if value.strip() not in text]
    assert missing == []


def test_data_sets_of_any_script_have_a_name_of_their_own():
    evaluations = [Evaluation(dataset=name, metrics={"recall@10": 0.1}) for name in ("美妆", "办公 用品", "Übung_2")]
    data = ModelCard(render_card(RecommenderCardValues(name="m", evaluations=evaluations))).data
    assert [(each.dataset_type, each.dataset_name) for each in data.eval_results] == [
        ("美妆", "美妆"),
        ("办公-用品", "办公 用品"),
        ("übung-2", "Übung_2"),
    ]


def test_eval_results_round_trip_with_their_protocol():
    evaluation = Evaluation.from_result("Musical Instruments", RESULT, dataset_id="some-org/amazon-2023")
    assert evaluation.metrics == {"recall@10": 0.0412, "ndcg@10": 0.0213, "coverage@10": 0.625}
    results = ModelCard(render_card(RecommenderCardValues(name="m", evaluations=[evaluation]))).data.eval_results
    assert [(r.metric_type, r.metric_name, r.metric_value) for r in results] == [
        ("recall@10", "Recall@10", 0.0412),
        ("ndcg@10", "NDCG@10", 0.0213),
    ]
    spread = [{"interval": [0.0391, 0.0437], "confidence": 0.95}, {}]
    for result, own in zip(results, spread, strict=True):
        assert (result.dataset_type, result.dataset_name) == ("some-org/amazon-2023", "Musical Instruments")
        assert (result.task_type, result.dataset_split) == ("sequential-recommendation", "test")
        assert result.metric_args == {
            "split": "leave-one-out",
            "part": "test",
            "seen": "kept",
            "max_history": 20,
            "num_users": 24773,
            **own,
        }


def test_two_protocols_on_one_data_set_stay_apart():
    evaluations = [
        Evaluation(dataset="Games", metrics={"recall@10": value}, protocol={"part": "test", "seen": seen})
        for seen, value in (("kept", 0.04), ("masked", 0.05))
    ]
    card = render_card(RecommenderCardValues(name="m", evaluations=evaluations))
    results = ModelCard(card).data.eval_results
    assert {r.metric_args["seen"]: r.metric_value for r in results} == {"kept": 0.04, "masked": 0.05}
    assert card.index("0.0400") < card.index("seen: kept.\n") < card.index("0.0500") < card.index("seen: masked.\n")


def test_domains_of_one_hub_data_set_need_a_configuration():
    def values(*configs):
        evaluations = [
            Evaluation(dataset=name, metrics={"recall@10": 0.1}, dataset_id="org/amazon", dataset_config=config)
            for name, config in zip(("Games", "Beauty"), configs, strict=True)
        ]
        return RecommenderCardValues(name="m", evaluations=evaluations)

    with pytest.raises(ValueError, match="'Games' and 'Beauty'.*dataset_config"):
        render_card(values(None, None))
    results = ModelCard(render_card(values("games", "beauty"))).data.eval_results
    assert [r.dataset_name for r in results] == ["Games", "Beauty"]


@pytest.mark.parametrize("cls", MODELS)
def test_nothing_is_said_of_absent_values(cls):
    card = render_card(cls(name="bare"))
    header = yaml.safe_load(card.split("---\n")[1])
    assert header.keys() == {"library_name", "tags"}
    body = re.sub("<!--.*?-->", "", card.split("---\n", 2)[2])
    assert re.findall(r"^#+ .*", re.sub(r"```.*?```", "", body, flags=re.DOTALL), flags=re.MULTILINE) == [
        "# bare",
        "## Usage",
    ]
    prose = re.sub(r"```.*?```", "", body, flags=re.DOTALL)
    assert not re.search(r"\d|None|nan|\|", prose)


@pytest.mark.parametrize("cls", MODELS)
def test_each_value_can_be_absent(cls):
    given, absent = full_values(cls), cls(name="x")
    whole = render_card(given)
    for field in {field.name for field in dataclasses.fields(cls)} - {"name", "auto_class", "citation"}:
        card = render_card(dataclasses.replace(given, **{field: getattr(absent, field)}))
        assert card != whole, f"{field} is never shown"
        assert "None" not in card and "\n\n\n" not in card, field


def test_unmeasured_numbers_are_left_out():
    values = RecommenderCardValues(
        name="m",
        evaluations=[
            Evaluation(
                dataset="Games",
                metrics={"recall@10": float("nan"), "ndcg@10": 0.02},
                deviations={"ndcg@10": None},
                slices={
                    "long_tail": [{"popularity": "[0,20)", "recall@10": None}, {"popularity": "x", "recall@10": 0.5}]
                },
            )
        ],
        codebooks=[{"level": 0, "perplexity": float("nan")}],
        training_seconds=float("nan"),
    )
    card = render_card(values)
    assert [r.metric_type for r in ModelCard(card).data.eval_results] == ["ndcg@10"]
    assert "nan" not in card and "perplexity" not in card and "Time:" not in card
    assert "| [0,20) | – |" in card and "| x | 0.5000 |" in card


def test_numbers_of_numpy_become_plain_yaml():
    evaluation = Evaluation.from_result("Games", {"recall@10": np.float64(0.25), "num_users": np.int64(7)})
    card = render_card(RecommenderCardValues(name="m", evaluations=[evaluation]))
    metric = yaml.safe_load(card.split("---\n")[1])["model-index"][0]["results"][0]["metrics"][0]
    assert metric["value"] == 0.25 and metric["args"] == {"num_users": 7}


@pytest.mark.parametrize("cls", [*MODELS, DatasetCardValues])
def test_the_usage_snippet_runs_as_it_stands(cls, monkeypatch):
    known = "modeling_utgrec tokenization_items tokenization_items.catalogue transformers huggingface_hub trainers"
    for name in [*known.split(), "trainers.rankers.sequential", "trainers.data.interactions"]:
        monkeypatch.setitem(sys.modules, name, MagicMock())
    sys.modules["huggingface_hub"].snapshot_download.return_value = "folder"
    values = DatasetCardValues(name="d", repo_id="o/d") if cls is DatasetCardValues else full_values(cls)
    code = snippet(render_card(values))
    exec(compile(ast.parse(code), "card", "exec"), {})  # a name that the snippet does not define would raise
    assert json.dumps(values.repo_id) in code


def test_a_recommender_of_several_catalogues_asks_for_yours():
    card = render_card(RecommenderCardValues(name="m", repo_id="o/m"))
    assert 'UniversalItemTokenizer.from_pretrained("your-items")' in card and "`utgrec finetune`" in card
    assert "your-items" not in render_card(RecommenderCardValues(name="m", num_items=3))


def test_auto_class_is_used():
    code = snippet(render_card(RecommenderCardValues(name="m", auto_class="AutoModelForCausalLM")))
    assert "from transformers import AutoModelForCausalLM\n" in code and "Seq2Seq" not in code
    assert 'AutoModelForCausalLM.from_pretrained(".")' in code


@pytest.mark.parametrize("cls", MODELS)
def test_every_number_of_a_card_is_in_the_file_beside_it(cls, tmp_path):
    """Numbers of the tables and lists are those of card_values.json, rounded as cells are."""
    path = save_card(tmp_path, full_values(cls))
    assert untraceable(path.read_text(), json.loads((tmp_path / "card_values.json").read_text())) == set()
    text = path.read_text().replace("0.0412", "0.0413").replace("57439", "57440")
    assert untraceable(text, json.loads((tmp_path / "card_values.json").read_text())) == {"0.0413", "57440"}


def untraceable(card, values):
    """Numbers that a card shows (outside of code, comments and units of time) and the values do not hold."""
    card = re.sub(r"```.*?```|<!--.*?-->|^Time: [^\n]*$|!\[.*?\]\(.*?\)", "", card, flags=re.DOTALL | re.MULTILINE)
    number = r"(?<![\w.@])-?\d+(?:\.\d+)*(?:e-?\d+)?(?![\w.])"
    held = set()

    def collect(value):
        if isinstance(value, dict):
            for key, entry in value.items():
                held.update(re.findall(number, key))
                collect(entry)
        elif isinstance(value, list):
            for entry in value:
                collect(entry)
        elif isinstance(value, str):
            held.update(re.findall(number, value))
        elif value is not None:
            held.update({str(value), format_cell(float(value)), format_cell(value)})

    collect(values)
    return set(re.findall(number, card)) - held - {"95", "0.95"}  # of the intervals


def test_values_come_back_as_they_were_saved(tmp_path):
    values = full_values(RecommenderCardValues)
    save_card(tmp_path, values)
    loaded = load_values(tmp_path)
    assert isinstance(loaded, RecommenderCardValues)
    assert values_text(loaded) == values_text(values) and render_card(loaded) == render_card(values)
    assert load_values(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    "text",
    ["", "[]", "3", "{}", '{"card": "cake"}', '{"card": "network", "nme": 1}', '{"card": "network"}', "[" * 9999]
    + ['{"card": "network", "name": "n", "evaluations": [{"x": 1}]}', '{"card": ["network"], "name": "n"}'],
)
def test_a_file_of_values_that_is_none_is_an_error_of_ours(tmp_path, text):
    (tmp_path / "card_values.json").write_text(text)
    with pytest.raises(CardError, match="does not hold the values of a card"):
        load_values(tmp_path)


def test_the_card_of_a_data_set():
    values = DatasetCardValues(
        name="Office",
        repo_id="o/office",
        license="cc0-1.0",
        domains=[{"Domain": "office", "folder": "office", "Items": 1000}],
        configs=[{"config_name": "office-items", "data_files": "office/items.parquet"}],
        columns=[{"Table": "items", "Column": "item_id", "Meaning": "identifier"}],
        preparation=[{"Setting": "k core", "Value": 5}],
        sources=[{"File": "raw.json.gz", "Bytes": 12345, "SHA-256": "ab"}],
        dropped=[{"Of": "items", "Reason": "no text", "Count": 77}],
        num_rows=19_377,
    )
    card = render_card(values)
    header = yaml.safe_load(card.split("---\n")[1])
    assert (header["pretty_name"], header["license"], header["size_categories"]) == (
        "Office",
        "cc0-1.0",
        ["10K<n<100K"],
    )
    assert header["configs"] == [{"config_name": "office-items", "data_files": "office/items.parquet"}]
    for shown in ("1000", "identifier", "| k core | 5 |", "raw.json.gz", "12345", "| no text | 77 |"):
        assert shown in card
    assert 'snapshot_download("o/office", repo_type="dataset") + "/office"' in card


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
    ("key", "name"),
    [
        ("ndcg@10", "NDCG@10"),
        ("mrr@5", "MRR@5"),
        ("map@5", "MAP@5"),
        ("recall@10", "Recall@10"),
        ("gini@10", "Gini@10"),
        ("identifier_recall@5", "Identifier recall@5"),
        ("long_tail_ndcg@10", "Long tail NDCG@10"),
        ("", ""),
    ],
)
def test_names_of_metrics(key, name):
    assert metric_name(key) == name


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (59.96, "1 min"), (3600, "1 h"), (3661.4, "1 h 1 min 1 s"), (90000, "25 h")],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


def test_html_of_names_is_shown_as_text():
    """Names come with other people's data; `<` that begins no tag stays, as in formulas."""
    tag = "<img src=x onerror=alert(1)>"
    values = RecommenderCardValues(
        name=f"Toys {tag}",
        training_data=[{"Domain": tag, "<b>Items": 3}],
        evaluations=[Evaluation(dataset=tag, metrics={"recall@10": 0.5})],
        hyperparameters={"<script>": "</script><!-- a < b <3 -->"},
    )
    body = render_card(values).split("\n---\n", 1)[1]
    for raw in ("<img", "<b>", "<script", "</script", "<!-- a"):
        assert raw not in body
    assert "&lt;img src=x" in body and "a < b <3" in body


@pytest.mark.parametrize("cls", [*MODELS, DatasetCardValues])
def test_values_of_odd_types_in_a_file_are_an_error_of_ours(cls, tmp_path):
    """Each field with each of these: a card, or an error that names the field."""
    odd = [None, True, 3, -1.5, "x", [], ["a"], {}, {"a": 1}, [[1]], {"a": {"b": []}}, 10**400, [None]]
    saved, refused = json.loads(values_text(cls(name="n"))), 0
    for key in saved.keys() - {"card"}:
        for value in odd:
            (tmp_path / "card_values.json").write_text(json.dumps({**saved, key: value}))
            try:
                render_card(load_values(tmp_path))
            except CardError as error:
                refused += key in str(error)
            except ValueError:
                pass
    assert refused > len(saved)
    (tmp_path / "card_values.json").write_text(json.dumps({**saved, "name": ["n"]}))
    with pytest.raises(CardError, match="card_values.json: name must be of type str, found"):
        load_values(tmp_path)


def test_numbers_that_were_not_measured_are_read_again(tmp_path):
    evaluation = Evaluation(dataset="d", metrics={"recall@10": 0.5, "ndcg@10": float("nan")})
    save_card(tmp_path, RecommenderCardValues(name="n", evaluations=[evaluation], training_seconds=3), draw=False)
    found = load_values(tmp_path)
    assert found.evaluations[0].metrics == {"recall@10": 0.5, "ndcg@10": None} and found.training_seconds == 3
