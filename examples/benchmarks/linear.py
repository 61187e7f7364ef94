"""Linear ranker: time and memory of its two ways, of the choice of its settings, and what float32 costs.

    OMP_NUM_THREADS=2 python examples/benchmarks/linear.py
    OMP_NUM_THREADS=2 python examples/benchmarks/linear.py --items 3000 --counted_items 20000 --interactions 200000

Data are random: users walk through a catalogue in which an item's neighbours follow it more often, popular items more
often still. By inverse: B of one λ beside the arithmetic of this machine's matrix products, and the choice of all
settings beside the inverses that it needs. By counts: the matrix, its rows cut, the SVD of random texts, and users
scored. Memory is the most that arrays took at once (tracemalloc), beside what is announced. The last line is one JSON
object.
"""

import argparse
import json
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import timing
import torch

from tokenization_items.text_statistics import tf_idf_embeddings
from trainers.data.interactions import Interactions
from trainers.data.neighbour_counts import counting_bytes
from trainers.rankers.linear import COUNT_BYTES, LinearRanker, LinearSettings, closed_form, decayed_counts
from trainers.rankers.linear_selection import REGULARIZATIONS, select_settings
from trainers.rankers.row_order import largest_of_rows

LENGTH = 10  # interactions of a user
CUT = 50  # transitions of an item that are kept


def walks(num_items: int, num_interactions: int, seed: int) -> Interactions:
    """Users with 10 interactions each, the next item near to the last one or a popular one."""
    rng = np.random.default_rng(seed)
    users = num_interactions // LENGTH
    popular = (num_items * rng.random((users, LENGTH)) ** 3).astype(np.int64)
    near = rng.random((users, LENGTH)) < 0.6
    items = popular.copy()
    for place in range(1, LENGTH):
        step = rng.integers(1, 20, users)
        items[:, place] = np.where(near[:, place], (items[:, place - 1] + step) % num_items, popular[:, place])
    order = rng.permutation(num_items)  # neighbours are anywhere in the catalogue
    offsets = np.arange(users + 1) * LENGTH
    ids = [str(row) for row in range(num_items)]
    flat = order[items].astype(np.int32).ravel()
    return Interactions(ids, [str(user) for user in range(users)], flat, offsets)


def texts(num_items: int, seed: int) -> list[str]:
    """Six words that any item may have and six of one of 300 kinds, few of them frequent."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 300, (num_items, 1))
    common = (20_000 * rng.random((num_items, 6)) ** 4).astype(np.int64)
    of_kind = 20_000 + 100 * kinds + (100 * rng.random((num_items, 6)) ** 3).astype(np.int64)
    return [" ".join(f"w{word}" for word in row) for row in np.concatenate([common, of_kind], axis=1).tolist()]


def measured(function: Callable[[], Any]) -> tuple[Any, float, float]:
    """What a function gives, its seconds, and the most bytes in GB that it held at once."""
    tracemalloc.start()
    start = time.perf_counter()
    result = function()
    seconds = time.perf_counter() - start
    peak = tracemalloc.get_traced_memory()[1] / 1e9
    tracemalloc.stop()
    return result, timing.significant(seconds), timing.significant(peak)


def inverse(options: argparse.Namespace) -> dict[str, Any]:
    """Figures of the closed form and of the choice of settings."""
    data = walks(options.items, options.inverse_interactions, options.seed)
    training, settings = data.training_part(), LinearSettings(transitions="inverse")
    methods, operations = timing.product(torch.float32, "cpu")
    rate = operations / min(min(times) for times in timing.interleave(methods, 3, 1).values())
    _, seconds, peak = measured(lambda: closed_form(training, settings))
    content = np.random.default_rng(options.seed).normal(size=(options.items, 384)).astype(np.float32)
    _, selection_seconds, selection_peak = measured(lambda: select_settings(data, content, settings))
    return {
        "items": options.items,
        "users": data.num_users,
        "seconds": seconds,
        "gigabytes": peak,
        "gigabytes_announced": timing.significant(3 * 4 * options.items**2 / 1e9),
        "fraction_of_products": timing.significant(7 / 3 * options.items**3 / rate / seconds),
        "selection_seconds": selection_seconds,
        "selection_gigabytes": selection_peak,
        "selection_over_inverses": timing.significant(selection_seconds / (len(REGULARIZATIONS) * seconds)),
    }


def precision(options: argparse.Namespace) -> dict[str, Any]:
    """How far B in float32 is from B in float64."""
    training = walks(options.checked_items, 12 * options.checked_items, options.seed).training_part()
    single, double = (
        closed_form(training, LinearSettings(dtype=dtype)).astype(np.float64) for dtype in ("float32", "float64")
    )
    norm = np.linalg.norm(single - double) / np.linalg.norm(double)
    return {
        "items": options.checked_items,
        "relative_error": timing.significant(float(norm)),
        "largest_error": timing.significant(float(abs(single - double).max())),
        "largest_value": timing.significant(float(abs(double).max())),
    }


def counts(options: argparse.Namespace) -> dict[str, Any]:
    """Figures of the decayed counts, and of scoring with them."""
    data = walks(options.counted_items, options.interactions, options.seed)
    training, settings = data.training_part(), LinearSettings(transitions="counts")
    matrix, seconds, peak = measured(lambda: decayed_counts(training, settings))
    announced = counting_bytes(len(training.items)) + COUNT_BYTES * 2 * settings.horizon * len(training.items)
    cut, cut_seconds, _ = measured(lambda: largest_of_rows(matrix, CUT))
    read = texts(options.counted_items, options.seed)
    start = time.perf_counter()  # not traced: it makes many small objects
    content = tf_idf_embeddings(read)
    content_seconds = timing.significant(time.perf_counter() - start)
    ranker = LinearRanker(training, content, settings, matrix)
    histories = data.cases("test").histories(0, options.scored_users, 20)
    _, scoring_seconds, scoring_peak = measured(lambda: ranker.rank(histories, 10))
    return {
        "items": options.counted_items,
        "interactions": len(data.items),
        "seconds": seconds,
        "gigabytes": peak,
        "gigabytes_announced": timing.significant(announced / 1e9),
        "entries": int(matrix.nnz),
        "cut_seconds": cut_seconds,
        "cut_entries": int(cut.nnz),
        "tf_idf_seconds": content_seconds,
        "users_per_second": timing.significant(len(histories) / scoring_seconds),
        "scoring_gigabytes": scoring_peak,
    }


def main(options: argparse.Namespace) -> dict[str, Any]:
    result: dict[str, Any] = timing.environment("cpu")
    for name, part in (("precision", precision), ("counts", counts), ("inverse", inverse)):
        result[name] = part(options)
        print(f"{name}\n" + "\n".join(f"  {key:26}{value:>14,}" for key, value in result[name].items()), flush=True)
    print(json.dumps(result))
    return result


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=12_000, help="Catalogue of the inverse (%(default)s).")
    parser.add_argument("--inverse_interactions", type=int, default=200_000, help="Its interactions (%(default)s).")
    parser.add_argument("--counted_items", type=int, default=100_000, help="Catalogue of the counts (%(default)s).")
    parser.add_argument("--interactions", type=int, default=1_000_000, help="Its interactions (%(default)s).")
    parser.add_argument(
        "--checked_items", type=int, default=2000, help="Catalogue of the float64 check (%(default)s)."
    )
    parser.add_argument("--scored_users", type=int, default=2000, help="Users who are ranked for (%(default)s).")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse())
