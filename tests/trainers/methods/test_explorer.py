"""`Explorer`: answers that agree with the recommender's own, in parts of bounded size, and errors that say why."""

import io
import math

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from tokenization_items.catalogue import Catalogue
from tokenization_items.item_index import UnknownItemError
from trainers import Recommender
from trainers.methods.explorer import MOST_CHARACTERS, Explorer

KINDS = ["red pen with ink", "blue pen with ink", "wooden ruler", "steel ruler", "squared paper"]


def tables(num_items: int = 60, users: int = 90) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Customers who mostly buy the next item of the same kind."""
    rng, rows = np.random.default_rng(0), []
    for user in range(users):
        steps = np.where(rng.random(rng.integers(3, 8)) < 0.8, len(KINDS), rng.integers(1, num_items))
        for time, item in enumerate((rng.integers(num_items) + np.cumsum(steps)) % num_items):
            rows.append((f"c{user}", f"sku-{item}", 1_700_000_000 + 60 * time))
    orders = pl.DataFrame(rows, schema=["customer", "sku", "ordered_at"], orient="row")
    titles = [f"{KINDS[row % 5]} number{row // 5}" for row in range(num_items)]
    return orders, pl.DataFrame({"sku": [f"sku-{row}" for row in range(num_items)], "name": titles})


@pytest.fixture(scope="module")
def explorer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    Recommender.from_interactions(*tables()).save_pretrained(folder)
    picture = Image.new("RGB", (600, 300), "red")
    items = pl.DataFrame({"sku": ["sku-0", "sku-1"], "name": ["a", "b"]}).with_columns(
        image=pl.Series([picture_bytes(picture), None], dtype=pl.Binary)
    )
    items.write_parquet(folder / "products.parquet")
    return Explorer.from_pretrained(folder, data=str(folder / "products.parquet"))


def picture_bytes(picture):
    with io.BytesIO() as file:
        picture.save(file, "PNG")
        return file.getvalue()


def test_recommendations_are_the_recommenders_with_shares(explorer):
    found = explorer.recommend("sku-1\nsku-6", num_items=5)
    plain = explorer.recommender.recommend(["sku-1", "sku-6"], 5)
    assert [each.item.item_id for each in found] == [entry["item_id"] for entry in plain]
    for each, entry in zip(found, plain, strict=True):
        assert each.item.title == entry["title"] and each.probability == pytest.approx(math.exp(entry["score"]))
        assert {*each.shares} == {"network", "memory", "text", "unknown"}
        assert sum(each.shares.values()) == pytest.approx(1, abs=1e-4)
        assert all(reason.item_id in ("sku-1", "sku-6") for reason in each.reasons.values())
    first = found[0]
    assert first.item.item_id == "sku-11" and first.reasons["memory"].item_id == "sku-6"
    assert first.item.codes == tuple(explorer.index.codes[explorer.index.rows(["sku-11"])[0]])


def test_rules(explorer):
    ids = [each.item.item_id for each in explorer.recommend("sku-1", 4)]
    assert [each.item.item_id for each in explorer.recommend("sku-1", 3, deny=ids[0])] == ids[1:]
    assert [each.item.item_id for each in explorer.recommend("sku-1", 9, allow=f"{ids[3]}, {ids[2]}")] == ids[2:]
    few = {"num_items": 2, "allow": "sku-1\nsku-2"}
    assert len(explorer.recommend("sku-1", **few)) == 1
    assert len(explorer.recommend("sku-1", exclude_seen=False, **few)) == 2
    with pytest.raises(ValueError, match="no item to recommend"):
        explorer.recommend("sku-1", allow="sku-2", deny="sku-2")
    with pytest.raises(ValueError, match="1 to 50"):
        explorer.recommend("sku-1", 51)


def test_a_new_customer(explorer):
    found = explorer.recommend("", 3)
    assert [each.item.item_id for each in found] == [e["item_id"] for e in explorer.recommender.recommend([], 3)]
    assert all(each.probability is None and not each.shares for each in found)
    alone = Explorer(Recommender(explorer.recommender.model, explorer.recommender.tokenizer))
    with pytest.raises(ValueError, match="history is empty"):
        alone.recommend(" \n ")
    assert alone.recommend("sku-1", 2)[0].shares == {}
    assert len(alone.example_history(0)) == 3


def test_pasted_ids(explorer):
    assert explorer.read_ids(" sku-1 , sku-2;sku-3\n\nsku-4\tsku-1\r\n") == [
        "sku-1",
        "sku-2",
        "sku-3",
        "sku-4",
        "sku-1",
    ]
    with pytest.raises(UnknownItemError, match="has the id 'sku-5x'. Ids are"):
        explorer.read_ids("sku-1, sku-5x")
    with pytest.raises(UnknownItemError, match="'ruler number3'. Was one of these meant: 'sku-17', 'sku-18'"):
        explorer.read_ids("ruler number3")
    with pytest.raises(ValueError, match="characters"):
        explorer.read_ids("x" * (MOST_CHARACTERS + 1))
    with pytest.raises(ValueError, match="1,001 items are too many"):
        explorer.read_ids("sku-1," * 1001)
    with pytest.raises(UnknownItemError):
        explorer.read_ids("\ud800\x00<script>")


def test_search(explorer):
    assert [item.item_id for item in explorer.search("sku-1", 4)] == ["sku-1", "sku-10", "sku-11", "sku-12"]
    assert [item.item_id for item in explorer.search("  RULER number3 ")] == ["sku-17", "sku-18"]
    assert explorer.search(" ") == explorer.search("nothing like it") == []


def test_example_histories_are_of_items(explorer):
    histories = {tuple(explorer.example_history(seed)) for seed in range(6)}
    assert len(histories) > 1
    assert all(len({*each}) == 3 and all(item in explorer.index for item in each) for each in histories)


def test_a_new_product(explorer):
    text = "blue pen with ink number99"
    product = explorer.new_product({"title": text})
    tokenizer = explorer.recommender.tokenizer
    catalogue = Catalogue.from_records([{"item_id": "x", "title": text}], tokenizer.text_fields)
    assert product.codes == tuple(tokenizer.compute_codes(catalogue, progress=False)[0][0].tolist())
    assert [branch.prefix for branch in product.path] == [
        product.codes[: length + 1] for length in range(len(product.path))
    ]
    shared = [sum(np.cumprod(np.equal(item.codes[:3], product.codes))) for item in product.same_codes]
    assert shared == sorted(shared, reverse=True) and shared[0] == len(product.path)
    assert len(shared) == min(10, product.path[0].num_items)
    # the texts most alike, by the cosine of all items' embeddings without their mean
    content = explorer.recommender.memory.content
    query = torch.from_numpy(tokenizer.processor.embeddings_of(catalogue)).double() - content.mean.double()
    query = (query / query.norm()) @ content.projection.double()
    cosines = (content.vectors.double() @ query[0]).numpy()
    assert np.allclose([cosine for _, cosine in product.same_texts], np.sort(cosines)[::-1][:10], atol=1e-3)
    assert all("blue pen" in item.title for item, _ in product.same_texts)


def test_a_product_that_is_there_already(explorer):
    taken = explorer.item("sku-7")
    product = explorer.new_product({"title": taken.title})
    given = explorer.index.provenance.given_codes[explorer.index.rows(["sku-7"])[0]]
    assert product.codes == tuple(given) == taken.codes[:3] and taken in product.same_codes
    assert product.same_texts[0][0] == taken and product.same_texts[0][1] == pytest.approx(1, abs=0.02)


def test_products_that_are_none(explorer):
    with pytest.raises(ValueError, match="no text"):
        explorer.new_product({"title": "  ", "brand": ""})
    with pytest.raises(ValueError, match="too long"):
        explorer.new_product({"title": "x" * MOST_CHARACTERS, "brand": "y"})
    assert explorer.new_product({"title": "§§§ 999x"}).same_texts == []  # no known word
    index_only = type(explorer.recommender.tokenizer).from_pretrained(
        explorer.recommender.tokenizer.network_reference.name_or_path.removesuffix("item_tokenizer"), index_only=True
    )
    alone = Explorer(Recommender(explorer.recommender.model, index_only))
    assert not alone.reads_images
    with pytest.raises(ValueError, match="cannot tokenize new items"):
        alone.new_product({"title": "a pen"})


def test_health(explorer):
    health, codes = explorer.health(), explorer.index.codes
    for level, counts in enumerate(health.level_counts):
        assert counts.tolist() == [
            (codes[:, level] == code).sum() for code in range(explorer.index.level_sizes[level])
        ]
        assert health.measures[f"used_{level}"] == (counts > 0).mean()
    for length, counts in enumerate(health.prefix_counts, start=1):
        assert counts.sum() == len(codes) and len(counts) == len({tuple(each[:length]) for each in codes.tolist()})
    assert set(health.prefix_counts[-1]) == {1}
    given = explorer.index.provenance.given_codes.tolist()
    assert health.measures["collision_rate"] == np.mean([given.count(each) > 1 for each in given])


def test_pictures(explorer):
    assert explorer.has_pictures and explorer.picture("sku-1") is None and explorer.picture("sku-2") is None
    with Image.open(io.BytesIO(explorer.picture("sku-0"))) as picture:
        assert picture.format == "JPEG" and picture.size == (160, 80)


def test_what_cannot_be_shown(explorer):
    with pytest.raises(
        ValueError, match="none of its items, such as 'a', is among the recommender's, such as 'sku-0'"
    ):
        Explorer(
            explorer.recommender,
            Catalogue.from_records([{"item_id": "a", "image": Image.new("RGB", (2, 2))}], name="x"),
        )
    with pytest.raises(FileNotFoundError):
        Explorer.from_pretrained(explorer.recommender.tokenizer.network_reference.name_or_path)
