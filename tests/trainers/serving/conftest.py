"""A small shop's recommender, in memory and in a folder, and a comparison of its answers."""

import numpy as np
import polars as pl
import pytest

from trainers import Recommender

COLOURS, THINGS = ["red", "blue", "green", "black"], ["pen", "ink", "cup", "map", "lamp"]


def shop_tables(num_items: int = 40, users: int = 80) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Customers who mostly buy the next item of the same colour."""
    rng, rows = np.random.default_rng(0), []
    for user in range(users):
        steps = np.where(rng.random(rng.integers(3, 8)) < 0.8, 4, rng.integers(1, num_items))
        for time, item in enumerate((rng.integers(num_items) + np.cumsum(steps)) % num_items):
            rows.append((f"c{user}", f"sku-{item}", 1_700_000_000 + 60 * time))
    titles = [f"{COLOURS[row % 4]} {THINGS[row % 5]} number {row // 20}" for row in range(num_items)]
    products = pl.DataFrame(
        {
            "sku": [f"sku-{row}" for row in range(num_items)],
            "name": titles,
            "price": [1.0 + row % 9 for row in range(40)],
        }
    )
    return pl.DataFrame(rows, schema=["customer", "sku", "ordered_at"], orient="row"), products


@pytest.fixture(scope="session")
def recommender() -> Recommender:
    """With a network of a second's training, so that a batch's padding could make a difference. Shared: don't change
    it."""
    return Recommender.from_interactions(*shop_tables(), minutes=0.01)


@pytest.fixture(scope="session")
def shop(recommender, tmp_path_factory):
    """Its folder. Shared: don't change it."""
    folder = tmp_path_factory.mktemp("serving") / "shop"
    recommender.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def check_same(float32_tolerance):
    """Asserts that two lists of recommendations are the same but for float32's error: by it items of equal scores may
    change places, or the last ones be others."""
    near = float32_tolerance(depth=16, scale=10.0)

    def check(found: list[dict], expected: list[dict]) -> None:
        scores = [each["score"] for each in expected]
        np.testing.assert_allclose([each["score"] for each in found], scores, **near)
        by_id = {each["item_id"]: each["score"] for each in expected}
        for each in found:
            np.testing.assert_allclose(each["score"], by_id.get(each["item_id"], scores[-1]), **near)

    return check
