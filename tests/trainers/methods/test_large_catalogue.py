"""A catalogue in parts against the same on one machine; the parts are done here, one after the other, without Ray."""

import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from modeling_utgrec import RQVAEConfig, RQVAEModel
from tokenization_items import CapacityError, CatalogueError, UniversalItemTokenizer
from tokenization_items.catalogue_shards import CatalogueShards
from tokenization_items.collision_report import CollapsedCodesError
from tokenization_items.processing_content import EmbeddingProcessor
from tokenization_items.sharded_index import ShardedItemIndex
from tokenization_items.text_statistics import FittedTextStatistics
from trainers.methods import large_catalogue as module
from trainers.methods.large_catalogue import TokenizingTask, Workers, merged_report, tokenize_shards

WORDS = ["red", "blue", "iron", "oak", "tall", "tiny", "warm", "cold", "kettle", "lamp", "chair", "spade"]
WORKERS = Workers(num_workers=2)


def texts_of(num_items, seed):
    rng = np.random.default_rng(seed)
    return [" ".join(WORDS[word] for word in rng.integers(0, len(WORDS), 4)) for _ in range(num_items)]


def make_tokenizer(folder, sizes):
    """An RQ-VAE that reads TF-IDF, as it begins: its codes collide."""
    torch.manual_seed(0)
    vectors, statistics = FittedTextStatistics.fit(texts_of(300, 0), width=8)
    config = RQVAEConfig(
        input_dim=vectors.shape[1], hidden_sizes=[], codebook_dim=6, num_levels=len(sizes), codebook_size=sizes[0]
    )
    network = RQVAEModel(config)
    residual = torch.from_numpy(vectors)
    with torch.no_grad():  # each level's codes are residuals of some items, so that all of them are used
        states = network(residual).residuals[:, 0]
        for codebook in network.quantizer.codebooks:
            vectors_of_level = states[torch.randperm(len(states))[: sizes[0]]]
            codebook.set_vectors(vectors_of_level)
            states = states - vectors_of_level[codebook.nearest(states, vectors_of_level)]
    UniversalItemTokenizer.from_network(network, EmbeddingProcessor(config, statistics)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"), [8, 8, 8])


def write_shards(folder, item_ids, texts, cuts):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for number, rows in enumerate(np.split(np.arange(len(item_ids)), cuts)):
        table = {"item_id": [item_ids[row] for row in rows], "title": [texts[row] for row in rows]}
        table["item_id"] = pa.array(table["item_id"], pa.string())
        table["title"] = pa.array(table["title"], pa.string())
        pq.write_table(pa.table(table), folder / f"part-{number:03}.parquet")
    return CatalogueShards.find(folder)


def task_of(shards, folder, tokenizer_folder, **settings):
    folder.mkdir(exist_ok=True)
    index = UniversalItemTokenizer.from_pretrained(tokenizer_folder).index
    usual = {"block_items": 64, "batch_tokens": 8192, "range_items": 60} | settings
    return TokenizingTask(shards, folder, str(tokenizer_folder), None, index.level_sizes, index.level_offsets, **usual)


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """Does the tasks in this process; returns them."""
    done = []

    def spread(tasks, worker, arguments, *rest):
        made = worker(**arguments)
        for each in tasks:
            done.append((worker.__name__, each["number"]))
            yield made(each)

    monkeypatch.setattr(module, "spread", spread)
    return done


def semantic_ids(index):
    return {item_id: codes.tolist() for item_id, codes in zip(index.item_ids, index.codes[:], strict=True)}


def on_one_machine(shards, tokenizer_folder, block_items=64):
    tokenizer = UniversalItemTokenizer.from_pretrained(tokenizer_folder)
    catalogue = shards.read([piece for block in shards.blocks() for piece in block])
    report = tokenizer.add_items(catalogue, block_items=block_items)
    return semantic_ids(tokenizer.index), report


@pytest.mark.parametrize(("num_items", "is_spread"), [(60, False), (420, True), (512, True)])
def test_equals_one_machine(tmp_path, tokenizer_folder, here, num_items, is_spread):
    """With few collisions, with first codes that overflow, and with every semantic ID taken."""
    rng = np.random.default_rng(1)
    item_ids = [f"item {row}ü" for row in rng.permutation(num_items)]
    shards = write_shards(tmp_path / "items", item_ids, texts_of(num_items, 2), [7, 7, num_items // 2])
    expected, one = on_one_machine(shards, tokenizer_folder)
    tokenizer = UniversalItemTokenizer.from_pretrained(tokenizer_folder)
    task = task_of(shards, tmp_path / "work", tokenizer_folder, range_items=25)
    report = tokenize_shards(tokenizer, task, WORKERS, allow_collapsed=True)
    index = ShardedItemIndex(task.index)
    index.check()
    assert semantic_ids(index) == expected
    assert (task.folder / module.SPREAD_NAME).is_file() == is_spread
    assert len(index._shards) > 1 and len(index._lookup.tables) == -(-num_items // 25)
    assert index.find(item_ids).min() >= 0 and index.titles[index.find(item_ids)[0]] == texts_of(num_items, 2)[0]
    for name, value in one.to_dict().items():
        assert report.to_dict()[name] == pytest.approx(value, rel=1e-6), name
    assert one.items_moved > 0


def test_does_not_depend_on_how_the_items_are_cut(tmp_path, tokenizer_folder):
    item_ids, texts = [f"i{row}" for row in range(200)], texts_of(200, 3)
    found = []
    for number, cuts in enumerate([[], [1, 2, 3, 150], [*range(0, 200, 20)]]):
        shards = write_shards(tmp_path / f"items{number}", item_ids, texts, cuts)
        task = task_of(shards, tmp_path / f"work{number}", tokenizer_folder, range_items=[10**6, 1, 30][number])
        tokenize_shards(UniversalItemTokenizer.from_pretrained(tokenizer_folder), task, WORKERS, True)
        found.append(semantic_ids(ShardedItemIndex(task.index)))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("sizes", [[280], [24, 24]])
def test_one_and_two_levels(tmp_path, sizes):
    folder = make_tokenizer(tmp_path / "tokenizer", sizes)
    shards = write_shards(tmp_path / "items", [f"i{row}" for row in range(250)], texts_of(250, 4), [100])
    task = task_of(shards, tmp_path / "work", folder)
    tokenize_shards(UniversalItemTokenizer.from_pretrained(folder), task, WORKERS, allow_collapsed=True)
    assert semantic_ids(ShardedItemIndex(task.index)) == on_one_machine(shards, folder)[0]


class Killed(BaseException):
    """Ends a run wherever it is."""


@pytest.mark.parametrize("after", [0, 1, 3, 5, 7, 9, 11])
def test_a_killed_run_goes_on(tmp_path, tokenizer_folder, monkeypatch, here, after):
    shards = write_shards(tmp_path / "items", [f"i{row}" for row in range(200)], texts_of(200, 3), [90])
    expected, _ = on_one_machine(shards, tokenizer_folder)
    task = task_of(shards, tmp_path / "work", tokenizer_folder)
    whole = module.spread

    def killed(tasks, *rest):
        for said in whole(tasks, *rest):
            if len(here) > after:
                raise Killed
            yield said

    monkeypatch.setattr(module, "spread", killed)
    tokenizer = UniversalItemTokenizer.from_pretrained(tokenizer_folder)
    with pytest.raises(Killed):
        tokenize_shards(tokenizer, task, WORKERS, allow_collapsed=True)
    monkeypatch.setattr(module, "spread", whole)
    tokenize_shards(tokenizer, task, WORKERS, allow_collapsed=True)
    assert len(here) == len({*here})  # nothing is done twice: what was written is there
    assert semantic_ids(ShardedItemIndex(task.index)) == expected


def test_a_block_that_was_cut_short_is_done_again(tmp_path, tokenizer_folder, here):
    shards = write_shards(tmp_path / "items", [f"i{row}" for row in range(200)], texts_of(200, 3), [90])
    task = task_of(shards, tmp_path / "work", tokenizer_folder)
    tokenizer = UniversalItemTokenizer.from_pretrained(tokenizer_folder)
    tokenize_shards(tokenizer, task, WORKERS, allow_collapsed=True)
    before = semantic_ids(ShardedItemIndex(task.index))
    task.codes(1).write_bytes(task.codes(1).read_bytes()[:-9])
    here.clear()
    tokenize_shards(tokenizer, task, WORKERS, allow_collapsed=True)
    assert here == [("EncodingWorker", 1)] and semantic_ids(ShardedItemIndex(task.index)) == before


def test_what_is_wrong_is_said_before_a_network_is_loaded(tmp_path, tokenizer_folder, here):
    tokenizer, texts = UniversalItemTokenizer.from_pretrained(tokenizer_folder), texts_of(100, 3)
    twice = write_shards(tmp_path / "items", ["a", *(f"i{row}" for row in range(98)), "a"], texts, [50])
    with pytest.raises(CatalogueError, match="item 'a': part-000.parquet, row 0; part-001.parquet, row 49"):
        tokenize_shards(tokenizer, task_of(twice, tmp_path / "work", tokenizer_folder), WORKERS)
    empty = write_shards(tmp_path / "items", [f"i{row}" for row in range(100)], [*texts[:98], "", "x"], [50])
    with pytest.raises(CatalogueError, match="part-001.parquet, from row 14 on: .*\n.*'i98'.*empty text"):
        tokenize_shards(tokenizer, task_of(empty, tmp_path / "other", tokenizer_folder), WORKERS)
    assert {name for name, _ in here} == {"SurveyWorker"}
    many = write_shards(tmp_path / "items", [f"i{row}" for row in range(513)], texts_of(513, 3), [])
    here.clear()
    with pytest.raises(CapacityError, match="513 new items"):
        tokenize_shards(tokenizer, task_of(many, tmp_path / "many", tokenizer_folder), WORKERS)
    shards = write_shards(tmp_path / "items", [f"i{row}" for row in range(20)], texts_of(20, 3), [])
    tokenizer.add_items([{"item_id": "first", "title": "red lamp"}])
    with pytest.raises(ValueError, match="has 1 items already"):
        tokenize_shards(tokenizer, task_of(shards, tmp_path / "some", tokenizer_folder), WORKERS)
    assert not here


def test_codes_that_tell_nothing_apart_make_no_index(tmp_path, tokenizer_folder):
    shards = write_shards(tmp_path / "items", [f"i{row}" for row in range(300)], ["red lamp"] * 300, [90])
    task = task_of(shards, tmp_path / "work", tokenizer_folder)
    with pytest.raises(CollapsedCodesError):
        tokenize_shards(UniversalItemTokenizer.from_pretrained(tokenizer_folder), task, WORKERS)
    assert not (task.index / "index.json").exists()


def test_texts_that_are_equal_are_told_apart_as_on_one_machine(tmp_path, tokenizer_folder):
    """Their distances are equal to the bit, so that the ids alone decide."""
    shards = write_shards(tmp_path / "items", [f"i{row}" for row in range(120)], texts_of(12, 5) * 10, [50])
    task = task_of(shards, tmp_path / "work", tokenizer_folder)
    tokenize_shards(UniversalItemTokenizer.from_pretrained(tokenizer_folder), task, WORKERS, allow_collapsed=True)
    assert semantic_ids(ShardedItemIndex(task.index)) == on_one_machine(shards, tokenizer_folder)[0]


def test_how_many_workers_there_are():
    assert Workers.of_cluster({"CPU": 16.0, "GPU": 4.0}, None, 2, use_cpu=False) == Workers(4, 2, 1.0)
    assert Workers.of_cluster({"CPU": 16.0, "GPU": 4.0}, None, 2, use_cpu=True) == Workers(7, 2, 0.0)
    assert Workers.of_cluster({"CPU": 1.0}, None, 1, use_cpu=True) == Workers(1, 1, 0.0)
    assert Workers.of_cluster({"CPU": 2.0}, 5, 1, use_cpu=False) == Workers(5, 1, 0.0)


def test_reports_are_added_up():
    part = {"items": 2, "sharing": 2, "largest": 2, "moved": [0, 1], "extra": 0.5, "max_extra": 0.5}
    other = {"items": 3, "sharing": 0, "largest": 1, "moved": [0, 0], "extra": 0.0, "max_extra": 0.0}
    report = merged_report([part, other], [np.array([4, 1]), np.array([5, 0])])
    assert (report.num_items, report.items_sharing_codes, report.largest_group) == (5, 2, 2)
    assert report.used == [1.0, 0.5] and report.perplexity[1] == 1.0 and report.mean_extra_distance == 0.5
    assert replace(report, items_moved=0) != report and report.moved_by_level == [0, 1]
