"""Models that read content, in a large catalogue: ranking all of it for users, and the clusters of MISSRec.

    python examples/benchmarks/content_models.py                                  # 350,000 items
    python examples/benchmarks/content_models.py --items 20000 --interest_items 2000 --users 256

Content is random. Each model is in a process of its own, so that its peak memory is its own; `made` is of the items'
vectors, which are made once for all users, `ranked` of the ten best items of each user out of the whole catalogue.
MISSRec is measured with texts alone and with texts and images, whose score is no dot product. Clusters are those of
`--interest_items` items with text and image, found as before every epoch, for some shares of the points. The last line
is one JSON object.
"""

import argparse
import json
import multiprocessing
import resource
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import timing
import torch

from modeling_utgrec import (
    FDSAConfig,
    FDSAForNextItem,
    MISSRecConfig,
    MISSRecForNextItem,
    SASRecConfig,
    SASRecForNextItem,
    SequentialForNextItem,
    UniSRecConfig,
    UniSRecForNextItem,
    VQRecConfig,
    VQRecForNextItem,
)
from trainers.rankers.sequential import SequentialRanker
from trainers.runtime.interests import discover_interests

MODELS = ("sasrec", "fdsa", "unisrec", "vq-rec", "missrec", "missrec-images")
K, HISTORY, GIGABYTE = 10, 20, 10**9


def make_model(name: str, num_items: int, options: argparse.Namespace) -> SequentialForNextItem:
    """A model of the authors' sizes with random weights and content."""
    torch.manual_seed(0)
    sizes = {"num_items": num_items, "max_history": HISTORY}
    if name == "sasrec":
        return SASRecForNextItem(SASRecConfig(**sizes)).eval()
    width = options.width
    content = torch.randn(num_items, width)
    model: Any
    if name == "fdsa":
        model = FDSAForNextItem(FDSAConfig(content_size=width, **sizes)).set_items(content=content)
    elif name == "unisrec":
        model = UniSRecForNextItem(UniSRecConfig(content_size=width, **sizes)).set_items(content=content)
    elif name == "vq-rec":
        config = VQRecConfig(content_size=width, **sizes)
        codes = torch.randint(config.codebook_size, (num_items, config.num_groups))
        model = VQRecForNextItem(config).set_items(codes=codes)
    else:
        images = {"image": torch.randn(num_items, width)} if name == "missrec-images" else {}
        # the clusters are random here: how many there are is nothing to the ranking
        config = MISSRecConfig(content_size=width, image_size=width if images else None, num_interests=1000, **sizes)
        model = MISSRecForNextItem(config).set_items(text=content, **images)
        interests = torch.randint(config.num_interests, (num_items, 1 + len(images)))
        model.set_interests(torch.randn(config.num_interests, config.hidden_size), interests)
    return model.eval()


def rank_catalogue(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Seconds and gigabytes of one model."""
    torch.set_num_threads(options.threads)
    model = make_model(name, options.items, options)
    rng = np.random.default_rng(0)
    histories = [*rng.integers(options.items, size=(options.users, HISTORY))]
    before = peak_gigabytes()
    start = timing.clock("cpu")
    ranker = SequentialRanker(model)
    made = timing.clock("cpu") - start
    ranker.rank(histories[:8], K)
    start = timing.clock("cpu")
    ranked = ranker.rank(histories, K)
    seconds = timing.clock("cpu") - start
    assert ranked.shape == (options.users, K)
    found = {"made_s": made, "ranked_s": seconds, "users_per_s": options.users / seconds}
    found |= {"model_gb": before, "peak_gb": peak_gigabytes()}
    return {key: timing.significant(value) for key, value in found.items()}


def find_interests(share: float, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of the clusters of an epoch, for this share of the points."""
    torch.set_num_threads(1)
    items, width = options.interest_items, options.width
    number = max(1, int(share * 2 * items))
    config = MISSRecConfig(num_items=items, content_size=width, image_size=width, num_interests=number)
    model = MISSRecForNextItem(config).set_items(text=torch.randn(items, width), image=torch.randn(items, width))
    start = timing.clock("cpu")
    discover_interests(model)
    return {"interests": number, "seconds": timing.significant(timing.clock("cpu") - start)}


def peak_gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIGABYTE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=350_000, help="Of the catalogue that is ranked (%(default)s).")
    parser.add_argument("--users", type=int, default=2048, help="Histories of 20 items (%(default)s).")
    parser.add_argument("--width", type=int, default=384, help="Of an embedding of content (%(default)s).")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--interest_items", type=int, default=12_101, help="Items that are clustered (%(default)s).")
    parser.add_argument(
        "--shares", type=float, nargs="*", default=[0.02, 0.1, 0.5], help="Clusters by points (%(default)s)."
    )
    parser.add_argument("--threads", type=int, default=2, help="Of the ranking; clusters are found by one.")
    options = parser.parse_args()
    processes = {"max_workers": 1, "mp_context": multiprocessing.get_context("spawn"), "max_tasks_per_child": 1}
    with ProcessPoolExecutor(**processes) as apart:
        ranked = {name: apart.submit(rank_catalogue, name, options).result() for name in options.models}
        found = {share: apart.submit(find_interests, share, options).result() for share in options.shares}
    for title, results in (("ranking", ranked), ("clusters of MISSRec", found)):
        print(title)
        for name, values in results.items():
            print(f"  {name}: {', '.join(f'{key} {value:g}' for key, value in values.items())}")
    capability = torch.backends.cpu.get_cpu_capability()
    facts = {"device": f"cpu ({capability})", "torch": torch.__version__, **vars(options)}
    print(json.dumps(facts | {"ranking": ranked, "clusters": {str(share): each for share, each in found.items()}}))


if __name__ == "__main__":
    main()
