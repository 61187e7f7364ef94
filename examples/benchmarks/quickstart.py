r"""Times `utgrec quickstart` by its parts on a generated shop.

    python examples/benchmarks/quickstart.py                                       # 1,000,000 orders, 20,000 products
    python examples/benchmarks/quickstart.py --orders 100000 --products 2000 --minutes 1

Popularity is skewed (Zipf-Mandelbrot), customers come back (log-normal numbers of orders), an order is often of the
category of the one before, and one product in fifty was never bought. The last line is one JSON object: seconds by
the clock and of the process' cores, of which other work on the machine takes less away.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

CATEGORIES = 200
WORDS = 4000
NEVER_BOUGHT = 0.02
STAYS = 0.6  # share of orders that are of the category of the one before


def generate(folder: Path, num_orders: int, num_products: int, seed: int = 0) -> tuple[Path, Path]:
    """Writes `orders.csv` (unsorted) and `products.csv` (separated by semicolons, with decimal commas)."""
    rng = np.random.default_rng(seed)
    num_users, sold = max(10, num_orders // 8), max(2, int(num_products * (1 - NEVER_BOUGHT)))
    popularity = 1 / (np.arange(1, sold + 1) + 0.02 * sold) ** 0.9
    products = rng.permutation(num_products)[:sold]
    num_categories = min(CATEGORIES, max(2, num_products // 20))
    category = rng.integers(num_categories, size=num_products)
    weights = rng.lognormal(0, 1, num_users)
    users = np.sort(rng.choice(num_users, num_orders, p=weights / weights.sum()))
    items = products[rng.choice(sold, num_orders, p=popularity / popularity.sum())]
    of_category = [products[category[products] == each] for each in range(num_categories)]
    again = (rng.random(num_orders) < STAYS) & np.r_[False, users[1:] == users[:-1]]
    for row in np.flatnonzero(again):
        choices = of_category[category[items[row - 1]]]
        items[row] = choices[int(len(choices) * rng.random() ** 2)]
    first = rng.integers(1_600_000_000, 1_700_000_000, num_users)
    seconds = first[users] + 86_400 * np.arange(num_orders) % 50_000_000
    orders = pl.DataFrame(
        {
            "order_no": np.arange(num_orders),
            "customer_no": "C" + pl.Series(users).cast(pl.String),
            "sku": "P" + pl.Series(items).cast(pl.String),
            "ordered_at": pl.Series(seconds * 1_000_000).cast(pl.Datetime("us")),
        }
    )
    orders = orders[rng.permutation(num_orders)]
    orders.write_csv(folder / "orders.csv", datetime_format="%Y-%m-%d %H:%M:%S")
    words = np.array([f"word{number}" for number in range(WORDS)])
    own = words[(WORDS * rng.random((num_products, 6)) ** 2).astype(int)]
    titles = [f"{' '.join(each[:4])} kind{kind}" for each, kind in zip(own, category, strict=True)]
    frame = pl.DataFrame(
        {
            "sku": [f"P{number}" for number in range(num_products)],
            "name": titles,
            "brand": [f"maker {each}" for each in rng.integers(num_categories, size=num_products)],
            "category": [f"category {each}" for each in category],
            "description": [" ".join(each) for each in own],
            "price": [f"{each:.2f}".replace(".", ",") for each in rng.lognormal(3, 1, num_products)],
        }
    )
    frame.write_csv(folder / "products.csv", separator=";")
    return folder / "orders.csv", folder / "products.csv"


def main(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        orders, products = generate(Path(folder), options.orders, options.products, options.seed)
        began, cores = time.perf_counter(), time.process_time()
        from trainers import Recommender

        imported = time.perf_counter() - began
        recommender = Recommender.from_interactions(orders, products, minutes=options.minutes, progress=print)
        recommender.save_pretrained(Path(folder) / "shop")
        Recommender.from_pretrained(Path(folder) / "shop").recommend(["P1"])
        seconds, of_cores = time.perf_counter() - began, time.process_time() - cores
    result = {
        "orders": options.orders,
        "products": options.products,
        "seconds": round(seconds, 1),
        "core_seconds": round(of_cores, 1),
        "parts": {"imports": round(imported, 1), **recommender.facts["seconds"]},
        "validation": recommender.facts["validation"],
    }
    print(json.dumps(result))
    return result


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=1_000_000, help="Rows of orders.")
    parser.add_argument("--products", type=int, default=20_000, help="Rows of products.")
    parser.add_argument("--minutes", type=float, default=0.0, help="Of the item-level model's training.")
    parser.add_argument("--seed", type=int, default=0, help="Of the data.")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse())
