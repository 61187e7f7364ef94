"""Data folders made by partitions: file by file those that one machine makes; what is wrong with shards; what is left
when a run ends early."""

import json
import os
import shutil
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from tokenization_items.folder_lock import LockedFolderError
from trainers.data.partitioned_folder import prepare_by_partitions
from trainers.data.preparation import PreparationChoices
from trainers.data.prepared_folder import prepare_data_set
from trainers.data.readers import ReadError, TabularReader
from trainers.data.stages import UnfinishedWorkError, in_turn, working_folder

LATEST = datetime(2026, 1, 1)
ROWS, SHARDS = 2400, 4


def make_shop(folder: Path) -> Path:
    """A log of four csv shards and three of items, with every kind of trouble: rows and items that are there again,
    unknown, empty or broken ones, ties in time, ratings that are missing, images."""
    rng = np.random.default_rng(0)
    log = pl.DataFrame(
        {
            "user_id": [f"u{user}" for user in rng.integers(0, 240, ROWS)],
            "item_id": [f"i{int(item)}" for item in rng.random(ROWS) ** 2 * 130],
            "timestamp": rng.integers(1_600_000_000, 1_600_000_300, ROWS),
            "rating": rng.integers(1, 6, ROWS),
        }
    )
    row = pl.int_range(pl.len())
    log = log.with_columns(
        timestamp=pl.when(row % 97 > 0).then("timestamp"), rating=pl.when(row % 13 > 0).then("rating")
    )
    log = pl.concat([log, log[::40]])  # again, in another shard
    (folder / "log").mkdir(parents=True)
    for number, part in enumerate(log.iter_slices(-(-len(log) // SHARDS))):
        part.write_csv(folder / "log" / f"part-{number:03d}.csv")
    (folder / "items").mkdir()
    numbers = [*range(110), 3, 4, 109]
    lines = [
        {"item_id": f"i{n}", "title": f"T &amp; {n}" if n % 11 else "", "image": "../x.png" if n % 22 == 0 else None}
        for n in numbers
    ]
    lines[1]["image"] = "absent.png"
    for number in range(3):
        text = "".join(json.dumps(line) + "\n" for line in lines[number * 40 : number * 40 + 40])
        (folder / "items" / f"{number}.jsonl").write_text(text)
    Image.new("RGB", (4, 4)).save(folder / "x.png")
    return folder


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return make_shop(tmp_path_factory.mktemp("shop"))


def reader(shop: Path, items: bool = True) -> TabularReader:
    return TabularReader(shop / "log", shop / "items" if items else None)


CASES = {
    "core": ({}, True),
    "temporal, no items": ({"split": "temporal", "items_without_interactions": "drop"}, False),
    "ratio, rated": ({"split": "ratio", "min_rating": 2.0, "items_without_interactions": "drop", "k_core": 3}, True),
    "all": ({"k_core": 0, "repeats": "all"}, True),
}


@pytest.mark.parametrize("name", CASES)
def test_each_file_is_that_of_one_machine(shop, tmp_path, name):
    """Checksums of all files, counts, and what was dropped with its examples, whatever the number of partitions."""
    choices, items = CASES[name]
    settings = {"co_occurrence": True, "pair_horizon": 3}
    chosen = PreparationChoices(**choices)
    expected = prepare_data_set(reader(shop, items), tmp_path / "one" / "shop", chosen, LATEST, **settings)
    for partitions in (1, 3):
        output = tmp_path / str(partitions) / "shop"
        found = prepare_by_partitions(reader(shop, items), output, chosen, LATEST, partitions=partitions, **settings)
        assert json.dumps(found) == json.dumps(expected)  # the order, too
        assert [path.name for path in output.parent.iterdir()] == ["shop"]
    assert len(expected["checksums"]) >= 5 and expected["counts"]["interactions"] > 500


def test_one_file_is_one_shard(shop, tmp_path):
    whole = pl.concat([pl.read_csv(path) for path in sorted((shop / "log").iterdir())])
    whole.write_parquet(tmp_path / "log.parquet")
    source = TabularReader(tmp_path / "log.parquet")
    expected = prepare_data_set(source, tmp_path / "one" / "shop", latest_time=LATEST)
    # far more partitions than users have rows: most are empty
    found = prepare_by_partitions(source, tmp_path / "two" / "shop", latest_time=LATEST, partitions=40)
    assert found == expected


def failing(function, numbers, after, names):
    """Tasks in turn, of which one fails after so many."""
    for number in numbers:
        names.append(number)
        if len(names) > after:
            raise KeyboardInterrupt
        yield number, function(number)


def test_a_run_that_ended_early_goes_on_partition_by_partition(shop, tmp_path):
    prepare = partial(prepare_by_partitions, reader(shop), tmp_path / "shop", partitions=3)
    whole: list[int] = []
    prepare_by_partitions(
        reader(shop), tmp_path / "whole", latest_time=LATEST, partitions=3, map_tasks=counting(whole)
    )
    done = 0
    for after in (2, 9, 12):  # within the log, the items, the k-core
        names: list[int] = []
        with pytest.raises(KeyboardInterrupt):
            prepare(latest_time=LATEST, map_tasks=partial(failing, after=after, names=names))
        done += after
        assert not (tmp_path / "shop").exists()
    rest: list[int] = []
    found = prepare(map_tasks=counting(rest))  # the time is that of the run before
    assert done + len(rest) == len(whole)  # nothing was done twice
    expected = json.loads((tmp_path / "whole" / "prepared.json").read_text())
    assert {**found, "name": "whole"} == expected
    assert not (tmp_path / ".shop.partitions").exists()


def counting(names: list[int]):
    def tasks(function, numbers):
        for number in numbers:
            names.append(number)
            yield number, function(number)

    return tasks


def test_half_written_work_is_done_again(shop, tmp_path):
    prepare = partial(prepare_by_partitions, reader(shop), tmp_path / "shop", latest_time=LATEST, partitions=2)
    with pytest.raises(KeyboardInterrupt):
        prepare(map_tasks=partial(failing, after=12, names=[]))
    work = tmp_path / ".shop.partitions"
    files = sorted(work.glob("*/0*/*.arrow"))
    assert len(files) >= 8
    files[0].write_bytes(files[0].read_bytes()[:-7])
    files[-1].unlink()
    found = prepare()
    assert found == prepare_data_set(reader(shop), tmp_path / "one" / "shop", latest_time=LATEST)


def test_a_shard_that_was_mended_is_read_again(tmp_path):
    shop = make_shop(tmp_path / "source")
    broken = shop / "log" / "part-001.csv"
    content = broken.read_text()
    broken.write_text(content + "u1,i1,1600000000,5,6,7\n")
    names: list[int] = []
    prepare = partial(prepare_by_partitions, latest_time=LATEST, partitions=2)
    with pytest.raises(ReadError, match=r"part-001.csv cannot be read: line \d+ .*6 fields"):
        prepare(reader(shop), tmp_path / "shop", map_tasks=counting(names))
    broken.write_text(content)
    prepare(reader(shop), tmp_path / "shop", map_tasks=counting(names))
    assert names[:6] == [0, 1, 1, 2, 3, 0]  # the first shard once, the second twice, then those of the items
    expected = prepare_data_set(reader(shop), tmp_path / "one" / "shop", latest_time=LATEST)
    assert json.loads((tmp_path / "shop" / "prepared.json").read_text()) == expected


@pytest.mark.parametrize("damaged", ["items", "users", "core-1"])
def test_what_was_read_and_given_up_is_read_again_if_need_be(tmp_path, monkeypatch, damaged):
    """Files of `log` and `placed` are gone when the k-core begins; what is made of them may have to be made anew."""
    shop = make_shop(tmp_path / "source")
    prepare = partial(prepare_by_partitions, latest_time=LATEST, partitions=3)
    with monkeypatch.context() as patch:
        patch.setattr("trainers.data.partitioned_folder._Preparation._split", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(reader(shop), tmp_path / "shop")
    work = tmp_path / ".shop.partitions"
    assert not (work / "log").exists() and not (work / "placed").exists()
    if damaged == "items":
        os.utime(reader(shop).item_shards()[0], (1, 1))
    else:
        next((work / damaged / "00001").glob("*.arrow")).unlink()
    names: list[int] = []
    with monkeypatch.context() as patch:  # once more, to see what is there then
        patch.setattr("trainers.data.partitioned_folder._Preparation._split", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(reader(shop), tmp_path / "shop", map_tasks=counting(names))
    assert not (work / "log").exists() and not (work / "placed").exists()
    assert (work / "log.json").is_file() and (work / "placed.json").is_file()
    assert (names == [1, 0, 1, 2]) == (damaged == "core-1")  # that part, and the next round
    found = prepare(reader(shop), tmp_path / "shop")
    assert found == prepare_data_set(reader(shop), tmp_path / "one" / "shop", latest_time=LATEST)


def stop(*_):
    raise KeyboardInterrupt


def test_two_runs_into_one_folder(shop, tmp_path):
    prepare = partial(prepare_by_partitions, reader(shop), tmp_path / "shop")
    with pytest.raises(KeyboardInterrupt):
        prepare(latest_time=LATEST, partitions=2, map_tasks=partial(failing, after=3, names=[]))
    with pytest.raises(UnfinishedWorkError, match="begun otherwise .partitions: 2, now 3."):
        prepare(latest_time=LATEST, partitions=3)
    with pytest.raises(UnfinishedWorkError, match="begun otherwise .choices: .*k_core.*"):
        prepare(PreparationChoices(k_core=2), latest_time=LATEST, partitions=2)
    work = tmp_path / ".shop.partitions"
    plan = json.loads((work / "plan.json").read_text())
    with working_folder(work, plan, {}), pytest.raises(LockedFolderError, match="Another run works in .*shop"):
        prepare(latest_time=LATEST, partitions=2)
    prepare(latest_time=LATEST, partitions=2)
    with pytest.raises(FileExistsError, match="shop is not empty"):
        prepare(latest_time=LATEST, partitions=2)
    assert prepare(latest_time=LATEST, partitions=2, overwrite=True)["counts"]["items"] > 50


def test_settings_that_cannot_be_are_named_first(shop, tmp_path):
    for wrong, message in (({"partitions": 0}, "partitions is 1 or more"), ({"pair_horizon": 21}, "at most 20")):
        with pytest.raises(ValueError, match=message):
            prepare_by_partitions(reader(shop), tmp_path / "shop", **wrong)
    order = TabularReader(shop / "log", timestamp_unit="order")
    with pytest.raises(ReadError, match="A temporal split needs times"):
        prepare_by_partitions(order, tmp_path / "shop", PreparationChoices(split="temporal"))
    with pytest.raises(ReadError, match="No interaction is left"):
        prepare_by_partitions(
            reader(shop), tmp_path / "none", PreparationChoices(k_core=500), LATEST, map_tasks=in_turn
        )
    assert not (tmp_path / "shop").exists() and not (tmp_path / "none").exists()
    shutil.rmtree(tmp_path / ".none.partitions")
    assert not any(tmp_path.iterdir())
