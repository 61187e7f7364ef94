"""Elements of a corpus that does not fit in memory, in an order that can be taken up anywhere.

`datasets` streams as well, but what lies in its shuffling buffer is lost when a training resumes. Here the order of an
epoch is a function of its number: groups of sequences that lie together are drawn in random order, so many of them
fill the buffer, and the elements in the buffer are shuffled. Element `i` of an epoch is known without the ones before,
so that a training that resumes in the middle of an epoch goes on with the very next batch, and reads nothing of what
it skips.
"""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from trainers.training_data.corpus import SequenceCorpus
from trainers.training_data.domain_sampling import DomainSampling

GROUP_TARGETS = 1 << 14  # targets that are read together
BUFFER_TARGETS = 1 << 20


class StreamedElements(Dataset):
    """
    Elements of a [`SequenceCorpus`] that a training reads in order, which is a random one already. What the elements
    of some sequences are a subclass says, in `_read`.

    Memory: the buffer, and 24 bytes for each group of sequences.

    Args:
        corpus ([`SequenceCorpus`]): sequences of one domain or several.
        temperature (`float`, *optional*, defaults to 1.0): of the sampling over domains, see [`DomainSampling`]; 1:
            every element once an epoch. Otherwise an epoch takes whole groups, and has as many elements as there are.
        buffer_targets (`int`, *optional*, defaults to 1,048,576): targets whose elements are shuffled together, in
            groups from everywhere in the corpus.
        seed (`int`, *optional*, defaults to 0): of the order.
        group_targets (`int`, *optional*): targets of a group, about; by default 16,384, or those of the buffer if it
            holds fewer.

    Raises:
        ValueError: a buffer smaller than a group, or a temperature that is not above 0.
    """

    def __init__(
        self,
        corpus: SequenceCorpus,
        temperature: float = 1.0,
        buffer_targets: int = BUFFER_TARGETS,
        seed: int = 0,
        group_targets: int | None = None,
    ):
        group_targets = min(GROUP_TARGETS, buffer_targets) if group_targets is None else group_targets
        if not 1 <= group_targets <= buffer_targets:
            raise ValueError(
                f"The buffer holds at least a group of {group_targets} targets, got buffer_targets {buffer_targets}."
            )
        self.items, self.offsets = corpus.items, corpus.offsets
        self.seed, self.groups_of_buffer = seed, buffer_targets // group_targets
        self.sampling = DomainSampling(corpus.num_sequences, temperature, seed) if temperature != 1 else None
        firsts = np.concatenate([np.zeros(1, np.int64), np.cumsum(corpus.num_sequences)])
        starts = [
            self._cut(first, end, group_targets)
            for first, end in zip(firsts[:-1].tolist(), firsts[1:].tolist(), strict=True)
        ]
        self.first_groups = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(each) for each in starts])])
        self.group_starts = np.concatenate([*starts, firsts[-1:]])  # the first sequence of each group, and the end
        self.group_targets = np.diff(np.asarray(self.offsets[self.group_starts]) - self.group_starts)
        self.group_sizes = self._sizes()
        self._block: tuple[int, np.ndarray] | None = None  # the buffer: its number, and its elements in order
        self.set_epoch(0)

    @abstractmethod
    def _read(self, first: int, end: int) -> np.ndarray:
        """The elements of the sequences from `first` to before `end`, `[N, ...]`, the same each time."""

    def _sizes(self) -> np.ndarray:
        """Elements of each group, int64 `[groups]`."""
        pairs = zip(self.group_starts[:-1].tolist(), self.group_starts[1:].tolist(), strict=True)
        return np.array([len(self._read(first, end)) for first, end in pairs], np.int64)

    def _cut(self, first: int, end: int, group_targets: int) -> np.ndarray:
        """First sequences of a domain's groups: those from `first` to `end`, with about as many targets each."""
        before = self._targets_before
        total = before(end) - before(first)
        goals = range(before(first), before(end), -(-total // max(1, round(total / group_targets))))
        return np.unique([bisect_left(range(end), goal, lo=first, key=before) for goal in goals])

    def _targets_before(self, sequence: int) -> int:
        """Targets of the sequences before one: all of their items but the first."""
        return int(self.offsets[sequence]) - sequence

    @property
    def num_targets(self) -> int:
        """All targets, whatever the sampling."""
        return self._targets_before(len(self.offsets) - 1)

    def set_epoch(self, epoch: int) -> None:
        """The number of the epoch, on which the order depends; under a temperature, the elements, too."""
        self.epoch, self._block = epoch, None
        drawn = np.arange(len(self.group_sizes))
        if self.sampling is not None:
            before = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.group_targets)])
            targets, groups = np.diff(before[self.first_groups]), np.diff(self.first_groups)
            wanted = self.sampling.counts(targets, self.num_targets) * groups / targets
            drawn = self.sampling.draw(self.first_groups, np.maximum(np.rint(wanted).astype(np.int64), 1), epoch)
        order = np.random.default_rng((self.seed, epoch)).permutation(drawn)
        while (missing := len(self) - self.group_sizes[order].sum()) > 0:  # of groups that are smaller
            more = np.searchsorted(np.cumsum(self.group_sizes[order]), missing) + 1
            order = np.concatenate([order, order[:more]])
        self.order = order
        ends = np.cumsum(self.group_sizes[order])
        last = np.arange(self.groups_of_buffer - 1, len(order) + self.groups_of_buffer - 1, self.groups_of_buffer)
        self.block_ends = ends[np.minimum(last, len(order) - 1)]

    def __len__(self) -> int:
        return int(self.group_sizes.sum())

    def __getitem__(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(f"element {index} of {len(self)}")
        return self.__getitems__([index % len(self)])[0]

    def __getitems__(self, indices: Sequence[int]) -> np.ndarray:
        """The elements of a batch, `[B, ...]`. Those of one buffer should be asked for together."""
        elements = np.asarray(indices, np.int64)
        blocks = np.searchsorted(self.block_ends, elements, side="right")
        order = np.argsort(blocks, kind="stable")
        pieces = [
            self._elements_of(block)[elements[blocks == block] - (self.block_ends[block - 1] if block else 0)]
            for block in np.unique(blocks).tolist()
        ]
        found = np.concatenate(pieces)
        batch = np.empty_like(found)
        batch[order] = found
        return batch

    def _elements_of(self, block: int) -> np.ndarray:
        """The elements of one filling of the buffer, in the order in which they are read."""
        if self._block is None or self._block[0] != block:
            groups = self.order[block * self.groups_of_buffer : (block + 1) * self.groups_of_buffer]
            starts, ends = self.group_starts[groups].tolist(), self.group_starts[groups + 1].tolist()
            parts = [self._read(first, end) for first, end in zip(starts, ends, strict=True)]
            rng = np.random.default_rng((self.seed, self.epoch, block))
            self._block = block, rng.permutation(np.concatenate(parts))
        return self._block[1]
