"""Saved rules hold; users of a data folder that cannot be recommended to do not stop the others."""

import numpy as np
import polars as pl
import pytest

from trainers import Recommender
from trainers.commands import run_command
from trainers.commands.recommend import histories_of, main
from trainers.data.interactions import Interactions
from trainers.methods.recommendation_rules import RecommendationRules

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
