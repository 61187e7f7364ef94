"""Preparation on Ray: started once here, with two workers; the data folder is that of one machine."""

import json
import os
import signal
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from trainers.data import partitioned_preparation
from trainers.data.partitioned_folder import prepare_by_partitions
from trainers.data.prepared_folder import prepare_data_set
from trainers.data.readers import ReadError, TabularReader

pytest.importorskip("ray")

from trainers.runtime.ray_engine import WorkerError, ray_session
from trainers.runtime.ray_tasks import tasks_on_ray

LATEST = datetime(2026, 1, 1)
ROWS, SHARDS = 1500, 3


@pytest.fixture(scope="module")
def ray():
    with ray_session(num_cpus=2) as ray:
        yield ray


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    rng = np.random.default_rng(0)
    log = pl.DataFrame(
        {
            "user_id": rng.integers(0, 150, ROWS),
            "item_id": (rng.random(ROWS) ** 2 * 90).astype(np.int64),
            "timestamp": rng.integers(1_600_000_000, 1_600_000_300, ROWS),
        }
    )
    (folder / "log").mkdir()
    for number, part in enumerate(log.iter_slices(ROWS // SHARDS)):
        part.write_parquet(folder / "log" / f"{number}.parquet")
    lines = [json.dumps({"item_id": item, "title": f"<b>Item</b> {item}"}) + "\n" for item in range(85)]
    (folder / "items.jsonl").write_text("".join(lines))
    return folder


def killed_once(function, number, mark: Path):
    """A task that kills its process the first time."""
    if number == 1 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return function(number)


def test_the_folder_is_that_of_one_machine(ray, shop, tmp_path):
    """With two workers, of which one is killed in the first stage, and with one; of two numbers of partitions."""
    source = TabularReader(shop / "log", shop / "items.jsonl")
    settings = {"latest_time": LATEST, "co_occurrence": True}
    expected = prepare_data_set(source, tmp_path / "one" / "shop", **settings)
    mark = tmp_path / "killed"

    def killing(function, numbers):
        return tasks_on_ray(partial(killed_once, function, mark=mark), numbers)

    for partitions, map_tasks in ((2, killing), (3, partial(tasks_on_ray, num_cpus=2))):
        output = tmp_path / str(partitions) / "shop"
        assert (
            prepare_by_partitions(source, output, partitions=partitions, map_tasks=map_tasks, **settings) == expected
        )
    assert mark.exists()


def test_a_shard_that_ends_its_worker_is_named_and_a_later_run_goes_on(ray, shop, tmp_path, monkeypatch):
    source = TabularReader(shop / "log", shop / "items.jsonl")
    read = partitioned_preparation.read_log
    done = tmp_path / "done"

    def dies(job, number, folder):
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        with done.open("a") as file:
            file.write(f"{number}\n")
        return read(job, number, folder)

    with monkeypatch.context() as patch:
        patch.setattr(partitioned_preparation, "read_log", dies)
        with pytest.raises(WorkerError, match=r"^Part 2 of the stage 'log' \(\S+2.parquet\) ended its process each"):
            prepare_by_partitions(source, tmp_path / "shop", latest_time=LATEST, map_tasks=tasks_on_ray)
    assert not (tmp_path / "shop").exists() and sorted(done.read_text().split()) == ["0", "1"]
    expected = prepare_data_set(source, tmp_path / "one" / "shop", latest_time=LATEST)
    with monkeypatch.context() as patch:  # what is done is not done again
        patch.setattr(partitioned_preparation, "read_log", partial(only, read, 2))
        assert prepare_by_partitions(source, tmp_path / "shop", map_tasks=tasks_on_ray) == expected


def only(function, wanted, job, number, folder):
    assert number == wanted
    return function(job, number, folder)


def test_errors_of_the_source_are_those_of_one_machine(ray, shop, tmp_path):
    (tmp_path / "log").mkdir()
    for number in range(2):
        text = "user_id,item_id,timestamp\nu,a,1600000000\n" + "u,b,1600000001,9\n" * number
        (tmp_path / "log" / f"{number}.csv").write_text(text)
    source = TabularReader(tmp_path / "log")
    with pytest.raises(ReadError) as expected:
        prepare_data_set(source, tmp_path / "one", latest_time=LATEST)
    with pytest.raises(ValueError) as found:
        prepare_by_partitions(source, tmp_path / "two", latest_time=LATEST, map_tasks=tasks_on_ray)
    assert str(found.value) == str(expected.value) and "1.csv cannot be read: line 3" in str(found.value)
    assert not (tmp_path / "two").exists()
