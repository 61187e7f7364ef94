"""Metadata that the Hub would not take: refused before it is asked."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hub_cards import CardError, Evaluation, RecommenderCardValues, check_card, is_repository, render_card
from hub_cards.edits import split_metadata
from hub_cards.schema import LICENSES, size_category

RESULT = {
    "task": {"type": "t"},
    "dataset": {"type": "d", "name": "D"},
    "metrics": [{"type": "recall@10", "value": 0.5}],
}


def card(**metadata):
    return f"---\n{yaml.safe_dump(metadata)}---\n\nText\n"


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {
            "license": "apache-2.0",
            "language": ["en", "zh-TW", "code"],
            "tags": ["a"],
            "datasets": ["org/d", "old-name"],
        },
        {"license": "other", "license_name": "ours", "license_link": "LICENSE", "base_model": ["org/a", "org/b"]},
        {"model-index": [{"name": "m", "results": [RESULT]}]},
        {"anything": {"else": 1}},
    ],
)
def test_what_the_hub_takes(metadata):
    check_card(card(**metadata))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"license": "apache"}, "license 'apache' is no identifier"),
        ({"license": "other"}, "needs license_name"),
        ({"license": 2.0}, "license 2.0"),
        ({"language": "English"}, "language 'English'"),
        ({"language": False}, "language False"),  # `no` without quotes
        ({"tags": "a"}, "tags must be a list"),
        ({"tags": ["a", 3]}, "tags must be a list"),
        ({"base_model": "/home/me/model"}, "base_model '/home/me/model' is no name"),
        ({"base_model": 3}, "base_model must be a name"),
        ({"datasets": ["a/b/c"]}, "datasets 'a/b/c'"),
        ({"pipeline_tag": ["x"]}, "pipeline_tag must be a text"),
        ({"model-index": {"name": "m"}}, "model-index must be a list"),
        ({"model-index": [{"name": "m", "results": []}]}, "has no results"),
        ({"model-index": [{"results": [RESULT]}]}, "has no name"),
        ({"model-index": [{"name": "m", "results": [RESULT | {"task": {}}]}]}, "task of a result needs type"),
        ({"model-index": [{"name": "m", "results": [RESULT | {"dataset": {"type": "d"}}]}]}, "needs type and name"),
        ({"model-index": [{"name": "m", "results": [RESULT | {"metrics": [{"type": "x"}]}]}]}, "x needs a value"),
    ],
)
def test_what_it_does_not_take(metadata, message):
    with pytest.raises(CardError, match=message):
        check_card(card(**metadata))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"configs": [{"data_files": "a"}]}, "has no config_name"),
        ({"configs": [{"config_name": "a"}]}, "a has no data_files"),
        ({"configs": [{"config_name": "a", "data_files": "../b"}]}, "leave the repository"),
        ({"configs": [{"config_name": "a", "data_files": file} for file in "bc"]}, "two have one config_name"),
        ({"size_categories": ["small"]}, "size_categories 'small'"),
    ],
)
def test_what_it_does_not_take_of_data_sets(metadata, message):
    with pytest.raises(CardError, match=message):
        check_card(card(**metadata), "dataset")


def test_a_card_without_text():
    with pytest.raises(CardError, match="no text"):
        check_card("---\nlicense: mit\n---\n")


def test_values_that_the_hub_would_not_take_are_refused_when_rendering():
    with pytest.raises(CardError, match="license 'my own'"):
        render_card(RecommenderCardValues(name="m", license="my own"))
    with pytest.raises(CardError, match="base_model"):
        render_card(RecommenderCardValues(name="m", base_model="/models/qwen"))


def test_repositories():
    assert all(map(is_repository, ("org/name", "gpt2", "a.b/c_d-e")))
    assert not any(map(is_repository, ("", "a/b/c", "a b", "-a", "a..b", "a--b", "x.git", "/a", "a/", "a\n")))


@pytest.mark.parametrize(("rows", "name"), [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**13, "n>1T")])
def test_size_categories(rows, name):
    assert size_category(rows) == name


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    "license language tags datasets base_model model-index configs size_categories pipeline_tag".split()
)


NAME = st.from_regex(r"[a-z][a-z0-9]{0,8}(/[a-z0-9]{1,8})?", fullmatch=True)
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)


def one_or_more(values):
    return values | st.lists(values, max_size=3)


MODEL_RESULT = st.builds(
    lambda name, metric, value: {
        "task": {"type": "t"},
        "dataset": {"type": "d", "name": name},
        "metrics": [{"type": metric, "value": value}],
    },
    TEXT,
    TEXT,
    st.integers() | st.floats(allow_nan=False) | TEXT,
)
CONFIG = st.builds(lambda name, files: {"config_name": name, "data_files": files}, NAME, st.just("items.parquet"))
VALID = {
    "license": one_or_more(st.sampled_from(sorted(LICENSES - {"other"}))),
    "language": one_or_more(st.sampled_from(["en", "de", "zh-TW", "code", "multilingual"])),
    "tags": st.lists(TEXT, max_size=3),
    "datasets": st.lists(NAME, max_size=3),
    "base_model": one_or_more(NAME),
    "pipeline_tag": TEXT,
    "size_categories": st.lists(st.integers(0, 10**14).map(size_category), max_size=2),
    "model-index": st.lists(
        st.builds(
            lambda name, results: {"name": name, "results": results},
            TEXT,
            st.lists(MODEL_RESULT, min_size=1, max_size=2),
        ),
        min_size=1,
        max_size=2,
    ),
    "configs": st.lists(CONFIG, max_size=3, unique_by=lambda config: config["config_name"]),
}


@settings(max_examples=50, deadline=None)
@given(st.fixed_dictionaries({}, optional=VALID), st.sampled_from(["model", "dataset"]))
def test_valid_metadata_pass(metadata, repo_type):
    check_card(card(**metadata), repo_type)


@settings(max_examples=50, deadline=None)
@given(
    st.fixed_dictionaries({}, optional=VALID),
    st.sampled_from(["license", "language", "tags", "datasets", "base_model", "pipeline_tag", "size_categories"]),
    st.booleans() | st.floats() | st.dictionaries(TEXT, TEXT, min_size=1, max_size=1),
)
def test_one_value_of_another_type_is_named(metadata, key, value):
    with pytest.raises(CardError, match=f"would not be taken: .*{key}"):
        check_card(card(**metadata | {key: value}), "model")


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(KEYS, JSON, max_size=4), st.sampled_from(["model", "dataset"]))
def test_any_metadata_pass_or_are_an_error_of_ours(metadata, repo_type):
    try:
        check_card(card(**metadata), repo_type)
    except CardError as error:
        assert "would not be taken" in str(error) or "metadata" in str(error)


@settings(max_examples=50, deadline=None)
@given(TEXT, st.dictionaries(TEXT.map("x@{}".format), st.floats(allow_nan=False, allow_infinity=False), max_size=2))
def test_any_names_and_numbers_make_a_card(name, metrics):
    evaluations = [Evaluation(dataset=name, metrics=metrics)]
    values = RecommenderCardValues(name=name, evaluations=evaluations, training_data=[{name: name}])
    metadata, body = split_metadata(render_card(values))
    shown = [
        metric["value"] for result in metadata.get("model-index", []) for metric in result["results"][0]["metrics"]
    ]
    assert sorted(shown) == sorted(metrics.values()) and "## Usage" in body


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=12), st.dictionaries(st.text(max_size=5).map("x@{}".format), st.floats(), max_size=2))
def test_any_names_and_numbers_make_a_card_or_an_error_of_ours(name, metrics):
    evaluations = [Evaluation(dataset=name, metrics=metrics)]
    try:
        render_card(RecommenderCardValues(name=name, evaluations=evaluations, training_data=[{name: name}]))
    except CardError:
        pass
