"""Next-item targets of a corpus that does not fit in memory, in an order that can be taken up anywhere.

`datasets` streams as well, but what lies in its shuffling buffer is lost when a training resumes. Here the order of an
epoch is a function of its number: groups of targets that lie together are drawn in random order, so many of them fill
the buffer, and the targets in the buffer are shuffled. Element `i` of an epoch is known without the ones before, so
that a training that resumes in the middle of an epoch goes on with the very next batch, and reads nothing of what it
skips.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokenization_items.histories import PAD_TOKEN_ID
from trainers.training_data.corpus import SequenceCorpus
from trainers.training_data.domain_sampling import DomainSampling
from trainers.training_data.next_item_windows import NextItemWindows

GROUP_TARGETS = 1 << 14  # targets that are read together
BUFFER_TARGETS = 1 << 20


@dataclass
class StreamedData:
    """
    A corpus and semantic IDs, for the training of a generative recommender.

    Args:
        corpus ([`SequenceCorpus`]): sequences of one domain or several.
        token_table (`np.ndarray`): int [n, L] token ids of the items of all domains, in their order.
    """

    corpus: SequenceCorpus
    token_table: np.ndarray


class StreamedWindows(NextItemWindows):
    """
    [`NextItemWindows`] of a [`SequenceCorpus`], to be read in order, which is a random one already.

    Memory: the buffer, 8 bytes for each of its targets, 16 bytes for each group of targets, and the token table.

    Args:
        corpus ([`SequenceCorpus`]): sequences of one domain or several.
        token_table (`np.ndarray`): int [n, L] token ids of the items of all domains, in their order.
        max_history (`int`, *optional*, defaults to 20): items of history.
        temperature (`float`, *optional*, defaults to 1.0): of the sampling over domains, see [`DomainSampling`]; 1:
            every target once an epoch. Otherwise an epoch takes whole groups, and has as many targets as there are.
        buffer_targets (`int`, *optional*, defaults to 1,048,576): targets that are shuffled together, in groups from
            everywhere in the corpus.
        seed (`int`, *optional*, defaults to 0): of the order.
        group_targets (`int`, *optional*, defaults to 16,384): targets of a group, about.

    Raises:
        ValueError: table and corpus differ in size, tokens that are padding, `max_history` below 1, a buffer smaller
            than a group, or a temperature that is not above 0.
    """

    def __init__(
        self,
        corpus: SequenceCorpus,
        token_table: np.ndarray,
        max_history: int = 20,
        temperature: float = 1.0,
        buffer_targets: int = BUFFER_TARGETS,
        seed: int = 0,
        group_targets: int = GROUP_TARGETS,
    ):
        token_table = np.asarray(token_table)
        if token_table.ndim != 2 or len(token_table) != corpus.num_items:
            raise ValueError(
                f"Expected a token table [{corpus.num_items}, L] for the items of the corpus's domains "
                f"{', '.join(corpus.domains)}, got shape {token_table.shape}."
            )
        if (token_table <= PAD_TOKEN_ID).any():
            raise ValueError(f"Tokens must be above {PAD_TOKEN_ID}, the padding (did you pass level-local codes?).")
        if max_history < 1:
            raise ValueError(f"max_history must be at least 1, got {max_history}.")
        if not 1 <= group_targets <= buffer_targets:
            raise ValueError(
                f"The buffer holds at least a group of {group_targets} targets, got buffer_targets {buffer_targets}."
            )
        self.items, self.offsets = corpus.items, corpus.offsets
        self.token_table, self.max_history = token_table, max_history
        self.seed, self.groups_of_buffer = seed, buffer_targets // group_targets
        self.sampling = DomainSampling(corpus.num_sequences, temperature, seed) if temperature != 1 else None
        firsts = np.concatenate([np.zeros(1, np.int64), np.cumsum(corpus.num_sequences)])
        starts = [
            self._cut(first, end, group_targets)
            for first, end in zip(firsts[:-1].tolist(), firsts[1:].tolist(), strict=True)
        ]
        self.first_groups = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(each) for each in starts])])
        self.group_starts = np.concatenate([*starts, firsts[-1:]])  # the first sequence of each group, and the end
        self.group_sizes = np.diff(np.asarray(self.offsets[self.group_starts]) - self.group_starts)
        self._block: tuple[int, np.ndarray] | None = None  # the buffer: its number, and its targets in order
        self.set_epoch(0)

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
        return self._targets_before(len(self.offsets) - 1)

    def set_epoch(self, epoch: int) -> None:
        """The number of the epoch, on which the order depends; under a temperature, the targets, too."""
        self.epoch, self._block = epoch, None
        drawn = np.arange(len(self.group_sizes))
        if self.sampling is not None:
            before = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.group_sizes)])
            targets, groups = np.diff(before[self.first_groups]), np.diff(self.first_groups)
            wanted = self.sampling.counts(targets, self.num_targets) * groups / targets
            drawn = self.sampling.draw(self.first_groups, np.maximum(np.rint(wanted).astype(np.int64), 1), epoch)
        order = np.random.default_rng((self.seed, epoch)).permutation(drawn)
        while (missing := self.num_targets - self.group_sizes[order].sum()) > 0:  # of groups that are smaller
            more = np.searchsorted(np.cumsum(self.group_sizes[order]), missing) + 1
            order = np.concatenate([order, order[:more]])
        self.order = order
        ends = np.cumsum(self.group_sizes[order])
        last = np.arange(self.groups_of_buffer - 1, len(order) + self.groups_of_buffer - 1, self.groups_of_buffer)
        self.block_ends = ends[np.minimum(last, len(order) - 1)]

    def __len__(self) -> int:
        return self.num_targets

    def __getitems__(self, indices: Sequence[int]) -> np.ndarray:
        """Positions of a batch of targets, int64 [B]. Those of one buffer should be asked for together."""
        elements = np.asarray(indices, np.int64)
        blocks = np.searchsorted(self.block_ends, elements, side="right")
        positions = np.empty(len(elements), np.int64)
        for block in np.unique(blocks).tolist():
            here = blocks == block
            positions[here] = self._targets_of(block)[elements[here] - (self.block_ends[block - 1] if block else 0)]
        return positions

    def _targets_of(self, block: int) -> np.ndarray:
        """The targets of one filling of the buffer, as positions, in the order in which they are read."""
        if self._block is None or self._block[0] != block:
            parts = []
            for group in self.order[block * self.groups_of_buffer : (block + 1) * self.groups_of_buffer].tolist():
                offsets = np.asarray(self.offsets[self.group_starts[group] : self.group_starts[group + 1] + 1])
                is_target = np.ones(offsets[-1] - offsets[0], bool)
                is_target[offsets[:-1] - offsets[0]] = False  # a sequence's first item has no history
                parts.append(offsets[0] + np.flatnonzero(is_target))
            targets = np.concatenate(parts)
            rng = np.random.default_rng((self.seed, self.epoch, block))
            self._block = block, rng.permutation(targets)
        return self._block[1]
