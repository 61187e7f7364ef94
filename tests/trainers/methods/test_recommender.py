"""`Recommender`: made of tables, recommending by its rules, and the same after it was saved, pushed and loaded."""

import copy
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from huggingface_hub import HfApi, ModelCard, hf_hub_download
from safetensors.torch import load_file
from transformers import pipeline

import tokenization_items  # noqa: F401  # registers the pipeline
from hub_cards import load_values
from tokenization_items.catalogue import Catalogue, CatalogueError
from tokenization_items.item_index import UnknownItemError
from trainers import Recommender
from trainers.commands import run_command
from trainers.hub.upload import PublishingError
from trainers.methods.recommendation_rules import RECOMMENDER_FILE, RecommendationRules

COLOURS = ["red", "blue", "green", "black"]


def tables(num_items: int = 40, users: int = 80) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Customers who mostly buy the next item of the same colour; the last two items were never bought."""
    rng, sold, rows = np.random.default_rng(0), num_items - 2, []
    for user in range(users):
        steps = np.where(rng.random(rng.integers(3, 8)) < 0.8, 4, rng.integers(1, sold))
        for time, item in enumerate((rng.integers(sold) + np.cumsum(steps)) % sold):
            rows.append((f"c{user}", f"sku-{item}", 1_700_000_000 + 60 * time))
    orders = pl.DataFrame(rows, schema=["customer", "sku", "ordered_at"], orient="row").sample(
        fraction=1, shuffle=True
    )
    titles = [f"{COLOURS[row % 4]} pen number {row // 4} with {COLOURS[row % 4]} ink" for row in range(num_items)]
    return orders, pl.DataFrame({"sku": [f"sku-{row}" for row in range(num_items)], "name": titles})


def as_items(texts) -> list[dict]:
    return [{"item_id": str(row), "title": text} for row, text in enumerate(texts)]


@pytest.fixture(scope="module")
def recommender():
    return Recommender.from_interactions(*tables())


def ids(found) -> list[str]:
    return [entry["item_id"] for entry in found]


def test_recommendations_have_titles_and_follow_the_orders(recommender):
    found = recommender.recommend(["sku-1", "sku-5"], top_k=5)
    assert len(found) == 5 and found[0]["item_id"] == "sku-9"
    assert found[0]["title"] == "blue pen number 2 with blue ink" == recommender.titles["sku-9"]
    assert found[0]["score"] >= found[1]["score"]
    both = recommender.recommend([["sku-1", "sku-5"], ["sku-2"]], top_k=5)
    assert ids(both[0]) == ids(found) and len(both[1]) == 5
    assert [row["model"] for row in recommender.facts["validation"]][:2] == ["recommender", "popularity"]
    assert recommender.facts["validation"][0]["ndcg@10"] > 2 * recommender.facts["validation"][1]["ndcg@10"]


def test_what_was_never_bought_is_recommended_by_its_text(recommender):
    assert "sku-38" in recommender.item_ids and recommender.memory.counts[38] == 0
    found = recommender.recommend(["sku-38"], top_k=6)
    assert sum("green" in entry["title"] for entry in found) >= 5
    both = recommender.recommend(["sku-2", "sku-6"], top_k=2, allow=["sku-38", "sku-39"])
    assert ids(both) == ["sku-38", "sku-39"]  # the green one first


def test_a_raw_item_of_unknown_codes_is_read_as_the_item_most_like_it(recommender, monkeypatch):
    made, index = recommender._pipeline, recommender.tokenizer.index
    levels = len(recommender.tokenizer.network.config.level_sizes)
    taken = {tuple(codes) for codes in index.codes[:, :levels].tolist()}
    free = next(codes for codes in np.ndindex(*index.level_sizes[:levels]) if codes not in taken)
    monkeypatch.setattr(
        "tokenization_items.tokenization_items.UniversalItemTokenizer.compute_codes",
        lambda self, catalogue, **_: (np.tile(np.array(free), (len(catalogue), 1)), None),
    )
    texts = ["pen number 7 with green ink: green", "words that nobody has written"]
    vectors = recommender.tokenizer.processor.embeddings_of(Catalogue.from_records(as_items(texts)))
    content = recommender.memory.content
    cosines = (
        (vectors - content.mean.numpy()) @ content.projection.numpy() @ content.vectors.numpy().T.astype(np.float32)
    )
    tokens = made._tokens([{"title": text} for text in texts]).view(2, -1).tolist()
    read = index.rows([recommender.tokenizer.decode(tokens[0])])[0]  # the pens of a colour are all alike
    np.testing.assert_allclose(cosines[0, read], cosines[0].max(), rtol=1e-6)
    assert cosines[0].max() > cosines[0].mean() + 0.1 and "green" in index.titles[read]
    assert tokens[1] == [*(np.array([*free, 0]) + index.level_offsets)]  # nothing is known of it
    found = recommender.recommend([{"title": texts[0]}], top_k=6)
    assert "green" in found[0]["title"] and found[0]["score"] > found[5]["score"]


def test_arrays_series_and_generators_are_lists(recommender):
    history, rule = ["sku-1", "sku-5"], ["sku-9", "sku-13"]
    expected = recommender.recommend([history, []], top_k=3, deny=rule)
    kinds = (np.array, pl.Series, tuple, lambda values: (value for value in values))
    for kind in kinds:
        assert recommender.recommend(kind(history), top_k=3, deny=kind(rule)) == expected[0], kind
        assert ids(recommender.recommend([history, []], allow=kind(rule))[1]) == ids(
            recommender.recommend([], allow=rule)
        )
    for kind in kinds[:3]:
        assert recommender.recommend([kind(history), kind([])], top_k=3, deny=rule) == expected
    assert recommender.recommend((each for each in [history, []]), top_k=3, deny=rule) == expected
    for value in (None, ""):  # is no customer without orders
        with pytest.raises(TypeError, match="A history is a list"):
            recommender.recommend([history, value])


def test_a_generator_of_items_to_remove_removes_them():
    made = Recommender.from_interactions(*tables(12, 20))
    assert made.remove_items(each for each in ["sku-1", "sku-2"]).removed == ["sku-1", "sku-2"]
    assert made.remove_items(np.array(["sku-3"])).removed == ["sku-3"] and len(made.tokenizer) == 9


@pytest.mark.parametrize("history", [["1"], []])
def test_one_id_is_no_list_of_rules(history):
    orders = [{"user": user, "item": (user + step) % 13, "time": step} for user in range(20) for step in range(4)]
    by_numbers = Recommender.from_interactions(orders, [{"item": item, "title": f"pen {item}"} for item in range(13)])
    for name in ("allow", "deny"):
        with pytest.raises(TypeError, match=f"{name} is a list of item ids, got '12'"):
            by_numbers.recommend(history, **{name: "12"})
    assert "12" not in ids(by_numbers.recommend(history, deny=["12"], top_k=13))
    for number in (0, -2):
        with pytest.raises(ValueError, match=f"top_k is at least 1, got {number}"):
            by_numbers.recommend(history, top_k=number)
        with pytest.raises(ValueError, match=f"top_k is at least 1, got {number}"):
            by_numbers.similar("1", top_k=number)
    with pytest.raises(TypeError, match="top_k is a whole number, got 5.0"):
        by_numbers.recommend(history, top_k=5.0)


def test_rules(recommender):
    best = ids(recommender.recommend(["sku-1"], top_k=4))
    denied = Recommender(
        recommender.model, recommender.tokenizer, recommender.stored, RecommendationRules(deny=best[:1])
    )
    assert ids(denied.recommend(["sku-1"], top_k=3)) == best[1:]
    assert ids(denied.recommend(["sku-1"], top_k=2, deny=[best[1]])) == best[2:]
    only = Recommender(
        recommender.model, recommender.tokenizer, recommender.stored, RecommendationRules(allow=best[2:])
    )
    assert ids(only.recommend(["sku-1"], top_k=10)) == best[2:]
    assert "sku-1" not in ids(recommender.recommend(["sku-1"], top_k=40))
    assert "sku-1" in ids(recommender.recommend(["sku-1"], top_k=40, exclude_seen=False))
    with pytest.raises(UnknownItemError, match="'no'"):
        Recommender(recommender.model, recommender.tokenizer, recommender.stored, RecommendationRules(deny=["no"]))
    with pytest.raises(TypeError, match="deny is a list"):
        RecommendationRules(deny="sku-1")


def test_a_new_customer_gets_what_is_popular(recommender):
    counts = recommender.memory.counts.numpy()
    found = recommender.recommend([], top_k=3)
    assert ids(found) == [recommender.item_ids[row] for row in np.argsort(-counts, kind="stable")[:3]]
    assert ids(recommender.recommend([], top_k=2, deny=ids(found)[:1])) == ids(found)[1:]
    assert ids(recommender.recommend([[], ["sku-1"]], top_k=1)[0]) == ids(found)[:1]
    assert ids(recommender.recommend([], top_k=5, allow=["sku-3"])) == ["sku-3"]


def test_similar_items_are_those_of_the_nearest_contents(recommender):
    content, row = recommender.memory.content, recommender.item_ids.index("sku-5")
    cosines = content.vectors.double() @ content.vectors[row].double()
    best = [each for each in cosines.argsort(descending=True).tolist() if each != row][:4]
    found = recommender.similar("sku-5", top_k=4)
    np.testing.assert_allclose([each["score"] for each in found], cosines[best], atol=1e-5)
    assert all(each["title"].startswith("blue") for each in found) and "sku-5" not in ids(found)
    rules = RecommendationRules(allow=("sku-5", *ids(found)[1:3]), deny=(ids(found)[1],))
    ruled = Recommender(recommender.model, recommender.tokenizer, recommender.stored, rules)
    assert ruled.similar("sku-5") == found[2:3]
    with pytest.raises(UnknownItemError, match="'sku-99'"):
        recommender.similar("sku-99")
    with pytest.raises(ValueError, match="a memory with contents knows"):
        Recommender(recommender.model, recommender.tokenizer).similar("sku-5")


def test_another_memory_is_the_one_that_recommends(recommender):
    own = copy.copy(recommender)
    with_memory = own.recommend(["sku-1", "sku-5"])
    own.stored = None
    assert own.recommend(["sku-1", "sku-5"]) == Recommender(own.model, own.tokenizer).recommend(["sku-1", "sku-5"])
    own.stored = recommender.stored
    assert own.recommend(["sku-1", "sku-5"]) == with_memory == recommender.recommend(["sku-1", "sku-5"])


def test_what_was_made_without_texts_takes_no_items_and_says_so():
    made = Recommender.from_interactions(tables(12, 20)[0])
    with pytest.raises(ValueError, match=r"takes no new items: .*from_interactions\(orders, products\)"):
        made.add_items([{"sku": "new", "name": "blue pen"}])


def test_new_customers_where_nothing_is_known(recommender):
    alone = Recommender(recommender.model, recommender.tokenizer)
    with pytest.raises(ValueError, match="a memory knows"):
        alone.recommend([[], ["sku-1"]])
    found = alone.recommend([[], ["sku-1"]], top_k=2, on_error="skip")
    assert "got an empty one" in found[0][0]["reason"] and len(found[1]) == 2


def test_histories_that_are_none(recommender):
    with pytest.raises(TypeError, match="A history is a list"):
        recommender.recommend("sku-1")
    with pytest.raises(UnknownItemError, match="'sku-99'"):
        recommender.recommend(["sku-99"])
    with pytest.raises(CatalogueError, match="empty text"):  # by texts alone nothing is known of it
        recommender.recommend([{"image": "pen.png"}])


def test_the_same_after_saving(recommender, tmp_path):
    ruled = Recommender(
        recommender.model,
        recommender.tokenizer,
        recommender.stored,
        RecommendationRules(False, deny=["sku-9"]),
        recommender.facts,
    )
    ruled.save_pretrained(tmp_path / "shop")
    loaded = Recommender.from_pretrained(tmp_path / "shop")
    assert loaded.rules == ruled.rules and loaded.titles == ruled.titles and loaded.domain is None
    histories = [["sku-1", "sku-5"], ["sku-38"], [], ["sku-7"] * 30]
    assert loaded.recommend(histories, top_k=7) == ruled.recommend(histories, top_k=7)
    assert loaded.facts["validation"] == json.loads(json.dumps(recommender.facts["validation"]))
    loaded.save_pretrained(tmp_path / "again")
    for file in (tmp_path / "shop").iterdir():
        if file.suffix == ".safetensors":
            again = load_file(tmp_path / "again" / file.name)
            assert all(torch.equal(again[name], tensor) for name, tensor in load_file(file).items()), file.name
    card = (tmp_path / "shop" / "README.md").read_text(encoding="utf-8")
    assert "popularity" in card and "memory decides alone" in card
    measured = load_values(tmp_path / "shop").evaluations
    assert measured and load_values(tmp_path / "again").evaluations == measured
    # what reads recommenders reads this one
    found = pipeline("item-recommendation", model=str(tmp_path / "shop"))(
        ["sku-1", "sku-5"], top_k=3, exclude_seen=False
    )
    assert ids(found)[1:] == ids(ruled.recommend(["sku-1", "sku-5"], top_k=2)) and found[0]["item_id"] == "sku-9"


def test_the_card_of_a_training_comes_along(recommender, tmp_path):
    recommender.save_pretrained(tmp_path / "trained")
    (tmp_path / "trained" / RECOMMENDER_FILE).unlink()  # as of `utgrec train-baseline`
    loaded = Recommender.from_pretrained(tmp_path / "trained")
    loaded.remove_items(["sku-3"])
    loaded.save_pretrained(tmp_path / "shop")
    card = (tmp_path / "shop" / "README.md").read_text(encoding="utf-8")
    assert "popularity" in card and load_values(tmp_path / "shop").num_items == 39


def test_a_trained_network_is_the_same_after_saving(tmp_path):
    trained = Recommender.from_interactions(*tables(), minutes=0.02)
    trained.save_pretrained(tmp_path)
    loaded = Recommender.from_pretrained(tmp_path)
    alone = [
        Recommender(each.model, each.tokenizer).recommend([["sku-1", "sku-5"], ["sku-38"]], exclude_seen=False)
        for each in (trained, loaded)
    ]
    assert_alike(alone[0][0] + alone[0][1], alone[1][0] + alone[1][1])
    assert trained.model.config.content_size
    assert_alike(loaded.recommend(["sku-1", "sku-5"]), trained.recommend(["sku-1", "sku-5"]))


def assert_alike(found, expected):
    """The same items; kernels round by where memory is aligned."""
    assert [each["item_id"] for each in found] == [each["item_id"] for each in expected]
    scores = [[each["score"] for each in rows] for rows in (found, expected)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)


def test_folders_that_are_none(recommender, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no recommender"):
        Recommender.from_pretrained(tmp_path / "empty")
    with pytest.raises(TypeError, match="got 'num_beams'"):
        Recommender.from_pretrained(tmp_path / "empty", num_beams=3)
    recommender.save_pretrained(tmp_path / "shop")
    file = tmp_path / "shop" / RECOMMENDER_FILE
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"rules": {"deny": ["gone"]}}))
    with pytest.raises(UnknownItemError, match="recommender.json, rules: .*'gone'"):
        Recommender.from_pretrained(tmp_path / "shop")
    file.write_text(json.dumps(values | {"format_version": 99}))
    with pytest.raises(ValueError, match="format version 99"):
        Recommender.from_pretrained(tmp_path / "shop")
    file.unlink()
    assert Recommender.from_pretrained(tmp_path / "shop").rules == RecommendationRules()


@pytest.mark.hub
def test_the_same_from_the_hub(recommender, hub):
    repository = hub.new_repo("shop")
    recommender.push_to_hub(repository)
    loaded = Recommender.from_pretrained(repository)
    assert loaded.recommend(["sku-1", "sku-5"]) == recommender.recommend(["sku-1", "sku-5"])
    assert loaded.rules == recommender.rules


@pytest.mark.hub
def test_a_push_has_the_card_and_leaves_nothing_of_an_earlier_one(recommender, hub):
    repository = hub.new_repo("shop")
    recommender.push_to_hub(repository, private=True)
    text = ModelCard.load(repository).content
    assert "popularity" in text and "[More Information Needed]" not in text and HfApi().model_info(repository).private
    changed = text.replace("## Usage", "## Usage, said better")
    for name, content in (("README.md", changed), ("requirements.txt", "utgrec @ git+https://here\n")):
        HfApi().upload_file(repo_id=repository, path_or_fileobj=content.encode(), path_in_repo=name)
    alone = Recommender(recommender.model, recommender.tokenizer, facts=recommender.facts)
    alone.push_to_hub(repository)
    assert Recommender.from_pretrained(repository).memory is None
    assert "said better" in ModelCard.load(repository).content
    assert "here" in Path(hf_hub_download(repository, "requirements.txt")).read_text(encoding="utf-8")
    recommender.push_to_hub(repository, "With memory", revision="other")
    assert Recommender.from_pretrained(repository, "other").memory is not None
    assert HfApi().list_repo_commits(repository, revision="other")[0].title == "With memory"


@pytest.mark.hub
def test_a_text_encoder_of_this_machine_is_neither_shown_nor_published(hub, tmp_path, tiny_bert):
    for part in tiny_bert[:2]:
        part.save_pretrained(tmp_path / "encoder")
    orders, products = tables(12, 20)
    made = Recommender.from_interactions(orders, products, text_encoder=str(tmp_path / "encoder"))
    made.save_pretrained(tmp_path / "shop")
    for name in ("README.md", "card_values.json", "recommender.json"):
        text = (tmp_path / "shop" / name).read_text(encoding="utf-8")
        assert str(tmp_path) not in text and "encoder" in text, name
    repository = hub.new_repo("shop")
    for each in (made, Recommender.from_pretrained(tmp_path / "shop")):
        with pytest.raises(PublishingError, match="is on this machine alone, so that others could add no items"):
            each.push_to_hub(repository)
    with pytest.raises(SystemExit, match="item_tokenizer/text_encoder.json: .* is on this machine alone"):
        run_command("publish", ["--recommender", str(tmp_path / "shop"), "--name", repository, "--push"])
    assert not HfApi().repo_exists(repository) and not HfApi().repo_exists(f"{repository}-recommender")
    # the network that new items need is elsewhere, and is not sent
    (tmp_path / "shop" / "item_tokenizer").rename(tmp_path / "network")
    alone = Recommender.from_pretrained(tmp_path / "shop")
    alone.push_to_hub(repository)
    assert not [name for name in HfApi().list_repo_files(repository) if name.startswith("item_tokenizer/")]
