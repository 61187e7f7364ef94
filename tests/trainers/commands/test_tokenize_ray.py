"""`utgrec tokenize --engine ray` in a Ray of this machine, started once, and what ends a run before it begins."""

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import polars as pl
import psutil
import pytest

from tokenization_items import Catalogue, UniversalItemTokenizer, domain_mean
from tokenization_items.folder_lock import LOCK_NAME, locked_folder
from tokenization_items.sharded_index import ShardedItemIndex
from trainers.commands import run_command, says_what_is_wrong
from trainers.commands import tokenize as module
from trainers.data.attempts import Attempts
from trainers.methods import large_catalogue
from trainers.runtime.ray_engine import WorkerError, import_ray, ray_session, spread

CHECKPOINT = Path(__file__).parents[2] / "checkpoints" / "version_0_1" / "utgrec_tokenizer_text"
WORDS = ["red", "blue", "iron", "oak", "tall", "tiny", "warm", "cold", "kettle", "lamp", "chair", "spade"]
NUM_ITEMS, BLOCK = 150, 40


@pytest.fixture(scope="module")
def session():
    with ray_session(num_cpus=3) as ray:
        yield ray


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A network that reads texts, without items, and a catalogue of three shards; and what one machine makes of it."""
    folder = tmp_path_factory.mktemp("place")
    trained = UniversalItemTokenizer.from_pretrained(CHECKPOINT)
    UniversalItemTokenizer.from_network(trained.network, trained.loaded_processor).save_pretrained(
        folder / "tokenizer"
    )
    rng = np.random.default_rng(0)
    titles = [" ".join(WORDS[word] for word in rng.integers(0, len(WORDS), 5)) for _ in range(NUM_ITEMS)]
    items = pl.DataFrame({"item_id": [f"sku-{row}" for row in rng.permutation(NUM_ITEMS)], "title": titles})
    (folder / "items").mkdir()
    for number, (start, stop) in enumerate([(0, 61), (61, 62), (62, NUM_ITEMS)]):
        items[start:stop].write_parquet(folder / "items" / f"part-{number}.parquet")
    tokenizer = UniversalItemTokenizer.from_pretrained(folder / "tokenizer")
    tokenizer.add_items(Catalogue.from_records(items), block_items=BLOCK)
    return folder, semantic_ids(tokenizer.index)


def semantic_ids(index):
    return {item_id: codes.tolist() for item_id, codes in zip(index.item_ids, index.codes[:], strict=True)}


def tokenize(folder, output_dir, *flags, tokenizer="tokenizer", data="items"):
    usual = ["--engine", "ray", "--use_cpu", "--allow_collapsed_codes", "--block_items", BLOCK, "--num_actors", 2]
    paths = ["--tokenizer", folder / tokenizer, "--data", folder / data, "--output_dir", output_dir]
    run_command("tokenize", [*map(str, [*usual, *paths, *flags])])


def watched(monkeypatch, folder, pattern) -> dict[str, int]:
    """Times of the files of a pattern, filled in when the step after them begins."""
    written: dict[str, int] = {}

    class Watching(module.StepBars):
        def __call__(self, step, done, of):
            if step == "resolve":
                written.update({path.name: path.stat().st_mtime_ns for path in folder.rglob(pattern)})

    monkeypatch.setattr(module, "StepBars", Watching)
    return written


def test_ray_listens_to_this_machine_alone(session):
    assert [node["NodeManagerAddress"] for node in session.nodes()] == ["127.0.0.1"]
    of_process = getattr(psutil.Process, "net_connections", None) or psutil.Process.connections  # before psutil 6
    sockets = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            sockets += of_process(process, kind="inet")
    listening = {each.laddr.ip for each in sockets if each.status == psutil.CONN_LISTEN}
    assert listening and listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_two_actors_make_what_one_machine_makes(session, place, tmp_path, capsys):
    folder, expected = place
    tokenize(folder, tmp_path / "made")
    assert "items: 150 items in 3 files" in (out := capsys.readouterr().out) and "bytes an item" in out
    made = UniversalItemTokenizer.from_pretrained(tmp_path / "made")
    assert isinstance(made.index, ShardedItemIndex) and made.has_network
    assert semantic_ids(made.index) == expected and made.decode(made.encode("sku-7")) == "sku-7"
    assert sorted(path.name for path in (tmp_path / "made").iterdir() if path.name.startswith(".")) == []
    assert json.loads((tmp_path / "made" / "assignment_report.json").read_text())["num_items"] == NUM_ITEMS
    with pytest.raises(SystemExit, match="holds a finished item tokenizer"):
        tokenize(folder, tmp_path / "made")


def test_a_domains_mean_is_that_of_one_machine(session, place, tmp_path, monkeypatch):
    folder, expected = place
    trained = UniversalItemTokenizer.from_pretrained(CHECKPOINT)
    trained.network.config.centre_domains = True
    empty = UniversalItemTokenizer.from_network(trained.network, trained.loaded_processor)
    empty.save_pretrained(tmp_path / "tokenizer", without_decoders=True)
    monkeypatch.setattr(domain_mean, "ITEMS_OF_MEAN", 20)
    items = pl.concat([pl.read_parquet(file) for file in sorted((folder / "items").iterdir())])
    whole = UniversalItemTokenizer.from_pretrained(tmp_path / "tokenizer")
    whole.add_items(Catalogue.from_records(items), block_items=BLOCK)
    (tmp_path / "items").symlink_to(folder / "items")
    tokenize(tmp_path, tmp_path / "made")
    made = UniversalItemTokenizer.from_pretrained(tmp_path / "made")
    np.testing.assert_array_equal(made.domain_mean, whole.domain_mean)
    assert semantic_ids(made.index) == semantic_ids(whole.index) != expected


def test_a_run_that_was_ended_goes_on_with_another_number_of_actors(session, place, tmp_path, monkeypatch):
    folder, expected = place

    class Interrupted(module.StepBars):
        def __call__(self, step, done, of):
            if (step, done) == ("encode", 1):
                raise KeyboardInterrupt

    monkeypatch.setattr(module, "StepBars", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        tokenize(folder, tmp_path / "made")
    monkeypatch.undo()
    left = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "made").rglob("block-*.parquet")}
    assert (
        left
        and not (tmp_path / "made" / "config.json").exists()
        and not (tmp_path / "made" / module.UNFINISHED / LOCK_NAME).exists()
    )
    written = watched(monkeypatch, tmp_path / "made", "block-*.parquet")
    tokenize(folder, tmp_path / "made", "--num_actors", 1, "--index_only")
    assert left.items() <= written.items() and len(written) == 4  # those that were there are as they were
    made = UniversalItemTokenizer.from_pretrained(tmp_path / "made")
    assert semantic_ids(made.index) == expected and not made.has_network


@pytest.mark.parametrize("in_actors", [True, False])
def test_a_worker_that_dies_is_replaced(session, tmp_path, in_actors):
    class Dies:
        def __init__(self, folder):
            self.folder = folder

        def __call__(self, task):
            mark = Path(self.folder) / f"died-{task['number']}"
            if task["number"] == 2 and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return {"number": task["number"], "process": os.getpid()}

    tasks = [{"number": number} for number in range(5)]
    done = [*spread(tasks, Dies, {"folder": str(tmp_path)}, num_workers=2, in_actors=in_actors)]
    assert sorted(said["number"] for said in done) == [*range(5)] and (tmp_path / "died-2").exists()
    assert os.getpid() not in {said["process"] for said in done}


@pytest.mark.parametrize("in_actors", [True, False])
def test_a_task_that_ends_its_worker_each_time_is_given_up_by_name(session, tmp_path, in_actors):
    class Dies:
        def __call__(self, task):
            if task["number"] == 1:
                with (tmp_path / "tries").open("a") as file:
                    file.write(".")
                os.kill(os.getpid(), signal.SIGKILL)
            return task

    attempts, tasks = Attempts(tmp_path / "begun", ["first", "Block 7"]), [{"number": number} for number in range(2)]
    with pytest.raises(WorkerError, match="^Block 7 ended its process each of the 4 times that it was begun") as found:
        [*spread(tasks, Dies, {}, 2, in_actors=in_actors, attempts=attempts)]
    assert "fewer workers" in str(found.value) and "goes on from there" in str(found.value)
    assert says_what_is_wrong(found.value) and (tmp_path / "tries").read_text() == "...."


def test_a_worker_that_cannot_be_made_without_dying_is_given_up(session):
    class Dies:
        def __init__(self):
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(WorkerError, match="^What does the work ended its process each of the 4 times"):
        [*spread([{}], Dies, {}, 1)]


def test_a_block_that_ends_its_worker_is_named_and_a_later_run_goes_on(session, place, tmp_path, monkeypatch):
    folder, expected = place

    class Poisoned(large_catalogue.SurveyWorker):
        def __call__(self, said):
            if said["number"] == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(said)

    with monkeypatch.context() as patch:
        patch.setattr(large_catalogue, "SurveyWorker", Poisoned)
        with pytest.raises(SystemExit, match=r"^Block 1 \(items 40 to 79, of \S+part-0.*part-2.parquet\) ended"):
            tokenize(folder, tmp_path / "made")
    left = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "made").rglob("ids-*.npy")}
    assert "ids-00000.npy" in left and "ids-00001.npy" not in left
    written = watched(monkeypatch, tmp_path / "made", "ids-*.npy")
    tokenize(folder, tmp_path / "made", "--num_actors", 1, "--index_only")
    assert left.items() <= written.items() and len(written) == 4
    assert semantic_ids(UniversalItemTokenizer.from_pretrained(tmp_path / "made").index) == expected


def test_errors_of_workers_come_with_their_message_alone(session):
    class Fails:
        def __init__(self, error):
            self.error = error

        def __call__(self, task):
            raise self.error

    with pytest.raises(ValueError, match="^part-3: what is wrong$"):
        [*spread([{}], Fails, {"error": ValueError("part-3: what is wrong")}, 1)]
    with pytest.raises(
        WorkerError, match="^A worker of Ray failed: TypeError: a mistake. What is done stays"
    ) as caught:
        [*spread([{}], Fails, {"error": TypeError("a mistake")}, 1)]
    assert says_what_is_wrong(caught.value) and "raise self.error" in caught.value.__notes__[0]
    assert [*spread([], Fails, {"error": ValueError()}, 1)] == []


def test_other_data_are_read_here_and_cut(session, place, tmp_path):
    folder, _ = place
    (tmp_path / "data").mkdir()
    items = pl.read_parquet(folder / "items" / "part-0.parquet")
    items.write_csv(tmp_path / "data" / "items.csv")
    tokenizer = UniversalItemTokenizer.from_pretrained(folder / "tokenizer")
    tokenizer.add_items(Catalogue.from_records(items), block_items=BLOCK)
    tokenize(folder, tmp_path / "made", "--num_actors", 1, data=tmp_path / "data")
    assert semantic_ids(UniversalItemTokenizer.from_pretrained(tmp_path / "made").index) == semantic_ids(
        tokenizer.index
    )


def test_what_is_said_before_ray_starts(place, tmp_path, monkeypatch):
    folder, _ = place

    def never(*_):
        raise AssertionError("Ray was started")

    monkeypatch.setattr(module, "ray_session", never)
    made = tmp_path / "made"
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "part-0.parquet").write_bytes((folder / "items" / "part-0.parquet").read_bytes()[:99])
    with pytest.raises(SystemExit, match="part-0.parquet is cut short"):
        tokenize(folder, made, data=tmp_path / "broken")
    for flags, message in (
        (["--retokenize"], "from the beginning: leave out"),
        (["--num_actors", "0"], "must be 1 or more"),
        (["--block_items", "0"], "must be 1 or more"),
        (["--engine", "spark"], "there are local and ray"),
    ):
        with pytest.raises(SystemExit, match=message):
            tokenize(folder, made, *flags)
    with pytest.raises(SystemExit, match="give --output_dir"):
        tokenize(folder, folder / "tokenizer")
    with pytest.raises(SystemExit, match="items already"):
        tokenize(folder, made, tokenizer=CHECKPOINT)
    with locked_folder(made / module.UNFINISHED), pytest.raises(SystemExit, match="Another run works in"):
        tokenize(folder, made)
    assert not (made / "config.json").exists()
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit, match=r"pip install 'utgrec\[scale\]'"):
        tokenize(folder, made)
    with pytest.raises(ImportError, match="Ray Data"):
        import_ray()


@pytest.mark.parametrize(("code", "message"), [
    ("import pyarrow_that_is_absent", r"is not installed .*pip install 'utgrec\[scale\]'"),
    ("raise AttributeError('pyarrow has no attribute x')", r"does not load \(AttributeError.*--force-reinstall"),
])  # fmt: skip
def test_a_ray_that_does_not_load_is_said_before_the_work(tmp_path, monkeypatch, code, message):
    """By `utgrec prepare`; what stands in for Ray is found before it."""
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    log = pl.DataFrame({"user_id": ["a"] * 5, "item_id": [*"vwxyz"], "timestamp": range(1_600_000_000, 1_600_000_005)})
    log.write_csv(tmp_path / "log.csv")
    given = ["--format", "tabular", "--interactions", str(tmp_path / "log.csv"), "--engine", "ray"]
    with pytest.raises(SystemExit, match=message):
        run_command("prepare", [*given, "--output_dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
