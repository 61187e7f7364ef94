"""Temperature sampling over domains: small ones count more in pre-training than they would by their size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class DomainSampling:
    """How often the targets of each of several joined domains are trained on.

    An epoch takes a share `n_d^(1/T) / Σ n^(1/T)` of its targets from domain d with `n_d` targets, and has about as
    many as there are in all. With T = 1 that is every target once; the larger T, the more alike the domains. Within a
    domain every element comes as often as any other, up to one time more or less. What an epoch takes is drawn from
    the seed and its number: a resumed training sees what an uninterrupted one does.

    Args:
        num_sequences (`Sequence[int]`): sequences of each domain, as [`join_domains`] puts them one after the other.
        temperature (`float`): T, above 0; infinity for all domains alike.
        seed (`int`, *optional*, defaults to 0): of the draws.

    Raises:
        ValueError: no domain, or a temperature that is not above 0.

    Example:

    ```python
    >>> sampling = DomainSampling([1000, 10], temperature=2.0)
    >>> sampling.shares(np.array([900, 100]))
    array([0.75, 0.25])
    ```
    """

    def __init__(self, num_sequences: Sequence[int], temperature: float, seed: int = 0):
        if not len(num_sequences):
            raise ValueError("No domains to sample from: give the number of sequences of each.")
        check_temperature(temperature)
        self.first_sequences = np.concatenate([np.zeros(1, np.int64), np.cumsum(num_sequences, dtype=np.int64)])
        self.temperature = temperature
        self.seed = seed

    def check(self, num_sequences: int) -> None:
        """Raises ValueError unless the domains have that many sequences together."""
        if self.first_sequences[-1] != num_sequences:
            raise ValueError(
                f"The domains to sample from have {self.first_sequences[-1]} sequences, the training part "
                f"{num_sequences}: give the numbers that join_domains has put together."
            )

    def shares(self, sizes: np.ndarray) -> np.ndarray:
        """float64 [D], the share of an epoch's targets that comes from each domain of `sizes` [D] targets."""
        # Relative to the largest, so that no power overflows; a domain without targets gets nothing.
        weights = np.where(sizes > 0, (np.asarray(sizes) / np.max(sizes)) ** (1 / self.temperature), 0.0)
        return weights / weights.sum()

    def counts(self, sizes: np.ndarray, total: int) -> np.ndarray:
        """int64 [D], targets of each domain in an epoch of `total` targets."""
        wanted = self.shares(sizes) * total
        counts = np.floor(wanted + 1e-9).astype(np.int64)
        largest = np.argsort(counts - wanted, kind="stable")[: total - int(counts.sum())]  # the largest remainders
        counts[largest] += 1
        return counts

    def draw(self, firsts: np.ndarray, counts: np.ndarray, epoch: int) -> np.ndarray:
        """The elements of an epoch.

        Args:
            firsts (`np.ndarray`): int [D + 1]; domain d has the elements `firsts[d]` to `firsts[d + 1]` (exclusive).
            counts (`np.ndarray`): int [D]; elements to take of each domain.
            epoch (`int`): number of the epoch.

        Returns:
            int64 [Σ counts] elements, sorted.
        """
        drawn = []
        for domain, count in enumerate(counts.tolist()):
            size = int(firsts[domain + 1] - firsts[domain])
            if not size:
                continue
            rng = np.random.default_rng((self.seed, epoch, domain))
            elements = [np.tile(np.arange(size), count // size), rng.choice(size, count % size, replace=False)]
            drawn.append(firsts[domain] + np.sort(np.concatenate(elements)))
        return np.concatenate(drawn)


def check_temperature(temperature: float) -> None:
    """Raises ValueError unless the temperature is above 0."""
    if not temperature > 0:
        raise ValueError(f"The temperature of the sampling over domains must be above 0, got {temperature}.")
