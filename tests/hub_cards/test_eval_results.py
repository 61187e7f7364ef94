"""Results for the Hub's benchmarks: the numbers of the model-index, read by the Hub's client."""

import yaml
from huggingface_hub import EvalResultEntry, ModelCard, parse_eval_result_entries

from hub_cards import (
    EVAL_RESULTS_FILE,
    DatasetCardValues,
    Evaluation,
    RecommenderCardValues,
    eval_results_text,
    load_values,
    save_card,
)

RESULT = {"recall@10": 0.0412, "ndcg@10": 0.0213, "coverage@10": 0.6, "part": "test", "seen": "kept", "num_users": 9}


def values(**names):
    return RecommenderCardValues(name="m", evaluations=[Evaluation.from_result("Office", RESULT, **names)])


def test_the_file_is_the_clients_and_the_numbers_those_of_the_card(tmp_path):
    save_card(tmp_path, values(dataset_id="org/amazon", dataset_config="office"))
    assert EVAL_RESULTS_FILE == ".eval_results/utgrec.yaml"
    entries = parse_eval_result_entries(yaml.safe_load((tmp_path / EVAL_RESULTS_FILE).read_text()))
    notes = "seen: kept; num users: 9"
    assert entries == [
        EvalResultEntry("org/amazon", "office/test/recall@10", 0.0412, notes=notes),
        EvalResultEntry("org/amazon", "office/test/ndcg@10", 0.0213, notes=notes),
    ]
    card = ModelCard.load(tmp_path / "README.md").data.eval_results
    assert [(each.dataset_type, each.metric_value) for each in card] == [(e.dataset_id, e.value) for e in entries]
    assert eval_results_text(load_values(tmp_path)) == (tmp_path / EVAL_RESULTS_FILE).read_text()


def test_what_is_no_data_set_of_the_hub_stays_in_the_card(tmp_path):
    assert eval_results_text(values()) is None and eval_results_text(DatasetCardValues(name="d")) is None
    save_card(tmp_path, values(dataset_id="org/amazon"))
    (tmp_path / ".eval_results" / "own.yaml").write_text("[]")
    assert "default/test/ndcg@10" in (tmp_path / EVAL_RESULTS_FILE).read_text()
    save_card(tmp_path, values())  # what it was evaluated on is not on the Hub any more
    assert [path.name for path in (tmp_path / ".eval_results").iterdir()] == ["own.yaml"]
    assert len(ModelCard.load(tmp_path / "README.md").data.eval_results) == 2
