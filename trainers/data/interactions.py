"""User-item interactions: reading, k-core filtering, splits and the co-occurrence graph.

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
from scipy import sparse

from trainers.data.interaction_files import (
    MAX_NAMED,
    PARTS,
    InteractionError,
    named,
    read_sequences,
    read_split_name,
    reject_blank,
    require_columns,
)

MIN_INTERACTIONS = 3  # one item each for training, validation and test


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
            path: folder with exactly one of `sequences.{jsonl,jsonl.gz,parquet}` (rows `user_id`, `items` in
                chronological order) or `interactions.{csv,jsonl,parquet}` (rows `user_id`, `item_id`, `timestamp`;
                csv and jsonl may be gzipped). Single events are sorted by time for every user; equal timestamps keep
                the order of the file. Their column `split` (`"train"`, `"validation"`, `"test"`), if there is one, is
                the split, named by `choices.split` in `prepared.json`. Ratings are kept: a column `rating` of events,
                lists `ratings` beside `items`. Other columns are ignored; numeric ids become strings.
            item_ids: the catalogue's item ids.

        Raises:
            InteractionError: no file or several, unreadable file, missing column, null or empty id, duplicate user id,
                an item that the catalogue lacks, or a given split without a training part. Empty and short sequences
                are no error: see `num_short`.
        """
        frame, source = read_sequences(Path(path))
        interactions = cls._from_frame(frame, item_ids, source)
        if "ratings" in frame.columns:
            ratings = frame.filter(pl.col("items").list.len() > 0)["ratings"].explode()
            interactions = replace(interactions, ratings=ratings.to_numpy().astype(np.float32))
        if "parts" in frame.columns:
            parts = frame["parts"].explode().to_numpy()
            if not (parts == PARTS.index("train")).any():
                raise InteractionError(f"{source}: no interaction has the split 'train'.")
            interactions = replace(interactions, parts=parts, split=read_split_name(Path(path)))
        return interactions

    @classmethod
    def from_sequences(
        cls, sequences: Iterable[Sequence[str]], item_ids: Sequence[str], user_ids: Sequence[str] | None = None
    ) -> Interactions:
        """Builds interactions from lists of item ids (oldest first); users are numbered when `user_ids` is not given.

        Raises:
            InteractionError: as [`~Interactions.from_folder`].
        """
        sequences = [[None if item is None else str(item) for item in sequence] for sequence in sequences]
        user_ids = range(len(sequences)) if user_ids is None else user_ids
        if len(user_ids) != len(sequences):
            raise InteractionError(
                f"{len(user_ids)} user ids for {len(sequences)} sequences: give one id per sequence."
            )
        users = [None if user is None else str(user) for user in user_ids]
        schema = {"user_id": pl.String, "items": pl.List(pl.String)}
        return cls._from_frame(
            pl.DataFrame({"user_id": users, "items": sequences}, schema=schema), item_ids, "sequences"
        )

    @classmethod
    def _from_frame(cls, frame: pl.DataFrame, item_ids: Sequence[str], source: str) -> Interactions:
        """Checks a frame of (`user_id`, `items`) and maps item ids to rows; `source` is named in errors."""
        require_columns(frame, ("user_id", "items"), source)
        kinds = frame.schema
        simple = not kinds["user_id"].is_nested() and isinstance(kinds["items"], pl.List)
        if not simple or kinds["items"].inner.is_nested():
            raise InteractionError(
                f"{source}: expected an id and a list of item ids per row, got user_id of type {kinds['user_id']} and "
                f"items of type {kinds['items']}."
            )
        frame = frame.select(pl.col("user_id").cast(pl.String), pl.col("items").cast(pl.List(pl.String)))
        if frame.is_empty():
            raise InteractionError(f"{source} holds no interactions.")
        reject_blank(frame, "user_id", source)
        if frame["items"].null_count():
            users = frame.filter(pl.col("items").is_null())["user_id"].to_list()
            raise InteractionError(
                f"{source}: no items for {named(users, 'user')}; write an empty list or drop the row."
            )
        if frame["user_id"].n_unique() != frame.height:
            users = frame.filter(pl.col("user_id").is_duplicated())["user_id"].unique(maintain_order=True).to_list()
            raise InteractionError(
                f"{source}: more than one row for {named(users, 'user')}; merge them into one sequence."
            )

        catalogue = pl.DataFrame({"item": pl.Series(item_ids, dtype=pl.String), "row": np.arange(len(item_ids))})
        if catalogue["item"].n_unique() != len(item_ids):
            twice = catalogue.filter(pl.col("item").is_duplicated())["item"].unique(maintain_order=True).to_list()
            raise InteractionError(
                f"The catalogue has {named(twice, 'item')} more than once; read every domain with its own catalogue "
                "and join them with Interactions.concatenate."
            )
        lengths = frame["items"].list.len().to_numpy().astype(np.int64)
        flat = frame.filter(pl.col("items").list.len() > 0).explode("items").rename({"items": "item"})
        rows = flat.join(catalogue, on="item", how="left", maintain_order="left")
        if rows["row"].null_count():
            unknown = rows.filter(pl.col("row").is_null()).select("user_id", "item")
            pairs = [f"user {user!r}: item {item!r}" for user, item in unknown.head(MAX_NAMED).rows()]
            more = f" and {unknown.height - len(pairs)} more" if unknown.height > len(pairs) else ""
            raise InteractionError(
                f"{source}: {unknown.height} interactions with items that the catalogue lacks: "
                f"{'; '.join(pairs)}{more}. Add these items to the catalogue or remove the interactions."
            )
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        return cls(list(item_ids), frame["user_id"].to_list(), rows["row"].to_numpy().astype(np.int32), offsets)

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
        owners = np.repeat(np.arange(self.num_users), self.lengths)
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

    def select_users(self, users: np.ndarray) -> Interactions:
        """The users at rows `users` (ascending), with all their interactions."""
        kept = np.zeros(self.num_users, bool)
        kept[users] = True
        return self._keep(kept, np.ones(len(self.items), bool))

    def at_least(self, length: int = MIN_INTERACTIONS) -> Interactions:
        """Users with at least `length` interactions."""
        return self.select_users(np.flatnonzero(self.lengths >= length))

    def k_core(self, k: int = 5) -> Interactions:
        """Largest part in which every user and every remaining item has at least `k` interactions (a fixed point).

        The catalogue, and with it every item row, stays as it is: filtered items just have no interactions left.
        Repeated interactions of one user with one item all count.
        """
        owners = np.repeat(np.arange(self.num_users), self.lengths)
        kept = np.ones(len(self.items), bool)
        while True:
            frequent_user = np.bincount(owners[kept], minlength=self.num_users) >= k
            frequent_item = np.bincount(self.items[kept], minlength=self.num_items) >= k
            smaller = kept & frequent_user[owners] & frequent_item[self.items]
            if smaller.sum() == kept.sum():
                return self._keep(frequent_user, kept)
            kept = smaller

    def training_part(self) -> Interactions:
        """What may be learnt from; users with nothing in it are left out.

        Leave-one-out: all but the last two interactions of every user with at least three. A given split: the
        interactions of its part `"train"`. The result has no split any more. Of users that training was cut off from,
        see [`~Interactions.sample_training_users`], there is nothing.
        """
        users, positions = self._training()
        if self.in_training is not None:
            users = users & self.in_training
        return replace(self._keep(users, positions), parts=None, split="leave-one-out", in_training=None)

    def _training(self) -> tuple[np.ndarray, np.ndarray]:
        """Users [U] with a training part, and its positions [total], as masks."""
        if self.parts is None:
            positions = np.arange(len(self.items)) < np.repeat(self.offsets[1:] - 2, self.lengths)
            return self.lengths >= MIN_INTERACTIONS, positions
        positions = self.parts == PARTS.index("train")
        owners = np.repeat(np.arange(self.num_users), self.lengths)
        return np.bincount(owners[positions], minlength=self.num_users) > 0, positions

    def sample_training_users(self, share: float, seed: int = 0) -> Interactions:
        """The same interactions, of which only a share of the users may be learnt from: few-shot training.

        Validation and test cases, with their histories, stay those of all users. Of one seed, the users of a smaller
        share are among those of a larger one.

        Args:
            share: of the users with a training part, in [0, 1]; their number is rounded up, 0 leaves none.
            seed: of the draw.

        Raises:
            InteractionError: a share outside of [0, 1].
        """
        if not 0 <= share <= 1:
            raise InteractionError(f"The share of the training users must be between 0 and 1, got {share}.")
        users = np.random.default_rng(seed).permutation(np.flatnonzero(self._training()[0]))
        in_training = np.zeros(self.num_users, bool)
        in_training[users[: ceil(share * len(users))]] = True
        return replace(self, in_training=in_training)

    def cases(self, part: Literal["validation", "test"] = "test") -> Cases:
        """Evaluation cases, user after user; histories are not cut.

        Leave-one-out: one for every user with at least three interactions. A given split: one for every interaction of
        the part that has a history (a user's very first interaction cannot be predicted from anything).

        Args:
            part: `"test"` (leave-one-out: the last item) or `"validation"` (the second last item).
        """
        if part not in PARTS[1:]:
            raise ValueError(f"part must be 'validation' or 'test', got {part!r}.")
        if self.parts is None:
            users = np.flatnonzero(self.lengths >= MIN_INTERACTIONS)
            ends = self.offsets[users + 1] - (1 if part == "test" else 2)
        else:
            owners = np.repeat(np.arange(self.num_users), self.lengths)
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


class CoOccurrenceGraph:
    """Direct neighbours (previous and next item) of every item in the users' sequences (UTGRec, "Co-occurrence").

    Undirected, every distinct neighbour counted once, no item its own neighbour. Rows passed to the methods must lie
    in `[0, num_items)`.

    Args:
        adjacency (`scipy.sparse.csr_array`): [num_items, num_items], symmetric, empty diagonal.
    """

    def __init__(self, adjacency: sparse.csr_array):
        adjacency.sort_indices()
        self.adjacency = adjacency
        self.num_items = adjacency.shape[0]
        self.indptr = adjacency.indptr.astype(np.int64)
        self.indices = adjacency.indices.astype(np.int64)
        self.degree = np.diff(self.indptr)
        # (row, neighbour) as one sorted integer, so that a search answers "are these neighbours?"
        self._edges = np.repeat(np.arange(self.num_items), self.degree) * self.num_items + self.indices

    @classmethod
    def from_interactions(cls, training: Interactions) -> CoOccurrenceGraph:
        """Builds the graph. Pass [`~Interactions.training_part`]: held-out items must not leak into the neighbours."""
        items = training.items.astype(np.int64)
        owners = np.repeat(np.arange(training.num_users), training.lengths)
        left, right = items[:-1], items[1:]
        edge = (owners[:-1] == owners[1:]) & (left != right)
        left, right = left[edge], right[edge]
        n = training.num_items
        edges = np.unique(np.concatenate([left * n + right, right * n + left]))
        indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(edges // max(n, 1), minlength=n))])
        return cls(sparse.csr_array((np.ones(len(edges), bool), edges % max(n, 1), indptr), shape=(n, n)))

    @staticmethod
    def concatenate(graphs: Sequence[CoOccurrenceGraph]) -> CoOccurrenceGraph:
        """Joins the graphs of several domains; rows are offset as in [`Interactions.concatenate`]."""
        return CoOccurrenceGraph(sparse.csr_array(sparse.block_diag([g.adjacency for g in graphs], format="csr")))

    def sample(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One neighbour of each of `rows`, uniform among its distinct ones; an item without any: the item itself."""
        rows = np.asarray(rows, dtype=np.int64)
        degree = self.degree[rows]
        edge = self.indptr[rows] + rng.integers(0, np.maximum(degree, 1))
        # rows without neighbours may point past the last edge; the clipped value is not used
        neighbours = self.indices[np.minimum(edge, len(self.indices) - 1)] if len(self.indices) else rows
        return np.where(degree > 0, neighbours, rows)

    def are_neighbours(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Whether `a` and `b` are direct neighbours; arguments broadcast, the result has their common shape."""
        a, b = np.asarray(a, dtype=np.int64), np.asarray(b, dtype=np.int64)
        edges = a * self.num_items + b
        if not len(self._edges):
            return np.zeros(edges.shape, bool)
        place = np.minimum(np.searchsorted(self._edges, edges), len(self._edges) - 1)
        return self._edges[place] == edges

    def excluded_negatives(
        self, anchor_rows: np.ndarray, candidate_rows: np.ndarray, positive_rows: np.ndarray
    ) -> np.ndarray:
        """Candidates that must not serve as negatives of an anchor in the alignment loss (UTGRec, Eq. 11).

        Args:
            anchor_rows: int [B] item rows of the anchors.
            candidate_rows: int [M] item rows of all candidates of the (global) batch.
            positive_rows: int [B] each anchor's own sampled positive.

        Returns:
            `np.ndarray`: bool [B, M], true where the candidate is the anchor itself, the anchor's own positive or a
            direct neighbour of the anchor. The column that holds the anchor's positive is true as well: the caller
            clears that one entry.
        """
        anchors, positives = np.asarray(anchor_rows)[:, None], np.asarray(positive_rows)[:, None]
        candidates = np.asarray(candidate_rows)[None, :]
        return (candidates == anchors) | (candidates == positives) | self.are_neighbours(anchors, candidates)
