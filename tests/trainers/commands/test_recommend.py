"""Saved rules hold; users of a data folder that cannot be recommended to do not stop the others."""

import numpy as np
import polars as pl
import pytest
import torch

from modeling_utgrec import SASRecConfig, SASRecForNextItem
from trainers import Recommender
from trainers.commands import run_command
from trainers.commands.recommend import histories_of, main
from trainers.data.interactions import Interactions
from trainers.methods.recommendation_rules import RecommendationRules
from trainers.sequential_trainer import SequentialTrainer, SequentialTrainingArguments

INTERACTIONS = Interactions.from_sequences(
    [["a", "b"], [], ["a", "odd", "new"], ["b"], ["a"]], ["a", "b", "odd", "new"]
)


def test_users_with_items_that_the_recommender_lacks_are_named(capsys):
    assert histories_of(INTERACTIONS, {"a", "b"}, users=2) == [["a", "b"], ["b"]]
    names = INTERACTIONS.user_ids
    assert capsys.readouterr().out == (
        f"2 users are left out: {names[1]} (no interaction); "
        f"{names[2]} (the recommender has no item 'odd' and 1 more)\n"
    )
    assert histories_of(INTERACTIONS, {"a", "b", "odd", "new"}, users=1) == [["a", "b"]]
    assert capsys.readouterr().out == ""
    with pytest.raises(SystemExit, match="no user has a history of the recommender's items alone"):
        histories_of(INTERACTIONS, {"c"}, users=3)


@pytest.fixture(scope="module")
def recommender():
    steps = np.random.default_rng(0).integers(12, size=(30, 5))
    rows = [(f"u{user}", f"i{item}", time) for user, items in enumerate(steps) for time, item in enumerate(items)]
    orders = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    products = pl.DataFrame({"item": [f"i{row}" for row in range(12)], "title": [f"pen {row}" for row in range(12)]})
    return Recommender.from_interactions(orders, products)


@pytest.mark.parametrize("keep_seen", [None, True, False])
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_saved_rules_and_titles_hold_on_the_command_line_too(recommender, tmp_path, capsys, exclude_seen, keep_seen):
    rules = RecommendationRules(exclude_seen, deny=("i3",), allow=[f"i{row}" for row in range(10)])
    own = Recommender(recommender.model, recommender.tokenizer, recommender.stored, rules)
    own.save_pretrained(tmp_path)
    flags = [] if keep_seen is None else ["--keep_seen", str(keep_seen)]
    capsys.readouterr()
    main(["--recommender", str(tmp_path), "--history", "i1", "i2", "--num_items", "12", *flags])
    said = capsys.readouterr().out.splitlines()
    found = own.recommend(["i1", "i2"], top_k=12, exclude_seen=None if keep_seen is None else not keep_seen)
    assert said[0] == "History: pen 1; pen 2"
    shown = [line.split(maxsplit=3)[2:] for line in said[1:]]
    assert shown == [[entry["item_id"], entry["title"]] for entry in found]
    seen = not exclude_seen if keep_seen is None else keep_seen
    left_out = {3} if seen else {1, 2, 3}
    assert {item_id for item_id, _ in shown} == {f"i{row}" for row in range(10) if row not in left_out}


def test_a_saved_rule_of_an_unknown_item_is_an_error(recommender, tmp_path):
    recommender.save_pretrained(tmp_path)
    file = tmp_path / "recommender.json"
    file.write_text(file.read_text().replace('"deny": []', '"deny": ["gone"]'))
    with pytest.raises(SystemExit, match="recommender.json, rules: .*'gone'"):
        run_command("recommend", ["--recommender", str(tmp_path), "--history", "i1"])


@pytest.fixture(scope="module")
def sequential(tmp_path_factory):
    torch.manual_seed(0)
    folder, item_ids = tmp_path_factory.mktemp("sequential"), [f"i{row}" for row in range(12)]
    model = SASRecForNextItem(SASRecConfig(num_items=12, hidden_size=8, max_history=4, initializer_range=0.5))
    interactions = Interactions.from_sequences([item_ids[:4], item_ids[3:8]], item_ids)
    SequentialTrainer(model, SequentialTrainingArguments(str(folder), use_cpu=True), interactions).save_model()
    rows = [{"item_id": item_id, "title": f"pen {row}"} for row, item_id in enumerate(item_ids)]
    pl.DataFrame(rows).write_ndjson(folder / "items.jsonl")
    pl.DataFrame({"user_id": ["u"], "items": [item_ids[2:8]]}).write_ndjson(folder / "sequences.jsonl")
    return folder


@pytest.mark.parametrize("keep_seen", [True, False])
@pytest.mark.parametrize("of_data", [True, False])
def test_a_sequential_recommender_scores_its_items(sequential, capsys, of_data, keep_seen):
    capsys.readouterr()
    given = ["--data", str(sequential)] if of_data else ["--history", "i2", "i3", "i4", "i5", "i6", "i7"]
    main(["--recommender", str(sequential), *given, "--num_items", "12", "--keep_seen", str(keep_seen)])
    said = capsys.readouterr().out.splitlines()
    assert said[0] == ("History: pen 4; pen 5; pen 6; pen 7" if of_data else "History: i4; i5; i6; i7")
    model = SASRecForNextItem.from_pretrained(sequential).eval()
    with torch.no_grad():
        scores = (model.user_states(torch.tensor([[5, 6, 7, 8]])) @ model.item_embeddings.T)[0]
    left = [row for row in scores.argsort(descending=True).tolist() if keep_seen or not 2 <= row < 8]
    expected = [
        f"{place:3d}. {scores[row]:8.3f}  i{row}  {f'pen {row}' if of_data else ''}"
        for place, row in enumerate(left, 1)
    ]
    assert said[1:] == expected


def test_what_a_sequential_recommender_has_not_is_an_error(sequential):
    for flags, said in (
        (["--history", "i1", "nobody"], "no item 'nobody'"),
        (["--history", "i1", "--sources"], "has no memory"),
        ([], "give --history or --data"),
        (["--history", "i1", "--num_items", "0"], "--num_items must be at least 1, got 0"),
        (["--data", str(sequential), "--users", "-1"], "--users must be at least 1, got -1"),
    ):
        with pytest.raises((SystemExit, ValueError, KeyError), match=said):
            main(["--recommender", str(sequential), *flags])
