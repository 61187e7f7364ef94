"""What a memory remembers of a whole log, read in parts, and some of its users, for all that needs sequences."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from modeling_utgrec.item_memory import RECENT_ITEMS, RECENT_UNIT
from trainers.data.interaction_files import InteractionError, read_split_name
from trainers.data.interaction_parts import parts_of_whole_users
from trainers.data.interactions import Interactions
from trainers.data.prepared_folder import INTERACTIONS
from trainers.data.splits import PARTS


@dataclass(frozen=True)
class LogCounts:
    """
    Counts of a training part.

    Args:
        popularity (`np.ndarray`): int64 `[n]` interactions of each item.
        recent (`np.ndarray`): int64 `[n]` latest interactions by item, see [`recent_counts`].
        num_users (`int`): users with an interaction.
    """

    popularity: np.ndarray
    recent: np.ndarray
    num_users: int

    @classmethod
    def of(cls, training: Interactions) -> LogCounts:
        """Counts of interactions that are in memory, of all users that there are."""
        return cls(training.popularity, recent_counts(training, training.lengths), training.num_users)

    def __add__(self, other: LogCounts) -> LogCounts:
        return LogCounts(
            self.popularity + other.popularity, self.recent + other.recent, self.num_users + other.num_users
        )

    @property
    def num_items(self) -> int:
        return len(self.popularity)

    @property
    def num_interactions(self) -> int:
        return int(self.popularity.sum())


def recent_counts(interactions: Interactions, lengths: np.ndarray) -> np.ndarray:
    """
    The latest interactions by item, as [`ItemMemory`] keeps them: int64 `[n]`.

    Args:
        interactions ([`Interactions`]): the sequences.
        lengths (`np.ndarray`): int `[U]`, the first interactions of each user beyond which nothing is known yet.
    """
    counts = np.zeros(interactions.num_items, np.int64)
    for place in range(1, RECENT_ITEMS + 1):
        long_enough = lengths >= place
        at = interactions.offsets[:-1][long_enough] + lengths[long_enough] - place
        counts += np.bincount(interactions.items[at], minlength=len(counts)) * (RECENT_UNIT // place)
    return counts


def sample_log(
    folder: str | os.PathLike, item_ids: Sequence[str], most_users: int, seed: int = 0, rows: int | None = None
) -> tuple[Interactions, LogCounts]:
    """
    Some users of a prepared log with all their interactions, and the counts of the training part of all; what is held
    of the others is a part at a time.

    Args:
        folder (`str` or `os.PathLike`): as `utgrec prepare` makes it.
        item_ids (`Sequence[str]`): the catalogue.
        most_users (`int`): users to draw, or all if they are fewer.
        seed (`int`, *optional*, defaults to 0): of the draw. Of one seed, the users of a smaller sample are among
            those of a larger one.
        rows (`int`, *optional*, defaults to `READ_ROWS`): interactions that are read at once.

    Raises:
        InteractionError: the folder has no prepared log, it cannot be read, or its items are not of the catalogue.
    """
    file, names = Path(folder) / INTERACTIONS, pl.Enum(item_ids)
    try:
        every = parts_of_whole_users(file, ["user_id"], rows)
        num_users = sum(int(part["user_id"].rle_id()[-1]) + 1 for part in every)
        drawn = np.zeros(num_users, bool)
        drawn[np.random.default_rng(seed).permutation(num_users)[:most_users]] = True
        kept: list[Interactions] = []
        counts, first = None, 0
        for part in parts_of_whole_users(file, ["user_id", "item_id", "split", "rating"], rows):
            users = _interactions_of(part, list(item_ids), names, Path(folder))
            found = LogCounts.of(users.training_part())
            counts = found if counts is None else counts + found
            kept.append(users.select_users(np.flatnonzero(drawn[first : first + users.num_users])))
            first += users.num_users
    except (pa.ArrowException, OSError) as error:
        raise InteractionError(f"{file} cannot be read in parts: {error} Make it with `utgrec prepare`.") from error
    if counts is None:
        raise InteractionError(f"{file} has no interactions.")
    return _one_after_the_other(kept), counts


def _interactions_of(part: pl.DataFrame, item_ids: list[str], names: pl.Enum, folder: Path) -> Interactions:
    rows = part["item_id"].cast(names, strict=False).to_physical()
    if rows.null_count():
        unknown = part["item_id"].filter(rows.is_null())[0]
        raise InteractionError(f"{folder / INTERACTIONS}: the catalogue lacks {unknown!r}: prepare the data anew.")
    lengths = np.bincount(part["user_id"].rle_id().to_numpy()).astype(np.int64)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    interactions = Interactions(
        item_ids, part["user_id"].gather(offsets[:-1]).to_list(), rows.to_numpy().astype(np.int32), offsets
    )
    if "rating" in part.columns:
        interactions.ratings = part["rating"].fill_null(float("nan")).to_numpy().astype(np.float32)
    if "split" in part.columns:
        interactions.parts = part["split"].cast(pl.Enum(PARTS)).to_physical().to_numpy().astype(np.int8)
        interactions.split = read_split_name(folder)
    return interactions


def _one_after_the_other(parts: Sequence[Interactions]) -> Interactions:
    """Users of one catalogue."""
    lengths = np.concatenate([part.lengths for part in parts])

    def joined(name: str) -> np.ndarray | None:
        columns = [getattr(part, name) for part in parts]
        return None if columns[0] is None else np.concatenate(columns)

    return replace(
        parts[0],
        user_ids=[user for part in parts for user in part.user_ids],
        items=np.concatenate([part.items for part in parts]),
        offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
        parts=joined("parts"),
        ratings=joined("ratings"),
    )
