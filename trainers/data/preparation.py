"""Preparation of a raw log for training and judging: duplicates, ties in time, k-core, split.

The steps, in this order; each counts what it takes away:

1. interactions rated below `min_rating`, or not rated, if one is given;
2. interactions with items that are unknown or have neither text nor image;
3. order: users by first appearance; a user's interactions by time, ties as in the source (a stable sort);
4. duplicates: the same user, item and time; then, by default, a user's later interactions with the same item (as the
   published benchmarks of Amazon Reviews do);
5. k-core: users and items with fewer than k interactions lose them, to a fixed point; such items stay as candidates,
   or go, as the published benchmarks have it;
6. split.

Ids are strings in the source and are turned into integers while they stream by, so that what is held at once is 32
bytes for each interaction.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import polars as pl

from trainers.data.k_core import k_core, renumbered
from trainers.data.readers.base import ITEM_SCHEMA, MAX_EXAMPLES, RawData, ReadError, ReadingReport
from trainers.data.readers.item_writer import TEXT as TEXT_FIELDS
from trainers.data.splits import (
    PARTS,
    Ratios,
    Split,
    SplitError,
    parts_of_times,
    ratio_parts,
    temporal_parts,
    training_positions,
)

# Why interactions are left out, in the order of the steps; `rated below` and `not in the core` name their numbers.
UNRATED, UNKNOWN, EMPTY = (
    "no rating, and min_rating asks for one",
    "its item is not among the items",
    "its item has neither text nor image",
)
SAME_TIME, SAME_ITEM = "the same user, item and time again", "the same user and item again"


@dataclass(frozen=True)
class PreparationChoices:
    """
    What there is to choose; all of it goes into `prepared.json`.

    Args:
        k_core (`int`, *optional*, defaults to 5): users and items with so many interactions keep them; 0: all.
        items_without_interactions (`str`, *optional*): `keep` them as candidates, or `drop` them as benchmarks do;
            default: keep with tabular or k_core 0.
        repeats (`str`, *optional*, defaults to `"first"`): of a user's interactions with one item, keep the first or
            all. The same user, item and time is one interaction in any case.
        min_rating (`float`, *optional*): lower ratings are no interactions. Without it, all are.
        text_fields (`tuple[str, ...]`, *optional*): the items' text (the paper's: title features categories); other
            fields are not written.
        split (`str`, *optional*, defaults to `"leave-one-out"`): by each user's last two items, by two points in time,
            or by a share of each user's sequence; see `trainers/data/splits.py`.
        ratios (`tuple[float, float, float]`, *optional*, defaults to `(0.8, 0.1, 0.1)`): training, validation and test
            of a temporal or ratio split.
    """

    k_core: int = 5
    items_without_interactions: Literal["keep", "drop"] | None = None
    repeats: Literal["first", "all"] = "first"
    min_rating: float | None = None
    text_fields: tuple[str, ...] = TEXT_FIELDS
    split: Split = "leave-one-out"
    ratios: Ratios = (0.8, 0.1, 0.1)

    def __post_init__(self):
        if self.k_core < 0:
            raise ValueError(f"k_core is 0 or more, got {self.k_core}.")
        if self.items_without_interactions not in (None, "keep", "drop"):
            raise ValueError(
                f"items_without_interactions is 'keep' or 'drop', got {self.items_without_interactions!r}."
            )
        if self.repeats not in ("first", "all"):
            raise ValueError(f"repeats is 'first' or 'all', got {self.repeats!r}.")
        if self.split not in ("leave-one-out", "temporal", "ratio"):
            raise ValueError(f"split is 'leave-one-out', 'temporal' or 'ratio', got {self.split!r}.")
        if len(self.ratios) != 3 or min(self.ratios) <= 0 or abs(sum(self.ratios) - 1) > 1e-6:
            raise ValueError(f"ratios are three positive numbers that sum to 1, got {self.ratios}.")
        if unknown := [name for name in self.text_fields if name not in TEXT_FIELDS]:
            raise ValueError(f"text_fields are some of {', '.join(TEXT_FIELDS)}, got {unknown}.")

    @property
    def rated_below(self) -> str:
        """Why an interaction is left out that is rated too low."""
        return f"rated below {self.min_rating}"

    @property
    def not_in_core(self) -> str:
        """Why an interaction is left out by the k-core."""
        return f"not in the {self.k_core}-core"

    @property
    def keeps_items(self) -> bool:
        """Whether items without interactions stay."""
        return self.items_without_interactions == "keep" or not (self.items_without_interactions or self.k_core)


@dataclass
class PreparedLog:
    """
    Args:
        log (`pl.DataFrame`): `user` and `item` (uint32 rows in the ids), `timestamp` (int64), `rating` (float32) if
            the source has any and, unless the split is leave-one-out, `split`; user after user, oldest first.
        user_ids, item_ids (`pl.Series`): strings, each in the order of the source.
        counts (`dict`): of the steps, for display.
        left_out_users (`pl.Series`): strings, users without an interaction that is left.
    """

    log: pl.DataFrame
    user_ids: pl.Series
    item_ids: pl.Series
    counts: dict = field(default_factory=dict)
    left_out_users: pl.Series = field(default_factory=lambda: pl.Series([], dtype=pl.String))

    def training_part(self) -> tuple[np.ndarray, np.ndarray]:
        """Users and items, as rows, of the interactions that may be learnt from."""
        users, items = self.log["user"].to_numpy(), self.log["item"].to_numpy()
        parts = None
        if "split" in self.log.columns:
            parts = self.log["split"].cast(pl.Enum(PARTS)).to_physical().to_numpy()
        positions = training_positions(np.bincount(users), parts)
        return users[positions], items[positions]


def prepare_log(
    raw: RawData, choices: PreparationChoices, report: ReadingReport, usable: pl.DataFrame | None = None
) -> PreparedLog:
    """
    Args:
        raw (`RawData`): as a reader gives it.
        choices (`PreparationChoices`): see [`PreparationChoices`].
        report (`ReadingReport`): counts every interaction that is dropped.
        usable (`pl.DataFrame`, *optional*): `item_id` and `usable` (bool: has text or an image) of the items; `None`
            for a log without items.

    Raises:
        ReadError: if no interaction is left, or the split is one in time and there are no times.
    """
    check_split(choices, raw.has_time)
    log, user_ids, item_ids = _encode(raw.log, usable)
    log = _filter(log, choices, report, usable, raw)
    log, counts = ordered(log, choices, report, len(item_ids))
    if choices.k_core:
        kept, rounds = k_core(log["user"].to_numpy(), log["item"].to_numpy(), choices.k_core)
        report.drop("interactions", choices.not_in_core, log.height - len(kept))
        log, counts["k_core_rounds"] = log[kept], rounds
    if log.is_empty():
        raise ReadError(f"No interaction is left.\n{report}")
    left_out = user_ids.filter(~np.isin(np.arange(len(user_ids)), log["user"].to_numpy()))
    log, user_ids = _compact(log, "user", user_ids)
    also = usable["usable"].to_numpy() if choices.keeps_items and usable is not None else None
    log, item_ids = _compact(log, "item", item_ids, also)
    if choices.split != "leave-one-out":
        log = log.with_columns(split_column(log, choices))
        counts["split"] = dict(log["split"].value_counts().sort("split").iter_rows())
    return PreparedLog(log, user_ids, item_ids, counts, left_out)


def check_split(choices: PreparationChoices, has_time: bool) -> None:
    """Raises `ReadError` if a split in time is asked of a source that has none."""
    if choices.split == "temporal" and not has_time:
        raise ReadError("A temporal split needs times; this source has none: choose leave-one-out or ratio.")


def has_text(text_fields: tuple[str, ...]) -> pl.Expr:
    """Whether an item (a row of `ITEM_SCHEMA`) has any of some texts."""
    return pl.any_horizontal(
        pl.col(name).list.len() > 0 if ITEM_SCHEMA[name] == pl.List(pl.String) else pl.col(name) != ""
        for name in text_fields
    ).fill_null(False)


def _encode(log: pl.LazyFrame, usable: pl.DataFrame | None) -> tuple[pl.DataFrame, pl.Series, pl.Series]:
    """Ids as rows (null for an item that is not among the items), by streaming over the log."""

    def appearing(name: str) -> pl.Series:
        return log.select(pl.col(name).unique(maintain_order=True)).collect(engine="streaming")[name]

    user_ids = appearing("user_id")
    item_ids = appearing("item_id") if usable is None else usable["item_id"]
    codes = log.select(
        pl.col("user_id").cast(pl.Enum(user_ids)).to_physical().cast(pl.UInt32).alias("user"),
        pl.col("item_id").cast(pl.Enum(item_ids), strict=False).to_physical().cast(pl.UInt32).alias("item"),
        "timestamp",
        pl.col("rating").cast(pl.Float32),
    )
    return codes.collect(engine="streaming"), user_ids, item_ids


def _filter(
    log: pl.DataFrame, choices: PreparationChoices, report: ReadingReport, usable: pl.DataFrame | None, raw: RawData
) -> pl.DataFrame:
    """Without interactions that are rated too low, or whose item is unknown or cannot be tokenized."""
    log = rated(log, choices, report)
    if log["rating"].null_count() == log.height:
        log = log.drop("rating")
    if usable is None:
        return log
    unknown = log["item"].is_null()
    if unknown.any():
        examples = raw.log.filter(~pl.col("item_id").is_in(usable["item_id"].implode())).head(MAX_EXAMPLES).collect()
        named = unknown_items(examples)
        report.drop("interactions", UNKNOWN, unknown.sum(), named)
        log = log.filter(~unknown)
    empty = ~usable["usable"].gather(log["item"])
    if empty.any():
        items = log["item"].filter(empty).unique(maintain_order=True).head(MAX_EXAMPLES)
        named = [f"item {item!r}" for item in usable["item_id"].gather(items)]
        report.drop("interactions", EMPTY, empty.sum(), named)
        log = log.filter(~empty)
    return log


def rated(log: pl.DataFrame, choices: PreparationChoices, report: ReadingReport) -> pl.DataFrame:
    """A log (with `rating`, float32) without the interactions that are rated too low, which are counted."""
    if choices.min_rating is None:
        return log
    unrated = log["rating"].is_null()
    low = (log["rating"] < choices.min_rating).fill_null(False)
    report.drop("interactions", UNRATED, unrated.sum())
    report.drop("interactions", choices.rated_below, low.sum())
    return log.filter(~(unrated | low))


def unknown_items(rows: pl.DataFrame) -> list[str]:
    """Names interactions (`user_id`, `item_id`) whose item is not known."""
    return [f"user {user!r}, item {item!r}" for user, item in rows.select("user_id", "item_id").iter_rows()]


def ordered(
    log: pl.DataFrame, choices: PreparationChoices, report: ReadingReport, num_items: int
) -> tuple[pl.DataFrame, dict]:
    """
    Users' interactions by time, without those that are there again.

    Args:
        log (`pl.DataFrame`): `user` and `item` (rows), `timestamp` and others, in the order of the source.
        choices ([`PreparationChoices`]): what is there again.
        report (`ReadingReport`): counts it.
        num_items (`int`): rows of items.

    Returns:
        The log, user after user, oldest first, and counts: `out_of_order`, of interactions that came before an older
        one of their user in the source, and `ties_in_time`.
    """
    log = log.with_row_index("place")
    # two stable sorts: a third of the time of one by both columns
    log = log.sort("timestamp", maintain_order=True).sort("user", maintain_order=True)
    same_user = pl.col("user") == pl.col("user").shift()
    counts = {"out_of_order": log.select((same_user & (pl.col("place") < pl.col("place").shift())).sum()).item()}
    log = _without_duplicates(log.drop("place"), choices, report, num_items)
    counts["ties_in_time"] = log.select(
        (same_user & (pl.col("timestamp") == pl.col("timestamp").shift())).sum()
    ).item()
    return log, counts


def _without_duplicates(
    log: pl.DataFrame, choices: PreparationChoices, report: ReadingReport, num_items: int
) -> pl.DataFrame:
    pair = log["user"].cast(pl.Int64) * num_items + log["item"].cast(pl.Int64)
    repeated = pair.is_duplicated()
    suspects = pl.DataFrame({"pair": pair.filter(repeated), "timestamp": log["timestamp"].filter(repeated)})
    same_time = ~suspects.select(pl.struct("pair", "timestamp").is_first_distinct()).to_series()
    again = ~suspects["pair"].is_first_distinct()
    report.drop("interactions", SAME_TIME, same_time.sum())
    dropped = same_time
    if choices.repeats == "first":
        report.drop("interactions", SAME_ITEM, (again & ~same_time).sum())
        dropped = again
    kept = np.ones(log.height, bool)
    kept[repeated.arg_true().to_numpy()] = ~dropped.to_numpy()
    return log.filter(kept)


def _compact(
    log: pl.DataFrame, column: str, ids: pl.Series, also: np.ndarray | None = None
) -> tuple[pl.DataFrame, pl.Series]:
    """Renumbers a column so that only ids that occur, and those of the mask `also`, are left, in their order."""
    used = np.zeros(len(ids), bool) if also is None else also.copy()
    rows = log[column].to_numpy()
    used[rows] = True
    return log.with_columns(pl.Series(column, renumbered(rows, used))), ids.filter(used)


def split_column(log: pl.DataFrame, choices: PreparationChoices, starts: tuple[int, int] | None = None) -> pl.Series:
    """
    The column `split`: the name of each interaction's part.

    Args:
        log (`pl.DataFrame`): `user` (rows) and `timestamp`, user after user, oldest first.
        choices ([`PreparationChoices`]): the split, `temporal` or `ratio`.
        starts (`tuple[int, int]`, *optional*): of validation and test of a temporal split; by default those of this
            log.

    Raises:
        ReadError: a part of a temporal split would be empty.
    """
    if choices.split == "ratio":
        parts = ratio_parts(np.bincount(log["user"].to_numpy()), choices.ratios)
    elif starts is not None:
        parts = parts_of_times(log["timestamp"].to_numpy(), starts)
    else:
        try:
            parts = temporal_parts(log["timestamp"].to_numpy(), choices.ratios)
        except SplitError as error:
            raise ReadError(str(error)) from error
    return pl.Series("split", np.array(PARTS)[parts], dtype=pl.String)
