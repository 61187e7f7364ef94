"""Interactions of users with the items of one catalogue: training part, cases of validation and test.

Leave-one-out (UTGRec, section 3 "Evaluation"): the last item of a user is the test target, the second last the
validation target, everything before is training. The history of a test case is everything before the last item, so the
validation item is part of it. Users with fewer than three interactions cannot be split: they stay out of training,
validation and test alike and are counted in [`Interactions.num_short`].

A split may also be given with the data (temporal, by ratio, ...): then every interaction of a part is a target of its
own, whose history is everything of the user before it in time, and training is what the split says.

Either way, training may be cut to some of the users ([`Interactions.sample_training_users`]): validation and test stay
those of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from hub_cards import MAX_NAMED
from hub_cards.item_ids import IdError, id_text
from trainers.data.interaction_files import (
    InteractionError,
    UserSequences,
    flat_sequences,
    named_as,
    read_interactions,
    read_split_name,
)
from trainers.data.k_core import k_core
from trainers.data.splits import MIN_INTERACTIONS, PARTS, TRAIN, training_positions


@dataclass
class Cases:
    """Evaluation cases: a history and the item that follows it. Under leave-one-out a user has one case, under a given
    split one for each target of the part.

    Args:
        items (`np.ndarray`): int32 [total] item rows, shared with the [`Interactions`] the cases come from.
        starts (`np.ndarray`): int64 [C] position in `items` of a history's first item.
        ends (`np.ndarray`): int64 [C] position after a history's last item.
        targets (`np.ndarray`): int64 [C] item row that follows the history.
        users (`np.ndarray`): int64 [C] user row in the [`Interactions`], ascending.
    """

    items: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    targets: np.ndarray
    users: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)

    def histories(self, start: int = 0, stop: int | None = None, max_history: int | None = None) -> list[np.ndarray]:
        """Histories of cases `start` to `stop`, oldest item first, as views cut to the last `max_history` items."""
        starts, ends = self.starts[start:stop], self.ends[start:stop]
        if max_history is not None:
            starts = np.maximum(starts, ends - max_history)
        return [self.items[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]

    def spread(self, most: int) -> Cases:
        """At most so many of the cases, at equal distances."""
        if len(self) <= most:
            return self
        chosen = np.linspace(0, len(self) - 1, most).astype(np.int64)
        return replace(
            self,
            starts=self.starts[chosen],
            ends=self.ends[chosen],
            targets=self.targets[chosen],
            users=self.users[chosen],
        )


@dataclass
class Interactions:
    """Chronological item sequences of all users of one catalogue, as one flat array.

    Args:
        item_ids (`list[str]`): the catalogue's item ids; an item row is a position in this list.
        user_ids (`list[str]`): ids of the U users.
        items (`np.ndarray`): int32 [total] item rows, user after user, oldest first.
        offsets (`np.ndarray`): int64 [U + 1]; user `u` owns `items[offsets[u]:offsets[u + 1]]`.
        parts (`np.ndarray`, *optional*): int8 [total] part of each interaction, its place in `("train", "validation",
            "test")`; None: leave-one-out.
        split (`str`, *optional*, defaults to `"leave-one-out"`): name of the split, stated in results.
        ratings (`np.ndarray`, *optional*): float32 [total] rating of each interaction, NaN for none; None: the data
            has no ratings.
        in_training (`np.ndarray`, *optional*): bool [U] users whose training interactions may be learnt from; None:
            all.
    """

    item_ids: list[str]
    user_ids: list[str]
    items: np.ndarray
    offsets: np.ndarray
    parts: np.ndarray | None = None
    split: str = "leave-one-out"
    ratings: np.ndarray | None = None
    in_training: np.ndarray | None = None

    @classmethod
    def from_folder(cls, path: str | Path, item_ids: Sequence[str]) -> Interactions:
        """Reads the interactions of a data folder.

        Args:
            path (`str` or `Path`): folder with exactly one of `sequences.{jsonl,jsonl.gz,parquet}` (rows `user_id`,
                `items` in chronological order) or `interactions.{csv,jsonl,parquet}` (rows `user_id`, `item_id`,
                `timestamp`; csv and jsonl may be gzipped). Single events are sorted by time for every user; equal
                timestamps keep the order of the file. Their column `split` (`"train"`, `"validation"`, `"test"`), if
                there is one, is the split, named by `choices.split` in `prepared.json`. Ratings are kept: a column
                `rating` of events, lists `ratings` beside `items`. Other columns are ignored; numeric ids become
                strings.
            item_ids (`Sequence[str]`): the catalogue's item ids.

        Raises:
            InteractionError: no file or several, unreadable file, missing column, null or empty id, duplicate user id,
                an item that the catalogue lacks, or a given split without a training part. Empty and short sequences
                are no error: see `num_short`.
        """
        found = read_interactions(Path(path))
        interactions = cls._from_flat(found, item_ids)
        if found.ratings is not None:
            interactions = replace(interactions, ratings=found.ratings)
        if found.parts is not None:
            if not (found.parts == TRAIN).any():
                raise InteractionError(f"{found.source}: no interaction has the split 'train'.")
            interactions = replace(interactions, parts=found.parts, split=read_split_name(Path(path)))
        return interactions

    @classmethod
    def from_sequences(
        cls, sequences: Iterable[Sequence[str]], item_ids: Sequence[str], user_ids: Sequence[str] | None = None
    ) -> Interactions:
        """Builds interactions from lists of item ids (oldest first); users are numbered when `user_ids` is not given.

        Raises:
            InteractionError: as [`~Interactions.from_folder`].
        """
        try:
            rows = [[id_text(item) for item in sequence] for sequence in sequences]
            ids = [str(row) for row in range(len(rows))] if user_ids is None else [id_text(user) for user in user_ids]
        except IdError as error:
            raise InteractionError(f"sequences: {error}") from error
        if len(ids) != len(rows):
            raise InteractionError(f"{len(ids)} user ids for {len(rows)} sequences: give one id per sequence.")
        schema = pl.Schema({"user_id": pl.String(), "items": pl.List(pl.String)})
        return cls._from_flat(
            flat_sequences(pl.DataFrame({"user_id": ids, "items": rows}, schema=schema), "sequences"), item_ids
        )

    @classmethod
    def _from_flat(cls, found: UserSequences, item_ids: Sequence[str]) -> Interactions:
        """Maps item ids to rows of the catalogue."""
        catalogue = pl.Series(item_ids, dtype=pl.String)
        if catalogue.n_unique() != len(catalogue):
            twice = catalogue.filter(catalogue.is_duplicated()).unique(maintain_order=True).to_list()
            raise InteractionError(
                f"The catalogue has {named_as('item', twice)} more than once: leave one of each out; several "
                "domains are read each with its own catalogue and joined with Interactions.concatenate."
            )
        rows = found.items.cast(pl.Enum(catalogue), strict=False).to_physical()
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(found.lengths)])
        if rows.null_count():
            unknown = rows.is_null().arg_true()
            first = unknown.head(MAX_NAMED)
            users = found.user_ids.gather(np.searchsorted(offsets, first.to_numpy(), side="right") - 1)
            pairs = [f"user {u!r}: item {i!r}" for u, i in zip(users, found.items.gather(first), strict=True)]
            more = f" and {len(unknown) - len(pairs)} more" if len(unknown) > len(pairs) else ""
            raise InteractionError(
                f"{found.source}: {len(unknown)} interactions with items that the catalogue lacks: "
                f"{'; '.join(pairs)}{more}. Add these items to the catalogue or remove the interactions."
            )
        return cls(list(item_ids), found.user_ids.to_list(), rows.to_numpy().astype(np.int32), offsets)

    @staticmethod
    def concatenate(parts: Sequence[Interactions]) -> Interactions:
        """Joins several domains: catalogues one after the other (item rows are offset), then all users.

        Neither item ids nor user ids need to be unique across domains; both are kept as they are.

        Raises:
            InteractionError: no parts, or parts of different splits.
        """
        if not parts:
            raise InteractionError("Nothing to concatenate: give at least one Interactions.")
        splits = sorted({part.split for part in parts})
        if len(splits) > 1:
            raise InteractionError(f"Cannot concatenate different splits {splits}: join their training parts.")
        first_rows = np.cumsum([0] + [part.num_items for part in parts[:-1]])
        first_positions = np.cumsum([0] + [len(part.items) for part in parts[:-1]])
        starts = [part.offsets[:-1] + first for part, first in zip(parts, first_positions, strict=True)]
        return Interactions(
            item_ids=[item for part in parts for item in part.item_ids],
            user_ids=[user for part in parts for user in part.user_ids],
            items=np.concatenate([part.items + np.int32(row) for part, row in zip(parts, first_rows, strict=True)]),
            offsets=np.concatenate([*starts, [sum(len(part.items) for part in parts)]]).astype(np.int64),
            parts=None if parts[0].parts is None else np.concatenate([part.parts for part in parts]),
            split=splits[0],
            ratings=_joined(
                [part.ratings for part in parts], [np.full(len(p.items), np.nan, np.float32) for p in parts]
            ),
            in_training=_joined([part.in_training for part in parts], [np.ones(p.num_users, bool) for p in parts]),
        )

    @property
    def num_users(self) -> int:
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """Size of the catalogue, items without any interaction included."""
        return len(self.item_ids)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [U] number of interactions of each user."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> np.ndarray:
        """int64 [total] user row of each interaction."""
        return np.repeat(np.arange(self.num_users), self.lengths)

    @property
    def num_short(self) -> int:
        """Users with fewer than three interactions (empty sequences included): left out of leave-one-out."""
        return int((self.lengths < MIN_INTERACTIONS).sum())

    @property
    def popularity(self) -> np.ndarray:
        """int64 [num_items] number of interactions with each item."""
        return np.bincount(self.items, minlength=self.num_items)

    def sequence(self, user: int) -> np.ndarray:
        """Item rows of the user at row `user`, oldest first (a view)."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def _keep(self, users: np.ndarray, positions: np.ndarray) -> Interactions:
        """Keeps the users of mask `users` [U] and, of these, the interactions of mask `positions` [total]."""
        owners = self.owners
        positions = positions & users[owners]
        lengths = np.bincount(owners[positions], minlength=self.num_users)[users]
        user_ids = [self.user_ids[user] for user in np.flatnonzero(users)]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        return replace(
            self,
            user_ids=user_ids,
            items=self.items[positions],
            offsets=offsets,
            parts=None if self.parts is None else self.parts[positions],
            ratings=None if self.ratings is None else self.ratings[positions],
            in_training=None if self.in_training is None else self.in_training[users],
        )

    def for_items(self, item_ids: Sequence[str]) -> Interactions:
        """The same sequences with the rows of another list of items; interactions with others are left out."""
        row_of = {item_id: row for row, item_id in enumerate(item_ids)}
        rows = np.array([row_of.get(item_id, -1) for item_id in self.item_ids], np.int32)
        kept = self._keep(np.ones(self.num_users, bool), rows[self.items] >= 0)
        return replace(kept, item_ids=list(item_ids), items=rows[kept.items])

    def select_users(self, users: np.ndarray) -> Interactions:
        """The users at rows `users` (ascending), with all their interactions."""
        kept = np.zeros(self.num_users, bool)
        kept[users] = True
        return self._keep(kept, np.ones(len(self.items), bool))

    def k_core(self, k: int = 5) -> Interactions:
        """Largest part in which every user and every remaining item has at least `k` interactions (a fixed point).

        The catalogue, and with it every item row, stays as it is: filtered items just have no interactions left.
        Repeated interactions of one user with one item all count.
        """
        owners = self.owners
        kept = np.zeros(len(self.items), bool)
        kept[k_core(owners, self.items, k)[0]] = True
        return self._keep(np.bincount(owners[kept], minlength=self.num_users) >= k, kept)

    def training_part(self) -> Interactions:
        """What may be learnt from; users with nothing in it are left out.

        Leave-one-out: all but the last two interactions of every user with at least three. A given split: the
        interactions of its part `"train"`. The result has no split any more. Of users that training was cut off from,
        see [`~Interactions.sample_training_users`], there is nothing.
        """
        positions = self._training_positions()
        users = self._users_of(positions)
        if self.in_training is not None:
            users = users & self.in_training
        return replace(self._keep(users, positions), parts=None, split="leave-one-out", in_training=None)

    def _training_positions(self) -> np.ndarray:
        """bool [total], without regard to `in_training`."""
        return training_positions(self.lengths, self.parts)

    def _users_of(self, positions: np.ndarray) -> np.ndarray:
        """bool [U] users with any of the interactions of a mask [total]."""
        return np.bincount(self.owners[positions], minlength=self.num_users) > 0

    def earlier(self) -> Interactions:
        """
        What was known one interaction before: of every user all but the last interaction, under leave-one-out. Its
        test items are these validation items, as far behind its training part as these test items are behind this one.

        Raises:
            InteractionError: under a given split, whose parts do not follow from the order.
        """
        if self.parts is not None:
            raise InteractionError("Only under leave-one-out is there a split one interaction before.")
        positions = np.ones(len(self.items), bool)
        positions[self.offsets[1:][self.lengths > 0] - 1] = False
        return self._keep(self.lengths > 1, positions)

    def sample_training_users(self, share: float, seed: int = 0) -> Interactions:
        """The same interactions, of which only a share of the users may be learnt from: few-shot training.

        Validation and test cases, with their histories, stay those of all users. Of one seed, the users of a smaller
        share are among those of a larger one.

        Args:
            share (`float`): of the users with a training part, in [0, 1]; their number is rounded up, 0 leaves none.
            seed (`int`, *optional*, defaults to 0): of the draw.

        Raises:
            InteractionError: a share outside of [0, 1].
        """
        if not 0 <= share <= 1:
            raise InteractionError(f"The share of the training users must be between 0 and 1, got {share}.")
        users = np.random.default_rng(seed).permutation(np.flatnonzero(self._users_of(self._training_positions())))
        in_training = np.zeros(self.num_users, bool)
        in_training[users[: ceil(share * len(users))]] = True
        return replace(self, in_training=in_training)

    def cases(self, part: Literal["validation", "test"] = "test") -> Cases:
        """Evaluation cases, user after user; histories are not cut.

        Leave-one-out: one for every user with at least three interactions. A given split: one for every interaction of
        the part that has a history (a user's very first interaction cannot be predicted from anything).

        Args:
            part (`str`, *optional*, defaults to `"test"`): `"test"` (leave-one-out: the last item) or `"validation"`
                (the second last item).
        """
        if part not in PARTS[1:]:
            raise ValueError(f"part must be 'validation' or 'test', got {part!r}.")
        if self.parts is None:
            users = np.flatnonzero(self.lengths >= MIN_INTERACTIONS)
            ends = self.offsets[users + 1] - (1 if part == "test" else 2)
        else:
            owners = self.owners
            ends = np.flatnonzero((self.parts == PARTS.index(part)) & (np.arange(len(owners)) > self.offsets[owners]))
            users = owners[ends]
        return Cases(self.items, self.offsets[users], ends, self.items[ends].astype(np.int64), users)

    def num_held_out(self, part: Literal["validation", "test"]) -> int:
        """Interactions of a part: its cases and, under a given split, those without a history."""
        return len(self.cases(part)) if self.parts is None else int((self.parts == PARTS.index(part)).sum())


def _joined(columns: Sequence[np.ndarray | None], absent: Sequence[np.ndarray]) -> np.ndarray | None:
    """Columns of several domains as one, with `absent` for a domain without; None if none has any."""
    if all(column is None for column in columns):
        return None
    return np.concatenate([b if a is None else a for a, b in zip(columns, absent, strict=True)])
