"""Training sequences in files: the same batches as from memory, without being read into it."""

import json

import numpy as np
import pytest

from trainers.data.interactions import Interactions
from trainers.training_data.domain_sampling import DomainSampling
from trainers.training_data.next_item_windows import NextItemCollator, NextItemWindows, join_domains
from trainers.training_data.packed_sequences import PackedCollator, PackedSequences
from trainers.training_data.sequence_store import SETTINGS_NAME, load_sequences, write_sequences


def make_domain(seed: int, num_users: int, num_items: int) -> tuple[Interactions, np.ndarray]:
    rng = np.random.default_rng(seed)
    ids = [str(item) for item in range(num_items)]
    sequences = [[ids[item] for item in rng.integers(0, num_items, rng.integers(0, 9))] for _ in range(num_users)]
    return Interactions.from_sequences(sequences, ids), rng.integers(2, 50, (num_items, 3))


@pytest.fixture
def domains():
    return [make_domain(0, 30, 9), make_domain(1, 1, 4), make_domain(2, 12, 20)]


@pytest.fixture
def stored(tmp_path, domains):
    write_sequences(tmp_path / "store", iter(domains))
    return tmp_path / "store"


def test_what_is_read_is_what_joining_gives(domains, stored):
    interactions, table, num_sequences = load_sequences(stored)
    joined, wanted = join_domains(domains)
    assert num_sequences == [30, 1, 12]
    np.testing.assert_array_equal(interactions.items, joined.items)
    np.testing.assert_array_equal(interactions.offsets, joined.offsets)
    np.testing.assert_array_equal(table, wanted)
    assert (interactions.num_items, interactions.num_users) == (joined.num_items, joined.num_users)


def test_batches_are_the_same_and_the_files_stay_files(domains, stored):
    interactions, table, num_sequences = load_sequences(stored)
    for kind, collator, more in (
        (NextItemWindows, NextItemCollator, {}),
        (PackedSequences, PackedCollator, {}),
        (PackedSequences, PackedCollator, {"with_targets": True, "sampling": DomainSampling(num_sequences, 2.0)}),
    ):
        from_files, from_memory = kind(interactions, table, 5, **more), kind(*join_domains(domains), 5, **more)
        elements = [from_files[at] for at in range(len(from_files))]
        assert elements == [from_memory[at] for at in range(len(from_memory))]
        found, wanted = collator(from_files)(elements), collator(from_memory)(elements)
        assert found.keys() == wanted.keys() and all((found[name] == wanted[name]).all() for name in wanted)
        assert isinstance(from_files.items, np.memmap) and isinstance(from_files.token_table.base, np.memmap)


def test_only_one_domain_is_in_memory(tmp_path):
    """A generator is asked for the next domain when the one before is in the files."""
    sizes = []

    def generate():
        for seed in range(3):
            sizes.append((tmp_path / "items.bin").stat().st_size if seed else 0)
            yield make_domain(seed, 5000, 10)

    write_sequences(tmp_path, generate())
    assert sizes[0] == 0 < sizes[1] < sizes[2]


def test_what_is_broken_is_named(tmp_path, domains, stored):
    with pytest.raises(FileNotFoundError, match=SETTINGS_NAME):
        load_sequences(tmp_path)
    with pytest.raises(ValueError, match="No domains"):
        write_sequences(tmp_path / "none", [])
    other = (domains[1][0], domains[1][1][:, :2])
    with pytest.raises(ValueError, match=r"Domain 1: expected a token table \[4, 3\].* got \(4, 2\)"):
        write_sequences(tmp_path / "odd", [domains[0], other])
    with pytest.raises(FileNotFoundError):
        load_sequences(tmp_path / "odd")
    items = stored / "items.bin"
    items.write_bytes(items.read_bytes()[:-4])
    with pytest.raises(ValueError, match="items.bin has .* bytes, expected"):
        load_sequences(stored)
    values = json.loads((stored / SETTINGS_NAME).read_text())
    (stored / SETTINGS_NAME).write_text(json.dumps({**values, "format_version": 9}))
    with pytest.raises(ValueError, match="format version 9"):
        load_sequences(stored)
