"""Temperature sampling over domains: shares by the formula, fair within a domain, the same for a seed and an epoch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.data.interactions import Interactions
from trainers.training_data.domain_sampling import DomainSampling
from trainers.training_data.next_item_windows import NextItemWindows, TrainingData, join_domains
from trainers.training_data.packed_sequences import PackedCollator, PackedSequences

LEVELS = 3


def make_domain(name: str, lengths: list[int], num_items: int = 9) -> tuple[Interactions, np.ndarray]:
    rng = np.random.default_rng(len(lengths))
    ids = [f"{name}{item}" for item in range(num_items)]
    sequences = [[ids[item] for item in rng.integers(0, num_items, length)] for length in lengths]
    return Interactions.from_sequences(sequences, ids), rng.integers(2, 20, (num_items, LEVELS))


def joined(domains):
    """Interactions and token table of several domains, each a pair of them."""
    data = join_domains({str(number): TrainingData(*domain) for number, domain in enumerate(domains)})
    return data.interactions, data.token_table


@pytest.fixture
def domains():
    return [make_domain("a", [6, 2, 8, 5] * 20), make_domain("b", [3, 4]), make_domain("c", [1, 7] * 4)]


def sizes_of(domains) -> np.ndarray:
    return np.array([np.maximum(part.lengths - 1, 0).sum() for part, _ in domains])


def sampling_of(domains, temperature: float, seed: int = 0) -> DomainSampling:
    return DomainSampling([part.num_users for part, _ in domains], temperature, seed)


def domain_of(positions: np.ndarray, domains) -> np.ndarray:
    ends = np.cumsum([len(part.items) for part, _ in domains])
    return np.searchsorted(ends, positions, side="right")


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 10**7), min_size=1, max_size=8).filter(any),
    temperature=st.floats(0.3, 50) | st.just(float("inf")),
    total=st.integers(1, 10**6),
)
def test_shares_are_the_formulas_and_counts_add_up(sizes, temperature, total):
    sampling = DomainSampling([1] * len(sizes), temperature)
    powers = [size ** (1 / temperature) if size else 0 for size in sizes]
    np.testing.assert_allclose(sampling.shares(np.array(sizes)), np.array(powers) / sum(powers), atol=1e-9)
    counts = sampling.counts(np.array(sizes), total)
    assert counts.sum() == total and (np.abs(counts - sampling.shares(np.array(sizes)) * total) < 1 + 1e-6).all()


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    wanted=st.lists(st.integers(0, 70), min_size=4, max_size=4),
    epoch=st.integers(0, 5),
)
def test_elements_of_a_domain_come_equally_often(sizes, wanted, epoch):
    sampling = DomainSampling(sizes, 2.0, seed=3)
    counts = np.array(wanted[: len(sizes)])
    drawn = sampling.draw(sampling.first_sequences, counts, epoch)
    assert np.array_equal(drawn, sampling.draw(sampling.first_sequences, counts, epoch))
    times = np.bincount(drawn, minlength=sum(sizes))
    for domain, (first, end) in enumerate(
        zip(sampling.first_sequences[:-1], sampling.first_sequences[1:], strict=True)
    ):
        assert times[first:end].sum() == counts[domain] and np.ptp(times[first:end]) <= 1


def test_epochs_and_seeds_draw_differently():
    counts = np.array([50, 5])
    draws = {
        DomainSampling([100, 10], 2.0, seed).draw(np.array([0, 100, 110]), counts, epoch).tobytes()
        for seed in (0, 1)
        for epoch in (0, 1, 2)
    }
    assert len(draws) == 6


@pytest.mark.parametrize("temperature", [1.0, 2.0, float("inf")])
def test_windows_take_the_shares(domains, temperature):
    sampling = sampling_of(domains, temperature)
    windows = NextItemWindows(*joined(domains), sampling=sampling)
    assert len(windows) == windows.num_targets and windows.drawn is not None
    for epoch in (0, 1):
        windows.set_epoch(epoch)
        positions = windows.__getitems__(range(len(windows)))
        found = np.bincount(domain_of(positions, domains), minlength=3)
        assert found.tolist() == sampling.counts(sizes_of(domains), windows.num_targets).tolist()
    if temperature == 1:
        assert sorted(positions) == sorted(NextItemWindows(*joined(domains)).__getitems__(range(len(windows))))


@pytest.mark.parametrize("with_targets", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 3.0, float("inf")])
def test_packed_rows_take_the_shares(domains, temperature, with_targets):
    sampling = sampling_of(domains, temperature)
    interactions, table = joined(domains)
    packed = PackedSequences(interactions, table, 10, with_targets=with_targets, sampling=sampling)
    lengths = set()
    for epoch in (0, 1):
        packed.set_epoch(epoch)
        lengths.add(len(packed))
        targets = np.zeros(3)
        for row in (packed[index] for index in range(len(packed))):
            windows = packed.bounds[packed.first_windows[row] : packed.first_windows[row + 1]]
            kinds = domain_of(windows[:, 0], domains)
            assert len(set(kinds)) == 1, "a row is of one domain"
            targets[kinds[0]] += (windows[:, 1] - windows[:, 0] - 1).sum()
        np.testing.assert_allclose(targets / targets.sum(), sampling.shares(sizes_of(domains)), atol=0.03)
    assert len(lengths) == 1
    if temperature == 1:
        assert sorted(packed[index] for index in range(len(packed))) == list(range(len(packed)))


def test_without_sampling_nothing_is_drawn(domains):
    packed = PackedSequences(*joined(domains), 10)
    before = PackedCollator(packed)(range(len(packed)))
    packed.set_epoch(5)
    assert packed.drawn is None and packed[3] == 3
    assert all((before[name] == tensor).all() for name, tensor in PackedCollator(packed)(range(len(packed))).items())


def test_bad_input(domains):
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="above 0"):
            DomainSampling([3], temperature)
    with pytest.raises(ValueError, match="No domains"):
        DomainSampling([], 2.0)
    for dataset in (NextItemWindows, PackedSequences):
        with pytest.raises(ValueError, match="have 5 sequences, the training part 90"):
            dataset(*joined(domains), sampling=DomainSampling([2, 3], 2.0))
