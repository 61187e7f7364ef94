"""Targets of a corpus in an order that is a function of the epoch."""

import numpy as np
import pytest

from trainers.data.interactions import Interactions
from trainers.training_data.corpus import SequenceCorpus
from trainers.training_data.domain_sampling import DomainSampling
from trainers.training_data.next_item_windows import NextItemCollator, NextItemWindows
from trainers.training_data.streamed_windows import StreamedWindows

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


def test_what_cannot_be():
    corpus = make_corpus(20)
    for wrong, message in (
        ({"token_table": TABLE[:-1]}, r"token table \[30, L\] for the items of the corpus's domains a"),
        ({"token_table": TABLE - 1}, "above 0, the padding"),
        ({"max_history": 0}, "max_history must be at least 1"),
        ({"buffer_targets": 5, "group_targets": 6}, "at least a group of 6 targets"),
        ({"temperature": 0.0}, "must be above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            StreamedWindows(corpus, **{"token_table": TABLE, **wrong})
