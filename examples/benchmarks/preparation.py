r"""Prepares a generated log with this package and with pandas, and says how long each takes and how much memory.

    python examples/benchmarks/preparation.py                          # 10 million interactions: UTGRec's pre-training
    python examples/benchmarks/preparation.py --interactions 100000    # 100 times smaller, users and items too
    python examples/benchmarks/preparation.py --engine ray             # on Ray, compared with one machine

Both read the same csv and JSON lines, drop what cannot be used, clean the items' HTML, sort, drop repeated pairs, take
the 5-core, and write parquet and the co-occurrence graph of the training part; each runs in a process of its own, on
two cores. Imports (about 5 s for each) are not counted. Their results are compared to the last value. With `--engine
ray` both read the same tables in shards, and every file must have the same bytes; memory is that of the driver and of
the largest worker. Then the folder is read into memory, and made a corpus that is streamed. The last line is one JSON
object; on a machine with other work, its processor seconds say more than its seconds.
"""

import argparse
import html
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
from workers import WorkerMemory

FULL_SIZE = 10_000_000
USERS, ITEMS = 0.1, 0.035  # for each interaction: a million users and 350,000 items
CORES = 2
LATEST = "2026-01-01T00:00:00"
K_CORE = 5
FAULTY = 1e-4  # shares of NaN-stamped and of future-dated interactions, each
REPEATED = 5e-3  # share of interactions that are there twice
ITEM_CHUNK = 50_000
SHARDS = 16


def generate(folder: Path, num_interactions: int, seed: int) -> None:
    """Writes `log.csv` (unsorted, Zipf-Mandelbrot items, log-normal users, some rows faulty) and `items.jsonl`."""
    rng = np.random.default_rng(seed)
    num_users, num_items = max(int(num_interactions * USERS), 10), max(int(num_interactions * ITEMS), 10)
    activity = rng.lognormal(0, 0.7, num_users)
    popularity = 1 / (np.arange(1, num_items + 1) + 0.02 * num_items) ** 0.9
    users = rng.choice(num_users, num_interactions, p=activity / activity.sum())
    items = rng.permutation(num_items)[rng.choice(num_items, num_interactions, p=popularity / popularity.sum())]
    times = rng.integers(1_400_000_000, 1_650_000_000, num_interactions)
    twice = rng.choice(num_interactions, int(num_interactions * REPEATED))
    users[twice - 1], items[twice - 1] = users[twice], items[twice]
    log = pl.DataFrame(
        {
            "user_id": ("A" + pl.Series(users).cast(pl.String).str.zfill(12)),
            "item_id": ("B" + pl.Series(items).cast(pl.String).str.zfill(9)),
            "timestamp": pl.Series(times).cast(pl.String),
            "rating": rng.integers(1, 6, num_interactions).astype(np.float64),
        }
    )
    faulty = rng.random(num_interactions)
    log = log.with_columns(
        timestamp=pl.when(pl.Series(faulty < FAULTY))
        .then(pl.lit("nan"))
        .when(pl.Series(faulty > 1 - FAULTY))
        .then(pl.lit("4000000000"))
        .otherwise("timestamp")
    )
    log.write_csv(folder / "log.csv")
    words = np.array(
        ["steel", "guitar &amp; amp", "<b>new</b>", "red", "case", "caf&eacute;", "5 < 6", "cable", "stand"]
    )
    with open(folder / "items.jsonl", "w", encoding="utf-8") as file:
        for start in range(0, num_items, ITEM_CHUNK):
            rows = np.arange(start, min(start + ITEM_CHUNK, num_items))
            picked = words[rng.integers(len(words), size=(len(rows), 24))]
            for row, text in zip(rows.tolist(), picked.tolist(), strict=True):
                record = {
                    "item_id": f"B{row:09d}",
                    "title": " ".join(text[:6]),
                    "features": [" ".join(text[6:10]), " ".join(text[10:14])] if row % 3 else [],
                    "categories": ["Music", text[14]],
                    "description": "<p>" + " ".join(text[15:]) + "</p>",
                }
                file.write(json.dumps(record) + "\n")


def prepare_with_package(folder: Path, output: Path) -> None:
    """This package."""
    from datetime import datetime

    from trainers.data.preparation import PreparationChoices
    from trainers.data.prepared_folder import prepare_data_set
    from trainers.data.readers import TabularReader

    reader = TabularReader(folder / "log.csv", folder / "items.jsonl")
    choices = PreparationChoices(k_core=K_CORE, items_without_interactions="drop")
    prepare_data_set(reader, output, choices, datetime.fromisoformat(LATEST), co_occurrence=True)


def prepare_with_pandas(folder: Path, output: Path) -> None:
    """The same result as one would write it with pandas."""
    import pandas as pd
    from safetensors.numpy import save_file

    from trainers.data.readers.html_text import REPLACEMENTS

    def clean(texts):
        texts = texts.map(html.unescape).map(html.unescape)
        for pattern, replacement in REPLACEMENTS:
            texts = texts.str.replace(pattern, replacement, regex=True)
        return texts.str.strip()

    output.mkdir()
    items = pd.read_json(folder / "items.jsonl", lines=True)
    for name in ("title", "description"):
        items[name] = clean(items[name])
    for name in ("features", "categories"):
        entries = clean(items[name].explode().dropna())
        entries = entries[entries != ""].reset_index().drop_duplicates().groupby("index")[name].agg(list)
        items[name] = entries.reindex(items.index)
        items[name] = items[name].map(lambda value: value if isinstance(value, list) else [])

    log = pd.read_csv(folder / "log.csv", dtype={"user_id": str, "item_id": str})
    log["timestamp"] = pd.to_numeric(log["timestamp"], errors="coerce")
    log = log[log["timestamp"].notna() & (log["timestamp"] <= pd.Timestamp(LATEST).timestamp())]
    log["timestamp"] = (log["timestamp"] * 1_000_000).astype("int64")
    log["user"], user_ids = pd.factorize(log["user_id"])
    log["item"] = log["item_id"].map(pd.Series(items.index, index=items["item_id"]))
    log = log[["user", "item", "timestamp"]]
    log = log.sort_values(["user", "timestamp"], kind="stable").drop_duplicates(["user", "item"])
    while True:
        frequent = (log.groupby("user")["item"].transform("size") >= K_CORE) & (
            log.groupby("item")["user"].transform("size") >= K_CORE
        )
        if frequent.all():
            break
        log = log[frequent]
    kept = log["item"].drop_duplicates().sort_values()
    log["item"] = log["item"].map(pd.Series(np.arange(len(kept)), index=kept))
    items = items.loc[kept]
    items.to_parquet(output / "items.parquet")
    written = pd.DataFrame({"user_id": user_ids[log["user"]], "item_id": items["item_id"].to_numpy()[log["item"]]})
    written["timestamp"] = log["timestamp"].to_numpy()
    written.to_parquet(output / "interactions.parquet")

    from_end = log.groupby("user").cumcount(ascending=False)
    training = log[from_end >= 2]
    pairs = pd.DataFrame({"first": training["item"], "second": training.groupby("user")["item"].shift(-1)}).dropna()
    pairs = pairs[pairs["first"] != pairs["second"]].astype("int64")
    pairs = pd.concat([pairs, pairs.rename(columns={"first": "second", "second": "first"})])
    counts = pairs.groupby(["first", "second"]).size().reset_index(name="count")
    indptr = np.concatenate([[0], np.cumsum(np.bincount(counts["first"], minlength=len(kept)))])
    graph = {
        "indptr": indptr,
        "indices": counts["second"].to_numpy(np.int32),
        "counts": counts["count"].to_numpy(np.int32),
    }
    save_file(graph, output / "co_occurrence.safetensors")


def cut_into_shards(folder: Path) -> None:
    """Makes folders of shards, `log/` and `items/`, of the generated files, line by line."""
    for source, header in ((folder / "log.csv", 1), (folder / "items.jsonl", 0)):
        (folder / source.stem).mkdir()
        with open(source, "rb") as lines:
            head = [next(lines) for _ in range(header)]
            rows = sum(1 for _ in lines)
            lines.seek(len(b"".join(head)))
            for number in range(SHARDS):
                with open(folder / source.stem / f"part-{number:05d}{source.suffix}", "wb") as out:
                    out.writelines(head)
                    out.writelines(next(lines) for _ in range(rows * (number + 1) // SHARDS - rows * number // SHARDS))
        source.unlink()


def prepare_shards(folder: Path, output: Path) -> None:
    """This package on one machine, from shards."""
    from datetime import datetime

    from trainers.data.preparation import PreparationChoices
    from trainers.data.prepared_folder import prepare_data_set
    from trainers.data.readers import TabularReader

    choices = PreparationChoices(k_core=K_CORE, items_without_interactions="drop")
    reader = TabularReader(folder / "log", folder / "items")
    prepare_data_set(reader, output / "shop", choices, datetime.fromisoformat(LATEST), co_occurrence=True)


def prepare_on_ray(folder: Path, output: Path) -> None:
    """This package on Ray, started here with as many workers as cores."""
    from datetime import datetime

    from trainers.data.partitioned_folder import prepare_by_partitions
    from trainers.data.preparation import PreparationChoices
    from trainers.data.readers import TabularReader
    from trainers.runtime.ray_engine import ray_session
    from trainers.runtime.ray_tasks import tasks_on_ray

    os.environ["POLARS_MAX_THREADS"] = "1"  # of a worker
    choices = PreparationChoices(k_core=K_CORE, items_without_interactions="drop")
    reader, latest = TabularReader(folder / "log", folder / "items"), datetime.fromisoformat(LATEST)
    with ray_session(num_cpus=CORES):
        prepare_by_partitions(reader, output / "shop", choices, latest, co_occurrence=True, map_tasks=tasks_on_ray)


def read_folder(folder: Path, output: Path) -> None:
    """What a training in memory, or a memory, starts with."""
    from trainers.data.domains import Domain

    Domain.from_folder(folder / "one-machine" / "shop", check_images=False)


def stream_folder(folder: Path, output: Path) -> None:
    """What a training that does not fit in memory starts with."""
    from trainers.training_data.corpus import write_corpus

    write_corpus(output, {"shop": folder / "one-machine" / "shop"})


PROGRAMS = {"package": prepare_with_package, "pandas": prepare_with_pandas}
ENGINES = {"one-machine": prepare_shards, "ray": prepare_on_ray}
READERS = {"read": read_folder, "corpus": stream_folder}  # of what was prepared


def measure(program: str, folder: Path) -> None:
    """Runs a program in this process and prints its seconds, its processor seconds and the peak memory in GB."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    import pandas  # noqa: F401  (both programs start with everything imported)

    import trainers.data.domains
    import trainers.data.prepared_folder
    import trainers.training_data.corpus  # noqa: F401

    workers = WorkerMemory()
    if program == "ray":
        workers.start()
    start, cpu = time.perf_counter(), time.process_time()
    (PROGRAMS | ENGINES | READERS)[program](folder, folder / program)
    workers.ended.set()
    result = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    result["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    if program == "ray":
        result["cpu_seconds"] += workers.cpu_seconds
        result |= {"largest_worker_gb": workers.largest, "workers_gb": workers.together}
    print(json.dumps({name: round(value, 2) for name, value in result.items()}))


def run(program: str, folder: Path) -> dict:
    """What [`measure`] prints, of a process of its own."""
    environment = os.environ | {name: str(CORES) for name in ("POLARS_MAX_THREADS", "OMP_NUM_THREADS")}
    command = [sys.executable, __file__, "--program", program, "--folder", str(folder)]
    found = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(found.stdout.splitlines()[-1])


def identical(folder: Path) -> bool:
    """Whether both programs wrote the same items, interactions and graph."""
    from safetensors.numpy import load_file

    first, second = (folder / name for name in PROGRAMS)
    for name in ("interactions.parquet", "items.parquet"):
        theirs = pl.read_parquet(second / name)
        columns = [column for column in theirs.columns if not column.startswith("__")]
        if not pl.read_parquet(first / name, columns=columns).equals(theirs.select(columns)):
            return False
    graphs = [load_file(path / "co_occurrence.safetensors") for path in (first, second)]
    return all(np.array_equal(graphs[0][name], graphs[1][name]) for name in ("indptr", "indices", "counts"))


def compare_engines(folder: Path, result: dict) -> None:
    """Runs this package on one machine and on Ray, and compares all that they wrote."""
    cut_into_shards(folder)
    for program in ENGINES | READERS:
        result["load"] = round(os.getloadavg()[0], 1)
        result[program] = found = run(program, folder)
        print(f"{program}: {json.dumps(found)}, load before it {result['load']}", flush=True)
    documents = [json.loads((folder / name / "shop" / "prepared.json").read_text()) for name in ENGINES]
    result["identical"] = documents[0] == documents[1]  # checksums of all files, counts, what was dropped
    result |= {name: documents[0]["counts"][name] for name in ("users", "items", "interactions", "k_core_rounds")}
    print(json.dumps(result))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=int, default=FULL_SIZE, help="Size of the log (%(default)s).")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="Where to work; by default a temporary folder.")
    parser.add_argument("--engine", choices=["local", "ray"], default="local", help="ray: see above.")
    parser.add_argument(
        "--program", choices=PROGRAMS | ENGINES | READERS, help="Only this one, on what is in --folder."
    )
    arguments = parser.parse_args()
    if arguments.program:
        measure(arguments.program, arguments.folder)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        generate(folder, arguments.interactions, arguments.seed)
        sizes = ", ".join(f"{path.name} {path.stat().st_size / 1e6:,.0f} MB" for path in sorted(folder.iterdir()))
        print(f"{arguments.interactions:,} interactions: {sizes}", flush=True)
        result = {"interactions": arguments.interactions, "cores": CORES}
        if arguments.engine == "ray":
            compare_engines(folder, result)
            return
        for program in PROGRAMS:
            result[program] = found = run(program, folder)
            times = f"{found['seconds']:7.1f} s ({found['cpu_seconds']:.1f} s of processor time)"
            print(f"{program:8}: {times}, {found['peak_gb']:5.2f} GB", flush=True)
        result["ratio"] = round(result["pandas"]["seconds"] / result["package"]["seconds"], 2)
        result["identical"] = identical(folder)
        counts = json.loads((folder / "package" / "prepared.json").read_text())["counts"]
        result |= {name: counts[name] for name in ("users", "items", "co_occurring_pairs")}
        print(f"pandas takes {result['ratio']} times as long; identical: {result['identical']}")
        print(json.dumps(result))
    if not result["identical"]:
        raise SystemExit("The results differ.")


if __name__ == "__main__":
    main()
