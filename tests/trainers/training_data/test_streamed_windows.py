"""Targets, packed rows and windows of a corpus in an order that is a function of the epoch."""

import itertools

import numpy as np
import pytest

from trainers.data.interactions import Interactions
from trainers.training_data.corpus import SequenceCorpus
from trainers.training_data.domain_sampling import DomainSampling
from trainers.training_data.next_item_windows import NextItemCollator, NextItemWindows
from trainers.training_data.packed_sequences import PackedCollator
from trainers.training_data.sequence_windows import SequenceWindows
from trainers.training_data.streamed_windows import StreamedRows, StreamedSequences, StreamedWindows

ITEMS = 30
TABLE = np.arange(1, ITEMS * 2 + 1).reshape(ITEMS, 2)


def make_corpus(*domains: int, seed: int = 0) -> SequenceCorpus:
    """So many sequences of 2 to 9 items in each domain."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 10, sum(domains))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    items = rng.integers(0, ITEMS, offsets[-1]).astype(np.int32)
    counts = (ITEMS, *[0] * (len(domains) - 1))
    return SequenceCorpus(items, offsets, tuple("abcdef"[: len(domains)]), domains, counts)


def in_memory(corpus: SequenceCorpus) -> Interactions:
    ids = [str(row) for row in range(ITEMS)]
    return Interactions(ids, [str(user) for user in range(corpus.num_users)], corpus.items, corpus.offsets)


def epoch_of(windows: StreamedWindows, batch: int = 7) -> np.ndarray:
    parts = [windows.__getitems__(range(a, min(a + batch, len(windows)))) for a in range(0, len(windows), batch)]
    return np.concatenate(parts)


@pytest.mark.parametrize("buffer, group", [(1, 1), (50, 10), (64, 64), (10_000, 20)])
def test_every_target_once_an_epoch_in_another_order(buffer, group):
    corpus = make_corpus(120, 30)
    windows = StreamedWindows(corpus, TABLE, 5, buffer_targets=buffer, group_targets=group, seed=3)
    plain = NextItemWindows(in_memory(corpus), TABLE, 5)
    expected = plain.__getitems__(range(len(plain)))
    epochs = []
    for epoch in range(2):
        windows.set_epoch(epoch)
        epochs.append(epoch_of(windows))
        assert len(windows) == len(plain) and np.sort(epochs[-1]).tolist() == expected.tolist()
    assert not np.array_equal(*epochs) and not np.array_equal(epochs[0], expected)
    windows.set_epoch(0)
    assert np.array_equal(epoch_of(windows, batch=11), epochs[0])
    batch = [NextItemCollator(each)(expected[:9]) for each in (windows, plain)]
    assert all(np.array_equal(batch[0][name], batch[1][name]) for name in batch[1])


def test_any_element_is_known_without_those_before():
    windows = StreamedWindows(make_corpus(200), TABLE, buffer_targets=80, group_targets=16)
    whole = epoch_of(windows)
    again = StreamedWindows(make_corpus(200), TABLE, buffer_targets=80, group_targets=16)
    at = np.random.default_rng(0).permutation(len(again))[:50]
    assert np.array_equal(again.__getitems__(at), whole[at])
    assert again[17] == whole[17] and again[len(again) - 1] == whole[-1]


def test_a_buffer_holds_targets_from_everywhere():
    """Groups of one buffer are not those that lie together."""
    windows = StreamedWindows(make_corpus(2000), TABLE, buffer_targets=400, group_targets=20)
    first = epoch_of(windows)[:400]
    assert np.ptp(first) > len(windows.items) * 0.7
    correlation = np.corrcoef(np.arange(len(windows)), epoch_of(windows))[0, 1]
    assert abs(correlation) < 0.1


def test_domains_have_their_shares_under_a_temperature():
    corpus = make_corpus(900, 60, 200)
    windows = StreamedWindows(corpus, TABLE, temperature=2.0, buffer_targets=200, group_targets=10)
    ends = corpus.offsets[np.cumsum(corpus.num_sequences)]
    sizes = np.diff([0, *(ends - np.cumsum(corpus.num_sequences))])
    expected = DomainSampling(corpus.num_sequences, 2.0).shares(sizes)
    seen = []
    for epoch in range(2):
        windows.set_epoch(epoch)
        order = epoch_of(windows)
        assert len(order) == sizes.sum()  # as long as every epoch
        found = np.bincount(np.searchsorted(ends, order, side="right"), minlength=3) / len(order)
        assert np.abs(found - expected).max() < 0.02
        seen.append(order)
    assert not np.array_equal(*seen)
    # a small domain more than once, a target of it as often as any other up to one time and what the end cuts off
    _, often = np.unique(seen[0][(seen[0] >= ends[0]) & (seen[0] < ends[1])], return_counts=True)
    assert often.min() >= 2 and often.max() - often.min() <= 2


def pairs_of(rows: StreamedRows) -> list[tuple[int, ...]]:
    """Items with the one that follows, of all rows that an epoch reads."""
    found = []
    for start in range(0, len(rows), 7):
        batch = PackedCollator(rows)(rows.__getitems__(range(start, min(start + 7, len(rows)))))
        inputs, labels = batch["input_ids"].numpy()[:, ::2], batch["labels"].numpy()[:, ::2]
        real = labels > 0
        assert real.sum(axis=1).max() <= 5
        found += zip(inputs[real].tolist(), labels[real].tolist(), strict=True)
    return sorted(found)


@pytest.mark.parametrize("buffer, group", [(40, 10), (64, 64), (10_000, 500)])
def test_packed_rows_have_every_target_once_an_epoch(buffer, group):
    corpus = make_corpus(120, 30)
    rows = StreamedRows(corpus, TABLE, 5, buffer_targets=buffer, group_targets=group, seed=3)
    interactions = in_memory(corpus)
    sequences = [TABLE[interactions.sequence(user), 0].tolist() for user in range(interactions.num_users)]
    expected = sorted(pair for each in sequences for pair in itertools.pairwise(each))
    assert len(rows) < len(StreamedSequences(corpus, "all", 5))  # several windows share one
    firsts = []
    for epoch in range(2):
        rows.set_epoch(epoch)
        assert pairs_of(rows) == expected
        firsts.append(rows.__getitems__(range(len(rows))))
    assert not all(np.array_equal(*pair) for pair in zip(*firsts, strict=True))  # in another order
    names = [sorted(each[0, 0] for each in epoch) for epoch in firsts]
    assert names[0] == names[1]  # the same rows
    decoder = StreamedRows(corpus, TABLE, 5, with_targets=True, buffer_targets=buffer, group_targets=group)
    labels = PackedCollator(decoder)([decoder[row] for row in range(len(decoder))])["labels"][:, ::2]
    assert (labels > 0).sum() == len(expected) == decoder.num_targets


def test_targets_of_a_horizon_are_the_same_in_any_batch_of_the_same_rows():
    rows = StreamedRows(make_corpus(200), TABLE, 5, buffer_targets=80, group_targets=16)
    again = StreamedRows(make_corpus(200), TABLE, 5, buffer_targets=80, group_targets=16)
    at = np.random.default_rng(0).permutation(len(rows))[:9]
    first, second = (PackedCollator(each, horizon=4, seed=1)(each.__getitems__(at)) for each in (rows, again))
    assert all((first[name] == second[name]).all() for name in first)
    again.set_epoch(1)
    other = PackedCollator(again, horizon=4, seed=1)(rows.__getitems__(at))
    assert (other["labels"] != first["labels"]).any() and (other["input_ids"] == first["input_ids"]).all()


@pytest.mark.parametrize("targets", ["all", "last", "cloze"])
def test_windows_of_items_are_those_in_memory(targets):
    corpus = make_corpus(120, 30)
    plain = SequenceWindows(in_memory(corpus), targets, 3)
    streamed = StreamedSequences(corpus, targets, 3, buffer_targets=50, group_targets=10)
    found = streamed.__getitems__(range(len(streamed)))
    expected = plain.__getitems__(range(len(plain)))
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, expected.tolist()))
    assert not np.array_equal(found, expected) and streamed[3].tolist() == found[3].tolist()
    at = np.random.default_rng(0).permutation(len(found))[:30]
    again = StreamedSequences(corpus, targets, 3, buffer_targets=50, group_targets=10)
    assert np.array_equal(again.__getitems__(at), found[at])


def test_rows_have_the_shares_of_their_domains_under_a_temperature():
    corpus = make_corpus(900, 60, 200)
    rows = StreamedRows(corpus, TABLE, 5, temperature=2.0, buffer_targets=200, group_targets=50)
    ends = corpus.offsets[np.cumsum(corpus.num_sequences)]
    sizes = np.diff([0, *(ends - np.cumsum(corpus.num_sequences))])
    found = np.zeros(3)
    for windows in rows.__getitems__(range(len(rows))):
        domains = np.searchsorted(ends, windows[:, 0], side="right")
        assert len(set(domains)) == 1  # a row is of one domain
        found[domains[0]] += (windows[:, 1] - windows[:, 0] - 1).sum()
    np.testing.assert_allclose(found / found.sum(), DomainSampling(corpus.num_sequences, 2.0).shares(sizes), atol=0.02)


def test_what_cannot_be():
    corpus = make_corpus(20)
    for wrong, message in (
        ({"token_table": TABLE[:-1]}, r"token table \[30, L\] for the items of the corpus's domains a"),
        ({"token_table": TABLE - 1}, "above 0, the padding"),
        ({"max_history": 0}, "max_history must be at least 1"),
        ({"buffer_targets": 5, "group_targets": 6}, "at least a group of 6 targets"),
        ({"temperature": 0.0}, "must be above 0"),
    ):
        for kind in (StreamedWindows, StreamedRows):
            with pytest.raises(ValueError, match=message):
                kind(corpus, **{"token_table": TABLE, **wrong})
    with pytest.raises(ValueError, match="max_history must be at least 1"):
        StreamedSequences(corpus, "all", 0)
