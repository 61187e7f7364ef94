"""Corpora on disk: the training sequences of the prepared folders, and what is wrong with one."""

from datetime import datetime

import numpy as np
import polars as pl
import pytest

from trainers.data import interaction_parts
from trainers.data.interactions import Interactions
from trainers.data.preparation import PreparationChoices
from trainers.data.prepared_folder import prepare_data_set
from trainers.data.readers import TabularReader
from trainers.training_data.corpus import CorpusError, SequenceCorpus, write_corpus


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("domains")
    rng = np.random.default_rng(0)
    for name, split in (("a", "leave-one-out"), ("b", "ratio")):
        rows = 300
        log = {
            "user_id": rng.integers(0, 70, rows),
            "item_id": rng.integers(0, 20, rows),
            "timestamp": rng.integers(1_600_000_000, 1_600_009_000, rows),
        }
        pl.DataFrame(log).write_parquet(folder / f"{name}.parquet")
        choices = PreparationChoices(k_core=0, repeats="all", split=split)
        reader = TabularReader(folder / f"{name}.parquet")
        prepare_data_set(reader, folder / name, choices, datetime(2026, 1, 1))
    return {name: folder / name for name in ("a", "b")}


@pytest.mark.parametrize("read_rows", [1, 7, 10_000])
def test_the_sequences_are_those_of_the_training_parts(folders, tmp_path, monkeypatch, read_rows):
    monkeypatch.setattr(interaction_parts, "READ_ROWS", read_rows)
    corpus = write_corpus(tmp_path / "corpus", folders)
    parts, expected, first, item_ids = [], [], 0, []
    for folder in folders.values():
        ids = pl.read_parquet(folder / "items.parquet")["item_id"].to_list()
        parts.append(Interactions.from_folder(folder, ids).training_part())
        sequences = [parts[-1].sequence(user) + first for user in range(parts[-1].num_users)]
        expected += [sequence.tolist() for sequence in sequences if len(sequence) >= 2]
        first += len(ids)
        item_ids += ids
    assert corpus.item_ids == item_ids
    found = [corpus.items[a:b].tolist() for a, b in zip(corpus.offsets[:-1], corpus.offsets[1:], strict=True)]
    assert found == expected and len(found) > 60 and corpus.num_items == first
    assert corpus.domains == ("a", "b") and sum(corpus.num_sequences) == corpus.num_users == len(expected)
    assert isinstance(corpus.items, np.memmap) and corpus.items.dtype == np.int32


def test_what_is_no_corpus(folders, tmp_path):
    with pytest.raises(CorpusError, match="no corpus of sequences"):
        SequenceCorpus.load(tmp_path)
    with pytest.raises(CorpusError, match="Domain 'c': .* lacks prepared.json: make it with `utgrec prepare`"):
        write_corpus(tmp_path / "c", {"c": tmp_path})
    write_corpus(tmp_path / "corpus", folders)
    with pytest.raises(FileExistsError):
        write_corpus(tmp_path / "corpus", folders)
    items = tmp_path / "corpus" / "items.bin"
    items.write_bytes(items.read_bytes()[:-4])
    with pytest.raises(CorpusError, match="items.bin has .* its record says .*half-written"):
        SequenceCorpus.load(tmp_path / "corpus")
    (tmp_path / "corpus" / "offsets.bin").unlink()
    with pytest.raises(CorpusError, match="half-written"):
        SequenceCorpus.load(tmp_path / "corpus")
